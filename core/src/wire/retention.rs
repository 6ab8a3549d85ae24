//! What an operator says of how long messages are kept, and what the state machine answers. Layouts: `docs/formats.md`,
//! "Chat".
//!
//! The one law: **a rule that nobody made is not a rule.** Zero says that whoever is above decides (a room's tenant, a
//! tenant's shard), the highest number says that nothing is ever removed; so an empty row is no policy.

use super::codec::{Malformed, Put, Reader};
use crate::pool::Full;
use crate::types::TenantId;

/// A rule of a [`Policy`]: whoever is above decides.
pub const INHERITED: u32 = 0;
/// A rule of a [`Policy`]: no limit.
pub const FOREVER: u32 = u32::MAX;

/// What of a room stays: so many of its newest messages, and those no older than so many seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub messages: u32,
    pub age_s: u32,
}

impl Policy {
    /// Each rule that is not made here as it is above.
    #[must_use]
    pub fn or(self, above: Self) -> Self {
        let or = |rule, above| if rule == INHERITED { above } else { rule };
        Self { messages: or(self.messages, above.messages), age_s: or(self.age_s, above.age_s) }
    }

    /// Whether any rule is made.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// How many messages stay, if not all do.
    #[must_use]
    pub fn most(self) -> Option<u32> {
        Some(self.messages).filter(|rule| !matches!(*rule, INHERITED | FOREVER))
    }

    /// How old they may be, seconds, if that is limited.
    #[must_use]
    pub fn oldest_s(self) -> Option<u32> {
        Some(self.age_s).filter(|rule| !matches!(*rule, INHERITED | FOREVER))
    }

    /// Whether it removes anything.
    #[must_use]
    pub fn is_limited(self) -> bool {
        self.most().is_some() || self.oldest_s().is_some()
    }

    fn encode(self, out: &mut impl Put) -> Result<(), Full> {
        out.put_u32(self.messages)?;
        out.put_u32(self.age_s)
    }

    fn decode(fields: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { messages: fields.u32()?, age_s: fields.u32()? })
    }
}

/// Changes how long messages of a room are kept, or those of a tenant's rooms that have no rule of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retain<'a> {
    pub tenant: TenantId,
    /// Empty: the tenant's default.
    pub room: &'a str,
    /// Who changes it.
    pub user: &'a str,
    /// The rules that change; the others stay as they are.
    pub messages: Option<u32>,
    pub age_s: Option<u32>,
}

/// Bytes of the rules.
pub(super) const RULES: usize = 1 + 4 + 4;

impl Retain<'_> {
    /// What becomes of a policy.
    #[must_use]
    pub fn change(&self, before: Policy) -> Policy {
        Policy {
            messages: self.messages.unwrap_or(before.messages),
            age_s: self.age_s.unwrap_or(before.age_s),
        }
    }

    pub(super) fn encode_rules(&self, out: &mut impl Put) -> Result<(), Full> {
        out.put_u8(u8::from(self.messages.is_some()) | u8::from(self.age_s.is_some()) << 1)?;
        out.put_u32(self.messages.unwrap_or(0))?;
        out.put_u32(self.age_s.unwrap_or(0))
    }
}

/// The rules of a [`Retain`]; each in one way only.
pub(super) fn decode_rules(fields: &mut Reader<'_>) -> Result<[Option<u32>; 2], Malformed> {
    let which = fields.u8()?;
    let mut rules = [None; 2];
    for (at, rule) in rules.iter_mut().enumerate() {
        let value = fields.u32()?;
        *rule = (which >> at & 1 == 1).then_some(value);
        if rule.is_none() && value != 0 {
            return Err(Malformed);
        }
    }
    if which > 0b11 { Err(Malformed) } else { Ok(rules) }
}

/// What is asked for with [`Query::Retention`](super::chat::Query::Retention): the one item of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// What was said of the room, of its tenant, and at `format`.
    pub room: Policy,
    pub tenant: Policy,
    pub shard: Policy,
    /// The time by which ages are told, Unix seconds: that of the last command that did something.
    pub clock_s: u32,
    /// How much longer than it may a message is served at most, seconds; zero: there is no limit of age.
    pub late_s: u32,
}

impl Retained {
    /// By what the room's messages go.
    #[must_use]
    pub fn effective(&self) -> Policy {
        self.room.or(self.tenant).or(self.shard)
    }

    pub fn encode(&self, out: &mut impl Put) -> Result<(), Full> {
        for policy in [self.room, self.tenant, self.shard] {
            policy.encode(out)?;
        }
        out.put_u32(self.clock_s)?;
        out.put_u32(self.late_s)
    }

    pub fn decode(fields: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (room, tenant, shard) =
            (Policy::decode(fields)?, Policy::decode(fields)?, Policy::decode(fields)?);
        Ok(Self { room, tenant, shard, clock_s: fields.u32()?, late_s: fields.u32()? })
    }
}

/// Bytes of an encoded [`Retained`].
pub const RETAINED: usize = 8 * 3 + 4 + 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::chat::{Command, Query};
    use alloc::vec::Vec;

    #[test]
    fn a_change_of_retention_is_read_as_it_was_written_and_cut_short_it_is_none() {
        for room in ["general", ""] {
            for messages in [None, Some(0), Some(7), Some(FOREVER)] {
                for age_s in [None, Some(0), Some(86_400)] {
                    let retain = Retain { tenant: TenantId(3), room, user: "operator", messages, age_s };
                    let (command, mut bytes) = (Command::Retain(retain), Vec::new());
                    command.encode(&mut bytes).unwrap();
                    assert_eq!(bytes.len(), command.size());
                    assert_eq!(Command::decode(&mut Reader::new(&bytes)), Ok(command));
                    for end in 0..bytes.len() {
                        assert_eq!(Command::decode(&mut Reader::new(&bytes[..end])), Err(Malformed));
                    }
                }
            }
        }
        let mut bytes = Vec::new();
        let (tenant, room, user) = (TenantId(1), "r", "u");
        let none = Retain { tenant, room, user, messages: None, age_s: None };
        Command::Retain(none).encode(&mut bytes).unwrap();
        let rules = bytes.len() - RULES;
        for (at, byte) in [(rules, 4), (rules + 1, 1), (rules + 8, 1)] {
            let mut other = bytes.clone();
            other[at] = byte;
            assert_eq!(Command::decode(&mut Reader::new(&other)), Err(Malformed), "one way to say it");
        }
    }

    #[test]
    fn who_asks_for_retention_is_told_each_policy() {
        let (mut bytes, query) = (Vec::new(), Query::Retention { tenant: TenantId(2), room: "r" });
        query.encode(&mut bytes).unwrap();
        assert_eq!(Query::decode(&bytes), Ok(query));
        let of = |messages, age_s| Policy { messages, age_s };
        let retained = Retained { room: of(1, 2), tenant: of(3, 4), shard: of(5, 6), clock_s: 7, late_s: 8 };
        let mut bytes = Vec::new();
        retained.encode(&mut bytes).unwrap();
        assert_eq!(bytes.len(), RETAINED);
        assert_eq!(Retained::decode(&mut Reader::new(&bytes)), Ok(retained));
        assert_eq!(of(0, 9).or(of(FOREVER, 1)).or(of(5, 5)), of(FOREVER, 9));
        assert!(!of(FOREVER, 0).is_limited() && of(0, 1).is_limited() && of(1, FOREVER).is_limited());
    }
}
