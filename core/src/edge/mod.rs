//! The edge gateway: clients on one side, the shard on the other, nothing but soft state between.
//!
//! The one law: **a client hears of what is committed and of nothing else, each message of a room once and in
//! order** (H51 to H55). A subscription is a cursor: a live event is delivered when it is the next one, and
//! otherwise the cursor reads on from history until it meets the live stream.
//!
//! Rooms of this house: `session` (requests to the shard), `feed` (the committed stream), `reads` (questions to the
//! shard), `rooms` (subscriptions, fan-out, presence), `serve` (what clients ask), `command` (their bytes),
//! `text` (ours), `connection`, `auth`.

mod auth;
mod command;
mod connection;
mod erase;
mod feed;
pub mod loads;
mod page;
mod reads;
mod rooms;
mod serve;
mod session;
mod text;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use self::connection::Connection;
use self::feed::{Feed, Step};
use self::reads::Reads;
use self::rooms::Rooms;
use self::session::{Answered, Session};
use crate::errors::ErrorCode;
use crate::io::{CloseCode, EdgeEffect, EdgeEffects, EdgeEvent, Transport};
use crate::pool::{Class, Pool};
use crate::types::{Address, ClusterId, ConnectionId, EdgeId, Instant, Now, ReplicaId, ShardId, TenantId};
use crate::vsr::membership::Members;
use crate::wire::codec::Reader;
use crate::wire::frame::{Command, Frame};

/// Content type of a body that came as JSON.
pub(crate) use crate::wire::chat::JSON;
/// Content type of a body that came as a line.
const PLAIN: &str = "text/plain";

/// Everything an edge is told at its start.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    pub cluster: ClusterId,
    /// Fresh for each process start.
    pub edge: EdgeId,
    pub shard: ShardId,
    /// How many replicas the shard has: `Address::Replica { shard, replica: 0.. }`.
    pub replicas: Vec<ReplicaId>,
    /// Who may come in: static tokens, compared in constant time.
    pub tokens: Vec<TokenEntry>,
    /// `dev`: a token `demo:NAME` is let in as NAME, and a line client without a login as a guest.
    pub demo: bool,
    pub limits: EdgeLimits,
}

/// A static token of a user.
#[derive(Clone)]
pub struct TokenEntry {
    pub tenant: TenantId,
    pub user: String,
    /// SHA-256 of the token: the token itself is never kept.
    pub digest: [u8; 32],
}

impl core::fmt::Debug for TokenEntry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "TokenEntry({})", self.user)
    }
}

/// What one edge holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeLimits {
    pub connections: u32,
    /// Bytes of one client frame or line.
    pub frame: u32,
    pub body: u32,
    /// Commands in flight of one connection.
    pub inflight: u32,
    /// Subscriptions of one connection.
    pub subscriptions: u32,
    /// Bytes that wait for one connection's socket before its rooms fall back to lagging.
    pub send_queue: u32,
    /// Bytes of one request to the shard (the shard's entry size less headers).
    pub request: u32,
    /// Requests in flight to the shard: the session's window.
    pub window: u8,
    pub ping: Duration,
}

impl EdgeLimits {
    /// Bytes that may wait for one connection's socket before it is closed: pages that were asked for before its queue
    /// was full have room, a client that asks and never reads has not.
    #[must_use]
    pub fn unread(&self) -> usize {
        16 * self.send_queue as usize
    }

    /// For a shard whose largest entry has `entry_max` bytes and whose sessions have that window.
    #[must_use]
    pub fn for_shard(entry_max: usize, window: u8) -> Self {
        let request = u32::try_from(entry_max - crate::wire::entry::ENTRY_HEADER).unwrap_or(u32::MAX);
        Self {
            connections: 10_000,
            frame: 64 * 1024,
            body: 16 * 1024,
            inflight: 1024,
            subscriptions: 200,
            send_queue: 256 * 1024,
            request,
            window,
            ping: Duration::from_secs(25),
        }
    }

    /// The pool that an edge with these limits needs. `incoming` buffers of each class are for frames of the shard
    /// on their way in; the small class is what clients' replies are gathered in.
    #[must_use]
    pub fn pool_classes(&self, incoming: usize) -> Vec<Class> {
        let requests = 4 * usize::from(self.window) + 8;
        let request = self.request as usize + crate::wire::entry::ENTRY_HEADER;
        let slot = request.next_multiple_of(4096);
        let mut classes = alloc::vec![
            Class { size: 512, count: 16 * 1024 + incoming },
            Class { size: 4096, count: 2048 + incoming },
            Class { size: 16 * 1024, count: 256 + incoming },
        ];
        classes.retain(|class| class.size < slot);
        classes.push(Class { size: slot, count: requests + 64 + incoming });
        classes
    }
}

/// Why an edge wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeTimer {
    /// Requests, registrations and reads that were not answered.
    Resend,
    /// The following, and with it the session's lease.
    Follow,
    /// Clients that have been silent.
    Ping,
}

/// What an edge has done, for metrics and benchmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeStats {
    pub connections: u64,
    pub subscriptions: u64,
    pub requests_in_flight: u64,
    /// Commands answered, and the nanoseconds from their arrival to their reply, summed over requests.
    pub commands: u64,
    pub requests: u64,
    pub request_nanos: u64,
    /// Messages handed to subscribers.
    pub deliveries: u64,
    /// Frames of replicas or clients that were dropped without effect.
    pub ignored: u64,
    /// Subscriptions that fell back to reading from history.
    pub lagged: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Edge {
    config: EdgeConfig,
    pool: Pool,
    random: ChaCha8Rng,
    now: Now,
    connections: BTreeMap<ConnectionId, Connection>,
    rooms: Rooms,
    session: Session,
    members: Option<Members>,
    feed: Feed,
    reads: Reads,
    follow_at: Instant,
    ping_at: Instant,
    /// Connections to look after when the turn ends.
    touched: Vec<ConnectionId>,
    /// Buffers that are reused.
    scratch: Vec<u8>,
    shared: Vec<u8>,
    guests: u64,
    /// Who came or went, unknown to the shard: reports that found no room.
    unreported: BTreeSet<(TenantId, String, String)>,
    stats: EdgeStats,
}

const PING_EVERY: Duration = Duration::from_secs(1);
/// A client whose socket takes nothing for so long is let go.
const STUCK: Duration = Duration::from_secs(30);

impl Edge {
    #[must_use]
    pub fn new(config: EdgeConfig, pool: Pool, seed: [u8; 32], now: Now) -> Self {
        Self {
            session: Session::new(&config),
            members: None,
            config,
            pool,
            random: ChaCha8Rng::from_seed(seed),
            now,
            connections: BTreeMap::new(),
            rooms: Rooms::default(),
            feed: Feed::new(now.mono),
            reads: Reads::default(),
            follow_at: now.mono,
            ping_at: now.mono,
            touched: Vec::new(),
            scratch: Vec::new(),
            shared: Vec::new(),
            guests: 0,
            unreported: BTreeSet::new(),
            stats: EdgeStats::default(),
        }
    }

    /// One event. Effects are appended.
    pub fn on_event(&mut self, now: Now, event: EdgeEvent<'_>, effects: &mut EdgeEffects) {
        self.now = now;
        match event {
            EdgeEvent::Opened { connection, transport, token } => {
                self.opened(connection, transport, token, effects);
            }
            EdgeEvent::Frame { connection, bytes } => self.on_bytes(connection, bytes, effects),
            EdgeEvent::TooLarge { connection } => {
                self.heard(connection);
                self.say_error(connection, 0, ErrorCode::FrameTooLarge, 0, effects);
                self.close_if_http(connection, effects);
            }
            EdgeEvent::Drained { connection, bytes } => self.drained(connection, bytes),
            EdgeEvent::Closed { connection } => self.closed(connection),
            EdgeEvent::Received { from, frame } => self.on_frame(from, &frame, effects),
            EdgeEvent::PeerReset(address) => {
                if address == self.session.address(self.feed.replica) {
                    self.feed.move_on(self.session.next_replica(self.feed.replica), now.mono);
                    self.follow_at = now.mono;
                }
                self.session.on_peer_reset(address, now.mono, effects);
            }
            EdgeEvent::Elapsed => self.on_timers(effects),
        }
    }

    /// All events of a turn were seen: requests and replies that waited for company leave now.
    pub fn turn_ended(&mut self, now: Now, effects: &mut EdgeEffects) {
        self.now = now;
        if self.feed.follow_due {
            self.follow(effects);
        }
        self.session.turn_ended(now.mono, &self.pool, effects);
        let mut touched = core::mem::take(&mut self.touched);
        for connection in touched.drain(..) {
            self.read_on(connection, effects);
            let Some(client) = self.connections.get_mut(&connection) else { continue };
            client.flush(connection, effects);
            client.touched = false;
            if client.broken || client.queued > self.config.limits.unread() {
                self.close(connection, CloseCode::SLOW_CONSUMER, effects);
            }
        }
        // Keeps its capacity for the next turn, and what was touched while it was worked through.
        touched.append(&mut self.touched);
        self.touched = touched;
    }

    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, EdgeTimer)> {
        let again = [self.session.deadline(), self.reads.deadline()].into_iter().flatten().min();
        let again = again.map(|at| (at, EdgeTimer::Resend));
        [again, Some((self.follow_at, EdgeTimer::Follow)), Some((self.ping_at, EdgeTimer::Ping))]
            .into_iter()
            .flatten()
            .min()
    }

    #[must_use]
    pub fn address(&self) -> Address {
        Address::Edge(self.config.edge)
    }

    #[must_use]
    pub fn config(&self) -> &EdgeConfig {
        &self.config
    }

    #[must_use]
    pub fn stats(&self) -> EdgeStats {
        let subscriptions = self.connections.values().map(|client| client.subscriptions.len() as u64).sum();
        EdgeStats {
            connections: self.connections.len() as u64,
            subscriptions,
            requests_in_flight: self.session.in_flight() as u64,
            ..self.stats
        }
    }

    /// Whether the session is registered and the feed runs: what a readiness probe asks.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.session.session != 0 && self.feed.cursor > 0
    }

    /// The view and the primary as last heard.
    #[must_use]
    pub fn leader(&self) -> (u64, ReplicaId) {
        (self.session.view, self.session.primary)
    }

    /// The edge is about to stop: every client is told, and let go.
    pub fn shutdown(&mut self, now: Now, effects: &mut EdgeEffects) {
        self.now = now;
        let connections: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for connection in connections {
            self.frame_for(
                connection,
                |out, transport| match transport {
                    Transport::Line => text::text(out, "* the edge is about to stop"),
                    _ => text::text(
                        out,
                        "{\"push\":{\"going_away\":{\"code\":3000,\"delay_ms\":100,\"jitter_ms\":1000}}}",
                    ),
                },
                effects,
            );
            self.close(connection, CloseCode::GOING_AWAY, effects);
        }
    }

    fn on_frame(&mut self, from: Address, frame: &Frame, effects: &mut EdgeEffects) {
        let header = &frame.header;
        let ours = header.cluster.get() == self.config.cluster.0
            && header.from() == Some(from)
            && header.to() == Some(self.address())
            && matches!(from, Address::Replica { shard, .. } if shard == self.config.shard);
        if !ours {
            self.stats.ignored += 1;
            return;
        }
        match header.command() {
            Command::Reply => match self.session.on_reply(frame, self.now.mono) {
                Answered::Nothing => self.stats.ignored += 1,
                Answered::Registered => self.report_presence(),
                Answered::Reply { waiters, since } => self.answered(frame, waiters, since, effects),
            },
            Command::PongClient => {
                self.session.on_pong_client(frame, self.now.mono, &self.pool, effects);
            }
            Command::Eviction => self.session.on_eviction(frame),
            Command::Committed => match self.feed.on_committed(frame, self.now.mono) {
                Step::Take => self.on_events(frame.body(), header.op.get(), effects),
                Step::Reset => self.feed_was_reset(),
                Step::Gap => self.feed.follow_due = true,
                Step::Old => {}
            },
            Command::Answer => self.on_answer(frame, effects),
            Command::Members => self.on_members(frame),
            _ => self.stats.ignored += 1,
        }
    }

    fn on_members(&mut self, frame: &Frame) {
        let Ok(members) = Members::decode(&mut Reader::new(frame.body())) else {
            self.stats.ignored += 1;
            return;
        };
        self.session.on_members(&members, self.now.mono);
        if self.members.as_ref().is_none_or(|known| known.number < members.number) {
            self.members = Some(members);
        }
    }

    /// The shard's members, once there are others than it was started with.
    #[must_use]
    pub fn members(&self) -> Option<&Members> {
        self.members.as_ref()
    }

    fn on_timers(&mut self, effects: &mut EdgeEffects) {
        let now = self.now.mono;
        while let Some((_, timer)) = self.deadline().filter(|(at, _)| *at <= now) {
            match timer {
                EdgeTimer::Resend => {
                    self.session.on_deadline(now, &self.pool, effects);
                    self.ask_again(effects);
                }
                EdgeTimer::Follow => {
                    if self.feed.is_silent(now) {
                        self.feed.move_on(self.session.next_replica(self.feed.replica), now);
                    }
                    self.feed.follow_due = true;
                    self.session.ping(effects);
                    self.follow_at = now.after(feed::RENEW);
                }
                EdgeTimer::Ping => {
                    self.look_after_clients(effects);
                    self.ping_at = now.after(PING_EVERY.min(self.config.limits.ping));
                }
            }
        }
    }

    fn follow(&mut self, effects: &mut EdgeEffects) {
        let nonce = u128::from(self.random.next_u64()) + 1;
        let mut frame = self.session.frame(Command::Follow);
        frame.header.op = self.feed.wanted().into();
        frame.header.nonce = nonce.into();
        self.feed.followed(nonce);
        effects.push(EdgeEffect::Send { to: self.session.address(self.feed.replica), frame });
    }

    fn touch(&mut self, connection: ConnectionId) {
        if let Some(client) = self.connections.get_mut(&connection)
            && !client.touched
        {
            client.touched = true;
            self.touched.push(connection);
        }
    }

    /// Writes one frame to one client.
    fn frame_for(
        &mut self,
        connection: ConnectionId,
        write: impl FnOnce(&mut Vec<u8>, Transport),
        effects: &mut EdgeEffects,
    ) {
        self.touch(connection);
        let Some(client) = self.connections.get_mut(&connection) else { return };
        text::begin(&mut self.scratch);
        write(&mut self.scratch, client.transport);
        let bytes = text::end(&mut self.scratch, client.transport);
        client.say(connection, bytes, &self.pool, effects);
    }

    fn say_error(
        &mut self,
        to: ConnectionId,
        id: u32,
        error: ErrorCode,
        seq: u64,
        effects: &mut EdgeEffects,
    ) {
        self.frame_for(to, |out, transport| text::error(out, transport, id, error, seq), effects);
    }

    /// Lets a client go; everything said to it goes out first.
    fn close(&mut self, connection: ConnectionId, why: CloseCode, effects: &mut EdgeEffects) {
        if let Some(client) = self.connections.get_mut(&connection) {
            client.flush(connection, effects);
            effects.push(EdgeEffect::Close { to: connection, why });
            self.closed(connection);
        }
    }
}
