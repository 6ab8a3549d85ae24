//! Where things lie in a data file. All sizes are chosen at `format` and kept in the superblock.

use super::grid::GridShape;

/// The unit of disk: payload and trailer.
pub const SECTOR: usize = 4096;
/// Bytes of a sector's trailer: tag, salt, stamp.
pub const TRAILER: usize = 64;
/// Bytes of a sector that carry payload.
pub const PAYLOAD: usize = SECTOR - TRAILER;

/// Sectors of one superblock copy.
pub const SUPERBLOCK_COPY_SECTORS: usize = 2;
/// Copies of the superblock.
pub const SUPERBLOCK_COPIES: usize = 4;
/// Bytes of the superblock zone, at offset 0.
pub const SUPERBLOCK_ZONE: usize = SUPERBLOCK_COPIES * SUPERBLOCK_COPY_SECTORS * SECTOR;

/// Most sectors of a slot: 4 MiB.
const SLOT_SECTORS_MAX: u32 = 1024;

/// Sizes of one data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Entries that the write-ahead log holds; an even number, because blocks are freed two intervals later
    /// (`docs/storage.md`).
    pub wal_slots: u32,
    /// Sectors of one slot; the largest entry has `slot_sectors * PAYLOAD` bytes.
    pub slot_sectors: u32,
    /// Sectors of a block of the grid; not more than of a slot, so that a block fits whatever an entry fits.
    pub block_sectors: u32,
    /// Blocks that the grid may ever have.
    pub blocks_max: u32,
    /// Blocks by which the file grows at a time.
    pub grid_step: u32,
}

impl Layout {
    /// Whether a data file can have these sizes.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        self.wal_slots >= 2
            && self.wal_slots.is_multiple_of(2)
            && (1..=SLOT_SECTORS_MAX).contains(&self.slot_sectors)
            && (1..=self.slot_sectors).contains(&self.block_sectors)
            && self.grid().is_sane()
    }

    /// Largest entry (header and body), bytes.
    #[must_use]
    pub fn entry_max(&self) -> usize {
        self.slot_sectors as usize * PAYLOAD
    }

    /// Offset of the slot of an op.
    #[must_use]
    pub fn slot_offset(&self, slot: u32) -> u64 {
        SUPERBLOCK_ZONE as u64 + u64::from(slot) * u64::from(self.slot_sectors) * SECTOR as u64
    }

    /// Ops between checkpoints: half the log, so that the other half is there while a checkpoint is written.
    #[must_use]
    pub fn interval(&self) -> u64 {
        u64::from(self.wal_slots / 2)
    }

    /// The grid, behind everything else.
    #[must_use]
    pub fn grid(&self) -> GridShape {
        GridShape {
            offset: self.hot_size(),
            block_sectors: self.block_sectors,
            blocks_max: u64::from(self.blocks_max),
            step: self.grid_step,
        }
    }

    /// Bytes from the start that are overwritten all the time, and are zero-filled at format. The grid follows.
    #[must_use]
    pub fn hot_size(&self) -> u64 {
        self.slot_offset(self.wal_slots)
    }

    /// Most bytes that the file may ever have.
    #[must_use]
    pub fn file_size_max(&self) -> u64 {
        self.grid().file_size(u64::from(self.blocks_max))
    }
}
