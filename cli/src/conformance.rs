//! `culex conformance`: scores a broker against the statements of the MQTT standards.

use crate::problem::{Problem, words};
use clap::Args;
use culex_conformance::{Options, Report, Trust, run, version_of};
use culex_core::packet::Version;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `conformance` takes.
#[derive(Debug, Args)]
pub(crate) struct ConformanceArgs {
    /// The broker: mqtt://HOST:PORT, ws://HOST:PORT/PATH, mqtts://, wss:// or unix:PATH; without it the machine in this
    /// process is scored
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The PEM file with the authorities whose certificates are trusted, for TLS
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca_file: Option<PathBuf>,
    /// Trust any certificate
    #[arg(long)]
    insecure: bool,
    /// Only this version: 3.1, 3.1.1 or 5; repeat it for several
    #[arg(long, value_name = "VERSION", value_parser = version)]
    version: Vec<Version>,
    /// Only scenarios of this statement; * stands for anything: 'MQTT-3.1.2-*', '311:*'
    #[arg(long, value_name = "STATEMENT")]
    clause: Option<String>,
    /// Also scenarios that wait up to so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    slow: u64,
    /// Milliseconds the broker may take for an answer
    #[arg(long, value_name = "MS", default_value_t = 2_000)]
    patience: u64,
    /// Tell scenarios that let time pass up to so many times until they pass: for busy machines
    #[arg(long, value_name = "N", default_value_t = 1)]
    attempts: usize,
    /// Write the results as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results as a page of HTML, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn version(word: &str) -> Result<Version, String> {
    version_of(word).ok_or_else(|| "expected 3.1, 3.1.1 or 5".to_owned())
}

/// Runs the scenarios; returns the table to print, and whether the broker passed.
pub(crate) fn conformance(args: ConformanceArgs) -> Result<(String, bool), Problem> {
    let options = Options {
        url: args.url,
        trust: args.ca_file.map(Trust::File).or(args.insecure.then_some(Trust::Anybody)),
        websocket: false,
        versions: args.version,
        clause: args.clause,
        longest: Duration::from_secs(args.slow),
        patience: Duration::from_millis(args.patience),
        attempts: args.attempts,
        first_only: false,
    };
    let report = run(&options).map_err(|error| Problem::mistakes(vec![format!("culex: {error}")]))?;
    write(args.json.as_deref(), &report, Report::json)?;
    write(args.html.as_deref(), &report, Report::html)?;
    let passed = report.failures().next().is_none();
    Ok((report.table(), passed))
}

fn write(path: Option<&Path>, report: &Report, text: fn(&Report) -> String) -> Result<(), Problem> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, text(report))
        .map_err(|error| Problem::failure(format!("culex: {}: {}", path.display(), words(&error))))
}
