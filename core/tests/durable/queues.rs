//! Queues: what is dropped, what expires, and what a log becomes.

use crate::machine::*;
use culex_core::config::Overflow;
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, LogSeq, Record, Stack};

const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

#[test]
fn what_a_full_queue_drops_is_dropped_after_a_crash_too() {
    for (overflow, expected) in
        [(Overflow::DropOldest, ["t: 3", "t: 4"]), (Overflow::DropNewest, ["t: 1", "t: 2"])]
    {
        let config = Config { queue_messages_max: 2, queue_overflow: overflow, ..Config::default() };
        let mut machine = Machine::with(config);
        let alice = machine.subscriber("alice", "t", Q2);
        machine.cut(alice);
        for n in 1..=4 {
            machine.broker_publish("t", n);
        }
        machine.commit();
        for mut after in machine.crashes() {
            assert_eq!(after.waiting("alice"), expected);
        }
    }
}

#[test]
fn limits_that_became_tighter_drop_nothing_that_was_stored() {
    let mut machine = Machine::new();
    let alice = machine.subscriber("alice", "t", Q1);
    machine.cut(alice);
    for n in 1..=3 {
        machine.broker_publish("t", n);
    }
    let bob = machine.connect(Version::V5, "bob");
    for topic in ["r/1", "r/2"] {
        machine.send(bob, &retained(topic, "m", Q1));
    }
    machine.commit();
    let tight = Config { queue_messages_max: 1, retained_messages_max: 1, ..Config::default() };
    let mut after = machine.crash_into(tight);
    assert_eq!(after.waiting("alice"), ["t: 1", "t: 2", "t: 3"]);
    assert_eq!([after.retained("r/1"), after.retained("r/2")], ["m", "m"]);
}

#[test]
fn a_client_that_is_disconnected_for_its_full_queue_keeps_what_was_queued() {
    let config = Config {
        queue_messages_max: 1,
        in_flight_max: 1,
        queue_overflow: Overflow::Disconnect,
        ..Config::default()
    };
    let mut machine = Machine::with(config);
    let alice = machine.subscriber("alice", "t", Q1);
    for n in 1..=3 {
        machine.broker_publish("t", n);
    }
    assert!(machine.closed(alice));
    machine.commit();
    for mut after in machine.crashes() {
        assert_eq!(after.waiting("alice"), ["t: 1", "t: 2"]);
    }
}

#[test]
fn messages_expire_in_the_queue_while_the_machine_is_down() {
    // [MQTT-3.3.2-5]
    let mut machine = Machine::new();
    let alice = machine.subscriber("alice", "t", Q1);
    machine.cut(alice);
    let bob = machine.connect(Version::V5, "bob");
    for (n, seconds) in [(1, 10), (2, 100)] {
        let properties = properties(&[Property::MessageExpiryInterval(seconds)]);
        let publish = publish("t", if n == 1 { "short" } else { "long" }, Q1);
        machine.send(bob, &Packet::Publish(Publish { packet_id: Some(id(n)), properties, ..publish }));
    }
    machine.commit();
    assert_eq!(machine.crash_at(machine.stored(), 9_000).waiting("alice"), ["t: short", "t: long"]);
    let mut after = machine.crash_at(machine.stored(), 11_000);
    assert_eq!(after.waiting("alice"), ["t: long"]);
    for mut again in after.crashes() {
        assert!(again.waiting("alice").is_empty());
    }
}

#[test]
fn a_message_that_expired_between_others_is_the_one_that_is_gone() {
    let mut machine = Machine::new();
    let alice = machine.subscriber("alice", "t", Q1);
    machine.cut(alice);
    let bob = machine.connect(Version::V5, "bob");
    for (n, seconds) in [(1, 100), (2, 10), (3, 100)] {
        let properties = properties(&[Property::MessageExpiryInterval(seconds)]);
        let payload = n.to_string();
        let publish = publish("t", &payload, Q1);
        machine.send(bob, &Packet::Publish(Publish { packet_id: Some(id(n)), properties, ..publish }));
    }
    machine.pass_ms(11_000);
    machine.come(&lasting("alice"));
    for mut after in machine.crashes() {
        assert_eq!(after.waiting("alice"), ["t: 1", "t: 3"]);
    }
}

#[test]
fn who_is_disconnected_for_its_full_queue_does_not_come_between_other_receivers() {
    let config = Config {
        queue_messages_max: 2,
        in_flight_max: 1,
        queue_overflow: Overflow::Disconnect,
        ..Config::default()
    };
    let mut machine = Machine::with(config);
    // Its end leads to a relay of its own.
    let (full, _) = machine.come(&mortal("full", 1_000, 0));
    machine.subscribe_all(full, &[("t", SubscriptionOptions::new(Q1))]);
    for n in 1..=3 {
        machine.broker_publish("t", n);
    }
    let other = machine.subscriber("other", "+", Q2);
    machine.cut(other);
    let (bob, _) = machine.come(&lasting("bob"));
    machine.publish_as(bob, 7, "t", "m", Q2);
    machine.commit_to(machine.stored());
    assert!(machine.closed(full));
    for mut after in machine.crashes() {
        let (bob, _) = after.come(&lasting("bob"));
        let again = Publish { dup: true, packet_id: Some(id(7)), ..publish("t", "m", Q2) };
        after.send(bob, &Packet::Publish(again));
        after.commit();
        let got = after.waiting("other");
        assert_eq!(got.iter().filter(|message| *message == "t: m").count(), 1, "{got:?}");
    }
}

#[test]
fn a_shared_message_goes_to_one_member_over_a_crash() {
    let mut machine = Machine::new();
    for name in ["one", "two"] {
        machine.subscriber(name, "$share/s/t", Q2);
    }
    for n in 1..=4 {
        machine.broker_publish("t", n);
    }
    machine.commit();
    for mut after in machine.crashes() {
        let mut got = [after.waiting("one"), after.waiting("two")].concat();
        got.sort();
        assert_eq!(got, ["t: 1", "t: 2", "t: 3", "t: 4"]);
    }
}

#[test]
fn a_session_that_ends_takes_its_queue_along() {
    let mut machine = Machine::new();
    let (alice, _) = machine.come(&expiring("alice", 10));
    machine.subscribe_all(alice, &[("t", SubscriptionOptions::new(Q1))]);
    machine.cut(alice);
    machine.broker_publish("t", 1);
    machine.pass_ms(11_000);
    machine.commit();
    for mut after in machine.crashes() {
        let (alice, present) = after.come(&lasting("alice"));
        assert!(!present && after.everything(alice).is_empty());
    }
}

#[test]
fn few_records_say_what_a_long_log_does() {
    let mut machine = Machine::new();
    let alice = machine.subscriber("alice", "t", Q2);
    let bob = machine.connect(Version::V5, "bob");
    for n in 1..=50u16 {
        machine.publish_as(bob, n, "t", &n.to_string(), Q2);
        machine.commit();
        machine.acknowledge(bob, PacketType::Pubrel, n);
        if n < 48 {
            machine.everything(alice);
        }
    }
    machine.commit();
    let long = machine.stored();
    let few = machine.broker.records();
    assert!(few.len() < 8 && long > 100, "{} instead of {long}: {few:?}", few.len());
    let through = LogSeq(long as u64);
    let mut bench = Bench::at(Config::default(), Stack::durable(), machine.now.plus_ms(1));
    bench.broker.restore_through(through, few).unwrap();
    bench.drain();
    // The next position is the one behind.
    assert_eq!(bench.stores[0].0, LogSeq(long as u64 + 1));
    assert!(matches!(bench.stores[0].1, Record::Session { .. }));
    let through = bench.stores.last().unwrap().0;
    bench.broker.committed(bench.now, through);
    let again = bench.try_connect(&lasting("alice"));
    let through = bench.stores.last().unwrap().0;
    bench.broker.committed(bench.now, through);
    bench.drain();
    let lines = bench.lines(again);
    let sent: Vec<_> = lines[1..].iter().map(|line| line.split_once(" t: ").unwrap().1).collect();
    assert_eq!(sent, ["48", "49", "50"]);
}

#[test]
fn the_machine_that_keeps_no_log_stores_nothing() {
    let mut bench = Bench::new();
    let (alice, _) = bench.connect_with(&lasting("alice"));
    bench.subscribe(alice, "t", Q2);
    let bob = bench.connect(Version::V5, "bob");
    bench.send(bob, &retained("t", "m", Q2));
    bench.handshake(bob);
    assert_eq!(bench.handshake(alice), ["t: m"]);
    assert!(bench.stores.is_empty() && bench.stray.is_empty());
    assert!(bench.broker.records().iter().all(|record| matches!(record, Record::Retained(_))));
}
