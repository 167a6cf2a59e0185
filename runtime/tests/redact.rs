//! Recordings without payloads and passwords: nothing of them is left, and the machine does the same again.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

mod common;

use common::*;
use culex_core::middleware::{Authenticate, Authentication, Decision};
use culex_core::packet::*;
use culex_core::redact::Kind;
use culex_core::{
    Answer, Config, ConnectionId, Credentials, Cx, Disconnect, Flow, Hooks, Input, Message, Middleware, Peer,
    Stack,
};
use culex_runtime::{Builder, Did, Driver, Handle, Recorder, Recording, Responder, Stuck};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

fn has(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

/// All that connections sent, each in one piece, as it is recorded.
fn sent_by_all(bytes: &[u8], stack: fn() -> Stack) -> Vec<Vec<u8>> {
    let recording = Recording::parse(bytes).unwrap();
    let mut replay = recording.replay(stack).unwrap();
    let mut sent: HashMap<ConnectionId, Vec<u8>> = HashMap::new();
    for id in replay.broker().connection_ids() {
        sent.insert(id, replay.broker().connection(id).unwrap().unread().to_vec());
    }
    while let Some(step) = replay.step().unwrap() {
        if let Did::Input(Input::Receive { id, bytes }, _) = step.did {
            sent.entry(id).or_default().extend_from_slice(&bytes);
        }
    }
    sent.into_values().collect()
}

/// Redacts a recording; every secret begins with this word.
fn redacted(bytes: &[u8], stack: fn() -> Stack) -> Vec<u8> {
    let recording = Recording::parse(bytes).unwrap();
    let redacted = recording.redact(stack, &hash).unwrap_or_else(|stuck| panic!("{stuck}"));
    assert!(!redacted.panics);
    assert!(!has(&redacted.bytes, "SECRET"));
    // Split input hides what is in it from who searches the file.
    assert!(sent_by_all(&redacted.bytes, stack).iter().all(|sent| !has(sent, "SECRET")));
    assert_eq!(replay(&redacted.bytes, stack), replay(bytes, stack));
    redacted.bytes
}

/// Asks the outside about some clients.
struct Asks;

impl Authenticate for Asks {
    fn authenticate(&mut self, who: &Credentials) -> Decision {
        if who.client_id.starts_with("asked") { Decision::Ask } else { Decision::Allow }
    }

    fn method(&self, name: &str) -> bool {
        name == "method"
    }
}

fn asking() -> Stack {
    Stack::standard().replace("Authentication", Authentication::new(Asks)).unwrap()
}

fn properties(list: &[Property<'_>]) -> Properties<'static> {
    let mut properties = PropertiesBuf::new();
    for property in list {
        properties.push(*property);
    }
    Properties::from_buf(properties)
}

fn hello_5<'a>(client_id: &'a str, list: &[Property<'_>]) -> Connect<'a> {
    let Packet::Connect(hello) = hello(client_id) else { unreachable!() };
    Connect { version: Version::V5, clean_start: false, properties: properties(list), ..hello }
}

fn publish_5<'a>(topic: &'a str, payload: &'a [u8], qos: u8, retain: bool) -> Publish<'a> {
    let told =
        [Property::CorrelationData(b"SECRET-correlation"), Property::UserProperty("name", "SECRET-user")];
    Publish {
        dup: false,
        qos: QoS::from_bits(qos).unwrap(),
        retain,
        topic: topic.into(),
        packet_id: PacketId::new(77).filter(|_| qos > 0),
        properties: properties(&told),
        payload: payload.into(),
    }
}

struct World {
    driver: Driver,
    handle: Handle,
    recorder: Recorder,
    questions: Arc<Mutex<Vec<Responder>>>,
    /// Bytes of input and of output at a time.
    step: usize,
}

impl World {
    fn new(bytes_max: usize, step: usize) -> Self {
        let questions = Arc::new(Mutex::new(Vec::new()));
        let asked = questions.clone();
        let builder = Builder::default()
            .config(Config { payload_format_check: true, ..Config::default() })
            .on_ask(move |_, responder| asked.lock().unwrap().push(responder));
        let (driver, handle, recorder) = driver_of(builder, bytes_max, asking);
        Self { driver, handle, recorder, questions, step }
    }

    fn bytes(&mut self, id: ConnectionId, bytes: &[u8]) {
        for chunk in bytes.chunks(self.step) {
            self.driver.receive(id, chunk);
            turn(&mut self.driver, usize::MAX);
        }
    }

    fn send(&mut self, id: ConnectionId, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(Version::V5, &mut bytes).unwrap();
        self.bytes(id, &bytes);
    }

    fn connect(&mut self, hello: Connect<'_>) -> ConnectionId {
        let id = self.driver.accept(Peer::default()).unwrap();
        self.send(id, &Packet::Connect(hello));
        id
    }

    fn subscribe(&mut self, id: ConnectionId, filter: &str) {
        let mut filters = SubscribeFiltersBuf::new();
        filters.push(filter, SubscriptionOptions::new(QoS::ExactlyOnce)).unwrap();
        let (packet_id, filters) = (PacketId::MIN, filters.as_filters());
        self.send(id, &Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
    }

    fn answer(&mut self, answer: Answer) {
        let question = self.questions.lock().unwrap().remove(0);
        question.complete(answer);
        turn(&mut self.driver, usize::MAX);
    }

    /// Events until the recording begins with these secrets in its snapshot.
    fn roll(&mut self, pinger: ConnectionId, secrets: &str) {
        let secrets: Vec<String> = secrets.split(' ').map(|secret| format!("SECRET-{secret}")).collect();
        for _ in 0..20_000 {
            self.send(pinger, &Packet::Pingreq);
            let bytes = written(&self.recorder);
            let recording = Recording::parse(&bytes).unwrap();
            if secrets.iter().all(|secret| has(recording.snapshot(), secret)) {
                return;
            }
        }
        panic!("there is no snapshot with all of them");
    }
}

/// Clients, and messages in flight to one, in the queue of one, retained, and in the outbox of one.
fn messages(world: &mut World) -> [ConnectionId; 2] {
    let forever = [Property::SessionExpiryInterval(u32::MAX)];
    let will = Will {
        topic: "will",
        payload: b"SECRET-will",
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: properties(&[Property::UserProperty("name", "SECRET-of-will")]),
    };
    let hello = Connect { will: Some(will), user_name: Some("user"), ..hello_5("alice", &forever) };
    let alice = world.connect(Connect { password: Some(b"SECRET-password"), ..hello });
    world.subscribe(alice, "flight/#");
    let bob = world.connect(hello_5("bob", &forever));
    world.subscribe(bob, "queue/#");
    world.driver.disconnected(bob, Disconnect::Eof);
    let carol = world.connect(hello_5("carol", &forever));
    world.send(carol, &Packet::Publish(publish_5("flight/1", b"SECRET-in-flight", 1, false)));
    world.send(carol, &Packet::Publish(publish_5("queue/1", b"SECRET-queued", 2, false)));
    world.send(carol, &Packet::Publish(publish_5("retained", b"SECRET-retained", 1, true)));
    let large = [b"SECRET-large".repeat(500), vec![0xFF]].concat();
    for (topic, payload) in [("flight/2", &b"SECRET-in-outbox"[..]), ("flight/3", &large)] {
        let mut bytes = Vec::new();
        let packet = Packet::Publish(publish_5(topic, payload, 0, false));
        packet.encode(Version::V5, &mut bytes).unwrap();
        world.driver.receive(carol, &bytes);
        // Of which a part is written.
        turn(&mut world.driver, 3);
    }
    [alice, carol]
}

fn exchange(data: &[u8]) -> [Property<'_>; 2] {
    [Property::AuthenticationMethod("method"), Property::AuthenticationData(data)]
}

/// CONNECTs that wait for an answer, and for more of their client.
fn questions(world: &mut World) -> [ConnectionId; 2] {
    let asked = Connect { user_name: Some("user"), ..hello_5("asked", &[]) };
    let asked = world.connect(Connect { password: Some(b"SECRET-asked"), ..asked });
    let dave = world.connect(hello_5("dave", &exchange(b"SECRET-first")));
    let answer = world.questions.lock().unwrap().pop().unwrap();
    answer.complete(Answer::Continue(b"SECRET-challenge".as_slice().into()));
    turn(&mut world.driver, usize::MAX);
    [asked, dave]
}

/// Payloads in every place that a machine has for them, at the time of a snapshot if there is one on the way.
fn everything(bytes_max: usize, step: usize) -> World {
    let mut world = World::new(bytes_max, step);
    let pinger = world.connect(hello_5("pinger", &[]));
    let [alice, carol] = messages(&mut world);
    let mut partial = Vec::new();
    let payload = b"SECRET-begun and SECRET-ended";
    Packet::Publish(publish_5("flight/4", payload, 2, true)).encode(Version::V5, &mut partial).unwrap();
    let (begun, ended) = partial.split_at(partial.len() - 14);
    world.bytes(carol, begun);
    let [asked, dave] = questions(&mut world);
    if bytes_max < 1_000 {
        world.roll(
            pinger,
            "will of-will in-flight queued retained in-outbox large begun asked first correlation user",
        );
    }
    world.bytes(carol, ended);
    let (reason, properties) = (ReasonCode::ContinueAuthentication, properties(&exchange(b"SECRET-second")));
    world.send(dave, &Packet::Auth(Auth { reason, properties }));
    let data = b"SECRET-last".as_slice().into();
    let last = world.questions.lock().unwrap().pop().unwrap();
    last.complete(Answer::AllowWith { user_name: None, data });
    turn(&mut world.driver, usize::MAX);
    world.answer(Answer::Allow);
    world.subscribe(asked, "#");
    for most in [2_000, usize::MAX] {
        world.driver.writable(alice);
        turn(&mut world.driver, most);
    }
    world.connect(hello_5("bob", &[]));
    // By the program.
    let mut subscription = world.handle.subscribe("program/#").unwrap();
    turn(&mut world.driver, usize::MAX);
    let message = Message::new("program/1", b"SECRET-of-program", QoS::AtLeastOnce, true).unwrap();
    world.handle.publish(message).unwrap();
    turn(&mut world.driver, usize::MAX);
    assert_eq!(subscription.try_recv().unwrap().payload(), b"SECRET-of-program");
    world.driver.disconnected(alice, Disconnect::Error);
    turn(&mut world.driver, usize::MAX);
    world
}

#[test]
fn nothing_of_a_payload_or_password_is_left_wherever_it_was() {
    for step in [1, 2, 7, 1_000] {
        let world = everything(Recorder::BYTES_MAX, step);
        let bytes = written(&world.recorder);
        assert!(sent_by_all(&bytes, asking).iter().any(|sent| has(sent, "SECRET-begun and SECRET-ended")));
        redacted(&bytes, asking);
    }
}

#[test]
fn nothing_is_left_of_what_was_there_when_the_recording_began() {
    for step in [1, 5, 1_000] {
        let world = everything(1, step);
        let bytes = written(&world.recorder);
        let other = redacted(&bytes, asking);
        let [before, after] = [&bytes, &other].map(|bytes| Recording::parse(bytes).unwrap());
        assert_eq!(before.snapshot().len(), after.snapshot().len());
        // One looks for topics, clients and names.
        for kept in ["alice", "bob", "user", "flight/1", "queue/1", "retained", "name"] {
            assert!(has(after.snapshot(), kept), "{kept}");
        }
        // What was begun before the snapshot and ended behind it is what its whole is replaced by.
        let whole = hash(Kind::Payload, b"SECRET-begun and SECRET-ended");
        let text = whole.map(|byte| {
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[usize::from(byte & 0x3F)]
        });
        let text = std::str::from_utf8(&text[..29]).unwrap();
        assert!(sent_by_all(&other, asking).iter().any(|sent| has(sent, text)));
    }
}

#[test]
fn bytes_that_are_no_packet_are_blanked_and_break_the_same_rule() {
    for step in [1, 6, 1_000] {
        let mut world = World::new(Recorder::BYTES_MAX, step);
        for nonsense in [
            &b"GET /SECRET HTTP/1.1\r\nCookie: SECRET SECRET SECRET SECRET SECRET SECRET\r\n\r\n"[..],
            b"\x10\x0DSECRETSECRETS",
            b"SECRET",
        ] {
            let stranger = world.driver.accept(Peer::default()).unwrap();
            world.bytes(stranger, nonsense);
            world.bytes(stranger, b"SECRET behind it");
            world.driver.disconnected(stranger, Disconnect::Eof);
        }
        for last in [
            // A topic with a wildcard; a text that is none; a second CONNECT; then bytes that nobody looks at.
            &b"\x30\x0C\0\x03a/#\0SECRET"[..],
            b"\x30\x12\0\x01t\x02\x01\x01SECRET\xFFSECRETS",
            b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0",
        ] {
            let bob = world.connect(hello_5("bob", &[]));
            let mut bytes = Vec::new();
            Packet::Publish(publish_5("fine", b"SECRET", 1, false)).encode(Version::V5, &mut bytes).unwrap();
            bytes.extend_from_slice(last);
            bytes.extend_from_slice(b"SECRET behind it, SECRET");
            world.bytes(bob, &bytes);
            world.bytes(bob, b"\x30\x09\0\x06SECRETS");
            world.driver.disconnected(bob, Disconnect::Eof);
            world.bytes(bob, b"\x30\x09\0\x06SECRETS");
        }
        turn(&mut world.driver, usize::MAX);
        redacted(&written(&world.recorder), asking);
    }
}

#[test]
fn equal_payloads_stay_equal_and_empty_ones_empty() {
    let mut world = World::new(Recorder::BYTES_MAX, 1_000);
    let bob = world.connect(hello_5("bob", &[]));
    for payload in [&b"SECRET-1"[..], b"", b"SECRET-2", b"SECRET-1"] {
        world.send(bob, &Packet::Publish(publish_5("a", payload, 0, false)));
    }
    let bytes = redacted(&written(&world.recorder), asking);
    let sent = sent_by_all(&bytes, asking).remove(0);
    let (mut rest, mut payloads) = (&sent[..], Vec::new());
    while let Ok(Framed::Whole { frame, length }) = frame(rest, u32::MAX) {
        if let Ok(Packet::Publish(publish)) = Packet::decode(&frame, Version::V5) {
            payloads.push(publish.payload.to_vec());
        }
        rest = &rest[length..];
    }
    assert_eq!(payloads.iter().map(Vec::len).collect::<Vec<_>>(), [8, 0, 8, 8]);
    assert!(payloads[0] == payloads[3] && payloads[0] != payloads[2]);
}

#[test]
fn many_segments_are_redacted_as_one() {
    let mut world = World::new(40_000, 3);
    let alice = world.connect(hello_5("alice", &[]));
    world.subscribe(alice, "a");
    let bob = world.connect(hello_5("bob", &[]));
    for n in 0..400 {
        let payload = format!("SECRET-{n}");
        world.send(bob, &Packet::Publish(publish_5("a", payload.as_bytes(), 0, n % 2 == 0)));
    }
    let bytes = redacted(&written(&world.recorder), asking);
    assert!(Recording::parse(&bytes).unwrap().segments() > 2);
}

/// Cannot stand one topic, or one payload.
struct Fuse;

impl Middleware for Fuse {
    fn name(&self) -> &'static str {
        "Fuse"
    }

    fn wants(&self) -> Hooks {
        Hooks::PUBLISH
    }

    fn publish(&mut self, _: &mut Cx<'_>, _: ConnectionId, packet: &mut Publish<'_>) -> Flow {
        assert!(packet.topic != "boom" && *packet.payload != *b"boom", "a mistake of ours");
        assert!(packet.topic != "calm" || *packet.payload == *b"calm", "a mistake of ours");
        match &*packet.payload {
            b"swallow" => return Flow::Done,
            b"shorten" => packet.payload = b""[..].into(),
            _ => {}
        }
        Flow::Next
    }
}

fn fused() -> Stack {
    Stack::standard().insert_before("InboundManager", Fuse).unwrap()
}

#[test]
fn a_recording_that_ends_with_a_panic_ends_with_it_still() {
    let (mut driver, _handle, recorder) = driver(Recorder::BYTES_MAX, fused);
    let bob = connect(&mut driver, "bob");
    publish(&mut driver, bob, "fine", b"SECRET");
    catch_unwind(AssertUnwindSafe(|| publish(&mut driver, bob, "boom", b"SECRET"))).unwrap_err();
    let bytes = written(&recorder);
    let redacted = Recording::parse(&bytes).unwrap().redact(fused, &hash).unwrap();
    assert!(redacted.panics && !has(&redacted.bytes, "SECRET") && has(&redacted.bytes, "boom"));
}

#[test]
fn what_depends_on_payloads_cannot_be_redacted_and_says_so() {
    let told = |topic: &str, payload: &[u8]| {
        let (mut driver, _handle, recorder) = driver(Recorder::BYTES_MAX, fused);
        let [alice, bob] = ["alice", "bob"].map(|name| connect(&mut driver, name));
        subscribe(&mut driver, alice, "#");
        let _ = catch_unwind(AssertUnwindSafe(|| publish(&mut driver, bob, topic, payload)));
        let bytes = written(&recorder);
        match Recording::parse(&bytes).unwrap().redact(fused, &hash) {
            Err(Stuck::Different(difference)) => difference.what,
            other => panic!("{other:?}"),
        }
    };
    for (topic, payload) in [("a", "boom"), ("calm", "calm"), ("a", "swallow"), ("a", "shorten")] {
        let expected = "the machine does something else without what was replaced";
        assert_eq!(told(topic, payload.as_bytes()), expected, "{payload}");
    }
}
