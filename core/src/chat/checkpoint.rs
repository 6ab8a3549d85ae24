//! The state from what a checkpoint holds of it: the rows of the forest's tables.
//!
//! The one law: **what cannot be a state is refused.** The rows come from a disk or a peer: every count is checked
//! against the limits and every reference against what it refers to before anything relies on it. Nothing is written:
//! what the next checkpoint writes must not follow from how often a replica was restarted.

use super::Chat;
use super::limits::Limits;
use super::names::is_room_name;
use super::tables;
use crate::store::history::Key;
use crate::store::history::record::SEQ_MAX;
use crate::wire::codec::Malformed;
use crate::wire::entry::Digest;

/// Fills a chat that is new but for its forest.
pub(super) fn restore(chat: &mut Chat) -> Result<(), Malformed> {
    let counters = tables::counters(&chat.forest)?;
    chat.forest.hurry_until(counters.hurry);
    chat.release = counters.release;
    chat.dedup.restore_horizon(counters.horizon);
    (chat.retention.clock, chat.retention.hand) = (counters.clock, counters.hand);
    restore_rooms(chat)?;
    restore_retention(chat)?;
    restore_keys(chat)?;
    restore_presence(chat)?;
    restore_threads(chat)
}

/// Rooms have no gap, and history has what they say it has.
fn restore_rooms(chat: &mut Chat) -> Result<(), Malformed> {
    for id in 0..chat.limits.rooms {
        let Some(room) = tables::room(&chat.forest, id)? else {
            require(chat.forest.first(id) == 1)?;
            continue;
        };
        require(id == chat.rooms.len())?;
        require(is_room_name(room.name) && chat.rooms.find(room.tenant, room.name).is_none())?;
        let first = chat.forest.first(id);
        require(room.head < SEQ_MAX && first <= room.head + 1)?;
        require(room.head > 0 || room.chain == Digest::ZERO)?;
        // The anchor of the cut, the first message, the last.
        let ends = [first - 1, first.min(room.head), room.head];
        require(ends.into_iter().all(|seq| seq == 0 || holds(chat, id, seq)))?;
        chat.rooms.add(room.tenant, room.name, room.epoch);
        let restored = chat.rooms.get_mut(id);
        (restored.head, restored.chain) = (room.head, room.chain);
    }
    Ok(())
}

/// Rules and marks; of rooms that there are.
fn restore_retention(chat: &mut Chat) -> Result<(), Malformed> {
    let Limits { rooms, tenants, marks, .. } = chat.limits;
    for id in 0..chat.rooms.len() {
        chat.restore_retention(id)?;
    }
    for id in chat.rooms.len()..if marks == 0 { 0 } else { rooms } {
        require(chat.forest.slot(tables::RETENTION, id).iter().all(|byte| *byte == 0))?;
    }
    for slot in 0..tenants {
        let Some((tenant, policy)) = tables::tenant(&chat.forest, slot)? else { continue };
        // They have no gap.
        require(slot as usize == chat.retention.tenants.len())?;
        require(chat.retention.restore_tenant(tenant, policy))?;
    }
    Ok(())
}

/// Whether history has a place for this message: the index of it, which is in memory.
fn holds(chat: &Chat, room: u32, seq: u64) -> bool {
    let (view, key) = (chat.forest.view(), Key { room, seq });
    view.memory.iter().any(|table| table.get(key).is_some()) || view.tree.find(key).is_some()
}

/// Keys have no gap either: a slot is free until it is taken for the first time.
fn restore_keys(chat: &mut Chat) -> Result<(), Malformed> {
    for slot in 0..chat.limits.keys {
        if let Some(author) = tables::author(&chat.forest, slot)? {
            require(chat.dedup.restore_author(slot, author.tenant, author.name, author.horizon))?;
        }
    }
    for slot in 0..chat.limits.keys {
        let Some(used) = tables::used(&chat.forest, slot)? else { continue };
        require(slot == chat.dedup.len() && used.room.get() < chat.rooms.len())?;
        require((1..=chat.rooms.get(used.room.get()).head).contains(&used.seq.get()))?;
        require(chat.dedup.restore_used(used))?;
    }
    require(chat.dedup.finish_restore())
}

fn restore_presence(chat: &mut Chat) -> Result<(), Malformed> {
    for slot in 0..chat.limits.present {
        if let Some(person) = tables::person(&chat.forest, slot)? {
            require(person.room < chat.rooms.len())?;
            require(chat.presence.restore_person(slot, person.room, person.name))?;
        }
    }
    for slot in 0..chat.limits.present {
        if let Some((person, session)) = tables::stay(&chat.forest, slot)? {
            require(chat.presence.restore_stay(slot, person, session))?;
        }
    }
    require(chat.presence.is_restored())
}

/// A thread's lane has exactly the replies that its row speaks of.
fn restore_threads(chat: &mut Chat) -> Result<(), Malformed> {
    let limit = chat.limits.threads;
    for slot in 0..limit {
        let lane = chat.threads.lane(slot);
        let first = chat.forest.first(lane);
        require(first < SEQ_MAX && (first == 1 || holds(chat, lane, first - 1)))?;
        let Some(thread) = tables::thread(&chat.forest, slot)? else { continue };
        require(thread.room.get() < chat.rooms.len())?;
        require(thread.is_possible(chat.rooms.get(thread.room.get()).head))?;
        let last = thread.base.get() + thread.count.get();
        require((thread.base.get() + 1..=last).contains(&first))?;
        require([first, last].into_iter().all(|seq| holds(chat, lane, seq)))?;
        require(chat.threads.restore(slot, thread.room.get(), thread.parent.get(), &chat.forest))?;
    }
    require(limit == 0 || tables::hand(&chat.forest, limit)? < limit)
}

pub(super) fn require(holds: bool) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(Malformed) }
}
