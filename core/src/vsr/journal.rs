//! The log in memory: which entries there are, which of them are durable here.
//!
//! The one law: **headers `low..=head` are known and linked by digest**; nothing else is believed. An op at or
//! below `base` (our durable checkpoint) may be overwritten; an op above `base + slots` has no place yet.
//!
//! State of a slot, as `docs/protocol.md` has it: *reserved* (no entry known), *dirty* (known, not durable here),
//! *clean* (durable here), *faulty* (was here, is damaged). It is derived, never stored, so it can't be stale.

use alloc::vec::Vec;

use crate::pool::Message;
use crate::wire::entry::{Digest, EntryHeader};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    Reserved,
    Dirty,
    Clean,
    Faulty,
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) op: u64,
    /// What the entry must be; known before its header when the entry above it is.
    pub(super) digest: Option<Digest>,
    pub(super) header: Option<EntryHeader>,
    /// The entry that lies on disk here, whole and flushed, whether or not it is still the right one.
    pub(super) durable: Option<Digest>,
    /// The entry that a write in flight will leave here. One write per slot at a time.
    pub(super) writing: Option<Digest>,
    /// The disk has something here that can't be read: it may have been acknowledged (H27).
    pub(super) faulty: bool,
    /// The whole entry, while somebody may want it soon.
    pub(super) entry: Option<Message>,
    pub(super) traces: Traces,
}

/// What lies in a slot on the disk, whatever it is worth: an entry that is written over it leaves nothing of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traces {
    /// Sectors from the first on that may hold something.
    pub(super) sectors: u32,
    /// Those that the write in flight fills with its entry.
    pub(super) writing: u32,
    /// The op of the oldest entry of which something may be there; zero: not known.
    pub(super) op: u64,
    pub(super) writing_op: u64,
}

impl Traces {
    /// Of a slot that was not looked at: anything may be anywhere.
    pub(super) fn unknown(sectors: u32) -> Self {
        Self { sectors, ..Self::default() }
    }

    pub(super) fn is_unknown(&self, sectors: u32) -> bool {
        self.sectors == sectors && self.op == 0
    }

    /// An entry of so many sectors is to be written. Says how many are: nothing of what lay there stays behind it. Those
    /// beyond the entry are zeros, sealed like it, and nobody looks at them.
    pub(super) fn begin(&mut self, op: u64, sectors: usize) -> usize {
        (self.writing, self.writing_op) = (sectors as u32, op);
        sectors.max(self.sectors as usize)
    }

    /// A write ended.
    pub(super) fn written(&mut self, written: bool) {
        if written {
            (self.sectors, self.op) = (self.writing, self.writing_op);
        } else {
            self.sectors = self.sectors.max(self.writing);
        }
    }
}

#[derive(Debug)]
pub(super) struct Journal {
    slots: Vec<Slot>,
    pub(super) head: u64,
    pub(super) low: u64,
    pub(super) base: u64,
}

impl Slot {
    pub(super) fn state(&self) -> SlotState {
        match self.digest {
            Some(digest) if self.durable == Some(digest) => SlotState::Clean,
            _ if self.faulty => SlotState::Faulty,
            Some(_) => SlotState::Dirty,
            None => SlotState::Reserved,
        }
    }
}

impl Journal {
    /// A journal whose log is one entry: `root`, which is durable as (part of) the checkpoint.
    pub(super) fn new(slots: u32, root: &EntryHeader) -> Self {
        let op = root.op.get();
        let slots = (0..slots).map(|_| Slot::default()).collect();
        let mut journal = Self { slots, head: op, low: op, base: op };
        journal.set_root(root);
        journal
    }

    fn set_root(&mut self, root: &EntryHeader) {
        let digest = root.digest();
        let slot = self.place_mut(root.op.get());
        (slot.header, slot.digest, slot.entry) = (Some(*root), Some(digest), None);
    }

    pub(super) fn slots(&self) -> u64 {
        self.slots.len() as u64
    }

    pub(super) fn slot_of(&self, op: u64) -> u32 {
        u32::try_from(op % self.slots()).expect("there are less than 2^32 slots")
    }

    pub(super) fn at(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    /// The slot that holds this op, if it does.
    pub(super) fn get(&self, op: u64) -> Option<&Slot> {
        let slot = self.at(self.slot_of(op));
        (slot.op == op).then_some(slot)
    }

    pub(super) fn get_mut(&mut self, op: u64) -> Option<&mut Slot> {
        let slot = self.slot_of(op);
        let slot = self.at_mut(slot);
        (slot.op == op).then_some(slot)
    }

    /// The slot for this op, emptied if it held another one.
    pub(super) fn place_mut(&mut self, op: u64) -> &mut Slot {
        let slot = self.slot_of(op);
        let slot = self.at_mut(slot);
        if slot.op != op {
            let (durable, writing, faulty) = (slot.durable.take(), slot.writing.take(), slot.faulty);
            *slot = Slot { op, durable, writing, faulty, traces: slot.traces, ..Slot::default() };
        }
        slot
    }

    /// Of no entry up to this op the disk holds anything in the log.
    pub(super) fn cleared(&self) -> u64 {
        let filled = self.slots.iter().filter(|slot| slot.traces.sectors > 0);
        filled.map(|slot| slot.traces.op.saturating_sub(1)).min().unwrap_or(0)
    }

    /// Whether an op has a place: everything it would overwrite is checkpointed.
    pub(super) fn has_room(&self, op: u64) -> bool {
        op > self.base && op <= self.base + self.slots()
    }

    /// The header of an op in the linked part of the log.
    pub(super) fn header(&self, op: u64) -> Option<&EntryHeader> {
        if op < self.low || op > self.head {
            return None;
        }
        self.get(op)?.header.as_ref()
    }

    pub(super) fn digest(&self, op: u64) -> Option<Digest> {
        self.header(op)?;
        self.get(op)?.digest
    }

    /// Appends a header that links to the head. The caller checked that it has room.
    pub(super) fn append(&mut self, header: EntryHeader, digest: Digest) {
        let op = header.op.get();
        assert!(op == self.head + 1 && self.has_room(op), "op {op} on head {} base {}", self.head, self.base);
        assert_eq!(Some(header.parent), self.digest(self.head), "the chain is never broken (I09)");
        self.know(header, digest);
        self.head = op;
        self.low = self.low.max((op + 1).saturating_sub(self.slots()));
    }

    /// Notes what an op's entry is.
    fn know(&mut self, header: EntryHeader, digest: Digest) {
        let slot = self.place_mut(header.op.get());
        if slot.digest != Some(digest) {
            slot.entry = None;
        }
        (slot.header, slot.digest) = (Some(header), Some(digest));
    }

    /// Links a header below the lowest known one. Refused unless it is the very one that the chain asks for.
    pub(super) fn extend_down(&mut self, header: EntryHeader) -> bool {
        let Some(parent) = self.header(self.low).map(|lowest| lowest.parent) else { return false };
        let digest = header.digest();
        let op = header.op.get();
        if op + 1 != self.low || digest != parent || !self.has_room(op) {
            return false;
        }
        self.know(header, digest);
        self.low = op;
        self.relink();
        true
    }

    /// Goes on downwards along headers that are known already, as far as they link. Otherwise a log that a new view
    /// has cut off from what is below it never counts as durable, though all of it is here: what was executed is
    /// not asked for again.
    fn relink(&mut self) {
        while let Some(below) = self.low.checked_sub(1).filter(|below| *below >= self.base) {
            let parent = self.header(self.low).map(|lowest| lowest.parent);
            let links = |slot: &Slot| slot.header.is_some() && slot.digest == parent;
            if !self.get(below).is_some_and(links) {
                return;
            }
            self.low = below;
        }
    }

    /// Makes `suffix` (descending) the newest part of the log: what is above it is forgotten, what is below it
    /// stays when it links, and is forgotten above `committed` when it does not (H06, H14).
    /// What lies on disk is remembered, so that a header which comes again finds its entry.
    pub(super) fn install(&mut self, suffix: &[EntryHeader], committed: u64) {
        let (first, last) = (suffix[0], suffix[suffix.len() - 1]);
        let (head, lowest) = (first.op.get(), last.op.get());
        let links =
            lowest > self.low && lowest <= self.head + 1 && self.digest(lowest - 1) == Some(last.parent);
        for op in self.low..=self.head {
            if op > head || op >= lowest || (!links && op > committed) {
                self.forget_unless(op, suffix);
            }
        }
        let base = self.base;
        for header in suffix.iter().filter(|header| header.op.get() > base) {
            self.know(*header, header.digest());
        }
        self.head = head;
        if !links {
            let base_known = self.get(self.base).is_some_and(|slot| slot.header.is_some());
            self.low = lowest.max(if base_known { self.base } else { self.base + 1 });
        }
        self.low = self.low.max((head + 1).saturating_sub(self.slots()));
    }

    fn forget_unless(&mut self, op: u64, suffix: &[EntryHeader]) {
        let kept = suffix.iter().find(|header| header.op.get() == op).map(EntryHeader::digest);
        let Some(slot) = self.get_mut(op) else { return };
        if kept.is_none() || slot.digest != kept {
            (slot.header, slot.digest, slot.entry) = (None, None, None);
        }
    }

    /// A checkpoint came from a peer: the log goes on beyond it, or begins anew with its entry. What lies above may have
    /// been acknowledged here, and stays unless it is of another log (H36), also where headers in between are missing:
    /// whoever forgets it votes as if it had never been.
    pub(super) fn restart_at(&mut self, root: &EntryHeader) {
        let (op, digest) = (root.op.get(), root.digest());
        self.base = op;
        let goes_on = if op >= self.low {
            self.digest(op) == Some(digest)
        } else {
            self.low > op + 1 || self.header(self.low).is_some_and(|lowest| lowest.parent == digest)
        };
        if !goes_on {
            for slot in &mut self.slots {
                (slot.header, slot.digest, slot.entry) = (None, None, None);
            }
            self.set_root(root);
            (self.head, self.low) = (op, op);
        }
    }

    /// The newest headers, descending, at most `max`, none below the linked part.
    pub(super) fn suffix(&self, max: usize) -> Vec<EntryHeader> {
        (self.low..=self.head).rev().take(max).map_while(|op| self.header(op).copied()).collect()
    }

    /// The highest op up to which everything above `from` is durable here.
    pub(super) fn durable_through(&self, from: u64) -> u64 {
        let mut op = from;
        while op < self.head && self.get(op + 1).is_some_and(|slot| slot.state() == SlotState::Clean) {
            op += 1;
        }
        op
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use zerocopy::FromZeros as _;

    use super::*;

    /// Linked headers of ops `0..=head`.
    fn log(head: u64) -> Vec<EntryHeader> {
        let mut log = vec![EntryHeader::new_zeroed()];
        for op in 1..=head {
            let mut header = EntryHeader::new_zeroed();
            (header.op, header.parent) = (op.into(), log[log.len() - 1].digest());
            log.push(header);
        }
        log
    }

    /// A journal that knows of `log` what is above `low`, and nothing below.
    fn knows_above(log: &[EntryHeader], low: usize) -> Journal {
        let mut journal = Journal::new(64, &log[0]);
        let suffix: Vec<EntryHeader> = log[low..].iter().rev().copied().collect();
        journal.install(&suffix, 0);
        journal
    }

    #[test]
    fn nothing_is_known_of_a_slot_that_was_not_looked_at_and_of_no_other() {
        assert!(Traces::unknown(8).is_unknown(8));
        assert!(!Traces::default().is_unknown(8), "a blank slot is known to be blank");
        assert!(!Traces { sectors: 8, op: 5, ..Traces::default() }.is_unknown(8), "an entry fills it");
    }

    /// What was written over counts no more; what is empty never did; of a slot that was not looked at nothing is known.
    #[test]
    fn cleared_is_what_lies_before_the_oldest_entry_in_any_slot() {
        let mut journal = Journal::new(4, &log(0)[0]);
        assert_eq!(journal.cleared(), 0, "nothing is there");
        for op in 5..=8_u64 {
            let traces = &mut journal.at_mut((op % 4) as u32).traces;
            assert_eq!(traces.begin(op, 1), 1);
            traces.written(true);
        }
        assert_eq!(journal.cleared(), 4);
        journal.at_mut(0).traces = Traces::unknown(2);
        assert_eq!(journal.cleared(), 0);
    }

    #[test]
    fn h36_a_checkpoint_below_the_known_part_of_the_log_costs_none_of_it() {
        let log = log(29);
        for low in [12, 11, 10, 9] {
            let mut journal = knows_above(&log, low);
            journal.restart_at(&log[10]);
            assert_eq!((journal.base, journal.head), (10, 29), "low {low}");
            assert_eq!(journal.digest(29), Some(log[29].digest()));
        }
    }

    /// A checkpoint lies below what is known of the log; then a suffix brings all that lies between.
    #[test]
    fn a_suffix_that_begins_right_above_the_checkpoint_is_known_as_a_whole() {
        let log = log(20);
        let mut journal = knows_above(&log, 10);
        journal.restart_at(&log[4]);
        let suffix: Vec<EntryHeader> = log[5..].iter().rev().copied().collect();
        journal.install(&suffix, 4);
        assert_eq!((journal.base, journal.low, journal.head), (4, 5, 20));
        assert_eq!(journal.header(5).map(|header| header.op.get()), Some(5));
    }

    #[test]
    fn a_checkpoint_of_another_log_or_beyond_the_head_begins_it_anew() {
        let log = log(29);
        let mut other = log[10];
        other.timestamp = 1.into();
        for low in [11, 10] {
            let mut journal = knows_above(&log, low);
            journal.restart_at(&other);
            assert_eq!((journal.base, journal.low, journal.head), (10, 10, 10), "low {low}");
        }
        let mut journal = knows_above(&log[..20], 5);
        journal.restart_at(&log[25]);
        assert_eq!((journal.base, journal.low, journal.head), (25, 25, 25));
    }
}
