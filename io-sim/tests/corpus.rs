//! Replays the corpora of the fuzz targets for scripts and recipes.

#[expect(unreachable_pub, reason = "the crate of the fuzz targets exports these functions")]
#[path = "../../fuzz/src/worlds.rs"]
mod worlds;

use std::fs;
use std::path::Path;

#[test]
fn every_input_of_every_corpus_keeps_the_promise_of_its_target() {
    for (name, target) in worlds::WORLD_TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let inputs: Vec<Vec<u8>> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        inputs.iter().for_each(|input| target(input));
    }
}
