//! What earlier hunts found, kept beside the build: hunts that were ended go on where they were.
//!
//! The one law: **what is known of a bug counts for the swarm without it and for the patch that it was found with**, both
//! by their digests, and for no more seeds than were asked.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Hunt;
use crate::nest::write_whole;
use crate::repository::Outcome;

/// See the module.
#[derive(Debug)]
pub(super) struct Known {
    path: PathBuf,
    sound: String,
    bugs: BTreeMap<String, Value>,
}

impl Known {
    /// What is known with this swarm, which has no bug.
    pub(super) fn open(path: PathBuf, sound: &[u8]) -> Self {
        // What can't be read is hunted again.
        let bugs = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { path, sound: digest(sound), bugs: bugs.unwrap_or_default() }
    }

    /// How a hunt through so many seeds ends.
    pub(super) fn get(&self, name: &str, patch: &[u8], seeds: u64) -> Option<Hunt> {
        let known = self.bugs.get(name)?;
        if known["sound"] != self.sound || known["patch"] != digest(patch) {
            return None;
        }
        let found = known["seed"].as_u64().filter(|seed| *seed < seeds);
        if let (Some(seed), Some(checker)) = (found, known["checker"].as_str()) {
            return Some(Hunt::Found { seed, checker: checker.to_owned() });
        }
        known["survived"].as_u64().filter(|asked| *asked >= seeds).map(|_| Hunt::Survived)
    }

    pub(super) fn keep(&mut self, name: &str, patch: &[u8], seeds: u64, hunt: &Hunt) -> Outcome<()> {
        let (sound, patch) = (&self.sound, digest(patch));
        let known = match hunt {
            Hunt::Found { seed, checker } => {
                json!({"sound": sound, "patch": patch, "seed": seed, "checker": checker})
            }
            Hunt::Survived => json!({"sound": sound, "patch": patch, "survived": seeds}),
            Hunt::Tested(_) | Hunt::Broken(_) => return Ok(()),
        };
        self.bugs.insert(name.to_owned(), known);
        write_whole(&self.path, &serde_json::to_string_pretty(&self.bugs)?)
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_counts_for_the_same_swarm_patch_and_seeds() {
        let path = std::env::temp_dir().join(format!("tigerchat-test-bugs-{}.json", std::process::id()));
        let mut known = Known::open(path.clone(), b"swarm");
        let found = Hunt::Found { seed: 40, checker: "chain".into() };
        known.keep("one", b"patch", 2_000, &found).unwrap();
        known.keep("other", b"patch", 2_000, &Hunt::Survived).unwrap();
        let known = Known::open(path.clone(), b"swarm");
        let seed = |hunt: Option<Hunt>| matches!(hunt, Some(Hunt::Found { seed: 40, .. }));
        assert!(seed(known.get("one", b"patch", 100)) && known.get("one", b"patch", 40).is_none());
        assert!(
            known.get("one", b"another patch", 100).is_none() && known.get("two", b"patch", 100).is_none()
        );
        assert!(matches!(known.get("other", b"patch", 2_000), Some(Hunt::Survived)));
        assert!(known.get("other", b"patch", 20_000).is_none(), "it was not hunted for so long");
        assert!(Known::open(path.clone(), b"another swarm").get("one", b"patch", 100).is_none());
        fs::remove_file(path).unwrap();
    }
}
