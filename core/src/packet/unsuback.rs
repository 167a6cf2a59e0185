//! UNSUBACK (section 3.11).

use super::properties::context;
use super::reader::Reader;
use super::suback::reasons;
use super::writer::{Encode, Sink};
use super::{Frame, PacketId, PacketType, Properties, ReasonCode, Version};
use crate::error::{Misuse, Violation};
use alloc::vec::Vec;

/// Unsubscribe acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsuback<'a> {
    /// The Packet Identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
    /// One [`ReasonCode`] for each Topic Filter, in their order; 3.x sends none.
    pub reasons: &'a [u8],
}

/// [MQTT-3.11.3-2]
pub(super) const fn allows(reason: ReasonCode) -> bool {
    use ReasonCode::*;
    matches!(
        reason,
        Success
            | NoSubscriptionExisted
            | UnspecifiedError
            | ImplementationSpecificError
            | NotAuthorized
            | TopicFilterInvalid
            | PacketIdentifierInUse
    )
}

impl<'a> Unsuback<'a> {
    /// Decodes the packet.
    ///
    /// # Errors
    /// The peer broke a rule of the standard that this packet alone shows.
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, Violation> {
        // [MQTT-2.1.3-1]
        frame.expect_flags(0, "MQTT-2.1.3-1")?;
        let mut reader = Reader::new(frame.body);
        // [MQTT-2.2.1-6]
        let packet_id = reader.packet_id("MQTT-2.2.1-6")?;
        let properties = reader.properties(version, context::UNSUBACK)?;
        let reasons = if version == Version::V5 {
            reasons(reader, "MQTT-3.11.3-2", "MQTT-3.11.3-2", allows)?
        } else {
            reader.finish()?;
            &[]
        };
        Ok(Self { packet_id, properties, reasons })
    }

    /// The outcome for each Topic Filter, in their order.
    pub fn reason_codes(&self) -> impl Iterator<Item = ReasonCode> + Clone + 'a {
        self.reasons.iter().filter_map(|&code| ReasonCode::from_u8(code))
    }

    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet is longer than MQTT can say; nothing is appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.append(version, out)
    }
}

impl Encode for Unsuback<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Unsuback.first_byte(0)
    }

    fn body(&self, version: Version, sink: &mut impl Sink) {
        sink.u16(self.packet_id.get());
        if version == Version::V5 {
            sink.properties(&self.properties, version);
            sink.bytes(self.reasons);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::packet::tests::{ID, VERSIONS, assert_violation, assert_wire, decode, encode};

    #[test]
    fn version_5_has_one_reason_for_each_filter_and_version_3_none() {
        let unsuback = Unsuback { packet_id: ID, properties: Properties::EMPTY, reasons: &[0, 0x11] };
        assert!(unsuback.reason_codes().eq([ReasonCode::Success, ReasonCode::NoSubscriptionExisted]));
        let mut packet = Packet::Unsuback(unsuback);
        assert_wire(&packet, Version::V5, b"\xB0\x05\x0A\x0B\0\0\x11");
        assert_eq!(encode(&packet, Version::V311), b"\xB0\x02\x0A\x0B");
        packet = Packet::Unsuback(Unsuback { packet_id: ID, properties: Properties::EMPTY, reasons: &[] });
        assert_wire(&packet, Version::V311, b"\xB0\x02\x0A\x0B");
    }

    #[test]
    fn only_the_reason_codes_of_this_packet_are_allowed() {
        // [MQTT-3.11.3-2]
        for code in [0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91] {
            assert!(decode(&[0xB0, 4, 0, 1, 0, code], Version::V5).is_ok(), "{code:#x}");
        }
        for code in [1, 2, 0x81, 0xFF] {
            assert_violation(&[0xB0, 4, 0, 1, 0, code], Version::V5, Violation::protocol("MQTT-3.11.3-2"));
        }
    }

    #[test]
    fn what_an_unsuback_cannot_be() {
        for version in VERSIONS {
            assert_violation(&[0xB2, 4, 0, 1, 0, 0], version, Violation::malformed("MQTT-2.1.3-1"));
            assert_violation(&[0xB0, 4, 0, 0, 0, 0], version, Violation::malformed("MQTT-2.2.1-6"));
        }
        assert_violation(&[0xB0, 3, 0, 1, 0], Version::V311, Violation::malformed("MQTT-2.1.4"));
        assert_violation(&[0xB0, 3, 0, 1, 0], Version::V5, Violation::protocol("MQTT-3.11.3-2"));
    }
}
