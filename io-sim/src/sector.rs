//! A sector as a simulated disk keeps it: without the zeros between what it says and its trailer.
//!
//! The one law: **what is read is what was written**, every bit of it. Most sectors are mostly padding, a world has
//! thousands of them in several versions, and what makes worlds slow is memory that no cache holds.

use tigerchat_core::store::layout::SECTOR;

/// Kept whole at the end: more than a trailer.
const TAIL: usize = 128;
/// Zeros before that are left out in steps of this.
const STEP: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Sector(Box<[u8]>);

impl Sector {
    /// Of the bytes of a whole sector, or of its beginning: the rest is zero.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match bytes.split_at_checked(SECTOR - TAIL) {
            Some((head, tail)) if bytes.len() == SECTOR => {
                let zeros = head.rchunks_exact(STEP).take_while(|step| is_zero(step)).count();
                Self([&head[..head.len() - zeros * STEP], tail].concat().into())
            }
            _ => {
                let mut whole = [0; SECTOR];
                whole[..bytes.len()].copy_from_slice(bytes);
                Self::of(&whole)
            }
        }
    }

    /// Its beginning, as much as there is room for.
    pub(crate) fn read(&self, into: &mut [u8]) {
        let (head, tail) = self.0.split_at(self.0.len() - TAIL);
        let (first, last) = into.split_at_mut(into.len().min(SECTOR - TAIL));
        let said = head.len().min(first.len());
        first[..said].copy_from_slice(&head[..said]);
        first[said..].fill(0);
        last.copy_from_slice(&tail[..last.len()]);
    }

    pub(crate) fn whole(&self) -> [u8; SECTOR] {
        let mut whole = [0; SECTOR];
        self.read(&mut whole);
        whole
    }

    /// Changes bits of a byte.
    pub(crate) fn flip(&mut self, at: usize, bits: u8) {
        let mut whole = self.whole();
        whole[at] ^= bits;
        *self = Self::of(&whole);
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |seen, byte| seen | byte) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_written_and_padding_takes_no_room() {
        for said in [0, 1, STEP, STEP + 1, 1_000, SECTOR - TAIL - 1, SECTOR - TAIL, SECTOR - 1, SECTOR] {
            let mut whole = [0; SECTOR];
            whole[..said].fill(7);
            whole[SECTOR - 1] = 9;
            let mut sector = Sector::of(&whole);
            assert!(sector.0.len() <= (said + STEP).min(SECTOR - TAIL) + TAIL, "{said} bytes are said");
            for at in [0, 5, 2_000, SECTOR - TAIL - 1, SECTOR - TAIL, SECTOR - 1] {
                sector.flip(at, 0x80);
                whole[at] ^= 0x80;
                for len in [SECTOR, SECTOR - 1, SECTOR - TAIL, 100, 0] {
                    let mut read = vec![1; len];
                    sector.read(&mut read);
                    assert_eq!(read, whole[..len], "{said} bytes said, byte {at} changed");
                }
            }
        }
    }

    #[test]
    fn the_beginning_of_a_sector_is_one_that_is_zero_behind_it() {
        let mut read = [1; SECTOR];
        Sector::of(&[5; 3]).read(&mut read);
        assert_eq!((&read[..3], read[3..].iter().max()), (&[5; 3][..], Some(&0)));
    }
}
