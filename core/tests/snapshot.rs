//! Snapshots: a machine made of one goes on as if nothing had been. What holds for any session is in
//! `tests/tests/properties.rs`; here are the single things it has to remember, and what it refuses.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::broker::{Action, Answer, Cx, Disconnect, Input, Origin, Peer, Record, ShardMessage};
use culex_core::id::Id;
use culex_core::middleware::{Authentication, PacketEmitter};
use culex_core::packet::*;
use culex_core::saved::{Malformed, Reader, Saved, Writer};
use culex_core::testing::*;
use culex_core::{
    BadSnapshot, Broker, Config, ConnectionId, Flow, Hooks, LogSeq, Message, Middleware, SessionId, ShardId,
    Stack, Ticket, Violation, Wall,
};
use proptest::prelude::*;
use std::sync::Arc;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

fn snapshot(broker: &Broker) -> Vec<u8> {
    let mut bytes = Vec::new();
    broker.snapshot(&mut bytes);
    bytes
}

/// From here on a copy of the machine is on the bench.
fn exchange(bench: &mut Bench, stack: Stack) {
    let bytes = snapshot(&bench.broker);
    bench.broker = Broker::from_snapshot(None, stack, &bytes).unwrap();
    assert!(snapshot(&bench.broker) == bytes);
}

fn persistent(version: Version, client_id: &str) -> Connect<'_> {
    let expires = &[Property::SessionExpiryInterval(100)];
    let properties = if version == Version::V5 { properties(expires) } else { Properties::EMPTY };
    Connect { clean_start: false, properties, ..connect(version, client_id) }
}

#[test]
fn sessions_subscriptions_queues_and_windows_are_remembered() {
    let mut bench = Bench::new();
    let alice = bench.connect_with(&persistent(Version::V5, "alice")).0;
    bench.subscribe(alice, "a/+", Q1);
    bench.subscribe(alice, "$share/g/b", Q2);
    let bob = bench.connect(Version::V311, "bob");
    bench.publish(bob, "a/1", "in flight", Q1);
    bench.cut(alice);
    bench.publish(bob, "a/2", "queued", Q1);
    exchange(&mut bench, Stack::standard());
    let (alice, present) = bench.connect_with(&persistent(Version::V5, "alice"));
    assert!(present);
    assert_eq!(bench.messages(alice), ["a/1: in flight", "a/2: queued"]);
    bench.publish(bob, "b", "shared", Q0);
    assert_eq!(bench.messages(alice), ["b: shared"]);
}

#[test]
fn half_a_packet_is_remembered() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V311, "alice");
    bench.bytes(alice, b"\xC0");
    exchange(&mut bench, Stack::standard());
    bench.bytes(alice, b"\x00");
    assert_eq!(bench.output(alice), b"\xD0\x00");
}

#[test]
fn timers_go_off_when_they_would_have() {
    let mut bench = Bench::new();
    let will = Some(Will { properties: properties(&[Property::WillDelayInterval(5)]), ..will("w", b"gone") });
    let packet = Connect { keep_alive: 10, will, ..persistent(Version::V5, "alice") };
    let alice = bench.connect_with(&packet).0;
    let bob = bench.connect(Version::V5, "bob");
    bench.subscribe(bob, "w", Q0);
    exchange(&mut bench, Stack::standard());
    bench.pass_ms(14_999);
    assert!(!bench.closed(alice));
    bench.pass_ms(2);
    assert!(bench.closed(alice), "the keep alive");
    exchange(&mut bench, Stack::standard());
    bench.pass_ms(4_900);
    assert!(bench.messages(bob).is_empty());
    bench.pass_ms(200);
    assert_eq!(bench.messages(bob), ["w: gone"]);
}

#[test]
fn retained_messages_go_on_where_they_were_interrupted() {
    let config = Config { outbox_bytes_max: 200, ..Config::default() };
    let mut bench = Bench::with(config, Stack::standard());
    let bob = bench.connect(Version::V5, "bob");
    for n in 0..100 {
        bench.send(bob, &retained(&format!("r/{n:02}"), "0123456789", Q0));
    }
    let alice = bench.connect(Version::V5, "alice");
    bench.clog(alice, true);
    let filters = subscribe_filters(&[("r/#", SubscriptionOptions::new(Q0))]);
    let packet = Subscribe { packet_id: id(1), properties: Properties::EMPTY, filters: filters.as_filters() };
    bench.send(alice, &Packet::Subscribe(packet));
    exchange(&mut bench, Stack::standard());
    bench.clog(alice, false);
    assert_eq!(bench.messages(alice).len(), 100);
}

#[test]
fn what_waits_for_an_answer_still_gets_it() {
    let stack = || Stack::standard().replace("Authentication", Authentication::ask()).unwrap();
    let mut bench = Bench::with(Config::default(), stack());
    let alice = bench.try_connect(&Connect { password: Some(b"secret"), ..connect(Version::V5, "alice") });
    exchange(&mut bench, stack());
    bench.answer(Answer::Allow);
    assert_eq!(bench.lines(alice).len(), 1, "CONNACK");
    let bob = bench.try_connect(&connect(Version::V5, "bob"));
    exchange(&mut bench, stack());
    bench.pass_ms(6_000);
    assert!(bench.closed(bob), "the question has a deadline");
}

/// Stores every message that waits for an acknowledgement.
struct Log(u64);

impl Middleware for Log {
    fn name(&self) -> &'static str {
        "Log"
    }

    fn wants(&self) -> Hooks {
        Hooks::RELAY
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        if let Action::Relay(relay) = action
            && let Some(message) = cx.keep(&relay.what)
        {
            self.0 += 1;
            cx.store(Record::Retained(message));
        }
        Flow::Next
    }

    fn save(&self, to: &mut Writer<'_>) {
        to.number(self.0);
    }

    fn load(&mut self, _: &mut Cx<'_>, from: &mut Reader<'_>) -> Result<(), Malformed> {
        self.0 = from.number()?;
        // For the tests below: 99 is what it cannot have been.
        if self.0 == 99 { Err(from.malformed()) } else { Ok(()) }
    }
}

fn durable(count: u64) -> Stack {
    Stack::standard().insert_before("MemoryBackend", Log(count)).unwrap()
}

#[test]
fn gates_open_when_what_they_wait_for_is_durable() {
    let mut bench = Bench::with(Config::default(), durable(0));
    let alice = bench.connect(Version::V311, "alice");
    bench.publish_as(alice, 7, "a", "x", Q1);
    assert!(bench.output(alice).is_empty());
    exchange(&mut bench, durable(0));
    bench.publish_as(alice, 8, "a", "y", Q2);
    exchange(&mut bench, durable(0));
    assert!(bench.output(alice).is_empty());
    bench.broker.committed(bench.now, LogSeq(1));
    bench.drain();
    assert_eq!(bench.output(alice), [0x40, 2, 0, 7]);
    bench.broker.committed(bench.now, LogSeq(2));
    bench.drain();
    assert_eq!(bench.output(alice), [0x50, 2, 0, 8]);
}

/// Everything that left the bench is durable.
fn commit(bench: &mut Bench) {
    let through = bench.stores.last().map_or(LogSeq(0), |(seq, _)| *seq);
    bench.broker.committed(bench.now, through);
    bench.drain();
}

#[test]
fn the_log_goes_on_where_it_was_with_what_waits_for_it() {
    let mut bench = Bench::with(Config::default(), Stack::durable());
    let alice = bench.try_connect(&persistent(Version::V5, "alice"));
    exchange(&mut bench, Stack::durable());
    assert!(bench.output(alice).is_empty(), "CONNACK waits for the session");
    commit(&mut bench);
    assert_eq!(bench.lines(alice).len(), 1);
    bench.subscribe_all(alice, &[("a/#", SubscriptionOptions::new(Q2))]);
    commit(&mut bench);
    let bob = bench.try_connect(&persistent(Version::V311, "bob"));
    commit(&mut bench);
    bench.output(alice);
    bench.output(bob);
    bench.publish_as(bob, 1, "a/1", "accepted", Q2);
    bench.publish_as(bob, 2, "b", "behind it", Q1);
    exchange(&mut bench, Stack::durable());
    let position = bench.broker.log_position();
    // It is passed on, and in flight to alice as soon as that is durable.
    commit(&mut bench);
    assert!(bench.broker.log_position() > position);
    exchange(&mut bench, Stack::durable());
    assert!(bench.output(alice).is_empty() && bench.output(bob).is_empty());
    commit(&mut bench);
    assert_eq!(bench.messages(alice), ["a/1: accepted"]);
    let order: Vec<_> = bench.packets(bob).iter().map(|packet| packet[..6].to_owned()).collect();
    assert_eq!(order, ["Pubrec", "Puback"]);
}

#[test]
fn records_that_did_not_leave_yet_are_remembered() {
    let mut bench = Bench::with(Config::default(), Stack::durable());
    let expires = &[Property::SessionExpiryInterval(100)];
    let packet = Connect { properties: properties(expires), ..connect(Version::V5, "alice") };
    let id = bench.broker.accept(bench.now, Peer::default()).unwrap();
    let mut bytes = Vec::new();
    packet.encode(Version::V5, &mut bytes).unwrap();
    bench.broker.receive(bench.now, id, &bytes);
    exchange(&mut bench, Stack::durable());
    let stored = std::iter::from_fn(|| bench.broker.poll_action())
        .filter(|action| matches!(action, Action::Store { seq: LogSeq(1), .. }));
    assert_eq!(stored.count(), 1);
}

#[test]
fn a_message_is_written_once_however_many_hold_it() {
    let mut bench = Bench::new();
    for n in 0..50 {
        let client_id = format!("client {n}");
        let client = bench.connect_with(&persistent(Version::V311, &client_id)).0;
        bench.subscribe(client, "a", Q1);
        // Some have it in their outbox, some in flight, some in their queue.
        match n % 3 {
            0 => bench.clog(client, true),
            1 => bench.cut(client),
            _ => {}
        }
    }
    let bob = bench.connect(Version::V5, "bob");
    bench.publish(bob, "a", &"x".repeat(100_000), Q1);
    assert!(snapshot(&bench.broker).len() < 120_000);
    exchange(&mut bench, Stack::standard());
    assert!(snapshot(&bench.broker).len() < 120_000, "and shared again");
}

#[test]
fn an_outbox_that_was_begun_goes_on_behind_what_was_written() {
    let mut bench = Bench::new();
    let clients = ["alice", "carol"].map(|name| bench.connect(Version::V5, name));
    for client in clients {
        bench.subscribe(client, "a", Q0);
        bench.clog(client, true);
    }
    let bob = bench.connect(Version::V5, "bob");
    bench.publish(bob, "a", &"x".repeat(10_000), Q0);
    bench.publish(bob, "a", "y", Q0);
    let mut got = Vec::new();
    for step in [3, 5_000, 5_100] {
        bench.broker.writable(clients[0]);
        let transmit = bench.broker.poll_transmit().unwrap();
        got.extend(transmit.chunks().flatten().copied().take(step));
        transmit.written(step);
        exchange(&mut bench, Stack::standard());
    }
    bench.clog(clients[0], false);
    bench.clog(clients[1], false);
    got.extend(bench.output(clients[0]));
    assert_eq!(got, bench.output(clients[1]));
    assert_eq!(decode(&got, Version::V5).len(), 2);
}

#[test]
fn settings_go_along_unless_others_are_given() {
    let config = Config { connections_max: 7, redirect_to: "é, elsewhere".into(), ..Config::default() };
    let bench = Bench::with(config.clone(), Stack::standard());
    let bytes = snapshot(&bench.broker);
    let broker = Broker::from_snapshot(None, Stack::standard(), &bytes).unwrap();
    assert_eq!(broker.config(), &config);
    let other = Arc::new(Config::default());
    let broker = Broker::from_snapshot(Some(other), Stack::standard(), &bytes).unwrap();
    assert_eq!(broker.config(), &Config::default());
}

#[test]
fn another_chain_is_refused_and_named() {
    let bytes = snapshot(&Bench::new().broker);
    for other in [
        Stack::empty(),
        Stack::standard().remove("Authorize").unwrap(),
        Stack::standard()
            .remove("PacketEmitter")
            .and_then(|stack| stack.insert_before("Connection", PacketEmitter::default()))
            .unwrap(),
    ] {
        match Broker::from_snapshot(None, other, &bytes) {
            Err(BadSnapshot::Stack(names)) => assert_eq!(names.len(), 12),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_not_whole_is_refused() {
    let mut bench = Bench::new();
    bench.connect(Version::V5, "alice");
    let bytes = snapshot(&bench.broker);
    let read = |bytes: &[u8]| Broker::from_snapshot(None, Stack::standard(), bytes).map(|_| ());
    assert_eq!(read(&bytes), Ok(()));
    assert_eq!(read(b""), Err(BadSnapshot::Unknown));
    assert_eq!(read(b"something that is no snapshot"), Err(BadSnapshot::Unknown));
    assert_eq!(read(&bytes[..bytes.len() - 1]), Err(BadSnapshot::Damaged));
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(read(&longer), Err(BadSnapshot::Damaged));
    for at in [40, bytes.len() / 2, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_eq!(read(&changed), Err(BadSnapshot::Damaged));
    }
    let mut other = bytes;
    let version = other.windows(5).position(|five| five == b"0.1.0").unwrap();
    other[version] = b'9';
    assert_eq!(read(&other), Err(BadSnapshot::Version("9.1.0".into())));
}

#[test]
fn a_part_that_cannot_read_its_state_refuses() {
    let bench = Bench::with(Config::default(), durable(99));
    let broker = Broker::from_snapshot(None, durable(0), &snapshot(&bench.broker));
    assert!(matches!(broker, Err(BadSnapshot::Malformed(_))));
}

fn inputs() -> Vec<Input> {
    let message = Message::with_properties(
        "a/b",
        b"payload",
        Q1,
        true,
        &[Property::ContentType("text")],
        Some(Wall(7)),
    )
    .unwrap();
    let (id, session) = (ConnectionId::new(1, 2), SessionId::new(300, 4));
    let peer = |address: &str| Peer { address: Some(address.parse().unwrap()), listener: 3, identity: None };
    let named = Peer { identity: Some("CN=ann".into()), ..peer("[::1]:9") };
    let complete = |answer| Input::Complete { ticket: Ticket::new(5, 6), answer };
    vec![
        Input::Accept(Peer::default()),
        Input::Accept(peer("1.2.3.4:5")),
        Input::Accept(peer("[fe80::1%7]:65535")),
        Input::Identified { id, peer: named },
        Input::Receive { id, bytes: b"bytes".as_slice().into() },
        Input::Written { id, count: 1 << 20 },
        Input::Writable(id),
        Input::Disconnected { id, cause: Disconnect::Error },
        Input::Tick,
        complete(Answer::Allow),
        complete(Answer::AllowAs("me".into())),
        complete(Answer::AllowWith { user_name: None, data: b"x".as_slice().into() }),
        complete(Answer::Deny(ReasonCode::Banned)),
        complete(Answer::Redirect { server_reference: "there".into(), moved: true }),
        complete(Answer::PerFilter(vec![None, Some(ReasonCode::QuotaExceeded)])),
        complete(Answer::Continue(b"more".as_slice().into())),
        complete(Answer::Custom(b"own".as_slice().into())),
        Input::Committed(LogSeq(u64::MAX)),
        Input::CommitFailed(LogSeq(9)),
        Input::FromShard { from: ShardId(1), message: ShardMessage(b"said".as_slice().into()) },
        Input::Publish { message: message.clone(), origin: Origin::Program },
        Input::Publish { message, origin: Origin::Session(session) },
        Input::Subscribe("a/+".into()),
        Input::Unsubscribe(session),
        Input::Shutdown,
        Input::Violated { id, violation: Violation::protocol("MQTT-6.0.0-1") },
    ]
}

#[test]
fn every_input_can_be_written_and_read() {
    let mut bytes = Vec::new();
    inputs().iter().for_each(|input| input.encode(&mut bytes));
    let mut rest = &bytes[..];
    for input in inputs() {
        let (read, behind) = Input::decode(rest).unwrap();
        assert_eq!(format!("{read:?}"), format!("{input:?}"));
        let mut again = Vec::new();
        read.encode(&mut again);
        assert_eq!(again, rest[..rest.len() - behind.len()], "payloads too");
        rest = behind;
    }
    assert!(rest.is_empty());
    for input in inputs() {
        let mut bytes = Vec::new();
        input.encode(&mut bytes);
        assert!((0..bytes.len()).all(|length| Input::decode(&bytes[..length]).is_err()));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_reading_an_input_or_an_action_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0..40u8) {
        let bytes: Vec<u8> = [kind].into_iter().chain(bytes).collect();
        let _ = Input::decode(&bytes);
        let _ = Action::load(&mut Reader::new(&bytes));
    }
}
