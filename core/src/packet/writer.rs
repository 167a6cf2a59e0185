//! Writes packets: each says once what its body consists of; the same description is first measured, for the
//! Remaining Length, and then appended. So the two cannot disagree, and what does not fit leaves no trace.

use super::Version;
use super::header::{VARINT_MAX, varint_len};
use super::properties::Properties;
use super::utf8::LENGTH_MAX;
use crate::error::Misuse;
use alloc::vec::Vec;

/// Takes the fields of a packet in their order.
pub(super) trait Sink {
    fn bytes(&mut self, bytes: &[u8]);

    /// Binary Data: two bytes of length, then the bytes.
    fn binary(&mut self, bytes: &[u8]);

    #[inline]
    fn text(&mut self, text: &str) {
        self.binary(text.as_bytes());
    }

    #[inline]
    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    #[inline]
    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline]
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// A Variable Byte Integer, at most [`VARINT_MAX`].
    #[inline]
    fn varint(&mut self, mut value: u32) {
        while value > 0x7F {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    /// Property Length and properties; nothing in 3.x.
    #[inline]
    fn properties(&mut self, properties: &Properties<'_>, version: Version) {
        if version == Version::V5 {
            // [MQTT-2.2.2-1]
            self.varint(properties.raw().len() as u32);
            self.bytes(properties.raw());
        }
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn binary(&mut self, bytes: &[u8]) {
        // `Size` has seen these bytes before: the cast loses nothing.
        self.u16(bytes.len() as u16);
        self.bytes(bytes);
    }
}

/// Only counts.
#[derive(Debug, Default)]
pub(super) struct Size {
    length: usize,
    too_large: bool,
}

impl Size {
    /// Whether all texts and data fit into their own lengths.
    pub(super) const fn fits(&self) -> bool {
        !self.too_large
    }

    /// The Remaining Length, if there is one.
    #[inline]
    fn remaining(self) -> Result<u32, Misuse> {
        match u32::try_from(self.length) {
            Ok(length) if length <= VARINT_MAX && !self.too_large => Ok(length),
            _ => Err(Misuse::TooLarge),
        }
    }
}

impl Sink for Size {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
    }

    #[inline]
    fn binary(&mut self, bytes: &[u8]) {
        self.length += 2 + bytes.len();
        self.too_large |= bytes.len() > LENGTH_MAX;
    }
}

/// What a packet consists of.
pub(super) trait Encode {
    /// Packet type and flags.
    fn first_byte(&self) -> u8;

    /// Variable header and payload.
    fn body(&self, version: Version, sink: &mut impl Sink);

    /// The Remaining Length.
    #[inline]
    fn remaining(&self, version: Version) -> Result<u32, Misuse> {
        let mut size = Size::default();
        self.body(version, &mut size);
        size.remaining()
    }

    /// Appends the packet.
    #[inline]
    fn append(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        let remaining = self.remaining(version)?;
        out.reserve(1 + varint_len(remaining) + remaining as usize);
        out.push(self.first_byte());
        out.varint(remaining);
        self.body(version, out);
        Ok(())
    }
}
