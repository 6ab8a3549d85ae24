//! All mutants in one build: rewrites the copy, drops what does not compile, builds the tests and the swarm.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::sites::{Mutation, Rewritten, Source};
use crate::nest::{Nest, build_folder, write_whole};
use crate::repository::Outcome;

/// What is mutated: all of it in one build, whichever part mutants are drawn from.
pub(crate) const FOLDERS: [&str; 2] = ["core/src/vsr", "core/src/store"];
/// Two builds more than any honest set of sites should need.
const ATTEMPTS: usize = 40;

/// A mutation that can be chosen by its number.
#[derive(Clone, Debug)]
pub(crate) struct Mutant {
    pub(crate) number: u32,
    /// The first number of its place: who gets there reaches all mutants of the place.
    pub(crate) point: u32,
    pub(crate) file: String,
    pub(crate) mutation: Mutation,
    /// Stays the same while lines move: file, function, what is done, and which of several such.
    pub(crate) name: String,
}

/// The files with their sites; those of a site that does not compile have no number.
#[derive(Debug)]
struct File {
    path: String,
    source: Source,
    numbers: Vec<Option<u32>>,
}

/// What all mutants are run with.
#[derive(Debug)]
pub(crate) struct Farm {
    pub(crate) mutants: Vec<Mutant>,
    pub(crate) dropped: usize,
    /// The test programs of core.
    pub(crate) tests: Vec<Program>,
    pub(crate) swarm: Program,
    /// Where the programs of core's tests run.
    pub(crate) folder: PathBuf,
}

/// A program that may notice mutants.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Stands for what it does, with each mutant.
    pub(crate) digest: String,
}

impl Program {
    fn new(name: String, path: PathBuf) -> Outcome<Self> {
        let digest = Sha256::digest(fs::read(&path)?);
        let digest = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { name, path, digest })
    }
}

/// Finds all mutants; nothing is built.
fn files(root: &Path) -> Outcome<Vec<File>> {
    let mut files = Vec::new();
    for path in crate::repository::files(root)? {
        if FOLDERS.iter().any(|folder| is_below(&path, folder)) && path.ends_with(".rs") {
            let source = Source::parse(fs::read_to_string(root.join(&path))?)?;
            files.push(File { path, source, numbers: Vec::new() });
        }
    }
    let mut next = 0;
    for file in &mut files {
        for mutations in file.source.mutations() {
            file.numbers.push(Some(next));
            next += u32::try_from(mutations.len())?;
        }
    }
    Ok(files)
}

/// Whether a file lies in a folder, or is it.
pub(crate) fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// How a mutant's name begins: files of the folder that was mutated first go without it.
fn short(path: &str) -> &str {
    let rest = FOLDERS[..1].iter().chain(&["core/src"]).find_map(|folder| path.strip_prefix(folder));
    rest.unwrap_or(path).trim_start_matches('/')
}

fn mutants(files: &[File]) -> Vec<Mutant> {
    let mut mutants = Vec::new();
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for file in files {
        let short = short(&file.path);
        for (mutations, number) in file.source.mutations().zip(&file.numbers) {
            for (at, mutation) in (0..).zip(mutations) {
                let name = format!("{short} {}: {}", mutation.function, mutation.what);
                let same = seen.entry(name.clone()).or_default();
                *same += 1;
                let name = if *same == 1 { name } else { format!("{name} ({same})") };
                if let Some(number) = number {
                    let (file, mutation) = (file.path.clone(), mutation.clone());
                    mutants.push(Mutant { number: number + at, point: *number, file, mutation, name });
                }
            }
        }
    }
    mutants
}

/// All mutants, whether or not they compile.
pub(crate) fn list(root: &Path) -> Outcome<Vec<Mutant>> {
    Ok(mutants(&files(root)?))
}

impl Farm {
    pub(crate) fn build(root: &Path) -> Outcome<Self> {
        let nest = Nest::new(root, "mutants")?;
        let mut files = files(root)?;
        let written = |path: &str| {
            path == "core/src/lib.rs"
                || path == "core/src/mutant.rs"
                || files.iter().any(|file| file.path == path)
        };
        nest.renew_except(root, &written)?;
        let lib = fs::read_to_string(root.join("core/src/lib.rs"))?;
        nest.write("core/src/lib.rs", format!("{lib}\npub mod mutant;\n").as_bytes())?;
        nest.write("core/src/mutant.rs", include_bytes!("mutant.rs"))?;
        let all = mutants(&files).len();
        let known = build_folder(root).join("mutants/unfit.json");
        recall_unfit(&known, &mut files);
        settle(&nest, &mut files)?;
        keep_unfit(&known, &files)?;
        let mutants = mutants(&files);
        eprintln!("{} mutants; {} more do not compile", mutants.len(), all - mutants.len());
        let tests = tests(&nest)?;
        let built = nest.cargo().args(["build", "--quiet", "--package", "vopr"]).output()?;
        if !built.status.success() {
            return Err(String::from_utf8_lossy(&built.stderr).into());
        }
        let swarm = nest.target.join("debug").join(format!("vopr{}", std::env::consts::EXE_SUFFIX));
        let swarm = Program::new("swarm".to_owned(), swarm)?;
        let dropped = all - mutants.len();
        Ok(Self { mutants, dropped, tests, swarm, folder: nest.tree.join("core") })
    }
}

impl Farm {
    pub(crate) fn programs(&self) -> impl Iterator<Item = &Program> {
        self.tests.iter().chain([&self.swarm])
    }
}

/// Rewrites the files again and again, each time without the sites that the compiler complains about.
fn settle(nest: &Nest, files: &mut [File]) -> Outcome<()> {
    for _ in 0..ATTEMPTS {
        let mut rewritten = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            let new = file.source.rewrite(&file.numbers);
            nest.write(&file.path, new.text.as_bytes())?;
            rewritten.insert(file.path.clone(), (index, new));
        }
        let checked = nest
            .cargo()
            .args(["check", "--quiet", "--package", "tigerchat-core", "--message-format", "json"])
            .output()?;
        if checked.status.success() {
            return Ok(());
        }
        let complaints = complaints(&checked.stdout, &rewritten);
        eprintln!("{} sites do not compile", complaints.len());
        if complaints.is_empty() {
            return Err(String::from_utf8_lossy(&checked.stdout).into());
        }
        for (file, site) in complaints {
            files[file].numbers[site] = None;
        }
    }
    Err("the mutants do not compile, whichever are left out".into())
}

/// Leaves out at once what did not compile the last time, of the files that are as they were: what is rewritten to the
/// same text need not be built again, and is the same program.
fn recall_unfit(kept: &Path, files: &mut [File]) {
    let kept: Value =
        fs::read(kept).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    for file in files {
        let of = &kept[file.path.as_str()];
        if of["digest"] != *file.source.digest() {
            continue;
        }
        for site in of["sites"].as_array().map_or(&[][..], Vec::as_slice) {
            let at = site.as_u64().and_then(|site| usize::try_from(site).ok());
            if let Some(number) = at.and_then(|at| file.numbers.get_mut(at)) {
                *number = None;
            }
        }
    }
}

fn keep_unfit(kept: &Path, files: &[File]) -> Outcome<()> {
    let of = |file: &File| {
        let sites: Vec<usize> =
            (0..).zip(&file.numbers).filter(|(_, number)| number.is_none()).map(|(at, _)| at).collect();
        (file.path.clone(), json!({ "digest": file.source.digest(), "sites": sites }))
    };
    write_whole(kept, &serde_json::to_string(&files.iter().map(of).collect::<serde_json::Map<_, _>>())?)
}

/// The sites (file, site) around which the compiler saw errors.
fn complaints(output: &[u8], rewritten: &BTreeMap<String, (usize, Rewritten)>) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for line in output.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<Value>(line) else { continue };
        let message = &message["message"];
        if message["level"] != "error" {
            continue;
        }
        let spans = message["spans"].as_array().map_or(&[][..], Vec::as_slice);
        let (primary, others): (Vec<&Value>, Vec<&Value>) =
            spans.iter().partition(|span| span["is_primary"] == true);
        let site = primary.into_iter().chain(others).find_map(|span| {
            let (index, new) = rewritten.get(span["file_name"].as_str()?)?;
            let byte = usize::try_from(span["byte_start"].as_u64()?).ok()?;
            Some((*index, new.site_at(byte)?))
        });
        found.extend(site.filter(|site| !found.contains(site)));
    }
    found
}

/// Builds the tests of core. In the order of their names: cargo tells of them in another one each time.
fn tests(nest: &Nest) -> Outcome<Vec<Program>> {
    let built = nest
        .cargo()
        .args(["test", "--quiet", "--package", "tigerchat-core", "--no-run", "--message-format", "json"])
        .output()?;
    if !built.status.success() {
        return Err(String::from_utf8_lossy(&built.stderr).into());
    }
    let mut tests = Vec::new();
    for line in built.stdout.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<Value>(line) else { continue };
        if let (Some(path), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str())
        {
            tests.push(Program::new(name.to_owned(), PathBuf::from(path))?);
        }
    }
    tests.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(tests)
}
