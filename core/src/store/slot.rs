//! What a slot of the write-ahead log holds after a crash: the torn/corrupt decision (H24, PAR FAST'18).
//!
//! An entry is one write of one or more sectors; each carries the write's stamp. A crash leaves any subset of the
//! sectors of writes that were not yet durable. A slot is overwritten only when its old entry is dispensable
//! (checkpointed, or truncated by a durable view change). So, looking at a slot's first sector and as many more as
//! the entry in it claims:
//!
//! | first sector | the others | finding | why |
//! |---|---|---|---|
//! | valid | all valid with its stamp | `Entry` | whole; sectors beyond it do not matter |
//! | valid | one is corrupt | `Faulty`, header known | was whole once, may have been acknowledged |
//! | valid | none corrupt, one blank or of another write | `Torn` | that write, or one over it, never became durable |
//! | blank | all blank | `Blank` | never written |
//! | blank | none corrupt, one valid | `Torn` | a first write that never became durable |
//! | blank | one corrupt | `Faulty` | can't be told from a damaged entry |
//! | corrupt | any | `Faulty` | may have been acknowledged |
//!
//! Two writes with one stamp have equal bytes (one primary makes one entry for an op in a view), so mixing them
//! makes a whole entry. That holds of sealed ones too, though each has its own salt: sectors are opened one by one.

use alloc::vec::Vec;

use super::layout::{Layout, SECTOR};
use super::sector::{self, Found, Place, sectors_for};
use crate::wire::entry::{ENTRY_HEADER, ENTRY_VERSION, EntryHeader};
use zerocopy::FromBytes;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotFound {
    Blank,
    Torn,
    /// Whole, the body's digest was checked.
    Entry {
        header: EntryHeader,
        /// Up to here the log was durable at this replica when it wrote the entry.
        witness: u64,
    },
    /// Damaged; the header if it could be read.
    Faulty(Option<EntryHeader>),
}

/// Decides over the bytes of a slot that were read from `offset`. `scratch` is for putting the entry together,
/// and holds it when the finding is `Entry`.
pub fn examine(
    place: Place<'_>,
    layout: &Layout,
    offset: u64,
    slot: &[u8],
    scratch: &mut Vec<u8>,
) -> SlotFound {
    scratch.clear();
    let found = |index: usize, out: &mut Vec<u8>| {
        let at = index * SECTOR;
        let sector = slot.get(at..at + SECTOR).unwrap_or(&[]);
        match sector::open(place, offset + at as u64, sector, out) {
            Found::Valid(stamp) if stamp.index as usize != index => Found::Corrupt,
            found => found,
        }
    };
    let slot_sectors = layout.slot_sectors as usize;
    let stamp = match found(0, scratch) {
        Found::Corrupt => return SlotFound::Faulty(None),
        Found::Blank => {
            return blank_start((1..slot_sectors).map(|index| {
                scratch.clear();
                found(index, scratch)
            }));
        }
        Found::Valid(stamp) => stamp,
    };
    let Some(header) = header_of(scratch, layout) else { return SlotFound::Faulty(None) };
    let sectors = sectors_for(header.size.get() as usize);
    let mut torn = stamp.op != header.op.get() || stamp.view != header.view.get();
    let mut witness = stamp.witness;
    for index in 1..sectors {
        match found(index, scratch) {
            Found::Corrupt => return SlotFound::Faulty(Some(header)),
            Found::Blank => torn = true,
            Found::Valid(other) => {
                torn |= (other.op, other.view) != (stamp.op, stamp.view);
                witness = witness.max(other.witness);
            }
        }
    }
    if torn {
        return SlotFound::Torn;
    }
    scratch.truncate(header.size.get() as usize);
    match EntryHeader::split(scratch) {
        Some((header, _)) => SlotFound::Entry { header, witness },
        None => SlotFound::Faulty(Some(header)),
    }
}

/// What the first sector of a slot says alone. `Entry` promises no more than that its beginning was written, and that no
/// write over it became durable: whether the rest is whole only [`examine`] says. So it does when this is `Blank` or
/// `Torn`; `Faulty` stands.
pub fn look_at_first(
    place: Place<'_>,
    layout: &Layout,
    offset: u64,
    sector: &[u8],
    scratch: &mut Vec<u8>,
) -> SlotFound {
    scratch.clear();
    match sector::open(place, offset, sector, scratch) {
        Found::Corrupt => SlotFound::Faulty(None),
        Found::Blank => SlotFound::Blank,
        Found::Valid(stamp) => match header_of(scratch, layout) {
            None => SlotFound::Faulty(None),
            Some(_) if stamp.index != 0 => SlotFound::Faulty(None),
            Some(header) if stamp.op != header.op.get() || stamp.view != header.view.get() => SlotFound::Torn,
            Some(header) => SlotFound::Entry { header, witness: stamp.witness },
        },
    }
}

fn blank_start(others: impl Iterator<Item = Found>) -> SlotFound {
    let mut finding = SlotFound::Blank;
    for other in others {
        match other {
            Found::Corrupt => return SlotFound::Faulty(None),
            Found::Blank => {}
            Found::Valid(_) => finding = SlotFound::Torn,
        }
    }
    finding
}

fn header_of(entry: &[u8], layout: &Layout) -> Option<EntryHeader> {
    let (header, _) = EntryHeader::read_from_prefix(entry).ok()?;
    let size = header.size.get() as usize;
    (header.version == ENTRY_VERSION && (ENTRY_HEADER..=layout.entry_max()).contains(&size)).then_some(header)
}

#[cfg(test)]
mod tests {
    use super::super::layout::PAYLOAD;
    use super::super::sector::{Stamp, Zone};
    use super::*;
    use crate::types::{ClusterId, ShardId};
    use crate::wire::entry::Digest;
    use alloc::vec;
    use zerocopy::IntoBytes;

    const LAYOUT: Layout =
        Layout { wal_slots: 8, slot_sectors: 4, block_sectors: 1, blocks_max: 1, grid_step: 1 };
    const PLACE: Place<'_> =
        Place { cluster: ClusterId(7), shard: ShardId(1), zone: Zone::Wal, sealing: None };
    const OFFSET: u64 = 1 << 16;

    /// The sectors of an entry of `sectors` sectors, written over nothing.
    fn written(op: u64, view: u64, sectors: usize) -> Vec<u8> {
        let body = vec![u8::try_from(op).unwrap(); (sectors - 1) * PAYLOAD + 100];
        let mut header = EntryHeader::read_from_bytes(&[0; ENTRY_HEADER]).unwrap();
        header.version = ENTRY_VERSION;
        header.op = op.into();
        header.view = view.into();
        header.body = Digest::of(&body);
        header.size = u32::try_from(ENTRY_HEADER + body.len()).unwrap().into();
        let entry = [header.as_bytes(), &body].concat();
        let mut image = vec![0; sectors * SECTOR];
        sector::seal(PLACE, OFFSET, Stamp { op, view, witness: op - 1, index: 0 }, &entry, &mut image);
        image
    }

    fn look(slot: &[u8]) -> SlotFound {
        examine(PLACE, &LAYOUT, OFFSET, slot, &mut Vec::new())
    }

    #[test]
    fn h28_every_flipped_bit_of_an_entry_header_in_a_slot_is_noticed() {
        let whole = written(9, 2, 3);
        assert!(matches!(look(&whole), SlotFound::Entry { .. }));
        let start = sector::payloads(&whole).next().unwrap().as_ptr().addr() - whole.as_ptr().addr();
        for bit in 0..8 * ENTRY_HEADER {
            let mut damaged = whole.clone();
            damaged[start + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(look(&damaged), SlotFound::Faulty(None), "bit {bit}");
        }
    }

    /// Each sector of the slot is what one of these says: all 4^4 combinations of old entry, new entry, blank
    /// and garbage, against the table of the module, which this states again in other words.
    #[test]
    fn h24_every_mixture_of_sectors_is_decided_by_the_table() {
        for (old_sectors, new_sectors) in [(1, 1), (1, 4), (4, 1), (3, 2), (2, 3), (4, 4)] {
            for pattern in 0..256_usize {
                let kinds: Vec<usize> = (0..4).map(|sector| pattern >> (2 * sector) & 3).collect();
                let (old, new) = (written(1, 1, old_sectors), written(9, 2, new_sectors));
                let mut slot = vec![0; 4 * SECTOR];
                let mut have = Vec::new();
                for (index, kind) in kinds.iter().enumerate() {
                    let range = index * SECTOR..(index + 1) * SECTOR;
                    let sector = &mut slot[range.clone()];
                    match kind {
                        0 if index < old_sectors => sector.copy_from_slice(&old[range]),
                        1 if index < new_sectors => sector.copy_from_slice(&new[range]),
                        3 => sector.fill(0xAB),
                        _ => {}
                    }
                    have.push(match kind {
                        0 if index < old_sectors => 'o',
                        1 if index < new_sectors => 'n',
                        3 => 'x',
                        _ => ' ',
                    });
                }
                let claimed = match have[0] {
                    'o' => old_sectors,
                    'n' => new_sectors,
                    _ => 4,
                };
                let rest = &have[1..claimed];
                let expected = match have[0] {
                    'x' => "faulty",
                    _ if rest.contains(&'x') => "faulty",
                    ' ' if rest.iter().all(|kind| *kind == ' ') => "blank",
                    first if first != ' ' && rest.iter().all(|kind| *kind == first) => "entry",
                    _ => "torn",
                };
                let found = match look(&slot) {
                    SlotFound::Blank => "blank",
                    SlotFound::Torn => "torn",
                    SlotFound::Entry { .. } => "entry",
                    SlotFound::Faulty(_) => "faulty",
                };
                assert_eq!(found, expected, "{have:?} of {old_sectors} and {new_sectors} sectors");
            }
        }
    }

    #[test]
    fn a_misplaced_slot_is_faulty() {
        let slot = [written(1, 1, 1), vec![0; 3 * SECTOR]].concat();
        let found = examine(PLACE, &LAYOUT, OFFSET + 4096, &slot, &mut Vec::new());
        assert_eq!(found, SlotFound::Faulty(None));
    }
}
