//! What redb says, in the words of stores.

use culex_core::store::{Failure, StoreError};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Where the store lies: all its errors name it.
#[derive(Debug, Clone)]
pub(crate) struct Place(Arc<str>);

impl Place {
    pub(crate) fn new(directory: &Path) -> Self {
        Self(directory.to_string_lossy().into())
    }

    fn error(&self, failure: Failure, detail: String) -> StoreError {
        StoreError { failure, directory: String::from(&*self.0), detail }
    }

    pub(crate) fn io(&self, error: &io::Error) -> StoreError {
        self.error(failure(error), error.to_string())
    }

    pub(crate) fn redb(&self, error: impl Into<redb::Error>) -> StoreError {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => self.error(Failure::Locked, String::new()),
            redb::Error::Io(error) => self.io(&error),
            redb::Error::Corrupted(detail) => self.error(Failure::Damaged, detail),
            other => self.error(Failure::Other, other.to_string()),
        }
    }
}

fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Failure::NoSpace
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Failure::ReadOnly,
        // A file that is not, or no longer, one of redb's.
        io::ErrorKind::InvalidData => Failure::Damaged,
        _ => Failure::Other,
    }
}
