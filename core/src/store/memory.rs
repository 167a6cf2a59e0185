//! An engine that keeps its entries in memory, and fails when it is told to.

use crate::store::{Batch, Change, Durability, Each, Scan, Store};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// A store in memory, for tests of what stands above stores. A clone has the same entries and then goes its own way.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    entries: MemorySnapshot,
    /// What the disk would have: the entries after the last commit with [`Durability::Disk`].
    on_disk: MemorySnapshot,
    failing: Option<Failing>,
    failed: bool,
}

/// The entries of a [`MemoryStore`] at one moment.
#[derive(Debug, Clone, Default)]
pub struct MemorySnapshot(Arc<BTreeMap<Vec<u8>, Arc<[u8]>>>);

/// What is there of a commit that failed: an engine may leave one or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// Nothing.
    Lost,
    /// All of it: only the last step went wrong.
    Kept,
}

/// A commit failed because the test wanted it, or came after one that did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryError;

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store in memory was told to fail")
    }
}

impl core::error::Error for MemoryError {}

impl MemoryStore {
    /// The next commit fails, and all that follow until [`killed`](Self::killed) or [`power_cut`](Self::power_cut).
    pub fn fail_next_commit(&mut self, failing: Failing) {
        self.failing = Some(failing);
    }

    /// As it is found after the end of the process.
    #[must_use]
    pub fn killed(self) -> Self {
        Self { entries: self.entries, on_disk: self.on_disk, failing: None, failed: false }
    }

    /// As it is found after the end of the machine: what was only committed with [`Durability::Os`] is gone.
    #[must_use]
    pub fn power_cut(self) -> Self {
        Self { entries: self.on_disk.clone(), on_disk: self.on_disk, failing: None, failed: false }
    }

    fn apply(&mut self, batch: &Batch) {
        // Copied if a snapshot still looks at them.
        let entries = Arc::make_mut(&mut self.entries.0);
        for change in batch.changes() {
            match change {
                Change::Clear { from, to } => {
                    let mut rest = entries.split_off(from);
                    entries.append(&mut rest.split_off(to));
                }
                Change::Put { key, value } => drop(entries.insert(key.to_vec(), value.into())),
                Change::Remove { key } => drop(entries.remove(key)),
            }
        }
    }
}

impl Scan for MemorySnapshot {
    type Error = MemoryError;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), MemoryError> {
        if from < to {
            let mut range =
                self.0.range::<[u8], _>((core::ops::Bound::Included(from), core::ops::Bound::Excluded(to)));
            // Whether `each` wanted more is its own affair.
            let _ = range.try_for_each(|(key, value)| each(key, value));
        }
        Ok(())
    }
}

impl Scan for MemoryStore {
    type Error = MemoryError;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), MemoryError> {
        self.entries.scan(from, to, each)
    }
}

impl Store for MemoryStore {
    type Snapshot = MemorySnapshot;

    fn commit(&mut self, batch: &Batch, durability: Durability) -> Result<(), MemoryError> {
        if self.failed {
            return Err(MemoryError);
        }
        let failing = self.failing.take();
        self.failed = failing.is_some();
        if failing != Some(Failing::Lost) {
            self.apply(batch);
        }
        if self.failed {
            return Err(MemoryError);
        }
        if durability == Durability::Disk {
            self.on_disk = self.entries.clone();
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<MemorySnapshot, MemoryError> {
        Ok(self.entries.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Place, store_suite};
    use alloc::boxed::Box;
    use core::ops::ControlFlow;

    #[derive(Debug, Default)]
    struct Kept(MemoryStore);

    impl Place for Kept {
        type Store = MemoryStore;

        fn open(&mut self) -> MemoryStore {
            core::mem::take(&mut self.0)
        }

        fn close(&mut self, store: MemoryStore) {
            self.0 = store;
        }

        fn kill(&mut self, store: MemoryStore) {
            self.0 = store.killed();
        }

        fn cut_power(&mut self, store: MemoryStore) {
            self.0 = store.power_cut();
        }

        fn beside(&mut self, other: Box<dyn FnOnce() + Send>, here: &mut dyn FnMut()) {
            #[allow(clippy::disallowed_methods)] // the machine has no threads, its tests may
            let other = std::thread::spawn(other);
            here();
            other.join().unwrap();
        }
    }

    #[test]
    fn the_store_in_memory_passes_the_suite() {
        store_suite(Kept::default);
    }

    fn one(key: &str) -> Batch {
        let mut batch = Batch::default();
        batch.put(key.as_bytes().to_vec(), Vec::new());
        batch
    }

    fn keys(store: &MemoryStore) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        store
            .scan(b"", b"~", &mut |key, _| {
                keys.push(key.to_vec());
                ControlFlow::Continue(())
            })
            .unwrap();
        keys
    }

    #[test]
    fn after_a_failed_commit_nothing_is_committed_until_it_was_opened_anew() {
        for (failing, left) in [(Failing::Lost, 1), (Failing::Kept, 2)] {
            let mut store = MemoryStore::default();
            store.commit(&one("a"), Durability::Disk).unwrap();
            store.fail_next_commit(failing);
            assert_eq!(store.commit(&one("b"), Durability::Disk), Err(MemoryError));
            assert_eq!(store.commit(&one("c"), Durability::Disk), Err(MemoryError));
            let mut store = store.killed();
            assert_eq!(keys(&store).len(), left);
            store.commit(&one("c"), Durability::Disk).unwrap();
            assert_eq!(keys(&store).len(), left + 1);
        }
    }

    #[test]
    fn a_power_cut_takes_what_only_the_operating_system_had() {
        let mut store = MemoryStore::default();
        store.commit(&one("a"), Durability::Os).unwrap();
        store.commit(&one("b"), Durability::Disk).unwrap();
        store.commit(&one("c"), Durability::Os).unwrap();
        assert_eq!(keys(&store.power_cut()), [b"a", b"b"]);
    }
}
