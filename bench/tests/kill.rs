//! A few rounds of `culex-bench kill`: nothing that was promised is lost when the program is killed.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

fn survives(runtime: &str, durability: &str) {
    let directory = format!("{}/kill-{runtime}", env!("CARGO_TARGET_TMPDIR"));
    let output = Command::new(env!("CARGO_BIN_EXE_culex-bench"))
        .args(["kill", "--rounds", "6", "--seed", "2", "--traffic-ms", "250", "--runtime", runtime])
        .args(["--durability", durability, "--directory", &directory, "--bin"])
        .arg(common::culex())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    let figure = |what: &str| {
        let number =
            out.lines().find_map(|line| line.strip_prefix(what)?.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {what:?} in:\n{out}"))
    };
    let figures: [u64; 3] = ["acknowledged ", "delivered ", "rounds "].map(figure);
    assert!(figures[0] > 0 && figures[1] > 0 && figures[2] == 6, "{out}");
}

#[test]
fn nothing_that_was_promised_is_lost_by_kill_9_on_tokio() {
    survives("tokio", "disk");
}

#[test]
fn nothing_that_was_promised_is_lost_by_kill_9_on_smol() {
    survives("smol", "os");
}

#[test]
fn nothing_that_was_promised_is_lost_by_kill_9_on_std() {
    survives("std", "disk");
}
