//! Where things lie in a data file. All sizes are chosen at `format` and kept in the superblock.

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

/// Sizes of one data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Entries that the write-ahead log holds.
    pub wal_slots: u32,
    /// Sectors of one slot; the largest entry has `slot_sectors * PAYLOAD` bytes.
    pub slot_sectors: u32,
    /// Sectors of one checkpoint copy.
    pub checkpoint_sectors: u32,
}

impl Layout {
    /// Largest entry (header and body), bytes.
    #[must_use]
    pub fn entry_max(&self) -> usize {
        self.slot_sectors as usize * PAYLOAD
    }

    /// Largest encoded state, bytes.
    #[must_use]
    pub fn checkpoint_max(&self) -> usize {
        self.checkpoint_sectors as usize * PAYLOAD
    }

    /// Offset of the slot of an op.
    #[must_use]
    pub fn slot_offset(&self, slot: u32) -> u64 {
        SUPERBLOCK_ZONE as u64 + u64::from(slot) * u64::from(self.slot_sectors) * SECTOR as u64
    }

    /// Offset of checkpoint copy 0 or 1.
    #[must_use]
    pub fn checkpoint_offset(&self, copy: u32) -> u64 {
        self.slot_offset(self.wal_slots)
            + u64::from(copy) * u64::from(self.checkpoint_sectors) * SECTOR as u64
    }

    /// Bytes of the whole file.
    #[must_use]
    pub fn file_size(&self) -> u64 {
        self.checkpoint_offset(2)
    }

    /// Bytes from the start that are overwritten all the time, and are zero-filled at format.
    #[must_use]
    pub fn hot_size(&self) -> u64 {
        self.checkpoint_offset(0)
    }
}
