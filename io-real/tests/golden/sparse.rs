//! Files that are mostly zeros, kept small: the length u64, then runs of other bytes: offset u64, size u32, bytes.

/// Zeros that are left in a run rather than begin another one.
const GAP: usize = 16;

pub(crate) fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u64).to_le_bytes().to_vec();
    let mut at = 0;
    while let Some(start) = bytes[at..].iter().position(|byte| *byte != 0).map(|start| at + start) {
        let mut end = start + 1;
        while let Some(next) = bytes[end..].iter().take(GAP).position(|byte| *byte != 0) {
            end += next + 1;
        }
        out.extend_from_slice(&(start as u64).to_le_bytes());
        out.extend_from_slice(&u32::try_from(end - start).expect("a run is small").to_le_bytes());
        out.extend_from_slice(&bytes[start..end]);
        at = end;
    }
    out
}

pub(crate) fn unpack(packed: &[u8]) -> Vec<u8> {
    let number = |at: usize| u64::from_le_bytes(packed[at..at + 8].try_into().expect("8 bytes"));
    let mut out = vec![0; usize::try_from(number(0)).expect("small")];
    let mut at = 8;
    while at < packed.len() {
        let start = usize::try_from(number(at)).expect("small");
        let size = u32::from_le_bytes(packed[at + 8..at + 12].try_into().expect("4 bytes")) as usize;
        out[start..start + size].copy_from_slice(&packed[at + 12..at + 12 + size]);
        at += 12 + size;
    }
    out
}
