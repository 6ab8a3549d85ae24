//! What may go wrong, and how much of it a seed draws.
//!
//! A [`Plan`] says which kinds of trouble a swarm knows; each seed draws its own subset of them and their strengths
//! (swarm testing: many runs in which a few things fail often find more than one in which everything fails a bit).
//!
//! The one law: **every fault is a named knob with a range**, and a knob that is off draws nothing.

mod clocks;
mod links;

use std::ops::RangeInclusive;
use std::time::Duration;

pub use clocks::{ClockSteps, Clocks};
pub use links::{Bandwidth, FrameFaults, Latency, PartitionShape, Partitions, SlowLinks};

use crate::aim::{self, Aim};
use crate::damage::Harm;
use crate::erasing::Erasures;
use tigerchat_core::vsr::quorum::Quorums;

use crate::random::{ALWAYS, Ppm, Random};
use crate::releases::Rolling;

/// Which kinds of trouble the seeds of a swarm may draw, and how likely each is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub name: &'static str,
    /// Frames lost, doubled, delayed, out of order, replayed, damaged.
    pub frames: Ppm,
    pub partitions: Ppm,
    /// Narrow links, slow links, connections that are reset.
    pub links: Ppm,
    pub crashes: Ppm,
    /// Processes struck at points of the protocol: `aim`.
    pub aims: Ppm,
    /// Crashes that lose what was not durable.
    pub power: Ppm,
    /// Slow ones, full ones, ones that refuse.
    pub disks: Ppm,
    /// Bits that flip, writes that never happened or went astray.
    pub damage: Ppm,
    pub pauses: Ppm,
    /// Somebody without keys is on the network.
    pub outsider: Ppm,
    pub clocks: Ppm,
    /// Connections of users break.
    pub connections: Ppm,
    /// Primaries are cut off until their successor falls.
    pub depositions: Ppm,
    /// Operators move the lead.
    pub hand_overs: Ppm,
    pub hostile: Ppm,
    /// After healing, a minority stays broken.
    pub broken: Ppm,
    /// An operator changes the members.
    pub members: Ppm,
    /// Processes restart into another release.
    pub releases: Ppm,
}

impl Plan {
    /// All of it: what the gate runs.
    pub const SWARM: Self = Self {
        name: "swarm",
        frames: 600_000,
        partitions: 500_000,
        links: 300_000,
        crashes: 850_000,
        aims: 700_000,
        power: 600_000,
        disks: 500_000,
        damage: 750_000,
        pauses: 250_000,
        outsider: 250_000,
        clocks: 300_000,
        connections: 500_000,
        depositions: 600_000,
        hand_overs: 450_000,
        hostile: 300_000,
        broken: 300_000,
        members: 250_000,
        releases: 300_000,
    };

    /// Nothing goes wrong.
    pub const CALM: Self = Self {
        name: "calm",
        frames: 0,
        partitions: 0,
        links: 0,
        crashes: 0,
        aims: 0,
        power: 0,
        disks: 0,
        damage: 0,
        pauses: 0,
        outsider: 0,
        clocks: 0,
        connections: 0,
        depositions: 0,
        hand_overs: 0,
        hostile: 0,
        broken: 0,
        members: 0,
        releases: 0,
    };

    /// Crashes and disks only: recovery, write-ahead log, checkpoints.
    pub const STORAGE: Self =
        Self { name: "storage", crashes: ALWAYS, power: ALWAYS, disks: ALWAYS, damage: ALWAYS, ..Self::CALM };

    /// Crashes, aims and damage in every world, and nothing stays broken: whether anything is lost or told twice.
    pub const SAFETY: Self = Self {
        name: "safety",
        crashes: ALWAYS,
        aims: ALWAYS,
        power: ALWAYS,
        damage: ALWAYS,
        broken: 0,
        ..Self::SWARM
    };

    /// Partitions and bad links in every world, and a minority stays broken: whether the rest goes on.
    pub const LIVENESS: Self = Self {
        name: "liveness",
        frames: ALWAYS,
        partitions: ALWAYS,
        depositions: ALWAYS,
        links: ALWAYS,
        pauses: ALWAYS,
        broken: ALWAYS,
        ..Self::SWARM
    };

    /// The network only: view changes and repair without restarts.
    pub const NETWORK: Self = Self {
        name: "network",
        frames: ALWAYS,
        partitions: ALWAYS,
        links: 700_000,
        pauses: 500_000,
        outsider: 500_000,
        depositions: ALWAYS,
        hand_overs: 300_000,
        ..Self::CALM
    };

    /// Edges crash, connections break, users misbehave.
    pub const EDGE: Self = Self {
        name: "edge",
        frames: 300_000,
        crashes: ALWAYS,
        connections: ALWAYS,
        hostile: 700_000,
        ..Self::CALM
    };

    pub const ALL: [Self; 7] =
        [Self::SWARM, Self::SAFETY, Self::LIVENESS, Self::STORAGE, Self::NETWORK, Self::EDGE, Self::CALM];

    /// The plan of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plan| plan.name == name)
    }

    /// What a seed drew.
    #[must_use]
    pub fn draw(&self, seed: u64) -> Drawn {
        let mut random = Random::new(seed, "plan", 0);
        let shape = Shape::draw(&mut random, seed);
        let frames = random.chance(self.frames).then(|| FrameFaults::draw(&mut random));
        let partitions = random.chance(self.partitions).then(|| Partitions::draw(&mut random));
        let bandwidth = random.chance(self.links / 2).then(|| Bandwidth::draw(&mut random));
        let slow_links = random.chance(self.links).then(|| SlowLinks::draw(&mut random));
        let resets = random.chance(self.links).then(|| ms(300..=3_000, &mut random));
        let power = random.chance(self.power);
        let crashes = random.chance(self.crashes).then(|| Crashes::draw(&mut random, power));
        let ambushes = random.chance(self.crashes / 2).then(|| ms(300..=1_500, &mut random));
        let aims = if random.chance(self.aims) { aim::draw(seed, &mut random) } else { Vec::new() };
        let depositions = random.chance(self.depositions).then(|| ms(300..=1_500, &mut random));
        let slow_disk = random.chance(self.disks).then(|| SlowDisk::draw(&mut random, shape.replicas));
        let damage = random.chance(self.damage).then(|| Damage::draw(&mut random, &shape));
        let disk_errors = random.chance(self.disks).then(|| DiskErrors::draw(&mut random));
        let full_disk = random.chance(self.disks / 2).then(|| FullDisk::draw(&mut random));
        let pauses = random.chance(self.pauses).then(|| Pauses::draw(&mut random));
        let outsider = random.chance(self.outsider).then(|| ms(5..=100, &mut random));
        let clocks = random.chance(self.clocks).then(|| Clocks::draw(&mut random));
        let breaks = random.chance(self.connections).then(|| ms(400..=6000, &mut random));
        let hand_overs = random.chance(self.hand_overs).then(|| ms(100..=2_000, &mut random));
        let hostile = random.chance(self.hostile);
        let broken = random.chance(self.broken);
        let members = random.chance(self.members).then(|| Changes::draw(&mut random));
        Drawn {
            erasures: Erasures::draw(seed, &shape, damage.as_ref()),
            latency: Latency::draw(&mut random),
            disk: DiskSpeed::draw(&mut random),
            work: Work::draw(&mut random, hostile),
            faulty_for: ms(1_000..=3_000, &mut random),
            shape,
            frames,
            partitions,
            crashes,
            ambushes,
            aims,
            depositions,
            hand_overs,
            slow_disk,
            damage,
            disk_errors,
            full_disk,
            pauses,
            outsider,
            clocks,
            bandwidth,
            slow_links,
            resets,
            turn: Duration::from_micros(*Random::new(seed, "turns", 0).pick(&TURNS)),
            own_lines: true,
            breaks,
            broken,
            members,
            rolling: Rolling::draw(self.releases, seed),
        }
        .without_what_changes_exclude()
    }
}

/// Everything that a seed decides before its run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    pub shape: Shape,
    pub latency: Latency,
    pub disk: DiskSpeed,
    pub work: Work,
    /// How long the faulty phase lasts at most; work that is done earlier ends it.
    pub faulty_for: Duration,
    pub frames: Option<FrameFaults>,
    pub partitions: Option<Partitions>,
    pub bandwidth: Option<Bandwidth>,
    pub slow_links: Option<SlowLinks>,
    /// Mean time between resets of some connection between two processes.
    pub resets: Option<Duration>,
    pub crashes: Option<Crashes>,
    /// Mean time between ambushes (`ambush`).
    pub ambushes: Option<Duration>,
    pub aims: Vec<Aim>,
    /// Mean time between depositions (`deposed`).
    pub depositions: Option<Duration>,
    /// Mean time between hand-overs (`hand_over`).
    pub hand_overs: Option<Duration>,
    pub slow_disk: Option<SlowDisk>,
    pub damage: Option<Damage>,
    pub disk_errors: Option<DiskErrors>,
    pub full_disk: Option<FullDisk>,
    pub pauses: Option<Pauses>,
    /// Mean time between frames that an outsider says (`outsider`).
    pub outsider: Option<Duration>,
    pub clocks: Option<Clocks>,
    /// What comes to a process within this time shares a turn.
    pub turn: Duration,
    /// Each user's connection has a latency and a rate of its own.
    pub own_lines: bool,
    /// A user's connection breaks after this long in the mean.
    pub breaks: Option<Duration>,
    /// A minority stays broken after the healing.
    pub broken: bool,
    /// An operator changes the members.
    pub members: Option<Changes>,
    /// Processes restart into another release (`releases`).
    pub rolling: Option<Rolling>,
    /// Messages are erased (`erasing`).
    pub erasures: Option<Erasures>,
}

impl Drawn {
    /// How many replicas may be damaged is counted for the members of format: where they change, there are never fewer
    /// voters then, and disks are not lost as a whole. Which ones stay broken can't be counted beforehand.
    fn without_what_changes_exclude(mut self) -> Self {
        let harmed = self.damage.is_some() || self.disk_errors.is_some() || self.full_disk.is_some();
        if let Some(changes) = &mut self.members {
            self.broken = false;
            if harmed {
                (changes.lost_disk, changes.least_voters) = (0, self.shape.replicas);
            }
        }
        self
    }

    /// Replicas of this world, those among them that are no members yet.
    #[must_use]
    pub fn replicas(&self) -> usize {
        let spares = self.members.as_ref().map_or(0, |members| members.spares);
        usize::from(self.shape.replicas) + usize::from(spares)
    }
}

/// What an operator does to the members; see `operator`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Mean time from one request to the next.
    pub every: Duration,
    /// Replicas whose files were made to join.
    pub spares: u8,
    /// How many requests follow the loss of a disk.
    pub lost_disk: Ppm,
    /// Voters below which none is removed.
    pub least_voters: u8,
}

impl Changes {
    fn draw(random: &mut Random) -> Self {
        Self {
            every: ms(100..=1_500, random),
            spares: u8::try_from(random.within(1..=5)).expect("at most 5"),
            lost_disk: ppm_up_to(500_000, random),
            least_voters: 3,
        }
    }
}

impl Drawn {
    /// Whether processes end by themselves, and so come back by themselves; otherwise a script does both.
    #[must_use]
    pub fn somebody_falls(&self) -> bool {
        self.crashes.is_some() || !self.aims.is_empty() || self.depositions.is_some()
    }
}

/// Microseconds from the first that comes to a process to its turn, at most: from one that is idle to one that is busy.
const TURNS: [u64; 4] = [30, 200, 400, 800];

/// How many worlds have sealed disks.
const SEALED: Ppm = 300_000;
/// How many worlds have messages that go by their age.
const AGED: Ppm = 300_000;

/// The cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub replicas: u8,
    /// Copies that make an entry committed.
    pub replication_quorum: u8,
    pub edges: u8,
    pub pipeline: u8,
    pub window: u8,
    pub wal_slots: u32,
    pub slot_sectors: u32,
    pub session_lease: Duration,
    /// How often replicas exchange what they know.
    pub ping: Duration,
    /// What a primary bears, and for how long.
    pub no_progress: Duration,
    pub unfit: Duration,
    /// All of a disk is scrubbed within this.
    pub scrub_cycle: Duration,
    /// Sessions that the shard has room for: one for each edge at least.
    pub sessions: u16,
    /// Sectors of a block of the grid.
    pub block_sectors: u32,
    /// Messages that retention leaves of a room, zero: all; and keys that the shard remembers.
    pub room_messages: u32,
    /// How old messages may become, seconds, zero: as old as they like.
    pub room_age_s: u32,
    pub keys: u32,
    /// Disks are sealed, each with a key of its own.
    pub sealed: bool,
    /// Keys of sealed disks are changed while replicas are down (`rotate`).
    pub rotates: bool,
}

impl Shape {
    /// # Panics
    /// For a shape that can't be: our own bug.
    #[must_use]
    pub fn quorums(&self) -> Quorums {
        Quorums::of(self.replicas, self.replication_quorum).expect("only safe quorums are drawn")
    }

    fn draw(random: &mut Random, seed: u64) -> Self {
        let pipeline = random.within(1..=8);
        let wal_most = *random.pick(&[16, 32, 64, 64]);
        let replicas = *random.pick(&[1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5, 5, 5, 6, 7]);
        let majority = replicas / 2 + 1;
        // Two copies at least, and of most shapes the majority.
        let flexible = random.within(u64::from(replicas.min(2))..=replicas.into());
        let flexible = u8::try_from(flexible).expect("at most 7");
        let slot_sectors = u32::try_from(random.within(2..=4)).expect("at most 4");
        let edges = u8::try_from(random.within(1..=3)).expect("at most 3");
        Self {
            replicas,
            replication_quorum: if random.chance(200_000) { flexible } else { majority },
            edges,
            pipeline: u8::try_from(pipeline).expect("at most 8"),
            window: u8::try_from(random.within(2..=8)).expect("at most 8"),
            // Small, so that the log wraps often (H33).
            wal_slots: 2 * u32::try_from(random.within(pipeline.max(8)..=wal_most / 2)).expect("at most 64"),
            slot_sectors,
            session_lease: ms(500..=1_200, random),
            scrub_cycle: Duration::from_secs(*random.pick(&[15, 40, 120])),
            ping: Duration::from_millis(*random.pick(&[150, 300, 450])),
            no_progress: ms(150..=750, random),
            unfit: ms(150..=1_000, random),
            sessions: u16::try_from(random.within(edges.into()..=8)).expect("at most 8"),
            block_sectors: *random.pick(&[1, 1, 2]),
            room_messages: *random.pick(&[20, 50, 100, 0]),
            room_age_s: draw_age(seed),
            keys: *random.pick(&[100, 1_024, 1_024, 1_024]),
            sealed: Random::new(seed, "sealed", 0).chance(SEALED),
            rotates: true,
        }
    }
}

fn draw_age(seed: u64) -> u32 {
    let mut random = Random::new(seed, "ages", 0);
    if random.chance(AGED) { *random.pick(&[1, 2, 4]) } else { 0 }
}

/// Processes that end without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crashes {
    /// Mean time from one to the next.
    pub every: Duration,
    /// How many lose power: what was not durable survives in part.
    pub power: Ppm,
    /// How many hit all replicas at once (H22).
    pub all: Ppm,
    pub edges: Ppm,
    pub at_primary: Ppm,
    /// How many come in the midst of a turn: after some of its effects, before the others.
    pub mid_turn: Ppm,
    /// How many wait for a protocol point: right after a certain frame left.
    pub aimed: Ppm,
    /// How many restart at once, before anybody's timeout.
    pub at_once: Ppm,
    pub down: RangeInclusive<Duration>,
}

impl Crashes {
    fn draw(random: &mut Random, power: bool) -> Self {
        let mut ppm = |highest: u64| u32::try_from(random.within(0..=highest)).expect("a million at most");
        let power = if power { ppm(ALWAYS.into()) } else { 0 };
        let (all, edges, at_primary) = (ppm(250_000), ppm(400_000), ppm(ALWAYS.into()));
        let (mid_turn, aimed, at_once) = (ppm(ALWAYS.into()), ppm(700_000), ppm(600_000));
        let least = ms(2..=80, random);
        Self {
            every: ms(150..=1_000, random),
            power,
            all,
            edges,
            at_primary,
            mid_turn,
            aimed,
            at_once,
            down: least..=least + mostly_short(20..=300, 2_000, random),
        }
    }
}

/// How fast disks are when nothing is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpeed {
    pub read: RangeInclusive<Duration>,
    pub write: RangeInclusive<Duration>,
    pub flush: RangeInclusive<Duration>,
}

impl DiskSpeed {
    fn draw(random: &mut Random) -> Self {
        let slow = random.chance(LONG);
        let (flush, more) = if slow { (500..=3_000, 4_000) } else { (30..=600, 600) };
        let flush = us(flush, random);
        Self {
            read: Duration::from_micros(10)..=Duration::from_micros(200),
            write: Duration::from_micros(5)..=Duration::from_micros(100),
            flush: flush..=flush + us(10..=more, random),
        }
    }
}

/// One disk that is much slower than its neighbours, for a time (H19).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowDisk {
    pub replica: u8,
    pub factor: u32,
    /// It is slow for this long, then as long as the others.
    pub spell: Duration,
}

impl SlowDisk {
    fn draw(random: &mut Random, replicas: u8) -> Self {
        Self {
            replica: u8::try_from(random.below(replicas.into())).expect("below a u8"),
            factor: u32::try_from(random.within(3..=200)).expect("small"),
            spell: ms(300..=2_000, random),
        }
    }
}

/// What disks do to what they hold; see the atlas in `damage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Mean time from one to the next.
    pub every: Duration,
    /// Replicas whose logs and checkpoints may be damaged.
    pub victims: Vec<u8>,
    /// How likely a victim's disk is harmed as its process ends.
    pub at_crash: Ppm,
    pub kinds: Vec<Harm>,
}

impl Damage {
    fn draw(random: &mut Random, shape: &Shape) -> Self {
        let most = Self::victims_max(&shape.quorums());
        let replicas = shape.replicas;
        let count = random.within(u64::from(most.min(1))..=most.into());
        let mut victims: Vec<u8> = (0..replicas).collect();
        while victims.len() as u64 > count {
            victims.remove(random.index(victims.len()));
        }
        let mut kinds: Vec<Harm> = Harm::ALL.into_iter().filter(|_| random.chance(500_000)).collect();
        kinds.push(*random.pick(&Harm::ALL));
        Self { every: ms(60..=500, random), victims, at_crash: ppm_up_to(ALWAYS, random), kinds }
    }
}

/// Operations that fail: one in so many. Reads fail at victims of [`Damage`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskErrors {
    pub read: Ppm,
    pub misdirected_read: Ppm,
    pub write: Ppm,
    pub flush: Ppm,
}

impl DiskErrors {
    fn draw(random: &mut Random) -> Self {
        Self {
            read: ppm_up_to(20_000, random),
            misdirected_read: ppm_up_to(10_000, random),
            write: ppm_up_to(30_000, random),
            flush: ppm_up_to(2_000, random),
        }
    }
}

/// A disk that takes no writes for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullDisk {
    pub every: Duration,
    pub lasting: RangeInclusive<Duration>,
}

impl FullDisk {
    fn draw(random: &mut Random) -> Self {
        let least = ms(20..=100, random);
        Self {
            every: ms(700..=3_000, random),
            lasting: least..=least + mostly_short(30..=300, 1_500, random),
        }
    }
}

fn ppm_up_to(highest: Ppm, random: &mut Random) -> Ppm {
    u32::try_from(random.within(0..=highest.into())).expect("a million at most")
}

/// Processes that stand still and go on as if nothing had been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pauses {
    pub every: Duration,
    pub lasting: RangeInclusive<Duration>,
}

impl Pauses {
    fn draw(random: &mut Random) -> Self {
        let least = ms(5..=80, random);
        Self {
            every: ms(300..=2_500, random),
            lasting: least..=least + mostly_short(10..=300, 1_200, random),
        }
    }
}

/// What users do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    pub users: u8,
    pub rooms: u8,
    /// Calls of all users together.
    pub operations: u32,
    /// Mean time after which a user goes on.
    pub think: Duration,
    /// Calls that a user begins at once: they share requests, and entries of the log.
    pub burst: u8,
    /// Answered publishes that are sent again later, with the same key.
    pub again: Ppm,
    /// A user who types lines.
    pub line: bool,
    /// A user who sends garbage.
    pub hostile: bool,
}

impl Work {
    fn draw(random: &mut Random, hostile: bool) -> Self {
        Self {
            users: u8::try_from(random.within(2..=6)).expect("at most 6"),
            rooms: u8::try_from(random.within(1..=3)).expect("at most 3"),
            operations: u32::try_from(random.within(505..=540)).expect("small"),
            think: ms(2..=25, random),
            burst: u8::try_from(random.within(2..=10)).expect("at most 10"),
            again: u32::try_from(random.within(0..=70_000)).expect("below a million"),
            line: random.chance(400_000),
            hostile,
        }
    }
}

fn ms(range: RangeInclusive<u64>, random: &mut Random) -> Duration {
    Duration::from_millis(random.within(range))
}

/// A length of time from the range; in one seed of four it may be as long as `most`, in milliseconds.
fn mostly_short(range: RangeInclusive<u64>, most: u64, random: &mut Random) -> Duration {
    let range = if random.chance(LONG) { *range.start()..=most } else { range };
    ms(range, random)
}

/// Seeds in which what is mostly short may last long.
const LONG: Ppm = 250_000;

fn us(range: RangeInclusive<u64>, random: &mut Random) -> Duration {
    Duration::from_micros(random.within(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_world_every_time_and_others_draw_others() {
        assert_eq!(Plan::SWARM.draw(7), Plan::SWARM.draw(7));
        assert_ne!(Plan::SWARM.draw(7), Plan::SWARM.draw(8));
    }

    #[test]
    fn every_knob_is_drawn_by_some_seeds_and_spared_by_others() {
        let drawn: Vec<Drawn> = (0..200).map(|seed| Plan::SWARM.draw(seed)).collect();
        let knobs: [fn(&Drawn) -> bool; 19] = [
            |drawn| drawn.frames.is_some(),
            |drawn| drawn.partitions.is_some(),
            |drawn| drawn.crashes.is_some(),
            |drawn| !drawn.aims.is_empty(),
            |drawn| drawn.depositions.is_some(),
            |drawn| drawn.slow_disk.is_some(),
            |drawn| drawn.pauses.is_some(),
            |drawn| drawn.damage.is_some(),
            |drawn| drawn.disk_errors.is_some(),
            |drawn| drawn.full_disk.is_some(),
            |drawn| drawn.outsider.is_some(),
            |drawn| drawn.clocks.is_some(),
            |drawn| drawn.bandwidth.is_some(),
            |drawn| drawn.slow_links.is_some(),
            |drawn| drawn.resets.is_some(),
            |drawn| drawn.breaks.is_some(),
            |drawn| drawn.hand_overs.is_some(),
            |drawn| drawn.rolling.is_some(),
            |drawn| drawn.work.hostile,
        ];
        for (number, knob) in knobs.iter().enumerate() {
            let on = drawn.iter().filter(|drawn| knob(drawn)).count();
            assert!((20..200).contains(&on), "knob {number} is on in {on} of 200 seeds");
        }
    }

    #[test]
    fn plans_are_found_by_their_names() {
        assert!(Plan::ALL.iter().all(|plan| Plan::named(plan.name).as_ref() == Some(plan)));
        assert_eq!(Plan::named("none"), None);
    }
}
