//! Replaces the superblock on disk: one replacement at a time, in two pairs of copies, each flushed.
//!
//! The one law: **what is wanted and what is durable are two things**, and no message that claims something from
//! the superblock leaves before it is in [`Writer::durable`] (H03, H10, I07).

use alloc::vec;
use alloc::vec::Vec;

use crate::io::{DiskOp, Effect, Effects};
use crate::pool::Pool;
use crate::store::superblock::Superblock;

use super::tokens::Waits;

#[derive(Debug)]
pub(super) struct Writer {
    durable: Superblock,
    wanted: Superblock,
    /// They may differ. Spares every turn the comparison of two superblocks.
    changed: bool,
    /// A copy of what is durable has rotted.
    rotten: bool,
    under_way: Option<UnderWay>,
    /// The first copy (0 or 2) of the pair that the next replacement begins with.
    first_pair: usize,
}

#[derive(Debug)]
struct UnderWay {
    next: Superblock,
    /// What its copies hold.
    payload: Vec<u8>,
    /// The first copy of the pair that is being written.
    pair: usize,
    /// It is the replacement's second pair.
    second: bool,
    /// Copies of the pair that are not durable yet.
    missing: usize,
    /// The disk refused one of them: the pair is written again by [`Writer::retry`].
    failed: bool,
}

impl Writer {
    pub(super) fn new(durable: Superblock, first_pair: usize) -> Self {
        Self { wanted: durable.clone(), durable, changed: false, rotten: false, under_way: None, first_pair }
    }

    pub(super) fn durable(&self) -> &Superblock {
        &self.durable
    }

    pub(super) fn wanted(&self) -> &Superblock {
        &self.wanted
    }

    /// Changes what is wanted; [`Self::pump`] gets it going.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Superblock)) {
        change(&mut self.wanted);
        self.changed = true;
        assert!(
            self.wanted.view >= self.durable.view && self.wanted.log_view >= self.durable.log_view,
            "I07"
        );
    }

    /// Whether a copy on the disk is what is durable, or is about to be written in any case.
    pub(super) fn holds(&self, copy: usize, read: Option<&[u8]>) -> bool {
        let mut whole = vec![0; Superblock::COPY];
        self.durable.write_copy_of(&self.durable.payload(), copy, &mut whole);
        !self.is_settled() || read == Some(&whole[..])
    }

    /// Writes what is durable once more, beginning with the first or the second pair of copies.
    pub(super) fn renew(&mut self, second: bool) {
        (self.first_pair, self.rotten) = (if second { 2 } else { 0 }, true);
    }

    /// Starts or continues a replacement. An empty pool delays it to the next turn.
    pub(super) fn pump(&mut self, pool: &Pool, effects: &mut Effects) {
        if self.under_way.is_none() && (core::mem::take(&mut self.rotten) | self.differ()) {
            self.wanted.parent = self.durable.digest();
            self.wanted.sequence = self.durable.sequence + 1;
            self.under_way = Some(UnderWay {
                next: self.wanted.clone(),
                payload: self.wanted.payload(),
                pair: self.first_pair,
                second: false,
                missing: 0,
                failed: false,
            });
        }
        let Some(under_way) = &mut self.under_way else { return };
        if under_way.missing > 0 || under_way.failed || pool.free(Superblock::COPY) < 2 {
            return;
        }
        for copy in under_way.pair..under_way.pair + 2 {
            let Some(mut draft) = pool.draft(Superblock::COPY) else { return };
            draft.resize_to_overwrite(Superblock::COPY);
            under_way.next.write_copy_of(&under_way.payload, copy, draft.bytes_mut());
            under_way.missing += 1;
            let token = Waits::SuperblockWritten { copy: u32::try_from(copy).expect("0 to 3") }.token();
            let offset = Superblock::copy_offset(copy);
            effects.push(Effect::Disk(DiskOp::Write { token, offset, data: draft.seal(), durable: true }));
        }
    }

    /// After a while: writes again what the disk refused.
    pub(super) fn retry(&mut self) {
        if let Some(under_way) = self.under_way.as_mut().filter(|under_way| under_way.missing == 0) {
            under_way.failed = false;
        }
    }

    /// A copy became durable, or the disk refused it. Returns whether this made a new superblock durable.
    pub(super) fn written(&mut self, written: bool, pool: &Pool, effects: &mut Effects) -> bool {
        let Some(under_way) = &mut self.under_way else { return false };
        under_way.missing -= 1;
        under_way.failed |= !written;
        if under_way.missing > 0 || under_way.failed {
            return false;
        }
        if !under_way.second {
            (under_way.pair, under_way.second) = (2 - under_way.pair, true);
            self.pump(pool, effects);
            return false;
        }
        let done = self.under_way.take().expect("checked above").next;
        // What was wanted meanwhile is compared with what is durable now.
        let unchanged = self.wanted == self.durable || self.wanted.sequence == done.sequence;
        assert!(unchanged, "only a replacement changes the sequence");
        self.durable = done;
        self.wanted.sequence = self.durable.sequence;
        self.changed = true;
        self.pump(pool, effects);
        true
    }

    /// Whether everything that is wanted is durable.
    pub(super) fn is_settled(&self) -> bool {
        self.under_way.is_none() && !(self.changed && self.wanted != self.durable)
    }

    /// Whether something is wanted that is not durable.
    fn differ(&mut self) -> bool {
        self.changed = self.changed && self.wanted != self.durable;
        self.changed
    }
}
