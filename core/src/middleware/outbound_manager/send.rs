//! Writing one PUBLISH into one outbox. A fan-out encodes once for each class of receivers and copies.

use super::{OutboundManager, drop_unsent};
use crate::broker::{
    Cx, Delivery, Fate, Identifiers, Outlets, Receiver, State, Traced, What, encode_publish, publish_len,
    seen_below,
};
use crate::connection::Connection;
use crate::hash::HashMap;
use crate::id::ConnectionId;
use crate::message::Publication;
use crate::packet::{PacketId, QoS, Version};
use crate::time::Wall;
use alloc::vec::Vec;

/// The message in hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct InHand<'a> {
    pub(super) publication: &'a Publication<'a>,
    pub(super) what: &'a What,
    /// It has more receivers than one.
    pub(super) many: bool,
}

impl InHand<'_> {
    /// Whether its payload is copied to each receiver.
    #[inline]
    pub(super) fn is_small(&self) -> bool {
        self.publication.payload.len() < SHARED_BYTES
    }
}

/// The wire image of the message in hand for one class of receivers: encoded once, copied to many.
#[derive(Debug, Default)]
pub(super) struct Image {
    class: Option<Class>,
    bytes: Vec<u8>,
    /// Where the Packet Identifier stands.
    id_at: usize,
}

/// Those who get the same bytes, but for the Packet Identifier.
#[derive(Debug)]
struct Class {
    version: Version,
    qos: QoS,
    retain: bool,
    identifiers: Identifiers,
}

/// The message in hand as clients below a mount point know it.
#[derive(Debug, Default)]
pub(super) struct Below {
    /// Of the clients of this listener.
    image: (u16, Image),
    /// Room for properties that are changed.
    pub(super) properties: Vec<u8>,
}

impl Image {
    /// The bytes of a delivery.
    #[inline]
    fn of(&mut self, hand: &InHand<'_>, delivery: &Delivery<'_>, receiver: &Receiver, wall: Wall) -> &[u8] {
        let is_it = |class: &Class| {
            (class.version, class.qos, class.retain) == (delivery.version, delivery.qos, delivery.retain)
                && class.identifiers == receiver.identifiers
        };
        if !self.class.as_ref().is_some_and(is_it) {
            self.bytes.clear();
            self.id_at = encode_publish(&mut self.bytes, hand.publication, delivery, wall);
            self.bytes.extend_from_slice(hand.publication.payload);
            let Delivery { version, qos, retain, .. } = *delivery;
            self.class = Some(Class { version, qos, retain, identifiers: receiver.identifiers.clone() });
        }
        if let (Some(packet_id), Some(place)) =
            (delivery.packet_id, self.bytes.get_mut(self.id_at..self.id_at + 2))
        {
            place.copy_from_slice(&packet_id.get().to_be_bytes());
        }
        &self.bytes
    }
}

impl OutboundManager {
    /// Another message is in hand.
    pub(super) fn forget_images(&mut self) {
        (self.image.class, self.below.image.1.class) = (None, None);
    }

    /// Writes one PUBLISH as its client knows the message. False: it cannot know it, or does not accept so large a packet;
    /// it is dropped as if it had been sent [MQTT-3.1.2-25].
    #[inline]
    pub(super) fn send_seen(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnectionId,
        mounted: bool,
        hand: &InHand<'_>,
        receiver: &Receiver,
        packet_id: Option<PacketId>,
    ) -> bool {
        if mounted {
            self.send_below(cx, id, hand, receiver, packet_id)
        } else {
            self.send(cx, id, hand, receiver, packet_id)
        }
    }

    /// The same for a client that knows the message by its full topic.
    #[inline]
    fn send(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnectionId,
        hand: &InHand<'_>,
        receiver: &Receiver,
        packet_id: Option<PacketId>,
    ) -> bool {
        let plain = cx.connection(id).is_some_and(Connection::is_plain);
        if plain && hand.is_small() {
            write_plain(cx, id, &mut self.image, hand, receiver, packet_id)
        } else {
            self.send_special(cx, id, hand, receiver, packet_id)
        }
    }

    /// The same for a client that limits packets or takes Topic Aliases, and for large messages.
    #[inline(never)]
    fn send_special(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnectionId,
        hand: &InHand<'_>,
        receiver: &Receiver,
        packet_id: Option<PacketId>,
    ) -> bool {
        let InHand { publication, what, many } = *hand;
        let Some(connection) = cx.state.connections.get(id) else { return false };
        let mut delivery = delivery(connection, receiver, packet_id);
        let limited = connection.packet_size_max < u32::MAX;
        if limited && publish_len(publication, &delivery) > connection.packet_size_max as usize {
            cx.stats().dropped_too_large += 1;
            cx.fate(receiver.session, publication.topic, Fate::TooLarge);
            return false;
        }
        cx.state.stats.publishes_sent += 1;
        // What has to teach its alias first must fit as well.
        let taught = Delivery { alias: Some((1, true)), ..delivery };
        if connection.topic_alias_maximum > 0
            && (!limited || publish_len(publication, &taught) <= connection.packet_size_max as usize)
        {
            delivery.alias = self.alias(cx, id, publication.topic);
        }
        let wall = cx.state.now.wall;
        let large = publication.payload.len() >= SHARED_BYTES && (many || matches!(what, What::Kept(_)));
        if large && let Some(message) = cx.keep(what) {
            cx.state.write(id, |out| {
                encode_publish(out, publication, &delivery, wall);
            });
            cx.state.share(id, message);
        } else if many && delivery.alias.is_none() {
            let bytes = self.image.of(hand, &delivery, receiver, wall);
            cx.state.write(id, |out| out.extend_from_slice(bytes));
        } else {
            cx.state.write(id, |out| {
                encode_publish(out, publication, &delivery, wall);
                out.extend_from_slice(publication.payload);
            });
        }
        let sent = Fate::Sent { qos: receiver.qos, packet_id: delivery.packet_id, again: false };
        cx.fate(receiver.session, publication.topic, sent);
        true
    }

    /// The same for a client below a mount point: the topic is sent without it.
    #[inline(never)]
    fn send_below(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnectionId,
        hand: &InHand<'_>,
        receiver: &Receiver,
        packet_id: Option<PacketId>,
    ) -> bool {
        let Some(listener) = cx.connection(id).map(|connection| connection.peer.listener) else {
            return false;
        };
        let config = cx.state.config.clone();
        let mut properties = core::mem::take(&mut self.below.properties);
        let seen = seen_below(&config.listener(listener).mount_point, hand.publication, &mut properties);
        let sent = match seen {
            Ok(seen) => {
                let (of, image) = &mut self.below.image;
                if *of != listener {
                    (*of, image.class) = (listener, None);
                }
                // Those who know the message by its full topic have their own.
                core::mem::swap(&mut self.image, image);
                let sent = self.send(cx, id, &InHand { publication: &seen, ..*hand }, receiver, packet_id);
                core::mem::swap(&mut self.image, &mut self.below.image.1);
                // What is told of it names the topic that the broker knows.
                let told = cx.state.trace.as_mut().and_then(|trace| trace.back_mut());
                if let Some(Traced::Delivery { topic, .. }) = told {
                    *topic = hand.publication.topic.into();
                }
                sent
            }
            Err(fate) => {
                drop_unsent(cx, receiver.session, hand.publication.topic, fate);
                false
            }
        };
        self.below.properties = properties;
        sent
    }

    /// The alias of a topic towards a client that allows aliases, and whether the client has yet to learn it
    /// [MQTT-3.3.2-7], [MQTT-3.1.2-26]. The first topics get one; nothing is taken back.
    fn alias(&mut self, cx: &Cx<'_>, id: ConnectionId, topic: &str) -> Option<(u16, bool)> {
        let most = cx.connection(id)?.topic_alias_maximum.min(cx.config().topic_alias_outbound_max);
        let seed = cx.seed();
        let known = self.aliases.get_or_insert_with(id, || HashMap::with_hasher(seed.hasher(PURPOSE)));
        if let Some(alias) = known.get(topic) {
            return Some((*alias, false));
        }
        if known.len() >= usize::from(most) {
            return None;
        }
        let alias = known.len() as u16 + 1;
        known.insert(topic.into(), alias);
        Some((alias, true))
    }
}

/// Writes a small message to a client that sets no limits, as most are. False: it is gone.
#[inline]
pub(super) fn write_plain(
    cx: &mut Cx<'_>,
    id: ConnectionId,
    image: &mut Image,
    hand: &InHand<'_>,
    receiver: &Receiver,
    packet_id: Option<PacketId>,
) -> bool {
    let State { connections, pool, dirty, stalled, full, stats, now, .. } = &mut *cx.state;
    let Some(connection) = connections.get_mut(id) else { return false };
    let delivery = delivery(connection, receiver, packet_id);
    stats.publishes_sent += 1;
    let mut outlets = Outlets { pool, dirty, stalled, full: *full };
    if hand.many {
        let bytes = image.of(hand, &delivery, receiver, now.wall);
        outlets.write(id, connection, |out| out.extend_from_slice(bytes));
    } else {
        outlets.write(id, connection, |out| {
            encode_publish(out, hand.publication, &delivery, now.wall);
            out.extend_from_slice(hand.publication.payload);
        });
    }
    let sent = Fate::Sent { qos: receiver.qos, packet_id, again: false };
    cx.fate(receiver.session, hand.publication.topic, sent);
    true
}

#[inline]
fn delivery<'r>(
    connection: &Connection,
    receiver: &'r Receiver,
    packet_id: Option<PacketId>,
) -> Delivery<'r> {
    Delivery {
        version: connection.version,
        qos: receiver.qos,
        retain: receiver.retain,
        dup: false,
        packet_id,
        identifiers: receiver.identifiers.as_slice(),
        alias: None,
    }
}

/// Separates the hashes of Topic Aliases from those of other tables.
pub(super) const PURPOSE: u64 = 0xa11a_5e51;
/// Payloads from this size on are shared between the outboxes of a fan-out; smaller ones are cheaper to copy.
const SHARED_BYTES: usize = 4 * 1024;
