//! What edges and the chat state machine say to each other: commands and their results, events, queries and
//! answers. Layouts: `docs/formats.md`, "Chat".
//!
//! Every item is length-prefixed, so that an item of a later release can be stepped over. Decoding borrows.

use super::codec::{Malformed, Put, Reader};
use super::entry::Digest;
use super::page::PageQuery;
use super::retention::{self, Retain};
use crate::errors::ErrorCode;
use crate::pool::Full;
use crate::types::TenantId;

/// Commands that one request may carry: bounds the reply.
pub const COMMANDS_MAX: usize = 256;
/// Longest room name, bytes.
pub const ROOM_NAME_MAX: usize = 128;
/// Longest user name, bytes.
pub const USER_NAME_MAX: usize = 64;
/// Longest content type, bytes.
pub const CONTENT_TYPE_MAX: usize = 64;
/// Content type of what came as JSON.
pub const JSON: &str = "application/json";
/// Longest message body unless configured otherwise, bytes.
pub const BODY_MAX: usize = 16 * 1024;

/// A client's idempotency key: 48 bits of Unix milliseconds (big-endian), then randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 16]);

impl Key {
    #[must_use]
    pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
        let mut key = [0; 16];
        key[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        key[6..].copy_from_slice(&random);
        Self(key)
    }

    /// When the client made it, by its own (server-corrected) clock.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.0[..6].iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte))
    }
}

/// A mutation, as it stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Creates the room unless it exists; either way the result names its epoch and head.
    RoomOpen {
        tenant: TenantId,
        room: &'a str,
        user: &'a str,
    },
    Publish(Publish<'a>),
    Erase(Erase<'a>),
    Retain(Retain<'a>),
    /// A user of this session's edge came into a room. Repeating it changes nothing.
    Enter {
        tenant: TenantId,
        room: &'a str,
        user: &'a str,
    },
    /// The last of this edge's connections of that user left the room.
    Leave {
        tenant: TenantId,
        room: &'a str,
        user: &'a str,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    pub tenant: TenantId,
    pub room: &'a str,
    pub user: &'a str,
    pub key: Key,
    /// 1: message. Edits, redactions, reactions and room state come with later numbers.
    pub kind: u8,
    /// The thread's parent; zero: none.
    pub parent: u64,
    /// Refuse unless the room's head is this.
    pub expect_seq: Option<u64>,
    /// 128 random bits drawn by the edge; they make an erased body unguessable.
    pub salt: [u8; 16],
    pub content_type: &'a str,
    pub body: &'a [u8],
}

/// Takes the content of a message away. Becomes an entry of the room of its own ([`KIND_ERASURE`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erase<'a> {
    pub tenant: TenantId,
    pub room: &'a str,
    /// Who erases. Whether they may was looked at where the message could be read: who wrote it never changes.
    pub user: &'a str,
    pub key: Key,
    /// The room's incarnation in which the message was read; zero: it was not, because retention had removed it.
    pub epoch: u64,
    /// The message.
    pub seq: u64,
    /// Its author and key, by which what deduplication keeps of its content is found.
    pub author: &'a str,
    pub of: Key,
    /// 128 random bits for the entry of the erasure itself.
    pub salt: [u8; 16],
    /// Whether the next checkpoints are to overwrite all that is free at once.
    pub now: bool,
}

/// Kind of an ordinary message.
pub const KIND_MESSAGE: u8 = 1;
/// Kind of an entry which says that an earlier message was erased. Its body names it: `{"erased":"7"}`.
pub const KIND_ERASURE: u8 = 2;

const ROOM_OPEN: u8 = 1;
const PUBLISH: u8 = 2;
const ENTER: u8 = 3;
const LEAVE: u8 = 4;
const ERASE: u8 = 5;
const RETAIN: u8 = 6;

impl<'a> Command<'a> {
    /// Bytes that [`Self::encode`] writes.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::RoomOpen { room, user, .. }
            | Self::Enter { room, user, .. }
            | Self::Leave { room, user, .. } => 4 + 1 + 4 + 1 + room.len() + 1 + user.len(),
            Self::Publish(publish) => {
                let names = 1 + publish.room.len() + 1 + publish.user.len() + 1 + publish.content_type.len();
                4 + 1 + 4 + names + 16 + 1 + 8 + 1 + 8 + 16 + 4 + publish.body.len()
            }
            Self::Erase(erase) => {
                let names = 1 + erase.room.len() + 1 + erase.user.len() + 1 + erase.author.len();
                4 + 1 + 4 + names + 16 + 8 + 8 + 16 + 16 + 1
            }
            Self::Retain(retain) => {
                4 + 1 + 4 + 1 + retain.room.len() + 1 + retain.user.len() + retention::RULES
            }
        }
    }

    pub fn encode(&self, out: &mut impl Put) -> Result<(), Full> {
        out.put_u32(u32::try_from(self.size() - 4).map_err(|_| Full)?)?;
        let (kind, tenant, room, user) = match *self {
            Self::RoomOpen { tenant, room, user } => (ROOM_OPEN, tenant, room, user),
            Self::Publish(publish) => (PUBLISH, publish.tenant, publish.room, publish.user),
            Self::Erase(erase) => (ERASE, erase.tenant, erase.room, erase.user),
            Self::Retain(retain) => (RETAIN, retain.tenant, retain.room, retain.user),
            Self::Enter { tenant, room, user } => (ENTER, tenant, room, user),
            Self::Leave { tenant, room, user } => (LEAVE, tenant, room, user),
        };
        out.put_u8(kind)?;
        out.put_u32(tenant.0)?;
        out.put_short(room.as_bytes())?;
        out.put_short(user.as_bytes())?;
        if let Self::Publish(publish) = self {
            out.put(&publish.key.0)?;
            out.put_u8(publish.kind)?;
            out.put_u64(publish.parent)?;
            out.put_u8(u8::from(publish.expect_seq.is_some()))?;
            out.put_u64(publish.expect_seq.unwrap_or(0))?;
            out.put(&publish.salt)?;
            out.put_short(publish.content_type.as_bytes())?;
            out.put_long(publish.body)?;
        }
        if let Self::Erase(erase) = self {
            out.put(&erase.key.0)?;
            out.put_u64(erase.epoch)?;
            out.put_u64(erase.seq)?;
            out.put_short(erase.author.as_bytes())?;
            out.put(&erase.of.0)?;
            out.put(&erase.salt)?;
            out.put_u8(u8::from(erase.now))?;
        }
        if let Self::Retain(retain) = self {
            retain.encode_rules(out)?;
        }
        Ok(())
    }

    /// Takes one command from the front.
    pub fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let mut fields = Reader::new(reader.long()?);
        let kind = fields.u8()?;
        let tenant = TenantId(fields.u32()?);
        let (room, user) = (fields.short_str()?, fields.short_str()?);
        let command = match kind {
            ROOM_OPEN => Self::RoomOpen { tenant, room, user },
            ENTER => Self::Enter { tenant, room, user },
            LEAVE => Self::Leave { tenant, room, user },
            PUBLISH => {
                let key = Key(fields.array()?);
                let (kind, parent) = (fields.u8()?, fields.u64()?);
                let expect_seq = match (fields.u8()?, fields.u64()?) {
                    (0, 0) => None,
                    (1, seq) => Some(seq),
                    _ => return Err(Malformed),
                };
                let salt = fields.array()?;
                let (content_type, body) = (fields.short_str()?, fields.long()?);
                Self::Publish(Publish {
                    tenant,
                    room,
                    user,
                    key,
                    kind,
                    parent,
                    expect_seq,
                    salt,
                    content_type,
                    body,
                })
            }
            ERASE => {
                let (key, epoch, seq) = (Key(fields.array()?), fields.u64()?, fields.u64()?);
                let (author, of) = (fields.short_str()?, Key(fields.array()?));
                let (salt, now) = (fields.array()?, flag(fields.u8()?)?);
                Self::Erase(Erase { tenant, room, user, key, epoch, seq, author, of, salt, now })
            }
            RETAIN => {
                let [messages, age_s] = retention::decode_rules(&mut fields)?;
                Self::Retain(Retain { tenant, room, user, messages, age_s })
            }
            _ => return Err(Malformed),
        };
        fields.finish()?;
        Ok(command)
    }
}

/// What became of a command: its place in the order, or an error. 80 bytes; a reply is one for each command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub error: Option<ErrorCode>,
    /// The key had been used before for the same content: everything else is the first outcome.
    pub duplicate: bool,
    /// Index of the command in its op.
    pub index: u32,
    pub op: u64,
    /// Sequence of the message; for room_open the head; for a conflict the first message; else zero.
    pub seq: u64,
    /// Unix nanoseconds of the commit.
    pub time: u64,
    /// The room's incarnation.
    pub epoch: u64,
    pub chain: Digest,
}

/// Bytes of an encoded [`Outcome`].
pub const OUTCOME: usize = 80;

impl Outcome {
    pub fn encode(&self, out: &mut impl Put) -> Result<(), Full> {
        out.put_u32(self.error.map_or(0, ErrorCode::code))?;
        out.put_u32(u32::from(self.duplicate))?;
        out.put_u32(self.index)?;
        out.put_u32(0)?;
        for field in [self.op, self.seq, self.time, self.epoch] {
            out.put_u64(field)?;
        }
        out.put(&self.chain.0)
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let error = match reader.u32()? {
            0 => None,
            code => Some(ErrorCode::from_code(code).ok_or(Malformed)?),
        };
        let duplicate = match reader.u32()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed),
        };
        let (index, 0) = (reader.u32()?, reader.u32()?) else { return Err(Malformed) };
        let (op, seq, time, epoch) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
        Ok(Self { error, duplicate, index, op, seq, time, epoch, chain: Digest(reader.array()?) })
    }
}

/// A committed message as edges, histories and exports see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageEvent<'a> {
    pub tenant: TenantId,
    pub room: &'a str,
    pub epoch: u64,
    pub seq: u64,
    pub op: u64,
    pub index: u32,
    /// Unix nanoseconds.
    pub time: u64,
    pub author: &'a str,
    pub key: Key,
    pub kind: u8,
    pub parent: u64,
    pub chain: Digest,
    pub salt: [u8; 16],
    pub content_type: &'a str,
    pub body: &'a [u8],
    /// Of a message that was erased `SHA-256(salt ‖ body)`, by which its chain value is verified. Salt and body are
    /// empty then.
    pub erased: Option<Digest>,
    pub thread: Thread,
}

/// A message's place in the thread that it belongs to, and the thread that it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Its number among the replies to its parent: 1, 2, 3, ... without gaps; zero: it answers nothing.
    pub seq: u64,
    /// Replies that it has, and the sequence of the last of them. In pages that were asked for alone: what is
    /// delivered live has none yet.
    pub replies: u64,
    pub last_reply: u64,
}

/// Bytes of an encoded [`Thread`] that says something.
const THREAD: usize = 8 * 3;

impl Thread {
    fn size(self) -> usize {
        1 + if self == Self::default() { 0 } else { THREAD }
    }

    fn encode(self, out: &mut impl Put) -> Result<(), Full> {
        let says_something = self != Self::default();
        out.put_u8(u8::from(says_something))?;
        if says_something {
            for field in [self.seq, self.replies, self.last_reply] {
                out.put_u64(field)?;
            }
        }
        Ok(())
    }

    fn decode(fields: &mut Reader<'_>) -> Result<Self, Malformed> {
        if !flag(fields.u8()?)? {
            return Ok(Self::default());
        }
        let thread = Self { seq: fields.u64()?, replies: fields.u64()?, last_reply: fields.u64()? };
        if thread == Self::default() { Err(Malformed) } else { Ok(thread) }
    }
}

/// What an op did that somebody may be waiting for. In the feed in the order in which it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomEvent<'a> {
    Message(MessageEvent<'a>),
    /// A user is now present in a room in which they were not (on any edge), or no longer.
    Presence {
        tenant: TenantId,
        room: &'a str,
        user: &'a str,
        present: bool,
    },
    /// The room was created.
    Opened {
        tenant: TenantId,
        room: &'a str,
        epoch: u64,
    },
}

const EVENT_MESSAGE: u8 = 1;
const EVENT_PRESENCE: u8 = 2;
const EVENT_OPENED: u8 = 3;
/// A message whose content is gone: its body is the digest.
const EVENT_ERASED: u8 = 4;

impl<'a> MessageEvent<'a> {
    #[must_use]
    pub fn size(&self) -> usize {
        let names = 1 + self.room.len() + 1 + self.author.len() + 1 + self.content_type.len();
        4 + 1
            + 4
            + names
            + 8
            + 8
            + 8
            + 4
            + 8
            + 16
            + 1
            + 8
            + 32
            + 16
            + 4
            + self.content().len()
            + self.thread.size()
    }

    /// What stands in the place of the body.
    fn content(&self) -> &[u8] {
        self.erased.as_ref().map_or(self.body, |digest| &digest.0)
    }
}

impl<'a> RoomEvent<'a> {
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Message(message) => message.size(),
            Self::Presence { room, user, .. } => 4 + 1 + 4 + 1 + room.len() + 1 + user.len() + 1,
            Self::Opened { room, .. } => 4 + 1 + 4 + 1 + room.len() + 8,
        }
    }

    pub fn encode(&self, out: &mut impl Put) -> Result<(), Full> {
        out.put_u32(u32::try_from(self.size() - 4).map_err(|_| Full)?)?;
        match *self {
            Self::Message(message) => {
                out.put_u8(if message.erased.is_some() { EVENT_ERASED } else { EVENT_MESSAGE })?;
                out.put_u32(message.tenant.0)?;
                out.put_short(message.room.as_bytes())?;
                out.put_short(message.author.as_bytes())?;
                out.put_short(message.content_type.as_bytes())?;
                out.put_u64(message.epoch)?;
                out.put_u64(message.seq)?;
                out.put_u64(message.op)?;
                out.put_u32(message.index)?;
                out.put_u64(message.time)?;
                out.put(&message.key.0)?;
                out.put_u8(message.kind)?;
                out.put_u64(message.parent)?;
                out.put(&message.chain.0)?;
                out.put(&message.salt)?;
                out.put_long(message.content())?;
                message.thread.encode(out)
            }
            Self::Presence { tenant, room, user, present } => {
                out.put_u8(EVENT_PRESENCE)?;
                out.put_u32(tenant.0)?;
                out.put_short(room.as_bytes())?;
                out.put_short(user.as_bytes())?;
                out.put_u8(u8::from(present))
            }
            Self::Opened { tenant, room, epoch } => {
                out.put_u8(EVENT_OPENED)?;
                out.put_u32(tenant.0)?;
                out.put_short(room.as_bytes())?;
                out.put_u64(epoch)
            }
        }
    }

    /// Takes one event from the front.
    pub fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let mut fields = Reader::new(reader.long()?);
        let kind = fields.u8()?;
        let tenant = TenantId(fields.u32()?);
        let room = fields.short_str()?;
        let event = match kind {
            EVENT_MESSAGE | EVENT_ERASED => {
                let is_erased = kind == EVENT_ERASED;
                let (author, content_type) = (fields.short_str()?, fields.short_str()?);
                let (epoch, seq, op, index) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u32()?);
                let (time, key) = (fields.u64()?, Key(fields.array()?));
                let (kind, parent) = (fields.u8()?, fields.u64()?);
                let (chain, salt, content) = (Digest(fields.array()?), fields.array()?, fields.long()?);
                let (erased, body) = if is_erased {
                    let digest = content.try_into().map_err(|_| Malformed)?;
                    (Some(Digest(digest)).filter(|_| salt == [0; 16]).ok_or(Malformed).map(Some)?, &[][..])
                } else {
                    (None, content)
                };
                let thread = Thread::decode(&mut fields)?;
                Self::Message(MessageEvent {
                    tenant,
                    room,
                    epoch,
                    seq,
                    op,
                    index,
                    time,
                    author,
                    key,
                    kind,
                    parent,
                    chain,
                    salt,
                    content_type,
                    body,
                    thread,
                    erased,
                })
            }
            EVENT_PRESENCE => {
                let (user, present) = (fields.short_str()?, flag(fields.u8()?)?);
                Self::Presence { tenant, room, user, present }
            }
            EVENT_OPENED => Self::Opened { tenant, room, epoch: fields.u64()? },
            _ => return Err(Malformed),
        };
        fields.finish()?;
        Ok(event)
    }
}

/// A read, answered from what a replica has committed. The frame carries the caller's floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// Messages `from..` upward, at most `limit` and at most as many bytes as the answer holds.
    /// `from` zero: the newest `limit`, still in ascending order.
    History { tenant: TenantId, room: &'a str, from: u64, limit: u32 },
    /// Everyone present in a room.
    Presence { tenant: TenantId, room: &'a str },
    /// A page that somebody asked for, of a room or of a thread.
    Page(PageQuery<'a>),
    /// How long messages of a room are kept; of no room: those of the tenant's.
    Retention { tenant: TenantId, room: &'a str },
}

const QUERY_HISTORY: u8 = 1;
const QUERY_PRESENCE: u8 = 2;
const QUERY_PAGE: u8 = 3;
const QUERY_RETENTION: u8 = 4;

impl<'a> Query<'a> {
    pub fn encode(&self, out: &mut impl Put) -> Result<(), Full> {
        match *self {
            Self::History { tenant, room, from, limit } => {
                out.put_u8(QUERY_HISTORY)?;
                out.put_u32(tenant.0)?;
                out.put_short(room.as_bytes())?;
                out.put_u64(from)?;
                out.put_u32(limit)
            }
            Self::Presence { tenant, room } => {
                out.put_u8(QUERY_PRESENCE)?;
                out.put_u32(tenant.0)?;
                out.put_short(room.as_bytes())
            }
            Self::Page(ref page) => {
                out.put_u8(QUERY_PAGE)?;
                out.put_u32(page.tenant.0)?;
                out.put_short(page.room.as_bytes())?;
                page.encode(out)
            }
            Self::Retention { tenant, room } => {
                out.put_u8(QUERY_RETENTION)?;
                out.put_u32(tenant.0)?;
                out.put_short(room.as_bytes())
            }
        }
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(bytes);
        let kind = fields.u8()?;
        let tenant = TenantId(fields.u32()?);
        let room = fields.short_str()?;
        let query = match kind {
            QUERY_HISTORY => Self::History { tenant, room, from: fields.u64()?, limit: fields.u32()? },
            QUERY_PRESENCE => Self::Presence { tenant, room },
            QUERY_PAGE => Self::Page(PageQuery::decode(tenant, room, &mut fields)?),
            QUERY_RETENTION => Self::Retention { tenant, room },
            _ => return Err(Malformed),
        };
        fields.finish()?;
        Ok(query)
    }
}

/// The fixed beginning of every answer; then, for history, `count` message events, for presence `count` user
/// names behind one-byte lengths, for retention a [`Retained`](super::retention::Retained). The frame carries the op at which it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    pub error: Option<ErrorCode>,
    pub epoch: u64,
    /// The room's first retained sequence (1 when nothing was removed; head + 1 when nothing is left).
    pub first: u64,
    pub head: u64,
    /// The chain value at the head.
    pub chain: Digest,
    /// Of a page of a thread: the first number of a reply that is still there and the last one; else zero.
    pub thread: [u64; 2],
    /// Items that follow.
    pub count: u32,
    /// Whether more exists beyond the last item (history: above it; presence: names that did not fit).
    pub more: bool,
    /// Of a page that was asked for: whether older ones exist below its first item.
    pub older: bool,
}

/// Bytes of an encoded [`AnswerHead`].
pub const ANSWER_HEAD: usize = 4 + 8 * 3 + 32 + 8 * 2 + 4 + 1;

impl AnswerHead {
    /// Of an answer that has nothing to say yet, or nothing but an error.
    #[must_use]
    pub fn bare(error: Option<ErrorCode>) -> Self {
        let (chain, thread) = (Digest::ZERO, [0; 2]);
        Self { error, epoch: 0, first: 0, head: 0, chain, thread, count: 0, more: false, older: false }
    }

    pub fn encode(&self, out: &mut impl Put) -> Result<(), Full> {
        out.put_u32(self.error.map_or(0, ErrorCode::code))?;
        out.put_u64(self.epoch)?;
        out.put_u64(self.first)?;
        out.put_u64(self.head)?;
        out.put(&self.chain.0)?;
        out.put_u64(self.thread[0])?;
        out.put_u64(self.thread[1])?;
        out.put_u32(self.count)?;
        out.put_u8(Self::ends(self.more, self.older))
    }

    /// The last byte of a head.
    #[must_use]
    pub fn ends(more: bool, older: bool) -> u8 {
        u8::from(more) | u8::from(older) << 1
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let error = match reader.u32()? {
            0 => None,
            code => Some(ErrorCode::from_code(code).ok_or(Malformed)?),
        };
        let (epoch, first, head) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (chain, thread) = (Digest(reader.array()?), [reader.u64()?, reader.u64()?]);
        let (count, ends) = (reader.u32()?, reader.u8()?);
        if ends > Self::ends(true, true) {
            return Err(Malformed);
        }
        let (more, older) = (ends & 1 != 0, ends & 2 != 0);
        Ok(Self { error, epoch, first, head, chain, thread, count, more, older })
    }
}

/// A yes or no is written in one way only.
fn flag(byte: u8) -> Result<bool, Malformed> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}
