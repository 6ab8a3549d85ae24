//! The state that is kept in memory, as tables of slots in pages, and how what changed of it gets to the grid.
//!
//! The one law: **a checkpoint writes the pages that changed since the one before, as they were at its op.** Nothing
//! is copied when a checkpoint begins: a page that is still to be written is saved when it is about to change.
//!
//! Pages are small (about a sector), so that a change costs little; blocks are large, so a block holds several pages
//! that changed together. A page's newest copy counts. Blocks of which little counts any more are emptied by writing
//! that little again, so that all blocks together take at most about twice what the pages need ([`PageLog`]).

pub mod log;

use alloc::vec;
use alloc::vec::Vec;

pub use self::log::PageLog;

/// A table: so many slots of so many bytes. No slot crosses the border of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableShape {
    pub slot_bytes: u32,
    pub slots: u32,
}

/// The page is to be written: it changed since the last checkpoint.
const DIRTY: u8 = 1;
/// The page is to be written for the checkpoint under way, and was not yet.
const CAPTURED: u8 = 2;

/// No saved copy.
const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub struct Pages {
    page_bytes: usize,
    tables: Vec<Table>,
    /// All pages, one after the other.
    bytes: Vec<u8>,
    flags: Vec<u8>,
    /// Pages that are dirty, in the order in which they became so.
    dirty: Vec<u32>,
    /// Copies of captured pages that changed before they were written.
    saved: Vec<Vec<u8>>,
    /// Which of these belongs to a page.
    saved_at: Vec<u32>,
    /// Copies that are not in use.
    spare: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Table {
    shape: TableShape,
    first_page: u32,
    slots_per_page: u32,
}

impl Pages {
    /// Tables full of zeros. `page_bytes` holds the largest slot.
    ///
    /// # Panics
    /// When it does not: shapes are checked where they come from.
    #[must_use]
    pub fn new(page_bytes: usize, shapes: &[TableShape]) -> Self {
        let mut pages = 0;
        let tables = shapes
            .iter()
            .map(|shape| {
                let slots_per_page = page_bytes as u32 / shape.slot_bytes;
                assert!(slots_per_page > 0, "a page holds a slot");
                let table = Table { shape: *shape, first_page: pages, slots_per_page };
                pages += shape.slots.div_ceil(slots_per_page);
                table
            })
            .collect();
        let count = pages as usize;
        Self {
            page_bytes,
            tables,
            bytes: vec![0; count * page_bytes],
            flags: vec![0; count],
            dirty: Vec::with_capacity(count),
            saved: Vec::new(),
            saved_at: vec![NONE; count],
            spare: Vec::new(),
        }
    }

    /// Number of pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flags.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty()
    }

    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Copies that are kept of pages which changed before they were written. Never more than pages are captured.
    #[must_use]
    pub fn saved(&self) -> usize {
        self.saved.len() - self.spare.len()
    }

    /// A slot's bytes.
    ///
    /// # Panics
    /// When there is no such table or slot: our own bug.
    #[must_use]
    pub fn slot(&self, table: usize, slot: u32) -> &[u8] {
        let (page, at, len) = self.place(table, slot);
        let start = page as usize * self.page_bytes + at;
        &self.bytes[start..start + len]
    }

    /// A slot's bytes, to be changed.
    ///
    /// # Panics
    /// When there is no such table or slot: our own bug.
    pub fn slot_mut(&mut self, table: usize, slot: u32) -> &mut [u8] {
        let (page, at, len) = self.place(table, slot);
        self.touch(page);
        let start = page as usize * self.page_bytes + at;
        &mut self.bytes[start..start + len]
    }

    fn place(&self, table: usize, slot: u32) -> (u32, usize, usize) {
        let Table { shape, first_page, slots_per_page } = self.tables[table];
        assert!(slot < shape.slots, "slot {slot} of a table of {}", shape.slots);
        let at = (slot % slots_per_page) * shape.slot_bytes;
        (first_page + slot / slots_per_page, at as usize, shape.slot_bytes as usize)
    }

    /// A page is about to change.
    fn touch(&mut self, page: u32) {
        let at = page as usize;
        if self.flags[at] & CAPTURED != 0 && self.saved_at[at] == NONE {
            let copy = self.spare.pop().unwrap_or_else(|| {
                self.saved.push(Vec::with_capacity(self.page_bytes));
                self.saved.len() as u32 - 1
            });
            let saved = &mut self.saved[copy as usize];
            saved.clear();
            saved.extend_from_slice(&self.bytes[at * self.page_bytes..(at + 1) * self.page_bytes]);
            self.saved_at[at] = copy;
        }
        if self.flags[at] & DIRTY == 0 {
            self.flags[at] |= DIRTY;
            self.dirty.push(page);
        }
    }

    /// An interval ends: the pages that changed in it, ascending. They count as unchanged from now on.
    pub(super) fn take_dirty(&mut self, out: &mut Vec<u32>) {
        out.clear();
        out.append(&mut self.dirty);
        out.sort_unstable();
        for page in &*out {
            self.flags[*page as usize] &= !DIRTY;
        }
    }

    /// From now on until it is [written](Self::write), what this page was now is kept.
    pub(super) fn capture(&mut self, page: u32) {
        debug_assert_eq!(self.flags[page as usize] & CAPTURED, 0, "a page is captured once");
        self.flags[page as usize] |= CAPTURED;
    }

    /// Appends a captured page as it was then.
    pub(super) fn write(&mut self, page: u32, out: &mut Vec<u8>) {
        let at = page as usize;
        assert!(self.flags[at] & CAPTURED != 0, "a page is written once for a checkpoint");
        self.flags[at] &= !CAPTURED;
        match core::mem::replace(&mut self.saved_at[at], NONE) {
            NONE => out.extend_from_slice(&self.bytes[at * self.page_bytes..(at + 1) * self.page_bytes]),
            copy => {
                out.extend_from_slice(&self.saved[copy as usize]);
                self.spare.push(copy);
            }
        }
    }

    /// A page as a checkpoint has it.
    pub(super) fn load(&mut self, page: u32, bytes: &[u8]) {
        let at = page as usize * self.page_bytes;
        self.bytes[at..at + self.page_bytes].copy_from_slice(bytes);
    }

    /// All pages: for comparisons.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
