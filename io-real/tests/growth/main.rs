//! How cost grows with history: three replicas and an edge as processes on loopback, many rooms, message after message,
//! and a look at certain numbers of them, after which a backup is restarted, and then all are. At the end one is rebuilt
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
mod plot;
#[path = "../house/port.rs"]
mod port;
#[path = "../faults/proxy.rs"]
mod proxy;
#[path = "../faults/traffic.rs"]
mod traffic;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use cluster::{Cluster, REPLICAS};
use traffic::Client;

const HELP: &str = "\
cargo xtask growth [--json] [--plot] [--messages N] [--rooms N] [--window N]

  --messages  so many in all [default: 20000000]; looked at are 1, 2, 5, 10, 20, 50 million and the last
  --rooms     in so many rooms [default: 100000]
  --window    so many in flight [default: 1024]
  --json      one object for scripts, on standard output
  --plot      write docs/growth.json (the same object, after each look) and docs/growth.svg (curves)

Progress goes to standard error. Needs some 320 bytes of disk for each message and replica, below the folder for temporary
files (TMPDIR), and removes them at its end; what an earlier run left there, because it was killed, is removed first.";

/// Looked at on the way.
const LOOKS: [u64; 6] = [1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000, 50_000_000];
/// Said at a time: what is shown at a look is about the last of these.
const PART: u64 = 1_000_000;
const PAGES: u64 = 1_000;
/// Said before each look with few in flight: what a checkpoint adds to a commit is seen where commits do not wait for each
/// other anyway.
const CALM: u64 = 200_000;
const CALM_WINDOW: u64 = 64;
/// Bytes of disk for a message and replica that have to be free at the beginning.
const BYTES_EACH: u64 = 320;
/// However large the shard: after that it is not coming back.
const PATIENCE: Duration = Duration::from_secs(900);

struct Plan {
    full: bool,
    json: bool,
    /// Where figures and curves are written.
    plot: Option<PathBuf>,
    messages: u64,
    rooms: u64,
    window: u64,
}

fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Plan>, String> {
    let mut plan = Plan { full: false, json: false, plot: None, messages: 4_000, rooms: 50, window: 256 };
    while let Some(argument) = given.next() {
        if argument == "--plot" {
            plan.plot = Some(given.next().ok_or("expected a folder after --plot")?.into());
            continue;
        }
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
    if let Err(why) = make_room(&plan) {
        eprintln!("growth: {why}");
        return ExitCode::from(2);
    }
    let mut shard = Shard::start(&plan);
    let mut looks = Vec::new();
    // Between two looks there is something to say.
    let goals = LOOKS.into_iter().filter(|goal| *goal + PAGES <= plan.messages).chain([plan.messages]);
    for goal in goals {
        looks.push(shard.grow_to(goal));
        tell(&plan, looks.last().expect("just pushed"));
        keep(&plan, &looks, None);
    }
    let rebuild = shard.rebuild();
    keep(&plan, &looks, Some(&rebuild));
    if plan.json {
        println!("{}", figures(&plan, &looks, Some(&rebuild)));
    } else {
        println!("{rebuild}");
    }
    if !plan.full {
        plot::must_be_drawn(&plot::svg(&looks), looks.len());
    }
    ExitCode::SUCCESS
}

fn figures(plan: &Plan, looks: &[Value], rebuild: Option<&Value>) -> Value {
    json!({"messages": plan.messages, "rooms": plan.rooms, "window": plan.window, "looks": looks, "rebuild": rebuild})
}

/// What was measured so far is written at once: a run of hours may be ended.
fn keep(plan: &Plan, looks: &[Value], rebuild: Option<&Value>) {
    let Some(folder) = &plan.plot else { return };
    let text = serde_json::to_string_pretty(&figures(plan, looks, rebuild)).expect("values are JSON");
    std::fs::write(folder.join("growth.json"), text + "\n").unwrap();
    std::fs::write(folder.join("growth.svg"), plot::svg(looks)).unwrap();
}

/// Removes what earlier runs left behind, and looks whether the disk is large enough.
fn make_room(plan: &Plan) -> Result<(), String> {
    let folder = std::env::temp_dir();
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix("tigerchat-faults-").and_then(|rest| rest.strip_suffix("-growth"));
        let is_left = process.is_some_and(|id| !Path::new("/proc").join(id).exists());
        if is_left && std::fs::remove_dir_all(entry.path()).is_ok() {
            eprintln!("removed {}, which an earlier run left", entry.path().display());
        }
    }
    let disk = rustix::fs::statvfs(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let (free, needed) = (disk.f_bavail * disk.f_frsize, plan.messages * BYTES_EACH * REPLICAS as u64);
    if free < needed {
        let mib = |bytes: u64| bytes >> 20;
        let why = format!("expected {} MiB free, found {}: set TMPDIR, or say less", mib(needed), mib(free));
        return Err(format!("{}: {why}", folder.display()));
    }
    Ok(())
}

fn tell(plan: &Plan, look: &Value) {
    if plan.json {
        return;
    }
    if look["first"] == json!(true) {
        println!(
            "   messages    acks/s   p50 ms   p99 ms p99.9 ms  max ms  bytes each  memory MiB (most)  cold page p50 / p99 ms  \
             restart ms  of all"
        );
    }
    let ms = |name: &str| look[name].as_f64().unwrap_or(0.0) / 1e6;
    println!(
        "{:>11} {:>9} {:>8.1} {:>8.1} {:>8.1} {:>7.0} {:>11.1} {:>11} {:>6} {:>12.2} / {:<9.2} {:>10} {:>7}",
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
        look["restart_backup_ms"].as_u64().unwrap_or(0),
        look["restart_all_ms"].as_u64().unwrap_or(0),
    );
    let of = |name: &str| {
        let ms = |quantile: &str| look[name][quantile].as_f64().unwrap_or(0.0) / 1e6;
        format!(
            "{:.1} / {:.1} / {:.1} ms ({})",
            ms("p50_ns"),
            ms("p99_ns"),
            ms("p999_ns"),
            look[name]["count"]
        )
    };
    for (when, beside, between) in [
        ("", "beside_checkpoints", "between_checkpoints"),
        (", with 64 in flight", "calm_beside_checkpoints", "calm_between_checkpoints"),
    ] {
        println!(
            "            p50 / p99 / p99.9{when}: beside checkpoints {}, between them {}",
            of(beside),
            of(between)
        );
    }
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
        for replica in self.cluster.alive() {
            command.arg("--checkpoints").arg(self.cluster.checkpoints_of(replica));
        }
        for (option, value) in options {
            command.args([*option, &value.to_string()]);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "bench: {said}{}", self.cluster.said());
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(text.lines().next().unwrap_or_default()).unwrap()
    }

    /// Says messages until it are so many. What the last part of them showed; of all parts the least and the most.
    fn say_until(&mut self, goal: u64) -> Value {
        let (mut least, mut most) = (f64::MAX, 0);
        loop {
            let more = PART.min(goal - self.messages);
            let mut ran = self.bench(&[("--messages", more), ("--windows", self.plan.window), ("--runs", 1)]);
            self.messages += more;
            let rate = ran["acks_per_second"].as_f64().unwrap_or(0.0);
            (least, most) = (least.min(rate), most.max(ran["max_ns"].as_u64().unwrap_or(0)));
            if self.messages == goal {
                (ran["acks_least"], ran["max_ns"]) = (json!(least), json!(most));
                return ran;
            }
            eprintln!("{} of {} messages, {rate:.0} a second", self.messages, self.plan.messages);
        }
    }

    fn grow_to(&mut self, goal: u64) -> Value {
        let first = self.messages == 0;
        let more = goal - self.messages;
        let few = if self.plan.full { CALM.min(more / 2) } else { more / 5 };
        let ran = self.say_until(goal - few);
        let calm = self.bench(&[("--messages", few), ("--windows", CALM_WINDOW), ("--runs", 1)]);
        self.messages += few;
        let pages = self.bench(&[("--pages", if self.plan.full { PAGES } else { 20 })]);
        assert!(pages["messages"].as_u64().unwrap() > 0, "pages are empty: {pages}");
        let memory: Vec<(u64, u64)> = self.cluster.alive().iter().map(|one| self.memory(*one)).collect();
        let file = taken(&self.cluster.file(0));
        let restarts = (self.restart_backup(), self.restart_all());
        json!({
            "first": first, "messages": goal, "acks_per_second": ran["acks_per_second"], "p50_ns": ran["p50_ns"],
            "p99_ns": ran["p99_ns"], "p999_ns": ran["p999_ns"], "max_ns": ran["max_ns"],
            "acks_per_second_at_least": ran["acks_least"], "beside_checkpoints": ran["beside_checkpoints"],
            "between_checkpoints": ran["between_checkpoints"],
            "calm_acks_per_second": calm["acks_per_second"], "calm_beside_checkpoints": calm["beside_checkpoints"],
            "calm_between_checkpoints": calm["between_checkpoints"],
            "restart_backup_ms": restarts.0, "restart_all_ms": restarts.1,
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

    /// A backup is killed and started again: until it has all.
    fn restart_backup(&mut self) -> u64 {
        let backup = self.a_backup();
        self.cluster.kill(backup);
        let began = Instant::now();
        self.cluster.start_replica(backup);
        self.wait_for(backup);
        millis(began)
    }

    /// All replicas are killed and started again: until a message is acknowledged.
    fn restart_all(&mut self) -> u64 {
        (0..REPLICAS).for_each(|replica| self.cluster.kill(replica));
        let began = Instant::now();
        (0..REPLICAS).for_each(|replica| self.cluster.start_replica(replica));
        let mut client = Client::connect(self.cluster.edges[0], &self.cluster.token);
        client.send(&json!({"id": 2, "room_open": {"room": "bench-0"}}));
        client.wait_for("room_open");
        let took = millis(began);
        self.wait_for(self.a_backup());
        took
    }

    /// The file of a backup is deleted and another replica put in its place, while messages are sent.
    fn rebuild(&mut self) -> Value {
        let lost = self.a_backup();
        std::fs::remove_file(self.cluster.file(lost)).unwrap();
        self.cluster.kill(lost);
        let began = Instant::now();
        let new = self.cluster.replace(lost);
        let part = if self.plan.full { 200_000 } else { 1_000 };
        let (shard, has_all) = (&*self, AtomicBool::new(false));
        let (mut meanwhile, mut rates, mut slowest) = (0, Vec::new(), 0);
        let (took, under_load) = std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                shard.wait_for(new);
                has_all.store(true, Ordering::SeqCst);
                millis(began)
            });
            // Messages go on until it has all, or for so many parts.
            for _ in 0..10 {
                let ran = shard.bench(&[("--messages", part), ("--windows", 64), ("--runs", 1)]);
                meanwhile += part;
                rates.push(ran["acks_per_second"].as_f64().unwrap_or(0.0));
                slowest = slowest.max(ran["p999_ns"].as_u64().unwrap_or(0));
                if has_all.load(Ordering::SeqCst) {
                    break;
                }
            }
            let under_load = millis(began);
            (waits.join().expect("it came back"), under_load)
        });
        self.messages += meanwhile;
        let bytes = taken(&self.cluster.file(new));
        json!({
            "rebuild of a replica, ms": took, "bytes": bytes,
            "MiB a second": bytes as f64 / 1_048_576.0 / (took as f64 / 1000.0),
            "messages meanwhile": meanwhile, "in ms": under_load, "it had all while they went on": took <= under_load,
            "acks a second": rates.iter().sum::<f64>() / rates.len() as f64, "p99.9 ms": slowest as f64 / 1e6,
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
