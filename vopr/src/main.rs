//! The command line of the swarm.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use io_sim::{Plan, Recipe};
use vopr::args::Args;
use vopr::junit;
use vopr::memory::prefer_large_pages;
use vopr::progress::Progress;
use vopr::report::Report;
use vopr::run::{asked_for, catch_panics, play_scenario, run_recipe, run_seed, tell_recipe};
use vopr::shrink::{Limits, judge, shrink};
use vopr::stats::Floors;
use vopr::swarm::{self, Failure, Harvest, Orders};
use vopr::tell::tell;
use vopr::trace::{Heading, Recorder};

fn main() -> ExitCode {
    prefer_large_pages();
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
        (Some(file), _) => from_file(&args, file),
        (None, Some(seed)) => one(&args, &Recipe::of(&plan, seed)),
        (None, None) if args.shrink || args.trace.is_some() => {
            let complaint = "--trace and --shrink need one world: --seed S or --scenario FILE";
            Args::command().error(clap::error::ErrorKind::MissingRequiredArgument, complaint).exit()
        }
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

/// One world, told event by event (unless a machine reads the report, or it is drawn), or made small.
fn one(args: &Args, recipe: &Recipe) -> bool {
    if args.shrink {
        return make_small(args, recipe);
    }
    let (began, seed, drawn) = (Instant::now(), recipe.seed, recipe.drawn());
    let (replicas, edges) = (drawn.replicas(), usize::from(drawn.shape.edges));
    let recorder = args.trace.is_some().then(|| Recorder::new(replicas, edges));
    let telling = !args.json && recorder.is_none();
    if telling {
        say(&format!("{drawn:#?}\n\n"));
    }
    let mut listener = |seen: &_| {
        if telling {
            say(&format!("{}\n", tell(seen)));
        }
        if let Some(recorder) = &recorder {
            recorder.hear(seen);
        }
    };
    let (mut result, digest) = tell_recipe(recipe, &mut listener, recorder.as_ref().map(Recorder::watch));
    let (title, command) = (title_of(args, seed), args.replay(seed));
    let heading =
        Heading { title: &title, command: &command, replicas, edges, failure: result.failure.as_ref() };
    let drawn = write_trace(args, recorder.as_ref(), &heading);
    if args.check_determinism && result.failure.is_none() {
        result.failure = run_recipe(recipe, true).failure;
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
    write_junit(args, &report) && drawn && report.passed()
}

fn title_of(args: &Args, seed: u64) -> String {
    let file = args.scenario.as_deref().and_then(Path::file_name);
    file.map_or_else(|| format!("seed {seed}"), |name| name.to_string_lossy().into_owned())
}

/// Draws the run where `--trace` says; says whether the drawing is there.
fn write_trace(args: &Args, recorder: Option<&Recorder>, heading: &Heading<'_>) -> bool {
    let (Some(file), Some(recorder)) = (&args.trace, recorder) else { return true };
    let written = std::fs::write(file, recorder.page(heading));
    match &written {
        Ok(()) => eprintln!("drawn: {} (open it in a browser)", file.display()),
        Err(error) => eprintln!("--trace {}: the drawing can't be written there: {error}", file.display()),
    }
    written.is_ok()
}

/// Writes the smallest world that fails like this one. A world that does not fail has none.
fn make_small(args: &Args, recipe: &Recipe) -> bool {
    let (began, mut last) = (Instant::now(), Instant::now());
    let mut progress = |runs: u32, best: &Recipe, broken: &vopr::shrink::Broken| {
        if last.elapsed() >= Duration::from_secs(2) {
            last = Instant::now();
            let (drawn, troubles, sights) = (best.drawn(), broken.troubles.len(), broken.sights);
            let (replicas, users, calls) = (drawn.replicas(), drawn.work.users, drawn.work.operations);
            let (most, seconds) = (Limits::USUAL.runs, began.elapsed().as_secs());
            eprintln!(
                "run {runs} of at most {most}, {seconds} s: {replicas} replicas, {users} users, {calls} calls, {} knobs \
                 off, {troubles} troubles, {sights} things to see",
                best.off.len()
            );
        }
    };
    let Some(shrunk) = shrink(recipe, Limits::USUAL, &mut judge, &mut progress) else {
        eprintln!("{} breaks no promise in this build: there is nothing to shrink", args.replay(recipe.seed));
        return false;
    };
    let file = args.out.clone().unwrap_or_else(|| format!("seed-{}.txt", recipe.seed).into());
    let text = shrunk.file(&args.replay(recipe.seed));
    if let Err(error) = std::fs::write(&file, &text) {
        eprintln!("{}: the world can't be written there: {error}", file.display());
        say(&text);
        return false;
    }
    let end =
        if shrunk.finished { "everything was tried" } else { "the limit was reached, more may be possible" };
    say(&format!(
        "{text}\n{} runs in {} s ({end}): {} things to see became {}, {} troubles {}\nwritten: {}\n  replay: cargo run -p \
         vopr -- --scenario {}\n",
        shrunk.runs,
        began.elapsed().as_secs(),
        shrunk.before.sights,
        shrunk.after.sights,
        shrunk.before.troubles.len(),
        shrunk.after.troubles.len(),
        file.display(),
        file.display()
    ));
    true
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

/// The world of a file: a script, or a recipe that `--shrink` wrote.
fn from_file(args: &Args, file: &Path) -> bool {
    let refuse = |why: String| -> ! {
        let complaint = format!("{}: {why}", file.display());
        Args::command().error(clap::error::ErrorKind::InvalidValue, complaint).exit()
    };
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| refuse(error.to_string()));
    if Recipe::is_recipe(&text) {
        return one(args, &Recipe::parse(&text).unwrap_or_else(|why| refuse(why)));
    }
    if args.shrink {
        refuse("--shrink takes a world apart that a seed drew; this one is a script".to_owned());
    }
    scripted(args, &text).unwrap_or_else(|why| refuse(why))
}

/// A scripted world: prints what really happened, and passes when that is what the file says.
fn scripted(args: &Args, text: &str) -> Result<bool, String> {
    let (replicas, edges) = (asked_for(text, "replicas=", 3), asked_for(text, "edges=", 1));
    let recorder = args.trace.is_some().then(|| Recorder::new(replicas, edges));
    let mut listener = |seen: &_| {
        if let Some(recorder) = &recorder {
            recorder.hear(seen);
        }
    };
    let played = play_scenario(text, &mut listener, recorder.as_ref().map(Recorder::watch))?;
    let failure = played.verdict.as_ref().err().map(|violation| Failure {
        checker: violation.checker.into(),
        what: violation.what.clone(),
        events: Vec::new(),
    });
    let (title, command) = (title_of(args, 0), args.replay(0));
    let heading = Heading { title: &title, command: &command, replicas, edges, failure: failure.as_ref() };
    let drawn = write_trace(args, recorder.as_ref(), &heading);
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
    Ok(same && drawn && played.verdict.is_ok())
}

/// Writes to standard output. Whoever reads may have heard enough (`| head`): that is no failure of the run.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
