//! A page is what was asked for (I45): one piece of a room or of a thread, at the place that was named, and it says of
//! both ends whether there is more. Answers are numbered 1, 2, 3, ... under their parent, in the order of the room.
//!
//! The model is a list. What a page says of itself is checked as it comes; what it says of what it leaves out, and of
//! times, is held against the final history, as far as that goes back.

use std::collections::BTreeMap;

use io_sim::history::{Asked, CallId, Ends, Final, Observation, SeenMessage, Violation, Way, What};
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::wire::chat::Key;

use super::ledger::{FinalHistory, Place};
use super::{Checker, violated};

const NAME: &str = "pages";

#[derive(Debug, Default)]
pub struct Pages {
    asked: BTreeMap<CallId, (String, Asked)>,
    /// What each message was meant to answer, by key, room and author.
    parents: BTreeMap<(Key, String, String), u64>,
    read: Vec<Page>,
    gone: Vec<(String, Asked)>,
}

/// A page that came.
#[derive(Debug)]
struct Page {
    room: String,
    asked: Asked,
    first: u64,
    head: u64,
    ends: Ends,
    /// Positions of its first and last message.
    piece: Option<(u64, u64)>,
}

/// A room or a thread as the final history has it: messages by position.
type Line<'a> = BTreeMap<u64, &'a SeenMessage>;

impl Checker for Pages {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match &seen.what {
            What::Published { room, author, key, parent, .. } => {
                self.parents.insert((*key, room.clone(), author.clone()), *parent);
                Ok(())
            }
            What::HistoryCalled { call, room, asked, .. } => {
                self.asked.insert(*call, (room.clone(), *asked));
                Ok(())
            }
            What::Refused { call, error, .. } => match self.asked.remove(call) {
                Some((room, asked)) => self.refused(room, asked, *error),
                None => Ok(()),
            },
            What::HistoryRead { call, first, head, ends, messages, .. } => {
                let Some((room, asked)) = self.asked.remove(call) else { return Ok(()) };
                let (first, head, ends) = (*first, *head, *ends);
                let of = |message: &SeenMessage| position(&asked, message);
                let piece = messages.first().map(of).zip(messages.last().map(of));
                let page = Page { room, asked, first, head, ends, piece };
                page.is_one_piece(messages)?;
                page.is_where_it_was_asked_for(messages)?;
                page.tells_its_ends()?;
                self.read.push(page);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, end: &Final) -> Result<(), Violation> {
        let history = FinalHistory::of(end);
        let mut lines: BTreeMap<(&str, u64), Line<'_>> = BTreeMap::new();
        for room in history.rooms() {
            for message in &room.messages {
                self.answers_what_was_meant(message)?;
                lines.entry((&room.room, 0)).or_default().insert(message.seq, message);
                if message.parent > 0 {
                    let thread = lines.entry((&room.room, message.parent)).or_default();
                    if thread.insert(message.thread_seq, message).is_some() {
                        return wrong_number(message);
                    }
                } else if message.thread_seq > 0 {
                    return wrong_number(message);
                }
            }
        }
        lines
            .iter()
            .filter(|((_, parent), _)| *parent > 0)
            .try_for_each(|((_, parent), line)| numbers_ascend(*parent, line, &history))?;
        let nothing = Line::new();
        for page in &self.read {
            let line = lines.get(&(page.room.as_str(), page.asked.thread)).unwrap_or(&nothing);
            page.holds_all_of_its_times(line)?;
            page.begins_and_ends_with_its_thread(line, &history)?;
        }
        for (room, asked) in &self.gone {
            let at = match asked.way {
                Way::From(at) | Way::Before(at) | Way::Around(at) if asked.thread == 0 => at,
                Way::From(_) | Way::Before(_) | Way::Around(_) => continue,
                _ => asked.thread,
            };
            if let Place::Held(_) = history.at(room, at) {
                return violated(
                    NAME,
                    format!("message {at} of room {room} was said to be gone, and is there"),
                );
            }
        }
        Ok(())
    }
}

impl Pages {
    fn refused(&mut self, room: String, asked: Asked, error: ErrorCode) -> Result<(), Violation> {
        let has_place = matches!(asked.way, Way::From(1..) | Way::Before(_) | Way::Around(_));
        let is_fit = match error {
            ErrorCode::PositionGone => has_place || asked.thread > 0,
            ErrorCode::PositionAhead => has_place,
            ErrorCode::ParentUnknown => asked.thread > 0,
            _ => false,
        };
        if !is_fit {
            return violated(NAME, format!("{asked:?} of room {room} was refused: {}", error.entry().name));
        }
        if error == ErrorCode::PositionGone {
            self.gone.push((room, asked));
        }
        Ok(())
    }

    fn answers_what_was_meant(&self, message: &SeenMessage) -> Result<(), Violation> {
        let scope = (message.key, message.room.clone(), message.author.clone());
        match self.parents.get(&scope) {
            Some(parent) if *parent != message.parent => {
                let (seq, room, of) = (message.seq, &message.room, message.parent);
                violated(NAME, format!("message {seq} of room {room} answers {of}, but {parent} was meant"))
            }
            _ => Ok(()),
        }
    }
}

fn position(asked: &Asked, message: &SeenMessage) -> u64 {
    if asked.thread > 0 { message.thread_seq } else { message.seq }
}

/// Half of a page around a message is older than that.
fn older_of(limit: u32) -> u64 {
    u64::from(limit / 2)
}

impl Page {
    /// First and last position that there is.
    fn bounds(&self) -> (u64, u64) {
        self.ends.thread.unwrap_or((self.first, self.head))
    }

    fn fault(&self, what: impl std::fmt::Display) -> Result<(), Violation> {
        let Self { room, asked, piece, .. } = self;
        let (low, high) = self.bounds();
        violated(
            NAME,
            format!("{asked:?} of room {room} ({low} to {high}) was answered by {piece:?}: {what}"),
        )
    }

    fn is_one_piece(&self, messages: &[SeenMessage]) -> Result<(), Violation> {
        if self.ends.thread.is_some() != (self.asked.thread > 0) {
            return self.fault("it is of something else");
        }
        let (low, high) = self.bounds();
        let begin = messages.first().map_or(low, |message| position(&self.asked, message));
        for (message, expected) in messages.iter().zip(begin..) {
            let at = position(&self.asked, message);
            let is_in = (low..=high).contains(&at) && (self.first..=self.head).contains(&message.seq);
            if at != expected || !is_in || (self.asked.thread > 0 && message.parent != self.asked.thread) {
                return self.fault(format_args!("it holds {at} where {expected} belongs"));
            }
        }
        let is_sorted = messages.is_sorted_by(|one, next| one.seq < next.seq);
        if messages.len() > self.asked.limit as usize || !is_sorted {
            return self.fault("it is too long, or in no order");
        }
        Ok(())
    }

    fn is_where_it_was_asked_for(&self, messages: &[SeenMessage]) -> Result<(), Violation> {
        let (low, high) = self.bounds();
        let (newer, older) =
            (u64::from(self.asked.limit) - older_of(self.asked.limit), older_of(self.asked.limit));
        let is_right = match (self.asked.way, self.piece) {
            (Way::Newest | Way::From(0), None) => low > high,
            (Way::Newest | Way::From(0), Some((_, last))) => last == high,
            (Way::From(at), None) => at == high + 1,
            (Way::From(at), Some((first, _))) => first == at,
            (Way::Before(at), None) => at == low,
            (Way::Before(at), Some((_, last))) => last + 1 == at,
            (Way::Around(_), None) => false,
            (Way::Around(at), Some((first, last))) => {
                (first..=last).contains(&at) && at - first <= older && last - at < newer
            }
            (Way::Since(_) | Way::Between(..) | Way::Until(_), _) => true,
        };
        if !is_right {
            return self.fault("that is elsewhere");
        }
        let (since, until) = self.times();
        let is_in_time = |message: &SeenMessage| (since..until).contains(&message.time);
        if messages.iter().all(is_in_time) { Ok(()) } else { self.fault("it was said at another time") }
    }

    /// From which time on, and before which.
    fn times(&self) -> (u64, u64) {
        match self.asked.way {
            Way::Since(since) => (since, u64::MAX),
            Way::Between(since, until) => (since, until),
            Way::Until(until) => (0, until),
            _ => (0, u64::MAX),
        }
    }

    fn tells_its_ends(&self) -> Result<(), Violation> {
        let ((low, high), Ends { older, newer, .. }) = (self.bounds(), self.ends);
        let is_something = low <= high;
        let (expected_older, expected_newer) = match (self.asked.way, self.piece) {
            // Where an empty piece of times lies, the final history knows.
            (Way::Between(..), None) => return Ok(()),
            (Way::Between(..), Some((first, _))) => (first > low, newer),
            (_, Some((first, last))) => (first > low, last < high),
            (Way::Before(_) | Way::Until(_), None) => (false, is_something),
            (_, None) => (is_something, false),
        };
        if (older, newer) != (expected_older, expected_newer) {
            return self.fault(format_args!("it says older: {older}, newer: {newer}"));
        }
        Ok(())
    }

    /// Nothing that was said in time is left out where the page begins, and where it ends of itself.
    fn holds_all_of_its_times(&self, line: &Line<'_>) -> Result<(), Violation> {
        let (low, high) = self.bounds();
        let (since, until) = self.times();
        let is_in_time =
            |at: u64| line.get(&at).is_some_and(|message| (since..until).contains(&message.time));
        let missed = match (self.asked.way, self.piece) {
            (Way::Since(_) | Way::Between(..) | Way::Until(_), None) => {
                line.range(low..=high.max(low)).map(|(at, _)| *at).find(|at| *at <= high && is_in_time(*at))
            }
            (Way::Since(_), Some((first, _))) => Some(first - 1).filter(|at| *at >= low && is_in_time(*at)),
            (Way::Between(..), Some((first, last))) => {
                let next = last + 1;
                let goes_on = next <= high && is_in_time(next);
                if next <= high && line.contains_key(&next) && goes_on != self.ends.newer {
                    return self.fault(format_args!("it says newer: {}", self.ends.newer));
                }
                Some(first - 1).filter(|at| *at >= low && is_in_time(*at))
            }
            (Way::Until(_), Some((_, last))) => Some(last + 1).filter(|at| *at <= high && is_in_time(*at)),
            _ => None,
        };
        match missed {
            Some(at) => self.fault(format_args!("it misses {at}")),
            None => Ok(()),
        }
    }

    /// A thread has all that answered its parent up to the head of the room as the page knew it.
    fn begins_and_ends_with_its_thread(
        &self,
        line: &Line<'_>,
        history: &FinalHistory<'_>,
    ) -> Result<(), Violation> {
        let Some((first, last)) = self.ends.thread else { return Ok(()) };
        let is_held = matches!(history.at(&self.room, self.asked.thread), Place::Held(_));
        let known = line.iter().rev().find(|(_, message)| message.seq <= self.head);
        match known {
            Some((at, _)) if *at != last => {
                return self.fault(format_args!("its thread ends at {last}, but {at} was there"));
            }
            None if is_held && last != 0 => {
                return self.fault(format_args!("its thread ends at {last}, but nothing was there"));
            }
            _ => {}
        }
        let is_left = |at: u64| line.get(&at).map(|message| message.seq >= self.first);
        if is_left(first) == Some(false) || first.checked_sub(1).and_then(is_left) == Some(true) {
            return self.fault("its thread begins elsewhere");
        }
        Ok(())
    }
}

fn wrong_number(message: &SeenMessage) -> Result<(), Violation> {
    let SeenMessage { room, seq, thread_seq, parent, .. } = message;
    violated(NAME, format!("message {seq} of room {room} is answer {thread_seq} to message {parent}"))
}

/// Answers are numbered without gaps in the order of the room; from 1 on where all that there were are held.
fn numbers_ascend(parent: u64, line: &Line<'_>, history: &FinalHistory<'_>) -> Result<(), Violation> {
    let Some((begin, first)) = line.first_key_value() else { return Ok(()) };
    let begin = if let Place::Held(_) = history.at(&first.room, parent) { 1 } else { *begin };
    let mut before = parent;
    for ((at, message), expected) in line.iter().zip(begin..) {
        if *at != expected || message.seq <= before {
            return wrong_number(message);
        }
        before = message.seq;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    /// Messages 2 and 3 answer the first, and somebody reads what answers it.
    fn thread() -> Story {
        let mut story = Story::good();
        let answers = |message: &mut SeenMessage| {
            if message.seq > 1 {
                (message.parent, message.thread_seq) = (1, message.seq - 1);
            }
        };
        story.change(|what| match what {
            What::Published { parent, call: CallId(2..=3), .. } => *parent = 1,
            What::Delivered { message, .. } => answers(message),
            What::HistoryCalled { asked, .. } => asked.thread = 1,
            What::HistoryRead { messages, ends, .. } => {
                messages.iter_mut().for_each(answers);
                messages.remove(0);
                ends.thread = Some((1, 2));
            }
            _ => {}
        });
        for replica in &mut story.end.replicas {
            replica.rooms[0].messages.iter_mut().for_each(answers);
        }
        assert_eq!(story.judge::<Pages>(), Ok(()));
        story
    }

    /// The good story, in which the page is asked for in another way.
    fn asked(way: Way, limit: u32, change: impl Fn(&mut Vec<SeenMessage>, &mut Ends)) -> Story {
        let mut story = Story::good();
        story.change(|what| match what {
            What::HistoryCalled { asked, .. } => (asked.way, asked.limit) = (way, limit),
            What::HistoryRead { messages, ends, .. } => change(messages, ends),
            _ => {}
        });
        story
    }

    #[test]
    fn good_pages_of_all_kinds_are_good() {
        let all = |_: &mut Vec<SeenMessage>, _: &mut Ends| {};
        for way in [
            Way::Newest,
            Way::From(1),
            Way::Before(4),
            Way::Around(2),
            Way::Since(1_000),
            Way::Between(500, 3_001),
            Way::Until(3_001),
        ] {
            assert_eq!(asked(way, 4, all).judge::<Pages>(), Ok(()), "{way:?}");
        }
        let last = |messages: &mut Vec<SeenMessage>, ends: &mut Ends| {
            messages.drain(..2);
            ends.older = true;
        };
        assert_eq!(asked(Way::Newest, 1, last).judge::<Pages>(), Ok(()));
        let none = |messages: &mut Vec<SeenMessage>, ends: &mut Ends| {
            messages.clear();
            ends.older = true;
        };
        assert_eq!(asked(Way::From(4), 1, none).judge::<Pages>(), Ok(()));
    }

    #[test]
    fn a_page_from_elsewhere_is_found() {
        let all = |_: &mut Vec<SeenMessage>, _: &mut Ends| {};
        asked(Way::From(2), 4, all).violates::<Pages>("that is elsewhere");
        asked(Way::Before(3), 4, all).violates::<Pages>("that is elsewhere");
        asked(Way::Around(1), 4, all).violates::<Pages>("that is elsewhere");
        asked(Way::Newest, 2, all).violates::<Pages>("it is too long");
        let older = |messages: &mut Vec<SeenMessage>, _: &mut Ends| drop(messages.pop());
        asked(Way::Newest, 4, older).violates::<Pages>("that is elsewhere");
    }

    #[test]
    fn a_page_of_another_time_and_one_that_misses_something_are_found() {
        let all = |_: &mut Vec<SeenMessage>, _: &mut Ends| {};
        asked(Way::Since(1_001), 4, all).violates::<Pages>("it was said at another time");
        asked(Way::Between(1_000, 3_000), 4, all).violates::<Pages>("it was said at another time");
        let late = |messages: &mut Vec<SeenMessage>, ends: &mut Ends| {
            messages.remove(0);
            ends.older = true;
        };
        asked(Way::Since(1_000), 4, late).violates::<Pages>("it misses 1");
        let early = |messages: &mut Vec<SeenMessage>, ends: &mut Ends| {
            messages.pop();
            ends.newer = true;
        };
        asked(Way::Until(3_001), 4, early).violates::<Pages>("it misses 3");
        let silent = |messages: &mut Vec<SeenMessage>, _: &mut Ends| drop(messages.pop());
        asked(Way::Between(1_000, 3_001), 4, silent).violates::<Pages>("it says newer: false");
        let empty = |messages: &mut Vec<SeenMessage>, ends: &mut Ends| {
            messages.clear();
            ends.older = true;
        };
        asked(Way::Since(2_500), 4, empty).violates::<Pages>("it misses 3");
    }

    #[test]
    fn a_page_that_hides_what_lies_beyond_it_is_found() {
        let silent = |messages: &mut Vec<SeenMessage>, _: &mut Ends| drop(messages.pop());
        asked(Way::From(1), 2, silent).violates::<Pages>("it says older: false, newer: false");
    }

    #[test]
    fn an_answer_with_a_wrong_number_or_parent_is_found() {
        let mut story = thread();
        for replica in &mut story.end.replicas {
            replica.rooms[0].messages[2].thread_seq = 3;
        }
        story.violates::<Pages>("message 3 of room general is answer 3 to message 1");
        let mut story = thread();
        story.change(|what| {
            if let What::Published { parent, call: CallId(3), .. } = what {
                *parent = 2;
            }
        });
        story.violates::<Pages>("message 3 of room general answers 1, but 2 was meant");
    }

    #[test]
    fn a_thread_that_misses_its_last_answer_is_found() {
        let mut story = thread();
        story.change(|what| {
            if let What::HistoryRead { messages, ends, .. } = what {
                messages.pop();
                ends.thread = Some((1, 1));
            }
        });
        story.violates::<Pages>("its thread ends at 1, but 2 was there");
    }

    #[test]
    fn a_message_that_is_there_and_was_said_to_be_gone_is_found() {
        let mut story = Story::good();
        let read = story.take(|what| matches!(what, What::HistoryRead { .. }));
        let Some(What::HistoryRead { user, call, .. }) = read.first() else { panic!("it was taken") };
        let (user, call) = (*user, *call);
        story.extend(vec![What::Refused { user, call, error: ErrorCode::PositionGone }]);
        story.violates::<Pages>("message 1 of room general was said to be gone, and is there");
        story.change(|what| {
            if let What::Refused { error, .. } = what {
                *error = ErrorCode::ParentUnknown;
            }
        });
        story.violates::<Pages>("was refused: parent_unknown");
    }
}
