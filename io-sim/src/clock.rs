//! The two clocks of a process.
//!
//! The one law: **no process sees virtual time itself.** Its monotonic clock begins at a moment of its own, its wall
//! clock is off by its own amount, and both stay so across restarts.

use std::time::Duration;

use tigerchat_core::types::{Instant, Now, UnixNanos};

use crate::random::{Random, nanos};

/// When every simulated world begins: 2026-01-01 UTC.
pub const BEGINNING: UnixNanos = UnixNanos(1_767_225_600_000_000_000);

/// How one process's clocks differ from the world's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// What its monotonic clock showed when the world began.
    mono: u64,
    /// What its wall clock shows too much, around `centre`.
    wall: u64,
    centre: u64,
}

impl Skew {
    /// Clocks that are off by up to `most`, in either direction.
    #[must_use]
    pub fn draw(most: Duration, random: &mut Random) -> Self {
        let centre = nanos(most);
        Self { mono: random.below(1 << 40), wall: random.within(0..=2 * centre), centre }
    }

    /// What the process's clocks show when the world's shows `now`.
    #[must_use]
    pub fn read(&self, now: Instant) -> Now {
        Now { mono: Instant(now.0 + self.mono), wall: UnixNanos(wall(now).0 + self.wall - self.centre) }
    }

    /// The world's time at which the monotonic clock shows `mono`.
    #[must_use]
    pub fn world(&self, mono: Instant) -> Instant {
        Instant(mono.0.saturating_sub(self.mono))
    }
}

/// The true wall-clock time.
#[must_use]
pub fn wall(now: Instant) -> UnixNanos {
    UnixNanos(BEGINNING.0 + now.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_a_skewed_clock_leads_back_to_the_worlds_time() {
        let mut random = Random::new(1, "test", 0);
        let most = Duration::from_secs(1);
        for at in 0..100 {
            let skew = Skew::draw(most, &mut random);
            let shown = skew.read(Instant(at));
            assert_eq!(skew.world(shown.mono), Instant(at));
            assert!(shown.wall.0.abs_diff(wall(Instant(at)).0) <= nanos(most));
        }
    }
}
