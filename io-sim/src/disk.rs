//! A disk with a page cache in front of it.
//!
//! The one law: **what a completed flush covered survives everything; of what it did not, a power cut keeps any
//! subset of the sectors**, old and new side by side, in whichever of their versions. Reads see the cache. The end
//! of a process loses nothing that had reached the cache, and tears what was on its way into it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use tigerchat_core::io::{DiskError, DiskOp, Token};
use tigerchat_core::pool::{Draft, Message};
use tigerchat_core::store::layout::SECTOR;
use tigerchat_core::types::Instant;

use crate::faults::{DiskErrors, DiskSpeed};
use crate::random::Random;
use crate::sector::Sector;

/// Names one operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// An operation ended.
#[derive(Debug)]
pub struct Done {
    pub token: Token,
    pub result: Result<Option<Message>, DiskError>,
}

/// How an operation goes on.
#[derive(Debug)]
pub enum Step {
    /// Come back then.
    Wait(Instant),
    Done(Done),
}

/// One data file.
#[derive(Debug)]
pub struct Disk {
    cells: Vec<Cell>,
    /// Sectors with versions that are not durable.
    dirty: BTreeSet<usize>,
    in_flight: BTreeMap<Ticket, Work>,
    tickets: u64,
    /// Numbers writes as they reach the cache.
    writes: u64,
    speed: DiskSpeed,
    /// Everything takes that many times as long.
    pub slowness: u32,
    /// Until then it takes no writes.
    pub full_until: Instant,
    /// What it answers wrongly or not at all.
    pub faults: Option<DiskErrors>,
    /// Sectors that hold other than what was written last, each with the last write before the damage: it is over when
    /// a later one is durable. (A power cut brings back what lies below.)
    damaged: BTreeMap<usize, u64>,
    unreadable: BTreeSet<usize>,
    /// Where the last read went astray.
    astray: BTreeSet<u64>,
    /// A read was refused or went astray since the process began: what it believes of the disk may be wrong.
    misled: bool,
    /// A flush has failed since then.
    flush_failed: bool,
    /// Of the damaged ones those of a write that never happened.
    lost: BTreeSet<usize>,
    /// Sectors written last, newest at the end.
    recent: VecDeque<usize>,
    pub counts: DiskCounts,
    random: Random,
}

/// What became of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Sectors damaged, and of those the ones that were written again.
    pub damaged: u64,
    pub repaired: u64,
    /// Operations that failed.
    pub errors: u64,
}

/// How many sectors count as written lately.
const RECENT: usize = 24;

#[derive(Debug, Default)]
struct Cell {
    durable: Option<Sector>,
    /// What was durable before that.
    before: Option<Sector>,
    /// Newer versions by the number of their write, ascending.
    cached: Vec<(u64, Sector)>,
}

#[derive(Debug)]
enum Work {
    Read {
        token: Token,
        offset: u64,
        into: Draft,
    },
    Write {
        token: Token,
        offset: u64,
        data: Message,
        durable: bool,
    },
    /// Submitted before the turn ended: the flush begins then.
    Sync {
        token: Token,
    },
    /// Covers all writes up to this number.
    Flush {
        token: Token,
        up_to: u64,
    },
}

impl Disk {
    #[must_use]
    pub fn new(bytes: u64, speed: DiskSpeed, random: Random) -> Self {
        let sectors = usize::try_from(bytes).expect("simulated disks are small").div_ceil(SECTOR);
        Self {
            cells: std::iter::repeat_with(Cell::default).take(sectors).collect(),
            dirty: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            tickets: 0,
            writes: 0,
            speed,
            slowness: 1,
            full_until: Instant(0),
            faults: None,
            damaged: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            astray: BTreeSet::new(),
            misled: false,
            flush_failed: false,
            lost: BTreeSet::new(),
            recent: VecDeque::with_capacity(RECENT),
            counts: DiskCounts::default(),
            random,
        }
    }

    /// Puts bytes where they are durable: formatting.
    pub fn format(&mut self, bytes: &[u8]) {
        for (cell, bytes) in self.cells.iter_mut().zip(bytes.chunks(SECTOR)) {
            cell.durable = Some(Sector::of(bytes));
        }
    }

    /// The first bytes of the file, as a process reads them when it opens it.
    #[must_use]
    pub fn beginning(&self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.read(0, &mut read);
        read
    }

    /// What a process would read, at any time.
    pub fn peek(&self, offset: u64, into: &mut [u8]) {
        self.read(offset, into);
    }

    /// Takes an operation; [`Disk::step`] it at that time.
    pub fn submit(&mut self, now: Instant, op: DiskOp) -> (Ticket, Instant) {
        let (work, takes) = match op {
            DiskOp::Read { token, offset, into } => {
                (Work::Read { token, offset, into }, self.random.duration(&self.speed.read.clone()))
            }
            DiskOp::Write { token, offset, data, durable } => (
                Work::Write { token, offset, data, durable },
                self.random.duration(&self.speed.write.clone()),
            ),
            DiskOp::Sync { token } => (Work::Sync { token }, Duration::ZERO),
        };
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.in_flight.insert(ticket, work);
        (ticket, now.after(takes * self.slowness))
    }

    /// Moves an operation on. `None` when its process ended before.
    pub fn step(&mut self, now: Instant, ticket: Ticket) -> Option<Step> {
        let step = match self.in_flight.remove(&ticket)? {
            Work::Read { token, offset, mut into } => {
                let len = into.bytes_mut().len();
                let from = self.misdirected_read(offset, len).unwrap_or(offset);
                self.read(from, into.bytes_mut());
                let refused = self.fails(|faults| faults.read) || self.can_not_read(offset, len);
                self.counts.errors += u64::from(refused);
                self.misled |= refused || from != offset;
                let result = if refused { Err(DiskError::Read) } else { Ok(Some(into.seal())) };
                Step::Done(Done { token, result })
            }
            Work::Write { token, offset, data, durable } => {
                if let Some(error) = self.refuses_write(now) {
                    self.counts.errors += 1;
                    let pattern = self.random.u64();
                    self.write(offset, &data, |sector| pattern >> (sector % 64) & 1 == 1);
                    return Some(Step::Done(Done { token, result: Err(error) }));
                }
                self.write(offset, &data, |_| true);
                if durable {
                    self.flush(now, ticket, token)
                } else {
                    Step::Done(Done { token, result: Ok(None) })
                }
            }
            Work::Sync { token } => self.flush(now, ticket, token),
            Work::Flush { token, .. } if self.fails(|faults| faults.flush) => {
                self.counts.errors += 1;
                self.flush_failed = true;
                Step::Done(Done { token, result: Err(DiskError::Fsync) })
            }
            Work::Flush { token, up_to } => {
                self.settle(up_to);
                Step::Done(Done { token, result: Ok(None) })
            }
        };
        Some(step)
    }

    /// The process ended: what was on its way into the cache is there whole, in part or not at all.
    pub fn process_ended(&mut self) {
        (self.misled, self.flush_failed) = (false, false);
        for work in std::mem::take(&mut self.in_flight).into_values() {
            let Work::Write { offset, data, .. } = work else { continue };
            let (mode, pattern) = (self.random.below(3), self.random.u64());
            self.write(offset, &data, |sector| match mode {
                0 => false,
                1 => true,
                _ => pattern >> (sector % 64) & 1 == 1,
            });
        }
    }

    /// The power went: each sector comes back as it was when last flushed, or as any write since then left it.
    pub fn power_lost(&mut self) {
        self.process_ended();
        let mode = self.random.below(5);
        let latest = if mode == 2 { self.some_write_not_durable() } else { 0 };
        for at in std::mem::take(&mut self.dirty) {
            let cell = &mut self.cells[at];
            let versions = cell.cached.len();
            let kept = match mode {
                0 => 0,
                1 => versions,
                // What was written last is there, and what should have been before it is not: a flush was left out.
                2 => cell.cached.last().map_or(0, |(write, _)| if *write >= latest { versions } else { 0 }),
                _ => self.random.index(versions + 1),
            };
            if let Some((write, sector)) = cell.cached.drain(..).take(kept).next_back() {
                cell.durable = Some(sector);
                self.counts.repaired += u64::from(mend(&mut self.damaged, at, write));
            }
        }
    }

    /// The number of some write of which sectors are not durable.
    fn some_write_not_durable(&mut self) -> u64 {
        let cells = &self.cells;
        let writes: BTreeSet<u64> =
            self.dirty.iter().flat_map(|at| cells[*at].cached.iter().map(|(write, _)| *write)).collect();
        let at = self.random.index(writes.len().max(1));
        writes.into_iter().nth(at).unwrap_or(0)
    }

    fn flush(&mut self, now: Instant, ticket: Ticket, token: Token) -> Step {
        self.in_flight.insert(ticket, Work::Flush { token, up_to: self.writes });
        let takes = self.random.duration(&self.speed.flush.clone()) * self.slowness;
        Step::Wait(now.after(takes))
    }

    fn settle(&mut self, up_to: u64) {
        let Self { cells, damaged, counts, .. } = self;
        self.dirty.retain(|at| {
            let cell = &mut cells[*at];
            let covered = cell.cached.iter().take_while(|(write, _)| *write <= up_to).count();
            if let Some((write, sector)) = cell.cached.drain(..covered).next_back() {
                cell.before = cell.durable.replace(sector);
                counts.repaired += u64::from(mend(damaged, *at, write));
            }
            !cell.cached.is_empty()
        });
    }

    /// Writes those sectors of `data` that `reaches` names by their index in it.
    fn write(&mut self, offset: u64, data: &[u8], reaches: impl Fn(usize) -> bool) {
        self.writes += 1;
        let first = sector_at(offset);
        for (index, bytes) in data.chunks(SECTOR).enumerate().filter(|(index, _)| reaches(*index)) {
            let at = first + index;
            self.cells[at].cached.push((self.writes, Sector::of(bytes)));
            self.dirty.insert(at);
            self.unreadable.remove(&at);
            self.lost.remove(&at);
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(at);
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        let first = sector_at(offset);
        assert!(into.len().div_ceil(SECTOR) <= self.cells.len() - first, "nothing is read behind the end");
        for (cell, bytes) in self.cells[first..].iter().zip(into.chunks_mut(SECTOR)) {
            let newest = cell.cached.last().map(|(_, sector)| sector).or(cell.durable.as_ref());
            match newest {
                Some(sector) => sector.read(bytes),
                None => bytes.fill(0),
            }
        }
    }
}

/// As a tool uses it while no process has it open.
impl Disk {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.cells.len() * SECTOR) as u64
    }

    /// Reads, unless there is a sector among them that can't be.
    pub fn read_now(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        if self.can_not_read(offset, into.len()) {
            return Err(DiskError::Read);
        }
        self.read(offset, into);
        Ok(())
    }

    pub fn write_now(&mut self, offset: u64, sectors: &[u8]) {
        self.write(offset, sectors, |_| true);
    }

    pub fn flush_now(&mut self) {
        self.settle(self.writes);
    }
}

/// What is done to a disk from outside; [`crate::damage`] decides.
impl Disk {
    fn fails(&mut self, which: impl Fn(&DiskErrors) -> u32) -> bool {
        let Some(chance) = self.faults.as_ref().map(which) else { return false };
        self.random.chance(chance)
    }

    fn refuses_write(&mut self, now: Instant) -> Option<DiskError> {
        if now < self.full_until {
            return Some(DiskError::Full);
        }
        self.fails(|faults| faults.write).then_some(DiskError::Write)
    }

    fn can_not_read(&self, offset: u64, len: usize) -> bool {
        let first = sector_at(offset);
        self.unreadable.range(first..first + len.div_ceil(SECTOR)).next().is_some()
    }

    /// Where a read that goes astray lands. The next one of the same place is right: two in a row that both land where
    /// nothing was ever written can't be told from a place where nothing was.
    fn misdirected_read(&mut self, offset: u64, len: usize) -> Option<u64> {
        if !self.fails(|faults| faults.misdirected_read) || !self.astray.insert(offset) {
            self.astray.remove(&offset);
            return None;
        }
        self.counts.errors += 1;
        let last = self.cells.len() - len.div_ceil(SECTOR);
        let astray = offset + (self.random.within(1..=8) * len as u64);
        Some(astray).filter(|astray| sector_at(*astray) <= last)
    }

    /// Whether a sector holds other than what was written to it last.
    #[must_use]
    pub fn is_damaged(&self, sector: usize) -> bool {
        self.damaged.contains_key(&sector)
    }

    /// Whether nothing on it was ever damaged, and it gives back what lies on it, and did since its process began. (Seed
    /// 2021167 took a read that had gone astray for the fault of a replica, because the world was healed a moment later.)
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let reads =
            self.faults.as_ref().is_none_or(|faults| faults.read == 0 && faults.misdirected_read == 0);
        reads && !self.misled && self.counts.damaged == 0
    }

    /// Whether a flush has failed since its process began.
    #[must_use]
    pub fn flush_failed(&self) -> bool {
        self.flush_failed
    }

    #[must_use]
    pub fn has_lost_write(&self) -> bool {
        !self.lost.is_empty()
    }

    /// All that lies on it, also below what is not durable yet.
    pub fn versions(&self) -> impl Iterator<Item = [u8; SECTOR]> {
        self.cells
            .iter()
            .flat_map(|cell| cell.durable.iter().chain(cell.cached.iter().map(|(_, sector)| sector)))
            .map(Sector::whole)
    }

    /// What survives a power cut of a sector, unless something newer is on its way.
    #[must_use]
    pub fn durable(&self, sector: usize) -> Option<[u8; SECTOR]> {
        let cell = &self.cells[sector];
        let durable = cell.durable.as_ref().filter(|_| cell.cached.is_empty())?;
        Some(durable.whole())
    }

    /// Sectors of a range that were ever written.
    #[must_use]
    pub fn written(&self, range: Range<usize>) -> Vec<usize> {
        let written = |at: &usize| self.cells[*at].durable.is_some() || !self.cells[*at].cached.is_empty();
        range.filter(written).collect()
    }

    /// Sectors of a range that were written lately.
    #[must_use]
    pub fn recent(&self, range: Range<usize>) -> Vec<usize> {
        self.recent.iter().copied().filter(|at| range.contains(at)).collect()
    }

    /// Flips some bits of a sector, in whichever of its versions there are.
    pub fn rot(&mut self, sector: usize, pattern: u64) -> bool {
        let cell = &mut self.cells[sector];
        let at = usize::try_from(pattern >> 8).unwrap_or(0) % SECTOR;
        let bits = u8::try_from(pattern & 0xFF).expect("masked").max(1);
        let versions = cell.durable.iter_mut().chain(cell.cached.iter_mut().map(|(_, bytes)| bytes));
        let mut harmed = false;
        for version in versions {
            version.flip(at, bits);
            harmed = true;
        }
        harmed && self.note_damage(sector)
    }

    /// What was written to `from` lies at `to` as well.
    pub fn misdirect(&mut self, from: usize, to: usize) -> bool {
        let newest =
            self.cells[from].cached.last().map(|(_, bytes)| bytes).or(self.cells[from].durable.as_ref());
        let Some(bytes) = newest.cloned() else { return false };
        let cell = &mut self.cells[to];
        cell.cached.clear();
        cell.durable = Some(bytes);
        self.dirty.remove(&to);
        self.note_damage(to)
    }

    pub fn make_unreadable(&mut self, sector: usize) -> bool {
        self.unreadable.insert(sector);
        self.note_damage(sector)
    }

    /// The last durable write to these sectors never happened, although it was reported.
    pub fn lose_write(&mut self, sectors: Range<usize>) -> bool {
        if sectors.clone().any(|at| !self.cells[at].cached.is_empty()) {
            return false;
        }
        for at in sectors {
            let cell = &mut self.cells[at];
            cell.durable = cell.before.take();
            self.lost.insert(at);
            self.note_damage(at);
        }
        true
    }

    fn note_damage(&mut self, sector: usize) -> bool {
        self.counts.damaged += u64::from(self.damaged.insert(sector, self.writes).is_none());
        true
    }
}

/// A write is durable: what was damaged before it is whole again. Says whether something was.
fn mend(damaged: &mut BTreeMap<usize, u64>, at: usize, write: u64) -> bool {
    let over = damaged.get(&at).is_some_and(|before| write > *before);
    over && damaged.remove(&at).is_some()
}

fn sector_at(offset: u64) -> usize {
    assert!(offset.is_multiple_of(SECTOR as u64), "disk operations are sector aligned");
    usize::try_from(offset).expect("simulated disks are small") / SECTOR
}

#[cfg(test)]
mod tests {
    use tigerchat_core::pool::{Class, Pool};

    use super::*;

    const LATER: Instant = Instant(u64::MAX / 2);

    struct Bench {
        disk: Disk,
        pool: Pool,
    }

    impl Bench {
        fn new(seed: u64) -> Self {
            let us = Duration::from_micros;
            let speed = DiskSpeed { read: us(1)..=us(2), write: us(1)..=us(9), flush: us(50)..=us(90) };
            let disk = Disk::new(16 * SECTOR as u64, speed, Random::new(seed, "disk", 0));
            Self { disk, pool: Pool::new(&[Class { size: 4 * SECTOR, count: 4 }]) }
        }

        fn submit(&mut self, sectors: usize, fill: u8, durable: bool) -> Ticket {
            let mut data = self.pool.draft(sectors * SECTOR).unwrap();
            data.resize(sectors * SECTOR);
            data.bytes_mut().fill(fill);
            let op = DiskOp::Write { token: Token(1), offset: 0, data: data.seal(), durable };
            self.disk.submit(Instant(0), op).0
        }

        fn finish(&mut self, ticket: Ticket) {
            while let Some(Step::Wait(_)) = self.disk.step(LATER, ticket) {}
        }

        fn read(&mut self, sectors: usize) -> Vec<u8> {
            let bytes = self.disk.beginning(sectors * SECTOR);
            bytes.chunks(SECTOR).map(|sector| sector[0]).collect()
        }
    }

    #[test]
    fn reads_see_what_is_cached_and_a_process_that_ends_loses_nothing_of_it() {
        let mut bench = Bench::new(1);
        let ticket = bench.submit(4, 7, false);
        bench.finish(ticket);
        assert_eq!(bench.read(4), [7; 4]);
        bench.disk.process_ended();
        assert_eq!(bench.read(4), [7; 4]);
    }

    #[test]
    fn h04_what_a_flush_covered_survives_every_power_cut() {
        for seed in 0..50 {
            let mut bench = Bench::new(seed);
            let ticket = bench.submit(4, 7, true);
            bench.finish(ticket);
            bench.disk.power_lost();
            assert_eq!(bench.read(4), [7; 4]);
        }
    }

    #[test]
    fn a_power_cut_keeps_any_subset_of_what_was_not_flushed() {
        let mut seen = BTreeSet::new();
        for seed in 0..400 {
            let mut bench = Bench::new(seed);
            let durable = bench.submit(3, 1, true);
            bench.finish(durable);
            // Written, and its flush has begun but not ended.
            let ticket = bench.submit(3, 2, true);
            assert!(matches!(bench.disk.step(Instant(0), ticket), Some(Step::Wait(_))));
            bench.disk.power_lost();
            assert!(bench.disk.step(LATER, ticket).is_none(), "nobody waits for it any more");
            seen.insert(bench.read(3));
            assert!(bench.pool.is_full());
        }
        assert_eq!(seen.len(), 8, "all subsets of three sectors: {seen:?}");
    }

    #[test]
    fn a_power_cut_may_keep_what_was_written_last_and_lose_all_before_it() {
        let kept = (0..200).filter(|seed| {
            let mut bench = Bench::new(*seed);
            let pool = bench.pool.clone();
            for at in 0..8 {
                let mut data = pool.draft(SECTOR).unwrap();
                data.resize(SECTOR);
                data.bytes_mut().fill(1);
                let offset = at * SECTOR as u64;
                let op = DiskOp::Write { token: Token(1), offset, data: data.seal(), durable: false };
                let ticket = bench.disk.submit(Instant(0), op).0;
                bench.finish(ticket);
            }
            bench.disk.power_lost();
            bench.read(8) == [0, 0, 0, 0, 0, 0, 0, 1]
        });
        assert!(kept.count() > 2, "a flush that is left out is seen");
    }

    #[test]
    fn a_process_that_ends_in_mid_write_leaves_it_torn() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let mut bench = Bench::new(seed);
            bench.submit(3, 2, true);
            bench.disk.process_ended();
            seen.insert(bench.read(3));
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
    }

    #[test]
    fn a_flush_covers_only_what_was_written_before_it_began() {
        let mut survived = BTreeSet::new();
        for seed in 0..50 {
            let mut bench = Bench::new(seed);
            let early = bench.submit(1, 1, true);
            assert!(matches!(bench.disk.step(Instant(0), early), Some(Step::Wait(_))));
            let late = bench.submit(1, 2, false);
            bench.finish(late);
            bench.finish(early);
            bench.disk.power_lost();
            survived.extend(bench.read(1));
        }
        assert_eq!(survived, BTreeSet::from([1, 2]), "the early write is safe, the late one is not");
    }

    #[test]
    fn what_was_cached_by_a_process_that_ended_is_safe_only_after_a_new_flush() {
        let mut bench = Bench::new(3);
        let ticket = bench.submit(2, 9, false);
        bench.finish(ticket);
        bench.disk.process_ended();
        let (sync, _) = bench.disk.submit(Instant(0), DiskOp::Sync { token: Token(2) });
        bench.finish(sync);
        bench.disk.power_lost();
        assert_eq!(bench.read(2), [9; 2]);
    }
}
