//! The normal case: requests become entries, entries are prepared, written, acknowledged.
//!
//! The one law: **`prepare_ok` leaves after the entry and everything below it is durable here** (H04), in the
//! view that was durable before (H03). An acknowledgement therefore speaks for the whole log up to its op.

use alloc::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use super::PIPELINE_MAX;
use super::machine::Machine;
use super::marks::Mark;
use super::replica::{Ignored, Replica, Status, Timer};
use super::tokens::Waits;
use crate::io::{DiskOp, Effect, Effects};
use crate::pool::Message;
use crate::store::layout::SECTOR;
use crate::store::sector::{self, Stamp, Zone, sectors_for};
use crate::types::{Address, EdgeId, Instant, ReplicaId};
use crate::wire::chat::OUTCOME;
use crate::wire::entry::{
    Digest, ENTRY_HEADER, ENTRY_VERSION, EntryHeader, REQUEST_HEADER, RequestHeader, RequestKind,
};
use crate::wire::frame::{Command, Frame};

/// In the flags of a prepare: it answers a request_prepare.
pub(super) const ANSWER: u16 = 1;
/// In the flags of a prepare: its sender is normal in the view of the frame, so that the entry is one of that view's log.
/// Nothing else may move a head (H14): who is between views still has entries that the view left out.
pub(super) const OF_THE_VIEW: u16 = 2;

/// What waits for an entry.
#[derive(Debug)]
pub(super) enum Pending {
    Request {
        client: u64,
        number: u64,
        payload: Message,
        came: Instant,
    },
    /// The members from the next entry on; empty: an entry that changes nothing.
    Reconfigure {
        body: Vec<u8>,
    },
    /// A session's lease ran out.
    Expire {
        client: u64,
        session: u64,
    },
    /// The next release, from its entry on.
    Upgrade,
}

impl Pending {
    fn size(&self) -> usize {
        match self {
            Self::Request { payload, .. } => payload.len(),
            Self::Expire { .. } | Self::Upgrade => REQUEST_HEADER,
            Self::Reconfigure { body } => REQUEST_HEADER + body.len(),
        }
    }
}

/// The highest op that a replica acknowledged in this view, when it rose; the room that it last said it has, and when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acked {
    pub(super) op: u64,
    pub(super) at: Instant,
    pub(super) room: u64,
    pub(super) room_at: Instant,
}

/// Entries in flight below which a small batch is not held back for company.
const EAGER: u64 = 2;

impl<M: Machine> Replica<M> {
    pub(super) fn on_request(&mut self, edge: EdgeId, frame: &Frame, effects: &mut Effects) {
        if !self.is_primary() {
            return self.send_pong_client(edge, frame, effects);
        }
        let Some(payload) = frame.payload.clone() else { return self.ignore(Ignored::Malformed) };
        let Some((request, commands)) = well_formed(&payload, edge) else {
            return self.ignore(Ignored::Malformed);
        };
        let max = self.config.layout.entry_max();
        let fits = ENTRY_HEADER + payload.len() <= max && count_items(commands) * OUTCOME <= max;
        if !fits || !self.machine.check(commands) {
            return self.ignore(Ignored::Malformed);
        }
        if self.commit_min() < self.view_start {
            self.mark(Mark::RequestTooEarly);
            // What earlier views left is executed first: until then nobody knows which requests are new. The
            // edge sends again; this is over within a round trip.
            return self.ignore(Ignored::NotNow);
        }
        let (client, number) = (edge.0, request.number.get());
        let admitted = if request.kind.get() == RequestKind::Register as u32 {
            self.admit_register(edge, effects)
        } else {
            self.admit_commands(edge, &request, effects)
        };
        if admitted {
            self.enqueue(Pending::Request { client, number, payload, came: self.now.mono });
        }
    }

    /// Changes that waited are for other members; so are upgrades.
    pub(super) fn drop_changes(&mut self) {
        self.queue.retain(|pending| !matches!(pending, Pending::Reconfigure { .. }));
        self.drop_upgrades();
    }

    pub(super) fn drop_upgrades(&mut self) {
        self.queue.retain(|pending| !matches!(pending, Pending::Upgrade));
        self.queued_bytes = self.queue.iter().map(Pending::size).sum();
    }

    /// A session that is evicted may leave requests behind in flight, beside which there is no room for all of its
    /// successor's: what finds none is sent again.
    pub(super) fn enqueue(&mut self, pending: Pending) {
        let of_a_session = matches!(pending, Pending::Request { .. });
        let beside = if of_a_session { self.in_flight.len() } else { 0 };
        if self.queue.len() + beside >= self.requests_max() {
            self.mark(Mark::QueueFull);
            return self.ignore(Ignored::NoRoom);
        }
        self.queued_bytes += pending.size();
        self.queue.push_back(pending);
    }

    fn admit_register(&mut self, edge: EdgeId, effects: &mut Effects) -> bool {
        if self.admitted(edge.0).is_some() {
            self.ignore(Ignored::Duplicate);
            return false;
        }
        if let Some(session) = self.sessions.of_client(edge.0).map(|session| session.session) {
            self.mark(Mark::RegisterAgain);
            // The reply was lost: an edge registers only when it has no session.
            self.send_reply(edge.0, session, 0, session, Digest::of(&[]).half(), &[], effects);
            return false;
        }
        true
    }

    /// Requests of a session enter in the order of their numbers, at most a window beyond what is executed.
    fn admit_commands(&mut self, edge: EdgeId, request: &RequestHeader, effects: &mut Effects) -> bool {
        let number = request.number.get();
        let Some(session) =
            self.sessions.of_client(edge.0).filter(|one| one.session == request.session.get())
        else {
            if self.admitted(edge.0).is_none() {
                self.mark(Mark::SessionUnknown);
                self.send_eviction(edge, request.session.get(), 1, effects);
            }
            return false;
        };
        if number <= session.number {
            match session.reply(number).filter(|reply| reply.digest == request.digest.get()) {
                Some(reply) => {
                    let (op, outcomes) = (reply.op, reply.outcomes.as_slice());
                    self.send_reply(edge.0, session.session, number, op, reply.digest, outcomes, effects);
                    self.mark(Mark::ReplyAgain);
                }
                None => {
                    self.mark(Mark::ReplyForgotten);
                    self.ignore(Ignored::Duplicate);
                }
            }
            return false;
        }
        let last = self.admitted(edge.0).unwrap_or(0).max(session.number);
        let next = number == last + 1 && number <= session.number + self.sessions.window();
        if !next {
            self.ignore(if number <= last { Ignored::Duplicate } else { Ignored::Unlinked });
        }
        next
    }

    /// The highest request number of a client that waits for an entry or is in one that is not executed yet.
    fn admitted(&self, client: u64) -> Option<u64> {
        let waiting = self.queue.iter().filter_map(|pending| match pending {
            Pending::Request { client: of, number, .. } if *of == client => Some(*number),
            _ => None,
        });
        let in_flight = self.in_flight.iter().filter(|one| one.client == client).map(|one| one.number);
        waiting.chain(in_flight).max()
    }

    fn admits_entries(&self) -> bool {
        !self.is_between_members() && self.hand_over.is_none() && self.time_is_known()
    }

    /// Primary: makes entries of what waits, as far as the pipeline and the log have room.
    pub(super) fn build_entries(&mut self, effects: &mut Effects) {
        self.reconsider_upgrade();
        while !self.queue.is_empty() && self.admits_entries() {
            let flying = self.journal.head - self.commit_max;
            let full_batch = self.queued_bytes >= self.config.layout.entry_max() / 2;
            let wanted = flying < EAGER || full_batch;
            let allowed = self.pipeline_allowed();
            if wanted && allowed <= flying && allowed < u64::from(self.config.pipeline) {
                self.mark(Mark::PipelineHeld);
            }
            let next = self.journal.head + 1;
            if !wanted || flying >= allowed || !self.journal.has_room(next) {
                return;
            }
            if next > self.room_of_shard() {
                return self.mark(Mark::EntriesHeld);
            }
            if !self.build_entry(effects) {
                return self.ignore(Ignored::NoRoom);
            }
        }
    }

    fn build_entry(&mut self, effects: &mut Effects) -> bool {
        let max = self.config.layout.entry_max();
        let Some(mut draft) = self.pool.draft(max) else { return false };
        draft.resize(ENTRY_HEADER);
        let op = self.journal.head + 1;
        let mut first_came = self.now.mono;
        let mut upgrade = 0;
        while let Some(pending) = self.queue.front() {
            if draft.len() + pending.size() > max {
                break;
            }
            let pending = self.queue.pop_front().expect("looked at");
            self.queued_bytes -= pending.size();
            match pending {
                Pending::Request { client, number, payload, came } => {
                    draft.extend(&payload).expect("measured");
                    self.in_flight.push_back(super::replica::InFlight { op, client, number });
                    first_came = first_came.min(came);
                    let waited = self.now.mono.since(came).as_nanos();
                    self.stages_mut().batch_wait += u64::try_from(waited).unwrap_or(u64::MAX);
                    self.stages_mut().requests += 1;
                }
                Pending::Reconfigure { body } => {
                    let request = own_request(RequestKind::Reconfigure, 0, 0, &body);
                    draft.extend(request.as_bytes()).expect("measured");
                    draft.extend(&body).expect("measured");
                    self.reconfiguration.was_proposed(op, &body);
                }
                Pending::Expire { client, session } => {
                    draft
                        .extend(own_request(RequestKind::Expire, client, session, &[]).as_bytes())
                        .expect("measured");
                }
                Pending::Upgrade => {
                    draft.extend(own_request(RequestKind::Upgrade, 0, 0, &[]).as_bytes()).expect("measured");
                    upgrade = 1;
                }
            }
        }
        let header = self.next_header(&draft.bytes()[ENTRY_HEADER..], upgrade);
        draft.bytes_mut()[..ENTRY_HEADER].copy_from_slice(header.as_bytes());
        self.births.push_back((op, self.now.mono, self.now.mono));
        self.stages_mut().entries += 1;
        self.prepare(header, draft.seal(), effects);
        true
    }

    /// `upgrade`: by how much the release goes up; else it is that of the entry before.
    fn next_header(&mut self, body: &[u8], upgrade: u32) -> EntryHeader {
        let head = *self.journal.header(self.journal.head).expect("the head is known");
        let mut header = head;
        header.parent = self.journal.digest(self.journal.head).expect("the head is known");
        header.body = Digest::of(body);
        header.view = self.view.into();
        header.op = (self.journal.head + 1).into();
        // Command i of an op happens at its timestamp plus i, and an op has less commands than bytes.
        let earliest = head.timestamp.get() + u64::from(head.size.get());
        header.timestamp = self.timestamp(earliest).into();
        header.size = u32::try_from(ENTRY_HEADER + body.len()).expect("bounded by the slot").into();
        header.config = self.members.number.into();
        header.release = (head.release.get() + upgrade).into();
        header.version = ENTRY_VERSION;
        header
    }

    /// Sends before it writes: backups flush while we do. Our own copy counts only after our own flush.
    fn prepare(&mut self, header: EntryHeader, entry: Message, effects: &mut Effects) {
        let (op, digest) = (header.op.get(), header.digest());
        if self.journal.head == self.commit_max {
            self.progress = self.now.mono;
        }
        self.journal.append(header, digest);
        self.detector.note_prepared(op, self.now.mono);
        self.journal.get_mut(op).expect("just appended").entry = Some(entry);
        let frame = self.prepare_frame(op, false).expect("just appended");
        self.broadcast(&frame, effects);
        self.write_entry(op, effects);
        self.timers.hasten(Timer::Resend, self.in_a(self.resend_after()));
        self.timers.set(Timer::Heartbeat, self.in_a(self.timeouts.heartbeat));
    }

    /// A prepare around the cached entry of an op.
    pub(super) fn prepare_frame(&self, op: u64, answer: bool) -> Option<Frame> {
        let slot = self.journal.get(op)?;
        let mut frame = self.frame(Command::Prepare);
        frame.payload = Some(slot.entry.clone()?);
        frame.header.payload_digest = slot.digest?;
        frame.header.op = op.into();
        let of_the_view = self.status == Status::Normal && self.log_view == self.view;
        let flags = if answer { ANSWER } else { 0 } | if of_the_view { OF_THE_VIEW } else { 0 };
        frame.header.flags = flags.into();
        Some(frame)
    }

    /// Writes a cached entry into its slot, unless it is there or the slot is being written.
    pub(super) fn write_entry(&mut self, op: u64, effects: &mut Effects) {
        let slot_number = self.journal.slot_of(op);
        let place = self.config.place(Zone::Wal).under(self.sealing.as_deref());
        let offset = self.config.layout.slot_offset(slot_number);
        let witness = self.durable_op;
        let Some(slot) = self.journal.get_mut(op) else { return };
        let (Some(entry), Some(digest), Some(header)) = (&slot.entry, slot.digest, slot.header) else {
            return;
        };
        if slot.writing.is_some() || slot.durable == Some(digest) {
            return;
        }
        let size = slot.traces.begin(op, sectors_for(entry.len())) * SECTOR;
        let Some(mut image) = self.pool.draft(size) else { return };
        image.resize_to_overwrite(size);
        let stamp = Stamp { op, view: header.view.get(), witness, index: 0 };
        sector::seal(place, offset, stamp, entry, image.bytes_mut());
        (slot.writing, slot.durable) = (Some(digest), None);
        let token = Waits::SlotWritten { slot: slot_number }.token();
        Self::submit(effects, DiskOp::Write { token, offset, data: image.seal(), durable: true });
    }

    /// Entries that could not be written when they came: the slot or the pool was busy, or the disk refused.
    pub(super) fn write_what_waits(&mut self, effects: &mut Effects) {
        if core::mem::take(&mut self.unwritten) {
            for op in self.durable_op + 1..=self.journal.head {
                self.write_entry(op, effects);
            }
        }
    }

    pub(super) fn on_slot_written(&mut self, slot_number: u32, written: bool) {
        let commit_min = self.commit_min();
        let keep = 2 * u64::from(self.config.pipeline);
        let slot = self.journal.at_mut(slot_number);
        slot.traces.written(written);
        let (overtaken, content) = (slot.writing != slot.digest, slot.writing.take());
        if !written {
            // Not at once: a disk that refuses may refuse for long.
            self.refused = true;
            return self.mark(Mark::WriteRefused);
        }
        (slot.durable, slot.faulty) = (content, false);
        if overtaken {
            // The op that this slot is for changed meanwhile.
            self.unwritten = true;
            self.mark(Mark::WriteOvertaken);
        } else if slot.op + keep <= commit_min || slot.op > commit_min + keep {
            slot.entry = None;
        }
    }

    /// Moves the mark up to which the log is durable here, and tells who waits for it.
    pub(super) fn advance_durable(&mut self, effects: &mut Effects) {
        if self.journal.low > self.durable_op + 1 {
            return;
        }
        self.durable_op = self.journal.durable_through(self.durable_op);
        // Whose state is lost or being replaced counts for no durability (H36).
        let settled =
            self.superblock.durable().log_view == self.view && self.sync.is_none() && !self.state_lost;
        if self.status != Status::Normal || !settled {
            return;
        }
        if self.is_primary() {
            self.note_acked(self.me, self.durable_op);
            self.count_quorum();
        } else {
            // Taken in any case: one acknowledgement is enough for both reasons.
            let due = core::mem::take(&mut self.ok_due) || self.has_more_room();
            if due || self.durable_op > self.acknowledged {
                self.send_prepare_ok(effects);
            }
        }
    }

    fn send_prepare_ok(&mut self, effects: &mut Effects) {
        let Some(digest) = self.journal.digest(self.durable_op) else { return };
        self.acknowledged = self.durable_op;
        let mut frame = self.frame(Command::PrepareOk);
        frame.header.op = self.durable_op.into();
        (frame.header.a, frame.header.b) = halves(&digest);
        self.room_said = self.room();
        frame.header.nonce = u128::from(self.room_said).into();
        self.send(self.primary_of(self.view), frame, effects);
    }

    pub(super) fn on_prepare_ok(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let header = &frame.header;
        if !self.check_view(from, header.view.get(), effects) || !self.is_primary() {
            return self.ignore(Ignored::NotNow);
        }
        // The digest stands for the whole log below it (H08).
        let op = header.op.get();
        let same = self.journal.digest(op).is_some_and(|digest| halves(&digest) == (header.a, header.b));
        if !same {
            return self.ignore(Ignored::Mismatch);
        }
        let now = self.now.mono;
        if let Some(acked) = self.acked.get_mut(from) {
            (acked.room, acked.room_at) = (u64::try_from(header.nonce.get()).unwrap_or(0), now);
        }
        self.note_acked(from, op);
        self.count_quorum();
    }

    fn note_acked(&mut self, replica: ReplicaId, op: u64) {
        let now = self.now.mono;
        if let Some(acked) = self.acked.get_mut(replica).filter(|acked| acked.op < op) {
            (acked.op, acked.at) = (op, now);
            self.detector.note_acked(replica, op, now);
            self.detector.note_answered(replica, now);
        }
    }

    /// An op is committed when a replication quorum has it durable: the quorum-th highest acknowledgement.
    fn count_quorum(&mut self) {
        let mut acked = [0; 7];
        let counted = self.members.voters().filter(|id| self.reconfiguration.counts(*id));
        let ops = counted.map(|id| self.acked.get(id).map_or(0, |acked| acked.op));
        acked.iter_mut().zip(ops).for_each(|(into, op)| *into = op);
        acked.sort_unstable_by(|a, b| b.cmp(a));
        let committed = acked[usize::from(self.members.quorums().replication) - 1];
        if committed > self.commit_max {
            self.commit_max = committed;
            let now = self.now.mono;
            self.progress = now;
            for (_, _, quorum) in
                self.births.iter_mut().filter(|(op, made, quorum)| *op <= committed && made == quorum)
            {
                *quorum = now;
            }
        }
    }

    pub(super) fn on_prepare(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        if !self.check_view(from, frame.header.view.get(), effects) {
            return;
        }
        let Some(entry) = &frame.payload else { return self.ignore(Ignored::Malformed) };
        let Some((header, _)) = EntryHeader::split(entry) else { return self.ignore(Ignored::Malformed) };
        let ours = header.cluster.get() == self.config.cluster.0 && header.shard.get() == self.config.shard.0;
        if !ours || header.op != frame.header.op || header.view.get() > self.view {
            return self.ignore(Ignored::Malformed);
        }
        let flags = frame.header.flags.get();
        let answer = flags & ANSWER != 0;
        self.note_primary(from, !answer, frame.header.commit.get());
        if header.op.get() <= self.journal.head {
            self.fill(header, entry.clone(), answer, effects);
        } else if flags & OF_THE_VIEW != 0 {
            self.accept(header, entry.clone(), effects);
        } else {
            self.mark(Mark::PrepareOfAnotherLog);
            self.ignore(Ignored::Unlinked);
        }
        self.accept_early(effects);
    }

    /// Takes an entry of this view's log in that is beyond the head, if it is the next one.
    fn accept(&mut self, header: EntryHeader, entry: Message, effects: &mut Effects) {
        let (op, digest) = (header.op.get(), header.digest());
        let head = self.journal.head;
        if !self.can_run(&header) {
            self.refuse_release(&header);
            return self.ignore(Ignored::NotNow);
        }
        let following = self.is_backup() && self.log_view == self.view && self.sync.is_none();
        if !following || !self.journal.has_room(op) {
            self.repair.behind(op);
            if following {
                self.mark(Mark::PrepareWithoutRoom);
            }
            return self.ignore(if following { Ignored::NoRoom } else { Ignored::NotNow });
        }
        if op > head + 1 {
            self.repair.behind(op);
            if self.early.len() < usize::from(self.config.pipeline) {
                self.early.push(entry);
                self.mark(Mark::PrepareEarly);
            }
            return;
        }
        if self.journal.digest(head) != Some(header.parent) {
            self.mark(Mark::PrepareUnlinked);
            return self.ignore(Ignored::Unlinked);
        }
        let before = self.journal.header(head).expect("it has a digest");
        if !Self::follows_release(before, &header, &entry[ENTRY_HEADER..]) {
            return self.ignore(Ignored::Malformed);
        }
        self.journal.append(header, digest);
        self.clock.note(header.timestamp.get(), self.now.mono);
        self.journal.get_mut(op).expect("just appended").entry = Some(entry);
        self.write_entry(op, effects);
        self.unwritten |= self.journal.get(op).is_some_and(|slot| slot.writing != Some(digest));
    }

    /// An entry at or below the head: welcome if its slot lacks it, and only if it is the one (H14).
    fn fill(&mut self, header: EntryHeader, entry: Message, answer: bool, effects: &mut Effects) {
        let (op, digest) = (header.op.get(), header.digest());
        let wanted = op <= self.wanted_through();
        let Some(slot) = self.journal.get_mut(op).filter(|slot| slot.digest == Some(digest)) else {
            return self.ignore(Ignored::Unlinked);
        };
        slot.header = Some(header);
        if slot.durable == Some(digest) {
            // The primary sends again what we have: our acknowledgement was lost.
            self.ok_due |= !answer;
            if !answer {
                self.mark(Mark::PrepareAgain);
            }
            return self.ignore(Ignored::Duplicate);
        }
        if wanted && slot.entry.is_none() {
            slot.entry = Some(entry);
            self.repair.answered(op);
        }
        self.write_entry(op, effects);
        self.unwritten |=
            self.journal.get(op).is_some_and(|slot| slot.entry.is_some() && slot.writing.is_none());
    }

    /// Prepares that overtook others.
    fn accept_early(&mut self, effects: &mut Effects) {
        loop {
            let next = self.journal.head + 1;
            let op_of = |entry: &Message| {
                EntryHeader::read_from_prefix(entry).map_or(0, |(header, _)| header.op.get())
            };
            self.early.retain(|entry| op_of(entry) >= next);
            let Some(at) = self.early.iter().position(|entry| op_of(entry) == next) else { return };
            let entry = self.early.swap_remove(at);
            let Some((header, _)) = EntryHeader::split(&entry) else { return };
            self.accept(header, entry, effects);
            if self.journal.head < next {
                return;
            }
        }
    }

    /// The heartbeat of a primary.
    pub(super) fn on_commit(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        if !self.check_view(from, frame.header.view.get(), effects) {
            return;
        }
        if self.status == Status::ViewChange {
            // The view has begun without us.
            return self.heard_of_view(self.view, effects);
        }
        if !self.is_backup() || from != self.primary_of(self.view) {
            return self.ignore(Ignored::NotNow);
        }
        self.note_primary(from, true, frame.header.commit.get());
        let head = frame.header.op.get();
        if head > self.journal.head {
            self.repair.behind(head);
        }
        if frame.header.commit.get() < self.acknowledged {
            self.ok_due = true;
        }
    }

    pub(super) fn on_heartbeat(&mut self, effects: &mut Effects) {
        if !self.is_primary() {
            return;
        }
        self.timers.set(Timer::Heartbeat, self.in_a(self.timeouts.heartbeat));
        if !self.consider_abdicating(effects) {
            return;
        }
        self.ask_round_again(effects);
        self.say_heartbeat(effects);
    }

    pub(super) fn say_heartbeat(&self, effects: &mut Effects) {
        let mut frame = self.frame(Command::Commit);
        frame.header.op = self.journal.head.into();
        frame.header.a = self.superblock.durable().checkpoint.op().into();
        let head = self.journal.digest(self.journal.head).unwrap_or_default();
        frame.header.nonce = head.half().into();
        self.broadcast(&frame, effects);
    }

    /// Sends again what a backup did not acknowledge: the oldest of it, a pipeline at most.
    pub(super) fn on_resend(&mut self, effects: &mut Effects) {
        if !self.is_primary() || self.journal.head == self.commit_max {
            return;
        }
        for peer in self.peers() {
            let from = self.acked.get(peer).map_or(0, |acked| acked.op).max(self.commit_max) + 1;
            for op in (from..=self.journal.head).take(PIPELINE_MAX) {
                if let Some(frame) = self.prepare_frame(op, false) {
                    self.send(peer, frame, effects);
                }
            }
        }
        self.timers.set(Timer::Resend, self.in_a(self.resend_after()));
    }

    /// A frame of our view: perhaps a sign of life of its primary, and what is known to be committed (H07: of our
    /// view only).
    fn note_primary(&mut self, from: ReplicaId, alive: bool, commit: u64) {
        if self.status != Status::Normal {
            return;
        }
        // Whoever is in our view knows of the commits of our log, also a backup that answers for its primary.
        self.commit_max = self.commit_max.max(commit);
        if alive && self.is_backup() && from == self.primary_of(self.view) {
            self.heard_primary();
        }
    }

    /// Whether a frame is of our view. One of an older view is answered with ours; a newer one sends us looking.
    pub(super) fn check_view(&mut self, from: ReplicaId, view: u64, effects: &mut Effects) -> bool {
        if view < self.view {
            self.ignore(Ignored::OldView);
            if self.status == Status::Normal {
                self.send_pong(from, 0, effects);
            }
            return false;
        }
        if view > self.view {
            self.ignore(Ignored::NewerView);
            self.heard_of_view(view, effects);
            return false;
        }
        true
    }

    pub(super) fn send_reply(
        &self,
        client: u64,
        session: u64,
        number: u64,
        op: u64,
        digest: u128,
        outcomes: &[u8],
        effects: &mut Effects,
    ) {
        let mut frame = self.frame(Command::Reply);
        frame.header.op = op.into();
        frame.header.a = number.into();
        frame.header.b = session.into();
        frame.header.nonce = digest.into();
        if !outcomes.is_empty() {
            // Without a buffer the reply is not sent now; the edge asks again.
            let Some(mut draft) = self.pool.draft(outcomes.len()) else { return };
            draft.extend(outcomes).expect("measured");
            frame.payload = Some(draft.seal());
        }
        effects.push(Effect::Send { to: Address::Edge(EdgeId(client)), frame });
    }

    pub(super) fn send_eviction(&self, edge: EdgeId, session: u64, why: u16, effects: &mut Effects) {
        let mut frame = self.frame(Command::Eviction);
        frame.header.a = session.into();
        frame.header.flags = why.into();
        effects.push(Effect::Send { to: Address::Edge(edge), frame });
    }

    pub(super) fn on_ping_client(&mut self, edge: EdgeId, frame: &Frame, effects: &mut Effects) {
        if self.is_primary() {
            let now = self.now.mono;
            if let Some(heard) = self.heard.iter_mut().find(|(client, _)| *client == edge.0) {
                heard.1 = now;
            }
            let session = frame.header.a.get();
            let known = self.sessions.of_client(edge.0).is_some_and(|one| one.session == session);
            if session != 0 && !known && self.commit_min() >= self.view_start {
                self.send_eviction(edge, session, 1, effects);
            }
        }
        if frame.header.config.get() < self.members.number {
            let told = self.members_frame(true);
            effects.extend(told.map(|frame| Effect::Send { to: Address::Edge(edge), frame }));
        }
        self.send_pong_client(edge, frame, effects);
    }

    /// A new primary that has executed what earlier views left tells the edges, which need not search for it.
    pub(super) fn announce(&mut self, effects: &mut Effects) {
        if self.announced || self.commit_min() < self.view_start {
            return;
        }
        self.announced = true;
        for at in 0..self.heard.len() {
            let ping = self.frame(Command::PingClient);
            self.send_pong_client(EdgeId(self.heard[at].0), &ping, effects);
        }
    }

    pub(super) fn send_pong_client(&mut self, edge: EdgeId, to: &Frame, effects: &mut Effects) {
        let mut frame = self.frame(Command::PongClient);
        frame.header.nonce = to.header.nonce;
        frame.header.op = self.journal.head.into();
        frame.header.commit = self.commit_min().into();
        frame.header.a = u64::from(self.primary_of(self.view).0).into();
        frame.header.flags = u16::from(self.status == Status::Normal && !self.state_lost).into();
        if self.is_primary() {
            frame.header.b = self.sessions.of_client(edge.0).map_or(0, |session| session.session).into();
        }
        effects.push(Effect::Send { to: Address::Edge(edge), frame });
    }

    /// Leases are renewed by pings; a new primary starts all of them anew.
    pub(super) fn restart_leases(&mut self) {
        self.heard.clear();
        let now = self.now.mono;
        self.heard.extend(self.sessions.iter().map(|session| (session.client, now)));
        self.timers.set(Timer::Lease, self.in_a(self.timeouts.session_lease / 4));
    }

    pub(super) fn on_lease_timer(&mut self) {
        if !self.is_primary() {
            return;
        }
        let (now, lease) = (self.now.mono, self.timeouts.session_lease);
        let sessions = &self.sessions;
        self.heard.retain(|(client, _)| sessions.of_client(*client).is_some());
        for session in self.sessions.iter() {
            if !self.heard.iter().any(|(client, _)| *client == session.client) {
                self.heard.push((session.client, now));
            }
        }
        for at in 0..self.heard.len() {
            let (client, heard) = self.heard[at];
            let session = self.sessions.of_client(client).map_or(0, |session| session.session);
            let waits = self
                .queue
                .iter()
                .any(|pending| matches!(pending, Pending::Expire { client: of, .. } if *of == client));
            if now.since(heard) >= lease && !waits {
                self.heard[at].1 = now;
                self.enqueue(Pending::Expire { client, session });
            }
        }
        self.timers.set(Timer::Lease, self.in_a(lease / 4));
    }
}

/// The two halves of the first half of a digest, as frames carry them.
pub(super) fn halves(digest: &Digest) -> (zerocopy::little_endian::U64, zerocopy::little_endian::U64) {
    let half = digest.half();
    let (low, high) = (half & u128::from(u64::MAX), half >> 64);
    (u64::try_from(low).expect("masked").into(), u64::try_from(high).expect("shifted").into())
}

/// How many length-prefixed items there are: the reply needs room for an outcome of each.
fn count_items(mut items: &[u8]) -> usize {
    let mut count = 0;
    while let Some((len, rest)) = items.split_first_chunk::<4>() {
        items = rest.get(u32::from_le_bytes(*len) as usize..).unwrap_or(&[]);
        count += 1;
    }
    count
}

fn well_formed(payload: &[u8], edge: EdgeId) -> Option<(RequestHeader, &[u8])> {
    let (request, commands) = RequestHeader::read_from_prefix(payload).ok()?;
    let kind = RequestKind::from_code(request.kind.get())?;
    let numbered = match kind {
        RequestKind::Commands => request.number.get() > 0 && request.session.get() > 0,
        RequestKind::Register => {
            request.number.get() == 0 && request.session.get() == 0 && commands.is_empty()
        }
        RequestKind::Expire | RequestKind::Reconfigure | RequestKind::Upgrade => false,
    };
    let whole = request.client.get() == edge.0
        && request.size.get() as usize == commands.len()
        && request.digest.get() == RequestHeader::digest_of(commands);
    (numbered && whole).then_some((request, commands))
}

/// A request that the primary makes itself.
fn own_request(kind: RequestKind, client: u64, session: u64, body: &[u8]) -> RequestHeader {
    RequestHeader {
        client: client.into(),
        session: session.into(),
        number: 0.into(),
        size: u32::try_from(body.len()).expect("bounded by the entry").into(),
        kind: (kind as u32).into(),
        digest: RequestHeader::digest_of(body).into(),
    }
}
