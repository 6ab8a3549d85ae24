//! How a number is distributed: quantiles, and a histogram that a terminal can show.

use std::fmt;

use serde::Serialize;

/// Characters of the longest bar.
const BAR: u64 = 40;

/// Of some values; of none all is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Distribution {
    pub count: usize,
    pub median: u64,
    pub p90: u64,
    pub p99: u64,
    pub most: u64,
    /// Ascending; the last holds the greatest value.
    pub bins: Vec<Bin>,
}

/// Values above the bin before, up to `up_to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bin {
    pub up_to: u64,
    pub count: u64,
}

impl Distribution {
    /// Quantiles by nearest rank: the least value that so many percent of all do not exceed.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = u64>) -> Self {
        let mut values: Vec<u64> = values.into_iter().collect();
        values.sort_unstable();
        let Some(most) = values.last().copied() else { return Self::default() };
        let rank = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1];
        let (median, p90, p99) = (rank(50), rank(90), rank(99));
        Self { count: values.len(), median, p90, p99, most, bins: bins(&values) }
    }

    /// Lines for a person: `what` with its unit, the quantiles, then a bar for each bin.
    #[must_use]
    pub fn told<'a>(&'a self, what: &'a str) -> impl fmt::Display + 'a {
        Told { what, distribution: self }
    }
}

/// Bins end at 1, 2, 5, 10, 20, 50, ...: as wide as their values are large.
fn bins(ascending: &[u64]) -> Vec<Bin> {
    let mut bins: Vec<Bin> = Vec::new();
    let mut ends = (0..19).flat_map(|power| [1, 2, 5].map(|digit: u64| digit * 10_u64.pow(power))).peekable();
    for value in ascending {
        while ends.next_if(|end| end < value).is_some_and(|end| {
            // Before the first value there is nothing to show; a gap between two is part of the picture.
            if bins.last().is_some_and(|last| last.up_to < end) {
                bins.push(Bin { up_to: end, count: 0 });
            }
            true
        }) {}
        let up_to = ends.peek().copied().unwrap_or(u64::MAX);
        match bins.last_mut().filter(|last| last.up_to == up_to) {
            Some(last) => last.count += 1,
            None => bins.push(Bin { up_to, count: 1 }),
        }
    }
    bins
}

struct Told<'a> {
    what: &'a str,
    distribution: &'a Distribution,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Distribution { count, median, p90, p99, most, bins } = self.distribution;
        let what = self.what;
        writeln!(f, "{what}: {count} values, median {median}, p90 {p90}, p99 {p99}, most {most}")?;
        let highest = bins.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
        for Bin { up_to, count } in bins {
            let bar = "#".repeat(usize::try_from((count * BAR).div_ceil(highest)).unwrap_or(0));
            writeln!(f, "{}", format!("  up to {up_to:>9}{count:>10}  {bar}").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_there() {
        let hundred = Distribution::of((1..=100).rev());
        assert_eq!((hundred.median, hundred.p90, hundred.p99, hundred.most), (50, 90, 99, 100));
        let one = Distribution::of([7]);
        assert_eq!((one.count, one.median, one.p90, one.p99, one.most), (1, 7, 7, 7, 7));
        assert_eq!(Distribution::of([]), Distribution::default());
    }

    #[test]
    fn bins_hold_every_value_once_and_show_the_gaps_between() {
        let distribution = Distribution::of([0, 3, 5, 6, 150, u64::MAX]);
        let bins = |up_to, count| Bin { up_to, count };
        assert_eq!(distribution.bins[..2], [bins(1, 1), bins(2, 0)]);
        assert_eq!(distribution.bins[2..4], [bins(5, 2), bins(10, 1)]);
        assert_eq!(distribution.bins[7], bins(200, 1));
        assert_eq!(distribution.bins.iter().map(|bin| bin.count).sum::<u64>(), 6);
        assert_eq!(distribution.bins.last(), Some(&bins(u64::MAX, 1)));
    }

    #[test]
    fn a_distribution_is_drawn_with_bars() {
        let told = Distribution::of([30, 40, 90]).told("view changes, ms").to_string();
        let expected = "view changes, ms: 3 values, median 40, p90 90, p99 90, most 90\n  \
                        up to        50         2  ########################################\n  \
                        up to       100         1  ####################\n";
        assert_eq!(told, expected);
    }
}
