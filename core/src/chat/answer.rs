//! Reads: pages of history and who is present, from what this replica has applied.
//!
//! The one law: **a page has no gap, and what it leaves out it says**: `more` when something follows,
//! `position_gone` with the first sequence that there is when retention removed what was asked for.

use alloc::vec::Vec;

use super::Chat;
use super::rooms::{Room, RoomId};
use crate::errors::ErrorCode;
use crate::vsr::machine::PutAnswer;
use crate::wire::chat::{ANSWER_HEAD, AnswerHead, Query};
use crate::wire::entry::Digest;

/// An answer with a head and room for items behind it.
struct Page<'a> {
    answer: &'a mut dyn PutAnswer,
    /// Where the head stands in the answer.
    start: usize,
    count: u32,
}

impl Page<'_> {
    /// Puts an item, or says that it does not fit.
    fn put(&mut self, parts: [&[u8]; 2]) -> bool {
        let fits = self.answer.remaining() >= parts[0].len() + parts[1].len();
        if fits {
            for part in parts {
                self.answer.put(part).expect("there is room");
            }
            self.count += 1;
        }
        fits
    }

    /// Fills in what the head could not know yet.
    fn finish(self, more: bool) {
        let end = self.start + ANSWER_HEAD;
        self.answer.patch(end - 5, &self.count.to_le_bytes());
        self.answer.patch(end - 1, &[u8::from(more)]);
    }
}

pub(super) fn query(chat: &Chat, query: &[u8], answer: &mut dyn PutAnswer) {
    match Query::decode(query) {
        Err(_) => refuse(ErrorCode::Malformed, None, answer),
        Ok(Query::History { tenant, room, from, limit }) => match chat.rooms.find(tenant, room) {
            None => refuse(ErrorCode::RoomUnknown, None, answer),
            Some(id) => history(chat, id, from, limit, answer),
        },
        Ok(Query::Presence { tenant, room }) => match chat.rooms.find(tenant, room) {
            None => refuse(ErrorCode::RoomUnknown, None, answer),
            Some(id) => presence(chat, id, answer),
        },
    }
}

fn history(chat: &Chat, id: RoomId, from: u64, limit: u32, answer: &mut dyn PutAnswer) {
    let room = chat.rooms.get(id);
    let from = match from {
        0 => (room.head + 1).saturating_sub(u64::from(limit)).max(room.first),
        gone if gone < room.first => return refuse(ErrorCode::PositionGone, Some(room), answer),
        ahead if ahead > room.head + 1 => return refuse(ErrorCode::PositionAhead, Some(room), answer),
        from => from,
    };
    let Some(mut page) = begin(None, Some(room), answer) else { return };
    let end = from.saturating_add(u64::from(limit)).min(room.head + 1);
    let mut next = from;
    while next < end {
        let record = chat.history.get(id, next).expect("history holds first to head");
        if !page.put([record, &[]]) {
            break;
        }
        next += 1;
    }
    page.finish(next <= room.head);
}

/// Sorting takes memory for the time of the answer: reads are not on the way of a commit.
fn presence(chat: &Chat, id: RoomId, answer: &mut dyn PutAnswer) {
    let Some(mut page) = begin(None, Some(chat.rooms.get(id)), answer) else { return };
    let names = sorted(chat, id);
    let written = names.iter().take_while(|name| {
        let len = u8::try_from(name.len()).expect("names are short");
        page.put([&[len], name.as_bytes()])
    });
    let more = written.count() < names.len();
    page.finish(more);
}

/// Users present in a room, in order of their names.
pub(super) fn sorted(chat: &Chat, id: RoomId) -> Vec<&str> {
    let mut names: Vec<_> = chat.presence.in_room(id).collect();
    names.sort_unstable();
    names
}

fn refuse(error: ErrorCode, room: Option<&Room>, answer: &mut dyn PutAnswer) {
    if let Some(page) = begin(Some(error), room, answer) {
        page.finish(false);
    }
}

/// Writes the head; `None` when the answer has no room even for that.
fn begin<'a>(
    error: Option<ErrorCode>,
    room: Option<&Room>,
    answer: &'a mut dyn PutAnswer,
) -> Option<Page<'a>> {
    let start = answer.len();
    let mut head =
        AnswerHead { error, epoch: 0, first: 0, head: 0, chain: Digest::ZERO, count: 0, more: false };
    if let Some(room) = room {
        (head.epoch, head.first, head.head, head.chain) = (room.epoch, room.first, room.head, room.chain);
    }
    if answer.remaining() < ANSWER_HEAD {
        return None;
    }
    let mut out: &mut dyn PutAnswer = &mut *answer;
    head.encode(&mut out).expect("there is room");
    Some(Page { answer, start, count: 0 })
}
