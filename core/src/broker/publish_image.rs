//! The wire image of an outgoing PUBLISH: how a publication looks to one class of receivers.

use crate::message::Publication;
use crate::packet::{PacketId, Property, QoS, Version};
use crate::time::Wall;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// What of a PUBLISH depends on its receiver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery<'a> {
    pub(crate) version: Version,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) identifiers: &'a [NonZeroU32],
    /// The Topic Alias, and whether the receiver does not know it yet.
    pub(crate) alias: Option<(u16, bool)>,
}

impl Delivery<'_> {
    #[inline]
    fn properties_len(&self, publication: &Publication<'_>) -> usize {
        let expiry = if publication.expires.is_some() { 5 } else { 0 };
        let alias = if self.alias.is_some() { 3 } else { 0 };
        let identifiers: usize = self.identifiers.iter().map(|id| 1 + varint_len(id.get() as usize)).sum();
        expiry + alias + identifiers + publication.passed_on_len()
    }

    #[inline]
    fn remaining_len(&self, publication: &Publication<'_>) -> (usize, usize) {
        let packet_id = if self.packet_id.is_some() { 2 } else { 0 };
        let rest = 2 + self.topic(publication).len() + packet_id + publication.payload.len();
        if self.version != Version::V5 {
            return (rest, 0);
        }
        let properties = self.properties_len(publication);
        (rest + varint_len(properties) + properties, properties)
    }

    fn topic<'p>(&self, publication: &Publication<'p>) -> &'p str {
        match self.alias {
            Some((_, false)) => "",
            _ => publication.topic,
        }
    }
}

/// The size of the whole packet in bytes.
pub(crate) fn publish_len(publication: &Publication<'_>, delivery: &Delivery<'_>) -> usize {
    let (remaining, _) = delivery.remaining_len(publication);
    1 + varint_len(remaining) + remaining
}

/// Appends the packet without its payload; returns where in `out` its Packet Identifier stands.
#[inline]
pub(crate) fn encode_publish(
    out: &mut Vec<u8>,
    publication: &Publication<'_>,
    delivery: &Delivery<'_>,
    wall: Wall,
) -> usize {
    if delivery.version != Version::V5 {
        return encode_old(out, publication, delivery);
    }
    let (remaining, properties) = delivery.remaining_len(publication);
    let flags = u8::from(delivery.dup) << 3 | (delivery.qos as u8) << 1 | u8::from(delivery.retain);
    let (first, topic) = (0x30 | flags, delivery.topic(publication));
    let [high, low] = (topic.len() as u16).to_be_bytes();
    out.reserve(5 + remaining);
    out.push(first);
    varint(out, remaining);
    out.extend_from_slice(&[high, low]);
    out.extend_from_slice(topic.as_bytes());
    let at = out.len();
    if let Some(packet_id) = delivery.packet_id {
        out.extend_from_slice(&packet_id.get().to_be_bytes());
    }
    if delivery.version == Version::V5 {
        varint(out, properties);
        if let Some(expires) = publication.expires {
            // The time it waited here is taken off [MQTT-3.3.2-6].
            let seconds = expires.0.saturating_sub(wall.0).div_ceil(1000).min(u64::from(u32::MAX));
            Property::MessageExpiryInterval(seconds as u32).encode(out);
        }
        if let Some((alias, _)) = delivery.alias {
            Property::TopicAlias(alias).encode(out);
        }
        for identifier in delivery.identifiers {
            Property::SubscriptionIdentifier(*identifier).encode(out);
        }
        publication.passed_on(out);
    }
    at
}

/// The same for 3.x, which has neither properties nor Topic Aliases.
#[inline]
fn encode_old(out: &mut Vec<u8>, publication: &Publication<'_>, delivery: &Delivery<'_>) -> usize {
    let (topic, id) = (publication.topic, delivery.packet_id);
    let remaining = 2 + topic.len() + if id.is_some() { 2 } else { 0 } + publication.payload.len();
    let first = 0x30 | u8::from(delivery.dup) << 3 | (delivery.qos as u8) << 1 | u8::from(delivery.retain);
    let [high, low] = (topic.len() as u16).to_be_bytes();
    out.reserve(5 + remaining);
    // Arrays of a known length are written without a loop.
    if remaining < 128 {
        out.extend_from_slice(&[first, remaining as u8, high, low]);
    } else {
        out.push(first);
        varint(out, remaining);
        out.extend_from_slice(&[high, low]);
    }
    out.extend_from_slice(topic.as_bytes());
    let at = out.len();
    if let Some(id) = id {
        out.extend_from_slice(&id.get().to_be_bytes());
    }
    at
}

fn varint_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 128 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
