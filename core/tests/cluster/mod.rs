//! A cluster in one thread: three nodes with memory disks, frames delivered in order, time moved by hand.
//! Enough to look at one behaviour at a time; worlds in which things break are `io-sim`'s.

#![allow(dead_code, reason = "each test uses another part of it")]

use std::collections::VecDeque;
use std::time::Duration;

use tigerchat_core::chat::{Chat, Limits};
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::io::*;
use tigerchat_core::node::{Node, NodeEvent};
use tigerchat_core::pool::{Message, Pool};
use tigerchat_core::store::layout::{Layout, SUPERBLOCK_ZONE};
use tigerchat_core::store::superblock::{OpenError, Superblock};
use tigerchat_core::types::*;
use tigerchat_core::vsr::machine::Machine as _;
use tigerchat_core::vsr::membership::{Change, Members};
use tigerchat_core::vsr::release::Releases;
use tigerchat_core::vsr::replica::{Replica, ShardConfig, Start, Status, Timeouts, View, pool_classes};
use tigerchat_core::wire::chat::{Command as ChatCommand, Key, Outcome, Publish};
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::entry::{REQUEST_HEADER, RequestHeader, RequestKind};
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};
use zerocopy::IntoBytes;

pub(crate) const CLUSTER: ClusterId = ClusterId(0xC1);
pub(crate) const SHARD: ShardId = ShardId(1);
pub(crate) const EDGE: EdgeId = EdgeId(77);
const FILE: FileId = FileId(0);
/// All of a disk is read within this.
pub(crate) const SCRUB_CYCLE: Duration = Duration::from_secs(5);

pub(crate) struct Outside {
    pub(crate) now: Now,
    pub(crate) disk: Vec<u8>,
    pub(crate) pool: Pool,
    pub(crate) sent: VecDeque<(Address, Address, Frame)>,
    pub(crate) submitted: Vec<DiskOp>,
    pub(crate) stopped: Option<Fatal>,
}

impl Clock for Outside {
    fn now(&self) -> Now {
        self.now
    }
}
impl Network for Outside {
    fn send(&mut self, from: Address, to: Address, frame: Frame) {
        self.sent.push_back((from, to, frame));
    }
}
impl Storage for Outside {
    fn submit(&mut self, _: FileId, op: DiskOp) {
        self.submitted.push(op);
    }
    fn turn_ended(&mut self) {}
}
impl Clients for Outside {
    fn send(&mut self, _: ConnectionId, _: Message) {}
    fn close(&mut self, _: ConnectionId, _: CloseCode) {}
}
impl Io for Outside {
    fn clients(&mut self) -> &mut dyn Clients {
        self
    }
    fn stop(&mut self, _: FileId, why: Fatal) {
        self.stopped = Some(why);
    }
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) outside: Vec<Outside>,
    pub(crate) config: ShardConfig,
    pub(crate) wire: VecDeque<(Address, Address, Frame)>,
    pub(crate) now: Now,
    /// Links that are cut, one way.
    pub(crate) cut: Vec<(Address, Address)>,
    /// Frames that no link carries.
    pub(crate) lost: Vec<Command>,
    pub(crate) to_edge: Vec<Frame>,
    /// Disks that stand still while everything else goes on.
    pub(crate) stalled: Vec<usize>,
    /// By how many milliseconds wall clocks are ahead, by node.
    pub(crate) clocks: Vec<(usize, i64)>,
    /// What each node's binary runs.
    pub(crate) binaries: Vec<Releases>,
    pub(crate) counter: u64,
    pub(crate) session: u64,
    pub(crate) number: u64,
    /// Called with true before and with false after each turn of a node.
    pub(crate) around_turn: fn(bool),
}

pub(crate) fn replica(at: usize) -> Address {
    Address::Replica { shard: SHARD, replica: ReplicaId(at as u16) }
}

impl Outside {
    fn members(&self) -> Members {
        Superblock::open(&self.disk).unwrap().members
    }

    fn formatted(config: &ShardConfig, replica: ReplicaId, members: Members, now: Now) -> Self {
        let config = ShardConfig { replica, ..config.clone() };
        let mut disk = vec![0; usize::try_from(config.layout.file_size_max()).unwrap()];
        disk[..SUPERBLOCK_ZONE].copy_from_slice(&Superblock::format(config.clone(), members).zone());
        let pool = Pool::new(&pool_classes(&config, 8));
        Self { now, disk, pool, sent: VecDeque::new(), submitted: Vec::new(), stopped: None }
    }
}

impl Cluster {
    pub(crate) fn new(replicas: u8) -> Self {
        Self::with_slots(replicas, 32)
    }

    pub(crate) fn with_slots(replicas: u8, wal_slots: u32) -> Self {
        let limits = Limits::tiny();
        let config = ShardConfig {
            cluster: CLUSTER,
            shard: SHARD,
            replica: ReplicaId(0),
            pipeline: 4,
            sessions: 4,
            window: 4,
            layout: Layout { wal_slots, slot_sectors: 2, block_sectors: 2, blocks_max: 1024, grid_step: 16 },
            limits,
        };
        let now = Now { mono: Instant(1_000_000_000), wall: UnixNanos(1_700_000_000_000_000_000) };
        let members = Members::first(replicas, replicas / 2 + 1).unwrap();
        let outside = (0..replicas)
            .map(|at| Outside::formatted(&config, ReplicaId(u16::from(at)), members.clone(), now))
            .collect();
        let mut cluster = Self {
            nodes: (0..replicas).map(|_| None).collect(),
            outside,
            config,
            wire: VecDeque::new(),
            now,
            cut: Vec::new(),
            lost: Vec::new(),
            to_edge: Vec::new(),
            stalled: Vec::new(),
            clocks: Vec::new(),
            binaries: vec![Releases::OURS; usize::from(replicas)],
            counter: 0,
            session: 0,
            number: 0,
            around_turn: |_| {},
        };
        for at in 0..usize::from(replicas) {
            cluster.start(at);
        }
        cluster.settle();
        cluster
    }

    /// The same cluster on new files, for a configuration that was changed.
    pub(crate) fn formatted_anew(mut self) -> Self {
        for at in 0..self.nodes.len() {
            self.crash(at);
            let members = self.outside[at].members();
            self.outside[at] = Outside::formatted(&self.config, ReplicaId(at as u16), members, self.now);
        }
        (0..self.nodes.len()).for_each(|at| self.start(at));
        self.settle();
        self
    }

    pub(crate) fn start(&mut self, at: usize) {
        self.try_start(at).unwrap();
    }

    pub(crate) fn try_start(&mut self, at: usize) -> Result<(), OpenError> {
        let now = self.time_of(at);
        let outside = &mut self.outside[at];
        outside.now = now;
        let mut effects = Vec::new();
        let zone = outside.disk[..SUPERBLOCK_ZONE].to_vec();
        let machine = Chat::new(self.config.limits, &self.config.layout);
        let timeouts = Timeouts { scrub_cycle: SCRUB_CYCLE, ..Timeouts::default() };
        let start = Start { timeouts, binary: self.binaries[at], ..Start::with_seed([at as u8 + 1; 32]) };
        let pool = outside.pool.clone();
        let replica = Replica::open(&zone, machine, pool, start, now, &mut effects)?;
        let mut node = Node::new();
        node.add_replica(FILE, replica, effects, outside);
        self.nodes[at] = Some(node);
        self.outside[at].stopped = None;
        Ok(())
    }

    /// Starts a replica of the next id whose file was made to join.
    pub(crate) fn join(&mut self) -> ReplicaId {
        let (at, id) = (self.nodes.len(), ReplicaId(self.nodes.len() as u16));
        self.outside.push(Outside::formatted(&self.config, id, Members::unknown(), self.now));
        self.nodes.push(None);
        self.binaries.push(self.binaries[0]);
        self.start(at);
        self.settle();
        id
    }

    /// Asks the primary for a change of members once. Its error, if it has one.
    pub(crate) fn change_once(&mut self, change: &Change) -> Option<ErrorCode> {
        let Some(primary) = self.primary() else { return Some(ErrorCode::NoLeader) };
        let mut frame =
            Frame { header: FrameHeader::new(Command::Reconfigure, CLUSTER, SHARD), payload: None };
        let bytes = change.encode();
        let mut draft = self.outside[primary].pool.draft(bytes.len()).expect("pool");
        draft.extend(&bytes).unwrap();
        frame.payload = Some(draft.seal());
        frame.header.op = u64::from(self.replica(primary).members().number).into();
        self.counter += 1;
        frame.seal(Address::Edge(EDGE), replica(primary), 1, self.counter);
        self.to_edge.clear();
        self.wire.push_back((Address::Edge(EDGE), replica(primary), frame));
        self.settle();
        let answer = self.to_edge.iter().find(|frame| frame.header.command() == Command::Members)?;
        ErrorCode::from_code(u32::try_from(answer.header.a.get()).unwrap())
    }

    /// Asks the primary to give the lead to `target`. Its error, if it has one.
    pub(crate) fn hand_over(&mut self, target: usize) -> Option<ErrorCode> {
        let Some(primary) = self.primary() else { return Some(ErrorCode::NoLeader) };
        let mut frame = Frame { header: FrameHeader::new(Command::HandOver, CLUSTER, SHARD), payload: None };
        frame.header.a = (target as u64 + 1).into();
        self.counter += 1;
        frame.seal(Address::Edge(EDGE), replica(primary), 1, self.counter);
        self.to_edge.clear();
        self.wire.push_back((Address::Edge(EDGE), replica(primary), frame));
        let (from, to, frame) = self.wire.pop_back().expect("just put there");
        self.deliver(from, to, frame);
        let frames = self.collect();
        let answer = frames.iter().rfind(|(_, to, frame)| {
            frame.header.command() == Command::HandOver && *to == Address::Edge(EDGE)
        });
        let error = answer.map(|(_, _, frame)| frame.header.a.get()).expect("answered at once");
        self.wire.extend(frames);
        ErrorCode::from_code(u32::try_from(error).unwrap())
    }

    /// The same, again while its error is one that passes.
    pub(crate) fn change(&mut self, change: &Change) -> Option<ErrorCode> {
        let mut error = None;
        for _ in 0..40 {
            error = self.change_once(change);
            if error.is_none_or(|error| !error.entry().temporary) {
                break;
            }
            self.pass(Duration::from_millis(50));
        }
        self.pass(Duration::from_millis(100));
        error
    }

    /// The process is gone; what it had not flushed is lost too.
    pub(crate) fn crash(&mut self, at: usize) {
        self.nodes[at] = None;
        self.outside[at].submitted.clear();
        self.outside[at].sent.clear();
    }

    pub(crate) fn view(&self, at: usize) -> View {
        self.nodes[at].as_ref().unwrap().replica(FILE).unwrap().observe()
    }

    /// Where the root of the checkpoint that its superblock names lies in a node's file.
    pub(crate) fn root_of(&self, at: usize) -> usize {
        let root = Superblock::open(&self.outside[at].disk).unwrap().checkpoint.root;
        usize::try_from(self.config.layout.grid().offset_of(root.address)).unwrap()
    }

    pub(crate) fn replica(&self, at: usize) -> &Replica<Chat> {
        self.nodes[at].as_ref().unwrap().replica(FILE).unwrap()
    }

    pub(crate) fn state(&self, at: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.replica(at).machine().encode(&mut bytes);
        bytes
    }

    /// What a node's clocks show.
    fn time_of(&self, at: usize) -> Now {
        let ahead = self.clocks.iter().find(|(of, _)| *of == at).map_or(0, |(_, ahead)| *ahead);
        let wall = self.now.wall.0.checked_add_signed(ahead * 1_000_000).expect("after 1970");
        Now { wall: UnixNanos(wall), ..self.now }
    }

    pub(crate) fn turn(&mut self, at: usize, event: Option<Event>) {
        self.outside[at].now = self.time_of(at);
        let Some(node) = &mut self.nodes[at] else { return };
        (self.around_turn)(true);
        node.turn(&mut self.outside[at], event.into_iter().map(|event| NodeEvent::Replica(FILE, event)));
        (self.around_turn)(false);
    }

    /// The process is told to stop.
    pub(crate) fn shut_down(&mut self, at: usize) {
        self.outside[at].now = self.time_of(at);
        if let Some(node) = &mut self.nodes[at] {
            node.give_up_lead(&mut self.outside[at]);
        }
    }

    /// Takes what the nodes have sent off the wire, undelivered.
    pub(crate) fn collect(&mut self) -> Vec<(Address, Address, Frame)> {
        for at in 0..self.nodes.len() {
            self.wire.extend(self.outside[at].sent.drain(..));
        }
        self.wire.drain(..).collect()
    }

    /// Delivers all frames and those that follow from them; disks stand still.
    pub(crate) fn settle_frames(&mut self) {
        loop {
            let frames = self.collect();
            if frames.is_empty() {
                return;
            }
            frames.into_iter().for_each(|(from, to, frame)| self.deliver(from, to, frame));
        }
    }

    /// Completes one disk operation of a node; false when there is none.
    pub(crate) fn complete_one(&mut self, at: usize) -> bool {
        if self.outside[at].submitted.is_empty() {
            return false;
        }
        let op = self.outside[at].submitted.remove(0);
        let event = self.complete(at, op);
        self.turn(at, Some(event));
        true
    }

    /// A frame as a peer would make it.
    pub(crate) fn forge(&mut self, from: usize, to: usize, command: Command, set: impl FnOnce(&mut Frame)) {
        let mut frame = Frame { header: FrameHeader::new(command, CLUSTER, SHARD), payload: None };
        set(&mut frame);
        self.counter += 1;
        frame.seal(replica(from), replica(to), 1, self.counter);
        self.deliver(replica(from), replica(to), frame);
    }

    /// Lets time pass for the nodes while frames and disks stand still.
    pub(crate) fn only_time(&mut self, time: Duration) {
        for _ in 0..time.as_millis() {
            self.now.mono.0 += 1_000_000;
            for at in 0..self.nodes.len() {
                self.turn(at, None);
            }
        }
    }

    /// Delivers and completes until nothing is left to do at this moment.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut idle = true;
            for at in 0..self.nodes.len() {
                while !self.outside[at].submitted.is_empty() && !self.stalled.contains(&at) {
                    idle = false;
                    let op = self.outside[at].submitted.remove(0);
                    let event = self.complete(at, op);
                    self.turn(at, Some(event));
                }
                self.wire.extend(self.outside[at].sent.drain(..));
            }
            while let Some((from, to, frame)) = self.wire.pop_front() {
                idle = false;
                self.deliver(from, to, frame);
            }
            if idle {
                return;
            }
        }
        panic!("the cluster never settles");
    }

    pub(crate) fn complete(&mut self, at: usize, op: DiskOp) -> Event {
        let disk = &mut self.outside[at].disk;
        let (token, read) = match op {
            DiskOp::Read { token, offset, mut into } => {
                let from = usize::try_from(offset).unwrap();
                let len = into.len();
                into.bytes_mut().copy_from_slice(&disk[from..from + len]);
                (token, Some(into.seal()))
            }
            DiskOp::Write { token, offset, data, .. } => {
                let from = usize::try_from(offset).unwrap();
                disk[from..from + data.len()].copy_from_slice(&data);
                (token, None)
            }
            DiskOp::Sync { token } => (token, None),
        };
        Event::Stored { token, result: Ok(read) }
    }

    pub(crate) fn deliver(&mut self, from: Address, to: Address, frame: Frame) {
        if self.cut.contains(&(from, to)) || self.lost.contains(&frame.header.command()) {
            return;
        }
        match to {
            Address::Edge(_) => self.to_edge.push(frame),
            Address::Replica { replica, .. } => {
                let at = usize::from(replica.0);
                if at >= self.nodes.len() {
                    return;
                }
                let header =
                    FrameHeader::decode(frame.header.as_bytes().try_into().unwrap(), 1 << 20).unwrap();
                let payload = frame.payload.map(|payload| {
                    let mut draft = self.outside[at].pool.draft(payload.len()).expect("pool");
                    draft.extend(&payload).unwrap();
                    draft.seal()
                });
                let frame = Frame::join(header, payload).unwrap();
                self.turn(at, Some(Event::Received { from, frame }));
            }
        }
    }

    /// Lets time pass, a millisecond at a time.
    pub(crate) fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_millis() {
            self.now.mono.0 += 1_000_000;
            self.now.wall.0 += 1_000_000;
            for at in 0..self.nodes.len() {
                self.turn(at, None);
            }
            self.settle();
        }
    }

    pub(crate) fn primary(&self) -> Option<usize> {
        let live = (0..self.nodes.len()).filter(|at| self.nodes[*at].is_some());
        live.filter(|at| self.view(*at).is_primary).max_by_key(|at| self.view(*at).view)
    }

    pub(crate) fn send_request(&mut self, kind: RequestKind, commands: &[u8]) {
        self.post_request(kind, commands);
        self.settle();
    }

    /// Puts a request on the wire to the primary, if there is one.
    pub(crate) fn post_request(&mut self, kind: RequestKind, commands: &[u8]) {
        let request = RequestHeader {
            client: EDGE.0.into(),
            session: if kind == RequestKind::Register { 0 } else { self.session }.into(),
            number: if kind == RequestKind::Register { 0 } else { self.number }.into(),
            size: u32::try_from(commands.len()).unwrap().into(),
            kind: (kind as u32).into(),
            digest: RequestHeader::digest_of(commands).into(),
        };
        let payload = [request.as_bytes(), commands].concat();
        let Some(primary) = self.primary() else { return };
        let Some(mut draft) = self.outside[primary].pool.draft(REQUEST_HEADER + commands.len()) else {
            return;
        };
        draft.extend(&payload).unwrap();
        let mut frame =
            Frame { header: FrameHeader::new(Command::Request, CLUSTER, SHARD), payload: Some(draft.seal()) };
        self.counter += 1;
        frame.seal(Address::Edge(EDGE), replica(primary), 1, self.counter);
        self.wire.push_back((Address::Edge(EDGE), replica(primary), frame));
    }

    /// Renews the session's lease.
    pub(crate) fn ping(&mut self) {
        let Some(primary) = self.primary() else { return };
        let mut frame =
            Frame { header: FrameHeader::new(Command::PingClient, CLUSTER, SHARD), payload: None };
        frame.header.a = self.session.into();
        self.counter += 1;
        frame.seal(Address::Edge(EDGE), replica(primary), 1, self.counter);
        self.wire.push_back((Address::Edge(EDGE), replica(primary), frame));
        self.settle();
    }

    pub(crate) fn register(&mut self) {
        self.send_request(RequestKind::Register, &[]);
        let reply = self.to_edge.iter().rev().find(|frame| frame.header.command() == Command::Reply).unwrap();
        let session = reply.header.b.get();
        if session != self.session {
            (self.session, self.number) = (session, 0);
        }
    }

    /// Sends the next request with these commands; `None` when nobody answers.
    pub(crate) fn request(&mut self, commands: &[ChatCommand<'_>]) -> Option<Vec<Outcome>> {
        self.number += 1;
        self.again(commands)
    }

    pub(crate) fn again(&mut self, commands: &[ChatCommand<'_>]) -> Option<Vec<Outcome>> {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| command.encode(&mut bytes).unwrap());
        self.to_edge.clear();
        self.send_request(RequestKind::Commands, &bytes);
        let reply = self
            .to_edge
            .iter()
            .find(|frame| frame.header.command() == Command::Reply && frame.header.a.get() == self.number)?;
        let mut reader = Reader::new(reply.body());
        Some((0..commands.len()).map(|_| Outcome::decode(&mut reader).unwrap()).collect())
    }

    pub(crate) fn key(&self, number: u64) -> Key {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&number.to_be_bytes());
        Key::new(self.now.wall.0 / 1_000_000, random)
    }

    pub(crate) fn open_room(&mut self) {
        let open = ChatCommand::RoomOpen { tenant: TenantId(1), room: "general", user: "ada" };
        assert_eq!(self.request(&[open]).unwrap()[0].error, None);
    }

    pub(crate) fn publish(&mut self, number: u64) -> Option<Outcome> {
        let body = number.to_string();
        let publish = say(self.key(number), &body);
        Some(self.request(&[publish])?[0])
    }

    pub(crate) fn statuses(&self) -> Vec<Status> {
        (0..self.nodes.len()).map(|at| self.view(at).status).collect()
    }
}

pub(crate) fn say(key: Key, body: &str) -> ChatCommand<'_> {
    ChatCommand::Publish(Publish {
        tenant: TenantId(1),
        room: "general",
        user: "ada",
        key,
        kind: 1,
        parent: 0,
        expect_seq: None,
        salt: [7; 16],
        content_type: "text/plain",
        body: body.as_bytes(),
    })
}
