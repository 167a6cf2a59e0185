//! Reads the fields of a packet from the front of its body.

use super::header::varint;
use super::properties::Properties;
use super::{PacketId, Version, utf8};
use crate::error::Violation;

/// A field is longer than what is left of the packet: the Remaining Length is wrong.
const TRUNCATED: Violation = Violation::malformed("MQTT-2.1.4");

/// What has not been read yet. Copy it to look ahead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[inline]
    pub(super) const fn rest(self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) const fn is_empty(self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may follow the last field.
    #[inline]
    pub(super) const fn finish(self) -> Result<(), Violation> {
        if self.rest.is_empty() { Ok(()) } else { Err(TRUNCATED) }
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let (chunk, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*chunk)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, Violation> {
        self.chunk().map(u8::from_be_bytes)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, Violation> {
        self.chunk().map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, Violation> {
        self.chunk().map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u32, Violation> {
        let (value, width) = varint(self.rest)?.ok_or(TRUNCATED)?;
        self.take(width)?;
        Ok(value)
    }

    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Violation> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Binary Data, or a string that is not checked.
    #[inline]
    pub(super) fn binary(&mut self) -> Result<&'a [u8], Violation> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 Encoded String.
    #[inline]
    pub(super) fn text(&mut self) -> Result<&'a str, Violation> {
        utf8::text(self.binary()?)
    }

    /// A Packet Identifier, which `clause` says must not be 0.
    #[inline]
    pub(super) fn packet_id(&mut self, clause: &'static str) -> Result<PacketId, Violation> {
        PacketId::new(self.u16()?).ok_or(Violation::malformed(clause))
    }

    /// The properties of a packet or will, see [`super::properties::context`]; none in 3.x.
    #[inline]
    pub(super) fn properties(&mut self, version: Version, context: u16) -> Result<Properties<'a>, Violation> {
        if version == Version::V5 { Properties::decode(self, context) } else { Ok(Properties::EMPTY) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_beyond_the_end_is_malformed() {
        assert_eq!(Reader::new(&[]).u8(), Err(TRUNCATED));
        assert_eq!(Reader::new(&[1]).u16(), Err(TRUNCATED));
        assert_eq!(Reader::new(&[1, 2, 3]).u32(), Err(TRUNCATED));
        assert_eq!(Reader::new(&[0x80]).varint(), Err(TRUNCATED));
        assert_eq!(Reader::new(&[0, 2, b'a']).text(), Err(TRUNCATED));
    }

    #[test]
    fn fields_are_read_in_network_order() {
        let mut reader = Reader::new(&[1, 2, 3, 4, 5, 6, 7, 0x81, 1, 0, 1, b'a', 9]);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(0x0203));
        assert_eq!(reader.u32(), Ok(0x0405_0607));
        assert_eq!(reader.varint(), Ok(129));
        assert_eq!(reader.text(), Ok("a"));
        assert_eq!(reader.finish(), Err(TRUNCATED));
        assert_eq!(reader.take(1), Ok(&[9][..]));
        assert_eq!(reader.finish(), Ok(()));
    }
}
