//! A connection by WebSocket as its client sees it.

#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::{Clause, Violation};
use culex_link::{HANDSHAKE_BYTES_MAX, Layer, Progress, WebSocket, WebSocketSettings};
use std::io::IoSlice;

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

fn layer() -> WebSocket {
    WebSocket::new("/mqtt".into())
}

/// What a layer says to a request, status line and header fields and all.
fn answer(request: &str) -> (Progress, String) {
    let mut layer = layer();
    let progress = layer.receive(request.as_bytes(), &mut Vec::new());
    let mut wire = Vec::new();
    layer.close(&mut wire);
    (progress, String::from_utf8_lossy(&wire).into_owned())
}

#[track_caller]
fn refused(request: &str, status: &str, header: &str) {
    let (progress, answer) = answer(request);
    assert!(matches!(progress, Progress::Failed(_)), "{progress:?}");
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains(header) && answer.contains("Connection: close\r\n"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
}

/// A layer whose handshake is over.
fn upgraded() -> WebSocket {
    let mut layer = layer();
    assert_eq!(layer.receive(REQUEST.as_bytes(), &mut Vec::new()), Progress::Open);
    layer.send(&[], &mut Vec::new());
    layer
}

/// A masked frame with this first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut frame = vec![first];
    match payload.len() {
        length @ ..126 => frame.push(0x80 | length as u8),
        length @ ..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// What comes of some frames: the data, what became of the connection, and the layer's last words.
fn frames(wire: &[u8]) -> (Vec<u8>, Progress, Vec<u8>) {
    let (mut layer, mut plain, mut said) = (upgraded(), Vec::new(), Vec::new());
    let progress = layer.receive(wire, &mut plain);
    layer.close(&mut said);
    (plain, progress, said)
}

#[track_caller]
fn violates(wire: &[u8], clause: &'static str, code: u16) {
    let (_, progress, said) = frames(wire);
    let Progress::Violated(Violation { clause: Clause(found), .. }) = progress else {
        panic!("{progress:?}")
    };
    assert_eq!(found, clause);
    assert_eq!(said, [&[0x88, 2], &code.to_be_bytes()[..]].concat());
}

/// The key and its answer are the example of RFC 6455, 1.3.
#[test]
fn a_request_is_answered_by_101_with_the_subprotocol_mqtt() {
    let (progress, answer) = answer(REQUEST);
    assert_eq!(progress, Progress::Open);
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    for line in ["Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "Sec-WebSocket-Protocol: mqtt"] {
        assert!(answer.contains(&format!("\r\n{line}\r\n")), "{answer}");
    }
}

/// [MQTT-6.0.0-4]
#[test]
fn mqtt_is_selected_wherever_it_stands_among_the_offers_and_mqttv3_1_only_alone() {
    let offering = |line: &str| answer(&REQUEST.replace("Sec-WebSocket-Protocol: mqtt", line)).1;
    for offers in [
        "sec-websocket-protocol: chat, mqtt",
        "Sec-WebSocket-Protocol: mqttv3.1 ,mqtt",
        "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: mqtt",
    ] {
        assert!(offering(offers).contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{offers}");
    }
    let answer = offering("Sec-WebSocket-Protocol: mqttv3.1");
    assert!(answer.contains("\r\nSec-WebSocket-Protocol: mqttv3.1\r\n"), "{answer}");
}

/// [MQTT-6.0.0-3]
#[test]
fn who_does_not_offer_mqtt_is_refused() {
    for line in ["X: y", "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: MQTT"] {
        refused(&REQUEST.replace("Sec-WebSocket-Protocol: mqtt", line), "400", "");
    }
}

#[test]
fn every_wrong_request_has_its_answer() {
    let without = |line: &str| REQUEST.replace(&format!("{line}\r\n"), "");
    refused(&REQUEST.replace("GET", "POST"), "405", "\r\nAllow: GET\r\n");
    refused(&REQUEST.replace("/mqtt", "/"), "404", "");
    refused(&REQUEST.replace("/mqtt", "/mqtt/"), "404", "");
    refused(&without("Upgrade: websocket"), "426", "\r\nUpgrade: websocket\r\n");
    refused(&without("Connection: Upgrade"), "426", "\r\nUpgrade: websocket\r\n");
    refused(&REQUEST.replace(": 13", ": 8"), "400", "\r\nSec-WebSocket-Version: 13\r\n");
    refused(&without("Host: broker"), "400", "");
    refused(&REQUEST.replace("HTTP/1.1", "HTTP/1.0"), "400", "");
    refused(&REQUEST.replace("dGhl", "dGh"), "400", "");
    refused(&REQUEST.replace("Host", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nHost"), "400", "");
    refused("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a\r\n\r\n", "400", "");
    refused(&REQUEST.replace("Host", &format!("{}Host", "X: y\r\n".repeat(70))), "431", "");
}

#[test]
fn a_page_of_another_origin_is_refused_unless_it_is_listed() {
    let from = |origin: &str| REQUEST.replace("Host", &format!("Origin: {origin}\r\nHost"));
    assert_eq!(answer(&from("http://broker")).0, Progress::Open);
    for origin in ["http://evil.example", "null", "", "http://broker\r\nOrigin: http://broker"] {
        refused(&from(origin), "403", "");
    }
    let mut settings = WebSocketSettings::new("/mqtt".into());
    settings.origins = "https://shop.example".parse().unwrap();
    let with =
        |request: String| WebSocket::with(settings.clone()).receive(request.as_bytes(), &mut Vec::new());
    assert_eq!(with(from("https://shop.example")), Progress::Open);
    assert_eq!(with(REQUEST.into()), Progress::Open, "who sends no Origin is not a page");
    let Progress::Failed(failure) = with(from("http://broker")) else { panic!("it is not listed") };
    assert_eq!(failure.to_string(), "WebSocket: pages of this origin may not connect");
}

#[test]
fn a_target_may_have_a_query_or_be_a_whole_url() {
    for target in ["/mqtt?token=x", "http://broker:8083/mqtt", "ws://broker/mqtt?x=http://y/z"] {
        assert_eq!(answer(&REQUEST.replace("/mqtt", target)).0, Progress::Open, "{target}");
    }
    refused(&REQUEST.replace("/mqtt", "http://broker"), "404", "");
}

#[test]
fn a_request_is_kept_up_to_its_limit_and_not_beyond() {
    let padded = |bytes: usize| {
        let padding = "p".repeat(bytes - REQUEST.len() - "P: \r\n".len());
        REQUEST.replace("Host", &format!("P: {padding}\r\nHost"))
    };
    assert_eq!(answer(&padded(HANDSHAKE_BYTES_MAX)).0, Progress::Open);
    refused(&padded(HANDSHAKE_BYTES_MAX + 1), "431", "");
    refused(&"x".repeat(HANDSHAKE_BYTES_MAX), "431", "");
}

#[test]
fn frames_behind_the_request_are_read() {
    let (mut layer, mut plain) = (layer(), Vec::new());
    let wire = [REQUEST.as_bytes(), &frame(0x82, b"early")].concat();
    assert_eq!(layer.receive(&wire, &mut plain), Progress::Open);
    assert_eq!(plain, b"early");
}

/// [MQTT-6.0.0-1]
#[test]
fn a_text_frame_ends_the_connection_with_1003() {
    violates(&frame(0x81, b"hello"), "MQTT-6.0.0-1", 1003);
    // Before its payload, and also as a fragment.
    violates(&frame(0x01, b"hello")[..6], "MQTT-6.0.0-1", 1003);
}

/// [MQTT-6.0.0-2]
#[test]
fn data_does_not_care_for_the_borders_of_frames() {
    let wire =
        [frame(0x02, b"a"), frame(0x89, b"x"), frame(0x00, b""), frame(0x80, b"bc"), frame(0x82, b"d")];
    let (plain, progress, _) = frames(&wire.concat());
    assert_eq!((plain.as_slice(), progress), (&b"abcd"[..], Progress::Open));
    for size in [0, 125, 126, 65_535, 65_536, 300_000] {
        let payload: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        assert!(frames(&frame(0x82, &payload)).0 == payload, "{size} bytes");
    }
}

#[test]
fn every_broken_rule_of_rfc_6455_ends_the_connection_with_1002() {
    violates(&[0x82, 1, 0], "RFC 6455 5.1", 1002); // not masked
    violates(&frame(0xC2, b"a"), "RFC 6455 5.2", 1002); // a reserved bit
    violates(&frame(0x83, b"a"), "RFC 6455 5.2", 1002); // an unknown kind of frame
    violates(&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "RFC 6455 5.2", 1002); // 2^63 bytes
    violates(&frame(0x80, b"a"), "RFC 6455 5.4", 1002); // continues nothing
    violates(&[frame(0x02, b"a"), frame(0x82, b"a")].concat(), "RFC 6455 5.4", 1002);
    violates(&frame(0x09, b"a"), "RFC 6455 5.5", 1002); // a fragment of a ping
    violates(&frame(0x89, &[0; 126]), "RFC 6455 5.5", 1002);
    violates(&frame(0x88, &[3]), "RFC 6455 5.5.1", 1002); // half a code
    violates(&frame(0x88, &[3, 232, 0xFF]), "RFC 6455 5.5.1", 1007); // a reason that is no text
}

#[test]
fn a_frame_that_claims_to_be_huge_costs_nothing() {
    let (mut layer, mut plain) = (upgraded(), Vec::new());
    let claim = [0x82, 0xFF, 0x7F, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    assert_eq!(layer.receive(&claim, &mut plain), Progress::Open);
    assert!(plain == [7] && plain.capacity() < 100);
}

#[test]
fn only_the_last_ping_is_answered_and_before_any_data() {
    let (mut layer, mut said) = (upgraded(), Vec::new());
    layer.receive(&[frame(0x89, b"one"), frame(0x89, b"two"), frame(0x8A, b"x")].concat(), &mut Vec::new());
    assert!(layer.speaks());
    layer.send(&[IoSlice::new(b"data"), IoSlice::new(b"more")], &mut said);
    assert_eq!(said, b"\x8A\x03two\x82\x08datamore");
    assert!(!layer.speaks());
}

#[test]
fn a_goodbye_is_answered_with_its_code() {
    for (payload, answer) in [
        (&b""[..], &[][..]),
        (&[0x03, 0xE8], &[0x03, 0xE8]),
        (&[0x0F, 0xA0, b'x'], &[0x0F, 0xA0]),
        (&[0x03, 0xED], &[0x03, 0xEA]), // 1005 is never sent: 1002
    ] {
        let (plain, progress, said) = frames(&[frame(0x82, b"last"), frame(0x88, payload)].concat());
        assert_eq!((plain.as_slice(), progress), (&b"last"[..], Progress::Closed));
        assert_eq!(said, [&[0x88, answer.len() as u8], answer].concat());
    }
}

#[test]
fn the_broker_says_goodbye_with_1000_and_nothing_after_it() {
    let (mut layer, mut said) = (upgraded(), Vec::new());
    layer.close(&mut said);
    layer.close(&mut said);
    layer.send(&[IoSlice::new(b"late")], &mut said);
    assert_eq!(said, [0x88, 2, 0x03, 0xE8]);
    assert_eq!(layer.receive(&frame(0x82, b"late"), &mut Vec::new()), Progress::Open);
    assert!(!layer.speaks());
}

/// A client is told in MQTT's words why it must go: its DISCONNECT comes before the end of the WebSocket.
#[test]
fn the_last_words_of_the_machine_come_before_the_end() {
    let (mut layer, mut said) = (upgraded(), Vec::new());
    layer.receive(&frame(0x81, b"text"), &mut Vec::new());
    layer.send(&[IoSlice::new(&[0xE0, 1, 0x82])], &mut said);
    layer.close(&mut said);
    assert_eq!(said, [0x82, 3, 0xE0, 1, 0x82, 0x88, 2, 0x03, 0xEB]);
}

#[test]
fn nothing_of_mqtt_is_sent_to_who_was_refused() {
    let (mut layer, mut said) = (layer(), Vec::new());
    layer.receive(b"GET / HTTP/1.1\r\n\r\n", &mut Vec::new());
    layer.send(&[IoSlice::new(b"data")], &mut said);
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("HTTP/1.1 404 ") && !said.contains("data"), "{said}");
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<WebSocket>() <= 112, "{} bytes", size_of::<WebSocket>());
}
