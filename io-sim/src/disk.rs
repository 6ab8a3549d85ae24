//! A disk with a page cache in front of it.
//!
//! The one law: **what a completed flush covered survives everything; of what it did not, a power cut keeps any
//! subset of the sectors**, old and new side by side, in whichever of their versions. Reads see the cache. The end
//! of a process loses nothing that had reached the cache, and tears what was on its way into it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tigerchat_core::io::{DiskError, DiskOp, Token};
use tigerchat_core::pool::{Draft, Message};
use tigerchat_core::store::layout::SECTOR;
use tigerchat_core::types::Instant;

use crate::faults::DiskSpeed;
use crate::random::Random;

type Sector = Box<[u8; SECTOR]>;

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
    random: Random,
}

#[derive(Debug, Default)]
struct Cell {
    durable: Option<Sector>,
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
            random,
        }
    }

    /// Puts bytes where they are durable: formatting.
    pub fn format(&mut self, bytes: &[u8]) {
        for (cell, bytes) in self.cells.iter_mut().zip(bytes.chunks(SECTOR)) {
            let mut sector = blank();
            sector[..bytes.len()].copy_from_slice(bytes);
            cell.durable = Some(sector);
        }
    }

    /// The first bytes of the file, as a process reads them when it opens it.
    #[must_use]
    pub fn beginning(&self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.read(0, &mut read);
        read
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
                self.read(offset, into.bytes_mut());
                Step::Done(Done { token, result: Ok(Some(into.seal())) })
            }
            Work::Write { token, offset, data, durable } => {
                self.write(offset, &data, |_| true);
                if durable {
                    self.flush(now, ticket, token)
                } else {
                    Step::Done(Done { token, result: Ok(None) })
                }
            }
            Work::Sync { token } => self.flush(now, ticket, token),
            Work::Flush { token, up_to } => {
                self.settle(up_to);
                Step::Done(Done { token, result: Ok(None) })
            }
        };
        Some(step)
    }

    /// The process ended: what was on its way into the cache is there whole, in part or not at all.
    pub fn process_ended(&mut self) {
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
        let mode = self.random.below(4);
        for at in std::mem::take(&mut self.dirty) {
            let cell = &mut self.cells[at];
            let versions = cell.cached.len();
            let kept = match mode {
                0 => 0,
                1 => versions,
                _ => self.random.index(versions + 1),
            };
            if let Some((_, sector)) = cell.cached.drain(..).take(kept).next_back() {
                cell.durable = Some(sector);
            }
        }
    }

    fn flush(&mut self, now: Instant, ticket: Ticket, token: Token) -> Step {
        self.in_flight.insert(ticket, Work::Flush { token, up_to: self.writes });
        let takes = self.random.duration(&self.speed.flush.clone()) * self.slowness;
        Step::Wait(now.after(takes))
    }

    fn settle(&mut self, up_to: u64) {
        let cells = &mut self.cells;
        self.dirty.retain(|at| {
            let cell = &mut cells[*at];
            let covered = cell.cached.iter().take_while(|(write, _)| *write <= up_to).count();
            if let Some((_, sector)) = cell.cached.drain(..covered).next_back() {
                cell.durable = Some(sector);
            }
            !cell.cached.is_empty()
        });
    }

    /// Writes those sectors of `data` that `reaches` names by their index in it.
    fn write(&mut self, offset: u64, data: &[u8], reaches: impl Fn(usize) -> bool) {
        self.writes += 1;
        let first = sector_at(offset);
        for (index, bytes) in data.chunks(SECTOR).enumerate().filter(|(index, _)| reaches(*index)) {
            let mut sector = blank();
            sector[..bytes.len()].copy_from_slice(bytes);
            self.cells[first + index].cached.push((self.writes, sector));
            self.dirty.insert(first + index);
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        let first = sector_at(offset);
        for (cell, bytes) in self.cells[first..].iter().zip(into.chunks_mut(SECTOR)) {
            let newest = cell.cached.last().map(|(_, sector)| sector).or(cell.durable.as_ref());
            match newest {
                Some(sector) => bytes.copy_from_slice(&sector[..bytes.len()]),
                None => bytes.fill(0),
            }
        }
    }
}

fn blank() -> Sector {
    Box::new([0; SECTOR])
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
