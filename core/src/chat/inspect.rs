//! What operators, `inspect` and the simulator's final check may see of the state.

use alloc::vec::Vec;

use super::rooms::RoomId;
use super::{Chat, answer};
use crate::types::TenantId;
use crate::wire::chat::{MessageEvent, RoomEvent};
use crate::wire::codec::Reader;
use crate::wire::entry::Digest;

/// A room as inspectors see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomView<'a> {
    pub tenant: TenantId,
    pub name: &'a str,
    pub epoch: u64,
    /// Oldest sequence in history; `head + 1` when there is none.
    pub first: u64,
    pub head: u64,
    /// Chain value at `head`.
    pub chain: Digest,
    /// Chain value at `first - 1`: where a verification of the history begins.
    pub anchor: Digest,
}

/// How full the tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub rooms: u32,
    pub messages: u32,
    pub message_bytes: u32,
    pub keys: u32,
    /// Keys of anybody before this Unix time in milliseconds are refused; zero until keys ran out.
    pub key_horizon_ms: u64,
    pub present: u32,
}

impl Chat {
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            rooms: self.rooms.len(),
            messages: self.history.len(),
            message_bytes: u32::try_from(self.history.bytes()).expect("limits are below 4 GiB"),
            keys: self.dedup.len(),
            key_horizon_ms: self.dedup.horizon(),
            present: self.presence.stay_count(),
        }
    }

    /// All rooms, in the order in which they were opened.
    pub fn rooms(&self) -> impl Iterator<Item = RoomView<'_>> {
        (0..self.rooms.len()).map(|id| self.view(id))
    }

    #[must_use]
    pub fn room(&self, tenant: TenantId, name: &str) -> Option<RoomView<'_>> {
        self.rooms.find(tenant, name).map(|id| self.view(id))
    }

    /// The messages of a room that history holds, in ascending order.
    pub fn messages(&self, tenant: TenantId, name: &str) -> impl Iterator<Item = MessageEvent<'_>> {
        let room = self.rooms.find(tenant, name).map(|id| (id, self.rooms.get(id)));
        room.into_iter()
            .flat_map(move |(id, room)| (room.first..=room.head).map(move |seq| self.message(id, seq)))
    }

    /// Users present in a room, in order of their names.
    #[must_use]
    pub fn present(&self, tenant: TenantId, name: &str) -> Vec<&str> {
        self.rooms.find(tenant, name).map_or_else(Vec::new, |id| answer::sorted(self, id))
    }

    fn message(&self, id: RoomId, seq: u64) -> MessageEvent<'_> {
        let record = self.history.get(id, seq).expect("history holds first to head");
        match RoomEvent::decode(&mut Reader::new(record)) {
            Ok(RoomEvent::Message(message)) => message,
            _ => unreachable!("records are messages that were encoded here, or checked"),
        }
    }

    fn view(&self, id: RoomId) -> RoomView<'_> {
        let room = self.rooms.get(id);
        RoomView {
            tenant: room.tenant,
            name: self.rooms.name(id),
            epoch: room.epoch,
            first: room.first,
            head: room.head,
            chain: room.chain,
            anchor: room.anchor,
        }
    }
}
