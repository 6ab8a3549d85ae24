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
        self.start_edge_of(CLUSTER, &self.peers());
    }

    fn start_edge_of(&mut self, cluster: &str, replicas: &str) {
        let at = free_port();
        let edge = tigerchat()
            .args(["edge", "--cluster", cluster, "--replicas", replicas, "--size", "dev"])
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
    // What any replica has of it may be a little older.
    let last = json!({"id": 1, "history": {"room": "general", "limit": 1, "consistency": "linearizable"}});
    let mut head = Value::Null;
    wait_until("history is read", || {
        head = shard.rpc(&last).unwrap_or_default()["history"]["head"].clone();
        head != Value::Null
    });
    assert_eq!(head, json!(shard.published.to_string()));

    restored_with_other_members(&mut shard, lost);
}

/// A backup of a shard whose members changed makes a new cluster of those members, and of no one else.
fn restored_with_other_members(shard: &mut Shard, lost: usize) {
    let members: Vec<usize> = shard.roles().into_iter().map(|(id, _)| id).collect();
    assert_eq!(members.len(), 3, "{members:?}");
    let backups: Vec<PathBuf> = members
        .iter()
        .map(|id| {
            let out = shard.folder.join(format!("backup-{id}"));
            let made =
                tigerchat().args(["backup", "--file"]).arg(shard.file(*id)).arg("--out").arg(&out).output();
            assert!(made.as_ref().unwrap().status.success(), "{made:?}");
            out
        })
        .collect();
    // What was acknowledged is on two of three disks: the backup that has most of it.
    let head = |backup: &PathBuf| {
        let about = std::fs::read_to_string(backup.join("backup.json")).unwrap();
        serde_json::from_str::<Value>(&about).unwrap()["head"].as_u64().unwrap()
    };
    let backup = backups.iter().max_by_key(|backup| head(backup)).unwrap().clone();
    shard.edge = None;
    shard.replicas.iter_mut().for_each(|replica| *replica = None);
    let restore = |cluster: &str, replica: usize, out: &PathBuf| {
        let words = ["restore", "--cluster", cluster, "--replica", &replica.to_string(), "--from"];
        tigerchat().args(words).arg(&backup).arg("--out").arg(out).output().unwrap()
    };
    let refused = restore("new", lost, &shard.folder.join("none"));
    let complaint = String::from_utf8(refused.stderr).unwrap();
    assert!(complaint.contains("expected the id of a member"), "{complaint}");

    // Elsewhere than before: the members' addresses are those of the old cluster.
    let places: Vec<(usize, SocketAddr)> = members.iter().map(|id| (*id, free_port())).collect();
    let peers = places.iter().map(|(id, at)| format!("{id}={at}")).collect::<Vec<_>>().join(",");
    let mut cluster = "new".to_string();
    for id in &members {
        let out = shard.folder.join(format!("restored-{id}"));
        let made = restore(&cluster, *id, &out);
        let said = String::from_utf8(made.stdout).unwrap();
        assert!(made.status.success() && said.contains(&format!("replica {id} of 3")), "{said}");
        cluster = said.split("cluster ").nth(1).and_then(|rest| rest.get(..32)).unwrap().to_string();
    }
    let start = |id: &usize| {
        let mut start = tigerchat();
        start.arg("start").arg(shard.folder.join(format!("restored-{id}"))).args(["--peers", &peers]);
        Some(Process(start.stdout(Stdio::null()).spawn().unwrap()))
    };
    let started: Vec<_> = members.iter().map(start).collect();
    shard.replicas = started;
    shard.start_edge_of(&cluster, &peers);
    let said = shard.published.to_string();
    wait_until("the new cluster serves", || {
        let reply = shard.rpc(&json!({"id": 1, "history": {"room": "general", "limit": 200}}));
        reply.is_some_and(|reply| reply["history"]["head"] == json!(said))
    });
    // The one that came later goes first: it is dialled anew, and counts when another one is away.
    for away in [2, 0, 1] {
        shard.replicas[away] = None;
        (0..5).for_each(|_| shard.publish());
        let mut start = tigerchat();
        let file = shard.folder.join(format!("restored-{}", members[away]));
        start.arg("start").arg(file).args(["--peers", &peers]);
        shard.replicas[away] = Some(Process(start.stdout(Stdio::null()).spawn().unwrap()));
        (0..5).for_each(|_| shard.publish());
    }
}
