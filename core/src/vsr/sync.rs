//! State transfer: a replica that fell behind what its peers' logs hold takes a whole checkpoint, in parts.
//!
//! A replica whose own checkpoint is damaged takes one the same way. Until then it votes (its log is whole), and
//! acknowledges, executes, leads and answers nothing.
//!
//! The one law: **nothing of our own is given up before the peer's checkpoint is durable here and named by our
//! superblock** (H13, H37). While it lasts this replica acknowledges nothing.

use alloc::vec::Vec;
use core::fmt;

use zerocopy::FromBytes;

use super::machine::Machine;
use super::replica::{Ignored, Replica, Status, Timer};
use super::tokens::Waits;
use crate::io::{DiskOp, Effect, Effects, Fatal};
use crate::pool::Message;
use crate::store::layout::{PAYLOAD, SECTOR};
use crate::store::sector::{self, Found, Zone};
use crate::types::ReplicaId;
use crate::wire::entry::{Digest, EntryHeader};
use crate::wire::frame::{Command, Frame};

const GONE: u16 = 1;

/// A state transfer under way.
#[derive(Debug)]
pub(super) struct Sync {
    from: ReplicaId,
    stage: Stage,
    /// What is being fetched; zero until the first part said so.
    op: u64,
    size: u64,
    digest_half: u128,
    received: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Receiving,
    /// Complete and verified; waits until our own checkpoint is out of the way, then until it is durable.
    Installing,
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, stage, op, size, received, .. } = self;
        write!(f, "{stage:?} op {op} from replica {}: {} of {size} bytes", from.0, received.len())
    }
}

impl<M: Machine> Replica<M> {
    pub(super) fn start_sync(&mut self, from: ReplicaId, effects: &mut Effects) {
        if self.sync.is_some() || self.status == Status::Recovering {
            return;
        }
        let (stage, received) = (Stage::Receiving, Vec::new());
        self.sync = Some(Sync { from, stage, op: 0, size: 0, digest_half: 0, received });
        self.ask_for_block(effects);
    }

    /// Asks for the next part, or (by the repair timer) for the same one again.
    pub(super) fn ask_for_block(&mut self, effects: &mut Effects) {
        let chunk_bytes = self.chunk_bytes();
        let Some(sync) = self.sync.as_ref().filter(|sync| sync.stage == Stage::Receiving) else { return };
        let mut frame = self.frame(Command::RequestBlocks);
        frame.header.op = sync.op.into();
        frame.header.a = ((sync.received.len() / chunk_bytes) as u64).into();
        self.send(sync.from, frame, effects);
        let after = self.jittered(self.timeouts.resend);
        self.timers.set(Timer::Repair, self.in_a(after));
    }

    /// The peer did not answer: whoever is there may serve another checkpoint.
    pub(super) fn sync_timed_out(&mut self, effects: &mut Effects) {
        let from = self.random_peer();
        let Some(sync) = self.sync.as_mut().filter(|sync| sync.stage == Stage::Receiving) else { return };
        sync.from = from;
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
        into.resize(sector::sectors_for(len) * SECTOR);
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
        let place = self.config.place(Zone::Checkpoint);
        let offset = self.checkpoint_chunk_offset(checkpoint.copy, chunk);
        let start = u64::from(chunk) * self.chunk_bytes() as u64;
        let len = usize::try_from(checkpoint.size.checked_sub(start)?).ok()?.min(self.chunk_bytes());
        let mut payload = self.pool.draft(sector::sectors_for(len) * PAYLOAD)?;
        for (index, bytes) in image.chunks(SECTOR).enumerate() {
            match sector::open(place, offset + (index * SECTOR) as u64, bytes) {
                Found::Valid(stamp) if stamp.op == checkpoint.op() => {
                    payload.extend(&bytes[..PAYLOAD]).ok()?;
                }
                _ => return None,
            }
        }
        (payload.len() >= len).then(|| payload.seal().slice(0..len))
    }

    pub(super) fn on_block(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let chunk_bytes = self.chunk_bytes();
        let max = self.config.layout.checkpoint_max() as u64;
        // A lost state may be had again as it was.
        let least = self.commit_min() + u64::from(!self.state_lost);
        let lost = self.state_lost;
        let header = &frame.header;
        let Some(sync) =
            self.sync.as_mut().filter(|sync| sync.from == from && sync.stage == Stage::Receiving)
        else {
            return self.ignore(Ignored::NotNow);
        };
        if header.flags.get() & GONE != 0 {
            // The peer made a newer checkpoint meanwhile: begin again with that.
            (sync.op, sync.size, sync.digest_half) = (0, 0, 0);
            sync.received.clear();
            return self.ask_for_block(effects);
        }
        let (op, size, half) = (header.op.get(), header.b.get(), header.nonce.get());
        if sync.op == 0 {
            if op < least {
                if !lost {
                    self.sync = None;
                }
                // Else whoever is asked next, when the timer ends, may be further.
                return self.ignore(Ignored::NotNow);
            }
            (sync.op, sync.size, sync.digest_half) = (op, size, half);
        }
        let next = (sync.received.len() / chunk_bytes) as u64 == header.a.get();
        let same = (sync.op, sync.size, sync.digest_half) == (op, size, half) && size <= max;
        let left = size.saturating_sub(sync.received.len() as u64).min(chunk_bytes as u64);
        if !next || !same || frame.body().len() as u64 != left || left == 0 {
            return self.ignore(Ignored::Mismatch);
        }
        sync.received.extend_from_slice(frame.body());
        if (sync.received.len() as u64) < size {
            return self.ask_for_block(effects);
        }
        let whole = Digest::of(&sync.received).half() == sync.digest_half
            && EntryHeader::read_from_prefix(&sync.received)
                .is_ok_and(|(header, _)| header.op.get() == sync.op);
        if whole {
            sync.stage = Stage::Installing;
        } else {
            self.sync = None;
            self.ignore(Ignored::Mismatch);
        }
    }

    /// A checkpoint that came whole is written once our own is out of the way.
    pub(super) fn sync_turn(&mut self, effects: &mut Effects) {
        if self.is_writing_image() {
            return;
        }
        let Some(sync) = self.sync.as_mut().filter(|sync| sync.stage == Stage::Installing) else { return };
        if sync.received.is_empty() {
            return;
        }
        let (op, bytes) = (sync.op, core::mem::take(&mut sync.received));
        self.write_image(op, bytes, effects);
    }

    /// The peer's checkpoint is ours now.
    pub(super) fn sync_settled(&mut self, effects: &mut Effects) {
        let installing = self.sync.as_ref().is_some_and(|sync| {
            sync.stage == Stage::Installing
                && sync.received.is_empty()
                && sync.op == self.superblock.durable().checkpoint.op()
        });
        if !installing {
            // Our own checkpoint became durable while a transfer was under way.
            if self
                .sync
                .as_ref()
                .is_some_and(|sync| !sync.received.is_empty() || sync.stage == Stage::Receiving)
            {
                self.take_named_image().into_iter().for_each(|bytes| {
                    self.journal.base = self.superblock.durable().checkpoint.op();
                    self.keep_spare(bytes);
                });
            }
            return;
        }
        let Some(bytes) = self.take_named_image() else { return };
        self.sync = None;
        self.state_lost = false;
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
            self.look_for_primary(effects);
        }
    }
}
