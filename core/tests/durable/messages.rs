//! QoS 1 and QoS 2 in both directions.

use crate::machine::*;
use culex_core::Config;
use culex_core::packet::*;
use culex_core::testing::*;

const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

#[test]
fn puback_waits_for_every_receiver_and_then_nothing_is_lost() {
    for online in [false, true] {
        let mut machine = Machine::new();
        let names = ["one", "two", "three"];
        let ids = names.map(|name| machine.subscriber(name, "t", Q1));
        if !online {
            ids.iter().for_each(|id| machine.cut(*id));
            machine.commit();
        }
        let bob = machine.connect(Version::V5, "bob");
        machine.publish_as(bob, 1, "t", "m", Q1);
        assert!(machine.lines(bob).is_empty());
        // Before it is acknowledged it may be lost, after that it may not.
        for mut after in machine.crashes() {
            let got = names.map(|name| after.waiting(name));
            assert!(got.iter().all(|one| *one == got[0]), "all or nobody: {got:?}");
        }
        machine.commit();
        assert!(acknowledged(&mut machine, bob, "PUBACK 00"));
        for mut after in machine.crashes() {
            assert_eq!(names.map(|name| after.waiting(name)), [["t: m"]; 3]);
        }
    }
}

#[test]
fn messages_in_flight_are_sent_again_with_their_identifiers_and_in_order() {
    // [MQTT-4.4.0-1]
    let mut machine = Machine::with(Config { in_flight_max: 3, ..Config::default() });
    let alice = machine.subscriber("alice", "t", Q1);
    let bob = machine.connect(Version::V5, "bob");
    for n in 1..=5u16 {
        machine.publish_as(bob, n, "t", &n.to_string(), Q1);
    }
    machine.commit();
    assert_eq!(machine.lines(alice), ["PUBLISH q1 #1 t: 1", "PUBLISH q1 #2 t: 2", "PUBLISH q1 #3 t: 3"]);
    machine.acknowledge(alice, PacketType::Puback, 2);
    machine.commit();
    assert_eq!(machine.lines(alice), ["PUBLISH q1 #4 t: 4"]);
    for mut after in machine.crashes() {
        let (alice, _) = after.come(&lasting("alice"));
        let expected = ["PUBLISH q1 #1 dup t: 1", "PUBLISH q1 #3 dup t: 3", "PUBLISH q1 #4 dup t: 4"];
        assert_eq!(after.lines(alice)[1..], expected);
        for n in [1, 3, 4] {
            after.acknowledge(alice, PacketType::Puback, n);
        }
        assert_eq!(after.lines(alice), ["PUBLISH q1 #5 t: 5"]);
    }
}

#[test]
fn acknowledged_by_the_receiver_is_not_sent_again() {
    let mut machine = Machine::new();
    let alice = machine.subscriber("alice", "t", Q1);
    let bob = machine.connect(Version::V5, "bob");
    machine.publish_as(bob, 1, "t", "m", Q1);
    assert_eq!(machine.everything(alice), ["t: m"]);
    for mut after in machine.crashes() {
        assert!(after.waiting("alice").is_empty());
    }
}

#[test]
fn qos_1_leaves_before_its_record_and_qos_2_after_it() {
    let mut machine = Machine::new();
    let alice = machine.subscriber("alice", "t", Q2);
    let bob = machine.connect(Version::V5, "bob");
    machine.publish_as(bob, 1, "t", "one", Q1);
    assert_eq!(machine.lines(alice), ["PUBLISH q1 #1 t: one"]);
    machine.publish_as(bob, 2, "t", "two", Q2);
    machine.publish_as(bob, 3, "t", "three", Q2);
    let mut steps = Vec::new();
    while machine.committed < machine.stored() {
        machine.commit_to(machine.committed + 1);
        let sent = machine.lines(alice);
        // Sent: so it is sent again, as the same.
        for mut after in sent.first().into_iter().flat_map(|_| machine.crashes()).take(1) {
            let (again, _) = after.come(&lasting("alice"));
            let dup: Vec<_> = sent.iter().map(|line| line.replace(" t:", " dup t:")).collect();
            assert!(after.lines(again).ends_with(&dup));
        }
        steps.extend(sent);
    }
    assert_eq!(steps, ["PUBLISH q2 #2 t: two", "PUBLISH q2 #3 t: three"]);
}

#[test]
fn a_qos_2_message_is_relayed_once_whenever_the_crash_comes() {
    // [MQTT-4.3.3-10]
    let names = ["one", "two"];
    let mut machine = Machine::new();
    for name in names {
        machine.subscriber(name, "t", Q2);
    }
    let (bob, _) = machine.come(&lasting("bob"));
    machine.publish_as(bob, 7, "t", "m", Q2);
    let check = |machine: &Machine| {
        for mut after in machine.crashes() {
            let (bob, present) = after.come(&lasting("bob"));
            assert!(present);
            // Not acknowledged: sent again.
            let again = Publish { dup: true, packet_id: Some(id(7)), ..publish("t", "m", Q2) };
            after.send(bob, &Packet::Publish(again));
            after.commit();
            assert_eq!(after.lines(bob).last().unwrap(), "PUBREC 00 #7");
            assert_eq!(names.map(|name| after.waiting(name)), [["t: m"]; 2]);
        }
    };
    while machine.committed < machine.stored() {
        check(&machine);
        machine.commit_to(machine.committed + 1);
    }
    check(&machine);
    assert_eq!(machine.lines(bob).last().unwrap(), "PUBREC 00 #7");
}

#[test]
fn nobody_gets_a_qos_2_message_before_a_repetition_would_be_recognized() {
    // At QoS 0 a repetition would be a message too many.
    let mut machine = Machine::new();
    let program = machine.bench.broker.subscribe(machine.bench.now, "t").unwrap();
    let carol = machine.connect(Version::V5, "carol");
    machine.subscribe(carol, "t", QoS::AtMostOnce);
    let (bob, _) = machine.come(&lasting("bob"));
    machine.publish_as(bob, 7, "t", "m", Q2);
    assert!(machine.messages(carol).is_empty() && machine.forwards.is_empty());
    machine.commit_to(machine.stored());
    assert_eq!(machine.messages(carol), ["t: m"]);
    assert_eq!(machine.forwards[0].receivers[0].session, program);
}

#[test]
fn what_was_accepted_is_relayed_after_a_restart_though_its_publisher_stays_away() {
    let mut machine = Machine::new();
    machine.subscriber("alice", "t", Q2);
    let (bob, _) = machine.come(&lasting("bob"));
    machine.publish_as(bob, 7, "t", "first", Q2);
    machine.publish_as(bob, 3, "t", "second", Q2);
    let mut after = machine.crash_at(machine.stored(), 1);
    assert_eq!(after.waiting("alice"), ["t: first", "t: second"]);
}

#[test]
fn pubrel_waits_until_the_message_is_certain_not_to_be_sent_again() {
    let mut machine = Machine::new();
    let alice = machine.subscriber("alice", "t", Q2);
    let bob = machine.connect(Version::V5, "bob");
    machine.publish_as(bob, 1, "t", "m", Q2);
    machine.commit();
    assert_eq!(machine.lines(alice), ["PUBLISH q2 #1 t: m"]);
    machine.acknowledge(alice, PacketType::Pubrec, 1);
    assert!(machine.lines(alice).is_empty());
    machine.commit();
    assert_eq!(machine.lines(alice), ["PUBREL 00 #1"]);
    for mut after in machine.crashes() {
        let (alice, _) = after.come(&lasting("alice"));
        assert_eq!(after.lines(alice)[1..], ["PUBREL 00 #1"]);
        after.acknowledge(alice, PacketType::Pubcomp, 1);
        after.commit();
        assert!(after.crash_at(after.stored(), 1).waiting("alice").is_empty());
    }
}

#[test]
fn pubcomp_waits_until_the_identifier_is_free() {
    let mut machine = Machine::new();
    machine.subscriber("alice", "t", Q2);
    let (bob, _) = machine.come(&lasting("bob"));
    machine.publish_as(bob, 7, "t", "one", Q2);
    machine.commit();
    machine.output(bob);
    machine.acknowledge(bob, PacketType::Pubrel, 7);
    assert!(machine.lines(bob).is_empty());
    machine.commit();
    assert_eq!(machine.lines(bob), ["PUBCOMP 00 #7"]);
    // So its next use is another message.
    for mut after in machine.crashes() {
        let (bob, _) = after.come(&lasting("bob"));
        after.publish_as(bob, 7, "t", "two", Q2);
        after.commit();
        assert_eq!(after.waiting("alice"), ["t: one", "t: two"]);
    }
}

#[test]
fn a_receive_maximum_of_one_keeps_the_order_over_a_crash() {
    for qos in [Q1, Q2] {
        let mut machine = Machine::new();
        let maximum =
            [Property::ReceiveMaximum(std::num::NonZeroU16::MIN), Property::SessionExpiryInterval(99)];
        let narrow = Connect { properties: properties(&maximum), ..lasting("alice") };
        let (alice, _) = machine.come(&narrow);
        machine.subscribe_all(alice, &[("t", SubscriptionOptions::new(qos))]);
        let bob = machine.connect(Version::V5, "bob");
        for n in 1..=4u16 {
            machine.publish_as(bob, n, "t", &n.to_string(), Q2);
        }
        machine.commit();
        let sent = machine.lines(alice).iter().filter(|line| line.starts_with("PUBLISH")).count();
        assert_eq!(sent, 1);
        for mut after in machine.crashes() {
            let (alice, _) = after.come(&narrow);
            assert_eq!(after.everything(alice), ["t: 1", "t: 2", "t: 3", "t: 4"]);
        }
    }
}
