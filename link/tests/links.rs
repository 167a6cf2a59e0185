//! Layers on top of each other.

#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_link::{Buffers, Layers, Link, Progress, Trusted, WebSocketSettings};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::IoSlice;

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 1883\r\n";
const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
const FRAME: &[u8] = &[0x82, 0x85, 0, 0, 0, 0, b'h', b'e', b'l', b'l', b'o'];
const GOODBYE: &[u8] = &[0x88, 0x80, 0, 0, 0, 0];

fn layers(proxy: bool, websocket: bool) -> Layers {
    let proxy = proxy.then(|| "10.0.0.0/8".parse().unwrap());
    Layers {
        proxy,
        websocket: websocket.then(|| WebSocketSettings::new("/mqtt".into())),
        ..Layers::default()
    }
}

fn link(proxy: bool, websocket: bool) -> Link {
    layers(proxy, websocket).link(Some(([10, 0, 0, 1], 999).into())).unwrap()
}

/// The data, the end, what is known of the peer, and what is said.
fn outcome(mut link: Link, wire: &[u8], mut cuts: Vec<usize>) -> (Vec<u8>, Progress, String, Vec<u8>) {
    let (mut buffers, mut plain, mut said) = (Buffers::default(), Vec::new(), Vec::new());
    cuts.iter_mut().for_each(|cut| *cut %= wire.len() + 1);
    cuts.extend([0, wire.len()]);
    cuts.sort_unstable();
    let mut end = Progress::Open;
    for cut in cuts.windows(2) {
        let progress = link.receive(&wire[cut[0]..cut[1]], &mut buffers, &mut plain);
        assert!(end == Progress::Open || progress == Progress::Open, "it ended twice");
        if end == Progress::Open {
            end = progress;
        }
    }
    let known = format!("{:?} {:?}", link.address(), link.learnt());
    link.close(&mut buffers, &mut said);
    (plain, end, known, said)
}

#[test]
fn a_websocket_behind_a_proxy_knows_where_its_client_is() {
    let wire = [HEADER, REQUEST.as_bytes(), FRAME].concat();
    let (mut link, mut buffers, mut plain) = (link(true, true), Buffers::default(), Vec::new());
    assert!(link.is_shaking_hands());
    assert_eq!(link.receive(&wire, &mut buffers, &mut plain), Progress::Open);
    assert_eq!(link.learnt().unwrap().address, Some(([192, 0, 2, 1], 4711).into()));
    assert_eq!(link.learnt(), None, "it tells once");
    assert_eq!(plain, b"hello");
    assert!(!link.is_shaking_hands() && !link.is_bare() && link.speaks());
    let mut said = Vec::new();
    link.send(&[IoSlice::new(b"good"), IoSlice::new(b"day")], &mut buffers, &mut said);
    assert!(said.starts_with(b"HTTP/1.1 101 ") && said.ends_with(b"\x82\x07goodday"));
}

#[test]
fn behind_the_header_of_a_proxy_a_connection_needs_no_link() {
    let (mut link, mut buffers, mut plain) = (link(true, false), Buffers::default(), Vec::new());
    assert_eq!(link.receive(&HEADER[..20], &mut buffers, &mut plain), Progress::Open);
    assert!(!link.is_bare());
    assert_eq!(link.receive(&HEADER[20..], &mut buffers, &mut plain), Progress::Open);
    assert!(link.is_bare() && plain.is_empty() && link.learnt().is_some());
    // It works all the same.
    let mut wire = Vec::new();
    assert_eq!(link.receive(b"in", &mut buffers, &mut plain), Progress::Open);
    link.send(&[IoSlice::new(b"out")], &mut buffers, &mut wire);
    assert_eq!((&plain[..], &wire[..]), (&b"in"[..], &b"out"[..]));
}

#[test]
fn the_inner_goodbye_goes_through_the_outer_layer() {
    let wire = [HEADER, REQUEST.as_bytes(), FRAME, GOODBYE].concat();
    let (plain, end, _, said) = outcome(link(true, true), &wire, vec![]);
    assert_eq!((&plain[..], end), (&b"hello"[..], Progress::Closed));
    assert!(said.starts_with(b"HTTP/1.1 101 ") && said.ends_with(&[0x88, 0]));
    let (plain, end, _, said) =
        outcome(link(true, true), &[HEADER, b"POST / HTTP/1.1\r\n\r\n"].concat(), vec![]);
    assert!(plain.is_empty() && matches!(end, Progress::Failed(_)) && said.starts_with(b"HTTP/1.1 405 "));
}

#[test]
fn only_the_proxies_of_a_listener_are_let_in() {
    let with = layers(true, false);
    assert!(with.admits(Some(([10, 1, 2, 3], 1).into())) && !with.admits(Some(([192, 0, 2, 1], 1).into())));
    assert!(with.admits(None), "a Unix socket has permissions");
    assert!(layers(false, true).admits(Some(([192, 0, 2, 1], 1).into())));
    let nobody = Layers { proxy: Some(Trusted::default()), ..Layers::default() };
    assert!(!nobody.admits(Some(([127, 0, 0, 1], 1).into())));
    assert!(Layers::default().link(None).is_none());
}

/// A request by a proxy that is believed if its address is.
#[test]
fn a_forwarded_address_is_believed_from_the_listeners_proxies_only() {
    let forwarded = |address: Option<&str>, proxy: bool, line: &str| {
        let mut layers = layers(proxy, true);
        layers.websocket.as_mut().unwrap().forwarded = "10.0.0.0/8".parse().unwrap();
        let mut link = layers.link(address.map(|address| address.parse().unwrap())).unwrap();
        let header: &[u8] = if proxy { HEADER } else { b"" };
        let wire = [header, REQUEST.replace("Host", &format!("{line}\r\nHost")).as_bytes()].concat();
        assert_eq!(link.receive(&wire, &mut Buffers::default(), &mut Vec::new()), Progress::Open);
        link.address().map(|address| address.to_string())
    };
    let some = |address: &str| Some(address.to_owned());
    let line = "X-Forwarded-For: 6.6.6.6, 198.51.100.9, 10.0.0.7";
    assert_eq!(forwarded(Some("10.0.0.1:5"), false, line), some("198.51.100.9:0"));
    assert_eq!(forwarded(None, false, line), some("198.51.100.9:0"), "by a Unix socket");
    assert_eq!(forwarded(Some("192.0.2.9:5"), false, line), some("192.0.2.9:5"), "not a proxy");
    // The one who speaks is the one that PROXY names, not the socket's.
    assert_eq!(forwarded(Some("10.0.0.1:5"), true, line), some("192.0.2.1:4711"));
    assert_eq!(forwarded(Some("10.0.0.1:5"), false, "X-Real-IP: 198.51.100.9"), some("198.51.100.9:0"));
}

/// Garbage that is close to what is right.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        3 => Just(FRAME.to_vec()),
        1 => Just(GOODBYE.to_vec()),
        1 => vec(any::<u8>(), 0..30),
        1 => Just(HEADER.to_vec()),
        1 => Just(REQUEST.as_bytes().to_vec()),
    ];
    (prop::bool::weighted(0.8), prop::bool::weighted(0.8), vec(part, 0..6)).prop_map(
        |(header, request, parts)| {
            let header: &[u8] = if header { HEADER } else { b"" };
            let request = if request { REQUEST } else { "" };
            [header, request.as_bytes(), &parts.concat()].concat()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn splitting_changes_nothing_for_any_layers(
        wire in wire(), cuts in vec(any::<usize>(), 0..10), stack in 0..3_u8
    ) {
        let link = || link(stack != 1, stack != 0);
        let whole = outcome(link(), &wire, Vec::new());
        prop_assert_eq!(&whole, &outcome(link(), &wire, cuts));
        prop_assert_eq!(&whole, &outcome(link(), &wire, (0..wire.len()).collect()));
    }
}
