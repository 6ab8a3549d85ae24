//! What a swarm came to, told to a person or to a machine.

use std::fmt::{self, Write as _};
use std::time::Duration;

use io_sim::Plan;
use serde::Serialize;

use crate::args::Args;
use crate::boundaries::Boundaries;
use crate::coverage::Coverage;
use crate::distribution::Distribution;
use crate::marks::Reached;
use crate::stats::{Floors, Stats, Work};
use crate::swarm::{Failure, Harvest};

/// Failures that a person is told in full; the others by seed.
const TOLD: usize = 10;
/// Seeds are judged by their median from this many on: one seed may well draw a calm world.
const JUDGED_FROM: usize = 20;

/// Everything to tell.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub seeds: usize,
    pub start: u64,
    pub plan: String,
    pub failed: u64,
    pub failures: Vec<Told>,
    /// What the median seed did too little of.
    pub below: Vec<String>,
    pub work: Work,
    pub coverage: Coverage,
    pub boundaries: Boundaries,
    pub marks: Reached,
    /// What of these three tables was never met, or was against what is listed. A swarm of so many seeds fails by it.
    pub missed: Vec<String>,
    /// From the first replica that leaves a view until the next view has a log, in virtual milliseconds.
    pub view_change_ms: Distribution,
    /// What seeds cost.
    pub cpu_ms: Distribution,
    pub cpu_ns_per_event: Distribution,
    pub excused: Excused,
    pub virtual_seconds: u64,
    pub seconds: f64,
    pub seeds_per_second: f64,
    pub cpu_ms_per_seed: Option<f64>,
}

/// One failure.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    pub seed: u64,
    pub checker: String,
    pub what: String,
    pub events: Vec<String>,
    pub replay: String,
}

impl Report {
    #[expect(clippy::cast_precision_loss, reason = "rates for a person; no seed depends on them")]
    #[must_use]
    pub fn new(args: &Args, harvest: &Harvest, floors: Floors, elapsed: Duration) -> Self {
        let seeds = harvest.runs.len();
        let work = Work::of(&harvest.runs);
        let excused = Excused::of(harvest);
        let mut below = work.below(floors);
        below.extend(excused.too_many().then(|| excused.to_string()));
        let seconds = elapsed.as_secs_f64();
        let cpu = harvest.cpu.filter(|_| seeds > 0);
        // Other plans draw only a part of all trouble.
        let judged = args.plan == Plan::SWARM.name;
        Self {
            seeds,
            start: args.seed.unwrap_or(args.start),
            plan: args.plan.clone(),
            failed: harvest.failed,
            failures: told(args, harvest),
            below: if seeds < JUDGED_FROM { Vec::new() } else { below },
            work,
            coverage: harvest.coverage.clone(),
            boundaries: harvest.boundaries.clone(),
            marks: harvest.marks.clone(),
            missed: if judged { missed(harvest) } else { Vec::new() },
            view_change_ms: Distribution::of(harvest.view_changes.iter().map(milliseconds)),
            cpu_ms: Distribution::of(harvest.costs().map(|(_, cpu)| milliseconds(&cpu))),
            cpu_ns_per_event: Distribution::of(harvest.costs().map(per_event)),
            excused,
            virtual_seconds: harvest.runs.iter().map(|run| run.virtual_time.as_secs()).sum(),
            seconds,
            seeds_per_second: seeds as f64 / seconds.max(0.001),
            cpu_ms_per_seed: cpu.map(|cpu| cpu.as_secs_f64() * 1000.0 / seeds as f64),
        }
    }

    /// Whether every promise held and enough was done.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failed == 0 && self.below.is_empty() && self.missed.is_empty()
    }

    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report holds nothing that JSON can't say")
    }
}

/// What was never met, of all that is listed.
fn missed(harvest: &Harvest) -> Vec<String> {
    let seeds = harvest.runs.len();
    let mut missed = harvest.coverage.missing(seeds);
    missed.extend(harvest.boundaries.missing(seeds));
    missed.extend(harvest.marks.missing(seeds));
    missed
}

fn milliseconds(duration: &Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn per_event((run, cpu): (&Stats, Duration)) -> u64 {
    u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX) / run.events.max(1)
}

/// Seeds that passed although not all of their work was done after the healing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Excused {
    pub seeds: u64,
    pub of: u64,
    /// In hundredths of a percent.
    pub share: u64,
}

impl Excused {
    /// A failed seed needs no excuse, and its run may have been stopped before the healing.
    fn of(harvest: &Harvest) -> Self {
        let unquiet = harvest.runs.iter().filter(|run| !run.quiet).count() as u64;
        let (seeds, of) = (unquiet.saturating_sub(harvest.failed), harvest.runs.len() as u64);
        Self { seeds, of, share: seeds * 10_000 / of.max(1) }
    }

    /// Two percent: beyond, a swarm proves too little of liveness.
    fn too_many(&self) -> bool {
        self.share >= 200
    }
}

impl fmt::Display for Excused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self { seeds, of, share }, why) =
            (self, "no rule excuses one: damage is drawn so that a quorum is left");
        write!(
            f,
            "excused from liveness: {seeds} of {of} seeds ({}.{} %); {why}",
            share / 100,
            share % 100 / 10
        )
    }
}

fn told(args: &Args, harvest: &Harvest) -> Vec<Told> {
    let tell = |seed: u64, checker: &String, failure: Option<&Failure>| Told {
        seed,
        checker: checker.clone(),
        what: failure.map(|failure| failure.what.clone()).unwrap_or_default(),
        events: failure.map(|failure| failure.events.clone()).unwrap_or_default(),
        replay: args.replay(seed),
    };
    harvest.listed.iter().map(|(seed, checker)| tell(*seed, checker, harvest.failures.get(seed))).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in self.failures.iter().take(TOLD) {
            write!(f, "{failure}")?;
        }
        writeln!(f, "{} seeds from {} on, plan {}", self.seeds, self.start, self.plan)?;
        writeln!(f, "\nper seed            least      median        most")?;
        let rows = [
            ("operations", self.work.operations),
            ("crashes", self.work.crashes),
            ("view changes", self.work.view_changes),
            ("damaged sectors", self.work.damaged),
            ("repaired sectors", self.work.repaired),
            ("failed disk ops", self.work.disk_errors),
            ("events", self.work.events),
        ];
        for (name, spread) in rows {
            writeln!(f, "{name:<13}{:>12}{:>12}{:>12}", spread.least, spread.median, spread.most)?;
        }
        if !self.coverage.is_empty() {
            write!(f, "\n{}", self.coverage)?;
        }
        if !self.boundaries.is_empty() {
            write!(f, "\n{}", self.boundaries)?;
        }
        write!(f, "\n{}", self.view_change_ms.told("view changes, virtual ms"))?;
        write!(f, "\n{}", self.cpu_ms.told("CPU of a seed, ms"))?;
        write!(f, "\n{}", self.cpu_ns_per_event.told("CPU of an event, ns"))?;
        writeln!(f, "\n{}", self.excused)?;
        if !self.marks.is_empty() {
            write!(f, "\n{}", self.marks)?;
        }
        let cpu = self.cpu_ms_per_seed.map_or(String::new(), |ms| format!(", {ms:.1} ms of CPU each"));
        let minutes = self.virtual_seconds / 60;
        writeln!(
            f,
            "\n{:.1} s, {:.1} seeds/s{cpu}, {minutes} virtual minutes",
            self.seconds, self.seeds_per_second
        )?;
        for complaint in &self.below {
            writeln!(f, "TOO LITTLE: {complaint}")?;
        }
        for cell in &self.missed {
            writeln!(f, "NEVER MET: {cell}")?;
        }
        match self.failed {
            0 if self.passed() => writeln!(f, "every promise held"),
            0 => Ok(()),
            failed => writeln!(f, "FAILED: {failed} of {} seeds: {}", self.seeds, self.failed_seeds()),
        }
    }
}

impl Report {
    /// Failing seeds by checker, for the last line.
    fn failed_seeds(&self) -> String {
        let mut list = String::new();
        for failure in self.failures.iter().take(TOLD * TOLD) {
            let comma = if list.is_empty() { "" } else { ", " };
            // Writing to a string can't fail.
            let _ = write!(list, "{comma}{} ({})", failure.seed, failure.checker);
        }
        if self.failures.len() > TOLD * TOLD {
            list.push_str(", ...");
        }
        list
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} broke {}: {}", self.seed, self.checker, self.what)?;
        for event in &self.events {
            writeln!(f, "    {event}")?;
        }
        writeln!(f, "  replay: {}", self.replay)?;
        writeln!(f, "  trace:  {} --trace seed-{}.html", self.replay, self.seed)?;
        writeln!(f, "  shrink: {} --shrink\n", self.replay)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tigerchat_core::vsr::marks::{Mark, Marks};
    use tigerchat_core::wire::frame::Command;

    use super::*;
    use crate::{coverage, marks};

    fn report(failing: &[u64], stats: Stats) -> Report {
        let args = Args::parse_from(["vopr", "--start", "4"]);
        let mut harvest = Harvest { runs: vec![stats; JUDGED_FROM], cpu: None, ..Harvest::default() };
        for seed in failing {
            let (checker, what) = ("agreement".to_owned(), "two logs".to_owned());
            let events = vec!["1.5 s  replica 1 crashed".to_owned()];
            harvest.failures.insert(*seed, Failure { checker: checker.clone(), what, events });
            harvest.listed.insert(*seed, checker);
            harvest.failed += 1;
        }
        Report::new(&args, &harvest, Floors::SWARM, Duration::from_secs(2))
    }

    const BUSY: Stats = Stats {
        operations: 600,
        crashes: 3,
        view_changes: 4,
        damaged: 4,
        repaired: 3,
        disk_errors: 5,
        events: 9,
        virtual_time: Duration::from_secs(30),
        quiet: true,
    };

    #[test]
    fn a_failure_is_told_with_its_events_and_the_command_that_replays_it() {
        let report = report(&[17], BUSY);
        let told = report.to_string();
        assert!(told.contains("seed 17 broke agreement: two logs\n    1.5 s  replica 1 crashed\n"), "{told}");
        assert!(told.contains("  replay: cargo run -p vopr -- --seed 17\n"), "{told}");
        assert!(told.contains("  trace:  cargo run -p vopr -- --seed 17 --trace seed-17.html\n"), "{told}");
        assert!(told.contains("  shrink: cargo run -p vopr -- --seed 17 --shrink\n"), "{told}");
        assert!(told.ends_with("FAILED: 1 of 20 seeds: 17 (agreement)\n"), "{told}");
        assert!(!report.passed());
    }

    #[test]
    fn a_swarm_that_did_too_little_fails_and_says_so() {
        let report = report(&[], Stats { view_changes: 1, ..BUSY });
        assert!(!report.passed());
        assert!(report.to_string().contains("TOO LITTLE: the median seed has 1 view changes, not 2"));
    }

    #[test]
    fn runs_that_never_became_quiet_need_an_excuse_and_too_many_fail_a_swarm() {
        let args = Args::parse_from(["vopr"]);
        let swarm = |unquiet: usize, failed| {
            let mut runs = vec![BUSY; 100];
            runs[..unquiet].iter_mut().for_each(|run| run.quiet = false);
            let harvest = Harvest { runs, failed, ..Harvest::default() };
            Report::new(&args, &harvest, Floors::SWARM, Duration::from_secs(2))
        };
        assert!(swarm(1, 0).passed());
        assert!(!swarm(2, 0).passed());
        assert!(swarm(2, 0).to_string().contains("excused from liveness: 2 of 100 seeds (2.0 %)"));
        assert_eq!(swarm(2, 2).excused.seeds, 0, "they failed");
    }

    #[test]
    fn distributions_are_told_and_in_the_json() {
        let args = Args::parse_from(["vopr"]);
        let harvest = Harvest {
            runs: vec![BUSY; 2],
            cpus: vec![Some(Duration::from_millis(18)), None],
            view_changes: [150, 160, 900].map(Duration::from_millis).to_vec(),
            ..Harvest::default()
        };
        let report = Report::new(&args, &harvest, Floors::SWARM, Duration::from_secs(2));
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["view_change_ms"]["median"], 160);
        assert_eq!(json["cpu_ms"]["most"], 18);
        assert_eq!(json["cpu_ns_per_event"]["median"], 2_000_000, "nine events");
        assert!(report.to_string().contains("view changes, virtual ms: 3 values, median 160, p90 900"));
    }

    #[test]
    fn a_cell_that_was_never_met_fails_a_swarm_and_is_named() {
        let args = Args::parse_from(["vopr"]);
        let swarm = |seeds: usize, change: Change| {
            let mut harvest = Harvest { runs: vec![BUSY; seeds], ..everything() };
            change(&mut harvest);
            Report::new(&args, &harvest, Floors::SWARM, Duration::from_secs(2))
        };
        assert!(swarm(1_000, |_| {}).passed());
        let lacks: [(Change, &str); 3] = [
            (|harvest| harvest.coverage = Coverage::default(), "NEVER MET: ping was never sent\n"),
            (|harvest| harvest.boundaries = Boundaries::default(), "NEVER MET: no crash before"),
            (|harvest| harvest.marks = Reached::default(), "NEVER MET: never reached: recovery: a slot"),
        ];
        for (change, sentence) in lacks {
            let lacking = swarm(1_000, change);
            assert!(!lacking.passed());
            assert!(lacking.to_string().contains(sentence), "{lacking}");
            assert!(swarm(999, change).passed());
        }
    }

    type Change = fn(&mut Harvest);

    /// The tables of a swarm that met all that is listed.
    fn everything() -> Harvest {
        let mut harvest = Harvest::default();
        let never = |command: &Command| coverage::NEVER_SENT.iter().any(|(never, _)| never == command);
        for command in Command::ALL.into_iter().filter(|command| !never(command)) {
            harvest.coverage.add(&coverage::name_of(command), [1; coverage::FATES.len()]);
        }
        harvest.boundaries =
            Boundaries::new(io_sim::aim::pairs().into_iter().map(|pair| (pair, 1)).collect());
        let unreachable = |mark: &Mark| marks::UNREACHABLE.iter().any(|(unreachable, _)| unreachable == mark);
        let mut reached = Marks::default();
        Mark::ALL.iter().filter(|mark| !unreachable(mark)).for_each(|mark| reached.set(*mark));
        harvest.marks = Reached::by_one(reached);
        harvest
    }

    #[test]
    fn a_swarm_without_failures_passes_as_text_and_as_json() {
        let report = report(&[], BUSY);
        assert!(report.passed());
        assert!(report.to_string().ends_with("every promise held\n"));
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["work"]["operations"]["median"], 600);
        assert_eq!(json["failed"], 0);
    }
}
