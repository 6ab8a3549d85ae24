//! Which fault struck at which point of the protocol: what a swarm must have tried before it may say anything.

use std::collections::BTreeMap;
use std::fmt;

use io_sim::aim::{Pair, Point, Side, Strike, pairs};
use serde::{Serialize, Serializer};
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::wire::frame::Command;

/// How often each pair of point and strike happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boundaries {
    struck: BTreeMap<Pair, u64>,
}

/// From so many seeds on, a pair that never happened fails the swarm.
pub const JUDGED_FROM: usize = 1_000;

/// Points that few worlds pass: their pairs are judged from [`SELDOM_JUDGED_FROM`] seeds on.
pub const SELDOM_PASSED: &[Point] = &[
    Point::Send(Command::RequestBlocks),
    Point::Receive(Command::RequestBlocks),
    Point::Send(Command::Block),
    Point::Receive(Command::Block),
    Point::Become(Status::RecoveringHead),
];
pub const SELDOM_JUDGED_FROM: usize = 10_000;

impl Boundaries {
    #[must_use]
    pub fn new(struck: BTreeMap<Pair, u64>) -> Self {
        Self { struck }
    }

    pub fn merge(&mut self, other: &Self) {
        for (pair, count) in &other.struck {
            *self.struck.entry(*pair).or_default() += count;
        }
    }

    /// The pairs that never happened in so many seeds, each in a few words.
    #[must_use]
    pub fn missing(&self, seeds: usize) -> Vec<String> {
        let judged = |(point, ..): &Pair| {
            seeds >= if SELDOM_PASSED.contains(point) { SELDOM_JUDGED_FROM } else { JUDGED_FROM }
        };
        let all = pairs().into_iter().filter(judged);
        let missing = all.filter(|pair| !self.struck.contains_key(pair));
        missing
            .map(|(point, side, strike)| format!("no {strike:?} {side:?} {point}").to_lowercase())
            .collect()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.struck.is_empty()
    }

    fn count(&self, point: Point, side: Side, strike: Strike) -> u64 {
        self.struck.get(&(point, side, strike)).copied().unwrap_or(0)
    }
}

impl Serialize for Boundaries {
    /// A map from each pair, in words, to its count.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let told = self.struck.iter().map(|((point, side, strike), count)| {
            (format!("{strike:?} {side:?} {point}").to_lowercase(), count)
        });
        serializer.collect_map(told)
    }
}

impl fmt::Display for Boundaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<28}", "struck")?;
        for side in ["before", "after"] {
            write!(f, "{:>14}{:>10}{:>10}", format!("{side}: crash"), "power", "isolated")?;
        }
        writeln!(f)?;
        let mut points: Vec<Point> = pairs().into_iter().map(|(point, ..)| point).collect();
        points.dedup();
        for point in points {
            write!(f, "{:<28}", point.to_string())?;
            for side in [Side::Before, Side::After] {
                for (strike, width) in Strike::ALL.into_iter().zip([14, 10, 10]) {
                    match self.count(point, side, strike) {
                        0 => write!(f, "{:>width$}", "-")?,
                        count => write!(f, "{count:>width$}")?,
                    }
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_never_happened_is_missing() {
        let all: BTreeMap<Pair, u64> = pairs().into_iter().map(|pair| (pair, 1)).collect();
        let mut lacking = all.clone();
        lacking.remove(&(Point::Lead, Side::Before, Strike::PowerCut));
        let mut boundaries = Boundaries::new(lacking);
        assert_eq!(boundaries.missing(JUDGED_FROM), ["no powercut before lead a view"]);
        boundaries.merge(&Boundaries::new(all));
        assert_eq!(boundaries.missing(JUDGED_FROM), [""; 0]);
        let told = boundaries.to_string();
        assert!(told.contains("lead a view                              2         1         2"), "{told}");
    }

    #[test]
    fn points_that_few_worlds_pass_are_judged_later() {
        let seldom = |pair: &Pair| SELDOM_PASSED.contains(&pair.0);
        let most = pairs().into_iter().filter(|pair| !seldom(pair)).map(|pair| (pair, 1));
        let lacking = Boundaries::new(most.collect());
        assert_eq!(lacking.missing(SELDOM_JUDGED_FROM - 1), [""; 0]);
        assert_eq!(lacking.missing(SELDOM_JUDGED_FROM).len(), 6 * SELDOM_PASSED.len());
        assert_eq!(Boundaries::default().missing(JUDGED_FROM - 1), [""; 0]);
    }
}
