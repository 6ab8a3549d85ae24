//! The links between processes.
//!
//! The one law: **a frame is bytes while it is on its way**, and what becomes of it is decided by its link alone:
//! lost, doubled, late, overtaken, damaged, or recorded and delivered again seconds later. Nothing invents a frame.

use std::time::Duration;

use tigerchat_core::types::Instant;
use tigerchat_core::wire::frame::Command;

use crate::faults::{Bandwidth, Drawn, FrameFaults, Latency};
use crate::process::Bytes;
use crate::random::{Ppm, Random, nanos};
use crate::report::{Fate, FrameCounts};

/// A process by its number in the world.
pub type Place = usize;

/// All links, and what happens on them.
#[derive(Debug)]
pub struct Network {
    places: usize,
    latency: Latency,
    faults: Option<FrameFaults>,
    bandwidth: Option<Bandwidth>,
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
    base: Duration,
    /// Until then it takes `slowness` times as long.
    slow_until: Instant,
    slowness: u32,
    /// Until then it is busy with what was sent before.
    busy_until: Instant,
    /// The last arrival, before which nothing arrives on a link that keeps order.
    last: Instant,
    /// Counts connections: what is on its way is lost with its own.
    connection: u32,
}

/// A frame that will arrive.
#[derive(Clone, Debug)]
pub struct Arriving {
    pub at: Instant,
    pub bytes: Bytes,
    /// The connection that carries it; a recorded frame comes over any.
    pub connection: Option<u32>,
    /// `Sent`, or what was done to it.
    pub fate: Fate,
}

/// Of each command the first frames of a world meet each fault at least so often: what is seldom said would otherwise
/// hardly ever be hurt, and some of it is said once in twenty worlds.
const SELDOM: Ppm = 300_000;
const FEW: u64 = 4;

impl Network {
    #[must_use]
    pub fn new(places: usize, drawn: &Drawn, mut random: Random) -> Self {
        let latency = drawn.latency.clone();
        let mut link = || {
            let times = match latency.uneven {
                1 => 1_000,
                most => random.within(1_000..=u64::from(most) * 1_000),
            };
            let base = Duration::from_nanos(nanos(latency.base) * times / 1_000);
            Link { base, ..Link::default() }
        };
        let links = (0..places * places).map(|_| link()).collect();
        Self {
            places,
            faults: drawn.frames.clone(),
            bandwidth: drawn.bandwidth,
            latency,
            links,
            random,
            counts: FrameCounts::default(),
        }
    }

    /// A frame leaves: as what it arrives, and when, each time that it does. Returns why it does not.
    pub fn send(
        &mut self,
        now: Instant,
        (from, to): (Place, Place),
        command: Command,
        bytes: Bytes,
        arrivals: &mut Vec<Arriving>,
    ) -> Option<Fate> {
        self.counts.count(command, Fate::Sent);
        let link = self.at(from, to);
        let Link { cut, sound, connection, .. } = self.links[link];
        if cut {
            return Some(self.drop(command, Fate::Dropped));
        }
        let faults = self.faults_for(command).filter(|_| !sound);
        let seldom = faults.is_some() && self.is_seldom(command);
        let in_order = faults.as_ref().is_none_or(|faults| !faults.reorder);
        let squeezed = seldom && self.bandwidth.is_some() && self.random.chance(SELDOM);
        let Some(left) = self.leave(now, link, bytes.len()).filter(|_| !squeezed) else {
            return Some(self.drop(command, Fate::Overflowed));
        };
        let at = self.arrival(left, link, in_order, (command, seldom));
        let mut arrive =
            |at, bytes, connection, fate| arrivals.push(Arriving { at, bytes, connection, fate });
        let Some(faults) = faults else {
            arrive(at, bytes, Some(connection), Fate::Sent);
            return None;
        };
        let mut lost = None;
        if self.random.chance(faults.drop) {
            lost = Some(self.drop(command, Fate::Dropped));
        } else {
            if self.random.chance(faults.duplicate) {
                self.counts.count(command, Fate::Duplicated);
                let later = Duration::from_nanos(self.random.below(5_000_000));
                arrive(at.after(later), bytes.clone(), Some(connection), Fate::Duplicated);
            }
            let damaged = self.damaged(&faults, command, &bytes);
            let (bytes, fate) = damaged.unwrap_or_else(|| (bytes.clone(), Fate::Sent));
            arrive(at, bytes, Some(connection), fate);
        }
        if self.random.chance(faults.replay) {
            self.counts.count(command, Fate::Replayed);
            arrive(at.after(self.random.duration(&faults.replay_after)), bytes, None, Fate::Replayed);
        }
        lost
    }

    fn drop(&mut self, command: Command, fate: Fate) -> Fate {
        self.counts.count(command, fate);
        fate
    }

    /// Whether a frame that arrives now on this link is heard.
    #[must_use]
    pub fn is_up(&self, from: Place, to: Place) -> bool {
        !self.links[self.at(from, to)].cut
    }

    /// Whether the connection that carried a frame is still there.
    #[must_use]
    pub fn carries(&self, from: Place, to: Place, connection: Option<u32>) -> bool {
        let link = self.links[self.at(from, to)];
        !link.cut && connection.is_none_or(|connection| connection == link.connection)
    }

    /// The connection between two breaks, and another takes its place: what was on its way is lost.
    pub fn reset(&mut self, one: Place, other: Place) {
        for link in [self.at(one, other), self.at(other, one)] {
            if !self.links[link].sound {
                self.links[link].connection += 1;
            }
        }
    }

    /// One direction takes that many times as long for a while.
    pub fn slow_down(&mut self, from: Place, to: Place, until: Instant, factor: u32) {
        let link = self.at(from, to);
        (self.links[link].slow_until, self.links[link].slowness) = (until, factor);
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

    /// When the link is through with a frame; `None` when too much waits already.
    fn leave(&mut self, now: Instant, link: usize, len: usize) -> Option<Instant> {
        let link = &mut self.links[link];
        let Some(bandwidth) = self.bandwidth.filter(|_| !link.sound) else { return Some(now) };
        let begins = link.busy_until.max(now);
        let waiting = nanos(begins.since(now)) / 1_000 * bandwidth.rate / 1_000_000;
        if waiting > bandwidth.buffer {
            return None;
        }
        link.busy_until = begins.after(Duration::from_nanos(len as u64 * 1_000_000_000 / bandwidth.rate));
        Some(link.busy_until)
    }

    /// Whether a world has said this only a few times yet.
    fn is_seldom(&self, command: Command) -> bool {
        self.counts.of(command)[Fate::Sent as usize] <= FEW
    }

    /// The faults that were drawn, stronger for what is seldom said.
    fn faults_for(&self, command: Command) -> Option<FrameFaults> {
        let drawn = self.faults.clone()?;
        if !self.is_seldom(command) {
            return Some(drawn);
        }
        let FrameFaults { drop, duplicate, replay, corrupt, truncate, .. } = drawn;
        Some(FrameFaults {
            drop: drop.max(SELDOM),
            duplicate: duplicate.max(SELDOM),
            replay: replay.max(SELDOM),
            corrupt: corrupt.max(SELDOM),
            truncate: truncate.max(SELDOM),
            ..drawn
        })
    }

    /// What is left of the frame, if anything happens to it.
    fn damaged(&mut self, faults: &FrameFaults, command: Command, bytes: &Bytes) -> Option<(Bytes, Fate)> {
        if self.random.chance(faults.corrupt) {
            self.counts.count(command, Fate::Corrupted);
            let mut bytes = bytes.to_vec();
            let at = self.random.index(bytes.len());
            bytes[at] ^= 1 << self.random.below(8);
            return Some((bytes.into(), Fate::Corrupted));
        }
        if self.random.chance(faults.truncate) {
            self.counts.count(command, Fate::Truncated);
            return Some((bytes[..self.random.index(bytes.len())].into(), Fate::Truncated));
        }
        None
    }

    fn arrival(
        &mut self,
        left: Instant,
        link: usize,
        in_order: bool,
        (command, seldom): (Command, bool),
    ) -> Instant {
        let Latency { jitter, mut tail_chance, tail, .. } = self.latency;
        if seldom {
            tail_chance = tail_chance.max(SELDOM);
        }
        let Link { base, sound, slow_until, slowness, .. } = self.links[link];
        let mut usual = base + Duration::from_nanos(self.random.within(0..=nanos(jitter)));
        if !sound && left < slow_until {
            self.counts.count(command, Fate::Delayed);
            usual *= slowness;
        }
        let mut arrival = left.after(usual);
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
    use crate::faults::Plan;
    use crate::random::ALWAYS;

    const COMMAND: Command = Command::Prepare;
    const SAID: u64 = FEW + 1;

    fn network(frames: Option<FrameFaults>) -> Network {
        let (base, jitter) = (Duration::from_micros(100), Duration::from_micros(50));
        let tail = Duration::from_millis(20);
        let latency = Latency { base, uneven: 2, jitter, tail_chance: 200_000, tail };
        let drawn = Drawn { latency, frames, ..Plan::CALM.draw(0) };
        let mut network = Network::new(3, &drawn, Random::new(1, "network", 0));
        // Long since said.
        (0..SAID).for_each(|_| network.counts.count(COMMAND, Fate::Sent));
        network
    }

    fn bytes() -> Bytes {
        [7; 1000].into()
    }

    fn faults() -> FrameFaults {
        let replay_after = Duration::from_secs(1)..=Duration::from_secs(2);
        FrameFaults { drop: 0, duplicate: 0, replay: 0, replay_after, corrupt: 0, truncate: 0, reorder: true }
    }

    /// Arrivals of a hundred frames, sent a microsecond apart.
    fn hundred(network: &mut Network, from: Place, to: Place) -> Vec<Instant> {
        arriving(network, from, to).iter().map(|arriving| arriving.at).collect()
    }

    fn arriving(network: &mut Network, from: Place, to: Place) -> Vec<Arriving> {
        let mut arrivals = Vec::new();
        for at in 0..100 {
            network.send(Instant(at * 1000), (from, to), COMMAND, bytes(), &mut arrivals);
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
        let [sent, dropped, duplicated, delayed, again, ..] = network.counts().of(COMMAND);
        assert_eq!((sent, dropped, duplicated, again), (300 + SAID, 200, 100, 100));
        assert!(delayed > 0);
    }

    #[test]
    fn what_is_seldom_said_is_hurt_more_often() {
        let mut hurt = [0; Fate::ALL.len()];
        for seed in 0..100 {
            let mut network = network(Some(faults()));
            network.random = Random::new(seed, "network", 0);
            network.counts = FrameCounts::default();
            for _ in 0..FEW {
                network.send(Instant(0), (0, 1), COMMAND, bytes(), &mut Vec::new());
            }
            let first = network.counts().of(COMMAND);
            hurt.iter_mut().zip(first).for_each(|(sum, count)| *sum += count);
            hundred(&mut network, 0, 1);
            let [_, dropped, ..] = network.counts().of(COMMAND);
            assert_eq!(dropped, first[1], "what is said often is hurt as often as was drawn: never");
        }
        assert!(hurt[..Fate::Overflowed as usize].iter().all(|count| *count > 20), "{hurt:?}");
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

    #[test]
    fn damaged_frames_differ_in_a_bit_or_lack_their_end() {
        let mut network = network(Some(FrameFaults { corrupt: ALWAYS, ..faults() }));
        let flipped = |one: &[u8], other: &[u8]| -> u32 {
            one.iter().zip(other).map(|(one, other)| (one ^ other).count_ones()).sum()
        };
        let corrupt = arriving(&mut network, 0, 1);
        assert!(
            corrupt.iter().all(|frame| frame.bytes.len() == 1000 && flipped(&frame.bytes, &bytes()) == 1)
        );
        network.faults = Some(FrameFaults { truncate: ALWAYS, ..faults() });
        let short = arriving(&mut network, 0, 1);
        assert!(short.iter().all(|frame| frame.bytes.len() < 1000 && bytes().starts_with(&frame.bytes)));
    }

    #[test]
    fn a_narrow_link_makes_frames_wait_and_drops_what_its_buffer_does_not_hold() {
        let mut network = network(None);
        network.bandwidth = Some(Bandwidth { rate: 1_000_000, buffer: 20_000 });
        let arrivals = hundred(&mut network, 0, 1);
        assert!((15..30).contains(&arrivals.len()), "{}", arrivals.len());
        assert!(arrivals.last().unwrap() >= &Instant(15_000_000));
        network.heal(0, 1);
        assert_eq!(hundred(&mut network, 0, 1).len(), 100);
    }

    #[test]
    fn a_slow_link_is_slow_for_its_time_and_a_reset_loses_what_is_on_its_way() {
        let mut network = network(None);
        network.latency.tail_chance = 0;
        network.slow_down(0, 1, Instant(50_000), 100);
        let arrivals = arriving(&mut network, 0, 1);
        assert!(arrivals[0].at >= Instant(10_000_000));
        assert!(hundred(&mut network, 1, 0)[0] < Instant(1_000_000));
        assert!(network.carries(0, 1, arrivals[0].connection));
        network.reset(1, 0);
        assert!(!network.carries(0, 1, arrivals[0].connection));
        assert!(network.carries(0, 1, None));
        let after = arriving(&mut network, 0, 1);
        assert!(network.carries(0, 1, after[0].connection));
    }
}
