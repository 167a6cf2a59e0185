//! Parts of the machine by the clock: `cargo bench -p culex-bench-machine`, or with a name behind `--` only what it is part of.
#![allow(clippy::unwrap_used)] // what is made here is well-formed

use culex_bench_machine::CASES;
use culex_core::SessionId;
use culex_core::hash::Seed;
use culex_core::id::Id as _;
use culex_core::packet::{Framed, Packet, Properties, Publish, QoS, SubscriptionOptions, Version, frame};
use culex_core::topic::SubscriptionIndex;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

fn publish(payload: &[u8]) -> Publish<'_> {
    Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "site/4711/floor/12/temperature".into(),
        packet_id: Some(7.try_into().unwrap()),
        properties: Properties::EMPTY,
        payload: payload.into(),
    }
}

#[divan::bench(args = [64, 4096])]
fn decode(bencher: Bencher, payload_bytes: usize) {
    let mut bytes = Vec::new();
    publish(&vec![b'x'; payload_bytes]).encode(Version::V5, &mut bytes).unwrap();
    bencher.bench(|| {
        let Ok(Framed::Whole { frame, .. }) = frame(black_box(&bytes), u32::MAX) else { unreachable!() };
        matches!(Packet::decode(&frame, Version::V5), Ok(Packet::Publish(_)))
    });
}

#[divan::bench(args = [64, 4096])]
fn encode(bencher: Bencher, payload_bytes: usize) {
    let payload = vec![b'x'; payload_bytes];
    let packet = publish(&payload);
    let mut out = Vec::new();
    bencher.bench_local(|| {
        out.clear();
        black_box(&packet).encode(Version::V5, &mut out)
    });
}

/// An index with so many subscriptions, each of a session of its own, and topics of which each matches one.
fn index(subscriptions: u32, filter: fn(u32) -> String) -> (SubscriptionIndex, Vec<String>) {
    let mut index = SubscriptionIndex::new(Seed(7));
    for number in 0..subscriptions {
        let options = SubscriptionOptions::new(QoS::AtMostOnce);
        index.subscribe(&filter(number), None, SessionId::new(number, 0), options, None);
    }
    // All over the index, so that what is found is not in the cache because it was found before.
    let topics = (0..1_000).map(|n| format!("site/{}/temperature", n * 7_919 % subscriptions)).collect();
    (index, topics)
}

const SIZES: [u32; 3] = [1_000, 100_000, 1_000_000];

#[divan::bench(args = SIZES)]
fn match_exact(bencher: Bencher, subscriptions: u32) {
    matches(bencher, index(subscriptions, |n| format!("site/{n}/temperature")));
}

#[divan::bench(args = SIZES)]
fn match_wildcard(bencher: Bencher, subscriptions: u32) {
    matches(bencher, index(subscriptions, |n| format!("site/{n}/+")));
}

fn matches(bencher: Bencher, (mut index, topics): (SubscriptionIndex, Vec<String>)) {
    bencher.counter(ItemsCount::new(topics.len())).bench_local(|| {
        let mut found = 0;
        for topic in &topics {
            index.matches(topic, |_| found += 1, |_| true);
        }
        found
    });
}

/// The cases whose instructions are counted: a burst each.
#[divan::bench(args = CASES.iter().map(|case| case.name))]
fn machine(bencher: Bencher, name: &str) {
    let mut burst = culex_bench_machine::case(name).unwrap().set_up();
    let units = burst();
    bencher.counter(ItemsCount::new(units)).bench_local(burst);
}
