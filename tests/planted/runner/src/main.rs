//! Runs seeds from 0 on against the core it was built with.
//!
//! * `culex-planted COUNT`: the seeds that break a promise, separated by commas (nothing: none does);
//! * `culex-planted COUNT IGNORED EXPECTED [SHARDS]`: until one of the promises EXPECTED is broken by a seed that is not IGNORED
//!   (both separated by commas), with SHARDS machines if it says so. Prints that promise, how many seeds were run, the profile, and what was seen before it,
//!   separated by `|`; exit code 1 if there is none.

use culex_simulation::{Script, simulate};
use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(count) = arguments.first().and_then(|count| count.parse::<u64>().ok()) else {
        eprintln!("usage: culex-planted COUNT [IGNORED EXPECTED [SHARDS]]");
        return ExitCode::from(2);
    };
    // A panic is counted like a broken promise; where it was is of no interest here.
    std::panic::set_hook(Box::new(|_| {}));
    match &arguments[1..] {
        [ignored, expected, shards @ ..] => {
            let shards = shards.first().and_then(|shards| shards.parse().ok()).unwrap_or(1);
            let ignored = ignored.split(',').filter_map(|seed| seed.parse().ok()).collect();
            hunt(count, &ignored, &expected.split(',').map(str::trim).collect::<Vec<_>>(), shards)
        }
        _ => {
            let failing = (0..count).filter(|seed| breaks(*seed, 1).is_some());
            println!("{}", failing.map(|seed| seed.to_string()).collect::<Vec<_>>().join(","));
            ExitCode::SUCCESS
        }
    }
}

fn hunt(count: u64, ignored: &BTreeSet<u64>, expected: &[&str], shards: u16) -> ExitCode {
    let mut before = String::new();
    for seed in (0..count).filter(|seed| !ignored.contains(seed)) {
        let Some((promise, profile)) = breaks(seed, shards) else { continue };
        if expected.contains(&&*promise) {
            println!("{promise}|{}|{profile}|{before}", seed + 1);
            return ExitCode::SUCCESS;
        }
        if before.is_empty() {
            before = format!("{promise} after {}", seed + 1);
        }
    }
    println!("-|{count}|-|{before}");
    ExitCode::FAILURE
}

/// The promise that a seed breaks, and its profile.
fn breaks(seed: u64, shards: u16) -> Option<(String, &'static str)> {
    let script = Script { shards, ..Script::draw(seed, None) };
    let profile = script.profile.name();
    match catch_unwind(|| simulate(&script, None).broken) {
        Ok(None) => None,
        Ok(Some((_, broken))) => Some((format!("{:?}", broken.promise), profile)),
        Err(_) => Some(("panic".into(), profile)),
    }
}
