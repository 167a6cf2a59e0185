//! A recorded driver without sockets, fed by hand.
#![allow(dead_code)] // not every test program uses all of it

use culex_core::packet::*;
use culex_core::redact::Kind;
use culex_core::saved::digest;
use culex_core::{ConnectionId, Peer, Stack};
use culex_runtime::{Adapter, Builder, Did, Driver, Handle, Prepared, Recorder, Recording, Turn};

pub(crate) struct Bound(Prepared);

impl From<Prepared> for Bound {
    fn from(prepared: Prepared) -> Self {
        Self(prepared)
    }
}

pub(crate) struct Here;

impl Adapter for Here {
    type Bound = Bound;
}

/// A driver with a recorder of so many bytes.
pub(crate) fn driver(bytes_max: usize, chain: fn() -> Stack) -> (Driver, Handle, Recorder) {
    driver_of(Builder::default(), bytes_max, chain)
}

pub(crate) fn driver_of(
    builder: Builder<Here>,
    bytes_max: usize,
    chain: fn() -> Stack,
) -> (Driver, Handle, Recorder) {
    let recorder = Recorder::new(bytes_max);
    let Bound(prepared) = builder.chain(chain).record(recorder.clone()).bind().unwrap();
    let handle = prepared.handle();
    (prepared.start(|_, _| Ok(())).unwrap().0, handle, recorder)
}

/// A turn; a socket takes `most` bytes and is full then.
pub(crate) fn turn(driver: &mut Driver, most: usize) -> Turn {
    driver.work();
    while driver.poll_effect().is_some() {}
    let take =
        |slices: &[std::io::IoSlice<'_>]| slices.iter().map(|slice| slice.len()).sum::<usize>().min(most);
    while driver.poll_write(|_, slices| Ok(take(slices))).is_some() {}
    driver.end_turn()
}

pub(crate) fn send(driver: &mut Driver, id: ConnectionId, packet: &Packet<'_>) {
    let mut bytes = Vec::new();
    packet.encode(Version::V311, &mut bytes).unwrap();
    driver.receive(id, &bytes);
    turn(driver, usize::MAX);
}

pub(crate) fn hello(client_id: &str) -> Packet<'_> {
    Packet::Connect(Connect {
        version: Version::V311,
        clean_start: true,
        keep_alive: 0,
        client_id,
        properties: Properties::EMPTY,
        will: None,
        user_name: None,
        password: None,
        bridge: false,
    })
}

pub(crate) fn connect(driver: &mut Driver, client_id: &str) -> ConnectionId {
    let id = driver.accept(Peer::default()).unwrap();
    send(driver, id, &hello(client_id));
    id
}

pub(crate) fn subscribe(driver: &mut Driver, id: ConnectionId, filter: &str) {
    let mut filters = SubscribeFiltersBuf::new();
    filters.push(filter, SubscriptionOptions::new(QoS::AtMostOnce)).unwrap();
    let (packet_id, filters) = (PacketId::MIN, filters.as_filters());
    send(driver, id, &Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
}

pub(crate) fn message<'a>(topic: &'a str, payload: &'a [u8]) -> Packet<'a> {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: topic.into(),
        packet_id: None,
        properties: Properties::EMPTY,
        payload: payload.into(),
    })
}

pub(crate) fn publish(driver: &mut Driver, id: ConnectionId, topic: &str, payload: &[u8]) {
    send(driver, id, &message(topic, payload));
}

pub(crate) fn written(recorder: &Recorder) -> Vec<u8> {
    let mut bytes = Vec::new();
    recorder.write_to(&mut bytes).unwrap();
    bytes
}

/// Does it again; how many inputs there were in all, and how many segments.
pub(crate) fn replay(bytes: &[u8], stack: fn() -> Stack) -> (u64, usize) {
    let recording = Recording::parse(bytes).unwrap();
    let mut replay = recording.replay(stack).unwrap();
    let mut segments = 1;
    while let Some(step) = replay.step().unwrap_or_else(|stuck| panic!("{stuck}")) {
        segments += usize::from(matches!(step.did, Did::Segment));
    }
    assert_eq!(segments, recording.segments());
    (replay.inputs(), segments)
}

/// What redacted bytes are replaced by. Good enough for tests: no secret is guessed here.
pub(crate) fn hash(kind: Kind, bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|n| digest(&[&[n as u8, kind as u8], bytes].concat()) as u8)
}
