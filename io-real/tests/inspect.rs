//! `tigerchat inspect` from outside, on files that are whole, and on such as a bad day leaves.

mod house;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use house::{Dev, folder, hear, say};
use serde_json::{Value, json};
use tigerchat_core::store::grid::block::{self, Kind};
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::vsr::offline::{FileBlocks, Stopped};

/// More than two checkpoints of ops: each message is answered before the next is said, so each has an op of its own.
const MESSAGES: usize = 300;

/// What `inspect` printed, as JSON rows, and what it complained of.
struct Shown {
    rows: Vec<Value>,
    complaint: Option<String>,
}

impl Shown {
    fn of(file: &Path, options: &[&str]) -> Self {
        let output = Command::new(env!("CARGO_BIN_EXE_tigerchat"))
            .args(["inspect", "--json"])
            .args(options)
            .arg(file)
            .output()
            .expect("the binary starts");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(!said.contains("panicked"), "{said}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let rows = text.lines().map(|line| serde_json::from_str(line).expect("a row is JSON")).collect();
        // What people read must not panic either.
        let plain =
            Command::new(env!("CARGO_BIN_EXE_tigerchat")).arg("inspect").args(options).arg(file).output();
        let plain = plain.expect("the binary starts");
        assert_eq!(plain.status.code(), output.status.code());
        assert!(!String::from_utf8_lossy(&plain.stderr).contains("panicked"));
        Self { rows, complaint: (!output.status.success()).then_some(said) }
    }

    /// The value of this field, of all rows that have it.
    fn all(&self, field: &str) -> Vec<&Value> {
        self.rows.iter().filter_map(|row| row.get(field)).collect()
    }

    fn one(&self, field: &str) -> &Value {
        let all = self.all(field);
        assert_eq!(all.len(), 1, "rows with {field}: {:?}", self.rows);
        all[0]
    }

    /// How many messages the room has.
    fn head(&self) -> Option<u64> {
        self.rows.iter().find(|row| row.get("room").is_some())?["head"].as_u64()
    }

    fn complaint(&self) -> &str {
        self.complaint.as_deref().expect("it complains")
    }
}

/// A copy of a replica's file that something is done to.
struct Copied(PathBuf);

impl Copied {
    fn of(file: &Path, name: &str) -> Self {
        let copy = file.with_file_name(name);
        std::fs::copy(file, &copy).expect("room for a copy");
        Self(copy)
    }

    fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(&self.0).expect("ours")
    }

    fn flip(&self, offset: u64) {
        let (file, mut byte) = (self.open(), [0]);
        file.read_exact_at(&mut byte, offset).expect("within the file");
        file.write_all_at(&[byte[0] ^ 1], offset).expect("ours");
    }

    fn cut(&self, len: u64) {
        self.open().set_len(len).expect("ours");
    }
}

/// Address and offset of a block of the checkpoint of this kind.
fn block_of(file: &Path, wanted: Kind) -> (u64, u64) {
    let file = File::open(file).expect("ours");
    let mut read = |offset, into: &mut [u8]| file.read_exact_at(into, offset).is_ok();
    let stopped = Stopped::read(&mut read).expect("a whole file");
    let config = &stopped.superblock.config;
    let grid = config.layout.grid();
    let mut blocks = FileBlocks::new(config, &mut read);
    let found = stopped.references().find(|reference| {
        let payload = blocks.read(reference).expect("a whole file");
        block::check(&grid, reference, payload).expect("it was checked").kind == wanted
    });
    let address = found.expect("a checkpoint has such a block").address;
    (address, grid.offset_of(address))
}

#[test]
fn what_is_whole_is_shown_whatever_else_is_not() {
    let folder = folder("inspect");
    let mut dev = Dev::start(&folder);
    let mut ada = dev.line_client();
    say(&mut ada, "join general\n");
    hear(&mut ada, "joined general");
    for number in 0..MESSAGES {
        say(&mut ada, &format!("send number {number} of them\n"));
        hear(&mut ada, &format!("number {number} of them"));
    }
    dev.stop();
    // One that stopped early may lack the last of them.
    let files = (0..3).map(|replica| folder.join(format!("replica-{replica}.tigerchat")));
    let file = files.max_by_key(|file| Shown::of(file, &[]).head()).expect("three");
    a_whole_file(&file);
    damaged_messages(&file);
    damaged_checkpoints(&file);
    damaged_superblocks(&file);
    files_that_are_cut_short(&file);
    nothing_of_ours(&folder);
    std::fs::remove_dir_all(folder).expect("ours");
}

fn a_whole_file(file: &Path) {
    let shown = Shown::of(file, &["--log", "--verify"]);
    assert_eq!(shown.complaint, None);
    assert_eq!(shown.all("agrees"), vec![&json!(true); 4]);
    assert!(shown.one("root").as_u64().is_some_and(|root| root > 0), "{:?}", shown.rows);
    assert_eq!(shown.one("transferring"), &json!(false));
    assert_eq!(shown.one("state_lost"), &json!(false));
    assert_eq!(shown.one("cut_short"), &json!(false));
    assert_eq!(shown.one("file_size"), &json!(std::fs::metadata(file).unwrap().len()));
    let seqs: Vec<u64> = shown.all("seq").into_iter().filter_map(Value::as_u64).collect();
    assert_eq!(seqs, (1..=MESSAGES as u64).collect::<Vec<_>>(), "from blocks and from the log");
    assert_eq!(shown.one("complete"), &json!(true));
    assert_eq!(shown.one("damaged"), &json!([]));
    assert_eq!(shown.one("verified"), shown.one("blocks_used"), "every block that is in use was read");
}

fn damaged_messages(file: &Path) {
    let copy = Copied::of(file, "messages");
    let (address, offset) = block_of(&copy.0, Kind::Records);
    copy.flip(offset + 100);
    let shown = Shown::of(&copy.0, &[]);
    assert_eq!(shown.complaint, None, "nobody asked for messages");
    let shown = Shown::of(&copy.0, &["--log", "--verify"]);
    assert!(shown.complaint().contains(&format!("block {address} is damaged")), "{}", shown.complaint());
    assert_eq!(shown.one("damaged"), &json!([address]));
    assert_eq!(shown.one("complete"), &json!(true));
    assert_eq!(shown.head(), Some(MESSAGES as u64), "the room is known");
    assert!(shown.all("seq").len() < MESSAGES);
}

fn damaged_checkpoints(file: &Path) {
    for kind in [Kind::Root, Kind::Manifest, Kind::FreeSet, Kind::Index, Kind::Pages] {
        let copy = Copied::of(file, "checkpoint");
        let (address, offset) = block_of(&copy.0, kind);
        copy.flip(offset + 100);
        let shown = Shown::of(&copy.0, &["--log", "--verify"]);
        assert!(
            shown.complaint().contains("the checkpoint that the superblock names is damaged"),
            "{kind:?}"
        );
        assert_eq!(shown.one("damaged"), &json!([address]), "{kind:?}");
        assert_eq!(shown.one("complete"), &json!(false), "{kind:?}");
        assert_eq!(shown.one("state_lost"), &json!(true), "{kind:?}");
        assert_eq!(shown.all("agrees").len(), 4);
        assert!(shown.all("seq").is_empty());
    }
}

fn damaged_superblocks(file: &Path) {
    let copy = Copied::of(file, "superblock");
    copy.flip(100);
    let shown = Shown::of(&copy.0, &[]);
    assert_eq!((shown.all("agrees").len(), shown.complaint.as_deref()), (3, None));
    for number in 1..4 {
        copy.flip(number * Superblock::COPY as u64 + 100);
    }
    let shown = Shown::of(&copy.0, &["--log", "--verify"]);
    assert!(
        shown.complaint().contains("all 4 copies of the superblock are damaged"),
        "{}",
        shown.complaint()
    );
    assert!(shown.all("agrees").is_empty());
}

fn files_that_are_cut_short(file: &Path) {
    let len = std::fs::metadata(file).expect("ours").len();
    let mut zone = vec![0; SUPERBLOCK_ZONE];
    File::open(file).expect("ours").read_exact_at(&mut zone, 0).expect("as long");
    let hot_size = Superblock::open(&zone).expect("whole").config.layout.hot_size();
    let copy = Copied::of(file, "short");
    let cuts = [len - 4096, hot_size + 5000, hot_size, hot_size - 1, 4 * SUPERBLOCK_ZONE as u64 + 1];
    for (at, cut) in cuts.into_iter().chain([SUPERBLOCK_ZONE as u64, 5000, 1, 0]).enumerate() {
        copy.cut(cut);
        let shown = Shown::of(&copy.0, &["--log", "--verify"]);
        // Of the last step a part was never used; without any block there is no checkpoint.
        assert!(shown.complaint.is_some() || at == 0, "cut to {cut}");
        if (SUPERBLOCK_ZONE as u64..=hot_size).contains(&cut) {
            assert_eq!(shown.one("complete"), &json!(false), "cut to {cut}");
            assert_eq!(shown.one("cut_short"), &json!(cut < hot_size));
        }
        if cut < SUPERBLOCK_ZONE as u64 {
            assert!(shown.complaint().contains("found a shorter one"), "{}", shown.complaint());
        }
    }
}

fn nothing_of_ours(folder: &Path) {
    let foreign = folder.join("foreign");
    std::fs::write(&foreign, b"Dear diary. ".repeat(10_000)).expect("room");
    let shown = Shown::of(&foreign, &["--log", "--verify"]);
    assert!(shown.complaint().contains("found something else"), "{}", shown.complaint());
    assert!(Shown::of(&folder.join("none"), &[]).complaint().contains("can't be read"));
    assert!(Shown::of(folder, &[]).complaint.is_some(), "a folder is no file");
}
