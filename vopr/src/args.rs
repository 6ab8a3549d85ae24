//! What a person may ask of the swarm.

use std::path::PathBuf;

use clap::Parser;

const EXAMPLES: &str = "\
Examples:
  vopr                                 a thousand worlds on all cores
  vopr --seeds 30000                   the nightly gate
  vopr --minutes 10 --stop-at-first    as many worlds as ten minutes hold, up to the first failure
  vopr --seed 4711                     one world, told event by event
  vopr --seed 4711 --trace run.html    the same as a drawing, for a browser
  vopr --seed 4711 --shrink            the smallest world that fails like it
  vopr --seeds 50 --check-determinism  each world twice: both runs must be the same, bit for bit
  vopr --scenario scenarios/normal-commit.txt
  vopr --seeds 1000 --json > swarm.json
  vopr --seeds 1000 --junit swarm.xml

Plans:
  swarm     everything, each with its chance: the gate, and the only plan with floors and coverage
  safety    crashes, aimed faults, power cuts and damaged disks in every world; all is healed at the end
  liveness  partitions, bad links and pauses in every world; a minority stays broken at the end
  storage   crashes, power cuts, slow and damaged disks; the network is sound
  network   frames, partitions, links, pauses; no process ends
  edge      edges end, connections of users break, some users send garbage
  calm      nothing goes wrong

A seed is a world: a cluster, users, faults, and everything that happens. The same seed of the same build gives
the same history on every machine, so a failure is replayed by its number alone.

Exit code: 0 all promises held, 1 one was broken (or the worlds did too little), 2 bad arguments.";

/// Runs TigerChat in simulated worlds in which nearly everything breaks, and checks every promise in each.
#[derive(Clone, Debug, Parser)]
#[command(name = "vopr", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Args {
    /// How many worlds to run [default: 1000; with --minutes: as many as fit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: Option<u64>,

    /// The first seed
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub start: u64,

    /// Run this one world and tell what happens in it
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "start", "minutes", "jobs"])]
    pub seed: Option<u64>,

    /// Run the world of this file: a script, or what --shrink wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "start", "seed", "minutes", "jobs", "plan"])]
    pub scenario: Option<PathBuf>,

    /// Draw the run as one page that any browser shows, and tell no events
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "start", "minutes", "jobs", "shrink"])]
    pub trace: Option<PathBuf>,

    /// Take faults, work and processes from the failing world of --seed or --scenario while it still breaks the same
    /// promise, and write the smallest (at most 3,000 runs, 5 minutes)
    #[arg(long, conflicts_with_all = ["seeds", "start", "minutes", "jobs", "check_determinism", "json"])]
    pub shrink: bool,

    /// Where --shrink writes [default: seed-S.txt]
    #[arg(long, value_name = "FILE", requires = "shrink")]
    pub out: Option<PathBuf>,

    /// Worlds at a time [default: one for each core]
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,

    /// Start no further world after this many minutes
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub minutes: Option<u64>,

    /// Which kinds of faults and work the worlds draw from: see the plans below
    #[arg(long, value_name = "NAME", default_value = "swarm")]
    pub plan: String,

    /// Run each world twice and compare the digests of all events
    #[arg(long)]
    pub check_determinism: bool,

    /// Start no further world after the first failure
    #[arg(long)]
    pub stop_at_first: bool,

    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,

    /// Write the report as JUnit XML too: a test case for each failing seed, one for the work that the median seed
    /// did, one for coverage
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    pub junit: Option<PathBuf>,
}

/// Worlds of a swarm unless told otherwise.
pub const SEEDS: u64 = 1000;

impl Args {
    /// The seeds to run: from the first up to (not including) the last.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        let many = self.seeds.unwrap_or(if self.minutes.is_some() { u64::MAX } else { SEEDS });
        self.start..self.start.saturating_add(many)
    }

    /// The command that runs one seed of this swarm again.
    #[must_use]
    pub fn replay(&self, seed: u64) -> String {
        if let Some(file) = &self.scenario {
            return format!("cargo run -p vopr -- --scenario {}", file.display());
        }
        let mut command = format!("cargo run -p vopr -- --seed {seed}");
        if self.plan != "swarm" {
            command.push_str(" --plan ");
            command.push_str(&self.plan);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_swarm_is_a_thousand_seeds_unless_told_otherwise() {
        assert_eq!(parse("vopr").unwrap().range(), 0..1000);
        assert_eq!(parse("vopr --seeds 5 --start 7").unwrap().range(), 7..12);
        assert_eq!(parse("vopr --minutes 3").unwrap().range(), 0..u64::MAX);
        assert_eq!(parse("vopr --minutes 3 --seeds 9").unwrap().range(), 0..9);
    }

    #[test]
    fn every_plan_is_described() {
        let named =
            |line: &&str| io_sim::Plan::ALL.iter().any(|plan| line.starts_with(&format!("  {} ", plan.name)));
        assert_eq!(EXAMPLES.lines().filter(named).count(), io_sim::Plan::ALL.len());
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "vopr --seeds 0",
            "vopr --seed 1 --seeds 2",
            "vopr --out x",
            "vopr --seeds 2 --trace x",
            "vopr --jobs 0",
            "vopr --seeds many",
            "vopr 7",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_replay_names_the_plan_when_it_is_not_the_usual_one() {
        assert_eq!(parse("vopr").unwrap().replay(3), "cargo run -p vopr -- --seed 3");
        let calm = parse("vopr --plan calm").unwrap();
        assert_eq!(calm.replay(3), "cargo run -p vopr -- --seed 3 --plan calm");
    }
}
