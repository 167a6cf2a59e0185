//! `culex redact`: a recording that can be given away, for it holds no payload and no password.

use super::{parse, read};
use crate::problem::{Problem, words};
use crate::recording::create;
use crate::say;
use clap::Args;
use culex_core::Stack;
use culex_core::redact::Kind;
use culex_runtime::{Recording, Redacted, Stuck};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};

/// What `redact` takes.
#[derive(Debug, Args)]
pub(crate) struct RedactArgs {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to write the other one; nothing may be there
    #[arg(value_name = "OUT")]
    out: PathBuf,
}

/// Does it.
pub(crate) fn redact(args: &RedactArgs) -> Result<(), Problem> {
    let bytes = read(&args.file)?;
    let recording = parse(&args.file, &bytes)?;
    let redacted = without_secrets(&args.file, &recording)?;
    write(&args.out, &redacted.bytes).map_err(|error| {
        Problem::failure(format!("cannot write {}: {}", args.out.display(), words(&error)))
    })?;
    let end = if redacted.panics { ", to the panic at its end" } else { "" };
    say(&format!("{}: it replays as {} does{end}", args.out.display(), args.file.display()));
    say("replaced: payloads, passwords, Authentication Data, Correlation Data, values of User Properties");
    say("as they were: topics, Client Identifiers, User Names, addresses, lengths, times, settings");
    Ok(())
}

fn without_secrets(path: &Path, recording: &Recording<'_>) -> Result<Redacted, Problem> {
    let failure = |told: String| Problem::failure(format!("{}: {told}", path.display()));
    // It is written nowhere: without it nobody can try which payloads a hash may be of.
    let mut key = [0; 64];
    getrandom::fill(&mut key).map_err(|error| failure(format!("no key to hash with: {error}")))?;
    let hash = |kind: Kind, bytes: &[u8]| -> [u8; 32] {
        let mut hmac = Hmac::<Sha256>::new((&key).into());
        hmac.update(&[kind as u8]);
        hmac.update(bytes);
        hmac.finalize().into_bytes().into()
    };
    // A recording that ends with a panic makes every machine panic that does it again: that need not be told each time.
    let told = take_hook();
    set_hook(Box::new(|_| {}));
    let redacted = catch_unwind(AssertUnwindSafe(|| recording.redact(Stack::standard, &hash)));
    set_hook(told);
    match redacted {
        Ok(Ok(redacted)) => Ok(redacted),
        Ok(Err(Stuck::Bad(bad))) => Err(super::cannot(path, &bad)),
        Ok(Err(different)) => Err(failure(different.to_string())),
        Err(_) => Err(failure("a packet in it cannot be read without a panic".to_owned())),
    }
}

/// Writes a new file, all of it or none.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half of it is of no use.
        let _ = std::fs::remove_file(path);
    }
    written
}
