//! Getting rid of what was erased, within a bound.
//!
//! The one law: **the checkpoint of the interval in which a message was erased names no block that holds its content, and
//! soon after no block at all does.** (When there are many, so many for each checkpoint.) Each work writes the blocks that
//! hold it anew, without it. The work after that begins a *wipe*: zeros are written over every block that is free, because older copies of a message lie
//! wherever merges left them. A wipe takes at most [`WIPE_SHARE`] checkpoints.
//!
//! Only the grid is spoken of here: the log, and what backups hold, have their own bounds.

use alloc::vec::Vec;

use super::work::{Work, judge};
use super::{Forest, STEP_BLOCKS};
use crate::store::grid::block::{self, BlockRef, Kind};
use crate::store::history::Key;
use crate::store::history::job::{Input, Verdict, WorkError};
use crate::store::history::record::Record;
use crate::store::history::run::{Builder, Records};
use crate::wire::entry::Digest;

/// A wipe does at least this part of the grid that is in use in each work,
const WIPE_SHARE: u64 = 64;
/// and at least so many blocks.
const WIPE_LEAST: u64 = 16;
/// The same in a hurry.
const WIPE_SHARE_HURRIED: u64 = 8;
const WIPE_LEAST_HURRIED: u64 = 4096;
/// Checkpoints that hurry: the one that erases, one more if a merge was in the midst of the block, the rest of a wipe that
/// was under way, and a whole one.
pub(super) const HURRY: u64 = 2 * WIPE_SHARE_HURRIED + 3;

/// How far a step got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Erased {
    /// A block was seen to, or an erasure.
    Some,
    /// All of this work were.
    All,
    /// A block is needed.
    Waits,
}

/// Going after one erasure after the other.
#[derive(Debug, Default)]
pub(super) struct Erasing {
    /// How many were seen to.
    at: usize,
    /// Blocks that hold the one at hand, or may.
    blocks: Vec<BlockRef>,
    is_sought: bool,
    /// The last of these, read.
    payload: Option<Vec<u8>>,
}

impl Erasing {
    /// The block that is to be read.
    pub(super) fn wants(&self) -> Option<&BlockRef> {
        self.blocks.last().filter(|_| self.payload.is_none())
    }

    pub(super) fn give(&mut self, reference: &BlockRef, payload: &[u8]) {
        if self.wants() == Some(reference) {
            self.payload = Some(payload.to_vec());
        }
    }
}

impl Forest {
    /// Sees to the next block that holds what was erased.
    pub(super) fn erase_step(&mut self, work: &mut Work) -> Result<Erased, WorkError> {
        let erasing = &mut work.erasing;
        // It takes blocks before it frees any: where they are scarce, merges have to do.
        let affords = self.writer.free.free() >= work.needed + STEP_BLOCKS as u64;
        let pending = self
            .erasures
            .pending
            .get(erasing.at)
            .filter(|_| erasing.at < self.shape.erasures_per_work as usize && affords);
        let Some(key) = pending.copied() else { return Ok(Erased::All) };
        if !erasing.is_sought {
            erasing.is_sought = true;
            erasing.blocks = self.holders(key);
        }
        let Some(reference) = erasing.blocks.last().copied() else {
            // Older copies may lie anywhere, also of what was on its way from block to block.
            self.wipe_again = true;
            // What is in memory becomes part of this checkpoint's run, without its content; unless retention removed it.
            let is_removed = key.seq < self.cuts.first[key.room as usize];
            if is_removed || self.frozen.get(key).is_none() {
                work.erased.push(key);
            }
            *erasing = Erasing { at: erasing.at + 1, ..Erasing::default() };
            return Ok(Erased::Some);
        };
        let Some(payload) = erasing.payload.take() else { return Ok(Erased::Waits) };
        erasing.blocks.pop();
        let block = block::look(&self.shape.grid, reference.address, &payload)?;
        if block.kind != Kind::Records {
            return Err(WorkError::Malformed);
        }
        self.rewrite(&reference, block.body)?;
        Ok(Erased::Some)
    }

    /// Writes a block of messages anew without what was erased: four blocks at most.
    fn rewrite(&mut self, reference: &BlockRef, body: &[u8]) -> Result<(), WorkError> {
        // Nothing is cut here: what retention does is for merges.
        let is_erased = |record: &Record<'_>| judge(&[], &self.erasures.pending, record) == Verdict::Erase;
        if !Records::new(body).any(|record| is_erased(&record)) {
            return Ok(());
        }
        let mut bodies = [Vec::new(), Vec::new()];
        let mut which = 0;
        for record in Records::new(body) {
            let digest;
            let kept = if is_erased(&record) {
                digest = Digest::of(record.content);
                record.to_erased(&digest)
            } else {
                record
            };
            // A short content is shorter than its digest: a full block may become two.
            if bodies[which].len() + kept.size() > self.shape.grid.body_max() {
                which += 1;
            }
            kept.encode(bodies.get_mut(which).ok_or(WorkError::Malformed)?);
        }
        let (bodies, size) = (&bodies[..=which], body.len());
        self.wipe_again = true;
        for level in &mut self.tree.levels {
            let inputs = level.job.iter_mut().flat_map(|job| &mut job.inputs);
            for run in level.runs.iter_mut().chain(inputs.map(|input| &mut input.run)) {
                if run.replace(reference, size, bodies, &mut self.writer)? {
                    return Ok(());
                }
            }
            if let Some(job) = &mut level.job
                && job.output.run.replace(reference, size, bodies, &mut self.writer)?
            {
                job.output = Builder::resume(core::mem::take(&mut job.output.run));
                return Ok(());
            }
        }
        Err(WorkError::Malformed)
    }

    /// The blocks in which this message's content lies: the one from which it is read, and blocks of inputs that a merge
    /// has handled in part.
    fn holders(&self, key: Key) -> Vec<BlockRef> {
        let read = self.tree.find(key).map(|(entry, _)| entry.reference);
        let mut blocks: Vec<BlockRef> = read.into_iter().collect();
        let partly = self.tree.inputs().filter_map(|input| partly_handled(input, key));
        blocks.extend(partly.filter(|reference| read != Some(*reference)));
        blocks
    }

    /// What this work has seen to is done. What a merge left out is not, as long as the block from which it came is in use
    /// for what comes behind it: the next work writes that one anew.
    pub(super) fn settle_erasures(&mut self, work: &mut Work) {
        self.wipe_again |= !work.merged.is_empty();
        work.merged.retain(|key| !self.tree.inputs().any(|input| partly_handled(input, *key).is_some()));
        self.erasures.done.append(&mut work.erased);
        self.erasures.done.append(&mut work.merged);
    }

    /// Before a work's first step: whether a wipe begins. One that is under way is finished first.
    pub(super) fn begin_wipe(&mut self) {
        if self.wipe == 0 && core::mem::take(&mut self.wipe_again) {
            self.wipe = 1;
        }
    }

    /// Blocks that a work wipes at most, of a grid whose blocks were in use up to this one.
    fn wiped_most(&self, end: u64) -> u64 {
        let (share, least) =
            if self.hurries { (WIPE_SHARE_HURRIED, WIPE_LEAST_HURRIED) } else { (WIPE_SHARE, WIPE_LEAST) };
        (end / share).max(least)
    }

    /// Blocks that the work which has just begun will wipe, more or less.
    pub(super) fn wipe_expected(&self) -> u64 {
        let end = self.high_water;
        let free = end.saturating_sub(self.writer.free.used());
        if self.wipe == 0 { 0 } else { self.wiped_most(end).min(free) }
    }

    /// Writes zeros over the next free block; false: enough for this work.
    pub(super) fn wipe_step(&mut self, work: &mut Work) -> bool {
        let free = &self.writer.free;
        // Not only up to the highest in use: a file that shrank inside has old copies beyond.
        let end = self.high_water.max(free.highest());
        let left = free.free().saturating_sub(self.trailer_max(self.writer.made()));
        if self.wipe == 0 || left == 0 || work.wiped >= self.wiped_most(end) {
            return false;
        }
        let next = (self.wipe..=end).find(|address| free.is_free(*address));
        self.wipe = next.map_or(0, |address| address + 1);
        if next.is_none() {
            self.cleared = self.cleared.max(self.wipe_covers);
        }
        if let Some(address) = next {
            work.wiped += 1;
            self.writer.wipe(address);
        }
        next.is_some()
    }
}

/// The block of an input that a merge has handled in part, if this message may lie in it.
fn partly_handled(Input { run, consumed }: &Input, key: Key) -> Option<BlockRef> {
    let entry = run.entries.get(*consumed)?;
    let end = run.entries.get(consumed + 1).map_or(Key::END, |next| next.first);
    (entry.first..end).contains(&key).then_some(entry.reference)
}
