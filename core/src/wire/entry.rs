//! An entry of the shard's log: an immutable header and a body, the same bytes wherever it lies.
//!
//! The SHA-256 of the header is the entry's digest; `parent` makes the chain (I09). Layout: `docs/formats.md`.
//! The body of an entry is a sequence of requests, each a [`RequestHeader`] and its commands.

use core::fmt;

use sha2::{Digest as _, Sha256};
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A SHA-256 value.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub const ZERO: Self = Self([0; 32]);

    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first half, for frames that have no room for all of it.
    #[must_use]
    pub fn half(&self) -> u128 {
        let (half, _) = self.0.split_first_chunk::<16>().expect("32 bytes hold 16");
        u128::from_le_bytes(*half)
    }

    /// The first eight bytes, for people and traces.
    #[must_use]
    pub fn short(&self) -> u64 {
        let (head, _) = self.0.split_first_chunk::<8>().expect("32 bytes hold 8");
        u64::from_be_bytes(*head)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.short())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Identifies a log entry wherever it lies. 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EntryHeader {
    pub cluster: U128,
    /// Digest of the entry of `op - 1`.
    pub parent: Digest,
    /// SHA-256 of the body.
    pub body: Digest,
    /// The view in which a primary made this entry. Non-decreasing along the log (I10).
    pub view: U64,
    pub op: U64,
    /// Unix nanoseconds, strictly increasing along the log; command `i` of the op has `timestamp + i`.
    pub timestamp: U64,
    /// Header and body, in bytes.
    pub size: U32,
    pub shard: U32,
    pub config: U32,
    /// Under whose rules it is executed. Non-decreasing along the log (I26).
    pub release: U32,
    pub version: u8,
    pub reserved: [u8; 7],
}

/// Bytes of an entry header.
pub const ENTRY_HEADER: usize = 128;
const _: () = assert!(size_of::<EntryHeader>() == ENTRY_HEADER);

/// The format of entries that this release writes.
pub const ENTRY_VERSION: u8 = 1;

impl EntryHeader {
    /// The entry's identity.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.as_bytes())
    }

    /// Splits an entry into header and body, checking sizes, version and the body's digest.
    #[must_use]
    pub fn split(entry: &[u8]) -> Option<(Self, &[u8])> {
        let (header, body) = Self::read_from_prefix(entry).ok()?;
        let whole = header.version == ENTRY_VERSION
            && header.reserved == [0; 7]
            && header.size.get() as usize == entry.len()
            && Digest::of(body) == header.body;
        whole.then_some((header, body))
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RequestKind {
    /// Commands for the chat state machine.
    Commands = 1,
    /// Opens a replication session for a client (an edge).
    Register = 2,
    /// Closes a session whose lease ran out. Made by the primary alone.
    Expire = 3,
    /// The members from the next entry on; empty: they stay as they are. Made by the primary alone.
    Reconfigure = 4,
    /// The header of this entry has the next release. Made by the primary alone.
    Upgrade = 5,
}

impl RequestKind {
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Commands),
            2 => Some(Self::Register),
            3 => Some(Self::Expire),
            4 => Some(Self::Reconfigure),
            5 => Some(Self::Upgrade),
            _ => None,
        }
    }
}

/// Precedes each request in an entry's body, and is the beginning of a request frame's payload. 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RequestHeader {
    /// The edge's id.
    pub client: U64,
    /// The op that registered the session; zero in a register.
    pub session: U64,
    /// 1, 2, 3, ... within the session; zero in a register.
    pub number: U64,
    /// Bytes of the commands that follow.
    pub size: U32,
    /// A [`RequestKind`].
    pub kind: U32,
    /// First half of the SHA-256 of the commands; echoed by the reply (H46).
    pub digest: U128,
}

/// Bytes of a request header.
pub const REQUEST_HEADER: usize = 48;
const _: () = assert!(size_of::<RequestHeader>() == REQUEST_HEADER);

impl RequestHeader {
    /// What `digest` must be for these commands.
    #[must_use]
    pub fn digest_of(commands: &[u8]) -> u128 {
        Digest::of(commands).half()
    }
}

/// Walks the requests of an entry's body. Ends early at anything malformed: a primary checks before it builds.
#[derive(Clone, Debug)]
pub struct Requests<'a> {
    body: &'a [u8],
}

impl<'a> Requests<'a> {
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self { body }
    }
}

impl<'a> Iterator for Requests<'a> {
    type Item = (RequestHeader, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, rest) = RequestHeader::read_from_prefix(self.body).ok()?;
        let (commands, rest) = rest.split_at_checked(header.size.get() as usize)?;
        self.body = rest;
        Some((header, commands))
    }
}
