//! Many simulations, one per seed, on several threads; and the story of one of them, to be told.
//!
//! ```
//! use culex_simulation::runs::{Limit, Runs};
//!
//! let runs = Runs { limit: Limit::Seeds(3), ..Runs::default() };
//! let summary = runs.run(&|_| {});
//! assert_eq!((summary.seeds, summary.failures.len()), (3, 0));
//! ```

use crate::trace::{Entry, Kind};
use crate::{Broken, Outcome, Profile, Promise, Script, Trace, shrink::shrink_while, simulate};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What runs a script: [`simulate`], or something that a test puts in its place.
pub type Simulate = fn(&Script, Option<&mut Trace>) -> Outcome;

/// Failures that are kept; of more only the number is.
pub const FAILURES_MAX: usize = 100;

/// Which seeds are run, and how.
#[derive(Debug, Clone)]
pub struct Runs {
    /// The first seed; the others follow it.
    pub first: u64,
    /// When to stop.
    pub limit: Limit,
    /// The profile of all; without it each seed chooses its own.
    pub profile: Option<Profile>,
    /// Machines that share the work of each broker.
    pub shards: u16,
    /// Threads; what comes out does not depend on their number.
    pub jobs: usize,
    /// What runs a script.
    pub simulate: Simulate,
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// After so many seeds.
    Seeds(u64),
    /// Begin no seed after this time.
    Time(Duration),
}

/// What came of many simulations.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// Inputs that their brokers were given.
    pub inputs: u64,
    /// Virtual microseconds.
    pub virtual_us: u64,
    /// In how many simulations a promise was put to the test.
    pub promises: BTreeMap<Promise, u64>,
    /// Over all of them: the same seeds give the same, on any number of threads.
    pub digest: u64,
    /// Seeds that failed.
    pub failed: u64,
    /// The first [`FAILURES_MAX`] of them.
    pub failures: BTreeMap<u64, Failure>,
}

/// How a simulation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The profile of the seed.
    pub profile: Profile,
    /// In words.
    pub what: String,
}

impl Default for Runs {
    /// A thousand seeds from 0 on, of all profiles, on one thread.
    fn default() -> Self {
        Self { first: 0, limit: Limit::Seeds(1_000), profile: None, shards: 1, jobs: 1, simulate }
    }
}

impl Runs {
    /// Runs them; `progress` is told of each seed that is done how many seeds failed so far.
    #[must_use]
    pub fn run(&self, progress: &(dyn Fn(u64) + Sync)) -> Summary {
        let begin = Instant::now();
        let next = AtomicU64::new(0);
        let summary = Mutex::new(Summary::default());
        let work = || {
            while !self.is_over(next.load(Ordering::Relaxed), begin) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                // Another thread may have taken the last one meanwhile.
                if matches!(self.limit, Limit::Seeds(seeds) if number >= seeds) {
                    return;
                }
                let script = Script::draw(self.first.wrapping_add(number), self.profile);
                let script = Script { shards: self.shards, ..script };
                let ending = attempt(self.simulate, &script, None);
                let mut summary = summary.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                summary.add(&script, ending);
                progress(summary.failed);
            }
        };
        std::thread::scope(|scope| {
            (1..self.jobs).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        summary.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn is_over(&self, begun: u64, begin: Instant) -> bool {
        match self.limit {
            Limit::Seeds(seeds) => begun >= seeds,
            Limit::Time(time) => begin.elapsed() >= time,
        }
    }
}

impl Summary {
    fn add(&mut self, script: &Script, ending: Result<Outcome, String>) {
        self.seeds += 1;
        let what = match ending {
            Ok(outcome) => {
                self.inputs += outcome.inputs;
                self.virtual_us += outcome.virtual_us;
                // A sum, so that the order in which they come does not matter.
                self.digest = self.digest.wrapping_add(outcome.digest.rotate_left(script.seed as u32 % 64));
                for promise in outcome.seen {
                    *self.promises.entry(promise).or_default() += 1;
                }
                outcome.broken.map(|(at, broken)| broken_at(at, &broken))
            }
            Err(panic) => Some(panic),
        };
        let Some(what) = what else { return };
        self.failed += 1;
        self.failures.insert(script.seed, Failure { profile: script.profile, what });
        if self.failures.len() > FAILURES_MAX {
            self.failures.pop_last();
        }
    }
}

/// One simulation, to be told.
#[derive(Debug, Clone)]
pub struct Story {
    /// What was done; made small if it failed.
    pub script: Script,
    /// How many steps the seed drew.
    pub steps_drawn: usize,
    /// What happened.
    pub trace: Trace,
    /// How it ended; `Err`: the broker, or the simulation, panicked.
    pub ending: Result<Outcome, String>,
}

impl Story {
    /// Runs a script with its trace. If it fails, it is made small first, by at most `tries` simulations.
    #[must_use]
    pub fn of(script: &Script, tries: usize, simulate: Simulate) -> Self {
        let ending = attempt(simulate, script, None);
        let kind = failure_kind(&ending);
        let small = if kind.is_some() {
            let again = |script: &Script| {
                let ending = attempt(simulate, script, None);
                (failure_kind(&ending) == kind).then_some(())
            };
            shrink_while(script, (), tries, again).0
        } else {
            script.clone()
        };
        let mut trace = Trace::default();
        let ending = attempt(simulate, &small, Some(&mut trace));
        if let Err(panic) = &ending {
            let at = trace.entries.last().map_or(0, |entry| entry.at);
            trace.entries.push(Entry { at, client: None, kind: Kind::Broken, text: panic.clone() });
        }
        say_in_words(&mut trace, &small);
        Self { script: small, steps_drawn: script.steps.len(), trace, ending }
    }

    /// What went wrong, in one line.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        match &self.ending {
            Ok(outcome) => outcome.broken.as_ref().map(|(at, broken)| broken_at(*at, broken)),
            Err(panic) => Some(panic.clone()),
        }
    }

    /// What one must say to `culex` to see this again.
    #[must_use]
    pub fn command(&self) -> String {
        let Script { seed, profile, shards, .. } = self.script;
        let shards = if shards > 1 { format!(" --shards {shards}") } else { String::new() };
        format!("culex sim --seed {seed} --runs 1 --profile {profile}{shards}")
    }
}

/// Runs a script; a panic is an ending like any other.
///
/// # Errors
/// If it panicked: what it said.
pub fn attempt(simulate: Simulate, script: &Script, trace: Option<&mut Trace>) -> Result<Outcome, String> {
    // The world of a simulation that panicked is gone with it; a trace is a list that only grows.
    catch_unwind(AssertUnwindSafe(|| simulate(script, trace))).map_err(|panic| words(panic.as_ref()))
}

/// The steps of a script as sentences, where the trace shows them as values.
fn say_in_words(trace: &mut Trace, script: &Script) {
    let sentences: BTreeMap<String, String> =
        script.steps.iter().map(|step| (format!("{:?}", step.op), step.op.to_string())).collect();
    for entry in &mut trace.entries {
        if let (Kind::Step | Kind::Fault, Some(sentence)) = (entry.kind, sentences.get(&entry.text)) {
            entry.text.clone_from(sentence);
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", said.unwrap_or("without a word"))
}

fn broken_at(at: u64, broken: &Broken) -> String {
    format!("broken at {}.{:03} s: {broken}", at / 1_000_000, at / 1_000 % 1_000)
}

/// Two endings are of one kind if the same promise is broken, or both panicked.
fn failure_kind(ending: &Result<Outcome, String>) -> Option<Option<Promise>> {
    match ending {
        Ok(outcome) => outcome.broken.as_ref().map(|(_, broken)| Some(broken.promise)),
        Err(_) => Some(None),
    }
}
