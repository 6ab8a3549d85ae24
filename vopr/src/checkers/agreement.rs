//! The committed log of every replica is a prefix of one log (I01, I02), compared entry by entry as it is
//! executed, also across restarts and view changes.

use std::collections::BTreeMap;

use io_sim::history::{Final, Observation, Violation, What};
use tigerchat_core::types::ReplicaId;
use tigerchat_core::wire::entry::Digest;

use super::{Checker, violated};

const NAME: &str = "agreement";

#[derive(Debug, Default)]
pub struct Agreement {
    /// The one log: what was executed first at each op, and by whom.
    log: BTreeMap<u64, (Digest, ReplicaId)>,
    /// The last op that each replica executed since its start.
    executed: BTreeMap<ReplicaId, u64>,
}

impl Checker for Agreement {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match seen.what {
            What::Started { replica } | What::Crashed { replica, .. } => {
                self.executed.remove(&replica);
                Ok(())
            }
            What::Executed { replica, op, entry, .. } => {
                self.in_order(replica, op)?;
                self.same_entry(replica, op, entry)
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, _: &Final) -> Result<(), Violation> {
        Ok(())
    }
}

impl Agreement {
    fn in_order(&mut self, replica: ReplicaId, op: u64) -> Result<(), Violation> {
        match self.executed.insert(replica, op) {
            Some(last) if op <= last => {
                violated(NAME, format!("replica {} executed op {op} after op {last}", replica.0))
            }
            _ => Ok(()),
        }
    }

    fn same_entry(&mut self, replica: ReplicaId, op: u64, entry: Digest) -> Result<(), Violation> {
        let (first, by) = *self.log.entry(op).or_insert((entry, replica));
        if first == entry {
            return Ok(());
        }
        let (replica, by) = (replica.0, by.0);
        violated(
            NAME,
            format!(
                "replica {replica} executed {entry:?} as op {op}, where replica {by} had executed {first:?}"
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    #[test]
    fn one_log_on_all_replicas_is_agreement() {
        assert_eq!(Story::good().broken_promises(), [""; 0]);
    }

    #[test]
    fn two_entries_executed_under_one_op_are_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Executed { replica: ReplicaId(2), op: 3, entry, .. } = what {
                *entry = Digest([9; 32]);
            }
        });
        story.violates::<Agreement>("replica 2 executed 0909090909090909 as op 3");
    }

    #[test]
    fn an_op_executed_twice_without_a_restart_is_found() {
        let mut story = Story::good();
        story.repeat(|what| matches!(what, What::Executed { replica: ReplicaId(1), op: 2, .. }));
        story.violates::<Agreement>("replica 1 executed op 2 after op 2");
    }

    #[test]
    fn executing_again_after_a_restart_is_allowed() {
        let mut story = Story::good();
        let again = story.take(|what| matches!(what, What::Executed { replica: ReplicaId(1), .. }));
        story.push(What::Crashed { replica: ReplicaId(1), power: true });
        story.push(What::Started { replica: ReplicaId(1) });
        story.extend(again);
        assert_eq!(story.judge::<Agreement>(), Ok(()));
    }
}
