//! Many seeds on many threads.
//!
//! The one law: **the report is a function of the seeds that ran.** Threads take seeds in ascending order from one
//! counter; whatever order they finish in, results are put in the order of their seeds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::boundaries::Boundaries;
use crate::coverage::Coverage;
use crate::marks::Reached;
use crate::stats::Stats;

/// What one seed came to.
#[derive(Clone, Debug, Default)]
pub struct SeedResult {
    pub seed: u64,
    pub stats: Stats,
    pub coverage: Coverage,
    pub boundaries: Boundaries,
    pub marks: Reached,
    /// How long each view change took, in virtual time.
    pub view_changes: Vec<Duration>,
    /// CPU time, where the machine tells it.
    pub cpu: Option<Duration>,
    pub failure: Option<Failure>,
}

/// A promise that a seed broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The checker that noticed; `panic` and `determinism` are checkers too.
    pub checker: String,
    /// In one sentence.
    pub what: String,
    /// The last events before it.
    pub events: Vec<String>,
}

/// Which seeds to run, and when to stop.
#[derive(Clone, Debug)]
pub struct Orders {
    pub seeds: Range<u64>,
    pub jobs: usize,
    /// Start no seed after this.
    pub until: Option<Instant>,
    pub stop_at_first: bool,
}

/// Failures that are kept in full: those of the lowest seeds.
pub const FAILURES_TOLD: usize = 100;
/// Failing seeds that are kept by number.
pub const FAILURES_LISTED: usize = 10_000;

/// What a swarm came to.
#[derive(Clone, Debug, Default)]
pub struct Harvest {
    /// Of each seed that ran, in the order of the seeds.
    pub runs: Vec<Stats>,
    /// What each of them cost, where the machine tells it.
    pub cpus: Vec<Option<Duration>>,
    /// How long each view change took, in virtual time.
    pub view_changes: Vec<Duration>,
    pub coverage: Coverage,
    pub boundaries: Boundaries,
    pub marks: Reached,
    pub cpu: Option<Duration>,
    /// How many seeds failed.
    pub failed: u64,
    /// The failures of the lowest seeds, in full.
    pub failures: BTreeMap<u64, Failure>,
    /// The lowest failing seeds and their checkers.
    pub listed: BTreeMap<u64, String>,
}

/// Runs the seeds. `progress` hears of each as it finishes, and at least every tenth of a second.
pub fn run(
    orders: &Orders,
    one: &(dyn Fn(u64) -> SeedResult + Sync),
    mut progress: impl FnMut(&Harvest, Option<&SeedResult>),
) -> Harvest {
    let next = AtomicU64::new(orders.seeds.start);
    let enough = AtomicBool::new(false);
    let (finished, results) = mpsc::sync_channel(orders.jobs);
    let mut harvest = Harvest { cpu: Some(Duration::ZERO), ..Harvest::default() };
    let mut by_seed = BTreeMap::new();
    thread::scope(|scope| {
        for _ in 0..orders.jobs {
            let (next, enough, finished) = (&next, &enough, finished.clone());
            scope.spawn(move || {
                while let Some(seed) = take(orders, next, enough) {
                    let result = one(seed);
                    if orders.stop_at_first && result.failure.is_some() {
                        enough.store(true, Ordering::Relaxed);
                    }
                    // The other end lives as long as the scope.
                    if finished.send(result).is_err() {
                        return;
                    }
                }
            });
        }
        drop(finished);
        loop {
            match results.recv_timeout(Duration::from_millis(100)) {
                Ok(mut result) => {
                    let changes = std::mem::take(&mut result.view_changes);
                    by_seed.insert(result.seed, (result.stats, result.cpu, changes));
                    harvest.add(&result);
                    progress(&harvest, Some(&result));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => progress(&harvest, None),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    for (stats, cpu, changes) in by_seed.into_values() {
        harvest.runs.push(stats);
        harvest.cpus.push(cpu);
        harvest.view_changes.extend(changes);
    }
    if orders.stop_at_first {
        harvest.keep_first();
    }
    harvest
}

/// The next seed, unless it was enough.
fn take(orders: &Orders, next: &AtomicU64, enough: &AtomicBool) -> Option<u64> {
    if enough.load(Ordering::Relaxed) || orders.until.is_some_and(|until| Instant::now() >= until) {
        return None;
    }
    let seed = next.fetch_add(1, Ordering::Relaxed);
    orders.seeds.contains(&seed).then_some(seed)
}

impl Harvest {
    /// Each run with its CPU time, as far as that is known.
    pub fn costs(&self) -> impl Iterator<Item = (&Stats, Duration)> {
        self.runs.iter().zip(&self.cpus).filter_map(|(run, cpu)| Some((run, (*cpu)?)))
    }

    fn add(&mut self, result: &SeedResult) {
        self.coverage.merge(&result.coverage);
        self.boundaries.merge(&result.boundaries);
        self.marks.merge(&result.marks);
        self.cpu = self.cpu.zip(result.cpu).map(|(sum, more)| sum + more);
        let Some(failure) = &result.failure else { return };
        self.failed += 1;
        self.failures.insert(result.seed, failure.clone());
        self.listed.insert(result.seed, failure.checker.clone());
        // The lowest stay, so that the report does not depend on who finished first.
        if self.failures.len() > FAILURES_TOLD {
            self.failures.pop_last();
        }
        if self.listed.len() > FAILURES_LISTED {
            self.listed.pop_last();
        }
    }

    /// Seeds are taken in order, so that of several failures the lowest is the first, on any number of threads.
    fn keep_first(&mut self) {
        let first = self.failures.pop_first();
        self.failed = u64::from(first.is_some());
        self.listed = first.iter().map(|(seed, failure)| (*seed, failure.checker.clone())).collect();
        self.failures = first.into_iter().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(seeds: Range<u64>, jobs: usize) -> Orders {
        Orders { seeds, jobs, until: None, stop_at_first: false }
    }

    /// A world in which each seed that 7 divides fails, and high seeds finish first.
    fn sevens(seed: u64) -> SeedResult {
        thread::sleep(Duration::from_micros(200_u64.saturating_sub(seed * 2)));
        let failure = Failure { checker: "sevens".into(), what: format!("{seed} fails"), events: Vec::new() };
        let stats = Stats { operations: seed, ..Stats::default() };
        let failure = seed.is_multiple_of(7).then_some(failure);
        let view_changes = vec![Duration::from_millis(seed)];
        SeedResult { seed, stats, failure, view_changes, ..SeedResult::default() }
    }

    #[test]
    fn results_are_in_the_order_of_their_seeds_on_any_number_of_threads() {
        let alone = run(&orders(10..60, 1), &sevens, |_, _| {});
        let together = run(&orders(10..60, 8), &sevens, |_, _| {});
        assert_eq!(alone.runs, together.runs);
        assert_eq!(alone.failures, together.failures);
        assert_eq!(alone.view_changes, together.view_changes);
        assert_eq!(alone.runs.len(), 50);
        assert_eq!(alone.listed.into_keys().collect::<Vec<_>>(), [14, 21, 28, 35, 42, 49, 56]);
    }

    #[test]
    fn a_swarm_goes_on_after_a_failure_unless_told_to_stop() {
        let mut orders = orders(1..500, 4);
        assert_eq!(run(&orders, &sevens, |_, _| {}).failed, 71);
        orders.stop_at_first = true;
        let stopped = run(&orders, &sevens, |_, _| {});
        assert_eq!(stopped.failures.into_keys().collect::<Vec<_>>(), [7]);
        assert!(stopped.runs.len() < 100, "{} seeds ran", stopped.runs.len());
    }

    #[test]
    fn no_seed_begins_after_the_time_is_up() {
        let mut orders = orders(0..u64::MAX, 2);
        orders.until = Some(Instant::now() + Duration::from_millis(30));
        let harvest = run(&orders, &sevens, |_, _| {});
        assert!(!harvest.runs.is_empty());
    }

    #[test]
    fn of_very_many_failures_the_lowest_are_kept() {
        let all = |seed| SeedResult { seed: seed * 7, ..sevens(seed * 7) };
        let harvest = run(&orders(0..300, 3), &all, |_, _| {});
        assert_eq!(harvest.failed, 300);
        assert_eq!(harvest.failures.len(), FAILURES_TOLD);
        assert_eq!(harvest.failures.into_keys().next_back(), Some(99 * 7));
    }
}
