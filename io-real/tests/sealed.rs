//! A sealed data file, in earnest: a replica and an edge as processes, a message that nobody finds in the file, and
//! keys that are missing, wrong or of no use (H41, H42).

mod house;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use house::port::free_port;
use serde_json::{Value, json};

const CLUSTER: &str = "5ea1ed005ea1ed005ea1ed005ea1ed00";
const PATIENCE: Duration = Duration::from_secs(60);
const BODY: &str = "what nobody may read who finds this disk";

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

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("tigerchat-sealed-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Makes the file of a shard's only replica.
    fn format(&self, name: &str, key: Option<&str>) -> String {
        let file = self.file(name);
        let mut words = vec!["format", "--cluster", CLUSTER, "--replica", "0", "--replicas", "1"];
        words.extend(["--size", "dev", &file]);
        words.extend(key.iter().flat_map(|key| ["--key", key]));
        let printed = said(&words).unwrap();
        assert_eq!(printed.contains("sealed with master key"), key.is_some(), "{printed}");
        file
    }

    fn token(&self) -> String {
        let printed = said(&["token", "ada"]).unwrap();
        let after =
            |word: &str| printed.lines().find_map(|line| line.strip_prefix(word)).unwrap().trim().to_string();
        std::fs::write(self.0.join("tokens"), after("line")).unwrap();
        after("token")
    }
}

/// What a command printed, or its error.
fn said(words: &[&str]) -> Result<String, String> {
    let output = tigerchat().args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Says one message to the shard of this file and ends everything by `SIGKILL`; what its history was before.
fn publish(folder: &Folder, token: &str, file: &str, key: Option<&str>) -> Value {
    let (replica, web) = (free_port().to_string(), free_port());
    let mut words = vec!["start", file, "--peers", &replica];
    words.extend(key.iter().flat_map(|key| ["--key", key]));
    let _replica = Process(tigerchat().args(words).stdout(Stdio::null()).spawn().unwrap());
    let (listen, tokens) = (web.to_string(), folder.file("tokens"));
    let words = ["edge", "--cluster", CLUSTER, "--replicas", &replica, "--size", "dev"];
    let mut edge = tigerchat();
    edge.args(words).args(["--listen", &listen, "--tokens", &tokens]).stdout(Stdio::null());
    let _edge = Process(edge.spawn().unwrap());
    let began = Instant::now();
    let ask = |command: &Value, field: &str| loop {
        if let Some(answer) = rpc(web, token, command).and_then(|reply| reply.get(field).cloned()) {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "no answer within {PATIENCE:?} to {command}");
        sleep(Duration::from_millis(20));
    };
    ask(&json!({"id": 1, "room_open": {"room": "general"}}), "room_open");
    let history = ask(&json!({"id": 1, "history": {"room": "general", "limit": 10}}), "history");
    // A key is of its time: old ones are refused.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let key = format!("{now:012x}{:020x}", 1);
    ask(&json!({"id": 1, "publish": {"room": "general", "key": key, "body": BODY}}), "publish");
    history
}

fn rpc(at: SocketAddr, token: &str, command: &Value) -> Option<Value> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let body = command.to_string();
    let request = format!(
        "POST /v1/rpc HTTP/1.1\r\nHost: {at}\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// How often the message is to be read in a file, by anybody.
fn found(file: &str) -> usize {
    let bytes = std::fs::read(Path::new(file)).unwrap();
    bytes.windows(BODY.len()).filter(|bytes| *bytes == BODY.as_bytes()).count()
}

#[test]
fn h42_a_sealed_file_shows_nothing_is_served_with_its_key_and_says_which_key_it_lacks() {
    let folder = Folder::new();
    let token = folder.token();
    let (key, other) = (folder.file("key"), folder.file("other-key"));
    let made = said(&["key", &key]).unwrap();
    let id = made.lines().next().unwrap().rsplit(' ').next().unwrap().to_string();
    said(&["key", &other]).unwrap();
    let secret = std::fs::read_to_string(&key).unwrap();
    assert!(!made.contains(secret.trim()), "a key is never printed");

    let (sealed, plain) = (folder.format("sealed", Some(&key)), folder.format("plain", None));
    publish(&folder, &token, &sealed, Some(&key));
    let history = publish(&folder, &token, &sealed, Some(&key));
    assert_eq!(history["head"], json!("1"), "what was said before the restart: {history}");
    publish(&folder, &token, &plain, None);
    assert!(found(&plain) > 0, "the control: it is found where it is not sealed");
    assert_eq!(found(&sealed), 0);

    let shown = said(&["inspect", "--log", "--verify", "--key", &key, &sealed]).unwrap();
    assert_eq!(shown.matches(BODY).count(), 2, "{shown}");
    assert!(shown.contains(&format!("sealed with master key {id}")), "{shown}");

    let peers = free_port().to_string();
    for command in [&["start", "--peers", &peers][..], &["inspect"]] {
        let refused = |file: &str, key: Option<&str>, complaint: &str| {
            let mut words = command.to_vec();
            words.push(file);
            words.extend(key.iter().flat_map(|key| ["--key", key]));
            let error = said(&words).unwrap_err();
            assert!(error.contains(complaint) && error.contains(file), "{words:?}: {error}");
            assert!(!error.contains("panicked") && !error.contains("damaged"), "{words:?}: {error}");
        };
        refused(&sealed, None, &format!("the file is sealed: expected master key {id}, found none"));
        refused(
            &sealed,
            Some(&other),
            &format!("wrong key: the file of replica 0 of shard 1 in cluster {CLUSTER}"),
        );
        refused(&plain, Some(&key), "found one that is not sealed: leave --key out");
    }
}
