//! The fault atlas: which replicas' disks may be damaged where.
//!
//! The one law: **the damage of one world can always be repaired by the protocol.** So it is decided beforehand
//! which replicas may lose parts of their log and of their grid (fewer than a replication quorum, and few
//! enough that the others can elect), and how much of a superblock may be damaged at a time:
//!
//! | zone | whose | how much at a time |
//! |---|---|---|
//! | superblock | anybody's | one copy of each pair, while the other is whole and durable |
//! | log, grid | the victims' | anything; |
//! | | | a lost write only while nothing else of the log is damaged, and only of an entry that a later one witnesses |
//!
//! A write that was lost and that nothing witnesses can't be told from one that was never made, by anybody.

use tigerchat_core::store::layout::{
    Layout, SECTOR, SUPERBLOCK_COPIES, SUPERBLOCK_COPY_SECTORS, SUPERBLOCK_ZONE,
};
use tigerchat_core::store::sealing::Sealing;
use tigerchat_core::store::sector::{Found, Place, Stamp, Zone, open};
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::types::Instant;
use tigerchat_core::vsr::quorum::Quorums;

use crate::disk::Disk;
use crate::faults::Damage;
use crate::random::Random;
use crate::trouble::Trouble;
use crate::world::{CLUSTER, SHARD, World};

/// What a disk does to what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// Bits of one copy of the superblock flip.
    Superblock,
    /// Bits of something that was written lately to the log flip.
    RecentEntry,
    /// Bits anywhere in the log flip.
    Entry,
    /// Bits of a block of the grid flip.
    Block,
    /// A write to the log, reported as durable, never happened.
    LostWrite,
    /// A write went to another place as well: what was there is gone.
    Misdirected,
    /// A sector can't be read until it is written again.
    Unreadable,
}

impl Harm {
    pub const ALL: [Self; 7] = [
        Self::Superblock,
        Self::RecentEntry,
        Self::Entry,
        Self::Block,
        Self::LostWrite,
        Self::Misdirected,
        Self::Unreadable,
    ];
}

impl Damage {
    /// At most this many victims leave enough copies and enough voters.
    #[must_use]
    pub fn victims_max(quorums: &Quorums) -> u8 {
        // One copy of a committed entry stays; and whoever is uncertain of its log does not vote.
        (quorums.replication - 1).min(quorums.tolerated())
    }
}

/// A first sector of a slot, as it is on disk.
struct Slot {
    number: u32,
    stamp: Stamp,
}

/// Harms a disk, if the atlas allows it now. Says whether it did.
pub fn harm(
    disk: &mut Disk,
    sealing: Option<&dyn Sealing>,
    layout: &Layout,
    harm: Harm,
    random: &mut Random,
) -> bool {
    match harm {
        Harm::Superblock => harm_superblock(disk, random),
        Harm::RecentEntry => {
            let recent = disk.recent(log_of(layout));
            let Some(sector) = pick(&recent, random).filter(|_| !disk.has_lost_write()) else { return false };
            disk.rot(sector, random.u64())
        }
        Harm::Entry => {
            let Some(sector) = pick(&disk.written(log_of(layout)), random) else { return false };
            !disk.has_lost_write() && disk.rot(sector, random.u64())
        }
        Harm::Block => {
            let end = usize::try_from(layout.file_size_max()).expect("small") / SECTOR;
            let Some(sector) = pick(&disk.written(log_of(layout).end..end), random) else { return false };
            disk.rot(sector, random.u64())
        }
        Harm::LostWrite => lose_write(disk, sealing, layout, random),
        Harm::Misdirected => {
            let end = usize::try_from(layout.file_size_max()).expect("small") / SECTOR;
            let (recent, any) = (disk.recent(log_of(layout)), disk.written(SUPERBLOCK_ZONE / SECTOR..end));
            let (Some(from), Some(to)) = (pick(&recent, random), pick(&any, random)) else { return false };
            from != to && !disk.has_lost_write() && disk.misdirect(from, to)
        }
        Harm::Unreadable => {
            let end = usize::try_from(layout.file_size_max()).expect("small") / SECTOR;
            let any = disk.written(SUPERBLOCK_ZONE / SECTOR..end);
            let Some(sector) = pick(&any, random).filter(|_| !disk.has_lost_write()) else { return false };
            disk.make_unreadable(sector)
        }
    }
}

fn pick(among: &[usize], random: &mut Random) -> Option<usize> {
    (!among.is_empty()).then(|| *random.pick(among))
}

/// The sectors of the log.
fn log_of(layout: &Layout) -> std::ops::Range<usize> {
    let end = usize::try_from(layout.hot_size()).expect("small") / SECTOR;
    SUPERBLOCK_ZONE / SECTOR..end
}

/// One copy of a pair of which the other is whole, and surely on the disk: what a crash tore, or may tear yet, counts as
/// damage too. (Seed 4014766 broke the last copy: one of either pair had rotted, and the other two had been torn.)
fn harm_superblock(disk: &mut Disk, random: &mut Random) -> bool {
    let copy = random.index(SUPERBLOCK_COPIES);
    let sectors = |copy: usize| copy * SUPERBLOCK_COPY_SECTORS..(copy + 1) * SUPERBLOCK_COPY_SECTORS;
    let other = copy ^ 1;
    let durable: Option<Vec<[u8; SECTOR]>> = sectors(other).map(|sector| disk.durable(sector)).collect();
    if durable.is_none_or(|durable| Superblock::read_copy(other, &durable.concat()).is_err()) {
        return false;
    }
    let sector = sectors(copy).start + random.index(SUPERBLOCK_COPY_SECTORS);
    disk.rot(sector, random.u64())
}

/// Takes back a durable write that two later ones witness.
fn lose_write(disk: &mut Disk, sealing: Option<&dyn Sealing>, layout: &Layout, random: &mut Random) -> bool {
    if log_of(layout).any(|sector| disk.is_damaged(sector)) {
        return false;
    }
    let place = Place { cluster: CLUSTER, shard: SHARD, zone: Zone::Wal, sealing };
    let mut payload = Vec::new();
    let slots: Vec<Slot> = (0..layout.wal_slots)
        .filter_map(|number| {
            let offset = layout.slot_offset(number);
            let sector = usize::try_from(offset).expect("small") / SECTOR;
            let bytes = disk.durable(sector)?;
            payload.clear();
            match open(place, offset, &bytes, &mut payload) {
                Found::Valid(stamp) => Some(Slot { number, stamp }),
                Found::Blank | Found::Corrupt => None,
            }
        })
        .collect();
    let newest = slots.iter().map(|slot| slot.stamp.op).max().unwrap_or(0);
    let witnessed: Vec<u32> = slots
        .iter()
        .filter(|slot| {
            let witnesses = slots
                .iter()
                .filter(|other| other.stamp.view == slot.stamp.view && other.stamp.witness >= slot.stamp.op);
            slot.stamp.op + u64::from(layout.wal_slots) / 2 > newest && witnesses.count() >= 2
        })
        .map(|slot| slot.number)
        .collect();
    if witnessed.is_empty() {
        return false;
    }
    let slot = *random.pick(&witnessed);
    let first = usize::try_from(layout.slot_offset(slot)).expect("small") / SECTOR;
    disk.lose_write(first..first + layout.slot_sectors as usize)
}

impl World<'_> {
    pub(crate) fn some_damage(&mut self) {
        let Some(knobs) = self.drawn.damage.clone() else { return };
        self.trouble_after(knobs.every, Trouble::Damage);
        let place = match knobs.victims.len() {
            0 => self.random.index(self.replicas()),
            victims => usize::from(knobs.victims[self.random.index(victims)]),
        };
        self.damage(place);
    }

    /// Harms a disk once, in one of the ways that were drawn.
    pub(crate) fn damage(&mut self, place: usize) {
        let Some(knobs) = self.drawn.damage.clone() else { return };
        let kind = *self.random.pick(&knobs.kinds);
        let victim = knobs.victims.iter().any(|victim| usize::from(*victim) == place);
        let kind = if victim { kind } else { Harm::Superblock };
        let layout = self.layout();
        let sealing = self.processes[place].sealing.clone();
        let sealing = sealing.as_deref().map(|sealing| sealing as &dyn Sealing);
        if let Some(disk) = &mut self.processes[place].disk {
            harm(disk, sealing, &layout, kind, &mut self.random);
        }
    }

    /// A disk that is full, for a while, refuses every write.
    pub(crate) fn some_full_disk(&mut self) {
        let Some(knobs) = self.drawn.full_disk.clone() else { return };
        self.trouble_after(knobs.every, Trouble::FullDisk);
        let place = self.random.index(self.replicas());
        let until = self.now.after(self.random.duration(&knobs.lasting));
        if let Some(disk) = &mut self.processes[place].disk {
            disk.full_until = until;
        }
    }

    /// Disks stop failing; what they did stays done.
    pub(crate) fn calm_disk(&mut self, place: usize) {
        if let Some(disk) = &mut self.processes[place].disk {
            disk.slowness = 1;
            disk.full_until = Instant(0);
            disk.faults = None;
        }
    }
}
