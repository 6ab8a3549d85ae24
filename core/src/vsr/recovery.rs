//! Opening a replica: what a crash left becomes a log again.
//!
//! Read the checkpoint, read the first sector of every slot, and the whole of those that hold something newer than the
//! checkpoint, or nothing. What is older is only served to peers, and looked at then: so a start reads a part of a large
//! log. That a slot seems never written is seen in both reads: a read that went astray (H29) shows where it came from by the
//! address in every seal, but blank sectors have none, and a blank slot is what may be nacked. Flush (what was read may still have been on its way to the disk), make a new incarnation durable; then
//! decide. There is no recovery protocol that could brick a cluster which lost power
//! as a whole (H22): `view` and `log_view` are durable, and so is every entry that was acknowledged.
//!
//! What a slot is worth ([`crate::store::slot`]), with `C` the checkpoint, `H` the head as `log_view` began here:
//!
//! | slot holds | and | then |
//! |---|---|---|
//! | an entry of op <= C (its beginning) | | old: the checkpoint has what it did |
//! | an entry of C < op <= H | its digest is in the superblock's suffix, or linked from there | clean |
//! | an entry of op > H | its view is `log_view`, it links to the entry before | clean |
//! | any other entry | | of a log that a view change truncated: never comes back (H25) |
//! | nothing, a torn write or another entry | the op is known; a witness saw it durable | faulty: the disk lost it (H32) |
//! | the same | the op is known; no witness | dirty: fetched from a peer |
//! | something corrupt | the op is known from the suffix or a link | faulty: fetched, never nacked (H27) |
//! | something corrupt | it may be the op after the head | the head is uncertain: `RecoveringHead` (H24) |
//! | anything | a witness saw an op past the head | the same |
//! | an entry of a view after `log_view` | | that log was on its way in: of ours, nothing from here on counts |
//!
//! A witness is the superblock, or an entry that is surely of our log: each carries up to where the log was durable
//! here when it was written (`docs/decisions/0006-witnesses.md`).

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use super::PIPELINE_MAX;
use super::journal::{Journal, SlotState, Traces};
use super::machine::Machine;
use super::marks::Mark;
use super::release::{Releases, WrongRelease};
use super::replica::{Replica, Start, Status, Timer};
use super::superblock::Writer;
use super::tokens::Waits;
use crate::io::{DiskOp, Effect, Effects, Fatal};
use crate::pool::{Message, Pool};
use crate::store::forest::Opening;
use crate::store::grid::block::BlockRef;
use crate::store::layout::{Layout, SECTOR};
use crate::store::sealing;
use crate::store::sector::{self, Found, Place, Zone, is_zero, sectors_for};
use crate::store::slot::{self, SlotFound};
use crate::store::superblock::{OpenError, Superblock};
use crate::types::Now;
use crate::wire::entry::{Digest, EntryHeader};

/// Reads at a time.
const IN_FLIGHT: u32 = 8;

#[derive(Debug)]
pub(super) struct Recovery {
    stage: Stage,
    submitted: u32,
    in_flight: u32,
    /// The checkpoint, as far as its blocks are here. None: there is none to open, or it is damaged.
    opening: Option<Opening>,
    /// Blocks that are being read, in the order in which they are needed, and what came.
    blocks: VecDeque<(BlockRef, Option<Vec<u8>>)>,
    found: Vec<SlotFound>,
    /// Slots of which the first sector does not say enough.
    whole: Vec<u32>,
    /// What lies in each slot.
    traces: Vec<Traces>,
}

/// [`slot::examine`], or [`slot::look_at_first`].
type Look = fn(Place<'_>, &Layout, u64, &[u8], &mut Vec<u8>) -> SlotFound;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Checkpoint,
    /// The first sector of each.
    Slots,
    /// All of some.
    Wholes,
    Flush,
    Done,
}

impl Recovery {
    /// Whether all of the stage was asked for.
    fn is_through(&self) -> bool {
        match self.stage {
            Stage::Checkpoint => self.opening.as_ref().is_none_or(|opening| opening.wanted().is_empty()),
            Stage::Done => false,
            _ => self.submitted as usize == self.steps(),
        }
    }

    /// How many reads, or flushes, the stage consists of.
    fn steps(&self) -> usize {
        match self.stage {
            Stage::Slots => self.found.len(),
            Stage::Wholes => self.whole.len(),
            Stage::Flush => 1,
            Stage::Checkpoint | Stage::Done => 0,
        }
    }
}

impl<M: Machine> Replica<M> {
    /// Opens a replica on the bytes of its superblock zone; everything else it reads by effects.
    /// Errors name what is wrong with the file.
    pub fn open(
        superblock_zone: &[u8],
        machine: M,
        pool: Pool,
        start: Start,
        now: Now,
        effects: &mut Effects,
    ) -> Result<Self, OpenError> {
        let superblock = Superblock::open(superblock_zone)?;
        let Releases { oldest, newest, .. } = start.binary;
        // Its state is of the checkpoint's release, and the newest entry that it names may be of a later one.
        let wrong = [superblock.checkpoint.header.release.get(), superblock.release()]
            .into_iter()
            .find(|needed| !start.binary.runs(*needed));
        if let Some(needed) = wrong {
            return Err(OpenError::Release(WrongRelease { needed, oldest, newest }));
        }
        let sealing = start.sealing.as_deref();
        sealing::must_fit(superblock.envelope.as_ref(), sealing).map_err(OpenError::Key)?;
        let config = &superblock.config;
        let valid = (1..=PIPELINE_MAX).contains(&usize::from(config.pipeline))
            && config.layout.wal_slots >= 2 * u32::from(config.pipeline)
            && config.layout.is_sane();
        if !valid {
            return Err(OpenError::Damaged);
        }
        let slots = config.layout.wal_slots as usize;
        let first_pair = superblock.weaker_pair(superblock_zone);
        let superblock = Writer::new(superblock, first_pair);
        let mut replica = Self::new(superblock, machine, pool, start);
        replica.now = now;
        let durable = replica.superblock.durable();
        let checkpoint = durable.checkpoint.checkpoint().filter(|_| !durable.transferring);
        let shape = replica.machine.forest().shape().clone();
        let opening = checkpoint.map(|checkpoint| Opening::new(shape, checkpoint));
        let mut stage = Stage::Checkpoint;
        if opening.is_none() {
            replica.load_own_checkpoint(None);
            stage = Stage::Slots;
        }
        let (blocks, found, whole) = (VecDeque::new(), vec![SlotFound::Blank; slots], Vec::new());
        let traces = vec![Traces::unknown(replica.config.layout.slot_sectors); slots];
        replica.recovery =
            Some(Recovery { stage, submitted: 0, in_flight: 0, opening, blocks, found, whole, traces });
        replica.view_change.never_vote_in(replica.view);
        replica.timers.set(Timer::Ping, replica.in_a(replica.timeouts.ping));
        replica.recovery_turn(effects);
        Ok(replica)
    }

    /// Submits the next reads of the stage.
    pub(super) fn recovery_turn(&mut self, effects: &mut Effects) {
        self.superblock.pump(&self.pool, effects);
        if self.recovery.as_ref().is_some_and(|recovery| recovery.stage == Stage::Checkpoint) {
            return self.opening_turn(effects);
        }
        let slot_bytes = self.config.layout.slot_sectors as usize * SECTOR;
        while let Some(recovery) = &mut self.recovery
            && recovery.in_flight < IN_FLIGHT
        {
            let number = recovery.submitted;
            let count = recovery.steps();
            if number as usize == count {
                return;
            }
            if recovery.stage == Stage::Flush {
                (recovery.submitted, recovery.in_flight) = (1, 1);
                return Self::submit(effects, DiskOp::Sync { token: Waits::Synced.token() });
            }
            let (slot, bytes) = match recovery.stage {
                Stage::Slots => (number, SECTOR),
                _ => (recovery.whole[number as usize], slot_bytes),
            };
            let Some(mut into) = self.pool.draft(bytes) else { return };
            into.resize_to_overwrite(bytes);
            recovery.submitted += 1;
            recovery.in_flight += 1;
            let (token, offset) =
                (Waits::SlotRecovered { slot }.token(), self.config.layout.slot_offset(slot));
            Self::submit(effects, DiskOp::Read { token, offset, into });
        }
    }

    /// Reads ahead in the checkpoint.
    fn opening_turn(&mut self, effects: &mut Effects) {
        let Some(mut recovery) = self.recovery.take() else { return };
        while recovery.in_flight < IN_FLIGHT
            && let Some(opening) = &recovery.opening
            && let Some(reference) = opening.wanted().get(recovery.blocks.len()).copied()
            && self.read_block(&reference, |address| Waits::BlockRecovered { address }, effects)
        {
            recovery.blocks.push_back((reference, None));
            recovery.in_flight += 1;
        }
        self.recovery = Some(recovery);
    }

    /// A block of the checkpoint; without it the state is lost.
    fn take_recovered(&mut self, recovery: &mut Recovery, address: u32, read: Option<&Message>) {
        let waits = |(reference, payload): &(BlockRef, Option<Vec<u8>>)| {
            payload.is_none() && reference.address == u64::from(address)
        };
        let Some(at) = recovery.blocks.iter().position(waits) else { return };
        let reference = recovery.blocks[at].0;
        recovery.blocks[at].1 = self.open_block(&reference, read);
        let mut whole = recovery.blocks[at].1.is_some();
        while let Some((_, Some(payload))) = recovery.blocks.front()
            && whole
            && let Some(opening) = &mut recovery.opening
        {
            whole = opening.give(payload).is_ok();
            if let Some((_, Some(payload))) = recovery.blocks.pop_front() {
                self.blocks.recycle(payload);
            }
        }
        if !whole {
            // What comes after it is of no use.
            recovery.opening = None;
            recovery.blocks.clear();
        }
    }

    pub(super) fn on_recovered(&mut self, waits: Waits, read: Option<Message>, effects: &mut Effects) {
        let Some(mut recovery) = self.recovery.take() else { return };
        recovery.in_flight -= 1;
        match waits {
            Waits::BlockRecovered { address } => {
                self.take_recovered(&mut recovery, address, read.as_ref());
            }
            Waits::SlotRecovered { slot } if recovery.stage == Stage::Slots => {
                let found = self.look_at(slot, read.as_deref(), slot::look_at_first);
                if self.is_of_interest(&found) {
                    recovery.whole.push(slot);
                }
                recovery.found[slot as usize] = found;
            }
            Waits::SlotRecovered { slot } => {
                let mut found = self.look_at(slot, read.as_deref(), slot::examine);
                let before = recovery.found[slot as usize];
                if found == SlotFound::Blank && before != SlotFound::Blank {
                    // There was something: one of the two reads went astray. Once more; if it is blank then too, nobody
                    // knows what was there. (Found by the simulator: seed 2016862.)
                    found = SlotFound::Faulty(None);
                    if before != found {
                        recovery.whole.push(slot);
                    }
                }
                recovery.traces[slot as usize] = match found {
                    SlotFound::Faulty(_) => Traces::unknown(self.config.layout.slot_sectors),
                    _ => self.traces_of(slot, read.as_deref(), &found),
                };
                recovery.found[slot as usize] = found;
            }
            _ => {}
        }
        if recovery.in_flight == 0 {
            while recovery.is_through() {
                self.next_stage(&mut recovery);
            }
            if self.state_lost && self.is_alone() {
                return effects.push(Effect::Stop(Fatal::CheckpointLost));
            }
        }
        self.recovery = Some(recovery);
        self.finish_recovery(effects);
    }

    fn next_stage(&mut self, recovery: &mut Recovery) {
        recovery.submitted = 0;
        recovery.stage = match recovery.stage {
            Stage::Checkpoint => {
                self.load_own_checkpoint(recovery.opening.take());
                Stage::Slots
            }
            Stage::Slots => Stage::Wholes,
            Stage::Wholes => Stage::Flush,
            Stage::Flush => {
                // Not before: of the copies that were read, the newest pair may have been in the page cache
                // alone, and then the first write would go over the only pair that is durable.
                self.superblock.change(|superblock| superblock.incarnation += 1);
                Stage::Done
            }
            Stage::Done => Stage::Done,
        };
    }

    /// The state that the superblock names; without it we know where the log goes on, and wait for a peer's.
    fn load_own_checkpoint(&mut self, opening: Option<Opening>) {
        let durable = self.superblock.durable();
        let checkpoint = durable.checkpoint;
        let opened = opening
            .and_then(Opening::done)
            .is_some_and(|forest| self.load_forest(forest).is_ok_and(|header| header == checkpoint.header));
        // The state at op 0 has no blocks that a transfer could have overwritten. Nobody could give it to us either.
        let is_first = checkpoint.number == 0;
        self.state_lost = !opened && !is_first;
        if self.state_lost {
            self.mark(Mark::RecoverStateLost);
        }
        self.adopt(checkpoint.header);
    }

    /// Whatever is not blank may be something.
    pub(super) fn traces_of(&self, slot: u32, read: Option<&[u8]>, found: &SlotFound) -> Traces {
        let all = self.config.layout.slot_sectors;
        let place = self.config.place(Zone::Wal).under(self.sealing.as_deref());
        let offset = self.config.layout.slot_offset(slot);
        let mut payload = Vec::new();
        // Zeros were written behind an entry, under seals of their own.
        let mut is_empty = |number: usize, sector: &[u8]| {
            payload.clear();
            let at = offset + (number * SECTOR) as u64;
            let mut opened = || sector::open(place, at, sector, &mut payload) != Found::Corrupt;
            is_zero(sector) || (opened() && is_zero(&payload))
        };
        let sectors = read.map(|bytes| bytes.chunks(SECTOR).enumerate().collect::<Vec<_>>());
        let from_the_end = sectors.unwrap_or_default().into_iter().rev();
        let blank = from_the_end.take_while(|(number, sector)| is_empty(*number, sector)).count() as u32;
        let op = match found {
            SlotFound::Entry { header, .. } => header.op.get(),
            _ => 0,
        };
        // Behind an entry something of an older one may lie.
        let whole = match found {
            SlotFound::Entry { header, .. } => sectors_for(header.size.get() as usize) as u32,
            _ => 0,
        };
        let sectors = all - blank.min(all);
        Traces { sectors, op: if sectors > whole { 0 } else { op }, ..Traces::default() }
    }

    /// Whether all of a slot must be read whose first sector is this: an entry of the log that goes on, or maybe nothing.
    fn is_of_interest(&self, first: &SlotFound) -> bool {
        match first {
            SlotFound::Entry { header, .. } => header.op.get() > self.commit_min(),
            SlotFound::Blank | SlotFound::Torn => true,
            SlotFound::Faulty(_) => false,
        }
    }

    pub(super) fn look_at(&mut self, slot: u32, read: Option<&[u8]>, look: Look) -> SlotFound {
        let Some(bytes) = read else { return SlotFound::Faulty(None) };
        let layout = &self.config.layout;
        let place = self.config.place(Zone::Wal).under(self.sealing.as_deref());
        let found = look(place, layout, layout.slot_offset(slot), bytes, &mut self.entry_scratch);
        match found {
            SlotFound::Entry { header, .. }
                if header.op.get() % u64::from(layout.wal_slots) != u64::from(slot) =>
            {
                SlotFound::Faulty(None)
            }
            found => found,
        }
    }

    /// Read and durable, but not told yet who the shard is.
    pub(super) fn waits_for_members(&self) -> bool {
        let read = self.recovery.as_ref().is_some_and(|recovery| recovery.stage == Stage::Done);
        read && self.superblock.is_settled() && self.members.is_unknown()
    }

    /// All was read and is durable, and so is the new incarnation: decide.
    pub(super) fn finish_recovery(&mut self, effects: &mut Effects) {
        let ready = self.recovery.as_ref().is_some_and(|recovery| recovery.stage == Stage::Done);
        if !ready || !self.superblock.is_settled() || self.members.is_unknown() {
            return;
        }
        let Recovery { found, traces, .. } = self.recovery.take().expect("ready");
        let certain = self.rebuild_log(&found);
        for (slot, traces) in (0..).zip(traces) {
            self.journal.at_mut(slot).traces = traces;
        }
        // It may have acknowledged this as a newer binary: it can't act as if it had not.
        if let Some(head) = self.journal.header(self.journal.head).filter(|head| !self.can_run(head)) {
            let head = *head;
            return self.end_for(&head);
        }
        self.commit_max = self.superblock.durable().commit.max(self.commit_min()).min(self.journal.head);
        self.durable_op = self.journal.base;
        if !certain {
            if self.is_only_voter() {
                return effects.push(Effect::Stop(Fatal::CheckpointLost));
            }
            self.status = Status::RecoveringHead;
            return self.look_for_primary(effects);
        }
        self.begin(effects);
    }

    /// Builds the journal from what the slots hold; false when the head is uncertain.
    fn rebuild_log(&mut self, found: &[SlotFound]) -> bool {
        let superblock = self.superblock.durable();
        let log_view = superblock.log_view;
        let suffix = superblock.suffix.clone();
        self.journal = Journal::new(self.config.layout.wal_slots, &self.executed);
        let mut durable: Vec<Option<EntryHeader>> = vec![None; found.len()];
        for (number, found) in (0_u32..).zip(found) {
            let slot = self.journal.at_mut(number);
            match found {
                SlotFound::Entry { header, .. } => {
                    slot.durable = Some(header.digest());
                    durable[number as usize] = Some(*header);
                }
                SlotFound::Faulty(_) => slot.faulty = true,
                SlotFound::Blank | SlotFound::Torn => {}
            }
        }
        if suffix[0].op.get() > self.journal.base {
            self.journal.install(&suffix, self.journal.base);
        }
        let at = |journal: &Journal, op: u64| {
            durable[journal.slot_of(op) as usize].filter(|header| header.op.get() == op)
        };
        let certain = self.extend_up(&at, log_view);
        self.extend_down(&at);
        let all = self.find_lost_writes(found, suffix[0].op.get());
        self.mark_rows(found, suffix[0].op.get());
        if !certain {
            self.mark(Mark::RecoverCorruptNext);
        }
        if !all {
            self.mark(Mark::RecoverWitnessPastHead);
        }
        all && certain
    }

    /// Which rows of the table above the slots came under.
    fn mark_rows(&mut self, found: &[SlotFound], suffix_head: u64) {
        for (number, found) in (0_u32..).zip(found) {
            let slot = self.journal.at(number);
            let (op, state) = (slot.op, slot.state());
            let row = match (found, state) {
                (SlotFound::Entry { header, .. }, _) if header.op.get() <= self.journal.base => {
                    Some(Mark::RecoverOld)
                }
                _ if op <= self.journal.base && slot.digest.is_some() => None,
                (_, SlotState::Clean) if op > suffix_head => Some(Mark::RecoverAbove),
                (_, SlotState::Clean) => Some(Mark::RecoverLinked),
                (SlotFound::Faulty(_), SlotState::Faulty) if slot.digest.is_some() => {
                    Some(Mark::RecoverFaulty)
                }
                (_, SlotState::Faulty) if slot.digest.is_some() => Some(Mark::RecoverLostWrite),
                (SlotFound::Entry { .. }, SlotState::Reserved) => Some(Mark::RecoverTruncated),
                (_, SlotState::Dirty) => Some(Mark::RecoverDirty),
                _ => None,
            };
            row.into_iter().for_each(|row| self.mark(row));
        }
    }

    /// What was durable here once and is not found was lost by the disk: faulty, not missing (H32). Witnesses are
    /// the superblock and every entry that is surely of our log: linked to it, or made in `log_view`. False when
    /// they saw more than the log that was found.
    fn find_lost_writes(&mut self, found: &[SlotFound], suffix_head: u64) -> bool {
        let superblock = self.superblock.durable();
        let journal = &mut self.journal;
        let mut seen = superblock.witness;
        for found in found {
            let SlotFound::Entry { header, witness } = found else { continue };
            let op = header.op.get();
            let linked = journal.digest(op) == Some(header.digest());
            let ours = op > suffix_head.max(journal.base) && header.view.get() == superblock.log_view;
            if linked || ours {
                seen = seen.max(*witness);
            }
        }
        // An entry of a later view than the log's: that view's log was on its way in as the process ended. A quorum had
        // chosen it, so what it was written over was never committed, nor what came after that; no disk lost them, and
        // nothing about the head is uncertain. (Found by the simulator: a power cut left two of three replicas waiting for
        // each other for ever.)
        let later = found.iter().filter_map(|found| match found {
            SlotFound::Entry { header, .. } if header.view.get() > superblock.log_view => {
                Some(header.op.get())
            }
            _ => None,
        });
        let given_up = later.filter(|op| *op > journal.base).min();
        seen = seen.min(given_up.map_or(u64::MAX, |op| op - 1));
        for op in journal.base + 1..=seen.min(journal.head) {
            let slot = journal.place_mut(op);
            slot.faulty |= slot.digest.is_none() || slot.durable != slot.digest;
        }
        // Past an uncertain head too: what the primary will say was there is not to be nacked then. (Found by the
        // simulator: seed 51274.)
        for op in journal.head + 1..=seen.min(journal.base + journal.slots()) {
            let number = journal.slot_of(op);
            let here = &found[number as usize];
            let kept = matches!(here, SlotFound::Entry { header, .. } if header.op.get() == op);
            journal.at_mut(number).faulty |= !kept;
        }
        seen <= journal.head
    }

    /// Entries above the suffix's head, made in `log_view`. A damaged slot where the next one would lie leaves the
    /// head uncertain.
    fn extend_up(&mut self, at: &dyn Fn(&Journal, u64) -> Option<EntryHeader>, log_view: u64) -> bool {
        let journal = &mut self.journal;
        loop {
            let next = journal.head + 1;
            if !journal.has_room(next) {
                return true;
            }
            let head_digest = journal.digest(journal.head);
            let linked = at(journal, next)
                .filter(|entry| entry.view.get() == log_view && Some(entry.parent) == head_digest);
            if let Some(entry) = linked {
                journal.append(entry, entry.digest());
                continue;
            }
            let faulty = journal.at(journal.slot_of(next)).faulty;
            return !faulty;
        }
    }

    /// Entries below the linked part, as far as the chain reaches.
    fn extend_down(&mut self, at: &dyn Fn(&Journal, u64) -> Option<EntryHeader>) {
        while self.journal.low > self.journal.base + 1 {
            let below = self.journal.low - 1;
            let Some(header) = at(&self.journal, below) else { return };
            if !self.journal.extend_down(header) {
                return;
            }
        }
    }

    /// Takes part again, as what the superblock says; never as the primary that it was (H05), unless nobody else can
    /// have what it had sent and not written. (Found by the simulator: standbys can.)
    pub(super) fn begin(&mut self, effects: &mut Effects) {
        if self.members.get(self.me).is_none() {
            return effects.push(Effect::Stop(Fatal::Removed));
        }
        let first_start = self.incarnation() == 1 && self.members.number == 0;
        let was_primary = self.primary_of(self.view) == self.me;
        let alone = self.is_alone();
        if self.view == self.log_view && (!was_primary || alone || first_start) {
            self.status = Status::Normal;
            if was_primary {
                self.become_primary(effects);
            } else {
                self.mark(Mark::RecoverAsBackup);
                self.become_backup();
            }
        } else {
            let between = self.view != self.log_view;
            self.mark(if between { Mark::RecoverBetweenViews } else { Mark::RecoverWasPrimary });
            self.status = Status::ViewChange;
            self.ask_view_change(self.view + 1, effects);
            self.look_for_primary(effects);
        }
        self.set_scrub_timer();
        // Where everybody stands and what time it is, as early as can be.
        self.on_ping_timer(effects);
    }

    /// Offline: executes the log to its head, whether or not all of it is known to be committed.
    pub(super) fn execute_to_head(&mut self) -> Effects {
        let mut effects = Effects::new();
        self.status = Status::Normal;
        self.suspend_checkpoints();
        self.commit_max = self.journal.head;
        self.turn_ended(self.now, &mut effects);
        effects
    }

    /// Offline: the log above an op, ascending, and whether each entry is whole here.
    pub(super) fn log_above(&self, base: u64) -> impl Iterator<Item = (EntryHeader, Digest, bool)> + '_ {
        (base + 1..=self.journal.head).filter_map(|op| {
            let slot = self.journal.get(op)?;
            Some((slot.header?, slot.digest?, slot.state() == SlotState::Clean))
        })
    }
}
