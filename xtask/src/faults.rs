//! Faults against real processes, in their full form: `io-real/tests/faults` on a release build.

use std::process::Command;

use crate::repository::{Outcome, root};

pub(crate) fn run(arguments: &[String]) -> Outcome<bool> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "test",
        "--quiet",
        "--release",
        "--package",
        "io-real",
        "--test",
        "faults",
        "--",
        "--full",
    ]);
    Ok(command.args(arguments).current_dir(root()).status()?.success())
}
