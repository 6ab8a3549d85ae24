//! The messages that are still in memory: one ring for all rooms.
//!
//! The one law: **the globally oldest message leaves first**, and when it leaves follows from counts and encoded
//! sizes alone, never from where bytes happen to lie: a replica that came from a checkpoint keeps the same
//! messages as one that never stopped.
//!
//! A record is the message's event exactly as it goes to edges, so that a page of history, a checkpoint and the
//! feed are copies of bytes.

use alloc::vec;
use alloc::vec::Vec;

use super::index::{Hash, Index};
use super::limits::Limits;
use super::rooms::RoomId;
use crate::wire::entry::Digest;

pub(super) struct History {
    /// Records one after the other, each in one piece; where one does not fit before the end, it begins at zero.
    /// Larger than `bytes_limit` by two records, so that such a gap never costs a message its place.
    arena: Vec<u8>,
    /// What lies where, in a ring over `len` slots from `oldest` on.
    places: Vec<Place>,
    oldest: u32,
    len: u32,
    bytes: usize,
    bytes_limit: usize,
    index: Index,
    seed: u64,
}

/// A record in the arena.
#[derive(Clone, Copy)]
struct Place {
    room: RoomId,
    seq: u64,
    start: usize,
    size: u32,
    chain: Digest,
}

/// What left history.
pub(super) struct Removed {
    pub(super) room: RoomId,
    pub(super) seq: u64,
    pub(super) chain: Digest,
}

impl History {
    pub(super) fn new(limits: &Limits, seed: u64) -> Self {
        let nothing = Place { room: 0, seq: 0, start: 0, size: 0, chain: Digest::ZERO };
        Self {
            arena: vec![0; limits.message_bytes as usize + 2 * limits.record_max()],
            places: vec![nothing; limits.messages as usize],
            oldest: 0,
            len: 0,
            bytes: 0,
            bytes_limit: limits.message_bytes as usize,
            index: Index::new(limits.messages),
            seed,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Bytes of all records.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a record of this size fits without removing another.
    pub(super) fn fits(&self, size: usize) -> bool {
        (self.len as usize) < self.places.len() && self.bytes + size <= self.bytes_limit
    }

    /// Appends a record that fits.
    pub(super) fn push(&mut self, room: RoomId, seq: u64, chain: Digest, record: &[u8]) {
        assert!(self.fits(record.len()), "the caller made room");
        let mut start = self.newest().map_or(0, |newest| newest.start + newest.size as usize);
        if start + record.len() > self.arena.len() {
            start = 0;
        }
        self.arena[start..start + record.len()].copy_from_slice(record);
        let size = u32::try_from(record.len()).expect("records are below 4 GiB");
        let slot = self.slot(self.len);
        self.places[slot as usize] = Place { room, seq, start, size, chain };
        self.len += 1;
        self.bytes += record.len();
        self.index.insert(self.hash(room, seq), slot);
    }

    /// Removes the oldest record; `None` when there is none.
    pub(super) fn pop(&mut self) -> Option<Removed> {
        if self.len == 0 {
            return None;
        }
        let slot = self.oldest;
        let Place { room, seq, size, chain, .. } = self.places[slot as usize];
        self.index.remove(self.hash(room, seq), slot);
        self.oldest = self.slot(1);
        self.len -= 1;
        self.bytes -= size as usize;
        Some(Removed { room, seq, chain })
    }

    /// The record of a message.
    pub(super) fn get(&self, room: RoomId, seq: u64) -> Option<&[u8]> {
        let is = |slot: u32| {
            let place = &self.places[slot as usize];
            place.room == room && place.seq == seq
        };
        let slot = self.index.find(self.hash(room, seq), is)?;
        Some(self.record(&self.places[slot as usize]))
    }

    /// All records, oldest first, in at most two pieces.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let Some(newest) = self.newest() else { return };
        let start = self.places[self.oldest as usize].start;
        let end = newest.start + newest.size as usize;
        if start < end {
            out.extend_from_slice(&self.arena[start..end]);
            return;
        }
        // Up to the gap, which begins where the last record before the wrap ends.
        let tail = self.bytes - end;
        out.extend_from_slice(&self.arena[start..start + tail]);
        out.extend_from_slice(&self.arena[..end]);
    }

    fn newest(&self) -> Option<&Place> {
        self.len.checked_sub(1).map(|last| &self.places[self.slot(last) as usize])
    }

    fn record(&self, place: &Place) -> &[u8] {
        &self.arena[place.start..place.start + place.size as usize]
    }

    fn slot(&self, nth: u32) -> u32 {
        ((self.oldest as usize + nth as usize) % self.places.len()) as u32
    }

    fn hash(&self, room: RoomId, seq: u64) -> u32 {
        Hash::new(self.seed).number(u64::from(room)).number(seq).finish()
    }
}
