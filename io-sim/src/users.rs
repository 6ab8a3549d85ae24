//! Simulated users: what they want, what they are told, and what an observer learns of both.
//!
//! The one law: **a call keeps its key for ever.** A user who hears nothing, loses the connection or moves to
//! another edge asks again with the same key; what becomes of it is one call in the history.

use std::collections::BTreeMap;
use std::time::Duration;

use tigerchat_core::types::Instant;
use tigerchat_core::wire::chat::{AnswerHead, Command, KIND_MESSAGE, Key, Outcome, Publish};

use crate::TENANT;
use crate::clock::wall;
use crate::faults::{Drawn, Work};
use crate::gateway::{Ask, Told, encoded};
use crate::history::{CallId, SeenMessage, UserId, What};
use crate::network::Place;
use crate::process::Inbound;
use crate::random::Random;
use crate::world::{Event, World};

/// A user asks again when nothing was heard for this long.
const PATIENCE: Duration = Duration::from_millis(900);
/// Calls of one user that may be unanswered before it stops making new ones.
const IN_FLIGHT_MAX: usize = 6;
/// Answered publishes that a user remembers, to send one of them again much later.
const REMEMBERED: usize = 64;
/// Nobody waits for the answer.
const NOBODY: CallId = CallId(0);

/// All users of a world.
#[derive(Debug)]
pub struct Users {
    pub(crate) users: Vec<User>,
    rooms: Vec<String>,
    calls: BTreeMap<CallId, Call>,
    pub(crate) next_call: u64,
    work: Work,
    /// Calls that are still to be made.
    left: u32,
    /// The highest sequence that was acknowledged to anybody, by room.
    heads: BTreeMap<String, u64>,
    pub(crate) random: Random,
    pub operations: u64,
}

#[derive(Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) name: String,
    /// The process that serves it, while it is connected.
    pub(crate) home: Option<Place>,
    /// The highest op that it has seen the effects of: the floor of its reads.
    pub(crate) floor: u64,
    pub(crate) in_flight: Vec<CallId>,
    pub(crate) subscriptions: BTreeMap<String, Subscription>,
    /// The room that it is present in.
    pub(crate) entered: Option<String>,
    pub(crate) remembered: Vec<Message>,
    /// It knows that its rooms are open.
    pub(crate) opened: bool,
    pub(crate) breaks_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription {
    epoch: u64,
    next: u64,
    /// A page is on its way.
    paging: bool,
    heard: Instant,
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) call: CallId,
    pub(crate) room: String,
    pub(crate) key: Key,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Call {
    user: usize,
    what: Wanted,
    asked: Instant,
    answered: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    Open(String),
    Publish(Message),
    Enter(String),
    Leave(String),
    /// A page for its own sake.
    History {
        room: String,
        from: u64,
    },
    /// The first page of a subscription, which says where it begins.
    Subscribe {
        room: String,
        mode: Mode,
    },
    /// The next page of one.
    CatchUp {
        room: String,
        from: u64,
    },
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    Now,
    Since(u64),
    Last(u64),
}

impl Users {
    #[must_use]
    pub fn new(drawn: &Drawn, seed: u64) -> Self {
        let work = drawn.work;
        let mut random = Random::new(seed, "users", 0);
        let user = |id: u8| User {
            id: UserId(id.into()),
            name: format!("user{id}"),
            home: None,
            floor: 0,
            in_flight: Vec::new(),
            subscriptions: BTreeMap::new(),
            entered: None,
            remembered: Vec::new(),
            opened: false,
            breaks_at: drawn.breaks.map(|mean| Instant(0).after(random.waiting(mean))),
        };
        Self {
            users: (0..work.users).map(user).collect(),
            rooms: (0..work.rooms).map(|room| format!("room{room}")).collect(),
            calls: BTreeMap::new(),
            next_call: 1,
            work,
            left: work.operations,
            heads: BTreeMap::new(),
            random: Random::new(seed, "users", 1),
            operations: 0,
        }
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.users.len()
    }

    /// Whether nobody waits for anything any more.
    #[must_use]
    pub fn are_done(&self) -> bool {
        self.left == 0 && self.users.iter().all(|user| user.home.is_some() && self.is_served(user))
    }

    fn is_served(&self, user: &User) -> bool {
        let head = |room: &String| self.heads.get(room).copied().unwrap_or(0);
        user.in_flight.is_empty() && user.subscriptions.iter().all(|(room, it)| it.next > head(room))
    }

    /// Rooms and who is present in them.
    #[must_use]
    pub fn connected(&self) -> Vec<(String, Vec<String>)> {
        let present = |room: &String| {
            let here = |user: &&User| user.home.is_some() && user.entered.as_ref() == Some(room);
            self.users.iter().filter(here).map(|user| user.name.clone()).collect()
        };
        self.rooms.iter().map(|room| (room.clone(), present(room))).collect()
    }

    pub(crate) fn start(&mut self, user: usize, what: Wanted, now: Instant) -> CallId {
        let call = CallId(self.next_call);
        self.next_call += 1;
        self.calls.insert(call, Call { user, what, asked: now, answered: false });
        self.users[user].in_flight.push(call);
        call
    }

    /// What a user sets out to do next.
    fn choose(&mut self, user: usize, now: Instant) -> Wanted {
        let room = self.random.pick(&self.rooms).clone();
        let subscribed = self.users[user].subscriptions.contains_key(&room);
        match self.random.below(100) {
            0..70 => {
                let key = Key::new(wall(now).0 / 1_000_000, self.random.bytes());
                let mut body = format!("{}/{}/", self.users[user].name, self.next_call).into_bytes();
                let filler = self.random.below(200);
                body.extend((0..filler).map(|at| b'a' + u8::try_from(at % 26).expect("a letter")));
                Wanted::Publish(Message { call: CallId(self.next_call), room, key, body })
            }
            70..85 => {
                let head = self.heads.get(&room).copied().unwrap_or(0);
                let from = self.random.within(0..=head);
                Wanted::History { room, from }
            }
            85..92 if !subscribed => {
                let head = self.heads.get(&room).copied().unwrap_or(0);
                let mode = match self.random.below(3) {
                    0 => Mode::Now,
                    1 => Mode::Since(self.random.within(0..=head)),
                    _ => Mode::Last(self.random.within(1..=10)),
                };
                Wanted::Subscribe { room, mode }
            }
            _ if self.users[user].entered.as_ref() == Some(&room) => Wanted::Leave(room),
            _ if self.users[user].entered.is_none() => Wanted::Enter(room),
            _ => Wanted::History { room, from: 0 },
        }
    }

    /// The bytes or the question that a call is made of; drawn anew for each attempt where an edge would.
    fn question(&mut self, call: CallId) -> Ask {
        let Call { user, what, .. } = &self.calls[&call];
        let (name, floor) = (&self.users[*user].name, self.users[*user].floor);
        let history = |room: &String, from| Ask::History { call, room: room.clone(), from, floor };
        let command = match what {
            Wanted::History { room, from } | Wanted::CatchUp { room, from } => return history(room, *from),
            Wanted::Subscribe { room, .. } => return history(room, 0),
            Wanted::Open(room) => encoded(&Command::RoomOpen { tenant: TENANT, room, user: name }),
            // Asked again late, it must not undo what was wanted since.
            Wanted::Enter(room) | Wanted::Leave(room) if self.users[*user].entered.as_ref() == Some(room) => {
                encoded(&Command::Enter { tenant: TENANT, room, user: name })
            }
            Wanted::Enter(room) | Wanted::Leave(room) => {
                encoded(&Command::Leave { tenant: TENANT, room, user: name })
            }
            Wanted::Publish(message) => encoded(&Command::Publish(Publish {
                tenant: TENANT,
                room: &message.room,
                user: name,
                key: message.key,
                kind: KIND_MESSAGE,
                parent: 0,
                expect_seq: None,
                salt: self.random.bytes(),
                content_type: "text/plain",
                body: &message.body,
            })),
        };
        Ask::Command { call, command }
    }
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
        let pause = if busy { self.users.random.waiting(think) } else { Duration::from_millis(150) };
        let again = self.now.after(pause + Duration::from_micros(1));
        self.schedule(again, Event::User(user));
        if self.users.users[user].breaks_at.is_some_and(|at| at <= self.now) {
            self.break_home(user);
        }
        match self.users.users[user].home {
            None => self.find_home(user),
            Some(_) => self.act(user),
        }
    }

    fn break_home(&mut self, user: usize) {
        let mean = self.drawn.breaks.filter(|_| !self.healed);
        let next = mean.map(|mean| self.now.after(self.users.random.waiting(mean)));
        self.users.users[user].breaks_at = next;
        if let Some(home) = self.users.users[user].home {
            self.leave_home(user);
            // The edge finds out, and says so in the log.
            if let Some(room) = self.users.users[user].entered.clone() {
                let name = &self.users.users[user].name;
                let command = encoded(&Command::Leave { tenant: TENANT, room: &room, user: name });
                self.inform(home, Inbound::Ask(Ask::Command { call: NOBODY, command }));
            }
        }
    }

    pub(crate) fn leave_home(&mut self, user: usize) {
        let one = &mut self.users.users[user];
        one.home = None;
        let (id, rooms) = (one.id, one.subscriptions.keys().cloned().collect::<Vec<_>>());
        for room in rooms {
            self.observe(What::Unsubscribed { user: id, room });
        }
    }

    /// An edge ended: whoever was there must look for another.
    pub(crate) fn gateway_gone(&mut self, place: Place) {
        for user in 0..self.users.count() {
            if self.users.users[user].home == Some(place) {
                self.leave_home(user);
            }
        }
    }

    fn find_home(&mut self, user: usize) {
        let edges = self.replicas()..self.processes.len();
        let up: Vec<Place> = edges.filter(|place| self.processes[*place].is_up()).collect();
        if up.is_empty() {
            return;
        }
        let home = *self.users.random.pick(&up);
        self.resume(user, home);
        if !self.users.users[user].opened && self.users.users[user].in_flight.is_empty() {
            for room in self.users.rooms.clone() {
                let call = self.users.start(user, Wanted::Open(room), self.now);
                self.ask(call);
            }
        }
    }

    /// Goes on at an edge from where the user was.
    pub(crate) fn resume(&mut self, user: usize, home: Place) {
        let one = &mut self.users.users[user];
        one.home = Some(home);
        let (id, calls, entered) = (one.id, one.in_flight.clone(), one.entered.clone());
        let subscriptions: Vec<_> = one.subscriptions.iter().map(|(room, it)| (room.clone(), *it)).collect();
        for (room, Subscription { epoch, next, .. }) in subscriptions {
            self.observe(What::Subscribed { user: id, room: room.clone(), epoch, next });
            self.catch_up(user, &room);
        }
        calls.into_iter().for_each(|call| self.ask(call));
        if let Some(room) = entered {
            self.report_presence(user, &room);
        }
    }

    fn report_presence(&mut self, user: usize, room: &str) {
        let Some(home) = self.users.users[user].home else { return };
        let name = &self.users.users[user].name;
        let command = encoded(&Command::Enter { tenant: TENANT, room, user: name });
        self.inform(home, Inbound::Ask(Ask::Command { call: NOBODY, command }));
    }

    /// Asks, for the first time or again.
    pub(crate) fn ask(&mut self, call: CallId) {
        let Some(user) = self.users.calls.get(&call).map(|call| call.user) else { return };
        let Some(home) = self.users.users[user].home else { return };
        let ask = self.users.question(call);
        if let Some(call) = self.users.calls.get_mut(&call) {
            call.asked = self.now;
        }
        self.inform(home, Inbound::Ask(ask));
    }

    fn act(&mut self, user: usize) {
        let now = self.now;
        let overdue =
            |call: &&CallId| self.users.calls.get(call).is_some_and(|call| now.since(call.asked) > PATIENCE);
        let overdue: Vec<CallId> = self.users.users[user].in_flight.iter().filter(overdue).copied().collect();
        overdue.into_iter().for_each(|call| self.ask(call));
        let stale = |it: &Subscription| !it.paging && now.since(it.heard) > PATIENCE;
        let subscriptions = self.users.users[user].subscriptions.iter();
        let stale: Vec<String> =
            subscriptions.filter(|(_, it)| stale(it)).map(|(room, _)| room.clone()).collect();
        stale.into_iter().for_each(|room| self.catch_up(user, &room));
        let one = &self.users.users[user];
        if !one.opened || one.in_flight.len() >= IN_FLIGHT_MAX || self.users.left == 0 {
            return;
        }
        self.users.left -= 1;
        if self.users.random.chance(self.users.work.again) && !self.users.users[user].remembered.is_empty() {
            return self.send_again(user);
        }
        let wanted = self.users.choose(user, now);
        self.set_out(user, wanted);
    }

    /// A publish that was answered long ago is sent once more: the same call, the same key.
    pub(crate) fn send_again(&mut self, user: usize) {
        let message = self.users.random.pick(&self.users.users[user].remembered).clone();
        let call = message.call;
        self.users
            .calls
            .insert(call, Call { user, what: Wanted::Publish(message), asked: self.now, answered: true });
        let in_flight = &mut self.users.users[user].in_flight;
        if !in_flight.contains(&call) {
            in_flight.push(call);
        }
        self.ask(call);
    }

    pub(crate) fn set_out(&mut self, user: usize, wanted: Wanted) {
        let call = self.users.start(user, wanted.clone(), self.now);
        let (id, author) = (self.users.users[user].id, self.users.users[user].name.clone());
        match wanted {
            Wanted::Publish(Message { room, key, body, .. }) => {
                self.observe(What::Published { user: id, call, room, author, key, body });
            }
            Wanted::History { room, .. } | Wanted::CatchUp { room, .. } | Wanted::Subscribe { room, .. } => {
                self.observe(What::HistoryCalled { user: id, call, room });
            }
            Wanted::Enter(room) => {
                self.users.users[user].entered = Some(room.clone());
                self.observe(What::Entered { user: id, room });
            }
            Wanted::Leave(room) => {
                self.users.users[user].entered = None;
                self.observe(What::Left { user: id, room });
            }
            Wanted::Open(_) => {}
        }
        self.ask(call);
    }

    pub(crate) fn catch_up(&mut self, user: usize, room: &str) {
        let now = self.now;
        let Some(it) = self.users.users[user].subscriptions.get_mut(room) else { return };
        if it.paging {
            return;
        }
        (it.paging, it.heard) = (true, now);
        let from = it.next;
        self.set_out(user, Wanted::CatchUp { room: room.into(), from });
    }

    /// What a gateway told.
    pub(crate) fn hear(&mut self, place: Place, told: Told) {
        match told {
            Told::Outcome(call, outcome) => self.on_outcome(place, call, outcome),
            Told::Page { call, commit, answer, messages } => {
                self.raise_floor(call, commit);
                self.on_page(place, call, answer, messages);
            }
            Told::Message(op, message) => {
                for user in 0..self.users.count() {
                    if self.users.users[user].home == Some(place) {
                        let floor = &mut self.users.users[user].floor;
                        *floor = op.max(*floor);
                        self.on_message(user, &message);
                    }
                }
            }
            Told::Registered => {
                for user in 0..self.users.count() {
                    let one = &self.users.users[user];
                    if one.home == Some(place)
                        && let Some(room) = one.entered.clone()
                    {
                        self.report_presence(user, &room);
                    }
                }
            }
            Told::Missed => {
                for user in (0..self.users.count())
                    .filter(|user| self.users.users[*user].home == Some(place))
                    .collect::<Vec<_>>()
                {
                    let rooms: Vec<_> = self.users.users[user].subscriptions.keys().cloned().collect();
                    rooms.into_iter().for_each(|room| self.catch_up(user, &room));
                }
            }
        }
    }

    fn raise_floor(&mut self, call: CallId, commit: u64) {
        if let Some(call) = self.users.calls.get(&call) {
            let floor = &mut self.users.users[call.user].floor;
            *floor = commit.max(*floor);
        }
    }

    /// The call is over, if its user is still there to hear it.
    fn finish(&mut self, place: Place, call: CallId) -> Option<(usize, Call)> {
        let user = self.users.calls.get(&call)?.user;
        let one = &mut self.users.users[user];
        if one.home != Some(place) || !one.in_flight.contains(&call) {
            return None;
        }
        one.in_flight.retain(|other| *other != call);
        let call = self.users.calls.remove(&call)?;
        if !call.answered {
            self.users.operations += 1;
        }
        Some((user, call))
    }

    fn on_outcome(&mut self, place: Place, call: CallId, outcome: Outcome) {
        if outcome.error.is_some_and(|error| error.entry().temporary) {
            return;
        }
        let Some((user, Call { what, .. })) = self.finish(place, call) else { return };
        let id = self.users.users[user].id;
        if let Some(error) = outcome.error {
            if !matches!(what, Wanted::Enter(_) | Wanted::Leave(_)) {
                self.observe(What::Refused { user: id, call, error });
            }
            return;
        }
        let Outcome { duplicate, index, op, seq, time, epoch, chain, .. } = outcome;
        match what {
            Wanted::Open(_) => {
                let one = &mut self.users.users[user];
                one.opened = one.in_flight.is_empty();
            }
            Wanted::Publish(message) => {
                let head = self.users.heads.entry(message.room.clone()).or_default();
                *head = seq.max(*head);
                let one = &mut self.users.users[user];
                one.floor = one.floor.max(op);
                if one.remembered.len() < REMEMBERED && !one.remembered.iter().any(|other| other.call == call)
                {
                    one.remembered.push(message);
                }
                self.observe(What::Acknowledged {
                    user: id,
                    call,
                    seq,
                    op,
                    index,
                    time,
                    chain,
                    epoch,
                    duplicate,
                });
            }
            _ => {}
        }
    }

    fn on_page(&mut self, place: Place, call: CallId, answer: AnswerHead, messages: Vec<SeenMessage>) {
        let Some((user, Call { what, .. })) = self.finish(place, call) else { return };
        let id = self.users.users[user].id;
        let AnswerHead { error, epoch, first, head, .. } = answer;
        let (Wanted::History { room, .. } | Wanted::CatchUp { room, .. } | Wanted::Subscribe { room, .. }) =
            &what
        else {
            return;
        };
        if let Some(it) = self.users.users[user].subscriptions.get_mut(room) {
            it.paging = false;
        }
        if let Some(error) = error {
            return self.observe(What::Refused { user: id, call, error });
        }
        let room = room.clone();
        self.observe(What::HistoryRead {
            user: id,
            call,
            room: room.clone(),
            first,
            head,
            messages: messages.clone(),
        });
        match what {
            Wanted::Subscribe { mode, .. } => {
                let next = match mode {
                    Mode::Now => head + 1,
                    Mode::Since(seq) => (seq + 1).min(head + 1).max(first),
                    Mode::Last(count) => (head + 1).saturating_sub(count).max(first),
                };
                let it = Subscription { epoch, next, paging: false, heard: self.now };
                self.users.users[user].subscriptions.insert(room.clone(), it);
                self.observe(What::Subscribed { user: id, room: room.clone(), epoch, next });
                if next <= head {
                    self.catch_up(user, &room);
                }
            }
            Wanted::CatchUp { .. } => {
                messages.iter().for_each(|message| self.on_message(user, message));
                let behind =
                    self.users.users[user].subscriptions.get(&room).is_some_and(|it| it.next <= head);
                if behind && !messages.is_empty() {
                    self.catch_up(user, &room);
                }
            }
            _ => {}
        }
    }

    /// A message of a room that the user may follow: the next one is delivered, a later one shows a gap.
    fn on_message(&mut self, user: usize, message: &SeenMessage) {
        let one = &mut self.users.users[user];
        let id = one.id;
        let Some(it) = one.subscriptions.get_mut(&message.room) else { return };
        it.heard = self.now;
        if message.seq > it.next {
            return self.catch_up(user, &message.room);
        }
        if message.seq == it.next {
            it.next += 1;
            self.observe(What::Delivered { user: id, message: message.clone() });
        }
    }
}
