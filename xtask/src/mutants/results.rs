//! What became of each mutant: kept on disk while they are run, told at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::farm::{Farm, Mutant};
use super::judge::{Judged, Verdict};
use crate::nest::write_whole;
use crate::repository::Outcome;

/// One mutant, judged.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    name: String,
    file: String,
    line: usize,
    /// `caught`, `timeout` or `survived`.
    verdict: String,
    by: String,
    /// Digests of the programs that said so; if it survived, of all that did not notice it.
    programs: BTreeSet<String>,
    seeds: u64,
    seconds: u64,
}

/// What is known.
#[derive(Debug)]
pub(crate) struct Results {
    path: PathBuf,
    /// Digests of the programs that there are now.
    programs: BTreeSet<String>,
    entries: BTreeMap<String, Entry>,
}

/// The end of a run.
#[derive(Debug)]
pub(crate) struct Report {
    entries: Vec<Entry>,
    waiting: usize,
    all: usize,
    dropped: usize,
    idle: usize,
    equivalent: usize,
    seconds: u64,
}

impl Entry {
    pub(crate) fn new(mutant: &Mutant, judged: &Judged<'_>, farm: &Farm, seeds: u64, took: Duration) -> Self {
        let (verdict, by) = match &judged.verdict {
            Verdict::Caught(by) => ("caught", by),
            Verdict::TimedOut(by) => ("timeout", by),
            Verdict::Survived(by) => ("survived", by),
        };
        let programs = match judged.program {
            Some(program) => BTreeSet::from([program.digest.clone()]),
            None => farm.programs().map(|program| program.digest.clone()).collect(),
        };
        Self {
            name: mutant.name.clone(),
            file: mutant.file.clone(),
            line: mutant.mutation.line,
            verdict: verdict.to_owned(),
            by: by.clone(),
            programs,
            seeds,
            seconds: took.as_secs(),
        }
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |field: &str| Some(value[field].as_str()?.to_owned());
        Some(Self {
            name: text("name")?,
            file: text("file")?,
            line: usize::try_from(value["line"].as_u64()?).ok()?,
            verdict: text("verdict")?,
            by: text("by")?,
            programs: value["programs"]
                .as_array()?
                .iter()
                .filter_map(|one| Some(one.as_str()?.to_owned()))
                .collect(),
            seeds: value["seeds"].as_u64()?,
            seconds: value["seconds"].as_u64()?,
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name, "file": self.file, "line": self.line, "verdict": self.verdict,
            "by": self.by, "programs": self.programs, "seeds": self.seeds, "seconds": self.seconds,
        })
    }

    fn survived(&self) -> bool {
        self.verdict == "survived"
    }
}

impl Results {
    /// What is kept. What was caught by a program that is no more is not; survivors are remembered in any case.
    pub(crate) fn load(path: &Path, programs: BTreeSet<String>) -> Self {
        let kept: Value =
            fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let entries = kept["mutants"].as_array().map_or(&[][..], Vec::as_slice);
        let mut entries: BTreeMap<String, Entry> =
            entries.iter().filter_map(Entry::from_json).map(|entry| (entry.name.clone(), entry)).collect();
        entries.retain(|_, entry| entry.survived() || entry.programs.is_subset(&programs));
        Self { path: path.to_owned(), programs, entries }
    }

    /// What survived, of these programs or of the last ones before them.
    pub(crate) fn missed(&self) -> BTreeSet<String> {
        let survivors = self.entries.values().filter(|entry| entry.survived());
        survivors.map(|entry| entry.name.clone()).collect()
    }

    /// What is known of a mutant. One that survived fewer worlds than are asked for, or only some of the programs that
    /// there are now, is not known.
    pub(crate) fn get(&self, name: &str, seeds: u64) -> Option<&Entry> {
        let all = |entry: &&Entry| entry.seeds >= seeds && self.programs.is_subset(&entry.programs);
        self.entries.get(name).filter(|entry| !entry.survived() || all(entry))
    }

    /// The programs that did not notice a mutant the last time, with as many worlds.
    pub(crate) fn passed(&self, name: &str, seeds: u64) -> BTreeSet<String> {
        let survivor = self.entries.get(name).filter(|entry| entry.survived() && entry.seeds >= seeds);
        survivor.map(|entry| entry.programs.clone()).unwrap_or_default()
    }

    pub(crate) fn keep(&mut self, entry: Entry) -> Outcome<()> {
        self.entries.insert(entry.name.clone(), entry);
        let entries: Vec<Value> = self.entries.values().map(Entry::to_json).collect();
        write_whole(&self.path, &serde_json::to_string_pretty(&json!({ "mutants": entries }))?)
    }

    /// What caught the mutants that were caught.
    pub(crate) fn caught_by(&self) -> Vec<&str> {
        let caught = self.entries.values().filter(|entry| entry.verdict == "caught");
        caught.map(|entry| entry.by.as_str()).collect()
    }

    pub(crate) fn report(
        &self,
        chosen: &[Mutant],
        seeds: u64,
        farm: &Farm,
        equivalent: usize,
        took: Duration,
    ) -> Report {
        let entries: Vec<Entry> =
            chosen.iter().filter_map(|mutant| self.get(&mutant.name, seeds).cloned()).collect();
        let waiting = chosen.len() - entries.len();
        let (all, dropped) = (farm.mutants.len(), farm.dropped);
        let idle = farm.mutants.iter().filter(|mutant| mutant.mutation.idle).count();
        Report { entries, waiting, all, dropped, idle, equivalent, seconds: took.as_secs() }
    }
}

impl Report {
    pub(crate) fn caught(&self) -> usize {
        self.count(None, "caught")
    }

    /// Those that came to an end by themselves: what had to be ended tells too little to be counted either way.
    pub(crate) fn ended(&self) -> usize {
        self.caught() + self.count(None, "survived")
    }

    fn count(&self, file: Option<&str>, verdict: &str) -> usize {
        let of_file = self.entries.iter().filter(|entry| file.is_none_or(|file| entry.file == file));
        of_file.filter(|entry| entry.verdict == verdict).count()
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "mutants": self.all, "not_compiling": self.dropped, "equivalent": self.equivalent,
            "idle": self.idle, "viable": self.entries.len(), "not_judged": self.waiting, "seconds": self.seconds,
            "caught": self.caught(), "timeouts": self.count(None, "timeout"),
            "by_swarm": self.entries.iter().filter(|entry| entry.by.starts_with("seed ")).count(),
            "survivors": self.entries.iter().filter(|entry| entry.survived()).map(Entry::to_json).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<34} {:>7} {:>8} {:>9}", "file", "caught", "timeout", "survived")?;
        let mut files: Vec<&str> = self.entries.iter().map(|entry| entry.file.as_str()).collect();
        files.dedup();
        for file in files.into_iter().map(Some).chain([None]) {
            let [caught, timeout, survived] =
                ["caught", "timeout", "survived"].map(|verdict| self.count(file, verdict));
            writeln!(f, "{:<34} {caught:>7} {timeout:>8} {survived:>9}", file.unwrap_or("all"))?;
        }
        for entry in self.entries.iter().filter(|entry| entry.survived()) {
            writeln!(f, "survived: {}:{}: {} ({})", entry.file, entry.line, entry.name, entry.by)?;
        }
        let permille = self.caught() * 1000 / self.ended().max(1);
        let swarm = self.entries.iter().filter(|entry| entry.by.starts_with("seed ")).count();
        writeln!(
            f,
            "{} of {} mutants caught ({}.{} %), {swarm} of them by the swarm alone, and {} ran too long, in {} s; there are {}, of which {} are idle and {} excused; {} more do not compile; {} that were drawn are not judged",
            self.caught(),
            self.ended(),
            permille / 10,
            permille % 10,
            self.count(None, "timeout"),
            self.seconds,
            self.all,
            self.idle,
            self.equivalent,
            self.dropped,
            self.waiting,
        )
    }
}

/// The mutants that mean the same as the original: a line with the name, then indented why.
pub(crate) fn read_equivalents(path: &Path) -> Outcome<BTreeMap<String, String>> {
    let mut excused: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    let text = fs::read_to_string(path)?;
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        if line.starts_with(' ') {
            let name: &String = last.as_ref().ok_or("vopr/mutants.txt begins with a reason")?;
            let reason = excused.entry(name.clone()).or_default();
            if !reason.is_empty() {
                reason.push(' ');
            }
            reason.push_str(line.trim());
        } else {
            excused.insert(line.to_owned(), String::new());
            last = Some(line.to_owned());
        }
    }
    Ok(excused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, verdict: &str, programs: &[&str]) -> Entry {
        let (name, verdict, programs) = (name.to_owned(), verdict.to_owned(), digests(programs));
        let (file, by) = (String::new(), String::new());
        Entry { name, file, line: 1, verdict, by, programs, seeds: 300, seconds: 1 }
    }

    fn digests(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|digest| (*digest).to_owned()).collect()
    }

    #[test]
    fn a_verdict_is_as_good_as_the_programs_that_it_is_from() {
        let path = std::env::temp_dir().join(format!("mutants-{}.json", std::process::id()));
        let mut first = Results::load(&path, digests(&["test", "swarm"]));
        first.keep(judged("a", "survived", &["test", "swarm"])).unwrap();
        first.keep(judged("b", "caught", &["test"])).unwrap();
        first.keep(judged("c", "caught", &["swarm"])).unwrap();
        assert!(["a", "b", "c"].iter().all(|name| first.get(name, 300).is_some()));
        assert!(first.get("a", 301).is_none(), "it survived fewer worlds");
        // One more test, and another swarm.
        let second = Results::load(&path, digests(&["test", "more", "swarm2"]));
        fs::remove_file(&path).unwrap();
        assert!(second.get("b", 300).is_some(), "the test still catches it");
        assert!(second.get("c", 300).is_none() && second.get("a", 300).is_none());
        assert_eq!(second.missed(), digests(&["a"]));
        assert_eq!(second.passed("a", 300), digests(&["test", "swarm"]), "need not be asked again");
        assert_eq!(second.passed("a", 301), digests(&[]));
    }
}
