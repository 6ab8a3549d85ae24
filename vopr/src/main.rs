//! The command line of the swarm.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use io_sim::Plan;
use vopr::args::Args;
use vopr::junit;
use vopr::progress::Progress;
use vopr::report::Report;
use vopr::run::{catch_panics, play_scenario, run_seed, tell_seed};
use vopr::stats::Floors;
use vopr::swarm::{self, Harvest, Orders};
use vopr::tell::tell;

fn main() -> ExitCode {
    let args = Args::parse();
    let Some(plan) = Plan::named(&args.plan) else {
        let known: Vec<_> = Plan::ALL.iter().map(|plan| plan.name).collect();
        let complaint = format!("there is no plan {}; there are: {}", args.plan, known.join(", "));
        Args::command().error(clap::error::ErrorKind::InvalidValue, complaint).exit();
    };
    if let Some(file) = &args.junit
        && let Err(error) = std::fs::write(file, "")
    {
        // Before the swarm, not after its hours.
        let complaint = format!("--junit {}: the report can't be written there: {error}", file.display());
        Args::command().error(clap::error::ErrorKind::Io, complaint).exit();
    }
    catch_panics();
    let passed = match (&args.scenario, args.seed) {
        (Some(file), _) => scripted(file),
        (None, Some(seed)) => one(&args, &plan, seed),
        (None, None) => many(&args, &plan),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A swarm, then its report.
fn many(args: &Args, plan: &Plan) -> bool {
    let orders = orders(args);
    let total = args.minutes.is_none().then(|| orders.seeds.end - orders.seeds.start);
    let mut progress = Progress::new(total);
    let one = |seed| run_seed(plan, seed, args.check_determinism);
    let harvest = swarm::run(&orders, &one, |harvest, result| progress.update(harvest, result));
    progress.finish();
    let floors = if plan.name == Plan::SWARM.name { Floors::SWARM } else { Floors::default() };
    let report = Report::new(args, &harvest, floors, progress.elapsed());
    say(&if args.json { format!("{}\n", report.to_json()) } else { report.to_string() });
    write_junit(args, &report) && report.passed()
}

fn orders(args: &Args) -> Orders {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Orders {
        seeds: args.range(),
        jobs: args.jobs.map_or(cores, usize::from),
        until: args.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes)),
        stop_at_first: args.stop_at_first,
    }
}

/// One seed, told event by event (unless a machine reads the report).
fn one(args: &Args, plan: &Plan, seed: u64) -> bool {
    let began = Instant::now();
    if !args.json {
        say(&format!("{:#?}\n\n", plan.draw(seed)));
    }
    let (mut result, digest) = tell_seed(plan, seed, &mut |seen| {
        if !args.json {
            say(&format!("{}\n", tell(seen)));
        }
    });
    if args.check_determinism && result.failure.is_none() {
        result.failure = run_seed(plan, seed, true).failure;
    }
    let mut harvest = Harvest {
        runs: vec![result.stats],
        cpus: vec![result.cpu],
        view_changes: result.view_changes,
        coverage: result.coverage,
        boundaries: result.boundaries,
        marks: result.marks,
        ..Harvest::default()
    };
    if let Some(failure) = result.failure {
        harvest.failed = 1;
        harvest.listed.insert(seed, failure.checker.clone());
        harvest.failures.insert(seed, failure);
    }
    let report = Report::new(args, &harvest, Floors::default(), began.elapsed());
    if args.json {
        say(&format!("{}\n", report.to_json()));
    } else {
        let digest = digest.map_or_else(String::new, |digest| format!("digest of all events: {digest}\n"));
        say(&format!("\n{report}{digest}"));
    }
    write_junit(args, &report) && report.passed()
}

/// Writes the report where `--junit` says; says whether it is there.
fn write_junit(args: &Args, report: &Report) -> bool {
    let Some(file) = &args.junit else { return true };
    let written = std::fs::write(file, junit::document(report));
    if let Err(error) = &written {
        eprintln!("--junit {}: the report can't be written there: {error}", file.display());
    }
    written.is_ok()
}

/// A scripted world: prints what really happened, and passes when that is what the file says.
fn scripted(file: &Path) -> bool {
    let refuse = |why: String| -> ! {
        let complaint = format!("{}: {why}", file.display());
        Args::command().error(clap::error::ErrorKind::InvalidValue, complaint).exit()
    };
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| refuse(error.to_string()));
    let played = play_scenario(&text).unwrap_or_else(|why| refuse(why));
    say(&played.transcript);
    if let Err(violation) = &played.verdict {
        say(&format!("\nFAILED: {}: {}\n", violation.checker, violation.what));
    }
    let differs = text.lines().zip(played.transcript.lines()).position(|(told, really)| told != really);
    let same = text == played.transcript;
    if !same {
        let line = differs.unwrap_or(text.lines().count().min(played.transcript.lines().count())) + 1;
        say(&format!("\nFAILED: from line {line} on the file tells another story\n"));
    }
    same && played.verdict.is_ok()
}

/// Writes to standard output. Whoever reads may have heard enough (`| head`): that is no failure of the run.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
