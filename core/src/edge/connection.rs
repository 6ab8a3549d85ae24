//! A client's connection: who it is, what it has asked for, what waits for its socket.
//!
//! The one law: **what is said to a client is said in order and never dropped**; what would not fit the budget is
//! not said yet (its rooms fall back to reading from history, H55).

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::auth::User;
use crate::io::{EdgeEffect, EdgeEffects, Transport};
use crate::pool::{Draft, Message, Pool};
use crate::types::{ConnectionId, Instant};

/// Bytes of the buffers in which private replies of a turn are gathered.
const GATHER: usize = 4096;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) transport: Transport,
    pub(super) user: Option<User>,
    /// Commands whose outcome is not known yet.
    pub(super) in_flight: u32,
    pub(super) subscriptions: Vec<Subscription>,
    /// The highest op whose effects this client has seen: no read goes below (I15).
    pub(super) floor: u64,
    pub(super) heard: Instant,
    pub(super) pinged: Instant,
    /// Bytes handed to the socket that it has not taken yet.
    pub(super) queued: usize,
    /// When the socket last took something, while it has something to take.
    pub(super) drained: Instant,
    /// The line protocol's room.
    pub(super) room: Option<String>,
    /// Rooms that it joins, in order, until they are open.
    pub(super) joining: VecDeque<String>,
    /// It has something in `gathering`, or a subscription to look after.
    pub(super) touched: bool,
    gathering: Option<Draft>,
    /// The pool had no room for what had to be said.
    pub(super) broken: bool,
}

/// A client's place in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    /// Index of the room.
    pub(super) room: usize,
    /// The sequence that comes next.
    pub(super) next: u64,
    pub(super) state: SubscriptionState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubscriptionState {
    /// The first page was asked for; `id` is the command to answer.
    /// `epoch` is the room's incarnation that the client expects; zero: any.
    Opening {
        id: u32,
        epoch: u64,
    },
    /// Reading from history until it meets the live stream.
    CatchingUp {
        asked: bool,
    },
    Live,
}

impl Connection {
    pub(super) fn new(transport: Transport, now: Instant) -> Self {
        Self {
            transport,
            user: None,
            in_flight: 0,
            subscriptions: Vec::new(),
            floor: 0,
            heard: now,
            pinged: now,
            queued: 0,
            drained: now,
            room: None,
            joining: VecDeque::new(),
            touched: false,
            gathering: None,
            broken: false,
        }
    }

    /// Says something to this client alone. Gathered until the turn ends or something shared must follow it.
    pub(super) fn say(&mut self, me: ConnectionId, mut bytes: &[u8], pool: &Pool, effects: &mut EdgeEffects) {
        while !bytes.is_empty() && !self.broken {
            if self.gathering.as_ref().is_some_and(|draft| draft.remaining() == 0) {
                self.flush(me, effects);
            }
            if self.gathering.is_none() {
                self.gathering = pool.draft(GATHER);
            }
            let Some(draft) = &mut self.gathering else {
                self.broken = true;
                return;
            };
            let (now, later) = bytes.split_at(bytes.len().min(draft.remaining()));
            draft.extend(now).expect("measured");
            bytes = later;
        }
    }

    /// Says something that others are told too.
    pub(super) fn share(&mut self, me: ConnectionId, message: &Message, effects: &mut EdgeEffects) {
        self.flush(me, effects);
        self.queued += message.len();
        effects.push(EdgeEffect::Client { to: me, bytes: message.clone() });
    }

    /// Hands over what was gathered.
    pub(super) fn flush(&mut self, me: ConnectionId, effects: &mut EdgeEffects) {
        if let Some(draft) = self.gathering.take() {
            self.queued += draft.len();
            effects.push(EdgeEffect::Client { to: me, bytes: draft.seal() });
        }
    }

    pub(super) fn subscription(&mut self, room: usize) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.room == room)
    }
}
