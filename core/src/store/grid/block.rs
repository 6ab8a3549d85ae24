//! A block: a header that says what it is, a body, and a digest over both.
//!
//! The one law: **every byte that is used was covered by the digest that somebody else keeps.** Payloads are what the
//! digest is of, so two replicas have equal blocks though their sectors are sealed each with its own salt.
//!
//! A block is written whole, zeros behind its payload, so that nothing is left of the block that lay there before; only
//! the sectors that the payload fills are looked at. Layout: `docs/formats.md`, "Block".

use alloc::vec::Vec;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::GridShape;
use crate::store::layout::SECTOR;
use crate::store::sector::{self, Found, Place, Stamp, sectors_for};
use crate::wire::codec::{Malformed, Reader};
use crate::wire::entry::Digest;

/// Names a block: where it lies and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockRef {
    pub address: u64,
    /// SHA-256 of the payload.
    pub digest: Digest,
}

/// Bytes of an encoded [`BlockRef`].
pub const BLOCK_REF: usize = 40;

impl BlockRef {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.address.to_le_bytes());
        out.extend_from_slice(&self.digest.0);
    }

    /// Refuses addresses that the grid does not have.
    pub fn decode(reader: &mut Reader<'_>, shape: &GridShape) -> Result<Self, Malformed> {
        let reference = Self { address: reader.u64()?, digest: Digest(reader.array()?) };
        if shape.holds(reference.address) { Ok(reference) } else { Err(Malformed) }
    }
}

/// What a block holds. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Names all else of a checkpoint.
    Root = 1,
    /// A part of the manifest.
    Manifest = 2,
    /// A part of the free set.
    FreeSet = 3,
    /// Entries of a run's index.
    Index = 4,
    /// Messages.
    Records = 5,
    /// Pages of tables.
    Pages = 6,
    /// Zeros, over a free block that held what was erased. No checkpoint names one.
    Wiped = 7,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        let kinds =
            [Self::Root, Self::Manifest, Self::FreeSet, Self::Index, Self::Records, Self::Pages, Self::Wiped];
        kinds.into_iter().find(|kind| *kind as u8 == code)
    }
}

/// The beginning of every payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    /// Header and body, bytes.
    size: U32,
    kind: u8,
    version: u8,
    reserved: U16,
    address: U64,
    /// Number of the checkpoint for which it was written.
    checkpoint: U64,
    reserved_too: U64,
}

/// Bytes of a block's header.
pub const BLOCK_HEADER: usize = 32;
const _: () = assert!(size_of::<Header>() == BLOCK_HEADER);

/// The format of blocks that this release writes.
const VERSION: u8 = 1;

/// Begins a payload in `out`: the body is appended by the caller, then [`finish`] completes it.
pub fn begin(kind: Kind, address: u64, checkpoint: u64, out: &mut Vec<u8>) {
    out.clear();
    let header = Header {
        size: 0.into(),
        kind: kind as u8,
        version: VERSION,
        reserved: 0.into(),
        address: address.into(),
        checkpoint: checkpoint.into(),
        reserved_too: 0.into(),
    };
    out.extend_from_slice(header.as_bytes());
}

/// Completes a payload whose body was appended, and names the block.
///
/// # Panics
/// When it is larger than a block: our own bug.
pub fn finish(shape: &GridShape, payload: &mut [u8]) -> BlockRef {
    assert!((BLOCK_HEADER..=shape.payload_max()).contains(&payload.len()), "a payload fits its block");
    let size = u32::try_from(payload.len()).expect("blocks are below 4 GiB");
    payload[..4].copy_from_slice(&size.to_le_bytes());
    let (header, _) = Header::read_from_prefix(payload).expect("it begins with a header");
    BlockRef { address: header.address.get(), digest: Digest::of(payload) }
}

/// A payload that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    pub kind: Kind,
    pub checkpoint: u64,
    pub body: &'a [u8],
}

/// Checks that a payload is the block that `reference` names: from a disk, a peer or a cache.
pub fn check<'a>(shape: &GridShape, reference: &BlockRef, payload: &'a [u8]) -> Result<Block<'a>, Malformed> {
    let block = look(shape, reference.address, payload)?;
    if Digest::of(payload) == reference.digest { Ok(block) } else { Err(Malformed) }
}

/// Reads a payload whose digest was checked before.
pub(crate) fn look<'a>(shape: &GridShape, address: u64, payload: &'a [u8]) -> Result<Block<'a>, Malformed> {
    let (header, body) = Header::read_from_prefix(payload).map_err(|_| Malformed)?;
    let kind = Kind::from_code(header.kind).ok_or(Malformed)?;
    let whole = header.size.get() as usize == payload.len()
        && payload.len() <= shape.payload_max()
        && header.version == VERSION
        && header.reserved.get() == 0
        && header.reserved_too.get() == 0
        && header.address.get() == address;
    if whole { Ok(Block { kind, checkpoint: header.checkpoint.get(), body }) } else { Err(Malformed) }
}

/// Seals a finished payload into `image`, a whole block that goes to [`GridShape::offset_of`] its address.
pub fn seal(place: Place<'_>, shape: &GridShape, payload: &[u8], image: &mut [u8]) {
    let (header, _) = Header::read_from_prefix(payload).expect("a payload begins with a header");
    debug_assert_eq!(header.size.get() as usize, payload.len(), "it was finished");
    let offset = shape.offset_of(header.address.get());
    sector::seal(place, offset, stamp(&header), payload, image);
}

fn stamp(header: &Header) -> Stamp {
    Stamp { op: header.checkpoint.get(), view: header.address.get(), witness: 0, index: 0 }
}

/// Why what was read is not the block that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A sector is damaged, or was never written.
    Damaged,
    /// Whole, but another block: an older or newer one of this address, or none of ours.
    Another,
}

/// Opens what was read from a block's place (at least the sectors of its payload) and puts the payload into `out`.
/// On a fault `out` holds nothing.
pub fn open(
    place: Place<'_>,
    shape: &GridShape,
    reference: &BlockRef,
    image: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    out.clear();
    let opened = gather(place, shape, reference.address, image, out)
        .and_then(|()| check(shape, reference, out).map(|_| ()).map_err(|_| Fault::Another));
    if opened.is_err() {
        out.clear();
    }
    opened
}

/// Puts the payload together from sectors that belong to one write.
fn gather(
    place: Place<'_>,
    shape: &GridShape,
    address: u64,
    image: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let offset = shape.offset_of(address);
    let found = |index: usize, out: &mut Vec<u8>| {
        let at = index * SECTOR;
        let bytes = image.get(at..at + SECTOR).unwrap_or(&[]);
        match sector::open(place, offset + at as u64, bytes, out) {
            Found::Valid(stamp) if stamp.index as usize == index => Ok(stamp),
            _ => Err(Fault::Damaged),
        }
    };
    let first = found(0, out)?;
    let (header, _) = Header::read_from_prefix(out).map_err(|_| Fault::Damaged)?;
    let size = header.size.get() as usize;
    if first != stamp(&header) || !(BLOCK_HEADER..=shape.payload_max()).contains(&size) {
        return Err(Fault::Another);
    }
    for index in 1..sectors_for(size) {
        let found = found(index, out)?;
        if (found.op, found.view) != (first.op, first.view) {
            // Sectors of two writes: a torn one, that no checkpoint can name.
            return Err(Fault::Damaged);
        }
    }
    if out[size..].iter().any(|byte| *byte != 0) {
        return Err(Fault::Another);
    }
    out.truncate(size);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sealing::toy::Toy;
    use crate::store::sector::Zone;
    use crate::types::{ClusterId, ShardId};
    use alloc::vec;
    use proptest::prelude::*;

    const SHAPE: GridShape = GridShape { offset: 1 << 20, block_sectors: 3, blocks_max: 100, step: 10 };
    const PLACE: Place<'_> =
        Place { cluster: ClusterId(7), shard: ShardId(1), zone: Zone::Grid, sealing: None };

    fn made(address: u64, body: &[u8]) -> (BlockRef, Vec<u8>) {
        let mut payload = Vec::new();
        begin(Kind::Records, address, 9, &mut payload);
        payload.extend_from_slice(body);
        let reference = finish(&SHAPE, &mut payload);
        (reference, payload)
    }

    fn sealed(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; SHAPE.block_bytes()];
        seal(PLACE, &SHAPE, payload, &mut image);
        image
    }

    #[test]
    fn what_was_sealed_opens_whatever_became_of_the_zeros_behind_it() {
        let (reference, payload) = made(5, &[3; 5000]);
        let mut image = sealed(&payload);
        image[2 * SECTOR..].fill(0xAA);
        let mut out = Vec::new();
        assert_eq!(open(PLACE, &SHAPE, &reference, &image, &mut out), Ok(()));
        assert_eq!(out, payload);
        let block = check(&SHAPE, &reference, &out).unwrap();
        assert_eq!((block.kind, block.checkpoint, block.body), (Kind::Records, 9, &[3; 5000][..]));
    }

    #[test]
    fn h28_every_flipped_bit_of_a_block_is_found() {
        let (reference, payload) = made(5, &[3; 4100]);
        let mut image = sealed(&payload);
        let mut out = Vec::new();
        // Two of its three sectors are filled.
        for bit in 0..2 * SECTOR * 8 {
            image[bit / 8] ^= 1 << (bit % 8);
            assert!(open(PLACE, &SHAPE, &reference, &image, &mut out).is_err(), "bit {bit}");
            assert!(out.is_empty());
            image[bit / 8] ^= 1 << (bit % 8);
        }
        // Also where sealing is not looked at: a payload from a peer or a cache.
        let mut payload = payload;
        for bit in 0..payload.len() * 8 {
            payload[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&SHAPE, &reference, &payload).is_err(), "bit {bit}");
            payload[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn h29_a_block_that_lies_in_the_place_of_another_is_not_taken_for_it() {
        let (five, payload) = made(5, b"five");
        let image = sealed(&payload);
        let mut out = Vec::new();
        let six = BlockRef { address: 6, ..five };
        assert_eq!(open(PLACE, &SHAPE, &six, &image, &mut out), Err(Fault::Damaged), "written astray");
        assert_eq!(check(&SHAPE, &six, &payload), Err(Malformed), "even where its digest is known");
        let (newer, _) = made(5, b"newer");
        assert_eq!(open(PLACE, &SHAPE, &newer, &image, &mut out), Err(Fault::Another), "a lost write");
        let wal = Place { zone: Zone::Wal, ..PLACE };
        assert_eq!(open(wal, &SHAPE, &five, &image, &mut out), Err(Fault::Damaged));
        assert_eq!(open(PLACE, &SHAPE, &five, &[], &mut out), Err(Fault::Damaged));
        assert_eq!(open(PLACE, &SHAPE, &five, &[0; SECTOR], &mut out), Err(Fault::Damaged), "blank");
    }

    #[test]
    fn sectors_of_two_writes_make_no_block() {
        let (one, payload) = made(5, &[3; 8000]);
        let (_, mut other) = made(5, &[4; 8000]);
        other[16] = 8;
        finish(&SHAPE, &mut other);
        let mut image = sealed(&payload);
        let newer = sealed(&other);
        image[SECTOR..2 * SECTOR].copy_from_slice(&newer[SECTOR..2 * SECTOR]);
        assert_eq!(open(PLACE, &SHAPE, &one, &image, &mut Vec::new()), Err(Fault::Damaged));
    }

    /// Two replicas, each with a key of its own, have one block: either gives it to the other (H42).
    #[test]
    fn h42_a_block_is_the_same_under_any_key_and_an_older_one_is_not_taken_for_it() {
        let (mine, yours) = (Toy::new(1), Toy::new(2));
        let (reference, payload) = made(5, &[3; 8000]);
        let mut images = [vec![0; SHAPE.block_bytes()], vec![0; SHAPE.block_bytes()]];
        let mut out = Vec::new();
        for (key, image) in [&mine, &yours].into_iter().zip(&mut images) {
            let place = PLACE.under(Some(key));
            seal(place, &SHAPE, &payload, image);
            assert_eq!(open(place, &SHAPE, &reference, image, &mut out), Ok(()));
            assert_eq!(out, payload);
        }
        let [one, other] = images;
        assert!(one[..SECTOR] != other[..SECTOR] && one[..SECTOR] != sealed(&payload)[..SECTOR]);
        let place = PLACE.under(Some(&mine));
        assert_eq!(open(place, &SHAPE, &reference, &other, &mut out), Err(Fault::Damaged), "another's disk");
        let (newer, mut payload) = made(5, &[4; 8000]);
        assert_eq!(open(place, &SHAPE, &newer, &one, &mut out), Err(Fault::Another), "rolled back");
        // What lies there is put right from a peer's payload.
        let mut image = one;
        seal(place, &SHAPE, &payload, &mut image);
        assert_eq!(open(place, &SHAPE, &newer, &image, &mut out), Ok(()));
        payload[40] ^= 1;
        assert_eq!(check(&SHAPE, &newer, &payload), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_block_of_another_digest(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (reference, payload) = made(5, b"body");
            if bytes != payload {
                prop_assert!(check(&SHAPE, &reference, &bytes).is_err());
            }
            let _ = look(&SHAPE, 5, &bytes);
            let mut image = sealed(&payload);
            let len = bytes.len();
            image[..len].copy_from_slice(&bytes);
            prop_assert!(len == 0 || open(PLACE, &SHAPE, &reference, &image, &mut Vec::new()).is_err()
                || image == sealed(&payload));
        }
    }
}
