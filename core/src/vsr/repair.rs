//! Getting what is missing: headers below the linked part, entries by digest, what the primary has beyond us.
//!
//! The one law: **repair fills in below the head, along the chain; it never moves the head** (H14). The exception
//! proves it: a backup that is normal in the view of its primary has a prefix of the primary's log and may append
//! what that primary sends.

use alloc::vec::Vec;

use rand_chacha::rand_core::Rng;
use zerocopy::{FromBytes, IntoBytes};

use super::abdication::Abdication;
use super::journal::{Slot, SlotState};
use super::machine::Machine;
use super::marks::Mark;
use super::normal::halves;
use super::replica::{Ignored, Replica, Status, Timer};
use super::tokens::Waits;
use super::{PIPELINE_MAX, SUFFIX_MAX};
use crate::io::{DiskOp, Effects};
use crate::pool::Message;
use crate::store::layout::SECTOR;
use crate::store::sector::{Zone, sectors_for};
use crate::store::slot::{self, SlotFound};
use crate::types::ReplicaId;
use crate::wire::entry::{Digest, ENTRY_HEADER, EntryHeader};
use crate::wire::frame::{Command, Frame};

/// Entries asked for at a time.
pub(super) const BUDGET: usize = 8;
/// Repair requests in a row that came to nothing before a checkpoint past the missing entry is asked for.
const ATTEMPTS: u64 = 8;

#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Somebody said that the log reaches this far.
    heard_head: u64,
    /// What the last request asked for and did not get yet.
    outstanding: Vec<u64>,
    /// How often in a row the timer ran out: spreads requests over peers.
    attempts: u64,
    reads: Vec<SlotRead>,
}

/// A slot being read: to execute its entry, to send it, or both.
#[derive(Debug)]
struct SlotRead {
    slot: u32,
    op: u64,
    peers: Vec<ReplicaId>,
}

impl Repair {
    pub(super) fn behind(&mut self, head: u64) {
        self.heard_head = self.heard_head.max(head);
    }

    pub(super) fn answered(&mut self, op: u64) {
        self.outstanding.retain(|one| *one != op);
    }

    /// Entries asked for, slots being read.
    pub(super) fn holds(&self) -> (usize, usize) {
        (self.outstanding.len(), self.reads.len())
    }

    /// What was asked for no longer matters.
    pub(super) fn restart(&mut self) {
        self.heard_head = 0;
        self.outstanding.clear();
        self.attempts = 0;
    }
}

impl<M: Machine> Replica<M> {
    /// Asks for what is missing, unless an earlier request is still being answered.
    pub(super) fn repair_turn(&mut self, effects: &mut Effects) {
        if self.sync.is_some() {
            return;
        }
        if self.state_lost {
            self.mark(Mark::TransferLost);
            let from = self.repair_peer();
            return self.start_sync(from, effects);
        }
        let head = self.journal.head;
        self.repair
            .outstanding
            .retain(|op| *op > head || self.journal.get(*op).is_none_or(|slot| slot.entry.is_none()));
        let waiting = self.timers.is_set(Timer::Repair) && !self.repair.outstanding.is_empty();
        if !waiting {
            self.ask_for_missing(effects);
        }
    }

    pub(super) fn on_repair_timer(&mut self, effects: &mut Effects) {
        if self.sync.is_some() {
            return self.sync_timed_out(effects);
        }
        self.repair.attempts += 1;
        self.repair.outstanding.clear();
        self.ask_for_missing(effects);
    }

    fn ask_for_missing(&mut self, effects: &mut Effects) {
        let repairing = self.status == Status::ViewChange && self.view_change.is_repairing();
        if (self.status != Status::Normal && !repairing) || self.is_alone() {
            return;
        }
        let first = self.commit_min() + 1;
        let asked = if self.journal.low > first {
            self.ask_for_headers(first, effects)
        } else {
            self.ask_for_entries(self.first_not_durable(), effects) || self.ask_beyond(effects)
        };
        if asked {
            let after = self.jittered(self.resend_after());
            self.timers.set(Timer::Repair, self.in_a(after));
        } else {
            self.timers.clear(Timer::Repair);
            self.repair.attempts = 0;
        }
    }

    /// What was executed, and rotted since, is wanted too: a new view counts what is durable from the checkpoint on, and nobody
    /// could lead, or acknowledge, past it.
    fn first_not_durable(&self) -> u64 {
        let durable = self.durable_op.max(self.journal.low.saturating_sub(1));
        self.commit_min().min(durable) + 1
    }

    fn ask_for_headers(&mut self, first: u64, effects: &mut Effects) -> bool {
        let mut frame = self.frame(Command::RequestHeaders);
        let highest = self.journal.low - 1;
        frame.header.op = highest.into();
        frame.header.a = first.into();
        self.repair.outstanding.push(highest);
        self.mark(Mark::HeadersAsked);
        let to = self.repair_peer();
        self.send(to, frame, effects);
        true
    }

    /// Entries up to here have room in memory. Who is to lead executes nothing yet, but needs all of the log: there,
    /// what is durable makes room for more.
    pub(super) fn wanted_through(&self) -> u64 {
        let done = if self.status == Status::Normal {
            self.commit_min()
        } else {
            self.commit_min().max(self.durable_op)
        };
        done + 2 * u64::from(self.config.pipeline)
    }

    fn ask_for_entries(&mut self, first: u64, effects: &mut Effects) -> bool {
        let last = self.journal.head.min(self.wanted_through());
        for op in first..=last {
            if self.repair.outstanding.len() >= BUDGET {
                break;
            }
            let missing = self.journal.get(op).is_some_and(|slot| {
                slot.entry.is_none() && matches!(slot.state(), SlotState::Dirty | SlotState::Faulty)
            });
            if !missing {
                continue;
            }
            let digest = self
                .journal
                .get(op)
                .and_then(|slot| slot.digest)
                .expect("dirty and faulty ones have a digest");
            self.repair.outstanding.push(op);
            self.ask_for_entry(op, &digest, effects);
        }
        !self.repair.outstanding.is_empty()
    }

    /// Asks for the one entry that has this digest.
    pub(super) fn ask_for_entry(&mut self, op: u64, digest: &Digest, effects: &mut Effects) {
        let mut frame = self.frame(Command::RequestPrepare);
        frame.header.op = op.into();
        (frame.header.a, frame.header.b) = halves(digest);
        let to = self.repair_peer();
        self.send(to, frame, effects);
    }

    /// A backup asks for what its primary has beyond our head: the primary, or another backup of the view when that
    /// does not answer (one cut link must not cost the shard its spare).
    fn ask_beyond(&mut self, effects: &mut Effects) -> bool {
        let head = self.journal.head;
        if !self.is_backup() || self.repair.heard_head <= head || self.log_view != self.view {
            return false;
        }
        let mut frame = self.frame(Command::RequestPrepare);
        frame.header.op = (head + 1).into();
        let count = (self.repair.heard_head - head).min(BUDGET as u64);
        frame.header.flags = u16::try_from(count).expect("at most the budget").into();
        self.repair.outstanding.push(head + count);
        self.mark(Mark::AskedBeyond);
        let to = self.repair_peer();
        self.send(to, frame, effects);
        true
    }

    /// The primary of our view, or, when it does not answer, anybody. Who is to lead asks those that told it of
    /// their logs: whoever did not may be the one whose death made this view.
    fn repair_peer(&mut self) -> ReplicaId {
        if self.status == Status::ViewChange {
            let voters = self.peers().filter(|peer| self.view_change.has_voted(*peer)).count();
            if voters > 0 {
                let at = usize::try_from(self.random.next_u64() % voters as u64).expect("below 7");
                let mut peers = self.peers().filter(|peer| self.view_change.has_voted(*peer));
                return peers.nth(at).expect("counted");
            }
        }
        let primary = self.primary_of(self.view);
        if primary != self.me && self.repair.attempts.is_multiple_of(2) {
            primary
        } else {
            self.random_peer()
        }
    }

    pub(super) fn random_peer(&mut self) -> ReplicaId {
        let peers = self.members.list().len() as u64 - 1;
        let at = self.random.next_u64() % peers.max(1);
        self.peers().nth(usize::try_from(at).expect("below 7")).unwrap_or(self.me)
    }

    pub(super) fn on_request_headers(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let (highest, lowest) = (frame.header.op.get(), frame.header.a.get());
        let Some(mut draft) = self.pool.draft(SUFFIX_MAX * ENTRY_HEADER) else {
            return self.ignore(Ignored::NoRoom);
        };
        for op in (lowest..=highest).rev().take(SUFFIX_MAX) {
            let Some(header) = self.journal.header(op) else { break };
            draft.extend(header.as_bytes()).expect("bounded by the suffix");
        }
        if draft.is_empty() {
            return self.send_pong(from, 0, effects);
        }
        let mut frame = self.frame(Command::Headers);
        frame.header.op = highest.into();
        frame.payload = Some(draft.seal());
        self.send(from, frame, effects);
    }

    /// Headers are proved by the chain alone: whoever sent them, in whatever view.
    pub(super) fn on_headers(&mut self, frame: &Frame, effects: &mut Effects) {
        let before = self.journal.low;
        for bytes in frame.body().chunks_exact(ENTRY_HEADER) {
            let header = EntryHeader::read_from_bytes(bytes).expect("128 bytes are a header");
            if header.op.get() + 1 == self.journal.low && !self.journal.extend_down(header) {
                self.ignore(Ignored::Unlinked);
                break;
            }
        }
        if self.journal.low < before {
            self.repair.outstanding.clear();
            self.unwritten = true;
            self.repair_turn(effects);
        }
    }

    /// With a digest: that very entry, in any view. Without: the next entries of our log, to a backup of our view;
    /// all logs of a view are prefixes of its primary's.
    pub(super) fn on_request_prepare(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let header = &frame.header;
        let op = header.op.get();
        if header.a.get() != 0 || header.b.get() != 0 {
            let same = self.journal.digest(op).is_some_and(|digest| halves(&digest) == (header.a, header.b));
            if !same || !self.serve_entry(from, op, effects) {
                self.send_pong(from, 0, effects);
            }
            return;
        }
        if header.view.get() != self.view || self.status != Status::Normal || self.log_view != self.view {
            return self.ignore(Ignored::NotNow);
        }
        for op in (op..=self.journal.head).take(usize::from(header.flags.get()).min(BUDGET)) {
            if !self.serve_entry(from, op, effects) {
                return self.send_pong(from, 0, effects);
            }
        }
    }

    /// Sends an entry, reading it first if need be; false when it is not here.
    fn serve_entry(&mut self, to: ReplicaId, op: u64, effects: &mut Effects) -> bool {
        if self.journal.header(op).is_none() {
            return false;
        }
        if let Some(frame) = self.prepare_frame(op, true) {
            self.send(to, frame, effects);
            return true;
        }
        if self.journal.get(op).is_none_or(|slot| slot.state() != SlotState::Clean) {
            return false;
        }
        self.mark(Mark::EntryServed);
        self.read_slot(op, Some(to), effects);
        true
    }

    /// Reads the entry that is to be executed next, and those that follow it: after a start that is all of the log.
    pub(super) fn read_for_commit(&mut self, op: u64, effects: &mut Effects) {
        for op in op..=op + u64::from(self.config.pipeline) {
            self.read_committed(op, effects);
        }
    }

    /// An entry was executed: one more is read. Says whether entries that are to be executed are being read.
    pub(super) fn read_ahead(&mut self, executed: u64, effects: &mut Effects) -> bool {
        self.read_committed(executed + u64::from(self.config.pipeline), effects);
        self.repair.reads.iter().any(|read| read.op > executed && read.op <= self.commit_max)
    }

    /// Starts reading a committed entry that is here and not in memory.
    fn read_committed(&mut self, op: u64, effects: &mut Effects) {
        let is_only_here = |slot: &Slot| slot.entry.is_none() && slot.state() == SlotState::Clean;
        let is_committed = op <= self.commit_max.min(self.journal.head);
        if is_committed && self.journal.get(op).is_some_and(is_only_here) {
            self.read_slot(op, None, effects);
        }
    }

    fn read_slot(&mut self, op: u64, peer: Option<ReplicaId>, effects: &mut Effects) {
        let slot = self.journal.slot_of(op);
        if let Some(read) = self.repair.reads.iter_mut().find(|read| read.slot == slot && read.op == op) {
            read.peers.extend(peer.filter(|peer| !read.peers.contains(peer)));
            return;
        }
        if self.repair.reads.len() >= PIPELINE_MAX || self.repair.reads.iter().any(|read| read.slot == slot) {
            return self.ignore(Ignored::NoRoom);
        }
        // Behind the entry lies nothing of it.
        let size = self.journal.header(op).map(|header| sectors_for(header.size.get() as usize));
        let all = self.config.layout.slot_sectors as usize;
        let bytes = size.unwrap_or(all).min(all) * SECTOR;
        let Some(mut into) = self.pool.draft(bytes) else { return self.ignore(Ignored::NoRoom) };
        into.resize_to_overwrite(bytes);
        self.repair.reads.push(SlotRead { slot, op, peers: peer.into_iter().collect() });
        let offset = self.config.layout.slot_offset(slot);
        Self::submit(effects, DiskOp::Read { token: Waits::SlotRead { slot }.token(), offset, into });
    }

    pub(super) fn on_slot_read(&mut self, slot: u32, read: Option<Message>, effects: &mut Effects) {
        let Some(at) = self.repair.reads.iter().position(|one| one.slot == slot) else { return };
        let SlotRead { op, peers, .. } = self.repair.reads.swap_remove(at);
        let entry = read.and_then(|bytes| self.unseal_entry(slot, &bytes));
        let Some(slot) = self.journal.get_mut(op) else { return };
        let right = entry.filter(|(header, _)| Some(header.digest()) == slot.digest);
        let Some((_, entry)) = right else {
            // It was durable here and is not what it was (or is being overwritten): fetch it.
            if slot.writing.is_none() {
                (slot.durable, slot.faulty) = (None, true);
                self.mark(Mark::EntryRotten);
            }
            return self.ignore(Ignored::Mismatch);
        };
        slot.entry = Some(entry);
        for peer in peers {
            if let Some(frame) = self.prepare_frame(op, true) {
                self.send(peer, frame, effects);
            }
        }
        // A long log does not fit into memory: what is executed only much later is read again then.
        let soon = self.commit_min() + 2 * u64::from(self.config.pipeline);
        if op <= self.commit_min() || op > soon {
            self.journal.get_mut(op).expect("looked at").entry = None;
        }
    }

    fn unseal_entry(&mut self, slot: u32, bytes: &[u8]) -> Option<(EntryHeader, Message)> {
        let layout = &self.config.layout;
        let place = self.config.place(Zone::Wal).under(self.sealing.as_deref());
        let found = slot::examine(place, layout, layout.slot_offset(slot), bytes, &mut self.entry_scratch);
        let SlotFound::Entry { header, .. } = found else { return None };
        let mut draft = self.pool.draft(self.entry_scratch.len())?;
        draft.extend(&self.entry_scratch).ok()?;
        Some((header, draft.seal()))
    }

    pub(super) fn on_ping_timer(&mut self, effects: &mut Effects) {
        self.timers.set(Timer::Ping, self.in_a(self.timeouts.ping));
        self.promote_successors();
        self.consider_upgrade();
        self.retry_refused();
        if self.recovery.is_some() {
            // No frame before the incarnation is durable.
            return;
        }
        let mut frame = self.position_frame(Command::Ping);
        frame.header.nonce = self.time_question().into();
        self.broadcast(&frame, effects);
        if self.is_primary() {
            // While there is work, no heartbeat is due.
            self.consider_abdicating(effects);
        }
    }

    /// What the disk refused is written again, at a pace that a broken disk can stand.
    fn retry_refused(&mut self) {
        self.superblock.retry();
        self.retry_blocks();
        self.retry_parts();
        self.unwritten |= core::mem::take(&mut self.refused);
    }

    pub(super) fn position_frame(&self, command: Command) -> Frame {
        let mut frame = self.frame(command);
        frame.header.op = self.journal.head.into();
        frame.header.a = self.superblock.durable().checkpoint.op().into();
        frame.header.b = self.journal.low.into();
        frame.header.flags = u16::from(self.status == Status::Normal).into();
        frame
    }

    pub(super) fn send_pong(&self, to: ReplicaId, nonce: u128, effects: &mut Effects) {
        let mut frame = self.position_frame(Command::Pong);
        frame.header.nonce = nonce.into();
        self.send(to, frame, effects);
    }

    pub(super) fn on_ping(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        self.send_pong(from, self.time_answer(frame.header.nonce.get()), effects);
        self.look_at_position(from, frame, effects);
    }

    pub(super) fn on_pong(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        self.confirm_round(from, frame);
        if let Some(asked) = self.note_answer(from, frame) {
            self.detector.note_trip(from, asked, self.now.mono);
            if self.now.mono.since(asked) < self.peer_patience() {
                self.detector.note_answered(from, self.now.mono);
            }
        }
        self.look_at_position(from, frame, effects);
    }

    /// Where a peer stands: in a view that we missed, or with a log that no longer holds what we need.
    fn look_at_position(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let header = &frame.header;
        if header.flags.get() & 1 == 0 {
            return;
        }
        if header.view.get() > self.view || (self.status != Status::Normal && header.view.get() == self.view)
        {
            return self.heard_of_view(header.view.get(), effects);
        }
        if self.is_backup() && header.view.get() == self.view && header.op.get() > self.journal.head {
            self.repair.behind(header.op.get());
        }
        let missing = self.first_missing();
        // Nobody's log holds it any more; or whoever's does can't read it, and the state past it will do.
        let given_up = self.repair.attempts > ATTEMPTS;
        let lost = (header.b.get() > missing || given_up) && header.a.get() >= missing;
        if header.view.get() != self.view || !lost {
            return;
        }
        if self.is_backup() {
            let nowhere = header.b.get() > missing;
            self.mark(if nowhere { Mark::TransferBehind } else { Mark::TransferGivenUp });
            self.start_sync(from, effects);
        } else if self.is_primary() && self.view_change.asked() <= self.view {
            // Who can't execute what is committed can't lead (H20, H34).
            self.abdicate(Abdication::Behind, effects);
        }
    }

    /// The first op that this replica needs and has no entry of.
    pub(super) fn first_missing(&self) -> u64 {
        let first = self.commit_min() + 1;
        if self.journal.low > first {
            return first;
        }
        let have = |op: &u64| {
            self.journal.get(*op).is_some_and(|slot| slot.entry.is_some() || slot.state() == SlotState::Clean)
        };
        (first..=self.journal.head).find(|op| !have(op)).unwrap_or(self.journal.head + 1)
    }
}
