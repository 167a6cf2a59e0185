//! Streams that the program has itself, on tokio.
#![allow(clippy::unwrap_used)] // as in tests

use culex_core::{Config, Peer};
use culex_tokio::{Bound, Broker, Handle, Listener, Transport, stream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, DuplexStream, ReadBuf, duplex,
};
use tokio::time::timeout;

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a";
const CONNACK: &[u8] = b"\x20\x02\x00\x00";

fn start(bound: Bound) -> (Handle, impl FnOnce()) {
    let handle = bound.handle();
    let running = std::thread::spawn(move || bound.run_blocking());
    let stop = {
        let handle = handle.clone();
        move || {
            handle.shutdown();
            running.join().unwrap().unwrap();
        }
    };
    (handle, stop)
}

/// What is written is sent, also where it is buffered and where the peer takes a few bytes at a time; and the end is told
/// at once, not when the broker stops waiting for the peer to close.
#[tokio::test]
async fn a_stream_of_the_program_is_served() {
    let config = Config { linger_ms: 60_000, ..Config::default() };
    let (handle, stop) = start(Broker::builder().config(config).shutdown_ms(100).bind().unwrap());
    for (buffer, size) in [(1, 20_000), (7, 50_000), (64 * 1024, 1_000_000)] {
        let (client, server) = duplex(buffer);
        handle.accept(stream(BufWriter::new(server)), Peer::default()).unwrap();
        timeout(Duration::from_secs(20), echo(client, size)).await.unwrap();
    }
    stop();
}

/// Publishes and gets back so many bytes, and says goodbye.
async fn echo(client: DuplexStream, size: usize) {
    let length = size + 3;
    let length = [length % 128 + 128, length / 128 % 128 + 128, length / 16_384].map(|byte| byte as u8);
    let publish = [&[0x30][..], &length, b"\x00\x01t", &vec![7; size]].concat();
    let (mut reading, mut writing) = tokio::io::split(client);
    let sent = [CONNECT, b"\x82\x06\x00\x01\x00\x01t\x00", &publish].concat();
    let sending = tokio::spawn(async move {
        writing.write_all(&sent).await.unwrap();
        writing
    });
    let mut received = vec![0; CONNACK.len() + 5 + publish.len()];
    reading.read_exact(&mut received).await.unwrap();
    assert!(received.starts_with(b"\x20\x02\x00\x00\x90\x03\x00\x01\x00\x30"));
    assert!(received.ends_with(&publish));
    // DISCONNECT: the broker closes.
    sending.await.unwrap().write_all(b"\xe0\x00").await.unwrap();
    assert_eq!(reading.read(&mut [0]).await.unwrap(), 0);
}

/// A listener without a socket gives a stream of the program its layers.
#[tokio::test]
async fn a_stream_of_the_program_gets_the_layers_of_its_listener() {
    let broker = Broker::builder().listener(Listener::program(Transport::websocket("/mqtt")));
    let (handle, stop) = start(broker.shutdown_ms(100).bind().unwrap());
    let (mut client, server) = duplex(100);
    handle.accept(stream(server), Peer::default()).unwrap();
    client.write_all(b"GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    stop();
}

/// Panics when it is read.
struct Panics;

impl AsyncRead for Panics {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        panic!("as this test wants it");
    }
}

impl AsyncWrite for Panics {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_stream_that_panics_costs_its_own_connection_only() {
    let (handle, stop) = start(Broker::builder().shutdown_ms(100).bind().unwrap());
    handle.accept(stream(Panics), Peer::default()).unwrap();
    let mut client = handle.connect().unwrap();
    client.write_all(CONNECT).await.unwrap();
    let mut connack = [0; 4];
    client.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, CONNACK);
    stop();
}

/// When the broker is gone, so are its connections and whoever wants a new one is told.
#[tokio::test]
async fn a_stopped_broker_takes_no_stream() {
    let bound = Broker::builder().bind().unwrap();
    let handle = bound.handle();
    let mut waiting = handle.connect().unwrap();
    drop(bound);
    assert_eq!(waiting.read(&mut [0]).await.unwrap(), 0);
    assert!(handle.connect().is_err());
    let (mut client, server) = duplex(100);
    assert!(handle.accept(stream(server), Peer::default()).is_err());
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}
