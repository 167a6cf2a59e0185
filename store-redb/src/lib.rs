//! The durable state of a broker in [redb](https://docs.rs/redb), a B-tree that is copied where it is written.
//!
//! A store is one file in a directory. A commit writes the pages that changed and those above them to free places, then a
//! header that points at them, and syncs once; redb checks after a crash which of the last two headers is whole.
//!
//! ```
//! use culex_core::store::{Batch, Durability, Store};
//! use culex_store_redb::{Options, RedbStore};
//!
//! # let directory = std::env::temp_dir().join(format!("culex-redb-{}", std::process::id()));
//! let mut store = RedbStore::open(&directory, &Options::default())?;
//! let mut batch = Batch::default();
//! batch.put(b"key".to_vec(), b"value".to_vec());
//! store.commit(&batch, Durability::Disk)?;
//! # drop(store);
//! # std::fs::remove_dir_all(&directory).ok();
//! # Ok::<(), culex_core::store::StoreError>(())
//! ```
#![forbid(unsafe_code)]

mod error;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use culex_core::store::{Batch, Change, Durability, Each, Failure, Scan, Size, Store, StoreError};
use error::Place;
use redb::{Builder, Database, ReadOnlyTable, ReadableDatabase, ReadableTableMetadata, StorageBackend};
use std::fmt;
use std::path::{Path, PathBuf};

/// The file in the directory of a store.
pub const FILE: &str = "culex.redb";

type TableDefinition = redb::TableDefinition<'static, &'static [u8], &'static [u8]>;
type Reading = ReadOnlyTable<&'static [u8], &'static [u8]>;
type Writing<'a> = redb::Table<'a, &'static [u8], &'static [u8]>;

const ENTRIES: TableDefinition = TableDefinition::new("entries");

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory for pages that were read or will be written, in bytes.
    pub cache_bytes: usize,
    /// Whether every commit also writes down which pages are free: then opening after a crash takes no time, instead of
    /// reading the whole file; and a commit takes two syncs instead of one.
    pub quick_repair: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, quick_repair: false }
    }
}

/// A store. Whoever drops it closes it.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
    file: PathBuf,
    place: Place,
    quick_repair: bool,
    /// Why a commit failed: there will be no other.
    failed: Option<StoreError>,
}

/// The entries of a [`RedbStore`] at one moment. As long as it is there, the pages it needs are not used again.
pub struct RedbSnapshot {
    table: Reading,
    place: Place,
}

impl fmt::Debug for RedbSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbSnapshot").field("place", &self.place).finish_non_exhaustive()
    }
}

impl RedbStore {
    /// Opens the store in a directory; makes both if they are not there.
    ///
    /// # Errors
    /// [`Failure`] says which there are.
    pub fn open(directory: &Path, options: &Options) -> Result<Self, StoreError> {
        Self::open_file(directory, options, false)
    }

    /// The same for a disk of the caller's; `directory` is only what errors say.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(
        disk: impl StorageBackend,
        directory: &Path,
        options: &Options,
    ) -> Result<Self, StoreError> {
        let place = Place::new(directory);
        let database = Builder::new()
            .set_cache_size(options.cache_bytes)
            .create_with_backend(disk)
            .map_err(|error| place.redb(error))?;
        Self::ready(database, directory, place, options)
    }

    /// Opens a store as [`open`](Self::open) does, after reading all of it: every page has to be what its checksum says, and
    /// every entry in its place.
    ///
    /// # Errors
    /// [`Failure::Damaged`] if something is wrong.
    pub fn check(directory: &Path, options: &Options) -> Result<Self, StoreError> {
        let mut store = Self::open_file(directory, options, true)?;
        match store.database.check_integrity() {
            Ok(true) => {}
            Ok(false) => return Err(store.place.error(Failure::Damaged, "it was repaired: check it again")),
            Err(error) => return Err(store.place.redb(error)),
        }
        let mut last: Option<Vec<u8>> = None;
        let mut ordered = true;
        for entry in store.table()?.range::<&[u8]>(..).map_err(|error| store.place.redb(error))? {
            let (key, _) = entry.map_err(|error| store.place.redb(error))?;
            ordered &= last.as_deref().is_none_or(|last| last < key.value());
            last = Some(key.value().to_vec());
        }
        if !ordered {
            return Err(store.place.error(Failure::Damaged, "keys are not in order"));
        }
        Ok(store)
    }

    fn open_file(directory: &Path, options: &Options, check: bool) -> Result<Self, StoreError> {
        let place = Place::new(directory);
        make_directory(directory).map_err(|error| place.io(&error))?;
        let database = Builder::new()
            .set_cache_size(options.cache_bytes)
            .set_check_integrity_on_open(check)
            .create(directory.join(FILE))
            .map_err(|error| place.redb(error))?;
        let store = Self::ready(database, directory, place, options)?;
        // A power cut could otherwise take the file with all that was synced in it.
        sync_directory(directory).map_err(|error| store.place.io(&error))?;
        Ok(store)
    }

    fn ready(
        database: Database,
        directory: &Path,
        place: Place,
        options: &Options,
    ) -> Result<Self, StoreError> {
        let file = directory.join(FILE);
        let store = Self { database, file, place, quick_repair: options.quick_repair, failed: None };
        // So that whoever reads finds a table. If it is there, nothing is written.
        if store.table().is_err() {
            store.write(|_| Ok(())).map_err(|error| store.place.redb(error))?;
        }
        Ok(store)
    }

    /// Moves what is at the end of the file to free places, and gives the rest back. Takes as long as writing everything
    /// anew, at most.
    ///
    /// # Errors
    /// If there is a snapshot; and as [`open`](Self::open).
    pub fn compact(&mut self) -> Result<(), StoreError> {
        // Each round frees what the next one can move to.
        while self.database.compact().map_err(|error| self.place.redb(error))? {}
        Ok(())
    }

    /// How large it is. Reads all inner pages.
    ///
    /// # Errors
    /// If something cannot be read.
    pub fn size(&self) -> Result<Size, StoreError> {
        let table = self.table()?;
        let count = || -> Result<(u64, u64), redb::StorageError> {
            let stats = table.stats()?;
            Ok((table.len()?, stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes()))
        };
        let (entries, used) = count().map_err(|error| self.place.redb(error))?;
        // On a disk of the caller's there is none.
        let file_bytes = self.file.metadata().map_or(0, |file| file.len());
        Ok(Size { entries, file_bytes, free_bytes: file_bytes.saturating_sub(used) })
    }

    fn write(
        &self,
        changes: impl FnOnce(&mut Writing<'_>) -> Result<(), redb::StorageError>,
    ) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(self.quick_repair);
        changes(&mut transaction.open_table(ENTRIES)?)?;
        Ok(transaction.commit()?)
    }

    fn table(&self) -> Result<Reading, StoreError> {
        let open =
            || -> Result<Reading, redb::Error> { Ok(self.database.begin_read()?.open_table(ENTRIES)?) };
        open().map_err(|error| self.place.redb(error))
    }
}

impl Store for RedbStore {
    type Snapshot = RedbSnapshot;

    // What redb does not sync it keeps in its own memory, where `kill -9` takes it: so both durabilities are `Disk`.
    fn commit(&mut self, batch: &Batch, _durability: Durability) -> Result<(), StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let made = self.write(|table| {
            for change in batch.changes() {
                match change {
                    Change::Clear { from, to } => table.retain_in::<&[u8], _>(from..to, |_, _| false)?,
                    Change::Put { key, value } => drop(table.insert(key, value)?),
                    Change::Remove { key } => drop(table.remove(key)?),
                }
            }
            Ok(())
        });
        made.map_err(|error| self.failed.insert(self.place.redb(error)).clone())
    }

    fn snapshot(&self) -> Result<RedbSnapshot, StoreError> {
        Ok(RedbSnapshot { table: self.table()?, place: self.place.clone() })
    }
}

impl Scan for RedbStore {
    type Error = StoreError;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreError> {
        scan(&self.table()?, from, to, each).map_err(|error| self.place.redb(error))
    }
}

impl Scan for RedbSnapshot {
    type Error = StoreError;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreError> {
        scan(&self.table, from, to, each).map_err(|error| self.place.redb(error))
    }
}

fn scan(table: &Reading, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), redb::StorageError> {
    if from >= to {
        return Ok(());
    }
    for entry in table.range::<&[u8]>(from..to)? {
        let (key, value) = entry?;
        if each(key.value(), value.value()).is_break() {
            break;
        }
    }
    Ok(())
}

/// Makes the directory if it is not there, and sees to it that it stays.
fn make_directory(directory: &Path) -> std::io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(directory)?;
    directory.parent().map_or(Ok(()), sync_directory)
}

/// What was made in it is there after a power cut.
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    // A relative path of one part has an empty parent.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    if cfg!(unix) { std::fs::File::open(directory)?.sync_all() } else { Ok(()) }
}
