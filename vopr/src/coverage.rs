//! Which fault met which message: a fault that never happened was not tested.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// What may happen to a message, in the order of the table's columns.
pub const FATES: [&str; 8] =
    ["sent", "dropped", "duplicated", "delayed", "replayed", "corrupted", "truncated", "overflowed"];

/// Message types by what happened to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Coverage {
    counts: BTreeMap<String, [u64; FATES.len()]>,
}

impl Coverage {
    /// Counts one message type's fates, in the order of [`FATES`].
    pub fn add(&mut self, message: &str, fates: [u64; FATES.len()]) {
        if !self.counts.contains_key(message) {
            self.counts.insert(message.into(), [0; FATES.len()]);
        }
        let known = self.counts.get_mut(message).expect("it was just put there");
        known.iter_mut().zip(fates).for_each(|(known, more)| *known += more);
    }

    pub fn merge(&mut self, other: &Self) {
        other.counts.iter().for_each(|(message, fates)| self.add(message, *fates));
    }

    /// The faults that never met a message that was sent.
    #[must_use]
    pub fn gaps(&self) -> Vec<String> {
        let gaps_of = |(message, fates): (&String, &[u64; FATES.len()])| {
            let missing: Vec<_> = FATES.iter().zip(fates).filter(|(_, count)| **count == 0).collect();
            missing.iter().map(|(fate, _)| format!("{message} was never {fate}")).collect::<Vec<_>>()
        };
        self.counts.iter().flat_map(gaps_of).collect()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<20}", "message")?;
        FATES.iter().try_for_each(|fate| write!(f, "{fate:>12}"))?;
        writeln!(f)?;
        for (message, fates) in &self.counts {
            write!(f, "{message:<20}")?;
            for count in fates {
                if *count == 0 { write!(f, "{:>12}", "-")? } else { write!(f, "{count:>12}")? }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_never_met_a_message_is_a_gap() {
        let mut coverage = Coverage::default();
        coverage.add("prepare", [5, 1, 1, 1, 0, 1, 1, 1]);
        assert_eq!(coverage.gaps(), ["prepare was never replayed"]);
        let mut other = Coverage::default();
        other.add("prepare", [1, 0, 0, 0, 1, 0, 0, 0]);
        coverage.merge(&other);
        assert_eq!(coverage.gaps(), [""; 0]);
        assert!(coverage.to_string().contains("prepare                        6           1"));
    }
}
