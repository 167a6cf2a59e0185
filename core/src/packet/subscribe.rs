//! SUBSCRIBE (section 3.8).

use super::properties::context;
use super::reader::Reader;
use super::writer::{Encode, Sink};
use super::{Frame, PacketId, PacketType, Properties, QoS, Version, utf8};
use crate::error::{Misuse, Violation};
use alloc::vec::Vec;

/// Subscribe request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// The Packet Identifier.
    pub packet_id: PacketId,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
    /// What to subscribe to. The wildcards in the Topic Filters have not been checked.
    pub filters: SubscribeFilters<'a>,
}

/// How matching messages are sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// Whether the subscriber does not want its own messages.
    pub no_local: bool,
    /// Whether forwarded messages keep their RETAIN flag.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// Whether retained messages are sent when a subscription is established.
#[repr(u8)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetainHandling {
    /// Send them.
    #[default]
    Send = 0,
    /// Send them only if the subscription did not exist.
    SendIfNew = 1,
    /// Do not send them.
    Never = 2,
}

const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const RETAIN_HANDLING_SHIFT: u8 = 4;
/// Reserved bits of the Subscription Options.
const RESERVED: u8 = 0b1100_0000;
/// The same in 3.x, which knows only the QoS.
const RESERVED_V3: u8 = 0b1111_1100;

impl SubscriptionOptions {
    /// The options with this QoS and nothing else, as in 3.x.
    #[must_use]
    pub const fn new(qos: QoS) -> Self {
        let retain_handling = RetainHandling::Send;
        Self { qos, no_local: false, retain_as_published: false, retain_handling }
    }

    /// Reads the Subscription Options; in 3.x they are the requested QoS alone.
    ///
    /// # Errors
    /// Reserved bits are set, or QoS or Retain Handling is 3.
    pub const fn from_byte(byte: u8, version: Version) -> Result<Self, Violation> {
        let reserved = if matches!(version, Version::V5) { RESERVED } else { RESERVED_V3 };
        if byte & reserved != 0 {
            // [MQTT-3.8.3-5]
            return Err(Violation::malformed("MQTT-3.8.3-5"));
        }
        let Some(qos) = QoS::from_bits(byte & 0b11) else {
            return Err(Violation::protocol("MQTT-3.8.3.1"));
        };
        let retain_handling = match byte >> RETAIN_HANDLING_SHIFT {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::Never,
            _ => return Err(Violation::protocol("MQTT-3.8.3.1")),
        };
        let retain_as_published = byte & RETAIN_AS_PUBLISHED != 0;
        Ok(Self { qos, no_local: byte & NO_LOCAL != 0, retain_as_published, retain_handling })
    }

    /// The byte that [`Self::from_byte`] reads in 5.0.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        let mut byte = self.qos as u8 | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT;
        if self.no_local {
            byte |= NO_LOCAL;
        }
        if self.retain_as_published {
            byte |= RETAIN_AS_PUBLISHED;
        }
        byte
    }
}

/// The pairs of Topic Filter and Subscription Options of a SUBSCRIBE; decoded, there is at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscribeFilters<'a> {
    raw: &'a [u8],
    count: usize,
}

impl<'a> SubscribeFilters<'a> {
    fn decode(mut reader: Reader<'a>, version: Version) -> Result<Self, Violation> {
        let raw = reader.rest();
        let mut count = 0;
        while !reader.is_empty() {
            let filter = topic_filter(&mut reader)?;
            let options = SubscriptionOptions::from_byte(reader.u8()?, version)?;
            if options.no_local && filter.starts_with(SHARED) {
                // [MQTT-3.8.3-4]
                return Err(Violation::protocol("MQTT-3.8.3-4"));
            }
            count += 1;
        }
        if count == 0 {
            // [MQTT-3.8.3-2]
            return Err(Violation::protocol("MQTT-3.8.3-2"));
        }
        Ok(Self { raw, count })
    }

    /// The pairs in their order.
    #[must_use]
    pub const fn iter(&self) -> SubscribeFiltersIter<'a> {
        SubscribeFiltersIter { rest: Reader::new(self.raw), left: self.count }
    }

    /// How many pairs there are.
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

impl<'a> IntoIterator for SubscribeFilters<'a> {
    type Item = (&'a str, SubscriptionOptions);
    type IntoIter = SubscribeFiltersIter<'a>;
    fn into_iter(self) -> SubscribeFiltersIter<'a> {
        self.iter()
    }
}

/// Iterates over [`SubscribeFilters`].
#[derive(Debug, Clone)]
pub struct SubscribeFiltersIter<'a> {
    rest: Reader<'a>,
    left: usize,
}

impl<'a> Iterator for SubscribeFiltersIter<'a> {
    type Item = (&'a str, SubscriptionOptions);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // Checked when they were decoded or pushed: there is no error to report.
        let filter = self.rest.text().ok()?;
        let options = SubscriptionOptions::from_byte(self.rest.u8().ok()?, Version::V5).ok()?;
        Some((filter, options))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for SubscribeFiltersIter<'_> {}

/// Collects what to subscribe to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SubscribeFiltersBuf {
    raw: Vec<u8>,
    count: usize,
}

impl SubscribeFiltersBuf {
    /// Nothing collected.
    #[must_use]
    pub const fn new() -> Self {
        Self { raw: Vec::new(), count: 0 }
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// [`Misuse::TopicFilter`] if the filter is empty, longer than 65,535 bytes or holds U+0000, or if the options
    /// set No Local on a Shared Subscription. Its wildcards are not checked.
    pub fn push(&mut self, filter: &str, options: SubscriptionOptions) -> Result<&mut Self, Misuse> {
        if !is_sendable(filter) || (options.no_local && filter.starts_with(SHARED)) {
            return Err(Misuse::TopicFilter);
        }
        self.raw.text(filter);
        self.raw.u8(options.to_byte());
        self.count += 1;
        Ok(self)
    }

    /// What has been collected. A packet needs at least one pair.
    #[must_use]
    pub fn as_filters(&self) -> SubscribeFilters<'_> {
        SubscribeFilters { raw: &self.raw, count: self.count }
    }
}

/// What the Topic Filter of a Shared Subscription starts with.
const SHARED: &str = "$share/";

/// Reads a Topic Filter [MQTT-3.8.3-1]; its wildcards are not checked here.
pub(super) fn topic_filter<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Violation> {
    let filter = reader.text()?;
    // [MQTT-4.7.3-1]
    if filter.is_empty() { Err(Violation::malformed("MQTT-4.7.3-1")) } else { Ok(filter) }
}

/// Whether [`topic_filter`] can read the filter back.
pub(super) fn is_sendable(filter: &str) -> bool {
    (1..=utf8::LENGTH_MAX).contains(&filter.len()) && !utf8::has_null(filter)
}

impl<'a> Subscribe<'a> {
    /// Decodes the packet.
    ///
    /// # Errors
    /// The peer broke a rule of the standard that this packet alone shows.
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, Violation> {
        // [MQTT-3.8.1-1]
        frame.expect_request_flags(version, "MQTT-3.8.1-1")?;
        let mut reader = Reader::new(frame.body);
        // [MQTT-2.2.1-3]
        let packet_id = reader.packet_id("MQTT-2.2.1-3")?;
        let properties = reader.properties(version, context::SUBSCRIBE)?;
        let filters = SubscribeFilters::decode(reader, version)?;
        Ok(Self { packet_id, properties, filters })
    }

    /// Appends the packet to `out`. In 3.x, of the options only the QoS is sent.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet is longer than MQTT can say; nothing is appended.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.append(version, out)
    }
}

impl Encode for Subscribe<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Subscribe.first_byte(0b0010)
    }

    fn body(&self, version: Version, sink: &mut impl Sink) {
        sink.u16(self.packet_id.get());
        sink.properties(&self.properties, version);
        for (filter, options) in self.filters {
            sink.text(filter);
            sink.u8(if version == Version::V5 { options.to_byte() } else { options.qos as u8 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::packet::tests::{ID, VERSIONS, assert_violation, assert_wire, decode, encode};

    const ALL: SubscriptionOptions = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::Never,
    };

    #[test]
    fn filters_and_options_alternate() {
        let mut filters = SubscribeFiltersBuf::new();
        filters.push("a/#", ALL).unwrap().push("b", SubscriptionOptions::new(QoS::ExactlyOnce)).unwrap();
        let filters = filters.as_filters();
        assert_eq!((filters.len(), filters.is_empty(), filters.iter().len()), (2, false, 2));
        let mut packet = Subscribe { packet_id: ID, properties: Properties::EMPTY, filters };
        let v5 = b"\x82\x0D\x0A\x0B\0\0\x03a/#\x2D\0\x01b\x02";
        assert_wire(&Packet::Subscribe(packet.clone()), Version::V5, v5);
        let v311 = encode(&Packet::Subscribe(packet.clone()), Version::V311);
        assert_eq!(v311, b"\x82\x0C\x0A\x0B\0\x03a/#\x01\0\x01b\x02");
        let Ok(Packet::Subscribe(decoded)) = decode(&v311, Version::V311) else { panic!("refused") };
        let options = SubscriptionOptions::new;
        assert!(
            decoded.filters.iter().eq([("a/#", options(QoS::AtLeastOnce)), ("b", options(QoS::ExactlyOnce))])
        );
        packet.properties = Properties::trusted(b"\x0B\x07");
        let with_identifier = b"\x82\x0F\x0A\x0B\x02\x0B\x07\0\x03a/#\x2D\0\x01b\x02";
        assert_wire(&Packet::Subscribe(packet), Version::V5, with_identifier);
    }

    #[test]
    fn every_option_byte_is_read_back_or_refused() {
        let mut valid = 0;
        for byte in 0..=u8::MAX {
            match SubscriptionOptions::from_byte(byte, Version::V5) {
                Ok(options) => assert_eq!((options.to_byte(), valid += 1), (byte, ())),
                Err(violation) if byte & RESERVED != 0 => {
                    assert_eq!(violation, Violation::malformed("MQTT-3.8.3-5"));
                }
                Err(violation) => {
                    assert!(byte & 0b11 == 0b11 || byte >> 4 == 0b11);
                    assert_eq!(violation, Violation::protocol("MQTT-3.8.3.1"));
                }
            }
            let v3 = SubscriptionOptions::from_byte(byte, Version::V311);
            assert_eq!(v3.is_ok(), byte <= 2);
        }
        assert_eq!(valid, 3 * 4 * 3);
    }

    #[test]
    fn what_a_subscribe_cannot_be() {
        let cases: [(&[u8], Violation); 10] = [
            (b"\x80\x06\0\x01\0\x01a\0", Violation::malformed("MQTT-3.8.1-1")),
            (b"\x82\x06\0\0\0\x01a\0", Violation::malformed("MQTT-2.2.1-3")),
            (b"\x82\x02\0\x01", Violation::protocol("MQTT-3.8.3-2")),
            (b"\x82\x05\0\x01\0\0\0", Violation::malformed("MQTT-4.7.3-1")),
            (b"\x82\x06\0\x01\0\x01\xFF\0", Violation::malformed("MQTT-1.5.4-1")),
            (b"\x82\x06\0\x01\0\x01\0\0", Violation::malformed("MQTT-1.5.4-2")),
            (b"\x82\x06\0\x01\0\x01a\x03", Violation::protocol("MQTT-3.8.3.1")),
            (b"\x82\x06\0\x01\0\x01a\x40", Violation::malformed("MQTT-3.8.3-5")),
            (b"\x82\x05\0\x01\0\x01a", Violation::malformed("MQTT-2.1.4")),
            (b"\x82\x07\0\x01\0\x01a\0\0", Violation::malformed("MQTT-2.1.4")),
        ];
        for (bytes, violation) in cases {
            for version in VERSIONS {
                let v5 = [&[bytes[0], bytes[1] + 1], &bytes[2..4], &[0], &bytes[4..]].concat();
                assert_violation(if version == Version::V5 { &v5 } else { bytes }, version, violation);
            }
        }
        assert_violation(b"\x82\x06\0\x01\0\x01a\x04", Version::V311, Violation::malformed("MQTT-3.8.3-5"));
        let twice = b"\x82\x0B\0\x01\x04\x0B\x01\x0B\x01\0\x01a\0";
        assert_violation(twice, Version::V5, Violation::protocol("MQTT-3.8.2.1.2"));
    }

    #[test]
    fn a_shared_subscription_is_never_no_local() {
        // [MQTT-3.8.3-4]
        let bytes = b"\x82\x10\0\x01\0\0\x0A$share/g/t\x04";
        assert_violation(bytes, Version::V5, Violation::protocol("MQTT-3.8.3-4"));
        assert_eq!(SubscribeFiltersBuf::new().push("$share/g/t", ALL).err(), Some(Misuse::TopicFilter));
    }

    #[test]
    fn what_is_not_a_text_is_not_collected() {
        let mut filters = SubscribeFiltersBuf::new();
        for filter in ["", "a\0", &*"x".repeat(65_536)] {
            assert_eq!(filters.push(filter, ALL).err(), Some(Misuse::TopicFilter));
        }
        assert!(filters.as_filters().is_empty());
    }

    #[test]
    fn version_3_1_subscribes_again_with_dup() {
        assert!(decode(b"\x8A\x06\0\x01\0\x01a\0", Version::V31).is_ok());
        assert!(decode(b"\x8A\x06\0\x01\0\x01a\0", Version::V311).is_err());
    }
}
