//! CONNACK (section 3.2).

use super::properties::context;
use super::reader::Reader;
use super::writer::{Encode, Sink};
use super::{Frame, PacketType, Properties, ReasonCode, Version};
use crate::error::{Misuse, Violation};
use alloc::vec::Vec;

/// Connect acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connack<'a> {
    /// Whether the server resumes a session; 3.1 cannot say it.
    pub session_present: bool,
    /// The outcome; in 3.x the nearest Connect Return Code, see [`ReasonCode::connack_v3`].
    pub reason: ReasonCode,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
}

const SESSION_PRESENT: u8 = 0x01;

/// [MQTT-3.2.2-8]
const fn allows(reason: ReasonCode) -> bool {
    use ReasonCode::*;
    matches!(
        reason,
        Success
            | UnspecifiedError
            | MalformedPacket
            | ProtocolError
            | ImplementationSpecificError
            | UnsupportedProtocolVersion
            | ClientIdentifierNotValid
            | BadUserNameOrPassword
            | NotAuthorized
            | ServerUnavailable
            | ServerBusy
            | Banned
            | BadAuthenticationMethod
            | TopicNameInvalid
            | PacketTooLarge
            | QuotaExceeded
            | PayloadFormatInvalid
            | RetainNotSupported
            | QosNotSupported
            | UseAnotherServer
            | ServerMoved
            | ConnectionRateExceeded
    )
}

impl<'a> Connack<'a> {
    /// The nearest reason code that a CONNACK may carry.
    pub(crate) const fn reason_for(reason: ReasonCode) -> ReasonCode {
        match reason {
            // [MQTT-3.2.2-8]
            reason if allows(reason) => reason,
            ReasonCode::ServerShuttingDown => ReasonCode::ServerUnavailable,
            _ => ReasonCode::UnspecifiedError,
        }
    }

    /// Decodes the packet.
    ///
    /// # Errors
    /// The peer broke a rule of the standard that this packet alone shows.
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, Violation> {
        // [MQTT-2.1.3-1]
        frame.expect_flags(0, "MQTT-2.1.3-1")?;
        let mut reader = Reader::new(frame.body);
        let flags = match (reader.u8()?, version) {
            // 3.1 does not use this byte.
            (_, Version::V31) => 0,
            (flags, _) => flags,
        };
        if flags & !SESSION_PRESENT != 0 {
            // [MQTT-3.2.2-1]
            return Err(Violation::malformed("MQTT-3.2.2-1"));
        }
        let session_present = flags != 0;
        let code = reader.u8()?;
        let reason = match version {
            Version::V5 => ReasonCode::from_u8(code).filter(|reason| allows(*reason)),
            Version::V31 | Version::V311 => ReasonCode::from_connack_v3(code),
        };
        // [MQTT-3.2.2-8]
        let reason = reason.ok_or(Violation::protocol("MQTT-3.2.2-8"))?;
        if session_present && reason != ReasonCode::Success {
            // [MQTT-3.2.2-6]
            return Err(Violation::protocol("MQTT-3.2.2-6"));
        }
        let properties = reader.properties(version, context::CONNACK)?;
        reader.finish()?;
        Ok(Self { session_present, reason, properties })
    }

    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet is longer than MQTT can say; nothing is appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.append(version, out)
    }
}

impl Encode for Connack<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Connack.first_byte(0)
    }

    fn body(&self, version: Version, sink: &mut impl Sink) {
        // [MQTT-3.2.2-6]
        let session_present =
            self.session_present && self.reason == ReasonCode::Success && version != Version::V31;
        sink.u8(if session_present { SESSION_PRESENT } else { 0 });
        sink.u8(if version == Version::V5 { self.reason as u8 } else { self.reason.connack_v3() });
        sink.properties(&self.properties, version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::packet::tests::{VERSIONS, assert_violation, assert_wire, decode, encode};

    const fn connack(session_present: bool, reason: ReasonCode) -> Packet<'static> {
        Packet::Connack(Connack { session_present, reason, properties: Properties::EMPTY })
    }

    #[test]
    fn version_3_has_a_return_code_and_version_5_a_reason_code() {
        let accepted = connack(true, ReasonCode::Success);
        assert_wire(&accepted, Version::V311, &[0x20, 2, 1, 0]);
        assert_wire(&accepted, Version::V5, &[0x20, 3, 1, 0, 0]);
        let refused = connack(false, ReasonCode::NotAuthorized);
        assert_wire(&refused, Version::V31, &[0x20, 2, 0, 5]);
        assert_wire(&refused, Version::V5, &[0x20, 3, 0, 0x87, 0]);
        assert_eq!(encode(&connack(false, ReasonCode::QuotaExceeded), Version::V311), [0x20, 2, 0, 3]);
    }

    #[test]
    fn version_3_1_does_not_know_session_present() {
        assert_eq!(encode(&connack(true, ReasonCode::Success), Version::V31), [0x20, 2, 0, 0]);
        assert_eq!(decode(&[0x20, 2, 0xFF, 0], Version::V31), Ok(connack(false, ReasonCode::Success)));
    }

    #[test]
    fn properties_follow_the_reason_code() {
        let properties = Properties::trusted(b"\x13\0\x0A");
        let packet =
            Packet::Connack(Connack { session_present: false, reason: ReasonCode::Success, properties });
        assert_wire(&packet, Version::V5, b"\x20\x06\0\0\x03\x13\0\x0A");
    }

    #[test]
    fn a_refused_connection_has_no_session() {
        // [MQTT-3.2.2-6]
        assert_eq!(encode(&connack(true, ReasonCode::Banned), Version::V5), [0x20, 3, 0, 0x8A, 0]);
        for (version, bytes) in [(Version::V5, &[0x20, 3, 1, 0x8A, 0][..]), (Version::V311, &[0x20, 2, 1, 5])]
        {
            assert_violation(bytes, version, Violation::protocol("MQTT-3.2.2-6"));
        }
    }

    #[test]
    fn what_a_connack_cannot_be() {
        for version in [Version::V311, Version::V5] {
            assert_violation(&[0x20, 3, 2, 0, 0], version, Violation::malformed("MQTT-3.2.2-1"));
        }
        for version in VERSIONS {
            assert_violation(&[0x21, 3, 0, 0, 0], version, Violation::malformed("MQTT-2.1.3-1"));
            assert_violation(&[0x20, 1, 0], version, Violation::malformed("MQTT-2.1.4"));
            assert_violation(&[0x20, 4, 0, 0, 0, 0], version, Violation::malformed("MQTT-2.1.4"));
        }
        assert_violation(&[0x20, 2, 0, 6], Version::V311, Violation::protocol("MQTT-3.2.2-8"));
        for code in [1, 0x8D, 0x8E, 0xFF] {
            assert_violation(&[0x20, 3, 0, code, 0], Version::V5, Violation::protocol("MQTT-3.2.2-8"));
        }
    }
}
