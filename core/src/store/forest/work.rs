//! The work of one checkpoint, step by step.
//!
//! The one law: **blocks are made in one order: erasures, run, merges by level, pages, wiped blocks,
//! manifest, free set, root.** Addresses
//! follow from that order. A step that lacks a block to read waits for it and nothing overtakes it.
//!
//! Readers see the runs of the checkpoint before until all blocks of the new ones are written (`Settle`).

use alloc::vec::Vec;

use super::erasure::{Erased, Erasing};
use super::{Checkpoint, Forest, STEP_BLOCKS, manifest};
use crate::store::grid::block::{BlockRef, Kind};
use crate::store::history::Key;
use crate::store::history::job::{Job, Progress, Purpose, Step, Verdict, WorkError};
use crate::store::history::memtable::Cursor;
use crate::store::history::record::{Record, State};
use crate::store::history::run::Builder;
use crate::store::history::tree::Tree;
use crate::wire::codec::Malformed;
use crate::wire::entry::Digest;

/// How a checkpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No work is under way: [`Forest::newest`] is complete, or nothing was frozen yet.
    Complete,
    /// A checkpoint is due and its work has not begun: see [`Forest::begin`].
    Due,
    /// There is more to do, now.
    More,
    /// Blocks are to be read: [`Forest::wanted`].
    Reads,
    /// Writes have to end.
    Writes,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Work {
    stage: Stage,
    number: u64,
    /// Blocks that it takes at most, without erasing and wiping.
    pub(super) needed: u64,
    pub(super) erasing: Erasing,
    /// The run of the interval.
    run: Builder,
    cursor: Cursor,
    /// The step of the job of the level that is being merged.
    step: Option<Step>,
    /// How far each level's job got.
    positions: Vec<Option<Key>>,
    dropped: u64,
    /// Erasures that were done, and blocks that were wiped.
    pub(super) erased: Vec<Key>,
    pub(super) wiped: u64,
    /// What merges did not take over.
    pub(super) merged: Vec<Key>,
    /// Bytes that are being cut into blocks, and how many of them were.
    stream: Vec<u8>,
    cut: usize,
    manifest: Vec<BlockRef>,
    manifest_size: u64,
    free_set: Vec<BlockRef>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Erase,
    Run,
    Merge {
        level: usize,
    },
    Pages,
    Wipe,
    /// Waits until all of that is written.
    Settle,
    Manifest,
    FreeSet,
    Root,
    /// Waits until the root is written.
    Finish {
        root: BlockRef,
    },
}

/// Blocks that a sweep consumes for a checkpoint whose interval brought so many: enough to keep up with retention when
/// one record in four is dead.
pub(super) fn sweep_pace(brought: u64) -> u64 {
    4 * (brought + 1)
}

impl Work {
    pub(super) fn new(tree: &Tree, number: u64, needed: u64) -> Self {
        Self {
            stage: Stage::Erase,
            number,
            needed,
            erasing: Erasing::default(),
            run: Builder::default(),
            cursor: Cursor::default(),
            step: None,
            positions: tree.levels.iter().map(|_| None).collect(),
            dropped: 0,
            erased: Vec::new(),
            merged: Vec::new(),
            wiped: 0,
            stream: Vec::new(),
            cut: 0,
            manifest: Vec::new(),
            manifest_size: 0,
            free_set: Vec::new(),
        }
    }
}

/// What becomes of a record, by what retention and erasure said as of the checkpoint's op.
pub(super) fn judge(cuts: &[u64], pending: &[Key], record: &Record<'_>) -> Verdict {
    let first = cuts.get(record.room as usize).copied().unwrap_or(1);
    if record.seq + 1 < first {
        Verdict::Drop
    } else if record.seq < first {
        Verdict::Anchor
    } else if record.state == State::Whole && pending.binary_search(&record.key()).is_ok() {
        Verdict::Erase
    } else {
        Verdict::Keep
    }
}

impl Forest {
    /// Does up to `steps` steps of the checkpoint's work, each of which makes a block or two (H39: how many at a time
    /// changes nothing).
    pub fn advance(&mut self, steps: u32) -> Result<Standing, WorkError> {
        for _ in 0..steps {
            let standing = self.step()?;
            if standing != Standing::More {
                return Ok(standing);
            }
        }
        Ok(if self.is_complete() { Standing::Complete } else { Standing::More })
    }

    /// The blocks without which the work can't go on: to be read, [checked](crate::store::grid::block::open) and
    /// [given](Self::give). Those that are still under way need not be read: the [writer](Self::writer) has them.
    pub fn wanted(&self) -> impl Iterator<Item = &BlockRef> {
        let erasing = self.work.as_ref().and_then(|work| work.erasing.wants());
        self.merging().into_iter().flat_map(|(step, job)| step.wants(job)).chain(erasing)
    }

    /// The blocks that the work will need next, the nearest first: they may be given before they are wanted, and then it
    /// need not wait for them.
    pub fn ahead(&self) -> impl Iterator<Item = &BlockRef> {
        self.merging().into_iter().flat_map(|(step, job)| step.ahead(job))
    }

    fn merging(&self) -> Option<(&Step, &Job)> {
        let work = self.work.as_ref()?;
        let Stage::Merge { level } = work.stage else { return None };
        Some((work.step.as_ref()?, self.tree.levels[level].job.as_ref()?))
    }

    /// A block that was wanted, or will be. Its digest was checked.
    pub fn give(&mut self, reference: &BlockRef, payload: &[u8]) -> Result<(), Malformed> {
        if let Some(work) = &mut self.work {
            work.erasing.give(reference, payload);
        }
        if let Some(work) = &mut self.work
            && let Stage::Merge { level } = work.stage
            && let (Some(step), Some(job)) = (&mut work.step, &self.tree.levels[level].job)
        {
            step.give(job, &self.shape.grid, reference, payload)?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Standing, WorkError> {
        let Some(mut work) = self.work.take() else {
            return Ok(if self.due { Standing::Due } else { Standing::Complete });
        };
        let waits = match work.stage {
            Stage::Settle | Stage::Finish { .. } => !self.writer.is_idle(),
            _ => !self.writer.has_room(STEP_BLOCKS),
        };
        let standing = if waits { Ok(Standing::Writes) } else { self.step_of(&mut work) };
        if standing != Ok(Standing::Complete) {
            self.work = Some(work);
        }
        standing
    }

    fn step_of(&mut self, work: &mut Work) -> Result<Standing, WorkError> {
        match work.stage {
            Stage::Erase => match self.erase_step(work)? {
                Erased::Some => {}
                Erased::All => work.stage = Stage::Run,
                Erased::Waits => return Ok(Standing::Reads),
            },
            Stage::Run => self.run_step(work)?,
            Stage::Merge { level } => return self.merge_step(work, level),
            Stage::Pages if self.log.is_done() => work.stage = Stage::Wipe,
            Stage::Pages => self.log.advance(&mut self.pages, &mut self.writer)?,
            Stage::Wipe => {
                if !self.wipe_step(work) {
                    work.stage = Stage::Settle;
                }
            }
            Stage::Settle => self.settle(work),
            Stage::Manifest => {
                if self.cut_stream(work, Kind::Manifest)? {
                    work.stream.clear();
                    self.writer.free.encode(&mut work.stream);
                    work.stage = Stage::FreeSet;
                }
            }
            Stage::FreeSet => {
                if self.cut_stream(work, Kind::FreeSet)? {
                    work.stage = Stage::Root;
                }
            }
            Stage::Root => self.make_root(work)?,
            Stage::Finish { root } => {
                self.trailer.clear();
                self.trailer.extend(work.manifest.iter().chain(&work.free_set).chain([&root]));
                self.newest = Some(Checkpoint { number: self.number, op: self.op, root });
                return Ok(Standing::Complete);
            }
        }
        Ok(Standing::More)
    }

    /// Makes the next block of the interval's run.
    fn run_step(&mut self, work: &mut Work) -> Result<(), WorkError> {
        loop {
            let mut cursor = work.cursor;
            let Some(record) = self.frozen.next(&mut cursor) else {
                work.run.close(&mut self.writer)?;
                work.stage = Stage::Merge { level: 0 };
                return Ok(());
            };
            let verdict = judge(&self.cuts.first, &self.erasures.pending, &record);
            let digest;
            let kept = match verdict {
                Verdict::Keep => record,
                Verdict::Anchor => record.to_anchor(),
                Verdict::Erase => {
                    digest = Digest::of(record.content);
                    record.to_erased(&digest)
                }
                Verdict::Drop => {
                    work.dropped += 1;
                    work.cursor = cursor;
                    continue;
                }
            };
            if !work.run.fits(&kept, &self.shape.grid) {
                work.run.close_block(&mut self.writer)?;
                return Ok(());
            }
            work.run.push(&kept);
            work.cursor = cursor;
            if verdict == Verdict::Erase {
                work.erased.push(kept.key());
            }
        }
    }

    fn merge_step(&mut self, work: &mut Work, level: usize) -> Result<Standing, WorkError> {
        let Some(at) = self.tree.levels.get_mut(level) else {
            work.stage = Stage::Pages;
            return Ok(Standing::More);
        };
        let Some(job) = &mut at.job else {
            work.stage = Stage::Merge { level: level + 1 };
            return Ok(Standing::More);
        };
        let brought = work.run.run.entries.len();
        let step = work.step.get_or_insert_with(|| Step::new(job, quota(job, work.number, brought)));
        let (cuts, pending) = (&self.cuts.first, &self.erasures.pending);
        let progress = step.advance(job, &mut self.writer, &|record| judge(cuts, pending, record))?;
        match progress {
            Progress::More => Ok(Standing::More),
            Progress::Reads => Ok(Standing::Reads),
            Progress::Done { position } => {
                work.positions[level] = Some(position);
                work.dropped += step.dropped;
                work.merged.append(&mut step.erased);
                work.step = None;
                work.stage = Stage::Merge { level: level + 1 };
                Ok(Standing::More)
            }
        }
    }

    /// All blocks of runs and pages are written: from now on they are what is read, and what they replace is released.
    fn settle(&mut self, work: &mut Work) {
        let mut run = core::mem::take(&mut work.run).run;
        run.totals.filtered = self.number;
        let run = (!run.entries.is_empty()).then_some(run);
        self.tree.install(run, &work.positions, work.dropped, &mut self.writer);
        self.log.install(&mut self.writer);
        self.generation += 1;
        self.settle_erasures(work);
        for reference in self.trailer.drain(..) {
            self.writer.release(&reference);
        }
        self.high_water = self.high_water.max(self.writer.free.highest());
        work.stream.clear();
        self.encode_manifest(&mut work.stream);
        work.manifest_size = work.stream.len() as u64;
        work.stage = Stage::Manifest;
    }

    /// Makes the next block of the stream; true: all of it is in blocks.
    fn cut_stream(&mut self, work: &mut Work, kind: Kind) -> Result<bool, WorkError> {
        let end = (work.cut + self.shape.grid.body_max()).min(work.stream.len());
        let part = &work.stream[work.cut..end];
        if part.is_empty() {
            work.cut = 0;
            return Ok(true);
        }
        let reference = self.writer.make(kind, |out| out.extend_from_slice(part))?;
        let references = if kind == Kind::Manifest { &mut work.manifest } else { &mut work.free_set };
        references.push(reference);
        work.cut = end;
        Ok(false)
    }

    fn make_root(&mut self, work: &mut Work) -> Result<(), WorkError> {
        let root = manifest::Root {
            number: self.number,
            op: self.op,
            manifest_size: work.manifest_size,
            manifest: core::mem::take(&mut work.manifest),
            free_set_size: work.stream.len() as u64,
            free_set: core::mem::take(&mut work.free_set),
        };
        if root.size() > self.shape.grid.body_max() {
            return Err(WorkError::Full);
        }
        let reference = self.writer.make(Kind::Root, |out| root.encode(out))?;
        (work.manifest, work.free_set) = (root.manifest, root.free_set);
        work.stage = Stage::Finish { root: reference };
        Ok(())
    }
}

/// Blocks that a job consumes for this checkpoint.
pub(super) fn quota(job: &Job, number: u64, brought: usize) -> usize {
    match job.purpose {
        Purpose::Merge => job.quota(number),
        Purpose::Sweep { .. } => sweep_pace(brought as u64) as usize,
    }
}
