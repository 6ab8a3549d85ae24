//! Which blocks are in use.
//!
//! The one law: **a block that the newest durable checkpoint names is never given out.** A block that a checkpoint's
//! work releases is still named by the checkpoint before; it becomes free when the next work begins, and that
//! begins only after the checkpoint that no longer names it is durable on a quorum (`docs/storage.md`, "When a block
//! is free again").
//!
//! The lowest free address is given out first, so addresses follow from the order of taking and releasing alone.

use alloc::vec;
use alloc::vec::Vec;

use super::GridFull;
use crate::wire::codec::{Malformed, Reader};

#[derive(Clone, Debug)]
pub struct FreeSet {
    /// A bit for each block that is not free: the block of address `a` is bit `a - 1`.
    used: Vec<u64>,
    /// A bit for each of these that becomes free when the next work begins.
    released: Vec<u64>,
    blocks_max: u64,
    used_count: u64,
    released_count: u64,
    /// No word before this one has a free block.
    hint: usize,
}

const WORD: u64 = 64;

impl FreeSet {
    /// All blocks free.
    #[must_use]
    pub fn new(blocks_max: u64) -> Self {
        let words = usize::try_from(blocks_max.div_ceil(WORD)).expect("shapes are sane");
        let (used, released) = (vec![0; words], vec![0; words]);
        Self { used, released, blocks_max, used_count: 0, released_count: 0, hint: 0 }
    }

    /// Blocks that are not free, those that were released included.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used_count
    }

    /// Blocks that become free when the next work begins.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.released_count
    }

    /// Blocks that may be taken now.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.blocks_max - self.used_count
    }

    /// Whether a block is named by the newest checkpoint (and not released since).
    #[must_use]
    pub fn is_referenced(&self, address: u64) -> bool {
        let (word, bit) = place(address);
        (1..=self.blocks_max).contains(&address) && self.used[word] & !self.released[word] & bit != 0
    }

    /// Whether a block may be taken now.
    #[must_use]
    pub fn is_free(&self, address: u64) -> bool {
        let (word, bit) = place(address);
        (1..=self.blocks_max).contains(&address) && self.used[word] & bit == 0
    }

    /// The highest address in use; zero: none.
    #[must_use]
    pub fn highest(&self) -> u64 {
        let last = self.used.iter().rposition(|word| *word != 0);
        last.map_or(0, |word| word as u64 * WORD + (WORD - u64::from(self.used[word].leading_zeros())))
    }

    /// Takes the lowest free block.
    pub fn take(&mut self) -> Result<u64, GridFull> {
        if self.free() == 0 {
            return Err(GridFull);
        }
        while self.used[self.hint] == u64::MAX {
            self.hint += 1;
        }
        let bit = u64::from(self.used[self.hint].trailing_ones());
        self.used[self.hint] |= 1 << bit;
        self.used_count += 1;
        Ok(self.hint as u64 * WORD + bit + 1)
    }

    /// Takes this very block, when a checkpoint is opened; false when it is taken already or not one of the grid's.
    pub fn take_at(&mut self, address: u64) -> bool {
        if !(1..=self.blocks_max).contains(&address) {
            return false;
        }
        let (word, bit) = place(address);
        let free = self.used[word] & bit == 0;
        self.used[word] |= bit;
        self.used_count += u64::from(free);
        free
    }

    /// The checkpoint under way no longer names this block.
    ///
    /// # Panics
    /// When it is free, or was released before: our own bug, and one that would lose data.
    pub fn release(&mut self, address: u64) {
        assert!(self.is_referenced(address), "block {address} is released while it is referenced");
        let (word, bit) = place(address);
        self.released[word] |= bit;
        self.released_count += 1;
    }

    /// The next work begins: what the last one released is free.
    pub fn begin(&mut self) {
        if self.released_count > 0 {
            for (used, released) in self.used.iter_mut().zip(&mut self.released) {
                *used &= !*released;
                *released = 0;
            }
        }
        self.used_count -= self.released_count;
        self.released_count = 0;
        self.hint = 0;
    }

    /// Appends the blocks that the checkpoint under way names, as words in runs: zeros u32, ones u32, others u32, and
    /// then the others. Ends with the last word that is not zero.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let word = |at: usize| self.used[at] & !self.released[at];
        let end = (0..self.used.len()).rposition(|at| word(at) != 0).map_or(0, |last| last + 1);
        let count =
            |from: usize, is: &dyn Fn(u64) -> bool| (from..end).take_while(|at| is(word(*at))).count();
        let mut at = 0;
        while at < end {
            let zeros = count(at, &|word| word == 0);
            let ones = count(at + zeros, &|word| word == u64::MAX);
            let others = count(at + zeros + ones, &|word| word != 0 && word != u64::MAX);
            for number in [zeros, ones, others] {
                let number = u32::try_from(number).expect("a grid has fewer than 2^38 blocks");
                out.extend_from_slice(&number.to_le_bytes());
            }
            at += zeros + ones;
            (at..at + others).for_each(|at| out.extend_from_slice(&word(at).to_le_bytes()));
            at += others;
        }
    }

    /// Most bytes that a free set is encoded to. Each run of words costs 12 bytes, and each has a word at least.
    #[must_use]
    pub fn encoded_max(blocks_max: u64) -> u64 {
        blocks_max.div_ceil(WORD) * 20
    }

    pub fn decode(bytes: &[u8], blocks_max: u64) -> Result<Self, Malformed> {
        let mut set = Self::new(blocks_max);
        let mut fields = Reader::new(bytes);
        let mut at = 0;
        while !fields.is_empty() {
            let (zeros, ones, others) =
                (fields.u32()? as usize, fields.u32()? as usize, fields.u32()? as usize);
            let end = at + zeros + ones + others;
            if zeros + ones + others == 0 || end > set.used.len() {
                return Err(Malformed);
            }
            set.used[at + zeros..at + zeros + ones].fill(u64::MAX);
            for word in &mut set.used[at + zeros + ones..end] {
                *word = fields.u64()?;
            }
            at = end;
        }
        let beyond = set.used.len() as u64 * WORD - blocks_max;
        if set.used.last().is_some_and(|last| beyond > 0 && last >> (WORD - beyond) != 0) {
            return Err(Malformed);
        }
        set.used_count = set.used.iter().map(|word| u64::from(word.count_ones())).sum();
        Ok(set)
    }

    /// Addresses of all blocks that are named by the newest checkpoint, ascending.
    pub fn referenced(&self) -> impl Iterator<Item = u64> + '_ {
        (1..=self.highest()).filter(|address| self.is_referenced(*address))
    }
}

fn place(address: u64) -> (usize, u64) {
    (
        usize::try_from(address.wrapping_sub(1) / WORD).unwrap_or(usize::MAX),
        1 << (address.wrapping_sub(1) % WORD),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take,
        Release(usize),
        Begin,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Take),
            3 => any::<usize>().prop_map(Step::Release),
            1 => Just(Step::Begin),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        /// Against two sets: what is referenced, and what was released in this interval.
        #[test]
        fn the_lowest_free_block_is_taken_and_a_released_one_not_before_the_next_work(steps in steps()) {
            let mut set = FreeSet::new(150);
            let (mut used, mut released) = (BTreeSet::new(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Take => {
                        let lowest = (1..=150).find(|block| !used.contains(block) && !released.contains(block));
                        prop_assert_eq!(set.take().ok(), lowest);
                        used.extend(lowest);
                    }
                    Step::Release(nth) if !used.is_empty() => {
                        let block = *used.iter().nth(nth % used.len()).unwrap();
                        set.release(block);
                        used.remove(&block);
                        released.insert(block);
                    }
                    Step::Release(_) => {}
                    Step::Begin => {
                        set.begin();
                        released.clear();
                    }
                }
                prop_assert!(set.referenced().eq(used.iter().copied()));
                prop_assert_eq!(set.free(), 150 - (used.len() + released.len()) as u64);
                prop_assert_eq!(set.highest(), used.iter().chain(&released).max().copied().unwrap_or(0));
                let mut bytes = Vec::new();
                set.encode(&mut bytes);
                prop_assert!(bytes.len() as u64 <= FreeSet::encoded_max(150));
                let decoded = FreeSet::decode(&bytes, 150).unwrap();
                prop_assert!(decoded.referenced().eq(used.iter().copied()));
                prop_assert_eq!(decoded.used(), used.len() as u64);
            }
        }

        #[test]
        fn any_bytes_are_a_free_set_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(set) = FreeSet::decode(&bytes, 150) {
                prop_assert!(set.highest() <= 150);
                prop_assert_eq!(set.referenced().count() as u64, set.used());
            }
        }
    }

    #[test]
    fn long_runs_are_short() {
        let mut set = FreeSet::new(1 << 20);
        for _ in 0..500_000 {
            set.take().unwrap();
        }
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        assert_eq!(bytes.len(), 12 + 8, "7,812 words of ones and one that is not full");
        assert!(FreeSet::decode(&bytes, 1 << 20).unwrap().referenced().eq(1..=500_000));
        assert!(FreeSet::decode(&bytes, 1000).is_err());
        assert!(set.take_at(600_000) && !set.take_at(600_000) && !set.take_at(0) && !set.take_at(1 << 21));
    }

    #[test]
    #[should_panic(expected = "is released while it is referenced")]
    fn a_block_is_released_once() {
        let mut set = FreeSet::new(10);
        let block = set.take().unwrap();
        set.release(block);
        set.release(block);
    }
}
