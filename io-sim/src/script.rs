//! Users who do what a scenario says, and nothing by themselves.

use std::collections::BTreeMap;

use tigerchat_core::wire::chat::Key;

use crate::clock::wall;
use crate::history::{CallId, UserId};
use crate::network::Place;
use crate::users::{Message, Mode, User, Wanted};
use crate::world::World;

impl World<'_> {
    pub(crate) fn add_user(&mut self, name: &str, home: Place) {
        let id = UserId(u32::try_from(self.users.users.len()).expect("few users"));
        self.users.users.push(User {
            id,
            name: name.to_owned(),
            home: Some(home),
            floor: 0,
            in_flight: Vec::new(),
            subscriptions: BTreeMap::new(),
            entered: None,
            remembered: Vec::new(),
            opened: true,
            breaks_at: None,
        });
    }

    pub(crate) fn user_opens(&mut self, user: usize, room: &str) {
        self.set_out(user, Wanted::Open(room.to_owned()));
    }

    pub(crate) fn user_publishes(&mut self, user: usize, room: &str, body: Vec<u8>) {
        let key = Key::new(wall(self.now).0 / 1_000_000, self.users.random.bytes());
        let call = CallId(self.users.next_call);
        self.set_out(user, Wanted::Publish(Message { call, room: room.to_owned(), key, body }));
    }

    pub(crate) fn user_enters(&mut self, user: usize, room: &str, enters: bool) {
        let room = room.to_owned();
        self.set_out(user, if enters { Wanted::Enter(room) } else { Wanted::Leave(room) });
    }

    pub(crate) fn user_reads(&mut self, user: usize, room: &str) {
        self.set_out(user, Wanted::History { room: room.to_owned(), from: 0 });
    }

    pub(crate) fn user_subscribes(&mut self, user: usize, room: &str, since: Option<u64>, last: Option<u64>) {
        let mode = match (since, last) {
            (Some(seq), _) => Mode::Since(seq),
            (None, Some(count)) => Mode::Last(count),
            (None, None) => Mode::Now,
        };
        self.set_out(user, Wanted::Subscribe { room: room.to_owned(), mode });
    }

    /// Asks again what is not answered.
    pub(crate) fn user_retries(&mut self, user: usize) {
        self.users.users[user].in_flight.clone().into_iter().for_each(|call| self.ask(call));
    }

    /// Sends the message that was answered last once more.
    pub(crate) fn user_sends_again(&mut self, user: usize) {
        if let Some(last) = self.users.users[user].remembered.pop() {
            self.users.users[user].remembered = vec![last];
            self.send_again(user);
        }
    }

    /// Goes to another edge, resumes there and asks again.
    pub(crate) fn user_moves(&mut self, user: usize, home: Place) {
        self.leave_home(user);
        self.resume(user, home);
    }
}
