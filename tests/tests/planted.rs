//! The planted bugs (`tests/planted/`) do not rot: each still fits the present code. Whether the simulator finds them is
//! what `tests/planted/run.sh` checks, which takes minutes.

#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_simulation::Promise;
use std::fs;
use std::path::Path;

/// What stays and what goes, line by line, of one place in a file.
#[derive(Default)]
struct Hunk {
    before: Vec<String>,
    changes: usize,
}

struct Planted {
    name: String,
    headers: Vec<(String, String)>,
    files: Vec<(String, Vec<Hunk>)>,
}

impl Planted {
    fn read(path: &Path) -> Self {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut planted = Self { name, headers: Vec::new(), files: Vec::new() };
        for line in fs::read_to_string(path).unwrap().lines() {
            if let Some((key, value)) = line.strip_prefix("# ").and_then(|line| line.split_once(": ")) {
                planted.headers.push((key.into(), value.into()));
            } else if let Some(file) = line.strip_prefix("+++ b/") {
                planted.files.push((file.into(), Vec::new()));
            } else if line.starts_with("@@ ") {
                planted.files.last_mut().unwrap().1.push(Hunk::default());
            } else if let Some(hunk) = planted.files.last_mut().and_then(|(_, hunks)| hunks.last_mut()) {
                hunk.line(line);
            }
        }
        planted
    }

    fn header(&self, key: &str) -> &str {
        let found = self.headers.iter().find(|(name, _)| name == key);
        &found.unwrap_or_else(|| panic!("{}: no line `# {key}: …`", self.name)).1
    }
}

impl Hunk {
    fn line(&mut self, line: &str) {
        if line.starts_with("--- ") {
            return;
        }
        self.changes += usize::from(line.starts_with(['+', '-']));
        // An editor may have cut off the blank of an empty line.
        let kept = line.strip_prefix([' ', '-']).or(line.is_empty().then_some(""));
        self.before.extend(kept.map(Into::into));
    }

    /// The line behind the place where it fits, from line `start` on.
    fn fits(&self, lines: &[&str], start: usize) -> Option<usize> {
        let size = self.before.len();
        let at = lines[start..].windows(size).position(|window| window.iter().eq(&self.before))?;
        Some(start + at + size)
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn planted() -> Vec<Planted> {
    let files = fs::read_dir(root().join("tests/planted")).unwrap().map(|entry| entry.unwrap().path());
    let mut planted: Vec<Planted> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .map(|path| Planted::read(&path))
        .collect();
    planted.sort_by(|a, b| a.name.cmp(&b.name));
    planted
}

#[test]
fn every_planted_bug_still_fits_the_code() {
    let all = planted();
    assert!(all.len() >= 18, "only {} planted bugs", all.len());
    let mut misfits = Vec::new();
    for planted in &all {
        assert!(!planted.files.is_empty(), "{}: changes nothing", planted.name);
        for (file, hunks) in &planted.files {
            assert!(file.starts_with("core/src/"), "{}: {file} is no part of the machine", planted.name);
            let code = fs::read_to_string(root().join(file)).unwrap();
            let lines: Vec<&str> = code.lines().collect();
            let mut start = 0;
            for (n, hunk) in hunks.iter().enumerate() {
                match hunk.fits(&lines, start) {
                    Some(end) => start = end,
                    None => misfits.push(format!("{}: change {} in {file}", planted.name, n + 1)),
                }
            }
        }
    }
    assert!(misfits.is_empty(), "these no longer fit the code:\n{}", misfits.join("\n"));
}

#[test]
fn every_planted_bug_is_small_and_says_what_it_breaks() {
    for planted in planted() {
        let changes: usize = planted.files.iter().flat_map(|(_, hunks)| hunks).map(|hunk| hunk.changes).sum();
        assert!((1..=10).contains(&changes), "{}: {changes} changed lines", planted.name);
        assert!(planted.header("what").ends_with('.'), "{}: not a sentence", planted.name);
        for promise in planted.header("promise").split(", ") {
            let known = Promise::ALL.iter().any(|known| format!("{known:?}") == promise);
            assert!(known, "{}: there is no promise {promise}", planted.name);
        }
    }
}

#[test]
fn the_readme_lists_every_planted_bug_and_every_promise() {
    let readme = fs::read_to_string(root().join("tests/README.md")).unwrap();
    for planted in planted() {
        assert!(readme.contains(&format!("| {} |", planted.name)), "{} is missing", planted.name);
    }
    for promise in Promise::ALL {
        assert!(readme.contains(&format!("| `{promise:?}` |")), "{promise:?} is missing");
    }
}
