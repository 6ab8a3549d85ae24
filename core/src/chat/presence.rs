//! Who is present in which room, as the log decided it.
//!
//! The one law: **a user is present in a room as long as some session says so.** What subscribers hear is the first
//! session's enter and the last session's leave, nothing between.
//!
//! People and stays are also rows of the forest, written as they change ([`super::tables`]).

use alloc::vec;
use alloc::vec::Vec;

use super::index::{Hash, Index, Slots};
use super::limits::Limits;
use super::names::UserName;
use super::rooms::RoomId;
use super::tables;
use crate::store::forest::Forest;

/// No slot.
const NONE: u32 = u32::MAX;

/// A user present in a room.
#[derive(Clone, Copy)]
struct Person {
    room: RoomId,
    user: UserName,
    /// Sessions that say so.
    sessions: u32,
    /// Neighbours in the room's list, which is in no particular order.
    next: u32,
    previous: u32,
}

/// A session that says that a person is present.
#[derive(Clone, Copy)]
struct Stay {
    /// Slot of the person.
    person: u32,
    session: u64,
}

/// What an enter or a leave did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The user became present, or no longer is.
    User,
    /// Another session says so too, or one of several says so no longer; or nothing changed at all.
    Nothing,
    /// The table is full.
    Refused,
}

pub(super) struct Presence {
    people: Vec<Person>,
    people_slots: Slots,
    people_index: Index,
    stays: Vec<Stay>,
    stay_slots: Slots,
    stay_index: Index,
    /// First person of each room.
    heads: Vec<u32>,
    seed: u64,
}

impl Presence {
    pub(super) fn new(limits: &Limits, seed: u64) -> Self {
        Self {
            people: Vec::with_capacity(limits.present as usize),
            people_slots: Slots::new(limits.present),
            people_index: Index::new(limits.present),
            stays: Vec::with_capacity(limits.present as usize),
            stay_slots: Slots::new(limits.present),
            stay_index: Index::new(limits.present),
            heads: vec![NONE; limits.rooms as usize],
            seed,
        }
    }

    pub(super) fn enter(&mut self, forest: &mut Forest, room: RoomId, user: &str, session: u64) -> Change {
        let known = self.person(room, user);
        if known.is_some_and(|person| self.stay(person, session).is_some()) {
            return Change::Nothing;
        }
        let Some(name) = UserName::new(user).filter(|_| !self.stay_slots.is_full()) else {
            return Change::Refused;
        };
        let person = known.unwrap_or_else(|| {
            let slot = self.people_slots.take();
            self.put_person(slot, room, name);
            tables::put_person(forest, slot, room, &name);
            slot
        });
        let slot = self.stay_slots.take();
        self.put_stay(slot, person, session);
        tables::put_stay(forest, slot, person, session);
        if known.is_none() { Change::User } else { Change::Nothing }
    }

    pub(super) fn leave(&mut self, forest: &mut Forest, room: RoomId, user: &str, session: u64) -> Change {
        let stay = self.person(room, user).and_then(|person| self.stay(person, session));
        stay.map_or(Change::Nothing, |stay| self.end(forest, stay))
    }

    /// Ends all that a session says, in order of slots, telling of each user who thereby is gone.
    pub(super) fn close(&mut self, forest: &mut Forest, session: u64, mut gone: impl FnMut(RoomId, &str)) {
        for slot in 0..self.stays.len() as u32 {
            let stay = self.stays[slot as usize];
            if stay.session == session && self.stay_slots.is_taken(slot) {
                let Person { room, user, .. } = self.people[stay.person as usize];
                if self.end(forest, slot) == Change::User {
                    gone(room, user.as_str());
                }
            }
        }
    }

    /// Users present in a room, in no particular order.
    pub(super) fn in_room(&self, room: RoomId) -> impl Iterator<Item = &str> {
        let person = |slot: u32| self.people.get(slot as usize);
        core::iter::successors(person(self.heads[room as usize]), move |now| person(now.next))
            .map(|person| person.user.as_str())
    }

    /// People with their slots, in order of these.
    fn people(&self) -> impl Iterator<Item = (u32, &Person)> {
        self.people_slots.iter().map(|slot| (slot, &self.people[slot as usize]))
    }

    pub(super) fn stay_count(&self) -> u32 {
        self.stay_slots.taken()
    }

    /// From a checkpoint, before stays; the room exists. False: there can be no such person.
    pub(super) fn restore_person(&mut self, slot: u32, room: RoomId, user: &str) -> bool {
        let Some(name) = UserName::new(user) else { return false };
        if self.person(room, user).is_some() || !self.people_slots.take_at(slot) {
            return false;
        }
        self.put_person(slot, room, name);
        true
    }

    /// From a checkpoint. False: there can be no such stay.
    pub(super) fn restore_stay(&mut self, slot: u32, person: u32, session: u64) -> bool {
        let possible = self.people_slots.is_taken(person)
            && self.stay(person, session).is_none()
            && self.stay_slots.take_at(slot);
        if possible {
            self.put_stay(slot, person, session);
        }
        possible
    }

    /// Whether every person that was restored is held by a session: one without would never leave.
    pub(super) fn is_restored(&self) -> bool {
        self.people().all(|(_, person)| person.sessions > 0)
    }

    fn person(&self, room: RoomId, user: &str) -> Option<u32> {
        self.people_index.find(self.person_hash(room, user.as_bytes()), |slot| {
            let person = &self.people[slot as usize];
            person.room == room && person.user.as_bytes() == user.as_bytes()
        })
    }

    fn stay(&self, person: u32, session: u64) -> Option<u32> {
        self.stay_index.find(self.stay_hash(person, session), |slot| {
            let stay = &self.stays[slot as usize];
            stay.person == person && stay.session == session
        })
    }

    fn put_person(&mut self, slot: u32, room: RoomId, user: UserName) {
        let next = self.heads[room as usize];
        let person = Person { room, user, sessions: 0, next, previous: NONE };
        put(&mut self.people, slot, person);
        if let Some(next) = self.people.get_mut(next as usize) {
            next.previous = slot;
        }
        self.heads[room as usize] = slot;
        self.people_index.insert(self.person_hash(room, user.as_bytes()), slot);
    }

    fn put_stay(&mut self, slot: u32, person: u32, session: u64) {
        put(&mut self.stays, slot, Stay { person, session });
        self.stay_index.insert(self.stay_hash(person, session), slot);
        self.people[person as usize].sessions += 1;
    }

    fn end(&mut self, forest: &mut Forest, slot: u32) -> Change {
        let Stay { person, session } = self.stays[slot as usize];
        self.stay_index.remove(self.stay_hash(person, session), slot);
        self.stay_slots.release(slot);
        tables::clear(forest, tables::STAYS, slot);
        self.people[person as usize].sessions -= 1;
        if self.people[person as usize].sessions > 0 {
            return Change::Nothing;
        }
        self.remove_person(person);
        tables::clear(forest, tables::PEOPLE, person);
        Change::User
    }

    fn remove_person(&mut self, slot: u32) {
        let Person { room, user, next, previous, .. } = self.people[slot as usize];
        self.people_index.remove(self.person_hash(room, user.as_bytes()), slot);
        self.people_slots.release(slot);
        if let Some(next) = self.people.get_mut(next as usize) {
            next.previous = previous;
        }
        match self.people.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => self.heads[room as usize] = next,
        }
    }

    fn person_hash(&self, room: RoomId, user: &[u8]) -> u32 {
        Hash::new(self.seed).number(u64::from(room)).bytes(user).finish()
    }

    fn stay_hash(&self, person: u32, session: u64) -> u32 {
        Hash::new(self.seed).number(u64::from(person)).number(session).finish()
    }
}

#[cfg(test)]
impl Presence {
    /// Writes all rows, for comparisons with those that were written one by one.
    pub(super) fn write_all(&self, forest: &mut Forest) {
        for (slot, person) in self.people() {
            tables::put_person(forest, slot, person.room, &person.user);
        }
        for slot in self.stay_slots.iter() {
            let Stay { person, session } = self.stays[slot as usize];
            tables::put_stay(forest, slot, person, session);
        }
    }
}

/// Writes an entry into its slot. A checkpoint may leave out free slots below it.
fn put<T: Copy>(table: &mut Vec<T>, slot: u32, entry: T) {
    while table.len() <= slot as usize {
        table.push(entry);
    }
    table[slot as usize] = entry;
}
