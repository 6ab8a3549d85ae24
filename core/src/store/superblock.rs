//! The superblock: what a replica must know before it may speak. Four copies, replaced in two pairs.
//!
//! The one law: **a new superblock is written over one pair of copies (0 and 1, or 2 and 3), made durable, then over
//! the other**; so whatever a crash tears, one pair holds a whole older or newer version. Opening takes the highest
//! sequence of which at least two copies are whole, or the highest whole one when no two agree. The next
//! replacement begins with the pair that lacks it ([`Superblock::weaker_pair`]); a start makes one before it speaks, so
//! that no copy of what was never durable is left to come up later:
//!
//! ```text
//! copies 0 1 | 2 3      version 5 everywhere
//!        6 6 | x x      version 6, crash while its second pair was written; opened as 6
//!        x x | x x      version 7 must not begin with 0 and 1: a second crash would leave nothing
//! ```

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use zerocopy::{FromBytes, IntoBytes};

use super::forest::Checkpoint;
use super::grid::block::{BLOCK_REF, BlockRef};
use super::layout::{Layout, PAYLOAD, SECTOR, SUPERBLOCK_COPIES, SUPERBLOCK_COPY_SECTORS, SUPERBLOCK_ZONE};
use super::sealing::{Envelope, WrongKey};
use super::sector::{self, Found, Place, Stamp, Zone};
use crate::chat::Limits;
use crate::errors::ErrorCode;
use crate::types::{ClusterId, FIRST_RELEASE, ReplicaId, ShardId};
use crate::vsr::SUFFIX_MAX;
use crate::vsr::membership::Members;
use crate::vsr::release::WrongRelease;
use crate::wire::codec::{Malformed, Reader};
use crate::wire::entry::{Digest, ENTRY_HEADER, ENTRY_VERSION, EntryHeader};

const MAGIC: &[u8; 16] = b"TigerChat\0shard\0";
/// The format of data files that this release writes and reads.
pub const FORMAT_VERSION: u32 = 2;
/// The same of sealed ones.
pub const SEALED_FORMAT_VERSION: u32 = 3;
/// The same of sealed ones with two node keys, while the one takes the place of the other.
pub const ROTATING_FORMAT_VERSION: u32 = 4;
const FORMAT_UNFIT: u32 = ErrorCode::FormatUnfit as u32;
const COPY: usize = SUPERBLOCK_COPY_SECTORS * SECTOR;
const COPY_PAYLOAD: usize = SUPERBLOCK_COPY_SECTORS * PAYLOAD;

/// What is decided at `format` and never changes by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardConfig {
    pub cluster: ClusterId,
    pub shard: ShardId,
    pub replica: ReplicaId,
    /// Entries in flight; at most [`crate::vsr::PIPELINE_MAX`].
    pub pipeline: u8,
    /// Sessions (edges) of the shard.
    pub sessions: u16,
    /// Requests of one session in flight.
    pub window: u8,
    pub layout: Layout,
    /// Limits of the chat state machine: equal on all replicas of the shard.
    pub limits: Limits,
}

/// Where a checkpoint lies and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRef {
    /// Header of the last entry that it holds. Kept here too, so that a replica whose checkpoint is damaged still
    /// knows where its log goes on.
    pub header: EntryHeader,
    /// 1, 2, 3, ...; zero for the state at op 0, which needs no blocks.
    pub number: u64,
    /// The block that names all others.
    pub root: BlockRef,
}

/// Bytes of an encoded [`CheckpointRef`].
pub const CHECKPOINT_REF: usize = ENTRY_HEADER + 8 + BLOCK_REF;

impl CheckpointRef {
    /// The last op that it holds.
    #[must_use]
    pub fn op(&self) -> u64 {
        self.header.op.get()
    }

    /// As a forest is opened from it; none for the state at op 0.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        (self.number > 0).then(|| Checkpoint { number: self.number, op: self.op(), root: self.root })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.header.as_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        self.root.encode(out);
    }

    /// Refuses what can be no checkpoint of this layout.
    pub fn decode(reader: &mut Reader<'_>, layout: &Layout) -> Result<Self, Malformed> {
        let header = EntryHeader::read_from_bytes(reader.take(ENTRY_HEADER)?).map_err(|_| Malformed)?;
        let number = reader.u64()?;
        let root = BlockRef { address: reader.u64()?, digest: Digest(reader.array()?) };
        let holds = if number == 0 { root == NO_BLOCK } else { layout.grid().holds(root.address) };
        let fits = header.op.get() == number.checked_mul(layout.interval()).ok_or(Malformed)?;
        if holds && fits { Ok(Self { header, number, root }) } else { Err(Malformed) }
    }
}

/// The root of the state at op 0.
const NO_BLOCK: BlockRef = BlockRef { address: 0, digest: Digest::ZERO };

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub config: ShardConfig,
    /// Of a sealed file: what its keys are. The superblock itself is never sealed.
    pub envelope: Option<Envelope>,
    pub sequence: u64,
    /// Digest of the superblock before.
    pub parent: Digest,
    pub incarnation: u64,
    /// The newest view that this replica takes part in.
    pub view: u64,
    /// The newest view in which it was normal: whose log its log is.
    pub log_view: u64,
    /// The newest members that this replica knows of, by whom it acts.
    pub members: Members,
    /// Raised by a restore from backup.
    pub lineage: u32,
    /// A lower bound of what is committed.
    pub commit: u64,
    /// Up to here the log was durable at this replica: what is not found of it was lost by the disk (H32).
    pub witness: u64,
    pub checkpoint: CheckpointRef,
    /// A state transfer is under way: blocks of our checkpoint are being overwritten, and are worth nothing.
    pub transferring: bool,
    /// The newest headers of the log as `log_view` began here, descending by op; the first is that log's head.
    pub suffix: Vec<EntryHeader>,
}

/// Why a data file can't be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Shorter than a superblock zone.
    TooShort,
    /// No copy begins like one of ours.
    NotTigerChat,
    /// Ours, but no copy is whole.
    Damaged,
    /// Of another format version; and what it says of the release that it is for, which has its place in all versions.
    Version { found: u32, release: u32 },
    /// Of a release that this binary does not run.
    Release(WrongRelease),
    /// Its key is not here.
    Key(WrongKey),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => {
                write!(f, "expected a data file of at least {SUPERBLOCK_ZONE} bytes, found a shorter one")
            }
            Self::NotTigerChat => write!(f, "expected a TigerChat data file, found something else"),
            Self::Damaged => write!(f, "all {SUPERBLOCK_COPIES} copies of the superblock are damaged"),
            Self::Release(wrong) => wrong.fmt(f),
            Self::Key(wrong) => wrong.fmt(f),
            Self::Version { found, .. } if *found < FORMAT_VERSION => {
                write!(
                    f,
                    "{FORMAT_UNFIT}: expected a data file of format version {FORMAT_VERSION} to {ROTATING_FORMAT_VERSION}, found \
                     {found}: it was made before release {FIRST_RELEASE}, and no release reads it"
                )
            }
            Self::Version { found, release } => {
                write!(
                    f,
                    "{FORMAT_UNFIT}: expected a data file of format version {FORMAT_VERSION} to {ROTATING_FORMAT_VERSION}, found \
                     {found}: a newer binary made it, and this one is too old: start one that runs release {release}"
                )
            }
        }
    }
}

impl core::error::Error for OpenError {}

impl ShardConfig {
    fn encode(&self, out: &mut Vec<u8>) {
        let layout = &self.layout;
        let fields = [
            layout.wal_slots,
            layout.slot_sectors,
            layout.block_sectors,
            layout.blocks_max,
            layout.grid_step,
        ];
        out.extend_from_slice(&self.cluster.0.to_le_bytes());
        out.extend_from_slice(&self.shard.0.to_le_bytes());
        out.extend_from_slice(&self.replica.0.to_le_bytes());
        out.extend_from_slice(&[self.pipeline, self.window]);
        out.extend_from_slice(&self.sessions.to_le_bytes());
        fields.iter().for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
        out.extend_from_slice(&self.limits.encode());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (cluster, shard) = (ClusterId(reader.u128()?), ShardId(reader.u32()?));
        let replica = ReplicaId(reader.u16()?);
        let (pipeline, window, sessions) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let layout = Layout {
            wal_slots: reader.u32()?,
            slot_sectors: reader.u32()?,
            block_sectors: reader.u32()?,
            blocks_max: reader.u32()?,
            grid_step: reader.u32()?,
        };
        if !layout.is_sane() {
            return Err(Malformed);
        }
        let limits = Limits::decode(&reader.array()?)?;
        Ok(Self { cluster, shard, replica, pipeline, sessions, window, layout, limits })
    }

    /// The header of op 0, from which every shard's log begins. The same on all replicas.
    #[must_use]
    pub fn root(&self) -> EntryHeader {
        let mut root = EntryHeader::read_from_bytes(&[0; ENTRY_HEADER]).expect("any 128 bytes are a header");
        root.cluster = self.cluster.0.into();
        root.shard = self.shard.0.into();
        root.body = Digest::of(&[]);
        root.release = FIRST_RELEASE.into();
        root.size = u32::try_from(ENTRY_HEADER).expect("128").into();
        root.version = ENTRY_VERSION;
        root
    }

    /// Where this shard's sectors of a zone lie, as long as they are not sealed ([`Place::under`]).
    #[must_use]
    pub fn place(&self, zone: Zone) -> Place<'static> {
        Place { cluster: self.cluster, shard: self.shard, zone, sealing: None }
    }
}

impl Superblock {
    /// The superblock of a new data file.
    #[must_use]
    pub fn format(config: ShardConfig, members: Members) -> Self {
        let root = config.root();
        let checkpoint = CheckpointRef { header: root, number: 0, root: NO_BLOCK };
        let (view, log_view, incarnation, sequence) = (0, 0, 0, 1);
        let suffix = vec![root];
        Self {
            config,
            envelope: None,
            sequence,
            parent: Digest::ZERO,
            incarnation,
            view,
            log_view,
            members,
            lineage: 0,
            commit: 0,
            witness: 0,
            checkpoint,
            transferring: false,
            suffix,
        }
    }

    /// The whole superblock zone, all copies alike: what `format` writes at offset 0.
    #[must_use]
    pub fn zone(&self) -> Vec<u8> {
        let mut zone = vec![0; SUPERBLOCK_ZONE];
        for (copy, image) in zone.chunks_exact_mut(COPY).enumerate() {
            self.write_copy(copy, image);
        }
        zone
    }

    /// Bytes of one copy, at [`Self::copy_offset`].
    pub const COPY: usize = COPY;

    #[must_use]
    pub fn copy_offset(copy: usize) -> u64 {
        (copy * COPY) as u64
    }

    /// Seals one copy into `image` ([`Self::COPY`] bytes).
    pub fn write_copy(&self, copy: usize, image: &mut [u8]) {
        self.write_copy_of(&self.payload(), copy, image);
    }

    /// What all copies of it hold.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let payload = self.encode();
        debug_assert_eq!(Self::decode(&payload).as_ref(), Ok(self), "what is written reads back");
        payload
    }

    /// The same as [`Self::write_copy`], of a payload that was made before.
    pub fn write_copy_of(&self, payload: &[u8], copy: usize, image: &mut [u8]) {
        let place = self.config.place(Zone::Superblock);
        let stamp = Stamp { op: self.sequence, view: copy as u64, witness: 0, index: 0 };
        sector::seal(place, Self::copy_offset(copy), stamp, payload, image);
    }

    /// The release that a binary must run to open this file: that of the newest entry that is named here.
    #[must_use]
    pub fn release(&self) -> u32 {
        self.suffix
            .iter()
            .map(|header| header.release.get())
            .fold(self.checkpoint.header.release.get(), u32::max)
    }

    /// The version of the format that the file is in.
    #[must_use]
    pub fn version(&self) -> u32 {
        match &self.envelope {
            None => FORMAT_VERSION,
            Some(envelope) if envelope.before.is_none() => SEALED_FORMAT_VERSION,
            Some(_) => ROTATING_FORMAT_VERSION,
        }
    }

    /// The superblock's identity, which the next one names as its parent.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        assert!((1..=SUFFIX_MAX).contains(&self.suffix.len()), "a suffix has 1 to {SUFFIX_MAX} headers");
        let mut out = Vec::with_capacity(COPY_PAYLOAD);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.version().to_le_bytes());
        out.extend_from_slice(&self.release().to_le_bytes());
        self.config.encode(&mut out);
        if let Some(envelope) = &self.envelope {
            envelope.encode(&mut out);
        }
        let fields = [self.sequence, self.incarnation, self.view, self.log_view, self.commit, self.witness];
        for field in fields {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.lineage.to_le_bytes());
        out.extend_from_slice(&self.parent.0);
        self.checkpoint.encode(&mut out);
        out.extend_from_slice(&u32::from(self.transferring).to_le_bytes());
        self.members.encode(&mut out);
        let headers = u32::try_from(self.suffix.len()).expect("bounded above");
        out.extend_from_slice(&headers.to_le_bytes());
        self.suffix.iter().for_each(|header| out.extend_from_slice(header.as_bytes()));
        assert!(out.len() <= COPY_PAYLOAD, "a superblock fits its copy");
        out
    }

    fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if reader.array::<16>()? != *MAGIC {
            return Err(Malformed);
        }
        let (is_sealed, is_rotating) = match reader.u32()? {
            FORMAT_VERSION => (false, false),
            SEALED_FORMAT_VERSION => (true, false),
            ROTATING_FORMAT_VERSION => (true, true),
            _ => return Err(Malformed),
        };
        let release = reader.u32()?;
        let config = ShardConfig::decode(&mut reader)?;
        let envelope = if is_sealed { Some(Envelope::decode(&mut reader, is_rotating)?) } else { None };
        let (sequence, incarnation, view) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (log_view, commit, witness) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (lineage, parent) = (reader.u32()?, Digest(reader.array()?));
        let checkpoint = CheckpointRef::decode(&mut reader, &config.layout)?;
        let transferring = reader.u32()?;
        let members = Members::decode(&mut reader)?;
        let headers = reader.u32()? as usize;
        if !(1..=SUFFIX_MAX).contains(&headers) || transferring > 1 || log_view > view {
            return Err(Malformed);
        }
        let suffix = (0..headers)
            .map(|_| {
                Ok(EntryHeader::read_from_bytes(reader.take(ENTRY_HEADER)?).expect("128 bytes are a header"))
            })
            .collect::<Result<_, Malformed>>()?;
        let superblock = Self {
            config,
            envelope,
            sequence,
            parent,
            incarnation,
            view,
            log_view,
            members,
            lineage,
            commit,
            witness,
            checkpoint,
            transferring: transferring == 1,
            suffix,
        };
        if superblock.release() == release { Ok(superblock) } else { Err(Malformed) }
    }

    /// Reads one copy. Its place is taken from its own content: the tag then proves it.
    pub fn read_copy(copy: usize, image: &[u8]) -> Result<Self, OpenError> {
        if image.len() != COPY || image[..MAGIC.len()] != *MAGIC {
            return Err(OpenError::NotTigerChat);
        }
        let number = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("4 bytes"));
        let (found, release) = (number(16), number(20));
        if !(FORMAT_VERSION..=ROTATING_FORMAT_VERSION).contains(&found) {
            return Err(OpenError::Version { found, release });
        }
        let mut payload = sector::payloads(image).collect::<Vec<_>>().concat();
        let superblock = Self::decode(&payload).map_err(|_| OpenError::Damaged)?;
        let place = superblock.config.place(Zone::Superblock);
        for (index, bytes) in image.chunks_exact(SECTOR).enumerate() {
            let offset = Self::copy_offset(copy) + (index * SECTOR) as u64;
            payload.clear();
            match sector::open(place, offset, bytes, &mut payload) {
                Found::Valid(stamp)
                    if (stamp.op, stamp.view, stamp.index as usize)
                        == (superblock.sequence, copy as u64, index) => {}
                _ => return Err(OpenError::Damaged),
            }
        }
        Ok(superblock)
    }

    /// Reads all copies of a zone: what `inspect` shows.
    #[must_use]
    pub fn read_copies(zone: &[u8]) -> Vec<Result<Self, OpenError>> {
        zone.chunks(COPY)
            .take(SUPERBLOCK_COPIES)
            .enumerate()
            .map(|(copy, image)| Self::read_copy(copy, image))
            .collect()
    }

    /// Opens a superblock zone: see the module.
    pub fn open(zone: &[u8]) -> Result<Self, OpenError> {
        if zone.len() < SUPERBLOCK_ZONE {
            return Err(OpenError::TooShort);
        }
        let copies = Self::read_copies(zone);
        let whole: Vec<&Self> = copies.iter().filter_map(|copy| copy.as_ref().ok()).collect();
        let twice = |one: &&&Self| whole.iter().filter(|other| other == one).count() >= 2;
        let newest = whole.iter().filter(twice).max_by_key(|copy| copy.sequence);
        let newest = newest.or_else(|| whole.iter().max_by_key(|copy| copy.sequence));
        match newest {
            Some(newest) => Ok((*newest).clone()),
            None => Err(worst(&copies)),
        }
    }

    /// The first copy (0 or 2) of the pair that holds this superblock less: the next replacement begins there.
    #[must_use]
    pub fn weaker_pair(&self, zone: &[u8]) -> usize {
        let copies = Self::read_copies(zone);
        let whole =
            |pair: usize| copies.iter().skip(pair).take(2).filter(|copy| copy.as_ref() == Ok(self)).count();
        if whole(2) < whole(0) { 2 } else { 0 }
    }

    /// The head of the log as `log_view` began here.
    #[must_use]
    pub fn suffix_head(&self) -> u64 {
        self.suffix[0].op.get()
    }
}

/// The most telling of the reasons why no copy could be read.
fn worst(copies: &[Result<Superblock, OpenError>]) -> OpenError {
    let reasons = || copies.iter().filter_map(|copy| copy.as_ref().err());
    let version = reasons().find(|reason| matches!(reason, OpenError::Version { .. }));
    let damaged = reasons().find(|reason| matches!(reason, OpenError::Damaged));
    *version.or(damaged).unwrap_or(&OpenError::NotTigerChat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sealing::{NodeKeyBefore, WRAPPED};

    fn superblock(sequence: u64) -> Superblock {
        let layout =
            Layout { wal_slots: 32, slot_sectors: 2, block_sectors: 2, blocks_max: 64, grid_step: 8 };
        let config = ShardConfig {
            cluster: ClusterId(0xC1),
            shard: ShardId(2),
            replica: ReplicaId(1),
            pipeline: 8,
            sessions: 4,
            window: 4,
            layout,
            limits: Limits::tiny(),
        };
        let mut superblock = Superblock::format(config, Members::first(3, 2).unwrap());
        superblock.sequence = sequence;
        superblock
    }

    /// Writes one pair of a replacement; `survivors` says which of its four sectors reach the disk.
    fn write_pair(zone: &mut [u8], new: &[u8], pair: usize, survivors: u32) {
        for sector in 0..2 * SUPERBLOCK_COPY_SECTORS {
            let at = pair * COPY + sector * SECTOR;
            if survivors >> sector & 1 == 1 {
                zone[at..at + SECTOR].copy_from_slice(&new[at..at + SECTOR]);
            }
        }
    }

    /// All ways to tear three replacements in a row, each in its first or its second pair.
    #[test]
    fn torn_replacements_leave_the_old_or_the_new_superblock_however_often() {
        fn tear_again(zone: &[u8], sequence: u64, depth: u32) {
            let opened = Superblock::open(zone).unwrap();
            assert!(opened.sequence == sequence || opened.sequence + 1 == sequence);
            if depth == 0 {
                return;
            }
            let new = superblock(opened.sequence + 1).zone();
            let first = opened.weaker_pair(zone);
            for survivors in 0..16 {
                let mut torn = zone.to_vec();
                write_pair(&mut torn, &new, first, survivors);
                tear_again(&torn, opened.sequence + 1, depth - 1);
                write_pair(&mut torn, &new, first, 15);
                write_pair(&mut torn, &new, 2 - first, survivors);
                tear_again(&torn, opened.sequence + 1, depth - 1);
            }
        }
        tear_again(&superblock(5).zone(), 5, 2);
    }

    #[test]
    fn h32_any_two_damaged_copies_are_survived_and_three_of_them_too() {
        let zone = superblock(5).zone();
        for damaged in 0..16_u32 {
            let mut bytes = zone.clone();
            for copy in (0..4).filter(|copy| damaged >> copy & 1 == 1) {
                bytes[copy * COPY + 700] ^= 1;
            }
            let opened = Superblock::open(&bytes);
            assert_eq!(opened.is_ok(), damaged != 15, "{damaged:b}");
        }
    }

    /// A sealed file names itself and its keys without a key, and says in its version that it is sealed.
    #[test]
    fn h42_the_superblock_of_a_sealed_file_is_read_without_a_key() {
        let mut envelope = Envelope { master: [1; 8], check: [2; 8], wrapped: [3; WRAPPED], before: None };
        let sealed = Superblock { envelope: Some(envelope), ..superblock(5) };
        envelope.before = Some(NodeKeyBefore { check: [4; 8], wrapped: [5; WRAPPED] });
        let rotating = Superblock { envelope: Some(envelope), ..superblock(5) };
        assert_eq!(Superblock::open(&rotating.zone()).as_ref(), Ok(&rotating));
        assert_eq!(rotating.zone()[16], 4);
        let (zone, plain) = (sealed.zone(), superblock(5).zone());
        assert_eq!(Superblock::open(&zone).as_ref(), Ok(&sealed));
        assert_eq!((zone[16], plain[16]), (3, 2));
        assert_ne!(sealed.digest(), superblock(5).digest());
        // One that claims to be plain is damaged.
        let mut claims = zone;
        claims.chunks_exact_mut(COPY).for_each(|copy| copy[16] = 2);
        assert_eq!(Superblock::open(&claims), Err(OpenError::Damaged));
    }

    #[test]
    fn what_is_not_ours_is_told_apart() {
        assert_eq!(Superblock::open(&[]), Err(OpenError::TooShort));
        assert_eq!(Superblock::open(&[0; SUPERBLOCK_ZONE]), Err(OpenError::NotTigerChat));
        for (found, what) in [(1, "no release reads it"), (9, "start one that runs release 1")] {
            let mut zone = superblock(1).zone();
            zone.chunks_exact_mut(COPY).for_each(|copy| copy[16] = found);
            let refused = Superblock::open(&zone).unwrap_err();
            assert_eq!(refused, OpenError::Version { found: found.into(), release: 1 });
            let said = alloc::format!("{refused}");
            assert!(said.contains("format version 2 to 4") && said.contains(what), "{said}");
        }
    }
}
