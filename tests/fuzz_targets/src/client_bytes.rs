//! Clients that say what clients say, but when and how they should not: well-formed packets in any order, now and then
//! with a byte changed. Nothing panics, and what comes back is what a client may expect, see `observer.rs`.

use crate::observer::Observer;
use crate::packets::with_packet;
use crate::script::Script;
use crate::world::{PEERS, World};
use culex_core::Disconnect as Cause;
use culex_core::packet::*;
use std::borrow::Cow;
use std::num::{NonZeroU16, NonZeroU32};

/// Target `client_bytes`: see the table in `fuzz/README.md`.
///
/// # Panics
/// If something that must hold does not.
pub fn client_bytes(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let kind = script.byte();
    let mut clients = Clients::new(World::new(kind), kind);
    clients.run(&mut script);
    clients.world.end();
}

pub(crate) const CLIENT_IDS: [&str; 4] = ["a", "b", "c", ""];
pub(crate) const TOPICS: [&str; 8] =
    ["t", "t/1", "t/2", "u/v/w", "$SYS/x", "/", "long/topic/that/wants/an/alias", "é"];
pub(crate) const FILTERS: [&str; 10] =
    ["#", "t", "t/+", "t/#", "+/v/#", "$share/g/t/#", "$share/h/#", "$SYS/#", "/+", "bad/#/filter"];
const PAYLOADS: [&[u8]; 4] = [b"", b"1", b"a payload", &[b'x'; 700]];

pub(crate) struct Clients {
    pub(crate) world: World,
    /// Clients read everything before they say something.
    orderly: bool,
    /// What the next packet gets: a byte at a place is changed.
    damage: Option<(u16, u8)>,
}

impl Clients {
    pub(crate) fn new(world: World, kind: u8) -> Self {
        Self { world, orderly: kind & 8 == 0, damage: None }
    }

    /// What they do, to the end of the script.
    pub(crate) fn run(&mut self, script: &mut Script<'_>) {
        while let Some(op) = script.next() {
            self.perform(op & 0x0F, usize::from(op >> 4) % PEERS, script);
        }
    }

    fn perform(&mut self, op: u8, at: usize, script: &mut Script<'_>) {
        match op {
            0 => {
                if self.world.observer(at).is_some() && script.byte() & 1 == 0 {
                    self.world.disconnect(at, Cause::Eof);
                }
                self.world.accept(at);
                self.connect(at, script);
            }
            1 | 2 => self.send(at, &publish(script)),
            3 => self.acknowledge(at, script),
            4 => self.handshake(at),
            5 => self.subscribe(at, script),
            6 => self.unsubscribe(at, script),
            7 => self.send(at, &rarely(script)),
            8 => {
                let version = self.version(at);
                let bytes = with_packet(script, version, |packet, _| encode(packet, version));
                self.receive(at, &bytes);
            }
            9 => self.damage = Some((script.u16(), script.byte())),
            10 => self.world.write(at, script.byte().into()),
            11 => self.world.disconnect(at, Cause::Eof),
            12 => self.world.pass_ms(1 << (script.byte() % 24)),
            13 => self.world.comes_back(script.byte()),
            14 => self.world.publish(script),
            _ => {
                self.world.writable(at);
                self.world.drain();
            }
        }
    }

    fn version(&mut self, at: usize) -> Version {
        self.world.observer(at).and_then(|observer| observer.version()).unwrap_or(Version::V5)
    }

    fn send(&mut self, at: usize, packet: &Packet<'_>) {
        let bytes = encode(packet, self.version(at));
        self.receive(at, &bytes);
    }

    fn receive(&mut self, at: usize, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        if let Some((place, xor)) = self.damage.take()
            && let Some(byte) =
                bytes.len().checked_sub(1).and_then(|most| bytes.get_mut(usize::from(place) % (most + 1)))
        {
            *byte ^= xor;
        }
        if self.orderly {
            self.world.drain();
        }
        let orderly = self.orderly;
        if let Some(observer) = self.world.observer(at) {
            observer.orderly = orderly;
        }
        self.world.receive(at, &bytes);
    }

    fn connect(&mut self, at: usize, script: &mut Script<'_>) {
        let version = script.pick(&[Version::V5, Version::V311, Version::V31]);
        let flags = script.byte();
        let mut properties = PropertiesBuf::new();
        if version == Version::V5 {
            let numbers = script.byte();
            let expiry = [0, 5, 1 << 20, u32::MAX][usize::from(numbers & 3)];
            properties.push(Property::SessionExpiryInterval(expiry));
            if let Some(most) = NonZeroU16::new(u16::from(numbers >> 2 & 3)) {
                properties.push(Property::ReceiveMaximum(most));
            }
            properties.push(Property::TopicAliasMaximum(u16::from(numbers >> 4 & 3)));
            if numbers & 0x40 != 0 {
                properties.push(Property::MaximumPacketSize(u32::from(script.byte()) + 1));
            }
            if numbers & 0x80 != 0 {
                properties.push(Property::AuthenticationMethod("SCRAM"));
                properties.push(Property::RequestProblemInformation(script.byte() & 1 != 0));
            }
        }
        let will = (flags & 1 != 0).then(|| {
            let mut properties = PropertiesBuf::new();
            if version == Version::V5 {
                properties.push(Property::WillDelayInterval(script.byte().into()));
            }
            Will {
                topic: script.pick(&TOPICS),
                payload: script.pick(&PAYLOADS),
                qos: qos(flags >> 1),
                retain: flags & 8 != 0,
                properties: Properties::from_buf(properties),
            }
        });
        let user_name = (flags & 16 != 0).then_some("user");
        let packet = Connect {
            version,
            clean_start: flags & 32 != 0,
            keep_alive: if flags & 64 != 0 { 10 } else { 0 },
            client_id: script.pick(&CLIENT_IDS),
            properties: Properties::from_buf(properties),
            will,
            user_name,
            password: user_name.map(|_| &b"password"[..]),
            bridge: flags & 128 != 0 && version != Version::V5,
        };
        self.send(at, &Packet::Connect(packet));
    }

    fn subscribe(&mut self, at: usize, script: &mut Script<'_>) {
        let packet_id = packet_id(script);
        let mut filters = SubscribeFiltersBuf::new();
        for _ in 0..=script.byte() % 3 {
            let (filter, options) = (script.pick(&FILTERS), script.byte());
            let options = SubscriptionOptions::from_byte(options, Version::V5).unwrap_or_default();
            // A shared one that is No Local cannot be said: then it is not.
            let _ = filters.push(filter, options);
        }
        if filters.as_filters().is_empty() {
            return;
        }
        let mut properties = PropertiesBuf::new();
        if let Some(identifier) = NonZeroU32::new(u32::from(script.byte() % 4)) {
            properties.push(Property::SubscriptionIdentifier(identifier));
        }
        let (properties, filters) = (Properties::from_buf(properties), filters.as_filters());
        self.send(at, &Packet::Subscribe(Subscribe { packet_id, properties, filters }));
    }

    fn unsubscribe(&mut self, at: usize, script: &mut Script<'_>) {
        let packet_id = packet_id(script);
        let mut filters = UnsubscribeFiltersBuf::new();
        for _ in 0..=script.byte() % 3 {
            let _ = filters.push(script.pick(&FILTERS));
        }
        let (properties, filters) = (Properties::EMPTY, filters.as_filters());
        self.send(at, &Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
    }

    /// Any acknowledgement of any message.
    fn acknowledge(&mut self, at: usize, script: &mut Script<'_>) {
        let ack = Ack { reason: ReasonCode::Success, ..Ack::success(packet_id(script)) };
        let kind = script.byte();
        let reason = if kind & 4 != 0 { ReasonCode::UnspecifiedError } else { ReasonCode::Success };
        let packet = match kind & 3 {
            0 => Packet::Puback(Ack { reason, ..ack }),
            1 => Packet::Pubrec(Ack { reason, ..ack }),
            2 => Packet::Pubrel(ack),
            _ => Packet::Pubcomp(ack),
        };
        self.send(at, &packet);
    }

    /// What a good client would say next about every message it has got.
    fn handshake(&mut self, at: usize) {
        let in_flight = |observer: &mut Observer| observer.in_flight.clone();
        for (id, (qos, released)) in self.world.observer(at).map(in_flight).unwrap_or_default() {
            let packet = match (qos, released) {
                (QoS::ExactlyOnce, false) => Packet::Pubrec(Ack::success(id)),
                (QoS::ExactlyOnce, true) => Packet::Pubcomp(Ack::success(id)),
                _ => Packet::Puback(Ack::success(id)),
            };
            self.send(at, &packet);
        }
    }
}

fn encode(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What is too large is not sent.
    let _ = packet.encode(version, &mut bytes);
    bytes
}

fn qos(bits: u8) -> QoS {
    QoS::from_bits(bits & 3).unwrap_or_default()
}

/// Few, so that they are used twice.
fn packet_id(script: &mut Script<'_>) -> PacketId {
    PacketId::new(u16::from(script.byte() % 5)).unwrap_or(PacketId::MAX)
}

fn publish(script: &mut Script<'_>) -> Packet<'static> {
    let flags = script.byte();
    let qos = qos(flags);
    let mut properties = PropertiesBuf::new();
    if flags & 0x20 != 0 {
        properties.push(Property::MessageExpiryInterval(script.byte().into()));
    }
    let alias = if flags & 0x40 != 0 { u16::from(script.byte() % 4) } else { 0 };
    properties.push(Property::TopicAlias(alias));
    let bare = alias != 0 && flags & 0x80 != 0;
    Packet::Publish(Publish {
        dup: flags & 4 != 0 && qos != QoS::AtMostOnce,
        qos,
        retain: flags & 8 != 0,
        topic: Cow::Borrowed(if bare { "" } else { script.pick(&TOPICS) }),
        packet_id: (qos != QoS::AtMostOnce).then(|| packet_id(script)),
        properties: Properties::from_buf(properties),
        payload: Cow::Borrowed(script.pick(&PAYLOADS)),
    })
}

fn rarely(script: &mut Script<'_>) -> Packet<'static> {
    let mut properties = PropertiesBuf::new();
    match script.byte() % 8 {
        0 => Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: Properties::EMPTY }),
        1 => {
            properties.push(Property::SessionExpiryInterval(u32::from(script.byte() % 8)));
            let properties = Properties::from_buf(properties);
            Packet::Disconnect(Disconnect { reason: ReasonCode::DisconnectWithWill, properties })
        }
        2 | 3 => {
            properties.push(Property::AuthenticationMethod(script.pick(&["SCRAM", "other"])));
            properties.push(Property::AuthenticationData(script.pick(&PAYLOADS)));
            let reason = script.pick(&[ReasonCode::ContinueAuthentication, ReasonCode::ReAuthenticate]);
            Packet::Auth(Auth { reason, properties: Properties::from_buf(properties) })
        }
        _ => Packet::Pingreq,
    }
}
