//! Threads: the replies to a message, numbered for themselves beside the room's sequence.
//!
//! The one law: **a thread's numbers have no gaps, and where its replies lie follows from the log.** What is looked up
//! all the time (how many replies, which was the last) is a row of the forest. Which message the n-th reply is stands in
//! a *lane*: a room of history that has no name and no messages, only one short record for each reply. So lanes lie in the
//! runs of history, are merged, cut, transferred and read in pages like rooms, and are the same bytes on every replica.
//!
//! ```text
//!  thread (room 3, parent 40): lane 7, base 5, count 3         its replies are 6, 7, 8 of the lane
//!  lane 7:   1 2 3 4 5 | 6    7    8                           1 to 5 are an older thread's, which retention removed
//!  room 3:               41   47   90                          what the records say
//! ```
//!
//! A thread is gone when retention has removed the last of its replies. Each publish looks at two threads, in turn, so
//! that lanes are soon free again.

use alloc::vec::Vec;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::index::{Hash, Index, Slots};
use super::limits::Limits;
use super::rooms::RoomId;
use super::{Chat, Turn, tables};
use crate::errors::ErrorCode;
use crate::store::forest::Forest;
use crate::store::history::record::{Record, State};
use crate::wire::chat::MessageEvent;
use crate::wire::codec::Malformed;
use crate::wire::entry::Digest;

/// Threads that a publish looks at.
const LOOKED_AT: u32 = 2;

/// A thread that has replies, as its row has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ThreadRow {
    pub(super) room: U32,
    pub(super) parent: U64,
    /// Where in its lane it begins: its n-th reply is number `base + n` there.
    pub(super) base: U64,
    /// Replies that it ever had.
    pub(super) count: U64,
    /// Sequence of the last one.
    pub(super) last: U64,
    /// A reply, and its sequence: once retention has removed it, the lane is cut behind it.
    pub(super) mark: U64,
    pub(super) mark_seq: U64,
}

/// Bytes of a row.
pub(super) const THREAD: usize = 52;
const _: () = assert!(size_of::<ThreadRow>() == THREAD);

impl ThreadRow {
    /// Whether a room with such a head can have this thread.
    pub(super) fn is_possible(&self, head: u64) -> bool {
        let (parent, last, count) = (self.parent.get(), self.last.get(), self.count.get());
        let ends = self.base.get().checked_add(count).is_some_and(|end| end < u64::MAX / 2);
        ends && (1..last).contains(&parent)
            && last <= head
            && (1..=last - parent).contains(&count)
            && (1..=count).contains(&self.mark.get())
            && (parent + 1..=last).contains(&self.mark_seq.get())
    }
}

/// See the module.
pub(super) struct Threads {
    slots: Slots,
    index: Index,
    limit: u32,
    /// The lane of slot 0.
    first_lane: u32,
    seed: u64,
}

impl Threads {
    pub(super) fn new(limits: &Limits, seed: u64) -> Self {
        let limit = limits.threads;
        Self { slots: Slots::new(limit), index: Index::new(limit), limit, first_lane: limits.rooms, seed }
    }

    pub(super) fn len(&self) -> u32 {
        self.slots.taken()
    }

    /// The room of history that has a thread's lane.
    pub(super) fn lane(&self, slot: u32) -> u32 {
        self.first_lane + slot
    }

    /// The thread under this parent, if it has replies.
    pub(super) fn find(&self, forest: &Forest, room: RoomId, parent: u64) -> Option<(u32, ThreadRow)> {
        let is = |slot| {
            row(forest, slot).is_some_and(|thread| (thread.room.get(), thread.parent.get()) == (room, parent))
        };
        let slot = self.index.find(self.hash(room, parent), is)?;
        Some((slot, row(forest, slot)?))
    }

    /// From a checkpoint. False: there can be no such thread.
    pub(super) fn restore(&mut self, slot: u32, room: RoomId, parent: u64, forest: &Forest) -> bool {
        if self.find(forest, room, parent).is_some() || !self.slots.take_at(slot) {
            return false;
        }
        self.index.insert(self.hash(room, parent), slot);
        true
    }

    /// Numbers the next reply to a message. The caller has made sure that there is [room](Self::has_room) for it.
    fn reply(
        &mut self,
        forest: &mut Forest,
        room: RoomId,
        parent: u64,
        (seq, time): (u64, u64),
    ) -> ThreadRow {
        let (slot, mut thread) = self.find(forest, room, parent).unwrap_or_else(|| {
            let slot = self.slots.take();
            self.index.insert(self.hash(room, parent), slot);
            // What the lane had before is cut off.
            let base = (forest.first(self.lane(slot)) - 1).into();
            let (room, parent, mark_seq) = (room.into(), parent.into(), seq.into());
            let (count, last, mark) = (0.into(), 0.into(), 1.into());
            (slot, ThreadRow { room, parent, base, count, last, mark, mark_seq })
        });
        thread.count += 1;
        thread.last = seq.into();
        tables::put_thread(forest, slot, &thread);
        forest.append(&entry(
            self.lane(slot),
            thread.base.get() + thread.count.get(),
            time,
            &seq.to_le_bytes(),
        ));
        thread
    }

    fn has_room(&self, forest: &Forest, room: RoomId, parent: u64) -> bool {
        self.slots.taken() < self.limit || self.find(forest, room, parent).is_some()
    }

    /// Looks at the next threads: what retention has removed of their replies goes from their lanes too, and a thread
    /// that has none left is gone.
    fn tidy(&mut self, forest: &mut Forest) {
        if self.slots.taken() == 0 {
            return;
        }
        let mut hand = tables::hand(forest, self.limit).unwrap_or(0);
        for _ in 0..LOOKED_AT {
            self.tidy_one(forest, hand);
            hand = if hand + 1 < self.limit { hand + 1 } else { 0 };
        }
        tables::put_hand(forest, self.limit, hand);
    }

    fn tidy_one(&mut self, forest: &mut Forest, slot: u32) {
        let Some(mut thread) = row(forest, slot) else { return };
        let (room, parent, base) = (thread.room.get(), thread.parent.get(), thread.base.get());
        let first = forest.first(room);
        if thread.last.get() < first {
            forest.cut(self.lane(slot), base + thread.count.get() + 1);
            self.index.remove(self.hash(room, parent), slot);
            self.slots.release(slot);
            tables::clear(forest, tables::THREADS, slot);
        } else if thread.mark_seq.get() < first {
            forest.cut(self.lane(slot), base + thread.mark.get() + 1);
            (thread.mark, thread.mark_seq) = (thread.count, thread.last);
            tables::put_thread(forest, slot, &thread);
        }
    }

    /// The rows and cuts of all threads, and of none that is not found.
    #[cfg(test)]
    pub(super) fn write_all(&self, forest: &Forest, into: &mut Forest) {
        for slot in 0..self.limit {
            into.cut(self.lane(slot), forest.first(self.lane(slot)));
        }
        for slot in self.slots.iter() {
            let thread = row(forest, slot).expect("a thread has a row");
            let found = self.find(forest, thread.room.get(), thread.parent.get());
            assert_eq!(found, Some((slot, thread)));
            tables::put_thread(into, slot, &thread);
        }
        if self.limit > 0 {
            tables::put_hand(into, self.limit, tables::hand(forest, self.limit).expect("a number"));
        }
    }

    fn hash(&self, room: RoomId, parent: u64) -> u32 {
        Hash::new(self.seed).number(u64::from(room)).number(parent).finish()
    }
}

fn row(forest: &Forest, slot: u32) -> Option<ThreadRow> {
    tables::thread(forest, slot).expect("rows have the size of their table")
}

/// What a lane says of a reply.
fn entry(lane: u32, number: u64, time: u64, seq: &[u8]) -> Record<'_> {
    Record {
        room: lane,
        seq: number,
        time,
        parent: 0,
        chain: Digest::ZERO,
        state: State::Whole,
        meta: &[],
        content: seq,
    }
}

/// The sequence that a record of a lane speaks of.
pub(super) fn named(record: &Record<'_>) -> Result<u64, Malformed> {
    let seq = record.content.try_into().map(u64::from_le_bytes).map_err(|_| Malformed)?;
    if record.state == State::Whole && record.meta.is_empty() { Ok(seq) } else { Err(Malformed) }
}

impl Chat {
    /// Whether a message may answer that one.
    pub(super) fn check_parent(&self, id: RoomId, head: u64, parent: u64) -> Result<(), ErrorCode> {
        if parent == 0 {
            return Ok(());
        }
        if !(self.first(id)..=head).contains(&parent) {
            return Err(ErrorCode::ParentUnknown);
        }
        let has_room = self.threads.has_room(&self.forest, id, parent);
        if has_room { Ok(()) } else { Err(ErrorCode::TooManyThreads) }
    }

    /// The number of a message among the replies to its parent; zero: it answers nothing.
    pub(super) fn reply(&mut self, turn: Turn, id: RoomId, message: &MessageEvent<'_>) -> u64 {
        if message.parent == 0 {
            return 0;
        }
        let place = (message.seq, turn.time);
        self.threads.reply(&mut self.forest, id, message.parent, place).count.get()
    }

    /// After each publish.
    pub(super) fn tidy_threads(&mut self) {
        self.threads.tidy(&mut self.forest);
    }

    /// Threads that have replies, as the rows have them: room, parent, replies, the last of them.
    #[must_use]
    pub fn threads(&self) -> Vec<(&str, u64, u64, u64)> {
        let rows = self.threads.slots.iter().filter_map(|slot| row(&self.forest, slot));
        rows.map(|row| (self.rooms.name(row.room.get()), row.parent.get(), row.count.get(), row.last.get()))
            .collect()
    }
}
