//! The whole state as bytes, and back. Layout: `docs/formats.md`, "Chat state".
//!
//! The one law: **equal states give equal bytes, and what cannot be a state is refused.** The bytes come from a
//! disk or a peer: every count is checked against the limits and every reference against what it refers to before
//! anything relies on it.

use alloc::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use super::Chat;
use super::dedup::{USED, Used};
use super::limits::{LIMITS, Limits};
use super::names::is_room_name;
use crate::types::{FIRST_RELEASE, TenantId};
use crate::wire::chat::{KIND_MESSAGE, ROOM_NAME_MAX, RoomEvent, USER_NAME_MAX};
use crate::wire::codec::{Malformed, Put, Reader};
use crate::wire::entry::Digest;

const HEAD: usize = 4 + LIMITS + 8 + 8 + 6 * 4;
const ROOM_MAX: usize = 4 + 1 + ROOM_NAME_MAX + 3 * 8 + 2 * 32;
const AUTHOR_MAX: usize = 4 + 4 + 8 + 1 + USER_NAME_MAX;
const PERSON_MAX: usize = 4 + 4 + 1 + USER_NAME_MAX;
const STAY: usize = 4 + 4 + 8;

/// No log gets this long; beyond it, sequences could run over.
const HEAD_MAX: u64 = u64::MAX / 2;

const NEVER_FULL: &str = "a Vec is never full";

/// Bytes of the largest state within these limits.
pub(super) fn encoded_max(limits: &Limits) -> usize {
    HEAD + limits.rooms as usize * ROOM_MAX
        + limits.message_bytes as usize
        + limits.keys as usize * (USED + AUTHOR_MAX)
        + limits.present as usize * (PERSON_MAX + STAY)
}

pub(super) fn encode(chat: &Chat, out: &mut Vec<u8>) {
    out.put_u32(chat.release).expect(NEVER_FULL);
    out.extend_from_slice(&chat.limits.encode());
    out.extend_from_slice(&chat.dedup.horizon().to_le_bytes());
    out.extend_from_slice(&(chat.history.bytes() as u64).to_le_bytes());
    let counts = [
        chat.rooms.len(),
        chat.history.len(),
        chat.dedup.author_count(),
        chat.dedup.len(),
        chat.presence.people_count(),
        chat.presence.stay_count(),
    ];
    for count in counts {
        out.extend_from_slice(&count.to_le_bytes());
    }
    for id in 0..chat.rooms.len() {
        encode_room(chat, id, out);
    }
    chat.history.encode(out);
    for (slot, author) in chat.dedup.authors() {
        out.extend_from_slice(&slot.to_le_bytes());
        out.extend_from_slice(&author.tenant.0.to_le_bytes());
        out.extend_from_slice(&author.horizon.to_le_bytes());
        out.put_short(author.name.as_bytes()).expect(NEVER_FULL);
    }
    out.extend_from_slice(chat.dedup.used().as_bytes());
    for (slot, person) in chat.presence.people() {
        out.extend_from_slice(&slot.to_le_bytes());
        out.extend_from_slice(&person.room.to_le_bytes());
        out.put_short(person.user.as_bytes()).expect(NEVER_FULL);
    }
    for (slot, stay) in chat.presence.stays() {
        out.extend_from_slice(&slot.to_le_bytes());
        out.extend_from_slice(&stay.person.to_le_bytes());
        out.extend_from_slice(&stay.session.to_le_bytes());
    }
}

fn encode_room(chat: &Chat, id: u32, out: &mut Vec<u8>) {
    let room = chat.rooms.get(id);
    out.extend_from_slice(&room.tenant.0.to_le_bytes());
    out.put_short(chat.rooms.name(id).as_bytes()).expect(NEVER_FULL);
    for number in [room.epoch, room.first, room.head] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&room.chain.0);
    out.extend_from_slice(&room.anchor.0);
}

/// Fills a chat that is new.
pub(super) fn decode(chat: &mut Chat, bytes: &[u8]) -> Result<(), Malformed> {
    let mut fields = Reader::new(bytes);
    chat.release = fields.u32()?;
    require(chat.release >= FIRST_RELEASE)?;
    require(Limits::decode(&fields.array()?)? == chat.limits)?;
    chat.dedup.restore_horizon(fields.u64()?);
    let history_bytes = usize::try_from(fields.u64()?).map_err(|_| Malformed)?;
    let (rooms, messages, authors) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let (keys, people, stays) = (fields.u32()?, fields.u32()?, fields.u32()?);
    for _ in 0..rooms {
        decode_room(chat, &mut fields)?;
    }
    decode_history(chat, fields.take(history_bytes)?, messages)?;
    decode_authors(chat, &mut fields, authors)?;
    decode_keys(chat, &mut fields, keys)?;
    decode_presence(chat, &mut fields, people, stays)?;
    fields.finish()
}

fn decode_room(chat: &mut Chat, fields: &mut Reader<'_>) -> Result<(), Malformed> {
    let (tenant, name) = (TenantId(fields.u32()?), fields.short_str()?);
    let (epoch, first, head) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (chain, anchor) = (Digest(fields.array()?), Digest(fields.array()?));
    require(is_room_name(name) && chat.rooms.find(tenant, name).is_none() && !chat.rooms.is_full())?;
    require(first >= 1 && head <= HEAD_MAX && first <= head + 1)?;
    require(first > 1 || anchor == Digest::ZERO)?;
    require(first <= head || anchor == chain)?;
    let id = chat.rooms.add(tenant, name, epoch);
    let room = chat.rooms.get_mut(id);
    (room.first, room.head, room.chain, room.anchor) = (first, head, chain, anchor);
    Ok(())
}

/// Every message must be the next of its room, and the last one must be its head.
fn decode_history(chat: &mut Chat, bytes: &[u8], messages: u32) -> Result<(), Malformed> {
    let mut next: Vec<u64> = (0..chat.rooms.len()).map(|id| chat.rooms.get(id).first).collect();
    let mut records = Reader::new(bytes);
    for _ in 0..messages {
        let before = records.rest();
        let RoomEvent::Message(message) = RoomEvent::decode(&mut records)? else { return Err(Malformed) };
        let record = &before[..before.len() - records.rest().len()];
        let id = chat.rooms.find(message.tenant, message.room).ok_or(Malformed)?;
        let room = chat.rooms.get(id);
        require(message.seq == next[id as usize] && message.epoch == room.epoch)?;
        require(message.kind == KIND_MESSAGE && message.parent < message.seq)?;
        require(message.seq < room.head || message.seq == room.head && message.chain == room.chain)?;
        require(record.len() <= chat.limits.record_max() && chat.history.fits(record.len()))?;
        chat.history.push(id, message.seq, message.chain, record);
        next[id as usize] += 1;
    }
    records.finish()?;
    require((0..chat.rooms.len()).all(|id| next[id as usize] == chat.rooms.get(id).head + 1))
}

fn decode_authors(chat: &mut Chat, fields: &mut Reader<'_>, authors: u32) -> Result<(), Malformed> {
    let mut before = None;
    for _ in 0..authors {
        let (slot, tenant, horizon) = (fields.u32()?, TenantId(fields.u32()?), fields.u64()?);
        require(
            before < Some(slot) && chat.dedup.restore_author(slot, tenant, fields.short_str()?, horizon),
        )?;
        before = Some(slot);
    }
    Ok(())
}

fn decode_keys(chat: &mut Chat, fields: &mut Reader<'_>, keys: u32) -> Result<(), Malformed> {
    for _ in 0..keys {
        let used = Used::read_from_bytes(fields.take(USED)?).map_err(|_| Malformed)?;
        require(used.room.get() < chat.rooms.len())?;
        require((1..=chat.rooms.get(used.room.get()).head).contains(&used.seq.get()))?;
        require(chat.dedup.restore_used(used))?;
    }
    require(chat.dedup.is_restored())
}

fn decode_presence(
    chat: &mut Chat,
    fields: &mut Reader<'_>,
    people: u32,
    stays: u32,
) -> Result<(), Malformed> {
    let mut before = None;
    for _ in 0..people {
        let (slot, room, user) = (fields.u32()?, fields.u32()?, fields.short_str()?);
        require(before < Some(slot) && room < chat.rooms.len())?;
        require(chat.presence.restore_person(slot, room, user))?;
        before = Some(slot);
    }
    let mut before = None;
    for _ in 0..stays {
        let (slot, person, session) = (fields.u32()?, fields.u32()?, fields.u64()?);
        require(before < Some(slot) && chat.presence.restore_stay(slot, person, session))?;
        before = Some(slot);
    }
    require(chat.presence.is_restored())
}

fn require(holds: bool) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(Malformed) }
}
