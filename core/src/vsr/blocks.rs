//! Blocks of the grid on their way: read from our own disk, fetched from peers when they are damaged there, served to
//! peers, kept in the cache.
//!
//! The one law: **a block is what its digest says, or it is not here** (I33): whatever the disk or a peer gives is
//! checked against the reference of whoever asked.
//!
//! ```text
//!  wanted ─ under way to the disk? in the cache? ─ yes ─▶ here
//!     └ no ─ read ─ whole ──────────────────────────────▶ here
//!              └ damaged ─ request_blocks ─▶ a peer ─ block ▶ here, and written to its place once somebody takes it
//! ```
//!
//! Who wants a block asks for it in each turn until it is here; so nobody is called back, and what nobody asks for any
//! more is forgotten. A block that came from a peer is written only while the one who takes it still refers to it: its
//! address may belong to another block by then.

use alloc::vec::Vec;

use super::held::Held;
use super::machine::Machine;
use super::marks::Mark;
use super::replica::{Ignored, Replica, Status, Timer};
use super::tokens::Waits;
use crate::io::{DiskOp, Effects};
use crate::pool::Message;
use crate::store::grid::block::{self, BLOCK_REF, BlockRef};
use crate::store::grid::cache::Cache;
use crate::store::layout::Layout;
use crate::store::sector::Zone;
use crate::types::ReplicaId;
use crate::wire::codec::Reader;
use crate::wire::frame::{Command, Frame};

/// Blocks that may be fetched at a time: two ahead for each of eight runs that are merged, and a page's.
pub(super) const FETCHES_MAX: usize = 24;
/// Blocks that one request names at most.
pub(super) const ASKED_MAX: usize = 8;
/// Blocks of a checkpoint that is taken over, on their way at a time.
pub(super) const PARTS_MAX: usize = 2 * ASKED_MAX;
/// Blocks being read for peers at a time.
pub(super) const SERVED_MAX: usize = 24;
/// Peers that were asked in a row for a block and did not have it, after which whoever wants it has to do without.
const IN_VAIN_MAX: u32 = 8;

/// In a `block`: the payload is not a block but the names of some that are not here.
pub(super) const GONE: u16 = 1;
/// In a `block`: the payload names our checkpoint. In `request_blocks`: that is what is asked for.
pub(super) const OFFER: u16 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Blocks {
    cache: Cache,
    fetches: Vec<Fetch>,
    here: Vec<Here>,
    /// Being read for peers.
    serving: Vec<(BlockRef, ReplicaId)>,
    /// Writes of the forest's blocks that were submitted and have not ended.
    pub(super) writing: usize,
    /// Blocks of the forest that the disk refused, to be written again.
    pub(super) refused: Vec<u32>,
    /// Repaired blocks on their way to the disk.
    repairs: usize,
    spare: Vec<Vec<u8>>,
    pub(super) held: Held,
}

#[derive(Debug)]
struct Fetch {
    reference: BlockRef,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// From our own disk.
    Reading,
    /// From a peer; so many did not have it.
    Asking { in_vain: u32 },
    /// Nobody has it.
    Lost,
}

/// A block that came in this turn.
#[derive(Debug)]
struct Here {
    reference: BlockRef,
    payload: Vec<u8>,
    /// It has to be written to its place.
    repairs: bool,
}

impl Blocks {
    pub(super) fn new(layout: &Layout) -> Self {
        let blocks = (layout.blocks_max as usize / 16).clamp(8, 256);
        Self {
            cache: Cache::new(blocks, layout.grid().payload_max()),
            fetches: Vec::new(),
            here: Vec::new(),
            serving: Vec::new(),
            writing: 0,
            refused: Vec::new(),
            repairs: 0,
            spare: Vec::new(),
            held: Held::default(),
        }
    }

    /// Whether no disk operation of ours will end.
    pub(super) fn is_idle(&self) -> bool {
        self.writing == 0 && self.fetches.is_empty()
    }

    /// Whether blocks of the forest or repaired ones are on their way to the disk.
    pub(super) fn is_writing(&self) -> bool {
        self.writing > 0 || self.repairs > 0
    }

    pub(super) fn is_repairing(&self) -> bool {
        self.repairs > 0
    }

    /// Blocks being fetched, and read for peers.
    pub(super) fn holds(&self) -> (usize, usize) {
        (self.fetches.len(), self.serving.len())
    }

    /// A buffer that was taken comes back.
    pub(super) fn recycle(&mut self, mut payload: Vec<u8>) {
        if self.spare.len() < FETCHES_MAX {
            payload.clear();
            self.spare.push(payload);
        }
    }

    /// Nobody wants anything any more, of what was wanted.
    pub(super) fn forget(&mut self) {
        self.fetches.retain(|fetch| fetch.stage == Stage::Reading);
        self.here.clear();
        self.refused.clear();
    }

    /// Whether nobody has this block.
    pub(super) fn is_lost(&self, reference: &BlockRef) -> bool {
        self.fetches.iter().any(|fetch| fetch.reference == *reference && fetch.stage == Stage::Lost)
    }

    /// Whether it came in this turn.
    pub(super) fn is_here(&self, reference: &BlockRef) -> bool {
        self.here.iter().any(|here| here.reference == *reference)
    }

    /// Whether somebody is looking for it.
    pub(super) fn is_fetched(&self, reference: &BlockRef) -> bool {
        self.fetches.iter().any(|fetch| fetch.reference == *reference)
    }

    fn put(&mut self, reference: BlockRef, payload: Vec<u8>, repairs: bool) {
        self.fetches.retain(|fetch| fetch.reference != reference);
        self.here.push(Here { reference, payload, repairs });
    }
}

impl<M: Machine> Replica<M> {
    /// The payload of a block that somebody refers to now; when it is nowhere in memory, it is fetched.
    pub(super) fn take_block(&mut self, reference: &BlockRef, effects: &mut Effects) -> Option<Vec<u8>> {
        if let Some(payload) = self.take_here(reference, effects) {
            self.blocks.cache.put(*reference, &payload);
            return Some(payload);
        }
        self.take_kept(reference, effects)
    }

    /// The same of one that nobody will ask for again: it drives nothing out of the cache.
    pub(super) fn take_once(&mut self, reference: &BlockRef, effects: &mut Effects) -> Option<Vec<u8>> {
        self.take_here(reference, effects).or_else(|| self.take_kept(reference, effects))
    }

    fn take_kept(&mut self, reference: &BlockRef, effects: &mut Effects) -> Option<Vec<u8>> {
        let blocks = &mut self.blocks;
        let under_way = self.machine.forest().under_way(reference);
        let Some(found) = under_way.or_else(|| blocks.cache.get(reference)) else {
            self.fetch(*reference, effects);
            return None;
        };
        let mut payload = blocks.spare.pop().unwrap_or_default();
        payload.extend_from_slice(found);
        Some(payload)
    }

    /// The same of one that came in this turn, and past the cache: scrubbing must not drive out what is asked for.
    pub(super) fn take_here(&mut self, reference: &BlockRef, effects: &mut Effects) -> Option<Vec<u8>> {
        let at = self.blocks.here.iter().position(|here| here.reference == *reference)?;
        let Here { payload, repairs, .. } = self.blocks.here.swap_remove(at);
        if repairs {
            self.repair_block(reference, &payload, effects);
        }
        Some(payload)
    }

    /// Starts reading a block, unless it is being fetched, and from peers when it is damaged here.
    pub(super) fn fetch(&mut self, reference: BlockRef, effects: &mut Effects) {
        let fetches = &self.blocks.fetches;
        let known = fetches.iter().any(|fetch| fetch.reference == reference);
        // One read of an address at a time: its token names nothing else.
        let read =
            |fetch: &Fetch| fetch.stage == Stage::Reading && fetch.reference.address == reference.address;
        if known || fetches.len() >= FETCHES_MAX || fetches.iter().any(read) {
            return;
        }
        let token = |address| Waits::BlockRead { address };
        if self.read_block(&reference, token, effects) {
            self.blocks.fetches.push(Fetch { reference, stage: Stage::Reading });
        }
    }

    /// Starts reading a block from our disk; false when there is no buffer.
    pub(super) fn read_block(
        &self,
        reference: &BlockRef,
        waits: impl Fn(u32) -> Waits,
        effects: &mut Effects,
    ) -> bool {
        let grid = self.config.layout.grid();
        let Some(mut into) = self.pool.draft(grid.block_bytes()) else { return false };
        into.resize_to_overwrite(grid.block_bytes());
        let address = u32::try_from(reference.address).expect("a grid has fewer blocks");
        let (token, offset) = (waits(address).token(), grid.offset_of(reference.address));
        Self::submit(effects, DiskOp::Read { token, offset, into });
        true
    }

    /// What was read, if it is the block that was asked for.
    pub(super) fn open_block(&mut self, reference: &BlockRef, read: Option<&Message>) -> Option<Vec<u8>> {
        let mut payload = self.blocks.spare.pop().unwrap_or_default();
        let place = self.config.place(Zone::Grid).under(self.sealing.as_deref());
        let grid = self.config.layout.grid();
        let opened =
            read.is_some_and(|image| block::open(place, &grid, reference, image, &mut payload).is_ok());
        if opened {
            return Some(payload);
        }
        self.blocks.recycle(payload);
        None
    }

    pub(super) fn on_block_read(&mut self, address: u32, read: Option<Message>, effects: &mut Effects) {
        let asked =
            |fetch: &Fetch| fetch.stage == Stage::Reading && fetch.reference.address == u64::from(address);
        let Some(at) = self.blocks.fetches.iter().position(asked) else { return };
        let reference = self.blocks.fetches[at].reference;
        if let Some(payload) = self.open_block(&reference, read.as_ref()) {
            return self.blocks.put(reference, payload, false);
        }
        self.found_rotten(Mark::BlockRotten);
        self.blocks.held.lost(reference.address);
        self.blocks.fetches[at].stage =
            if self.is_alone() { Stage::Lost } else { Stage::Asking { in_vain: 0 } };
        self.ask_for_blocks(effects);
    }

    /// Asks some peer for all blocks that our disk does not have.
    fn ask_for_blocks(&mut self, effects: &mut Effects) {
        let asking = |fetch: &&Fetch| matches!(fetch.stage, Stage::Asking { .. });
        let mut wanted: Vec<BlockRef> =
            self.blocks.fetches.iter().filter(asking).map(|fetch| fetch.reference).collect();
        wanted.truncate(ASKED_MAX);
        if wanted.is_empty() {
            return self.timers.clear(Timer::Blocks);
        }
        if self.status != Status::Recovering {
            let to = self.random_peer();
            self.request_blocks(to, &wanted, effects);
        }
        let after = self.jittered(self.resend_after());
        self.timers.set(Timer::Blocks, self.in_a(after));
    }

    pub(super) fn request_blocks(&mut self, to: ReplicaId, wanted: &[BlockRef], effects: &mut Effects) {
        let Some(mut names) = self.pool.draft(wanted.len() * BLOCK_REF) else {
            return self.ignore(Ignored::NoRoom);
        };
        put_names(&mut names, wanted);
        let mut frame = self.frame(Command::RequestBlocks);
        frame.payload = Some(names.seal());
        self.send(to, frame, effects);
    }

    /// Nobody answered, or not with what was asked for.
    pub(super) fn on_blocks_timer(&mut self, effects: &mut Effects) {
        for fetch in &mut self.blocks.fetches {
            if let Stage::Asking { in_vain } = &mut fetch.stage {
                *in_vain += 1;
                if *in_vain >= IN_VAIN_MAX {
                    fetch.stage = Stage::Lost;
                }
            }
        }
        self.ask_for_blocks(effects);
    }

    /// A block that we asked a peer for; false when it is not one of those.
    pub(super) fn take_peers_block(&mut self, reference: &BlockRef, payload: &[u8]) -> bool {
        let asked =
            |fetch: &Fetch| fetch.reference == *reference && matches!(fetch.stage, Stage::Asking { .. });
        let grid = self.config.layout.grid();
        if !self.blocks.fetches.iter().any(asked) || block::check(&grid, reference, payload).is_err() {
            return false;
        }
        let mut copy = self.blocks.spare.pop().unwrap_or_default();
        copy.extend_from_slice(payload);
        self.blocks.put(*reference, copy, true);
        true
    }

    /// Writes a block that was damaged here to its place, where it belongs: whoever took it refers to it still.
    fn repair_block(&mut self, reference: &BlockRef, payload: &[u8], effects: &mut Effects) {
        self.mark(Mark::BlockRepaired);
        if self.write_block(reference, payload, |address| Waits::BlockRepaired { address }, effects) {
            self.blocks.repairs += 1;
        }
    }

    /// Starts writing a block; false when there is no buffer.
    pub(super) fn write_block(
        &mut self,
        reference: &BlockRef,
        payload: &[u8],
        waits: impl Fn(u32) -> Waits,
        effects: &mut Effects,
    ) -> bool {
        let place = self.config.place(Zone::Grid).under(self.sealing.as_deref());
        let grid = self.config.layout.grid();
        let Some(mut draft) = self.pool.draft(grid.block_bytes()) else { return false };
        draft.resize_to_overwrite(grid.block_bytes());
        block::seal(place, &grid, payload, draft.bytes_mut());
        let address = u32::try_from(reference.address).expect("a grid has fewer blocks");
        let (token, offset) = (waits(address).token(), grid.offset_of(reference.address));
        self.blocks.held.lost(reference.address);
        Self::submit(effects, DiskOp::Write { token, offset, data: draft.seal(), durable: false });
        true
    }

    /// Whether the repair reached the disk matters to nobody: what is still damaged is repaired the next time.
    pub(super) fn on_block_repaired(&mut self) {
        self.blocks.repairs -= 1;
    }

    /// What came in this turn and was not taken is of no use; what nobody has is forgotten, so that who
    /// still wants it asks anew.
    pub(super) fn blocks_turn_ended(&mut self) {
        while let Some(here) = self.blocks.here.pop() {
            self.blocks.recycle(here.payload);
        }
        self.blocks.fetches.retain(|fetch| fetch.stage != Stage::Lost);
    }

    pub(super) fn on_request_blocks(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        if frame.header.flags.get() & OFFER != 0 {
            return self.offer_checkpoint(from, effects);
        }
        let grid = self.config.layout.grid();
        let mut names = Reader::new(frame.body());
        for _ in 0..ASKED_MAX {
            if names.is_empty() {
                return;
            }
            let Ok(reference) = BlockRef::decode(&mut names, &grid) else {
                return self.ignore(Ignored::Malformed);
            };
            self.serve_block(reference, from, effects);
        }
    }

    fn serve_block(&mut self, reference: BlockRef, to: ReplicaId, effects: &mut Effects) {
        let cached = self.blocks.cache.get(&reference);
        if let Some(payload) = self.machine.forest().under_way(&reference).or(cached) {
            let Some(mut draft) = self.pool.draft(payload.len()) else { return self.ignore(Ignored::NoRoom) };
            draft.extend(payload).expect("as large as asked for");
            return self.send_block(&reference, draft.seal(), to, effects);
        }
        let serving = &self.blocks.serving;
        let read = serving.iter().any(|(other, _)| other.address == reference.address);
        if read || serving.len() >= SERVED_MAX {
            return self.ignore(Ignored::NoRoom);
        }
        if self.read_block(&reference, |address| Waits::BlockServed { address }, effects) {
            self.blocks.serving.push((reference, to));
        }
    }

    pub(super) fn on_block_served(&mut self, address: u32, read: Option<Message>, effects: &mut Effects) {
        let asked = |(reference, _): &(BlockRef, _)| reference.address == u64::from(address);
        let Some(at) = self.blocks.serving.iter().position(asked) else { return };
        let (reference, to) = self.blocks.serving.swap_remove(at);
        let Some(payload) = self.open_block(&reference, read.as_ref()) else {
            self.blocks.held.lost(reference.address);
            return self.send_gone(&reference, to, effects);
        };
        if let Some(mut draft) = self.pool.draft(payload.len()) {
            draft.extend(&payload).expect("as large as asked for");
            self.send_block(&reference, draft.seal(), to, effects);
        }
        self.blocks.recycle(payload);
    }

    fn send_block(&self, reference: &BlockRef, payload: Message, to: ReplicaId, effects: &mut Effects) {
        let mut frame = self.frame(Command::Block);
        frame.header.a = reference.address.into();
        frame.payload = Some(payload);
        self.send(to, frame, effects);
    }

    fn send_gone(&self, reference: &BlockRef, to: ReplicaId, effects: &mut Effects) {
        let Some(mut names) = self.pool.draft(BLOCK_REF) else { return };
        put_names(&mut names, &[*reference]);
        let mut frame = self.frame(Command::Block);
        frame.header.op = self.superblock.durable().checkpoint.op().into();
        frame.header.flags = GONE.into();
        frame.payload = Some(names.seal());
        self.send(to, frame, effects);
    }

    fn offer_checkpoint(&mut self, to: ReplicaId, effects: &mut Effects) {
        let checkpoint = self.superblock.durable().checkpoint;
        if checkpoint.number == 0 || self.state_lost {
            return self.ignore(Ignored::NotNow);
        }
        let mut encoded = Vec::new();
        checkpoint.encode(&mut encoded);
        let Some(mut draft) = self.pool.draft(encoded.len()) else { return self.ignore(Ignored::NoRoom) };
        draft.extend(&encoded).expect("as large as asked for");
        let mut frame = self.frame(Command::Block);
        frame.header.op = checkpoint.op().into();
        frame.header.flags = OFFER.into();
        frame.payload = Some(draft.seal());
        self.send(to, frame, effects);
    }
}

fn put_names(into: &mut crate::pool::Draft, names: &[BlockRef]) {
    for name in names {
        let encoded = into.extend(&name.address.to_le_bytes()).and_then(|()| into.extend(&name.digest.0));
        encoded.expect("as large as asked for");
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::wire::entry::Digest;

    #[test]
    fn what_was_read_is_not_cached_before_somebody_takes_it() {
        let layout =
            Layout { wal_slots: 16, slot_sectors: 2, block_sectors: 1, blocks_max: 64, grid_step: 8 };
        let mut blocks = Blocks::new(&layout);
        let reference = BlockRef { address: 3, digest: Digest([7; 32]) };
        blocks.put(reference, vec![1, 2, 3], false);
        assert!(blocks.is_here(&reference));
        assert_eq!(blocks.cache.get(&reference), None, "scrubbing reads all there is");
    }
}
