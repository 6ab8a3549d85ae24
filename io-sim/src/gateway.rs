//! An edge reduced to its replication session: for worlds that look at replication alone.
//!
//! It speaks the frames that an edge speaks (register, requests in a window, follow, queries, leases), but its users
//! hand it calls instead of bytes. The one law: **a request is sent again unchanged until its reply comes**, to
//! whichever replica is thought to lead.

use std::collections::VecDeque;
use std::time::Duration;

use tigerchat_core::errors::ErrorCode;
use tigerchat_core::io::Network;
use tigerchat_core::pool::Pool;
use tigerchat_core::types::{Address, EdgeId, Instant, ReplicaId};
use tigerchat_core::wire::chat::{AnswerHead, Command as Chat, OUTCOME, Outcome, Query, RoomEvent};
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::entry::{REQUEST_HEADER, RequestHeader, RequestKind};
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};
use zerocopy::IntoBytes;

use crate::TENANT;
use crate::history::{CallId, SeenMessage};
use crate::observer::seen;
use crate::random::Random;
use crate::world::{CLUSTER, SHARD};

const RESEND: Duration = Duration::from_millis(60);
const PING: Duration = Duration::from_millis(300);
const FOLLOW: Duration = Duration::from_millis(800);
/// Calls that wait for a place in the window.
const WAITING_MAX: usize = 1024;

/// What a user asks of a gateway.
#[derive(Clone, Debug)]
pub enum Ask {
    /// An encoded command, and which call it is for.
    Command {
        call: CallId,
        command: Vec<u8>,
    },
    History {
        call: CallId,
        room: String,
        from: u64,
        floor: u64,
    },
}

/// What a gateway tells its users.
#[derive(Debug)]
pub enum Told {
    Outcome(CallId, Outcome),
    /// A page of history, and the commit number that answered.
    Page {
        call: CallId,
        commit: u64,
        answer: AnswerHead,
        messages: Vec<SeenMessage>,
    },
    /// A message, and the op that it came with.
    Message(u64, SeenMessage),
    /// A session began: presence must be reported again.
    Registered,
    /// Messages may have been missed.
    Missed,
}

#[derive(Debug)]
struct Request {
    number: u64,
    calls: Vec<CallId>,
    payload: Vec<u8>,
    sent: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Gateway {
    id: EdgeId,
    replicas: u16,
    window: u64,
    request_max: usize,
    pool: Pool,
    random: Random,
    counter: u64,
    session: Option<u64>,
    register_sent: Option<Instant>,
    number: u64,
    waiting: VecDeque<(CallId, Vec<u8>)>,
    requests: VecDeque<Request>,
    queries: VecDeque<(u128, Ask, Option<Instant>)>,
    view: u64,
    primary: ReplicaId,
    heard_primary: Instant,
    pinged: Option<Instant>,
    following: Option<Following>,
}

#[derive(Debug)]
struct Following {
    of: ReplicaId,
    nonce: u128,
    next: Option<(u64, u64)>,
    heard: Instant,
    renewed: Instant,
}

impl Gateway {
    #[must_use]
    pub fn new(id: EdgeId, replicas: u8, window: u8, request_max: usize, pool: Pool, random: Random) -> Self {
        Self {
            id,
            replicas: replicas.into(),
            window: window.into(),
            request_max,
            pool,
            random,
            counter: 0,
            session: None,
            register_sent: None,
            number: 0,
            waiting: VecDeque::new(),
            requests: VecDeque::new(),
            queries: VecDeque::new(),
            view: 0,
            primary: ReplicaId(0),
            heard_primary: Instant(0),
            pinged: None,
            following: None,
        }
    }

    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.session.is_some()
    }

    pub fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Command { call, command } if self.waiting.len() < WAITING_MAX => {
                self.waiting.push_back((call, command));
            }
            // The user asks again.
            Ask::Command { .. } => {}
            Ask::History { .. } => {
                if self.queries.len() < WAITING_MAX {
                    let nonce = u128::from(self.random.u64());
                    self.queries.push_back((nonce, ask, None));
                }
            }
        }
    }

    /// Sends what is due.
    pub fn turn(&mut self, now: Instant, io: &mut impl Network) {
        let due = |sent: Option<Instant>, after: Duration| sent.is_none_or(|sent| now.since(sent) >= after);
        if due(self.pinged, PING) {
            self.pinged = Some(now);
            let frame = self.frame(Command::PingClient, |header| header.a = self.session.unwrap_or(0).into());
            // Everybody hears it, so that a new primary is found.
            (0..self.replicas).for_each(|to| self.send(io, ReplicaId(to), frame.clone()));
        }
        if now.since(self.heard_primary) > 3 * PING {
            self.heard_primary = now;
            self.primary = ReplicaId((self.primary.0 + 1) % self.replicas);
        }
        if self.session.is_none() && due(self.register_sent, RESEND) {
            self.register_sent = Some(now);
            let payload = self.request(0, RequestKind::Register, &[]);
            self.send_request(io, &payload);
        }
        self.fill_window();
        self.send_requests(now, io);
        self.send_queries(now, io);
        self.follow(now, io);
    }

    /// When something may be due again.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Instant {
        now.after(RESEND / 2)
    }

    pub fn on_frame(&mut self, now: Instant, from: ReplicaId, frame: &Frame, told: &mut Vec<Told>) {
        let header = &frame.header;
        match header.command() {
            Command::PongClient => self.on_pong(now, from, frame),
            Command::Reply => self.on_reply(now, frame, told),
            // A deposed primary may know nothing of a session that began after it.
            Command::Eviction if header.view.get() >= self.view && Some(header.a.get()) == self.session => {
                self.forget_session();
            }
            Command::Committed => self.on_committed(now, from, frame, told),
            Command::Answer => self.on_answer(frame, told),
            _ => {}
        }
    }

    fn on_pong(&mut self, now: Instant, from: ReplicaId, frame: &Frame) {
        let header = &frame.header;
        if header.flags.get() & 1 == 0 || header.view.get() < self.view {
            return;
        }
        self.view = header.view.get();
        if let Ok(primary) = u16::try_from(header.a.get()) {
            self.primary = ReplicaId(primary % self.replicas);
        }
        if from == self.primary {
            self.heard_primary = now;
        }
    }

    fn on_reply(&mut self, now: Instant, frame: &Frame, told: &mut Vec<Told>) {
        let (number, session) = (frame.header.a.get(), frame.header.b.get());
        self.view = self.view.max(frame.header.view.get());
        self.heard_primary = now;
        if self.session.is_none() {
            if number == 0 && frame.header.nonce.get() == RequestHeader::digest_of(&[]) {
                (self.session, self.number) = (Some(session), 0);
                told.push(Told::Registered);
            }
            return;
        }
        if Some(session) != self.session {
            return;
        }
        let Some(at) = self.requests.iter().position(|request| request.number == number) else { return };
        if RequestHeader::digest_of(&self.requests[at].payload[REQUEST_HEADER..]) != frame.header.nonce.get()
        {
            return;
        }
        let request = self.requests.remove(at).expect("it was just found");
        let mut reader = Reader::new(frame.body());
        for call in request.calls {
            let outcome = Outcome::decode(&mut reader).expect("an outcome for each command");
            told.push(Told::Outcome(call, outcome));
        }
    }

    /// Whoever waits asks again, in the next session.
    fn forget_session(&mut self) {
        self.session = None;
        self.register_sent = None;
        // The old session's requests may have been executed: their keys tell.
        for request in std::mem::take(&mut self.requests).into_iter().rev() {
            let mut commands = Reader::new(&request.payload[REQUEST_HEADER..]);
            let mut again = Vec::new();
            for call in request.calls {
                let before = commands.rest();
                if commands.long().is_err() {
                    break;
                }
                let command = &before[..before.len() - commands.rest().len()];
                again.push((call, command.to_vec()));
            }
            again.into_iter().rev().for_each(|one| self.waiting.push_front(one));
        }
    }

    fn fill_window(&mut self) {
        if self.session.is_none() {
            return;
        }
        // The shard keeps the replies of the last window of numbers: whatever is unanswered must be among them.
        let oldest = |requests: &VecDeque<Request>, next| requests.front().map_or(next, |first| first.number);
        while self.number + 1 < oldest(&self.requests, self.number + 1) + self.window
            && !self.waiting.is_empty()
        {
            let (mut calls, mut commands) = (Vec::new(), Vec::new());
            while let Some((_, command)) = self.waiting.front() {
                let fits = REQUEST_HEADER + commands.len() + command.len() <= self.request_max
                    && (calls.len() + 1) * OUTCOME <= self.request_max;
                if !calls.is_empty() && !fits {
                    break;
                }
                let (call, command) = self.waiting.pop_front().expect("it was just there");
                calls.push(call);
                commands.extend_from_slice(&command);
            }
            self.number += 1;
            let payload = self.request(self.number, RequestKind::Commands, &commands);
            self.requests.push_back(Request { number: self.number, calls, payload, sent: None });
        }
    }

    fn request(&self, number: u64, kind: RequestKind, commands: &[u8]) -> Vec<u8> {
        let header = RequestHeader {
            client: self.id.0.into(),
            session: self.session.unwrap_or(0).into(),
            number: number.into(),
            size: u32::try_from(commands.len()).expect("small").into(),
            kind: (kind as u32).into(),
            digest: RequestHeader::digest_of(commands).into(),
        };
        let mut payload = header.as_bytes().to_vec();
        payload.extend_from_slice(commands);
        payload
    }

    fn send_requests(&mut self, now: Instant, io: &mut impl Network) {
        for at in 0..self.requests.len() {
            let request = &mut self.requests[at];
            if request.sent.is_none_or(|sent| now.since(sent) >= RESEND) {
                request.sent = Some(now);
                let payload = request.payload.clone();
                self.send_request(io, &payload);
            }
        }
    }

    fn send_request(&mut self, io: &mut impl Network, payload: &[u8]) {
        let mut frame = self.frame(Command::Request, |_| {});
        let Some(mut draft) = self.pool.draft(payload.len()) else { return };
        draft.extend(payload).expect("measured");
        frame.payload = Some(draft.seal());
        self.send(io, self.primary, frame);
    }

    fn send_queries(&mut self, now: Instant, io: &mut impl Network) {
        for at in 0..self.queries.len() {
            let (nonce, ask, sent) = &mut self.queries[at];
            let Ask::History { room, from, floor, .. } = ask else { continue };
            if sent.is_some_and(|sent| now.since(sent) < RESEND) {
                continue;
            }
            *sent = Some(now);
            let query = Query::History { tenant: TENANT, room, from: *from, limit: 20 };
            let (nonce, floor) = (*nonce, *floor);
            let Some(mut draft) = self.pool.draft(512) else { return };
            query.encode(&mut draft).expect("names are short");
            let mut frame = self.frame(Command::Query, |header| {
                header.nonce = nonce.into();
                header.op = floor.into();
            });
            frame.payload = Some(draft.seal());
            let to = u16::try_from(self.random.below(self.replicas.into())).expect("few replicas");
            self.send(io, ReplicaId(to), frame);
        }
    }

    fn on_answer(&mut self, frame: &Frame, told: &mut Vec<Told>) {
        let nonce = frame.header.nonce.get();
        let Some(at) = self.queries.iter().position(|(of, ..)| *of == nonce) else { return };
        let mut reader = Reader::new(frame.body());
        let answer = AnswerHead::decode(&mut reader).expect("an answer begins with its head");
        if answer.error == Some(ErrorCode::Behind) {
            return;
        }
        let Some((_, Ask::History { call, .. }, _)) = self.queries.remove(at) else { return };
        let messages = (0..answer.count).filter_map(|_| message(&mut reader)).collect();
        let commit = frame.header.op.get();
        told.push(Told::Page { call, commit, answer, messages });
    }

    fn follow(&mut self, now: Instant, io: &mut impl Network) {
        let lost = self.following.as_ref().is_none_or(|following| now.since(following.heard) > 2 * FOLLOW);
        if lost {
            // From any replica, and from where the last following ended.
            let of = ReplicaId(u16::try_from(self.random.below(self.replicas.into())).expect("few"));
            let next = self.following.as_ref().and_then(|following| following.next);
            let nonce = u128::from(self.random.u64());
            self.following = Some(Following { of, nonce, next, heard: now, renewed: Instant(0) });
        }
        let Some(following) = &mut self.following else { return };
        let pause = if following.next.is_some() { FOLLOW } else { RESEND };
        if following.renewed == Instant(0) || now.since(following.renewed) >= pause {
            following.renewed = now;
            let (of, nonce) = (following.of, following.nonce);
            let from = following.next.map_or(0, |(op, _)| op);
            let frame = self.frame(Command::Follow, |header| {
                header.op = from.into();
                header.nonce = nonce.into();
            });
            self.send(io, of, frame);
        }
    }

    fn on_committed(&mut self, now: Instant, from: ReplicaId, frame: &Frame, told: &mut Vec<Told>) {
        let header = &frame.header;
        let Some(following) = &mut self.following else { return };
        if following.of != from || header.nonce.get() != following.nonce {
            return;
        }
        following.heard = now;
        let (first, last, part) = (header.a.get(), header.op.get(), header.b.get());
        let (reset, partial) = (header.flags.get() & 1 != 0, header.flags.get() & 2 != 0);
        if reset {
            following.next = Some((first, 0));
            return told.push(Told::Missed);
        }
        let expected = *following.next.get_or_insert((first, part));
        if (first, part) > expected {
            // A gap: from where it begins.
            following.renewed = Instant(0);
            return;
        }
        if (last, part) < expected {
            return;
        }
        following.next = Some(if partial { (last, part + 1) } else { (last + 1, 0) });
        let mut reader = Reader::new(frame.body());
        while !reader.is_empty() {
            match RoomEvent::decode(&mut reader) {
                Ok(RoomEvent::Message(message)) => told.push(Told::Message(message.op, seen(message))),
                Ok(_) => {}
                Err(malformed) => panic!("a committed frame is {malformed:?}"),
            }
        }
    }

    fn frame(&self, command: Command, fill: impl FnOnce(&mut FrameHeader)) -> Frame {
        let mut header = FrameHeader::new(command, CLUSTER, SHARD);
        fill(&mut header);
        Frame { header, payload: None }
    }

    fn send(&mut self, io: &mut impl Network, to: ReplicaId, mut frame: Frame) {
        self.counter += 1;
        let (from, to) = (Address::Edge(self.id), Address::Replica { shard: SHARD, replica: to });
        frame.seal(from, to, self.id.0, self.counter);
        io.send(from, to, frame);
    }
}

fn message(reader: &mut Reader<'_>) -> Option<SeenMessage> {
    match RoomEvent::decode(reader) {
        Ok(RoomEvent::Message(message)) => Some(seen(message)),
        _ => None,
    }
}

/// An encoded command.
#[must_use]
pub fn encoded(command: &Chat<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(command.size());
    command.encode(&mut bytes).expect("a Vec is never full");
    bytes
}
