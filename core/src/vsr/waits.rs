//! What a replica is waiting for, in words: for whoever looks at a shard that stands still.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::machine::Machine;
use super::replica::{Replica, Status};

impl<M: Machine> Replica<M> {
    fn slot_of(&self, op: u64) -> String {
        self.journal.get(op).map_or_else(
            || "no slot".into(),
            |slot| {
                let (entry, writing) = (slot.entry.is_some(), slot.writing.is_some());
                format!("{:?}, in memory {entry}, being written {writing}", slot.state())
            },
        )
    }

    /// Where this replica stands, and everything that it waits for.
    #[must_use]
    pub fn waits_for(&self) -> String {
        let now = self.observe();
        let mut waits: Vec<String> = Vec::new();
        let next = now.commit + 1;
        if now.commit < now.commit_max.min(now.op) {
            waits.push(format!("to execute op {next} ({})", self.slot_of(next)));
        }
        if self.journal.low > next {
            waits.push(format!("for headers below {}", self.journal.low));
        }
        if now.commit_max < now.op && now.is_primary {
            waits.push(format!("for a quorum of op {} (acknowledged {:?})", now.commit_max + 1, self.acked));
        }
        if self.durable_op < now.op {
            let op = self.durable_op + 1;
            waits.push(format!("for op {op} to be durable here ({})", self.slot_of(op)));
        }
        if !self.superblock.is_settled() {
            waits.push("for its superblock".into());
        }
        if self.is_checkpointing() {
            waits.push(format!("for its checkpoint to be written ({})", self.checkpoint_stage()));
        }
        if self.state_lost {
            waits.push("for a peer's checkpoint in place of its own damaged one".into());
        }
        if let Some(sync) = &self.sync {
            waits.push(format!("for a state transfer ({sync})"));
        }
        if now.status != Status::Normal {
            waits.push(format!("{:?}: {}", now.status, self.view_change));
        }
        let waits = if waits.is_empty() { "nothing".into() } else { waits.join(", ") };
        format!(
            "view {} (log {}), op {}, commit {} of {}, checkpoint {}, waits {waits}",
            now.view, now.log_view, now.op, now.commit, now.commit_max, now.checkpoint
        )
    }
}
