//! `tigerchat erase --now` in earnest: three replica processes and an edge, and afterwards not a byte of what was erased in
//! any of their files, while everything beside it is there and verifies.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

const CLUSTER: &str = "e4a5ede4a5ede4a5ede4a5ede4a5ede4";
const PATIENCE: Duration = Duration::from_secs(60);

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

fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

struct Shard {
    folder: PathBuf,
    addresses: Vec<SocketAddr>,
    replicas: Vec<Option<Process>>,
    edge: Option<(SocketAddr, Process)>,
    token: String,
    published: u64,
}

impl Shard {
    fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("tigerchat-erase-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let printed = tigerchat().args(["token", "ada"]).output().unwrap().stdout;
        let printed = String::from_utf8(printed).unwrap();
        let after =
            |word: &str| printed.lines().find_map(|line| line.strip_prefix(word)).unwrap().trim().to_string();
        let token = after("token");
        std::fs::write(folder.join("tokens"), after("line")).unwrap();
        let addresses = (0..3).map(|_| free_port()).collect();
        let replicas = Vec::new();
        let mut this = Self { folder, addresses, replicas, edge: None, token, published: 0 };
        for replica in 0..3 {
            this.format(replica, &[]);
            let peers = this.peers();
            let process = this.run(replica, &["--peers", &peers]);
            this.replicas.push(Some(process));
        }
        this.start_edge();
        this
    }

    fn file(&self, replica: usize) -> PathBuf {
        self.folder.join(format!("replica-{replica}.tigerchat"))
    }

    fn peers(&self) -> String {
        self.addresses[..3].iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    fn format(&self, replica: usize, options: &[&str]) {
        let made = tigerchat()
            .args(["format", "--cluster", CLUSTER, "--replica", &replica.to_string(), "--size", "dev"])
            .args(options)
            .arg(self.file(replica))
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
    }

    fn run(&self, replica: usize, options: &[&str]) -> Process {
        let started =
            tigerchat().arg("start").arg(self.file(replica)).args(options).stdout(Stdio::null()).spawn();
        Process(started.unwrap())
    }

    fn start_edge(&mut self) {
        let at = free_port();
        let edge = tigerchat()
            .args(["edge", "--cluster", CLUSTER, "--replicas", &self.peers(), "--size", "dev"])
            .args(["--listen", &at.to_string(), "--tokens"])
            .arg(self.folder.join("tokens"))
            .stdout(Stdio::null())
            .spawn();
        self.edge = Some((at, Process(edge.unwrap())));
    }

    /// Runs a command of the operator: what it printed, or its error.
    fn operate(&self, command: &str, options: &[&str]) -> Result<String, String> {
        let output = tigerchat()
            .args([command, "--cluster", CLUSTER, "--replicas", &self.peers()])
            .args(options)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn rpc(&self, command: &Value) -> Option<Value> {
        let at = self.edge.as_ref().expect("started").0;
        let mut stream = TcpStream::connect(at).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (body, token) = (command.to_string(), &self.token);
        let request = format!(
            "POST /v1/rpc HTTP/1.1\r\nHost: {at}\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Publishes one message, with its key again until it is acknowledged as the next of the room.
    fn publish(&mut self, body: &str) {
        self.published += 1;
        let key = key(self.published);
        let command = json!({"id": 1, "publish": {"room": "general", "key": key, "body": {"text": body}}});
        let seq = self.published.to_string();
        wait_until("a message is acknowledged", || {
            let reply = self.rpc(&command);
            reply.is_some_and(|reply| reply["publish"]["seq"] == json!(seq))
        });
    }

    fn say(&mut self, count: u64) {
        for _ in 0..count {
            let text = format!("number {}", self.published + 1);
            self.publish(&text);
        }
    }

    /// How often a text lies in the files of the replicas.
    fn found(&self, text: &str) -> Vec<usize> {
        let count = |replica: usize| {
            let bytes = std::fs::read(self.file(replica)).unwrap();
            bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
        };
        (0..3).map(count).collect()
    }
}

fn key(number: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    format!("{now:012x}{number:020x}")
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.edge = None;
        self.replicas.clear();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20));
    }
}

/// Over and over: wherever a sector of it is left, some of these are whole.
fn secret(word: &str) -> String {
    word.repeat(6_000 / word.len())
}

fn verified(shard: &Shard, replica: usize) -> String {
    let out = shard.folder.join(format!("general-{replica}.jsonl"));
    let exported = tigerchat()
        .args(["export", "--room", "general", "--file"])
        .arg(shard.file(replica))
        .arg("--out")
        .arg(&out)
        .output();
    assert!(exported.unwrap().status.success());
    let verified = tigerchat().arg("verify").arg(&out).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    std::fs::read_to_string(out).unwrap()
}

#[test]
fn what_is_erased_now_is_in_no_file_of_any_replica() {
    let mut shard = Shard::start();
    wait_until("the room is open", || {
        let reply = shard.rpc(&json!({"id": 1, "room_open": {"room": "general"}}));
        reply.is_some_and(|reply| reply.get("room_open").is_some())
    });
    // One that is in runs and was merged by now, and one that is in memory and the log alone.
    shard.say(100);
    shard.publish(&secret("an-old-secret."));
    shard.say(400);
    shard.publish(&secret("a-new-secret."));
    shard.say(3);
    for word in ["an-old-secret.", "a-new-secret."] {
        wait_until("all have it", || shard.found(word).iter().all(|count| *count > 0));
    }

    // The author takes one away, the operator the other, and has both gone from the disks.
    let erase = json!({"id": 1, "erase": {"room": "general", "key": key(9_999), "seq": "101"}});
    let erased = shard.rpc(&erase).unwrap();
    assert_eq!(erased["erase"]["seq"], json!("506"), "{erased}");
    assert_eq!(shard.rpc(&erase).unwrap()["erase"]["duplicate"], json!(true));
    let wrong = shard.operate("erase", &["--room", "general", "--seq", "506"]).unwrap_err();
    assert!(wrong.contains("13008"), "{wrong}");
    let said = shard.operate("erase", &["--room", "general", "--seq", "502", "--now"]).unwrap();
    for replica in 0..3 {
        assert!(said.contains(&format!("replica {replica}: gone from its disk")), "{said}");
    }
    assert_eq!(shard.found("an-old-secret."), [0, 0, 0], "{said}");
    assert_eq!(shard.found("a-new-secret."), [0, 0, 0], "{said}");
    println!("{said}");

    // What stood beside them is there, and goes on.
    shard.published += 2;
    shard.say(3);
    let page = |from: &str| {
        let history = json!({"id": 1, "history": {"room": "general", "from": from, "limit": 3}});
        shard.rpc(&history).unwrap()["history"]["messages"].clone()
    };
    for (from, seq) in [("100", 101), ("501", 502)] {
        let messages = page(from);
        assert_eq!(messages[0]["body"]["text"], json!(format!("number {from}")), "{messages}");
        assert_eq!((&messages[1]["erased"], messages[1].get("body")), (&json!(true), None), "{messages}");
        assert_eq!(messages[2]["body"]["text"], json!(format!("number {}", seq + 1)), "{messages}");
    }
    wait_until("all have the newest", || shard.found("number 510").iter().all(|count| *count > 0));
    shard.edge = None;
    shard.replicas.clear();
    for replica in 0..3 {
        let text = verified(&shard, replica);
        assert!(text.contains("number 1\\\"") && text.contains("number 500"), "{text}");
        assert!(!text.contains("secret"));
    }
    assert_eq!(shard.found("an-old-secret."), [0, 0, 0]);
}
