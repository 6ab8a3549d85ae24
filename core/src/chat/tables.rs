//! The tables of the state as they lie in the forest: which there are, and what a row of each looks like. Layout:
//! `docs/formats.md`, "Chat state".
//!
//! The one law: **the forest holds the whole state at all times.** Whatever changes a row in memory writes it here in
//! the same command, and a row that is free is all zeros. So a checkpoint is the forest's pages and nothing else.

use alloc::vec;
use alloc::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use super::checkpoint::require;
use super::dedup::{USED, Used};
use super::limits::{Limits, MARKS};
use super::names::UserName;
use super::retention::{MARK, Mark};
use super::threads::{THREAD, ThreadRow};
use crate::store::forest::Forest;
use crate::store::pages::TableShape;
use crate::types::{FIRST_RELEASE, TenantId};
use crate::wire::chat::{ROOM_NAME_MAX, USER_NAME_MAX};
use crate::wire::codec::{Malformed, Reader};
use crate::wire::entry::Digest;
use crate::wire::retention::Policy;

pub(super) const ROOMS: usize = 0;
pub(super) const KEYS: usize = 1;
pub(super) const AUTHORS: usize = 2;
pub(super) const PEOPLE: usize = 3;
pub(super) const STAYS: usize = 4;
/// One row: the release of the last executed op less [`FIRST_RELEASE`], the shard's key horizon, the last checkpoint
/// whose wipe hurries, retention's clock, and the room that it looks at next. So an empty forest is the empty state.
pub(super) const COUNTERS: usize = 5;
/// One row more than there may be threads: the last one says which of them is looked at next.
pub(super) const THREADS: usize = 6;
/// Of each room its rules of retention, and its marks.
pub(super) const RETENTION: usize = 7;
/// Tenants that have rules of retention, ascending.
pub(super) const TENANTS: usize = 8;

const ROOM: usize = 4 + 8 + 8 + 32 + 1 + ROOM_NAME_MAX;
const AUTHOR: usize = 4 + 8 + 1 + USER_NAME_MAX;
const PERSON: usize = 4 + 1 + USER_NAME_MAX;
const STAY: usize = 4 + 8;
const COUNTER: usize = 4 + 8 + 8 + 4 + 4;
/// Before the marks.
const RULES: usize = 4 + 4;
const TENANT: usize = 4 + RULES;

/// Bytes of the largest row.
pub(super) const ROW_MAX: usize = RULES + *MARKS.end() as usize * MARK;
const _: () = assert!(ROOM >= USED && ROOM >= AUTHOR && ROOM >= PERSON && ROOM >= THREAD && ROW_MAX >= ROOM);

/// The tables that such limits need, by their numbers.
pub(super) fn shapes(limits: &Limits) -> Vec<TableShape> {
    let table = |slot_bytes: usize, slots| TableShape { slot_bytes: slot_bytes as u32, slots };
    vec![
        table(ROOM, limits.rooms),
        table(USED, limits.keys),
        table(AUTHOR, limits.keys),
        table(PERSON, limits.present),
        table(STAY, limits.present),
        table(COUNTER, 1),
        table(THREAD, if limits.threads == 0 { 0 } else { limits.threads + 1 }),
        table(RULES + limits.marks as usize * MARK, if limits.marks == 0 { 0 } else { limits.rooms }),
        table(TENANT, limits.tenants),
    ]
}

/// A room; its row is its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoomRow<'a> {
    pub(super) tenant: TenantId,
    pub(super) epoch: u64,
    pub(super) head: u64,
    pub(super) chain: Digest,
    pub(super) name: &'a str,
}

/// A user who has keys.
pub(super) struct AuthorRow<'a> {
    pub(super) tenant: TenantId,
    pub(super) horizon: u64,
    pub(super) name: &'a str,
}

/// A user present in a room.
pub(super) struct PersonRow<'a> {
    pub(super) room: u32,
    pub(super) name: &'a str,
}

/// Fills a row from the front.
struct Row<'a>(&'a mut [u8]);

impl Row<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (field, rest) = core::mem::take(&mut self.0).split_at_mut(bytes.len());
        field.copy_from_slice(bytes);
        self.0 = rest;
    }

    /// A name, which is the last of a row: zeros behind it.
    fn name(mut self, name: &[u8]) {
        self.put(&[u8::try_from(name.len()).expect("names are short")]);
        self.put(name);
        self.0.fill(0);
    }
}

fn row(forest: &mut Forest, table: usize, slot: u32) -> Row<'_> {
    Row(forest.slot_mut(table, slot))
}

pub(super) fn put_room(forest: &mut Forest, id: u32, room: &RoomRow<'_>) {
    let mut row = row(forest, ROOMS, id);
    row.put(&room.tenant.0.to_le_bytes());
    row.put(&room.epoch.to_le_bytes());
    row.put(&room.head.to_le_bytes());
    row.put(&room.chain.0);
    row.name(room.name.as_bytes());
}

pub(super) fn put_used(forest: &mut Forest, slot: u32, used: &Used) {
    row(forest, KEYS, slot).put(used.as_bytes());
}

pub(super) fn put_author(forest: &mut Forest, slot: u32, tenant: TenantId, horizon: u64, name: &UserName) {
    let mut row = row(forest, AUTHORS, slot);
    row.put(&tenant.0.to_le_bytes());
    row.put(&horizon.to_le_bytes());
    row.name(name.as_bytes());
}

pub(super) fn put_person(forest: &mut Forest, slot: u32, room: u32, name: &UserName) {
    let mut row = row(forest, PEOPLE, slot);
    row.put(&room.to_le_bytes());
    row.name(name.as_bytes());
}

/// The person's slot plus one, so that no stay is all zeros.
pub(super) fn put_stay(forest: &mut Forest, slot: u32, person: u32, session: u64) {
    let mut row = row(forest, STAYS, slot);
    row.put(&(person + 1).to_le_bytes());
    row.put(&session.to_le_bytes());
}

pub(super) fn put_release(forest: &mut Forest, release: u32) {
    row(forest, COUNTERS, 0).put(&release.saturating_sub(FIRST_RELEASE).to_le_bytes());
}

pub(super) fn put_horizon(forest: &mut Forest, horizon: u64) {
    forest.slot_mut(COUNTERS, 0)[4..12].copy_from_slice(&horizon.to_le_bytes());
}

/// Up to which checkpoint wipes hurry.
pub(super) fn put_hurry(forest: &mut Forest, until: u64) {
    forest.slot_mut(COUNTERS, 0)[12..20].copy_from_slice(&until.to_le_bytes());
}

/// Retention's clock, and the room that it looks at next.
pub(super) fn put_clock(forest: &mut Forest, clock: u32, hand: u32) {
    let mut row = Row(&mut forest.slot_mut(COUNTERS, 0)[20..]);
    row.put(&clock.to_le_bytes());
    row.put(&hand.to_le_bytes());
}

pub(super) fn put_policy(forest: &mut Forest, room: u32, policy: Policy) {
    let mut row = row(forest, RETENTION, room);
    row.put(&policy.messages.to_le_bytes());
    row.put(&policy.age_s.to_le_bytes());
}

pub(super) fn policy(forest: &Forest, room: u32) -> Policy {
    let row = forest.slot(RETENTION, room);
    let word = |at: usize| u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
    Policy { messages: word(0), age_s: word(4) }
}

/// A room's marks, the newest first.
pub(super) fn marks(forest: &Forest, room: u32) -> &[Mark] {
    <[Mark]>::ref_from_bytes(&forest.slot(RETENTION, room)[RULES..])
        .expect("rows have the size of their table")
}

pub(super) fn marks_mut(forest: &mut Forest, room: u32) -> &mut [Mark] {
    let row = &mut forest.slot_mut(RETENTION, room)[RULES..];
    <[Mark]>::mut_from_bytes(row).expect("rows have the size of their table")
}

/// All tenants that have rules; the other rows are free.
pub(super) fn put_tenants(forest: &mut Forest, tenants: &[(TenantId, Policy)], limit: u32) {
    for slot in 0..limit {
        let mut row = [0; TENANT];
        if let Some((tenant, policy)) = tenants.get(slot as usize) {
            row[..4].copy_from_slice(&tenant.0.to_le_bytes());
            row[4..8].copy_from_slice(&policy.messages.to_le_bytes());
            row[8..].copy_from_slice(&policy.age_s.to_le_bytes());
        }
        if forest.slot(TENANTS, slot) != row {
            forest.slot_mut(TENANTS, slot).copy_from_slice(&row);
        }
    }
}

/// A tenant's rules; `None`: the row is free.
pub(super) fn tenant(forest: &Forest, slot: u32) -> Result<Option<(TenantId, Policy)>, Malformed> {
    let Some(mut row) = taken(forest, TENANTS, slot) else { return Ok(None) };
    let (tenant, messages, age_s) = (TenantId(row.u32()?), row.u32()?, row.u32()?);
    Ok(Some((tenant, Policy { messages, age_s })))
}

pub(super) fn put_thread(forest: &mut Forest, slot: u32, thread: &ThreadRow) {
    row(forest, THREADS, slot).put(thread.as_bytes());
}

/// Which thread is looked at next.
pub(super) fn put_hand(forest: &mut Forest, limit: u32, hand: u32) {
    row(forest, THREADS, limit).put(&hand.to_le_bytes());
}

/// The slot is free.
pub(super) fn clear(forest: &mut Forest, table: usize, slot: u32) {
    forest.slot_mut(table, slot).fill(0);
}

/// What a slot holds; `None`: it is free.
fn taken(forest: &Forest, table: usize, slot: u32) -> Option<Reader<'_>> {
    let bytes = forest.slot(table, slot);
    bytes.iter().any(|byte| *byte != 0).then(|| Reader::new(bytes))
}

pub(super) fn room(forest: &Forest, id: u32) -> Result<Option<RoomRow<'_>>, Malformed> {
    let Some(mut row) = taken(forest, ROOMS, id) else { return Ok(None) };
    let (tenant, epoch, head) = (TenantId(row.u32()?), row.u64()?, row.u64()?);
    let chain = Digest(row.array()?);
    Ok(Some(RoomRow { tenant, epoch, head, chain, name: name(row)? }))
}

pub(super) fn used(forest: &Forest, slot: u32) -> Result<Option<Used>, Malformed> {
    let Some(row) = taken(forest, KEYS, slot) else { return Ok(None) };
    Used::read_from_bytes(row.rest()).map(Some).map_err(|_| Malformed)
}

pub(super) fn author(forest: &Forest, slot: u32) -> Result<Option<AuthorRow<'_>>, Malformed> {
    let Some(mut row) = taken(forest, AUTHORS, slot) else { return Ok(None) };
    let (tenant, horizon) = (TenantId(row.u32()?), row.u64()?);
    Ok(Some(AuthorRow { tenant, horizon, name: name(row)? }))
}

pub(super) fn person(forest: &Forest, slot: u32) -> Result<Option<PersonRow<'_>>, Malformed> {
    let Some(mut row) = taken(forest, PEOPLE, slot) else { return Ok(None) };
    let room = row.u32()?;
    Ok(Some(PersonRow { room, name: name(row)? }))
}

/// The person's slot, and the session.
pub(super) fn stay(forest: &Forest, slot: u32) -> Result<Option<(u32, u64)>, Malformed> {
    let Some(mut row) = taken(forest, STAYS, slot) else { return Ok(None) };
    let person = row.u32()?.checked_sub(1).ok_or(Malformed)?;
    Ok(Some((person, row.u64()?)))
}

pub(super) fn thread(forest: &Forest, slot: u32) -> Result<Option<ThreadRow>, Malformed> {
    let Some(row) = taken(forest, THREADS, slot) else { return Ok(None) };
    ThreadRow::read_from_bytes(row.rest()).map(Some).map_err(|_| Malformed)
}

pub(super) fn hand(forest: &Forest, limit: u32) -> Result<u32, Malformed> {
    let mut row = Reader::new(forest.slot(THREADS, limit));
    let hand = row.u32()?;
    require(row.rest().iter().all(|byte| *byte == 0))?;
    Ok(hand)
}

/// The row of what there is one of.
pub(super) struct Counters {
    /// Of the last executed op.
    pub(super) release: u32,
    /// The shard's key horizon.
    pub(super) horizon: u64,
    /// Up to which checkpoint wipes hurry.
    pub(super) hurry: u64,
    pub(super) clock: u32,
    pub(super) hand: u32,
}

pub(super) fn counters(forest: &Forest) -> Result<Counters, Malformed> {
    let mut row = Reader::new(forest.slot(COUNTERS, 0));
    let release = row.u32()?.checked_add(FIRST_RELEASE).ok_or(Malformed)?;
    let (horizon, hurry) = (row.u64()?, row.u64()?);
    Ok(Counters { release, horizon, hurry, clock: row.u32()?, hand: row.u32()? })
}

/// The name at the end of a row.
fn name(mut row: Reader<'_>) -> Result<&str, Malformed> {
    let name = row.short_str()?;
    require(row.rest().iter().all(|byte| *byte == 0))?;
    Ok(name)
}
