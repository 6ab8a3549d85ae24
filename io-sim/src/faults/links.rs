//! What may go wrong between processes.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{LONG, mostly_short, ms, ppm_up_to, us};
use crate::random::{ALWAYS, Ppm, Random};

/// How long a frame is on its way when nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    pub base: Duration,
    /// Each link's base is its own: up to so many times as long.
    pub uneven: u32,
    pub jitter: Duration,
    /// One frame in so many takes up to `tail` longer.
    pub tail_chance: Ppm,
    pub tail: Duration,
}

impl Latency {
    pub(super) fn draw(random: &mut Random) -> Self {
        Self {
            base: us(if random.chance(LONG) { 500..=3_000 } else { 10..=500 }, random),
            uneven: *random.pick(&[1, 1, 2, 5]),
            jitter: us(0..=500, random),
            tail_chance: ppm_up_to(20_000, random),
            tail: ms(1..=60, random),
        }
    }
}

/// What happens to single frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameFaults {
    pub drop: Ppm,
    pub duplicate: Ppm,
    /// Recorded and delivered once more after seconds (H08).
    pub replay: Ppm,
    pub replay_after: RangeInclusive<Duration>,
    /// A bit flips on the way. Whoever receives such a frame closes the connection.
    pub corrupt: Ppm,
    /// The end is missing.
    pub truncate: Ppm,
    /// Frames of one link may overtake each other.
    pub reorder: bool,
}

impl FrameFaults {
    pub(super) fn draw(random: &mut Random) -> Self {
        let mut ppm = |highest: Ppm| match random.below(3) {
            0 => 0,
            _ => ppm_up_to(highest, random),
        };
        let (drop, duplicate, replay) = (ppm(100_000), ppm(150_000), ppm(150_000));
        let (corrupt, truncate) = (ppm(10_000), ppm(10_000));
        let least = ms(50..=700, random);
        let replay_after = least..=least + ms(0..=1_300, random);
        Self { drop, duplicate, replay, replay_after, corrupt, truncate, reorder: random.chance(700_000) }
    }
}

/// How much fits through a link, and how much waits before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes per second.
    pub rate: u64,
    /// Bytes that may wait; what comes when it is full is dropped.
    pub buffer: u64,
}

impl Bandwidth {
    pub(super) fn draw(random: &mut Random) -> Self {
        // As many small rates as large ones.
        let doublings = random.within(0..=5);
        Self { rate: random.within(60_000..=120_000) << doublings, buffer: random.within(1..=16) * 1024 }
    }
}

/// Links that are much slower than the others, for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowLinks {
    /// Mean time from one to the next.
    pub every: Duration,
    pub lasting: RangeInclusive<Duration>,
    /// Frames are on their way that many times as long.
    pub factor: u32,
}

impl SlowLinks {
    pub(super) fn draw(random: &mut Random) -> Self {
        let least = ms(20..=150, random);
        Self {
            every: ms(300..=2_000, random),
            lasting: least..=least + mostly_short(30..=400, 1_500, random),
            factor: u32::try_from(random.within(3..=100)).expect("small"),
        }
    }
}

/// Links that go down together and come back together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partitions {
    /// Mean time from one to the next.
    pub every: Duration,
    pub lasting: RangeInclusive<Duration>,
    pub shapes: Vec<PartitionShape>,
    /// How many of them cut in one direction only (H18).
    pub one_way: Ppm,
    /// How many aim at the primary.
    pub at_primary: Ppm,
    /// How many come and go several times before they end.
    pub flapping: Ppm,
}

impl Partitions {
    pub(super) fn draw(random: &mut Random) -> Self {
        let least = ms(10..=150, random);
        let mut shapes: Vec<_> = PartitionShape::ALL.into_iter().filter(|_| random.chance(400_000)).collect();
        shapes.push(*random.pick(&[PartitionShape::Isolate, PartitionShape::Split]));
        Self {
            every: ms(300..=2_000, random),
            lasting: least..=least + mostly_short(30..=400, 2_500, random),
            shapes,
            one_way: ppm_up_to(600_000, random),
            at_primary: ppm_up_to(ALWAYS, random),
            flapping: ppm_up_to(400_000, random),
        }
    }
}

/// Who still reaches whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionShape {
    /// One replica is alone.
    Isolate,
    /// Two sides; each process is on one.
    Split,
    /// Each replica reaches the two beside it in some round.
    Ring,
    /// Two sides, and one replica that reaches both.
    Bridge,
}

impl PartitionShape {
    pub const ALL: [Self; 4] = [Self::Isolate, Self::Split, Self::Ring, Self::Bridge];
}
