//! The durable state of a broker in [SQLite](https://sqlite.org), by way of [rusqlite](https://docs.rs/rusqlite) and with
//! the library built in.
//!
//! A store is a database with one table, its write-ahead log, and a lock, in a directory. A commit appends the pages that
//! changed to the log and syncs that; from time to time the log is carried over into the database.
//!
//! ```
//! use culex_core::store::{Batch, Durability, Store};
//! use culex_store_sqlite::{Options, SqliteStore};
//!
//! # let directory = std::env::temp_dir().join(format!("culex-sqlite-{}", std::process::id()));
//! let mut store = SqliteStore::open(&directory, &Options::default())?;
//! let mut batch = Batch::default();
//! batch.put(b"key".to_vec(), b"value".to_vec());
//! store.commit(&batch, Durability::Disk)?;
//! # drop(store);
//! # std::fs::remove_dir_all(&directory).ok();
//! # Ok::<(), culex_core::store::StoreError>(())
//! ```
#![forbid(unsafe_code)]

mod error;
#[cfg(test)]
mod tests;

use culex_core::store::{Batch, Change, Durability, Each, Failure, Scan, Size, Store, StoreError};
use error::Place;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The database in the directory of a store. Its log has the same name with `-wal` behind it.
pub const FILE: &str = "culex.sqlite";

/// What the database says it is: `Culx`, and the version of its table.
const APPLICATION: i32 = i32::from_be_bytes(*b"Culx");
const VERSION: i32 = 1;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory for pages that were read, in bytes.
    pub cache_bytes: usize,
    /// How long the write-ahead log gets before it is carried over into the database, which takes one commit longer, in
    /// bytes. While there is a snapshot it can get longer. 16 MiB instead of SQLite's own 4 are worth 42,000 messages a
    /// second instead of 16,000, where 1,000 publishers write to 1,000 queues.
    pub log_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, log_bytes: 16 << 20 }
    }
}

/// A store. Whoever drops it closes it.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    durability: Durability,
    file: PathBuf,
    place: Place,
    /// Why a commit failed: there will be no other.
    failed: Option<StoreError>,
    /// Held as long as the store is open.
    _lock: File,
}

/// The entries of a [`SqliteStore`] at one moment. As long as it is there, the log cannot begin anew.
#[derive(Debug)]
pub struct SqliteSnapshot {
    connection: Connection,
    place: Place,
}

impl SqliteStore {
    /// Opens the store in a directory; makes both if they are not there.
    ///
    /// # Errors
    /// [`Failure`] says which there are.
    pub fn open(directory: &Path, options: &Options) -> Result<Self, StoreError> {
        let place = Place::new(directory);
        let lock = place.lock(directory)?;
        let file = directory.join(FILE);
        let connection = connect(&file, options).map_err(|error| place.sqlite(&error))?;
        let made = prepare(&connection).map_err(|error| place.sqlite(&error))?;
        if let Made::Foreign(detail) = made {
            return Err(place.error(Failure::Foreign, detail));
        }
        Ok(Self { connection, durability: Durability::Disk, file, place, failed: None, _lock: lock })
    }

    /// Opens a store as [`open`](Self::open) does, after reading all of it: every page has to be where others say, and every
    /// entry in its place. SQLite keeps no checksums of what lies in the database, so a value that changed by itself is not
    /// found.
    ///
    /// # Errors
    /// [`Failure::Damaged`] if something is wrong.
    pub fn check(directory: &Path, options: &Options) -> Result<Self, StoreError> {
        let store = Self::open(directory, options)?;
        let said = store.connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get::<_, String>(0));
        match said {
            Ok(said) if said == "ok" => Ok(store),
            Ok(said) => Err(store.place.error(Failure::Damaged, said)),
            Err(error) => Err(store.place.sqlite(&error)),
        }
    }

    /// Writes the database anew without what is free in it, and empties the log. Takes as much space again meanwhile.
    ///
    /// # Errors
    /// If there is a snapshot; and as [`open`](Self::open).
    pub fn compact(&mut self) -> Result<(), StoreError> {
        let compact = || -> Result<bool, rusqlite::Error> {
            self.connection.execute_batch("VACUUM")?;
            self.connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| Ok(row.get::<_, i64>(0)? == 0))
        };
        match compact() {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.place.error(Failure::Other, "a snapshot is in use")),
            Err(error) => Err(self.place.sqlite(&error)),
        }
    }

    /// How large it is. Counts all entries.
    ///
    /// # Errors
    /// If something cannot be read.
    pub fn size(&self) -> Result<Size, StoreError> {
        let number = |sql: &str| {
            let number = self.connection.query_row(sql, (), |row| row.get::<_, i64>(0));
            number.map(i64::unsigned_abs).map_err(|error| self.place.sqlite(&error))
        };
        let bytes = |file: &Path| file.metadata().map_or(0, |file| file.len());
        let mut log = self.file.clone().into_os_string();
        log.push("-wal");
        Ok(Size {
            entries: number("SELECT count(*) FROM entries")?,
            file_bytes: bytes(&self.file) + bytes(Path::new(&log)),
            free_bytes: number("PRAGMA freelist_count")? * number("PRAGMA page_size")?,
        })
    }

    fn make(&mut self, batch: &Batch, durability: Durability) -> Result<(), rusqlite::Error> {
        if self.durability != durability {
            // NORMAL leaves the log unsynced at a commit, and syncs it before it is carried over.
            let synchronous = if durability == Durability::Disk { "full" } else { "normal" };
            self.connection.pragma_update(None, "synchronous", synchronous)?;
            self.durability = durability;
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut changed = false;
        for change in batch.changes() {
            let count = match change {
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
            changed |= count > 0;
        }
        if !changed && durability == Durability::Disk {
            // A transaction without changes syncs nothing, and with this one all before it must be on the disk.
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        transaction.commit()
    }
}

impl Store for SqliteStore {
    type Snapshot = SqliteSnapshot;

    fn commit(&mut self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let made = self.make(batch, durability);
        made.map_err(|error| self.failed.insert(self.place.sqlite(&error)).clone())
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

fn connect(file: &Path, options: &Options) -> Result<Connection, rusqlite::Error> {
    // Only one thread at a time has a connection, so it needs no lock of its own.
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    // What a disk says that was asked for a sync is only true on some systems with this.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "cache_size", -((options.cache_bytes >> 10) as i64))?;
    connection.pragma_update(None, "wal_autocheckpoint", options.log_bytes / PAGE_BYTES)?;
    // What a long snapshot made of the log is given back.
    connection.pragma_update(None, "journal_size_limit", i64::from(options.log_bytes) * 4)?;
    Ok(connection)
}

/// SQLite's own choice.
const PAGE_BYTES: u32 = 4096;

enum Made {
    Ready,
    /// The database is somebody else's: why.
    Foreign(String),
}

/// Makes the table if there is nothing at all; otherwise looks whether it is ours.
fn prepare(connection: &Connection) -> Result<Made, rusqlite::Error> {
    let number = |sql| connection.query_row(sql, (), |row| row.get::<_, i32>(0));
    let (application, version) = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
    if application == 0 && version == 0 && number("SELECT count(*) FROM sqlite_schema")? == 0 {
        let mode = connection.query_row("PRAGMA journal_mode = wal", (), |row| row.get::<_, String>(0))?;
        if mode != "wal" {
            return Ok(Made::Foreign(format!("no write-ahead log is possible there, only {mode}")));
        }
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
             PRAGMA application_id = {APPLICATION};
             PRAGMA user_version = {VERSION};
             COMMIT"
        ))?;
    } else if application != APPLICATION {
        return Ok(Made::Foreign(format!("{FILE} is a database of another program")));
    } else if version != VERSION {
        return Ok(Made::Foreign(format!("its format is {version}, and {VERSION} is known")));
    }
    Ok(Made::Ready)
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
