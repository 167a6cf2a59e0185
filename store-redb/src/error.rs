//! What redb says, in the words of stores.

use culex_core::store::{Failure, StoreError};
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

    pub(crate) fn io(&self, error: &io::Error) -> StoreError {
        let failure = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Failure::NoSpace,
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Failure::ReadOnly,
            // What redb says of a file that does not begin as its own do.
            ErrorKind::InvalidData => Failure::Foreign,
            _ => Failure::Other,
        };
        self.error(failure, error.to_string())
    }

    pub(crate) fn redb(&self, error: impl Into<redb::Error>) -> StoreError {
        use redb::Error as E;
        match error.into() {
            E::DatabaseAlreadyOpen | E::LockProtocolMismatch => self.error(Failure::Locked, ""),
            E::Io(error) => self.io(&error),
            E::Corrupted(detail) => self.error(Failure::Damaged, detail),
            error @ (E::UpgradeRequired(_)
            | E::TableTypeMismatch { .. }
            | E::TypeDefinitionChanged { .. }) => self.error(Failure::Foreign, error.to_string()),
            other => self.error(Failure::Other, other.to_string()),
        }
    }
}
