//! The machine is pure: no crate it is built from can reach a socket, a clock or a file, and no line of it does.

#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the machine may be built from: bytes, and hash tables without random keys.
const ALLOWED: [&str; 5] = ["culex-core", "bytes", "hashbrown", "foldhash", "equivalent"];

#[test]
fn the_machine_is_built_from_nothing_that_does_io() {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--package", "culex-core", "--edges", "normal", "--all-features", "--target", "all"])
        .args(["--prefix", "none", "--format", "{p}", "--offline"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(crates.contains("culex-core"), "{text}");
    let others: Vec<_> = crates.into_iter().filter(|name| !ALLOWED.contains(name)).collect();
    assert!(others.is_empty(), "not among the crates the machine may be built from: {others:?}");
}

#[test]
fn the_machine_is_built_without_std() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/no_std");
    let output = Command::new(env!("CARGO"))
        .current_dir(program)
        .args(["build", "--offline", "--locked", "--target-dir"])
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_std"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What a line says besides comments.
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

#[test]
fn the_source_reads_no_clock_no_chance_and_no_environment() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 50);
    let mut found = Vec::new();
    for path in files {
        // Tests may do what they like: they are the last in their file, or a file of their own.
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let tests = text.find("mod tests {").unwrap_or(text.len());
        for (number, line) in text[..tests].lines().enumerate() {
            // Without std there is no clock, no file, no socket, no thread, no environment and no random state.
            if code(line).contains("std::") || code(line).contains("extern crate std") {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "outside of tests:\n{}", found.join("\n"));
    let root = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    assert!(root.contains("#![cfg_attr(not(test), no_std)]") && root.contains("#![forbid(unsafe_code)]"));
}
