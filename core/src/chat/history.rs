//! Messages as history keeps them, and back. Layout: `docs/formats.md`, "Chat state".
//!
//! The one law: **what comes back is what was said, or it is no message of ours.** Records come from a disk: what is
//! in them is checked. Of a message whose content was erased everything else is there, with an empty body and a zero
//! salt.

use alloc::vec::Vec;

use super::limits::Limits;
use super::rooms::{RoomId, Rooms};
use crate::store::history::record::{RECORD_HEAD, Record, State};
use crate::wire::chat::{CONTENT_TYPE_MAX, Key, MessageEvent, Thread, USER_NAME_MAX};
use crate::wire::codec::{Malformed, Reader};
use crate::wire::entry::Digest;

/// Bytes of the largest meta: op, index, key, kind, author, content type, and of a reply its number.
const META_MAX: usize = 8 + 4 + 16 + 1 + 1 + USER_NAME_MAX + 1 + CONTENT_TYPE_MAX + 8;
const SALT: usize = 16;

/// Bytes of the largest record.
pub(super) fn record_max(limits: &Limits) -> u32 {
    ((RECORD_HEAD + META_MAX + SALT) as u32).saturating_add(limits.body_max)
}

/// Where records are put together: memory that is taken once.
pub(super) struct Scratch {
    meta: Vec<u8>,
    content: Vec<u8>,
}

impl Scratch {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            meta: Vec::with_capacity(META_MAX),
            content: Vec::with_capacity(SALT + limits.body_max as usize),
        }
    }

    /// A message as history keeps it.
    pub(super) fn record(&mut self, room: RoomId, message: &MessageEvent<'_>) -> Record<'_> {
        let Self { meta, content } = self;
        meta.clear();
        meta.extend_from_slice(&message.op.to_le_bytes());
        meta.extend_from_slice(&message.index.to_le_bytes());
        meta.extend_from_slice(&message.key.0);
        meta.push(message.kind);
        for text in [message.author, message.content_type] {
            meta.push(u8::try_from(text.len()).expect("names are short"));
            meta.extend_from_slice(text.as_bytes());
        }
        if message.thread.seq > 0 {
            meta.extend_from_slice(&message.thread.seq.to_le_bytes());
        }
        content.clear();
        content.extend_from_slice(&message.salt);
        content.extend_from_slice(message.body);
        Record {
            room,
            seq: message.seq,
            time: message.time,
            parent: message.parent,
            chain: message.chain,
            state: State::Whole,
            meta,
            content,
        }
    }
}

/// The message that a record holds.
pub(super) fn event<'a>(rooms: &'a Rooms, record: &Record<'a>) -> Result<MessageEvent<'a>, Malformed> {
    let mut meta = Reader::new(record.meta);
    let (op, index, key, kind) = (meta.u64()?, meta.u32()?, Key(meta.array()?), meta.u8()?);
    let (author, content_type) = (meta.short_str()?, meta.short_str()?);
    // Before there were threads a message could have a parent and no number.
    let thread_seq = if record.parent == 0 || meta.is_empty() { 0 } else { meta.u64()? };
    meta.finish()?;
    let (salt, body, erased) = match record.state {
        State::Whole => {
            let (salt, body) = record.content.split_first_chunk::<SALT>().ok_or(Malformed)?;
            (*salt, body, None)
        }
        State::Erased => {
            let digest = record.content.try_into().map_err(|_| Malformed)?;
            ([0; SALT], &[][..], Some(Digest(digest)))
        }
        State::Anchor => return Err(Malformed),
    };
    let room = rooms.get(record.room);
    Ok(MessageEvent {
        tenant: room.tenant,
        room: rooms.name(record.room),
        epoch: room.epoch,
        seq: record.seq,
        op,
        index,
        time: record.time,
        author,
        key,
        kind,
        parent: record.parent,
        chain: record.chain,
        salt,
        content_type,
        body,
        thread: Thread { seq: thread_seq, ..Thread::default() },
        erased,
    })
}
