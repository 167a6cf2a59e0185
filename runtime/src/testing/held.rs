//! A store in memory whose commits a test holds up.

use culex_core::store::{Batch, Durability, Each, Scan, Store};
use culex_core::testing::{Failing, MemoryError, MemorySnapshot, MemoryStore};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A store in memory for several brokers, one after the other. Its commits wait while a test [holds](Self::hold) them.
/// Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct HeldStore(Arc<(Mutex<Inner>, Condvar)>);

#[derive(Debug, Default)]
struct Inner {
    store: MemoryStore,
    held: bool,
    /// Commits that began.
    begun: usize,
    /// Whether one of them waits.
    waiting: bool,
}

impl HeldStore {
    /// Commits wait from now on.
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// Commits go on.
    pub fn release(&self) {
        self.lock().held = false;
        self.0.1.notify_all();
    }

    /// Waits until a commit waits.
    pub fn until_held(&self) {
        let mut inner = self.lock();
        while !inner.waiting {
            inner = self.0.1.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next commit that goes on fails.
    pub fn fail(&self) {
        self.lock().store.fail_next_commit(Failing::Lost);
    }

    /// How many commits began.
    #[must_use]
    pub fn commits(&self) -> usize {
        self.lock().begun
    }

    /// As it is found after the end of the process.
    #[must_use]
    pub fn killed(&self) -> Self {
        let store = self.lock().store.clone().killed();
        Self(Arc::new((Mutex::new(Inner { store, ..Inner::default() }), Condvar::new())))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scan for HeldStore {
    type Error = MemoryError;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), MemoryError> {
        self.lock().store.scan(from, to, each)
    }
}

impl Store for HeldStore {
    type Snapshot = MemorySnapshot;

    fn commit(&mut self, batch: &Batch, durability: Durability) -> Result<(), MemoryError> {
        let mut inner = self.lock();
        inner.begun += 1;
        while inner.held {
            inner.waiting = true;
            self.0.1.notify_all();
            inner = self.0.1.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.waiting = false;
        inner.store.commit(batch, durability)
    }

    fn snapshot(&self) -> Result<MemorySnapshot, MemoryError> {
        self.lock().store.snapshot()
    }
}
