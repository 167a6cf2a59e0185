//! The fixed header (section 2.1): where a packet ends, and of which type it is.

use super::Version;
use crate::error::Violation;

/// The type of a control packet: the high half of its first byte.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PacketType {
    /// Connection request, client to server.
    Connect = 1,
    /// Connect acknowledgement, server to client.
    Connack,
    /// Publish message.
    Publish,
    /// Publish acknowledgement (QoS 1).
    Puback,
    /// Publish received (QoS 2 delivery part 1).
    Pubrec,
    /// Publish release (QoS 2 delivery part 2).
    Pubrel,
    /// Publish complete (QoS 2 delivery part 3).
    Pubcomp,
    /// Subscribe request, client to server.
    Subscribe,
    /// Subscribe acknowledgement, server to client.
    Suback,
    /// Unsubscribe request, client to server.
    Unsubscribe,
    /// Unsubscribe acknowledgement, server to client.
    Unsuback,
    /// PING request, client to server.
    Pingreq,
    /// PING response, server to client.
    Pingresp,
    /// Disconnect notification.
    Disconnect,
    /// Authentication exchange; MQTT 5.0 only.
    Auth = 15,
}

impl PacketType {
    /// The type of the four bits, none for the reserved 0.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Connect,
            2 => Self::Connack,
            3 => Self::Publish,
            4 => Self::Puback,
            5 => Self::Pubrec,
            6 => Self::Pubrel,
            7 => Self::Pubcomp,
            8 => Self::Subscribe,
            9 => Self::Suback,
            10 => Self::Unsubscribe,
            11 => Self::Unsuback,
            12 => Self::Pingreq,
            13 => Self::Pingresp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The first byte of a packet of this type with the given flags.
    #[inline]
    pub(super) const fn first_byte(self, flags: u8) -> u8 {
        (self as u8) << 4 | flags
    }
}

/// One whole packet, not yet decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The first byte: packet type and flags.
    pub first: u8,
    /// Variable header and payload: everything after the Remaining Length.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// The packet type.
    ///
    /// # Errors
    /// Type 0 is reserved: the packet is malformed.
    #[inline]
    pub const fn packet_type(&self) -> Result<PacketType, Violation> {
        match PacketType::from_bits(self.first >> 4) {
            Some(packet_type) => Ok(packet_type),
            None => Err(Violation::malformed("MQTT-2.1.2")),
        }
    }

    /// The low half of the first byte.
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.first & 0x0F
    }

    /// Checks flags that the standard fixes, broken under `clause`.
    #[inline]
    pub(super) const fn expect_flags(&self, flags: u8, clause: &'static str) -> Result<(), Violation> {
        if self.flags() == flags { Ok(()) } else { Err(Violation::malformed(clause)) }
    }

    /// The same for PUBREL, SUBSCRIBE and UNSUBSCRIBE, whose fixed flags were QoS 1 in MQTT 3.1: there a
    /// re-delivery sets DUP too.
    #[inline]
    pub(super) fn expect_request_flags(
        &self,
        version: Version,
        clause: &'static str,
    ) -> Result<(), Violation> {
        if version == Version::V31 && self.flags() == 0b1010 {
            return Ok(());
        }
        self.expect_flags(0b0010, clause)
    }
}

/// What [`frame`] found at the start of the received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A whole packet, perhaps with more bytes behind it.
    Whole {
        /// The packet.
        frame: Frame<'a>,
        /// How many bytes it has, fixed header included.
        length: usize,
    },
    /// The beginning of a packet.
    Partial {
        /// How many bytes the packet has in total; while that is not known, a number that is too small but more
        /// than there are.
        needed: usize,
    },
}

/// Finds the packet at the start of `bytes`. Call it again with more bytes after [`Framed::Partial`]: it looks at
/// the first five bytes only, so nothing is lost by starting over.
///
/// # Errors
/// A packet of more than `packet_size_max` bytes is refused as soon as its length is known, before anybody buffers
/// it. A Remaining Length that is not a Variable Byte Integer is malformed.
#[inline]
pub fn frame(bytes: &[u8], packet_size_max: u32) -> Result<Framed<'_>, Violation> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(Framed::Partial { needed: 2 });
    };
    let Some((remaining, width)) = varint(rest)? else {
        return Ok(Framed::Partial { needed: bytes.len() + 1 });
    };
    let length = 1 + width + remaining as usize;
    if length > packet_size_max as usize {
        // [MQTT-3.2.2-15]
        return Err(Violation::with("MQTT-3.2.2-15", crate::packet::ReasonCode::PacketTooLarge));
    }
    match bytes.get(1 + width..length) {
        Some(body) => Ok(Framed::Whole { frame: Frame { first, body }, length }),
        None => Ok(Framed::Partial { needed: length }),
    }
}

/// The largest Variable Byte Integer: four bytes of seven bits.
pub(super) const VARINT_MAX: u32 = (1 << 28) - 1;

/// Reads a Variable Byte Integer: its value and how many bytes it has, or nothing while it is not complete.
#[inline]
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Violation> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            if byte == 0 && i > 0 {
                // [MQTT-1.5.5-1]
                return Err(Violation::malformed("MQTT-1.5.5-1"));
            }
            return Ok(Some((value, i + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(Violation::malformed("MQTT-1.5.5-1")) }
}

/// How many bytes a Variable Byte Integer has.
#[inline]
pub(super) const fn varint_len(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ReasonCode;
    use crate::packet::writer::Sink;

    #[test]
    fn varints_at_every_border_survive_the_round_trip() {
        for (value, length) in [
            (0, 1),
            (127, 1),
            (128, 2),
            (16_383, 2),
            (16_384, 3),
            (2_097_151, 3),
            (2_097_152, 4),
            (VARINT_MAX, 4),
        ] {
            let mut out = Vec::new();
            out.varint(value);
            assert_eq!((out.len(), varint_len(value)), (length, length));
            assert_eq!(varint(&out), Ok(Some((value, length))));
            assert_eq!(varint(&out[..length - 1]), Ok(None));
        }
    }

    #[test]
    fn a_varint_longer_than_needed_is_malformed() {
        // [MQTT-1.5.5-1]
        for bytes in [&[0x80, 0x00][..], &[0xFF, 0x80, 0x00], &[0x80, 0x80, 0x80, 0x80], &[0xFF; 5]] {
            assert_eq!(varint(bytes), Err(Violation::malformed("MQTT-1.5.5-1")), "{bytes:x?}");
        }
    }

    #[test]
    fn a_packet_split_anywhere_is_the_same_packet() {
        let mut bytes = vec![0x30, 0x80 | 72, 1];
        bytes.resize(203, b'x');
        bytes.push(0xC0);
        for split in 0..203 {
            let Ok(Framed::Partial { needed }) = frame(&bytes[..split], u32::MAX) else {
                panic!("whole at {split}");
            };
            assert!(needed > split && needed <= 203);
            assert_eq!(needed == 203, split >= 3 || split == 202);
        }
        let whole = Framed::Whole { frame: Frame { first: 0x30, body: &bytes[3..203] }, length: 203 };
        assert_eq!(frame(&bytes[..203], 203), Ok(whole));
        assert_eq!(frame(&bytes, 203), Ok(whole));
    }

    #[test]
    fn a_packet_that_is_too_large_is_refused_by_its_header() {
        // [MQTT-3.2.2-15]
        let too_large = Err(Violation::with("MQTT-3.2.2-15", ReasonCode::PacketTooLarge));
        assert_eq!(frame(&[0x30, 0x80, 0x01], 130), too_large);
        assert_eq!(frame(&[0x30, 0x80, 0x01], 131), Ok(Framed::Partial { needed: 131 }));
        assert_eq!(frame(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], VARINT_MAX), too_large);
    }

    #[test]
    fn packet_type_0_is_malformed() {
        assert_eq!(Frame { first: 0x0F, body: &[] }.packet_type(), Err(Violation::malformed("MQTT-2.1.2")));
        for bits in 1..=15 {
            let packet_type = Frame { first: bits << 4, body: &[] }.packet_type().unwrap();
            assert_eq!((packet_type as u8, packet_type.first_byte(2)), (bits, bits << 4 | 2));
        }
    }
}
