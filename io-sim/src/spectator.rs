//! What a person sees of a run: the way of every frame, who stands where, which links are cut, what disks do.
//!
//! Checkers are given what users and replicas may know ([`crate::history`]); a drawing wants more, and its cost is
//! paid only where somebody watches. The one law: **watching changes nothing**: no draw, no event, no order.

use std::fmt;

use tigerchat_core::types::Instant;
use tigerchat_core::vsr::replica::View;
use tigerchat_core::wire::frame::Command;

use crate::disk::DiskCounts;
use crate::network::Place;
use crate::report::Fate;
use crate::world::World;

/// Something to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A frame left. It will come to its receiver then; `None`: it never will.
    Sent {
        number: u64,
        from: Place,
        to: Place,
        command: Command,
        len: usize,
        fate: Fate,
        arrives: Option<Instant>,
    },
    /// The frame of that number came, and nobody heard it.
    Unheard {
        number: u64,
    },
    /// A process is up or down; a replica that has read its disk stands somewhere.
    Stands {
        place: Place,
        up: bool,
        view: Option<View>,
    },
    /// A process stands still until then.
    Paused {
        place: Place,
        until: Instant,
    },
    Link {
        from: Place,
        to: Place,
        cut: bool,
    },
    /// Everything on this disk takes so many times as long.
    Slow {
        place: Place,
        factor: u32,
    },
    /// A disk takes no writes until then.
    Full {
        place: Place,
        until: Instant,
    },
    /// What was added to the counts of a disk.
    Disk {
        place: Place,
        more: DiskCounts,
    },
    /// Trouble of a kind begins. Recipes name it by its number ([`crate::recipe`]).
    Trouble {
        number: u32,
        kind: String,
    },
}

/// Is told what is seen.
pub type Tell<'a> = Box<dyn FnMut(Instant, Sight) + 'a>;

/// Somebody who watches, and what they saw last.
pub(crate) struct Spectator<'a> {
    tell: Tell<'a>,
    numbered: u64,
    processes: Vec<Seen>,
    /// Links that are cut, by `from * processes + to`.
    cuts: Vec<bool>,
}

/// What was last seen of a process.
#[derive(Clone, Debug, Default)]
struct Seen {
    up: bool,
    view: Option<View>,
    paused_until: Instant,
    slowness: u32,
    full_until: Instant,
    disk: DiskCounts,
}

impl fmt::Debug for Spectator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spectator({} frames)", self.numbered)
    }
}

impl<'a> Spectator<'a> {
    pub(crate) fn new(tell: Tell<'a>, processes: usize) -> Self {
        let seen = Seen { slowness: 1, ..Seen::default() };
        Self { tell, numbered: 0, processes: vec![seen; processes], cuts: vec![false; processes * processes] }
    }
}

impl World<'_> {
    /// Tells of a frame that left. Its number is zero where nobody watches.
    pub(crate) fn see_sent(
        &mut self,
        (from, to): (Place, Place),
        command: Command,
        len: usize,
        (fate, arrives): (Fate, Option<Instant>),
    ) -> u64 {
        let now = self.now;
        let Some(spectator) = &mut self.spectator else { return 0 };
        spectator.numbered += 1;
        let number = spectator.numbered;
        (spectator.tell)(now, Sight::Sent { number, from, to, command, len, fate, arrives });
        number
    }

    pub(crate) fn see(&mut self, sight: impl FnOnce() -> Sight) {
        let now = self.now;
        if let Some(spectator) = &mut self.spectator {
            (spectator.tell)(now, sight());
        }
    }

    /// After each event: tells what is other than before.
    pub(crate) fn look_around(&mut self) {
        let Some(mut spectator) = self.spectator.take() else { return };
        for place in 0..self.processes.len() {
            self.look_at(place, &mut spectator);
            for to in (0..self.processes.len()).filter(|to| *to != place) {
                let cut = !self.network.is_up(place, to);
                let was = &mut spectator.cuts[place * self.processes.len() + to];
                if *was != cut {
                    *was = cut;
                    (spectator.tell)(self.now, Sight::Link { from: place, to, cut });
                }
            }
        }
        self.spectator = Some(spectator);
    }

    fn look_at(&self, place: Place, spectator: &mut Spectator<'_>) {
        let process = &self.processes[place];
        let view = if place < self.replicas() { self.view_of(place) } else { None };
        let seen = &mut spectator.processes[place];
        let tell = &mut spectator.tell;
        let stance = |view: &Option<View>| view.map(|it| (it.status, it.view, it.is_primary, it.checkpoint));
        if (seen.up, stance(&seen.view)) != (process.is_up(), stance(&view)) {
            (seen.up, seen.view) = (process.is_up(), view);
            tell(self.now, Sight::Stands { place, up: seen.up, view });
        }
        if seen.paused_until != process.paused_until {
            seen.paused_until = process.paused_until;
            if process.paused_until > self.now {
                tell(self.now, Sight::Paused { place, until: process.paused_until });
            }
        }
        let Some(disk) = &process.disk else { return };
        if seen.slowness != disk.slowness {
            seen.slowness = disk.slowness;
            tell(self.now, Sight::Slow { place, factor: disk.slowness });
        }
        if seen.full_until != disk.full_until {
            seen.full_until = disk.full_until;
            if disk.full_until > self.now {
                tell(self.now, Sight::Full { place, until: disk.full_until });
            }
        }
        if seen.disk != disk.counts {
            let more = DiskCounts {
                damaged: disk.counts.damaged - seen.disk.damaged,
                repaired: disk.counts.repaired - seen.disk.repaired,
                errors: disk.counts.errors - seen.disk.errors,
            };
            seen.disk = disk.counts;
            tell(self.now, Sight::Disk { place, more });
        }
    }
}
