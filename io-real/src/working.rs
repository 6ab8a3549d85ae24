//! Whether replicas work at a checkpoint just now, told from process to process: a byte in a file of each, for
//! measurements of what that work costs those who wait for acknowledgements.
//!
//! The one law: **the byte is written when it changes and at no other time**, so that telling costs nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tigerchat_core::node::Node;

/// A replica's side.
#[derive(Debug)]
pub struct Teller {
    file: Option<File>,
    told: Option<bool>,
}

impl Teller {
    pub fn new(path: Option<&Path>) -> Result<Self, String> {
        let make = |path: &Path| File::create(path).map_err(|error| format!("{}: {error}", path.display()));
        Ok(Self { file: path.map(make).transpose()?, told: None })
    }

    pub fn look(&mut self, node: &Node) {
        let Some(file) = &self.file else { return };
        let works = node.replicas().any(|(_, replica)| replica.is_checkpointing());
        if self.told != Some(works) {
            self.told = Some(works);
            // Who measures finds out: the byte stays what it was.
            let _ = file.write_all_at(&[u8::from(works)], 0);
        }
    }
}

/// The side of who measures.
#[derive(Debug)]
pub struct Listener(Vec<File>);

impl Listener {
    pub fn new(paths: &[PathBuf]) -> Result<Self, String> {
        let open = |path: &PathBuf| File::open(path).map_err(|error| format!("{}: {error}", path.display()));
        Ok(Self(paths.iter().map(open).collect::<Result<_, _>>()?))
    }

    /// Whether any of the replicas works at one now.
    pub fn is_any_working(&self) -> bool {
        self.0.iter().any(|file| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, 0).is_ok() && byte[0] == 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_several_counts_and_what_cannot_be_read_does_not() {
        let folder = std::env::temp_dir().join(format!("tigerchat-test-working-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let paths: Vec<PathBuf> = (0..3).map(|at| folder.join(at.to_string())).collect();
        let tellers: Vec<Teller> = paths.iter().map(|path| Teller::new(Some(path)).unwrap()).collect();
        let listener = Listener::new(&paths).unwrap();
        assert!(!listener.is_any_working(), "nobody said anything");
        tellers[1].file.as_ref().unwrap().write_all_at(&[0], 0).unwrap();
        assert!(!listener.is_any_working());
        tellers[2].file.as_ref().unwrap().write_all_at(&[1], 0).unwrap();
        assert!(listener.is_any_working());
        assert!(Listener::new(&[folder.join("none")]).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
