//! Keys as an operator has them: made, named, and changed in the data file of a stopped replica.
//!
//! The one law: **the file opens at any moment**, also when this process or its machine ends in the midst of it; what is left
//! to do is found by running the command again (`tigerchat_core::store::rotation`).

use std::fs::File;
use std::io::Error;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{Advice, fadvise};
use tigerchat_core::io::DiskError;
use tigerchat_core::store::rotation::{self, DataFile, Failed};
use tigerchat_core::store::sealing::KeyId;
use tigerchat_core::store::superblock::Superblock;

use crate::cli::{Key, KeyCommand, Rotate};
use crate::disk::{self, Mode};
use crate::keys::{self, MasterKey};
use crate::signing::Signer;

pub fn key(args: &Key) -> Result<(), String> {
    match &args.what {
        KeyCommand::Make { file } => make(file),
        KeyCommand::Id { file } => {
            let key = MasterKey::find(file.as_deref())?;
            let key = key.ok_or_else(|| keys::missing(&"expected a master key, found none"))?;
            println!("{}", KeyId(&key.id()));
            Ok(())
        }
        KeyCommand::MakeSigning { file } => make_signing(file),
        KeyCommand::Public { file } => {
            println!("{}", Signer::read(file)?.public());
            Ok(())
        }
        KeyCommand::Rotate(args) => run(args),
    }
}

fn make(file: &Path) -> Result<(), String> {
    let key = keys::make_file(file)?;
    println!("{}: master key {}", file.display(), KeyId(&key.id()));
    println!();
    println!("Keep a copy where the data files are not: what is sealed with it can't be read without it.");
    Ok(())
}

fn make_signing(file: &Path) -> Result<(), String> {
    let signer = Signer::make_file(file)?;
    println!("{}: public key {}", file.display(), signer.public());
    println!();
    println!(
        "Keep the file where backups are made, and the public key where they are restored: on another machine."
    );
    Ok(())
}

fn run(args: &Rotate) -> Result<(), String> {
    let name = args.file.display();
    // Takes the lock: no replica has it.
    let (file, _) = disk::open(&args.file, Mode::Buffered)?;
    let mut file = OnDisk { file };
    let fail = |error: &dyn std::fmt::Display| format!("{name}: {error}");
    let superblock = rotation::superblock(&mut file).map_err(|error| fail(&error))?;
    let key = MasterKey::find(args.key.as_deref())?;
    // Says what is wrong with the key, if anything is.
    keys::sealer(&superblock, key.as_ref()).map_err(|why| fail(&why))?;
    let (Some(envelope), Some(key)) = (superblock.envelope, key) else {
        return Err(fail(&"it is not sealed, and has no key to change"));
    };
    if let Some(to) = &args.to {
        let to = MasterKey::read(to)?;
        let rewrapped = key.rewrap(&to, &superblock.config, &envelope).map_err(|why| fail(&why))?;
        rotation::replace(&mut file, rewrapped).map_err(|error| fail(&error))?;
        println!(
            "{name}: sealed with master key {}, no longer with {}",
            KeyId(&to.id()),
            KeyId(&envelope.master)
        );
        return Ok(());
    }
    if envelope.before.is_some() {
        println!("{name}: a change of its key was interrupted and goes on");
    } else {
        let both = key.another(&superblock.config, &envelope);
        rotation::replace(&mut file, both).map_err(|error| fail(&error))?;
    }
    let counts = reseal(&mut file, &key).map_err(|why| fail(&why))?;
    println!("{name}: {} sectors sealed anew, the old key opens nothing any more", counts.rewritten);
    if counts.damaged > 0 {
        println!(
            "{name}: {} sectors open under no key: they are damaged, and were left as they were for the replica's peers to \
             repair",
            counts.damaged
        );
    }
    Ok(())
}

fn reseal(file: &mut OnDisk, key: &MasterKey) -> Result<rotation::Counts, String> {
    let say = |error: Failed| error.to_string();
    let superblock: Superblock = rotation::superblock(file).map_err(say)?;
    let sealing = keys::sealer(&superblock, Some(key))?.ok_or("it is not sealed")?;
    let (mut tenth, mut look) = (0, 1);
    rotation::finish(file, &*sealing, &mut |done, of| {
        let now = done.saturating_mul(10) / of.max(1);
        if now < tenth {
            look += 1;
        }
        if now != tenth {
            tenth = now;
            eprintln!("look {look}: {} % of {} MiB", 10 * now, of >> 20);
        }
    })
    .map_err(say)
}

/// A data file that this process has locked.
struct OnDisk {
    file: File,
}

/// What went wrong is told as it happens: a caller knows only where.
fn told(error: Error, as_what: DiskError) -> DiskError {
    eprintln!("{as_what:?}: {error}");
    as_what
}

impl DataFile for OnDisk {
    fn size(&mut self) -> Result<u64, DiskError> {
        self.file.metadata().map(|data| data.len()).map_err(|error| told(error, DiskError::Read))
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.file.read_exact_at(into, offset).map_err(|error| told(error, DiskError::Read))
    }

    fn write(&mut self, offset: u64, sectors: &[u8]) -> Result<(), DiskError> {
        self.file.write_all_at(sectors, offset).map_err(|error| told(error, DiskError::Write))
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(|error| told(error, DiskError::Fsync))?;
        // A file system may keep its pages all the same: then the next look is at those.
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        Ok(())
    }
}
