//! Clients that say anything at all to an edge, with a real chat behind it.
//!
//! The one law: **whatever a client sends, the edge asks the shard only what a primary would take, and says only what
//! a client can read.** The input is cut at newlines; each part is a frame or a line of one client. A second client
//! watches.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::value::RawValue;
use tigerchat_core::chat::Chat;
use tigerchat_core::edge::{Edge, EdgeConfig, EdgeLimits};
use tigerchat_core::io::{EdgeEffect, EdgeEvent, Transport};
use tigerchat_core::pool::{Class, Message, Pool};
use tigerchat_core::store::history::reader::NoBlocks;
use tigerchat_core::types::{
    Address, ClusterId, ConnectionId, EdgeId, Instant, Now, ReplicaId, ShardId, UnixNanos,
};
use tigerchat_core::vsr::machine::{At, Machine};
use tigerchat_core::wire::entry::{RequestHeader, RequestKind};
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};
use zerocopy::FromBytes;

use crate::targets::{self, Target};

/// The targets of this file, by the names of their corpora.
pub const CLIENT_TARGETS: &[(&str, Target)] =
    &[("client_frame", client_frame), ("client_line", client_line), ("client_http", client_http)];

const CLUSTER: ClusterId = ClusterId(1);
const SHARD: ShardId = ShardId(1);
const REPLICA: Address = Address::Replica { shard: SHARD, replica: ReplicaId(0) };
const EDGE: Address = Address::Edge(EdgeId(9));
const TALKER: ConnectionId = ConnectionId(1);
const WATCHER: ConnectionId = ConnectionId(2);
/// Frames of one turn: far more than any input can cause.
const TURNS_MAX: usize = 1000;
/// Requests of one input.
const HTTP_MAX: usize = 50;

/// Frames of a WebSocket client.
pub fn client_frame(bytes: &[u8]) {
    converse(Transport::WebSocket, bytes);
}

/// Lines of a terminal.
pub fn client_line(bytes: &[u8]) {
    converse(Transport::Line, bytes);
}

/// Bodies of HTTP requests, each on a connection of its own.
pub fn client_http(bytes: &[u8]) {
    converse(Transport::Http, bytes);
}

fn converse(transport: Transport, bytes: &[u8]) {
    let mut world = World::new();
    world.open(WATCHER, Transport::WebSocket, None);
    for said in [
        r#"{"id":1,"connect":{"token":"demo:watcher"}}"#,
        r#"{"id":2,"room_open":{"room":"r"}}"#,
        r#"{"id":3,"subscribe":{"room":"r"}}"#,
    ] {
        world.say(WATCHER, said.as_bytes());
    }
    if transport == Transport::Http {
        request_each(&mut world, bytes);
    } else {
        world.open(TALKER, transport, None);
        for part in bytes.split(|byte| *byte == b'\n') {
            world.say(TALKER, part);
        }
    }
    let talker = world.heard.remove(&TALKER).unwrap_or_default();
    if transport == Transport::Line {
        assert!(talker.is_empty() || talker.ends_with(b"\n"), "lines are whole");
        assert!(
            talker.iter().all(|byte| *byte >= b' ' || b"\n\t".contains(byte)),
            "nothing steers a terminal"
        );
    } else if transport == Transport::WebSocket {
        read_frames(&talker);
    }
    world.say(WATCHER, br#"{"id":4,"ping":{}}"#);
    let watched = read_frames(&world.heard[&WATCHER]);
    for answer in
        [r#"{"id":1,"connect""#, r#"{"id":2,"room_open""#, r#"{"id":3,"subscribe""#, r#"{"id":4,"ping""#]
    {
        assert!(
            watched.iter().any(|frame| frame.starts_with(answer)),
            "the watcher misses {answer}: {watched:?}"
        );
    }
}

/// Each request is answered by one JSON value, and then the edge lets go; that the client goes says the event.
fn request_each(world: &mut World, bytes: &[u8]) {
    for part in bytes.split(|byte| *byte == b'\n').take(HTTP_MAX) {
        world.open(TALKER, Transport::Http, Some(b"demo:talker"));
        world.say(TALKER, part);
        world.turn(EdgeEvent::Closed { connection: TALKER });
        let reply = world.heard.remove(&TALKER).unwrap_or_default();
        let text = std::str::from_utf8(&reply).expect("JSON is UTF-8");
        assert!(serde_json::from_str::<&RawValue>(text).is_ok(), "not JSON: {text}");
        assert!(!world.open[&TALKER], "an answered request is over");
    }
}

/// Unmasked text frames, each of which is JSON.
fn read_frames(mut bytes: &[u8]) -> Vec<String> {
    let mut frames = Vec::new();
    while let [head, len, rest @ ..] = bytes {
        assert_eq!(*head, 0x81, "a text frame, whole in one");
        let (size, rest) = match len {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => panic!("nothing here is that long"),
            len => (usize::from(*len), rest),
        };
        let text = std::str::from_utf8(&rest[..size]).expect("JSON is UTF-8");
        assert!(serde_json::from_str::<&RawValue>(text).is_ok(), "not JSON: {text}");
        frames.push(text.to_owned());
        bytes = &rest[size..];
    }
    assert!(bytes.is_empty(), "half a frame");
    frames
}

/// An edge, and a shard of one replica that answers at once.
struct World {
    edge: Edge,
    pool: Pool,
    chat: Chat,
    now: Now,
    op: u64,
    following: u128,
    /// What each client was told, and whether it was let go.
    heard: BTreeMap<ConnectionId, Vec<u8>>,
    open: BTreeMap<ConnectionId, bool>,
}

impl World {
    fn new() -> Self {
        let limits = EdgeLimits {
            connections: 4,
            frame: 4096,
            body: 1024,
            inflight: 8,
            subscriptions: 3,
            send_queue: 64 * 1024,
            request: 8192,
            window: 2,
            ping: Duration::from_secs(25),
        };
        let pool = Pool::new(&[
            Class { size: 512, count: 32 },
            Class { size: 4096, count: 32 },
            Class { size: 65536, count: 16 },
        ]);
        let config = EdgeConfig {
            cluster: CLUSTER,
            edge: EdgeId(9),
            shard: SHARD,
            replicas: vec![ReplicaId(0)],
            tokens: Vec::new(),
            demo: true,
            limits,
        };
        let now = Now { mono: Instant(1), wall: UnixNanos(1_700_000_000_000_000_000) };
        let edge = Edge::new(config, pool.clone(), [7; 32], now);
        let (heard, open) = (BTreeMap::new(), BTreeMap::new());
        let mut world = Self { edge, pool, chat: targets::new_chat(), now, op: 0, following: 0, heard, open };
        world.turn(EdgeEvent::Elapsed);
        world
    }

    fn open(&mut self, connection: ConnectionId, transport: Transport, token: Option<&[u8]>) {
        self.open.insert(connection, true);
        self.turn(EdgeEvent::Opened { connection, transport, token });
    }

    fn say(&mut self, connection: ConnectionId, bytes: &[u8]) {
        if self.open[&connection] {
            self.turn(EdgeEvent::Frame { connection, bytes });
        }
    }

    /// One event and all that follows from it, at once.
    fn turn(&mut self, event: EdgeEvent<'_>) {
        let mut effects = Vec::new();
        self.now.mono = self.now.mono.after(Duration::from_millis(30));
        self.now.wall.0 += 30_000_000;
        self.edge.on_event(self.now, event, &mut effects);
        self.edge.on_event(self.now, EdgeEvent::Elapsed, &mut effects);
        self.edge.turn_ended(self.now, &mut effects);
        let mut effects = VecDeque::from(effects);
        for _ in 0..TURNS_MAX {
            let Some(effect) = effects.pop_front() else { return };
            let mut more = Vec::new();
            for event in self.carry(effect) {
                self.edge.on_event(self.now, event, &mut more);
            }
            self.edge.turn_ended(self.now, &mut more);
            effects.extend(more);
        }
        panic!("one event caused {TURNS_MAX} effects and more");
    }

    fn carry(&mut self, effect: EdgeEffect) -> Vec<EdgeEvent<'static>> {
        match effect {
            EdgeEffect::Client { to, bytes } => {
                self.heard.entry(to).or_default().extend_from_slice(&bytes);
                vec![EdgeEvent::Drained { connection: to, bytes: bytes.len() }]
            }
            EdgeEffect::Close { to, .. } => {
                self.open.insert(to, false);
                Vec::new()
            }
            EdgeEffect::Send { frame, .. } => {
                let frames = match frame.header.command() {
                    Command::Request => self.request(&frame),
                    Command::Query => self.query(&frame),
                    Command::Follow => self.follow(&frame),
                    _ => Vec::new(),
                };
                frames.into_iter().map(|frame| EdgeEvent::Received { from: REPLICA, frame }).collect()
            }
        }
    }

    fn request(&mut self, frame: &Frame) -> Vec<Frame> {
        let (header, commands) =
            RequestHeader::read_from_prefix(frame.body()).expect("a request has a header");
        assert_eq!(header.size.get() as usize, commands.len());
        assert_eq!(header.digest.get(), RequestHeader::digest_of(commands));
        self.op += 1;
        let (mut outcomes, mut feed) = (Vec::new(), Vec::new());
        let mut session = header.session.get();
        if RequestKind::from_code(header.kind.get()) == Some(RequestKind::Register) {
            session = self.op;
        } else {
            assert!(self.chat.check(commands), "a primary would refuse this");
            let at = At { op: self.op, index: 0, time: self.now.wall.0 };
            self.chat.apply(at, session, commands, &mut outcomes, &mut feed);
        }
        let mut reply = self.frame(Command::Reply, &outcomes);
        reply.header.op = self.op.into();
        reply.header.a = header.number;
        reply.header.b = session.into();
        reply.header.nonce = header.digest;
        let mut committed = self.frame(Command::Committed, &feed);
        committed.header.op = self.op.into();
        committed.header.a = self.op.into();
        committed.header.nonce = self.following.into();
        [reply, committed].map(sealed).into()
    }

    fn query(&mut self, frame: &Frame) -> Vec<Frame> {
        let mut bytes = Vec::new();
        let answered = self.chat.query(frame.body(), &mut NoBlocks, &mut bytes);
        assert_eq!(answered, Ok(()), "all of it is in memory");
        let mut answer = self.frame(Command::Answer, &bytes);
        answer.header.op = self.op.into();
        answer.header.nonce = frame.header.nonce;
        vec![sealed(answer)]
    }

    /// The feed begins with what comes next.
    fn follow(&mut self, frame: &Frame) -> Vec<Frame> {
        self.following = frame.header.nonce.get();
        let mut reset = self.frame(Command::Committed, &[]);
        reset.header.op = self.op.into();
        reset.header.a = (self.op + 1).into();
        reset.header.flags = 1.into();
        reset.header.nonce = self.following.into();
        vec![sealed(reset)]
    }

    fn frame(&self, command: Command, payload: &[u8]) -> Frame {
        let mut header = FrameHeader::new(command, CLUSTER, SHARD);
        header.commit = self.op.into();
        Frame { header, payload: self.message(payload) }
    }

    fn message(&self, payload: &[u8]) -> Option<Message> {
        let mut draft = self.pool.draft(payload.len()).expect("every buffer of the turn before is home");
        draft.extend(payload).expect("the buffer is as large");
        (!payload.is_empty()).then(|| draft.seal())
    }
}

fn sealed(mut frame: Frame) -> Frame {
    frame.seal(REPLICA, EDGE, 1, 1);
    frame
}
