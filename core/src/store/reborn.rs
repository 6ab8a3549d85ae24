//! A shard as another cluster goes on with it: what `restore` makes of a backup.
//!
//! The one law: **what was said stays as it was, and nothing of the old cluster can be taken for the new one's**: rooms,
//! chains, ops and sequences go on; the identity is another in the superblock, in every sector, and in every entry of
//! the log, so that no frame, block or file of the one is accepted by the other. All replicas that are made of one
//! backup have the same checkpoint and the same log, and hold all of it for committed.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use zerocopy::{FromBytes, IntoBytes};

use super::forest::tail::{GetBlock, with_tail};
use super::grid::block::BlockRef;
use super::layout::SECTOR;
use super::sector::{self, Stamp, Zone, sectors_for};
use super::superblock::{CheckpointRef, ShardConfig, Superblock};
use crate::chat::forest_shape;
use crate::types::{ClusterId, ReplicaId};
use crate::vsr::SUFFIX_MAX;
use crate::wire::codec::Malformed;
use crate::wire::entry::{Digest, ENTRY_HEADER, EntryHeader};

/// Why nothing can be made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The new cluster is the old one.
    SameCluster,
    /// The shard has no such member.
    NoMember,
    /// Its checkpoint was worth nothing when the backup was made.
    Transferring,
    /// The checkpoint is not one.
    Checkpoint,
    /// Not the entry that comes next in the log.
    Entry { expected: u64 },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameCluster => write!(f, "expected a new cluster, found the one that the backup is of"),
            Self::NoMember => write!(f, "expected the id of a member of the shard"),
            Self::Transferring => write!(f, "it was made while a checkpoint of a peer was being taken over"),
            Self::Checkpoint => write!(f, "its checkpoint can't be read"),
            Self::Entry { expected } => write!(f, "expected the entry of op {expected} in the log"),
        }
    }
}

impl core::error::Error for Refused {}

/// See the module.
#[derive(Debug)]
pub struct Reborn {
    superblock: Superblock,
    /// The newest entry so far, in the old cluster's log.
    old: EntryHeader,
    /// The newest headers so far in the new one's, ascending.
    headers: Vec<EntryHeader>,
}

impl Reborn {
    /// A replica of the new cluster, with the checkpoint that `old` names. `get` gives that one's blocks; returned are those
    /// that are to be written in the place of the old ones of the same address.
    pub fn begin(
        old: &Superblock,
        cluster: ClusterId,
        replica: ReplicaId,
        get: &mut GetBlock<'_>,
    ) -> Result<(Self, Vec<(BlockRef, Vec<u8>)>), Refused> {
        if cluster == old.config.cluster {
            return Err(Refused::SameCluster);
        }
        if old.members.get(replica).is_none() {
            return Err(Refused::NoMember);
        }
        if old.transferring {
            return Err(Refused::Transferring);
        }
        let config = ShardConfig { cluster, replica, ..old.config.clone() };
        let mut superblock = Superblock::format(config, old.members.clone());
        superblock.lineage = old.lineage.saturating_add(1);
        (superblock.view, superblock.log_view) = (old.log_view, old.log_view);
        let mut blocks = Vec::new();
        if let Some(checkpoint) = old.checkpoint.checkpoint() {
            let header = EntryHeader { cluster: cluster.0.into(), ..old.checkpoint.header };
            let mut rename = |tail: &mut [u8]| {
                let (first, _) = EntryHeader::mut_from_prefix(tail).map_err(|_| Malformed)?;
                if *first != old.checkpoint.header {
                    return Err(Malformed);
                }
                *first = header;
                Ok(())
            };
            let shape = forest_shape(&old.config.limits, &old.config.layout);
            let (renamed, made) =
                with_tail(&shape, checkpoint, get, &mut rename).map_err(|_| Refused::Checkpoint)?;
            superblock.checkpoint = CheckpointRef { header, number: renamed.number, root: renamed.root };
            blocks = made;
        }
        let headers = vec![superblock.checkpoint.header];
        Ok((Self { superblock, old: old.checkpoint.header, headers }, blocks))
    }

    /// The next entry of the old log above the checkpoint; returned is where it lies in the new file, and its sectors.
    pub fn entry(&mut self, entry: &[u8]) -> Result<(u64, Vec<u8>), Refused> {
        let newest = self.headers.last().expect("never empty").op.get();
        let refused = Refused::Entry { expected: newest + 1 };
        let (header, body) = EntryHeader::split(entry).ok_or(refused)?;
        let layout = self.superblock.config.layout;
        let fits = newest - self.superblock.checkpoint.op() < u64::from(layout.wal_slots)
            && entry.len() <= layout.entry_max();
        let follows = header.op.get() == newest + 1
            && header.parent == self.old.digest()
            && header.cluster == self.old.cluster
            && header.view.get() <= self.superblock.log_view;
        if !fits || !follows {
            return Err(refused);
        }
        let parent: Digest = self.headers.last().expect("never empty").digest();
        let renamed = EntryHeader { cluster: self.superblock.config.cluster.0.into(), parent, ..header };
        let mut bytes = Vec::with_capacity(ENTRY_HEADER + body.len());
        bytes.extend_from_slice(renamed.as_bytes());
        bytes.extend_from_slice(body);
        let slot =
            u32::try_from(header.op.get() % u64::from(layout.wal_slots)).expect("a log has fewer slots");
        let offset = layout.slot_offset(slot);
        let mut image = vec![0; sectors_for(bytes.len()) * SECTOR];
        let stamp = Stamp { op: header.op.get(), view: header.view.get(), witness: 0, index: 0 };
        sector::seal(self.superblock.config.place(Zone::Wal), offset, stamp, &bytes, &mut image);
        self.old = header;
        if self.headers.len() == SUFFIX_MAX {
            self.headers.remove(0);
        }
        self.headers.push(renamed);
        Ok((offset, image))
    }

    #[must_use]
    pub fn config(&self) -> &ShardConfig {
        &self.superblock.config
    }

    /// The superblock, once all entries were taken.
    #[must_use]
    pub fn finish(self) -> Superblock {
        let Self { mut superblock, mut headers, .. } = self;
        let head = headers.last().expect("never empty").op.get();
        (superblock.commit, superblock.witness) = (head, head);
        headers.reverse();
        superblock.suffix = headers;
        superblock
    }
}
