//! What a middleware of one's own may count on: hooks are called for what is wanted, and defaults are safe.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Action, Answer, Config, ConnectionId, Cx, Flow, Hooks, Middleware, Notice, Query, Stack};
use std::sync::{Arc, Mutex};

/// Writes down the actions it sees.
struct Witness(Hooks, Arc<Mutex<Vec<String>>>);

impl Middleware for Witness {
    fn name(&self) -> &'static str {
        "Witness"
    }
    fn wants(&self) -> Hooks {
        self.0
    }
    fn action(&mut self, _: &mut Cx<'_>, action: &mut Action) -> Flow {
        let name = format!("{action:?}");
        let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
        self.1.lock().unwrap().push(name[..end].to_owned());
        Flow::Next
    }
}

fn witness(hooks: Hooks, play: impl FnOnce(&mut Bench)) -> Vec<String> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let stack = Stack::standard().insert_before("Connection", Witness(hooks, seen.clone())).unwrap();
    let mut bench = Bench::with(Config::default(), stack);
    play(&mut bench);
    std::mem::take(&mut *seen.lock().unwrap())
}

#[test]
fn each_action_has_the_hook_of_its_name() {
    let play = |bench: &mut Bench| {
        let alice = bench.connect(Version::V5, "alice");
        bench.subscribe(alice, "t", QoS::AtLeastOnce);
        bench.send(alice, &Packet::Publish(Publish { retain: true, ..publish("t", "m", QoS::AtLeastOnce) }));
        bench.unsubscribe(alice, "t");
        bench.send(alice, &Packet::Connect(connect(Version::V5, "alice")));
    };
    for (hook, name, times) in [
        (Hooks::OPEN_SESSION, "OpenSession", 1),
        (Hooks::SESSION_OPENED, "SessionOpened", 1),
        (Hooks::SUBSCRIBE_TOPIC, "SubscribeTopic", 1),
        (Hooks::TOPIC_SUBSCRIBED, "TopicSubscribed", 1),
        (Hooks::LOOKUP_RETAINED, "LookupRetained", 1),
        (Hooks::RELAY, "Relay", 1),
        (Hooks::STORE_RETAINED, "StoreRetained", 1),
        (Hooks::FORWARD, "Forward", 1),
        (Hooks::REPLY, "Reply", 3),
        (Hooks::UNSUBSCRIBE_TOPIC, "UnsubscribeTopic", 1),
        (Hooks::TOPIC_UNSUBSCRIBED, "TopicUnsubscribed", 1),
        (Hooks::UNSUBSCRIBED, "Unsubscribed", 1),
        (Hooks::NOTICE, "Notice", 1),
        (Hooks::UNCLEAN_DISCONNECT, "UncleanDisconnect", 1),
        (Hooks::SESSION_ENDED, "SessionEnded", 1),
    ] {
        assert_eq!(witness(hook, play), vec![name; times]);
    }
    assert_eq!(witness(Hooks::NONE, play), Vec::<String>::new());
    assert_eq!(Hooks::RELAY | Hooks::RELAY, Hooks::RELAY);
}

/// Asks about every PUBLISH and leaves the answer to the default.
struct Asks;

impl Middleware for Asks {
    fn name(&self) -> &'static str {
        "Asks"
    }
    fn wants(&self) -> Hooks {
        Hooks::PUBLISH
    }
    fn publish(&mut self, cx: &mut Cx<'_>, from: ConnectionId, _: &mut Publish<'_>) -> Flow {
        cx.ask(from, Query::Custom(b"may it?".as_slice().into()))
    }
}

#[test]
fn a_denial_refuses_the_packet_of_a_middleware_that_does_not_look_at_answers() {
    let stack = Stack::standard().insert_before("InboundManager", Asks).unwrap();
    let mut bench = Bench::with(Config::default(), stack);
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "t", QoS::AtMostOnce);
    for (answer, lines) in [
        (Answer::Deny(ReasonCode::Banned), vec!["PUBACK 80 #1"]),
        (Answer::Deny(ReasonCode::QuotaExceeded), vec!["PUBACK 97 #1"]),
        (Answer::Allow, vec!["PUBLISH q0 t: m", "PUBACK 00 #1"]),
    ] {
        bench.publish(alice, "t", "m", QoS::AtLeastOnce);
        bench.answer(answer);
        assert_eq!(bench.lines(alice), lines);
    }
}

#[test]
fn violations_keep_to_the_limit_of_notices() {
    let config = Config { notices_max: 1, ..Config::default() };
    let mut bench = Bench::with(config, Stack::standard().remove("PacketEmitter").unwrap());
    // Without its keeper nothing limits them.
    for _ in 0..3 {
        let id = bench.broker.accept(bench.now, culex_core::Peer::default()).unwrap();
        bench.broker.receive(bench.now, id, &[0xC0, 0]);
    }
    bench.drain();
    assert_eq!(bench.notices.len(), 3);
    let config = Config { notices_max: 1, ..Config::default() };
    let mut bench = Bench::with(config, Stack::standard());
    for _ in 0..3 {
        let id = bench.broker.accept(bench.now, culex_core::Peer::default()).unwrap();
        bench.broker.receive(bench.now, id, &[0xC0, 0]);
    }
    bench.drain();
    assert!(
        matches!(bench.notices[..], [Notice::Violated { .. }, Notice::Dropped(2)]),
        "{:?}",
        bench.notices
    );
}

#[test]
fn what_is_shown_of_parts_and_questions_holds_no_secret() {
    let mut bench = Bench::with(
        Config::default(),
        Stack::standard().replace("Authentication", culex_core::middleware::Authentication::ask()).unwrap(),
    );
    bench.try_connect(&Connect {
        password: Some(b"sesame"),
        user_name: Some("ali"),
        ..connect(Version::V5, "a")
    });
    let shown = format!("{:?} {:?}", bench.asks, bench.broker);
    assert!(!shown.contains("sesame") && shown.contains("ali"), "{shown}");
    let packet = Connect { password: Some(b"sesame"), ..connect(Version::V5, "a") };
    let shown = format!("{packet:?}");
    assert!(shown.contains("***") && !shown.contains("115, 101"), "{shown}");
}
