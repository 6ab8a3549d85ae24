//! A merge: some runs become one, a bounded part of it in each interval.
//!
//! The one law: **how far a merge gets in an interval follows from the checkpoint before and the log, never from
//! time.** A job counts the blocks that it consumes; its position (the first key that it has not handled) is part of
//! the checkpoint. Keys before the position are read from its output, the others from its inputs, whose blocks are
//! released as they are consumed: a merge of any size takes hardly any space of its own.

use alloc::vec::Vec;

use super::Key;
use super::record::Record;
use super::run::{Builder, Records, Run};
use crate::store::grid::block::{self, BlockRef, Kind};
use crate::store::grid::writer::Writer;
use crate::store::grid::{GridFull, GridShape};
use crate::wire::codec::Malformed;
use crate::wire::entry::Digest;

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The oldest runs of a level become one of the next level.
    Merge,
    /// A run is written anew without what retention cut off, and takes its own place again: the one of this number
    /// among the runs of its level.
    Sweep { place: u32 },
}

/// A run that is consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    pub run: Run,
    /// Blocks, from the first that the run still has, that are wholly handled and released.
    pub consumed: usize,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub purpose: Purpose,
    /// Number of the checkpoint with which a merge is to end.
    pub due: u64,
    /// Oldest first.
    pub inputs: Vec<Input>,
    /// The first key that was not handled as of the last checkpoint.
    pub position: Key,
    pub output: Builder,
}

/// Blocks beyond its quota that a step may consume to fill its last block.
pub const OVERRUN: usize = 64;
/// Blocks of an input that are read while the one before them is merged: inputs of equal rooms run out of theirs one after
/// the other, and a merge that waited for each of them would take a look at the disk for every block.
const AHEAD: usize = 2;

impl Job {
    /// Blocks that are still to be consumed.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.inputs.iter().map(|input| input.run.entries.len() - input.consumed).sum()
    }

    /// Blocks of the inputs that a merge consumes for checkpoint `number`, so that it ends when it is due.
    #[must_use]
    pub fn quota(&self, number: u64) -> usize {
        let steps = self.due.saturating_sub(number).max(1);
        self.remaining().div_ceil(usize::try_from(steps).unwrap_or(usize::MAX))
    }

    /// After a checkpoint's work: the index forgets what was consumed.
    pub(super) fn prune(&mut self, mut gone: impl FnMut(&BlockRef)) {
        for input in &mut self.inputs {
            input.consumed -= input.run.prune(input.consumed, &mut gone);
        }
    }
}

/// What becomes of a record on its way from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// Retention cut it off.
    Drop,
    /// Retention cut behind it: its chain value stays.
    Anchor,
    /// Its content goes.
    Erase,
}

/// A step of a job: its part of one checkpoint's work.
#[derive(Debug)]
pub struct Step {
    streams: Vec<Stream>,
    /// Buffers of blocks that were used up.
    spare: Vec<Vec<u8>>,
    quota: usize,
    consumed: usize,
    /// Records that were dropped.
    pub dropped: u64,
    /// Records whose content went.
    pub erased: Vec<Key>,
}

/// One input as it is read.
#[derive(Debug, Default)]
struct Stream {
    payload: Vec<u8>,
    /// Where in the body the current record begins; `None`: the block is not here.
    at: Option<usize>,
    /// The key of that record, so that choosing the lowest of all streams reads none of them.
    key: Option<Key>,
    /// The block of this entry.
    entry: usize,
    /// Bodies of the blocks of later entries that came already.
    ahead: Vec<(usize, Vec<u8>)>,
}

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A block was made, and there is more to do.
    More,
    /// Blocks of the inputs are needed: see [`Step::wants`].
    Reads,
    /// The step is done, and its blocks are made. All inputs are used up when the position is [`Key::END`].
    Done { position: Key },
}

/// Why work can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkError {
    Full,
    /// A block has the digest that its referrer says and yet is none of ours: our own bug, on some replica.
    Malformed,
}

impl From<GridFull> for WorkError {
    fn from(_: GridFull) -> Self {
        Self::Full
    }
}

impl From<Malformed> for WorkError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Step {
    /// A step that consumes about `quota` blocks.
    #[must_use]
    pub fn new(job: &Job, quota: usize) -> Self {
        let stream = |input: &Input| Stream { entry: input.consumed, ..Stream::default() };
        Self {
            streams: job.inputs.iter().map(stream).collect(),
            spare: Vec::new(),
            quota,
            consumed: 0,
            dropped: 0,
            erased: Vec::new(),
        }
    }

    /// The blocks without which the step can't go on.
    pub fn wants<'a>(&'a self, job: &'a Job) -> impl Iterator<Item = &'a BlockRef> {
        let missing = self.streams.iter().zip(&job.inputs).filter(|(stream, _)| stream.at.is_none());
        missing
            .filter_map(|(stream, input)| input.run.entries.get(stream.entry).map(|entry| &entry.reference))
    }

    /// The blocks that it will need next, the nearest first: to be given as soon as they are here.
    pub fn ahead<'a>(&'a self, job: &'a Job) -> impl Iterator<Item = &'a BlockRef> {
        (1..=AHEAD).flat_map(move |far| {
            let pairs = self.streams.iter().zip(&job.inputs);
            pairs.filter_map(move |(stream, input)| {
                let entry = input.run.entries.get(stream.entry + far)?;
                (!stream.has_ahead(stream.entry + far)).then_some(&entry.reference)
            })
        })
    }

    /// A block that was wanted, or will be, and was checked.
    pub fn give(
        &mut self,
        job: &Job,
        shape: &GridShape,
        reference: &BlockRef,
        payload: &[u8],
    ) -> Result<(), Malformed> {
        for (stream, input) in self.streams.iter_mut().zip(&job.inputs) {
            let coming = input.run.entries.get(stream.entry..).unwrap_or(&[]).iter().take(1 + AHEAD);
            let Some(far) = coming.map(|entry| &entry.reference).position(|coming| coming == reference)
            else {
                continue;
            };
            let (entry, is_next) = (stream.entry + far, far == 0);
            if if is_next { stream.at.is_some() } else { stream.has_ahead(entry) } {
                continue;
            }
            let block = block::look(shape, reference.address, payload)?;
            if block.kind != Kind::Records {
                return Err(Malformed);
            }
            let mut body = self.spare.pop().unwrap_or_default();
            body.clear();
            body.extend_from_slice(block.body);
            stream.ahead.push((entry, body));
            if is_next {
                stream.begin(job.position, &mut self.spare);
            }
        }
        Ok(())
    }

    /// Goes on until a block is made (two with one of the index; three at the end of the step), or reads are needed.
    pub fn advance(
        &mut self,
        job: &mut Job,
        writer: &mut Writer,
        judge: &dyn Fn(&Record<'_>) -> Verdict,
    ) -> Result<Progress, WorkError> {
        self.finish_blocks(job, writer);
        loop {
            if self.is_at_end(job) {
                job.output.close(writer)?;
                return Ok(Progress::Done { position: self.position(job) });
            }
            if self.wants(job).next().is_some() {
                return Ok(Progress::Reads);
            }
            let Some(stream) = self.lowest() else {
                // Every block is here and none has a record: one that is not used up is none of ours.
                return Err(WorkError::Malformed);
            };
            let record = self.streams[stream].record().ok_or(Malformed)?;
            let (size, verdict) = (record.size(), judge(&record));
            let digest;
            let kept = match verdict {
                Verdict::Keep => Some(record),
                Verdict::Drop => None,
                Verdict::Anchor => Some(record.to_anchor()),
                Verdict::Erase => {
                    digest = Digest::of(record.content);
                    Some(record.to_erased(&digest))
                }
            };
            if let Some(kept) = kept {
                if !job.output.fits(&kept, &writer.shape) {
                    job.output.close_block(writer)?;
                    return Ok(Progress::More);
                }
                job.output.push(&kept);
            }
            let key = record.key();
            self.dropped += u64::from(kept.is_none());
            if verdict == Verdict::Erase {
                self.erased.push(key);
            }
            let stream = &mut self.streams[stream];
            stream.move_to(stream.at.map(|at| at + size));
            if stream.key.is_none() {
                self.finish_blocks(job, writer);
            }
        }
    }

    /// Releases the blocks that are used up.
    fn finish_blocks(&mut self, job: &mut Job, writer: &mut Writer) {
        for (stream, input) in self.streams.iter_mut().zip(&mut job.inputs) {
            while stream.at == Some(stream.payload.len()) {
                writer.release(&input.run.entries[stream.entry].reference);
                stream.entry += 1;
                stream.begin(job.position, &mut self.spare);
                input.consumed += 1;
                self.consumed += 1;
            }
        }
    }

    /// A step ends with a full block of its output where it can, so that merging many small runs makes large blocks.
    fn is_at_end(&self, job: &Job) -> bool {
        let enough = self.consumed >= self.quota && job.output.is_at_boundary();
        enough || self.consumed >= self.quota + OVERRUN || job.remaining() == 0
    }

    /// The stream with the lowest record. All blocks are here.
    fn lowest(&self) -> Option<usize> {
        let keys = self.streams.iter().enumerate().filter_map(|(at, stream)| Some((stream.key?, at)));
        keys.min().map(|(_, at)| at)
    }

    /// The first key that was not handled.
    fn position(&self, job: &Job) -> Key {
        let next = self.streams.iter().zip(&job.inputs).map(|(stream, input)| {
            stream.key.or_else(|| input.run.entries.get(stream.entry).map(|entry| entry.first))
        });
        next.flatten().min().unwrap_or(Key::END)
    }
}

impl Stream {
    fn has_ahead(&self, entry: usize) -> bool {
        self.ahead.iter().any(|(of, _)| *of == entry)
    }

    /// Goes on with the block of its entry, if that is here.
    fn begin(&mut self, position: Key, spare: &mut Vec<Vec<u8>>) {
        let entry = self.entry;
        let Some(at) = self.ahead.iter().position(|(of, _)| *of == entry) else { return self.move_to(None) };
        let (_, body) = self.ahead.swap_remove(at);
        spare.push(core::mem::replace(&mut self.payload, body));
        // What was handled in an earlier step is passed over.
        let handled = Records::new(&self.payload).take_while(|record| record.key() < position);
        self.move_to(Some(handled.map(|record| record.size()).sum()));
    }

    fn move_to(&mut self, at: Option<usize>) {
        self.at = at;
        self.key = self.record().map(|record| record.key());
    }

    fn record(&self) -> Option<Record<'_>> {
        Records::new(&self.payload[self.at?..]).next()
    }
}
