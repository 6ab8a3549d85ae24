//! The seam: what goes into a state machine, what comes out, and the four traits that carry it to the world.
//!
//! *Pure effects inside, traits at the rim.* State machines see [`Event`]s and [`EdgeEvent`]s and write effects;
//! [`crate::node::Node`] turns effects into calls of the traits. Nothing in here can branch on the result of IO:
//! results come back as events that carry the [`Token`] of what they answer.

use alloc::vec::Vec;
use core::fmt;

use crate::pool::{Draft, Message};
use crate::store::forest::WorkError;
use crate::types::{Address, ConnectionId, Now, ShardId};
use crate::vsr::membership::Members;
use crate::vsr::release::WrongRelease;
use crate::wire::frame::Frame;

/// What an effect's completion is for. Made by the state machine, opaque to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// A data file of this process: one for each replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// Work for a disk. Offsets and lengths are multiples of 4 KiB.
#[derive(Debug)]
pub enum DiskOp {
    /// Fills `into` (its length says how much) from `offset`; completes with the sealed message.
    Read { token: Token, offset: u64, into: Draft },
    /// Writes `data` at `offset`. With `durable` it completes after a flush that began after the write.
    Write { token: Token, offset: u64, data: Message, durable: bool },
    /// Makes everything durable that was written or read before.
    Sync { token: Token },
}

/// Why a disk operation failed. All but `Fsync` are repaired or answered; `Fsync` ends the replica (H31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    Read,
    Write,
    Full,
    Fsync,
}

/// What a replica is told.
#[derive(Debug)]
pub enum Event {
    Received {
        from: Address,
        frame: Frame,
    },
    /// A disk operation ended; reads carry what they read.
    Stored {
        token: Token,
        result: Result<Option<Message>, DiskError>,
    },
    /// The connection to this peer was reset and reconnecting was refused: its process is gone.
    PeerReset(Address),
    /// The deadline passed.
    Elapsed,
}

/// Why a replica can't go on. The process reports it and stops this replica, not its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// A flush failed: what was written last is unknown (H31).
    FsyncFailed,
    /// The superblock can't be read or written any more.
    SuperblockLost,
    /// The checkpoint that the superblock names can't be read, and there is no peer to repair it from.
    CheckpointLost,
    /// A checkpoint does not fit the grid: what does not fit is refused before it is in the log, so this is our own bug.
    GridFull,
    /// It is no member of its shard any more.
    Removed,
    /// The log has ops of a release that this binary does not run.
    Release(WrongRelease),
}

impl Fatal {
    /// Why the work of a checkpoint can't go on.
    pub(crate) fn of_work(why: WorkError) -> Self {
        match why {
            WorkError::Full => Self::GridFull,
            WorkError::Malformed => Self::CheckpointLost,
        }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            Self::FsyncFailed => "a flush failed, and what was written last is unknown: start it again",
            Self::SuperblockLost => "the superblock can't be read or written",
            Self::CheckpointLost => "its checkpoint can't be read, and no peer has another",
            Self::GridFull => "its checkpoint does not fit the grid",
            Self::Removed => "it is no member of its shard any more",
            Self::Release(wrong) => return wrong.fmt(f),
        };
        f.write_str(why)
    }
}

/// What a replica wants done.
#[derive(Debug)]
pub enum Effect {
    Send { to: Address, frame: Frame },
    Disk(DiskOp),
    Stop(Fatal),
}

/// Effects of one turn, in order. Reused from turn to turn, so that it stops allocating.
pub type Effects = Vec<Effect>;

/// How a client talks. Each has its own encoding of the same envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// WebSocket with JSON text frames: in, the payload of one frame; out, whole frames with their headers.
    WebSocket,
    /// The plain line protocol: in, one line without its end; out, whole lines.
    Line,
    /// One HTTP request: in, one JSON command; out, one JSON reply, after which the edge closes.
    Http,
}

/// What an edge is told.
#[derive(Debug)]
pub enum EdgeEvent<'a> {
    /// A client came. `token` is what an `Authorization: Bearer` header carried.
    Opened { connection: ConnectionId, transport: Transport, token: Option<&'a [u8]> },
    /// One whole frame or line, at most as long as the announced limit.
    Frame { connection: ConnectionId, bytes: &'a [u8] },
    /// A frame or line that was longer than the limit. Its bytes were dropped unread.
    TooLarge { connection: ConnectionId },
    /// So many of the bytes handed to [`Clients::send`] went out to the socket.
    Drained { connection: ConnectionId, bytes: usize },
    /// The client is gone.
    Closed { connection: ConnectionId },
    /// A frame from a replica.
    Received { from: Address, frame: Frame },
    /// The connection to this replica was reset and reconnecting was refused.
    PeerReset(Address),
    /// The deadline passed.
    Elapsed,
}

/// Why the edge closes a connection: the WebSocket close code. 3000-3499 reconnect, 3500-3999 do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// All was said (HTTP reply sent, `exit` typed).
    pub const DONE: Self = Self(1000);
    pub const GOING_AWAY: Self = Self(3000);
    pub const SLOW_CONSUMER: Self = Self(3001);
    pub const IDLE: Self = Self(3002);
    pub const TOO_MANY_CONNECTIONS: Self = Self(3003);
    pub const UNAUTHENTICATED: Self = Self(3500);
    pub const PROTOCOL: Self = Self(3501);
}

/// What an edge wants done.
#[derive(Debug)]
pub enum EdgeEffect {
    Send { to: Address, frame: Frame },
    Client { to: ConnectionId, bytes: Message },
    Close { to: ConnectionId, why: CloseCode },
}

pub type EdgeEffects = Vec<EdgeEffect>;

/// Reads both clocks.
pub trait Clock {
    fn now(&self) -> Now;
}

/// Carries frames between replicas and edges. Bounded, never blocks, may drop.
pub trait Network {
    fn send(&mut self, from: Address, to: Address, frame: Frame);
}

/// Carries disk operations. They complete later, in any order; a durable write completes after its own flush.
pub trait Storage {
    fn submit(&mut self, file: FileId, op: DiskOp);
    /// All operations of this turn were submitted: start the flushes. Group commit per file, files in parallel.
    fn turn_ended(&mut self);
}

/// Carries bytes to clients. Nothing is dropped: [`EdgeEvent::Drained`] tells how much went out.
pub trait Clients {
    fn send(&mut self, to: ConnectionId, bytes: Message);
    fn close(&mut self, to: ConnectionId, why: CloseCode);
}

/// A process's whole outside.
pub trait Io: Clock + Network + Storage {
    /// The clients of this process's edge.
    fn clients(&mut self) -> &mut dyn Clients;
    /// A shard's members are others now: where they are reached. What carries frames by itself need not know.
    fn members_changed(&mut self, _shard: ShardId, _members: &Members) {}
    /// This replica can't go on.
    fn stop(&mut self, file: FileId, why: Fatal);
}
