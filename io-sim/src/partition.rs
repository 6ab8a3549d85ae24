//! Links that are cut together, slow links, connections that break.
//!
//! The one law: **who still reaches whom is a list of links**, decided as the trouble begins and mended as a whole.

use std::time::Duration;

use crate::faults::{PartitionShape, Partitions};
use crate::network::Place;
use crate::random::Ppm;
use crate::trouble::Trouble;
use crate::world::{Event, World};

/// A partition leaves the links of edges alone.
const EDGES_REACH_ALL: Ppm = 350_000;

impl World<'_> {
    pub(crate) fn some_partition(&mut self) {
        let Some(knobs) = self.drawn.partitions.clone() else { return };
        self.trouble_after(knobs.every, Trouble::Partition);
        let links = self.partition(&knobs);
        self.set_cut(&links, true);
        let flaps = u32::from(self.random.chance(knobs.flapping)) * 6;
        let end = self.now.after(self.random.duration(&knobs.lasting));
        self.schedule(end, Event::Trouble(Trouble::Mend(links, flaps)));
    }

    pub(crate) fn set_cut(&mut self, links: &[(Place, Place)], cut: bool) {
        links.iter().for_each(|(from, to)| self.network.set_cut(*from, *to, cut));
    }

    pub(crate) fn flap_after(&mut self, next: Trouble) {
        let at = self.soon(Duration::from_millis(60));
        self.schedule(at, Event::Trouble(next));
    }

    /// One process's link to another, in one direction, or all that it has, are slow for a while.
    pub(crate) fn some_slow_link(&mut self) {
        let Some(knobs) = self.drawn.slow_links.clone() else { return };
        self.trouble_after(knobs.every, Trouble::SlowLink);
        let until = self.now.after(self.random.duration(&knobs.lasting));
        let (one, other) = self.two_places();
        let all = self.random.chance(300_000);
        for to in (0..self.processes.len()).filter(|to| *to != one && (all || *to == other)) {
            self.network.slow_down(one, to, until, knobs.factor);
            if all {
                self.network.slow_down(to, one, until, knobs.factor);
            }
        }
    }

    pub(crate) fn some_reset(&mut self) {
        let Some(every) = self.drawn.resets else { return };
        self.trouble_after(every, Trouble::Reset);
        let (one, other) = self.two_places();
        self.network.reset(one, other);
    }

    fn two_places(&mut self) -> (Place, Place) {
        let places = self.processes.len();
        let one = self.random.index(places);
        (one, (one + 1 + self.random.index(places - 1)) % places)
    }

    /// The links that a partition cuts.
    fn partition(&mut self, knobs: &Partitions) -> Vec<(Place, Place)> {
        let one_way = self.random.chance(knobs.one_way);
        let outward = self.random.chance(500_000);
        let edges_reach_all = self.random.chance(EDGES_REACH_ALL);
        let (places, replicas) = (self.processes.len(), self.replicas());
        let shape = *self.random.pick(&knobs.shapes);
        let sides = self.sides(shape, knobs.at_primary);
        let pairs = (0..places).flat_map(|from| (0..places).map(move |to| (from, to)));
        let cut = pairs.filter(|(from, to)| {
            let spared = edges_reach_all && (*from >= replicas || *to >= replicas);
            let direction = !one_way || (sides.of[*from] > sides.of[*to]) == outward;
            from != to && !spared && direction && !sides.reach(*from, *to)
        });
        cut.collect()
    }

    fn sides(&mut self, shape: PartitionShape, at_primary: Ppm) -> Sides {
        let (places, replicas) = (self.processes.len(), self.replicas());
        let victim = self.victim(at_primary);
        let halves = |world: &mut Self| (0..places).map(|_| world.random.index(2)).collect();
        let of: Vec<usize> = match shape {
            PartitionShape::Split | PartitionShape::Bridge => halves(self),
            PartitionShape::Isolate => {
                // Edges reach the one that its peers can't, or the others, or both.
                let with_victim = self.random.chance(500_000);
                let side = |place| usize::from(place == victim || (place >= replicas && with_victim));
                (0..places).map(side).collect()
            }
            PartitionShape::Ring => {
                let mut round: Vec<usize> = (0..replicas).collect();
                for last in (1..replicas).rev() {
                    round.swap(last, self.random.index(last + 1));
                }
                round.extend(replicas..places);
                round
            }
        };
        Sides { shape, of, replicas, bridge: victim }
    }
}

/// Where each process stands in a partition.
struct Sides {
    shape: PartitionShape,
    /// The side of each; in a ring its position.
    of: Vec<usize>,
    replicas: usize,
    bridge: Place,
}

impl Sides {
    fn reach(&self, one: Place, other: Place) -> bool {
        let same = self.of[one] == self.of[other];
        match self.shape {
            PartitionShape::Isolate | PartitionShape::Split => same,
            PartitionShape::Bridge => same || one == self.bridge || other == self.bridge,
            PartitionShape::Ring if one.max(other) >= self.replicas => true,
            PartitionShape::Ring => {
                let apart = self.of[one].abs_diff(self.of[other]);
                apart == 1 || apart + 1 == self.replicas
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(shape: PartitionShape, of: [usize; 5], one: Place) -> Vec<Place> {
        let sides = Sides { shape, of: of.to_vec(), replicas: 4, bridge: 1 };
        (0..5).filter(|other| *other != one && sides.reach(one, *other)).collect()
    }

    #[test]
    fn each_shape_cuts_its_links() {
        assert_eq!(reached(PartitionShape::Split, [0, 0, 1, 1, 1], 0), [1]);
        assert_eq!(reached(PartitionShape::Bridge, [0, 0, 1, 1, 1], 1), [0, 2, 3, 4]);
        assert_eq!(reached(PartitionShape::Bridge, [0, 0, 1, 1, 1], 2), [1, 3, 4]);
        assert_eq!(reached(PartitionShape::Ring, [2, 0, 3, 1, 4], 0), [2, 3, 4]);
        assert_eq!(reached(PartitionShape::Ring, [2, 0, 3, 1, 4], 1), [2, 3, 4]);
    }
}
