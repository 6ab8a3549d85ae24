//! Erasing, as the machine executes it.

use super::*;
use crate::wire::chat::{Erase, KIND_ERASURE};

const SECRET: &[u8] = b"the secret of bob";

fn erase<'a>(key: Key, seq: u64) -> Erase<'a> {
    let (author, of) = ("ann", super::key(0, 2));
    Erase {
        tenant: TENANT,
        room: "r",
        user: "ann",
        key,
        epoch: 1,
        seq,
        author,
        of,
        salt: [9; 16],
        now: false,
    }
}

/// Three messages, of which the second is the secret.
fn three() -> World {
    let mut world = World::new(Limits::tiny());
    world.open("r");
    for (number, body) in [(1, &b"one"[..]), (2, SECRET), (3, b"three")] {
        assert_eq!(world.one(publish(message(key(0, number), body))).error, None);
    }
    world
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// All of the room's history as it is served, and that its chain is whole.
fn served(world: &mut World) -> Vec<(u64, u8, Vec<u8>, bool)> {
    let (mut seen, mut chain) = (Vec::new(), Digest::ZERO);
    let mut sink = |message: MessageEvent<'_>| {
        chain = chain::next(chain, &message);
        assert_eq!(chain, message.chain, "the chain is whole at {}", message.seq);
        seen.push((message.seq, message.kind, message.body.to_vec(), message.erased.is_some()));
    };
    world.chat.messages(TENANT, "r", &mut world.disk, &mut sink).expect("all blocks are here");
    assert_eq!(world.chat.room(TENANT, "r").unwrap().chain, chain);
    seen
}

#[test]
fn what_is_erased_is_served_no_more_and_the_room_says_so() {
    let mut world = three();
    let done = world.one(Command::Erase(erase(key(0, 50), 2)));
    assert_eq!((done.error, done.seq, done.duplicate), (None, 4, false));
    let [RoomEvent::Message(told)] = world.events()[..] else { panic!("one entry is told") };
    assert_eq!((told.kind, told.body, told.author), (KIND_ERASURE, &br#"{"erased":"2"}"#[..], "ann"));
    let expected = [
        (1, KIND_MESSAGE, b"one".to_vec(), false),
        (2, KIND_MESSAGE, vec![], true),
        (3, KIND_MESSAGE, b"three".to_vec(), false),
        (4, KIND_ERASURE, br#"{"erased":"2"}"#.to_vec(), false),
    ];
    assert_eq!(served(&mut world), expected);
    // A page of history too, and it survives the wire.
    let (mut query, mut answer) = (Vec::new(), Vec::new());
    Query::History { tenant: TENANT, room: "r", from: 1, limit: 9 }.encode(&mut query).unwrap();
    world.chat.query(&query, &mut world.disk, &mut answer).unwrap();
    assert!(!contains(&answer, SECRET));
    // And the same after checkpoints, on a machine that begins with one.
    for _ in 0..3 {
        world.restart();
        assert_eq!(served(&mut world), expected);
    }
}

#[test]
fn an_erasure_is_retried_safely_and_its_refusals_leave_no_trace() {
    let mut world = three();
    let first = world.one(Command::Erase(erase(key(0, 50), 2)));
    let before = world.encoded();
    let again = world.one(Command::Erase(erase(key(0, 50), 2)));
    assert_eq!(again, Outcome { duplicate: true, ..first });
    assert_eq!(error(world.one(Command::Erase(erase(key(0, 50), 1)))), ErrorCode::KeyConflict);
    assert_eq!(error(world.one(Command::Erase(erase(key(0, 51), 9)))), ErrorCode::PositionAhead);
    assert_eq!(error(world.one(Command::Erase(erase(key(0, 51), 0)))), ErrorCode::PositionGone);
    let other = Erase { epoch: 2, ..erase(key(0, 51), 1) };
    assert_eq!(error(world.one(Command::Erase(other))), ErrorCode::EpochMismatch);
    let early = key(-48 * 3_600_000, 51);
    assert_eq!(error(world.one(Command::Erase(erase(early, 1)))), ErrorCode::KeyTooOld);
    assert_eq!(world.encoded(), before);
    assert_eq!(served(&mut world).len(), 4);
}

#[test]
fn the_retry_of_a_publish_that_was_erased_is_answered_and_says_nothing_anew() {
    let mut world = three();
    let first = world.one(Command::Erase(erase(key(0, 50), 2)));
    assert_eq!(first.error, None);
    let retried = world.one(publish(message(key(0, 2), SECRET)));
    assert_eq!((retried.error, retried.duplicate, retried.seq), (None, true, 2));
    assert!(world.events().is_empty());
    // Nothing is left by which a guess could be told from the truth.
    let rows = world.encoded();
    let content = chain::salted(&[3; 16], SECRET);
    assert!(!contains(&rows, &content.0));
    let used = world.chat.dedup.find(0, TENANT, "ann", key(0, 2)).expect("remembered");
    assert_eq!((used.salt, used.content), ([0; 16], Digest::ZERO));
    world.restart();
    assert_eq!(world.one(publish(message(key(0, 2), SECRET))).seq, 2);
}

#[test]
fn no_more_erasures_wait_than_there_is_room_for() {
    let mut world = World::new(Limits::tiny());
    world.open("r");
    for number in 1..=40 {
        world.one(publish(message(key(0, number), b"x")));
    }
    let most = world.chat.forest.shape().erasures_max;
    for number in 0..most {
        assert_eq!(world.one(Command::Erase(erase(key(1, number as u8), u64::from(number) + 1))).error, None);
    }
    let next = erase(key(1, 200), u64::from(most) + 1);
    let before = world.encoded();
    assert_eq!(error(world.one(Command::Erase(next))), ErrorCode::TooManyErasures);
    assert_eq!(world.encoded(), before);
    // Checkpoints make room.
    world.restart();
    world.restart();
    assert_eq!(world.one(Command::Erase(next)).error, None);
}
