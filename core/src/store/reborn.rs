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

use super::forest::tail::{GetBlock, Made, with_tail};
use super::layout::SECTOR;
use super::sealing::{Envelope, Sealer};
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
    sealing: Sealer,
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
    ) -> Result<(Self, Vec<Made>), Refused> {
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
        Ok((Self { superblock, sealing: None, old: old.checkpoint.header, headers }, blocks))
    }

    /// The same, in a sealed file.
    #[must_use]
    pub fn sealed(mut self, envelope: Envelope, sealing: Sealer) -> Self {
        (self.superblock.envelope, self.sealing) = (Some(envelope), sealing);
        self
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
        let place = self.superblock.config.place(Zone::Wal).under(self.sealing.as_deref());
        sector::seal(place, offset, stamp, &bytes, &mut image);
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

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::chat::Limits;
    use crate::store::layout::Layout;
    use crate::store::slot::{self, SlotFound};
    use crate::types::ShardId;
    use crate::vsr::membership::Members;

    const NEW: ClusterId = ClusterId(2);

    fn old() -> Superblock {
        let layout =
            Layout { wal_slots: 32, slot_sectors: 2, block_sectors: 2, blocks_max: 64, grid_step: 8 };
        let config = ShardConfig {
            cluster: ClusterId(1),
            shard: ShardId(2),
            replica: ReplicaId(1),
            pipeline: 8,
            sessions: 4,
            window: 4,
            layout,
            limits: Limits::tiny(),
        };
        let mut old = Superblock::format(config, Members::first(3, 2).unwrap());
        (old.view, old.log_view, old.lineage) = (9, 7, 4);
        old
    }

    /// A log of so many entries behind op 0.
    fn log(old: &Superblock, count: u64) -> Vec<Vec<u8>> {
        let mut before = old.config.root();
        let one = |op: u64| {
            let body = vec![op as u8; 10 * op as usize];
            let header = EntryHeader {
                parent: before.digest(),
                body: Digest::of(&body),
                view: (op / 8).into(),
                op: op.into(),
                size: ((ENTRY_HEADER + body.len()) as u32).into(),
                ..before
            };
            before = header;
            [header.as_bytes(), &body].concat()
        };
        (1..=count).map(one).collect()
    }

    fn begin(old: &Superblock) -> Result<Reborn, Refused> {
        Reborn::begin(old, NEW, ReplicaId(0), &mut |_| None).map(|(reborn, _)| reborn)
    }

    #[test]
    fn the_log_is_the_same_but_for_whose_it_is() {
        let old = old();
        let mut reborn = begin(&old).unwrap();
        let mut parent = reborn.config().root().digest();
        let place = reborn.config().place(Zone::Wal);
        let mut headers = Vec::new();
        for entry in log(&old, 31) {
            let (offset, image) = reborn.entry(&entry).unwrap();
            let (header, body) = EntryHeader::split(&entry).unwrap();
            let mut found = Vec::new();
            let looked = slot::examine(place, &old.config.layout, offset, &image, &mut found);
            let SlotFound::Entry { header: renamed, witness: 0 } = looked else { panic!("{looked:?}") };
            assert_eq!(renamed, EntryHeader { cluster: NEW.0.into(), parent, ..header });
            assert_eq!(&found[ENTRY_HEADER..], body);
            let of_old =
                slot::examine(old.config.place(Zone::Wal), &old.config.layout, offset, &image, &mut found);
            assert_eq!(of_old, SlotFound::Faulty(None), "the old cluster does not take it");
            parent = renamed.digest();
            headers.insert(0, renamed);
        }
        let new = reborn.finish();
        assert_eq!((new.config.cluster, new.config.replica), (NEW, ReplicaId(0)));
        assert_eq!((new.lineage, new.view, new.log_view, new.commit, new.incarnation), (5, 7, 7, 31, 0));
        assert_eq!(new.suffix, headers[..SUFFIX_MAX]);
        assert_eq!(Superblock::open(&new.zone()), Ok(new));
    }

    #[test]
    fn a_log_with_anything_missing_or_foreign_is_refused() {
        let old = old();
        let log = log(&old, 33);
        let refused = |order: &[usize]| {
            let mut reborn = begin(&old).unwrap();
            order.iter().find_map(|at| reborn.entry(&log[*at]).err())
        };
        assert_eq!(refused(&[0, 1, 2]), None);
        assert_eq!(refused(&[1]), Some(Refused::Entry { expected: 1 }));
        assert_eq!(refused(&[0, 2]), Some(Refused::Entry { expected: 2 }));
        assert_eq!(refused(&[0, 0]), Some(Refused::Entry { expected: 2 }));
        let all: Vec<usize> = (0..33).collect();
        assert_eq!(refused(&all), Some(Refused::Entry { expected: 33 }), "more than a log holds");
        for at in 0..log[3].len() {
            let mut reborn = begin(&old).unwrap();
            log[..3].iter().for_each(|entry| drop(reborn.entry(entry).unwrap()));
            let mut changed = log[3].clone();
            changed[at] ^= 1;
            let taken = reborn.entry(&changed);
            // A header's own digest is known from the entry behind it.
            let next = taken.and_then(|_| reborn.entry(&log[4]));
            assert!(next.is_err(), "byte {at}");
        }
        assert!(begin(&Superblock { log_view: 2, ..old.clone() }).is_ok());
        let mut reborn = begin(&Superblock { log_view: 0, ..old.clone() }).unwrap();
        let taken = log[..8].iter().filter(|entry| reborn.entry(entry).is_ok()).count();
        assert_eq!(taken, 7, "an entry of a view that this replica did not know");
    }

    #[test]
    fn what_can_be_no_new_cluster_is_refused() {
        let old = old();
        let begin = |old: &Superblock, cluster, replica| {
            Reborn::begin(old, cluster, ReplicaId(replica), &mut |_| None).err()
        };
        assert_eq!(begin(&old, NEW, 2), None);
        assert_eq!(begin(&old, old.config.cluster, 0), Some(Refused::SameCluster));
        assert_eq!(begin(&old, NEW, 3), Some(Refused::NoMember));
        let transferring = Superblock { transferring: true, ..old.clone() };
        assert_eq!(begin(&transferring, NEW, 0), Some(Refused::Transferring));
        let mut other = old.clone();
        other.checkpoint.number = 1;
        other.checkpoint.header.op = old.config.layout.interval().into();
        other.checkpoint.root.address = 1;
        assert_eq!(begin(&other, NEW, 0), Some(Refused::Checkpoint), "its blocks are not there");
    }
}
