//! Planned hand-over: a primary gives the lead to a replica of its choice, and nobody sees a failure.
//!
//! The one law: **the ordinary steps of a view change, none skipped** (H58). Whatever becomes of a hand-over, safety
//! is that of any view change; what is planned is only that the next view is one the target leads, that nothing is in
//! flight, and that everybody joins at once.
//!
//! ```text
//! primary: admits nothing more into the log (requests wait), commits and executes what is in flight
//!          ─ hand_over(v', head) → target
//! target:  caught up, sound, its clock right? ─ start_view_change(v', planned) → all, else ─ hand_over(refused) → primary
//! all:     join at once; the rest is a view change
//! primary: refused, or not done in time: goes on as before
//! ```

use core::time::Duration;

use super::machine::Machine;
use super::marks::Mark;
use super::replica::{Ignored, Replica, Status, Timer};
use crate::errors::ErrorCode;
use crate::io::{Effect, Effects};
use crate::types::{Address, EdgeId, Instant, Now, ReplicaId};
use crate::wire::frame::{Command, Frame};

/// A hand-over that takes longer is given up.
const PATIENCE: Duration = Duration::from_millis(100);
/// In the flags of a hand_over: the target declines. In those of a start_view_change: it was asked to lead.
const REFUSED: u16 = 1;
pub(super) const PLANNED: u16 = 1;

/// One under way, at the primary.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandOver {
    target: ReplicaId,
    /// The next view that it leads.
    view: u64,
    until: Instant,
    /// The target was told, not long ago.
    told: bool,
}

/// What became of hand-overs that this replica began as primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandOvers {
    pub begun: u64,
    /// The target led the view that was meant for it.
    pub done: u64,
    /// The target declined.
    pub refused: u64,
    /// It took too long, or another view came in between.
    pub given_up: u64,
}

impl<M: Machine> Replica<M> {
    #[must_use]
    pub fn hand_overs(&self) -> HandOvers {
        self.hand_overs
    }

    /// Whether a hand-over of ours is under way: until we are normal in another view.
    #[must_use]
    pub fn is_handing_over(&self) -> bool {
        self.hand_over.is_some()
    }

    /// Gives the lead to `target`, or to whoever is best at it. Errors say why that can't be now; the lead stays then.
    pub fn hand_over(
        &mut self,
        now: Now,
        target: Option<ReplicaId>,
        effects: &mut Effects,
    ) -> Result<(), ErrorCode> {
        self.now = now;
        if !self.is_primary() {
            return Err(ErrorCode::NoLeader);
        }
        if self.hand_over.is_some() || self.is_changing() || self.view_change.asked() > self.view {
            return Err(ErrorCode::ChangeInFlight);
        }
        if self.commit_min() < self.view_start {
            return Err(ErrorCode::PrimaryNotSettled);
        }
        let target = target.or_else(|| self.best_successor()).ok_or(ErrorCode::NotCaughtUp)?;
        if target == self.me || !self.members.is_voter(target) {
            return Err(ErrorCode::ReplicaUnknown);
        }
        if !self.follows(target) {
            return Err(ErrorCode::NotCaughtUp);
        }
        let leads = |view: &u64| self.primary_of(*view) == target;
        let view = (self.view + 1..).find(leads).expect("every voter leads some view");
        self.hand_over = Some(HandOver { target, view, until: self.in_a(PATIENCE), told: false });
        self.timers.set(Timer::HandOver, self.in_a(PATIENCE));
        self.hand_overs.begun += 1;
        self.hand_over_turn(effects);
        Ok(())
    }

    /// The voter that acknowledged most, of those that follow.
    fn best_successor(&self) -> Option<ReplicaId> {
        let others = self.members.voters().filter(|id| *id != self.me && self.follows(*id));
        others.max_by_key(|id| self.acked.get(*id).map(|acked| acked.op))
    }

    /// An operator asks for it: the id of the target plus one, or zero for whoever is best.
    pub(super) fn on_hand_over_request(&mut self, operator: EdgeId, frame: &Frame, effects: &mut Effects) {
        let wanted = frame.header.a.get();
        let target = wanted.checked_sub(1).map(|id| ReplicaId(u16::try_from(id).unwrap_or(u16::MAX)));
        let error = self.hand_over(self.now, target, effects).err().map_or(0, ErrorCode::code);
        let mut answer = self.frame(Command::HandOver);
        answer.header.nonce = frame.header.nonce;
        answer.header.a = u64::from(error).into();
        effects.push(Effect::Send { to: Address::Edge(operator), frame: answer });
    }

    /// Once nothing is in flight the target is told; again and again, until it leads or time is up.
    pub(super) fn hand_over_turn(&mut self, effects: &mut Effects) {
        let Some(hand_over) = self.hand_over.filter(|hand_over| !hand_over.told) else { return };
        if self.commit_min() == self.journal.head {
            let mut frame = self.frame(Command::HandOver);
            frame.header.op = hand_over.view.into();
            frame.header.a = self.journal.head.into();
            frame.header.nonce = self.executed_digest.half().into();
            self.send(hand_over.target, frame, effects);
            self.timers.set(Timer::HandOver, self.in_a(self.resend_after()).min(hand_over.until));
            self.hand_over = Some(HandOver { told: true, ..hand_over });
        }
    }

    /// The turn that follows tells the target again, unless time is up.
    pub(super) fn on_hand_over_timer(&mut self) {
        let Some(hand_over) = self.hand_over else { return };
        if self.now.mono >= hand_over.until {
            self.mark(Mark::HandOverTimedOut);
            self.hand_over = None;
            self.hand_overs.given_up += 1;
        } else {
            self.timers.set(Timer::HandOver, hand_over.until);
            self.hand_over = Some(HandOver { told: false, ..hand_over });
        }
    }

    /// Another view has begun.
    pub(super) fn end_hand_over(&mut self) {
        if let Some(hand_over) = self.hand_over.take() {
            let done = hand_over.view == self.view;
            self.mark(if done { Mark::HandOverDone } else { Mark::HandOverOther });
            self.hand_overs.done += u64::from(done);
            self.hand_overs.given_up += u64::from(!done);
            self.timers.clear(Timer::HandOver);
        }
    }

    pub(super) fn on_hand_over(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let header = &frame.header;
        let (view, head) = (header.op.get(), header.a.get());
        if !self.check_view(from, header.view.get(), effects) {
            return;
        }
        if header.flags.get() & REFUSED != 0 {
            let ours = self.hand_over.filter(|ours| ours.target == from && ours.view == view);
            if ours.is_some() && self.is_primary() {
                self.mark(Mark::HandOverRefused);
                self.hand_over = None;
                self.hand_overs.refused += 1;
                self.timers.clear(Timer::HandOver);
            }
            return;
        }
        let meant =
            from == self.primary_of(self.view) && view > self.view && self.primary_of(view) == self.me;
        if !meant || !self.is_backup() {
            return self.ignore(Ignored::NotNow);
        }
        // It has executed all of its log, which is our log.
        self.commit_max = self.commit_max.max(header.commit.get().min(head));
        if self.is_fit_to_lead(head, header.nonce.get()) {
            self.mark(Mark::HandOverTaken);
            self.view_change.plan(view);
            self.ask_view_change(view, effects);
        } else {
            self.mark(Mark::HandOverDeclined);
            let mut answer = self.frame(Command::HandOver);
            answer.header.op = view.into();
            answer.header.flags = REFUSED.into();
            self.send(from, answer, effects);
        }
    }

    /// Whether we have all of this log, durable and sound, and nothing that speaks against us.
    fn is_fit_to_lead(&mut self, head: u64, digest: u128) -> bool {
        let same = self.journal.head == head
            && self.journal.digest(head).is_some_and(|ours| ours.half() == digest)
            && self.durable_op == head
            && self.first_missing() > head;
        let sound = self.status == Status::Normal
            && self.log_view == self.view
            && self.sync.is_none()
            && !self.state_lost
            && !self.refused
            && self.superblock.is_settled()
            && self.members.is_voter(self.me);
        same && sound && self.clock_outside().is_none()
    }
}
