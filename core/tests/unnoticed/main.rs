//! What small mistakes in core did that no test had noticed: `cargo xtask mutants` makes them.

mod checkpoints;
#[path = "../cluster/mod.rs"]
mod cluster;
mod offline;
mod recovery;
