//! `docs/hazards.md` names a test for each hazard: that test exists, in the file that is named, and so do the bugs.
//!
//! A row may say `not yet`, that a checker of the swarm is the test, or that a construction is. Otherwise it names tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::repository::{Outcome, files, root, verdict};

const TABLE: &str = "docs/hazards.md";

pub(crate) fn run(arguments: &[String]) -> Outcome<bool> {
    if !arguments.is_empty() {
        return Err("hazards takes no argument".into());
    }
    let root = root();
    let sources = Sources::of(&root)?;
    Ok(verdict("hazards", &judge(&fs::read_to_string(root.join(TABLE))?, &sources)))
}

/// What can be named.
#[derive(Debug, Default)]
struct Sources {
    /// (file, function) of each test; both are names as the table has them.
    tests: BTreeSet<(String, String)>,
    files: BTreeSet<String>,
    bugs: BTreeSet<String>,
}

impl Sources {
    fn of(root: &Path) -> Outcome<Self> {
        let mut sources = Self::default();
        for name in files(root)? {
            if let Some(bug) = name.strip_prefix("vopr/bugs/").and_then(|bug| bug.strip_suffix(".patch")) {
                sources.bugs.insert(bug.to_owned());
            }
            if name.ends_with(".rs") {
                let text = fs::read_to_string(root.join(&name))?;
                sources.tests.extend(tests(&text).map(|test| (name.clone(), test.to_owned())));
                sources.files.insert(name);
            }
        }
        Ok(sources)
    }
}

/// The functions that stand below `#[test]`, or below another attribute or a comment that stands below it. Tests of
/// proptest begin the same way.
fn tests(text: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    text.lines().map(str::trim).filter_map(move |line| {
        if line == "#[test]" {
            is_test = true;
            return None;
        }
        if !is_test || line.starts_with("#[") || line.starts_with("//") {
            return None;
        }
        is_test = false;
        let name = line.strip_prefix("fn ")?;
        Some(&name[..name.find('(')?])
    })
}

fn judge(table: &str, sources: &Sources) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut rows = BTreeSet::new();
    for (line, number) in table.lines().zip(1..).filter(|(line, _)| line.starts_with("| H")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if !rows.insert(cells[0]) {
            complaints.push(format!("{TABLE}:{number}: a second row of {}", cells[0]));
        }
        let [hazard, _, cited, planted] = cells.as_slice() else {
            complaints.push(format!("{TABLE}:{number}: expected four cells, found {}", cells.len()));
            continue;
        };
        let mut found = wrong_tests(cited, sources);
        let bugs = quoted(planted).filter(|bug| !sources.bugs.contains(*bug));
        found.extend(bugs.map(|bug| format!("there is no vopr/bugs/{bug}.patch")));
        let other = ["swarm (", "not yet", "by construction", "compile-time"];
        if quoted(cited).next().is_none() && !other.iter().any(|words| cited.contains(words)) {
            found.push("names no test".to_owned());
        }
        complaints.extend(found.into_iter().map(|what| format!("{TABLE}:{number}: {hazard}: {what}")));
    }
    if rows.is_empty() {
        complaints.push(format!("{TABLE}: expected rows that begin with `| H`, found none"));
    }
    complaints
}

/// What is wrong with the tests of a cell: names in backticks, divided by semicolons and commas, and behind one or more
/// of them the file in brackets.
fn wrong_tests(cell: &str, sources: &Sources) -> Vec<String> {
    let mut wrong = Vec::new();
    for group in cell.split(';') {
        let file = group.rsplit_once('(').and_then(|(_, file)| file.trim().strip_suffix(')'));
        let file = file.filter(|file| file.ends_with(".rs"));
        for name in quoted(group).filter(|name| !name.ends_with(".rs")) {
            match file {
                None => wrong.push(format!("expected `{name}` (FILE), found no file")),
                Some(file) if !sources.files.contains(file) => wrong.push(format!("there is no {file}")),
                Some(file) if !sources.tests.contains(&(file.to_owned(), name.to_owned())) => {
                    wrong.push(format!("there is no test {name} in {file}"));
                }
                Some(_) => {}
            }
        }
        // A path that is quoted stands for itself.
        let paths = quoted(group).filter(|path| path.ends_with(".rs") && !sources.files.contains(*path));
        wrong.extend(paths.map(|path| format!("there is no {path}")));
    }
    wrong
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(row: &str) -> Vec<String> {
        let text = "#[test]\n/// Why.\nfn h01_is_noticed() {\n}\nfn helper() {}\n    #[test]\n    fn other(x in 0..3) {}\n";
        let tests = tests(text).map(|test| ("core/a.rs".to_owned(), test.to_owned())).collect();
        let sources =
            Sources { tests, files: ["core/a.rs".to_owned()].into(), bugs: ["flaw".to_owned()].into() };
        judge(row, &sources)
    }

    #[test]
    fn what_exists_is_fine() {
        assert_eq!(
            judged("| H01 | a | `h01_is_noticed`, `other` (core/a.rs); swarm (liveness) | `flaw` |"),
            [""; 0]
        );
        assert_eq!(judged("| H12 | a | compile-time assertion in `core/a.rs` | |"), [""; 0]);
        assert_eq!(judged("| H40 | a | not yet: later | |"), [""; 0]);
    }

    #[test]
    fn what_is_missing_is_named_with_its_row() {
        let gone = judged("text\n| H01 | a | `h01_was_renamed` (core/a.rs) | |");
        assert_eq!(gone, ["docs/hazards.md:2: H01: there is no test h01_was_renamed in core/a.rs"]);
        assert_eq!(judged("| H01 | a | `helper` (core/a.rs) | |").len(), 1, "a function that is no test");
        assert_eq!(judged("| H01 | a | `other` (core/b.rs) | |").len(), 1, "another file");
        assert_eq!(judged("| H01 | a | `other` | |").len(), 1, "no file");
        assert_eq!(judged("| H01 | a | swarm (agreement) | `typo` |").len(), 1, "no such bug");
        assert_eq!(judged("| H01 | a | it is tested | |").len(), 1, "no test");
        assert_eq!(judged("| H01 | a | |\n").len(), 1, "too few cells");
        assert_eq!(judged("no rows").len(), 1);
        let row = "| H40 | a | not yet | |";
        assert_eq!(judged(&format!("{row}\n{row}")).len(), 1, "twice");
    }
}
