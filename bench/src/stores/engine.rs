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
    /// With a write-ahead log four times as long.
    SqliteLong,
    Fjall,
}

impl Engine {
    pub(crate) const ALL: [Self; 5] =
        [Self::Redb, Self::RedbQuick, Self::Sqlite, Self::SqliteLong, Self::Fjall];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redb => "redb",
            Self::RedbQuick => "redb-quick",
            Self::Sqlite => "sqlite",
            Self::SqliteLong => "sqlite-long",
            Self::Fjall => "fjall",
        }
    }

    /// Opens the store in a directory.
    pub(crate) fn open(self, directory: &Path) -> Result<Box<dyn Opened>, Trouble> {
        use {culex_store_fjall as fjall, culex_store_redb as redb, culex_store_sqlite as sqlite};
        Ok(match self {
            Self::Redb | Self::RedbQuick => {
                let options = redb::Options { quick_repair: self == Self::RedbQuick, ..Default::default() };
                Box::new(redb::RedbStore::open(directory, &options)?)
            }
            Self::Sqlite | Self::SqliteLong => {
                let log_bytes = if self == Self::Sqlite { 4 << 20 } else { 16 << 20 };
                let options = sqlite::Options { log_bytes, ..Default::default() };
                Box::new(sqlite::SqliteStore::open(directory, &options)?)
            }
            Self::Fjall => Box::new(fjall::FjallStore::open(directory)?),
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
