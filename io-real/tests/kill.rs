//! The real thing under `SIGKILL`: three replica processes, two edges, a publisher with 64 messages in flight, a
//! subscriber on the other edge, and a primary that is killed again and again.
//!
//! Afterwards every acknowledged message is there once, in order, in the log of every replica, and the subscriber
//! saw each exactly once (I03, I05, I16, I32).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

const MESSAGES: u64 = 20_000;
const IN_FLIGHT: usize = 64;
const KILLS: u64 = 12;
const PATIENCE: Duration = Duration::from_secs(30);

fn tigerchat() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tigerchat"))
}

/// A process that does not outlive the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Cluster {
    folder: PathBuf,
    peers: Vec<SocketAddr>,
    replicas: Vec<Option<Process>>,
    edges: Vec<(SocketAddr, Process)>,
    token: String,
}

fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn file(folder: &Path, replica: usize) -> PathBuf {
    folder.join(format!("replica-{replica}.tigerchat"))
}

impl Cluster {
    fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("tigerchat-kill-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let cluster = "c0ffee00c0ffee00c0ffee00c0ffee00";
        let peers: Vec<SocketAddr> = (0..3).map(|_| free_port()).collect();
        for replica in 0..3 {
            let made = tigerchat()
                .args(["format", "--cluster", cluster, "--replica", &replica.to_string(), "--size", "dev"])
                .arg(file(&folder, replica))
                .stdout(Stdio::null())
                .status();
            assert!(made.unwrap().success());
        }
        let printed = tigerchat().args(["token", "killer"]).output().unwrap().stdout;
        let printed = String::from_utf8(printed).unwrap();
        let after =
            |word: &str| printed.lines().find_map(|line| line.strip_prefix(word)).unwrap().trim().to_string();
        let (token, line) = (after("token"), after("line"));
        let tokens = folder.join("tokens");
        std::fs::write(&tokens, line).unwrap();
        let mut this = Self { folder, peers, replicas: vec![None, None, None], edges: Vec::new(), token };
        (0..3).for_each(|replica| this.start_replica(replica));
        for _ in 0..2 {
            let at = free_port();
            let edge = tigerchat()
                .args(["edge", "--cluster", cluster, "--replicas", &list(&this.peers), "--size", "dev"])
                .args(["--listen", &at.to_string(), "--tokens"])
                .arg(&tokens)
                .stdout(Stdio::null())
                .spawn();
            this.edges.push((at, Process(edge.unwrap())));
        }
        this
    }

    fn start_replica(&mut self, replica: usize) {
        let started = tigerchat()
            .arg("start")
            .arg(file(&self.folder, replica))
            .args(["--peers", &list(&self.peers)])
            .stdout(Stdio::null())
            .spawn();
        self.replicas[replica] = Some(Process(started.unwrap()));
    }

    /// `SIGKILL`: nothing is flushed, nobody is told.
    fn kill(&mut self, replica: usize) {
        self.replicas[replica] = None;
    }

    /// Who leads, as an edge has last heard.
    fn primary(&self, client: &mut Client) -> usize {
        client.send(&json!({"id": 1, "status": {}}));
        let status = client.wait_for(|reply| reply.get("status").is_some());
        usize::try_from(status["status"]["primary"].as_u64().unwrap()).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.edges.clear();
        self.replicas.clear();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A client as anybody would write it.
struct Client {
    socket: WebSocket<TcpStream>,
}

impl Client {
    fn connect(edge: SocketAddr, token: &str) -> Self {
        let began = Instant::now();
        loop {
            if let Ok(stream) = TcpStream::connect(edge) {
                stream.set_nodelay(true).unwrap();
                let (socket, _) = tungstenite::client(format!("ws://{edge}/v1/ws"), stream).unwrap();
                socket.get_ref().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                let mut client = Self { socket };
                client.send(&json!({"id": 1, "connect": {"token": token}}));
                client.wait_for(|reply| reply.get("connect").is_some());
                return client;
            }
            assert!(began.elapsed() < PATIENCE, "the edge does not listen");
            sleep(Duration::from_millis(20));
        }
    }

    fn send(&mut self, command: &Value) {
        self.socket.send(Message::text(command.to_string())).unwrap();
    }

    /// The next frame, or none within 20 ms.
    fn read(&mut self) -> Option<Value> {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        match self.socket.read() {
            Ok(Message::Text(text)) => Some(serde_json::from_str(&text).unwrap()),
            Ok(_) => None,
            Err(tungstenite::Error::Io(error)) if matches!(error.kind(), WouldBlock | TimedOut) => None,
            Err(error) => panic!("the edge let us go: {error}"),
        }
    }

    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            if let Some(frame) = self.read() {
                assert!(frame.get("error").is_none(), "{frame}");
                if wanted(&frame) {
                    return frame;
                }
            }
            assert!(began.elapsed() < PATIENCE, "no answer");
        }
    }
}

/// What the publisher knows, for those who watch.
#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    in_flight: AtomicU64,
    stop: AtomicBool,
    /// Sequence of each acknowledged message.
    places: Mutex<BTreeMap<u64, u64>>,
}

fn key(number: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    format!("{now:012x}{number:020x}")
}

fn number_of(text: &Value) -> u64 {
    text.as_str().unwrap().parse().unwrap()
}

/// Publishes all messages, 64 in flight; what gets a temporary error is sent again with its key.
fn publish(mut client: Client, progress: &Progress) {
    let mut waiting: BTreeMap<u64, String> = BTreeMap::new();
    let mut next = 0;
    let mut heard = Instant::now();
    while next < MESSAGES || !waiting.is_empty() {
        while next < MESSAGES && waiting.len() < IN_FLIGHT {
            waiting.insert(next, key(next));
            send_publish(&mut client, next, &waiting[&next]);
            next += 1;
        }
        progress.in_flight.store(waiting.len() as u64, Ordering::SeqCst);
        let Some(reply) = client.read() else {
            assert!(heard.elapsed() < PATIENCE, "no service for {PATIENCE:?}");
            continue;
        };
        heard = Instant::now();
        let Some(number) = reply["id"].as_u64().map(|id| id - 10) else { continue };
        if let Some(error) = reply.get("error") {
            assert_eq!(error["temporary"], json!(true), "{reply}");
            send_publish(&mut client, number, &waiting[&number]);
            continue;
        }
        let seq = number_of(&reply["publish"]["seq"]);
        assert!(waiting.remove(&number).is_some(), "answered once");
        progress.places.lock().unwrap().insert(number, seq);
        progress.acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

fn send_publish(client: &mut Client, number: u64, key: &str) {
    let body = json!({"text": number.to_string()});
    client.send(&json!({"id": number + 10, "publish": {"room": "kill", "key": key, "body": body}}));
}

/// Reads the stream of the room until told to stop: the number in each sequence.
fn subscribe(mut client: Client, progress: &Progress) -> Vec<u64> {
    client.send(&json!({"id": 2, "subscribe": {"room": "kill", "since": {"seq": "0"}}}));
    let mut seen = Vec::new();
    let mut heard = Instant::now();
    while !progress.stop.load(Ordering::SeqCst) || (seen.len() as u64) < MESSAGES {
        let Some(frame) = client.read() else {
            assert!(heard.elapsed() < PATIENCE, "nothing delivered for {PATIENCE:?}, {} so far", seen.len());
            continue;
        };
        heard = Instant::now();
        assert!(frame.get("error").is_none(), "{frame}");
        let event = &frame["push"]["event"];
        if event.is_object() {
            assert_eq!(number_of(&event["seq"]), seen.len() as u64 + 1, "no gap, no duplicate");
            seen.push(number_of(&event["body"]["text"]));
        }
    }
    seen
}

/// The room as a replica's file has it: the number in each sequence.
fn log_of(folder: &Path, replica: usize) -> Vec<u64> {
    let output =
        tigerchat().arg("inspect").arg(file(folder, replica)).args(["--log", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut log = Vec::new();
    for row in rows.filter(|row| row["room"] == json!("kill") && row.get("seq").is_some()) {
        assert_eq!(row["seq"].as_u64().unwrap(), log.len() as u64 + 1, "dense from the first on");
        let body: Value = serde_json::from_str(row["body"].as_str().unwrap()).unwrap();
        log.push(number_of(&body["text"]));
    }
    log
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_while_primaries_are_killed() {
    let mut cluster = Cluster::start();
    let (first, second) = (cluster.edges[0].0, cluster.edges[1].0);
    let mut watcher = Client::connect(first, &cluster.token);
    watcher.send(&json!({"id": 2, "room_open": {"room": "kill"}}));
    watcher.wait_for(|reply| reply.get("room_open").is_some());
    let progress = Arc::new(Progress::default());
    let subscriber = {
        let (client, progress) = (Client::connect(second, &cluster.token), Arc::clone(&progress));
        std::thread::spawn(move || subscribe(client, &progress))
    };
    let publisher = {
        let (client, progress) = (Client::connect(first, &cluster.token), Arc::clone(&progress));
        std::thread::spawn(move || publish(client, &progress))
    };
    let mut gaps = kill_again_and_again(&mut cluster, &mut watcher, &progress);
    publisher.join().expect("the publisher got all its acknowledgements");
    progress.stop.store(true, Ordering::SeqCst);
    let seen = subscriber.join().expect("the subscriber missed nothing");

    let places = progress.places.lock().unwrap();
    assert_eq!(places.len() as u64, MESSAGES);
    assert_eq!(seen.len() as u64, MESSAGES, "each message once, and no other");
    assert!(places.iter().all(|(number, seq)| seen[usize::try_from(seq - 1).unwrap()] == *number));
    wait_for_laggards(&cluster);
    cluster.edges.clear();
    for replica in 0..3 {
        cluster.kill(replica);
        assert!(log_of(&cluster.folder, replica) == seen, "the log of replica {replica}");
    }
    gaps.sort();
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    println!("{} kills; without acknowledgement: median {median:?}, worst {worst:?}", gaps.len());
}

/// Kills the primary whenever another part of the messages is through, each time with publishes in flight, and
/// starts it again. Returns how long the publisher went without an acknowledgement each time.
fn kill_again_and_again(cluster: &mut Cluster, watcher: &mut Client, progress: &Progress) -> Vec<Duration> {
    let mut gaps = Vec::new();
    for kill in 1..=KILLS {
        wait_until(|| progress.acknowledged.load(Ordering::SeqCst) >= kill * MESSAGES / (KILLS + 2));
        let primary = cluster.primary(watcher);
        assert!(cluster.replicas[primary].is_some());
        assert!(progress.in_flight.load(Ordering::SeqCst) > 0, "publishes are in flight at each kill");
        cluster.kill(primary);
        let killed = Instant::now();
        // What was already on its way to the publisher does not count as service.
        let before = progress.acknowledged.load(Ordering::SeqCst);
        wait_until(|| progress.acknowledged.load(Ordering::SeqCst) > before + IN_FLIGHT as u64);
        gaps.push(killed.elapsed());
        cluster.start_replica(primary);
    }
    gaps
}

fn wait_until(done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE * 4, "no progress");
        sleep(Duration::from_millis(1));
    }
}

/// The replica that was started last may still be catching up: its file is looked at until it has everything.
fn wait_for_laggards(cluster: &Cluster) {
    let began = Instant::now();
    while (0..3).any(|replica| (log_of(&cluster.folder, replica).len() as u64) < MESSAGES) {
        assert!(began.elapsed() < PATIENCE, "a replica does not catch up");
        sleep(Duration::from_millis(200));
    }
}
