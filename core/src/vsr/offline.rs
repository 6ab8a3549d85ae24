//! Reading a stopped replica's data file: what `inspect` shows.
//!
//! The one law: **the file is read by the code that production opens it with, and not a byte of it is changed**:
//! a replica is opened, its reads are answered from the file, its writes are dropped, and then it executes its
//! log to the head, whether or not the end of it is known to be committed. Blocks of the grid are read when somebody
//! asks for them, and each is checked by its digest.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use super::machine::Machine as _;
use super::replica::{Replica, Start, Status, View, pool_classes};
use crate::chat::{self, Chat};
use crate::io::{DiskError, DiskOp, Effect, Effects, Event, Fatal};
use crate::pool::Pool;
use crate::store::forest::Opening;
use crate::store::grid::GridShape;
use crate::store::grid::block::{self, BlockRef, Fault};
use crate::store::grid::cache::Cache;
use crate::store::history::reader::Blocks;
use crate::store::layout::{SECTOR, SUPERBLOCK_ZONE};
use crate::store::sealing::{self, Sealer, Sealing};
use crate::store::sector::{Place, Zone};
use crate::store::slot::{self, SlotFound};
use crate::store::superblock::{OpenError, ShardConfig, Superblock};
use crate::types::Now;
use crate::wire::entry::{Digest, EntryHeader};

/// Fills a buffer from an offset of the file; false when it can't.
pub type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> bool + 'a;

/// Why a file could not be read to the end of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    Open(OpenError),
    Fatal(Fatal),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Fatal(Fatal::CheckpointLost) => {
                write!(f, "the checkpoint that the superblock names is damaged")
            }
            Self::Fatal(Fatal::Release(wrong)) => wrong.fmt(f),
            Self::Fatal(other) => write!(f, "the replica could not start: {other:?}"),
        }
    }
}

impl core::error::Error for ReadError {}

/// A replica as its file has it.
#[derive(Debug)]
pub struct Stopped {
    pub superblock: Superblock,
    replica: Replica<Chat>,
    /// Highest op that the file itself proves to be committed.
    pub known_commit: u64,
    /// The head is uncertain: a damaged slot may have held a later entry.
    pub head_uncertain: bool,
}

impl Stopped {
    /// Opens the file and executes its log as far as its entries are here.
    pub fn read(read: &mut ReadAt<'_>) -> Result<Self, ReadError> {
        Self::read_sealed(None, read)
    }

    /// The same of a file that may be sealed.
    pub fn read_sealed(sealing: Sealer, read: &mut ReadAt<'_>) -> Result<Self, ReadError> {
        let (zone, superblock) = open(read)?;
        let pool = Pool::new(&pool_classes(&superblock.config, 0));
        let mut effects = Effects::new();
        let machine = Chat::new(superblock.config.limits, &superblock.config.layout);
        let start = Start { sealing, ..Start::with_seed([0; 32]) };
        let opened = Replica::open(&zone, machine, pool, start, Now::default(), &mut effects);
        let mut replica = opened.map_err(ReadError::Open)?;
        // Before anything is executed: what a superblock knows to be committed is, as soon as the log is read. (A restored
        // file knows all of it; a checkpoint made here would have blocks that nobody wrote.)
        replica.suspend_checkpoints();
        run(&mut replica, read, effects)?;
        let known_commit = replica.observe().commit_max;
        let head_uncertain = replica.observe().status == Status::RecoveringHead;
        let effects = replica.execute_to_head();
        run(&mut replica, read, effects)?;
        Ok(Self { superblock, replica, known_commit, head_uncertain })
    }

    /// The chat state at [`Self::executed`]; nothing when the [state is lost](Self::is_state_lost).
    #[must_use]
    pub fn chat(&self) -> &Chat {
        self.replica.machine()
    }

    #[must_use]
    pub fn view(&self) -> View {
        self.replica.observe()
    }

    /// The last op that is part of [`Self::chat`]: the head, unless an entry below it is missing here.
    #[must_use]
    pub fn executed(&self) -> u64 {
        self.replica.observe().commit
    }

    /// The entries of the log above the checkpoint, ascending: headers, digests, and whether each is whole here.
    pub fn log(&self) -> impl Iterator<Item = (EntryHeader, Digest, bool)> + '_ {
        self.replica.log_above(self.superblock.checkpoint.op())
    }

    /// An entry of [`Self::log`], read from the file now.
    #[must_use]
    pub fn entry(
        &self,
        header: &EntryHeader,
        sealing: Option<&dyn Sealing>,
        read: &mut ReadAt<'_>,
    ) -> Option<Vec<u8>> {
        let config = &self.superblock.config;
        let layout = &config.layout;
        let slot = u32::try_from(header.op.get() % u64::from(layout.wal_slots)).ok()?;
        let offset = layout.slot_offset(slot);
        let mut bytes = vec![0; layout.slot_sectors as usize * SECTOR];
        if !read(offset, &mut bytes) {
            return None;
        }
        let mut entry = Vec::new();
        let place = config.place(Zone::Wal).under(sealing);
        match slot::examine(place, layout, offset, &bytes, &mut entry) {
            SlotFound::Entry { header: found, .. } if found == *header => Some(entry),
            _ => None,
        }
    }

    /// Whether the checkpoint that the superblock names is not whole here: its state has to come from peers.
    #[must_use]
    pub fn is_state_lost(&self) -> bool {
        self.view().state_lost
    }

    /// All blocks that the checkpoint names, each once; none when the [state is lost](Self::is_state_lost).
    pub fn references(&self) -> impl Iterator<Item = &BlockRef> {
        self.chat().forest().references()
    }

    #[must_use]
    pub fn sessions(&self) -> Vec<(u64, u64, u64)> {
        self.replica.sessions().iter().map(|one| (one.client, one.session, one.number)).collect()
    }
}

/// The superblock zone of a file, and what it says.
fn open(read: &mut ReadAt<'_>) -> Result<(Vec<u8>, Superblock), ReadError> {
    let mut zone = vec![0; SUPERBLOCK_ZONE];
    if !read(0, &mut zone) {
        return Err(ReadError::Open(OpenError::TooShort));
    }
    let superblock = Superblock::open(&zone).map_err(ReadError::Open)?;
    let ShardConfig { limits, layout, .. } = &superblock.config;
    if !chat::shape_is_sane(limits, layout) {
        return Err(ReadError::Open(OpenError::Damaged));
    }
    Ok((zone, superblock))
}

/// Answers reads from the file and drops writes, until the replica wants nothing more.
fn run(replica: &mut Replica<Chat>, read: &mut ReadAt<'_>, mut effects: Effects) -> Result<(), ReadError> {
    let now = Now::default();
    while !effects.is_empty() {
        let mut next = Effects::new();
        for effect in effects {
            let (token, result) = match effect {
                Effect::Disk(DiskOp::Read { token, offset, mut into }) => {
                    let whole = read(offset, into.bytes_mut());
                    (token, if whole { Ok(Some(into.seal())) } else { Err(DiskError::Read) })
                }
                Effect::Disk(DiskOp::Write { token, .. } | DiskOp::Sync { token }) => (token, Ok(None)),
                // A file that was left behind is read like any other.
                Effect::Stop(Fatal::Removed) => continue,
                Effect::Stop(why) => return Err(ReadError::Fatal(why)),
                Effect::Send { .. } => continue,
            };
            replica.on_event(now, Event::Stored { token, result }, &mut next);
        }
        replica.turn_ended(now, &mut next);
        effects = next;
    }
    Ok(())
}

/// Blocks of a file, as [`Chat::messages`] asks for them.
pub struct FileBlocks<'a> {
    read: &'a mut ReadAt<'a>,
    place: Place<'a>,
    grid: GridShape,
    cache: Cache,
    image: Vec<u8>,
    payload: Vec<u8>,
}

/// Blocks that are kept: a room's messages lie in a few runs at a time.
const KEPT: usize = 16;

impl fmt::Debug for FileBlocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBlocks")
            .field("place", &self.place)
            .field("grid", &self.grid)
            .finish_non_exhaustive()
    }
}

impl<'a> FileBlocks<'a> {
    #[must_use]
    pub fn new(config: &ShardConfig, read: &'a mut ReadAt<'a>) -> Self {
        let grid = config.layout.grid();
        Self {
            read,
            place: config.place(Zone::Grid),
            grid,
            cache: Cache::new(KEPT, grid.payload_max()),
            image: vec![0; grid.block_bytes()],
            payload: Vec::new(),
        }
    }

    /// The same of a file that is sealed.
    #[must_use]
    pub fn under(mut self, sealing: Option<&'a dyn Sealing>) -> Self {
        self.place = self.place.under(sealing);
        self
    }

    /// The payload of a block, read from the file now.
    pub fn read(&mut self, reference: &BlockRef) -> Result<&[u8], Fault> {
        // A file that was cut short has no such block.
        if !self.grid.holds(reference.address)
            || !(self.read)(self.grid.offset_of(reference.address), &mut self.image)
        {
            return Err(Fault::Damaged);
        }
        block::open(self.place, &self.grid, reference, &self.image, &mut self.payload)?;
        Ok(&self.payload)
    }
}

impl Blocks for FileBlocks<'_> {
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        if self.cache.get(reference).is_none() {
            self.read(reference).ok()?;
            self.cache.put(*reference, &self.payload);
        }
        self.cache.get(reference)
    }
}

/// What became of the blocks of the checkpoint that a superblock names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub whole: u64,
    pub damaged: Vec<BlockRef>,
    /// All blocks were looked at: those by which others are known are whole, and what they say fits together.
    pub is_complete: bool,
}

impl Verified {
    fn look(&mut self, blocks: &mut FileBlocks<'_>, reference: &BlockRef) -> bool {
        let whole = blocks.read(reference).is_ok();
        if whole {
            self.whole += 1;
        } else {
            self.damaged.push(*reference);
        }
        whole
    }
}

/// Reads every block of the checkpoint, as far as they are known.
pub fn verify(read: &mut ReadAt<'_>) -> Result<Verified, ReadError> {
    verify_sealed(None, read)
}

/// The same of a file that may be sealed.
pub fn verify_sealed(sealing: Option<&dyn Sealing>, read: &mut ReadAt<'_>) -> Result<Verified, ReadError> {
    let (_, superblock) = open(read)?;
    let fits = sealing::must_fit(superblock.envelope.as_ref(), sealing);
    fits.map_err(|wrong| ReadError::Open(OpenError::Key(wrong)))?;
    let ShardConfig { limits, layout, .. } = &superblock.config;
    let mut blocks = FileBlocks::new(&superblock.config, read).under(sealing);
    let mut verified = Verified::default();
    if superblock.transferring {
        return Ok(verified);
    }
    let Some(checkpoint) = superblock.checkpoint.checkpoint() else {
        return Ok(Verified { is_complete: true, ..verified });
    };
    let mut opening = Opening::new(chat::forest_shape(limits, layout), checkpoint);
    while let Some(reference) = opening.wanted().first().copied() {
        if !verified.look(&mut blocks, &reference) {
            // What it names is not known; those beside it are.
            for reference in &opening.wanted()[1..] {
                verified.look(&mut blocks, reference);
            }
            return Ok(verified);
        }
        if opening.give(&blocks.payload).is_err() {
            return Ok(verified);
        }
    }
    let Some(forest) = opening.done() else { return Ok(verified) };
    verified = Verified { is_complete: true, ..Verified::default() };
    for reference in forest.references() {
        verified.look(&mut blocks, reference);
    }
    Ok(verified)
}
