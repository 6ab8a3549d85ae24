//! Replays the corpora of the fuzz targets for what comes from outside by way of this program.

use std::fs;
use std::path::Path;

use crate::clients::http;
use crate::texts;

#[path = "../../fuzz/src/outside.rs"]
mod outside;

/// Each input as it is, cut short, and with a flipped bit.
#[test]
fn every_input_of_every_corpus_keeps_the_promise_of_its_target() {
    for (name, target) in outside::OUTSIDE_TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let inputs: Vec<Vec<u8>> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for input in inputs {
            target(&input);
            for end in 0..input.len() {
                target(&input[..end]);
                let mut flipped = input.clone();
                flipped[end] ^= 1 << (end % 8);
                target(&flipped);
            }
        }
    }
}
