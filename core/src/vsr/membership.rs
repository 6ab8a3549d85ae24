//! Who the shard is: its members with their roles, the quorums among them, and the number of this configuration.
//!
//! The one law: **a replica acts by the members that its durable superblock names** (H57), and every frame and entry
//! carries their number. Voters decide; standbys receive the log and decide nothing. The order of the list is part
//! of it: the primary of view v is voter v mod n.

use alloc::vec::Vec;

use super::quorum::Quorums;
use crate::types::ReplicaId;
use crate::wire::codec::{Malformed, Reader};

/// Most members that a shard may have: seven voters and a standby.
pub const MEMBERS_MAX: usize = 8;
/// Most bytes of a member's address.
pub const ADDRESS_MAX: usize = 64;

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Acknowledges, votes, leads.
    Voter = 1,
    /// Receives the log; counts for nothing.
    Standby = 2,
}

/// One replica of the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: ReplicaId,
    pub role: Role,
    /// Where it is reached; empty when that is told otherwise. Opaque to the protocol.
    pub address: Vec<u8>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The config number: 0 as formatted, one more with each change.
    pub number: u32,
    /// The highest id that was ever given away. Ids are never reused.
    pub highest: ReplicaId,
    quorums: Quorums,
    list: Vec<Member>,
}

impl Members {
    /// Those of a new shard: voters 0 to n-1. `None` when the quorums are not safe.
    #[must_use]
    pub fn first(replicas: u8, replication_quorum: u8) -> Option<Self> {
        let quorums = Quorums::of(replicas, replication_quorum)?;
        let voter = |id| Member { id: ReplicaId(id), role: Role::Voter, address: Vec::new() };
        let list = (0..u16::from(replicas)).map(voter).collect();
        Some(Self { number: 0, highest: ReplicaId(u16::from(replicas) - 1), quorums, list })
    }

    #[must_use]
    pub fn quorums(&self) -> Quorums {
        self.quorums
    }

    #[must_use]
    pub fn list(&self) -> &[Member] {
        &self.list
    }

    pub fn ids(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.list.iter().map(|member| member.id)
    }

    pub fn voters(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.list.iter().filter(|member| member.role == Role::Voter).map(|member| member.id)
    }

    #[must_use]
    pub fn get(&self, id: ReplicaId) -> Option<&Member> {
        self.list.iter().find(|member| member.id == id)
    }

    #[must_use]
    pub fn is_voter(&self, id: ReplicaId) -> bool {
        self.get(id).is_some_and(|member| member.role == Role::Voter)
    }

    /// The voter that leads a view.
    #[must_use]
    pub fn primary_of(&self, view: u64) -> ReplicaId {
        let at =
            usize::try_from(view % u64::from(self.quorums.replicas)).expect("below the number of voters");
        self.voters().nth(at).expect("as many voters as the quorums say")
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.highest.0.to_le_bytes());
        let count = u8::try_from(self.list.len()).expect("at most MEMBERS_MAX");
        out.extend_from_slice(&[self.quorums.replication, self.quorums.view_change, count]);
        for member in &self.list {
            out.extend_from_slice(&member.id.0.to_le_bytes());
            out.push(member.role as u8);
            out.push(u8::try_from(member.address.len()).expect("at most ADDRESS_MAX"));
            out.extend_from_slice(&member.address);
        }
    }

    /// Reads what [`Self::encode`] wrote. What could not be a shard's members is malformed.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (number, highest) = (reader.u32()?, ReplicaId(reader.u16()?));
        let (replication, view_change, count) = (reader.u8()?, reader.u8()?, reader.u8()?);
        if usize::from(count) > MEMBERS_MAX {
            return Err(Malformed);
        }
        let list = (0..count).map(|_| Member::decode(reader)).collect::<Result<Vec<_>, _>>()?;
        let voters = list.iter().filter(|member| member.role == Role::Voter).count();
        let voters = u8::try_from(voters).map_err(|_| Malformed)?;
        let quorums = Quorums::flexible(voters, replication, view_change).ok_or(Malformed)?;
        let twice =
            list.iter().enumerate().any(|(at, one)| list[..at].iter().any(|other| other.id == one.id));
        if twice || list.iter().any(|member| member.id > highest) {
            return Err(Malformed);
        }
        Ok(Self { number, highest, quorums, list })
    }
}

impl Member {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (id, role, len) = (ReplicaId(reader.u16()?), reader.u8()?, usize::from(reader.u8()?));
        let role = match role {
            1 => Role::Voter,
            2 => Role::Standby,
            _ => return Err(Malformed),
        };
        if len > ADDRESS_MAX {
            return Err(Malformed);
        }
        Ok(Self { id, role, address: reader.take(len)?.to_vec() })
    }
}

/// Something about each of some members. Who is not among them has nothing and changes nothing (I29).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ByMember<T>(Vec<(ReplicaId, T)>);

impl<T: Clone> ByMember<T> {
    pub(super) fn new(members: impl Iterator<Item = ReplicaId>, value: &T) -> Self {
        Self(members.map(|id| (id, value.clone())).collect())
    }

    pub(super) fn get(&self, id: ReplicaId) -> Option<&T> {
        self.0.iter().find(|(of, _)| *of == id).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, id: ReplicaId) -> Option<&mut T> {
        self.0.iter_mut().find(|(of, _)| *of == id).map(|(_, value)| value)
    }

    pub(super) fn set(&mut self, id: ReplicaId, value: T) {
        if let Some(old) = self.get_mut(id) {
            *old = value;
        }
    }

    pub(super) fn fill(&mut self, value: &T) {
        self.0.iter_mut().for_each(|(_, old)| old.clone_from(value));
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ReplicaId, &T)> {
        self.0.iter().map(|(id, value)| (*id, value))
    }
}

impl<T: Clone + Ord> ByMember<T> {
    pub(super) fn raise(&mut self, id: ReplicaId, value: T) {
        if let Some(old) = self.get_mut(id)
            && *old < value
        {
            *old = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_read_back_as_they_were_written_and_nothing_else_is_read() {
        let mut members = Members::first(3, 2).unwrap();
        members.list[1].address = b"127.0.0.1:4001".to_vec();
        let mut bytes = Vec::new();
        members.encode(&mut bytes);
        assert_eq!(Members::decode(&mut Reader::new(&bytes)), Ok(members.clone()));
        for len in 0..bytes.len() {
            assert_eq!(Members::decode(&mut Reader::new(&bytes[..len])), Err(Malformed));
        }
        members.list[1].id = ReplicaId(0);
        bytes.clear();
        members.encode(&mut bytes);
        assert_eq!(Members::decode(&mut Reader::new(&bytes)), Err(Malformed), "an id twice");
    }

    #[test]
    fn voters_lead_in_turn() {
        let members = Members::first(3, 2).unwrap();
        let leaders: Vec<u16> = (0..5).map(|view| members.primary_of(view).0).collect();
        assert_eq!(leaders, [0, 1, 2, 0, 1]);
    }
}
