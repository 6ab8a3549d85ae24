//! A backup of a replica's data file, of one that is stopped or that a replica is serving from.
//!
//! The one law: **a backup is one moment of a replica, or there is none**: the checkpoint that the superblock names, every
//! block of it checked by digest, and the entries of the log behind it; when the superblock speaks of another log or
//! another checkpoint afterwards, what was copied is of two moments, and it begins again with what differs. The file is
//! opened for reading only. Format: `docs/formats.md`, "Backup".

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ring::hkdf::Prk;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::sealing::Sealing;
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::vsr::offline::{FileBlocks, ReadAt, Stopped};
use tigerchat_core::wire::entry::Digest;

use crate::cli::Backup;
use crate::keys::{self, MasterKey, Wrapped};
use crate::signing::{SIGNING_KEY_FILE, Signer};
use crate::texts::parse_hex;
use crate::{launch, part};

/// How often it begins again.
const TRIES: u32 = 10;
/// Version of the format.
pub const VERSION: u32 = 1;
/// The same of a backup that is sealed.
pub const SEALED_VERSION: u32 = 2;

/// The parts, in the order in which the sums name them.
pub const PARTS: [&str; 4] = ["backup.json", "superblock", "blocks", "log"];
/// Names the parts with their digests, as `sha256sum -c` reads it.
pub const SUMS: &str = "SHA256SUMS";
/// Who signed these.
pub const SIGNATURE: &str = "SHA256SUMS.sig";

/// `backup.json`: what people want to know of a backup, and what `restore` compares with the rest.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    pub tigerchat_backup: u32,
    pub cluster: String,
    pub shard: u32,
    /// The replica whose file it is of.
    pub replica: u16,
    pub lineage: u32,
    pub checkpoint: u64,
    pub checkpoint_op: u64,
    /// Digest of the checkpoint's root: equal for all replicas.
    pub root: String,
    /// The last op in `log`.
    pub head: u64,
    pub entries: u64,
    /// Blocks of the checkpoint.
    pub blocks: u64,
    /// Of a sealed one: by which key `blocks` and `log` are sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedWith>,
}

/// The key of a backup, under a master key, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedWith {
    pub master: String,
    pub wrapped: String,
}

impl SealedWith {
    fn new(key: &Wrapped) -> Self {
        Self { master: hex(&key.master), wrapped: hex(&key.wrapped) }
    }

    pub fn key(&self) -> Option<Wrapped> {
        Some(Wrapped { master: parse_hex(&self.master)?, wrapped: parse_hex(&self.wrapped)? })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// With what a backup is sealed: made once, however often it begins again.
#[derive(Default)]
struct Vault {
    key: Option<(Prk, Wrapped)>,
}

impl Vault {
    fn of(superblock: &Superblock, key: Option<&MasterKey>) -> Self {
        let key = key.filter(|_| superblock.envelope.is_some());
        Self { key: key.map(|key| key.for_backup(&superblock.config)) }
    }

    fn key(&self) -> Option<&Prk> {
        self.key.as_ref().map(|(key, _)| key)
    }
}

/// Why a try came to nothing.
enum Failed {
    /// The replica went on meanwhile.
    Moved,
    For(String),
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self::For(why)
    }
}

pub fn run(args: &Backup) -> Result<(), String> {
    let name = args.file.display();
    let out = &args.out;
    if out.exists() {
        return Err(format!(
            "{}: exists already; backup never overwrites: choose another name",
            out.display()
        ));
    }
    let mut part = out.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let fail = |error: std::io::Error| format!("{}: {error}", part.display());
    std::fs::create_dir(&part).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => format!(
            "{}: exists already: if it is left of a backup that was interrupted, remove it",
            part.display()
        ),
        _ => fail(error),
    })?;
    let mut signer = None;
    let copied = File::open(&args.file).map_err(|error| format!("can't be read: {error}")).and_then(|file| {
        let mut read = |offset, into: &mut [u8]| file.read_exact_at(into, offset).is_ok();
        signer = signer_for(&superblock(&mut read)?, args)?;
        let key = MasterKey::find(args.key.as_deref())?;
        copy(&mut read, key.as_ref(), signer.as_ref(), &part)
    });
    let done = copied.map_err(|error| format!("{name}: {error}")).and_then(|about| {
        File::open(&part).and_then(|folder| folder.sync_all()).map_err(fail)?;
        std::fs::rename(&part, out).map_err(fail)?;
        Ok(about)
    });
    let about = match done {
        Ok(about) => about,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&part);
            return Err(error);
        }
    };
    println!(
        "{}: cluster {}, shard {}, as of op {} (checkpoint {} of op {}, {} blocks, {} entries of the log)",
        out.display(),
        about.cluster,
        about.shard,
        about.head,
        about.checkpoint,
        about.checkpoint_op,
        about.blocks,
        about.entries
    );
    let signed = signer.map_or("not signed".to_owned(), |signer| format!("signed by {}", signer.public()));
    match &about.sealed {
        Some(with) => println!(
            "{}: sealed with master key {}, {signed}: keep that key as long as the backup",
            out.display(),
            with.master
        ),
        None => println!("{}: not sealed, {signed}: keep it as safe as the data file", out.display()),
    }
    Ok(())
}

/// Who signs a backup of this file.
fn signer_for(superblock: &Superblock, args: &Backup) -> Result<Option<Signer>, String> {
    if args.unsigned {
        return Ok(None);
    }
    let signer = Signer::find(args.sign_key.as_deref())?;
    if signer.is_none() && !launch::is_dev(&superblock.config) {
        let what = format!(
            "expected a key to sign the backup with, found none: name its file with --sign-key or {SIGNING_KEY_FILE} \
             (`tigerchat key make-signing FILE` makes one); --unsigned makes a backup that nobody has signed"
        );
        return Err(keys::numbered(ErrorCode::SignerUnnamed, what));
    }
    Ok(signer)
}

/// Copies until one moment was copied.
fn copy(
    read: &mut ReadAt<'_>,
    key: Option<&MasterKey>,
    signer: Option<&Signer>,
    part: &Path,
) -> Result<About, String> {
    let path = part.join("blocks");
    let vault = Vault::of(&superblock(read)?, key);
    let blocks = File::create_new(&path).and_then(|file| part::Writer::begin(file, vault.key(), "blocks"));
    let blocks = blocks.map_err(|error| format!("{}: {error}", path.display()))?;
    let mut blocks = Blocks { to: blocks, have: BTreeSet::new() };
    for _ in 0..TRIES {
        match moment(read, key, &vault, &mut blocks, part) {
            Ok((about, superblock, log)) => {
                finish(part, blocks, log, (&about, &superblock), signer)?;
                return Ok(about);
            }
            Err(Failed::Moved) => {}
            Err(Failed::For(why)) => return Err(why),
        }
    }
    Err(format!(
        "the replica made checkpoints faster than they can be copied, {TRIES} times: try again when it is less busy"
    ))
}

/// The blocks that were copied, of whichever moment.
struct Blocks {
    to: part::Writer,
    have: BTreeSet<(u64, Digest)>,
}

fn superblock(read: &mut ReadAt<'_>) -> Result<Superblock, String> {
    let mut zone = vec![0; SUPERBLOCK_ZONE];
    if !read(0, &mut zone) {
        return Err("expected a data file, found a shorter one".into());
    }
    Superblock::open(&zone).map_err(|error| error.to_string())
}

/// Whether the log that one speaks of is the beginning of the other's, above the same checkpoint.
fn is_same_moment(before: &Superblock, after: &Superblock) -> bool {
    (before.checkpoint, before.log_view, &before.suffix, before.transferring, before.envelope)
        == (after.checkpoint, after.log_view, &after.suffix, after.transferring, after.envelope)
}

fn moment(
    read: &mut ReadAt<'_>,
    key: Option<&MasterKey>,
    vault: &Vault,
    blocks: &mut Blocks,
    part: &Path,
) -> Result<(About, Superblock, Digest), Failed> {
    let before = superblock(read)?;
    let sealing = keys::sealer(&before, key)?;
    if sealing.is_some() != vault.key.is_some() {
        return Err(Failed::For("it was replaced by another file meanwhile".into()));
    }
    let opened = Stopped::read_sealed(sealing.clone(), read);
    if !is_same_moment(&before, &superblock(read)?) {
        return Err(Failed::Moved);
    }
    let stopped = opened.map_err(|error| error.to_string())?;
    if stopped.is_state_lost() {
        return Err(Failed::For(
            "its checkpoint is not whole or is being taken over from a peer: take the file of another replica".into(),
        ));
    }
    let missing = copy_blocks(&stopped, sealing.as_deref(), read, blocks)?;
    let (head, entries, log) = copy_log(&stopped, sealing.as_deref(), vault, read, &part.join("log"))?;
    let now = superblock(read)?;
    if !is_same_moment(&before, &now) || !is_same_moment(&stopped.superblock, &now) {
        return Err(Failed::Moved);
    }
    if let Some(address) = missing {
        return Err(Failed::For(format!("block {address} is damaged: take the file of another replica")));
    }
    if head < stopped.executed() {
        return Err(Failed::For(format!("the entry of op {} can't be read again", head + 1)));
    }
    let (superblock, config) = (stopped.superblock.clone(), &stopped.superblock.config);
    let checkpoint = superblock.checkpoint;
    let about = About {
        tigerchat_backup: if vault.key.is_some() { SEALED_VERSION } else { VERSION },
        cluster: config.cluster.to_string(),
        shard: config.shard.0,
        replica: config.replica.0,
        lineage: superblock.lineage,
        checkpoint: checkpoint.number,
        checkpoint_op: checkpoint.op(),
        root: checkpoint.root.digest.to_string(),
        head,
        entries,
        blocks: if checkpoint.number == 0 { 0 } else { stopped.references().count() as u64 },
        sealed: vault.key.as_ref().map(|(_, key)| SealedWith::new(key)),
    };
    Ok((about, superblock, log))
}

/// Copies the blocks that were not copied yet; says which one is not there.
fn copy_blocks(
    stopped: &Stopped,
    sealing: Option<&dyn Sealing>,
    read: &mut ReadAt<'_>,
    blocks: &mut Blocks,
) -> Result<Option<u64>, String> {
    if stopped.superblock.checkpoint.number == 0 {
        return Ok(None);
    }
    let mut from = FileBlocks::new(&stopped.superblock.config, read).under(sealing);
    for reference in stopped.references() {
        if blocks.have.contains(&(reference.address, reference.digest)) {
            continue;
        }
        let Ok(payload) = from.read(reference) else { return Ok(Some(reference.address)) };
        let written = blocks.to.append(reference.address, payload, true);
        written.map_err(|error| format!("blocks can't be written: {error}"))?;
        blocks.have.insert((reference.address, reference.digest));
    }
    Ok(None)
}

/// Copies the log as far as it was executed; says how far it got, and the digest of the copy.
fn copy_log(
    stopped: &Stopped,
    sealing: Option<&dyn Sealing>,
    vault: &Vault,
    read: &mut ReadAt<'_>,
    path: &Path,
) -> Result<(u64, u64, Digest), String> {
    let fail = |error: std::io::Error| format!("{}: {error}", path.display());
    let to = File::create(path).and_then(|file| part::Writer::begin(file, vault.key(), "log"));
    let mut to = to.map_err(fail)?;
    let (mut head, mut entries) = (stopped.superblock.checkpoint.op(), 0);
    for (header, _, _) in stopped.log() {
        let op = header.op.get();
        if op > stopped.executed() || op != head + 1 {
            break;
        }
        let Some(entry) = stopped.entry(&header, sealing, read) else { break };
        to.append(op, &entry, false).map_err(fail)?;
        (head, entries) = (op, entries + 1);
    }
    Ok((head, entries, to.end().map_err(fail)?))
}

/// The sums are of what was written, so that a folder which gives back something else is not signed.
fn finish(
    part: &Path,
    blocks: Blocks,
    log: Digest,
    (about, superblock): (&About, &Superblock),
    signer: Option<&Signer>,
) -> Result<(), String> {
    let blocks = blocks.to.end().map_err(|error| format!("can't be written: {error}"))?;
    let mut json = serde_json::to_string_pretty(about).expect("texts and numbers");
    json.push('\n');
    let zone = superblock.zone();
    write(&part.join("backup.json"), json.as_bytes())?;
    write(&part.join("superblock"), &zone)?;
    let digests = [Digest::of(json.as_bytes()), Digest::of(&zone), blocks, log];
    let sums = sums_of(&digests);
    write(&part.join(SUMS), sums.as_bytes())?;
    signer.map_or(Ok(()), |signer| write(&part.join(SIGNATURE), signer.sign(sums.as_bytes()).as_bytes()))
}

/// A line for each part.
pub fn sums_of(digests: &[Digest; PARTS.len()]) -> String {
    PARTS.iter().zip(digests).map(|(name, digest)| format!("{digest}  {name}\n")).collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let written = File::create_new(path).and_then(|mut file| file.write_all(bytes).and(file.sync_all()));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

/// SHA-256 of a file.
pub fn digest_of(path: &Path) -> Result<Digest, String> {
    let fail = |error: std::io::Error| format!("{}: can't be read: {error}", path.display());
    let mut file = File::open(path).map_err(fail)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(Digest(hash.finalize().into())),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};

    use super::*;
    use crate::cli::Restore;
    use crate::dev::Dev;
    use crate::disk::Mode;
    use crate::restore;

    /// Says so many messages, each in an op of its own.
    fn talk(folder: &Path, messages: u32) {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let dev = Dev::start(folder, any, any, Mode::Buffered, "").expect("it starts");
        let mut client = BufReader::new(TcpStream::connect(dev.line).expect("it listens"));
        let mut say = |line: &str, answer: &str| {
            client.get_mut().write_all(line.as_bytes()).expect("it reads");
            let mut heard = String::new();
            while !heard.contains(answer) {
                heard.clear();
                assert!(client.read_line(&mut heard).expect("it answers") > 0, "before {answer:?}");
            }
        };
        say("join general\n", "joined general");
        (0..messages).for_each(|number| say(&format!("send {number} it is\n"), &format!("{number} it is")));
        dev.stop();
    }

    /// A file that goes on to its next state at each of many moments: what is copied is the one state or the other.
    #[test]
    fn whenever_the_replica_goes_on_a_backup_is_of_one_moment() {
        let folder = std::env::temp_dir().join(format!("tigerchat-test-moment-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        talk(&folder, 150);
        let (early, late) = (folder.join("early"), folder.join("replica-0.tigerchat"));
        std::fs::copy(&late, &early).expect("room");
        // More than a log: every slot is another one, and blocks are used again.
        talk(&folder, 600);
        let (early, late) = (File::open(early).expect("ours"), File::open(late).expect("ours"));
        let count = |limit: u32, tag: &str| {
            let (part, out) = (folder.join(format!("part-{tag}")), folder.join(format!("out-{tag}")));
            std::fs::create_dir_all(&part).expect("room");
            let mut reads = 0;
            let mut read = |offset, into: &mut [u8]| {
                reads += 1;
                let file = if reads <= limit { &early } else { &late };
                file.read_exact_at(into, offset).is_ok()
            };
            let about = copy(&mut read, None, None, &part).expect("one of the two");
            let args = Restore {
                from: part.clone(),
                cluster: "new".into(),
                replica: 1,
                out: out.clone(),
                key: None,
                backup_key: None,
                unsealed: false,
                signed_by: None,
                unverified: true,
            };
            restore::run(&args).expect("it is whole");
            std::fs::remove_dir_all(part).expect("ours");
            std::fs::remove_file(out).expect("ours");
            (about.checkpoint, about.head, reads)
        };
        let of_late = count(0, "late");
        let of_early = count(u32::MAX, "early");
        assert!(of_early.0 < of_late.0 && of_early.1 < of_late.1, "{of_early:?}, {of_late:?}");
        let mut again = 0;
        for limit in (0..=of_early.2).step_by(of_early.2 as usize / 16).chain([1, of_early.2 - 1]) {
            let found = count(limit, &limit.to_string());
            let expected = if limit == of_early.2 { of_early } else { of_late };
            assert_eq!((found.0, found.1), (expected.0, expected.1), "after {limit} reads");
            again += u32::from(found.2 > of_late.2 + 1);
        }
        assert!(again > 3, "it had to begin again");
        std::fs::remove_dir_all(folder).expect("ours");
    }
}
