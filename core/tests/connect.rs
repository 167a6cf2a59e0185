//! CONNECT, CONNACK and how connections begin and end.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // helpers fail as tests do

use culex_core::broker::{Close, Peer, Refused};
use culex_core::middleware::{Authentication, Stack};
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Answer, Config};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn asking() -> Stack {
    Stack::standard().replace("Authentication", Authentication::ask()).unwrap()
}

#[test]
fn a_first_packet_other_than_connect_closes_without_a_word() {
    // [MQTT-3.1.0-1]
    for packet in [Packet::Pingreq, Packet::Publish(publish("t", "m", QoS::AtMostOnce))] {
        let mut bench = Bench::new();
        let id = bench.accept();
        bench.send(id, &packet);
        assert!(bench.output(id).is_empty());
        assert_eq!(bench.closes, [(id, Close::Finish)]);
    }
}

#[test]
fn a_second_connect_closes_the_connection() {
    // [MQTT-3.1.0-2]
    for version in VERSIONS {
        let mut bench = Bench::new();
        let alice = bench.connect(version, "alice");
        bench.send(alice, &Packet::Connect(connect(version, "alice")));
        let told: &[&str] = if version == Version::V5 { &["DISCONNECT 82"] } else { &[] };
        assert_eq!(bench.lines(alice), told);
        assert!(bench.closed(alice));
        bench.cut(alice);
        assert_eq!((bench.broker.sessions(), bench.broker.connections()), (0, 0));
    }
}

#[test]
fn a_client_without_a_name_gets_one_where_its_version_allows_it() {
    // [MQTT-3.1.3-6], [MQTT-3.1.3-8 of 3.1.1]
    let mut bench = Bench::new();
    let id = bench.try_connect(&connect(Version::V311, ""));
    assert_eq!(bench.lines(id), ["CONNACK 00"]);
    let persistent = Connect { clean_start: false, ..connect(Version::V311, "") };
    for refused in [persistent, connect(Version::V31, "")] {
        let id = bench.try_connect(&refused);
        assert_eq!(bench.lines(id), ["CONNACK 85"]);
        assert!(bench.closed(id));
    }
    assert_eq!(bench.broker.sessions(), 1);
}

#[test]
fn an_assigned_name_is_told_and_leads_back_to_the_session() {
    // [MQTT-3.2.2-16]
    let mut bench = Bench::new();
    let mut names = Vec::new();
    for _ in 0..2 {
        let forever = properties(&[Property::SessionExpiryInterval(u32::MAX)]);
        let packet = Connect { clean_start: false, properties: forever, ..connect(Version::V5, "") };
        let id = bench.try_connect(&packet);
        let output = bench.output(id);
        let packets = decode(&output, Version::V5);
        let [Packet::Connack(connack)] = &packets[..] else { panic!("{packets:?}") };
        names.push(connack.properties.assigned_client_identifier().unwrap().to_string());
        bench.cut(id);
    }
    assert_ne!(names[0], names[1]);
    let packet = Connect { clean_start: false, ..connect(Version::V5, &names[0]) };
    assert!(bench.connect_with(&packet).1);
    // A name of one's own is not told again.
    let id = bench.try_connect(&connect(Version::V5, "named"));
    assert!(!bench.lines(id)[0].contains("AssignedClientIdentifier"));
}

#[test]
fn an_unsupported_protocol_level_is_answered_and_closed() {
    // [MQTT-3.1.2-2]
    let mut bench = Bench::new();
    let id = bench.accept();
    bench.bytes(id, b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x00\x00\x01a");
    assert_eq!(bench.output(id), b"\x20\x02\x00\x01");
    assert!(bench.closed(id));
}

#[test]
fn another_protocol_name_is_not_served() {
    // [MQTT-3.1.2-1]
    let mut bench = Bench::new();
    let id = bench.accept();
    bench.bytes(id, b"\x10\x0d\x00\x04HTTP\x05\x02\x00\x00\x00\x01a");
    assert!(bench.closed(id));
    assert_eq!(bench.broker.sessions(), 0);
}

#[test]
fn a_malformed_connect_is_answered_in_its_version() {
    // [MQTT-3.1.2-3]: the reserved flag is set. [MQTT-3.1.4-1], [MQTT-4.13.1-1]
    let mut bench = Bench::new();
    let old = bench.accept();
    bench.bytes(old, b"\x10\x0d\x00\x04MQTT\x04\x03\x00\x00\x00\x01a");
    let new = bench.accept();
    bench.bytes(new, b"\x10\x0e\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x01a");
    assert_eq!(bench.output(new), b"\x20\x03\x00\x81\x00");
    assert!(bench.closed(old) && bench.closed(new));
    let answer = bench.output(old);
    assert!(answer.is_empty() || answer[3] != 0, "never a success");
    assert_eq!(bench.broker.sessions(), 0);
}

#[test]
fn a_refused_connect_never_says_session_present() {
    // [MQTT-3.2.2-6], [MQTT-3.2.2-7]
    for version in VERSIONS {
        let mut bench = Bench::with(Config::default(), asking());
        let persistent = Connect { clean_start: false, ..connect(version, "alice") };
        let forever = properties(&[Property::SessionExpiryInterval(u32::MAX)]);
        let persistent = match version {
            Version::V5 => Connect { properties: forever, ..persistent },
            _ => persistent,
        };
        let first = bench.try_connect(&persistent);
        assert!(bench.output(first).is_empty(), "nothing before the answer");
        assert_eq!(bench.broker.read_credit(first), 0);
        bench.answer(Answer::Allow);
        assert!(bench.lines(first)[0].starts_with("CONNACK 00"));
        bench.cut(first);
        let second = bench.try_connect(&persistent);
        bench.answer(Answer::Deny(ReasonCode::NotAuthorized));
        assert_eq!(bench.lines(second), ["CONNACK 87"]);
        assert!(bench.closed(second));
    }
}

#[test]
fn a_stranger_takes_no_session_over() {
    let mut bench = Bench::with(Config::default(), asking());
    let alice = bench.try_connect(&connect(Version::V5, "alice"));
    bench.answer(Answer::Allow);
    let stranger = bench.try_connect(&connect(Version::V5, "alice"));
    bench.answer(Answer::Deny(ReasonCode::BadUserNameOrPassword));
    assert_eq!(bench.lines(stranger), ["CONNACK 86"]);
    assert!(!bench.closed(alice));
    bench.send(alice, &Packet::Pingreq);
    assert_eq!(bench.lines(alice).last().unwrap(), "PINGRESP");
}

#[test]
fn who_says_nothing_is_closed_after_the_connect_timeout() {
    let mut bench = Bench::with(Config { connect_timeout_ms: 5_000, ..Config::default() }, Stack::standard());
    let silent = bench.accept();
    let slow = bench.accept();
    bench.bytes(slow, b"\x10\x0d\x00\x04MQ");
    let alice = bench.connect(Version::V311, "alice");
    bench.pass_ms(4_999);
    assert!(bench.closes.is_empty());
    bench.pass_ms(1);
    assert!(bench.closed(silent) && bench.closed(slow) && !bench.closed(alice));
    assert!(bench.output(silent).is_empty() && bench.output(slow).is_empty());
}

#[test]
fn an_authentication_without_end_is_refused_in_time() {
    // [MQTT-3.2.2-8]: with a reason code that a CONNACK may have.
    let config = Config { connect_timeout_ms: 5_000, ask_timeout_ms: 60_000, ..Config::default() };
    for version in VERSIONS {
        let mut bench = Bench::with(config.clone(), asking());
        let alice = bench.try_connect(&connect(version, "alice"));
        bench.pass_ms(5_000);
        let lines = bench.lines(alice);
        assert!(lines.len() == 1 && lines[0].starts_with("CONNACK 8"), "{lines:?}");
        assert!(bench.closed(alice));
        assert_eq!(bench.forgotten.len(), 1);
    }
}

#[test]
fn connack_announces_what_differs_from_the_standard() {
    // [MQTT-3.2.2-9] and section 3.2.2.3
    let config = Config {
        receive_maximum: 7,
        qos_max: 1,
        retain_available: false,
        packet_size_max: 1_000,
        topic_alias_maximum: 3,
        wildcard_subscription_available: false,
        subscription_identifiers_available: false,
        shared_subscription_available: false,
        session_expiry_max_s: 60,
        keep_alive_max_s: 30,
        ..Config::default()
    };
    let mut bench = Bench::with(config, Stack::standard());
    let forever = properties(&[Property::SessionExpiryInterval(u32::MAX)]);
    let id = bench.try_connect(&Connect { properties: forever, ..connect(Version::V5, "alice") });
    let output = bench.output(id);
    let packets = decode(&output, Version::V5);
    let [Packet::Connack(connack)] = &packets[..] else { panic!("{packets:?}") };
    let told = &connack.properties;
    assert_eq!(told.receive_maximum().map(Into::into), Some(7u16));
    assert_eq!(told.maximum_qos(), Some(QoS::AtLeastOnce));
    assert_eq!(told.retain_available(), Some(false));
    assert_eq!(told.maximum_packet_size(), Some(1_000));
    assert_eq!(told.topic_alias_maximum(), Some(3));
    assert_eq!(told.wildcard_subscription_available(), Some(false));
    assert_eq!(told.subscription_identifier_available(), Some(false));
    assert_eq!(told.shared_subscription_available(), Some(false));
    assert_eq!(told.session_expiry_interval(), Some(60));
    assert_eq!(told.server_keep_alive(), Some(30));
    // 3.x can be told nothing.
    let id = bench.try_connect(&connect(Version::V311, "bob"));
    assert_eq!(bench.output(id), [0x20, 2, 0, 0]);
}

#[test]
fn only_as_many_connections_are_accepted_as_allowed() {
    let mut bench = Bench::with(Config { connections_max: 2, ..Config::default() }, Stack::standard());
    let alice = bench.connect(Version::V5, "alice");
    bench.connect(Version::V5, "bob");
    assert_eq!(bench.broker.accept(bench.now, Peer::default()), Err(Refused::Full));
    assert_eq!(bench.broker.stats().connections_refused, 1);
    bench.leave(alice);
    bench.connect(Version::V5, "carol");
}

#[test]
fn shutdown_tells_every_client_and_publishes_their_wills() {
    // [MQTT-3.1.2-8]
    let mut bench = Bench::new();
    let persistent = Connect { clean_start: false, ..connect(Version::V311, "alice") };
    let (alice, _) = bench.connect_with(&persistent);
    bench.subscribe(alice, "will/#", QoS::AtLeastOnce);
    let last = Connect {
        will: Some(Will { qos: QoS::AtLeastOnce, ..will("will/bob", b"gone") }),
        ..connect(Version::V5, "bob")
    };
    let (bob, _) = bench.connect_with(&last);
    let opened = bench.accept();
    bench.broker.shutdown(bench.now);
    bench.drain();
    assert_eq!(bench.lines(bob), ["DISCONNECT 8B"]);
    assert!(bench.output(opened).is_empty());
    assert!([alice, bob, opened].iter().all(|id| bench.closed(*id)));
    assert_eq!(bench.broker.accept(bench.now, Peer::default()), Err(Refused::ShuttingDown));
    assert_eq!(bench.broker.stats().queued, 1, "the will waits for alice");
    for id in [alice, bob, opened] {
        bench.cut(id);
    }
    assert_eq!((bench.broker.connections(), bench.broker.sessions()), (0, 1));
}

#[test]
fn shutdown_refuses_a_connect_that_waits_with_a_reason_connack_may_have() {
    // [MQTT-3.2.2-8]
    for version in VERSIONS {
        let mut bench = Bench::with(Config::default(), asking());
        let alice = bench.try_connect(&connect(version, "alice"));
        bench.broker.shutdown(bench.now);
        bench.drain();
        assert_eq!(bench.lines(alice), ["CONNACK 88"]);
        assert!(bench.closed(alice));
    }
}

#[test]
fn a_closing_connection_is_finished_only_when_everything_was_written() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.clog(alice, true);
    bench.send(alice, &Packet::Pingreq);
    bench.send(alice, &Packet::Connect(connect(Version::V5, "alice")));
    assert!(bench.closes.is_empty(), "there is still something to say");
    bench.clog(alice, false);
    assert_eq!(bench.lines(alice), ["PINGRESP", "DISCONNECT 82"]);
    assert_eq!(bench.closes, [(alice, Close::Finish)]);
    // Whatever still comes in is not looked at.
    bench.send(alice, &Packet::Pingreq);
    assert!(bench.output(alice).is_empty());
}

#[test]
fn a_closing_connection_is_dropped_when_its_client_takes_nothing() {
    let mut bench = Bench::with(Config { linger_ms: 300, ..Config::default() }, Stack::standard());
    let alice = bench.connect(Version::V5, "alice");
    bench.clog(alice, true);
    bench.send(alice, &Packet::Connect(connect(Version::V5, "alice")));
    bench.pass_ms(299);
    assert!(bench.closes.is_empty());
    bench.pass_ms(1);
    assert_eq!(bench.closes, [(alice, Close::Drop)]);
    bench.cut(alice);
    assert_eq!((bench.broker.connections(), bench.broker.deadline()), (0, None));
}

#[test]
fn a_finished_connection_is_dropped_when_its_client_does_not_close() {
    let mut bench = Bench::with(Config { linger_ms: 300, ..Config::default() }, Stack::standard());
    let alice = bench.connect(Version::V311, "alice");
    bench.send(alice, &disconnect(ReasonCode::Success, &[]));
    assert_eq!(bench.closes, [(alice, Close::Finish)]);
    bench.pass_ms(300);
    assert_eq!(bench.closes, [(alice, Close::Finish), (alice, Close::Drop)]);
    assert_eq!(bench.broker.connections(), 1, "until the adapter says so");
    bench.cut(alice);
    assert_eq!(bench.broker.connections(), 0);
}

#[test]
fn nothing_is_processed_behind_disconnect() {
    // [MQTT-3.14.4-1]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    bench.subscribe(bob, "#", QoS::AtMostOnce);
    let alice = bench.connect(Version::V311, "alice");
    bench.bytes(alice, b"\xE0\x00\x30\x04\x00\x01tm\xC0\x00");
    assert!(bench.messages(bob).is_empty() && bench.output(alice).is_empty());
}

#[test]
fn a_packet_only_servers_send_is_a_protocol_error() {
    // [MQTT-4.13.1-1]
    let connack =
        Connack { session_present: false, reason: ReasonCode::Success, properties: Properties::EMPTY };
    for packet in [Packet::Pingresp, Packet::Connack(connack)] {
        let mut bench = Bench::new();
        let alice = bench.connect(Version::V5, "alice");
        bench.send(alice, &packet);
        assert_eq!(bench.lines(alice), ["DISCONNECT 82"]);
    }
}

#[test]
fn stale_connections_are_ignored() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.cut(alice);
    let bob = bench.connect(Version::V5, "bob");
    bench.subscribe(bob, "#", QoS::AtMostOnce);
    let before = *bench.broker.stats();
    bench.publish(alice, "t", "m", QoS::AtMostOnce);
    bench.broker.writable(alice);
    bench.cut(alice);
    bench.cut(alice);
    assert!(bench.output(bob).is_empty() && bench.output(alice).is_empty());
    assert_eq!(*bench.broker.stats(), before);
    assert_eq!((bench.broker.connections(), bench.broker.sessions()), (1, 1));
}
