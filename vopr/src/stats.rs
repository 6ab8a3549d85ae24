//! What runs did: numbers of one run, and their distribution over a swarm.

use std::time::Duration;

use serde::Serialize;

/// What one run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls of clients that were answered.
    pub operations: u64,
    pub crashes: u64,
    pub view_changes: u64,
    /// Sectors that disks damaged, those of them that were written anew, disk operations that failed.
    pub damaged: u64,
    pub repaired: u64,
    pub disk_errors: u64,
    /// Everything that happened in the world.
    pub events: u64,
    pub virtual_time: Duration,
    /// Whether all work was done after the healing.
    pub quiet: bool,
}

/// What a typical seed must do at least: a run that did little is no run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floors {
    pub operations: u64,
    pub crashes: u64,
    pub view_changes: u64,
    pub repaired: u64,
}

impl Floors {
    /// For the swarm.
    pub const SWARM: Self = Self { operations: 500, crashes: 2, view_changes: 2, repaired: 2 };
}

/// How a number is distributed over the seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    pub least: u64,
    pub median: u64,
    pub most: u64,
}

impl Spread {
    /// Of nothing: zeros. The median of an even number is the lower of the two in the middle.
    #[must_use]
    pub fn of(values: impl Iterator<Item = u64>) -> Self {
        let mut values: Vec<u64> = values.collect();
        values.sort_unstable();
        match values.as_slice() {
            [] => Self::default(),
            [least, ..] => {
                Self { least: *least, median: values[(values.len() - 1) / 2], most: values[values.len() - 1] }
            }
        }
    }
}

/// What the seeds of a swarm did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    pub operations: Spread,
    pub crashes: Spread,
    pub view_changes: Spread,
    pub damaged: Spread,
    pub repaired: Spread,
    pub disk_errors: Spread,
    pub events: Spread,
}

impl Work {
    #[must_use]
    pub fn of(runs: &[Stats]) -> Self {
        let spread = |number: fn(&Stats) -> u64| Spread::of(runs.iter().map(number));
        Self {
            operations: spread(|run| run.operations),
            crashes: spread(|run| run.crashes),
            view_changes: spread(|run| run.view_changes),
            damaged: spread(|run| run.damaged),
            repaired: spread(|run| run.repaired),
            disk_errors: spread(|run| run.disk_errors),
            events: spread(|run| run.events),
        }
    }

    /// What the median seed did too little of, each in one sentence.
    #[must_use]
    pub fn below(&self, floors: Floors) -> Vec<String> {
        let medians = [
            ("operations", self.operations.median, floors.operations),
            ("crashes", self.crashes.median, floors.crashes),
            ("view changes", self.view_changes.median, floors.view_changes),
            ("repaired sectors", self.repaired.median, floors.repaired),
        ];
        let below = medians.iter().filter(|(_, median, floor)| median < floor);
        below
            .map(|(what, median, floor)| format!("the median seed has {median} {what}, not {floor}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_least_median_and_most() {
        assert_eq!(Spread::of([5, 1, 9].into_iter()), Spread { least: 1, median: 5, most: 9 });
        assert_eq!(Spread::of([4, 1, 9, 5].into_iter()), Spread { least: 1, median: 4, most: 9 });
        assert_eq!(Spread::of(std::iter::empty()), Spread::default());
    }

    #[test]
    fn a_swarm_that_does_too_little_is_told_what_is_missing() {
        let enough = Stats { operations: 500, crashes: 2, view_changes: 2, repaired: 2, ..Stats::default() };
        assert_eq!(Work::of(&[enough]).below(Floors::SWARM), [""; 0]);
        let idle = Stats { operations: 499, crashes: 1, ..enough };
        let complaints = Work::of(&[idle, idle, enough]).below(Floors::SWARM);
        let expected =
            ["the median seed has 499 operations, not 500", "the median seed has 1 crashes, not 2"];
        assert_eq!(complaints, expected);
    }
}
