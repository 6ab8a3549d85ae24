//! A lost disk, in earnest: three replica processes and an edge, a data file deleted under `SIGKILL`, another replica
//! put in its place by `replace-replica`, and a publisher who is served all the while (H23).

mod house;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use house::port::free_port;
use serde_json::{Value, json};

const CLUSTER: &str = "d15c00d15c00d15c00d15c00d15c00d1";
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
        let folder = std::env::temp_dir().join(format!("tigerchat-members-{}", std::process::id()));
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

    /// A replica whose file was made to join: it knows nobody.
    fn join(&mut self) -> (usize, SocketAddr) {
        let (replica, at) = (self.replicas.len(), free_port());
        self.addresses.push(at);
        self.format(replica, &["--standby"]);
        let process = self.run(replica, &["--listen", &at.to_string()]);
        self.replicas.push(Some(process));
        (replica, at)
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

    /// The roles of all members, by id.
    fn roles(&self) -> Vec<(usize, String)> {
        let shown = self.operate("members", &[]).unwrap();
        let rows = shown.lines().filter_map(|line| line.strip_prefix("replica "));
        rows.map(|row| {
            let mut words = row.split_whitespace();
            (words.next().unwrap().parse().unwrap(), words.next().unwrap().to_string())
        })
        .collect()
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
    fn publish(&mut self) {
        self.published += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let key = format!("{now:012x}{:020x}", self.published);
        let command = json!({"id": 1, "publish": {"room": "general", "key": key, "body": self.published}});
        let seq = self.published.to_string();
        wait_until("a message is acknowledged", || {
            let reply = self.rpc(&command);
            reply.is_some_and(|reply| reply["publish"]["seq"] == json!(seq))
        });
    }
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

#[test]
fn h23_a_deleted_data_file_is_replaced_by_another_replica_while_the_shard_serves() {
    let mut shard = Shard::start();
    wait_until("the room is open", || {
        let reply = shard.rpc(&json!({"id": 1, "room_open": {"room": "general"}}));
        reply.is_some_and(|reply| reply.get("room_open").is_some())
    });
    (0..20).for_each(|_| shard.publish());
    let lost = shard.roles().iter().find(|(_, role)| role == "voter").expect("a backup").0;
    shard.replicas[lost] = None;
    std::fs::remove_file(shard.file(lost)).unwrap();
    (0..20).for_each(|_| shard.publish());

    let used = shard.operate("standby", &["--replica", "2", "--address", "127.0.0.1:9"]).unwrap_err();
    assert!(used.contains("16006"), "{used}");
    let (new, at) = shard.join();
    let options = ["--lost", &lost.to_string(), "--replica", &new.to_string(), "--address", &at.to_string()];
    let done = shard.operate("replace-replica", &options).unwrap();
    assert!(done.contains("members 1"), "{done}");
    wait_until("the new replica votes", || {
        shard.publish();
        shard.roles().iter().any(|(id, role)| *id == new && ["voter", "primary"].contains(&role.as_str()))
    });
    assert!(shard.roles().iter().all(|(id, _)| *id != lost));

    // It counts now: another one may go, and a restart of everything finds the members again.
    let primary = shard.roles().iter().find(|(_, role)| role == "primary").expect("a primary").0;
    shard.replicas[primary] = None;
    (0..20).for_each(|_| shard.publish());
    let peers = shard.peers();
    shard.replicas[new] = None;
    let listen = ["--listen", &at.to_string()];
    shard.replicas[new] = Some(shard.run(new, &listen));
    shard.replicas[primary] = Some(shard.run(primary, &["--peers", &peers]));
    (0..20).for_each(|_| shard.publish());
    let history = shard.rpc(&json!({"id": 1, "history": {"room": "general", "limit": 200}})).unwrap();
    assert_eq!(history["history"]["head"], json!(shard.published.to_string()), "{history}");
}
