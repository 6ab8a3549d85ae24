//! The members form one chain (I08, I29, H57): one list for each config number, quorums of neighbours share a voter,
//! no id comes back, and no replica goes back to older members.

use std::collections::BTreeMap;

use io_sim::history::{Final, Observation, Violation, What};
use tigerchat_core::types::ReplicaId;
use tigerchat_core::vsr::membership::Members;

use super::{Checker, violated};

const NAME: &str = "membership";

#[derive(Debug, Default)]
pub struct Membership {
    chain: BTreeMap<u32, Members>,
    /// The highest number by which each replica acted.
    acts_by: BTreeMap<ReplicaId, u32>,
}

impl Checker for Membership {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        let What::Members { replica, members } = &seen.what else { return Ok(()) };
        let (id, number) = (replica.0, members.number);
        let before = self.acts_by.insert(*replica, number);
        if let Some(before) = before.filter(|before| *before > number) {
            return violated(NAME, format!("replica {id} went back from members {before} to {number}"));
        }
        if let Some(known) = self.chain.get(&number) {
            return if known == members {
                Ok(())
            } else {
                violated(NAME, format!("replica {id} has other members {number}: {members:?}, not {known:?}"))
            };
        }
        self.chain.insert(number, members.clone());
        let neighbours = [number.checked_sub(1).map(|before| (before, number)), Some((number, number + 1))];
        neighbours.into_iter().flatten().try_for_each(|(one, next)| self.follow(one, next))
    }

    fn finish(&mut self, _: &Final) -> Result<(), Violation> {
        Ok(())
    }
}

impl Membership {
    fn follow(&self, one: u32, next: u32) -> Result<(), Violation> {
        let (Some(one), Some(next)) = (self.chain.get(&one), self.chain.get(&next)) else { return Ok(()) };
        let number = next.number;
        let returned = next.ids().find(|id| *id <= one.highest && one.get(*id).is_none());
        if let Some(id) = returned {
            return violated(NAME, format!("replica {} came back with members {number}", id.0));
        }
        if !share_voters(one, next) {
            return violated(NAME, format!("members {number} have a quorum without any of those before"));
        }
        Ok(())
    }
}

/// Whether every pair of quorums, one of each, shares a voter: all of them are tried.
fn share_voters(one: &Members, next: &Members) -> bool {
    let all: Vec<ReplicaId> = one.voters().chain(next.voters().filter(|id| !one.is_voter(*id))).collect();
    let sets = |members: &Members, size: u8| -> Vec<u32> {
        (0_u32..1 << all.len())
            .filter(|set| set.count_ones() == u32::from(size))
            .filter(|set| (0..all.len()).all(|at| set >> at & 1 == 0 || members.is_voter(all[at])))
            .collect()
    };
    let (a, b) = (one.quorums(), next.quorums());
    let pairs =
        [(a.replication, b.view_change), (a.view_change, b.replication), (a.view_change, b.view_change)];
    pairs.into_iter().all(|(mine, other)| {
        let others = sets(next, other);
        sets(one, mine).iter().all(|mine| others.iter().all(|other| mine & other != 0))
    })
}

#[cfg(test)]
mod tests {
    use tigerchat_core::vsr::membership::Change;

    use super::*;
    use crate::checkers::testing::Story;

    fn acts(replica: u16, members: &Members) -> What {
        What::Members { replica: ReplicaId(replica), members: members.clone() }
    }

    fn after(members: &Members, change: &Change) -> Members {
        members.after(change, ReplicaId(0), 0).unwrap()
    }

    #[test]
    fn h57_two_lists_of_one_number_are_found() {
        let mut story = Story::good();
        let first = Members::first(3, 2).unwrap();
        story.push(acts(0, &after(&first, &Change::Remove { id: ReplicaId(2) })));
        story.push(acts(1, &after(&first, &Change::Remove { id: ReplicaId(1) })));
        story.violates::<Membership>("replica 1 has other members 1");
    }

    #[test]
    fn h57_quorums_that_share_nobody_are_found() {
        let mut other = Members::first(3, 2).unwrap();
        other = after(&other, &Change::Replace { lost: ReplicaId(2), id: ReplicaId(3), address: vec![] });
        other = after(&other, &Change::Promote { id: ReplicaId(3) });
        other.number = 1;
        let mut story = Story::good();
        story.push(acts(0, &other));
        story.violates::<Membership>("members 1 have a quorum without any of those before");
    }

    #[test]
    fn an_id_that_comes_back_is_found() {
        let mut story = Story::good();
        let mut first = Members::first(3, 2).unwrap();
        story.push(acts(0, &after(&first, &Change::Remove { id: ReplicaId(2) })));
        first.number = 2;
        story.push(acts(1, &first));
        story.violates::<Membership>("replica 2 came back with members 2");
    }

    #[test]
    fn a_replica_that_goes_back_is_found() {
        let mut story = Story::good();
        let first = Members::first(3, 2).unwrap();
        story.push(acts(0, &after(&first, &Change::Remove { id: ReplicaId(2) })));
        story.push(acts(0, &first));
        story.violates::<Membership>("replica 0 went back from members 1 to 0");
    }
}
