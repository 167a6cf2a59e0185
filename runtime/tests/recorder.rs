//! The recorder without sockets: a driver is fed by hand, and what was recorded is done again.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

mod common;

use common::*;
use culex_core::hash::Random;
use culex_core::packet::*;
use culex_core::{ConnectionId, Cx, Disconnect, Flow, Hooks, Input, Message, Middleware, Peer, Seed, Stack};
use culex_runtime::{BadRecording, Builder, Did, Recorder, Recording, Stuck, Turn};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
fn what_the_program_does_is_recorded_too() {
    let (mut driver, handle, recorder) = driver(Recorder::BYTES_MAX, Stack::standard);
    let alice = connect(&mut driver, "alice");
    subscribe(&mut driver, alice, "a/#");
    let mut subscription = handle.subscribe("a/+").unwrap();
    turn(&mut driver, usize::MAX);
    for n in 0..10 {
        handle.publish(Message::new("a/b", &[n; 10], QoS::AtLeastOnce, n == 3).unwrap()).unwrap();
    }
    turn(&mut driver, usize::MAX);
    assert_eq!(std::iter::from_fn(|| subscription.try_recv()).count(), 10);
    drop(subscription);
    turn(&mut driver, usize::MAX);
    driver.disconnected(alice, Disconnect::Eof);
    handle.shutdown();
    assert_eq!(turn(&mut driver, usize::MAX), Turn::Stop);
    let (inputs, _) = replay(&written(&recorder), Stack::standard);
    // Accepted, two packets, three writes, subscribed, ten messages, unsubscribed, disconnected, shut down.
    assert_eq!(inputs, 1 + 2 + 3 + 1 + 10 + 1 + 1 + 1);
}

#[test]
fn output_that_is_taken_in_pieces_is_the_same_again() {
    let (mut driver, _handle, recorder) = driver(Recorder::BYTES_MAX, Stack::standard);
    let [alice, bob] = ["alice", "bob"].map(|name| connect(&mut driver, name));
    subscribe(&mut driver, alice, "#");
    for most in [1, 7, 1_000, 5_000, 100_000, 1_000_000] {
        let mut bytes = Vec::new();
        message("a", &[most as u8; 10_000]).encode(Version::V311, &mut bytes).unwrap();
        driver.receive(bob, &bytes);
        turn(&mut driver, most);
        driver.writable(alice);
    }
    turn(&mut driver, usize::MAX);
    replay(&written(&recorder), Stack::standard);
}

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const GOODBYE: u8 = 0x88;

/// A frame of a client, in a mask that changes nothing.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0x80 | 126, length[0], length[1], 0, 0, 0, 0], payload].concat()
}

#[test]
fn what_came_by_websocket_needs_no_websocket_the_second_time() {
    let builder = Builder::default().listen("ws://127.0.0.1:0/mqtt");
    let (mut driver, _handle, recorder) = driver_of(builder, Recorder::BYTES_MAX, Stack::standard);
    let mut packets = Vec::new();
    hello("alice").encode(Version::V311, &mut packets).unwrap();
    let mut filters = SubscribeFiltersBuf::new();
    filters.push("#", SubscriptionOptions::new(QoS::AtMostOnce)).unwrap();
    let (packet_id, filters) = (PacketId::MIN, filters.as_filters());
    let packet = Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters });
    packet.encode(Version::V311, &mut packets).unwrap();
    message("a", &[7; 20_000]).encode(Version::V311, &mut packets).unwrap();
    // One breaks a rule of WebSocket, one says goodbye, both with much to be written to them.
    for (last, most) in [(TEXT, 3_000), (GOODBYE, 3_000), (TEXT, usize::MAX), (GOODBYE, usize::MAX)] {
        let id = driver.accept(Peer::default()).unwrap();
        for bytes in [REQUEST, &frame(BINARY, &packets)] {
            driver.receive(id, bytes);
            turn(&mut driver, usize::MAX);
        }
        let mut again = Vec::new();
        (0..5).for_each(|_| message("b", &[8; 10_000]).encode(Version::V311, &mut again).unwrap());
        driver.receive(id, &frame(BINARY, &again));
        turn(&mut driver, most);
        driver.receive(id, &frame(last, b""));
        turn(&mut driver, most);
        for _ in 0..30 {
            driver.writable(id);
            turn(&mut driver, most);
        }
        driver.disconnected(id, Disconnect::Closed);
        turn(&mut driver, usize::MAX);
    }
    let bytes = written(&recorder);
    replay(&bytes, Stack::standard);
    let recording = Recording::parse(&bytes).unwrap();
    let mut again = recording.replay(Stack::standard).unwrap();
    let steps = std::iter::from_fn(|| again.step().unwrap());
    let violated = |step: &Did| matches!(step, Did::Input(Input::Violated { .. }, _));
    assert_eq!(steps.filter(|step| violated(&step.did)).count(), 2);
}

#[test]
fn the_ring_keeps_the_newest_segments_and_no_more_than_it_may() {
    let (mut driver, _handle, recorder) = driver(40_000, Stack::standard);
    let [alice, bob] = ["alice", "bob"].map(|name| connect(&mut driver, name));
    subscribe(&mut driver, alice, "#");
    for n in 0..3_000u32 {
        publish(&mut driver, bob, "a", &n.to_le_bytes());
        assert!(recorder.bytes() <= 40_100, "{} bytes", recorder.bytes());
    }
    let (inputs, segments) = replay(&written(&recorder), Stack::standard);
    assert!(inputs > 6_000 && segments >= 2, "{inputs} inputs, {segments} segments");
}

#[test]
fn with_less_room_than_a_snapshot_takes_there_is_still_a_whole_segment() {
    let (mut driver, _handle, recorder) = driver(1, Stack::standard);
    let bob = connect(&mut driver, "bob");
    for n in 0..3_000u32 {
        publish(&mut driver, bob, "a", &n.to_le_bytes());
    }
    assert_eq!(replay(&written(&recorder), Stack::standard).1, 2);
}

/// Cannot stand one topic.
struct Fuse;

impl Middleware for Fuse {
    fn name(&self) -> &'static str {
        "Fuse"
    }

    fn wants(&self) -> Hooks {
        Hooks::PUBLISH
    }

    fn publish(&mut self, _: &mut Cx<'_>, _: ConnectionId, packet: &mut Publish<'_>) -> Flow {
        assert!(packet.topic != "boom", "a mistake of ours");
        Flow::Next
    }
}

fn fused() -> Stack {
    Stack::standard().insert_before("InboundManager", Fuse).unwrap()
}

#[test]
fn the_input_that_made_the_machine_panic_is_the_last_one_and_does_so_again() {
    let (mut driver, _handle, recorder) = driver(Recorder::BYTES_MAX, fused);
    let bob = connect(&mut driver, "bob");
    publish(&mut driver, bob, "fine", b"");
    catch_unwind(AssertUnwindSafe(|| publish(&mut driver, bob, "boom", b""))).unwrap_err();
    let bytes = written(&recorder);
    let recording = Recording::parse(&bytes).unwrap();
    let mut again = recording.replay(fused).unwrap();
    let panicked = loop {
        match catch_unwind(AssertUnwindSafe(|| again.step())) {
            Ok(step) => assert!(step.unwrap().is_some(), "it did not panic"),
            Err(panicked) => break panicked,
        }
    };
    assert!(panicked.downcast_ref::<&str>().is_some_and(|text| text.contains("a mistake of ours")));
    // Accepted, CONNECT, CONNACK, two messages.
    assert_eq!(again.inputs(), 5);
    let other = recording.replay(Stack::standard);
    assert!(matches!(other, Err(BadRecording::Snapshot { segment: 1, .. })), "another chain");
}

/// Swallows one topic.
struct Deaf;

impl Middleware for Deaf {
    fn name(&self) -> &'static str {
        "Fuse"
    }

    fn wants(&self) -> Hooks {
        Hooks::PUBLISH
    }

    fn publish(&mut self, _: &mut Cx<'_>, _: ConnectionId, packet: &mut Publish<'_>) -> Flow {
        if packet.topic == "a" { Flow::Done } else { Flow::Next }
    }
}

#[test]
fn a_machine_that_does_something_else_is_noticed_at_once() {
    let (mut driver, _handle, recorder) = driver(Recorder::BYTES_MAX, fused);
    let [alice, bob] = ["alice", "bob"].map(|name| connect(&mut driver, name));
    subscribe(&mut driver, alice, "#");
    publish(&mut driver, bob, "b", b"");
    publish(&mut driver, bob, "a", b"");
    let bytes = written(&recorder);
    let recording = Recording::parse(&bytes).unwrap();
    let deaf = || Stack::standard().insert_before("InboundManager", Deaf).unwrap();
    let mut replay = recording.replay(deaf).unwrap();
    let stuck = loop {
        match replay.step() {
            Ok(step) => assert!(step.is_some(), "nothing was noticed"),
            Err(stuck) => break stuck,
        }
    };
    let Stuck::Different(difference) = stuck else { panic!("{stuck}") };
    assert_eq!(difference.connection, Some(alice));
    assert_eq!(difference.what, "there is no output where there was some");
    // Twice accepted, CONNECT, CONNACK; SUBSCRIBE, SUBACK; twice a message comes and goes.
    assert_eq!(difference.input, 12);
}

#[test]
fn a_recording_of_nothing_and_parts_of_one_are_told() {
    assert_eq!(Recording::parse(&written(&Recorder::default())).unwrap_err(), BadRecording::Empty);
    let (mut driver, _handle, recorder) = driver(40_000, Stack::standard);
    let bob = connect(&mut driver, "bob");
    for n in 0..1_500u32 {
        publish(&mut driver, bob, "a", &n.to_le_bytes());
    }
    let bytes = written(&recorder);
    let segments = Recording::parse(&bytes).unwrap().segments();
    for length in (0..bytes.len()).step_by(7) {
        match Recording::parse(&bytes[..length]).unwrap_err() {
            BadRecording::Unknown => assert!(length < 16),
            BadRecording::Truncated { segments: whole } => assert!(whole <= segments),
            other => panic!("{length} bytes: {other}"),
        }
    }
    for at in (0..bytes.len()).step_by(97) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(Recording::parse(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn no_forged_recording_makes_reading_it_panic() {
    let (mut driver, handle, recorder) = driver(Recorder::BYTES_MAX, Stack::standard);
    let [alice, bob] = ["alice", "bob"].map(|name| connect(&mut driver, name));
    subscribe(&mut driver, alice, "#");
    for n in 0..5 {
        publish(&mut driver, bob, "a", &[n; 3]);
        handle.publish(Message::new("b", &[n], QoS::AtMostOnce, true).unwrap()).unwrap();
    }
    driver.disconnected(alice, Disconnect::Error);
    turn(&mut driver, usize::MAX);
    let whole = written(&recorder);
    // Tag, length and digest of the only segment; its events are behind the snapshot.
    let head = whole.iter().position(|byte| *byte == b'S').unwrap();
    let events = whole.windows(5).rposition(|five| five == b"alice").unwrap();
    let mut random = Random::new(Seed(7));
    let mut different = 0;
    for n in 0..3_000 {
        let mut forged = whole.clone();
        for _ in 0..=random.next() % 3 {
            let at = events + random.next() as usize % (forged.len() - 1 - events);
            forged[at] = random.next() as u8;
        }
        let digest = culex_core::saved::digest(&forged[head + 17..forged.len() - 1]);
        forged[head + 9..head + 17].copy_from_slice(&digest.to_le_bytes());
        let recording = Recording::parse(&forged).unwrap();
        let mut replay = recording.replay(Stack::standard).unwrap();
        while let Ok(Some(_)) = replay.step() {}
        different += usize::from(replay.step().is_err());
        if n % 5 == 0 {
            let _ = recording.redact(Stack::standard, &hash);
        }
    }
    assert!(different > 1_000, "{different} of them were noticed");
}
