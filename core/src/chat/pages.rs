//! Pages that somebody asks for: of a room or of a thread, from any position or time, towards newer or older ones.
//!
//! The one law: **a page is one piece without a gap, and says whether there is more at either end.** It is made of at
//! most [`BLOCKS_MAX`] blocks that are not in memory; where one more would be needed it ends early, and so it does where
//! the answer has no room. One message it always has, if there is one.
//!
//! Blocks by what they are read for:
//!
//! | | blocks at most |
//! |---|---|
//! | where a time falls, once for each time that was given | 3 |
//! | where a thread begins whose parent retention has removed | 4 |
//! | entries of a thread's lane | one more than they fill, for each part of history that the page crosses |
//! | messages of a room | the same |
//! | messages of a thread | one for each |

use alloc::vec::Vec;

use super::Chat;
use super::answer::{BLOCKS_MAX, Page, begin};
use super::history as message;
use super::rooms::RoomId;
use super::threads;
use crate::errors::ErrorCode;
use crate::store::grid::block::BlockRef;
use crate::store::history::reader::{self, Blocks, Direction, Ended, Seek, Sought};
use crate::store::history::record::Record;
use crate::vsr::machine::{PutAnswer, Unanswered};
use crate::wire::chat::RoomEvent;
use crate::wire::codec::Malformed;
use crate::wire::page::{PageQuery, Span};

/// Most replies that a page of a thread looks up.
const REPLIES_MAX: u32 = 256;

/// Blocks, but no more than so many different ones.
struct Few<'a> {
    blocks: &'a mut dyn Blocks,
    seen: Vec<BlockRef>,
    most: usize,
    /// Others that were named so far as needed later.
    expected: usize,
    /// Another one was asked for.
    are_spent: bool,
}

impl Blocks for Few<'_> {
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        let is_known = self.seen.contains(reference);
        self.are_spent = !is_known && self.seen.len() >= self.most;
        if self.are_spent {
            return None;
        }
        if !is_known {
            self.seen.push(*reference);
        }
        self.blocks.get(reference)
    }

    fn expect(&mut self, reference: &BlockRef) {
        let is_known = self.seen.contains(reference);
        if is_known || !self.are_spent && self.seen.len() + self.expected < self.most {
            self.expected += usize::from(!is_known);
            self.blocks.expect(reference);
        }
    }
}

/// What is read: the messages of a room, or of them those that answer one, by numbers from `first` to `last`.
struct Line {
    room: RoomId,
    /// The lane, and the number there before the first reply.
    lane: Option<(u32, u64)>,
    is_thread: bool,
    first: u64,
    last: u64,
}

/// What of it a page is to have: so many from a place on, so many before it; the place is what lies between two messages,
/// named by the second.
struct Wish {
    at: u64,
    newer: u32,
    older: u32,
    /// Nothing from here on.
    until: u64,
}

/// What a page got: messages from `low` to `high`; none if `high` is the one before.
struct Got {
    low: u64,
    high: u64,
}

type Refused<T> = Result<Result<T, ErrorCode>, Unanswered>;

pub(super) fn answer(
    chat: &Chat,
    id: RoomId,
    query: &PageQuery<'_>,
    blocks: &mut dyn Blocks,
    answer: &mut dyn PutAnswer,
) -> Result<(), Unanswered> {
    let mut few = Few { blocks, seen: Vec::new(), most: BLOCKS_MAX as usize, expected: 0, are_spent: false };
    let line = match Line::of(chat, id, query.thread, &mut few)? {
        Ok(line) => line,
        Err(error) => {
            if let Some(page) = begin(chat, Some(error), Some(id), answer) {
                page.finish_both(false, false);
            }
            return Ok(());
        }
    };
    let wish = line.wish(chat, query, &mut few)?;
    let Some(mut page) = begin(chat, wish.as_ref().err().copied(), Some(id), answer) else { return Ok(()) };
    if line.is_thread {
        page.of_thread([line.first, line.last]);
    }
    let Ok(wish) = wish else {
        page.finish_both(false, false);
        return Ok(());
    };
    let got = line.take(chat, &wish, &mut few, &mut page)?;
    page.finish_both(got.high < line.last.min(wish.until - 1), got.low > line.first);
    Ok(())
}

impl Line {
    fn of(chat: &Chat, id: RoomId, parent: u64, few: &mut Few<'_>) -> Refused<Self> {
        let (first, head) = (chat.first(id), chat.rooms.get(id).head);
        if parent == 0 {
            return Ok(Ok(Self { room: id, lane: None, is_thread: false, first, last: head }));
        }
        if parent > head {
            return Ok(Err(ErrorCode::ParentUnknown));
        }
        let found = chat.threads.find(&chat.forest, id, parent);
        // What retention has wholly removed may still have a row.
        let Some((slot, row)) = found.filter(|(_, row)| row.last.get() >= first) else {
            let nothing = Self { room: id, lane: None, is_thread: true, first: 1, last: 0 };
            return Ok(if parent < first { Err(ErrorCode::PositionGone) } else { Ok(nothing) });
        };
        let (lane, base) = (chat.threads.lane(slot), row.base.get());
        let begins = chat.forest.first(lane) - base;
        let lane = Some((lane, base));
        let mut line = Self { room: id, lane, is_thread: true, first: begins, last: row.count.get() };
        if parent < first {
            // Some of the replies are gone: the thread begins where the room does.
            let since = time_of(chat, id, first, few)?;
            line.first = line.seek(chat, since, few)?;
        }
        Ok(Ok(line))
    }

    /// The first number that was said at `time` or later.
    fn seek(&self, chat: &Chat, time: u64, few: &mut Few<'_>) -> Result<u64, Unanswered> {
        if self.is_thread && self.lane.is_none() {
            return Ok(self.first);
        }
        let (room, base) = self.lane.unwrap_or((self.room, 0));
        let mut seek = Seek::new(room, time, base + self.first, base + self.last);
        match seek.look(&chat.forest.view(), few)? {
            Sought::Seq(seq) => Ok(seq - base),
            Sought::Needs(reference) => Err(Unanswered::Needs(reference)),
        }
    }

    fn wish(&self, chat: &Chat, query: &PageQuery<'_>, few: &mut Few<'_>) -> Refused<Wish> {
        let (limit, end) = (query.limit, self.last + 1);
        let (at, newer, older) = match query.span {
            Span::Newest => (end, 0, limit),
            Span::From(at) => (at, limit, 0),
            Span::Before(at) => (at, 0, limit),
            Span::Around(at) => (at, limit - limit / 2, limit / 2),
            Span::Since { since, .. } => (self.seek(chat, since, few)?, limit, 0),
            Span::Until(until) => (self.seek(chat, until, few)?, 0, limit),
        };
        let until = match query.span {
            Span::Since { until: Some(until), .. } => self.seek(chat, until, few)?,
            _ => end,
        };
        let highest = if matches!(query.span, Span::Around(_)) { self.last } else { end };
        if at < self.first {
            return Ok(Err(ErrorCode::PositionGone));
        }
        if at > highest {
            return Ok(Err(ErrorCode::PositionAhead));
        }
        Ok(Ok(Wish { at, newer, older, until: until.max(at) }))
    }

    /// Puts the wished-for into the answer: newer ones upwards, then older ones downwards.
    fn take(
        &self,
        chat: &Chat,
        wish: &Wish,
        few: &mut Few<'_>,
        page: &mut Page<'_>,
    ) -> Result<Got, Unanswered> {
        let Wish { at, newer, older, until } = *wish;
        // Where both are wanted, neither takes all that there is of blocks and bytes.
        let kept = if newer > 0 && older > 0 { few.left() / 2 } else { 0 };
        let room = if kept > 0 { page.answer.remaining() / 2 } else { 0 };
        few.most -= kept;
        let up = self.go(chat, (at, Direction::Up), (newer, until), few, (page, room));
        few.most += kept;
        if let (Err(Unanswered::Needs(_)), false) = (&up, self.is_thread) {
            // It goes the other way afterwards: that needs no messages to be known.
            let (first, last) = (self.first, until - 1);
            let down = reader::Page::new(self.room, at - 1, Direction::Down, older, first, last);
            down.expect(&chat.forest.view(), few);
        }
        let up = up?;
        let down = self.go(chat, (at - 1, Direction::Down), (older, until), few, (page, 0))?;
        Ok(Got { low: at - down, high: at + up - 1 })
    }

    /// Puts up to `limit` messages from one on; how many it were.
    fn go(
        &self,
        chat: &Chat,
        (from, direction): (u64, Direction),
        (limit, until): (u32, u64),
        few: &mut Few<'_>,
        (page, room): (&mut Page<'_>, usize),
    ) -> Result<u64, Unanswered> {
        let mut count = 0;
        if !self.is_thread {
            let mut put = |record: &Record<'_>| {
                let is_put = put(chat, record, page, room)?;
                count += u64::from(is_put);
                Ok(is_put)
            };
            let pages = reader::Page::new(self.room, from, direction, limit, self.first, until - 1);
            self.read(chat, pages, few, &mut put)?;
            return Ok(count);
        }
        let (first, head) = (chat.first(self.room), chat.rooms.get(self.room).head);
        let replies = self.replies(chat, (from, direction), (limit, until), few)?;
        for (nth, seq) in replies.iter().copied().enumerate() {
            let mut is_put = false;
            let mut put = |record: &Record<'_>| {
                is_put = put(chat, record, page, room)?;
                Ok(is_put)
            };
            let message = |seq| reader::Page::new(self.room, seq, Direction::Up, 1, first, head);
            if let Err(why) = self.read(chat, message(seq), few, &mut put) {
                // Where the others lie is known too.
                let view = chat.forest.view();
                replies[nth + 1..].iter().for_each(|seq| message(*seq).expect(&view, few));
                return Err(why);
            }
            if !is_put {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// Sequences of the replies that a page of a thread is to have.
    fn replies(
        &self,
        chat: &Chat,
        (from, direction): (u64, Direction),
        (limit, until): (u32, u64),
        few: &mut Few<'_>,
    ) -> Result<Vec<u64>, Unanswered> {
        let mut seqs = Vec::new();
        let Some((lane, base)) = self.lane else { return Ok(seqs) };
        let limit = limit.min(REPLIES_MAX);
        let (first, last) = (base + self.first, base + until - 1);
        let entries = reader::Page::new(lane, base + from, direction, limit, first, last);
        self.read(chat, entries, few, &mut |record| {
            seqs.push(threads::named(record)?);
            Ok(true)
        })?;
        Ok(seqs)
    }

    /// Shows records to `sink` until it has enough, or blocks may not be read any more.
    fn read(
        &self,
        chat: &Chat,
        mut page: reader::Page,
        few: &mut Few<'_>,
        sink: &mut dyn FnMut(&Record<'_>) -> Result<bool, Malformed>,
    ) -> Result<(), Unanswered> {
        let mut is_whole = Ok(());
        let ended = page.go_on(&chat.forest.view(), few, &mut |record| match sink(record) {
            Ok(more) => more,
            Err(Malformed) => {
                is_whole = Err(Malformed);
                false
            }
        })?;
        is_whole?;
        match ended {
            Ended::Needs(reference) if !few.are_spent => Err(Unanswered::Needs(reference)),
            Ended::Needs(_) | Ended::Done => Ok(()),
        }
    }
}

impl Few<'_> {
    fn left(&self) -> usize {
        self.most - self.seen.len()
    }
}

/// Puts a message into the answer if that leaves so much room for others, or it is the first.
fn put(chat: &Chat, record: &Record<'_>, page: &mut Page<'_>, room: usize) -> Result<bool, Malformed> {
    let mut event = message::event(&chat.rooms, record)?;
    if let Some((_, thread)) = chat.threads.find(&chat.forest, record.room, record.seq) {
        (event.thread.replies, event.thread.last_reply) = (thread.count.get(), thread.last.get());
    }
    let leaves_room = page.count == 0 || page.answer.remaining() >= room + event.size();
    Ok(leaves_room && page.put_event(&RoomEvent::Message(event)))
}

/// When a message was said.
fn time_of(chat: &Chat, room: RoomId, seq: u64, few: &mut Few<'_>) -> Result<u64, Unanswered> {
    let mut time = None;
    let mut page = reader::Page::new(room, seq, Direction::Up, 1, seq, seq);
    let ended = page.go_on(&chat.forest.view(), few, &mut |record| {
        time = Some(record.time);
        true
    })?;
    match ended {
        Ended::Needs(reference) => Err(Unanswered::Needs(reference)),
        Ended::Done => time.ok_or(Unanswered::Malformed),
    }
}
