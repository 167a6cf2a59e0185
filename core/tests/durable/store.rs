//! Stores that are damaged.

use culex_core::packet::QoS;
use culex_core::store::{Batch, Durability, Image, OpenError, Scan, Store};
use culex_core::testing::MemoryStore;
use culex_core::{Message, Record, Seed};
use std::ops::ControlFlow;

/// Three sessions with a subscription each, and a retained message.
fn store() -> MemoryStore {
    let (mut image, mut batch) = (Image::new(Seed(1)), Batch::default());
    Image::initialize(&mut batch);
    for name in ["a", "b", "c"] {
        let client_id: Box<str> = name.into();
        let session = Record::Session { client_id: client_id.clone(), expiry: 7, left: None };
        image.apply(&session, &mut batch).unwrap();
        let filter: Box<str> = "t/#".into();
        let subscription = Record::Subscription { client_id, filter, options: 1, identifier: 0 };
        image.apply(&subscription, &mut batch).unwrap();
    }
    let retained = Record::Retained(Message::new("t", b"x", QoS::AtLeastOnce, true).unwrap());
    image.apply(&retained, &mut batch).unwrap();
    let mut store = MemoryStore::default();
    store.commit(&batch, Durability::Disk).unwrap();
    store
}

fn keys(store: &MemoryStore, tag: u8) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut each = |key: &[u8], _: &[u8]| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    };
    store.scan(&[tag], &[tag + 1], &mut each).unwrap();
    keys
}

fn change(store: &mut MemoryStore, changes: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::default();
    changes(&mut batch);
    store.commit(&batch, Durability::Disk).unwrap();
}

fn damaged(store: &MemoryStore) -> Vec<Vec<u8>> {
    let mut damaged = Vec::new();
    Image::check(store, Seed(1), &mut |key, _| damaged.push(key.to_vec())).unwrap();
    damaged
}

#[test]
fn opening_stops_at_the_first_damaged_entry_and_checking_tells_them_all() {
    let mut store = store();
    assert!(damaged(&store).is_empty());
    let (subscriptions, retained) = (keys(&store, 2), keys(&store, 5));
    change(&mut store, |batch| {
        batch.put(subscriptions[0].clone(), b"".to_vec());
        batch.put(subscriptions[2].clone(), b"too much of it".to_vec());
        batch.put(retained[0].clone(), b"?".to_vec());
    });
    let mut records = 0;
    let opened = Image::open(&store, Seed(1), &mut |_| {
        records += 1;
        true
    });
    assert!(matches!(opened, Err(OpenError::Entry { key, .. }) if key == subscriptions[0]));
    assert_eq!(records, 0, "it is the first of all");
    assert_eq!(damaged(&store), [&subscriptions[0], &subscriptions[2], &retained[0]].map(Clone::clone));
}

#[test]
fn a_bit_that_changed_anywhere_is_found() {
    let whole = store();
    let mut entries = Vec::new();
    let mut each = |key: &[u8], value: &[u8]| {
        entries.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    whole.scan(&[1], &[255], &mut each).unwrap();
    assert_eq!(entries.len(), 7);
    for (key, value) in entries {
        for bit in 0..value.len() * 8 {
            let mut changed = value.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut store = whole.clone();
            change(&mut store, |batch| batch.put(key.clone(), changed));
            assert!(damaged(&store).contains(&key), "bit {bit} of {key:?}");
        }
    }
}

/// Whatever becomes of the others.
#[test]
fn what_belonged_to_a_session_that_is_gone_is_damaged() {
    let mut store = store();
    let (sessions, subscriptions) = (keys(&store, 1), keys(&store, 2));
    change(&mut store, |batch| batch.remove(sessions[1].clone()));
    assert_eq!(damaged(&store), [subscriptions[1].clone()]);
    change(&mut store, |batch| batch.remove(sessions[2].clone()));
    assert_eq!(damaged(&store), subscriptions[1..]);
}

#[test]
fn a_store_of_another_format_is_neither_opened_nor_checked() {
    let mut store = MemoryStore::default();
    change(&mut store, |batch| batch.put(b"key".to_vec(), b"value".to_vec()));
    assert!(matches!(Image::open(&store, Seed(1), &mut |_| true), Err(OpenError::Format { .. })));
    assert!(matches!(Image::check(&store, Seed(1), &mut |_, _| {}), Err(OpenError::Format { .. })));
}
