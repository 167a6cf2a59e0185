//! The statements of the standards, and what shows that they hold: the table of `CONFORMANCE.md`.

use crate::scenario::Scenario;
use culex_core::spec::{Binds, STATEMENTS, Standard, Statement};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

/// The name of a statement in scenarios and tables: those of 3.1.1 stand behind `311:`.
#[must_use]
pub fn name(statement: &Statement) -> String {
    match statement.standard {
        Standard::V5 => statement.id.to_owned(),
        Standard::V311 => format!("311:{}", statement.id),
    }
}

/// What a repository shows about the statements.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The scenarios and tests that name a statement.
    shown: BTreeMap<String, BTreeSet<String>>,
    /// Why a statement needs none.
    reasons: BTreeMap<String, String>,
    /// Statements that are known to have none yet.
    open: BTreeSet<String>,
}

impl Evidence {
    /// Collects what the scenarios, the Rust tests under `root`, and the lists beside the scenarios say.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn collect(root: &Path, scenarios: &[Scenario]) -> io::Result<Self> {
        let mut evidence = Self::default();
        for scenario in scenarios {
            for clause in &scenario.clauses {
                let at = format!("[{}](tests/conformance/{})", scenario.title, scenario.file);
                evidence.shown.entry(clause.clone()).or_default().insert(at);
            }
        }
        for folder in
            ["core", "link", "runtime", "runtime-std", "runtime-smol", "runtime-tokio", "tests", "cli"]
        {
            for folder in [root.join(folder).join("src"), root.join(folder).join("tests")] {
                evidence.tests(root, &folder)?;
            }
        }
        let folder = root.join("tests/conformance");
        for line in fs::read_to_string(folder.join("REASONS"))?.lines().filter(|line| is_entry(line)) {
            if let Some((clause, reason)) = line.split_once(' ') {
                evidence.reasons.insert(clause.to_owned(), reason.trim().to_owned());
            }
        }
        let open = fs::read_to_string(folder.join("OPEN"))?;
        evidence.open =
            open.lines().filter(|line| is_entry(line)).map(|line| line.trim().to_owned()).collect();
        Ok(evidence)
    }

    /// Collects the tests in the Rust files of a folder.
    fn tests(&mut self, root: &Path, folder: &Path) -> io::Result<()> {
        let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
        let mut paths =
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            if path.is_dir() {
                self.tests(root, &path)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let place = path.strip_prefix(root).unwrap_or(&path);
                let only_tests =
                    path.ends_with("tests.rs") || place.components().any(|part| part.as_os_str() == "tests");
                for (clause, test) in tests_of(&fs::read_to_string(&path)?, only_tests) {
                    self.shown.entry(clause).or_default().insert(format!("{} `{test}`", place.display()));
                }
            }
        }
        Ok(())
    }

    /// Names that no standard has.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        let known: BTreeSet<String> = STATEMENTS.iter().map(name).collect();
        let named = self.reasons.keys().chain(&self.open);
        // Rust tests also name sections and statements of the text: only scenarios must be exact.
        let told =
            self.shown.iter().filter(|(_, places)| places.iter().any(|place| place.ends_with(".scenario)")));
        let all: Vec<&str> = told.map(|(clause, _)| clause).chain(named).map(String::as_str).collect();
        all.into_iter().filter(move |clause| !known.contains(*clause))
    }

    /// Whether something shows that a statement holds, or a reason says why it need not.
    fn settled(&self, statement: &Statement) -> bool {
        let name = name(statement);
        self.shown.contains_key(&name) || self.reasons.contains_key(&name) || !statement.binds_server()
    }

    /// Statements that bind a server, are not shown, and are not on the list of the open ones.
    #[must_use]
    pub fn lost(&self) -> Vec<String> {
        let lost = STATEMENTS.iter().filter(|statement| !self.settled(statement)).map(name);
        lost.filter(|name| !self.open.contains(name)).collect()
    }

    /// Statements on the list of the open ones that are shown by now.
    #[must_use]
    pub fn no_longer_open(&self) -> Vec<String> {
        let settled = STATEMENTS.iter().filter(|statement| self.settled(statement)).map(name);
        settled.filter(|name| self.open.contains(name)).collect()
    }

    /// The list of the open statements as it should be.
    #[must_use]
    pub fn open_list(&self) -> String {
        let mut text = String::from(
            "# Statements that bind a server and that nothing shows yet. `UPDATE=1 cargo test -p culex-conformance`\n\
             # rewrites this list; a test fails if it grows otherwise. The aim is that it is empty.\n",
        );
        for statement in STATEMENTS.iter().filter(|statement| !self.settled(statement)) {
            let _ = writeln!(text, "{}", name(statement));
        }
        text
    }

    /// The text of `CONFORMANCE.md`.
    #[must_use]
    pub fn document(&self) -> String {
        let mut text = String::from(HEAD);
        for standard in [Standard::V5, Standard::V311] {
            let of_it = || STATEMENTS.iter().filter(move |statement| statement.standard == standard);
            let binding = of_it().filter(|statement| statement.binds_server());
            let (all, settled) =
                (binding.clone().count(), binding.filter(|statement| self.settled(statement)).count());
            let title = if standard == Standard::V5 { "MQTT 5.0" } else { "MQTT 3.1.1" };
            let _ = writeln!(
                text,
                "\n## {title}\n\n{} statements, {all} of them bind a server: {settled} of these are shown, {} are open.\n\n\
                 | statement | binds | what it says | shown by |\n|---|---|---|---|",
                of_it().count(),
                all - settled
            );
            for statement in of_it() {
                self.row(statement, &mut text);
            }
        }
        text
    }

    fn row(&self, statement: &Statement, text: &mut String) {
        let name = name(statement);
        let mut shown: Vec<String> = self.shown.get(&name).into_iter().flatten().cloned().collect();
        if let Some(reason) = self.reasons.get(&name) {
            shown.push(reason.clone());
        }
        let binds = match statement.binds {
            Binds::Server => "server",
            Binds::Client => "client",
            Binds::Both => "both",
        };
        if shown.is_empty() {
            let nothing = if statement.binds_server() { "**open**" } else { "binds the client only" };
            shown.push(nothing.into());
        }
        let _ =
            writeln!(text, "| {} | {binds} | {} | {} |", statement.id, statement.text, shown.join("<br>"));
    }
}

const HEAD: &str = "# Conformance\n\n\
Every normative statement of the standards, whom it binds, and the scenarios and tests that name it. All of them pass: they are\n\
part of the tests. Scenarios stand in [tests/conformance](tests/conformance/README.md) and can be told to any broker. Statements\n\
that bind only the client need no test of a server. The words in the table remind; the standards rule.\n\n\
This file is generated: `UPDATE=1 cargo test -p culex-conformance`.\n";

fn is_entry(line: &str) -> bool {
    !line.trim().is_empty() && !line.starts_with('#')
}

/// The statements that the tests of a Rust file name, in a comment before them, in their code or in their name.
fn tests_of(text: &str, only_tests: bool) -> Vec<(String, String)> {
    let start = if only_tests { Some(0) } else { text.find("#[cfg(test)]") };
    let Some(start) = start else { return Vec::new() };
    let mut is_test = false;
    let (mut found, mut waiting, mut current): (_, Vec<String>, Option<(usize, String)>) =
        (Vec::new(), Vec::new(), None);
    for line in text[start..].lines() {
        let indent = line.len() - line.trim_start().len();
        let function = line.trim_start().strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        is_test |= current.is_none() && line.trim() == "#[test]";
        if let (None, Some(function)) = (&current, function) {
            if is_test {
                found.extend(waiting.iter().map(|clause| (clause.clone(), function.to_owned())));
            }
            waiting.clear();
            current = Some((indent, function.to_owned()));
        }
        for clause in clauses_in(line) {
            match &current {
                Some((_, test)) if is_test => found.push((clause, test.clone())),
                Some(_) => {}
                None => waiting.push(clause),
            }
        }
        if current.as_ref().is_some_and(|(at, _)| *at == indent && line.trim() == "}") {
            (current, is_test) = (None, false);
        }
    }
    found
}

/// The ids in a line: `MQTT-3.1.0-1`, `311:MQTT-3.1.0-1`.
fn clauses_in(line: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (at, _) in line.match_indices("MQTT-") {
        let rest = &line[at + "MQTT-".len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-').unwrap_or(rest.len());
        let id = rest[..end].trim_end_matches(['.', '-']);
        let prefix = if line[..at].ends_with("311:") { "311:" } else { "" };
        all.push(format!("{prefix}MQTT-{id}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_shows_the_statements_in_its_comment_and_in_its_body() {
        let text = "// [MQTT-9.9.9-9] is not in a test\n#[cfg(test)]\nmod tests {\n    /// [MQTT-1.2.3-4].\n    #[test]\n    \
                    fn one() {\n        // [311:MQTT-2.2.2-2]\n    }\n    /// [MQTT-8.8.8-8]: no test.\n    fn two() {\n        // [MQTT-7.7.7-7]\n    }\n}\n";
        let expected = [("MQTT-1.2.3-4", "one"), ("311:MQTT-2.2.2-2", "one")];
        assert_eq!(
            tests_of(text, false),
            expected.map(|(clause, test)| (clause.to_owned(), test.to_owned()))
        );
    }
}
