//! The setting `deliver_after_commit`: nobody sees a QoS 1 message before it is durable.

use crate::machine::*;
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, ConnectionId, LogSeq};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;

/// A machine, a publisher, and subscribers of every kind: one whose session is stored, one whose session is not, one who wants
/// QoS 0, and one who is away.
fn everybody(after: bool) -> (Machine, ConnectionId, [ConnectionId; 3]) {
    let config = Config { deliver_after_commit: after, ..Config::default() };
    let mut machine = Machine::with(config);
    let stored = machine.subscriber("stored", "t", Q1);
    let careless = machine.subscriber("careless", "t", Q0);
    let brief = machine.connect(Version::V5, "brief");
    machine.subscribe_all(brief, &[("t", SubscriptionOptions::new(Q1))]);
    let away = machine.subscriber("away", "t", Q1);
    machine.cut(away);
    let publisher = machine.connect(Version::V5, "publisher");
    machine.commit();
    machine.output(brief);
    (machine, publisher, [stored, careless, brief])
}

#[test]
fn nobody_gets_a_message_before_it_is_durable() {
    let (mut machine, publisher, receivers) = everybody(true);
    machine.publish_as(publisher, 1, "t", "m", Q1);
    machine.publish_as(publisher, 2, "t", "n", Q1);
    for id in receivers {
        assert!(machine.messages(id).is_empty());
    }
    machine.commit();
    for id in receivers {
        assert_eq!(machine.messages(id), ["t: m", "t: n"]);
    }
    assert_eq!(machine.lines(publisher), ["PUBACK 00 #1", "PUBACK 00 #2"]);
}

#[test]
fn without_the_setting_who_is_there_gets_it_at_once() {
    let (mut machine, publisher, receivers) = everybody(false);
    machine.publish_as(publisher, 1, "t", "m", Q1);
    for id in receivers {
        assert_eq!(machine.messages(id), ["t: m"]);
    }
    assert!(machine.lines(publisher).is_empty());
}

#[test]
fn what_nobody_stores_does_not_wait_for_what_was_not_stored_before() {
    let mut machine = Machine::with(Config { deliver_after_commit: true, ..Config::default() });
    let brief = machine.connect(Version::V5, "brief");
    machine.subscribe_all(brief, &[("t", SubscriptionOptions::new(Q1))]);
    machine.commit();
    machine.output(brief);
    machine.publish_as(brief, 1, "t", "m", Q1);
    assert_eq!(machine.messages(brief), ["t: m"]);
}

#[test]
fn order_stays_whoever_else_gets_what() {
    let (mut machine, publisher, [_, _, brief]) = everybody(true);
    machine.publish_as(publisher, 1, "t", "1", Q1);
    // From here on nobody is left whose session is stored.
    for client_id in ["stored", "careless", "away"] {
        machine.try_connect(&connect(Version::V5, client_id));
    }
    machine.publish_as(publisher, 2, "t", "2", Q1);
    assert!(machine.messages(brief).is_empty(), "2 waits behind 1");
    machine.commit();
    assert_eq!(machine.messages(brief), ["t: 1", "t: 2"]);
}

#[test]
fn what_can_never_be_durable_reaches_nobody() {
    let (mut machine, publisher, receivers) = everybody(true);
    machine.publish_as(publisher, 1, "t", "m", Q1);
    let from = LogSeq(machine.committed as u64 + 1);
    let now = machine.now;
    machine.bench.broker.commit_failed(now, from);
    machine.drain();
    for id in receivers {
        assert!(machine.messages(id).is_empty());
    }
    assert!(machine.closed(publisher));
}

#[test]
fn what_expires_while_it_waits_is_not_sent() {
    // [MQTT-3.3.2-5]
    let (mut machine, publisher, [_, careless, brief]) = everybody(true);
    let properties = properties(&[Property::MessageExpiryInterval(5)]);
    let packet_id = Some(id(1));
    let publish = Publish { properties, packet_id, ..publish("t", "m", Q1) };
    machine.send(publisher, &Packet::Publish(publish));
    machine.pass_ms(6_000);
    machine.commit();
    assert!(machine.messages(careless).is_empty() && machine.messages(brief).is_empty());
    assert_eq!(machine.lines(publisher), ["PUBACK 00 #1"]);
}
