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
    /// One copy of the superblock became durable.
    SuperblockWritten { copy: u32 },
    /// A part of a checkpoint became durable.
    CheckpointWritten { chunk: u32 },
    /// A part of our checkpoint was read while opening.
    CheckpointRecovered { chunk: u32 },
    /// A part of our checkpoint was read for a peer.
    CheckpointRead { chunk: u32 },
    /// A part that an earlier state transfer left on the disk was read.
    CheckpointKept { chunk: u32 },
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
            Self::CheckpointWritten { chunk } => (5, chunk),
            Self::CheckpointRecovered { chunk } => (6, chunk),
            Self::CheckpointRead { chunk } => (7, chunk),
            Self::Synced => (8, 0),
            Self::CheckpointKept { chunk } => (9, chunk),
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
            5 => Self::CheckpointWritten { chunk: number },
            6 => Self::CheckpointRecovered { chunk: number },
            7 => Self::CheckpointRead { chunk: number },
            8 => Self::Synced,
            9 => Self::CheckpointKept { chunk: number },
            _ => panic!("a token that no replica made: {token:?}"),
        }
    }
}
