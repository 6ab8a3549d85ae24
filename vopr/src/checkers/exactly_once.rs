//! A key takes effect once or not at all, however often, wherever and however late it was sent (I05).

use std::collections::{BTreeMap, BTreeSet};

use io_sim::history::{CallId, Final, Observation, SeenMessage, Violation, What};
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::wire::chat::Key;
use tigerchat_core::wire::entry::Digest;

use super::ledger::{Ledger, furthest};
use super::{Checker, violated};

const NAME: &str = "exactly-once";

/// A key, and what it is bound to: room and author. The key comes first: it alone tells nearly all apart.
type Scope = (Key, String, String);

#[derive(Debug, Default)]
pub struct ExactlyOnce {
    calls: BTreeMap<CallId, (Scope, Vec<u8>)>,
    /// The sequence under which each key was seen, by anyone and in any way, and its body if that was seen.
    places: BTreeMap<Scope, u64>,
    bodies: BTreeMap<Scope, Vec<u8>>,
    /// What was looked at already: whatever contradicts it later is found when that comes.
    passed: Ledger,
    acknowledged: BTreeMap<Scope, Outcome>,
    refused: BTreeMap<Scope, (Vec<u8>, ErrorCode)>,
    /// Calls that are to erase a message.
    erasures: BTreeSet<CallId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    seq: u64,
    op: u64,
    index: u32,
    time: u64,
    chain: Digest,
    epoch: u64,
}

impl Checker for ExactlyOnce {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match &seen.what {
            What::Published { call, room, author, key, body, .. } => {
                self.calls.insert(*call, ((*key, room.clone(), author.clone()), body.clone()));
                Ok(())
            }
            What::Acknowledged { call, seq, op, index, time, chain, epoch, .. } => {
                let (seq, op, index, time, chain, epoch) = (*seq, *op, *index, *time, *chain, *epoch);
                self.acknowledged(*call, Outcome { seq, op, index, time, chain, epoch })
            }
            What::Erases { call, .. } => {
                self.erasures.insert(*call);
                Ok(())
            }
            What::Refused { call, error, .. } => self.refused(*call, *error),
            What::Delivered { message, .. } => self.message(message),
            What::HistoryRead { messages, .. } => {
                messages.iter().try_for_each(|message| self.message(message))
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, end: &Final) -> Result<(), Violation> {
        let rooms = furthest(end).into_iter().flat_map(|replica| &replica.rooms);
        rooms.flat_map(|room| &room.messages).try_for_each(|message| self.message(message))
    }
}

impl ExactlyOnce {
    fn acknowledged(&mut self, call: CallId, outcome: Outcome) -> Result<(), Violation> {
        let Some((scope, _)) = self.calls.get(&call).cloned() else {
            return violated(NAME, format!("call {} was acknowledged, but nobody made it", call.0));
        };
        let first = *self.acknowledged.entry(scope.clone()).or_insert(outcome);
        if first != outcome {
            return violated(
                NAME,
                format!(
                    "one key of {} in room {} was acknowledged as {first:?}, then as {outcome:?}",
                    scope.2, scope.1
                ),
            );
        }
        self.stands_at(&scope, outcome.seq)
    }

    /// A refusal says that the call has no effect. Four do not: a key whose time is too old, or too new, for one
    /// attempt may have taken effect at another (the shard's time goes on, and a primary's clock may be behind); a
    /// message that is to be erased and is not there yet for one attempt is for another; and a temporary error ends
    /// nothing.
    fn refused(&mut self, call: CallId, error: ErrorCode) -> Result<(), Violation> {
        let Some((scope, body)) = self.calls.get(&call) else { return Ok(()) };
        let of_its_time = [ErrorCode::KeyTooOld, ErrorCode::KeyFromFuture].contains(&error);
        let came_early = error == ErrorCode::PositionAhead && self.erasures.contains(&call);
        if of_its_time || came_early || error.entry().temporary {
            return Ok(());
        }
        if self.bodies.get(scope) == Some(body) {
            return refused_but_there(scope, error);
        }
        self.refused.insert(scope.clone(), (body.clone(), error));
        Ok(())
    }

    fn message(&mut self, message: &SeenMessage) -> Result<(), Violation> {
        if self.passed.at(&message.room, message.epoch, message.seq) == Some(message) {
            return Ok(());
        }
        let scope = (message.key, message.room.clone(), message.author.clone());
        match self.refused.get(&scope) {
            Some((body, error)) if message.erased.is_none() && *body == message.body => {
                return refused_but_there(&scope, *error);
            }
            _ => {}
        }
        self.stands_at(&scope, message.seq)?;
        if message.erased.is_none() {
            self.bodies.entry(scope).or_insert_with(|| message.body.clone());
        }
        // Two contents of one place are another checker's business: the second is looked at each time.
        let _ = self.passed.witness(message);
        Ok(())
    }

    fn stands_at(&mut self, scope: &Scope, seq: u64) -> Result<(), Violation> {
        let first = match self.places.get(scope) {
            Some(first) => *first,
            None => *self.places.entry(scope.clone()).or_insert(seq),
        };
        if first == seq {
            return Ok(());
        }
        violated(NAME, format!("one key of {} stands in room {} as {first} and as {seq}", scope.2, scope.1))
    }
}

fn refused_but_there(scope: &Scope, error: ErrorCode) -> Result<(), Violation> {
    let (_, room, author) = scope;
    let name = error.entry().name;
    violated(NAME, format!("a message of {author} was refused ({name}), yet it stands in room {room}"))
}

#[cfg(test)]
mod tests {
    use io_sim::history::UserId;

    use super::*;
    use crate::checkers::testing::Story;

    #[test]
    fn h43_a_retry_that_was_executed_twice_is_found() {
        let mut story = Story::good();
        for replica in &mut story.end.replicas {
            let room = &mut replica.rooms[0];
            let mut twice = room.messages[0].clone();
            twice.seq = 4;
            room.messages.push(twice);
            room.head = 4;
        }
        story.violates::<ExactlyOnce>("one key of alice stands in room general as 1 and as 4");
    }

    #[test]
    fn two_acknowledgements_of_one_key_that_differ_are_found() {
        let mut story = Story::good();
        let mut again = story.copy(|what| matches!(what, What::Acknowledged { seq: 1, .. }));
        if let What::Acknowledged { seq, duplicate, .. } = &mut again {
            (*seq, *duplicate) = (4, true);
        }
        story.push(again);
        story.violates::<ExactlyOnce>("one key of alice in room general was acknowledged as");
    }

    #[test]
    fn a_second_acknowledgement_that_repeats_the_first_is_allowed() {
        let mut story = Story::good();
        let mut again = story.copy(|what| matches!(what, What::Acknowledged { seq: 1, .. }));
        if let What::Acknowledged { duplicate, .. } = &mut again {
            *duplicate = true;
        }
        story.push(again);
        assert_eq!(story.judge::<ExactlyOnce>(), Ok(()));
    }

    #[test]
    fn a_refused_message_that_stands_in_the_history_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Acknowledged { user: UserId(0), call: call @ CallId(1), .. } = *what {
                *what = What::Refused { user: UserId(0), call, error: ErrorCode::KeyConflict };
            }
        });
        story.violates::<ExactlyOnce>("a message of alice was refused (key_conflict), yet it stands");
    }

    #[test]
    fn only_an_erasure_may_be_ahead_and_stand_later() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Acknowledged { user: UserId(0), call: call @ CallId(1), .. } = *what {
                *what = What::Refused { user: UserId(0), call, error: ErrorCode::PositionAhead };
            }
        });
        let mut erasure = story.clone();
        erasure.insert_after(
            |what| matches!(what, What::Published { call: CallId(1), .. }),
            What::Erases { user: UserId(0), call: CallId(1), room: "general".into(), seq: 1 },
        );
        assert_eq!(erasure.judge::<ExactlyOnce>(), Ok(()));
        story.violates::<ExactlyOnce>("a message of alice was refused (position_ahead), yet it stands");
    }

    #[test]
    fn an_acknowledgement_of_a_call_that_nobody_made_is_found() {
        let mut story = Story::good();
        story.remove(|what| matches!(what, What::Published { call: CallId(1), .. }));
        story.violates::<ExactlyOnce>("call 1 was acknowledged, but nobody made it");
    }
}
