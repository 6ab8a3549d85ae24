//! Which fault met which message: a fault that never happened was not tested.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use tigerchat_core::wire::frame::Command;

/// What may happen to a message, in the order of the table's columns.
pub const FATES: [&str; 8] =
    ["sent", "dropped", "duplicated", "delayed", "replayed", "corrupted", "truncated", "overflowed"];

/// Messages that no world sends, each with the reason. One that is sent after all fails a swarm: then the reason is
/// wrong.
pub const NEVER_SENT: &[(Command, &str)] = &[
    (Command::RequestReply, "a reply that was lost comes again when the request does"),
    (Command::Signal, "signals need no frame yet"),
];

/// Messages that are said in few worlds only: their faults are judged from so many seeds on.
pub const SELDOM_SENT: &[(Command, usize)] = &[(Command::Headers, 10_000), (Command::Eviction, 10_000)];

/// From so many seeds on, what never happened fails a swarm.
pub const JUDGED_FROM: usize = 1_000;

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

    /// After so many seeds: every fault that never met a message, and every message that was sent though it is listed
    /// as one that is not.
    #[must_use]
    pub fn missing(&self, seeds: usize) -> Vec<String> {
        let judged = |command: &Command| {
            let seldom = SELDOM_SENT.iter().find(|(seldom, _)| seldom == command);
            seeds >= seldom.map_or(JUDGED_FROM, |(_, from)| *from)
        };
        Command::ALL.into_iter().filter(judged).flat_map(|command| self.missing_of(command)).collect()
    }

    fn missing_of(&self, command: Command) -> Vec<String> {
        let message = name_of(command);
        let fates = self.counts.get(&message).copied().unwrap_or_default();
        match reason(command) {
            Some(why) if fates[0] > 0 => {
                vec![format!("{message} was sent {} times; it is listed as never sent: {why}", fates[0])]
            }
            Some(_) => Vec::new(),
            None => {
                let missing = FATES.iter().zip(fates).filter(|(_, count)| *count == 0);
                missing.map(|(fate, _)| format!("{message} was never {fate}")).collect()
            }
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

fn reason(command: Command) -> Option<&'static str> {
    NEVER_SENT.iter().find(|(never, _)| *never == command).map(|(_, why)| *why)
}

/// A command as the wire's documentation writes it.
#[must_use]
pub fn name_of(command: Command) -> String {
    snake(&format!("{command:?}"))
}

/// A name of the code as a person reads it.
pub(crate) fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<20}", "message")?;
        FATES.iter().try_for_each(|fate| write!(f, "{fate:>12}"))?;
        writeln!(f)?;
        for command in Command::ALL {
            let message = name_of(command);
            write!(f, "{message:<20}")?;
            match (self.counts.get(&message), reason(command)) {
                (None, Some(why)) => write!(f, "{:>12}  never sent: {why}", "-")?,
                (fates, _) => {
                    for count in fates.copied().unwrap_or_default() {
                        if count == 0 { write!(f, "{:>12}", "-")? } else { write!(f, "{count:>12}")? }
                    }
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Coverage {
        let mut coverage = Coverage::default();
        let sent = Command::ALL.into_iter().filter(|command| reason(*command).is_none());
        sent.for_each(|command| coverage.add(&name_of(command), [1; FATES.len()]));
        coverage
    }

    #[test]
    fn a_fault_that_never_met_a_message_is_missing() {
        let mut coverage = all();
        assert_eq!(coverage.missing(JUDGED_FROM), [""; 0]);
        coverage.counts.insert("prepare".into(), [5, 1, 1, 1, 0, 1, 1, 1]);
        assert_eq!(coverage.missing(JUDGED_FROM), ["prepare was never replayed"]);
        coverage.merge(&all());
        assert_eq!(coverage.missing(JUDGED_FROM), [""; 0]);
        assert!(coverage.to_string().contains("prepare                        6           2"));
    }

    #[test]
    fn a_message_that_was_never_sent_is_missing_with_all_its_faults() {
        let mut coverage = all();
        coverage.counts.remove("ping");
        assert_eq!(coverage.missing(JUDGED_FROM).len(), FATES.len());
        assert_eq!(coverage.missing(JUDGED_FROM)[0], "ping was never sent");
    }

    #[test]
    fn what_is_seldom_said_is_judged_later() {
        let mut coverage = all();
        for (command, from) in SELDOM_SENT {
            coverage.counts.remove(&name_of(*command));
            assert_eq!(coverage.missing(from - 1), [""; 0]);
            assert_eq!(coverage.missing(*from).len(), FATES.len());
            coverage.merge(&all());
        }
        coverage.counts.remove("ping");
        assert_eq!(coverage.missing(JUDGED_FROM - 1), [""; 0]);
    }

    #[test]
    fn a_message_that_is_sent_against_its_reason_is_told() {
        for (command, why) in NEVER_SENT {
            let mut coverage = all();
            let message = name_of(*command);
            coverage.add(&message, [3, 0, 0, 0, 0, 0, 0, 0]);
            let sentence = format!("{message} was sent 3 times; it is listed as never sent: {why}");
            assert_eq!(coverage.missing(JUDGED_FROM), [sentence]);
            assert!(all().to_string().contains(why));
        }
    }

    #[test]
    fn commands_are_named_as_the_documentation_names_them() {
        assert_eq!(name_of(Command::PrepareOk), "prepare_ok");
        assert_eq!(name_of(Command::Ping), "ping");
    }
}
