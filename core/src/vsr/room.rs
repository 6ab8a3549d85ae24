//! Room in the log, for the shard: how far entries may run ahead of the work of checkpoints.
//!
//! The wall is [`Journal::has_room`](super::journal::Journal::has_room): nothing overwrites what no checkpoint has. A
//! shard that runs into it stands still until a quorum has ended its checkpoint, and where disks are slow together that
//! takes as long as all that was left of the work. (Measured: 2 to 6 s, once in a while, at full load on one disk.) So
//! entries are held back before that, each a little: **while a replica works at a checkpoint, its room grows with the work**.
//!
//! ```text
//!        C(k)            C(k) + interval                 C(k) + 2 x interval: what lies at C(k) is overwritten
//!  ───────┼───────────────────┼───────────────────────────────┼──▶ op
//!  work k │◀ a quarter ▶◀ as much of the interval as of the work ▶│ the wall, until the checkpoint is named
//! ```
//!
//! A primary makes no entry beyond its own room, nor beyond what a quorum has room for; backups say theirs with each
//! acknowledgement. It is a hint: it holds entries back, and nothing else follows from it. Work that stands still (a
//! full disk, a block that nobody has) is no reason to wait: then there is room up to the wall, and whoever stands before
//! that is dealt with as ever (repair, transfer, abdication).

use core::time::Duration;

use super::machine::Machine;
use super::normal::Acked;
use super::replica::Replica;
use crate::types::Instant;

/// Without a block for so long, the work stands still.
const STANDS_STILL: Duration = Duration::from_millis(250);

/// How the work of a checkpoint gets on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    made: u64,
    at: Instant,
}

impl Progress {
    pub(super) fn note(&mut self, made: u64, now: Instant) {
        if self.made != made {
            *self = Self { made, at: now };
        }
    }

    pub(super) fn begin(now: Instant) -> Self {
        Self { made: 0, at: now }
    }

    /// How much of an interval so many expected blocks allow for: all of it when all are made.
    fn share(&self, interval: u64, expected: u64) -> u64 {
        let expected = expected.max(1);
        interval * self.made.min(expected) / expected
    }
}

impl<M: Machine> Replica<M> {
    /// Up to which op this replica would have the log go on now.
    pub(super) fn room(&self) -> u64 {
        let wall = self.journal.base + self.journal.slots();
        let interval = self.config.layout.interval();
        let ahead = interval / 4;
        let Some((checkpoint, progress, expected)) = self.work_under_way() else {
            // The next work has not begun.
            let next = (self.commit_min() / interval + 1) * interval;
            return wall.min(next + ahead);
        };
        if self.now.mono.since(progress.at) > STANDS_STILL {
            return wall;
        }
        wall.min(checkpoint + ahead + progress.share(interval, expected))
    }

    /// Primary: up to which op a quorum, and it itself, would have the log go on. Who has not said anything of late has room:
    /// what it said may have got lost. (Found by the simulator: seed 45.)
    pub(super) fn room_of_shard(&self) -> u64 {
        let own = self.room();
        let mut rooms = [0; 7];
        let counted = self.members.voters().filter(|id| self.reconfiguration.counts(*id));
        let said = counted.map(|id| match self.acked.get(id) {
            _ if id == self.me => own,
            Some(said) if said.room > 0 && self.now.mono.since(said.room_at) <= STANDS_STILL => said.room,
            _ => u64::MAX,
        });
        rooms.iter_mut().zip(said).for_each(|(into, room)| *into = room);
        rooms.sort_unstable_by(|a, b| b.cmp(a));
        own.min(rooms[usize::from(self.members.quorums().replication) - 1])
    }

    /// Entries that may be in flight: all of the pipeline, unless a backup that follows is about to fall behind what
    /// the log holds. Rather than losing it to a state transfer, commits wait a little for it. One that does not
    /// follow (dead, hung, its disk full) slows nobody down.
    pub(super) fn pipeline_allowed(&self) -> u64 {
        let (now, slots) = (self.now.mono, self.journal.slots());
        let follows = |acked: &&Acked| acked.op > 0 && now.since(acked.at) < self.resend_after() * 2;
        let followers = self.acked.iter().filter(|(id, _)| *id != self.me).map(|(_, acked)| acked);
        let lag = followers.filter(follows).map(|acked| self.journal.head.saturating_sub(acked.op)).max();
        match lag.unwrap_or(0) {
            lag if lag > slots * 3 / 4 => 0,
            lag if lag > slots / 2 => 1,
            _ => u64::from(self.config.pipeline),
        }
    }

    /// Backup: whether the primary may be waiting for room that there is now.
    pub(super) fn has_more_room(&self) -> bool {
        let may_wait = self.room_said < self.journal.head + u64::from(self.config.pipeline);
        may_wait && self.room() > self.room_said
    }
}
