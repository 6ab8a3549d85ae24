//! A forest, its disk, and a model of what it holds, driven by one list of steps.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tigerchat_core::store::forest::{Checkpoint, Forest, ForestShape, Opening, Standing};
use tigerchat_core::store::grid::GridShape;
use tigerchat_core::store::grid::block::BlockRef;
use tigerchat_core::store::grid::cache::Cache;
use tigerchat_core::store::history::Key;
use tigerchat_core::store::history::reader::{Direction, Ended, Page, Seek, Sought};
use tigerchat_core::store::history::record::{Record, State};
use tigerchat_core::store::pages::TableShape;
use tigerchat_core::wire::entry::Digest;

use super::disk::{Dice, Disk};

pub(crate) const ROOMS: u32 = 6;
pub(crate) const SLOTS: u32 = 200;

/// Blocks of one sector, levels of two runs: everything happens within a few hundred messages.
pub(crate) fn shape() -> ForestShape {
    ForestShape {
        grid: GridShape { offset: 1 << 20, block_sectors: 1, blocks_max: 3000, step: 16 },
        rooms: ROOMS,
        fan_out: 2,
        record_max: 1000,
        page_bytes: 120,
        tables: vec![TableShape { slot_bytes: 24, slots: SLOTS }, TableShape { slot_bytes: 100, slots: 9 }],
        erasures_max: 40,
        erasures_per_work: 16,
        under_way: 6,
        interval_records: 100,
        interval_bytes: 20_000,
        interval_bytes_max: 27_000,
    }
}

/// One op of the log, or the end of an interval.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Do {
    Say {
        room: u32,
        size: usize,
    },
    Set {
        slot: u32,
        value: u8,
    },
    /// Cuts a room off so many messages before its head.
    Cut {
        room: u32,
        left: u64,
    },
    /// Erases a message so many before its room's head.
    Erase {
        room: u32,
        back: u64,
    },
    /// Erases the last so many messages of a room: more than one work goes after.
    EraseMany {
        room: u32,
        count: u64,
    },
    End,
}

pub(crate) fn steps(count: usize) -> impl Strategy<Value = Vec<Do>> {
    let step = prop_oneof![
        12 => (0..ROOMS, 0usize..900).prop_map(|(room, size)| Do::Say { room, size: if size < 600 { size / 8 } else { size } }),
        4 => (0..SLOTS, any::<u8>()).prop_map(|(slot, value)| Do::Set { slot, value }),
        1 => (0..ROOMS, 0u64..30).prop_map(|(room, left)| Do::Cut { room, left }),
        1 => (0..ROOMS, 0u64..30).prop_map(|(room, back)| Do::Erase { room, back }),
        1 => (0..ROOMS, 0u64..40).prop_map(|(room, count)| Do::EraseMany { room, count }),
        2 => Just(Do::End),
    ];
    prop::collection::vec(step, 0..count)
}

/// What was said, as a model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) time: u64,
    pub(crate) content: Vec<u8>,
    pub(crate) is_erased: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) rooms: BTreeMap<u32, Vec<Said>>,
    pub(crate) firsts: BTreeMap<u32, u64>,
    pub(crate) slots: BTreeMap<u32, u8>,
    pub(crate) op: u64,
}

impl Model {
    pub(crate) fn head(&self, room: u32) -> u64 {
        self.rooms.get(&room).map_or(0, |said| said.len() as u64)
    }

    pub(crate) fn first(&self, room: u32) -> u64 {
        self.firsts.get(&room).copied().unwrap_or(1)
    }
}

pub(crate) struct World {
    pub(crate) forest: Forest,
    pub(crate) disk: Disk,
    pub(crate) cache: Cache,
    dice: Dice,
    /// Whether work is done in small parts between ops and writes end in any order.
    is_busy: bool,
    pub(crate) model: Model,
    /// The model as of the checkpoint that is due or under way.
    frozen: Model,
    /// What the superblock names, and the model as of then.
    pub(crate) durable: Option<(Checkpoint, Model)>,
    /// Every checkpoint that became durable.
    pub(crate) made: Vec<Checkpoint>,
    /// The power goes after so many writes.
    pub(crate) writes_left: usize,
    submitted: Vec<u64>,
    /// What the work will want is given to it before it does. (A busy world does so with some of it.)
    pub(crate) reads_ahead: bool,
    /// Times that the work could not go on without a block.
    pub(crate) waits: usize,
}

/// The power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PowerCut;

impl World {
    pub(crate) fn new(shape: ForestShape, seed: u64, cache_blocks: usize, is_busy: bool) -> Self {
        Self {
            disk: Disk::new(shape.grid),
            cache: Cache::new(cache_blocks, shape.grid.payload_max()),
            forest: Forest::new(shape),
            dice: Dice(seed),
            is_busy,
            model: Model::default(),
            frozen: Model::default(),
            durable: None,
            made: Vec::new(),
            writes_left: usize::MAX,
            submitted: Vec::new(),
            reads_ahead: false,
            waits: 0,
        }
    }

    pub(crate) fn play(&mut self, steps: &[Do]) -> Result<(), PowerCut> {
        steps.iter().try_for_each(|step| self.step(*step))
    }

    pub(crate) fn step(&mut self, step: Do) -> Result<(), PowerCut> {
        self.model.op += 1;
        if self.forest.is_due() {
            self.forest.begin();
        }
        match step {
            Do::Say { room, size } => self.say(room, size),
            Do::Set { slot, value } => {
                self.forest.slot_mut(0, slot)[..2].copy_from_slice(&[value, 1]);
                self.model.slots.insert(slot, value);
            }
            Do::Cut { room, left } => {
                let first = (self.model.head(room) + 1).saturating_sub(left).max(1);
                self.forest.cut(room, first);
                let cut = self.model.firsts.entry(room).or_insert(1);
                *cut = first.max(*cut);
                assert_eq!(self.forest.first(room), *cut);
            }
            Do::Erase { room, back } => self.erase(room, back),
            Do::EraseMany { room, count } => (0..count).for_each(|back| self.erase(room, back)),
            Do::End => {
                self.finish()?;
                self.name();
                self.forest.freeze(self.model.op, &self.model.op.to_le_bytes());
                self.frozen = self.model.clone();
            }
        }
        if self.is_busy && self.dice.roll(3) == 0 { self.turn().map(|_| ()) } else { Ok(()) }
    }

    fn say(&mut self, room: u32, size: usize) {
        let (seq, time) = (self.model.head(room) + 1, self.model.op * 10);
        let content = content(room, seq, size);
        let (parent, state, chain) = (seq / 2, State::Whole, chain(room, seq));
        self.forest.append(&Record {
            room,
            seq,
            time,
            parent,
            chain,
            state,
            meta: b"meta",
            content: &content,
        });
        self.model.rooms.entry(room).or_default().push(Said { time, content, is_erased: false });
    }

    fn erase(&mut self, room: u32, back: u64) {
        let head = self.model.head(room);
        let Some(seq) = head.checked_sub(back).filter(|seq| *seq >= self.model.first(room)) else { return };
        if self.forest.erase(Key { room, seq }) {
            self.model.rooms.get_mut(&room).expect("it has messages")[seq as usize - 1].is_erased = true;
        }
    }

    /// Works until the checkpoint that was begun is durable.
    pub(crate) fn finish(&mut self) -> Result<(), PowerCut> {
        while !self.forest.is_complete() && !self.forest.is_due() {
            self.turn()?;
        }
        Ok(())
    }

    /// Ends the interval and works until its checkpoint is durable.
    pub(crate) fn checkpoint(&mut self) -> Result<Checkpoint, PowerCut> {
        self.step(Do::End)?;
        self.complete()
    }

    /// Works until the checkpoint that is due is durable.
    pub(crate) fn complete(&mut self) -> Result<Checkpoint, PowerCut> {
        self.forest.begin();
        self.finish()?;
        self.name();
        Ok(self.forest.newest().expect("it was made"))
    }

    /// A part of the work, some reads, some writes.
    fn turn(&mut self) -> Result<(), PowerCut> {
        let steps = if self.is_busy { self.dice.roll(3) as u32 } else { 100 };
        let standing = self.forest.advance(steps).expect("there is room");
        self.waits += usize::from(standing == Standing::Reads);
        while let Some((reference, payload)) = self.forest.writer().next_write() {
            self.writes_left = self.writes_left.checked_sub(1).ok_or(PowerCut)?;
            self.disk.write(reference.address, payload);
            self.submitted.push(reference.address);
        }
        let ended =
            if self.is_busy { self.dice.roll(self.submitted.len() + 1) } else { self.submitted.len() };
        for _ in 0..ended {
            let nth = if self.is_busy { self.dice.roll(self.submitted.len()) } else { 0 };
            let address = self.submitted.remove(nth);
            // Now and then the disk refuses one: it comes again.
            if self.is_busy && self.dice.roll(10) == 0 {
                self.forest.writer().refused(address);
            } else {
                self.forest.writer().written(address);
            }
        }
        self.read_wanted();
        // The superblock may take as long as it likes, until the next freeze waits for it.
        if !self.is_busy || self.dice.roll(8) == 0 {
            self.name();
        }
        Ok(())
    }

    fn read_wanted(&mut self) {
        let wanted: Vec<BlockRef> = self.forest.wanted().copied().collect();
        let first = if self.is_busy { self.dice.roll(wanted.len()) } else { 0 };
        let ahead: Vec<BlockRef> = self.forest.ahead().copied().collect();
        let (dice, is_busy, all) = (&mut self.dice, self.is_busy, self.reads_ahead);
        let ahead: Vec<_> = ahead.iter().filter(|_| all || is_busy && dice.roll(3) == 0).collect();
        // Some come twice, and in any order.
        for reference in
            ahead.iter().rev().copied().chain(wanted.iter().skip(first)).chain(ahead.first().copied())
        {
            let payload = self.payload(reference);
            self.forest.give(reference, &payload).expect("it is one of ours");
        }
    }

    fn payload(&mut self, reference: &BlockRef) -> Vec<u8> {
        if let Some(payload) = self.cache.get(reference) {
            return payload.to_vec();
        }
        let payload = match self.forest.writer().get(reference) {
            Some(payload) => payload.to_vec(),
            None => self.disk.read(reference).expect("what is referenced is whole"),
        };
        self.cache.put(*reference, &payload);
        payload
    }

    /// The superblock names the checkpoint that is complete, unless it does already.
    fn name(&mut self) {
        let Some(checkpoint) = self.forest.newest().filter(|newest| self.made.last() != Some(newest)) else {
            return;
        };
        if !self.forest.is_complete() {
            return;
        }
        self.disk.flush();
        self.disk.protected = self.forest.references().map(|reference| reference.address).collect();
        self.made.push(checkpoint);
        self.durable = Some((checkpoint, self.frozen.clone()));
    }

    /// The process ends here and another begins with what the superblock names. What was said since is lost.
    pub(crate) fn restart(self) -> Self {
        let Self { mut disk, mut dice, durable, made, is_busy, cache, reads_ahead, waits, .. } = self;
        disk.cut_power(&mut dice);
        let shape = self.forest.shape().clone();
        let (forest, model) = match &durable {
            Some((checkpoint, model)) => (open(&disk, shape, *checkpoint), model.clone()),
            None => (Forest::new(shape), Model::default()),
        };
        Self {
            forest,
            disk,
            cache,
            dice,
            is_busy,
            frozen: model.clone(),
            model,
            durable,
            made,
            writes_left: usize::MAX,
            submitted: Vec::new(),
            reads_ahead,
            waits,
        }
    }

    /// No block leaks and none is named twice: what is referenced and what is free are all there is.
    pub(crate) fn check_blocks(&self) {
        let mut named: Vec<u64> = self.forest.references().map(|reference| reference.address).collect();
        named.sort_unstable();
        assert!(self.forest.free_set().referenced().eq(named), "named and not free are the same");
        for reference in self.forest.references() {
            self.disk.read(reference).expect("what is referenced is whole");
        }
        // Runs of higher levels, and earlier ones of a level, are older, in every room.
        for room in 0..ROOMS {
            let levels = self.forest.tree().levels.iter().rev();
            let firsts: Vec<u64> =
                levels.flat_map(|level| &level.runs).filter_map(|run| run.first_of(room)).collect();
            assert!(firsts.is_sorted_by(|one, next| one < next), "room {room}: {firsts:?}");
        }
    }

    /// Everything as the model has it, through pages of random places and sizes, both ways.
    pub(crate) fn check_reads(&mut self, pages: usize) {
        for room in 0..ROOMS {
            self.check_page(room, 0, Direction::Up, u32::MAX);
        }
        for _ in 0..pages {
            let room = self.dice.roll(ROOMS as usize) as u32;
            let from = self.dice.roll(self.model.head(room) as usize + 2) as u64;
            let direction = [Direction::Up, Direction::Down][self.dice.roll(2)];
            let limit = self.dice.roll(30) as u32;
            self.check_page(room, from, direction, limit);
            self.check_seek(room);
        }
        for slot in 0..SLOTS {
            let expected = self.model.slots.get(&slot).map_or([0, 0], |value| [*value, 1]);
            assert_eq!(self.forest.slot(0, slot)[..2], expected, "slot {slot}");
        }
    }

    /// A page is what the model has, and costs no more reads than it may.
    pub(crate) fn check_page(&mut self, room: u32, from: u64, direction: Direction, limit: u32) -> u32 {
        let (first, last) = (self.model.first(room), self.model.head(room));
        let mut page = Page::new(room, from, direction, limit, first, last);
        let (mut seqs, mut bytes) = (Vec::new(), 0);
        let model = self.model.rooms.get(&room).map_or(&[][..], |said| said);
        loop {
            let mut sink = |record: &Record<'_>| {
                let said = &model[record.seq as usize - 1];
                assert_eq!(
                    (record.room, record.time, record.chain),
                    (room, said.time, chain(room, record.seq))
                );
                if said.is_erased {
                    assert_eq!(record.state, State::Erased);
                    assert_eq!(record.content, Digest::of(&said.content).0);
                } else {
                    assert_eq!((record.state, record.content), (State::Whole, &said.content[..]));
                }
                seqs.push(record.seq);
                bytes += record.size();
                true
            };
            match page.go_on(&self.forest.view(), &mut self.cache, &mut sink).expect("it is there") {
                Ended::Done => break,
                Ended::Needs(reference) => {
                    let payload = match self.forest.writer().get(&reference) {
                        Some(payload) => payload.to_vec(),
                        None => self.disk.read(&reference).expect("what is referenced is whole"),
                    };
                    self.cache.put(reference, &payload);
                }
            }
        }
        let expected: Vec<u64> = match direction {
            Direction::Up => (from.max(first)..=last).take(limit as usize).collect(),
            Direction::Down => (first..=from.min(last)).rev().take(limit as usize).collect(),
        };
        assert_eq!(seqs, expected, "room {room} from {from} {direction:?} limit {limit}");
        // Blocks are at least three quarters full, but for the last of each part of a run.
        let body = self.forest.shape().grid.body_max();
        let bound = 2 * self.forest.tree().runs().count() + bytes / (body * 3 / 4);
        assert!(page.blocks as usize <= bound, "{} blocks for {bytes} bytes", page.blocks);
        page.blocks
    }

    fn check_seek(&mut self, room: u32) {
        let (first, last) = (self.model.first(room), self.model.head(room));
        let time = self.dice.roll(self.model.op as usize * 10 + 20) as u64;
        let mut seek = Seek::new(room, time, first, last);
        let mut needs = 0;
        let found = loop {
            match seek.look(&self.forest.view(), &mut self.cache).expect("it is there") {
                Sought::Seq(seq) => break seq,
                Sought::Needs(reference) => {
                    needs += 1;
                    let payload = self.payload(&reference);
                    self.cache.put(reference, &payload);
                }
            }
        };
        assert!(needs <= 3, "a seek reads three blocks at most");
        let said = self.model.rooms.get(&room).map_or(&[][..], |said| said);
        let expected = (first..=last).find(|seq| said[*seq as usize - 1].time >= time).unwrap_or(last + 1);
        assert_eq!(found, expected, "room {room} since {time} {first} {last}");
    }
}

fn content(room: u32, seq: u64, size: usize) -> Vec<u8> {
    format!("<{room}.{seq}>").bytes().cycle().take(size.max(9)).collect()
}

fn chain(room: u32, seq: u64) -> Digest {
    Digest::of(format!("{room} {seq}").as_bytes())
}

/// Opens a checkpoint from a disk.
pub(crate) fn open(disk: &Disk, shape: ForestShape, checkpoint: Checkpoint) -> Forest {
    let mut opening = Opening::new(shape, checkpoint);
    while let Some(reference) = opening.wanted().first().copied() {
        let payload = disk.read(&reference).expect("what is referenced is whole");
        opening.give(&payload).expect("it is one of ours");
    }
    opening.done().expect("nothing is wanted any more")
}
