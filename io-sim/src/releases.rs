//! Binaries of two releases in one world (H60): processes restart into the next one, in any order, and sometimes back.
//!
//! The one law: **what a binary runs belongs to the process and not to its disk**: the same code is opened with
//! another range of releases. After the healing everybody who is whole runs the newest.

use std::sync::Arc;
use std::time::Duration;

use tigerchat_core::chat::Chat;
use tigerchat_core::io::Effects;
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::sealing::Sealing;
use tigerchat_core::store::superblock::OpenError;
use tigerchat_core::types::{FIRST_RELEASE, Now};
use tigerchat_core::vsr::release::Releases;
use tigerchat_core::vsr::replica::{Replica, Start, Timeouts};

use crate::faults::Shape;
use crate::network::Place;
use crate::random::{Ppm, Random};
use crate::trouble::Trouble;
use crate::world::{Event, World};

/// The binary with which the replicas of such a world begin.
pub const OLD: Releases = Releases { oldest: FIRST_RELEASE, newest: FIRST_RELEASE, hold: false };
/// The one that they are restarted into.
pub const NEW: Releases = Releases { oldest: FIRST_RELEASE, newest: FIRST_RELEASE + 1, hold: false };

/// How long giving the lead away may take, and then how long a process is away, at most.
const AWAY: Duration = Duration::from_millis(150);
/// How often one goes back just as the upgrade is made, and each other one with it.
const TAKEN_BACK: Ppm = 700_000;
const ANOTHER_TOO: Ppm = 300_000;
/// How soon somebody reads what a binary that is too old said as it ended, and starts the newer one.
const READ: Duration = Duration::from_millis(100);

/// How an operator changes binaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rolling {
    /// Mean time from one restart to the next.
    pub every: Duration,
    /// How many go back to the old binary, as long as no log is seen that the old one can't run.
    pub back: Ppm,
    /// How many go back without looking.
    pub blindly: Ppm,
}

impl Rolling {
    /// Draws from dice of its own, so that worlds without it are what they were.
    pub(crate) fn draw(chance: Ppm, seed: u64) -> Option<Self> {
        let mut random = Random::new(seed, "releases", 0);
        random.chance(chance).then(|| Self {
            every: Duration::from_millis(random.within(30..=300)),
            back: u32::try_from(random.within(0..=400_000)).expect("below a million"),
            blindly: u32::try_from(random.within(0..=300_000)).expect("below a million"),
        })
    }
}

impl World<'_> {
    /// What a replica's process runs as the world begins.
    pub(crate) fn first_binary(rolling: Option<&Rolling>) -> Releases {
        if rolling.is_some() { OLD } else { Releases::OURS }
    }

    /// The next step of a rolling upgrade, or one back.
    pub(crate) fn some_restart(&mut self) {
        let Some(knobs) = self.drawn.rolling.clone() else { return };
        self.trouble_after(knobs.every, Trouble::Restart);
        let blindly = self.random.chance(knobs.blindly);
        let back = blindly || self.random.chance(knobs.back) && !self.is_release_seen(NEW.newest);
        let (from, to) = if back { (NEW, OLD) } else { (OLD, NEW) };
        let among: Vec<Place> =
            (0..self.replicas()).filter(|place| self.processes[*place].binary == from).collect();
        if !among.is_empty() {
            let place = *self.random.pick(&among);
            self.restart_as(place, to);
        }
    }

    /// Stops a process in order, if it is up, and starts it as another binary: whoever leads gives that away first.
    pub fn restart_as(&mut self, place: Place, binary: Releases) {
        if self.primary() == Some(place) && self.hand_over(None).is_ok() {
            let at = self.soon(AWAY);
            return self.schedule(at, Event::Trouble(Trouble::Swap(place, binary)));
        }
        self.swap(place, binary);
    }

    pub(crate) fn swap(&mut self, place: Place, binary: Releases) {
        if self.processes[place].is_up() {
            self.crash(place, false);
            let away = self.random.duration(&(Duration::ZERO..=AWAY));
            self.start_after(place, away);
        }
        self.processes[place].binary = binary;
    }

    /// The first entry of the new release is in a log, and nowhere else: some of the others go back just then.
    pub(crate) fn meet_upgrade(&mut self, place: Place) {
        if self.drawn.rolling.is_none() || self.upgrade_met || self.healed {
            return;
        }
        let head = self.replica(place).and_then(|replica| replica.header(replica.observe().op));
        if head.is_none_or(|head| head.release.get() < NEW.newest) {
            return;
        }
        self.upgrade_met = true;
        if !self.random.chance(TAKEN_BACK) {
            return;
        }
        let first = self.random.index(self.replicas());
        for other in (0..self.replicas()).filter(|other| *other != place) {
            if other == first || self.random.chance(ANOTHER_TOO) {
                self.schedule(self.now, Event::Trouble(Trouble::Swap(other, OLD)));
            }
        }
    }

    /// Whoever is made whole for good runs the newest release from now on.
    pub(crate) fn finish_rolling(&mut self, place: Place) {
        if self.drawn.rolling.is_some() && self.processes[place].binary == OLD && place < self.replicas() {
            self.swap(place, NEW);
        }
    }

    /// A binary that was too old ended, or did not begin: the next start is of one that is not.
    pub(crate) fn learn_release(&mut self, place: Place) {
        let old = self.drawn.rolling.is_some() && self.processes[place].binary == OLD;
        assert!(old, "replica {place} refuses its log, and its binary is the newest");
        self.processes[place].binary = NEW;
    }

    /// The same, of a process that ends by itself.
    pub(crate) fn end_of_old_binary(&mut self, place: Place) {
        self.learn_release(place);
        let read = self.random.duration(&(Duration::ZERO..=READ));
        self.start_after(place, read);
    }

    /// Opens a replica as the binary of its process; one that refuses the file is followed by one that does not.
    pub(crate) fn open(&mut self, place: Place, seed: [u8; 32], now: Now) -> (Replica<Chat>, Effects) {
        let Shape { session_lease, ping, no_progress, unfit, scrub_cycle, .. } = self.drawn.shape;
        let timeouts =
            Timeouts { session_lease, ping, no_progress, unfit, scrub_cycle, ..Timeouts::default() };
        loop {
            let process = &self.processes[place];
            let zone = process.disk.as_ref().expect("replicas have disks").beginning(SUPERBLOCK_ZONE);
            let (machine, pool) = (Chat::new(self.limits(), &self.layout()), process.pool.clone());
            let sealing = process.sealing.clone().map(|sealing| sealing as Arc<dyn Sealing>);
            let start = Start { timeouts: timeouts.clone(), binary: process.binary, sealing, seed };
            let mut effects = Effects::new();
            match Replica::open(&zone, machine, pool, start, now, &mut effects) {
                Ok(replica) => return (replica, effects),
                Err(OpenError::Release(_)) => self.learn_release(place),
                Err(error) => panic!("replica {place} can't open: {error}"),
            }
        }
    }

    /// Whether some replica that is up has an entry of this release in its log.
    fn is_release_seen(&self, release: u32) -> bool {
        let heads = (0..self.replicas()).filter_map(|place| {
            let replica = self.replica(place)?;
            replica.header(replica.observe().op)
        });
        heads.map(|head| head.release.get()).any(|seen| seen >= release)
    }

    /// Whether all who are whole act by the newest release. Where one is gone for good it holds the others up.
    pub(crate) fn has_moved_on(&self) -> bool {
        let waits = self.drawn.rolling.is_some()
            && !self.drawn.broken
            && self.drawn.members.is_none()
            && self.lost.is_empty();
        let views = (0..self.replicas()).filter_map(|place| self.view_of(place));
        !waits || views.map(|view| view.release).all(|release| release == NEW.newest)
    }
}
