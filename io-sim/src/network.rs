//! The links between processes.
//!
//! The one law: **a frame is bytes while it is on its way**, and what becomes of it is decided by its link alone:
//! lost, doubled, late, overtaken, or recorded and delivered again seconds later. Nothing invents a frame.

use std::time::Duration;

use tigerchat_core::types::Instant;
use tigerchat_core::wire::frame::Command;

use crate::faults::{FrameFaults, Latency};
use crate::random::{Random, nanos};
use crate::report::{Fate, FrameCounts};

/// A process by its number in the world.
pub type Place = usize;

/// All links, and what happens on them.
#[derive(Debug)]
pub struct Network {
    places: usize,
    latency: Latency,
    faults: Option<FrameFaults>,
    /// By `from * places + to`.
    links: Vec<Link>,
    random: Random,
    counts: FrameCounts,
}

/// One direction between two processes.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    cut: bool,
    /// Cut for good.
    broken: bool,
    /// Healed for good: no fault touches it any more.
    sound: bool,
    /// The last arrival, before which nothing arrives on a link that keeps order.
    last: Instant,
}

impl Network {
    #[must_use]
    pub fn new(places: usize, latency: Latency, faults: Option<FrameFaults>, random: Random) -> Self {
        let links = vec![Link::default(); places * places];
        Self { places, latency, faults, links, random, counts: FrameCounts::default() }
    }

    /// A frame leaves: when it arrives, each time that it does.
    pub fn send(
        &mut self,
        now: Instant,
        from: Place,
        to: Place,
        command: Command,
        arrivals: &mut Vec<Instant>,
    ) {
        self.counts.count(command, Fate::Sent);
        let link = self.at(from, to);
        if self.links[link].cut {
            return self.counts.count(command, Fate::Dropped);
        }
        let sound = self.links[link].sound;
        let faults = self.faults.clone().filter(|_| !sound);
        let in_order = faults.as_ref().is_none_or(|faults| !faults.reorder);
        let arrival = self.arrival(now, link, sound, in_order, command);
        let Some(faults) = faults else { return arrivals.push(arrival) };
        if self.random.chance(faults.drop) {
            self.counts.count(command, Fate::Dropped);
        } else {
            arrivals.push(arrival);
            if self.random.chance(faults.duplicate) {
                self.counts.count(command, Fate::Duplicated);
                arrivals.push(arrival.after(Duration::from_nanos(self.random.below(5_000_000))));
            }
        }
        if self.random.chance(faults.replay) {
            self.counts.count(command, Fate::Replayed);
            arrivals.push(arrival.after(self.random.duration(&faults.replay_after)));
        }
    }

    /// Whether a frame that arrives now on this link is heard.
    #[must_use]
    pub fn is_up(&self, from: Place, to: Place) -> bool {
        !self.links[self.at(from, to)].cut
    }

    /// Cuts or mends one direction.
    pub fn set_cut(&mut self, from: Place, to: Place, cut: bool) {
        let link = self.at(from, to);
        let link = &mut self.links[link];
        link.cut = link.broken || (cut && !link.sound);
    }

    /// Cuts one direction for good.
    pub fn break_link(&mut self, from: Place, to: Place) {
        let link = self.at(from, to);
        self.links[link] = Link { cut: true, broken: true, ..self.links[link] };
    }

    /// Cuts or mends everything to and from a process.
    pub fn set_isolated(&mut self, place: Place, cut: bool) {
        for other in (0..self.places).filter(|other| *other != place) {
            self.set_cut(place, other, cut);
            self.set_cut(other, place, cut);
        }
    }

    /// From now on nothing goes wrong between these two.
    pub fn heal(&mut self, one: Place, other: Place) {
        for link in [self.at(one, other), self.at(other, one)] {
            self.links[link].cut = false;
            self.links[link].sound = true;
        }
    }

    /// A frame that arrived was not heard: its link was cut, or nobody lives there.
    pub fn lost(&mut self, command: Command) {
        self.counts.count(command, Fate::Dropped);
    }

    #[must_use]
    pub fn counts(&self) -> &FrameCounts {
        &self.counts
    }

    fn arrival(
        &mut self,
        now: Instant,
        link: usize,
        sound: bool,
        in_order: bool,
        command: Command,
    ) -> Instant {
        let Latency { base, jitter, tail_chance, tail } = self.latency;
        let usual = base + Duration::from_nanos(self.random.within(0..=nanos(jitter)));
        let mut arrival = now.after(usual);
        if !sound && self.random.chance(tail_chance) {
            self.counts.count(command, Fate::Delayed);
            arrival = arrival.after(Duration::from_nanos(self.random.within(0..=nanos(tail))));
        }
        let link = &mut self.links[link];
        if in_order {
            arrival = arrival.max(link.last);
        }
        link.last = link.last.max(arrival);
        arrival
    }

    fn at(&self, from: Place, to: Place) -> usize {
        from * self.places + to
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::ALWAYS;

    const COMMAND: Command = Command::Prepare;

    fn network(faults: Option<FrameFaults>) -> Network {
        let (base, jitter) = (Duration::from_micros(100), Duration::from_micros(50));
        let latency = Latency { base, jitter, tail_chance: 200_000, tail: Duration::from_millis(20) };
        Network::new(3, latency, faults, Random::new(1, "network", 0))
    }

    fn faults() -> FrameFaults {
        let replay_after = Duration::from_secs(1)..=Duration::from_secs(2);
        FrameFaults { drop: 0, duplicate: 0, replay: 0, replay_after, reorder: true }
    }

    /// Arrivals of a hundred frames, sent a microsecond apart.
    fn hundred(network: &mut Network, from: Place, to: Place) -> Vec<Instant> {
        let mut arrivals = Vec::new();
        for at in 0..100 {
            network.send(Instant(at * 1000), from, to, COMMAND, &mut arrivals);
        }
        arrivals
    }

    #[test]
    fn without_faults_every_frame_arrives_once_and_in_order() {
        let mut network = network(None);
        let arrivals = hundred(&mut network, 0, 1);
        assert_eq!(arrivals.len(), 100);
        assert!(arrivals.is_sorted());
        assert!(arrivals[0] >= Instant(100_000));
    }

    #[test]
    fn frames_overtake_each_other_only_where_reordering_was_drawn() {
        assert!(!hundred(&mut network(Some(faults())), 0, 1).is_sorted());
        let ordered = FrameFaults { reorder: false, ..faults() };
        assert!(hundred(&mut network(Some(ordered)), 0, 1).is_sorted());
    }

    #[test]
    fn dropped_doubled_and_replayed_frames_are_counted() {
        let mut network = network(Some(FrameFaults { drop: ALWAYS, ..faults() }));
        assert_eq!(hundred(&mut network, 0, 1), []);
        network.faults = Some(FrameFaults { duplicate: ALWAYS, ..faults() });
        assert_eq!(hundred(&mut network, 0, 1).len(), 200);
        network.faults = Some(FrameFaults { drop: ALWAYS, replay: ALWAYS, ..faults() });
        let replayed = hundred(&mut network, 0, 1);
        assert_eq!(replayed.len(), 100);
        assert!(replayed.iter().all(|at| *at >= Instant(1_000_000_000)));
        let [sent, dropped, duplicated, delayed, again] = network.counts().of(COMMAND);
        assert_eq!((sent, dropped, duplicated, again), (300, 200, 100, 100));
        assert!(delayed > 0);
    }

    #[test]
    fn h18_a_link_may_be_cut_in_one_direction_only() {
        let mut network = network(None);
        network.set_cut(0, 1, true);
        assert_eq!(hundred(&mut network, 0, 1), []);
        assert_eq!(hundred(&mut network, 1, 0).len(), 100);
        network.set_isolated(2, true);
        assert_eq!(hundred(&mut network, 2, 1), []);
        assert_eq!(hundred(&mut network, 1, 2), []);
        network.set_isolated(2, false);
        assert_eq!(hundred(&mut network, 1, 2).len(), 100);
    }

    #[test]
    fn nothing_goes_wrong_any_more_on_a_healed_link() {
        let mut network = network(Some(FrameFaults { drop: ALWAYS, replay: ALWAYS, ..faults() }));
        network.set_cut(0, 1, true);
        network.heal(0, 1);
        network.set_cut(0, 1, true);
        let arrivals = hundred(&mut network, 0, 1);
        assert_eq!(arrivals.len(), 100);
        assert!(arrivals.is_sorted());
    }
}
