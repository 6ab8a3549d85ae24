//! Tests of real processes in their full form, on a release build: `io-real/tests/{faults,growth}`.

use std::process::Command;

use crate::repository::{Outcome, root};

pub(crate) fn run(test: &str, arguments: &[String]) -> Outcome<bool> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--quiet", "--release", "--package", "io-real", "--test", test, "--", "--full"]);
    // Where curves belong is this repository's affair.
    let with_folder = arguments.iter().flat_map(|argument| {
        let folder = (argument == "--plot").then(|| root().join("docs").into_os_string());
        [std::ffi::OsString::from(argument)].into_iter().chain(folder)
    });
    Ok(command.args(with_folder).current_dir(root()).status()?.success())
}
