//! From bytes to packets to the chain. Splitting the bytes anywhere changes nothing.

use super::{Action, Broker, Cx, Parked, Reply, Traced};
use crate::connection::Phase;
use crate::error::Violation;
use crate::id::ConnectionId;
use crate::message::Publication;
use crate::middleware::{Flow, Hooks};
use crate::packet::{
    self, Connack, Frame, Framed, Packet, PacketId, PacketType, Properties, Publish, QoS, ReasonCode,
    SubscriptionOptions, Version, version_of,
};
use crate::time::Now;
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::vec::Vec;

impl Broker {
    /// Bytes came in: at most [`read_credit`](Self::read_credit). They are copied only while a packet is incomplete.
    pub fn receive(&mut self, now: Now, id: ConnectionId, bytes: &[u8]) {
        self.begin(now, Some(id));
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        if matches!(connection.phase, Phase::Closing | Phase::Closed) {
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
        self.state
            .connections
            .get(id)
            .is_none_or(|connection| matches!(connection.phase, Phase::Closing | Phase::Closed))
    }

    /// Processes whole packets at the start of `bytes`; returns how many bytes that were, and how many the packet
    /// behind them has.
    fn packets(&mut self, id: ConnectionId, bytes: &[u8], limit: u32) -> (usize, usize) {
        let mut used = 0;
        while used < bytes.len() {
            if self.state.read_credit(id) == 0 || self.over(id) {
                return (used, 0);
            }
            match packet::frame(&bytes[used..], limit) {
                Ok(Framed::Whole { frame, length }) => {
                    self.packet(id, frame);
                    if self.state.moving.is_some() {
                        // It is for another shard, with all that comes behind it.
                        return (used, 0);
                    }
                    used += length;
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
        let reads =
            |connection: &crate::connection::Connection| !connection.stalled && connection.departed.is_none();
        if self.state.connections.get(id).is_some_and(reads) {
            self.state.out.push_back(Action::Credit { id });
        }
    }

    fn packet(&mut self, id: ConnectionId, frame: Frame<'_>) {
        self.state.stats.packets_received += 1;
        self.state.kept = None;
        let kind = match frame.packet_type() {
            Ok(kind) => kind,
            Err(violation) => return self.violate(id, violation),
        };
        let mut n = 0;
        while let Some(part) = self.stack.listener(Hooks::PACKET_INDEX, n) {
            n += 1;
            let mut cx = Cx { state: &mut self.state, current: None, part };
            match self.stack.part(part).packet(&mut cx, id, kind) {
                Flow::Next => {}
                Flow::Violation(violation) => return self.violate(id, violation),
                Flow::Refuse(reason) => return self.close(id, Some(reason), false),
                Flow::Done | Flow::Suspend => return,
            }
        }
        let Some(connection) = self.state.connections.get(id) else { return };
        let waits = connection.parked.as_ref().and_then(|parked| parked.iter().map(Parked::barrier).min());
        let mounted = connection.mounted;
        let decoded = Packet::decode(&frame, connection.version);
        match decoded {
            Ok(mut packet) => {
                self.state.verdicts.clear();
                // Answers and signs of life are never held back, nor who gives up while it authenticates.
                let leaves = kind == PacketType::Disconnect && connection.phase == Phase::Connecting;
                let limit = waits.filter(|_| holdable(kind) && !leaves).unwrap_or(u8::MAX);
                match &mut packet {
                    Packet::Publish(publish) if !publish.properties.is_empty() => {
                        self.publish_with_properties(id, publish, limit, mounted);
                    }
                    Packet::Connect(connect) => self.connect_by_listener(id, connect, limit),
                    _ if mounted => self.walk_below(id, &packet, limit),
                    _ => self.walk(id, &mut packet, 0, limit, false),
                }
            }
            Err(violation) if kind == PacketType::Connect => self.malformed_connect(id, &frame, violation),
            Err(violation) => self.violate(id, violation),
        }
    }

    /// Resolves the Topic Alias of a PUBLISH: on arrival, for later packets may give the alias another meaning while
    /// this one waits. The table is lent to the packet, so nothing is copied.
    fn publish_with_properties(
        &mut self,
        id: ConnectionId,
        publish: &mut Publish<'_>,
        limit: u8,
        mounted: bool,
    ) {
        let mut publish = publish.clone();
        let Some(alias) = publish.properties.topic_alias() else {
            return self.walk_resolved(id, publish, limit, mounted);
        };
        let most = self.state.config.topic_alias_maximum;
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        let mut aliases = core::mem::take(&mut connection.aliases);
        match aliases.resolve(alias, &publish.topic, most) {
            Ok(topic) => {
                publish.topic = Cow::Borrowed(topic);
                self.walk_resolved(id, publish, limit, mounted);
            }
            Err(violation) => self.violate(id, violation),
        }
        if let Some(connection) = self.state.connections.get_mut(id) {
            connection.aliases = aliases;
        }
    }

    fn walk_resolved(&mut self, id: ConnectionId, publish: Publish<'_>, limit: u8, mounted: bool) {
        let mut packet = Packet::Publish(publish);
        if mounted {
            self.walk_below(id, &packet, limit);
        } else {
            self.walk(id, &mut packet, 0, limit, false);
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
        let wall = self.state.arrived;
        let hook = Hooks::of_packet(packet.packet_type());
        let mut n = 0;
        while let Some(part) = self.stack.listener(hook, n) {
            n += 1;
            if part < start {
                continue;
            }
            if part >= limit {
                return self.park(id, packet, (part, limit), first, None);
            }
            let cx = &mut Cx { state: &mut self.state, current: None, part };
            let flow = call(self.stack.part(part), cx, id, packet);
            if !self.state.work.is_empty() || !self.state.deferred.is_empty() {
                let current = match &*packet {
                    Packet::Publish(publish) => Some(Publication::new(publish, wall)),
                    _ => None,
                };
                // A part may have changed the message since an earlier one had it kept.
                self.state.kept = None;
                self.run(current);
            }
            match flow {
                Flow::Next => {}
                // AUTH may have asked on behalf of its CONNECT.
                Flow::Done => return self.adopt_question(id),
                Flow::Suspend => {
                    // While a client authenticates again, what it may do is what it might before.
                    let barrier = if matches!(packet, Packet::Auth(_)) { u8::MAX } else { part + 1 };
                    return self.park(id, packet, (part + 1, barrier), first, None);
                }
                // Acknowledgements leave in the order of what they answer.
                Flow::Refuse(_) if limit != u8::MAX => {
                    return self.park(id, packet, (part, limit), first, Some(flow));
                }
                Flow::Refuse(reason) => return self.refuse(id, packet, reason),
                Flow::Violation(violation) => return self.violate(id, violation),
            }
        }
        if limit != u8::MAX {
            return self.park(id, packet, (u8::MAX, limit), first, None);
        }
        self.unhandled(id, packet);
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

/// Whether a packet waits behind others that wait for an answer.
fn holdable(kind: PacketType) -> bool {
    use PacketType as P;
    matches!(kind, P::Publish | P::Subscribe | P::Unsubscribe | P::Disconnect | P::Pubrel)
}

fn call(
    part: &mut dyn crate::middleware::Middleware,
    cx: &mut Cx<'_>,
    id: ConnectionId,
    packet: &mut Packet<'_>,
) -> Flow {
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
