//! What came of a run: as a table, as JSON, as HTML.

use crate::engine::Failure;
use crate::parse::versions_text;
use crate::scenario::{Scenario, version_name};
use culex_core::packet::Version;
use std::fmt::Write as _;
use std::time::Duration;

/// What came of one scenario in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The broker did as the standard says.
    Passed,
    /// It did not.
    Failed(Failure),
    /// It was not asked, for this reason.
    Skipped(String),
}

impl Verdict {
    const fn word(&self) -> &'static str {
        match self {
            Self::Passed => "pass",
            Self::Failed(_) => "FAIL",
            Self::Skipped(_) => "skip",
        }
    }
}

/// A scenario and what came of it.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its file.
    pub file: String,
    /// The line of its title.
    pub line: usize,
    /// Its title.
    pub title: String,
    /// The statements it proves.
    pub clauses: Vec<String>,
    /// What came of it, per version.
    pub verdicts: Vec<(Version, Verdict)>,
}

impl Row {
    pub(crate) fn new(scenario: &Scenario, version: Version, verdict: Verdict) -> Self {
        let Scenario { file, line, title, clauses, .. } = scenario.clone();
        Self { file, line, title, clauses, verdicts: vec![(version, verdict)] }
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was tested.
    pub target: String,
    /// The scenarios in their order.
    pub rows: Vec<Row>,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// How many passed, failed and were skipped; in one version or in all.
    #[must_use]
    pub fn score(&self, version: Option<Version>) -> (usize, usize, usize) {
        let mut score = (0, 0, 0);
        for (_, verdict) in self.verdicts().filter(|(v, _)| version.is_none_or(|version| version == *v)) {
            match verdict {
                Verdict::Passed => score.0 += 1,
                Verdict::Failed(_) => score.1 += 1,
                Verdict::Skipped(_) => score.2 += 1,
            }
        }
        score
    }

    /// Where the broker did not do as the standard says.
    pub fn failures(&self) -> impl Iterator<Item = (&Row, Version, &Failure)> {
        self.rows.iter().flat_map(|row| {
            row.verdicts.iter().filter_map(move |(version, verdict)| match verdict {
                Verdict::Failed(failure) => Some((row, *version, failure)),
                _ => None,
            })
        })
    }

    fn verdicts(&self) -> impl Iterator<Item = &(Version, Verdict)> {
        self.rows.iter().flat_map(|row| &row.verdicts)
    }

    /// One line per scenario, then every failure, then the score.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{:<6}{:<7}{:<6}scenario\n", "3.1", "3.1.1", "5");
        for row in &self.rows {
            for (version, width) in VERSIONS.into_iter().zip([6, 7, 6]) {
                let verdict = row.verdicts.iter().find(|(v, _)| *v == version);
                let _ = write!(text, "{:<width$}", verdict.map_or("-", |(_, verdict)| verdict.word()));
            }
            let _ = writeln!(text, "{} [{}]", row.title, row.clauses.join(" "));
        }
        for (row, version, failure) in self.failures() {
            let _ = writeln!(text, "\n{} (MQTT {})\n{failure}", row.title, version_name(version));
        }
        let _ = writeln!(text, "\n{}", self.target);
        for version in VERSIONS {
            let (passed, failed, skipped) = self.score(Some(version));
            if passed + failed + skipped > 0 {
                let name = format!("MQTT {}", version_name(version));
                let of = passed + failed;
                let _ = writeln!(text, "{name:<12}{passed} of {of} passed, {skipped} skipped");
            }
        }
        let (passed, failed, skipped) = self.score(None);
        let percent = 100.0 * passed as f64 / (passed + failed).max(1) as f64;
        let _ = writeln!(
            text,
            "{:<12}{passed} of {} passed ({percent:.1} %), {skipped} skipped, in {:.1} s",
            "all",
            passed + failed,
            self.took.as_secs_f32()
        );
        text
    }

    /// The report as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let (passed, failed, skipped) = self.score(None);
        let mut text = format!(
            "{{\n  \"target\": {}, \"passed\": {passed}, \"failed\": {failed}, \"skipped\": {skipped},\n  \
             \"scenarios\": [",
            string(&self.target)
        );
        for (i, row) in self.rows.iter().enumerate() {
            let clauses: Vec<String> = row.clauses.iter().map(|clause| string(clause)).collect();
            let verdicts: Vec<String> = row.verdicts.iter().map(json_verdict).collect();
            let _ = write!(
                text,
                "{}\n    {{\"file\": {}, \"line\": {}, \"title\": {}, \"clauses\": [{}], \"results\": [{}]}}",
                if i == 0 { "" } else { "," },
                string(&row.file),
                row.line,
                string(&row.title),
                clauses.join(", "),
                verdicts.join(", ")
            );
        }
        text.push_str("\n  ]\n}\n");
        text
    }

    /// The report as one HTML page that needs nothing else.
    #[must_use]
    pub fn html(&self) -> String {
        let (passed, failed, skipped) = self.score(None);
        let versions: Vec<Version> = VERSIONS
            .into_iter()
            .filter(|version| self.verdicts().any(|(other, _)| other == version))
            .collect();
        let mut text = format!(
            "{HEAD}<h1>MQTT conformance</h1>\n<p><b>{}</b>, MQTT {}: {passed} of {} passed, {skipped} skipped.</p>\n\
             <table><tr><th>3.1<th>3.1.1<th>5<th>Scenario<th>Statements\n",
            escape(&self.target),
            versions_text(&versions),
            passed + failed
        );
        for row in &self.rows {
            text.push_str("<tr>");
            for version in VERSIONS {
                let verdict = row.verdicts.iter().find(|(v, _)| *v == version).map(|(_, verdict)| verdict);
                let word = verdict.map_or("", Verdict::word);
                let why = match verdict {
                    Some(Verdict::Failed(failure)) => failure.to_string(),
                    Some(Verdict::Skipped(why)) => why.clone(),
                    _ => String::new(),
                };
                let _ = write!(text, "<td class=\"{word}\" title=\"{}\">{word}", escape(&why));
            }
            let _ = write!(text, "<td>{}", escape(&row.title));
            for (_, verdict) in &row.verdicts {
                if let Verdict::Failed(failure) = verdict {
                    let _ = write!(text, "<pre>{}</pre>", escape(&failure.to_string()));
                }
            }
            let _ = writeln!(text, "<td>{}", escape(&row.clauses.join(" ")));
        }
        text.push_str("</table>\n");
        text
    }
}

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

const HEAD: &str = "<!doctype html>\n<meta charset=\"utf-8\">\n<title>MQTT conformance</title>\n<style>\
body{font:15px/1.4 sans-serif;margin:2em;max-width:75em}td,th{text-align:left;vertical-align:top;padding:2px 8px;\
border-bottom:1px solid #ddd}.pass{color:#170}.FAIL{background:#c00;color:#fff}.skip{color:#777}\
pre{white-space:pre-wrap;font-size:12px;color:#900;margin:0}</style>\n";

fn json_verdict((version, verdict): &(Version, Verdict)) -> String {
    let version = version_name(*version);
    match verdict {
        Verdict::Passed => format!("{{\"version\": \"{version}\", \"result\": \"passed\"}}"),
        Verdict::Skipped(why) => {
            format!("{{\"version\": \"{version}\", \"result\": \"skipped\", \"why\": {}}}", string(why))
        }
        Verdict::Failed(failure) => format!(
            "{{\"version\": \"{version}\", \"result\": \"failed\", \"line\": {}, \"expected\": {}, \"got\": {}}}",
            failure.line,
            string(&failure.expected),
            string(&failure.got)
        ),
    }
}

/// A JSON string.
fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let failure =
            Failure { file: "f".into(), line: 7, expected: "a < CLOSE".into(), got: "\"x\"".into() };
        let verdicts = vec![(Version::V311, Verdict::Passed), (Version::V5, Verdict::Failed(failure))];
        let row =
            Row { file: "f".into(), line: 3, title: "a story".into(), clauses: vec!["C-1".into()], verdicts };
        Report { target: "here".into(), rows: vec![row], took: Duration::ZERO }
    }

    #[test]
    fn the_table_has_results_failures_and_a_score() {
        let table = report().table();
        assert!(table.contains("-     pass   FAIL  a story [C-1]"), "{table}");
        assert!(table.contains("f:7\n  expected a < CLOSE\n"), "{table}");
        assert!(table.contains("1 of 2 passed (50.0 %)"), "{table}");
    }

    #[test]
    fn json_and_html_escape_what_they_must() {
        assert!(report().json().contains(r#""expected": "a < CLOSE", "got": "\"x\""}"#));
        assert!(report().html().contains("expected a &lt; CLOSE"));
    }
}
