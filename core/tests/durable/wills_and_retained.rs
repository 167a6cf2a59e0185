//! Wills and retained messages.

use crate::machine::*;
use culex_core::Config;
use culex_core::packet::*;
use culex_core::testing::*;
use std::collections::VecDeque;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

#[test]
fn who_was_connected_at_the_crash_is_owed_its_will() {
    // [MQTT-3.1.2-8]; also if its session does not outlive the connection.
    for expiry_s in [0, 1_000] {
        let mut machine = Machine::new();
        machine.subscriber("heir", "will", Q2);
        let bob = machine.try_connect(&mortal("bob", expiry_s, 0));
        assert!(machine.lines(bob).is_empty(), "CONNACK waits for the will");
        machine.commit();
        assert!(welcomed(&mut machine, bob));
        for mut after in machine.crashes() {
            // And a crash again, wherever: it is published once.
            for mut again in after.crashes() {
                assert_eq!(again.waiting("heir"), ["will: gone"]);
            }
            assert_eq!(after.waiting("heir"), ["will: gone"]);
            assert_eq!(after.come(&lasting("bob")).1, expiry_s > 0);
        }
    }
}

#[test]
fn a_will_that_was_published_or_discarded_is_not_owed() {
    for leaves in [false, true] {
        let mut machine = Machine::new();
        let heir = machine.subscriber("heir", "will", Q2);
        let (bob, _) = machine.come(&mortal("bob", 0, 0));
        if leaves {
            machine.leave(bob);
        } else {
            machine.cut(bob);
        }
        // Before the record of that it may be owed still; but never twice.
        for mut after in machine.crashes() {
            assert!(after.waiting("heir").len() <= 1);
        }
        assert_eq!(machine.everything(heir).len(), usize::from(!leaves));
        for mut after in machine.crashes() {
            assert!(after.waiting("heir").is_empty());
        }
    }
}

#[test]
fn who_is_connected_again_knows_that_its_earlier_will_is_settled() {
    let mut machine = Machine::new();
    machine.subscriber("heir", "will", Q2);
    let (bob, _) = machine.come(&mortal("bob", 0, 0));
    machine.leave(bob);
    let bob = machine.try_connect(&expiring("bob", 0));
    assert!(machine.lines(bob).is_empty());
    machine.commit();
    assert!(welcomed(&mut machine, bob));
    for mut after in machine.crashes() {
        assert!(after.waiting("heir").is_empty());
    }
}

#[test]
fn a_will_delay_goes_on_counting_while_the_machine_is_down() {
    // [MQTT-3.1.3-9]
    let mut machine = Machine::new();
    machine.subscriber("heir", "will", Q1);
    let (bob, _) = machine.come(&mortal("bob", 1_000, 60));
    machine.cut(bob);
    machine.commit();
    let mut after = machine.crash_at(machine.stored(), 30_000);
    after.pass_ms(29_000);
    assert!(after.waiting("heir").is_empty());
    after.pass_ms(2_000);
    assert_eq!(after.waiting("heir"), ["will: gone"]);
    assert_eq!(machine.crash_at(machine.stored(), 61_000).waiting("heir"), ["will: gone"]);
    // Back in time: it is not sent, not even after another crash.
    let mut after = machine.crash_at(machine.stored(), 1);
    assert!(after.come(&expiring("bob", 1_000)).1);
    let mut after = after.crash_after(100_000);
    assert!(after.waiting("heir").is_empty());
}

#[test]
fn a_will_is_sent_at_the_latest_with_the_end_of_its_session() {
    let mut machine = Machine::new();
    machine.subscriber("heir", "will", Q1);
    let (bob, _) = machine.come(&mortal("bob", 10, 60));
    machine.cut(bob);
    machine.commit();
    for ms in [1, 11_000] {
        let mut after = machine.crash_at(machine.stored(), ms);
        after.pass_ms(11_000);
        assert_eq!(after.waiting("heir"), ["will: gone"]);
        for mut again in after.crashes() {
            assert!(again.waiting("heir").is_empty());
        }
    }
}

#[test]
fn the_retained_message_is_the_last_one_that_was_acknowledged() {
    // [MQTT-3.3.1-5], [MQTT-3.3.1-6]
    for (qos, answer) in [(Q1, "PUBACK"), (Q2, "PUBREC")] {
        let mut machine = Machine::new();
        let (bob, _) = machine.come(&lasting("bob"));
        let mut sent = vec!["none".to_owned()];
        for (n, payload) in [(1, "one"), (2, "two"), (3, ""), (4, "four")] {
            let publish = Publish { packet_id: Some(id(n)), retain: true, ..publish("r", payload, qos) };
            machine.send(bob, &Packet::Publish(publish));
            // What was sent last may be the one or not.
            for mut after in machine.crashes() {
                let got = after.retained("r");
                let last = if payload.is_empty() { "none" } else { payload };
                assert!(got == last || got == *sent.last().unwrap(), "{got} of {sent:?} and {last}");
            }
            machine.commit();
            assert!(acknowledged(&mut machine, bob, answer));
            sent.push(if payload.is_empty() { "none".into() } else { payload.into() });
            assert_eq!(machine.crash_at(machine.stored(), 1).retained("r"), *sent.last().unwrap());
        }
    }
}

#[test]
fn a_retained_message_of_qos_0_is_kept_too() {
    let mut machine = Machine::new();
    let bob = machine.connect(Version::V311, "bob");
    machine.send(bob, &retained("r", "m", Q0));
    assert_eq!(machine.crash_at(machine.stored(), 1).retained("r"), "m");
}

#[test]
fn an_older_message_that_is_relayed_after_a_restart_replaces_no_newer_one() {
    // Accepted, relayed, and then replaced by somebody else: it is one step, so it is not relayed again.
    let mut machine = Machine::new();
    let (bob, _) = machine.come(&lasting("bob"));
    let old = Publish { packet_id: Some(id(1)), retain: true, ..publish("r", "old", Q2) };
    machine.send(bob, &Packet::Publish(old));
    machine.commit_to(machine.stored());
    let carol = machine.connect(Version::V5, "carol");
    machine.send(carol, &retained("r", "new", Q1));
    machine.commit();
    for mut after in machine.crashes() {
        assert_eq!(after.retained("r"), "new");
    }
}

#[test]
fn all_retained_messages_come_after_suback_whatever_happens() {
    // [MQTT-3.3.1-9]
    for qos in [Q1, Q2] {
        let mut machine = Machine::new();
        let bob = machine.connect(Version::V5, "bob");
        for n in 0..6 {
            machine.send(bob, &retained(&format!("r/{n}"), "m", qos));
            machine.handshake(bob);
            machine.commit();
            machine.handshake(bob);
        }
        machine.send(bob, &retained("r/3/none", "m", Q0));
        machine.commit();
        let list = [Property::ReceiveMaximum(2u16.try_into().unwrap()), Property::SessionExpiryInterval(99)];
        let narrow = Connect { properties: properties(&list), ..lasting("alice") };
        let (alice, _) = machine.come(&narrow);
        machine.subscribe_all(alice, &[("r/#", SubscriptionOptions::new(qos))]);
        machine.commit();
        let mut got: Vec<String> = Vec::new();
        let mut pending: VecDeque<(u16, String)> = VecDeque::new();
        loop {
            for mut after in machine.crashes() {
                let (alice, _) = after.come(&narrow);
                let rest = after.everything(alice);
                let all: Vec<_> = got.iter().chain(&rest).map(String::as_str).collect();
                let expected = ["r/0: m", "r/1: m", "r/2: m", "r/3: m", "r/4: m", "r/5: m"];
                assert_eq!(all, expected, "{got:?} then {rest:?}");
            }
            let lines = machine.lines(alice);
            pending.extend(
                lines
                    .iter()
                    .filter(|line| line.contains("#"))
                    .filter(|line| line.starts_with("PUBLISH"))
                    .map(|line| {
                        let (packet_id, message) =
                            line.split_once('#').unwrap().1.split_once(" retain ").unwrap();
                        (packet_id.parse().unwrap(), message.to_owned())
                    }),
            );
            let Some((packet_id, message)) = pending.pop_front() else { break };
            got.push(message);
            if qos == Q2 {
                machine.acknowledge(alice, PacketType::Pubrec, packet_id);
                machine.commit();
                machine.acknowledge(alice, PacketType::Pubcomp, packet_id);
            } else {
                machine.acknowledge(alice, PacketType::Puback, packet_id);
            }
            // Also before what that leads to is durable: then it may come once more.
            for mut after in machine.crashes() {
                let (alice, _) = after.come(&narrow);
                let rest = after.everything(alice);
                let twice = got.len() + rest.len() == 7 && qos == Q1;
                assert!(got.len() + rest.len() == 6 || twice, "{got:?} then {rest:?}");
            }
            machine.commit();
        }
        assert_eq!(got.len(), 6);
    }
}

/// Retain Handling 2 asks for nothing again, what the earlier subscription was promised still comes.
#[test]
fn retained_messages_outlive_a_crash_when_their_subscription_was_replaced() {
    // [MQTT-3.8.4-4]
    for (before, then) in [(Q1, Q2), (Q2, Q1), (Q1, Q0)] {
        let config = Config { outbox_bytes_max: 300, ..Config::default() };
        let mut machine = Machine::with(config);
        let bob = machine.connect(Version::V5, "bob");
        let long = "m".repeat(100);
        for n in 0..6 {
            machine.send(bob, &retained(&format!("r/{n}"), &long, Q2));
            machine.commit();
            machine.handshake(bob);
            machine.commit();
        }
        let (alice, _) = machine.come(&lasting("alice"));
        machine.clog(alice, true);
        let never = |qos| SubscriptionOptions {
            retain_handling: RetainHandling::Never,
            ..SubscriptionOptions::new(qos)
        };
        machine.subscribe_all(alice, &[("r/#", SubscriptionOptions::new(before))]);
        machine.commit();
        machine.subscribe_all(alice, &[("r/#", never(then))]);
        machine.commit();
        let mut after = machine.crash_after(0);
        let got = after.waiting("alice");
        let last = got.last().map(|message| &message[..3]);
        assert_eq!(last, Some("r/5"), "{before:?} then {then:?}: {got:?}");
        assert!(got.len() >= 6, "{got:?}");
    }
}

/// What is promised first may be promised again or differently before any of it is sent: the log says what the machine says.
#[test]
fn subscriptions_to_one_filter_in_one_subscribe_leave_the_log_and_the_machine_of_one_mind() {
    // [MQTT-3.8.4-3], [MQTT-3.8.4-5]
    let option = |number: usize| SubscriptionOptions {
        retain_handling: [RetainHandling::Send, RetainHandling::Never][number / 2],
        ..SubscriptionOptions::new([Q0, Q1][number % 2])
    };
    for number in 0..64 {
        let options = [number % 4, number / 4 % 4, number / 16].map(option);
        let mut machine = Machine::new();
        let bob = machine.connect(Version::V5, "bob");
        for n in 0..3 {
            machine.send(bob, &retained(&format!("r/{n}"), "m", Q1));
            machine.commit();
            machine.handshake(bob);
        }
        machine.leave(bob);
        let list = [Property::ReceiveMaximum(1u16.try_into().unwrap()), Property::SessionExpiryInterval(99)];
        let narrow = Connect { properties: properties(&list), ..lasting("alice") };
        let (alice, _) = machine.come(&narrow);
        machine.subscribe_all(alice, &options.map(|options| ("r/#", options)));
        machine.commit();
        machine.cut(alice);
        machine.commit();
        let promised = machine.broker.records();
        assert_eq!(machine.crash_after(0).broker.records(), promised, "{options:?}");
    }
}
