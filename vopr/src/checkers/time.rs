//! No entry is dated later than the clocks that agree may be (H60): one bad clock delays or annoys, and poisons nothing.
//!
//! Time that the log gives comes from what a quorum of clocks shares, or goes on from what it gave before. So it is never
//! much ahead of the clock that is as far ahead as the quorum's last: of three the second. How far a clock was ever ahead
//! counts, since others may know it from then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use io_sim::clock::wall;
use io_sim::history::{Final, Observation, Violation, What};
use tigerchat_core::types::{Instant, ReplicaId};
use tigerchat_core::vsr::membership::Members;

use super::{Checker, violated};

const NAME: &str = "time";

/// How much later than the clock that counts an entry may be dated: what clocks may differ and still agree, how long
/// the question for the time took over slow links, and how much clocks ran too fast since.
const ALLOWED: Duration = Duration::from_secs(6);

#[derive(Debug, Default)]
pub struct Time {
    /// Nanoseconds by which the clock of each replica was ever ahead of the world's, at most.
    ahead: BTreeMap<ReplicaId, i128>,
    voters: BTreeSet<ReplicaId>,
    /// The fewest clocks that ever had to agree.
    fewest: Option<usize>,
    /// The latest op that was executed anywhere: each is looked at once.
    executed: u64,
}

impl Checker for Time {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match &seen.what {
            What::Clock { replica, ahead } => {
                let most = self.ahead.entry(*replica).or_insert(i128::MIN);
                *most = i128::from(*ahead).max(*most);
                Ok(())
            }
            What::Members { members, .. } => {
                self.members(members);
                Ok(())
            }
            What::Executed { op, time, .. } if *op > self.executed => {
                self.executed = *op;
                self.dated(*op, *time, seen.at)
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, _: &Final) -> Result<(), Violation> {
        Ok(())
    }
}

impl Time {
    fn members(&mut self, members: &Members) {
        let quorums = members.quorums();
        let clocks = usize::from(quorums.replication.min(quorums.replicas / 2 + 1));
        self.fewest = Some(self.fewest.map_or(clocks, |fewest| fewest.min(clocks)));
        self.voters.extend(members.voters());
    }

    fn dated(&self, op: u64, time: u64, at: Instant) -> Result<(), Violation> {
        let mut ahead: Vec<i128> =
            self.ahead.iter().filter(|(id, _)| self.voters.contains(id)).map(|(_, ahead)| *ahead).collect();
        ahead.sort_unstable_by(|one, other| other.cmp(one));
        let Some(bound) = self.fewest.and_then(|fewest| ahead.get(fewest.checked_sub(1)?)) else {
            return Ok(());
        };
        let early = i128::from(time) - i128::from(wall(at).0);
        if early <= bound + i128::try_from(ALLOWED.as_nanos()).expect("seconds") {
            return Ok(());
        }
        let ms = |nanos: i128| nanos / 1_000_000;
        violated(
            NAME,
            format!(
                "op {op} is dated {} ms too late, and the clocks that count were {} ms ahead at most",
                ms(early),
                ms(*bound)
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    const MINUTE: u64 = 60_000_000_000;

    fn ahead(replicas: &[u16]) -> Story {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Clock { replica, ahead } = what
                && replicas.contains(&replica.0)
            {
                *ahead = MINUTE.cast_signed();
            }
            if let What::Executed { op, time, .. } = what
                && *op >= 3
            {
                *time += MINUTE;
            }
        });
        story
    }

    #[test]
    fn time_by_the_clocks_keeps_the_promise() {
        assert_eq!(Story::good().judge::<Time>(), Ok(()));
        assert_eq!(ahead(&[0, 2]).judge::<Time>(), Ok(()), "two of three say so");
    }

    #[test]
    fn h60_a_log_dated_by_one_bad_clock_is_found() {
        ahead(&[1]).violates::<Time>("and the clocks that count were 0 ms ahead at most");
    }
}
