//! Gates: nothing is acknowledged before what it stands for is durable.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::broker::{Action, Cx, Record};
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Close, Config, ConnectionId, Flow, Hooks, LogSeq, Message, Middleware, Stack};
use proptest::prelude::*;
use std::collections::VecDeque;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

/// Stores what a durable backend would; what it holds in memory is the backend's behind it.
struct Log;

impl Middleware for Log {
    fn name(&self) -> &'static str {
        "Log"
    }

    fn wants(&self) -> Hooks {
        Hooks::RELAY
            | Hooks::STORE_INBOUND
            | Hooks::STORE_SESSION
            | Hooks::SUBSCRIBE_TOPIC
            | Hooks::UNSUBSCRIBE_TOPIC
            | Hooks::STORE_OFFLINE
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        let name = |name: &str| Record::SessionEnded { client_id: name.into() };
        match action {
            Action::Relay(relay) if relay.ack.is_some() => {
                if let Some(message) = cx.keep(&relay.what) {
                    cx.store(Record::Retained(message));
                }
            }
            Action::Relay(_) => {}
            Action::StoreInbound { held, .. } => {
                cx.store(name(if *held { "held" } else { "released" }));
            }
            Action::StoreSession { .. } => {
                cx.store(name("session"));
            }
            Action::SubscribeTopic(_) => {
                cx.store(name("subscription"));
            }
            Action::UnsubscribeTopic(_) => {
                cx.store(name("unsubscription"));
            }
            Action::StoreOffline { .. } => {
                cx.store(name("offline"));
            }
            _ => {}
        }
        Flow::Next
    }
}

fn durable_with(config: Config) -> Bench {
    Bench::with(config, Stack::standard().insert_before("MemoryBackend", Log).unwrap())
}

fn durable() -> Bench {
    durable_with(Config::default())
}

/// Everything stored so far is durable.
fn commit(bench: &mut Bench) {
    let through = bench.stores.last().map_or(LogSeq(0), |(seq, _)| *seq);
    committed(bench, through);
}

fn committed(bench: &mut Bench, through: LogSeq) {
    bench.broker.committed(bench.now, through);
    bench.drain();
}

fn fail(bench: &mut Bench, from: u64) {
    bench.broker.commit_failed(bench.now, LogSeq(from));
    bench.drain();
}

fn stored(bench: &Bench) -> Vec<String> {
    let text = |record: &Record| match record {
        Record::Retained(message) => message.topic().to_owned(),
        Record::SessionEnded { client_id } => client_id.to_string(),
        other => format!("{other:?}"),
    };
    bench.stores.iter().map(|(_, record)| text(record)).collect()
}

/// Commits record by record, and says what a connection got after each.
fn step_by_step(bench: &mut Bench, id: ConnectionId, from: u64) -> Vec<Vec<String>> {
    let mut got = Vec::new();
    let mut seq = from;
    while bench.stores.last().is_some_and(|(last, _)| last.0 >= seq) {
        committed(bench, LogSeq(seq));
        got.push(bench.lines(id));
        seq += 1;
    }
    got
}

#[test]
fn no_acknowledgement_leaves_before_its_gate_opens() {
    let mut bench = durable();
    let alice = bench.connect(Version::V311, "alice");
    bench.publish_as(alice, 1, "t", "1", Q1);
    bench.publish_as(alice, 2, "t", "2", Q2);
    bench.subscribe_all(alice, &[("a", SubscriptionOptions::new(Q1)), ("b", SubscriptionOptions::new(Q1))]);
    bench.unsubscribe(alice, "a");
    bench.publish_as(alice, 3, "t", "3", Q1);
    assert_eq!(stored(&bench), ["t", "held", "subscription", "subscription", "unsubscription", "t"]);
    // The connection is alive all the while.
    bench.send(alice, &Packet::Pingreq);
    assert_eq!(bench.lines(alice), ["PINGRESP"]);
    let steps = step_by_step(&mut bench, alice, 1);
    assert_eq!(stored(&bench)[6], "t", "the QoS 2 message, once it was passed on");
    assert_eq!(steps[0], ["PUBACK 00 #1"]);
    assert_eq!(steps[1..6].concat(), [""; 0]);
    let rest = ["PUBREC 00 #2", "SUBACK [01, 01] #777", "UNSUBACK [] #778", "PUBACK 00 #3"];
    assert_eq!(steps[6], rest);
}

#[test]
fn acknowledgements_leave_in_arrival_order() {
    let mut bench = durable();
    let alice = bench.connect(Version::V311, "alice");
    bench.publish_as(alice, 1, "t", "1", Q1);
    bench.publish_as(alice, 2, "t", "2", Q2);
    bench.publish_as(alice, 3, "t", "3", Q1);
    bench.subscribe_all(alice, &[("a", SubscriptionOptions::new(Q1))]);
    bench.acknowledge(alice, PacketType::Pubrel, 2);
    bench.unsubscribe(alice, "a");
    let lines: Vec<String> = step_by_step(&mut bench, alice, 1).concat();
    let expected = [
        "PUBACK 00 #1",
        "PUBREC 00 #2",
        "PUBACK 00 #3",
        "SUBACK [01] #777",
        "PUBCOMP 00 #2",
        "UNSUBACK [] #778",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn acknowledgements_leave_as_soon_as_they_may() {
    let mut bench = durable();
    let alice = bench.connect(Version::V5, "alice");
    for n in 1..=4 {
        bench.publish_as(alice, n, "t", "x", Q1);
    }
    let steps = step_by_step(&mut bench, alice, 1);
    let expected: Vec<Vec<String>> = (1..=4).map(|n| vec![format!("PUBACK 10 #{n}")]).collect();
    assert_eq!(steps, expected);
    // Not stored: not held back.
    bench.publish_as(alice, 5, "t", "x", Q1);
    commit(&mut bench);
    bench.publish_as(alice, 0, "t", "x", Q0);
    assert_eq!(bench.lines(alice), ["PUBACK 10 #5"]);
}

#[test]
fn a_commit_beyond_what_was_stored_commits_nothing_to_come() {
    let mut bench = durable();
    let alice = bench.connect(Version::V5, "alice");
    committed(&mut bench, LogSeq(1_000));
    bench.publish_as(alice, 1, "t", "x", Q1);
    assert!(bench.lines(alice).is_empty());
    commit(&mut bench);
    // An older position again changes nothing.
    committed(&mut bench, LogSeq(0));
    assert_eq!(bench.lines(alice), ["PUBACK 10 #1"]);
}

#[test]
fn connack_waits_for_its_session() {
    let mut bench = durable();
    let lasting = Connect { clean_start: false, ..connect(Version::V311, "alice") };
    let alice = bench.try_connect(&lasting);
    assert_eq!(stored(&bench), ["session"]);
    assert!(bench.lines(alice).is_empty());
    // What it says meanwhile waits.
    assert_eq!(bench.broker.read_credit(alice), 0);
    bench.send(alice, &Packet::Pingreq);
    assert!(bench.lines(alice).is_empty());
    commit(&mut bench);
    assert_eq!(bench.lines(alice), ["CONNACK 00", "PINGRESP"]);
    assert_eq!(bench.credits, [alice]);
    // A session that ends with its connection is not stored.
    bench.connect(Version::V5, "bob");
}

#[test]
fn a_client_that_left_before_its_connack_was_never_here() {
    let mut bench = durable();
    let lasting = Connect { clean_start: false, ..connect(Version::V311, "alice") };
    let alice = bench.try_connect(&lasting);
    bench.cut(alice);
    bench.notices.clear();
    commit(&mut bench);
    assert!(bench.notices.is_empty(), "{:?}", bench.notices);
    assert_eq!((bench.broker.connections(), bench.broker.sessions()), (0, 1));
    assert_eq!(bench.broker.deadline(), None);
}

#[test]
fn a_qos_2_message_is_passed_on_once_a_repetition_would_be_recognized() {
    let mut bench = durable();
    let listener = bench.connect(Version::V5, "listener");
    bench.subscribe_all(listener, &[("#", SubscriptionOptions::new(Q2))]);
    commit(&mut bench);
    bench.output(listener);
    let alice = bench.connect(Version::V311, "alice");
    bench.publish_as(alice, 7, "t", "once", Q2);
    assert!(bench.messages(listener).is_empty());
    // A repetition in the meantime.
    let again = Publish { dup: true, packet_id: Some(id(7)), ..publish("t", "once", Q2) };
    bench.send(alice, &Packet::Publish(again));
    for _ in 0..3 {
        commit(&mut bench);
    }
    assert_eq!(bench.handshake(listener), ["t: once"]);
    let lines = bench.lines(alice);
    assert!(!lines.is_empty() && lines.iter().all(|line| line == "PUBREC 00 #7"), "{lines:?}");
    // QoS 1 does not wait.
    bench.publish_as(alice, 8, "t", "at least once", Q1);
    assert_eq!(bench.handshake(listener), ["t: at least once"]);
    assert!(bench.lines(alice).is_empty());
}

#[test]
fn a_message_is_passed_on_even_if_its_publisher_left() {
    let mut bench = durable();
    let program = bench.broker.subscribe(bench.now, "t").unwrap();
    let alice = bench.connect(Version::V311, "alice");
    bench.publish_as(alice, 7, "t", "once", Q2);
    bench.cut(alice);
    assert!(bench.forwards.is_empty());
    commit(&mut bench);
    assert_eq!(bench.forwards[0].receivers[0].session, program);
}

#[test]
fn a_connection_does_not_wait_for_another() {
    let mut bench = durable();
    let (alice, bob) = (bench.connect(Version::V5, "alice"), bench.connect(Version::V5, "bob"));
    bench.publish_as(alice, 1, "t", "x", Q1);
    bench.send(
        bob,
        &Packet::Unsubscribe(Unsubscribe {
            packet_id: id(1),
            properties: Properties::EMPTY,
            filters: UnsubscribeFiltersBuf::new().push("\u{1}/+/#").unwrap().as_filters(),
        }),
    );
    let (last, _) = bench.stores.pop().unwrap();
    committed(&mut bench, LogSeq(last.0 - 1));
    assert_eq!(bench.lines(alice), ["PUBACK 10 #1"]);
    assert!(bench.lines(bob).is_empty());
    committed(&mut bench, last);
    assert_eq!(bench.lines(bob), ["UNSUBACK [11] #1"]);
    // Nothing stored on its behalf: nothing to wait for.
    bench.publish_as(alice, 2, "t", "x", Q1);
    bench.acknowledge(bob, PacketType::Pubrel, 9);
    assert_eq!(stored(&bench).last().unwrap(), "t");
    assert_eq!(bench.lines(bob), ["PUBCOMP 92 #9"]);
}

#[test]
fn receive_maximum_counts_messages_and_nothing_else() {
    let mut bench = durable_with(Config { receive_maximum: 2, ..Config::default() });
    let (sleeper, _) = bench.connect_with(&connect(Version::V311, "sleeper"));
    bench.subscribe_all(sleeper, &[("t", SubscriptionOptions::new(Q1))]);
    let alice = bench.connect(Version::V5, "alice");
    // Other acknowledgements that wait do not count.
    for n in 0..5 {
        bench.subscribe_all(alice, &[(&format!("a/{n}"), SubscriptionOptions::new(Q1))]);
    }
    bench.publish_as(alice, 1, "t", "x", Q2);
    commit(&mut bench);
    // Its relay was stored, too: PUBREC waits for that. It is one message still.
    bench.publish_as(alice, 2, "t", "x", Q1);
    assert!(!bench.closed(alice), "{:?}", bench.lines(alice));
    // [MQTT-3.3.4-9]
    bench.publish_as(alice, 3, "t", "x", Q1);
    assert!(bench.closed(alice));
    assert_eq!(bench.lines(alice).last().unwrap(), "DISCONNECT 93");
}

#[test]
fn what_cannot_be_made_durable_is_never_acknowledged() {
    for version in [Version::V311, Version::V5] {
        let mut bench = durable();
        let (alice, bob) = (bench.connect(version, "alice"), bench.connect(version, "bob"));
        let carol = bench.connect(version, "carol");
        let waiting = bench.try_connect(&Connect { clean_start: false, ..connect(Version::V311, "dave") });
        bench.publish_as(alice, 1, "t", "good", Q1);
        let good = bench.stores.last().unwrap().0;
        bench.publish_as(alice, 2, "t", "bad", Q1);
        bench.publish_as(bob, 3, "t", "bad", Q2);
        committed(&mut bench, good);
        assert_eq!(bench.lines(alice).len(), 1);
        bench.output(waiting);
        fail(&mut bench, good.0 + 1);
        for id in [alice, bob] {
            let expected: &[&str] = if version == Version::V5 { &["DISCONNECT 80"] } else { &[] };
            assert_eq!(bench.lines(id), expected);
            assert!(bench.closed(id));
        }
        assert!(!bench.closed(carol) && !bench.closed(waiting));
        // From now on nothing is promised any more.
        bench.publish_as(carol, 4, "t", "x", Q0);
        assert!(!bench.closed(carol));
        bench.publish_as(carol, 5, "t", "x", Q1);
        if version == Version::V5 {
            assert_eq!(bench.lines(carol), ["PUBACK 83 #5"]);
        } else {
            // A refusal would look like an acknowledgement.
            assert!(bench.closed(carol) && bench.lines(carol).is_empty());
        }
        assert!(bench.closes.iter().all(|(_, how)| *how == Close::Finish));
        // What waited is gone for good.
        committed(&mut bench, LogSeq(1_000));
        assert!(bench.lines(bob).is_empty());
    }
}

#[test]
fn a_connack_whose_session_cannot_be_kept_is_a_refusal() {
    let mut bench = durable();
    let alice = bench.try_connect(&Connect { clean_start: false, ..connect(Version::V311, "alice") });
    fail(&mut bench, 1);
    assert_eq!(bench.output(alice), [0x20, 2, 0, 3]);
    assert!(bench.closed(alice));
}

#[test]
fn nobody_waits_for_a_record_that_will_never_be_durable() {
    let mut bench = durable();
    let lasting = Connect { clean_start: false, ..connect(Version::V311, "sleeper") };
    let sleeper = bench.try_connect(&lasting);
    commit(&mut bench);
    bench.subscribe_all(sleeper, &[("t", SubscriptionOptions::new(Q1))]);
    commit(&mut bench);
    bench.cut(sleeper);
    // Stored on behalf of a publisher of the program: no connection waits.
    let message = Message::new("t", b"x", Q1, false).unwrap();
    bench.broker.publish(bench.now, message, culex_core::broker::Origin::Program).unwrap();
    let alice = bench.connect(Version::V5, "alice");
    bench.drain();
    let next = bench.stores.last().unwrap().0.0 + 1;
    fail(&mut bench, next);
    // A backend that stores all the same: its client is told instead of left waiting.
    bench.subscribe_all(alice, &[("t", SubscriptionOptions::new(Q1))]);
    assert_eq!(bench.lines(alice), ["DISCONNECT 80"]);
    assert!(bench.closed(alice));
}

/// What clients, log and disk do.
#[derive(Debug, Clone)]
enum Step {
    Publish(usize),
    /// So many filters: as many records.
    Subscribe(usize, usize),
    /// A PUBREL that stores nothing: its PUBCOMP must not overtake.
    Release(usize),
    /// So many more records are durable, or none.
    Commit(u64),
    /// Nothing behind so many more records ever will be.
    Fail(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0usize..3;
    prop_oneof![
        6 => who().prop_map(Step::Publish),
        3 => (who(), 1usize..4).prop_map(|(who, filters)| Step::Subscribe(who, filters)),
        2 => who().prop_map(Step::Release),
        5 => (0u64..6).prop_map(Step::Commit),
        1 => (0u64..6).prop_map(Step::Fail),
    ]
}

/// One client: the last record that was stored for it, and what it waits for.
struct Waiting {
    id: ConnectionId,
    stored: u64,
    acks: VecDeque<(u64, String)>,
    closed: bool,
}

/// Three clients, and where the log is.
struct Log3 {
    bench: Bench,
    clients: Vec<Waiting>,
    assigned: u64,
    committed: u64,
    failed: Option<u64>,
    packet_id: u16,
}

impl Log3 {
    fn new() -> Self {
        let mut bench = durable();
        let names = ["alice", "bob", "carol"];
        let waiting = |id| Waiting { id, stored: 0, acks: VecDeque::new(), closed: false };
        let clients = names.map(|name| waiting(bench.connect(Version::V5, name))).into();
        Self { bench, clients, assigned: 0, committed: 0, failed: None, packet_id: 0 }
    }

    fn step(&mut self, step: &Step) {
        self.packet_id += 1;
        let number = self.packet_id;
        match *step {
            Step::Commit(more) => {
                let through = self.committed + more;
                committed(&mut self.bench, LogSeq(through));
                self.committed = through.min(self.assigned);
            }
            // Nobody knows what a log would do that went on after it failed.
            _ if self.failed.is_some() => {}
            Step::Fail(more) => {
                let from = self.committed + 1 + more;
                self.failed = Some(from);
                fail(&mut self.bench, from);
            }
            Step::Publish(who) => {
                self.bench.publish_as(self.clients[who].id, number, "t", "x", Q1);
                self.wait(who, 1, format!("PUBACK 10 #{number}"));
            }
            Step::Subscribe(who, count) => {
                let options = SubscriptionOptions::new(Q1);
                let filters = &[("a", options), ("b", options), ("c", options)][..count];
                self.bench.subscribe_all(self.clients[who].id, filters);
                self.wait(who, count as u64, format!("SUBACK {:02X?} #777", vec![1; count]));
            }
            Step::Release(who) => {
                self.bench.acknowledge(self.clients[who].id, PacketType::Pubrel, number);
                self.wait(who, 0, format!("PUBCOMP 92 #{number}"));
            }
        }
        self.check();
    }

    /// The answer to what stored so many records.
    fn wait(&mut self, who: usize, records: u64, ack: String) {
        self.assigned += records;
        let client = &mut self.clients[who];
        if records > 0 {
            client.stored = self.assigned;
        }
        client.acks.push_back((client.stored, ack));
    }

    /// Everyone got what may leave and nothing else, in the order of the requests.
    fn check(&mut self) {
        assert_eq!(self.bench.stores.last().map_or(0, |(seq, _)| seq.0), self.assigned);
        for client in &mut self.clients {
            let mut expected = Vec::new();
            while !client.closed
                && let Some((at, _)) = client.acks.front()
                && *at <= self.committed
            {
                expected.extend(client.acks.pop_front().map(|(_, ack)| ack));
            }
            let lost = |(at, _): &(u64, String)| self.failed.is_some_and(|from| *at >= from);
            if !client.closed && client.acks.iter().any(lost) {
                client.closed = true;
                expected.push("DISCONNECT 80".into());
            }
            assert_eq!(self.bench.lines(client.id), expected);
            assert_eq!(self.bench.closed(client.id), client.closed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn acknowledgements_leave_in_order_and_never_early_however_the_log_goes(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut log = Log3::new();
        for step in &steps {
            log.step(step);
        }
        // In the end everyone who is still here has his answers.
        log.step(&Step::Commit(1_000));
        prop_assert!(log.clients.iter().all(|client| client.closed || client.acks.is_empty()));
    }
}

#[test]
fn who_does_not_accept_an_answer_that_waited_is_gone_at_once() {
    let mut bench = durable();
    let bob = bench.connect(Version::V5, "bob");
    bench.subscribe_all(bob, &[("w", SubscriptionOptions::new(Q0))]);
    let properties = properties(&[Property::MaximumPacketSize(60)]);
    let packet = Connect { will: Some(will("w", b"gone")), properties, ..connect(Version::V5, "alice") };
    let alice = bench.connect_with(&packet).0;
    bench.subscribe_all(alice, &[("a", SubscriptionOptions::new(Q0)); 80]);
    assert!(!bench.closed(alice));
    commit(&mut bench);
    assert!(bench.closed(alice), "SUBACK is larger than what it accepts");
    assert_eq!(bench.messages(bob), ["w: gone"]);
}
