//! What the four publish acknowledgements have in common: PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7).

use super::properties::context;
use super::reader::Reader;
use super::writer::{Encode, Sink};
use super::{Frame, PacketId, PacketType, Properties, ReasonCode, Version};
use super::{puback, pubcomp, pubrec, pubrel};
use crate::error::{Misuse, Violation};
use alloc::vec::Vec;

/// A publish acknowledgement; which of the four, the packet around it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The Packet Identifier of the PUBLISH.
    pub packet_id: PacketId,
    /// The reason; 3.x knows only [`ReasonCode::Success`] and does not send it.
    pub reason: ReasonCode,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
}

/// In what the four differ.
pub(super) struct Rules {
    pub(super) packet_type: PacketType,
    pub(super) flags: u8,
    pub(super) flags_clause: &'static str,
    pub(super) context: u16,
    pub(super) reason_clause: &'static str,
    pub(super) allows: fn(ReasonCode) -> bool,
}

impl<'a> Ack<'a> {
    /// An acknowledgement without more to say than [`ReasonCode::Success`].
    #[must_use]
    pub const fn success(packet_id: PacketId) -> Self {
        Self { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }
    }

    /// An acknowledgement that says nothing but its Packet Identifier, if it is one.
    #[inline]
    pub(crate) fn bytes(
        packet: PacketType,
        packet_id: PacketId,
        reason: ReasonCode,
        version: Version,
    ) -> Option<[u8; 4]> {
        if version == Version::V5 && reason != ReasonCode::Success {
            return None;
        }
        let flags = match packet {
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubcomp => 0,
            PacketType::Pubrel => pubrel::RULES.flags,
            _ => return None,
        };
        let [high, low] = packet_id.get().to_be_bytes();
        Some([packet.first_byte(flags), 2, high, low])
    }

    /// Decodes the packet by the rules of the frame's packet type.
    ///
    /// # Errors
    /// The peer broke a rule of the standard that this packet alone shows, or it is none of the four.
    #[inline]
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, Violation> {
        let rules = match frame.packet_type()? {
            PacketType::Puback => &puback::RULES,
            PacketType::Pubrec => &pubrec::RULES,
            PacketType::Pubrel => &pubrel::RULES,
            PacketType::Pubcomp => &pubcomp::RULES,
            _ => return Err(Violation::malformed("MQTT-2.1.2")),
        };
        if let ([high, low], true) = (frame.body, frame.flags() == rules.flags) {
            // Nothing but the identifier: mostly so.
            let packet_id = PacketId::new(u16::from_be_bytes([*high, *low]));
            // [MQTT-2.2.1-5]
            return packet_id.map(Self::success).ok_or(Violation::malformed("MQTT-2.2.1-5"));
        }
        if rules.flags == 0 {
            frame.expect_flags(0, rules.flags_clause)?;
        } else {
            frame.expect_request_flags(version, rules.flags_clause)?;
        }
        let mut reader = Reader::new(frame.body);
        // [MQTT-2.2.1-5]
        let packet_id = reader.packet_id("MQTT-2.2.1-5")?;
        let (reason, properties) =
            outcome(reader, version, rules.context, rules.reason_clause, rules.allows)?;
        Ok(Self { packet_id, reason, properties })
    }

    #[inline]
    pub(super) fn encode(&self, rules: &Rules, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        WithRules { ack: self, rules }.append(version, out)
    }
}

/// The end of an acknowledgement, and all of a DISCONNECT and AUTH: in 5.0, properties can be left out if there are
/// none, and then the reason if it is Success. In 3.x there is nothing.
#[inline]
pub(super) fn outcome<'a>(
    mut reader: Reader<'a>,
    version: Version,
    context: u16,
    reason_clause: &'static str,
    allows: fn(ReasonCode) -> bool,
) -> Result<(ReasonCode, Properties<'a>), Violation> {
    let mut outcome = (ReasonCode::Success, Properties::EMPTY);
    if version == Version::V5 && !reader.is_empty() {
        outcome.0 = ReasonCode::from_u8(reader.u8()?)
            .filter(|reason| allows(*reason))
            .ok_or(Violation::protocol(reason_clause))?;
        // An AUTH that has a reason has properties, as it must name the Authentication Method.
        if !reader.is_empty() || context == context::AUTH {
            outcome.1 = reader.properties(version, context)?;
        }
    }
    reader.finish()?;
    Ok(outcome)
}

/// Writes what [`outcome`] reads, as short as it can be.
#[inline]
pub(super) fn write_outcome(
    reason: ReasonCode,
    properties: &Properties<'_>,
    version: Version,
    context: u16,
    sink: &mut impl Sink,
) {
    if version != Version::V5 || (reason == ReasonCode::Success && properties.is_empty()) {
        return;
    }
    sink.u8(reason as u8);
    if !properties.is_empty() || context == context::AUTH {
        sink.properties(properties, version);
    }
}

struct WithRules<'p> {
    ack: &'p Ack<'p>,
    rules: &'p Rules,
}

impl Encode for WithRules<'_> {
    #[inline]
    fn first_byte(&self) -> u8 {
        self.rules.packet_type.first_byte(self.rules.flags)
    }

    #[inline]
    fn body(&self, version: Version, sink: &mut impl Sink) {
        sink.u16(self.ack.packet_id.get());
        write_outcome(self.ack.reason, &self.ack.properties, version, self.rules.context, sink);
    }
}
