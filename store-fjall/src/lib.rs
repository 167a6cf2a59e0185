//! The durable state of a broker in [fjall](https://docs.rs/fjall), a log-structured merge tree.
#![forbid(unsafe_code)]

use culex_core::store::{Batch, Change, Durability, Each, Failure, Scan, Store, StoreError};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use std::path::Path;
use std::sync::Arc;

/// A store: a directory of fjall.
pub struct FjallStore {
    database: Database,
    entries: Keyspace,
    place: Arc<str>,
}

/// The entries of a [`FjallStore`] at one moment.
pub struct FjallSnapshot {
    snapshot: Snapshot,
    entries: Keyspace,
    place: Arc<str>,
}

fn say(place: &str, error: &fjall::Error) -> StoreError {
    StoreError { failure: Failure::Other, directory: place.into(), detail: error.to_string() }
}

impl FjallStore {
    /// Opens the store in a directory; makes both if they are not there.
    ///
    /// # Errors
    /// If the engine cannot open it.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let place: Arc<str> = directory.to_string_lossy().into();
        let open = || -> Result<_, fjall::Error> {
            let database = Database::builder(directory).open()?;
            let entries = database.keyspace("entries", KeyspaceCreateOptions::default)?;
            Ok((database, entries))
        };
        let (database, entries) = open().map_err(|error| say(&place, &error))?;
        Ok(Self { database, entries, place })
    }
}

impl Store for FjallStore {
    type Snapshot = FjallSnapshot;

    fn commit(&mut self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        let mode = match durability {
            Durability::Os => PersistMode::Buffer,
            Durability::Disk => PersistMode::SyncData,
        };
        let commit = || -> Result<(), fjall::Error> {
            let mut changes = self.database.batch().durability(Some(mode));
            for change in batch.changes() {
                match change {
                    Change::Clear { from, to } => {
                        for entry in self.entries.range(from..to) {
                            changes.remove(&self.entries, entry.key()?);
                        }
                    }
                    Change::Put { key, value } => changes.insert(&self.entries, key, value),
                    Change::Remove { key } => changes.remove(&self.entries, key),
                }
            }
            changes.commit()
        };
        commit().map_err(|error| say(&self.place, &error))
    }

    fn snapshot(&self) -> Result<FjallSnapshot, StoreError> {
        let snapshot = self.database.snapshot();
        Ok(FjallSnapshot { snapshot, entries: self.entries.clone(), place: self.place.clone() })
    }
}

impl Scan for FjallStore {
    type Error = StoreError;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreError> {
        self.snapshot()?.scan(from, to, each)
    }
}

impl Scan for FjallSnapshot {
    type Error = StoreError;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        for entry in self.snapshot.range(&self.entries, from..to) {
            let (key, value) = entry.into_inner().map_err(|error| say(&self.place, &error))?;
            if each(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
