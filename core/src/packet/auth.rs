//! AUTH (section 3.15).

use super::ack::{outcome, write_outcome};
use super::properties::context;
use super::reader::Reader;
use super::writer::{Encode, Sink};
use super::{Frame, PacketType, Properties, ReasonCode, Version};
use crate::error::{Misuse, Violation};
use alloc::vec::Vec;

/// Authentication exchange, in 5.0 only. That it names the Authentication Method of the CONNECT [MQTT-4.12.0-5] is
/// for the receiver to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// The properties.
    pub properties: Properties<'a>,
}

/// [MQTT-3.15.2-1]
fn allows(reason: ReasonCode) -> bool {
    use ReasonCode::*;
    matches!(reason, Success | ContinueAuthentication | ReAuthenticate)
}

impl<'a> Auth<'a> {
    /// Decodes the packet.
    ///
    /// # Errors
    /// The peer broke a rule of the standard that this packet alone shows; the packet type is reserved in 3.x.
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, Violation> {
        if version != Version::V5 {
            return Err(Violation::malformed("MQTT-2.1.2"));
        }
        // [MQTT-3.15.1-1]
        frame.expect_flags(0, "MQTT-3.15.1-1")?;
        let reader = Reader::new(frame.body);
        let (reason, properties) = outcome(reader, version, context::AUTH, "MQTT-3.15.2-1", allows)?;
        Ok(Self { reason, properties })
    }

    /// Appends the packet to `out`. Do not send it in 3.x.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet is longer than MQTT can say; nothing is appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.append(version, out)
    }
}

impl Encode for Auth<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Auth.first_byte(0)
    }

    fn body(&self, version: Version, sink: &mut impl Sink) {
        write_outcome(self.reason, &self.properties, version, context::AUTH, sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::packet::tests::{assert_violation, assert_wire};

    #[test]
    fn success_without_properties_has_two_bytes() {
        let packet = Packet::Auth(Auth { reason: ReasonCode::Success, properties: Properties::EMPTY });
        assert_wire(&packet, Version::V5, &[0xF0, 0]);
    }

    #[test]
    fn a_reason_is_followed_by_properties() {
        let reason = ReasonCode::ContinueAuthentication;
        let properties = Properties::trusted(b"\x15\0\x01m\x16\0\x01d");
        let packet = Packet::Auth(Auth { reason, properties });
        assert_wire(&packet, Version::V5, b"\xF0\x0A\x18\x08\x15\0\x01m\x16\0\x01d");
        let empty = Packet::Auth(Auth { reason, properties: Properties::EMPTY });
        assert_wire(&empty, Version::V5, &[0xF0, 2, 0x18, 0]);
    }

    #[test]
    fn what_an_auth_cannot_be() {
        for version in [Version::V31, Version::V311] {
            assert_violation(&[0xF0, 0], version, Violation::malformed("MQTT-2.1.2"));
        }
        assert_violation(&[0xF1, 0], Version::V5, Violation::malformed("MQTT-3.15.1-1"));
        assert_violation(&[0xF0, 1, 0x18], Version::V5, Violation::malformed("MQTT-2.1.4"));
        for code in [1, 0x80, 0x8C, 0xFF] {
            assert_violation(&[0xF0, 2, code, 0], Version::V5, Violation::protocol("MQTT-3.15.2-1"));
        }
    }
}
