//! Bugs that others had, each as a story: what happened there, and what must hold here.
//!
//! Where time, a disk or a network matters the simulator tells it, and its model watches for everything else that MQTT
//! promises; where one machine by hand is enough, the bench does.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::config::Overflow;
use culex_core::middleware::Authentication;
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Answer, Config, Stack};
use culex_simulation::script::{Op, Plan, Step, WillPlan, Wish};
use culex_simulation::trace::Kind;
use culex_simulation::{Profile, Promise, Script, Trace, simulate};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

/// A client that does nothing special.
fn plan(version: Version) -> Plan {
    Plan {
        version,
        keep_alive_s: 0,
        receive_maximum: 65_535,
        topic_alias_maximum: 0,
        ack_ms: 0,
        latency_ms: 0,
        socket_bytes: 1 << 20,
        packet_bytes_max: 0,
        packet_ids: 60_000,
    }
}

/// A client connects to a session that lasts for an hour.
fn comes(client: usize) -> Op {
    Op::Connect { client, clean: false, expiry_s: 3_600, will: None }
}

fn subscribes(client: usize, filter: &'static str, qos: QoS) -> Op {
    let wish = Wish { filter, qos, no_local: false, retain_as_published: false, retain_handling: 0 };
    Op::Subscribe { client, filters: vec![wish], identifier: 0 }
}

fn publishes(client: usize, topic: &'static str, qos: QoS, count: usize) -> Op {
    Op::Publish {
        client,
        topic,
        qos,
        retain: false,
        padding: Some(3),
        expiry_s: 0,
        alias: 0,
        dress: 0,
        count,
    }
}

/// What happened in a simulation in which no promise was broken.
struct Story {
    trace: Trace,
    seen: std::collections::BTreeSet<Promise>,
}

fn tell(profile: Profile, clients: &[Plan], steps: Vec<(u64, Op)>) -> Story {
    let steps = steps.into_iter().map(|(at_ms, op)| Step { at_ms, op }).collect();
    let script = Script { seed: 1, profile, clients: clients.to_vec(), steps, shards: 1 };
    let mut trace = Trace::default();
    let outcome = simulate(&script, Some(&mut trace));
    assert_eq!(outcome.broken, None, "{}", trace.text());
    Story { trace, seen: outcome.seen }
}

impl Story {
    /// The packets a client was sent between two times, in short.
    fn sent(&self, client: usize, from_ms: u64, to_ms: u64) -> Vec<&str> {
        let during = from_ms * 1_000..to_ms * 1_000;
        let entries = self.trace.entries.iter().filter(|entry| {
            entry.kind == Kind::Out && entry.client == Some(client) && during.contains(&entry.at)
        });
        entries.map(|entry| entry.text.as_str()).collect()
    }

    /// How many packets that begin like this a client was sent, from the beginning to the end.
    fn count(&self, client: usize, packet: &str) -> usize {
        self.sent(client, 0, u64::MAX / 1_000).iter().filter(|text| text.starts_with(packet)).count()
    }
}

/// rmqtt restored sessions into its table of clients but not into its router: between a restart and the client's return
/// messages for it were acknowledged and dropped, and then it was told that its session was present
/// (<https://github.com/rmqtt/rmqtt/pull/477>, <https://github.com/rmqtt/rmqtt/issues/475>).
///
/// [MQTT-3.2.2-2] [MQTT-4.5.0-1]: what is acknowledged while a session waits for its client reaches that client.
#[test]
fn a_restored_session_gets_what_is_acknowledged_before_its_client_is_back() {
    for version in [Version::V311, Version::V5] {
        let steps = vec![
            (0, comes(0)),
            (100, subscribes(0, "a/+", Q1)),
            (500, Op::Crash { down_ms: 200 }),
            (1_000, comes(1)),
            (1_100, publishes(1, "a/b", Q1, 3)),
            (2_000, comes(0)),
        ];
        let story = tell(Profile::Crash, &[plan(version), plan(version)], steps);
        assert_eq!(
            story.sent(1, 1_100, 2_000),
            ["PUBACK #1 Success", "PUBACK #2 Success", "PUBACK #3 Success"]
        );
        let lines = story.sent(0, 2_000, 3_000);
        assert_eq!(lines[0], "CONNACK Success, session present");
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[1..].iter().all(|line| line.starts_with("PUBLISH q1")), "{lines:?}");
    }
}

/// mosquitto wrote its file when a queue grew but not when it shrank: after a crash a subscriber got what it had received
/// and acknowledged with QoS 2 once more (<https://github.com/eclipse-mosquitto/mosquitto/issues/1726>).
///
/// [MQTT-4.3.3-10]: at whatever moment the crash comes, each message reaches the program behind the client once; and
/// whoever had answered everything before is sent nothing.
#[test]
fn a_crash_sends_no_qos_2_message_twice() {
    for crash_ms in 0..120 {
        let steps = vec![
            (0, comes(0)),
            (50, subscribes(0, "a", Q2)),
            (100, Op::Cut { client: 0 }),
            (200, comes(1)),
            (300, publishes(1, "a", Q2, 5)),
            // A sync takes 4 ms, and the queue may be read back page by page, so that the crash meets every state between the first PUBLISH and the last PUBCOMP.
            (900, Op::SlowDisk { ms: 4 }),
            (1_000, comes(0)),
            (1_000 + crash_ms, Op::Crash { down_ms: 100 }),
            (2_000, comes(0)),
        ];
        let story = tell(Profile::Crash, &[plan(Version::V5), plan(Version::V5)], steps);
        assert!(story.seen.contains(&Promise::ExactlyOnce));
        let before = story.sent(0, 1_000, 1_000 + crash_ms);
        let again = story.sent(0, 2_000, 3_000);
        assert_eq!(again[0], "CONNACK Success, session present");
        if crash_ms >= 110 {
            assert_eq!(before.iter().filter(|line| line.starts_with("PUBLISH q2")).count(), 5);
            assert_eq!(again.len(), 1, "crash after {crash_ms} ms: {again:?}");
        }
    }
}

/// A mosquitto bridge that lost its connection between PUBREC and PUBREL never sent PUBREL again, and the messages stayed in
/// flight for ever (<https://github.com/eclipse-mosquitto/mosquitto/issues/3275>; its broker had the same for MQTT 5.0
/// clients, <https://github.com/eclipse-mosquitto/mosquitto/issues/1454>).
///
/// [MQTT-4.4.0-1] [MQTT-4.3.3-6]: PUBREL comes again, PUBLISH does not, and the place in the window is free afterwards.
#[test]
fn a_pubrel_that_was_lost_with_its_connection_is_sent_again() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let one = Config { in_flight_max: 1, ..Config::default() };
        let mut bench = Bench::with(one, Stack::standard());
        let hour = properties(&[Property::SessionExpiryInterval(3_600)]);
        let properties = if version == Version::V5 { hour } else { Properties::EMPTY };
        let lasting = Connect { clean_start: false, properties, ..connect(version, "alice") };
        let (alice, _) = bench.connect_with(&lasting);
        bench.subscribe(alice, "t", Q2);
        let bob = bench.connect(Version::V5, "bob");
        bench.publish_as(bob, 1, "t", "one", Q2);
        bench.publish_as(bob, 2, "t", "two", Q2);
        assert_eq!(bench.lines(alice), ["PUBLISH q2 #1 t: one"]);
        // PUBREC arrives, PUBREL does not.
        bench.clog(alice, true);
        bench.acknowledge(alice, PacketType::Pubrec, 1);
        bench.cut(alice);
        for _ in 0..2 {
            let (alice, present) = bench.connect_with(&lasting);
            assert_eq!(present, version != Version::V31, "3.1 has no word for it");
            assert_eq!(bench.lines(alice), ["PUBREL 00 #1"]);
            bench.cut(alice);
        }
        let (alice, _) = bench.connect_with(&lasting);
        assert_eq!(bench.handshake(alice), ["t: two"]);
        let (alice, _) = bench.connect_with(&lasting);
        assert_eq!(bench.lines(alice), [""; 0], "nothing is left in flight");
    }
}

/// mosquitto sent 1,020 of 12,500 retained messages: 20 in flight, 1,000 in the queue, and the rest nowhere
/// (<https://github.com/eclipse-mosquitto/mosquitto/issues/2196>).
///
/// [MQTT-3.3.1-9]: all of them arrive, though the queue holds 1,000; at every QoS, and through a socket that is full.
#[test]
fn a_queue_of_a_thousand_does_not_truncate_twelve_thousand_retained_messages() {
    let config = Config {
        queue_messages_max: 1_000,
        in_flight_max: 20,
        queue_overflow: Overflow::DropNewest,
        ..Config::default()
    };
    let mut bench = Bench::with(config, Stack::standard());
    let simulator = bench.connect(Version::V5, "simulator");
    for device in 0..2_500 {
        for attribute in 0..5 {
            let topic = format!("DeviceInfo/{device}/{attribute}");
            bench.send(simulator, &retained(&topic, "value", Q0));
            let topic = format!("Other/{device}/{attribute}");
            bench.send(simulator, &retained(&topic, "value", Q1));
        }
    }
    bench.output(simulator);
    for (filter, qos) in [("DeviceInfo/#", Q0), ("Other/#", Q0), ("Other/#", Q1), ("Other/+/+", Q2)] {
        let reader = bench.connect(Version::V311, "reader");
        bench.clog(reader, true);
        bench.subscribe_all(reader, &[(filter, SubscriptionOptions::new(qos))]);
        bench.clog(reader, false);
        assert_eq!(bench.handshake(reader).len(), 12_500, "{filter} at {qos:?}");
    }
    let stats = bench.broker.stats();
    assert_eq!((stats.dropped_queue_full, stats.dropped_slow, stats.dropped_retained_full), (0, 0, 0));
}

/// mochi-mqtt wrote to one client after the other, and waited for room where a buffer was full: one client that did not
/// read stopped the delivery to all others, and then the publishers
/// (<https://github.com/mochi-mqtt/server/issues/95>).
///
/// Everybody else gets everything at once, and publishers are acknowledged; who does not read gets QoS 1 and 2 later.
#[test]
fn a_client_that_does_not_read_delays_nobody() {
    let slow = Plan { socket_bytes: 1, ..plan(Version::V5) };
    let clients = [slow, plan(Version::V5), plan(Version::V311)];
    let mut steps = vec![(0, comes(0)), (0, comes(1)), (0, comes(2))];
    steps.extend([(100, subscribes(0, "#", Q1)), (100, subscribes(1, "#", Q1))]);
    steps.push((500, Op::Stall { client: 0, ms: 20_000 }));
    steps.extend((0..100).map(|n| (1_000 + 10 * n, publishes(2, "a", Q1, 10))));
    let story = tell(Profile::Network, &clients, steps);
    let quick = story.sent(1, 1_000, 2_100);
    assert_eq!(quick.iter().filter(|line| line.starts_with("PUBLISH q1")).count(), 1_000);
    assert_eq!(story.sent(2, 1_000, 2_100).len(), 1_000, "as many PUBACKs");
    let meanwhile = story.sent(0, 1_000, 15_000).len();
    assert!(meanwhile < 100, "{meanwhile} were sent to who reads nothing");
    assert_eq!(story.count(0, "PUBLISH q1"), 1_000);
}

/// mosquitto removed an expired retained message only when somebody subscribed to its topic: memory grew without end
/// (<https://github.com/eclipse-mosquitto/mosquitto/issues/3221>).
///
/// [MQTT-3.3.2-5]: nobody has to ask for the memory of what expired to be free again.
#[test]
fn expired_retained_messages_cost_nothing_although_nobody_asks_for_them() {
    let mut bench = Bench::new();
    let publisher = bench.connect(Version::V5, "publisher");
    for n in 0..1_000 {
        let properties = properties(&[Property::MessageExpiryInterval(10)]);
        let topic = format!("old/{n}");
        let publish = Publish { properties, retain: true, ..publish(&topic, "m", Q0) };
        bench.send(publisher, &Packet::Publish(publish));
    }
    assert!(bench.broker.deadline().is_some(), "somebody looks after them");
    bench.pass_ms(300_000);
    assert_eq!(bench.broker.deadline(), None, "all are gone");
    // A subscription counts what it meets that is there and has expired.
    bench.subscribe(publisher, "#", Q0);
    assert_eq!(bench.broker.stats().dropped_expired, 0);
}

/// In mosquitto expired messages stayed in the queues of clients that were away, and took the places of others
/// (<https://github.com/eclipse-mosquitto/mosquitto/issues/2609>).
///
/// [MQTT-3.3.2-5]: a queue that is full of what expired has room, whatever is done when there is none.
#[test]
fn expired_messages_in_a_queue_cost_no_other_its_place() {
    for queue_overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect] {
        let config = Config { queue_messages_max: 100, queue_overflow, ..Config::default() };
        let mut bench = Bench::with(config, Stack::standard());
        let hour = properties(&[Property::SessionExpiryInterval(3_600)]);
        let lasting = Connect { clean_start: false, properties: hour, ..connect(Version::V5, "abc123") };
        let (away, _) = bench.connect_with(&lasting);
        bench.subscribe(away, "test/#", Q1);
        bench.cut(away);
        let publisher = bench.connect(Version::V5, "def456");
        for _ in 0..100 {
            let properties = properties(&[Property::MessageExpiryInterval(10)]);
            let publish = Publish { properties, ..publish("test/x", "old", Q1) };
            bench.send(publisher, &Packet::Publish(publish));
        }
        bench.pass_ms(20_000);
        for _ in 0..100 {
            bench.publish(publisher, "test/x", "new", Q1);
        }
        let (back, _) = bench.connect_with(&lasting);
        assert_eq!(bench.handshake(back), vec!["test/x: new"; 100], "{queue_overflow:?}");
        let stats = bench.broker.stats();
        assert_eq!((stats.dropped_expired, stats.dropped_queue_full), (100, 0));
    }
}

/// A takeover and a Will Delay Interval got into each other's way: mosquitto forgot wills without a delay when a session
/// was taken over (<https://github.com/eclipse-mosquitto/mosquitto/issues/3509>), mqtt-lib published those with one
/// although the client was back in time (<https://github.com/LabOverWire/mqtt-lib/issues/154>).
///
/// [MQTT-3.1.3-9] [MQTT-3.1.4-3]: the delay decides, or a clean start.
#[test]
fn a_takeover_publishes_the_will_unless_its_delay_spares_it() {
    for (delay_s, clean, wills) in [(0, false, 1), (5, false, 0), (5, true, 1)] {
        let will = WillPlan { topic: "b", qos: Q1, retain: false, delay_s, expiry_s: 0 };
        let mortal = Op::Connect { client: 0, clean: false, expiry_s: 3_600, will: Some(will) };
        let steps = vec![
            (0, comes(1)),
            (100, subscribes(1, "b", Q1)),
            (200, mortal),
            (1_000, Op::Connect { client: 0, clean, expiry_s: 3_600, will: None }),
            // Long after the delay.
            (20_000, publishes(1, "a", Q0, 1)),
        ];
        let story = tell(Profile::Network, &[plan(Version::V5), plan(Version::V5)], steps);
        assert_eq!(story.count(0, "DISCONNECT SessionTakenOver"), 1);
        assert_eq!(story.count(1, "PUBLISH q1"), wills, "delay {delay_s} s, clean start: {clean}");
    }
}

/// In aedes a second client of the same name that was refused made the broker forget the first one
/// (<https://github.com/moscajs/aedes/pull/336>): a stranger could end anybody's session.
///
/// [MQTT-3.1.4-2]: until the answer is yes nothing happens to the session; if it is no, nothing ever did.
#[test]
fn a_session_is_not_taken_over_before_its_new_client_is_known() {
    let stack = Stack::standard().replace("Authentication", Authentication::ask()).unwrap();
    let mut bench = Bench::with(Config::default(), stack);
    let alice = Connect { clean_start: false, ..connect(Version::V311, "alice") };
    let owner = bench.try_connect(&alice);
    bench.answer(Answer::Allow);
    bench.output(owner);
    bench.subscribe(owner, "t", Q1);
    for clean_start in [false, true] {
        let stranger = bench.try_connect(&Connect { clean_start, ..alice.clone() });
        bench.publish(owner, "t", "while somebody waits", Q1);
        assert_eq!(bench.lines(stranger), [""; 0]);
        assert!(!bench.closed(owner), "nobody knows yet who it is");
        bench.answer(Answer::Deny(ReasonCode::NotAuthorized));
        assert_eq!(bench.lines(stranger), ["CONNACK 87"]);
        assert!(bench.closed(stranger) && !bench.closed(owner));
        assert_eq!(bench.handshake(owner), ["t: while somebody waits"]);
        bench.cut(stranger);
    }
    let again = bench.try_connect(&alice);
    bench.answer(Answer::Allow);
    assert_eq!(bench.lines(again), ["CONNACK 00 present"]);
    assert!(bench.closed(owner), "the owner may");
}

/// rumqttd stalled when a client published to a topic that it was subscribed to: its own messages filled its outbox, and
/// while that was full it was not read (<https://github.com/bytebeamio/rumqtt/issues/356>).
///
/// Nobody waits for itself: it is read again, and gets all it published with QoS 1 and 2.
#[test]
fn a_client_with_a_full_outbox_does_not_wait_for_itself() {
    for (published, subscribed) in [(Q1, Q0), (Q1, Q1), (Q2, Q2)] {
        let echo = Plan { socket_bytes: 100, ack_ms: 20, latency_ms: 5, ..plan(Version::V5) };
        let mut steps = vec![(0, comes(0)), (100, subscribes(0, "#", subscribed))];
        steps.push((500, Op::Stall { client: 0, ms: 3_000 }));
        let large = |n: u64| Op::Publish {
            client: 0,
            topic: "a",
            qos: published,
            retain: false,
            padding: Some(1_900),
            expiry_s: 0,
            alias: 0,
            dress: 0,
            count: 5 + n as usize % 2,
        };
        steps.extend((0..20).map(|n| (1_000 + n, large(n))));
        let story = tell(Profile::Network, &[echo], steps);
        let kind = if published == Q1 { "PUBACK" } else { "PUBCOMP" };
        assert_eq!(story.count(0, kind), 110);
        assert!(
            story.seen.contains(&Promise::NotStuck) || subscribed == Q0 || story.count(0, "PUBLISH") == 110
        );
        if subscribed > Q0 {
            assert_eq!(story.count(0, "PUBLISH"), 110);
        }
    }
}
