//! Replays the corpora of the fuzz targets: what a fuzzer once found stays found.

#[expect(unreachable_pub, reason = "the crate of the fuzz targets exports these functions")]
#[path = "../../fuzz/src/clients.rs"]
mod clients;
#[expect(unreachable_pub, reason = "the crate of the fuzz targets exports these functions")]
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

use self::clients::CLIENT_TARGETS;
use self::targets::{TARGETS, Target};

fn targets() -> impl Iterator<Item = &'static (&'static str, Target)> {
    TARGETS.iter().chain(CLIENT_TARGETS)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn every_input_of_every_corpus_keeps_the_promise_of_its_target() {
    for (name, target) in targets() {
        let inputs = corpus(name);
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for input in inputs {
            target(&input);
        }
    }
}

/// The corpora are where a fuzzer begins: each holds something that is accepted.
#[test]
fn truncated_and_flipped_inputs_keep_it_too() {
    for (name, target) in targets() {
        for input in corpus(name) {
            for end in (0..input.len()).step_by(input.len() / 32 + 1) {
                target(&input[..end]);
                let mut flipped = input.clone();
                flipped[end] ^= 1 << (end % 8);
                target(&flipped);
            }
        }
    }
}
