//! The machine as a whole: scenarios of single promises, and hazards by their numbers.

mod disk;
mod erase;
mod export;
mod model;
mod pages;
mod retention;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use self::disk::{Disk, assert_written};
use super::*;
use crate::store::grid::block::BlockRef;
use crate::store::history;
use crate::store::history::reader::NoBlocks;
use crate::wire::chat::{AnswerHead, KIND_MESSAGE, Key, MessageEvent, OUTCOME, Query, Thread};

/// Blocks of a sector, levels of two runs: everything happens within a few hundred messages.
pub(super) const LAYOUT: Layout =
    Layout { wal_slots: 16, slot_sectors: 2, block_sectors: 1, blocks_max: 2000, grid_step: 16 };

const TENANT: TenantId = TenantId(7);
const SECOND: u64 = 1_000_000_000;
/// The op at which tests begin is at this Unix time, milliseconds.
const NOW_MS: u64 = 1_800_000_000_000;

/// A machine and a log that grows op by op, a second apart.
struct World {
    chat: Chat,
    disk: Disk,
    op: u64,
    feed: Vec<u8>,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self { chat: Chat::new(limits, &LAYOUT), disk: Disk::default(), op: 0, feed: Vec::new() }
    }

    fn at(&self) -> At {
        At { op: self.op, index: 0, time: NOW_MS * 1_000_000 + self.op * SECOND }
    }

    fn run(&mut self, session: u64, commands: &[Command<'_>]) -> Vec<Outcome> {
        self.op += 1;
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| command.encode(&mut bytes).unwrap());
        assert!(self.chat.check(&bytes));
        let mut reply = Vec::new();
        self.feed.clear();
        let count = self.chat.apply(self.at(), session, &bytes, &mut reply, &mut self.feed);
        assert_eq!((count as usize, reply.len()), (commands.len(), commands.len() * OUTCOME));
        let mut reader = Reader::new(&reply);
        commands.iter().map(|_| Outcome::decode(&mut reader).unwrap()).collect()
    }

    fn one(&mut self, command: Command<'_>) -> Outcome {
        self.run(1, &[command])[0]
    }

    fn open(&mut self, room: &str) -> Outcome {
        self.one(Command::RoomOpen { tenant: TENANT, room, user: "ann" })
    }

    fn events(&self) -> Vec<RoomEvent<'_>> {
        let mut reader = Reader::new(&self.feed);
        core::iter::from_fn(|| (!reader.is_empty()).then(|| RoomEvent::decode(&mut reader).unwrap()))
            .collect()
    }

    fn encoded(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.chat.encode(&mut bytes);
        assert_written(&self.chat);
        bytes
    }

    /// Goes on with another machine, from a checkpoint.
    fn restart(&mut self) {
        self.op += 1;
        let before = self.encoded();
        self.chat = self.disk.restarted(&mut self.chat, self.op, self.op);
        assert_eq!(self.encoded(), before);
    }

    /// Sequences, chain values and bodies of the messages in history.
    fn messages(&mut self) -> Vec<(u64, Digest, Vec<u8>)> {
        let mut seen = Vec::new();
        let mut sink = |message: MessageEvent<'_>| {
            seen.push((message.seq, message.chain, message.body.to_vec()));
        };
        self.chat.messages(TENANT, "r", &mut self.disk, &mut sink).expect("all blocks are here");
        seen
    }
}

fn key(ms: i64, number: u8) -> Key {
    Key::new(NOW_MS.saturating_add_signed(ms), [number; 10])
}

fn message<'a>(key: Key, body: &'a [u8]) -> Publish<'a> {
    Publish {
        tenant: TENANT,
        room: "r",
        user: "ann",
        key,
        kind: KIND_MESSAGE,
        parent: 0,
        expect_seq: None,
        salt: [3; 16],
        content_type: "text/plain",
        body,
    }
}

fn publish(publish: Publish<'_>) -> Command<'_> {
    Command::Publish(publish)
}

fn error(outcome: Outcome) -> ErrorCode {
    outcome.error.unwrap()
}

#[test]
fn opening_a_room_twice_yields_the_same_room() {
    let mut world = World::new(Limits::tiny());
    let first = world.open("r");
    assert_eq!((first.error, first.epoch, first.seq, first.chain), (None, 1, 0, Digest::ZERO));
    assert_eq!(world.events(), [RoomEvent::Opened { tenant: TENANT, room: "r", epoch: 1 }]);
    let said = world.one(publish(message(key(0, 1), b"hi")));
    let again = world.open("r");
    assert_eq!((again.epoch, again.seq, again.chain), (1, 1, said.chain));
    assert!(world.events().is_empty());
    let elsewhere = world.one(Command::RoomOpen { tenant: TenantId(8), room: "r", user: "ann" });
    assert_eq!((elsewhere.epoch, elsewhere.seq), (4, 0), "another tenant's room is another room");
}

#[test]
fn messages_are_numbered_without_gaps_and_stamped_by_their_place() {
    let mut world = World::new(Limits::tiny());
    world.open("r");
    let commands = [1, 2, 3].map(|number| publish(message(key(0, number), b"hi")));
    let outcomes = world.run(1, &commands);
    for (at, outcome) in outcomes.iter().enumerate() {
        assert_eq!((outcome.seq, outcome.index, outcome.op), (at as u64 + 1, at as u32, 2));
        assert_eq!(outcome.time, world.at().time + at as u64);
    }
    assert_eq!(world.events().len(), 3);
    let chains = world.messages().into_iter().map(|message| message.1);
    assert!(outcomes.iter().map(|outcome| outcome.chain).eq(chains));
}

#[test]
fn h43_a_retry_through_another_edge_yields_the_first_result() {
    let mut world = World::new(Limits::tiny());
    world.open("r");
    let first = world.one(publish(message(key(0, 1), b"hi")));
    let before = world.encoded();
    let retry = Publish { salt: [9; 16], expect_seq: Some(99), ..message(key(0, 1), b"hi") };
    assert_eq!(world.one(publish(retry)), Outcome { duplicate: true, ..first });
    assert!(world.events().is_empty());
    let conflicts = [
        message(key(0, 1), b"ho"),
        Publish { content_type: "text/html", ..message(key(0, 1), b"hi") },
        Publish { parent: 1, ..message(key(0, 1), b"hi") },
    ];
    for conflict in conflicts {
        let outcome = world.one(publish(conflict));
        assert_eq!((error(outcome), outcome.seq), (ErrorCode::KeyConflict, 1));
    }
    assert_eq!(world.encoded(), before);
    let other = world.one(publish(Publish { user: "bob", ..message(key(0, 1), b"hi") }));
    assert_eq!(
        (other.error, other.duplicate, other.seq),
        (None, false, 2),
        "another user's key is another key"
    );
}

#[test]
fn a_duplicate_is_answered_when_its_message_has_left_history() {
    let mut world = World::new(Limits { room_messages: 2, ..Limits::tiny() });
    world.open("r");
    let first = world.one(publish(message(key(0, 1), b"hi")));
    for number in 2..6 {
        world.one(publish(message(key(0, number), b"hi")));
    }
    assert_eq!(world.chat.room(TENANT, "r").unwrap().first, 4);
    let retry = world.one(publish(message(key(0, 1), b"hi")));
    assert_eq!(retry, Outcome { duplicate: true, ..first });
}

#[test]
fn refused_commands_say_why_and_change_nothing() {
    let mut world = World::new(Limits::tiny());
    world.open("r");
    world.one(publish(message(key(0, 1), b"hi")));
    let before = world.encoded();
    let ok = message(key(0, 2), b"hi");
    let large = vec![0; Limits::tiny().body_max as usize + 1];
    let day = i64::try_from(Limits::tiny().key_horizon_ms).unwrap();
    let cases = [
        (Publish { room: "a b", ..ok }, ErrorCode::RoomNameInvalid),
        (Publish { user: "", ..ok }, ErrorCode::UserNameInvalid),
        (Publish { kind: 2, ..ok }, ErrorCode::KindUnknown),
        (Publish { room: "other", ..ok }, ErrorCode::RoomUnknown),
        (Publish { parent: 2, ..ok }, ErrorCode::ParentUnknown),
        (Publish { expect_seq: Some(0), ..ok }, ErrorCode::ExpectationFailed),
        (Publish { key: key(-day, 2), ..ok }, ErrorCode::KeyTooOld),
        (Publish { key: key(100_000, 2), ..ok }, ErrorCode::KeyFromFuture),
    ];
    for (command, expected) in cases {
        let outcome = world.one(publish(command));
        assert_eq!(error(outcome), expected);
        let seq = if expected == ErrorCode::ExpectationFailed { 1 } else { 0 };
        assert_eq!(outcome.seq, seq);
    }
    let unknown = Command::Leave { tenant: TENANT, room: "other", user: "ann" };
    assert_eq!(error(world.one(unknown)), ErrorCode::RoomUnknown);
    let mut bytes = Vec::new();
    publish(Publish { body: &large, ..ok }).encode(&mut bytes).unwrap();
    assert!(!world.chat.check(&bytes), "a primary refuses it");
    let mut reply = Vec::new();
    world.chat.apply(world.at(), 1, &bytes, &mut reply, &mut Vec::new());
    let outcome = Outcome::decode(&mut Reader::new(&reply)).unwrap();
    assert_eq!(error(outcome), ErrorCode::BodyTooLarge, "and it would do no harm");
    assert_eq!(world.encoded(), before);
}

#[test]
fn users_are_present_from_their_first_enter_to_their_last_leave() {
    let mut world = World::new(Limits::tiny());
    world.open("r");
    let enter = Command::Enter { tenant: TENANT, room: "r", user: "ann" };
    let leave = Command::Leave { tenant: TENANT, room: "r", user: "ann" };
    let presence = |present| RoomEvent::Presence { tenant: TENANT, room: "r", user: "ann", present };
    world.run(1, &[enter, enter]);
    assert_eq!(world.events(), [presence(true)]);
    world.run(2, &[enter, Command::Enter { tenant: TENANT, room: "r", user: "Bob" }]);
    assert_eq!(world.chat.present(TENANT, "r"), ["Bob", "ann"]);
    world.run(1, &[leave, leave]);
    assert!(world.events().is_empty(), "another session still holds her");
    let mut feed = Vec::new();
    world.chat.session_closed(world.at(), 2, &mut feed);
    world.feed = feed;
    let bob = RoomEvent::Presence { tenant: TENANT, room: "r", user: "Bob", present: false };
    assert_eq!(world.events(), [presence(false), bob]);
    assert!(world.chat.present(TENANT, "r").is_empty());
}

fn ask(chat: &Chat, query: Query<'_>, room: usize, blocks: &mut dyn Blocks) -> (AnswerHead, Vec<u8>) {
    let mut bytes = Vec::new();
    query.encode(&mut bytes).unwrap();
    let pool = crate::pool::Pool::new(&[crate::pool::Class { size: room, count: 1 }]);
    let mut answer = pool.draft(room).unwrap();
    chat.query(&bytes, blocks, &mut answer).expect("all blocks are here");
    let mut reader = Reader::new(answer.bytes());
    (AnswerHead::decode(&mut reader).unwrap(), reader.rest().to_vec())
}

#[test]
fn pages_of_history_join_without_gap_and_say_what_is_gone() {
    let mut world = World::new(Limits { room_messages: 8, ..Limits::tiny() });
    world.open("r");
    for number in 1..=12 {
        world.one(publish(message(key(0, number), &[number])));
    }
    let page = |from, limit, room| {
        let query = Query::History { tenant: TENANT, room: "r", from, limit };
        let (head, items) = ask(&world.chat, query, room, &mut NoBlocks);
        let mut reader = Reader::new(&items);
        let seqs: Vec<_> = core::iter::from_fn(|| match RoomEvent::decode(&mut reader) {
            Ok(RoomEvent::Message(message)) => Some(message.seq),
            _ => None,
        })
        .collect();
        assert_eq!(head.count as usize, seqs.len());
        (head.error, (head.first, head.head), seqs, head.more)
    };
    let around = (5, 12);
    assert_eq!(page(5, 3, 9000), (None, around, vec![5, 6, 7], true));
    assert_eq!(page(8, 100, 9000), (None, around, vec![8, 9, 10, 11, 12], false));
    assert_eq!(page(0, 2, 9000), (None, around, vec![11, 12], false));
    assert_eq!(page(0, 100, 9000), (None, around, (5..=12).collect(), false));
    assert_eq!(page(13, 5, 9000), (None, around, vec![], false));
    assert_eq!(page(4, 5, 9000), (Some(ErrorCode::PositionGone), around, vec![], false));
    assert_eq!(page(14, 5, 9000), (Some(ErrorCode::PositionAhead), around, vec![], false));
    assert_eq!(page(u64::MAX, u32::MAX, 9000), (Some(ErrorCode::PositionAhead), around, vec![], false));
    assert_eq!(page(5, 100, 300), (None, around, vec![5], true), "a page ends where the answer ends");
}

#[test]
fn presence_is_answered_in_order_and_what_is_unknown_by_its_number() {
    let mut world = World::new(Limits::tiny());
    world.open("r");
    for user in ["cy", "ann", "bob"] {
        world.one(Command::Enter { tenant: TENANT, room: "r", user });
    }
    let query = Query::Presence { tenant: TENANT, room: "r" };
    let (head, items) = ask(&world.chat, query, 1000, &mut NoBlocks);
    assert_eq!((head.count, head.more, &items[..]), (3, false, &b"\x03ann\x03bob\x02cy"[..]));
    let (head, items) = ask(&world.chat, query, crate::wire::chat::ANSWER_HEAD + 9, &mut NoBlocks);
    assert_eq!((head.count, head.more, &items[..]), (2, true, &b"\x03ann\x03bob"[..]));
    let unknown = Query::Presence { tenant: TENANT, room: "x" };
    let (head, _) = ask(&world.chat, unknown, 1000, &mut NoBlocks);
    assert_eq!(head.error, Some(ErrorCode::RoomUnknown));
    let mut answer = Vec::new();
    world.chat.query(b"\xffnonsense", &mut NoBlocks, &mut answer).unwrap();
    let head = AnswerHead::decode(&mut Reader::new(&answer)).unwrap();
    assert_eq!(head.error, Some(ErrorCode::Malformed));
}

#[test]
fn full_tables_refuse_and_go_on() {
    let mut world = World::new(Limits { rooms: 2, present: 2, ..Limits::tiny() });
    for name in ["r", "s"] {
        assert_eq!(world.open(name).error, None);
    }
    assert_eq!(error(world.open("t")), ErrorCode::TooManyRooms);
    assert_eq!(world.open("r").error, None);
    let users: Vec<String> = (0..3).map(|number| format!("u{number}")).collect();
    let outcomes: Vec<_> = users
        .iter()
        .map(|user| world.one(Command::Enter { tenant: TENANT, room: "r", user }).error)
        .collect();
    assert_eq!(outcomes, [None, None, Some(ErrorCode::TooManyPresent)]);
    world.one(Command::Leave { tenant: TENANT, room: "r", user: "u0" });
    assert_eq!(world.one(Command::Enter { tenant: TENANT, room: "s", user: "u2" }).error, None);
}

/// Written from `docs/formats.md` alone, byte by byte.
fn chain_by_hand(previous: [u8; 32], seen: &MessageEvent<'_>) -> [u8; 32] {
    fn field(bytes: &mut Vec<u8>, value: &[u8]) {
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(value);
    }
    let mut body = seen.salt.to_vec();
    body.extend(seen.body);
    let mut bytes = b"tigerchat.v1.message".to_vec();
    field(&mut bytes, &seen.tenant.0.to_le_bytes());
    field(&mut bytes, seen.room.as_bytes());
    field(&mut bytes, &seen.epoch.to_le_bytes());
    field(&mut bytes, &seen.seq.to_le_bytes());
    field(&mut bytes, &previous);
    field(&mut bytes, seen.author.as_bytes());
    field(&mut bytes, &seen.time.to_le_bytes());
    field(&mut bytes, &seen.key.0);
    field(&mut bytes, &seen.parent.to_le_bytes());
    field(&mut bytes, &[seen.kind]);
    field(&mut bytes, seen.content_type.as_bytes());
    field(&mut bytes, &Digest::of(&body).0);
    Digest::of(&bytes).0
}

#[test]
fn every_message_chains_to_the_one_before_also_behind_a_cut() {
    let mut world = World::new(Limits { room_messages: 5, ..Limits::tiny() });
    world.open("r");
    let mut previous = [0; 32];
    for number in 1..=9u8 {
        let parent = u64::from(number / 2);
        world.one(publish(Publish { parent, ..message(key(0, number), &[number; 40]) }));
        let RoomEvent::Message(seen) = world.events()[0] else { panic!("a message was published") };
        assert_eq!(seen.chain.0, chain_by_hand(previous, &seen));
        previous = seen.chain.0;
    }
    let room = world.chat.room(TENANT, "r").unwrap();
    assert_eq!((room.first, room.head, room.chain.0), (5, 9, previous));
    let chain = room.chain;
    // From memory, and from blocks, of whose records before the cut the anchor is left.
    for _ in 0..2 {
        let mut previous = world.chat.anchor(TENANT, "r", &mut world.disk).unwrap();
        assert_ne!(previous, Digest::ZERO);
        let mut sink = |message: MessageEvent<'_>| {
            assert_eq!(message.chain, chain::next(previous, &message));
            previous = message.chain;
        };
        world.chat.messages(TENANT, "r", &mut world.disk, &mut sink).unwrap();
        assert_eq!(previous, chain);
        world.restart();
    }
    assert_eq!(world.chat.anchor(TENANT, "unknown", &mut NoBlocks), Ok(Digest::ZERO));
}

#[test]
fn h44_a_retry_after_a_checkpoint_yields_the_first_result() {
    let mut world = World::new(Limits::tiny());
    world.open("r");
    let first = world.one(publish(message(key(0, 1), b"hi")));
    world.restart();
    let retry = Publish { salt: [9; 16], ..message(key(0, 1), b"hi") };
    assert_eq!(world.one(publish(retry)), Outcome { duplicate: true, ..first });
}

#[test]
fn h45_a_key_that_left_the_table_is_refused_and_not_executed_again() {
    let mut world = World::new(Limits { keys: 8, ..Limits::tiny() });
    world.open("r");
    let users: Vec<String> = (0..10).map(|number| format!("u{number}")).collect();
    let of = |number: i64| Publish { user: &users[number as usize], ..message(key(number, 1), b"hi") };
    for number in [3, 1, 0, 2, 4, 5, 6, 7] {
        assert_eq!(world.one(publish(of(number))).error, None);
    }
    assert_eq!(world.chat.usage().key_horizon_ms, 0);
    assert_eq!(world.one(publish(of(8))).error, None);
    assert_eq!(world.chat.usage().key_horizon_ms, NOW_MS + 1, "the oldest key by its own time has left");
    let before = world.encoded();
    assert_eq!(error(world.one(publish(of(0)))), ErrorCode::KeyTooOld);
    assert!((1..9).all(|number| world.one(publish(of(number))).duplicate));
    assert_eq!(world.encoded(), before);
}

#[test]
fn h45_who_floods_the_table_moves_their_own_horizon_alone() {
    let mut world = World::new(Limits { keys: 32, ..Limits::tiny() });
    world.open("r");
    let bob = |number| Publish { user: "bob", ..message(key(-20_000, number), b"hi") };
    assert_eq!(world.one(publish(bob(1))).error, None);
    let outcomes: Vec<_> =
        (0..100).map(|number| world.one(publish(message(key(number, 1), b"spam")))).collect();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()));
    assert_eq!((world.chat.usage().keys, world.chat.usage().key_horizon_ms), (5, 0));
    assert_eq!(error(world.one(publish(message(key(95, 1), b"spam")))), ErrorCode::KeyTooOld);
    assert_eq!(error(world.one(publish(message(key(-1, 9), b"new")))), ErrorCode::KeyTooOld);
    assert!(world.one(publish(message(key(96, 1), b"spam"))).duplicate);
    assert!(world.one(publish(bob(1))).duplicate);
    assert_eq!(world.one(publish(bob(2))).error, None, "and bob may use keys from before the flood");
}

/// Everything as large as it may be, in every table: rows and records have room for it.
#[test]
fn the_largest_state_has_room() {
    let limits = Limits { rooms: 3, keys: 16, present: 5, ..Limits::tiny() };
    let mut world = World::new(limits);
    let room = |number: u8| format!("{number}{}", "r".repeat(ROOM_NAME_MAX - 1));
    let user = |number: u8| format!("{:0>width$}", number, width = USER_NAME_MAX);
    let (body, content_type) = (vec![7; limits.body_max as usize], "t".repeat(CONTENT_TYPE_MAX));
    for number in 0..5 {
        let (room, user) = (room(number % 3), user(number));
        world.one(Command::RoomOpen { tenant: TENANT, room: &room, user: &user });
        let entered = world.one(Command::Enter { tenant: TENANT, room: &room, user: &user });
        assert_eq!(entered.error, None);
    }
    for number in 0..100 {
        let (room, user) = (room(number % 3), user(number));
        let (content_type, body) = (&*content_type, &*body);
        let key = key(i64::from(number), 1);
        let parent = u64::from(number >= 3);
        let said = Publish { room: &room, user: &user, content_type, body, parent, ..message(key, b"") };
        assert_eq!(world.one(publish(said)).error, None);
    }
    let usage = world.chat.usage();
    assert_eq!((usage.rooms, usage.keys, usage.present), (3, 16, 5));
    let view = world.chat.forest().view();
    let largest = view.memory[1].get(history::Key { room: 0, seq: 2 }).unwrap().size();
    assert_eq!(largest as u32, world.chat.forest().shape().record_max);
    world.restart();
    assert!(world.chat.usage().blocks > 100 / 3);
}

#[test]
fn shapes_follow_from_limits_and_layout() {
    let real = Layout { wal_slots: 1024, slot_sectors: 256, block_sectors: 16, ..LAYOUT };
    assert!(shape_is_sane(&Limits::tiny(), &LAYOUT) && shape_is_sane(&Limits::default(), &real));
    let (tiny, large) = (forest_shape(&Limits::tiny(), &LAYOUT), forest_shape(&Limits::default(), &real));
    assert_eq!((tiny.fan_out, tiny.interval_bytes), (2, 8 * 2 * 4032));
    assert_eq!((large.fan_out, large.interval_bytes, large.page_bytes), (8, 16 << 20, 4000));
    assert!(!shape_is_sane(&Limits::default(), &LAYOUT), "a block holds three of the largest messages");
    assert!(
        !shape_is_sane(&Limits::tiny(), &Layout { block_sectors: 3, ..LAYOUT }),
        "a block is no larger than a slot"
    );
    let dev = Chat::new(Limits::dev(), &real);
    assert!(dev.forest().pages().bytes().len() < 10 << 20);
}

#[test]
fn retention_leaves_exactly_what_was_said_also_after_a_restart() {
    let mut world = World::new(Limits { room_messages: 3, ..Limits::tiny() });
    world.open("r");
    for number in 1..=20u64 {
        world.one(publish(message(key(0, number as u8), &[number as u8])));
        let left: Vec<_> = world.messages().into_iter().map(|message| message.0).collect();
        assert!(left.into_iter().eq(number.saturating_sub(2).max(1)..=number));
        if number % 4 == 0 {
            world.restart();
        }
    }
    let room = world.chat.room(TENANT, "r").unwrap();
    assert_eq!((room.first, room.head), (18, 20));
}

#[test]
fn releases_and_horizons_are_part_of_the_state() {
    let mut world = World::new(Limits { keys: 8, ..Limits::tiny() });
    world.open("r");
    let users: Vec<String> = (0..10).map(|number| format!("u{number}")).collect();
    for user in &users {
        world.one(publish(Publish { user, ..message(key(0, 1), b"hi") }));
    }
    world.chat.set_release(FIRST_RELEASE + 1);
    world.restart();
    assert_eq!(world.chat.release(), FIRST_RELEASE + 1);
    assert_eq!(world.chat.usage().key_horizon_ms, NOW_MS + 1);
    let mut empty = Chat::new(Limits::tiny(), &LAYOUT);
    let nothing = Forest::new(empty.forest().shape().clone());
    assert_eq!(empty.restore(nothing), Ok(()), "an empty forest is the empty state");
    assert_eq!(empty.release(), FIRST_RELEASE);
    let other = forest_shape(&Limits { rooms: 1, ..Limits::tiny() }, &LAYOUT);
    assert_eq!(empty.restore(Forest::new(other)), Err(Malformed));
}

/// Blocks that are counted, the first so many of which are here.
struct Counted<'a> {
    disk: &'a mut Disk,
    here: usize,
    asked: usize,
}

impl Blocks for Counted<'_> {
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        self.asked += 1;
        if self.asked > self.here { None } else { self.disk.get(reference) }
    }
}

/// A world with 200 messages in blocks, four to a block.
fn long_history() -> World {
    let mut world = World::new(Limits::tiny());
    world.open("r");
    for number in 1..=200u8 {
        world.one(publish(message(key(0, number), &[number; 900])));
        if number % 10 == 0 {
            world.restart();
        }
    }
    world
}

#[test]
fn an_answer_is_made_of_so_many_blocks_and_pages_join() {
    let mut world = long_history();
    let (mut from, mut answers, mut seen) = (1, 0, Vec::new());
    loop {
        let mut blocks = Counted { disk: &mut world.disk, here: usize::MAX, asked: 0 };
        let query = Query::History { tenant: TENANT, room: "r", from, limit: 1000 };
        let (head, items) = ask(&world.chat, query, 1 << 20, &mut blocks);
        assert!(blocks.asked <= 24 && head.count > 0);
        assert!(blocks.asked == 24 || !head.more);
        let mut reader = Reader::new(&items);
        for _ in 0..head.count {
            let Ok(RoomEvent::Message(message)) = RoomEvent::decode(&mut reader) else { panic!("a message") };
            assert_eq!((message.author, message.room, message.content_type), ("ann", "r", "text/plain"));
            assert_eq!((message.salt, message.key), ([3; 16], key(0, message.seq as u8)));
            assert_eq!((message.kind, message.body), (KIND_MESSAGE, &[message.seq as u8; 900][..]));
            seen.push(message.seq);
        }
        answers += 1;
        if !head.more {
            break;
        }
        from += u64::from(head.count);
    }
    assert!(answers >= 3 && seen.into_iter().eq(1..=200));
}

#[test]
fn what_is_missing_is_named_and_a_full_answer_needs_no_more() {
    let mut world = long_history();
    let query = |limit| {
        let mut bytes = Vec::new();
        Query::History { tenant: TENANT, room: "r", from: 1, limit }.encode(&mut bytes).unwrap();
        bytes
    };
    for here in 0..5 {
        let mut blocks = Counted { disk: &mut world.disk, here, asked: 0 };
        let missing = world.chat.query(&query(20), &mut blocks, &mut Vec::new());
        let Err(Unanswered::Needs(reference)) = missing else {
            panic!("block {here} is missing: {missing:?}")
        };
        assert!(world.disk.get(&reference).is_some(), "it is one of ours");
    }
    let mut blocks = Counted { disk: &mut world.disk, here: 1, asked: 0 };
    assert_eq!(world.chat.query(&query(3), &mut blocks, &mut Vec::new()), Ok(()));
    let mut sink = |_: MessageEvent<'_>| panic!("nothing is here");
    let missing = world.chat.messages(TENANT, "r", &mut NoBlocks, &mut sink);
    assert!(matches!(missing, Err(Unanswered::Needs(_))));
    assert_eq!(world.messages().len(), 200);
}

#[test]
fn of_an_erased_message_all_but_its_content_is_left() {
    let mut world = World::new(Limits::tiny());
    world.open("r");
    for number in 1..=3 {
        world.one(publish(message(key(0, number), b"secret")));
    }
    let whole = world.messages();
    assert!(world.chat.forest_mut().erase(history::Key { room: 0, seq: 2 }));
    for _ in 0..3 {
        let left = world.messages();
        assert_eq!((&left[0], &left[2]), (&whole[0], &whole[2]));
        assert_eq!(left[1], (2, whole[1].1, Vec::new()));
        world.restart();
    }
}
