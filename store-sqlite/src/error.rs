//! What SQLite says, in the words of stores; and the lock, which it has for moments only.

use culex_core::store::{Failure, StoreError};
use rusqlite::{ErrorCode, ffi};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

/// Where the store lies: all its errors name it.
#[derive(Debug, Clone)]
pub(crate) struct Place(Arc<str>);

impl Place {
    pub(crate) fn new(directory: &Path) -> Self {
        Self(directory.to_string_lossy().into())
    }

    pub(crate) fn error(&self, failure: Failure, detail: impl Into<String>) -> StoreError {
        StoreError { failure, directory: String::from(&*self.0), detail: detail.into() }
    }

    /// Makes the directory if need be, and sees to it that nobody else has it. The lock by which SQLite would keep others out
    /// for good keeps out our own readers, too.
    pub(crate) fn lock(&self, directory: &Path) -> Result<File, StoreError> {
        let open = || {
            make_directory(directory)?;
            OpenOptions::new().write(true).create(true).truncate(false).open(directory.join("lock"))
        };
        let file = open().map_err(|error| self.io(&error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(self.error(Failure::Locked, "")),
            Err(TryLockError::Error(error)) => Err(self.io(&error)),
        }
    }

    fn io(&self, error: &io::Error) -> StoreError {
        let failure = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Failure::NoSpace,
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Failure::ReadOnly,
            _ => Failure::Other,
        };
        self.error(failure, error.to_string())
    }

    pub(crate) fn sqlite(&self, error: &rusqlite::Error) -> StoreError {
        let extended = error.sqlite_error().map(|error| error.extended_code);
        let failure = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Failure::Locked,
            Some(ErrorCode::DatabaseCorrupt) => Failure::Damaged,
            Some(ErrorCode::NotADatabase) => Failure::Foreign,
            Some(ErrorCode::DiskFull) => Failure::NoSpace,
            // It could not make its index of the log longer, and for that there is one reason.
            _ if extended == Some(ffi::SQLITE_IOERR_SHMSIZE) => Failure::NoSpace,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Failure::ReadOnly,
            _ => Failure::Other,
        };
        // What it says of an I/O error is that there was one; which one is in its number.
        let detail =
            extended.map_or_else(|| error.to_string(), |code| format!("{error} (SQLite error {code})"));
        self.error(failure, detail)
    }
}

/// Makes the directory if it is not there, and sees to it that it stays. What is made in it SQLite syncs itself.
fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(directory)?;
    match directory.parent() {
        Some(parent) if cfg!(unix) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent)?.sync_all()
        }
        _ => Ok(()),
    }
}
