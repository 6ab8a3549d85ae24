//! What goes wrong over time: crashes, partitions, pauses, slow disks; and the end of it.
//!
//! The one law: **trouble comes as events, and after the healing none comes to the core any more**, while the rest
//! of the world stays as broken as it is.

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::ops::RangeInclusive;
use std::time::Duration;

use tigerchat_core::types::Instant;
use tigerchat_core::vsr::release::Releases;
use tigerchat_core::wire::frame::Command;

use crate::faults::{ClockSteps, Crashes};
use crate::history::What;
use crate::network::Place;
use crate::process::Role;
use crate::process::TrapAt;
use crate::random::Ppm;
use crate::spectator::Sight;
use crate::world::{Event, World};

/// Something goes wrong, or right again.
#[derive(Clone, Debug)]
pub enum Trouble {
    Crash,
    Partition,
    /// Links that are cut come back, and go again so many times.
    Mend(Vec<(Place, Place)>, u32),
    Flap(Vec<(Place, Place)>, u32),
    SlowLink,
    Reset,
    ClockStep,
    Pause,
    SlowDisk,
    FastDisk,
    Damage,
    FullDisk,
    /// The primary is cut off from its peers.
    Depose,
    /// The one who was cut off then comes back, if it has not yet.
    Redeem(Instant),
    /// The outsider says something.
    Intrusion,
    /// The operator looks after the members.
    Operate,
    /// An operator erases messages.
    Clear,
    /// An operator moves the lead.
    HandOver,
    /// A process restarts into another release.
    Restart,
    /// The end of one: it comes back as that binary.
    Swap(Place, Releases),
    Ambush,
    /// The end of an ambush: the links that were cut, and the quorum that was alone.
    Spring(Vec<(Place, Place)>, Vec<Place>),
}

/// Points of the protocol at which a crash is told apart by what had left before it.
const AIMS: [Command; 12] = [
    Command::Prepare,
    Command::PrepareOk,
    Command::Commit,
    Command::StartViewChange,
    Command::DoViewChange,
    Command::StartView,
    Command::RequestStartView,
    Command::Headers,
    Command::Reply,
    Command::Committed,
    Command::Block,
    Command::Pong,
];

/// A partition that ends takes the leader with it.
const LEADER_DIES_AT_MEND: Ppm = 300_000;
/// Starts that end before they are through.
const CRASH_WHILE_STARTING: Ppm = 150_000;
/// Who falls where crashes were not drawn comes back: how often at once, and otherwise when.
const RETURN: (Ppm, RangeInclusive<Duration>) =
    (300_000, Duration::from_millis(5)..=Duration::from_millis(400));

impl World<'_> {
    /// The first trouble of each kind that was drawn.
    pub(crate) fn begin_trouble(&mut self) {
        for (mean, trouble) in self.kinds_of_trouble() {
            if let Some(mean) = mean {
                self.trouble_after(mean, trouble);
            }
        }
    }

    /// What comes by itself, and how long after the one before in the mean, if it was drawn.
    fn kinds_of_trouble(&self) -> [(Option<Duration>, Trouble); 16] {
        [
            (self.drawn.crashes.as_ref().map(|knob| knob.every), Trouble::Crash),
            (self.drawn.partitions.as_ref().map(|knob| knob.every), Trouble::Partition),
            (self.drawn.slow_links.as_ref().map(|knob| knob.every), Trouble::SlowLink),
            (self.drawn.resets, Trouble::Reset),
            (self.clock_steps().map(|knob| knob.every), Trouble::ClockStep),
            (self.drawn.pauses.as_ref().map(|knob| knob.every), Trouble::Pause),
            (self.drawn.slow_disk.as_ref().map(|knob| knob.spell), Trouble::SlowDisk),
            (self.drawn.damage.as_ref().map(|knob| knob.every), Trouble::Damage),
            (self.drawn.crashes.as_ref().and(self.drawn.ambushes), Trouble::Ambush),
            (self.drawn.depositions, Trouble::Depose),
            (self.drawn.outsider, Trouble::Intrusion),
            (self.drawn.hand_overs, Trouble::HandOver),
            (self.drawn.full_disk.as_ref().map(|knob| knob.every), Trouble::FullDisk),
            (self.drawn.members.as_ref().map(|knob| knob.every), Trouble::Operate),
            (self.drawn.rolling.as_ref().map(|knob| knob.every), Trouble::Restart),
            (self.drawn.erasures.and_then(|knob| knob.operator), Trouble::Clear),
        ]
    }

    /// Numbers trouble that comes by itself. Where a recipe leaves it out, the next of its kind comes in its time.
    fn is_left_out(&mut self, trouble: &Trouble) -> bool {
        let kind = discriminant(trouble);
        let mut kinds = self.kinds_of_trouble().into_iter();
        let Some((Some(mean), _)) = kinds.find(|(_, known)| discriminant(known) == kind) else {
            return false;
        };
        let number = self.troubles;
        self.troubles += 1;
        if self.only_troubles.as_ref().is_some_and(|only| !only.contains(&number)) {
            self.trouble_after(mean, trouble.clone());
            return true;
        }
        self.see(|| Sight::Trouble { number, kind: format!("{trouble:?}") });
        false
    }

    pub(crate) fn trouble_after(&mut self, mean: Duration, trouble: Trouble) {
        let at = self.now.after(self.random.waiting(mean));
        self.schedule(at, Event::Trouble(trouble));
    }

    pub(crate) fn make_trouble(&mut self, trouble: Trouble) {
        if let Trouble::Mend(links, _) | Trouble::Spring(links, _) = &trouble {
            self.set_cut(links, false);
        }
        if self.healed || self.is_left_out(&trouble) {
            return;
        }
        match trouble {
            Trouble::Crash => self.some_crash(),
            Trouble::Partition => self.some_partition(),
            Trouble::Mend(links, 0) => {
                drop(links);
                self.perhaps_lose_leader();
            }
            Trouble::Mend(links, flaps) => self.flap_after(Trouble::Flap(links, flaps)),
            Trouble::Flap(links, flaps) => {
                self.set_cut(&links, true);
                self.flap_after(Trouble::Mend(links, flaps - 1));
            }
            Trouble::SlowLink => self.some_slow_link(),
            Trouble::Reset => self.some_reset(),
            Trouble::ClockStep => self.some_clock_step(),
            Trouble::Pause => self.some_pause(),
            Trouble::SlowDisk => self.change_disk(true),
            Trouble::FastDisk => self.change_disk(false),
            Trouble::Damage => self.some_damage(),
            Trouble::FullDisk => self.some_full_disk(),
            Trouble::Depose => self.depose(),
            Trouble::Redeem(since) => self.redeem(since),
            Trouble::Intrusion => self.intrude(),
            Trouble::Operate => self.operate(),
            Trouble::Clear => self.clear_something(),
            Trouble::HandOver => self.some_hand_over(),
            Trouble::Restart => self.some_restart(),
            Trouble::Swap(place, binary) => self.swap(place, binary),
            Trouble::Ambush => self.lay_ambush(),
            Trouble::Spring(_, quorum) => self.spring_ambush(&quorum),
        }
    }

    /// As a partition ends, whoever leads may die: what the other side wrote meanwhile then meets what a deposed
    /// primary wrote alone, before anybody has told it to forget that (H01).
    fn perhaps_lose_leader(&mut self) {
        if self.drawn.crashes.is_some()
            && self.random.chance(LEADER_DIES_AT_MEND)
            && let Some(primary) = self.primary()
        {
            self.fall(primary, false);
        }
    }

    fn some_crash(&mut self) {
        let Some(knobs) = self.drawn.crashes.clone() else { return };
        self.trouble_after(knobs.every, Trouble::Crash);
        let power = self.random.chance(knobs.power);
        if self.random.chance(knobs.all) {
            for place in 0..self.replicas() {
                self.fall(place, power);
            }
            return;
        }
        if self.random.chance(knobs.edges) {
            let edge = self.replicas() + self.random.index(self.edges());
            return self.fall(edge, false);
        }
        let place = self.victim(knobs.at_primary);
        match self.point(&knobs) {
            Some(at) => self.set_trap(place, at, power),
            None => self.fall(place, power),
        }
    }

    /// Where in its coming turns a process is to crash; `None`: at once.
    fn point(&mut self, knobs: &Crashes) -> Option<TrapAt> {
        let few = |most, random: &mut crate::random::Random| {
            u32::try_from(random.within(1..=most)).expect("a small number")
        };
        if self.random.chance(knobs.aimed) {
            let command = *self.random.pick(&AIMS);
            return Some(TrapAt::Sent(command, few(5, &mut self.random)));
        }
        if self.random.chance(knobs.mid_turn) {
            return Some(if self.random.chance(300_000) {
                TrapAt::Written(few(4, &mut self.random))
            } else {
                TrapAt::Effects(few(10, &mut self.random))
            });
        }
        None
    }

    pub(crate) fn victim(&mut self, at_primary: Ppm) -> Place {
        let any = self.random.index(self.replicas());
        let wanted = self.random.chance(at_primary);
        self.primary().filter(|_| wanted).unwrap_or(any)
    }

    /// Crashes a process and says when it comes back.
    pub(crate) fn fall(&mut self, place: Place, power: bool) {
        let was_up = self.processes[place].is_up();
        self.crash(place, power);
        if self.healed {
            return;
        }
        if was_up && place < self.replicas() {
            self.harm_who_fell(place);
        }
        if !self.drawn.somebody_falls() {
            return;
        }
        let (at_once, down) = self.drawn.crashes.as_ref().map_or(RETURN, |it| (it.at_once, it.down.clone()));
        let delay = if self.random.chance(at_once) {
            Duration::from_micros(self.random.within(0..=3_000))
        } else {
            self.random.duration(&down)
        };
        self.start_after(place, delay);
    }

    /// Crashes a process that comes back at once.
    pub(crate) fn fall_and_rise(&mut self, place: Place, power: bool) {
        let was_up = self.processes[place].is_up();
        self.crash(place, power);
        if was_up && place < self.replicas() {
            self.harm_who_fell(place);
        }
        let delay = Duration::from_micros(self.random.within(0..=3_000));
        self.start_after(place, delay);
    }

    /// What a disk did to what it held is found at the next start.
    fn harm_who_fell(&mut self, place: Place) {
        let Some(damage) = self.drawn.damage.clone() else { return };
        if self.random.chance(damage.at_crash) {
            for _ in 0..self.random.within(1..=3) {
                self.damage(place);
            }
        }
    }

    /// A process starts; perhaps it will not get far.
    pub(crate) fn start_in_trouble(&mut self, place: Place) {
        self.start(place);
        let Some(knobs) = self.drawn.crashes.clone().filter(|_| !self.healed) else { return };
        if self.now > Instant(100_000_000) && self.random.chance(CRASH_WHILE_STARTING) {
            let power = self.random.chance(knobs.power);
            let effects = u32::try_from(self.random.within(1..=60)).expect("small");
            self.set_trap(place, TrapAt::Effects(effects), power);
        }
    }

    fn clock_steps(&self) -> Option<ClockSteps> {
        self.drawn.clocks.as_ref()?.steps.clone()
    }

    fn some_clock_step(&mut self) {
        let Some(knobs) = self.clock_steps() else { return };
        self.trouble_after(knobs.every, Trouble::ClockStep);
        let place = self.random.index(self.processes.len());
        let by = self.random.duration(&(Duration::ZERO..=knobs.most));
        let back = self.random.chance(knobs.back);
        self.processes[place].skew.step(by, back);
        self.tell_clock(place);
    }

    fn some_pause(&mut self) {
        let Some(knobs) = self.drawn.pauses.clone() else { return };
        self.trouble_after(knobs.every, Trouble::Pause);
        let place = self.random.index(self.processes.len());
        let end = self.now.after(self.random.duration(&knobs.lasting));
        self.processes[place].paused_until = end;
    }

    fn change_disk(&mut self, slow: bool) {
        let Some(knobs) = self.drawn.slow_disk.clone() else { return };
        let next = if slow { Trouble::FastDisk } else { Trouble::SlowDisk };
        self.trouble_after(knobs.spell, next);
        if let Some(disk) = &mut self.processes[usize::from(knobs.replica)].disk {
            disk.slowness = if slow { knobs.factor } else { 1 };
        }
    }

    /// A quorum of replicas and all edges are made whole for good. In some worlds the others stay broken.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        let replicas = self.replicas();
        let quorum = usize::from(self.drawn.shape.replicas - self.drawn.shape.quorums().tolerated());
        let mut healthy: Vec<Place> = (0..replicas).filter(|place| !self.lost.contains(place)).collect();
        if self.drawn.broken {
            // Where disks are damaged, the others are needed.
            let victims = self.drawn.damage.as_ref().map(|damage| damage.victims.clone());
            let may_break = |place: &Place| {
                victims
                    .as_ref()
                    .is_none_or(|victims| victims.iter().any(|victim| usize::from(*victim) == *place))
            };
            while healthy.len() > quorum
                && let Some(lost) = self.pick_place(healthy.iter().copied().filter(may_break).collect())
            {
                healthy.retain(|place| *place != lost);
                self.break_for_good(lost);
            }
        }
        self.core = healthy.iter().copied().collect();
        let edges = replicas..self.processes.len();
        let sound: BTreeSet<Place> = healthy.into_iter().chain(edges).collect();
        for one in &sound {
            for other in sound.iter().filter(|other| *other > one) {
                self.network.heal(*one, *other);
            }
        }
        for place in sound {
            let process = &mut self.processes[place];
            process.trap = None;
            process.paused_until = self.now;
            self.finish_rolling(place);
            let up = self.processes[place].is_up();
            self.calm_disk(place);
            if !up {
                self.start(place);
            }
        }
        let core = self.core.iter().filter_map(|place| match self.processes[*place].role {
            Role::Replica(id) => Some(id),
            Role::Edge(_) => None,
        });
        let core = core.collect();
        self.observe(What::Healed { core });
    }

    fn pick_place(&mut self, among: Vec<Place>) -> Option<Place> {
        (!among.is_empty()).then(|| *self.random.pick(&among))
    }

    fn break_for_good(&mut self, place: Place) {
        match self.random.below(4) {
            0 => {
                self.crash(place, true);
                // Whoever was about to start it finds another life.
                self.processes[place].life += 1;
            }
            // It hears nobody, nobody hears it, or both.
            direction => {
                for other in (0..self.processes.len()).filter(|other| *other != place) {
                    if direction != 1 {
                        self.network.break_link(place, other);
                    }
                    if direction != 2 {
                        self.network.break_link(other, place);
                    }
                }
            }
        }
    }
}
