//! All logic of TigerChat, without IO.
//!
//! A [`vsr::replica::Replica`] and an [`edge::Edge`] are state machines: an event goes in, effects come out. A
//! [`node::Node`] drives them through the traits of [`io`], the same way in production (`io-real`) and in
//! the simulated world (`io-sim`).
//!
//! The one law of this crate: **the same events in the same order give the same effects, on every machine, in
//! every build profile.** No clock, no socket, no thread, no randomness that was not handed in as a seed, no
//! iteration over a hash table, no float in a decision, no `usize` on the wire or on disk.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod chat;
pub mod edge;
pub mod errors;
pub mod io;
pub mod node;
pub mod pool;
pub mod store;
pub mod types;
pub mod vsr;
pub mod wire;
