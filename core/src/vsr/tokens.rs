//! What a disk operation of a replica is for: an enum, packed into the seam's opaque [`Token`].

use crate::io::Token;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// The slot's write became durable.
    SlotWritten { slot: u32 },
    /// A slot was read while opening.
    SlotRecovered { slot: u32 },
    /// A slot was read, to commit its entry or to send it to a peer.
    SlotRead { slot: u32 },
    /// A slot was read to see whether its entry is still whole.
    SlotScrubbed { slot: u32 },
    /// A copy of the superblock was read to see whether it is still whole.
    SuperblockScrubbed { copy: u32 },
    /// One copy of the superblock became durable.
    SuperblockWritten { copy: u32 },
    /// A block of a checkpoint that is being made was written.
    BlockWritten { address: u32 },
    /// All blocks of a checkpoint that was made are durable.
    CheckpointFlushed,
    /// A block of our checkpoint was read while opening.
    BlockRecovered { address: u32 },
    /// A block was read because somebody here wants it.
    BlockRead { address: u32 },
    /// A block was read for a peer.
    BlockServed { address: u32 },
    /// A block that was damaged was written anew.
    BlockRepaired { address: u32 },
    /// What our disk has in the place of a block of a peer's checkpoint was read.
    BlockLooked { address: u32 },
    /// A block of a peer's checkpoint was written.
    BlockTransferred { address: u32 },
    /// All blocks of a peer's checkpoint are durable.
    TransferFlushed,
    /// Everything that opening read is durable.
    Synced,
}

impl Waits {
    pub(super) fn token(self) -> Token {
        let (kind, number) = match self {
            Self::SlotWritten { slot } => (1, slot),
            Self::SlotRecovered { slot } => (2, slot),
            Self::SlotRead { slot } => (3, slot),
            Self::SuperblockWritten { copy } => (4, copy),
            Self::BlockWritten { address } => (5, address),
            Self::BlockRecovered { address } => (6, address),
            Self::BlockRead { address } => (7, address),
            Self::Synced => (8, 0),
            Self::BlockServed { address } => (9, address),
            Self::BlockRepaired { address } => (10, address),
            Self::BlockLooked { address } => (11, address),
            Self::BlockTransferred { address } => (12, address),
            Self::CheckpointFlushed => (13, 0),
            Self::TransferFlushed => (14, 0),
            Self::SlotScrubbed { slot } => (15, slot),
            Self::SuperblockScrubbed { copy } => (16, copy),
        };
        Token(kind << 32 | u64::from(number))
    }

    /// # Panics
    /// On a token that we did not make: the world's bug.
    pub(super) fn of(token: Token) -> Self {
        let number = u32::try_from(token.0 & u64::from(u32::MAX)).expect("masked");
        match token.0 >> 32 {
            1 => Self::SlotWritten { slot: number },
            2 => Self::SlotRecovered { slot: number },
            3 => Self::SlotRead { slot: number },
            4 => Self::SuperblockWritten { copy: number },
            5 => Self::BlockWritten { address: number },
            6 => Self::BlockRecovered { address: number },
            7 => Self::BlockRead { address: number },
            8 => Self::Synced,
            9 => Self::BlockServed { address: number },
            10 => Self::BlockRepaired { address: number },
            11 => Self::BlockLooked { address: number },
            12 => Self::BlockTransferred { address: number },
            13 => Self::CheckpointFlushed,
            14 => Self::TransferFlushed,
            15 => Self::SlotScrubbed { slot: number },
            16 => Self::SuperblockScrubbed { copy: number },
            _ => panic!("a token that no replica made: {token:?}"),
        }
    }
}
