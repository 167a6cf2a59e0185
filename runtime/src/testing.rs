//! The suite that every runtime has to pass; [`runtime_suite!`](crate::runtime_suite) makes the tests.

// A scenario is a test that lives here because three crates run it.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::print_stdout)]

mod client;
pub mod durable;
pub mod shards;
pub(crate) mod tls;
mod trouble;
pub mod websocket;

pub use crate::held::HeldStore;
pub use client::{At, Client, Over, Place, Setting, Wire};
pub use tls::Secured;
pub use trouble::*;

use crate::{Adapter, Builder, Handle};
use culex_core::middleware::Authentication;
use culex_core::packet::QoS;
use culex_core::{Answer, Message, Stack};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Runs a bound broker until it is shut down.
pub type Run<A> = fn(<A as Adapter>::Bound) -> io::Result<()>;

struct Running {
    place: Place,
    handle: Handle,
    thread: JoinHandle<io::Result<()>>,
}

impl Running {
    fn stop(self) {
        self.handle.shutdown();
        self.thread.join().unwrap().unwrap();
    }
}

/// The default settings, but a shutdown does not wait long for clients that a test still holds.
fn builder<A: Adapter>() -> Builder<A> {
    Builder::default().shutdown_ms(100)
}

fn start<A: Adapter<Bound: Send + 'static>>(
    run: Run<A>,
    over: impl Into<Setting>,
    builder: Builder<A>,
) -> Running {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let name = format!("culex-suite-{}-{}.sock", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
    let Setting { over, shards } = over.into();
    let prepared = builder.shards(shards).listener(over.listener(&name)).prepare().unwrap();
    let (place, handle) = (Place::of(&prepared).by(over), prepared.handle());
    let bound = A::Bound::from(prepared);
    Running { place, handle, thread: thread::spawn(move || run(bound)) }
}

/// A client gets CONNACK and PINGRESP, also when its bytes come one by one.
pub fn a_client_connects_and_pings<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let broker = start(run, over, builder::<A>());
    let mut client = Client::open(broker.place);
    for byte in Client::connect_packet(4, "bytewise") {
        client.send(&[byte]);
    }
    assert_eq!(client.packet().unwrap(), [0x20, 2, 0, 0]);
    client.ping();
    broker.stop();
}

/// Messages go from client to client, small and larger than any buffer on the way.
pub fn what_one_client_publishes_another_receives<A: Adapter<Bound: Send + 'static>>(
    run: Run<A>,
    over: Setting,
) {
    let broker = start(run, over, builder::<A>());
    let mut subscriber = Client::connect(broker.place, "subscriber");
    subscriber.subscribe("a/b");
    let mut publisher = Client::connect(broker.place, "publisher");
    for size in [0, 10, 1000, 1_000_000] {
        let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        publisher.publish("a/b", &payload);
        assert!(subscriber.message() == ("a/b".into(), payload), "{size} bytes");
    }
    broker.stop();
}

/// Hundreds of clients are served at the same time.
pub fn many_clients_are_served<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let broker = start(run, over, builder::<A>());
    let mut clients: Vec<Client> =
        (0..300).map(|i| Client::connect(broker.place, &format!("c{i}"))).collect();
    clients.iter_mut().for_each(|client| client.subscribe("all"));
    clients[0].publish("all", b"x");
    for client in &mut clients {
        assert_eq!(client.message(), ("all".into(), b"x".to_vec()));
    }
    drop(clients);
    broker.stop();
}

/// A client that does not read costs nobody else anything, and goes on where it stopped.
pub fn a_slow_reader_holds_up_nobody<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let broker = start(run, over, builder::<A>());
    let mut slow = Client::connect(broker.place, "slow");
    slow.subscribe("flood");
    let mut fast = Client::connect(broker.place, "fast");
    fast.subscribe("quick");
    let mut publisher = Client::connect(broker.place, "publisher");
    let payload = vec![7; 64 * 1024];
    for _ in 0..1000 {
        publisher.publish("flood", &payload);
    }
    publisher.publish("quick", b"through");
    assert_eq!(fast.message(), ("quick".into(), b"through".to_vec()));
    publisher.ping();

    slow.send(&[0xC0, 0]);
    let mut received = 0;
    loop {
        let packet = slow.packet().unwrap();
        if packet == [0xD0, 0] {
            break;
        }
        assert!(packet[0] >> 4 == 3 && packet.ends_with(&payload), "a packet was torn");
        received += 1;
    }
    assert!(received > 0);
    broker.stop();
}

/// The program publishes to clients and subscribes to what they publish.
pub fn the_program_takes_part<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let broker = start(run, over, builder::<A>());
    let mut subscription = broker.handle.subscribe("up/+").unwrap();
    let mut client = Client::connect(broker.place, "client");
    client.subscribe("down");
    let message = Message::new("down", b"hello", QoS::AtMostOnce, false).unwrap();
    broker.handle.publish(message).unwrap();
    assert_eq!(client.message(), ("down".into(), b"hello".to_vec()));
    client.publish("up/1", b"there");
    assert_eq!(subscription.recv().unwrap().payload(), b"there");
    assert!(broker.handle.subscribe("not/#/good").is_err());

    client.publish("up/2", b"last");
    client.ping();
    let handle = broker.handle.clone();
    broker.stop();
    assert_eq!(subscription.recv().unwrap().payload(), b"last");
    assert!(subscription.recv().is_none(), "the broker stopped");
    assert!(handle.publish(Message::new("t", b"", QoS::AtMostOnce, false).unwrap()).is_err());
}

/// A burst of the program arrives as a whole.
pub fn a_burst_of_the_program_arrives<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let broker = start(run, over, builder::<A>());
    let mut client = Client::connect(broker.place, "client");
    client.subscribe("burst");
    let mut sent = 0u32;
    while sent < 5000 {
        let message = Message::new("burst", &sent.to_be_bytes(), QoS::AtMostOnce, false).unwrap();
        match broker.handle.publish(message) {
            Ok(()) => sent += 1,
            Err(_) => thread::yield_now(),
        }
    }
    for i in 0..5000u32 {
        assert_eq!(client.message().1, i.to_be_bytes());
    }
    broker.stop();
}

/// A question is answered from another thread; one that is forgotten refuses.
pub fn questions_are_answered_or_refused<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let chain = || Stack::standard().replace("Authentication", Authentication::ask()).unwrap();
    let mut asked = 0;
    let builder = builder::<A>().chain(chain).on_ask(move |_, responder| {
        asked += 1;
        if asked == 1 {
            thread::spawn(move || responder.complete(Answer::Allow));
        }
    });
    let broker = start(run, over, builder);
    let mut first = Client::connect(broker.place, "first");
    first.ping();
    let mut second = Client::open(broker.place);
    second.send(&Client::connect_packet(5, "second"));
    let connack = second.packet().unwrap();
    assert_eq!((connack[0], connack[3]), (0x20, 0x87), "Not authorized");
    assert!(second.packet().is_none(), "the connection is closed");
    broker.stop();
}

/// A shutdown tells MQTT 5.0 clients why, ends before its time, and leaves the port free.
pub fn a_shutdown_says_goodbye<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let broker = start(run, over, Builder::<A>::default());
    let mut client = Client::open(broker.place);
    client.send(&Client::connect_packet(5, "polite"));
    assert_eq!(client.packet().unwrap()[0], 0x20);
    let reader = thread::spawn(move || {
        let packet = client.packet().unwrap();
        assert_eq!((packet[0], packet[2]), (0xE0, 0x8B), "DISCONNECT, Server shutting down");
        assert!(client.packet().is_none());
    });
    let (place, began) = (broker.place, Instant::now());
    broker.stop();
    assert!(began.elapsed() < Duration::from_millis(Builder::<A>::SHUTDOWN_MS), "it waited for nothing");
    reader.join().unwrap();
    match place.at {
        At::Tcp(address) | At::Tls(address) => drop(TcpListener::bind(address).unwrap()),
        At::Unix(path) => assert!(!path.exists(), "the file of the socket is removed"),
        At::Program(handle, _) | At::Async(handle, _) => assert!(handle.connect().is_err()),
    }
}

/// A shutdown does not wait for a client that never closes.
pub fn a_shutdown_ends_in_time<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let broker = start(run, over, builder::<A>());
    let mut client = Client::connect(broker.place, "stubborn");
    let began = Instant::now();
    broker.stop();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert!(client.packet().is_none(), "its connection is closed");
}

/// Without any handle the broker goes on.
pub fn a_broker_outlives_its_handles<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Setting) {
    let Running { place, handle, thread } = start(run, over, builder::<A>());
    drop(handle);
    Client::connect(place, "client").ping();
    assert!(!thread.is_finished());
}

/// When file descriptors run out the broker waits without spinning, and goes on as connections close. The broker runs
/// in a process of its own: this test program again, with only the test `name`.
pub fn running_out_of_descriptors_is_survived<A: Adapter<Bound: Send + 'static>>(run: Run<A>, name: &str) {
    if std::env::var_os(CHILD).is_some() {
        return serve_with_few_descriptors::<A>(run);
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let Killed(child) = &mut Killed(child);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address: SocketAddr =
        lines.find_map(|line| line.split_once(ADDRESS).map(|(_, text)| text.parse().unwrap())).unwrap();
    let mut clients: Vec<Client> = (0..DESCRIPTORS + 20).map(|_| Client::open(address)).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.send(&Client::connect_packet(4, &format!("c{i}")));
    }
    assert_eq!(clients[0].packet().unwrap()[0], 0x20);
    clients[0].ping();
    // Long enough for a loop without a pause to show in the processor time.
    thread::sleep(Duration::from_millis(500));
    // The last one waits in the backlog until others close.
    let mut last = clients.pop().unwrap();
    drop(clients);
    assert_eq!(last.packet().unwrap()[0], 0x20);
    Client::connect(address, "afterwards").ping();
    drop(child.stdin.take());
    let took = lines
        .find_map(|line| line.split_once(TICKS).map(|(_, ticks)| ticks.parse::<u64>().unwrap()))
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert!(took < 30, "{took} ticks of processor time: it was spinning");
}

/// A child that does not outlive a failed test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

fn serve_with_few_descriptors<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let limit = Some(DESCRIPTORS);
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    let broker = start(run, Over::Tcp, builder::<A>());
    let At::Tcp(address) = broker.place.at else { unreachable!("it was started over TCP") };
    println!("{ADDRESS}{address}");
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    broker.stop();
    // utime and stime, the 14th and 15th field: in hundredths of a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat.split(' ').skip(13).take(2).map(|ticks| ticks.parse().unwrap_or(0)).sum();
    println!("{TICKS}{ticks}");
}

const CHILD: &str = "CULEX_TEST_CHILD";
const ADDRESS: &str = "address=";
const TICKS: &str = "ticks=";
const DESCRIPTORS: u64 = 48;

/// Makes the tests of a runtime: `runtime_suite!(its Broker type, how to run its Bound)`.
#[macro_export]
macro_rules! runtime_suite {
    ($broker:ty, $run:expr) => {
        $crate::runtime_suite! { @tests $broker, $run, $crate::testing::Over::Tcp.shards(1), }

        #[test]
        fn running_out_of_descriptors_is_survived() {
            let name = "running_out_of_descriptors_is_survived";
            $crate::testing::running_out_of_descriptors_is_survived::<$broker>($run, name);
        }

        mod with_a_store {
            $crate::runtime_suite! { @each $broker, $run, durable,
                what_was_acknowledged_outlives_the_broker
                an_acknowledgement_waits_for_the_disk_and_nothing_else_does
                a_disk_that_fails_is_told_to_nobody_as_success
                a_shutdown_waits_for_the_disk
            }
        }

        mod over_unix {
            $crate::runtime_suite! { @tests $broker, $run, $crate::testing::Over::Unix.shards(1), }
        }

        mod over_a_pipe {
            $crate::runtime_suite! { @tests $broker, $run, $crate::testing::Over::Pipe.shards(1), }
        }

        mod over_tls {
            $crate::runtime_suite! { @tests $broker, $run, $crate::testing::Over::Tls.shards(1), }
        }

        mod over_websocket_in_tls {
            $crate::runtime_suite! { @tests $broker, $run, $crate::testing::Over::WebSocketTls.shards(1), }
        }

        mod over_an_async_stream {
            $crate::runtime_suite! { @tests $broker, $run, $crate::testing::Over::Async.shards(1), }
        }

        mod over_websocket_in_a_pipe {
            $crate::runtime_suite! { @tests $broker, $run, $crate::testing::Over::PipeWebSocket.shards(1), }
        }

        mod with_shards {
            mod over_tcp {
                $crate::runtime_suite! { @tests $broker, $run, $crate::testing::Over::Tcp.shards(3), }
                $crate::runtime_suite! { @shards $broker, $run, $crate::testing::Over::Tcp, }
            }

            mod over_unix {
                $crate::runtime_suite! { @shards $broker, $run, $crate::testing::Over::Unix, }
            }

            mod over_a_pipe {
                $crate::runtime_suite! { @shards $broker, $run, $crate::testing::Over::Pipe, }
            }

            mod over_an_async_stream {
                $crate::runtime_suite! { @tests $broker, $run, $crate::testing::Over::Async.shards(3), }
                $crate::runtime_suite! { @shards $broker, $run, $crate::testing::Over::Async, }
            }

            mod over_tls {
                $crate::runtime_suite! { @shards $broker, $run, $crate::testing::Over::Tls, }
            }

            mod over_websocket {
                $crate::runtime_suite! { @shards $broker, $run, $crate::testing::Over::WebSocket, }
            }

            mod over_websocket_in_tls {
                $crate::runtime_suite! { @tests $broker, $run, $crate::testing::Over::WebSocketTls.shards(3), }
                $crate::runtime_suite! { @shards $broker, $run, $crate::testing::Over::WebSocketTls, }
            }

            $crate::runtime_suite! { @each $broker, $run, shards,
                connections_are_counted_over_all_shards
                a_number_of_shards_that_cannot_be_is_told
                a_panic_of_a_turn_ends_all_shards
                a_port_belongs_to_all_shards
            }
        }

        mod over_websocket {
            $crate::runtime_suite! { @tests $broker, $run, $crate::testing::Over::WebSocket.shards(1), }
            $crate::runtime_suite! { @each $broker, $run, websocket,
                a_text_frame_ends_the_connection
                a_goodbye_is_answered_and_the_will_published
                a_goodbye_waits_for_what_came_before
                a_ping_is_answered_while_much_is_sent
                another_path_is_refused_by_http
                a_handshake_must_be_over_in_time
                tcp_is_served_beside_websocket
            }
        }
    };
    (@tests $broker:ty, $run:expr, $over:expr,) => {
        $crate::runtime_suite! { @each $broker, $run, $over,
            a_client_connects_and_pings
            what_one_client_publishes_another_receives
            many_clients_are_served
            a_slow_reader_holds_up_nobody
            the_program_takes_part
            a_burst_of_the_program_arrives
            questions_are_answered_or_refused
            a_shutdown_says_goodbye
            a_shutdown_ends_in_time
            a_broker_outlives_its_handles
            thousands_come_and_go
            a_peer_that_hangs_is_given_up
            a_peer_that_never_closes_is_closed
            a_shutdown_ends_in_time_with_full_buffers
            a_panic_costs_one_connection
            the_wall_clock_may_jump
            a_broker_says_whether_it_is_alive
            a_shutdown_closes_the_listeners_first
        }
    };
    (@shards $broker:ty, $run:expr, $over:expr,) => {
        $crate::runtime_suite! { @each $broker, $run, shards $over,
            what_is_published_reaches_all_shards
            a_session_is_taken_over_wherever_it_comes_in
            retained_messages_are_found_on_all_shards
            a_shared_subscription_has_members_on_all_shards
            a_will_reaches_all_shards
            what_comes_with_connect_is_handed_over
            a_crowd_is_served
            a_shutdown_says_goodbye_on_all_shards
            a_slow_reader_holds_up_no_shard
        }
    };
    (@each $broker:ty, $run:expr, shards, $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::testing::shards::$name::<$broker>($run);
            }
        )*
    };
    (@each $broker:ty, $run:expr, shards $over:expr, $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::testing::shards::$name::<$broker>($run, $over);
            }
        )*
    };
    (@each $broker:ty, $run:expr, websocket, $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::testing::websocket::$name::<$broker>($run);
            }
        )*
    };
    (@each $broker:ty, $run:expr, durable, $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::testing::durable::$name::<$broker>($run);
            }
        )*
    };
    (@each $broker:ty, $run:expr, $over:expr, $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::testing::$name::<$broker>($run, $over);
            }
        )*
    };
}
