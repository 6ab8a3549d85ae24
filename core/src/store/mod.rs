//! The data file of a replica: sealed sectors, superblock, write-ahead log, checkpoints.
//!
//! Pure functions over bytes; [`crate::vsr`] decides when they are read and written. Formats: `docs/formats.md`.
//! The one law: **no byte that was read is trusted without its digest**, and what can't be trusted is told apart
//! into *never written*, *torn* (never acknowledged) and *corrupt* (may have been acknowledged).

pub mod forest;
pub mod grid;
pub mod history;
pub mod layout;
pub mod misplaced;
pub mod pages;
pub mod reborn;
pub mod rotation;
pub mod sealing;
pub mod sector;
pub mod slot;
pub mod superblock;
