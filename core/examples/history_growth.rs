//! How the cost of history grows: bytes on disk per message, write amplification, blocks read for a cold page, memory
//! of indexes, time to open, the longest pauses. One thread, no replication: it is the storage engine alone.
//!
//! `cargo run --release -p tigerchat-core --example history_growth -- --messages 5000000 [--rooms 100000]
//! [--interval 65536] [--file PATH]`
//!
//! Without `--file` blocks are kept in memory as payloads; with it they are sealed, written and read in one file
//! (buffered, without a flush: flushing is measured by `tigerchat bench`).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use tigerchat_core::store::forest::{Forest, ForestShape, Opening, Standing};
use tigerchat_core::store::grid::GridShape;
use tigerchat_core::store::grid::block::{self, BlockRef, Kind};
use tigerchat_core::store::grid::cache::Cache;
use tigerchat_core::store::history::reader::{Direction, Ended, Page};
use tigerchat_core::store::history::record::{RECORD_HEAD, Record, State};
use tigerchat_core::store::pages::TableShape;
use tigerchat_core::store::sector::{Place, Zone};
use tigerchat_core::types::{ClusterId, ShardId};
use tigerchat_core::wire::entry::Digest;

const PLACE: Place<'_> = Place { cluster: ClusterId(1), shard: ShardId(1), zone: Zone::Grid, sealing: None };
const BODY: usize = 100;
/// Author, content type, key, op, index, kind.
const META: usize = 49;
/// Keys that are remembered.
const KEYS: u32 = 1 << 18;

enum Disk {
    Memory(BTreeMap<u64, Vec<u8>>),
    File(File),
}

struct Bench {
    forest: Forest,
    shape: ForestShape,
    disk: Disk,
    image: Vec<u8>,
    reads: u64,
    /// Pauses that freezes and steps made since the last report, nanoseconds.
    freezes: Vec<u64>,
    steps: Vec<u64>,
}

fn main() {
    let option = |name: &str| {
        let mut arguments = std::env::args().skip_while(|argument| argument != name);
        arguments.nth(1)
    };
    let number = |name: &str, default: u64| option(name).map_or(default, |value| value.parse().expect(name));
    let messages = number("--messages", 1_000_000);
    let rooms = u32::try_from(number("--rooms", 100_000)).expect("--rooms");
    let interval = number("--interval", 65_536);
    let shape = ForestShape {
        grid: GridShape { offset: 0, block_sectors: 16, blocks_max: 1 << 22, step: 1024 },
        rooms,
        fan_out: 8,
        record_max: 16_100,
        page_bytes: 4000,
        tables: vec![
            TableShape { slot_bytes: 128, slots: rooms },
            TableShape { slot_bytes: 132, slots: KEYS },
        ],
        erasures_max: 4096,
        erasures_per_work: 16,
        under_way: 32,
        interval_records: u32::try_from(interval).expect("--interval"),
        interval_bytes: u32::try_from(interval * 240).expect("--interval"),
        interval_bytes_max: interval * 240,
    };
    let disk = match option("--file") {
        None => Disk::Memory(BTreeMap::new()),
        Some(path) => {
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(true);
            Disk::File(options.open(path).expect("the file can be made"))
        }
    };
    let image = vec![0; shape.grid.block_bytes()];
    let mut bench = Bench {
        forest: Forest::new(shape.clone()),
        shape,
        disk,
        image,
        reads: 0,
        freezes: Vec::new(),
        steps: Vec::new(),
    };
    println!(
        "what is written is counted in payloads of 233 bytes; pauses are in ms: median, 99.9 %, longest"
    );
    println!(
        "messages  kmsg/s  B/message  x payload | written: all records pages | runs index MiB | cold page: blocks mean max | open ms | freeze            | step"
    );
    bench.run(messages, rooms, interval);
}

impl Bench {
    fn run(&mut self, messages: u64, rooms: u32, interval: u64) {
        let (mut heads, mut dice) = (vec![0u64; rooms as usize], 1u64);
        let (mut said, mut next_report, mut since) = (0, messages.div_ceil(5).min(1_000_000), Instant::now());
        let mut said_before = 0;
        while said < messages {
            let end = (said + interval).min(messages);
            while said < end {
                said += 1;
                self.say(said, &mut heads, &mut dice);
                // The work is paced by ops: so much in one interval that it ends within it.
                if said.is_multiple_of(32) && !self.forest.is_complete() {
                    self.work();
                }
            }
            while !self.forest.is_complete() {
                self.work();
            }
            let begun = Instant::now();
            self.forest.freeze(said, &[0; 128]);
            self.forest.begin();
            self.freezes.push(begun.elapsed().as_nanos() as u64);
            if said >= next_report || said == messages {
                while !self.forest.is_complete() {
                    self.work();
                }
                let rate = (said - said_before) as f64 / since.elapsed().as_secs_f64() / 1000.0;
                self.report(said, rate, &heads, &mut dice);
                (said_before, since, next_report) = (said, Instant::now(), said + messages / 5);
            }
        }
    }

    fn say(&mut self, said: u64, heads: &mut [u64], dice: &mut u64) {
        let room = roll(dice, heads.len() as u64) as u32;
        heads[room as usize] += 1;
        let mut content = [0; 16 + BODY];
        for part in content.chunks_mut(8) {
            let word = roll(dice, u64::MAX).to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
        let chain = Digest([said as u8; 32]);
        let (seq, time, state) = (heads[room as usize], said * 1000, State::Whole);
        self.forest.append(&Record {
            room,
            seq,
            time,
            parent: 0,
            chain,
            state,
            meta: &[7; META],
            content: &content,
        });
        self.forest.slot_mut(0, room)[..8].copy_from_slice(&seq.to_le_bytes());
        self.forest.slot_mut(1, said as u32 % KEYS)[..8].copy_from_slice(&said.to_le_bytes());
    }

    fn work(&mut self) {
        let begun = Instant::now();
        let standing = self.forest.advance(1).expect("there is room");
        self.steps.push(begun.elapsed().as_nanos() as u64);
        if standing == Standing::Reads {
            let wanted: Vec<BlockRef> = self.forest.wanted().copied().collect();
            for reference in wanted {
                let payload = self.read(&reference);
                self.forest.give(&reference, &payload).expect("it is one of ours");
            }
        }
        while let Some((reference, payload)) = self.forest.writer().next_write() {
            match &mut self.disk {
                Disk::Memory(blocks) => {
                    blocks.insert(reference.address, payload.to_vec());
                }
                Disk::File(file) => {
                    let image = &mut self.image;
                    block::seal(PLACE, &self.shape.grid, payload, image);
                    let offset = self.shape.grid.offset_of(reference.address);
                    file.write_all_at(image, offset).expect("the file can be written");
                }
            }
            self.forest.writer().written(reference.address);
        }
    }

    fn read(&mut self, reference: &BlockRef) -> Vec<u8> {
        self.reads += 1;
        match &self.disk {
            Disk::Memory(blocks) => {
                let payload = blocks[&reference.address].clone();
                block::check(&self.shape.grid, reference, &payload).expect("what is referenced is whole");
                payload
            }
            Disk::File(file) => {
                let (grid, mut payload) = (&self.shape.grid, Vec::new());
                self.image.fill(0);
                // The last block may end before its last sector.
                let mut at = 0;
                while let Ok(more) =
                    file.read_at(&mut self.image[at..], grid.offset_of(reference.address) + at as u64)
                    && more > 0
                {
                    at += more;
                }
                block::open(PLACE, grid, reference, &self.image, &mut payload).expect("it is whole");
                payload
            }
        }
    }

    fn report(&mut self, said: u64, rate: f64, heads: &[u64], dice: &mut u64) {
        let payload = (RECORD_HEAD + META + 16 + BODY) as f64;
        let blocks = self.forest.free_set().used() - self.forest.free_set().released();
        let on_disk = (blocks * self.shape.grid.block_bytes() as u64) as f64 / said as f64;
        let written = self.forest.writer().counts().bytes;
        let times = |kind: Kind| written[kind as usize - 1] as f64 / said as f64 / payload;
        let all = written.iter().sum::<u64>() as f64 / said as f64 / payload;
        let (mut sum, mut max) = (0, 0);
        for _ in 0..1000 {
            let room = roll(dice, heads.len() as u64) as u32;
            let from = roll(dice, heads[room as usize] + 1);
            let blocks = self.page(room, from, heads[room as usize]);
            (sum, max) = (sum + blocks, max.max(blocks));
        }
        let begun = Instant::now();
        let mut opening = Opening::new(self.shape.clone(), self.forest.newest().expect("one was made"));
        while let Some(reference) = opening.wanted().first().copied() {
            let payload = self.read(&reference);
            opening.give(&payload).expect("it is one of ours");
        }
        let opened = opening.done().is_some();
        assert!(opened, "it opens");
        let open = begun.elapsed().as_secs_f64() * 1000.0;
        println!(
            "{said:>9} {rate:>6.0} {on_disk:>10.1} {:>9.2} {all:>14.2} {:>7.2} {:>6.2} {:>6} {:>9.1} {:>17.1} {max:>5} {open:>11.0}   {}   {}",
            on_disk / payload,
            times(Kind::Records),
            times(Kind::Pages),
            self.forest.tree().runs().count(),
            self.forest.index_memory() as f64 / f64::from(1 << 20),
            f64::from(sum) / 1000.0,
            pauses(&mut self.freezes),
            pauses(&mut self.steps),
        );
    }

    /// Blocks read for a page of 50 messages when nothing of it is cached.
    fn page(&mut self, room: u32, from: u64, head: u64) -> u32 {
        let mut page = Page::new(room, from, Direction::Up, 50, 1, head);
        let mut cache = Cache::new(8, self.shape.grid.payload_max());
        let mut reads = 0;
        loop {
            let ended = page.go_on(&self.forest.view(), &mut cache, &mut |_| true).expect("it is there");
            let Ended::Needs(reference) = ended else { return reads };
            let payload = self.read(&reference);
            cache.put(reference, &payload);
            reads += 1;
        }
    }
}

fn pauses(nanos: &mut Vec<u64>) -> String {
    nanos.sort_unstable();
    let at = |share: f64| {
        nanos.get((nanos.len() as f64 * share) as usize).or(nanos.last()).map_or(0.0, |n| *n as f64 / 1e6)
    };
    let text = format!("{:.2} {:.2} {:.2}", at(0.5), at(0.999), at(1.0));
    nanos.clear();
    text
}

fn roll(dice: &mut u64, sides: u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice % sides.max(1)
}
