//! Random lives of a durable machine: what its log says at any prefix, and what its clients get over crashes.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::packet::*;
use culex_core::store::{Batch, Change, Each, Image, Scan};
use culex_core::testing::*;
use culex_core::{Config, ConnectionId, LogSeq, Record, Seed, Stack};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;

fn qos(number: u8) -> QoS {
    QoS::from_bits(number % 3).unwrap()
}

/// Where a page goes on is a hint of the machine: after a restart it may go on earlier, at what was recorded as sent.
fn canonical(records: Vec<Record>) -> Vec<Record> {
    let same = |record| match record {
        Record::Page { client_id, filter, options, identifier, .. } => {
            Record::Page { client_id, filter, options, identifier, after: None }
        }
        other => other,
    };
    records.into_iter().map(same).collect()
}

fn small() -> Config {
    Config { queue_messages_max: 4, in_flight_max: 3, retained_messages_max: 3, ..Config::default() }
}

#[derive(Debug, Clone)]
enum Step {
    Connect { client: usize, clean: bool, expiry: u32, will: Option<(u8, u32)> },
    Subscribe { client: usize, filter: usize, qos: u8, share: bool },
    Unsubscribe { client: usize, filter: usize },
    Publish { client: usize, topic: usize, qos: u8, retain: bool, payload: u8, expires: bool },
    Release { client: usize },
    Answer { client: usize },
    Leave { client: usize, expiry: Option<u32> },
    Cut { client: usize },
    Pass { ms: u64 },
    Commit { records: u64 },
}

const CLIENTS: [&str; 3] = ["alice", "bob", "carol"];
const FILTERS: [&str; 4] = ["a", "b", "+", "a/#"];
const TOPICS: [&str; 3] = ["a", "b", "a/b"];

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS.len();
    let will = prop::option::of((0u8..3, 0u32..20));
    prop_oneof![
        4 => (client(), any::<bool>(), prop::sample::select(vec![0, 10, 60, u32::MAX]), will)
            .prop_map(|(client, clean, expiry, will)| Step::Connect { client, clean: clean && expiry < 60, expiry, will }),
        4 => (client(), 0..FILTERS.len(), 0u8..3, prop::bool::weighted(0.2))
            .prop_map(|(client, filter, qos, share)| Step::Subscribe { client, filter, qos, share }),
        1 => (client(), 0..FILTERS.len()).prop_map(|(client, filter)| Step::Unsubscribe { client, filter }),
        8 => (client(), 0..TOPICS.len(), 0u8..3, prop::bool::weighted(0.3), 0u8..9, prop::bool::weighted(0.2))
            .prop_map(|(client, topic, qos, retain, payload, expires)| {
                Step::Publish { client, topic, qos, retain, payload, expires }
            }),
        2 => client().prop_map(|client| Step::Release { client }),
        4 => client().prop_map(|client| Step::Answer { client }),
        1 => (client(), prop::option::of(prop::sample::select(vec![0u32, 5, 100])))
            .prop_map(|(client, expiry)| Step::Leave { client, expiry }),
        2 => client().prop_map(|client| Step::Cut { client }),
        2 => (1u64..15_000).prop_map(|ms| Step::Pass { ms }),
        5 => (1u64..9).prop_map(|records| Step::Commit { records }),
    ]
}

/// Performs random steps; every packet a client sends may be nonsense at that moment, and is sent all the same.
struct Life {
    bench: Bench,
    connections: [Option<ConnectionId>; 3],
    packet_ids: u16,
    committed: u64,
}

impl Life {
    fn new() -> Self {
        let bench = Bench::with(small(), Stack::durable());
        Self { bench, connections: [None; 3], packet_ids: 0, committed: 0 }
    }

    fn perform(&mut self, step: &Step) {
        match *step {
            Step::Connect { client, clean, expiry, will } => self.connect(client, clean, expiry, will),
            Step::Pass { ms } => self.bench.pass_ms(ms),
            Step::Commit { records } => {
                self.committed = (self.committed + records).min(self.bench.stores.len() as u64);
                self.bench.broker.committed(self.bench.now, LogSeq(self.committed));
                self.bench.drain();
            }
            Step::Subscribe { client, .. }
            | Step::Unsubscribe { client, .. }
            | Step::Publish { client, .. }
            | Step::Release { client }
            | Step::Answer { client }
            | Step::Leave { client, .. }
            | Step::Cut { client } => {
                if let Some(id) = self.connections[client].filter(|id| !self.bench.closed(*id)) {
                    self.packet(client, id, step);
                }
            }
        }
    }

    fn connect(&mut self, client: usize, clean_start: bool, expiry: u32, message: Option<(u8, u32)>) {
        let properties = properties(&[Property::SessionExpiryInterval(expiry)]);
        let will = message.map(|(qos, delay)| Will {
            qos: self::qos(qos),
            properties: self::properties(&[Property::WillDelayInterval(delay)]),
            ..will("a", b"will")
        });
        let connect = Connect { clean_start, properties, will, ..connect(Version::V5, CLIENTS[client]) };
        self.connections[client] = Some(self.bench.try_connect(&connect));
    }

    fn packet(&mut self, client: usize, id: ConnectionId, step: &Step) {
        match *step {
            Step::Subscribe { filter, qos, share, .. } => {
                let shared = format!("$share/s/{}", FILTERS[filter]);
                let filter = if share { &shared } else { FILTERS[filter] };
                self.bench.subscribe_all(id, &[(filter, SubscriptionOptions::new(self::qos(qos)))]);
            }
            Step::Unsubscribe { filter, .. } => self.bench.unsubscribe(id, FILTERS[filter]),
            Step::Publish { topic, qos, retain, payload, expires, .. } => {
                self.packet_ids = self.packet_ids % 9 + 1;
                let properties = match expires {
                    true => properties(&[Property::MessageExpiryInterval(5)]),
                    false => Properties::EMPTY,
                };
                // None, short, or too long to be kept once for each receiver.
                let length = match payload {
                    0 => 0,
                    1..=6 => 1,
                    _ => 300,
                };
                let payload = payload.to_string().repeat(length);
                let packet_id = (qos > 0).then(|| self::id(self.packet_ids));
                let publish = publish(TOPICS[topic], &payload, self::qos(qos));
                self.bench.send(id, &Packet::Publish(Publish { retain, properties, packet_id, ..publish }));
            }
            Step::Release { .. } => self.bench.acknowledge(id, PacketType::Pubrel, self.packet_ids),
            Step::Answer { .. } => drop(self.bench.handshake(id)),
            Step::Leave { expiry, .. } => {
                let expiry: Vec<_> = expiry.into_iter().map(Property::SessionExpiryInterval).collect();
                self.bench.send(id, &disconnect(ReasonCode::Success, &expiry));
            }
            _ => {
                self.bench.cut(id);
                self.connections[client] = None;
            }
        }
    }

    fn log(&self) -> Vec<Record> {
        self.bench.stores.iter().map(|(_, record)| record.clone()).collect()
    }
}

/// Entries, and how they came about.
#[derive(Debug, Default)]
struct Entries(BTreeMap<Vec<u8>, Vec<u8>>);

impl Entries {
    fn commit(&mut self, batch: &Batch) {
        for change in batch.changes() {
            match change {
                Change::Clear { from, to } => self.0.retain(|key, _| **key < *from || **key >= *to),
                Change::Put { key, value } => drop(self.0.insert(key.to_vec(), value.to_vec())),
                Change::Remove { key } => drop(self.0.remove(key)),
            }
        }
    }

    /// What they say, and who goes on with them.
    fn open(&self) -> (Vec<Record>, Image) {
        let mut records = Vec::new();
        let image = Image::open(self, Seed(1), &mut |record| {
            records.push(record);
            true
        });
        (records, image.unwrap())
    }
}

impl Scan for Entries {
    type Error = Infallible;

    fn scan(&self, from: &[u8], to: &[u8], each: Each<'_>) -> Result<(), Infallible> {
        let range = self.0.range(from.to_vec()..to.to_vec());
        for (key, value) in range {
            if each(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_prefix_of_the_log_is_the_state_at_that_prefix(steps in prop::collection::vec(step(), 1..80)) {
        let mut life = Life::new();
        for (n, step) in steps.iter().enumerate() {
            life.perform(step);
            let log = life.log();
            let state = canonical(life.bench.broker.records());
            // What is gone from memory leaves nothing behind; and the log is what bytes can carry.
            let bytes = |record: &Record| {
                let mut bytes = Vec::new();
                record.encode(&mut bytes);
                Record::decode(&bytes).unwrap()
            };
            let mut again = Bench::at(small(), Stack::durable(), life.bench.now);
            again.broker.replay(log.iter().map(bytes)).unwrap();
            let restored = canonical(again.broker.records());
            prop_assert_eq!(&restored, &state, "after {} of {:?}: {:#?}", n, step, log);
            let mut compact = Bench::at(small(), Stack::durable(), life.bench.now);
            compact.broker.replay(restored).unwrap();
            prop_assert_eq!(canonical(compact.broker.records()), state, "compacted");
        }
        let seqs: Vec<u64> = life.bench.stores.iter().map(|(seq, _)| seq.0).collect();
        prop_assert!(seqs.iter().copied().eq(1..=seqs.len() as u64));
    }

    #[test]
    fn any_prefix_can_be_gone_on_with(steps in prop::collection::vec(step(), 1..60)) {
        let mut life = Life::new();
        steps.iter().for_each(|step| life.perform(step));
        let log = life.log();
        for length in 0..=log.len() {
            let mut again = Bench::at(small(), Stack::durable(), life.bench.now);
            again.broker.restore(log[..length].iter().cloned()).unwrap();
            again.drain();
            let state = canonical(again.broker.records());
            let session = |record: &Record| matches!(record, Record::Session { left: None, .. });
            prop_assert!(!state.iter().any(session), "nobody is connected after a restart");
            // And again from what that stored.
            let through = length as u64;
            prop_assert!(again.stores.first().is_none_or(|(seq, _)| seq.0 == through + 1));
            let longer = log[..length].iter().cloned().chain(again.stores.iter().map(|(_, r)| r.clone()));
            let mut third = Bench::at(small(), Stack::durable(), life.bench.now);
            third.broker.replay(longer).unwrap();
            prop_assert_eq!(canonical(third.broker.records()), state);
        }
    }

    #[test]
    fn entries_say_what_the_log_says(
        steps in prop::collection::vec(step(), 1..80),
        ends in prop::collection::vec(0u8..6, 1..40),
    ) {
        let mut life = Life::new();
        let (mut entries, mut image, mut batch) = (Entries::default(), Image::new(Seed(1)), Batch::default());
        Image::initialize(&mut batch);
        let (mut ends, mut done) = (ends.iter().cycle(), 0);
        for (n, step) in steps.iter().enumerate() {
            life.perform(step);
            let log = life.log();
            for record in &log[done..] {
                image.apply(record, &mut batch).unwrap();
                match ends.next() {
                    // A batch ends in the middle of what one input stored.
                    Some(0) => entries.commit(&std::mem::take(&mut batch)),
                    // Somebody else goes on.
                    Some(1) => {
                        entries.commit(&std::mem::take(&mut batch));
                        image = entries.open().1;
                    }
                    _ => {}
                }
            }
            done = log.len();
            entries.commit(&std::mem::take(&mut batch));
            let mut from_log = Bench::at(small(), Stack::durable(), life.bench.now);
            from_log.broker.replay(log).unwrap();
            let mut from_entries = Bench::at(small(), Stack::durable(), life.bench.now);
            from_entries.broker.replay(entries.open().0).unwrap();
            prop_assert_eq!(canonical(from_entries.broker.records()), canonical(from_log.broker.records()), "{}", n);
        }
    }

    #[test]
    fn when_everything_is_over_no_entry_is_left(steps in prop::collection::vec(step(), 1..80)) {
        let mut life = Life::new();
        let (mut entries, mut image, mut batch) = (Entries::default(), Image::new(Seed(1)), Batch::default());
        Image::initialize(&mut batch);
        steps.iter().for_each(|step| life.perform(step));
        for client in 0..CLIENTS.len() {
            life.perform(&Step::Connect { client, clean: true, expiry: 0, will: None });
            life.perform(&Step::Leave { client, expiry: None });
        }
        life.bench.broker.committed(life.bench.now, LogSeq(u64::MAX));
        life.bench.drain();
        // Delayed wills come at last, and messages expire.
        life.bench.pass_ms(100_000);
        life.log().iter().for_each(|record| image.apply(record, &mut batch).unwrap());
        entries.commit(&batch);
        let mut left = life.bench.broker.records();
        let mut found = entries.open().0;
        left.sort_by_key(|record| format!("{record:?}"));
        found.sort_by_key(|record| format!("{record:?}"));
        prop_assert_eq!(found, left);
        prop_assert!(entries.0.keys().skip(1).all(|key| key[0] == 5), "what is retained, and nothing else: {:?}", entries);
    }
}
