//! The two clocks of a process.
//!
//! The one law: **no process sees virtual time itself.** Its monotonic clock begins at a moment of its own, its wall
//! clock is off by its own amount, and both run at a speed of their own; so it stays across restarts. Only the wall
//! clock is ever set.

use std::time::Duration;

use tigerchat_core::types::{Instant, Now, UnixNanos};

use crate::faults::Clocks;
use crate::random::{ALWAYS, Random, nanos};

/// When every simulated world begins: 2026-01-01 UTC.
pub const BEGINNING: UnixNanos = UnixNanos(1_767_225_600_000_000_000);

/// How one process's clocks differ from the world's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// What its monotonic clock showed when the world began.
    mono: u64,
    /// What its wall clock shows too much, less what it shows too little.
    wall: i64,
    /// Nanoseconds that both clocks gain in each millisecond.
    drift: i64,
}

impl Skew {
    /// Clocks that are off by up to what was drawn, in either direction.
    #[must_use]
    pub fn draw(clocks: Option<&Clocks>, random: &mut Random) -> Self {
        let mono = random.below(1 << 40);
        let mut either = |most: u64| signed(random.within(0..=2 * most)) - signed(most);
        let wall = either(clocks.map_or(0, |clocks| nanos(clocks.offset)));
        Self { mono, wall, drift: clocks.map_or(0, |clocks| either(clocks.drift.into())) }
    }

    /// What the process's clocks show when the world's shows `now`.
    #[must_use]
    pub fn read(&self, now: Instant) -> Now {
        let passed = self.own(now.0);
        let wall = signed(BEGINNING.0 + passed) + self.wall;
        Now { mono: Instant(self.mono + passed), wall: UnixNanos(wall.unsigned_abs()) }
    }

    /// The first moment of the world at which the monotonic clock shows `mono` or more.
    #[must_use]
    pub fn world(&self, mono: Instant) -> Instant {
        // What is further away than all runs stays so.
        let passed = mono.0.saturating_sub(self.mono).min(u64::MAX / 4);
        let speed = i128::from(ALWAYS) + i128::from(self.drift);
        let at = (i128::from(passed) * i128::from(ALWAYS)).div_euclid(speed);
        let mut at = u64::try_from(at).expect("clocks run forward");
        while self.own(at) < passed {
            at += 1;
        }
        Instant(at)
    }

    /// Somebody sets the wall clock.
    pub fn step(&mut self, by: Duration, back: bool) {
        let by = signed(nanos(by));
        self.wall += if back { -by } else { by };
    }

    /// How long `world` nanoseconds are by this clock.
    fn own(&self, world: u64) -> u64 {
        if self.drift == 0 {
            return world;
        }
        let gained = i128::from(world) * i128::from(self.drift) / i128::from(ALWAYS);
        u64::try_from(i128::from(world) + gained).expect("clocks run forward")
    }
}

/// The true wall-clock time.
#[must_use]
pub fn wall(now: Instant) -> UnixNanos {
    UnixNanos(BEGINNING.0 + now.0)
}

fn signed(nanos: u64) -> i64 {
    i64::try_from(nanos).expect("within three hundred years")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCKS: Clocks = Clocks { offset: Duration::from_secs(1), drift: 20_000, steps: None };

    #[test]
    fn a_deadline_of_a_skewed_clock_leads_back_to_the_first_moment_that_reaches_it() {
        let mut random = Random::new(1, "test", 0);
        for at in (0..100_000_000_000).step_by(999_999_937) {
            let skew = Skew::draw(Some(&CLOCKS), &mut random);
            let shown = skew.read(Instant(at));
            let found = skew.world(shown.mono);
            assert!(found <= Instant(at) && skew.read(found).mono >= shown.mono, "{skew:?} {at}");
            assert!(found.0 == 0 || skew.read(Instant(found.0 - 1)).mono < shown.mono, "{skew:?} {at}");
        }
    }

    #[test]
    fn wall_clocks_are_off_drift_and_are_set_and_monotonic_ones_only_drift() {
        let mut random = Random::new(1, "test", 0);
        let second = Instant(1_000_000_000);
        let mut skew = Skew::draw(Some(&CLOCKS), &mut random);
        let (begun, later) = (skew.read(Instant(0)), skew.read(second));
        assert!(begun.wall.0.abs_diff(BEGINNING.0) <= nanos(CLOCKS.offset));
        let gained = later.mono.since(begun.mono).as_nanos().abs_diff(1_000_000_000);
        assert!(0 < gained && gained <= 20_000_000, "{gained}");
        assert_eq!(u128::from(later.wall.0 - begun.wall.0), later.mono.since(begun.mono).as_nanos());
        skew.step(Duration::from_secs(3600), true);
        assert_eq!(skew.read(second).mono, later.mono);
        assert_eq!(later.wall.0 - skew.read(second).wall.0, 3_600_000_000_000);
    }
}
