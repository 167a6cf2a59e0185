//! What the simulator found: each story as short as it became, with the promise that was broken.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use culex_core::middleware::{Authorize, Permission, Wanted};
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Answer, Config, ConnectionId, LogSeq, Stack};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

fn durable(config: Config) -> Bench {
    Bench::with(config, Stack::durable())
}

fn commit_through(bench: &mut Bench, through: LogSeq) {
    bench.broker.committed(bench.now, through);
    bench.drain();
}

fn last(bench: &Bench) -> LogSeq {
    bench.stores.last().map_or(LogSeq(0), |(seq, _)| *seq)
}

fn commit(bench: &mut Bench) {
    while bench.broker.stats().connections_accepted > 0 && !bench.stores.is_empty() {
        let through = last(bench);
        commit_through(bench, through);
        if last(bench) == through {
            return;
        }
    }
}

/// A client whose session lasts so many seconds, with its CONNACK.
fn client(bench: &mut Bench, client_id: &str, expiry_s: u32, clean_start: bool) -> ConnectionId {
    let properties = properties(&[Property::SessionExpiryInterval(expiry_s)]);
    let id = bench.try_connect(&Connect { clean_start, properties, ..connect(Version::V5, client_id) });
    commit(bench);
    assert!(bench.lines(id)[0].starts_with("CONNACK 00"), "{client_id}");
    id
}

fn asking() -> Bench {
    let ask = |_: &str, _: Option<&str>, _: Wanted<'_>| Permission::Ask;
    Bench::with(Config::default(), Stack::standard().replace("Authorize", Authorize::new(ask)).unwrap())
}

/// [MQTT-4.6.0-2], [MQTT-4.6.0-3]
#[test]
fn acknowledgements_keep_their_order_over_several_syncs() {
    let mut bench = durable(Config::default());
    let alice = client(&mut bench, "alice", 60, true);
    let send = |bench: &mut Bench, packet_id| {
        let publish = Publish { packet_id: Some(id(packet_id)), retain: true, ..publish("c", "x", Q2) };
        bench.send(alice, &Packet::Publish(publish));
    };
    (1..=3).for_each(|packet_id| send(&mut bench, packet_id));
    let first = last(&bench);
    // These come while the disk is busy with those.
    (4..=5).for_each(|packet_id| send(&mut bench, packet_id));
    let second = last(&bench);
    commit_through(&mut bench, first);
    // What the relays of the first stored is in one batch with what the second ones stored.
    assert!(last(&bench) > second);
    commit(&mut bench);
    let expected: Vec<String> = (1..=5).map(|packet_id| format!("PUBREC 10 #{packet_id}")).collect();
    assert_eq!(bench.lines(alice), expected);
}

/// [MQTT-4.5.0-1]
#[test]
fn a_message_waits_for_a_client_whose_connack_waits_for_the_disk() {
    let mut bench = durable(Config::default());
    let bob = client(&mut bench, "bob", 0, true);
    let alice = client(&mut bench, "alice", 60, true);
    bench.subscribe_all(alice, &[("t", SubscriptionOptions::new(Q1))]);
    commit(&mut bench);
    let properties = properties(&[Property::SessionExpiryInterval(0)]);
    let again = Connect { clean_start: false, properties, ..connect(Version::V5, "alice") };
    let again = bench.try_connect(&again);
    assert!(bench.lines(again).is_empty(), "CONNACK waits");
    bench.publish(bob, "t", "hello", Q1);
    commit(&mut bench);
    let lines = bench.lines(again);
    assert!(lines[0].starts_with("CONNACK 00 present"), "{lines:?}");
    assert_eq!(lines[1..], ["PUBLISH q1 #1 t: hello"]);
}

/// [MQTT-3.3.2-5]
#[test]
fn a_message_that_expired_while_somebody_was_asked_is_not_passed_on() {
    let mut bench = asking();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe_all(alice, &[("t", SubscriptionOptions::new(Q1))]);
    bench.answer(Answer::Allow);
    bench.output(alice);
    let properties = properties(&[Property::MessageExpiryInterval(1)]);
    bench.send(alice, &Packet::Publish(Publish { properties, ..publish("t", "late", Q1) }));
    bench.pass_ms(1_500);
    bench.answer(Answer::Allow);
    assert_eq!(bench.lines(alice), ["PUBACK 10 #1"]);
    assert_eq!(bench.broker.stats().dropped_expired, 1);
}

/// [MQTT-4.3.3-10]
#[test]
fn a_policy_is_not_asked_again_about_what_was_accepted() {
    let mut bench = asking();
    let alice = bench.connect(Version::V5, "alice");
    bench.publish_as(alice, 1, "t", "one", Q2);
    bench.answer(Answer::Allow);
    assert_eq!(bench.lines(alice), ["PUBREC 10 #1"]);
    // What is allowed is remembered, but just that: this is something else, which an earlier part may have made of it.
    let again = Publish { retain: true, dup: true, ..publish("t", "one", Q2) };
    bench.send(alice, &Packet::Publish(again));
    assert!(bench.asks.is_empty(), "{:?}", bench.asks);
    assert_eq!(bench.lines(alice), ["PUBREC 00 #1"]);
}

#[test]
fn what_is_allowed_without_retain_is_asked_for_with_it() {
    let mut bench = asking();
    let alice = bench.connect(Version::V5, "alice");
    bench.publish_as(alice, 1, "t", "one", Q1);
    bench.answer(Answer::Allow);
    bench.publish_as(alice, 2, "t", "two", Q1);
    assert_eq!(bench.lines(alice), ["PUBACK 10 #1", "PUBACK 10 #2"]);
    bench.send(alice, &retained("t", "three", Q1));
    bench.answer(Answer::Deny(ReasonCode::NotAuthorized));
    bench.publish_as(alice, 1, "t", "four", Q2);
    bench.answer(Answer::Deny(ReasonCode::NotAuthorized));
    assert_eq!(bench.lines(alice), ["PUBACK 87 #1", "PUBREC 87 #1"]);
}

/// [MQTT-4.3.3-4]
#[test]
fn a_refused_repetition_frees_its_identifier() {
    let mut bench = asking();
    let alice = bench.connect(Version::V5, "alice");
    bench.publish_as(alice, 1, "t", "one", Q2);
    bench.answer(Answer::Allow);
    // Without DUP it is no repetition for a policy.
    bench.send(alice, &retained("t", "one", Q2));
    bench.answer(Answer::Deny(ReasonCode::NotAuthorized));
    assert_eq!(bench.lines(alice), ["PUBREC 10 #1", "PUBREC 87 #1"]);
    bench.subscribe_all(alice, &[("t", SubscriptionOptions::new(Q0))]);
    bench.answer(Answer::Allow);
    bench.output(alice);
    bench.publish_as(alice, 1, "t", "two", Q2);
    assert_eq!(bench.lines(alice), ["PUBLISH q0 t: two", "PUBREC 00 #1"]);
}

/// [MQTT-4.3.1-1]
#[test]
fn a_message_that_may_have_been_passed_on_before_a_crash_is_not_sent_again_at_qos_0() {
    let mut bench = durable(Config { queue_qos0: true, ..Config::default() });
    let bob = client(&mut bench, "bob", 60, true);
    let alice = client(&mut bench, "alice", 60, true);
    let options = [("t", SubscriptionOptions::new(Q0)), ("u", SubscriptionOptions::new(Q1))];
    bench.subscribe_all(alice, &options);
    commit(&mut bench);
    bench.output(alice);
    bench.publish_as(bob, 1, "t", "at most once", Q2);
    bench.publish_as(bob, 2, "u", "at least once", Q2);
    let accepted = last(&bench);
    commit_through(&mut bench, accepted);
    assert_eq!(bench.messages(alice), ["t: at most once", "u: at least once"]);
    let log: Vec<_> =
        bench.stores.iter().filter(|(seq, _)| *seq <= accepted).map(|(_, r)| r.clone()).collect();
    let mut after = durable(Config { queue_qos0: true, ..Config::default() });
    after.broker.restore(log).unwrap();
    after.drain();
    let alice = client_again(&mut after);
    assert_eq!(after.messages(alice), ["u: at least once"]);
}

fn client_again(bench: &mut Bench) -> ConnectionId {
    client_again_for(bench, 60)
}

fn client_again_for(bench: &mut Bench, expiry_s: u32) -> ConnectionId {
    let properties = properties(&[Property::SessionExpiryInterval(expiry_s)]);
    let again = Connect { clean_start: false, properties, ..connect(Version::V5, "alice") };
    let again = bench.try_connect(&again);
    commit(bench);
    again
}

/// [MQTT-4.6.0-6]
#[test]
fn a_qos_0_message_does_not_overtake_those_that_waited_for_its_client() {
    for expiry_s in [60, 0] {
        let config = Config { queue_qos0: true, in_flight_max: 1, ..Config::default() };
        let mut bench = Bench::with(config, Stack::standard());
        let bob = bench.connect(Version::V5, "bob");
        let alice = client(&mut bench, "alice", 60, true);
        bench.subscribe(alice, "t", Q1);
        bench.cut(alice);
        bench.publish(bob, "t", "one", Q1);
        bench.publish(bob, "t", "two", Q1);
        bench.publish(bob, "t", "three", Q0);
        let alice = client_again_for(&mut bench, expiry_s);
        bench.publish(bob, "t", "four", Q0);
        assert_eq!(bench.handshake(alice), ["t: one", "t: two", "t: three", "t: four"]);
    }
}
