//! The data file of a replica: sealed sectors, superblock, write-ahead log, checkpoints. `docs/formats.md`.

pub mod layout;
