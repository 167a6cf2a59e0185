//! `culex replay`: does a recording again, checks that the broker does the same, and tells what it knew then.

mod describe;
mod diff;
mod explain;
mod redact;

pub(crate) use describe::utc;
pub(crate) use explain::{ExplainArgs, explain};
pub(crate) use redact::{RedactArgs, redact};

use crate::problem::{Problem, words};
use crate::say;
use clap::Args;
use culex_core::{BadSnapshot, Now, Stack};
use culex_runtime::{BadRecording, Did, Recording, Replay, Step, Stuck};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// What `replay` takes.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Stop so many seconds after its beginning
    #[arg(long, value_name = "SECONDS")]
    until: Option<f64>,
    /// Tell what the broker knows of this client at the end
    #[arg(long, value_name = "client=ID", value_parser = client)]
    inspect: Option<String>,
    /// Do it with the settings of this file as well, and tell what clients get then that they did not get, or no longer
    #[arg(long, value_name = "CONFIG")]
    diff: Option<PathBuf>,
}

fn client(text: &str) -> Result<String, String> {
    text.strip_prefix("client=").map(str::to_owned).ok_or_else(|| "expected client=ID".to_owned())
}

/// Does it.
pub(crate) fn replay(args: &ReplayArgs) -> Result<(), Problem> {
    let bytes = read(&args.file)?;
    let recording = parse(&args.file, &bytes)?;
    let mut replay = begin(&args.file, &recording)?;
    let mut other = match &args.diff {
        None => None,
        Some(config) => Some(diff::Other::new(&recording, config)?),
    };
    let mut count = Count::default();
    each_step(&args.file, &mut replay, args.until, |replay, step| {
        count.step(step);
        if let Some(other) = &mut other {
            other.step(replay.broker(), step);
        }
    })?;
    say(&count.tell(&args.file, &recording, &replay));
    if let Some(other) = other {
        say(other.tell(replay.broker()).trim_end());
    }
    if let Some(client_id) = &args.inspect {
        match replay.broker().inspect(client_id) {
            Some(found) => say(describe::inspection(&found, replay.now()).trim_end()),
            None => say(&format!("client {client_id:?} has no session at that time")),
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path)
        .map_err(|error| Problem::failure(format!("cannot read {}: {}", path.display(), words(&error))))
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Recording<'a>, Problem> {
    Recording::parse(bytes).map_err(|bad| cannot(path, &bad))
}

/// The program has two chains: that of `serve`, and that of `serve --data`.
fn begin<'a>(path: &Path, recording: &Recording<'a>) -> Result<Replay<'a>, Problem> {
    let begun = match recording.replay(Stack::standard) {
        Err(BadRecording::Snapshot { error: BadSnapshot::Stack(_), .. }) => recording.replay(Stack::durable),
        begun => begun,
    };
    begun.map_err(|bad| cannot(path, &bad))
}

fn cannot(path: &Path, bad: &BadRecording) -> Problem {
    Problem::failure(format!("{}: {bad}", path.display()))
}

/// Does every step until a time, and calls `each` after it.
fn each_step<'a>(
    path: &Path,
    replay: &mut Replay<'a>,
    until_s: Option<f64>,
    mut each: impl FnMut(&mut Replay<'a>, &Step),
) -> Result<(), Problem> {
    loop {
        let over = until_s.zip(replay.began()).zip(replay.next_time());
        if over.is_some_and(|((until, began), next)| seconds(began, next) > until) {
            return Ok(());
        }
        // What made the broker panic then does so now: that is what was to be found out.
        let step = catch_unwind(AssertUnwindSafe(|| replay.step()));
        let Ok(step) = step else {
            let told = format!("{}: {} makes the broker panic", path.display(), place(replay));
            return Err(Problem::failure(told));
        };
        match step {
            Ok(Some(step)) => each(replay, &step),
            Ok(None) => return Ok(()),
            Err(Stuck::Bad(bad)) => return Err(cannot(path, &bad)),
            Err(Stuck::Different(difference)) => {
                let on = match difference.connection {
                    Some(id) => format!(", {}", describe::connection(replay.broker(), id)),
                    None => String::new(),
                };
                let told = format!("{}: {}{on}: {}", path.display(), place(replay), difference.what);
                return Err(Problem::failure(told));
            }
        }
    }
}

/// Where in the recording we are.
fn place(replay: &Replay<'_>) -> String {
    let now = replay.now();
    let at = seconds(replay.began().unwrap_or(now), now);
    format!("input {}, {at:.3} s after the beginning ({})", replay.inputs(), describe::utc(now.wall))
}

/// Seconds from one time to another.
fn seconds(from: Now, to: Now) -> f64 {
    to.mono.since(from.mono) as f64 / 1e9
}

/// What a replay did.
#[derive(Debug, Default)]
struct Count {
    inputs: u64,
    connections: u64,
    writes: u64,
    bytes: u64,
    actions: u64,
}

impl Count {
    fn step(&mut self, step: &Step) {
        match &step.did {
            Did::Input(_, accepted) => {
                self.inputs += 1;
                self.connections += u64::from(accepted.is_some());
            }
            Did::Written { bytes, .. } => {
                self.inputs += 1;
                self.writes += 1;
                self.bytes += bytes.len() as u64;
            }
            Did::Taken(actions) => self.actions += actions.len() as u64,
            Did::Told { .. } | Did::Drained | Did::Segment => {}
        }
    }

    fn tell(&self, path: &Path, recording: &Recording<'_>, replay: &Replay<'_>) -> String {
        let Self { inputs, connections, writes, bytes, actions } = self;
        let (now, began) = (replay.now(), replay.began().unwrap_or(replay.now()));
        let mut text = format!(
            "{}: {inputs} inputs, {connections} new connections, {:.3} s from {}, segments: {}\n",
            path.display(),
            seconds(began, now),
            describe::utc(began.wall),
            recording.segments(),
        );
        let _ = write!(text, "the same again: {bytes} bytes in {writes} writes, {actions} actions");
        text
    }
}
