//! Checkpoints: made of the forest at fixed ops, written beside the running log, and named by the superblock.
//!
//! The one law: **the log below a checkpoint may be overwritten only when the superblock that names the checkpoint
//! is durable** (H36, H37): `journal.base` moves then and not before. All replicas make the checkpoint of an op
//! of the same blocks at the same addresses (I12, I34).
//!
//! ```text
//!  op C(k) executed ─ due ─ op C(k)+1 about to be executed ─ freeze, begin ─ Working ─ all blocks written ─ Flushing
//!                                                            (the next due one waits)       │
//!                                          journal.base = C(k) ─ superblock durable ─ Naming ┘
//! ```
//!
//! What a replica knows beside the machine (header of the op, sessions, members) is the tail of the forest's manifest:
//! `docs/formats.md`, "Tail of a checkpoint".

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use zerocopy::{FromBytes, IntoBytes};

use super::machine::Machine;
use super::marks::Mark;
use super::replica::{Replica, Status};
use super::room::Progress;
use super::tokens::Waits;
use crate::io::{DiskOp, Effect, Effects, Fatal};
use crate::store::forest::{Forest, Standing};
use crate::store::grid::block::{self, BlockRef};
use crate::store::sector::Zone;
use crate::store::superblock::CheckpointRef;
use crate::types::Instant;
use crate::wire::codec::{Malformed, Reader};
use crate::wire::entry::{ENTRY_HEADER, EntryHeader};

/// Steps of the work in a turn that make a block or two, when nothing else is to be done.
const STEPS: u32 = 2;
/// The same at most when the work keeps pace with ops: what a commit may have to wait for.
const STEPS_PACED: u32 = 8;
/// The same when commits wait for the work in any case.
const STEPS_AWAITED: u32 = 16;
/// Nothing was executed for so long, and nothing is about to be: the work need not make room for it.
const QUIET: Duration = Duration::from_millis(20);
/// Nothing was executed for so long, whatever is about to be.
const STILL: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct Checkpointing {
    /// The state as it is now must be frozen before anything else is executed.
    due: bool,
    stage: Stage,
    /// Offline nothing is made: the disk takes no writes.
    suspended: bool,
    /// Nobody has a block without which the work can't go on: peers are further.
    stuck: bool,
    /// See [`Replica::cleared`]: of the grid, as of the checkpoint that is named.
    cleared: u64,
    tail: Vec<u8>,
    /// Blocks that the work is expected to make, so that it is paced by ops.
    expected: u64,
    progress: Progress,
    /// The op that was executed last, and when that was seen.
    executed: u64,
    executed_at: Instant,
    /// Blocks that the forest wants, while they are looked for.
    wanted: Vec<BlockRef>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    /// Blocks of the checkpoint of this entry are made and written.
    Working { header: EntryHeader },
    /// All are written: they become durable.
    Flushing { checkpoint: CheckpointRef },
    /// All are durable, and a superblock that names the checkpoint was asked for.
    Naming { checkpoint: CheckpointRef },
}

impl<M: Machine> Replica<M> {
    pub(super) fn checkpoint_due(&mut self, op: u64) {
        self.checkpointing.due |= op.is_multiple_of(self.config.layout.interval());
    }

    /// Freezes the state that is due, unless the one before is still being written; says whether execution may go on.
    pub(super) fn checkpoint_allows(&mut self) -> bool {
        if self.state_lost {
            return false;
        }
        if !self.checkpointing.due || self.checkpointing.suspended {
            return true;
        }
        if self.is_checkpointing() || self.sync.is_some() || self.blocks.is_repairing() {
            self.mark(Mark::CheckpointAwaited);
            return false;
        }
        self.checkpointing.due = false;
        let mut tail = core::mem::take(&mut self.checkpointing.tail);
        self.encode_tail(&mut tail);
        let forest = self.machine.forest_mut();
        forest.freeze(self.executed.op.get(), &tail);
        // The op that is executed next is committed: so what the checkpoint before released is nobody's any more.
        forest.begin();
        self.checkpointing.expected = forest.work_expected();
        self.checkpointing.progress = Progress::begin(self.now.mono);
        self.checkpointing.tail = tail;
        self.checkpointing.stage = Stage::Working { header: self.executed };
        true
    }

    /// Whatever was erased by ops up to this one is nowhere in this replica's file any more: in no block, free or not,
    /// and in no slot of the log. Zero as long as it does not know: since it began, or took over a checkpoint, no wipe
    /// ended here.
    #[must_use]
    pub fn cleared(&self) -> u64 {
        self.checkpointing.cleared.min(self.journal.cleared())
    }

    pub(super) fn suspend_checkpoints(&mut self) {
        self.checkpointing.suspended = true;
    }

    /// Whether a checkpoint is being made, written or named.
    #[must_use]
    pub fn is_checkpointing(&self) -> bool {
        self.checkpointing.stage != Stage::Idle
    }

    /// Where it stands, in words.
    pub(super) fn checkpoint_stage(&self) -> String {
        let stage = match self.checkpointing.stage {
            Stage::Idle => "idle",
            Stage::Working { .. } => "working",
            Stage::Flushing { .. } => "flushing",
            Stage::Naming { .. } => "naming",
        };
        let (fetching, _) = self.blocks.holds();
        let wants = self.machine.forest().wanted().count();
        format!("{stage}, {} writes, {fetching} blocks fetched, {wants} wanted", self.blocks.writing)
    }

    /// Whether blocks of it may still be written.
    pub(super) fn is_making_blocks(&self) -> bool {
        matches!(self.checkpointing.stage, Stage::Working { .. })
    }

    /// What was being made is of no use any more: the state it is of was given up. Nothing of it is on its way.
    pub(super) fn forget_checkpoint(&mut self) {
        (self.checkpointing.due, self.checkpointing.stage) = (false, Stage::Idle);
        self.checkpointing.stuck = false;
        self.checkpointing.cleared = 0;
    }

    /// Whether a peer's checkpoint of what is executed here is as good as ours: ours is not begun, or can't go on.
    pub(super) fn wants_this_checkpoint(&self) -> bool {
        self.checkpointing.stuck || self.checkpointing.due
    }

    /// Goes on with the work, a little.
    pub(super) fn checkpoint_turn(&mut self, effects: &mut Effects) {
        // Who may not execute the next op may know that it is committed all the same: and whose log is full needs the room
        // that the checkpoint makes. (Found by the simulator: seed 22595.)
        if self.checkpointing.due && self.commit_max > self.commit_min() && self.recovery.is_none() {
            self.checkpoint_allows();
        }
        let Stage::Working { header } = self.checkpointing.stage else { return };
        if self.state_lost || self.sync.as_ref().is_some_and(super::sync::Sync::stops_work) {
            return;
        }
        let (mut steps, most) = self.checkpoint_pace(&header);
        // When nothing of it is on its way, no completion would bring the next turn: but ops do.
        while steps > 0 || (most == u64::MAX && self.blocks.is_idle()) {
            self.give_wanted(effects);
            let made = self.machine.forest_mut().writer().made();
            if made >= most {
                break;
            }
            match self.machine.forest_mut().advance(1) {
                Ok(Standing::More) => {}
                Ok(Standing::Reads | Standing::Writes) => break,
                Ok(Standing::Due | Standing::Complete) => return self.flush_checkpoint(header, effects),
                Err(why) => {
                    self.forget_checkpoint();
                    return effects.push(Effect::Stop(Fatal::of_work(why)));
                }
            }
            // What makes no block costs next to nothing, and brings no completion either.
            steps = steps.saturating_sub(u32::from(self.machine.forest_mut().writer().made() > made));
            self.write_blocks(effects);
        }
        self.write_blocks(effects);
        let made = self.machine.forest_mut().writer().made();
        self.checkpointing.progress.note(made, self.now.mono);
    }

    /// The op of the checkpoint that is worked at, how the work gets on, and the blocks that it is expected to make.
    pub(super) fn work_under_way(&self) -> Option<(u64, Progress, u64)> {
        let Checkpointing { stage, progress, expected, .. } = &self.checkpointing;
        match stage {
            Stage::Working { header } => Some((header.op.get(), *progress, *expected)),
            _ => None,
        }
    }

    /// How many steps the work may take in this turn, and how many blocks it may have made then.
    ///
    /// While ops go on, blocks are made in the measure of ops: after three quarters of the interval all should be. So no
    /// commit waits for more than its share, however many messages an op brings, and when the next checkpoint is due
    /// nothing is left over for which everybody would have to wait. (Measured: two blocks a turn were too few where
    /// turns were long, and commits stood still for seconds at the end of each interval.)
    fn checkpoint_pace(&mut self, header: &EntryHeader) -> (u32, u64) {
        let (now, executed) = (self.now.mono, self.executed.op.get());
        let pace = &mut self.checkpointing;
        if pace.executed != executed {
            (pace.executed, pace.executed_at) = (executed, now);
        }
        if pace.due {
            return (STEPS_AWAITED, u64::MAX);
        }
        // On a machine that is busy an op takes longer than a moment: while one is under way nothing is quiet.
        let quiet = if self.journal.head > executed { STILL } else { QUIET };
        if now.since(pace.executed_at) >= quiet {
            return (STEPS, u64::MAX);
        }
        let span = (self.config.layout.interval() * 3 / 4).max(1);
        (STEPS_PACED, pace.expected * (executed - header.op.get()).max(1) / span + 1)
    }

    /// Hands the work the blocks that it waits for and will wait for, from wherever they are; starts reading what is
    /// nowhere in memory.
    fn give_wanted(&mut self, effects: &mut Effects) {
        let mut wanted = core::mem::take(&mut self.checkpointing.wanted);
        wanted.clear();
        wanted.extend(self.machine.forest().wanted());
        let needed = wanted.len();
        wanted.extend(self.machine.forest().ahead());
        for (number, reference) in wanted.iter().enumerate() {
            let is_lost = self.blocks.is_lost(reference);
            if number >= needed && (is_lost || self.blocks.is_fetched(reference)) {
                continue;
            }
            if is_lost && self.is_alone() {
                // Better an end that says why than a log that fills up and stands still.
                return effects.push(Effect::Stop(Fatal::CheckpointLost));
            }
            if is_lost {
                self.checkpointing.stuck = true;
                self.mark(Mark::CheckpointStuck);
                let from = self.random_peer();
                self.start_sync(from, effects);
            }
            if let Some(payload) = self.take_once(reference, effects) {
                self.checkpointing.stuck &= number >= needed;
                let given = self.machine.forest_mut().give(reference, &payload);
                self.blocks.recycle(payload);
                if given.is_err() {
                    effects.push(Effect::Stop(Fatal::CheckpointLost));
                }
            }
        }
        self.checkpointing.wanted = wanted;
    }

    /// Blocks that were made go to the disk.
    fn write_blocks(&mut self, effects: &mut Effects) {
        let place = self.config.place(Zone::Grid).under(self.sealing.as_deref());
        let grid = self.config.layout.grid();
        loop {
            let Some(mut draft) = self.pool.draft(grid.block_bytes()) else { return };
            let Some((reference, payload)) = self.machine.forest_mut().writer().next_write() else { return };
            draft.resize_to_overwrite(grid.block_bytes());
            block::seal(place, &grid, payload, draft.bytes_mut());
            self.blocks.held.lost(reference.address);
            let address = u32::try_from(reference.address).expect("a grid has fewer blocks");
            let (token, offset) =
                (Waits::BlockWritten { address }.token(), grid.offset_of(reference.address));
            Self::submit(effects, DiskOp::Write { token, offset, data: draft.seal(), durable: false });
            self.blocks.writing += 1;
        }
    }

    pub(super) fn on_block_written(&mut self, address: u32, written: bool) {
        self.blocks.writing -= 1;
        if written {
            self.machine.forest_mut().writer().written(u64::from(address));
        } else {
            self.blocks.refused.push(address);
        }
    }

    /// After a while: what the disk refused is written again.
    pub(super) fn retry_blocks(&mut self) {
        for address in core::mem::take(&mut self.blocks.refused) {
            self.mark(Mark::CheckpointRefused);
            self.machine.forest_mut().writer().refused(u64::from(address));
        }
    }

    /// All blocks are written.
    fn flush_checkpoint(&mut self, header: EntryHeader, effects: &mut Effects) {
        let newest = self.machine.forest().newest().expect("it was just completed");
        assert_eq!(newest.op, header.op.get(), "the work is that of the entry that was frozen");
        let checkpoint = CheckpointRef { header, number: newest.number, root: newest.root };
        self.checkpointing.stage = Stage::Flushing { checkpoint };
        Self::submit(effects, DiskOp::Sync { token: Waits::CheckpointFlushed.token() });
    }

    /// All blocks are durable: the superblock may name them.
    pub(super) fn on_checkpoint_flushed(&mut self) {
        let Stage::Flushing { checkpoint } = self.checkpointing.stage else { return };
        self.checkpointing.stage = Stage::Naming { checkpoint };
        self.name_checkpoint(checkpoint);
    }

    pub(super) fn name_checkpoint(&mut self, checkpoint: CheckpointRef) {
        let commit = self.commit_max;
        // While a view changes, the log that the superblock speaks of is not the one in memory.
        let witness = if self.status == Status::Normal { self.durable_op } else { 0 };
        self.superblock.change(|superblock| {
            superblock.checkpoint = checkpoint;
            superblock.transferring = false;
            superblock.commit = superblock.commit.max(commit);
            superblock.witness = superblock.witness.max(witness);
            if superblock.suffix_head() < checkpoint.op() {
                superblock.suffix.clear();
                superblock.suffix.push(checkpoint.header);
            }
        });
    }

    /// The superblock is durable: if it names our checkpoint, the log below may go.
    pub(super) fn checkpoint_settled(&mut self) {
        let durable = self.superblock.durable().checkpoint;
        if self.checkpointing.stage == (Stage::Naming { checkpoint: durable }) {
            self.checkpointing.stage = Stage::Idle;
            self.journal.base = durable.op();
            self.durable_op = self.durable_op.max(durable.op());
            self.checkpointing.cleared = self.machine.forest().cleared();
            if self.commit_max < self.commit_min() + self.config.layout.interval() {
                self.blocks.held.forget();
            }
        }
    }

    fn encode_tail(&self, tail: &mut Vec<u8>) {
        tail.clear();
        tail.extend_from_slice(self.executed.as_bytes());
        tail.extend_from_slice(&[0; 8]);
        self.sessions.encode(tail);
        let sessions = (tail.len() - ENTRY_HEADER - 8) as u64;
        tail[ENTRY_HEADER..ENTRY_HEADER + 8].copy_from_slice(&sessions.to_le_bytes());
        let at = tail.len() + 4;
        tail.extend_from_slice(&[0; 4]);
        self.reconfiguration.encode(tail);
        let members = u32::try_from(tail.len() - at).expect("few members");
        tail[at - 4..at].copy_from_slice(&members.to_le_bytes());
    }

    /// Takes over what a forest that was opened holds: sessions, members, and the machine's state.
    pub(super) fn load_forest(&mut self, forest: Forest) -> Result<EntryHeader, Malformed> {
        let (header, rest) = EntryHeader::read_from_prefix(forest.tail()).map_err(|_| Malformed)?;
        let mut reader = Reader::new(rest);
        let sessions = usize::try_from(reader.u64()?).map_err(|_| Malformed)?;
        let mut sessions = Reader::new(reader.take(sessions)?);
        self.sessions.decode(&mut sessions)?;
        sessions.finish()?;
        self.load_members(reader.long()?)?;
        reader.finish()?;
        self.machine.restore(forest)?;
        Ok(header)
    }
}
