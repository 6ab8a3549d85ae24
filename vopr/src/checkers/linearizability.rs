//! The calls of all users and their answers are explained by one sequential chat room (I14, I15).
//!
//! The model is written apart from the state machine under test. A room is a list; a publish appends. Because an
//! acknowledgement names its place, there is nothing to search: each call has one possible place, and three things
//! remain to be checked, each in one pass.
//!
//! - *Real time*: what anybody had seen of a room before a call was made comes before that call's message.
//! - *Content*: each place of the final history is one call's message, and an acknowledgement names that place;
//!   a call without an answer stands there or does not: the final history says which.
//! - *Reads*: a page is a contiguous piece of the one final history. A local one reaches as far as what its reader
//!   had seen acknowledged or delivered before asking, a linearizable one as far as anybody had.

use std::collections::BTreeMap;

use io_sim::history::{CallId, Final, Observation, SeenMessage, UserId, Violation, What};
use tigerchat_core::wire::chat::Key;
use tigerchat_core::wire::entry::Digest;

use super::ledger::{FinalHistory, Ledger, Place};
use super::{Checker, violated};

const NAME: &str = "linearizability";

/// A key, and what it is bound to: room and author. The key comes first: it alone tells nearly all apart.
type Scope = (Key, String, String);

#[derive(Debug, Default)]
pub struct Linearizability {
    calls: BTreeMap<CallId, Scope>,
    /// By key: the contents that were sent under it. More than one is a conflict that the room resolves.
    intents: BTreeMap<Scope, Vec<Intent>>,
    acknowledged: BTreeMap<Scope, Answer>,
    /// The highest sequence of each room that anybody has seen.
    visible: BTreeMap<String, u64>,
    /// The same for each user: the floor of their reads.
    seen: BTreeMap<(UserId, String), u64>,
    /// The floor that a read had when it was asked.
    reads: BTreeMap<CallId, u64>,
    witnessed: Ledger,
}

/// A message that somebody meant to send.
#[derive(Debug)]
struct Intent {
    body: Vec<u8>,
    /// The highest sequence of the room that anybody had seen when it was first sent.
    floor: u64,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    seq: u64,
    op: u64,
    index: u32,
    time: u64,
    chain: Digest,
    epoch: u64,
}

impl Checker for Linearizability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match &seen.what {
            What::Published { call, room, author, key, body, .. } => {
                self.published(*call, (*key, room.clone(), author.clone()), body);
                Ok(())
            }
            What::Acknowledged { user, call, seq, op, index, time, chain, epoch, .. } => {
                let (seq, op, index, time, chain, epoch) = (*seq, *op, *index, *time, *chain, *epoch);
                self.acknowledged(*user, *call, Answer { seq, op, index, time, chain, epoch })
            }
            What::Delivered { user, message } => {
                self.saw(*user, &message.room, message.seq);
                self.message(message)
            }
            What::HistoryCalled { user, call, room, linearizable, .. } => {
                let own = self.seen.get(&(*user, room.clone()));
                let floor = if *linearizable { self.visible.get(room) } else { own };
                let floor = floor.copied().unwrap_or(0);
                self.reads.insert(*call, floor);
                Ok(())
            }
            What::HistoryRead { call, room, first, head, ends, messages, .. } => {
                self.read(*call, room, (*first, *head, ends.thread.is_some()), messages)
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, end: &Final) -> Result<(), Violation> {
        let history = FinalHistory::of(end);
        for room in history.rooms() {
            room.messages.iter().try_for_each(|message| self.message(message))?;
        }
        self.witnesses_agree(&history)?;
        self.answers_agree(&history)?;
        self.positions_ascend()
    }
}

impl Linearizability {
    fn published(&mut self, call: CallId, scope: Scope, body: &[u8]) {
        let floor = self.visible.get(&scope.1).copied().unwrap_or(0);
        let intents = self.intents.entry(scope.clone()).or_default();
        if !intents.iter().any(|intent| intent.body == body) {
            intents.push(Intent { body: body.to_vec(), floor });
        }
        self.calls.insert(call, scope);
    }

    fn acknowledged(&mut self, user: UserId, call: CallId, answer: Answer) -> Result<(), Violation> {
        let Some(scope) = self.calls.get(&call).cloned() else {
            return violated(NAME, format!("call {} was answered, but nobody made it", call.0));
        };
        // With several contents under one key the final history says which was meant; here the earliest counts.
        let floor = self.intents[&scope].iter().map(|intent| intent.floor).min().unwrap_or(0);
        if answer.seq <= floor {
            return before_its_call(&scope, answer.seq, floor);
        }
        self.saw(user, &scope.1, answer.seq);
        self.acknowledged.entry(scope).or_insert(answer);
        Ok(())
    }

    /// A message that anybody sees must be one that somebody meant to send, in a place that was still free.
    fn message(&mut self, message: &SeenMessage) -> Result<(), Violation> {
        let (room, seq) = (&message.room, message.seq);
        if self.witnessed.at(room, message.epoch, seq) == Some(message) {
            return Ok(());
        }
        let scope = (message.key, room.clone(), message.author.clone());
        let intents = self.intents.get(&scope).map_or(&[][..], Vec::as_slice);
        // Of what was erased only the digest tells what it was: that of the sight before, if there was one.
        let is_meant = |intent: &&Intent| message.erased.is_some() || intent.body == message.body;
        let Some(intent) = intents.iter().find(is_meant) else {
            return violated(NAME, format!("message {seq} of room {room} is there, but nobody sent it"));
        };
        if seq <= intent.floor {
            return before_its_call(&scope, seq, intent.floor);
        }
        match self.witnessed.witness(message) {
            Ok(()) => Ok(()),
            Err(_) => violated(NAME, format!("message {seq} of room {room} was seen with two contents")),
        }
    }

    fn read(
        &mut self,
        call: CallId,
        room: &str,
        (first, head, is_thread): (u64, u64, bool),
        messages: &[SeenMessage],
    ) -> Result<(), Violation> {
        let Some(floor) = self.reads.remove(&call) else {
            return violated(NAME, format!("read {} was answered, but nobody asked", call.0));
        };
        if head < floor {
            return violated(
                NAME,
                format!("a read of room {room} ends at {head}, but message {floor} had been seen"),
            );
        }
        let from = messages.first().map_or(first, |message| message.seq);
        for (message, expected) in messages.iter().zip(from..) {
            let seq = message.seq;
            // Which of a room's messages a thread has is for the checker of pages.
            let is_next = seq == expected || is_thread;
            if !is_next || seq < first || seq > head || message.room != room {
                let of = &message.room;
                return violated(
                    NAME,
                    format!(
                        "a page of room {room} ({first} to {head}) holds {seq} of room {of} where {expected} belongs"
                    ),
                );
            }
            self.message(message)?;
        }
        let visible = self.visible.entry(room.into()).or_default();
        *visible = head.max(*visible);
        Ok(())
    }

    fn saw(&mut self, user: UserId, room: &str, seq: u64) {
        let visible = self.visible.entry(room.into()).or_default();
        *visible = seq.max(*visible);
        let seen = self.seen.entry((user, room.into())).or_default();
        *seen = seq.max(*seen);
    }

    fn witnesses_agree(&self, history: &FinalHistory<'_>) -> Result<(), Violation> {
        for message in self.witnessed.messages() {
            let (room, seq) = (&message.room, message.seq);
            match history.at(room, seq) {
                Place::Held(held) if held.is_same(message) => {}
                Place::Retired => {}
                Place::Held(_) | Place::Missing => {
                    return violated(
                        NAME,
                        format!("message {seq} of room {room} was seen, but is not in the final history"),
                    );
                }
            }
        }
        for (room, seq) in &self.visible {
            if *seq > 0 && history.at(room, *seq) == Place::Missing {
                return violated(NAME, format!("room {room} reached message {seq}, but ends before it"));
            }
        }
        Ok(())
    }

    fn answers_agree(&self, history: &FinalHistory<'_>) -> Result<(), Violation> {
        for ((key, room, author), answer) in &self.acknowledged {
            let seq = answer.seq;
            let held = match history.at(room, seq) {
                Place::Held(held) => held,
                Place::Retired => continue,
                Place::Missing => {
                    return violated(
                        NAME,
                        format!("{author} was told message {seq} of room {room}, which is not there"),
                    );
                }
            };
            let same = held.author == *author
                && held.key == *key
                && held.time == answer.time
                && held.chain == answer.chain
                && held.epoch == answer.epoch;
            if !same {
                return violated(NAME, format!("message {seq} of room {room} is not as {author} was told"));
            }
        }
        Ok(())
    }

    /// Sequence, position in the log and time tell of one and the same order.
    fn positions_ascend(&self) -> Result<(), Violation> {
        let mut by_position: Vec<_> = self
            .acknowledged
            .iter()
            .map(|((_, room, _), answer)| (answer.op, answer.index, room, answer))
            .collect();
        by_position.sort_by_key(|(op, index, ..)| (*op, *index));
        let mut heads: BTreeMap<&str, u64> = BTreeMap::new();
        let mut before: Option<(u64, u32, u64)> = None;
        for (op, index, room, answer) in by_position {
            let (seq, time) = (answer.seq, answer.time);
            match before.replace((op, index, time)) {
                Some((op_before, index_before, _)) if (op, index) == (op_before, index_before) => {
                    return violated(
                        NAME,
                        format!("two messages were told the same place: op {op}, index {index}"),
                    );
                }
                Some((.., time_before)) if time <= time_before => {
                    return violated(
                        NAME,
                        format!("time stands still or goes back at op {op}, index {index}"),
                    );
                }
                _ => {}
            }
            match heads.insert(room, seq) {
                Some(head) if seq <= head => {
                    return violated(
                        NAME,
                        format!(
                            "message {seq} of room {room} comes after message {head} in the log (op {op})"
                        ),
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn before_its_call((_, room, author): &Scope, seq: u64, floor: u64) -> Result<(), Violation> {
    violated(
        NAME,
        format!(
            "{author} sent to room {room} when message {floor} had been seen, but got the place of message {seq}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    #[test]
    fn a_call_that_takes_a_place_before_what_was_seen_earlier_is_found() {
        let mut story = Story::good();
        // Message 2 is sent only after message 3 was acknowledged, and nobody saw it before.
        story.remove(|what| matches!(what, What::Delivered { message, .. } if message.seq == 2));
        story.remove(|what| matches!(what, What::HistoryRead { .. }));
        let late = story.take(|what| matches!(what, What::Published { call: CallId(2), .. }));
        let answer = story.take(|what| matches!(what, What::Acknowledged { seq: 2, .. }));
        story.extend(late);
        story.extend(answer);
        story.violates::<Linearizability>(
            "bob sent to room general when message 3 had been seen, but got the place",
        );
    }

    #[test]
    fn a_message_that_nobody_sent_is_found() {
        let mut story = Story::good();
        story.remove(|what| matches!(what, What::Published { call: CallId(2), .. }));
        story.remove(|what| matches!(what, What::Acknowledged { call: CallId(2), .. }));
        story.violates::<Linearizability>("message 2 of room general is there, but nobody sent it");
    }

    #[test]
    fn a_call_without_an_answer_may_stand_in_the_history_or_not() {
        let mut story = Story::good();
        story.remove(|what| matches!(what, What::Acknowledged { call: CallId(2), .. }));
        assert_eq!(story.judge::<Linearizability>(), Ok(()), "it stands there");
        story.publish(UserId(1), CallId(77), "general", "bob", Key([77; 16]), b"lost");
        assert_eq!(story.judge::<Linearizability>(), Ok(()), "it does not");
    }

    #[test]
    fn an_acknowledged_place_that_holds_another_message_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Acknowledged { call: CallId(2), chain, .. } = what {
                *chain = Digest([9; 32]);
            }
        });
        story.violates::<Linearizability>("message 2 of room general is not as bob was told");
    }

    #[test]
    fn h48_a_read_below_the_readers_floor_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::HistoryRead { head, messages, .. } = what {
                *head = 2;
                messages.truncate(2);
            }
        });
        story.violates::<Linearizability>("a read of room general ends at 2, but message 3 had been seen");
    }

    #[test]
    fn h48_a_linearizable_read_that_misses_what_another_had_seen_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::HistoryCalled { linearizable, user, .. } = what {
                // Somebody who has seen nothing yet.
                (*linearizable, *user) = (true, UserId(77));
            }
        });
        assert_eq!(story.judge::<Linearizability>(), Ok(()));
        story.change(|what| {
            if let What::HistoryRead { head, messages, .. } = what {
                *head = 2;
                messages.truncate(2);
            }
        });
        story.violates::<Linearizability>("a read of room general ends at 2, but message 3 had been seen");
    }

    #[test]
    fn a_page_with_a_hole_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::HistoryRead { messages, .. } = what {
                drop(messages.remove(1));
            }
        });
        story.violates::<Linearizability>("holds 3 of room general where 2 belongs");
    }

    #[test]
    fn a_page_that_is_not_the_final_history_is_found() {
        let mut story = Story::good();
        story.remove(|what| matches!(what, What::Delivered { .. }));
        story.change(|what| {
            if let What::HistoryRead { messages, .. } = what {
                messages[1].time += 1;
            }
        });
        story.violates::<Linearizability>("message 2 of room general was seen with two contents");
    }

    #[test]
    fn two_messages_in_one_place_of_the_log_are_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Acknowledged { call: CallId(2), op, index, .. } = what {
                (*op, *index) = (3, 0);
            }
        });
        story.violates::<Linearizability>("two messages were told the same place: op 3, index 0");
    }

    #[test]
    fn a_log_position_that_contradicts_the_sequence_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Acknowledged { call: CallId(2), op, .. } = what {
                *op = 40;
            }
        });
        story.violates::<Linearizability>("goes back at op 40");
    }
}
