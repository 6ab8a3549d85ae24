//! What a replica replicates. Chat knows nothing of replication and is handed to it as its [`Machine`].

use alloc::vec::Vec;

use crate::store::forest::Forest;
use crate::store::grid::block::BlockRef;
use crate::store::history::reader::Blocks;
use crate::wire::codec::{Malformed, Put};

/// Where in the order a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub op: u64,
    /// Index of the first command in its op.
    pub index: u32,
    /// Unix nanoseconds of the op; command `i` of the op happened at `time + i`.
    pub time: u64,
}

/// A deterministic state machine. `apply` is total: no input can stop it (H49).
///
/// All output goes into buffers that the caller reuses, so that a warm machine does not allocate.
pub trait Machine {
    /// By whose rules what follows is executed: the release of the entry, told before each. It is part of the state.
    fn set_release(&mut self, release: u32);

    /// Applies the commands of one request of session `session`. Appends one [`crate::wire::chat::Outcome`] for
    /// each to `reply`, and what subscribers should see to `feed`. Returns how many commands there were.
    /// A malformed rest is skipped with no effect: the edge and the primary checked it before.
    fn apply(
        &mut self,
        at: At,
        session: u64,
        commands: &[u8],
        reply: &mut Vec<u8>,
        feed: &mut Vec<u8>,
    ) -> u32;

    /// A session ended (lease ran out, or evicted): drop what it held. Returns how many indexes it used.
    fn session_closed(&mut self, at: At, session: u64, feed: &mut Vec<u8>) -> u32;

    /// Answers a read from what is committed. Trouble with the query is an answer with an error. What is not in memory
    /// comes from `blocks`; when one is missing, what was put into the answer is to be thrown away, and the same query
    /// asked again once the block is there.
    fn query(
        &self,
        query: &[u8],
        blocks: &mut dyn Blocks,
        answer: &mut dyn PutAnswer,
    ) -> Result<(), Unanswered>;

    /// The state as it is checkpointed: **all of it is in there**, so that a forest which was opened from a checkpoint
    /// makes the machine what it was.
    fn forest(&self) -> &Forest;

    fn forest_mut(&mut self) -> &mut Forest;

    /// Replaces the state by what a checkpoint holds. On error the state is unspecified and the caller discards it.
    fn restore(&mut self, forest: Forest) -> Result<(), Malformed>;

    /// The tables as bytes, for comparisons: equal states give equal bytes, on every replica, whatever the way by which
    /// they got there. (Chain values in them cover history.)
    fn encode(&self, out: &mut Vec<u8>);

    /// Whether commands are well-formed: a primary refuses what is not before it enters the log.
    fn check(&self, commands: &[u8]) -> bool;
}

/// Why a query has no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// This block is needed.
    Needs(BlockRef),
    /// A block is what its name says and not what the index says: our own bug, on some replica.
    Malformed,
}

impl From<Malformed> for Unanswered {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Where an answer is written: bounded, so that a page ends where the frame ends.
pub trait PutAnswer {
    fn remaining(&self) -> usize;
    fn put(&mut self, bytes: &[u8]) -> Result<(), crate::pool::Full>;
    /// Overwrites bytes that were put before, from `at` on (to fill in a count).
    fn patch(&mut self, at: usize, bytes: &[u8]);
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Put for &mut dyn PutAnswer {
    fn put(&mut self, bytes: &[u8]) -> Result<(), crate::pool::Full> {
        (**self).put(bytes)
    }
}

impl PutAnswer for crate::pool::Draft {
    fn remaining(&self) -> usize {
        crate::pool::Draft::remaining(self)
    }
    fn put(&mut self, bytes: &[u8]) -> Result<(), crate::pool::Full> {
        self.extend(bytes)
    }
    fn patch(&mut self, at: usize, bytes: &[u8]) {
        self.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn len(&self) -> usize {
        crate::pool::Draft::len(self)
    }
}

impl PutAnswer for Vec<u8> {
    fn remaining(&self) -> usize {
        usize::MAX
    }
    fn put(&mut self, bytes: &[u8]) -> Result<(), crate::pool::Full> {
        self.extend_from_slice(bytes);
        Ok(())
    }
    fn patch(&mut self, at: usize, bytes: &[u8]) {
        self[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn len(&self) -> usize {
        Vec::len(self)
    }
}
