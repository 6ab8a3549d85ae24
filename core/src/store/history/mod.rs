//! History: every message since a room began (or since retention cut it), on disk, in sorted runs.
//!
//! The one law: **runs never change, and which of them holds a message follows from their indexes alone.** Sequences
//! of a room grow with time, so runs of different age hold disjoint ranges of a room's sequences, and a page of a
//! room is read from one run after the other.
//!
//! ```text
//!  messages of this interval    memtable       append, look up
//!  of the interval before       memtable       becomes a run while this interval goes on
//!  older                        level 0        a run for each interval
//!                               level 1        a run for each 8 of level 0
//!                               level 2 ...    a merge is a job that lasts many intervals
//! ```

pub mod job;
pub mod memtable;
pub mod reader;
pub mod record;
pub mod run;
pub mod tree;

/// A message's place in a run. History is sorted by room and sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub room: u32,
    pub seq: u64,
}

impl Key {
    /// Before all keys.
    pub const MIN: Self = Self { room: 0, seq: 0 };
    /// Behind all keys: no room has this number, no message this sequence.
    pub const END: Self = Self { room: u32::MAX, seq: u64::MAX };
}
