//! A shard driven by hand: what a runtime may do to its tasks without harm.
#![allow(clippy::unwrap_used)] // as in tests

use culex_core::Message;
use culex_core::packet::QoS;
use culex_runtime::{Adapter, Builder, Handle, Pipe, Prepared, Shard, Stream, Turn};
use std::io::{ErrorKind, Read, Write};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A runtime that leaves everything to the test.
struct ByHand;

impl Adapter for ByHand {
    type Bound = Prepared;
}

fn shard() -> (Shard<Stream>, Handle) {
    let bound = Builder::<ByHand>::default().shutdown_ms(0).bind().unwrap();
    let handle = bound.handle();
    let (driver, listeners, _) = bound.start(|_, _| Ok(())).unwrap();
    assert!(listeners.is_empty());
    (Shard::new(driver, ()), handle)
}

fn connect(handle: &Handle) -> Pipe {
    let mut client = handle.connect().unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1)));
    client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a").unwrap();
    client.write_all(b"\x82\x06\x00\x01\x00\x01t\x00").unwrap();
    client
}

fn expect(client: &mut Pipe, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
}

fn poll(task: impl Future<Output = ()>) -> Poll<()> {
    pin!(task).poll(&mut Context::from_waker(Waker::noop()))
}

/// Everything that was read is in the machine, everything that is to be written as well: a task owns nothing.
#[test]
fn dropping_the_task_of_a_connection_loses_nothing() {
    let (shard, handle) = shard();
    let mut client = connect(&handle);
    // Polled once, and dropped.
    assert!(poll(shard.accept_given().unwrap()).is_pending());
    assert!(matches!(shard.turn(), Turn::Wait(_)));
    expect(&mut client, b"\x20\x02\x00\x00\x90\x03\x00\x01\x00");
    handle.publish(Message::new("t", b"x", QoS::AtMostOnce, false).unwrap()).unwrap();
    assert!(matches!(shard.turn(), Turn::Wait(_)));
    expect(&mut client, b"\x30\x04\x00\x01tx");
}

/// The machine still ends it, in a shutdown for instance.
#[test]
fn a_connection_whose_task_was_never_polled_is_closed_in_the_end() {
    let (shard, handle) = shard();
    let mut client = connect(&handle);
    drop(shard.accept_given().unwrap());
    assert!(matches!(shard.turn(), Turn::Wait(_)));
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    handle.shutdown();
    assert!(matches!(shard.turn(), Turn::Stop));
    drop(shard);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// When a shard goes, its connections go, and whoever still has a handle is told.
#[test]
fn dropping_a_shard_closes_what_it_served_and_what_waited() {
    let (shard, handle) = shard();
    let mut served = connect(&handle);
    let task = shard.accept_given().unwrap();
    let mut waiting = connect(&handle);
    drop((shard, task));
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
    assert_eq!(waiting.read(&mut [0]).unwrap(), 0);
    assert!(handle.connect().is_err());
}

/// Each of the others is served, and none of those that wait is forgotten.
#[test]
fn streams_wait_in_a_bounded_queue() {
    let (shard, handle) = shard();
    let clients: Vec<Pipe> = (0..1024).map(|_| handle.connect().unwrap()).collect();
    assert!(handle.connect().is_err(), "1,024 wait");
    let mut served = 0;
    while let Some(task) = shard.accept_given() {
        assert!(poll(task).is_pending());
        served += 1;
    }
    assert_eq!(served, clients.len());
    assert!(handle.connect().is_ok());
}
