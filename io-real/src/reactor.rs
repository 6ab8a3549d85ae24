//! One loop: sockets, disks and deadlines of one process (or of one thread of `dev`), around one [`Node`].
//!
//! The one law: **one turn per wake-up**: everything that arrived goes to the node together, everything it wants goes
//! out together, with one system call per socket and one flush per file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as StdInstant, SystemTime, UNIX_EPOCH};

use mio::{Events, Poll, Token, Waker};
use tigerchat_core::io::{
    Clients as ClientsTrait, Clock, CloseCode, DiskOp, EdgeEvent, Event, Fatal, FileId, Io, Network, Storage,
};
use tigerchat_core::node::{Node, NodeEvent};
use tigerchat_core::pool::{Message, Pool};
use tigerchat_core::types::{Address, ConnectionId, Instant, Now, ShardId, UnixNanos};
use tigerchat_core::vsr::membership::Members;
use tigerchat_core::wire::frame::Frame;

use crate::clients::{self, Clients, Said, Site, Turn};
use crate::disk::{Completion, Disk};
use crate::peers::{self, Arrived, Peers};

const WAKE: Token = Token(0);
const PEERS: Token = Token(1);
const WS: Token = Token(2);
const LINE: Token = Token(3);
/// What `/metrics` shows is this old at most.
const METRICS: Duration = Duration::from_millis(500);
/// A loop looks around at least this often.
const IDLE: Duration = Duration::from_millis(500);
/// Clients are given so long to take what was said to them at the end.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long a process that stops may take to give away what it leads.
const LEAVING: Duration = Duration::from_millis(200);

/// Where a loop listens and whom it knows.
#[derive(Debug)]
pub struct Wiring {
    pub me: Address,
    pub listener: Option<StdListener>,
    /// Replicas, their sockets, and whether this loop dials them.
    pub known: Vec<(Address, std::net::SocketAddr, bool)>,
    pub payload_max: usize,
    pub ws: Option<StdListener>,
    pub line: Option<StdListener>,
    pub frame_max: usize,
    pub connections_max: usize,
    pub site: Site,
}

/// Stops a loop from outside.
#[derive(Clone, Debug)]
pub struct Stopper {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Stopper {
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.waker.wake();
    }
}

#[derive(Debug)]
pub struct Reactor {
    poll: Poll,
    node: Node,
    outside: Outside,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    arrived: Vec<Arrived>,
    turn: Turn,
    measured: StdInstant,
}

/// Everything that is not the node.
#[derive(Debug)]
struct Outside {
    started: StdInstant,
    now: Now,
    disks: BTreeMap<FileId, Disk>,
    peers: Peers,
    clients: Clients,
    stopped: Option<Fatal>,
}

impl Clock for Outside {
    fn now(&self) -> Now {
        self.now
    }
}

impl Network for Outside {
    fn send(&mut self, _from: Address, to: Address, frame: Frame) {
        self.peers.send(to, frame);
    }
}

impl Storage for Outside {
    fn submit(&mut self, file: FileId, op: DiskOp) {
        if let Some(disk) = self.disks.get_mut(&file) {
            disk.submit(op);
        }
    }

    fn turn_ended(&mut self) {
        self.disks.values_mut().for_each(Disk::turn_ended);
    }
}

impl ClientsTrait for Clients {
    fn send(&mut self, to: ConnectionId, bytes: Message) {
        Self::send(self, to, bytes);
    }

    fn close(&mut self, to: ConnectionId, why: CloseCode) {
        Self::close(self, to, why);
    }
}

impl Io for Outside {
    fn clients(&mut self) -> &mut dyn ClientsTrait {
        &mut self.clients
    }

    fn members_changed(&mut self, shard: ShardId, members: &Members) {
        let me = self.peers.me();
        for member in members.list() {
            let address = Address::Replica { shard, replica: member.id };
            let socket = std::str::from_utf8(&member.address).ok().and_then(|text| text.parse().ok());
            let socket = socket.filter(|socket: &std::net::SocketAddr| socket.ip().is_loopback());
            let dials = match me {
                Address::Replica { replica, .. } => member.id > replica,
                Address::Edge(_) => true,
            };
            if let Some(socket) = socket.filter(|_| address != me) {
                self.peers.learn(address, socket, dials);
            }
        }
        self.peers.keep(|address| match address {
            Address::Replica { replica, .. } => members.get(replica).is_some(),
            Address::Edge(_) => true,
        });
    }

    fn stop(&mut self, _file: FileId, why: Fatal) {
        self.stopped = Some(why);
    }
}

/// Reads both clocks; monotonic time counts from the start of the loop.
fn read_clocks(started: StdInstant) -> Now {
    let mono = Instant(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { mono, wall: UnixNanos(u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX)) }
}

impl Reactor {
    /// Makes a loop without a state machine yet: see [`Self::add_replica`] and [`Self::set_edge`].
    pub fn new(wiring: Wiring, pool: &Pool) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let Wiring { me, listener, known, payload_max, ws, line, frame_max, connections_max, site } = wiring;
        let peers = Peers::new(me, pool.clone(), payload_max, listener, known, poll.registry(), PEERS)?;
        let (ws, line) = (ws.map(|one| (one, WS)), line.map(|one| (one, LINE)));
        let clients = Clients::new(ws, line, frame_max, connections_max, site, poll.registry())?;
        let started = StdInstant::now();
        let now = read_clocks(started);
        let outside = Outside { started, now, disks: BTreeMap::new(), peers, clients, stopped: None };
        let stop = Arc::new(AtomicBool::new(false));
        let (node, arrived, turn) = (Node::new(), Vec::new(), Turn::default());
        Ok(Self { poll, node, outside, stop, waker, arrived, turn, measured: started })
    }

    pub fn stopper(&self) -> Stopper {
        Stopper { stop: Arc::clone(&self.stop), waker: Arc::clone(&self.waker) }
    }

    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    pub fn now(&self) -> Now {
        self.outside.now
    }

    /// Adds a replica on an open file.
    pub fn add_replica(
        &mut self,
        file: FileId,
        disk: Disk,
        replica: tigerchat_core::vsr::replica::Replica<tigerchat_core::chat::Chat>,
        effects: tigerchat_core::io::Effects,
    ) {
        self.outside.disks.insert(file, disk);
        self.node.add_replica(file, replica, effects, &mut self.outside);
    }

    pub fn set_edge(&mut self, edge: tigerchat_core::edge::Edge) {
        self.node.set_edge(edge);
    }

    /// Runs until told to stop, or until the replica can't go on.
    pub fn run(mut self, mut every_turn: impl FnMut(&Node)) -> Result<(), Fatal> {
        let mut events = Events::with_capacity(1024);
        let mut leaving: Option<StdInstant> = None;
        // Told to stop: others lead first, then we go.
        while leaving.is_none_or(|end| self.node.is_handing_over() && StdInstant::now() < end) {
            let timeout = self.timeout();
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != io::ErrorKind::Interrupted
            {
                break;
            }
            self.gather(&events);
            self.one_turn();
            every_turn(&self.node);
            if let Some(why) = self.outside.stopped {
                return Err(why);
            }
            if leaving.is_none() && self.stop.load(Ordering::SeqCst) {
                leaving = Some(StdInstant::now() + LEAVING);
                self.node.give_up_lead(&mut self.outside);
                self.outside.peers.flush(self.poll.registry());
            }
        }
        self.say_goodbye();
        Ok(())
    }

    fn timeout(&self) -> Duration {
        let mono = read_clocks(self.outside.started).mono;
        let node = self.node.deadline().map(|at| at.since(mono));
        let peers = self.outside.peers.deadline().map(|at| at.saturating_duration_since(StdInstant::now()));
        if self.outside.clients.has_unheard() {
            return Duration::ZERO;
        }
        // Sockets took something: the edge learns of it soon, with whatever else comes.
        let drained = (!self.turn.said.is_empty()).then_some(Duration::from_millis(1));
        node.into_iter().chain(peers).chain(drained).min().unwrap_or(IDLE).min(IDLE)
    }

    fn gather(&mut self, events: &Events) {
        let registry = self.poll.registry();
        let Outside { peers, clients, .. } = &mut self.outside;
        clients.hear_on(registry, &mut self.turn);
        for event in events {
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            match event.token() {
                WAKE => {}
                PEERS => peers.accept(registry),
                WS => clients.accept(false, registry, &mut self.turn),
                LINE => clients.accept(true, registry, &mut self.turn),
                Token(token) if token >= clients::FIRST_TOKEN => {
                    clients.ready(token, readable, event.is_writable(), registry, &mut self.turn);
                }
                Token(token) if token < peers::LAST_TOKEN => {
                    peers.ready(token, readable, registry, &mut self.arrived);
                }
                Token(_) => {}
            }
        }
        peers.retry_starved(registry, &mut self.arrived);
        peers.dial(registry, &mut self.arrived);
        clients.look_after(registry, &mut self.turn);
    }

    /// Hands everything that came to the node, and carries out what it wants.
    fn one_turn(&mut self) {
        self.outside.now = read_clocks(self.outside.started);
        let mut stored: Vec<(FileId, Completion)> = Vec::new();
        for (file, disk) in &self.outside.disks {
            stored.extend(disk.completions().into_iter().map(|completion| (*file, completion)));
        }
        let file = self.outside.disks.keys().next().copied();
        let stored = stored
            .into_iter()
            .map(|(file, (token, result))| NodeEvent::Replica(file, Event::Stored { token, result }));
        let arrived = self.arrived.drain(..).map(|arrived| arrival(file, arrived));
        let Turn { said, arena } = &mut self.turn;
        let said = said.iter().map(|said| spoken(said, arena));
        self.node.turn(&mut self.outside, stored.chain(arrived).chain(said));
        self.turn.said.clear();
        self.turn.arena.clear();
        let registry = self.poll.registry();
        self.outside.peers.flush(registry);
        self.outside.clients.flush(registry, &mut self.turn);
        if let Some(edge) = self.node.edge() {
            self.outside.clients.ready = edge.is_ready();
            if self.measured.elapsed() >= METRICS {
                self.measured = StdInstant::now();
                let (unroutable, dropped, refused) = self.outside.peers.counters();
                let links = [("unroutable", unroutable), ("dropped", dropped), ("refused", refused)];
                write_metrics(&mut self.outside.clients.metrics, edge, links);
            }
        }
    }

    /// Clients hear that we go, disks finish what they have.
    fn say_goodbye(&mut self) {
        self.node.shutdown(&mut self.outside);
        let end = StdInstant::now() + GOODBYE;
        while StdInstant::now() < end && !self.outside.clients.is_quiet() {
            self.outside.clients.flush(self.poll.registry(), &mut self.turn);
            std::thread::sleep(Duration::from_millis(1));
        }
        self.outside.clients.flush(self.poll.registry(), &mut self.turn);
        self.outside.disks.values_mut().for_each(Disk::stop);
    }
}

fn arrival<'a>(file: Option<FileId>, arrived: Arrived) -> NodeEvent<'a> {
    match (file, arrived) {
        (Some(file), Arrived::Frame { from, frame }) => {
            NodeEvent::Replica(file, Event::Received { from, frame })
        }
        (Some(file), Arrived::Reset(peer)) => NodeEvent::Replica(file, Event::PeerReset(peer)),
        (None, Arrived::Frame { from, frame }) => NodeEvent::Edge(EdgeEvent::Received { from, frame }),
        (None, Arrived::Reset(peer)) => NodeEvent::Edge(EdgeEvent::PeerReset(peer)),
    }
}

fn spoken<'a>(said: &'a Said, arena: &'a [u8]) -> NodeEvent<'a> {
    NodeEvent::Edge(match said {
        Said::Opened { connection, transport, token } => EdgeEvent::Opened {
            connection: *connection,
            transport: *transport,
            token: token.as_deref().map(str::as_bytes),
        },
        Said::Frame { connection, start, end } => {
            EdgeEvent::Frame { connection: *connection, bytes: &arena[*start..*end] }
        }
        Said::TooLarge { connection } => EdgeEvent::TooLarge { connection: *connection },
        Said::Drained { connection, bytes } => EdgeEvent::Drained { connection: *connection, bytes: *bytes },
        Said::Closed { connection } => EdgeEvent::Closed { connection: *connection },
    })
}

/// What `/metrics` shows of an edge.
fn write_metrics(out: &mut String, edge: &tigerchat_core::edge::Edge, links: [(&str, u64); 3]) {
    let stats = edge.stats();
    let (view, primary) = edge.leader();
    out.clear();
    let rows = [
        ("tigerchat_edge_connections", "gauge", stats.connections),
        ("tigerchat_edge_subscriptions", "gauge", stats.subscriptions),
        ("tigerchat_edge_requests_in_flight", "gauge", stats.requests_in_flight),
        ("tigerchat_edge_commands_total", "counter", stats.commands),
        ("tigerchat_edge_requests_total", "counter", stats.requests),
        ("tigerchat_edge_request_nanoseconds_total", "counter", stats.request_nanos),
        ("tigerchat_edge_deliveries_total", "counter", stats.deliveries),
        ("tigerchat_edge_lagged_total", "counter", stats.lagged),
        ("tigerchat_edge_ignored_total", "counter", stats.ignored),
        ("tigerchat_shard_view", "gauge", view),
        ("tigerchat_shard_primary", "gauge", u64::from(primary.0)),
    ];
    for (name, kind, value) in rows {
        let _ = writeln!(out, "# TYPE {name} {kind}\n{name} {value}");
    }
    let _ = writeln!(out, "# TYPE tigerchat_peer_frames_lost_total counter");
    for (why, value) in links {
        let _ = writeln!(out, "tigerchat_peer_frames_lost_total{{why=\"{why}\"}} {value}");
    }
}
