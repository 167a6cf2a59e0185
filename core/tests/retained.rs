//! Retained messages.
#![cfg(feature = "testing")]

use culex_core::middleware::Stack;
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, What};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

fn handling(qos: QoS, retain_handling: RetainHandling) -> SubscriptionOptions {
    SubscriptionOptions { retain_handling, ..SubscriptionOptions::new(qos) }
}

#[test]
fn the_last_retained_message_of_a_topic_meets_every_new_subscription() {
    // [MQTT-3.3.1-5], [MQTT-3.3.1-8]
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut bench = Bench::new();
        let bob = bench.connect(version, "bob");
        for payload in ["1", "2"] {
            bench.send(bob, &retained("a/b", payload, Q1));
        }
        bench.publish(bob, "a/b", "passing", Q1);
        let alice = bench.connect(version, "alice");
        bench.subscribe(alice, "a/+", Q1);
        assert_eq!(bench.lines(alice), ["PUBLISH q1 #1 retain a/b: 2"]);
    }
}

#[test]
fn an_empty_payload_removes_the_retained_message_and_is_passed_on() {
    // [MQTT-3.3.1-6], [MQTT-3.3.1-7]
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut bench = Bench::new();
        let bob = bench.connect(version, "bob");
        let before = bench.connect(version, "before");
        bench.subscribe(before, "t", Q0);
        bench.send(bob, &retained("t", "1", Q0));
        bench.send(bob, &retained("t", "", Q0));
        assert_eq!(bench.lines(before), ["PUBLISH q0 t: 1", "PUBLISH q0 t: "]);
        let after = bench.connect(version, "after");
        bench.subscribe(after, "t", Q0);
        assert!(bench.lines(after).is_empty());
    }
}

#[test]
fn what_is_retained_survives_its_publisher() {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    bench.send(bob, &retained("t", "1", Q0));
    bench.leave(bob);
    assert_eq!(bench.broker.sessions(), 0);
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "#", Q0);
    assert_eq!(bench.messages(alice), ["t: 1"]);
}

#[test]
fn retain_handling_0_sends_at_every_subscribe() {
    // [MQTT-3.3.1-9]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.send(alice, &retained("t", "1", Q0));
    for _ in 0..2 {
        bench.subscribe_with(alice, "t", handling(Q0, RetainHandling::Send), &PropertiesBuf::new());
        assert_eq!(bench.lines(alice), ["PUBLISH q0 retain t: 1"]);
    }
}

#[test]
fn retain_handling_1_sends_when_the_subscription_is_new() {
    // [MQTT-3.3.1-10]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.send(alice, &retained("t", "1", Q0));
    for _ in 0..2 {
        bench.subscribe_with(alice, "t", handling(Q0, RetainHandling::SendIfNew), &PropertiesBuf::new());
        assert_eq!(bench.lines(alice), ["PUBLISH q0 retain t: 1"]);
        bench.subscribe_with(alice, "t", handling(Q1, RetainHandling::SendIfNew), &PropertiesBuf::new());
        assert!(bench.lines(alice).is_empty());
        bench.unsubscribe(alice, "t");
        bench.output(alice);
    }
}

#[test]
fn retain_handling_2_sends_nothing_at_subscribe() {
    // [MQTT-3.3.1-11]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.send(alice, &retained("t", "1", Q0));
    bench.subscribe_with(alice, "t", handling(Q0, RetainHandling::Never), &PropertiesBuf::new());
    bench.send(alice, &retained("t", "2", Q0));
    assert_eq!(bench.lines(alice), ["PUBLISH q0 t: 2"]);
}

#[test]
fn retain_as_published_keeps_the_flag_of_what_is_passed_on() {
    // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    for (retain_as_published, expected) in [(false, "PUBLISH q0 t: 1"), (true, "PUBLISH q0 retain t: 1")] {
        let alice = bench.connect(Version::V5, "alice");
        let options = SubscriptionOptions { retain_as_published, ..handling(Q0, RetainHandling::Never) };
        bench.subscribe_with(alice, "t", options, &PropertiesBuf::new());
        bench.send(bob, &retained("t", "1", Q0));
        bench.publish(bob, "t", "2", Q0);
        assert_eq!(bench.lines(alice), [expected, "PUBLISH q0 t: 2"]);
    }
}

#[test]
fn a_retained_message_comes_with_the_lower_qos() {
    // [MQTT-3.8.4-8]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V311, "bob");
    for published in [Q0, Q1, Q2] {
        bench.send(bob, &retained("t", "1", published));
        bench.handshake(bob);
        for subscribed in [Q0, Q1, Q2] {
            let alice = bench.connect(Version::V311, "alice");
            bench.subscribe(alice, "t", subscribed);
            let lines = bench.lines(alice);
            assert!(
                lines[0].starts_with(&format!("PUBLISH q{}", published.min(subscribed) as u8)),
                "{lines:?}"
            );
        }
    }
}

#[test]
fn suback_comes_before_the_retained_messages_it_leads_to() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V311, "alice");
    bench.send(alice, &retained("a", "1", Q0));
    bench.send(alice, &retained("b", "2", Q0));
    let options = SubscriptionOptions::new(Q0);
    bench.subscribe_all(alice, &[("a", options), ("b", options)]);
    assert_eq!(
        bench.lines(alice),
        ["SUBACK [00, 00] #777", "PUBLISH q0 retain a: 1", "PUBLISH q0 retain b: 2"]
    );
}

#[test]
fn a_retained_message_expires_and_says_how_long_it_still_lives() {
    // [MQTT-3.3.2-5], [MQTT-3.3.2-6]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let list = properties(&[Property::MessageExpiryInterval(10)]);
    let packet = Publish { properties: list, retain: true, ..publish("t", "1", Q0) };
    bench.send(bob, &Packet::Publish(packet));
    bench.pass_ms(4_000);
    let early = bench.connect(Version::V5, "early");
    bench.subscribe(early, "t", Q0);
    assert_eq!(bench.lines(early), ["PUBLISH q0 retain t: 1 [MessageExpiryInterval(6)]"]);
    bench.pass_ms(6_000);
    let late = bench.connect(Version::V5, "late");
    bench.subscribe(late, "t", Q0);
    assert!(bench.lines(late).is_empty());
}

#[test]
fn shared_subscriptions_get_no_retained_messages() {
    // Section 4.8.2
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.send(alice, &retained("t", "1", Q0));
    bench.subscribe(alice, "$share/g/t", Q0);
    assert!(bench.lines(alice).is_empty());
}

#[test]
fn retained_messages_carry_the_subscription_identifier_and_their_properties() {
    // [MQTT-3.3.4-3]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    let list = properties(&[Property::UserProperty("k", "v")]);
    bench.send(alice, &Packet::Publish(Publish { properties: list, retain: true, ..publish("t", "1", Q0) }));
    let mut identifier = PropertiesBuf::new();
    identifier.push(Property::SubscriptionIdentifier(7.try_into().unwrap()));
    bench.subscribe_with(alice, "t", SubscriptionOptions::new(Q0), &identifier);
    let expected = "PUBLISH q0 retain t: 1 [SubscriptionIdentifier(7), UserProperty(\"k\", \"v\")]";
    assert_eq!(bench.lines(alice), [expected]);
}

#[test]
fn wildcards_do_not_match_retained_topics_that_begin_with_a_dollar() {
    // [MQTT-4.7.2-1]
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.send(alice, &retained("$SYS/x", "1", Q0));
    for (filter, count) in [("#", 0), ("+/x", 0), ("$SYS/#", 1), ("$SYS/+", 1)] {
        bench.subscribe(alice, filter, Q0);
        assert_eq!(bench.messages(alice).len(), count, "{filter}");
    }
}

fn small(in_flight_max: u16, queue_messages_max: u32) -> Bench {
    let config = Config { in_flight_max, queue_messages_max, ..Config::default() };
    Bench::with(config, Stack::standard())
}

fn retain_many(bench: &mut Bench, count: usize, payload: &str) -> Vec<String> {
    let bob = bench.connect(Version::V5, "bob");
    let topics: Vec<_> = (0..count).map(|n| format!("r/{n:04}")).collect();
    for topic in &topics {
        bench.send(bob, &retained(topic, payload, Q1));
    }
    bench.output(bob);
    topics.iter().map(|topic| format!("{topic}: {payload}")).collect()
}

#[test]
fn no_limit_of_a_queue_truncates_what_is_retained() {
    for qos in [Q0, Q1, Q2] {
        let mut bench = small(3, 5);
        let all = retain_many(&mut bench, 500, "m");
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, "r/#", qos);
        assert_eq!(bench.handshake(alice), all);
        assert_eq!(bench.broker.stats().dropped_queue_full, 0);
    }
}

#[test]
fn retained_messages_come_no_faster_than_the_client_takes_them() {
    // [MQTT-3.3.4-9]
    let mut bench = small(1_000, 1_000);
    retain_many(&mut bench, 50, "m");
    let two = properties(&[Property::ReceiveMaximum(2.try_into().unwrap())]);
    let alice = bench.connect_with(&Connect { properties: two, ..connect(Version::V5, "alice") }).0;
    bench.subscribe(alice, "r/#", Q1);
    assert_eq!(bench.messages(alice).len(), 2);
    bench.acknowledge(alice, PacketType::Puback, 1);
    assert_eq!(bench.messages(alice), ["r/0002: m"]);
}

#[test]
fn no_limit_of_an_outbox_truncates_what_is_retained() {
    for qos in [Q0, Q1] {
        let config = Config { outbox_bytes_max: 300, ..Config::default() };
        let mut bench = Bench::with(config, Stack::standard());
        let all = retain_many(&mut bench, 400, &"x".repeat(100));
        let alice = bench.connect(Version::V5, "alice");
        bench.clog(alice, true);
        // SUBACK cannot be read while the socket is full.
        bench.subscribe_all(alice, &[("r/#", SubscriptionOptions::new(qos))]);
        bench.clog(alice, false);
        assert_eq!(bench.handshake(alice), all);
        assert_eq!(bench.broker.stats().dropped_slow, 0);
    }
}

#[test]
fn a_resumed_session_gets_the_rest_of_what_is_retained() {
    let mut bench = small(3, 5);
    let all = retain_many(&mut bench, 300, "m");
    let persistent = Connect { clean_start: false, ..connect(Version::V311, "alice") };
    let alice = bench.connect_with(&persistent).0;
    bench.subscribe(alice, "r/#", Q1);
    let mut got = bench.messages(alice);
    for packet_id in 1..=3 {
        bench.acknowledge(alice, PacketType::Puback, packet_id);
    }
    got.extend(bench.messages(alice));
    for packet_id in 4..=6 {
        bench.acknowledge(alice, PacketType::Puback, packet_id);
    }
    bench.output(alice);
    bench.cut(alice);
    let alice = bench.connect_with(&persistent).0;
    got.extend(bench.handshake(alice));
    assert_eq!(got, all);
}

#[test]
fn what_is_published_meanwhile_is_delivered_too() {
    let mut bench = small(3, 5);
    let all = retain_many(&mut bench, 300, "m");
    let bob = bench.connect(Version::V5, "bob");
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "#", Q1);
    bench.publish(bob, "live", "1", Q1);
    bench.publish(bob, "live", "2", Q1);
    let got = bench.handshake(alice);
    let live: Vec<_> = got.iter().filter(|message| message.starts_with("live")).collect();
    assert_eq!(live, ["live: 1", "live: 2"]);
    let retained: Vec<_> = got.iter().filter(|message| !message.starts_with("live")).cloned().collect();
    assert_eq!(retained, all);
}

#[test]
fn unsubscribe_ends_the_delivery_of_what_is_retained() {
    // [MQTT-3.10.4-2]
    let mut bench = small(3, 5);
    retain_many(&mut bench, 300, "m");
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "r/#", Q1);
    bench.unsubscribe(alice, "r/#");
    assert!(bench.handshake(alice).len() < 10, "only what was on its way");
}

#[test]
fn what_a_subscription_was_promised_comes_when_another_replaces_it() {
    // [MQTT-3.8.4-4]: nothing is lost. [MQTT-3.8.4-8]: with the QoS that was granted for it.
    let mut bench = small(3, 5);
    let all = retain_many(&mut bench, 100, "m");
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "r/#", Q1);
    let mut got = bench.messages(alice);
    bench.subscribe_all(alice, &[("r/#", handling(Q0, RetainHandling::Never))]);
    for packet_id in 1..=3 {
        bench.acknowledge(alice, PacketType::Puback, packet_id);
    }
    got.extend(bench.handshake(alice));
    assert_eq!(got, all);
}

#[test]
fn several_subscriptions_get_all_that_is_retained_for_each() {
    let mut bench = small(3, 5);
    let all = retain_many(&mut bench, 300, "m");
    let alice = bench.connect(Version::V5, "alice");
    let options = SubscriptionOptions::new(Q2);
    bench.subscribe_all(alice, &[("r/#", options), ("r/+", options)]);
    let got = bench.handshake(alice);
    assert_eq!(got.len(), 600);
    assert_eq!((&got[..300], &got[300..]), (&all[..], &all[..]));
}

#[test]
fn a_program_gets_all_that_is_retained() {
    let mut bench = Bench::new();
    let all = retain_many(&mut bench, 300, "m");
    let program = bench.broker.subscribe(bench.now, "r/#").unwrap();
    bench.drain();
    let got: Vec<_> =
        bench.forwards.iter().filter(|forward| forward.receivers[0].session == program).collect();
    assert!(got.iter().all(|forward| matches!(forward.what, What::Kept(_)) && forward.receivers[0].retain));
    assert_eq!(got.len(), all.len());
    bench.broker.unsubscribe(bench.now, program);
    bench.drain();
    assert_eq!(bench.broker.sessions(), 1);
}

#[test]
fn a_message_that_cannot_be_retained_leaves_no_older_one_behind() {
    // [MQTT-3.3.1-5]: the retained message is the last one, or none.
    let config = Config { retained_messages_max: 2, retained_bytes_max: 300, ..Config::default() };
    let mut bench = Bench::with(config, Stack::standard());
    let bob = bench.connect(Version::V5, "bob");
    for topic in ["a", "b", "c"] {
        bench.send(bob, &retained(topic, "1", Q0));
    }
    assert_eq!(bench.broker.stats().dropped_retained_full, 1);
    bench.send(bob, &retained("b", &"x".repeat(400), Q0));
    assert_eq!(bench.broker.stats().dropped_retained_full, 2);
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "#", Q0);
    assert_eq!(bench.messages(alice), ["a: 1"]);
}

#[test]
fn without_retained_messages_a_client_is_told_and_3_x_is_served_as_if_it_had_not_asked() {
    // [MQTT-3.2.2-14]
    let mut bench = Bench::with(Config { retain_available: false, ..Config::default() }, Stack::standard());
    let alice = bench.connect(Version::V311, "alice");
    bench.subscribe(alice, "t", Q0);
    let old = bench.connect(Version::V311, "old");
    bench.send(old, &retained("t", "1", Q1));
    assert_eq!(bench.lines(old), ["PUBACK 00 #1"]);
    assert_eq!(bench.messages(alice), ["t: 1"]);
    bench.subscribe(alice, "t", Q0);
    assert!(bench.messages(alice).is_empty());
    let new = bench.connect(Version::V5, "new");
    bench.send(new, &retained("t", "1", Q1));
    assert_eq!(bench.lines(new), ["DISCONNECT 9A"]);
}

#[test]
fn the_memory_of_expired_messages_comes_back_without_anybody_asking() {
    // [MQTT-3.3.2-5]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let properties = properties(&[Property::MessageExpiryInterval(90)]);
    let packet = Publish { retain: true, properties, ..publish("t", "m", QoS::AtMostOnce) };
    bench.send(bob, &Packet::Publish(packet));
    // The sweep goes on for as long as something may expire, and no longer.
    bench.pass_ms(61_000);
    assert!(bench.broker.deadline().is_some());
    bench.pass_ms(61_000);
    assert_eq!(bench.broker.deadline(), None);
}
