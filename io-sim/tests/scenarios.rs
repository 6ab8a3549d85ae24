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

/// Whatever stands in a script, it is refused with a reason or played, and then plays the same once more.
#[test]
fn what_a_user_is_refused_is_told_and_what_can_not_be_said_is_refused() {
    let script =
        "cluster replicas=3 edges=1\n   \nuser ada edge=0\nada open =2\nada publish nowhere x\nrun 1s\n";
    let played = play(script, &mut |_| {}).unwrap();
    assert!(played.contains("ada: refused: room_name_invalid\n"), "{played}");
    assert!(played.contains("ada: refused: room_unknown\n"), "{played}");
    assert_eq!(play(&played, &mut |_| {}).as_ref(), Ok(&played));
    for bad in ["a\u{11}b", "a\"b", "a\\b", &"x".repeat(600)] {
        let said = play(&format!("{script}ada open {bad}\n"), &mut |_| {}).unwrap_err();
        assert!(said.contains("in a command") || said.contains("at most 500 bytes"), "{said}");
    }
}
