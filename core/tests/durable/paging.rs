//! Long queues: their head is in memory, the rest is read back from the store when the client takes it.

use culex_core::broker::Fetch;
use culex_core::config::Overflow;
use culex_core::packet::*;
use culex_core::store::{Batch, Durability, Image, MemoryStore, Store};
use culex_core::testing::*;
use culex_core::{Config, ConnectionId, LogSeq, Record, Seed, Stack};

const Q1: QoS = QoS::AtLeastOnce;

/// A machine with a store that does what it is asked for when the test says so.
struct Keeper {
    bench: Bench,
    store: MemoryStore,
    image: Image,
    written: usize,
    fetches: Vec<Fetch>,
}

impl Keeper {
    fn new(config: Config) -> Self {
        let (bench, mut store) = (Bench::with(config, Stack::durable()), MemoryStore::default());
        let mut batch = Batch::default();
        Image::initialize(&mut batch);
        store.commit(&batch, Durability::Disk).unwrap();
        Self { bench, store, image: Image::new(Seed(1)), written: 0, fetches: Vec::new() }
    }

    fn with_memory_for(messages: u32) -> Self {
        Self::new(Config { queue_memory_messages_max: messages, ..Config::default() })
    }

    /// Everything that was stored is durable, but for what comes behind something to be read.
    fn commit(&mut self) {
        let until = self.bench.fetches.first().map_or(self.bench.stores.len(), |(until, _)| *until);
        self.write(until);
        self.bench.broker.committed(self.bench.now, LogSeq(until as u64));
        self.bench.drain();
    }

    fn write(&mut self, until: usize) {
        let mut batch = Batch::default();
        for (_, record) in &self.bench.stores[self.written..until] {
            self.image.apply(record, &mut batch).unwrap();
        }
        self.store.commit(&batch, Durability::Disk).unwrap();
        self.written = until;
    }

    /// Reads what the machine wants to have read, in its turn with what it stores.
    fn read(&mut self) -> bool {
        if self.bench.fetches.is_empty() {
            return false;
        }
        let (until, fetch) = self.bench.fetches.remove(0);
        self.write(until);
        let Fetch { client_id, skip, messages_max, bytes_max, session } = &fetch;
        let queued = self.image.queued(&self.store, client_id, *skip, *messages_max, *bytes_max).unwrap();
        self.bench.broker.fetched(self.bench.now, *session, queued);
        self.fetches.push(fetch);
        self.bench.drain();
        true
    }

    /// Lets everything happen that waits.
    fn settle(&mut self) {
        self.commit();
        while self.read() {
            self.commit();
        }
    }

    fn connect(&mut self, client_id: &str, expiry: u32) -> ConnectionId {
        let properties = properties(&[Property::SessionExpiryInterval(expiry)]);
        let connect = Connect { clean_start: false, properties, ..connect(Version::V5, client_id) };
        let id = self.bench.try_connect(&connect);
        self.commit();
        id
    }

    /// A client that is away, with so many messages in its queue.
    fn away_with(&mut self, expiry: u32, messages: std::ops::RangeInclusive<u32>) {
        let alice = self.connect("alice", expiry);
        self.bench.subscribe_all(alice, &[("t", SubscriptionOptions::new(Q1))]);
        self.commit();
        self.bench.cut(alice);
        self.publish(messages);
    }

    fn publish(&mut self, messages: std::ops::RangeInclusive<u32>) {
        for n in messages {
            let message = culex_core::Message::new("t", n.to_string().as_bytes(), Q1, false).unwrap();
            self.bench.broker.publish(self.bench.now, message, culex_core::Origin::Program).unwrap();
        }
        self.bench.drain();
        self.commit();
    }

    /// What the client gets that acknowledges everything.
    fn takes(&mut self, id: ConnectionId) -> Vec<String> {
        let mut got = Vec::new();
        loop {
            self.settle();
            let messages = self.bench.handshake(id);
            if messages.is_empty() {
                return got;
            }
            got.extend(messages);
        }
    }

    fn in_memory(&self) -> (usize, usize) {
        let found = self.bench.broker.inspect("alice").unwrap();
        (found.queue.len(), found.queue_outside)
    }

    /// The machine is gone, and another one has what the store has.
    fn restart(self, config: Config) -> Self {
        let mut bench = Bench::at(config, Stack::durable(), self.bench.now);
        let mut records = Vec::new();
        let image = Image::open(&self.store, Seed(1), &mut |record| {
            records.push(record);
            true
        });
        bench.broker.restore_through(LogSeq(0), records).unwrap();
        bench.drain();
        Self { bench, store: self.store, image: image.unwrap(), written: 0, fetches: Vec::new() }
    }
}

fn numbers(messages: std::ops::RangeInclusive<u32>) -> Vec<String> {
    messages.map(|n| format!("t: {n}")).collect()
}

#[test]
fn a_long_queue_is_read_back_in_its_order() {
    let mut keeper = Keeper::with_memory_for(10);
    keeper.away_with(3_600, 1..=1_000);
    assert_eq!(keeper.in_memory(), (10, 990));
    let alice = keeper.connect("alice", 3_600);
    assert_eq!(keeper.takes(alice), numbers(1..=1_000));
    assert_eq!(keeper.in_memory(), (0, 0));
    assert!(keeper.fetches.len() >= 99, "{} fetches", keeper.fetches.len());
}

#[test]
fn what_comes_while_the_queue_is_read_back_comes_behind_it() {
    let mut keeper = Keeper::with_memory_for(4);
    keeper.away_with(3_600, 1..=20);
    let alice = keeper.connect("alice", 3_600);
    keeper.publish(21..=30);
    assert_eq!(keeper.takes(alice), numbers(1..=30));
    keeper.publish(31..=31);
    assert_eq!(keeper.takes(alice), numbers(31..=31));
}

#[test]
fn memory_stays_bounded_by_bytes_too() {
    let config = Config { queue_memory_bytes_max: 1_000, ..Config::default() };
    let mut keeper = Keeper::new(config);
    keeper.away_with(3_600, 1..=100);
    let (here, outside) = keeper.in_memory();
    assert!((1..16).contains(&here) && here + outside == 100, "{here} and {outside}");
    let alice = keeper.connect("alice", 3_600);
    assert_eq!(keeper.takes(alice), numbers(1..=100));
}

#[test]
fn a_restart_leaves_a_long_queue_where_it_is() {
    let config = Config { queue_memory_messages_max: 10, ..Config::default() };
    let mut keeper = Keeper::new(config.clone());
    keeper.away_with(3_600, 1..=100);
    let mut keeper = keeper.restart(config);
    assert_eq!(keeper.in_memory(), (10, 90));
    let alice = keeper.connect("alice", 3_600);
    assert_eq!(keeper.takes(alice), numbers(1..=100));
}

#[test]
fn a_full_queue_drops_its_oldest_message_wherever_it_is() {
    let config = Config {
        queue_memory_messages_max: 2,
        queue_messages_max: 5,
        queue_overflow: Overflow::DropOldest,
        in_flight_max: 1,
        ..Config::default()
    };
    let mut keeper = Keeper::new(config);
    keeper.away_with(3_600, 1..=5);
    let alice = keeper.connect("alice", 3_600);
    // 1 is in flight, 2 in memory, and 3, 4 are asked for.
    assert_eq!(keeper.in_memory(), (1, 3));
    assert_eq!(keeper.bench.fetches.len(), 1);
    keeper.publish(6..=9);
    assert_eq!(keeper.in_memory().0, 0, "2, 3 and 4 made room");
    assert_eq!(keeper.takes(alice), ["t: 1", "t: 5", "t: 6", "t: 7", "t: 8", "t: 9"]);
}

#[test]
fn who_comes_back_for_one_connection_only_gets_what_the_store_has() {
    let mut keeper = Keeper::with_memory_for(3);
    keeper.away_with(3_600, 1..=10);
    let alice = keeper.connect("alice", 0);
    assert_eq!(keeper.takes(alice), numbers(1..=10));
    keeper.bench.cut(alice);
    keeper.commit();
    assert!(keeper.bench.broker.inspect("alice").is_none(), "the session ended with the connection");
    let mut left = 0;
    let image = Image::open(&keeper.store, Seed(1), &mut |_| {
        left += 1;
        true
    });
    assert_eq!((image.unwrap().sessions(), left), (0, 0));
}

#[test]
fn a_session_that_ends_with_its_connection_ends_with_a_restart_too() {
    let mut keeper = Keeper::with_memory_for(3);
    keeper.away_with(3_600, 1..=10);
    keeper.connect("alice", 0);
    let keeper = keeper.restart(Config::default());
    assert!(keeper.bench.broker.inspect("alice").is_none());
}

#[test]
fn a_client_whose_messages_cannot_be_read_is_told_to_go_and_may_try_again() {
    let mut keeper = Keeper::with_memory_for(3);
    keeper.away_with(3_600, 1..=10);
    let alice = keeper.connect("alice", 3_600);
    keeper.bench.handshake(alice);
    let (_, fetch) = keeper.bench.fetches.remove(0);
    keeper.bench.broker.fetched(keeper.bench.now, fetch.session, Vec::new());
    keeper.bench.drain();
    assert!(keeper.bench.closed(alice));
    keeper.bench.cut(alice);
    let alice = keeper.connect("alice", 3_600);
    assert_eq!(keeper.takes(alice), numbers(4..=10));
}

#[test]
fn more_than_was_asked_for_is_not_taken() {
    let mut keeper = Keeper::with_memory_for(3);
    keeper.away_with(3_600, 1..=4);
    let alice = keeper.connect("alice", 3_600);
    keeper.bench.handshake(alice);
    let (_, fetch) = keeper.bench.fetches.remove(0);
    let queued = Record::Queued {
        client_id: "alice".into(),
        message: culex_core::Message::new("t", b"x", Q1, false).unwrap(),
        qos: Q1,
        retain: false,
        identifiers: Default::default(),
    };
    for _ in 0..2 {
        // And nobody asked for it twice.
        keeper.bench.broker.fetched(keeper.bench.now, fetch.session, vec![queued.clone(); 3]);
    }
    keeper.bench.drain();
    assert_eq!(keeper.takes(alice), ["t: x"]);
}

#[test]
fn what_is_read_before_a_client_has_its_connack_keeps_its_place() {
    let config = Config { queue_memory_messages_max: 2, in_flight_max: 3, ..Config::default() };
    let mut keeper = Keeper::new(config);
    keeper.away_with(3_600, 1..=10);
    let alice = keeper.connect("alice", 3_600);
    assert_eq!(keeper.bench.fetches.len(), 1, "the head is gone");
    keeper.bench.cut(alice);
    // Its CONNACK waits for the disk, and what was asked for comes.
    let properties = properties(&[Property::SessionExpiryInterval(3_600)]);
    let connect = Connect { clean_start: false, properties, ..connect(Version::V5, "alice") };
    let alice = keeper.bench.try_connect(&connect);
    assert!(keeper.read());
    assert_eq!(keeper.takes(alice), numbers(1..=10));
}
