//! Simulated users: what they want, what they are told, and what an observer learns of both.
//!
//! They say to edges the bytes that real clients say. The one law: **a call keeps its key for ever.** A user who
//! hears nothing, loses the connection or moves to another edge asks again with the same key; what becomes of it is
//! one call in the history.

use std::collections::BTreeMap;
use std::time::Duration;

use tigerchat_core::errors::ErrorCode;
use tigerchat_core::io::Transport;
use tigerchat_core::types::{ConnectionId, Instant};
use tigerchat_core::wire::chat::Key;

use crate::clock::wall;
use crate::connections::Connections;
use crate::erasing::{Erasers, Erasure};
use crate::faults::{Drawn, Work};
use crate::history::{Asked, CallId, Ends, UserId, Way, What};
use crate::network::Place;
use crate::random::{Ppm, Random};
use crate::reading::Readers;
use crate::speech::{self, Frame, key_text};
use crate::world::{Event, World};

/// A user asks again when nothing was heard for this long.
const PATIENCE: Duration = Duration::from_millis(400);
/// Calls of one user that may be unanswered before it stops making new ones.
const IN_FLIGHT_MAX: usize = 12;
/// Answered publishes that a user remembers, to send one of them again much later.
const REMEMBERED: usize = 64;
/// Messages of a page that a user asks for.
pub(crate) const PAGE: u32 = 8;
/// Messages that may be long.
const LONG: Ppm = 80_000;
/// Reads that ask for everything that anybody had seen.
const LINEARIZABLE: Ppm = 400_000;

/// All users of a world.
#[derive(Debug)]
pub struct Users {
    pub(crate) users: Vec<User>,
    pub(crate) rooms: Vec<String>,
    calls: BTreeMap<CallId, Call>,
    pub(crate) next_call: u64,
    work: Work,
    /// Calls that are still to be made.
    left: u32,
    /// Lines that are still to be typed: nobody who types waits for an answer.
    lines: u32,
    /// The highest sequence that was acknowledged to anybody, by room.
    pub(crate) heads: BTreeMap<String, u64>,
    /// What some of them know of threads and pages.
    readers: Readers,
    pub(crate) erasers: Erasers,
    pub(crate) random: Random,
    pub operations: u64,
}

/// What kind of client a user has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Speaks JSON in WebSocket frames, and all of it.
    App,
    /// Types lines, and never looks back.
    Line,
    /// Sends what no client should.
    Hostile,
}

#[derive(Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The connection to the edge that serves it.
    pub(crate) home: Option<Home>,
    /// The highest op that it has seen the effects of: what it tells an edge when it connects.
    floor: u64,
    pub(crate) in_flight: Vec<CallId>,
    pub(crate) subscriptions: BTreeMap<String, Subscription>,
    pub(crate) remembered: Vec<Message>,
    /// It knows that its rooms are open.
    opened: bool,
    breaks_at: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) connection: ConnectionId,
    /// The edge has answered.
    pub(crate) open: bool,
    /// What came and is no whole frame yet.
    heard: Vec<u8>,
    /// A line user is in its room.
    pub(crate) joined: bool,
}

/// What reaches a user over its connection.
#[derive(Debug)]
pub(crate) enum Heard<'a> {
    Opened,
    Bytes(&'a [u8]),
    Closed,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription {
    epoch: u64,
    next: u64,
    /// On this connection.
    live: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) call: CallId,
    pub(crate) room: String,
    pub(crate) key: Key,
    /// The message that it answers; zero: none.
    pub(crate) parent: u64,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Call {
    user: usize,
    what: Wanted,
    asked: Instant,
    /// This connection owes an answer.
    owed: bool,
    answered: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    Open(String),
    Publish(Message),
    Erase(Erasure),
    History {
        room: String,
        asked: Asked,
        linearizable: bool,
    },
    Subscribe {
        room: String,
        mode: Mode,
    },
    /// A subscription goes on, on another connection.
    Resume(String),
    Unsubscribe(String),
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    Now,
    Since(u64),
    Last(u64),
}

impl User {
    pub(crate) fn new(id: u32, name: String, kind: Kind) -> Self {
        Self {
            id: UserId(id),
            name,
            kind,
            home: None,
            floor: 0,
            in_flight: Vec::new(),
            subscriptions: BTreeMap::new(),
            remembered: Vec::new(),
            opened: true,
            breaks_at: None,
        }
    }

    fn is_connected(&self) -> bool {
        self.home.as_ref().is_some_and(|home| home.open)
    }
}

impl Users {
    #[must_use]
    pub fn new(drawn: &Drawn, seed: u64) -> Self {
        let work = drawn.work;
        let mut random = Random::new(seed, "users", 0);
        let mut kinds = vec![Kind::App; work.users.into()];
        kinds.extend(work.line.then_some(Kind::Line));
        kinds.extend(work.hostile.then_some(Kind::Hostile));
        let user = |(id, kind): (u32, Kind)| User {
            opened: kind != Kind::App,
            breaks_at: drawn.breaks.map(|mean| Instant(0).after(random.waiting(mean))),
            ..User::new(id, format!("user{id}"), kind)
        };
        Self {
            users: (0..).zip(kinds).map(user).collect(),
            rooms: (0..work.rooms).map(|room| format!("room{room}")).collect(),
            calls: BTreeMap::new(),
            next_call: 1,
            work,
            left: work.operations,
            lines: work.operations / 6,
            heads: BTreeMap::new(),
            readers: Readers::new(seed),
            erasers: Erasers::new(drawn, seed),
            random: Random::new(seed, "users", 1),
            operations: 0,
        }
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.users.len()
    }

    /// Whether they do what a script says and nothing by themselves.
    fn are_scripted(&self) -> bool {
        self.work.users == 0
    }

    /// Whether nobody waits for anything any more.
    #[must_use]
    pub fn are_done(&self) -> bool {
        self.left == 0 && self.users.iter().all(|user| self.is_served(user))
    }

    fn is_served(&self, user: &User) -> bool {
        let head = |room: &String| self.heads.get(room).copied().unwrap_or(0);
        let through = |(room, it): (&String, &Subscription)| it.live && it.next > head(room);
        match user.kind {
            Kind::App => {
                user.is_connected() && user.in_flight.is_empty() && user.subscriptions.iter().all(through)
            }
            Kind::Line => user.home.as_ref().is_some_and(|home| home.joined),
            Kind::Hostile => true,
        }
    }

    /// Rooms and who is present in them, over connections that their edges hold too: the news of a close may still
    /// be on its way over a slow link.
    #[must_use]
    pub(crate) fn connected(&self, connections: &Connections) -> Vec<(String, Vec<String>)> {
        let held =
            |user: &User| user.home.as_ref().is_some_and(|home| connections.edge_holds(home.connection));
        let is_here = |user: &User, room: &String| match user.kind {
            _ if !held(user) => false,
            Kind::App => user.subscriptions.get(room).is_some_and(|it| it.live),
            Kind::Line => self.rooms.first() == Some(room) && user.home.as_ref().is_some_and(|it| it.joined),
            Kind::Hostile => false,
        };
        let present = |room: &String| {
            self.users.iter().filter(|user| is_here(user, room)).map(|user| user.name.clone()).collect()
        };
        self.rooms.iter().map(|room| (room.clone(), present(room))).collect()
    }

    /// Somebody was told of a message at this place.
    pub(crate) fn saw_head(&mut self, room: &str, seq: u64) {
        let head = self.heads.entry(room.to_owned()).or_default();
        *head = seq.max(*head);
    }

    /// Begins a call; it is asked when there is a connection.
    fn begin(&mut self, user: usize, what: Wanted, now: Instant) -> CallId {
        let call = CallId(self.next_call);
        self.next_call += 1;
        self.calls.insert(call, Call { user, what, asked: now, owed: false, answered: false });
        self.users[user].in_flight.push(call);
        call
    }

    /// The call is over, if its user still waits for it.
    fn finish(&mut self, user: usize, call: CallId) -> Option<Wanted> {
        let in_flight = &mut self.users[user].in_flight;
        let at = in_flight.iter().position(|one| *one == call)?;
        in_flight.remove(at);
        let Call { what, answered, .. } = self.calls.remove(&call)?;
        if !answered && !matches!(what, Wanted::Resume(_)) {
            self.operations += 1;
        }
        Some(what)
    }

    /// What a user sets out to do next.
    fn choose(&mut self, user: usize, now: Instant) -> Wanted {
        let room = self.random.pick(&self.rooms).clone();
        let subscribed = self.users[user].subscriptions.contains_key(&room);
        let busy = self.users[user].in_flight.iter().any(|call| match &self.calls[call].what {
            Wanted::Subscribe { room: of, .. } | Wanted::Resume(of) | Wanted::Unsubscribe(of) => *of == room,
            _ => false,
        });
        let head = self.heads.get(&room).copied().unwrap_or(0);
        match self.random.below(100) {
            0..70 => Wanted::Publish(self.message(user, room, now)),
            70..85 => self.read(room, head),
            85..97 if !subscribed && !busy => {
                let mode = match self.random.below(3) {
                    0 => Mode::Now,
                    1 => Mode::Since(self.random.within(0..=head)),
                    _ => Mode::Last(self.random.within(1..=10)),
                };
                Wanted::Subscribe { room, mode }
            }
            97.. if subscribed && !busy => Wanted::Unsubscribe(room),
            _ => self.read(room, 0),
        }
    }

    fn read(&mut self, room: String, head: u64) -> Wanted {
        let (from, linearizable) = (self.random.within(0..=head), self.random.chance(LINEARIZABLE));
        let plain = Asked { thread: 0, way: Way::From(from), limit: PAGE };
        let known = self.heads.get(&room).copied().unwrap_or(0);
        let asked = self.readers.page(&room, known).unwrap_or(plain);
        Wanted::History { room, asked, linearizable }
    }

    fn message(&mut self, user: usize, room: String, now: Instant) -> Message {
        let key = Key::new(wall(now).0 / 1_000_000, self.random.bytes());
        // Most say little; now and then an entry needs more than one sector.
        let most = if self.random.chance(LONG) { 600 } else { 40 };
        let filler: String = (b'a'..=b'z').cycle().take(self.random.index(most)).map(char::from).collect();
        let text = format!("{}/{}/{filler}", self.users[user].name, self.next_call);
        let body = if self.users[user].kind == Kind::Line { text } else { json_body(&text) };
        let head = self.heads.get(&room).copied().unwrap_or(0);
        let parent = if self.users[user].kind == Kind::App { self.readers.parent(head) } else { 0 };
        Message { call: CallId(self.next_call), room, key, parent, body: body.into_bytes() }
    }

    /// A call as a client says it.
    fn said(&self, call: CallId) -> String {
        let Call { user, what, .. } = &self.calls[&call];
        let id = call.0;
        match what {
            Wanted::Open(room) => format!(r#"{{"id":{id},"room_open":{{"room":"{room}"}}}}"#),
            Wanted::Publish(Message { room, key, parent, body, .. }) => {
                let (key, body) = (key_text(*key), String::from_utf8_lossy(body));
                let of = if *parent > 0 { format!(r#","parent":"{parent}""#) } else { String::new() };
                format!(r#"{{"id":{id},"publish":{{"room":"{room}","key":"{key}"{of},"body":{body}}}}}"#)
            }
            Wanted::Erase(erasure) => erasure.said(),
            Wanted::History { room, asked, linearizable } => {
                let how = if *linearizable { r#","consistency":"linearizable""# } else { "" };
                let page = crate::reading::said(asked);
                format!(r#"{{"id":{id},"history":{{"room":"{room}"{page}{how}}}}}"#)
            }
            Wanted::Subscribe { room, mode } => {
                let from = match mode {
                    Mode::Now => String::new(),
                    Mode::Since(seq) => format!(r#","since":{{"seq":"{seq}"}}"#),
                    Mode::Last(count) => format!(r#","last":{count}"#),
                };
                format!(r#"{{"id":{id},"subscribe":{{"room":"{room}"{from}}}}}"#)
            }
            Wanted::Resume(room) => {
                let Subscription { epoch, next, .. } = self.users[*user].subscriptions[room];
                let seq = next - 1;
                format!(
                    r#"{{"id":{id},"subscribe":{{"room":"{room}","since":{{"epoch":"{epoch}","seq":"{seq}"}}}}}}"#
                )
            }
            Wanted::Unsubscribe(room) => format!(r#"{{"id":{id},"unsubscribe":{{"room":"{room}"}}}}"#),
        }
    }
}

pub(crate) fn json_body(text: &str) -> String {
    format!(r#"{{"text":"{text}"}}"#)
}

impl World<'_> {
    /// Everybody wakes for the first time.
    pub(crate) fn begin_users(&mut self) {
        for user in 0..self.users.count() {
            let at = self.soon(Duration::from_millis(100));
            self.schedule(at, Event::User(user));
        }
    }

    /// A user wakes: reconnects, asks again, sets out to do something.
    pub(crate) fn wake_user(&mut self, user: usize) {
        let busy = self.users.left > 0;
        let think = self.users.work.think;
        let think = if self.healed { think / 4 } else { think };
        let pause = if busy { self.users.random.waiting(think) } else { Duration::from_millis(150) };
        let again = self.now.after(pause + Duration::from_micros(1));
        self.schedule(again, Event::User(user));
        if self.users.users[user].breaks_at.is_some_and(|at| at <= self.now) {
            self.break_home(user);
        }
        match (&self.users.users[user].home, self.users.users[user].kind) {
            (None, _) => self.find_home(user),
            (Some(Home { open: false, .. }), _) => {}
            (Some(_), Kind::App) => self.act(user),
            (Some(_), Kind::Line) => self.type_line(user),
            (Some(_), Kind::Hostile) => self.say_garbage(user),
        }
    }

    fn break_home(&mut self, user: usize) {
        let mean = self.drawn.breaks.filter(|_| !self.healed);
        let next = mean.map(|mean| self.now.after(self.users.random.waiting(mean)));
        self.users.users[user].breaks_at = next;
        if next.is_none() {
            return;
        }
        if let Some(connection) = self.users.users[user].home.as_ref().map(|home| home.connection) {
            self.break_connection(connection);
        }
    }

    fn find_home(&mut self, user: usize) {
        let edges = self.replicas()..self.processes.len();
        let up: Vec<Place> = edges.filter(|place| self.processes[*place].is_up()).collect();
        if !up.is_empty() {
            let edge = *self.users.random.pick(&up);
            self.settle(user, edge);
        }
    }

    /// Dials an edge; the user goes on from where it was when the edge answers.
    pub(crate) fn settle(&mut self, user: usize, edge: Place) {
        let line = self.users.users[user].kind == Kind::Line;
        let connection = self.dial(user, edge, if line { Transport::Line } else { Transport::WebSocket });
        let home = Home { connection, open: false, heard: Vec::new(), joined: false };
        self.users.users[user].home = Some(home);
    }

    /// The connection is gone, and with it all that was live.
    pub(crate) fn leave_home(&mut self, user: usize) {
        self.users.users[user].home = None;
        let id = self.users.users[user].id;
        let mut lost = Vec::new();
        for (room, it) in &mut self.users.users[user].subscriptions {
            if std::mem::take(&mut it.live) {
                lost.push(room.clone());
            }
        }
        for room in lost {
            self.observe(What::Unsubscribed { user: id, room: room.clone() });
            self.observe(What::Left { user: id, room });
        }
        for call in self.users.users[user].in_flight.clone() {
            let Some(Call { what, owed, .. }) = self.users.calls.get_mut(&call) else { continue };
            *owed = false;
            match what.clone() {
                Wanted::Resume(_) => {
                    self.users.finish(user, call);
                }
                Wanted::Unsubscribe(room) => {
                    self.users.finish(user, call);
                    self.users.users[user].subscriptions.remove(&room);
                }
                _ => {}
            }
        }
    }

    /// What comes over a connection.
    pub(crate) fn hear(&mut self, user: usize, connection: ConnectionId, heard: Heard<'_>) {
        let Some(home) = self.users.users[user].home.as_mut().filter(|home| home.connection == connection)
        else {
            return;
        };
        match heard {
            Heard::Opened => {
                home.open = true;
                self.greet(user, connection);
            }
            Heard::Closed => self.leave_home(user),
            Heard::Bytes(bytes) => {
                home.heard.extend_from_slice(bytes);
                let heard = std::mem::take(&mut home.heard);
                let rest = self.listen(user, &heard);
                if let Some(home) = &mut self.users.users[user].home {
                    home.heard = rest;
                }
            }
        }
    }

    /// Says who it is, and goes on with everything.
    fn greet(&mut self, user: usize, connection: ConnectionId) {
        let User { name, kind, floor, opened, .. } = &self.users.users[user];
        match kind {
            Kind::App => {
                let id = u32::MAX;
                let connect =
                    format!(r#"{{"id":{id},"connect":{{"token":"demo:{name}","floor":"{floor}"}}}}"#);
                let first_time = !opened && self.users.users[user].in_flight.is_empty();
                self.say(connection, connect.into_bytes());
                if first_time {
                    for room in self.users.rooms.clone() {
                        self.users.begin(user, Wanted::Open(room), self.now);
                    }
                }
                let rooms: Vec<String> = self.users.users[user].subscriptions.keys().cloned().collect();
                for room in rooms {
                    self.users.begin(user, Wanted::Resume(room), self.now);
                }
                self.users.users[user].in_flight.clone().into_iter().for_each(|call| self.ask(call));
            }
            Kind::Line => {
                let login = format!("login demo:{name}");
                self.say(connection, login.into_bytes());
                self.type_line(user);
            }
            Kind::Hostile => self.say_garbage(user),
        }
    }

    /// Takes in all that is whole; what is left begins the next frame or line.
    fn listen(&mut self, user: usize, mut heard: &[u8]) -> Vec<u8> {
        match self.users.users[user].kind {
            Kind::App => {
                while let Some((payload, end)) = speech::first_frame(heard) {
                    self.on_frame(user, payload);
                    heard = &heard[end..];
                }
            }
            Kind::Line => {
                while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
                    if let Some(home) = &mut self.users.users[user].home {
                        home.joined |= heard.starts_with(b"* joined ");
                        home.joined &= !speech::is_out(&heard[..end]);
                    }
                    heard = &heard[end + 1..];
                }
            }
            Kind::Hostile => heard = &[],
        }
        heard.to_vec()
    }

    fn on_frame(&mut self, user: usize, payload: &[u8]) {
        if payload == b"{}" {
            // A sign of life is asked for.
            if let Some(home) = &self.users.users[user].home {
                self.say(home.connection, b"{}".to_vec());
            }
            return;
        }
        let Frame { id, error, push, publish, erase, subscribe, history, room_open, unsubscribe, connect } =
            speech::read(payload);
        let call = CallId(id.into());
        if let Some(push) = push {
            self.on_push(user, push);
        } else if let Some(error) = error {
            self.on_error(user, call, error.error());
        } else if let Some(published) = publish.or(erase) {
            self.on_published(user, call, &published);
        } else if let Some(subscribed) = subscribe {
            self.on_subscribed(user, call, &subscribed);
        } else if let Some(page) = history {
            self.on_page(user, call, page);
        } else if let Some(speech::Opened { op }) = room_open {
            self.saw(user, op);
            if self.users.finish(user, call).is_some() && self.users.users[user].in_flight.is_empty() {
                self.users.users[user].opened = true;
            }
        } else if unsubscribe.is_some() {
            if let Some(Wanted::Unsubscribe(room)) = self.users.finish(user, call) {
                self.end_subscription(user, room);
            }
        } else {
            assert!(connect.is_some(), "a frame that says nothing");
        }
    }

    fn on_push(&mut self, user: usize, push: speech::Push<'_>) {
        let id = self.users.users[user].id;
        if let Some(message) = push.event {
            self.saw(user, message.op);
            let message = message.seen(push.room);
            if let Some(it) = self.users.users[user].subscriptions.get_mut(push.room) {
                it.next = message.seq + 1;
            }
            self.observe(What::Delivered { user: id, message });
        } else if push.resync.is_some() {
            self.end_subscription(user, push.room.to_owned());
        }
    }

    fn end_subscription(&mut self, user: usize, room: String) {
        self.users.users[user].subscriptions.remove(&room);
        let user = self.users.users[user].id;
        self.observe(What::Unsubscribed { user, room: room.clone() });
        self.observe(What::Left { user, room });
    }

    fn saw(&mut self, user: usize, op: u64) {
        let floor = &mut self.users.users[user].floor;
        *floor = op.max(*floor);
    }

    fn on_error(&mut self, user: usize, call: CallId, error: ErrorCode) {
        if error.entry().temporary {
            if let Some(call) = self.users.calls.get_mut(&call) {
                (call.owed, call.asked) = (false, self.now);
            }
            return;
        }
        let id = self.users.users[user].id;
        match self.users.finish(user, call) {
            Some(
                Wanted::Publish(_) | Wanted::Erase(_) | Wanted::History { .. } | Wanted::Subscribe { .. },
            ) => {
                self.observe(What::Refused { user: id, call, error });
            }
            // A script may ask for what no user of a swarm does: a room that can have no such name.
            Some(_) if self.users.are_scripted() => self.observe(What::Refused { user: id, call, error }),
            // Lost meanwhile, of which the user has heard.
            Some(Wanted::Unsubscribe(_)) if error == ErrorCode::NotSubscribed => {}
            // The shard no longer keeps what the user missed.
            Some(Wanted::Resume(room)) if error == ErrorCode::PositionGone => {
                self.end_subscription(user, room);
            }
            Some(Wanted::Resume(room)) => panic!("user {} can't go on in {room}: {error:?}", id.0),
            Some(other) => panic!("{other:?} was refused: {error:?}"),
            None => assert!(call.0 > 0, "user {} was told {error:?} for nothing", id.0),
        }
    }

    fn on_published(&mut self, user: usize, call: CallId, published: &speech::Published) {
        let speech::Published { seq, op, index, time, epoch, chain, duplicate } = *published;
        let Some(wanted) = self.users.finish(user, call) else { return };
        self.saw(user, op);
        match wanted {
            Wanted::Publish(message) => {
                self.users.saw_head(&message.room, seq);
                self.users.readers.saw(&message.room, time);
                self.users.erasers.said(user, &message, (epoch, seq));
                let remembered = &mut self.users.users[user].remembered;
                if remembered.len() < REMEMBERED && !remembered.iter().any(|other| other.call == call) {
                    remembered.push(message);
                }
            }
            Wanted::Erase(erasure) => {
                self.users.saw_head(&erasure.room, seq);
                self.users.erasers.erased(user, erasure);
            }
            other => panic!("{other:?} was answered as what is published"),
        }
        let user = self.users.users[user].id;
        self.observe(What::Acknowledged { user, call, seq, op, index, time, chain, epoch, duplicate });
    }

    fn on_subscribed(&mut self, user: usize, call: CallId, subscribed: &speech::Subscribed) {
        let speech::Subscribed { op, epoch, next } = *subscribed;
        self.saw(user, op);
        let Some(Wanted::Subscribe { room, .. } | Wanted::Resume(room)) = self.users.finish(user, call)
        else {
            return;
        };
        let one = &mut self.users.users[user];
        let id = one.id;
        // Who comes back begins where it was, whatever the edge says.
        let next = one.subscriptions.get(&room).map_or(next, |before| before.next);
        one.subscriptions.insert(room.clone(), Subscription { epoch, next, live: true });
        self.observe(What::Entered { user: id, room: room.clone() });
        self.observe(What::Subscribed { user: id, room, epoch, next });
    }

    fn on_page(&mut self, user: usize, call: CallId, page: speech::Page<'_>) {
        let Some(Wanted::History { room, asked, .. }) = self.users.finish(user, call) else { return };
        let parent = page.thread.as_ref().map_or(0, |thread| thread.parent);
        assert_eq!(parent, asked.thread, "a page is of the thread that was asked for");
        let (first, head) = (page.first, page.head);
        let thread = page.thread.map(|thread| (thread.first, thread.head));
        let ends = Ends { older: page.older, newer: page.newer, thread };
        self.saw(user, page.op);
        let messages = page.messages.into_iter().map(|message| message.seen(&room)).collect();
        let user = self.users.users[user].id;
        self.observe(What::HistoryRead { user, call, room, first, head, ends, messages });
    }

    /// Asks, for the first time or again.
    pub(crate) fn ask(&mut self, call: CallId) {
        let Some(user) = self.users.calls.get(&call).map(|call| call.user) else { return };
        let Some(home) = self.users.users[user].home.as_ref().filter(|home| home.open) else { return };
        let connection = home.connection;
        let said = self.users.said(call);
        if let Some(Call { what: Wanted::Subscribe { room, .. } | Wanted::Resume(room), .. }) =
            self.users.calls.get(&call)
        {
            self.observe_question(user, room.clone());
        }
        if let Some(call) = self.users.calls.get_mut(&call) {
            (call.asked, call.owed) = (self.now, true);
        }
        self.say(connection, said.into_bytes());
    }

    fn act(&mut self, user: usize) {
        let now = self.now;
        let overdue = |call: &&CallId| {
            let Some(Call { what, asked, owed, .. }) = self.users.calls.get(call) else { return false };
            // A subscription is answered or refused; asked twice, the second would be refused.
            let once = matches!(what, Wanted::Subscribe { .. } | Wanted::Resume(_) | Wanted::Unsubscribe(_));
            now.since(*asked) > PATIENCE && !(once && *owed)
        };
        let overdue: Vec<CallId> = self.users.users[user].in_flight.iter().filter(overdue).copied().collect();
        overdue.into_iter().for_each(|call| self.ask(call));
        for _ in 0..self.users.work.burst {
            let one = &self.users.users[user];
            if !one.opened || one.in_flight.len() >= IN_FLIGHT_MAX || self.users.left == 0 {
                return;
            }
            self.users.left -= 1;
            self.do_something(user);
        }
    }

    fn do_something(&mut self, user: usize) {
        let now = self.now;
        if self.users.random.chance(self.users.work.again) && !self.users.users[user].remembered.is_empty() {
            return self.send_again(user);
        }
        if self.erase_again(user) {
            return;
        }
        let wanted = self.users.some_erasure(user, now);
        let wanted = wanted.unwrap_or_else(|| self.users.choose(user, now));
        self.set_out(user, wanted);
    }

    /// A publish that was answered long ago is sent once more: the same call, the same key.
    pub(crate) fn send_again(&mut self, user: usize) {
        let message = self.users.random.pick(&self.users.users[user].remembered).clone();
        self.repeat(user, message.call, Wanted::Publish(message));
    }

    pub(crate) fn repeat(&mut self, user: usize, call: CallId, what: Wanted) {
        let again = Call { user, what, asked: self.now, owed: false, answered: true };
        self.users.calls.insert(call, again);
        let in_flight = &mut self.users.users[user].in_flight;
        if !in_flight.contains(&call) {
            in_flight.push(call);
        }
        self.ask(call);
    }

    pub(crate) fn set_out(&mut self, user: usize, wanted: Wanted) {
        let call = self.users.begin(user, wanted.clone(), self.now);
        let (id, author) = (self.users.users[user].id, self.users.users[user].name.clone());
        match wanted {
            Wanted::Erase(erasure) => self.observe_erasure(user, &erasure),
            Wanted::Publish(Message { room, key, parent, body, .. }) => {
                self.observe(What::Published { user: id, call, room, author, key, parent, body });
            }
            Wanted::History { room, asked, linearizable } => {
                self.observe(What::HistoryCalled { user: id, call, room, asked, linearizable });
            }
            _ => {}
        }
        self.ask(call);
    }

    /// A line user joins until it is in, and says something now and then; nobody tells it what became of it.
    fn type_line(&mut self, user: usize) {
        let Some(home) = &self.users.users[user].home else { return };
        let (connection, joined) = (home.connection, home.joined);
        let room = self.users.rooms[0].clone();
        if !joined {
            return self.say(connection, format!("join {room}").into_bytes());
        }
        if self.users.left == 0 || self.users.lines == 0 || !self.users.random.chance(300_000) {
            return;
        }
        self.users.lines -= 1;
        let Message { call, room, key, parent, body } = self.users.message(user, room, self.now);
        self.users.next_call += 1;
        let (id, author) = (self.users.users[user].id, self.users.users[user].name.clone());
        let line = format!("send-key {} {}", key_text(key), String::from_utf8_lossy(&body));
        self.observe(What::Published { user: id, call, room, author, key, parent, body });
        self.say(connection, line.into_bytes());
    }

    /// Something that must have no effect, neither here nor on anybody else.
    fn say_garbage(&mut self, user: usize) {
        let Some(connection) = self.users.users[user].home.as_ref().map(|home| home.connection) else {
            return;
        };
        let random = &mut self.users.random;
        let garbage = match random.below(8) {
            0 => random.bytes::<40>().to_vec(),
            1 => br#"{"id":1,"publish":{"room":"room0","key":"00","body":{}}}"#.to_vec(),
            2 => br#"{"id":1,"connect":{"token":"demo:user0"#.to_vec(),
            3 => br#"{"id":"1","history":[]}"#.to_vec(),
            4 => vec![b'['; random.index(3_000)],
            5 => format!(r#"{{"id":7,"publish":{{"room":"room0","body":"{}"}}}}"#, "x".repeat(2_000)).into(),
            6 => br#"{"id":4294967295,"connect":{"token":"demo:mallory","floor":"18446744073709551615"}}"#
                .to_vec(),
            _ => br#"{"id":9,"subscribe":{"room":"no such room","since":{"seq":"18446744073709551615"}}}"#
                .to_vec(),
        };
        self.say(connection, garbage);
    }
}
