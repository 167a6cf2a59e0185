//! `culex-bench kill`: the program is killed in the middle of its work, again and again, and what it promised is checked.

pub(crate) mod broker;
pub(crate) mod client;
mod ledger;
mod world;

use crate::Trouble;
use broker::{Durable, Kind, ROOMY};
use clap::Args;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use world::World;

/// Whom to kill, and how often.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The program [default: culex beside this program, or /usr/sbin/mosquitto]
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// culex or mosquitto
    #[arg(long, value_parser = ["culex", "mosquitto"], default_value = "culex")]
    against: String,
    /// How often it is killed
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// What happens is drawn from it; when it happens depends on the machine, too
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What carries culex
    #[arg(long, value_parser = ["tokio", "smol", "std"], default_value = "tokio")]
    runtime: String,
    /// What culex promises
    #[arg(long, value_parser = ["disk", "os"], default_value = "disk")]
    durability: String,
    /// Seconds between two saves of mosquitto; 0: it saves when it ends
    #[arg(long, default_value_t = 1)]
    autosave: u32,
    /// Milliseconds of traffic in a round at most
    #[arg(long, default_value_t = 400)]
    traffic_ms: u64,
    /// Where state is kept: on the disk that is meant
    #[arg(long, value_name = "PATH", default_value = "target/kill")]
    directory: PathBuf,
    /// Leave the directory there
    #[arg(long)]
    keep: bool,
}

/// The program beside this one.
pub(crate) fn culex(given: Option<&PathBuf>) -> Result<PathBuf, Trouble> {
    Ok(match given {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("culex"),
    })
}

/// Kills, restarts, and checks; the report, or what was breached.
pub(crate) fn run(plan: &Plan) -> Result<String, Trouble> {
    let culex_is_it = plan.against == "culex";
    let (program, kind) = if culex_is_it {
        let durability = Some(plan.durability.clone());
        (culex(plan.bin.as_ref())?, Kind::Culex { runtime: plan.runtime.clone(), durability })
    } else {
        let program = plan.bin.clone().unwrap_or_else(|| "/usr/sbin/mosquitto".into());
        (program, Kind::Mosquitto { autosave_s: plan.autosave })
    };
    let broker = Durable::new(program, &kind, plan.directory.clone(), ROOMY)?;
    let begin = Instant::now();
    let mut world = World::new(broker, plan.seed, plan.traffic_ms, culex_is_it);
    for round in 0..plan.rounds {
        world.round(round)?;
    }
    world.drain()?;
    let report = report(plan, &kind, &world, begin.elapsed());
    let (breach, said) = (world.ledger.counts.is_breach(), world.broker.said());
    drop(world);
    if !plan.keep {
        let _ = std::fs::remove_dir_all(&plan.directory);
    }
    if breach { Err(Trouble::new(format!("promises were broken\n{report}{said}"))) } else { Ok(report) }
}

fn report(plan: &Plan, kind: &Kind, world: &World, took: Duration) -> String {
    let mut restarts: Vec<f64> = world.restarts.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    restarts.sort_by(f64::total_cmp);
    let at =
        |part: f64| restarts.get(((restarts.len() as f64 - 1.0) * part) as usize).copied().unwrap_or(0.0);
    let (sent, acknowledged) = world.ledger.sums();
    let mut text = format!("{kind:?}, seed {}\n", plan.seed);
    let _ = writeln!(text, "{:<42} {} in {:.0} s", "rounds", plan.rounds, took.as_secs_f64());
    let _ = writeln!(text, "{:<42} {}", "kills, of them while it started", world.kills());
    let _ = writeln!(text, "{:<42} {sent}", "messages");
    let _ = writeln!(text, "{:<42} {acknowledged}", "acknowledged");
    let _ = write!(text, "{}", world.ledger.counts);
    let _ = writeln!(
        text,
        "{:<42} {:.0} / {:.0} / {:.0}, {} KiB kept",
        "restart, ms: median, 99 %, longest",
        at(0.5),
        at(0.99),
        at(1.0),
        world.kept >> 10
    );
    for line in &world.ledger.breaches {
        let _ = writeln!(text, "  {line}");
    }
    text
}
