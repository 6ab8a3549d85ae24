//! The inputs that the tests replay; the targets themselves do not need them. Compiled by tests of packages beside
//! this one.

use std::fs;
use std::path::Path;

/// All inputs of a target.
///
/// # Panics
/// When there is none: what replays nothing shows nothing.
pub fn inputs(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let inputs: Vec<Vec<u8>> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!inputs.is_empty(), "the corpus of {target} is empty");
    inputs
}
