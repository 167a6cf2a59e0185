//! Keep Alive.
#![cfg(feature = "testing")]

use culex_core::Config;
use culex_core::middleware::{Authorize, Permission, Stack, Wanted};
use culex_core::packet::*;
use culex_core::testing::*;

fn keeping(version: Version, client_id: &str, keep_alive: u16) -> Connect<'_> {
    Connect { keep_alive, ..connect(version, client_id) }
}

#[test]
fn pingreq_is_answered() {
    // [MQTT-3.12.4-1]
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut bench = Bench::new();
        let alice = bench.connect(version, "alice");
        bench.send(alice, &Packet::Pingreq);
        assert_eq!(bench.output(alice), [0xD0, 0]);
    }
}

#[test]
fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    // [MQTT-3.1.2-22]
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut bench = Bench::new();
        let alice = bench.connect_with(&keeping(version, "alice", 10)).0;
        bench.pass_ms(14_999);
        assert!(!bench.closed(alice));
        bench.pass_ms(1);
        assert!(bench.closed(alice));
        let told: &[&str] = if version == Version::V5 { &["DISCONNECT 8D"] } else { &[] };
        assert_eq!(bench.lines(alice), told);
        assert_eq!(bench.broker.stats().keep_alive_timeouts, 1);
    }
}

#[test]
fn any_packet_is_a_sign_of_life() {
    let mut bench = Bench::new();
    let alice = bench.connect_with(&keeping(Version::V5, "alice", 10)).0;
    for packet in [Packet::Pingreq, Packet::Publish(publish("t", "m", QoS::AtMostOnce))] {
        bench.pass_ms(14_000);
        assert!(!bench.closed(alice));
        bench.send(alice, &packet);
    }
    bench.pass_ms(14_999);
    assert!(!bench.closed(alice));
    bench.pass_ms(1);
    assert!(bench.closed(alice));
}

#[test]
fn what_is_sent_to_a_client_is_no_sign_of_its_life() {
    let mut bench = Bench::new();
    let alice = bench.connect_with(&keeping(Version::V5, "alice", 10)).0;
    bench.subscribe(alice, "t", QoS::AtMostOnce);
    let bob = bench.connect(Version::V5, "bob");
    for _ in 0..15 {
        assert!(!bench.closed(alice));
        bench.pass_ms(1_000);
        bench.publish(bob, "t", "m", QoS::AtMostOnce);
    }
    assert!(bench.closed(alice));
}

#[test]
fn a_keep_alive_of_0_turns_it_off() {
    let mut bench = Bench::new();
    let alice = bench.connect_with(&keeping(Version::V311, "alice", 0)).0;
    assert_eq!(bench.broker.deadline(), None);
    bench.pass_ms(1_000_000_000);
    assert!(!bench.closed(alice));
}

#[test]
fn the_server_keep_alive_replaces_longer_ones_and_none() {
    // [MQTT-3.1.2-21], [MQTT-3.2.2-21], [MQTT-3.2.2-22]
    for (asked, told, patience_ms) in
        [(0, Some(20), 30_000), (21, Some(20), 30_000), (20, None, 30_000), (10, None, 15_000)]
    {
        let mut bench = Bench::with(Config { keep_alive_max_s: 20, ..Config::default() }, Stack::standard());
        let alice = bench.try_connect(&keeping(Version::V5, "alice", asked));
        let output = bench.output(alice);
        let packets = decode(&output, Version::V5);
        let [Packet::Connack(connack)] = &packets[..] else { panic!("{packets:?}") };
        assert_eq!(connack.properties.server_keep_alive(), told);
        bench.pass_ms(patience_ms - 1);
        assert!(!bench.closed(alice));
        bench.pass_ms(1);
        assert!(bench.closed(alice));
    }
}

#[test]
fn a_3_x_client_that_cannot_be_told_keeps_its_keep_alive() {
    let mut bench = Bench::with(Config { keep_alive_max_s: 20, ..Config::default() }, Stack::standard());
    let alice = bench.connect_with(&keeping(Version::V311, "alice", 100)).0;
    bench.pass_ms(149_999);
    assert!(!bench.closed(alice));
    bench.pass_ms(1);
    assert!(bench.closed(alice));
}

#[test]
fn silence_while_we_do_not_read_is_our_own_doing() {
    let policy = |_: &str, _: Option<&str>, wanted: Wanted<'_>| match wanted {
        Wanted::Publish { .. } => Permission::Ask,
        _ => Permission::Allow,
    };
    let stack = Stack::standard().replace("Authorize", Authorize::new(policy)).unwrap();
    let config = Config { parked_max: 1, ask_timeout_ms: 100_000, ..Config::default() };
    let mut bench = Bench::with(config, stack);
    let alice = bench.connect_with(&keeping(Version::V5, "alice", 10)).0;
    bench.publish(alice, "t", "m", QoS::AtMostOnce);
    assert_eq!(bench.broker.read_credit(alice), 0);
    bench.pass_ms(60_000);
    assert!(!bench.closed(alice));
    bench.answer(culex_core::Answer::Allow);
    assert_eq!(bench.credits, [alice]);
    // From now on its silence counts again.
    bench.pass_ms(30_000);
    assert!(bench.closed(alice));
}
