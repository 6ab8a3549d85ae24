//! A process: a production [`Node`] with a pool and, if it is a replica, a disk of its own.
//!
//! The one law: **a turn's effects are collected first and carried out afterwards, one by one**, so that a process
//! can end between any two of them. The node can't tell: nothing in it branches on the result of an effect.

use std::rc::Rc;

use tigerchat_core::io::{
    Clients, Clock, CloseCode, DiskError, DiskOp, EdgeEvent, Event, Fatal, FileId, Io, Network, Storage,
    Token, Transport,
};
use tigerchat_core::node::{Node, NodeEvent};
use tigerchat_core::pool::{Message, Pool};
use tigerchat_core::types::{Address, ConnectionId, Instant, Now, ReplicaId};
use tigerchat_core::wire::frame::{Command, FRAME_HEADER, Frame, FrameHeader};
use zerocopy::IntoBytes;

use crate::clock::Skew;
use crate::disk::Disk;
use crate::gateway::{Ask, Gateway, Told};

/// The one data file of a replica's process.
pub const FILE: FileId = FileId(0);

/// Bytes on their way, shared by all copies of a frame.
pub type Bytes = Rc<[u8]>;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Replica(ReplicaId),
    /// The n-th edge; each start of it has an id of its own.
    Edge(usize),
}

/// One process, up or down.
#[derive(Debug)]
pub struct Process {
    pub role: Role,
    /// Its address, as long as it is up.
    pub address: Option<Address>,
    pub node: Option<Node>,
    /// In worlds that look at replication alone an edge is this.
    pub gateway: Option<Gateway>,
    /// What the gateway told its users in the last turn.
    pub told: Vec<Told>,
    /// Outlives the process so that it need not be made anew; full whenever the process is down.
    pub pool: Pool,
    pub disk: Option<Disk>,
    pub skew: Skew,
    /// Counts starts, so that what was meant for an earlier life is told apart.
    pub life: u64,
    pub inbox: Vec<Inbound>,
    /// When the next turn is due, if one is.
    pub turn_at: Option<Instant>,
    /// It stands still until then.
    pub paused_until: Instant,
    pub trap: Option<Trap>,
    /// A frame that found no buffer.
    pub starved: u64,
    gateway_deadline: Instant,
    acts: Vec<Act>,
}

/// Where a process is going to crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    pub at: TrapAt,
    pub power: bool,
}

/// A point between two effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrapAt {
    /// After so many effects.
    Effects(u32),
    /// Right after so many frames of this command left.
    Sent(Command, u32),
    /// When the disk has taken so many writes: written, not flushed.
    Written(u32),
}

/// What waits for a process's next turn.
#[derive(Debug)]
pub enum Inbound {
    Frame(Bytes),
    Stored { token: Token, result: Result<Option<Message>, DiskError> },
    Reset(Address),
    Ask(Ask),
    Opened { connection: ConnectionId, transport: Transport, token: Option<Vec<u8>> },
    Said { connection: ConnectionId, bytes: Vec<u8> },
    TooLarge { connection: ConnectionId },
    Drained { connection: ConnectionId, bytes: usize },
    Closed { connection: ConnectionId },
}

/// What a node wanted done.
#[derive(Debug)]
pub enum Act {
    Send { to: Address, command: Command, bytes: Bytes },
    Submit(DiskOp),
    Flush,
    Client { to: ConnectionId, bytes: Vec<u8> },
    Close { to: ConnectionId, why: CloseCode },
    Stop(Fatal),
}

impl Process {
    #[must_use]
    pub fn new(role: Role, pool: Pool, disk: Option<Disk>, skew: Skew) -> Self {
        Self {
            role,
            address: None,
            node: None,
            gateway: None,
            told: Vec::new(),
            pool,
            disk,
            skew,
            life: 0,
            inbox: Vec::new(),
            turn_at: None,
            paused_until: Instant(0),
            trap: None,
            starved: 0,
            gateway_deadline: Instant(0),
            acts: Vec::new(),
        }
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        self.node.is_some() || self.gateway.is_some()
    }

    /// Runs one turn over all that came in. The effects are the caller's to carry out, and to give back with
    /// [`Process::recycle`].
    pub fn turn(&mut self, now: Instant) -> Vec<Act> {
        if self.gateway.is_some() {
            return self.gateway_turn(now);
        }
        let Some(node) = &mut self.node else { return Vec::new() };
        let mut outside = Outside { now: self.skew.read(now), acts: std::mem::take(&mut self.acts) };
        let mut inbox = std::mem::take(&mut self.inbox);
        let (pool, starved) = (&self.pool, &mut self.starved);
        let is_edge = matches!(self.role, Role::Edge(_));
        let mut said: Vec<u8>;
        // Events borrow what clients said; those turns take one event each, as a loop that reads sockets would.
        let mut frames = Vec::new();
        for inbound in inbox.drain(..) {
            match inbound {
                Inbound::Said { connection, bytes } => {
                    node.turn(&mut outside, frames.drain(..));
                    said = bytes;
                    let event = EdgeEvent::Frame { connection, bytes: &said };
                    node.turn(&mut outside, std::iter::once(NodeEvent::Edge(event)));
                }
                Inbound::Opened { connection, transport, token } => {
                    node.turn(&mut outside, frames.drain(..));
                    let event = EdgeEvent::Opened { connection, transport, token: token.as_deref() };
                    node.turn(&mut outside, std::iter::once(NodeEvent::Edge(event)));
                }
                other => frames.extend(event_of(other, is_edge, self.address, pool, starved)),
            }
        }
        node.turn(&mut outside, frames.drain(..));
        self.inbox = inbox;
        outside.acts
    }

    fn gateway_turn(&mut self, now: Instant) -> Vec<Act> {
        let Some(gateway) = &mut self.gateway else { return Vec::new() };
        let mut outside = Outside { now: self.skew.read(now), acts: std::mem::take(&mut self.acts) };
        for inbound in self.inbox.drain(..) {
            match inbound {
                Inbound::Frame(bytes) => {
                    let Some(to) = self.address else { continue };
                    let Some(frame) = decode(&bytes, to, &self.pool, &mut self.starved) else { continue };
                    if let Some(Address::Replica { replica, .. }) = frame.header.from() {
                        gateway.on_frame(now, replica, &frame, &mut self.told);
                    }
                }
                Inbound::Ask(ask) => gateway.ask(ask),
                _ => {}
            }
        }
        gateway.turn(now, &mut outside);
        self.gateway_deadline = gateway.deadline(now);
        outside.acts
    }

    /// Takes back the list that [`Process::turn`] handed out.
    pub fn recycle(&mut self, mut acts: Vec<Act>) {
        acts.clear();
        self.acts = acts;
    }

    /// When the node wants to be woken, in the world's time.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.gateway.is_some() {
            return Some(self.gateway_deadline);
        }
        self.node.as_ref()?.deadline().map(|at| self.skew.world(at))
    }

    /// The process ends without a word. Says which buffers it left behind: an error.
    pub fn end(&mut self, power: bool) -> Option<String> {
        self.node = None;
        self.gateway = None;
        self.told.clear();
        self.address = None;
        self.inbox.clear();
        self.acts.clear();
        self.turn_at = None;
        self.trap = None;
        self.paused_until = Instant(0);
        if let Some(disk) = &mut self.disk {
            if power { disk.power_lost() } else { disk.process_ended() }
        }
        let leaked = !self.pool.is_full();
        leaked.then(|| format!("{:?} ended and its pool is not full: {:?}", self.role, self.pool))
    }
}

fn event_of(
    inbound: Inbound,
    is_edge: bool,
    address: Option<Address>,
    pool: &Pool,
    starved: &mut u64,
) -> Option<NodeEvent<'static>> {
    let event = match inbound {
        Inbound::Frame(bytes) => {
            let frame = decode(&bytes, address?, pool, starved)?;
            let from = frame.header.from()?;
            if is_edge {
                NodeEvent::Edge(EdgeEvent::Received { from, frame })
            } else {
                NodeEvent::Replica(FILE, Event::Received { from, frame })
            }
        }
        Inbound::Stored { token, result } => NodeEvent::Replica(FILE, Event::Stored { token, result }),
        Inbound::Reset(peer) if is_edge => NodeEvent::Edge(EdgeEvent::PeerReset(peer)),
        Inbound::Reset(peer) => NodeEvent::Replica(FILE, Event::PeerReset(peer)),
        Inbound::TooLarge { connection } => NodeEvent::Edge(EdgeEvent::TooLarge { connection }),
        Inbound::Drained { connection, bytes } => NodeEvent::Edge(EdgeEvent::Drained { connection, bytes }),
        Inbound::Closed { connection } => NodeEvent::Edge(EdgeEvent::Closed { connection }),
        Inbound::Said { .. } | Inbound::Opened { .. } => unreachable!("handled where their bytes live"),
        Inbound::Ask(_) => unreachable!("only gateways are asked"),
    };
    Some(event)
}

/// What a receiver makes of the bytes of a frame: the production checks, into its own pool.
fn decode(bytes: &[u8], to: Address, pool: &Pool, starved: &mut u64) -> Option<Frame> {
    let (header, payload) = bytes.split_first_chunk::<FRAME_HEADER>()?;
    let header = FrameHeader::decode(header, payload.len()).ok()?;
    if header.to() != Some(to) {
        return None;
    }
    let payload = if payload.is_empty() {
        None
    } else {
        let Some(mut draft) = pool.draft(payload.len()) else {
            *starved += 1;
            return None;
        };
        draft.extend(payload).ok()?;
        Some(draft.seal())
    };
    Frame::join(header, payload).ok()
}

/// A process's outside during a turn: it notes what is wanted.
#[derive(Debug)]
struct Outside {
    now: Now,
    acts: Vec<Act>,
}

impl Clock for Outside {
    fn now(&self) -> Now {
        self.now
    }
}

impl Network for Outside {
    fn send(&mut self, _: Address, to: Address, frame: Frame) {
        let mut bytes = Vec::with_capacity(FRAME_HEADER + frame.body().len());
        bytes.extend_from_slice(frame.header.as_bytes());
        bytes.extend_from_slice(frame.body());
        self.acts.push(Act::Send { to, command: frame.header.command(), bytes: bytes.into() });
    }
}

impl Storage for Outside {
    fn submit(&mut self, _: FileId, op: DiskOp) {
        self.acts.push(Act::Submit(op));
    }
    fn turn_ended(&mut self) {
        self.acts.push(Act::Flush);
    }
}

impl Clients for Outside {
    fn send(&mut self, to: ConnectionId, bytes: Message) {
        self.acts.push(Act::Client { to, bytes: bytes.to_vec() });
    }
    fn close(&mut self, to: ConnectionId, why: CloseCode) {
        self.acts.push(Act::Close { to, why });
    }
}

impl Io for Outside {
    fn clients(&mut self) -> &mut dyn Clients {
        self
    }
    fn stop(&mut self, _: FileId, why: Fatal) {
        self.acts.push(Act::Stop(why));
    }
}

/// Adds a replica to a new node; what its opening wanted done is returned like a turn's effects.
pub fn add_replica(
    node: &mut Node,
    replica: tigerchat_core::vsr::replica::Replica<tigerchat_core::chat::Chat>,
    effects: tigerchat_core::io::Effects,
    now: Now,
) -> Vec<Act> {
    let mut outside = Outside { now, acts: Vec::new() };
    node.add_replica(FILE, replica, effects, &mut outside);
    outside.acts
}
