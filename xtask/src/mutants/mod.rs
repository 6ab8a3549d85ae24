//! Mutation testing of replication and of what it stores: one small mistake at a time in `core/src/vsr` or
//! `core/src/store`, and somebody must notice.
//!
//! All mutants are in one build, chosen by an environment variable; a build for each would take days.

mod farm;
mod judge;
mod reach;
mod results;
mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::farm::{Farm, Mutant};
use self::judge::{Judge, Verdict};
use self::results::{Entry, Results};
use crate::nest::build_folder;
use crate::repository::{Outcome, root};

const HELP: &str = "\
cargo xtask mutants [--dir DIR]... [--sample N] [--seed S] [--only TEXT] [--seeds N] [--jobs N] [--minutes N]
                    [--missed] [--list] [--json]

Makes mutants of core/src/vsr and core/src/store in a copy of the tracked files, all in one build, and judges those of
the folders that are asked for. Each is run against the tests of core and, if these notice nothing, against a swarm; of
both only against what gets to the place that is mutated. Prints every survivor; fails when less than 95 % are caught.
What ran for so long that it was ended is neither caught nor survived. Mutants of what promises nothing
(docs/simulation.md says what that is) are never drawn. Goes on where it was ended: results are kept beside the build,
in mutants.json; a verdict stays for as long as the programs that it is from are the same. vopr/mutants.txt lists the
mutants that mean the same as the original; they are not run.

  --dir DIR     mutants of this folder or file, below core/src/vsr or core/src/store [default: core/src/vsr]
  --sample N    so many mutants, drawn from all [default: all]
  --seed S      another draw [default: 0]
  --only TEXT   only mutants whose name (file function: what) contains TEXT
  --seeds N     worlds of the swarm [default: 300]
  --jobs N      mutants at a time [default: one for each core]
  --minutes N   begins with no mutant after so many minutes of judging
  --missed      only mutants that survived the last time
  --list        only list the mutants, each with the number that chooses it in the build
  --json        print the results as JSON";

/// Mutants of which less are caught fail the run, in percent.
const FLOOR: usize = 95;

#[derive(Debug)]
struct Options {
    dirs: Vec<String>,
    sample: Option<usize>,
    seed: u64,
    only: Vec<String>,
    seeds: u64,
    jobs: usize,
    minutes: Option<u64>,
    missed: bool,
    list: bool,
    json: bool,
}

pub(crate) fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    match parse(arguments).and_then(|options| options.map_or(Ok(true), |options| hunt(&options))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutants: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Option<Options>> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options {
        dirs: Vec::new(),
        sample: None,
        seed: 0,
        only: Vec::new(),
        seeds: 300,
        jobs,
        minutes: None,
        missed: false,
        list: false,
        json: false,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--sample" => options.sample = Some(value()?.parse()?),
            "--seed" => options.seed = value()?.parse()?,
            "--only" => options.only.push(value()?),
            "--seeds" => options.seeds = value()?.parse()?,
            "--jobs" => options.jobs = value()?.parse::<usize>()?.clamp(1, 64),
            "--minutes" => options.minutes = Some(value()?.parse()?),
            "--dir" => {
                let dir = value()?;
                if !farm::FOLDERS.iter().any(|folder| farm::is_below(&dir, folder)) {
                    return Err(
                        format!("--dir {dir}: mutants are made below {}", farm::FOLDERS.join(", ")).into()
                    );
                }
                options.dirs.push(dir);
            }
            "--missed" => options.missed = true,
            "--list" => options.list = true,
            "--json" => options.json = true,
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(None);
            }
            other => return Err(format!("unknown argument {other}; --help tells which there are").into()),
        }
    }
    if options.dirs.is_empty() {
        options.dirs.push(farm::FOLDERS[0].to_owned());
    }
    Ok(Some(options))
}

fn hunt(options: &Options) -> Outcome<bool> {
    let root = root();
    let equivalent = results::read_equivalents(&root.join("vopr/mutants.txt"))?;
    if options.list {
        for mutant in choose(options, farm::list(&root)?, &equivalent, None) {
            println!("{}:{}: {} (MUTANT={})", mutant.file, mutant.mutation.line, mutant.name, mutant.number);
        }
        return Ok(true);
    }
    let farm = Farm::build(&root)?;
    let kept = build_folder(&root).join("mutants.json");
    let results = Results::load(&kept, farm.programs().map(|program| program.digest.clone()).collect());
    let missed = options.missed.then(|| results.missed());
    let chosen = choose(options, farm.mutants.clone(), &equivalent, missed.as_ref());
    let folder = build_folder(&root).join("mutants/scratch");
    let began = Instant::now();
    let results = Mutex::new(results);
    judge_all(&farm, options, &chosen, &results, &folder)?;
    let results = results.into_inner().map_err(|_| "a mutant could not be judged")?;
    let known =
        equivalent.keys().filter(|name| farm.mutants.iter().any(|mutant| mutant.name == **name)).count();
    let report = results.report(&chosen, options.seeds, &farm, known, began.elapsed());
    for name in equivalent.keys().filter(|name| !farm.mutants.iter().any(|mutant| mutant.name == **name)) {
        eprintln!("vopr/mutants.txt names a mutant that there is not: {name}");
    }
    if options.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(report.ended() > 0 && report.caught() * 100 >= FLOOR * report.ended())
}

/// The mutants to run: the same draw whenever their names are the same, wherever in the file they have moved to.
fn choose(
    options: &Options,
    mut mutants: Vec<Mutant>,
    equivalent: &BTreeMap<String, String>,
    missed: Option<&BTreeSet<String>>,
) -> Vec<Mutant> {
    mutants.retain(|mutant| {
        !mutant.mutation.idle
            && options.dirs.iter().any(|dir| farm::is_below(&mutant.file, dir))
            && !equivalent.contains_key(&mutant.name)
            && (options.only.is_empty() || options.only.iter().any(|only| mutant.name.contains(only)))
            && missed.is_none_or(|missed| missed.contains(&mutant.name))
    });
    if let Some(sample) = options.sample {
        mutants.sort_by_cached_key(|mutant| lot(options.seed, mutant));
        mutants.truncate(sample);
    }
    mutants.sort_by_key(|mutant| mutant.number);
    mutants
}

fn lot(seed: u64, mutant: &Mutant) -> impl Ord + use<> {
    Sha256::digest(format!("{seed} {}", mutant.name))
}

fn judge_all(
    farm: &Farm,
    options: &Options,
    chosen: &[Mutant],
    results: &Mutex<Results>,
    folder: &Path,
) -> Outcome<()> {
    let waiting: Vec<&Mutant> = {
        let results = results.lock().map_err(|_| "a mutant could not be judged")?;
        let mut waiting: Vec<&Mutant> =
            chosen.iter().filter(|mutant| results.get(&mutant.name, options.seeds).is_none()).collect();
        // As they were drawn: also a run that is ended early has judged a fair sample.
        waiting.sort_by_cached_key(|mutant| lot(options.seed, mutant));
        waiting
    };
    if waiting.is_empty() {
        return Ok(());
    }
    let scratch = |worker: usize| -> Outcome<PathBuf> {
        let scratch = folder.join(worker.to_string());
        fs::create_dir_all(&scratch)?;
        Ok(scratch)
    };
    let judge = sound(farm, options, &scratch(0)?)?;
    judge.has_caught(&results.lock().map_err(|_| "a mutant could not be judged")?.caught_by());
    let limit = options.minutes.map_or(Duration::MAX, |minutes| Duration::from_secs(60 * minutes));
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let all = Instant::now();
    let work = |worker: usize| -> Result<(), String> {
        let scratch = scratch(worker).map_err(|error| error.to_string())?;
        while let Some(mutant) = waiting.get(next.fetch_add(1, Ordering::Relaxed)) {
            if all.elapsed() >= limit {
                break;
            }
            let began = Instant::now();
            let passed = {
                let results = results.lock().map_err(|_| "a mutant could not be judged")?;
                results.passed(&mutant.name, options.seeds)
            };
            let judged = judge.judge(mutant, &passed, &scratch).map_err(|error| error.to_string())?;
            let count = done.fetch_add(1, Ordering::Relaxed) + 1;
            let told = match &judged.verdict {
                Verdict::Caught(by) => format!("caught by {by}"),
                Verdict::TimedOut(what) => format!("ended, {what} ran too long"),
                Verdict::Survived(who) => format!("SURVIVED, {who}"),
            };
            let (took, left) = (began.elapsed().as_secs(), waiting.len() - count);
            let minutes = all.elapsed().as_secs() * u64::try_from(left).unwrap_or(u64::MAX)
                / (60 * u64::try_from(count).unwrap_or(1));
            let of = waiting.len();
            eprintln!("{count}/{of}, about {minutes} min left: {took} s  {}  {told}", mutant.name);
            let entry = Entry::new(mutant, &judged, farm, options.seeds, began.elapsed());
            let mut results = results.lock().map_err(|_| "a mutant could not be judged")?;
            results.keep(entry).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..options.jobs).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker broke".to_owned())?)
    })
    .map_err(Into::into)
}

/// A judge who knows what is true without a mutant: from the last time, of the programs that are the same.
fn sound<'a>(farm: &'a Farm, options: &Options, scratch: &Path) -> Outcome<Judge<'a>> {
    let path = build_folder(&root()).join("mutants/reach.json");
    let kept: Option<Value> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mut kept = kept.filter(Value::is_object).unwrap_or_else(|| json!({}));
    if let Some(kept) = kept.as_object_mut() {
        kept.retain(|digest, _| farm.programs().any(|program| program.digest == *digest));
    }
    let judge = Judge::new(farm, options.seeds, scratch, &mut kept)?;
    crate::nest::write_whole(&path, &kept.to_string())?;
    Ok(judge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_has_many_mutants_and_each_has_a_name_of_its_own() {
        let mutants = farm::list(&root()).unwrap();
        assert!(mutants.len() > 1000);
        let names: BTreeSet<_> = mutants.iter().map(|mutant| &mutant.name).collect();
        assert_eq!(names.len(), mutants.len());
    }

    #[test]
    fn a_folder_has_the_mutants_below_it() {
        let drawn = |dir: &str| {
            let options = parse(["--dir", dir].map(str::to_owned).into_iter()).unwrap().unwrap();
            choose(&options, farm::list(&root()).unwrap(), &BTreeMap::new(), None)
        };
        let store = drawn("core/src/store");
        assert!(store.len() > 500, "{}", store.len());
        assert!(store.iter().all(|mutant| mutant.name.starts_with("store/")));
        let grid = drawn("core/src/store/grid");
        assert!(
            !grid.is_empty() && grid.iter().all(|mutant| mutant.file.starts_with("core/src/store/grid/"))
        );
        assert!(parse(["--dir", "core/src/chat"].map(str::to_owned).into_iter()).is_err());
    }

    #[test]
    fn a_draw_is_repeatable() {
        let options =
            parse(["--sample", "20", "--seed", "3"].map(str::to_owned).into_iter()).unwrap().unwrap();
        let draw = || {
            let drawn = choose(&options, farm::list(&root()).unwrap(), &BTreeMap::new(), None);
            drawn.into_iter().map(|mutant| mutant.name).collect::<Vec<_>>()
        };
        assert_eq!((draw().len(), draw()), (20, draw()));
    }

    #[test]
    fn each_mutant_that_is_excused_has_a_reason_and_exists() {
        let excused = results::read_equivalents(&root().join("vopr/mutants.txt")).unwrap();
        let mutants = farm::list(&root()).unwrap();
        for (name, reason) in excused {
            assert!(!reason.is_empty(), "{name}");
            assert!(mutants.iter().any(|mutant| mutant.name == name), "there is no mutant {name}");
        }
    }
}
