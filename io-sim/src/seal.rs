//! Sealing in the simulator: a stand-in that keeps no secret, and a ledger of every key and nonce.
//!
//! The one law: **no key meets a nonce twice** (I31, H41), over all replicas, starts, crashes and disks of a world; and
//! in a sealed world no sector reaches a disk that the ledger does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tigerchat_core::store::layout::{PAYLOAD, SECTOR};
use tigerchat_core::store::sealing::{
    BOUND, Envelope, NodeKeyBefore, SALT, Sealing, SectorKey, TAG, WRAPPED,
};

use crate::random::Random;

/// Where in a sector its salt and its index lie: `docs/formats.md`, "Sector".
const SALT_AT: usize = PAYLOAD + 16;
const INDEX_AT: usize = PAYLOAD + 48;

/// A write's key: whose it is, and its salt.
type Key = (u64, [u8; SALT]);

/// What all disks of a world have in common.
#[derive(Debug)]
pub struct Ledger {
    used: Mutex<BTreeSet<(Key, u32)>>,
    /// How often the keys of each disk changed at most: what a power cut took back counts too.
    changes: Mutex<BTreeMap<u64, u64>>,
    /// The operating system's entropy: it knows nothing of process starts.
    entropy: Mutex<Random>,
    /// For [`crate::rotate`]: whose key changes when, and what comes between.
    pub(crate) rotations: Mutex<Random>,
    pub(crate) rotated: Mutex<Rotated>,
}

/// Changes of keys in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    pub whole: u64,
    /// Interrupted, so that a replica started with both keys; and of those the ones that ended with a power cut.
    pub interrupted: u64,
    pub power_lost: u64,
    /// Ended later than begun.
    pub resumed: u64,
}

impl Ledger {
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        let entropy = Mutex::new(Random::new(seed, "salts", 0));
        let rotations = Mutex::new(Random::new(seed, "rotations", 0));
        let (used, changes, rotated) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { used, changes, entropy, rotations, rotated })
    }

    #[must_use]
    pub fn rotated(&self) -> Rotated {
        *self.rotated.lock().expect("one thread")
    }

    /// # Panics
    /// When the key met this nonce before: the violation that this is for.
    fn note(&self, key: Key, nonce: u32) {
        let new = self.used.lock().expect("one thread").insert((key, nonce));
        assert!(new, "I31: the key of a write of node {} met nonce {nonce} twice", key.0);
    }

    fn knows(&self, key: Key, nonce: u32) -> bool {
        self.used.lock().expect("one thread").contains(&(key, nonce))
    }
}

/// Seals the sectors of one disk.
#[derive(Clone, Debug)]
pub struct StandIn {
    node: u64,
    ledger: Arc<Ledger>,
    before: Option<Box<Self>>,
}

/// Keys of one disk differ by this.
const NEXT: u64 = 256;

impl StandIn {
    #[must_use]
    pub fn new(node: u64, ledger: &Arc<Ledger>) -> Self {
        Self { node, ledger: Arc::clone(ledger), before: None }
    }

    /// The next key of its disk, beside this one; of both, beside the newer one.
    #[must_use]
    pub fn next(&self) -> Self {
        let node = self.node + NEXT;
        let mut changes = self.ledger.changes.lock().expect("one thread");
        let most = changes.entry(node % NEXT).or_default();
        *most = (*most).max(node / NEXT);
        Self { node, before: Some(Box::new(self.alone())), ledger: Arc::clone(&self.ledger) }
    }

    /// The newest key alone.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self { before: None, ..self.clone() }
    }

    /// All keys that its disk ever had, the newest first: each alone, and beside the one before.
    pub(crate) fn so_far(&self) -> impl Iterator<Item = Self> {
        let place = self.node % NEXT;
        let changes =
            self.ledger.changes.lock().expect("one thread").get(&place).copied().unwrap_or_default();
        let nth = move |nth| Self::new(place + nth * NEXT, &self.ledger);
        (0..=changes).rev().flat_map(move |at| {
            let beside = at.checked_sub(1).map(|before| nth(before).next());
            [nth(at)].into_iter().chain(beside)
        })
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// What the superblock of its disk says.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        let before =
            self.before.as_ref().map(|old| NodeKeyBefore { check: old.check(), wrapped: [0; WRAPPED] });
        Envelope { master: [0xA5; 8], check: self.check(), wrapped: [0; WRAPPED], before }
    }

    /// Whether all sectors of a write were sealed for this disk.
    #[must_use]
    pub fn sealed(&self, write: &[u8]) -> bool {
        write.chunks(SECTOR).all(|sector| {
            let (salt, index) = (sector[SALT_AT..].first_chunk(), sector[INDEX_AT..].first_chunk());
            let (Some(salt), Some(index)) = (salt, index) else { return false };
            self.ledger.knows((self.node, *salt), u32::from_le_bytes(*index))
        })
    }
}

impl Sealing for StandIn {
    fn draw_salt(&self) -> [u8; SALT] {
        self.ledger.entropy.lock().expect("one thread").bytes()
    }

    fn with_key(&self, salt: &[u8; SALT], with: &mut dyn FnMut(&dyn SectorKey)) {
        with(&OneWrite { key: (self.node, *salt), ledger: &self.ledger });
    }

    fn check(&self) -> [u8; 8] {
        mixed(self.node, 0xC0DE).to_le_bytes()
    }

    fn before(&self) -> Option<&dyn Sealing> {
        self.before.as_deref().map(|before| before as &dyn Sealing)
    }
}

struct OneWrite<'a> {
    key: Key,
    ledger: &'a Ledger,
}

impl OneWrite<'_> {
    fn start(&self, nonce: u32) -> u64 {
        let (salt, _) = self.key.1.as_chunks::<8>();
        let seed = salt.iter().fold(self.key.0, |seed, half| mixed(seed, u64::from_le_bytes(*half)));
        mixed(seed, nonce.into())
    }

    fn flip(&self, nonce: u32, payload: &mut [u8; PAYLOAD]) {
        let mut stream = self.start(nonce);
        for word in payload.as_chunks_mut::<8>().0 {
            stream = stream.wrapping_add(0x9E37_79B9_7F4A_7C15);
            *word = (u64::from_le_bytes(*word) ^ mixed(stream, 1)).to_le_bytes();
        }
    }

    /// Each flipped bit changes it: every step can be undone.
    fn tag(&self, nonce: u32, bound: &[u8; BOUND], sealed: &[u8; PAYLOAD]) -> [u8; TAG] {
        let mut half = [self.start(nonce), !self.start(nonce)];
        let (words, rest) = bound.as_chunks::<8>();
        let rest = u64::from(u32::from_le_bytes(rest.try_into().expect("60 is 7 times 8 and 4")));
        let words = words.iter().chain(sealed.as_chunks::<8>().0).map(|word| u64::from_le_bytes(*word));
        for word in words.chain([rest]) {
            half[0] = (half[0] ^ word).wrapping_mul(0x9FB2_1C65_1E98_DF25).rotate_left(29);
            half[1] = (half[1] ^ word).wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(31);
        }
        let mut tag = [0; TAG];
        tag[..8].copy_from_slice(&half[0].to_le_bytes());
        tag[8..].copy_from_slice(&half[1].to_le_bytes());
        tag
    }
}

impl SectorKey for OneWrite<'_> {
    fn seal(&self, nonce: u32, bound: &[u8; BOUND], payload: &mut [u8; PAYLOAD]) -> [u8; TAG] {
        self.ledger.note(self.key, nonce);
        self.flip(nonce, payload);
        self.tag(nonce, bound, payload)
    }

    fn open(&self, nonce: u32, bound: &[u8; BOUND], tag: &[u8; TAG], payload: &mut [u8; PAYLOAD]) -> bool {
        let whole = self.tag(nonce, bound, payload) == *tag;
        self.flip(nonce, payload);
        whole
    }
}

fn mixed(one: u64, other: u64) -> u64 {
    let mut bits = one ^ other.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use tigerchat_core::store::sector::{Found, Place, Stamp, Zone, open, seal};
    use tigerchat_core::types::{ClusterId, ShardId};

    const STAMP: Stamp = Stamp { op: 5, view: 3, witness: 4, index: 0 };

    fn place(sealing: &StandIn) -> Place<'_> {
        Place { cluster: ClusterId(7), shard: ShardId(1), zone: Zone::Wal, sealing: Some(sealing) }
    }

    #[test]
    fn the_ledger_knows_what_was_sealed_for_a_disk_and_nothing_else() {
        let ledger = Ledger::new(1);
        let (one, other) = (StandIn::new(1, &ledger), StandIn::new(2, &ledger));
        let mut image = vec![0; 2 * SECTOR];
        assert!(!one.sealed(&image));
        seal(place(&one), 8192, STAMP, &[9; PAYLOAD + 1], &mut image);
        assert!(one.sealed(&image) && !other.sealed(&image));
        let mut out = Vec::new();
        assert_eq!(open(place(&one), 8192, &image[..SECTOR], &mut out), Found::Valid(STAMP));
        assert_eq!(open(place(&other), 8192, &image[..SECTOR], &mut out), Found::Corrupt);
        assert_eq!(out, [9; PAYLOAD]);
        image[17] ^= 1;
        assert_eq!(open(place(&one), 8192, &image[..SECTOR], &mut out), Found::Corrupt);
        let plain = Place { sealing: None, ..place(&one) };
        seal(plain, 8192, STAMP, &[9; 10], &mut image);
        assert!(!one.sealed(&image));
    }

    #[test]
    #[should_panic(expected = "I31")]
    fn h41_the_second_use_of_a_key_and_nonce_ends_the_world() {
        let sealing = StandIn::new(1, &Ledger::new(1));
        for body in [b'a', b'b'] {
            sealing.with_key(&[1; SALT], &mut |key| {
                key.seal(0, &[0; BOUND], &mut [body; PAYLOAD]);
            });
        }
    }
}
