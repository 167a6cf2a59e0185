//! What every engine must do.

#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::testing::{Place, store_suite};
use culex_store_fjall::FjallStore;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes with the test. After each kill it is another one.
struct Directory {
    root: PathBuf,
    lives: u32,
}

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("suite-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&root).unwrap();
        Self { root, lives: 0 }
    }

    fn path(&self) -> PathBuf {
        self.root.join(self.lives.to_string())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Place for Directory {
    type Store = FjallStore;

    fn open(&mut self) -> FjallStore {
        FjallStore::open(&self.path()).unwrap()
    }

    fn kill(&mut self, store: FjallStore) {
        let killed = self.path();
        self.lives += 1;
        copy(&killed, &self.path());
        drop(store);
        fs::remove_dir_all(killed).unwrap();
    }

    fn beside(&mut self, other: Box<dyn FnOnce() + Send>, here: &mut dyn FnMut()) {
        std::thread::scope(|scope| {
            scope.spawn(other);
            here();
        });
    }
}

#[test]
fn the_engine_does_what_a_store_must_do() {
    store_suite(Directory::new);
}
