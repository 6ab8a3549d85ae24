//! Checkpoints of one op are the same bytes (I12), on every replica and at every time.

use std::collections::BTreeMap;

use io_sim::history::{Final, Observation, Violation, What};
use tigerchat_core::types::ReplicaId;
use tigerchat_core::wire::entry::Digest;

use super::{Checker, violated};

const NAME: &str = "checkpoint";

#[derive(Debug, Default)]
pub struct Checkpoint {
    /// By op: the state's digest, and who took it first.
    states: BTreeMap<u64, (Digest, ReplicaId)>,
}

impl Checker for Checkpoint {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        let What::Checkpointed { replica, op, state } = seen.what else { return Ok(()) };
        let (first, by) = *self.states.entry(op).or_insert((state, replica));
        if first == state {
            return Ok(());
        }
        let (replica, by) = (replica.0, by.0);
        violated(
            NAME,
            format!(
                "at op {op} the checkpoint of replica {replica} is {state:?}, that of replica {by} {first:?}"
            ),
        )
    }

    fn finish(&mut self, _: &Final) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    #[test]
    fn h39_two_states_at_one_op_are_found() {
        let mut story = Story::good();
        assert_eq!(story.judge::<Checkpoint>(), Ok(()));
        story.change(|what| {
            if let What::Checkpointed { replica: ReplicaId(2), state, .. } = what {
                *state = Digest([9; 32]);
            }
        });
        story.violates::<Checkpoint>("at op 4 the checkpoint of replica 2 is 0909090909090909");
    }
}
