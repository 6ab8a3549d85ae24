//! What a reader stumbles over, found by counting: files and functions that grew too long, work left undone, lints
//! silenced without a reason, and traces of one machine.
//!
//! The counts are simple on purpose: they read formatted code line by line. A file or function that is too long is
//! telling about a concept without a name.

use std::fs;

use crate::repository::{Outcome, files, root, verdict};

const MAX_FILE_LINES: usize = 800;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_FILE_BYTES: u64 = 1_000_000;

/// Words that say that something is not done. Written apart, so that this file does not find itself.
const UNDONE: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("dbg", "!(")];

/// Top folders that exist on somebody's machine and in no repository.
const MACHINE_FOLDERS: &[&str] = &["root", "home", "work", "Users", "mnt"];

/// Words in the name of a host from which packages come: which one, is a setting of a machine.
const PACKAGE_HOSTS: &[&str] = &["registry", "mirror", "proxy", "artifact", "nexus"];

pub(crate) fn run(arguments: &[String]) -> Outcome<bool> {
    if !arguments.is_empty() {
        return Err("tidy takes no argument".into());
    }
    let root = root();
    let mut complaints = Vec::new();
    for name in files(&root)? {
        let path = root.join(&name);
        let size = fs::metadata(&path)?.len();
        if size > MAX_FILE_BYTES {
            complaints.push(format!("{name}: {size} bytes; the limit is {MAX_FILE_BYTES}"));
            continue;
        }
        // What is no text has no lines to judge.
        if let Ok(text) = String::from_utf8(fs::read(&path)?) {
            complaints.extend(judge(&name, &text));
        }
    }
    Ok(verdict("tidy", &complaints))
}

fn judge(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let is_lock = name.ends_with(".lock") || name.ends_with("package-lock.json");
    if !is_lock && !name.starts_with("LICENSE") {
        too_long(name, text, &mut complaints);
    }
    if name.ends_with(".rs") {
        long_functions(name, text, &mut complaints);
        silenced_lints(name, text, &mut complaints);
    }
    for (number, line) in text.lines().enumerate() {
        for what in traces(line) {
            complaints.push(format!("{name}:{}: {what}", number + 1));
        }
    }
    complaints
}

fn too_long(name: &str, text: &str, complaints: &mut Vec<String>) {
    let is_code = ["rs", "js", "mjs", "html", "sh"].iter().any(|end| name.ends_with(&format!(".{end}")));
    let lines = text.lines().count();
    if is_code && lines > MAX_FILE_LINES {
        complaints.push(format!("{name}: {lines} lines; the limit is {MAX_FILE_LINES}"));
    }
}

/// Counts from a line that begins a function to the brace in the same column that ends it.
fn long_functions(name: &str, text: &str, complaints: &mut Vec<String>) {
    let mut open: Option<(usize, usize, &str)> = None;
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        if let Some(function) = function_name(code) {
            open = (!code.ends_with([';', '}'])).then_some((number, indent, function));
        } else if let Some((start, column, function)) = open
            && indent == column
            && (code == "}" || code.ends_with(';'))
        {
            let lines = number - start + 1;
            if lines > MAX_FUNCTION_LINES {
                let at = start + 1;
                complaints.push(format!(
                    "{name}:{at}: {function} has {lines} lines; the limit is {MAX_FUNCTION_LINES}"
                ));
            }
            open = None;
        }
    }
}

/// The name of the function that this line begins.
fn function_name(code: &str) -> Option<&str> {
    let mut rest = code;
    loop {
        if let Some(function) = rest.strip_prefix("fn ") {
            let end = function.find(['(', '<'])?;
            return Some(&function[..end]);
        }
        let (word, tail) = rest.split_once(' ')?;
        let is_qualifier = matches!(word, "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\"");
        if !is_qualifier && !word.starts_with("pub(") {
            return None;
        }
        rest = tail;
    }
}

fn silenced_lints(name: &str, text: &str, complaints: &mut Vec<String>) {
    for opening in ["[allow(", "[expect("] {
        for (at, _) in text.match_indices(opening) {
            let is_attribute = text[..at].ends_with('#') || text[..at].ends_with("#!");
            let attribute = &text[at..];
            let attribute = &attribute[..attribute.find(")]").unwrap_or(attribute.len())];
            if is_attribute && !attribute.contains("reason") {
                let line = text[..at].lines().count();
                complaints.push(format!("{name}:{line}: a lint is silenced without a reason"));
            }
        }
    }
}

/// What in this line belongs in no repository.
fn traces(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for word in UNDONE {
        if line.match_indices(word).any(|(at, _)| stands_alone(line, at, word)) {
            found.push(format!("left undone: {word}"));
        }
    }
    for folder in MACHINE_FOLDERS {
        let path = format!("/{folder}/");
        if line.match_indices(&path).any(|(at, _)| !line[..at].ends_with(is_part_of_a_path)) {
            found.push(format!("a path of one machine: {path}"));
        }
    }
    for (at, _) in line.match_indices("://") {
        let host = &line[at + 3..];
        let host = &host[..host.find(['/', '"', '\'', ' ', ')', '>', '`']).unwrap_or(host.len())];
        if PACKAGE_HOSTS.iter().any(|word| host.contains(word)) {
            found.push(format!("a host for packages: {host}"));
        }
    }
    found
}

fn stands_alone(line: &str, at: usize, word: &str) -> bool {
    let is_letter = |character: char| character.is_alphanumeric() || character == '_';
    let after = &line[at + word.len()..];
    !line[..at].ends_with(is_letter) && (word.ends_with('(') || !after.starts_with(is_letter))
}

fn is_part_of_a_path(character: char) -> bool {
    character.is_alphanumeric() || "._-}".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!(
            "impl A {{\n    pub(crate) fn long(&self) {{\n{}    }}\n}}\n",
            "        b();\n".repeat(lines - 2)
        )
    }

    #[test]
    fn a_function_may_have_seventy_lines_and_not_one_more() {
        assert_eq!(judge("a.rs", &function(70)), Vec::<String>::new());
        assert_eq!(judge("a.rs", &function(71)), ["a.rs:2: long has 71 lines; the limit is 70"]);
    }

    #[test]
    fn short_functions_in_a_long_row_are_not_counted_together() {
        let row = "fn a() {\n    b();\n}\nfn c() {}\ntrait D {\n    fn e(&self);\n}\n".repeat(40);
        assert_eq!(judge("a.rs", &row), Vec::<String>::new());
    }

    #[test]
    fn a_file_may_have_eight_hundred_lines_and_not_one_more() {
        assert_eq!(judge("a.rs", &"a();\n".repeat(800)), Vec::<String>::new());
        assert_eq!(judge("a.rs", &"a();\n".repeat(801)).len(), 1);
        assert_eq!(judge("Cargo.lock", &"a\n".repeat(8000)), Vec::<String>::new());
    }

    #[test]
    fn a_lint_needs_a_reason() {
        let bare = format!("#[{}(dead_code)]\nfn a() {{}}\n", "allow");
        assert_eq!(judge("a.rs", &bare), ["a.rs:1: a lint is silenced without a reason"]);
        let reasoned = format!("#[{}(\n    dead_code,\n    reason = \"b\"\n)]\nfn a() {{}}\n", "expect");
        assert_eq!(judge("a.rs", &reasoned), Vec::<String>::new());
    }

    #[test]
    fn work_left_undone_is_found_as_a_word() {
        let word = UNDONE[0];
        assert_eq!(judge("a.md", &format!("text\n{word}: more\n")), [format!("a.md:2: left undone: {word}")]);
        assert_eq!(judge("a.md", &format!("{word}S are other things\n")), Vec::<String>::new());
    }

    #[test]
    fn paths_of_a_machine_are_found_and_paths_of_the_repository_are_not() {
        let path = format!("see /{}/somebody/x", MACHINE_FOLDERS[1]);
        assert_eq!(judge("a.md", &path).len(), 1);
        assert_eq!(judge("a.md", &format!("docs/{}/x", MACHINE_FOLDERS[1])), Vec::<String>::new());
    }

    #[test]
    fn hosts_for_packages_are_found() {
        let lock = format!("\"resolved\": \"https://{}.example.org/a.tgz\"", PACKAGE_HOSTS[0]);
        assert_eq!(judge("package-lock.json", &lock).len(), 1);
        assert_eq!(judge("a.md", "https://example.org/registry/"), Vec::<String>::new());
    }
}
