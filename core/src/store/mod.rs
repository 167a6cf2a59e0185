//! What survives: the durable state as entries of an ordered map, and what keeps such a map.
//!
//! A durable machine says what happened, record by record ([`Record`](crate::Record), [`Action::Store`](crate::Action::Store)).
//! Kept as they come, records would be a log without end; so an [`Image`] turns each into changes of entries: what is there
//! afterwards describes the state, and no more. Records are collected in a [`Batch`] and reach the disk together.
//!
//! ```text
//!  machine ── Store { seq, record } ──► Image ──► Batch ──► Store::commit ──► Input::Committed(seq) ──► machine
//!                                                                             (or CommitFailed)
//!  machine ◄── records ── Image::open ◄── Scan ── Store          when a broker starts
//! ```
//!
//! An engine is anything that keeps a map of bytes in the order of its keys, and can change many entries in one step: it
//! implements [`Store`] and passes `testing::store_suite`. It knows nothing of MQTT.

mod batch;
mod entry;
mod error;
mod image;
mod memory;
mod open;

#[cfg(test)]
mod tests;

pub use batch::{Batch, Change};
pub use error::{Failure, StoreError};
pub use image::{Image, UnknownSession};
pub use memory::{Failing, MemoryError, MemorySnapshot, MemoryStore};
pub use open::OpenError;

use core::fmt;
use core::ops::ControlFlow;

/// What holds entries in the order of their keys, and can be read.
///
/// A key is at least 1 and at most [`KEY_BYTES_MAX`] bytes long; a value may be empty, and as long as a message.
pub trait Scan {
    /// Why reading failed.
    type Error: fmt::Display + fmt::Debug;

    /// Gives every entry whose key is in `from..to` to `each`, in the order of the keys, until it breaks. The order is that
    /// of slices of bytes; a range that ends where it begins, or before, has no entries. Borders need not be keys: they may
    /// be empty. `each` may scan, too.
    ///
    /// # Errors
    /// If something cannot be read; `each` may have seen entries before that.
    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), Self::Error>;
}

/// Gets the key and the value of an entry, and says whether it wants more.
pub type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// An engine: an ordered map of bytes that survives. One thread writes.
pub trait Store: Scan {
    /// The entries of one moment, for a reader in another thread: whatever is committed meanwhile does not show.
    type Snapshot: Scan<Error = Self::Error> + Send + 'static;

    /// Makes all changes of the batch or none. When it returns, they are visible, and survive what `durability` says; with
    /// them survives all that was committed before, however it was. What does not survive is always the end.
    ///
    /// # Errors
    /// The changes may be there or not, after a restart too. What was committed before is as it was. A store
    /// that failed once is not used again before it was opened anew: what a disk says after a failed sync is worth nothing.
    fn commit(&mut self, batch: &Batch, durability: Durability) -> Result<(), Self::Error>;

    /// The entries as they are now. It costs little, and does not hold up commits.
    ///
    /// # Errors
    /// If the engine cannot make one.
    fn snapshot(&self) -> Result<Self::Snapshot, Self::Error>;
}

/// What a commit survives when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The end of the process, `kill -9` included: the operating system has it.
    Os,
    /// The end of the machine, a power cut included: the disk has it.
    #[default]
    Disk,
}

/// How large a store is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Its entries.
    pub entries: u64,
    /// The bytes that its files take.
    pub file_bytes: u64,
    /// The bytes of these in which nothing is kept at the moment: what the engine will use before the files grow, and what
    /// compacting can give back.
    pub free_bytes: u64,
}

/// The longest key: a Topic Name or Client Identifier and what stands before it.
pub const KEY_BYTES_MAX: usize = 65_535 + 32;
