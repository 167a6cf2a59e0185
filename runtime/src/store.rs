//! A store of any engine, without the engine's types.

use culex_core::broker::Fetch;
use culex_core::store::{Batch, Durability, Each, Image, OpenError, Scan, Store};
use culex_core::{Broker, LogSeq, Record, RestoreError, Restored, Seed};
use std::fmt;

/// A store cannot be used. Displays as one line, in the words of the engine where they are its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFailed(Box<str>);

impl StoreFailed {
    pub(crate) fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string().into())
    }
}

impl fmt::Display for StoreFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StoreFailed {}

/// The entries of a running broker's store at one moment, to be read in any thread while the broker goes on: see
/// [`Handle::snapshot`](crate::Handle::snapshot).
pub struct Snapshot(Box<dyn Scan<Error = StoreFailed> + Send>);

impl Scan for Snapshot {
    type Error = StoreFailed;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreFailed> {
        self.0.scan(from, to, each)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

/// Any [`Store`]: traits with types of their own cannot be boxed.
pub(crate) trait Engine: Send {
    /// Restores a new machine from what the store holds. The store is then one that can be written: that is tried.
    fn restore(
        &mut self,
        broker: &mut Broker,
        seed: Seed,
        durability: Durability,
    ) -> Result<(Image, Restored), StoreFailed>;

    fn commit(&mut self, batch: &Batch, durability: Durability) -> Result<(), StoreFailed>;

    /// Reads a part of a queue; everything that the image knows of is committed.
    fn fetch(&self, image: &Image, fetch: &Fetch) -> Result<Vec<Record>, StoreFailed>;

    fn snapshot(&self) -> Result<Snapshot, StoreFailed>;
}

impl<S: Store + Send> Engine for S {
    fn restore(
        &mut self,
        broker: &mut Broker,
        seed: Seed,
        durability: Durability,
    ) -> Result<(Image, Restored), StoreFailed> {
        let mut restoring = broker.restoring().map_err(StoreFailed::new)?;
        let mut refused: Option<RestoreError> = None;
        let opened = Image::open(self, seed, &mut |record| {
            refused = restoring.record(record).err();
            refused.is_none()
        });
        let image = match (opened, refused) {
            (Err(OpenError::Stopped), Some(refused)) => return Err(StoreFailed::new(refused)),
            (opened, _) => opened.map_err(StoreFailed::new)?,
        };
        // What is in the store has no positions: those that the machine gives begin anew.
        let restored = restoring.finish(LogSeq(0));
        // Also where it is said already: better to hear now than from the first client that nothing can be written.
        let mut batch = Batch::default();
        Image::initialize(&mut batch);
        Store::commit(self, &batch, durability).map_err(StoreFailed::new)?;
        Ok((image, restored))
    }

    fn commit(&mut self, batch: &Batch, durability: Durability) -> Result<(), StoreFailed> {
        Store::commit(self, batch, durability).map_err(StoreFailed::new)
    }

    fn fetch(&self, image: &Image, fetch: &Fetch) -> Result<Vec<Record>, StoreFailed> {
        let Fetch { client_id, skip, messages_max, bytes_max, .. } = fetch;
        image.queued(self, client_id, *skip, *messages_max, *bytes_max).map_err(StoreFailed::new)
    }

    fn snapshot(&self) -> Result<Snapshot, StoreFailed> {
        let snapshot = Store::snapshot(self).map_err(StoreFailed::new)?;
        Ok(Snapshot(Box::new(Worded(snapshot))))
    }
}

/// What says in words why it failed.
struct Worded<S>(S);

impl<S: Scan> Scan for Worded<S> {
    type Error = StoreFailed;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), StoreFailed> {
        self.0.scan(from, to, each).map_err(StoreFailed::new)
    }
}
