//! A disk that did nothing wrong gives back what was durable on it (H36, H37): whoever finds its checkpoint damaged after a
//! restart named it before it was whole. Peers would make it good again, so that no other promise is broken.

use io_sim::history::{Final, Observation, Violation, What};

use super::{Checker, violated};

const NAME: &str = "storage";

#[derive(Debug, Default)]
pub struct Storage;

impl Checker for Storage {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match seen.what {
            What::StateLost { replica, sound_disk: true } => violated(
                NAME,
                format!("the disk of replica {} is sound, and its checkpoint can't be read", replica.0),
            ),
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
    fn h36_a_checkpoint_that_was_named_before_it_was_whole_is_found() {
        let mut story = Story::good();
        assert_eq!(story.judge::<Storage>(), Ok(()));
        story.change(|what| {
            if let What::StateLost { sound_disk, .. } = what {
                *sound_disk = true;
            }
        });
        story.violates::<Storage>("the disk of replica 2 is sound, and its checkpoint can't be read");
    }
}
