//! SUBSCRIBE, UNSUBSCRIBE, and which messages a subscription gets.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // helpers fail as tests do

use culex_core::Config;
use culex_core::broker::Notice;
use culex_core::middleware::Stack;
use culex_core::packet::*;
use culex_core::testing::*;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;
const OLD: [Version; 2] = [Version::V31, Version::V311];

fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions::new(qos)
}

fn identifier(number: u32) -> PropertiesBuf {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::SubscriptionIdentifier(number.try_into().unwrap()));
    properties
}

#[test]
fn each_filter_of_a_subscribe_has_its_reason_code() {
    // [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.8.4-6], [MQTT-3.9.3-1]
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut bench = Bench::new();
        let alice = bench.connect(version, "alice");
        bench.subscribe_all(alice, &[("a", options(Q2)), ("b", options(Q0)), ("c/#", options(Q1))]);
        assert_eq!(bench.lines(alice), ["SUBACK [02, 00, 01] #777"]);
    }
}

#[test]
fn no_more_than_the_maximum_qos_is_granted() {
    // [MQTT-3.2.2-10], [MQTT-3.8.4-7]
    for version in [Version::V311, Version::V5] {
        let mut bench = Bench::with(Config { qos_max: 1, ..Config::default() }, Stack::standard());
        let alice = bench.connect(version, "alice");
        bench.subscribe_all(alice, &[("a", options(Q2)), ("b", options(Q0))]);
        assert_eq!(bench.lines(alice), ["SUBACK [01, 00] #777"]);
    }
}

#[test]
fn what_is_not_available_is_refused_filter_by_filter() {
    // [MQTT-3.2.2-16] ff. and section 3.9.3; 3.x knows one failure code [MQTT-3.9.3-2 of 3.1.1].
    let config = Config {
        wildcard_subscription_available: false,
        shared_subscription_available: false,
        topic_levels_max: 3,
        ..Config::default()
    };
    let mut bench = Bench::with(config, Stack::standard());
    let filters =
        [("a/+", options(Q1)), ("a", options(Q1)), ("$share/g/a", options(Q1)), ("a/b/c/d", options(Q1))];
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe_all(alice, &filters);
    assert_eq!(bench.lines(alice), ["SUBACK [A2, 01, 9E, 8F] #777"]);
    let bob = bench.connect(Version::V311, "bob");
    bench.subscribe_all(bob, &filters);
    assert_eq!(bench.lines(bob), ["SUBACK [80, 01, 80, 80] #777"]);
    bench.publish(bob, "a", "m", Q0);
    assert_eq!(bench.messages(alice), ["a: m"], "what was granted works");
}

#[test]
fn a_filter_that_is_not_well_formed_ends_the_connection() {
    // [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    for filter in ["a/#/b", "a#", "a+/b", "$share//a", "$share/g/", "$share/g+/a", "$share/g"] {
        for version in [Version::V311, Version::V5] {
            let mut bench = Bench::new();
            let alice = bench.connect(version, "alice");
            bench.subscribe_all(alice, &[("ok", options(Q0)), (filter, options(Q0))]);
            assert!(bench.closed(alice), "{filter}");
            assert!(bench.lines(alice).iter().all(|line| line.starts_with("DISCONNECT 8")));
        }
    }
}

#[test]
fn no_more_subscriptions_than_allowed() {
    let mut bench = Bench::with(Config { subscriptions_max: 2, ..Config::default() }, Stack::standard());
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe_all(alice, &[("a", options(Q0)), ("b", options(Q0)), ("c", options(Q0))]);
    assert_eq!(bench.lines(alice), ["SUBACK [00, 00, 97] #777"]);
    // One that went makes room.
    bench.unsubscribe(alice, "a");
    bench.output(alice);
    bench.subscribe_all(alice, &[("c", options(Q0)), ("d", options(Q0))]);
    assert_eq!(bench.lines(alice), ["SUBACK [00, 97] #777"]);
    let old = bench.connect(Version::V311, "old");
    bench.subscribe_all(old, &[("a", options(Q0)), ("b", options(Q0)), ("c", options(Q0))]);
    assert_eq!(bench.lines(old), ["SUBACK [00, 00, 80] #777"]);
}

#[test]
fn topics_match_filters_by_the_rules_of_wildcards() {
    // [MQTT-4.7.1-1] to [MQTT-4.7.3-4]
    for (filter, matching, other) in [
        (
            "sport/tennis/+",
            &["sport/tennis/a", "sport/tennis/"][..],
            &["sport/tennis", "sport/tennis/a/b"][..],
        ),
        ("sport/#", &["sport", "sport/", "sport/a/b"], &["sports", "/sport"]),
        ("#", &["a", "/a", "a/b/c", "/"], &["$SYS", "$SYS/a"]),
        ("+", &["a"], &["/a", "a/", "$a"]),
        ("+/+", &["/a", "a/", "a/b", "/"], &["a", "$a/b"]),
        ("/+", &["/a", "/"], &["a", "/a/b"]),
        ("+/a/#", &["b/a", "b/a/c", "/a"], &["a", "$b/a"]),
        ("$SYS/#", &["$SYS", "$SYS/a"], &["SYS"]),
        ("$SYS/+", &["$SYS/a"], &["$SYS", "$SYS/a/b"]),
        ("a/b", &["a/b"], &["A/b", "a/B", "a/b/", "/a/b"]),
        ("a//b", &["a//b"], &["a/b"]),
        ("ä/+", &["ä/ö"], &["a\u{308}/ö"]),
    ] {
        let mut bench = Bench::new();
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, filter, Q0);
        for topic in matching.iter().chain(other) {
            bench.publish(alice, topic, "", Q0);
        }
        let expected: Vec<_> = matching.iter().map(|topic| format!("{topic}: ")).collect();
        assert_eq!(bench.messages(alice), expected, "{filter}");
    }
}

#[test]
fn a_message_comes_with_the_lower_qos_of_publication_and_subscription() {
    // [MQTT-3.8.4-8]
    for published in [Q0, Q1, Q2] {
        for subscribed in [Q0, Q1, Q2] {
            let mut bench = Bench::new();
            let bob = bench.connect(Version::V311, "bob");
            let alice = bench.connect(Version::V311, "alice");
            bench.subscribe(alice, "t", subscribed);
            bench.publish(bob, "t", "m", published);
            bench.handshake(bob);
            let expected = format!("PUBLISH q{}", published.min(subscribed) as u8);
            assert!(bench.lines(alice)[0].starts_with(&expected));
        }
    }
}

#[test]
fn a_subscription_to_the_same_filter_replaces_the_old_one() {
    // [MQTT-3.8.4-3]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe_with(alice, "t", options(Q1), &identifier(1));
    bench.subscribe_with(alice, "t", options(Q0), &identifier(2));
    bench.publish(alice, "t", "m", Q1);
    assert_eq!(bench.lines(alice), ["PUBLISH q0 t: m [SubscriptionIdentifier(2)]", "PUBACK 00 #1"]);
}

#[test]
fn overlapping_subscriptions_get_a_message_once_with_all_identifiers() {
    // [MQTT-3.3.4-2], [MQTT-3.3.4-3], [MQTT-3.3.4-4]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe_with(alice, "a/b", options(Q0), &identifier(1));
    bench.subscribe_with(alice, "a/+", options(Q2), &identifier(268_435_455));
    bench.subscribe_with(alice, "#", options(Q1), &PropertiesBuf::new());
    bench.subscribe_with(alice, "a/#", options(Q0), &identifier(3));
    bench.publish(alice, "a/b", "m", Q1);
    let output = bench.output(alice);
    let packets = decode(&output, Version::V5);
    let [Packet::Publish(publish), Packet::Puback(_)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(publish.qos, Q1, "the highest");
    let mut identifiers: Vec<_> = publish.properties.subscription_identifiers().map(u32::from).collect();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [1, 3, 268_435_455]);
}

#[test]
fn overlapping_subscriptions_can_each_get_their_own_copy() {
    // [MQTT-3.3.4-5] and section 3.3.4
    let config = Config { overlapping_once: false, ..Config::default() };
    let mut bench = Bench::with(config, Stack::standard());
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe_with(alice, "a/b", options(Q0), &identifier(1));
    bench.subscribe_with(alice, "a/+", options(Q2), &identifier(2));
    bench.subscribe_with(alice, "#", options(Q1), &PropertiesBuf::new());
    bench.publish(bob, "a/b", "m", Q2);
    let mut lines = bench.lines(alice);
    lines.sort();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], "PUBLISH q0 a/b: m [SubscriptionIdentifier(1)]");
    assert!(lines[1].starts_with("PUBLISH q1 #") && lines[1].ends_with("a/b: m"));
    assert!(lines[2].starts_with("PUBLISH q2 #") && lines[2].ends_with("a/b: m [SubscriptionIdentifier(2)]"));
}

#[test]
fn a_queued_message_keeps_its_subscription_identifiers() {
    // [MQTT-3.3.4-3]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let kept = || Connect {
        clean_start: false,
        properties: properties(&[Property::SessionExpiryInterval(60)]),
        ..connect(Version::V5, "alice")
    };
    let alice = bench.connect_with(&kept()).0;
    bench.subscribe_with(alice, "t", options(Q1), &identifier(5));
    bench.cut(alice);
    bench.publish(bob, "t", "m", Q1);
    for dup in ["", " dup"] {
        let alice = bench.connect_with(&kept()).0;
        assert_eq!(bench.lines(alice), [format!("PUBLISH q1 #1{dup} t: m [SubscriptionIdentifier(5)]")]);
        bench.cut(alice);
    }
}

#[test]
fn subscription_identifiers_can_be_refused() {
    // Section 3.2.2.3.12
    let config = Config { subscription_identifiers_available: false, ..Config::default() };
    let mut bench = Bench::with(config, Stack::standard());
    let alice = bench.connect(Version::V5, "alice");
    let (identifier, filters) = (identifier(1), subscribe_filters(&[("t", options(Q0))]));
    let properties = identifier.as_properties();
    bench.send(
        alice,
        &Packet::Subscribe(Subscribe { packet_id: id(1), properties, filters: filters.as_filters() }),
    );
    assert_eq!(bench.lines(alice), ["DISCONNECT A1"]);
}

#[test]
fn no_local_spares_a_client_its_own_messages() {
    // [MQTT-3.8.3-3]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    let bob = bench.connect(Version::V5, "bob");
    let quiet = SubscriptionOptions { no_local: true, ..options(Q1) };
    bench.subscribe_with(alice, "t", quiet, &PropertiesBuf::new());
    bench.publish(alice, "t", "own", Q1);
    assert_eq!(bench.lines(alice), ["PUBACK 10 #1"]);
    bench.publish(bob, "t", "other", Q0);
    assert_eq!(bench.messages(alice), ["t: other"]);
    // Another subscription of the same client may want them.
    bench.subscribe(alice, "#", Q0);
    bench.publish(alice, "t", "own", Q0);
    assert_eq!(bench.messages(alice), ["t: own"]);
}

#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    // [MQTT-3.8.3-4]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.bytes(alice, b"\x82\x11\x00\x01\x00\x00\x0b$share/g/ab\x04");
    assert_eq!(bench.lines(alice), ["DISCONNECT 82"]);
}

#[test]
fn unsubscribe_says_of_each_filter_whether_there_was_a_subscription() {
    // [MQTT-3.10.4-4], [MQTT-3.10.4-6], [MQTT-3.11.3-1], [MQTT-3.11.3-2]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    let bob = bench.connect(Version::V5, "bob");
    bench.subscribe(bob, "b", Q0);
    bench.subscribe_all(alice, &[("a", options(Q0)), ("$share/g/c", options(Q0))]);
    bench.output(alice);
    let mut filters = UnsubscribeFiltersBuf::new();
    for filter in ["a", "b", "c", "$share/g/c", "a"] {
        filters.push(filter).unwrap();
    }
    let packet =
        Unsubscribe { packet_id: id(9), properties: Properties::EMPTY, filters: filters.as_filters() };
    bench.send(alice, &Packet::Unsubscribe(packet));
    assert_eq!(bench.lines(alice), ["UNSUBACK [00, 11, 11, 00, 11] #9"]);
    for version in OLD {
        let old = bench.connect(version, "old");
        bench.unsubscribe(old, "never");
        assert_eq!(bench.lines(old), ["UNSUBACK [] #778"]);
    }
}

#[test]
fn nothing_new_is_delivered_after_unsuback() {
    // [MQTT-3.10.4-1], [MQTT-3.10.4-2], [MQTT-3.10.4-3]
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut bench = Bench::new();
        let alice = bench.connect(version, "alice");
        bench.subscribe(alice, "a/+", Q1);
        bench.subscribe(alice, "a/b/#", Q1);
        bench.publish(alice, "a/b", "1", Q1);
        bench.unsubscribe(alice, "a/+");
        bench.handshake(alice);
        bench.publish(alice, "a/c", "2", Q0);
        bench.publish(alice, "a/b", "3", Q0);
        assert_eq!(bench.messages(alice), ["a/b: 3"], "the other subscription is left");
        bench.unsubscribe(alice, "a/b/#");
        bench.output(alice);
        bench.publish(alice, "a/b", "4", Q0);
        assert!(bench.output(alice).is_empty());
    }
}

#[test]
fn what_was_in_flight_is_completed_after_unsubscribe() {
    // [MQTT-3.10.4-3]
    let mut bench = Bench::new();
    let kept = Connect { clean_start: false, ..connect(Version::V311, "alice") };
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect_with(&kept).0;
    bench.subscribe(alice, "t", Q1);
    bench.publish(bob, "t", "m", Q1);
    bench.unsubscribe(alice, "t");
    bench.output(alice);
    bench.cut(alice);
    let alice = bench.connect_with(&kept).0;
    assert_eq!(bench.lines(alice), ["PUBLISH q1 #1 dup t: m"]);
}

#[test]
fn a_shared_subscription_gets_each_message_once() {
    // [MQTT-4.8.2-4]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let members: Vec<_> = (0..3).map(|n| bench.connect(Version::V5, &format!("m{n}"))).collect();
    for member in &members {
        bench.subscribe(*member, "$share/g/t/+", Q1);
    }
    let other = bench.connect(Version::V5, "other");
    bench.subscribe(other, "$share/h/t/+", Q1);
    let plain = bench.connect(Version::V311, "plain");
    bench.subscribe(plain, "t/+", Q0);
    for n in 0..30 {
        bench.publish(bob, "t/1", &n.to_string(), Q1);
    }
    let got: Vec<_> = members.iter().map(|member| bench.handshake(*member)).collect();
    assert!(got.iter().all(|got| got.len() == 10), "{got:?}");
    let mut all: Vec<_> = got.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 30);
    assert_eq!(bench.handshake(other).len(), 30, "another group");
    assert_eq!(bench.messages(plain).len(), 30);
}

#[test]
fn a_shared_subscription_prefers_who_is_connected() {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let kept = Connect { clean_start: false, ..connect(Version::V311, "away") };
    let away = bench.connect_with(&kept).0;
    bench.subscribe(away, "$share/g/t", Q1);
    let here = bench.connect(Version::V5, "here");
    bench.subscribe(here, "$share/g/t", Q1);
    bench.cut(away);
    for n in 0..5 {
        bench.publish(bob, "t", &n.to_string(), Q1);
    }
    assert_eq!(bench.handshake(here).len(), 5);
    // With nobody connected, a session keeps them.
    bench.cut(here);
    bench.publish(bob, "t", "kept", Q1);
    let away = bench.connect_with(&kept).0;
    assert_eq!(bench.handshake(away), ["t: kept"]);
}

#[test]
fn who_left_a_shared_subscription_gets_nothing() {
    // [MQTT-3.10.4-1]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let (a, b) = (bench.connect(Version::V5, "a"), bench.connect(Version::V5, "b"));
    for id in [a, b] {
        bench.subscribe(id, "$share/g/t", Q0);
    }
    bench.unsubscribe(a, "$share/g/t");
    bench.output(a);
    for n in 0..4 {
        bench.publish(bob, "t", &n.to_string(), Q0);
    }
    assert_eq!(bench.messages(b).len(), 4);
    bench.cut(b);
    bench.publish(bob, "t", "m", Q1);
    assert_eq!(bench.lines(bob), ["PUBACK 10 #1"], "the group is gone");
    assert!(bench.output(a).is_empty());
}

#[test]
fn a_shared_message_comes_with_the_options_of_the_member_that_gets_it() {
    // [MQTT-4.8.2-3]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let (a, b) = (bench.connect(Version::V5, "a"), bench.connect(Version::V5, "b"));
    bench.subscribe_with(a, "$share/g/t", options(Q0), &identifier(1));
    bench.subscribe_with(b, "$share/g/t", options(Q1), &identifier(2));
    for _ in 0..2 {
        bench.publish(bob, "t", "m", Q1);
    }
    assert_eq!(bench.lines(a), ["PUBLISH q0 t: m [SubscriptionIdentifier(1)]"]);
    assert_eq!(bench.lines(b), ["PUBLISH q1 #1 t: m [SubscriptionIdentifier(2)]"]);
}

#[test]
fn subscriptions_survive_with_their_session() {
    // [MQTT-3.1.2-5]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let kept = Connect { clean_start: false, ..connect(Version::V311, "alice") };
    let alice = bench.connect_with(&kept).0;
    bench.subscribe(alice, "a/#", Q1);
    bench.leave(alice);
    let alice = bench.connect_with(&kept).0;
    bench.publish(bob, "a", "m", Q1);
    assert_eq!(bench.handshake(alice), ["a: m"]);
}

#[test]
fn a_violation_is_told_to_the_program_with_its_clause() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V311, "alice");
    bench.subscribe_all(alice, &[("a/#/b", options(Q0))]);
    let violated = bench.notices.iter().find_map(|notice| match notice {
        Notice::Violated { connection, violation, .. } => Some((*connection, violation.clause.0)),
        _ => None,
    });
    assert_eq!(violated, Some((alice, "MQTT-4.7.1-1")));
    assert_eq!(bench.broker.stats().violations, 1);
}
