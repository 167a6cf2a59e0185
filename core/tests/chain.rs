//! The chain: middlewares of one's own, parts that are missing, what falls through, what the program hears and says.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::broker::{Action, Close, Cx, Input, Notice, OpenSession, Origin, Peer, Refused, What};
use culex_core::id::Id;
use culex_core::middleware::{Notices, PacketEmitter};
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, ConnectionId, Flow, Hooks, Message, Middleware, SessionId, Stack};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;
const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn bench(stack: Stack) -> Bench {
    Bench::with(Config::default(), stack)
}

fn without(name: &str) -> Stack {
    Stack::standard().remove(name).unwrap()
}

/// A middleware of one's own: puts the topics of all clients below `tenant/`.
struct Rewrite;

impl Middleware for Rewrite {
    fn name(&self) -> &'static str {
        "Rewrite"
    }

    fn wants(&self) -> Hooks {
        Hooks::PUBLISH
    }

    fn publish(&mut self, _: &mut Cx<'_>, _: ConnectionId, packet: &mut Publish<'_>) -> Flow {
        packet.topic = format!("tenant/{}", packet.topic).into();
        Flow::Next
    }
}

#[test]
fn a_middleware_rewrites_topics() {
    for qos in [Q0, Q1, Q2] {
        let mut bench = bench(Stack::standard().insert_before("InboundManager", Rewrite).unwrap());
        let alice = bench.connect(Version::V5, "alice");
        let bob = bench.connect(Version::V311, "bob");
        bench.subscribe(alice, "tenant/#", qos);
        bench.send(bob, &Packet::Publish(Publish { retain: true, ..publish("a", "hello", qos) }));
        bench.handshake(bob);
        assert_eq!(bench.handshake(alice), ["tenant/a: hello"]);
        // What is kept has the new topic, too.
        bench.subscribe(bob, "tenant/+", qos);
        assert_eq!(bench.handshake(bob), ["tenant/a: hello"]);
    }
}

/// Sends a copy of every message as it came in to the program's topic, before others change it.
struct Tap(SessionId);

impl Middleware for Tap {
    fn name(&self) -> &'static str {
        "Tap"
    }

    fn wants(&self) -> Hooks {
        Hooks::PUBLISH
    }

    fn publish(&mut self, cx: &mut Cx<'_>, _: ConnectionId, _: &mut Publish<'_>) -> Flow {
        let receiver = culex_core::Receiver {
            session: self.0,
            qos: Q0,
            retain: false,
            source: Default::default(),
            identifiers: Default::default(),
        };
        cx.emit(Action::Forward(culex_core::Forward::new(What::Current, vec![receiver])));
        Flow::Next
    }
}

#[test]
fn what_was_kept_before_a_rewrite_is_not_what_is_delivered_after_it() {
    // The first session of a machine.
    let program = SessionId::new(0, 0);
    let stack = Stack::standard().insert_before("InboundManager", Tap(program));
    let mut bench = bench(stack.and_then(|stack| stack.insert_after("Tap", Rewrite)).unwrap());
    assert_eq!(bench.broker.subscribe(bench.now, "nothing").unwrap(), program);
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "#", Q1);
    bench.publish(alice, "a", "1", Q1);
    assert_eq!(bench.forwards[0].message().unwrap().topic(), "a");
    assert_eq!(bench.handshake(alice), ["tenant/a: 1"]);
    // The window holds what was sent: on the next connection it is the same.
    let lasting = Connect { clean_start: false, ..connect(Version::V311, "carol") };
    let (carol, _) = bench.connect_with(&lasting);
    bench.subscribe(carol, "#", Q1);
    bench.publish(alice, "b", "2", Q1);
    bench.cut(carol);
    let (carol, _) = bench.connect_with(&lasting);
    assert_eq!(bench.handshake(carol), ["tenant/b: 2"]);
}

/// Does not want one address.
struct Bouncer;

impl Middleware for Bouncer {
    fn name(&self) -> &'static str {
        "Bouncer"
    }

    fn wants(&self) -> Hooks {
        Hooks::ACCEPT
    }

    fn accept(&mut self, _: &mut Cx<'_>, _: ConnectionId, peer: &Peer) -> Flow {
        match peer.address {
            Some(address) if address.ip().is_loopback() => Flow::Refuse(ReasonCode::Banned),
            _ => Flow::Next,
        }
    }
}

#[test]
fn a_middleware_refuses_an_address() {
    let unwanted = Peer { address: Some(([127, 0, 0, 1], 4711).into()), listener: 0, identity: None };
    let wanted = Peer { address: Some(([10, 0, 0, 1], 4711).into()), listener: 0, identity: None };
    for stack in [
        Stack::standard().insert_before("Connection", Bouncer).unwrap(),
        Stack::standard().insert_after("Connection", Bouncer).unwrap(),
    ] {
        let mut bench = bench(stack);
        assert_eq!(bench.broker.accept(bench.now, unwanted.clone()), Err(Refused::Peer));
        assert_eq!((bench.broker.connections(), bench.broker.deadline()), (0, None));
        assert!(bench.broker.accept(bench.now, wanted.clone()).is_ok());
        assert_eq!((bench.broker.connections(), bench.broker.stats().connections_refused), (1, 1));
    }
}

/// Answers one kind of action as it was told to.
struct Veto(Hooks, Flow);

impl Middleware for Veto {
    fn name(&self) -> &'static str {
        "Veto"
    }

    fn wants(&self) -> Hooks {
        self.0
    }

    fn action(&mut self, _: &mut Cx<'_>, _: &mut Action) -> Flow {
        self.1
    }
}

#[test]
fn a_middleware_vetoes_an_action() {
    let stack =
        Stack::standard().insert_before("MemoryBackend", Veto(Hooks::STORE_RETAINED, Flow::Done)).unwrap();
    let mut bench = bench(stack);
    let alice = bench.connect(Version::V5, "alice");
    bench.send(alice, &Packet::Publish(Publish { retain: true, ..publish("t", "kept?", Q1) }));
    assert!(bench.packets(alice)[0].starts_with("Puback"));
    bench.subscribe(alice, "#", Q1);
    assert!(bench.messages(alice).is_empty());
    assert!(bench.stray.is_empty());
}

#[test]
fn a_refused_session_is_a_refused_connect() {
    let veto = Veto(Hooks::OPEN_SESSION, Flow::Refuse(ReasonCode::Banned));
    let mut bench = bench(Stack::standard().insert_before("SessionManager", veto).unwrap());
    for (version, answer) in
        [(Version::V5, &b"\x20\x03\x00\x8A\x00"[..]), (Version::V311, b"\x20\x02\x00\x05")]
    {
        let id = bench.accept();
        bench.send(id, &Packet::Connect(connect(version, "alice")));
        assert_eq!(bench.output(id), answer);
        assert!(bench.closed(id));
        bench.cut(id);
    }
    assert_eq!((bench.broker.sessions(), bench.broker.deadline()), (0, None));
}

#[test]
fn a_violation_found_by_a_middleware_closes_the_connection() {
    let violation = culex_core::Violation::protocol("MQTT-4.13.1-1");
    let veto = Veto(Hooks::RELAY, Flow::Violation(violation));
    let mut bench = bench(Stack::standard().insert_before("MemoryBackend", veto).unwrap());
    let alice = bench.connect(Version::V5, "alice");
    bench.publish(alice, "t", "x", Q0);
    assert_eq!(bench.output(alice), [0xE0, 1, 0x82]);
    assert!(bench.closed(alice));
}

#[test]
fn vetoing_what_a_connect_needs_does_not_hang_the_machine() {
    for hook in [Hooks::CLOSE_CLIENT, Hooks::SESSION_ENDED] {
        let mut bench = bench(Stack::standard().insert_before("Connection", Veto(hook, Flow::Done)).unwrap());
        let lasting = Connect { clean_start: false, ..connect(Version::V311, "alice") };
        let (first, _) = bench.connect_with(&lasting);
        if hook == Hooks::SESSION_ENDED {
            bench.cut(first);
        }
        let second = bench.accept();
        bench.send(second, &Packet::Connect(connect(Version::V311, "alice")));
        assert_eq!(bench.output(second), [0x20, 2, 0, 3], "server unavailable");
        assert!(bench.closed(second));
    }
}

/// Counts what it sees and changes nothing.
struct Count(Arc<AtomicUsize>, Hooks);

impl Middleware for Count {
    fn name(&self) -> &'static str {
        "Count"
    }

    fn wants(&self) -> Hooks {
        self.1
    }

    fn packet(&mut self, _: &mut Cx<'_>, _: ConnectionId, _: PacketType) -> Flow {
        self.0.fetch_add(1, Ordering::Relaxed);
        Flow::Next
    }

    fn action(&mut self, _: &mut Cx<'_>, _: &mut Action) -> Flow {
        self.0.fetch_add(1, Ordering::Relaxed);
        Flow::Next
    }
}

#[test]
fn a_middleware_sees_what_it_wants_and_nothing_else() {
    for (hooks, expected) in [(Hooks::NONE, 0), (Hooks::PACKET, 4), (Hooks::RELAY, 2), (Hooks::PUBLISH, 0)] {
        let count = Arc::new(AtomicUsize::new(0));
        let mut bench =
            bench(Stack::standard().insert_before("Connection", Count(count.clone(), hooks)).unwrap());
        let alice = bench.connect(Version::V5, "alice");
        bench.publish(alice, "t", "1", Q0);
        bench.publish(alice, "t", "2", Q1);
        bench.send(alice, &Packet::Pingreq);
        assert_eq!(count.load(Ordering::Relaxed), expected, "{hooks:?}");
    }
}

/// What came out of a session script: the bytes of each connection, and every action but notices.
type Outcome = (Vec<Vec<u8>>, Vec<String>);

fn suback_or_not(bench: &mut Bench, id: ConnectionId, packet_id: u16, filter: &str, qos: QoS) {
    let mut filters = SubscribeFiltersBuf::new();
    filters.push(filter, SubscriptionOptions::new(qos)).unwrap();
    let (packet_id, filters) = (culex_core::testing::id(packet_id), filters.as_filters());
    bench.send(id, &Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
}

/// Everything clients do, in all versions, whatever the answers.
fn script(stack: Stack) -> Outcome {
    let mut bench = bench(stack);
    let mut ids = Vec::new();
    for version in VERSIONS {
        let client = |name: &str| format!("{name}-{}", version as u8);
        let (one, two) = (client("one"), client("two"));
        let with_will =
            Connect { will: Some(will("will", b"gone")), keep_alive: 10, ..connect(version, &one) };
        let lasting = Connect { clean_start: false, ..connect(version, &two) };
        let a = bench.accept();
        bench.send(a, &Packet::Connect(with_will.clone()));
        let b = bench.accept();
        bench.send(b, &Packet::Connect(lasting.clone()));
        suback_or_not(&mut bench, b, 1, "#", Q2);
        for (n, qos) in [Q0, Q1, Q2].into_iter().enumerate() {
            let retain = version != Version::V31;
            let packet_id = (qos > Q0).then(|| culex_core::testing::id(10 + n as u16));
            bench.send(a, &Packet::Publish(Publish { retain, packet_id, ..publish("a/b", "hello", qos) }));
        }
        bench.acknowledge(a, PacketType::Pubrel, 12);
        bench.acknowledge(b, PacketType::Puback, 1);
        bench.acknowledge(b, PacketType::Pubrec, 2);
        bench.acknowledge(b, PacketType::Pubcomp, 2);
        suback_or_not(&mut bench, a, 2, "$share/g/a/+", Q1);
        bench.unsubscribe(b, "#");
        bench.send(b, &Packet::Pingreq);
        suback_or_not(&mut bench, b, 3, "a/#", Q1);
        bench.cut(b);
        bench.publish(a, "a/c", "while away", Q1);
        let c = bench.accept();
        bench.send(c, &Packet::Connect(lasting.clone()));
        let taking_over = bench.accept();
        bench.send(taking_over, &Packet::Connect(lasting));
        bench.pass_ms(20_000);
        bench.bytes(a, b"\x00\x00garbage");
        bench.cut(a);
        let goodbye = Disconnect { reason: ReasonCode::Success, properties: Properties::EMPTY };
        bench.send(taking_over, &Packet::Disconnect(goodbye));
        ids.extend([a, b, c, taking_over]);
    }
    let outputs = ids.iter().map(|id| bench.output(*id)).collect();
    let mut actions: Vec<String> = bench.stray.iter().map(|action| format!("{action:?}")).collect();
    actions.extend(bench.forwards.iter().map(|forward| format!("{forward:?}")));
    actions.extend(bench.closes.iter().map(|close| format!("{close:?}")));
    actions.extend(bench.credits.iter().map(|credit| format!("{credit:?}")));
    for id in ids {
        bench.broker.disconnected(bench.now, id, culex_core::Disconnect::Eof);
    }
    assert_eq!(bench.broker.connections(), 0);
    (outputs, actions)
}

#[test]
fn leaving_out_what_only_reads_changes_no_output() {
    // Invariant 13; and who lets everybody do everything decides nothing.
    let expected = script(Stack::standard());
    assert!(expected.0.iter().flatten().count() > 300);
    for name in ["PacketEmitter", "Authentication", "Authorize"] {
        assert_eq!(script(without(name)), expected, "without {name}");
    }
    let all = Notices { sessions: true, subscriptions: true, messages: true };
    let replaced = Stack::standard().replace("PacketEmitter", PacketEmitter::new(all)).unwrap();
    assert_eq!(script(replaced), expected);
    let elsewhere = without("PacketEmitter").insert_before("Connection", PacketEmitter::new(all)).unwrap();
    assert_eq!(script(elsewhere), expected);
    let counted = Count(Arc::default(), Hooks::PACKET | Hooks::RELAY | Hooks::FORWARD | Hooks::REPLY);
    assert_eq!(script(Stack::standard().insert_after("Authorize", counted).unwrap()), expected);
}

#[test]
fn every_part_can_be_left_out_and_put_back() {
    let expected = script(Stack::standard());
    let names: Vec<&str> = Stack::standard().names().collect();
    for name in names {
        let (_, _) = script(without(name));
        // Replaced by one that does nothing: as left out.
        let nothing = Stack::standard().replace(name, Veto(Hooks::NONE, Flow::Next)).unwrap();
        assert_eq!(script(nothing), script(without(name)), "without {name}");
        for stack in [
            Stack::standard().insert_before(name, Veto(Hooks::NONE, Flow::Next)).unwrap(),
            Stack::standard().insert_after(name, Veto(Hooks::NONE, Flow::Next)).unwrap(),
        ] {
            assert_eq!(script(stack), expected);
        }
    }
}

#[test]
fn without_connection_nobody_gets_in() {
    let mut bench = bench(without("Connection"));
    let id = bench.accept();
    bench.send(id, &Packet::Connect(connect(Version::V5, "alice")));
    assert!(bench.closed(id) && bench.output(id).is_empty());
    assert_eq!(bench.broker.sessions(), 0);
}

#[test]
fn without_a_session_manager_connect_is_refused() {
    let mut bench = bench(without("SessionManager"));
    for (version, answer) in
        [(Version::V5, &b"\x20\x03\x00\x83\x00"[..]), (Version::V311, b"\x20\x02\x00\x03")]
    {
        let id = bench.accept();
        bench.send(id, &Packet::Connect(connect(version, "alice")));
        assert_eq!(bench.output(id), answer);
        assert!(bench.closed(id));
    }
}

#[test]
fn what_no_part_handles_is_refused_in_the_words_of_its_packet() {
    let mut bench = bench(without("InboundManager").remove("SubscriptionManager").unwrap());
    let alice = bench.connect(Version::V5, "alice");
    let bob = bench.connect(Version::V311, "bob");
    for (id, puback, pubrec, suback, unsuback) in [
        (alice, &b"\x40\x03\x00\x01\x83"[..], &b"\x50\x03\x00\x01\x83"[..], "[131]", "[131]"),
        // 3.x has no word for it: a refused message is acknowledged and dropped.
        (bob, b"\x40\x02\x00\x01", b"\x50\x02\x00\x01", "[128]", "[]"),
    ] {
        bench.publish(id, "t", "x", Q1);
        assert_eq!(bench.output(id), puback);
        bench.publish(id, "t", "x", Q2);
        assert_eq!(bench.output(id), pubrec);
        suback_or_not(&mut bench, id, 5, "t", Q1);
        let suback = format!("Suback(Suback {{ packet_id: 5, properties: [], reasons: {suback} }})");
        assert_eq!(bench.packets(id), [suback]);
        bench.unsubscribe(id, "t");
        let unsuback =
            format!("Unsuback(Unsuback {{ packet_id: 778, properties: [], reasons: {unsuback} }})");
        assert_eq!(bench.packets(id), [unsuback]);
        // [MQTT-4.3.3-11]: PUBREL is always answered.
        bench.acknowledge(id, PacketType::Pubrel, 1);
        assert!(bench.packets(id)[0].starts_with("Pubcomp"));
    }
    assert!(!bench.closed(alice) && !bench.closed(bob));
}

#[test]
fn without_a_part_its_business_is_not_done_and_nothing_else_suffers() {
    let mut bench = bench(
        without("KeepAlive").remove("LastWill").and_then(|stack| stack.remove("RetainManager")).unwrap(),
    );
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "#", Q1);
    let with_will =
        Connect { will: Some(will("will", b"gone")), keep_alive: 1, ..connect(Version::V5, "bob") };
    let (bob, _) = bench.connect_with(&with_will);
    bench.send(bob, &Packet::Publish(Publish { retain: true, ..publish("t", "x", Q1) }));
    assert_eq!(bench.handshake(alice), ["t: x"]);
    bench.output(bob);
    bench.send(bob, &Packet::Pingreq);
    assert!(bench.output(bob).is_empty());
    bench.pass_ms(100_000);
    assert!(!bench.closed(bob));
    bench.cut(bob);
    assert!(bench.messages(alice).is_empty(), "no will");
    bench.subscribe(alice, "t", Q1);
    assert!(bench.messages(alice).is_empty(), "nothing was retained");
}

#[test]
fn without_a_backend_its_actions_fall_out_with_their_messages_kept() {
    let mut bench = bench(without("MemoryBackend"));
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "#", Q1);
    assert!(matches!(&bench.stray[..], [Action::SubscribeTopic(topic)] if &*topic.filter == "#"));
    bench.stray.clear();
    bench.publish(alice, "a/b", "hello", Q2);
    match &bench.stray[..] {
        [Action::StoreInbound { held: true, .. }, Action::Relay(relay)] => {
            let What::Kept(message) = &relay.what else { panic!("{relay:?}") };
            assert_eq!((message.topic(), message.payload(), message.qos()), ("a/b", &b"hello"[..], Q2));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.packets(alice).len(), 1, "PUBREC");
    // One code per filter, whoever keeps the subscriptions.
    bench.unsubscribe(alice, "#");
    let unsuback = "Unsuback(Unsuback { packet_id: 778, properties: [], reasons: [17] })";
    assert_eq!(bench.packets(alice), [unsuback]);
}

#[test]
fn without_an_outbound_manager_deliveries_fall_out() {
    let mut bench = bench(without("OutboundManager"));
    let alice = bench.connect(Version::V311, "alice");
    bench.subscribe(alice, "#", Q0);
    bench.publish(alice, "t", "x", Q0);
    assert!(bench.output(alice).is_empty());
    assert_eq!(bench.forwards.len(), 1);
    assert_eq!(bench.forwards[0].message().unwrap().payload(), b"x");
}

#[test]
fn an_empty_chain_accepts_and_says_nothing() {
    let mut bench = bench(Stack::empty());
    let id = bench.accept();
    bench.send(id, &Packet::Pingreq);
    assert!(!bench.closed(id) && bench.output(id).is_empty());
    bench.send(id, &Packet::Connect(connect(Version::V5, "alice")));
    assert!(bench.closed(id) && bench.output(id).is_empty());
    bench.cut(id);
    assert_eq!((bench.broker.connections(), bench.broker.sessions(), bench.broker.deadline()), (0, 0, None));
    // The program's own actions fall out.
    let id = bench.broker.subscribe(bench.now, "#").unwrap();
    bench.broker.publish(bench.now, Message::new("t", b"x", Q1, false).unwrap(), Origin::Program).unwrap();
    bench.drain();
    assert!(matches!(&bench.stray[..], [Action::SubscribeTopic(_), Action::Relay(_)]));
    bench.broker.unsubscribe(bench.now, id);
    assert_eq!(bench.broker.sessions(), 0);
    let other = script(Stack::empty());
    assert!(other.0.iter().all(Vec::is_empty));
}

#[test]
fn a_stray_action_of_a_closed_connection_is_harmless() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.cut(alice);
    bench.bytes(alice, b"\xC0\x00");
    bench.broker.apply(bench.now, Input::Disconnected { id: alice, cause: culex_core::Disconnect::Eof });
    bench.broker.apply(bench.now, Input::Writable(alice));
    bench.broker.apply(bench.now, Input::Written { id: alice, count: 7 });
    let open = OpenSession { connection: alice, clean_start: true, expiry: 0, client_id: "x".into() };
    let stack =
        Stack::standard().insert_before("Connection", Emit(Action::OpenSession(Box::new(open)))).unwrap();
    let mut other = self::bench(stack);
    other.connect(Version::V5, "bob");
    assert_eq!(other.broker.sessions(), 1);
    assert!(other.closes.iter().all(|(_, how)| *how == Close::Finish));
}

/// Emits an action on every CONNECT.
struct Emit(Action);

impl Middleware for Emit {
    fn name(&self) -> &'static str {
        "Emit"
    }

    fn wants(&self) -> Hooks {
        Hooks::CONNECT
    }

    fn connect(&mut self, cx: &mut Cx<'_>, _: ConnectionId, _: &mut Connect<'_>) -> Flow {
        cx.emit(self.0.clone());
        Flow::Next
    }
}

fn line(notice: &Notice) -> String {
    match notice {
        Notice::Connected { client_id, session_present, .. } => {
            format!("{client_id} connected {session_present}")
        }
        Notice::Disconnected { client_id, clean } => format!("{client_id} disconnected {clean}"),
        Notice::SessionEnded { client_id } => format!("{client_id} ended"),
        Notice::Subscribed { client_id, filter, qos } => {
            format!("{client_id} subscribed {filter} {}", *qos as u8)
        }
        Notice::Unsubscribed { client_id, filter } => format!("{client_id} unsubscribed {filter}"),
        Notice::Published { client_id, message } => format!("{client_id:?} published {}", message.topic()),
        Notice::Violated { violation, .. } => format!("violated {}", violation.clause),
        Notice::Dropped(count) => format!("dropped {count}"),
        _ => String::new(),
    }
}

fn notices(bench: &mut Bench) -> Vec<String> {
    bench.notices.drain(..).map(|notice| line(&notice)).collect()
}

#[test]
fn the_program_hears_of_what_it_asked_for() {
    let all = Notices { sessions: true, subscriptions: true, messages: true };
    let mut bench = bench(Stack::standard().replace("PacketEmitter", PacketEmitter::new(all)).unwrap());
    let lasting = Connect { clean_start: false, ..connect(Version::V311, "alice") };
    let (alice, _) = bench.connect_with(&lasting);
    bench.subscribe(alice, "$share/g/a/+", Q1);
    bench.unsubscribe(alice, "$share/g/a/+");
    bench.publish(alice, "a/b", "x", Q1);
    bench.cut(alice);
    let expected = [
        "alice connected false",
        "alice subscribed a/+ 1",
        "alice unsubscribed a/+",
        "Some(\"alice\") published a/b",
        "alice disconnected false",
    ];
    assert_eq!(notices(&mut bench), expected);

    let (alice, _) = bench.connect_with(&lasting);
    let goodbye = Disconnect { reason: ReasonCode::Success, properties: Properties::EMPTY };
    bench.send(alice, &Packet::Disconnect(goodbye));
    bench.cut(alice);
    let alice = bench.connect(Version::V311, "alice");
    bench.bytes(alice, b"\xF0\x00");
    bench.cut(alice);
    let expected = [
        "alice connected true",
        "alice disconnected true",
        "alice ended",
        "alice connected false",
        "violated MQTT-2.1.2",
        "alice disconnected false",
        "alice ended",
    ];
    assert_eq!(notices(&mut bench), expected);

    // Its own doings it knows.
    let id = bench.broker.subscribe(bench.now, "#").unwrap();
    bench.broker.publish(bench.now, Message::new("t", b"x", Q1, false).unwrap(), Origin::Program).unwrap();
    bench.broker.unsubscribe(bench.now, id);
    bench.drain();
    assert_eq!(notices(&mut bench), ["None published t"]);
}

#[test]
fn notices_that_nobody_takes_are_dropped_and_counted() {
    let config = Config { notices_max: 2, ..Config::default() };
    let mut bench = Bench::with(config, Stack::standard());
    for n in 0..5 {
        let id = bench.broker.accept(bench.now, Peer::default()).unwrap();
        let mut bytes = Vec::new();
        connect(Version::V311, &n.to_string()).encode(Version::V311, &mut bytes).unwrap();
        bench.broker.receive(bench.now, id, &bytes);
    }
    bench.drain();
    assert_eq!(notices(&mut bench), ["0 connected false", "1 connected false", "dropped 3"]);
    bench.drain();
    assert!(bench.notices.is_empty());
    bench.connect(Version::V311, "5");
    assert_eq!(notices(&mut bench), ["5 connected false"]);
}

#[test]
fn a_handler_hears_of_its_client_only() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let emitter = PacketEmitter::default().on("alice", move |notice| log.lock().unwrap().push(line(notice)));
    let mut bench = bench(Stack::standard().replace("PacketEmitter", emitter).unwrap());
    let alice = bench.connect(Version::V5, "alice");
    let bob = bench.connect(Version::V5, "bob");
    bench.subscribe(alice, "t", Q0);
    bench.cut(alice);
    bench.cut(bob);
    assert_eq!(*heard.lock().unwrap(), ["alice connected false", "alice disconnected false", "alice ended"]);
    assert_eq!(notices(&mut bench).len(), 6, "and they are emitted as well");
}

fn program_publish(bench: &mut Bench, topic: &str, qos: QoS, retain: bool) {
    let message = Message::new(topic, topic.as_bytes(), qos, retain).unwrap();
    bench.broker.publish(bench.now, message, Origin::Program).unwrap();
    bench.drain();
}

fn forwarded(bench: &mut Bench, to: SessionId) -> Vec<String> {
    let forwards = std::mem::take(&mut bench.forwards);
    let mine =
        forwards.iter().filter(|forward| forward.receivers.iter().any(|receiver| receiver.session == to));
    mine.map(|forward| forward.message().unwrap().topic().to_owned()).collect()
}

#[test]
fn the_program_subscribes_publishes_and_unsubscribes() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "a/#", Q2);
    program_publish(&mut bench, "a/kept", Q1, true);
    assert_eq!(bench.handshake(alice), ["a/kept: a/kept"]);
    let program = bench.broker.subscribe(bench.now, "a/+").unwrap();
    bench.drain();
    assert_eq!(forwarded(&mut bench, program), ["a/kept"], "the retained message");
    for qos in [Q0, Q1, Q2] {
        bench.publish(alice, "a/b", "x", qos);
        bench.handshake(alice);
        let receiver = bench.forwards[0].receivers[0].clone();
        assert_eq!((receiver.session, receiver.qos), (program, qos));
        assert_eq!(forwarded(&mut bench, program), ["a/b"]);
    }
    assert_eq!(bench.broker.sessions(), 2);
    bench.broker.unsubscribe(bench.now, program);
    bench.publish(alice, "a/b", "x", Q0);
    assert!(bench.forwards.is_empty());
    assert_eq!(bench.broker.sessions(), 1);
    // Not its own, and gone.
    bench.broker.unsubscribe(bench.now, program);
    bench.broker.unsubscribe(bench.now, SessionId::new(0, 0));
    assert_eq!(bench.broker.sessions(), 1);
    assert!(bench.broker.subscribe(bench.now, "a/#/b").is_err());
    assert!(bench.stray.is_empty());
}

#[test]
fn the_program_gets_all_retained_messages() {
    let mut bench = Bench::new();
    for n in 0..1_000 {
        program_publish(&mut bench, &format!("r/{n:04}"), Q1, true);
    }
    let program = bench.broker.subscribe(bench.now, "r/#").unwrap();
    bench.drain();
    assert_eq!(forwarded(&mut bench, program).len(), 1_000);
}

#[test]
fn the_program_shares_a_subscription_with_clients() {
    let mut bench = Bench::new();
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "$share/g/t", Q1);
    let program = bench.broker.subscribe(bench.now, "$share/g/t").unwrap();
    let other = bench.broker.subscribe(bench.now, "$share/h/t").unwrap();
    for _ in 0..10 {
        program_publish(&mut bench, "t", Q1, false);
    }
    let mut counts = [0, 0];
    for receiver in bench.forwards.iter().flat_map(|forward| &forward.receivers) {
        counts[usize::from(receiver.session == other)] += 1;
    }
    assert_eq!(counts[1], 10, "{program:?} is in another group");
    let got = bench.handshake(alice).len();
    assert!(got > 0 && counts[0] > 0 && got + counts[0] == 10, "{got} and {}", counts[0]);
}

#[test]
fn a_program_that_publishes_faster_than_it_drains_is_told() {
    let mut bench = Bench::with(Config { actions_max: 10, ..Config::default() }, without("MemoryBackend"));
    let message = Message::new("t", b"x", Q1, false).unwrap();
    let refused =
        (0..100).find(|_| bench.broker.publish(bench.now, message.clone(), Origin::Program).is_err());
    assert_eq!(refused, Some(11));
    bench.drain();
    assert!(bench.broker.publish(bench.now, message, Origin::Program).is_ok());
}
