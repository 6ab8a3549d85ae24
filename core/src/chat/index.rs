//! From a key to its slot in a table, in memory that is taken once.
//!
//! The one law: **an index never grows, never rehashes and is never iterated.** It holds half as many slots as it
//! has cells, removal leaves no tombstone, and nothing that a client or a checkpoint sees follows from where an
//! entry happens to lie. So replicas may hash with different seeds (H39).

use alloc::vec;
use alloc::vec::Vec;

/// A hash table of slots with a fixed capacity. The keys live in the table that owns it.
pub(super) struct Index {
    /// `hash << 32 | slot + 1`; zero: empty. Linear probing.
    cells: Vec<u64>,
    mask: usize,
}

impl Index {
    /// Room for `capacity` slots below `u32::MAX`.
    pub(super) fn new(capacity: u32) -> Self {
        let cells = (capacity as usize * 2).next_power_of_two().max(8);
        Self { cells: vec![0; cells], mask: cells - 1 }
    }

    /// The slot with this hash for which `is` holds.
    pub(super) fn find(&self, hash: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = hash as usize & self.mask;
        while self.cells[at] != 0 {
            let (found, slot) = split(self.cells[at]);
            if found == hash && is(slot) {
                return Some(slot);
            }
            at = (at + 1) & self.mask;
        }
        None
    }

    /// The caller has made sure that the key is not there and that the capacity is not used up.
    pub(super) fn insert(&mut self, hash: u32, slot: u32) {
        let mut at = hash as usize & self.mask;
        while self.cells[at] != 0 {
            at = (at + 1) & self.mask;
        }
        self.cells[at] = u64::from(hash) << 32 | u64::from(slot + 1);
    }

    /// # Panics
    /// When the slot is not there: our own bug.
    pub(super) fn remove(&mut self, hash: u32, slot: u32) {
        let mut hole = hash as usize & self.mask;
        while split(self.cells[hole]) != (hash, slot) {
            assert!(self.cells[hole] != 0, "a slot is removed from the index that holds it");
            hole = (hole + 1) & self.mask;
        }
        // Entries behind the hole move up unless that would put them before their home.
        let mut at = (hole + 1) & self.mask;
        while self.cells[at] != 0 {
            let home = split(self.cells[at]).0 as usize & self.mask;
            if at.wrapping_sub(home) & self.mask >= at.wrapping_sub(hole) & self.mask {
                self.cells[hole] = self.cells[at];
                hole = at;
            }
            at = (at + 1) & self.mask;
        }
        self.cells[hole] = 0;
    }
}

fn split(cell: u64) -> (u32, u32) {
    ((cell >> 32) as u32, (cell as u32).wrapping_sub(1))
}

/// A seeded hash for [`Index`]: fast, and of no meaning outside the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash(u64);

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hash {
    pub(super) fn new(seed: u64) -> Self {
        Self(fold(seed ^ 0x2545_f491_4f6c_dd1d))
    }

    pub(super) fn number(self, number: u64) -> Self {
        Self(fold(self.0.rotate_left(23) ^ number))
    }

    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        let hash = words.iter().fold(self, |hash, word| hash.number(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash.number(u64::from_le_bytes(last)).number(bytes.len() as u64)
    }

    pub(super) fn finish(self) -> u32 {
        (fold(self.0) >> 32) as u32
    }
}

fn fold(word: u64) -> u64 {
    let wide = u128::from(word ^ FACTOR) * u128::from(FACTOR);
    wide as u64 ^ (wide >> 64) as u64
}

/// Which slots of a table are taken. A new entry always gets the lowest free slot, so that slots follow from the
/// log alone and a checkpoint can speak of them.
pub(super) struct Slots {
    words: Vec<u64>,
    capacity: u32,
    taken: u32,
    /// No word before this one has a free slot.
    hint: usize,
}

impl Slots {
    pub(super) fn new(capacity: u32) -> Self {
        Self { words: vec![0; (capacity as usize).div_ceil(64)], capacity, taken: 0, hint: 0 }
    }

    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    pub(super) fn is_full(&self) -> bool {
        self.taken == self.capacity
    }

    pub(super) fn is_taken(&self, slot: u32) -> bool {
        self.words.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Takes the lowest free slot.
    ///
    /// # Panics
    /// When none is free: our own bug.
    pub(super) fn take(&mut self) -> u32 {
        assert!(!self.is_full(), "a slot is taken from a table with room");
        while self.words[self.hint] == u64::MAX {
            self.hint += 1;
        }
        let slot = self.hint as u32 * 64 + self.words[self.hint].trailing_ones();
        self.mark(slot);
        slot
    }

    /// Takes this very slot; false when it is out of range or taken.
    pub(super) fn take_at(&mut self, slot: u32) -> bool {
        let free = slot < self.capacity && !self.is_taken(slot);
        if free {
            self.mark(slot);
        }
        free
    }

    pub(super) fn release(&mut self, slot: u32) {
        let word = slot as usize / 64;
        self.words[word] &= !(1 << (slot % 64));
        self.taken -= 1;
        self.hint = self.hint.min(word);
    }

    /// Taken slots in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                (left != 0).then(|| {
                    left &= left - 1;
                    at as u32 * 64 + bit
                })
            })
        })
    }

    fn mark(&mut self, slot: u32) {
        self.words[slot as usize / 64] |= 1 << (slot % 64);
        self.taken += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::{BTreeMap, BTreeSet};
    use proptest::prelude::*;

    proptest! {
        /// Few hash values, so that every removal happens inside a cluster, also across the end of the cells.
        #[test]
        fn an_index_finds_exactly_what_is_in_it(steps in prop::collection::vec((0u32..16, any::<bool>()), 1..200)) {
            let mut index = Index::new(16);
            let mut model = BTreeMap::new();
            for (key, put) in steps {
                let hash = [0u32, 1, 30, 31][key as usize % 4];
                match (put, model.contains_key(&key)) {
                    (true, false) => { index.insert(hash, key); model.insert(key, hash); }
                    (false, true) => { index.remove(hash, key); model.remove(&key); }
                    _ => {}
                }
                for key in 0..16u32 {
                    let hash = [0u32, 1, 30, 31][key as usize % 4];
                    prop_assert_eq!(index.find(hash, |slot| slot == key).is_some(), model.contains_key(&key));
                }
            }
        }

        #[test]
        fn the_lowest_free_slot_is_taken(releases in prop::collection::vec(0u32..130, 0..300)) {
            let (mut slots, mut model) = (Slots::new(130), BTreeSet::new());
            for slot in releases {
                if model.remove(&slot) {
                    slots.release(slot);
                } else {
                    let lowest = (0..).find(|slot| !model.contains(slot)).unwrap();
                    prop_assert_eq!(slots.take(), lowest);
                    model.insert(lowest);
                }
                prop_assert!(slots.iter().eq(model.iter().copied()));
                prop_assert_eq!(slots.taken() as usize, model.len());
            }
        }
    }
}
