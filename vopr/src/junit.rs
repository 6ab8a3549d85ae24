//! The report as JUnit XML, for machines that gather test results.
//!
//! Seeds that passed are not listed, only counted: thousands of them would say nothing. What is listed are the seeds
//! that failed, and what the swarm as a whole must come to.

use std::fmt::Write as _;

use crate::report::Report;

/// The whole document.
#[must_use]
pub fn document(report: &Report) -> String {
    let mut cases = String::new();
    let mut failures = 0;
    for failure in &report.failures {
        failures += 1;
        let text = format!("{}\n{}\nreplay: {}", failure.what, failure.events.join("\n"), failure.replay);
        let name = format!("seed {}", failure.seed);
        case(&mut cases, &name, Some((&failure.checker, &failure.what, &text)));
    }
    for (name, kind, complaints) in [
        ("the median seed did enough", "work", &report.below),
        ("everything that is listed was met", "coverage", &report.missed),
    ] {
        let text = complaints.join("\n");
        let first = complaints.first().map(|first| format!("{first} ({} in all)", complaints.len()));
        failures += usize::from(first.is_some());
        case(&mut cases, name, first.as_ref().map(|first| (kind, first.as_str(), text.as_str())));
    }
    let tests = report.failures.len() + 2;
    let (name, time) = (format!("vopr {}", report.plan), report.seconds);
    let counts = format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" time=\"{time:.3}\"");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  <testsuite name=\"{}\" {counts}>\n    \
         <properties>\n      <property name=\"seeds\" value=\"{}\"/>\n      <property name=\"start\" value=\"{}\"/>\n      \
         <property name=\"failed\" value=\"{}\"/>\n    </properties>\n{cases}  </testsuite>\n</testsuites>\n",
        escape(&name),
        report.seeds,
        report.start,
        report.failed
    )
}

/// One test case; with kind, message and text when it failed.
fn case(cases: &mut String, name: &str, failure: Option<(&str, &str, &str)>) {
    let name = escape(name);
    // Writing to a string can't fail.
    let _ = match failure {
        None => writeln!(cases, "    <testcase classname=\"vopr\" name=\"{name}\"/>"),
        Some((kind, message, text)) => writeln!(
            cases,
            "    <testcase classname=\"vopr\" name=\"{name}\">\n      <failure type=\"{}\" \
             message=\"{}\">{}</failure>\n    </testcase>",
            escape(kind),
            escape(message),
            escape(text)
        ),
    };
}

/// Text as XML may hold it, in attributes too. Characters that XML 1.0 knows no way to say become U+FFFD: users of
/// simulated worlds send garbage, and it comes back in what a failure says.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            // As they are, an attribute would hold spaces in their place.
            '\n' => escaped.push_str("&#10;"),
            '\r' => escaped.push_str("&#13;"),
            '\t' => escaped.push_str("&#9;"),
            '\0'..' ' | '\u{FFFE}' | '\u{FFFF}' => escaped.push('\u{FFFD}'),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;
    use crate::args::Args;
    use crate::stats::Floors;
    use crate::swarm::{Failure, Harvest};

    fn report(failures: &[(u64, &str)]) -> Report {
        let mut harvest = Harvest::default();
        for (seed, what) in failures {
            let failure = Failure { checker: "agreement".into(), what: (*what).into(), events: Vec::new() };
            harvest.failures.insert(*seed, failure);
            harvest.listed.insert(*seed, "agreement".into());
            harvest.failed += 1;
        }
        Report::new(&Args::parse_from(["vopr"]), &harvest, Floors::default(), Duration::from_millis(1500))
    }

    #[test]
    fn whatever_a_failure_says_the_document_stays_xml() {
        let document = document(&report(&[(17, "<b> & \"c\" 'd'\n\u{1}\u{7f}é")]));
        let said = "&lt;b&gt; &amp; &quot;c&quot; &apos;d&apos;&#10;\u{FFFD}\u{7f}é";
        assert!(
            document.contains(&format!("type=\"agreement\" message=\"{said}\">{said}&#10;")),
            "{document}"
        );
        assert!(document.contains("replay: cargo run -p vopr -- --seed 17</failure>"), "{document}");
    }

    #[test]
    fn failing_seeds_and_what_the_swarm_lacks_are_cases() {
        let mut report = report(&[(3, "two logs"), (9, "two logs")]);
        report.missed = vec!["no crash before lead a view".into(), "no mark".into()];
        let document = document(&report);
        assert!(document.contains("tests=\"4\" failures=\"3\" errors=\"0\" time=\"1.500\""), "{document}");
        assert!(document.contains("<testcase classname=\"vopr\" name=\"the median seed did enough\"/>"));
        assert!(document.contains("message=\"no crash before lead a view (2 in all)\">"), "{document}");
        assert_eq!(document.matches("<testcase").count(), 4);
    }

    #[test]
    fn a_swarm_that_passed_has_no_failure() {
        let document = document(&report(&[]));
        assert!(document.contains("tests=\"2\" failures=\"0\""), "{document}");
        assert!(!document.contains("<failure"), "{document}");
    }
}
