//! Every scenario prints what stands in it. `UPDATE_SCENARIOS=1 cargo test -p io-sim --test scenarios` rewrites.

use std::path::Path;
use std::{env, fs};

use io_sim::scenario::play;

#[test]
fn every_scenario_prints_what_stands_in_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(files.len() >= 12, "only {} scenarios in {}", files.len(), folder.display());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let played = play(&text, &mut |_| {}).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        if env::var_os("UPDATE_SCENARIOS").is_some() {
            fs::write(&file, played).unwrap();
        } else {
            assert_eq!(played, text, "{}", file.display());
        }
    }
}
