//! The one history, as far as anyone has seen it: what two witnesses say of one place must be the same.

use std::collections::BTreeMap;

use io_sim::history::{Final, FinalReplica, SeenMessage};

/// Messages by room and epoch, then by sequence.
#[derive(Debug, Default)]
pub struct Ledger {
    rooms: BTreeMap<String, BTreeMap<(u64, u64), SeenMessage>>,
}

impl Ledger {
    /// Adds what a witness saw. When another message stands in that place already, it is the answer.
    pub fn witness(&mut self, message: &SeenMessage) -> Result<(), &SeenMessage> {
        if !self.rooms.contains_key(&message.room) {
            self.rooms.insert(message.room.clone(), BTreeMap::new());
        }
        let places = self.rooms.get_mut(&message.room).expect("it was just put there");
        let known = places.entry((message.epoch, message.seq)).or_insert_with(|| message.clone());
        if known.is_same(message) { Ok(()) } else { Err(known) }
    }

    /// What stands at a place, if anyone saw it.
    #[must_use]
    pub fn at(&self, room: &str, epoch: u64, seq: u64) -> Option<&SeenMessage> {
        self.rooms.get(room)?.get(&(epoch, seq))
    }

    /// Everything that was seen, by room, epoch and sequence.
    pub fn messages(&self) -> impl Iterator<Item = &SeenMessage> {
        self.rooms.values().flat_map(BTreeMap::values)
    }
}

/// The final history: what the replica that is furthest holds.
#[must_use]
pub fn furthest(end: &Final) -> Option<&FinalReplica> {
    end.replicas.iter().max_by_key(|replica| (replica.commit, std::cmp::Reverse(replica.replica)))
}

/// The final history by place, for look-ups.
#[derive(Debug, Default)]
pub struct FinalHistory<'a> {
    rooms: BTreeMap<&'a str, &'a io_sim::history::FinalRoom>,
    places: BTreeMap<(&'a str, u64), &'a SeenMessage>,
}

/// What the final history says of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    Held(&'a SeenMessage),
    /// Below the first sequence that is still held.
    Retired,
    /// Above the head, or in no room at all.
    Missing,
}

impl<'a> FinalHistory<'a> {
    #[must_use]
    pub fn of(end: &'a Final) -> Self {
        let mut history = Self::default();
        for room in furthest(end).into_iter().flat_map(|replica| &replica.rooms) {
            history.rooms.insert(&room.room, room);
            for message in &room.messages {
                history.places.insert((&room.room, message.seq), message);
            }
        }
        history
    }

    #[must_use]
    pub fn at(&self, room: &str, seq: u64) -> Place<'a> {
        match (self.rooms.get(room), self.places.get(&(room, seq))) {
            (_, Some(message)) => Place::Held(message),
            (Some(room), None) if seq < room.first => Place::Retired,
            _ => Place::Missing,
        }
    }

    pub fn rooms(&self) -> impl Iterator<Item = &'a io_sim::history::FinalRoom> {
        self.rooms.values().copied()
    }
}
