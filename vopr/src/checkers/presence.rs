//! When all is quiet, the users present in a room are those with a live connection that joined it: nobody is
//! missing, and no ghost survived its lease.

use std::collections::{BTreeMap, BTreeSet};

use io_sim::history::{Final, Observation, Violation};

use super::{Checker, violated};

const NAME: &str = "presence";

#[derive(Debug, Default)]
pub struct Presence;

impl Checker for Presence {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, _: &Observation) -> Result<(), Violation> {
        Ok(())
    }

    fn finish(&mut self, end: &Final) -> Result<(), Violation> {
        let connected: BTreeMap<&str, BTreeSet<&str>> =
            end.connected.iter().map(|(room, users)| (room.as_str(), names(users))).collect();
        let nobody = BTreeSet::new();
        for replica in &end.replicas {
            let mut rooms: BTreeMap<&str, BTreeSet<&str>> =
                replica.rooms.iter().map(|room| (room.room.as_str(), names(&room.present))).collect();
            for room in connected.keys() {
                rooms.entry(room).or_default();
            }
            for (room, present) in rooms {
                let here = connected.get(room).unwrap_or(&nobody);
                let number = replica.replica.0;
                if let Some(ghost) = present.difference(here).next() {
                    return violated(
                        NAME,
                        format!("replica {number} shows {ghost} in room {room}, who is not there"),
                    );
                }
                if let Some(missed) = here.difference(&present).next() {
                    return violated(
                        NAME,
                        format!("replica {number} misses {missed}, who is in room {room}"),
                    );
                }
            }
        }
        Ok(())
    }
}

fn names(users: &[String]) -> BTreeSet<&str> {
    users.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    #[test]
    fn a_ghost_is_found() {
        let mut story = Story::good();
        story.end.replicas[2].rooms[0].present.push("mallory".into());
        story.violates::<Presence>("replica 2 shows mallory in room general, who is not there");
    }

    #[test]
    fn a_connected_user_who_is_not_shown_is_found() {
        let mut story = Story::good();
        story.end.replicas[0].rooms[0].present.remove(0);
        story.violates::<Presence>("replica 0 misses alice, who is in room general");
    }

    #[test]
    fn a_user_connected_to_a_room_that_a_replica_does_not_know_is_found() {
        let mut story = Story::good();
        story.end.connected.push(("lobby".into(), vec!["bob".into()]));
        story.violates::<Presence>("replica 0 misses bob, who is in room lobby");
    }
}
