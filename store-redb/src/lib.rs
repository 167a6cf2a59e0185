//! The durable state of a broker in [redb](https://docs.rs/redb), a B-tree that is copied where it is written.
#![forbid(unsafe_code)]

mod error;

use culex_core::store::{Batch, Change, Durability, Each, Scan, Store, StoreError};
use error::Place;
use redb::{
    Builder, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction,
};
use std::path::Path;

const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory for pages that were read or will be written, in bytes.
    pub cache_bytes: usize,
    /// Whether every commit also says which pages are free: opening after a crash is then a matter of no time, commits
    /// cost one sync more.
    pub quick_repair: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, quick_repair: false }
    }
}

/// A store: one file in a directory.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
    place: Place,
    quick_repair: bool,
}

/// The entries of a [`RedbStore`] at one moment.
pub struct RedbSnapshot {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    place: Place,
}

impl RedbStore {
    /// Opens the store in a directory; makes both if they are not there.
    ///
    /// # Errors
    /// See [`Failure`](culex_core::store::Failure).
    pub fn open(directory: &Path, options: &Options) -> Result<Self, StoreError> {
        let place = Place::new(directory);
        std::fs::create_dir_all(directory).map_err(|error| place.io(&error))?;
        let database = Builder::new()
            .set_cache_size(options.cache_bytes)
            .create(directory.join("culex.redb"))
            .map_err(|error| place.redb(error))?;
        let store = Self { database, place, quick_repair: options.quick_repair };
        // So that whoever reads finds a table.
        store.write(|_| Ok(()))?;
        Ok(store)
    }

    fn write(
        &self,
        changes: impl FnOnce(&mut redb::Table<'_, &'static [u8], &'static [u8]>) -> Result<(), redb::StorageError>,
    ) -> Result<(), StoreError> {
        let transaction = || -> Result<WriteTransaction, redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(self.quick_repair);
            changes(&mut transaction.open_table(ENTRIES)?)?;
            Ok(transaction)
        };
        let transaction = transaction().map_err(|error| self.place.redb(error))?;
        transaction.commit().map_err(|error| self.place.redb(error))
    }

    fn read(&self) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>, StoreError> {
        let open = || -> Result<_, redb::Error> {
            let transaction: ReadTransaction = self.database.begin_read()?;
            Ok(transaction.open_table(ENTRIES)?)
        };
        open().map_err(|error| self.place.redb(error))
    }
}

impl Store for RedbStore {
    type Snapshot = RedbSnapshot;

    // redb keeps what is not synced in its own memory, where `kill -9` finds it: so both are `Disk`.
    fn commit(&mut self, batch: &Batch, _durability: Durability) -> Result<(), StoreError> {
        self.write(|table| {
            for change in batch.changes() {
                match change {
                    Change::Clear { from, to } => table.retain_in::<&[u8], _>(from..to, |_, _| false)?,
                    Change::Put { key, value } => drop(table.insert(key, value)?),
                    Change::Remove { key } => drop(table.remove(key)?),
                }
            }
            Ok(())
        })
    }

    fn snapshot(&self) -> Result<RedbSnapshot, StoreError> {
        Ok(RedbSnapshot { table: self.read()?, place: self.place.clone() })
    }
}

impl Scan for RedbStore {
    type Error = StoreError;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreError> {
        scan(&self.read()?, from, to, each).map_err(|error| self.place.redb(error))
    }
}

impl Scan for RedbSnapshot {
    type Error = StoreError;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreError> {
        scan(&self.table, from, to, each).map_err(|error| self.place.redb(error))
    }
}

fn scan(
    table: &ReadOnlyTable<&'static [u8], &'static [u8]>,
    from: &[u8],
    to: &[u8],
    each: Each<'_>,
) -> Result<(), redb::StorageError> {
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
