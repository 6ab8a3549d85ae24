//! When a primary should not be one, though it can still send heartbeats (H18, H19, H20, H60).
//!
//! It asks for the next view itself, and its backups join at once: the ordinary steps of a view change, none skipped.
//! A reason must be one that another primary would not have: a stall of all is none.

use core::fmt;
use core::time::Duration;

use super::machine::Machine;
use super::marks::Mark;
use super::normal::Acked;
use super::replica::{Replica, Timer};
use crate::io::Effects;
use crate::types::Instant;

/// Why a primary asks for another one. Each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Abdication {
    /// It hears no quorum: it can send only.
    HearsNobody,
    /// It is heard by no quorum, or its peers' answers do not come through: it can receive only.
    HeardByNobody,
    /// What it prepared finds no quorum, or what is committed can't be executed.
    NoProgress,
    /// Its disk is slow while its peers' disks are not.
    SlowDisk,
    /// Its clock is none of those that agree.
    Clock,
    /// It lacks what only a checkpoint still holds: it can't execute what is committed.
    Behind,
}

impl Abdication {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 6] =
        [Self::HearsNobody, Self::HeardByNobody, Self::NoProgress, Self::SlowDisk, Self::Clock, Self::Behind];

    fn mark(self) -> Mark {
        match self {
            Self::HearsNobody => Mark::AbdicateHearsNobody,
            Self::HeardByNobody => Mark::AbdicateHeardByNobody,
            Self::NoProgress => Mark::AbdicateNoProgress,
            Self::SlowDisk => Mark::AbdicateSlowDisk,
            Self::Clock => Mark::AbdicateClock,
            Self::Behind => Mark::PrimaryBehind,
        }
    }

    /// It does harm by sounding alive: no heartbeat leaves any more. The others serve on until the next one takes over.
    fn silences(self) -> bool {
        !matches!(self, Self::SlowDisk | Self::Clock)
    }
}

impl fmt::Display for Abdication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HearsNobody => "no quorum is heard",
            Self::HeardByNobody => "no quorum answers",
            Self::NoProgress => "nothing is committed or executed any more",
            Self::SlowDisk => "the disk is much slower than the others'",
            Self::Clock => "the clock is off",
            Self::Behind => "the log lacks what only a checkpoint of another replica holds",
        })
    }
}

/// Who gave up the lead for a bad clock or a slow disk and leads again bears the same for this long: perhaps all others
/// are worse.
const CONTENT: Duration = Duration::from_secs(10);
/// A disk that is faster than this is not slow.
const SLOW: Duration = Duration::from_millis(100);
/// Nor one that is not slower than so many times its peers'.
const SLOWER: u32 = 8;

/// What a replica knows of its own fitness to lead.
#[derive(Debug, Default)]
pub(super) struct Fitness {
    counts: [u64; Abdication::ALL.len()],
    /// Why we are asking for another primary.
    asking: Option<Abdication>,
    slow_since: Option<Instant>,
    /// When we last asked because of our clock or our disk.
    unfit: Option<Instant>,
    /// When an entry was last executed here.
    pub(super) executed: Instant,
}

impl Fitness {
    /// A new view begins.
    pub(super) fn begin_view(&mut self, now: Instant) {
        (self.asking, self.slow_since, self.executed) = (None, None, now);
    }
}

impl<M: Machine> Replica<M> {
    /// How often this replica gave up the lead for each reason, in the order of [`Abdication::ALL`].
    #[must_use]
    pub fn abdications(&self) -> &[u64; Abdication::ALL.len()] {
        &self.fitness.counts
    }

    /// With each heartbeat: whether we should go on. Says whether the heartbeat may leave.
    pub(super) fn consider_abdicating(&mut self, effects: &mut Effects) -> bool {
        if self.is_only_voter() {
            return true;
        }
        match self.reason_to_abdicate() {
            Some(why) => {
                self.abdicate(why, effects);
                !why.silences()
            }
            None => {
                self.stay();
                true
            }
        }
    }

    /// Asks for another primary. Until a quorum asks too, we are the one.
    pub(super) fn abdicate(&mut self, why: Abdication, effects: &mut Effects) {
        if self.view_change.asked() <= self.view {
            self.fitness.counts[why as usize] += 1;
            self.mark(why.mark());
            self.fitness.asking = Some(why);
            if !why.silences() {
                self.fitness.unfit = Some(self.now.mono);
            }
        }
        self.ask_view_change(self.view + 1, effects);
    }

    /// What spoke against us has passed before anybody took over.
    fn stay(&mut self) {
        let passed = self.fitness.asking.is_some_and(|why| why != Abdication::Behind);
        if passed {
            self.mark(Mark::AbdicationPassed);
            self.fitness.asking = None;
            self.view_change.withdraw();
            self.timers.clear(Timer::ViewChange);
        }
    }

    fn reason_to_abdicate(&mut self) -> Option<Abdication> {
        let needed = usize::from(self.members.quorums().replication) - 1;
        let patience = self.peer_patience();
        if self.voters_heard(patience) < needed {
            return Some(Abdication::HearsNobody);
        }
        if self.voters_answered(patience) < needed {
            return Some(Abdication::HeardByNobody);
        }
        if self.is_stuck() {
            return Some(Abdication::NoProgress);
        }
        self.reason_of_its_own()
    }

    /// What others may do better, if not all of them are as bad.
    fn reason_of_its_own(&mut self) -> Option<Abdication> {
        let (now, borne) = (self.now.mono, self.timeouts.unfit);
        let slow = self.has_slow_disk();
        self.fitness.slow_since = slow.then(|| self.fitness.slow_since.unwrap_or(now));
        let slow = self.fitness.slow_since.is_some_and(|since| now.since(since) >= borne);
        let off = self.clock_outside().is_some_and(|time| time >= borne);
        let asking = self.fitness.asking.is_some();
        if !asking && self.fitness.unfit.is_some_and(|at| now.since(at) < CONTENT) {
            return None;
        }
        if slow { Some(Abdication::SlowDisk) } else { off.then_some(Abdication::Clock) }
    }

    /// The oldest entry finds no quorum, or what is committed is not executed. Where all disks stand still, and where
    /// the others hear us and answer, another primary would hardly do better: that is borne longer.
    fn is_stuck(&self) -> bool {
        let now = self.now.mono;
        let uncommitted = self.journal.head > self.commit_max;
        let unexecuted = self.commit_max > self.commit_min();
        let borne = self.timeouts.no_progress;
        let stalled = self.durable_op < self.journal.head;
        if uncommitted && now.since(self.progress) > borne {
            return !stalled && now.since(self.progress) > borne * 4;
        }
        unexecuted && now.since(self.fitness.executed.max(self.progress)) > borne * 4
    }

    /// Our disk takes many times as long as those of a quorum of the others, or of all others, while they go on.
    fn has_slow_disk(&self) -> bool {
        let (now, next) = (self.now.mono, self.durable_op + 1);
        let theirs = self.peers_flush();
        let bound = SLOW.max(theirs.unwrap_or_default() * SLOWER);
        let by_peers = |has: &dyn Fn(&Acked) -> bool| {
            let peers = self.members.voters().filter(|id| *id != self.me);
            peers.filter(|id| self.acked.get(*id).is_some_and(has)).count() >= self.without_us()
        };
        // What it is at: they have it already.
        let waits = next <= self.journal.head
            && self.detector.sent_at(next).is_none_or(|sent| now.since(sent) > bound)
            && by_peers(&|acked| acked.op >= next);
        // What it did lately.
        let ours = self.detector.ack_mean(self.me);
        let lags = theirs.is_some()
            && ours.is_some_and(|ours| ours > bound)
            && by_peers(&|acked| acked.op > 0 && now.since(acked.at) < self.timeouts.unfit);
        waits || lags
    }
}
