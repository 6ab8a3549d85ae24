//! Changing the members, as an op of the log: asked for by an operator, proposed by the primary, executed by all.
//!
//! The one law: **there is one chain of configurations, and of two that follow one another any two quorums share a
//! voter** (H57). What makes it so:
//! - The primary proposes a change only once an entry that carries its own view *and* its own config number is
//!   committed, so what earlier primaries proposed is decided, and a quorum acts by the newest members.
//! - Nothing follows a change in the pipeline: later entries are counted by the new members alone.
//! - Votes and acknowledgements count only between replicas of one config number. Whoever is behind is told, and
//!   takes the new members over once they are in its superblock.
//! - A view in which a replica may have spoken under other members is left: it never speaks twice for one view.

use alloc::vec::Vec;

use super::machine::Machine;
use super::marks::Mark;
use super::membership::{Change, Members, Role};
use super::normal::Pending;
use super::replica::{Ignored, Replica, Status};
use crate::errors::ErrorCode;
use crate::io::{Effect, Effects, Fatal};
use crate::types::{Address, EdgeId, ReplicaId};
use crate::wire::codec::Reader;
use crate::wire::frame::{Command, Frame};

#[derive(Debug, Default)]
pub(super) struct Reconfiguration {
    /// What the executed part of the log says last; `None`: the members are those of format.
    logged: Option<Members>,
    /// Primary: the op of the change that it proposed in this view.
    proposed: Option<u64>,
    /// Primary: who leaves by it, and so is not counted for it.
    leaving: Option<ReplicaId>,
    /// The view and config number of the last entry executed.
    settled: (u64, u32),
}

impl Reconfiguration {
    /// The view is over, and with it what its primary had in mind.
    pub(super) fn leave_view(&mut self) {
        (self.proposed, self.leaving) = (None, None);
    }

    pub(super) fn counts(&self, replica: ReplicaId) -> bool {
        self.leaving != Some(replica)
    }

    /// An entry was made with a change (or, if empty, with none).
    pub(super) fn was_proposed(&mut self, op: u64, body: &[u8]) {
        if !body.is_empty() {
            self.proposed = Some(op);
        }
    }

    pub(super) fn note_executed(&mut self, view: u64, config: u32) {
        self.settled = (view, config);
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        if let Some(members) = &self.logged {
            members.encode(out);
        }
    }
}

impl<M: Machine> Replica<M> {
    /// An operator asks for a change, or (without payload) who the members are.
    pub(super) fn on_reconfigure(&mut self, operator: EdgeId, frame: &Frame, effects: &mut Effects) {
        if self.members.is_unknown() {
            return self.ignore(Ignored::NotNow);
        }
        let result = if frame.payload.is_none() {
            Ok(())
        } else {
            let Ok(change) = Change::decode(frame.body()) else { return self.ignore(Ignored::Malformed) };
            self.request_change(frame.header.op.get(), &change)
        };
        let error = result.err().map_or(0, ErrorCode::code);
        if let Some(mut answer) = self.members_frame(true) {
            answer.header.nonce = frame.header.nonce;
            answer.header.a = u64::from(error).into();
            answer.header.flags = u16::from(self.is_primary()).into();
            effects.push(Effect::Send { to: Address::Edge(operator), frame: answer });
        }
    }

    /// Accepts a change for the log, or says why not. `base` is the config number that its author saw.
    fn request_change(&mut self, base: u64, change: &Change) -> Result<(), ErrorCode> {
        if !self.is_primary() {
            return Err(ErrorCode::NoLeader);
        }
        if self.is_changing() || self.is_upgrading() {
            return Err(ErrorCode::ChangeInFlight);
        }
        if base != u64::from(self.members.number) {
            return Err(ErrorCode::ConfigChanged);
        }
        let next = self.members.after(change, self.me, self.view)?;
        if let Change::Promote { id } = change
            && !self.follows(*id)
        {
            return Err(ErrorCode::NotCaughtUp);
        }
        if let Change::Promote { id } = change
            && !self.runs_release(*id, self.release())
        {
            return Err(ErrorCode::ReleaseUnfit);
        }
        if let Err(why) = self.check_quorum_without(change.leaving(), &next) {
            self.mark(Mark::ChangeRefused);
            return Err(why);
        }
        if self.reconfiguration.settled != (self.view, self.members.number) {
            self.mark(Mark::ChangeTooEarly);
            self.enqueue_settling();
            return Err(ErrorCode::PrimaryNotSettled);
        }
        self.reconfiguration.leaving = change.leaving();
        let mut body = Vec::new();
        next.encode(&mut body);
        self.enqueue(Pending::Reconfigure { body });
        Ok(())
    }

    /// From its request to the moment when this replica acts by the new members.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        let waits = |pending: &Pending| matches!(pending, Pending::Reconfigure { body } if !body.is_empty());
        self.is_between_members() || self.queue.iter().any(waits)
    }

    /// A change is in the log and this replica does not act by it yet, or what earlier views left (a change, maybe)
    /// is not executed: nothing may follow it.
    pub(super) fn is_between_members(&self) -> bool {
        let number = self.members.number;
        self.reconfiguration.proposed.is_some()
            || self.reconfiguration.logged.as_ref().is_some_and(|logged| logged.number > number)
            || self.superblock.wanted().members.number > number
            || self.commit_min() < self.view_start
    }

    /// Whether a replica's log is durable nearly to the head, and it acts by our members.
    pub(super) fn follows(&self, id: ReplicaId) -> bool {
        let near = self.commit_max.saturating_sub(u64::from(self.config.pipeline));
        let heard = self.peer_heard.get(id).is_some_and(|at| self.now.mono.since(*at) < self.peer_patience());
        id == self.me || (heard && self.acked.get(id).is_some_and(|acked| acked.op >= near && acked.op > 0))
    }

    /// Both the members now (without who leaves) and those to be must have quorums of voters that follow us.
    fn check_quorum_without(&self, leaving: Option<ReplicaId>, next: &Members) -> Result<(), ErrorCode> {
        let healthy = |members: &Members| {
            let followers = members.voters().filter(|id| Some(*id) != leaving && self.follows(*id));
            u8::try_from(followers.count()).expect("at most 7 voters")
        };
        let (now, then) = (self.members.quorums(), next.quorums());
        let decides = healthy(&self.members) >= now.replication;
        let goes_on = healthy(next) >= then.replication.max(then.view_change);
        if decides && goes_on { Ok(()) } else { Err(ErrorCode::NoHealthyQuorum) }
    }

    /// An entry of this view and these members that changes nothing.
    fn enqueue_settling(&mut self) {
        let waits = |pending: &Pending| matches!(pending, Pending::Reconfigure { .. });
        let flies = self.journal.head > self.commit_min()
            && self.journal.header(self.journal.head).is_some_and(|head| head.view.get() == self.view);
        if !flies && !self.queue.iter().any(waits) {
            self.enqueue(Pending::Reconfigure { body: Vec::new() });
        }
    }

    /// With each round of pings: a successor that has caught up becomes a voter.
    pub(super) fn promote_successors(&mut self) {
        let waiting = self.members.list().iter().find(|member| member.role == Role::Successor);
        if let Some(id) = waiting.map(|member| member.id).filter(|_| self.is_primary()) {
            // What is not possible now is tried again.
            if self.request_change(u64::from(self.members.number), &Change::Promote { id }).is_ok() {
                self.mark(Mark::SuccessorPromoted);
            }
        }
    }

    /// A committed change: from now on the log says so, and the superblock soon.
    pub(super) fn execute_reconfigure(&mut self, body: &[u8]) {
        if let Ok(members) = Members::decode(&mut Reader::new(body)) {
            self.learn_members(&members);
            self.reconfiguration.logged = Some(members);
        }
    }

    /// The members as a checkpoint has them.
    pub(super) fn load_members(&mut self, bytes: &[u8]) -> Result<(), crate::wire::codec::Malformed> {
        self.reconfiguration.logged = None;
        if !bytes.is_empty() {
            let members = Members::decode(&mut Reader::new(bytes))?;
            self.learn_members(&members);
            self.reconfiguration.logged = Some(members);
        }
        Ok(())
    }

    /// Who acts by members has them from a committed entry: they are a fact, also where that entry is not known yet.
    fn learn_members(&mut self, members: &Members) {
        if members.number > self.superblock.wanted().members.number {
            self.superblock.change(|superblock| superblock.members = members.clone());
        }
    }

    /// The superblock is durable: if it names newer members, this replica acts by them.
    pub(super) fn members_settled(&mut self, effects: &mut Effects) {
        if self.superblock.durable().members.number <= self.members.number {
            return;
        }
        let before = core::mem::replace(&mut self.members, self.superblock.durable().members.clone());
        if !before.is_unknown() && self.members.get(self.me).is_none() {
            self.members = before;
            return self.leave_shard(effects);
        }
        self.reconfiguration.leave_view();
        self.drop_changes();
        self.acked.reshape(self.members.ids());
        self.peer_heard.reshape(self.members.ids());
        self.release.reshape(self.members.ids());
        self.reads.reshape(&self.members);
        self.clock.reshape(&self.members);
        self.detector.reshape(&self.members);
        self.view_change.restart(&self.members);
        match self.status {
            Status::Recovering => self.finish_recovery(effects),
            Status::RecoveringHead => self.look_for_primary(effects),
            Status::Normal if self.members.primary_of(self.view) == before.primary_of(self.view) => {
                self.mark(Mark::MembersStay);
                self.ok_due = true;
                self.on_heartbeat(effects);
                self.ask_view_change_again(effects);
            }
            // Whoever had no vote never spoke for its view, and the others may well stay in it.
            Status::ViewChange if !before.is_voter(self.me) => self.mark(Mark::MembersWait),
            Status::Normal | Status::ViewChange => self.leave_view_of(&before, effects),
        }
    }

    /// In a view for which this replica may have spoken under other members it does not speak again.
    fn leave_view_of(&mut self, before: &Members, effects: &mut Effects) {
        self.mark(Mark::MembersLeave);
        if self.status == Status::Normal && before.primary_of(self.view) == self.me {
            self.say_heartbeat(effects);
        }
        self.enter_view_change(self.view + 1, effects);
    }

    /// This replica is no member any more. It tells the others what it knows, and ends.
    fn leave_shard(&mut self, effects: &mut Effects) {
        self.mark(Mark::MembersGone);
        if self.is_primary() {
            self.say_heartbeat(effects);
        }
        effects.push(Effect::Stop(Fatal::Removed));
    }

    /// Compares config numbers with a peer: who is behind is told. Whether they are the same.
    pub(super) fn compare_members(&mut self, with: ReplicaId, number: u32, effects: &mut Effects) -> bool {
        if number < self.members.number {
            self.tell_members(with, effects);
        } else if number > self.superblock.wanted().members.number {
            let ask = self.frame(Command::Members);
            self.send(with, ask, effects);
        }
        number == self.members.number
    }

    fn tell_members(&mut self, to: ReplicaId, effects: &mut Effects) {
        if let Some(frame) = self.members_frame(false) {
            self.send(to, frame, effects);
        }
    }

    /// A peer asks (by its config number alone), or tells us.
    pub(super) fn on_members(&mut self, frame: &Frame) {
        if frame.payload.is_none() {
            return;
        }
        match Members::decode(&mut Reader::new(frame.body())) {
            // Whoever joins waits for members that it is among.
            Ok(members) if self.members.is_unknown() && members.get(self.me).is_none() => {}
            Ok(members) if !members.is_unknown() => {
                if members.number > self.superblock.wanted().members.number {
                    self.mark(Mark::MembersLearned);
                }
                self.learn_members(&members);
            }
            _ => self.ignore(Ignored::Malformed),
        }
    }

    /// Our members. For an operator or an edge also what each of them acknowledged and runs, as far as this replica
    /// knows, the release in force, and up to which op erasures are gone from this replica's disk.
    pub(super) fn members_frame(&self, acknowledged: bool) -> Option<Frame> {
        let mut bytes = Vec::new();
        self.members.encode(&mut bytes);
        if acknowledged {
            for id in self.members.ids() {
                let known = (self.acked.get(id).map_or(0, |one| one.op), self.release.said_by(id));
                let (op, release) =
                    if id == self.me { (self.durable_op, self.release_to_say()) } else { known };
                bytes.extend_from_slice(&op.to_le_bytes());
                bytes.extend_from_slice(&release.to_le_bytes());
            }
            bytes.extend_from_slice(&self.release().to_le_bytes());
            bytes.extend_from_slice(&self.cleared().to_le_bytes());
        }
        let mut draft = self.pool.draft(bytes.len())?;
        draft.extend(&bytes).expect("measured");
        let mut frame = self.frame(Command::Members);
        frame.header.op = self.journal.head.into();
        frame.header.b = u64::from(self.primary_of(self.view).0).into();
        frame.payload = Some(draft.seal());
        Some(frame)
    }
}
