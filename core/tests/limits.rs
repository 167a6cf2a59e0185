//! Limits of clients and of the server, and what happens beyond them.
#![cfg(feature = "testing")]

use culex_core::config::Overflow;
use culex_core::middleware::Stack;
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, ConnectionId};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

fn bench(config: Config) -> Bench {
    Bench::with(config, Stack::standard())
}

fn connect_v5(bench: &mut Bench, client_id: &str, list: &[Property<'_>]) -> ConnectionId {
    bench.connect_with(&Connect { properties: properties(list), ..connect(Version::V5, client_id) }).0
}

fn aliased<'a>(topic: &'a str, payload: &'a str, alias: u16) -> Packet<'a> {
    let properties = properties(&[Property::TopicAlias(alias)]);
    Packet::Publish(Publish { properties, ..publish(topic, payload, Q0) })
}

#[test]
fn a_topic_alias_stands_for_its_topic_until_it_is_changed() {
    // [MQTT-3.3.2-12] and section 3.3.2.3.4
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "#", Q0);
    bench.send(alice, &aliased("a", "1", 1));
    bench.send(alice, &aliased("b", "2", 2));
    bench.send(alice, &aliased("", "3", 1));
    bench.send(alice, &aliased("c", "4", 1));
    bench.send(alice, &aliased("", "5", 1));
    bench.send(alice, &aliased("", "6", 2));
    let expected = ["a: 1", "b: 2", "a: 3", "c: 4", "c: 5", "b: 6"].map(|text| format!("PUBLISH q0 {text}"));
    assert_eq!(bench.lines(alice), expected, "and no alias is passed on");
}

#[test]
fn a_topic_alias_beyond_the_maximum_is_invalid() {
    // [MQTT-3.3.2-8], [MQTT-3.3.2-9]
    for (maximum, alias) in [(5, 6), (0, 1), (5, 65_535)] {
        let mut bench = bench(Config { topic_alias_maximum: maximum, ..Config::default() });
        let alice = bench.connect(Version::V5, "alice");
        bench.send(alice, &aliased("a", "1", alias));
        assert_eq!(bench.lines(alice), ["DISCONNECT 94"]);
    }
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.bytes(alice, b"\x30\x07\x00\x01a\x03\x23\x00\x00");
    assert_eq!(bench.lines(alice), ["DISCONNECT 94"]);
}

#[test]
fn an_unknown_topic_alias_is_a_protocol_error() {
    // Section 3.3.2.3.4
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.send(alice, &aliased("a", "1", 2));
    bench.send(alice, &aliased("", "2", 1));
    assert_eq!(bench.lines(alice), ["DISCONNECT 82"]);
}

#[test]
fn no_topic_and_no_alias_is_a_protocol_error() {
    // [MQTT-3.3.2-8] and section 3.3.2.1
    for version in [Version::V311, Version::V5] {
        let mut bench = Bench::new();
        let alice = bench.connect(version, "alice");
        bench.publish(alice, "", "m", Q0);
        assert!(bench.closed(alice));
    }
}

#[test]
fn topic_aliases_end_with_the_connection() {
    // [MQTT-3.3.2-7]
    let mut bench = Bench::new();
    let session = [Property::SessionExpiryInterval(60)];
    let alice = connect_v5(&mut bench, "alice", &session);
    bench.send(alice, &aliased("a", "1", 1));
    bench.cut(alice);
    let again =
        Connect { clean_start: false, properties: properties(&session), ..connect(Version::V5, "alice") };
    let (alice, present) = bench.connect_with(&again);
    assert!(present);
    bench.send(alice, &aliased("", "2", 1));
    assert_eq!(bench.lines(alice), ["DISCONNECT 82"]);
}

#[test]
fn topic_aliases_are_sent_only_as_far_as_the_client_allows() {
    // [MQTT-3.1.2-26], [MQTT-3.1.2-27]
    let mut bench = Bench::new();
    let alice = connect_v5(&mut bench, "alice", &[Property::TopicAliasMaximum(1)]);
    let bob = bench.connect(Version::V5, "bob");
    for id in [alice, bob] {
        bench.subscribe(id, "#", Q0);
    }
    for topic in ["a", "b", "a"] {
        bench.publish(bob, topic, "m", Q0);
    }
    assert_eq!(
        bench.lines(alice),
        ["PUBLISH q0 a: m [TopicAlias(1)]", "PUBLISH q0 b: m", "PUBLISH q0 : m [TopicAlias(1)]"]
    );
    assert_eq!(bench.messages(bob), ["a: m", "b: m", "a: m"]);
}

#[test]
fn what_is_sent_again_uses_no_alias_of_the_last_connection() {
    // [MQTT-3.3.2-7]
    let mut bench = Bench::new();
    let list = [Property::TopicAliasMaximum(9), Property::SessionExpiryInterval(60)];
    let alice = connect_v5(&mut bench, "alice", &list);
    bench.subscribe(alice, "t", Q1);
    for payload in ["1", "2"] {
        bench.publish(alice, "t", payload, Q1);
    }
    bench.cut(alice);
    let again =
        Connect { clean_start: false, properties: properties(&list), ..connect(Version::V5, "alice") };
    let alice = bench.connect_with(&again).0;
    assert_eq!(bench.messages(alice), ["t: 1", "t: 2"]);
    bench.publish(alice, "t", "3", Q0);
    assert_eq!(bench.messages(alice), ["t: 3"], "an alias is taught anew");
}

#[test]
fn more_than_the_receive_maximum_is_a_violation() {
    // [MQTT-3.3.4-7], [MQTT-3.3.4-8]
    let mut bench = bench(Config { receive_maximum: 2, ..Config::default() });
    let alice = bench.connect(Version::V5, "alice");
    for packet_id in 1..=2 {
        bench.publish_as(alice, packet_id, "t", "m", Q2);
    }
    // QoS 0, a repetition, and a new one in the place of a completed one are all right.
    bench.publish(alice, "t", "m", Q0);
    bench.publish_as(alice, 1, "t", "m", Q2);
    bench.acknowledge(alice, PacketType::Pubrel, 1);
    bench.publish_as(alice, 3, "t", "m", Q2);
    assert!(!bench.closed(alice));
    bench.output(alice);
    bench.publish_as(alice, 4, "t", "m", Q2);
    assert_eq!(bench.lines(alice), ["DISCONNECT 93"]);
}

#[test]
fn acknowledged_messages_do_not_count_for_the_receive_maximum() {
    let mut bench = bench(Config { receive_maximum: 1, ..Config::default() });
    let alice = bench.connect(Version::V5, "alice");
    for packet_id in 1..=100 {
        bench.publish_as(alice, packet_id, "t", "m", Q1);
    }
    assert!(!bench.closed(alice));
    assert_eq!(bench.lines(alice).len(), 100);
}

#[test]
fn a_3_x_client_knows_no_receive_maximum() {
    let mut bench = bench(Config { receive_maximum: 1, ..Config::default() });
    let alice = bench.connect(Version::V311, "alice");
    for packet_id in 1..=10 {
        bench.publish_as(alice, packet_id, "t", "m", Q2);
    }
    assert_eq!(bench.lines(alice).len(), 10);
}

#[test]
fn no_more_is_in_flight_than_the_client_receives() {
    // [MQTT-3.3.4-9]
    let mut bench = bench(Config { in_flight_max: 3, ..Config::default() });
    let bob = bench.connect(Version::V5, "bob");
    let two = connect_v5(&mut bench, "two", &[Property::ReceiveMaximum(2.try_into().unwrap())]);
    let any = bench.connect(Version::V311, "any");
    for id in [two, any] {
        bench.subscribe(id, "#", Q2);
    }
    for n in 0..5 {
        bench.publish(bob, "t", &n.to_string(), if n % 2 == 0 { Q1 } else { Q2 });
        bench.handshake(bob);
    }
    assert_eq!(bench.lines(two), ["PUBLISH q1 #1 t: 0", "PUBLISH q2 #2 t: 1"]);
    assert_eq!(bench.messages(any).len(), 3);
    bench.publish(bob, "t", "zero", Q0);
    assert_eq!(bench.messages(two), ["t: zero"], "QoS 0 does not count");
    bench.acknowledge(two, PacketType::Pubrec, 2);
    assert_eq!(bench.lines(two), ["PUBREL 00 #2"], "it counts until PUBCOMP");
    bench.acknowledge(two, PacketType::Pubcomp, 2);
    assert_eq!(bench.lines(two), ["PUBLISH q1 #3 t: 2"]);
    bench.acknowledge(two, PacketType::Puback, 1);
    assert_eq!(bench.handshake(two), ["t: 3", "t: 4"]);
}

#[test]
fn a_packet_larger_than_the_server_accepts_ends_the_connection() {
    // [MQTT-3.2.2-15]
    let mut bench = bench(Config { packet_size_max: 200, ..Config::default() });
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q0);
    // Header 2, length 2, topic 3, properties 1.
    bench.publish(alice, "t", &"x".repeat(193), Q0);
    assert_eq!(bench.messages(alice).len(), 1);
    bench.bytes(alice, &[0x30, 0xC6, 0x01]);
    assert_eq!(bench.lines(alice), ["DISCONNECT 95"], "as soon as its length is known");
}

#[test]
fn a_message_larger_than_the_client_accepts_is_dropped_as_if_it_had_been_sent() {
    // [MQTT-3.1.2-24], [MQTT-3.1.2-25]
    for qos in [Q0, Q1, Q2] {
        let mut bench = Bench::new();
        let bob = bench.connect(Version::V5, "bob");
        let alice = connect_v5(&mut bench, "alice", &[Property::MaximumPacketSize(60)]);
        let other = bench.connect(Version::V5, "other");
        for id in [alice, other] {
            bench.subscribe(id, "t", qos);
        }
        let large = "x".repeat(100);
        for payload in ["1", &large, "2"] {
            bench.publish(bob, "t", payload, qos);
            bench.handshake(bob);
        }
        assert_eq!(bench.handshake(alice), ["t: 1", "t: 2"]);
        assert_eq!(bench.handshake(other).len(), 3);
        assert_eq!(bench.broker.stats().dropped_too_large, 1);
    }
}

#[test]
fn too_large_messages_in_a_queue_hold_nothing_up() {
    // [MQTT-3.1.2-25]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let list = [
        Property::MaximumPacketSize(60),
        Property::SessionExpiryInterval(60),
        Property::ReceiveMaximum(2.try_into().unwrap()),
    ];
    let packet =
        Connect { clean_start: false, properties: properties(&list), ..connect(Version::V5, "alice") };
    let alice = bench.connect_with(&packet).0;
    bench.subscribe(alice, "t", Q1);
    bench.cut(alice);
    let large = "x".repeat(100);
    for payload in [&large, &large, &large, "1", &large, "2", &large, &large, "3"] {
        bench.publish(bob, "t", payload, Q1);
    }
    let alice = bench.connect_with(&packet).0;
    assert_eq!(bench.handshake(alice), ["t: 1", "t: 2", "t: 3"]);
}

#[test]
fn a_topic_alias_makes_no_packet_too_large() {
    // [MQTT-3.1.2-24]
    for size in 20..60 {
        let mut bench = bench(Config { topic_alias_outbound_max: 99, ..Config::default() });
        let bob = bench.connect(Version::V5, "bob");
        let list = [Property::MaximumPacketSize(size), Property::TopicAliasMaximum(99)];
        let alice = connect_v5(&mut bench, "alice", &list);
        bench.subscribe(alice, "#", Q1);
        let mut got = 0;
        for n in 0..size {
            let topic = format!("topic{n:02}");
            bench.publish(bob, &topic, &"x".repeat(n as usize), Q0);
            let output = bench.output(alice);
            assert!(output.len() <= size as usize, "{} bytes of {size}", output.len());
            got += u32::from(!output.is_empty());
        }
        // Header 2, length 2, topic 7, properties 1.
        assert_eq!(got, size - 12 + 1, "everything that fits without an alias arrives");
    }
}

fn offline(config: Config) -> (Bench, Connect<'static>) {
    let mut bench = bench(config);
    let packet = Connect { clean_start: false, ..connect(Version::V311, "alice") };
    let alice = bench.connect_with(&packet).0;
    bench.subscribe(alice, "#", Q2);
    bench.cut(alice);
    (bench, packet)
}

#[test]
fn a_full_queue_drops_what_its_policy_says() {
    for (queue_overflow, expected) in [
        (Overflow::DropOldest, ["t: 2", "t: 3", "t: 4"]),
        (Overflow::DropNewest, ["t: 0", "t: 1", "t: 2"]),
        (Overflow::Disconnect, ["t: 0", "t: 1", "t: 2"]),
    ] {
        let (mut bench, packet) =
            offline(Config { queue_messages_max: 3, queue_overflow, ..Config::default() });
        let bob = bench.connect(Version::V5, "bob");
        for n in 0..5 {
            bench.publish(bob, "t", &n.to_string(), Q1);
        }
        assert_eq!(bench.broker.stats().dropped_queue_full, 2);
        let alice = bench.connect_with(&packet).0;
        assert_eq!(bench.handshake(alice), expected);
    }
}

#[test]
fn what_expired_at_the_head_of_a_full_queue_makes_room() {
    // [MQTT-3.3.2-5]
    for queue_overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect] {
        let (mut bench, packet) =
            offline(Config { queue_messages_max: 3, queue_overflow, ..Config::default() });
        let bob = bench.connect(Version::V5, "bob");
        for n in 0..2 {
            let properties = properties(&[Property::MessageExpiryInterval(1)]);
            let payload = n.to_string();
            bench.send(bob, &Packet::Publish(Publish { properties, ..publish("t", &payload, Q1) }));
        }
        bench.publish(bob, "t", "2", Q1);
        bench.pass_ms(2_000);
        bench.publish(bob, "t", "3", Q1);
        bench.publish(bob, "t", "4", Q1);
        let stats = bench.broker.stats();
        assert_eq!((stats.dropped_expired, stats.dropped_queue_full), (2, 0), "{queue_overflow:?}");
        let alice = bench.connect_with(&packet).0;
        assert_eq!(bench.handshake(alice), ["t: 2", "t: 3", "t: 4"]);
    }
}

#[test]
fn a_queue_has_a_limit_of_bytes() {
    let (mut bench, packet) = offline(Config { queue_bytes_max: 5_000, ..Config::default() });
    let bob = bench.connect(Version::V5, "bob");
    let payload = "x".repeat(1_000);
    for _ in 0..20 {
        bench.publish(bob, "t", &payload, Q1);
    }
    let dropped = bench.broker.stats().dropped_queue_full;
    assert_eq!(dropped, 16);
    // What could never fit drives nobody else out.
    bench.publish(bob, "t", &"x".repeat(6_000), Q1);
    let alice = bench.connect_with(&packet).0;
    assert_eq!(bench.handshake(alice).len(), 4);
}

#[test]
fn a_client_whose_queue_is_full_can_be_disconnected() {
    let config = Config {
        in_flight_max: 1,
        queue_messages_max: 2,
        queue_overflow: Overflow::Disconnect,
        ..Config::default()
    };
    let mut bench = bench(config);
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q1);
    for n in 0..3 {
        bench.publish(bob, "t", &n.to_string(), Q1);
    }
    assert!(!bench.closed(alice));
    bench.publish(bob, "t", "3", Q1);
    assert_eq!(bench.lines(alice), ["PUBLISH q1 #1 t: 0", "DISCONNECT 97"]);
    assert!(!bench.closed(bob));
}

#[test]
fn qos_0_is_queued_for_who_is_away_only_if_that_is_wished() {
    for (queue_qos0, expected) in [(false, &["t: 1"][..]), (true, &["t: 0", "t: 1"])] {
        let (mut bench, packet) = offline(Config { queue_qos0, ..Config::default() });
        let bob = bench.connect(Version::V5, "bob");
        bench.publish(bob, "t", "0", Q0);
        bench.publish(bob, "t", "1", Q1);
        assert_eq!(bench.broker.stats().dropped_offline, u64::from(!queue_qos0));
        let alice = bench.connect_with(&packet).0;
        assert_eq!(bench.handshake(alice), expected);
    }
}

#[test]
fn a_higher_qos_than_the_server_supports_is_a_violation() {
    // [MQTT-3.2.2-11]
    let mut bench = bench(Config { qos_max: 1, ..Config::default() });
    let alice = bench.connect(Version::V5, "alice");
    bench.publish(alice, "t", "m", Q2);
    assert_eq!(bench.lines(alice), ["DISCONNECT 9B"]);
}

#[test]
fn a_topic_with_too_many_levels_is_refused() {
    let mut bench = bench(Config { topic_levels_max: 3, ..Config::default() });
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "#", Q0);
    bench.publish(alice, "a/b/c", "m", Q1);
    bench.publish(alice, "a/b/c/d", "m", Q1);
    bench.publish(alice, "a/b/c/d", "m", Q2);
    assert_eq!(bench.lines(alice), ["PUBLISH q0 a/b/c: m", "PUBACK 00 #1", "PUBACK 90 #1", "PUBREC 90 #1"]);
}
