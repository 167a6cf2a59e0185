//! The durable state of a broker in SQLite, by way of [rusqlite](https://docs.rs/rusqlite) and with the library built in.
#![forbid(unsafe_code)]

mod error;

use culex_core::store::{Batch, Change, Durability, Each, Scan, Store, StoreError};
use error::Place;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::fs::File;
use std::path::{Path, PathBuf};

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory for pages, in bytes, of the writer and of each reader.
    pub cache_bytes: usize,
    /// How long the write-ahead log gets before it is carried over into the database, which takes one commit longer, in
    /// bytes.
    pub log_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, log_bytes: 4 << 20 }
    }
}

/// A store: a database, its write-ahead log and a lock, in a directory.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    durability: Durability,
    file: PathBuf,
    place: Place,
    /// Held as long as the store is open.
    _lock: File,
}

/// The entries of a [`SqliteStore`] at one moment.
#[derive(Debug)]
pub struct SqliteSnapshot {
    connection: Connection,
    place: Place,
}

impl SqliteStore {
    /// Opens the store in a directory; makes both if they are not there.
    ///
    /// # Errors
    /// See [`Failure`](culex_core::store::Failure).
    pub fn open(directory: &Path, options: &Options) -> Result<Self, StoreError> {
        let place = Place::new(directory);
        let lock = place.lock(directory)?;
        let file = directory.join("culex.sqlite");
        let open = || -> Result<Connection, rusqlite::Error> {
            let connection = Connection::open_with_flags(
                &file,
                OpenFlags::SQLITE_OPEN_READ_WRITE
                    | OpenFlags::SQLITE_OPEN_CREATE
                    | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?;
            connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
            connection.pragma_update(None, "synchronous", "full")?;
            connection.pragma_update(None, "wal_autocheckpoint", options.log_bytes >> 12)?;
            connection.pragma_update(None, "cache_size", -((options.cache_bytes >> 10) as i64))?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
            )?;
            Ok(connection)
        };
        let connection = open().map_err(|error| place.sqlite(&error))?;
        Ok(Self { connection, durability: Durability::Disk, file, place, _lock: lock })
    }

    fn make(&mut self, batch: &Batch, durability: Durability) -> Result<(), rusqlite::Error> {
        if self.durability != durability {
            // NORMAL leaves the log unsynced at a commit and syncs it before it is carried over.
            let synchronous = if durability == Durability::Disk { "full" } else { "normal" };
            self.connection.pragma_update(None, "synchronous", synchronous)?;
            self.durability = durability;
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in batch.changes() {
            match change {
                Change::Clear { from, to } => transaction
                    .prepare_cached("DELETE FROM entries WHERE key >= ?1 AND key < ?2")?
                    .execute([from, to])?,
                Change::Put { key, value } => transaction
                    .prepare_cached("INSERT OR REPLACE INTO entries (key, value) VALUES (?1, ?2)")?
                    .execute([key, value])?,
                Change::Remove { key } => {
                    transaction.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])?
                }
            };
        }
        transaction.commit()
    }
}

impl Store for SqliteStore {
    type Snapshot = SqliteSnapshot;

    fn commit(&mut self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        self.make(batch, durability).map_err(|error| self.place.sqlite(&error))
    }

    fn snapshot(&self) -> Result<SqliteSnapshot, StoreError> {
        let open = || -> Result<Connection, rusqlite::Error> {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&self.file, flags)?;
            // The moment is that of the first reading.
            connection.execute_batch("BEGIN; SELECT 1 FROM entries LIMIT 1")?;
            Ok(connection)
        };
        let connection = open().map_err(|error| self.place.sqlite(&error))?;
        Ok(SqliteSnapshot { connection, place: self.place.clone() })
    }
}

impl Scan for SqliteStore {
    type Error = StoreError;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreError> {
        scan(&self.connection, from, to, each).map_err(|error| self.place.sqlite(&error))
    }
}

impl Scan for SqliteSnapshot {
    type Error = StoreError;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreError> {
        scan(&self.connection, from, to, each).map_err(|error| self.place.sqlite(&error))
    }
}

fn scan(connection: &Connection, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), rusqlite::Error> {
    let mut statement = connection
        .prepare_cached("SELECT key, value FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key")?;
    let mut rows = statement.query([from, to])?;
    while let Some(row) = rows.next()? {
        let (key, value) = (row.get_ref(0)?, row.get_ref(1)?);
        if each(key.as_blob()?, value.as_blob()?).is_break() {
            break;
        }
    }
    Ok(())
}
