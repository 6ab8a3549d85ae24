//! Chores of the repository: `cargo xtask COMMAND`.
#![forbid(unsafe_code)]

mod bugs;
mod errors;
mod hazards;
mod mutants;
mod nest;
mod processes;
mod purity;
mod repository;
mod tidy;

use std::process::{Command, ExitCode};

use repository::{Outcome, root};

const HELP: &str = "\
cargo xtask COMMAND

  bugs     plants each bug of vopr/bugs, one at a time, and lets the swarm find it
  ci       runs .ci/run, the gate of every change; `ci fast` is its quick part
  errors   writes docs/errors.md from the registry; with --check only compares
  faults   kills, stops, cuts off and damages real processes on loopback, and prints one table; `faults --help` says more
  growth   says millions of messages to a shard of processes and prints how cost grows; `growth --help` says more
  hazards  checks that every test and every bug that docs/hazards.md names exists
  mutants  makes small mistakes in core/src/vsr or store, one at a time, and looks whether tests or swarm notice
  purity   checks that core cannot reach a clock, a socket, a thread or the operating system
  tidy     checks lengths, leftovers, silenced lints and traces of one machine";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    match command.as_deref() {
        Some("bugs") => return bugs::run(arguments),
        Some("mutants") => return mutants::run(arguments),
        _ => {}
    }
    let arguments: Vec<String> = arguments.collect();
    let outcome = match command.as_deref() {
        Some("ci") => ci(&arguments),
        Some("errors") => errors::run(&arguments),
        Some(test @ ("faults" | "growth")) => processes::run(test, &arguments),
        Some("hazards") => hazards::run(&arguments),
        Some("purity") => purity::run(&arguments),
        Some("tidy") => tidy::run(&arguments),
        Some("--help" | "-h") | None => {
            println!("{HELP}");
            Ok(true)
        }
        Some(other) => Err(format!("unknown command {other}\n\n{HELP}").into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(2)
        }
    }
}

fn ci(arguments: &[String]) -> Outcome<bool> {
    Ok(Command::new("bash").arg(".ci/run").args(arguments).current_dir(root()).status()?.success())
}
