//! A disk for one grid, in memory: writes lie about until a flush, and a power cut keeps any of their sectors.

use std::collections::{BTreeMap, BTreeSet};

use tigerchat_core::store::grid::GridShape;
use tigerchat_core::store::grid::block::{self, BlockRef, Fault};
use tigerchat_core::store::layout::{PAYLOAD, SECTOR};
use tigerchat_core::store::sector::{Place, Zone};
use tigerchat_core::types::{ClusterId, ShardId};

pub(crate) const PLACE: Place<'_> =
    Place { cluster: ClusterId(7), shard: ShardId(1), zone: Zone::Grid, sealing: None };

/// A sequence of numbers that looks random.
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides.max(1)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    shape: GridShape,
    /// Sectors by their place in the file.
    sectors: BTreeMap<u64, Vec<u8>>,
    /// Images that were written and not flushed, in order.
    unflushed: Vec<(u64, Vec<u8>)>,
    /// Blocks of the checkpoint that the superblock names: nobody may write there.
    pub(crate) protected: BTreeSet<u64>,
    pub(crate) writes: usize,
    pub(crate) bytes: u64,
}

impl Disk {
    pub(crate) fn new(shape: GridShape) -> Self {
        let (sectors, unflushed, protected) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Self { shape, sectors, unflushed, protected, writes: 0, bytes: 0 }
    }

    pub(crate) fn write(&mut self, address: u64, payload: &[u8]) {
        assert!(
            !self.protected.contains(&address),
            "block {address} is overwritten while a checkpoint needs it"
        );
        let mut image = vec![0; self.shape.block_bytes()];
        block::seal(PLACE, &self.shape, payload, &mut image);
        self.writes += 1;
        self.bytes += image.len() as u64;
        self.unflushed.push((self.shape.offset_of(address), image));
    }

    pub(crate) fn flush(&mut self) {
        for (offset, image) in std::mem::take(&mut self.unflushed) {
            self.put(offset, &image, |_| true);
        }
    }

    /// Power is cut: of what was not flushed any sectors remain.
    pub(crate) fn cut_power(&mut self, dice: &mut Dice) {
        for (offset, image) in std::mem::take(&mut self.unflushed) {
            self.put(offset, &image, |_| dice.roll(2) == 0);
        }
    }

    fn put(&mut self, offset: u64, image: &[u8], mut stays: impl FnMut(usize) -> bool) {
        for (at, sector) in image.chunks_exact(SECTOR).enumerate() {
            if stays(at) {
                self.sectors.insert(offset + (at * SECTOR) as u64, sector.to_vec());
            }
        }
    }

    /// What lies in a block's place, the newest writes included.
    pub(crate) fn read(&self, reference: &BlockRef) -> Result<Vec<u8>, Fault> {
        let offset = self.shape.offset_of(reference.address);
        let mut image = vec![0; self.shape.block_bytes()];
        for (at, sector) in image.chunks_exact_mut(SECTOR).enumerate() {
            if let Some(found) = self.sectors.get(&(offset + (at * SECTOR) as u64)) {
                sector.copy_from_slice(found);
            }
        }
        for (written, bytes) in &self.unflushed {
            if *written == offset {
                image[..bytes.len()].copy_from_slice(bytes);
            }
        }
        let mut payload = Vec::new();
        block::open(PLACE, &self.shape, reference, &image, &mut payload).map(|()| payload)
    }

    /// Flips a bit of a block's image, in the sectors that its payload fills.
    pub(crate) fn flip(&mut self, reference: &BlockRef, bit: usize) {
        let size = self.read(reference).expect("it was whole").len().div_ceil(PAYLOAD) * SECTOR;
        let at = (bit / 8 % size) as u64;
        let sector = self.shape.offset_of(reference.address) + at / SECTOR as u64 * SECTOR as u64;
        self.sectors.get_mut(&sector).expect("it was written")[at as usize % SECTOR] ^= 1 << (bit % 8);
    }

    /// Whether these bytes lie anywhere on the disk.
    pub(crate) fn contains(&self, bytes: &[u8]) -> bool {
        let holds = |sector: &[u8]| sector.windows(bytes.len()).any(|window| window == bytes);
        self.sectors.values().any(|sector| holds(sector))
            || self.unflushed.iter().any(|(_, image)| holds(image))
    }
}
