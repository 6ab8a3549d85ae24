//! Chores of the repository.
#![forbid(unsafe_code)]

mod bugs;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  bugs   plants each bug of vopr/bugs, one at a time, and lets the swarm find it";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("bugs") => bugs::run(arguments),
        Some("--help" | "-h") | None => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!("unknown command {other}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}
