//! In flight and queued: what a session gets, and when, is what a list of messages gives.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::broker::{Origin, Queued};
use culex_core::config::Overflow;
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, ConnectionId, Message, Stack};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::VecDeque;
use std::num::NonZeroU16;

/// What happens to the session.
#[derive(Debug, Clone)]
enum Step {
    /// A message of this QoS with so many bytes.
    Publish(QoS, usize),
    /// The next acknowledgement for one of those that it has got; whether it refuses the message.
    Acknowledge(Index, bool),
    Cut,
    /// With this Receive Maximum.
    Connect(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Unsent,
    Sent,
    Released,
}

#[derive(Debug)]
struct Flight {
    number: usize,
    qos: QoS,
    progress: Progress,
    packet_id: Option<PacketId>,
}

/// The session as the standard has it.
struct Model {
    config: Config,
    receive_maximum: usize,
    online: bool,
    flights: Vec<Flight>,
    /// Number, QoS and bytes.
    queue: VecDeque<(usize, QoS, u64)>,
    /// Messages to be sent by the last step, and whether they are repeated.
    expected: Vec<(usize, bool)>,
}

impl Model {
    fn most(&self) -> usize {
        self.receive_maximum.min(self.config.in_flight_max.into())
    }

    fn unsent(&self) -> usize {
        self.flights.iter().filter(|flight| flight.progress == Progress::Unsent).count()
    }

    fn publish(&mut self, number: usize, qos: QoS, bytes: u64) {
        self.enqueue(number, qos, bytes);
        let last = self.queue.len().checked_sub(1);
        let alone = last == Some(0) && self.queue[0].0 == number;
        let at_once = self.online && self.unsent() == 0 && self.flights.len() < self.most();
        assert!(!at_once || self.queue.is_empty() || alone, "it waits for nothing");
        if at_once && alone {
            self.fill();
        }
    }

    /// Into the queue, if there is room or can be made. What can be sent at once needs none.
    fn enqueue(&mut self, number: usize, qos: QoS, bytes: u64) {
        let at_once = self.online && self.unsent() == 0 && self.flights.len() < self.most();
        if at_once && self.queue.is_empty() {
            return self.queue.push_back((number, qos, bytes));
        }
        let (most, bytes_max) = (self.config.queue_messages_max as usize, self.config.queue_bytes_max);
        let fits = |queue: &VecDeque<(usize, QoS, u64)>| {
            let sum: u64 = queue.iter().map(|(.., bytes)| bytes).sum();
            queue.len() < most && sum + bytes <= bytes_max
        };
        while !fits(&self.queue) {
            let drop_oldest = self.config.queue_overflow == Overflow::DropOldest && bytes <= bytes_max;
            if !drop_oldest || self.queue.pop_front().is_none() {
                return;
            }
        }
        self.queue.push_back((number, qos, bytes));
    }

    /// Sends what there is room for: first again what was sent before, in that order [MQTT-4.6.0-1].
    fn fill(&mut self) {
        let most = self.most();
        while self.unsent() > 0 && self.flights.len() - self.unsent() < most {
            let again = self.flights.iter_mut().find(|flight| flight.progress == Progress::Unsent).unwrap();
            again.progress = Progress::Sent;
            self.expected.push((again.number, true));
        }
        while self.unsent() == 0
            && self.flights.len() < most
            && let Some((number, qos, _)) = self.queue.pop_front()
        {
            self.flights.push(Flight { number, qos, progress: Progress::Sent, packet_id: None });
            self.expected.push((number, false));
        }
    }

    /// What the client got is what was expected, under identifiers that nobody else has.
    fn check(&mut self, output: &[u8]) -> Vec<PacketId> {
        let mut pubrels = Vec::new();
        let mut got = Vec::new();
        for packet in decode(output, Version::V5) {
            match packet {
                Packet::Publish(publish) => {
                    let text = std::str::from_utf8(&publish.payload).unwrap();
                    let number: usize = text.trim_end_matches('.').parse().unwrap();
                    got.push((number, publish.dup));
                    let used =
                        |flight: &Flight| flight.packet_id == publish.packet_id && flight.number != number;
                    assert!(!self.flights.iter().any(used), "[MQTT-2.2.1-4] {publish:?}");
                    let flight = self.flights.iter_mut().find(|flight| flight.number == number).unwrap();
                    assert_eq!(flight.qos, publish.qos);
                    let first = *flight.packet_id.get_or_insert(publish.packet_id.unwrap());
                    assert_eq!(Some(first), publish.packet_id, "[MQTT-4.4.0-1]");
                }
                Packet::Pubrel(ack) => pubrels.push(ack.packet_id),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, std::mem::take(&mut self.expected));
        pubrels
    }
}

/// The machine beside the model.
struct Pair {
    bench: Bench,
    model: Model,
    connection: Option<ConnectionId>,
    published: usize,
}

impl Pair {
    fn new(config: Config) -> Self {
        let bench = Bench::with(config.clone(), Stack::standard());
        let model = Model {
            config,
            receive_maximum: 0,
            online: false,
            flights: Vec::new(),
            queue: VecDeque::new(),
            expected: Vec::new(),
        };
        let mut pair = Self { bench, model, connection: None, published: 0 };
        pair.connect(10);
        let all = SubscriptionOptions::new(QoS::ExactlyOnce);
        pair.bench.subscribe_all(pair.connection.unwrap(), &[("t", all)]);
        pair.bench.output(pair.connection.unwrap());
        pair
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish(qos, length) => self.publish(*qos, *length),
            Step::Acknowledge(at, refuse) => self.acknowledge(*at, *refuse),
            Step::Cut => self.cut(),
            Step::Connect(receive_maximum) => {
                self.cut();
                self.connect(*receive_maximum);
            }
        }
    }

    fn publish(&mut self, qos: QoS, length: usize) {
        let payload = format!("{}{}", self.published, ".".repeat(length));
        let message = Message::new("t", payload.as_bytes(), qos, false).unwrap();
        let bytes = (message.size() + size_of::<Queued>()) as u64;
        self.model.publish(self.published, qos, bytes);
        self.published += 1;
        self.bench.broker.publish(self.bench.now, message, Origin::Program).unwrap();
        self.bench.drain();
        assert!(self.check().is_empty());
    }

    fn check(&mut self) -> Vec<PacketId> {
        let output = self.connection.map(|id| self.bench.output(id)).unwrap_or_default();
        self.model.check(&output)
    }

    fn cut(&mut self) {
        if let Some(id) = self.connection.take() {
            self.bench.cut(id);
            self.model.online = false;
        }
    }

    fn connect(&mut self, receive_maximum: u16) {
        let properties = properties(&[
            Property::SessionExpiryInterval(u32::MAX),
            Property::ReceiveMaximum(NonZeroU16::new(receive_maximum).unwrap()),
        ]);
        let packet = Connect { clean_start: false, properties, ..connect(Version::V5, "session") };
        let (id, _) = self.bench.connect_with(&packet);
        self.connection = Some(id);
        self.model.online = true;
        self.model.receive_maximum = receive_maximum.into();
        for flight in &mut self.model.flights {
            if flight.progress == Progress::Sent {
                flight.progress = Progress::Unsent;
            }
        }
        self.model.fill();
        let pubrels = self.check();
        let released = self.model.flights.iter().filter(|flight| flight.progress == Progress::Released);
        assert!(released.map(|flight| flight.packet_id.unwrap()).eq(pubrels), "[MQTT-4.4.0-1]");
    }

    fn acknowledge(&mut self, at: Index, refuse: bool) {
        let flights = &mut self.model.flights;
        let there: Vec<_> =
            (0..flights.len()).filter(|at| flights[*at].progress != Progress::Unsent).collect();
        let (Some(id), false) = (self.connection, there.is_empty()) else { return };
        let at = there[at.index(there.len())];
        let reason = if refuse { ReasonCode::UnspecifiedError } else { ReasonCode::Success };
        let packet_id = flights[at].packet_id.unwrap();
        let ack = Ack { reason, ..Ack::success(packet_id) };
        let (packet, done) = match (flights[at].qos, flights[at].progress) {
            (QoS::AtLeastOnce, _) => (Packet::Puback(ack), true),
            (_, Progress::Released) => (Packet::Pubcomp(Ack::success(packet_id)), true),
            (..) => (Packet::Pubrec(ack), refuse),
        };
        if done {
            flights.remove(at);
            self.model.fill();
        } else {
            flights[at].progress = Progress::Released;
        }
        self.bench.send(id, &packet);
        let pubrels = self.check();
        assert_eq!(pubrels, if done { vec![] } else { vec![packet_id] });
    }
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop::sample::select(vec![QoS::AtLeastOnce, QoS::ExactlyOnce]);
    prop_oneof![
        6 => (qos, 0usize..60).prop_map(|(qos, length)| Step::Publish(qos, length)),
        6 => (any::<Index>(), prop::bool::weighted(0.2)).prop_map(|(at, refuse)| Step::Acknowledge(at, refuse)),
        1 => Just(Step::Cut),
        1 => (1u16..6).prop_map(Step::Connect),
    ]
}

fn narrow() -> impl Strategy<Value = Config> {
    let overflow = prop::sample::select(vec![Overflow::DropOldest, Overflow::DropNewest]);
    (1u16..5, 0u32..6, 0u64..1_000, overflow).prop_map(|(in_flight_max, messages, bytes, queue_overflow)| {
        Config {
            in_flight_max,
            queue_messages_max: messages,
            queue_bytes_max: bytes,
            queue_overflow,
            ..Config::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_session_gets_what_a_list_of_messages_gives(
        first in any::<Index>(),
        config in narrow(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        // [MQTT-3.3.4-9], [MQTT-4.4.0-1], [MQTT-4.6.0-1]
        let mut pair = Pair::new(config);
        for step in &steps {
            pair.step(step);
        }
        // Whatever is left arrives in the end, and then there is nothing.
        pair.step(&Step::Connect(3));
        while !pair.model.flights.is_empty() {
            pair.acknowledge(first, false);
        }
        assert!(pair.model.queue.is_empty());
    }
}
