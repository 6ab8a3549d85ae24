//! Whether anybody notices a mutant: the tests of core, then a swarm.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::farm::Farm;
use crate::repository::Outcome;

/// Worlds that a swarm runs before it is asked again: one that hangs costs no more than these.
const ROUND: u64 = 30;
/// A program may take so many times as long as without a mutant, and so long at least: time of the processor, so that
/// it does not matter what else the machine does.
const PATIENCE: u32 = 10;
const LEAST: Duration = Duration::from_secs(30);
/// A program that waits takes no time of the processor: by the clock it may take so many times as long.
const BUSY: u32 = 10;
/// No program needs as much memory (in kB) or writes as much (in blocks); a mutant may.
const MEMORY: u64 = 6_000_000;
const OUTPUT: u64 = 100_000;
/// Whoever used up its time gets one of these (SIGKILL, SIGXCPU).
const OUT_OF_TIME: [i32; 2] = [9, 24];

/// How a mutant ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// By a test, or by a checker of the swarm.
    Caught(String),
    /// Something ran for so long that it was ended.
    TimedOut(String),
    Survived,
}

/// What is true without any mutant.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    farm: &'a Farm,
    seeds: u64,
    tests: Vec<Test<'a>>,
    round: Duration,
    /// Seeds that fail without a mutant: they tell nothing.
    unsound: BTreeSet<u64>,
}

/// A test program of core.
#[derive(Debug)]
struct Test<'a> {
    name: &'a str,
    path: &'a Path,
    /// Without a mutant.
    took: Duration,
    /// Mutants that it caught: what catches much in little time is asked first.
    caught: AtomicU32,
}

/// How a program ended.
#[derive(Debug)]
struct Ended {
    /// Not set: it was ended.
    success: Option<bool>,
    output: Vec<u8>,
}

impl<'a> Judge<'a> {
    /// Runs everything without a mutant first.
    pub(crate) fn new(farm: &'a Farm, seeds: u64, scratch: &Path) -> Outcome<Self> {
        let mut judge = Self { farm, seeds, tests: Vec::new(), round: LEAST, unsound: BTreeSet::new() };
        for (name, path) in &farm.tests {
            let began = Instant::now();
            let ended = judge.run(path, &[], None, 10 * LEAST, scratch)?;
            if ended.success != Some(true) {
                return Err(format!("the tests of {name} fail without a mutant").into());
            }
            judge.tests.push(Test { name, path, took: began.elapsed(), caught: AtomicU32::new(0) });
        }
        for start in (0..seeds).step_by(usize::try_from(ROUND)?) {
            let began = Instant::now();
            let many = ROUND.min(seeds - start);
            let failures = judge.worlds(start, many, false, None, 10 * LEAST, scratch)?;
            judge.unsound.extend(failures.into_iter().flatten().map(|(seed, _)| seed));
            judge.round = judge.round.max(began.elapsed() * PATIENCE);
        }
        if !judge.unsound.is_empty() {
            eprintln!("seeds that fail without a mutant tell nothing: {:?}", judge.unsound);
        }
        Ok(judge)
    }

    /// What is true of these programs, to be recalled.
    pub(crate) fn to_json(&self) -> Value {
        let took = |test: &Test<'_>| (test.name.to_owned(), json!(millis(test.took)));
        json!({
            "tests": self.tests.iter().map(took).collect::<serde_json::Map<_, _>>(),
            "round": millis(self.round), "unsound": self.unsound, "seeds": self.seeds,
        })
    }

    /// A judge who ran everything before, with as many worlds.
    pub(crate) fn recall(farm: &'a Farm, seeds: u64, kept: &Value) -> Option<Self> {
        if kept["seeds"] != seeds {
            return None;
        }
        let time = |value: &Value| Some(Duration::from_millis(value.as_u64()?));
        let test = |(name, path): &'a (String, PathBuf)| {
            Some(Test { name, path, took: time(&kept["tests"][name.as_str()])?, caught: AtomicU32::new(0) })
        };
        let tests = farm.tests.iter().map(test).collect::<Option<_>>()?;
        let unsound = kept["unsound"].as_array()?.iter().filter_map(Value::as_u64).collect();
        Some(Self { farm, seeds, tests, round: time(&kept["round"])?, unsound })
    }

    /// Test programs that have caught mutants already.
    pub(crate) fn has_caught(&self, by: &[&str]) {
        for test in &self.tests {
            let caught = by.iter().filter(|by| by.split([':', ' ']).next() == Some(test.name)).count();
            test.caught.store(u32::try_from(caught).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }

    pub(crate) fn judge(&self, mutant: u32, scratch: &Path) -> Outcome<Verdict> {
        let mut tests: Vec<&Test<'_>> = self.tests.iter().collect();
        tests.sort_by_cached_key(|test| test.took / (1 + test.caught.load(Ordering::Relaxed)));
        for test in tests {
            let patience = LEAST.max(test.took * PATIENCE);
            let ended = self.run(test.path, &[], Some(mutant), patience, scratch)?;
            match ended.success {
                Some(true) => {}
                Some(false) => {
                    test.caught.fetch_add(1, Ordering::Relaxed);
                    return Ok(Verdict::Caught(failed_test(test.name, &ended.output)));
                }
                None => return Ok(Verdict::TimedOut(test.name.to_owned())),
            }
        }
        let mut start = 0;
        while start < self.seeds {
            let many = ROUND.min(self.seeds - start);
            let Some(failures) = self.worlds(start, many, true, Some(mutant), self.round, scratch)? else {
                return Ok(Verdict::TimedOut("swarm".to_owned()));
            };
            match failures.into_iter().next() {
                Some((seed, _)) if self.unsound.contains(&seed) => start = seed + 1,
                Some((seed, checker)) => return Ok(Verdict::Caught(format!("seed {seed}, {checker}"))),
                None => start += many,
            }
        }
        Ok(Verdict::Survived)
    }

    /// Runs some worlds; the seeds that failed, with the checker that noticed. None if it did not end.
    fn worlds(
        &self,
        start: u64,
        many: u64,
        first: bool,
        mutant: Option<u32>,
        patience: Duration,
        scratch: &Path,
    ) -> Outcome<Option<Vec<(u64, String)>>> {
        let (start_text, many) = (start.to_string(), many.to_string());
        let mut arguments = vec!["--json", "--jobs", "1", "--start", &start_text, "--seeds", &many];
        if first {
            arguments.push("--stop-at-first");
        }
        let ended = self.run(&self.farm.swarm, &arguments, mutant, patience, scratch)?;
        if ended.success.is_none() {
            return Ok(None);
        }
        let Ok(report) = serde_json::from_slice::<Value>(&ended.output) else {
            return Ok(Some(vec![(start, "the swarm itself broke".to_owned())]));
        };
        let failures = report["failures"].as_array().map_or(&[][..], Vec::as_slice);
        let told =
            |failure: &Value| Some((failure["seed"].as_u64()?, failure["checker"].as_str()?.to_owned()));
        Ok(Some(failures.iter().filter_map(told).collect()))
    }

    fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        mutant: Option<u32>,
        patience: Duration,
        scratch: &Path,
    ) -> Outcome<Ended> {
        let out: PathBuf = scratch.join("output");
        // The kernel ends it: also when this process is no more.
        let limits = format!(
            "ulimit -v {MEMORY} && ulimit -f {OUTPUT} && ulimit -t {} && ",
            patience.as_secs().max(1)
        );
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{limits} exec \"$0\" \"$@\"")]).arg(program).args(arguments);
        command.current_dir(&self.farm.folder).env("RUST_TEST_THREADS", "1").env_remove("MUTANT");
        // Property tests draw the same cases for each mutant and keep none: what one fails, the next would be blamed for.
        command.env("PROPTEST_RNG_SEED", "1").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        if let Some(mutant) = mutant {
            command.env("MUTANT", mutant.to_string());
        }
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let began = Instant::now();
        let mut pause = Duration::from_millis(2);
        let success = loop {
            if let Some(status) = child.try_wait()? {
                let late = status.signal().is_some_and(|signal| OUT_OF_TIME.contains(&signal));
                break (!late).then_some(status.success());
            }
            if began.elapsed() > patience * BUSY {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        };
        Ok(Ended { success, output: fs::read(&out)? })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The first test that a program said has failed.
fn failed_test(program: &str, output: &[u8]) -> String {
    let output = String::from_utf8_lossy(output);
    let failed = output.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    failed.map_or_else(|| format!("{program} (it broke)"), |test| format!("{program}: {test}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failed_test_is_named() {
        let output = b"\nrunning 2 tests\ntest a ... ok\ntest h04_x ... FAILED\n\nfailures:\n";
        assert_eq!(failed_test("hazards", output), "hazards: h04_x");
        assert_eq!(failed_test("hazards", b"running 2 tests\n"), "hazards (it broke)");
    }
}
