//! `culex serve`: from the settings to the last goodbye.

use crate::problem::{Problem, one_line, words};
use crate::runtime;
use crate::settings::Settings;
use crate::{log, say};
use culex_core::Seed;
use culex_runtime::Handle;
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::{io, process, thread};

/// Runs a broker until a signal ends it.
pub(crate) fn serve(settings: Settings, seed: Option<u64>) -> Result<(), Problem> {
    log::start(&settings.log);
    raise_open_files();
    // Before anything says that we are up: who reads it may send the signal at once.
    let signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Problem::failure(format!("cannot watch for signals: {}", words(&error))))?;
    // The keys of a new RandomState come from the operating system.
    let seed = Seed(seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8)));
    let started = |addresses: &[SocketAddr], handle: Handle| {
        stop_on(signals, handle)?;
        introduce(&settings, addresses);
        Ok(())
    };
    runtime::run(&settings, seed, started).map_err(|error| Problem::failure(one_line(&error.to_string())))?;
    tracing::info!("stopped");
    Ok(())
}

/// What an operator should know about a broker that just started.
fn introduce(settings: &Settings, addresses: &[SocketAddr]) {
    for (url, address) in settings.listen.iter().zip(addresses) {
        say(&format!("listening on {} ({})", url.bound_to(*address), settings.runtime));
    }
    for (key, value, default) in settings.changed() {
        say(&format!("{key} = {value} (default: {default})"));
    }
    say("everything is kept in memory: it is gone when the broker stops");
}

/// The first signal says goodbye to every client, the second does not wait for that.
fn stop_on(mut signals: Signals, handle: Handle) -> io::Result<()> {
    let watch = move || {
        let mut seen = signals.forever();
        if seen.next().is_some() {
            tracing::info!("shutting down; a second signal stops at once");
            handle.shutdown();
        }
        if let Some(signal) = seen.next() {
            process::exit(128 + signal);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop)
}

/// Every connection is an open file: take as many as we may have.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    if soft == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => tracing::debug!("open files: {soft:?} raised to {:?}", limit.maximum),
        Err(error) => tracing::warn!("open files: they stay at {soft:?}: {error}"),
    }
}
