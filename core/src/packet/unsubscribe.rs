//! UNSUBSCRIBE (section 3.10).

use super::properties::context;
use super::reader::Reader;
use super::subscribe::{is_sendable, topic_filter};
use super::writer::{Encode, Sink};
use super::{Frame, PacketId, PacketType, Properties, Version};
use crate::error::{Misuse, Violation};
use alloc::vec::Vec;

/// Unsubscribe request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// The Packet Identifier.
    pub packet_id: PacketId,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
    /// What to unsubscribe from. The wildcards in the Topic Filters have not been checked.
    pub filters: UnsubscribeFilters<'a>,
}

/// The Topic Filters of an UNSUBSCRIBE; decoded, there is at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsubscribeFilters<'a> {
    raw: &'a [u8],
    count: usize,
}

impl<'a> UnsubscribeFilters<'a> {
    fn decode(mut reader: Reader<'a>) -> Result<Self, Violation> {
        let raw = reader.rest();
        let mut count = 0;
        while !reader.is_empty() {
            // [MQTT-3.10.3-1]
            topic_filter(&mut reader)?;
            count += 1;
        }
        if count == 0 {
            // [MQTT-3.10.3-2]
            return Err(Violation::protocol("MQTT-3.10.3-2"));
        }
        Ok(Self { raw, count })
    }

    /// The Topic Filters in their order.
    #[must_use]
    pub const fn iter(&self) -> UnsubscribeFiltersIter<'a> {
        UnsubscribeFiltersIter { rest: Reader::new(self.raw), left: self.count }
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> IntoIterator for UnsubscribeFilters<'a> {
    type Item = &'a str;
    type IntoIter = UnsubscribeFiltersIter<'a>;
    fn into_iter(self) -> UnsubscribeFiltersIter<'a> {
        self.iter()
    }
}

/// Iterates over [`UnsubscribeFilters`].
#[derive(Debug, Clone)]
pub struct UnsubscribeFiltersIter<'a> {
    rest: Reader<'a>,
    left: usize,
}

impl<'a> Iterator for UnsubscribeFiltersIter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // Checked when they were decoded or pushed: there is no error to report.
        self.rest.text().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for UnsubscribeFiltersIter<'_> {}

/// Collects what to unsubscribe from.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct UnsubscribeFiltersBuf {
    raw: Vec<u8>,
    count: usize,
}

impl UnsubscribeFiltersBuf {
    /// Nothing collected.
    #[must_use]
    pub const fn new() -> Self {
        Self { raw: Vec::new(), count: 0 }
    }

    /// Adds a Topic Filter.
    ///
    /// # Errors
    /// [`Misuse::TopicFilter`] if it is empty, longer than 65,535 bytes or holds U+0000. Its wildcards are not
    /// checked.
    pub fn push(&mut self, filter: &str) -> Result<&mut Self, Misuse> {
        if !is_sendable(filter) {
            return Err(Misuse::TopicFilter);
        }
        self.raw.text(filter);
        self.count += 1;
        Ok(self)
    }

    /// What has been collected. A packet needs at least one Topic Filter.
    #[must_use]
    pub fn as_filters(&self) -> UnsubscribeFilters<'_> {
        UnsubscribeFilters { raw: &self.raw, count: self.count }
    }
}

impl<'a> Unsubscribe<'a> {
    /// Decodes the packet.
    ///
    /// # Errors
    /// The peer broke a rule of the standard that this packet alone shows.
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, Violation> {
        // [MQTT-3.10.1-1]
        frame.expect_request_flags(version, "MQTT-3.10.1-1")?;
        let mut reader = Reader::new(frame.body);
        // [MQTT-2.2.1-3]
        let packet_id = reader.packet_id("MQTT-2.2.1-3")?;
        let properties = reader.properties(version, context::UNSUBSCRIBE)?;
        let filters = UnsubscribeFilters::decode(reader)?;
        Ok(Self { packet_id, properties, filters })
    }

    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet is longer than MQTT can say; nothing is appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.append(version, out)
    }
}

impl Encode for Unsubscribe<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Unsubscribe.first_byte(0b0010)
    }

    fn body(&self, version: Version, sink: &mut impl Sink) {
        sink.u16(self.packet_id.get());
        sink.properties(&self.properties, version);
        sink.bytes(self.filters.raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::packet::tests::{ID, VERSIONS, assert_violation, assert_wire};

    #[test]
    fn filters_follow_each_other() {
        let mut filters = UnsubscribeFiltersBuf::new();
        filters.push("a/#").unwrap().push("b").unwrap();
        let filters = filters.as_filters();
        assert_eq!((filters.len(), filters.is_empty(), filters.iter().len()), (2, false, 2));
        assert!(filters.iter().eq(["a/#", "b"]));
        let packet = Unsubscribe { packet_id: ID, properties: Properties::EMPTY, filters };
        let packet = Packet::Unsubscribe(packet);
        assert_wire(&packet, Version::V311, b"\xA2\x0A\x0A\x0B\0\x03a/#\0\x01b");
        assert_wire(&packet, Version::V5, b"\xA2\x0B\x0A\x0B\0\0\x03a/#\0\x01b");
    }

    #[test]
    fn what_an_unsubscribe_cannot_be() {
        let cases: [(&[u8], Violation); 7] = [
            (b"\xA0\x05\0\x01\0\x01a", Violation::malformed("MQTT-3.10.1-1")),
            (b"\xA2\x05\0\0\0\x01a", Violation::malformed("MQTT-2.2.1-3")),
            (b"\xA2\x02\0\x01", Violation::protocol("MQTT-3.10.3-2")),
            (b"\xA2\x04\0\x01\0\0", Violation::malformed("MQTT-4.7.3-1")),
            (b"\xA2\x05\0\x01\0\x01\xFF", Violation::malformed("MQTT-1.5.4-1")),
            (b"\xA2\x05\0\x01\0\x01\0", Violation::malformed("MQTT-1.5.4-2")),
            (b"\xA2\x06\0\x01\0\x01a\0", Violation::malformed("MQTT-2.1.4")),
        ];
        for (bytes, violation) in cases {
            for version in VERSIONS {
                let v5 = [&[bytes[0], bytes[1] + 1], &bytes[2..4], &[0], &bytes[4..]].concat();
                assert_violation(if version == Version::V5 { &v5 } else { bytes }, version, violation);
            }
        }
        let identifier = b"\xA2\x08\0\x01\x02\x0B\x01\0\x01a";
        assert_violation(identifier, Version::V5, Violation::malformed("MQTT-2.2.2.2"));
    }

    #[test]
    fn what_is_not_a_text_is_not_collected() {
        let mut filters = UnsubscribeFiltersBuf::new();
        for filter in ["", "a\0", &*"x".repeat(65_536)] {
            assert_eq!(filters.push(filter).err(), Some(Misuse::TopicFilter));
        }
        assert!(filters.as_filters().is_empty());
    }
}
