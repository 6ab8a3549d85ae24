//! Nothing that was acknowledged is ever missing later (I03, I32): an acknowledgement finds its op on a quorum, and
//! at the end the message stands where the acknowledgement said, whatever crashed in between.

use std::collections::BTreeMap;

use io_sim::history::{CallId, Final, Observation, Violation, What};
use tigerchat_core::types::ReplicaId;
use tigerchat_core::wire::chat::Key;
use tigerchat_core::wire::entry::Digest;

use super::ledger::{FinalHistory, Place, furthest};
use super::{Checker, violated};

const NAME: &str = "durability";

#[derive(Debug, Default)]
pub struct Durability {
    /// Replicas that must hold an entry, and among whom, by config number.
    quorums: BTreeMap<u32, (usize, Vec<ReplicaId>)>,
    /// The config number in each entry.
    config_of: BTreeMap<u64, u32>,
    calls: BTreeMap<CallId, (String, Key)>,
    /// What was promised, by room and sequence.
    acknowledged: BTreeMap<(String, u64), Promise>,
    /// The highest op that each replica is known to have held.
    held: BTreeMap<ReplicaId, u64>,
    /// The highest op that any replica executed: it was committed.
    executed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Promise {
    key: Key,
    chain: Digest,
}

impl Checker for Durability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match &seen.what {
            What::Published { call, room, key, .. } => {
                self.calls.insert(*call, (room.clone(), *key));
                Ok(())
            }
            What::Members { members, .. } => {
                let quorum = usize::from(members.quorums().replication);
                self.quorums.insert(members.number, (quorum, members.voters().collect()));
                Ok(())
            }
            What::Executed { replica, op, config, .. } => {
                self.config_of.insert(*op, *config);
                self.executed = self.executed.max(*op);
                self.holds(*replica, *op);
                Ok(())
            }
            What::Position { replica, op, .. } => {
                self.holds(*replica, *op);
                Ok(())
            }
            What::Acknowledged { call, seq, op, chain, .. } => self.acknowledged(*call, *seq, *op, *chain),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, end: &Final) -> Result<(), Violation> {
        let commit = furthest(end).map_or(0, |replica| replica.commit);
        if commit < self.executed {
            let executed = self.executed;
            return violated(
                NAME,
                format!("op {executed} was committed, but the cluster ends at op {commit}"),
            );
        }
        let history = FinalHistory::of(end);
        for ((room, seq), promise) in &self.acknowledged {
            match history.at(room, *seq) {
                Place::Retired => {}
                Place::Held(message) if message.key == promise.key && message.chain == promise.chain => {}
                Place::Held(_) => {
                    return violated(
                        NAME,
                        format!(
                            "message {seq} of room {room} was acknowledged, but another stands in its place"
                        ),
                    );
                }
                Place::Missing => {
                    return violated(
                        NAME,
                        format!("message {seq} of room {room} was acknowledged and is gone"),
                    );
                }
            }
        }
        Ok(())
    }
}

impl Durability {
    fn holds(&mut self, replica: ReplicaId, op: u64) {
        let held = self.held.entry(replica).or_default();
        *held = op.max(*held);
    }

    fn acknowledged(&mut self, call: CallId, seq: u64, op: u64, chain: Digest) -> Result<(), Violation> {
        // Of an op that nobody was seen to execute the members are not known: the smallest quorum of any must do.
        let config = self.config_of.get(&op).and_then(|config| self.quorums.get(config));
        let smallest = self.quorums.values().map(|(quorum, _)| *quorum).min().unwrap_or(1);
        let quorum = config.map_or(smallest, |(quorum, _)| *quorum);
        let counts = |id: &ReplicaId| config.is_none_or(|(_, voters)| voters.contains(id));
        let holders = self.held.iter().filter(|(id, held)| **held >= op && counts(id)).count();
        if holders < quorum {
            return violated(
                NAME,
                format!("op {op} was acknowledged while {holders} replicas had ever held it, not {quorum}"),
            );
        }
        if let Some((room, key)) = self.calls.get(&call) {
            self.acknowledged.entry((room.clone(), seq)).or_insert(Promise { key: *key, chain });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    #[test]
    fn an_acknowledged_message_that_is_gone_is_found() {
        let mut story = Story::good();
        for replica in &mut story.end.replicas {
            replica.rooms[0].messages.pop();
            replica.rooms[0].head -= 1;
        }
        story.violates::<Durability>("message 3 of room general was acknowledged and is gone");
    }

    #[test]
    fn an_acknowledged_message_that_was_replaced_is_found() {
        let mut story = Story::good();
        for replica in &mut story.end.replicas {
            replica.rooms[0].messages[1].key = Key([9; 16]);
        }
        story.violates::<Durability>("message 2 of room general was acknowledged, but another stands");
    }

    #[test]
    fn h04_an_acknowledgement_before_a_quorum_holds_the_op_is_found() {
        let mut story = Story::good();
        story.remove(|what| match what {
            What::Executed { replica, op, .. } | What::Position { replica, op, .. } => {
                replica.0 > 0 && *op == 4
            }
            _ => false,
        });
        story.remove(|what| matches!(what, What::Executed { replica, op, .. } if replica.0 > 0 && *op > 4));
        story.remove(|what| matches!(what, What::Position { replica, op, .. } if replica.0 > 0 && *op > 4));
        story.violates::<Durability>("op 4 was acknowledged while 1 replicas had ever held it, not 2");
    }

    #[test]
    fn a_cluster_that_ends_below_what_was_committed_is_found() {
        let mut story = Story::good();
        for replica in &mut story.end.replicas {
            replica.commit -= 1;
        }
        story.violates::<Durability>("was committed, but the cluster ends at op");
    }

    #[test]
    fn what_retention_removed_is_not_missing() {
        let mut story = Story::good();
        for replica in &mut story.end.replicas {
            replica.rooms[0].messages.remove(0);
            replica.rooms[0].first += 1;
        }
        assert_eq!(story.judge::<Durability>(), Ok(()));
    }
}
