//! Scrubbing: all blocks of the checkpoint, all entries of the log and the copies of the superblock are read again and
//! again, so that what rots is repaired before a second copy has rotted too (H30, H34).
//!
//! The one law: **what is repaired is still referred to**: between the read and the peer's answer a merge may have given
//! the address to another block.
//!
//! One block at a time, in order of their addresses; every fourth time a slot of the log instead, and after all slots the
//! superblock. All of it comes by in [`super::replica::Timeouts::scrub_cycle`]: the more there is, the sooner the next is
//! read. Of the log a start looks only at what is newer than the checkpoint, so this is where the rest of it is verified:
//! at once after a start, because a slot of which nothing is known is written whole, however little goes into it.

use alloc::vec::Vec;
use core::time::Duration;

use super::journal::SlotState;
use super::machine::Machine;
use super::marks::Mark;
use super::replica::{Replica, Timer};
use super::tokens::Waits;
use crate::io::{DiskOp, Effects};
use crate::pool::Message;
use crate::store::grid::block::BlockRef;
use crate::store::layout::{SECTOR, SUPERBLOCK_COPIES};
use crate::store::slot::{self, SlotFound};
use crate::store::superblock::Superblock;
use crate::wire::entry::Digest;

/// Blocks whose names are looked up at a time, and anew after each checkpoint: that goes through all references.
const AHEAD: usize = 64;
/// Of so many times one is for the log.
const SHARE: u32 = 4;
/// However little there is to read, the next is read after so long; and after so long however much: 64 MiB a second, in
/// blocks of 64 KiB.
const PACE: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(1)];
/// The next slot, as long as the log was not read since the process began.
const FIRST: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Scrub {
    /// The next ones, the next of all last.
    ahead: Vec<BlockRef>,
    /// They were referred to as the forest was at this generation.
    generation: u64,
    /// All before this address were read in this cycle.
    next: u64,
    reading: Option<BlockRef>,
    /// How often it was time.
    times: u32,
    /// The slot that is looked at next.
    slot: u32,
    /// What the slot that is being read is to hold.
    reading_slot: Option<Expected>,
    /// This slot was not what it must be when it was read: once more, before that is believed.
    doubted: Option<u32>,
    /// Copies of the superblock that are being read, how many of either pair are rotten, and which superblock it was then.
    reading_copies: usize,
    rotten_copies: [u32; 2],
    sequence: u64,
    counts: Scrubbed,
}

/// What a slot of the log is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Entry(Digest),
    /// An entry that nobody needs any more, of which a start looked at the beginning alone.
    Anything,
}

/// What scrubbing did since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    pub blocks: u64,
    /// Entries of the log that were read and are whole.
    pub entries: u64,
    /// Times that all blocks were read.
    pub cycles: u64,
    /// Times that all of the log and the superblock were.
    pub logs: u64,
    /// Blocks, entries and copies of the superblock that were not what they must be, whoever wanted to read them.
    pub rotten: u64,
}

impl Scrub {
    pub(super) fn new() -> Self {
        Self {
            ahead: Vec::new(),
            generation: 0,
            next: 1,
            reading: None,
            times: 0,
            slot: 0,
            reading_slot: None,
            doubted: None,
            reading_copies: 0,
            rotten_copies: [0; 2],
            sequence: 0,
            counts: Scrubbed::default(),
        }
    }
}

impl Scrub {
    /// Another forest took the place of the one whose blocks these are.
    pub(super) fn forget(&mut self) {
        (self.next, self.reading) = (1, None);
        self.ahead.clear();
    }
}

impl<M: Machine> Replica<M> {
    #[must_use]
    pub fn scrubbed(&self) -> Scrubbed {
        self.scrub.counts
    }

    pub(super) fn found_rotten(&mut self, what: Mark) {
        self.mark(what);
        self.scrub.counts.rotten += 1;
    }

    /// Begins, or goes on when it is time.
    pub(super) fn set_scrub_timer(&mut self) {
        let blocks = self.machine.forest().free_set().used();
        let mut pace = pace(self.timeouts.scrub_cycle, blocks, self.config.layout.wal_slots);
        if self.scrub.counts.logs == 0 {
            pace = pace.min(FIRST);
        }
        self.timers.set(Timer::Scrub, self.in_a(pace));
    }

    /// The next block, unless the last one is still awaited.
    pub(super) fn on_scrub_timer(&mut self, effects: &mut Effects) {
        self.set_scrub_timer();
        if self.state_lost || self.scrub.reading.is_some() {
            return;
        }
        self.scrub.times = (self.scrub.times + 1) % SHARE;
        if self.scrub.times == 0 || self.scrub.counts.logs == 0 {
            return self.scrub_log(effects);
        }
        let Some(reference) = self.next_to_scrub() else { return };
        self.fetch(reference, effects);
        if self.blocks.is_fetched(&reference) {
            self.scrub.reading = Some(reference);
        } else {
            // No room for it: the next time.
            self.scrub.next = reference.address;
            self.scrub.ahead.push(reference);
        }
    }

    fn next_to_scrub(&mut self) -> Option<BlockRef> {
        let forest = self.machine.forest();
        if self.scrub.ahead.is_empty() || self.scrub.generation != forest.generation() {
            forest.references_from(self.scrub.next, AHEAD, &mut self.scrub.ahead);
            self.scrub.ahead.reverse();
            self.scrub.generation = forest.generation();
        }
        let Some(reference) = self.scrub.ahead.pop() else {
            self.scrub.counts.cycles += u64::from(self.scrub.next > 1);
            self.scrub.next = 1;
            return None;
        };
        self.scrub.next = reference.address + 1;
        // What is on its way to the disk has nothing to be read yet.
        Some(reference).filter(|reference| forest.under_way(reference).is_none())
    }

    /// The next slot whose entry is of our log: it is read if it is whole here, as far as is known; asked for if it is not.
    /// Or one of which nothing is known.
    fn scrub_log(&mut self, effects: &mut Effects) {
        if self.scrub.reading_slot.is_some() || self.scrub.reading_copies > 0 {
            return;
        }
        let (low, done) = (self.journal.low, self.commit_min());
        for number in self.scrub.slot..self.config.layout.wal_slots {
            let slot = self.journal.at(number);
            if slot.writing.is_some() {
                continue;
            }
            let is_unknown = slot.traces.is_unknown(self.config.layout.slot_sectors);
            let of_our_log = slot.digest.filter(|_| slot.header.is_some() && (low..=done).contains(&slot.op));
            let (op, state) = (slot.op, slot.state());
            self.scrub.slot = number + 1;
            match (of_our_log, state) {
                (Some(digest), SlotState::Clean) => {
                    return self.read_to_scrub(number, Expected::Entry(digest), effects);
                }
                (Some(digest), SlotState::Faulty) if !self.is_alone() => {
                    return self.ask_for_entry(op, &digest, effects);
                }
                (None, _) if is_unknown => return self.read_to_scrub(number, Expected::Anything, effects),
                _ => {}
            }
        }
        self.scrub.slot = 0;
        self.scrub.counts.logs += 1;
        self.read_superblock_to_scrub(effects);
    }

    fn read_superblock_to_scrub(&mut self, effects: &mut Effects) {
        self.scrub.sequence = self.superblock.durable().sequence;
        self.scrub.rotten_copies = [0; 2];
        for copy in 0..SUPERBLOCK_COPIES {
            let Some(mut into) = self.pool.draft(Superblock::COPY) else { return };
            into.resize_to_overwrite(Superblock::COPY);
            let token = Waits::SuperblockScrubbed { copy: u32::try_from(copy).expect("0 to 3") }.token();
            Self::submit(effects, DiskOp::Read { token, offset: Superblock::copy_offset(copy), into });
            self.scrub.reading_copies += 1;
        }
    }

    /// A copy that is not what it is to be is written anew, and with it all of them: the worse pair first, so that the
    /// other one is there meanwhile.
    pub(super) fn on_superblock_scrubbed(&mut self, copy: u32, read: Option<&Message>) {
        self.scrub.reading_copies -= 1;
        let is_same = self.scrub.sequence == self.superblock.durable().sequence;
        if is_same && !self.superblock.holds(copy as usize, read.map(|message| &message[..])) {
            self.found_rotten(Mark::SuperblockRotten);
            self.scrub.rotten_copies[copy as usize / 2] += 1;
        }
        let [first, second] = self.scrub.rotten_copies;
        if self.scrub.reading_copies == 0 && first + second > 0 {
            self.superblock.renew(second > first);
        }
    }

    fn read_to_scrub(&mut self, slot: u32, expected: Expected, effects: &mut Effects) {
        let bytes = self.config.layout.slot_sectors as usize * SECTOR;
        let Some(mut into) = self.pool.draft(bytes) else {
            // No buffer for it: the next time.
            self.scrub.slot = slot;
            return;
        };
        into.resize_to_overwrite(bytes);
        let (token, offset) = (Waits::SlotScrubbed { slot }.token(), self.config.layout.slot_offset(slot));
        Self::submit(effects, DiskOp::Read { token, offset, into });
        self.scrub.reading_slot = Some(expected);
    }

    pub(super) fn on_slot_scrubbed(&mut self, number: u32, read: Option<&Message>, effects: &mut Effects) {
        let Some(expected) = self.scrub.reading_slot.take() else { return };
        let is_second = self.scrub.doubted.take() == Some(number);
        let slot = self.journal.at(number);
        let overtaken = match expected {
            Expected::Entry(digest) => slot.durable != Some(digest),
            Expected::Anything => !slot.traces.is_unknown(self.config.layout.slot_sectors),
        };
        if slot.writing.is_some() || overtaken {
            return self.mark(Mark::ScrubOvertaken);
        }
        let bytes = read.map(|message| &message[..]);
        let found = self.look_at(number, bytes, slot::examine);
        let is_here = match (&found, expected) {
            (SlotFound::Entry { header, .. }, Expected::Entry(digest)) => header.digest() == digest,
            // A whole entry says by the address in its seals that the read did not go astray.
            (SlotFound::Entry { .. }, Expected::Anything) => true,
            // Nobody needs it.
            (_, Expected::Anything) => return,
            _ => false,
        };
        if is_here {
            self.scrub.counts.entries += 1;
            // Who wrote the slot since it began knows better; a start did not look.
            if self.journal.at(number).traces.op == 0 {
                self.journal.at_mut(number).traces = self.traces_of(number, bytes, &found);
            }
            return;
        }
        if !is_second {
            // A read may be refused or go astray.
            self.scrub.doubted = Some(number);
            return self.read_to_scrub(number, expected, effects);
        }
        self.found_rotten(Mark::EntryRotten);
        let slot = self.journal.at_mut(number);
        (slot.durable, slot.faulty) = (None, true);
        let (op, digest) = (slot.op, slot.digest);
        if let Some(digest) = digest.filter(|_| !self.is_alone()) {
            self.ask_for_entry(op, &digest, effects);
        }
    }

    /// The block came, from whom ever, or nobody has it.
    pub(super) fn scrub_turn(&mut self, effects: &mut Effects) {
        let Some(reference) = self.scrub.reading else { return };
        if self.blocks.is_here(&reference) {
            self.scrub.counts.blocks += 1;
            let is_referred_to = self.scrub.generation == self.machine.forest().generation();
            if is_referred_to && !self.state_lost {
                let payload = self.take_here(&reference, effects);
                payload.into_iter().for_each(|payload| self.blocks.recycle(payload));
            } else {
                self.mark(Mark::ScrubOvertaken);
            }
            self.scrub.reading = None;
        } else if !self.blocks.is_fetched(&reference) || self.blocks.is_lost(&reference) {
            self.scrub.reading = None;
        }
    }
}

/// The time between two looks, so that blocks and log are all read within a cycle, with a quarter of it to spare: what is
/// made meanwhile is read too, and some looks come while the last one is still awaited.
fn pace(cycle: Duration, blocks: u64, slots: u32) -> Duration {
    let share = u64::from(SHARE);
    // The superblock is one look, and so is the end of each list.
    let looks = ((blocks + 1) * share / (share - 1)).max((u64::from(slots) + 2) * share);
    let looks = u32::try_from(looks).unwrap_or(u32::MAX);
    (cycle / looks * 3 / 4).clamp(PACE[0], PACE[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h30_all_is_read_within_a_cycle_whatever_there_is_more_of() {
        let day = Duration::from_secs(86_400);
        for (blocks, slots) in [(0, 64), (80_000, 1_024), (2_000, 1_024), (30_000_000, 1_024), (5, 100_000)] {
            let pace = pace(day, blocks, slots);
            assert!(
                pace.as_secs_f64() * (blocks as f64 * 4.0 / 3.0) < 86_400.0,
                "{blocks} {slots}: {pace:?}"
            );
            assert!(pace.as_secs_f64() * (f64::from(slots) * 4.0) < 86_400.0, "{blocks} {slots}: {pace:?}");
        }
        assert_eq!(pace(day, 0, 64), PACE[1]);
        assert_eq!(pace(Duration::ZERO, u64::from(u32::MAX), 64), PACE[0]);
    }
}
