//! History, tables and the free set as one: what of the state lies in the grid, and how each interval's changes become
//! a checkpoint there.
//!
//! The one law: **checkpoint `k` follows from checkpoint `k - 1` and the ops between, and from nothing else**: not
//! from when reads and writes end, what was in the cache, or how often a replica was restarted. So it is the same
//! blocks at the same addresses on every replica (I34).
//!
//! ```text
//!            op C(k-1)                op C(k)                   op C(k+1)
//!  ops ─────────┼── interval k ──────────┼── interval k+1 ─────────┼──
//!               messages go to `active`  freeze(k): `active` becomes `frozen`, changed pages are captured
//!                                        └▶ begin(k) once op C(k)+1 is committed ─▶ work of k ─▶ named by the superblock
//!                                           run, merges, pages, manifest, free set, root        before freeze(k+1)
//! ```
//!
//! Nothing here waits or calls back: [`Forest::advance`] makes blocks until it lacks one or has enough under way; what
//! is to be read and written is asked for, and what ended is told. Design, formats, costs: `docs/storage.md`.

mod erasure;
mod manifest;
mod opening;
pub mod tail;
mod work;

use alloc::collections::BinaryHeap;
use alloc::vec;
use alloc::vec::Vec;

use self::work::Work;
use super::grid::GridShape;
use super::grid::block::BlockRef;
use super::grid::free_set::FreeSet;
use super::grid::writer::Writer;
use super::history::Key;
use super::history::job::{Job, OVERRUN};
use super::history::memtable::Memtable;
use super::history::reader::View;
use super::history::record::Record;
use super::history::tree::{Level, Tree};
use super::pages::{PageLog, Pages, TableShape};

pub use self::opening::Opening;
pub use self::work::Standing;
pub use super::history::job::WorkError;

/// Sizes of a forest, chosen at format, equal on all replicas of a shard but for what [`GridShape`] says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForestShape {
    pub grid: GridShape,
    /// Rooms that there may be; they are numbered from 0.
    pub rooms: u32,
    /// Runs of a level that become one of the next.
    pub fan_out: u32,
    /// Bytes of the largest record.
    pub record_max: u32,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// The tables of the caller.
    pub tables: Vec<TableShape>,
    /// Erasures that may be pending.
    pub erasures_max: u32,
    /// Erasures that one work goes after at most; zero: they are left to merges.
    pub erasures_per_work: u32,
    /// Blocks that may be on their way to the disk at a time.
    pub under_way: u32,
    /// What an interval brings, and bytes of it: so much memory is set aside, twice. One that brings more takes more.
    pub interval_records: u32,
    pub interval_bytes: u32,
    /// Most bytes of records that an interval can bring: what [`Forest::is_full`] sets aside.
    pub interval_bytes_max: u64,
}

/// Blocks that one step of the work makes at most: two of messages and two of the index, where something is erased.
const STEP_BLOCKS: usize = 4;
/// The forest's own table: of each room the first sequence that retention left.
const CUTS: usize = 0;

impl ForestShape {
    /// Whether a forest can be made of this shape.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        let body = if self.grid.is_sane() { self.grid.body_max() } else { return false };
        let slots = self.tables.iter().map(|table| table.slot_bytes).chain([8]);
        (1..=1 << 24).contains(&self.rooms)
            && (2..=64).contains(&self.fan_out)
            // Blocks are then at least two thirds full.
            && self.record_max as usize <= body / 3
            && self.tables.len() <= 64
            && self.tables.iter().all(|table| table.slot_bytes > 0 && table.slots <= 1 << 28)
            && slots.max().is_some_and(|slot| slot <= self.page_bytes)
            && self.page_bytes as usize <= body / 2
            && self.erasures_max <= 1 << 16
            && self.under_way as usize >= STEP_BLOCKS
    }

    fn all_tables(&self) -> Vec<TableShape> {
        let cuts = TableShape { slot_bytes: 8, slots: self.rooms };
        [cuts].into_iter().chain(self.tables.iter().copied()).collect()
    }
}

/// Names a checkpoint: what the superblock keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// 1, 2, 3, ...
    pub number: u64,
    /// The last op that it holds.
    pub op: u64,
    pub root: BlockRef,
}

/// See the module.
#[derive(Debug)]
pub struct Forest {
    shape: ForestShape,
    writer: Writer,
    tree: Tree,
    /// Messages of this interval, and of the one before.
    active: Memtable,
    frozen: Memtable,
    pages: Pages,
    log: PageLog,
    cuts: Cuts,
    erasures: Erasures,
    /// Number and op of the checkpoint that is due or was made last.
    number: u64,
    op: u64,
    /// What the caller keeps in the manifest, as of that op.
    tail: Vec<u8>,
    /// Manifest, free set and root of the last checkpoint.
    trailer: Vec<BlockRef>,
    newest: Option<Checkpoint>,
    /// A checkpoint is due, and its work has not begun.
    due: bool,
    work: Option<Work>,
    /// The free block that is to be wiped next, or one before it; zero: none is.
    wipe: u64,
    /// Something was erased since the wipe began: another one follows.
    wipe_again: bool,
    /// See [`Self::generation`].
    generation: u64,
    /// The highest block that ever held anything.
    high_water: u64,
    /// The interval that goes on now had no room to grow as it began.
    full: bool,
    /// See [`Self::erasures_seen`].
    erasures_seen: u64,
    /// Works up to this checkpoint wipe in large steps, and whether that which is due or under way is one of them.
    hurry_until: u64,
    hurries: bool,
    /// What was erased up to this op the wipe that is under way rids the grid of, if it is one that began here.
    wipe_covers: u64,
    cleared: u64,
}

/// Where retention cut rooms off.
#[derive(Debug)]
struct Cuts {
    /// Of each room the first sequence that remains, as of the last freeze.
    first: Vec<u64>,
    /// Rooms that were cut since.
    moved: Vec<u32>,
}

/// Messages whose content is to go.
#[derive(Debug, Default)]
struct Erasures {
    /// As of the last freeze, ascending.
    pending: Vec<Key>,
    /// Of these, what the work of that checkpoint did away with.
    done: Vec<Key>,
    /// Since then, ascending.
    fresh: Vec<Key>,
}

impl Forest {
    /// Whether blocks that may hold what was erased are still being wiped, or will be.
    #[must_use]
    pub fn is_wiping(&self) -> bool {
        self.wipe != 0 || self.wipe_again
    }

    /// An empty forest.
    ///
    /// # Panics
    /// When its shape is not [sane](ForestShape::is_sane): our own bug, shapes are checked where they come from.
    #[must_use]
    pub fn new(shape: ForestShape) -> Self {
        assert!(shape.is_sane(), "a shape is checked where it comes from: {shape:?}");
        let pages = Pages::new(shape.page_bytes as usize, &shape.all_tables());
        let free = FreeSet::new(shape.grid.blocks_max);
        let (records, bytes) = (shape.interval_records as usize, shape.interval_bytes as usize);
        let memtable = || Memtable::new(shape.rooms, records, bytes);
        Self {
            writer: Writer::new(shape.grid, free, shape.under_way as usize),
            tree: Tree::default(),
            active: memtable(),
            frozen: memtable(),
            log: PageLog::new(&shape.grid, &pages),
            pages,
            cuts: Cuts {
                first: vec![1; shape.rooms as usize],
                moved: Vec::with_capacity(shape.rooms as usize),
            },
            erasures: Erasures::default(),
            number: 0,
            op: 0,
            tail: Vec::new(),
            trailer: Vec::new(),
            newest: None,
            due: false,
            work: None,
            wipe: 0,
            wipe_again: false,
            generation: 0,
            high_water: 0,
            full: false,
            erasures_seen: 0,
            hurry_until: 0,
            hurries: false,
            wipe_covers: 0,
            cleared: 0,
            shape,
        }
    }

    #[must_use]
    pub fn shape(&self) -> &ForestShape {
        &self.shape
    }

    /// Appends the next message of its room. It must be no larger than the shape says.
    pub fn append(&mut self, record: &Record<'_>) {
        debug_assert!(record.size() <= self.shape.record_max as usize);
        self.active.append(record);
    }

    /// A slot of one of the caller's tables.
    #[must_use]
    pub fn slot(&self, table: usize, slot: u32) -> &[u8] {
        self.pages.slot(table + 1, slot)
    }

    /// The same, to be changed.
    pub fn slot_mut(&mut self, table: usize, slot: u32) -> &mut [u8] {
        self.pages.slot_mut(table + 1, slot)
    }

    /// The first sequence of a room that retention left.
    #[must_use]
    pub fn first(&self, room: u32) -> u64 {
        let slot = self.pages.slot(CUTS, room);
        u64::from_le_bytes(slot.try_into().expect("a cut has 8 bytes")).max(1)
    }

    /// Retention: what a room has before `first` goes; the message before it stays as an anchor. Cuts never move back,
    /// and not beyond the message that comes next.
    pub fn cut(&mut self, room: u32, first: u64) {
        let before = self.first(room);
        if first > before {
            self.pages.slot_mut(CUTS, room).copy_from_slice(&first.to_le_bytes());
            if before == self.cuts.first[room as usize] {
                self.cuts.moved.push(room);
            }
        }
    }

    /// From now on nobody is shown this message's content; `forest/erasure.rs` says when it is gone from disks. False: too many
    /// are pending. The message exists.
    pub fn erase(&mut self, key: Key) -> bool {
        let Erasures { pending, fresh, .. } = &mut self.erasures;
        let known = pending.len() + fresh.len();
        match fresh.binary_search(&key) {
            Ok(_) => true,
            Err(_) if known >= self.shape.erasures_max as usize => false,
            Err(at) => {
                fresh.insert(at, key);
                self.erasures_seen += 1;
                true
            }
        }
    }

    /// The wipes of the next checkpoints are to take large steps. Says until which: the caller keeps that with its state,
    /// and gives it [back](Self::hurry_until) to a forest that was opened.
    pub fn hurry(&mut self) -> u64 {
        self.hurry_until = self.number + erasure::HURRY;
        self.hurry_until
    }

    pub fn hurry_until(&mut self, checkpoint: u64) {
        self.hurry_until = checkpoint;
    }

    /// What was erased up to this op is in no block of the grid, as of the newest checkpoint. Zero until a wipe began
    /// and ended here: nothing is known of what this disk held before.
    #[must_use]
    pub fn cleared(&self) -> u64 {
        self.cleared
    }

    /// Goes up with each erasure that is executed here: who keeps copies of what was said throws them away.
    #[must_use]
    pub fn erasures_seen(&self) -> u64 {
        self.erasures_seen
    }

    /// History as readers see it. What a [page](super::history::reader::Page) is given as its first and last sequence
    /// are [`Self::first`] and the room's head.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            shape: &self.shape.grid,
            tree: &self.tree,
            memory: [&self.frozen, &self.active],
            erased: [&self.erasures.pending, &self.erasures.fresh],
        }
    }

    /// The interval ends with this op: what the checkpoint holds is settled now, and written while others follow.
    /// `tail` is kept in the manifest.
    ///
    /// # Panics
    /// While the checkpoint before is not complete: the caller waits for [`Standing::Complete`].
    pub fn freeze(&mut self, op: u64, tail: &[u8]) {
        assert!(self.is_complete(), "one checkpoint at a time");
        assert!(op > self.op, "ops go on");
        let before = self.op;
        (self.number, self.op, self.due) = (self.number + 1, op, true);
        self.hurries = self.number <= self.hurry_until;
        self.tail.clear();
        self.tail.extend_from_slice(tail);
        self.frozen.clear();
        core::mem::swap(&mut self.active, &mut self.frozen);
        self.apply_cuts();
        // What is left of those of earlier intervals is still in blocks.
        let all_done = self.apply_erasures();
        self.wipe_covers = if self.wipe == 0 && all_done { before } else { self.wipe_covers };
        self.log.freeze(&mut self.pages);
    }

    fn apply_cuts(&mut self) {
        let moved = core::mem::take(&mut self.cuts.moved);
        for room in moved.iter().copied() {
            let (before, first) = (self.cuts.first[room as usize], self.first(room));
            self.cuts.first[room as usize] = first;
            // The message before the cut stays as its anchor, in the place of the anchor before.
            self.tree.dead += first.max(2) - before.max(2);
            self.tree.cut = self.number;
        }
        self.cuts.moved = moved;
        self.cuts.moved.clear();
    }

    /// Says whether all that was pending before is done.
    fn apply_erasures(&mut self) -> bool {
        let Erasures { pending, done, fresh } = &mut self.erasures;
        done.sort_unstable();
        pending.retain(|key| done.binary_search(key).is_err());
        let all_done = pending.is_empty();
        // Those too that retention has removed since: what it removed lies in blocks until these are merged.
        pending.append(fresh);
        pending.sort_unstable();
        pending.dedup();
        done.clear();
        all_done
    }

    /// Begins the work of the checkpoint that is due: once an op behind it is committed, because then the checkpoint
    /// before it is durable on a quorum and what that one released may be overwritten.
    ///
    /// # Panics
    /// When none is due: our own bug.
    pub fn begin(&mut self) {
        assert!(self.due && self.work.is_none(), "a checkpoint is due");
        self.due = false;
        self.writer.begin(self.number);
        self.begin_wipe();
        self.tree.plan(self.number, self.shape.fan_out as usize);
        let needed = self.blocks_needed(self.frozen.bytes() as u64);
        let next = self.blocks_needed(self.shape.interval_bytes_max);
        self.full = self.writer.free.free() < needed + next + next / 4;
        self.work = Some(Work::new(&self.tree, self.number, needed));
    }

    /// Whether no checkpoint is due or under way.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.due && self.work.is_none()
    }

    /// Whether a checkpoint is due whose work has not [begun](Self::begin).
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// The last checkpoint that is complete: all its blocks are written. The superblock may name it once they are
    /// durable.
    #[must_use]
    pub fn newest(&self) -> Option<Checkpoint> {
        self.newest
    }

    /// What the caller kept in that checkpoint's manifest.
    #[must_use]
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// Blocks on their way to the disk.
    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// The payload of a block that is still on its way to the disk.
    #[must_use]
    pub fn under_way(&self, reference: &BlockRef) -> Option<&[u8]> {
        self.writer.get(reference)
    }

    #[must_use]
    pub fn free_set(&self) -> &FreeSet {
        &self.writer.free
    }

    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    #[must_use]
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// All blocks that the newest checkpoint names, each once: for scrubbing, state transfer and checks. Only while no
    /// work is under way.
    pub fn references(&self) -> impl Iterator<Item = &BlockRef> {
        debug_assert!(self.work.is_none(), "the newest checkpoint is complete");
        self.trailer.iter().chain(self.tree.references()).chain(self.log.references())
    }

    /// The next `limit` blocks by address, from `from` on, of those that readers and the next checkpoint may need: for
    /// scrubbing, at any time. They are as long as the [generation](Self::generation) stays.
    /// `into` is used again, and holds nothing else afterwards.
    pub fn references_from(&self, from: u64, limit: usize, into: &mut Vec<BlockRef>) {
        into.clear();
        into.reserve(limit + 1);
        let mut lowest = BinaryHeap::from(core::mem::take(into));
        let all = self.trailer.iter().chain(self.tree.references()).chain(self.log.references());
        for reference in all.filter(|reference| reference.address >= from) {
            if lowest.len() < limit || lowest.peek().is_some_and(|highest| *reference < *highest) {
                lowest.push(*reference);
            }
            if lowest.len() > limit {
                lowest.pop();
            }
        }
        *into = lowest.into_sorted_vec();
    }

    /// Goes up whenever a block is not referred to any more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Blocks that the work of the next checkpoint takes at most when its interval brings so many bytes of records.
    #[must_use]
    pub fn blocks_needed(&self, bytes: u64) -> u64 {
        let body = self.shape.grid.body_max() as u64;
        let full = body - u64::from(self.shape.record_max);
        // Of the index a block costs 68 bytes and a record 12 at most: a quarter of what records take. Its blocks are
        // at least half full, and it is closed three times at most.
        let with_index = |blocks: u64| blocks + blocks.div_ceil(2) + 3;
        let brought = bytes.div_ceil(full) + 1;
        let merged = |level: &Level| {
            let begins: usize = level.runs.iter().map(|run| run.entries.len()).sum();
            let remaining = level.job.as_ref().map_or(begins, Job::remaining) as u64;
            let quota = level.job.as_ref().map_or(remaining, |job| job.quota(self.number + 1) as u64);
            let consumed = remaining.min(quota.max(work::sweep_pace(brought)) + OVERRUN as u64);
            with_index((consumed * body).div_ceil(full) + 1)
        };
        let merged: u64 = self.tree.levels.iter().map(merged).sum();
        let capacity = PageLog::capacity(&self.shape.grid, self.shape.page_bytes as usize) as u64;
        let pages = (self.pages.len() as u64).div_ceil(capacity) + 1;
        let blocks = with_index(brought) + merged + pages;
        blocks + self.trailer_max(blocks)
    }

    /// Blocks that the work which has just [begun](Self::begin) will make, more or less: to pace it by.
    #[must_use]
    pub fn work_expected(&self) -> u64 {
        let body = self.shape.grid.body_max();
        let brought = self.frozen.bytes().div_ceil(body);
        let jobs = self.tree.levels.iter().filter_map(|level| level.job.as_ref());
        let merged: usize = jobs.map(|job| work::quota(job, self.number, brought)).sum();
        let blocks = (brought + merged + self.log.left()) as u64;
        // A block of the index for twenty of messages, where rooms are many.
        blocks + blocks / 16 + self.wipe_expected() + 8
    }

    /// Blocks that manifest, free set and root take at most, after so many others were made.
    fn trailer_max(&self, blocks: u64) -> u64 {
        let body = self.shape.grid.body_max() as u64;
        let free_set = FreeSet::encoded_max(self.shape.grid.blocks_max);
        self.manifest_size_max(blocks).div_ceil(body) + free_set.div_ceil(body) + 1
    }

    /// Whether the next checkpoint is sure to find room when its interval brings so many bytes of records. A primary
    /// that sees it is not refuses what makes the shard grow (H35).
    #[must_use]
    pub fn has_room(&self, bytes: u64) -> bool {
        self.writer.free.free() + self.writer.free.released() >= self.blocks_needed(bytes)
    }

    /// Whether this interval is to bring nothing that makes the state grow: as it began it was not sure that its checkpoint
    /// would find room. Follows from the log alone, so the state machine may act by it (H35).
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Bytes of memory that indexes of runs take.
    #[must_use]
    pub fn index_memory(&self) -> usize {
        self.tree.runs().map(super::history::run::Run::memory).sum()
    }
}
