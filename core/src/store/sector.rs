//! The unit of disk: 4,032 bytes of payload and a trailer of 64: tag, salt, stamp.
//!
//! The one law: **the tag covers payload, salt, stamp, cluster, shard, zone and address**, so that a sector can't be
//! taken for another one (H29, H42). While at-rest sealing is off it is a plain digest, otherwise the payload is
//! encrypted and only a tag of the file's own key counts; the format is the same either way.

use alloc::vec::Vec;

use sha2::{Digest as _, Sha256};

use super::layout::{PAYLOAD, SECTOR};
use super::sealing::{BOUND, Sealing};
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
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub cluster: ClusterId,
    pub shard: ShardId,
    pub zone: Zone,
    /// `None`: plain digests. Never for the superblock, which must be readable without a key.
    pub sealing: Option<&'a dyn Sealing>,
}

impl Place<'_> {
    /// The same, sealed.
    #[must_use]
    pub fn under(self, sealing: Option<&dyn Sealing>) -> Place<'_> {
        let Self { cluster, shard, zone, .. } = self;
        Place { cluster, shard, zone, sealing: sealing.filter(|_| zone != Zone::Superblock) }
    }
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
const SALT_LEN: usize = OP - SALT;
const _: () = assert!(BOUND == 28 + SECTOR - OP);

/// Sectors that hold `len` bytes of payload.
#[must_use]
pub fn sectors_for(len: usize) -> usize {
    len.div_ceil(PAYLOAD)
}

/// Fills `image` (a whole number of sectors) with `payload`, zero-padded, and seals each sector: one write, with one
/// salt. `offset` is where the image will lie in the file; `stamp.index` is the first sector's.
///
/// # Panics
/// When the payload does not fit: our own bug.
pub fn seal(place: Place<'_>, offset: u64, stamp: Stamp, payload: &[u8], image: &mut [u8]) {
    assert!(image.len().is_multiple_of(SECTOR) && sectors_for(payload.len()) * SECTOR <= image.len());
    let salt = place.sealing.map_or([0; SALT_LEN], Sealing::draw_salt);
    let mut parts = payload.chunks(PAYLOAD);
    for (index, sector) in image.chunks_exact_mut(SECTOR).enumerate() {
        let part = parts.next().unwrap_or(&[]);
        sector[..part.len()].copy_from_slice(part);
        sector[part.len()..].fill(0);
        let index = u32::try_from(index).expect("an image has less than 2^32 sectors");
        sector[SALT..OP].copy_from_slice(&salt);
        sector[OP..VIEW].copy_from_slice(&stamp.op.to_le_bytes());
        sector[VIEW..INDEX].copy_from_slice(&stamp.view.to_le_bytes());
        sector[INDEX..ZONE].copy_from_slice(&(stamp.index + index).to_le_bytes());
        sector[ZONE..WITNESS].fill(0);
        sector[WITNESS..].copy_from_slice(&stamp.witness.to_le_bytes());
        sector[ZONE] = place.zone as u8;
    }
    let sectors = || (offset..).step_by(SECTOR);
    let Some(sealing) = place.sealing else {
        for (sector, offset) in image.chunks_exact_mut(SECTOR).zip(sectors()) {
            let tag = tag(place, offset, sector);
            sector[TAG..SALT].copy_from_slice(&tag);
        }
        return;
    };
    sealing.with_key(&salt, &mut |key| {
        for (sector, offset) in image.chunks_exact_mut(SECTOR).zip(sectors()) {
            let (bound, nonce) = (bound(place, offset, sector), self::stamp(sector).index);
            let tag = key.seal(nonce, &bound, sector.first_chunk_mut().expect("a payload"));
            sector[TAG..SALT].copy_from_slice(&tag);
        }
    });
}

/// Looks at one sector that was read from `offset`. A valid one's payload is appended to `out`.
#[must_use]
pub fn open(place: Place<'_>, offset: u64, sector: &[u8], out: &mut Vec<u8>) -> Found {
    if sector.len() != SECTOR {
        return Found::Corrupt;
    }
    if sector[ZONE] == 0 && is_zero(sector) {
        return Found::Blank;
    }
    let whole = sector[ZONE] == place.zone as u8
        && match place.sealing {
            None => {
                let whole = sector[TAG..SALT] == tag(place, offset, sector);
                if whole {
                    out.extend_from_slice(&sector[..PAYLOAD]);
                }
                whole
            }
            Some(sealing) => {
                unseal(sealing, place, offset, sector, out)
                    || match sealing.before() {
                        // What was sealed before the node key changed.
                        Some(older) => unseal(older, place, offset, sector, out),
                        None => false,
                    }
            }
        };
    if whole { Found::Valid(stamp(sector)) } else { Found::Corrupt }
}

/// Decrypts at the end of `out`, of which nothing is left if the tag is not right.
fn unseal(sealing: &dyn Sealing, place: Place<'_>, offset: u64, sector: &[u8], out: &mut Vec<u8>) -> bool {
    let before = out.len();
    out.extend_from_slice(&sector[..PAYLOAD]);
    let (bound, nonce) = (bound(place, offset, sector), stamp(sector).index);
    let salt = sector[SALT..OP].first_chunk().expect("16 bytes");
    let tag = sector[TAG..SALT].first_chunk().expect("16 bytes");
    let payload = out[before..].first_chunk_mut().expect("just appended");
    let mut whole = false;
    sealing.with_key(salt, &mut |key| whole = key.open(nonce, &bound, tag, payload));
    if !whole {
        out.truncate(before);
    }
    whole
}

/// What a tag of a sealed sector covers beside the payload: whose it is, where it lies, and its stamp. The salt is in
/// the key.
fn bound(place: Place<'_>, offset: u64, sector: &[u8]) -> [u8; BOUND] {
    let mut bound = [0; BOUND];
    bound[..16].copy_from_slice(&place.cluster.0.to_le_bytes());
    bound[16..20].copy_from_slice(&place.shard.0.to_le_bytes());
    bound[20..28].copy_from_slice(&offset.to_le_bytes());
    bound[28..].copy_from_slice(&sector[OP..]);
    bound
}

/// What a sector's trailer says of it, proven by nothing.
pub(super) fn claim(sector: &[u8]) -> Option<Stamp> {
    (sector.len() == SECTOR).then(|| stamp(sector))
}

fn stamp(sector: &[u8]) -> Stamp {
    let number = |at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().expect("8 bytes"));
    let index = u32::from_le_bytes(sector[INDEX..ZONE].try_into().expect("4 bytes"));
    Stamp { op: number(OP), view: number(VIEW), witness: number(WITNESS), index }
}

/// The payloads of consecutive sectors that are not sealed, in order.
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
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    let any = |bytes: &[u8]| bytes.iter().fold(0, |seen, byte| seen | byte);
    steps.iter().all(|step| any(step) == 0) && any(rest) == 0
}

fn tag(place: Place<'_>, offset: u64, sector: &[u8]) -> [u8; 16] {
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
    use crate::store::sealing::toy::Toy;
    use alloc::vec;

    const PLACE: Place<'_> =
        Place { cluster: ClusterId(7), shard: ShardId(1), zone: Zone::Wal, sealing: None };
    const STAMP: Stamp = Stamp { op: 5, view: 3, witness: 4, index: 0 };

    fn open(place: Place<'_>, offset: u64, sector: &[u8]) -> Found {
        super::open(place, offset, sector, &mut Vec::new())
    }

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

    /// A write of two sectors under a key.
    fn under_key(sealing: &Toy, payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        seal(PLACE.under(Some(sealing)), 8192, STAMP, payload, &mut image);
        image
    }

    #[test]
    fn what_was_sealed_under_a_key_is_found_under_that_key_alone() {
        let (key, other) = (Toy::new(1), Toy::new(2));
        let payload = [9; PAYLOAD + 10];
        let image = under_key(&key, &payload);
        assert!(!image.windows(8).any(|bytes| bytes == [9; 8]), "nothing of it can be read");
        let mut out = vec![7];
        let place = PLACE.under(Some(&key));
        assert_eq!(super::open(place, 8192, &image[..SECTOR], &mut out), Found::Valid(STAMP));
        let second = Stamp { index: 1, ..STAMP };
        assert_eq!(super::open(place, 8192 + 4096, &image[SECTOR..], &mut out), Found::Valid(second));
        assert_eq!(out[1..=payload.len()], payload);
        assert!(out[0] == 7 && out[payload.len() + 1..].iter().all(|byte| *byte == 0));
        for place in [PLACE, PLACE.under(Some(&other))] {
            assert_eq!(super::open(place, 8192, &image[..SECTOR], &mut out), Found::Corrupt);
            assert_eq!(out.len(), 1 + 2 * PAYLOAD, "what is not whole leaves nothing behind");
        }
        assert_eq!(open(place, 8192, &sealed()[..SECTOR]), Found::Corrupt, "a plain sector in a sealed file");
        assert_eq!(open(place, 8192, &[0; SECTOR]), Found::Blank);
    }

    #[test]
    fn h41_each_write_has_a_salt_of_its_own_and_each_sector_of_it_a_nonce() {
        let key = Toy::new(1);
        let (one, again) = (under_key(&key, &[9; 2 * PAYLOAD]), under_key(&key, &[9; 2 * PAYLOAD]));
        let salt = |sector: &[u8]| sector[SALT..OP].to_vec();
        let [a, b] = [&one[..SECTOR], &one[SECTOR..]];
        assert_eq!(salt(a), salt(b), "one write");
        assert_ne!(salt(a), salt(&again), "two writes");
        assert_ne!(a[..PAYLOAD], b[..PAYLOAD], "equal payloads in one write");
        assert_ne!(a[..PAYLOAD], again[..PAYLOAD], "equal payloads in two");
        assert_eq!(stamp(a).index + 1, stamp(b).index, "the nonce");
    }

    #[test]
    fn h42_a_sealed_sector_that_was_moved_or_whose_stamp_was_changed_is_corrupt() {
        let key = Toy::new(1);
        let image = under_key(&key, &[9; PAYLOAD + 10]);
        let (place, sector) = (PLACE.under(Some(&key)), &image[..SECTOR]);
        assert_eq!(open(place, 8192, sector), Found::Valid(STAMP));
        assert_eq!(open(place, 4096, sector), Found::Corrupt, "another address");
        let others = [
            Place { zone: Zone::Grid, ..place },
            Place { shard: ShardId(2), ..place },
            Place { cluster: ClusterId(8), ..place },
        ];
        for other in others {
            assert_eq!(open(other, 8192, sector), Found::Corrupt, "{other:?}");
        }
        // An older sector of this place opens with its own stamp, and with no other.
        for at in [OP, VIEW, INDEX, WITNESS] {
            let mut newer = sector.to_vec();
            newer[at] ^= 1;
            assert_eq!(open(place, 8192, &newer), Found::Corrupt, "its byte {at}");
        }
    }

    #[test]
    fn h28_every_flipped_bit_of_a_sealed_sector_is_found() {
        let key = Toy::new(1);
        let mut image = under_key(&key, &[9; 100]);
        // All of the trailer, and of the payload what is filled and some of what is not.
        for bit in (0..8 * 128).chain(8 * PAYLOAD..8 * SECTOR) {
            image[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(PLACE.under(Some(&key)), 8192, &image[..SECTOR]), Found::Corrupt, "bit {bit}");
            image[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn the_superblock_is_never_sealed() {
        let key = Toy::new(1);
        let place = Place { zone: Zone::Superblock, ..PLACE }.under(Some(&key));
        let mut image = vec![0; SECTOR];
        seal(place, 0, STAMP, b"who I am", &mut image);
        assert!(image.starts_with(b"who I am"));
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
