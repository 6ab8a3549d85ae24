//! `tigerchat backup` and `tigerchat restore` from outside: while the shard serves, and into a cluster that goes on.

mod house;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use house::{Dev, folder, hear, say};

/// More than a checkpoint of ops before the first backup.
const BEFORE: u64 = 200;
const REPLICAS: u16 = 3;

fn tigerchat(arguments: &[&str]) -> Output {
    let output =
        Command::new(env!("CARGO_BIN_EXE_tigerchat")).args(arguments).output().expect("the binary starts");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
    output
}

fn text(path: &Path) -> &str {
    path.to_str().expect("ours")
}

/// What a command that must succeed printed.
fn done(arguments: &[&str]) -> String {
    let output = tigerchat(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What a command that must fail complained of.
fn refused(arguments: &[&str]) -> String {
    let output = tigerchat(arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("text")
}

fn data_file(folder: &Path, replica: u16) -> PathBuf {
    folder.join(format!("replica-{replica}.tigerchat"))
}

/// The lines of the messages that a data file has of the room, each verified.
fn messages(file: &Path) -> Vec<String> {
    let exported = done(&["export", "--room", "general", "--file", text(file)]);
    let lines: Vec<&str> = exported.lines().collect();
    lines[1..lines.len() - 1].iter().map(|line| (*line).to_owned()).collect()
}

/// Restores the whole shard into a new folder; returns the cluster.
fn restored(backup: &Path, into: &Path, lineage: u32) -> String {
    std::fs::create_dir_all(into).expect("room");
    let mut cluster = "new".to_owned();
    for replica in 0..REPLICAS {
        let (number, out) = (replica.to_string(), data_file(into, replica));
        let said = done(&[
            "restore",
            "--unverified",
            "--from",
            text(backup),
            "--cluster",
            &cluster,
            "--replica",
            &number,
            "--out",
            text(&out),
        ]);
        assert!(said.contains(&format!("lineage {lineage}, ")), "{said}");
        cluster =
            said.split("cluster ").nth(1).and_then(|rest| rest.get(..32)).expect("it is named").to_owned();
        done(&["verify", text(&out)]);
    }
    cluster
}

#[test]
fn a_serving_shard_is_backed_up_and_restored_into_a_cluster_that_goes_on() {
    let folder = folder("backup");
    let (old, new) = (folder.join("old"), folder.join("new"));
    let mut dev = Dev::start(&old);
    let mut ada = dev.line_client();
    say(&mut ada, "join general\n");
    hear(&mut ada, "joined general");
    let mut send = |number: u64| {
        say(&mut ada, &format!("send number {number} of them\n"));
        hear(&mut ada, &format!("number {number} of them"));
    };
    // Before there is any checkpoint.
    (1..=3).for_each(&mut send);
    let young = best_backup(&old, &folder, "young", 3);
    (4..=BEFORE).for_each(&mut send);

    // While somebody goes on.
    let (said, enough) = (AtomicU64::new(BEFORE), AtomicBool::new(false));
    let backup = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                send(said.load(Ordering::Relaxed) + 1);
                said.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Also when a backup is not what it must be: a test that stands still says nothing.
        let _stop = Stop(&enough);
        let mut newest = None;
        for round in 0..3 {
            let acknowledged = said.load(Ordering::Relaxed);
            newest = Some(best_backup(&old, &folder, &format!("round-{round}"), acknowledged));
        }
        newest.expect("three rounds")
    });
    dev.stop();
    let of_old = (0..REPLICAS).map(|replica| messages(&data_file(&old, replica)));
    let of_old = of_old.max_by_key(Vec::len).expect("three");

    let cluster = restored(&backup, &new, 1);
    assert!(!done(&["inspect", text(&data_file(&old, 0))]).contains(&cluster));
    assert!(done(&["inspect", text(&data_file(&new, 0))]).contains(&cluster));
    let of_new = messages(&data_file(&new, 1));
    assert!(of_new.len() as u64 > BEFORE && of_new[..] == of_old[..of_new.len()], "the same history");

    goes_on(&new, &of_new);
    a_restored_cluster_is_backed_up(&folder, &new);
    let youngest = folder.join("youngest");
    restored(&young, &youngest, 1);
    assert_eq!(messages(&data_file(&youngest, 2))[..3], of_old[..3]);
    what_is_refused(&folder, &backup, &data_file(&old, 0));
    std::fs::remove_dir_all(folder).expect("ours");
}

/// Ends who talks, however the test goes on.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Backups of all three replicas; the one that has most. What was acknowledged is in it.
fn best_backup(old: &Path, folder: &Path, name: &str, acknowledged: u64) -> PathBuf {
    let mut best = None;
    for replica in 0..REPLICAS {
        let backup = folder.join(format!("{name}-{replica}"));
        done(&["backup", "--file", text(&data_file(old, replica)), "--out", text(&backup)]);
        let probe = folder.join("probe");
        let number = replica.to_string();
        done(&[
            "restore",
            "--unverified",
            "--from",
            text(&backup),
            "--cluster",
            "new",
            "--replica",
            &number,
            "--out",
            text(&probe),
        ]);
        let count = messages(&probe).len() as u64;
        std::fs::remove_file(probe).expect("ours");
        if best.as_ref().is_none_or(|(most, _)| *most < count) {
            best = Some((count, backup));
        }
    }
    let (count, backup) = best.expect("three replicas");
    assert!(count >= acknowledged, "{acknowledged} were acknowledged, {count} are in the backups");
    backup
}

/// The restored cluster serves what it has, and more is said in it.
fn goes_on(new: &Path, before: &[String]) {
    const MORE: usize = 300;
    for _ in 0..2 {
        let had = messages(&data_file(new, 0)).len();
        let mut dev = Dev::start(new);
        let mut bob = dev.line_client();
        say(&mut bob, "join general\n");
        hear(&mut bob, "joined general");
        say(&mut bob, "history\n");
        hear(&mut bob, &format!("#{had}]"));
        for number in 0..MORE {
            say(&mut bob, &format!("send more {number} of it\n"));
            hear(&mut bob, &format!("more {number} of it"));
        }
        dev.stop();
        let after = (0..REPLICAS).map(|replica| messages(&data_file(new, replica)));
        let after = after.max_by_key(Vec::len).expect("three");
        assert!(after.len() >= before.len() + MORE && after[..before.len()] == *before);
        (0..REPLICAS).for_each(|replica| drop(done(&["verify", text(&data_file(new, replica))])));
    }
}

fn a_restored_cluster_is_backed_up(folder: &Path, new: &Path) {
    let (again, third) = (folder.join("again"), folder.join("third"));
    done(&["backup", "--file", text(&data_file(new, 0)), "--out", text(&again)]);
    restored(&again, &third, 2);
    assert_eq!(messages(&data_file(&third, 0)), messages(&data_file(new, 0)));
    // Of one backup all replicas are made alike, but for who they are.
    let rows = |replica| {
        let shown = done(&["inspect", "--json", text(&data_file(&third, replica))]);
        let rows = shown.lines().filter(|row| row.contains("\"root\"") || row.contains("\"chain\""));
        rows.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(rows(0).len() == 2 && rows(0) == rows(1) && rows(1) == rows(2));
}

fn what_is_refused(folder: &Path, backup: &Path, old: &Path) {
    let out = folder.join("no-file");
    let restore = |from: &Path, cluster: &str, replica: &str| {
        refused(&[
            "restore",
            "--unverified",
            "--from",
            text(from),
            "--cluster",
            cluster,
            "--replica",
            replica,
            "--out",
            text(&out),
        ])
    };
    let about = std::fs::read_to_string(backup.join("backup.json")).expect("a part");
    let cluster = about.split("\"cluster\": \"").nth(1).and_then(|rest| rest.get(..32)).expect("it is named");
    assert!(restore(backup, cluster, "0").contains("expected a new cluster"));
    assert!(restore(backup, "new", "7").contains("expected the id of a member"));
    assert!(restore(folder, "new", "0").contains("expected a backup"));
    assert!(!out.exists(), "nothing is left of them");

    let exists = refused(&["backup", "--file", text(old), "--out", text(backup)]);
    assert!(exists.contains("exists already"), "{exists}");
    let part = folder.join("another.part");
    std::fs::create_dir(&part).expect("room");
    let exists = refused(&["backup", "--file", text(old), "--out", text(&folder.join("another"))]);
    assert!(exists.contains("interrupted") && part.exists(), "{exists}");
    let exists = refused(&[
        "restore",
        "--unverified",
        "--from",
        text(backup),
        "--cluster",
        "new",
        "--replica",
        "0",
        "--out",
        text(old),
    ]);
    assert!(exists.contains("exists already"), "{exists}");

    let damaged = folder.join("damaged");
    for part in ["backup.json", "superblock", "blocks", "log", "SHA256SUMS"] {
        let len = std::fs::metadata(backup.join(part)).expect("a part").len() as usize;
        assert!(len > 0, "{part}");
        for at in [0, len / 2, len - 1] {
            let mut bytes = copy(backup, &damaged, part);
            bytes[at] ^= 1;
            std::fs::write(damaged.join(part), bytes).expect("room");
            let complaint = restore(&damaged, "new", "0");
            assert!(complaint.contains("damaged"), "{part} at {at}: {complaint}");
            assert!(part == "SHA256SUMS" || complaint.contains(part), "{complaint}");
        }
        let bytes = copy(backup, &damaged, part);
        std::fs::write(damaged.join(part), &bytes[..len / 2]).expect("room");
        assert!(!restore(&damaged, "new", "0").is_empty(), "cut short");
        std::fs::remove_file(damaged.join(part)).expect("ours");
        assert!(restore(&damaged, "new", "0").contains(part), "a part is missing");
    }
    assert!(!out.exists());

    let foreign = folder.join("foreign");
    std::fs::write(&foreign, b"Dear diary. ".repeat(10_000)).expect("room");
    let nothing = folder.join("nothing");
    let complaint = refused(&["backup", "--file", text(&foreign), "--out", text(&nothing)]);
    assert!(complaint.contains("found something else"), "{complaint}");
    assert!(!nothing.exists() && !folder.join("nothing.part").exists());
}

/// Copies a backup; returns the bytes of one part.
fn copy(backup: &Path, to: &Path, part: &str) -> Vec<u8> {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).expect("room");
    for entry in std::fs::read_dir(backup).expect("ours").map(|entry| entry.expect("ours")) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("room");
    }
    std::fs::read(to.join(part)).expect("a part")
}
