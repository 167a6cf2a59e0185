//! A moment of `culex-bench durability` and `culex-bench machine`: everything arrives and figures come out, not which.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

fn bench(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_culex-bench")).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_durable_is_measured() {
    let directory = concat!(env!("CARGO_TARGET_TMPDIR"), "/durability");
    let culex = common::culex();
    let args = ["durability", "--quick", "--directory", directory, "--bin", culex.to_str().unwrap()];
    let out = bench(&args);
    for row in ["| 1 publishers, messages/s |", "| drained per second |", "| memory then, MiB |"] {
        assert!(out.contains(row), "{row}:\n{out}");
    }
    assert!(!out.contains("NaN") && !out.contains("inf"), "{out}");
}

#[test]
fn the_machine_alone_passes_every_message_on() {
    for case in ["qos0-v4", "qos1-v4", "qos2-v5"] {
        let out = bench(&["machine", "--bursts", "3", "--case", case]);
        assert!(out.starts_with("96 times "), "{case}: {out}");
    }
}
