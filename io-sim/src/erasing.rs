//! What users erase: mostly their own messages, now and then once more, and what is not theirs or not there.
//!
//! In a share of the worlds. What is drawn for it comes from a source of its own, so that all other worlds stay as they
//! are. Whether what was erased is gone, a checker of `vopr` looks at; what an operator does about it: `clearing`.
//!
//! The one law: **an erasure is a call like a publish**: it has one key for ever, and is told to observers as the
//! publish of the entry that it makes.

use std::collections::BTreeMap;
use std::time::Duration;

use tigerchat_core::types::Instant;
use tigerchat_core::wire::chat::Key;

use crate::clock::wall;
use crate::faults::{Damage, Drawn, Shape};
use crate::history::{CallId, What};
use crate::random::{Ppm, Random};
use crate::speech::key_text;
use crate::users::{Message, Users, Wanted};
use crate::world::World;

/// Worlds in which something is erased: of those with disks that an operator may look at, and of the others.
const WITH_OPERATOR: Ppm = 300_000;
const WITHOUT: Ppm = 80_000;
/// Calls that erase.
const CALLS: Ppm = 60_000;
/// Of these, calls that were answered and are made again.
const AGAIN: Ppm = 150_000;
/// Erasures that are remembered, to make one of them again.
const REMEMBERED: usize = 32;
/// No room becomes so long.
const FAR_AHEAD: u64 = 1_000_000;

/// What a seed draws of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erasures {
    /// An operator erases too, takes a step that often in the mean, and sees to it that the bytes are gone.
    pub operator: Option<Duration>,
}

impl Erasures {
    /// An operator is not in all worlds: where disks are sealed, bytes tell nothing; damaged ones keep what the replica
    /// overwrote, or have it elsewhere; and his session must not take the place of an edge's.
    pub(crate) fn draw(seed: u64, shape: &Shape, damage: Option<&Damage>) -> Option<Self> {
        let mut random = Random::new(seed, "erasures", 0);
        let every = Duration::from_millis(random.within(5..=60));
        let operates = !shape.sealed && damage.is_none() && shape.sessions > u16::from(shape.edges);
        let are_there = random.chance(if operates { WITH_OPERATOR } else { WITHOUT });
        are_there.then_some(Self { operator: operates.then_some(every) })
    }
}

/// A call that erases a message.
#[derive(Clone, Debug)]
pub(crate) struct Erasure {
    pub(crate) call: CallId,
    pub(crate) room: String,
    pub(crate) key: Key,
    pub(crate) seq: u64,
}

impl Erasure {
    /// As a client says it.
    pub(crate) fn said(&self) -> String {
        let Self { call, room, key, seq } = self;
        let (id, key) = (call.0, key_text(*key));
        format!(r#"{{"id":{id},"erase":{{"room":"{room}","key":"{key}","seq":"{seq}"}}}}"#)
    }

    /// The body of the entry that it makes.
    pub(crate) fn body(&self) -> Vec<u8> {
        format!(r#"{{"erased":"{}"}}"#, self.seq).into_bytes()
    }
}

/// A message that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) call: CallId,
    pub(crate) user: usize,
    pub(crate) room: String,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) key: Key,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Erasers {
    pub(crate) random: Random,
    are_there: bool,
    /// What may be erased, in the order in which it was acknowledged.
    pub(crate) known: Vec<Known>,
    /// Erasures that were answered, and whose they are.
    done: Vec<(usize, Erasure)>,
}

impl Erasers {
    pub(crate) fn new(drawn: &Drawn, seed: u64) -> Self {
        let random = Random::new(seed, "erasers", 0);
        Self { random, are_there: drawn.erasures.is_some(), known: Vec::new(), done: Vec::new() }
    }

    /// A message was acknowledged, perhaps not for the first time.
    pub(crate) fn said(&mut self, user: usize, message: &Message, (epoch, seq): (u64, u64)) {
        if self.are_there && !self.known.iter().rev().any(|known| known.call == message.call) {
            let Message { call, room, key, .. } = message;
            self.known.push(Known { call: *call, user, room: room.clone(), epoch, seq, key: *key });
        }
    }

    /// An erasure was acknowledged.
    pub(crate) fn erased(&mut self, user: usize, erasure: Erasure) {
        if self.done.len() < REMEMBERED && !self.done.iter().any(|(_, done)| done.call == erasure.call) {
            self.done.push((user, erasure));
        }
    }

    /// One of the messages that a user knows, his own or another's.
    fn some_known(&mut self, user: usize, own: bool) -> Option<(String, u64)> {
        let fitting: Vec<&Known> = self.known.iter().filter(|known| (known.user == user) == own).collect();
        let Known { room, seq, .. } = *fitting.get(self.random.index(fitting.len().max(1)))?;
        Some((room.clone(), *seq))
    }

    /// Which message a user sets out to erase.
    fn target(
        &mut self,
        user: usize,
        rooms: &[String],
        heads: &BTreeMap<String, u64>,
    ) -> Option<(String, u64)> {
        match self.random.below(10) {
            0..7 => self.some_known(user, true),
            7 => self.some_known(user, false),
            kind => {
                let room = self.random.pick(rooms).clone();
                let head = heads.get(&room).copied().unwrap_or(0);
                let seq = if kind == 8 { head + FAR_AHEAD } else { self.random.within(1..=head.max(1)) };
                Some((room, seq))
            }
        }
    }
}

impl Users {
    /// Perhaps a user sets out to erase something.
    pub(crate) fn some_erasure(&mut self, user: usize, now: Instant) -> Option<Wanted> {
        let Self { erasers, rooms, heads, next_call, .. } = self;
        if !erasers.are_there || !erasers.random.chance(CALLS) {
            return None;
        }
        let (room, seq) = erasers.target(user, rooms, heads)?;
        let key = Key::new(wall(now).0 / 1_000_000, erasers.random.bytes());
        Some(Wanted::Erase(Erasure { call: CallId(*next_call), room, key, seq }))
    }
}

impl World<'_> {
    /// Perhaps an erasure that was answered is called once more: with its key, so nothing else comes of it.
    pub(crate) fn erase_again(&mut self, user: usize) -> bool {
        let Erasers { random, are_there, done, .. } = &mut self.users.erasers;
        if !*are_there || !random.chance(AGAIN * (CALLS / 1_000) / 1_000) {
            return false;
        }
        let own: Vec<&Erasure> = done.iter().filter(|(of, _)| *of == user).map(|(_, done)| done).collect();
        let Some(erasure) = own.get(random.index(own.len().max(1))).copied().cloned() else { return false };
        self.repeat(user, erasure.call, Wanted::Erase(erasure));
        true
    }

    /// Tells of a call that erases.
    pub(crate) fn observe_erasure(&mut self, user: usize, erasure: &Erasure) {
        let (id, author) = (self.users.users[user].id, self.users.users[user].name.clone());
        let Erasure { call, room, key, seq } = erasure.clone();
        let (body, parent) = (erasure.body(), 0);
        self.observe(What::Published { user: id, call, room: room.clone(), author, key, parent, body });
        self.observe(What::Erases { user: id, call, room, seq });
    }

    /// Tells that a user asks to be subscribed: what it knows now, the edge knows when it answers.
    pub(crate) fn observe_question(&mut self, user: usize, room: String) {
        if self.users.erasers.are_there {
            let user = self.users.users[user].id;
            self.observe(What::Subscribes { user, room });
        }
    }
}
