//! Connections that begin with a header of the PROXY protocol.

#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_link::{Layer, Learnt, PROXY_BYTES_MAX, Progress, Proxy};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::IoSlice;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const TCP4: &[u8] = &[192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 0x07, 0x5B];

/// A header of version 2 with this command, this family, and this body.
fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
}

fn value(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

/// What a proxy says about a client's TLS.
fn ssl(client: u8, verify: u32, names: &[&[u8]]) -> Vec<u8> {
    let names: Vec<u8> = names.iter().flat_map(|name| value(0x22, name)).collect();
    value(0x20, &[&[client], &verify.to_be_bytes()[..], &value(0x21, b"TLSv1.3"), &names].concat())
}

/// What comes of some bytes, cut after each of `cuts`.
fn outcome(wire: &[u8], mut cuts: Vec<usize>) -> (Progress, Option<Learnt>, Vec<u8>) {
    let (mut layer, mut plain, mut learnt) = (Proxy::new(), Vec::new(), None);
    cuts.iter_mut().for_each(|cut| *cut %= wire.len() + 1);
    cuts.extend([0, wire.len()]);
    cuts.sort_unstable();
    let mut end = Progress::Open;
    for cut in cuts.windows(2) {
        let progress = layer.receive(&wire[cut[0]..cut[1]], &mut plain);
        if end == Progress::Open {
            end = progress;
        }
        if let Some(news) = layer.learnt() {
            assert_eq!(learnt.replace(news), None, "it told twice");
        }
    }
    assert!(!layer.speaks());
    (end, learnt, plain)
}

#[track_caller]
fn tells(header: &[u8], address: Option<&str>, identity: Option<&str>) {
    let wire = [header, b"\x10\x00"].concat();
    let (end, learnt, plain) = outcome(&wire, (0..wire.len()).collect());
    assert_eq!(end, Progress::Open);
    let learnt = learnt.unwrap_or_default();
    assert_eq!(learnt.address.map(|address| address.to_string()).as_deref(), address);
    assert_eq!(learnt.identity.as_deref(), identity);
    assert_eq!(plain, b"\x10\x00");
}

#[track_caller]
fn fails(wire: &[u8], why: &str) {
    let (end, learnt, plain) = outcome(wire, Vec::new());
    let Progress::Failed(failure) = end else { panic!("{end:?}") };
    assert_eq!(failure.to_string(), format!("PROXY protocol: expected {why}"));
    assert!(learnt.is_none() && plain.is_empty());
}

#[test]
fn version_1_tells_the_address() {
    tells(b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 1883\r\n", Some("192.0.2.1:4711"), None);
    tells(b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", Some("[2001:db8::1]:0"), None);
    tells(b"PROXY UNKNOWN\r\n", None, None);
    tells(b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None, None);
}

#[test]
fn version_1_is_read_strictly() {
    const EXPECTED: &str = "PROXY TCP4, TCP6 or UNKNOWN with addresses and ports";
    for line in [
        "PROXY TCP4 192.0.2.1 10.0.0.1 4711\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 4711 1883 \r\n",
        "PROXY TCP4  192.0.2.1 10.0.0.1 4711 1883\r\n",
        "PROXY TCP4 192.0.2.01 10.0.0.1 4711 1883\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 04711 1883\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 +4711 1883\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 4711 65536\r\n",
        "PROXY TCP4 ::1 ::1 4711 1883\r\n",
        "PROXY TCP6 192.0.2.1 10.0.0.1 4711 1883\r\n",
        "PROXY tcp4 192.0.2.1 10.0.0.1 4711 1883\r\n",
        "PROXY UDP4 192.0.2.1 10.0.0.1 4711 1883\r\n",
        "PROXY \r\n",
    ] {
        fails(line.as_bytes(), EXPECTED);
    }
    fails(b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 1883\n", "a line that ends with CR LF");
    let longest = [b"PROXY UNKNOWN ", &[b'x'; 91][..], b"\r\n"].concat();
    assert_eq!(longest.len(), 107);
    tells(&longest, None, None);
    fails(&[b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n"].concat(), "a line of at most 107 bytes");
}

#[test]
fn version_2_tells_the_address() {
    tells(&header(0x21, 0x11, TCP4), Some("192.0.2.1:4711"), None);
    let tcp6 = [&[0x20, 1, 0xD, 0xB8], &[0; 11][..], &[1], &[0; 16], &[0x12, 0x67, 0, 1]].concat();
    tells(&header(0x21, 0x21, &tcp6), Some("[2001:db8::1]:4711"), None);
    tells(&header(0x21, 0x31, &[b'/'; 216]), None, None);
    tells(&header(0x21, 0x00, b""), None, None);
    tells(&header(0x21, 0x00, &value(1, b"h2")), None, None);
    // The proxy speaks for itself: whatever else the header says does not count.
    tells(&header(0x20, 0x00, b""), None, None);
    tells(&header(0x20, 0x11, TCP4), None, None);
    tells(&header(0x20, 0xFF, b"\xFF"), None, None);
}

#[test]
fn version_2_is_read_strictly() {
    let command = "version 2 and the command LOCAL or PROXY";
    let family = "a stream of TCP/IPv4, TCP/IPv6 or a Unix socket";
    for wrong in [0x22, 0x2F, 0x11, 0x31] {
        fails(&header(wrong, 0x11, TCP4), command);
    }
    for wrong in [0x10, 0x12, 0x22, 0x32, 0x41, 0x01] {
        fails(&header(0x21, wrong, &[0; 216]), family);
    }
    fails(&header(0x21, 0x11, &TCP4[1..]), "a header that has room for its addresses");
    let length = PROXY_BYTES_MAX - 16;
    let padded = |length: usize| [TCP4, &value(4, &vec![0; length - TCP4.len() - 3])].concat();
    tells(&header(0x21, 0x11, &padded(length)), Some("192.0.2.1:4711"), None);
    fails(&header(0x21, 0x11, &padded(length + 1)), "a header of at most 4096 bytes");
    for wrong in [&[1][..], &[1, 0], &[1, 0, 1]] {
        fails(&header(0x21, 0x11, &[TCP4, wrong].concat()), "a value that is as long as it says");
    }
}

#[test]
fn a_checksum_is_checked() {
    // CRC-32C of "123456789" is 0xE3069283; that of this header was computed apart from the layer.
    let with = |crc: u32| header(0x21, 0x11, &[TCP4, &value(3, &crc.to_be_bytes())].concat());
    let right = bitwise_crc(&with(0));
    tells(&with(right), Some("192.0.2.1:4711"), None);
    fails(&with(right ^ 1), "one checksum, and that of the header");
    fails(&header(0x21, 0x11, &[TCP4, &value(3, b"abc")].concat()), "a checksum of 4 bytes");
}

/// The division that defines it, most significant bit first.
fn bitwise_crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(byte.reverse_bits()) << 24;
        for _ in 0..8 {
            crc = if crc >> 31 == 1 { (crc << 1) ^ 0x1EDC_6F41 } else { crc << 1 };
        }
    }
    !crc.reverse_bits()
}

#[test]
fn the_reference_for_checksums_is_right() {
    assert_eq!(bitwise_crc(b"123456789"), 0xE306_9283);
}

#[test]
fn a_certificate_that_the_proxy_verified_is_an_identity() {
    let with = |values: &[u8]| header(0x21, 0x11, &[TCP4, values].concat());
    tells(&with(&ssl(0x07, 0, &[b"device-7"])), Some("192.0.2.1:4711"), Some("device-7"));
    tells(&with(&ssl(0x05, 0, &[b"device-7"])), Some("192.0.2.1:4711"), Some("device-7"));
    // TLS without a certificate, or with one that was not verified.
    tells(&with(&ssl(0x01, 0, &[b"device-7"])), Some("192.0.2.1:4711"), None);
    tells(&with(&ssl(0x07, 1, &[b"device-7"])), Some("192.0.2.1:4711"), None);
    tells(&with(&ssl(0x07, 0, &[])), Some("192.0.2.1:4711"), None);
    for wrong in [&b""[..], b"a\0b", b"\xFF", &[b'x'; 257]] {
        fails(&with(&ssl(0x07, 0, &[wrong])), "a common name of 1 to 256 bytes of text");
    }
    fails(&with(&ssl(0x07, 0, &[b"a", b"b"])), "one common name");
    fails(&with(&[ssl(7, 0, &[b"a"]), ssl(7, 0, &[b"b"])].concat()), "what it knows of TLS once");
    fails(&with(&value(0x20, &[1, 0, 0])), "a value that is as long as it says");
}

#[test]
fn without_a_header_nothing_comes_through() {
    fails(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a", "a header, found something else");
    fails(b"\r\n\r\n\0\r\nQUIT\r", "a header, found something else");
    fails(b"PROXX", "a header, found something else");
}

#[test]
fn behind_the_header_bytes_pass_both_ways_and_the_layer_is_done() {
    let (mut layer, mut plain, mut wire) = (Proxy::new(), Vec::new(), Vec::new());
    assert_eq!(layer.receive(b"PROXY UNKNOWN\r", &mut plain), Progress::Open);
    assert!(layer.is_shaking_hands() && !layer.is_done());
    assert_eq!(layer.receive(b"\nfirst", &mut plain), Progress::Open);
    assert!(!layer.is_shaking_hands() && layer.is_done());
    assert_eq!(layer.receive(b" second", &mut plain), Progress::Open);
    assert_eq!(plain, b"first second");
    layer.send(&[IoSlice::new(b"an"), IoSlice::new(b"swer")], &mut wire);
    layer.close(&mut wire);
    assert_eq!(wire, b"answer");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_header_means_the_same_however_it_is_split(
        version in 0..3_u8, damage in vec((any::<usize>(), any::<u8>()), 0..3), behind in vec(any::<u8>(), 0..200),
        cuts in vec(any::<usize>(), 0..10)
    ) {
        let mut wire = match version {
            0 => b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 1883\r\n".to_vec(),
            1 => header(0x21, 0x11, &[TCP4, &ssl(7, 0, &[b"device-7"]), &value(4, b"padding")].concat()),
            _ => Vec::new(),
        };
        for (at, byte) in damage {
            let length = wire.len();
            if let Some(place) = wire.get_mut(at % length.max(1)) {
                *place = byte;
            }
        }
        wire.extend(behind);
        let whole = outcome(&wire, Vec::new());
        prop_assert_eq!(&whole, &outcome(&wire, (0..wire.len()).collect()));
        prop_assert_eq!(&whole, &outcome(&wire, cuts));
        prop_assert!(whole.2.len() <= wire.len());
    }
}
