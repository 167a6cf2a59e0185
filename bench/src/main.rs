//! What each runtime and each transport costs: `culex-bench transports`; how it measures, and what came of it, is in
//! `docs/benchmarks.md`. What engines cost that keep the durable state: `culex-bench stores`. Whether the program keeps what
//! it promised when it is killed: `culex-bench kill`; what keeping it costs: `culex-bench durability`. What many connections,
//! subscriptions and messages cost: `culex-bench scale`. `culex-bench charts` draws what was measured.
#![deny(unsafe_code)]

mod broker;
mod charts;
mod client;
mod counted;
mod durability;
mod kill;
mod load;
mod machine;
mod report;
mod scale;
mod stores;
mod stream;
mod transports;

use clap::{Parser, Subcommand};
use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "culex-bench", about = "What the runtimes, transports and stores of Culex cost")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure CPU per message, memory per connection and CPU per connect
    Transports(transports::Plan),
    /// Measure the engines that keep the durable state: speed, latency, bytes written, opening, and kills
    Stores(stores::Plan),
    /// Kill a durable broker in the middle of its work, again and again, and check what it promised
    Kill(kill::Plan),
    /// Measure what durable publishing, long queues and restarts with many sessions cost
    Durability(durability::Plan),
    /// Let the machine alone pass messages on: to be counted by callgrind
    Machine(machine::Plan),
    /// Draw what was measured
    Charts(charts::Plan),
    /// Count what many connections, sessions, subscriptions, retained and queued messages cost the machine
    Scale(scale::Plan),
    #[command(hide = true)]
    StoreVictim(stores::Victim),
}

#[global_allocator]
static ALLOCATOR: counted::Counting = counted::Counting;

fn main() -> ExitCode {
    let report = match Line::parse().command {
        Command::Transports(plan) => transports::run(&plan).map(|report| report.to_string()),
        Command::Stores(plan) => stores::run(&plan),
        Command::Kill(plan) => kill::run(&plan),
        Command::Durability(plan) => durability::run(&plan),
        Command::Machine(plan) => machine::run(&plan),
        Command::Charts(plan) => charts::run(&plan),
        Command::Scale(plan) => scale::run(&plan),
        Command::StoreVictim(victim) => stores::victim(&victim).map(|()| String::new()),
    };
    match report {
        Ok(report) => {
            let _ = write!(std::io::stdout(), "{report}");
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            let _ = writeln!(std::io::stderr(), "culex-bench: {trouble}");
            ExitCode::FAILURE
        }
    }
}

/// Why there are no figures.
#[derive(Debug)]
struct Trouble(String);

impl Trouble {
    fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}
