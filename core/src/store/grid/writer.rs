//! Blocks on their way to the disk: addresses are given in the order in which blocks are made, writes end in any.
//!
//! The one law: **what a block holds and where it lies is settled before its write begins**, so that neither follows
//! from when writes end. A bounded number of blocks is under way; when that many are, whoever makes blocks waits.

use alloc::vec::Vec;

use super::block::{self, BlockRef, Kind};
use super::free_set::FreeSet;
use super::{GridFull, GridShape};

/// See the module.
#[derive(Debug)]
pub struct Writer {
    pub shape: GridShape,
    pub free: FreeSet,
    /// Number of the checkpoint that blocks are made for, and how many were.
    checkpoint: u64,
    made: u64,
    under_way: Vec<UnderWay>,
    limit: usize,
    /// Buffers of blocks that are written.
    spare: Vec<Vec<u8>>,
    counts: Counts,
}

/// What was written since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By [`Kind`] (its number less one): blocks.
    pub blocks: [u64; 7],
    /// By kind: bytes of their payloads.
    pub bytes: [u64; 7],
}

#[derive(Debug)]
struct UnderWay {
    reference: BlockRef,
    payload: Vec<u8>,
    submitted: bool,
}

impl Writer {
    /// `limit`: blocks that may be under way at a time.
    #[must_use]
    pub fn new(shape: GridShape, free: FreeSet, limit: usize) -> Self {
        let (under_way, spare) = (Vec::with_capacity(limit), Vec::with_capacity(limit));
        Self { shape, free, checkpoint: 0, made: 0, under_way, limit, spare, counts: Counts::default() }
    }

    /// Begins the work of a checkpoint: what the last one released is free.
    pub fn begin(&mut self, checkpoint: u64) {
        (self.checkpoint, self.made) = (checkpoint, 0);
        self.free.begin();
    }

    /// Blocks that were made for the checkpoint under way.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made
    }

    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether so many blocks can be made now.
    #[must_use]
    pub fn has_room(&self, blocks: usize) -> bool {
        self.under_way.len() + blocks <= self.limit
    }

    /// Whether all that was made is written.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Makes a block: `fill` appends its body.
    ///
    /// # Panics
    /// When too many are under way: the caller asks [`Self::has_room`] first.
    pub fn make(&mut self, kind: Kind, fill: impl FnOnce(&mut Vec<u8>)) -> Result<BlockRef, GridFull> {
        let address = self.free.take()?;
        Ok(self.make_at(address, kind, fill))
    }

    /// Writes zeros over a free block. It is free again when the next work begins.
    pub fn wipe(&mut self, address: u64) {
        let is_free = self.free.take_at(address);
        assert!(is_free, "only what nobody needs is wiped");
        let zeros = self.shape.body_max();
        self.make_at(address, Kind::Wiped, |out| out.resize(out.len() + zeros, 0));
        self.free.release(address);
    }

    fn make_at(&mut self, address: u64, kind: Kind, fill: impl FnOnce(&mut Vec<u8>)) -> BlockRef {
        assert!(self.has_room(1), "blocks are made when there is room for them");
        let mut payload = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(self.shape.payload_max()));
        block::begin(kind, address, self.checkpoint, &mut payload);
        fill(&mut payload);
        let reference = block::finish(&self.shape, &mut payload);
        let at = kind as usize - 1;
        self.made += 1;
        self.counts.blocks[at] += 1;
        self.counts.bytes[at] += payload.len() as u64;
        self.under_way.push(UnderWay { reference, payload, submitted: false });
        reference
    }

    pub fn release(&mut self, reference: &BlockRef) {
        self.free.release(reference.address);
    }

    /// The payload of a block that is still under way: it can't be read from the disk yet.
    #[must_use]
    pub fn get(&self, reference: &BlockRef) -> Option<&[u8]> {
        let block = self.under_way.iter().find(|block| block.reference == *reference)?;
        Some(&block.payload)
    }

    /// The next block to write. It counts as submitted; [`Self::written`] or [`Self::refused`] says what became of it.
    pub fn next_write(&mut self) -> Option<(BlockRef, &[u8])> {
        let next = self.under_way.iter_mut().find(|block| !block.submitted)?;
        next.submitted = true;
        Some((next.reference, &next.payload))
    }

    /// The write of a block has ended; whether it is durable is the superblock's affair. What is not under way is
    /// ignored.
    pub fn written(&mut self, address: u64) {
        if let Some(at) = self.submitted(address) {
            let block = self.under_way.remove(at);
            self.spare.push(block.payload);
        }
    }

    /// The disk refused a block: it is given out again.
    pub fn refused(&mut self, address: u64) {
        if let Some(at) = self.submitted(address) {
            self.under_way[at].submitted = false;
        }
    }

    fn submitted(&self, address: u64) -> Option<usize> {
        self.under_way.iter().position(|block| block.reference.address == address && block.submitted)
    }
}
