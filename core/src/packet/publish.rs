//! PUBLISH (section 3.3): the hot path. Neither direction allocates.

use super::properties::context;
use super::reader::Reader;
use super::writer::{Encode, Sink};
use super::{Frame, PacketId, PacketType, Properties, QoS, Version, utf8};
use crate::error::{Misuse, Violation};
use alloc::borrow::Cow;
use alloc::vec::Vec;

/// Publish message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Whether this may be a re-delivery.
    pub dup: bool,
    /// The QoS of this hop.
    pub qos: QoS,
    /// To the server: keep the message for future subscribers. From the server: it was kept.
    pub retain: bool,
    /// The Topic Name; empty if, in 5.0, a Topic Alias stands for it.
    pub topic: Cow<'a, str>,
    /// There is one exactly if the QoS is not 0.
    pub packet_id: Option<PacketId>,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
    /// The Application Message.
    pub payload: Cow<'a, [u8]>,
}

const RETAIN: u8 = 0b0001;
const DUP: u8 = 0b1000;

impl<'a> Publish<'a> {
    /// Decodes the packet.
    ///
    /// # Errors
    /// The peer broke a rule of the standard that this packet alone shows.
    #[inline]
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, Violation> {
        let flags = frame.flags();
        // [MQTT-3.3.1-4]
        let qos = QoS::from_bits(flags >> 1 & 0b11).ok_or(Violation::malformed("MQTT-3.3.1-4"))?;
        let dup = flags & DUP != 0;
        if dup && qos == QoS::AtMostOnce {
            // [MQTT-3.3.1-2]
            return Err(Violation::malformed("MQTT-3.3.1-2"));
        }
        let mut reader = Reader::new(frame.body);
        // [MQTT-3.3.2-1], [MQTT-3.3.2-2]
        let topic = utf8::topic_name(reader.binary()?, "MQTT-3.3.2-2")?;
        let packet_id = match qos {
            // [MQTT-2.2.1-2]
            QoS::AtMostOnce => None,
            // [MQTT-2.2.1-3]
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(reader.packet_id("MQTT-2.2.1-3")?),
        };
        let properties = reader.properties(version, context::PUBLISH)?;
        if topic.is_empty() {
            if version != Version::V5 {
                // [MQTT-4.7.3-1]
                return Err(Violation::malformed("MQTT-4.7.3-1"));
            }
            if properties.topic_alias().is_none() {
                return Err(Violation::protocol("MQTT-3.3.2.1"));
            }
        }
        Ok(Self {
            dup,
            qos,
            retain: flags & RETAIN != 0,
            topic: Cow::Borrowed(topic),
            packet_id,
            properties,
            payload: Cow::Borrowed(reader.rest()),
        })
    }

    /// Appends the packet to `out`. DUP and Packet Identifier of a QoS 0 message are left out.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet or its topic is longer than MQTT can say; nothing is appended.
    #[inline]
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.append(version, out)
    }
}

impl Encode for Publish<'_> {
    #[inline]
    fn first_byte(&self) -> u8 {
        let mut flags = (self.qos as u8) << 1;
        if self.retain {
            flags |= RETAIN;
        }
        // [MQTT-3.3.1-2]
        if self.dup && self.qos != QoS::AtMostOnce {
            flags |= DUP;
        }
        PacketType::Publish.first_byte(flags)
    }

    #[inline]
    fn body(&self, version: Version, sink: &mut impl Sink) {
        sink.text(&self.topic);
        if self.qos != QoS::AtMostOnce {
            debug_assert!(self.packet_id.is_some(), "a message of QoS 1 or 2 has a Packet Identifier");
            sink.u16(self.packet_id.map_or(0, PacketId::get));
        }
        sink.properties(&self.properties, version);
        sink.bytes(&self.payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{ID, VERSIONS, assert_violation, assert_wire, encode};
    use crate::packet::{Packet, ReasonCode};

    fn publish(qos: QoS) -> Publish<'static> {
        Publish {
            dup: false,
            qos,
            retain: false,
            topic: Cow::Borrowed("a/b"),
            packet_id: (qos != QoS::AtMostOnce).then_some(ID),
            properties: Properties::EMPTY,
            payload: Cow::Borrowed(b"hi"),
        }
    }

    #[test]
    fn flags_topic_identifier_properties_and_payload_have_their_places() {
        for version in [Version::V31, Version::V311] {
            let packet = Packet::Publish(publish(QoS::AtMostOnce));
            assert_wire(&packet, version, b"\x30\x07\0\x03a/bhi");
            let mut again = publish(QoS::AtLeastOnce);
            (again.dup, again.retain) = (true, true);
            assert_wire(&Packet::Publish(again), version, b"\x3B\x09\0\x03a/b\x0A\x0Bhi");
        }
        let mut packet = publish(QoS::ExactlyOnce);
        assert_wire(&Packet::Publish(packet.clone()), Version::V5, b"\x34\x0A\0\x03a/b\x0A\x0B\0hi");
        packet.properties = Properties::trusted(b"\x01\x01");
        assert_wire(&Packet::Publish(packet), Version::V5, b"\x34\x0C\0\x03a/b\x0A\x0B\x02\x01\x01hi");
    }

    #[test]
    fn the_payload_may_be_empty_and_may_be_anything() {
        let mut packet = publish(QoS::AtMostOnce);
        packet.payload = Cow::Borrowed(b"");
        assert_wire(&Packet::Publish(packet.clone()), Version::V311, b"\x30\x05\0\x03a/b");
        packet.payload = Cow::Borrowed(b"\0\xFF#");
        assert_wire(&Packet::Publish(packet), Version::V311, b"\x30\x08\0\x03a/b\0\xFF#");
    }

    #[test]
    fn decoding_borrows_from_the_receive_buffer() {
        let frame = Frame { first: 0x30, body: b"\0\x03a/b\x02\x01\0hi" };
        let packet = Publish::decode(&frame, Version::V5).unwrap();
        assert!(matches!(packet.topic, Cow::Borrowed(topic) if topic.as_ptr() == frame.body[2..].as_ptr()));
        assert!(
            matches!(packet.payload, Cow::Borrowed(payload) if payload.as_ptr() == frame.body[8..].as_ptr())
        );
        assert_eq!(packet.properties.raw().as_ptr(), frame.body[6..].as_ptr());
    }

    #[test]
    fn a_qos_0_message_is_sent_without_dup_and_packet_identifier() {
        // [MQTT-3.3.1-2], [MQTT-2.2.1-2]
        let mut packet = publish(QoS::AtMostOnce);
        (packet.dup, packet.packet_id) = (true, Some(ID));
        assert_eq!(encode(&Packet::Publish(packet), Version::V311), b"\x30\x07\0\x03a/bhi");
    }

    #[test]
    fn what_a_publish_cannot_be() {
        for version in VERSIONS {
            let cases: [(&[u8], &str); 9] = [
                (b"\x36\x07\0\x01t\0\x01\0x", "MQTT-3.3.1-4"),
                (b"\x38\x04\0\x01t\0", "MQTT-3.3.1-2"),
                (b"\x32\x06\0\x01t\0\0\0", "MQTT-2.2.1-3"),
                (b"\x30\x06\0\x03a/+\0", "MQTT-3.3.2-2"),
                (b"\x30\x04\0\x01#\0", "MQTT-3.3.2-2"),
                (b"\x30\x04\0\x01\0\0", "MQTT-1.5.4-2"),
                (b"\x30\x04\0\x01\xFF\0", "MQTT-1.5.4-1"),
                (b"\x30\x01\0", "MQTT-2.1.4"),
                (b"\x32\x04\0\x01t\0", "MQTT-2.1.4"),
            ];
            for (bytes, clause) in cases {
                assert_violation(bytes, version, Violation::malformed(clause));
            }
        }
        assert_violation(b"\x30\x03\0\x01t", Version::V5, Violation::malformed("MQTT-2.1.4"));
    }

    #[test]
    fn only_a_topic_alias_stands_for_an_empty_topic() {
        for version in [Version::V31, Version::V311] {
            assert_violation(b"\x30\x04\0\0hi", version, Violation::malformed("MQTT-4.7.3-1"));
        }
        assert_violation(b"\x30\x05\0\0\0hi", Version::V5, Violation::protocol("MQTT-3.3.2.1"));
        let mut packet = publish(QoS::AtMostOnce);
        packet.topic = Cow::Borrowed("");
        packet.properties = Properties::trusted(b"\x23\0\x01");
        assert_wire(&Packet::Publish(packet), Version::V5, b"\x30\x08\0\0\x03\x23\0\x01hi");
        // [MQTT-3.3.2-8]
        let zero = Violation::with("MQTT-3.3.2-8", ReasonCode::TopicAliasInvalid);
        assert_violation(b"\x30\x06\0\0\x03\x23\0\0", Version::V5, zero);
    }
}
