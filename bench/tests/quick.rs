//! A moment of everything that is measured: whether all messages arrive and figures come out, not which.
#![allow(clippy::unwrap_used)]

mod common;

use common::culex;
use std::process::Command;

#[test]
fn everything_is_measured_and_every_message_arrives() {
    let json = std::env::temp_dir().join(format!("culex-bench-quick-{}.json", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_culex-bench"))
        .args(["transports", "--quick", "--bin"])
        .arg(culex())
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    for broker in ["tokio", "smol", "std"] {
        for transport in ["tcp", "unix", "ws", "tls", "wss"] {
            let rows = out.lines().filter(|line| line.starts_with(&format!("| {broker} | {transport} |")));
            assert_eq!(rows.count(), 3, "{broker}, {transport}:\n{out}");
        }
    }
    // Four cases, memory and connecting for all; resuming where there is TLS.
    let text = std::fs::read_to_string(&json).unwrap();
    std::fs::remove_file(&json).unwrap();
    assert_eq!(text.matches("\"median\"").count(), 3 * (5 * 6 + 2), "{text}");
    assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
}

#[test]
fn every_engine_is_measured_and_survives_being_killed() {
    let directory = std::env::temp_dir().join(format!("culex-bench-stores-{}", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_culex-bench"))
        .args(["stores", "--quick", "--directory"])
        .arg(&directory)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    for engine in ["redb", "redb-quick", "sqlite", "sqlite-short"] {
        let lines = out.lines().filter(|line| line.starts_with(&format!("{engine}, ")));
        assert_eq!(lines.filter(|line| line.contains(": killed 2 times")).count(), 2, "{engine}:\n{out}");
    }
    assert!(!out.contains("BROKEN") && !out.contains("NaN"), "{out}");
    assert!(!directory.exists());
}
