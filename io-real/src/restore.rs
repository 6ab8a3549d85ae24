//! A data file of a new cluster, made of a backup.
//!
//! The one law: **a file has a superblock only when everything else in it is written, and it stays only when it was read
//! back and found whole**; a backup of which a byte differs from its sums is not restored from.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::hkdf::Prk;
use sha2::{Digest as _, Sha256};
use tigerchat_core::chat::forest_shape;
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::store::forest::Opening;
use tigerchat_core::store::grid::block::{self, BlockRef};
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::reborn::Reborn;
use tigerchat_core::store::sealing::KeyId;
use tigerchat_core::store::sector::Zone;
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::types::{ClusterId, ReplicaId};
use tigerchat_core::vsr::offline::{FileBlocks, Stopped, verify_sealed};
use tigerchat_core::wire::entry::{Digest, ENTRY_HEADER, EntryHeader};
use zerocopy::FromBytes as _;

use crate::backup::{About, PARTS, SEALED_VERSION, SIGNATURE, SUMS, SealedWith, VERSION, digest_of, sums_of};
use crate::cli::Restore;
use crate::export::write_room;
use crate::keys::{self, MasterKey};
use crate::signing::{PublicKey, signer_of};
use crate::{disk, launch, part, texts};

pub fn run(args: &Restore) -> Result<(), String> {
    let cluster = match args.cluster.as_str() {
        "new" => ClusterId(u128::from_le_bytes(launch::entropy())),
        text => texts::parse_cluster(text)?,
    };
    let backup = Backup::open(&args.from, args)?;
    let out = &args.out;
    let key = launch::key_for(&backup.superblock.config, args.key.as_deref(), args.unsealed)?;
    // What a superblock says is zero until the end.
    disk::format(out, &[0; SUPERBLOCK_ZONE], backup.superblock.config.layout.hot_size())?;
    let restored = backup.restore(cluster, ReplicaId(args.replica), key.as_ref(), out);
    let done = restored
        .and_then(|superblock| check(out, &superblock, key.as_ref()).map(|rooms| (superblock, rooms)));
    let (superblock, rooms) = done.inspect_err(|_| {
        let _ = std::fs::remove_file(out);
    })?;
    let sealed =
        key.map_or("not sealed".into(), |key| format!("sealed with master key {}", KeyId(&key.id())));
    println!(
        "{}: replica {} of {} in cluster {cluster}, lineage {}, as of op {}, {rooms} rooms, {sealed}",
        out.display(),
        args.replica,
        superblock.members.list().len(),
        superblock.lineage,
        superblock.commit
    );
    Ok(())
}

/// A backup whose sums are right.
struct Backup {
    folder: PathBuf,
    about: About,
    superblock: Superblock,
    blocks: part::Reader,
    /// Where each payload lies in `blocks`.
    index: BTreeMap<BlockRef, part::At>,
    /// Of a sealed one.
    key: Option<Prk>,
    /// Digest of its log.
    log: Digest,
}

impl Backup {
    fn open(folder: &Path, args: &Restore) -> Result<Self, String> {
        let parts = Parts::read(folder)?;
        check_signature(folder, &parts.sums, args)?;
        parts.check(folder)?;
        let path = |name: &str| folder.join(name);
        let fail = |name: &str, why: String| format!("{}: {why}", path(name).display());
        let about: About =
            serde_json::from_slice(&parts.about).map_err(|error| fail("backup.json", error.to_string()))?;
        let version = if about.sealed.is_some() { SEALED_VERSION } else { VERSION };
        if about.tigerchat_backup != version {
            let what = format!(
                "expected a backup of version {VERSION}, or of {SEALED_VERSION} if it is sealed, found {}: use the release \
                 that made it",
                about.tigerchat_backup
            );
            return Err(fail("backup.json", keys::numbered(ErrorCode::FormatUnfit, what)));
        }
        let superblock =
            Superblock::open(&parts.superblock).map_err(|error| fail("superblock", error.to_string()))?;
        launch::must_fit(&path("superblock"), &superblock.config)?;
        let checkpoint = &superblock.checkpoint;
        let said = (about.cluster.as_str(), about.checkpoint, about.checkpoint_op, about.root.as_str());
        let (cluster, root) = (superblock.config.cluster.to_string(), checkpoint.root.digest.to_string());
        let found = (cluster.as_str(), checkpoint.number, checkpoint.op(), root.as_str());
        if said != found {
            return Err(fail("superblock", format!("expected that of {said:?}, found that of {found:?}")));
        }
        let key = about.sealed.as_ref().map(|with| backup_key(with, &superblock, args)).transpose();
        let key = key.map_err(|why| fail("backup.json", why))?;
        let blocks =
            File::open(path("blocks")).and_then(|file| part::Reader::open(file, key.as_ref(), "blocks"));
        let blocks = blocks.map_err(|error| fail("blocks", error.to_string()))?;
        let mut index = BTreeMap::new();
        blocks
            .each(superblock.config.layout.grid().payload_max(), &mut |at, payload| {
                index.insert(BlockRef { address: at.id(), digest: Digest::of(payload) }, at);
                Ok(())
            })
            .map_err(|why| fail("blocks", why))?;
        Ok(Self { folder: folder.into(), about, superblock, blocks, index, key, log: parts.digests[3] })
    }

    /// What is read is looked at: the folder may be another one by now.
    fn block(&self, reference: &BlockRef) -> Option<Vec<u8>> {
        let payload = self.blocks.read(*self.index.get(reference)?)?;
        (Digest::of(&payload) == reference.digest).then_some(payload)
    }

    fn payload(&self, reference: &BlockRef) -> Result<Vec<u8>, String> {
        self.block(reference).ok_or_else(|| {
            let from = self.folder.display();
            format!("{from}: expected block {} of the checkpoint in it, found none", reference.address)
        })
    }

    /// All blocks of the checkpoint, as the checkpoint itself says.
    fn referenced(&self) -> Result<Vec<BlockRef>, String> {
        let Some(checkpoint) = self.superblock.checkpoint.checkpoint() else { return Ok(Vec::new()) };
        let config = &self.superblock.config;
        let mut opening = Opening::new(forest_shape(&config.limits, &config.layout), checkpoint);
        while let Some(reference) = opening.wanted().first().copied() {
            opening.give(&self.payload(&reference)?).map_err(|_| self.no_checkpoint())?;
        }
        let forest = opening.done().ok_or_else(|| self.no_checkpoint())?;
        Ok(forest.references().copied().collect())
    }

    fn no_checkpoint(&self) -> String {
        format!("{}: its checkpoint can't be read", self.folder.display())
    }

    /// Shows the entries of the log, in order. They are read from a copy that nobody else has, beside the file that is made.
    fn entries(
        &self,
        entry_max: usize,
        out: &Path,
        each: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let path = self.folder.join("log");
        let fail = |what: &dyn fmt::Display| format!("{}: {what}", path.display());
        let file = copy_of(&path, &self.log, out)?;
        if let Some(key) = &self.key {
            let log = part::Reader::open(file, Some(key), "log").map_err(|error| fail(&error))?;
            return log.each(entry_max, &mut |_, entry| each(entry)).map_err(|why| fail(&why));
        }
        let mut left = file.metadata().map_err(|error| fail(&error))?.len();
        let (mut file, mut entry) = (BufReader::new(file), vec![0; entry_max]);
        while left > 0 {
            let expected = || fail(&format_args!("expected an entry of {ENTRY_HEADER} to {entry_max} bytes"));
            file.read_exact(&mut entry[..ENTRY_HEADER]).map_err(|_| expected())?;
            let (header, _) = EntryHeader::read_from_prefix(&entry).map_err(|_| expected())?;
            let size = header.size.get() as usize;
            let body = entry.get_mut(ENTRY_HEADER..size).ok_or_else(expected)?;
            file.read_exact(body).map_err(|_| expected())?;
            each(&entry[..size])?;
            left = left.saturating_sub(size as u64);
        }
        Ok(())
    }

    /// Writes the file; what it holds is not looked at again here.
    fn restore(
        &self,
        cluster: ClusterId,
        replica: ReplicaId,
        key: Option<&MasterKey>,
        out: &Path,
    ) -> Result<Superblock, String> {
        let from = self.folder.display();
        let fail = |error: std::io::Error| format!("{}: can't be written: {error}", out.display());
        let refused = |error| format!("{from}: {error}");
        let (mut reborn, renamed) =
            Reborn::begin(&self.superblock, cluster, replica, &mut |reference| self.block(reference))
                .map_err(refused)?;
        let mut sealing = None;
        if let Some(key) = key {
            let (envelope, sealer) = keys::new_sealer(key, reborn.config())?;
            sealing = Some(sealer);
            reborn = reborn.sealed(envelope, sealing.clone());
        }
        let file = OpenOptions::new().write(true).open(out).map_err(fail)?;
        let (config, grid) = (reborn.config().clone(), reborn.config().layout.grid());
        let references = self.referenced()?;
        if let Some(highest) = references.iter().map(|reference| reference.address).max() {
            disk::allocate(&file, grid.offset, grid.file_size(highest)).map_err(fail)?;
        }
        let mut image = vec![0; grid.block_bytes()];
        let mut write = |address: u64, payload: &[u8]| {
            block::seal(config.place(Zone::Grid).under(sealing.as_deref()), &grid, payload, &mut image);
            file.write_all_at(&image, grid.offset_of(address)).map_err(fail)
        };
        for reference in &references {
            write(reference.address, &self.payload(reference)?)?;
        }
        for (reference, payload) in &renamed {
            write(reference.address, payload)?;
        }
        self.entries(config.layout.entry_max(), out, &mut |entry| {
            let (offset, image) = reborn.entry(entry).map_err(refused)?;
            file.write_all_at(&image, offset).map_err(fail)
        })?;
        file.sync_all().map_err(fail)?;
        let superblock = reborn.finish();
        if superblock.commit != self.about.head {
            let (expected, found) = (self.about.head, superblock.commit);
            return Err(format!("{from}: expected a log up to op {expected}, found one up to op {found}"));
        }
        file.write_all_at(&superblock.zone(), 0).and_then(|()| file.sync_all()).map_err(fail)?;
        Ok(superblock)
    }
}

/// The sums must be signed by whoever was named.
fn check_signature(folder: &Path, sums: &str, args: &Restore) -> Result<(), String> {
    let path = folder.join(SIGNATURE);
    let fail = |what: &dyn fmt::Display| format!("{}: {what}", path.display());
    let signer = match path.try_exists() {
        Ok(true) => {
            let line = String::from_utf8_lossy(&read_small(&path)?).into_owned();
            Some(signer_of(&line, sums.as_bytes()).map_err(|what| fail(&what))?)
        }
        Ok(false) => None,
        Err(error) => return Err(fail(&error)),
    };
    match args.signed_by {
        Some(expected) if signer != Some(expected) => {
            let found = signer.map_or("none".into(), |key| format!("that of {key}"));
            let what = format!("expected the signature of {expected}, found {found}");
            Err(fail(&keys::numbered(ErrorCode::SignatureWrong, what)))
        }
        None if !args.unverified => Err(unnamed(folder, signer)),
        _ => Ok(()),
    }
}

fn unnamed(folder: &Path, signer: Option<PublicKey>) -> String {
    let found = signer.map_or("it is not signed".into(), |key| format!("it is signed by {key}"));
    let what = format!(
        "expected to be told with --signed-by who must have signed the backup ({found}); --unverified takes it whoever \
         made it"
    );
    format!("{}: {}", folder.display(), keys::numbered(ErrorCode::SignerUnnamed, what))
}

/// What is small of a backup, with its digests and those of the rest. What was digested is what is parsed.
struct Parts {
    sums: String,
    about: Vec<u8>,
    superblock: Vec<u8>,
    digests: [Digest; PARTS.len()],
}

impl Parts {
    fn read(folder: &Path) -> Result<Self, String> {
        let read = |name: &str| read_small(&folder.join(name));
        let sums = String::from_utf8_lossy(&read(SUMS)?).into_owned();
        let [about, superblock, blocks, log] = PARTS;
        let (blocks, log) = (digest_of(&folder.join(blocks))?, digest_of(&folder.join(log))?);
        let (about, superblock) = (read(about)?, read(superblock)?);
        let digests = [Digest::of(&about), Digest::of(&superblock), blocks, log];
        Ok(Self { sums, about, superblock, digests })
    }

    /// Compares every part with the sums.
    fn check(&self, folder: &Path) -> Result<(), String> {
        let again = sums_of(&self.digests);
        for (number, (expected, found)) in (1..).zip(self.sums.lines().zip(again.lines())) {
            if expected != found {
                return Err(format!(
                    "{}: damaged: line {number} of {SUMS} is {expected:?}, its files say {found:?}",
                    folder.display()
                ));
            }
        }
        if self.sums != again {
            let path = folder.join(SUMS);
            return Err(format!(
                "{}: expected {} lines, one for each of {PARTS:?}",
                path.display(),
                PARTS.len()
            ));
        }
        Ok(())
    }
}

/// Nothing of a backup that is read as a whole is larger than a superblock.
fn read_small(path: &Path) -> Result<Vec<u8>, String> {
    let fail = |what: &dyn fmt::Display| format!("{}: expected a backup: {what}", path.display());
    let (mut bytes, limit) = (Vec::new(), SUPERBLOCK_ZONE as u64);
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    match read {
        Ok(read) if read as u64 <= limit => Ok(bytes),
        Ok(_) => Err(fail(&format_args!("expected at most {limit} bytes, found more"))),
        Err(error) => Err(fail(&error)),
    }
}

/// A copy without a name, of what has this digest.
fn copy_of(path: &Path, digest: &Digest, out: &Path) -> Result<File, String> {
    let mut name = out.as_os_str().to_owned();
    name.push(".log");
    let fail = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let mut from = File::open(path).map_err(|error| fail(path, error))?;
    let name = Path::new(&name);
    let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(name);
    let copy = options.map_err(|error| fail(name, error))?;
    std::fs::remove_file(name).map_err(|error| fail(name, error))?;
    let (mut hash, mut buffer, mut at) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let read = from.read(&mut buffer).map_err(|error| fail(path, error))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        copy.write_all_at(&buffer[..read], at).map_err(|error| fail(name, error))?;
        at += read as u64;
    }
    if Digest(hash.finalize().into()) != *digest {
        return Err(format!("{}: it was changed while it was read", path.display()));
    }
    Ok(copy)
}

/// The key that a backup is sealed with.
fn backup_key(with: &SealedWith, superblock: &Superblock, args: &Restore) -> Result<Prk, String> {
    let wrapped =
        with.key().ok_or("expected the key of a backup in hexadecimal digits, found something else")?;
    let key = MasterKey::find(args.backup_key.as_deref().or(args.key.as_deref()))?.ok_or_else(|| {
        let what = format!("the backup is sealed: expected master key {}, found none", with.master);
        format!("{}; or with --backup-key", keys::missing(&what))
    })?;
    key.of_backup(&superblock.config, &wrapped)
}

/// Reads the file back as a replica would; says how many rooms it has.
fn check(out: &Path, superblock: &Superblock, key: Option<&MasterKey>) -> Result<usize, String> {
    let name = out.display();
    let file = File::open(out).map_err(|error| format!("{name}: can't be read: {error}"))?;
    let mut read = |offset, into: &mut [u8]| file.read_exact_at(into, offset).is_ok();
    let sealing = keys::sealer(superblock, key).map_err(|why| format!("{name}: {why}"))?;
    let verified =
        verify_sealed(sealing.as_deref(), &mut read).map_err(|error| format!("{name}: {error}"))?;
    let stopped =
        Stopped::read_sealed(sealing.clone(), &mut read).map_err(|error| format!("{name}: {error}"))?;
    let is_whole = verified.is_complete && verified.damaged.is_empty() && !stopped.is_state_lost();
    if !is_whole || stopped.head_uncertain || stopped.executed() != superblock.commit {
        return Err(format!(
            "{name}: what was written can't be read back as a replica would: is the disk well? (op {}, {verified:?})",
            stopped.executed()
        ));
    }
    let mut blocks = FileBlocks::new(&stopped.superblock.config, &mut read).under(sealing.as_deref());
    let mut rooms = 0;
    for room in stopped.chat().rooms() {
        write_room(&stopped, &room, &mut blocks, &mut std::io::sink())
            .map_err(|why| format!("{name}: room {}: {why}", room.name))?;
        rooms += 1;
    }
    Ok(rooms)
}
