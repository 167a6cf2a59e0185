//! What the machine knows of a peer and of the listener that took it.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::broker::{Answer, Input, Notice, Peer, Query, Refused};
use culex_core::config::{IdentityUse, ListenerConfig};
use culex_core::middleware::Authentication;
use culex_core::packet::{Connect, Packet, Property, QoS, Version};
use culex_core::testing::{Bench, connect, properties};
use culex_core::{Broker, Config, ConnectionId, Credentials, Stack};
use std::sync::Arc;

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn peer(address: &str, listener: u16, identity: Option<&str>) -> Peer {
    Peer { address: Some(address.parse().unwrap()), listener, identity: identity.map(Into::into) }
}

fn known(bench: &Bench, id: ConnectionId) -> Peer {
    bench.broker.connection(id).unwrap().peer.clone()
}

#[test]
fn what_the_layers_learn_about_a_peer_is_known_when_its_connect_is_judged() {
    let stack = Stack::standard().replace("Authentication", Authentication::ask()).unwrap();
    let mut bench = Bench::with(Config::default(), stack);
    bench.peer = peer("10.0.0.1:4711", 3, None);
    let id = bench.accept();
    bench.broker.identified(bench.now, id, peer("192.0.2.7:99", 0, Some("CN=ann")));
    let told = peer("192.0.2.7:99", 3, Some("CN=ann"));
    assert_eq!(known(&bench, id), told, "the listener stays what it was");
    bench.send(id, &Packet::Connect(connect(Version::V5, "ann")));
    let (_, query) = bench.asks.pop().unwrap();
    let Query::Authenticate(who) = query else { panic!("{query:?}") };
    assert_eq!(who.peer, told);
}

#[test]
fn who_a_peer_is_does_not_change_once_it_sent_its_connect() {
    let mut bench = Bench::new();
    let id = bench.connect(Version::V5, "ann");
    let before = known(&bench, id);
    bench.broker.apply(bench.now, Input::Identified { id, peer: peer("192.0.2.7:99", 0, Some("root")) });
    assert_eq!(known(&bench, id), before);
    bench.cut(id);
    // A stale id names nobody.
    bench.broker.identified(bench.now, id, peer("192.0.2.7:99", 0, Some("root")));
    let other = bench.accept();
    assert_eq!(known(&bench, other), Peer::default());
}

#[test]
fn a_violation_says_who_it_was_as_far_as_that_is_known() {
    let mut bench = Bench::new();
    let id = bench.accept();
    let told = peer("192.0.2.7:99", 0, Some("CN=ann"));
    bench.broker.identified(bench.now, id, told.clone());
    bench.bytes(id, b"\xF0\0");
    assert!(matches!(&bench.notices[..], [Notice::Violated { peer, .. }] if peer == &told));
}

fn listeners(listeners: Vec<ListenerConfig>) -> Config {
    let config = Config { listeners, ..Config::default() };
    config.check().unwrap();
    config
}

fn by_identity(identity: IdentityUse) -> Config {
    listeners(vec![ListenerConfig { identity, ..ListenerConfig::default() }])
}

/// A chain that lets nobody in without being asked.
fn asking() -> Stack {
    Stack::standard().replace("Authentication", Authentication::ask()).unwrap()
}

fn credentials(bench: &mut Bench) -> Credentials {
    match bench.asks.last() {
        Some((_, Query::Authenticate(who))) => who.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_identity_takes_the_place_of_the_user_name_before_anybody_judges_it() {
    let named = Connect { user_name: Some("root"), password: Some(b"secret"), ..connect(Version::V311, "c") };
    for (identity, expected) in [(Some("ann"), "ann"), (None, "root"), (Some(""), "root")] {
        let mut bench = Bench::with(by_identity(IdentityUse::UserName), asking());
        bench.peer.identity = identity.map(Into::into);
        let id = bench.try_connect(&named);
        let who = credentials(&mut bench);
        assert_eq!(who.user_name.as_deref(), Some(expected));
        assert_eq!(who.password.as_deref(), Some(&b"secret"[..]), "for policies that want both");
        bench.answer(Answer::Allow);
        assert_eq!(bench.lines(id), ["CONNACK 00"]);
        assert_eq!(bench.broker.connection(id).unwrap().user_name.as_deref(), Some(expected));
    }
}

#[test]
fn an_identity_that_is_ignored_changes_nothing_but_can_be_read() {
    let mut bench = Bench::with(by_identity(IdentityUse::Ignore), asking());
    bench.peer.identity = Some("ann".into());
    bench.try_connect(&connect(Version::V5, "c"));
    let who = credentials(&mut bench);
    assert_eq!((who.user_name, who.peer.identity.as_deref()), (None, Some("ann")));
}

#[test]
fn an_identity_that_cannot_be_a_user_name_is_refused() {
    for identity in ["a\0b".to_owned(), "x".repeat(65_536)] {
        let mut bench = Bench::with(by_identity(IdentityUse::UserName), Stack::standard());
        bench.peer.identity = Some(identity.into());
        let id = bench.try_connect(&Connect { user_name: Some("root"), ..connect(Version::V5, "c") });
        assert_eq!(bench.lines(id), ["CONNACK 86"]);
        assert!(bench.closed(id));
    }
}

#[test]
fn a_client_has_the_client_identifier_of_its_identity_or_is_refused() {
    let mut bench = Bench::with(by_identity(IdentityUse::ClientId), Stack::standard());
    let victim = bench.connect(Version::V5, "bob");
    bench.peer.identity = Some("ann".into());
    bench.connect(Version::V5, "ann");
    for version in VERSIONS {
        let id = bench.try_connect(&connect(version, "bob"));
        assert_eq!(bench.lines(id), ["CONNACK 85"]);
        assert!(bench.closed(id) && !bench.closed(victim), "who is refused takes over from nobody");
    }
    bench.peer.identity = None;
    let carol = bench.try_connect(&connect(Version::V311, "carol"));
    assert_eq!(bench.lines(carol), ["CONNACK 00"], "who has no identity chooses");
}

#[test]
fn a_client_without_a_client_identifier_is_assigned_that_of_its_identity() {
    // [MQTT-3.1.3-7]
    let mut bench = Bench::with(by_identity(IdentityUse::ClientId), asking());
    bench.peer.identity = Some("ann".into());
    let id = bench.try_connect(&connect(Version::V5, ""));
    assert_eq!(&*credentials(&mut bench).client_id, "ann");
    bench.answer(Answer::Allow);
    let line = &bench.lines(id)[0];
    assert!(line.contains("AssignedClientIdentifier(\"ann\")"), "{line}");
    assert!(bench.broker.inspect("ann").is_some());
    // [MQTT-3.1.3-8 of 3.1.1]: who wants a session that lasts says whose.
    let old = bench.try_connect(&Connect { clean_start: false, ..connect(Version::V311, "") });
    assert_eq!(bench.lines(old), ["CONNACK 85"]);
    let old = bench.try_connect(&connect(Version::V311, ""));
    bench.answer(Answer::Allow);
    assert_eq!(bench.lines(old), ["CONNACK 00"]);
    assert!(bench.closed(id), "it is the same client");
}

#[test]
fn a_listener_takes_as_many_connections_as_it_may() {
    let config = listeners(vec![
        ListenerConfig::default(),
        ListenerConfig { connections_max: 2, ..ListenerConfig::default() },
    ]);
    let mut bench = Bench::with(config, Stack::standard());
    bench.peer.listener = 1;
    let first = bench.connect(Version::V5, "a");
    bench.accept();
    let full = Peer { listener: 1, ..Peer::default() };
    assert_eq!(bench.broker.accept(bench.now, full.clone()), Err(Refused::Full));
    assert_eq!(bench.broker.stats().connections_refused, 1);
    for listener in [0, 2, u16::MAX] {
        bench.peer.listener = listener;
        bench.accept();
    }
    // After a restart from a snapshot they are counted as before.
    let mut bytes = Vec::new();
    bench.broker.snapshot(&mut bytes);
    let mut again = Broker::from_snapshot(None, Stack::standard(), &bytes).unwrap();
    assert_eq!(again.config(), bench.broker.config());
    assert_eq!(again.accept(bench.now, full.clone()), Err(Refused::Full));
    bench.cut(first);
    assert!(bench.broker.accept(bench.now, full.clone()).is_ok());
    assert_eq!(bench.broker.accept(bench.now, full), Err(Refused::Full));
}

#[test]
fn a_client_without_any_name_is_refused_before_it_ends_anybodys_session() {
    let config = listeners(vec![
        ListenerConfig { allow_anonymous: false, ..ListenerConfig::default() },
        ListenerConfig::default(),
    ]);
    let mut bench = Bench::with(config, Stack::standard());
    bench.peer.listener = 1;
    let victim = bench.connect(Version::V5, "a");
    bench.peer.listener = 0;
    for version in VERSIONS {
        let id = bench.try_connect(&connect(version, "a"));
        assert_eq!(bench.lines(id), ["CONNACK 87"]);
        assert!(bench.closed(id) && !bench.closed(victim));
    }
    let named = bench.try_connect(&Connect { user_name: Some("u"), ..connect(Version::V311, "b") });
    assert_eq!(bench.lines(named), ["CONNACK 00"]);
    let method = properties(&[Property::AuthenticationMethod("m")]);
    let method = bench.try_connect(&Connect { properties: method, ..connect(Version::V5, "c") });
    assert_eq!(bench.lines(method), ["CONNACK 8C"], "its method is judged");
    bench.peer.identity = Some("d".into());
    let known = bench.try_connect(&connect(Version::V311, "d"));
    assert_eq!(bench.lines(known), ["CONNACK 00"]);
}

#[test]
fn a_listener_takes_smaller_packets_than_others_and_says_so() {
    // [MQTT-3.2.2-15]
    let config = listeners(vec![
        ListenerConfig { packet_size_max: 128, ..ListenerConfig::default() },
        ListenerConfig::default(),
    ]);
    let mut bench = Bench::with(config, Stack::standard());
    let payload = "x".repeat(123);
    for (listener, told, answers) in
        [(0, "MaximumPacketSize(128)", "DISCONNECT 95"), (1, "16777216", "PINGRESP")]
    {
        bench.peer.listener = listener;
        let id = bench.try_connect(&connect(Version::V5, "a"));
        let connack = bench.lines(id).remove(0);
        assert!(connack.contains(told), "{connack}");
        bench.publish(id, "t", &payload[1..], QoS::AtMostOnce);
        bench.send(id, &Packet::Pingreq);
        assert_eq!(bench.lines(id), ["PINGRESP"], "128 bytes");
        bench.publish(id, "t", &payload, QoS::AtMostOnce);
        bench.send(id, &Packet::Pingreq);
        assert_eq!(bench.lines(id), [answers]);
    }
    // Byte by byte as well, and before a CONNECT.
    bench.peer.listener = 0;
    let id = bench.accept();
    bench.bytes(id, b"\x10");
    bench.bytes(id, b"\x7F");
    assert!(bench.closed(id));
}

#[test]
fn under_other_settings_a_machine_from_a_snapshot_takes_up_those_of_its_listeners() {
    let mut bench = Bench::new();
    let ann = bench.connect(Version::V5, "ann");
    bench.subscribe(ann, "#", QoS::AtMostOnce);
    let mut bytes = Vec::new();
    bench.broker.snapshot(&mut bytes);
    let other = listeners(vec![ListenerConfig {
        mount_point: "m/".into(),
        packet_size_max: 128,
        ..ListenerConfig::default()
    }]);
    bench.broker = Broker::from_snapshot(Some(Arc::new(other)), Stack::standard(), &bytes).unwrap();
    bench.publish(ann, "t", "1", QoS::AtMostOnce);
    assert_eq!(bench.lines(ann), ["PUBLISH q0 t: 1"], "what it says and hears is below the mount point");
    bench.publish(ann, "t", &"x".repeat(200), QoS::AtMostOnce);
    assert_eq!(bench.lines(ann), ["DISCONNECT 95"]);
}

#[test]
fn a_listener_has_a_longest_keep_alive_of_its_own() {
    // [MQTT-3.1.2-21]
    let config = listeners(vec![
        ListenerConfig { keep_alive_max_s: 30, ..ListenerConfig::default() },
        ListenerConfig::default(),
    ]);
    let mut bench = Bench::with(config, Stack::standard());
    for (listener, told) in [(0, true), (1, false)] {
        bench.peer.listener = listener;
        let id = bench.try_connect(&Connect { keep_alive: 60, ..connect(Version::V5, "a") });
        assert_eq!(bench.lines(id)[0].contains("ServerKeepAlive(30)"), told);
    }
}
