//! What may be wrong with clocks.

use std::time::Duration;

use super::{ms, ppm_up_to};
use crate::random::{Ppm, Random};

/// How far the clocks of processes are off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Wall clocks are off by up to this from the beginning, in both directions.
    pub offset: Duration,
    /// Both clocks of a process run faster or slower by up to this.
    pub drift: Ppm,
    pub steps: Option<ClockSteps>,
}

impl Clocks {
    pub(super) fn draw(random: &mut Random) -> Self {
        Self {
            offset: ms(0..=1_500, random),
            drift: *random.pick(&[0, 200, 5_000, 20_000]),
            steps: random.chance(500_000).then(|| ClockSteps::draw(random)),
        }
    }
}

/// Wall clocks that are set, forward or back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockSteps {
    /// Mean time from one to the next.
    pub every: Duration,
    /// How far at most.
    pub most: Duration,
    /// How many go back.
    pub back: Ppm,
}

impl ClockSteps {
    fn draw(random: &mut Random) -> Self {
        let most = *random.pick(&[5, 200, 2_000, 60_000, 3_600_000]);
        Self {
            every: ms(200..=2_000, random),
            most: ms(most / 5..=most, random),
            back: ppm_up_to(1_000_000, random),
        }
    }
}
