//! Why the program ends early: one line per mistake, and an exit code that says whose turn it is.

use std::io;

/// Lines for standard error and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// One line per mistake.
    pub(crate) lines: Vec<String>,
    /// 2: what the operator wrote must be changed; 1: the machine would not let us.
    pub(crate) code: u8,
}

impl Problem {
    /// What the operator wrote must be changed.
    pub(crate) fn mistakes(lines: Vec<String>) -> Self {
        Self { lines, code: 2 }
    }

    /// Something outside failed: a busy port, a missing permission.
    pub(crate) fn failure(line: String) -> Self {
        Self { lines: vec![line], code: 1 }
    }
}

/// An I/O error in an operator's words, without the number of the operating system where the words are enough.
pub(crate) fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => one_line(&error.to_string()),
    }
}

/// Text of other crates on one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
