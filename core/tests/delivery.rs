//! How messages get from publishers to subscribers: QoS, order, expiry, slow consumers.
#![cfg(feature = "testing")]

use culex_core::middleware::Stack;
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, Message, broker::Origin};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;
const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn persistent(version: Version, client_id: &str) -> Connect<'_> {
    let packet = Connect { clean_start: false, ..connect(version, client_id) };
    match version {
        Version::V5 => Connect { properties: properties(&[Property::SessionExpiryInterval(600)]), ..packet },
        _ => packet,
    }
}

#[test]
fn every_qos_has_its_acknowledgements() {
    // [MQTT-4.3.1-1], [MQTT-4.3.2-1] ff., [MQTT-4.3.3-1] ff.
    for version in VERSIONS {
        let mut bench = Bench::new();
        let alice = bench.connect(version, "alice");
        let bob = bench.connect(version, "bob");
        bench.subscribe(alice, "t", Q2);
        bench.publish(bob, "t", "0", Q0);
        bench.publish_as(bob, 5, "t", "1", Q1);
        bench.publish_as(bob, 6, "t", "2", Q2);
        assert_eq!(bench.lines(bob), ["PUBACK 00 #5", "PUBREC 00 #6"]);
        bench.acknowledge(bob, PacketType::Pubrel, 6);
        assert_eq!(bench.lines(bob), ["PUBCOMP 00 #6"]);
        assert_eq!(bench.lines(alice), ["PUBLISH q0 t: 0", "PUBLISH q1 #1 t: 1", "PUBLISH q2 #2 t: 2"]);
        bench.acknowledge(alice, PacketType::Pubrec, 2);
        assert_eq!(bench.lines(alice), ["PUBREL 00 #2"]);
        bench.acknowledge(alice, PacketType::Pubcomp, 2);
        bench.acknowledge(alice, PacketType::Puback, 1);
        assert!(bench.lines(alice).is_empty());
    }
}

#[test]
fn nobody_there_is_told_to_5_0_and_not_to_3_x() {
    // Sections 3.4.2.1 and 3.5.2.1
    for (version, code) in [(Version::V311, "00"), (Version::V5, "10")] {
        let mut bench = Bench::new();
        let bob = bench.connect(version, "bob");
        bench.publish_as(bob, 1, "t", "m", Q1);
        bench.publish_as(bob, 2, "t", "m", Q2);
        bench.acknowledge(bob, PacketType::Pubrel, 2);
        let expected = [format!("PUBACK {code} #1"), format!("PUBREC {code} #2"), "PUBCOMP 00 #2".into()];
        assert_eq!(bench.lines(bob), expected);
    }
}

#[test]
fn a_repeated_qos_2_message_is_delivered_once() {
    // [MQTT-4.3.3-10], [MQTT-4.3.3-12]
    for version in VERSIONS {
        let mut bench = Bench::new();
        let alice = bench.connect(version, "alice");
        bench.subscribe(alice, "t", Q2);
        let packet = persistent(version, "bob");
        let mut bob = bench.connect_with(&packet).0;
        for dup in [false, true] {
            let packet = Publish { dup, packet_id: Some(id(9)), ..publish("t", "m", Q2) };
            bench.send(bob, &Packet::Publish(packet));
            assert_eq!(bench.lines(bob), ["PUBREC 00 #9"]);
        }
        // PUBREC got lost with the connection.
        bench.cut(bob);
        bob = bench.connect_with(&packet).0;
        let again = Publish { dup: true, packet_id: Some(id(9)), ..publish("t", "m", Q2) };
        bench.send(bob, &Packet::Publish(again));
        bench.acknowledge(bob, PacketType::Pubrel, 9);
        assert_eq!(bench.lines(bob), ["PUBREC 00 #9", "PUBCOMP 00 #9"]);
        assert_eq!(bench.handshake(alice), ["t: m"]);
        // After PUBREL the identifier is free [MQTT-4.3.3-12].
        bench.publish_as(bob, 9, "t", "new", Q2);
        assert_eq!(bench.handshake(alice), ["t: new"]);
    }
}

#[test]
fn a_new_session_knows_no_identifiers_of_the_old_one() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q0);
    for _ in 0..2 {
        let bob = bench.connect(Version::V5, "bob");
        bench.publish_as(bob, 9, "t", "m", Q2);
        bench.cut(bob);
    }
    assert_eq!(bench.messages(alice).len(), 2);
}

#[test]
fn an_unknown_pubrel_is_completed_all_the_same() {
    // [MQTT-4.3.3-11] and section 3.7.2.1
    for (version, code) in [(Version::V31, "00"), (Version::V311, "00"), (Version::V5, "92")] {
        let mut bench = Bench::new();
        let bob = bench.connect(version, "bob");
        bench.acknowledge(bob, PacketType::Pubrel, 3);
        assert_eq!(bench.lines(bob), [format!("PUBCOMP {code} #3")]);
    }
}

#[test]
fn a_lost_pubcomp_is_asked_for_again() {
    // [MQTT-4.3.3-11], [MQTT-4.4.0-1]
    let mut bench = Bench::new();
    let packet = persistent(Version::V5, "bob");
    let bob = bench.connect_with(&packet).0;
    bench.publish_as(bob, 3, "t", "m", Q2);
    bench.acknowledge(bob, PacketType::Pubrel, 3);
    bench.cut(bob);
    let bob = bench.connect_with(&packet).0;
    bench.acknowledge(bob, PacketType::Pubrel, 3);
    assert_eq!(bench.lines(bob), ["PUBCOMP 92 #3"]);
}

#[test]
fn a_repeated_pubrec_is_answered_by_pubrel_again() {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q2);
    bench.publish(bob, "t", "m", Q2);
    bench.output(alice);
    for _ in 0..2 {
        bench.acknowledge(alice, PacketType::Pubrec, 1);
        assert_eq!(bench.lines(alice), ["PUBREL 00 #1"]);
    }
}

#[test]
fn an_unknown_pubrec_is_answered_by_pubrel() {
    // Section 3.6.2.1
    for (version, code) in [(Version::V311, "00"), (Version::V5, "92")] {
        let mut bench = Bench::new();
        let alice = bench.connect(version, "alice");
        bench.acknowledge(alice, PacketType::Pubrec, 7);
        assert_eq!(bench.lines(alice), [format!("PUBREL {code} #7")]);
    }
}

#[test]
fn a_pubrec_with_an_error_ends_the_delivery() {
    // [MQTT-4.3.3-4]
    let mut bench = Bench::with(Config { in_flight_max: 1, ..Config::default() }, Stack::standard());
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q2);
    for packet_id in 1..=2 {
        bench.publish_as(bob, packet_id, "t", &packet_id.to_string(), Q2);
    }
    assert_eq!(bench.lines(alice), ["PUBLISH q2 #1 t: 1"]);
    let refused = Ack { reason: ReasonCode::QuotaExceeded, ..Ack::success(id(1)) };
    bench.send(alice, &Packet::Pubrec(refused));
    assert_eq!(bench.lines(alice), ["PUBLISH q2 #2 t: 2"], "no PUBREL, and the next one");
}

#[test]
fn a_puback_with_an_error_ends_the_delivery() {
    let mut bench = Bench::with(Config { in_flight_max: 1, ..Config::default() }, Stack::standard());
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q1);
    for packet_id in 1..=2 {
        bench.publish_as(alice, packet_id, "t", &packet_id.to_string(), Q1);
    }
    bench.output(alice);
    let refused = Ack { reason: ReasonCode::UnspecifiedError, ..Ack::success(id(1)) };
    bench.send(alice, &Packet::Puback(refused));
    assert_eq!(bench.lines(alice), ["PUBLISH q1 #2 t: 2"]);
}

#[test]
fn acknowledgements_of_the_wrong_kind_change_nothing() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V311, "alice");
    bench.subscribe(alice, "t", Q2);
    bench.publish_as(alice, 1, "t", "1", Q1);
    bench.publish_as(alice, 2, "t", "2", Q2);
    bench.output(alice);
    bench.acknowledge(alice, PacketType::Pubcomp, 2);
    bench.acknowledge(alice, PacketType::Puback, 2);
    bench.acknowledge(alice, PacketType::Pubcomp, 1);
    bench.acknowledge(alice, PacketType::Puback, 99);
    assert!(bench.lines(alice).is_empty());
    bench.acknowledge(alice, PacketType::Pubrec, 2);
    assert_eq!(bench.lines(alice), ["PUBREL 00 #2"], "still in flight");
}

#[test]
fn dup_of_a_received_message_is_not_passed_on() {
    // [MQTT-3.3.1-3]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V311, "alice");
    bench.subscribe(alice, "t", Q1);
    bench.send(alice, &Packet::Publish(Publish { dup: true, ..publish("t", "m", Q1) }));
    assert_eq!(bench.lines(alice)[0], "PUBLISH q1 #1 t: m");
}

#[test]
fn what_the_publisher_says_of_its_message_arrives_unchanged() {
    // [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-18], [MQTT-3.3.2-20]
    let list = [
        Property::UserProperty("b", "2"),
        Property::PayloadFormatIndicator(1),
        Property::UserProperty("a", "1"),
        Property::ResponseTopic("answers/bob"),
        Property::UserProperty("b", "2"),
        Property::CorrelationData(b"\x00\xFF"),
        Property::ContentType("text/plain"),
        Property::UserProperty("", ""),
    ];
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let away = bench.connect_with(&persistent(Version::V5, "away")).0;
    bench.subscribe(away, "t", Q1);
    bench.cut(away);
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q1);
    let old = bench.connect(Version::V311, "old");
    bench.subscribe(old, "t", Q0);
    bench.send(bob, &Packet::Publish(Publish { properties: properties(&list), ..publish("t", "m", Q1) }));
    let away = bench.connect_with(&persistent(Version::V5, "away")).0;
    for id in [alice, away] {
        let output = bench.output(id);
        let packets = decode(&output, Version::V5);
        let [Packet::Publish(publish)] = &packets[..] else { panic!("{packets:?}") };
        assert_eq!(publish.properties.iter().collect::<Vec<_>>(), list);
    }
    assert_eq!(bench.lines(old), ["PUBLISH q0 t: m"]);
}

#[test]
fn a_subscription_identifier_from_a_client_is_a_protocol_error() {
    // [MQTT-3.3.4-6]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let list = properties(&[Property::SubscriptionIdentifier(1.try_into().unwrap())]);
    bench.send(bob, &Packet::Publish(Publish { properties: list, ..publish("t", "m", Q0) }));
    assert_eq!(bench.lines(bob), ["DISCONNECT 82"]);
}

#[test]
fn a_queued_message_says_how_long_it_still_lives_and_expires() {
    // [MQTT-3.3.2-5], [MQTT-3.3.2-6]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect_with(&persistent(Version::V5, "alice")).0;
    bench.subscribe(alice, "t", Q1);
    bench.cut(alice);
    for (payload, seconds) in [("short", Some(5)), ("long", Some(60)), ("ever", None)] {
        let list: Vec<_> = seconds.map(Property::MessageExpiryInterval).into_iter().collect();
        bench.send(
            bob,
            &Packet::Publish(Publish { properties: properties(&list), ..publish("t", payload, Q1) }),
        );
    }
    bench.pass_ms(5_000);
    let alice = bench.connect_with(&persistent(Version::V5, "alice")).0;
    assert_eq!(
        bench.lines(alice),
        ["PUBLISH q1 #1 t: long [MessageExpiryInterval(55)]", "PUBLISH q1 #2 t: ever"]
    );
    assert_eq!(bench.broker.stats().dropped_expired, 1);
}

#[test]
fn a_message_that_is_passed_on_at_once_keeps_its_expiry() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q0);
    let list = properties(&[Property::MessageExpiryInterval(7)]);
    bench.send(alice, &Packet::Publish(Publish { properties: list, ..publish("t", "m", Q0) }));
    assert_eq!(bench.lines(alice), ["PUBLISH q0 t: m [MessageExpiryInterval(7)]"]);
}

fn narrow(outbox_bytes_max: u32) -> Bench {
    Bench::with(Config { outbox_bytes_max, ..Config::default() }, Stack::standard())
}

#[test]
fn a_slow_consumer_loses_qos_0_and_nobody_else_does() {
    let mut bench = narrow(1_000);
    let bob = bench.connect(Version::V5, "bob");
    let slow = bench.connect(Version::V5, "slow");
    let quick = bench.connect(Version::V5, "quick");
    for id in [slow, quick] {
        bench.subscribe(id, "t", Q0);
    }
    bench.clog(slow, true);
    let payload = "x".repeat(100);
    for _ in 0..100 {
        bench.publish(bob, "t", &payload, Q0);
    }
    assert_eq!(bench.messages(quick).len(), 100);
    let dropped = bench.broker.stats().dropped_slow;
    assert!((88..=91).contains(&dropped), "{dropped}");
    bench.clog(slow, false);
    assert_eq!(bench.messages(slow).len() as u64, 100 - dropped);
    bench.publish(bob, "t", "again", Q0);
    assert_eq!(bench.messages(slow), ["t: again"]);
}

#[test]
fn a_slow_consumer_gets_qos_1_and_2_later_in_order() {
    // [MQTT-4.6.0-6]
    for version in VERSIONS {
        let mut bench = narrow(1_000);
        let bob = bench.connect(version, "bob");
        let slow = bench.connect(version, "slow");
        bench.subscribe(slow, "t", Q2);
        bench.clog(slow, true);
        let mut expected = Vec::new();
        for n in 0..200 {
            bench.publish(bob, "t", &format!("{n:0100}"), if n % 3 == 0 { Q2 } else { Q1 });
            bench.handshake(bob);
            expected.push(format!("t: {n:0100}"));
        }
        assert!(bench.broker.stats().queued > 180, "its outbox is bounded");
        bench.clog(slow, false);
        assert_eq!(bench.handshake(slow), expected);
    }
}

#[test]
fn a_queue_goes_on_when_an_acknowledgement_met_a_full_outbox() {
    let mut bench = narrow(1_000);
    let bob = bench.connect(Version::V5, "bob");
    let one = properties(&[Property::ReceiveMaximum(1.try_into().unwrap())]);
    let slow = bench.connect_with(&Connect { properties: one, ..connect(Version::V5, "slow") }).0;
    bench.subscribe(slow, "t", Q1);
    bench.publish(bob, "t", "1", Q1);
    bench.publish(bob, "t", "2", Q1);
    assert_eq!(bench.messages(slow), ["t: 1"]);
    bench.clog(slow, true);
    for _ in 0..20 {
        bench.publish(bob, "t", &"x".repeat(100), Q0);
    }
    bench.acknowledge(slow, PacketType::Puback, 1);
    bench.clog(slow, false);
    assert_eq!(bench.messages(slow).last().unwrap(), "t: 2");
}

#[test]
fn large_messages_to_a_slow_consumer_wait_in_its_queue_and_not_in_its_outbox() {
    let mut bench = narrow(100_000);
    let bob = bench.connect(Version::V5, "bob");
    let packet = persistent(Version::V5, "slow");
    let slow = bench.connect_with(&packet).0;
    bench.subscribe(slow, "t", Q1);
    bench.cut(slow);
    let payload = "x".repeat(50_000);
    for _ in 0..20 {
        bench.publish(bob, "t", &payload, Q1);
    }
    // Queue, then what is sent again: neither is written all at once.
    for _ in 0..2 {
        let slow = bench.accept();
        bench.clog(slow, true);
        bench.send(slow, &Packet::Connect(packet.clone()));
        let transmit = bench.broker.poll_transmit();
        assert!(transmit.is_none_or(|transmit| transmit.len() < 200_000));
        let waiting = bench.broker.read_credit(slow);
        assert!(waiting > 0, "it can still acknowledge");
        bench.cut(slow);
    }
    let slow = bench.connect_with(&packet).0;
    assert_eq!(bench.handshake(slow).len(), 20);
}

#[test]
fn a_subscriber_that_is_its_own_publisher_does_not_wait_for_itself() {
    for qos in [Q0, Q1, Q2] {
        let mut bench = narrow(1_000);
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, "t", qos);
        bench.clog(alice, true);
        for packet_id in 1..=500 {
            bench.publish_as(alice, packet_id, "t", &"x".repeat(100), qos);
        }
        bench.clog(alice, false);
        let got = bench.handshake(alice).len() as u64;
        assert_eq!(got + bench.broker.stats().dropped_slow, 500);
        assert_eq!(got == 500, qos > Q0);
    }
}

#[test]
fn who_is_not_read_is_read_again_when_there_is_room() {
    // A message can be larger than all other limits.
    let mut bench = Bench::with(
        Config { outbox_bytes_max: 1_000_000, packet_size_max: 1_000_000, ..Config::default() },
        Stack::standard(),
    );
    let bob = bench.connect(Version::V5, "bob");
    let slow = bench.connect(Version::V5, "slow");
    bench.subscribe(slow, "t", Q0);
    bench.clog(slow, true);
    for _ in 0..3 {
        bench.publish(bob, "t", &"x".repeat(900_000), Q0);
    }
    assert_eq!(bench.broker.read_credit(slow), 0);
    bench.clog(slow, false);
    assert!(bench.broker.read_credit(slow) > 0);
    assert_eq!(bench.credits, [slow]);
}

#[test]
fn messages_of_one_publisher_arrive_in_order() {
    // [MQTT-4.6.0-5], [MQTT-4.6.0-6]
    for qos in [Q0, Q1, Q2] {
        let mut bench = Bench::with(Config { in_flight_max: 7, ..Config::default() }, Stack::standard());
        let bob = bench.connect(Version::V311, "bob");
        let subscribers: Vec<_> = (0..3).map(|n| bench.connect(Version::V5, &format!("s{n}"))).collect();
        for id in &subscribers {
            bench.subscribe(*id, "t", qos);
        }
        for n in 0..100 {
            bench.publish(bob, "t", &n.to_string(), qos);
            bench.handshake(bob);
        }
        let expected: Vec<_> = (0..100).map(|n| format!("t: {n}")).collect();
        for id in subscribers {
            assert_eq!(bench.handshake(id), expected);
        }
    }
}

#[test]
fn a_client_that_is_gone_for_good_gets_and_costs_nothing() {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q2);
    bench.cut(alice);
    bench.publish(bob, "t", "m", Q1);
    assert_eq!(bench.lines(bob), ["PUBACK 10 #1"]);
    assert_eq!(bench.broker.stats().queued, 0);
}

#[test]
fn the_program_publishes_as_clients_do() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q1);
    let message = Message::new("t", b"m", Q2, true).unwrap();
    bench.broker.publish(bench.now, message, Origin::Program).unwrap();
    bench.drain();
    assert_eq!(bench.lines(alice), ["PUBLISH q1 #1 t: m"]);
    let late = bench.connect(Version::V311, "late");
    bench.subscribe(late, "t", Q0);
    assert_eq!(bench.lines(late), ["PUBLISH q0 retain t: m"]);
}

#[test]
fn bytes_split_anywhere_are_the_same_packets() {
    let mut bytes = Vec::new();
    for (n, qos) in [Q0, Q1, Q2].into_iter().enumerate() {
        let packet = Publish { packet_id: (qos > Q0).then(|| id(n as u16)), ..publish("t", "payload", qos) };
        packet.encode(Version::V5, &mut bytes).unwrap();
    }
    bytes.extend_from_slice(&[0xC0, 0]);
    let play = |size: usize| {
        let mut bench = Bench::new();
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, "t", Q2);
        bytes.chunks(size).for_each(|chunk| bench.bytes(alice, chunk));
        bench.output(alice)
    };
    let whole = play(bytes.len());
    for size in 1..bytes.len() {
        assert_eq!(play(size), whole, "{size} bytes at a time");
    }
}
