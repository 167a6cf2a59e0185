//! PUBREC (section 3.5): the receiver has taken over a QoS 2 message.

use super::ack::{Ack, Rules};
use super::properties::context;
use super::{PacketType, ReasonCode, Version};
use crate::error::Misuse;
use alloc::vec::Vec;

pub(super) const RULES: Rules = Rules {
    packet_type: PacketType::Pubrec,
    flags: 0,
    // [MQTT-2.1.3-1]
    flags_clause: "MQTT-2.1.3-1",
    context: context::PUBREC,
    // [MQTT-3.5.2-1]
    reason_clause: "MQTT-3.5.2-1",
    allows: |reason| {
        use ReasonCode::*;
        matches!(
            reason,
            Success
                | NoMatchingSubscribers
                | UnspecifiedError
                | ImplementationSpecificError
                | NotAuthorized
                | TopicNameInvalid
                | PacketIdentifierInUse
                | QuotaExceeded
                | PayloadFormatInvalid
        )
    },
};

impl Ack<'_> {
    /// Appends a PUBREC to `out`.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet is longer than MQTT can say; nothing is appended.
    #[inline]
    pub fn encode_pubrec(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.encode(&RULES, version, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Violation;
    use crate::packet::tests::{ID, VERSIONS, assert_violation, assert_wire, decode, encode};
    use crate::packet::{Packet, Properties};

    #[test]
    fn success_without_properties_has_four_bytes_in_all_versions() {
        for version in VERSIONS {
            assert_wire(&Packet::Pubrec(Ack::success(ID)), version, &[0x50, 2, 0x0A, 0x0B]);
        }
    }

    #[test]
    fn version_5_adds_a_reason_and_properties_if_there_are_any() {
        let mut ack = Ack::success(ID);
        ack.reason = ReasonCode::NoMatchingSubscribers;
        assert_wire(&Packet::Pubrec(ack.clone()), Version::V5, &[0x50, 3, 0x0A, 0x0B, 0x10]);
        assert_eq!(encode(&Packet::Pubrec(ack.clone()), Version::V311), [0x50, 2, 0x0A, 0x0B]);
        ack.properties = Properties::trusted(b"\x1F\0\x01w");
        let bytes = [0x50, 8, 0x0A, 0x0B, 0x10, 4, 0x1F, 0, 1, b'w'];
        assert_wire(&Packet::Pubrec(ack), Version::V5, &bytes);
        // What could have been left out may be there.
        assert_eq!(decode(&[0x50, 4, 0x0A, 0x0B, 0, 0], Version::V5), Ok(Packet::Pubrec(Ack::success(ID))));
    }

    #[test]
    fn only_the_reason_codes_of_this_packet_are_allowed() {
        // [MQTT-3.5.2-1]
        for code in [0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99] {
            assert!(decode(&[0x50, 3, 0, 1, code], Version::V5).is_ok(), "{code:#x}");
        }
        for code in [1, 0x11, 0x81, 0x92, 0xFF] {
            assert_violation(&[0x50, 3, 0, 1, code], Version::V5, Violation::protocol("MQTT-3.5.2-1"));
        }
    }

    #[test]
    fn what_a_pubrec_cannot_be() {
        for version in VERSIONS {
            assert_violation(&[0x50 | 1, 2, 0, 1], version, Violation::malformed("MQTT-2.1.3-1"));
            assert_violation(&[0x50, 2, 0, 0], version, Violation::malformed("MQTT-2.2.1-5"));
            assert_violation(&[0x50, 1, 0], version, Violation::malformed("MQTT-2.1.4"));
            assert_violation(&[0x50, 5, 0, 1, 0, 0, 0], version, Violation::malformed("MQTT-2.1.4"));
        }
        assert_violation(&[0x50, 3, 0, 1, 0], Version::V311, Violation::malformed("MQTT-2.1.4"));
        let alias = [0x50, 7, 0, 1, 0, 3, 0x23, 0, 1];
        assert_violation(&alias, Version::V5, Violation::malformed("MQTT-2.2.2.2"));
    }
}
