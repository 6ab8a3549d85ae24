//! Who the shard is: its members with their roles, the quorums among them, and the number of this configuration.
//!
//! The one law: **a replica acts by the members that its durable superblock names** (H57), and every frame and entry
//! carries their number. Voters decide; standbys receive the log and decide nothing. The order of the list is part
//! of it: the primary of view v is voter v mod n.

use alloc::vec::Vec;

use super::quorum::Quorums;
use crate::errors::ErrorCode;
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
    /// A standby that takes a lost voter's place: the primary promotes it as soon as it has caught up.
    Successor = 3,
}

/// The highest config number. No shard lives to see so many changes: a higher one is damage, or a lie.
const NUMBER_MAX: u32 = u32::MAX / 2;

/// One replica of the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: ReplicaId,
    pub role: Role,
    /// Where it is reached; empty when that is told otherwise. Opaque to the protocol.
    pub address: Vec<u8>,
}

/// One change. What it does to the voters is at most one of them more or less, so that quorums before and after
/// intersect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new replica receives the log.
    Standby { id: ReplicaId, address: Vec<u8> },
    /// A standby that has caught up becomes a voter.
    Promote { id: ReplicaId },
    /// A replica leaves for good.
    Remove { id: ReplicaId },
    /// The disk of `lost` is gone: it leaves, and a new replica receives the log and becomes a voter once it has
    /// caught up.
    Replace { lost: ReplicaId, id: ReplicaId, address: Vec<u8> },
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

    /// What a replica knows whose file was made to join a shard: it is told the rest.
    #[must_use]
    pub fn unknown() -> Self {
        let quorums = Quorums { replicas: 0, replication: 0, view_change: 0, nack: 0 };
        Self { number: 0, highest: ReplicaId(0), quorums, list: Vec::new() }
    }

    /// Whether this is [`Self::unknown`].
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.list.is_empty()
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

    /// The members after a change, in which `leader` goes on leading `view` if it is still a voter. Errors say why
    /// there can be none.
    pub fn after(&self, change: &Change, leader: ReplicaId, view: u64) -> Result<Self, ErrorCode> {
        let mut next = self.clone();
        next.number += 1;
        match change {
            Change::Standby { id, address } => next.admit(*id, Role::Standby, address)?,
            Change::Promote { id } => {
                let found =
                    next.list.iter_mut().find(|member| member.id == *id && member.role != Role::Voter);
                found.ok_or(ErrorCode::ReplicaNotStandby)?.role = Role::Voter;
            }
            Change::Remove { id } => next.dismiss(*id)?,
            Change::Replace { lost, id, address } => {
                if !self.is_voter(*lost) {
                    return Err(ErrorCode::ReplicaUnknown);
                }
                next.dismiss(*lost)?;
                next.admit(*id, Role::Successor, address)?;
            }
        }
        if next.list.len() > MEMBERS_MAX {
            return Err(ErrorCode::TooManyReplicas);
        }
        next.quorums = self.quorums_for(&next).ok_or(ErrorCode::QuorumsUnsafe)?;
        next.keep_leader(leader, view);
        Ok(next)
    }

    fn admit(&mut self, id: ReplicaId, role: Role, address: &[u8]) -> Result<(), ErrorCode> {
        if id <= self.highest {
            return Err(ErrorCode::ReplicaIdUsed);
        }
        self.highest = id;
        self.list.push(Member { id, role, address: address.to_vec() });
        Ok(())
    }

    fn dismiss(&mut self, id: ReplicaId) -> Result<(), ErrorCode> {
        let at = self.list.iter().position(|member| member.id == id).ok_or(ErrorCode::ReplicaUnknown)?;
        self.list.remove(at);
        Ok(())
    }

    /// The smallest quorums (of those the one with most copies) that are safe among the voters of `next` and against ours: any two of one decision each
    /// share a voter, whichever of the two configurations they belong to (H57).
    fn quorums_for(&self, next: &Self) -> Option<Quorums> {
        let voters = u8::try_from(next.voters().count()).ok()?;
        let ours = self.voters().count();
        let common = self.voters().filter(|id| next.is_voter(*id)).count();
        if (ours, ours) == (common, usize::from(voters)) {
            return Some(self.quorums);
        }
        let intersect = |mine: u8, theirs: u8| {
            // How many of each quorum must be voters of both, at least.
            let (mine, theirs) = (usize::from(mine), usize::from(theirs));
            let mine = mine.saturating_sub(ours - common);
            let theirs = theirs.saturating_sub(usize::from(voters) - common);
            mine + theirs > common
        };
        let safe = |next: &Quorums| {
            intersect(self.quorums.replication, next.view_change)
                && intersect(self.quorums.view_change, next.replication)
                && intersect(self.quorums.view_change, next.view_change)
        };
        let all = (1..=voters).flat_map(|votes| (1..=voters).map(move |copies| (copies, votes)));
        let all = all.filter_map(|(copies, votes)| Quorums::flexible(voters, copies, votes)).filter(safe);
        all.min_by_key(|one| (one.replication.max(one.view_change), voters - one.replication))
    }

    /// Turns the list until `leader` is the voter that leads `view`, so that a change costs no view change.
    fn keep_leader(&mut self, leader: ReplicaId, view: u64) {
        for _ in 0..self.list.len() {
            if !self.is_voter(leader) || self.primary_of(view) == leader {
                return;
            }
            self.list.rotate_left(1);
        }
    }

    /// The voter that leads a view.
    #[must_use]
    ///
    /// # Panics
    /// When the members are unknown: nobody asks then.
    pub fn primary_of(&self, view: u64) -> ReplicaId {
        let at =
            usize::try_from(view % u64::from(self.quorums.replicas)).expect("below the number of voters");
        self.voters().nth(at).expect("as many voters as the quorums say")
    }

    /// Writes what [`Self::decode`] reads.
    ///
    /// # Panics
    /// When there are more members, or longer addresses, than there may be: our own bug.
    pub fn encode(&self, out: &mut Vec<u8>) {
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

    /// Reads what `encode` wrote. What could not be a shard's members is malformed.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (number, highest) = (reader.u32()?, ReplicaId(reader.u16()?));
        let (replication, view_change, count) = (reader.u8()?, reader.u8()?, reader.u8()?);
        if usize::from(count) > MEMBERS_MAX || number > NUMBER_MAX {
            return Err(Malformed);
        }
        let list = (0..count).map(|_| Member::decode(reader)).collect::<Result<Vec<_>, _>>()?;
        let voters = list.iter().filter(|member| member.role == Role::Voter).count();
        let voters = u8::try_from(voters).map_err(|_| Malformed)?;
        if list.is_empty() && (number, highest, replication, view_change) == (0, ReplicaId(0), 0, 0) {
            return Ok(Self::unknown());
        }
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
            3 => Role::Successor,
            _ => return Err(Malformed),
        };
        if len > ADDRESS_MAX {
            return Err(Malformed);
        }
        Ok(Self { id, role, address: reader.take(len)?.to_vec() })
    }
}

impl Change {
    /// The replica that it takes away.
    #[must_use]
    pub fn leaving(&self) -> Option<ReplicaId> {
        match self {
            Self::Remove { id } => Some(*id),
            Self::Replace { lost, .. } => Some(*lost),
            Self::Standby { .. } | Self::Promote { .. } => None,
        }
    }

    /// What a `reconfigure` frame carries.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, id, lost, address): (u8, _, _, &[u8]) = match self {
            Self::Standby { id, address } => (1, *id, ReplicaId(0), address),
            Self::Promote { id } => (2, *id, ReplicaId(0), &[]),
            Self::Remove { id } => (3, *id, ReplicaId(0), &[]),
            Self::Replace { lost, id, address } => (4, *id, *lost, address),
        };
        let mut out = Vec::with_capacity(6 + address.len());
        out.push(kind);
        out.extend_from_slice(&id.0.to_le_bytes());
        out.extend_from_slice(&lost.0.to_le_bytes());
        out.push(u8::try_from(address.len()).expect("at most ADDRESS_MAX"));
        out.extend_from_slice(address);
        out
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let (kind, id, lost) = (reader.u8()?, ReplicaId(reader.u16()?), ReplicaId(reader.u16()?));
        let address = reader.short()?.to_vec();
        reader.finish()?;
        if address.len() > ADDRESS_MAX {
            return Err(Malformed);
        }
        let change = match kind {
            1 => Self::Standby { id, address },
            2 => Self::Promote { id },
            3 => Self::Remove { id },
            4 => Self::Replace { lost, id, address },
            _ => return Err(Malformed),
        };
        // What a kind has no use for is empty, so that a change is written in one way only.
        if change.encode() == bytes { Ok(change) } else { Err(Malformed) }
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

    /// For other members: who stays keeps what is known, who is new begins anew.
    pub(super) fn reshape(&mut self, members: impl Iterator<Item = ReplicaId>)
    where
        T: Default,
    {
        self.0 = members.map(|id| (id, self.get(id).cloned().unwrap_or_default())).collect();
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
        bytes.clear();
        Members { number: u32::MAX, ..Members::first(3, 2).unwrap() }.encode(&mut bytes);
        assert_eq!(
            Members::decode(&mut Reader::new(&bytes)),
            Err(Malformed),
            "a number that has no next one"
        );
    }

    /// Every set of so many of these.
    fn subsets(of: &[ReplicaId], size: u8) -> Vec<Vec<ReplicaId>> {
        let sets = (0..1_u32 << of.len()).filter(|set| set.count_ones() == u32::from(size));
        sets.map(|set| (0..of.len()).filter(|at| set >> at & 1 == 1).map(|at| of[at]).collect()).collect()
    }

    fn quorums_intersect(a: &Members, b: &Members) -> bool {
        let (ours, theirs): (Vec<_>, Vec<_>) = (a.voters().collect(), b.voters().collect());
        let pairs = [
            (a.quorums.replication, b.quorums.view_change),
            (a.quorums.view_change, b.quorums.replication),
            (a.quorums.view_change, b.quorums.view_change),
        ];
        pairs.iter().all(|(mine, other)| {
            subsets(&ours, *mine)
                .iter()
                .all(|one| subsets(&theirs, *other).iter().all(|two| one.iter().any(|id| two.contains(id))))
        })
    }

    #[test]
    fn h57_all_quorums_before_and_after_a_change_share_a_voter() {
        for replicas in 1..=7 {
            for quorum in 1..=replicas {
                let Some(members) = Members::first(replicas, quorum) else { continue };
                let (one, new) = (ReplicaId(0), ReplicaId(u16::from(replicas)));
                let standby = Change::Standby { id: new, address: Vec::new() };
                let with_standby = members.after(&standby, one, 0).unwrap();
                assert_eq!(with_standby.quorums, members.quorums, "a standby counts for nothing");
                let changes = [
                    (&with_standby, Change::Promote { id: new }),
                    (&members, Change::Remove { id: one }),
                    (&members, Change::Replace { lost: one, id: new, address: Vec::new() }),
                ];
                for (before, change) in changes {
                    if let Ok(after) = before.after(&change, ReplicaId(1), 1) {
                        assert!(quorums_intersect(before, &after), "{before:?} {change:?} {after:?}");
                        assert_eq!(after.number, before.number + 1);
                    }
                }
            }
        }
    }

    #[test]
    fn h57_majorities_stay_majorities() {
        let mut members = Members::first(1, 1).unwrap();
        for voters in 2..=7 {
            let id = ReplicaId(u16::from(voters) - 1);
            members = members.after(&Change::Standby { id, address: Vec::new() }, ReplicaId(0), 0).unwrap();
            members = members.after(&Change::Promote { id }, ReplicaId(0), 0).unwrap();
            assert_eq!(Some(members.quorums), Quorums::majority(voters));
        }
        for voters in (1..=6).rev() {
            let id = members.voters().last().unwrap();
            members = members.after(&Change::Remove { id }, ReplicaId(0), 0).unwrap();
            assert_eq!(Some(members.quorums), Quorums::majority(voters));
        }
    }

    #[test]
    fn h57_a_change_keeps_the_primary_that_makes_it_and_never_gives_an_id_twice() {
        let three = Members::first(3, 2).unwrap();
        for view in 0..12 {
            let leader = three.primary_of(view);
            let lost = three.primary_of(view + 1);
            let replace = Change::Replace { lost, id: ReplicaId(3), address: Vec::new() };
            let two = three.after(&replace, leader, view).unwrap();
            assert_eq!((two.primary_of(view), two.voters().count()), (leader, 2));
            let again = two.after(&Change::Promote { id: ReplicaId(3) }, leader, view).unwrap();
            assert_eq!((again.primary_of(view), again.voters().count()), (leader, 3));
            let old = Change::Standby { id: lost, address: Vec::new() };
            assert_eq!(again.after(&old, leader, view), Err(ErrorCode::ReplicaIdUsed));
            assert_eq!(
                again.after(&Change::Remove { id: lost }, leader, view),
                Err(ErrorCode::ReplicaUnknown)
            );
        }
    }

    #[test]
    fn changes_read_back_as_they_were_written() {
        let (id, lost, address) = (ReplicaId(3), ReplicaId(1), b"127.0.0.1:4004".to_vec());
        let all = [
            Change::Standby { id, address: address.clone() },
            Change::Promote { id },
            Change::Remove { id },
            Change::Replace { lost, id, address },
        ];
        for change in all {
            assert_eq!(Change::decode(&change.encode()), Ok(change));
        }
        assert_eq!(Change::decode(&[5, 0, 0, 0, 0, 0]), Err(Malformed));
        let promoted_with_an_address = [2, 1, 0, 0, 0, 1, b'x'];
        assert_eq!(Change::decode(&promoted_with_an_address), Err(Malformed));
    }

    #[test]
    fn voters_lead_in_turn() {
        let members = Members::first(3, 2).unwrap();
        let leaders: Vec<u16> = (0..5).map(|view| members.primary_of(view).0).collect();
        assert_eq!(leaders, [0, 1, 2, 0, 1]);
    }
}
