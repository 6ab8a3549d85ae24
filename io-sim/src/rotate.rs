//! Another key for the disk of a replica that is down, as `tigerchat key rotate` gives it one, by the code that it runs.
//!
//! The one law: **whatever interrupts it, the replica starts with the keys that its superblock names**, and reads what it
//! wrote before; that it forgot nothing is for the checkers, as ever.

use std::sync::Arc;

use tigerchat_core::io::DiskError;
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::rotation::{self, DataFile, Failed};
use tigerchat_core::store::sealing::Sealing as _;
use tigerchat_core::store::superblock::Superblock;

use crate::disk::Disk;
use crate::network::Place;
use crate::random::Ppm;
use crate::seal::{Rotated, StandIn};
use crate::world::World;

/// Of the restarts in worlds with sealed disks.
const ROTATED: Ppm = 200_000;
/// Of those; and of these the ones that are a power cut.
const INTERRUPTED: Ppm = 400_000;
const POWER_LOST: Ppm = 500_000;
/// Sectors that are written at most until one is interrupted: more than both replacements of the superblock are.
const WRITTEN_MAX: u64 = 60;

/// The disk of a process that is down.
struct Offline<'a> {
    disk: &'a mut Disk,
    /// What is written has to be sealed by this.
    sealing: StandIn,
    /// Writes until the tool is killed.
    left: u64,
}

impl DataFile for Offline<'_> {
    fn size(&mut self) -> Result<u64, DiskError> {
        Ok(self.disk.bytes())
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.disk.read_now(offset, into)
    }

    fn write(&mut self, offset: u64, sectors: &[u8]) -> Result<(), DiskError> {
        self.left = self.left.checked_sub(1).ok_or(DiskError::Write)?;
        let sealed = offset < SUPERBLOCK_ZONE as u64 || self.sealing.sealed(sectors);
        assert!(sealed, "a rotation writes in the clear at {offset}");
        self.disk.write_now(offset, sectors);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.left = self.left.checked_sub(1).ok_or(DiskError::Fsync)?;
        self.disk.flush_now();
        Ok(())
    }
}

impl World<'_> {
    /// All disks of a world have one ledger.
    pub(crate) fn rotated(&self) -> Rotated {
        let sealing = self.processes.iter().find_map(|process| process.sealing.as_ref());
        sealing.map(|sealing| sealing.ledger().rotated()).unwrap_or_default()
    }

    /// Before a start that is not the first: perhaps the disk is given another key meanwhile, or a part of it.
    pub(crate) fn rotate_key(&mut self, place: Place) {
        if !self.drawn.shape.rotates {
            return;
        }
        self.read_keys(place);
        let process = &mut self.processes[place];
        let (Some(sealing), Some(disk)) = (process.sealing.clone(), &mut process.disk) else { return };
        // What a disk lost is not to be written as if it were what was there last.
        if process.life < 2 || disk.has_lost_write() {
            return;
        }
        let ledger = Arc::clone(sealing.ledger());
        let (left, power) = {
            let mut random = ledger.rotations.lock().expect("one thread");
            if !random.chance(ROTATED) {
                return;
            }
            let left = if random.chance(INTERRUPTED) { random.within(0..=WRITTEN_MAX) } else { u64::MAX };
            (left, random.chance(POWER_LOST))
        };
        let resumes = sealing.before().is_some();
        let both = if resumes { (*sealing).clone() } else { sealing.next() };
        let mut file = Offline { disk, sealing: both.clone(), left };
        let done = if resumes { Ok(()) } else { rotation::replace(&mut file, both.envelope()).map(|_| ()) };
        let done = done.and_then(|()| rotation::finish(&mut file, &both, &mut |_, _| {}).map(|_| ()));
        let mut rotated = ledger.rotated.lock().expect("one thread");
        match done {
            Ok(()) => {
                rotated.whole += 1;
                rotated.resumed += u64::from(resumes);
            }
            Err(Failed::Disk(DiskError::Write | DiskError::Fsync)) => {
                rotated.interrupted += 1;
                if power {
                    rotated.power_lost += 1;
                    disk.power_lost();
                }
            }
            // All copies of a superblock were never unreadable at once; so this is an error of ours.
            Err(error) => panic!("the key of replica {place} can't be changed: {error}"),
        }
        drop(rotated);
        process.sealing = Some(Arc::new(both));
        self.read_keys(place);
    }

    /// Whoever opens a file uses the keys that its superblock names. Those need not be the ones of the start before:
    /// a power cut brings back an older superblock, if a rotation was killed before it was flushed and nothing was
    /// flushed since.
    fn read_keys(&mut self, place: Place) {
        let process = &mut self.processes[place];
        let (Some(sealing), Some(disk)) = (&process.sealing, &process.disk) else { return };
        let zone = disk.beginning(SUPERBLOCK_ZONE);
        let named = Superblock::open(&zone).expect("a superblock is there after any interruption").envelope;
        let fits = sealing.so_far().find(|candidate| Some(candidate.envelope()) == named);
        process.sealing = Some(Arc::new(fits.expect("the superblock names keys that the disk had")));
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::{Plan, Recipe};

    /// What the tool does while a world goes on, in worlds enough for all of it. The checkers of `vopr` look at what
    /// becomes of such worlds; here they only have to become quiet and agree.
    #[test]
    fn h41_keys_change_while_replicas_are_down_wholly_in_part_and_again() {
        let mut seen = Rotated::default();
        let mut worlds = 0;
        for seed in 0..400 {
            let recipe = Recipe::of(&Plan::SWARM, seed);
            if !recipe.drawn().shape.sealed || !recipe.drawn().somebody_falls() {
                continue;
            }
            worlds += 1;
            let mut observer = |_: &crate::history::Observation| ControlFlow::Continue(());
            let report = crate::run_recipe(&recipe, &mut observer, None);
            assert!(report.end.is_some(), "seed {seed} became quiet");
            let Rotated { whole, interrupted, power_lost, resumed } = report.rotated;
            seen.whole += whole;
            seen.interrupted += interrupted;
            seen.power_lost += power_lost;
            seen.resumed += resumed;
            if seen.whole > 5 && seen.interrupted > 5 && seen.power_lost > 1 && seen.resumed > 0 {
                return;
            }
        }
        panic!("in {worlds} worlds: {seen:?}");
    }
}
