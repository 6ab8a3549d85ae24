//! The chat state machine: rooms, messages, exactly once, presence. What a shard's log means.
//!
//! The one law: **`apply` is total and its effects follow from the log alone.** No input can stop it (H49), an
//! error leaves the state as it was (I24), and time is the op's timestamp plus the command's index. After the
//! machine was made it takes no memory: every table has its size from [`Limits`].

mod answer;
pub mod chain;
mod checkpoint;
mod dedup;
mod history;
mod index;
mod limits;
mod names;
mod presence;
mod rooms;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::fmt;

use sha2::{Digest as _, Sha256};

use self::dedup::{Dedup, Used};
use self::history::History;
use self::presence::{Change, Presence};
use self::rooms::{RoomId, Rooms};
use crate::errors::ErrorCode;
use crate::types::TenantId;
use crate::vsr::machine::{At, Machine, PutAnswer};
use crate::wire::chat::{
    COMMANDS_MAX, CONTENT_TYPE_MAX, Command, KIND_MESSAGE, MessageEvent, Outcome, Publish, ROOM_NAME_MAX,
    RoomEvent, USER_NAME_MAX,
};
use crate::wire::codec::{Malformed, Reader};
use crate::wire::entry::Digest;

pub use self::limits::{LIMITS, Limits};
pub use self::names::{is_room_name, is_user_name};

/// How far a key's time may be ahead of the op's.
pub const KEY_AHEAD_MS: u64 = 60_000;

const NEVER_FULL: &str = "a Vec is never full";

/// The state of one shard.
pub struct Chat {
    limits: Limits,
    seed: u64,
    rooms: Rooms,
    history: History,
    dedup: Dedup,
    presence: Presence,
}

/// A room as inspectors see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomView<'a> {
    pub tenant: TenantId,
    pub name: &'a str,
    pub epoch: u64,
    /// Oldest sequence in history; `head + 1` when there is none.
    pub first: u64,
    pub head: u64,
    /// Chain value at `head`.
    pub chain: Digest,
    /// Chain value at `first - 1`: where a verification of the history begins.
    pub anchor: Digest,
}

/// How full the tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub rooms: u32,
    pub messages: u32,
    pub message_bytes: u32,
    pub keys: u32,
    /// Keys of anybody before this Unix time in milliseconds are refused; zero until keys ran out.
    pub key_horizon_ms: u64,
    pub present: u32,
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
    /// When the limits are not [sane](Limits::is_sane): our own bug, since what a superblock says is checked.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::with_seed(limits, 0)
    }

    /// An empty shard whose tables hash with a seed. The seed changes nothing that anybody could see (H39); a
    /// secret one keeps clients from inventing names that collide.
    ///
    /// # Panics
    /// When the limits are not sane.
    #[must_use]
    pub fn with_seed(limits: Limits, seed: u64) -> Self {
        assert!(limits.is_sane(), "limits are checked where they come from: {limits:?}");
        Self {
            limits,
            seed,
            rooms: Rooms::new(limits.rooms, seed),
            history: History::new(&limits, seed),
            dedup: Dedup::new(&limits, seed),
            presence: Presence::new(&limits, seed),
        }
    }

    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            rooms: self.rooms.len(),
            messages: self.history.len(),
            message_bytes: u32::try_from(self.history.bytes()).expect("limits are below 4 GiB"),
            keys: self.dedup.len(),
            key_horizon_ms: self.dedup.horizon(),
            present: self.presence.stay_count(),
        }
    }

    /// All rooms, in the order in which they were opened.
    pub fn rooms(&self) -> impl Iterator<Item = RoomView<'_>> {
        (0..self.rooms.len()).map(|id| self.view(id))
    }

    #[must_use]
    pub fn room(&self, tenant: TenantId, name: &str) -> Option<RoomView<'_>> {
        self.rooms.find(tenant, name).map(|id| self.view(id))
    }

    /// The messages of a room that history holds, in ascending order.
    pub fn messages(&self, tenant: TenantId, name: &str) -> impl Iterator<Item = MessageEvent<'_>> {
        let room = self.rooms.find(tenant, name).map(|id| (id, self.rooms.get(id)));
        room.into_iter()
            .flat_map(move |(id, room)| (room.first..=room.head).map(move |seq| self.message(id, seq)))
    }

    /// Users present in a room, in order of their names.
    #[must_use]
    pub fn present(&self, tenant: TenantId, name: &str) -> Vec<&str> {
        self.rooms.find(tenant, name).map_or_else(Vec::new, |id| answer::sorted(self, id))
    }

    fn message(&self, id: RoomId, seq: u64) -> MessageEvent<'_> {
        let record = self.history.get(id, seq).expect("history holds first to head");
        match RoomEvent::decode(&mut Reader::new(record)) {
            Ok(RoomEvent::Message(message)) => message,
            _ => unreachable!("records are messages that were encoded here, or checked"),
        }
    }

    fn view(&self, id: RoomId) -> RoomView<'_> {
        let room = self.rooms.get(id);
        RoomView {
            tenant: room.tenant,
            name: self.rooms.name(id),
            epoch: room.epoch,
            first: room.first,
            head: room.head,
            chain: room.chain,
            anchor: room.anchor,
        }
    }

    fn execute(&mut self, turn: Turn, command: &Command<'_>, feed: &mut Vec<u8>) -> Outcome {
        let done = match *command {
            Command::RoomOpen { tenant, room, user } => self.open(turn, tenant, room, user, feed),
            Command::Publish(ref publish) => self.publish(turn, publish, feed),
            Command::Enter { tenant, room, user } => self.enter(turn, tenant, room, user, feed),
            Command::Leave { tenant, room, user } => self.leave(turn, tenant, room, user, feed),
        };
        done.unwrap_or_else(|refused| refused)
    }

    fn open(&mut self, turn: Turn, tenant: TenantId, name: &str, user: &str, feed: &mut Vec<u8>) -> Done {
        check_names(turn, name, user)?;
        let id = match self.rooms.find(tenant, name) {
            Some(id) => id,
            None if self.rooms.is_full() => return Err(turn.refused(ErrorCode::TooManyRooms)),
            None => {
                let epoch = turn.op;
                let opened = RoomEvent::Opened { tenant, room: name, epoch };
                opened.encode(feed).expect(NEVER_FULL);
                self.rooms.add(tenant, name, epoch)
            }
        };
        let room = self.rooms.get(id);
        Ok(Outcome { seq: room.head, epoch: room.epoch, chain: room.chain, ..turn.outcome() })
    }

    fn enter(&mut self, turn: Turn, tenant: TenantId, room: &str, user: &str, feed: &mut Vec<u8>) -> Done {
        check_names(turn, room, user)?;
        let id = self.find(turn, tenant, room)?;
        let outcome = Outcome { epoch: self.rooms.get(id).epoch, ..turn.outcome() };
        match self.presence.enter(id, user, turn.session) {
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
        if self.presence.leave(id, user, turn.session) == Change::User {
            let event = RoomEvent::Presence { tenant, room, user, present: false };
            event.encode(feed).expect(NEVER_FULL);
        }
        Ok(Outcome { epoch: self.rooms.get(id).epoch, ..turn.outcome() })
    }

    fn publish(&mut self, turn: Turn, publish: &Publish<'_>, feed: &mut Vec<u8>) -> Done {
        check_names(turn, publish.room, publish.user)?;
        check_content(turn, publish, &self.limits)?;
        let id = self.find(turn, publish.tenant, publish.room)?;
        let room = *self.rooms.get(id);
        let refused = |error| Outcome { epoch: room.epoch, ..turn.refused(error) };
        if let Some(used) = self.dedup.find(id, publish.tenant, publish.user, publish.key) {
            return repeated(used, publish, room.epoch, refused(ErrorCode::KeyConflict));
        }
        self.check_key(turn, publish).map_err(refused)?;
        if publish.parent > room.head {
            return Err(refused(ErrorCode::ParentUnknown));
        }
        if publish.expect_seq.is_some_and(|seq| seq != room.head) {
            return Err(Outcome { seq: room.head, ..refused(ErrorCode::ExpectationFailed) });
        }
        Ok(self.append(turn, publish, id, feed))
    }

    /// Executes a publish about which there is no more doubt.
    fn append(&mut self, turn: Turn, publish: &Publish<'_>, id: RoomId, feed: &mut Vec<u8>) -> Outcome {
        let room = self.rooms.get_mut(id);
        let mut message = MessageEvent {
            tenant: publish.tenant,
            room: publish.room,
            epoch: room.epoch,
            seq: room.head + 1,
            op: turn.op,
            index: turn.index,
            time: turn.time,
            author: publish.user,
            key: publish.key,
            kind: publish.kind,
            parent: publish.parent,
            chain: Digest::ZERO,
            salt: publish.salt,
            content_type: publish.content_type,
            body: publish.body,
        };
        let body = chain::salted(&publish.salt, publish.body);
        message.chain = chain::link(room.chain, &message, &body);
        room.head = message.seq;
        room.chain = message.chain;

        let start = feed.len();
        RoomEvent::Message(message).encode(feed).expect(NEVER_FULL);
        self.make_room(feed.len() - start);
        self.history.push(id, message.seq, message.chain, &feed[start..]);

        let used = Used {
            key: publish.key.0,
            salt: publish.salt,
            content: content(publish, &body),
            chain: message.chain,
            op: turn.op.into(),
            time: turn.time.into(),
            seq: message.seq.into(),
            index: turn.index.into(),
            room: id.into(),
            author: 0.into(),
        };
        self.dedup.insert(publish.tenant, publish.user, used);
        Outcome { seq: message.seq, epoch: message.epoch, chain: message.chain, ..turn.outcome() }
    }

    /// Removes the oldest messages of the shard until a record fits.
    fn make_room(&mut self, size: usize) {
        while !self.history.fits(size) {
            let removed = self.history.pop().expect("limits hold at least one message");
            let room = self.rooms.get_mut(removed.room);
            assert_eq!(room.first, removed.seq, "messages leave a room in order");
            room.first = removed.seq + 1;
            room.anchor = removed.chain;
        }
    }

    /// Whether a key that is not remembered may be used.
    fn check_key(&self, turn: Turn, publish: &Publish<'_>) -> Result<(), ErrorCode> {
        let (now, made) = (turn.time / 1_000_000, publish.key.unix_ms());
        let horizon = now.saturating_sub(self.limits.key_horizon_ms);
        if made < horizon.max(self.dedup.author_horizon(publish.tenant, publish.user)) {
            return Err(ErrorCode::KeyTooOld);
        }
        if made > now.saturating_add(KEY_AHEAD_MS) {
            return Err(ErrorCode::KeyFromFuture);
        }
        Ok(())
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

fn check_content(turn: Turn, publish: &Publish<'_>, limits: &Limits) -> Result<(), Outcome> {
    if publish.kind != KIND_MESSAGE {
        return Err(turn.refused(ErrorCode::KindUnknown));
    }
    if publish.content_type.len() > CONTENT_TYPE_MAX {
        return Err(turn.refused(ErrorCode::ContentTypeInvalid));
    }
    if publish.body.len() > limits.body_max as usize {
        return Err(turn.refused(ErrorCode::BodyTooLarge));
    }
    Ok(())
}

/// The result of a key that was used before: the first one again, or a conflict that names it.
/// The retry may carry another salt, having come through another edge, so it is hashed under the first one's.
fn repeated(used: &Used, publish: &Publish<'_>, epoch: u64, conflict: Outcome) -> Done {
    let seq = used.seq.get();
    if content(publish, &chain::salted(&used.salt, publish.body)) != used.content {
        return Err(Outcome { seq, ..conflict });
    }
    Ok(Outcome {
        error: None,
        duplicate: true,
        index: used.index.get(),
        op: used.op.get(),
        seq,
        time: used.time.get(),
        epoch,
        chain: used.chain,
    })
}

/// What must be equal for two publishes with one key to be the same; `body` is the salted digest.
/// Not `expect_seq`: it says when to publish, not what.
fn content(publish: &Publish<'_>, body: &Digest) -> Digest {
    let hash = Sha256::new()
        .chain_update(body.0)
        .chain_update([publish.kind])
        .chain_update(publish.parent.to_le_bytes())
        .chain_update(publish.content_type.as_bytes());
    Digest(hash.finalize().into())
}

impl Machine for Chat {
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
        self.presence.close(session, |id, user| {
            let (tenant, room) = (rooms.get(id).tenant, rooms.name(id));
            let event = RoomEvent::Presence { tenant, room, user, present: false };
            event.encode(feed).expect(NEVER_FULL);
        });
        0
    }

    fn query(&self, query: &[u8], answer: &mut dyn PutAnswer) {
        answer::query(self, query, answer);
    }

    fn encode(&self, out: &mut Vec<u8>) {
        checkpoint::encode(self, out);
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        *self = Self::with_seed(self.limits, self.seed);
        checkpoint::decode(self, bytes)
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

    fn encoded_max(&self) -> usize {
        checkpoint::encoded_max(&self.limits)
    }
}

impl Chat {
    /// Sizes alone: names of the right size that are not valid are answered with their own errors.
    fn is_within_limits(&self, command: &Command<'_>) -> bool {
        let (Command::RoomOpen { room, user, .. }
        | Command::Publish(Publish { room, user, .. })
        | Command::Enter { room, user, .. }
        | Command::Leave { room, user, .. }) = command;
        let content = match command {
            Command::Publish(publish) => {
                publish.content_type.len() <= CONTENT_TYPE_MAX
                    && publish.body.len() <= self.limits.body_max as usize
            }
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
