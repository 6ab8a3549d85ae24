//! A replica under any sequence of events: frames of its peers and of edges with small field values, entries that
//! link and entries that do not, disks that answer late, wrongly or in another order, timers, restarts.
//!
//! The one law: **no event panics, and what a process has executed stays executed.** The frames are those of peers that may be
//! confused, not of peers that lie: an entry of a view has one parent, and only the primary of a view makes it.

use std::collections::BTreeMap;
use std::time::Duration;

use tigerchat_core::chat::{Chat, Limits};
use tigerchat_core::io::{DiskError, DiskOp, Effect, Event};
use tigerchat_core::pool::Pool;
use tigerchat_core::store::layout::{Layout, SUPERBLOCK_ZONE};
use tigerchat_core::store::superblock::{ShardConfig, Superblock};
use tigerchat_core::types::{
    Address, ClusterId, EdgeId, Instant, Now, ReplicaId, ShardId, TenantId, UnixNanos,
};
use tigerchat_core::vsr::membership::Members;
use tigerchat_core::vsr::replica::{Replica, Start, Status, pool_classes};
use tigerchat_core::wire::chat::Command as ChatCommand;
use tigerchat_core::wire::entry::{
    Digest, ENTRY_HEADER, ENTRY_VERSION, EntryHeader, RequestHeader, RequestKind,
};
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};
use zerocopy::IntoBytes;

use crate::targets::Target;

/// The targets of this file, by the names of their corpora.
pub const REPLICA_TARGETS: &[(&str, Target)] = &[("replica", replica)];

const CLUSTER: ClusterId = ClusterId(1);
const SHARD: ShardId = ShardId(1);
const REPLICAS: u8 = 3;
/// Events of one input; a longer one ends there.
const EVENTS_MAX: usize = 400;
/// Headers in a suffix.
const SUFFIX: usize = 6;

/// See the module. Each event is a few bytes of the input.
pub fn replica(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut world = World::new(ReplicaId(u16::from(bytes.next() % REPLICAS)));
    for _ in 0..EVENTS_MAX {
        if bytes.0.is_empty() {
            break;
        }
        world.step(&mut bytes);
    }
}

/// The input; zero behind its end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.next()) % bound.max(1)
    }

    /// Near a number that means something, and now and then far from it.
    fn near(&mut self, number: u64) -> u64 {
        match self.next() {
            0..=180 => number,
            by @ 181..=240 => number.saturating_add(u64::from(by % 9)).saturating_sub(4),
            241..=253 => 0,
            _ => u64::MAX,
        }
    }
}

/// An entry that some primary has made.
#[derive(Clone)]
struct Made {
    header: EntryHeader,
    entry: Vec<u8>,
    parent: Option<usize>,
}

struct World {
    me: ReplicaId,
    config: ShardConfig,
    pool: Pool,
    disk: Vec<u8>,
    replica: Option<Replica<Chat>>,
    waiting: Vec<DiskOp>,
    sent: Vec<Frame>,
    made: Vec<Made>,
    now: Now,
    counter: u64,
    /// What was executed since the last start, and up to where.
    executed: BTreeMap<u64, Digest>,
    seen: u64,
}

impl World {
    fn new(me: ReplicaId) -> Self {
        let config = ShardConfig {
            cluster: CLUSTER,
            shard: SHARD,
            replica: me,
            pipeline: 2,
            sessions: 2,
            window: 2,
            layout: Layout { wal_slots: 8, slot_sectors: 2, block_sectors: 2, blocks_max: 256, grid_step: 8 },
            // Small tables: a checkpoint has them all.
            limits: Limits { keys: 64, present: 32, ..Limits::tiny() },
        };
        let members = Members::first(REPLICAS, 2).expect("two of three are a quorum");
        let mut disk = vec![0; usize::try_from(config.layout.file_size_max()).expect("small")];
        disk[..SUPERBLOCK_ZONE].copy_from_slice(&Superblock::format(config.clone(), members).zone());
        let root = Made { header: config.root(), entry: Vec::new(), parent: None };
        let mut world = Self {
            me,
            pool: Pool::new(&pool_classes(&config, 8)),
            config,
            disk,
            replica: None,
            waiting: Vec::new(),
            sent: Vec::new(),
            made: vec![root],
            now: Now { mono: Instant(1_000_000_000), wall: UnixNanos(1_700_000_000_000_000_000) },
            counter: 0,
            executed: BTreeMap::new(),
            seen: 0,
        };
        world.start();
        world
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.next() % 64 {
            0..=7 => self.complete(bytes),
            8..=23 => (0..8).for_each(|_| self.complete(&mut Bytes(&[]))),
            24..=27 => self.peer_frame(bytes),
            28..=39 => self.prepare(bytes),
            40..=43 => self.suffix(bytes),
            44..=51 => self.make(bytes),
            52..=55 => self.edge_frame(bytes),
            56..=58 => self.echo(bytes),
            59 | 60 => {
                let by = Duration::from_millis(1 << bytes.below(13));
                self.now.mono = self.now.mono.after(by);
                self.now.wall.0 += u64::try_from(by.as_nanos()).expect("seconds");
                self.turn(Event::Elapsed);
            }
            61 => {
                let peer = self.peer(bytes);
                self.turn(Event::PeerReset(peer));
            }
            62 => self.start(),
            _ => self.restart_if_stopped(),
        }
    }

    fn restart_if_stopped(&mut self) {
        if self.replica.is_none() {
            self.start();
        }
    }

    /// The process starts (again): what it had not completed is lost.
    fn start(&mut self) {
        self.waiting.clear();
        self.sent.clear();
        // Confused peers may tell another story to one that has forgotten this one.
        self.executed.clear();
        self.seen = 0;
        let mut effects = Vec::new();
        let (chat, pool) = (Chat::new(self.config.limits, &self.config.layout), self.pool.clone());
        let zone = &self.disk[..SUPERBLOCK_ZONE];
        let start = Start::with_seed([7; 32]);
        let opened = Replica::open(zone, chat, pool, start, self.now, &mut effects);
        self.replica = Some(opened.expect("a superblock that was written can be read"));
        self.carry(effects);
    }

    fn turn(&mut self, event: Event) {
        let Some(replica) = &mut self.replica else { return };
        let mut effects = Vec::new();
        replica.on_event(self.now, event, &mut effects);
        replica.turn_ended(self.now, &mut effects);
        self.carry(effects);
        self.observe();
    }

    fn carry(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Disk(op) => self.waiting.push(op),
                Effect::Send { frame, .. } => {
                    if frame.header.command() == Command::Prepare {
                        self.learn(frame.body());
                    }
                    self.sent.push(frame);
                }
                Effect::Stop(_) => self.replica = None,
            }
        }
        let old = self.sent.len().saturating_sub(64);
        self.sent.drain(..old);
    }

    /// An entry that the replica has made itself.
    fn learn(&mut self, entry: &[u8]) {
        let (header, _) = EntryHeader::split(entry).expect("it sends whole entries");
        if self.made.iter().all(|made| made.header != header) {
            let parent = self.made.iter().position(|made| made.header.digest() == header.parent);
            self.made.push(Made { header, entry: entry.to_vec(), parent });
        }
    }

    fn observe(&mut self) {
        let Some(replica) = &self.replica else { return };
        let view = replica.observe();
        let linked = view.commit <= view.op && view.log_view <= view.view;
        assert!(linked || view.status == Status::Recovering, "{view:?}");
        for op in self.seen + 1..=view.commit {
            if let Some((_, digest)) = replica.committed(op) {
                let first = self.executed.entry(op).or_insert(digest);
                assert_eq!(*first, digest, "op {op} was executed with another entry");
            }
        }
        self.seen = view.commit;
    }

    /// One operation of the disk ends; rarely it fails.
    fn complete(&mut self, bytes: &mut Bytes<'_>) {
        if self.waiting.is_empty() {
            return;
        }
        let op = self.waiting.remove(bytes.below(self.waiting.len()));
        let failed = bytes.next();
        let (token, result) = match op {
            DiskOp::Read { token, .. } if failed >= 250 => (token, Err(DiskError::Read)),
            DiskOp::Write { token, .. } if failed >= 253 => (token, Err(DiskError::Write)),
            DiskOp::Write { token, .. } if failed >= 250 => (token, Err(DiskError::Full)),
            DiskOp::Sync { token } if failed >= 254 => (token, Err(DiskError::Fsync)),
            DiskOp::Read { token, offset, mut into } => {
                let from = usize::try_from(offset).expect("within the file");
                let len = into.len();
                into.bytes_mut().copy_from_slice(&self.disk[from..from + len]);
                (token, Ok(Some(into.seal())))
            }
            DiskOp::Write { token, offset, data, .. } => {
                let from = usize::try_from(offset).expect("within the file");
                self.disk[from..from + data.len()].copy_from_slice(&data);
                (token, Ok(None))
            }
            DiskOp::Sync { token } => (token, Ok(None)),
        };
        self.turn(Event::Stored { token, result });
    }

    fn peer(&self, bytes: &mut Bytes<'_>) -> Address {
        let by = 1 + bytes.next() % (REPLICAS - 1);
        let replica = ReplicaId((self.me.0 + u16::from(by)) % u16::from(REPLICAS));
        Address::Replica { shard: SHARD, replica }
    }

    fn receive(&mut self, from: Address, mut frame: Frame) {
        self.counter += 1;
        let to = Address::Replica { shard: SHARD, replica: self.me };
        frame.header.payload_digest = Digest::ZERO;
        frame.seal(from, to, 1, self.counter);
        let bytes = frame.header.as_bytes().try_into().expect("a header is its bytes");
        if FrameHeader::decode(bytes, frame.body().len()).is_ok() {
            self.turn(Event::Received { from, frame });
        }
    }

    fn frame(&self, command: Command, payload: &[u8]) -> Option<Frame> {
        let mut frame = Frame { header: FrameHeader::new(command, CLUSTER, SHARD), payload: None };
        if !payload.is_empty() {
            let mut draft = self.pool.draft(payload.len())?;
            draft.extend(payload).ok()?;
            frame.payload = Some(draft.seal());
        }
        Some(frame)
    }

    /// Numbers near those of the replica.
    fn numbers(&self, frame: &mut Frame, bytes: &mut Bytes<'_>) {
        let view = self.replica.as_ref().map(Replica::observe);
        let (view, op, commit) = view.map_or((0, 0, 0), |view| (view.view, view.op, view.commit_max));
        frame.header.view = bytes.near(view).into();
        frame.header.op = bytes.near(op).into();
        // Nobody says that more is committed than there is.
        frame.header.commit = bytes.near(commit).min(frame.header.op.get()).min(op).into();
        frame.header.a = bytes.near(op).into();
        frame.header.b = bytes.near(commit).into();
        frame.header.flags = u16::from(bytes.next() % 4).into();
        let asked = self.sent.iter().rev().map(|frame| frame.header.nonce).find(|nonce| nonce.get() != 0);
        if !bytes.next().is_multiple_of(4) {
            frame.header.nonce = asked.unwrap_or_default();
        }
    }
}

/// What others say.
impl World {
    /// Any command with numbers that may or may not fit, and any payload.
    fn peer_frame(&mut self, bytes: &mut Bytes<'_>) {
        let from = self.peer(bytes);
        let command = Command::ALL[bytes.below(Command::ALL.len())];
        // What carries log is made with care elsewhere.
        if matches!(command, Command::Prepare | Command::StartView | Command::DoViewChange) {
            return self.suffix(bytes);
        }
        let payload: Vec<u8> = match bytes.next() % 4 {
            0 => (0..bytes.below(40)).map(|_| bytes.next()).collect(),
            1 => self.headers(bytes.below(self.made.len())),
            _ => Vec::new(),
        };
        let Some(mut frame) = self.frame(command, &payload) else { return };
        self.numbers(&mut frame, bytes);
        if bytes.next().is_multiple_of(2) {
            // An op with its digest, as prepare_ok and request_prepare have it.
            let one = &self.made[bytes.below(self.made.len())].header;
            let half = one.digest().half();
            frame.header.op = one.op;
            frame.header.a = u64::try_from(half & u128::from(u64::MAX)).expect("masked").into();
            frame.header.b = u64::try_from(half >> 64).expect("shifted").into();
        }
        self.receive(from, frame);
    }

    /// The headers from an entry down.
    fn headers(&self, from: usize) -> Vec<u8> {
        let chain = std::iter::successors(Some(from), |at| self.made[*at].parent);
        chain.take(SUFFIX).flat_map(|at| self.made[at].header.as_bytes().to_vec()).collect()
    }

    /// A primary of some view makes an entry. Never two with the same view and op.
    fn make(&mut self, bytes: &mut Bytes<'_>) {
        let back = [0, 0, 0, 1, 2, 4][bytes.below(6)];
        let at = self.made.len().saturating_sub(1 + back);
        let parent = self.made[at].header;
        let view = parent.view.get() + [0, 0, 0, 0, 0, 1, 2, 3][bytes.below(8)];
        let op = parent.op.get() + 1;
        let primary = view % u64::from(REPLICAS);
        let taken = self.made.iter().any(|made| made.header.view.get() == view && made.header.op.get() >= op);
        if primary == u64::from(self.me.0) || taken || op > 40 {
            return;
        }
        let commands = command(bytes.next());
        let kind = if bytes.next().is_multiple_of(3) { RequestKind::Register } else { RequestKind::Commands };
        let body = request(1 + u64::from(bytes.next() % 2), u64::from(bytes.next() % 3), kind, &commands);
        let mut header = parent;
        header.parent = parent.digest();
        header.body = Digest::of(&body);
        header.view = view.into();
        header.op = op.into();
        header.timestamp = (self.now.wall.0 + op * 1000).max(parent.timestamp.get() + 1000).into();
        header.size = u32::try_from(ENTRY_HEADER + body.len()).expect("small").into();
        header.version = ENTRY_VERSION;
        let entry = [header.as_bytes(), &body].concat();
        self.made.push(Made { header, entry, parent: Some(at) });
    }

    fn prepare(&mut self, bytes: &mut Bytes<'_>) {
        let from = self.peer(bytes);
        // Mostly what comes next; else any of the newest.
        let head = self.replica.as_ref().map_or(0, |replica| replica.observe().op);
        let next = self.made.iter().rposition(|made| made.header.op.get() == head + 1);
        let newest = self.made.len() - 1 - bytes.below(self.made.len().min(6));
        let at = next.filter(|_| !bytes.next().is_multiple_of(4)).unwrap_or(newest);
        let Made { header, entry, .. } = self.made[at].clone();
        if entry.is_empty() {
            return;
        }
        let Some(mut frame) = self.frame(Command::Prepare, &entry) else { return };
        self.numbers(&mut frame, bytes);
        frame.header.op = header.op;
        frame.header.view = header.view.get().max(frame.header.view.get()).into();
        self.receive(from, frame);
    }

    /// A start_view or a do_view_change around a log that links.
    fn suffix(&mut self, bytes: &mut Bytes<'_>) {
        let at = self.made.len() - 1 - bytes.below(self.made.len().min(6));
        let head = self.made[at].header;
        let bits = |bits: u8| u128::from(bits).to_le_bytes();
        let (present, nack) = (bits(bytes.next()), bits(bytes.next() & 0x11));
        let payload = [&present, &nack, self.headers(at).as_slice()].concat();
        let start = bytes.next().is_multiple_of(2);
        let command = if start { Command::StartView } else { Command::DoViewChange };
        let Some(mut frame) = self.frame(command, &payload) else { return };
        self.numbers(&mut frame, bytes);
        frame.header.op = head.op;
        frame.header.commit = frame.header.commit.get().min(head.op.get()).into();
        let view = frame.header.view.get().max(head.view.get());
        frame.header.view = view.into();
        let mut from = self.peer(bytes);
        if start {
            let primary = u16::try_from(view % u64::from(REPLICAS)).expect("below 3");
            from = Address::Replica { shard: SHARD, replica: ReplicaId(primary) };
        } else {
            frame.header.a = head.view.get().max(frame.header.a.get().min(view)).into();
        }
        if from != (Address::Replica { shard: SHARD, replica: self.me }) {
            self.receive(from, frame);
        }
    }

    fn edge_frame(&mut self, bytes: &mut Bytes<'_>) {
        let edge = EdgeId(1 + u64::from(bytes.next() % 3));
        let commands = [Command::PingClient, Command::Follow, Command::Query, Command::Request];
        let mut command = commands[bytes.below(commands.len())];
        let payload = match bytes.next() % 4 {
            0 => (0..bytes.below(60)).map(|_| bytes.next()).collect(),
            1 => {
                command = Command::Request;
                request(edge.0, 0, RequestKind::Register, &[])
            }
            2 => {
                command = Command::Request;
                let commands = self::command(bytes.next());
                request(edge.0, u64::from(bytes.next() % 4), RequestKind::Commands, &commands)
            }
            _ => Vec::new(),
        };
        let Some(mut frame) = self.frame(command, &payload) else { return };
        self.numbers(&mut frame, bytes);
        self.receive(Address::Edge(edge), frame);
    }

    /// Something that the replica said itself, from a peer.
    fn echo(&mut self, bytes: &mut Bytes<'_>) {
        if self.sent.is_empty() {
            return;
        }
        let from = self.peer(bytes);
        let mut frame = self.sent[bytes.below(self.sent.len())].clone();
        frame.header.view = bytes.near(frame.header.view.get()).into();
        self.receive(from, frame);
    }
}

fn command(number: u8) -> Vec<u8> {
    let (mut bytes, tenant) = (Vec::new(), TenantId(1));
    let room = ["a", "b", "c"][usize::from(number % 3)];
    let command = match number % 4 {
        0 => ChatCommand::Enter { tenant, room, user: "ada" },
        1 => ChatCommand::Leave { tenant, room, user: "ada" },
        _ => ChatCommand::RoomOpen { tenant, room, user: "ada" },
    };
    command.encode(&mut bytes).expect("a Vec is never full");
    bytes
}

fn request(client: u64, number: u64, kind: RequestKind, commands: &[u8]) -> Vec<u8> {
    let session = if kind == RequestKind::Register { 0 } else { 1 + number / 2 };
    let number = if kind == RequestKind::Register { 0 } else { number };
    let commands = if kind == RequestKind::Register { &[] } else { commands };
    let header = RequestHeader {
        client: client.into(),
        session: session.into(),
        number: number.into(),
        size: u32::try_from(commands.len()).expect("small").into(),
        kind: (kind as u32).into(),
        digest: RequestHeader::digest_of(commands).into(),
    };
    [header.as_bytes(), commands].concat()
}
