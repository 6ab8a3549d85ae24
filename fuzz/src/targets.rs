//! One function for each parser of bytes from outside: a peer, a client, a disk.
//!
//! The one law: **no input panics, and what is accepted means one thing only**: encoded again it gives the same bytes.
//! Digests stop a fuzzer at the door, so where there is one the target also opens it and goes on inside.

use std::collections::BTreeMap;

use tigerchat_core::chat::{Chat, Limits};
use tigerchat_core::pool::{Class, Message, Pool};
use tigerchat_core::store::forest::{Checkpoint, Forest, Opening, Standing};
use tigerchat_core::store::grid::block::BlockRef;
use tigerchat_core::store::history::reader::NoBlocks;
use tigerchat_core::store::layout::{Layout, SECTOR};
use tigerchat_core::store::sector::{self, Stamp, Zone};
use tigerchat_core::store::slot::{SlotFound, examine};
use tigerchat_core::store::superblock::{ShardConfig, Superblock};
use tigerchat_core::types::{ClusterId, ReplicaId, ShardId, TenantId};
use tigerchat_core::vsr::machine::{At, Machine};
use tigerchat_core::vsr::membership::Members;
use tigerchat_core::wire::chat::{AnswerHead, Command, Key, Outcome, Publish, Query, RoomEvent};
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::entry::{Digest, ENTRY_HEADER, EntryHeader, RequestKind, Requests};
use tigerchat_core::wire::frame::{FRAME_HEADER, Frame, FrameHeader};
use zerocopy::IntoBytes;

/// What a target does with an input: it returns, or panics with what was broken.
pub type Target = fn(&[u8]);

/// The targets, by the names of their corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("frame", frame),
    ("entry", entry),
    ("chat_command", chat_command),
    ("chat_event", chat_event),
    ("chat_apply", chat_apply),
    ("chat_state", chat_state),
    ("superblock", superblock),
    ("slot", slot),
];

const NEVER_FULL: &str = "a Vec is never full";

/// A header and a payload: as they are, and with the digests that they should have.
pub fn frame(bytes: &[u8]) {
    let Some((header, payload)) = bytes.split_first_chunk::<FRAME_HEADER>() else { return };
    let _ = FrameHeader::decode(header, payload.len());
    let mut header = *header;
    let inner = Digest::of(payload);
    header[32..64].copy_from_slice(if payload.is_empty() { &[0; 32] } else { &inner.0 });
    let outer = Digest::of(&header[32..192]);
    header[..32].copy_from_slice(&outer.0);
    let Ok(decoded) = FrameHeader::decode(&header, payload.len()) else { return };
    assert_eq!(decoded.as_bytes(), header, "a header is its bytes");
    assert_eq!(decoded.command() as u8, decoded.command);
    let joined = Frame::join(decoded, message(payload));
    if !decoded.command().carries_entry() {
        assert_eq!(joined.is_ok(), decoded.payload_len() == payload.len(), "only the size could be wrong");
    }
}

fn message(payload: &[u8]) -> Option<Message> {
    let pool = Pool::new(&[Class { size: payload.len().max(1), count: 1 }]);
    let mut draft = pool.draft(payload.len())?;
    draft.extend(payload).expect("the buffer is as large");
    (!payload.is_empty()).then(|| draft.seal())
}

/// An entry: as it is, and with the size and the digest that it should have.
pub fn entry(bytes: &[u8]) {
    let _ = EntryHeader::split(bytes);
    let Some((header, body)) = bytes.split_first_chunk::<ENTRY_HEADER>() else { return };
    let mut mended = bytes.to_vec();
    mended[48..80].copy_from_slice(&Digest::of(body).0);
    mended[104..108].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
    if let Some((decoded, inside)) = EntryHeader::split(&mended) {
        assert_eq!((decoded.as_bytes(), inside), (&mended[..header.len()], body));
    }
    let mut walked = 0;
    for (request, commands) in Requests::new(body) {
        walked += size_of_val(&request) + commands.len();
        let _ = RequestKind::from_code(request.kind.get());
    }
    assert!(walked <= body.len());
}

/// Commands, one behind the other.
pub fn chat_command(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let mut again = Vec::new();
    while let Ok(command) = Command::decode(&mut reader) {
        let before = again.len();
        command.encode(&mut again).expect(NEVER_FULL);
        assert_eq!(again.len() - before, command.size());
        assert_eq!(again[before..], bytes[before..again.len()], "a command is written in one way only");
    }
}

/// Whatever an edge reads from a replica, or a replica from an edge, beside commands.
pub fn chat_event(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let mut again = Vec::new();
    while let Ok(event) = RoomEvent::decode(&mut reader) {
        let before = again.len();
        event.encode(&mut again).expect(NEVER_FULL);
        assert_eq!(again.len() - before, event.size());
        assert_eq!(again[before..], bytes[before..again.len()], "an event is written in one way only");
    }
    again.clear();
    if let Ok(query) = Query::decode(bytes) {
        query.encode(&mut again).expect(NEVER_FULL);
        assert_eq!(again, bytes, "a query is written in one way only");
    }
    again.clear();
    if let Ok(outcome) = Outcome::decode(&mut Reader::new(bytes)) {
        outcome.encode(&mut again).expect(NEVER_FULL);
        assert_eq!(again, bytes[..again.len()], "an outcome is written in one way only");
    }
    again.clear();
    if let Ok(head) = AnswerHead::decode(&mut Reader::new(bytes)) {
        head.encode(&mut again).expect(NEVER_FULL);
        assert_eq!(again, bytes[..again.len()], "the head of an answer is written in one way only");
    }
}

/// Requests to the state machine: a byte that says how many bytes of commands follow, again and again. What it has
/// become can be written as a checkpoint and opened again.
pub fn chat_apply(bytes: &[u8]) {
    let mut chat = new_chat();
    let (mut reply, mut feed) = (Vec::new(), Vec::new());
    let mut at = At { op: 1, index: 0, time: 1_700_000_000_000_000_000 };
    let mut rest = bytes;
    while let Some((len, behind)) = rest.split_first() {
        let (commands, behind) = behind.split_at(behind.len().min(usize::from(*len)));
        reply.clear();
        feed.clear();
        let session = 1 + u64::from(*len) % 3;
        let count = chat.apply(at, session, commands, &mut reply, &mut feed);
        assert_eq!(reply.len(), count as usize * 80, "an outcome for each command");
        at = At { op: at.op + 1, index: 0, time: at.time + 1_000_000 };
        let mut answer = Vec::new();
        assert_eq!(chat.query(commands, &mut NoBlocks, &mut answer), Ok(()), "all of it is in memory");
        rest = behind;
    }
    let mut state = Vec::new();
    chat.encode(&mut state);
    let mut blocks = BTreeMap::new();
    let checkpoint = checkpoint_of(&mut chat, at.op, &[], &mut blocks);
    let forest = opened(&chat, checkpoint, &blocks).expect("what was written can be opened");
    let mut other = new_chat();
    assert_eq!(other.restore(forest), Ok(()), "what was written can be read");
    let mut again = Vec::new();
    other.encode(&mut again);
    assert!(state == again, "equal states give equal bytes");
}

/// Rows of the tables of a checkpoint that are not what was written: each six bytes of input are a table, a slot (two),
/// a place in it (two), and what to change there. What is accepted goes on.
pub fn chat_state(bytes: &[u8]) {
    let mut chat = new_chat();
    let (mut reply, mut feed) = (Vec::new(), Vec::new());
    let said = commands();
    let at = At { op: 1, index: 0, time: 1_700_000_000_000_000_000 };
    chat.apply(at, 1, &said, &mut reply, &mut feed);
    let mut blocks = BTreeMap::new();
    let checkpoint = checkpoint_of(&mut chat, 2, &[], &mut blocks);
    let mut forest = opened(&chat, checkpoint, &blocks).expect("what was written can be opened");
    for edit in bytes.chunks_exact(6) {
        let tables = &forest.shape().tables;
        let table = usize::from(edit[0]) % tables.len();
        // Mostly slots that are in use.
        let slot = (u32::from(edit[1]) | u32::from(edit[2]) << 8) % tables[table].slots;
        let slot = forest.slot_mut(table, slot);
        let place = (usize::from(edit[3]) | usize::from(edit[4]) << 8) % slot.len();
        slot[place] ^= edit[5];
    }
    let mut other = new_chat();
    let is_sound = other.restore(forest).is_ok();
    assert!(is_sound || !bytes.is_empty(), "what was written is a state");
    if is_sound {
        let at = At { op: 3, time: at.time + 1_000_000, ..at };
        other.apply(at, 2, &said, &mut reply, &mut feed);
        other.session_closed(At { op: 4, ..at }, 1, &mut feed);
        checkpoint_of(&mut other, 5, &[], &mut blocks);
    }
}

pub(crate) fn new_chat() -> Chat {
    let config = config();
    Chat::new(config.limits, &config.layout)
}

/// A room with somebody in it who says something.
pub(crate) fn commands() -> Vec<u8> {
    let (tenant, room, user) = (TenantId(1), "general", "ada");
    let publish = Command::Publish(Publish {
        tenant,
        room,
        user,
        key: Key::new(1_700_000_000_000, [7; 10]),
        kind: 1,
        parent: 0,
        expect_seq: Some(0),
        salt: [5; 16],
        content_type: "application/json",
        body: br#"{"text":"Hello"}"#,
    });
    let mut bytes = Vec::new();
    for command in [Command::RoomOpen { tenant, room, user }, Command::Enter { tenant, room, user }, publish]
    {
        command.encode(&mut bytes).expect(NEVER_FULL);
    }
    bytes
}

/// Makes a machine's checkpoint of this op, of the blocks that are there and new ones.
pub(crate) fn checkpoint_of(
    chat: &mut Chat,
    op: u64,
    tail: &[u8],
    blocks: &mut BTreeMap<BlockRef, Vec<u8>>,
) -> Checkpoint {
    let forest = chat.forest_mut();
    forest.freeze(op, tail);
    forest.begin();
    loop {
        for reference in forest.wanted().copied().collect::<Vec<_>>() {
            forest.give(&reference, &blocks[&reference]).expect("it was made here");
        }
        let standing = forest.advance(1).expect("a few rows and messages fit the grid");
        while let Some((reference, payload)) = forest.writer().next_write() {
            blocks.insert(reference, payload.to_vec());
            forest.writer().written(reference.address);
        }
        if standing == Standing::Complete {
            return forest.newest().expect("it is complete");
        }
    }
}

/// The forest that a checkpoint is, if it is one.
pub(crate) fn opened(
    chat: &Chat,
    checkpoint: Checkpoint,
    blocks: &BTreeMap<BlockRef, Vec<u8>>,
) -> Option<Forest> {
    let mut opening = Opening::new(chat.forest().shape().clone(), checkpoint);
    while let Some(reference) = opening.wanted().first() {
        opening.give(blocks.get(reference)?).ok()?;
    }
    opening.done()
}

/// A superblock zone with damage: each four bytes of input are a place and what to change there. Also the bare
/// input, as a zone.
pub fn superblock(bytes: &[u8]) {
    let _ = Superblock::open(bytes);
    let sound = Superblock::format(config(), Members::first(3, 2).expect("a majority"));
    let mut zone = sound.zone();
    damage(&mut zone, bytes);
    if let Ok(opened) = Superblock::open(&zone) {
        assert_eq!(opened, sound, "damage is noticed or has no effect");
        assert!([0, 2].contains(&sound.weaker_pair(&zone)));
    }
}

/// A slot of the write-ahead log with damage, as for the superblock. A damaged entry is never taken for another.
pub fn slot(bytes: &[u8]) {
    let config = config();
    let place = config.place(Zone::Wal);
    let offset = config.layout.slot_offset(3);
    let body = vec![7; 5000];
    let mut header = config.root();
    header.op = 11.into();
    header.view = 2.into();
    header.body = Digest::of(&body);
    header.size = u32::try_from(ENTRY_HEADER + body.len()).expect("small").into();
    let entry = [header.as_bytes(), &body].concat();
    let mut image = vec![0; config.layout.slot_sectors as usize * SECTOR];
    sector::seal(place, offset, Stamp { op: 11, view: 2, witness: 10, index: 0 }, &entry, &mut image);
    damage(&mut image, bytes);
    let mut scratch = Vec::new();
    match examine(place, &config.layout, offset, &image, &mut scratch) {
        SlotFound::Entry { header: found, .. } => {
            assert_eq!((found, scratch), (header, entry), "the entry that was written");
        }
        SlotFound::Blank => assert!(image.iter().all(|byte| *byte == 0), "blank is all zero"),
        SlotFound::Torn | SlotFound::Faulty(_) => {}
    }
}

/// A small shard.
pub(crate) fn config() -> ShardConfig {
    ShardConfig {
        cluster: ClusterId(1),
        shard: ShardId(1),
        replica: ReplicaId(0),
        pipeline: 4,
        sessions: 8,
        window: 4,
        layout: Layout { wal_slots: 32, slot_sectors: 3, block_sectors: 2, blocks_max: 1024, grid_step: 8 },
        // Small tables: each input makes some machines.
        limits: Limits { keys: 128, present: 32, ..Limits::tiny() },
    }
}

/// Three bytes of place and one to xor with; a place beyond the end clears the whole sector that it falls into.
fn damage(image: &mut [u8], bytes: &[u8]) {
    for edit in bytes.chunks_exact(4) {
        let at = usize::from(edit[0]) | usize::from(edit[1]) << 8 | usize::from(edit[2]) << 16;
        if let Some(byte) = image.get_mut(at) {
            *byte ^= edit[3];
        } else {
            let sectors = image.len() / SECTOR;
            image[at % sectors * SECTOR..][..SECTOR].fill(0);
        }
    }
}
