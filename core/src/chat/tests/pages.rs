//! Pages against lists: whatever is asked for, in a history that lies in memory, in runs and in merges.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::disk::Disk;
use super::*;
use crate::vsr::machine::Unanswered;
use crate::wire::page::{PageQuery, Span};

/// Blocks that are counted, each once.
struct Counted<'a> {
    disk: &'a mut Disk,
    seen: Vec<BlockRef>,
}

impl Blocks for Counted<'_> {
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        if !self.seen.contains(reference) {
            self.seen.push(*reference);
        }
        self.disk.get(reference)
    }
}

/// Blocks of which some are here, and those that a reader names.
struct Fetched<'a> {
    disk: &'a mut Disk,
    here: BTreeSet<BlockRef>,
    named: Vec<BlockRef>,
    /// Those of the ones here that were looked at.
    used: BTreeSet<BlockRef>,
}

impl Blocks for Fetched<'_> {
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        let is_here = self.here.contains(reference);
        self.used.extend(is_here.then_some(*reference));
        if is_here { self.disk.get(reference) } else { None }
    }

    fn expect(&mut self, reference: &BlockRef) {
        self.named.push(*reference);
    }
}

/// Asks again and again, each time with what was named the last time: how often blocks were waited for, how many were
/// fetched, and how many of these were needed.
fn fetch_page(chat: &Chat, query: PageQuery<'_>, bytes: usize, disk: &mut Disk) -> (usize, usize, usize) {
    let mut encoded = Vec::new();
    Query::Page(query).encode(&mut encoded).unwrap();
    let pool = crate::pool::Pool::new(&[crate::pool::Class { size: bytes, count: 1 }]);
    let mut blocks = Fetched { disk, here: BTreeSet::new(), named: Vec::new(), used: BTreeSet::new() };
    for waits in 0.. {
        let mut answer = pool.draft(bytes).unwrap();
        blocks.used.clear();
        match chat.query(&encoded, &mut blocks, &mut answer) {
            Ok(()) => return (waits, blocks.here.len(), blocks.used.len()),
            Err(Unanswered::Needs(reference)) => {
                assert!(blocks.named.len() <= 24, "bounded: {}", blocks.named.len());
                blocks.here.insert(reference);
                blocks.here.extend(blocks.named.drain(..));
            }
            Err(Unanswered::Malformed) => panic!("what is referenced is ours"),
        }
    }
    unreachable!("an answer comes")
}

/// A page as it came.
struct Asked {
    head: AnswerHead,
    /// Number in the thread (zero: none) and sequence, ascending by the latter.
    messages: Vec<(u64, u64)>,
    /// Replies and the last of them, of those that have any.
    replied: Vec<(u64, u64, u64)>,
    blocks: usize,
}

fn ask_page(chat: &Chat, query: PageQuery<'_>, bytes: usize, disk: &mut Disk) -> Asked {
    let mut encoded = Vec::new();
    Query::Page(query).encode(&mut encoded).unwrap();
    let pool = crate::pool::Pool::new(&[crate::pool::Class { size: bytes, count: 1 }]);
    let mut answer = pool.draft(bytes).unwrap();
    let mut blocks = Counted { disk, seen: Vec::new() };
    chat.query(&encoded, &mut blocks, &mut answer).expect("all blocks are here");
    let blocks = blocks.seen.len();
    let mut reader = Reader::new(answer.bytes());
    let head = AnswerHead::decode(&mut reader).unwrap();
    let (mut messages, mut replied) = (Vec::new(), Vec::new());
    for _ in 0..head.count {
        let Ok(RoomEvent::Message(message)) = RoomEvent::decode(&mut reader) else { panic!("a message") };
        let Thread { seq, replies, last_reply } = message.thread;
        messages.push((seq, message.seq));
        if replies > 0 {
            replied.push((message.seq, replies, last_reply));
        }
    }
    assert!(reader.is_empty());
    messages.sort_unstable_by_key(|(_, seq)| *seq);
    replied.sort_unstable();
    Asked { head, messages, replied, blocks }
}

/// All of a thread that is left: numbers and sequences.
pub(super) fn ask_thread(
    chat: &Chat,
    tenant: TenantId,
    room: &str,
    parent: u64,
    disk: &mut Disk,
) -> Result<Vec<(u64, u64)>, ErrorCode> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    loop {
        let span = all.last().map_or(Span::Newest, |_| Span::Before(all[0].0));
        let query = PageQuery { tenant, room, thread: parent, span, limit: 5 };
        let page = ask_page(chat, query, 1 << 16, disk);
        if let Some(error) = page.head.error {
            return Err(error);
        }
        all.splice(0..0, page.messages);
        if !page.head.older {
            assert_eq!(page.head.thread, [all[0].0, all.last().unwrap().0]);
            return Ok(all);
        }
    }
}

/// Position, number in the thread, sequence, time.
type Placed = (u64, u64, u64, u64);

/// What was said: parent, number among its replies, time.
#[derive(Debug, Default)]
struct Told {
    said: Vec<(u64, u64, u64)>,
    kept: u64,
}

impl Told {
    fn first(&self) -> u64 {
        let head = self.said.len() as u64;
        if self.kept == 0 { 1 } else { head.saturating_sub(self.kept) + 1 }
    }

    /// What a line holds: position, number, sequence, time.
    fn line(&self, thread: u64) -> Vec<Placed> {
        let all = (1..).zip(&self.said).filter(|(seq, _)| *seq >= self.first());
        let of = all.filter(|(_, (parent, ..))| thread == 0 || *parent == thread);
        of.map(|(seq, (_, number, time))| (if thread == 0 { seq } else { *number }, *number, seq, *time))
            .collect()
    }

    /// Replies to a message and the last of them, those that are gone included.
    fn replies(&self, parent: u64) -> (u64, u64) {
        let of = (1..).zip(&self.said).filter(|(_, (of, ..))| *of == parent);
        of.fold((0, 0), |(count, _), (seq, _)| (count + 1, seq))
    }

    /// What a page must be: its messages if nothing bounds it but its limit, or an error.
    fn page(&self, thread: u64, span: Span, limit: usize) -> Result<Page, ErrorCode> {
        let (line, head) = (self.line(thread), self.said.len() as u64);
        if thread > head {
            return Err(ErrorCode::ParentUnknown);
        }
        if thread > 0 && thread < self.first() && line.is_empty() {
            return Err(ErrorCode::PositionGone);
        }
        let end = if thread == 0 { head } else { self.replies(thread).0 } + 1;
        let first = line.first().map_or(end, |it| it.0);
        if let Span::From(at) | Span::Before(at) | Span::Around(at) = span {
            if at < first {
                return Err(ErrorCode::PositionGone);
            }
            if at > end || (at == end && matches!(span, Span::Around(_))) {
                return Err(ErrorCode::PositionAhead);
            }
        }
        let before = |is: &dyn Fn(&Placed) -> bool| line.iter().take_while(|it| is(it)).count();
        let (at, newer, older) = match span {
            Span::Newest => (line.len(), 0, limit),
            Span::From(at) => (before(&|it| it.0 < at), limit, 0),
            Span::Before(at) => (before(&|it| it.0 < at), 0, limit),
            Span::Around(at) => (before(&|it| it.0 < at), limit - limit / 2, limit / 2),
            Span::Since { since, .. } => (before(&|it| it.3 < since), limit, 0),
            Span::Until(until) => (before(&|it| it.3 < until), 0, limit),
        };
        let until = match span {
            Span::Since { until: Some(until), .. } => before(&|it| it.3 < until).max(at),
            _ => line.len(),
        };
        let messages = line.iter().map(|it| (it.1, it.2)).collect();
        Ok(Page { line: messages, at, low: at.saturating_sub(older), high: (at + newer).min(until), until })
    }
}

/// A piece of a line: all of it, where it was asked for, and what of it was wished for.
struct Page {
    line: Vec<(u64, u64)>,
    at: usize,
    low: usize,
    high: usize,
    until: usize,
}

impl Page {
    /// Whether a page is a piece of the wished-for that holds its place, and says of both ends what is true.
    fn agrees(&self, asked: &Asked) -> bool {
        let got = &asked.messages;
        let low = match got.first() {
            Some(first) => self.line.iter().position(|it| it == first).unwrap(),
            None => self.at,
        };
        let high = low + got.len();
        self.line[low..high] == got[..]
            && (self.low..=self.at).contains(&low)
            && (self.at..=self.high).contains(&high)
            && (got.is_empty() == (self.low == self.high))
            && (asked.head.older, asked.head.more) == (low > 0, high < self.until)
    }
}

/// Says messages in two rooms that share the blocks; each is `(parent, back, restart)`.
fn told(kept: u64, script: &[(u64, bool, u8)]) -> (World, Told) {
    let mut world = World::new(Limits { room_messages: kept as u32, ..Limits::tiny() });
    world.open("r");
    world.open("other");
    let mut told = Told { kept, ..Told::default() };
    for (number, (back, other, restart)) in script.iter().enumerate() {
        let head = told.said.len() as u64;
        let room = if *other { "other" } else { "r" };
        // A parent that is there, one of few.
        let parent = if *back == 0 || head == 0 || *other {
            0
        } else {
            (head / 8 * 8 + 1).saturating_sub((back - 1) * 8).max(told.first()).min(head)
        };
        let key = Key::new(NOW_MS, [number as u8, (number >> 8) as u8, 0, 0, 0, 0, 0, 0, 0, 0]);
        let outcome = world.one(publish(Publish { room, parent, ..message(key, &[7; 300]) }));
        assert_eq!(outcome.error, None);
        if !*other {
            let of = if parent == 0 { 0 } else { told.replies(parent).0 + 1 };
            told.said.push((parent, of, outcome.time));
        }
        if *restart == 0 {
            world.restart();
        }
    }
    (world, told)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_page_is_what_was_asked_for_and_is_made_of_few_blocks(
        kept in prop_oneof![Just(0u64), Just(30), 3u64..60],
        script in prop::collection::vec((0u64..4, prop::bool::weighted(0.3), 0u8..12), 1..260),
        asked in prop::collection::vec((0u64..7, any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1usize..30), 40),
        small in 700usize..3000,
    ) {
        let (mut world, told) = told(kept, &script);
        let head = told.said.len() as u64;
        for (kind, one, other, limit) in asked {
            let thread = if limit % 2 == 0 { 0 } else { other.index(head as usize + 2) as u64 };
            let at = one.index(if thread == 0 { head as usize + 3 } else { 12 }) as u64;
            let time = |index: &prop::sample::Index| {
                NOW_MS * 1_000_000 + index.index(world.op as usize + 3) as u64 * SECOND + u64::from(limit % 3 == 0)
            };
            let (since, until) = (time(&one), time(&other));
            let span = match kind {
                0 => Span::Newest,
                1 => Span::From(at),
                2 => Span::Before(at),
                3 => Span::Around(at),
                4 => Span::Since { since, until: None },
                5 => Span::Since { since, until: Some(until) },
                _ => Span::Until(until),
            };
            let query = PageQuery { tenant: TENANT, room: "r", thread, span, limit: limit as u32 };
            let expected = told.page(thread, span, limit);
            for bytes in [1 << 20, small] {
                let asked = ask_page(&world.chat, query, bytes, &mut world.disk);
                match &expected {
                    Err(error) => prop_assert_eq!(asked.head.error, Some(*error), "{:?}", query),
                    Ok(page) => {
                        prop_assert_eq!(asked.head.error, None, "{:?}", query);
                        prop_assert!(page.agrees(&asked), "{:?}: {:?} {:?}", query, asked.head, asked.messages);
                        // It is whole unless bytes or blocks ran out.
                        let is_whole = asked.messages.len() == page.high - page.low;
                        prop_assert!(is_whole || bytes == small || asked.blocks >= 20, "{:?}", query);
                        for (seq, replies, last) in asked.replied {
                            prop_assert_eq!((replies, last), told.replies(seq));
                        }
                    }
                }
                prop_assert!(asked.blocks <= 24, "{} blocks for {:?}", asked.blocks, query);
                // Blocks are waited for together: once for messages, and once for entries of a lane, each way; only
                // where a time falls is found block by block.
                let (waits, fetched, used) = fetch_page(&world.chat, query, bytes, &mut world.disk);
                let times = match span {
                    Span::Since { until: Some(_), .. } => 2,
                    Span::Since { .. } | Span::Until(_) => 1,
                    _ => 0,
                };
                let most = 3 * times + if thread == 0 { 1 } else { 4 + 4 };
                prop_assert!(waits <= most, "{} waits for {:?}", waits, query);
                let is_cut = bytes == small || asked.blocks >= 20;
                prop_assert!(is_cut || fetched == used, "{} of {} for {:?}", used, fetched, query);
            }
        }
    }
}

#[test]
fn a_page_of_a_room_takes_one_block_more_than_it_fills_for_each_part_and_three_for_each_time() {
    let script: Vec<(u64, bool, u8)> = (0..400).map(|at| (0, false, u8::from(at % 40 != 39))).collect();
    let (mut world, _) = told(0, &script);
    let parts = world.chat.forest().tree().runs().count() + 1;
    let mut read = 0;
    for at in (1..=400).step_by(7) {
        let time = NOW_MS * 1_000_000 + at * SECOND;
        let seeks = |span: Span| match span {
            Span::Since { until: Some(_), .. } => 6,
            Span::Since { .. } | Span::Until(_) => 3,
            _ => 0,
        };
        for span in [
            Span::Newest,
            Span::From(at),
            Span::Before(at),
            Span::Around(at),
            Span::Since { since: time, until: Some(time + 20 * SECOND) },
            Span::Until(time),
        ] {
            let query = PageQuery { tenant: TENANT, room: "r", thread: 0, span, limit: 10 };
            let asked = ask_page(&world.chat, query, 1 << 20, &mut world.disk);
            // A block of a sector has eight of these messages.
            let fills = asked.messages.len().div_ceil(8);
            assert!(asked.blocks <= fills + parts.min(2) * 2 + seeks(span), "{} for {span:?}", asked.blocks);
            read += asked.blocks;
        }
    }
    assert!(read > 100, "most of it lies in blocks");
}

#[test]
fn replies_are_numbered_and_threads_that_are_gone_make_room() {
    let mut world = World::new(Limits { room_messages: 6, threads: 2, ..Limits::tiny() });
    world.open("r");
    let mut number = 0;
    let mut say = |world: &mut World, parent| {
        number += 1;
        let outcome = world.one(publish(Publish { parent, ..message(key(0, number), b"hi") }));
        let said = match world.events()[..] {
            [RoomEvent::Message(message)] => (message.parent, message.thread),
            _ => (parent, Thread::default()),
        };
        assert_eq!(said.0, parent);
        (outcome.error, said.1.seq)
    };
    assert_eq!(say(&mut world, 1), (Some(ErrorCode::ParentUnknown), 0), "there is none");
    for parent in [0, 0, 0] {
        assert_eq!(say(&mut world, parent), (None, 0));
    }
    assert_eq!(say(&mut world, 1), (None, 1));
    assert_eq!(say(&mut world, 2), (None, 1));
    assert_eq!(say(&mut world, 1), (None, 2));
    world.restart();
    assert_eq!(say(&mut world, 3), (Some(ErrorCode::TooManyThreads), 0));
    assert_eq!(say(&mut world, 4), (Some(ErrorCode::TooManyThreads), 0), "a reply may be answered too");
    assert_eq!(say(&mut world, 2), (None, 2));
    // Retention has removed message 1 by now; what answered it is still there.
    assert_eq!(say(&mut world, 1), (Some(ErrorCode::ParentUnknown), 0));
    let thread = |world: &mut World| ask_thread(&world.chat, TENANT, "r", 1, &mut world.disk);
    assert_eq!(thread(&mut world), Ok(vec![(1, 4), (2, 6)]));
    for _ in 0..4 {
        say(&mut world, 0);
        world.restart();
    }
    assert_eq!(thread(&mut world), Ok(vec![(2, 6)]), "the first is gone");
    for _ in 0..3 {
        say(&mut world, 0);
    }
    assert_eq!(thread(&mut world), Err(ErrorCode::PositionGone));
    assert_eq!(world.chat.usage().threads, 0);
    // The lane is used again, and nothing of what was in it shows.
    let head = 14;
    assert_eq!(say(&mut world, head), (None, 1));
    world.restart();
    assert_eq!(say(&mut world, head), (None, 2));
    assert_eq!(ask_thread(&world.chat, TENANT, "r", head, &mut world.disk), Ok(vec![(1, 15), (2, 16)]));
    let before_threads = Limits { threads: 0, ..Limits::tiny() };
    let mut world = World::new(before_threads);
    world.open("r");
    assert_eq!(say(&mut world, 0), (None, 0));
    assert_eq!(say(&mut world, 1), (Some(ErrorCode::TooManyThreads), 0));
    world.restart();
}
