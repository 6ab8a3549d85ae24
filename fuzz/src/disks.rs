//! What a disk holds, with tags and digests that are right: what is inside must be judged by itself.
//!
//! The one law: **no content panics, and what is accepted is written again as the same bytes.**

use std::collections::BTreeMap;

use tigerchat_core::chat::{Chat, LIMITS};
use tigerchat_core::store::forest::{Checkpoint, Opening};
use tigerchat_core::store::grid::block::{self, BLOCK_HEADER, BlockRef, Kind};
use tigerchat_core::store::layout::{Layout, PAYLOAD, SECTOR, SUPERBLOCK_COPIES};
use tigerchat_core::store::sector::{self, Found, Stamp, Zone};
use tigerchat_core::store::superblock::{CheckpointRef, ShardConfig, Superblock};
use tigerchat_core::types::{ClusterId, ReplicaId, ShardId};
use tigerchat_core::vsr::machine::{At, Machine as _};
use tigerchat_core::vsr::membership::{Change, Members};
use tigerchat_core::vsr::offline::{Stopped, verify};
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::entry::EntryHeader;
use zerocopy::{FromBytes, IntoBytes};

use crate::targets::{self, Target};

/// The targets of this file, by the names of their corpora.
pub const DISK_TARGETS: &[(&str, Target)] = &[
    ("sector", sector),
    ("members", members),
    ("superblock_inside", superblock_inside),
    ("block", block),
    ("checkpoint", checkpoint),
];

/// A sector with any content: it is blank, itself, or corrupt; and corrupt wherever else it lies.
pub fn sector(bytes: &[u8]) {
    let (place, elsewhere) = (config().place(Zone::Wal), config().place(Zone::Grid));
    let offset = 8 * SECTOR as u64;
    let mut bare = bytes.to_vec();
    bare.resize(SECTOR, 0);
    let found = sector::open(place, offset, &bare, &mut Vec::new());
    assert_eq!(found == Found::Blank, bare.iter().all(|byte| *byte == 0), "blank is all zero");
    let payload = &bytes[..bytes.len().min(PAYLOAD)];
    let stamp = Stamp { op: 9, view: 2, witness: 8, index: 1 };
    sector::seal(place, offset, stamp, payload, &mut bare);
    assert_eq!(sector::open(place, offset, &bare, &mut Vec::new()), Found::Valid(stamp));
    assert!(sector::payloads(&bare).all(|inside| inside.starts_with(payload)));
    assert_eq!(
        sector::open(place, offset + SECTOR as u64, &bare, &mut Vec::new()),
        Found::Corrupt,
        "in another place"
    );
    assert_eq!(sector::open(elsewhere, offset, &bare, &mut Vec::new()), Found::Corrupt, "in another zone");
}

/// Members of a shard, and what an operator asks to be changed of them.
pub fn members(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    if let Ok(members) = Members::decode(&mut reader) {
        let mut again = Vec::new();
        members.encode(&mut again);
        assert_eq!(again, bytes[..bytes.len() - reader.rest().len()], "members are written in one way only");
        if let Ok(change) = Change::decode(reader.rest()) {
            for leader in 0..4 {
                let _ = members.after(&change, ReplicaId(leader), u64::from(leader));
            }
        }
    }
    if let Ok(change) = Change::decode(bytes) {
        assert_eq!(change.encode(), bytes, "a change is written in one way only");
    }
}

/// Payloads of a superblock's copies with bytes changed behind the magic, under the tags that they should have: each
/// four bytes of input are a place and what to change there.
pub fn superblock_inside(bytes: &[u8]) {
    let sound = Superblock::format(config(), Members::first(3, 2).expect("a majority"));
    let zone = sound.zone();
    let mut payload = sector::payloads(&zone[..Superblock::COPY]).collect::<Vec<_>>().concat();
    for edit in bytes.chunks_exact(4) {
        let at = usize::from(edit[0]) | usize::from(edit[1]) << 8;
        if let Some(byte) = payload.get_mut(at) {
            *byte ^= edit[2];
        }
    }
    let mut again = vec![0; zone.len()];
    for (copy, image) in again.chunks_exact_mut(Superblock::COPY).enumerate() {
        seal_copy(copy, &payload, image);
    }
    if let Ok(opened) = Superblock::open(&again) {
        assert_eq!(Superblock::open(&opened.zone()).as_ref(), Ok(&opened), "what is read can be written");
        assert_eq!(Superblock::read_copies(&again).iter().flatten().count(), SUPERBLOCK_COPIES);
    }
}

/// Cluster, shard and sequence are where `docs/formats.md` has them: the tag is over them as they are now.
fn seal_copy(copy: usize, payload: &[u8], image: &mut [u8]) {
    const CLUSTER: usize = 24;
    const SEQUENCE: usize = CLUSTER + 16 + 4 + 2 + 4 + 20 + LIMITS;
    let mut reader = Reader::new(&payload[CLUSTER..]);
    let cluster = ClusterId(reader.u128().expect("a payload is longer"));
    let shard = ShardId(reader.u32().expect("a payload is longer"));
    let place = ShardConfig { cluster, shard, ..config() }.place(Zone::Superblock);
    let op = Reader::new(&payload[SEQUENCE..]).u64().expect("a payload is longer");
    let stamp = Stamp { op, view: copy as u64, witness: 0, index: 0 };
    sector::seal(place, Superblock::copy_offset(copy), stamp, payload, image);
}

/// A block: a byte that says of which kind, and its body, with the digest that it should have. It comes back as it was
/// written, and damage to it is found. A root is opened, as far as it goes. Also the bare input, as what was read.
pub fn block(bytes: &[u8]) {
    const KINDS: [Kind; 4] = [Kind::Root, Kind::Manifest, Kind::FreeSet, Kind::Records];
    let Some((kind, body)) = bytes.split_first() else { return };
    let (config, address) = (config(), 3);
    let (place, grid) = (config.place(Zone::Grid), config.layout.grid());
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let mut payload = Vec::new();
    block::begin(kind, address, 1, &mut payload);
    payload.extend_from_slice(&body[..body.len().min(grid.body_max())]);
    let reference = block::finish(&grid, &mut payload);
    let mut image = vec![0; grid.block_bytes()];
    block::seal(place, &grid, &payload, &mut image);
    let mut read = Vec::new();
    assert_eq!(block::open(place, &grid, &reference, &image, &mut read), Ok(()));
    assert_eq!(read, payload, "it comes back as it was written");
    image[body.len() % SECTOR] ^= 1;
    assert!(block::open(place, &grid, &reference, &image, &mut read).is_err() && read.is_empty());
    assert!(block::open(place, &grid, &reference, bytes, &mut read).is_err(), "its digest is another");
    let shape = targets::new_chat().forest().shape().clone();
    let root = Checkpoint { number: 1, op: 16, root: reference };
    let mut opening = Opening::new(shape, root);
    let taken = opening.give(&payload);
    assert!(taken.is_err() || kind == Kind::Root, "nothing else is a root");
}

/// A data file whose checkpoint is not what was written: each four bytes of input are a block, a place in it (two), and
/// what to change there; then every block has the digest by which the others name it. A replica takes the checkpoint
/// or knows that its state is lost; it never ends by it.
pub fn checkpoint(bytes: &[u8]) {
    let config = config();
    let op = config.layout.interval();
    let mut header = EntryHeader::read_from_bytes(config.root().as_bytes()).expect("as long");
    header.op = op.into();
    let mut chat = Chat::new(config.limits, &config.layout);
    let at = At { op: 1, index: 0, time: 1_700_000_000_000_000_000 };
    chat.apply(at, 1, &targets::commands(), &mut Vec::new(), &mut Vec::new());
    let mut blocks = BTreeMap::new();
    let made = targets::checkpoint_of(&mut chat, op, &tail(&header), &mut blocks);
    let (root, blocks) = edited(&config, made.root, blocks, bytes);
    let mut superblock = Superblock::format(config, Members::first(3, 2).expect("a majority"));
    superblock.checkpoint = CheckpointRef { header, number: made.number, root };
    superblock.suffix = vec![header];
    (superblock.commit, superblock.witness) = (op, op);
    let file = data_file(&superblock, &blocks);
    let mut read = |offset, into: &mut [u8]| {
        let from = usize::try_from(offset).expect("a small file");
        file.get(from..from + into.len()).is_some_and(|found| {
            into.copy_from_slice(found);
            true
        })
    };
    let verified = verify(&mut read).expect("its superblock is whole");
    let stopped = Stopped::read(&mut read).expect("it has peers");
    assert_eq!(stopped.executed(), op, "nothing is behind the checkpoint");
    if stopped.is_state_lost() {
        assert!(bytes.len() >= 4, "what was written can be opened");
    } else {
        assert!(verified.is_complete, "what was taken can be taken");
        assert_eq!(verified.whole + verified.damaged.len() as u64, stopped.references().count() as u64);
    }
}

/// What a replica keeps in the manifest: the header, no session, no members but the first.
fn tail(header: &EntryHeader) -> Vec<u8> {
    let mut members = Vec::new();
    Members::first(3, 2).expect("a majority").encode(&mut members);
    let length = u32::try_from(members.len()).expect("small").to_le_bytes();
    [header.as_bytes(), &4_u64.to_le_bytes(), &[0; 4], &length, &members].concat()
}

/// Changes blocks, those that are named before those that name them, and mends the names.
fn edited(
    config: &ShardConfig,
    root: BlockRef,
    blocks: BTreeMap<BlockRef, Vec<u8>>,
    bytes: &[u8],
) -> (BlockRef, Vec<Vec<u8>>) {
    let grid = config.layout.grid();
    let rank = |reference: &BlockRef, payload: &[u8]| {
        let kind = block::check(&grid, reference, payload).expect("it was made here").kind;
        match kind {
            Kind::Records | Kind::Pages | Kind::Wiped => 0,
            Kind::Index => 1,
            Kind::Manifest | Kind::FreeSet => 2,
            Kind::Root => 3,
        }
    };
    let mut blocks: Vec<(BlockRef, Vec<u8>)> = blocks.into_iter().collect();
    blocks.sort_by_key(|(reference, payload)| rank(reference, payload));
    for edit in bytes.chunks_exact(4) {
        let count = blocks.len();
        let payload = &mut blocks[usize::from(edit[0]) % count].1;
        let body = payload.len() - BLOCK_HEADER;
        let place = (usize::from(edit[1]) | usize::from(edit[2]) << 8) % body.max(1);
        if let Some(byte) = payload.get_mut(BLOCK_HEADER + place) {
            *byte ^= edit[3];
        }
    }
    let mut newest = root;
    for at in 0..blocks.len() {
        let (before, after) = {
            let (reference, payload) = &mut blocks[at];
            (*reference, block::finish(&grid, payload))
        };
        let [old, new] = [before, after].map(|reference| {
            let mut name = Vec::new();
            reference.encode(&mut name);
            name
        });
        for (_, payload) in &mut blocks[at + 1..] {
            let found = payload.windows(old.len()).position(|window| window == old);
            if let Some(from) = found {
                payload[from..from + new.len()].copy_from_slice(&new);
            }
        }
        if before == root {
            newest = after;
        }
    }
    (newest, blocks.into_iter().map(|(_, payload)| payload).collect())
}

/// A file with a superblock, an empty log, and these blocks.
fn data_file(superblock: &Superblock, blocks: &[Vec<u8>]) -> Vec<u8> {
    let layout = &superblock.config.layout;
    let (place, grid) = (superblock.config.place(Zone::Grid), layout.grid());
    let mut file = superblock.zone();
    file.resize(usize::try_from(layout.file_size_max()).expect("a small file"), 0);
    for payload in blocks {
        let address = u64::from_le_bytes(payload[8..16].try_into().expect("a header"));
        let at = usize::try_from(grid.offset_of(address)).expect("a small file");
        block::seal(place, &grid, payload, &mut file[at..][..grid.block_bytes()]);
    }
    file
}

/// With a short log, and room for the smallest checkpoints alone.
fn config() -> ShardConfig {
    let layout = Layout { wal_slots: 8, slot_sectors: 2, block_sectors: 2, blocks_max: 256, grid_step: 8 };
    ShardConfig { layout, ..targets::config() }
}
