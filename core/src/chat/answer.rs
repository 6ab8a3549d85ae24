//! Reads: pages of history and who is present, from what this replica has applied.
//!
//! The one law: **a page has no gap, and what it leaves out it says**: `more` when something follows,
//! `position_gone` with the first sequence that there is when retention removed what was asked for.

use alloc::vec::Vec;

use super::Chat;
use super::history as message;
use super::pages;
use super::rooms::RoomId;
use crate::errors::ErrorCode;
use crate::store::grid::block::BlockRef;
use crate::store::history::reader::{self, Blocks, Direction, Ended};
use crate::types::TenantId;
use crate::vsr::machine::{PutAnswer, Unanswered};
use crate::wire::chat::{ANSWER_HEAD, AnswerHead, Query, RoomEvent};
use crate::wire::codec::Malformed;
use crate::wire::retention::RETAINED;

/// Most blocks that one answer is made of: it ends early, with `more`, where the next one would be needed. They have
/// to be in memory all at once.
pub(super) const BLOCKS_MAX: u32 = 24;

/// An answer with a head and room for items behind it.
pub(super) struct Page<'a> {
    pub(super) answer: &'a mut dyn PutAnswer,
    /// Where the head stands in the answer.
    start: usize,
    pub(super) count: u32,
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

    /// Puts an event, or says that it does not fit.
    pub(super) fn put_event(&mut self, event: &RoomEvent<'_>) -> bool {
        let fits = self.answer.remaining() >= event.size();
        if fits {
            let mut out: &mut dyn PutAnswer = &mut *self.answer;
            event.encode(&mut out).expect("there is room");
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

    /// Of a thread, its first reply that is still there and its last.
    pub(super) fn of_thread(&mut self, ends: [u64; 2]) {
        let at = self.start + ANSWER_HEAD - 5 - 16;
        self.answer.patch(at, &ends[0].to_le_bytes());
        self.answer.patch(at + 8, &ends[1].to_le_bytes());
    }

    /// The same as [`Self::finish`], of a page that may go on at both ends.
    pub(super) fn finish_both(self, newer: bool, older: bool) {
        let end = self.start + ANSWER_HEAD;
        self.answer.patch(end - 5, &self.count.to_le_bytes());
        self.answer.patch(end - 1, &[AnswerHead::ends(newer, older)]);
    }
}

/// Blocks, but no more than so many.
struct Few<'a> {
    blocks: &'a mut dyn Blocks,
    left: u32,
    /// Those that were named as needed, the one that is not here among them.
    expected: u32,
    /// Another one was asked for.
    are_spent: bool,
}

impl Blocks for Few<'_> {
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        self.are_spent = self.left == 0;
        self.left = self.left.checked_sub(1)?;
        self.blocks.get(reference)
    }

    fn expect(&mut self, reference: &BlockRef) {
        if !self.are_spent && self.expected <= self.left {
            self.expected += 1;
            self.blocks.expect(reference);
        }
    }
}

pub(super) fn query(
    chat: &Chat,
    query: &[u8],
    blocks: &mut dyn Blocks,
    answer: &mut dyn PutAnswer,
) -> Result<(), Unanswered> {
    match Query::decode(query) {
        Err(_) => refuse(chat, ErrorCode::Malformed, None, answer),
        Ok(Query::History { tenant, room, from, limit }) => match chat.rooms.find(tenant, room) {
            None => refuse(chat, ErrorCode::RoomUnknown, None, answer),
            Some(id) => return history(chat, id, (from, limit), blocks, answer),
        },
        Ok(Query::Page(ref page)) => match chat.rooms.find(page.tenant, page.room) {
            None => refuse(chat, ErrorCode::RoomUnknown, None, answer),
            Some(id) => return pages::answer(chat, id, page, blocks, answer),
        },
        Ok(Query::Presence { tenant, room }) => match chat.rooms.find(tenant, room) {
            None => refuse(chat, ErrorCode::RoomUnknown, None, answer),
            Some(id) => presence(chat, id, answer),
        },
        Ok(Query::Retention { tenant, room: "" }) => retention(chat, tenant, None, answer),
        Ok(Query::Retention { tenant, room }) => match chat.rooms.find(tenant, room) {
            None => refuse(chat, ErrorCode::RoomUnknown, None, answer),
            Some(id) => retention(chat, tenant, Some(id), answer),
        },
    }
    Ok(())
}

fn history(
    chat: &Chat,
    id: RoomId,
    (from, limit): (u64, u32),
    blocks: &mut dyn Blocks,
    answer: &mut dyn PutAnswer,
) -> Result<(), Unanswered> {
    let (first, head) = (chat.first(id), chat.rooms.get(id).head);
    let refused = match from {
        0 => None,
        gone if gone < first => Some(ErrorCode::PositionGone),
        ahead if ahead > head + 1 => Some(ErrorCode::PositionAhead),
        _ => None,
    };
    if let Some(error) = refused {
        refuse(chat, error, Some(id), answer);
        return Ok(());
    }
    let from = if from == 0 { (head + 1).saturating_sub(u64::from(limit)).max(first) } else { from };
    let Some(mut page) = begin(chat, None, Some(id), answer) else { return Ok(()) };
    let mut messages = reader::Page::new(id, from, Direction::Up, limit, first, head);
    let mut few = Few { blocks, left: BLOCKS_MAX, expected: 0, are_spent: false };
    let (mut next, mut is_whole) = (from, Ok(()));
    let ended = messages.go_on(&chat.forest.view(), &mut few, &mut |record| {
        match message::event(&chat.rooms, record) {
            Ok(event) if page.put_event(&RoomEvent::Message(event)) => next = record.seq + 1,
            Ok(_) => return false,
            Err(Malformed) => {
                is_whole = Err(Malformed);
                return false;
            }
        }
        true
    })?;
    is_whole?;
    match ended {
        // The first block has at least one message, so the page has too.
        Ended::Needs(_) if few.are_spent => {}
        Ended::Needs(reference) => return Err(Unanswered::Needs(reference)),
        Ended::Done => {}
    }
    page.finish(next <= head);
    Ok(())
}

/// Sorting takes memory for the time of the answer: reads are not on the way of a commit.
fn presence(chat: &Chat, id: RoomId, answer: &mut dyn PutAnswer) {
    let Some(mut page) = begin(chat, None, Some(id), answer) else { return };
    let names = sorted(chat, id);
    let written = names.iter().take_while(|name| {
        let len = u8::try_from(name.len()).expect("names are short");
        page.put([&[len], name.as_bytes()])
    });
    let more = written.count() < names.len();
    page.finish(more);
}

fn retention(chat: &Chat, tenant: TenantId, id: Option<RoomId>, answer: &mut dyn PutAnswer) {
    let Some(mut page) = begin(chat, None, id, answer) else { return };
    let mut bytes = Vec::with_capacity(RETAINED);
    chat.retained(tenant, id).encode(&mut bytes).expect("a Vec is never full");
    page.put([&bytes, &[]]);
    page.finish(false);
}

/// Users present in a room, in order of their names.
pub(super) fn sorted(chat: &Chat, id: RoomId) -> Vec<&str> {
    let mut names: Vec<_> = chat.presence.in_room(id).collect();
    names.sort_unstable();
    names
}

fn refuse(chat: &Chat, error: ErrorCode, room: Option<RoomId>, answer: &mut dyn PutAnswer) {
    if let Some(page) = begin(chat, Some(error), room, answer) {
        page.finish(false);
    }
}

/// Writes the head; `None` when the answer has no room even for that.
pub(super) fn begin<'a>(
    chat: &Chat,
    error: Option<ErrorCode>,
    room: Option<RoomId>,
    answer: &'a mut dyn PutAnswer,
) -> Option<Page<'a>> {
    let start = answer.len();
    let mut head = AnswerHead::bare(error);
    if let Some(id) = room {
        let room = chat.rooms.get(id);
        (head.epoch, head.head, head.chain) = (room.epoch, room.head, room.chain);
        head.first = chat.first(id);
    }
    if answer.remaining() < ANSWER_HEAD {
        return None;
    }
    let mut out: &mut dyn PutAnswer = &mut *answer;
    head.encode(&mut out).expect("there is room");
    Some(Page { answer, start, count: 0 })
}
