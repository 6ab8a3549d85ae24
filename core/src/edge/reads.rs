//! Questions to the shard: pages of history and who is present, asked of any replica, never below the floor.
//!
//! The one law: **a question is asked until it is answered or given up with an error**; an answer counts once.

use alloc::vec::Vec;
use core::time::Duration;

use rand_chacha::rand_core::Rng;

use super::Edge;
use crate::errors::ErrorCode;
use crate::io::{EdgeEffect, EdgeEffects};
use crate::pool::Message;
use crate::types::{ConnectionId, Instant, ReplicaId};
use crate::vsr::reads::LINEARIZABLE;
use crate::wire::chat::{AnswerHead, Key, Query};
use crate::wire::codec::Reader;
use crate::wire::frame::{Command, Frame};

/// An unanswered question goes to another replica after this.
const ASK_AGAIN: Duration = Duration::from_millis(150);
/// A replica that is behind is given this long.
const BEHIND: Duration = Duration::from_millis(20);
/// A question is given up after this.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Questions under way.
pub(super) const READS_MAX: usize = 1024;

/// What an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A subscription's next page, or its first.
    Subscription {
        room: usize,
    },
    History {
        id: u32,
        /// The parent, of a page of a thread.
        thread: u64,
    },
    Presence {
        id: u32,
    },
    /// Who wrote the message that is to be erased.
    Erase {
        id: u32,
        seq: u64,
        key: Key,
    },
}

#[derive(Debug)]
struct Read {
    nonce: u128,
    connection: ConnectionId,
    purpose: Purpose,
    floor: u64,
    /// Not just from what a replica has, but from what is committed anywhere as it is asked.
    linearizable: bool,
    query: Message,
    replica: ReplicaId,
    asked: Instant,
    /// When to ask again.
    again: Instant,
    /// How long a replica that is behind is given to catch up, the next time.
    patience: Duration,
    since: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Reads {
    list: Vec<Read>,
    /// Nothing has to be asked again before.
    due: Instant,
}

impl Reads {
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.list.is_empty()).then_some(self.due)
    }

    fn push(&mut self, read: Read) {
        self.due = if self.list.is_empty() { read.again } else { self.due.min(read.again) };
        self.list.push(read);
    }

    pub(super) fn holds(&self) -> usize {
        self.list.len()
    }

    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.list.retain(|read| read.connection != connection);
    }

    pub(super) fn forget_room(&mut self, connection: ConnectionId, room: usize) {
        self.list
            .retain(|read| (read.connection, read.purpose) != (connection, Purpose::Subscription { room }));
    }
}

impl Edge {
    /// Asks; false when there is no room for another question.
    pub(super) fn ask(
        &mut self,
        connection: ConnectionId,
        purpose: Purpose,
        query: &Query<'_>,
        (floor, linearizable): (u64, bool),
        effects: &mut EdgeEffects,
    ) -> bool {
        if self.reads.list.len() >= READS_MAX {
            return false;
        }
        let Some(mut draft) = self.pool.draft(256) else { return false };
        if query.encode(&mut draft).is_err() {
            return false;
        }
        let now = self.now.mono;
        let read = Read {
            nonce: u128::from(self.random.next_u64()) << 64 | u128::from(self.random.next_u64()),
            connection,
            purpose,
            floor,
            linearizable,
            query: draft.seal(),
            replica: if linearizable { self.session.primary } else { self.feed.replica },
            asked: now,
            again: now.after(ASK_AGAIN),
            patience: BEHIND,
            since: now,
        };
        effects.push(self.question(&read));
        self.reads.push(read);
        true
    }

    fn question(&self, read: &Read) -> EdgeEffect {
        let mut frame = self.session.frame(Command::Query);
        frame.header.nonce = read.nonce.into();
        frame.header.op = read.floor.into();
        frame.header.flags = if read.linearizable { LINEARIZABLE } else { 0 }.into();
        frame.payload = Some(read.query.clone());
        EdgeEffect::Send { to: self.session.address(read.replica), frame }
    }

    /// Asks another replica what was not answered, and gives up what has waited for too long.
    pub(super) fn ask_again(&mut self, effects: &mut EdgeEffects) {
        let now = self.now.mono;
        let mut at = 0;
        while at < self.reads.list.len() {
            let read = &mut self.reads.list[at];
            if now.since(read.since) >= GIVE_UP {
                let read = self.reads.list.swap_remove(at);
                self.gave_up(read.connection, read.purpose, effects);
                continue;
            }
            if read.again <= now {
                if read.linearizable {
                    read.replica = self.session.primary;
                } else if now.since(read.asked) >= ASK_AGAIN {
                    read.replica = self.session.next_replica(read.replica);
                }
                (read.asked, read.again) = (now, now.after(ASK_AGAIN));
                let question = self.question(&self.reads.list[at]);
                effects.push(question);
            }
            at += 1;
        }
        self.reads.due = self.reads.list.iter().map(|read| read.again).min().unwrap_or_default();
    }

    fn gave_up(&mut self, connection: ConnectionId, purpose: Purpose, effects: &mut EdgeEffects) {
        match purpose {
            Purpose::History { id, .. } | Purpose::Presence { id } | Purpose::Erase { id, .. } => {
                self.say_error(connection, id, ErrorCode::Behind, 0, effects);
                self.close_if_http(connection, effects);
            }
            Purpose::Subscription { room } => self.subscription_unanswered(connection, room, effects),
        }
    }

    pub(super) fn on_answer(&mut self, frame: &Frame, effects: &mut EdgeEffects) {
        let nonce = frame.header.nonce.get();
        let now = self.now.mono;
        let Some(at) = self.reads.list.iter().position(|read| read.nonce == nonce) else {
            self.stats.ignored += 1;
            return;
        };
        let mut reader = Reader::new(frame.body());
        let Ok(head) = AnswerHead::decode(&mut reader) else {
            self.stats.ignored += 1;
            return;
        };
        if head.error == Some(ErrorCode::Behind) || frame.header.commit.get() < self.reads.list[at].floor {
            let read = &mut self.reads.list[at];
            let soon = now.after(read.patience);
            (read.again, read.patience) = (soon, (read.patience * 2).min(ASK_AGAIN));
            self.reads.due = self.reads.due.min(soon);
            return;
        }
        let Read { connection, purpose, query, .. } = self.reads.list.swap_remove(at);
        let commit = frame.header.commit.get();
        if let Some(client) = self.connections.get_mut(&connection) {
            client.floor = client.floor.max(commit);
        }
        match purpose {
            Purpose::History { id, thread } => {
                self.history_page(connection, (id, thread), &head, reader, effects);
            }
            Purpose::Presence { id } => self.present(connection, id, &head, reader, effects),
            Purpose::Erase { id, seq, key } => {
                self.erase_what_was_read(connection, (id, seq, key), &query, &head, reader, effects);
            }
            Purpose::Subscription { room } => {
                self.subscription_page(connection, room, &head, commit, reader, effects);
            }
        }
    }
}
