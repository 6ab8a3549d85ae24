//! What was erased is served to nobody who knows, or must know, of its erasure; who follows a room hears of it; and at
//! the end it is nowhere (I46).
//!
//! Who reads must know of an erasure when it was told something of that op or a later one before it asked: it was
//! acknowledged an op, it saw its room so far. A linearizable read must know all that anybody was told. A page that
//! reaches the entry of the erasure shows nothing of its message either, whoever asked. What was shown to somebody
//! before it becomes known to the checker that it was erased is judged then.

use std::collections::BTreeMap;

use io_sim::history::{CallId, Final, Observation, SeenMessage, UserId, Violation, What};
use tigerchat_core::wire::chat::KIND_ERASURE;

use super::{Checker, violated};

const NAME: &str = "erasing";
/// Who erases what others wrote.
const OPERATOR: &str = "operator";

/// A room and a sequence.
type At = (String, u64);

/// How far somebody knows the log and a room.
#[derive(Clone, Copy, Debug, Default)]
struct Floor {
    op: u64,
    seq: u64,
}

impl Floor {
    fn raise(&mut self, other: Self) {
        (self.op, self.seq) = (self.op.max(other.op), self.seq.max(other.seq));
    }

    /// Whether it reaches an erasure.
    fn knows(&self, erasure: &Self) -> bool {
        self.op >= erasure.op || self.seq >= erasure.seq
    }
}

/// What somebody was told.
#[derive(Debug, Default)]
struct Told {
    op: u64,
    rooms: BTreeMap<String, u64>,
}

impl Told {
    fn floor(&self, room: &str) -> Floor {
        Floor { op: self.op, seq: self.rooms.get(room).copied().unwrap_or(0) }
    }

    fn saw(&mut self, room: &str, seq: u64) {
        if let Some(known) = self.rooms.get_mut(room) {
            *known = seq.max(*known);
        } else {
            self.rooms.insert(room.to_owned(), seq);
        }
    }
}

#[derive(Debug, Default)]
pub struct Erasing {
    /// What calls are to erase.
    calls: BTreeMap<CallId, At>,
    /// The first op and entry by which each message was erased, as far as that is known.
    erased: BTreeMap<At, Floor>,
    /// Entries that say so, as they were acknowledged, and of which message.
    entries: BTreeMap<At, u64>,
    /// How much those knew to whom a message was shown as a whole.
    shown: BTreeMap<At, Floor>,
    told: BTreeMap<UserId, Told>,
    anybody: Told,
    reads: BTreeMap<CallId, Floor>,
    /// What who subscribes knew when it asked.
    asked: BTreeMap<(UserId, String), Floor>,
    subscribed: BTreeMap<(UserId, String), Floor>,
}

impl Checker for Erasing {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        if let What::Erases { call, room, seq, .. } = &seen.what {
            self.calls.insert(*call, (room.clone(), *seq));
            return Ok(());
        }
        // Nothing of this is held against a world in which nobody erases.
        if self.calls.is_empty() {
            return Ok(());
        }
        match &seen.what {
            What::Acknowledged { user, call, seq, op, .. } => self.acknowledged(*user, *call, *seq, *op),
            What::Subscribes { user, room } => {
                let floor = self.floor(*user, room);
                self.asked.insert((*user, room.clone()), floor);
                Ok(())
            }
            What::Subscribed { user, room, .. } => {
                let key = (*user, room.clone());
                let floor = self.asked.remove(&key).unwrap_or_default();
                self.subscribed.insert(key, floor);
                Ok(())
            }
            What::Delivered { user, message } => {
                let floor = self.subscribed.get(&(*user, message.room.clone())).copied().unwrap_or_default();
                self.saw(*user, &message.room, message.seq);
                self.message(message, floor)
            }
            What::HistoryCalled { user, call, room, linearizable, .. } => {
                let floor = if *linearizable { self.anybody.floor(room) } else { self.floor(*user, room) };
                self.reads.insert(*call, floor);
                Ok(())
            }
            What::HistoryRead { user, call, room, head, messages, .. } => {
                let mut floor = self.reads.remove(call).unwrap_or_default();
                floor.raise(Floor { op: 0, seq: *head });
                self.saw(*user, room, *head);
                messages.iter().try_for_each(|message| self.message(message, floor))
            }
            What::Cleared { replica, due, op, holds } => self.cleared(replica.0, *due, *op, holds),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, end: &Final) -> Result<(), Violation> {
        for replica in &end.replicas {
            let id = replica.replica.0;
            for room in &replica.rooms {
                let mut erased = BTreeMap::new();
                let authors: BTreeMap<u64, &str> =
                    room.messages.iter().map(|message| (message.seq, &*message.author)).collect();
                for message in &room.messages {
                    let Some(target) = erased_by(message) else { continue };
                    erased.insert(target, message.seq);
                    let author = authors.get(&target).copied().unwrap_or(&message.author);
                    if message.author != author && message.author != OPERATOR {
                        let (by, name) = (&message.author, &room.room);
                        return violated(
                            NAME,
                            format!("{by} erased message {target} of room {name}, which {author} wrote"),
                        );
                    }
                }
                for message in &room.messages {
                    let (seq, name) = (message.seq, &room.room);
                    let is_known =
                        self.erased.get(&(name.clone(), seq)).is_some_and(|erasure| erasure.seq <= room.head);
                    match (message.erased.is_some(), erased.contains_key(&seq)) {
                        (false, is_there) if is_there || is_known => {
                            return violated(
                                NAME,
                                format!(
                                    "replica {id} still has message {seq} of room {name}, which was erased"
                                ),
                            );
                        }
                        (true, false) => {
                            return violated(
                                NAME,
                                format!(
                                    "message {seq} of room {name} is erased on replica {id}, and no entry says so"
                                ),
                            );
                        }
                        _ => {}
                    }
                    self.is_entry(message)?;
                }
            }
        }
        Ok(())
    }
}

/// The message that an entry says was erased.
fn erased_by(message: &SeenMessage) -> Option<u64> {
    let body = std::str::from_utf8(&message.body).ok().filter(|_| message.kind == KIND_ERASURE)?;
    body.strip_prefix("{\"erased\":\"")?.strip_suffix("\"}")?.parse().ok()
}

impl Erasing {
    fn floor(&self, user: UserId, room: &str) -> Floor {
        self.told.get(&user).map(|told| told.floor(room)).unwrap_or_default()
    }

    fn saw(&mut self, user: UserId, room: &str, seq: u64) {
        self.told.entry(user).or_default().saw(room, seq);
        self.anybody.saw(room, seq);
    }

    fn acknowledged(&mut self, user: UserId, call: CallId, seq: u64, op: u64) -> Result<(), Violation> {
        let told = self.told.entry(user).or_default();
        told.op = told.op.max(op);
        self.anybody.op = self.anybody.op.max(op);
        let Some((room, target)) = self.calls.get(&call).cloned() else { return Ok(()) };
        self.saw(user, &room, seq);
        self.entries.insert((room.clone(), seq), target);
        self.learn(room, target, Floor { op, seq })
    }

    /// A message was erased by this op, with this entry.
    fn learn(&mut self, room: String, target: u64, erasure: Floor) -> Result<(), Violation> {
        let at = (room, target);
        let known = self.erased.entry(at.clone()).or_insert(erasure);
        (known.op, known.seq) = (known.op.min(erasure.op), known.seq.min(erasure.seq));
        let known = *known;
        match self.shown.get(&at) {
            Some(shown) if shown.knows(&known) => shown_to_who_knows(&at, &known),
            _ => Ok(()),
        }
    }

    /// Somebody who knew so much was shown a message.
    fn message(&mut self, message: &SeenMessage, floor: Floor) -> Result<(), Violation> {
        let at = (message.room.clone(), message.seq);
        self.is_entry(message)?;
        if let Some(target) = erased_by(message) {
            let erasure = Floor { op: u64::MAX, seq: message.seq };
            self.learn(message.room.clone(), target, erasure)?;
        }
        if message.erased.is_some() {
            return Ok(());
        }
        if let Some(erasure) = self.erased.get(&at)
            && floor.knows(erasure)
        {
            return shown_to_who_knows(&at, erasure);
        }
        self.shown.entry(at).or_default().raise(floor);
        Ok(())
    }

    /// Where an erasure was acknowledged its entry stands, for everybody.
    fn is_entry(&self, message: &SeenMessage) -> Result<(), Violation> {
        let at = (message.room.clone(), message.seq);
        match self.entries.get(&at) {
            Some(target) if message.erased.is_none() && erased_by(message) != Some(*target) => {
                let (room, seq) = at;
                violated(NAME, format!("message {seq} of room {room} does not say that {target} was erased"))
            }
            _ => Ok(()),
        }
    }

    fn cleared(&self, replica: u16, due: u64, op: u64, holds: &[At]) -> Result<(), Violation> {
        if op < due {
            return violated(
                NAME,
                format!(
                    "replica {replica} has rid its disk of what was erased up to op {op}, not up to {due}"
                ),
            );
        }
        let left = holds.iter().find(|at| self.erased.get(at).is_some_and(|erasure| erasure.op <= op));
        match left {
            Some((room, seq)) => violated(
                NAME,
                format!(
                    "message {seq} of room {room} was erased, and its body is on the disk of replica {replica}"
                ),
            ),
            None => Ok(()),
        }
    }
}

fn shown_to_who_knows((room, target): &At, erasure: &Floor) -> Result<(), Violation> {
    let seq = erasure.seq;
    violated(
        NAME,
        format!(
            "message {target} of room {room} was shown to somebody who knew that message {seq} erased it"
        ),
    )
}

#[cfg(test)]
mod tests {
    use tigerchat_core::types::ReplicaId;
    use tigerchat_core::wire::chat::Key;
    use tigerchat_core::wire::entry::Digest;

    use super::*;
    use crate::checkers::testing::Story;

    /// The good story, in which message 3 is bob's erasure of message 2, which was his, and what is read later shows it.
    fn erasing() -> Story {
        let mut story = Story::good();
        story.change_with_chain(|message| {
            if message.seq == 3 {
                (message.author, message.kind) = ("bob".into(), KIND_ERASURE);
                (message.content_type, message.body) =
                    ("application/json".into(), br#"{"erased":"2"}"#.to_vec());
            }
        });
        story.change(|what| match what {
            What::Published { call: CallId(3), user, author, body, .. } => {
                (*user, *author) = (UserId(1), "bob".into());
                *body = br#"{"erased":"2"}"#.to_vec();
            }
            What::Acknowledged { call: CallId(3), user, .. } => *user = UserId(1),
            What::HistoryRead { messages, .. } => erase(&mut messages[1]),
            _ => {}
        });
        story.insert_after(
            |what| matches!(what, What::Published { call: CallId(3), .. }),
            What::Erases { user: UserId(1), call: CallId(3), room: "general".into(), seq: 2 },
        );
        for replica in &mut story.end.replicas {
            erase(&mut replica.rooms[0].messages[1]);
        }
        story
    }

    fn erase(message: &mut SeenMessage) {
        message.erased = Some(message.content());
        (message.salt, message.body) = ([0; 16], Vec::new());
    }

    /// As before it was erased.
    fn whole(message: &mut SeenMessage) {
        (message.erased, message.salt, message.body) = (None, [3; 16], b"message 2".to_vec());
    }

    #[test]
    fn a_good_erasure_is_good() {
        assert_eq!(erasing().broken_promises(), [""; 0]);
    }

    #[test]
    fn a_page_that_reaches_the_erasure_and_shows_the_message_is_found() {
        let mut story = erasing();
        story.change(|what| {
            if let What::HistoryRead { messages, .. } = what {
                whole(&mut messages[1]);
            }
        });
        story.violates::<Erasing>(
            "message 2 of room general was shown to somebody who knew that message 3 erased it",
        );
    }

    #[test]
    fn a_page_of_who_knows_nothing_of_it_yet_may_show_it() {
        let mut story = erasing();
        story.change(|what| match what {
            What::HistoryRead { messages, head, .. } => {
                messages.pop();
                *head = 2;
                whole(&mut messages[1]);
            }
            // Somebody who has seen nothing.
            What::HistoryCalled { user, .. } => *user = UserId(9),
            _ => {}
        });
        assert_eq!(story.judge::<Erasing>(), Ok(()));
        story.change(|what| {
            if let What::HistoryCalled { linearizable, .. } = what {
                *linearizable = true;
            }
        });
        story.violates::<Erasing>("message 2 of room general was shown to somebody who knew");
    }

    #[test]
    fn a_page_below_its_readers_floor_that_shows_it_is_found() {
        let mut story = erasing();
        story.change(|what| {
            if let What::HistoryRead { messages, head, .. } = what {
                messages.pop();
                *head = 2;
                whole(&mut messages[1]);
            }
        });
        story.violates::<Erasing>("message 2 of room general was shown to somebody who knew");
    }

    #[test]
    fn who_subscribes_again_and_is_sent_it_is_found() {
        let mut story = erasing();
        let (user, room) = (UserId(1), String::from("general"));
        let message = story.copy(|what| matches!(what, What::Delivered { message, .. } if message.seq == 2));
        story.push(What::Unsubscribed { user, room: room.clone() });
        story.push(What::Subscribes { user, room: room.clone() });
        story.push(What::Subscribed { user, room, epoch: 1, next: 2 });
        let What::Delivered { message, .. } = message else { unreachable!("it was looked for") };
        let mut late = story.clone();
        late.push(What::Delivered { user, message: message.clone() });
        late.violates::<Erasing>(
            "message 2 of room general was shown to somebody who knew that message 3 erased it",
        );
        let mut gone = message;
        erase(&mut gone);
        story.push(What::Delivered { user, message: gone });
        assert_eq!(story.judge::<Erasing>(), Ok(()));
    }

    #[test]
    fn what_was_shown_before_anybody_could_know_is_judged_when_it_is_known() {
        let mut story = erasing();
        let acknowledged = story.take(|what| matches!(what, What::Acknowledged { call: CallId(3), .. }));
        story.remove(|what| matches!(what, What::Delivered { message, .. } if message.seq == 3));
        story.change(|what| match what {
            What::HistoryRead { messages, head, .. } => {
                messages.pop();
                *head = 2;
                whole(&mut messages[1]);
            }
            What::Acknowledged { call: CallId(1), op, .. } => *op = 5,
            _ => {}
        });
        // Bob had heard of op 5, by which it was gone, before he asked.
        let mut heard = story.copy(|what| matches!(what, What::Acknowledged { call: CallId(1), .. }));
        if let What::Acknowledged { user, .. } = &mut heard {
            *user = UserId(1);
        }
        story.insert_before(|what| matches!(what, What::HistoryCalled { .. }), heard);
        assert_eq!(story.judge::<Erasing>(), Ok(()));
        story.extend(acknowledged);
        story.violates::<Erasing>(
            "message 2 of room general was shown to somebody who knew that message 3 erased it",
        );
    }

    #[test]
    fn a_replica_that_still_has_it_at_the_end_is_found() {
        let mut story = erasing();
        whole(&mut story.end.replicas[2].rooms[0].messages[1]);
        story.violates::<Erasing>("replica 2 still has message 2 of room general, which was erased");
    }

    #[test]
    fn what_is_gone_and_nobody_hears_of_it_is_found() {
        let mut story = erasing();
        for replica in &mut story.end.replicas {
            erase(&mut replica.rooms[0].messages[0]);
        }
        story.violates::<Erasing>("message 1 of room general is erased on replica 0, and no entry says so");
        let mut story = erasing();
        story.change(|what| {
            if let What::Delivered { user: UserId(0), message } = what
                && message.seq == 3
            {
                message.kind = 1;
            }
        });
        story.violates::<Erasing>("message 3 of room general does not say that 2 was erased");
    }

    #[test]
    fn another_ones_message_that_a_user_erased_is_found() {
        let mut story = erasing();
        for replica in &mut story.end.replicas {
            replica.rooms[0].messages[2].author = "alice".into();
        }
        story.violates::<Erasing>("alice erased message 2 of room general, which bob wrote");
    }

    #[test]
    fn a_body_on_a_disk_that_is_said_to_be_clean_is_found() {
        let story = erasing();
        let (replica, holds) = (ReplicaId(1), vec![("general".into(), 1), ("general".into(), 2)]);
        let mut clean = story.clone();
        clean.push(What::Cleared { replica, due: 5, op: 9, holds: vec![("general".into(), 1)] });
        assert_eq!(clean.judge::<Erasing>(), Ok(()), "the first message was not erased");
        let mut left = story.clone();
        left.push(What::Cleared { replica, due: 5, op: 9, holds });
        left.violates::<Erasing>(
            "message 2 of room general was erased, and its body is on the disk of replica 1",
        );
        let mut late = story;
        late.push(What::Cleared { replica, due: 5, op: 4, holds: Vec::new() });
        late.violates::<Erasing>("replica 1 has rid its disk of what was erased up to op 4, not up to 5");
    }

    #[test]
    fn two_sights_of_a_message_are_one_unless_something_else_differs() {
        let key = Key::new(2, [1; 10]);
        let mut story = erasing();
        story.change(|what| {
            if let What::HistoryRead { messages, .. } = what {
                assert_eq!(messages[1].key, key);
                messages[1].erased = Some(Digest([7; 32]));
            }
        });
        assert!(story.broken_promises()[0].contains("its content gives"), "the chain knows its content");
    }
}
