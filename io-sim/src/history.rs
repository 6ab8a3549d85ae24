//! What an observer of a run may see: the input of every checker. The system under test never knows of it.

use tigerchat_core::errors::ErrorCode;
use tigerchat_core::types::{Address, Instant, ReplicaId};
use tigerchat_core::vsr::load::Load;
use tigerchat_core::vsr::membership::Members;
use tigerchat_core::wire::chat::Key;
use tigerchat_core::wire::entry::Digest;

/// A simulated user; keeps its number across reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserId(pub u32);

/// A call of a user: each publish attempt series (all retries with one key) is one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Something that happened, with its virtual time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub at: Instant,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A replica executed an op: its identity, and the digest of its machine's state if it was taken.
    Executed {
        replica: ReplicaId,
        op: u64,
        entry: Digest,
        parent: Digest,
        entry_view: u64,
        /// The config number in its header.
        config: u32,
        /// The release in its header.
        release: u32,
        /// The time in its header, Unix nanoseconds.
        time: u64,
    },
    /// A replica's wall clock as its process starts, or as somebody has set it: nanoseconds ahead of the world's.
    Clock {
        replica: ReplicaId,
        ahead: i64,
    },
    /// A replica's machine acts by another release than when it was last looked at: the one under which it executed
    /// `op`, its last one.
    Release {
        replica: ReplicaId,
        op: u64,
        release: u32,
    },
    /// A replica acts by these members from now on.
    Members {
        replica: ReplicaId,
        members: Members,
    },
    /// A replica's durable and visible position, after each of its turns in which it changed. Not while it is
    /// `Recovering`: until its disk is read it stands nowhere.
    Position {
        replica: ReplicaId,
        incarnation: u64,
        view: u64,
        log_view: u64,
        op: u64,
        commit: u64,
        checkpoint: u64,
    },
    /// A checkpoint became durable.
    Checkpointed {
        replica: ReplicaId,
        op: u64,
        state: Digest,
    },
    /// A replica that was started can't read its own checkpoint, and its superblock did not say so.
    StateLost {
        replica: ReplicaId,
        /// Its disk was never damaged, and reads from it do not fail.
        sound_disk: bool,
    },
    Crashed {
        replica: ReplicaId,
        power: bool,
    },
    Started {
        replica: ReplicaId,
    },
    /// One of the queues or tables of a replica or an edge is fuller than it was ever seen in this process.
    Fuller {
        at: Address,
        load: Load,
    },
    /// The run did not become quiet in time: what a replica waits for, in words.
    Waits {
        replica: ReplicaId,
        what: String,
    },
    /// A user sent a publish for the first time.
    Published {
        user: UserId,
        call: CallId,
        room: String,
        author: String,
        key: Key,
        /// The message that it answers; zero: none.
        parent: u64,
        body: Vec<u8>,
    },
    /// The acknowledgement reached the user.
    Acknowledged {
        user: UserId,
        call: CallId,
        seq: u64,
        op: u64,
        index: u32,
        time: u64,
        chain: Digest,
        epoch: u64,
        duplicate: bool,
    },
    /// A permanent error reached the user; the call has no effect, or (conflict) names the first.
    Refused {
        user: UserId,
        call: CallId,
        error: ErrorCode,
    },
    /// A user's subscription began: the next message delivered must be `next`. A lost connection ends it
    /// (`Unsubscribed`); the user who comes back and subscribes from where it was begins anew at that message.
    Subscribed {
        user: UserId,
        room: String,
        epoch: u64,
        next: u64,
    },
    Unsubscribed {
        user: UserId,
        room: String,
    },
    /// A live or caught-up message reached the user.
    Delivered {
        user: UserId,
        message: SeenMessage,
    },
    /// A history page was asked for and came; `head` as the answer said.
    HistoryCalled {
        user: UserId,
        call: CallId,
        room: String,
        asked: Asked,
        /// It must see everything that anybody had seen before.
        linearizable: bool,
    },
    HistoryRead {
        user: UserId,
        call: CallId,
        room: String,
        first: u64,
        head: u64,
        ends: Ends,
        messages: Vec<SeenMessage>,
    },
    /// The user told an edge that it entered or left (first time, or the connection was lost).
    Entered {
        user: UserId,
        room: String,
    },
    Left {
        user: UserId,
        room: String,
    },
    /// The call is to erase this message. What it publishes, the entry that says so, was told just before.
    Erases {
        user: UserId,
        call: CallId,
        room: String,
        seq: u64,
    },
    /// A user asks to be subscribed, for the first time on this connection. Told in worlds where something is erased.
    Subscribes {
        user: UserId,
        room: String,
    },
    /// At the end, after the operator saw to it that everything is gone that was erased by ops up to `due`: up to which
    /// op a replica says that it is gone from its disk, and messages whose bodies lie on that disk.
    Cleared {
        replica: ReplicaId,
        due: u64,
        op: u64,
        holds: Vec<(String, u64)>,
    },
    /// Faults have ended for a quorum core; everything outstanding must finish within the bound.
    Healed {
        core: Vec<ReplicaId>,
    },
    /// All outstanding work of all users finished.
    Quiet,
}

/// Which page a user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The parent whose answers are wanted; zero: the room.
    pub thread: u64,
    pub way: Way,
    pub limit: u32,
}

/// From where. Positions are sequences of the room, of a thread numbers of answers; times are Unix nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Newest,
    From(u64),
    Before(u64),
    Around(u64),
    Since(u64),
    Between(u64, u64),
    Until(u64),
}

/// What a page says of what it does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub older: bool,
    pub newer: bool,
    /// Of a thread: the first and the last number of an answer that there is.
    pub thread: Option<(u64, u64)>,
}

/// A message as a client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenMessage {
    pub room: String,
    pub epoch: u64,
    pub seq: u64,
    pub time: u64,
    pub author: String,
    pub key: Key,
    pub kind: u8,
    pub parent: u64,
    /// Its number among the answers to its parent; zero: it is none.
    pub thread_seq: u64,
    pub content_type: String,
    pub salt: [u8; 16],
    pub chain: Digest,
    /// Salt and body are gone, and this is the digest of both.
    pub erased: Option<Digest>,
    pub body: Vec<u8>,
}

impl SeenMessage {
    /// The digest of salt and body, also where they are gone.
    #[must_use]
    pub fn content(&self) -> Digest {
        self.erased.unwrap_or_else(|| Digest::of(&[&self.salt, &self.body[..]].concat()))
    }

    /// Whether both are sights of one message: it may have been erased between them.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        if self.erased.is_some() == other.erased.is_some() {
            return self == other;
        }
        let bare = |message: &Self| Self {
            erased: Some(message.content()),
            salt: [0; 16],
            body: Vec::new(),
            ..message.clone()
        };
        bare(self) == bare(other)
    }
}

/// The world after it became quiet: what every replica holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Final {
    pub replicas: Vec<FinalReplica>,
    /// Rooms and their users with a live, joined connection when all was quiet.
    pub connected: Vec<(String, Vec<String>)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalReplica {
    pub replica: ReplicaId,
    pub commit: u64,
    /// The digest of the encoded state.
    pub state: Digest,
    pub rooms: Vec<FinalRoom>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalRoom {
    pub room: String,
    pub epoch: u64,
    /// First sequence still held.
    pub first: u64,
    pub head: u64,
    pub messages: Vec<SeenMessage>,
    pub present: Vec<String>,
}

/// A broken promise, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub checker: &'static str,
    pub what: String,
}
