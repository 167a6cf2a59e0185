//! `culex sim`: simulates brokers under faults, one per seed, against a model of what MQTT promises.

use crate::problem::{Problem, words};
use clap::Args;
use culex_simulation::runs::{Limit, Runs, Story, Summary};
use culex_simulation::{Profile, Script, html, simulate};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What `sim` takes.
#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Run so many seeds [default: 1000]
    #[arg(long, value_name = "M", conflicts_with = "minutes", value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,
    /// calm, network, narrow, crash, disk, asks, or all: each seed chooses
    #[arg(long, value_name = "PROFILE", default_value = "all", value_parser = profile)]
    profile: Chosen,
    /// Machines that share the work of each broker; with a disk there is one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,
    /// Begin no seed after so many minutes
    #[arg(long, value_name = "T", value_parser = minutes)]
    minutes: Option<Duration>,
    /// Threads; the results are the same on any number [default: one per core]
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Write a picture of the only seed, or of the first that failed
    #[arg(long, value_name = "FILE.html")]
    trace: Option<PathBuf>,
    /// Print what happened in the only seed, line by line; of a seed that failed that is done anyway
    #[arg(long)]
    text: bool,
}

/// A profile, or none: each seed chooses.
#[derive(Debug, Clone, Copy)]
struct Chosen(Option<Profile>);

fn profile(word: &str) -> Result<Chosen, String> {
    match (word, Profile::named(word)) {
        ("all", _) => Ok(Chosen(None)),
        (_, Some(profile)) => Ok(Chosen(Some(profile))),
        _ => Err("expected calm, network, narrow, crash, disk, asks or all".into()),
    }
}

fn minutes(word: &str) -> Result<Duration, String> {
    let minutes: Option<f64> = word.parse().ok();
    let duration = minutes.and_then(|minutes| Duration::try_from_secs_f64(minutes * 60.0).ok());
    duration.filter(|duration| !duration.is_zero()).ok_or_else(|| "expected a number above 0".into())
}

/// Simulations that make a failing script small: a second at most.
const SHRINK_TRIES: usize = 1_000;

/// Runs the simulations; returns what to print, and whether every promise was kept.
pub(crate) fn sim(args: &SimArgs) -> Result<(String, bool), Problem> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let limit = match args.minutes {
        Some(minutes) => Limit::Time(minutes),
        None => Limit::Seeds(args.runs.unwrap_or(1_000)),
    };
    let runs = Runs {
        first: args.seed,
        limit,
        profile: args.profile.0,
        shards: args.shards,
        jobs: args.jobs.map_or(cores, usize::from),
        simulate,
    };
    let begin = Instant::now();
    let summary = watched(&runs);
    let mut text = told(args.seed, &summary);
    // The only figure that another run of the same seeds does not repeat.
    let rate = summary.seeds as f64 / begin.elapsed().as_secs_f64();
    writeln!(text, "{rate:.0} seeds per second on {} threads", runs.jobs).ok();
    let failed = summary.failures.keys().next().copied();
    match failed.or((summary.seeds == 1).then_some(args.seed)) {
        Some(seed) => tell(args, seed, &mut text)?,
        None if args.trace.is_some() || args.text => {
            writeln!(text, "every promise was kept: for the trace of one seed say which, and --runs 1").ok();
        }
        None => {}
    }
    Ok((text, failed.is_none()))
}

/// Runs them under the eyes of whoever sits at the terminal.
fn watched(runs: &Runs) -> Summary {
    if !std::io::stderr().is_terminal() {
        return runs.run(&|_| {});
    }
    let (bar, template) = match runs.limit {
        Limit::Seeds(seeds) => {
            (ProgressBar::new(seeds), "{bar:30} {pos}/{len} seeds, {per_sec}, {eta} {msg}")
        }
        Limit::Time(_) => (ProgressBar::new_spinner(), "{spinner} {pos} seeds, {per_sec}, {elapsed} {msg}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let summary = runs.run(&|failed| {
        bar.inc(1);
        if failed > 0 {
            bar.set_message(format!("{failed} failed"));
        }
    });
    bar.finish_and_clear();
    summary
}

/// What came of all of them: the same for the same seeds.
fn told(first: u64, summary: &Summary) -> String {
    let Summary { seeds, inputs, virtual_us, promises, digest, failed, failures } = summary;
    let last = first.wrapping_add(seeds.saturating_sub(1));
    let hours = *virtual_us as f64 / 3.6e9;
    let mut text = format!("{seeds} seeds ({first} to {last}), {inputs} inputs, {hours:.1} virtual hours\n");
    writeln!(text, "digest {digest:016x}").ok();
    text.push_str("promises put to the test, and in how many seeds:\n");
    for (promise, count) in promises {
        writeln!(text, "  {count:>9}  {promise:?}").ok();
    }
    if *failed > 0 {
        writeln!(text, "{failed} seeds FAILED:").ok();
        for (seed, failure) in failures {
            writeln!(text, "  seed {seed} ({}): {}", failure.profile, failure.what).ok();
        }
        if *failed > failures.len() as u64 {
            writeln!(text, "  and {} more", failed - failures.len() as u64).ok();
        }
    }
    text
}

/// The story of one seed: shrunk if it failed, as text and as a picture.
fn tell(args: &SimArgs, seed: u64, text: &mut String) -> Result<(), Problem> {
    let script = Script { shards: args.shards, ..Script::draw(seed, args.profile.0) };
    // A panic was reported when it happened first.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let story = Story::of(&script, SHRINK_TRIES, simulate);
    std::panic::set_hook(hook);
    if let Some(failure) = story.failure() {
        let (steps, drawn) = (story.script.steps.len(), story.steps_drawn);
        writeln!(text, "\nseed {seed}, profile {}, {PROGRAM}", script.profile).ok();
        writeln!(text, "{failure}").ok();
        writeln!(text, "\n{steps} of {drawn} steps suffice:\n{}", story.script).ok();
        writeln!(text, "what happened:\n{}", story.trace.text()).ok();
        writeln!(text, "to see it again: {}", story.command()).ok();
    } else if args.text {
        writeln!(text, "\n{}\n{}", story.script, story.trace.text()).ok();
    }
    if let Some(path) = &args.trace {
        std::fs::write(path, html::page(&story, PROGRAM))
            .map_err(|error| Problem::failure(format!("culex: {}: {}", path.display(), words(&error))))?;
    }
    Ok(())
}

/// The program: with its commit, if that was known when it was built. A seed tells its story only there.
const PROGRAM: &str = match option_env!("CULEX_COMMIT") {
    Some(commit) => commit,
    None => concat!("culex ", env!("CARGO_PKG_VERSION")),
};
