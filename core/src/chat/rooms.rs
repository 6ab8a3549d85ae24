//! Rooms: their names and where each one's log stands.
//!
//! The one law: **a room's sequence has no gaps**: it goes from 1 to `head`. What of it is still in history says the
//! forest, which is told of every change here ([`super::tables`]).

use alloc::vec::Vec;

use super::index::{Hash, Index};
use super::tables::RoomRow;
use crate::types::TenantId;
use crate::wire::chat::ROOM_NAME_MAX;
use crate::wire::entry::Digest;

/// A room's place in the order in which rooms were opened. Rooms are never removed.
pub(super) type RoomId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) tenant: TenantId,
    /// Where its name ends in the names of all rooms; it begins where the one before ends.
    name_end: u32,
    /// The op that created it.
    pub(super) epoch: u64,
    /// Sequence of the newest message; zero: none yet.
    pub(super) head: u64,
    /// Chain value at `head`.
    pub(super) chain: Digest,
}

pub(super) struct Rooms {
    rooms: Vec<Room>,
    /// All names, one after the other. Its capacity is what `limit` rooms of the longest name need.
    names: Vec<u8>,
    index: Index,
    seed: u64,
    limit: u32,
}

impl Rooms {
    pub(super) fn new(limit: u32, seed: u64) -> Self {
        Self {
            rooms: Vec::with_capacity(limit as usize),
            names: Vec::with_capacity(limit as usize * ROOM_NAME_MAX),
            index: Index::new(limit),
            seed,
            limit,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.rooms.len() as u32
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() == self.limit
    }

    pub(super) fn find(&self, tenant: TenantId, name: &str) -> Option<RoomId> {
        self.index.find(self.hash(tenant, name.as_bytes()), |id| {
            self.get(id).tenant == tenant && self.name_bytes(id) == name.as_bytes()
        })
    }

    /// Adds an empty room. The caller has made sure that the name is valid and new, and that there is room.
    pub(super) fn add(&mut self, tenant: TenantId, name: &str, epoch: u64) -> RoomId {
        let id = self.len();
        self.index.insert(self.hash(tenant, name.as_bytes()), id);
        self.names.extend_from_slice(name.as_bytes());
        let name_end = u32::try_from(self.names.len()).expect("2^24 names of 128 bytes are below 4 GiB");
        self.rooms.push(Room { tenant, name_end, epoch, head: 0, chain: Digest::ZERO });
        id
    }

    pub(super) fn get(&self, id: RoomId) -> &Room {
        &self.rooms[id as usize]
    }

    pub(super) fn get_mut(&mut self, id: RoomId) -> &mut Room {
        &mut self.rooms[id as usize]
    }

    /// As its row has it.
    pub(super) fn row(&self, id: RoomId) -> RoomRow<'_> {
        let Room { tenant, epoch, head, chain, .. } = *self.get(id);
        RoomRow { tenant, epoch, head, chain, name: self.name(id) }
    }

    pub(super) fn name(&self, id: RoomId) -> &str {
        core::str::from_utf8(self.name_bytes(id)).expect("made from a str")
    }

    fn name_bytes(&self, id: RoomId) -> &[u8] {
        let start = if id == 0 { 0 } else { self.get(id - 1).name_end };
        &self.names[start as usize..self.get(id).name_end as usize]
    }

    fn hash(&self, tenant: TenantId, name: &[u8]) -> u32 {
        Hash::new(self.seed).number(u64::from(tenant.0)).bytes(name).finish()
    }
}
