//! A run: messages sorted by room and sequence, in blocks that are never written again, and an index over them.
//!
//! The one law: **the index says exactly which block holds a message**: it knows the first key of each block, and of
//! each room its first sequence in the run. So no block is read in vain.
//!
//! The index lies in blocks too, and in memory while the process runs: 72 bytes for each block of messages and 12 for
//! each room of a run. Layouts: `docs/formats.md`, "Run".

use alloc::vec::Vec;
use core::ops::Range;

use super::Key;
use super::record::{RECORD_HEAD, Record};
use crate::store::grid::block::{BLOCK_REF, BlockRef, Kind};
use crate::store::grid::writer::Writer;
use crate::store::grid::{GridFull, GridShape};
use crate::wire::codec::{Malformed, Reader};

/// A block of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub reference: BlockRef,
    /// Its first message.
    pub first: Key,
    /// That message's time.
    pub time: u64,
    pub records: u32,
}

/// Bytes of an encoded [`Entry`] without the rooms that begin in it.
const ENTRY: usize = BLOCK_REF + 4 + 8 + 8 + 4 + 4;
/// Bytes of a room that begins in a block.
const START: usize = 4 + 8;

/// A block of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRef {
    pub reference: BlockRef,
    /// Entries that it holds.
    pub entries: u32,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub entries: Vec<Entry>,
    pub index: Vec<IndexRef>,
    /// Rooms of this run, ascending, and of each its first sequence here.
    rooms: Vec<u32>,
    firsts: Vec<u64>,
    pub totals: Totals,
}

/// Sums over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub records: u64,
    /// Bytes of the records.
    pub bytes: u64,
    pub last_time: u64,
    /// Number of the checkpoint whose cuts and erasures were applied to all of it.
    pub filtered: u64,
}

impl Run {
    /// The room's first sequence in this run.
    #[must_use]
    pub fn first_of(&self, room: u32) -> Option<u64> {
        self.rooms.binary_search(&room).ok().map(|at| self.firsts[at])
    }

    /// The block that holds this key if the run does.
    #[must_use]
    pub fn find(&self, key: Key) -> Option<&Entry> {
        let at = self.entries.partition_point(|entry| entry.first <= key);
        self.entries.get(at.checked_sub(1)?)
    }

    /// The blocks that hold what the run has between two keys, both included.
    #[must_use]
    pub fn between(&self, from: Key, to: Key) -> &[Entry] {
        let start = self.entries.partition_point(|entry| entry.first <= from).saturating_sub(1);
        let end = self.entries.partition_point(|entry| entry.first <= to);
        self.entries.get(start..end).unwrap_or(&[])
    }

    /// Among the blocks that begin before `until`: the last that begins with a message of the room that is not after
    /// `time`, but none before the one that holds `from`.
    pub(super) fn find_since(&self, from: Key, time: u64, until: Key) -> Option<&Entry> {
        let is_before = |entry: &Entry| {
            let sooner = entry.first.room < from.room || entry.first.room == from.room && entry.time <= time;
            sooner && entry.first < until
        };
        let at = self.entries.partition_point(is_before);
        let last = at.checked_sub(1).and_then(|at| self.entries.get(at));
        last.into_iter().chain(self.find(from)).max_by_key(|entry| entry.first)
    }

    /// Bytes that the index takes in memory.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.entries.len() * size_of::<Entry>()
            + self.rooms.len() * START
            + self.index.len() * size_of::<IndexRef>()
    }

    /// All blocks of the run.
    pub fn references(&self) -> impl Iterator<Item = &BlockRef> {
        let index = self.index.iter().map(|index| &index.reference);
        index.chain(self.entries.iter().map(|entry| &entry.reference))
    }

    /// Forgets the blocks of the index (and their entries) that lie wholly before entry `consumed`, handing each to
    /// `gone`; returns how many entries that were.
    pub(super) fn prune(&mut self, consumed: usize, mut gone: impl FnMut(&BlockRef)) -> usize {
        let mut entries = 0;
        let mut blocks = 0;
        for index in &self.index {
            if entries + index.entries as usize > consumed {
                break;
            }
            entries += index.entries as usize;
            blocks += 1;
            gone(&index.reference);
        }
        self.index.drain(..blocks);
        self.entries.drain(..entries);
        if entries > 0 {
            let first = self.entries.first().map_or(Key::END, |entry| entry.first);
            let rooms = self.rooms.partition_point(|room| *room < first.room);
            self.rooms.drain(..rooms);
            self.firsts.drain(..rooms);
            self.begin_with_first_entry();
        }
        entries
    }

    /// A run whose beginning was consumed begins in the middle of a room: the index says where.
    fn begin_with_first_entry(&mut self) {
        let Some(Entry { first, .. }) = self.entries.first() else { return };
        if self.rooms.first() == Some(&first.room) {
            self.firsts[0] = first.seq;
        } else {
            self.rooms.insert(0, first.room);
            self.firsts.insert(0, first.seq);
        }
    }

    /// Appends what a block of the index holds; the blocks before it were appended.
    pub fn extend(&mut self, shape: &GridShape, body: &[u8], entries: u32) -> Result<(), Malformed> {
        let mut fields = Reader::new(body);
        for _ in 0..entries {
            let reference = BlockRef::decode(&mut fields, shape)?;
            let first = Key { room: fields.u32()?, seq: fields.u64()? };
            let (time, records, starts) = (fields.u64()?, fields.u32()?, fields.u32()?);
            if self.entries.last().is_some_and(|last| last.first >= first) || records == 0 {
                return Err(Malformed);
            }
            self.entries.push(Entry { reference, first, time, records });
            for _ in 0..starts {
                let start = Key { room: fields.u32()?, seq: fields.u64()? };
                if start < first || self.rooms.last().is_some_and(|last| *last >= start.room) {
                    return Err(Malformed);
                }
                self.rooms.push(start.room);
                self.firsts.push(start.seq);
            }
        }
        self.begin_with_first_entry();
        fields.finish()
    }

    /// Appends entries as they lie in a block of the index. The run's last one ends before `until`.
    fn encode_entries(&self, entries: Range<usize>, until: Key, out: &mut Vec<u8>) {
        for at in entries {
            let entry = &self.entries[at];
            let starts = self.starts_in(at, until);
            entry.reference.encode(out);
            out.extend_from_slice(&entry.first.room.to_le_bytes());
            out.extend_from_slice(&entry.first.seq.to_le_bytes());
            out.extend_from_slice(&entry.time.to_le_bytes());
            out.extend_from_slice(&entry.records.to_le_bytes());
            out.extend_from_slice(&(starts.len() as u32).to_le_bytes());
            for at in starts {
                out.extend_from_slice(&self.rooms[at].to_le_bytes());
                out.extend_from_slice(&self.firsts[at].to_le_bytes());
            }
        }
    }

    /// The rooms that begin in a block.
    fn starts_in(&self, at: usize, until: Key) -> Range<usize> {
        let end = self.entries.get(at + 1).map_or(until, |next| next.first);
        self.starts(self.entries[at].first)..self.starts(end)
    }

    /// Writes a block of this run anew, as one block or two with the same messages, and the block of the index that
    /// names it: four blocks at most. False: it is none of this run's. `size`: bytes of the records that were in it.
    pub fn replace(
        &mut self,
        old: &BlockRef,
        size: usize,
        bodies: &[Vec<u8>],
        writer: &mut Writer,
    ) -> Result<bool, GridFull> {
        let Some(first) = Records::new(&bodies[0]).next().map(|record| record.key()) else {
            return Ok(false);
        };
        let at = self.entries.partition_point(|entry| entry.first < first);
        if self.entries.get(at).is_none_or(|entry| entry.reference != *old) {
            return Ok(false);
        }
        let (mut group, mut start) = (0, 0);
        while start + self.index[group].entries as usize <= at {
            start += self.index[group].entries as usize;
            group += 1;
        }
        let mut entries = Vec::new();
        for body in bodies {
            let reference = writer.make(Kind::Records, |out| out.extend_from_slice(body))?;
            let records = Records::new(body).count() as u32;
            let first = Records::new(body).next().expect("no body is empty");
            entries.push(Entry { reference, first: first.key(), time: first.time, records });
            self.totals.bytes += body.len() as u64;
        }
        self.totals.bytes -= size as u64;
        writer.release(old);
        writer.release(&self.index[group].reference);
        let end = start + self.index[group].entries as usize + bodies.len() - 1;
        self.entries.splice(at..=at, entries);
        let mut index = Vec::new();
        while start < end {
            let mut sizes = (start..end).map(|at| ENTRY + START * self.starts_in(at, Key::END).len());
            let mut room = writer.shape.body_max();
            let fits = sizes.by_ref().take_while(|size| {
                room.checked_sub(*size).is_some_and(|left| {
                    room = left;
                    true
                })
            });
            let next = start + fits.count();
            let reference =
                writer.make(Kind::Index, |out| self.encode_entries(start..next, Key::END, out))?;
            index.push(IndexRef { reference, entries: (next - start) as u32 });
            start = next;
        }
        self.index.splice(group..=group, index);
        Ok(true)
    }

    /// Rooms that begin before a key.
    fn starts(&self, key: Key) -> usize {
        let at = self.rooms.partition_point(|room| *room < key.room);
        at + usize::from(self.rooms.get(at) == Some(&key.room) && self.firsts[at] < key.seq)
    }

    /// As the manifest keeps it. `open`: that the index is in blocks.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Totals { records, bytes, last_time, filtered } = self.totals;
        for number in [records, bytes, last_time, filtered] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(self.index.len() as u32).to_le_bytes());
        for index in &self.index {
            index.reference.encode(out);
            out.extend_from_slice(&index.entries.to_le_bytes());
        }
    }

    /// A run whose entries are still to be [read](Self::extend) from the blocks of its index.
    pub fn decode(fields: &mut Reader<'_>, shape: &GridShape) -> Result<Self, Malformed> {
        let (records, bytes) = (fields.u64()?, fields.u64()?);
        let (last_time, filtered) = (fields.u64()?, fields.u64()?);
        let mut run = Self { totals: Totals { records, bytes, last_time, filtered }, ..Self::default() };
        for _ in 0..fields.u32()? {
            let (reference, entries) = (BlockRef::decode(fields, shape)?, fields.u32()?);
            if entries == 0 || entries as usize > shape.body_max() / ENTRY {
                return Err(Malformed);
            }
            run.index.push(IndexRef { reference, entries });
        }
        Ok(run)
    }
}

/// A run that grows: at once, or over many checkpoints as the output of a merge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Builder {
    pub run: Run,
    /// The block under way.
    body: Vec<u8>,
    first: Key,
    time: u64,
    records: u32,
    /// Room of the last record.
    room: Option<u32>,
    /// Entries at the end that a full block of the index does not hold yet, and their bytes.
    open: usize,
    open_bytes: usize,
    /// The last block of the index holds open entries, and will be replaced by one that holds more.
    written: bool,
    /// It does not hold all of them.
    dirty: bool,
}

impl Builder {
    /// A run whose entries are still to be read: [`Self::resume`] makes it grow on.
    #[must_use]
    pub fn unread(run: Run) -> Self {
        Self { run, ..Self::default() }
    }

    /// Goes on with a run that was read from a checkpoint.
    #[must_use]
    pub fn resume(run: Run) -> Self {
        let open = run.index.last().map_or(0, |index| index.entries as usize);
        let written = open > 0;
        let mut tail = Vec::new();
        run.encode_entries(run.entries.len() - open..run.entries.len(), Key::END, &mut tail);
        let room = run.rooms.last().copied();
        Self { run, open, open_bytes: tail.len(), written, room, ..Self::default() }
    }

    /// Whether a record goes into the block under way.
    #[must_use]
    pub fn fits(&self, record: &Record<'_>, shape: &GridShape) -> bool {
        self.body.len() + record.size() <= shape.body_max()
    }

    /// Whether no block is under way.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.records == 0
    }

    /// Appends the next record, which [fits](Self::fits).
    pub fn push(&mut self, record: &Record<'_>) {
        if self.records == 0 {
            (self.first, self.time) = (record.key(), record.time);
        }
        if self.room != Some(record.room) {
            self.run.rooms.push(record.room);
            self.run.firsts.push(record.seq);
            self.room = Some(record.room);
        }
        record.encode(&mut self.body);
        self.records += 1;
        let totals = &mut self.run.totals;
        totals.records += 1;
        totals.bytes += record.size() as u64;
        totals.last_time = totals.last_time.max(record.time);
    }

    /// Makes a block of what is under way, and one of the index when that is full: two blocks at most.
    pub fn close_block(&mut self, writer: &mut Writer) -> Result<(), GridFull> {
        if self.records == 0 {
            return Ok(());
        }
        let starts = self.run.rooms.len() - self.run.starts(self.first);
        let size = ENTRY + START * starts;
        if self.open_bytes + size > writer.shape.body_max() {
            self.write_index(writer)?;
            (self.open, self.open_bytes, self.written) = (0, 0, false);
        }
        let reference = writer.make(Kind::Records, |out| out.extend_from_slice(&self.body))?;
        let Self { first, time, records, .. } = *self;
        self.run.entries.push(Entry { reference, first, time, records });
        self.open += 1;
        self.open_bytes += size;
        self.dirty = true;
        self.body.clear();
        (self.first, self.time, self.records) = (Key::MIN, 0, 0);
        Ok(())
    }

    /// Makes what a checkpoint needs: the last block and the end of the index, three blocks at most.
    pub fn close(&mut self, writer: &mut Writer) -> Result<(), GridFull> {
        self.close_block(writer)?;
        self.write_index(writer)
    }

    fn write_index(&mut self, writer: &mut Writer) -> Result<(), GridFull> {
        if !self.dirty {
            return Ok(());
        }
        if self.written {
            let old = self.run.index.pop().expect("the end of the index was written");
            writer.release(&old.reference);
        }
        let from = self.run.entries.len() - self.open;
        let until = if self.records == 0 { Key::END } else { self.first };
        let reference = writer
            .make(Kind::Index, |out| self.run.encode_entries(from..self.run.entries.len(), until, out))?;
        self.run.index.push(IndexRef { reference, entries: self.open as u32 });
        (self.dirty, self.written) = (false, true);
        Ok(())
    }
}

/// Records of a block of messages, in order. Ends at the first that is none.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    fields: Reader<'a>,
}

impl<'a> Records<'a> {
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self { fields: Reader::new(body) }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.fields.rest().len() >= RECORD_HEAD).then(|| Record::decode(&mut self.fields).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::State;
    use super::*;
    use crate::store::grid::block;
    use crate::store::grid::free_set::FreeSet;
    use crate::wire::entry::Digest;
    use alloc::collections::BTreeMap;
    use alloc::vec;
    use proptest::prelude::*;

    const SHAPE: GridShape = GridShape { offset: 0, block_sectors: 1, blocks_max: 500, step: 1 };

    type Disk = BTreeMap<u64, Vec<u8>>;

    fn drain(writer: &mut Writer, disk: &mut Disk) {
        while let Some((reference, payload)) = writer.next_write() {
            let (address, payload) = (reference.address, payload.to_vec());
            disk.insert(address, payload);
            writer.written(address);
        }
    }

    fn read_back(run: &Run, disk: &Disk) -> Run {
        let mut bytes = Vec::new();
        run.encode(&mut bytes);
        let mut fields = Reader::new(&bytes);
        let mut again = Run::decode(&mut fields, &SHAPE).unwrap();
        fields.finish().unwrap();
        for index in again.index.clone() {
            let payload = &disk[&index.reference.address];
            let block = block::check(&SHAPE, &index.reference, payload).unwrap();
            again.extend(&SHAPE, block.body, index.entries).unwrap();
        }
        again
    }

    proptest! {
        /// A run that grows over several checkpoints, each of which it is read back from, like one that is made at once.
        #[test]
        fn a_run_is_read_back_as_it_was_and_finds_every_message(
            sizes in prop::collection::vec((0u32..3, 0usize..1500, any::<bool>()), 1..80),
        ) {
            let (mut writer, mut disk) = (Writer::new(SHAPE, FreeSet::new(500), 8), Disk::new());
            let mut builder = Builder::default();
            let mut keys = Vec::new();
            let (mut room, mut seq) = (0, 0);
            for (time, (skip, size, is_end)) in sizes.iter().enumerate() {
                (room, seq) = if *skip > 0 { (room + skip, 5) } else { (room, seq + 1) };
                let content = vec![7; *size];
                let record = Record {
                    room, seq, time: time as u64, parent: 0, chain: Digest::ZERO, state: State::Whole,
                    meta: &[], content: &content,
                };
                if !builder.fits(&record, &SHAPE) {
                    builder.close_block(&mut writer).unwrap();
                }
                builder.push(&record);
                keys.push(record.key());
                if *is_end {
                    builder.close(&mut writer).unwrap();
                    drain(&mut writer, &mut disk);
                    let resumed = Builder::resume(read_back(&builder.run, &disk));
                    prop_assert_eq!(&resumed.run, &builder.run);
                    prop_assert_eq!((resumed.open, resumed.open_bytes), (builder.open, builder.open_bytes));
                    builder = resumed;
                    writer.begin(1);
                }
                drain(&mut writer, &mut disk);
            }
            builder.close(&mut writer).unwrap();
            drain(&mut writer, &mut disk);
            let run = read_back(&builder.run, &disk);
            prop_assert_eq!(run.totals.records as usize, keys.len());
            let mut found = Vec::new();
            for entry in &run.entries {
                let block = block::check(&SHAPE, &entry.reference, &disk[&entry.reference.address]).unwrap();
                let records: Vec<_> = Records::new(block.body).map(|record| record.key()).collect();
                prop_assert_eq!(records.len(), entry.records as usize);
                for key in &records {
                    prop_assert_eq!(run.find(*key).map(|found| found.first), Some(entry.first));
                }
                found.extend(records);
            }
            prop_assert_eq!(&found, &keys);
            for room in 0..room + 2 {
                let first = keys.iter().find(|key| key.room == room).map(|key| key.seq);
                prop_assert_eq!(run.first_of(room), first);
            }
            // All that is referenced is the run's, and nothing of it was lost on the way.
            let mut addresses: Vec<_> = run.references().map(|reference| reference.address).collect();
            addresses.sort_unstable();
            prop_assert!(writer.free.referenced().eq(addresses));
        }

        #[test]
        fn any_bytes_are_an_index_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300), entries in 0u32..4) {
            let mut run = Run::default();
            let _ = run.extend(&SHAPE, &bytes, entries);
            let _ = Run::decode(&mut Reader::new(&bytes), &SHAPE);
            Records::new(&bytes).for_each(drop);
        }
    }
}
