//! Sessions: whether they are there, and for how long.

use crate::machine::*;
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, Stack};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

#[test]
fn subscriptions_are_back_as_they_were() {
    let mut machine = Machine::new();
    let (alice, _) = machine.come(&lasting("alice"));
    let options =
        SubscriptionOptions { retain_as_published: true, no_local: true, ..SubscriptionOptions::new(Q1) };
    machine.subscribe_all(
        alice,
        &[("a", options), ("$share/s/b", SubscriptionOptions::new(Q1)), ("c", options)],
    );
    machine.unsubscribe(alice, "c");
    assert!(
        machine.lines(alice).iter().all(|line| !line.starts_with("SUBACK") && !line.starts_with("UNSUBACK"))
    );
    machine.commit();
    assert!(acknowledged(&mut machine, alice, "UNSUBACK"));
    for mut after in machine.crashes() {
        let bob = after.connect(Version::V5, "bob");
        for topic in ["a", "b", "c"] {
            after.send(bob, &retained(topic, "m", Q1));
        }
        let (alice, present) = after.come(&lasting("alice"));
        assert!(present);
        after.publish_as(alice, 1, "a", "its own", Q1);
        let lines = after.lines(alice);
        let got: Vec<_> = lines.iter().filter(|line| line.starts_with("PUBLISH")).collect();
        assert_eq!(got, ["PUBLISH q1 #1 retain a: m", "PUBLISH q1 #2 b: m"]);
    }
}

#[test]
fn a_session_that_ends_with_its_connection_stores_nothing_and_is_gone_after_a_crash() {
    let mut machine = Machine::new();
    let alice = machine.connect(Version::V5, "alice");
    machine.subscribe(alice, "t", Q2);
    let bob = machine.connect(Version::V311, "bob");
    for qos in [Q0, Q1, Q2] {
        machine.publish_as(bob, 1, "t", "m", qos);
    }
    machine.handshake(alice);
    machine.handshake(bob);
    assert_eq!(machine.stored(), 0);
    // One that had lasted, until it came back to end.
    machine.subscriber("carol", "t", Q1);
    machine.come(&expiring("carol", 0));
    for mut after in machine.crashes() {
        assert_eq!(after.broker.sessions(), 0);
        assert!(!after.come(&lasting("carol")).1);
    }
}

#[test]
fn session_present_tells_the_truth_after_a_crash() {
    // [MQTT-3.2.2-2], [MQTT-3.2.2-4]: who was told that it has no session must not find one.
    let mut machine = Machine::new();
    machine.subscriber("alice", "t", Q1);
    let clean = machine.try_connect(&Connect { clean_start: true, ..expiring("alice", 0) });
    assert!(machine.lines(clean).is_empty(), "CONNACK waits until the old session is over");
    machine.commit();
    assert!(welcomed(&mut machine, clean));
    for mut after in machine.crashes() {
        assert!(!after.come(&lasting("alice")).1);
    }
    // The same if it ended by itself.
    let mut machine = Machine::new();
    let alice = machine.subscriber("alice", "t", Q1);
    machine.send(alice, &disconnect(ReasonCode::Success, &[Property::SessionExpiryInterval(0)]));
    let again = machine.try_connect(&expiring("alice", 0));
    assert!(machine.lines(again).is_empty());
    let other = machine.try_connect(&expiring("other", 0));
    assert!(welcomed(&mut machine, other), "that is nothing to others");
    machine.commit();
    assert!(welcomed(&mut machine, again));
    for mut after in machine.crashes() {
        assert!(!after.come(&lasting("alice")).1);
    }
}

#[test]
fn clean_start_ends_what_was_not_yet_durable_either() {
    let mut machine = Machine::new();
    let alice = machine.subscriber("alice", "t", Q2);
    let bob = machine.connect(Version::V5, "bob");
    machine.publish_as(bob, 1, "t", "old", Q2);
    machine.subscribe_all(alice, &[("u", SubscriptionOptions::new(Q2))]);
    let again = machine.try_connect(&Connect { clean_start: true, ..lasting("alice") });
    machine.commit();
    assert!(welcomed(&mut machine, again));
    for mut after in machine.crashes() {
        for (n, topic) in ["t", "u"].into_iter().enumerate() {
            after.broker_publish(topic, n);
        }
        assert!(after.waiting("alice").is_empty());
    }
}

#[test]
fn a_takeover_loses_nothing_that_was_acknowledged_at_whatever_gate_it_waits() {
    for commits in 0..8 {
        let mut machine = Machine::new();
        machine.subscriber("alice", "t", Q2);
        let bob = machine.connect(Version::V5, "bob");
        machine.publish_as(bob, 1, "t", "one", Q2);
        machine.publish_as(bob, 2, "t", "two", Q1);
        for _ in 0..commits {
            machine.commit_to((machine.committed + 1).min(machine.stored()));
        }
        let alice = machine.try_connect(&lasting("alice"));
        machine.publish_as(bob, 3, "t", "three", Q2);
        let mut got = machine.everything(alice);
        got.sort();
        assert_eq!(got, ["t: one", "t: three", "t: two"], "after {commits} records");
        for mut after in machine.crashes() {
            assert!(after.waiting("alice").is_empty());
        }
    }
}

#[test]
fn expiry_goes_on_counting_while_the_machine_is_down() {
    let mut machine = Machine::new();
    let (away, _) = machine.come(&expiring("away", 60));
    machine.come(&expiring("here", 60));
    machine.cut(away);
    machine.commit();
    machine.pass_ms(10_000);
    let log = machine.stored();
    let mut after = machine.crash_at(log, 30_000);
    assert_eq!(after.broker.sessions(), 2);
    after.pass_ms(19_000);
    assert_eq!(after.broker.sessions(), 2, "40 seconds before the crash was over, 59 now");
    after.pass_ms(2_000);
    assert_eq!(after.broker.sessions(), 1);
    // Who was connected left with the crash.
    after.pass_ms(38_000);
    assert_eq!(after.broker.sessions(), 1);
    after.pass_ms(2_000);
    assert_eq!(after.broker.sessions(), 0);
    // Too late for both, or not for who was here.
    let mut after = machine.crash_at(log, 500_000);
    assert!(!after.come(&expiring("away", 60)).1);
    assert!(after.come(&expiring("here", 60)).1);
    // A second crash goes on counting from the first.
    let mut after = machine.crash_at(log, 1).crash_after(59_000);
    assert!(after.come(&expiring("here", 60)).1);
    let mut after = machine.crash_at(log, 1).crash_after(61_000);
    assert!(!after.come(&expiring("here", 60)).1);
}

#[test]
fn a_clock_that_was_set_back_makes_no_session_live_longer() {
    let mut machine = Machine::new();
    let (away, _) = machine.come(&expiring("away", 60));
    machine.pass_ms(1_000_000);
    machine.cut(away);
    machine.commit();
    let mut bench = Bench::with(Config::default(), Stack::durable());
    bench.broker.restore(machine.log()).unwrap();
    bench.pass_ms(61_000);
    assert_eq!(bench.broker.sessions(), 0);
}

#[test]
fn disconnect_changes_how_long_a_session_lasts() {
    let mut machine = Machine::new();
    let (alice, _) = machine.come(&expiring("alice", 60));
    machine.send(alice, &disconnect(ReasonCode::Success, &[Property::SessionExpiryInterval(10)]));
    machine.commit();
    assert_eq!(machine.crash_at(machine.stored(), 9_000).broker.sessions(), 1);
    assert_eq!(machine.crash_at(machine.stored(), 11_000).broker.sessions(), 0);
    let (alice, _) = machine.come(&expiring("alice", 60));
    machine.send(alice, &disconnect(ReasonCode::Success, &[Property::SessionExpiryInterval(0)]));
    machine.commit();
    assert_eq!(machine.crash_at(machine.stored(), 1).broker.sessions(), 0);
}
