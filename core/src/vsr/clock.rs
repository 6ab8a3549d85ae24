//! What time it is, as the cluster sees it.
//!
//! Each replica measures its peers' wall clocks against its own monotonic one: a pong says what the peer's clock
//! showed at some moment between our ping and its answer. Marzullo's algorithm (1984) finds the interval in which
//! most clocks agree. The primary takes its timestamps from its own clock, held within that interval.
//!
//! The one law: **a bad clock delays or annoys, it never stops the service nor poisons the log.** Where no interval is
//! agreed, time goes on from the last timestamp at the pace of the monotonic clock.

use core::time::Duration;

use super::machine::Machine;
use super::membership::{ByMember, Members};
use super::replica::Replica;
use crate::types::{Instant, Now, ReplicaId};
use crate::wire::frame::Frame;

/// Clocks that differ by less than twice this agree.
const TOLERANCE: i64 = 250_000_000;
/// A sample is worth nothing after this.
const FRESH: Duration = Duration::from_secs(10);
/// In a second of age, clocks may have drifted apart by this many nanoseconds.
const DRIFT: i64 = 1_000_000;
/// Where a ping's number keeps the time; above it stand bits of the incarnation.
const MONO_BITS: u32 = 48;
/// Set in the nonce of a ping that is no question for the time.
const OTHER: u128 = 1 << 127;

/// A span of time, both ends in it. Ends are how far a wall clock is ahead of our monotonic one, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub low: i64,
    pub high: i64,
}

impl Interval {
    fn widened(self, by: i64) -> Self {
        Self { low: self.low.saturating_sub(by), high: self.high.saturating_add(by) }
    }

    fn width(self) -> i64 {
        self.high.saturating_sub(self.low)
    }

    /// What is in both.
    fn shared(self, other: Self) -> Option<Self> {
        let shared = Self { low: self.low.max(other.low), high: self.high.min(other.high) };
        (shared.low <= shared.high).then_some(shared)
    }
}

/// Marzullo's algorithm: the interval that most of the sources share, and how many do. Of several, the narrowest; of
/// those, the earliest.
#[must_use]
pub fn agree(sources: &[Interval]) -> Option<(Interval, usize)> {
    // What most share begins where one of them begins, and ends where the first of those that share it ends.
    let shared_from = |low: i64| {
        let sharing = || sources.iter().filter(move |source| source.low <= low && low <= source.high);
        let high = sharing().map(|source| source.high).min()?;
        Some((Interval { low, high }, sharing().count()))
    };
    let candidates = sources.iter().filter_map(|source| shared_from(source.low));
    candidates.min_by_key(|(interval, count)| (usize::MAX - count, interval.width(), interval.low))
}

/// What a peer's clock showed.
#[derive(Clone, Copy, Debug)]
struct Sample {
    ahead: Interval,
    at: Instant,
}

impl Sample {
    /// What is known of it now.
    fn at(&self, now: Instant) -> Option<Interval> {
        let age = now.since(self.at);
        let seconds = i64::try_from(age.as_secs()).ok()? + 1;
        (age <= FRESH).then(|| self.ahead.widened(seconds * DRIFT))
    }
}

/// One replica's view of all clocks.
#[derive(Debug)]
pub(super) struct Clock {
    /// By voter; ours is never set.
    samples: ByMember<Option<Sample>>,
    /// The last timestamp of the log, and when it came.
    last: Option<(u64, Instant)>,
    /// Since when our own clock is not one of those that agree.
    outside: Option<Instant>,
}

impl Clock {
    pub(super) fn new(members: &Members) -> Self {
        Self { samples: ByMember::new(members.voters(), &None), last: None, outside: None }
    }

    pub(super) fn reshape(&mut self, members: &Members) {
        self.samples.reshape(members.voters());
    }

    /// The log has an entry of this time.
    pub(super) fn note(&mut self, timestamp: u64, now: Instant) {
        self.last = Some((timestamp, now));
    }

    /// A peer's clock showed `wall` between `asked` and now.
    fn sample(&mut self, peer: ReplicaId, wall: u64, asked: Instant, now: Instant) {
        let Some(wall) = i64::try_from(wall).ok().filter(|wall| *wall > 0) else { return };
        let ahead_of = |mono: Instant| wall.saturating_sub(i64::try_from(mono.0).unwrap_or(i64::MAX));
        let fresh = Sample { ahead: Interval { low: ahead_of(now), high: ahead_of(asked) }, at: now };
        let Some(known) = self.samples.get_mut(peer) else { return };
        let old = known.and_then(|sample| sample.at(now));
        // The narrower says more, unless the clock was set meanwhile.
        let better =
            old.is_none_or(|old| fresh.ahead.width() <= old.width() || fresh.ahead.shared(old).is_none());
        if better {
            *known = Some(fresh);
        }
    }

    /// The interval that so many clocks, ours perhaps among them, agree on: with ours if that is possible.
    fn agreed(&self, now: Now, quorum: usize) -> Option<Interval> {
        let own = own(now)?.widened(TOLERANCE);
        let mut sources = [own; 8];
        let mut count = 1;
        for ahead in self.fresh(now.mono).take(sources.len() - 1) {
            sources[count] = ahead.widened(TOLERANCE);
            count += 1;
        }
        let sources = &sources[..count];
        let mut with_us = [own; 8];
        let mut sharing = 0;
        for shared in sources.iter().filter_map(|source| source.shared(own)) {
            with_us[sharing] = shared;
            sharing += 1;
        }
        let enough = |agreed: Option<(Interval, usize)>| agreed.filter(|(_, count)| *count >= quorum);
        enough(agree(&with_us[..sharing])).or_else(|| enough(agree(sources))).map(|(interval, _)| interval)
    }

    fn fresh(&self, now: Instant) -> impl Iterator<Item = Interval> + '_ {
        self.samples.values().filter_map(move |sample| sample.as_ref()?.at(now))
    }

    /// The earliest of the clocks that are known, once a quorum is: whatever others show, no time that is ahead of all.
    fn earliest(&self, now: Now, quorum: usize) -> Option<u64> {
        let own = own(now)?;
        let known = self.fresh(now.mono).count() + 1;
        let low = self.fresh(now.mono).map(|ahead| ahead.low).fold(own.low, i64::min);
        (known >= quorum).then(|| wall_at(low, now.mono))
    }

    /// Watches whether our clock is one of those that agree. Says for how long it has not been.
    fn watch(&mut self, now: Now, quorum: usize) -> Option<Duration> {
        let outside = own(now).zip(self.agreed(now, quorum));
        let outside = outside.is_some_and(|(own, agreed)| own.widened(TOLERANCE).shared(agreed).is_none());
        self.outside = outside.then(|| self.outside.unwrap_or(now.mono));
        self.outside.map(|since| now.mono.since(since))
    }
}

/// Our own clock, as a source.
fn own(now: Now) -> Option<Interval> {
    let wall = i64::try_from(now.wall.0).ok()?;
    let ahead = wall.saturating_sub(i64::try_from(now.mono.0).ok()?);
    Some(Interval { low: ahead, high: ahead })
}

fn wall_at(ahead: i64, mono: Instant) -> u64 {
    u64::try_from(ahead.saturating_add(i64::try_from(mono.0).unwrap_or(i64::MAX))).unwrap_or(0)
}

impl<M: Machine> Replica<M> {
    fn clock_quorum(&self) -> usize {
        usize::from(self.members.quorums().replicas) / 2 + 1
    }

    /// So many can commit: they need not wait for more.
    fn few_clocks(&self) -> usize {
        usize::from(self.members.quorums().replication).min(self.clock_quorum())
    }

    /// Whether enough wall clocks agree. If not, timestamps go on from the last one, and somebody should look at the
    /// clocks.
    #[must_use]
    pub fn clocks_agree(&self) -> bool {
        self.clock.agreed(self.now, self.clock_quorum()).is_some()
    }

    /// The first entry of a log waits until as many as commit it have told the time: one bad clock must not date all that follows.
    pub(super) fn time_is_known(&self) -> bool {
        let dated = self.journal.header(self.journal.head).is_some_and(|head| head.timestamp.get() > 0);
        dated || self.clock.earliest(self.now, self.few_clocks()).is_some()
    }

    /// When the next entry happens: not before `earliest`.
    pub(super) fn timestamp(&mut self, earliest: u64) -> u64 {
        let (now, quorum) = (self.now, self.clock_quorum());
        let time = if let Some(agreed) = self.clock.agreed(now, quorum) {
            now.wall.0.clamp(wall_at(agreed.low, now.mono), wall_at(agreed.high, now.mono))
        } else {
            let (last, at) = *self.clock.last.get_or_insert((earliest, now.mono));
            let elapsed = u64::try_from(now.mono.since(at).as_nanos()).unwrap_or(u64::MAX);
            let others = self.clock.earliest(now, self.few_clocks()).unwrap_or(0);
            last.saturating_add(elapsed).max(others)
        };
        let time = time.max(earliest);
        self.clock.note(time, now.mono);
        time
    }

    /// For how long our clock has not been one of those that agree.
    pub(super) fn clock_outside(&mut self) -> Option<Duration> {
        let quorum = self.clock_quorum();
        self.clock.watch(self.now, quorum)
    }

    /// The nonce of a ping that asks for the time: it says when it was sent, and by which incarnation.
    pub(super) fn time_question(&self) -> u128 {
        let mono = self.now.mono.0 & ((1 << MONO_BITS) - 1);
        u128::from(self.incarnation() << MONO_BITS | mono)
    }

    /// The nonce of the pong to a ping: the same, and above it what our clock shows if that was asked.
    pub(super) fn time_answer(&self, question: u128) -> u128 {
        if question & OTHER != 0 || question >> 64 != 0 || question == 0 {
            return question;
        }
        u128::from(self.now.wall.0 & !(1 << 63)) << 64 | question
    }

    /// A pong: when its ping was sent, if it is an answer to one of ours of this incarnation.
    pub(super) fn note_answer(&mut self, from: ReplicaId, pong: &Frame) -> Option<Instant> {
        let nonce = pong.header.nonce.get();
        let (wall, question) = (nonce >> 64, nonce & u128::from(u64::MAX));
        let question = u64::try_from(question).expect("masked");
        if nonce & OTHER != 0
            || wall == 0
            || question >> MONO_BITS != self.incarnation() << MONO_BITS >> MONO_BITS
        {
            return None;
        }
        let now = self.now.mono;
        let ago = now.0.wrapping_sub(question) & ((1 << MONO_BITS) - 1);
        let asked = Instant(now.0.checked_sub(ago)?);
        if now.since(asked) > FRESH {
            return None;
        }
        self.clock.sample(from, u64::try_from(wall).expect("64 bits"), asked, now);
        Some(asked)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::types::UnixNanos;

    fn sources() -> impl Strategy<Value = Vec<Interval>> {
        let one = (-20..20_i64, 0..12_i64).prop_map(|(low, width)| Interval { low, high: low + width });
        prop::collection::vec(one, 0..8)
    }

    /// Tries every moment.
    fn by_force(sources: &[Interval]) -> Option<(Interval, usize)> {
        let sharing = |at: i64| sources.iter().filter(|one| one.low <= at && at <= one.high).count();
        let most = (-20..40).map(sharing).max().filter(|most| *most > 0)?;
        let mut found = Vec::new();
        let mut at = -20;
        while at < 40 {
            if sharing(at) == most {
                let same = |other: &i64| {
                    sources.iter().all(|one| {
                        (one.low <= at && at <= one.high) == (one.low <= *other && *other <= one.high)
                    })
                };
                let high = (at..40).take_while(same).last().expect("itself");
                found.push(Interval { low: at, high });
                at = high;
            }
            at += 1;
        }
        found.into_iter().min_by_key(|one| (one.width(), one.low)).map(|interval| (interval, most))
    }

    proptest! {
        #[test]
        fn marzullo_finds_what_trying_every_moment_finds(sources in sources()) {
            prop_assert_eq!(agree(&sources), by_force(&sources));
        }

        #[test]
        fn samples_hold_the_true_difference_of_the_clocks(
            sent in 0..1_000_000_u64, there in 0..1_000_000_u64, back in 0..1_000_000_u64, ahead in 1..1_000_000_i64,
        ) {
            let members = Members::first(3, 2).expect("safe");
            let mut clock = Clock::new(&members);
            let read = sent + there;
            let wall = read.checked_add_signed(ahead).expect("positive");
            clock.sample(ReplicaId(1), wall, Instant(sent), Instant(read + back));
            let sample = clock.samples.get(ReplicaId(1)).copied().flatten();
            if let Some(Sample { ahead: Interval { low, high }, .. }) = sample {
                prop_assert!(low <= ahead && ahead <= high);
            }
        }
    }

    const SECOND: i64 = 1_000_000_000;

    /// A clock of three that heard of two peers, so far ahead of the true time.
    fn heard(peers: &[(u16, i64)]) -> (Clock, Now) {
        let mut clock = Clock::new(&Members::first(3, 2).expect("safe"));
        let now = Now { mono: Instant(5_000_000_000), wall: UnixNanos(1_700_000_000_000_000_000) };
        for (peer, ahead) in peers {
            let wall = now.wall.0.checked_add_signed(*ahead).expect("positive");
            clock.sample(ReplicaId(*peer), wall, Instant(now.mono.0 - 1_000_000), now.mono);
        }
        (clock, now)
    }

    #[test]
    fn our_clock_is_outside_when_the_others_agree_without_it() {
        let (mut clock, now) = heard(&[(1, 2 * SECOND), (2, 2 * SECOND)]);
        assert_eq!(clock.watch(now, 2), Some(Duration::ZERO));
        let later = Now { mono: now.mono.after(Duration::from_secs(1)), ..now };
        let later = Now { wall: UnixNanos(later.wall.0 + 1_000_000_000), ..later };
        assert_eq!(clock.watch(later, 2), Some(Duration::from_secs(1)));
        let (mut clock, now) = heard(&[(1, 2 * SECOND), (2, 0)]);
        assert_eq!(clock.watch(now, 2), None, "one of the others is off");
        let (mut clock, now) = heard(&[(1, 2 * SECOND), (2, -2 * SECOND)]);
        assert_eq!((clock.agreed(now, 2), clock.watch(now, 2)), (None, None), "nobody agrees");
    }

    #[test]
    fn a_clock_that_was_set_is_noticed_at_the_next_sample() {
        let (mut clock, now) = heard(&[(1, 0)]);
        assert!(clock.agreed(now, 2).is_some());
        let wall = now.wall.0 + 3_000_000_000;
        clock.sample(ReplicaId(1), wall, Instant(now.mono.0 - 50_000_000), now.mono);
        assert!(clock.agreed(now, 2).is_none());
    }

    #[test]
    fn what_is_not_known_any_more_agrees_with_nobody() {
        let (clock, now) = heard(&[(1, 0), (2, 0)]);
        let later = Now {
            mono: now.mono.after(Duration::from_secs(11)),
            wall: UnixNanos(now.wall.0 + 11_000_000_000),
        };
        assert_eq!(clock.agreed(later, 2), None);
        assert_eq!(clock.earliest(later, 2), None);
    }
}
