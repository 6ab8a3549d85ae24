//! The messages of one interval, in memory: appended as they are committed, looked up by room and sequence, and read
//! room after room when they become a run.
//!
//! The one law: **appending never sorts.** Messages of a room come in order, so a list for each room is sorted as it
//! grows, and rooms are numbers that can be walked in order: nothing has to be done at once when an interval ends.

use alloc::vec;
use alloc::vec::Vec;

use hashbrown::HashTable;

use super::Key;
use super::record::Record;
use crate::wire::codec::Reader;

/// No place.
const NONE: u32 = u32::MAX;

/// See the module.
pub struct Memtable {
    /// Encoded records, one after the other.
    arena: Vec<u8>,
    places: Vec<Place>,
    /// First and last place of each room.
    rooms: Vec<(u32, u32)>,
    /// Places by key. Never iterated.
    index: HashTable<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    key: Key,
    time: u64,
    start: usize,
    /// The next of the same room.
    next: u32,
}

/// How far a table was read, room after room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    room: u32,
    /// Messages of that room that were read, as the place of the next; `None`: none yet.
    place: Option<u32>,
}

impl Memtable {
    /// An empty table with room for so many messages and bytes before it has to allocate.
    #[must_use]
    pub fn new(rooms: u32, messages: usize, bytes: usize) -> Self {
        Self {
            arena: Vec::with_capacity(bytes),
            places: Vec::with_capacity(messages),
            rooms: vec![(NONE, NONE); rooms as usize],
            index: HashTable::with_capacity(messages),
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of all records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.arena.clear();
        for place in self.places.drain(..) {
            self.rooms[place.key.room as usize] = (NONE, NONE);
        }
        self.index.clear();
    }

    /// Appends the next message of its room.
    ///
    /// # Panics
    /// When the room has no such number or the message does not follow the room's last one here: our own bug.
    pub fn append(&mut self, record: &Record<'_>) {
        let (key, place) = (record.key(), self.places.len() as u32);
        let (first, last) = self.rooms[key.room as usize];
        match self.places.get_mut(last as usize) {
            Some(last) => {
                assert_eq!(last.key.seq + 1, key.seq, "messages of a room come in order");
                last.next = place;
                self.rooms[key.room as usize] = (first, place);
            }
            None => self.rooms[key.room as usize] = (place, place),
        }
        self.places.push(Place { key, time: record.time, start: self.arena.len(), next: NONE });
        record.encode(&mut self.arena);
        let places = &self.places;
        self.index.insert_unique(hash(key), place, |place| hash(places[*place as usize].key));
    }

    /// The message of this key.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<Record<'_>> {
        let place = self.index.find(hash(key), |place| self.places[*place as usize].key == key)?;
        Some(self.record(*place))
    }

    /// The room's first message here.
    #[must_use]
    pub fn first(&self, room: u32) -> Option<u64> {
        let (first, _) = *self.rooms.get(room as usize)?;
        self.places.get(first as usize).map(|place| place.key.seq)
    }

    /// The room's first message here whose time is not before `time`. Walks the room's list.
    #[must_use]
    pub fn first_since(&self, room: u32, time: u64) -> Option<u64> {
        let (first, _) = *self.rooms.get(room as usize)?;
        let place = |at: u32| self.places.get(at as usize);
        core::iter::successors(place(first), |now| place(now.next))
            .find(|place| place.time >= time)
            .map(|place| place.key.seq)
    }

    /// The next message in order of rooms and sequences.
    #[must_use]
    pub fn next(&self, cursor: &mut Cursor) -> Option<Record<'_>> {
        while (cursor.room as usize) < self.rooms.len() {
            let place = cursor.place.unwrap_or(self.rooms[cursor.room as usize].0);
            if let Some(found) = self.places.get(place as usize) {
                cursor.place = Some(found.next);
                return Some(self.record(place));
            }
            *cursor = Cursor { room: cursor.room + 1, place: None };
        }
        None
    }

    fn record(&self, place: u32) -> Record<'_> {
        let bytes = &self.arena[self.places[place as usize].start..];
        Record::decode(&mut Reader::new(bytes)).expect("it was encoded here")
    }
}

impl core::fmt::Debug for Memtable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Memtable({} messages, {} bytes)", self.len(), self.bytes())
    }
}

/// Of no meaning outside this table, and of no consequence: the table is never iterated. Rooms are numbered by the
/// log and sequences have no gaps, so nobody can choose keys that collide.
fn hash(key: Key) -> u64 {
    let word = (u64::from(key.room) << 40 ^ key.seq).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^ word >> 32
}

#[cfg(test)]
mod tests {
    use super::super::record::State;
    use super::*;
    use crate::wire::entry::Digest;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    fn record<'a>(room: u32, seq: u64, time: u64, content: &'a [u8]) -> Record<'a> {
        let (chain, state) = (Digest([seq as u8; 32]), State::Whole);
        Record { room, seq, time, parent: 0, chain, state, meta: b"m", content }
    }

    proptest! {
        #[test]
        fn a_table_is_a_sorted_map(rooms in prop::collection::vec(0u32..6, 0..200)) {
            let mut table = Memtable::new(6, 4, 10);
            for round in 0..2 {
                let (mut model, mut heads) = (BTreeMap::new(), [round * 7_u64; 6]);
                for (time, room) in rooms.iter().enumerate() {
                    heads[*room as usize] += 1;
                    let content = [time as u8; 3];
                    let record = record(*room, heads[*room as usize], time as u64, &content);
                    table.append(&record);
                    model.insert(record.key(), content);
                }
                let mut cursor = Cursor::default();
                for (key, content) in &model {
                    let next = table.next(&mut cursor).unwrap();
                    prop_assert_eq!((next.key(), next.content), (*key, &content[..]));
                    prop_assert_eq!(table.get(*key), Some(next));
                }
                prop_assert!(table.next(&mut cursor).is_none());
                for room in 0..7 {
                    let first = model.keys().find(|key| key.room == room).map(|key| key.seq);
                    prop_assert_eq!(table.first(room), first);
                    let since = model.keys().find(|key| key.room == room && model[key][0] >= 50);
                    prop_assert_eq!(table.first_since(room, 50), since.map(|key| key.seq));
                }
                let nobody = Key { room: 0, seq: 999 };
                prop_assert!(table.get(nobody).is_none());
                table.clear();
                prop_assert!(table.is_empty() && table.first(0).is_none());
            }
        }
    }
}
