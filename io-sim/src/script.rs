//! Users who do what a scenario says, and nothing by themselves.

use tigerchat_core::wire::chat::Key;

use crate::clock::wall;
use crate::history::{Asked, CallId};
use crate::network::Place;
use crate::users::{Kind, Message, Mode, User, Wanted, json_body};
use crate::world::World;

impl World<'_> {
    pub(crate) fn add_user(&mut self, name: &str, home: Place) {
        let user = self.users.users.len();
        let id = u32::try_from(user).expect("few users");
        self.users.users.push(User::new(id, name.to_owned(), Kind::App));
        self.settle(user, home);
    }

    pub(crate) fn user_opens(&mut self, user: usize, room: &str) {
        self.set_out(user, Wanted::Open(room.to_owned()));
    }

    pub(crate) fn user_publishes(&mut self, user: usize, room: &str, parent: u64, text: &str) {
        let key = Key::new(wall(self.now).0 / 1_000_000, self.users.random.bytes());
        let call = CallId(self.users.next_call);
        let body = json_body(text).into_bytes();
        self.set_out(user, Wanted::Publish(Message { call, room: room.to_owned(), key, parent, body }));
    }

    pub(crate) fn user_reads(&mut self, user: usize, room: &str, asked: Asked) {
        self.set_out(user, Wanted::History { room: room.to_owned(), asked, linearizable: false });
    }

    pub(crate) fn user_subscribes(&mut self, user: usize, room: &str, since: Option<u64>, last: Option<u64>) {
        let mode = match (since, last) {
            (Some(seq), _) => Mode::Since(seq),
            (None, Some(count)) => Mode::Last(count),
            (None, None) => Mode::Now,
        };
        self.set_out(user, Wanted::Subscribe { room: room.to_owned(), mode });
    }

    pub(crate) fn user_unsubscribes(&mut self, user: usize, room: &str) {
        self.set_out(user, Wanted::Unsubscribe(room.to_owned()));
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
        if let Some(connection) = self.users.users[user].home.as_ref().map(|home| home.connection) {
            self.hang_up(connection);
        }
        self.leave_home(user);
        self.settle(user, home);
    }
}
