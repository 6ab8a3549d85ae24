//! When all is quiet, the healed replicas hold one state (I04, I13): the same commit number, the same digest, the
//! same rooms.

use io_sim::history::{Final, FinalReplica, Observation, Violation};

use super::{Checker, violated};

const NAME: &str = "convergence";

#[derive(Debug, Default)]
pub struct Convergence;

impl Checker for Convergence {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, _: &Observation) -> Result<(), Violation> {
        Ok(())
    }

    fn finish(&mut self, end: &Final) -> Result<(), Violation> {
        let Some((first, rest)) = end.replicas.split_first() else {
            return violated(NAME, "no replica is left at the end");
        };
        rest.iter().try_for_each(|other| same(first, other))
    }
}

fn same(first: &FinalReplica, other: &FinalReplica) -> Result<(), Violation> {
    let (a, b) = (first.replica.0, other.replica.0);
    if first.commit != other.commit {
        let (of_a, of_b) = (first.commit, other.commit);
        return violated(NAME, format!("replica {a} ends at op {of_a}, replica {b} at op {of_b}"));
    }
    if first.rooms != other.rooms {
        let differs = first.rooms.iter().zip(&other.rooms).find(|(room, twin)| room != twin);
        let room = differs.map_or("the number of rooms", |(room, _)| room.room.as_str());
        return violated(NAME, format!("replicas {a} and {b} end with different rooms: {room}"));
    }
    if first.state != other.state {
        let (of_a, of_b) = (first.state, other.state);
        return violated(NAME, format!("the state of replica {a} ends as {of_a:?}, that of {b} as {of_b:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tigerchat_core::wire::entry::Digest;

    use super::*;
    use crate::checkers::testing::Story;

    #[test]
    fn a_healed_replica_that_stays_behind_is_found() {
        let mut story = Story::good();
        story.end.replicas[2].commit -= 1;
        story.violates::<Convergence>("replica 0 ends at op 6, replica 2 at op 5");
    }

    #[test]
    fn two_states_at_the_end_are_found() {
        let mut story = Story::good();
        story.end.replicas[1].state = Digest([9; 32]);
        story.violates::<Convergence>("that of 1 as 0909090909090909");
    }

    #[test]
    fn two_histories_at_the_end_are_found() {
        let mut story = Story::good();
        story.end.replicas[1].rooms[0].messages[0].body.push(b'!');
        story.violates::<Convergence>("replicas 0 and 1 end with different rooms: general");
    }

    #[test]
    fn an_end_without_replicas_is_found() {
        let mut story = Story::good();
        story.end.replicas.clear();
        story.violates::<Convergence>("no replica is left at the end");
    }
}
