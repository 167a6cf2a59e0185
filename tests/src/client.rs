//! A simulated client: it speaks MQTT as the standard asks for, and does what its script says.

use crate::model::Dress;
use crate::script::{Plan, WillPlan, Wish};
use culex_core::packet::{
    Ack, Connack, Connect, Disconnect, Packet, PacketId, Properties, PropertiesBuf, Property, Publish, QoS,
    ReasonCode, RetainHandling, Subscribe, SubscribeFiltersBuf, SubscriptionOptions, Unsubscribe,
    UnsubscribeFiltersBuf, Version, Will,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};

/// A message to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// What names it; none: its payload is empty.
    pub message: Option<usize>,
    /// Its topic.
    pub topic: &'static str,
    /// Its QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Message Expiry Interval in seconds; 0: none.
    pub expiry_s: u32,
    /// The Topic Alias to use; 0: none.
    pub alias: u16,
    /// Properties that its receivers must get as they are.
    pub dress: Dress,
}

impl Letter {
    /// An empty letter.
    #[must_use]
    pub fn new(topic: &'static str, qos: QoS) -> Self {
        let (payload, dress) = (Vec::new(), Dress::default());
        Self { message: None, topic, qos, retain: false, payload, expiry_s: 0, alias: 0, dress }
    }
}

/// How a client connects.
#[derive(Debug, Clone, PartialEq)]
pub struct Wishes {
    /// Clean Start, or Clean Session.
    pub clean: bool,
    /// Session Expiry Interval in seconds.
    pub expiry_s: u32,
    /// The will, and its payload.
    pub will: Option<(WillPlan, Vec<u8>)>,
}

/// A message that a client was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivered {
    /// Its topic, behind its alias.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// The QoS of the delivery.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
}

/// A message on its way to the broker.
#[derive(Debug)]
struct Outgoing {
    letter: Letter,
    packet_id: u16,
    /// PUBREC was received: what is repeated is PUBREL.
    received: bool,
}

/// One client, over all its connections.
#[derive(Debug)]
pub struct Client {
    /// Its habits.
    pub plan: Plan,
    /// Its Client Identifier.
    pub name: String,
    /// Its connection.
    pub link: Option<usize>,
    /// CONNACK said success.
    pub connected: bool,
    /// How it connected last.
    pub wishes: Option<Wishes>,
    /// The last connection on which CONNACK said success.
    pub heard_on: Option<usize>,
    /// It asked for a clean start and never learned what came of it.
    pub tried_clean: bool,
    /// It reads nothing until then.
    pub stalled_until: u64,
    next_id: u16,
    outgoing: Vec<Outgoing>,
    backlog: VecDeque<Letter>,
    quota: usize,
    incoming: BTreeSet<u16>,
    aliases: BTreeMap<u16, String>,
    /// What its own aliases mean on this connection, and the highest the server allows.
    own_aliases: BTreeMap<u16, &'static str>,
    own_alias_max: u16,
    /// Acknowledgements that are still being thought about.
    acks: VecDeque<(u64, Vec<u8>)>,
}

impl Client {
    /// A client that was never connected.
    #[must_use]
    pub fn new(plan: Plan, name: String) -> Self {
        Self {
            plan,
            name,
            link: None,
            connected: false,
            wishes: None,
            heard_on: None,
            tried_clean: false,
            stalled_until: 0,
            next_id: 0,
            outgoing: Vec::new(),
            backlog: VecDeque::new(),
            quota: usize::MAX,
            incoming: BTreeSet::new(),
            aliases: BTreeMap::new(),
            own_aliases: BTreeMap::new(),
            own_alias_max: 0,
            acks: VecDeque::new(),
        }
    }

    fn encode(&self, packet: &Packet<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Everything a script asks for fits into a packet.
        packet.encode(self.plan.version, &mut bytes).ok();
        bytes
    }

    /// The CONNECT of a new connection.
    pub fn connect(&mut self, link: usize, wishes: Wishes) -> Vec<u8> {
        self.lose_connection();
        if wishes.clean {
            // [MQTT-3.1.2-4]: whatever comes of it.
            self.outgoing.clear();
            self.incoming.clear();
        }
        self.tried_clean = wishes.clean;
        self.link = Some(link);
        let v5 = self.plan.version == Version::V5;
        let mut properties = PropertiesBuf::new();
        let mut will_properties = PropertiesBuf::new();
        if v5 {
            properties.push(Property::SessionExpiryInterval(wishes.expiry_s));
            if let Some(maximum) = NonZeroU16::new(self.plan.receive_maximum) {
                properties.push(Property::ReceiveMaximum(maximum));
            }
            properties.push(Property::TopicAliasMaximum(self.plan.topic_alias_maximum));
            if self.plan.packet_bytes_max > 0 {
                properties.push(Property::MaximumPacketSize(self.plan.packet_bytes_max));
            }
            if let Some((will, _)) = &wishes.will {
                will_properties.push(Property::WillDelayInterval(will.delay_s));
                if will.expiry_s > 0 {
                    will_properties.push(Property::MessageExpiryInterval(will.expiry_s));
                }
            }
        }
        let will = wishes.will.as_ref().map(|(will, payload)| Will {
            topic: will.topic,
            payload,
            qos: will.qos,
            retain: will.retain,
            properties: will_properties.as_properties(),
        });
        let bytes = self.encode(&Packet::Connect(Connect {
            version: self.plan.version,
            clean_start: wishes.clean,
            keep_alive: self.plan.keep_alive_s,
            client_id: &self.name,
            properties: properties.as_properties(),
            will,
            user_name: None,
            password: None,
            bridge: false,
        }));
        self.wishes = Some(wishes);
        bytes
    }

    /// The connection is gone; the session may live on.
    pub fn lose_connection(&mut self) {
        let v5 = self.plan.version == Version::V5;
        let ends = |wishes: &Wishes| if v5 { wishes.expiry_s == 0 } else { wishes.clean };
        if self.connected && self.wishes.as_ref().is_some_and(ends) {
            // The session ends with the connection, on this side too.
            self.outgoing.clear();
            self.incoming.clear();
        }
        self.link = None;
        self.connected = false;
        self.aliases.clear();
        self.own_aliases.clear();
        self.acks.clear();
        // What never left is given up: nobody was promised anything.
        self.backlog.clear();
    }

    /// Publishes, now or when the server's Receive Maximum allows it.
    pub fn publish(&mut self, letter: Letter) -> Vec<u8> {
        self.backlog.push_back(letter);
        self.flush()
    }

    fn flush(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(letter) = self.backlog.front() {
            // One Packet Identifier is left for SUBSCRIBE.
            let most = self.quota.min(usize::from(self.plan.packet_ids).saturating_sub(1).max(1));
            if letter.qos > QoS::AtMostOnce && self.outgoing.len() >= most {
                break;
            }
            let Some(letter) = self.backlog.pop_front() else { break };
            let alias = self.alias_for(&letter);
            if letter.qos == QoS::AtMostOnce {
                bytes.extend(self.encode_letter(&letter, None, false, alias));
                continue;
            }
            let packet_id = self.free_id();
            bytes.extend(self.encode_letter(&letter, Some(packet_id), false, alias));
            self.outgoing.push(Outgoing { letter, packet_id, received: false });
        }
        bytes
    }

    /// The Topic Alias of a letter, and whether its meaning has to be said: if it has none or another one, and now and then
    /// although it is known.
    fn alias_for(&mut self, letter: &Letter) -> Option<(u16, bool)> {
        if letter.alias == 0 || letter.alias > self.own_alias_max || self.plan.version != Version::V5 {
            return None;
        }
        let known = self.own_aliases.insert(letter.alias, letter.topic) == Some(letter.topic);
        let anew = letter.message.is_none_or(|message| message % 5 == 0);
        Some((letter.alias, anew || !known))
    }

    /// A Packet Identifier that is not in use for a message; those of SUBSCRIBE count on with the others.
    fn free_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id % self.plan.packet_ids.max(2) + 1;
            if self.outgoing.iter().all(|outgoing| outgoing.packet_id != self.next_id) {
                return self.next_id;
            }
        }
    }

    fn encode_letter(
        &self,
        letter: &Letter,
        packet_id: Option<u16>,
        dup: bool,
        alias: Option<(u16, bool)>,
    ) -> Vec<u8> {
        let mut properties = PropertiesBuf::new();
        if letter.expiry_s > 0 && self.plan.version == Version::V5 {
            properties.push(Property::MessageExpiryInterval(letter.expiry_s));
        }
        if let Some((alias, _)) = alias {
            properties.push(Property::TopicAlias(alias));
        }
        if let Some(message) = letter.message {
            letter.dress.put_on(message, &mut properties);
        }
        self.encode(&Packet::Publish(Publish {
            dup,
            qos: letter.qos,
            retain: letter.retain,
            topic: if alias.is_none_or(|(_, named)| named) { letter.topic } else { "" }.into(),
            packet_id: packet_id.and_then(PacketId::new),
            properties: properties.as_properties(),
            payload: letter.payload.as_slice().into(),
        }))
    }

    /// Whether it can make the mistake of using a Packet Identifier twice: for a message of QoS 2, or for a SUBSCRIBE.
    #[must_use]
    pub fn can_reuse(&self, subscribe: bool) -> Option<u16> {
        let fits = |outgoing: &&Outgoing| {
            let Outgoing { letter, received, .. } = outgoing;
            subscribe || letter.qos == QoS::ExactlyOnce && !received && !letter.retain
        };
        let found = self.outgoing.iter().find(fits).map(|outgoing| outgoing.packet_id);
        found.filter(|_| self.connected)
    }

    /// Publishes with a Packet Identifier that is in flight for another message. Nobody waits for what comes of it.
    #[must_use]
    pub fn publish_as(&self, packet_id: u16, letter: &Letter) -> Vec<u8> {
        self.encode_letter(letter, Some(packet_id), false, None)
    }

    /// Subscribes.
    pub fn subscribe(&mut self, wishes: &[Wish], identifier: u32) -> Vec<u8> {
        let packet_id = self.free_id();
        self.subscribe_as(packet_id, wishes, identifier)
    }

    /// Subscribes with this Packet Identifier.
    #[must_use]
    pub fn subscribe_as(&self, packet_id: u16, wishes: &[Wish], identifier: u32) -> Vec<u8> {
        let mut filters = SubscribeFiltersBuf::new();
        let v5 = self.plan.version == Version::V5;
        for wish in wishes {
            let options = SubscriptionOptions {
                qos: wish.qos,
                no_local: wish.no_local && v5,
                retain_as_published: wish.retain_as_published && v5,
                retain_handling: match wish.retain_handling {
                    1 if v5 => RetainHandling::SendIfNew,
                    2 if v5 => RetainHandling::Never,
                    _ => RetainHandling::Send,
                },
            };
            // The filters of a script are short.
            filters.push(wish.filter, options).ok();
        }
        let mut properties = PropertiesBuf::new();
        if let (true, Some(identifier)) = (v5, NonZeroU32::new(identifier)) {
            properties.push(Property::SubscriptionIdentifier(identifier));
        }
        self.encode(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(packet_id).unwrap_or(PacketId::MIN),
            properties: properties.as_properties(),
            filters: filters.as_filters(),
        }))
    }

    /// Unsubscribes.
    pub fn unsubscribe(&mut self, filter: &str) -> Vec<u8> {
        let mut filters = UnsubscribeFiltersBuf::new();
        filters.push(filter).ok();
        let packet_id = self.free_id();
        self.encode(&Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId::new(packet_id).unwrap_or(PacketId::MIN),
            properties: Properties::EMPTY,
            filters: filters.as_filters(),
        }))
    }

    /// Says goodbye.
    #[must_use]
    pub fn disconnect(&self, with_will: bool) -> Vec<u8> {
        let reason = if with_will && self.plan.version == Version::V5 {
            ReasonCode::DisconnectWithWill
        } else {
            ReasonCode::Success
        };
        self.encode(&Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY }))
    }

    /// Is still there.
    #[must_use]
    pub fn ping(&self) -> Vec<u8> {
        self.encode(&Packet::Pingreq)
    }

    /// What it says to a packet, at once; acknowledgements take their time.
    pub fn receive(&mut self, now: u64, packet: &Packet<'_>) -> (Vec<u8>, Option<Delivered>) {
        match packet {
            Packet::Connack(connack) => (self.connack(connack), None),
            Packet::Publish(publish) => (Vec::new(), self.delivery(now, publish)),
            Packet::Pubrel(ack) => {
                self.incoming.remove(&ack.packet_id.get());
                self.think(now, &Packet::Pubcomp(Ack::success(ack.packet_id)));
                (Vec::new(), None)
            }
            Packet::Puback(ack) | Packet::Pubcomp(ack) => {
                self.outgoing.retain(|outgoing| outgoing.packet_id != ack.packet_id.get());
                (self.flush(), None)
            }
            Packet::Pubrec(ack) => (self.pubrec(ack), None),
            _ => (Vec::new(), None),
        }
    }

    fn connack(&mut self, connack: &Connack<'_>) -> Vec<u8> {
        if connack.reason.is_error() {
            return Vec::new();
        }
        self.connected = true;
        self.tried_clean = false;
        self.heard_on = self.link;
        let v5 = self.plan.version == Version::V5;
        self.quota = match connack.properties.receive_maximum() {
            Some(maximum) if v5 => usize::from(maximum.get()),
            _ => usize::MAX,
        };
        self.own_alias_max = if v5 { connack.properties.topic_alias_maximum().unwrap_or(0) } else { 0 };
        let clean = self.wishes.as_ref().is_some_and(|wishes| wishes.clean);
        // 3.1 does not say: whoever did not ask for a clean session has to hope.
        let present = if self.plan.version == Version::V31 { !clean } else { connack.session_present };
        if !present {
            self.outgoing.clear();
            self.incoming.clear();
            return Vec::new();
        }
        let repeat = |outgoing: &Outgoing| match outgoing.received {
            true => self.encode(&Packet::Pubrel(Ack::success(
                PacketId::new(outgoing.packet_id).unwrap_or(PacketId::MIN),
            ))),
            false => self.encode_letter(&outgoing.letter, Some(outgoing.packet_id), true, None),
        };
        self.outgoing.iter().flat_map(repeat).collect()
    }

    fn delivery(&mut self, now: u64, publish: &Publish<'_>) -> Option<Delivered> {
        let topic = match publish.properties.topic_alias() {
            Some(alias) if publish.topic.is_empty() => self.aliases.get(&alias)?.clone(),
            Some(alias) => {
                self.aliases.insert(alias, publish.topic.to_string());
                publish.topic.to_string()
            }
            None => publish.topic.to_string(),
        };
        if let Some(packet_id) = publish.packet_id {
            let ack = Ack::success(packet_id);
            if publish.qos == QoS::ExactlyOnce {
                self.think(now, &Packet::Pubrec(ack));
                if !self.incoming.insert(packet_id.get()) {
                    return None;
                }
            } else {
                self.think(now, &Packet::Puback(ack));
            }
        }
        let payload = publish.payload.to_vec();
        Some(Delivered { topic, payload, qos: publish.qos, retain: publish.retain })
    }

    fn pubrec(&mut self, ack: &Ack<'_>) -> Vec<u8> {
        let packet_id = ack.packet_id.get();
        if ack.reason.is_error() {
            self.outgoing.retain(|outgoing| outgoing.packet_id != packet_id);
            return self.flush();
        }
        if let Some(outgoing) = self.outgoing.iter_mut().find(|outgoing| outgoing.packet_id == packet_id)
            && std::mem::replace(&mut outgoing.received, true)
        {
            // The answer to its mistake: PUBREL is on its way.
            return Vec::new();
        }
        self.encode(&Packet::Pubrel(Ack::success(ack.packet_id)))
    }

    fn think(&mut self, now: u64, packet: &Packet<'_>) {
        let due = now + self.plan.ack_ms * 1_000;
        let due = self.acks.back().map_or(due, |(last, _)| due.max(*last));
        self.acks.push_back((due, self.encode(packet)));
    }

    /// When the next acknowledgement is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        self.acks.front().map(|(due, _)| *due)
    }

    /// The acknowledgements that are due.
    pub fn due_acks(&mut self, now: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.wake_at().is_some_and(|due| due <= now) {
            bytes.extend(self.acks.pop_front().map(|(_, ack)| ack).unwrap_or_default());
        }
        bytes
    }
}
