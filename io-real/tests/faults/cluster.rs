//! Three replica processes and two edges on loopback, and what an operator or a bad day does to them.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};
use tigerchat_core::store::grid::block::{self, Kind};
use tigerchat_core::store::layout::{Layout, SUPERBLOCK_ZONE};
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::vsr::offline::{FileBlocks, Stopped, verify};

use crate::port::free_port;
use crate::proxy::Proxy;
use crate::traffic::wait_until;

const CLUSTER: &str = "c0ffee00c0ffee00c0ffee00c0ffee00";
pub const REPLICAS: usize = 3;
pub const EDGES: usize = 2;

fn tigerchat() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tigerchat"))
}

/// A process that does not outlive the row.
struct Process(Child);

impl Process {
    fn id(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where everybody listens, and through what they reach each other.
pub struct Links {
    /// `replicas[from][to]`, for `from < to`: a replica dials those with a higher id.
    replicas: Vec<Vec<Option<Proxy>>>,
    /// `edges[edge][replica]`.
    edges: Vec<Vec<Proxy>>,
}

impl Links {
    fn new(peers: &[SocketAddr]) -> Self {
        let dial = |from: usize| {
            (0..REPLICAS).map(|to| (from < to).then(|| Proxy::to(peers[to]))).collect::<Vec<_>>()
        };
        Self {
            replicas: (0..REPLICAS).map(dial).collect(),
            edges: (0..EDGES).map(|_| peers.iter().map(|peer| Proxy::to(*peer)).collect()).collect(),
        }
    }

    /// Frames from one replica to another are held back; the other way is open.
    pub fn cut(&self, from: usize, to: usize, cut: bool) {
        match &self.replicas[from.min(to)][from.max(to)] {
            Some(proxy) if from < to => proxy.cut_there(cut),
            Some(proxy) => proxy.cut_back(cut),
            None => {}
        }
    }

    pub fn all_of(&self, replica: usize) -> impl Iterator<Item = &Proxy> {
        let touches = move |from: usize, to: usize| from == replica || to == replica;
        let rows = self.replicas.iter().enumerate();
        rows.flat_map(move |(from, row)| {
            row.iter()
                .enumerate()
                .filter(move |(to, _)| touches(from, *to))
                .filter_map(|(_, proxy)| proxy.as_ref())
        })
    }

    pub fn of_edges(&self, replica: usize) -> impl Iterator<Item = &Proxy> {
        self.edges.iter().map(move |row| &row[replica])
    }
}

/// What the operator's `members` says.
#[derive(Debug, Default)]
pub struct Standing {
    pub committed: u64,
    /// Id, role and what it acknowledged.
    pub members: Vec<(usize, String, u64)>,
}

pub struct Cluster {
    pub folder: PathBuf,
    /// What `format` and `edge` take for `--size`.
    size: &'static str,
    /// The master key of sealed files, as options of a command.
    key: Vec<String>,
    addresses: Vec<SocketAddr>,
    replicas: Vec<Option<Process>>,
    /// The addresses of the edges' clients.
    pub edges: Vec<SocketAddr>,
    edge_processes: Vec<Process>,
    pub token: String,
    pub links: Option<Links>,
}

/// Files of production sizes are sealed.
fn sealed_with(size: &str, folder: &Path) -> Vec<String> {
    if size == "dev" {
        return Vec::new();
    }
    let key = folder.join("key");
    let made = tigerchat().args(["key", "make"]).arg(&key).stdout(Stdio::null()).status().unwrap();
    assert!(made.success());
    vec!["--key".into(), key.display().to_string()]
}

fn list(addresses: impl IntoIterator<Item = SocketAddr>) -> String {
    addresses.into_iter().map(|address| address.to_string()).collect::<Vec<_>>().join(",")
}

impl Cluster {
    /// `proxied`: all links go through proxies, which costs time, so only where links are at fault.
    pub fn start(name: &str, proxied: bool) -> Self {
        Self::start_sized(name, proxied, "dev")
    }

    pub fn start_sized(name: &str, proxied: bool, size: &'static str) -> Self {
        let folder = std::env::temp_dir().join(format!("tigerchat-faults-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let addresses: Vec<SocketAddr> = (0..REPLICAS).map(|_| free_port()).collect();
        let printed = tigerchat().args(["token", "tester"]).output().unwrap().stdout;
        let printed = String::from_utf8(printed).unwrap();
        let after =
            |word: &str| printed.lines().find_map(|line| line.strip_prefix(word)).unwrap().trim().to_string();
        std::fs::write(folder.join("tokens"), after("line")).unwrap();
        let mut this = Self {
            links: proxied.then(|| Links::new(&addresses)),
            key: sealed_with(size, &folder),
            folder,
            size,
            addresses,
            replicas: Vec::new(),
            edges: Vec::new(),
            edge_processes: Vec::new(),
            token: after("token"),
        };
        for replica in 0..REPLICAS {
            this.format(replica, &[]);
            this.replicas.push(None);
            this.start_replica(replica);
        }
        (0..EDGES).for_each(|edge| this.start_edge(edge));
        this
    }

    pub fn file(&self, replica: usize) -> PathBuf {
        self.folder.join(format!("replica-{replica}.tigerchat"))
    }

    /// Where a replica tells whether it makes a checkpoint.
    pub fn checkpoints_of(&self, replica: usize) -> PathBuf {
        self.folder.join(format!("replica-{replica}.working"))
    }

    fn format(&self, replica: usize, options: &[&str]) {
        let made = tigerchat()
            .args(["format", "--cluster", CLUSTER, "--replica", &replica.to_string(), "--size", self.size])
            .args(options)
            .args(&self.key)
            .arg(self.file(replica))
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
    }

    /// What everybody says goes to a file, for whoever asks why.
    fn spawn(&self, name: &str, command: &mut Command) -> Process {
        let said = File::options().create(true).append(true).open(self.folder.join(name)).unwrap();
        Process(command.stdout(Stdio::null()).stderr(said).spawn().unwrap())
    }

    pub fn start_replica(&mut self, replica: usize) {
        let peers = list((0..REPLICAS).map(|to| {
            match &self.links {
                Some(links) => links.replicas[replica.min(REPLICAS - 1)][to]
                    .as_ref()
                    .map_or(self.addresses[to], Proxy::address),
                None => self.addresses[to],
            }
        }));
        // A write past the limit of a file's size is to fail, not to kill: that is how a disk becomes full here.
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_tigerchat"), "start"]);
        shell.arg(self.file(replica)).args(&self.key);
        // There from now on, for whoever listens.
        File::create(self.checkpoints_of(replica)).unwrap();
        shell.arg("--tell-checkpoints").arg(self.checkpoints_of(replica));
        if replica < REPLICAS {
            shell.args(["--peers", &peers]);
        } else {
            shell.args(["--listen", &self.addresses[replica].to_string()]);
        }
        let process = self.spawn(&format!("replica-{replica}.said"), &mut shell);
        self.replicas[replica] = Some(process);
    }

    fn start_edge(&mut self, edge: usize) {
        let replicas = match &self.links {
            Some(links) => list(links.edges[edge].iter().map(Proxy::address)),
            None => list(self.addresses.iter().copied()),
        };
        let at = free_port();
        let mut command = tigerchat();
        command
            .args(["edge", "--cluster", CLUSTER, "--replicas", &replicas, "--size", self.size])
            .args(["--listen", &at.to_string(), "--tokens"])
            .arg(self.folder.join("tokens"));
        let process = self.spawn(&format!("edge-{edge}.said"), &mut command);
        self.edges.push(at);
        self.edge_processes.push(process);
    }

    /// `SIGKILL`: nothing is flushed, nobody is told.
    pub fn kill(&mut self, replica: usize) {
        self.replicas[replica] = None;
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self, replica: usize) -> bool {
        self.replicas[replica].as_mut().is_none_or(|process| process.0.try_wait().unwrap().is_some())
    }

    pub fn running(&self, replica: usize) -> Pid {
        self.replicas[replica].as_ref().expect("it runs").id()
    }

    pub fn freeze(&self, replica: usize) {
        kill_process(self.running(replica), Signal::STOP).expect("our own child");
    }

    pub fn thaw(&self, replica: usize) {
        kill_process(self.running(replica), Signal::CONT).expect("our own child");
    }

    /// Every write of this process fails from now on, or none.
    pub fn fill_disk(&self, replica: usize, full: bool) {
        let limit = Rlimit { current: full.then_some(0), maximum: None };
        prlimit(Some(self.running(replica)), Resource::Fsize, limit).expect("a soft limit of our own child");
    }

    pub fn layout(&self, replica: usize) -> Layout {
        let mut zone = vec![0; SUPERBLOCK_ZONE];
        File::open(self.file(replica)).unwrap().read_exact_at(&mut zone, 0).unwrap();
        Superblock::open(&zone).unwrap().config.layout
    }

    /// A block of this kind, of those that the checkpoint of a replica's file names. The file may be in use: what was
    /// read while a checkpoint followed the other is looked at again.
    pub fn block_of(&self, replica: usize, kind: Kind) -> u64 {
        let (file, grid) = (File::open(self.file(replica)).unwrap(), self.layout(replica).grid());
        let mut found = None;
        wait_until("a checkpoint has such a block", || {
            let mut read = |offset, into: &mut [u8]| file.read_exact_at(into, offset).is_ok();
            let Ok(stopped) = Stopped::read(&mut read) else { return false };
            let mut blocks = FileBlocks::new(&stopped.superblock.config, &mut read);
            found = stopped.references().copied().find(|reference| {
                let payload = blocks.read(reference).ok();
                let block = payload.and_then(|payload| block::check(&grid, reference, payload).ok());
                block.is_some_and(|block| block.kind == kind)
            });
            found.is_some()
        });
        found.expect("waited for").address
    }

    /// Whether this block of the checkpoint is damaged now (or any, when none is named). `None`: a checkpoint followed the
    /// other while it was read.
    pub fn is_damaged(&self, replica: usize, block: Option<u64>) -> Option<bool> {
        let file = File::open(self.file(replica)).unwrap();
        let verified = verify(&mut |offset, into| file.read_exact_at(into, offset).is_ok()).ok()?;
        let mut damaged = verified.damaged.iter().map(|reference| reference.address);
        let found = damaged.any(|address| block.is_none_or(|block| block == address));
        verified.is_complete.then_some(found)
    }

    /// One byte becomes another one, on the disk.
    pub fn flip(&self, replica: usize, offset: u64) {
        let file = File::options().read(true).write(true).open(self.file(replica)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
        file.sync_all().unwrap();
    }

    /// The disk is gone; a new replica with a new id takes the place of the one who had it.
    pub fn replace(&mut self, lost: usize) -> usize {
        let (new, at) = (self.replicas.len(), free_port());
        self.addresses.push(at);
        self.replicas.push(None);
        self.format(new, &["--standby"]);
        self.start_replica(new);
        let output = self.operate(
            "replace-replica",
            &["--lost", &lost.to_string(), "--replica", &new.to_string(), "--address", &at.to_string()],
        );
        output.unwrap_or_else(|error| panic!("replace-replica: {error}"));
        new
    }

    fn operate(&self, command: &str, options: &[&str]) -> Result<String, String> {
        let ids = self.addresses.iter().enumerate().map(|(id, address)| format!("{id}={address}"));
        let known = ids.collect::<Vec<_>>().join(",");
        let output = tigerchat()
            .args([command, "--cluster", CLUSTER, "--replicas", &known])
            .args(options)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// How all members stand, if anybody knows.
    pub fn standing(&self) -> Standing {
        let shown = self.operate("members", &[]).unwrap_or_default();
        let mut standing = Standing::default();
        for line in shown.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["members", _, "view", _, "op", committed, ..] => {
                    standing.committed = committed.parse().unwrap();
                }
                ["replica", id, role, "acknowledged", "op", op, ..] => {
                    standing.members.push((id.parse().unwrap(), role.into(), op.parse().unwrap()));
                }
                _ => {}
            }
        }
        standing
    }

    /// Those who should be running.
    pub fn alive(&self) -> Vec<usize> {
        (0..self.replicas.len()).filter(|replica| self.replicas[*replica].is_some()).collect()
    }

    /// The room as a replica's file has it: the number in each sequence. Sequences that are missing or doubled end it.
    pub fn log_of(&self, replica: usize, room: &str) -> Result<Vec<u64>, String> {
        let file = self.file(replica);
        let output = tigerchat().arg("inspect").arg(&file).args(["--log", "--json"]).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().into());
        }
        let text = String::from_utf8(output.stdout).map_err(|_| "not UTF-8")?;
        let mut log = Vec::new();
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
            if row["room"] != json!(room) || row.get("seq").is_none() {
                continue;
            }
            if row["seq"] != json!(log.len() + 1) {
                return Err(format!("expected message {} of the room, found {}", log.len() + 1, row["seq"]));
            }
            log.push(number_in(row["body"].as_str().unwrap_or_default())?);
        }
        Ok(log)
    }

    pub fn stop_edges(&mut self) {
        self.edge_processes.clear();
    }

    /// The last lines that each process said.
    pub fn said(&self) -> String {
        let mut said = String::new();
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(&self.folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "said")) {
            said += &last_lines(file);
        }
        said
    }
}

fn last_lines(file: &Path) -> String {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(12);
    lines[from..].iter().map(|line| format!("  {name}: {line}\n")).collect()
}

fn number_in(body: &str) -> Result<u64, String> {
    let body: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let number = body["text"].as_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("expected a number in the message's text, found {body}"))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.edge_processes.clear();
        self.replicas.clear();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
