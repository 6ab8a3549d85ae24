//! What an operator does to a shard that serves: gives its lead to another replica, well chosen or not (H58).

use tigerchat_core::errors::ErrorCode;
use tigerchat_core::types::ReplicaId;

use crate::network::Place;
use crate::process::Role;
use crate::random::Ppm;
use crate::trouble::Trouble;
use crate::world::World;

/// The replica itself chooses whom.
const ANYBODY: Ppm = 300_000;
/// Whoever is to lead falls in the midst of it.
const TARGET_FALLS: Ppm = 100_000;

impl World<'_> {
    /// Two balancers that know nothing of each other, or of how the target is.
    pub(crate) fn some_hand_over(&mut self) {
        let Some(every) = self.drawn.hand_overs else { return };
        self.trouble_after(every, Trouble::HandOver);
        let target = self.random.index(self.replicas());
        let anybody = self.random.chance(ANYBODY);
        let falls = self.random.chance(TARGET_FALLS) && self.drawn.crashes.is_some();
        let begun = self.hand_over((!anybody).then_some(target)).is_ok();
        if begun && falls && !anybody {
            self.fall(target, false);
        }
    }

    /// Tells whoever leads to give the lead to a replica, or to whoever is best.
    pub fn hand_over(&mut self, target: Option<Place>) -> Result<(), ErrorCode> {
        let target = target.and_then(|place| match self.processes[place].role {
            Role::Replica(id) => Some(id),
            Role::Edge(_) => None,
        });
        let primary = self.primary().filter(|place| self.processes[*place].paused_until <= self.now);
        let primary = primary.ok_or(ErrorCode::NoLeader)?;
        self.hand_over_from(primary, target)
    }

    fn hand_over_from(&mut self, primary: Place, target: Option<ReplicaId>) -> Result<(), ErrorCode> {
        let (result, acts) = self.processes[primary].hand_over(self.now, target);
        self.after_turn(primary, acts);
        result
    }
}
