//! How long sessions live, who gets them, and what is sent again.
#![cfg(feature = "testing")]

use culex_core::Config;
use culex_core::middleware::Stack;
use culex_core::packet::*;
use culex_core::testing::*;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

/// A CONNECT that resumes what there is, with a Session Expiry Interval.
fn resuming(client_id: &str, expiry_s: u32) -> Connect<'_> {
    let properties = properties(&[Property::SessionExpiryInterval(expiry_s)]);
    Connect { clean_start: false, properties, ..connect(Version::V5, client_id) }
}

fn resuming_with<'a>(client_id: &'a str, list: &[Property<'_>]) -> Connect<'a> {
    let mut all = vec![Property::SessionExpiryInterval(600)];
    all.extend_from_slice(list);
    Connect { properties: properties(&all), ..resuming(client_id, 0) }
}

#[test]
fn without_an_expiry_interval_the_session_ends_with_the_connection() {
    // [MQTT-3.1.2-23] and section 3.1.2.11.2
    for last in ["cut", "leave"] {
        let mut bench = Bench::new();
        for packet in [resuming("alice", 0), connect(Version::V5, "alice"), connect(Version::V311, "alice")] {
            let (alice, present) = bench.connect_with(&packet);
            assert!(!present);
            bench.subscribe(alice, "t", Q1);
            if last == "cut" {
                bench.cut(alice)
            } else {
                bench.leave(alice)
            }
            assert_eq!(bench.broker.sessions(), 0);
        }
        assert_eq!(bench.broker.stats().sessions_started, bench.broker.stats().sessions_ended);
    }
}

#[test]
fn a_session_lives_as_long_as_its_expiry_interval() {
    // [MQTT-3.1.2-23]
    let mut bench = Bench::new();
    let alice = bench.connect_with(&resuming("alice", 10)).0;
    bench.pass_ms(60_000);
    bench.cut(alice);
    bench.pass_ms(9_999);
    assert_eq!(bench.broker.sessions(), 1);
    let (alice, present) = bench.connect_with(&resuming("alice", 10));
    assert!(present, "in time [MQTT-3.1.2-5]");
    bench.pass_ms(60_000);
    assert_eq!(bench.broker.sessions(), 1, "it does not expire while it is connected");
    bench.cut(alice);
    bench.pass_ms(10_000);
    assert_eq!(bench.broker.sessions(), 0);
    assert!(!bench.connect_with(&resuming("alice", 10)).1);
}

#[test]
fn a_session_with_the_largest_interval_never_expires() {
    let mut bench = Bench::new();
    let alice = bench.connect_with(&resuming("alice", u32::MAX)).0;
    bench.leave(alice);
    assert_eq!(bench.broker.deadline(), None);
    bench.pass_ms(1_000 * u64::from(u32::MAX) + 1);
    assert!(bench.connect_with(&resuming("alice", 0)).1);
}

#[test]
fn a_session_lives_no_longer_than_the_server_allows() {
    let mut bench = Bench::with(Config { session_expiry_max_s: 5, ..Config::default() }, Stack::standard());
    let old = Connect { clean_start: false, ..connect(Version::V311, "old") };
    for packet in [resuming("new", u32::MAX), old] {
        let id = bench.connect_with(&packet).0;
        bench.cut(id);
        bench.pass_ms(4_999);
        assert_eq!(bench.broker.sessions(), 1);
        bench.pass_ms(1);
        assert_eq!(bench.broker.sessions(), 0);
    }
}

#[test]
fn disconnect_can_change_the_expiry_interval() {
    // Section 3.14.2.2.2
    let mut bench = Bench::new();
    let alice = bench.connect_with(&resuming("alice", 10)).0;
    bench.send(alice, &disconnect(ReasonCode::Success, &[Property::SessionExpiryInterval(100)]));
    bench.cut(alice);
    bench.pass_ms(99_999);
    let (alice, present) = bench.connect_with(&resuming("alice", 10));
    assert!(present);
    bench.send(alice, &disconnect(ReasonCode::Success, &[Property::SessionExpiryInterval(0)]));
    assert_eq!(bench.broker.sessions(), 0);
}

#[test]
fn disconnect_cannot_make_a_session_outlive_its_connection() {
    // [MQTT-3.14.2-2]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.send(alice, &disconnect(ReasonCode::Success, &[Property::SessionExpiryInterval(1)]));
    assert_eq!(bench.lines(alice), ["DISCONNECT 82"]);
    assert_eq!(bench.broker.sessions(), 0);
}

#[test]
fn clean_start_discards_what_there_was() {
    // [MQTT-3.1.2-4], [MQTT-3.2.2-2]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect_with(&resuming("alice", 600)).0;
    bench.subscribe(alice, "t", Q1);
    bench.cut(alice);
    bench.publish(bob, "t", "old", Q1);
    let clean = Connect { clean_start: true, ..resuming("alice", 600) };
    let (alice, present) = bench.connect_with(&clean);
    assert!(!present);
    bench.publish(bob, "t", "new", Q1);
    assert!(bench.lines(alice).is_empty(), "neither subscription nor queue is left");
}

#[test]
fn a_clean_session_of_3_x_leaves_nothing_behind_and_another_one_stays() {
    // [MQTT-3.1.2-4], [MQTT-3.1.2-5], [MQTT-3.1.2-6] of 3.1.1
    for version in [Version::V31, Version::V311] {
        let mut bench = Bench::new();
        let bob = bench.connect(version, "bob");
        let kept = Connect { clean_start: false, ..connect(version, "alice") };
        let alice = bench.connect_with(&kept).0;
        bench.subscribe(alice, "t", Q1);
        bench.leave(alice);
        bench.publish(bob, "t", "1", Q1);
        let (alice, present) = bench.connect_with(&kept);
        // 3.1 has no Session Present.
        assert_eq!(present, version == Version::V311);
        assert_eq!(bench.handshake(alice), ["t: 1"]);
        bench.leave(alice);
        let (alice, present) = bench.connect_with(&connect(version, "alice"));
        assert!(!present);
        bench.leave(alice);
        assert!(!bench.connect_with(&kept).1, "the clean session was not kept");
    }
}

#[test]
fn a_session_can_be_resumed_in_another_version() {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect_with(&resuming("alice", 600)).0;
    bench.subscribe(alice, "t", Q1);
    bench.cut(alice);
    let packet = Publish { properties: properties(&[Property::ContentType("x")]), ..publish("t", "1", Q1) };
    bench.send(bob, &Packet::Publish(packet));
    let (alice, present) =
        bench.connect_with(&Connect { clean_start: false, ..connect(Version::V311, "alice") });
    assert!(present);
    assert_eq!(bench.lines(alice), ["PUBLISH q1 #1 t: 1"]);
}

#[test]
fn a_takeover_tells_the_old_connection_and_keeps_the_session() {
    // [MQTT-3.1.4-3]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let old = bench.connect_with(&resuming_with("alice", &[])).0;
    bench.subscribe(old, "t", Q1);
    bench.publish(bob, "t", "in flight", Q1);
    let (new, present) = bench.connect_with(&resuming_with("alice", &[]));
    assert!(present);
    assert_eq!(bench.lines(old), ["PUBLISH q1 #1 t: in flight", "DISCONNECT 8E"]);
    assert!(bench.closed(old));
    assert_eq!(bench.lines(new), ["PUBLISH q1 #1 dup t: in flight"]);
    // What the old connection still says, and its end, change nothing.
    bench.acknowledge(old, PacketType::Puback, 1);
    bench.cut(old);
    bench.publish(bob, "t", "next", Q1);
    assert_eq!(bench.lines(new), ["PUBLISH q1 #2 t: next"]);
    assert_eq!((bench.broker.stats().takeovers, bench.broker.sessions()), (1, 2));
}

#[test]
fn a_takeover_hands_the_queue_over() {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let one = Property::ReceiveMaximum(1.try_into().unwrap());
    let old = bench.connect_with(&resuming_with("alice", &[one])).0;
    bench.subscribe(old, "t", Q1);
    for n in 0..10 {
        bench.publish(bob, "t", &n.to_string(), Q1);
    }
    assert_eq!(bench.messages(old), ["t: 0"]);
    let new = bench.connect_with(&resuming_with("alice", &[])).0;
    let expected: Vec<_> = (0..10).map(|n| format!("t: {n}")).collect();
    assert_eq!(bench.handshake(new), expected);
}

#[test]
fn a_takeover_of_a_session_that_ends_with_its_connection_starts_anew() {
    let mut bench = Bench::new();
    for version in [Version::V311, Version::V5] {
        let old = bench.connect(version, "alice");
        bench.subscribe(old, "t", Q1);
        let (new, present) = bench.connect_with(&Connect { clean_start: false, ..connect(version, "alice") });
        assert!(!present);
        bench.publish(new, "t", "m", Q0);
        assert!(bench.messages(new).is_empty());
        bench.cut(old);
        assert_eq!(bench.broker.sessions(), 1);
        bench.connect_with(&connect(version, "alice"));
    }
}

#[test]
fn a_takeover_of_a_connection_that_takes_no_output_succeeds_at_once() {
    let mut bench = Bench::new();
    let old = bench.connect(Version::V5, "alice");
    bench.clog(old, true);
    bench.send(old, &Packet::Pingreq);
    let new = bench.connect(Version::V5, "alice");
    bench.send(new, &Packet::Pingreq);
    assert_eq!(bench.lines(new), ["PINGRESP"]);
    assert!(!bench.closed(old), "its last packets may still get through");
    bench.pass_ms(2_000);
    assert!(bench.closed(old));
}

#[test]
fn what_was_not_acknowledged_is_sent_again_with_its_identifier_in_order() {
    // [MQTT-4.4.0-1], [MQTT-3.3.1-1], [MQTT-4.6.0-1]
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut bench = Bench::new();
        let bob = bench.connect(version, "bob");
        let packet = match version {
            Version::V5 => resuming("alice", 600),
            _ => Connect { clean_start: false, ..connect(version, "alice") },
        };
        let alice = bench.connect_with(&packet).0;
        bench.subscribe(alice, "#", Q2);
        for (n, qos) in [Q1, Q2, Q1, Q2, Q1].into_iter().enumerate() {
            bench.publish(bob, "t", &n.to_string(), qos);
            bench.handshake(bob);
        }
        assert_eq!(bench.lines(alice).len(), 5);
        bench.acknowledge(alice, PacketType::Puback, 3);
        bench.acknowledge(alice, PacketType::Pubrec, 2);
        assert_eq!(bench.lines(alice), ["PUBREL 00 #2"]);
        bench.cut(alice);
        bench.publish(bob, "t", "5", Q1);
        let alice = bench.connect_with(&packet).0;
        let mut lines = bench.lines(alice);
        // PUBREL may come before or behind the PUBLISH packets: it is the client's next step.
        let release = lines.iter().position(|line| line == "PUBREL 00 #2").expect("PUBREL is sent again");
        lines.remove(release);
        assert_eq!(
            lines,
            [
                "PUBLISH q1 #1 dup t: 0",
                "PUBLISH q2 #4 dup t: 3",
                "PUBLISH q1 #5 dup t: 4",
                "PUBLISH q1 #6 t: 5",
            ]
        );
        bench.acknowledge(alice, PacketType::Pubcomp, 2);
        bench.acknowledge(alice, PacketType::Puback, 1);
        bench.acknowledge(alice, PacketType::Pubrec, 4);
        assert_eq!(bench.lines(alice), ["PUBREL 00 #4"]);
    }
}

#[test]
fn what_is_in_flight_is_not_sent_again_on_the_same_connection() {
    // [MQTT-4.4.0-1]: only at a reconnect.
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q1);
    bench.publish(bob, "t", "m", Q1);
    assert_eq!(bench.lines(alice).len(), 1);
    bench.pass_ms(3_600_000);
    bench.send(alice, &Packet::Pingreq);
    assert_eq!(bench.lines(alice), ["PINGRESP"]);
}

#[test]
fn a_lower_receive_maximum_counts_for_what_is_sent_again() {
    // [MQTT-3.3.4-9]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect_with(&resuming_with("alice", &[])).0;
    bench.subscribe(alice, "t", Q1);
    for n in 0..5 {
        bench.publish(bob, "t", &n.to_string(), Q1);
    }
    bench.cut(alice);
    let two = Property::ReceiveMaximum(2.try_into().unwrap());
    let alice = bench.connect_with(&resuming_with("alice", &[two])).0;
    assert_eq!(bench.lines(alice), ["PUBLISH q1 #1 dup t: 0", "PUBLISH q1 #2 dup t: 1"]);
    bench.publish(bob, "t", "5", Q1);
    assert!(bench.lines(alice).is_empty(), "its turn has not come");
    bench.acknowledge(alice, PacketType::Puback, 2);
    assert_eq!(bench.lines(alice), ["PUBLISH q1 #3 dup t: 2"]);
    // What was not sent on this connection cannot be acknowledged on it.
    bench.acknowledge(alice, PacketType::Puback, 5);
    assert!(bench.lines(alice).is_empty());
    for (acknowledged, next) in [(1, "#4 dup t: 3"), (3, "#5 dup t: 4"), (4, "#6 t: 5")] {
        bench.acknowledge(alice, PacketType::Puback, acknowledged);
        assert_eq!(bench.lines(alice), [format!("PUBLISH q1 {next}")]);
    }
}

#[test]
fn released_messages_count_for_a_lower_receive_maximum() {
    // [MQTT-3.3.4-9]: until PUBCOMP.
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect_with(&resuming_with("alice", &[])).0;
    bench.subscribe(alice, "t", Q2);
    for n in 0..3 {
        bench.publish(bob, "t", &n.to_string(), Q2);
        bench.handshake(bob);
    }
    bench.acknowledge(alice, PacketType::Pubrec, 1);
    bench.cut(alice);
    let one = Property::ReceiveMaximum(1.try_into().unwrap());
    bench.output(alice);
    let alice = bench.connect_with(&resuming_with("alice", &[one])).0;
    assert_eq!(bench.lines(alice), ["PUBREL 00 #1"]);
    bench.acknowledge(alice, PacketType::Pubcomp, 1);
    assert_eq!(bench.lines(alice), ["PUBLISH q2 #2 dup t: 1"]);
}

#[test]
fn a_pubrec_for_what_was_not_yet_sent_again_holds_nothing_up() {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect_with(&resuming_with("alice", &[])).0;
    bench.subscribe(alice, "t", Q2);
    for n in 0..3 {
        bench.publish(bob, "t", &n.to_string(), Q2);
        bench.handshake(bob);
    }
    bench.cut(alice);
    bench.output(alice);
    let one = Property::ReceiveMaximum(1.try_into().unwrap());
    let alice = bench.connect_with(&resuming_with("alice", &[one])).0;
    assert_eq!(bench.lines(alice), ["PUBLISH q2 #1 dup t: 0"]);
    bench.acknowledge(alice, PacketType::Pubrec, 2);
    bench.acknowledge(alice, PacketType::Pubrec, 3);
    assert_eq!(bench.lines(alice), ["PUBREL 00 #2", "PUBREL 00 #3"]);
    for packet_id in [2, 3] {
        bench.acknowledge(alice, PacketType::Pubcomp, packet_id);
    }
    bench.acknowledge(alice, PacketType::Pubrec, 1);
    bench.acknowledge(alice, PacketType::Pubcomp, 1);
    bench.lines(alice);
    bench.publish(bob, "t", "after", Q2);
    assert_eq!(bench.lines(alice), ["PUBLISH q2 #4 t: after"]);
}

#[test]
fn what_is_sent_again_is_no_larger_than_the_client_accepts_now() {
    // [MQTT-3.1.2-24], [MQTT-3.1.2-25]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect_with(&resuming_with("alice", &[])).0;
    bench.subscribe(alice, "t", Q1);
    let large = "x".repeat(200);
    for payload in ["1", &large, "2"] {
        bench.publish(bob, "t", payload, Q1);
    }
    bench.cut(alice);
    let alice = bench.connect_with(&resuming_with("alice", &[Property::MaximumPacketSize(100)])).0;
    assert_eq!(bench.lines(alice), ["PUBLISH q1 #1 dup t: 1", "PUBLISH q1 #3 dup t: 2"]);
    assert_eq!(bench.broker.stats().dropped_too_large, 1);
    // It counts as sent: nothing waits for it.
    for packet_id in [1, 3] {
        bench.acknowledge(alice, PacketType::Puback, packet_id);
    }
    bench.cut(alice);
    let alice = bench.connect_with(&resuming_with("alice", &[])).0;
    assert!(bench.lines(alice).is_empty());
}

#[test]
fn no_state_is_left_when_all_clients_are_gone() {
    let mut bench = Bench::new();
    let ids: Vec<_> = (0..20).map(|n| bench.connect(Version::V5, &format!("c{n}"))).collect();
    for id in &ids {
        bench.subscribe(*id, "t/+", Q2);
        bench.publish(*id, "t/1", "m", Q2);
    }
    for id in ids {
        bench.cut(id);
    }
    assert_eq!((bench.broker.sessions(), bench.broker.connections()), (0, 0));
    assert_eq!(bench.broker.deadline(), None, "no timer is left");
    assert_eq!(bench.broker.stats().sessions_started, bench.broker.stats().sessions_ended);
}
