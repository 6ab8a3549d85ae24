//! Another node key for a data file, while no replica runs on it: what `key rotate` does (`docs/storage.md`, "Rotation").
//!
//! The one law: **the old key goes only when a whole look at the file, after a flush, found nothing under it**. Until
//! then the superblock holds both keys, and whoever opens the file, be it a replica, tries the one and then the other;
//! so a crash at any point leaves a file that opens, and what is left to do is found by looking.
//!
//! ```text
//! superblock (A)  ->  superblock (B, before it A)  ->  sectors, one by one, from A to B  ->  flush, look  ->  superblock (B)
//! ```
//!
//! A sector is written over with what it held, under its own stamp and a salt of its own: it is the old one or the new
//! one, whatever a crash tears. One that opens under neither key is damaged, and stays so: it must not look unwritten.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use super::layout::{SECTOR, SUPERBLOCK_ZONE};
use super::sealing::{self, Envelope, SALT, Sealing, SectorKey, WrongKey};
use super::sector::{self, Found, Place, Zone};
use super::superblock::{OpenError, Superblock};
use crate::io::DiskError;

/// A data file that nobody else has open.
pub trait DataFile {
    /// Bytes of it.
    fn size(&mut self) -> Result<u64, DiskError>;
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;
    /// Whole sectors. A crash leaves any subset of them until a flush.
    fn write(&mut self, offset: u64, sectors: &[u8]) -> Result<(), DiskError>;
    /// What was written before is durable, and what is read next comes from the disk.
    fn flush(&mut self) -> Result<(), DiskError>;
}

/// Why it could not be done. What was done of it stays, and the file opens as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    Open(OpenError),
    Disk(DiskError),
    /// After so many looks there still was something under the old key: the disk does not keep what is written.
    NotKept,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Disk(error) => write!(f, "the disk failed ({error:?}): both keys stay, run it again"),
            Self::NotKept => write!(f, "the disk does not keep what is written to it: both keys stay"),
        }
    }
}

impl core::error::Error for Failed {}

impl From<DiskError> for Failed {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

/// What was found of the sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sealed anew.
    pub rewritten: u64,
    /// Found under the new key by the last look.
    pub whole: u64,
    /// Found under neither key by the last look: damaged, for peers to repair.
    pub damaged: u64,
}

/// Looks at the file until nothing is found under the old key.
const LOOKS: u32 = 4;
/// Sectors that are looked at together.
const CHUNK: usize = 64;

/// The superblock of a file.
pub fn superblock(file: &mut dyn DataFile) -> Result<Superblock, Failed> {
    let mut zone = vec![0; SUPERBLOCK_ZONE];
    file.read(0, &mut zone)?;
    Superblock::open(&zone).map_err(Failed::Open)
}

/// Writes another envelope into the superblock: pair after pair, so that it is the old or the new one.
pub fn replace(file: &mut dyn DataFile, envelope: Envelope) -> Result<Superblock, Failed> {
    let mut zone = vec![0; SUPERBLOCK_ZONE];
    file.read(0, &mut zone)?;
    let old = Superblock::open(&zone).map_err(Failed::Open)?;
    let first = old.weaker_pair(&zone);
    let (sequence, parent) = (old.sequence + 1, old.digest());
    // Of what was read the newest pair may be in the page cache alone, if the replica was killed: then the first write
    // would go over the only pair that is durable.
    file.flush()?;
    let new = Superblock { sequence, parent, envelope: Some(envelope), ..old };
    let mut image = vec![0; Superblock::COPY];
    for pair in [first, 2 - first] {
        for copy in [pair, pair + 1] {
            new.write_copy(copy, &mut image);
            file.write(Superblock::copy_offset(copy), &image)?;
        }
        file.flush()?;
    }
    Ok(new)
}

/// Seals with the newer of the superblock's two keys what the older one sealed, and drops that one. `sealing` has both.
/// `tell` hears how many bytes of how many were looked at.
pub fn finish(
    file: &mut dyn DataFile,
    sealing: &dyn Sealing,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Counts, Failed> {
    let superblock = superblock(file)?;
    let wrong = |why| Failed::Open(OpenError::Key(why));
    sealing::must_fit(superblock.envelope.as_ref(), Some(sealing)).map_err(wrong)?;
    let envelope = superblock.envelope.ok_or_else(|| wrong(WrongKey::NotSealed))?;
    let Some(before) = sealing.before() else { return Ok(Counts::default()) };
    let mut rewritten = 0;
    for _ in 0..LOOKS {
        let mut look = Look {
            place: superblock.config.place(Zone::Wal),
            new: Only(sealing),
            before,
            counts: Counts::default(),
            payload: Vec::new(),
        };
        look.all(file, &superblock, tell)?;
        file.flush()?;
        rewritten += look.counts.rewritten;
        if look.counts.rewritten == 0 {
            replace(file, Envelope { before: None, ..envelope })?;
            return Ok(Counts { rewritten, ..look.counts });
        }
    }
    Err(Failed::NotKept)
}

/// A key without the one before it.
#[derive(Debug)]
struct Only<'a>(&'a dyn Sealing);

impl Sealing for Only<'_> {
    fn draw_salt(&self) -> [u8; SALT] {
        self.0.draw_salt()
    }
    fn with_key(&self, salt: &[u8; SALT], with: &mut dyn FnMut(&dyn SectorKey)) {
        self.0.with_key(salt, with);
    }
    fn check(&self) -> [u8; 8] {
        self.0.check()
    }
}

/// One look at all sectors.
struct Look<'a> {
    place: Place<'static>,
    new: Only<'a>,
    before: &'a dyn Sealing,
    counts: Counts,
    payload: Vec<u8>,
}

impl Look<'_> {
    fn all(
        &mut self,
        file: &mut dyn DataFile,
        superblock: &Superblock,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Failed> {
        let (log, size) = (superblock.config.layout.hot_size(), file.size()?);
        let mut image = vec![0; CHUNK * SECTOR];
        let mut at = SUPERBLOCK_ZONE as u64;
        while at < size {
            tell(at, size);
            let (zone, end) = if at < log { (Zone::Wal, log.min(size)) } else { (Zone::Grid, size) };
            let sectors = usize::try_from((end - at) / SECTOR as u64).unwrap_or(CHUNK).min(CHUNK);
            if sectors == 0 {
                // A file that was cut short ends within a sector.
                self.counts.damaged += 1;
                break;
            }
            let image = &mut image[..sectors * SECTOR];
            self.place = Place { zone, ..self.place };
            self.chunk(file, at, image)?;
            at += image.len() as u64;
        }
        tell(size, size);
        Ok(())
    }

    fn chunk(&mut self, file: &mut dyn DataFile, at: u64, image: &mut [u8]) -> Result<(), Failed> {
        let mut changed = [false; CHUNK];
        let whole = file.read(at, image).is_ok();
        for ((sector, offset), changed) in
            image.chunks_exact_mut(SECTOR).zip((at..).step_by(SECTOR)).zip(&mut changed)
        {
            // What can't be read is damaged; what lies beside it is not.
            if whole || file.read(offset, sector).is_ok() {
                *changed = self.sector(offset, sector);
            } else {
                self.counts.damaged += 1;
            }
        }
        let mut from = 0;
        while let Some(first) = changed[from..].iter().position(|changed| *changed).map(|first| from + first)
        {
            let count = changed[first..].iter().take_while(|changed| **changed).count();
            let (start, end) = (first * SECTOR, (first + count) * SECTOR);
            file.write(at + start as u64, &image[start..end])?;
            from = first + count;
        }
        Ok(())
    }

    /// Whether it was sealed anew.
    fn sector(&mut self, offset: u64, sector: &mut [u8]) -> bool {
        let Self { place, new, before, counts, payload } = self;
        payload.clear();
        match sector::open(place.under(Some(new)), offset, sector, payload) {
            Found::Blank => return false,
            Found::Valid(_) => {
                counts.whole += 1;
                return false;
            }
            Found::Corrupt => {}
        }
        let Found::Valid(stamp) = sector::open(place.under(Some(*before)), offset, sector, payload) else {
            counts.damaged += 1;
            return false;
        };
        sector::seal(place.under(Some(new)), offset, stamp, payload, sector);
        counts.rewritten += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;
    use crate::chat::Limits;
    use crate::store::layout::{Layout, PAYLOAD};
    use crate::store::sealing::toy::Toy;
    use crate::store::sealing::{NodeKeyBefore, WRAPPED};
    use crate::store::sector::Stamp;
    use crate::store::superblock::ShardConfig;
    use crate::types::{ClusterId, ReplicaId, ShardId};
    use crate::vsr::membership::Members;

    /// A file in memory, whose machine crashes in the midst of a write: of those since the last flush so many sectors stay.
    struct Memory {
        durable: Vec<u8>,
        cached: Vec<(usize, Vec<u8>)>,
        /// Sectors that are written until it crashes.
        left: usize,
        /// Every salt and index that was written outside the superblock.
        written: Vec<([u8; SALT], u32)>,
        unreadable: Option<usize>,
        forgets: bool,
    }

    impl Memory {
        fn new(durable: Vec<u8>) -> Self {
            let (cached, written) = (Vec::new(), Vec::new());
            Self { durable, cached, left: usize::MAX, written, unreadable: None, forgets: false }
        }

        fn now(&self) -> Vec<u8> {
            let mut bytes = self.durable.clone();
            for (at, sector) in &self.cached {
                bytes[*at..at + SECTOR].copy_from_slice(sector);
            }
            bytes
        }

        /// The power goes: those sectors stay that `kept` says.
        fn crash(&mut self, kept: impl Fn(usize) -> bool) {
            for (number, (at, sector)) in core::mem::take(&mut self.cached).into_iter().enumerate() {
                if kept(number) {
                    self.durable[at..at + SECTOR].copy_from_slice(&sector);
                }
            }
            self.left = usize::MAX;
        }
    }

    impl DataFile for Memory {
        fn size(&mut self) -> Result<u64, DiskError> {
            Ok(self.durable.len() as u64)
        }
        fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
            let at = usize::try_from(offset).unwrap();
            if self.unreadable.is_some_and(|bad| (at..at + into.len()).contains(&bad)) {
                return Err(DiskError::Read);
            }
            into.copy_from_slice(&self.now()[at..at + into.len()]);
            Ok(())
        }
        fn write(&mut self, offset: u64, sectors: &[u8]) -> Result<(), DiskError> {
            let at = usize::try_from(offset).unwrap();
            for (index, sector) in sectors.chunks(SECTOR).enumerate() {
                if self.left == 0 {
                    return Err(DiskError::Write);
                }
                self.left -= 1;
                if at >= SUPERBLOCK_ZONE {
                    let salt = *sector[PAYLOAD + 16..].first_chunk().unwrap();
                    let number = u32::from_le_bytes(*sector[PAYLOAD + 48..].first_chunk().unwrap());
                    self.written.push((salt, number));
                    if self.forgets {
                        continue;
                    }
                }
                self.cached.push((at + index * SECTOR, sector.to_vec()));
            }
            Ok(())
        }
        fn flush(&mut self) -> Result<(), DiskError> {
            // Wear, so that a crash point lies between the last write and its flush too.
            if self.left == 0 {
                return Err(DiskError::Fsync);
            }
            let left = self.left;
            self.crash(|_| true);
            self.left = left;
            Ok(())
        }
    }

    fn envelope(sealing: &Toy) -> Envelope {
        let before = sealing.before().map(|old| NodeKeyBefore { check: old.check(), wrapped: [2; WRAPPED] });
        Envelope { master: [7; 8], check: sealing.check(), wrapped: [1; WRAPPED], before }
    }

    fn config() -> ShardConfig {
        let layout = Layout { wal_slots: 8, slot_sectors: 2, block_sectors: 2, blocks_max: 64, grid_step: 8 };
        ShardConfig {
            cluster: ClusterId(1),
            shard: ShardId(2),
            replica: ReplicaId(1),
            pipeline: 4,
            sessions: 4,
            window: 4,
            layout,
            limits: Limits::tiny(),
        }
    }

    /// A sealed file: some of its sectors are written, two are blank, one is damaged.
    fn file(sealing: &Toy) -> Vec<u8> {
        let config = config();
        let members = Members::first(3, 2).unwrap();
        let superblock =
            Superblock { envelope: Some(envelope(sealing)), ..Superblock::format(config.clone(), members) };
        let log = usize::try_from(config.layout.hot_size()).unwrap();
        let mut bytes = vec![0; log + 6 * SECTOR];
        bytes[..SUPERBLOCK_ZONE].copy_from_slice(&superblock.zone());
        for at in (SUPERBLOCK_ZONE..bytes.len()).step_by(2 * SECTOR).skip(1) {
            let zone = if at < log { Zone::Wal } else { Zone::Grid };
            let place = config.place(zone);
            let number = at as u64 / 100;
            let stamp = Stamp { op: number, view: number / 3, witness: number / 5, index: 0 };
            let body = [at.to_le_bytes(); 700].concat();
            sector::seal(
                place.under(Some(sealing)),
                at as u64,
                stamp,
                &body,
                &mut bytes[at..at + 2 * SECTOR],
            );
        }
        bytes[log + 17] ^= 1;
        bytes
    }

    /// What each sector says under a key.
    fn seen(bytes: &[u8], sealing: &dyn Sealing) -> Vec<(Found, Vec<u8>)> {
        let config = config();
        let offsets = (SUPERBLOCK_ZONE..bytes.len()).step_by(SECTOR);
        let one = |at: usize| {
            let zone = if (at as u64) < config.layout.hot_size() { Zone::Wal } else { Zone::Grid };
            let (mut out, place) = (Vec::new(), config.place(zone));
            let found =
                sector::open(place.under(Some(sealing)), at as u64, &bytes[at..at + SECTOR], &mut out);
            (found, out)
        };
        offsets.map(one).collect()
    }

    /// As whoever has the master key has it: with the keys that the superblock names.
    fn as_named(bytes: &[u8]) -> Toy {
        let envelope = Superblock::open(bytes).unwrap().envelope.unwrap();
        let newest = u64::from_le_bytes(envelope.check) ^ u64::MAX;
        match envelope.before {
            None => Toy::new(newest),
            Some(_) => Toy::after(Toy::new(newest - 1)),
        }
    }

    fn all(file: &mut Memory) -> Result<Counts, Failed> {
        let both = Toy::after(Toy::new(1));
        let named = as_named(&file.durable);
        if named.check() == Toy::new(1).check() {
            replace(file, envelope(&both))?;
        } else if named.before().is_none() {
            return Ok(Counts::default());
        }
        finish(file, &both, &mut |_, _| {})
    }

    #[test]
    fn h41_a_rotated_file_says_what_it_said_and_the_old_key_opens_nothing_of_it() {
        let old = Toy::new(1);
        let before = file(&old);
        let expected = seen(&before, &old);
        let written = expected.iter().filter(|(found, _)| matches!(found, Found::Valid(_))).count() as u64;
        let mut file = Memory::new(before.clone());
        let counts = all(&mut file).unwrap();
        assert_eq!(counts, Counts { rewritten: written, whole: written, damaged: 1 });
        assert!(file.cached.is_empty(), "all of it was flushed");
        let new = as_named(&file.durable);
        assert!(new.before().is_none() && new.check() != old.check());
        assert_eq!(seen(&file.durable, &new), expected);
        assert!(seen(&file.durable, &old).iter().all(|(found, _)| !matches!(found, Found::Valid(_))));
        let salts: BTreeSet<_> = file.written.iter().collect();
        assert_eq!(salts.len(), file.written.len(), "a salt for each");
        assert!(Superblock::read_copies(&file.durable).iter().all(|copy| {
            copy.as_ref().is_ok_and(|copy| copy.envelope.is_some_and(|envelope| envelope.before.is_none()))
        }));
    }

    /// After each sector that is written, before and after its flush, with each subset of a kind kept.
    #[test]
    fn h41_a_crash_anywhere_in_a_rotation_leaves_a_file_that_opens_and_that_can_be_rotated_to_the_end() {
        let old = Toy::new(1);
        let before = file(&old);
        let expected = seen(&before, &old);
        let whole = {
            let mut file = Memory::new(before.clone());
            all(&mut file).unwrap();
            file.written.len() + 4 * 2 * 2
        };
        let kinds: [fn(usize) -> bool; 4] =
            [|_| false, |_| true, |number| number % 2 == 0, |number| number % 2 == 1];
        let mut phases = BTreeSet::new();
        for point in 0..=whole {
            for kept in kinds {
                let mut file = Memory::new(before.clone());
                file.left = point;
                let crashed = all(&mut file);
                assert!(crashed.is_err(), "point {point}");
                file.crash(kept);
                let named = as_named(&file.durable);
                phases.insert((named.check(), named.before().is_some()));
                assert_eq!(seen(&file.durable, &named), expected, "point {point}");
                // Again, with another crash in it.
                file.left = 5;
                if all(&mut file).is_err() {
                    file.crash(kept);
                    assert_eq!(
                        seen(&file.durable, &as_named(&file.durable)),
                        expected,
                        "point {point}, again"
                    );
                }
                file.left = usize::MAX;
                all(&mut file).unwrap();
                let new = as_named(&file.durable);
                assert!(new.before().is_none() && new.check() != old.check());
                assert_eq!(seen(&file.durable, &new), expected, "point {point}, in the end");
            }
        }
        assert_eq!(phases.len(), 3, "crashes before, within and behind it");
    }

    /// The replica was killed with a superblock half way to its disk; the power goes while the key is changed.
    #[test]
    fn h41_what_was_read_of_a_killed_replica_is_made_durable_before_it_is_relied_on() {
        let old = Toy::new(1);
        let mut file = Memory::new(file(&old));
        let durable = Superblock::open(&file.durable).unwrap();
        let newer = Superblock { sequence: durable.sequence + 1, ..durable }.zone();
        // Another replacement was torn before: one pair is durable, the other in the cache.
        let pair = 2 * Superblock::COPY;
        file.durable[..pair].fill(7);
        file.write(0, &newer[..pair]).unwrap();
        file.left = 3;
        let both = Toy::after(Toy::new(1));
        assert!(replace(&mut file, envelope(&both)).is_err());
        let lost = file.cached.len().saturating_sub(3);
        // The first sectors of both copies that were being written, and nothing of what was in the cache before.
        file.crash(|number| number >= lost && (number - lost).is_multiple_of(2));
        assert!(Superblock::open(&file.durable).is_ok(), "a whole one is left");
    }

    #[test]
    fn a_wrong_key_writes_nothing_and_a_disk_that_keeps_nothing_keeps_both_keys() {
        let both = Toy::after(Toy::new(1));
        let mut file = Memory::new(file(&Toy::new(1)));
        let before = file.durable.clone();
        for wrong in [&both, &Toy::new(2)] {
            let refused = finish(&mut file, wrong, &mut |_, _| {});
            assert!(
                matches!(refused, Err(Failed::Open(OpenError::Key(WrongKey::Another { .. })))),
                "{refused:?}"
            );
        }
        assert_eq!(file.now(), before);
        let bad = SUPERBLOCK_ZONE + 3 * SECTOR;
        (file.forgets, file.unreadable) = (true, Some(bad));
        assert_eq!(all(&mut file), Err(Failed::NotKept));
        assert!(as_named(&file.durable).before().is_some());
        file.forgets = false;
        assert_eq!(all(&mut file).unwrap().damaged, 2, "the one that can't be read, and not those beside it");
    }
}
