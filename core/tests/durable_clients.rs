//! What clients get from a durable machine that crashes: QoS 1 at least once, QoS 2 exactly once, in order.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, ConnectionId, LogSeq, Record, Stack};
use proptest::prelude::*;
use std::collections::BTreeSet;

const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

/// A client as the standard wants it, with a session that lasts, over connections and crashes of the server.
#[derive(Debug)]
struct Client {
    name: &'static str,
    connection: Option<ConnectionId>,
    /// It was told that it is connected, now; and ever.
    connected: bool,
    established: bool,
    subscribed: bool,
    /// What it publishes and was not acknowledged: identifier, QoS, payload, whether PUBREC came.
    sending: Vec<(u16, QoS, u32, bool)>,
    packet_ids: u16,
    /// The identifiers of QoS 2 messages it has.
    holding: BTreeSet<u16>,
    got: Vec<(QoS, u32)>,
}

impl Client {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            connection: None,
            connected: false,
            established: false,
            subscribed: false,
            sending: Vec::new(),
            packet_ids: 0,
            holding: BTreeSet::new(),
            got: Vec::new(),
        }
    }

    fn connect(&mut self, bench: &mut Bench, maximum: u16) {
        let maximum = std::num::NonZeroU16::new(maximum).unwrap();
        let list = [Property::SessionExpiryInterval(u32::MAX), Property::ReceiveMaximum(maximum)];
        let properties = properties(&list);
        let connect = Connect { clean_start: false, properties, ..connect(Version::V5, self.name) };
        self.connection = Some(bench.try_connect(&connect));
        self.connected = false;
    }

    fn publish(&mut self, bench: &mut Bench, qos: QoS, payload: u32) {
        if self.connected && self.sending.len() < 8 {
            self.packet_ids = self.packet_ids % 20 + 1;
            while self.sending.iter().any(|(id, ..)| *id == self.packet_ids) {
                self.packet_ids = self.packet_ids % 20 + 1;
            }
            self.sending.push((self.packet_ids, qos, payload, false));
            self.send(bench, self.sending.len() - 1, false);
        }
    }

    fn send(&self, bench: &mut Bench, at: usize, dup: bool) {
        let (Some(to), (packet_id, qos, payload, released)) = (self.connection, self.sending[at]) else {
            return;
        };
        if released {
            return bench.acknowledge(to, PacketType::Pubrel, packet_id);
        }
        let packet_id = Some(id(packet_id));
        let payload = payload.to_string();
        bench.send(to, &Packet::Publish(Publish { dup, packet_id, ..publish("t", &payload, qos) }));
    }

    /// Reads what came, and answers.
    fn read(&mut self, bench: &mut Bench, filter: Option<QoS>) {
        let Some(from) = self.connection else { return };
        let output = bench.output(from);
        for packet in decode(&output, Version::V5) {
            self.take(bench, from, &packet, filter);
        }
    }

    fn take(&mut self, bench: &mut Bench, from: ConnectionId, packet: &Packet<'_>, filter: Option<QoS>) {
        match packet {
            // An earlier connection of its own, which it gave up, was served after this one.
            Packet::Connack(connack) if connack.reason.is_error() => drop(self.lose()),
            Packet::Disconnect(disconnect) => {
                assert_eq!(disconnect.reason, ReasonCode::SessionTakenOver);
                self.lose();
            }
            Packet::Connack(connack) => {
                assert_eq!(connack.session_present, self.established || connack.session_present);
                (self.connected, self.established) = (true, true);
                for at in 0..self.sending.len() {
                    self.send(bench, at, true);
                }
                if let (false, Some(qos)) = (self.subscribed, filter) {
                    bench.subscribe_all(from, &[("t", SubscriptionOptions::new(qos))]);
                }
            }
            Packet::Suback(_) => self.subscribed = true,
            Packet::Puback(ack) => {
                self.sending.retain(|(id, qos, ..)| *id != ack.packet_id.get() || *qos != Q1)
            }
            Packet::Pubrec(ack) => {
                let is_it = |(id, ..): &&mut (u16, QoS, u32, bool)| *id == ack.packet_id.get();
                if let Some(sending) = self.sending.iter_mut().find(is_it) {
                    sending.3 = true;
                    bench.acknowledge(from, PacketType::Pubrel, ack.packet_id.get());
                }
            }
            Packet::Pubcomp(ack) => self.sending.retain(|(id, ..)| *id != ack.packet_id.get()),
            Packet::Publish(publish) => {
                let payload = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                let packet_id = publish.packet_id.map_or(0, PacketId::get);
                match publish.qos {
                    Q1 => {
                        self.got.push((Q1, payload));
                        bench.acknowledge(from, PacketType::Puback, packet_id);
                    }
                    _ => {
                        if self.holding.insert(packet_id) {
                            self.got.push((Q2, payload));
                        }
                        bench.acknowledge(from, PacketType::Pubrec, packet_id);
                    }
                }
            }
            Packet::Pubrel(ack) => {
                self.holding.remove(&ack.packet_id.get());
                bench.acknowledge(from, PacketType::Pubcomp, ack.packet_id.get());
            }
            other => panic!("{other:?}"),
        }
    }

    fn lose(&mut self) -> Option<ConnectionId> {
        self.connected = false;
        self.connection.take()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish { qos: QoS },
    Read { client: usize },
    Cut { client: usize, reads: bool },
    Connect { client: usize, maximum: u16 },
    Commit { records: usize },
    Pass,
    Crash { lost: usize, reads: [bool; 3] },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::sample::select(vec![Q1, Q2]).prop_map(|qos| Step::Publish { qos }),
        8 => (0..3usize).prop_map(|client| Step::Read { client }),
        2 => (0..3usize, any::<bool>()).prop_map(|(client, reads)| Step::Cut { client, reads }),
        3 => (0..3usize, prop::sample::select(vec![1u16, 2, 100]))
            .prop_map(|(client, maximum)| Step::Connect { client, maximum }),
        8 => (1..6usize).prop_map(|records| Step::Commit { records }),
        1 => Just(Step::Pass),
        2 => (any::<usize>(), any::<[bool; 3]>()).prop_map(|(lost, reads)| Step::Crash { lost, reads }),
    ]
}

/// A publisher and two subscribers, of QoS 2 and of QoS 1, before a machine that crashes.
struct World {
    bench: Bench,
    config: Config,
    /// What the machines before this one left.
    log: Vec<Record>,
    committed: usize,
    clients: [Client; 3],
    published: Vec<(QoS, u32)>,
}

const FILTERS: [Option<QoS>; 3] = [None, Some(Q2), Some(Q1)];

impl World {
    fn new(config: Config) -> Self {
        let clients = ["publisher", "exactly", "at least"].map(Client::new);
        let bench = Bench::with(config.clone(), Stack::durable());
        let mut world = Self { bench, config, log: Vec::new(), committed: 0, clients, published: Vec::new() };
        world.settle();
        world
    }

    fn stored(&self) -> usize {
        self.log.len() + self.bench.stores.len()
    }

    fn commit(&mut self, records: usize) {
        self.committed = (self.committed + records).min(self.stored());
        self.bench.broker.committed(self.bench.now, LogSeq(self.committed as u64));
        self.bench.drain();
    }

    /// Everybody is connected, everything is committed and said.
    fn settle(&mut self) {
        for _ in 0..40 {
            for (client, filter) in self.clients.iter_mut().zip(FILTERS) {
                if client.connection.is_none_or(|id| self.bench.closed(id)) {
                    client.connect(&mut self.bench, 100);
                }
                client.read(&mut self.bench, filter);
            }
            self.commit(usize::MAX / 2);
        }
    }

    fn perform(&mut self, step: &Step) {
        match *step {
            Step::Publish { qos } => {
                let [publisher, ..] = &mut self.clients;
                let before = publisher.sending.len();
                let payload = self.published.len() as u32;
                publisher.publish(&mut self.bench, qos, payload);
                if publisher.sending.len() > before {
                    self.published.push((qos, payload));
                }
            }
            Step::Read { client } => self.clients[client].read(&mut self.bench, FILTERS[client]),
            Step::Cut { client, reads } => {
                if reads {
                    self.clients[client].read(&mut self.bench, FILTERS[client]);
                }
                if let Some(id) = self.clients[client].lose() {
                    self.bench.cut(id);
                }
            }
            Step::Connect { client, maximum } => self.clients[client].connect(&mut self.bench, maximum),
            Step::Commit { records } => self.commit(records),
            Step::Pass => self.bench.pass_ms(1_000),
            Step::Crash { lost, reads } => self.crash(lost, reads),
        }
    }

    /// Any part of what was not committed is lost; what was sent may have arrived.
    fn crash(&mut self, lost: usize, reads: [bool; 3]) {
        let left = self.stored() - lost % (self.stored() - self.committed + 1);
        for (n, reads) in reads.into_iter().enumerate() {
            if reads {
                // It reads, but what it answers does not arrive.
                let stores = self.bench.stores.len();
                self.clients[n].read(&mut self.bench, FILTERS[n]);
                self.bench.stores.truncate(stores);
            }
            self.clients[n].lose();
        }
        self.log.extend(std::mem::take(&mut self.bench.stores).into_iter().map(|(_, record)| record));
        self.log.truncate(left);
        self.committed = left;
        let now = self.bench.now.plus_ms(5);
        self.bench = Bench::at(self.config.clone(), Stack::durable(), now);
        self.bench.broker.restore(self.log.iter().cloned()).unwrap();
        self.bench.drain();
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let [publisher, exactly, least] = &self.clients;
        prop_assert!(publisher.sending.is_empty(), "{:?}", publisher.sending);
        for qos in [Q1, Q2] {
            let of = |list: &[(QoS, u32)]| -> Vec<u32> {
                list.iter().filter(|(q, _)| *q == qos).map(|(_, payload)| *payload).collect()
            };
            let published = of(&self.published);
            let mut got = of(&exactly.got);
            if qos == Q1 {
                got = firsts(got);
            }
            prop_assert_eq!(&got, &published, "exactly once, and in order");
        }
        // A subscription of QoS 1 gets all as QoS 1: the order is that of each QoS of the publisher.
        let got = firsts(least.got.iter().map(|(_, payload)| *payload).collect());
        for qos in [Q1, Q2] {
            let is_it = |payload: &&u32| self.published.contains(&(qos, **payload));
            let published = self.published.iter().filter(|(q, _)| *q == qos).map(|(_, payload)| payload);
            prop_assert!(got.iter().filter(is_it).eq(published), "{:?} of {:?}", got, self.published);
        }
        Ok(())
    }
}

fn firsts(list: Vec<u32>) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    list.into_iter().filter(|payload| seen.insert(*payload)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_messages_arrive_as_often_as_they_should(
        steps in prop::collection::vec(step(), 1..120),
        in_flight_max in prop::sample::select(vec![1u16, 2, 1_024]),
        actions_max in prop::sample::select(vec![2u32, 65_536]),
    ) {
        let mut world = World::new(Config { in_flight_max, actions_max, ..Config::default() });
        steps.iter().for_each(|step| world.perform(step));
        world.settle();
        world.check()?;
    }
}
