//! The unit of disk: 4,032 bytes of payload and a trailer of 64: tag, salt, stamp.
//!
//! The tag covers payload, salt, stamp, cluster, shard, zone and address, so that a sector can't be taken for
//! another one (H29). While at-rest sealing is off it is a plain digest; the format is the same either way.

use sha2::{Digest as _, Sha256};

use super::layout::{PAYLOAD, SECTOR};
use crate::types::{ClusterId, ShardId};

/// Part of the data file. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Zone {
    Superblock = 1,
    Wal = 2,
    Checkpoint = 3,
    Grid = 4,
}

/// Which write a sector belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Of an entry its op and view; of a superblock its sequence and copy; of a checkpoint its op and zero; of a
    /// block of the grid its checkpoint's number and its address.
    pub op: u64,
    pub view: u64,
    /// Up to here the writer's log was durable when it wrote this entry: what a later look does not find of that
    /// was lost by the disk, not left out. Zero in other zones.
    pub witness: u64,
    /// Index of the sector in its write.
    pub index: u32,
}

/// Whose sectors, and in which zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub cluster: ClusterId,
    pub shard: ShardId,
    pub zone: Zone,
}

/// What a sector turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All zero: never written since format.
    Blank,
    Valid(Stamp),
    Corrupt,
}

/// What is digested of a payload is a multiple of this.
const STEP: usize = 64;

const TAG: usize = PAYLOAD;
const SALT: usize = TAG + 16;
const OP: usize = SALT + 16;
const VIEW: usize = OP + 8;
const INDEX: usize = VIEW + 8;
const ZONE: usize = INDEX + 4;
const WITNESS: usize = SECTOR - 8;

/// Sectors that hold `len` bytes of payload.
#[must_use]
pub fn sectors_for(len: usize) -> usize {
    len.div_ceil(PAYLOAD)
}

/// Fills `image` (a whole number of sectors) with `payload`, zero-padded, and seals each sector.
/// `offset` is where the image will lie in the file; `stamp.index` is the first sector's.
///
/// # Panics
/// When the payload does not fit: our own bug.
pub fn seal(place: Place, offset: u64, stamp: Stamp, payload: &[u8], image: &mut [u8]) {
    assert!(image.len().is_multiple_of(SECTOR) && sectors_for(payload.len()) * SECTOR <= image.len());
    let mut parts = payload.chunks(PAYLOAD);
    for (index, sector) in image.chunks_exact_mut(SECTOR).enumerate() {
        let part = parts.next().unwrap_or(&[]);
        sector[..part.len()].copy_from_slice(part);
        sector[part.len()..].fill(0);
        let index = u32::try_from(index).expect("an image has less than 2^32 sectors");
        sector[OP..VIEW].copy_from_slice(&stamp.op.to_le_bytes());
        sector[VIEW..INDEX].copy_from_slice(&stamp.view.to_le_bytes());
        sector[INDEX..ZONE].copy_from_slice(&(stamp.index + index).to_le_bytes());
        sector[ZONE..WITNESS].fill(0);
        sector[WITNESS..].copy_from_slice(&stamp.witness.to_le_bytes());
        sector[ZONE] = place.zone as u8;
        let tag = tag(place, offset + u64::from(index) * SECTOR as u64, sector);
        sector[TAG..SALT].copy_from_slice(&tag);
    }
}

/// Looks at one sector that was read from `offset`.
#[must_use]
pub fn open(place: Place, offset: u64, sector: &[u8]) -> Found {
    if sector.len() != SECTOR {
        return Found::Corrupt;
    }
    if sector[ZONE] == 0 && is_zero(sector) {
        return Found::Blank;
    }
    if sector[ZONE] != place.zone as u8 || sector[TAG..SALT] != tag(place, offset, sector) {
        return Found::Corrupt;
    }
    Found::Valid(stamp(sector))
}

fn stamp(sector: &[u8]) -> Stamp {
    let number = |at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().expect("8 bytes"));
    let index = u32::from_le_bytes(sector[INDEX..ZONE].try_into().expect("4 bytes"));
    Stamp { op: number(OP), view: number(VIEW), witness: number(WITNESS), index }
}

/// The payloads of consecutive sectors, in order.
pub fn payloads(image: &[u8]) -> impl Iterator<Item = &[u8]> {
    image.chunks_exact(SECTOR).map(|sector| &sector[..PAYLOAD])
}

/// Bytes of a payload before the zeros at its end, in steps of [`STEP`]: most sectors of a log are mostly padding,
/// and looking for zeros costs a tenth of digesting them.
fn filled(payload: &[u8]) -> u32 {
    let zeros = payload.rchunks_exact(STEP).take_while(|step| is_zero(step)).count();
    u32::try_from(payload.len() - zeros * STEP).expect("a payload is small")
}

/// Whole steps at once: a look at each byte by itself is several times as slow, and most of a new log is zero.
fn is_zero(bytes: &[u8]) -> bool {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    let any = |bytes: &[u8]| bytes.iter().fold(0, |seen, byte| seen | byte);
    steps.iter().all(|step| any(step) == 0) && any(rest) == 0
}

fn tag(place: Place, offset: u64, sector: &[u8]) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(place.cluster.0.to_le_bytes());
    hash.update(place.shard.0.to_le_bytes());
    hash.update(offset.to_le_bytes());
    hash.update(&sector[SALT..]);
    let filled = filled(&sector[..PAYLOAD]);
    hash.update(filled.to_le_bytes());
    hash.update(&sector[..filled as usize]);
    let digest: [u8; 32] = hash.finalize().into();
    let (tag, _) = digest.split_first_chunk::<16>().expect("32 bytes hold 16");
    *tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    const PLACE: Place = Place { cluster: ClusterId(7), shard: ShardId(1), zone: Zone::Wal };
    const STAMP: Stamp = Stamp { op: 5, view: 3, witness: 4, index: 0 };

    fn sealed() -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        seal(PLACE, 8192, STAMP, &[9; PAYLOAD + 10], &mut image);
        image
    }

    #[test]
    fn what_was_sealed_is_found() {
        let image = sealed();
        assert_eq!(open(PLACE, 8192, &image[..SECTOR]), Found::Valid(STAMP));
        assert_eq!(open(PLACE, 8192 + 4096, &image[SECTOR..]), Found::Valid(Stamp { index: 1, ..STAMP }));
        assert_eq!(open(PLACE, 0, &[0; SECTOR]), Found::Blank);
    }

    #[test]
    fn h28_every_flipped_bit_of_a_sector_is_found() {
        let mut image = sealed();
        for bit in 0..SECTOR * 8 {
            image[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(PLACE, 8192, &image[..SECTOR]), Found::Corrupt, "bit {bit}");
            image[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// What is not digested is zero, and a bit there that is not changes how much is digested.
    #[test]
    fn h28_every_flipped_bit_of_the_padding_is_found() {
        let mut image = vec![0; SECTOR];
        for len in [0, 1, STEP - 1, STEP, STEP + 1, PAYLOAD - STEP, PAYLOAD] {
            seal(PLACE, 8192, STAMP, &vec![9; len], &mut image);
            assert_eq!(open(PLACE, 8192, &image), Found::Valid(STAMP));
            for bit in 0..SECTOR * 8 {
                image[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(open(PLACE, 8192, &image), Found::Corrupt, "{len} bytes, bit {bit}");
                image[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn h29_a_sector_in_another_place_is_corrupt() {
        let image = sealed();
        let sector = &image[..SECTOR];
        assert_eq!(open(PLACE, 4096, sector), Found::Corrupt, "another address");
        assert_eq!(
            open(Place { zone: Zone::Checkpoint, ..PLACE }, 8192, sector),
            Found::Corrupt,
            "another zone"
        );
        assert_eq!(open(Place { shard: ShardId(2), ..PLACE }, 8192, sector), Found::Corrupt, "another shard");
        assert_eq!(
            open(Place { cluster: ClusterId(8), ..PLACE }, 8192, sector),
            Found::Corrupt,
            "another cluster"
        );
    }
}
