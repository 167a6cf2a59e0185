//! DISCONNECT (section 3.14).

use super::ack::{outcome, write_outcome};
use super::properties::context;
use super::reader::Reader;
use super::writer::{Encode, Sink};
use super::{Frame, PacketType, Properties, ReasonCode, Version};
use crate::error::{Misuse, Violation};
use alloc::vec::Vec;

/// Disconnect notification. In 3.x only clients send it, and it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// The reason; [`ReasonCode::Success`] is a normal disconnection, and always in 3.x.
    pub reason: ReasonCode,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
}

/// [MQTT-3.14.2-1]: from either side; which side may send which is not told by the packet.
pub(super) fn allows(reason: ReasonCode) -> bool {
    use ReasonCode::*;
    matches!(
        reason,
        Success
            | DisconnectWithWill
            | UnspecifiedError
            | MalformedPacket
            | ProtocolError
            | ImplementationSpecificError
            | NotAuthorized
            | ServerBusy
            | ServerShuttingDown
            | BadAuthenticationMethod
            | KeepAliveTimeout
            | SessionTakenOver
            | TopicFilterInvalid
            | TopicNameInvalid
            | ReceiveMaximumExceeded
            | TopicAliasInvalid
            | PacketTooLarge
            | MessageRateTooHigh
            | QuotaExceeded
            | AdministrativeAction
            | PayloadFormatInvalid
            | RetainNotSupported
            | QosNotSupported
            | UseAnotherServer
            | ServerMoved
            | SharedSubscriptionsNotSupported
            | ConnectionRateExceeded
            | MaximumConnectTime
            | SubscriptionIdentifiersNotSupported
            | WildcardSubscriptionsNotSupported
    )
}

impl<'a> Disconnect<'a> {
    /// Decodes the packet.
    ///
    /// # Errors
    /// The peer broke a rule of the standard that this packet alone shows.
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, Violation> {
        // [MQTT-3.14.1-1]
        frame.expect_flags(0, "MQTT-3.14.1-1")?;
        let reader = Reader::new(frame.body);
        let (reason, properties) = outcome(reader, version, context::DISCONNECT, "MQTT-3.14.2-1", allows)?;
        Ok(Self { reason, properties })
    }

    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet is longer than MQTT can say; nothing is appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.append(version, out)
    }
}

impl Encode for Disconnect<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Disconnect.first_byte(0)
    }

    fn body(&self, version: Version, sink: &mut impl Sink) {
        write_outcome(self.reason, &self.properties, version, context::DISCONNECT, sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::packet::tests::{VERSIONS, assert_violation, assert_wire, decode, encode};

    #[test]
    fn a_normal_disconnection_has_two_bytes_in_all_versions() {
        let reason = ReasonCode::Success;
        for version in VERSIONS {
            let packet = Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY });
            assert_wire(&packet, version, &[0xE0, 0]);
        }
        let long = decode(&[0xE0, 2, 0, 0], Version::V5);
        assert_eq!(long, Ok(Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY })));
    }

    #[test]
    fn version_5_adds_a_reason_and_properties_if_there_are_any() {
        let reason = ReasonCode::SessionTakenOver;
        let short = Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY });
        assert_wire(&short, Version::V5, &[0xE0, 1, 0x8E]);
        assert_eq!(encode(&short, Version::V311), [0xE0, 0]);
        let properties = Properties::trusted(b"\x1C\0\x01s");
        let long = Packet::Disconnect(Disconnect { reason, properties });
        assert_wire(&long, Version::V5, b"\xE0\x06\x8E\x04\x1C\0\x01s");
    }

    #[test]
    fn what_a_disconnect_cannot_be() {
        for version in VERSIONS {
            assert_violation(&[0xE1, 0], version, Violation::malformed("MQTT-3.14.1-1"));
            assert_violation(&[0xE0, 3, 0, 0, 0], version, Violation::malformed("MQTT-2.1.4"));
        }
        for version in [Version::V31, Version::V311] {
            assert_violation(&[0xE0, 1, 0], version, Violation::malformed("MQTT-2.1.4"));
        }
        for code in [1, 0x10, 0x84, 0x86, 0x91, 0xFF] {
            assert_violation(&[0xE0, 1, code], Version::V5, Violation::protocol("MQTT-3.14.2-1"));
        }
    }
}
