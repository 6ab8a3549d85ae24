//! All runs of history, in levels, and the merges between them.
//!
//! The one law: **for each room, runs hold ranges of sequences that do not meet**: the run that holds a message is the
//! one in which the room begins last before it.
//!
//! Each interval's messages become a run of level 0. When a level has as many runs as the fan-out says, they become
//! one of the next level. A merge out of level `i` may take three quarters of the intervals in which as many runs
//! come again, so a level never has more than twice the fan-out.

use alloc::vec::Vec;

use super::Key;
use super::job::{Input, Job, Purpose};
use super::run::{Builder, Entry, Run};
use crate::store::grid::GridShape;
use crate::store::grid::block::BlockRef;
use crate::store::grid::writer::Writer;
use crate::wire::codec::{Malformed, Reader};

/// Most levels: with a fan-out of two and an interval a second, a hundred years.
const LEVELS_MAX: usize = 32;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub levels: Vec<Level>,
    /// Records that retention cut off and that still lie in some run.
    pub dead: u64,
    /// Number of the checkpoint before whose work retention last cut something off.
    pub cut: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Oldest first. Those that a job consumes are not among them.
    pub runs: Vec<Run>,
    pub job: Option<Job>,
}

/// A part of a room's history: in one run, from `first` on, before `until`.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub run: &'a Run,
    pub first: u64,
    pub until: Key,
}

impl Tree {
    /// Runs, those that are consumed or grow included.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.levels.iter().flat_map(|level| {
            let job = level
                .job
                .iter()
                .flat_map(|job| job.inputs.iter().map(|input| &input.run).chain([&job.output.run]));
            level.runs.iter().chain(job)
        })
    }

    /// Runs that are being consumed, and how many of their blocks were.
    pub fn inputs(&self) -> impl Iterator<Item = &Input> {
        self.levels.iter().filter_map(|level| level.job.as_ref()).flat_map(|job| &job.inputs)
    }

    /// Messages on disk.
    #[must_use]
    pub fn records(&self) -> u64 {
        let of_level = |level: &Level| level.runs.iter().map(|run| run.totals.records).sum::<u64>();
        let whole: u64 = self.levels.iter().map(of_level).sum();
        // A job's output has what its inputs gave away; what they keep is counted block by block.
        let jobs = self.levels.iter().filter_map(|level| level.job.as_ref());
        let partial = |job: &Job| {
            let left = job.inputs.iter().flat_map(|input| &input.run.entries[input.consumed..]);
            job.output.run.totals.records + left.map(|entry| u64::from(entry.records)).sum::<u64>()
        };
        whole + jobs.map(partial).sum::<u64>()
    }

    /// All blocks that a checkpoint of this tree names.
    pub fn references(&self) -> impl Iterator<Item = &BlockRef> {
        self.levels.iter().flat_map(|level| {
            let runs = level.runs.iter().flat_map(Run::references);
            let job = level.job.iter().flat_map(|job| {
                let inputs = job.inputs.iter().flat_map(|input| {
                    let index = input.run.index.iter().map(|index| &index.reference);
                    index.chain(input.run.entries[input.consumed..].iter().map(|entry| &entry.reference))
                });
                inputs.chain(job.output.run.references())
            });
            runs.chain(job)
        })
    }

    /// The parts in which a room's history lies, in no particular order.
    pub fn segments<'a>(&'a self, room: u32, mut each: impl FnMut(Segment<'a>)) {
        for level in &self.levels {
            for run in &level.runs {
                if let Some(first) = run.first_of(room) {
                    each(Segment { run, first, until: Key::END });
                }
            }
            if let Some(job) = &level.job {
                segments_of_job(job, room, &mut each);
            }
        }
    }

    /// The part in which this message lies, if it is on disk.
    fn holder(&self, key: Key) -> Option<Segment<'_>> {
        let mut best: Option<Segment<'_>> = None;
        self.segments(key.room, |segment| {
            if segment.first <= key.seq && best.is_none_or(|best| best.first < segment.first) {
                best = Some(segment);
            }
        });
        best
    }

    /// The block that holds this message if it is on disk, and the first sequence of the room that counts there: a block
    /// that a merge has handled in part has older ones too, of which the copies in its output count.
    #[must_use]
    pub fn find(&self, key: Key) -> Option<(&Entry, u64)> {
        let segment = self.holder(key)?;
        segment.run.find(key).map(|entry| (entry, segment.first))
    }

    /// The blocks in which a room's messages from `low` to `high` lie, in their order, if they are on disk.
    #[must_use]
    pub fn holders(&self, room: u32, low: u64, high: u64) -> Vec<BlockRef> {
        let mut segments = Vec::new();
        self.segments(room, |segment| segments.push(segment));
        segments.sort_unstable_by_key(|segment| segment.first);
        let mut holders = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            // A part ends where the next one begins.
            let end = segments.get(at + 1).map_or(high, |next| high.min(next.first.saturating_sub(1)));
            let start = low.max(segment.first);
            if start <= end {
                let entries = segment.run.between(Key { room, seq: start }, Key { room, seq: end });
                holders.extend(entries.iter().map(|entry| entry.reference));
            }
        }
        holders
    }

    /// The block in which the room's first message since `time` must be sought when those before `from` do not count:
    /// in the oldest part that goes on until then, the last block that begins no later. What is not on disk is newer.
    #[must_use]
    pub fn find_since(&self, from: Key, time: u64) -> Option<&Entry> {
        let is_late = |segment: &Segment<'_>| segment.run.totals.last_time >= time;
        let mut oldest = self.holder(from).filter(is_late);
        self.segments(from.room, |segment| {
            let is_newer = segment.first > from.seq && is_late(&segment);
            if is_newer && oldest.is_none_or(|oldest| segment.first < oldest.first) {
                oldest = Some(segment);
            }
        });
        let Segment { run, first, until } = oldest?;
        run.find_since(Key { seq: from.seq.max(first), ..from }, time, until)
    }

    /// Decides, before the work of checkpoint `number`, which jobs begin.
    pub fn plan(&mut self, number: u64, fan_out: usize) {
        for at in 0..self.levels.len() {
            let level = &mut self.levels[at];
            if level.runs.len() < fan_out || level.job.is_some() {
                continue;
            }
            let inputs = level.runs.drain(..fan_out).map(Input::whole).collect();
            let intervals = (fan_out as u64).saturating_pow(at as u32 + 1);
            let due = number.saturating_add((intervals - intervals / 4).max(1));
            level.job = Some(Job::new(Purpose::Merge, due, inputs, number));
        }
        if self.dead * 4 > self.records() {
            self.plan_sweep(number);
        }
    }

    /// Begins to sweep the run that was filtered longest ago, unless one is being swept, or nothing was cut since.
    fn plan_sweep(&mut self, number: u64) {
        let is_sweep = |job: &Job| matches!(job.purpose, Purpose::Sweep { .. });
        if self.levels.iter().any(|level| level.job.as_ref().is_some_and(is_sweep)) {
            return;
        }
        let idle = self.levels.iter().enumerate().rev().filter(|(_, level)| level.job.is_none());
        let runs = idle.flat_map(|(at, level)| {
            level.runs.iter().enumerate().map(move |(place, run)| (run.totals.filtered, at, place))
        });
        // Of equally old ones the first found: the one with the oldest messages.
        let Some((filtered, at, place)) = runs.min_by_key(|(filtered, ..)| *filtered) else { return };
        if filtered < self.cut {
            let level = &mut self.levels[at];
            let input = Input::whole(level.runs.remove(place));
            let purpose = Purpose::Sweep { place: place as u32 };
            level.job = Some(Job::new(purpose, number, [input].into(), number));
        }
    }

    /// The work of a checkpoint is done: takes in the new run and the positions of the jobs, by level. What nobody
    /// names any more is released.
    pub fn install(
        &mut self,
        run: Option<Run>,
        positions: &[Option<Key>],
        dropped: u64,
        writer: &mut Writer,
    ) {
        self.dead -= dropped;
        for (at, position) in positions.iter().enumerate() {
            let Some(position) = *position else { continue };
            let job = self.levels[at].job.as_mut().expect("a job has a position");
            job.position = position;
            job.prune(|reference| writer.release(reference));
            if position == Key::END {
                let job = self.levels[at].job.take().expect("looked at");
                debug_assert!(job.inputs.iter().all(|input| input.run.index.is_empty()), "all is consumed");
                self.complete(at, job);
            }
        }
        if let Some(run) = run {
            self.level(0).runs.push(run);
        }
    }

    fn complete(&mut self, at: usize, job: Job) {
        let run = job.output.run;
        if run.entries.is_empty() {
            return;
        }
        match job.purpose {
            Purpose::Merge => self.level(at + 1).runs.push(run),
            Purpose::Sweep { place } => self.levels[at].runs.insert(place as usize, run),
        }
    }

    fn level(&mut self, at: usize) -> &mut Level {
        while self.levels.len() <= at {
            self.levels.push(Level::default());
        }
        &mut self.levels[at]
    }

    /// As the manifest keeps it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.dead.to_le_bytes());
        out.extend_from_slice(&self.cut.to_le_bytes());
        out.extend_from_slice(&(self.levels.len() as u32).to_le_bytes());
        for level in &self.levels {
            out.extend_from_slice(&(level.runs.len() as u32).to_le_bytes());
            level.runs.iter().for_each(|run| run.encode(out));
            out.push(u8::from(level.job.is_some()));
            if let Some(job) = &level.job {
                encode_job(job, out);
            }
        }
    }

    /// A tree whose runs are still to be read from their indexes, then [checked](Self::resume).
    pub fn decode(fields: &mut Reader<'_>, shape: &GridShape) -> Result<Self, Malformed> {
        let mut tree = Self { dead: fields.u64()?, cut: fields.u64()?, levels: Vec::new() };
        let levels = fields.u32()? as usize;
        if levels > LEVELS_MAX {
            return Err(Malformed);
        }
        for _ in 0..levels {
            let mut level = Level::default();
            for _ in 0..fields.u32()? {
                level.runs.push(Run::decode(fields, shape)?);
            }
            level.job = match fields.u8()? {
                0 => None,
                1 => Some(decode_job(fields, shape)?),
                _ => return Err(Malformed),
            };
            tree.levels.push(level);
        }
        Ok(tree)
    }

    /// All runs, in the order in which their indexes are read.
    pub fn runs_mut(&mut self) -> impl Iterator<Item = &mut Run> {
        self.levels.iter_mut().flat_map(|level| {
            let job = level.job.iter_mut().flat_map(|job| {
                job.inputs.iter_mut().map(|input| &mut input.run).chain([&mut job.output.run])
            });
            level.runs.iter_mut().chain(job)
        })
    }

    /// After all indexes were read: checks what could not be checked before, and lets outputs grow on.
    pub fn resume(&mut self) -> Result<(), Malformed> {
        if self.levels.iter().flat_map(|level| &level.runs).any(|run| run.entries.is_empty()) {
            return Err(Malformed);
        }
        for level in &mut self.levels {
            let Some(job) = &mut level.job else { continue };
            let is_beyond = |input: &Input| input.consumed > input.run.entries.len();
            let is_elsewhere = |place: u32| place as usize > level.runs.len();
            if job.inputs.iter().any(is_beyond)
                || matches!(job.purpose, Purpose::Sweep { place } if is_elsewhere(place))
            {
                return Err(Malformed);
            }
            job.output = Builder::resume(core::mem::take(&mut job.output.run));
        }
        if self.dead > self.records() { Err(Malformed) } else { Ok(()) }
    }
}

impl Input {
    fn whole(run: Run) -> Self {
        Self { run, consumed: 0 }
    }
}

impl Job {
    fn new(purpose: Purpose, due: u64, inputs: Vec<Input>, number: u64) -> Self {
        let mut output = Builder::default();
        output.run.totals.filtered = number;
        Self { purpose, due, inputs, position: Key::MIN, output }
    }
}

fn segments_of_job<'a>(job: &'a Job, room: u32, each: &mut impl FnMut(Segment<'a>)) {
    let position = job.position;
    // The output may have grown since the last checkpoint: what lies at the position or behind it does not count yet.
    let output = &job.output.run;
    if let Some(first) = output.first_of(room).filter(|seq| Key { room, seq: *seq } < position) {
        each(Segment { run: output, first, until: position });
    }
    if room < position.room {
        return;
    }
    // Of the inputs that begin before the position in this room only one holds it: the one that begins last.
    let at = if room == position.room { position.seq } else { 0 };
    let mut holds: Option<(u64, &Run)> = None;
    for run in job.inputs.iter().map(|input| &input.run) {
        match run.first_of(room) {
            Some(first) if first > at => each(Segment { run, first, until: Key::END }),
            Some(first) if holds.is_none_or(|(best, _)| best < first) => holds = Some((first, run)),
            _ => {}
        }
    }
    if let Some((_, run)) = holds {
        each(Segment { run, first: at, until: Key::END });
    }
}

fn encode_job(job: &Job, out: &mut Vec<u8>) {
    let place = match job.purpose {
        Purpose::Merge => 0,
        Purpose::Sweep { place } => place + 1,
    };
    out.extend_from_slice(&place.to_le_bytes());
    out.extend_from_slice(&job.due.to_le_bytes());
    out.extend_from_slice(&job.position.room.to_le_bytes());
    out.extend_from_slice(&job.position.seq.to_le_bytes());
    out.extend_from_slice(&(job.inputs.len() as u32).to_le_bytes());
    for input in &job.inputs {
        out.extend_from_slice(&(input.consumed as u64).to_le_bytes());
        input.run.encode(out);
    }
    job.output.run.encode(out);
}

fn decode_job(fields: &mut Reader<'_>, shape: &GridShape) -> Result<Job, Malformed> {
    let purpose = match fields.u32()?.checked_sub(1) {
        None => Purpose::Merge,
        Some(place) => Purpose::Sweep { place },
    };
    let (due, position) = (fields.u64()?, Key { room: fields.u32()?, seq: fields.u64()? });
    let mut inputs = Vec::new();
    for _ in 0..fields.u32()? {
        let consumed = usize::try_from(fields.u64()?).map_err(|_| Malformed)?;
        inputs.push(Input { run: Run::decode(fields, shape)?, consumed });
    }
    let output = Builder::unread(Run::decode(fields, shape)?);
    Ok(Job { purpose, due, inputs, position, output })
}
