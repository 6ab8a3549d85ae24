//! The grid: numbered blocks of one size, written once and never over what a checkpoint still needs.
//!
//! The one law: **a block is what its digest says, or it is not there.** Whoever refers to a block names its address
//! and the digest of its payload; the address alone says nothing. Design: `docs/storage.md`.

pub mod block;
pub mod cache;
pub mod free_set;
pub mod writer;

use super::layout::{PAYLOAD, SECTOR};

/// Where the grid lies in a data file, and how it is cut. Chosen at `format`, equal on all replicas of a shard but for
/// `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridShape {
    /// Offset of the first block in the file, a multiple of the sector.
    pub offset: u64,
    /// Sectors of a block.
    pub block_sectors: u32,
    /// Blocks that there may ever be. Addresses go from 1 to this.
    pub blocks_max: u64,
    /// Blocks by which a file grows at a time.
    pub step: u32,
}

/// Most sectors of a block: 4 MiB.
const BLOCK_SECTORS_MAX: u32 = 1024;
/// Most blocks of a grid: their free set takes 2 x 32 MiB of memory.
const BLOCKS_MAX: u64 = 1 << 28;

impl GridShape {
    /// Whether a grid can be made of this shape.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        self.offset.is_multiple_of(SECTOR as u64)
            && self.offset <= u64::MAX / 4
            && (1..=BLOCK_SECTORS_MAX).contains(&self.block_sectors)
            && (1..=BLOCKS_MAX).contains(&self.blocks_max)
            && self.step > 0
    }

    /// Bytes of a block on disk.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block_sectors as usize * SECTOR
    }

    /// Most bytes of a block's payload, header included.
    #[must_use]
    pub fn payload_max(&self) -> usize {
        self.block_sectors as usize * PAYLOAD
    }

    /// Most bytes of a block's body.
    #[must_use]
    pub fn body_max(&self) -> usize {
        self.payload_max() - block::BLOCK_HEADER
    }

    /// Whether there can be such a block.
    #[must_use]
    pub fn holds(&self, address: u64) -> bool {
        (1..=self.blocks_max).contains(&address)
    }

    /// Offset of a block in the file.
    #[must_use]
    pub fn offset_of(&self, address: u64) -> u64 {
        debug_assert!(self.holds(address));
        self.offset + (address - 1) * self.block_bytes() as u64
    }

    /// Bytes of a file that holds the blocks up to `address`: files grow in whole steps.
    #[must_use]
    pub fn file_size(&self, address: u64) -> u64 {
        let blocks = address.next_multiple_of(u64::from(self.step)).min(self.blocks_max);
        self.offset + blocks * self.block_bytes() as u64
    }
}

/// No block is free. Equal on all replicas; a disk that can't grow is another matter, and each replica's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridFull;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_grow_in_steps_and_blocks_follow_each_other() {
        let shape = GridShape { offset: 8192, block_sectors: 2, blocks_max: 21, step: 8 };
        assert!(shape.is_sane());
        assert_eq!(shape.offset_of(1), 8192);
        assert_eq!(shape.offset_of(3), 8192 + 2 * 8192);
        assert_eq!(shape.file_size(0), 8192);
        assert_eq!(shape.file_size(1), 8192 + 8 * 8192);
        assert_eq!(shape.file_size(8), 8192 + 8 * 8192);
        assert_eq!(shape.file_size(9), 8192 + 16 * 8192);
        assert_eq!(shape.file_size(21), 8192 + 21 * 8192, "no further than the grid");
        assert!(!shape.holds(0) && shape.holds(21) && !shape.holds(22));
        for insane in [
            GridShape { offset: 1, ..shape },
            GridShape { block_sectors: 0, ..shape },
            GridShape { blocks_max: 0, ..shape },
            GridShape { step: 0, ..shape },
        ] {
            assert!(!insane.is_sane(), "{insane:?}");
        }
    }
}
