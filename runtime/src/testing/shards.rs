//! The part of the suite that is about several shards: what clients and the program see is one broker.
//!
//! Nobody knows which shard a client belongs to. With so many clients each shard has some, and most come in elsewhere.

use super::{Adapter, At, Client, Over, Run, Running, builder, start};
use crate::{Builder, Listener};
use culex_core::config::ListenerConfig;
use culex_core::packet::QoS;
use culex_core::{Config, Message, Notice};
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

const SHARDS: usize = 3;
const CLIENTS: usize = 12;

fn serve<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Over) -> Running {
    start(run, over.shards(SHARDS), builder::<A>())
}

fn clients(broker: &Running, name: &str) -> Vec<Client> {
    (0..CLIENTS).map(|n| Client::connect(broker.place, &format!("{name}{n}"))).collect()
}

/// Publishes at QoS 1 and waits for PUBACK: then every shard has the message, and whoever is there was sent it.
fn publish(client: &mut Client, topic: &str, payload: &[u8], retain: bool) {
    let length = [0, topic.len() as u8];
    let body = [&length, topic.as_bytes(), &[0, 7], payload].concat();
    client.send(&[&[0x32 | u8::from(retain), body.len() as u8], &body[..]].concat());
    assert_eq!(client.packet().unwrap(), [0x40, 2, 0, 7]);
}

/// The messages that a client was sent so far.
fn sent(client: &mut Client) -> usize {
    client.send(&[0xC0, 0]);
    let packets = std::iter::from_fn(|| client.packet().filter(|packet| packet[0] != 0xD0));
    packets.inspect(|packet| assert_eq!(packet[0] >> 4, 3)).count()
}

/// A message reaches subscribers of all shards, whoever publishes it, in the order of its publisher.
pub fn what_is_published_reaches_all_shards<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Over) {
    let broker = serve::<A>(run, over);
    let mut clients = clients(&broker, "client");
    let mut program = broker.handle.subscribe("all/#").unwrap();
    clients.iter_mut().for_each(|client| client.subscribe("all/#"));
    for publisher in 0..CLIENTS {
        for number in 0..20 {
            clients[publisher].publish("all/x", &[publisher as u8, number]);
        }
        for client in &mut clients {
            for number in 0..20 {
                assert_eq!(client.message(), ("all/x".into(), vec![publisher as u8, number]));
            }
        }
        for number in 0..20 {
            assert_eq!(program.recv().unwrap().payload(), [publisher as u8, number]);
        }
    }
    let message = Message::new("all/y", b"program", QoS::AtMostOnce, false).unwrap();
    broker.handle.publish(message).unwrap();
    for client in &mut clients {
        assert_eq!(client.message(), ("all/y".into(), b"program".to_vec()));
        client.ping();
    }
    broker.stop();
}

/// [MQTT-3.1.4-3]: wherever a client comes in, it is the same session.
pub fn a_session_is_taken_over_wherever_it_comes_in<A: Adapter<Bound: Send + 'static>>(
    run: Run<A>,
    over: Over,
) {
    let broker = serve::<A>(run, over);
    for name in ["alice", "bob", "carol", "dave"] {
        let mut last = Client::connect(broker.place, name);
        for _ in 0..8 {
            let next = Client::connect(broker.place, name);
            assert!(last.packet().is_none(), "the connection before is closed");
            last = next;
        }
        last.ping();
    }
    broker.stop();
}

/// Retained messages are found by whoever subscribes, on every shard.
pub fn retained_messages_are_found_on_all_shards<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Over) {
    let broker = serve::<A>(run, over);
    let mut publishers = clients(&broker, "publisher");
    for (number, publisher) in publishers.iter_mut().enumerate() {
        publish(publisher, "retained", &[number as u8], true);
    }
    for reader in &mut clients(&broker, "reader") {
        reader.subscribe("retained");
        assert_eq!(
            reader.packet().unwrap(),
            [&b"\x31\x0b\x00\x08retained"[..], &[CLIENTS as u8 - 1]].concat()
        );
    }
    publish(&mut publishers[0], "retained", b"", true);
    for reader in &mut clients(&broker, "late") {
        reader.subscribe("retained");
        reader.ping();
    }
    broker.stop();
}

/// [MQTT-4.8.2-4]: one member of a Shared Subscription gets a message, and all get some, wherever they are.
pub fn a_shared_subscription_has_members_on_all_shards<A: Adapter<Bound: Send + 'static>>(
    run: Run<A>,
    over: Over,
) {
    let broker = serve::<A>(run, over);
    let mut members = clients(&broker, "member");
    members.iter_mut().for_each(|member| member.subscribe("$share/group/jobs"));
    let mut publisher = Client::connect(broker.place, "publisher");
    for number in 0..60 {
        publish(&mut publisher, "jobs", &[number], false);
    }
    let counts: Vec<usize> = members.iter_mut().map(sent).collect();
    assert_eq!(counts.iter().sum::<usize>(), 60, "{counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    broker.stop();
}

/// The will of a client is published to all shards, when it vanishes.
pub fn a_will_reaches_all_shards<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Over) {
    let broker = serve::<A>(run, over);
    let mut watchers = clients(&broker, "watcher");
    watchers.iter_mut().for_each(|watcher| watcher.subscribe("will"));
    for name in [b'a', b'b', b'c', b'd'] {
        let mut client = Client::open(broker.place);
        let connect = b"\x10\x17\x00\x04MQTT\x04\x06\x00\x3c\x00\x01?\x00\x04will\x00\x02ok";
        client.send(&connect.map(|byte| if byte == b'?' { name } else { byte }));
        assert_eq!(client.packet().unwrap(), [0x20, 2, 0, 0]);
        drop(client);
        for watcher in &mut watchers {
            assert_eq!(watcher.message(), ("will".into(), b"ok".to_vec()));
        }
    }
    broker.stop();
}

/// What a client sends behind its CONNECT without waiting goes with it, in one piece or byte by byte.
pub fn what_comes_with_connect_is_handed_over<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Over) {
    let broker = serve::<A>(run, over);
    for number in 0..CLIENTS {
        let mut client = Client::open(broker.place);
        let bytes = [
            &Client::connect_packet(4, &format!("hasty{number}"))[..],
            b"\x82\x06\x00\x01\x00\x01t\x00",
            b"\x30\x04\x00\x01tx",
        ]
        .concat();
        match number % 2 {
            0 => client.send(&bytes),
            _ => bytes.chunks(1).for_each(|byte| client.send(byte)),
        }
        assert_eq!(client.packet().unwrap(), [0x20, 2, 0, 0]);
        assert_eq!(client.packet().unwrap(), [0x90, 3, 0, 1, 0]);
        assert_eq!(client.message(), ("t".into(), b"x".to_vec()));
        client.ping();
    }
    broker.stop();
}

/// Many clients come at the same time, and go: each is served by its shard, and none is taken for another.
pub fn a_crowd_is_served<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Over) {
    let broker = serve::<A>(run, over);
    let place = broker.place;
    let come_and_go = move |thread| {
        for number in 0..40 {
            let mut client = Client::connect(place, &format!("c{thread}-{number}"));
            let topic = format!("t{thread}");
            client.subscribe(&topic);
            client.publish(&topic, &[number]);
            assert_eq!(client.message(), (topic, vec![number]));
        }
    };
    thread::scope(|scope| (0..8).for_each(|thread| drop(scope.spawn(move || come_and_go(thread)))));
    broker.stop();
}

/// Clients of all shards hear that the broker shuts down, and it ends when they have closed.
pub fn a_shutdown_says_goodbye_on_all_shards<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Over) {
    let broker = start(run, over.shards(SHARDS), Builder::<A>::default());
    let readers: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let mut client = Client::open(broker.place);
            client.send(&Client::connect_packet(5, &format!("polite{n}")));
            assert_eq!(client.packet().unwrap()[0], 0x20);
            thread::spawn(move || {
                let packet = client.packet().unwrap();
                assert_eq!((packet[0], packet[2]), (0xE0, 0x8B), "DISCONNECT, Server shutting down");
                assert!(client.packet().is_none());
            })
        })
        .collect();
    assert!(broker.handle.is_alive(Duration::from_secs(10)));
    let began = Instant::now();
    broker.stop();
    assert!(began.elapsed() < Duration::from_millis(Builder::<A>::SHUTDOWN_MS), "it waited for nothing");
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

/// Limits of connections are those of the broker and its listeners, not of a shard; whoever leaves makes room.
pub fn connections_are_counted_over_all_shards<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let config = |connections_max| ListenerConfig { connections_max, ..ListenerConfig::default() };
    let all = Config { connections_max: 8, ..Config::default() };
    let builder = builder::<A>().config(all).shards(SHARDS);
    let builder = builder.listener(Listener::new("mqtt://127.0.0.1:0").config(config(5)));
    let prepared = builder.listen("mqtt://127.0.0.1:0").prepare().unwrap();
    let (addresses, handle) = (prepared.local_addrs().to_vec(), prepared.handle());
    let bound = A::Bound::from(prepared);
    let thread = thread::spawn(move || run(bound));
    let refused = |address| {
        let mut wire = super::Place::from(address).open();
        wire.read(&mut [0]).map_or(true, |count| count == 0)
    };
    for round in 0..3 {
        let connect = |address, n| Client::connect(address, &format!("c{round}-{n}"));
        let mut clients: Vec<Client> = (0..5).map(|n| connect(addresses[0], n)).collect();
        assert!(refused(addresses[0]), "the listener has as many as it may");
        clients.extend((5..8).map(|n| connect(addresses[1], n)));
        assert!(refused(addresses[1]), "the broker has as many as it may");
        clients.iter_mut().for_each(Client::ping);
        for mut client in clients {
            client.send(b"\xE0\x00");
            assert!(client.packet().is_none());
        }
        // The broker may hear later than its clients that their connections are gone.
        thread::sleep(Duration::from_millis(100));
    }
    handle.shutdown();
    thread.join().unwrap().unwrap();
}

/// A client that reads nothing costs those of other shards nothing.
pub fn a_slow_reader_holds_up_no_shard<A: Adapter<Bound: Send + 'static>>(run: Run<A>, over: Over) {
    let broker = serve::<A>(run, over);
    let mut slow = Client::connect(broker.place, "slow");
    slow.subscribe("flood");
    let mut readers = clients(&broker, "reader");
    readers.iter_mut().for_each(|reader| reader.subscribe("quick"));
    let mut publishers = clients(&broker, "publisher");
    let payload = vec![7; 64 * 1024];
    for round in 0..20 {
        for publisher in &mut publishers {
            publisher.publish("flood", &payload);
            publisher.publish("quick", &[round]);
        }
        for reader in &mut readers {
            for _ in 0..CLIENTS {
                assert_eq!(reader.message(), ("quick".into(), vec![round]));
            }
        }
    }
    publishers.iter_mut().for_each(Client::ping);
    assert!(sent(&mut slow) > 0, "it goes on where it stopped");
    broker.stop();
}

/// A panic that is about no connection ends a broker, whichever shard it is in: no client is left with a part of one.
pub fn a_panic_of_a_turn_ends_all_shards<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    for number in 0..4 {
        let unlucky = format!("unlucky{number}");
        let name = unlucky.clone();
        let told = move |notice| {
            if let Notice::Connected { client_id, .. } = notice {
                assert!(*client_id != *name, "as this test wants it");
            }
        };
        let broker = start(run, Over::Tcp.shards(SHARDS), builder::<A>().on_notice(told));
        let mut clients = clients(&broker, "client");
        clients.iter_mut().for_each(Client::ping);
        Client::open(broker.place).send(&Client::connect_packet(4, &unlucky));
        for client in &mut clients {
            assert!(client.packet().is_none(), "its shard goes on");
        }
        assert!(!matches!(broker.thread.join(), Ok(Ok(()))), "nobody hears of it");
        assert!(broker.handle.connect().is_err());
    }
}

/// A broker may have one shard to [`Builder::SHARDS_MAX`], and no store if there are several.
pub fn a_number_of_shards_that_cannot_be_is_told<A: Adapter<Bound: Send + 'static>>(_: Run<A>) {
    for shards in [0, Builder::<A>::SHARDS_MAX + 1] {
        let error = builder::<A>().shards(shards).prepare().unwrap_err();
        assert_eq!(error.to_string(), format!("a broker has 1 to 64 shards, not {shards}"));
    }
    let store = super::HeldStore::default();
    let durable = builder::<A>().shards(2).store(store, culex_core::store::Durability::Os);
    assert_eq!(durable.prepare().unwrap_err().to_string(), "what is stored is kept by one shard");
}

/// Every shard can be reached by the port that the system chose, and when the broker has stopped none listens any more.
pub fn a_port_belongs_to_all_shards<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let broker = serve::<A>(run, Over::Tcp);
    let At::Tcp(address) = broker.place.at else { unreachable!("it was started over TCP") };
    clients(&broker, "client").iter_mut().for_each(Client::ping);
    broker.stop();
    drop(std::net::TcpListener::bind(address).unwrap());
}
