//! Planted bugs: each patch of `vopr/bugs` makes one mistake on purpose, and the swarm must find it.
//!
//! A copy of the tracked files is patched, built and run; a seed that also fails without the patch finds nothing.

mod known;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use serde_json::Value;

use crate::nest::Nest;
use crate::repository::Outcome;
use known::Known;

const HELP: &str = "\
cargo xtask bugs [--only NAME] [--seeds N] [--deep] [--unasserted | --tests] [--list]

Applies each patch of vopr/bugs to a copy of the tracked files, one at a time, and lets a swarm look for it.
Prints which checker found it at which seed, and fails when a bug survives. A patch with a line `Deep:`, which says
where a bug is met that a swarm meets seldom, is named, and hunted only when it is asked for. Goes on where it was
ended: what was found is kept beside the build, in bugs.json, and counts for as long as the patch and the swarm
without it are the same.

  --only NAME   only patches whose name contains NAME (may be given several times)
  --seeds N     seeds before a bug counts as a survivor [default: 2000]
  --deep        hunt only the deep ones, for 20,000 seeds unless --seeds says otherwise
  --unasserted  compile the assertions of core out, also of the tree without a bug: the checkers stand alone
  --tests       no swarm: which tests of core that are named by the bug's hazard (h14_…) fail under it
  --list        only list the bugs and their hazards";

/// What was asked for.
#[derive(Debug, Default)]
struct Options {
    only: Vec<String>,
    seeds: u64,
    deep: bool,
    unasserted: bool,
    tests: bool,
    list: bool,
}

/// A patch and the comment above it.
#[derive(Debug)]
struct Bug {
    name: String,
    patch: PathBuf,
    hazard: String,
    what: String,
    /// The checkers of which one should notice.
    expected: String,
    /// Why a swarm of the usual size is not asked to find it.
    deep: Option<String>,
}

/// How a hunt for one bug ended.
#[derive(Debug)]
enum Hunt {
    Found {
        seed: u64,
        checker: String,
    },
    /// The tests that failed.
    Tested(Vec<String>),
    Survived,
    /// The patch is out of date, or what it gives does not build.
    Broken(String),
}

pub(crate) fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    match parse(arguments).and_then(|options| options.map_or(Ok(true), |options| hunt_all(&options))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bugs: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Option<Options>> {
    let mut options = Options::default();
    let mut seeds = None;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--only" => options.only.push(value()?),
            "--seeds" => seeds = Some(value()?.parse()?),
            "--deep" => options.deep = true,
            "--unasserted" => options.unasserted = true,
            "--tests" => options.tests = true,
            "--list" => options.list = true,
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(None);
            }
            other => return Err(format!("unknown argument {other}; --help tells which there are").into()),
        }
    }
    if options.tests && options.unasserted {
        return Err("--tests and --unasserted exclude each other: tests are assertions".into());
    }
    options.seeds = seeds.unwrap_or(if options.deep { 20_000 } else { 2_000 });
    Ok(Some(options))
}

fn hunt_all(options: &Options) -> Outcome<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the workspace has no folder")?;
    let mut bugs = read_bugs(&root.join("vopr/bugs"))?;
    bugs.retain(|bug| options.only.is_empty() || options.only.iter().any(|only| bug.name.contains(only)));
    if options.list {
        for bug in &bugs {
            let deep = if bug.deep.is_some() { " (deep)" } else { "" };
            println!("{:<34} {:<10} {}{deep}", bug.name, bug.hazard, bug.what);
        }
        return Ok(true);
    }
    let (hunted, others): (Vec<_>, Vec<_>) =
        bugs.into_iter().partition(|bug| bug.deep.is_some() == options.deep || !options.only.is_empty());
    let nest = Nest::new(root, if options.unasserted { "bugs-unasserted" } else { "bugs" })?;
    nest.renew(root)?;
    let unsound = |error| format!("the tree does not build without a bug: {error}");
    let sound = if options.tests { PathBuf::new() } else { nest.build("sound", options).map_err(unsound)? };
    let mut known = if options.tests { None } else { Some(nest.known(&sound)?) };
    println!("{:<34} {:<10} {:>6}  {:<16} {:>7}", "bug", "hazard", "seed", "found by", "seconds");
    let mut all_found = !hunted.is_empty();
    for bug in &hunted {
        let began = Instant::now();
        let patch = fs::read(&bug.patch)?;
        let before = known.as_ref().and_then(|known| known.get(&bug.name, &patch, options.seeds));
        let hunt = match before {
            Some(hunt) => hunt,
            None => {
                nest.renew(root)?;
                let hunt = nest.hunt(bug, &sound, options)?;
                if let Some(known) = &mut known {
                    known.keep(&bug.name, &patch, options.seeds, &hunt)?;
                }
                hunt
            }
        };
        let seconds = began.elapsed().as_secs();
        println!("{:<34} {:<10} {hunt}  {seconds:>7}{}", bug.name, bug.hazard, surprise(bug, &hunt));
        all_found &= matches!(hunt, Hunt::Found { .. } | Hunt::Tested(_));
    }
    for (bug, why) in others.iter().filter_map(|bug| Some((bug, bug.deep.as_ref()?))) {
        println!("{:<34} {:<10}      -  deep, not hunted: {why}", bug.name, bug.hazard);
    }
    Ok(all_found)
}

fn surprise(bug: &Bug, hunt: &Hunt) -> String {
    match hunt {
        Hunt::Found { checker, .. } if !bug.expected.contains(checker) => {
            format!("  (expected: {})", bug.expected)
        }
        Hunt::Tested(tests) => tests.iter().map(|test| format!("\n    {test}")).collect(),
        Hunt::Broken(why) => format!("\n    {}", why.trim_end().replace('\n', "\n    ")),
        _ => String::new(),
    }
}

impl fmt::Display for Hunt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { seed, checker } => write!(f, "{seed:>6}  {checker:<16}"),
            Self::Tested(tests) => write!(f, "{:>6}  {:<16}", "-", format!("{} tests", tests.len())),
            Self::Survived => write!(f, "{:>6}  {:<16}", "-", "SURVIVED"),
            Self::Broken(_) => write!(f, "{:>6}  {:<16}", "-", "BROKEN PATCH"),
        }
    }
}

/// Reads the patches; above each diff stand lines `Hazard:`, `Bug:` and `Expected:`, and of some `Deep:`.
fn read_bugs(folder: &Path) -> Outcome<Vec<Bug>> {
    let mut bugs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let patch = entry?.path();
        if patch.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        let text = fs::read_to_string(&patch)?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value
                .map(|value| value.trim().to_owned())
                .ok_or(format!("{} has no line {name}", patch.display()))
        };
        let (hazard, what, expected) = (field("Hazard:")?, field("Bug:")?, field("Expected:")?);
        let deep = text.lines().find_map(|line| line.strip_prefix("Deep:")).map(|why| why.trim().to_owned());
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        bugs.push(Bug { name, patch, hazard, what, expected, deep });
    }
    bugs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(bugs)
}

/// What is done to the copy.
impl Nest {
    /// Builds the swarm of the copy as it is now; the binary gets a name of its own.
    fn build(&self, name: &str, options: &Options) -> Outcome<PathBuf> {
        let mut cargo = self.cargo();
        cargo.args(["build", "--quiet", "--package", "vopr"]);
        if options.unasserted {
            self.weaken_assertions()?;
            cargo.args(["--config", "profile.dev.package.tigerchat-core.debug-assertions=false"]);
        }
        let built = cargo.output()?;
        if !built.status.success() {
            return Err(String::from_utf8_lossy(&built.stderr).into());
        }
        let binary = self.target.join("debug").join(format!("vopr{}", std::env::consts::EXE_SUFFIX));
        let kept = self.target.join(format!("vopr-{name}{}", std::env::consts::EXE_SUFFIX));
        fs::copy(binary, &kept)?;
        Ok(kept)
    }

    /// What earlier hunts with this swarm found.
    fn known(&self, sound: &Path) -> Outcome<Known> {
        Ok(Known::open(self.target.join("bugs.json"), &fs::read(sound)?))
    }

    /// What production always asserts becomes what only a build with debug assertions does.
    fn weaken_assertions(&self) -> Outcome<()> {
        for path in sources(&self.tree.join("core/src"))? {
            let inside = path.strip_prefix(&self.tree)?.to_string_lossy().replace('\\', "/");
            self.write(&inside, weakened(&fs::read_to_string(&path)?).as_bytes())?;
        }
        Ok(())
    }

    /// Runs the tests of core that are named by the hazard, and builds only the programs that have some.
    fn test(&self, hazard: &str) -> Outcome<Hunt> {
        let name = format!("{}_", hazard.to_lowercase());
        let mut cargo = self.cargo();
        cargo.args(["test", "--package", "tigerchat-core", "--no-fail-fast"]);
        let manifest = fs::read_to_string(self.tree.join("core/Cargo.toml"))?;
        let mut programs = BTreeSet::new();
        for path in sources(&self.tree.join("core"))? {
            if fs::read_to_string(&path)?.contains(&name) {
                let inside = path.strip_prefix(self.tree.join("core"))?.to_string_lossy().replace('\\', "/");
                programs.insert(program_of(&inside, &manifest));
            }
        }
        if programs.is_empty() {
            return Ok(Hunt::Survived);
        }
        for program in programs {
            match program {
                Some(program) => cargo.args(["--test", &program]),
                None => cargo.arg("--lib"),
            };
        }
        let ended = cargo.args(["--", &name]).output()?;
        let failed = failed_tests(&String::from_utf8_lossy(&ended.stdout));
        Ok(match (failed.is_empty(), ended.status.success()) {
            (false, _) => Hunt::Tested(failed),
            (true, true) => Hunt::Survived,
            (true, false) => Hunt::Broken(String::from_utf8_lossy(&ended.stderr).into()),
        })
    }

    fn hunt(&self, bug: &Bug, sound: &Path, options: &Options) -> Outcome<Hunt> {
        let seeds = options.seeds;
        // The copy may lie inside the repository; without the ceiling git would look for the files up there.
        let applied = Command::new("git")
            .args(["apply", "-C1"])
            .arg(&bug.patch)
            .current_dir(&self.tree)
            .env("GIT_CEILING_DIRECTORIES", self.tree.parent().ok_or("the copy has no folder")?)
            .output()?;
        if !applied.status.success() {
            return Ok(Hunt::Broken(String::from_utf8_lossy(&applied.stderr).into()));
        }
        if options.tests {
            return self.test(&bug.hazard);
        }
        let buggy = match self.build("buggy", options) {
            Ok(buggy) => buggy,
            Err(error) => return Ok(Hunt::Broken(error.to_string())),
        };
        let mut start = 0;
        while start < seeds {
            let (from, many) = (start.to_string(), (seeds - start).to_string());
            let arguments = ["--stop-at-first", "--json", "--start", &from, "--seeds", &many];
            let Some((seed, checker)) = first_failure(&buggy, &arguments)? else { break };
            if first_failure(sound, &["--json", "--seed", &seed.to_string()])?.is_none() {
                return Ok(Hunt::Found { seed, checker });
            }
            eprintln!("{}: seed {seed} fails without this bug too, and so tells nothing", bug.name);
            start = seed + 1;
        }
        Ok(Hunt::Survived)
    }
}

/// The Rust files below a folder.
fn sources(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The program of tests that a file of core is in, unless that is the library's: one of its own, or that of all the others.
fn program_of(file: &str, manifest: &str) -> Option<String> {
    let name = file.strip_prefix("tests/")?.trim_end_matches(".rs");
    let alone = manifest.contains(&format!("path = \"{file}\""));
    Some(if alone { name } else { "core" }.to_owned())
}

/// Source text in which no assertion is stronger than a `debug_assert`.
fn weakened(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("assert") {
        let (before, found) = rest.split_at(at);
        let is_macro = ["assert!(", "assert_eq!(", "assert_ne!("].iter().any(|name| found.starts_with(name));
        let inside_a_name = before.ends_with(|last: char| last == '_' || last.is_alphanumeric());
        out.push_str(before);
        out.push_str(if is_macro && !inside_a_name { "debug_assert" } else { "assert" });
        rest = &found["assert".len()..];
    }
    out + rest
}

/// The tests that a run of `cargo test` says have failed.
fn failed_tests(output: &str) -> Vec<String> {
    let name = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    output.lines().filter_map(name).collect()
}

/// Runs a swarm; the lowest seed that failed, and the checker that noticed.
pub(crate) fn first_failure(swarm: &Path, arguments: &[&str]) -> Outcome<Option<(u64, String)>> {
    let report: Value = serde_json::from_slice(&Command::new(swarm).args(arguments).output()?.stdout)?;
    let Some(failure) = report["failures"].get(0) else { return Ok(None) };
    let seed = failure["seed"].as_u64().ok_or("the report names no seed")?;
    let checker = failure["checker"].as_str().ok_or("the report names no checker")?;
    Ok(Some((seed, checker.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_bug_says_what_it_does() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vopr/bugs");
        let bugs = read_bugs(&folder).unwrap();
        assert!(bugs.iter().all(|bug| bug.hazard.starts_with('H') && bug.what.ends_with('.')));
    }

    #[test]
    fn each_file_of_core_has_its_program_of_tests() {
        let manifest = "[[test]]\nname = \"corpus\"\npath = \"tests/corpus.rs\"\n";
        assert_eq!(program_of("tests/corpus.rs", manifest).as_deref(), Some("corpus"));
        assert_eq!(program_of("tests/storage.rs", manifest).as_deref(), Some("core"));
        assert_eq!(program_of("tests/forest/mod.rs", manifest).as_deref(), Some("core"));
        assert_eq!(program_of("src/vsr/sync.rs", manifest), None);
    }

    #[test]
    fn deep_bugs_are_looked_for_longer() {
        let seeds = |arguments: &[&str]| {
            let options = parse(arguments.iter().map(|argument| (*argument).to_owned())).unwrap().unwrap();
            (options.deep, options.seeds)
        };
        assert_eq!(seeds(&[]), (false, 2_000));
        assert_eq!(seeds(&["--deep"]), (true, 20_000));
        assert_eq!(seeds(&["--deep", "--seeds", "5"]), (true, 5));
    }

    #[test]
    fn assertions_are_weakened_once_and_nothing_else_is() {
        let text = "assert!(a); debug_assert!(b); x::assert_eq!(c, d); const _: () = assert!(e); // asserted";
        let weaker = "debug_assert!(a); debug_assert!(b); x::debug_assert_eq!(c, d); const _: () = debug_assert!(e); // asserted";
        assert_eq!(weakened(text), weaker);
        assert_eq!(weakened(weaker), weaker);
    }

    #[test]
    fn failed_tests_are_named() {
        let output = "test h04_x ... FAILED\ntest h04_y ... ok\ntest result: FAILED. 1 passed";
        assert_eq!(failed_tests(output), ["h04_x"]);
    }

    #[test]
    fn tests_with_assertions_compiled_out_are_refused() {
        let both = ["--tests", "--unasserted"].map(str::to_owned);
        assert!(parse(both.into_iter()).unwrap_err().to_string().contains("exclude"));
    }

    #[test]
    fn an_unknown_argument_is_refused() {
        let unknown = parse(["--sedes".to_owned()].into_iter()).unwrap_err();
        assert!(unknown.to_string().contains("unknown argument --sedes"));
        assert!(parse(["--seeds".to_owned()].into_iter()).is_err());
    }
}
