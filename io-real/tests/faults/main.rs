//! Faults against real processes: three replicas and two edges on loopback, a publisher with a window in flight, a
//! subscriber on the other edge, and one fault after the other. At the end of each row every acknowledged message is
//! there once, in order, in the log of every replica, and the subscriber saw each exactly once (I03, I05, I16, I32).
//!
//! `cargo test` runs the short form, each fault once, and judges what is lost and doubled; `cargo xtask faults` runs
//! the full form on a release build and judges times as well.

#![allow(unreachable_pub, reason = "a binary: `pub` says what its other files may use")]

mod cluster;
#[path = "../house/port.rs"]
mod port;
mod proxy;
mod rows;
mod stage;
mod table;
mod traffic;

use std::process::ExitCode;

use rows::Row;

const HELP: &str = "\
cargo xtask faults [--json] [--rounds N] [NAME...]

  NAME      only the faults whose names contain one of these; --list shows them
  --json    JSON for scripts, one object
  --rounds  so many rounds of each fault, instead of the number that each has";

/// What is asked for. `cargo test` hands its own arguments to every test: the short form steps over those.
#[derive(Default)]
struct Arguments {
    full: bool,
    json: bool,
    list: bool,
    help: bool,
    rounds: Option<usize>,
    names: Vec<String>,
}

fn parse(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--full" => arguments.full = true,
            "--json" => arguments.json = true,
            "--list" => arguments.list = true,
            "--help" | "-h" => arguments.help = true,
            "--rounds" => {
                let rounds = given.next().and_then(|text| text.parse().ok()).filter(|rounds| *rounds > 0);
                arguments.rounds = Some(rounds.ok_or("expected a number of rounds above 0 after --rounds")?);
            }
            other if other.starts_with('-') && arguments.full => {
                return Err(format!("unknown option {other}\n\n{HELP}"));
            }
            other if other.starts_with('-') => {}
            name => arguments.names.push(name.into()),
        }
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("faults: {why}");
            return ExitCode::from(2);
        }
    };
    if arguments.help {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let chosen = |row: &Row| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| row.name.contains(name.as_str()))
    };
    let rows: Vec<Row> = rows::all().into_iter().filter(chosen).collect();
    if arguments.list {
        rows.iter().for_each(|row| println!("{}: test", row.name));
        return ExitCode::SUCCESS;
    }
    if rows.is_empty() && arguments.full {
        let names: Vec<&str> = rows::all().iter().map(|row| row.name).collect();
        eprintln!("faults: expected names of faults ({}), found {:?}", names.join(", "), arguments.names);
        return ExitCode::from(2);
    }
    let mut table = table::Table::new(arguments.full);
    for row in rows {
        let short = if row.bound.median.is_some() { 3 } else { 1 };
        let rounds = arguments.rounds.unwrap_or(if arguments.full { row.count } else { short });
        eprintln!("{}: {rounds} rounds", row.name);
        table.add(row, stage::play(&row, rounds));
    }
    table.print(arguments.json);
    if table.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
