//! Placeholder until the replica lands; the signatures are the contract.

use crate::io::{Effects, Event};
use crate::pool::Pool;
use crate::store::layout::Layout;
use crate::types::{Address, ClusterId, Instant, Now, ReplicaId, ShardId};
use crate::vsr::machine::Machine;
use crate::wire::entry::{Digest, EntryHeader};
use core::time::Duration;

/// What is decided at `format` and kept in the superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardConfig {
    pub cluster: ClusterId,
    pub shard: ShardId,
    pub replica: ReplicaId,
    pub replica_count: u8,
    /// Entries in flight, 8 by default.
    pub pipeline: u8,
    /// Sessions (edges) of the shard, and the window of requests of each.
    pub sessions: u16,
    pub window: u8,
    pub layout: Layout,
    /// Limits of the chat state machine: equal on all replicas of the shard.
    pub limits: crate::chat::Limits,
}

/// What may differ from start to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub heartbeat: Duration,
    /// Silence of the primary after which a backup asks for a view change.
    pub primary_silent: Duration,
    /// The same after the primary's connection was reset and reconnecting was refused.
    pub primary_reset: Duration,
    pub resend: Duration,
    pub session_lease: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(20),
            primary_silent: Duration::from_millis(200),
            primary_reset: Duration::from_millis(5),
            resend: Duration::from_millis(50),
            session_lease: Duration::from_secs(5),
        }
    }
}

/// Where a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Reading its disk.
    Recovering,
    /// Doesn't know its own head for certain: it waits for a start_view.
    RecoveringHead,
    Normal,
    ViewChange,
}

/// Why a replica wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    Heartbeat,
    PrimarySilent,
    Resend,
    Repair,
    Lease,
}

/// What an observer (status page, simulator) may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub status: Status,
    pub view: u64,
    pub log_view: u64,
    pub is_primary: bool,
    pub primary: ReplicaId,
    pub op: u64,
    pub commit: u64,
    pub checkpoint: u64,
    pub incarnation: u64,
}

/// One replica of one shard.
#[derive(Debug)]
pub struct Replica<M> {
    machine: M,
}

impl<M: Machine> Replica<M> {
    /// Opens a replica on the bytes of its superblock zone. It reads the rest of its file by effects.
    /// `seed` is fresh entropy (the run's in simulation).
    pub fn open(
        _superblock_zone: &[u8],
        _machine: M,
        _pool: Pool,
        _timeouts: Timeouts,
        _seed: [u8; 32],
        _now: Now,
        _effects: &mut Effects,
    ) -> Result<Self, OpenError> {
        Err(OpenError::NotATigerChatFile)
    }
    pub fn on_event(&mut self, _now: Now, _event: Event, _effects: &mut Effects) {}
    /// All events of a turn were seen: what waited for company (batches) leaves now.
    pub fn turn_ended(&mut self, _now: Now, _effects: &mut Effects) {}
    pub fn deadline(&self) -> Option<(Instant, Timer)> {
        None
    }
    pub fn address(&self) -> Address {
        Address::Replica { shard: ShardId(0), replica: ReplicaId(0) }
    }
    pub fn incarnation(&self) -> u64 {
        0
    }
    pub fn observe(&self) -> View {
        unreachable!()
    }
    /// The header of a committed op that is still in the log's memory.
    pub fn committed(&self, _op: u64) -> Option<(EntryHeader, Digest)> {
        None
    }
    pub fn machine(&self) -> &M {
        &self.machine
    }
}

/// Why a data file was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    NotATigerChatFile,
    /// No quorum of superblock copies is valid.
    SuperblockDamaged,
    /// Made by a release with another format.
    FormatVersion(u32),
}
