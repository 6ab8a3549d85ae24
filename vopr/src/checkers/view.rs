//! A replica's position never goes back (I07, I10), whatever crashes: view, log_view and checkpoint for ever, its
//! commit number within one process start (a restart replays from its checkpoint).

use std::collections::BTreeMap;

use io_sim::history::{Final, Observation, Violation, What};
use tigerchat_core::types::ReplicaId;

use super::{Checker, violated};

const NAME: &str = "view";

#[derive(Debug, Default)]
pub struct View {
    last: BTreeMap<ReplicaId, Position>,
}

#[derive(Clone, Copy, Debug)]
struct Position {
    incarnation: u64,
    view: u64,
    log_view: u64,
    op: u64,
    commit: u64,
    checkpoint: u64,
}

impl Checker for View {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        let What::Position { replica, incarnation, view, log_view, op, commit, checkpoint } = seen.what
        else {
            return Ok(());
        };
        let now = Position { incarnation, view, log_view, op, commit, checkpoint };
        if let Err(what) = now.is_in_order() {
            return violated(NAME, format!("replica {}: {what}", replica.0));
        }
        match self.last.insert(replica, now).map(|last| now.follows(&last)) {
            Some(Err(what)) => violated(NAME, format!("replica {}: {what}", replica.0)),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, _: &Final) -> Result<(), Violation> {
        Ok(())
    }
}

impl Position {
    fn is_in_order(&self) -> Result<(), String> {
        let ascending = [
            (("log_view", self.log_view), ("view", self.view)),
            (("checkpoint", self.checkpoint), ("commit", self.commit)),
            (("commit", self.commit), ("op", self.op)),
        ];
        match ascending.iter().find(|(low, high)| low.1 > high.1) {
            Some((low, high)) => Err(format!("{} {} is above {} {}", low.0, low.1, high.0, high.1)),
            None => Ok(()),
        }
    }

    fn follows(&self, last: &Self) -> Result<(), String> {
        // Across a restart what was executed since the checkpoint is executed again.
        let commit = if self.incarnation == last.incarnation { last.commit } else { last.checkpoint };
        let monotone = [
            ("incarnation", last.incarnation, self.incarnation),
            ("view", last.view, self.view),
            ("log_view", last.log_view, self.log_view),
            ("commit", commit, self.commit),
            ("checkpoint", last.checkpoint, self.checkpoint),
        ];
        match monotone.iter().find(|(_, before, now)| now < before) {
            Some((name, before, now)) => Err(format!("{name} went back from {before} to {now}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    fn position(incarnation: u64, log_view: u64, commit: u64) -> What {
        let replica = ReplicaId(0);
        What::Position { replica, incarnation, view: 7, log_view, op: 40, commit, checkpoint: 20 }
    }

    fn judge(positions: &[What]) -> Result<(), Violation> {
        let mut story = Story::default();
        story.extend(positions.to_vec());
        story.judge::<View>()
    }

    #[test]
    fn h02_a_log_view_that_goes_back_over_a_restart_is_found() {
        assert_eq!(judge(&[position(1, 6, 30), position(2, 6, 20)]), Ok(()));
        let violation = judge(&[position(1, 6, 30), position(2, 5, 20)]).unwrap_err();
        assert_eq!(violation.what, "replica 0: log_view went back from 6 to 5");
    }

    #[test]
    fn a_commit_number_that_goes_back_without_a_restart_is_found() {
        let violation = judge(&[position(1, 6, 30), position(1, 6, 29)]).unwrap_err();
        assert_eq!(violation.what, "replica 0: commit went back from 30 to 29");
    }

    #[test]
    fn a_restart_below_the_own_checkpoint_is_found() {
        let back = What::Position {
            replica: ReplicaId(0),
            incarnation: 2,
            view: 7,
            log_view: 6,
            op: 40,
            commit: 10,
            checkpoint: 10,
        };
        let violation = judge(&[position(1, 6, 30), back]).unwrap_err();
        assert_eq!(violation.what, "replica 0: commit went back from 20 to 10");
    }

    #[test]
    fn an_incarnation_used_twice_is_found() {
        let violation = judge(&[position(3, 6, 30), position(2, 6, 30)]).unwrap_err();
        assert_eq!(violation.what, "replica 0: incarnation went back from 3 to 2");
    }

    #[test]
    fn a_log_view_above_the_view_is_found() {
        let violation = judge(&[position(1, 8, 30)]).unwrap_err();
        assert_eq!(violation.what, "replica 0: log_view 8 is above view 7");
    }

    #[test]
    fn a_commit_number_above_the_head_is_found() {
        let violation = judge(&[position(1, 6, 41)]).unwrap_err();
        assert_eq!(violation.what, "replica 0: commit 41 is above op 40");
    }
}
