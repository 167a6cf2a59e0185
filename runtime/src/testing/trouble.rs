//! The part of the suite in which something goes wrong: peers, the program, the clock.

use super::{Adapter, Client, Run, Setting, builder, start};
use crate::Builder;
use culex_core::packet::Publish;
use culex_core::{Config, ConnectionId, Cx, Flow, Hooks, Middleware, Stack, Wall};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Thousands of clients are served, and leave nothing behind.
pub fn thousands_come_and_go<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let broker = start(run, over, builder::<A>());
    for round in 0..2 {
        let mut clients: Vec<Client> =
            (0..1000).map(|i| Client::connect(broker.place, &format!("c{round}-{i}"))).collect();
        clients.iter_mut().for_each(Client::ping);
    }
    Client::connect(broker.place, "afterwards").ping();
    broker.stop();
}

/// A peer that is there but reads nothing and says nothing is gone when its Keep Alive is over: its will is published.
pub fn a_peer_that_hangs_is_given_up<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let broker = start(run, over, builder::<A>());
    let mut watcher = Client::connect(broker.place, "watcher");
    watcher.subscribe("will");
    let mut hanging = Client::open(broker.place);
    hanging.send(b"\x10\x17\x00\x04MQTT\x04\x06\x00\x01\x00\x01h\x00\x04will\x00\x02ok");
    assert_eq!(hanging.packet().unwrap(), [0x20, 2, 0, 0]);
    hanging.subscribe("flood");
    let mut publisher = Client::connect(broker.place, "publisher");
    for _ in 0..200 {
        publisher.publish("flood", &[7; 64 * 1024]);
    }
    assert_eq!(watcher.message(), ("will".into(), b"ok".to_vec()));
    publisher.ping();
    broker.stop();
}

/// A peer that was told the end and does not close is closed.
pub fn a_peer_that_never_closes_is_closed<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let config = Config { linger_ms: 50, ..Config::default() };
    let broker = start(run, over, builder::<A>().config(config));
    let mut client = Client::connect(broker.place, "client");
    // A second CONNECT is against the rules.
    client.send(&Client::connect_packet(4, "client"));
    assert!(client.packet().is_none());
    let began = Instant::now();
    while client.try_send(&[0xC0, 0]).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10), "its connection is still there");
        thread::sleep(Duration::from_millis(10));
    }
    broker.stop();
}

/// A shutdown does not wait for a client that does not read what there is for it.
pub fn a_shutdown_ends_in_time_with_full_buffers<A: Adapter<Bound: Send + 'static>>(
    run: Run<A>,
    over: Setting,
) {
    let broker = start(run, over, builder::<A>());
    let mut stuck = Client::connect(broker.place, "stuck");
    stuck.subscribe("flood");
    let mut publisher = Client::connect(broker.place, "publisher");
    for _ in 0..200 {
        publisher.publish("flood", &[7; 64 * 1024]);
    }
    publisher.ping();
    let began = Instant::now();
    broker.stop();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Panics at a message to `panic`.
struct Panics;

impl Middleware for Panics {
    fn name(&self) -> &'static str {
        "Panics"
    }

    fn wants(&self) -> Hooks {
        Hooks::PUBLISH
    }

    fn publish(&mut self, _: &mut Cx<'_>, _: ConnectionId, packet: &mut Publish<'_>) -> Flow {
        assert!(packet.topic != "panic", "as this test wants it");
        Flow::Next
    }
}

/// A panic about one connection closes it, as if it had broken, and touches no other.
pub fn a_panic_costs_one_connection<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let chain = || Stack::standard().insert_before("InboundManager", Panics).unwrap();
    let broker = start(run, over, builder::<A>().chain(chain));
    let mut other = Client::connect(broker.place, "other");
    other.subscribe("#");
    for _ in 0..3 {
        let mut unlucky = Client::open(broker.place);
        unlucky.send(b"\x10\x17\x00\x04MQTT\x04\x06\x00\x3c\x00\x01u\x00\x04will\x00\x02ok");
        assert_eq!(unlucky.packet().unwrap(), [0x20, 2, 0, 0]);
        unlucky.publish("panic", b"");
        assert!(unlucky.packet().is_none());
        assert_eq!(other.message(), ("will".into(), b"ok".to_vec()));
        other.publish("still", b"here");
        assert_eq!(other.message(), ("still".into(), b"here".to_vec()));
    }
    Client::connect(broker.place, "new").ping();
    broker.stop();
}

/// Somebody sets the clock, by years and in both directions: clients stay, messages stay.
pub fn the_wall_clock_may_jump<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let wall = Arc::new(AtomicU64::new(NEW_YEAR_2026));
    let told = wall.clone();
    let broker = start(run, over, builder::<A>().wall_clock(move || Wall(told.load(Ordering::Relaxed))));
    let mut client = Client::connect(broker.place, "client");
    client.subscribe("t");
    client.send(b"\x31\x0b\x00\x08retainedx");
    for jump in [0, 2 * NEW_YEAR_2026, NEW_YEAR_2026, u64::MAX, 1] {
        wall.store(jump, Ordering::Relaxed);
        client.publish("t", b"x");
        assert_eq!(client.message(), ("t".into(), b"x".to_vec()), "after a jump to {jump}");
        let mut new = Client::connect(broker.place, &format!("c{jump}"));
        new.send(b"\x82\x0d\x00\x01\x00\x08retained\x00");
        assert_eq!(new.packet().unwrap(), [0x90, 3, 0, 1, 0]);
        assert_eq!(new.packet().unwrap(), b"\x31\x0b\x00\x08retainedx");
        assert!(broker.handle.is_alive(Duration::from_secs(5)));
    }
    client.ping();
    broker.stop();
}

/// In milliseconds since 1970.
const NEW_YEAR_2026: u64 = 1_767_225_600_000;

/// The program is answered while the broker runs, and only then.
pub fn a_broker_says_whether_it_is_alive<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let broker = start(run, over, Builder::<A>::default());
    let handle = broker.handle.clone();
    assert!(handle.is_alive(Duration::from_secs(10)));
    broker.stop();
    assert!(!handle.is_alive(Duration::from_secs(10)));
}

/// While a shutdown waits for a client, nobody new is let in: another broker can take the place already.
pub fn a_shutdown_closes_the_listeners_first<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let broker = start(run, over, Builder::<A>::default().shutdown_ms(60_000));
    let stubborn = Client::connect(broker.place, "stubborn");
    broker.handle.shutdown();
    let began = Instant::now();
    while broker.place.is_open() {
        assert!(began.elapsed() < Duration::from_secs(10), "it still listens");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!broker.thread.is_finished(), "it did not wait for its client");
    drop(stubborn);
    broker.stop();
}
