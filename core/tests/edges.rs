//! Limits at their edge, counters, and what is shared instead of copied: what a mutation of the code would change and
//! no other test would notice.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use culex_core::broker::{Action, Answer, Cx, Queued};
use culex_core::middleware::{Authorize, Flow, Hooks, Middleware, Permission, Stack, Wanted};
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, ConnectionId, Message};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

fn bench(config: Config) -> Bench {
    Bench::with(config, Stack::standard())
}

fn connect_v5(bench: &mut Bench, client_id: &str, list: &[Property<'_>]) -> ConnectionId {
    bench.connect_with(&resuming(client_id, list)).0
}

/// A CONNECT of 5.0 without Clean Start.
fn resuming<'a>(client_id: &'a str, list: &[Property<'_>]) -> Connect<'a> {
    Connect { clean_start: false, properties: properties(list), ..connect(Version::V5, client_id) }
}

fn size(topic: &str, payload: &str) -> usize {
    Message::new(topic, payload.as_bytes(), Q1, false).unwrap().size()
}

#[test]
fn a_topic_of_empty_levels_has_as_many_as_any_other() {
    // [MQTT-4.7.1-3]: an empty level is a level, so a topic has one more than it has slashes.
    let mut bench = bench(Config { topic_levels_max: 3, ..Config::default() });
    let alice = bench.connect(Version::V5, "alice");
    bench.publish(alice, "//", "m", Q1);
    bench.publish(alice, "///", "m", Q1);
    assert_eq!(bench.lines(alice), ["PUBACK 10 #1", "PUBACK 90 #1"]);
}

#[test]
fn a_filter_has_as_many_levels_as_allowed_and_no_more() {
    let mut bench = bench(Config { topic_levels_max: 3, ..Config::default() });
    let alice = bench.connect(Version::V5, "alice");
    let options = SubscriptionOptions::new(Q0);
    bench.subscribe_all(alice, &[("a/+/c", options), ("a/+/c/d", options), ("//", options)]);
    assert_eq!(bench.lines(alice), ["SUBACK [00, 8F, 00] #777"]);
    assert_eq!(bench.broker.stats().refused, 1);
}

#[test]
fn as_many_bytes_are_retained_as_allowed() {
    let two = size("a", "1234") + size("b", "1234");
    for (retained_bytes_max, dropped) in [(two, 0), (two - 1, 1)] {
        let retained_bytes_max = retained_bytes_max as u64;
        let mut bench = bench(Config { retained_bytes_max, ..Config::default() });
        let bob = bench.connect(Version::V5, "bob");
        // What is replaced makes room for what replaces it.
        for topic in ["a", "b", "b", "b"] {
            bench.send(bob, &retained(topic, "1234", Q0));
        }
        // Each attempt that fails leaves nothing behind, and the next one fails as well.
        assert_eq!(bench.broker.stats().dropped_retained_full, 3 * dropped);
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, "#", Q0);
        assert_eq!(bench.messages(alice).len() as u64, 2 - dropped);
    }
}

/// A session that is away, with a subscription, and a queue for this many of the messages that `fill` sends.
fn away(places: u64, more: Config) -> (Bench, ConnectionId) {
    let cost = (size("t", "1234") + size_of::<Queued>()) as u64;
    let mut bench = bench(Config { queue_bytes_max: places * cost, ..more });
    let bob = bench.connect(Version::V5, "bob");
    let alice = connect_v5(&mut bench, "alice", &[Property::SessionExpiryInterval(60)]);
    bench.subscribe(alice, "t", Q1);
    bench.cut(alice);
    (bench, bob)
}

fn fill(bench: &mut Bench, from: ConnectionId, count: usize) -> u64 {
    let before = bench.broker.stats().dropped_queue_full;
    (0..count).for_each(|_| bench.publish(from, "t", "1234", Q1));
    bench.broker.stats().dropped_queue_full - before
}

#[test]
fn a_queue_takes_as_many_bytes_as_allowed() {
    let (mut bench, bob) = away(3, Config::default());
    assert_eq!(fill(&mut bench, bob, 3), 0);
    assert_eq!(fill(&mut bench, bob, 1), 1);
}

#[test]
fn what_was_sent_from_a_queue_makes_room_for_as_many_bytes() {
    let (mut bench, bob) = away(4, Config::default());
    assert_eq!(fill(&mut bench, bob, 4), 0);
    let one = [Property::SessionExpiryInterval(60), Property::ReceiveMaximum(1.try_into().unwrap())];
    let alice = connect_v5(&mut bench, "alice", &one);
    bench.acknowledge(alice, PacketType::Puback, 1);
    assert_eq!(bench.messages(alice).len(), 2);
    bench.cut(alice);
    assert_eq!(fill(&mut bench, bob, 2), 0);
    assert_eq!(fill(&mut bench, bob, 2), 2);
}

#[test]
fn a_message_as_large_as_the_client_accepts_is_sent_and_sent_again() {
    // [MQTT-3.1.2-24], [MQTT-3.1.2-25]
    // Fixed header 2, topic 3, Packet Identifier 2, properties 1.
    let payload = "x".repeat(64 - 8);
    for (limit, expected) in [(64, 1), (63, 0)] {
        let mut bench = Bench::new();
        let list =
            [Property::SessionExpiryInterval(60), Property::MaximumPacketSize(limit.try_into().unwrap())];
        let alice = connect_v5(&mut bench, "alice", &list);
        bench.subscribe(alice, "t", Q1);
        bench.publish(alice, "t", &payload, Q1);
        assert_eq!(bench.messages(alice).len(), expected);
        bench.cut(alice);
        let alice = connect_v5(&mut bench, "alice", &list);
        assert_eq!(bench.messages(alice).len(), expected);
        assert_eq!(bench.broker.stats().publishes_sent, 2 * expected as u64);
        assert_eq!(bench.broker.stats().dropped_too_large, 1 - expected as u64);
    }
}

#[test]
fn a_resumed_session_gets_no_more_from_its_queue_than_it_receives() {
    // [MQTT-3.3.4-9]
    let (mut bench, bob) = away(100, Config::default());
    fill(&mut bench, bob, 9);
    let two = [Property::SessionExpiryInterval(60), Property::ReceiveMaximum(2.try_into().unwrap())];
    for sent in ["1", "1"] {
        let alice = connect_v5(&mut bench, "alice", &two);
        let lines = bench.lines(alice);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains(&format!("#{sent} ")), "{lines:?}");
        bench.cut(alice);
    }
}

#[test]
fn what_is_sent_again_goes_on_when_a_full_outbox_has_room() {
    // [MQTT-4.4.0-1]: though nothing is queued behind it.
    let config = Config { outbox_bytes_max: 1_000, packet_size_max: 1_000, ..Config::default() };
    let mut bench = bench(config);
    let packet = resuming("alice", &[Property::SessionExpiryInterval(60)]);
    let alice = bench.connect_with(&packet).0;
    bench.subscribe(alice, "t", Q1);
    let bob = bench.connect(Version::V5, "bob");
    for n in 0..20 {
        bench.publish(bob, "t", &format!("{n:0200}"), Q1);
    }
    assert_eq!((bench.messages(alice).len(), bench.broker.stats().queued), (20, 0));
    bench.cut(alice);
    let alice = bench.accept();
    bench.clog(alice, true);
    bench.send(alice, &Packet::Connect(packet));
    bench.clog(alice, false);
    assert_eq!(bench.messages(alice).len(), 20);
}

#[test]
fn an_error_about_an_unknown_message_is_not_answered() {
    // Section 4.3.3: PUBREL answers a PUBREC that accepts.
    for version in [Version::V311, Version::V5] {
        let mut bench = Bench::new();
        let alice = bench.connect(version, "alice");
        let refused = Ack { reason: ReasonCode::QuotaExceeded, ..Ack::success(id(7)) };
        bench.send(alice, &Packet::Pubrec(refused));
        bench.send(alice, &Packet::Pingreq);
        let lines = bench.lines(alice);
        // 3.x has no reason codes: it accepts.
        assert_eq!(lines[..lines.len() - 1].is_empty(), version == Version::V5, "{lines:?}");
    }
}

#[test]
fn a_session_that_ends_with_its_connection_may_be_told_so_again() {
    // [MQTT-3.14.2-2] is about making it longer.
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.send(alice, &disconnect(ReasonCode::Success, &[Property::SessionExpiryInterval(0)]));
    assert!(bench.lines(alice).is_empty());
    assert_eq!((bench.broker.sessions(), bench.broker.stats().violations), (0, 0));
}

#[test]
fn connack_does_not_announce_what_the_standard_says_anyway() {
    // Section 3.2.2.3
    let config = Config {
        receive_maximum: 65_535,
        packet_size_max: 268_435_460,
        outbox_bytes_max: 268_435_460,
        topic_alias_maximum: 0,
        ..Config::default()
    };
    let mut bench = bench(config);
    let id = bench.try_connect(&connect(Version::V5, "alice"));
    assert_eq!(bench.output(id), [0x20, 3, 0, 0, 0]);
}

#[test]
fn a_message_that_meets_overlapping_subscriptions_is_retained_if_one_of_them_says_so() {
    // [MQTT-3.3.1-13], [MQTT-3.3.4-2]
    let plain =
        SubscriptionOptions { retain_handling: RetainHandling::Never, ..SubscriptionOptions::new(Q0) };
    let as_published = SubscriptionOptions { retain_as_published: true, ..plain };
    for (first, second, expected) in [
        (plain, plain, "PUBLISH q0 t: m"),
        (plain, as_published, "PUBLISH q0 retain t: m"),
        (as_published, plain, "PUBLISH q0 retain t: m"),
        (as_published, as_published, "PUBLISH q0 retain t: m"),
    ] {
        let mut bench = Bench::new();
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe_with(alice, "t", first, &PropertiesBuf::new());
        bench.subscribe_with(alice, "+", second, &PropertiesBuf::new());
        bench.send(alice, &retained("t", "m", Q0));
        assert_eq!(bench.lines(alice), [expected]);
    }
}

#[test]
fn what_expired_before_it_was_sent_is_counted() {
    // [MQTT-3.3.2-5]
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    for topic in ["a", "b", "c"] {
        let properties = properties(&[Property::MessageExpiryInterval(5)]);
        let packet = Publish { retain: true, properties, ..publish(topic, "m", Q0) };
        bench.send(bob, &Packet::Publish(packet));
    }
    bench.send(bob, &retained("d", "m", Q0));
    bench.pass_ms(6_000);
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "#", Q0);
    assert_eq!(bench.messages(alice), ["d: m"]);
    assert_eq!(bench.broker.stats().dropped_expired, 3);
}

#[test]
fn nothing_wakes_the_machine_when_nothing_can_expire() {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    bench.send(bob, &retained("t", "m", Q0));
    assert_eq!(bench.broker.deadline(), None, "a retained message without an expiry is not swept");
    let alive = bench.connect_with(&Connect { keep_alive: 10, ..connect(Version::V5, "alive") }).0;
    assert!(bench.broker.deadline().is_some());
    bench.leave(alive);
    assert_eq!(bench.broker.deadline(), None, "nobody waits for who is gone");
}

#[test]
fn a_sweep_that_is_under_way_is_not_begun_again() {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V5, "bob");
    let expiring = |topic: &'static str| {
        let properties = properties(&[Property::MessageExpiryInterval(10)]);
        Packet::Publish(Publish { retain: true, properties, ..publish(topic, "m", Q0) })
    };
    bench.send(bob, &expiring("a"));
    bench.pass_ms(30_000);
    bench.send(bob, &expiring("b"));
    bench.pass_ms(30_001);
    assert_eq!(bench.broker.deadline(), None, "one sweep found both");
}

#[test]
fn a_message_for_a_session_that_is_ending_is_not_kept() {
    // Its own will finds the client gone and the session still there.
    for qos in [Q0, Q1] {
        let mut bench = bench(Config { queue_qos0: true, ..Config::default() });
        let will = Some(Will { qos, ..will("t", b"m") });
        let alice = bench.connect_with(&Connect { will, ..connect(Version::V5, "alice") }).0;
        bench.subscribe(alice, "t", Q1);
        bench.cut(alice);
        assert_eq!(bench.broker.sessions(), 0);
        let stats = bench.broker.stats();
        assert_eq!((stats.queued, stats.dropped_offline), (0, u64::from(qos == Q0)));
    }
}

/// The slices that the first `receivers` of a message are offered for one write each, and where their last ones are.
fn slices(receivers: usize, payload: &str) -> Vec<(usize, *const u8)> {
    let mut bench = Bench::new();
    let bob = bench.connect(Version::V311, "bob");
    for n in 0..receivers {
        let id = bench.connect(Version::V311, &format!("c{n}"));
        bench.subscribe(id, "t", Q0);
    }
    let mut bytes = Vec::new();
    Packet::Publish(publish("t", payload, Q0)).encode(Version::V311, &mut bytes).unwrap();
    bench.broker.receive(bench.now, bob, &bytes);
    let mut slices = Vec::new();
    while let Some(transmit) = bench.broker.poll_transmit() {
        let last = transmit.chunks().last().unwrap().as_ptr();
        slices.push((transmit.chunks().count(), last));
        let length = transmit.len();
        transmit.written(length);
    }
    slices
}

#[test]
fn a_large_payload_is_shared_by_its_receivers_and_a_small_one_is_copied() {
    let (small, large) = ("x".repeat(4_095), "x".repeat(4_096));
    let shared = slices(3, &large);
    assert!(shared.iter().all(|slice| *slice == (2, shared[0].1)), "{shared:?}");
    for (receivers, payload) in [(3, &small), (1, &small), (1, &large)] {
        let copied = slices(receivers, payload);
        assert_eq!(copied.len(), receivers);
        assert!(copied.iter().all(|(count, _)| *count == 1), "{copied:?}");
    }
}

#[test]
fn a_large_payload_from_a_queue_is_not_copied() {
    for (length, expected) in [(4_095, 1), (4_096, 2)] {
        let mut bench = Bench::new();
        let packet = resuming("alice", &[Property::SessionExpiryInterval(60)]);
        let alice = bench.connect_with(&packet).0;
        bench.subscribe(alice, "t", Q1);
        bench.cut(alice);
        let bob = bench.connect(Version::V5, "bob");
        bench.publish(bob, "t", &"x".repeat(length), Q1);
        let mut bytes = Vec::new();
        Packet::Connect(packet).encode(Version::V5, &mut bytes).unwrap();
        let alice = bench.accept();
        bench.broker.receive(bench.now, alice, &bytes);
        assert_eq!(bench.broker.poll_transmit().unwrap().chunks().count(), expected);
    }
}

#[test]
fn what_the_outside_allowed_is_remembered_for_sixteen_messages() {
    let policy = |_: &str, _: Option<&str>, _: Wanted<'_>| Permission::Ask;
    let stack = Stack::standard().replace("Authorize", Authorize::new(policy)).unwrap();
    let mut bench = Bench::with(Config::default(), stack);
    let alice = bench.connect(Version::V5, "alice");
    let asked = |bench: &mut Bench, n: usize| {
        bench.publish(alice, &format!("t/{n}"), "m", Q0);
        let asked = !bench.asks.is_empty();
        if asked {
            bench.answer(Answer::Allow);
        }
        asked
    };
    assert!((0..16).all(|n| asked(&mut bench, n)));
    assert!((0..16).all(|n| !asked(&mut bench, n)));
    assert!(asked(&mut bench, 16));
    assert!((1..17).all(|n| !asked(&mut bench, n)));
    assert!(asked(&mut bench, 0), "the oldest made way");
}

#[test]
fn an_unknown_middleware_is_named() {
    let unknown = Stack::standard().remove("Nobody").unwrap_err();
    assert!(unknown.to_string().contains("Nobody"));
}

#[test]
fn a_reason_of_a_policy_that_a_packet_cannot_carry_becomes_an_unspecified_error() {
    // Sections 3.5.2.1, 3.11.3 and 3.14.2.1
    let policy =
        |_: &str, _: Option<&str>, _: Wanted<'_>| Permission::Deny(ReasonCode::BadUserNameOrPassword);
    let stack = Stack::standard().replace("Authorize", Authorize::new(policy)).unwrap();
    let mut bench = Bench::with(Config::default(), stack);
    let alice = bench.connect(Version::V5, "alice");
    bench.publish(alice, "t", "m", Q1);
    bench.publish(alice, "t", "m", Q2);
    assert_eq!(bench.lines(alice), ["PUBACK 80 #1", "PUBREC 80 #1"]);
}

/// Counts look-ups in queues.
struct LookUps(Arc<AtomicU64>);

impl Middleware for LookUps {
    fn name(&self) -> &'static str {
        "LookUps"
    }
    fn wants(&self) -> Hooks {
        Hooks::LOOKUP_OFFLINE
    }
    fn action(&mut self, _: &mut Cx<'_>, _: &mut Action) -> Flow {
        self.0.fetch_add(1, Relaxed);
        Flow::Next
    }
}

#[test]
fn an_acknowledgement_looks_nothing_up_when_nothing_waits() {
    let count = Arc::new(AtomicU64::new(0));
    let stack = Stack::standard().insert_before("MemoryBackend", LookUps(Arc::clone(&count))).unwrap();
    let mut bench = Bench::with(Config { in_flight_max: 1, ..Config::default() }, stack);
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", Q2);
    // The one that looked for what is retained.
    assert_eq!(count.swap(0, Relaxed), 1);
    for expected in [0, 1] {
        (0..=expected).for_each(|_| bench.publish(alice, "t", "m", Q1));
        assert_eq!(bench.handshake(alice).len() as u64, 1 + expected);
        assert_eq!(count.load(Relaxed), expected);
    }
}
