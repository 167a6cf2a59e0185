//! `culex serve`: from the settings to the last goodbye.

use crate::certificates::Certificates;
use crate::data::{self, Backups};
use crate::problem::{Problem, one_line, words};
use crate::recording::Recordings;
use crate::runtime;
use crate::settings::Settings;
use crate::systemd::{Given, Notifier};
use crate::{log, say};
use culex_core::Seed;
use culex_core::store::Durability;
use culex_runtime::{Handle, ListenUrl, StoreFailed};
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::{io, process, thread};

/// Runs a broker until a signal ends it.
pub(crate) fn serve(settings: Settings, seed: Option<u64>) -> Result<(), Problem> {
    let given = Given::take()?;
    let listeners = settings.listeners();
    let certificates = Certificates::load(&listeners)?;
    log::start(&settings.log);
    raise_open_files();
    // Before anything says that we are up: who reads it may send the signal at once.
    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2])
        .map_err(|error| Problem::failure(format!("cannot watch for signals: {}", words(&error))))?;
    // The keys of a new RandomState come from the operating system.
    let seed = Seed(seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8)));
    let recordings = match settings.record.as_str() {
        "" => None,
        directory => {
            let (bytes_max, shards) = (settings.record_bytes_max, settings.shards());
            Some(Recordings::start(Path::new(directory), bytes_max, shards)?)
        }
    };
    let store = match settings.durable() {
        Some((directory, durability)) => {
            let store = data::open(directory).map_err(Problem::failure)?;
            Some((store, durability))
        }
        None => None,
    };
    let backups = match settings.backup_dir.as_str() {
        "" => None,
        directory => Some(Backups::start(Path::new(directory))?),
    };
    let (notifier, served) = (Notifier::from_env(), certificates.clone());
    let started = |urls: &[ListenUrl], handle: Handle| {
        certificates.watch()?;
        let told = Told {
            handle: handle.clone(),
            recordings: recordings.clone(),
            backups,
            notifier: notifier.clone(),
            certificates,
        };
        told.by(signals)?;
        tracing::info!(shards = settings.shards(), "serving");
        introduce(&settings, urls, &handle);
        notifier.ready();
        notifier.watch(handle)
    };
    let listeners = given.listeners(&listeners, |listener| served.of(listener))?;
    let recorders = recordings.as_ref().map_or_else(Vec::new, Recordings::recorders);
    let ended = runtime::run(&settings, listeners, seed, store, recorders, started);
    if let Some(recordings) = &recordings {
        recordings.write("end");
    }
    ended.map_err(|error| Problem::failure(told(&settings, &error)))?;
    tracing::info!("stopped");
    Ok(())
}

/// Engines name their directory. What is wrong with the entries in it is found where nobody knows of directories.
fn told(settings: &Settings, error: &io::Error) -> String {
    let line = one_line(&error.to_string());
    let of_store = error.get_ref().is_some_and(|error| error.is::<StoreFailed>());
    if of_store && !line.contains(&settings.data) { format!("{}: {line}", settings.data) } else { line }
}

/// What an operator should know about a broker that just started.
fn introduce(settings: &Settings, urls: &[ListenUrl], handle: &Handle) {
    for url in urls {
        say(&format!("listening on {url} ({})", settings.runtime));
    }
    for listener in settings.listeners() {
        for (key, value, default) in listener.changed() {
            say(&format!("{}: {key} = {value} (default: {default})", listener.url));
        }
    }
    for (key, value, default) in settings.changed() {
        say(&format!("{key} = {value} (default: {default})"));
    }
    let Some(((directory, durability), restored)) = settings.durable().zip(handle.restored()) else {
        return say("everything is kept in memory: it is gone when the broker stops");
    };
    let (directory, sessions) = (directory.display(), restored.sessions);
    say(&format!("restored from {directory}: {sessions} sessions, {} records", restored.records));
    say(match durability {
        Durability::Disk => "what is acknowledged survives a power cut (durability = disk)",
        Durability::Os => {
            "what is acknowledged survives the end of the program, but no power cut (durability = os)"
        }
    });
}

/// Whom signals concern.
struct Told {
    handle: Handle,
    recordings: Option<Recordings>,
    backups: Option<Backups>,
    notifier: Notifier,
    certificates: Certificates,
}

impl Told {
    /// The first SIGINT or SIGTERM says goodbye to every client, the second does not wait for that. SIGHUP reads
    /// certificates anew, SIGUSR1 writes a recording, SIGUSR2 a backup.
    fn by(self, mut signals: Signals) -> io::Result<()> {
        let watch = move || {
            let mut stopping = false;
            for signal in signals.forever() {
                match (signal, &self.recordings) {
                    (SIGHUP, _) => self.reload(),
                    (SIGUSR1, Some(recordings)) => recordings.write("signal"),
                    (SIGUSR1, None) => tracing::warn!("nothing is recorded: start with --record DIR"),
                    (SIGUSR2, _) => match &self.backups {
                        Some(backups) => backups.write(self.handle.clone()),
                        None => tracing::warn!("backups go nowhere: set backup_dir"),
                    },
                    _ if !stopping => {
                        stopping = true;
                        tracing::info!("shutting down; a second signal stops at once");
                        self.notifier.stopping();
                        self.handle.shutdown();
                    }
                    _ => process::exit(128 + signal),
                }
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop)
    }

    fn reload(&self) {
        self.notifier.reloading();
        if self.certificates.is_empty() {
            tracing::warn!("nothing to read anew: no listener has certificates");
        }
        self.certificates.reload();
        self.notifier.ready();
    }
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
