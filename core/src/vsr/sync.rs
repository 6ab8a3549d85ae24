//! State transfer: a replica that fell behind what its peers' logs hold takes a whole checkpoint, in parts.
//!
//! A replica whose own checkpoint is damaged takes one the same way. Until then it votes (its log is whole), and
//! acknowledges, executes, leads and answers nothing.
//!
//! The one law: **nothing of our own is given up before the peer's checkpoint is durable here and named by our
//! superblock** (H13, H37). While it lasts this replica acknowledges nothing.

use core::fmt;

use super::machine::Machine;
use super::marks::Mark;
use super::replica::{Ignored, Replica, Status, Timer};
use super::tokens::Waits;
use crate::io::{DiskOp, Effect, Effects, Fatal};
use crate::pool::Message;
use crate::store::layout::{PAYLOAD, SECTOR};
use crate::store::sector::{self, Found, Zone};
use crate::types::ReplicaId;
use crate::wire::frame::{Command, Frame};

const GONE: u16 = 1;
/// Questions without a part in answer, after which a checkpoint is given up: perhaps nobody has all of it any more.
const IN_VAIN_MAX: u32 = 8;

/// A state transfer under way.
#[derive(Debug)]
pub(super) struct Sync {
    from: ReplicaId,
    stage: Stage,
    /// What is being fetched; zero until the first part said so.
    op: u64,
    size: u64,
    digest_half: u128,
    /// The next part may lie on our own disk, from a transfer that a crash ended.
    resuming: bool,
    /// Questions in a row that brought no part.
    in_vain: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Asking a peer for the next part.
    Receiving,
    /// Looking for the next part on our own disk.
    Looking,
    /// All is here; waits until it is durable.
    Installing,
}

impl Sync {
    fn new(from: ReplicaId) -> Self {
        Self { from, stage: Stage::Receiving, op: 0, size: 0, digest_half: 0, resuming: true, in_vain: 0 }
    }

    /// Begins anew, with whatever the next answer offers.
    fn restart(&mut self) {
        (self.stage, self.op, self.size, self.digest_half) = (Stage::Receiving, 0, 0, 0);
        self.in_vain = 0;
    }
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} op {} from replica {}, {} bytes in all", self.stage, self.op, self.from.0, self.size)
    }
}

impl<M: Machine> Replica<M> {
    pub(super) fn start_sync(&mut self, from: ReplicaId, effects: &mut Effects) {
        if self.sync.is_some() || self.status == Status::Recovering {
            return;
        }
        self.sync = Some(Sync::new(from));
        self.ask_for_block(effects);
    }

    /// Asks for the next part, or (by the repair timer) for the same one again.
    pub(super) fn ask_for_block(&mut self, effects: &mut Effects) {
        let Some(sync) = self.sync.as_ref().filter(|sync| sync.stage == Stage::Receiving) else { return };
        let received = if sync.op == 0 { 0 } else { self.image_received() };
        let mut frame = self.frame(Command::RequestBlocks);
        frame.header.op = sync.op.into();
        frame.header.a = (received / self.chunk_bytes() as u64).into();
        self.send(sync.from, frame, effects);
        let after = self.jittered(self.resend_after());
        self.timers.set(Timer::Repair, self.in_a(after));
    }

    /// The peer did not answer: whoever is there may serve another checkpoint. If nobody gives the next part of this
    /// one, any other will do, an older one too. (Found by the simulator: the only replica with a checkpoint had a
    /// damaged part in it, and waited for a newer one, which no quorum could make while a third waited for that part.)
    pub(super) fn sync_timed_out(&mut self, effects: &mut Effects) {
        let from = self.random_peer();
        let Some(sync) = self.sync.as_mut().filter(|sync| sync.stage == Stage::Receiving) else { return };
        sync.from = from;
        sync.in_vain += 1;
        if sync.op != 0 && sync.in_vain >= IN_VAIN_MAX {
            sync.restart();
            self.abandon_image();
        }
        self.mark(Mark::TransferOther);
        self.ask_for_block(effects);
    }

    pub(super) fn on_request_blocks(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let checkpoint = self.superblock.durable().checkpoint;
        let (wanted, chunk) = (frame.header.op.get(), frame.header.a.get());
        if checkpoint.size == 0 {
            return self.ignore(Ignored::NotNow);
        }
        if wanted != 0 && wanted != checkpoint.op() {
            return self.send_gone(from, effects);
        }
        let chunk_bytes = self.chunk_bytes() as u64;
        let Some(start) = chunk.checked_mul(chunk_bytes).filter(|start| *start < checkpoint.size) else {
            return self.ignore(Ignored::Malformed);
        };
        let len = usize::try_from(chunk_bytes.min(checkpoint.size - start)).expect("a chunk fits memory");
        let Some(mut into) = self.pool.draft(sector::sectors_for(len) * SECTOR) else {
            return self.ignore(Ignored::NoRoom);
        };
        into.resize_to_overwrite(sector::sectors_for(len) * SECTOR);
        let chunk = u32::try_from(chunk).expect("below the size over the chunk");
        if self.repair.block_reads.len() >= super::PIPELINE_MAX {
            return self.ignore(Ignored::NoRoom);
        }
        self.repair.block_reads.push((chunk, from, checkpoint.op()));
        let offset = self.checkpoint_chunk_offset(checkpoint.copy, chunk);
        Self::submit(effects, DiskOp::Read { token: Waits::CheckpointRead { chunk }.token(), offset, into });
    }

    pub(super) fn checkpoint_chunk_offset(&self, copy: u32, chunk: u32) -> u64 {
        let bytes = (self.chunk_bytes() / PAYLOAD * SECTOR) as u64;
        self.config.layout.checkpoint_offset(copy) + u64::from(chunk) * bytes
    }

    fn send_gone(&mut self, to: ReplicaId, effects: &mut Effects) {
        let mut frame = self.frame(Command::Block);
        frame.header.op = self.superblock.durable().checkpoint.op().into();
        frame.header.flags = GONE.into();
        self.send(to, frame, effects);
    }

    pub(super) fn on_checkpoint_read(&mut self, chunk: u32, read: Option<Message>, effects: &mut Effects) {
        let Some(at) = self.repair.block_reads.iter().position(|(of, _, _)| *of == chunk) else { return };
        let (_, to, op) = self.repair.block_reads.swap_remove(at);
        let checkpoint = self.superblock.durable().checkpoint;
        if op != checkpoint.op() {
            return self.send_gone(to, effects);
        }
        let Some(payload) = read.and_then(|image| self.unseal_chunk(chunk, &image)) else {
            return self.ignore(Ignored::Mismatch);
        };
        let mut frame = self.frame(Command::Block);
        frame.header.op = op.into();
        frame.header.a = u64::from(chunk).into();
        frame.header.b = checkpoint.size.into();
        frame.header.nonce = checkpoint.digest.half().into();
        frame.payload = Some(payload);
        self.send(to, frame, effects);
    }

    /// The payload of a part of our checkpoint, every sector checked.
    pub(super) fn unseal_chunk(&self, chunk: u32, image: &[u8]) -> Option<Message> {
        let checkpoint = self.superblock.durable().checkpoint;
        self.unseal_part(checkpoint.copy, checkpoint.op(), checkpoint.size, chunk, image)
    }

    fn unseal_part(&self, copy: u32, op: u64, size: u64, chunk: u32, image: &[u8]) -> Option<Message> {
        let place = self.config.place(Zone::Checkpoint);
        let offset = self.checkpoint_chunk_offset(copy, chunk);
        let start = u64::from(chunk) * self.chunk_bytes() as u64;
        let len = usize::try_from(size.checked_sub(start)?).ok()?.min(self.chunk_bytes());
        let mut payload = self.pool.draft(sector::sectors_for(len) * PAYLOAD)?;
        for (index, bytes) in image.chunks(SECTOR).enumerate() {
            match sector::open(place, offset + (index * SECTOR) as u64, bytes) {
                Found::Valid(stamp) if stamp.op == op => {
                    payload.extend(&bytes[..PAYLOAD]).ok()?;
                }
                _ => return None,
            }
        }
        (payload.len() >= len).then(|| payload.seal().slice(0..len))
    }

    pub(super) fn on_block(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let header = &frame.header;
        let busy = self.is_writing_image();
        // A lost state may be had again as it was.
        let least = self.commit_min() + u64::from(!self.state_lost);
        let lost = self.state_lost;
        let Some(sync) =
            self.sync.as_mut().filter(|sync| sync.from == from && sync.stage == Stage::Receiving)
        else {
            return self.ignore(Ignored::NotNow);
        };
        let (op, size, half) = (header.op.get(), header.b.get(), header.nonce.get());
        if header.flags.get() & GONE != 0 {
            if op > sync.op {
                // The peer made a newer checkpoint meanwhile: begin again with that.
                sync.restart();
                self.mark(Mark::TransferGone);
                self.abandon_image();
                self.ask_for_block(effects);
            }
            return;
        }
        if sync.op == 0 {
            if op < least {
                if !lost {
                    self.sync = None;
                }
                self.mark(Mark::TransferOlder);
                // Else whoever is asked next, when the timer ends, may be further.
                return self.ignore(Ignored::NotNow);
            }
            if busy || size == 0 || size > self.config.layout.checkpoint_max() as u64 {
                if busy {
                    self.mark(Mark::TransferBusy);
                }
                // Our own checkpoint has to be out of the way first; the timer asks again.
                return self.ignore(Ignored::NotNow);
            }
            (sync.op, sync.size, sync.digest_half) = (op, size, half);
            self.begin_foreign_image(op, size, half);
        }
        self.take_part(frame, effects);
    }

    fn take_part(&mut self, frame: &Frame, effects: &mut Effects) {
        let (header, chunk_bytes) = (&frame.header, self.chunk_bytes() as u64);
        let received = self.image_received();
        let Some(sync) = &self.sync else { return };
        let offered = (header.op.get(), header.b.get(), header.nonce.get());
        let same = (sync.op, sync.size, sync.digest_half) == offered;
        let next = received.is_multiple_of(chunk_bytes) && received / chunk_bytes == header.a.get();
        let left = sync.size.saturating_sub(received).min(chunk_bytes);
        if !next || !same || frame.body().len() as u64 != left || left == 0 {
            return self.ignore(Ignored::Mismatch);
        }
        self.extend_image(frame.body(), false);
        if let Some(sync) = &mut self.sync {
            sync.in_vain = 0;
        }
        self.next_part(effects);
    }

    /// What comes after the part that was just taken: another one from our own disk or from the peer, or the end.
    fn next_part(&mut self, effects: &mut Effects) {
        self.checkpoint_turn(effects);
        let received = self.image_received();
        let chunk_bytes = self.chunk_bytes() as u64;
        let copy = 1 - self.superblock.durable().checkpoint.copy;
        let Some(sync) = &mut self.sync else { return };
        if received >= sync.size {
            sync.stage = Stage::Installing;
            return;
        }
        sync.stage = Stage::Receiving;
        if !sync.resuming {
            return self.ask_for_block(effects);
        }
        let left = usize::try_from((sync.size - received).min(chunk_bytes)).expect("a part fits memory");
        let bytes = sector::sectors_for(left) * SECTOR;
        let Some(mut into) = self.pool.draft(bytes) else { return self.ask_for_block(effects) };
        into.resize_to_overwrite(bytes);
        sync.stage = Stage::Looking;
        let chunk = u32::try_from(received / chunk_bytes).expect("below the size over the part");
        let (token, offset) =
            (Waits::CheckpointKept { chunk }.token(), self.checkpoint_chunk_offset(copy, chunk));
        Self::submit(effects, DiskOp::Read { token, offset, into });
    }

    /// A part that an earlier transfer of the same checkpoint left on our disk, or not.
    pub(super) fn on_kept_part(&mut self, chunk: u32, read: Option<Message>, effects: &mut Effects) {
        let copy = 1 - self.superblock.durable().checkpoint.copy;
        let expected = self.image_received() / self.chunk_bytes() as u64 == u64::from(chunk);
        let Some(sync) = self.sync.as_ref().filter(|sync| sync.stage == Stage::Looking && expected) else {
            return;
        };
        let (op, size) = (sync.op, sync.size);
        let part = read.and_then(|image| self.unseal_part(copy, op, size, chunk, &image));
        if let Some(part) = part {
            self.mark(Mark::TransferKept);
            self.extend_image(&part, true);
        } else if let Some(sync) = &mut self.sync {
            sync.resuming = false;
        }
        self.next_part(effects);
    }

    /// What was put together is not what was promised: a part of it was of another checkpoint. Once more, all of it
    /// from the peer.
    pub(super) fn transfer_was_wrong(&mut self) {
        self.ignore(Ignored::Mismatch);
        self.mark(Mark::TransferWrong);
        self.abandon_image();
        if let Some(sync) = &mut self.sync {
            sync.restart();
            sync.resuming = false;
        }
        let again = self.jittered(self.resend_after());
        self.timers.set(Timer::Repair, self.in_a(again));
    }

    /// The peer's checkpoint is ours now.
    pub(super) fn sync_settled(&mut self, effects: &mut Effects) {
        let Some(sync) = &self.sync else { return };
        let foreign = sync.stage == Stage::Installing;
        let Some(bytes) = self.take_named_image() else { return };
        if !foreign {
            // Our own checkpoint became durable while a transfer was about to begin.
            self.journal.base = self.superblock.durable().checkpoint.op();
            return self.keep_spare(bytes);
        }
        self.sync = None;
        self.state_lost = false;
        self.mark(Mark::TransferDone);
        let Ok(header) = self.load_image(&bytes) else {
            return effects.push(Effect::Stop(Fatal::CheckpointLost));
        };
        self.keep_spare(bytes);
        self.adopt(header);
        self.journal.restart_at(&header);
        self.durable_op = self.journal.base;
        self.acknowledged = 0;
        self.early.clear();
        self.repair.restart();
        if self.status == Status::ViewChange {
            self.mark(Mark::TransferInViewChange);
            self.look_for_primary(effects);
        }
    }
}
