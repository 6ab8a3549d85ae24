//! Once a quorum is healed for good, all outstanding work finishes within [`BOUND`] of virtual time (I19, I20),
//! however broken the rest stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use io_sim::history::{CallId, Final, Observation, Violation, What};
use tigerchat_core::types::{Instant, ReplicaId};

use super::{Checker, violated};

const NAME: &str = "liveness";

/// Virtual time from the healing to quiet.
pub const BOUND: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Liveness {
    healed: Option<Instant>,
    quiet: Option<Instant>,
    outstanding: BTreeSet<CallId>,
    /// Where each replica stands: what a report of a standstill begins with.
    positions: BTreeMap<ReplicaId, String>,
}

impl Checker for Liveness {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match &seen.what {
            What::Published { call, .. } | What::HistoryCalled { call, .. } => {
                self.outstanding.insert(*call);
            }
            What::Acknowledged { call, .. } | What::Refused { call, .. } | What::HistoryRead { call, .. } => {
                self.outstanding.remove(call);
            }
            What::Position { replica, view, log_view, op, commit, .. } => {
                let position = format!("view {view} (log {log_view}), op {op}, commit {commit}");
                self.positions.insert(*replica, position);
            }
            What::Crashed { replica, .. } => {
                self.positions.insert(*replica, "down".into());
            }
            What::Waits { replica, what } => {
                self.positions.insert(*replica, what.clone());
                return Ok(());
            }
            What::Healed { .. } => self.healed = Some(seen.at),
            What::Quiet => {
                self.quiet = Some(seen.at);
                return self.in_time(seen.at);
            }
            _ => {}
        }
        // Not only at the end: a run that never becomes quiet need not be simulated any further.
        self.in_time(seen.at)
    }

    fn finish(&mut self, _: &Final) -> Result<(), Violation> {
        match (self.healed, self.quiet) {
            (None, _) => violated(NAME, "the run ended before anything was healed"),
            (Some(_), None) => {
                violated(NAME, format!("the run ended before all was quiet: {}", self.standstill()))
            }
            (Some(_), Some(_)) => Ok(()),
        }
    }
}

impl Liveness {
    fn in_time(&self, now: Instant) -> Result<(), Violation> {
        match (self.healed, self.quiet) {
            (Some(healed), None) if now.since(healed) > BOUND => {}
            (Some(healed), Some(quiet)) if quiet.since(healed) > BOUND => {}
            _ => return Ok(()),
        }
        let bound = BOUND.as_secs();
        violated(NAME, format!("not quiet {bound} s after a quorum was healed: {}", self.standstill()))
    }

    fn standstill(&self) -> String {
        let mut report = format!("{} calls outstanding", self.outstanding.len());
        for (replica, position) in &self.positions {
            report.push_str(&format!("; replica {}: {position}", replica.0));
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    #[test]
    fn a_run_that_becomes_quiet_too_late_is_found() {
        let mut story = Story::good();
        let healed = story.at(|what| matches!(what, What::Healed { .. }));
        story.delay(|what| matches!(what, What::Quiet), healed.after(BOUND));
        assert_eq!(story.judge::<Liveness>(), Ok(()));
        story.delay(|what| matches!(what, What::Quiet), healed.after(BOUND + Duration::from_nanos(1)));
        story.violates::<Liveness>("not quiet 60 s after a quorum was healed: 0 calls outstanding");
    }

    #[test]
    fn h20_a_standstill_is_found_and_says_where_each_replica_stands() {
        let mut story = Story::good();
        story.remove(|what| matches!(what, What::Quiet));
        story.remove(|what| matches!(what, What::Acknowledged { call: CallId(2), .. }));
        story.violates::<Liveness>("1 calls outstanding; replica 0: view 0 (log 0), op 6");
    }
}
