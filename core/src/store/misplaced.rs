//! Whole sectors that lie where others belong: what a disk that mixed up addresses, or somebody with a copying tool, left.
//!
//! The one law: **a sector is only said to be another place's if its tag proves it there**: what a trailer claims is a hint
//! where to look, and nothing else. A replica does not ask this: for it such a sector is damaged, and peers repair it. It is
//! for people, who are to know what became of their disk.

use alloc::vec::Vec;

use super::layout::{SECTOR, SUPERBLOCK_ZONE};
use super::sealing::Sealing;
use super::sector::{self, Found, Zone};
use super::superblock::ShardConfig;

/// The offset that this sector, which was read from `offset`, was written for, if that is another one.
#[must_use]
pub fn home(
    config: &ShardConfig,
    sealing: Option<&dyn Sealing>,
    offset: u64,
    sector: &[u8],
    scratch: &mut Vec<u8>,
) -> Option<u64> {
    let opens = |zone: Zone, at: u64, scratch: &mut Vec<u8>| {
        scratch.clear();
        sector::open(config.place(zone).under(sealing), at, sector, scratch)
    };
    let (layout, grid) = (&config.layout, config.layout.grid());
    let here = if offset < layout.hot_size() { Zone::Wal } else { Zone::Grid };
    if offset < SUPERBLOCK_ZONE as u64 || opens(here, offset, scratch) != Found::Corrupt {
        return None;
    }
    let claimed = sector::claim(sector)?;
    let slot = u32::try_from(claimed.op % u64::from(layout.wal_slots)).ok()?;
    let within = u64::from(claimed.index) * SECTOR as u64;
    let of_log = (claimed.index < layout.slot_sectors).then(|| layout.slot_offset(slot) + within);
    let of_grid = (claimed.index < layout.block_sectors && grid.holds(claimed.view))
        .then(|| grid.offset_of(claimed.view) + within);
    let homes = [(Zone::Wal, of_log), (Zone::Grid, of_grid)];
    homes.into_iter().find_map(|(zone, at)| {
        let at = at.filter(|at| *at != offset)?;
        matches!(opens(zone, at, scratch), Found::Valid(_)).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::chat::Limits;
    use crate::store::layout::Layout;
    use crate::store::sealing::toy::Toy;
    use crate::store::sector::Stamp;
    use crate::types::{ClusterId, ReplicaId, ShardId};

    #[test]
    fn h42_a_sector_in_anothers_place_is_known_by_its_own_and_a_damaged_one_is_nobodys() {
        let layout = Layout { wal_slots: 8, slot_sectors: 2, block_sectors: 2, blocks_max: 64, grid_step: 8 };
        let config = ShardConfig {
            cluster: ClusterId(1),
            shard: ShardId(2),
            replica: ReplicaId(1),
            pipeline: 4,
            sessions: 4,
            window: 4,
            layout,
            limits: Limits::tiny(),
        };
        let toy = Toy::new(1);
        let (entry, block) = (layout.slot_offset(3), layout.grid().offset_of(5));
        let of_entry = Stamp { op: 19, view: 2, witness: 18, index: 0 };
        let of_block = Stamp { op: 4, view: 5, witness: 0, index: 0 };
        let mut scratch = Vec::new();
        for sealing in [None, Some(&toy as &dyn Sealing)] {
            for (zone, at, stamp) in [(Zone::Wal, entry, of_entry), (Zone::Grid, block, of_block)] {
                let mut image = vec![0; 2 * SECTOR];
                sector::seal(config.place(zone).under(sealing), at, stamp, &[7; 5000], &mut image);
                let mut home =
                    |offset: u64, sector: &[u8]| home(&config, sealing, offset, sector, &mut scratch);
                for (index, sector) in image.chunks(SECTOR).enumerate() {
                    let own = at + (index * SECTOR) as u64;
                    assert_eq!(home(own, sector), None, "it lies where it belongs");
                    for other in [layout.slot_offset(1), layout.grid().offset_of(9), own ^ SECTOR as u64] {
                        assert_eq!(home(other, sector), Some(own));
                    }
                    let mut damaged = sector.to_vec();
                    damaged[100] ^= 1;
                    assert_eq!(home(layout.slot_offset(1), &damaged), None);
                }
                assert_eq!(home(layout.slot_offset(1), &[0; SECTOR]), None, "blank");
                assert_eq!(home(layout.slot_offset(1), &[0xFF; SECTOR]), None);
            }
        }
    }
}
