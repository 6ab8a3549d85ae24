//! Every queue and table of a replica or an edge stays within its limit (I21), whatever comes in.

use io_sim::history::{Final, Observation, Violation, What};
use tigerchat_core::vsr::load::Load;

use super::{Checker, violated};
use crate::tell::name_of;

const NAME: &str = "bounds";

#[derive(Debug, Default)]
pub struct Bounds;

impl Checker for Bounds {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match seen.what {
            What::Fuller { at, load: Load { what, holds, limit } } if holds > limit => {
                violated(NAME, format!("{}: {what}: {holds}, the limit is {limit}", name_of(at)))
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, _: &Final) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    #[test]
    fn a_queue_beyond_its_limit_is_found() {
        let mut story = Story::good();
        assert_eq!(story.judge::<Bounds>(), Ok(()));
        story.change(|what| {
            if let What::Fuller { load, .. } = what {
                load.holds = load.limit + 1;
            }
        });
        story.violates::<Bounds>("replica 0: sessions: 9, the limit is 8");
    }
}
