//! What every engine must do: each sentence of [`Store`] and [`Scan`] as a check.

use crate::hash::{Random, Seed};
use crate::store::{Batch, Durability, KEY_BYTES_MAX, Scan, Store};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};
use core::sync::atomic::{AtomicBool, Ordering};

/// Where one store is kept: a directory, usually, that goes when the place is dropped. What goes wrong panics.
///
/// At most one store of it is open.
pub trait Place {
    /// The engine.
    type Store: Store;

    /// Opens the store that is kept here; the first time it is made.
    fn open(&mut self) -> Self::Store;

    /// Ends it in peace.
    fn close(&mut self, store: Self::Store) {
        drop(store);
    }

    /// Ends it as `kill -9` does: what the next [`open`](Self::open) finds is what the operating system has now. A store
    /// in files can copy these before it is dropped. An engine for which this cannot be simulated is closed.
    fn kill(&mut self, store: Self::Store) {
        self.close(store);
    }

    /// Ends it as a power cut does: what was not synced is lost, in part or as a whole. An engine for which this cannot be
    /// simulated is killed.
    fn cut_power(&mut self, store: Self::Store) {
        self.kill(store);
    }

    /// Runs `other` in another thread while `here` runs, and returns when both are done. This crate has no threads; with
    /// the standard library it is
    ///
    /// ```
    /// # fn beside(other: Box<dyn FnOnce() + Send>, here: &mut dyn FnMut()) {
    /// std::thread::scope(|scope| {
    ///     scope.spawn(other);
    ///     here();
    /// });
    /// # }
    /// # beside(Box::new(|| {}), &mut || {});
    /// ```
    fn beside(&mut self, other: Box<dyn FnOnce() + Send>, here: &mut dyn FnMut());
}

/// Checks an engine; every check begins in a place of its own.
///
/// # Panics
/// If the engine does not do what [`Store`] says.
pub fn store_suite<P: Place>(mut make: impl FnMut() -> P) {
    let checks: [fn(&mut P); 17] = [
        a_new_store_is_empty,
        entries_come_in_the_order_of_their_keys,
        a_range_has_its_first_key_and_not_its_last,
        a_scan_ends_when_it_is_told_to,
        who_scans_may_scan_meanwhile,
        a_put_replaces_and_a_remove_needs_no_entry,
        ranges_are_cleared_before_entries_are_put,
        an_empty_batch_changes_nothing,
        values_may_be_empty_and_large,
        the_longest_keys_are_kept_apart,
        a_snapshot_stays_as_it_was,
        commits_go_on_while_a_snapshot_is_read,
        a_snapshot_is_read_in_another_thread,
        what_was_committed_survives_closing_and_killing,
        a_power_cut_leaves_a_prefix_with_all_that_the_disk_had,
        a_queue_that_is_worked_off_leaves_nothing,
        a_store_does_what_a_map_does,
    ];
    for check in checks {
        check(&mut make());
    }
}

/// Behind every key that the checks use, but for those that are `0xFF` only.
const END: &[u8] = &[0xFF; 8];

type Model = BTreeMap<Vec<u8>, Vec<u8>>;
type Keys<'a> = &'a [&'a [u8]];

fn batch<const PUTS: usize>(puts: [(&[u8], &[u8]); PUTS]) -> Batch {
    let mut batch = Batch::default();
    puts.iter().for_each(|(key, value)| batch.put(key.to_vec(), value.to_vec()));
    batch
}

#[track_caller]
fn commit<S: Store>(store: &mut S, batch: &Batch) {
    store.commit(batch, Durability::Disk).expect("a commit");
}

#[track_caller]
fn read(scan: &impl Scan, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    scan.scan(from, to, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })
    .expect("a scan");
    found
}

#[track_caller]
fn keys(scan: &impl Scan, from: &[u8], to: &[u8]) -> Vec<Vec<u8>> {
    read(scan, from, to).into_iter().map(|(key, _)| key).collect()
}

fn a_new_store_is_empty<P: Place>(place: &mut P) {
    let store = place.open();
    assert!(read(&store, b"", END).is_empty());
    assert!(read(&store.snapshot().expect("a snapshot"), b"", END).is_empty());
    place.close(store);
    let store = place.open();
    assert!(read(&store, b"", END).is_empty(), "nor when it was opened again");
    place.close(store);
}

fn entries_come_in_the_order_of_their_keys<P: Place>(place: &mut P) {
    let mut store = place.open();
    // In order: bytes are unsigned, a prefix comes before what it begins, and no byte is special.
    let ordered: [&[u8]; 12] = [
        &[0],
        &[0, 0],
        &[0, 1],
        &[1],
        b"a",
        b"a\0",
        b"a\0b",
        b"aa",
        b"b",
        &[0x7F],
        &[0x80],
        &[0xFF, 0, 0xFF],
    ];
    // Committed one by one and in another order, so that no engine gets it for nothing.
    for at in [7, 2, 11, 0, 5, 9, 1, 10, 3, 8, 6, 4] {
        commit(&mut store, &batch([(ordered[at], &[at as u8])]));
    }
    let expected: Vec<_> = ordered.iter().zip(0..).map(|(key, at)| (key.to_vec(), vec![at])).collect();
    assert_eq!(read(&store, b"", END), expected);
    assert_eq!(read(&store.snapshot().expect("a snapshot"), b"", END), expected);
    place.close(store);
}

fn a_range_has_its_first_key_and_not_its_last<P: Place>(place: &mut P) {
    let mut store = place.open();
    commit(&mut store, &batch([(b"b", b""), (b"d", b""), (b"d\0", b""), (b"f", b"")]));
    let snapshot = store.snapshot().expect("a snapshot");
    let ranges: [(&[u8], &[u8], Keys<'_>); 11] = [
        (b"b", b"f", &[b"b", b"d", b"d\0"]),
        (b"a", b"g", &[b"b", b"d", b"d\0", b"f"]),
        (b"b\0", b"f\0", &[b"d", b"d\0", b"f"]),
        (b"d", b"d\0", &[b"d"]),
        (b"", b"c", &[b"b"]),
        (b"e", b"f", &[]),
        (b"g", b"z", &[]),
        (b"d", b"d", &[]),
        (b"f", b"b", &[]),
        (b"b", b"", &[]),
        (b"", b"", &[]),
    ];
    for (from, to, expected) in ranges {
        assert_eq!(keys(&store, from, to), expected, "from {from:?} to {to:?}");
        assert_eq!(keys(&snapshot, from, to), expected, "from {from:?} to {to:?}, in a snapshot");
    }
    drop(snapshot);
    // The same borders where a range is cleared.
    let mut clear = Batch::default();
    clear.clear(b"b".to_vec(), b"d\0".to_vec());
    clear.clear(b"z".to_vec(), b"e".to_vec());
    commit(&mut store, &clear);
    assert_eq!(keys(&store, b"", END), [&b"d\0"[..], b"f"]);
    place.close(store);
}

fn a_scan_ends_when_it_is_told_to<P: Place>(place: &mut P) {
    let mut store = place.open();
    commit(&mut store, &batch([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]));
    let mut seen = Vec::new();
    let mut each = |key: &[u8], value: &[u8]| {
        seen.push((key.to_vec(), value.to_vec()));
        if key == b"b" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    store.scan(b"a", END, &mut each).expect("a scan");
    assert_eq!(seen, [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"2".to_vec())]);
    assert_eq!(keys(&store, b"a", END).len(), 3, "the next scan begins anew");
    place.close(store);
}

fn a_put_replaces_and_a_remove_needs_no_entry<P: Place>(place: &mut P) {
    let mut store = place.open();
    commit(&mut store, &batch([(b"a", b"a longer value"), (b"b", b"2")]));
    let mut second = batch([(b"a", b"1")]);
    second.put_new(b"c".to_vec(), b"3".to_vec());
    second.remove(b"b".to_vec());
    second.remove(b"never there".to_vec());
    commit(&mut store, &second);
    let expected = [(b"a".to_vec(), b"1".to_vec()), (b"c".to_vec(), b"3".to_vec())];
    assert_eq!(read(&store, b"", END), expected);
    commit(&mut store, &second);
    assert_eq!(read(&store, b"", END), expected, "made once more, it leads to the same");
    commit(&mut store, &batch([(b"b", b"back")]));
    assert_eq!(read(&store, b"b", b"c"), [(b"b".to_vec(), b"back".to_vec())]);
    place.close(store);
}

fn who_scans_may_scan_meanwhile<P: Place>(place: &mut P) {
    let mut store = place.open();
    let all = [(&b"a"[..], &b"1"[..]), (b"b", b"2"), (b"c", b"3")];
    commit(&mut store, &batch(all));
    let mut seen = Vec::new();
    let scanned = store.scan(b"a", END, &mut |key, value| {
        assert_eq!(read(&store, b"a", END).len(), all.len(), "a scan in a scan");
        seen.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    });
    scanned.expect("a scan");
    assert!(seen.iter().map(|(key, value)| (&**key, &**value)).eq(all), "{seen:?}");
    place.close(store);
}

fn ranges_are_cleared_before_entries_are_put<P: Place>(place: &mut P) {
    let mut store = place.open();
    commit(&mut store, &batch([(b"a", b"1"), (b"b", b"1"), (b"c", b"1"), (b"d", b"1")]));
    let mut changes = batch([(b"b", b"lost")]);
    changes.clear(b"b".to_vec(), b"d".to_vec());
    changes.clear(b"x".to_vec(), b"y".to_vec());
    changes.put(b"bb".to_vec(), b"2".to_vec());
    changes.put(b"c".to_vec(), b"2".to_vec());
    changes.remove(b"d".to_vec());
    commit(&mut store, &changes);
    let expected: [(&[u8], &[u8]); 3] = [(b"a", b"1"), (b"bb", b"2"), (b"c", b"2")];
    let found = read(&store, b"", END);
    assert!(
        found.iter().map(|(key, value)| (&**key, &**value)).eq(expected),
        "a cleared range takes what was there, not what is put in the same batch: {found:?}"
    );
    let mut all = Batch::default();
    all.clear(Vec::new(), END.to_vec());
    commit(&mut store, &all);
    assert!(read(&store, b"", END).is_empty());
    place.close(store);
}

fn an_empty_batch_changes_nothing<P: Place>(place: &mut P) {
    let mut store = place.open();
    commit(&mut store, &Batch::default());
    commit(&mut store, &batch([(b"a", b"1")]));
    commit(&mut store, &Batch::default());
    store.commit(&Batch::default(), Durability::Os).expect("a commit");
    place.kill(store);
    let store = place.open();
    assert_eq!(keys(&store, b"", END), [b"a"]);
    place.close(store);
}

fn values_may_be_empty_and_large<P: Place>(place: &mut P) {
    let mut store = place.open();
    // Around the sizes at which engines turn to other ways of keeping a value, and beyond a megabyte.
    let sizes = [0, 1, 4_000, 4_096, 16_000, 65_535, 65_536, (1 << 20) + 3, (5 << 20) + 1];
    let value = |size: usize, salt: usize| -> Vec<u8> {
        (0..size).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ salt) as u8).collect()
    };
    let mut first = Batch::default();
    for (at, size) in (0..).zip(sizes) {
        first.put(vec![b'v', at], value(size, 0));
    }
    commit(&mut store, &first);
    // Every value gets the size of its neighbour.
    let mut second = Batch::default();
    for (at, size) in (0..).zip(sizes.iter().rev()) {
        second.put(vec![b'v', at], value(*size, 7));
    }
    let before = store.snapshot().expect("a snapshot");
    commit(&mut store, &second);
    for (at, size) in sizes.iter().enumerate() {
        let old = read(&before, &[b'v', at as u8], &[b'v', at as u8 + 1]);
        assert!(old.len() == 1 && old[0].1 == value(*size, 0), "{size} bytes, in a snapshot");
    }
    drop(before);
    place.kill(store);
    let store = place.open();
    for (at, size) in sizes.iter().rev().enumerate() {
        let new = read(&store, &[b'v', at as u8], &[b'v', at as u8 + 1]);
        assert!(new.len() == 1 && new[0].1 == value(*size, 7), "{size} bytes, after a restart");
    }
    place.close(store);
}

fn the_longest_keys_are_kept_apart<P: Place>(place: &mut P) {
    let mut store = place.open();
    let long = |last: u8| {
        let mut key = vec![b'k'; KEY_BYTES_MAX];
        key[KEY_BYTES_MAX - 1] = last;
        key
    };
    let shorter = vec![b'k'; KEY_BYTES_MAX - 1];
    let mut changes = Batch::default();
    for key in [long(b'a'), long(b'b'), long(b'c'), shorter.clone(), vec![b'k']] {
        changes.put(key.clone(), key[key.len() - 1..].to_vec());
    }
    commit(&mut store, &changes);
    assert_eq!(keys(&store, b"", END), [vec![b'k'], shorter.clone(), long(b'a'), long(b'b'), long(b'c')]);
    assert_eq!(read(&store, &long(b'b'), &long(b'c')), [(long(b'b'), b"b".to_vec())]);
    let mut changes = Batch::default();
    changes.remove(long(b'b'));
    changes.clear(long(b'c'), b"l".to_vec());
    commit(&mut store, &changes);
    place.kill(store);
    let store = place.open();
    assert_eq!(keys(&store, b"", END), [vec![b'k'], shorter, long(b'a')]);
    place.close(store);
}

fn a_snapshot_stays_as_it_was<P: Place>(place: &mut P) {
    let mut store = place.open();
    let mut snapshots = Vec::new();
    for generation in 0..5_u8 {
        // All entries change in one step, one of them comes and one goes.
        let mut changes = Batch::default();
        for name in 0..40_u8 {
            changes.put(vec![b'e', name], vec![generation]);
        }
        changes.put(vec![b'g', generation], Vec::new());
        changes.remove(vec![b'g', generation.wrapping_sub(1)]);
        commit(&mut store, &changes);
        snapshots.push(store.snapshot().expect("a snapshot"));
    }
    let mut clear = Batch::default();
    clear.clear(b"e".to_vec(), b"h".to_vec());
    commit(&mut store, &clear);
    for (generation, snapshot) in (0..).zip(&snapshots) {
        is_generation(snapshot, generation);
        assert_eq!(keys(snapshot, b"g", b"h"), [[b'g', generation]]);
    }
    assert!(read(&store, b"", END).is_empty());
    drop(snapshots);
    place.close(store);
}

#[track_caller]
fn is_generation(scan: &impl Scan, generation: u8) {
    let found = read(scan, b"e", b"f");
    assert_eq!(found.len(), 40, "a batch is made as a whole");
    assert!(found.iter().all(|(_, value)| *value == [generation]), "a batch is made as a whole");
}

fn commits_go_on_while_a_snapshot_is_read<P: Place>(place: &mut P) {
    let mut store = place.open();
    let mut changes = Batch::default();
    (0..40_u8).for_each(|name| changes.put(vec![b'e', name], vec![1]));
    commit(&mut store, &changes);
    let snapshot = store.snapshot().expect("a snapshot");
    let mut seen = 0;
    let mut each = |key: &[u8], value: &[u8]| {
        let mut changes = batch([(&[b'e', 0xF0], &[2])]);
        changes.remove(key.to_vec());
        changes.put(vec![b'e', 39 - key[1]], vec![2]);
        commit(&mut store, &changes);
        assert_eq!((key, value), (&[b'e', seen][..], &[1][..]));
        seen += 1;
        ControlFlow::Continue(())
    };
    snapshot.scan(b"e", b"f", &mut each).expect("a scan");
    assert_eq!(seen, 40);
    drop(snapshot);
    place.close(store);
}

/// Tells the other thread, also when this one panics.
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn a_snapshot_is_read_in_another_thread<P: Place>(place: &mut P) {
    let mut store = place.open();
    let mut snapshots = Vec::new();
    let changes = |generation: u8| {
        let mut changes = Batch::default();
        (0..40_u8).for_each(|name| changes.put(vec![b'e', name], vec![generation]));
        changes
    };
    for generation in 0..4 {
        commit(&mut store, &changes(generation));
        snapshots.push(store.snapshot().expect("a snapshot"));
    }
    let done = Arc::new(AtomicBool::new(false));
    let writer = Done(done.clone());
    let reader = Box::new(move || {
        loop {
            let last = done.load(Ordering::Acquire);
            for (generation, snapshot) in (0..).zip(&snapshots) {
                is_generation(snapshot, generation);
            }
            if last {
                return;
            }
        }
    });
    let mut writer = Some(writer);
    place.beside(reader, &mut || {
        let _writer = writer.take();
        for generation in 4..60 {
            commit(&mut store, &changes(generation));
            is_generation(&store, generation);
        }
    });
    is_generation(&store, 59);
    place.close(store);
}

fn what_was_committed_survives_closing_and_killing<P: Place>(place: &mut P) {
    let mut expected = Model::new();
    for round in 0..12_u8 {
        let mut store = place.open();
        assert_eq!(read(&store, b"", END), pairs(&expected), "in round {round}");
        let mut changes = batch([(&[b'k', round], &[round])]);
        changes.remove(vec![b'k', round / 2]);
        expected.insert(vec![b'k', round], vec![round]);
        expected.remove(&vec![b'k', round / 2]);
        let durability = if round % 3 == 0 { Durability::Os } else { Durability::Disk };
        store.commit(&changes, durability).expect("a commit");
        if round % 2 == 0 { place.kill(store) } else { place.close(store) }
    }
    let store = place.open();
    assert_eq!(read(&store, b"", END), pairs(&expected));
    place.close(store);
}

fn a_power_cut_leaves_a_prefix_with_all_that_the_disk_had<P: Place>(place: &mut P) {
    let mut there = 0_u8;
    for round in 0..16_u8 {
        let mut store = place.open();
        let found = keys(&store, b"", END);
        let prefix: Vec<_> = (0..found.len() as u8).map(|number| vec![b'p', number]).collect();
        assert_eq!(found, prefix, "what is there was committed, and nothing before it is missing");
        assert!(found.len() >= there as usize, "{} are there, {there} were on the disk", found.len());
        let next = found.len() as u8;
        for (number, durability) in [Durability::Os, Durability::Disk, Durability::Os].into_iter().enumerate()
        {
            let durability = if round % 4 == 0 { Durability::Os } else { durability };
            let number = next + number as u8;
            store.commit(&batch([(&[b'p', number], &[round; 64])]), durability).expect("a commit");
            if durability == Durability::Disk {
                there = number + 1;
            }
        }
        place.cut_power(store);
    }
    let mut store = place.open();
    let found = keys(&store, b"", END);
    assert!(found.len() >= there as usize);
    // Also a batch that changes nothing takes along what came before.
    store.commit(&batch([(b"last", b"")]), Durability::Os).expect("a commit");
    commit(&mut store, &Batch::default());
    place.cut_power(store);
    let store = place.open();
    assert_eq!(keys(&store, b"", b"p"), [b"last"]);
    place.close(store);
}

fn a_queue_that_is_worked_off_leaves_nothing<P: Place>(place: &mut P) {
    let mut store = place.open();
    let key = |number: u64| {
        let mut key = b"queue...".to_vec();
        key.extend(number.to_be_bytes());
        key
    };
    // Ten are in the queue; each commit takes some from its head and puts as many at its end.
    let mut ends = 0..0;
    for _ in 0..100 {
        let mut changes = Batch::default();
        while ends.end - ends.start < 10 {
            changes.put_new(key(ends.end), ends.end.to_be_bytes().to_vec());
            ends.end += 1;
        }
        store.commit(&changes, Durability::Os).expect("a commit");
        let mut changes = Batch::default();
        let mut each = |key: &[u8], value: &[u8]| {
            assert_eq!(value, ends.start.to_be_bytes(), "the head of the queue comes first");
            changes.remove(key.to_vec());
            ends.start += 1;
            if ends.start % 7 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        store.scan(b"queue...", b"queue../", &mut each).expect("a scan");
        store.commit(&changes, Durability::Os).expect("a commit");
    }
    place.kill(store);
    let store = place.open();
    let found = keys(&store, b"", END);
    assert_eq!(found, ends.map(key).collect::<Vec<_>>());
    place.close(store);
}

fn pairs(model: &Model) -> Vec<(Vec<u8>, Vec<u8>)> {
    model.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn a_store_does_what_a_map_does<P: Place>(place: &mut P) {
    let mut world = World { random: Random::new(Seed(2026)), model: Model::new(), snapshots: Vec::new() };
    let mut store = place.open();
    for step in 0..400 {
        let (changes, durability) = world.batch();
        store.commit(&changes, durability).expect("a commit");
        world.compare(&store);
        match world.below(40) {
            0..8 => {
                let snapshot = store.snapshot().expect("a snapshot");
                world.snapshots.push((snapshot, world.model.clone()));
            }
            8..14 if !world.snapshots.is_empty() => {
                let at = world.below(world.snapshots.len() as u64) as usize;
                let (snapshot, model) = world.snapshots.swap_remove(at);
                assert_eq!(read(&snapshot, b"", END), pairs(&model), "a snapshot, at step {step}");
            }
            14..16 => {
                world.snapshots.clear();
                if world.below(2) == 0 {
                    place.kill(store)
                } else {
                    place.close(store)
                }
                store = place.open();
                assert_eq!(read(&store, b"", END), pairs(&world.model), "after step {step}");
            }
            _ => {}
        }
    }
    world.snapshots.clear();
    place.close(store);
}

/// Random changes, and what a map makes of them.
struct World<S> {
    random: Random,
    model: Model,
    snapshots: Vec<(S, Model)>,
}

impl<S> World<S> {
    fn below(&mut self, limit: u64) -> u64 {
        self.random.next() % limit
    }

    /// From few enough that they meet again; some are the beginning of others.
    fn key(&mut self) -> Vec<u8> {
        let length = 1 + self.below(4);
        (0..length).map(|_| [0, b'a', b'b', 0xF0][self.below(4) as usize]).collect()
    }

    fn batch(&mut self) -> (Batch, Durability) {
        let mut batch = Batch::default();
        for _ in 0..self.below(24) {
            match self.below(20) {
                0 => {
                    let (from, to) = (self.key(), self.key());
                    if from < to {
                        let inside = (Bound::Included(&from), Bound::Excluded(&to));
                        let gone: Vec<_> =
                            self.model.range::<Vec<u8>, _>(inside).map(|(key, _)| key.clone()).collect();
                        gone.iter().for_each(|key| drop(self.model.remove(key)));
                    }
                    batch.clear(from, to);
                }
                1..12 => {
                    let (key, length) = (self.key(), self.below(300) as usize);
                    let value = vec![self.below(256) as u8; length];
                    self.model.insert(key.clone(), value.clone());
                    batch.put(key, value);
                }
                _ => {
                    let key = self.key();
                    self.model.remove(&key);
                    batch.remove(key);
                }
            }
        }
        // Disks are slow, and what Os promises is what most of this is about.
        (batch, if self.below(8) == 0 { Durability::Disk } else { Durability::Os })
    }

    fn compare(&mut self, store: &impl Scan) {
        assert_eq!(read(store, b"", END), pairs(&self.model));
        let (from, to, most) = (self.key(), self.key(), self.below(12) as usize);
        let mut found = Vec::new();
        let mut each = |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            if found.len() > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        store.scan(&from, &to, &mut each).expect("a scan");
        let inside = pairs(&self.model).into_iter().filter(|(key, _)| *key >= from && *key < to);
        assert_eq!(found, inside.take(most + 1).collect::<Vec<_>>(), "from {from:?} to {to:?}");
    }
}
