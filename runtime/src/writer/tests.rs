//! A driver with a store, without sockets: the disk is a store in memory whose commits the test holds up.

use super::{BATCH_BYTES_MAX, QUEUE_BYTES_MAX};
use crate::held::HeldStore;
use crate::{Adapter, Builder, Did, Driver, Effect, Handle, Prepared, Recorder, Recording, Turn};
use culex_core::packet::*;
use culex_core::store::{Durability, Scan};
use culex_core::testing::{connect, publish, retained};
use culex_core::{Config, ConnectionId, Disconnect, Message, Peer, Stack};
use futures_lite::future::block_on;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::task::Poll;

struct Here;

impl Adapter for Here {
    type Bound = Prepared;
}

/// A driver, and what it wrote and wants closed.
struct Machine {
    driver: Driver,
    handle: Handle,
    written: Vec<(ConnectionId, Vec<u8>)>,
    closed: Vec<ConnectionId>,
    next: Turn,
}

impl Machine {
    fn start(store: &HeldStore) -> Self {
        Self::of(Builder::default(), store)
    }

    fn of(builder: Builder<Here>, store: &HeldStore) -> Self {
        let prepared = builder.store(store.clone(), Durability::Disk).bind().unwrap();
        let handle = prepared.handle();
        let (driver, ..) = prepared.start(|_, _| Ok(())).unwrap();
        let (written, closed, next) = (Vec::new(), Vec::new(), Turn::Wait(None));
        Self { driver, handle, written, closed, next }
    }

    fn turn(&mut self) {
        self.driver.work();
        loop {
            while let Some(effect) = self.driver.poll_effect() {
                if let Effect::Close { id, .. } = effect {
                    self.closed.push(id);
                    self.driver.disconnected(id, Disconnect::Closed);
                }
            }
            let write = |id, slices: &[std::io::IoSlice<'_>]| {
                let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                let count = bytes.len();
                self.written.push((id, bytes));
                Ok(count)
            };
            if self.driver.poll_write(write).is_none() {
                break;
            }
        }
        self.next = self.driver.end_turn();
    }

    /// Waits for the writer's news, and lets the machine hear them.
    fn news(&mut self) {
        block_on(poll_fn(|cx| match self.driver.commands().ready(cx.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }));
        self.turn();
    }

    /// Turns until everything is stored.
    fn settle(&mut self) {
        self.turn();
        while self.driver.is_storing() {
            self.news();
        }
    }

    fn send(&mut self, id: ConnectionId, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(Version::V5, &mut bytes).unwrap();
        self.driver.receive(id, &bytes);
    }

    /// A client whose session outlives it, its CONNACK on the way.
    fn connect(&mut self, client_id: &str) -> ConnectionId {
        let id = self.driver.accept(Peer::default()).unwrap();
        let mut properties = PropertiesBuf::new();
        properties.push(Property::SessionExpiryInterval(u32::MAX));
        let properties = properties.as_properties();
        let hello = Connect { clean_start: false, properties, ..connect(Version::V5, client_id) };
        self.send(id, &Packet::Connect(hello));
        id
    }

    fn subscribe(&mut self, id: ConnectionId, filter: &str) {
        let mut filters = SubscribeFiltersBuf::new();
        filters.push(filter, SubscriptionOptions::new(QoS::ExactlyOnce)).unwrap();
        let (packet_id, filters) = (PacketId::MIN, filters.as_filters());
        self.send(id, &Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
    }

    /// An offline session that is subscribed to everything, and a client that is online.
    fn with_subscriber(store: &HeldStore) -> (Self, ConnectionId) {
        Self::with_subscriber_of(Builder::default(), store)
    }

    fn with_subscriber_of(builder: Builder<Here>, store: &HeldStore) -> (Self, ConnectionId) {
        let mut machine = Self::of(builder, store);
        let subscriber = machine.connect("subscriber");
        machine.subscribe(subscriber, "#");
        machine.settle();
        machine.driver.disconnected(subscriber, Disconnect::Eof);
        let publisher = machine.connect("publisher");
        machine.settle();
        machine.written.clear();
        (machine, publisher)
    }

    fn publish(&mut self, id: ConnectionId, number: u16, payload: &str) {
        let packet_id = PacketId::new(number);
        self.send(id, &Packet::Publish(Publish { packet_id, ..publish("t", payload, QoS::AtLeastOnce) }));
    }

    /// What a client got since the last time: the kinds of the packets, and the payloads among them.
    fn got(&mut self, id: ConnectionId) -> (Vec<PacketType>, Vec<String>) {
        let mine = self.written.iter().filter(|(to, _)| *to == id);
        let bytes: Vec<u8> = mine.flat_map(|(_, bytes)| bytes.clone()).collect();
        self.written.retain(|(to, _)| *to != id);
        let (mut kinds, mut payloads, mut used) = (Vec::new(), Vec::new(), 0);
        while let Ok(Framed::Whole { frame, length }) = frame(&bytes[used..], u32::MAX) {
            used += length;
            kinds.push(frame.packet_type().unwrap());
            if let Packet::Publish(publish) = Packet::decode(&frame, Version::V5).unwrap() {
                payloads.push(String::from_utf8_lossy(publish.payload.as_ref()).into_owned());
            }
        }
        (kinds, payloads)
    }

    fn kinds(&mut self, id: ConnectionId) -> Vec<PacketType> {
        self.got(id).0
    }
}

#[test]
fn nothing_is_acknowledged_before_it_is_committed() {
    let store = HeldStore::default();
    let (mut machine, publisher) = Machine::with_subscriber(&store);
    store.hold();
    machine.publish(publisher, 1, "a");
    machine.send(publisher, &Packet::Pingreq);
    machine.turn();
    store.until_held();
    machine.turn();
    assert_eq!(machine.kinds(publisher), [PacketType::Pingresp]);
    store.release();
    machine.settle();
    assert_eq!(machine.kinds(publisher), [PacketType::Puback]);
}

#[test]
fn what_comes_during_a_commit_is_committed_together() {
    let store = HeldStore::default();
    let (mut machine, publisher) = Machine::with_subscriber(&store);
    let before = store.commits();
    store.hold();
    machine.publish(publisher, 1, "first");
    machine.turn();
    store.until_held();
    for number in 2..100 {
        machine.publish(publisher, number, "one of many");
        machine.turn();
    }
    store.release();
    machine.settle();
    assert_eq!(store.commits() - before, 2);
    assert_eq!(machine.kinds(publisher), [PacketType::Puback; 99]);
}

#[test]
fn after_a_failed_commit_nothing_is_acknowledged_and_nothing_stored_until_a_restart() {
    let store = HeldStore::default();
    let (mut machine, publisher) = Machine::with_subscriber(&store);
    store.hold();
    machine.publish(publisher, 1, "lost");
    machine.turn();
    store.until_held();
    machine.publish(publisher, 2, "lost as well");
    machine.turn();
    store.fail();
    store.release();
    machine.settle();
    assert_eq!(machine.kinds(publisher), [PacketType::Disconnect]);
    assert_eq!(machine.closed, [publisher]);

    let commits = store.commits();
    let later = machine.connect("later");
    machine.turn();
    // CONNACK, Unspecified error: not even a session can be kept.
    assert!(matches!(&machine.written[..], [(to, connack)] if *to == later && connack[3] == 0x80));
    machine.written.clear();
    let clean = machine.driver.accept(Peer::default()).unwrap();
    machine.send(clean, &Packet::Connect(connect(Version::V5, "clean")));
    machine.turn();
    assert_eq!(machine.kinds(clean), [PacketType::Connack]);
    machine.publish(clean, 1, "refused");
    machine.settle();
    // PUBACK, Implementation specific error.
    assert_eq!(machine.written.pop(), Some((clean, vec![0x40, 3, 0, 1, 0x83])));
    assert_eq!(store.commits(), commits);

    let mut machine = Machine::start(&store.killed());
    let subscriber = machine.connect("subscriber");
    machine.settle();
    assert_eq!(machine.got(subscriber), (vec![PacketType::Connack], vec![]));
}

#[test]
fn a_restart_finds_sessions_queues_retained_messages_and_what_was_begun() {
    let store = HeldStore::default();
    let (mut machine, publisher) = Machine::with_subscriber(&store);
    machine.publish(publisher, 1, "queued");
    machine.send(publisher, &retained("kept", "retained", QoS::AtLeastOnce));
    let twice = publish("t", "once", QoS::ExactlyOnce);
    machine.send(publisher, &Packet::Publish(twice.clone()));
    machine.settle();
    assert_eq!(machine.kinds(publisher), [PacketType::Puback, PacketType::Puback, PacketType::Pubrec]);
    let store = store.killed();
    drop(machine);

    let mut machine = Machine::start(&store);
    // Without a PUBREL the publisher sends it again: it is known.
    let publisher = machine.connect("publisher");
    machine.send(publisher, &Packet::Publish(Publish { dup: true, ..twice }));
    let subscriber = machine.connect("subscriber");
    machine.settle();
    assert_eq!(machine.kinds(publisher), [PacketType::Connack, PacketType::Pubrec]);
    assert_eq!(machine.got(subscriber).1, ["queued", "retained", "once"]);
    let new = machine.connect("new");
    machine.subscribe(new, "kept");
    machine.settle();
    assert_eq!(machine.got(new).1, ["retained"]);
}

#[test]
fn how_much_was_restored_is_told() {
    let store = HeldStore::default();
    let (machine, _) = Machine::with_subscriber(&store);
    drop(machine);
    let prepared = Builder::<Here>::default().store(store, Durability::Os).bind().unwrap();
    let restored = prepared.handle().restored().unwrap();
    assert_eq!((restored.sessions, restored.records), (2, 3));
    assert!(Builder::<Here>::default().bind().unwrap().handle().restored().is_none());
}

/// As much as the queue takes and more is published while the disk does nothing: none of it is read for ever.
#[test]
fn a_disk_that_does_nothing_stops_the_reading_and_not_the_machine() {
    let store = HeldStore::default();
    let builder = Builder::default().config(Config { actions_max: 8, ..Config::default() });
    let (mut machine, publisher) = Machine::with_subscriber_of(builder, &store);
    store.hold();
    let payload = "x".repeat(BATCH_BYTES_MAX / 64);
    let mut sent = 0;
    while machine.driver.read_credit(publisher) > 0 {
        sent += 1;
        machine.publish(publisher, sent, &payload);
        machine.turn();
    }
    let most = 2 * QUEUE_BYTES_MAX / payload.len() + 16;
    assert!(usize::from(sent) <= most, "{sent} messages were taken");
    machine.handle.publish(Message::new("t", b"", QoS::AtMostOnce, false).unwrap()).unwrap();
    machine.turn();
    store.release();
    machine.settle();
    assert!(machine.driver.read_credit(publisher) > 0);
    assert_eq!(machine.kinds(publisher).len(), usize::from(sent));
}

#[test]
fn a_snapshot_has_what_came_before_it_and_nothing_after_it() {
    let store = HeldStore::default();
    let (mut machine, publisher) = Machine::with_subscriber(&store);
    let handle = machine.handle.clone();
    machine.publish(publisher, 1, "before");
    let asked = std::thread::spawn(move || handle.snapshot().unwrap());
    machine.news();
    machine.settle();
    let snapshot = asked.join().unwrap();
    let count = || {
        let mut count = 0;
        let mut each = |_: &[u8], _: &[u8]| {
            count += 1;
            ControlFlow::Continue(())
        };
        snapshot.scan(&[0], &[0xFF], &mut each).unwrap();
        count
    };
    let before = count();
    machine.publish(publisher, 2, "after");
    machine.settle();
    assert_eq!(count(), before);
    let memory = Builder::<Here>::default().bind().unwrap();
    let handle = memory.handle();
    let asked = std::thread::spawn(move || handle.snapshot());
    let (mut driver, ..) = memory.start(|_, _| Ok(())).unwrap();
    while !asked.is_finished() {
        driver.work();
        std::thread::yield_now();
    }
    assert_eq!(asked.join().unwrap().unwrap_err().to_string(), "the broker has no store");
}

#[test]
fn a_shutdown_waits_until_everything_is_stored() {
    let store = HeldStore::default();
    let (mut machine, publisher) = Machine::with_subscriber(&store);
    store.hold();
    machine.publish(publisher, 1, "last");
    machine.turn();
    store.until_held();
    machine.handle.shutdown();
    machine.turn();
    machine.turn();
    assert_eq!(machine.closed, [publisher]);
    assert!(matches!(machine.next, Turn::Wait(Some(_))), "the store is not there yet");
    assert_eq!(machine.kinds(publisher), [PacketType::Disconnect]);
    store.release();
    while machine.next != Turn::Stop {
        machine.news();
    }
    assert_eq!(machine.kinds(publisher), []);
}

#[test]
fn a_shutdown_whose_time_is_over_leaves_what_nobody_was_told() {
    let store = HeldStore::default();
    let (mut machine, publisher) = Machine::with_subscriber_of(Builder::default().shutdown_ms(0), &store);
    store.hold();
    machine.publish(publisher, 1, "begun");
    machine.turn();
    store.until_held();
    machine.publish(publisher, 2, "left");
    machine.turn();
    machine.handle.shutdown();
    machine.turn();
    assert_eq!(machine.next, Turn::Stop);
    store.release();
    drop(machine);
    let mut machine = Machine::start(&store);
    let subscriber = machine.connect("subscriber");
    machine.settle();
    assert_eq!(machine.got(subscriber).1, ["begun"]);
}

#[test]
fn what_the_store_says_is_recorded() {
    let store = HeldStore::default();
    let (machine, _) = Machine::with_subscriber(&store);
    drop(machine);
    let recorder = Recorder::default();
    let builder = Builder::default().record(recorder.clone());
    let (mut machine, publisher) = Machine::with_subscriber_of(builder, &store);
    machine.publish(publisher, 1, "a");
    machine.settle();
    store.fail();
    machine.publish(publisher, 2, "b");
    machine.settle();
    assert_eq!(machine.closed, [publisher]);
    let mut bytes = Vec::new();
    recorder.write_to(&mut bytes).unwrap();
    let recording = Recording::parse(&bytes).unwrap();
    let mut replay = recording.replay(Stack::durable).unwrap();
    let mut inputs = Vec::new();
    while let Some(step) = replay.step().unwrap_or_else(|stuck| panic!("{stuck}")) {
        if let Did::Input(input, _) = step.did {
            inputs.push(format!("{input:?}"));
        }
    }
    for kind in ["Committed(", "CommitFailed("] {
        assert!(inputs.iter().any(|input| input.starts_with(kind)), "{kind}");
    }
}

#[test]
fn a_long_queue_is_read_back_from_the_store_in_its_order() {
    let store = HeldStore::default();
    let config = Config { queue_memory_messages_max: 4, in_flight_max: 3, ..Config::default() };
    let (mut machine, publisher) = Machine::with_subscriber_of(Builder::default().config(config), &store);
    for number in 1..=40 {
        machine.publish(publisher, number, &number.to_string());
    }
    machine.settle();
    let subscriber = machine.connect("subscriber");
    let (mut payloads, mut packet_id) = (Vec::new(), 0);
    while payloads.len() < 40 {
        machine.settle();
        let got = machine.got(subscriber).1;
        if got.is_empty() {
            // What is read is on its way.
            machine.news();
        }
        for payload in got {
            packet_id += 1;
            let ack = Ack::success(PacketId::new(packet_id).unwrap());
            machine.send(subscriber, &Packet::Puback(ack));
            payloads.push(payload);
        }
    }
    assert!(payloads.iter().map(|payload| payload.parse::<u16>().unwrap()).eq(1..=40), "{payloads:?}");
}
