//! A sealed data file, in earnest: a replica and an edge as processes, a message that nobody finds in the file, and
//! keys that are missing, wrong or of no use (H41, H42).

mod house;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use house::port::free_port;
use house::process::{Process, rpc, tigerchat};
use serde_json::{Value, json};

const CLUSTER: &str = "5ea1ed005ea1ed005ea1ed005ea1ed00";
const KEY_FILE: &str = "TIGERCHAT_MASTER_KEY_FILE";
const KEY_ITSELF: &str = "TIGERCHAT_MASTER_KEY";
const PATIENCE: Duration = Duration::from_secs(60);
const BODY: &str = "what nobody may read who finds this disk";

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tigerchat-sealed-{name}-{}", std::process::id()));
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
    said_with(words, &[])
}

/// The same, with these variables in its environment.
fn said_with(words: &[&str], environment: &[(&str, &str)]) -> Result<String, String> {
    let output = tigerchat().args(words).envs(environment.iter().copied()).output().unwrap();
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
    let publish =
        json!({"id": 1, "publish": {"room": "general", "key": house::process::key(1), "body": BODY}});
    ask(&publish, "publish");
    history
}

/// How often the message is to be read in a file, by anybody.
fn found(file: &str) -> usize {
    let bytes = std::fs::read(Path::new(file)).unwrap();
    bytes.windows(BODY.len()).filter(|bytes| *bytes == BODY.as_bytes()).count()
}

#[test]
fn h42_a_sealed_file_shows_nothing_is_served_with_its_key_and_says_which_key_it_lacks() {
    let folder = Folder::new("shown");
    let token = folder.token();
    let (key, other) = (folder.file("key"), folder.file("other-key"));
    let made = said(&["key", "make", &key]).unwrap();
    let id = made.lines().next().unwrap().rsplit(' ').next().unwrap().to_string();
    said(&["key", "make", &other]).unwrap();
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
        refused(
            &sealed,
            None,
            &format!("17001 key_missing: the file is sealed: expected master key {id}, found none"),
        );
        refused(
            &sealed,
            Some(&other),
            &format!("17002 wrong_key: the file of replica 0 of shard 1 in cluster {CLUSTER}"),
        );
        refused(&plain, Some(&key), "found one that is not sealed: leave --key out");
    }
}

/// Makes a key file, and says the key's id.
fn make_key(file: &str) -> String {
    let made = said(&["key", "make", file]).unwrap();
    made.lines().next().unwrap().rsplit(' ').next().unwrap().to_string()
}

#[test]
fn a_production_file_is_sealed_unless_somebody_says_otherwise_and_keys_are_found_in_the_environment() {
    let folder = Folder::new("default");
    let key = folder.file("key");
    let id = make_key(&key);
    let itself = std::fs::read_to_string(&key).unwrap().trim().to_string();
    let words = |file: &'static str| {
        let file = folder.file(file);
        ["format", "--cluster", CLUSTER, "--replica", "0", &file].map(str::to_owned)
    };
    let run = |words: &[String], more: &[&str], environment: &[(&str, &str)]| {
        let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        said_with(&words, environment)
    };
    let refused = run(&words("none"), &[], &[]).unwrap_err();
    assert!(refused.contains("17001 key_missing") && refused.contains("--unsealed"), "{refused}");
    assert!(!Path::new(&folder.file("none")).exists(), "no file is made");
    let asked = run(&words("plain"), &["--unsealed"], &[(KEY_ITSELF, &itself)]).unwrap();
    assert!(asked.contains("not sealed"), "{asked}");
    std::fs::remove_file(folder.file("plain")).unwrap();

    let sealed = format!("sealed with master key {id}");
    for (name, environment) in [("by-file", (KEY_FILE, &key)), ("by-itself", (KEY_ITSELF, &itself))] {
        let environment = [(environment.0, environment.1.as_str())];
        let made = run(&words(name), &[], &environment).unwrap();
        assert!(made.contains(&sealed), "{made}");
        let file = folder.file(name);
        assert!(said_with(&["inspect", &file], &environment).unwrap().contains(&sealed));
        assert!(said_with(&["verify", &file], &environment).is_ok());
        assert_eq!(said_with(&["key", "id"], &environment).unwrap().trim(), id);
        assert!(said(&["inspect", &file]).unwrap_err().contains("17001"));
        std::fs::remove_file(file).unwrap();
    }
    let both = [(KEY_FILE, key.as_str()), (KEY_ITSELF, itself.as_str())];
    assert!(run(&words("none"), &[], &both).unwrap_err().contains("17005"), "which of them?");
    let typo = run(&words("none"), &[], &[(KEY_ITSELF, &itself[1..])]).unwrap_err();
    assert!(typo.contains("17005") && !typo.contains(&itself[1..20]), "{typo}");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&key, open).unwrap();
    assert!(run(&words("none"), &["--key", &key], &[]).unwrap_err().contains("17004 key_file_exposed"));
    assert!(!Path::new(&folder.file("none")).exists());
}

#[test]
fn h41_keys_change_and_the_shard_goes_on() {
    let folder = Folder::new("rotated");
    let token = folder.token();
    let (key, next) = (folder.file("key"), folder.file("next"));
    let (id, next_id) = (make_key(&key), make_key(&next));
    let file = folder.format("file", Some(&key));
    publish(&folder, &token, &file, Some(&key));
    let before = std::fs::read(&file).unwrap();

    // Killed wherever it is, again and again: what there is opens and is whole.
    let mut interrupted = 0;
    for millis in 0..12 {
        let mut rotating = tigerchat()
            .args(["key", "rotate", "--key", &key, &file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(2 * millis));
        let _ = rotating.kill();
        interrupted += u32::from(!rotating.wait().unwrap().success());
        let shown = said(&["inspect", "--log", "--verify", "--key", &key, &file]).unwrap();
        assert_eq!(shown.matches(BODY).count(), 1, "{shown}");
    }
    assert!(interrupted > 0);
    let done = said(&["key", "rotate", "--key", &key, &file]).unwrap();
    assert!(done.contains("the old key opens nothing any more"), "{done}");
    let after = std::fs::read(&file).unwrap();
    let sectors = |bytes: &[u8]| bytes[32768..].chunks(4096).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let is_blank = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
    for (old, new) in sectors(&before).iter().zip(&sectors(&after)) {
        assert!(old != new || is_blank(old), "each sector was sealed anew");
    }
    // The old superblock over the new sectors: the old node key opens none of them.
    let mut forged = after.clone();
    forged[..32768].copy_from_slice(&before[..32768]);
    let old = folder.file("old");
    std::fs::write(&old, forged).unwrap();
    let shown = said(&["inspect", "--log", "--key", &key, &old]).unwrap_or_else(|error| error);
    assert!(!shown.contains(BODY), "{shown}");

    let history = publish(&folder, &token, &file, Some(&key));
    assert_eq!(history["head"], json!("1"), "{history}");
    let done = said(&["key", "rotate", "--key", &key, "--to", &next, &file]).unwrap();
    assert!(done.contains(&id) && done.contains(&next_id), "{done}");
    let refused = said(&["inspect", "--key", &key, &file]).unwrap_err();
    assert!(refused.contains("17002") && refused.contains(&next_id) && refused.contains(&id), "{refused}");
    let history = publish(&folder, &token, &file, Some(&next));
    assert_eq!(history["head"], json!("2"), "{history}");

    // Nobody rotates under a replica that runs, nor what is not sealed.
    let peers = free_port().to_string();
    let mut words = vec!["start", &file, "--peers", &peers];
    words.extend(["--key", &next]);
    let mut start = tigerchat();
    let mut running = Process(start.args(words).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = [0; 8];
    running.0.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert!(said(&["key", "rotate", "--key", &next, &file]).unwrap_err().contains("stop it first"));
    drop(running);
    let plain = folder.format("plain", None);
    assert!(said(&["key", "rotate", &plain]).unwrap_err().contains("is not sealed"));
    assert!(said(&["key", "rotate", "--key", &key, &plain]).unwrap_err().contains("17006"));
}

#[test]
fn h42_sectors_that_changed_places_are_named() {
    let folder = Folder::new("swapped");
    let token = folder.token();
    let key = folder.file("key");
    make_key(&key);
    for (name, key) in [("sealed", Some(key.as_str())), ("plain", None)] {
        let file = folder.format(name, key);
        publish(&folder, &token, &file, key);
        let mut bytes = std::fs::read(&file).unwrap();
        let written = |bytes: &[u8]| {
            let sectors = bytes.chunks(4096).enumerate().skip(8);
            sectors
                .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
                .map(|(at, _)| at * 4096)
                .collect::<Vec<_>>()
        };
        let [one, other] = written(&bytes)[..2] else { panic!("it has a log") };
        let (first, second) = (bytes[one..one + 4096].to_vec(), bytes[other..other + 4096].to_vec());
        bytes[one..one + 4096].copy_from_slice(&second);
        bytes[other..other + 4096].copy_from_slice(&first);
        std::fs::write(&file, bytes).unwrap();
        let mut words = vec!["inspect", "--verify", &file];
        words.extend(key.iter().flat_map(|key| ["--key", key]));
        let complaint = said(&words).unwrap_err();
        let expected = format!("at {one} lies that of {other}, at {other} lies that of {one}");
        assert!(
            complaint.contains("17007 sectors_moved: 2 sectors") && complaint.contains(&expected),
            "{complaint}"
        );
    }
}

#[test]
fn a_backup_of_a_sealed_file_is_sealed_and_is_restored_with_its_key_under_any_key() {
    let folder = Folder::new("backup");
    let token = folder.token();
    let (key, other) = (folder.file("key"), folder.file("other"));
    let (id, other_id) = (make_key(&key), make_key(&other));
    let file = folder.format("file", Some(&key));
    publish(&folder, &token, &file, Some(&key));
    let backup = folder.file("monday");
    let words = ["backup", "--file", &file, "--out", &backup];
    assert!(said(&words).unwrap_err().contains("17001"));
    assert!(said(&[&words[..], &["--key", &other]].concat()).unwrap_err().contains("17002"));
    assert!(!Path::new(&backup).exists());
    let made = said(&[&words[..], &["--key", &key, "--unsigned"]].concat()).unwrap();
    assert!(made.contains(&format!("sealed with master key {id}, not signed")), "{made}");
    for part in ["backup.json", "superblock", "blocks", "log"] {
        assert_eq!(found(&format!("{backup}/{part}")), 0, "{part}");
    }

    let restore = |out: &str, more: &[&str]| {
        let out = folder.file(out);
        let words = [
            "restore",
            "--unverified",
            "--from",
            &backup,
            "--cluster",
            "new",
            "--replica",
            "0",
            "--out",
            &out,
        ];
        said(&[&words[..], more].concat())
    };
    let missing = restore("none", &[]).unwrap_err();
    assert!(missing.contains("17001") && missing.contains(&id), "{missing}");
    let wrong = restore("none", &["--key", &other]).unwrap_err();
    assert!(wrong.contains("17002") && wrong.contains(&id) && wrong.contains(&other_id), "{wrong}");
    assert!(!Path::new(&folder.file("none")).exists());
    let same = restore("same", &["--key", &key]).unwrap();
    assert!(same.contains(&format!("sealed with master key {id}")), "{same}");
    let moved = restore("moved", &["--backup-key", &key, "--key", &other]).unwrap();
    assert!(moved.contains(&format!("sealed with master key {other_id}")), "{moved}");
    let opened = restore("opened", &["--backup-key", &key, "--unsealed"]).unwrap();
    assert!(opened.contains("not sealed"), "{opened}");
    for (name, key) in [("same", Some(&key)), ("moved", Some(&other)), ("opened", None)] {
        let file = folder.file(name);
        let mut words = vec!["inspect", "--log", "--verify", &file];
        words.extend(key.iter().flat_map(|key| ["--key", key.as_str()]));
        assert_eq!(said(&words).unwrap().matches(BODY).count(), 1, "{name}");
        assert_eq!(found(&file) > 0, key.is_none(), "{name}");
    }

    // Who has no key and makes the sums right again changes nothing unnoticed.
    let path = format!("{backup}/log");
    let bytes = std::fs::read(&path).unwrap();
    for at in [0, 20, bytes.len() / 2, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        std::fs::write(&path, changed).unwrap();
        let sums = Command::new("sha256sum")
            .args(["backup.json", "superblock", "blocks", "log"])
            .current_dir(&backup)
            .output()
            .unwrap();
        std::fs::write(format!("{backup}/SHA256SUMS"), sums.stdout).unwrap();
        let complaint = restore("none", &["--key", &key]).unwrap_err();
        assert!(complaint.contains("log"), "byte {at}: {complaint}");
    }
}
