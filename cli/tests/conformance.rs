//! The program scores brokers: itself on every runtime, and Debian's mosquitto as a check of the checker.

mod common;

use common::{Serving, culex, run};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn the_program_passes_every_scenario_on_every_runtime() {
    for runtime in ["tokio", "smol", "std"] {
        let broker = serve("mqtt://127.0.0.1:0", runtime);
        passes(&broker, runtime, &[]);
    }
}

#[test]
fn the_program_passes_every_scenario_by_websocket() {
    let broker = serve("ws://127.0.0.1:0/mqtt", "tokio");
    passes(&broker, "tokio", &[]);
}

#[test]
fn the_program_passes_the_scenarios_of_websocket_on_every_runtime() {
    for runtime in ["tokio", "smol", "std"] {
        let broker = serve("ws://127.0.0.1:0/mqtt", runtime);
        let out = passes(&broker, runtime, &["--clause", "*MQTT-6.0.0-*"]);
        assert!(out.contains(" 0 skipped") && !out.contains("0 of 0"), "on {runtime}:\n{out}");
    }
}

const EXPECTED: &str = "expected mqtt://host:port, ws://host:port/path, mqtts://, wss:// or unix:path";

#[test]
fn a_url_that_cannot_be_scored_is_one_line() {
    for (url, what) in [
        ("http://127.0.0.1", EXPECTED),
        ("ws:///mqtt", EXPECTED),
        ("mqtt://127.0.0.1:x", EXPECTED),
        ("unix:", EXPECTED),
        ("mqtts://127.0.0.1", "TLS needs to know whom to trust: --ca-file FILE or --insecure"),
    ] {
        let outcome = run(&mut culex(&["conformance", "--url", url]));
        assert_eq!((outcome.code, outcome.err), (Some(2), format!("culex: {url}: {what}\n")));
    }
}

fn serve(url: &str, runtime: &str) -> Serving {
    Serving::start(&mut culex(&["serve", "--listen", url, "--runtime", runtime]))
}

/// Scores a broker, which must pass; returns the table.
fn passes(broker: &Serving, runtime: &str, arguments: &[&str]) -> String {
    let url = broker.urls().next().expect("it listens");
    let outcome = run(culex(&["conformance", "--url", url]).args(arguments));
    assert_eq!(outcome.code, Some(0), "on {runtime}:\n{}{}", outcome.out, outcome.err);
    outcome.out
}

/// Kills the broker with the test.
struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn mosquitto_passes_most_scenarios_and_not_those_it_is_known_to_fail() {
    let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"];
    let Some(program) = program.into_iter().find(|path| std::path::Path::new(path).exists()) else {
        assert!(std::env::var_os("CULEX_REQUIRE_CLIENTS").is_none(), "mosquitto is not installed");
        eprintln!("SKIPPED: mosquitto is not installed (apt-get install mosquitto)");
        return;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Without a file it listens on the loopback interface only, and lets everybody in.
    let child = Command::new(program).args(["-p", &port.to_string()]).stderr(Stdio::null()).spawn().unwrap();
    let _mosquitto = Mosquitto(child);
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "mosquitto does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let outcome = score(&format!("mqtt://127.0.0.1:{port}"));
    let summary = outcome.out.lines().rev().find(|line| line.contains('%')).unwrap_or_default();
    eprintln!("mosquitto: {summary}");
    let percent = summary.split_once('(').and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
    // A checker that everybody fails, or that everybody passes, checks nothing.
    assert!(percent.is_some_and(|percent| (85.0..100.0).contains(&percent)), "{}", outcome.out);
}

fn score(url: &str) -> common::Outcome {
    run(&mut culex(&["conformance", "--url", url]))
}
