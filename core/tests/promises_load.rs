//! What is promised of a replica that is asked for more than it can do: every queue stays within its bound (I21), and
//! whoever found no room is served when it asks again.

use crate::cluster::{CLUSTER, Cluster, SHARD, replica, say};
use tigerchat_core::pool::Pool;
use tigerchat_core::types::{Address, EdgeId};
use tigerchat_core::vsr::replica::{Ignored, pool_classes};
use tigerchat_core::wire::entry::{REQUEST_HEADER, RequestHeader, RequestKind};
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};
use zerocopy::IntoBytes as _;

/// Edges beside that of the cluster, each with its session and window.
struct Edges {
    cluster: Cluster,
    pool: Pool,
    frames: u64,
}

impl Edges {
    fn new() -> Self {
        let cluster = Cluster::new(3);
        let pool = Pool::new(&pool_classes(&cluster.config, 8));
        Self { cluster, pool, frames: 0 }
    }

    /// Brings a request before the primary; what it sends thereupon stays on the wire.
    fn ask(&mut self, edge: u64, session: u64, number: u64, commands: &[u8]) {
        let kind = if session == 0 { RequestKind::Register } else { RequestKind::Commands };
        let request = RequestHeader {
            client: edge.into(),
            session: session.into(),
            number: number.into(),
            size: u32::try_from(commands.len()).unwrap().into(),
            kind: (kind as u32).into(),
            digest: RequestHeader::digest_of(commands).into(),
        };
        let mut draft = self.pool.draft(REQUEST_HEADER + commands.len()).expect("pool");
        draft.extend(&[request.as_bytes(), commands].concat()).unwrap();
        let header = FrameHeader::new(Command::Request, CLUSTER, SHARD);
        let mut frame = Frame { header, payload: Some(draft.seal()) };
        self.frames += 1;
        let from = Address::Edge(EdgeId(edge));
        frame.seal(from, replica(0), 1, self.frames);
        self.cluster.deliver(from, replica(0), frame);
    }

    fn publish(&mut self, edge: u64, session: u64, number: u64) {
        let (key, body) = (self.cluster.key(edge * 100 + number), "x".repeat(300));
        let mut commands = Vec::new();
        say(key, &body).encode(&mut commands).unwrap();
        self.ask(edge, session, number, &commands);
    }

    /// The requests that wait and those in flight, and how many of both there may be.
    fn requests(&self) -> (usize, usize) {
        let [waiting, flying, ..] = self.cluster.replica(0).loads();
        assert_eq!((waiting.what, flying.what), ("requests that wait", "requests in flight"));
        assert_eq!(waiting.limit, flying.limit);
        (waiting.holds + flying.holds, flying.limit)
    }

    fn refused(&self) -> u64 {
        self.cluster.replica(0).ignored()[Ignored::NoRoom as usize]
    }

    /// A backup acknowledges the log of replica 0 up to an op, and what follows from that is lost.
    fn acknowledge(&mut self, op: u64) {
        while self.cluster.complete_one(0) {}
        let half = self.cluster.replica(0).header(op).expect("known").digest().half();
        let view = self.cluster.view(0).view;
        self.cluster.forge(1, 0, Command::PrepareOk, |frame| {
            (frame.header.view, frame.header.op) = (view.into(), op.into());
            frame.header.a = u64::try_from(half & u128::from(u64::MAX)).unwrap().into();
            frame.header.b = u64::try_from(half >> 64).unwrap().into();
        });
        self.cluster.collect();
    }
}

/// A session that is evicted leaves its requests behind in flight. There is no room for all of its successor's beside
/// them; as soon as they are executed there is.
#[test]
fn requests_in_flight_stay_within_the_windows_of_all_sessions_also_when_one_is_evicted() {
    let mut edges = Edges::new();
    let (sessions, window) =
        (u64::from(edges.cluster.config.sessions), u64::from(edges.cluster.config.window));
    let limit = usize::try_from(sessions * window).unwrap();
    let known: Vec<(u64, u64)> = (1..=sessions)
        .map(|edge| {
            edges.ask(edge, 0, 0, &[]);
            edges.cluster.settle();
            (edge, edges.cluster.view(0).commit)
        })
        .collect();
    let before = edges.cluster.view(0).commit;
    // One edge more, and behind its register all that the others may ask for.
    let newcomer = sessions + 1;
    edges.ask(newcomer, 0, 0, &[]);
    for number in 1..=window {
        for (edge, session) in &known {
            edges.publish(*edge, *session, number);
            edges.cluster.collect();
        }
    }
    assert_eq!(
        (edges.requests(), edges.refused()),
        ((limit, limit), 1),
        "the register takes the room of one"
    );
    edges.acknowledge(before + 1);
    assert_eq!((edges.cluster.view(0).commit, edges.requests()), (before + 1, (limit - 1, limit)));
    for number in 1..=window {
        edges.publish(newcomer, before + 1, number);
        edges.cluster.collect();
        assert_eq!(edges.requests(), (limit, limit), "number {number}");
    }
    assert_eq!(edges.refused(), 2, "after the second none is the next one");
    let head = edges.cluster.view(0).op;
    edges.acknowledge(head);
    for number in 1..=window {
        edges.publish(newcomer, before + 1, number);
        edges.cluster.collect();
    }
    edges.acknowledge(head + 1);
    let head = edges.cluster.view(0).op;
    edges.acknowledge(head);
    assert_eq!((edges.requests(), edges.refused()), ((0, limit), 2), "nobody is refused twice");
}
