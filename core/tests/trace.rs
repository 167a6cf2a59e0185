//! Tracing: the machine says what became of each message, and changes nothing by that.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::broker::{Fate, Traced};
use culex_core::config::Overflow;
use culex_core::middleware::{Authorize, Permission, Wanted};
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, LogSeq, SessionId, Stack};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

fn bench(config: Config) -> Bench {
    let mut bench = Bench::with(config, Stack::standard());
    bench.broker.trace(true);
    bench
}

/// What became of messages for anybody since the last time.
fn fates(bench: &mut Bench) -> Vec<Fate> {
    let fate = |traced| match traced {
        Traced::Delivery { fate, .. } => Some(fate),
        _ => None,
    };
    std::iter::from_fn(|| bench.broker.poll_traced()).filter_map(fate).collect()
}

fn sent(qos: QoS, packet_id: u16) -> Fate {
    Fate::Sent { qos, packet_id: PacketId::new(packet_id), again: false }
}

fn persistent(client_id: &str) -> Connect<'_> {
    Connect { clean_start: false, ..connect(Version::V311, client_id) }
}

#[test]
fn a_message_is_relayed_sent_and_acknowledged() {
    let mut bench = bench(Config::default());
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "a", Q2);
    let bob = bench.connect(Version::V5, "bob");
    bench.publish(bob, "a", "x", Q1);
    bench.acknowledge(alice, PacketType::Puback, 1);
    let all: Vec<Traced> = std::iter::from_fn(|| bench.broker.poll_traced()).collect();
    let [Traced::Relayed { publisher, receivers, payload_bytes: 1, qos: Q1, .. }, delivery, acknowledged] =
        &all[..]
    else {
        panic!("{all:?}")
    };
    let name = |session: &SessionId| bench.broker.session(*session).unwrap().client_id.to_string();
    assert_eq!(publisher.as_ref().map(name).unwrap(), "bob");
    assert_eq!(receivers.iter().map(name).collect::<Vec<_>>(), ["alice"]);
    let session = receivers[0];
    assert_eq!(*delivery, Traced::Delivery { session, topic: "a".into(), fate: sent(Q1, 1) });
    assert_eq!(*acknowledged, Traced::Acknowledged { session, packet_id: PacketId::MIN });
}

#[test]
fn every_way_to_lose_a_message_has_a_name() {
    let mut bench =
        bench(Config { outbox_bytes_max: 100, queue_messages_max: 1, in_flight_max: 1, ..Config::default() });
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect_with(&persistent("alice")).0;
    bench.subscribe(alice, "a", Q1);
    bench.publish(bob, "a", "in flight", Q1);
    bench.publish(bob, "a", "queued", Q1);
    bench.publish(bob, "a", "queued instead", Q1);
    let queued = Fate::Queued { length: 1 };
    assert_eq!(fates(&mut bench), [sent(Q1, 1), queued, Fate::Displaced, queued]);
    bench.clog(alice, true);
    bench.publish(bob, "a", &"x".repeat(200), Q0);
    bench.publish(bob, "a", "too much", Q0);
    assert_eq!(fates(&mut bench), [sent(Q0, 0), Fate::Slow]);
    bench.cut(alice);
    bench.publish(bob, "a", "nobody there", Q0);
    assert_eq!(fates(&mut bench), [Fate::Offline]);
    let alice = bench.connect_with(&persistent("alice")).0;
    assert_eq!(fates(&mut bench), [Fate::Sent { qos: Q1, packet_id: PacketId::new(1), again: true }]);
    bench.cut(alice);
    let small = properties(&[Property::MaximumPacketSize(20)]);
    let carol = bench.connect_with(&Connect { properties: small, ..connect(Version::V5, "carol") }).0;
    bench.subscribe(carol, "c", Q0);
    bench.publish(bob, "c", &"x".repeat(20), Q0);
    assert_eq!(fates(&mut bench), [Fate::TooLarge]);
}

#[test]
fn a_full_queue_and_an_expired_message_are_told() {
    let config = Config { queue_messages_max: 1, queue_overflow: Overflow::DropNewest, ..Config::default() };
    let mut bench = bench(config);
    let alice = bench.connect_with(&persistent("alice")).0;
    bench.subscribe(alice, "a", Q1);
    bench.cut(alice);
    let bob = bench.connect(Version::V5, "bob");
    let properties = properties(&[Property::MessageExpiryInterval(1)]);
    let packet = Publish { packet_id: Some(id(1)), properties, ..publish("a", "x", Q1) };
    bench.send(bob, &Packet::Publish(packet));
    bench.publish(bob, "a", "one too many", Q1);
    assert_eq!(fates(&mut bench), [Fate::Queued { length: 1 }, Fate::QueueFull]);
    bench.pass_ms(2_000);
    bench.connect_with(&persistent("alice"));
    assert_eq!(fates(&mut bench), [Fate::Expired]);
}

/// Everything that left the bench is durable.
fn commit(bench: &mut Bench) {
    let through = bench.stores.last().map_or(LogSeq(0), |(seq, _)| *seq);
    bench.broker.committed(bench.now, through);
    bench.drain();
}

#[test]
fn what_waits_for_the_log_is_told() {
    let mut bench = Bench::with(Config::default(), Stack::durable());
    let [alice, bob] = ["alice", "bob"].map(|name| {
        let properties = properties(&[Property::SessionExpiryInterval(100), Property::MaximumPacketSize(40)]);
        let client = bench.try_connect(&Connect { properties, ..connect(Version::V5, name) });
        commit(&mut bench);
        client
    });
    bench.subscribe_all(alice, &[("a", SubscriptionOptions::new(Q2))]);
    commit(&mut bench);
    bench.broker.trace(true);
    bench.publish_as(bob, 1, "a", "x", Q2);
    assert!(bench.broker.poll_traced().is_none(), "it is passed on when it is durable");
    commit(&mut bench);
    assert_eq!(fates(&mut bench), [Fate::Gated { packet_id: PacketId::MIN }]);
    commit(&mut bench);
    assert_eq!(fates(&mut bench), [sent(Q2, 1)]);
    bench.publish_as(bob, 2, "a", &"x".repeat(40), Q1);
    assert_eq!(fates(&mut bench), [Fate::TooLarge]);
    let properties = properties(&[Property::MessageExpiryInterval(1)]);
    let packet = Publish { packet_id: Some(id(3)), properties, ..publish("a", "x", Q2) };
    bench.send(bob, &Packet::Publish(packet));
    bench.pass_ms(2_000);
    commit(&mut bench);
    let Some(Traced::Expired { topic, publisher: Some(publisher) }) = bench.broker.poll_traced() else {
        panic!("expected that it expired");
    };
    assert_eq!((&*topic, &*bench.broker.session(publisher).unwrap().client_id), ("a", "bob"));
}

#[test]
fn a_refused_message_says_why() {
    let policy = |_: &str, _: Option<&str>, wanted: Wanted<'_>| match wanted {
        Wanted::Publish { .. } => Permission::Deny(ReasonCode::NotAuthorized),
        _ => Permission::Allow,
    };
    let stack = Stack::standard().replace("Authorize", Authorize::new(policy)).unwrap();
    let mut bench = Bench::with(Config::default(), stack);
    bench.broker.trace(true);
    let bob = bench.connect(Version::V5, "bob");
    bench.publish(bob, "a", "x", Q1);
    let (topic, reason) = ("a".into(), ReasonCode::NotAuthorized);
    assert_eq!(bench.broker.poll_traced(), Some(Traced::Refused { from: bob, topic, reason }));
    bench.broker.trace(false);
    bench.publish(bob, "a", "x", Q1);
    assert_eq!(bench.broker.poll_traced(), None);
}

#[test]
fn a_traced_machine_does_the_same_as_one_that_is_not() {
    let run = |traced| {
        let mut bench = Bench::new();
        bench.broker.trace(traced);
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, "a", Q1);
        bench.publish(alice, "a", "x", Q1);
        let mut snapshot = Vec::new();
        bench.broker.snapshot(&mut snapshot);
        (bench.output(alice), snapshot)
    };
    assert!(run(true) == run(false));
}
