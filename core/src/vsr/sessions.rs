//! Replication sessions of edges: at most once between edge and shard, in order, with the last replies.
//!
//! Replicated state: it changes only by executed ops and is part of every checkpoint (H44). Bounded: when a new
//! session needs room, the one that was used longest ago (in log order) goes (H45: what makes that safe is the
//! key of each message, which lives in the chat state).

use alloc::vec;
use alloc::vec::Vec;

use crate::wire::codec::{Malformed, Reader};

/// A reply that may be asked for again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredReply {
    /// Zero: none yet.
    pub number: u64,
    pub op: u64,
    /// Of the request that it answers (H46).
    pub digest: u128,
    pub outcomes: Vec<u8>,
}

/// One edge's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub client: u64,
    /// The op that registered it.
    pub session: u64,
    /// The last executed request.
    pub number: u64,
    /// The op of its last executed request: the order of eviction.
    pub used: u64,
    replies: Vec<StoredReply>,
}

impl Session {
    /// The reply to a request of this session, if it is still kept.
    #[must_use]
    pub fn reply(&self, number: u64) -> Option<&StoredReply> {
        let at = usize::try_from(number % self.replies.len() as u64).expect("below the window");
        self.replies.get(at).filter(|reply| reply.number == number && number > 0)
    }

    /// Notes that the next request was executed. `outcomes` is copied into a buffer that is reused.
    pub(super) fn executed(&mut self, number: u64, op: u64, digest: u128, outcomes: &[u8]) {
        assert_eq!(number, self.number + 1, "requests are executed in order");
        (self.number, self.used) = (number, op);
        let at = usize::try_from(number % self.replies.len() as u64).expect("below the window");
        let reply = &mut self.replies[at];
        (reply.number, reply.op, reply.digest) = (number, op, digest);
        reply.outcomes.clear();
        reply.outcomes.extend_from_slice(outcomes);
    }
}

/// All sessions of a shard, in the order of their registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    max: usize,
    window: usize,
    list: Vec<Session>,
}

impl Sessions {
    #[must_use]
    pub fn new(max: u16, window: u8) -> Self {
        Self { max: usize::from(max.max(1)), window: usize::from(window.max(1)), list: Vec::new() }
    }

    #[must_use]
    pub fn window(&self) -> u64 {
        self.window as u64
    }

    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.list.iter()
    }

    #[must_use]
    pub fn of_client(&self, client: u64) -> Option<&Session> {
        self.list.iter().find(|session| session.client == client)
    }

    pub(super) fn of_client_mut(&mut self, client: u64) -> Option<&mut Session> {
        self.list.iter_mut().find(|session| session.client == client)
    }

    /// The session that must go before another one can come.
    pub(super) fn to_evict(&self) -> Option<&Session> {
        if self.list.len() < self.max {
            return None;
        }
        self.list.iter().min_by_key(|session| (session.used, session.session))
    }

    pub(super) fn register(&mut self, client: u64, op: u64) {
        assert!(self.list.len() < self.max && self.of_client(client).is_none());
        let replies = vec![StoredReply::default(); self.window];
        self.list.push(Session { client, session: op, number: 0, used: op, replies });
    }

    /// Ends a session; false when there is none such.
    pub(super) fn remove(&mut self, client: u64, session: u64) -> bool {
        let before = self.list.len();
        self.list.retain(|one| (one.client, one.session) != (client, session));
        self.list.len() < before
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let count = u32::try_from(self.list.len()).expect("bounded");
        out.extend_from_slice(&count.to_le_bytes());
        for session in &self.list {
            for field in [session.client, session.session, session.number, session.used] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            for reply in &session.replies {
                out.extend_from_slice(&reply.number.to_le_bytes());
                out.extend_from_slice(&reply.op.to_le_bytes());
                out.extend_from_slice(&reply.digest.to_le_bytes());
                let len = u32::try_from(reply.outcomes.len()).expect("bounded");
                out.extend_from_slice(&len.to_le_bytes());
                out.extend_from_slice(&reply.outcomes);
            }
        }
    }

    /// Replaces everything by what [`Self::encode`] wrote under the same limits.
    pub(super) fn decode(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let count = reader.u32()? as usize;
        if count > self.max {
            return Err(Malformed);
        }
        self.list.clear();
        for _ in 0..count {
            let (client, session, number, used) =
                (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
            let mut replies = Vec::with_capacity(self.window);
            for _ in 0..self.window {
                let (number, op, digest) = (reader.u64()?, reader.u64()?, reader.u128()?);
                replies.push(StoredReply { number, op, digest, outcomes: reader.long()?.to_vec() });
            }
            self.list.push(Session { client, session, number, used, replies });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_used_longest_ago_in_log_order_is_evicted_first() {
        let mut sessions = Sessions::new(2, 4);
        sessions.register(10, 1);
        sessions.register(11, 2);
        sessions.of_client_mut(10).unwrap().executed(1, 3, 7, b"x");
        assert_eq!(sessions.to_evict().unwrap().client, 11);
    }

    #[test]
    fn h44_replies_survive_a_checkpoint_and_h46_name_their_request() {
        let mut sessions = Sessions::new(3, 2);
        sessions.register(10, 1);
        for number in 1..=3 {
            sessions.of_client_mut(10).unwrap().executed(number, 4 + number, u128::from(number), b"outcome");
        }
        let mut bytes = Vec::new();
        sessions.encode(&mut bytes);
        let mut again = Sessions::new(3, 2);
        again.decode(&mut Reader::new(&bytes)).unwrap();
        assert_eq!(again, sessions);
        let session = again.of_client(10).unwrap();
        assert_eq!(session.reply(3).unwrap().digest, 3);
        assert_eq!(session.reply(1), None, "the window has moved on");
        assert_eq!(session.reply(4), None, "not executed yet");
    }
}
