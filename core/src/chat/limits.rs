//! How large a shard's state may become.
//!
//! The one law: **every table of the state has its size here**, chosen at `format`, kept in the superblock and
//! equal on all replicas of a shard, because what is refused or forgotten follows from it.

use core::ops::RangeInclusive;

use crate::wire::chat::BODY_MAX;
use crate::wire::codec::{Malformed, Reader};
use crate::wire::retention::Policy;

/// Sizes of the state, chosen at format, equal on all replicas of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub rooms: u32,
    /// Keys remembered for deduplication.
    pub keys: u32,
    /// Age of a key, milliseconds, beyond which it is refused.
    pub key_horizon_ms: u64,
    /// (room, user, session) triples present.
    pub present: u32,
    pub body_max: u32,
    /// Messages of a room that retention leaves, the oldest go first; 0: all are kept for ever.
    pub room_messages: u32,
    /// Threads that have replies; 0: a shard that was formatted before there were threads, and takes none.
    pub threads: u32,
    /// Age of a message, seconds, beyond which retention removes it; 0: none. Rooms and tenants may have their own rules.
    pub room_age_s: u32,
    /// Tenants that may have rules of retention.
    pub tenants: u32,
    /// Times that are remembered of each room, by which its messages age; 0: a shard that was formatted before there were
    /// any. Then there are no rules but the one of `room_messages`.
    pub marks: u32,
}

/// Bytes of encoded [`Limits`].
pub const LIMITS: usize = 64;
/// Bytes of its fields; the rest is zero.
const FIELDS: usize = 44;

/// Most entries that any table may be given.
const TABLE_MAX: u32 = 1 << 24;
/// Largest body that may be configured.
const BODY_MAX_MAX: u32 = 1 << 20;
/// Fewest and most marks of a room.
pub(super) const MARKS: RangeInclusive<u32> = 4..=64;
const TENANTS_MAX: u32 = 1 << 16;

/// One author holds at most this part of all remembered keys, so that one who floods the table moves their own
/// horizon and nobody else's.
const AUTHOR_SHARE: u32 = 8;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl Default for Limits {
    /// For production: the tables take about 200 MiB of memory.
    fn default() -> Self {
        Self {
            rooms: 100_000,
            keys: 1 << 18,
            key_horizon_ms: DAY_MS,
            present: 1 << 16,
            body_max: BODY_MAX as u32,
            room_messages: 0,
            threads: 1 << 16,
            room_age_s: 0,
            tenants: 256,
            marks: 16,
        }
    }
}

impl Limits {
    /// For a developer's machine: the pages of the state stay below 10 MiB.
    #[must_use]
    pub fn dev() -> Self {
        Self { rooms: 4096, keys: 1 << 15, present: 1 << 13, threads: 1 << 13, ..Self::default() }
    }

    /// For simulated worlds: cheap to make, and small enough to run over.
    #[must_use]
    pub fn tiny() -> Self {
        Self {
            rooms: 32,
            keys: 4096,
            present: 256,
            body_max: 1024,
            threads: 64,
            tenants: 4,
            marks: 6,
            ..Self::default()
        }
    }

    /// Keys of one author that are remembered.
    #[must_use]
    pub fn keys_per_author(&self) -> u32 {
        (self.keys / AUTHOR_SHARE).max(2)
    }

    /// Whether a machine can be made with these limits.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        let tables = [self.rooms, self.keys, self.present];
        // Rooms and the lanes of threads are numbered together.
        let lanes = u64::from(self.rooms) + u64::from(self.threads);
        tables.iter().all(|entries| (1..=TABLE_MAX).contains(entries))
            && lanes <= u64::from(TABLE_MAX)
            && self.body_max <= BODY_MAX_MAX
            && self.tenants <= TENANTS_MAX
            && match self.marks {
                0 => self.tenants == 0 && self.room_age_s == 0,
                marks => MARKS.contains(&marks),
            }
    }

    /// What is kept where nobody made a rule.
    #[must_use]
    pub fn retention(&self) -> Policy {
        Policy { messages: self.room_messages, age_s: self.room_age_s }
    }

    /// As the superblock keeps them.
    #[must_use]
    pub fn encode(&self) -> [u8; LIMITS] {
        let mut bytes = [0; LIMITS];
        let words = [self.rooms, self.keys, self.present, self.body_max, self.room_messages];
        for (field, word) in bytes.chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        bytes[20..28].copy_from_slice(&self.key_horizon_ms.to_le_bytes());
        let words = [self.threads, self.room_age_s, self.tenants, self.marks];
        for (field, word) in bytes[28..FIELDS].chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Refuses what no machine could be made with.
    pub fn decode(bytes: &[u8; LIMITS]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(bytes);
        let limits = Self {
            rooms: fields.u32()?,
            keys: fields.u32()?,
            present: fields.u32()?,
            body_max: fields.u32()?,
            room_messages: fields.u32()?,
            key_horizon_ms: fields.u64()?,
            threads: fields.u32()?,
            room_age_s: fields.u32()?,
            tenants: fields.u32()?,
            marks: fields.u32()?,
        };
        let rest_is_zero = fields.rest().iter().all(|byte| *byte == 0);
        if rest_is_zero && limits.is_sane() { Ok(limits) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_survive_the_superblock_and_insane_ones_are_refused() {
        for limits in [Limits::default(), Limits::dev(), Limits::tiny()] {
            assert!(limits.is_sane());
            assert_eq!(Limits::decode(&limits.encode()), Ok(limits));
        }
        let insane = Limits { keys: u32::MAX, ..Limits::tiny() };
        assert_eq!(Limits::decode(&insane.encode()), Err(Malformed));
        let kept = Limits { room_messages: u32::MAX, ..Limits::tiny() };
        assert_eq!(Limits::decode(&kept.encode()), Ok(kept));
        let before_threads = Limits { threads: 0, ..Limits::tiny() };
        assert_eq!(Limits::decode(&before_threads.encode()), Ok(before_threads));
        let crowded = Limits { rooms: TABLE_MAX, threads: 1, ..Limits::tiny() };
        assert_eq!(Limits::decode(&crowded.encode()), Err(Malformed));
        let bloated = Limits { body_max: u32::MAX, ..Limits::tiny() };
        assert_eq!(Limits::decode(&bloated.encode()), Err(Malformed));
        let before_marks = Limits { tenants: 0, marks: 0, ..Limits::tiny() };
        assert_eq!(Limits::decode(&before_marks.encode()), Ok(before_marks));
        for wrong in [
            Limits { room_age_s: 1, ..before_marks },
            Limits { tenants: 1, ..before_marks },
            Limits { marks: 3, ..Limits::tiny() },
            Limits { marks: 65, ..Limits::tiny() },
            Limits { tenants: u32::MAX, ..Limits::tiny() },
        ] {
            assert_eq!(Limits::decode(&wrong.encode()), Err(Malformed), "{wrong:?}");
        }
        let mut trailing = Limits::tiny().encode();
        trailing[LIMITS - 1] = 1;
        assert_eq!(Limits::decode(&trailing), Err(Malformed));
        assert_eq!(Limits::decode(&[0; LIMITS]), Err(Malformed));
    }
}
