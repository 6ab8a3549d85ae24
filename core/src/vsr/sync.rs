//! State transfer: a replica that fell behind what its peers' logs hold takes over a peer's checkpoint, block by block.
//!
//! A replica whose own checkpoint is damaged takes one the same way. Until then it votes (its log is whole), and
//! acknowledges, executes, leads and answers nothing.
//!
//! The one law: **from the moment on that a block of our own checkpoint may be overwritten, the durable superblock says
//! that it is worth nothing** (`transferring`; H13, H37), until the one that was taken over is durable here as a whole
//! and named. Addresses are the same on all replicas, so there is no room for both.
//!
//! ```text
//!  Asking ─ offer ─ Quiescing ─ nothing of ours on its way ─ Entrusting ─ superblock durable ─ Opening ─ Copying
//!     ▲                                                                                           │        │
//!     └── the peer has a newer one, or nobody has a block any more ◀──────────────────────────────┴────────┤
//!                                            install ─ superblock durable ─ Naming ─ Flushing ◀─ all here ─┘
//! ```
//!
//! Each block is taken from our own disk when it is there under its digest: most are, because runs do not change. So a
//! transfer that a crash ended goes on where it was, and the repair of a damaged checkpoint costs what is damaged.
//!
//! A peer keeps a checkpoint for one to two intervals, which under load is less than a large one takes, and its log reaches
//! no further back. What is here by then is [`held`](super::held), and not even looked at again for the next one: so that
//! costs what has changed since, and each round is shorter than the one before, until the replica follows.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use zerocopy::FromBytes;

use super::blocks::{ASKED_MAX, GONE, OFFER, PARTS_MAX};
use super::machine::Machine;
use super::marks::Mark;
use super::replica::{Ignored, Replica, Status, Timer};
use super::tokens::Waits;
use crate::io::{DiskOp, Effect, Effects, Fatal};
use crate::pool::Message;
use crate::store::forest::{Forest, Opening};
use crate::store::grid::block::{self, BlockRef};
use crate::store::superblock::CheckpointRef;
use crate::types::ReplicaId;
use crate::wire::codec::Reader;
use crate::wire::entry::EntryHeader;
use crate::wire::frame::{Command, Frame};

/// Questions without an answer, after which a checkpoint is given up: perhaps nobody has all of it any more.
const IN_VAIN_MAX: u32 = 8;

/// A state transfer under way.
#[derive(Debug)]
pub(super) struct Sync {
    from: ReplicaId,
    stage: Stage,
    target: Option<CheckpointRef>,
    opening: Option<Opening>,
    /// It is opened: what is left is to have all its blocks.
    forest: Option<Forest>,
    /// All of them, and how many were begun; refused ones are begun again.
    blocks: Vec<BlockRef>,
    begun: usize,
    parts: VecDeque<Part>,
    /// Blocks on their way to the disk.
    writing: Vec<BlockRef>,
    refused: Vec<BlockRef>,
    /// Questions in a row that brought nothing.
    in_vain: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Asking a peer which checkpoint it has.
    Asking,
    /// Something of ours is still on its way to the disk.
    Quiescing,
    /// Waits until the superblock says that our own checkpoint is worth nothing.
    Entrusting,
    /// Taking the blocks that make a forest.
    Opening,
    /// Taking all others.
    Copying,
    /// All are written: they become durable.
    Flushing,
    /// Waits until the superblock names it.
    Naming,
}

/// A block of the checkpoint, on its way.
#[derive(Debug)]
struct Part {
    reference: BlockRef,
    stage: PartStage,
}

#[derive(Debug)]
enum PartStage {
    /// From our own disk.
    Reading,
    /// Not on our own disk: from the peer.
    Missing {
        asked: bool,
    },
    Here(Vec<u8>),
}

impl Sync {
    fn new(from: ReplicaId) -> Self {
        Self {
            from,
            stage: Stage::Asking,
            target: None,
            opening: None,
            forest: None,
            blocks: Vec::new(),
            begun: 0,
            parts: VecDeque::new(),
            writing: Vec::new(),
            refused: Vec::new(),
            in_vain: 0,
        }
    }

    /// Begins anew, with whatever the next answer offers. Writes that are on their way end before.
    fn restart(&mut self) {
        let writing = core::mem::take(&mut self.writing);
        *self = Self { writing, ..Self::new(self.from) };
    }

    /// Whether our own checkpoint is not to be worked at.
    pub(super) fn stops_work(&self) -> bool {
        self.stage != Stage::Asking
    }

    /// The next block to begin, in the order in which they are needed.
    fn next(&self) -> Option<BlockRef> {
        match self.stage {
            Stage::Opening => self.opening.as_ref()?.wanted().get(self.parts.len()).copied(),
            Stage::Copying => self.blocks.get(self.begun).copied(),
            _ => None,
        }
    }
}

/// For operators: how far it is.
impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from.0;
        let Some(target) = self.target else { return write!(f, "asks replica {from} for its checkpoint") };
        let (op, begun, all) = (target.op(), self.begun, self.blocks.len());
        match self.stage {
            Stage::Copying => write!(f, "op {op} from replica {from}: block {begun} of {all}"),
            Stage::Opening => write!(f, "op {op} from replica {from}: reads what belongs to it"),
            Stage::Flushing | Stage::Naming => write!(f, "op {op} from replica {from}: becomes durable"),
            Stage::Asking | Stage::Quiescing | Stage::Entrusting => {
                write!(f, "op {op} from replica {from}: waits for our own disk")
            }
        }
    }
}

impl<M: Machine> Replica<M> {
    /// The state transfer under way, in words.
    #[must_use]
    pub fn transfer(&self) -> Option<impl fmt::Display> {
        self.sync.as_ref()
    }

    pub(super) fn start_sync(&mut self, from: ReplicaId, effects: &mut Effects) {
        if self.sync.is_some() || self.status == Status::Recovering {
            return;
        }
        self.sync = Some(Sync::new(from));
        self.ask_for_offer(effects);
    }

    fn ask_for_offer(&mut self, effects: &mut Effects) {
        let Some(sync) = &self.sync else { return };
        let mut frame = self.frame(Command::RequestBlocks);
        frame.header.flags = OFFER.into();
        self.send(sync.from, frame, effects);
        let after = self.jittered(self.resend_after());
        self.timers.set(Timer::Repair, self.in_a(after));
    }

    /// The peer did not answer: whoever is there may serve another checkpoint. If nobody gives the next block of this
    /// one, any other will do, an older one too. (Found by the simulator: the only replica with a checkpoint had a
    /// damaged part in it, and waited for a newer one, which no quorum could make while a third waited for that part.)
    pub(super) fn sync_timed_out(&mut self, effects: &mut Effects) {
        let from = self.random_peer();
        let Some(sync) = &mut self.sync else { return };
        let waits = sync.parts.iter().any(|part| matches!(part.stage, PartStage::Missing { .. }));
        if sync.stage != Stage::Asking && !waits {
            return;
        }
        sync.from = from;
        sync.in_vain += 1;
        if sync.in_vain >= IN_VAIN_MAX && sync.stage != Stage::Asking {
            sync.restart();
        }
        self.mark(Mark::TransferOther);
        let Some(sync) = &mut self.sync else { return };
        if sync.stage == Stage::Asking {
            return self.ask_for_offer(effects);
        }
        for part in &mut sync.parts {
            if let PartStage::Missing { asked } = &mut part.stage {
                *asked = false;
            }
        }
        self.ask_for_parts(effects);
    }

    pub(super) fn on_block(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let flags = frame.header.flags.get();
        if flags & OFFER != 0 {
            return self.on_offer(from, frame, effects);
        }
        if flags & GONE != 0 {
            return self.on_gone(from, frame, effects);
        }
        // What a frame's payload is was checked: its digest is the block's.
        let reference = BlockRef { address: frame.header.a.get(), digest: frame.header.payload_digest };
        let payload = frame.body();
        if self.take_peers_block(&reference, payload) {
            return;
        }
        let grid = self.config.layout.grid();
        let wanted =
            |part: &&mut Part| part.reference == reference && matches!(part.stage, PartStage::Missing { .. });
        let Some(sync) = &mut self.sync else { return self.ignore(Ignored::NotNow) };
        let Some(part) = sync.parts.iter_mut().find(wanted) else { return self.ignore(Ignored::NotNow) };
        if !grid.holds(reference.address) || block::check(&grid, &reference, payload).is_err() {
            return self.ignore(Ignored::Mismatch);
        }
        part.stage = PartStage::Here(payload.to_vec());
        sync.in_vain = 0;
        if !self.write_block(&reference, payload, |address| Waits::BlockTransferred { address }, effects) {
            // Once more, when there is a buffer.
            return self.on_part_written(reference.address, false);
        }
        if let Some(sync) = &mut self.sync {
            sync.writing.push(reference);
        }
    }

    fn on_offer(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        // A lost state may be had again as it was; and a peer's checkpoint of what is executed here makes room in the log
        // too. (Found by the simulator: seed 23839.)
        let as_it_is = self.state_lost || self.wants_this_checkpoint();
        let least = self.commit_min() + u64::from(!as_it_is);
        let mut reader = Reader::new(frame.body());
        let Ok(offer) = CheckpointRef::decode(&mut reader, &self.config.layout) else {
            return self.ignore(Ignored::Malformed);
        };
        let asked = |sync: &&mut Sync| sync.from == from && sync.stage == Stage::Asking;
        let Some(sync) = self.sync.as_mut().filter(|sync| asked(sync)) else {
            return self.ignore(Ignored::NotNow);
        };
        if offer.op() < least || offer.number == 0 {
            if !self.state_lost {
                self.sync = None;
            }
            self.mark(Mark::TransferOlder);
            // Else whoever is asked next, when the timer ends, may be further.
            return self.ignore(Ignored::NotNow);
        }
        if offer.header.release.get() > self.release.binary.newest {
            // Of a state that this binary can't run.
            return self.end_for(&offer.header);
        }
        (sync.target, sync.stage, sync.in_vain) = (Some(offer), Stage::Quiescing, 0);
        self.sync_turn(effects);
    }

    /// The peer does not have a block: a newer checkpoint took its place, or it is damaged there.
    fn on_gone(&mut self, from: ReplicaId, frame: &Frame, effects: &mut Effects) {
        let Some(sync) = self.sync.as_mut().filter(|sync| sync.from == from) else {
            return self.ignore(Ignored::NotNow);
        };
        // What is here as a whole is named, however old. (Found by the simulator: seed 70477.)
        let taking = matches!(sync.stage, Stage::Opening | Stage::Copying);
        if taking && sync.target.is_some_and(|target| target.op() < frame.header.op.get()) {
            sync.restart();
            self.mark(Mark::TransferGone);
            self.ask_for_offer(effects);
        }
    }

    /// Goes on as far as nothing has to be waited for.
    pub(super) fn sync_turn(&mut self, effects: &mut Effects) {
        let Some(sync) = &mut self.sync else { return };
        match sync.stage {
            Stage::Asking | Stage::Entrusting | Stage::Flushing | Stage::Naming => {}
            Stage::Quiescing => {
                let naming = self.is_checkpointing() && !self.is_making_blocks();
                let Some(sync) = &mut self.sync else { return };
                if !sync.writing.is_empty() || self.blocks.is_writing() || naming {
                    return self.mark(Mark::TransferBusy);
                }
                if self.superblock.durable().transferring {
                    return self.begin_opening(effects);
                }
                sync.stage = Stage::Entrusting;
                self.superblock.change(|superblock| superblock.transferring = true);
            }
            Stage::Opening | Stage::Copying => self.take_parts(effects),
        }
    }

    /// Our own state is given up, durably.
    fn begin_opening(&mut self, effects: &mut Effects) {
        self.state_lost = true;
        self.forget_checkpoint();
        self.blocks.forget();
        self.scrub.forget();
        self.reads.clear();
        let shape = self.machine.forest().shape().clone();
        let Some(sync) = &mut self.sync else { return };
        let checkpoint =
            sync.target.and_then(|target| target.checkpoint()).expect("an offer is a checkpoint");
        sync.opening = Some(Opening::new(shape, checkpoint));
        sync.stage = Stage::Opening;
        self.take_parts(effects);
    }

    fn take_parts(&mut self, effects: &mut Effects) {
        loop {
            if self.take_front().is_err() {
                return self.transfer_was_wrong();
            }
            if !self.begin_part(effects) {
                break;
            }
        }
        self.ask_for_parts(effects);
        let Some(sync) = &mut self.sync else { return };
        let all = sync.begun == sync.blocks.len() && sync.parts.is_empty();
        if sync.stage == Stage::Copying && all && sync.writing.is_empty() && sync.refused.is_empty() {
            sync.stage = Stage::Flushing;
            Self::submit(effects, DiskOp::Sync { token: Waits::TransferFlushed.token() });
        }
    }

    /// Blocks that are here are taken, in order.
    fn take_front(&mut self) -> Result<(), crate::wire::codec::Malformed> {
        let Some(sync) = &mut self.sync else { return Ok(()) };
        if sync.stage == Stage::Copying {
            sync.parts.retain(|part| !matches!(part.stage, PartStage::Here(_)));
            return Ok(());
        }
        while let Some(Part { stage: PartStage::Here(payload), .. }) = sync.parts.front() {
            let opening = sync.opening.as_mut().expect("it is being opened");
            opening.give(payload)?;
            sync.parts.pop_front();
        }
        let done = |opening: &mut Opening| opening.wanted().is_empty();
        let Some(opening) = sync.opening.take_if(done) else { return Ok(()) };
        let forest = opening.done().ok_or(crate::wire::codec::Malformed)?;
        let header = EntryHeader::read_from_prefix(forest.tail()).map(|(header, _)| header);
        if header.ok() != sync.target.map(|target| target.header) {
            return Err(crate::wire::codec::Malformed);
        }
        sync.blocks = forest.references().filter(|block| !self.blocks.held.has(block)).copied().collect();
        sync.blocks.sort_unstable();
        (sync.forest, sync.stage) = (Some(forest), Stage::Copying);
        Ok(())
    }

    /// Begins to read the next block from our own disk; false when there is none, or no room.
    fn begin_part(&mut self, effects: &mut Effects) -> bool {
        let Some(sync) = &self.sync else { return false };
        let Some(reference) = sync.next().filter(|_| sync.parts.len() < PARTS_MAX) else { return false };
        let token = |address| Waits::BlockLooked { address };
        if !self.read_block(&reference, token, effects) {
            return false;
        }
        if let Some(sync) = &mut self.sync {
            sync.begun += usize::from(sync.stage == Stage::Copying);
            sync.parts.push_back(Part { reference, stage: PartStage::Reading });
        }
        true
    }

    /// What our own disk has in the place of a block.
    pub(super) fn on_part_read(&mut self, address: u32, read: Option<Message>, effects: &mut Effects) {
        let Some(sync) = &mut self.sync else { return };
        let reading = |part: &Part| {
            part.reference.address == u64::from(address) && matches!(part.stage, PartStage::Reading)
        };
        let Some(at) = sync.parts.iter().position(reading) else { return };
        let reference = sync.parts[at].reference;
        let stage = match self.open_block(&reference, read.as_ref()) {
            Some(payload) => {
                self.mark(Mark::TransferKept);
                PartStage::Here(payload)
            }
            None => PartStage::Missing { asked: false },
        };
        match stage {
            PartStage::Here(_) => self.blocks.held.seen(&reference),
            _ => self.blocks.held.lost(reference.address),
        }
        if let Some(sync) = &mut self.sync {
            sync.parts[at].stage = stage;
        }
        self.take_parts(effects);
    }

    fn ask_for_parts(&mut self, effects: &mut Effects) {
        let Some(sync) = &mut self.sync else { return };
        let mut wanted = Vec::new();
        for part in &mut sync.parts {
            if let PartStage::Missing { asked: asked @ false } = &mut part.stage {
                *asked = true;
                wanted.push(part.reference);
            }
        }
        if wanted.is_empty() {
            return;
        }
        let to = sync.from;
        wanted.chunks(ASKED_MAX).for_each(|some| self.request_blocks(to, some, effects));
        let after = self.jittered(self.resend_after());
        self.timers.set(Timer::Repair, self.in_a(after));
    }

    pub(super) fn on_part_ended(&mut self, address: u32, written: bool) {
        let address = u64::from(address);
        if let Some(sync) = &mut self.sync
            && let Some(at) = sync.writing.iter().position(|block| block.address == address)
        {
            let block = sync.writing.swap_remove(at);
            if written {
                self.blocks.held.seen(&block);
            }
        }
        self.on_part_written(address, written);
    }

    /// A block that could not be written is begun again, after a while.
    fn on_part_written(&mut self, address: u64, written: bool) {
        if let Some(sync) = self.sync.as_mut().filter(|_| !written) {
            sync.refused.extend(sync.blocks.iter().find(|block| block.address == address));
        }
    }

    /// After a while: what the disk refused is looked for once more.
    pub(super) fn retry_parts(&mut self) {
        if let Some(sync) = &mut self.sync {
            sync.blocks.append(&mut sync.refused);
        }
    }

    /// A block is not what it must be: its referrer is none of ours. Once more, from whoever is asked next.
    fn transfer_was_wrong(&mut self) {
        self.ignore(Ignored::Mismatch);
        self.mark(Mark::TransferWrong);
        if let Some(sync) = &mut self.sync {
            sync.restart();
        }
        let again = self.jittered(self.resend_after());
        self.timers.set(Timer::Repair, self.in_a(again));
    }

    /// All blocks are durable here: the superblock may name them.
    pub(super) fn on_transfer_flushed(&mut self) {
        let Some(sync) = self.sync.as_mut().filter(|sync| sync.stage == Stage::Flushing) else { return };
        sync.stage = Stage::Naming;
        let target = sync.target.expect("it is here");
        self.name_checkpoint(target);
    }

    /// The superblock is durable.
    pub(super) fn sync_settled(&mut self, effects: &mut Effects) {
        let durable = self.superblock.durable();
        let (transferring, checkpoint) = (durable.transferring, durable.checkpoint);
        let Some(sync) = &mut self.sync else { return };
        match sync.stage {
            Stage::Entrusting if transferring => self.begin_opening(effects),
            Stage::Naming if !transferring && sync.target == Some(checkpoint) => self.install(effects),
            _ => {}
        }
    }

    /// The peer's checkpoint is ours now.
    fn install(&mut self, effects: &mut Effects) {
        let Some(forest) = self.sync.take().and_then(|sync| sync.forest) else { return };
        self.mark(Mark::TransferDone);
        let Ok(header) = self.load_forest(forest) else {
            return effects.push(Effect::Stop(Fatal::CheckpointLost));
        };
        self.state_lost = false;
        self.adopt(header);
        self.journal.restart_at(&header);
        self.durable_op = self.journal.base;
        self.early.clear();
        self.repair.restart();
        if self.status == Status::ViewChange {
            self.mark(Mark::TransferInViewChange);
            self.look_for_primary(effects);
        }
    }
}
