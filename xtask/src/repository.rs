//! Where the repository lies and what belongs to it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// The folder that holds the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// All files that are tracked, or would be: paths from the root, with `/`.
pub(crate) fn files(root: &Path) -> Outcome<Vec<String>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"])
        .current_dir(root)
        .output()?;
    if !listed.status.success() {
        return Err("git does not list the files of the repository".into());
    }
    let names = String::from_utf8(listed.stdout)?;
    // A tracked file may have been removed from the working tree.
    let present = names.split('\0').filter(|name| !name.is_empty() && root.join(name).is_file());
    Ok(present.map(str::to_owned).collect())
}

/// Prints what a check found and says whether it found nothing.
pub(crate) fn verdict(check: &str, complaints: &[String]) -> bool {
    for complaint in complaints {
        eprintln!("{check}: {complaint}");
    }
    if complaints.is_empty() {
        println!("{check}: nothing to complain about");
    }
    complaints.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_knows_its_own_files() {
        let files = files(&root()).unwrap();
        assert!(files.iter().any(|file| file == "xtask/src/repository.rs"));
        assert!(files.iter().all(|file| !file.starts_with("target/")));
    }
}
