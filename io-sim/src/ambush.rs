//! Faults that come together where they hurt most: a replication quorum is alone with the newest entries, and then
//! those who have them fall, some with damaged disks, while the others come back who never had them.
//!
//! This is what tells *lost it* from *never had it* (H27, H32), the canonical log from the longest (H01), what was
//! durable from what was sent (H04), and a primary from the one that it was before its restart (H05).

use std::time::Duration;

use crate::network::Place;
use crate::random::Ppm;
use crate::trouble::Trouble;
use crate::world::World;

/// New views that are ambushed.
const AT_NEW_VIEW: Ppm = 400_000;

impl World<'_> {
    /// The primary, a victim of damage if there is one, and as many more as make a replication quorum are cut off from
    /// the other replicas.
    pub(crate) fn lay_ambush(&mut self) {
        let Some(every) = self.drawn.ambushes else { return };
        self.trouble_after(every, Trouble::Ambush);
        let lasting = Duration::from_millis(self.random.within(20..=250));
        self.ambush(lasting);
    }

    /// A view that has just begun: what its log begins with is not committed yet, and known to few.
    pub(crate) fn perhaps_ambush_new_view(&mut self) {
        if self.views.len() <= self.views_seen {
            return;
        }
        self.views_seen = self.views.len();
        if self.drawn.ambushes.is_some() && !self.healed && self.random.chance(AT_NEW_VIEW) {
            let lasting = Duration::from_micros(self.random.within(500..=40_000));
            self.ambush(lasting);
        }
    }

    fn ambush(&mut self, lasting: Duration) {
        let Some(primary) = self.primary() else { return };
        let quorum = self.alone_with_the_newest(primary);
        let others: Vec<Place> = (0..self.replicas()).filter(|place| !quorum.contains(place)).collect();
        let links: Vec<(Place, Place)> = quorum
            .iter()
            .flat_map(|one| others.iter().flat_map(|other| [(*one, *other), (*other, *one)]))
            .collect();
        links.iter().for_each(|(from, to)| self.network.set_cut(*from, *to, true));
        self.schedule(self.now.after(lasting), crate::world::Event::Trouble(Trouble::Spring(links, quorum)));
    }

    fn alone_with_the_newest(&mut self, primary: Place) -> Vec<Place> {
        let size = usize::from(self.drawn.shape.quorums().replication);
        let mut quorum = vec![primary];
        let victims = self.drawn.damage.as_ref().map_or(Vec::new(), |damage| damage.victims.clone());
        let mut rest: Vec<Place> = (0..self.replicas()).filter(|place| *place != primary).collect();
        rest.sort_by_key(|place| !victims.iter().any(|victim| usize::from(*victim) == *place));
        while quorum.len() < size && !rest.is_empty() {
            // Victims come first; among equals chance decides.
            let at = if victims.is_empty() { self.random.index(rest.len()) } else { 0 };
            quorum.push(rest.remove(at));
        }
        quorum
    }

    /// The primary falls and stays away; each of the others of its quorum falls too, or not, and comes back at once.
    pub(crate) fn spring_ambush(&mut self, quorum: &[Place]) {
        let power = self.drawn.crashes.as_ref().is_some_and(|crashes| crashes.power > 0);
        for place in quorum.iter().skip(1) {
            if self.random.chance(800_000) {
                let power = power && self.random.chance(500_000);
                self.fall_and_rise(*place, power);
            }
        }
        if self.random.chance(900_000) {
            let power = power && self.random.chance(500_000);
            self.fall(quorum[0], power);
        }
    }
}
