//! The optional machinery of MQTT 5.0 that a setting or a policy turns on.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use culex_core::middleware::{Authenticate, Authentication, Decision};
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Answer, Config, Credentials, Query, Stack};

/// Knows the method `dance`.
struct Dance;

impl Authenticate for Dance {
    fn authenticate(&mut self, _: &Credentials) -> Decision {
        Decision::Redirect { server_reference: "other.example:1883".into(), moved: true }
    }
    fn method(&self, name: &str) -> bool {
        name == "dance"
    }
}

fn dancing() -> Bench {
    Bench::with(
        Config::default(),
        Stack::standard().replace("Authentication", Authentication::new(Dance)).unwrap(),
    )
}

fn step<'a>(method: &'a str, data: &'a [u8]) -> Properties<'static> {
    properties(&[Property::AuthenticationMethod(method), Property::AuthenticationData(data)]).into_owned()
}

fn auth(reason: ReasonCode, data: &[u8]) -> Packet<'static> {
    Packet::Auth(Auth { reason, properties: step("dance", data) })
}

/// Alice came in by a dance.
fn alice(bench: &mut Bench) -> culex_core::ConnectionId {
    let alice =
        bench.try_connect(&Connect { properties: step("dance", b"1"), ..connect(Version::V5, "alice") });
    bench.answer(Answer::AllowWith { user_name: Some("al".into()), data: b"proof".as_slice().into() });
    let output = bench.output(alice);
    let [Packet::Connack(connack)] = &decode(&output, Version::V5)[..] else { panic!("{output:02x?}") };
    // [MQTT-4.12.0-4]: success is CONNACK, with the method and the last data.
    assert_eq!(connack.properties.authentication_method(), Some("dance"));
    assert_eq!(connack.properties.authentication_data(), Some(&b"proof"[..]));
    alice
}

#[test]
fn a_client_authenticates_again_while_its_messages_flow() {
    // [MQTT-4.12.1-1]
    let mut bench = dancing();
    let alice = alice(&mut bench);
    bench.subscribe(alice, "t", QoS::AtMostOnce);
    bench.send(alice, &auth(ReasonCode::ReAuthenticate, b"2"));
    let Query::Authenticate(who) = &bench.asks[0].1 else { panic!() };
    assert_eq!((who.client_id.as_ref(), who.user_name.as_deref()), ("alice", Some("al")));
    bench.answer(Answer::Continue(b"3".as_slice().into()));
    bench.publish(alice, "t", "meanwhile", QoS::AtMostOnce);
    bench.send(alice, &auth(ReasonCode::ContinueAuthentication, b"4"));
    bench.answer(Answer::Allow);
    bench.publish(alice, "t", "afterwards", QoS::AtMostOnce);
    let output = bench.output(alice);
    let steps: Vec<_> = decode(&output, Version::V5)
        .iter()
        .map(|packet| match packet {
            Packet::Auth(auth) => format!("AUTH {:02x}", auth.reason as u8),
            Packet::Publish(publish) => String::from_utf8_lossy(&publish.payload).into_owned(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(steps, ["AUTH 18", "meanwhile", "AUTH 00", "afterwards"]);
}

#[test]
fn a_client_that_fails_to_authenticate_again_is_disconnected() {
    // [MQTT-4.12.1-2]
    let mut bench = dancing();
    let alice = alice(&mut bench);
    bench.send(alice, &auth(ReasonCode::ReAuthenticate, b"2"));
    bench.answer(Answer::Deny(ReasonCode::NotAuthorized));
    assert_eq!(bench.lines(alice), ["DISCONNECT 87"]);
}

#[test]
fn an_exchange_out_of_turn_is_a_protocol_error() {
    for (first, second) in [
        (auth(ReasonCode::ContinueAuthentication, b"2"), None),
        (auth(ReasonCode::ReAuthenticate, b"2"), Some(auth(ReasonCode::ReAuthenticate, b"3"))),
        (Packet::Auth(Auth { reason: ReasonCode::ReAuthenticate, properties: step("other", b"2") }), None),
    ] {
        let mut bench = dancing();
        let alice = alice(&mut bench);
        bench.send(alice, &first);
        second.into_iter().for_each(|second| bench.send(alice, &second));
        assert_eq!(bench.lines(alice), ["DISCONNECT 82"]);
        // Every question is resolved: answered, or withdrawn.
        assert_eq!(bench.asks.len(), bench.forgotten.len());
    }
}

#[test]
fn a_client_that_leaves_while_it_authenticates_again_is_gone_at_once() {
    let mut bench = dancing();
    let alice = alice(&mut bench);
    bench.send(alice, &auth(ReasonCode::ReAuthenticate, b"2"));
    bench.answer(Answer::Continue(b"3".as_slice().into()));
    bench.cut(alice);
    assert_eq!((bench.broker.connections(), bench.broker.sessions()), (0, 0));
    assert_eq!(bench.broker.deadline(), None);
}

fn refusal(bench: &mut Bench) -> (ReasonCode, Option<String>, Option<String>) {
    let bob = bench.try_connect(&connect(Version::V5, "bob"));
    let output = bench.output(bob);
    let [Packet::Connack(connack)] = &decode(&output, Version::V5)[..] else { panic!("{output:02x?}") };
    assert!(bench.closed(bob));
    let properties = &connack.properties;
    (
        connack.reason,
        properties.server_reference().map(Into::into),
        properties.reason_string().map(Into::into),
    )
}

#[test]
fn a_client_is_sent_to_another_server() {
    // [MQTT-4.11.0-1]
    let there = Some("other.example:1883".to_owned());
    assert_eq!(refusal(&mut dancing()), (ReasonCode::ServerMoved, there.clone(), None));
    for (redirect_permanently, reason) in
        [(false, ReasonCode::UseAnotherServer), (true, ReasonCode::ServerMoved)]
    {
        let config =
            Config { redirect_to: "other.example:1883".into(), redirect_permanently, ..Config::default() };
        assert_eq!(refusal(&mut Bench::with(config, Stack::standard())), (reason, there.clone(), None));
    }
}

#[test]
fn response_information_is_for_who_asked() {
    // [MQTT-3.1.2-28]
    let config = Config { response_information: "reply/".into(), ..Config::default() };
    let mut bench = Bench::with(config, Stack::standard());
    for (asked, told) in [(None, None), (Some(false), None), (Some(true), Some("reply/"))] {
        let list: Vec<_> = asked.map(Property::RequestResponseInformation).into_iter().collect();
        let alice =
            bench.try_connect(&Connect { properties: properties(&list), ..connect(Version::V5, "alice") });
        let output = bench.output(alice);
        let connack = decode(&output, Version::V5).pop().unwrap();
        let Packet::Connack(connack) = connack else { panic!() };
        assert_eq!(connack.properties.response_information(), told);
    }
}

#[test]
fn a_payload_that_is_not_what_it_claims_is_refused_where_that_is_checked() {
    for (payload_format_check, reason) in
        [(false, ReasonCode::NoMatchingSubscribers), (true, ReasonCode::PayloadFormatInvalid)]
    {
        let mut bench = Bench::with(Config { payload_format_check, ..Config::default() }, Stack::standard());
        let bob = bench.connect(Version::V5, "bob");
        let properties = properties(&[Property::PayloadFormatIndicator(1)]);
        let packet =
            Publish { properties, payload: b"\xff".as_slice().into(), ..publish("t", "", QoS::AtLeastOnce) };
        bench.send(bob, &Packet::Publish(packet));
        let output = bench.output(bob);
        let [Packet::Puback(ack)] = &decode(&output, Version::V5)[..] else { panic!("{output:02x?}") };
        assert_eq!(ack.reason, reason);
    }
}

#[test]
fn a_reason_string_gives_way_to_the_size_a_client_accepts() {
    let config = Config { reason_strings: true, ..Config::default() };
    for (most, told) in [(u32::MAX, true), (20, true), (19, true), (18, false)] {
        let mut bench = Bench::with(config.clone(), Stack::standard());
        let limit = properties(&[Property::MaximumPacketSize(most)]);
        let alice = bench.try_connect(&Connect { properties: limit, ..connect(Version::V5, "alice") });
        assert!(bench.output(alice).len() <= 20);
        bench.send(alice, &Packet::Connect(connect(Version::V5, "alice")));
        let output = bench.output(alice);
        let [Packet::Disconnect(disconnect)] = &decode(&output, Version::V5)[..] else {
            panic!("{output:02x?}")
        };
        assert_eq!(disconnect.reason, ReasonCode::ProtocolError);
        // [MQTT-3.14.2-3]
        assert!(output.len() <= most as usize);
        assert_eq!(disconnect.properties.reason_string().is_some(), told, "{most}: {}", output.len());
    }
}

#[test]
fn an_ordinary_connack_fits_in_20_bytes_and_one_that_does_not_fit_is_not_sent() {
    let mut bench = Bench::new();
    let limit = |most| properties(&[Property::MaximumPacketSize(most)]);
    let alice = bench.try_connect(&connect(Version::V5, "alice"));
    let length = bench.output(alice).len();
    assert!(length <= 20, "{length}");
    // [MQTT-3.1.2-24]
    let bob =
        bench.try_connect(&Connect { properties: limit(length as u32 - 1), ..connect(Version::V5, "bob") });
    assert!(bench.output(bob).len() < length);
    assert!(bench.closed(bob));
}

#[test]
fn a_policy_that_knows_no_method_refuses_all_of_them() {
    // [MQTT-4.12.0-1]
    let mut bench = Bench::new();
    let alice =
        bench.try_connect(&Connect { properties: step("dance", b"1"), ..connect(Version::V5, "alice") });
    assert_eq!(bench.lines(alice), ["CONNACK 8C"]);
    assert!(bench.asks.is_empty());
}

#[test]
fn the_outside_may_send_a_client_to_another_server() {
    // [MQTT-4.11.0-1], [MQTT-4.11.0-2]
    for (moved, reason) in [(false, ReasonCode::UseAnotherServer), (true, ReasonCode::ServerMoved)] {
        let stack = Stack::standard().replace("Authentication", Authentication::ask()).unwrap();
        let mut bench = Bench::with(Config::default(), stack);
        let alice = bench.try_connect(&connect(Version::V5, "alice"));
        bench.answer(Answer::Redirect { server_reference: "there".into(), moved });
        let output = bench.output(alice);
        let [Packet::Connack(connack)] = &decode(&output, Version::V5)[..] else { panic!("{output:02x?}") };
        assert_eq!((connack.reason, connack.properties.server_reference()), (reason, Some("there")));
    }
}
