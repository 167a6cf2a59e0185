//! Runs the scenarios, several at once.

use crate::engine::{Failure, tell};
use crate::parse::parse;
use crate::report::{Report, Row, Verdict};
use crate::scenario::Scenario;
use crate::target::{Address, InProcess, Target, Trust, UrlError};
use culex_core::packet::Version;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What to run, and against what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The URL of a broker, see [`Address::new`]; without it: the machine in this process.
    pub url: Option<String>,
    /// Whose certificate is good enough, for a URL with TLS.
    pub trust: Option<Trust>,
    /// Without a URL: all scenarios by WebSocket, not only those that are about it.
    pub websocket: bool,
    /// The versions to run; empty: all.
    pub versions: Vec<Version>,
    /// Only scenarios that name a statement like this; `*` stands for anything: `MQTT-3.1.2-*`, `311:*`.
    pub clause: Option<String>,
    /// A broker at a URL is not told scenarios that wait longer than this.
    pub longest: Duration,
    /// How long a broker at a URL may take for an answer.
    pub patience: Duration,
    /// How often a scenario that lets time pass may be told to a broker at a URL until it passes: on a busy machine
    /// neither side is always on time.
    pub attempts: usize,
    /// Where a scenario leaves a choice, accept its first alternative only: what Culex is meant to do.
    pub first_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: None,
            trust: None,
            websocket: false,
            versions: Vec::new(),
            clause: None,
            longest: Duration::from_secs(3),
            patience: Duration::from_secs(2),
            attempts: 1,
            first_only: false,
        }
    }
}

/// Nothing could be run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunError {
    /// A scenario file has a mistake: `file:line: what`.
    Scenario(String),
    /// The address cannot be used.
    Url(UrlError),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scenario(mistake) => f.write_str(mistake),
            Self::Url(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RunError {}

impl From<UrlError> for RunError {
    fn from(error: UrlError) -> Self {
        Self::Url(error)
    }
}

static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/scenarios.rs"));

/// All scenarios of this crate, in the order of their files.
///
/// # Errors
/// The first mistake in a file.
pub fn built_in() -> Result<Vec<Scenario>, RunError> {
    let mut all = Vec::new();
    for (file, text) in FILES {
        all.extend(parse(file, text).map_err(RunError::Scenario)?);
    }
    Ok(all)
}

/// Runs the scenarios of this crate.
///
/// # Errors
/// If nothing could be run. What a broker does wrong stands in the report.
pub fn run(options: &Options) -> Result<Report, RunError> {
    let scenarios = built_in()?;
    match &options.url {
        None => Ok(run_on(&InProcess { websocket: options.websocket, mounted: false }, &scenarios, options)),
        Some(url) => {
            Ok(run_on(&Address::new(url, options.patience, options.trust.as_ref())?, &scenarios, options))
        }
    }
}

/// Runs scenarios on a target of one's own.
#[must_use]
pub fn run_on(target: &dyn Target, scenarios: &[Scenario], options: &Options) -> Report {
    let wanted = |scenario: &&Scenario| match &options.clause {
        None => true,
        Some(pattern) => scenario.clauses.iter().any(|clause| like(pattern, clause)),
    };
    let mut jobs = Vec::new();
    for scenario in scenarios.iter().filter(wanted) {
        for version in &scenario.versions {
            if options.versions.is_empty() || options.versions.contains(version) {
                jobs.push((scenario, *version));
            }
        }
    }
    let start = Instant::now();
    let salt = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some((scenario, version)) = jobs.get(i) else { return };
            let verdict = several(target, scenario, *version, salt.wrapping_add(i as u64), options);
            if let Ok(mut verdicts) = verdicts.lock() {
                verdicts.insert(i, verdict);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..target.parallel().min(jobs.len()) {
            scope.spawn(work);
        }
    });
    let verdicts = verdicts.into_inner().unwrap_or_default();
    let mut rows: Vec<Row> = Vec::new();
    for ((scenario, version), verdict) in jobs.into_iter().zip(verdicts.into_values()) {
        match rows.last_mut() {
            Some(row) if row.file == scenario.file && row.line == scenario.line => {
                row.verdicts.push((version, verdict));
            }
            _ => rows.push(Row::new(scenario, version, verdict)),
        }
    }
    Report { target: target.name(), rows, took: start.elapsed() }
}

/// Tells a scenario, again if only the clock may be to blame.
fn several(
    target: &dyn Target,
    scenario: &Scenario,
    version: Version,
    seed: u64,
    options: &Options,
) -> Verdict {
    let attempts = if scenario.waits(version).is_zero() { 1 } else { options.attempts.max(1) };
    let mut verdicts = (0..attempts as u64).map(|attempt| {
        let tag = tag(seed.wrapping_add(attempt << 32));
        one(target, scenario, version, tag, options)
    });
    let first = verdicts.next().expect("there is at least one attempt");
    match first {
        Verdict::Failed(_) => verdicts.find(|verdict| matches!(verdict, Verdict::Passed)).unwrap_or(first),
        _ => first,
    }
}

fn one(
    target: &dyn Target,
    scenario: &Scenario,
    version: Version,
    tag: String,
    options: &Options,
) -> Verdict {
    let mut broker = match target.broker(&scenario.needs, scenario.websocket) {
        Ok(broker) => broker,
        Err(why) => return Verdict::Skipped(why),
    };
    let waits = scenario.waits(version);
    if !broker.virtual_time() && waits > options.longest {
        return Verdict::Skipped(format!("slow: it waits up to {} s", waits.as_secs_f32()));
    }
    let told =
        catch_unwind(AssertUnwindSafe(|| tell(scenario, version, &mut *broker, tag, options.first_only)));
    match told {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(failure)) => Verdict::Failed(failure),
        Err(_) => Verdict::Failed(Failure {
            file: scenario.file.clone(),
            line: scenario.line,
            expected: scenario.title.clone(),
            got: "a panic".into(),
        }),
    }
}

/// Six characters that no other run has.
fn tag(seed: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    // The finalizer of splitmix64.
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    let mut text = String::new();
    for _ in 0..6 {
        text.push(char::from(DIGITS[(x % 36) as usize]));
        x /= 36;
    }
    text
}

/// Whether a statement's id is like a pattern with `*`.
pub(crate) fn like(pattern: &str, id: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == id,
        Some((head, tail)) => {
            let Some(rest) = id.strip_prefix(head) else { return false };
            (0..=rest.len()).any(|i| rest.is_char_boundary(i) && like(tail, &rest[i..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        assert!(
            like("MQTT-3.1.2-*", "MQTT-3.1.2-24") && like("*", "x") && like("311:*-1", "311:MQTT-3.1.0-1")
        );
        assert!(!like("MQTT-3.1.2-*", "MQTT-3.1.3-1") && !like("MQTT-3.1.2-2", "MQTT-3.1.2-24"));
    }
}
