//! What operators, `inspect` and the simulator's final check may see of the state.

use alloc::vec::Vec;

use super::rooms::RoomId;
use super::{Chat, answer, history};
use crate::store::history::reader::{Blocks, Direction, Ended, Page};
use crate::store::history::record::{Record, State};
use crate::types::TenantId;
use crate::vsr::machine::Unanswered;
use crate::wire::chat::MessageEvent;
use crate::wire::codec::Malformed;
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
}

/// How full the tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub rooms: u32,
    pub keys: u32,
    /// Keys of anybody before this Unix time in milliseconds are refused; zero until keys ran out.
    pub key_horizon_ms: u64,
    pub present: u32,
    /// Threads that have replies.
    pub threads: u32,
    /// Blocks of the grid in use, and how many there may ever be.
    pub blocks: u64,
    pub blocks_max: u64,
}

impl Chat {
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            rooms: self.rooms.len(),
            keys: self.dedup.len(),
            key_horizon_ms: self.dedup.horizon(),
            present: self.presence.stay_count(),
            threads: self.threads.len(),
            blocks: self.forest.free_set().used(),
            blocks_max: self.forest.shape().grid.blocks_max,
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

    /// Shows `sink` the messages of a room that history holds, in ascending order. When a block is missing it was shown
    /// those before, and is shown them again when this is asked again.
    pub fn messages(
        &self,
        tenant: TenantId,
        name: &str,
        blocks: &mut dyn Blocks,
        sink: &mut dyn FnMut(MessageEvent<'_>),
    ) -> Result<(), Unanswered> {
        self.linked_messages(tenant, name, blocks, &mut |message, _| sink(message))
    }

    /// The same, and of an erased message the digest of its content: what its chain value is verified by.
    pub fn linked_messages(
        &self,
        tenant: TenantId,
        name: &str,
        blocks: &mut dyn Blocks,
        sink: &mut dyn FnMut(MessageEvent<'_>, Option<Digest>),
    ) -> Result<(), Unanswered> {
        let Some(id) = self.rooms.find(tenant, name) else { return Ok(()) };
        self.records(id, self.first(id), self.rooms.get(id).head, blocks, &mut |record| {
            let erased = match record.state {
                State::Erased => Some(Digest(record.content.try_into().map_err(|_| Malformed)?)),
                State::Whole | State::Anchor => None,
            };
            sink(history::event(&self.rooms, record)?, erased);
            Ok(())
        })
    }

    /// The chain value at `first - 1` of a room: where a verification of its history begins. Zero when nothing was cut
    /// off, or there is no such room.
    pub fn anchor(
        &self,
        tenant: TenantId,
        name: &str,
        blocks: &mut dyn Blocks,
    ) -> Result<Digest, Unanswered> {
        let mut chain = Digest::ZERO;
        let id = self.rooms.find(tenant, name).filter(|id| self.first(*id) > 1);
        if let Some(id) = id {
            let last = self.first(id) - 1;
            self.records(id, last, last, blocks, &mut |record| {
                chain = record.chain;
                Ok(())
            })?;
        }
        Ok(chain)
    }

    /// All records of a room from `first` to `last`.
    fn records(
        &self,
        id: RoomId,
        first: u64,
        last: u64,
        blocks: &mut dyn Blocks,
        each: &mut dyn FnMut(&Record<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Unanswered> {
        let (mut from, mut is_whole) = (first, Ok(()));
        while from <= last {
            let mut page = Page::new(id, from, Direction::Up, u32::MAX, first, last);
            let ended = page.go_on(&self.forest.view(), blocks, &mut |record| {
                from = record.seq + 1;
                is_whole = each(record);
                is_whole.is_ok()
            })?;
            is_whole?;
            if let Ended::Needs(reference) = ended {
                return Err(Unanswered::Needs(reference));
            }
        }
        Ok(())
    }

    /// Users present in a room, in order of their names.
    #[must_use]
    pub fn present(&self, tenant: TenantId, name: &str) -> Vec<&str> {
        self.rooms.find(tenant, name).map_or_else(Vec::new, |id| answer::sorted(self, id))
    }

    fn view(&self, id: RoomId) -> RoomView<'_> {
        let room = self.rooms.get(id);
        RoomView {
            tenant: room.tenant,
            name: self.rooms.name(id),
            epoch: room.epoch,
            first: self.first(id),
            head: room.head,
            chain: room.chain,
        }
    }
}
