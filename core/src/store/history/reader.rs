//! Pages of a room's history, from memory and from runs.
//!
//! The one law: **a page has no gap: it is what lies between the room's first and last sequence, or it says which
//! block it waits for.** A page keeps only how far it got and looks anew where the next message lies each time it goes
//! on, so that whatever merges do between two of its reads does not concern it.
//!
//! What a page reads: the messages of a page lie in a row in each run that it crosses, so that is at most one block
//! more than they fill, for each run ([`Page`]'s test counts it).

use alloc::vec::Vec;

use super::Key;
use super::memtable::Memtable;
use super::record::{Record, State};
use super::run::{Entry, Records};
use super::tree::Tree;
use crate::store::grid::GridShape;
use crate::store::grid::block::{self, Block, BlockRef, Kind};
use crate::store::grid::cache::Cache;
use crate::wire::codec::Malformed;
use crate::wire::entry::Digest;

/// Blocks that were read and checked.
pub trait Blocks {
    /// The payload of this very block, if it is here.
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]>;

    /// Told of a read that lacks a block: this one it needs too, unless it ends before. So all can be fetched together.
    fn expect(&mut self, _: &BlockRef) {}
}

impl Blocks for Cache {
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        Self::get(self, reference)
    }
}

/// No block is ever here: for histories that are in memory, and tests of what waits for blocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBlocks;

impl Blocks for NoBlocks {
    fn get(&mut self, _: &BlockRef) -> Option<&[u8]> {
        None
    }
}

/// All of history as a reader sees it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub shape: &'a GridShape,
    pub tree: &'a Tree,
    /// Newest last.
    pub memory: [&'a Memtable; 2],
    /// Messages whose content nobody is shown any more, each part ascending.
    pub erased: [&'a [Key]; 2],
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All that was asked for was yielded, or whoever takes it had enough.
    Done,
    /// This block is needed.
    Needs(BlockRef),
}

impl<'a> View<'a> {
    fn in_memory(&self, key: Key) -> Option<Record<'a>> {
        self.memory.iter().rev().find_map(|table| table.get(key))
    }

    fn hides(&self, record: &Record<'_>) -> bool {
        record.state == State::Whole
            && self.erased.iter().any(|keys| keys.binary_search(&record.key()).is_ok())
    }
}

fn records<'a>(shape: &GridShape, reference: &BlockRef, payload: &'a [u8]) -> Result<Records<'a>, Malformed> {
    match block::look(shape, reference.address, payload)? {
        Block { kind: Kind::Records, body, .. } => Ok(Records::new(body)),
        _ => Err(Malformed),
    }
}

/// Messages of a room one after the other, in either direction.
#[derive(Clone, Debug)]
pub struct Page {
    room: u32,
    /// The next to yield.
    next: u64,
    first: u64,
    last: u64,
    direction: Direction,
    left: u32,
    /// Blocks that it had to look into.
    pub blocks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards newer ones.
    Up,
    /// Towards older ones.
    Down,
}

impl Page {
    /// Up to `limit` messages of a room from `from` on. The room's history goes from `first` to `last`; what lies
    /// outside is not yielded.
    #[must_use]
    pub fn new(room: u32, from: u64, direction: Direction, limit: u32, first: u64, last: u64) -> Self {
        let next = match direction {
            Direction::Up => from.max(first),
            Direction::Down => from.min(last),
        };
        Self { room, next, first, last, direction, left: limit, blocks: 0 }
    }

    /// Where the page that follows begins; `None`: there is none.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        (self.first..=self.last).contains(&self.next).then_some(self.next)
    }

    /// Goes on: yields messages to `sink` (which says whether it wants more) until the page is done or a block is
    /// needed that is not here. [`Malformed`]: a block is not what the index says.
    pub fn go_on(
        &mut self,
        view: &View<'_>,
        blocks: &mut dyn Blocks,
        sink: &mut dyn FnMut(&Record<'_>) -> bool,
    ) -> Result<Ended, Malformed> {
        loop {
            let Some(seq) = self.next().filter(|_| self.left > 0) else { return Ok(Ended::Done) };
            let key = Key { room: self.room, seq };
            if let Some(record) = view.in_memory(key) {
                if !self.show(view, &record, sink) {
                    return Ok(Ended::Done);
                }
                continue;
            }
            let (&Entry { reference, .. }, counts) = view.tree.find(key).ok_or(Malformed)?;
            let Some(payload) = blocks.get(&reference) else {
                self.expect(view, blocks);
                return Ok(Ended::Needs(reference));
            };
            self.blocks += 1;
            if !self.take(view, records(view.shape, &reference, payload)?, counts, sink)? {
                return Ok(Ended::Done);
            }
        }
    }

    /// Names the blocks that what is left of the page lies in, those that it needs first before the others.
    pub fn expect(&self, view: &View<'_>, blocks: &mut dyn Blocks) {
        let Some(next) = self.next().filter(|_| self.left > 0) else { return };
        let others = u64::from(self.left) - 1;
        let (low, high) = match self.direction {
            Direction::Up => (next, next.saturating_add(others).min(self.last)),
            Direction::Down => (next.saturating_sub(others).max(self.first), next),
        };
        if view.in_memory(Key { room: self.room, seq: low }).is_some() {
            return;
        }
        let mut holders = view.tree.holders(self.room, low, high);
        if self.direction == Direction::Down {
            holders.reverse();
        }
        holders.iter().for_each(|reference| blocks.expect(reference));
    }

    /// Yields what a block has of the page, from sequence `counts` on; an error when it has not even the next one.
    fn take(
        &mut self,
        view: &View<'_>,
        records: Records<'_>,
        counts: u64,
        sink: &mut dyn FnMut(&Record<'_>) -> bool,
    ) -> Result<bool, Malformed> {
        let (room, next) = (self.room, self.next);
        let of_room = records.skip_while(|record| record.key() < Key { room, seq: counts });
        let of_room = of_room.take_while(|record| record.room == room);
        let mut found = false;
        match self.direction {
            Direction::Up => {
                for record in of_room.skip_while(|record| record.seq < next) {
                    if record.seq != self.next || self.left == 0 || self.next > self.last {
                        break;
                    }
                    found = true;
                    if !self.show(view, &record, sink) {
                        return Ok(false);
                    }
                }
            }
            Direction::Down => {
                let up_to: Vec<Record<'_>> = of_room.take_while(|record| record.seq <= next).collect();
                for record in up_to.iter().rev() {
                    if record.seq != self.next || self.left == 0 || self.next < self.first {
                        break;
                    }
                    found = true;
                    if !self.show(view, record, sink) {
                        return Ok(false);
                    }
                }
            }
        }
        if found { Ok(true) } else { Err(Malformed) }
    }

    /// Yields a message, without its content when that was erased.
    fn show(
        &mut self,
        view: &View<'_>,
        record: &Record<'_>,
        sink: &mut dyn FnMut(&Record<'_>) -> bool,
    ) -> bool {
        let more = if view.hides(record) {
            let digest = Digest::of(record.content);
            sink(&record.to_erased(&digest))
        } else {
            sink(record)
        };
        self.next = match self.direction {
            Direction::Up => self.next + 1,
            Direction::Down => self.next - 1,
        };
        self.left -= 1;
        more
    }
}

/// Where a room's messages since some time begin.
#[derive(Clone, Copy, Debug)]
pub struct Seek {
    room: u32,
    time: u64,
    last: u64,
    /// Messages before this one are known to be older, or do not count.
    from: u64,
}

/// What a [`Seek`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// The first sequence whose time is not before; `last + 1`: there is none yet.
    Seq(u64),
    /// This block is needed. A seek needs one; three when the room is being merged just now.
    Needs(BlockRef),
}

impl Seek {
    /// `time` in Unix nanoseconds; the room's history goes from `first` to `last`.
    #[must_use]
    pub fn new(room: u32, time: u64, first: u64, last: u64) -> Self {
        Self { room, time, last, from: first }
    }

    pub fn look(&mut self, view: &View<'_>, blocks: &mut dyn Blocks) -> Result<Sought, Malformed> {
        let clamp = |seq: u64| Ok(Sought::Seq(seq.min(self.last + 1)));
        loop {
            let from = Key { room: self.room, seq: self.from };
            let Some(entry) = view.tree.find_since(from, self.time) else { break };
            if entry.first == from && entry.time >= self.time {
                return clamp(self.from);
            }
            let Some(payload) = blocks.get(&entry.reference) else {
                return Ok(Sought::Needs(entry.reference));
            };
            let of_room = records(view.shape, &entry.reference, payload)?;
            let mut of_room = of_room.filter(|record| record.key() >= from && record.room == self.room);
            // The first of them that is not before, or the last of them.
            let found = of_room.by_ref().find(|record| record.time >= self.time);
            if let Some(found) = found {
                return clamp(found.seq);
            }
            let of_room = records(view.shape, &entry.reference, payload)?;
            let last =
                of_room.filter(|record| record.room == self.room).last().map_or(0, |record| record.seq);
            if last < self.from {
                break;
            }
            self.from = last + 1;
        }
        let found = view.memory.iter().find_map(|table| table.first_since(self.room, self.time));
        clamp(found.unwrap_or(self.last + 1).max(self.from))
    }
}
