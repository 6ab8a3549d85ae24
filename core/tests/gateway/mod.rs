//! Edges in front of a cluster in one thread: clients' bytes in, bytes out, nothing else in between.

#![allow(dead_code, reason = "each test uses another part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::{CLUSTER, Cluster, SHARD};
use tigerchat_core::edge::{Edge, EdgeConfig, EdgeLimits, TokenEntry};
use tigerchat_core::io::*;
use tigerchat_core::node::{Node, NodeEvent};
use tigerchat_core::pool::{Message, Pool};
use tigerchat_core::types::*;
use tigerchat_core::wire::entry::Digest;
use tigerchat_core::wire::frame::Frame;

pub(crate) struct Side {
    pub(crate) now: Now,
    pub(crate) sent: Vec<(Address, Address, Frame)>,
    pub(crate) said: Vec<(ConnectionId, Vec<u8>)>,
    pub(crate) closed: Vec<(ConnectionId, CloseCode)>,
    around_turn: fn(bool),
}

impl Clock for Side {
    fn now(&self) -> Now {
        self.now
    }
}
impl Network for Side {
    fn send(&mut self, from: Address, to: Address, frame: Frame) {
        (self.around_turn)(false);
        self.sent.push((from, to, frame));
        (self.around_turn)(true);
    }
}
impl Storage for Side {
    fn submit(&mut self, _: FileId, _: DiskOp) {}
    fn turn_ended(&mut self) {}
}
impl Clients for Side {
    fn send(&mut self, to: ConnectionId, bytes: Message) {
        (self.around_turn)(false);
        self.said.push((to, bytes.to_vec()));
        (self.around_turn)(true);
    }
    fn close(&mut self, to: ConnectionId, why: CloseCode) {
        self.closed.push((to, why));
    }
}
impl Io for Side {
    fn clients(&mut self) -> &mut dyn Clients {
        self
    }
    fn stop(&mut self, _: FileId, _: Fatal) {}
}

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) edges: Vec<(Address, Node, Side)>,
    /// What each client has read and not looked at yet.
    pub(crate) read: BTreeMap<ConnectionId, Vec<u8>>,
    /// Bytes that clients leave in their sockets.
    pub(crate) stuck: Vec<ConnectionId>,
    /// Called with true when an edge's turn begins, with false when it ends or when it calls the world.
    pub(crate) around_turn: fn(bool),
}

pub(crate) fn limits() -> EdgeLimits {
    EdgeLimits { send_queue: 4096, ..EdgeLimits::for_shard(2 * 4032, 4) }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_slots(32)
    }

    pub(crate) fn with_slots(wal_slots: u32) -> Self {
        let mut world = Self {
            cluster: Cluster::with_slots(3, wal_slots),
            edges: Vec::new(),
            read: BTreeMap::new(),
            stuck: Vec::new(),
            around_turn: |_| {},
        };
        world.add_edge(501);
        world.add_edge(502);
        world.pass(500);
        world
    }

    pub(crate) fn add_edge(&mut self, id: u64) {
        let token = TokenEntry { tenant: TenantId(1), user: "tok".into(), digest: Digest::of(b"secret").0 };
        let limits = limits();
        let config = EdgeConfig {
            cluster: CLUSTER,
            edge: EdgeId(id),
            shard: SHARD,
            replicas: (0..3).map(ReplicaId).collect(),
            tokens: vec![token],
            demo: true,
            limits,
        };
        let pool = Pool::new(&limits.pool_classes(16));
        let now = self.cluster.now;
        let mut node = Node::new();
        node.set_edge(Edge::new(config, pool, [id as u8; 32], now));
        let side = Side { now, sent: Vec::new(), said: Vec::new(), closed: Vec::new(), around_turn: |_| {} };
        self.edges.push((Address::Edge(EdgeId(id)), node, side));
    }

    pub(crate) fn turn(&mut self, edge: usize, event: Option<EdgeEvent<'_>>) {
        let (_, node, side) = &mut self.edges[edge];
        side.now = self.cluster.now;
        side.around_turn = self.around_turn;
        (self.around_turn)(true);
        node.turn(side, event.into_iter().map(NodeEvent::Edge));
        (self.around_turn)(false);
        let mut drained = Vec::new();
        for (connection, bytes) in side.said.drain(..) {
            if !self.stuck.contains(&connection) {
                drained.push((connection, bytes.len()));
            }
            self.read.entry(connection).or_default().extend(bytes);
        }
        for (connection, bytes) in drained {
            self.turn(edge, Some(EdgeEvent::Drained { connection, bytes }));
        }
    }

    pub(crate) fn settle(&mut self) {
        loop {
            for edge in 0..self.edges.len() {
                let sent = std::mem::take(&mut self.edges[edge].2.sent);
                self.cluster.wire.extend(sent);
            }
            self.cluster.settle();
            let frames = std::mem::take(&mut self.cluster.to_edge);
            if frames.is_empty() && self.edges.iter().all(|(_, _, side)| side.sent.is_empty()) {
                return;
            }
            for frame in frames {
                let (from, to) = (frame.header.from().unwrap(), frame.header.to().unwrap());
                if let Some(edge) = self.edges.iter().position(|(address, _, _)| *address == to) {
                    self.turn(edge, Some(EdgeEvent::Received { from, frame }));
                }
            }
        }
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.cluster.pass(Duration::from_millis(1));
            for edge in 0..self.edges.len() {
                self.turn(edge, None);
            }
            self.settle();
        }
    }

    pub(crate) fn open(&mut self, edge: usize, id: u64, transport: Transport) -> ConnectionId {
        let connection = ConnectionId(id);
        self.turn(edge, Some(EdgeEvent::Opened { connection, transport, token: None }));
        connection
    }

    pub(crate) fn say(&mut self, edge: usize, connection: ConnectionId, text: &str) {
        self.turn(edge, Some(EdgeEvent::Frame { connection, bytes: text.as_bytes() }));
        self.settle();
    }

    /// Payloads of the WebSocket frames that came since the last look.
    pub(crate) fn frames(&mut self, connection: ConnectionId) -> Vec<String> {
        let bytes = self.read.remove(&connection).unwrap_or_default();
        let mut rest = bytes.as_slice();
        let mut frames = Vec::new();
        while !rest.is_empty() {
            assert_eq!(rest[0], 0x81, "a whole, unmasked text frame");
            let (len, header) = match rest[1] {
                126 => (usize::from(u16::from_be_bytes([rest[2], rest[3]])), 4),
                127 => (usize::try_from(u64::from_be_bytes(rest[2..10].try_into().unwrap())).unwrap(), 10),
                len => (usize::from(len), 2),
            };
            frames.push(String::from_utf8(rest[header..header + len].to_vec()).unwrap());
            rest = &rest[header + len..];
        }
        frames
    }

    pub(crate) fn lines(&mut self, connection: ConnectionId) -> Vec<String> {
        let bytes = self.read.remove(&connection).unwrap_or_default();
        String::from_utf8(bytes).unwrap().lines().map(String::from).collect()
    }

    /// A connected WebSocket client in `general`.
    pub(crate) fn client(&mut self, edge: usize, id: u64, name: &str) -> ConnectionId {
        let connection = self.open(edge, id, Transport::WebSocket);
        self.say(edge, connection, &format!(r#"{{"id":1,"connect":{{"token":"demo:{name}"}}}}"#));
        self.say(edge, connection, r#"{"id":2,"room_open":{"room":"general"}}"#);
        self.say(edge, connection, r#"{"id":3,"subscribe":{"room":"general"}}"#);
        self.pass(5);
        let frames = self.frames(connection);
        assert!(
            frames.iter().any(|frame| frame.starts_with(r#"{"id":3,"subscribe":{"epoch""#)),
            "{frames:?}"
        );
        connection
    }

    pub(crate) fn key(&self, number: u32) -> String {
        format!("{:012x}{number:020x}", self.cluster.now.wall.0 / 1_000_000)
    }

    pub(crate) fn publish(&mut self, edge: usize, connection: ConnectionId, id: u32, key: &str, text: &str) {
        let publish = format!(
            r#"{{"id":{id},"publish":{{"room":"general","key":"{key}","body":{{"text":"{text}"}}}}}}"#
        );
        self.say(edge, connection, &publish);
    }
}

pub(crate) fn seqs(frames: &[String]) -> Vec<u64> {
    frames
        .iter()
        .filter_map(|frame| frame.split_once(r#""event":{"seq":""#))
        .map(|(_, rest)| rest.split_once('"').unwrap().0.parse().unwrap())
        .collect()
}
