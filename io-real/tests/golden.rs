//! Files of every released format, opened by the binary of today: `golden/README.md`.

mod house;
#[path = "golden/sparse.rs"]
mod sparse;

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use house::port::free_port;
use house::process::{self, Process, key, rpc};
use serde_json::{Value, json};
use tigerchat_core::chat::{Limits, shape_is_sane};
use tigerchat_core::store::layout::Layout;
use tigerchat_core::store::superblock::{ShardConfig, Superblock};
use tigerchat_core::types::{ClusterId, ReplicaId, ShardId};
use tigerchat_core::vsr::membership::Members;

const PATIENCE: Duration = Duration::from_secs(60);
const PARTS: [&str; 5] = ["backup.json", "superblock", "blocks", "log", "SHA256SUMS"];
/// Golden files stay small.
const SIZE_MAX: usize = 200 << 10;
const MESSAGES: u64 = 40;
/// A hundred years, seconds: golden files grow old.
const CENTURY: u32 = 36_500 * 86_400;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn tigerchat(words: &[&str]) -> Command {
    let mut command = process::tigerchat();
    command.args(words);
    command
}

fn run(words: &[&str]) -> Output {
    let output = tigerchat(words).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{words:?}: {output:?}");
    output
}

fn done(words: &[&str]) -> String {
    let output = run(words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(words: &[&str]) -> String {
    let output = run(words);
    assert!(!output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tigerchat-golden-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// A golden file as it was.
    fn unpacked(&self, name: &str) -> String {
        let packed = std::fs::read(golden().join(format!("{name}.sparse"))).unwrap();
        assert!(packed.len() <= SIZE_MAX, "{name} is small");
        let path = self.path(&name.replace('/', "-"));
        std::fs::write(&path, sparse::unpack(&packed)).unwrap();
        path
    }

    /// The master key, as only its owner may read it.
    fn key(&self) -> String {
        let path = self.path("master-key");
        let key = std::fs::read(golden().join("master-key")).unwrap();
        let mut options = std::fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .unwrap()
            .write_all(&key)
            .unwrap();
        path
    }
}

/// The only replica of a shard, and an edge.
struct Shard {
    cluster: String,
    replica: String,
    web: SocketAddr,
    token: String,
    _processes: [Process; 2],
}

impl Shard {
    fn start(folder: &Folder, cluster: &str, file: &str, key: Option<&str>) -> Self {
        let (replica, web) = (free_port().to_string(), free_port());
        let printed = done(&["token", "ada"]);
        let after =
            |word: &str| printed.lines().find_map(|line| line.strip_prefix(word)).unwrap().trim().to_owned();
        let tokens = folder.path("tokens");
        std::fs::write(&tokens, after("line")).unwrap();
        let mut start = tigerchat(&["start", file, "--peers", &replica]);
        start.args(key.iter().flat_map(|key| ["--key", key]));
        let listen = web.to_string();
        let words =
            ["edge", "--cluster", cluster, "--replicas", &replica, "--size", "dev", "--listen", &listen];
        let mut edge = tigerchat(&words);
        edge.args(["--tokens", &tokens]);
        let spawn = |command: &mut Command| {
            Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        };
        let (cluster, replica) = (cluster.into(), replica.clone());
        Self {
            cluster,
            replica,
            web,
            token: after("token"),
            _processes: [spawn(&mut start), spawn(&mut edge)],
        }
    }

    fn ask(&self, command: &Value, field: &str) -> Value {
        let began = Instant::now();
        loop {
            let reply = rpc(self.web, &self.token, command);
            if let Some(answer) = reply.as_ref().and_then(|reply| reply.get(field).cloned()) {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "no answer within {PATIENCE:?} to {command}: {reply:?}");
            sleep(Duration::from_millis(20));
        }
    }

    /// Rules of retention as `tigerchat retention` shows or sets them.
    fn retention(&self, what: &str, options: &[&str]) -> Result<Value, String> {
        let of = ["--cluster", &self.cluster, "--replicas", &self.replica, "--json"];
        let output = run(&[&["retention", what][..], &of, options].concat());
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    fn open(&self, room: &str) {
        self.ask(&json!({"id": 1, "room_open": {"room": room}}), "room_open");
    }

    fn publish(&self, room: &str, number: u64) -> Value {
        let key = key(number);
        let body = format!("message {number}, zażółć 🐯");
        self.ask(&json!({"id": 1, "publish": {"room": room, "key": key, "body": body}}), "publish")
    }
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Each row that was said once is said again, with these fields at least: later binaries may say more.
fn must_say_again(expected: &str, found: &str) {
    let found = rows(found);
    let agrees = |expected: &Value, found: &Value| {
        expected.as_object().unwrap().iter().all(|(name, value)| found.get(name) == Some(value))
    };
    let mut expected = rows(expected);
    assert!(expected.len() > MESSAGES as usize, "it says what it holds");
    expected.retain(|row| !found.iter().any(|found| agrees(row, found)));
    assert!(expected.is_empty(), "not said any more: {expected:?}");
}

fn inspected(file: &str, key: Option<&str>) -> String {
    let mut words = vec!["inspect", "--log", "--verify", "--json", file];
    words.extend(key.iter().flat_map(|key| ["--key", key]));
    done(&words)
}

fn cluster_of(inspected: &str) -> String {
    rows(inspected).iter().find_map(|row| row.get("cluster")?.as_str().map(str::to_owned)).unwrap()
}

#[test]
fn data_files_of_every_format_say_what_they_said_and_serve() {
    let folder = Folder::new("files");
    let key = folder.key();
    let key = Some(key.as_str());
    for (name, key) in [("v2", None), ("v3", key), ("v2-rules", None), ("v3-rules", key)] {
        let file = folder.unpacked(&format!("{name}/data"));
        let expected = std::fs::read_to_string(golden().join(name).join("data.json")).unwrap();
        let found = inspected(&file, key);
        must_say_again(&expected, &found);
        let mut words = vec!["verify", &file];
        words.extend(key.iter().flat_map(|key| ["--key", key]));
        done(&words);
        assert_eq!(
            std::fs::read(&file).unwrap(),
            std::fs::read(folder.unpacked(&format!("{name}/data"))).unwrap()
        );

        let shard = Shard::start(&folder, &cluster_of(&found), &file, key);
        let last =
            json!({"id": 1, "history": {"room": "general", "limit": 1, "consistency": "linearizable"}});
        let history = shard.ask(&last, "history");
        let head: u64 = history["head"].as_str().unwrap().parse().unwrap();
        assert_eq!(head, MESSAGES, "{history}");
        let more: Vec<Value> = (1..=30).map(|number| shard.publish("general", MESSAGES + number)).collect();
        assert_eq!(more[29]["seq"], json!((head + 30).to_string()), "{more:?}");
        if name.ends_with("-rules") {
            let shown = shard.retention("show", &["--room", "tea"]).expect("it has rules");
            assert_eq!(shown["of_room"]["age_s"], json!(CENTURY), "{shown}");
        } else {
            // Formatted before there were rules of rooms: it has no room for any.
            let set = shard.retention("set", &["--room", "tea", "--messages", "1"]);
            assert!(set.expect_err("it has none").contains("16013"));
        }
        drop(shard);
        let later = inspected(&file, key);
        let messages = rows(&expected).into_iter().filter(|row| row.get("body").is_some());
        let still = rows(&later);
        messages.for_each(|row| assert!(still.contains(&row), "{row} is there no more"));
    }
}

#[test]
fn exports_and_backups_of_every_format_are_read() {
    let folder = Folder::new("rest");
    let export = golden().join("v2/general.jsonl");
    let export = export.to_str().unwrap();
    let whole = done(&["verify", "--json", export]);
    assert_eq!(rows(&whole)[0]["head"], json!(MESSAGES), "{whole}");
    let again = done(&["export", "--room", "general", "--file", &folder.unpacked("v2/data")]);
    assert_eq!(again, std::fs::read_to_string(export).unwrap(), "the same text, byte by byte");

    let (key, backup) = (folder.key(), folder.path("v3-backup"));
    std::fs::create_dir(&backup).unwrap();
    for part in PARTS {
        std::fs::rename(folder.unpacked(&format!("v3/backup/{part}")), Path::new(&backup).join(part))
            .unwrap();
    }
    let out = folder.path("restored");
    let words =
        ["restore", "--unverified", "--from", &backup, "--cluster", "new", "--replica", "0", "--out", &out];
    done(&[&words[..], &["--key", &key]].concat());
    // Rooms and messages go on as they were; of the chain nothing is another.
    let said = |text: &str| {
        let rows = rows(text).into_iter().filter(|row| row.get("chain").is_some());
        rows.collect::<Vec<_>>()
    };
    let expected = std::fs::read_to_string(golden().join("v3/data.json")).unwrap();
    assert_eq!(said(&inspected(&out, Some(&key))), said(&expected));
}

#[test]
fn a_file_of_another_format_is_refused_by_the_release_that_reads_it() {
    let folder = Folder::new("other");
    let file = folder.unpacked("v2/data");
    let whole = std::fs::read(&file).unwrap();
    let peers = free_port().to_string();
    for (version, release, what) in [
        (1_u32, 1_u32, "no release reads it"),
        (5, 7, "start one that runs release 7"),
        (u32::MAX, 9, "start one that runs release 9"),
    ] {
        let mut other = whole.clone();
        for copy in other[..32768].chunks_mut(8192) {
            copy[16..20].copy_from_slice(&version.to_le_bytes());
            copy[20..24].copy_from_slice(&release.to_le_bytes());
        }
        std::fs::write(&file, &other).unwrap();
        let out = folder.path("none");
        for words in [
            &["inspect", &file][..],
            &["verify", &file],
            &["start", &file, "--peers", &peers],
            &["export", "--room", "general", "--file", &file],
            &["backup", "--unsigned", "--file", &file, "--out", &out],
            &["key", "rotate", &file],
        ] {
            let complaint = refused(words);
            let said = format!("17008: expected a data file of format version 2 to 4, found {version}");
            assert!(complaint.contains(&said) && complaint.contains(what), "{words:?}: {complaint}");
        }
        assert_eq!(std::fs::read(&file).unwrap(), other, "nothing was written to it");
    }
}

#[test]
fn what_is_packed_is_unpacked() {
    for bytes in [&[][..], &[0; 100], &[1], &[0, 0, 7, 0, 0, 0, 8, 0], &[[0; 40], [3; 40], [0; 40]].concat()]
    {
        assert_eq!(sparse::unpack(&sparse::pack(bytes)), bytes);
    }
}

fn keep(name: &str, bytes: &[u8]) {
    let path = golden().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    match made.and_then(|mut file| file.write_all(bytes)) {
        Ok(()) => println!("{name}: {} bytes", bytes.len()),
        Err(error) => println!("{name}: {error}"),
    }
}

/// The data file of a tiny shard, as `format` would make it.
fn tiny(path: &str) -> String {
    let layout = Layout { wal_slots: 16, slot_sectors: 2, block_sectors: 2, blocks_max: 1024, grid_step: 16 };
    let limits = Limits { keys: 256, room_messages: 0, ..Limits::tiny() };
    assert!(shape_is_sane(&limits, &layout));
    let (shard, replica, cluster) =
        (ShardId(1), ReplicaId(0), ClusterId(0x601d_0000_0000_0000_0000_0000_0000_0001));
    let config = ShardConfig { cluster, shard, replica, pipeline: 4, sessions: 4, window: 8, layout, limits };
    let mut bytes = vec![0; usize::try_from(layout.hot_size()).unwrap()];
    let zone = Superblock::format(config, Members::first(1, 1).unwrap()).zone();
    bytes[..zone.len()].copy_from_slice(&zone);
    std::fs::write(path, bytes).unwrap();
    cluster.to_string()
}

/// See `golden/README.md`.
#[test]
#[ignore = "a tool: makes golden files of the formats of today, and overwrites none"]
fn make_golden_files() {
    let folder = Folder::new("made");
    let (file, backup) = (folder.path("data"), folder.path("backup"));
    let cluster = tiny(&file);
    let shard = Shard::start(&folder, &cluster, &file, None);
    shard.open("general");
    shard.open("tea");
    for number in 1..=MESSAGES {
        shard.publish("general", number);
        if number % 8 == 0 {
            shard.publish("tea", 1000 + number);
        }
    }
    let rules = shard.retention("set", &["--room", "tea", "--messages", "1000", "--age", "36500d"]);
    assert_eq!(rules.expect("it has room for rules")["of_room"]["age_s"], json!(CENTURY));
    // The rules are in a checkpoint too.
    for number in 1..=20 {
        shard.publish("tea", 2000 + number);
    }
    drop(shard);
    // Limits have room for rules since there were any: the same versions, another form.
    let version = |bytes: &[u8]| format!("v{}-rules", u32::from_le_bytes(bytes[16..20].try_into().unwrap()));
    let bytes = std::fs::read(&file).unwrap();
    let plain = version(&bytes);
    keep(&format!("{plain}/data.sparse"), &sparse::pack(&bytes));
    keep(&format!("{plain}/data.json"), inspected(&file, None).as_bytes());
    keep(
        &format!("{plain}/general.jsonl"),
        done(&["export", "--room", "general", "--file", &file]).as_bytes(),
    );

    if !golden().join("master-key").exists() {
        let key = folder.path("new-key");
        done(&["key", "make", &key]);
        keep("master-key", &std::fs::read(key).unwrap());
    }
    let (key, sealed) = (folder.key(), folder.path("sealed"));
    done(&["backup", "--unsigned", "--file", &file, "--out", &backup]);
    let cluster = "601d0000000000000000000000000002";
    let words = [
        "restore",
        "--unverified",
        "--from",
        &backup,
        "--cluster",
        cluster,
        "--replica",
        "0",
        "--out",
        &sealed,
    ];
    done(&[&words[..], &["--key", &key]].concat());
    let bytes = std::fs::read(&sealed).unwrap();
    let name = version(&bytes);
    keep(&format!("{name}/data.sparse"), &sparse::pack(&bytes));
    keep(&format!("{name}/data.json"), inspected(&sealed, Some(&key)).as_bytes());
    let backup = folder.path("sealed-backup");
    done(&["backup", "--unsigned", "--file", &sealed, "--out", &backup, "--key", &key]);
    for part in PARTS {
        let bytes = std::fs::read(Path::new(&backup).join(part)).unwrap();
        keep(&format!("{name}/backup/{part}.sparse"), &sparse::pack(&bytes));
    }
}
