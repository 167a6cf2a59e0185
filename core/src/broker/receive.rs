//! From bytes to packets to the chain. Splitting the bytes anywhere changes nothing.

use super::{Action, Broker, Cx, Parked, Reply, Traced};
use crate::connection::{Connection, Phase};
use crate::error::Violation;
use crate::id::ConnectionId;
use crate::message::Publication;
use crate::middleware::{Flow, Hooks, Middleware};
use crate::packet::{
    self, Ack, Connack, Frame, Framed, Packet, PacketId, PacketType, PacketType as P, Properties, Publish,
    QoS, ReasonCode, SubscriptionOptions, Version, version_of,
};
use crate::time::{Now, Wall};
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::vec::Vec;

impl Broker {
    /// Bytes came in: at most [`read_credit`](Self::read_credit). They are copied only while a packet is incomplete.
    pub fn receive(&mut self, now: Now, id: ConnectionId, bytes: &[u8]) {
        self.begin(now, Some(id));
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        if connection.is_over() {
            return;
        }
        self.state.stats.bytes_received += bytes.len() as u64;
        if connection.stalled {
            connection.inbox.extend_from_slice(bytes);
            return;
        }
        let limit = connection.packet_limit(&self.state.config);
        let inbox = core::mem::take(&mut connection.inbox);
        self.digest(id, inbox, bytes, limit);
    }

    /// The layer below MQTT (WebSocket, for instance) found that the peer broke a rule: the connection ends as it does
    /// for a rule of MQTT. What was received before counts, unless it still waits for something.
    pub fn violated(&mut self, now: Now, id: ConnectionId, violation: Violation) {
        self.begin(now, Some(id));
        self.violate(id, violation);
    }

    /// Works off what was left of earlier input, then `bytes`; keeps what is incomplete or has to wait. No packet may have
    /// more than `limit` bytes.
    fn digest(&mut self, id: ConnectionId, mut inbox: Vec<u8>, mut bytes: &[u8], limit: u32) {
        while !inbox.is_empty() && !self.over(id) {
            // Fill up just the first packet, so that all others can be read where they are.
            let missing = match packet::frame(&inbox, limit) {
                Ok(Framed::Partial { needed }) => needed.saturating_sub(inbox.len()),
                Ok(Framed::Whole { .. }) | Err(_) => 0,
            };
            if missing > 0 {
                if bytes.is_empty() {
                    break;
                }
                let (fill, rest) = bytes.split_at(missing.min(bytes.len()));
                // What the length claims is not allocated before it comes.
                inbox.reserve_exact(missing.min(fill.len().max(GROW_BYTES)));
                inbox.extend_from_slice(fill);
                bytes = rest;
                continue;
            }
            let (used, _) = self.packets(id, &inbox, limit);
            inbox.drain(..used);
            if used == 0 {
                inbox.extend_from_slice(bytes);
                bytes = &[];
                break;
            }
        }
        if inbox.is_empty() && !bytes.is_empty() {
            let (used, needed) = self.packets(id, bytes, limit);
            let rest = &bytes[used..];
            if !rest.is_empty() {
                inbox.reserve_exact(rest.len().max(needed.min(GROW_BYTES)));
                inbox.extend_from_slice(rest);
            }
        }
        if self.over(id) {
            return;
        }
        if let Some(shard) = self.state.moving.take() {
            return self.hand_over(id, shard, inbox);
        }
        let stalled = self.state.read_credit(id) == 0;
        if let Some(connection) = self.state.connections.get_mut(id) {
            connection.inbox = inbox;
            if stalled && !connection.stalled {
                connection.stalled = true;
                self.state.stalled.insert(id);
            }
        }
    }

    fn over(&self, id: ConnectionId) -> bool {
        self.state.connections.get(id).is_none_or(Connection::is_over)
    }

    /// Processes whole packets at the start of `bytes`; returns how many bytes that were, and how many the packet
    /// behind them has.
    fn packets(&mut self, id: ConnectionId, bytes: &[u8], limit: u32) -> (usize, usize) {
        let (mut used, mut told) = (0, false);
        while used < bytes.len() {
            let Some(phase) = self.state.takes_packets(id) else { return (used, 0) };
            match packet::frame(&bytes[used..], limit) {
                Ok(Framed::Whole { frame, length }) => {
                    self.state.stats.packets_received += 1;
                    self.state.kept = None;
                    let packet = &bytes[used..used + length];
                    used += length;
                    let Some(kind @ (P::Publish | P::Puback | P::Pubrec | P::Pubrel | P::Pubcomp)) =
                        PacketType::from_bits(frame.first >> 4)
                    else {
                        self.packet(id, frame);
                        if self.state.moving.is_some() {
                            // It is for another shard, with all that comes behind it.
                            return (used - length, 0);
                        }
                        continue;
                    };
                    // Who is connected may send these, and that somebody is there is told once per input where that is enough.
                    if told && phase == Phase::Connected || self.announce(id, kind) {
                        told = self.stack.is_told_once();
                        if kind == P::Publish {
                            self.publish_packet(id, frame, packet);
                        } else {
                            self.ack_packet(id, kind, frame);
                        }
                    }
                }
                Ok(Framed::Partial { needed }) => return (used, needed),
                Err(violation) => {
                    self.violate(id, violation);
                    return (bytes.len(), 0);
                }
            }
        }
        (used, 0)
    }

    /// Reads a connection again that was held up, if nothing holds it up any more.
    pub(super) fn unstall(&mut self, id: ConnectionId) {
        let credit = self.state.read_credit(id) > 0;
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        if !connection.stalled {
            return;
        }
        if !credit {
            self.state.stalled.insert(id);
            return;
        }
        connection.stalled = false;
        self.state.stalled.remove(&id);
        let limit = connection.packet_limit(&self.state.config);
        let inbox = core::mem::take(&mut connection.inbox);
        self.state.from = Some(id);
        self.digest(id, inbox, &[], limit);
        let reads = |connection: &Connection| !connection.stalled && connection.departed.is_none();
        if self.state.connections.get(id).is_some_and(reads) {
            self.state.out.push_back(Action::Credit { id });
        }
    }

    fn packet(&mut self, id: ConnectionId, frame: Frame<'_>) {
        let kind = match frame.packet_type() {
            Ok(kind) => kind,
            Err(violation) => return self.violate(id, violation),
        };
        if !self.announce(id, kind) {
            return;
        }
        let Some(connection) = self.state.connections.get(id) else { return };
        let (waits, mounted) = (barrier(connection), connection.mounted);
        // Answers and signs of life are never held back, nor who gives up while it authenticates.
        let leaves = kind == PacketType::Disconnect && connection.phase == Phase::Connecting;
        let limit = if holdable(kind) && !leaves { waits } else { u8::MAX };
        match Packet::decode(&frame, connection.version) {
            Ok(mut packet) => {
                self.state.verdicts.clear();
                match &mut packet {
                    Packet::Connect(connect) => self.connect_by_listener(id, connect, limit),
                    _ if mounted => self.walk_below(id, &packet, limit),
                    _ => self.walk(id, &mut packet, 0, limit, false),
                }
            }
            Err(violation) if kind == PacketType::Connect => self.malformed_connect(id, &frame, violation),
            Err(violation) => self.violate(id, violation),
        }
    }

    /// The same for the packet that comes most often, once it was announced.
    #[inline(never)]
    fn publish_packet(&mut self, id: ConnectionId, frame: Frame<'_>, packet: &[u8]) {
        if self.publish_shortly(id, packet, &frame) {
            return;
        }
        let Some(connection) = self.state.connections.get(id) else { return };
        let (limit, mounted) = (barrier(connection), connection.mounted);
        match Publish::decode(&frame, connection.version) {
            Ok(publish) => {
                self.state.verdicts.clear();
                if publish.properties.is_empty() {
                    self.walk_resolved(id, publish, limit, mounted);
                } else {
                    self.publish_with_properties(id, publish, limit, mounted);
                }
            }
            Err(violation) => self.violate(id, violation),
        }
    }

    /// The same for the acknowledgements of messages.
    #[inline(never)]
    fn ack_packet(&mut self, id: ConnectionId, kind: PacketType, frame: Frame<'_>) {
        let Some(connection) = self.state.connections.get(id) else { return };
        let limit = if holdable(kind) { barrier(connection) } else { u8::MAX };
        match Ack::decode(&frame, connection.version) {
            Ok(ack) => self.walk_on(id, &mut AckPacket { kind, ack }, 0, limit, false),
            Err(violation) => self.violate(id, violation),
        }
    }

    /// Tells everybody who wants to know of any packet. False: it is not processed.
    #[inline(never)]
    fn announce(&mut self, id: ConnectionId, kind: PacketType) -> bool {
        let mut place = self.stack.listeners(Hooks::PACKET_INDEX);
        while let Some(part) = self.stack.next(&mut place) {
            let mut cx = Cx { state: &mut self.state, current: None, part };
            match self.stack.part(part).packet(&mut cx, id, kind) {
                Flow::Next => {}
                flow => {
                    self.unannounced(id, flow);
                    return false;
                }
            }
        }
        true
    }

    #[cold]
    fn unannounced(&mut self, id: ConnectionId, flow: Flow) {
        match flow {
            Flow::Violation(violation) => self.violate(id, violation),
            Flow::Refuse(reason) => self.close(id, Some(reason), false),
            Flow::Next | Flow::Done | Flow::Suspend => {}
        }
    }

    /// Resolves the Topic Alias of a PUBLISH: on arrival, for later packets may give the alias another meaning while
    /// this one waits. The table is lent to the packet, so nothing is copied.
    fn publish_with_properties(&mut self, id: ConnectionId, publish: Publish<'_>, limit: u8, mounted: bool) {
        let Some(alias) = publish.properties.topic_alias() else {
            return self.walk_resolved(id, publish, limit, mounted);
        };
        let most = self.state.config.topic_alias_maximum;
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        let mut aliases = core::mem::take(&mut connection.aliases);
        match aliases.resolve(alias, &publish.topic, most) {
            Ok(topic) => {
                let publish = Publish { topic: Cow::Borrowed(topic), ..publish.clone() };
                self.walk_resolved(id, publish, limit, mounted);
            }
            Err(violation) => self.violate(id, violation),
        }
        if let Some(connection) = self.state.connections.get_mut(id) {
            connection.aliases = aliases;
        }
    }

    #[inline]
    fn walk_resolved(&mut self, id: ConnectionId, publish: Publish<'_>, limit: u8, mounted: bool) {
        if mounted {
            self.walk_below(id, &Packet::Publish(publish), limit);
        } else {
            let mut publish = publish;
            self.walk_on(id, &mut publish, 0, limit, false);
        }
    }

    /// A CONNECT that cannot be read is answered if its version can.
    fn malformed_connect(&mut self, id: ConnectionId, frame: &Frame<'_>, violation: Violation) {
        let unsupported = violation.reason == ReasonCode::UnsupportedProtocolVersion;
        let version = match version_of(frame) {
            // A level we do not know: the answer every version knows [MQTT-3.1.2-2].
            None if unsupported => Some(Version::V311),
            version => version,
        };
        if let Some(version) = version {
            self.make_answerable(id, version);
        }
        self.violate(id, violation);
    }

    /// From here on the CONNECT of a connection can be refused in its own version.
    pub(super) fn make_answerable(&mut self, id: ConnectionId, version: Version) {
        if let Some(connection) = self.state.connections.get_mut(id) {
            connection.version = version;
            connection.phase = Phase::Connecting;
        }
    }

    /// Takes a packet down the chain, starting at part `start`. Parts from `limit` on have to wait for packets that
    /// came earlier. `first`: it is the first of those that wait.
    pub(super) fn walk(
        &mut self,
        id: ConnectionId,
        packet: &mut Packet<'_>,
        start: u8,
        limit: u8,
        first: bool,
    ) {
        self.walk_on(id, packet, start, limit, first);
    }

    #[inline]
    fn walk_on(&mut self, id: ConnectionId, packet: &mut impl Walks, start: u8, limit: u8, first: bool) {
        let wall = self.state.arrived;
        let mut place = self.stack.listeners(Hooks::of_packet(packet.kind()));
        while let Some(part) = self.stack.next(&mut place) {
            if part < start {
                continue;
            }
            if part >= limit {
                return self.park(id, &packet.packet(), (part, limit), first, None);
            }
            let cx = &mut Cx { state: &mut self.state, current: None, part };
            let flow = packet.call(self.stack.part(part), cx, id);
            if !self.state.work.is_empty() || !self.state.deferred.is_empty() {
                let current = packet.publication(wall);
                // A part may have changed the message since an earlier one had it kept.
                self.state.kept = None;
                self.run(current.as_ref());
            }
            match flow {
                Flow::Next => {}
                // AUTH may have asked on behalf of its CONNECT.
                Flow::Done if self.state.asked.is_none() => return,
                Flow::Done => return self.adopt_question(id),
                Flow::Suspend => {
                    // While a client authenticates again, what it may do is what it might before.
                    let barrier = if packet.kind() == PacketType::Auth { u8::MAX } else { part + 1 };
                    return self.park(id, &packet.packet(), (part + 1, barrier), first, None);
                }
                // Acknowledgements leave in the order of what they answer.
                Flow::Refuse(_) if limit != u8::MAX => {
                    return self.park(id, &packet.packet(), (part, limit), first, Some(flow));
                }
                Flow::Refuse(reason) => return self.refuse(id, &packet.packet(), reason),
                Flow::Violation(violation) => return self.violate(id, violation),
            }
        }
        if limit != u8::MAX {
            return self.park(id, &packet.packet(), (u8::MAX, limit), first, None);
        }
        self.unhandled(id, &packet.packet());
    }

    /// A packet that no middleware handled.
    fn unhandled(&mut self, id: ConnectionId, packet: &Packet<'_>) {
        match packet {
            Packet::Disconnect(disconnect) => {
                if let Some(connection) = self.state.connections.get_mut(id) {
                    connection.clean_reason = disconnect.reason;
                }
                self.close(id, None, true);
                self.run(None);
            }
            Packet::Publish(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::Connect(_) => {
                self.refuse(id, packet, super::work::UNHANDLED.reason);
            }
            // Always answered, or its sender repeats it for ever [MQTT-4.3.3-11].
            Packet::Pubrel(pubrel) => {
                let v5 = self
                    .state
                    .connections
                    .get(id)
                    .is_some_and(|connection| connection.version == Version::V5);
                let reason = if v5 { ReasonCode::PacketIdentifierNotFound } else { ReasonCode::Success };
                let (packet, packet_id) = (PacketType::Pubcomp, pubrel.packet_id);
                let reply = Reply { to: id, packet, packet_id, reason, codes: Box::default() };
                self.state.work.push(Action::Reply(reply));
                self.run(None);
            }
            _ => {}
        }
    }

    /// Gives the answer a packet has for being refused.
    pub(super) fn refuse(&mut self, id: ConnectionId, packet: &Packet<'_>, reason: ReasonCode) {
        self.state.stats.refused += 1;
        // What is no error would be read as a yes.
        let reason = if reason.is_error() { reason } else { ReasonCode::UnspecifiedError };
        let connection = self.state.connections.get(id);
        let (version, session) = (connection.map(|c| c.version), connection.and_then(|c| c.session));
        let old = version != Some(Version::V5);
        if let (
            Packet::Publish(Publish { qos: QoS::ExactlyOnce, packet_id: Some(packet_id), .. }),
            Some(session),
        ) = (packet, session.filter(|_| !old))
        {
            // With this PUBREC its identifier is free [MQTT-4.3.3-4].
            self.state.work.push(Action::StoreInbound { session, packet_id: *packet_id, held: false });
        }
        let mut reply =
            |packet: PacketType, packet_id: PacketId, reason: ReasonCode, codes: Box<[ReasonCode]>| {
                self.state.work.push(Action::Reply(Reply { to: id, packet, packet_id, reason, codes }));
            };
        match packet {
            Packet::Connect(_) => return self.refuse_connect(id, reason),
            Packet::Publish(publish) => {
                if let Some(trace) = &mut self.state.trace {
                    let topic = (*publish.topic).into();
                    trace.push_back(Traced::Refused { from: id, topic, reason });
                }
                // 3.x has no negative acknowledgement: it is acknowledged and dropped [MQTT-3.3.5-2 of 3.1.1].
                let reason = if old { ReasonCode::Success } else { reason };
                match (publish.qos, publish.packet_id) {
                    (QoS::AtLeastOnce, Some(packet_id)) => {
                        reply(PacketType::Puback, packet_id, reason, Box::default());
                    }
                    (QoS::ExactlyOnce, Some(packet_id)) => {
                        reply(PacketType::Pubrec, packet_id, reason, Box::default());
                    }
                    _ => {}
                }
            }
            Packet::Subscribe(subscribe) => {
                // The SUBACK of 3.1 knows no failure.
                let code = |(_, options): (&str, SubscriptionOptions)| match version {
                    Some(Version::V31) => ReasonCode::granted(options.qos),
                    _ => reason,
                };
                let codes = subscribe.filters.iter().map(code).collect();
                reply(PacketType::Suback, subscribe.packet_id, reason, codes);
            }
            Packet::Unsubscribe(unsubscribe) => {
                let codes = unsubscribe.filters.iter().map(|_| reason).collect();
                reply(PacketType::Unsuback, unsubscribe.packet_id, reason, codes);
            }
            _ => self.close(id, Some(reason), false),
        }
        self.run(None);
    }

    /// Answers CONNECT with an error and closes [MQTT-3.2.2-7].
    pub(super) fn refuse_connect(&mut self, id: ConnectionId, reason: ReasonCode) {
        let Some(connection) = self.state.connections.get(id) else { return };
        if connection.phase != Phase::Connecting {
            return self.close(id, Some(reason), false);
        }
        self.state.stats.connects_refused += 1;
        // [MQTT-3.1.4-1 of 3.1.1], [MQTT-3.2.2-6 of 3.1.1]: 3.x has no code for what does not conform, and gets none.
        let mute = connection.version != Version::V5
            && matches!(reason, ReasonCode::MalformedPacket | ReasonCode::ProtocolError);
        // [MQTT-3.2.2-6]: no Session Present with an error.
        let reason = Connack::reason_for(reason);
        let farewell = self.state.farewell(id);
        let packet = |properties| Packet::Connack(Connack { session_present: false, reason, properties });
        // [MQTT-3.2.2-19]: what is said besides gives way first.
        if !mute && !self.state.send(id, &packet(farewell.as_properties())) {
            self.state.send(id, &packet(Properties::EMPTY));
        }
        self.close(id, None, false);
        self.run(None);
    }
}

/// The first part that packets of a connection may not reach, because of one that waits.
#[inline]
fn barrier(connection: &Connection) -> u8 {
    match &connection.parked {
        None => u8::MAX,
        Some(parked) => parked.iter().map(Parked::barrier).min().unwrap_or(u8::MAX),
    }
}

/// Whether a packet waits behind others that wait for an answer.
fn holdable(kind: PacketType) -> bool {
    matches!(kind, P::Publish | P::Subscribe | P::Unsubscribe | P::Disconnect | P::Pubrel)
}

/// A packet on its way down the chain. Those that come most often walk as what they are.
trait Walks {
    fn kind(&self) -> PacketType;

    fn call(&mut self, part: &mut dyn Middleware, cx: &mut Cx<'_>, id: ConnectionId) -> Flow;

    /// The message it brings.
    #[inline]
    fn publication(&self, _: Wall) -> Option<Publication<'_>> {
        None
    }

    /// A copy for whoever takes any packet.
    fn packet(&self) -> Packet<'_>;
}

impl Walks for Packet<'_> {
    fn kind(&self) -> PacketType {
        self.packet_type()
    }

    fn call(&mut self, part: &mut dyn Middleware, cx: &mut Cx<'_>, id: ConnectionId) -> Flow {
        call(part, cx, id, self)
    }

    fn publication(&self, wall: Wall) -> Option<Publication<'_>> {
        match self {
            Packet::Publish(publish) => Some(Publication::new(publish, wall)),
            _ => None,
        }
    }

    #[cold]
    fn packet(&self) -> Packet<'_> {
        self.clone()
    }
}

impl Walks for Publish<'_> {
    #[inline]
    fn kind(&self) -> PacketType {
        PacketType::Publish
    }

    #[inline]
    fn call(&mut self, part: &mut dyn Middleware, cx: &mut Cx<'_>, id: ConnectionId) -> Flow {
        part.publish(cx, id, self)
    }

    #[inline]
    fn publication(&self, wall: Wall) -> Option<Publication<'_>> {
        Some(Publication::new(self, wall))
    }

    #[cold]
    fn packet(&self) -> Packet<'_> {
        Packet::Publish(self.clone())
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
struct AckPacket<'a> {
    kind: PacketType,
    ack: Ack<'a>,
}

impl Walks for AckPacket<'_> {
    #[inline]
    fn kind(&self) -> PacketType {
        self.kind
    }

    #[inline]
    fn call(&mut self, part: &mut dyn Middleware, cx: &mut Cx<'_>, id: ConnectionId) -> Flow {
        match self.kind {
            PacketType::Puback => part.puback(cx, id, &self.ack),
            PacketType::Pubrec => part.pubrec(cx, id, &self.ack),
            PacketType::Pubrel => part.pubrel(cx, id, &self.ack),
            _ => part.pubcomp(cx, id, &self.ack),
        }
    }

    #[cold]
    fn packet(&self) -> Packet<'_> {
        let ack = self.ack.clone();
        match self.kind {
            PacketType::Puback => Packet::Puback(ack),
            PacketType::Pubrec => Packet::Pubrec(ack),
            PacketType::Pubrel => Packet::Pubrel(ack),
            _ => Packet::Pubcomp(ack),
        }
    }
}

fn call(part: &mut dyn Middleware, cx: &mut Cx<'_>, id: ConnectionId, packet: &mut Packet<'_>) -> Flow {
    match packet {
        Packet::Publish(packet) => part.publish(cx, id, packet),
        Packet::Puback(packet) => part.puback(cx, id, packet),
        Packet::Pubrec(packet) => part.pubrec(cx, id, packet),
        Packet::Pubrel(packet) => part.pubrel(cx, id, packet),
        Packet::Pubcomp(packet) => part.pubcomp(cx, id, packet),
        Packet::Connect(packet) => part.connect(cx, id, packet),
        Packet::Subscribe(packet) => part.subscribe(cx, id, packet),
        Packet::Unsubscribe(packet) => part.unsubscribe(cx, id, packet),
        Packet::Pingreq => part.pingreq(cx, id),
        Packet::Disconnect(packet) => part.disconnect(cx, id, packet),
        Packet::Auth(packet) => part.auth(cx, id, packet),
        Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
            Flow::Violation(Violation::protocol("MQTT-4.13.1-1"))
        }
    }
}

/// A partial packet's buffer grows by at least so much.
const GROW_BYTES: usize = 4 * 1024;
