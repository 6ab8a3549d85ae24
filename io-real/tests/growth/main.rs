//! How cost grows with history: three replicas and an edge as processes on loopback, many rooms, message after message,
//! and a look at certain numbers of them. At the end a replica is restarted, the whole shard is, and one is rebuilt
//! from nothing while the others serve.
//!
//! `cargo test` runs the short form, which judges that all of it works and no time; `cargo xtask growth` measures.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "shares files with the tests of faults, and uses a part of them"
)]

#[path = "../faults/cluster.rs"]
mod cluster;
#[path = "../house/port.rs"]
mod port;
#[path = "../faults/proxy.rs"]
mod proxy;
#[path = "../faults/traffic.rs"]
mod traffic;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use cluster::{Cluster, REPLICAS};
use traffic::Client;

const HELP: &str = "\
cargo xtask growth [--json] [--messages N] [--rooms N] [--window N]

  --messages  so many in all [default: 20000000]; looked at are 1, 2, 5, 10, 20, 50 million and the last
  --rooms     in so many rooms [default: 100000]
  --window    so many in flight [default: 1024]
  --json      one object for scripts

Needs some 300 bytes of disk for each message and replica, below the folder for temporary files (TMPDIR).";

/// Looked at on the way.
const LOOKS: [u64; 6] = [1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000, 50_000_000];
const PAGES: u64 = 1_000;
/// However large the shard: after that it is not coming back.
const PATIENCE: Duration = Duration::from_secs(900);

struct Plan {
    full: bool,
    json: bool,
    messages: u64,
    rooms: u64,
    window: u64,
}

fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Plan>, String> {
    let mut plan = Plan { full: false, json: false, messages: 4_000, rooms: 50, window: 256 };
    while let Some(argument) = given.next() {
        let mut number = |name: &str| {
            let number = given.next().and_then(|text| text.parse().ok()).filter(|number| *number > 0);
            number.ok_or(format!("expected a number above 0 after {name}"))
        };
        match argument.as_str() {
            "--full" => {
                plan = Plan { full: true, messages: 20_000_000, rooms: 100_000, window: 1024, ..plan }
            }
            "--json" => plan.json = true,
            "--messages" => plan.messages = number("--messages")?,
            "--rooms" => plan.rooms = number("--rooms")?,
            "--window" => plan.window = number("--window")?,
            "--help" | "-h" | "--list" => return Ok(None),
            other if plan.full => return Err(format!("unknown option {other}\n\n{HELP}")),
            _ => {}
        }
    }
    Ok(Some(plan))
}

fn main() -> ExitCode {
    let plan = match parse(std::env::args().skip(1)) {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("growth: {why}");
            return ExitCode::from(2);
        }
    };
    let mut shard = Shard::start(&plan);
    let mut looks = Vec::new();
    let goals = LOOKS.into_iter().filter(|goal| *goal < plan.messages).chain([plan.messages]);
    for goal in goals {
        looks.push(shard.grow_to(goal));
        tell(&plan, looks.last().expect("just pushed"));
    }
    let ends = [shard.restart_backup(), shard.restart_all(), shard.rebuild()];
    if plan.json {
        println!("{}", json!({"messages": plan.messages, "rooms": plan.rooms, "looks": looks, "ends": ends}));
    } else {
        ends.iter().for_each(|end| println!("{end}"));
    }
    ExitCode::SUCCESS
}

fn tell(plan: &Plan, look: &Value) {
    if plan.json {
        return;
    }
    if look["first"] == json!(true) {
        println!(
            "   messages    acks/s   p50 ms   p99 ms p99.9 ms  max ms  bytes each  memory MiB (most)  cold page p50 / p99 ms"
        );
    }
    let ms = |name: &str| look[name].as_f64().unwrap_or(0.0) / 1e6;
    println!(
        "{:>11} {:>9} {:>8.1} {:>8.1} {:>8.1} {:>7.0} {:>11.1} {:>11} {:>6} {:>12.2} / {:.2}",
        look["messages"].as_u64().unwrap_or(0),
        look["acks_per_second"].as_f64().unwrap_or(0.0).round(),
        ms("p50_ns"),
        ms("p99_ns"),
        ms("p999_ns"),
        ms("max_ns"),
        look["bytes_each"].as_f64().unwrap_or(0.0),
        look["memory_mib"].as_u64().unwrap_or(0),
        look["memory_most_mib"].as_u64().unwrap_or(0),
        ms("page_p50_ns"),
        ms("page_p99_ns"),
    );
}

/// The cluster, and how much was said in it.
struct Shard<'a> {
    plan: &'a Plan,
    cluster: Cluster,
    messages: u64,
    /// What the files took before the first message.
    empty: u64,
}

impl<'a> Shard<'a> {
    fn start(plan: &'a Plan) -> Self {
        let size = if plan.full { "standard" } else { "dev" };
        let cluster = Cluster::start_sized("growth", false, size);
        std::fs::write(cluster.folder.join("token"), &cluster.token).unwrap();
        let empty = taken(&cluster.file(0));
        // There is service when a client is answered.
        drop(Client::connect(cluster.edges[0], &cluster.token));
        Self { plan, cluster, messages: 0, empty }
    }

    /// What `bench` says, as JSON.
    fn bench(&self, options: &[(&str, u64)]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tigerchat"));
        command.args(["bench", "--json", "--edge", &self.cluster.edges[0].to_string(), "--token-file"]);
        command.arg(self.cluster.folder.join("token")).args(["--rooms", &self.plan.rooms.to_string()]);
        for (option, value) in options {
            command.args([*option, &value.to_string()]);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "bench: {said}{}", self.cluster.said());
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(text.lines().next().unwrap_or_default()).unwrap()
    }

    fn grow_to(&mut self, goal: u64) -> Value {
        let more = goal - self.messages;
        let ran = self.bench(&[("--messages", more), ("--windows", self.plan.window), ("--runs", 1)]);
        let first = self.messages == 0;
        self.messages = goal;
        let pages = self.bench(&[("--pages", if self.plan.full { PAGES } else { 20 })]);
        assert!(pages["messages"].as_u64().unwrap() > 0, "pages are empty: {pages}");
        let memory: Vec<(u64, u64)> = self.cluster.alive().iter().map(|one| self.memory(*one)).collect();
        let file = taken(&self.cluster.file(0));
        json!({
            "first": first, "messages": goal, "acks_per_second": ran["acks_per_second"], "p50_ns": ran["p50_ns"],
            "p99_ns": ran["p99_ns"], "p999_ns": ran["p999_ns"], "max_ns": ran["max_ns"],
            "file_bytes": file, "bytes_each": (file - self.empty) as f64 / goal as f64,
            "memory_mib": memory.iter().map(|(now, _)| now).max(),
            "memory_most_mib": memory.iter().map(|(_, most)| most).max(),
            "page_p50_ns": pages["p50_ns"], "page_p99_ns": pages["p99_ns"], "page_max_ns": pages["max_ns"],
        })
    }

    /// Resident, now and at most, MiB.
    fn memory(&self, replica: usize) -> (u64, u64) {
        let id = self.cluster.running(replica).as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    fn primary(&self) -> usize {
        let standing = self.cluster.standing();
        standing.members.iter().find(|(_, role, _)| role == "primary").expect("somebody leads").0
    }

    fn a_backup(&self) -> usize {
        let primary = self.primary();
        (0..REPLICAS).find(|one| *one != primary).expect("three replicas")
    }

    /// Until this replica has acknowledged what is committed now.
    fn wait_for(&self, replica: usize) {
        let began = Instant::now();
        let goal = self.cluster.standing().committed;
        loop {
            let standing = self.cluster.standing();
            let member = standing.members.iter().find(|(id, ..)| *id == replica);
            if member.is_some_and(|(_, role, op)| role != "standby" && *op >= goal) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "replica {replica} is not back: {standing:?}");
            sleep(Duration::from_millis(10));
        }
    }

    /// A backup is killed and started again.
    fn restart_backup(&mut self) -> Value {
        let backup = self.a_backup();
        self.cluster.kill(backup);
        let began = Instant::now();
        self.cluster.start_replica(backup);
        self.wait_for(backup);
        json!({"restart of a backup, until it has all, ms": millis(began)})
    }

    /// All replicas are killed and started again: until a message is acknowledged.
    fn restart_all(&mut self) -> Value {
        (0..REPLICAS).for_each(|replica| self.cluster.kill(replica));
        let began = Instant::now();
        (0..REPLICAS).for_each(|replica| self.cluster.start_replica(replica));
        let mut client = Client::connect(self.cluster.edges[0], &self.cluster.token);
        client.send(&json!({"id": 2, "room_open": {"room": "bench-0"}}));
        client.wait_for("room_open");
        let took = millis(began);
        self.wait_for(self.a_backup());
        json!({"restart of all, until an op is acknowledged, ms": took})
    }

    /// The file of a backup is deleted and another replica put in its place, while messages are sent.
    fn rebuild(&mut self) -> Value {
        let lost = self.a_backup();
        std::fs::remove_file(self.cluster.file(lost)).unwrap();
        self.cluster.kill(lost);
        let began = Instant::now();
        let new = self.cluster.replace(lost);
        let more = if self.plan.full { 1_000_000 } else { 2_000 };
        let ran = self.bench(&[("--messages", more), ("--windows", 64), ("--runs", 1)]);
        let under_load = millis(began);
        self.messages += more;
        self.wait_for(new);
        let (took, bytes) = (millis(began), taken(&self.cluster.file(new)));
        json!({
            "rebuild of a replica, ms": took, "bytes": bytes,
            "MiB a second": bytes as f64 / 1_048_576.0 / (took as f64 / 1000.0),
            "messages meanwhile": more, "in ms": under_load, "acks a second": ran["acks_per_second"],
            "p99.9 ms": ran["p999_ns"].as_f64().map(|ns| ns / 1e6),
        })
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap()
}

/// Bytes that a file takes on its disk.
fn taken(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().blocks() * 512
}
