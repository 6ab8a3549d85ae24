//! Whether anybody notices a mutant: the tests of core, then a swarm. Only those are asked that get to its point.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::farm::{Farm, Mutant, Program};
use super::reach::Reach;
use crate::repository::Outcome;

/// Worlds that a swarm runs before it is asked again: one that hangs costs no more than these.
const ROUND: u64 = 30;
/// A program may take so many times as long as without a mutant, and so long at least: time of the processor, so that
/// it does not matter what else the machine does.
const PATIENCE: u32 = 10;
const LEAST: Duration = Duration::from_secs(10);
/// How long it may take without a mutant.
const UNHURRIED: Duration = Duration::from_secs(300);
/// A program that waits takes no time of the processor: it may do so, by the clock, for so many times as long.
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
    /// Says who got to it and noticed nothing.
    Survived(String),
}

/// A verdict, and which program it is from.
#[derive(Debug)]
pub(crate) struct Judged<'a> {
    pub(crate) verdict: Verdict,
    pub(crate) program: Option<&'a Program>,
}

/// What is true without any mutant.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    farm: &'a Farm,
    tests: Vec<Test<'a>>,
    worlds: Vec<World>,
}

/// A test of core.
#[derive(Debug)]
struct Test<'a> {
    program: &'a Program,
    name: String,
    /// Without a mutant.
    took: Duration,
    reach: Reach,
    /// Mutants that it caught: what catches much in little time is asked first.
    caught: AtomicU32,
}

/// A world of the swarm.
#[derive(Debug)]
struct World {
    seed: u64,
    took: Duration,
    reach: Reach,
    /// It fails without a mutant: it tells nothing.
    unsound: bool,
}

/// Which mutant a program runs. Without one it leaves behind what it reached, and its time of the processor.
#[derive(Clone, Copy, Debug)]
enum Choice<'a> {
    None { reach: &'a Path, times: &'a Path },
    Mutant(u32),
}

/// How a program ended.
#[derive(Debug)]
struct Ended {
    /// Not set: it was ended.
    success: Option<bool>,
    output: Vec<u8>,
}

impl<'a> Judge<'a> {
    /// Knows what each test and world does without a mutant: of programs that were asked before it is recalled.
    pub(crate) fn new(farm: &'a Farm, seeds: u64, scratch: &Path, kept: &mut Value) -> Outcome<Self> {
        let mut judge = Self { farm, tests: Vec::new(), worlds: Vec::new() };
        for program in &farm.tests {
            let tests = match recall(&kept[&program.digest], |value| Test::recall(program, value)) {
                Some(tests) => tests,
                None => judge.ask_tests(program, scratch)?,
            };
            kept[&program.digest] = tests.iter().map(Test::to_json).collect();
            judge.tests.extend(tests);
        }
        let known = recall(&kept[&farm.swarm.digest], World::recall).unwrap_or_default();
        judge.worlds = known;
        for seed in u64::try_from(judge.worlds.len())?..seeds {
            let world = judge.ask_world(seed, scratch)?;
            judge.worlds.push(world);
        }
        kept[&farm.swarm.digest] = judge.worlds.iter().map(World::to_json).collect();
        judge.worlds.truncate(usize::try_from(seeds)?);
        let unsound: Vec<u64> =
            judge.worlds.iter().filter(|world| world.unsound).map(|world| world.seed).collect();
        if !unsound.is_empty() {
            eprintln!("seeds that fail without a mutant tell nothing: {unsound:?}");
        }
        Ok(judge)
    }

    /// Runs the tests of a program one by one.
    fn ask_tests(&self, program: &'a Program, scratch: &Path) -> Outcome<Vec<Test<'a>>> {
        let (listed, ..) = self.ask(&program.path, &["--list"], scratch)?;
        let listed = String::from_utf8(listed.output)?;
        let mut tests = Vec::new();
        for name in listed.lines().filter_map(|line| line.strip_suffix(": test")) {
            let (ended, took, reach) = self.ask(&program.path, &[name, "--exact"], scratch)?;
            if ended.success != Some(true) {
                return Err(format!("{} {name} fails without a mutant", program.name).into());
            }
            tests.push(Test { program, name: name.to_owned(), took, reach, caught: AtomicU32::new(0) });
        }
        eprintln!("without a mutant: {} tests of {}", tests.len(), program.name);
        Ok(tests)
    }

    fn ask_world(&self, seed: u64, scratch: &Path) -> Outcome<World> {
        let start = seed.to_string();
        let arguments = worlds_arguments(&start, "1", false);
        let (ended, took, reach) = self.ask(&self.farm.swarm.path, &arguments, scratch)?;
        let unsound = ended.success.is_none() || !failures(seed, &ended.output).is_empty();
        Ok(World { seed, took, reach, unsound })
    }

    /// Runs something without a mutant.
    fn ask(&self, program: &Path, arguments: &[&str], scratch: &Path) -> Outcome<(Ended, Duration, Reach)> {
        let (reach, times) = (scratch.join("reach"), scratch.join("times"));
        fs::write(&reach, "")?;
        let choice = Choice::None { reach: &reach, times: &times };
        let ended = self.run(program, arguments, choice, UNHURRIED, scratch)?;
        let took = time_of_children(&fs::read_to_string(&times)?).ok_or("the shell tells no times")?;
        Ok((ended, took, Reach::of_file(&fs::read(&reach)?)))
    }

    /// Tests that have caught mutants already.
    pub(crate) fn has_caught(&self, by: &[&str]) {
        for test in &self.tests {
            let caught = by.iter().filter(|by| **by == test.to_string()).count();
            test.caught.store(u32::try_from(caught).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }

    /// `passed` are the digests of programs that did not notice it the last time.
    pub(crate) fn judge(
        &self,
        mutant: &Mutant,
        passed: &BTreeSet<String>,
        scratch: &Path,
    ) -> Outcome<Judged<'a>> {
        let reaching = || self.tests.iter().filter(|test| test.reach.has(mutant.point));
        let mut tests: Vec<&Test<'_>> =
            reaching().filter(|test| !passed.contains(&test.program.digest)).collect();
        tests.sort_by_cached_key(|test| test.took / (1 + test.caught.load(Ordering::Relaxed)));
        for test in tests {
            let patience = LEAST.max(test.took * PATIENCE);
            let (arguments, choice) = ([test.name.as_str(), "--exact"], Choice::Mutant(mutant.number));
            let ended = self.run(&test.program.path, &arguments, choice, patience, scratch)?;
            let verdict = match ended.success {
                Some(true) => continue,
                Some(false) => {
                    test.caught.fetch_add(1, Ordering::Relaxed);
                    Verdict::Caught(test.to_string())
                }
                None => Verdict::TimedOut(test.to_string()),
            };
            return Ok(Judged { verdict, program: Some(test.program) });
        }
        let worlds: Vec<&World> =
            self.worlds.iter().filter(|world| !world.unsound && world.reach.has(mutant.point)).collect();
        if !passed.contains(&self.farm.swarm.digest)
            && let Some(verdict) = self.swarm(mutant, &worlds, scratch)?
        {
            return Ok(Judged { verdict, program: Some(&self.farm.swarm) });
        }
        let verdict = Verdict::Survived(match (reaching().count(), worlds.len()) {
            (0, 0) => "nothing gets there".to_owned(),
            (tests, worlds) => format!("{tests} tests and {worlds} worlds get there"),
        });
        Ok(Judged { verdict, program: None })
    }

    /// Runs worlds that lie side by side at once, until one fails.
    fn swarm(&self, mutant: &Mutant, worlds: &[&World], scratch: &Path) -> Outcome<Option<Verdict>> {
        for round in rounds(worlds, |world| world.seed) {
            let took: Duration = round.iter().map(|world| world.took).sum();
            let (start, many) = (round[0].seed, round.len().to_string());
            let start_text = start.to_string();
            let arguments = worlds_arguments(&start_text, &many, true);
            let choice = Choice::Mutant(mutant.number);
            let patience = LEAST.max(took * PATIENCE);
            let ended = self.run(&self.farm.swarm.path, &arguments, choice, patience, scratch)?;
            if ended.success.is_none() {
                return Ok(Some(Verdict::TimedOut(format!("seeds from {start} on"))));
            }
            if let Some((seed, checker)) = failures(start, &ended.output).into_iter().next() {
                return Ok(Some(Verdict::Caught(format!("seed {seed}, {checker}"))));
            }
        }
        Ok(None)
    }

    fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        choice: Choice<'_>,
        patience: Duration,
        scratch: &Path,
    ) -> Outcome<Ended> {
        let out: PathBuf = scratch.join("output");
        // The kernel ends it: also when this process is no more.
        let limits = format!(
            "ulimit -v {MEMORY} && ulimit -f {OUTPUT} && ulimit -t {} && ",
            patience.as_secs().max(1)
        );
        let script = match choice {
            Choice::None { .. } => "{ \"$0\" \"$@\"; code=$?; times > \"$MUTANT_TIMES\"; exit $code; }",
            Choice::Mutant(_) => "exec \"$0\" \"$@\"",
        };
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{limits}{script}")]).arg(program).args(arguments);
        command.current_dir(&self.farm.folder).env("RUST_TEST_THREADS", "1");
        // Property tests draw the same cases for each mutant and keep none: what one fails, the next would be blamed for.
        command.env("PROPTEST_RNG_SEED", "1").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        match choice {
            Choice::None { reach, times } => {
                command.env_remove("MUTANT").env("MUTANT_REACH", reach).env("MUTANT_TIMES", times)
            }
            Choice::Mutant(number) => command.env("MUTANT", number.to_string()).env_remove("MUTANT_REACH"),
        };
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(Stdio::null());
        let success = watch(command.spawn()?, patience * BUSY)?;
        Ok(Ended { success, output: fs::read(&out)? })
    }
}

/// Whether a program succeeds; nothing if it used up its time, or did nothing for so long.
fn watch(mut child: Child, idle: Duration) -> Outcome<Option<bool>> {
    let (mut before, mut moved) = (None, Instant::now());
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait()? {
            let late = status.signal().is_some_and(|signal| OUT_OF_TIME.contains(&signal));
            return Ok((!late).then_some(status.success()));
        }
        // On a machine that does much else it gets little of the processor: that is no fault of its own.
        let now = ticks_of(child.id());
        if now != before {
            (before, moved) = (now, Instant::now());
        }
        if moved.elapsed() > idle {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The time of the processor that a program has used, where the system tells it.
fn ticks_of(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// What `times` says of the shell's children: two times, as `0m1.25s`, on its second line.
fn time_of_children(said: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    for time in said.lines().nth(1)?.split_whitespace() {
        let (minutes, seconds) = time.strip_suffix('s')?.split_once('m')?;
        let seconds: f64 = seconds.parse().ok()?;
        sum += Duration::from_secs(60 * minutes.parse::<u64>().ok()?)
            + Duration::try_from_secs_f64(seconds).ok()?;
    }
    Some(sum)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Parts of a sorted list in which each has a number one more than the one before.
fn rounds<T>(all: &[T], number: impl Fn(&T) -> u64) -> Vec<&[T]> {
    let together = |one: &T, next: &T| number(one) + 1 == number(next);
    let most = usize::try_from(ROUND).unwrap_or(usize::MAX);
    all.chunk_by(together).flat_map(|part| part.chunks(most)).collect()
}

fn worlds_arguments<'t>(start: &'t str, many: &'t str, first: bool) -> Vec<&'t str> {
    let mut arguments = vec!["--json", "--jobs", "1", "--start", start, "--seeds", many];
    if first {
        arguments.push("--stop-at-first");
    }
    arguments
}

/// The seeds that failed, with the checker that noticed.
fn failures(start: u64, output: &[u8]) -> Vec<(u64, String)> {
    let Ok(report) = serde_json::from_slice::<Value>(output) else {
        return vec![(start, "the swarm itself broke".to_owned())];
    };
    let failures = report["failures"].as_array().map_or(&[][..], Vec::as_slice);
    let told = |failure: &Value| Some((failure["seed"].as_u64()?, failure["checker"].as_str()?.to_owned()));
    failures.iter().filter_map(told).collect()
}

/// All of a list; nothing if one of them is not what it should be.
fn recall<T>(kept: &Value, one: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    kept.as_array()?.iter().map(one).collect()
}

impl fmt::Display for Test<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.program.name, self.name)
    }
}

impl<'a> Test<'a> {
    fn to_json(&self) -> Value {
        json!({ "name": self.name, "took": millis(self.took), "reach": self.reach.to_json() })
    }

    fn recall(program: &'a Program, value: &Value) -> Option<Self> {
        let took = Duration::from_millis(value["took"].as_u64()?);
        let (name, reach) = (value["name"].as_str()?.to_owned(), Reach::from_json(&value["reach"])?);
        Some(Self { program, name, took, reach, caught: AtomicU32::new(0) })
    }
}

impl World {
    fn to_json(&self) -> Value {
        let (took, reach) = (millis(self.took), self.reach.to_json());
        json!({ "seed": self.seed, "took": took, "reach": reach, "unsound": self.unsound })
    }

    fn recall(value: &Value) -> Option<Self> {
        Some(Self {
            seed: value["seed"].as_u64()?,
            took: Duration::from_millis(value["took"].as_u64()?),
            reach: Reach::from_json(&value["reach"])?,
            unsound: value["unsound"].as_bool()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_side_by_side_are_run_at_once() {
        let seeds: Vec<u64> = (0..40).chain([50, 51, 60]).collect();
        let parts: Vec<(u64, usize)> =
            rounds(&seeds, |seed| *seed).iter().map(|part| (part[0], part.len())).collect();
        assert_eq!(parts, [(0, 30), (30, 10), (50, 2), (60, 1)]);
    }

    #[test]
    fn the_time_of_a_program_is_that_of_the_children() {
        let said = "0m0.010000s 0m0.000000s\n1m2.250000s 0m0.500000s\n";
        assert_eq!(time_of_children(said), Some(Duration::from_millis(62_750)));
        assert_eq!(time_of_children("0m0.01s 0m0.00s"), None);
    }

    #[test]
    fn a_swarm_that_says_nothing_has_failed() {
        let output = br#"{"failures":[{"seed":7,"checker":"order"}]}"#;
        assert_eq!(failures(5, output), [(7, "order".to_owned())]);
        assert_eq!(failures(5, br#"{"failures":[]}"#), []);
        assert_eq!(failures(5, b"")[0].0, 5);
    }
}
