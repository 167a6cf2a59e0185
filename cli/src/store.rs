//! `culex store`: looks at durable state while no broker uses it.

mod json;

use crate::data::{self, Data};
use crate::problem::Problem;
use clap::Subcommand;
use culex_core::store::{Image, OpenError};
use culex_core::{Message, Record, Seed};
use json::Line;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// What is done with a store. Each needs it for itself: a broker that runs has it locked.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreArgs {
    /// Tell how much is in it
    Info {
        /// What `data` names
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Read everything, and tell every entry that is damaged
    Check {
        /// What `data` names
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Give back the space in which nothing is kept any more
    Compact {
        /// What `data` names
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print what is in it as lines of JSON: messages with their payloads, no passwords
    Dump {
        /// What `data` names
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Copy it; of a broker that runs, set backup_dir and send it SIGUSR2
    Backup {
        /// What `data` names
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// A directory that is not there yet
        #[arg(value_name = "TO")]
        to: PathBuf,
    },
}

/// Does it; returns what is left to print.
pub(crate) fn store(args: &StoreArgs) -> Result<String, Problem> {
    match args {
        StoreArgs::Info { directory } => info(directory),
        StoreArgs::Check { directory } => check(directory),
        StoreArgs::Compact { directory } => compact(directory),
        StoreArgs::Dump { directory } => dump(directory),
        StoreArgs::Backup { directory, to } => {
            let copied = data::copy(&open(directory)?, to).map_err(Problem::failure)?;
            Ok(format!("{}: {copied}", to.display()))
        }
    }
}

fn open(directory: &Path) -> Result<Data, Problem> {
    data::open_existing(directory).map_err(Problem::failure)
}

/// Gives every record to `each`; a damaged entry ends it.
fn read(directory: &Path, store: &Data, each: &mut dyn FnMut(Record) -> bool) -> Result<(), Problem> {
    match Image::open(store, SEED, each) {
        Ok(_) | Err(OpenError::Stopped) => Ok(()),
        Err(error) => Err(cannot(directory, error)),
    }
}

/// What only the engine knows of names the directory, the rest does not.
fn cannot(directory: &Path, error: OpenError<culex_core::store::StoreError>) -> Problem {
    Problem::failure(match error {
        OpenError::Store(error) => error.to_string(),
        error => format!("{}: {error}", directory.display()),
    })
}

/// How many, and the bytes of their messages.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    number: u64,
    bytes: u64,
}

impl Count {
    fn add(&mut self, message: Option<&Message>) {
        self.number += 1;
        self.bytes += message.map_or(0, |message| message.size() as u64);
    }
}

fn info(directory: &Path) -> Result<String, Problem> {
    let store = open(directory)?;
    let (mut sessions, mut subscriptions) = (0_u64, 0_u64);
    let [mut queued, mut in_flight, mut incoming, mut retained, mut wills] = [Count::default(); 5];
    read(directory, &store, &mut |record| {
        match &record {
            Record::Session { .. } => sessions += 1,
            Record::Subscription { .. } => subscriptions += 1,
            Record::Queued { message, .. } => queued.add(Some(message)),
            Record::InFlight { message, .. } => in_flight.add(Some(message)),
            Record::Received { .. } => in_flight.add(None),
            Record::Inbound { message, .. } => incoming.add(message.as_ref()),
            Record::Retained(message) => retained.add(Some(message)),
            Record::Will { message, .. } => wills.add(Some(message)),
            _ => {}
        }
        true
    })?;
    let mut text = format!("sessions       {sessions}\nsubscriptions  {subscriptions}\n");
    let counts = [
        ("queued", queued),
        ("in flight", in_flight),
        ("incoming QoS 2", incoming),
        ("retained", retained),
        ("wills", wills),
    ];
    for (what, Count { number, bytes }) in counts {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{what:<14} {number}, {bytes} bytes");
    }
    text.push_str(&data::describe(&store).map_err(|error| Problem::failure(error.to_string()))?);
    Ok(text)
}

fn check(directory: &Path) -> Result<String, Problem> {
    let store = data::check(directory).map_err(Problem::failure)?;
    let mut lines = Vec::new();
    let checked = Image::check(&store, SEED, &mut |key, expected| {
        let error: OpenError<io::Error> = OpenError::Entry { key: key.to_vec(), expected };
        lines.push(format!("{}: {error}", directory.display()));
    });
    checked.map_err(|error| cannot(directory, error))?;
    if lines.is_empty() {
        Ok(format!("{}: ok", directory.display()))
    } else {
        Err(Problem { lines, code: 1 })
    }
}

fn compact(directory: &Path) -> Result<String, Problem> {
    let mut store = open(directory)?;
    let said = data::compact(&mut store).map_err(|error| Problem::failure(error.to_string()))?;
    Ok(format!("{}: {said}", directory.display()))
}

/// Prints as it reads: it may be more than fits into memory.
fn dump(directory: &Path) -> Result<String, Problem> {
    let store = open(directory)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    read(directory, &store, &mut |record| {
        written = writeln!(out, "{}", Line::of(&record));
        written.is_ok()
    })?;
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Problem::failure(format!("cannot print: {}", crate::problem::words(&error))))
        }
        // Who reads it may have seen enough.
        _ => Ok(String::new()),
    }
}

/// Nobody chooses the names in a table that lives as long as this program looks at it.
const SEED: Seed = Seed(0);
