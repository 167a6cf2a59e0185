//! The short way of a plain message: no RETAIN, no properties, not large.
//!
//! Where the chain would do nothing with such a message but find its receivers and deliver it to them, its relay does that at
//! once: no list of receivers is made and no [`Forward`]. A PUBLISH with QoS 0 or 1 does not even become a relay: with QoS 0
//! the packet is copied to those who get it. Of an input only the first packet is announced. The parts say themselves where that is
//! all they do ([`Middleware::shortens`]); if anybody else listens to what is left out, there is no short way.
//!
//! What comes out is the same either way: `core/tests/short_way.rs`.
//!
//! [`Middleware::shortens`]: crate::middleware::Middleware::shortens

use super::{
    Action, Broker, Cx, Forward, Identifiers, Outlets, Receiver, Relay, RelayAck, Reply, Source, State, What,
};
use crate::connection::Phase;
use crate::id::{ConnectionId, SessionId};
use crate::message::Publication;
use crate::middleware::takes_once;
use crate::packet::{Frame, PacketId, PacketType, QoS, ReasonCode, Version};
use crate::topic::Subscription;
use crate::topic::filter::levels;
use alloc::vec::Vec;

/// What the short way keeps from message to message: room for wire images, for receivers of 3.x and of 5.0.
#[derive(Debug, Default)]
pub(super) struct Short {
    images: [Vec<u8>; 2],
    /// Which of them were made for the message in hand.
    made: [bool; 2],
}

/// A plain message.
#[derive(Debug, Clone, Copy)]
struct Plain<'a> {
    topic: &'a [u8],
    payload: &'a [u8],
    qos: QoS,
    publisher: Option<SessionId>,
    /// The packet it came in, as it can be sent to receivers of 3.x, or to those of 5.0 (`true`).
    packet: Option<(&'a [u8], bool)>,
    /// It is the one in hand.
    publication: Option<&'a Publication<'a>>,
}

impl Broker {
    /// Passes on the message of a PUBLISH that may be plain. `packet` is all of `frame`. False: nothing was done.
    #[inline]
    pub(super) fn publish_shortly(&mut self, id: ConnectionId, packet: &[u8], frame: &Frame<'_>) -> bool {
        if !matches!(frame.first, AT_MOST_ONCE | AT_LEAST_ONCE) || !self.stack.is_short() {
            return false;
        }
        let Some(connection) = self.state.connections.get(id) else { return false };
        let ordinary =
            connection.phase == Phase::Connected && connection.parked.is_none() && !connection.mounted;
        if !ordinary || self.state.trace.is_some() {
            return false;
        }
        let (v5, publisher) = (connection.version == Version::V5, connection.session);
        let unanswered = connection.gated > 0 || connection.waiting.is_some();
        let Some((topic, packet_id, payload)) = split(frame, v5) else { return false };
        let levels_max = usize::from(self.state.config.topic_levels_max);
        if publisher.is_none() || topic.len() >= levels_max && levels_of(topic) > levels_max {
            return false;
        }
        if let Some(packet_id) = packet_id {
            return !unanswered && self.publish_counted(id, publisher, topic, payload, packet_id);
        }
        let (qos, packet, publication) = (QoS::AtMostOnce, Some((packet, v5)), None);
        let message = Plain { topic, payload, qos, publisher, packet, publication };
        let Some(rest) = self.pass_on(&message) else { return false };
        self.state.stats.publishes_received += 1;
        if !rest.is_empty() {
            self.forward_rest(topic, payload, rest);
        }
        true
    }

    /// The same with QoS 1: to be acknowledged when it was passed on. Only where nothing can be in the way of that.
    fn publish_counted(
        &mut self,
        from: ConnectionId,
        publisher: Option<SessionId>,
        topic: &[u8],
        payload: &[u8],
        packet_id: PacketId,
    ) -> bool {
        let holds = |session| self.state.held.get(session).is_some_and(|held| !held.is_empty());
        let limited = self.state.config.qos_max == 0 || publisher.is_some_and(holds);
        if limited || self.state.durable || self.state.store_failed {
            return false;
        }
        let Ok(topic) = core::str::from_utf8(topic) else { return false };
        let (properties, plain, qos, retain, expires) = (&[][..], true, QoS::AtLeastOnce, false, None);
        let publication = &Publication { topic, properties, plain, payload, qos, retain, expires };
        let topic = topic.as_bytes();
        let before = core::mem::replace(&mut self.state.matched, false);
        let message = Plain { topic, payload, qos, publisher, packet: None, publication: Some(publication) };
        let Some(rest) = self.pass_on(&message) else {
            self.state.matched = before;
            return false;
        };
        self.state.stats.publishes_received += 1;
        self.emit_first(0, rest);
        let reason = if self.state.matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers };
        let ack = RelayAck { to: from, packet: PacketType::Puback, packet_id };
        let reply = Reply { reason, ..Reply::of(ack) };
        if self.state.work.is_empty() && !self.stack.sees_replies() {
            self.reply(reply);
        } else {
            self.state.work.push(Action::Reply(reply));
        }
        if !self.state.work.is_empty() {
            self.run(Some(publication));
        }
        true
    }

    #[cold]
    fn forward_rest(&mut self, topic: &[u8], payload: &[u8], receivers: Vec<Receiver>) {
        let Ok(topic) = core::str::from_utf8(topic) else { return };
        let (properties, plain, qos, retain, expires) = (&[][..], true, QoS::AtMostOnce, false, None);
        let publication = Publication { topic, properties, plain, payload, qos, retain, expires };
        self.state.work.push(Action::Forward(Forward::new(What::Current, receivers)));
        self.run(Some(&publication));
    }

    /// Performs a relay, if it is that of a plain message. False: nothing was done.
    #[inline]
    pub(super) fn relay_shortly(&mut self, relay: &Relay, current: Option<&Publication<'_>>) -> bool {
        let Relay { what: What::Current, publisher, inbound, .. } = *relay else { return false };
        let Some(publication) = current.filter(|publication| publication.is_plain()) else { return false };
        // A QoS 2 message has its own record, and QoS 1 may have to wait for one.
        let recorded = self.state.durable && (inbound.is_some() || self.state.config.deliver_after_commit);
        if recorded || self.state.trace.is_some() {
            return false;
        }
        let (topic, payload, qos) = (publication.topic.as_bytes(), publication.payload, publication.qos);
        let message = Plain { topic, payload, qos, publisher, packet: None, publication: current };
        let mark = self.state.work.len();
        let Some(rest) = self.pass_on(&message) else { return false };
        self.emit_first(mark, rest);
        true
    }

    /// Subscriptions of the program: for them the message leaves before what was emitted for others is performed.
    #[inline]
    fn emit_first(&mut self, mark: usize, receivers: Vec<Receiver>) {
        if !receivers.is_empty() {
            self.state.work.insert(mark, Action::Forward(Forward::new(What::Current, receivers)));
        }
    }

    /// Writes a message to all who get it. Returns those who have to get it by other means; `None`: nothing was done.
    fn pass_on(&mut self, message: &Plain<'_>) -> Option<Vec<Receiver>> {
        let Self { state, stack, short } = self;
        let (backend, outbound, part) = stack.shortcut()?;
        let subscribers = backend.subscribers(message.topic)?;
        let (many, mut first, mut rest) = (subscribers.len() > 1, true, Vec::new());
        short.made = [false; 2];
        for subscription in subscribers {
            let session = subscription.session;
            if !subscription.hears(message.publisher) {
                continue;
            }
            state.matched = true;
            let qos = subscription.options.qos.min(message.qos);
            let Some(known) = state.sessions.get(session) else { continue };
            let (to, queued, program) = (known.connection, known.queued, known.program);
            // In their order: behind one who gets it by other means all do.
            if qos == QoS::AtMostOnce
                && (rest.is_empty() || message.publication.is_some())
                && let Some(id) = to
                && short.write(state, (id, queued), subscription, message)
            {
                continue;
            }
            let identifiers = Identifiers::from(subscription.identifier);
            let mut receiver = Receiver { session, qos, retain: false, source: Source::Relay, identifiers };
            match message.publication {
                Some(_) if !program => {
                    let cx = &mut Cx { state, current: message.publication, part };
                    outbound.deliver(cx, &mut receiver, many, core::mem::take(&mut first));
                }
                _ => {
                    if rest.capacity() == 0 {
                        rest = state.receivers.pop().unwrap_or_default();
                    }
                    rest.push(receiver);
                }
            }
        }
        Some(rest)
    }
}

impl Short {
    /// Writes a message with QoS 0 to the client of a session with so long a queue, if that is all there is to do.
    #[inline]
    fn write(
        &mut self,
        state: &mut State,
        (id, queued): (ConnectionId, u32),
        subscription: &Subscription,
        message: &Plain<'_>,
    ) -> bool {
        let Some(connection) = state.connections.get_mut(id) else { return false };
        let plain = connection.phase == Phase::Connected
            && connection.is_plain()
            && subscription.identifier.is_none()
            && takes_once(&state.config, connection, queued, Source::Relay);
        if !plain {
            return false;
        }
        let v5 = connection.version == Version::V5;
        let bytes = match message.packet {
            Some((packet, of)) if of == v5 => packet,
            _ => {
                let image = &mut self.images[usize::from(v5)];
                if !core::mem::replace(&mut self.made[usize::from(v5)], true) {
                    encode(image, message.topic, message.payload, v5);
                }
                image
            }
        };
        state.stats.publishes_sent += 1;
        let State { pool, dirty, stalled, full, .. } = state;
        Outlets { pool, dirty, stalled, full: *full }
            .write(id, connection, |out| out.extend_from_slice(bytes));
        true
    }
}

impl Publication<'_> {
    #[inline]
    fn is_plain(&self) -> bool {
        !self.retain
            && self.properties.is_empty()
            && self.expires.is_none()
            && self.payload.len() < SMALL_BYTES
    }
}

/// Topic Name, Packet Identifier and payload of a PUBLISH that is small and has no properties. The topic may be anything: who
/// finds no subscription of that name checks it.
#[inline]
fn split<'a>(frame: &Frame<'a>, v5: bool) -> Option<(&'a [u8], Option<PacketId>, &'a [u8])> {
    let (length, rest) = frame.body.split_first_chunk::<2>()?;
    let (topic, mut rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let mut packet_id = None;
    if frame.first == AT_LEAST_ONCE {
        let (id, behind) = rest.split_first_chunk::<2>()?;
        packet_id = Some(PacketId::new(u16::from_be_bytes(*id))?);
        rest = behind;
    }
    let payload = if v5 { rest.strip_prefix(&[0])? } else { rest };
    (!topic.is_empty() && payload.len() < SMALL_BYTES).then_some((topic, packet_id, payload))
}

fn levels_of(topic: &[u8]) -> usize {
    core::str::from_utf8(topic).map_or(usize::MAX, levels)
}

fn encode(image: &mut Vec<u8>, topic: &[u8], payload: &[u8], v5: bool) {
    let remaining = 2 + topic.len() + usize::from(v5) + payload.len();
    image.clear();
    image.push(0x30);
    let mut length = remaining;
    while length > 0x7F {
        image.push(length as u8 | 0x80);
        length >>= 7;
    }
    image.push(length as u8);
    image.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    image.extend_from_slice(topic);
    if v5 {
        image.push(0);
    }
    image.extend_from_slice(payload);
}

/// The first byte of a PUBLISH without DUP and RETAIN.
const AT_MOST_ONCE: u8 = 0x30;
const AT_LEAST_ONCE: u8 = 0x32;
/// Larger payloads are worth sharing.
const SMALL_BYTES: usize = 4 * 1024;
