//! A frame: one transmission between replicas and edges, around an entry or another payload.
//!
//! The header carries sender, *receiver*, incarnation and counter, so that a frame can't be replayed to someone
//! else, reflected or sent again. 256 bytes; the last 64 are the signature's, zero until peers sign.
//! Layout and the use of each field by each command: `docs/formats.md`.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::{Digest, EntryHeader};
use crate::pool::Message;
use crate::types::{Address, ClusterId, EdgeId, ReplicaId, ShardId};

/// What a frame is about. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Command {
    Ping = 1,
    Pong = 2,
    PingClient = 3,
    PongClient = 4,
    Request = 5,
    Reply = 6,
    Prepare = 7,
    PrepareOk = 8,
    Commit = 9,
    StartViewChange = 10,
    DoViewChange = 11,
    StartView = 12,
    RequestStartView = 13,
    RequestHeaders = 14,
    Headers = 15,
    RequestPrepare = 16,
    RequestReply = 17,
    RequestBlocks = 18,
    Block = 19,
    Eviction = 20,
    HandOver = 21,
    Follow = 22,
    Committed = 23,
    Query = 24,
    Answer = 25,
    Signal = 26,
    Reconfigure = 27,
    Members = 28,
}

impl Command {
    /// All commands, in the order of their numbers.
    pub const ALL: [Self; 28] = [
        Self::Ping,
        Self::Pong,
        Self::PingClient,
        Self::PongClient,
        Self::Request,
        Self::Reply,
        Self::Prepare,
        Self::PrepareOk,
        Self::Commit,
        Self::StartViewChange,
        Self::DoViewChange,
        Self::StartView,
        Self::RequestStartView,
        Self::RequestHeaders,
        Self::Headers,
        Self::RequestPrepare,
        Self::RequestReply,
        Self::RequestBlocks,
        Self::Block,
        Self::Eviction,
        Self::HandOver,
        Self::Follow,
        Self::Committed,
        Self::Query,
        Self::Answer,
        Self::Signal,
        Self::Reconfigure,
        Self::Members,
    ];

    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// Whether the payload is a log entry, whose digest then stands for the payload's.
    #[must_use]
    pub fn carries_entry(self) -> bool {
        matches!(self, Self::Prepare)
    }
}

/// See the module. All integers little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FrameHeader {
    /// SHA-256 of bytes 32..192 of this header.
    pub digest: Digest,
    /// SHA-256 of the payload; for a frame around an entry, the entry's digest; zero without payload.
    pub payload_digest: Digest,
    pub cluster: U128,
    /// Ties an answer to its question (request_start_view, ping, query, request digest in a reply).
    pub nonce: U128,
    /// One process start of the sender.
    pub incarnation: U64,
    /// Counts the frames that this incarnation of the sender sent.
    pub counter: U64,
    /// The sender's view, durable at the sender.
    pub view: U64,
    pub op: U64,
    /// The sender's commit number.
    pub commit: U64,
    /// By command.
    pub a: U64,
    /// By command.
    pub b: U64,
    /// Header and payload, in bytes.
    pub size: U32,
    pub shard: U32,
    pub config: U32,
    pub release: U32,
    pub sender: U64,
    pub receiver: U64,
    /// 1 replica, 2 edge.
    pub sender_kind: u8,
    pub receiver_kind: u8,
    pub command: u8,
    pub version: u8,
    /// By command.
    pub flags: U16,
    pub reserved: U16,
    pub signature: [u8; 64],
}

/// Bytes of a frame header.
pub const FRAME_HEADER: usize = 256;
const _: () = assert!(size_of::<FrameHeader>() == FRAME_HEADER);
const SIGNED: core::ops::Range<usize> = 32..192;

/// The format of frames that this release sends.
pub const FRAME_VERSION: u8 = 1;

/// No view, op or commit number of a replica comes near this: counting on from one never overflows.
pub const NUMBER_MAX: u64 = (1 << 62) - 1;

const KIND_REPLICA: u8 = 1;
const KIND_EDGE: u8 = 2;

/// Why a frame was dropped before its content was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrameError {
    HeaderDigest,
    PayloadDigest,
    Version,
    Command,
    Size,
    /// A view, op or commit number that nobody has counted to.
    Number,
    Cluster,
    Address,
}

fn pack(address: Address) -> (u8, u64, u32) {
    match address {
        Address::Replica { shard, replica } => (KIND_REPLICA, u64::from(replica.0), shard.0),
        Address::Edge(EdgeId(id)) => (KIND_EDGE, id, 0),
    }
}

fn unpack(kind: u8, id: u64, shard: u32) -> Option<Address> {
    match kind {
        KIND_REPLICA => {
            Some(Address::Replica { shard: ShardId(shard), replica: ReplicaId(u16::try_from(id).ok()?) })
        }
        KIND_EDGE => Some(Address::Edge(EdgeId(id))),
        _ => None,
    }
}

impl FrameHeader {
    /// A header with everything zero but what every frame of this shard has.
    #[must_use]
    pub fn new(command: Command, cluster: ClusterId, shard: ShardId) -> Self {
        let mut header = Self::new_zeroed();
        header.command = command as u8;
        header.version = FRAME_VERSION;
        header.cluster = U128::new(cluster.0);
        header.shard = U32::new(shard.0);
        header.release = U32::new(crate::types::RELEASE);
        header
    }

    fn new_zeroed() -> Self {
        Self::read_from_bytes(&[0; FRAME_HEADER]).expect("any 256 bytes are a header")
    }

    /// Parses and checks a header from outside: digest, version, command, sizes. `payload_max` bounds what the
    /// receiver will read next.
    pub fn decode(bytes: &[u8; FRAME_HEADER], payload_max: usize) -> Result<Self, FrameError> {
        let header = Self::read_from_bytes(bytes).expect("any 256 bytes are a header");
        if Digest::of(&bytes[SIGNED]) != header.digest {
            return Err(FrameError::HeaderDigest);
        }
        // Nobody signs yet: what stands where a signature will, is of a later version.
        if header.version != FRAME_VERSION || header.reserved.get() != 0 || header.signature != [0; 64] {
            return Err(FrameError::Version);
        }
        if Command::from_code(header.command).is_none() {
            return Err(FrameError::Command);
        }
        let size = header.size.get() as usize;
        if size < FRAME_HEADER || size - FRAME_HEADER > payload_max {
            return Err(FrameError::Size);
        }
        // What an edge asks for may be a client's number; replicas answer that there is no such op.
        let counted = [header.view, header.op, header.commit];
        if header.sender_kind == KIND_REPLICA && counted.iter().any(|number| number.get() > NUMBER_MAX) {
            return Err(FrameError::Number);
        }
        if header.from().is_none() || header.to().is_none() {
            return Err(FrameError::Address);
        }
        Ok(header)
    }

    /// # Panics
    /// On a header that was not decoded: our own bug.
    #[must_use]
    pub fn command(&self) -> Command {
        Command::from_code(self.command).expect("checked by decode")
    }

    #[must_use]
    pub fn payload_len(&self) -> usize {
        (self.size.get() as usize).saturating_sub(FRAME_HEADER)
    }

    #[must_use]
    pub fn from(&self) -> Option<Address> {
        unpack(self.sender_kind, self.sender.get(), self.shard.get())
    }

    #[must_use]
    pub fn to(&self) -> Option<Address> {
        unpack(self.receiver_kind, self.receiver.get(), self.shard.get())
    }
}

/// A header and what follows it. Cloning shares the payload.
#[derive(Clone, Debug)]
pub struct Frame {
    pub header: FrameHeader,
    pub payload: Option<Message>,
}

impl Frame {
    /// The payload, empty when there is none.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.payload.as_deref().unwrap_or(&[])
    }

    /// Fills in addresses, counters, sizes and digests: the last step before a frame leaves.
    /// `payload_digest` is set here unless its maker already did (one digest for all receivers).
    pub fn seal(&mut self, from: Address, to: Address, incarnation: u64, counter: u64) {
        let header = &mut self.header;
        let (kind, id, _) = pack(from);
        (header.sender_kind, header.sender) = (kind, U64::new(id));
        let (kind, id, _) = pack(to);
        (header.receiver_kind, header.receiver) = (kind, U64::new(id));
        header.incarnation = U64::new(incarnation);
        header.counter = U64::new(counter);
        let payload = self.payload.as_deref().unwrap_or(&[]);
        let size = u32::try_from(FRAME_HEADER + payload.len()).expect("frames are below 4 GiB");
        header.size = U32::new(size);
        if !payload.is_empty() && header.payload_digest == Digest::ZERO {
            header.payload_digest = payload_digest(header.command(), payload).expect("we made this payload");
        }
        header.digest = Digest::of(&header.as_bytes()[SIGNED]);
    }

    /// Joins a decoded header and the payload that followed it, checking the payload's digest. The body of an
    /// entry is checked by [`EntryHeader::split`].
    pub fn join(header: FrameHeader, payload: Option<Message>) -> Result<Self, FrameError> {
        let frame = Self { header, payload };
        let body = frame.body();
        if body.len() != header.payload_len() {
            return Err(FrameError::Size);
        }
        let expected =
            if body.is_empty() { Some(Digest::ZERO) } else { payload_digest(header.command(), body) };
        if expected != Some(header.payload_digest) {
            return Err(FrameError::PayloadDigest);
        }
        Ok(frame)
    }
}

fn payload_digest(command: Command, payload: &[u8]) -> Option<Digest> {
    if !command.carries_entry() {
        return Some(Digest::of(payload));
    }
    let (entry, _) = EntryHeader::ref_from_prefix(payload).ok()?;
    Some(entry.digest())
}

#[cfg(test)]
mod tests {
    use super::super::entry::ENTRY_HEADER;
    use super::*;
    use crate::pool::{Class, Pool};

    const TO: Address = Address::Edge(EdgeId(9));
    const FROM: Address = Address::Replica { shard: ShardId(3), replica: ReplicaId(1) };

    fn sealed() -> Frame {
        let mut frame =
            Frame { header: FrameHeader::new(Command::Ping, ClusterId(7), ShardId(3)), payload: None };
        frame.seal(FROM, TO, 5, 6);
        frame
    }

    #[test]
    fn a_sealed_header_comes_back() {
        let frame = sealed();
        let bytes = frame.header.as_bytes().try_into().unwrap();
        let header = FrameHeader::decode(bytes, 0).unwrap();
        assert_eq!((header.from(), header.to()), (Some(FROM), Some(TO)));
        assert_eq!(header, frame.header);
    }

    #[test]
    fn h28_every_flipped_bit_of_a_frame_header_is_refused() {
        let frame = sealed();
        let bytes: [u8; FRAME_HEADER] = frame.header.as_bytes().try_into().unwrap();
        for bit in 0..FRAME_HEADER * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&damaged, 1 << 20).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_number_that_no_replica_has_counted_to_is_refused() {
        let setters: [fn(&mut FrameHeader, U64); 3] =
            [|header, n| header.view = n, |header, n| header.op = n, |header, n| header.commit = n];
        for set in setters {
            for (number, from, fine) in
                [(NUMBER_MAX, FROM, true), (NUMBER_MAX + 1, FROM, false), (u64::MAX, TO, true)]
            {
                let mut frame = sealed();
                set(&mut frame.header, number.into());
                frame.seal(from, TO, 5, 6);
                let bytes = frame.header.as_bytes().try_into().unwrap();
                let expected = if fine { Ok(frame.header) } else { Err(FrameError::Number) };
                assert_eq!(FrameHeader::decode(bytes, 0), expected);
            }
        }
    }

    #[test]
    fn h28_every_flipped_bit_of_an_entry_header_in_a_frame_is_refused() {
        let mut entry = EntryHeader::read_from_bytes(&[0; ENTRY_HEADER]).unwrap();
        (entry.op, entry.size) = (3.into(), u32::try_from(ENTRY_HEADER).unwrap().into());
        let pool = Pool::new(&[Class { size: ENTRY_HEADER, count: 2 }]);
        let message = |bytes: &[u8]| {
            let mut draft = pool.draft(ENTRY_HEADER).unwrap();
            draft.extend(bytes).unwrap();
            Some(draft.seal())
        };
        let header = FrameHeader::new(Command::Prepare, ClusterId(7), ShardId(3));
        let mut frame = Frame { header, payload: message(entry.as_bytes()) };
        frame.seal(FROM, TO, 5, 6);
        for bit in 0..8 * ENTRY_HEADER {
            let mut bytes = entry.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let joined = Frame::join(frame.header, message(&bytes)).map(|_| ());
            assert_eq!(joined, Err(FrameError::PayloadDigest), "bit {bit}");
        }
        assert!(Frame::join(frame.header, message(entry.as_bytes())).is_ok());
    }
}
