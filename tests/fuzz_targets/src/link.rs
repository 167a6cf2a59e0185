//! Arbitrary bytes for the layers below MQTT: nothing panics, nothing grows, and how the bytes are split changes nothing.
//!
//! The first byte chooses the layers and says whether the beginning of the inner one is right, see `fuzz/README.md`; the
//! second and third choose the splits.

use culex_core::Wall;
use culex_link::{
    Buffers, CertificatePair, Layers, Learnt, Link, Pem, Progress, Tls, TlsSettings, WebSocketSettings,
};
use std::io::IoSlice;
use std::sync::LazyLock;

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 1883\r\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
/// As a client of rustls begins, for the host `broker.invalid`.
const CLIENT_HELLO: &[u8] = include_bytes!("link/client_hello");
/// The answer to a request, one pong, one goodbye.
const SAID_BYTES_MAX: usize = 1024;
/// The answer to a ClientHello, with the certificate, and an alert.
const SAID_BY_TLS_BYTES_MAX: usize = 4096;

/// A key that everybody may know.
static TLS: LazyLock<Tls> = LazyLock::new(|| {
    let pem = || Pem::text("broker.pem", *include_bytes!("link/broker.pem"));
    let certificates = vec![CertificatePair { chain: pem(), key: pem() }];
    // 2026-01-01
    Tls::new(TlsSettings { certificates, ..TlsSettings::default() }, Wall(1_767_225_600_000))
        .expect("the key fits the certificate")
});

/// Target `link`: see the table in `fuzz/README.md`.
///
/// # Panics
/// If something that must hold does not.
pub fn link(bytes: &[u8]) {
    let Some((&[kind, first, second], bytes)) = bytes.split_first_chunk() else { return };
    let websocket = || WebSocketSettings { forwarded: trusted(), ..WebSocketSettings::new("/".into()) };
    let (layers, beginning): (_, &[&[u8]]) = match kind / 2 % 4 {
        0 => (Layers { websocket: Some(websocket()), ..Layers::default() }, &[REQUEST]),
        1 => (Layers { proxy: Some(trusted()), ..Layers::default() }, &[HEADER]),
        2 => {
            let layers = Layers { proxy: Some(trusted()), websocket: Some(websocket()), ..Layers::default() };
            (layers, &[HEADER, REQUEST])
        }
        _ => (Layers { tls: Some(TLS.clone()), ..Layers::default() }, &[CLIENT_HELLO]),
    };
    let beginning = if kind % 2 == 1 { beginning.concat() } else { Vec::new() };
    let wire = [&beginning, bytes].concat();
    let whole = outcome(&layers, &wire, |_| usize::MAX);
    assert_eq!(whole, outcome(&layers, &wire, |_| 1), "byte by byte");
    let sizes = [usize::from(first) + 1, usize::from(second) + 1];
    assert_eq!(whole, outcome(&layers, &wire, |n| sizes[n % 2]), "in chunks of {sizes:?}");
}

fn trusted() -> culex_link::Trusted {
    "127.0.0.0/8, 192.0.2.1".parse().expect("a list of addresses")
}

/// What must not depend on how the bytes were split.
#[derive(Debug, PartialEq)]
struct Outcome {
    plain: Vec<u8>,
    end: Progress,
    learnt: Option<Learnt>,
    shaking: bool,
    /// What the layers said; empty where it is random.
    said: Vec<u8>,
}

fn outcome(layers: &Layers, mut wire: &[u8], size: impl Fn(usize) -> usize) -> Outcome {
    let mut link: Link =
        layers.link(Some(([127, 0, 0, 1], 999).into())).expect("each of them has at least one layer");
    let (mut buffers, mut plain, mut said) = (Buffers::default(), Vec::new(), Vec::new());
    let (mut end, mut chunks, mut learnt) = (Progress::Open, 0, None);
    while !wire.is_empty() {
        let (chunk, rest) = wire.split_at(size(chunks).min(wire.len()));
        wire = rest;
        chunks += 1;
        let before = plain.len();
        let progress = link.receive(chunk, &mut buffers, &mut plain);
        assert!(plain.len() - before <= chunk.len(), "nothing comes from nothing");
        learnt = link.learnt().or(learnt);
        if end == Progress::Open {
            end = progress;
        } else {
            assert_eq!((progress, plain.len()), (Progress::Open, before), "it went on after its end");
        }
    }
    let shaking = link.is_shaking_hands();
    link.send(&[IoSlice::new(b"last words")], &mut buffers, &mut said);
    link.close(&mut buffers, &mut said);
    assert!(!link.speaks());
    let most = if layers.tls.is_some() { SAID_BY_TLS_BYTES_MAX } else { SAID_BYTES_MAX };
    assert!(said.len() <= most, "it said {} bytes", said.len());
    if layers.tls.is_some() {
        said.clear();
    }
    Outcome { plain, end, learnt, shaking, said }
}
