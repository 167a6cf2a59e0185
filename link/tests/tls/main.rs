//! TLS as a client of rustls sees it, in memory.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

mod certificates;
mod support;

use culex_core::Wall;
use culex_link::{Layers, Progress, TLS_HANDSHAKE_BYTES_MAX, TlsVersion, WebSocketSettings};
use proptest::collection::vec;
use proptest::prelude::*;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion};
use support::{Authority, TODAY, Wire, config, pair, settings, tls};

/// `cargo test --release -p culex-link --test tls -- --ignored --nocapture`
#[test]
#[ignore = "it measures, and prints what"]
#[allow(clippy::disallowed_methods)]
fn memory_and_time() {
    const CONNECTIONS: usize = 1000;
    let authority = Authority::new("authority");
    let tls = tls(settings(&authority.host("broker")));
    let pages = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    };
    let connect = |bytes: usize, websocket: bool| {
        let mut wire = Wire::new(config(&authority, &[&TLS13], None), "broker", &tls);
        if websocket {
            let settings = Some(WebSocketSettings::new("/mqtt".into()));
            wire.link = Layers { tls: Some(tls.clone()), websocket: settings, ..Layers::default() }
                .link(None)
                .unwrap();
        }
        wire.talk();
        if websocket {
            wire.say(
                b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Protocol: mqtt\r\n\r\n",
            );
        } else {
            wire.say(&vec![0; bytes]);
        }
        wire.answer(&[b"\x20\x02\0\0"]);
        wire.link
    };
    // The allocator has seen it all, and what is measured is not freed.
    drop(connect(20, true));
    let mut kept = Vec::new();
    for (bytes, websocket) in [(20, false), (1_000_000, false), (20, true)] {
        let before = pages();
        let begin = std::time::Instant::now();
        let links: Vec<_> = (0..CONNECTIONS).map(|_| connect(bytes, websocket)).collect();
        let each = begin.elapsed() / CONNECTIONS as u32;
        let memory = (pages() - before) * 4096 / CONNECTIONS;
        kept.push(links);
        eprintln!(
            "{memory} bytes and {each:?} for both sides of a connection that read {bytes}, WebSocket: {websocket}"
        );
    }
    let mut wire = Wire::new(config(&authority, &[&TLS13], None), "broker", &tls);
    wire.talk();
    let payload = vec![0; 64 * 1024];
    let slices = [std::io::IoSlice::new(&payload)];
    let mut out = Vec::new();
    let begin = std::time::Instant::now();
    for _ in 0..4096 {
        out.clear();
        wire.link.send(&slices, &mut wire.buffers, &mut out);
    }
    eprintln!("{:.0} MB/s written", 4096.0 * 0.065_536 / begin.elapsed().as_secs_f64());
}

/// What a client of MQTT begins with.
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a";

#[test]
fn both_versions_carry_bytes_both_ways_and_say_goodbye() {
    let authority = Authority::new("authority");
    let tls = tls(settings(&authority.host("broker")));
    for (version, spoken) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for chunk in [1, 1000, usize::MAX] {
            let mut wire = Wire::new(config(&authority, &[version], None), "broker", &tls);
            wire.chunk = chunk;
            assert!(wire.link.is_shaking_hands());
            wire.talk();
            assert!(!wire.link.is_shaking_hands() && !wire.client.is_handshaking());
            assert_eq!(wire.client.protocol_version(), Some(spoken));
            let large = vec![7; 100_000];
            wire.say(CONNECT);
            wire.say(&large);
            assert_eq!(wire.plain, [CONNECT, &large].concat());
            assert_eq!(
                wire.answer(&[b"", b"one ", &large, b" two"]),
                [b"one ", &large[..], b" two"].concat()
            );
            assert!(wire.learnt.is_none() && wire.end == Progress::Open);

            wire.client.send_close_notify();
            wire.talk();
            assert_eq!(wire.end, Progress::Closed);
            let mut goodbye = Vec::new();
            wire.link.close(&mut wire.buffers, &mut goodbye);
            wire.client_gets(&goodbye);
            assert!(wire.client.process_new_packets().unwrap().peer_has_closed());
            wire.link.close(&mut wire.buffers, &mut goodbye);
            assert!(!wire.link.speaks(), "it said goodbye");
        }
    }
}

#[test]
fn the_lowest_version_is_a_setting() {
    let authority = Authority::new("authority");
    let mut settings = settings(&authority.host("broker"));
    settings.version_min = TlsVersion::V1_3;
    let mut wire = Wire::new(config(&authority, &[&TLS12], None), "broker", &tls(settings));
    wire.talk();
    assert_eq!(wire.failure(), "TLS: no version, cipher or key exchange in common with the client");
    assert!(wire.error.unwrap().to_string().contains("ProtocolVersion"));
}

#[test]
fn a_client_gets_the_certificate_of_the_host_it_names_and_else_the_first() {
    let authority = Authority::new("authority");
    let (first, second) = (authority.host("first.example"), authority.host("*.second.example"));
    let mut settings = settings(&first);
    settings.certificates.push(pair("second", &second));
    let tls = tls(settings);
    let shown = |host: &str, sni: bool| {
        let mut config = config(&authority, &[&TLS13], None);
        config.enable_sni = sni;
        let mut wire = Wire::new(config, host, &tls);
        wire.talk();
        wire.error.is_none() && !wire.client.is_handshaking()
    };
    assert!(shown("first.example", true) && shown("a.second.example", true) && shown("first.example", false));
    assert!(!shown("third.example", true), "it got the first one, which does not name it");
    assert!(!shown("a.second.example", false), "nobody knew that it wants the second one");
}

#[test]
fn the_application_protocol_is_mqtt_and_inside_of_websocket_http() {
    let authority = Authority::new("authority");
    let tls = tls(settings(&authority.host("broker")));
    let agreed = |websocket: bool, offers: &[&str]| {
        let mut config = config(&authority, &[&TLS13], None);
        config.alpn_protocols = offers.iter().map(|offer| offer.as_bytes().to_vec()).collect();
        let mut wire = Wire::new(config, "broker", &tls);
        let websocket = websocket.then(|| WebSocketSettings::new("/mqtt".into()));
        wire.link = Layers { tls: Some(tls.clone()), websocket, ..Layers::default() }.link(None).unwrap();
        wire.talk();
        match &wire.error {
            None => wire.client.alpn_protocol().map(|found| String::from_utf8(found.to_vec()).unwrap()),
            Some(error) => {
                assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
                Some(wire.failure())
            }
        }
    };
    let refused = "TLS: the client's application protocols (ALPN) are not the listener's";
    assert_eq!(agreed(false, &[]), None, "who offers nothing is let in");
    assert_eq!(agreed(false, &["x", "mqtt"]).as_deref(), Some("mqtt"));
    assert_eq!(agreed(false, &["http/1.1"]).as_deref(), Some(refused));
    assert_eq!(agreed(true, &["h2", "http/1.1"]).as_deref(), Some("http/1.1"));
    assert_eq!(agreed(true, &["mqtt"]).as_deref(), Some(refused));
}

#[test]
fn a_session_is_resumed_but_not_after_a_reload() {
    let authority = Authority::new("authority");
    let tls = tls(settings(&authority.host("broker")));
    for version in [&TLS12, &TLS13] {
        let config = config(&authority, &[version], None);
        let kind = || {
            let mut wire = Wire::new(config.clone(), "broker", &tls);
            wire.talk();
            wire.say(CONNECT);
            // The ticket comes with the first bytes.
            wire.answer(&[b"\x20\x02\0\0"]);
            assert_eq!(wire.plain, CONNECT);
            wire.client.handshake_kind().unwrap()
        };
        assert_eq!(
            [kind(), kind(), kind()],
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]
        );
        tls.reload(TODAY).unwrap();
        assert_eq!([kind(), kind()], [HandshakeKind::Full, HandshakeKind::Resumed]);
    }
}

#[test]
fn what_is_no_tls_is_told_by_an_alert() {
    let authority = Authority::new("authority");
    let tls = tls(settings(&authority.host("broker")));
    for (wire, reason) in [
        (CONNECT.to_vec(), "expected TLS, found something else"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "expected TLS, found something else"),
        (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 1883\r\n".to_vec(), "expected TLS, found something else"),
        // A record that claims to be as long as none can be.
        ([&[22, 3, 1, 0xFF, 0xFF], &[0; 30_000][..]].concat(), "expected TLS, found something else"),
    ] {
        for chunk in [1, usize::MAX] {
            let mut link = Wire::new(config(&authority, &[&TLS13], None), "broker", &tls);
            link.chunk = chunk;
            link.broker_gets(&wire);
            assert_eq!(link.failure(), format!("TLS: {reason}"));
            let mut said = Vec::new();
            link.link.close(&mut link.buffers, &mut said);
            assert!(matches!(said[..], [21, 3, _, 0, 2, 2, 50]), "decode_error: {said:?}");
        }
    }
}

/// A client that cut its handshake short may come at any point of it.
#[test]
fn half_a_handshake_is_open_and_says_nothing() {
    let authority = Authority::new("authority");
    let tls = tls(settings(&authority.host("broker")));
    let mut wire = Wire::new(config(&authority, &[&TLS13], None), "broker", &tls);
    let mut hello = Vec::new();
    wire.client.write_tls(&mut hello).unwrap();
    wire.broker_gets(&hello[..hello.len() - 1]);
    assert!(wire.end == Progress::Open && wire.link.is_shaking_hands() && !wire.link.speaks());
    // The broker closes it: the goodbye is not encrypted yet.
    let mut said = Vec::new();
    wire.link.send(&[std::io::IoSlice::new(b"nobody reads this")], &mut wire.buffers, &mut said);
    wire.link.close(&mut wire.buffers, &mut said);
    assert!(matches!(said[..], [21, 3, _, 0, 2, ..]), "{said:?}");
}

#[test]
fn a_handshake_that_does_not_end_is_cut_off() {
    let authority = Authority::new("authority");
    let tls = tls(settings(&authority.host("broker")));
    for chunk in [1, 777, usize::MAX] {
        let mut wire = Wire::new(config(&authority, &[&TLS13], None), "broker", &tls);
        wire.chunk = chunk;
        // A ClientHello of 30,000 bytes, which is allowed, in records of 16 bytes, each with a header of 5.
        let hello = [&[1, 0, 0x75, 0x30][..], &[0; 30_000]].concat();
        let records: Vec<u8> =
            hello.chunks(16).flat_map(|part| [&[22, 3, 1, 0, part.len() as u8], part].concat()).collect();
        assert!(records.len() > TLS_HANDSHAKE_BYTES_MAX);
        wire.broker_gets(&records[..TLS_HANDSHAKE_BYTES_MAX - 1]);
        assert_eq!(wire.end, Progress::Open);
        wire.broker_gets(&records[TLS_HANDSHAKE_BYTES_MAX - 1..]);
        assert_eq!(wire.failure(), "TLS: expected a shorter handshake");
    }
}

#[test]
fn a_damaged_record_ends_the_connection_behind_what_came_before() {
    let authority = Authority::new("authority");
    let tls = tls(settings(&authority.host("broker")));
    for chunk in [1, usize::MAX] {
        let mut wire = Wire::new(config(&authority, &[&TLS13], None), "broker", &tls);
        wire.talk();
        wire.chunk = chunk;
        std::io::Write::write_all(&mut wire.client.writer(), CONNECT).unwrap();
        let mut bytes = Vec::new();
        wire.client.write_tls(&mut bytes).unwrap();
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        wire.broker_gets(&[bytes, damaged].concat());
        assert_eq!(wire.plain, CONNECT);
        assert_eq!(wire.failure(), "TLS: a record was damaged on its way");
        wire.talk();
        assert!(wire.error.unwrap().to_string().contains("BadRecordMac"));
    }
}

#[test]
fn an_open_connection_outlives_a_reload_and_a_new_one_gets_the_new_certificate() {
    let authority = Authority::new("authority");
    let folder = std::env::temp_dir().join(format!("culex-link-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let put = |name: &str| {
        let certified = authority.host(name);
        write("broker.crt", &certified.chain);
        write("broker.key", &certified.key);
    };
    put("old.example");
    let files = culex_link::CertificatePair {
        chain: folder.join("broker.crt").into(),
        key: folder.join("broker.key").into(),
    };
    let settings = culex_link::TlsSettings { certificates: vec![files], ..Default::default() };
    let tls = tls(settings);
    let connect = |host: &str| {
        let mut wire = Wire::new(config(&authority, &[&TLS13], None), host, &tls);
        wire.talk();
        wire
    };
    let mut open = connect("old.example");
    put("new.example");
    assert!(connect("old.example").error.is_none(), "nobody said that there is a new one");
    tls.reload(TODAY).unwrap();
    assert!(connect("new.example").error.is_none() && connect("old.example").error.is_some());
    // What is wrong changes nothing.
    write("broker.key", "nonsense");
    let error = tls.reload(Wall(TODAY.0 + 1)).unwrap_err().to_string();
    let name = folder.join("broker.key");
    assert_eq!(
        error,
        format!("{}: expected a private key in PEM, not encrypted, found none", name.display())
    );
    assert!(connect("new.example").error.is_none());
    open.say(CONNECT);
    assert_eq!(open.plain, CONNECT);
    assert_eq!(open.answer(&[b"answer"]), b"answer");
    std::fs::remove_dir_all(&folder).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn splitting_changes_nothing_in_what_is_carried(
        parts in vec(vec(any::<u8>(), 1..20_000), 1..5), chunk in 1..20_000_usize, modern in any::<bool>(),
        websocket in any::<bool>()
    ) {
        let authority = Authority::new("authority");
        let tls = tls(settings(&authority.host("broker")));
        let version = if modern { &TLS13 } else { &TLS12 };
        let mut wire = Wire::new(config(&authority, &[version], None), "broker", &tls);
        wire.chunk = chunk;
        let mut expected = parts.concat();
        if websocket {
            let settings = Some(WebSocketSettings::new("/mqtt".into()));
            let proxy = Some("127.0.0.1".parse().unwrap());
            wire.link = Layers { tls: Some(tls), websocket: settings, proxy }.link(None).unwrap();
            wire.broker_gets(b"PROXY TCP6 2001:db8::1 ::1 4711 8883\r\n");
            prop_assert_eq!(wire.learnt.as_ref().unwrap().address, Some("[2001:db8::1]:4711".parse().unwrap()));
            wire.say(b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Protocol: mqtt\r\n\r\n");
            prop_assert!(wire.heard().starts_with(b"HTTP/1.1 101 "));
            expected.clear();
        }
        for part in &parts {
            if websocket {
                let length = (part.len() as u64).to_be_bytes();
                wire.say(&[&[0x82, 0xFF], &length[..], &[0; 4], part].concat());
                expected.extend(part);
            } else {
                wire.say(part);
            }
        }
        prop_assert_eq!(&wire.plain, &expected);
        prop_assert_eq!(wire.end, Progress::Open);
    }

    #[test]
    fn any_bytes_are_survived_and_mean_the_same_however_they_are_split(
        bytes in vec(any::<u8>(), 0..400), hello in any::<bool>(), at in any::<usize>(), chunk in 1..50_usize
    ) {
        let authority = Authority::new("authority");
        let tls = tls(settings(&authority.host("broker")));
        let mut wire = Vec::new();
        if hello {
            Wire::new(config(&authority, &[&TLS13], None), "broker", &tls).client.write_tls(&mut wire).unwrap();
        }
        let at = at % (wire.len() + 1);
        wire.splice(at..(at + bytes.len()).min(wire.len()), bytes);
        let outcome = |chunk| {
            let mut link = Wire::new(config(&authority, &[&TLS13], None), "broker", &tls);
            link.chunk = chunk;
            link.broker_gets(&wire);
            (link.end, link.plain, link.link.is_shaking_hands())
        };
        prop_assert_eq!(outcome(usize::MAX), outcome(chunk));
    }
}
