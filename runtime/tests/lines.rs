//! How long the adapters are: `cargo test -p culex-runtime --test lines -- --nocapture` prints the table that is in
//! `docs/benchmarks.md`.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // as in tests

use std::fs;
use std::path::Path;

/// An adapter and its lines of code at most. An adapter is a loop around the driver: when it grows, what it got belongs
/// into `culex-runtime`. That on threads is the longest: it has no reactor of others, so it waits for sockets itself.
const ADAPTERS: [(&str, usize); 3] = [("runtime-tokio", 400), ("runtime-smol", 300), ("runtime-std", 800)];
/// What the adapters share; the suite that they have to pass is not counted.
const SHARED: &str = "runtime";
/// What is about listeners: how an item begins, in which file; or all of a file.
const LISTENERS: [(&str, &str); 8] = [
    ("runtime-tokio/lib.rs", "async fn accept("),
    ("runtime-tokio/socket.rs", "pub(crate) enum Listener "),
    ("runtime-tokio/socket.rs", "impl Listener "),
    ("runtime-smol/lib.rs", "async fn accept("),
    ("runtime-std/poller.rs", "fn accept("),
    ("runtime/accept.rs", ""),
    ("runtime/listen.rs", ""),
    ("runtime/listener.rs", ""),
];

/// Lines that are neither empty nor a comment nor of a test.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Lines {
    /// Of them, those that listen and accept.
    listeners: usize,
    all: usize,
}

impl Lines {
    fn of(file: &str, text: &str) -> Self {
        let starts: Vec<_> =
            LISTENERS.iter().filter(|(name, _)| *name == file).map(|(_, start)| start).collect();
        let mut lines = Self::default();
        // The indentation of the item about listeners that has not ended yet.
        let mut inside = None;
        // Tests are at the end of a file, or in one of their own.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for line in code.replace("#[cfg(test)]\nmod tests;\n", "").lines() {
            let code = line.trim_start();
            if code.is_empty() || code.starts_with("//") {
                continue;
            }
            let indentation = line.len() - code.len();
            if inside.is_none() && starts.iter().any(|start| code.starts_with(**start)) {
                inside = Some(indentation);
            }
            lines.all += 1;
            lines.listeners += usize::from(inside.is_some());
            // The last line of an item begins or ends with its bracket; `{` at the end of its first line does not count.
            if inside == Some(indentation) && (code.starts_with('}') || code.ends_with(['}', ';'])) {
                inside = None;
            }
        }
        lines
    }

    fn add(&mut self, other: Self) {
        self.listeners += other.listeners;
        self.all += other.all;
    }
}

/// The lines of each file of a crate, in the order of their names.
fn files(name: &str) -> Vec<(String, Lines)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let paths = fs::read_dir(root.join(name).join("src")).unwrap().map(|entry| entry.unwrap().path());
    let sources = paths.filter(|path| path.is_file() && !path.ends_with("testing.rs"));
    let count = |path: &Path| {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let lines = Lines::of(&format!("{name}/{file}"), &fs::read_to_string(path).unwrap());
        (file, lines)
    };
    let mut files: Vec<_> = sources.map(|path| count(&path)).collect();
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    files
}

fn sum(name: &str) -> Lines {
    let mut sum = Lines::default();
    files(name).into_iter().for_each(|(_, lines)| sum.add(lines));
    sum
}

#[test]
fn adapters_stay_short() {
    println!("| crate | all | of it listeners | files |\n|---|---:|---:|---|");
    for name in ADAPTERS.map(|(name, _)| name).into_iter().chain([SHARED]) {
        let Lines { listeners, all } = sum(name);
        let files: Vec<_> = files(name).iter().map(|(file, lines)| format!("{file} {}", lines.all)).collect();
        println!("| {name} | {all} | {listeners} | {} |", files.join(", "));
    }
    for (adapter, max) in ADAPTERS {
        let all = sum(adapter).all;
        assert!(all <= max, "{adapter} has {all} lines of code");
    }
}

#[test]
fn comments_tests_and_listeners_are_told_apart() {
    let text = "//! About.\nuse a;\n\nasync fn accept(\n    a: u8,\n) {\n    // Why.\n    a();\n}\nfn b() {}\n#[cfg(test)]\nmod tests;\nfn c() {}\n\
                #[cfg(test)]\nmod tests {\n";
    assert_eq!(Lines::of("runtime-tokio/lib.rs", text), Lines { listeners: 5, all: 8 });
    assert_eq!(Lines::of("runtime/accept.rs", text), Lines { listeners: 8, all: 8 });
    assert_eq!(Lines::of("runtime/shard.rs", text), Lines { listeners: 0, all: 8 });
}
