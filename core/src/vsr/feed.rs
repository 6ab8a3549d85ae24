//! What edges follow: the committed stream.
//!
//! The one law: **the feed is a cursor over the committed log** (H51), never fire and forget: frames may be lost,
//! and a follower that lacks one asks from there, or is told where the feed begins now.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::machine::Machine;
use super::replica::{Ignored, Replica, Status};
use crate::io::{Effect, Effects};
use crate::pool::{Message, Pool};
use crate::types::{Address, EdgeId, Instant};
use crate::wire::frame::{Command, Frame};
use core::time::Duration;

/// Frames that the feed remembers.
pub(super) const RING: usize = 48;
/// A following that is not renewed lapses after this.
const FOLLOW_LEASE: Duration = Duration::from_secs(5);
/// Followers of one replica.
pub(super) const FOLLOWERS: usize = 64;

const RESET: u16 = 1;
const PARTIAL: u16 = 2;

#[derive(Debug)]
struct Piece {
    op: u64,
    part: u64,
    last: bool,
    events: Option<Message>,
}

#[derive(Debug)]
struct Follower {
    edge: EdgeId,
    nonce: u128,
    heard: Instant,
}

#[derive(Debug)]
pub(super) struct Feed {
    ring: VecDeque<Piece>,
    followers: Vec<Follower>,
    /// Erasures of which the ring shows nothing any more.
    erasures: u64,
}

impl Feed {
    pub(super) fn new() -> Self {
        Self { ring: VecDeque::with_capacity(RING), followers: Vec::with_capacity(FOLLOWERS), erasures: 0 }
    }

    /// Followers, and frames that are remembered.
    pub(super) fn holds(&self) -> (usize, usize) {
        (self.followers.len(), self.ring.len())
    }

    /// What came before is not to be had any more.
    pub(super) fn reset(&mut self) {
        self.ring.clear();
    }

    /// Cuts the events of an op into pieces of at most `max` bytes. Without buffers the op is skipped, and
    /// followers find the gap.
    fn push(&mut self, op: u64, events: &[u8], max: usize, pool: &Pool) -> usize {
        let first = self.ring.len();
        let mut rest = events;
        let mut part = 0;
        loop {
            let (piece, more) = rest.split_at(whole_events(rest, max));
            let mut message = None;
            if !piece.is_empty() {
                let Some(mut draft) = pool.draft(piece.len()) else {
                    self.ring.clear();
                    return 0;
                };
                draft.extend(piece).expect("measured");
                message = Some(draft.seal());
            }
            self.ring.push_back(Piece { op, part, last: more.is_empty(), events: message });
            part += 1;
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        let added = self.ring.len() - first;
        while self.ring.len() > RING.max(added) {
            self.ring.pop_front();
        }
        added
    }
}

/// Bytes of as many whole events from the front as fit `max`; at least one.
fn whole_events(events: &[u8], max: usize) -> usize {
    let mut end = 0;
    while let Some(len) = events.get(end..end + 4) {
        let len = 4 + u32::from_le_bytes(len.try_into().expect("4 bytes")) as usize;
        if end > 0 && end + len > max {
            break;
        }
        end += len;
    }
    end.min(events.len())
}

impl<M: Machine> Replica<M> {
    /// An op was executed: its events go to all followers.
    pub(super) fn publish(&mut self, op: u64, effects: &mut Effects) {
        let now = self.now.mono;
        self.feed.followers.retain(|follower| now.since(follower.heard) < FOLLOW_LEASE);
        let max = self.config.layout.entry_max();
        let erasures = self.machine.forest().erasures_seen();
        if self.feed.erasures != erasures {
            // Older events may show what was erased: who lacks them reads history, where it is gone.
            self.feed.reset();
            self.feed.erasures = erasures;
        }
        let added = self.feed.push(op, &self.feed_scratch, max, &self.pool);
        let pieces = self.feed.ring.len() - added;
        for piece in self.feed.ring.iter().skip(pieces) {
            for follower in &self.feed.followers {
                effects.push(self.committed_frame(piece, follower));
            }
        }
    }

    fn committed_frame(&self, piece: &Piece, follower: &Follower) -> Effect {
        let mut frame = self.frame(Command::Committed);
        frame.header.op = piece.op.into();
        frame.header.a = piece.op.into();
        frame.header.b = piece.part.into();
        frame.header.commit = piece.op.into();
        frame.header.flags = if piece.last { 0 } else { PARTIAL }.into();
        frame.header.nonce = follower.nonce.into();
        frame.payload = piece.events.clone();
        Effect::Send { to: Address::Edge(follower.edge), frame }
    }

    pub(super) fn on_follow(&mut self, edge: EdgeId, frame: &Frame, effects: &mut Effects) {
        if self.status == Status::Recovering || self.state_lost {
            return self.ignore(Ignored::NotNow);
        }
        let (from, nonce, heard) = (frame.header.op.get(), frame.header.nonce.get(), self.now.mono);
        self.feed.followers.retain(|follower| follower.edge != edge);
        if self.feed.followers.len() == FOLLOWERS {
            return self.ignore(Ignored::NoRoom);
        }
        let follower = Follower { edge, nonce, heard };
        let commit = self.commit_min();
        let oldest = self.feed.ring.iter().find(|piece| piece.part == 0).map_or(u64::MAX, |piece| piece.op);
        if from > 0 && (from > commit || from >= oldest) {
            for piece in self.feed.ring.iter().filter(|piece| piece.op >= from) {
                effects.push(self.committed_frame(piece, &follower));
            }
        } else {
            let begins = Piece { op: commit, part: 0, last: true, events: None };
            let mut effect = self.committed_frame(&begins, &follower);
            if let Effect::Send { frame, .. } = &mut effect {
                frame.header.a = (commit + 1).into();
                frame.header.flags = RESET.into();
            }
            effects.push(effect);
        }
        self.feed.followers.push(follower);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Class;

    /// Events of so many bytes each, with their lengths before them.
    fn events(sizes: &[usize]) -> Vec<u8> {
        let one = |size: &usize| {
            [&u32::try_from(*size).expect("small").to_le_bytes()[..], &alloc::vec![7; *size]].concat()
        };
        sizes.iter().flat_map(one).collect()
    }

    #[test]
    fn a_piece_is_as_many_whole_events_as_fit_and_one_at_least() {
        let three = events(&[10, 20, 30]);
        let of = |max: usize| whole_events(&three, max);
        assert_eq!([0, 37, 38, 71, 72, 500].map(of), [14, 14, 38, 38, 72, 72]);
        assert_eq!(whole_events(&[], 100), 0);
    }

    #[test]
    fn the_feed_remembers_so_many_pieces_and_all_of_the_last_op() {
        let pool = Pool::new(&[Class { size: 128, count: 200 }]);
        let mut feed = Feed::new();
        assert_eq!(feed.push(1, &events(&[10, 20, 30]), 40, &pool), 2);
        let told = |feed: &Feed| -> Vec<(u64, u64, bool, usize)> {
            let len = |piece: &Piece| piece.events.as_ref().map_or(0, |events| events.len());
            feed.ring.iter().map(|piece| (piece.op, piece.part, piece.last, len(piece))).collect()
        };
        assert_eq!(told(&feed), [(1, 0, false, 38), (1, 1, true, 34)]);
        for op in 2..2 + RING as u64 {
            assert_eq!(feed.push(op, &[], 40, &pool), 1, "an op without events is a piece too");
        }
        assert_eq!((feed.ring.len(), told(&feed)[0]), (RING, (2, 0, true, 0)));
        let many = alloc::vec![30; RING + 5];
        assert_eq!(feed.push(99, &events(&many), 40, &pool), RING + 5);
        assert_eq!((feed.ring.len(), told(&feed)[0]), (RING + 5, (99, 0, false, 34)));
        // Without a buffer there is a gap, and nothing before it either.
        assert_eq!(feed.push(100, &events(&[10]), 40, &Pool::new(&[Class { size: 128, count: 0 }])), 0);
        assert_eq!(feed.ring.len(), 0);
    }
}
