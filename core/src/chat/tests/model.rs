//! The machine against a model that is written to be obviously right: plain lists, searched from end to end.
//!
//! A second machine hashes with another seed and begins anew with a checkpoint again and again: it must not be told
//! apart from the first, in replies, feed, answers, bytes and the blocks of its own checkpoints.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::disk::{Disk, assert_written};
use super::{LAYOUT, NOW_MS, chain_by_hand};
use crate::chat::tables;
use crate::chat::{Chat, Limits};
use crate::errors::ErrorCode::{self, *};
use crate::store::history::reader::NoBlocks;
use crate::types::TenantId;
use crate::vsr::machine::{At, Machine};
use crate::wire::chat::{Command, Key, MessageEvent, OUTCOME, Outcome, Publish, RoomEvent, Thread};
use crate::wire::codec::Reader;
use crate::wire::entry::Digest;

/// Small, so that every table runs over within a few dozen commands.
const LIMITS: Limits = Limits {
    rooms: 3,
    keys: 7,
    key_horizon_ms: 30_000,
    present: 4,
    body_max: 300,
    room_messages: 0,
    threads: 3,
    room_age_s: 0,
    tenants: 2,
    marks: 4,
};
/// Keys of one author.
const SHARE: usize = 2;

type RoomName = (u32, String);

#[derive(Clone, Debug)]
pub(super) enum Step {
    Open {
        room: usize,
        user: usize,
    },
    Publish(Draw),
    /// The same key as the publish this many steps ago, with or without a change.
    Retry {
        back: usize,
        salt: u8,
        change: bool,
    },
    Enter {
        room: usize,
        user: usize,
        session: u64,
    },
    Leave {
        room: usize,
        user: usize,
        session: u64,
    },
    Close {
        session: u64,
    },
    Restart,
}

#[derive(Clone, Debug)]
pub(super) struct Draw {
    room: usize,
    user: usize,
    /// Age of the key, milliseconds; negative: from the future.
    age_ms: i64,
    number: u8,
    parent: u64,
    expect: Option<u64>,
    kind: u8,
    body: usize,
}

const ROOMS: [&str; 5] = ["a", "lobby", "x.y:z-1", "four", "not valid"];
const USERS: [&str; 5] = ["ann", "bob", "李", "dora", "not valid"];

pub(super) fn steps(count: usize) -> impl Strategy<Value = Vec<(u64, Step)>> {
    let (room, user, session) = (0..ROOMS.len(), 0..USERS.len(), 1u64..4);
    let age = prop_oneof![8 => -2_000i64..2_000, 1 => -70_000i64..-50_000, 2 => 0i64..40_000];
    let body = prop_oneof![9 => 0usize..200, 1 => 290usize..310];
    let kind = prop_oneof![30 => Just(1u8), 1 => Just(2u8)];
    let expect = prop_oneof![9 => Just(None), 1 => (0u64..6).prop_map(Some)];
    let parent = prop_oneof![3 => Just(0u64), 2 => 1u64..4, 1 => 4u64..12];
    let draw = (room.clone(), user.clone(), age, any::<u8>(), parent, expect, kind, body).prop_map(
        |(room, user, age_ms, number, parent, expect, kind, body)| Draw {
            room,
            user,
            age_ms,
            number,
            parent,
            expect,
            kind,
            body,
        },
    );
    let at = (room, user, session.clone());
    let step = prop_oneof![
        2 => at.clone().prop_map(|(room, user, _)| Step::Open { room, user }),
        10 => draw.prop_map(Step::Publish),
        4 => (1usize..20, any::<u8>(), prop::bool::weighted(0.2))
            .prop_map(|(back, salt, change)| Step::Retry { back, salt, change }),
        3 => at.clone().prop_map(|(room, user, session)| Step::Enter { room, user, session }),
        2 => at.prop_map(|(room, user, session)| Step::Leave { room, user, session }),
        1 => session.prop_map(|session| Step::Close { session }),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec((0u64..3_000, step), 1..count)
}

/// What the model keeps of a message.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    outcome: Outcome,
    size: usize,
    parent: u64,
}

/// A thread: where, under which message, its replies that ever were.
#[derive(Clone, Debug, PartialEq)]
struct ModelThread {
    room: RoomName,
    parent: u64,
    replies: Vec<u64>,
}

#[derive(Debug, Default)]
struct Model {
    /// Epoch and everything that was ever said.
    rooms: BTreeMap<RoomName, (u64, Vec<Said>)>,
    /// Messages of a room that retention leaves; 0: all.
    room_messages: usize,
    keys: Vec<ModelKey>,
    horizons: BTreeMap<(u32, String), u64>,
    horizon: u64,
    threads: [Option<ModelThread>; LIMITS.threads as usize],
    /// The thread that is looked at next.
    hand: usize,
    present: BTreeSet<(RoomName, String, u64)>,
}

#[derive(Clone, Debug, PartialEq)]
struct ModelKey {
    room: RoomName,
    user: String,
    key: Key,
    content: (u8, u64, String, Vec<u8>),
    outcome: Outcome,
}

/// An event, told by what matters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Opened(RoomName),
    Message(RoomName, u64, [u8; 32]),
    Presence(RoomName, String, bool),
}

impl Model {
    fn execute(&mut self, at: At, session: u64, command: &Command<'_>) -> (Outcome, Vec<Told>) {
        let base = Outcome {
            error: None,
            duplicate: false,
            index: at.index,
            op: at.op,
            seq: 0,
            time: at.time,
            epoch: 0,
            chain: Digest::ZERO,
        };
        let (Command::RoomOpen { tenant, room, user }
        | Command::Enter { tenant, room, user }
        | Command::Leave { tenant, room, user }
        | Command::Publish(Publish { tenant, room, user, .. })) = *command
        else {
            unreachable!("the model knows nothing of erasures");
        };
        if room.contains(' ') || user.contains(' ') {
            let error = if room.contains(' ') { RoomNameInvalid } else { UserNameInvalid };
            return (Outcome { error: Some(error), ..base }, vec![]);
        }
        let name = (tenant.0, room.to_owned());
        if let Command::RoomOpen { .. } = command {
            return self.open(base, name);
        }
        if let Command::Publish(publish) = command {
            let limit = LIMITS.body_max as usize;
            let wrong = [(publish.kind != 1, KindUnknown), (publish.body.len() > limit, BodyTooLarge)];
            if let Some((_, error)) = wrong.into_iter().find(|(wrong, _)| *wrong) {
                return (Outcome { error: Some(error), ..base }, vec![]);
            }
        }
        let Some(epoch) = self.rooms.get(&name).map(|room| room.0) else {
            return (Outcome { error: Some(RoomUnknown), ..base }, vec![]);
        };
        let base = Outcome { epoch, ..base };
        match command {
            Command::Publish(publish) => match self.publish(base, &name, publish) {
                Ok((outcome, events)) => (outcome, events),
                Err((error, seq)) => (Outcome { error: Some(error), seq, ..base }, vec![]),
            },
            Command::Enter { .. } => {
                let already = self.is_present(&name, user);
                let stay = (name.clone(), user.to_owned(), session);
                if !self.present.contains(&stay) && self.present.len() == LIMITS.present as usize {
                    return (Outcome { error: Some(TooManyPresent), ..base }, vec![]);
                }
                self.present.insert(stay);
                (base, if already { vec![] } else { vec![Told::Presence(name, user.to_owned(), true)] })
            }
            _ => {
                let removed = self.present.remove(&(name.clone(), user.to_owned(), session));
                let gone = removed && !self.is_present(&name, user);
                (base, if gone { vec![Told::Presence(name, user.to_owned(), false)] } else { vec![] })
            }
        }
    }

    fn open(&mut self, base: Outcome, name: RoomName) -> (Outcome, Vec<Told>) {
        if let Some((epoch, said)) = self.rooms.get(&name) {
            let chain = said.last().map_or(Digest::ZERO, |said| said.outcome.chain);
            return (Outcome { epoch: *epoch, seq: said.len() as u64, chain, ..base }, vec![]);
        }
        if self.rooms.len() == LIMITS.rooms as usize {
            return (Outcome { error: Some(TooManyRooms), ..base }, vec![]);
        }
        self.rooms.insert(name.clone(), (base.op, vec![]));
        (Outcome { epoch: base.op, ..base }, vec![Told::Opened(name)])
    }

    fn publish(
        &mut self,
        base: Outcome,
        name: &RoomName,
        publish: &Publish<'_>,
    ) -> Result<(Outcome, Vec<Told>), (ErrorCode, u64)> {
        let content = (publish.kind, publish.parent, publish.content_type.to_owned(), publish.body.to_vec());
        let is = |key: &&ModelKey| key.room == *name && key.user == publish.user && key.key == publish.key;
        if let Some(first) = self.keys.iter().find(is) {
            let same = first.content == content;
            let duplicate = (Outcome { duplicate: true, ..first.outcome }, vec![]);
            return if same { Ok(duplicate) } else { Err((KeyConflict, first.outcome.seq)) };
        }
        let (now, made) = (base.time / 1_000_000, publish.key.unix_ms());
        let author = (name.0, publish.user.to_owned());
        let own = self.horizons.get(&author).copied().unwrap_or(0);
        if made + LIMITS.key_horizon_ms < now || made < own || made < self.horizon {
            return Err((KeyTooOld, 0));
        }
        if made > now + 60_000 {
            return Err((KeyFromFuture, 0));
        }
        let head = self.rooms[name].1.len() as u64;
        if publish.parent != 0 && !(self.first(name)..=head).contains(&publish.parent) {
            return Err((ParentUnknown, 0));
        }
        let is_full = self.threads.iter().all(Option::is_some);
        if publish.parent != 0 && is_full && self.thread(name, publish.parent).is_none() {
            return Err((TooManyThreads, 0));
        }
        if publish.expect_seq.is_some_and(|seq| seq != head) {
            return Err((ExpectationFailed, head));
        }
        let outcome = self.append(base, name, publish);
        let (room, user, key) = (name.clone(), publish.user.to_owned(), publish.key);
        self.remember(&author, ModelKey { room, user, key, content, outcome });
        Ok((outcome, vec![Told::Message(name.clone(), outcome.seq, outcome.chain.0)]))
    }

    fn append(&mut self, base: Outcome, name: &RoomName, publish: &Publish<'_>) -> Outcome {
        let seq = self.rooms[name].1.len() as u64 + 1;
        let thread = Thread { seq: self.reply(name, publish.parent, seq), ..Thread::default() };
        let (_, said) = self.rooms.get_mut(name).unwrap();
        let mut event = MessageEvent {
            tenant: publish.tenant,
            room: publish.room,
            epoch: base.epoch,
            seq,
            op: base.op,
            index: base.index,
            time: base.time,
            author: publish.user,
            key: publish.key,
            kind: publish.kind,
            parent: publish.parent,
            chain: Digest::ZERO,
            salt: publish.salt,
            content_type: publish.content_type,
            body: publish.body,
            thread,
            erased: None,
        };
        let previous = said.last().map_or([0; 32], |said| said.outcome.chain.0);
        event.chain = Digest(chain_by_hand(previous, &event));
        let outcome = Outcome { seq, chain: event.chain, ..base };
        said.push(Said { outcome, size: event.size(), parent: publish.parent });
        self.tidy();
        outcome
    }

    /// The first message that retention left.
    fn first(&self, name: &RoomName) -> u64 {
        let said = self.rooms[name].1.len();
        let kept = if self.room_messages == 0 { said } else { said.min(self.room_messages) };
        (said - kept) as u64 + 1
    }

    fn thread(&self, name: &RoomName, parent: u64) -> Option<usize> {
        let is = |thread: &ModelThread| thread.room == *name && thread.parent == parent;
        self.threads.iter().position(|thread| thread.as_ref().is_some_and(is))
    }

    fn reply(&mut self, name: &RoomName, parent: u64, seq: u64) -> u64 {
        if parent == 0 {
            return 0;
        }
        let at = self.thread(name, parent).unwrap_or_else(|| {
            let at = self.threads.iter().position(Option::is_none).unwrap();
            self.threads[at] = Some(ModelThread { room: name.clone(), parent, replies: vec![] });
            at
        });
        let replies = &mut self.threads[at].as_mut().unwrap().replies;
        replies.push(seq);
        replies.len() as u64
    }

    /// Two threads are looked at: those of which nothing is left are gone.
    fn tidy(&mut self) {
        if self.threads.iter().all(Option::is_none) {
            return;
        }
        for _ in 0..2 {
            let thread = self.threads[self.hand].as_ref();
            if thread.is_some_and(|it| *it.replies.last().unwrap() < self.first(&it.room)) {
                self.threads[self.hand] = None;
            }
            self.hand = (self.hand + 1) % self.threads.len();
        }
    }

    /// Every thread, page by page.
    fn compare_threads(&self, chat: &Chat, disk: &mut Disk) {
        let mut seen = chat.threads();
        seen.sort_unstable();
        let threads = self.threads.iter().flatten();
        let mut expected: Vec<_> = threads
            .clone()
            .map(|it| (&*it.room.1, it.parent, it.replies.len() as u64, *it.replies.last().unwrap()))
            .collect();
        expected.sort_unstable();
        assert_eq!(seen, expected);
        for ModelThread { room, parent, replies } in threads {
            let first = self.first(room);
            let left: Vec<(u64, u64)> =
                replies.iter().copied().enumerate().map(|(at, seq)| (at as u64 + 1, seq)).collect();
            let gone = left.iter().filter(|(_, seq)| *seq < first).count();
            let page = super::pages::ask_thread(chat, TenantId(room.0), &room.1, *parent, disk);
            if gone == left.len() {
                assert_eq!(page, Err(PositionGone));
            } else {
                assert_eq!(page, Ok(left[gone..].to_vec()));
                let said = &self.rooms[room].1;
                assert!(left.iter().all(|(_, seq)| said[*seq as usize - 1].parent == *parent));
            }
        }
    }

    /// A new key takes the place of the one that leaves for it.
    fn remember(&mut self, author: &(u32, String), new: ModelKey) {
        let is_own = |key: &ModelKey| key.room.0 == author.0 && key.user == author.1;
        let over_share = self.keys.iter().filter(|key| is_own(key)).count() >= SHARE;
        if !over_share && self.keys.len() < LIMITS.keys as usize {
            return self.keys.push(new);
        }
        let leaving = self.keys.iter().enumerate().filter(|(_, key)| !over_share || is_own(key));
        let (at, oldest) = leaving.min_by_key(|(at, key)| (key.key.unix_ms(), *at)).unwrap();
        let horizon =
            if over_share { self.horizons.entry(author.clone()).or_default() } else { &mut self.horizon };
        *horizon = (*horizon).max(oldest.key.unix_ms() + 1);
        self.keys[at] = new;
    }

    fn is_present(&self, room: &RoomName, user: &str) -> bool {
        self.present.iter().any(|stay| stay.0 == *room && stay.1 == user)
    }

    fn close(&mut self, session: u64) -> Vec<Told> {
        let ended: Vec<_> = self.present.iter().filter(|stay| stay.2 == session).cloned().collect();
        self.present.retain(|stay| stay.2 != session);
        let gone = ended.into_iter().filter(|stay| !self.is_present(&stay.0, &stay.1));
        gone.map(|stay| Told::Presence(stay.0, stay.1, false)).collect()
    }

    fn compare(&self, chat: &Chat, disk: &mut Disk) {
        let mut seen: Vec<_> = chat.rooms().collect();
        seen.sort_by_key(|room| (room.tenant, room.name));
        assert_eq!(seen.len(), self.rooms.len());
        for (room, (name, (epoch, said))) in seen.iter().zip(&self.rooms) {
            assert_eq!((room.tenant.0, room.name, room.epoch), (name.0, &*name.1, *epoch));
            let kept = if self.room_messages == 0 { said.len() } else { said.len().min(self.room_messages) };
            let (gone, left) = said.split_at(said.len() - kept);
            assert_eq!((room.first, room.head), (gone.len() as u64 + 1, said.len() as u64));
            let anchor = gone.last().map_or(Digest::ZERO, |said| said.outcome.chain);
            assert_eq!(chat.anchor(room.tenant, room.name, disk), Ok(anchor));
            let (mut left, mut sizes) = (left.iter(), left.iter().map(|said| said.size));
            let mut sink = |message: MessageEvent<'_>| {
                let (said, size) = (left.next().unwrap().outcome, message.size());
                let place = (message.op, message.index, message.time, message.seq, message.chain);
                assert_eq!(place, (said.op, said.index, said.time, said.seq, said.chain));
                assert_eq!(size, sizes.next().unwrap());
            };
            chat.messages(room.tenant, room.name, disk, &mut sink).unwrap();
            assert!(left.next().is_none(), "all of them are there");
            let users: BTreeSet<_> =
                self.present.iter().filter(|stay| stay.0 == *name).map(|stay| &*stay.1).collect();
            assert!(chat.present(room.tenant, room.name).into_iter().eq(users));
        }
        self.compare_threads(chat, disk);
        let usage = chat.usage();
        assert_eq!(usage.keys as usize, self.keys.len());
        assert_eq!(usage.key_horizon_ms, self.horizon);
    }
}

fn told(feed: &[u8]) -> Vec<Told> {
    let mut reader = Reader::new(feed);
    let mut events = vec![];
    while !reader.is_empty() {
        events.push(match RoomEvent::decode(&mut reader).unwrap() {
            RoomEvent::Opened { tenant, room, .. } => Told::Opened((tenant.0, room.to_owned())),
            RoomEvent::Presence { tenant, room, user, present } => {
                Told::Presence((tenant.0, room.to_owned()), user.to_owned(), present)
            }
            RoomEvent::Message(message) => {
                Told::Message((message.tenant.0, message.room.to_owned()), message.seq, message.chain.0)
            }
        });
    }
    events
}

/// Turns steps into commands, remembering publishes for retries.
#[derive(Default)]
pub(super) struct Script {
    op: u64,
    time_ms: u64,
    published: Vec<(Draw, Key)>,
}

impl Script {
    pub(super) fn advance(&mut self, ms: u64) -> At {
        self.op += 1;
        self.time_ms += ms + 1;
        At { op: self.op, index: 0, time: (NOW_MS + self.time_ms) * 1_000_000 }
    }

    /// The command of a step and the session it comes from.
    pub(super) fn command(&mut self, step: &Step) -> Option<(u64, Vec<u8>)> {
        let tenant = |room: usize| TenantId(room as u32 % 2);
        let (session, command) = match *step {
            Step::Open { room, user } => {
                (1, Command::RoomOpen { tenant: tenant(room), room: ROOMS[room], user: USERS[user] })
            }
            Step::Enter { room, user, session } => {
                (session, Command::Enter { tenant: tenant(room), room: ROOMS[room], user: USERS[user] })
            }
            Step::Leave { room, user, session } => {
                (session, Command::Leave { tenant: tenant(room), room: ROOMS[room], user: USERS[user] })
            }
            Step::Publish(ref draw) => {
                // Coarse, so that many keys are of the same age.
                let unix_ms = (NOW_MS + self.time_ms).saturating_add_signed(-draw.age_ms) / 512 * 512;
                let key = Key::new(unix_ms, [draw.number; 10]);
                self.published.push((draw.clone(), key));
                return Some((1, encode_publish(draw, key, 0)));
            }
            Step::Retry { back, salt, change } => {
                let at = self.published.len().checked_sub(back)?;
                let (mut draw, key) = self.published[at].clone();
                draw.body += usize::from(change);
                return Some((2, encode_publish(&draw, key, salt)));
            }
            Step::Close { .. } | Step::Restart => return None,
        };
        let mut bytes = vec![];
        command.encode(&mut bytes).unwrap();
        Some((session, bytes))
    }
}

fn encode_publish(draw: &Draw, key: Key, salt: u8) -> Vec<u8> {
    let publish = Publish {
        tenant: TenantId(draw.room as u32 % 2),
        room: ROOMS[draw.room],
        user: USERS[draw.user],
        key,
        kind: draw.kind,
        parent: draw.parent,
        expect_seq: draw.expect,
        salt: [salt; 16],
        content_type: "text/plain",
        body: &vec![draw.number; draw.body],
    };
    let mut bytes = vec![];
    Command::Publish(publish).encode(&mut bytes).unwrap();
    bytes
}

fn encoded(chat: &Chat) -> Vec<u8> {
    let mut bytes = vec![];
    chat.encode(&mut bytes);
    bytes
}

/// The release changes now and then.
fn release_of(at: At) -> u32 {
    1 + (at.op / 50) as u32
}

/// What was executed: commands, or the end of a session.
struct Done {
    at: At,
    session: u64,
    commands: Option<Vec<u8>>,
}

impl Done {
    /// Reply and feed.
    fn run(&self, chat: &mut Chat) -> (Vec<u8>, Vec<u8>) {
        let (mut reply, mut feed) = (vec![], vec![]);
        chat.set_release(release_of(self.at));
        let count = match &self.commands {
            Some(commands) => chat.apply(self.at, self.session, commands, &mut reply, &mut feed),
            None => chat.session_closed(self.at, self.session, &mut feed),
        };
        assert_eq!(count, u32::from(self.commands.is_some()));
        (reply, feed)
    }
}

/// A machine that never stops, whose checkpoints are made bit by bit while it goes on, and one that begins anew with
/// each of them.
struct Pair {
    chat: Chat,
    disk: Disk,
    twin: Chat,
    twin_disk: Disk,
    /// The state as the last checkpoint has it, and what was executed since.
    frozen: Vec<u8>,
    log: Vec<Done>,
}

impl Pair {
    fn new(limits: Limits) -> Self {
        Self {
            chat: Chat::new(limits, &LAYOUT),
            disk: Disk::default(),
            twin: Chat::with_seed(limits, &LAYOUT, 1),
            twin_disk: Disk::default(),
            frozen: vec![],
            log: vec![],
        }
    }

    fn execute(&mut self, done: Done) -> (Vec<u8>, Vec<u8>) {
        let (chat, twin) = (done.run(&mut self.chat), done.run(&mut self.twin));
        assert_eq!(chat, twin);
        self.log.push(done);
        self.disk.work(self.chat.forest_mut(), 1);
        chat
    }

    /// The twin begins with the last checkpoint and catches up; then both make the next one.
    fn restart(&mut self, op: u64, seed: u64) {
        self.disk.complete(self.chat.forest_mut());
        self.twin_disk.complete(self.twin.forest_mut());
        assert_eq!(
            self.chat.forest().newest(),
            self.twin.forest().newest(),
            "the same blocks at the same places"
        );
        if let Some(checkpoint) = self.chat.forest().newest() {
            let forest = self.disk.open(self.chat.forest().shape().clone(), checkpoint);
            self.twin = Chat::with_seed(self.chat.limits(), &LAYOUT, seed);
            self.twin.restore(forest).expect("its own checkpoint");
            self.twin_disk = self.disk.clone();
            assert_eq!(encoded(&self.twin), self.frozen);
            for done in &self.log {
                done.run(&mut self.twin);
            }
        }
        self.chat.forest_mut().freeze(op, &[]);
        self.twin.forest_mut().freeze(op, &[]);
        (self.frozen, self.log) = (encoded(&self.chat), vec![]);
    }
}

/// A machine that went through these steps.
pub(super) fn reached(steps: &[(u64, Step)]) -> (Chat, Script) {
    let (mut chat, mut script) = (Chat::new(LIMITS, &LAYOUT), Script::default());
    go_on(&mut chat, &mut script, steps);
    (chat, script)
}

pub(super) fn go_on(chat: &mut Chat, script: &mut Script, steps: &[(u64, Step)]) {
    for (ms, step) in steps {
        let at = script.advance(*ms);
        if let Step::Close { session } = step {
            chat.session_closed(at, *session, &mut vec![]);
        } else if let Some((session, commands)) = script.command(step) {
            chat.apply(at, session, &commands, &mut vec![], &mut vec![]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn h39_the_machine_does_what_the_model_does_and_a_checkpoint_is_not_noticed(
        steps in steps(150),
        room_messages in prop_oneof![Just(0u32), 1u32..6],
    ) {
        let mut model = Model { room_messages: room_messages as usize, ..Model::default() };
        let mut pair = Pair::new(Limits { room_messages, ..LIMITS });
        let mut script = Script::default();
        for (seed, (ms, step)) in steps.iter().enumerate() {
            let at = script.advance(*ms);
            if let Step::Restart = step {
                pair.restart(at.op, seed as u64);
            } else if let Step::Close { session } = *step {
                let (_, feed) = pair.execute(Done { at, session, commands: None });
                let mut gone = told(&feed);
                gone.sort();
                let mut expected = model.close(session);
                expected.sort();
                prop_assert_eq!(gone, expected);
            } else if let Some((session, commands)) = script.command(step) {
                pair.chat.set_release(release_of(at));
                let before = encoded(&pair.chat);
                let command = Command::decode(&mut Reader::new(&commands)).unwrap();
                let (expected, events) = model.execute(at, session, &command);
                let (reply, feed) = pair.execute(Done { at, session, commands: Some(commands.clone()) });
                prop_assert_eq!(reply.len(), OUTCOME);
                let outcome = Outcome::decode(&mut Reader::new(&reply)).unwrap();
                prop_assert_eq!(outcome, expected);
                prop_assert_eq!(told(&feed), events);
                if outcome.error.is_some() || outcome.duplicate {
                    prop_assert_eq!(&before, &encoded(&pair.chat), "what is refused has no effect");
                }
            }
            prop_assert_eq!(encoded(&pair.chat), encoded(&pair.twin));
            assert_written(&pair.chat);
            model.compare(&pair.chat, &mut pair.disk);
            model.compare(&pair.twin, &mut pair.twin_disk);
        }
    }

    #[test]
    fn h49_commands_that_were_damaged_stop_nothing(
        steps in steps(30),
        more in steps(20),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut chat, mut script) = reached(&steps);
        for (ms, step) in &more {
            let at = script.advance(*ms);
            let Some((session, mut commands)) = script.command(step) else { continue };
            noise.iter().for_each(|(at, byte)| *at.get_mut(&mut commands) = *byte);
            commands.truncate(cut.index(commands.len() + 1));
            let (before, mut reply, mut feed) = (encoded(&chat), vec![], vec![]);
            let count = chat.apply(at, session, &commands, &mut reply, &mut feed);
            prop_assert_eq!(reply.len(), count as usize * OUTCOME);
            if count == 0 {
                prop_assert_eq!((feed.is_empty(), encoded(&chat)), (true, before));
            }
        }
        assert_written(&chat);
        let restarted = Disk::default().restarted(&mut chat, script.advance(0).op, 5);
        prop_assert_eq!(encoded(&restarted), encoded(&chat));
    }

    #[test]
    fn h49_any_bytes_are_nothing_or_a_command(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        op in any::<u64>(),
        time in any::<u64>(),
        index in any::<u32>(),
    ) {
        let mut chat = Chat::new(LIMITS, &LAYOUT);
        let before = encoded(&chat);
        let count = chat.apply(At { op, index, time }, 1, &bytes, &mut vec![], &mut vec![]);
        prop_assert_eq!(count == 0, before == encoded(&chat) || bytes.is_empty());
        let answered = chat.query(&bytes, &mut NoBlocks, &mut vec![]);
        prop_assert_eq!(answered, Ok(()), "all there is is in memory");
    }

    /// What a damaged checkpoint is taken for must be a state: its rows are those of the tables, and it can go on.
    #[test]
    fn a_damaged_checkpoint_is_refused_or_is_a_state(
        steps in steps(60),
        more in steps(30),
        noise in prop::collection::vec((0..=tables::COUNTERS, 0u32..8, any::<prop::sample::Index>(), any::<u8>()), 0..3),
        row in prop::option::weighted(0.3, (0..=tables::STAYS, 0u32..8, 0u32..8)),
        cut in prop::option::weighted(0.2, (0u32..3, 1u64..10)),
    ) {
        let (mut chat, mut script) = reached(&steps);
        let mut forest = Disk::default().pass_through(&mut chat, script.advance(0).op);
        let slot = |table: usize, slot: u32| slot % tables::shapes(&LIMITS)[table].slots;
        for (table, at, place, byte) in noise {
            *place.get_mut(forest.slot_mut(table, slot(table, at))) = byte;
        }
        // A row that is there twice, or is gone.
        if let Some((table, from, to)) = row {
            let bytes = forest.slot(table, slot(table, from)).to_vec();
            forest.slot_mut(table, slot(table, to)).copy_from_slice(&bytes);
        }
        if let Some((room, first)) = cut {
            forest.cut(room, first);
        }
        let before = forest.pages().bytes().to_vec();
        let mut damaged = Chat::new(LIMITS, &LAYOUT);
        if damaged.restore(forest).is_ok() {
            prop_assert_eq!(encoded(&damaged), before);
            assert_written(&damaged);
            go_on(&mut damaged, &mut script, &more);
            assert_written(&damaged);
        }
    }
}
