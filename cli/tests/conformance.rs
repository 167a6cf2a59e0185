//! The program scores brokers: itself on every runtime, and Debian's mosquitto as a check of the checker.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

mod common;

use common::{Serving, culex, file, run, run_within};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const RUNTIMES: [&str; 3] = ["tokio", "smol", "std"];
const TRANSPORTS: [&str; 5] = ["mqtt", "mqtts", "ws", "wss", "unix"];
/// Longer than all scenarios take, several times over.
const SCORE_TIME_MAX: Duration = Duration::from_secs(180);
/// Scored at once: they wait more than they work.
const AT_ONCE: usize = 3;

/// The scenarios by every transport on every runtime, and the table of it in README.md.
#[test]
fn the_program_passes_every_scenario_on_every_runtime_by_every_transport() {
    let place = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("transports");
    std::fs::create_dir_all(&place).unwrap();
    let ca_file = certificates(&place);
    let brokers = RUNTIMES.map(|runtime| serve_all(&place, runtime, "shards = 1\n"));
    let urls: Vec<Vec<&str>> = brokers.iter().map(|broker| broker.urls().collect()).collect();
    let (next, scores) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let cell = next.fetch_add(1, Ordering::Relaxed);
            let Some(transport) = TRANSPORTS.get(cell / RUNTIMES.len()) else { return };
            let (runtime, url) =
                (RUNTIMES[cell % RUNTIMES.len()], urls[cell % RUNTIMES.len()][cell / RUNTIMES.len()]);
            assert!(url.starts_with(transport));
            let ca_file = ca_file.to_str().unwrap();
            let mut command = culex(&["conformance", "--url", url, "--ca-file", ca_file, "--attempts", "3"]);
            let outcome = run_within(SCORE_TIME_MAX, &mut command);
            assert_eq!(outcome.code, Some(0), "{transport} on {runtime}:\n{}{}", outcome.out, outcome.err);
            scores.lock().unwrap().insert(cell, passed(&outcome.out));
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    let scores = scores.into_inner().unwrap();
    assert!(scores.values().all(|passed| *passed > 800), "{scores:?}");
    is_in_readme(&table(&scores));
}

/// Clients of a scenario are of several shards, and so are those that publish and subscribe to each other.
#[test]
fn the_program_passes_every_scenario_with_several_shards() {
    let place = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("shards");
    std::fs::create_dir_all(&place).unwrap();
    let ca_file = certificates(&place);
    let brokers = RUNTIMES.map(|runtime| serve_all(&place, runtime, "shards = 3\n"));
    let score = |url: &str| {
        let ca_file = ca_file.to_str().unwrap();
        let mut command = culex(&["conformance", "--url", url, "--ca-file", ca_file, "--attempts", "3"]);
        let outcome = run_within(SCORE_TIME_MAX, &mut command);
        assert_eq!(outcome.code, Some(0), "{url}:\n{}{}", outcome.out, outcome.err);
        assert!(passed(&outcome.out) > 800);
    };
    // The transport with the fewest layers and the one with the most, one after the other: some scenarios have clients that are
    // called the same wherever they come from.
    let wanted = |url: &&str| url.starts_with("mqtt://") || url.starts_with("wss");
    let urls = brokers.each_ref().map(|broker| broker.urls().filter(wanted).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        urls.iter().for_each(|urls| drop(scope.spawn(|| urls.iter().copied().for_each(score))));
    });
}

/// How many scenarios passed, each counted for each version of MQTT.
fn passed(out: &str) -> usize {
    let summary = out.lines().rev().find(|line| line.contains('%')).unwrap_or_default();
    let count = summary.split_whitespace().nth(1).and_then(|count| count.parse().ok());
    count.unwrap_or_else(|| panic!("no summary in:\n{out}"))
}

fn table(scores: &BTreeMap<usize, usize>) -> String {
    let mut table = format!("| | {} |\n|---|", RUNTIMES.join(" | "));
    table.push_str(&"--:|".repeat(RUNTIMES.len()));
    for (row, transport) in TRANSPORTS.iter().enumerate() {
        let mark = if *transport == "unix" { "" } else { "//" };
        table.push_str(&format!("\n| `{transport}:{mark}` |"));
        for column in 0..RUNTIMES.len() {
            table.push_str(&format!(" {} |", scores[&(row * RUNTIMES.len() + column)]));
        }
    }
    table + "\n"
}

/// Compares with the table in README.md, or with `UPDATE_DOCS=1` writes it.
fn is_in_readme(table: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let (opening, closing) = ("<!-- transports -->\n\n", "\n<!-- end of transports -->");
    let start = text.find(opening).expect("where the table is") + opening.len();
    let end = start + text[start..].find(closing).expect("where the table ends");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        text.replace_range(start..end, table);
        std::fs::write(path, text).unwrap();
    } else {
        let update = "UPDATE_DOCS=1 cargo test -p culex --test conformance";
        assert_eq!(&text[start..end], table, "README.md is out of date: {update}");
    }
}

/// An authority that signs a certificate for this machine; returns where it is.
fn certificates(place: &Path) -> PathBuf {
    let write = |name: &str, text: String| {
        std::fs::write(place.join(name), text).unwrap();
        place.join(name)
    };
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca_file = write("ca.pem", authority.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().unwrap();
    let broker = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    write("broker.pem", broker.signed_by(&key, &issuer).unwrap().pem());
    write("broker.key", key.serialize_pem());
    ca_file
}

/// A broker with a listener for each transport.
fn serve_all(place: &Path, runtime: &str, more: &str) -> Serving {
    let mut text = format!("runtime = \"{runtime}\"\n{more}");
    for transport in TRANSPORTS {
        let url = match transport {
            "unix" => format!("unix:{}", place.join(runtime).display()),
            _ => format!("{transport}://127.0.0.1:0"),
        };
        text.push_str(&format!("[[listener]]\nurl = \"{url}\"\n"));
        if matches!(transport, "mqtts" | "wss") {
            let name = |file: &str| place.join(file).display().to_string();
            let (certificate, key) = (name("broker.pem"), name("broker.key"));
            text.push_str(&format!("certificate = \"{certificate}\"\nkey = \"{key}\"\n"));
        }
    }
    let name = place.file_name().unwrap().display();
    let config = file(&format!("{name}_{runtime}.toml"), &text);
    Serving::start(&mut culex(&["serve", "--config", config.to_str().unwrap()]))
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
    run_within(SCORE_TIME_MAX, &mut culex(&["conformance", "--url", url]))
}
