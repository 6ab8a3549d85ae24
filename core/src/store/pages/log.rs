//! Where the newest copy of each page lies.
//!
//! The one law: **the newest copy counts, and blocks are in the order in which they were written.** So a checkpoint
//! needs no table of pages: it lists its blocks in order, and each block says which pages it holds.
//!
//! When all blocks could hold more than twice as many pages as there are copies that count, and some more, the block
//! with the fewest of these is emptied: they are written again with the pages that changed.

use alloc::vec;
use alloc::vec::Vec;

use super::Pages;
use crate::store::grid::block::{BLOCK_REF, BlockRef, Kind};
use crate::store::grid::writer::Writer;
use crate::store::grid::{GridFull, GridShape};
use crate::wire::codec::{Malformed, Reader};

/// The page was never written: it is as it was at format, all zeros.
const NEVER: u64 = 0;

/// See the module.
#[derive(Debug)]
pub struct PageLog {
    /// Pages that a block holds.
    capacity: usize,
    /// In the order of their numbers, which count blocks since the process began.
    blocks: Vec<PageBlock>,
    next_number: u64,
    /// Number of the block that holds a page's newest copy.
    home: Vec<u64>,
    /// Pages with a copy in some block.
    copies: usize,
    /// Pages to write for the checkpoint under way, and how many were.
    list: Vec<u32>,
    done: usize,
}

#[derive(Clone, Debug)]
struct PageBlock {
    number: u64,
    reference: BlockRef,
    pages: Vec<u32>,
    /// How many of these are the newest copies.
    live: usize,
}

/// Blocks that may be less than half full, so that a small state is not written again and again.
const SLACK: usize = 4;

impl PageLog {
    /// Pages that a block of this shape holds.
    #[must_use]
    pub fn capacity(shape: &GridShape, page_bytes: usize) -> usize {
        (shape.body_max() - 4) / (page_bytes + 4)
    }

    /// # Panics
    /// When a block can't hold a page: shapes are checked where they come from.
    #[must_use]
    pub fn new(shape: &GridShape, pages: &Pages) -> Self {
        let capacity = Self::capacity(shape, pages.page_bytes());
        assert!(capacity > 0, "a block holds a page");
        Self {
            capacity,
            blocks: Vec::new(),
            next_number: NEVER + 1,
            home: vec![NEVER; pages.len()],
            copies: 0,
            list: Vec::with_capacity(pages.len()),
            done: 0,
        }
    }

    /// An interval ends: decides which pages are written for its checkpoint, and captures them.
    pub fn freeze(&mut self, pages: &mut Pages) {
        assert!(self.is_done(), "the checkpoint before is complete");
        self.done = 0;
        pages.take_dirty(&mut self.list);
        for at in 0..self.list.len() {
            self.forget(self.list[at]);
        }
        // What is written now fills blocks; see whether older ones must be emptied for it.
        while self.must_empty() {
            let live = self.blocks.iter().enumerate().filter(|(_, block)| block.live > 0);
            let Some((at, _)) = live.min_by_key(|(_, block)| block.live) else { break };
            let number = self.blocks[at].number;
            let emptied = core::mem::take(&mut self.blocks[at].pages);
            for page in &emptied {
                if self.home[*page as usize] == number {
                    self.forget(*page);
                    self.list.push(*page);
                }
            }
            self.blocks[at].pages = emptied;
        }
        self.list.iter().for_each(|page| pages.capture(*page));
    }

    fn must_empty(&self) -> bool {
        let kept = self.blocks.iter().filter(|block| block.live > 0).count();
        let blocks = kept + self.list.len().div_ceil(self.capacity);
        let copies = self.copies + self.list.len();
        blocks > 2 * copies.div_ceil(self.capacity) + SLACK
    }

    /// The newest copy of this page does not count any more: it is written anew.
    fn forget(&mut self, page: u32) {
        let number = core::mem::replace(&mut self.home[page as usize], NEVER);
        if number != NEVER {
            let at = self.blocks.partition_point(|block| block.number < number);
            self.blocks[at].live -= 1;
            self.copies -= 1;
        }
    }

    /// Whether all pages of the checkpoint under way are in blocks.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done == self.list.len()
    }

    /// Blocks that are still to be made.
    #[must_use]
    pub fn left(&self) -> usize {
        (self.list.len() - self.done).div_ceil(self.capacity)
    }

    /// Makes the next block.
    pub fn advance(&mut self, pages: &mut Pages, writer: &mut Writer) -> Result<(), GridFull> {
        let end = (self.done + self.capacity).min(self.list.len());
        let part = &self.list[self.done..end];
        let reference = writer.make(Kind::Pages, |out| {
            out.extend_from_slice(&(part.len() as u32).to_le_bytes());
            part.iter().for_each(|page| out.extend_from_slice(&page.to_le_bytes()));
            part.iter().for_each(|page| pages.write(*page, out));
        })?;
        let number = self.next_number;
        self.next_number += 1;
        part.iter().for_each(|page| self.home[*page as usize] = number);
        self.copies += part.len();
        self.blocks.push(PageBlock { number, reference, pages: part.to_vec(), live: part.len() });
        self.done = end;
        Ok(())
    }

    /// The checkpoint's work is done: blocks of which nothing counts are released.
    pub fn install(&mut self, writer: &mut Writer) {
        self.blocks.retain(|block| {
            if block.live == 0 {
                writer.release(&block.reference);
            }
            block.live > 0
        });
    }

    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// All blocks that a checkpoint names.
    pub fn references(&self) -> impl Iterator<Item = &BlockRef> {
        self.blocks.iter().map(|block| &block.reference)
    }

    /// As the manifest keeps it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        self.blocks.iter().for_each(|block| block.reference.encode(out));
    }

    /// The blocks that a manifest lists; each is then to be [loaded](Self::load), in this order.
    pub fn decode(fields: &mut Reader<'_>, shape: &GridShape) -> Result<Vec<BlockRef>, Malformed> {
        let blocks = fields.u32()? as usize;
        if blocks > fields.rest().len() / BLOCK_REF {
            return Err(Malformed);
        }
        (0..blocks).map(|_| BlockRef::decode(fields, shape)).collect()
    }

    /// Takes in a block of a checkpoint, and its pages.
    pub fn load(&mut self, reference: BlockRef, body: &[u8], pages: &mut Pages) -> Result<(), Malformed> {
        let mut fields = Reader::new(body);
        let count = fields.u32()? as usize;
        if count == 0 || count > self.capacity {
            return Err(Malformed);
        }
        let mut held = Vec::with_capacity(count);
        for _ in 0..count {
            held.push(fields.u32()?);
        }
        let known = |page: &u32| (*page as usize) < pages.len();
        if !held.iter().all(known) || fields.rest().len() != count * pages.page_bytes() {
            return Err(Malformed);
        }
        let number = self.next_number;
        self.next_number += 1;
        for page in &held {
            // A page that stands in a block twice would be forgotten twice.
            if self.home[*page as usize] == number {
                return Err(Malformed);
            }
            self.forget(*page);
            self.home[*page as usize] = number;
            self.copies += 1;
            pages.load(*page, fields.take(pages.page_bytes())?);
        }
        self.blocks.push(PageBlock { number, reference, pages: held, live: count });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::TableShape;
    use super::*;
    use crate::store::grid::block;
    use crate::store::grid::free_set::FreeSet;
    use crate::wire::entry::Digest;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    const SHAPE: GridShape = GridShape { offset: 0, block_sectors: 1, blocks_max: 200, step: 1 };
    const TABLES: [TableShape; 2] =
        [TableShape { slot_bytes: 40, slots: 300 }, TableShape { slot_bytes: 300, slots: 20 }];
    /// Seven slots or one to a page, ten pages to a block.
    const PAGE: usize = 380;

    type Disk = BTreeMap<u64, Vec<u8>>;

    fn drain(writer: &mut Writer, disk: &mut Disk) {
        while let Some((reference, payload)) = writer.next_write() {
            let (address, payload) = (reference.address, payload.to_vec());
            disk.insert(address, payload);
            writer.written(address);
        }
    }

    fn read_back(log: &PageLog, disk: &Disk) -> (Pages, PageLog) {
        let mut pages = Pages::new(PAGE, &TABLES);
        let mut again = PageLog::new(&SHAPE, &pages);
        for reference in log.references() {
            let block = block::check(&SHAPE, reference, &disk[&reference.address]).unwrap();
            again.load(*reference, block.body, &mut pages).unwrap();
        }
        (pages, again)
    }

    proptest! {
        /// Whatever changes while a checkpoint is written: what is read back is what was there when it began.
        #[test]
        fn a_checkpoint_has_the_pages_as_they_were_at_its_op(
            steps in prop::collection::vec((0usize..2, any::<u32>(), any::<u8>(), 0u8..12), 1..600),
        ) {
            let mut pages = Pages::new(PAGE, &TABLES);
            let mut log = PageLog::new(&SHAPE, &pages);
            let (mut writer, mut disk) = (Writer::new(SHAPE, FreeSet::new(200), 3), Disk::new());
            let mut frozen = pages.bytes().to_vec();
            let mut is_settled = true;
            for (table, slot, value, what) in steps {
                let slot = slot % TABLES[table].slots;
                match what {
                    0 if is_settled => {
                        frozen = pages.bytes().to_vec();
                        log.freeze(&mut pages);
                        writer.begin(1);
                        is_settled = false;
                    }
                    1..4 if !log.is_done() => log.advance(&mut pages, &mut writer).unwrap(),
                    _ => pages.slot_mut(table, slot).fill(value),
                }
                drain(&mut writer, &mut disk);
                if !is_settled && log.is_done() {
                    is_settled = true;
                    log.install(&mut writer);
                    prop_assert_eq!(pages.saved(), 0);
                    let (read, again) = read_back(&log, &disk);
                    prop_assert!(read.bytes() == frozen);
                    let live = |log: &PageLog| log.blocks.iter().map(|block| block.live).collect::<Vec<_>>();
                    prop_assert_eq!(live(&log), live(&again));
                    let mut named: Vec<_> = log.references().map(|reference| reference.address).collect();
                    named.sort_unstable();
                    prop_assert!(writer.free.referenced().eq(named));
                    // Twice what the pages need, and a little.
                    let copies = log.home.iter().filter(|home| **home != 0).count();
                    prop_assert!(log.blocks() <= 2 * copies.div_ceil(log.capacity) + SLACK + 1);
                }
            }
        }

        #[test]
        fn any_bytes_are_a_block_of_pages_or_none(bytes in prop::collection::vec(any::<u8>(), 0..900), count in 0u32..4) {
            let mut bytes = bytes;
            if bytes.len() > 4 {
                bytes[..4].copy_from_slice(&count.to_le_bytes());
                bytes.truncate(4 + count as usize * (PAGE + 4));
            }
            let mut pages = Pages::new(PAGE, &TABLES);
            let mut log = PageLog::new(&SHAPE, &pages);
            let reference = BlockRef { address: 1, digest: Digest::ZERO };
            let _ = log.load(reference, &bytes, &mut pages);
            let _ = PageLog::decode(&mut Reader::new(&bytes), &SHAPE);
        }
    }

    #[test]
    fn a_checkpoint_costs_what_changed() {
        let mut pages = Pages::new(PAGE, &TABLES);
        let mut log = PageLog::new(&SHAPE, &pages);
        let (mut writer, mut disk) = (Writer::new(SHAPE, FreeSet::new(200), 3), Disk::new());
        let mut checkpoint = |pages: &mut Pages, log: &mut PageLog| {
            let before = writer.counts().blocks[5];
            log.freeze(pages);
            writer.begin(1);
            while !log.is_done() {
                log.advance(pages, &mut writer).unwrap();
                drain(&mut writer, &mut disk);
            }
            log.install(&mut writer);
            writer.counts().blocks[5] - before
        };
        (0..300).for_each(|slot| pages.slot_mut(0, slot)[0] = 1);
        assert_eq!(checkpoint(&mut pages, &mut log), 4, "34 pages, ten to a block");
        assert_eq!(checkpoint(&mut pages, &mut log), 0, "nothing changed");
        pages.slot_mut(0, 0)[0] = 2;
        pages.slot_mut(1, 19)[0] = 2;
        assert_eq!(checkpoint(&mut pages, &mut log), 1, "two pages of two tables in one block");
    }
}
