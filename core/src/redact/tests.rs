use super::*;
use crate::broker::{Broker, Disconnect};
use crate::config::Config;
use crate::hash::Seed;
use crate::id::LogSeq;
use crate::middleware::{Authentication, Stack};
use crate::packet::{Auth, Connect, Publish, QoS, ReasonCode, SubscriptionOptions, Will};
use crate::testing::{Bench, connect, disconnect, id, properties, publish};
use core::hash::{BuildHasher, Hasher};
use proptest::collection::vec;
use proptest::prelude::*;

/// Good enough for tests: no secret is guessed here.
fn hash(kind: Kind, bytes: &[u8]) -> [u8; 32] {
    core::array::from_fn(|n| {
        let mut hasher = Seed(n as u64).hasher(kind as u64).build_hasher();
        hasher.write(bytes);
        hasher.finish() as u8
    })
}

fn replaced(kind: Kind, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    Redaction::new(&hash).replace(kind, &mut bytes);
    bytes
}

fn stream(bytes: &[u8], version: Version, packet_size_max: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    Redaction::new(&hash).stream(&mut bytes, version, packet_size_max);
    bytes
}

fn encoded(packets: &[Packet<'_>], version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    packets.iter().for_each(|packet| packet.encode(version, &mut bytes).unwrap());
    bytes
}

fn has(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[test]
fn text_of_the_same_length_stands_for_bytes_and_equal_bytes_stay_equal() {
    for length in [0, 1, 2, 31, 32, 33, 100, 70_000] {
        let text = replaced(Kind::Payload, &vec![b'a'; length]);
        assert_eq!(text.len(), length);
        assert!(text.iter().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(text, replaced(Kind::Payload, &vec![b'a'; length]));
    }
    let others = [replaced(Kind::Payload, b"secret"), replaced(Kind::Payload, b"secrets")];
    assert_ne!(others[0], others[1][..6]);
    assert_ne!(replaced(Kind::Secret, b"secret"), others[0], "a password that was published is not told");
}

#[test]
fn a_payload_that_is_not_utf_8_is_not_utf_8_afterwards() {
    for length in 1..100 {
        let mut bytes = vec![b'a'; length];
        bytes[length / 2] = 0xFF;
        assert!(core::str::from_utf8(&replaced(Kind::Payload, &bytes)).is_err(), "{length} bytes");
        assert!(core::str::from_utf8(&replaced(Kind::Secret, &bytes)).is_ok(), "{length} bytes");
    }
}

#[test]
fn everything_of_a_packet_is_kept_but_what_only_its_owner_may_read() {
    let secrets = [
        Property::UserProperty("name", "secret value"),
        Property::AuthenticationMethod("method"),
        Property::AuthenticationData(b"secret data"),
    ];
    let told = [
        Property::ContentType("type"),
        Property::CorrelationData(b"secret correlation"),
        Property::ResponseTopic("response"),
        Property::UserProperty("", ""),
    ];
    let will = Will {
        topic: "will/topic",
        payload: b"secret will",
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: properties(&told),
    };
    let hello = Connect {
        properties: properties(&secrets),
        will: Some(will),
        user_name: Some("user"),
        password: Some(b"secret password"),
        ..connect(Version::V5, "client")
    };
    let message =
        Publish { properties: properties(&told), ..publish("topic", "secret payload", QoS::AtMostOnce) };
    let auth = Auth { reason: ReasonCode::ContinueAuthentication, properties: properties(&secrets) };
    let packets = [
        Packet::Connect(hello.clone()),
        Packet::Auth(auth),
        Packet::Publish(message.clone()),
        Packet::Pingreq,
        disconnect(ReasonCode::Success, &[Property::UserProperty("name", "secret value")]),
    ];
    let bytes = encoded(&packets, Version::V5);
    let redacted = stream(&bytes, Version::V311, u32::MAX);
    assert_eq!(redacted.len(), bytes.len());
    assert!(has(&bytes, b"secret") && !has(&redacted, b"secret"));
    for kept in ["name", "method", "type", "response", "will/topic", "user", "client", "topic"] {
        assert!(has(&redacted, kept.as_bytes()), "{kept}");
    }
    let again = crate::testing::decode(&redacted, Version::V5);
    assert_eq!(again.len(), packets.len());
    let Packet::Connect(other) = &again[0] else { panic!("{:?}", again[0]) };
    assert_eq!(other.password, Some(&*replaced(Kind::Secret, b"secret password")));
    assert_eq!(other.will.as_ref().unwrap().payload, replaced(Kind::Payload, b"secret will"));
    let Packet::Publish(other) = &again[2] else { panic!("{:?}", again[2]) };
    assert_eq!(*other.payload, *replaced(Kind::Payload, b"secret payload"));
    assert_eq!(other.properties.correlation_data(), Some(&*replaced(Kind::Property, b"secret correlation")));
    // [MQTT-3.3.2-7] and all else: they are packets of MQTT as before.
    assert_eq!(again[3], Packet::Pingreq);
}

#[test]
fn of_a_packet_that_is_not_complete_only_the_length_is_kept() {
    let bytes = encoded(&[Packet::Publish(publish("topic", "secret", QoS::AtMostOnce))], Version::V311);
    for length in 0..bytes.len() {
        let redacted = stream(&bytes[..length], Version::V311, u32::MAX);
        assert_eq!(redacted.len(), length);
        assert_eq!(redacted[..length.min(2)], bytes[..length.min(2)]);
        assert!(redacted.iter().skip(2).all(|byte| *byte == FILL));
    }
}

/// Packets that break a rule, each with a secret in it and one behind it.
fn broken() -> Vec<(Version, Vec<u8>)> {
    let whole = |first: u8, parts: &[&[u8]]| {
        let body = parts.concat();
        [&[first, u8::try_from(body.len()).unwrap()][..], &body].concat()
    };
    let hello = |flags: u8, rest: &[&[u8]]| {
        let rest = rest.concat();
        whole(0x10, &[b"\0\x04MQTT\x05", &[flags, 0, 0, 0], &rest])
    };
    vec![
        // A wildcard in the topic, an unknown property, one that stands twice, a Packet Identifier of 0.
        (Version::V311, whole(0x30, &[b"\0\x03a/#secret"])),
        (Version::V5, whole(0x30, &[b"\0\x01a\x02\x7Fssecret"])),
        (
            Version::V5,
            whole(0x30, &[b"\0\x01a\x1A\x26\0\x01n\0\x06secret\x03\0\x01x\x03\0\x01xsecret!secret"]),
        ),
        (Version::V311, whole(0x32, &[b"\0\x01a\0\0secret"])),
        // QoS 3; flags that are not 0; a type that is none.
        (Version::V311, whole(0x36, &[b"\0\x01a\0\x01secret"])),
        (Version::V5, whole(0xC1, &[b"secret"])),
        (Version::V5, whole(0x00, &[b"secret"])),
        // Of the CONNECT: a User Name that is not UTF-8, bytes behind the Password, another protocol, a Will QoS of 3.
        (Version::V311, hello(0xC6, &[b"\0\x01c\0\0\x01w\0\x06secret\0\x02u\xFF\0\x06secret"])),
        (Version::V311, hello(0xC2, &[b"\0\x01c\0\x01u\0\x06secret!"])),
        (Version::V311, whole(0x10, &[b"\0\x06secret\x05\xC2\0\0\0\0\x01c\0\x01u\0\x06secret"])),
        (Version::V311, hello(0xDE, &[b"\0\x01c\0\0\x01w\0\x06secret\0\x01u\0\x06secret"])),
        // What is no MQTT.
        (
            Version::V311,
            b"GET /secret HTTP/1.1\r\nCookie: secret secret secret secret secret secret\r\n".to_vec(),
        ),
        (Version::V311, b"\x30\xFF\xFF\xFF\xFFsecret".to_vec()),
    ]
}

#[test]
fn what_is_kept_of_a_packet_that_breaks_a_rule_breaks_the_same_rule() {
    for (version, bytes) in broken() {
        let redacted = stream(&[&bytes, &b"secret"[..]].concat(), version, u32::MAX);
        assert_eq!(redacted.len(), bytes.len() + 6);
        assert_eq!(outcome(&redacted, version), outcome(&bytes, version), "{redacted:?}");
        assert!(!has(&redacted, b"secret"), "{redacted:?}");
        assert!(!has(&redacted, b"ecre"), "{redacted:?}");
    }
    let large = stream(b"\x30\x64secret", Version::V311, 100);
    assert_eq!(large, b"\x30\x64xxxxxx", "too large: refused as soon as its length is known");
}

#[test]
fn what_takes_too_long_to_find_out_about_is_blanked_all_the_same() {
    let mut body = b"\0\x01a\x84\x80\x40".to_vec();
    while body.len() < 1_048_582 {
        body.extend_from_slice(b"\x26\0\x01n\0\x06secret");
    }
    body.truncate(1_048_582);
    body[1_048_581] = 0x7F;
    let bytes = [&b"\x30\x86\x80\x40"[..], &body].concat();
    let redacted = stream(&bytes, Version::V5, u32::MAX);
    assert!(!has(&redacted, b"secret"));
    let reason = |bytes: &[u8]| outcome(bytes, Version::V5).unwrap().0.reason;
    assert_eq!(reason(&redacted), reason(&bytes));
}

#[test]
fn output_that_was_blanked_is_read_to_its_end() {
    for length in 0..40 {
        let mut bytes = vec![b's'; length];
        output(&mut bytes);
        let mut rest = &bytes[..];
        while let Ok(Framed::Whole { length, .. }) = frame(rest, u32::MAX) {
            rest = &rest[length..];
        }
        assert_eq!(rest.len(), usize::from(length == 1), "{length} bytes");
    }
}

/// What comes of this stream: output in length, what was closed, what was told.
fn effects(bytes: &[u8], step: usize) -> (usize, Vec<String>) {
    let config = Config { payload_format_check: true, packet_size_max: 200, ..Config::default() };
    let mut bench = Bench::with(config, Stack::standard());
    let from = bench.accept();
    for chunk in bytes.chunks(step) {
        bench.broker.receive(bench.now, from, chunk);
        bench.drain();
    }
    bench.broker.disconnected(bench.now, from, Disconnect::Eof);
    bench.drain();
    let closes = format!("{:?}", bench.closes);
    let notices = bench.notices.iter().map(|notice| format!("{notice:?}"));
    let told = notices.chain([closes, format!("{:?}", bench.broker.stats())]).collect();
    (bench.output(from).len(), told)
}

fn arbitrary_stream() -> impl Strategy<Value = Vec<u8>> {
    let versions = prop_oneof![Just(Version::V31), Just(Version::V311), Just(Version::V5)];
    let payload =
        prop_oneof![Just(Vec::new()), vec(any::<u8>(), 1..8), "[a-z]{1,8}".prop_map(String::into_bytes)];
    let message = (payload, any::<bool>(), 0..3u8);
    (versions, vec(message, 0..6), vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)).prop_map(
        |(version, messages, changes)| {
            let mut bytes = encoded(
                &[Packet::Connect(Connect {
                    user_name: Some("u"),
                    password: Some(b"secret"),
                    ..connect(version, "c")
                })],
                version,
            );
            for (n, (payload, text, qos)) in messages.into_iter().enumerate() {
                let list = [Property::PayloadFormatIndicator(1), Property::UserProperty("n", "secret")];
                let packet = Publish {
                    qos: QoS::from_bits(qos).unwrap(),
                    packet_id: (qos > 0).then(|| id(n as u16 + 1)),
                    payload: payload.into(),
                    properties: properties(if text && version == Version::V5 { &list } else { &[] }),
                    ..publish("t", "", QoS::AtMostOnce)
                };
                packet.encode(version, &mut bytes).unwrap();
            }
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_does_the_same_with_what_was_redacted(bytes in arbitrary_stream(), step in 1..60usize) {
        let redacted = stream(&bytes, Version::V311, 200);
        prop_assert_eq!(effects(&redacted, step), effects(&bytes, step));
    }

    #[test]
    fn no_bytes_make_redacting_panic(bytes in vec(any::<u8>(), 0..80), version in 3..6u8) {
        let version = [Version::V31, Version::V311, Version::V5][usize::from(version - 3)];
        prop_assert_eq!(stream(&bytes, version, 60).len(), bytes.len());
        let mut raw = bytes.clone();
        Redaction::new(&hash).properties(&mut raw);
        prop_assert_eq!(raw.len(), bytes.len());
    }
}

#[test]
fn a_connect_that_waits_for_its_answer_and_the_question_are_redacted() {
    let stack = || Stack::standard().replace("Authentication", Authentication::ask()).unwrap();
    let mut bench = Bench::with(Config::default(), stack());
    bench.try_connect(&Connect { password: Some(b"secret password"), ..connect(Version::V5, "waits") });
    let mut state = Vec::new();
    bench.broker.snapshot(&mut state);
    assert!(has(&state, b"secret password"));
    let redaction = Redaction::new(&hash);
    let broker = Broker::from_snapshot_redacted(stack(), &state, &redaction).unwrap();
    let mut redacted = Vec::new();
    broker.snapshot(&mut redacted);
    assert_eq!(redacted.len(), state.len());
    assert!(!has(&redacted, b"secret") && has(&redacted, b"waits"));
    assert!(has(&redacted, &replaced(Kind::Secret, b"secret password")));
    let mut again = Vec::new();
    Broker::from_snapshot(None, stack(), &redacted).unwrap().snapshot(&mut again);
    assert!(again == redacted);
}

#[test]
fn what_waits_for_the_disk_and_what_nobody_took_yet_are_redacted() {
    let mut bench = Bench::with(Config::default(), Stack::durable());
    let [alice, bob] = ["alice", "bob"].map(|client_id| {
        let expires = properties(&[Property::SessionExpiryInterval(100)]);
        let id = bench.try_connect(&Connect { properties: expires, ..connect(Version::V5, client_id) });
        commit(&mut bench);
        id
    });
    bench.subscribe_all(alice, &[("#", SubscriptionOptions::new(QoS::ExactlyOnce))]);
    commit(&mut bench);
    let told = [Property::UserProperty("name", "secret property")];
    for (number, qos) in [(1, QoS::ExactlyOnce), (2, QoS::AtLeastOnce)] {
        let message = Publish {
            packet_id: Some(id(number)),
            retain: true,
            properties: properties(&told),
            ..publish("topic", "secret payload", qos)
        };
        let mut bytes = Vec::new();
        message.encode(Version::V5, &mut bytes).unwrap();
        // Nobody takes the records.
        bench.broker.receive(bench.now, bob, &bytes);
    }
    let snapshot = |broker: &Broker| {
        let mut state = Vec::new();
        broker.snapshot(&mut state);
        state
    };
    let state = snapshot(&bench.broker);
    assert!(has(&state, b"secret payload") && has(&state, b"secret property"));
    let redaction = Redaction::new(&hash);
    let broker = Broker::from_snapshot_redacted(Stack::durable(), &state, &redaction).unwrap();
    let redacted = snapshot(&broker);
    assert_eq!(redacted.len(), state.len());
    assert!(!has(&redacted, b"secret") && has(&redacted, b"topic") && has(&redacted, b"alice"));
}

/// Everything that left the bench is durable.
fn commit(bench: &mut Bench) {
    let through = bench.stores.last().map_or(LogSeq(0), |(seq, _)| *seq);
    bench.broker.committed(bench.now, through);
    bench.drain();
}
