//! The edge as a client of its shard: one replication session, requests in order, each sent until it is answered.
//!
//! The one law: **an acknowledgement follows from a reply, never from a send** (H43, H47). What was sent and not
//! answered is sent again unchanged, to whichever replica leads; after an eviction it is sent in a new session, in
//! the same order: the keys in it make that safe (H45).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use zerocopy::IntoBytes;

use crate::io::{EdgeEffect, EdgeEffects};
use crate::pool::{Draft, Message, Pool};
use crate::types::{Address, ClusterId, ConnectionId, EdgeId, Instant, ReplicaId, ShardId};
use crate::vsr::membership::Members;
use crate::wire::chat::{COMMANDS_MAX, Command as ChatCommand, OUTCOME};
use crate::wire::entry::{REQUEST_HEADER, RequestHeader, RequestKind};
use crate::wire::frame::{Command, Frame, FrameHeader};

/// A request that is unanswered after this at the least, and after [`RESEND_MAX`] at most, may be lost.
const RESEND: Duration = Duration::from_millis(60);
const RESEND_MAX: Duration = Duration::from_millis(500);
/// Unanswered for so many times as long as answers usually take, a request is taken for lost.
const LATE: u32 = 4;
/// Who leads is asked again after this, and then later and later. Questions are small, requests are not: these are
/// sent again when whoever leads has answered, and not into the dark.
const SEARCH: Duration = Duration::from_millis(10);
const SEARCH_MAX: Duration = Duration::from_millis(80);
/// Requests that wait for the window, in windows.
const WAITING_WINDOWS: usize = 2;

/// Who waits for the outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) connection: ConnectionId,
    /// The client's command id; zero where the client has none.
    pub(super) id: u32,
    pub(super) what: Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Publish,
    Erase,
    RoomOpen,
    /// The line protocol's `join`: subscribe once the room is there.
    Join,
    /// Presence: nobody is told.
    Nobody,
}

/// Commands on their way: filling, waiting for the window, or sent.
#[derive(Debug)]
struct Request {
    number: u64,
    digest: u128,
    /// Request header and commands. While it is being filled, a draft.
    payload: Message,
    waiters: Vec<Waiter>,
    sent: Instant,
    /// Sent more than once: its answer tells nothing of how long answers take.
    again: bool,
    since: Instant,
}

/// Asking who leads.
#[derive(Debug)]
struct Search {
    at: Instant,
    wait: Duration,
}

#[derive(Debug)]
struct Filling {
    draft: Draft,
    waiters: Vec<Waiter>,
    since: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    cluster: ClusterId,
    shard: ShardId,
    edge: EdgeId,
    /// The shard's replicas, as of this config number.
    pub(super) replicas: Vec<ReplicaId>,
    members: u32,
    window: usize,
    request_max: usize,
    /// Commands of one request: its outcomes must fit a reply.
    commands_max: usize,
    /// Whom we take for the primary, and since which view.
    pub(super) primary: ReplicaId,
    pub(super) view: u64,
    /// The op of the registration; zero while there is none.
    pub(super) session: u64,
    registered_at: Option<Instant>,
    /// The primary is gone or owes an answer, or another one was heard of, and it has not said since that it leads.
    search: Option<Search>,
    /// How long answers usually take.
    answered_in: Duration,
    /// How often in a row something was sent again and nothing was answered.
    in_vain: u32,
    next_number: u64,
    filling: Option<Filling>,
    waiting: VecDeque<Request>,
    sent: VecDeque<Request>,
    spare: Vec<Vec<Waiter>>,
}

/// What a frame of the shard meant for the edge.
#[derive(Debug)]
pub(super) enum Answered {
    Nothing,
    /// The oldest request was answered: its waiters, in the order of the outcomes.
    Reply {
        waiters: Vec<Waiter>,
        since: Instant,
    },
    /// There is a new session: presence must be reported again.
    Registered,
}

impl Session {
    pub(super) fn new(config: &super::EdgeConfig) -> Self {
        let window = usize::from(config.limits.window.max(1));
        Self {
            cluster: config.cluster,
            shard: config.shard,
            edge: config.edge,
            replicas: config.replicas.clone(),
            members: 0,
            window,
            request_max: config.limits.request as usize,
            commands_max: COMMANDS_MAX.min(config.limits.request as usize / OUTCOME),
            primary: ReplicaId(0),
            view: 0,
            session: 0,
            registered_at: None,
            search: None,
            answered_in: Duration::ZERO,
            in_vain: 0,
            next_number: 1,
            filling: None,
            waiting: VecDeque::with_capacity(WAITING_WINDOWS * window + 1),
            sent: VecDeque::with_capacity(window),
            spare: Vec::new(),
        }
    }

    pub(super) fn address(&self, replica: ReplicaId) -> Address {
        Address::Replica { shard: self.shard, replica }
    }

    pub(super) fn frame(&self, command: Command) -> Frame {
        let mut header = FrameHeader::new(command, self.cluster, self.shard);
        header.view = self.view.into();
        header.config = self.members.into();
        Frame { header, payload: None }
    }

    /// When something must be asked again if nothing comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let search = self.search.as_ref().map(|search| search.at);
        if self.session == 0 {
            let again = self.registered_at.map_or(Instant(0), |at| at.after(self.patience()));
            return Some(search.map_or(again, |search| search.min(again)));
        }
        let overdue = self.sent.front()?.sent.after(self.patience());
        Some(search.unwrap_or(overdue))
    }

    /// How long to wait for an answer: longer each time that none came, so that a shard in trouble is not drowned.
    fn patience(&self) -> Duration {
        let first = (self.answered_in * LATE).max(RESEND);
        (first * (1 << self.in_vain.min(4))).min(RESEND_MAX)
    }

    /// Requests that were sent and not answered.
    pub(super) fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// Requests that wait for the window, and those in flight.
    pub(super) fn holds(&self) -> (usize, usize) {
        (self.waiting.len(), self.sent.len())
    }

    /// The most of both. One more may wait: the one that was being filled.
    pub(super) fn limits(&self) -> (usize, usize) {
        (WAITING_WINDOWS * self.window + 1, self.window)
    }

    /// Appends a command to the request that is being filled; false when there is no room for it anywhere.
    pub(super) fn push(
        &mut self,
        command: &ChatCommand<'_>,
        waiter: Waiter,
        now: Instant,
        pool: &Pool,
    ) -> bool {
        let size = command.size();
        let fits = |filling: &Filling| {
            filling.draft.len() + size <= self.request_max && filling.waiters.len() < self.commands_max
        };
        if self.filling.as_ref().is_some_and(|filling| !fits(filling)) {
            if self.waiting.len() >= WAITING_WINDOWS * self.window {
                return false;
            }
            self.close_filling(None);
        }
        if self.filling.is_none() {
            let Some(mut draft) = pool.draft(self.request_max) else { return false };
            draft.resize(REQUEST_HEADER);
            let waiters = self.spare.pop().unwrap_or_default();
            self.filling = Some(Filling { draft, waiters, since: now });
        }
        let filling = self.filling.as_mut().expect("just made");
        if command.encode(&mut filling.draft).is_err() {
            return false;
        }
        filling.waiters.push(waiter);
        true
    }

    /// Ends filling; with a number if the request leaves right now, so that its bytes are written once.
    fn close_filling(&mut self, number: Option<u64>) {
        let Some(Filling { mut draft, waiters, since }) = self.filling.take() else { return };
        let digest = RequestHeader::digest_of(&draft.bytes()[REQUEST_HEADER..]);
        if let Some(number) = number {
            let header = self.header(number, draft.len() - REQUEST_HEADER, digest);
            draft.bytes_mut()[..REQUEST_HEADER].copy_from_slice(header.as_bytes());
            self.next_number = number + 1;
        }
        let (payload, number) = (draft.seal(), number.unwrap_or(0));
        self.waiting.push_back(Request {
            number,
            digest,
            payload,
            waiters,
            sent: since,
            again: false,
            since,
        });
    }

    fn header(&self, number: u64, size: usize, digest: u128) -> RequestHeader {
        RequestHeader {
            client: self.edge.0.into(),
            session: self.session.into(),
            number: number.into(),
            size: u32::try_from(size).expect("bounded by the request").into(),
            kind: (RequestKind::Commands as u32).into(),
            digest: digest.into(),
        }
    }

    /// Sends what the window has room for.
    pub(super) fn turn_ended(&mut self, now: Instant, pool: &Pool, effects: &mut EdgeEffects) {
        if self.session == 0 {
            return;
        }
        while self.sent.len() < self.window {
            if self.waiting.is_empty() {
                self.close_filling(Some(self.next_number));
            }
            let Some(mut request) = self.waiting.pop_front() else { return };
            if request.number == 0 && !self.renumber(&mut request, pool) {
                self.waiting.push_front(request);
                return;
            }
            (request.sent, request.again) = (now, false);
            effects.push(self.send(&request));
            self.sent.push_back(request);
        }
    }

    /// Gives a request its number in this session: its header is written anew, its commands stay.
    fn renumber(&mut self, request: &mut Request, pool: &Pool) -> bool {
        let Some(mut draft) = pool.draft(request.payload.len()) else { return false };
        let commands = &request.payload[REQUEST_HEADER..];
        let header = self.header(self.next_number, commands.len(), request.digest);
        draft.extend(header.as_bytes()).expect("measured");
        draft.extend(commands).expect("measured");
        request.payload = draft.seal();
        request.number = self.next_number;
        self.next_number += 1;
        true
    }

    fn send(&self, request: &Request) -> EdgeEffect {
        let mut frame = self.frame(Command::Request);
        frame.payload = Some(request.payload.clone());
        EdgeEffect::Send { to: self.address(self.primary), frame }
    }

    /// Gives the waiters of an answered request back, so that the next one does not allocate.
    pub(super) fn recycle(&mut self, mut waiters: Vec<Waiter>) {
        waiters.clear();
        self.spare.push(waiters);
    }

    pub(super) fn on_pong_client(
        &mut self,
        frame: &Frame,
        now: Instant,
        pool: &Pool,
        effects: &mut EdgeEffects,
    ) {
        let view = frame.header.view.get();
        let normal = frame.header.flags.get() & 1 == 1;
        let Ok(primary) = u16::try_from(frame.header.a.get()) else { return };
        if !normal || view < self.view || !self.replicas.contains(&ReplicaId(primary)) {
            return;
        }
        let other = self.primary != ReplicaId(primary);
        (self.view, self.primary) = (view, ReplicaId(primary));
        let itself = frame.header.from() == Some(self.address(self.primary));
        if itself && (other || self.search.is_some()) {
            self.search = None;
            self.in_vain = if other { 0 } else { self.in_vain + 1 };
            if self.session == 0 { self.register(now, pool, effects) } else { self.send_again(now, effects) }
        } else if other {
            self.begin_search(now);
        }
    }

    fn begin_search(&mut self, now: Instant) {
        if self.search.is_none() {
            self.search = Some(Search { at: now.after(SEARCH), wait: SEARCH });
        }
    }

    /// The members changed: whom to ask, and whom to follow.
    pub(super) fn on_members(&mut self, members: &Members, now: Instant) {
        if members.number > self.members && !members.is_unknown() {
            self.members = members.number;
            self.replicas = members.ids().collect();
            if !self.replicas.contains(&self.primary) {
                self.primary = self.replicas[0];
                self.begin_search(now);
            }
        }
    }

    /// The replica to turn to after another one.
    pub(super) fn next_replica(&self, after: ReplicaId) -> ReplicaId {
        let at = self.replicas.iter().position(|replica| *replica == after).map_or(0, |at| at + 1);
        self.replicas[at % self.replicas.len()]
    }

    /// A reply counts when it answers the oldest request of this session, by number and by digest (H46).
    pub(super) fn on_reply(&mut self, frame: &Frame, now: Instant) -> Answered {
        let header = &frame.header;
        let (number, session) = (header.a.get(), header.b.get());
        if number == 0 {
            if self.session != 0 || self.registered_at.is_none() || session == 0 {
                return Answered::Nothing;
            }
            (self.session, self.registered_at, self.next_number) = (session, None, 1);
            (self.search, self.in_vain) = (None, 0);
            return Answered::Registered;
        }
        let oldest = self.sent.front().is_some_and(|request| {
            session == self.session && request.number == number && request.digest == header.nonce.get()
        });
        if !oldest {
            return Answered::Nothing;
        }
        self.view = self.view.max(header.view.get());
        (self.search, self.in_vain) = (None, 0);
        let Request { waiters, since, sent, again, .. } = self.sent.pop_front().expect("looked at");
        if !again {
            self.answered_in = (self.answered_in * 7 + now.since(sent)) / 8;
        }
        Answered::Reply { waiters, since }
    }

    /// The shard no longer knows the session: everything unanswered waits for a new one, in the same order.
    ///
    /// A deposed primary that never executed the registration does not know the session either: what it says of an
    /// older view than we have heard of is not listened to. (Found by the simulator: the session lived, its numbers
    /// began anew, and nobody answered.)
    pub(super) fn on_eviction(&mut self, frame: &Frame) {
        let session = frame.header.a.get();
        if session != self.session || session == 0 || frame.header.view.get() < self.view {
            return;
        }
        (self.session, self.in_vain) = (0, 0);
        while let Some(mut request) = self.sent.pop_back() {
            request.number = 0;
            self.waiting.push_front(request);
        }
        self.waiting.iter_mut().for_each(|request| request.number = 0);
    }

    /// Registers, or asks who leads because an answer is late.
    pub(super) fn on_deadline(&mut self, now: Instant, pool: &Pool, effects: &mut EdgeEffects) {
        let patience = self.patience();
        let late = |at: Instant| now.since(at) >= patience;
        if self.session == 0 && self.registered_at.is_none_or(late) {
            if self.registered_at.is_some() {
                self.in_vain += 1;
                self.begin_search(now);
            }
            self.register(now, pool, effects);
            self.ping(effects);
        } else if let Some(search) = &mut self.search {
            if search.at <= now {
                search.wait = (search.wait * 2).min(SEARCH_MAX);
                search.at = now.after(search.wait);
                self.ping(effects);
            }
        } else if self.sent.front().is_some_and(|request| late(request.sent)) {
            self.begin_search(now);
            self.ping(effects);
        }
    }

    fn send_again(&mut self, now: Instant, effects: &mut EdgeEffects) {
        for at in 0..self.sent.len() {
            (self.sent[at].sent, self.sent[at].again) = (now, true);
            effects.push(self.send(&self.sent[at]));
        }
    }

    fn register(&mut self, now: Instant, pool: &Pool, effects: &mut EdgeEffects) {
        self.registered_at = Some(now);
        let Some(mut draft) = pool.draft(REQUEST_HEADER) else { return };
        let digest = RequestHeader::digest_of(&[]);
        let kind = (RequestKind::Register as u32).into();
        let header = RequestHeader { session: 0.into(), kind, ..self.header(0, 0, digest) };
        draft.extend(header.as_bytes()).expect("measured");
        let mut frame = self.frame(Command::Request);
        frame.payload = Some(draft.seal());
        effects.push(EdgeEffect::Send { to: self.address(self.primary), frame });
    }

    /// Renews the lease and asks every replica where it stands.
    pub(super) fn ping(&self, effects: &mut EdgeEffects) {
        for replica in self.replicas.iter().copied() {
            let mut frame = self.frame(Command::PingClient);
            frame.header.a = self.session.into();
            effects.push(EdgeEffect::Send { to: self.address(replica), frame });
        }
    }

    /// A replica's process is gone. If it led, somebody else soon will: ask until it is known who.
    pub(super) fn on_peer_reset(&mut self, address: Address, now: Instant, effects: &mut EdgeEffects) {
        if address == self.address(self.primary) {
            self.begin_search(now);
            self.ping(effects);
        }
    }
}
