//! A room written down: whole as it is, and not whole with any byte or line of it changed.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use proptest::prelude::*;

use super::{TENANT, World, chain_by_hand, key, message, publish};
use crate::chat::Limits;
use crate::chat::chain;
use crate::chat::export::{EXPORT_BEGINS, Head, Verified, Verifier, Writer, Wrong};
use crate::store::history;
use crate::types::{ClusterId, ShardId};
use crate::vsr::machine::Machine as _;
use crate::wire::chat::{MessageEvent, Publish, RoomEvent, Thread};
use crate::wire::entry::Digest;

/// Bodies of every kind: text, text that JSON has to write otherwise, JSON, none, and no text.
const BODIES: [&[u8]; 7] = [
    b"hello",
    "\"quoted\\ \u{1}\n\t\u{7f}\u{85}\u{2028}\u{202e}".as_bytes(),
    br#"{"text":"hi"}"#,
    b"",
    b"\xff\x00\x80",
    "schön 🐯".as_bytes(),
    b"secret",
];

fn head_of(world: &mut World) -> Head {
    let room = world.chat.room(TENANT, "r").expect("it was opened");
    let (epoch, first, head) = (room.epoch, room.first, room.head);
    let anchor = world.chat.anchor(TENANT, "r", &mut world.disk).expect("all blocks are here");
    let (cluster, shard) = (ClusterId(0xC1), ShardId(1));
    Head { cluster, shard, tenant: TENANT, room: "r".into(), epoch, first, head, anchor, op: world.op }
}

fn text_of(world: &mut World, unproven: u64) -> (Vec<u8>, Verified) {
    let (mut writer, mut text) = Writer::begin(head_of(world)).expect("a sound head");
    let mut add = |message: MessageEvent<'_>, erased: Option<Digest>| {
        text.extend(writer.message(&message, erased).expect("it chains"));
    };
    world.chat.linked_messages(TENANT, "r", &mut world.disk, &mut add).expect("all blocks are here");
    let (line, written) = writer.end(unproven).expect("all were there");
    text.extend(line);
    (text, written)
}

/// A room that was cut, of which a message was erased.
fn world() -> World {
    let mut world = World::new(Limits { room_messages: 8, ..Limits::tiny() });
    world.open("r");
    for number in 1..=10_u8 {
        let body = BODIES[usize::from(number) % BODIES.len()];
        world.one(publish(Publish { parent: u64::from(number / 3), ..message(key(0, number), body) }));
    }
    assert!(world.chat.forest_mut().erase(history::Key { room: 0, seq: 6 }));
    world
}

fn check(text: &[u8]) -> Result<Verified, Wrong> {
    let mut verifier = Verifier::default();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        verifier.line(line)?;
    }
    verifier.finish()
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

#[test]
fn what_is_written_is_whole_from_memory_and_from_blocks() {
    let mut world = world();
    for _ in 0..2 {
        let (text, written) = text_of(&mut world, 2);
        assert!(text.starts_with(EXPORT_BEGINS));
        assert_eq!(check(&text), Ok(written.clone()));
        assert_eq!((written.head.first, written.head.head, written.count), (3, 10, 8));
        assert_eq!((written.erased, written.unproven), (1, 2));
        assert_ne!(written.head.anchor, Digest::ZERO);
        assert!(!String::from_utf8_lossy(&text).contains("secret"), "it was erased");
        world.restart();
    }
    let mut empty = World::new(Limits::tiny());
    empty.open("r");
    let (text, written) = text_of(&mut empty, 0);
    assert_eq!(lines(&text).len(), 2);
    assert_eq!(check(&text), Ok(written));
}

/// Written from `docs/formats.md` alone.
#[test]
fn the_layout_is_that_of_the_documents() {
    let mut world = World::new(Limits::tiny());
    world.open("r");
    world.one(publish(message(key(0, 1), b"say \"hi\"")));
    let event = world.events();
    let RoomEvent::Message(seen) = event[0] else { panic!("a message was published") };
    let (time, key) = (seen.time, hex(&seen.key.0));
    let (salt, chain) = (hex(&seen.salt), hex(&chain_by_hand([0; 32], &seen)));
    let zeros = "0".repeat(64);
    let above = format!(
        "{{\"tigerchat_export\":1,\"cluster\":\"000000000000000000000000000000c1\",\"shard\":1,\"tenant\":7,\
         \"room\":\"r\",\"epoch\":\"1\",\"first\":\"1\",\"head\":\"1\",\"anchor\":\"{zeros}\",\"op\":\"2\"}}\n\
         {{\"seq\":\"1\",\"time\":\"{time}\",\"author\":\"ann\",\"key\":\"{key}\",\"kind\":1,\"parent\":\"0\",\
         \"content_type\":\"{}\",\"salt\":\"{salt}\",\"body\":\"say \\\"hi\\\"\",\"chain\":\"{chain}\"}}\n\
         {{\"count\":\"1\",\"head\":\"1\",\"chain\":\"{chain}\",\"unproven\":\"0\",\"sha256\":\"",
        seen.content_type
    );
    let expected = format!("{above}{}\"}}\n", Digest::of(above.as_bytes()));
    drop(event);
    assert_eq!(String::from_utf8(text_of(&mut world, 0).0).unwrap(), expected);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn no_byte_changes_unseen_and_the_line_is_named() {
    let (text, _) = text_of(&mut world(), 2);
    let last = lines(&text).len() as u64;
    let mut line = 1;
    for at in 0..text.len() {
        for mask in [1, 2, 0x0f, 0x20, 0x80] {
            let mut changed = text.clone();
            changed[at] ^= mask;
            let wrong = check(&changed).expect_err("a byte was changed");
            // What the head says is believed until something does not fit it.
            assert!(wrong.line == line || line == 1, "byte {at} ^ {mask} of line {line}: {wrong}");
            assert_ne!(wrong.expected, wrong.found);
        }
        line += u64::from(text[at] == b'\n');
    }
    assert_eq!(line, last + 1);
}

#[test]
fn no_line_is_removed_moved_doubled_or_added_unseen() {
    let (text, _) = text_of(&mut world(), 0);
    let lines = lines(&text);
    for at in 0..lines.len() {
        let mut removed = lines.clone();
        removed.remove(at);
        let wrong = check(&removed.concat()).expect_err("a line was removed");
        assert!(wrong.line == at as u64 + 1, "{wrong}");
        let mut doubled = lines.clone();
        doubled.insert(at, lines[at]);
        let wrong = check(&doubled.concat()).expect_err("a line was doubled");
        assert!(wrong.line == at as u64 + 2, "{wrong}");
        for other in 0..at {
            let mut moved = lines.clone();
            moved.swap(at, other);
            let wrong = check(&moved.concat()).expect_err("lines changed places");
            assert!(wrong.line == other as u64 + 1, "{wrong}");
        }
    }
    let wrong = check(&[&text[..], b"\n"].concat()).expect_err("something was added");
    assert_eq!((wrong.line, wrong.found.as_str()), (lines.len() as u64 + 1, "another line"));
    let removed = [&lines[..4], &lines[5..]].concat().concat();
    let wrong = check(&removed).expect_err("a message was removed");
    assert_eq!(wrong.to_string(), "line 5: seq: expected 6, found 7");
}

#[test]
fn a_text_that_was_cut_anywhere_is_not_whole() {
    let (text, _) = text_of(&mut world(), 0);
    for cut in 0..text.len() {
        let wrong = check(&text[..cut]).expect_err("it was cut");
        assert_eq!(wrong.found, "the end of the file", "cut to {cut}");
        let above = text[..cut].iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(wrong.line, above + 1);
    }
}

#[test]
fn what_is_no_chain_is_not_written() {
    let mut world = world();
    let head = head_of(&mut world);
    let begin = |change: fn(&mut Head)| {
        let mut head = head.clone();
        change(&mut head);
        Writer::begin(head).map(|(writer, _)| writer)
    };
    for bad in [
        (|head| head.room = "no such name".into()) as fn(&mut Head),
        |head| head.first = 0,
        |head| head.first = head.head + 2,
        |head| head.first = 1,
        |head| (head.first, head.head) = (u64::MAX, u64::MAX),
    ] {
        assert!(begin(bad).is_err());
    }
    // A message too few, and one that does not follow.
    assert!(begin(|_| {}).unwrap().end(0).is_err());
    let mut writer = begin(|head| head.anchor.0[0] ^= 1).unwrap();
    let mut first = None;
    let mut add = |message: MessageEvent<'_>, erased| {
        first.get_or_insert_with(|| writer.message(&message, erased).expect_err("another anchor"));
    };
    world.chat.linked_messages(TENANT, "r", &mut world.disk, &mut add).unwrap();
    assert_eq!(first.map(|wrong| wrong.what), Some("chain"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_message_is_written_and_read_again(
        body in prop::collection::vec(any::<u8>(), 0..60), text in ".{0,20}", author in "\\PC{1,8}", salt: [u8; 16],
        time: u64, kind: u8, epoch: u64, is_text: bool, is_erased: bool,
    ) {
        let body = if is_text { text.as_bytes() } else { &body };
        let mut message = MessageEvent {
            tenant: TENANT, room: "r", epoch, seq: 1, op: 1, index: 0, time, author: &author, key: key(0, 1),
            kind, parent: 0, chain: Digest::ZERO, salt, content_type: &text, body, thread: Thread::default(),
            erased: None,
        };
        message.chain = chain::next(Digest::ZERO, &message);
        let digest = chain::salted(&salt, body);
        let head = Head {
            cluster: ClusterId(epoch.into()), shard: ShardId(1), tenant: TENANT, room: "r".into(), epoch, first: 1,
            head: 1, anchor: Digest::ZERO, op: epoch,
        };
        let (mut writer, mut written) = Writer::begin(head).unwrap();
        written.extend(writer.message(&message, is_erased.then_some(digest)).unwrap());
        let (end, verified) = writer.end(1).unwrap();
        written.extend(end);
        prop_assert_eq!(lines(&written).len(), 3);
        prop_assert_eq!(verified.chain, message.chain);
        prop_assert_eq!(check(&written), Ok(verified));
    }

    #[test]
    fn any_bytes_are_refused_without_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..100), at in 0_usize..4000, keep: bool,
    ) {
        let (text, _) = text_of(&mut world(), 0);
        let at = at % text.len();
        let end = (at + if keep { 0 } else { bytes.len() }).min(text.len());
        let changed = [&text[..at], &bytes, &text[end..]].concat();
        prop_assert_eq!(check(&changed).is_ok(), changed == text);
        prop_assert!(check(&bytes).is_err());
    }
}
