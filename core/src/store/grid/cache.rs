//! Blocks that were read lately: bounded, set-associative, each set a clock.
//!
//! The one law: **what is asked for by address and digest is that block or nothing**: an address that was written anew
//! never yields what lay there before (H40). Only payloads that were checked are put in.
//!
//! What is in the cache changes how long a read takes and nothing else: no block, address or order follows from it.

use alloc::vec::Vec;

use super::block::BlockRef;

/// Frames of a set.
const WAYS: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct Cache {
    frames: Vec<Frame>,
    /// The frame of each set that is looked at next.
    hands: Vec<u8>,
    hits: u64,
    misses: u64,
}

#[derive(Debug)]
struct Frame {
    /// `None`: the frame is empty.
    holds: Option<BlockRef>,
    payload: Vec<u8>,
    /// Asked for since the hand came by.
    recent: bool,
}

impl Cache {
    /// A cache of at least `blocks` blocks (and no less than one set) whose payloads have up to `payload_max` bytes.
    #[must_use]
    pub fn new(blocks: usize, payload_max: usize) -> Self {
        let sets = blocks.div_ceil(WAYS).max(1);
        let frame = || Frame { holds: None, payload: Vec::with_capacity(payload_max), recent: false };
        Self {
            frames: (0..sets * WAYS).map(|_| frame()).collect(),
            hands: (0..sets).map(|_| 0).collect(),
            hits: 0,
            misses: 0,
        }
    }

    /// Times that a block was there, and was not.
    #[must_use]
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// The payload of this very block.
    pub fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        let Some(at) = self.find(self.set(reference), reference) else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        self.frames[at].recent = true;
        Some(&self.frames[at].payload)
    }

    /// Keeps a payload that was checked.
    pub fn put(&mut self, reference: BlockRef, payload: &[u8]) {
        let set = self.set(&reference);
        let at = self.find(set, &reference).unwrap_or_else(|| self.victim(set));
        let frame = &mut self.frames[at];
        frame.payload.clear();
        frame.payload.extend_from_slice(payload);
        (frame.holds, frame.recent) = (Some(reference), true);
    }

    fn set(&self, reference: &BlockRef) -> usize {
        // Neighbours go to different sets: runs are read in order of their addresses.
        (reference.address % self.hands.len() as u64) as usize
    }

    fn find(&self, set: usize, reference: &BlockRef) -> Option<usize> {
        (set * WAYS..(set + 1) * WAYS).find(|at| self.frames[*at].holds.as_ref() == Some(reference))
    }

    /// The next frame of the set that was not asked for since the hand came by last.
    fn victim(&mut self, set: usize) -> usize {
        loop {
            let at = set * WAYS + usize::from(self.hands[set]);
            self.hands[set] = (self.hands[set] + 1) % WAYS as u8;
            let frame = &mut self.frames[at];
            if frame.holds.is_none() || !frame.recent {
                return at;
            }
            frame.recent = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::entry::Digest;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    fn reference(address: u64, version: u8) -> BlockRef {
        BlockRef { address, digest: Digest([version; 32]) }
    }

    proptest! {
        #[test]
        fn h40_a_cache_yields_the_block_that_was_asked_for_or_nothing(
            steps in prop::collection::vec((1u64..40, 0u8..3, any::<bool>()), 0..300),
            blocks in 0usize..30,
        ) {
            let mut cache = Cache::new(blocks, 16);
            let mut put = BTreeMap::new();
            for (address, version, is_put) in steps {
                let reference = reference(address, version);
                let payload = [address as u8, version];
                if is_put {
                    cache.put(reference, &payload);
                    put.insert(reference, payload);
                    let kept = cache.get(&reference).map(<[u8]>::to_vec);
                    prop_assert_eq!(kept, Some(payload.to_vec()));
                } else if let Some(found) = cache.get(&reference) {
                    prop_assert_eq!(Some(found), put.get(&reference).map(|payload| &payload[..]));
                }
            }
            let held = cache.frames.iter().filter(|frame| frame.holds.is_some()).count();
            prop_assert!(held <= blocks.next_multiple_of(WAYS).max(WAYS));
        }
    }

    #[test]
    fn what_is_asked_for_again_stays_while_others_pass_through() {
        let mut cache = Cache::new(WAYS, 16);
        (0..WAYS as u64).for_each(|address| cache.put(reference(address, 0), b"x"));
        for passing in 100..200 {
            assert!(cache.get(&reference(3, 0)).is_some(), "before {passing}");
            cache.put(reference(passing, 0), b"y");
        }
    }
}
