//! What clients experience, on the bench.
#![cfg(feature = "testing")]

use culex_core::packet::*;
use culex_core::testing::*;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

#[test]
fn a_message_reaches_who_subscribed() {
    for version in [Version::V31, Version::V311, Version::V5] {
        for qos in [Q0, Q1, Q2] {
            let mut bench = Bench::new();
            let alice = bench.connect(version, "alice");
            let bob = bench.connect(version, "bob");
            bench.subscribe(alice, "a/+", qos);
            bench.publish(bob, "a/b", "hello", qos);
            bench.publish(bob, "b/b", "other", Q0);
            bench.handshake(bob);
            assert_eq!(bench.handshake(alice), ["a/b: hello"]);
            assert!(bench.stray.is_empty(), "{:?}", bench.stray);
        }
    }
}

#[test]
fn an_offline_client_gets_what_it_missed_in_order() {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let persistent = Connect { clean_start: false, ..connect(Version::V311, "alice") };
    let (alice, present) = bench.connect_with(&persistent);
    assert!(!present);
    bench.subscribe(alice, "#", Q2);
    bench.cut(alice);
    for n in 0..2_000 {
        bench.publish(bob, "t", &n.to_string(), if n % 2 == 0 { Q1 } else { Q2 });
        bench.handshake(bob);
    }
    let (alice, present) = bench.connect_with(&persistent);
    assert!(present);
    let got = bench.handshake(alice);
    let expected: Vec<_> = (0..2_000).map(|n| format!("t: {n}")).collect();
    assert_eq!(got, expected);
}

#[test]
fn all_retained_messages_are_sent_whatever_the_limits() {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    for n in 0..3_000 {
        let packet = Publish { retain: true, ..publish("x", "m", Q1) };
        let topic = format!("r/{n:05}");
        bench.send(bob, &Packet::Publish(Publish { topic: topic.into(), ..packet }));
    }
    for qos in [Q0, Q1, Q2] {
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, "r/#", qos);
        assert_eq!(bench.handshake(alice).len(), 3_000);
    }
}

#[test]
fn a_will_is_sent_when_the_connection_breaks_and_not_after_disconnect() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V311, "alice");
    bench.subscribe(alice, "will/#", Q0);
    let with_will = Connect { will: Some(will("will/bob", b"gone")), ..connect(Version::V311, "bob") };
    let (bob, _) = bench.connect_with(&with_will);
    bench.cut(bob);
    assert_eq!(bench.messages(alice), ["will/bob: gone"]);
    let (bob, _) = bench.connect_with(&with_will);
    bench.send(
        bob,
        &Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: Properties::EMPTY }),
    );
    assert!(bench.closed(bob));
    bench.cut(bob);
    assert!(bench.messages(alice).is_empty());
}
