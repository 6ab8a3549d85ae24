//! A data file of a new cluster, made of a backup.
//!
//! The one law: **a file has a superblock only when everything else in it is written, and it stays only when it was read
//! back and found whole**; a backup of which a byte differs from its sums is not restored from.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tigerchat_core::chat::forest_shape;
use tigerchat_core::store::forest::Opening;
use tigerchat_core::store::grid::block::{self, BlockRef};
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::reborn::Reborn;
use tigerchat_core::store::sector::Zone;
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::types::{ClusterId, ReplicaId};
use tigerchat_core::vsr::offline::{FileBlocks, Stopped, verify};
use tigerchat_core::wire::entry::{Digest, ENTRY_HEADER, EntryHeader};
use zerocopy::FromBytes as _;

use crate::backup::{About, BLOCK_HEAD, PARTS, SUMS, VERSION, digest_of};
use crate::cli::Restore;
use crate::export::write_room;
use crate::{disk, launch, texts};

pub fn run(args: &Restore) -> Result<(), String> {
    let cluster = match args.cluster.as_str() {
        "new" => ClusterId(u128::from_le_bytes(launch::entropy())),
        text => texts::parse_cluster(text)?,
    };
    let backup = Backup::open(&args.from)?;
    let out = &args.out;
    // What a superblock says is zero until the end.
    disk::format(out, &[0; SUPERBLOCK_ZONE], backup.superblock.config.layout.hot_size())?;
    let restored = backup.restore(cluster, ReplicaId(args.replica), out);
    let done = restored.and_then(|superblock| check(out, &superblock).map(|rooms| (superblock, rooms)));
    let (superblock, rooms) = done.inspect_err(|_| {
        let _ = std::fs::remove_file(out);
    })?;
    println!(
        "{}: replica {} of {} in cluster {cluster}, lineage {}, as of op {}, {rooms} rooms",
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
    blocks: File,
    /// Where each payload lies in `blocks`.
    index: BTreeMap<BlockRef, (u64, usize)>,
}

impl Backup {
    fn open(folder: &Path) -> Result<Self, String> {
        check_sums(folder)?;
        let path = |name: &str| folder.join(name);
        let fail = |name: &str, why: String| format!("{}: {why}", path(name).display());
        let read = |name: &str| std::fs::read(path(name)).map_err(|error| fail(name, error.to_string()));
        let about: About = serde_json::from_slice(&read("backup.json")?)
            .map_err(|error| fail("backup.json", error.to_string()))?;
        if about.tigerchat_backup != VERSION {
            let found = about.tigerchat_backup;
            return Err(fail(
                "backup.json",
                format!("expected a backup of version {VERSION}, found {found}"),
            ));
        }
        let superblock =
            Superblock::open(&read("superblock")?).map_err(|error| fail("superblock", error.to_string()))?;
        launch::must_fit(&path("superblock"), &superblock.config)?;
        let checkpoint = &superblock.checkpoint;
        let said = (about.cluster.as_str(), about.checkpoint, about.checkpoint_op, about.root.as_str());
        let (cluster, root) = (superblock.config.cluster.to_string(), checkpoint.root.digest.to_string());
        let found = (cluster.as_str(), checkpoint.number, checkpoint.op(), root.as_str());
        if said != found {
            return Err(fail("superblock", format!("expected that of {said:?}, found that of {found:?}")));
        }
        let blocks = File::open(path("blocks")).map_err(|error| fail("blocks", error.to_string()))?;
        let index = index(&blocks, superblock.config.layout.grid().payload_max())
            .map_err(|why| fail("blocks", why))?;
        Ok(Self { folder: folder.into(), about, superblock, blocks, index })
    }

    fn block(&self, reference: &BlockRef) -> Option<Vec<u8>> {
        let (at, size) = *self.index.get(reference)?;
        let mut payload = vec![0; size];
        self.blocks.read_exact_at(&mut payload, at).ok()?;
        Some(payload)
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

    /// Shows the entries of the log, in order.
    fn entries(
        &self,
        entry_max: usize,
        each: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let path = self.folder.join("log");
        let fail = |what: &dyn fmt::Display| format!("{}: {what}", path.display());
        let file = File::open(&path).map_err(|error| fail(&error))?;
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
    fn restore(&self, cluster: ClusterId, replica: ReplicaId, out: &Path) -> Result<Superblock, String> {
        let from = self.folder.display();
        let fail = |error: std::io::Error| format!("{}: can't be written: {error}", out.display());
        let refused = |error| format!("{from}: {error}");
        let (mut reborn, renamed) =
            Reborn::begin(&self.superblock, cluster, replica, &mut |reference| self.block(reference))
                .map_err(refused)?;
        let file = OpenOptions::new().write(true).open(out).map_err(fail)?;
        let (config, grid) = (reborn.config().clone(), reborn.config().layout.grid());
        let references = self.referenced()?;
        if let Some(highest) = references.iter().map(|reference| reference.address).max() {
            disk::allocate(&file, grid.offset, grid.file_size(highest)).map_err(fail)?;
        }
        let mut image = vec![0; grid.block_bytes()];
        let mut write = |address: u64, payload: &[u8]| {
            block::seal(config.place(Zone::Grid), &grid, payload, &mut image);
            file.write_all_at(&image, grid.offset_of(address)).map_err(fail)
        };
        for reference in &references {
            write(reference.address, &self.payload(reference)?)?;
        }
        for (reference, payload) in &renamed {
            write(reference.address, payload)?;
        }
        self.entries(config.layout.entry_max(), &mut |entry| {
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

/// Compares every part with the sums.
fn check_sums(folder: &Path) -> Result<(), String> {
    let path = folder.join(SUMS);
    let sums = std::fs::read_to_string(&path)
        .map_err(|error| format!("{}: expected a backup: {error}", path.display()))?;
    let mut again = String::new();
    for name in PARTS {
        again.push_str(&format!("{}  {name}\n", digest_of(&folder.join(name))?));
    }
    for (number, (expected, found)) in (1..).zip(sums.lines().zip(again.lines())) {
        if expected != found {
            return Err(format!(
                "{}: damaged: line {number} of {SUMS} is {expected:?}, its files say {found:?}",
                folder.display()
            ));
        }
    }
    if sums != again {
        return Err(format!("{}: expected {} lines, one for each of {PARTS:?}", path.display(), PARTS.len()));
    }
    Ok(())
}

/// Where each payload lies.
fn index(blocks: &File, payload_max: usize) -> Result<BTreeMap<BlockRef, (u64, usize)>, String> {
    let mut index = BTreeMap::new();
    let (mut from, mut at) = (BufReader::new(blocks), 0_u64);
    let len = blocks.metadata().map_err(|error| error.to_string())?.len();
    let (mut head, mut payload) = ([0; BLOCK_HEAD], vec![0; payload_max]);
    while at < len {
        let expected = || format!("expected a block of at most {payload_max} bytes at offset {at}");
        from.read_exact(&mut head).map_err(|_| expected())?;
        let address = u64::from_le_bytes(head[..8].try_into().expect("8 bytes"));
        let size = u32::from_le_bytes(head[8..12].try_into().expect("4 bytes")) as usize;
        let payload = payload.get_mut(..size).filter(|_| head[12..] == [0; 4]).ok_or_else(expected)?;
        from.read_exact(payload).map_err(|_| expected())?;
        let start = at + BLOCK_HEAD as u64;
        index.insert(BlockRef { address, digest: Digest::of(payload) }, (start, size));
        at = start + size as u64;
    }
    Ok(index)
}

/// Reads the file back as a replica would; says how many rooms it has.
fn check(out: &Path, superblock: &Superblock) -> Result<usize, String> {
    let name = out.display();
    let file = File::open(out).map_err(|error| format!("{name}: can't be read: {error}"))?;
    let mut read = |offset, into: &mut [u8]| file.read_exact_at(into, offset).is_ok();
    let verified = verify(&mut read).map_err(|error| format!("{name}: {error}"))?;
    let stopped = Stopped::read(&mut read).map_err(|error| format!("{name}: {error}"))?;
    let is_whole = verified.is_complete && verified.damaged.is_empty() && !stopped.is_state_lost();
    if !is_whole || stopped.head_uncertain || stopped.executed() != superblock.commit {
        return Err(format!(
            "{name}: what was written can't be read back as a replica would: is the disk well? (op {}, {verified:?})",
            stopped.executed()
        ));
    }
    let mut blocks = FileBlocks::new(&stopped.superblock.config, &mut read);
    let mut rooms = 0;
    for room in stopped.chat().rooms() {
        write_room(&stopped, &room, &mut blocks, &mut std::io::sink())
            .map_err(|why| format!("{name}: room {}: {why}", room.name))?;
        rooms += 1;
    }
    Ok(rooms)
}
