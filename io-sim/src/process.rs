//! A process: a production [`Node`] with a pool and, if it is a replica, a disk of its own.
//!
//! The one law: **a turn's effects are collected first and carried out afterwards, one by one**, so that a process
//! can end between any two of them. The node can't tell: nothing in it branches on the result of an effect.

use std::rc::Rc;
use std::sync::Arc;

use tigerchat_core::errors::ErrorCode;
use tigerchat_core::io::{
    Clients, Clock, CloseCode, DiskError, DiskOp, EdgeEvent, Event, Fatal, FileId, Io, Network, Storage,
    Token, Transport,
};
use tigerchat_core::node::{Node, NodeEvent};
use tigerchat_core::pool::{Message, Pool};
use tigerchat_core::store::sealing::Sealing;
use tigerchat_core::types::{Address, ConnectionId, Instant, Now, ReplicaId};
use tigerchat_core::vsr::release::Releases;
use tigerchat_core::wire::frame::{Command, FRAME_HEADER, Frame, FrameHeader};
use zerocopy::IntoBytes;

use crate::aim::{Point, Zone};
use crate::clock::Skew;
use crate::disk::Disk;
use crate::network::Place;
use crate::seal::StandIn;

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
    /// Outlives the process so that it need not be made anew; full whenever the process is down.
    pub pool: Pool,
    pub disk: Option<Disk>,
    /// With which its disk is sealed, if it is.
    pub sealing: Option<Arc<StandIn>>,
    pub skew: Skew,
    /// What its binary runs, if it is a replica.
    pub binary: Releases,
    /// Counts starts, so that what was meant for an earlier life is told apart.
    pub life: u64,
    pub inbox: Vec<Inbound>,
    /// It stands still until then.
    pub paused_until: Instant,
    pub trap: Option<Trap>,
    /// What its next turn handles, as long as somebody aims.
    pub handled: Vec<Point>,
    /// A frame that found no buffer.
    pub starved: u64,
    /// Who sent a frame that was damaged when it came: those connections are closed.
    pub refused: Vec<Place>,
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
    Frame { from: Place, bytes: Bytes },
    Stored { token: Token, result: Result<Option<Message>, DiskError> },
    Reset(Address),
    Opened { connection: ConnectionId, transport: Transport },
    Said { connection: ConnectionId, bytes: Vec<u8> },
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
    Close { to: ConnectionId },
    Stop(Fatal),
}

impl Process {
    #[must_use]
    pub fn new(role: Role, pool: Pool, disk: Option<Disk>, skew: Skew) -> Self {
        Self {
            role,
            address: None,
            node: None,
            pool,
            disk,
            sealing: None,
            skew,
            binary: Releases::OURS,
            life: 0,
            inbox: Vec::new(),
            paused_until: Instant(0),
            trap: None,
            handled: Vec::new(),
            starved: 0,
            refused: Vec::new(),
            acts: Vec::new(),
        }
    }

    /// The same, with a disk that is sealed.
    #[must_use]
    pub fn sealed(mut self, sealing: Option<Arc<StandIn>>) -> Self {
        self.sealing = sealing;
        self
    }

    /// # Panics
    /// When something that is not sealed would reach a disk that is.
    pub fn must_seal(&self, op: &DiskOp, zone: Option<Zone>) {
        if let (Some(sealing), DiskOp::Write { data, offset, .. }) = (&self.sealing, op)
            && zone != Some(Zone::Superblock)
        {
            assert!(sealing.sealed(data), "{:?} writes in the clear at {offset}", self.role);
        }
    }

    /// As core takes it.
    #[must_use]
    pub fn sealing(&self) -> Option<&dyn Sealing> {
        self.sealing.as_deref().map(|sealing| sealing as &dyn Sealing)
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        self.node.is_some()
    }

    /// Runs one turn over all that came in. The effects are the caller's to carry out, and to give back with
    /// [`Process::recycle`].
    pub fn turn(&mut self, now: Instant) -> Vec<Act> {
        let Some(node) = &mut self.node else { return Vec::new() };
        let mut outside = Outside { now: self.skew.read(now), acts: std::mem::take(&mut self.acts) };
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut gate = Gate {
            address: self.address,
            pool: &self.pool,
            starved: &mut self.starved,
            refused: &mut self.refused,
        };
        let is_edge = matches!(self.role, Role::Edge(_));
        let events = inbox.iter_mut().filter_map(|inbound| event_of(inbound, is_edge, &mut gate));
        node.turn(&mut outside, events);
        inbox.clear();
        self.inbox = inbox;
        outside.acts
    }

    /// Tells the replica to give its lead away. Its effects are as those of a turn.
    pub fn hand_over(
        &mut self,
        now: Instant,
        target: Option<ReplicaId>,
    ) -> (Result<(), ErrorCode>, Vec<Act>) {
        let mut outside = Outside { now: self.skew.read(now), acts: std::mem::take(&mut self.acts) };
        let node = self.node.as_mut().ok_or(ErrorCode::NoLeader);
        let result = node.and_then(|node| node.hand_over(FILE, target, &mut outside));
        (result, outside.acts)
    }

    /// Takes back the list that [`Process::turn`] handed out.
    pub fn recycle(&mut self, mut acts: Vec<Act>) {
        acts.clear();
        self.acts = acts;
    }

    /// When the node wants to be woken, in the world's time.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.node.as_ref()?.deadline().map(|at| self.skew.world(at))
    }

    /// The process ends without a word. Says which buffers it left behind: an error.
    pub fn end(&mut self, power: bool) -> Option<String> {
        self.node = None;
        self.address = None;
        self.inbox.clear();
        self.acts.clear();
        self.handled.clear();
        self.trap = None;
        self.paused_until = Instant(0);
        if let Some(disk) = &mut self.disk {
            if power { disk.power_lost() } else { disk.process_ended() }
        }
        let leaked = !self.pool.is_full();
        leaked.then(|| format!("{:?} ended and its pool is not full: {:?}", self.role, self.pool))
    }
}

/// What came in as an event; what it holds is borrowed or taken.
fn event_of<'a>(inbound: &'a mut Inbound, is_edge: bool, gate: &mut Gate<'_>) -> Option<NodeEvent<'a>> {
    let event = match inbound {
        Inbound::Frame { from, bytes } => {
            let frame = gate.admit(*from, bytes)?;
            let from = frame.header.from()?;
            if is_edge {
                NodeEvent::Edge(EdgeEvent::Received { from, frame })
            } else {
                NodeEvent::Replica(FILE, Event::Received { from, frame })
            }
        }
        Inbound::Stored { token, result } => {
            let result = std::mem::replace(result, Ok(None));
            NodeEvent::Replica(FILE, Event::Stored { token: *token, result })
        }
        Inbound::Reset(peer) if is_edge => NodeEvent::Edge(EdgeEvent::PeerReset(*peer)),
        Inbound::Reset(peer) => NodeEvent::Replica(FILE, Event::PeerReset(*peer)),
        Inbound::Opened { connection, transport } => {
            let (connection, transport) = (*connection, *transport);
            NodeEvent::Edge(EdgeEvent::Opened { connection, transport, token: None })
        }
        Inbound::Said { connection, bytes } => {
            NodeEvent::Edge(EdgeEvent::Frame { connection: *connection, bytes })
        }
        Inbound::Drained { connection, bytes } => {
            NodeEvent::Edge(EdgeEvent::Drained { connection: *connection, bytes: *bytes })
        }
        Inbound::Closed { connection } => NodeEvent::Edge(EdgeEvent::Closed { connection: *connection }),
    };
    Some(event)
}

/// Where frames come in: the production checks, and buffers of the process's own pool.
struct Gate<'a> {
    address: Option<Address>,
    pool: &'a Pool,
    starved: &'a mut u64,
    refused: &'a mut Vec<Place>,
}

impl Gate<'_> {
    fn admit(&mut self, from: Place, bytes: &[u8]) -> Option<Frame> {
        let Some((header, payload)) = checked(bytes) else {
            self.refused.push(from);
            return None;
        };
        if header.to() != self.address {
            return None;
        }
        let payload = if payload.is_empty() {
            None
        } else {
            let Some(mut draft) = self.pool.draft(payload.len()) else {
                *self.starved += 1;
                return None;
            };
            draft.extend(payload).ok()?;
            Some(draft.seal())
        };
        let frame = Frame::join(header, payload).ok();
        if frame.is_none() {
            self.refused.push(from);
        }
        frame
    }
}

fn checked(bytes: &[u8]) -> Option<(FrameHeader, &[u8])> {
    let (header, payload) = bytes.split_first_chunk::<FRAME_HEADER>()?;
    Some((FrameHeader::decode(header, payload.len()).ok()?, payload))
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
    fn close(&mut self, to: ConnectionId, _: CloseCode) {
        self.acts.push(Act::Close { to });
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
