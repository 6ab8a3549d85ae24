//! Deadlines with reasons. Time leaps from one to the next; nothing ticks.

use crate::types::Instant;

/// Why a replica wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Timer {
    /// Primary: say that we are here.
    Heartbeat,
    /// Backup: the primary was silent for too long.
    PrimarySilent,
    /// Ask again for a view change, or give up on the one under way.
    ViewChange,
    /// Primary: send prepares again that were not acknowledged.
    Resend,
    /// Ask again for what is missing.
    Repair,
    /// Ask another peer for blocks that are damaged here.
    Blocks,
    /// Read the next block, to see whether it is whole.
    Scrub,
    /// Exchange views and checkpoints with the other replicas.
    Ping,
    /// Primary: sessions whose edge fell silent.
    Lease,
    /// Primary: a hand-over under way.
    HandOver,
}

const TIMERS: [Timer; 10] = [
    Timer::Heartbeat,
    Timer::PrimarySilent,
    Timer::ViewChange,
    Timer::Resend,
    Timer::Repair,
    Timer::Blocks,
    Timer::Scrub,
    Timer::Ping,
    Timer::Lease,
    Timer::HandOver,
];

#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    at: [Option<Instant>; TIMERS.len()],
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.at[timer as usize] = Some(at);
    }

    /// Moves a timer nearer, never farther.
    pub(super) fn hasten(&mut self, timer: Timer, at: Instant) {
        let slot = &mut self.at[timer as usize];
        *slot = Some(slot.map_or(at, |old| old.min(at)));
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        self.at[timer as usize] = None;
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.at[timer as usize].is_some()
    }

    pub(super) fn next(&self) -> Option<(Instant, Timer)> {
        TIMERS.iter().filter_map(|timer| Some((self.at[*timer as usize]?, *timer))).min()
    }

    /// Takes one timer that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = self.next()?;
        (at <= now).then(|| {
            self.clear(timer);
            timer
        })
    }
}
