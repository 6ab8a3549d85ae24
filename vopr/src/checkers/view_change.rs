//! Once a quorum can talk, a view change completes within [`BOUND`] (I20): from the first replica that leaves the
//! view until a newer one has its log, which its primary is the first to have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use io_sim::history::{Final, Observation, Violation, What};
use tigerchat_core::types::{Instant, ReplicaId};

use super::{Checker, violated};

const NAME: &str = "view_change";

/// Virtual time that a view change may take among healed replicas: four attempts of the greatest patience, 4.8 s,
/// which those have who tried in vain before the healing.
pub const BOUND: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
pub struct ViewChange {
    /// Known from the healing on.
    healed: Option<(Instant, BTreeSet<ReplicaId>)>,
    /// View and `log_view`, as they were last durable at each replica.
    positions: BTreeMap<ReplicaId, (u64, u64)>,
    changes: Changes,
}

/// Among some replicas: the view that has a log, and since when a higher one has none.
#[derive(Debug, Default)]
pub struct Changes {
    settled: u64,
    entered: u64,
    since: Option<Instant>,
    /// How long each view change took that came to its end.
    pub took: Vec<Duration>,
}

impl Changes {
    /// A replica stands in a view, and has the log of another.
    pub fn stands(&mut self, at: Instant, view: u64, log_view: u64) {
        self.entered = self.entered.max(view);
        self.settled = self.settled.max(log_view);
        if self.entered > self.settled {
            self.since.get_or_insert(at);
        } else if let Some(since) = self.since.take() {
            self.took.push(at.since(since));
        }
    }

    /// For a listener that only measures.
    pub fn observe(&mut self, seen: &Observation) {
        if let What::Position { view, log_view, .. } = seen.what {
            self.stands(seen.at, view, log_view);
        }
    }
}

impl Checker for ViewChange {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match &seen.what {
            What::Position { replica, view, log_view, .. } => {
                self.positions.insert(*replica, (*view, *log_view));
                if self.healed.as_ref().is_some_and(|(_, core)| core.contains(replica)) {
                    self.changes.stands(seen.at, *view, *log_view);
                }
            }
            What::Healed { core } => {
                // What stays broken may know of a newer view, but nobody will ever hear of it.
                let among = self.positions.iter().filter(|(replica, _)| core.contains(replica));
                let highest = |one: (u64, u64), other: &(u64, u64)| (one.0.max(other.0), one.1.max(other.1));
                let (view, log_view) = among.map(|(_, position)| position).fold((0, 0), highest);
                self.changes.stands(seen.at, view, log_view);
                self.healed = Some((seen.at, core.iter().copied().collect()));
            }
            _ => {}
        }
        self.in_time(seen.at)
    }

    fn finish(&mut self, _: &Final) -> Result<(), Violation> {
        Ok(())
    }
}

impl ViewChange {
    fn in_time(&self, now: Instant) -> Result<(), Violation> {
        let open = self.changes.since.filter(|since| now.since(*since) > BOUND);
        let last = self.changes.took.last().filter(|took| **took > BOUND);
        if open.is_none() && last.is_none() {
            return Ok(());
        }
        let Changes { settled, entered, .. } = self.changes;
        let mut what = format!("a view change among healed replicas took more than {} s", BOUND.as_secs());
        if open.is_some() {
            what.push_str(&format!(": view {entered} was entered, the newest log is that of {settled}"));
        }
        violated(NAME, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    fn position(replica: u16, view: u64, log_view: u64) -> What {
        let (replica, op, commit, checkpoint) = (ReplicaId(replica), 6, 6, 4);
        What::Position { replica, incarnation: 1, view, log_view, op, commit, checkpoint }
    }

    /// A history in which, after the healing, replica 0 enters view 1, and replica 1 has its log `later`.
    fn story(core: &[u16], later: Duration) -> Story {
        let mut story = Story::default();
        story.extend(vec![position(0, 0, 0), position(1, 0, 0), position(2, 0, 0)]);
        story.push(What::Healed { core: core.iter().map(|id| ReplicaId(*id)).collect() });
        story.push(position(0, 1, 0));
        let began = story.at(|what| *what == position(0, 1, 0));
        story.push(position(1, 1, 1));
        story.delay(|what| *what == position(1, 1, 1), began.after(later));
        story
    }

    #[test]
    fn a_view_change_that_takes_too_long_is_found() {
        assert_eq!(story(&[0, 1], BOUND).judge::<ViewChange>(), Ok(()));
        let late = story(&[0, 1], BOUND + Duration::from_nanos(1)).judge::<ViewChange>().unwrap_err();
        assert_eq!(late.what, "a view change among healed replicas took more than 20 s");
    }

    #[test]
    fn a_view_change_that_never_ends_is_found_while_other_things_happen() {
        let mut story = story(&[0, 1], BOUND + Duration::from_secs(1));
        story.change(|what| {
            if *what == position(1, 1, 1) {
                *what = position(1, 1, 0);
            }
        });
        let stuck = story.judge::<ViewChange>().unwrap_err();
        assert!(stuck.what.ends_with(": view 1 was entered, the newest log is that of 0"), "{}", stuck.what);
    }

    #[test]
    fn a_view_that_only_a_broken_replica_knows_is_nobodys_business() {
        let late = BOUND + Duration::from_secs(1);
        assert_eq!(story(&[1, 2], late).judge::<ViewChange>(), Ok(()));
    }

    #[test]
    fn time_before_the_healing_does_not_count() {
        let mut story = Story::default();
        story.extend(vec![position(0, 1, 0)]);
        let core = vec![ReplicaId(0), ReplicaId(1)];
        story.push(What::Healed { core });
        let healed = story.at(|what| matches!(what, What::Healed { .. })).after(BOUND);
        story.delay(|what| matches!(what, What::Healed { .. }), healed);
        story.push(position(1, 1, 1));
        assert_eq!(story.judge::<ViewChange>(), Ok(()));
    }

    #[test]
    fn attempts_that_fail_belong_to_the_view_change_that_succeeds() {
        let mut changes = Changes::default();
        for (at, view, log_view) in
            [(1, 0, 0), (5, 1, 0), (9, 2, 0), (12, 2, 2), (20, 2, 0), (30, 3, 2), (31, 3, 3)]
        {
            changes.stands(Instant(at), view, log_view);
        }
        assert_eq!(changes.took, [Duration::from_nanos(7), Duration::from_nanos(1)]);
    }
}
