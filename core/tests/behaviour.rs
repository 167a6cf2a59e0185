//! What clients experience, on the bench.
#![cfg(feature = "testing")]

use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Notice, Violation};

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

#[test]
fn a_session_has_no_more_subscriptions_than_allowed() {
    let config = culex_core::Config { subscriptions_max: 2, ..Default::default() };
    let mut bench = Bench::with(config, culex_core::Stack::standard());
    let alice = bench.connect(Version::V5, "alice");
    let mut filters = SubscribeFiltersBuf::new();
    for filter in ["a", "b", "c"] {
        filters.push(filter, SubscriptionOptions::default()).unwrap();
    }
    let (packet_id, properties) = (id(1), Properties::EMPTY);
    let packet = || Packet::Subscribe(Subscribe { packet_id, properties, filters: filters.as_filters() });
    bench.send(alice, &packet());
    let output = bench.output(alice);
    let [Packet::Suback(suback)] = &decode(&output, Version::V5)[..] else { panic!("{output:02x?}") };
    assert_eq!(suback.reasons, [0, 0, ReasonCode::QuotaExceeded as u8]);
    bench.unsubscribe(alice, "a");
    bench.output(alice);
    bench.subscribe(alice, "c", Q0);
}

#[test]
fn a_topic_that_a_middleware_made_too_long_is_refused() {
    struct Lengthen;
    impl culex_core::Middleware for Lengthen {
        fn name(&self) -> &'static str {
            "Lengthen"
        }
        fn wants(&self) -> culex_core::Hooks {
            culex_core::Hooks::PUBLISH
        }
        fn publish(
            &mut self,
            _: &mut culex_core::Cx<'_>,
            _: culex_core::ConnectionId,
            packet: &mut Publish<'_>,
        ) -> culex_core::Flow {
            packet.topic = "x".repeat(70_000).into();
            culex_core::Flow::Next
        }
    }
    let stack = culex_core::Stack::standard().insert_before("InboundManager", Lengthen).unwrap();
    let mut bench = Bench::with(culex_core::Config::default(), stack);
    let bob = bench.connect(Version::V5, "bob");
    bench.publish(bob, "t", "m", Q1);
    let output = bench.output(bob);
    let [Packet::Puback(ack)] = &decode(&output, Version::V5)[..] else { panic!("{output:02x?}") };
    assert_eq!(ack.reason, ReasonCode::TopicNameInvalid);
}

/// A text frame of a WebSocket, for instance [MQTT-6.0.0-1]: the machine is told, and does as for a rule of its own.
#[test]
fn a_rule_that_is_broken_below_mqtt_ends_the_connection() {
    let rule = Violation::protocol("MQTT-6.0.0-1");
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    bench.subscribe(bob, "will", Q0);
    let (alice, _) =
        bench.connect_with(&Connect { will: Some(will("will", b"gone")), ..connect(Version::V5, "alice") });
    let stranger = bench.accept();
    for id in [alice, stranger] {
        bench.broker.violated(bench.now, id, rule);
        bench.drain();
        assert!(bench.closed(id));
        assert!(
            bench.notices.iter().any(|notice| {
                matches!(notice, Notice::Violated { connection, violation, .. } if *connection == id && *violation == rule)
            })
        );
    }
    assert_eq!(bench.lines(alice), ["DISCONNECT 82"]);
    assert_eq!(bench.lines(stranger), [""; 0]);
    assert_eq!(bench.messages(bob), ["will: gone"]);
    // Once is enough, and what comes too late is nothing.
    let notices = bench.notices.len();
    bench.broker.violated(bench.now, alice, rule);
    bench.drain();
    assert_eq!(bench.notices.len(), notices);
}
