//! What a store in SQLite says when something is wrong.

#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use crate::{FILE, Options, SqliteStore};
use culex_core::store::{Batch, Durability, Failure, Scan, Store};
use rusqlite::Connection;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("culex-store-sqlite-{}-{number}", std::process::id())))
    }

    fn open(&self) -> Result<SqliteStore, culex_core::store::StoreError> {
        SqliteStore::open(&self.0, &Options::default())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn put(number: u8, bytes: usize) -> Batch {
    let mut batch = Batch::default();
    batch.put(vec![number], vec![number; bytes]);
    batch
}

fn keys(store: &impl Scan) -> Vec<u8> {
    let mut found = Vec::new();
    let mut each = |key: &[u8], _: &[u8]| {
        found.push(key[0]);
        ControlFlow::Continue(())
    };
    store.scan(&[0], &[0xFF], &mut each).unwrap();
    found
}

#[test]
fn a_second_broker_is_told_which_directory_is_in_use() {
    let directory = Directory::new();
    let store = directory.open().unwrap();
    let error = directory.open().unwrap_err();
    assert_eq!(error.failure, Failure::Locked);
    let line = format!("the store in {} is in use by another broker", directory.0.display());
    assert_eq!(error.to_string(), line);
    drop(store);
    directory.open().unwrap();
}

#[test]
fn a_file_of_something_else_is_left_alone() {
    let directory = Directory::new();
    fs::create_dir_all(&directory.0).unwrap();
    let file = directory.0.join(FILE);
    let content = b"not what one thinks it is".repeat(1000);
    fs::write(&file, &content).unwrap();
    let error = directory.open().unwrap_err();
    assert_eq!(error.failure, Failure::Foreign, "{error}");
    assert!(error.to_string().contains(directory.0.to_str().unwrap()));
    assert_eq!(fs::read(&file).unwrap(), content);
}

#[test]
fn a_database_of_another_program_or_format_is_not_opened() {
    let directory = Directory::new();
    drop(directory.open().unwrap());
    let file = directory.0.join(FILE);
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let error = directory.open().unwrap_err();
    assert_eq!(error.failure, Failure::Foreign);
    assert!(error.to_string().ends_with(": its format is 7, and 1 is known"), "{error}");
    fs::remove_file(&file).unwrap();
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE entries (key, value)").unwrap();
    let error = directory.open().unwrap_err();
    assert!(error.to_string().ends_with(": culex.sqlite is a database of another program"), "{error}");
}

#[test]
fn without_space_a_commit_fails_and_so_do_all_after_it() {
    let directory = Directory::new();
    let mut store = directory.open().unwrap();
    store.commit(&put(1, 100), Durability::Disk).unwrap();
    // As a disk of 400 KiB.
    store.connection.query_row("PRAGMA max_page_count = 100", (), |_| Ok(())).unwrap();
    let error = store.commit(&put(2, 1 << 20), Durability::Disk).unwrap_err();
    assert_eq!(error.failure, Failure::NoSpace, "{error}");
    assert!(error.to_string().starts_with("there is no space left for the store in "));
    assert_eq!(store.commit(&put(3, 10), Durability::Disk).unwrap_err(), error);
    assert_eq!(keys(&store), [1]);
    drop(store);
    let mut store = directory.open().unwrap();
    store.commit(&put(3, 10), Durability::Disk).unwrap();
    assert_eq!(keys(&store), [1, 3]);
}

#[test]
fn checking_finds_a_page_that_is_another() {
    let directory = Directory::new();
    let options = Options::default();
    let mut store = directory.open().unwrap();
    // Short enough to lie in the tree itself.
    (0..100).for_each(|number| store.commit(&put(number, 500), Durability::Os).unwrap());
    drop(store);
    drop(SqliteStore::check(&directory.0, &options).unwrap());
    let file = directory.0.join(FILE);
    let mut damaged = fs::read(&file).unwrap();
    let (one, other) = (4 * 4096, 8 * 4096);
    damaged.copy_within(one..one + 4096, other);
    fs::write(&file, damaged).unwrap();
    let error = SqliteStore::check(&directory.0, &options).unwrap_err();
    assert_eq!(error.failure, Failure::Damaged, "{error}");
    assert!(!error.to_string().contains('\n'));
}

#[test]
fn compacting_gives_back_what_is_free_when_no_snapshot_needs_it() {
    let directory = Directory::new();
    let mut store = directory.open().unwrap();
    let mut batch = Batch::default();
    (0..200_u8).for_each(|number| batch.put(vec![number], vec![number; 40_000]));
    store.commit(&batch, Durability::Disk).unwrap();
    let full = store.size().unwrap();
    assert!(full.entries == 200 && full.file_bytes - full.free_bytes > 8_000_000, "{full:?}");
    let mut batch = Batch::default();
    batch.clear(vec![1], vec![200]);
    store.commit(&batch, Durability::Disk).unwrap();
    let free = store.size().unwrap();
    assert!(free.entries == 1 && free.free_bytes > 7_900_000, "{free:?}");
    store.compact().unwrap();
    let compact = store.size().unwrap();
    assert!(compact.entries == 1 && compact.file_bytes < full.file_bytes / 20, "{compact:?}");
    let snapshot = store.snapshot().unwrap();
    assert_eq!(keys(&snapshot), [0]);
    drop(snapshot);
    store.compact().unwrap();
}
