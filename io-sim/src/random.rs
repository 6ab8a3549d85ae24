//! Randomness, split by purpose.
//!
//! The one law: **each purpose draws from its own stream**, derived from the run's seed and the purpose's name, so
//! that one draw more in one place does not reshuffle all the others.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tigerchat_core::wire::entry::Digest;

/// Parts per million: the unit of all chances, because nothing here decides by floats.
pub type Ppm = u32;

/// One in one.
pub const ALWAYS: Ppm = 1_000_000;

/// A stream of random numbers for one purpose of one run.
#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream for `purpose` (and `index`, where there are several of its kind) of the run `seed`.
    #[must_use]
    pub fn new(seed: u64, purpose: &str, index: u64) -> Self {
        let mut name = Vec::with_capacity(16 + purpose.len());
        name.extend_from_slice(&seed.to_le_bytes());
        name.extend_from_slice(&index.to_le_bytes());
        name.extend_from_slice(purpose.as_bytes());
        Self(ChaCha8Rng::from_seed(Digest::of(&name).0))
    }

    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The product's upper half: the bias is below 2^-32 for every limit that occurs here.
        let product = u128::from(self.u64()) * u128::from(limit);
        u64::try_from(product >> 64).expect("below the limit")
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a length")
    }

    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    pub fn chance(&mut self, ppm: Ppm) -> bool {
        // A chance of zero draws nothing: a knob that is off costs nothing.
        ppm > 0 && self.below(u64::from(ALWAYS)) < u64::from(ppm)
    }

    pub fn duration(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        Duration::from_nanos(self.within(nanos(*range.start())..=nanos(*range.end())))
    }

    /// A waiting time with this mean: exponential, as between independent events, cut off at eight means.
    pub fn waiting(&mut self, mean: Duration) -> Duration {
        // -ln(u) by the leading zeros of a random number and a linear remainder: no floats.
        let bits = self.u64() | 1;
        let halvings = u64::from(bits.leading_zeros()).min(11);
        let part = (bits << halvings << 1) >> 48;
        // ln 2 = 0.693 in parts of 65,536: 45,426.
        let units = halvings * 45_426 + (65_536 - part) * 45_426 / 65_536;
        Duration::from_nanos(nanos(mean) / 65_536 * units)
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }
}

/// A duration of the simulated world as nanoseconds.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a run does not last for centuries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_have_streams_of_their_own() {
        let draws = |seed, purpose, index| Random::new(seed, purpose, index).u64();
        assert_eq!(draws(1, "network", 0), draws(1, "network", 0));
        assert_ne!(draws(1, "network", 0), draws(1, "disk", 0));
        assert_ne!(draws(1, "disk", 0), draws(1, "disk", 1));
        assert_ne!(draws(1, "disk", 0), draws(2, "disk", 0));
    }

    #[test]
    fn draws_stay_in_their_ranges_and_reach_both_ends() {
        let mut random = Random::new(1, "test", 0);
        let draws: Vec<u64> = (0..1000).map(|_| random.within(3..=6)).collect();
        assert_eq!((draws.iter().min(), draws.iter().max()), (Some(&3), Some(&6)));
        assert!((0..1000).all(|_| random.chance(ALWAYS)));
        assert!((0..1000).all(|_| !random.chance(0)));
    }

    #[test]
    fn waiting_times_have_their_mean() {
        let mut random = Random::new(1, "test", 0);
        let mean = Duration::from_millis(100);
        let sum: Duration = (0..10_000).map(|_| random.waiting(mean)).sum();
        let measured = sum / 10_000;
        assert!((90..=110).contains(&measured.as_millis()), "{measured:?}");
    }
}
