//! The engines, one behind the other.

use crate::Trouble;
use culex_core::store::{Batch, Durability, Each, Store};
use std::path::Path;

/// What is measured. A new engine is a line here and in [`Engine::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Engine {
    Redb,
    /// With the list of free pages in every commit.
    RedbQuick,
    Sqlite,
    /// With a write-ahead log of a quarter of the length, as SQLite itself would have it.
    SqliteShort,
}

impl Engine {
    pub(crate) const ALL: [Self; 4] = [Self::Redb, Self::RedbQuick, Self::Sqlite, Self::SqliteShort];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redb => "redb",
            Self::RedbQuick => "redb-quick",
            Self::Sqlite => "sqlite",
            Self::SqliteShort => "sqlite-short",
        }
    }

    /// Opens the store in a directory.
    pub(crate) fn open(self, directory: &Path) -> Result<Box<dyn Opened>, Trouble> {
        use {culex_store_redb as redb, culex_store_sqlite as sqlite};
        Ok(match self {
            Self::Redb | Self::RedbQuick => {
                let options = redb::Options { quick_repair: self == Self::RedbQuick, ..Default::default() };
                Box::new(redb::RedbStore::open(directory, &options)?)
            }
            Self::Sqlite | Self::SqliteShort => {
                let mut options = sqlite::Options::default();
                if self == Self::SqliteShort {
                    options.log_bytes /= 4;
                }
                Box::new(sqlite::SqliteStore::open(directory, &options)?)
            }
        })
    }
}

/// A store of any engine.
pub(crate) trait Opened {
    fn commit(&mut self, batch: &Batch, durability: Durability) -> Result<(), Trouble>;
    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), Trouble>;
}

impl<S: Store> Opened for S {
    fn commit(&mut self, batch: &Batch, durability: Durability) -> Result<(), Trouble> {
        Store::commit(self, batch, durability).map_err(|error| Trouble::new(error.to_string()))
    }

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), Trouble> {
        culex_core::store::Scan::scan(self, from, to, each).map_err(|error| Trouble::new(error.to_string()))
    }
}
