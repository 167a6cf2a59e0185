//! SUBACK (section 3.9).

use super::properties::context;
use super::reader::Reader;
use super::writer::{Encode, Sink};
use super::{Frame, PacketId, PacketType, Properties, ReasonCode, Version};
use crate::error::{Misuse, Violation};
use alloc::vec::Vec;

/// Subscribe acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suback<'a> {
    /// The Packet Identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
    /// One [`ReasonCode`] for each Topic Filter, in their order.
    pub reasons: &'a [u8],
}

/// All that 3.x can say about a subscription that failed.
const FAILURE: u8 = 0x80;

/// [MQTT-3.9.3-2]
pub(super) const fn allows(reason: ReasonCode, version: Version) -> bool {
    use ReasonCode::*;
    match reason {
        Success | GrantedQoS1 | GrantedQoS2 | UnspecifiedError => true,
        ImplementationSpecificError
        | NotAuthorized
        | TopicFilterInvalid
        | PacketIdentifierInUse
        | QuotaExceeded
        | SharedSubscriptionsNotSupported
        | SubscriptionIdentifiersNotSupported
        | WildcardSubscriptionsNotSupported => matches!(version, Version::V5),
        _ => false,
    }
}

impl<'a> Suback<'a> {
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
        let properties = reader.properties(version, context::SUBACK)?;
        let reasons = reasons(reader, "MQTT-3.8.4-6", "MQTT-3.9.3-2", |reason| allows(reason, version))?;
        Ok(Self { packet_id, properties, reasons })
    }

    /// The outcome for each Topic Filter, in their order.
    pub fn reason_codes(&self) -> impl Iterator<Item = ReasonCode> + Clone + 'a {
        self.reasons.iter().filter_map(|&code| ReasonCode::from_u8(code))
    }

    /// Appends the packet to `out`. In 3.x every failure becomes 0x80.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet is longer than MQTT can say; nothing is appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.append(version, out)
    }
}

/// Reads the Reason Codes at the end of SUBACK and UNSUBACK: at least one, as `count_clause` says, and those that
/// `reason_clause` allows.
pub(super) fn reasons<'a>(
    reader: Reader<'a>,
    count_clause: &'static str,
    reason_clause: &'static str,
    allows: impl Fn(ReasonCode) -> bool,
) -> Result<&'a [u8], Violation> {
    let reasons = reader.rest();
    if reasons.is_empty() {
        return Err(Violation::protocol(count_clause));
    }
    if reasons.iter().all(|&code| ReasonCode::from_u8(code).is_some_and(&allows)) {
        Ok(reasons)
    } else {
        Err(Violation::protocol(reason_clause))
    }
}

impl Encode for Suback<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Suback.first_byte(0)
    }

    fn body(&self, version: Version, sink: &mut impl Sink) {
        sink.u16(self.packet_id.get());
        sink.properties(&self.properties, version);
        if version == Version::V5 {
            sink.bytes(self.reasons);
        } else {
            self.reasons.iter().for_each(|&code| sink.u8(code.min(FAILURE)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::packet::tests::{ID, VERSIONS, assert_violation, assert_wire, decode, encode};

    #[test]
    fn there_is_one_reason_for_each_filter() {
        let suback = Suback { packet_id: ID, properties: Properties::EMPTY, reasons: &[0, 2, 0x80] };
        assert!(suback.reason_codes().eq([
            ReasonCode::Success,
            ReasonCode::GrantedQoS2,
            ReasonCode::UnspecifiedError
        ]));
        let packet = Packet::Suback(suback);
        assert_wire(&packet, Version::V311, b"\x90\x05\x0A\x0B\0\x02\x80");
        assert_wire(&packet, Version::V5, b"\x90\x06\x0A\x0B\0\0\x02\x80");
    }

    #[test]
    fn version_3_knows_one_kind_of_failure() {
        let packet = Packet::Suback(Suback {
            packet_id: ID,
            properties: Properties::EMPTY,
            reasons: &[1, 0x87, 0xA2],
        });
        assert_wire(&packet, Version::V5, b"\x90\x06\x0A\x0B\0\x01\x87\xA2");
        assert_eq!(encode(&packet, Version::V311), b"\x90\x05\x0A\x0B\x01\x80\x80");
    }

    #[test]
    fn only_the_reason_codes_of_this_packet_are_allowed() {
        // [MQTT-3.9.3-2]
        for code in [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2] {
            assert!(decode(&[0x90, 4, 0, 1, 0, code], Version::V5).is_ok(), "{code:#x}");
        }
        for code in [3, 4, 0x11, 0x81, 0x90, 0xFF] {
            assert_violation(&[0x90, 4, 0, 1, 0, code], Version::V5, Violation::protocol("MQTT-3.9.3-2"));
        }
        assert_violation(&[0x90, 3, 0, 1, 0x87], Version::V311, Violation::protocol("MQTT-3.9.3-2"));
    }

    #[test]
    fn what_a_suback_cannot_be() {
        for version in VERSIONS {
            assert_violation(&[0x91, 4, 0, 1, 0, 0], version, Violation::malformed("MQTT-2.1.3-1"));
            assert_violation(&[0x90, 4, 0, 0, 0, 0], version, Violation::malformed("MQTT-2.2.1-6"));
        }
        assert_violation(&[0x90, 2, 0, 1], Version::V311, Violation::protocol("MQTT-3.8.4-6"));
        assert_violation(&[0x90, 3, 0, 1, 0], Version::V5, Violation::protocol("MQTT-3.8.4-6"));
    }
}
