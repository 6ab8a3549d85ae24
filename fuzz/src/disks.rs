//! What a disk holds, with tags and digests that are right: what is inside must be judged by itself.
//!
//! The one law: **no content panics, and what is accepted is written again as the same bytes.**

use tigerchat_core::chat::LIMITS;
use tigerchat_core::store::layout::{Layout, PAYLOAD, SECTOR, SUPERBLOCK_COPIES};
use tigerchat_core::store::sector::{self, Found, Stamp, Zone};
use tigerchat_core::store::superblock::{CheckpointRef, ShardConfig, Superblock};
use tigerchat_core::types::{ClusterId, ReplicaId, ShardId};
use tigerchat_core::vsr::membership::{Change, Members};
use tigerchat_core::vsr::offline::Stopped;
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::entry::{Digest, ENTRY_HEADER, EntryHeader};
use zerocopy::{FromBytes, IntoBytes};

use crate::targets::{self, Target};

/// The targets of this file, by the names of their corpora.
pub const DISK_TARGETS: &[(&str, Target)] = &[
    ("sector", sector),
    ("members", members),
    ("superblock_inside", superblock_inside),
    ("checkpoint", checkpoint),
];

/// A sector with any content: it is blank, itself, or corrupt; and corrupt wherever else it lies.
pub fn sector(bytes: &[u8]) {
    let (place, elsewhere) = (config().place(Zone::Wal), config().place(Zone::Checkpoint));
    let offset = 8 * SECTOR as u64;
    let mut bare = bytes.to_vec();
    bare.resize(SECTOR, 0);
    let found = sector::open(place, offset, &bare);
    assert_eq!(found == Found::Blank, bare.iter().all(|byte| *byte == 0), "blank is all zero");
    let payload = &bytes[..bytes.len().min(PAYLOAD)];
    let stamp = Stamp { op: 9, view: 2, witness: 8, index: 1 };
    sector::seal(place, offset, stamp, payload, &mut bare);
    assert_eq!(sector::open(place, offset, &bare), Found::Valid(stamp));
    assert!(sector::payloads(&bare).all(|inside| inside.starts_with(payload)));
    assert_eq!(sector::open(place, offset + SECTOR as u64, &bare), Found::Corrupt, "in another place");
    assert_eq!(sector::open(elsewhere, offset, &bare), Found::Corrupt, "in another zone");
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
    const SEQUENCE: usize = CLUSTER + 16 + 4 + 2 + 4 + 12 + LIMITS;
    let mut reader = Reader::new(&payload[CLUSTER..]);
    let cluster = ClusterId(reader.u128().expect("a payload is longer"));
    let shard = ShardId(reader.u32().expect("a payload is longer"));
    let place = ShardConfig { cluster, shard, ..config() }.place(Zone::Superblock);
    let op = Reader::new(&payload[SEQUENCE..]).u64().expect("a payload is longer");
    let stamp = Stamp { op, view: copy as u64, witness: 0, index: 0 };
    sector::seal(place, Superblock::copy_offset(copy), stamp, payload, image);
}

/// A data file whose checkpoint is the input, behind the header of its entry: sessions, members, state. A replica
/// takes it or knows that its state is lost; it never ends by it.
pub fn checkpoint(bytes: &[u8]) {
    let config = config();
    let bytes = &bytes[..bytes.len().min(config.layout.checkpoint_max() - ENTRY_HEADER)];
    let mut superblock = Superblock::format(config.clone(), Members::first(3, 2).expect("a majority"));
    let mut header = EntryHeader::read_from_bytes(config.root().as_bytes()).expect("as long");
    header.op = 16.into();
    let image = [header.as_bytes(), bytes].concat();
    superblock.checkpoint =
        CheckpointRef { header, digest: Digest::of(&image), size: image.len() as u64, copy: 0 };
    superblock.suffix = vec![header];
    (superblock.commit, superblock.witness) = (16, 16);
    let file = data_file(&superblock, &image);
    let stopped = Stopped::read(&mut |offset, into| {
        let from = usize::try_from(offset).expect("a small file");
        file.get(from..from + into.len()).is_some_and(|found| {
            into.copy_from_slice(found);
            true
        })
    });
    if let Ok(stopped) = stopped {
        assert_eq!(stopped.executed(), 16, "nothing is behind the checkpoint");
    }
}

/// A file with a superblock, an empty log, and a checkpoint in its first copy, part by part as a replica writes it.
fn data_file(superblock: &Superblock, image: &[u8]) -> Vec<u8> {
    let layout = &superblock.config.layout;
    let mut file = superblock.zone();
    file.resize(usize::try_from(layout.file_size()).expect("a small file"), 0);
    let chunk = layout.slot_sectors as usize;
    let place = superblock.config.place(Zone::Checkpoint);
    let stamp = Stamp { op: superblock.checkpoint.op(), view: 0, witness: 0, index: 0 };
    for (number, part) in image.chunks(chunk * PAYLOAD).enumerate() {
        let offset = layout.checkpoint_offset(0) + (number * chunk * SECTOR) as u64;
        let at = usize::try_from(offset).expect("a small file");
        let sectors = &mut file[at..][..sector::sectors_for(part.len()) * SECTOR];
        sector::seal(place, offset, stamp, part, sectors);
    }
    file
}

/// With room for the smallest checkpoints alone.
fn config() -> ShardConfig {
    let layout = Layout { wal_slots: 8, slot_sectors: 2, checkpoint_sectors: 4 };
    ShardConfig { layout, ..targets::config() }
}
