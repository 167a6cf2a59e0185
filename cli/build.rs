//! Finds out which commit is built, for `culex sim`: a seed tells the same story only there. A packager may set
//! `CULEX_COMMIT`; without that and without git the program knows its version only.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=CULEX_COMMIT");
    // What the simulated broker is made of, so that uncommitted changes are noticed.
    for path in ["src", "../core/src", "../tests/src"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    if std::env::var_os("CULEX_COMMIT").is_some() {
        return;
    }
    // Whose repository is it? Not of somebody who keeps a copy of this crate in his own.
    if git(&["ls-files", "--error-unmatch", "build.rs", "../core/Cargo.toml"]).is_none() {
        return;
    }
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(commit) =
        git(&["describe", "--always", "--abbrev=12", "--exclude=*", "--dirty= with changes"])
    {
        println!("cargo::rustc-env=CULEX_COMMIT=commit {commit}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
