//! From one view to the next: who leads, and which log is the shard's.
//!
//! The one law: **nothing that speaks for a view leaves before that view is in the durable superblock** (H02, H03,
//! H10), and a replica says one thing for a view, ever (H09): a restarted replica votes only in views above the
//! one that it found on its disk.
//!
//! ```text
//! backup: primary silent ─ start_view_change(v) to all, still normal in its view (H18)
//!   quorum asks for v    ─ status view_change, superblock(view = v) durable ─ do_view_change(v) to the primary of v
//! primary of v: quorum of do_view_change ─ choose the log ─ repair it ─ superblock(log_view = v, suffix) durable
//!                        ─ normal; start_view(v) to all
//! backup: start_view(v)  ─ install the suffix, superblock(view = log_view = v, suffix) durable ─ normal
//! ```
//!
//! Choosing (H01, H27): of the highest `log_view`, then of the highest op. An op beyond what is known to be
//! committed stays if somebody has it, goes if a nack quorum never had it, and otherwise the choice waits.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use rand_chacha::rand_core::Rng;
use zerocopy::{FromBytes, IntoBytes};

use super::SUFFIX_MAX;
use super::hand_over::PLANNED;
use super::journal::SlotState;
use super::machine::Machine;
use super::marks::Mark;
use super::membership::{ByMember, Members};
use super::normal::Acked;
use super::release;
use super::replica::{Ignored, Replica, Status, Timer};
use crate::io::Effects;
use crate::types::{Address, Instant, ReplicaId};
use crate::wire::codec::Reader;
use crate::wire::entry::{Digest, ENTRY_HEADER, EntryHeader};
use crate::wire::frame::{Command, Frame};

#[derive(Debug)]
pub(super) struct ViewChange {
    /// The view that we ask for; zero or an old one when we do not.
    asked: u64,
    /// The view that our primary wants us to lead, if it does.
    planned: u64,
    /// The highest view that each replica asks for, and when it last did.
    votes: ByMember<Vote>,
    /// What each replica says of its log, for the view that we are to lead.
    dvcs: ByMember<Option<DoViewChange>>,
    sent: Option<Frame>,
    /// The view found on disk at start: we may have spoken for it before.
    spent: u64,
    stage: Stage,
    /// Ties a start_view to our asking for it; and when we may ask again.
    nonce: u128,
    asked_for_view_at: Option<Instant>,
    /// How often we asked for a start_view.
    questions: u32,
    rounds: u32,
}

/// A replica asks for a view. It does so again and again as long as it wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Vote {
    view: u64,
    at: Instant,
}

/// A vote that is older was withdrawn: its replica hears its primary again.
const VOTE_LASTS: Duration = Duration::from_secs(1);

/// However many views came to nothing: whoever waits asks again after so long, and some jitter.
const PATIENCE_MAX: Duration = Duration::from_millis(3_200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Collecting do_view_changes, or waiting for the start_view.
    Waiting,
    /// Primary to be: the log is chosen, not all of it is here yet.
    Repairing,
    /// The new log is on its way into the superblock.
    Installing,
}

/// A do_view_change: what a replica has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DoViewChange {
    log_view: u64,
    commit: u64,
    present: u128,
    nack: u128,
    /// Descending by op, linked.
    headers: Vec<EntryHeader>,
}

/// What is to become of an op that may or may not be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Truncate,
    Unknown,
}

impl ViewChange {
    pub(super) fn new(members: &Members) -> Self {
        Self {
            asked: 0,
            planned: 0,
            votes: ByMember::new(members.voters(), &Vote::default()),
            dvcs: ByMember::new(members.voters(), &None),
            sent: None,
            spent: 0,
            stage: Stage::Waiting,
            nonce: 0,
            asked_for_view_at: None,
            questions: 0,
            rounds: 0,
        }
    }

    /// Votes and logs of replicas that acted by other members count no more.
    pub(super) fn restart(&mut self, members: &Members) {
        self.votes = ByMember::new(members.voters(), &Vote::default());
        self.dvcs = ByMember::new(members.voters(), &None);
    }

    pub(super) fn never_vote_in(&mut self, view: u64) {
        self.spent = view;
    }

    /// The primary wants us to lead this view.
    pub(super) fn plan(&mut self, view: u64) {
        self.planned = view;
    }

    /// We ask for no view any more.
    pub(super) fn withdraw(&mut self) {
        (self.asked, self.planned) = (0, 0);
    }

    /// The view that we ask for; not above our own when we ask for none.
    pub(super) fn asked(&self) -> u64 {
        self.asked
    }

    /// Whether this replica told us of its log, for the view that we are to lead.
    pub(super) fn has_voted(&self, replica: ReplicaId) -> bool {
        self.dvcs.get(replica).is_some_and(Option::is_some)
    }

    pub(super) fn is_repairing(&self) -> bool {
        self.stage == Stage::Repairing
    }
}

impl fmt::Display for ViewChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<u16> = self.dvcs.iter().filter(|(_, dvc)| dvc.is_some()).map(|(id, _)| id.0).collect();
        write!(f, "{:?}, asks for view {}, votes {:?}, logs of {told:?}", self.stage, self.asked, self.votes)
    }
}

impl DoViewChange {
    fn head(&self) -> u64 {
        self.headers[0].op.get()
    }

    fn at(&self, op: u64) -> Option<usize> {
        usize::try_from(self.head().checked_sub(op)?).ok().filter(|at| *at < self.headers.len())
    }

    /// Says for an entry: is it here, was it provably never here (or neither)?
    fn says(&self, op: u64, digest: Digest) -> (bool, bool) {
        if op > self.head() {
            return (false, true);
        }
        match self.at(op) {
            Some(at) if self.headers[at].digest() == digest => {
                (self.present >> at & 1 == 1, self.nack >> at & 1 == 1)
            }
            Some(_) => (false, true),
            None => (false, false),
        }
    }
}

fn decode_suffix(frame: &Frame) -> Option<(u128, u128, Vec<EntryHeader>)> {
    let mut reader = Reader::new(frame.body());
    let (present, nack) = (reader.u128().ok()?, reader.u128().ok()?);
    let bytes = reader.rest();
    let count = bytes.len() / ENTRY_HEADER;
    if !(1..=SUFFIX_MAX).contains(&count) || !bytes.len().is_multiple_of(ENTRY_HEADER) {
        return None;
    }
    let headers: Vec<EntryHeader> = bytes
        .chunks_exact(ENTRY_HEADER)
        .map(|bytes| EntryHeader::read_from_bytes(bytes).expect("128 bytes are a header"))
        .collect();
    let linked = headers.windows(2).all(|pair| {
        let (upper, lower) = (&pair[0], &pair[1]);
        upper.op.get() == lower.op.get() + 1
            && upper.parent == lower.digest()
            && upper.view.get() >= lower.view.get()
            && release::step(lower, upper).is_some()
    });
    let ours = headers
        .iter()
        .all(|header| (header.cluster, header.shard) == (frame.header.cluster, frame.header.shard));
    (linked && ours && headers[0].op == frame.header.op).then_some((present, nack, headers))
}

impl<M: Machine> Replica<M> {
    pub(super) fn heard_primary(&mut self) {
        let gap = self.now.mono.since(self.primary_heard);
        if gap >= self.timeouts.heartbeat / 2 {
            // While it has work it is heard more often; only what is as far apart as heartbeats tells of them.
            self.detector.note_heartbeat(gap.min(self.timeouts.primary_silent.most));
        }
        self.primary_heard = self.now.mono;
        self.view_change.withdraw();
        let silence = self.silence_borne() * (1024 + self.leniency) / 1024;
        self.timers.set(Timer::PrimarySilent, self.in_a(silence));
    }

    pub(super) fn on_primary_silent(&mut self, effects: &mut Effects) {
        if self.is_backup() {
            self.mark(Mark::AskPrimarySilent);
            self.ask_view_change(self.view + 1, effects);
        }
    }

    /// A primary is gone when its process is: no need to wait for its silence.
    pub(super) fn on_peer_reset(&mut self, peer: Address) {
        if peer != self.peer(self.primary_of(self.view)) || self.primary_of(self.view) == self.me {
            return;
        }
        self.mark(Mark::AskPrimaryReset);
        let soon = self.timeouts.primary_reset;
        let soon = self.in_a(soon);
        match self.status {
            Status::Normal => self.timers.hasten(Timer::PrimarySilent, soon),
            Status::ViewChange => self.timers.hasten(Timer::ViewChange, soon),
            Status::Recovering | Status::RecoveringHead => {}
        }
    }

    /// Asks everybody for a view. Nothing changes here until a quorum asks too.
    pub(super) fn ask_view_change(&mut self, view: u64, effects: &mut Effects) {
        let recovering = matches!(self.status, Status::Recovering | Status::RecoveringHead);
        if recovering || self.is_alone() || !self.members.is_voter(self.me) {
            return;
        }
        self.view_change.asked = view;
        self.view_change.votes.set(self.me, Vote { view, at: self.now.mono });
        self.send_start_view_change(effects);
        self.count_votes(effects);
    }

    /// Votes were forgotten: what was asked for is asked for again.
    pub(super) fn ask_view_change_again(&mut self, effects: &mut Effects) {
        if self.view_change.asked > self.view {
            self.ask_view_change(self.view_change.asked, effects);
        }
    }

    fn send_start_view_change(&mut self, effects: &mut Effects) {
        let mut frame = self.frame(Command::StartViewChange);
        frame.header.op = self.view_change.asked.into();
        let planned = self.view_change.asked == self.view_change.planned;
        frame.header.flags = if planned { PLANNED } else { 0 }.into();
        self.broadcast(&frame, effects);
        let again = self.jittered(self.resend_after());
        self.timers.set(Timer::ViewChange, self.in_a(again));
    }

    pub(super) fn on_start_view_change(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let wanted = frame.header.op.get();
        if wanted <= self.view {
            self.ignore(Ignored::OldView);
            return if self.status == Status::Normal {
                self.send_pong(from, 0, effects);
            };
        }
        if matches!(self.status, Status::Recovering | Status::RecoveringHead) {
            return self.ignore(Ignored::NotNow);
        }
        let at = self.now.mono;
        if self.view_change.votes.get(from).is_some_and(|vote| vote.view <= wanted) {
            self.view_change.votes.set(from, Vote { view: wanted, at });
        }
        // A replica that hears its primary does not join (H18), unless it is the primary itself that asks, or one
        // that has left our view for good: without the others it would be alone in the newer one for ever.
        let abdicates = from == self.primary_of(self.view) && frame.header.view.get() == self.view;
        let gone_ahead = frame.header.view.get() > self.view;
        let asking = self.view_change.asked > self.view;
        // Its primary gives it the lead (H58).
        let planned = frame.header.flags.get() & PLANNED != 0
            && from == self.primary_of(wanted)
            && frame.header.view.get() == self.view;
        let joins = self.status == Status::ViewChange || asking || abdicates || gone_ahead || planned;
        if joins && self.view_change.asked < wanted {
            if self.status == Status::Normal {
                self.mark(Mark::AskedToo);
            }
            self.ask_view_change(wanted, effects);
        } else {
            self.count_votes(effects);
        }
    }

    /// The highest view that a quorum, we among it, asks for.
    fn count_votes(&mut self, effects: &mut Effects) {
        let asked = self.view_change.asked;
        let quorum = usize::from(self.members.quorums().view_change);
        let now = self.now.mono;
        let counts = |(id, vote): &(ReplicaId, &Vote)| {
            vote.view >= asked && (*id == self.me || now.since(vote.at) < VOTE_LASTS)
        };
        let reached = self.view_change.votes.iter().filter(counts).count() >= quorum;
        if asked > self.view && reached {
            self.enter_view_change(asked, effects);
        }
    }

    pub(super) fn enter_view_change(&mut self, view: u64, effects: &mut Effects) {
        assert!(view > self.view, "views go up (I07)");
        self.leave_normal();
        self.view = view;
        self.view_change.rounds += 1;
        self.superblock.change(|superblock| superblock.view = view);
        self.superblock.pump(&self.pool, effects);
        self.set_view_change_timer();
    }

    /// Gives up everything that belongs to the view that ends.
    fn leave_normal(&mut self) {
        self.status = Status::ViewChange;
        self.view_change.stage = Stage::Waiting;
        self.view_change.sent = None;
        self.view_change.asked = 0;
        self.view_change.dvcs.fill(&None);
        self.reconfiguration.leave_view();
        self.release.leave_view();
        self.queue.clear();
        self.queued_bytes = 0;
        self.in_flight.clear();
        self.births.clear();
        self.heard.clear();
        self.early.clear();
        self.reads.clear();
        self.repair.restart();
        for timer in [Timer::Heartbeat, Timer::PrimarySilent, Timer::Resend, Timer::Lease] {
            self.timers.clear(timer);
        }
        if self.sync.is_none() {
            // A state transfer goes on across views, and so does its timer.
            self.timers.clear(Timer::Repair);
        }
    }

    /// Longer after each view that came to nothing, so that a slow cluster does not elect for ever (H17); but never so
    /// long that a healed cluster is not served for want of a question.
    fn set_view_change_timer(&mut self) {
        if self.view_change.rounds >= 4 {
            self.mark(Mark::TriedInVain);
        }
        let futile = self.view_change.rounds.saturating_sub(1);
        let patience = self.view_change_patience();
        let longer = (patience * (1 << futile.min(4))).min(patience.max(PATIENCE_MAX));
        let patience = self.jittered(longer);
        self.timers.set(Timer::ViewChange, self.in_a(patience));
    }

    pub(super) fn on_view_change_timer(&mut self, effects: &mut Effects) {
        match self.status {
            Status::ViewChange => {
                self.look_for_primary(effects);
                let asked = self.view_change.asked.max(self.view + 1);
                self.ask_view_change(asked, effects);
            }
            Status::Normal if self.view_change.asked > self.view => self.send_start_view_change(effects),
            Status::RecoveringHead => {
                self.ask_for_a_view_beyond(effects);
                self.look_for_primary(effects);
            }
            Status::Normal | Status::Recovering => {}
        }
    }

    /// Between two views and uncertain of the head, it may be the only one that ever entered the newer: whoever leads
    /// the older can't tell it where the log ends, for it does not go back. So it asks the others to come, which is
    /// no vote: how a log begins is decided by those who are certain. (Found by the simulator: seed 1507.)
    fn ask_for_a_view_beyond(&mut self, effects: &mut Effects) {
        if self.view == self.log_view || !self.members.is_voter(self.me) {
            return;
        }
        self.mark(Mark::HeadAsksBeyond);
        let mut frame = self.frame(Command::StartViewChange);
        frame.header.op = (self.view + 1).into();
        self.broadcast(&frame, effects);
    }

    /// What was wanted of the superblock is durable: say so, or go on.
    pub(super) fn view_change_settled(&mut self, effects: &mut Effects) {
        self.finish_recovery(effects);
        let durable = self.superblock.durable();
        if self.status != Status::ViewChange || durable.view != self.view {
            return;
        }
        if self.view_change.stage == Stage::Installing && durable.log_view == self.view {
            self.log_view = self.view;
            self.status = Status::Normal;
            if self.primary_of(self.view) == self.me {
                self.become_primary(effects);
                self.start_view_for(None, effects);
            } else {
                self.become_backup();
            }
        } else if self.view_change.stage == Stage::Waiting {
            if self.view > self.view_change.spent {
                return self.send_do_view_change(effects);
            }
            self.mark(Mark::SpokeBefore);
        }
    }

    /// Says what we have. Said once, it stays the same for this view (H09).
    fn send_do_view_change(&mut self, effects: &mut Effects) {
        if !self.members.is_voter(self.me) {
            return;
        }
        let primary = self.primary_of(self.view);
        if primary == self.me {
            let mine = self.my_log();
            if !self.view_change.has_voted(primary) {
                self.view_change.dvcs.set(primary, Some(mine));
            }
            return self.choose_log(effects);
        }
        if self.view_change.sent.is_none() {
            let mine = self.my_log();
            let Some(frame) = self.suffix_frame(Command::DoViewChange, &mine) else { return };
            self.view_change.sent = Some(frame);
        }
        if let Some(frame) = self.view_change.sent.clone() {
            self.send(primary, frame, effects);
        }
    }

    fn my_log(&mut self) -> DoViewChange {
        let headers = self.journal.suffix(SUFFIX_MAX);
        let (mut present, mut nack) = (0, 0);
        for (at, header) in headers.iter().enumerate() {
            let op = header.op.get();
            let state = self.journal.get(op).map_or(SlotState::Reserved, super::journal::Slot::state);
            let here = state == SlotState::Clean || op <= self.journal.base;
            present |= u128::from(here) << at;
            nack |= u128::from(!here && state == SlotState::Dirty) << at;
        }
        if self.status == Status::ViewChange {
            let known = present | nack;
            if nack != 0 {
                self.mark(Mark::NackSaid);
            }
            if known.count_ones() as usize != headers.len() {
                self.mark(Mark::FaultySaid);
            }
        }
        DoViewChange { log_view: self.log_view, commit: self.commit_max, present, nack, headers }
    }

    fn suffix_frame(&self, command: Command, log: &DoViewChange) -> Option<Frame> {
        let mut draft = self.pool.draft(32 + log.headers.len() * ENTRY_HEADER)?;
        draft.extend(&log.present.to_le_bytes()).expect("measured");
        draft.extend(&log.nack.to_le_bytes()).expect("measured");
        for header in &log.headers {
            draft.extend(header.as_bytes()).expect("measured");
        }
        let mut frame = self.frame(command);
        frame.header.op = log.head().into();
        frame.header.a = log.log_view.into();
        frame.header.b = self.superblock.durable().checkpoint.op().into();
        frame.header.commit = log.commit.into();
        frame.payload = Some(draft.seal());
        Some(frame)
    }

    pub(super) fn on_do_view_change(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let view = frame.header.view.get();
        if view < self.view || self.primary_of(view) != self.me {
            return self.ignore(Ignored::OldView);
        }
        if matches!(self.status, Status::Recovering | Status::RecoveringHead) {
            return self.ignore(Ignored::NotNow);
        }
        if view == self.view && self.status == Status::Normal {
            self.mark(Mark::StartMissed);
            // It missed our start_view.
            return self.start_view_for(Some((from, 0)), effects);
        }
        let Some((present, nack, headers)) = decode_suffix(frame) else {
            return self.ignore(Ignored::Malformed);
        };
        let (log_view, commit) = (frame.header.a.get(), frame.header.commit.get());
        if log_view >= view {
            return self.ignore(Ignored::Malformed);
        }
        if view == self.view && self.view_change.has_voted(from) {
            self.mark(Mark::LogTwice);
        }
        if view > self.view {
            self.mark(Mark::EnterByLog);
            // Its sender saw a quorum that asks for this view.
            self.enter_view_change(view, effects);
        }
        if self.view_change.has_voted(from) {
            return self.ignore(Ignored::Duplicate);
        }
        let said = DoViewChange { log_view, commit, present, nack, headers };
        self.view_change.dvcs.set(from, Some(said));
        self.choose_log(effects);
    }

    fn choose_log(&mut self, effects: &mut Effects) {
        let mine = self.view_change.has_voted(self.me);
        let dvcs: Vec<&DoViewChange> = self.view_change.dvcs.values().flatten().collect();
        if !mine
            || self.view_change.stage != Stage::Waiting
            || dvcs.len() < usize::from(self.members.quorums().view_change)
        {
            return;
        }
        let best = dvcs.iter().max_by_key(|dvc| (dvc.log_view, dvc.head())).expect("a quorum is not empty");
        let commit = dvcs.iter().map(|dvc| dvc.commit).max().expect("a quorum is not empty");
        let mut head = best.head();
        let mut marks = [None; 4];
        let digest_of_best = best.headers[0].digest();
        marks[0] = (self.journal.digest(head) != Some(digest_of_best)).then_some(Mark::ChoseOther);
        let longer = dvcs.iter().any(|dvc| dvc.head() > head);
        marks[1] = longer.then_some(Mark::ChoseHigherLogView);
        for op in commit + 1..=best.head() {
            let Some(at) = best.at(op) else { continue };
            match self.judge(op, best.headers[at].digest(), &dvcs) {
                Verdict::Keep => marks[2] = Some(Mark::KeptUncommitted),
                Verdict::Truncate => {
                    marks[3] = Some(Mark::Truncated);
                    head = op - 1;
                    break;
                }
                Verdict::Unknown => return self.mark(Mark::ChoiceWaits),
            }
        }
        let suffix: Vec<EntryHeader> =
            best.headers.iter().filter(|header| header.op.get() <= head).copied().collect();
        marks.into_iter().flatten().for_each(|mark| self.mark(mark));
        if suffix.is_empty() || head < self.commit_min() {
            return self.ignore(Ignored::Unlinked);
        }
        if !self.can_run(&suffix[0]) {
            return self.end_for(&suffix[0]);
        }
        if self.state_lost || head > self.journal.base + self.journal.slots() {
            self.mark(Mark::CantLead);
            // We can't hold or execute this log: somebody else must lead (H20).
            return self.ask_view_change(self.view + 1, effects);
        }
        self.install_suffix(&suffix);
        self.commit_max = self.commit_max.max(commit);
        self.view_change.stage = Stage::Repairing;
        self.continue_view_change(effects);
    }

    fn judge(&self, op: u64, digest: Digest, dvcs: &[&DoViewChange]) -> Verdict {
        let said: Vec<(bool, bool)> = dvcs.iter().map(|dvc| dvc.says(op, digest)).collect();
        if said.iter().any(|(present, _)| *present) {
            return Verdict::Keep;
        }
        let nacks = said.iter().filter(|(_, nack)| *nack).count();
        if nacks >= usize::from(self.members.quorums().nack) { Verdict::Truncate } else { Verdict::Unknown }
    }

    fn install_suffix(&mut self, suffix: &[EntryHeader]) {
        self.journal.install(suffix, self.commit_min());
        self.durable_op = self.journal.base;
        self.unwritten = true;
    }

    /// The primary to be has the whole log on its disk: make it the log of the new view.
    pub(super) fn continue_view_change(&mut self, effects: &mut Effects) {
        if self.status != Status::ViewChange || self.view_change.stage != Stage::Repairing {
            return;
        }
        let low = self.journal.low;
        let first = self.commit_min() + 1;
        if low <= self.durable_op + 1 {
            self.durable_op = self.journal.durable_through(self.durable_op);
        }
        if low > first || self.durable_op < self.journal.head {
            self.mark(Mark::LogRepaired);
            return self.repair_turn(effects);
        }
        self.adopt_log(self.view, effects);
    }

    /// Makes what the journal holds the log of `view`, durably.
    fn adopt_log(&mut self, view: u64, effects: &mut Effects) {
        self.view_change.stage = Stage::Installing;
        let suffix = self.journal.suffix(SUFFIX_MAX);
        let (commit, witness) = (self.commit_max, self.journal.durable_through(self.journal.base));
        self.superblock.change(|superblock| {
            (superblock.view, superblock.log_view) = (view, view);
            superblock.suffix = suffix;
            superblock.witness = witness;
            superblock.commit = superblock.commit.max(commit);
        });
        self.superblock.pump(&self.pool, effects);
        if self.superblock.is_settled() {
            self.mark(Mark::StartAsItWas);
            // The disk says it already (a head that was uncertain turned out as it was).
            self.view_change_settled(effects);
        }
    }

    pub(super) fn become_primary(&mut self, effects: &mut Effects) {
        self.end_hand_over();
        self.view_change.rounds = 0;
        self.view_change.asked = 0;
        self.timers.clear(Timer::ViewChange);
        self.acked.fill(&Acked::default());
        self.view_start = self.journal.head;
        self.announced = false;
        let now = self.now.mono;
        self.progress = now;
        self.peer_heard.fill(&now);
        self.detector.begin_view(now);
        self.fitness.begin_view(now);
        self.restart_leases();
        self.advance_durable(effects);
        self.timers.set(Timer::Heartbeat, self.in_a(self.timeouts.heartbeat));
        self.timers.set(Timer::Resend, self.in_a(self.resend_after()));
    }

    pub(super) fn become_backup(&mut self) {
        self.end_hand_over();
        self.view_change.rounds = 0;
        self.view_change.asked = 0;
        self.timers.clear(Timer::ViewChange);
        self.acknowledged = 0;
        self.ok_due = true;
        self.leniency = self.random.next_u32() % 512;
        self.primary_heard = self.now.mono;
        self.heard_primary();
    }

    /// Tells one replica that asked (with its nonce), or all, what the log of this view is.
    fn start_view_for(&mut self, to: Option<(ReplicaId, u128)>, effects: &mut Effects) {
        let log = self.my_log();
        let Some(mut frame) = self.suffix_frame(Command::StartView, &log) else {
            return self.ignore(Ignored::NoRoom);
        };
        match to {
            Some((replica, nonce)) => {
                frame.header.nonce = nonce.into();
                self.send(replica, frame, effects);
            }
            None => self.broadcast(&frame, effects),
        }
    }

    pub(super) fn on_start_view(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let view = frame.header.view.get();
        // Any replica that is normal in a view may say how its log began: all logs of the view go on from there. But
        // where the log ends, which is what an uncertain head asks, its primary alone knows.
        let told_by_primary = from == self.primary_of(view);
        if view < self.view || self.sync.is_some() || (!told_by_primary && self.is_uncertain()) {
            if self.is_uncertain() && !told_by_primary {
                self.mark(Mark::HeadToldByOther);
            }
            return self.ignore(Ignored::OldView);
        }
        let asked = self.view_change.nonce != 0 && frame.header.nonce.get() == self.view_change.nonce;
        let wanted = match self.status {
            Status::Recovering => false,
            // Only an answer is recent enough to say where the log ends.
            Status::RecoveringHead => asked,
            Status::Normal => view > self.view,
            Status::ViewChange => view > self.log_view && self.view_change.stage != Stage::Installing,
        };
        if !wanted {
            if self.is_uncertain() {
                self.mark(Mark::HeadToldUnasked);
            }
            return self.ignore(Ignored::NotNow);
        }
        let Some((_, _, headers)) = decode_suffix(frame) else { return self.ignore(Ignored::Malformed) };
        let (head, commit_min) = (headers[0].op.get(), self.commit_min());
        let contradicts = headers
            .iter()
            .any(|header| header.op.get() == commit_min && header.digest() != self.executed_digest);
        if head < commit_min || contradicts {
            return self.ignore(Ignored::Mismatch);
        }
        if !self.can_run(&headers[0]) {
            return self.end_for(&headers[0]);
        }
        if self.status != Status::RecoveringHead && view > self.view {
            self.mark(Mark::EnterByStart);
            self.enter_view_change(view, effects);
        }
        if head > self.journal.base + self.journal.slots() {
            self.mark(Mark::StartWithoutRoom);
            // The log has no room for it: state first, then we ask again.
            return self.start_sync(from, effects);
        }
        if self.is_uncertain() {
            self.mark(Mark::HeadTold);
        } else if !told_by_primary {
            self.mark(Mark::StartRelayed);
        }
        self.leave_normal();
        self.view = view;
        self.install_suffix(&headers);
        self.commit_max = self.commit_max.max(frame.header.commit.get().min(head));
        self.set_view_change_timer();
        self.adopt_log(view, effects);
    }

    /// A newer view exists, or ours has begun without us: ask its primary for it.
    pub(super) fn heard_of_view(&mut self, view: u64, effects: &mut Effects) {
        let primary = self.primary_of(view);
        if primary == self.me || view < self.view || self.sync.is_some() {
            return;
        }
        if self.view_change.asked_for_view_at.is_some_and(|again| self.now.mono < again) {
            return;
        }
        self.view_change.asked_for_view_at = Some(self.in_a(Duration::from_millis(10)));
        if self.view_change.nonce == 0 {
            self.view_change.nonce = u128::from(self.random.next_u64()) + 1;
        }
        let mut frame = self.frame(Command::RequestStartView);
        frame.header.nonce = self.view_change.nonce.into();
        frame.header.op = view.into();
        self.view_change.questions = self.view_change.questions.wrapping_add(1);
        // Every other time somebody else of the view: the way from its primary to us may be cut.
        let relay = self.view_change.questions.is_multiple_of(2) && !self.is_uncertain();
        let to = if relay { self.random_peer() } else { primary };
        self.send(to, frame, effects);
    }

    fn is_uncertain(&self) -> bool {
        self.status == Status::RecoveringHead
    }

    /// Asks the primary of our view whether the view has begun.
    pub(super) fn look_for_primary(&mut self, effects: &mut Effects) {
        self.heard_of_view(self.view, effects);
        if self.status == Status::RecoveringHead {
            let again = self.jittered(self.resend_after());
            self.timers.set(Timer::ViewChange, self.in_a(again));
        }
    }

    pub(super) fn on_request_start_view(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        if self.status != Status::Normal || frame.header.op.get() > self.view {
            return self.ignore(Ignored::NotNow);
        }
        self.start_view_for(Some((from, frame.header.nonce.get())), effects);
    }
}
