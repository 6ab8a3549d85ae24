//! What became of each mutant: kept on disk while they are run, told at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::farm::{Farm, Mutant, write_whole};
use super::judge::Verdict;
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
    seeds: u64,
    seconds: u64,
}

/// What is known of the programs of one digest.
#[derive(Debug)]
pub(crate) struct Results {
    path: PathBuf,
    digest: String,
    entries: BTreeMap<String, Entry>,
    /// Survivors of other programs that these were not asked about yet.
    missed: BTreeSet<String>,
    /// What the judge found without a mutant.
    pub(crate) sound: Value,
}

/// The end of a run.
#[derive(Debug)]
pub(crate) struct Report {
    entries: Vec<Entry>,
    all: usize,
    dropped: usize,
    idle: usize,
    equivalent: usize,
    seconds: u64,
}

impl Entry {
    pub(crate) fn new(mutant: &Mutant, verdict: &Verdict, seeds: u64, took: Duration) -> Self {
        let (verdict, by) = match verdict {
            Verdict::Caught(by) => ("caught", by.clone()),
            Verdict::TimedOut(by) => ("timeout", by.clone()),
            Verdict::Survived => ("survived", String::new()),
        };
        Self {
            name: mutant.name.clone(),
            file: mutant.file.clone(),
            line: mutant.mutation.line,
            verdict: verdict.to_owned(),
            by,
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
            seeds: value["seeds"].as_u64()?,
            seconds: value["seconds"].as_u64()?,
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name, "file": self.file, "line": self.line, "verdict": self.verdict,
            "by": self.by, "seeds": self.seeds, "seconds": self.seconds,
        })
    }

    fn survived(&self) -> bool {
        self.verdict == "survived"
    }
}

impl Results {
    /// What is kept, if it is of these programs. Survivors are remembered in any case.
    pub(crate) fn load(path: &Path, digest: &str) -> Self {
        let kept: Value =
            fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let entries = kept["mutants"].as_array().map_or(&[][..], Vec::as_slice);
        let mut entries: BTreeMap<String, Entry> =
            entries.iter().filter_map(Entry::from_json).map(|entry| (entry.name.clone(), entry)).collect();
        let mut missed: BTreeSet<String> = kept["missed"]
            .as_array()
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect();
        if kept["digest"] != digest {
            missed.extend(entries.values().filter(|entry| entry.survived()).map(|entry| entry.name.clone()));
            entries.clear();
        }
        let sound = if kept["digest"] == digest { kept["sound"].clone() } else { Value::Null };
        Self { path: path.to_owned(), digest: digest.to_owned(), entries, missed, sound }
    }

    /// What survived, of these programs or of the last ones before them.
    pub(crate) fn missed(&self) -> BTreeSet<String> {
        let survivors = self.entries.values().filter(|entry| entry.survived());
        survivors.map(|entry| entry.name.clone()).chain(self.missed.iter().cloned()).collect()
    }

    /// What is known of a mutant. One that survived fewer worlds than are asked for is not known.
    pub(crate) fn get(&self, name: &str, seeds: u64) -> Option<&Entry> {
        self.entries.get(name).filter(|entry| !entry.survived() || entry.seeds >= seeds)
    }

    pub(crate) fn keep(&mut self, entry: Entry) -> Outcome<()> {
        self.missed.remove(&entry.name);
        self.entries.insert(entry.name.clone(), entry);
        self.write()
    }

    /// What caught the mutants that were caught.
    pub(crate) fn caught_by(&self) -> Vec<&str> {
        let caught = self.entries.values().filter(|entry| entry.verdict == "caught");
        caught.map(|entry| entry.by.as_str()).collect()
    }

    pub(crate) fn write(&self) -> Outcome<()> {
        let entries: Vec<Value> = self.entries.values().map(Entry::to_json).collect();
        let kept =
            json!({ "digest": self.digest, "mutants": entries, "missed": self.missed, "sound": self.sound });
        write_whole(&self.path, &serde_json::to_string_pretty(&kept)?)
    }

    pub(crate) fn report(&self, chosen: &[Mutant], farm: &Farm, equivalent: usize, took: Duration) -> Report {
        let entries = chosen.iter().filter_map(|mutant| self.entries.get(&mutant.name).cloned()).collect();
        let (all, dropped) = (farm.mutants.len(), farm.dropped);
        let idle = farm.mutants.iter().filter(|mutant| mutant.mutation.idle).count();
        Report { entries, all, dropped, idle, equivalent, seconds: took.as_secs() }
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
            "idle": self.idle, "viable": self.entries.len(), "seconds": self.seconds,
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
            writeln!(f, "survived: {}:{}: {}", entry.file, entry.line, entry.name)?;
        }
        let permille = self.caught() * 1000 / self.ended().max(1);
        let swarm = self.entries.iter().filter(|entry| entry.by.starts_with("seed ")).count();
        writeln!(
            f,
            "{} of {} mutants caught ({}.{} %), {swarm} of them by the swarm alone, and {} ran too long, in {} s; there are {}, of which {} are idle and {} excused; {} more do not compile",
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

    fn judged(name: &str, verdict: &str) -> Entry {
        let (name, verdict) = (name.to_owned(), verdict.to_owned());
        Entry { name, file: String::new(), line: 1, verdict, by: String::new(), seeds: 300, seconds: 1 }
    }

    #[test]
    fn survivors_are_remembered_until_other_programs_were_asked_about_them() {
        let path = std::env::temp_dir().join(format!("mutants-{}.json", std::process::id()));
        let mut first = Results::load(&path, "first");
        for (name, verdict) in [("a", "survived"), ("b", "survived"), ("c", "caught")] {
            first.keep(judged(name, verdict)).unwrap();
        }
        let mut second = Results::load(&path, "second");
        assert!(second.get("c", 300).is_none(), "judged with other programs");
        second.keep(judged("a", "caught")).unwrap();
        // Interrupted, and begun again.
        let second = Results::load(&path, "second");
        fs::remove_file(&path).unwrap();
        assert!(second.get("a", 300).is_some());
        assert_eq!(second.missed(), ["b".to_owned()].into());
    }
}
