//! Will Messages: when they are owed, and how they arrive.
#![cfg(feature = "testing")]

use culex_core::Config;
use culex_core::middleware::Stack;
use culex_core::packet::*;
use culex_core::testing::*;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

/// A client with a will at `will/<name>`, its delay and the expiry of its session.
fn mortal(client_id: &str, delay_s: u32, expiry_s: u32) -> Connect<'_> {
    let will =
        Will { properties: properties(&[Property::WillDelayInterval(delay_s)]), ..will("will", b"gone") };
    let properties = properties(&[Property::SessionExpiryInterval(expiry_s)]);
    Connect { will: Some(will), clean_start: false, properties, ..connect(Version::V5, client_id) }
}

#[test]
fn a_broken_connection_owes_its_will_and_a_normal_disconnect_does_not() {
    // [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.14.4-3]
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut bench = Bench::new();
        let alice = bench.connect(version, "alice");
        bench.subscribe(alice, "will", Q2);
        for qos in [Q0, Q1, Q2] {
            let mortal =
                Connect { will: Some(Will { qos, ..will("will", b"gone") }), ..connect(version, "bob") };
            let bob = bench.connect_with(&mortal).0;
            bench.cut(bob);
            assert_eq!(bench.handshake(alice), ["will: gone"]);
            let bob = bench.connect_with(&mortal).0;
            bench.leave(bob);
            assert!(bench.handshake(alice).is_empty());
        }
    }
}

#[test]
fn disconnect_with_will_message_asks_for_it() {
    // Section 3.14.2.1: 0x04; an error of the client leaves the will in force, too.
    for reason in [ReasonCode::DisconnectWithWill, ReasonCode::UnspecifiedError] {
        let mut bench = Bench::new();
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, "will", Q0);
        let bob = bench.connect_with(&mortal("bob", 0, 0)).0;
        bench.send(bob, &disconnect(reason, &[]));
        assert_eq!(bench.messages(alice), ["will: gone"]);
        bench.cut(bob);
        assert!(bench.messages(alice).is_empty(), "once");
    }
}

#[test]
fn a_protocol_error_owes_the_will() {
    // [MQTT-3.1.2-8]
    for version in [Version::V311, Version::V5] {
        let mut bench = Bench::new();
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, "will", Q0);
        let bob =
            bench.connect_with(&Connect { will: Some(will("will", b"gone")), ..connect(version, "bob") }).0;
        bench.bytes(bob, &[0x00, 0x00]);
        assert_eq!(bench.messages(alice), ["will: gone"]);
    }
}

#[test]
fn a_keep_alive_timeout_owes_the_will() {
    // [MQTT-3.1.2-8], [MQTT-3.1.2-22]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "will", Q0);
    let bob = bench.connect_with(&Connect { keep_alive: 10, ..mortal("bob", 0, 0) }).0;
    bench.pass_ms(14_999);
    assert!(bench.messages(alice).is_empty());
    bench.pass_ms(1);
    assert_eq!(bench.messages(alice), ["will: gone"]);
    assert_eq!(bench.lines(bob), ["DISCONNECT 8D"]);
}

#[test]
fn a_will_waits_for_its_delay() {
    // [MQTT-3.1.2-8] and section 3.1.3.2.2
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "will", Q0);
    let bob = bench.connect_with(&mortal("bob", 10, 600)).0;
    bench.cut(bob);
    bench.pass_ms(9_999);
    assert!(bench.messages(alice).is_empty());
    bench.pass_ms(1);
    assert_eq!(bench.messages(alice), ["will: gone"]);
    bench.pass_ms(600_000);
    assert!(bench.messages(alice).is_empty(), "once");
    assert_eq!((bench.broker.sessions(), bench.broker.deadline()), (1, None));
}

#[test]
fn the_end_of_the_session_ends_the_delay_of_its_will() {
    // [MQTT-3.1.2-8]: the delay or the end of the session, whichever happens first.
    for (expiry_s, at_ms) in [(5, 5_000), (0, 0)] {
        let mut bench = Bench::new();
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, "will", Q0);
        let bob = bench.connect_with(&mortal("bob", 10, expiry_s)).0;
        bench.cut(bob);
        if at_ms > 0 {
            bench.pass_ms(at_ms - 1);
            assert!(bench.messages(alice).is_empty());
            bench.pass_ms(1);
        }
        assert_eq!(bench.messages(alice), ["will: gone"]);
        assert_eq!(bench.broker.deadline(), None);
    }
}

#[test]
fn who_comes_back_in_time_is_not_mourned() {
    // [MQTT-3.1.3-9]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "will", Q0);
    let bob = bench.connect_with(&mortal("bob", 10, 600)).0;
    bench.cut(bob);
    bench.pass_ms(9_999);
    let without = Connect { will: None, ..mortal("bob", 0, 600) };
    let bob = bench.connect_with(&without).0;
    bench.pass_ms(60_000);
    bench.cut(bob);
    bench.pass_ms(60_000);
    assert!(bench.messages(alice).is_empty(), "the new connection has no will");
}

#[test]
fn each_connection_has_its_own_will() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "#", Q0);
    let bob = bench.connect_with(&mortal("bob", 10, 600)).0;
    bench.cut(bob);
    let other = Connect { will: Some(will("other", b"too")), ..mortal("bob", 0, 600) };
    let bob = bench.connect_with(&other).0;
    bench.cut(bob);
    bench.pass_ms(60_000);
    assert_eq!(bench.messages(alice), ["other: too"]);
}

#[test]
fn clean_start_ends_the_session_and_so_sends_the_delayed_will() {
    // [MQTT-3.1.2-8], [MQTT-3.1.2-4]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "will", Q0);
    let bob = bench.connect_with(&mortal("bob", 10, 600)).0;
    bench.cut(bob);
    bench.connect(Version::V5, "bob");
    assert_eq!(bench.messages(alice), ["will: gone"]);
}

#[test]
fn a_takeover_sends_the_will_unless_its_delay_spares_it() {
    // [MQTT-3.1.4-3], [MQTT-3.1.3-9]
    for (delay_s, expected) in [(0, &["will: gone"][..]), (10, &[])] {
        let mut bench = Bench::new();
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, "will", Q0);
        let old = bench.connect_with(&mortal("bob", delay_s, 600)).0;
        let new = bench.connect_with(&mortal("bob", delay_s, 600)).0;
        assert_eq!(bench.messages(alice), expected);
        bench.cut(old);
        bench.pass_ms(60_000);
        assert!(bench.messages(alice).is_empty());
        // The will of the new connection is alive.
        bench.cut(new);
        bench.pass_ms(60_000);
        assert_eq!(bench.messages(alice), ["will: gone"]);
    }
}

#[test]
fn a_takeover_with_clean_start_sends_even_a_delayed_will() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "will", Q0);
    bench.connect_with(&mortal("bob", 10, 600));
    bench.connect(Version::V5, "bob");
    assert_eq!(bench.messages(alice), ["will: gone"]);
}

#[test]
fn a_retained_will_is_retained() {
    // [MQTT-3.1.2-14], [MQTT-3.1.2-15]
    for version in [Version::V31, Version::V311, Version::V5] {
        for retain in [true, false] {
            let mut bench = Bench::new();
            let last = Will { retain, qos: Q1, ..will("will", b"gone") };
            let bob = bench.connect_with(&Connect { will: Some(last), ..connect(version, "bob") }).0;
            bench.cut(bob);
            let alice = bench.connect(version, "alice");
            bench.subscribe(alice, "will", Q1);
            let expected: &[&str] = if retain { &["PUBLISH q1 #1 retain will: gone"] } else { &[] };
            assert_eq!(bench.lines(alice), expected);
        }
    }
}

#[test]
fn the_properties_of_a_will_arrive_and_its_expiry_begins_when_it_is_published() {
    // Section 3.1.3.2
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "will", Q0);
    let list = [
        Property::WillDelayInterval(30),
        Property::PayloadFormatIndicator(1),
        Property::MessageExpiryInterval(20),
        Property::ContentType("text"),
        Property::ResponseTopic("answer"),
        Property::CorrelationData(b"7"),
        Property::UserProperty("a", "1"),
        Property::UserProperty("a", "2"),
    ];
    let last = Will { properties: properties(&list), ..will("will", b"gone") };
    let bob = bench.connect_with(&Connect { will: Some(last), ..mortal("bob", 0, 600) }).0;
    bench.cut(bob);
    bench.pass_ms(30_000);
    let output = bench.output(alice);
    let packets = decode(&output, Version::V5);
    let [Packet::Publish(publish)] = &packets[..] else { panic!("{packets:?}") };
    let passed: Vec<_> = publish.properties.iter().collect();
    assert_eq!(passed, [list[2], list[1], list[3], list[4], list[5], list[6], list[7]]);
}

#[test]
fn a_will_that_waits_in_a_queue_expires() {
    // [MQTT-3.3.2-5]
    let mut bench = Bench::new();
    let persistent = Connect { clean_start: false, ..connect(Version::V311, "alice") };
    let alice = bench.connect_with(&persistent).0;
    bench.subscribe(alice, "will", Q1);
    bench.cut(alice);
    let list = [Property::MessageExpiryInterval(5)];
    let last = Will { qos: Q1, properties: properties(&list), ..will("will", b"gone") };
    let bob = bench.connect_with(&Connect { will: Some(last), ..connect(Version::V5, "bob") }).0;
    bench.cut(bob);
    bench.pass_ms(5_000);
    let alice = bench.connect_with(&persistent).0;
    assert!(bench.lines(alice).is_empty());
    assert_eq!(bench.broker.stats().dropped_expired, 1);
}

#[test]
fn a_will_the_server_does_not_support_is_refused() {
    // [MQTT-3.2.2-12], [MQTT-3.2.2-13]
    let config = Config { qos_max: 1, retain_available: false, ..Config::default() };
    let mut bench = Bench::with(config, Stack::standard());
    let last = Will { qos: Q2, ..will("will", b"gone") };
    let id = bench.try_connect(&Connect { will: Some(last), ..connect(Version::V5, "bob") });
    assert_eq!(bench.lines(id), ["CONNACK 9B"]);
    let last = Will { retain: true, ..will("will", b"gone") };
    let id = bench.try_connect(&Connect { will: Some(last), ..connect(Version::V5, "bob") });
    assert_eq!(bench.lines(id), ["CONNACK 9A"]);
    assert_eq!(bench.broker.sessions(), 0);
}

#[test]
fn a_client_does_not_hear_its_own_will_before_it_is_back() {
    let mut bench = Bench::new();
    let bob = bench.connect_with(&mortal("bob", 0, 600)).0;
    bench.subscribe(bob, "will", Q2);
    bench.cut(bob);
    let last = Will { qos: Q1, ..will("will", b"queued") };
    let (bob, present) = bench.connect_with(&Connect { will: Some(last), ..mortal("bob", 0, 600) });
    assert!(present);
    assert!(bench.messages(bob).is_empty(), "QoS 0 is not queued");
    bench.cut(bob);
    let bob = bench.connect_with(&mortal("bob", 0, 600)).0;
    assert_eq!(bench.messages(bob), ["will: queued"]);
}

#[test]
fn no_local_holds_for_wills() {
    // [MQTT-3.8.3-3]
    let mut bench = Bench::new();
    let packet = Connect { will: Some(Will { qos: Q1, ..will("will", b"gone") }), ..mortal("bob", 0, 600) };
    let bob = bench.connect_with(&packet).0;
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Q1) };
    bench.subscribe_with(bob, "will", options, &PropertiesBuf::new());
    bench.cut(bob);
    let bob = bench.connect_with(&packet).0;
    assert!(bench.messages(bob).is_empty());
}

#[test]
fn a_refused_connect_leaves_no_will() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "#", Q0);
    let packet = Connect { will: Some(will("will", b"gone")), ..connect(Version::V31, "") };
    let id = bench.try_connect(&packet);
    bench.cut(id);
    assert!(bench.messages(alice).is_empty());
}
