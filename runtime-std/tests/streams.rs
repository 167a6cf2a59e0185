//! Streams that the program has itself, on blocking threads.
#![allow(clippy::unwrap_used)] // as in tests

use culex_core::Peer;
use culex_std::{Broker, Handle, Stream, stream};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a\xc0\x00";
const ANSWERS: &[u8] = b"\x20\x02\x00\x00\xd0\x00";

fn with_broker(test: impl FnOnce(&Handle)) {
    let bound = Broker::builder().shutdown_ms(100).bind().unwrap();
    let handle = bound.handle();
    let running = std::thread::spawn(|| bound.run());
    test(&handle);
    handle.shutdown();
    running.join().unwrap().unwrap();
}

fn exchange(handle: &Handle, mut client: impl Read + Write, own: Stream) {
    handle.accept(own, Peer::default()).unwrap();
    client.write_all(CONNECT).unwrap();
    let mut answers = [0; 6];
    client.read_exact(&mut answers).unwrap();
    assert_eq!(answers, ANSWERS);
    // DISCONNECT: the broker closes.
    client.write_all(b"\xe0\x00").unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn sockets_and_pairs_of_the_program_are_served() {
    with_broker(|handle| {
        let (client, server) = tcp_pair();
        exchange(handle, client, stream(server).unwrap());
        let (client, server) = UnixStream::pair().unwrap();
        exchange(handle, client, stream(server).unwrap());
        let (client, server) = tcp_pair();
        let pair = (server.try_clone().unwrap(), server);
        handle.accept(stream(pair).unwrap(), Peer::default()).unwrap();
        let mut client = client;
        client.write_all(CONNECT).unwrap();
        let mut answers = [0; 6];
        client.read_exact(&mut answers).unwrap();
        assert_eq!(answers, ANSWERS);
    });
}

/// The end of the broker is the end of the stream, although its reader waits for a peer that is silent.
#[test]
fn a_socket_ends_with_the_broker() {
    let (mut client, server) = tcp_pair();
    with_broker(|handle| {
        handle.accept(stream(server).unwrap(), Peer::default()).unwrap();
        client.write_all(CONNECT).unwrap();
        let mut answers = [0; 6];
        client.read_exact(&mut answers).unwrap();
    });
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}
