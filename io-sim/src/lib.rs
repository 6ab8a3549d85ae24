//! The simulated world: one seed, one history, bit for bit.
//!
//! It runs the production [`tigerchat_core::node::Node`] unchanged: replicas and edges, each a process with a pool
//! of its own. Only sockets, disks, clocks, randomness and threads are replaced. Everything that happens is an
//! event in one queue, ordered by virtual time and then by the order in which it was caused.
//!
//! The one law: **what a run does is a function of its plan and its seed.** No clock, no thread, no address, no
//! table in random order; every random number comes from a stream that the seed and a purpose name.
#![forbid(unsafe_code)]

pub mod aim;
mod ambush;
mod clearing;
pub mod clock;
pub mod connections;
pub mod damage;
mod deposed;
pub mod disk;
pub mod erasing;
pub mod faults;
mod hand_over;
pub mod history;
mod making;
pub mod network;
pub mod observer;
mod operator;
mod outsider;
mod partition;
pub mod process;
mod queue;
pub mod random;
mod reading;
pub mod recipe;
pub mod releases;
pub mod report;
mod rotate;
mod run;
pub mod scenario;
mod script;
pub mod seal;
mod sector;
pub mod spectator;
mod speech;
mod trouble;
pub mod users;
pub mod world;

use std::ops::ControlFlow;

use tigerchat_core::types::TenantId;

pub use faults::Plan;
pub use recipe::Recipe;
pub use report::{Fate, FrameCounts, RunReport};
pub use run::{run, run_recipe};

/// The tenant of all rooms of simulated worlds.
pub const TENANT: TenantId = TenantId(1);

/// Hears each observation as it is made; says when it has had enough.
pub type Observer<'a> = dyn FnMut(&history::Observation) -> ControlFlow<()> + 'a;
