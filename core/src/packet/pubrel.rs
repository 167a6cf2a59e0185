//! PUBREL (section 3.6): the sender of a QoS 2 message will not send it again.

use super::ack::{Ack, Rules};
use super::properties::context;
use super::{PacketType, ReasonCode, Version};
use crate::error::Misuse;
use alloc::vec::Vec;

pub(super) const RULES: Rules = Rules {
    packet_type: PacketType::Pubrel,
    flags: 0b0010,
    // [MQTT-3.6.1-1]
    flags_clause: "MQTT-3.6.1-1",
    context: context::PUBREL,
    // [MQTT-3.6.2-1]
    reason_clause: "MQTT-3.6.2-1",
    allows: |reason| {
        use ReasonCode::*;
        matches!(reason, Success | PacketIdentifierNotFound)
    },
};

impl Ack<'_> {
    /// Appends a PUBREL to `out`.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet is longer than MQTT can say; nothing is appended.
    #[inline]
    pub fn encode_pubrel(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
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
            assert_wire(&Packet::Pubrel(Ack::success(ID)), version, &[0x62, 2, 0x0A, 0x0B]);
        }
    }

    #[test]
    fn version_5_adds_a_reason_and_properties_if_there_are_any() {
        let mut ack = Ack::success(ID);
        ack.reason = ReasonCode::PacketIdentifierNotFound;
        assert_wire(&Packet::Pubrel(ack.clone()), Version::V5, &[0x62, 3, 0x0A, 0x0B, 0x92]);
        assert_eq!(encode(&Packet::Pubrel(ack.clone()), Version::V311), [0x62, 2, 0x0A, 0x0B]);
        ack.properties = Properties::trusted(b"\x1F\0\x01w");
        let bytes = [0x62, 8, 0x0A, 0x0B, 0x92, 4, 0x1F, 0, 1, b'w'];
        assert_wire(&Packet::Pubrel(ack), Version::V5, &bytes);
        // What could have been left out may be there.
        assert_eq!(decode(&[0x62, 4, 0x0A, 0x0B, 0, 0], Version::V5), Ok(Packet::Pubrel(Ack::success(ID))));
    }

    #[test]
    fn only_the_reason_codes_of_this_packet_are_allowed() {
        // [MQTT-3.6.2-1]
        for code in [0, 0x92] {
            assert!(decode(&[0x62, 3, 0, 1, code], Version::V5).is_ok(), "{code:#x}");
        }
        for code in [0x10, 0x80, 0x91, 0xFF] {
            assert_violation(&[0x62, 3, 0, 1, code], Version::V5, Violation::protocol("MQTT-3.6.2-1"));
        }
    }

    #[test]
    fn what_a_pubrel_cannot_be() {
        for version in VERSIONS {
            assert_violation(&[0x62 | 1, 2, 0, 1], version, Violation::malformed("MQTT-3.6.1-1"));
            assert_violation(&[0x62, 2, 0, 0], version, Violation::malformed("MQTT-2.2.1-5"));
            assert_violation(&[0x62, 1, 0], version, Violation::malformed("MQTT-2.1.4"));
            assert_violation(&[0x62, 5, 0, 1, 0, 0, 0], version, Violation::malformed("MQTT-2.1.4"));
        }
        assert_violation(&[0x62, 3, 0, 1, 0], Version::V311, Violation::malformed("MQTT-2.1.4"));
        let alias = [0x62, 7, 0, 1, 0, 3, 0x23, 0, 1];
        assert_violation(&alias, Version::V5, Violation::malformed("MQTT-2.2.2.2"));
    }

    #[test]
    fn version_3_1_sends_a_pubrel_again_with_dup() {
        assert_eq!(decode(&[0x6A, 2, 0x0A, 0x0B], Version::V31), Ok(Packet::Pubrel(Ack::success(ID))));
        assert_violation(&[0x6A, 2, 0, 1], Version::V311, Violation::malformed("MQTT-3.6.1-1"));
        assert_violation(&[0x60, 2, 0, 1], Version::V31, Violation::malformed("MQTT-3.6.1-1"));
    }
}
