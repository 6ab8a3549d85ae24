//! What goes by itself goes by the shard's rules (`docs/storage.md`, "Retention"): no message is gone before it is as old
//! as the rule allows, and none is served when it is older than that by what the documents say.
//!
//! How late it is for the shard nobody outside knows; but it knows of no later time than that of the latest entry that was
//! executed, and of none before that of the newest message of the room that a page speaks of.

use std::collections::BTreeMap;
use std::time::Duration;

use io_sim::history::{Final, Observation, SeenMessage, Violation, What};

use super::{Checker, Setup, violated};

const NAME: &str = "retention";

/// Parts of an age by which messages may be late: rooms of worlds remember six times, of which four are counted on.
const PARTS: u64 = 4;
/// A part is never shorter than a second, and what the shard counts by are whole seconds.
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Retention {
    /// Messages of a room that are kept, zero: all.
    most: u64,
    age: Option<Duration>,
    /// When messages were said, nanoseconds, by room and sequence.
    said: BTreeMap<String, BTreeMap<u64, u64>>,
    latest: u64,
}

impl Retention {
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let age = Some(Duration::from_secs(setup.room_age_s.into())).filter(|age| !age.is_zero());
        Self { most: setup.room_messages.into(), age, said: BTreeMap::new(), latest: 0 }
    }

    fn saw(&mut self, message: &SeenMessage) {
        if !self.said.contains_key(&message.room) {
            self.said.insert(message.room.clone(), BTreeMap::new());
        }
        self.said.get_mut(&message.room).expect("just put there").insert(message.seq, message.time);
    }

    fn said(&self, room: &str, seq: u64) -> Option<Duration> {
        self.said.get(room)?.get(&seq).copied().map(Duration::from_nanos)
    }

    /// Somebody says that a room has these messages.
    fn room(&self, room: &str, first: u64, head: u64) -> Result<(), Violation> {
        let Some(age) = self.age else { return Ok(()) };
        let by_number = self.most > 0 && first + self.most <= head + 1;
        let gone = first.checked_sub(1).filter(|_| !by_number).and_then(|seq| self.said(room, seq));
        if let Some(said) = gone.filter(|said| *said + age > Duration::from_nanos(self.latest)) {
            let old = Duration::from_nanos(self.latest).saturating_sub(said);
            let seq = first - 1;
            return violated(
                NAME,
                format!("message {seq} of room {room} is gone after {old:?}, and {age:?} were promised"),
            );
        }
        let late = Duration::from_secs(age.as_secs().div_ceil(PARTS)).max(SECOND) + SECOND;
        let (Some(oldest), Some(newest)) = (self.said(room, first), self.said(room, head)) else {
            return Ok(());
        };
        let old = newest.saturating_sub(oldest);
        if first < head && old > age + late {
            return violated(
                NAME,
                format!("message {first} of room {room} is served after {old:?}, and goes after {age:?}"),
            );
        }
        Ok(())
    }
}

impl Checker for Retention {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        if self.age.is_none() {
            return Ok(());
        }
        match &seen.what {
            What::Executed { time, .. } => self.latest = self.latest.max(*time),
            What::Delivered { message, .. } => self.saw(message),
            What::HistoryRead { room, first, head, messages, .. } => {
                messages.iter().for_each(|message| self.saw(message));
                return self.room(room, *first, *head);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, end: &Final) -> Result<(), Violation> {
        for room in end.replicas.iter().flat_map(|replica| &replica.rooms) {
            room.messages.iter().for_each(|message| self.saw(message));
            self.room(&room.room, room.first, room.head)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Story;
    use super::*;

    /// In a good history the three messages of the room were said at the first, second and third microsecond.
    fn with_times(times: [u64; 3]) -> Story {
        let mut story = Story::good();
        let time = move |message: &mut SeenMessage| {
            message.time = times[usize::try_from(message.seq - 1).expect("three")] * 1_000_000_000;
        };
        story.change_with_chain(time);
        story.change(|what| {
            if let What::Executed { time, .. } = what {
                *time = times[2] * 1_000_000_000;
            }
        });
        story
    }

    /// The room is said to begin with its third message.
    fn begins_late(story: &mut Story) {
        story.change(|what| {
            if let What::HistoryRead { first, messages, .. } = what {
                (*first, *messages) = (3, messages.split_off(2));
            }
        });
    }

    #[test]
    fn what_is_old_enough_may_be_gone() {
        let mut story = with_times([1, 2, 4]);
        begins_late(&mut story);
        assert_eq!(story.judge::<Retention>(), Ok(()));
    }

    #[test]
    fn what_is_gone_too_early_is_found() {
        let mut story = with_times([1, 3, 4]);
        begins_late(&mut story);
        story.violates::<Retention>("message 2 of room general is gone after 1s, and 2s were promised");
    }

    #[test]
    fn what_is_served_too_late_is_found() {
        assert_eq!(with_times([1, 3, 5]).judge::<Retention>(), Ok(()));
        let story = with_times([1, 3, 6]);
        story.violates::<Retention>("message 1 of room general is served after 5s, and goes after 2s");
    }
}
