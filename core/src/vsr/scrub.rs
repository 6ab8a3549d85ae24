//! Scrubbing: all blocks of the checkpoint are read again and again, so that what rots is repaired before a second copy
//! has rotted too (H34).
//!
//! The one law: **what is repaired is still referred to**: between the read and the peer's answer a merge may have given
//! the address to another block.
//!
//! One block at a time, in order of their addresses, one each [`super::replica::Timeouts::scrub`].

use alloc::vec::Vec;

use super::machine::Machine;
use super::marks::Mark;
use super::replica::{Replica, Timer};
use crate::io::Effects;
use crate::store::grid::block::BlockRef;

/// Blocks whose names are looked up at a time, and anew after each checkpoint: that goes through all references.
const AHEAD: usize = 64;

#[derive(Debug)]
pub(super) struct Scrub {
    /// The next ones, the next of all last.
    ahead: Vec<BlockRef>,
    /// They were referred to as the forest was at this generation.
    generation: u64,
    /// All before this address were read in this cycle.
    next: u64,
    reading: Option<BlockRef>,
    counts: Scrubbed,
}

/// What scrubbing did since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    pub blocks: u64,
    /// Times that all blocks were read.
    pub cycles: u64,
}

impl Scrub {
    pub(super) fn new() -> Self {
        Self { ahead: Vec::new(), generation: 0, next: 1, reading: None, counts: Scrubbed::default() }
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

    /// The next block, unless the last one is still awaited.
    pub(super) fn on_scrub_timer(&mut self, effects: &mut Effects) {
        self.timers.set(Timer::Scrub, self.in_a(self.timeouts.scrub));
        if self.state_lost || self.scrub.reading.is_some() {
            return;
        }
        let Some(reference) = self.next_to_scrub() else { return };
        self.fetch(reference, effects);
        self.scrub.reading = Some(reference).filter(|reference| self.blocks.is_fetched(reference));
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
