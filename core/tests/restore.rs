//! A machine made anew from what an earlier one stored.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Message, Record, RestoreError};

fn records() -> Vec<Record> {
    let message = |topic: &str, payload: &str, retain| {
        Message::new(topic, payload.as_bytes(), QoS::AtLeastOnce, retain).unwrap()
    };
    let client_id = || "alice".into();
    let subscription = |filter: &str| Record::Subscription {
        client_id: client_id(),
        filter: filter.into(),
        options: SubscriptionOptions::new(QoS::AtLeastOnce).to_byte(),
        identifier: 0,
    };
    let offline = |payload| {
        let message = message("a", payload, false);
        let identifiers = Default::default();
        Record::Queued { client_id: client_id(), message, qos: QoS::AtLeastOnce, retain: false, identifiers }
    };
    vec![
        Record::Retained(message("r/1", "kept", true)),
        Record::Retained(message("r/2", "gone", true)),
        Record::Session { client_id: client_id(), expiry: 60, left: None },
        subscription("a"),
        subscription("b"),
        Record::Unsubscription { client_id: client_id(), filter: "b".into() },
        offline("one"),
        offline("two"),
        Record::Retained(message("r/2", "", true)),
    ]
}

fn persistent() -> Connect<'static> {
    let properties = properties(&[Property::SessionExpiryInterval(60)]);
    Connect { clean_start: false, properties, ..connect(Version::V5, "alice") }
}

#[test]
fn a_restored_session_is_routable_before_its_client_is_back() {
    let mut bench = Bench::new();
    let restored = bench.broker.restore(records()).unwrap();
    assert_eq!((restored.records, restored.sessions), (9, 1));
    bench.drain();
    let bob = bench.connect(Version::V5, "bob");
    bench.publish(bob, "a", "three", QoS::AtLeastOnce);
    bench.publish(bob, "b", "nobody's", QoS::AtLeastOnce);
    bench.output(bob);
    bench.subscribe(bob, "r/#", QoS::AtMostOnce);
    assert_eq!(bench.messages(bob), ["r/1: kept"]);
    let (alice, present) = bench.connect_with(&persistent());
    assert!(present);
    assert_eq!(bench.handshake(alice), ["a: one", "a: two", "a: three"]);
    assert!(bench.stores.is_empty() && bench.stray.is_empty(), "{:?}", bench.stray);
}

#[test]
fn any_prefix_of_the_records_gives_the_state_at_that_prefix() {
    for (length, queued, present) in [(2, 0, false), (3, 0, true), (7, 1, true), (8, 2, true)] {
        let mut bench = Bench::new();
        bench.broker.restore(records().into_iter().take(length)).unwrap();
        let (alice, resumed) = bench.connect_with(&persistent());
        assert_eq!(resumed, present, "{length} records");
        assert_eq!(bench.handshake(alice).len(), queued, "{length} records");
    }
}

#[test]
fn a_restored_session_ends_in_its_time() {
    let mut bench = Bench::new();
    bench.broker.restore(records()).unwrap();
    bench.pass_ms(59_000);
    assert_eq!(bench.broker.sessions(), 1);
    bench.pass_ms(2_000);
    assert_eq!(bench.broker.sessions(), 0);
}

#[test]
fn records_that_make_no_sense_are_named() {
    let mut bench = Bench::new();
    let error = RestoreError::UnknownSession { client_id: "alice".into(), record: 3 };
    let without_session = records().into_iter().filter(|record| !matches!(record, Record::Session { .. }));
    assert_eq!(bench.broker.restore(without_session), Err(error));
    bench.connect(Version::V5, "bob");
    assert_eq!(bench.broker.restore(records()), Err(RestoreError::Late));
}

/// The machine does not store such records; a foreign or damaged log may hold them.
#[test]
fn a_message_with_qos_0_that_a_log_calls_in_flight_is_not_sent_again() {
    let qos0 = |client_id: Box<str>| Record::Queued {
        client_id,
        message: Message::new("a", &b"once"[..], QoS::AtMostOnce, false).unwrap(),
        qos: QoS::AtMostOnce,
        retain: false,
        identifiers: Default::default(),
    };
    let mut log = records();
    let client_id = || Box::from("alice");
    log.push(Record::SessionEnded { client_id: client_id() });
    log.push(Record::Session { client_id: client_id(), expiry: 60, left: None });
    log.extend([qos0(client_id()), Record::Sent { client_id: client_id(), packet_id: PacketId::MIN }]);
    let mut bench = Bench::new();
    bench.broker.restore(log).unwrap();
    bench.drain();
    let (alice, present) = bench.connect_with(&persistent());
    assert!(present);
    // [MQTT-3.3.1-2]
    assert_eq!(bench.lines(alice), [] as [&str; 0]);
}
