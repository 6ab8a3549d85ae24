//! The chat state machine: rooms, messages, exactly once, presence. What a shard's log means.
//!
//! The one law: **`apply` is total and its effects follow from the log alone.** No input can stop it (H49), an
//! error leaves the state as it was (I24), and time is the op's timestamp plus the command's index. Once warm the
//! machine takes no memory: every table has its size from [`Limits`].
//!
//! What is looked up all the time is in memory in a form of its own (`Rooms`, `Dedup`, `Presence`); all of it is
//! also in the [`Forest`], row by row, and messages are there alone.

mod answer;
pub mod chain;
mod checkpoint;
mod dedup;
mod erase;
pub mod export;
mod history;
mod index;
mod inspect;
mod limits;
mod names;
mod pages;
mod presence;
mod publish;
mod retention;
mod rooms;
mod shape;
mod tables;
#[cfg(test)]
mod tests;
mod threads;

use alloc::vec::Vec;
use core::fmt;

use self::dedup::Dedup;
use self::history::Scratch;
use self::presence::{Change, Presence};
use self::retention::Retention;
use self::rooms::{RoomId, Rooms};
use self::threads::Threads;
use crate::errors::ErrorCode;
use crate::store::forest::Forest;
use crate::store::history::reader::Blocks;
use crate::store::layout::Layout;
use crate::types::{FIRST_RELEASE, TenantId};
use crate::vsr::machine::{At, Machine, PutAnswer, Unanswered};
use crate::wire::chat::{
    COMMANDS_MAX, CONTENT_TYPE_MAX, Command, Erase, Outcome, Publish, ROOM_NAME_MAX, RoomEvent, USER_NAME_MAX,
};
use crate::wire::codec::{Malformed, Reader};
use crate::wire::entry::Digest;
use crate::wire::retention::Retain;

pub use self::erase::erased_seq;
pub use self::inspect::{RoomView, Usage};
pub use self::limits::{LIMITS, Limits};
pub use self::names::{is_room_name, is_user_name};
pub use self::shape::{forest_shape, shape_is_sane};

/// How far a key's time may be ahead of the op's.
pub const KEY_AHEAD_MS: u64 = 60_000;

const NEVER_FULL: &str = "a Vec is never full";

/// The state of one shard.
pub struct Chat {
    limits: Limits,
    seed: u64,
    /// Of the last executed op.
    release: u32,
    rooms: Rooms,
    dedup: Dedup,
    presence: Presence,
    threads: Threads,
    retention: Retention,
    forest: Forest,
    scratch: Scratch,
}

/// Where and by whom a command is executed.
#[derive(Clone, Copy)]
struct Turn {
    op: u64,
    index: u32,
    /// Unix nanoseconds.
    time: u64,
    session: u64,
}

impl Chat {
    /// An empty shard.
    ///
    /// # Panics
    /// When limits or [shape](shape_is_sane) are not sane: our own bug, since what a superblock says is checked.
    #[must_use]
    pub fn new(limits: Limits, layout: &Layout) -> Self {
        Self::with_seed(limits, layout, 0)
    }

    /// An empty shard whose tables hash with a seed. The seed changes nothing that anybody could see (H39); a
    /// secret one keeps clients from inventing names that collide.
    ///
    /// # Panics
    /// When limits or shape are not sane.
    #[must_use]
    pub fn with_seed(limits: Limits, layout: &Layout, seed: u64) -> Self {
        assert!(limits.is_sane(), "limits are checked where they come from: {limits:?}");
        Self::over(limits, seed, Forest::new(forest_shape(&limits, layout)))
    }

    /// Empty tables over a forest.
    fn over(limits: Limits, seed: u64, forest: Forest) -> Self {
        Self {
            limits,
            seed,
            release: FIRST_RELEASE,
            rooms: Rooms::new(limits.rooms, seed),
            dedup: Dedup::new(&limits, seed),
            presence: Presence::new(&limits, seed),
            threads: Threads::new(&limits, seed),
            retention: Retention::new(&limits),
            forest,
            scratch: Scratch::new(&limits),
        }
    }

    /// Under which the last op was executed.
    #[must_use]
    pub fn release(&self) -> u32 {
        self.release
    }

    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn execute(&mut self, turn: Turn, command: &Command<'_>, feed: &mut Vec<u8>) -> Outcome {
        let done = match *command {
            Command::RoomOpen { tenant, room, user } => self.open(turn, tenant, room, user, feed),
            Command::Publish(ref publish) => self.publish(turn, publish, feed),
            Command::Erase(ref erase) => self.erase(turn, erase, feed),
            Command::Retain(ref retain) => self.retain(turn, retain),
            Command::Enter { tenant, room, user } => self.enter(turn, tenant, room, user, feed),
            Command::Leave { tenant, room, user } => self.leave(turn, tenant, room, user, feed),
        };
        if done.is_ok_and(|outcome| !outcome.duplicate) {
            self.passed(turn.time);
        }
        done.unwrap_or_else(|refused| refused)
    }

    fn open(&mut self, turn: Turn, tenant: TenantId, name: &str, user: &str, feed: &mut Vec<u8>) -> Done {
        check_names(turn, name, user)?;
        let id = match self.rooms.find(tenant, name) {
            Some(id) => id,
            None if self.rooms.is_full() => return Err(turn.refused(ErrorCode::TooManyRooms)),
            None if self.forest.is_full() => return Err(turn.refused(ErrorCode::StorageFull)),
            None => {
                let epoch = turn.op;
                let opened = RoomEvent::Opened { tenant, room: name, epoch };
                opened.encode(feed).expect(NEVER_FULL);
                let id = self.rooms.add(tenant, name, epoch);
                tables::put_room(&mut self.forest, id, &self.rooms.row(id));
                id
            }
        };
        let room = self.rooms.get(id);
        Ok(Outcome { seq: room.head, epoch: room.epoch, chain: room.chain, ..turn.outcome() })
    }

    fn enter(&mut self, turn: Turn, tenant: TenantId, room: &str, user: &str, feed: &mut Vec<u8>) -> Done {
        check_names(turn, room, user)?;
        let id = self.find(turn, tenant, room)?;
        let outcome = Outcome { epoch: self.rooms.get(id).epoch, ..turn.outcome() };
        match self.presence.enter(&mut self.forest, id, user, turn.session) {
            Change::Nothing => {}
            Change::Refused => return Err(Outcome { error: Some(ErrorCode::TooManyPresent), ..outcome }),
            Change::User => {
                let event = RoomEvent::Presence { tenant, room, user, present: true };
                event.encode(feed).expect(NEVER_FULL);
            }
        }
        Ok(outcome)
    }

    fn leave(&mut self, turn: Turn, tenant: TenantId, room: &str, user: &str, feed: &mut Vec<u8>) -> Done {
        check_names(turn, room, user)?;
        let id = self.find(turn, tenant, room)?;
        if self.presence.leave(&mut self.forest, id, user, turn.session) == Change::User {
            let event = RoomEvent::Presence { tenant, room, user, present: false };
            event.encode(feed).expect(NEVER_FULL);
        }
        Ok(Outcome { epoch: self.rooms.get(id).epoch, ..turn.outcome() })
    }

    fn find(&self, turn: Turn, tenant: TenantId, room: &str) -> Result<RoomId, Outcome> {
        self.rooms.find(tenant, room).ok_or_else(|| turn.refused(ErrorCode::RoomUnknown))
    }
}

/// What became of a command: done, or refused without an effect.
type Done = Result<Outcome, Outcome>;

impl Turn {
    fn outcome(&self) -> Outcome {
        Outcome {
            error: None,
            duplicate: false,
            index: self.index,
            op: self.op,
            seq: 0,
            time: self.time,
            epoch: 0,
            chain: Digest::ZERO,
        }
    }

    fn refused(&self, error: ErrorCode) -> Outcome {
        Outcome { error: Some(error), ..self.outcome() }
    }
}

fn check_names(turn: Turn, room: &str, user: &str) -> Result<(), Outcome> {
    if !is_room_name(room) {
        return Err(turn.refused(ErrorCode::RoomNameInvalid));
    }
    if !is_user_name(user) {
        return Err(turn.refused(ErrorCode::UserNameInvalid));
    }
    Ok(())
}

impl Machine for Chat {
    fn set_release(&mut self, release: u32) {
        if self.release != release {
            self.release = release;
            tables::put_release(&mut self.forest, release);
        }
    }

    fn apply(
        &mut self,
        at: At,
        session: u64,
        commands: &[u8],
        reply: &mut Vec<u8>,
        feed: &mut Vec<u8>,
    ) -> u32 {
        let mut reader = Reader::new(commands);
        let mut count = 0;
        while !reader.is_empty() && (count as usize) < COMMANDS_MAX {
            let Ok(command) = Command::decode(&mut reader) else { break };
            let index = at.index.saturating_add(count);
            let time = at.time.saturating_add(u64::from(index));
            let turn = Turn { op: at.op, index, time, session };
            self.execute(turn, &command, feed).encode(reply).expect(NEVER_FULL);
            count += 1;
        }
        count
    }

    fn session_closed(&mut self, _at: At, session: u64, feed: &mut Vec<u8>) -> u32 {
        let rooms = &self.rooms;
        self.presence.close(&mut self.forest, session, |id, user| {
            let (tenant, room) = (rooms.get(id).tenant, rooms.name(id));
            let event = RoomEvent::Presence { tenant, room, user, present: false };
            event.encode(feed).expect(NEVER_FULL);
        });
        0
    }

    fn query(
        &self,
        query: &[u8],
        blocks: &mut dyn Blocks,
        answer: &mut dyn PutAnswer,
    ) -> Result<(), Unanswered> {
        answer::query(self, query, blocks, answer)
    }

    fn forest(&self) -> &Forest {
        &self.forest
    }

    fn forest_mut(&mut self) -> &mut Forest {
        &mut self.forest
    }

    fn restore(&mut self, forest: Forest) -> Result<(), Malformed> {
        checkpoint::require(forest.shape() == self.forest.shape())?;
        *self = Self::over(self.limits, self.seed, forest);
        checkpoint::restore(self)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.forest.pages().bytes());
    }

    fn check(&self, commands: &[u8]) -> bool {
        let mut reader = Reader::new(commands);
        let mut count = 0;
        while !reader.is_empty() {
            let Ok(command) = Command::decode(&mut reader) else { return false };
            count += 1;
            if count > COMMANDS_MAX || !self.is_within_limits(&command) {
                return false;
            }
        }
        true
    }
}

impl Chat {
    /// Sizes alone: names of the right size that are not valid are answered with their own errors.
    fn is_within_limits(&self, command: &Command<'_>) -> bool {
        let (Command::RoomOpen { room, user, .. }
        | Command::Publish(Publish { room, user, .. })
        | Command::Erase(Erase { room, user, .. })
        | Command::Retain(Retain { room, user, .. })
        | Command::Enter { room, user, .. }
        | Command::Leave { room, user, .. }) = command;
        let content = match command {
            Command::Publish(publish) => {
                publish.content_type.len() <= CONTENT_TYPE_MAX
                    && publish.body.len() <= self.limits.body_max as usize
            }
            Command::Erase(erase) => erase.author.len() <= USER_NAME_MAX,
            _ => true,
        };
        content && room.len() <= ROOM_NAME_MAX && user.len() <= USER_NAME_MAX
    }
}

impl fmt::Debug for Chat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chat").field("limits", &self.limits).field("usage", &self.usage()).finish()
    }
}
