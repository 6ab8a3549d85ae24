//! `tigerchat export` and `tigerchat verify` from outside.

mod house;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use house::{Dev, folder, hear, say};
use serde_json::Value;
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::superblock::Superblock;

/// More than a checkpoint of ops, so that some are in blocks and some in the log.
const MESSAGES: usize = 200;

fn tigerchat(arguments: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tigerchat"));
    command.args(arguments).arg(file).output().expect("the binary starts")
}

fn said(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// What `verify` ends with and complains of.
fn verify(file: &Path, options: &[&str]) -> (Option<i32>, String) {
    let output = tigerchat(&[&["verify"], options].concat(), file);
    (output.status.code(), said(&output))
}

fn json(file: &Path) -> Value {
    let output = tigerchat(&["verify", "--json"], file);
    serde_json::from_slice(&output.stdout).expect("one object")
}

/// Exports `general` of the replica's file that has most of it.
fn exported(folder: &Path) -> (PathBuf, PathBuf) {
    let mut best: Option<(u64, PathBuf, PathBuf)> = None;
    for replica in 0..3 {
        let file = folder.join(format!("replica-{replica}.tigerchat"));
        let out = folder.join(format!("general-{replica}.jsonl"));
        let to = out.to_str().expect("ours");
        let output = tigerchat(&["export", "--room", "general", "--out", to, "--file"], &file);
        assert!(output.status.success(), "{}", said(&output));
        assert!(!folder.join(format!("general-{replica}.jsonl.part")).exists());
        let head = json(&out)["head"].as_u64().expect("a number");
        if best.as_ref().is_none_or(|best| best.0 < head) {
            best = Some((head, file, out));
        }
    }
    let (head, file, out) = best.expect("three replicas");
    assert_eq!(head, MESSAGES as u64);
    (file, out)
}

#[test]
fn a_room_is_exported_and_verified_away_from_its_cluster() {
    let folder = folder("export");
    let mut dev = Dev::start(&folder);
    let mut ada = dev.line_client();
    say(&mut ada, "join general\n");
    hear(&mut ada, "joined general");
    for number in 0..MESSAGES {
        say(&mut ada, &format!("send number {number} of them\n"));
        hear(&mut ada, &format!("number {number} of them"));
    }
    dev.stop();
    let (file, out) = exported(&folder);
    a_whole_export(&file, &out);
    changed_exports(&out);
    what_can_not_be_exported(&folder, &file, &out);
    data_files(&folder, &file);
    std::fs::remove_dir_all(folder).expect("ours");
}

fn a_whole_export(file: &Path, out: &Path) {
    assert_eq!(verify(out, &[]), (Some(0), String::new()));
    let whole = json(out);
    assert_eq!(whole["whole"], true);
    assert_eq!((&whole["first"], &whole["count"]), (&1.into(), &MESSAGES.into()));
    // The last ops may be in flight as far as one file can tell, but no more than a pipeline of them.
    assert!(whole["unproven"].as_u64().is_some_and(|unproven| unproven <= 8), "{whole}");
    let chain = whole["chain"].as_str().expect("a text");
    let inspected = tigerchat(&["inspect"], file);
    assert!(String::from_utf8_lossy(&inspected.stdout).contains(chain), "inspect says the same");
    assert_eq!(verify(out, &["--chain", chain]).0, Some(0));
    let (code, said) = verify(out, &["--chain", &"0".repeat(64)]);
    assert!(code == Some(1) && said.contains(&format!("found {chain}")), "{said}");
    assert_eq!(verify(out, &["--chain", "00"]).0, Some(2));
    // Without --out the same text.
    let output = tigerchat(&["export", "--room", "general", "--file"], file);
    assert!(output.status.success() && output.stdout == std::fs::read(out).expect("ours"));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.lines().nth(8).is_some_and(|line| line.contains("number 7 of them")), "{text}");
}

fn changed_exports(out: &Path) {
    let text = std::fs::read_to_string(out).expect("ours");
    let changed = out.with_file_name("changed");
    let look = |text: &str, what: &str| {
        std::fs::write(&changed, text).expect("room");
        let (code, said) = verify(&changed, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(what), "expected {what:?}, found {said}");
        assert_eq!(json(&changed)["whole"], false);
    };
    look(&text.replace("number 7 of them", "number 8 of them"), "line 9: chain: expected ");
    assert_eq!(json(&changed)["line"], 9);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    look(&[&lines[..5], &lines[6..]].concat().concat(), "line 6: seq: expected 5, found 6");
    look(&lines[..50].concat(), "line 51: ");
    look(&text[..text.len() / 2], "a line break at its end");
    look(&text.replacen("\"shard\":1", "\"shard\":2", 1), &format!("line {}: sha256: ", MESSAGES + 2));
    let long = format!("{}{}", lines[0], "x".repeat(65 << 20));
    std::fs::write(&changed, long).expect("room");
    assert!(verify(&changed, &[]).1.contains("line 2: expected at most 67108864 bytes"));
}

fn what_can_not_be_exported(folder: &Path, file: &Path, out: &Path) {
    let failed = |arguments: &[&str], file: &Path| {
        let output = tigerchat(&[&["export"], arguments, &["--file"]].concat(), file);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        said(&output)
    };
    let unknown = failed(&["--room", "generel"], file);
    assert!(unknown.contains(r#"no room "generel" here; it has ["general"]"#), "{unknown}");
    assert!(failed(&["--room", "general", "--tenant", "9"], file).contains("it has []"));
    let before = std::fs::read(out).expect("ours");
    let exists = failed(&["--room", "general", "--out", out.to_str().expect("ours")], file);
    assert!(exists.contains("exists already") && std::fs::read(out).expect("ours") == before);
    let part = folder.join("another.part");
    std::fs::write(&part, "mine").expect("room");
    let another = folder.join("another");
    let exists = failed(&["--room", "general", "--out", another.to_str().expect("ours")], file);
    assert!(exists.contains("interrupted") && std::fs::read(part).expect("ours") == b"mine", "{exists}");
    assert!(failed(&["--room", "general"], out).contains("found something else"));
    let nowhere = folder.join("none").join("out");
    assert!(failed(&["--room", "general", "--out", nowhere.to_str().expect("ours")], file).contains("none"));
}

fn data_files(folder: &Path, file: &Path) {
    assert_eq!(verify(file, &[]), (Some(0), String::new()));
    let copy = folder.join("copy");
    std::fs::copy(file, &copy).expect("room for a copy");
    let mut zone = vec![0; SUPERBLOCK_ZONE];
    std::fs::File::open(file).expect("ours").read_exact_at(&mut zone, 0).expect("as long");
    let grid = Superblock::open(&zone).expect("whole").config.layout.hot_size();
    let len = std::fs::metadata(&copy).expect("ours").len() - grid;
    let damaged = OpenOptions::new().write(true).open(&copy).expect("ours");
    damaged.write_all_at(&vec![0x55; usize::try_from(len).expect("small")], grid).expect("ours");
    let (code, complaint) = verify(&copy, &[]);
    assert!(code == Some(1) && complaint.contains("damaged"), "{complaint}");
    let out = folder.join("no-export");
    let to = out.to_str().expect("ours");
    let output = tigerchat(&["export", "--room", "general", "--out", to, "--file"], &copy);
    assert!(!output.status.success() && said(&output).contains("not whole"), "{}", said(&output));
    assert!(!out.exists(), "nothing is left of it");

    for (name, bytes) in [("foreign", &b"Dear diary. "[..]), ("empty", b""), ("json", b"{\"a\":1}\n")] {
        let path = folder.join(name);
        std::fs::write(&path, bytes.repeat(usize::from(!bytes.is_empty()) * 5000)).expect("room");
        let (code, complaint) = verify(&path, &[]);
        assert!(
            code == Some(2) && complaint.contains("expected what `tigerchat export` wrote"),
            "{complaint}"
        );
    }
    assert_eq!(verify(&folder.join("none"), &[]).0, Some(2));
    assert_eq!(verify(folder, &[]).0, Some(2));
}
