//! Retention: which messages of a room are gone, by their number or their age.
//!
//! The one law: **where a room's history begins follows from the state and from nothing else**: neither from a replica's
//! clock nor from blocks that it would have to read. And it never moves back, whatever rules are made later.
//!
//! Ages are told by the *shard's clock*: the time of the last command that did something, in whole seconds. How old a
//! message is, a room knows by its *marks*: times and sequences, so many for each room, in a row of the forest.
//!
//! ```text
//!  a room, newest mark first:   (until 90, from 7)   (until 60, from 5)   (until 30, from 1)
//!  messages   1 2 3 4  | 5 6   | 7 8 9
//!  said at    3 .. 29  | 31 55 | 72 .. 88          the messages from 5 on, before 7, were said before 60
//! ```
//!
//! When `until` and the age that is allowed have passed, all that a mark speaks of is gone: never too early, and late by
//! the width of a mark at most. The width is a part of the allowed age, so that so many marks are enough; of a room
//! without such a rule it is the same part of the room's life. Where marks are short all the same (another age was
//! allowed before), two neighbours become one.
//!
//! What is gone by this is not served from then on. The forest's cut follows: with the next message of the room, or when
//! a hand comes by that looks at two rooms with each command. Design: `docs/storage.md`, "Retention".

use alloc::vec::Vec;
use core::cmp::Reverse;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::limits::Limits;
use super::names::{is_room_name, is_user_name};
use super::rooms::RoomId;
use super::{Chat, Done, Turn, tables};
use crate::errors::ErrorCode;
use crate::types::TenantId;
use crate::wire::chat::Outcome;
use crate::wire::codec::Malformed;
use crate::wire::retention::{Policy, Retain, Retained};

/// Rooms that a command looks at.
const LOOKED_AT: u32 = 2;
/// Marks that are not counted on when the width of a mark is chosen: the one that grows, and the one that ages.
const SPARE: u32 = 2;
const SECOND: u64 = 1_000_000_000;

/// The messages from one on, up to where the next newer mark begins, were said before a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Mark {
    /// Unix seconds; zero: there is no such mark.
    pub(super) until: U32,
    pub(super) from: U64,
}

/// Bytes of a mark.
pub(super) const MARK: usize = 12;
const _: () = assert!(size_of::<Mark>() == MARK);

/// See the module. What is kept of each room is a row of the forest alone.
pub(super) struct Retention {
    shard: Policy,
    /// Rules of tenants, ascending. Their rows are in the same order.
    pub(super) tenants: Vec<(TenantId, Policy)>,
    /// Rooms that have rules of their own.
    rooms: u32,
    /// The shard's clock, and the room that is looked at next.
    pub(super) clock: u32,
    pub(super) hand: u32,
    marks: u32,
}

impl Retention {
    pub(super) fn new(limits: &Limits) -> Self {
        let tenants = Vec::with_capacity(limits.tenants as usize);
        Self { shard: limits.retention(), tenants, rooms: 0, clock: 0, hand: 0, marks: limits.marks }
    }

    /// Whether anything may go otherwise than by what is said in its own room.
    fn wanders(&self) -> bool {
        self.marks > 0 && (self.shard.oldest_s().is_some() || self.rooms > 0 || !self.tenants.is_empty())
    }

    fn of_tenant(&self, tenant: TenantId) -> Policy {
        let at = self.tenants.binary_search_by_key(&tenant, |it| it.0);
        at.map_or(Policy::default(), |at| self.tenants[at].1)
    }

    /// Whether any rule removes anything, as far as is seen without looking at each room.
    fn is_any(&self) -> bool {
        self.shard.is_limited() || self.rooms > 0 || !self.tenants.is_empty()
    }

    /// A tenant's rules from a checkpoint. False: there can be no such row.
    pub(super) fn restore_tenant(&mut self, tenant: TenantId, policy: Policy) -> bool {
        let follows = self.tenants.last().is_none_or(|last| last.0 < tenant);
        self.tenants.push((tenant, policy));
        follows && !policy.is_empty()
    }

    /// How many seconds a mark is to cover in which nothing ends before `age_s`, of a room that has lived so long.
    fn width(&self, age_s: Option<u32>, life_s: u32) -> u32 {
        age_s.unwrap_or(life_s).div_ceil(self.marks - SPARE).max(1)
    }
}

fn seconds(time: u64) -> u32 {
    u32::try_from(time / SECOND).unwrap_or(u32::MAX - 1)
}

impl Chat {
    /// The first sequence of a room that is served. What lies before it is gone, or is about to be.
    pub(super) fn first(&self, id: RoomId) -> u64 {
        let cut = self.forest.first(id);
        if !self.retention.is_any() {
            return cut;
        }
        let (policy, end) = (self.policy(id), self.rooms.get(id).head + 1);
        let by_count = policy.most().map_or(0, |most| end.saturating_sub(most.into()));
        let by_age = policy.oldest_s().map_or(0, |age| self.first_since(id, age, end));
        cut.max(by_count).max(by_age)
    }

    /// The first message that may be younger than this.
    fn first_since(&self, id: RoomId, age_s: u32, end: u64) -> u64 {
        let now = u64::from(self.retention.clock);
        let mut from = end;
        for mark in tables::marks(&self.forest, id) {
            let until = mark.until.get();
            if until == 0 {
                break;
            }
            if u64::from(until) + u64::from(age_s) <= now {
                return from;
            }
            from = mark.from.get();
        }
        0
    }

    fn policy(&self, id: RoomId) -> Policy {
        let above = self.retention.of_tenant(self.rooms.get(id).tenant).or(self.retention.shard);
        if self.retention.marks == 0 { above } else { tables::policy(&self.forest, id).or(above) }
    }

    /// What is gone of a room is cut off.
    pub(super) fn cut_off(&mut self, id: RoomId) {
        let first = self.first(id);
        self.forest.cut(id, first);
    }

    /// After a command that did something: the clock goes on, and so does the hand.
    pub(super) fn passed(&mut self, time: u64) {
        if !self.retention.wanders() {
            return;
        }
        for _ in 0..LOOKED_AT.min(self.rooms.len()) {
            let id = self.retention.hand % self.rooms.len();
            self.cut_off(id);
            self.retention.hand = (id + 1) % self.rooms.len();
        }
        self.retention.clock = self.retention.clock.max(seconds(time));
        tables::put_clock(&mut self.forest, self.retention.clock, self.retention.hand);
    }

    /// Remembers when a message was said. What is gone of its room was [cut off](Self::cut_off) before.
    pub(super) fn mark(&mut self, id: RoomId, seq: u64, time: u64) {
        if self.retention.marks == 0 {
            return;
        }
        let (now, marks) = (seconds(time), tables::marks(&self.forest, id));
        if marks[0].until.get() > now {
            return;
        }
        let life =
            marks.iter().rev().find(|mark| mark.until.get() > 0).map_or(0, |mark| now - mark.until.get());
        let width = self.retention.width(self.policy(id).oldest_s(), life);
        let first = self.forest.first(id);
        let mark = Mark { until: now.saturating_add(width).into(), from: seq.into() };
        put_mark(tables::marks_mut(&mut self.forest, id), mark, first);
    }

    pub(super) fn retain(&mut self, turn: Turn, retain: &Retain<'_>) -> Done {
        if !retain.room.is_empty() && !is_room_name(retain.room) {
            return Err(turn.refused(ErrorCode::RoomNameInvalid));
        }
        if !is_user_name(retain.user) {
            return Err(turn.refused(ErrorCode::UserNameInvalid));
        }
        if self.retention.marks == 0 {
            return Err(turn.refused(ErrorCode::RetentionFixed));
        }
        if retain.room.is_empty() {
            return self.retain_tenant(turn, retain);
        }
        let id = self.find(turn, retain.tenant, retain.room)?;
        // What was gone by the rules of before does not come back.
        self.cut_off(id);
        let before = tables::policy(&self.forest, id);
        let policy = retain.change(before);
        tables::put_policy(&mut self.forest, id, policy);
        self.retention.rooms -= u32::from(!before.is_empty());
        self.retention.rooms += u32::from(!policy.is_empty());
        let room = self.rooms.get(id);
        Ok(Outcome { seq: room.head, epoch: room.epoch, chain: room.chain, ..turn.outcome() })
    }

    /// Looks at every room of the tenant: rare, and a few milliseconds where there are a hundred thousand.
    fn retain_tenant(&mut self, turn: Turn, retain: &Retain<'_>) -> Done {
        let before = self.retention.of_tenant(retain.tenant);
        let (policy, tenants) = (retain.change(before), self.retention.tenants.len());
        if before.is_empty() && !policy.is_empty() && tenants >= self.limits.tenants as usize {
            return Err(turn.refused(ErrorCode::TooManyPolicies));
        }
        for id in 0..self.rooms.len() {
            if self.rooms.get(id).tenant == retain.tenant {
                self.cut_off(id);
            }
        }
        let tenants = &mut self.retention.tenants;
        match tenants.binary_search_by_key(&retain.tenant, |it| it.0) {
            Ok(at) if policy.is_empty() => drop(tenants.remove(at)),
            Ok(at) => tenants[at].1 = policy,
            Err(_) if policy.is_empty() => {}
            Err(at) => tenants.insert(at, (retain.tenant, policy)),
        }
        tables::put_tenants(&mut self.forest, tenants, self.limits.tenants);
        Ok(turn.outcome())
    }

    /// What an operator is shown, of a room or of a tenant.
    pub(super) fn retained(&self, tenant: TenantId, id: Option<RoomId>) -> Retained {
        let has_row = self.retention.marks > 0;
        let room = id.filter(|_| has_row).map_or(Policy::default(), |id| tables::policy(&self.forest, id));
        let (of_tenant, shard) = (self.retention.of_tenant(tenant), self.retention.shard);
        let retained = Retained { room, tenant: of_tenant, shard, clock_s: self.retention.clock, late_s: 0 };
        let age_s = retained.effective().oldest_s();
        let late_s = age_s.map_or(0, |age| self.retention.width(Some(age), 0) + 1);
        Retained { late_s, ..retained }
    }

    /// Rules and marks of a room, from a checkpoint.
    pub(super) fn restore_retention(&mut self, id: RoomId) -> Result<(), Malformed> {
        if self.retention.marks == 0 {
            return Ok(());
        }
        let marks = tables::marks(&self.forest, id);
        let used = marks.iter().position(|mark| mark.until.get() == 0).unwrap_or(marks.len());
        let (used, free) = marks.split_at(used);
        let descends = used.is_sorted_by(|newer, older| {
            newer.until.get() > older.until.get() && newer.from.get() > older.from.get()
        });
        let head = self.rooms.get(id).head;
        let are_there = used.iter().all(|mark| (1..=head).contains(&mark.from.get()));
        let are_free = free.iter().all(|mark| mark.from.get() == 0);
        self.retention.rooms += u32::from(!tables::policy(&self.forest, id).is_empty());
        if descends && are_there && are_free { Ok(()) } else { Err(Malformed) }
    }

    /// The rows of retention, as what is in memory says they are.
    #[cfg(test)]
    pub(super) fn write_retention(&self, into: &mut crate::store::forest::Forest) {
        tables::put_clock(into, self.retention.clock, self.retention.hand);
        tables::put_tenants(into, &self.retention.tenants, self.limits.tenants);
        let rows = (0..self.rooms.len()).filter(|_| self.retention.marks > 0);
        let mut rooms = 0;
        for id in rows {
            let policy = tables::policy(&self.forest, id);
            rooms += u32::from(!policy.is_empty());
            tables::put_policy(into, id, policy);
            tables::marks_mut(into, id).copy_from_slice(tables::marks(&self.forest, id));
        }
        assert_eq!(self.retention.rooms, rooms);
    }
}

/// Puts a mark in front. Where there is no room for it, those go that speak of nothing that is left; if there are none,
/// one is joined with its neighbour: where what they cover together is shortest, of equal ones the oldest.
fn put_mark(marks: &mut [Mark], mark: Mark, first: u64) {
    let last = marks.len() - 1;
    if marks[last].until.get() > 0 {
        let begins_next = |at: usize| if at == 0 { mark.from.get() } else { marks[at - 1].from.get() };
        let left = (0..=last).take_while(|at| begins_next(*at) > first).count();
        if left > last {
            let until = |at: usize| marks[at].until.get();
            let span = |joined: usize| until(joined - 1) - until((joined + 1).min(last));
            let joined = (1..=last).min_by_key(|at| (span(*at), Reverse(*at))).expect("there are several");
            marks[joined - 1].from = marks[joined].from;
            marks.copy_within(joined + 1.., joined);
        } else {
            marks[left..].fill(Mark { until: 0.into(), from: 0.into() });
        }
    }
    marks.copy_within(..last, 1);
    marks[0] = mark;
}
