//! Replication: one Viewstamped Replication group per shard (Liskov, Cowling 2012, with the corrections that
//! practice has shown to be needed). The protocol is drawn in `docs/protocol.md`, its invariants are numbered in
//! `docs/invariants.md`.
//!
//! One file per concern, all of them `impl Replica`: [`replica`] (state, dispatch), `normal` (requests, prepares,
//! acknowledgements), `commit` (execute, reply), `feed` (followers), `reads`, `view_change`, `abdication`, `hand_over`, `clock`,
//! `detector` (timeouts from what was measured), `repair`, `blocks` (of the grid, read and repaired), `scrub`, `checkpoint`,
//! `room` (in the log, beside checkpoints), `sync` (state transfer), `recovery` (opening), `reconfigure` (members), `release` (by whose rules). Leaves without a replica: `journal`, `membership`, `quorum`,
//! `sessions`, `timers`, `superblock` (the writer). `load` tells how full the queues are, `marks` tells the swarm which rare branches were reached, `waits` tells a person what a replica waits for.

pub mod abdication;
mod blocks;
mod checkpoint;
pub mod clock;
mod commit;
mod detector;
mod feed;
pub mod hand_over;
mod held;
mod journal;
pub mod load;
pub mod machine;
pub mod marks;
pub mod membership;
mod normal;
pub mod offline;
pub mod quorum;
pub(crate) mod reads;
pub use self::reads::LINEARIZABLE;
mod reconfigure;
mod recovery;
pub mod release;
mod repair;
pub mod replica;
mod room;
pub mod scrub;
pub mod sessions;
mod superblock;
mod sync;
mod timers;
mod tokens;
mod view_change;
mod waits;

/// Most entries that may be in flight, whatever the configuration says.
pub const PIPELINE_MAX: usize = 16;

/// Headers in the suffix of a do_view_change, a start_view and a superblock.
pub const SUFFIX_MAX: usize = 24;

// H12: an op that a primary could have had in flight must be visible to the next one. A backup whose head is X
// knows that everything up to X minus the pipeline is committed.
const _: () = assert!(SUFFIX_MAX >= PIPELINE_MAX);
