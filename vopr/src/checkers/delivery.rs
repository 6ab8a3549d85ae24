//! Each subscriber sees each room's sequence (I16, I17): contiguous from where it asked to begin, without gap,
//! duplicate, reordering or a message of another room, and nothing but what the final history holds.

use std::collections::BTreeMap;

use io_sim::history::{Final, Observation, SeenMessage, UserId, Violation, What};

use super::ledger::{FinalHistory, Ledger, Place};
use super::{Checker, violated};

const NAME: &str = "delivery";

#[derive(Debug, Default)]
pub struct Delivery {
    subscriptions: BTreeMap<(UserId, String), Subscription>,
    delivered: Ledger,
}

#[derive(Clone, Copy, Debug)]
struct Subscription {
    epoch: u64,
    next: u64,
}

impl Checker for Delivery {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match &seen.what {
            What::Subscribed { user, room, epoch, next } => {
                let subscription = Subscription { epoch: *epoch, next: *next };
                self.subscriptions.insert((*user, room.clone()), subscription);
                Ok(())
            }
            What::Unsubscribed { user, room } => {
                self.subscriptions.remove(&(*user, room.clone()));
                Ok(())
            }
            What::Delivered { user, message } => self.delivered(*user, message),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, end: &Final) -> Result<(), Violation> {
        let history = FinalHistory::of(end);
        for message in self.delivered.messages() {
            let (room, seq) = (&message.room, message.seq);
            match history.at(room, seq) {
                Place::Held(held) if held.is_same(message) => {}
                Place::Retired => {}
                Place::Held(_) | Place::Missing => {
                    return violated(
                        NAME,
                        format!(
                            "message {seq} of room {room} was delivered, but the final history does not hold it"
                        ),
                    );
                }
            }
        }
        for ((user, name), subscription) in &self.subscriptions {
            let head = history.rooms().find(|room| room.room == *name).map_or(0, |room| room.head);
            if subscription.next != head + 1 {
                let (user, next) = (user.0, subscription.next);
                return violated(
                    NAME,
                    format!(
                        "all is quiet at message {head} of room {name}, but user {user} still waits for {next}"
                    ),
                );
            }
        }
        Ok(())
    }
}

impl Delivery {
    fn delivered(&mut self, user: UserId, message: &SeenMessage) -> Result<(), Violation> {
        let (room, seq) = (&message.room, message.seq);
        let Some(subscription) = self.subscriptions.get_mut(&(user, room.clone())) else {
            let user = user.0;
            return violated(
                NAME,
                format!("user {user} got message {seq} of room {room} without a subscription"),
            );
        };
        let Subscription { epoch, next } = *subscription;
        if (message.epoch, seq) != (epoch, next) {
            let (user, came) = (user.0, message.epoch);
            return violated(
                NAME,
                format!(
                    "user {user} got message {seq} of room {room} (epoch {came}), but {next} (epoch {epoch}) was next"
                ),
            );
        }
        subscription.next += 1;
        match self.delivered.witness(message) {
            Ok(()) => Ok(()),
            Err(_) => violated(NAME, format!("message {seq} of room {room} was delivered with two contents")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    fn second_delivery(what: &What) -> bool {
        matches!(what, What::Delivered { user: UserId(1), message } if message.seq == 2)
    }

    #[test]
    fn h52_a_gap_is_found() {
        let mut story = Story::good();
        story.remove(second_delivery);
        story
            .violates::<Delivery>("user 1 got message 3 of room general (epoch 1), but 2 (epoch 1) was next");
    }

    #[test]
    fn a_duplicate_is_found() {
        let mut story = Story::good();
        story.repeat(second_delivery);
        story
            .violates::<Delivery>("user 1 got message 2 of room general (epoch 1), but 3 (epoch 1) was next");
    }

    #[test]
    fn two_deliveries_out_of_order_are_found() {
        let mut story = Story::good();
        let late = story.take(second_delivery);
        story.extend(late);
        story.violates::<Delivery>("user 1 got message 3 of room general");
    }

    #[test]
    fn a_message_of_a_room_that_was_not_subscribed_to_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Delivered { user: UserId(1), message } = what {
                message.room = "secret".into();
            }
        });
        story.violates::<Delivery>("user 1 got message 1 of room secret without a subscription");
    }

    #[test]
    fn h54_a_delivered_message_that_was_never_committed_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Delivered { message, .. } = what
                && message.seq == 3
            {
                message.body = b"speculative".to_vec();
            }
        });
        story.violates::<Delivery>(
            "message 3 of room general was delivered, but the final history does not hold it",
        );
    }

    #[test]
    fn two_subscribers_who_saw_different_contents_are_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Delivered { user: UserId(1), message } = what
                && message.seq == 2
            {
                message.body.push(b'!');
            }
        });
        story.violates::<Delivery>("message 2 of room general was delivered with two contents");
    }

    #[test]
    fn h51_a_subscriber_who_never_hears_of_the_last_message_is_found() {
        let mut story = Story::good();
        story.remove(|what| matches!(what, What::Delivered { user: UserId(1), message } if message.seq == 3));
        story.violates::<Delivery>("all is quiet at message 3 of room general, but user 1 still waits for 3");
    }
}
