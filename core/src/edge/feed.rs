//! The edge's cursor over the committed stream of its shard.
//!
//! The one law: **the cursor moves by one op at a time, or a gap is known** (H51): a frame that does not continue
//! where the last one ended is not used, and the edge follows anew from what it lacks.

use core::time::Duration;

use crate::types::{Instant, ReplicaId};
use crate::wire::frame::Frame;

/// A following is renewed this often.
pub(super) const RENEW: Duration = Duration::from_millis(500);
/// A replica that said nothing for so long is left for another one.
const SILENT: Duration = Duration::from_millis(1500);

const RESET: u16 = 1;
const PARTIAL: u16 = 2;

#[derive(Debug)]
pub(super) struct Feed {
    pub(super) replica: ReplicaId,
    pub(super) nonce: u128,
    /// The last op of which all was seen; zero before the first frame.
    pub(super) cursor: u64,
    /// The cursor as it last jumped: what lies below was not all seen here.
    pub(super) jumped_to: u64,
    /// Parts of the next op that were seen.
    parts: u64,
    pub(super) heard: Instant,
    /// A gap was met and another following asked for; frames of the old one do not count.
    pub(super) follow_due: bool,
}

/// What a frame of the feed is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its events come next.
    Take,
    /// The feed begins anew after the cursor: what lies between is to be read from history.
    Reset,
    /// Seen before, or of an old following.
    Old,
    /// Something is missing before it.
    Gap,
}

impl Feed {
    pub(super) fn new(now: Instant) -> Self {
        let replica = ReplicaId(0);
        Self { replica, nonce: 0, cursor: 0, jumped_to: 0, parts: 0, heard: now, follow_due: true }
    }

    /// What to ask a follow from: zero means from now.
    pub(super) fn wanted(&self) -> u64 {
        if self.cursor == 0 { 0 } else { self.cursor + 1 }
    }

    pub(super) fn on_committed(&mut self, frame: &Frame, now: Instant) -> Step {
        let header = &frame.header;
        if header.nonce.get() != self.nonce {
            return Step::Old;
        }
        self.heard = now;
        let (last, first, part) = (header.op.get(), header.a.get(), header.b.get());
        let flags = header.flags.get();
        if flags & RESET != 0 {
            if last < self.cursor {
                // That replica is behind what we saw: it will catch up, or we look for another one.
                return Step::Old;
            }
            let moved = last > self.cursor;
            (self.cursor, self.jumped_to, self.parts) = (last, last, 0);
            return if moved { Step::Reset } else { Step::Old };
        }
        if last <= self.cursor {
            return Step::Old;
        }
        if self.cursor == 0 || first > self.cursor + 1 || part > self.parts {
            return Step::Gap;
        }
        if part < self.parts {
            return Step::Old;
        }
        if flags & PARTIAL != 0 {
            self.parts += 1;
        } else {
            (self.cursor, self.parts) = (last, 0);
        }
        Step::Take
    }

    pub(super) fn is_silent(&self, now: Instant) -> bool {
        now.since(self.heard) >= SILENT
    }

    /// Leaves for another replica.
    pub(super) fn move_on(&mut self, replica: ReplicaId, now: Instant) {
        self.replica = replica;
        (self.heard, self.follow_due) = (now, true);
    }

    /// A following begins: only its frames count from now on, and a part of an op begins anew.
    pub(super) fn followed(&mut self, nonce: u128) {
        (self.nonce, self.follow_due, self.parts) = (nonce, false, 0);
    }
}
