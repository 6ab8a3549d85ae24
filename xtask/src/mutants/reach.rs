//! Which points of the program something gets to when no mutant is chosen.
//!
//! The one law: **what does not get to a mutant's point runs as if there were no mutant**, so that it need not be
//! asked. Tests and worlds are repeatable, and until the point all is as it was.

use serde_json::{Value, json};

/// A set of points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach(Vec<u8>);

impl Reach {
    /// As `mutant.rs` writes it.
    pub(crate) fn of_file(bytes: &[u8]) -> Self {
        let mut reach = Self::default();
        for point in bytes.as_chunks::<4>().0 {
            reach.add(u32::from_le_bytes(*point));
        }
        reach
    }

    fn add(&mut self, point: u32) {
        let (at, bit) = (point as usize / 8, point % 8);
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << bit;
    }

    pub(crate) fn has(&self, point: u32) -> bool {
        self.0.get(point as usize / 8).is_some_and(|bits| bits & (1 << (point % 8)) != 0)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!(self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let digits = value.as_str()?.as_bytes().chunks(2);
        let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        Some(Self(digits.map(byte).collect::<Option<_>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reached_is_read_and_recalled() {
        let bytes: Vec<u8> = [0_u32, 9, 300].iter().flat_map(|point| point.to_le_bytes()).collect();
        let reach = Reach::of_file(&bytes);
        assert_eq!(Reach::from_json(&reach.to_json()), Some(reach.clone()));
        let reached: Vec<u32> = (0..1000).filter(|point| reach.has(*point)).collect();
        assert_eq!(reached, [0, 9, 300]);
    }
}
