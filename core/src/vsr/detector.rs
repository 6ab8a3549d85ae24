//! How long is too long: timeouts from what was measured, within configured bounds.
//!
//! Estimates are those of TCP's retransmission timer (Jacobson 1988): a running mean and a running deviation. Safety
//! depends on none of this.

use core::time::Duration;

use super::machine::Machine;
use super::membership::{ByMember, Members};
use super::replica::{Adaptive, Replica};
use crate::types::{Instant, ReplicaId};

/// Entries whose way to the quorum is timed.
const TIMED: usize = 32;
/// Samples before an estimate is believed.
const ENOUGH: u32 = 4;
/// No sample counts for more, so that one stall is forgotten again.
const LONGEST: u64 = 2_000_000_000;

/// How long something takes, from experience. Nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Estimate {
    mean: u64,
    deviation: u64,
    samples: u32,
}

impl Estimate {
    fn note(&mut self, sample: Duration) {
        let sample = u64::try_from(sample.as_nanos()).unwrap_or(LONGEST).min(LONGEST);
        if self.samples == 0 {
            (self.mean, self.deviation) = (sample, sample / 2);
        } else {
            self.deviation = self.deviation - self.deviation / 4 + self.mean.abs_diff(sample) / 4;
            self.mean = self.mean - self.mean / 8 + sample / 8;
        }
        self.samples = self.samples.saturating_add(1);
    }

    fn mean(&self) -> Option<Duration> {
        (self.samples >= ENOUGH).then(|| Duration::from_nanos(self.mean))
    }

    /// What it hardly ever takes longer than.
    fn bound(&self) -> Option<Duration> {
        (self.samples >= ENOUGH).then(|| Duration::from_nanos(self.mean + 4 * self.deviation))
    }
}

impl Adaptive {
    /// What was measured, within the bounds.
    #[must_use]
    pub fn hold(&self, measured: Option<Duration>) -> Duration {
        measured.map_or(self.first, |measured| measured.clamp(self.least, self.most))
    }
}

/// What a replica has measured of itself and of its peers.
#[derive(Debug)]
pub(super) struct Detector {
    /// Backup: from one heartbeat of the primary to the next.
    heartbeats: Estimate,
    /// From a ping to its pong.
    trips: ByMember<Estimate>,
    /// Primary: from a prepare to its acknowledgement. Ours is our own flush.
    acks: ByMember<Estimate>,
    /// When each peer last answered something of ours: then the way was open in both directions.
    answered: ByMember<Instant>,
    /// Primary: when the last entries were prepared.
    sent: [(u64, Instant); TIMED],
}

impl Detector {
    pub(super) fn new(members: &Members) -> Self {
        let none = Estimate::default();
        Self {
            heartbeats: none,
            trips: ByMember::new(members.ids(), &none),
            acks: ByMember::new(members.ids(), &none),
            answered: ByMember::new(members.ids(), &Instant::default()),
            sent: [(0, Instant::default()); TIMED],
        }
    }

    pub(super) fn reshape(&mut self, members: &Members) {
        self.trips.reshape(members.ids());
        self.acks.reshape(members.ids());
        self.answered.reshape(members.ids());
    }

    /// A new view: nobody has been silent in it yet.
    pub(super) fn begin_view(&mut self, now: Instant) {
        self.answered.fill(&now);
        self.sent = [(0, now); TIMED];
    }

    pub(super) fn note_heartbeat(&mut self, gap: Duration) {
        self.heartbeats.note(gap);
    }

    pub(super) fn note_trip(&mut self, peer: ReplicaId, asked: Instant, now: Instant) {
        if let Some(trip) = self.trips.get_mut(peer) {
            trip.note(now.since(asked));
        }
    }

    pub(super) fn note_answered(&mut self, peer: ReplicaId, now: Instant) {
        self.answered.set(peer, now);
    }

    pub(super) fn note_prepared(&mut self, op: u64, now: Instant) {
        self.sent[Self::place(op)] = (op, now);
    }

    pub(super) fn note_acked(&mut self, replica: ReplicaId, op: u64, now: Instant) {
        if let (Some(sent), Some(ack)) = (self.sent_at(op), self.acks.get_mut(replica)) {
            ack.note(now.since(sent));
        }
    }

    pub(super) fn answered(&self, peer: ReplicaId) -> Option<Instant> {
        self.answered.get(peer).copied()
    }

    /// When an op was prepared, if that is not too long ago to be remembered.
    pub(super) fn sent_at(&self, op: u64) -> Option<Instant> {
        let (of, at) = self.sent[Self::place(op)];
        (of == op && op > 0).then_some(at)
    }

    /// How long this replica takes to make an entry durable, from the prepare on.
    pub(super) fn ack_mean(&self, replica: ReplicaId) -> Option<Duration> {
        self.acks.get(replica)?.mean()
    }

    fn place(op: u64) -> usize {
        usize::try_from(op % TIMED as u64).expect("below the number of places")
    }

    /// The n-th shortest of estimates (from 1).
    fn nth(of: impl Iterator<Item = Option<Duration>>, n: usize) -> Option<Duration> {
        let mut all = [Duration::MAX; super::membership::MEMBERS_MAX];
        let mut count = 0;
        for one in of.flatten().take(all.len()) {
            all[count] = one;
            count += 1;
        }
        all[..count].sort_unstable();
        all[..count].get(n.checked_sub(1)?).copied()
    }
}

impl<M: Machine> Replica<M> {
    fn voting_peers(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members.voters().filter(|id| *id != self.me)
    }

    /// Peers whose acknowledgements, with ours, make a quorum.
    fn others_needed(&self) -> usize {
        usize::from(self.members.quorums().replication).saturating_sub(1)
    }

    /// How long the silence of the primary is borne, before jitter.
    pub(super) fn silence_borne(&self) -> Duration {
        self.timeouts.primary_silent.hold(self.detector.heartbeats.bound().map(|bound| bound * 3))
    }

    /// When to send again what was not answered: the acknowledgement that makes a quorum is late, or, where nothing
    /// is acknowledged, an answer is.
    pub(super) fn resend_after(&self) -> Duration {
        let acks = self.voting_peers().map(|id| self.detector.acks.get(id).and_then(Estimate::bound));
        let trips = self.voting_peers().map(|id| self.detector.trips.get(id).and_then(Estimate::bound));
        let late = Detector::nth(acks, self.others_needed())
            .or_else(|| Detector::nth(trips, self.others_needed()).map(|trip| trip * 2));
        self.timeouts.resend.hold(late)
    }

    /// How long a view change may take: several round trips, and the flushes between them.
    pub(super) fn view_change_patience(&self) -> Duration {
        let trips = self.voting_peers().map(|id| self.detector.trips.get(id).and_then(Estimate::bound));
        let measured = Detector::nth(trips, self.others_needed()).map(|trip| trip * 8);
        self.timeouts.view_change.hold(measured)
    }

    /// How long a peer may say nothing before a primary counts it among those that it does not reach.
    pub(super) fn peer_patience(&self) -> Duration {
        let trips = self.voting_peers().map(|id| self.detector.trips.get(id).and_then(Estimate::bound));
        let trip = Detector::nth(trips, self.others_needed()).unwrap_or_default();
        (self.timeouts.ping * 3 + trip).min(self.timeouts.primary_silent.most * 2)
    }

    /// Voters that answered within a time, not counting us.
    pub(super) fn voters_answered(&self, within: Duration) -> usize {
        let now = self.now.mono;
        let answered = |id: &ReplicaId| self.detector.answered(*id).is_some_and(|at| now.since(at) < within);
        self.voting_peers().filter(answered).count()
    }

    /// What a quorum of the others, or all of them, need to make an entry durable.
    pub(super) fn peers_flush(&self) -> Option<Duration> {
        Detector::nth(self.voting_peers().map(|id| self.detector.ack_mean(id)), self.without_us())
    }

    /// Peers that are a quorum without us, or all of them.
    pub(super) fn without_us(&self) -> usize {
        let quorums = self.members.quorums();
        usize::from(quorums.replication.min(quorums.replicas - 1))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn an_estimate_follows_what_is_measured_and_forgets_a_stall() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.bound(), None);
        (0..50).for_each(|_| estimate.note(Duration::from_millis(20)));
        let calm = estimate.bound().expect("enough samples");
        assert!(calm < Duration::from_millis(22), "{calm:?}");
        estimate.note(Duration::from_secs(3_600));
        assert!(estimate.bound().expect("enough samples") > Duration::from_secs(1));
        (0..100).for_each(|_| estimate.note(Duration::from_millis(20)));
        assert!(estimate.bound().expect("enough samples") < Duration::from_millis(22));
    }

    /// The first sample is the mean and half of it the deviation; of each that follows an eighth counts for the mean and a
    /// quarter of its distance for the deviation.
    #[test]
    fn an_estimate_is_that_of_tcp() {
        let mut estimate = Estimate::default();
        let mut noted = Vec::new();
        for sample in [800, 1_600, 1_000, 104] {
            assert_eq!((estimate.mean(), estimate.bound()), (None, None), "too few samples");
            estimate.note(Duration::from_nanos(sample));
            noted.push((estimate.mean, estimate.deviation));
        }
        assert_eq!(noted, [(800, 400), (900, 500), (913, 400), (812, 502)]);
        let ns = Duration::from_nanos;
        assert_eq!((estimate.mean(), estimate.bound()), (Some(ns(812)), Some(ns(812 + 4 * 502))));
    }

    #[test]
    fn what_is_measured_counts_within_the_bounds() {
        let ms = Duration::from_millis;
        let adaptive = Adaptive { first: ms(40), least: ms(20), most: ms(200) };
        let held = [None, Some(ms(1)), Some(ms(70)), Some(ms(900))].map(|measured| adaptive.hold(measured));
        assert_eq!(held, [ms(40), ms(20), ms(70), ms(200)]);
    }
}
