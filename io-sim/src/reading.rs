//! How users answer each other and read back: threads, and pages of every kind.
//!
//! In half of the worlds. What is drawn for it comes from a source of its own, so that nothing else in a world follows
//! from it.

use std::collections::BTreeMap;

use crate::clock::BEGINNING;
use crate::history::{Asked, Ends, SeenMessage, Way};
use crate::random::{Ppm, Random};
use crate::users::PAGE;

/// Messages that answer another one.
const REPLIES: Ppm = 350_000;
/// Reads that are of such a kind.
const PAGES: Ppm = 700_000;
/// Of these, reads of a thread.
const THREADS: Ppm = 400_000;
/// Threads begin at every so many-th message, so that each has several answers.
const APART: u64 = 8;
/// Times of a room that are remembered.
const TIMES: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Readers {
    random: Random,
    /// Whether they do anything of it.
    are_there: bool,
    /// When messages were committed, by room.
    times: BTreeMap<String, Vec<u64>>,
}

impl Readers {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, "readers", 0);
        let are_there = random.chance(500_000);
        Self { random, are_there, times: BTreeMap::new() }
    }

    /// The message that the next one answers; zero: none.
    pub(crate) fn parent(&mut self, head: u64) -> u64 {
        if !self.are_there || head == 0 || !self.random.chance(REPLIES) {
            return 0;
        }
        self.parent_near(head)
    }

    /// One of the last few messages that have a thread.
    fn parent_near(&mut self, head: u64) -> u64 {
        let newest = head / APART * APART;
        newest.saturating_sub(self.random.below(4) * APART).clamp(1, head.max(1))
    }

    /// Somebody was told that a message of the room was committed at this time.
    pub(crate) fn saw(&mut self, room: &str, time: u64) {
        if self.are_there {
            let times = self.times.entry(room.to_owned()).or_default();
            if times.len() < TIMES {
                times.push(time);
            } else {
                let at = self.random.index(TIMES);
                times[at] = time;
            }
        }
    }

    /// A page of another kind than the one that begins at a sequence.
    pub(crate) fn page(&mut self, room: &str, head: u64) -> Option<Asked> {
        if !self.are_there || !self.random.chance(PAGES) {
            return None;
        }
        let thread = if head > 0 && self.random.chance(THREADS) { self.parent_near(head) } else { 0 };
        // Nobody knows how many answers there are.
        let at = if thread > 0 { self.random.within(0..=9) } else { self.random.within(0..=head + 2) };
        let (time, other) = (self.time(room), self.time(room));
        let way = match self.random.below(7) {
            0 => Way::Newest,
            1 => Way::From(at.max(1)),
            2 => Way::Before(at),
            3 => Way::Around(at),
            4 => Way::Since(time),
            5 if time != other => Way::Between(time.min(other), time.max(other)),
            _ => Way::Until(time),
        };
        let limit = u32::try_from(self.random.within(1..=u64::from(PAGE) * 2)).expect("it is small");
        Some(Asked { thread, way, limit })
    }

    /// Around a time at which something was committed.
    fn time(&mut self, room: &str) -> u64 {
        let off = self.random.below(3);
        match self.times.get(room) {
            Some(times) => self.random.pick(times).saturating_add(off) - 1,
            None => BEGINNING.0.saturating_add(off),
        }
    }
}

/// What of a page a client says behind the room.
pub(crate) fn said(asked: &Asked) -> String {
    let Asked { thread, way, limit } = *asked;
    let of = if thread > 0 { format!(r#","thread":"{thread}""#) } else { String::new() };
    let at = match way {
        Way::Newest => String::new(),
        Way::From(seq) => format!(r#","from":"{seq}""#),
        Way::Before(seq) => format!(r#","before":"{seq}""#),
        Way::Around(seq) => format!(r#","around":"{seq}""#),
        Way::Since(time) => format!(r#","since_time":"{time}""#),
        Way::Between(since, until) => format!(r#","since_time":"{since}","until_time":"{until}""#),
        Way::Until(time) => format!(r#","until_time":"{time}""#),
    };
    format!(r#"{of}{at},"limit":{limit}"#)
}

/// `thread=SEQ from=N before=N around=N since=TIME until=TIME limit=N` of a script.
pub(crate) fn scripted(words: &[&str]) -> Result<Asked, String> {
    let mut asked = Asked { thread: 0, way: Way::Newest, limit: PAGE };
    for word in words {
        let (what, number) = word.split_once('=').ok_or("a page is asked for by KEY=NUMBER")?;
        let number: u64 = number.parse().map_err(|_| format!("{what} is not a number"))?;
        match (what, asked.way) {
            ("thread", _) => asked.thread = number,
            ("limit", _) => asked.limit = number.try_into().map_err(|_| "a smaller limit")?,
            ("from", _) => asked.way = Way::From(number),
            ("before", _) => asked.way = Way::Before(number),
            ("around", _) => asked.way = Way::Around(number),
            ("since", _) => asked.way = Way::Since(number),
            ("until", Way::Since(since)) => asked.way = Way::Between(since, number),
            ("until", _) => asked.way = Way::Until(number),
            _ => return Err(format!("no page by {what}")),
        }
    }
    Ok(asked)
}

/// What a transcript says of a page: `; 3 4 5 of 2 to 9, older, newer`.
pub(crate) fn told(ends: &Ends, messages: &[SeenMessage]) -> String {
    let number = |message: &SeenMessage| match ends.thread {
        Some(_) => format!(" {}={}", message.thread_seq, message.seq),
        None => format!(" {}", message.seq),
    };
    let mut told: String = messages.iter().map(number).collect();
    if !told.is_empty() {
        told.insert(0, ':');
    }
    if let Some((first, head)) = ends.thread {
        told.push_str(&format!(", of the thread {first} to {head}"));
    }
    for (is, end) in [(ends.older, ", older"), (ends.newer, ", newer")] {
        told.push_str(if is { end } else { "" });
    }
    told
}
