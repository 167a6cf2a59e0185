//! Where durable state lies, and its backups. Which engine keeps it is said here and nowhere else.

use crate::problem::{Problem, words};
use culex_core::store::{Batch, Durability, Image, Scan, Size, Store, StoreError};
use culex_runtime::Handle;
use culex_store_sqlite::{FILE, Options};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// The engine.
pub(crate) type Data = culex_store_sqlite::SqliteStore;

/// Opens the store in a directory, or makes both: for nobody else's eyes, there are messages in it.
pub(crate) fn open(directory: &Path) -> Result<Data, String> {
    if !directory.is_dir() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        let made = made.and_then(|()| sync_name(directory));
        made.map_err(|error| format!("cannot make {}: {}", directory.display(), words(&error)))?;
    }
    Data::open(directory, &Options::default()).map_err(|error| error.to_string())
}

/// The name of a directory lies in the one above.
fn sync_name(directory: &Path) -> io::Result<()> {
    let above = directory.parent().filter(|above| !above.as_os_str().is_empty());
    File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

/// Opens the store in a directory, and makes none.
pub(crate) fn open_existing(directory: &Path) -> Result<Data, String> {
    exists(directory)?;
    open(directory)
}

/// The same, after the engine checked what it can.
pub(crate) fn check(directory: &Path) -> Result<Data, String> {
    exists(directory)?;
    Data::check(directory, &Options::default()).map_err(|error| error.to_string())
}

fn exists(directory: &Path) -> Result<(), String> {
    let found = fs::metadata(directory.join(FILE));
    found.map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no store in {}", directory.display()),
        _ => format!("cannot read {}: {}", directory.display(), words(&error)),
    })
}

/// How large it is on the disk, and of what format.
pub(crate) fn describe(store: &Data) -> Result<String, StoreError> {
    let Size { entries, file_bytes, free_bytes } = store.size()?;
    Ok(format!(
        "on disk        {entries} entries, {file_bytes} bytes, {free_bytes} of them free\nformat         {}, SQLite",
        Image::FORMAT
    ))
}

/// Gives free space back; tells how much.
pub(crate) fn compact(store: &mut Data) -> Result<String, StoreError> {
    let before = store.size()?.file_bytes;
    store.compact()?;
    Ok(format!("{before} bytes before, {} now", store.size()?.file_bytes))
}

/// How much was copied.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries, {} bytes", self.entries, self.bytes)
    }
}

/// Copies all entries into a store in a directory that is not there yet. It is there as a whole or not at all.
pub(crate) fn copy(from: &impl Scan, to: &Path) -> Result<Copied, String> {
    let told = |error: io::Error| format!("cannot write {}: {}", to.display(), words(&error));
    if to.exists() {
        return Err(format!("cannot write {}: it exists", to.display()));
    }
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = to.with_file_name(name);
    let copied = copy_entries(from, &part).and_then(|copied| {
        fs::rename(&part, to).and_then(|()| sync_name(to)).map_err(told)?;
        Ok(copied)
    });
    if copied.is_err() {
        // A full disk is better off without it.
        let _ = fs::remove_dir_all(&part);
    }
    copied
}

fn copy_entries(from: &impl Scan, to: &Path) -> Result<Copied, String> {
    // What a copy that was interrupted left.
    if to.exists() {
        let gone = fs::remove_dir_all(to);
        gone.map_err(|error| format!("cannot write {}: {}", to.display(), words(&error)))?;
    }
    let mut store = open(to)?;
    let (mut batch, mut copied, mut failed) = (Batch::default(), Copied::default(), None);
    let mut each = |key: &[u8], value: &[u8]| {
        copied.entries += 1;
        copied.bytes += (key.len() + value.len()) as u64;
        batch.put(key.to_vec(), value.to_vec());
        if batch.bytes() < BATCH_BYTES {
            return ControlFlow::Continue(());
        }
        let committed = store.commit(&batch, Durability::Os);
        batch.reset();
        match committed {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error.to_string());
                ControlFlow::Break(())
            }
        }
    };
    from.scan(&[0], &[0xFF], &mut each).map_err(|error| error.to_string())?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    // With it all that came before is on the disk.
    store.commit(&batch, Durability::Disk).map_err(|error| error.to_string())?;
    Ok(copied)
}

/// Backups of a running broker: its store is locked, so the program that has it must make them.
#[derive(Debug, Clone)]
pub(crate) struct Backups {
    directory: Arc<Path>,
}

impl Backups {
    /// Makes the directory if there is none.
    pub(crate) fn start(directory: &Path) -> Result<Self, Problem> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| {
            Problem::failure(format!("cannot back up into {}: {}", directory.display(), words(&error)))
        })?;
        Ok(Self { directory: directory.into() })
    }

    /// Writes one in a thread of its own, while the broker goes on.
    pub(crate) fn write(&self, handle: Handle) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let path: PathBuf = self.directory.join(format!("culex-{now}"));
        let write = move || {
            let snapshot = handle.snapshot().map_err(|error| error.to_string());
            match snapshot.and_then(|snapshot| copy(&snapshot, &path)) {
                Ok(copied) => tracing::info!("backup written: {}: {copied}", path.display()),
                Err(why) => tracing::error!("no backup was written: {why}"),
            }
        };
        if let Err(error) = thread::Builder::new().name("backup".to_owned()).spawn(write) {
            tracing::error!("no backup was written: {}", words(&error));
        }
    }
}

/// What one commit of a copy carries.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
