//! Seeds in swarms: runs simulated worlds by the thousand and holds every promise of the project against each.
//!
//! The one law: **a seed is a run.** What a swarm reports about a seed depends on that seed and this build alone,
//! never on the number of threads, the order in which they finish, or the clock.
#![forbid(unsafe_code)]

pub mod args;
pub mod boundaries;
pub mod checkers;
pub mod coverage;
pub mod distribution;
pub mod junit;
pub mod marks;
pub mod memory;
pub mod progress;
pub mod report;
pub mod run;
pub mod shrink;
pub mod stats;
pub mod swarm;
pub mod tell;
pub mod trace;
