//! A machine on the bench: driven by hand, without sockets and without waiting. And what every engine of a
//! [`store`](crate::store) must do: [`store_suite`].
//!
//! ```
//! use culex_core::packet::{QoS, Version};
//! use culex_core::testing::Bench;
//!
//! let mut bench = Bench::new();
//! let alice = bench.connect(Version::V5, "alice");
//! let bob = bench.connect(Version::V311, "bob");
//! bench.subscribe(alice, "a/+", QoS::AtMostOnce);
//! bench.publish(bob, "a/b", "hello", QoS::AtMostOnce);
//! assert_eq!(bench.messages(alice), ["a/b: hello"]);
//! ```

mod store;

pub use crate::store::{Failing, MemoryError, MemorySnapshot, MemoryStore};
pub use store::{Place, store_suite};

use crate::broker::{Action, Answer, Broker, Close, Disconnect, Fetch, Forward, Notice, Peer, Query, Record};
use crate::config::Config;
use crate::hash::Seed;
use crate::id::{ConnectionId, Id, LogSeq, Ticket};
use crate::middleware::Stack;
use crate::packet::{
    Ack, Connect, Disconnect as DisconnectPacket, Framed, Packet, PacketId, PacketType, Properties,
    PropertiesBuf, Property, Publish, QoS, ReasonCode, Subscribe, SubscribeFiltersBuf, SubscriptionOptions,
    Unsubscribe, UnsubscribeFiltersBuf, Version, Will, frame,
};
use crate::time::{Mono, Now, Wall};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A machine, its clock, and everything that came out of it.
#[derive(Debug)]
pub struct Bench {
    /// The machine.
    pub broker: Broker,
    /// The time that is passed with every input.
    pub now: Now,
    /// What the next connections say about where they come from.
    pub peer: Peer,
    /// Questions that were asked and not yet taken.
    pub asks: Vec<(Ticket, Query)>,
    /// Questions that were withdrawn.
    pub forgotten: Vec<Ticket>,
    /// Records to store.
    pub stores: Vec<(LogSeq, Record)>,
    /// Messages of queues to read back, and how many records were stored before.
    pub fetches: Vec<(usize, Fetch)>,
    /// Deliveries to receivers that are not here.
    pub forwards: Vec<Forward>,
    /// Notices.
    pub notices: Vec<Notice>,
    /// Connections the machine wants closed, in order.
    pub closes: Vec<(ConnectionId, Close)>,
    /// Connections that may be read again.
    pub credits: Vec<ConnectionId>,
    /// Actions that fell through although nobody outside can perform them.
    pub stray: Vec<Action>,
    outputs: BTreeMap<(u32, u32), Vec<u8>>,
    versions: BTreeMap<(u32, u32), Version>,
    /// Connections whose sockets take no output.
    clogged: Vec<ConnectionId>,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

/// A CONNECT to send: MQTT 5.0 or 3.x, clean start, no keep alive, no will.
#[must_use]
pub fn connect(version: Version, client_id: &str) -> Connect<'_> {
    Connect {
        version,
        clean_start: true,
        keep_alive: 0,
        client_id,
        properties: Properties::EMPTY,
        will: None,
        user_name: None,
        password: None,
        bridge: false,
    }
}

/// A will to put into a CONNECT.
#[must_use]
pub fn will<'a>(topic: &'a str, payload: &'a [u8]) -> Will<'a> {
    Will { topic, payload, qos: QoS::AtMostOnce, retain: false, properties: Properties::EMPTY }
}

/// A PUBLISH to send; its Packet Identifier is 1 where it needs one.
#[must_use]
pub fn publish<'a>(topic: &'a str, payload: &'a str, qos: QoS) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: topic.into(),
        packet_id: (qos > QoS::AtMostOnce).then(|| id(1)),
        properties: Properties::EMPTY,
        payload: payload.as_bytes().into(),
    }
}

/// A Packet Identifier; 0 becomes 1.
#[must_use]
pub fn id(number: u16) -> PacketId {
    PacketId::new(number.max(1)).unwrap_or(PacketId::MIN)
}

/// A PUBLISH to send that is to be retained.
#[must_use]
pub fn retained<'a>(topic: &'a str, payload: &'a str, qos: QoS) -> Packet<'a> {
    Packet::Publish(Publish { retain: true, ..publish(topic, payload, qos) })
}

/// Properties to put into a packet.
#[must_use]
pub fn properties(list: &[Property<'_>]) -> Properties<'static> {
    let mut properties = PropertiesBuf::new();
    for property in list {
        properties.push(*property);
    }
    Properties::from_buf(properties)
}

/// A DISCONNECT to send.
#[must_use]
pub fn disconnect(reason: ReasonCode, list: &[Property<'_>]) -> Packet<'static> {
    Packet::Disconnect(DisconnectPacket { reason, properties: properties(list) })
}

/// A SUBSCRIBE of several filters; its Packet Identifier is 777.
///
/// # Panics
/// If a filter does not fit.
#[must_use]
#[allow(clippy::expect_used)]
pub fn subscribe_filters(filters: &[(&str, SubscriptionOptions)]) -> SubscribeFiltersBuf {
    let mut buf = SubscribeFiltersBuf::new();
    for (filter, options) in filters {
        buf.push(filter, *options).expect("it fits");
    }
    buf
}

fn key(id: ConnectionId) -> (u32, u32) {
    (id.index(), id.generation())
}

impl Bench {
    /// The standard chain with default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Config::default(), Stack::standard())
    }

    /// A machine with settings and a chain.
    #[must_use]
    pub fn with(config: Config, stack: Stack) -> Self {
        Self::at(config, stack, Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) })
    }

    /// A machine that starts at this time.
    #[must_use]
    pub fn at(config: Config, stack: Stack, now: Now) -> Self {
        Self {
            broker: Broker::new(Arc::new(config), stack, Seed(1), now),
            now,
            asks: Vec::new(),
            forgotten: Vec::new(),
            stores: Vec::new(),
            fetches: Vec::new(),
            forwards: Vec::new(),
            notices: Vec::new(),
            closes: Vec::new(),
            credits: Vec::new(),
            stray: Vec::new(),
            outputs: BTreeMap::new(),
            versions: BTreeMap::new(),
            clogged: Vec::new(),
            peer: Peer::default(),
        }
    }

    /// Takes everything that came out.
    pub fn drain(&mut self) {
        loop {
            while let Some(action) = self.broker.poll_action() {
                match action {
                    Action::Ask { ticket, query } => self.asks.push((ticket, *query)),
                    Action::Forget { ticket } => self.forgotten.push(ticket),
                    Action::Store { seq, record } => self.stores.push((seq, *record)),
                    Action::Fetch(fetch) => self.fetches.push((self.stores.len(), *fetch)),
                    Action::Forward(forward) => self.forwards.push(forward),
                    Action::Notice(notice) => self.notices.push(*notice),
                    Action::Close { id, how } => self.closes.push((id, how)),
                    Action::Credit { id } => self.credits.push(id),
                    other => self.stray.push(other),
                }
            }
            let Some(transmit) = self.broker.poll_transmit() else { return };
            let id = transmit.id();
            if self.clogged.contains(&id) {
                transmit.written(0);
                continue;
            }
            let output = self.outputs.entry(key(id)).or_default();
            let before = output.len();
            transmit.chunks().for_each(|chunk| output.extend_from_slice(chunk));
            let written = output.len() - before;
            transmit.written(written);
        }
    }

    /// A connection that has sent nothing.
    ///
    /// # Panics
    /// If it is refused.
    #[allow(clippy::expect_used)]
    pub fn accept(&mut self) -> ConnectionId {
        let id = self.broker.accept(self.now, self.peer.clone()).expect("accepted");
        self.drain();
        id
    }

    /// A client of this name, connected with Clean Start.
    ///
    /// # Panics
    /// If its CONNACK does not say success.
    pub fn connect(&mut self, version: Version, client_id: &str) -> ConnectionId {
        self.connect_with(&connect(version, client_id)).0
    }

    /// A client that connects as it wishes, and Session Present.
    ///
    /// # Panics
    /// If its CONNACK does not say success.
    pub fn connect_with(&mut self, packet: &Connect<'_>) -> (ConnectionId, bool) {
        let id = self.accept();
        self.send(id, &Packet::Connect(packet.clone()));
        let output = self.output(id);
        let present = match decode(&output, packet.version).first() {
            Some(Packet::Connack(connack)) if !connack.reason.is_error() => connack.session_present,
            other => panic!("no CONNACK with success but {other:?}"),
        };
        // What a resumed session sends behind CONNACK is kept.
        let Ok(Framed::Whole { length, .. }) = frame(&output, u32::MAX) else { return (id, present) };
        self.outputs.entry(key(id)).or_default().extend_from_slice(&output[length..]);
        (id, present)
    }

    /// Feeds bytes of a connection.
    pub fn bytes(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.broker.receive(self.now, id, bytes);
        self.drain();
    }

    /// Sends a packet; the version of a connection is that of its CONNECT.
    ///
    /// # Panics
    /// If it is too large to be encoded.
    #[allow(clippy::expect_used)]
    pub fn send(&mut self, id: ConnectionId, packet: &Packet<'_>) {
        if let Packet::Connect(connect) = packet {
            self.versions.insert(key(id), connect.version);
        }
        let mut bytes = Vec::new();
        packet.encode(self.version(id), &mut bytes).expect("it fits");
        self.bytes(id, &bytes);
    }

    fn version(&self, id: ConnectionId) -> Version {
        self.versions.get(&key(id)).copied().unwrap_or(Version::V311)
    }

    /// Subscribes to one filter, and takes its SUBACK.
    ///
    /// # Panics
    /// If there is none, or it refuses.
    pub fn subscribe(&mut self, id: ConnectionId, filter: &str, qos: QoS) {
        self.subscribe_with(id, filter, SubscriptionOptions::new(qos), &PropertiesBuf::default());
    }

    /// Subscribes to one filter with options and properties, and takes its SUBACK.
    ///
    /// # Panics
    /// If there is none, or it refuses.
    #[allow(clippy::expect_used)]
    pub fn subscribe_with(
        &mut self,
        id: ConnectionId,
        filter: &str,
        options: SubscriptionOptions,
        properties: &PropertiesBuf,
    ) {
        let mut filters = SubscribeFiltersBuf::new();
        filters.push(filter, options).expect("it fits");
        let packet = Subscribe {
            packet_id: self::id(777),
            properties: properties.as_properties(),
            filters: filters.as_filters(),
        };
        self.send(id, &Packet::Subscribe(packet));
        let output = self.output(id);
        match decode(&output, self.version(id)).first() {
            Some(Packet::Suback(suback)) => assert!(suback.reasons[0] < 0x80, "{filter} was refused"),
            other => panic!("no SUBACK but {other:?}"),
        }
        let Ok(Framed::Whole { length, .. }) = frame(&output, u32::MAX) else { return };
        self.outputs.entry(key(id)).or_default().extend_from_slice(&output[length..]);
    }

    /// Unsubscribes from one filter.
    ///
    /// # Panics
    /// If it does not fit.
    #[allow(clippy::expect_used)]
    pub fn unsubscribe(&mut self, id: ConnectionId, filter: &str) {
        let mut filters = UnsubscribeFiltersBuf::new();
        filters.push(filter).expect("it fits");
        let packet = Unsubscribe {
            packet_id: self::id(778),
            properties: Properties::EMPTY,
            filters: filters.as_filters(),
        };
        self.send(id, &Packet::Unsubscribe(packet));
    }

    /// Publishes; what the QoS asks for is answered at once by the next [`handshake`](Self::handshake).
    pub fn publish(&mut self, id: ConnectionId, topic: &str, payload: &str, qos: QoS) {
        self.send(id, &Packet::Publish(publish(topic, payload, qos)));
    }

    /// Sends an acknowledgement of success.
    pub fn acknowledge(&mut self, to: ConnectionId, packet: PacketType, packet_id: u16) {
        let ack = Ack::success(self::id(packet_id));
        self.send(
            to,
            &match packet {
                PacketType::Pubrec => Packet::Pubrec(ack),
                PacketType::Pubrel => Packet::Pubrel(ack),
                PacketType::Pubcomp => Packet::Pubcomp(ack),
                _ => Packet::Puback(ack),
            },
        );
    }

    /// Plays a well-behaved client: acknowledges everything it gets, until there is nothing more to say. Returns the
    /// messages it got, as [`messages`](Self::messages) does.
    pub fn handshake(&mut self, id: ConnectionId) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            let output = self.output(id);
            let packets = decode(&output, self.version(id));
            let mut answers = Vec::new();
            for packet in &packets {
                match packet {
                    Packet::Publish(publish) => {
                        messages.push(describe(publish));
                        match (publish.qos, publish.packet_id) {
                            (QoS::AtLeastOnce, Some(id)) => answers.push(Packet::Puback(Ack::success(id))),
                            (QoS::ExactlyOnce, Some(id)) => answers.push(Packet::Pubrec(Ack::success(id))),
                            _ => {}
                        }
                    }
                    Packet::Pubrec(ack) if !ack.reason.is_error() => {
                        answers.push(Packet::Pubrel(Ack::success(ack.packet_id)));
                    }
                    Packet::Pubrel(ack) => answers.push(Packet::Pubcomp(Ack::success(ack.packet_id))),
                    _ => {}
                }
            }
            if answers.is_empty() {
                return messages;
            }
            answers.iter().for_each(|answer| self.send(id, answer));
        }
    }

    /// Answers the oldest question.
    ///
    /// # Panics
    /// If there is none.
    pub fn answer(&mut self, answer: Answer) {
        let (ticket, _) = self.asks.remove(0);
        self.broker.complete(self.now, ticket, answer);
        self.drain();
    }

    /// Lets time pass, deadline by deadline.
    pub fn pass_ms(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while let Some(at) = self.broker.deadline().filter(|at| *at <= end.mono) {
            let step = at.since(self.now.mono).div_ceil(1_000_000);
            self.now = self.now.plus_ms(step);
            self.broker.tick(self.now);
            self.drain();
        }
        self.now = end;
        self.broker.tick(self.now);
        self.drain();
    }

    /// A connection breaks without a word.
    pub fn cut(&mut self, id: ConnectionId) {
        self.broker.disconnected(self.now, id, Disconnect::Error);
        self.drain();
    }

    /// The socket of a connection takes no more output, or takes it again.
    pub fn clog(&mut self, id: ConnectionId, clogged: bool) {
        self.clogged.retain(|other| *other != id);
        if clogged {
            self.clogged.push(id);
        } else {
            self.broker.writable(id);
        }
        self.drain();
    }

    /// Takes the bytes a connection got.
    pub fn output(&mut self, id: ConnectionId) -> Vec<u8> {
        self.outputs.remove(&key(id)).unwrap_or_default()
    }

    /// Takes what a connection got, as one line per packet.
    pub fn packets(&mut self, id: ConnectionId) -> Vec<String> {
        let output = self.output(id);
        decode(&output, self.version(id)).iter().map(|packet| format!("{packet:?}")).collect()
    }

    /// Takes what a connection got, as one short line per packet: its name, its reason codes in hexadecimal, its
    /// Packet Identifier behind `#`, its properties as they are.
    ///
    /// ```
    /// use culex_core::packet::{QoS, Version};
    /// use culex_core::testing::Bench;
    ///
    /// let mut bench = Bench::new();
    /// let alice = bench.connect(Version::V5, "alice");
    /// bench.subscribe(alice, "t", QoS::AtLeastOnce);
    /// bench.publish(alice, "t", "hello", QoS::AtLeastOnce);
    /// assert_eq!(bench.lines(alice), ["PUBLISH q1 #1 t: hello", "PUBACK 00 #1"]);
    /// ```
    pub fn lines(&mut self, id: ConnectionId) -> Vec<String> {
        let output = self.output(id);
        decode(&output, self.version(id)).iter().map(line).collect()
    }

    /// Sends a CONNECT on a new connection, whatever comes of it.
    pub fn try_connect(&mut self, packet: &Connect<'_>) -> ConnectionId {
        let id = self.accept();
        self.send(id, &Packet::Connect(packet.clone()));
        id
    }

    /// Subscribes to several filters at once and leaves its SUBACK to be taken.
    pub fn subscribe_all(&mut self, id: ConnectionId, filters: &[(&str, SubscriptionOptions)]) {
        let filters = subscribe_filters(filters);
        let packet_id = self::id(777);
        let packet = Subscribe { packet_id, properties: Properties::EMPTY, filters: filters.as_filters() };
        self.send(id, &Packet::Subscribe(packet));
    }

    /// Publishes with an identifier of one's own.
    pub fn publish_as(&mut self, id: ConnectionId, packet_id: u16, topic: &str, payload: &str, qos: QoS) {
        let packet_id = (qos > QoS::AtMostOnce).then(|| self::id(packet_id));
        self.send(id, &Packet::Publish(Publish { packet_id, ..publish(topic, payload, qos) }));
    }

    /// Sends DISCONNECT and closes, as a client does that leaves in peace.
    pub fn leave(&mut self, id: ConnectionId) {
        self.send(id, &disconnect(ReasonCode::Success, &[]));
        self.broker.disconnected(self.now, id, Disconnect::Eof);
        self.drain();
    }

    /// Takes the messages a connection got as `topic: payload`; other packets are dropped.
    pub fn messages(&mut self, id: ConnectionId) -> Vec<String> {
        let output = self.output(id);
        let packets = decode(&output, self.version(id));
        let publishes = packets.iter().filter_map(|packet| match packet {
            Packet::Publish(publish) => Some(describe(publish)),
            _ => None,
        });
        publishes.collect()
    }

    /// Whether the machine asked to close a connection.
    #[must_use]
    pub fn closed(&self, id: ConnectionId) -> bool {
        self.closes.iter().any(|(closed, _)| *closed == id)
    }
}

/// All packets in some bytes.
///
/// # Panics
/// If they are not whole packets of this version.
#[must_use]
pub fn decode(bytes: &[u8], version: Version) -> Vec<Packet<'_>> {
    let (mut packets, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        match frame(rest, u32::MAX) {
            Ok(Framed::Whole { frame, length }) => {
                match Packet::decode(&frame, version) {
                    Ok(packet) => packets.push(packet),
                    Err(violation) => panic!("{violation}: {rest:02x?}"),
                }
                rest = &rest[length..];
            }
            other => panic!("{other:?}: {rest:02x?}"),
        }
    }
    packets
}

fn describe(publish: &Publish<'_>) -> String {
    format!("{}: {}", publish.topic, String::from_utf8_lossy(&publish.payload))
}

fn line(packet: &Packet<'_>) -> String {
    let with = |text: String, properties: &Properties<'_>| match properties.is_empty() {
        true => text,
        false => format!("{text} {properties:?}"),
    };
    let ack = |name: &str, ack: &Ack<'_>| {
        with(format!("{name} {:02X} #{}", ack.reason as u8, ack.packet_id), &ack.properties)
    };
    match packet {
        Packet::Connack(connack) => {
            let present = if connack.session_present { " present" } else { "" };
            with(format!("CONNACK {:02X}{present}", connack.reason as u8), &connack.properties)
        }
        Packet::Publish(publish) => {
            let packet_id = publish.packet_id.map(|packet_id| format!(" #{packet_id}")).unwrap_or_default();
            let dup = if publish.dup { " dup" } else { "" };
            let retain = if publish.retain { " retain" } else { "" };
            let text =
                format!("PUBLISH q{}{packet_id}{dup}{retain} {}", publish.qos as u8, describe(publish));
            with(text, &publish.properties)
        }
        Packet::Puback(packet) => ack("PUBACK", packet),
        Packet::Pubrec(packet) => ack("PUBREC", packet),
        Packet::Pubrel(packet) => ack("PUBREL", packet),
        Packet::Pubcomp(packet) => ack("PUBCOMP", packet),
        Packet::Suback(suback) => format!("SUBACK {:02X?} #{}", suback.reasons, suback.packet_id),
        Packet::Unsuback(unsuback) => format!("UNSUBACK {:02X?} #{}", unsuback.reasons, unsuback.packet_id),
        Packet::Pingresp => "PINGRESP".into(),
        Packet::Disconnect(disconnect) => {
            with(format!("DISCONNECT {:02X}", disconnect.reason as u8), &disconnect.properties)
        }
        other => format!("{other:?}"),
    }
}
