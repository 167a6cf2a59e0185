//! Arbitrary bytes for the WebSocket layer: nothing panics, nothing grows, and how the bytes are split changes nothing.
//!
//! The first byte says whether the handshake is over already; the second and third choose the splits.

use culex_link::{Layer, Progress, WebSocket};
use std::io::IoSlice;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
/// The answer to a request, one pong, one goodbye.
const SAID_BYTES_MAX: usize = 1024;

/// Target `link`: see the table in `fuzz/README.md`.
///
/// # Panics
/// If something that must hold does not.
pub fn link(bytes: &[u8]) {
    let Some((&[upgraded, first, second], bytes)) = bytes.split_first_chunk() else { return };
    let request: &[u8] = if upgraded % 2 == 1 { REQUEST } else { &[] };
    let wire = [request, bytes].concat();
    let whole = outcome(&wire, |_| usize::MAX);
    assert_eq!(whole, outcome(&wire, |_| 1), "byte by byte");
    let sizes = [usize::from(first) + 1, usize::from(second) + 1];
    assert_eq!(whole, outcome(&wire, |n| sizes[n % 2]), "in chunks of {sizes:?}");
}

/// The data, how the connection ended, and what the layer said.
fn outcome(mut wire: &[u8], size: impl Fn(usize) -> usize) -> (Vec<u8>, Progress, Vec<u8>) {
    let (mut layer, mut plain, mut said) = (WebSocket::new("/".into()), Vec::new(), Vec::new());
    let (mut end, mut chunks) = (Progress::Open, 0);
    while !wire.is_empty() {
        let (chunk, rest) = wire.split_at(size(chunks).min(wire.len()));
        wire = rest;
        chunks += 1;
        let before = plain.len();
        let progress = layer.receive(chunk, &mut plain);
        assert!(plain.len() - before <= chunk.len(), "nothing comes from nothing");
        if end == Progress::Open {
            end = progress;
        } else {
            assert_eq!((progress, plain.len()), (Progress::Open, before), "it went on after its end");
        }
    }
    layer.send(&[IoSlice::new(b"last words")], &mut said);
    layer.close(&mut said);
    assert!(said.len() <= SAID_BYTES_MAX && !layer.speaks());
    (plain, end, said)
}
