//! The promises, one checker each, held against what an observer of a run sees.
//!
//! The one law: **a checker knows the promise, never the implementation.** It reads observations and the final
//! state, imports nothing of the code under test but its vocabulary of types, and speaks in one sentence.

pub mod agreement;
pub mod bounds;
pub mod chain;
pub mod checkpoint;
pub mod convergence;
pub mod delivery;
pub mod durability;
pub mod erasing;
pub mod exactly_once;
pub mod ledger;
pub mod linearizability;
pub mod liveness;
pub mod membership;
pub mod pages;
pub mod presence;
pub mod release;
pub mod retention;
pub mod storage;
#[cfg(test)]
mod testing;
pub mod time;
pub mod view;
pub mod view_change;

use std::fmt;

use io_sim::history::{Final, Observation, Violation};
use tigerchat_core::types::TenantId;

/// Holds one promise against one run.
pub trait Checker: fmt::Debug {
    /// The name in reports, also in each [`Violation`].
    fn name(&self) -> &'static str;

    /// Something happened.
    fn observe(&mut self, seen: &Observation) -> Result<(), Violation>;

    /// The run became quiet (or was given up); this is what every healed replica holds.
    fn finish(&mut self, end: &Final) -> Result<(), Violation>;
}

/// What checkers must know of a run beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The tenant of all rooms of the run: it is part of every chain value.
    pub tenant: TenantId,
    /// Messages of a room that are kept, and how old they may become, seconds; zero: no rule.
    pub room_messages: u32,
    pub room_age_s: u32,
}

/// All checkers, fed together. The first violation ends the run.
#[derive(Debug)]
pub struct Suite {
    checkers: Vec<Box<dyn Checker>>,
}

impl Suite {
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self {
            checkers: vec![
                Box::new(liveness::Liveness::default()),
                Box::new(agreement::Agreement::default()),
                Box::new(chain::Chain::new(setup)),
                Box::new(view::View::default()),
                Box::new(view_change::ViewChange::default()),
                Box::new(membership::Membership::default()),
                Box::new(release::Release::default()),
                Box::new(time::Time::default()),
                Box::new(checkpoint::Checkpoint::default()),
                Box::new(durability::Durability::default()),
                Box::new(exactly_once::ExactlyOnce::default()),
                Box::new(delivery::Delivery::default()),
                Box::new(linearizability::Linearizability::default()),
                Box::new(pages::Pages::default()),
                Box::new(erasing::Erasing::default()),
                Box::new(retention::Retention::new(setup)),
                Box::new(convergence::Convergence),
                Box::new(presence::Presence),
                Box::new(bounds::Bounds),
                Box::new(storage::Storage),
            ],
        }
    }

    pub fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        self.checkers.iter_mut().try_for_each(|checker| checker.observe(seen))
    }

    /// The end of the run, if it came to one: a run that never became quiet is the first checker's business.
    pub fn finish(&mut self, end: Option<&Final>) -> Result<(), Violation> {
        let nothing = Final::default();
        let end = end.unwrap_or(&nothing);
        self.checkers.iter_mut().try_for_each(|checker| checker.finish(end))
    }

    /// The names of all checkers, in the order in which they look.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.checkers.iter().map(|checker| checker.name())
    }
}

/// A broken promise.
fn violated(checker: &'static str, what: impl Into<String>) -> Result<(), Violation> {
    Err(Violation { checker, what: what.into() })
}
