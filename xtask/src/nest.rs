//! Where bugs are hatched: a copy of the tracked files, with a build folder of its own.
//!
//! The one law: **the working tree is never touched.**

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::repository::Outcome;

#[derive(Debug)]
pub(crate) struct Nest {
    pub(crate) tree: PathBuf,
    pub(crate) target: PathBuf,
}

impl Nest {
    /// A copy below the build folder; `name` keeps the copies of different chores apart.
    pub(crate) fn new(root: &Path, name: &str) -> Outcome<Self> {
        let target = build_folder(root);
        let nest = Self { tree: target.join(name).join("tree"), target: target.join(name).join("target") };
        fs::create_dir_all(&nest.tree)?;
        Ok(nest)
    }

    /// Makes the copy equal to the tracked files. What is equal already keeps its date, so that little is built.
    pub(crate) fn renew(&self, root: &Path) -> Outcome<()> {
        self.renew_except(root, &|_| false)
    }

    /// The same for all files but some, which the caller writes.
    pub(crate) fn renew_except(&self, root: &Path, written: &dyn Fn(&str) -> bool) -> Outcome<()> {
        let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output()?;
        if !listed.status.success() {
            return Err("git does not list the tracked files".into());
        }
        let listed = String::from_utf8(listed.stdout)?;
        let tracked: BTreeSet<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
        for path in tracked.iter().filter(|path| !written(path)) {
            // A tracked file may have been removed from the working tree.
            let Ok(wanted) = fs::read(root.join(path)) else { continue };
            self.write(path, &wanted)?;
        }
        self.remove_strangers(&self.tree, &tracked, written)
    }

    /// Writes one file of the copy, unless it is like that already.
    pub(crate) fn write(&self, path: &str, wanted: &[u8]) -> Outcome<()> {
        let to = self.tree.join(path);
        if fs::read(&to).ok().as_deref() != Some(wanted) {
            fs::create_dir_all(to.parent().ok_or("a file has no folder")?)?;
            fs::write(&to, wanted)?;
        }
        Ok(())
    }

    fn remove_strangers(
        &self,
        folder: &Path,
        tracked: &BTreeSet<&str>,
        written: &dyn Fn(&str) -> bool,
    ) -> Outcome<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(&self.tree)?.to_string_lossy().replace('\\', "/");
            if path.is_dir() {
                self.remove_strangers(&path, tracked, written)?;
            } else if !tracked.contains(name.as_str()) && name != "Cargo.lock" && !written(&name) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Cargo, in the copy.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target);
        cargo
    }
}

/// Where this workspace builds to.
pub(crate) fn build_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Whoever is interrupted leaves the old text or the new one.
pub(crate) fn write_whole(path: &Path, text: &str) -> Outcome<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, text)?;
    fs::rename(draft, path)?;
    Ok(())
}
