//! Which rare branches of replication a swarm reached: a branch that no seed came to was not tested.

use std::fmt;

use serde::{Serialize, Serializer};
use tigerchat_core::vsr::marks::{Mark, Marks};

/// Marks that no seed can reach, each with the reason. Reaching one fails a swarm too: then the reason is wrong.
pub const UNREACHABLE: &[(Mark, &str)] = &[
    (Mark::PrepareUnlinked, "the log of a backup that is normal in a view is a prefix of its primary's"),
    (Mark::TransferWrong, "checkpoints of one op are equal, and each block is what its digest says"),
];

/// Marks that few seeds reach: they are judged from so many seeds on.
pub const SELDOM_REACHED: &[(Mark, usize)] = &[
    (Mark::QueueFull, 10_000),
    (Mark::PrepareOfAnotherLog, 10_000),
    (Mark::ChoiceWaits, 10_000),
    (Mark::WriteOvertaken, 10_000),
    (Mark::CheckpointStuck, 10_000),
    (Mark::AbdicateSlowDisk, 10_000),
    (Mark::HandOverOther, 10_000),
    (Mark::MembersGone, 10_000),
    (Mark::SuccessorPromoted, 10_000),
    (Mark::AbdicateNoProgress, 30_000),
    (Mark::StartAsItWas, 30_000),
    (Mark::PrimaryBehind, 30_000),
];

/// From so many seeds on, what never happened fails a swarm.
pub const JUDGED_FROM: usize = 1_000;

/// How many seeds reached each mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    seeds: Vec<u64>,
}

impl Default for Reached {
    fn default() -> Self {
        Self { seeds: vec![0; Mark::ALL.len()] }
    }
}

impl Reached {
    /// What one seed reached.
    #[must_use]
    pub fn by_one(marks: Marks) -> Self {
        Self { seeds: Mark::ALL.iter().map(|mark| u64::from(marks.has(*mark))).collect() }
    }

    pub fn merge(&mut self, other: &Self) {
        self.seeds.iter_mut().zip(&other.seeds).for_each(|(seeds, more)| *seeds += more);
    }

    /// After so many seeds: the marks that should have been reached, each in one sentence, and those that should not.
    #[must_use]
    pub fn missing(&self, seeds: usize) -> Vec<String> {
        let judged = |mark| {
            let seldom = SELDOM_REACHED.iter().find(|(seldom, _)| *seldom == mark);
            seeds >= seldom.map_or(JUDGED_FROM, |(_, from)| *from)
        };
        let wrong = self.counts().filter(|(mark, _)| judged(*mark)).filter_map(|(mark, seeds)| {
            match (seeds, reason(mark)) {
                (0, None) => Some(format!("never reached: {}", mark.told())),
                (1.., Some(why)) => Some(format!(
                    "reached by {seeds} seeds: {}; it is listed as unreachable: {why}",
                    mark.told()
                )),
                _ => None,
            }
        });
        wrong.collect()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seeds.iter().all(|seeds| *seeds == 0)
    }

    fn counts(&self) -> impl Iterator<Item = (Mark, u64)> {
        Mark::ALL.iter().copied().zip(self.seeds.iter().copied())
    }
}

fn reason(mark: Mark) -> Option<&'static str> {
    UNREACHABLE.iter().find(|(unreachable, _)| *unreachable == mark).map(|(_, why)| *why)
}

impl Serialize for Reached {
    /// A map from each mark, in words, to the number of seeds that reached it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.counts().map(|(mark, seeds)| (mark.told(), seeds)))
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>7}  branches reached", "seeds")?;
        for (mark, seeds) in self.counts() {
            let told = mark.told();
            match reason(mark) {
                Some(why) => writeln!(f, "{:>7}  {told} (unreachable: {why})", "-")?,
                None if seeds == 0 => writeln!(f, "{:>7}  {told}", "-")?,
                None => writeln!(f, "{seeds:>7}  {told}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All marks but the unreachable ones, and but one.
    fn all_but(left_out: Option<Mark>) -> Reached {
        let mut marks = Marks::default();
        let reachable = Mark::ALL.iter().filter(|mark| reason(**mark).is_none());
        reachable.filter(|mark| Some(**mark) != left_out).for_each(|mark| marks.set(*mark));
        Reached::by_one(marks)
    }

    #[test]
    fn a_mark_that_no_seed_reached_is_missing() {
        assert_eq!(all_but(None).missing(JUDGED_FROM), [""; 0]);
        let mut lacking = all_but(Some(Mark::Truncated));
        let sentence = "never reached: view change: an op that a nack quorum never had goes";
        assert_eq!(lacking.missing(JUDGED_FROM), [sentence]);
        lacking.merge(&all_but(None));
        assert_eq!(lacking.missing(JUDGED_FROM), [""; 0]);
        assert!(
            lacking.to_string().contains("      1  view change: an op that a nack quorum never had goes\n")
        );
        assert!(lacking.to_string().contains("      2  view change: an op that may be committed stays\n"));
    }

    #[test]
    fn a_reason_that_is_wrong_is_told() {
        for (mark, why) in UNREACHABLE {
            let mut reached = all_but(None);
            let mut marks = Marks::default();
            marks.set(*mark);
            reached.merge(&Reached::by_one(marks));
            let sentence = format!("reached by 1 seeds: {}; it is listed as unreachable: {why}", mark.told());
            assert_eq!(reached.missing(JUDGED_FROM), [sentence]);
        }
    }

    #[test]
    fn what_is_seldom_reached_is_judged_later() {
        for (mark, from) in SELDOM_REACHED {
            let lacking = all_but(Some(*mark));
            assert_eq!(lacking.missing(from - 1), [""; 0]);
            assert_eq!(lacking.missing(*from), [format!("never reached: {}", mark.told())]);
        }
        assert_eq!(all_but(Some(Mark::Truncated)).missing(JUDGED_FROM - 1), [""; 0]);
    }
}
