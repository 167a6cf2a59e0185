//! What a store in redb does when the disk does not.

#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use crate::testing::{Fault, FaultyDisk};
use crate::{FILE, Options, RedbStore};
use culex_core::store::{Batch, Durability, Failure, Scan, Store};
use culex_core::testing::{Place, store_suite};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const NOWHERE: &str = "/nowhere/culex";

fn open(disk: &FaultyDisk) -> RedbStore {
    let options = Options { cache_bytes: 1 << 20, ..Options::default() };
    RedbStore::open_on(disk.clone(), Path::new(NOWHERE), &options).unwrap()
}

fn put(number: u8) -> Batch {
    let mut batch = Batch::default();
    (0..50).for_each(|entry| batch.put(vec![number, entry], vec![number; 100]));
    batch
}

fn batches(store: &RedbStore) -> Vec<u8> {
    let mut found = Vec::new();
    let mut each = |key: &[u8], _: &[u8]| {
        if key[1] == 0 {
            found.push(key[0]);
        }
        ControlFlow::Continue(())
    };
    store.scan(&[0], &[0xFF], &mut each).unwrap();
    found
}

struct OnFaultyDisk {
    disk: FaultyDisk,
    cuts: u64,
}

impl Place for OnFaultyDisk {
    type Store = RedbStore;

    fn open(&mut self) -> RedbStore {
        open(&self.disk)
    }

    fn kill(&mut self, store: RedbStore) {
        self.disk = self.disk.killed();
        drop(store);
    }

    fn cut_power(&mut self, store: RedbStore) {
        self.cuts += 1;
        self.disk = self.disk.power_cut(self.cuts);
        drop(store);
    }

    fn beside(&mut self, other: Box<dyn FnOnce() + Send>, here: &mut dyn FnMut()) {
        std::thread::scope(|scope| {
            scope.spawn(other);
            here();
        });
    }
}

#[test]
fn the_engine_does_what_a_store_must_do_on_a_disk_that_loses_power() {
    store_suite(|| OnFaultyDisk { disk: FaultyDisk::default(), cuts: 0 });
}

#[test]
fn a_failed_sync_is_an_error_and_nothing_after_it_is_committed() {
    let disk = FaultyDisk::default();
    let mut store = open(&disk);
    store.commit(&put(1), Durability::Disk).unwrap();
    disk.fail(Fault::Sync);
    let error = store.commit(&put(2), Durability::Disk).unwrap_err();
    assert_eq!(error.failure, Failure::Other);
    assert_eq!(error.to_string(), "the store in /nowhere/culex failed: the disk was told to fail");
    // It works again, and that is what one must not believe.
    disk.repair();
    for number in 3..10 {
        assert_eq!(store.commit(&put(number), Durability::Disk).unwrap_err(), error);
    }
    for seed in 0..20 {
        let mut store = open(&disk.power_cut(seed));
        let found = batches(&store);
        assert!(found == [1] || found == [1, 2], "the failed one may be there, no other: {found:?}");
        store.commit(&put(9), Durability::Disk).unwrap();
        assert_eq!(batches(&store).last(), Some(&9), "opened anew it takes commits");
    }
}

#[test]
fn a_power_cut_in_a_commit_leaves_whole_batches_and_all_that_were_committed() {
    let mut disk = FaultyDisk::default();
    let mut whole = 0;
    for seed in 0..60 {
        let mut store = open(&disk);
        store.commit(&put(whole + 1), Durability::Disk).unwrap();
        // What this one writes reaches the disk in part.
        disk.fail(Fault::Sync);
        store.commit(&put(whole + 2), Durability::Disk).unwrap_err();
        disk = disk.power_cut(seed);
        drop(store);
        let found = batches(&open(&disk));
        let count = found.len() as u8;
        assert!(found.iter().copied().eq(1..=count) && count > whole, "{seed}: {found:?}");
        whole = count;
    }
}

#[test]
fn a_full_disk_is_named_as_what_it_is() {
    let disk = FaultyDisk::default();
    let mut store = open(&disk);
    store.commit(&put(1), Durability::Disk).unwrap();
    disk.fail(Fault::Full);
    let mut large = Batch::default();
    large.put(b"large".to_vec(), vec![0; 16 << 20]);
    let error = store.commit(&large, Durability::Disk).unwrap_err();
    assert_eq!(error.failure, Failure::NoSpace, "{error}");
    assert!(error.to_string().starts_with("there is no space left for the store in /nowhere/culex: "));
    assert_eq!(store.commit(&put(2), Durability::Disk).unwrap_err(), error);
    drop(store);
    disk.repair();
    assert_eq!(batches(&open(&disk)), [1]);
}

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("culex-store-redb-{}-{number}", std::process::id())))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_second_broker_is_told_which_directory_is_in_use() {
    let directory = Directory::new();
    let store = RedbStore::open(&directory.0, &Options::default()).unwrap();
    let error = RedbStore::open(&directory.0, &Options::default()).unwrap_err();
    assert_eq!(error.failure, Failure::Locked);
    let line = format!("the store in {} is in use by another broker", directory.0.display());
    assert_eq!(error.to_string(), line);
    drop(store);
    RedbStore::open(&directory.0, &Options::default()).unwrap();
}

#[test]
fn a_file_of_something_else_is_left_alone() {
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).unwrap();
    let file = directory.0.join(FILE);
    std::fs::write(&file, b"not what one thinks it is".repeat(1000)).unwrap();
    let error = RedbStore::open(&directory.0, &Options::default()).unwrap_err();
    assert_eq!(error.failure, Failure::Foreign, "{error}");
    assert!(error.to_string().contains(directory.0.to_str().unwrap()));
    assert_eq!(std::fs::read(&file).unwrap(), b"not what one thinks it is".repeat(1000));
}

#[test]
fn checking_finds_a_byte_that_changed() {
    let directory = Directory::new();
    let options = Options::default();
    let mut store = RedbStore::open(&directory.0, &options).unwrap();
    (0..100).for_each(|number| store.commit(&put(number), Durability::Disk).unwrap());
    drop(store);
    drop(RedbStore::check(&directory.0, &options).unwrap());
    let file = directory.0.join(FILE);
    let sound = std::fs::read(&file).unwrap();
    // In the middle of a value that is surely in use: the newest one.
    let at = sound.windows(90).rposition(|window| window == [99; 90]).unwrap() + 45;
    let mut damaged = sound;
    damaged[at] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    let error = RedbStore::check(&directory.0, &options).unwrap_err();
    assert_eq!(error.failure, Failure::Damaged, "{error}");
}

#[test]
fn compacting_gives_back_what_is_free() {
    let directory = Directory::new();
    let mut store = RedbStore::open(&directory.0, &Options::default()).unwrap();
    let mut batch = Batch::default();
    (0..200_u8).for_each(|number| batch.put(vec![number], vec![number; 40_000]));
    store.commit(&batch, Durability::Disk).unwrap();
    let full = store.size().unwrap();
    assert_eq!(full.entries, 200);
    assert!(full.file_bytes - full.free_bytes > 8_000_000, "{full:?}");
    let mut batch = Batch::default();
    batch.clear(vec![1], vec![200]);
    store.commit(&batch, Durability::Disk).unwrap();
    let free = store.size().unwrap();
    assert_eq!((free.entries, free.file_bytes), (1, full.file_bytes));
    store.compact().unwrap();
    let compact = store.size().unwrap();
    assert!(compact.file_bytes < full.file_bytes / 4, "{compact:?}");
    assert_eq!(compact.entries, 1);
}
