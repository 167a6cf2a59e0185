//! What SQLite says, in the words of stores; and the lock, which it does not have.

use culex_core::store::{Failure, StoreError};
use rusqlite::ErrorCode;
use std::fs::{File, OpenOptions, TryLockError};
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

    pub(crate) fn error(&self, failure: Failure, detail: String) -> StoreError {
        StoreError { failure, directory: String::from(&*self.0), detail }
    }

    /// Makes the directory if need be, and sees to it that nobody else has it. SQLite's own lock for that would keep out
    /// our readers, too.
    pub(crate) fn lock(&self, directory: &Path) -> Result<File, StoreError> {
        let open = || {
            std::fs::create_dir_all(directory)?;
            OpenOptions::new().write(true).create(true).truncate(false).open(directory.join("lock"))
        };
        let file = open().map_err(|error| self.io(&error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(self.error(Failure::Locked, String::new())),
            Err(TryLockError::Error(error)) => Err(self.io(&error)),
        }
    }

    pub(crate) fn io(&self, error: &io::Error) -> StoreError {
        let failure = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::NoSpace,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Failure::ReadOnly,
            _ => Failure::Other,
        };
        self.error(failure, error.to_string())
    }

    pub(crate) fn sqlite(&self, error: &rusqlite::Error) -> StoreError {
        let failure = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Failure::Locked,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Failure::Damaged,
            Some(ErrorCode::DiskFull) => Failure::NoSpace,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Failure::ReadOnly,
            _ => Failure::Other,
        };
        self.error(failure, error.to_string())
    }
}
