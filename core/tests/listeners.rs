//! What the machine knows of a peer and of the listener that took it.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::broker::{Input, Notice, Peer, Query};
use culex_core::middleware::Authentication;
use culex_core::packet::{Packet, Version};
use culex_core::testing::{Bench, connect};
use culex_core::{Config, ConnectionId, Stack};

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
