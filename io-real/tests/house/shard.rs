//! Three replicas and an edge as processes, each with a file in one folder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use super::port::free_port;
use super::process::{Process, ask, key, rpc, tigerchat, wait_until};

const CLUSTER: &str = "d15c00d15c00d15c00d15c00d15c00d1";

pub struct Shard {
    pub folder: PathBuf,
    addresses: Vec<SocketAddr>,
    pub replicas: Vec<Option<Process>>,
    pub edge: Option<(SocketAddr, Process)>,
    token: String,
    pub published: u64,
}

impl Shard {
    pub fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tigerchat-{name}-{}", std::process::id()));
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

    pub fn file(&self, replica: usize) -> PathBuf {
        self.folder.join(format!("replica-{replica}.tigerchat"))
    }

    pub fn peers(&self) -> String {
        self.addresses[..3].iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    pub fn format(&self, replica: usize, options: &[&str]) {
        let made = tigerchat()
            .args(["format", "--cluster", CLUSTER, "--replica", &replica.to_string(), "--size", "dev"])
            .args(options)
            .arg(self.file(replica))
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
    }

    pub fn run(&self, replica: usize, options: &[&str]) -> Process {
        let started =
            tigerchat().arg("start").arg(self.file(replica)).args(options).stdout(Stdio::null()).spawn();
        Process(started.unwrap())
    }

    pub fn start_edge(&mut self) {
        self.start_edge_of(CLUSTER, &self.peers());
    }

    pub fn start_edge_of(&mut self, cluster: &str, replicas: &str) {
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
    pub fn join(&mut self) -> (usize, SocketAddr) {
        let (replica, at) = (self.replicas.len(), free_port());
        self.addresses.push(at);
        self.format(replica, &["--standby"]);
        let process = self.run(replica, &["--listen", &at.to_string()]);
        self.replicas.push(Some(process));
        (replica, at)
    }

    /// Runs a command of the operator (of one word or more): what it printed, or its error.
    pub fn operate(&self, command: &str, options: &[&str]) -> Result<String, String> {
        let output = tigerchat()
            .args(command.split(' '))
            .args(["--cluster", CLUSTER, "--replicas", &self.peers()])
            .args(options)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// The roles of all members, by id.
    pub fn roles(&self) -> Vec<(usize, String)> {
        let shown = self.operate("members", &[]).unwrap();
        let rows = shown.lines().filter_map(|line| line.strip_prefix("replica "));
        rows.map(|row| {
            let mut words = row.split_whitespace();
            (words.next().unwrap().parse().unwrap(), words.next().unwrap().to_string())
        })
        .collect()
    }

    pub fn rpc(&self, command: &Value) -> Option<Value> {
        rpc(self.edge.as_ref().expect("started").0, &self.token, command)
    }

    /// What the edge answers to a path.
    pub fn get(&self, path: &str) -> Value {
        ask(self.edge.as_ref().expect("started").0, &self.token, &format!("GET {path}"), "").unwrap()
    }

    pub fn open_room(&self) {
        wait_until("the room is open", || {
            let reply = self.rpc(&json!({"id": 1, "room_open": {"room": "general"}}));
            reply.is_some_and(|reply| reply.get("room_open").is_some())
        });
    }

    /// Publishes one message, with its key again until it is acknowledged as the next of the room.
    pub fn publish(&mut self, body: &Value) {
        self.published += 1;
        let key = key(self.published);
        let command = json!({"id": 1, "publish": {"room": "general", "key": key, "body": body}});
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
