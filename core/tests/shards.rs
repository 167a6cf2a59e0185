//! Several machines share the work of a broker: what clients see is one broker.
#![allow(clippy::unwrap_used)] // as in tests

use culex_core::broker::{Disconnect, Moved, Peer};
use culex_core::hash::Seed;
use culex_core::middleware::Shards;
use culex_core::packet::{
    Framed, Packet, PropertiesBuf, Property, QoS, ReasonCode, Subscribe, SubscribeFiltersBuf,
    SubscriptionOptions, Version, frame,
};
use culex_core::testing::{connect, id, publish};
use culex_core::{Action, Broker, Config, ConnectionId, Now, ShardId, Stack};
use std::collections::BTreeMap;
use std::sync::Arc;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;
const KEY: Seed = Seed(7);

/// A client, wherever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Client(usize);

/// Machines, and what is on its way between them.
struct Cluster {
    machines: Vec<Broker>,
    /// From, to, what; it is heard when somebody says so.
    said: Vec<(usize, usize, Vec<u8>)>,
    clients: Vec<Option<(usize, ConnectionId)>>,
    outputs: BTreeMap<Client, Vec<u8>>,
    now: Now,
}

impl Cluster {
    fn new(of: u16) -> Self {
        let now = Now::default();
        let machine = |me| {
            let stack = Stack::standard().shard(Shards::new(ShardId(me), of, KEY));
            Broker::new(Arc::new(Config::default()), stack, Seed(u64::from(me) + 1), now)
        };
        let machines = (0..of).map(machine).collect();
        Self { machines, said: Vec::new(), clients: Vec::new(), outputs: BTreeMap::new(), now }
    }

    /// Connects a client, to the machine where it does not belong.
    fn connect(&mut self, name: &str) -> Client {
        let client = Client(self.clients.len());
        let wrong = (self.home(name) + 1) % self.machines.len();
        let connection = self.machines[wrong].accept(self.now, Peer::default()).unwrap();
        self.clients.push(Some((wrong, connection)));
        self.send(client, &Packet::Connect(connect(Version::V5, name)));
        self.settle();
        assert!(matches!(self.packets(client)[..], [ref one] if one.contains("Connack")), "{name}");
        client
    }

    /// Where a client belongs: where it is handed over to.
    fn home(&self, name: &str) -> usize {
        let count = self.machines.len() as u16;
        let mut machine = Self::new(count);
        let connection = machine.machines[0].accept(Now::default(), Peer::default()).unwrap();
        let mut bytes = Vec::new();
        Packet::Connect(connect(Version::V5, name)).encode(Version::V5, &mut bytes).unwrap();
        machine.machines[0].receive(Now::default(), connection, &bytes);
        match machine.machines[0].poll_action() {
            Some(Action::HandOver { shard, .. }) => shard.0.into(),
            _ => 0,
        }
    }

    fn send(&mut self, client: Client, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(Version::V5, &mut bytes).unwrap();
        let (machine, connection) = self.clients[client.0].unwrap();
        self.machines[machine].receive(self.now, connection, &bytes);
        self.drain();
    }

    fn subscribe(&mut self, client: Client, filter: &str, qos: QoS) {
        let mut filters = SubscribeFiltersBuf::new();
        filters.push(filter, SubscriptionOptions { qos, ..Default::default() }).unwrap();
        let properties = PropertiesBuf::default();
        let packet_id = id(9);
        let packet =
            Subscribe { packet_id, properties: properties.as_properties(), filters: filters.as_filters() };
        self.send(client, &Packet::Subscribe(packet));
    }

    fn publish(&mut self, client: Client, topic: &str, payload: &str, qos: QoS) {
        self.send(client, &Packet::Publish(publish(topic, payload, qos)));
    }

    /// Takes out what came out.
    fn drain(&mut self) {
        for from in 0..self.machines.len() {
            while let Some(action) = self.machines[from].poll_action() {
                if let Action::HandOver { id, shard, moved } = action {
                    self.moves(from, id, shard, *moved);
                }
            }
            while let Some(transmit) = self.machines[from].poll_transmit() {
                let (id, length) = (transmit.id(), transmit.len());
                let bytes: Vec<u8> = transmit.chunks().flatten().copied().collect();
                transmit.written(length);
                let at = self.clients.iter().position(|one| *one == Some((from, id))).unwrap();
                self.outputs.entry(Client(at)).or_default().extend(bytes);
            }
            for to in 0..self.machines.len() {
                if let Some(said) = self.machines[from].take_for_shard(ShardId(to as u16)) {
                    self.said.push((from, to, said));
                }
            }
        }
    }

    fn moves(&mut self, from: usize, id: ConnectionId, to: ShardId, moved: Moved) {
        let to = usize::from(to.0);
        let arrived = self.machines[to].accept(self.now, moved.peer).unwrap();
        let client = self.clients.iter_mut().find(|one| **one == Some((from, id))).unwrap();
        *client = Some((to, arrived));
        self.machines[to].receive(self.now, arrived, &moved.received);
        self.drain();
    }

    /// The oldest of what was said is heard.
    fn hear(&mut self) -> bool {
        if self.said.is_empty() {
            return false;
        }
        let (from, to, said) = self.said.remove(0);
        self.machines[to].from_shard(self.now, ShardId(from as u16), &said);
        self.drain();
        true
    }

    fn settle(&mut self) {
        self.drain();
        while self.hear() {}
    }

    /// What a client got since it was asked the last time, in short.
    fn packets(&mut self, client: Client) -> Vec<String> {
        let bytes = self.outputs.remove(&client).unwrap_or_default();
        let (mut rest, mut packets) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let Ok(Framed::Whole { frame, length }) = frame(rest, u32::MAX) else { panic!("{rest:?}") };
            packets.push(match Packet::decode(&frame, Version::V5).unwrap() {
                Packet::Publish(publish) => {
                    let retain = if publish.retain { " (retained)" } else { "" };
                    format!("{}: {}{retain}", publish.topic, String::from_utf8_lossy(&publish.payload))
                }
                Packet::Puback(ack) => format!("Puback {:?}", ack.reason),
                Packet::Connack(_) => "Connack".into(),
                Packet::Suback(suback) => format!("Suback {:?}", suback.reasons),
                other => format!("{:?}", other.packet_type()),
            });
            rest = &rest[length..];
        }
        packets
    }

    /// Two clients of different machines.
    fn apart(&mut self) -> (Client, Client) {
        let alice = self.connect("alice");
        let far = (0..).map(|n| format!("bob{n}")).find(|name| self.home(name) != self.home("alice"));
        (alice, self.connect(&far.unwrap()))
    }
}

#[test]
fn a_client_goes_where_its_client_identifier_says_with_all_that_it_sent() {
    let mut cluster = Cluster::new(4);
    let homes: Vec<usize> = (0..64).map(|n| cluster.home(&format!("client{n}"))).collect();
    for shard in 0..4 {
        let here = homes.iter().filter(|home| **home == shard).count();
        assert!((6..30).contains(&here), "clients are spread: {homes:?}");
    }
    // CONNECT and SUBSCRIBE in one piece, byte by byte, to every machine.
    for accepted in 0..4 {
        for split in [true, false] {
            let mut bytes = Vec::new();
            Packet::Connect(connect(Version::V5, "mover")).encode(Version::V5, &mut bytes).unwrap();
            Packet::Pingreq.encode(Version::V5, &mut bytes).unwrap();
            let connection = cluster.machines[accepted].accept(cluster.now, Peer::default()).unwrap();
            let client = Client(cluster.clients.len());
            cluster.clients.push(Some((accepted, connection)));
            let pieces: Vec<&[u8]> = if split { bytes.chunks(1).collect() } else { vec![&bytes[..]] };
            for piece in pieces {
                let (machine, connection) = cluster.clients[client.0].unwrap();
                cluster.machines[machine].receive(cluster.now, connection, piece);
                cluster.drain();
            }
            assert_eq!(cluster.packets(client), ["Connack", "Pingresp"]);
            let (machine, connection) = cluster.clients[client.0].take().unwrap();
            assert_eq!(machine, cluster.home("mover"));
            cluster.machines[machine].disconnected(cluster.now, connection, Disconnect::Eof);
            cluster.drain();
        }
    }
    let accepted: u64 = cluster.machines.iter().map(|one| one.stats().connections_accepted).sum();
    assert_eq!(accepted, 8, "who moves is counted once");
    assert!(cluster.machines.iter().all(|one| one.connections() == 0));
}

/// [MQTT-3.1.4-3]: there is one session per Client Identifier, wherever its connections come in.
#[test]
fn a_session_is_taken_over_from_any_machine() {
    let mut cluster = Cluster::new(3);
    let first = cluster.connect("alice");
    let second = cluster.connect("alice");
    assert_eq!(cluster.packets(first), ["Disconnect"]);
    assert_eq!(cluster.machines.iter().map(Broker::sessions).sum::<usize>(), 1);
    cluster.subscribe(second, "a", Q0);
    cluster.settle();
    assert_eq!(cluster.packets(second), ["Suback [0]"]);
}

/// [MQTT-3.1.3-6]: who has no name gets one, and stays where it is.
#[test]
fn an_assigned_client_identifier_belongs_where_it_was_assigned() {
    let mut cluster = Cluster::new(8);
    for machine in 0..8 {
        let connection = cluster.machines[machine].accept(cluster.now, Peer::default()).unwrap();
        let client = Client(cluster.clients.len());
        cluster.clients.push(Some((machine, connection)));
        cluster.send(client, &Packet::Connect(connect(Version::V5, "")));
        let session = cluster.machines[machine].sessions();
        assert_eq!((session, cluster.packets(client).len()), (1, 1));
    }
}

#[test]
fn a_message_reaches_subscribers_of_other_machines_and_only_machines_that_want_it_hear_of_it() {
    let mut cluster = Cluster::new(8);
    let (alice, bob) = cluster.apart();
    cluster.subscribe(alice, "a/+", Q1);
    cluster.settle();
    assert_eq!(cluster.packets(alice), ["Suback [1]"]);
    cluster.publish(bob, "a/b", "hello", Q0);
    assert_eq!(cluster.said.len(), 1);
    cluster.settle();
    assert_eq!(cluster.packets(alice), ["a/b: hello"]);
    cluster.publish(bob, "b", "nobody", Q0);
    assert!(cluster.said.is_empty());
}

/// [MQTT-3.8.4-1]
#[test]
fn suback_waits_until_every_machine_knows_what_is_wanted() {
    let mut cluster = Cluster::new(3);
    let (alice, bob) = cluster.apart();
    cluster.subscribe(alice, "a", Q1);
    assert!(cluster.packets(alice).is_empty());
    // Published before it is agreed: the subscription does not exist yet, but what comes behind it waits.
    cluster.publish(alice, "a", "own", Q1);
    assert!(cluster.packets(alice).is_empty(), "effects stay in their order");
    while cluster.packets(alice).is_empty() {
        cluster.publish(bob, "a", "early", Q0);
        assert!(cluster.hear());
    }
    cluster.settle();
    cluster.packets(alice);
    cluster.publish(bob, "a", "sure", Q0);
    cluster.settle();
    assert_eq!(cluster.packets(alice), ["a: sure"]);
}

/// [MQTT-4.3.2-4]: the acknowledgement says that the message is in good hands, everywhere.
#[test]
fn puback_waits_until_other_machines_have_the_message_and_keeps_its_place() {
    let mut cluster = Cluster::new(2);
    let (alice, bob) = cluster.apart();
    cluster.subscribe(alice, "a", Q1);
    cluster.settle();
    cluster.packets(alice);
    cluster.publish(bob, "a", "one", Q1);
    let mut second = publish("elsewhere", "two", Q1);
    second.packet_id = Some(id(2));
    cluster.send(bob, &Packet::Publish(second));
    assert!(cluster.packets(bob).is_empty(), "the second waits behind the first");
    assert!(cluster.hear());
    assert_eq!(cluster.packets(alice), ["a: one"]);
    assert!(cluster.packets(bob).is_empty());
    cluster.settle();
    let none = ReasonCode::NoMatchingSubscribers;
    assert_eq!(cluster.packets(bob), ["Puback Success".into(), format!("Puback {none:?}")]);
}

#[test]
fn a_retained_message_is_found_at_every_machine_and_the_last_write_wins_everywhere() {
    let mut cluster = Cluster::new(3);
    let (alice, bob) = cluster.apart();
    let retained = |payload| {
        let mut packet = publish("t", payload, Q0);
        packet.retain = true;
        packet
    };
    // At the same time: neither has heard of the other.
    cluster.send(alice, &Packet::Publish(retained("from alice")));
    cluster.send(bob, &Packet::Publish(retained("from bob")));
    cluster.said.reverse();
    cluster.settle();
    let found: Vec<String> = (0..6)
        .map(|n| {
            let reader = cluster.connect(&format!("reader{n}"));
            cluster.subscribe(reader, "t", Q0);
            cluster.settle();
            cluster.packets(reader).pop().unwrap()
        })
        .collect();
    assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
    // One after the other.
    cluster.send(alice, &Packet::Publish(retained("")));
    cluster.settle();
    let late = cluster.connect("late");
    cluster.subscribe(late, "t", Q0);
    cluster.settle();
    assert_eq!(cluster.packets(late), ["Suback [0]"]);
}

/// It waited too long to be passed on. That the topic has no retained message any more holds all the same, and everywhere.
#[test]
fn a_message_that_expired_still_removes_the_retained_message_at_every_machine() {
    let mut cluster = Cluster::new(2);
    let (alice, _) = cluster.apart();
    let mut packet = publish("t", "kept", Q0);
    packet.retain = true;
    cluster.send(alice, &Packet::Publish(packet));
    cluster.settle();
    let mut properties = PropertiesBuf::default();
    properties.push(Property::MessageExpiryInterval(0));
    let mut packet = publish("t", "", Q0);
    (packet.retain, packet.properties) = (true, properties.as_properties());
    cluster.send(alice, &Packet::Publish(packet));
    cluster.settle();
    for machine in &mut cluster.machines {
        let shard = machine.shard();
        assert!(machine.records().is_empty(), "{shard:?}");
    }
}

/// [MQTT-4.8.2-4], [MQTT-4.8.2-5]
#[test]
fn of_a_shared_subscription_one_member_gets_a_message_in_turn_wherever_it_is() {
    let mut cluster = Cluster::new(3);
    let members: Vec<Client> = (0..6).map(|n| cluster.connect(&format!("member{n}"))).collect();
    for member in &members {
        cluster.subscribe(*member, "$share/g/jobs/+", Q1);
        cluster.settle();
        cluster.packets(*member);
    }
    let publisher = cluster.connect("publisher");
    for n in 0..60 {
        cluster.publish(publisher, "jobs/x", &n.to_string(), Q0);
        cluster.settle();
    }
    let got: Vec<usize> = members.iter().map(|member| cluster.packets(*member).len()).collect();
    assert_eq!(got.iter().sum::<usize>(), 60);
    assert!(got.iter().all(|count| *count == 10), "{got:?}");
    // Whoever leaves while a message is on its way to it: another gets it.
    let mut homes: Vec<usize> = members.iter().map(|one| cluster.clients[one.0].unwrap().0).collect();
    homes.sort_unstable();
    homes.dedup();
    assert!(homes.len() > 1);
    let mut left = members.clone();
    for n in 0..30 {
        cluster.publish(publisher, "jobs/y", &n.to_string(), Q1);
        if n % 6 == 5 && left.len() > 1 {
            let gone = left.pop().unwrap();
            let (machine, connection) = cluster.clients[gone.0].unwrap();
            cluster.machines[machine].disconnected(cluster.now, connection, Disconnect::Eof);
            cluster.drain();
        }
        cluster.settle();
        assert!(cluster.packets(publisher).iter().any(|one| one == "Puback Success"), "{n}");
    }
}

#[test]
fn what_a_machine_has_to_say_holds_up_its_clients_until_it_is_taken() {
    let mut cluster = Cluster::new(2);
    let (alice, bob) = cluster.apart();
    cluster.subscribe(alice, "a", Q0);
    cluster.settle();
    let (machine, connection) = cluster.clients[bob.0].unwrap();
    let payload = "x".repeat(64 * 1024);
    let mut bytes = Vec::new();
    Packet::Publish(publish("a", &payload, Q0)).encode(Version::V5, &mut bytes).unwrap();
    let mut written = 0;
    while cluster.machines[machine].read_credit(connection) > 0 {
        cluster.machines[machine].receive(cluster.now, connection, &bytes);
        written += 1;
        assert!(written < 100, "there is a limit");
    }
    cluster.drain();
    assert!(cluster.machines[machine].read_credit(connection) > 0);
    cluster.settle();
    assert_eq!(cluster.packets(alice).len(), 1 + written);
}

#[test]
fn a_machine_made_from_a_snapshot_goes_on_as_the_one_before() {
    let mut cluster = Cluster::new(2);
    let (alice, bob) = cluster.apart();
    cluster.subscribe(alice, "a", Q2);
    cluster.hear();
    for me in 0..2 {
        let mut bytes = Vec::new();
        cluster.machines[me].snapshot(&mut bytes);
        let stack = Stack::standard().shard(Shards::new(ShardId(me as u16), 2, KEY));
        let machine = Broker::from_snapshot(None, stack, &bytes).unwrap();
        let mut again = Vec::new();
        machine.snapshot(&mut again);
        assert_eq!(bytes, again);
        cluster.machines[me] = machine;
        let other = Stack::standard().shard(Shards::new(ShardId(me as u16), 3, KEY));
        assert!(Broker::from_snapshot(None, other, &bytes).is_err(), "of two, not of three");
    }
    cluster.settle();
    cluster.packets(alice);
    cluster.publish(bob, "a", "x", Q1);
    cluster.settle();
    assert_eq!(cluster.packets(alice), ["a: x"]);
    assert_eq!(cluster.packets(bob), ["Puback Success"]);
}

#[test]
fn bytes_that_no_machine_says_change_nothing() {
    let mut cluster = Cluster::new(2);
    // A version behind which there is none; no Topic Name, for everybody.
    let last = [&[2][..], &[0xFF; 8]].concat();
    let nameless = [&[0, 0x20][..], &[0; 10]].concat();
    for bytes in [&[0xFF; 40][..], &[0; 40], &[1, 0, 0], &[3; 17], &last, &nameless] {
        for from in 0..4 {
            cluster.machines[0].from_shard(cluster.now, ShardId(from), bytes);
        }
    }
    let (alice, bob) = cluster.apart();
    cluster.subscribe(alice, "a", Q0);
    cluster.settle();
    for client in [alice, bob] {
        let mut packet = publish("a", "x", Q0);
        packet.retain = true;
        cluster.send(client, &Packet::Publish(packet));
        cluster.settle();
        assert_eq!(cluster.packets(alice).pop().unwrap(), "a: x");
    }
}
