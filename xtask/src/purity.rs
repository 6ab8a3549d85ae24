//! Core is pure: no standard library, no unsafe code, and nothing below it that could reach a clock, a socket, a
//! thread or the operating system's entropy.
//!
//! Three things prove it together: the attributes of the crate, an allow-list of everything below it, and that no
//! crate below it is built with its `std` feature.

use std::fs;
use std::process::Command;

use crate::repository::{Outcome, root, verdict};

/// What core may stand on, directly or not. A name is added here after a look at what it does without `std`.
const ALLOWED: &[&str] = &[
    "block-buffer",
    "cfg-if",
    "cpufeatures",
    "crossbeam-queue",
    "crossbeam-utils",
    "crypto-common",
    "digest",
    "hashbrown",
    "hybrid-array",
    "itoa",
    "memchr",
    "ppv-lite86",
    "rand_chacha",
    "rand_core",
    "serde",
    "serde_core",
    "serde_json",
    "sha2",
    "typenum",
    "zerocopy",
    "zmij",
];

/// Features that bring in the operating system.
const FORBIDDEN: &[&str] = &["std", "getrandom", "os_rng", "sys_rng", "thread_rng"];

pub(crate) fn run(arguments: &[String]) -> Outcome<bool> {
    if !arguments.is_empty() {
        return Err("purity takes no argument".into());
    }
    let root = root();
    let mut complaints = attributes(&fs::read_to_string(root.join("core/src/lib.rs"))?);
    let tree = Command::new("cargo")
        .args(["tree", "--locked", "--package", "tigerchat-core", "--edges", "normal,no-proc-macro"])
        .args(["--prefix", "none", "--format", "{p}|{f}"])
        .current_dir(&root)
        .output()?;
    if !tree.status.success() {
        return Err(String::from_utf8_lossy(&tree.stderr).into());
    }
    complaints.extend(dependencies(&String::from_utf8(tree.stdout)?));
    Ok(verdict("purity", &complaints))
}

/// What the head of the crate must say.
fn attributes(lib: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for wanted in ["#![no_std]", "#![forbid(unsafe_code)]"] {
        if !lib.lines().any(|line| line.trim() == wanted) {
            complaints.push(format!("core/src/lib.rs lacks {wanted}"));
        }
    }
    if lib.lines().any(|line| line.trim_start().starts_with("extern crate std")) {
        complaints.push("core/src/lib.rs links the standard library".to_owned());
    }
    complaints
}

/// Judges lines of `NAME VERSION ...|FEATURE,FEATURE`, the first of which is core itself.
fn dependencies(tree: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut seen = 0;
    for line in tree.lines().skip(1) {
        let (package, features) = line.split_once('|').unwrap_or((line, ""));
        let name = package.split(' ').next().unwrap_or_default();
        seen += 1;
        if !ALLOWED.contains(&name) {
            complaints.push(format!("{name} is not on the list of what core may depend on"));
        }
        // A crate that was listed before has its features followed by a mark.
        let features = features.trim_end_matches(" (*)");
        for feature in features.split(',').filter(|feature| FORBIDDEN.contains(feature)) {
            complaints.push(format!("{name} is built with its feature {feature}"));
        }
    }
    if seen == 0 {
        complaints.push("cargo listed no dependency: this check sees nothing".to_owned());
    }
    complaints.dedup();
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURE: &str = "tigerchat-core v0.1.0|\nsha2 v0.11.1|alloc\nzerocopy v0.8.63|derive,simd (*)\n";

    #[test]
    fn a_pure_tree_passes() {
        assert_eq!(dependencies(PURE), Vec::<String>::new());
    }

    #[test]
    fn a_stranger_is_named() {
        let found = dependencies(&format!("{PURE}tokio v1.0.0|rt\n"));
        assert_eq!(found, ["tokio is not on the list of what core may depend on"]);
    }

    #[test]
    fn the_feature_std_is_found_also_on_a_repeated_line() {
        let found = dependencies(&format!("{PURE}serde v1.0.0|alloc,std (*)\n"));
        assert_eq!(found, ["serde is built with its feature std"]);
    }

    #[test]
    fn an_empty_tree_is_no_proof() {
        assert_eq!(dependencies("tigerchat-core v0.1.0|\n").len(), 1);
    }

    #[test]
    fn the_attributes_are_missed_and_std_is_noticed() {
        assert_eq!(attributes("#![no_std]\n#![forbid(unsafe_code)]\n"), Vec::<String>::new());
        assert_eq!(attributes("// #![no_std]\n#![deny(unsafe_code)]\n").len(), 2);
        assert_eq!(attributes("#![no_std]\n#![forbid(unsafe_code)]\nextern crate std;\n").len(), 1);
    }
}
