//! What happens when records cannot be made durable.

use crate::machine::*;
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, LogSeq};

const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

fn fail(machine: &mut Machine) {
    let from = LogSeq(machine.committed as u64 + 1);
    machine.bench.broker.commit_failed(machine.bench.now, from);
    machine.bench.drain();
}

#[test]
fn who_waits_for_a_record_that_will_never_be_durable_is_told() {
    let mut machine = Machine::new();
    let alice = machine.subscriber("alice", "t", Q2);
    let carol = machine.subscriber("carol", "u", Q2);
    machine.broker_publish("u", 1);
    machine.broker_publish_as("u", Q2);
    machine.commit();
    // A PUBLISH to alice and a PUBREL to carol wait.
    assert_eq!(machine.lines(carol).len(), 2);
    machine.acknowledge(carol, PacketType::Pubrec, 2);
    machine.broker_publish_as("t", Q2);
    assert!(machine.lines(alice).is_empty() && machine.lines(carol).is_empty());
    fail(&mut machine);
    for id in [alice, carol] {
        assert_eq!(machine.lines(id), ["DISCONNECT 80"]);
        assert!(machine.closed(id));
    }
    // Nor can anybody come back to a session that lasts; others can.
    let again = machine.try_connect(&lasting("alice"));
    assert_eq!(machine.lines(again).len(), 1);
    assert!(machine.closed(again));
    let bob = machine.try_connect(&connect(Version::V5, "bob"));
    assert!(welcomed(&mut machine, bob));
    // And nothing that was sent says otherwise after a restart.
    let mut after = machine.crash_at(machine.committed, 1);
    assert_eq!(after.waiting("carol").len(), 2);
}

#[test]
fn nobody_is_left_unread_when_storing_failed() {
    let config = Config { actions_max: 4, ..Config::default() };
    let mut machine = Machine::with(config);
    let ids = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| machine.subscriber(name, "t", Q2));
    let bob = machine.connect(Version::V5, "bob");
    for n in 1..=3 {
        machine.publish_as(bob, n, "t", "m", Q2);
        if n == 1 {
            // Relayed: a gate for each of the receivers.
            machine.commit_to(machine.stored());
        }
    }
    assert_eq!(machine.broker.read_credit(bob), 0, "more waits than the adapter should have to keep");
    fail(&mut machine);
    for id in ids.into_iter().chain([bob]) {
        assert!(machine.closed(id) || machine.broker.read_credit(id) > 0);
    }
    let carol = machine.try_connect(&connect(Version::V5, "carol"));
    assert!(machine.broker.read_credit(carol) > 0);
    machine.send(carol, &Packet::Pingreq);
    assert_eq!(machine.lines(carol).last().unwrap(), "PINGRESP");
}

#[test]
fn too_many_gates_hold_up_reading_until_they_open() {
    let config = Config { actions_max: 4, ..Config::default() };
    let mut machine = Machine::with(config);
    for name in ["a", "b", "c", "d", "e", "f"] {
        machine.subscriber(name, "t", Q2);
    }
    let bob = machine.connect(Version::V5, "bob");
    machine.broker_publish_as("t", Q2);
    machine.publish_as(bob, 1, "u", "m", Q1);
    assert_eq!(machine.broker.read_credit(bob), 0);
    machine.credits.clear();
    machine.commit();
    assert!(machine.broker.read_credit(bob) > 0);
    assert_eq!(machine.credits, [bob]);
}
