//! What is going to happen, in the order of (time, sequence number).
//!
//! The heap orders small keys; the events stay where they were put, because moving them about costs more than
//! comparing them. A process has at most one turn to come, and that is moved nearer all the time: turns have places of
//! their own beside the heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tigerchat_core::types::Instant;

use crate::network::Place;
use crate::world::Event;

#[derive(Debug)]
pub(crate) struct Queue {
    /// By process: when its turn comes, and its number among all that were ever put here.
    turns: Vec<Option<(Instant, u64)>>,
    /// When, the how manieth it is of all that were ever put here, and where it lies.
    order: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    events: Vec<Option<Event>>,
    /// Where nothing lies.
    free: Vec<usize>,
    sequence: u64,
}

impl Queue {
    pub(crate) fn new(processes: usize) -> Self {
        let turns = vec![None; processes];
        Self { turns, order: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), sequence: 0 }
    }

    /// Lets a process have its turn then, or when it was to have it, whichever comes first.
    pub(crate) fn plan_turn(&mut self, place: Place, at: Instant) {
        if self.turns[place].is_none_or(|(planned, _)| at < planned) {
            self.sequence += 1;
            self.turns[place] = Some((at, self.sequence));
        }
    }

    pub(crate) fn forget_turn(&mut self, place: Place) {
        self.turns[place] = None;
    }

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
        let turns = self.turns.iter().zip(0..).filter_map(|(turn, place)| Some((turn.as_ref()?, place)));
        let turn = turns.min().map(|((at, number), place)| (*at, *number, place));
        let event = self.order.peek().map(|Reverse((at, number, _))| (*at, *number));
        if let Some((at, number, place)) = turn.filter(|(at, ..)| *at <= end)
            && event.is_none_or(|event| (at, number) < event)
        {
            self.turns[place] = None;
            return Some((at, Event::Turn(place)));
        }
        event.filter(|(at, _)| *at <= end)?;
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
        let mut queue = Queue::new(0);
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

    #[test]
    fn a_turn_comes_once_and_in_its_order() {
        let mut queue = Queue::new(3);
        queue.plan_turn(1, Instant(7));
        queue.push(Instant(5), Event::User(0));
        queue.plan_turn(1, Instant(5));
        queue.plan_turn(1, Instant(6));
        queue.plan_turn(0, Instant(4));
        queue.plan_turn(2, Instant(4));
        queue.forget_turn(2);
        let mut came = Vec::new();
        while let Some((at, event)) = queue.next_until(Instant(9)) {
            came.push((at.0, matches!(event, Event::Turn(_))));
        }
        assert_eq!(came, [(4, true), (5, false), (5, true)]);
        queue.plan_turn(0, Instant(9));
        assert!(queue.next_until(Instant(8)).is_none() && queue.next_until(Instant(9)).is_some());
    }
}
