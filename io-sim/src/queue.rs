//! What is going to happen, in the order of (time, sequence number).
//!
//! The heap orders small keys; the events stay where they were put, because moving them about costs more than
//! comparing them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tigerchat_core::types::Instant;

use crate::world::Event;

#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// When, the how manieth it is of all that were ever put here, and where it lies.
    order: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    events: Vec<Option<Event>>,
    /// Where nothing lies.
    free: Vec<usize>,
    sequence: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Instant, event: Event) {
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.sequence += 1;
        self.order.push(Reverse((at, self.sequence, place)));
    }

    /// Takes the next event, unless that comes after `end`.
    pub(crate) fn next_until(&mut self, end: Instant) -> Option<(Instant, Event)> {
        self.order.peek().filter(|Reverse((at, ..))| *at <= end)?;
        let Reverse((at, _, place)) = self.order.pop()?;
        self.free.push(place);
        let event = self.events[place].take().expect("each key names its event");
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_at_one_time_as_they_were_put() {
        let mut queue = Queue::default();
        for (at, user) in [(5, 0), (3, 1), (5, 2), (9, 3)] {
            queue.push(Instant(at), Event::User(user));
        }
        let mut came = Vec::new();
        while let Some((at, event)) = queue.next_until(Instant(5)) {
            let Event::User(user) = event else { panic!("only users were put here") };
            came.push(user);
            if user == 1 {
                queue.push(at, Event::User(4));
            }
        }
        assert_eq!(came, [1, 4, 0, 2]);
        assert!(queue.next_until(Instant(8)).is_none() && queue.next_until(Instant(9)).is_some());
    }
}
