//! A message as history keeps it.
//!
//! The one law: **what may be erased stands apart from what the chain needs.** `content` is salt and body, and the
//! chain knows of it only `SHA-256(content)`: an erased record holds that digest in its place, so that the chain is
//! still verified and nobody can guess what the body was (the salt is gone too).
//!
//! To history `meta` and `content` are bytes; the chat state machine says what they are. Layout: `docs/formats.md`.

use alloc::vec::Vec;

use super::Key;
use crate::wire::codec::{Malformed, Reader};
use crate::wire::entry::Digest;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub room: u32,
    pub seq: u64,
    /// Unix nanoseconds; grows with `seq`.
    pub time: u64,
    /// The message that this one answers; zero: none.
    pub parent: u64,
    /// The room's chain value at this message.
    pub chain: Digest,
    pub state: State,
    pub meta: &'a [u8],
    pub content: &'a [u8],
}

/// What is left of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum State {
    /// All of it.
    Whole = 0,
    /// `content` is the digest of what it was.
    Erased = 1,
    /// Sequence, time and chain value: the anchor of the cut that retention made behind it.
    Anchor = 2,
}

/// Bytes of a record without meta and content.
pub const RECORD_HEAD: usize = 68;
/// Most bytes of `meta`.
pub const META_MAX: usize = u16::MAX as usize;

/// Sequences are below this.
pub const SEQ_MAX: u64 = u64::MAX / 2;

impl<'a> Record<'a> {
    #[must_use]
    pub fn key(&self) -> Key {
        Key { room: self.room, seq: self.seq }
    }

    /// Bytes that [`Self::encode`] writes.
    #[must_use]
    pub fn size(&self) -> usize {
        RECORD_HEAD + self.meta.len() + self.content.len()
    }

    /// # Panics
    /// When `meta` is longer than [`META_MAX`]: our own bug.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let meta = u16::try_from(self.meta.len()).expect("what the chat machine writes is short");
        let content = u32::try_from(self.content.len()).expect("bodies are below 4 GiB");
        out.extend_from_slice(&self.room.to_le_bytes());
        out.extend_from_slice(&meta.to_le_bytes());
        out.extend_from_slice(&(self.state as u16).to_le_bytes());
        for number in [self.seq, self.time, self.parent] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&content.to_le_bytes());
        out.extend_from_slice(&self.chain.0);
        out.extend_from_slice(self.meta);
        out.extend_from_slice(self.content);
    }

    /// Takes one record from the front.
    pub fn decode(fields: &mut Reader<'a>) -> Result<Self, Malformed> {
        let (room, meta, state) = (fields.u32()?, fields.u16()?, fields.u16()?);
        let (seq, time, parent, content) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u32()?);
        let chain = Digest(fields.array()?);
        let (meta, content) = (fields.take(usize::from(meta))?, fields.take(content as usize)?);
        let state = match state {
            0 => State::Whole,
            1 if content.len() == 32 => State::Erased,
            2 if meta.is_empty() && content.is_empty() && parent == 0 => State::Anchor,
            _ => return Err(Malformed),
        };
        if room == u32::MAX || !(1..SEQ_MAX).contains(&seq) || parent >= seq {
            return Err(Malformed);
        }
        Ok(Self { room, seq, time, parent, chain, state, meta, content })
    }

    /// The anchor that stays when retention cuts behind this message.
    #[must_use]
    pub fn to_anchor(&self) -> Record<'static> {
        Record {
            room: self.room,
            seq: self.seq,
            time: self.time,
            parent: 0,
            chain: self.chain,
            state: State::Anchor,
            meta: &[],
            content: &[],
        }
    }

    /// What stays when its body is erased; `digest` is `SHA-256(content)`.
    #[must_use]
    pub fn to_erased<'b>(&self, digest: &'b Digest) -> Record<'b>
    where
        'a: 'b,
    {
        Record { state: State::Erased, content: &digest.0, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_survive_encoding(
            room in 0u32..1000, seq in 1u64..1000, time: u64, chain: [u8; 32],
            meta in prop::collection::vec(any::<u8>(), 0..50), content in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let chain = Digest(chain);
            let whole =
                Record { room, seq, time, parent: seq / 2, chain, state: State::Whole, meta: &meta, content: &content };
            let digest = Digest::of(&content);
            let mut bytes = Vec::new();
            for record in [whole, whole.to_erased(&digest), whole.to_anchor()] {
                bytes.clear();
                record.encode(&mut bytes);
                prop_assert_eq!(bytes.len(), record.size());
                let mut fields = Reader::new(&bytes);
                prop_assert_eq!(Record::decode(&mut fields), Ok(record));
                prop_assert!(fields.is_empty());
            }
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200), state in 0u16..4) {
            let mut bytes = bytes;
            if bytes.len() > RECORD_HEAD {
                bytes[4..6].copy_from_slice(&1u16.to_le_bytes());
                bytes[6..8].copy_from_slice(&state.to_le_bytes());
                bytes[32..36].copy_from_slice(&32u32.to_le_bytes());
            }
            let mut fields = Reader::new(&bytes);
            if let Ok(record) = Record::decode(&mut fields) {
                let mut again = Vec::new();
                record.encode(&mut again);
                prop_assert_eq!(&bytes[..again.len()], &again[..]);
            }
        }
    }
}
