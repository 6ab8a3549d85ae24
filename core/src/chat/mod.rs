//! The chat state machine (placeholder until it lands; the signatures are the contract).

use alloc::vec::Vec;

use crate::vsr::machine::{At, Machine, PutAnswer};
use crate::wire::codec::Malformed;

/// Sizes of the state, chosen at format, equal on all replicas of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub rooms: u32,
    /// Messages kept in memory (and in checkpoints); older ones leave history and `first` moves up.
    pub messages: u32,
    /// Bytes of these messages, encoded.
    pub message_bytes: u32,
    /// Keys remembered for deduplication.
    pub keys: u32,
    /// Age of a key, milliseconds, beyond which it is refused.
    pub key_horizon_ms: u64,
    /// (room, user, session) triples present.
    pub present: u32,
    pub body_max: u32,
}

#[derive(Debug)]
pub struct Chat {
    limits: Limits,
}

impl Chat {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits }
    }
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

impl Machine for Chat {
    fn apply(&mut self, _: At, _: u64, _: &[u8], _: &mut Vec<u8>, _: &mut Vec<u8>) -> u32 {
        0
    }
    fn session_closed(&mut self, _: At, _: u64, _: &mut Vec<u8>) -> u32 {
        0
    }
    fn query(&self, _: &[u8], _: &mut dyn PutAnswer) {}
    fn encode(&self, _: &mut Vec<u8>) {}
    fn decode(&mut self, _: &[u8]) -> Result<(), Malformed> {
        Ok(())
    }
    fn check(&self, _: &[u8]) -> bool {
        true
    }
    fn encoded_max(&self) -> usize {
        0
    }
}
