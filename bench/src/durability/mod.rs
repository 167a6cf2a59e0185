//! `culex-bench durability`: what it costs that nothing is acknowledged before it is durable, and a broker that starts with much.

mod publish;
mod queue;
mod restart;

use crate::Trouble;
use crate::kill::broker::{Durable, Kind, ROOMY};
use crate::kill::culex;
use crate::stores::{cell, medium};
use clap::Args;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// What is measured, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The program `culex` [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// Where mosquitto is; without it there is no comparison
    #[arg(long, value_name = "PATH", default_value = "/usr/sbin/mosquitto")]
    mosquitto: PathBuf,
    /// What carries culex
    #[arg(long, value_parser = ["tokio", "smol", "std"], default_value = "tokio")]
    runtime: String,
    /// Where state is kept: on the disk that is meant
    #[arg(long, value_name = "PATH", default_value = "target/durability")]
    directory: PathBuf,
    /// How often everything is measured; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds per case and round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Messages for one client that is away
    #[arg(long, default_value_t = 1_000_000)]
    queued: u64,
    /// Sessions that a broker starts with: each has ten subscriptions and ten messages
    #[arg(long, default_value_t = 100_000)]
    sessions: u64,
    /// Only these
    #[arg(long, value_delimiter = ',', value_parser = ["publish", "queue", "restart"],
          default_value = "publish,queue,restart")]
    parts: Vec<String>,
    /// Nobody takes what is published, all of it is for a client that is away
    #[arg(long)]
    away_only: bool,
    /// A smoke run: everything once and for a moment; the figures mean nothing
    #[arg(long)]
    quick: bool,
}

/// A broker and how it keeps its state.
struct Target {
    name: &'static str,
    program: PathBuf,
    kind: Kind,
}

/// The values of all rounds: the place of the row in its table, what it says, and which target.
type Figures = BTreeMap<(usize, String, usize), Vec<f64>>;

/// Measures everything and gives the tables.
pub(crate) fn run(plan: &Plan) -> Result<String, Trouble> {
    let targets = targets(plan)?;
    let rounds = if plan.quick { 1 } else { plan.rounds };
    let mut report = String::new();
    let wants = |part: &str| plan.parts.iter().any(|wanted| wanted == part);
    std::fs::create_dir_all(&plan.directory)?;
    if wants("publish") {
        publishing(plan, &targets, rounds, &mut report)?;
    }
    if wants("queue") {
        let queued = if plan.quick { 3000 } else { plan.queued };
        let mut figures = Figures::new();
        for _ in 0..rounds.min(3) {
            for (at, target) in targets.iter().enumerate() {
                let mut broker = broker(plan, target)?;
                for (row, (what, value)) in queue::run(&mut broker, queued)?.into_iter().enumerate() {
                    figures.entry((row, what.to_owned(), at)).or_default().push(value);
                }
            }
        }
        let _ = writeln!(report, "{queued} messages of 64 bytes for one client that is away:\n");
        table(&targets, &figures, &mut report);
    }
    if wants("restart") {
        let sessions = if plan.quick { 100 } else { plan.sessions };
        restart::run(plan, &targets[0], sessions, rounds.min(3), &mut report)?;
    }
    let _ = std::fs::remove_dir_all(&plan.directory);
    Ok(report)
}

fn targets(plan: &Plan) -> Result<Vec<Target>, Trouble> {
    let program = culex(plan.bin.as_ref())?;
    let of = |name: &'static str, durability: Option<&str>| {
        let kind = Kind::Culex { runtime: plan.runtime.clone(), durability: durability.map(str::to_owned) };
        Target { name, program: program.clone(), kind }
    };
    let mut targets = vec![of("disk", Some("disk")), of("os", Some("os")), of("none", None)];
    if plan.mosquitto.exists() && !plan.quick {
        let (program, kind) = (plan.mosquitto.clone(), Kind::Mosquitto { autosave_s: 1800 });
        targets.push(Target { name: "mosquitto", program, kind });
    }
    Ok(targets)
}

fn broker(plan: &Plan, target: &Target) -> Result<Durable, Trouble> {
    let directory = plan.directory.join(target.name);
    let mut broker = Durable::new(target.program.clone(), &target.kind, directory, ROOMY)?;
    broker.start()?;
    Ok(broker)
}

fn publishing(plan: &Plan, targets: &[Target], rounds: usize, report: &mut String) -> Result<(), Trouble> {
    let time = Duration::from_secs_f64(if plan.quick { 0.1 } else { plan.seconds });
    let (mut figures, mut syncs) = (Figures::new(), Vec::new());
    for round in 0..rounds {
        // The target that begins changes, so that no one always has the quiet or the loud part of a round.
        for at in 0..targets.len() {
            let at = (at + round) % targets.len();
            let limit = medium(&plan.directory, time / 2)?;
            syncs.push(limit);
            for publishers in [1, 50, 1000] {
                let outcome =
                    publish::run(&mut broker(plan, &targets[at])?, publishers, plan.away_only, time)?;
                let values = [
                    ("messages/s", outcome.per_second),
                    ("messages per sync of the medium", outcome.per_second / limit),
                    ("p50 ms", outcome.p50_ms),
                    ("p99 ms", outcome.p99_ms),
                    ("bytes written per message", outcome.written),
                ];
                for (row, (what, value)) in values.into_iter().enumerate() {
                    let what = format!("{publishers} publishers, {what}");
                    figures.entry((publishers * 10 + row, what, at)).or_default().push(value);
                }
            }
        }
    }
    let _ = writeln!(report, "fdatasync of 4 KiB appended: {} per second\n", cell(&syncs));
    table(targets, &figures, report);
    Ok(())
}

fn table(targets: &[Target], figures: &Figures, report: &mut String) {
    let mut rows: Vec<(usize, &String)> = figures.keys().map(|(row, what, _)| (*row, what)).collect();
    rows.dedup();
    let names: Vec<_> = targets.iter().map(|target| target.name).collect();
    let _ = writeln!(report, "| | {} |\n|---{}|", names.join(" | "), "|---:".repeat(names.len()));
    for (row, what) in rows {
        let of = |at| figures.get(&(row, what.clone(), at)).map_or_else(String::new, |values| cell(values));
        let cells: Vec<_> = (0..targets.len()).map(of).collect();
        let _ = writeln!(report, "| {what} | {} |", cells.join(" | "));
    }
    report.push('\n');
}
