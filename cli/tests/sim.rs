//! The program simulates brokers, and says what came of it.

mod common;

use common::{culex, run};
use std::path::PathBuf;

/// Everything but the figure that depends on the machine.
fn told(arguments: &[&str]) -> String {
    let outcome = run(culex(&["sim"]).args(arguments));
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{}", outcome.out);
    let lines = outcome.out.lines().filter(|line| !line.contains(" seeds per second on "));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_same_seeds_come_to_the_same_on_any_number_of_threads() {
    let alone = told(&["--runs", "12", "--seed", "3", "--jobs", "1"]);
    assert_eq!(alone, told(&["--runs", "12", "--seed", "3", "--jobs", "3"]));
    assert!(alone.starts_with("12 seeds (3 to 14), "), "{alone}");
    assert!(alone.contains("\ndigest ") && alone.contains("  SessionPresent\n"), "{alone}");
}

#[test]
fn it_stops_when_its_time_is_over() {
    let text = told(&["--minutes", "0.0001", "--profile", "network"]);
    assert!(!text.starts_with("0 seeds"), "{text}");
}

#[test]
fn one_seed_is_told_as_text_and_drawn() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("one_seed.html");
    let file = path.to_str().unwrap();
    let text = told(&["--runs", "1", "--seed", "3", "--profile", "crash", "--text", "--trace", file]);
    assert!(text.contains("client0: MQTT ") && text.contains("-> CONNECT"), "{text}");
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("Seed 3 (crash)"));
    assert!(page.contains("<dt>program</dt><dd>"));
}

#[test]
fn a_wrong_argument_is_one_line() {
    let cases: [(&[&str], &str); 4] = [
        (&["--profile", "stormy"], "expected calm, network, narrow, crash, disk, asks or all"),
        (&["--minutes", "0"], "expected a number above 0"),
        (&["--runs", "0"], "0 is not in 1.."),
        (&["--minutes", "1", "--runs", "2"], "cannot be used with"),
    ];
    for (arguments, what) in cases {
        let outcome = run(culex(&["sim"]).args(arguments));
        assert_eq!((outcome.code, outcome.err.lines().count()), (Some(2), 1), "{outcome:?}");
        assert!(outcome.err.contains(what), "{outcome:?}");
    }
}

#[test]
fn a_picture_that_cannot_be_written_is_one_line() {
    let outcome = run(&mut culex(&["sim", "--runs", "1", "--trace", "no/such/place.html"]));
    let err = "culex: no/such/place.html: no such file or directory\n";
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(1), err));
}
