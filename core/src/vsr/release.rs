//! Releases: by which rules an op is executed, and how a shard moves on to the next ones.
//!
//! The one law: **an op is executed under the release that its entry carries, never under the binary's own** (I26,
//! H60). A binary knows a range of releases; an entry beyond it never enters its log.
//!
//! The release in force is that of the newest entry, so it is wherever entries are named: in logs, suffixes,
//! superblocks and checkpoints. The primary raises it by an op once every member runs the next one.

use core::fmt;

use super::machine::Machine;
use super::marks::Mark;
use super::membership::ByMember;
use super::normal::Pending;
use super::replica::{Replica, Status};
use crate::errors::ErrorCode;
use crate::io::{Effect, Effects, Fatal};
use crate::types::{FIRST_RELEASE, Instant, RELEASE, ReplicaId};
use crate::wire::entry::{EntryHeader, RequestHeader, RequestKind, Requests};
use crate::wire::frame::FrameHeader;

/// What a binary can run. Told at the start of a process, kept nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Releases {
    pub oldest: u32,
    pub newest: u32,
    /// Says that it runs the release in force and no more, so that the shard does not move on.
    pub hold: bool,
}

impl Releases {
    /// Those of this build.
    pub const OURS: Self = Self { oldest: FIRST_RELEASE, newest: RELEASE, hold: false };

    #[must_use]
    pub fn runs(&self, release: u32) -> bool {
        (self.oldest..=self.newest).contains(&release)
    }
}

/// A binary and what it was given to run do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongRelease {
    pub needed: u32,
    pub oldest: u32,
    pub newest: u32,
}

impl fmt::Display for WrongRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, oldest, newest } = self;
        let older = if needed < oldest { "an older" } else { "a newer" };
        write!(
            f,
            "{}: it has ops of release {needed}, this binary runs {oldest} to {newest}: start it with {older} one",
            ErrorCode::ReleaseUnfit.entry().code
        )
    }
}

/// What a member said of its binary.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    incarnation: u64,
    newest: u32,
    at: Instant,
}

#[derive(Debug)]
pub(super) struct Release {
    pub(super) binary: Releases,
    said: ByMember<Said>,
    /// An entry of this view that was not let in.
    beyond: Option<(u64, u32)>,
    /// This replica can't go on: the release that it would have to run.
    needed: Option<u32>,
}

impl Release {
    pub(super) fn new(binary: Releases, members: impl Iterator<Item = ReplicaId>) -> Self {
        Self { binary, said: ByMember::new(members, &Said::default()), beyond: None, needed: None }
    }

    pub(super) fn reshape(&mut self, members: impl Iterator<Item = ReplicaId>) {
        self.said.reshape(members);
    }

    /// The view is over: what was not let in may be gone in the next.
    pub(super) fn leave_view(&mut self) {
        self.beyond = None;
    }

    /// The newest release that a member said it runs; zero when it was not heard.
    pub(super) fn said_by(&self, member: ReplicaId) -> u32 {
        self.said.get(member).map_or(0, |said| said.newest)
    }
}

/// By how much the release rises from an entry to the one after it: by none or one. None: these are no neighbours.
pub(super) fn step(lower: &EntryHeader, upper: &EntryHeader) -> Option<u32> {
    upper.release.get().checked_sub(lower.release.get()).filter(|step| *step <= 1)
}

impl<M: Machine> Replica<M> {
    /// The release in force: that of the last executed op.
    #[must_use]
    pub fn release(&self) -> u32 {
        self.executed.release.get()
    }

    /// That of the newest entry, executed or not.
    fn release_of_head(&self) -> u32 {
        self.journal.header(self.journal.head).map_or(self.release(), |head| head.release.get())
    }

    /// What our frames say that this binary runs.
    pub(super) fn release_to_say(&self) -> u32 {
        let binary = self.release.binary;
        if binary.hold { self.release_of_head().min(binary.newest) } else { binary.newest }
    }

    /// Of two processes of a member the newer one counts, whatever overtook what.
    pub(super) fn note_release(&mut self, from: ReplicaId, header: &FrameHeader) {
        let said =
            Said { incarnation: header.incarnation.get(), newest: header.release.get(), at: self.now.mono };
        if let Some(known) = self.release.said.get_mut(from)
            && said.incarnation >= known.incarnation
        {
            *known = said;
        }
    }

    /// Whether a member's binary runs a release, as far as this replica heard.
    pub(super) fn runs_release(&self, member: ReplicaId, release: u32) -> bool {
        let said = if member == self.me { self.release_to_say() } else { self.release.said_by(member) };
        said >= release
    }

    /// An upgrade waits for its entry or is in the log and not executed.
    pub(super) fn is_upgrading(&self) -> bool {
        let waits = self.queue.iter().any(|pending| matches!(pending, Pending::Upgrade));
        waits || self.release_of_head() > self.release()
    }

    /// Every member runs the release after that of the head, as its running process said just now.
    fn all_run_next(&self) -> bool {
        let next = self.release_of_head() + 1;
        let (now, patience) = (self.now.mono, self.peer_patience());
        let recent = |id: ReplicaId| {
            id == self.me || self.release.said.get(id).is_some_and(|said| now.since(said.at) < patience)
        };
        self.members.ids().all(|id| self.runs_release(id, next) && recent(id))
    }

    /// With each round of pings: perhaps the shard can move on.
    pub(super) fn consider_upgrade(&mut self) {
        let next = self.release_of_head() + 1;
        if !self.is_primary() || self.release_to_say() < next {
            return;
        }
        if !self.all_run_next() {
            return self.mark(Mark::UpgradeWaits);
        }
        if !self.is_changing() && self.hand_over.is_none() && !self.is_upgrading() {
            self.mark(Mark::UpgradeProposed);
            self.enqueue(Pending::Upgrade);
        }
    }

    /// Before an entry is made: some member may have gone back meanwhile.
    pub(super) fn reconsider_upgrade(&mut self) {
        let waits = self.queue.iter().any(|pending| matches!(pending, Pending::Upgrade));
        if waits && !self.all_run_next() {
            self.drop_upgrades();
        }
    }

    /// Whether this binary can hold an entry in its log.
    pub(super) fn can_run(&self, header: &EntryHeader) -> bool {
        header.release.get() <= self.release.binary.newest
    }

    /// Whether an entry may come after `before` by its release: of the same one, or the next one with an upgrade among
    /// its requests. A primary that skips one, or moves on and does not say so, is broken.
    pub(super) fn follows_release(before: &EntryHeader, header: &EntryHeader, body: &[u8]) -> bool {
        let upgrades = |(request, _): (RequestHeader, _)| request.kind.get() == RequestKind::Upgrade as u32;
        match step(before, header) {
            Some(0) => true,
            Some(_) => Requests::new(body).any(upgrades),
            None => false,
        }
    }

    /// An entry of our view that this binary can't run. Others may decide that it was never there; once it is
    /// committed, this replica is of no use any more.
    pub(super) fn refuse_release(&mut self, header: &EntryHeader) {
        self.mark(Mark::ReleaseBeyond);
        let (op, release) = (header.op.get(), header.release.get());
        if self.release.beyond.is_none_or(|(known, _)| op < known) {
            self.release.beyond = Some((op, release));
        }
    }

    /// This replica would have to have an entry in its log that it can't run: it ends, as this turn does.
    pub(super) fn end_for(&mut self, header: &EntryHeader) {
        self.release.needed = Some(header.release.get());
    }

    /// Says whether this replica ends because its binary is too old.
    pub(super) fn ends_for_release(&mut self, effects: &mut Effects) -> bool {
        if let Some((op, release)) = self.release.beyond
            && self.status == Status::Normal
            && op <= self.commit_max
        {
            self.release.needed = Some(release);
        }
        let Some(needed) = self.release.needed else { return false };
        self.mark(Mark::ReleaseEnds);
        let Releases { oldest, newest, .. } = self.release.binary;
        effects.push(Effect::Stop(Fatal::Release(WrongRelease { needed, oldest, newest })));
        true
    }
}
