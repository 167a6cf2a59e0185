//! Why a store failed, in one line for whoever has to put it right.

use alloc::string::String;
use core::fmt;

/// What went wrong, as far as it matters to what is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Another broker has the store open.
    Locked,
    /// What is there does not agree with itself.
    Damaged,
    /// What is there was not made by this engine, or by a version of it that is not understood.
    Foreign,
    /// The disk, or what may be used of it, is full.
    NoSpace,
    /// It may be read and not written: the file system, or who owns the files.
    ReadOnly,
    /// Anything else, from the operating system or the engine.
    Other,
}

/// An error of a store that lies in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    /// What it was.
    pub failure: Failure,
    /// The directory.
    pub directory: String,
    /// What the engine or the operating system said.
    pub detail: String,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failure, directory, detail } = self;
        match failure {
            Failure::Locked => write!(f, "the store in {directory} is in use by another broker")?,
            Failure::Damaged => write!(f, "the store in {directory} is damaged")?,
            Failure::Foreign => write!(f, "what is in {directory} is not a store that can be opened")?,
            Failure::NoSpace => write!(f, "there is no space left for the store in {directory}")?,
            Failure::ReadOnly => write!(f, "the store in {directory} cannot be written")?,
            Failure::Other => write!(f, "the store in {directory} failed")?,
        }
        // Engines like to say things in paragraphs.
        let mut lines = detail.split_whitespace();
        if let Some(word) = lines.next() {
            write!(f, ": {word}")?;
        }
        lines.try_for_each(|word| write!(f, " {word}"))
    }
}

impl core::error::Error for StoreError {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_error_is_one_line_that_names_the_directory() {
        let mut error = StoreError {
            failure: Failure::NoSpace,
            directory: "/var/lib/culex".into(),
            detail: "write:\n  error 28".into(),
        };
        let line = "there is no space left for the store in /var/lib/culex: write: error 28";
        assert_eq!(error.to_string(), line);
        error.failure = Failure::Locked;
        error.detail.clear();
        assert_eq!(error.to_string(), "the store in /var/lib/culex is in use by another broker");
    }
}
