//! One seed: a world, watched by all checkers, its panics caught.
//!
//! A seed that fails is run once more to tell what happened before: the many that pass then pay nothing for telling,
//! and a run that can't be repeated is itself a failure.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use io_sim::history::{Observation, Violation};
use io_sim::spectator::Tell;
use io_sim::{Plan, Recipe, RunReport, TENANT};
use tigerchat_core::wire::entry::Digest;
use tigerchat_core::wire::frame::Command;

use crate::boundaries::Boundaries;
use crate::checkers::view_change::Changes;
use crate::checkers::{Setup, Suite};
use crate::coverage::{Coverage, name_of};
use crate::marks::Reached;
use crate::stats::Stats;
use crate::swarm::{Failure, SeedResult};
use crate::tell::tell;

/// Events that a failure is told with.
const EVENTS: usize = 24;

/// Who hears what happens in a run, besides the checkers.
type Listener<'a> = dyn FnMut(&Observation) + 'a;

/// How one run ended.
#[derive(Debug)]
struct Attempt {
    report: RunReport,
    view_changes: Vec<Duration>,
    verdict: Result<(), Violation>,
}

/// Runs a seed: once, or twice when determinism is to be checked or a failure is to be told.
#[must_use]
pub fn run_seed(plan: &Plan, seed: u64, twice: bool) -> SeedResult {
    run_recipe(&Recipe::of(plan, seed), twice)
}

/// The same of a world that is described.
#[must_use]
pub fn run_recipe(recipe: &Recipe, twice: bool) -> SeedResult {
    let before = cpu_time();
    let first = attempt(recipe, &mut |_| {}, None);
    let mut result = SeedResult { seed: recipe.seed, ..SeedResult::default() };
    let first = match first {
        Ok(first) => first,
        Err(panic) => {
            result.failure = Some(tell_failure(recipe, "panic", &panic));
            return result;
        }
    };
    fill(&mut result, &first);
    result.cpu = before.zip(cpu_time()).map(|(before, after)| after.saturating_sub(before));
    if let Err(violation) = &first.verdict {
        result.failure = Some(tell_failure(recipe, violation.checker, &violation.what));
    } else if twice {
        let again = attempt(recipe, &mut |_| {}, None).map(|again| again.report.digest);
        if again.as_ref() != Ok(&first.report.digest) {
            let what = format!("one run ended as {:?}, the other as {again:?}", first.report.digest);
            result.failure = Some(Failure { checker: "determinism".into(), what, events: Vec::new() });
        }
    }
    result
}

/// Runs a world and tells everything that happens in it.
#[must_use]
pub fn tell_recipe(
    recipe: &Recipe,
    listener: &mut Listener<'_>,
    watch: Option<Tell<'_>>,
) -> (SeedResult, Option<Digest>) {
    let mut result = SeedResult { seed: recipe.seed, ..SeedResult::default() };
    let failure = |checker: &str, what| Failure { checker: checker.into(), what, events: Vec::new() };
    let attempt = match attempt(recipe, listener, watch) {
        Ok(attempt) => attempt,
        Err(panic) => {
            result.failure = Some(failure("panic", panic));
            return (result, None);
        }
    };
    fill(&mut result, &attempt);
    result.failure = attempt.verdict.err().map(|violation| failure(violation.checker, violation.what));
    (result, Some(attempt.report.digest))
}

/// One run under all checkers; the message of a panic when there was one.
fn attempt(recipe: &Recipe, listener: &mut Listener<'_>, watch: Option<Tell<'_>>) -> Result<Attempt, String> {
    let shape = recipe.drawn().shape;
    let setup = Setup { tenant: TENANT, room_messages: shape.room_messages, room_age_s: shape.room_age_s };
    // Nothing that the closure touches is looked at after a panic but what the listener keeps, which is text.
    catch(AssertUnwindSafe(|| {
        let mut suite = Suite::new(setup);
        let mut verdict = Ok(());
        let mut changes = Changes::default();
        let mut observer = |seen: &Observation| {
            listener(seen);
            changes.observe(seen);
            verdict = suite.observe(seen);
            if verdict.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let report = io_sim::run_recipe(recipe, &mut observer, watch);
        if verdict.is_ok() {
            verdict = suite.finish(report.end.as_ref()).and_then(|()| nothing_else(&report));
        }
        Attempt { report, view_changes: changes.took, verdict }
    }))
}

/// What became of a scripted world.
#[derive(Debug)]
pub struct Played {
    /// The scenario's text with what was really printed.
    pub transcript: String,
    /// The first promise that it broke.
    pub verdict: Result<(), Violation>,
}

/// Plays a scenario under all checkers. An error names the line that can't be obeyed, or tells of a panic.
pub fn play_scenario(
    text: &str,
    listener: &mut Listener<'_>,
    watch: Option<Tell<'_>>,
) -> Result<Played, String> {
    let setup = Setup { tenant: TENANT, room_messages: 0, room_age_s: 0 };
    catch(AssertUnwindSafe(|| {
        let mut suite = Suite::new(setup);
        let mut verdict = Ok(());
        // A script ends where it likes, so that nothing is asked of its end.
        let mut observer = |seen: &Observation| {
            listener(seen);
            if verdict.is_ok() {
                verdict = suite.observe(seen);
            }
        };
        let transcript = io_sim::scenario::play_before(text, &mut observer, watch)?;
        Ok(Played { transcript, verdict })
    }))?
}

/// How many of them the line `cluster replicas=N edges=N` asks for; the script itself is parsed by `io-sim`.
#[must_use]
pub fn asked_for(text: &str, what: &str, otherwise: usize) -> usize {
    let count = text.split_whitespace().find_map(|word| word.strip_prefix(what));
    count.and_then(|count| count.parse().ok()).unwrap_or(otherwise)
}

fn nothing_else(report: &RunReport) -> Result<(), Violation> {
    if let Some(harm) = &report.harm {
        return Err(Violation { checker: "outsider", what: harm.clone() });
    }
    match &report.leak {
        Some(leak) => Err(Violation { checker: "leak", what: leak.clone() }),
        None => Ok(()),
    }
}

/// Runs the seed again to hear what came before its failure.
fn tell_failure(recipe: &Recipe, checker: &str, what: &str) -> Failure {
    let mut last: VecDeque<Observation> = VecDeque::with_capacity(EVENTS + 1);
    let mut remember = |seen: &Observation| {
        last.push_back(seen.clone());
        if last.len() > EVENTS {
            last.pop_front();
        }
    };
    let again = attempt(recipe, &mut remember, None);
    let what_again = match again {
        Err(panic) => panic,
        Ok(again) => again.verdict.err().map_or("no failure".into(), |violation| violation.what),
    };
    let events = last.iter().map(tell).collect();
    if what_again != what {
        let what = format!("two runs of one seed differ: {what}; then: {what_again}");
        return Failure { checker: "determinism".into(), what, events };
    }
    Failure { checker: checker.into(), what: what.into(), events }
}

/// What is counted of a run, whatever its verdict.
fn fill(result: &mut SeedResult, attempt: &Attempt) {
    result.stats = stats(&attempt.report);
    result.coverage = coverage(&attempt.report);
    result.boundaries = Boundaries::new(attempt.report.struck.clone());
    result.marks = Reached::by_one(attempt.report.marks);
    result.view_changes.clone_from(&attempt.view_changes);
}

fn stats(report: &RunReport) -> Stats {
    Stats {
        operations: report.operations,
        crashes: report.crashes,
        view_changes: report.view_changes,
        damaged: report.disks.damaged,
        repaired: report.disks.repaired,
        disk_errors: report.disks.errors,
        events: report.events,
        virtual_time: report.virtual_time,
        quiet: report.end.is_some(),
    }
}

fn coverage(report: &RunReport) -> Coverage {
    let mut coverage = Coverage::default();
    for command in Command::ALL {
        let fates = report.frames.of(command);
        if fates.iter().any(|count| *count > 0) {
            coverage.add(&name_of(command), fates);
        }
    }
    coverage
}

thread_local! {
    /// The message of the last panic of this thread, while one is expected.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static CATCHING: RefCell<bool> = const { RefCell::new(false) };
}

/// Lets panics of the system under test be told like any other failure, instead of being printed at once.
/// Call it once, before the first seed.
pub fn catch_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !CATCHING.with_borrow(|catching| *catching) {
            return usual(info);
        }
        let payload = info.payload();
        let said = payload.downcast_ref::<&str>().map(|said| (*said).to_owned());
        let said = said.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
        PANIC.set(Some(format!("{said}{}", place.unwrap_or_default())));
    }));
}

fn catch<T>(run: impl FnOnce() -> T + panic::UnwindSafe) -> Result<T, String> {
    CATCHING.set(true);
    let result = panic::catch_unwind(run);
    CATCHING.set(false);
    result.map_err(|_| PANIC.take().unwrap_or_else(|| "a panic without a message".into()))
}

/// CPU time of this thread so far, where the machine tells it.
fn cpu_time() -> Option<Duration> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    told.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_with_its_message_and_its_place() {
        catch_panics();
        let said = catch(|| panic!("op {} on head {}", 7, 5)).unwrap_err();
        assert!(said.starts_with("op 7 on head 5 (vopr/src/run.rs:"), "{said}");
        assert_eq!(catch(|| 3), Ok(3));
    }
}
