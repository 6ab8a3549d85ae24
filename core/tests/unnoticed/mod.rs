//! What small mistakes in core did that no test had noticed: `cargo xtask mutants` makes them.

mod checkpoints;
mod offline;
mod recovery;
mod replica;
