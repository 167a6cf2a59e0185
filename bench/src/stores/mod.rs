//! `culex-bench stores`: what the engines cost that keep the durable state.

mod engine;
mod kill;
mod load;

use crate::Trouble;
use clap::Args;
use culex_core::store::Durability;
use engine::Engine;
use kill::clean;
pub(crate) use kill::{Victim, victim};
pub(crate) use load::medium;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// What is measured, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The engines
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Engine::ALL)]
    engines: Vec<Engine>,
    /// Where their files are put: on the disk that is meant
    #[arg(long, value_name = "PATH", default_value = "target/stores")]
    directory: PathBuf,
    /// How often everything is measured; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds per case and round
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Messages in the queues of a store that is opened
    #[arg(long, default_value_t = 1_000_000)]
    queued: usize,
    /// How often a writer is killed
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// A smoke run: everything once and for a moment; the figures mean nothing
    #[arg(long)]
    quick: bool,
}

/// The values of all rounds by engine and by what they are of, in the order of the table.
type Figures = BTreeMap<(usize, String), Vec<f64>>;

/// Measures everything and gives the tables.
pub(crate) fn run(plan: &Plan) -> Result<String, Trouble> {
    let quick = plan.quick;
    let rounds = if quick { 1 } else { plan.rounds };
    let time = Duration::from_secs_f64(if quick { 0.05 } else { plan.seconds });
    let queued = if quick { 2000 } else { plan.queued };
    clean(&plan.directory)?;
    fs::create_dir_all(&plan.directory)?;
    let mut figures = Figures::new();
    let mut medium = Vec::new();
    for round in 0..rounds {
        medium.push(load::medium(&plan.directory, time)?);
        // The engine that begins changes, so that no one always has the quiet or the loud part of a round.
        for at in 0..plan.engines.len() {
            let engine = (at + round) % plan.engines.len();
            measure(plan, engine, time, &mut figures)?;
        }
    }
    for (at, &engine) in plan.engines.iter().enumerate() {
        let home = plan.directory.join(engine.name());
        for _ in 0..rounds.div_ceil(2) {
            clean(&home)?;
            let names =
                ["open, closed before: s", "open, killed before: s", "read everything: s", "bytes on disk"];
            let values = load::restart(engine, &home, queued)?;
            for (name, value) in names.iter().zip(values) {
                figures.entry((at, format!("e {queued} queued, {name}"))).or_default().push(value);
            }
        }
        clean(&home)?;
    }
    let mut report = table(plan, &figures, &medium);
    for &engine in &plan.engines {
        for os in [true, false] {
            let home = plan.directory.join(engine.name());
            let kills = if quick { 2 } else { plan.kills };
            let outcome = kill::rounds(engine, os, &home, kills);
            clean(&home)?;
            let durability = if os { "Os" } else { "Disk" };
            let name = engine.name();
            let _ = match outcome {
                Ok(killed) => writeln!(
                    report,
                    "{name}, {durability}: killed {} times in {} batches, all there and whole; \
                     longest opening {:.2} s, longest commit {:.2} s, {} KiB at the end",
                    killed.rounds,
                    killed.batches,
                    killed.open_s,
                    killed.commit_s,
                    killed.bytes >> 10
                ),
                Err(trouble) => writeln!(report, "{name}, {durability}: BROKEN: {trouble}"),
            };
        }
    }
    clean(&plan.directory)?;
    Ok(report)
}

fn measure(plan: &Plan, at: usize, time: Duration, figures: &mut Figures) -> Result<(), Trouble> {
    let engine = plan.engines[at];
    let home = plan.directory.join(engine.name());
    let mut add = |name: String, value: f64| figures.entry((at, name)).or_default().push(value);
    for durability in [Durability::Disk, Durability::Os] {
        clean(&home)?;
        let mut store = engine.open(&home)?;
        // A broker that has been at it for a while.
        load::Queues::new(99).fill(&mut *store, if plan.quick { 100 } else { 100_000 })?;
        for publishers in [1, 50, 1000] {
            let outcome = load::publish(&mut *store, publishers, durability, time)?;
            let case = format!("a {durability:?} {publishers:>4} publishers,");
            add(format!("{case} messages/s"), outcome.per_second);
            add(format!("{case} p50 µs"), outcome.p50_us);
            add(format!("{case} p99 µs"), outcome.p99_us);
            add(format!("{case} bytes written per message"), outcome.written);
        }
        add(format!("b {durability:?} KiB on disk afterwards"), load::size(&home)? as f64 / 1024.0);
    }
    clean(&home)?;
    let mut store = engine.open(&home)?;
    add("c turning over a queue, messages/s".into(), load::turn_over(&mut *store, time)?);
    drop(store);
    add("d KiB on disk after that".into(), load::size(&home)? as f64 / 1024.0);
    clean(&home)
}

fn table(plan: &Plan, figures: &Figures, medium: &[f64]) -> String {
    let mut names: Vec<&String> = figures.keys().filter(|(at, _)| *at == 0).map(|(_, name)| name).collect();
    names.dedup();
    let mut table = format!("fdatasync of 4 KiB appended: {} per second\n\n", cell(medium));
    let engines: Vec<_> = plan.engines.iter().map(|engine| engine.name()).collect();
    let _ = writeln!(table, "| | {} |\n|---{}|", engines.join(" | "), "|---:".repeat(engines.len()));
    for name in names {
        let cells: Vec<_> = (0..engines.len())
            .map(|at| figures.get(&(at, name.clone())).map_or_else(String::new, |v| cell(v)))
            .collect();
        let _ = writeln!(table, "| {} | {} |", &name[2..], cells.join(" | "));
    }
    table + "\n"
}

/// The median, and the smallest and the largest of several.
pub(crate) fn cell(values: &[f64]) -> String {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let Some((first, last)) = values.first().zip(values.last()) else { return String::new() };
    let digits = if *last < 20.0 { 2 } else { 0 };
    let median = values[values.len() / 2];
    if values.len() == 1 {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({first:.digits$} to {last:.digits$})")
}
