//! Every op is executed under one release, that of its entry, by all replicas (I26, H60), and releases do not go back
//! along the log.

use std::collections::BTreeMap;

use io_sim::history::{Final, Observation, Violation, What};
use tigerchat_core::types::ReplicaId;

use super::{Checker, violated};

const NAME: &str = "release";

#[derive(Debug, Default)]
pub struct Release {
    /// Of each op, as its entry says.
    entries: BTreeMap<u64, u32>,
}

impl Checker for Release {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match seen.what {
            What::Executed { replica, op, release, .. } => self.entry(replica, op, release),
            What::Release { replica, op, release } => self.executed(replica, op, release),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, _: &Final) -> Result<(), Violation> {
        Ok(())
    }
}

impl Release {
    fn entry(&mut self, replica: ReplicaId, op: u64, release: u32) -> Result<(), Violation> {
        let first = *self.entries.entry(op).or_insert(release);
        if first != release {
            let id = replica.0;
            return violated(
                NAME,
                format!("op {op} has release {release} at replica {id}, and {first} elsewhere"),
            );
        }
        let below = self.entries.range(..op).next_back();
        let above = self.entries.range(op + 1..).next();
        let goes_back = below.is_some_and(|(_, below)| *below > release)
            || above.is_some_and(|(_, above)| *above < release);
        if goes_back {
            return violated(
                NAME,
                format!("op {op} has release {release}, between {below:?} and {above:?}: it goes back"),
            );
        }
        Ok(())
    }

    /// What a machine acts by is the release of its last entry. Before the first it acts by the first release.
    fn executed(&self, replica: ReplicaId, op: u64, release: u32) -> Result<(), Violation> {
        match self.entries.get(&op) {
            Some(entry) if *entry != release => {
                let id = replica.0;
                violated(
                    NAME,
                    format!(
                        "replica {id} executed op {op} under release {release}, and its entry says {entry}"
                    ),
                )
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    fn raise(story: &mut Story, from: u64) {
        story.change(|what| {
            if let What::Executed { op, release, .. } = what
                && *op >= from
            {
                *release = 2;
            }
        });
    }

    #[test]
    fn a_log_that_moves_on_once_keeps_the_promise() {
        let mut story = Story::good();
        raise(&mut story, 3);
        story.push(What::Release { replica: ReplicaId(1), op: 2, release: 1 });
        story.push(What::Release { replica: ReplicaId(1), op: 3, release: 2 });
        assert_eq!(story.judge::<Release>(), Ok(()));
    }

    #[test]
    fn h60_an_op_executed_under_the_release_of_the_binary_is_found() {
        let mut story = Story::good();
        story.push(What::Release { replica: ReplicaId(1), op: 2, release: 2 });
        story.violates::<Release>("replica 1 executed op 2 under release 2, and its entry says 1");
    }

    #[test]
    fn h60_one_op_under_two_releases_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Executed { replica: ReplicaId(2), op: 4, release, .. } = what {
                *release = 2;
            }
        });
        story.violates::<Release>("op 4 has release 2 at replica 2, and 1 elsewhere");
    }

    #[test]
    fn h60_a_release_that_goes_back_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Executed { op: 2, release, .. } = what {
                *release = 2;
            }
        });
        story.violates::<Release>("it goes back");
    }
}
