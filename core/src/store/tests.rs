//! Stores that nobody has written: whatever is in them, opening says so or makes sense of it.

use super::entry::sealed;
use super::{Batch, Durability, Image, MemoryStore, Store};
use crate::broker::Record;
use crate::hash::Seed;
use crate::testing::Bench;
use crate::{LogSeq, Stack};
use alloc::vec::Vec;
use proptest::prelude::*;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..4, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![&b"a"[..], b"b", b"+/a", b"#", b"\xFF", b""]).prop_map(<[u8]>::to_vec)
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let of_session = (number(), 0u8..7, prop_oneof![number().prop_map(|n| n.to_be_bytes().to_vec()), name()]);
    prop_oneof![
        2 => name().prop_map(|name| [&[1], &name[..]].concat()),
        6 => of_session.prop_map(|(n, kind, rest)| [&[2], &n.to_be_bytes()[..], &[kind], &rest].concat()),
        1 => number().prop_map(|n| [&[3], &n.to_be_bytes()[..]].concat()),
        2 => (4u8..6, name()).prop_map(|(tag, name)| [&[tag], &name[..]].concat()),
        1 => prop::collection::vec(any::<u8>(), 1..20),
    ]
}

/// Small numbers, which mean something in most places, and the message `a: x`.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let message = Just(b"\x01\x00\x01a\x00\x01x".to_vec());
    let few = || prop::collection::vec(0u8..4, 0..6);
    prop_oneof![
        3 => few(),
        3 => (few(), message).prop_map(|(before, message)| [before, message].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_in_a_store_opening_it_does_not_panic_and_what_opens_can_be_gone_on_with(
        entries in prop::collection::vec((key(), value(), prop::bool::weighted(0.95)), 0..12),
    ) {
        let mut batch = Batch::default();
        for (key, value, whole) in entries.into_iter().filter(|(key, ..)| key[0] > 0) {
            let value = if whole { sealed(&key, value) } else { value };
            batch.put(key, value);
        }
        Image::initialize(&mut batch);
        let mut store = MemoryStore::default();
        store.commit(&batch, Durability::Disk).unwrap();
        let mut damaged = 0;
        Image::check(&store, Seed(1), &mut |_, _| damaged += 1).unwrap();
        let mut records = Vec::new();
        let opened = Image::open(&store, Seed(1), &mut |record| {
            records.push(record);
            true
        });
        prop_assert_eq!(opened.is_ok(), damaged == 0);
        let Ok(mut image) = opened else { return Ok(()) };
        let mut bench = Bench::with(crate::Config::default(), Stack::durable());
        if bench.broker.restore_through(LogSeq(0), records).is_err() {
            return Ok(());
        }
        bench.drain();
        let mut batch = Batch::default();
        for (_, record) in &bench.stores {
            image.apply(record, &mut batch).unwrap();
        }
        for client_id in ["a", "b", "+/a", "#"] {
            image.queued(&store, client_id, 0, 10, 1_000).unwrap();
            let ended = Record::SessionEnded { client_id: client_id.into() };
            prop_assert_eq!(image.apply(&ended, &mut batch).is_ok(), bench.broker.inspect(client_id).is_some_and(|found| found.expiry_s > 0));
        }
        store.commit(&batch, Durability::Disk).unwrap();
        Image::check(&store, Seed(1), &mut |key, expected| panic!("{key:?}: {expected}")).unwrap();
    }
}
