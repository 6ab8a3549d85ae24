//! The edge gateway (placeholder until it lands; the signatures are the contract).

use alloc::vec::Vec;
use core::time::Duration;

use crate::io::{EdgeEffects, EdgeEvent};
use crate::pool::Pool;
use crate::types::{Address, ClusterId, EdgeId, Instant, Now, ShardId, TenantId};

/// Everything an edge is told at its start.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    pub cluster: ClusterId,
    /// Fresh for each process start.
    pub edge: EdgeId,
    pub shard: ShardId,
    /// How many replicas the shard has: `Address::Replica { shard, replica: 0.. }`.
    pub replica_count: u8,
    /// Who may come in: static tokens, compared in constant time.
    pub tokens: Vec<TokenEntry>,
    /// `dev`: a token `demo:NAME` and a line client without login are let in as NAME.
    pub demo: bool,
    pub limits: EdgeLimits,
}

/// A static token of a user.
#[derive(Clone)]
pub struct TokenEntry {
    pub tenant: TenantId,
    pub user: alloc::string::String,
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

/// Why an edge wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeTimer {
    Resend,
    Follow,
    Lease,
    Ping,
}

#[derive(Debug)]
pub struct Edge {
    config: EdgeConfig,
}

impl Edge {
    #[must_use]
    pub fn new(config: EdgeConfig, _pool: Pool, _seed: [u8; 32], _now: Now) -> Self {
        Self { config }
    }
    pub fn on_event(&mut self, _now: Now, _event: EdgeEvent<'_>, _effects: &mut EdgeEffects) {}
    /// All events of a turn were seen: requests and frames that waited for company leave now.
    pub fn turn_ended(&mut self, _now: Now, _effects: &mut EdgeEffects) {}
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, EdgeTimer)> {
        None
    }
    #[must_use]
    pub fn address(&self) -> Address {
        Address::Edge(self.config.edge)
    }
}
