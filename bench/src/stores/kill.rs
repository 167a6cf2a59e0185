//! `kill -9` while a store is written, many times over: what was acknowledged is there, and batches are whole.

use super::engine::Engine;
use super::load::{Queues, size};
use crate::Trouble;
use clap::Args;
use culex_core::hash::{Random, Seed};
use culex_core::store::{Batch, Durability};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A process that writes until it is killed, and says which batches were committed.
#[derive(Debug, Args)]
pub(crate) struct Victim {
    #[arg(long, value_enum)]
    engine: Engine,
    #[arg(long)]
    directory: PathBuf,
    /// The number of the first batch
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Queue so many messages, and be killed then
    #[arg(long)]
    fill: Option<usize>,
    #[arg(long)]
    os: bool,
}

/// So many batches are in the store; of older ones, each batch removes one.
const KEPT: u64 = 50;
/// The entries of a batch. A prime, so that batches do not end where pages do.
const ENTRIES: u64 = 61;

fn key(batch: u64, entry: u64) -> Vec<u8> {
    // The entries of a batch lie far from each other, in pages of their own.
    [entry.to_be_bytes(), batch.to_be_bytes()].concat()
}

/// Writes, forever.
pub(crate) fn victim(victim: &Victim) -> Result<(), Trouble> {
    let mut store = victim.engine.open(&victim.directory)?;
    let durability = if victim.os { Durability::Os } else { Durability::Disk };
    if let Some(messages) = victim.fill {
        Queues::new(1).fill(&mut *store, messages)?;
        std::process::abort();
    }
    let mut out = std::io::stdout();
    writeln!(out, "open")?;
    for number in victim.from.. {
        let mut batch = Batch::default();
        for entry in 0..ENTRIES {
            let size = 64 + (number * 31 + entry) % 137;
            batch.put_new(key(number, entry), vec![number as u8; size as usize]);
            if number >= KEPT {
                batch.remove(key(number - KEPT, entry));
            }
        }
        store.commit(&batch, durability)?;
        writeln!(out, "{number}")?;
        out.flush()?;
    }
    Ok(())
}

/// What came of all rounds.
#[derive(Debug, Default)]
pub(crate) struct Killed {
    pub(crate) rounds: u32,
    pub(crate) batches: u64,
    /// The longest that anything took: opening after a kill, and a commit.
    pub(crate) open_s: f64,
    pub(crate) commit_s: f64,
    pub(crate) bytes: u64,
}

/// Kills a writer at random moments, opens what it left, looks at it, and lets the next one go on.
pub(crate) fn rounds(engine: Engine, os: bool, directory: &Path, rounds: u32) -> Result<Killed, Trouble> {
    let mut random = Random::new(Seed(7));
    let mut killed = Killed::default();
    let mut next = 0;
    for round in 0..rounds {
        let patience = Duration::from_millis(random.next() % 400);
        let acknowledged = round_of(engine, os, directory, next, patience, &mut killed)?;
        let store = engine.open(directory)?;
        let mut found: Vec<(u64, u64)> = Vec::new();
        store.scan(&[0], &[0xFF], &mut |key, value| {
            let number =
                key.get(8..16).and_then(|part| part.try_into().ok()).map_or(u64::MAX, u64::from_be_bytes);
            match found.iter_mut().find(|(there, _)| *there == number) {
                Some((_, entries)) => *entries += 1,
                None => found.push((number, 1)),
            }
            if value.iter().any(|byte| *byte != number as u8) {
                found.push((number, u64::MAX));
            }
            ControlFlow::Continue(())
        })?;
        found.sort_unstable();
        let last = found.last().map(|(number, _)| number + 1).unwrap_or_default();
        let expected = (last.saturating_sub(KEPT)..last).map(|number| (number, ENTRIES));
        if last < acknowledged || !found.iter().copied().eq(expected) {
            let name = engine.name();
            return Err(Trouble::new(format!(
                "{name}, round {round}: {acknowledged} batches were acknowledged, {found:?} are there"
            )));
        }
        next = last;
    }
    killed.rounds = rounds;
    killed.batches = next;
    killed.bytes = size(directory)?;
    Ok(killed)
}

/// One life and its end; gives how many batches were acknowledged in all.
fn round_of(
    engine: Engine,
    os: bool,
    directory: &Path,
    from: u64,
    patience: Duration,
    killed: &mut Killed,
) -> Result<u64, Trouble> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["store-victim", "--engine", engine.name(), "--from", &from.to_string(), "--directory"]);
    command.arg(directory).args(os.then_some("--os")).stdout(Stdio::piped());
    let begin = Instant::now();
    let mut child = command.spawn()?;
    let out = child.stdout.take().ok_or_else(|| Trouble::new("the writer has no output"))?;
    let (say, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        lines.for_each(|line| drop(say.send((line, Instant::now()))));
    });
    let mut acknowledged = from;
    let mut last = begin;
    let mut end = None;
    let stuck = loop {
        let wait = end.map_or(STUCK, |end: Instant| end.saturating_duration_since(Instant::now()));
        let Ok((line, at)) = lines.recv_timeout(wait.min(STUCK)) else {
            break end.is_none_or(|end| Instant::now() < end);
        };
        let took = at.duration_since(last).as_secs_f64();
        last = at;
        if line == "open" {
            killed.open_s = killed.open_s.max(took);
            end = Some(at + patience);
        } else {
            killed.commit_s = killed.commit_s.max(took);
            acknowledged = line.parse::<u64>()? + 1;
        }
    };
    child.kill()?;
    child.wait()?;
    drop(reader.join());
    // What it said before it died counts, too.
    for (line, _) in lines.try_iter() {
        acknowledged = line.parse::<u64>().map_or(acknowledged, |number| number + 1);
    }
    if stuck {
        return Err(Trouble::new(format!("{}: nothing for {STUCK:?} after a kill", engine.name())));
    }
    Ok(acknowledged)
}

/// Who commits nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(20);

/// Removes what a run left.
pub(crate) fn clean(directory: &Path) -> Result<(), Trouble> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    Ok(())
}
