//! Reading a stopped replica's data file: what `inspect` shows.
//!
//! The one law: **the file is read by the code that production opens it with, and not a byte of it is changed**:
//! a replica is opened, its reads are answered from the file, its writes are dropped, and then it executes its
//! log to the head, whether or not the end of it is known to be committed.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use super::replica::{Replica, Start, Status, View, pool_classes};
use crate::chat::Chat;
use crate::io::{DiskError, DiskOp, Effect, Effects, Event, Fatal};
use crate::pool::Pool;
use crate::store::layout::SUPERBLOCK_ZONE;
use crate::store::superblock::{OpenError, Superblock};
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
        let mut zone = vec![0; SUPERBLOCK_ZONE];
        if !read(0, &mut zone) {
            return Err(ReadError::Open(OpenError::TooShort));
        }
        let superblock = Superblock::open(&zone).map_err(ReadError::Open)?;
        let pool = Pool::new(&pool_classes(&superblock.config, 0));
        let mut effects = Effects::new();
        let machine = Chat::new(superblock.config.limits, &superblock.config.layout);
        let start = Start::with_seed([0; 32]);
        let opened = Replica::open(&zone, machine, pool, start, Now::default(), &mut effects);
        let mut replica = opened.map_err(ReadError::Open)?;
        run(&mut replica, read, effects)?;
        let known_commit = replica.observe().commit_max;
        let head_uncertain = replica.observe().status == Status::RecoveringHead;
        let effects = replica.execute_to_head();
        run(&mut replica, read, effects)?;
        Ok(Self { superblock, replica, known_commit, head_uncertain })
    }

    /// The chat state at [`Self::executed`].
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

    #[must_use]
    pub fn sessions(&self) -> Vec<(u64, u64, u64)> {
        self.replica.sessions().iter().map(|one| (one.client, one.session, one.number)).collect()
    }
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
