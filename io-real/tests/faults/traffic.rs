//! A publisher with a window in flight, a subscriber on the other edge, and what both know.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::cluster::Cluster;

pub const ROOM: &str = "faults";
pub const PATIENCE: Duration = Duration::from_secs(20);
const IN_FLIGHT: usize = 64;
/// In flight at each fault, at least; a few places of the window stay free for what is sent after the fault.
const BURST: u64 = 56;
/// One message so often between faults.
const PACE: Duration = Duration::from_millis(2);
/// A client that says nothing for 50 s is let go.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// A read waits so long.
const READ: Duration = Duration::from_millis(1);

/// A client as anybody would write it.
pub struct Client {
    socket: WebSocket<TcpStream>,
}

impl Client {
    pub fn connect(edge: SocketAddr, token: &str) -> Self {
        let began = Instant::now();
        loop {
            if let Ok(stream) = TcpStream::connect(edge) {
                stream.set_nodelay(true).unwrap();
                let (socket, _) = tungstenite::client(format!("ws://{edge}/v1/ws"), stream).unwrap();
                socket.get_ref().set_read_timeout(Some(READ)).unwrap();
                let mut client = Self { socket };
                client.send(&json!({"id": 1, "connect": {"token": token}}));
                client.wait_for("connect");
                return client;
            }
            assert!(began.elapsed() < PATIENCE, "the edge does not listen");
            sleep(Duration::from_millis(5));
        }
    }

    pub fn send(&mut self, command: &Value) {
        self.socket.send(Message::text(command.to_string())).unwrap();
    }

    /// The next frame, or none for now.
    fn read(&mut self) -> Option<Value> {
        use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        match self.socket.read() {
            Ok(Message::Text(text)) => Some(serde_json::from_str(&text).unwrap()),
            Ok(_) => None,
            // A debugger's or a shell's stop interrupts a read with a timeout.
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), WouldBlock | TimedOut | Interrupted) =>
            {
                None
            }
            Err(error) => panic!("the edge let us go: {error}"),
        }
    }

    pub fn wait_for(&mut self, wanted: &str) -> Value {
        let began = Instant::now();
        loop {
            if let Some(frame) = self.read() {
                assert!(frame.get("error").is_none(), "{frame}");
                if let Some(reply) = frame.get(wanted) {
                    return reply.clone();
                }
            }
            assert!(began.elapsed() < PATIENCE, "no answer to {wanted}");
        }
    }
}

pub struct Acknowledged {
    pub number: u64,
    pub seq: u64,
    pub sent: Instant,
    pub at: Instant,
}

#[derive(Default)]
struct Shared {
    /// Messages to be sent at once.
    burst: AtomicU64,
    in_flight: AtomicU64,
    /// The window is to be full at all times.
    full: AtomicBool,
    /// The publisher ends when all is acknowledged.
    enough: AtomicBool,
    acknowledged: Mutex<Vec<Acknowledged>>,
    /// The subscriber ends when it has so many.
    expected: AtomicU64,
}

pub struct Traffic {
    shared: Arc<Shared>,
    publisher: JoinHandle<()>,
    subscriber: JoinHandle<Vec<(u64, u64)>>,
}

/// What the clients know at the end.
pub struct Told {
    pub acknowledged: Vec<Acknowledged>,
    /// Sequence and number of each event, as they came.
    pub seen: Vec<(u64, u64)>,
}

impl Traffic {
    pub fn start(cluster: &Cluster) -> Self {
        let shared = Arc::new(Shared::default());
        shared.expected.store(u64::MAX, SeqCst);
        // Each opens the room: what one edge acknowledged another one may learn a moment later.
        let [publisher, subscriber] = [0, 1].map(|edge| {
            let mut client = Client::connect(cluster.edges[edge], &cluster.token);
            client.send(&json!({"id": 2, "room_open": {"room": ROOM}}));
            client.wait_for("room_open");
            client
        });
        Self {
            publisher: {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || publish(publisher, &shared))
            },
            subscriber: {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || subscribe(subscriber, &shared))
            },
            shared,
        }
    }

    /// Fills the window; what follows meets messages in flight.
    pub fn fill_window(&self) {
        let began = Instant::now();
        while self.shared.in_flight.load(SeqCst) < BURST / 2 {
            assert!(began.elapsed() < PATIENCE, "the window is never full");
            if self.shared.burst.load(SeqCst) == 0 {
                self.shared.burst.store(BURST, SeqCst);
            }
            // Not asleep: they are acknowledged within a millisecond.
            std::thread::yield_now();
        }
    }

    /// Whether the window is full from now on, at all times.
    pub fn keep_full(&self, full: bool) {
        self.shared.full.store(full, SeqCst);
    }

    pub fn in_flight(&self) -> u64 {
        self.shared.in_flight.load(SeqCst)
    }

    /// How many are acknowledged.
    pub fn count(&self) -> usize {
        self.shared.acknowledged.lock().unwrap().len()
    }

    /// How long after `fault` the first message was acknowledged that was sent after it.
    pub fn first_after(&self, fault: Instant) -> Option<Duration> {
        let acknowledged = self.shared.acknowledged.lock().unwrap();
        let later = acknowledged.iter().rev().take_while(|one| one.at > fault);
        later.filter(|one| one.sent > fault).map(|one| one.at - fault).min()
    }

    /// The longest time without any acknowledgement between the two.
    pub fn longest_pause(&self, from: Instant, until: Instant) -> Duration {
        let acknowledged = self.shared.acknowledged.lock().unwrap();
        let times = acknowledged.iter().map(|one| one.at).filter(|at| (from..until).contains(at));
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in times.chain([until]) {
            longest = longest.max(at - last);
            last = at;
        }
        longest
    }

    /// Lets everything in flight be acknowledged and seen.
    pub fn finish(self) -> Result<Told, String> {
        self.shared.enough.store(true, SeqCst);
        self.publisher.join().map_err(|panic| format!("publisher: {}", words_of(&*panic)))?;
        self.shared.expected.store(self.shared.acknowledged.lock().unwrap().len() as u64, SeqCst);
        let seen = self.subscriber.join().map_err(|panic| format!("subscriber: {}", words_of(&*panic)))?;
        let acknowledged = std::mem::take(&mut *self.shared.acknowledged.lock().unwrap());
        Ok(Told { acknowledged, seen })
    }
}

/// What a panic said.
pub fn words_of(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(1));
    }
}

struct Waiting {
    key: String,
    sent: Instant,
}

fn key(number: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    format!("{now:012x}{number:020x}")
}

/// Publishes at a pace, and in bursts when told to; what gets a temporary error is sent again with its key.
fn publish(mut client: Client, shared: &Shared) {
    let mut waiting: BTreeMap<u64, Waiting> = BTreeMap::new();
    let (mut next, mut due, mut heard) = (0, Instant::now(), Instant::now());
    while !shared.enough.load(SeqCst) || !waiting.is_empty() {
        while waiting.len() < IN_FLIGHT && !shared.enough.load(SeqCst) {
            let burst = shared.burst.load(SeqCst);
            if burst == 0 && !shared.full.load(SeqCst) && Instant::now() < due {
                break;
            }
            waiting.insert(next, Waiting { key: key(next), sent: Instant::now() });
            send_publish(&mut client, next, &waiting[&next].key);
            next += 1;
            due = Instant::now() + PACE;
            shared.in_flight.store(waiting.len() as u64, SeqCst);
            shared.burst.fetch_sub(burst.min(1), SeqCst);
        }
        let Some(reply) = client.read() else {
            assert!(waiting.is_empty() || heard.elapsed() < PATIENCE, "no service for {PATIENCE:?}");
            continue;
        };
        heard = Instant::now();
        let Some(number) = reply["id"].as_u64().and_then(|id| id.checked_sub(10)) else { continue };
        if let Some(error) = reply.get("error") {
            assert_eq!(error["temporary"], json!(true), "{reply}");
            send_publish(&mut client, number, &waiting[&number].key);
            continue;
        }
        let seq = number_of(&reply["publish"]["seq"]);
        let Waiting { sent, .. } = waiting.remove(&number).expect("answered once");
        shared.in_flight.store(waiting.len() as u64, SeqCst);
        let acknowledged = Acknowledged { number, seq, sent, at: heard };
        shared.acknowledged.lock().unwrap().push(acknowledged);
    }
}

fn send_publish(client: &mut Client, number: u64, key: &str) {
    let body = json!({"text": number.to_string()});
    client.send(&json!({"id": number + 10, "publish": {"room": ROOM, "key": key, "body": body}}));
}

/// Reads the stream of the room until it has all that is expected, and a little longer.
fn subscribe(mut client: Client, shared: &Shared) -> Vec<(u64, u64)> {
    client.send(&json!({"id": 2, "subscribe": {"room": ROOM, "since": {"seq": "0"}}}));
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let (mut since, mut quiet, mut pinged) = (Instant::now(), 0, Instant::now());
    loop {
        if pinged.elapsed() > SIGN_OF_LIFE {
            pinged = Instant::now();
            client.send(&json!({"id": 3, "ping": {}}));
        }
        let Some(frame) = client.read() else {
            let expected = shared.expected.load(SeqCst);
            quiet += 1;
            // Nothing may come twice after all has come once.
            if seen.len() as u64 >= expected && quiet > 20 {
                return seen;
            }
            let late = expected != u64::MAX && since.elapsed() > PATIENCE;
            assert!(!late, "expected {expected} events, saw {} within {PATIENCE:?}", seen.len());
            continue;
        };
        (since, quiet) = (Instant::now(), 0);
        assert!(frame.get("error").is_none(), "{frame}");
        let event = &frame["push"]["event"];
        if event.is_object() {
            seen.push((number_of(&event["seq"]), number_of(&event["body"]["text"])));
        }
    }
}

fn number_of(text: &Value) -> u64 {
    text.as_str().unwrap().parse().unwrap()
}
