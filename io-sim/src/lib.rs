//! The simulated world: one seed, one history, bit for bit.
#![forbid(unsafe_code)]

pub mod history;
