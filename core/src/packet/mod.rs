//! The control packets of MQTT 3.1, 3.1.1 and 5.0: one model for all three, the version is a parameter.
//!
//! Decoding borrows: a packet is a view on the receive buffer and allocates nothing. A packet that exists is valid
//! as far as it can be told from its bytes alone; each [`Violation`] names the statement that was broken. Encoding
//! appends to the outbox of a connection.
//!
//! ```
//! use culex_core::packet::{Framed, Packet, Publish, Version, frame};
//!
//! let received = b"\x30\x05\x00\x01thi\xC0\x00";
//! let Ok(Framed::Whole { frame, length }) = frame(received, 1024) else { panic!() };
//! let Ok(Packet::Publish(publish)) = Packet::decode(&frame, Version::V311) else { panic!() };
//! assert_eq!((&*publish.topic, &*publish.payload), ("t", &b"hi"[..]));
//!
//! let mut outbox = Vec::new();
//! publish.encode(Version::V5, &mut outbox).unwrap();
//! assert_eq!(outbox, b"\x30\x06\x00\x01t\x00hi");
//! assert_eq!(received[length..], [0xC0, 0x00]); // the next packet
//! ```

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod header;
mod ping;
mod properties;
mod puback;
mod pubcomp;
mod publish;
mod pubrec;
mod pubrel;
mod reader;
mod reason;
mod suback;
mod subscribe;
mod unsuback;
mod unsubscribe;
mod utf8;
mod writer;

#[cfg(test)]
mod tests;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::Connack;
pub(crate) use connect::version_of;
pub use connect::{Connect, Will};
pub use disconnect::Disconnect;
pub use header::{Frame, Framed, PacketType, frame};
pub use ping::{Pingreq, Pingresp};
pub use properties::{Properties, PropertiesBuf, Property, PropertyId, PropertyIter};
pub use publish::Publish;
pub use reason::ReasonCode;
pub use suback::Suback;
pub use subscribe::{
    RetainHandling, Subscribe, SubscribeFilters, SubscribeFiltersBuf, SubscribeFiltersIter,
    SubscriptionOptions,
};
pub use unsuback::Unsuback;
pub use unsubscribe::{Unsubscribe, UnsubscribeFilters, UnsubscribeFiltersBuf, UnsubscribeFiltersIter};
pub(crate) use utf8::checked_topic_name as topic_name;

use crate::error::{Misuse, Violation};
use alloc::vec::Vec;

/// The version of the protocol: what the Protocol Level of CONNECT says.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1.
    V31 = 3,
    /// MQTT 3.1.1.
    V311 = 4,
    /// MQTT 5.0.
    V5 = 5,
}

/// The nearest reason code that an acknowledgement or DISCONNECT of this type may carry in 5.0: policies may give
/// others.
pub(crate) fn reason_for(packet: PacketType, reason: ReasonCode) -> ReasonCode {
    let allowed = match packet {
        PacketType::Puback => (puback::RULES.allows)(reason),
        PacketType::Pubrec => (pubrec::RULES.allows)(reason),
        PacketType::Suback => suback::allows(reason, Version::V5),
        PacketType::Unsuback => unsuback::allows(reason),
        PacketType::Disconnect => disconnect::allows(reason),
        _ => true,
    };
    if allowed { reason } else { ReasonCode::UnspecifiedError }
}

/// How often a message is delivered.
#[repr(u8)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// At most once: QoS 0.
    #[default]
    AtMostOnce = 0,
    /// At least once: QoS 1.
    AtLeastOnce = 1,
    /// Exactly once: QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS of a number, none if it is greater than 2.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A Packet Identifier.
pub type PacketId = core::num::NonZeroU16;

/// Any control packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Connection request.
    Connect(Connect<'a>),
    /// Connect acknowledgement.
    Connack(Connack<'a>),
    /// Publish message.
    Publish(Publish<'a>),
    /// Publish acknowledgement (QoS 1).
    Puback(Ack<'a>),
    /// Publish received (QoS 2 delivery part 1).
    Pubrec(Ack<'a>),
    /// Publish release (QoS 2 delivery part 2).
    Pubrel(Ack<'a>),
    /// Publish complete (QoS 2 delivery part 3).
    Pubcomp(Ack<'a>),
    /// Subscribe request.
    Subscribe(Subscribe<'a>),
    /// Subscribe acknowledgement.
    Suback(Suback<'a>),
    /// Unsubscribe request.
    Unsubscribe(Unsubscribe<'a>),
    /// Unsubscribe acknowledgement.
    Unsuback(Unsuback<'a>),
    /// PING request.
    Pingreq,
    /// PING response.
    Pingresp,
    /// Disconnect notification.
    Disconnect(Disconnect<'a>),
    /// Authentication exchange.
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// Decodes a packet of either direction. CONNECT brings its own version and ignores the parameter.
    ///
    /// # Errors
    /// The peer broke a rule of the standard that this packet alone shows.
    #[inline]
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, Violation> {
        Ok(match frame.packet_type()? {
            PacketType::Publish => Self::Publish(Publish::decode(frame, version)?),
            PacketType::Puback => Self::Puback(Ack::decode(frame, version)?),
            PacketType::Pubrec => Self::Pubrec(Ack::decode(frame, version)?),
            PacketType::Pubrel => Self::Pubrel(Ack::decode(frame, version)?),
            PacketType::Pubcomp => Self::Pubcomp(Ack::decode(frame, version)?),
            PacketType::Connect => Self::Connect(Connect::decode(frame, version)?),
            PacketType::Connack => Self::Connack(Connack::decode(frame, version)?),
            PacketType::Subscribe => Self::Subscribe(Subscribe::decode(frame, version)?),
            PacketType::Suback => Self::Suback(Suback::decode(frame, version)?),
            PacketType::Unsubscribe => Self::Unsubscribe(Unsubscribe::decode(frame, version)?),
            PacketType::Unsuback => Self::Unsuback(Unsuback::decode(frame, version)?),
            PacketType::Pingreq => Pingreq::decode(frame, version).map(|Pingreq| Self::Pingreq)?,
            PacketType::Pingresp => Pingresp::decode(frame, version).map(|Pingresp| Self::Pingresp)?,
            PacketType::Disconnect => Self::Disconnect(Disconnect::decode(frame, version)?),
            PacketType::Auth => Self::Auth(Auth::decode(frame, version)?),
        })
    }

    /// The type of the packet.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::Connack(_) => PacketType::Connack,
            Self::Publish(_) => PacketType::Publish,
            Self::Puback(_) => PacketType::Puback,
            Self::Pubrec(_) => PacketType::Pubrec,
            Self::Pubrel(_) => PacketType::Pubrel,
            Self::Pubcomp(_) => PacketType::Pubcomp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::Suback(_) => PacketType::Suback,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::Unsuback(_) => PacketType::Unsuback,
            Self::Pingreq => PacketType::Pingreq,
            Self::Pingresp => PacketType::Pingresp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet or one of its fields is longer than MQTT can say; nothing is appended.
    #[inline]
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        match self {
            Self::Publish(packet) => packet.encode(version, out),
            Self::Puback(packet) => packet.encode_puback(version, out),
            Self::Pubrec(packet) => packet.encode_pubrec(version, out),
            Self::Pubrel(packet) => packet.encode_pubrel(version, out),
            Self::Pubcomp(packet) => packet.encode_pubcomp(version, out),
            Self::Connect(packet) => packet.encode(version, out),
            Self::Connack(packet) => packet.encode(version, out),
            Self::Subscribe(packet) => packet.encode(version, out),
            Self::Suback(packet) => packet.encode(version, out),
            Self::Unsubscribe(packet) => packet.encode(version, out),
            Self::Unsuback(packet) => packet.encode(version, out),
            Self::Pingreq => Pingreq.encode(version, out),
            Self::Pingresp => Pingresp.encode(version, out),
            Self::Disconnect(packet) => packet.encode(version, out),
            Self::Auth(packet) => packet.encode(version, out),
        }
    }
}
