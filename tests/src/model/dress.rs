//! What a message wears on its way: properties that whoever gets it must get as they were published.

use culex_core::packet::{Properties, PropertiesBuf, Property};
use std::fmt;

/// Which properties a message has, one bit for each; what they say names the message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dress(pub u8);

impl Dress {
    /// Content Type.
    pub const CONTENT_TYPE: u8 = 1;
    /// Response Topic.
    pub const RESPONSE_TOPIC: u8 = 2;
    /// Correlation Data.
    pub const CORRELATION_DATA: u8 = 4;
    /// Payload Format Indicator.
    pub const PAYLOAD_FORMAT: u8 = 8;
    /// A User Property.
    pub const USER_PROPERTY: u8 = 16;
    /// Two User Properties of the same name, whose order counts [MQTT-3.3.2-18].
    pub const TWO_USER_PROPERTIES: u8 = 32;
    /// So many there are.
    pub const KINDS: u64 = 64;

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    /// The properties of message `message`.
    pub fn put_on(self, message: usize, properties: &mut PropertiesBuf) {
        let (kind, reply, data) =
            (format!("kind {message}"), format!("reply/{message}"), message.to_be_bytes());
        if self.has(Self::CONTENT_TYPE) {
            properties.push(Property::ContentType(&kind));
        }
        if self.has(Self::RESPONSE_TOPIC) {
            properties.push(Property::ResponseTopic(&reply));
        }
        if self.has(Self::CORRELATION_DATA) {
            properties.push(Property::CorrelationData(&data));
        }
        if self.has(Self::PAYLOAD_FORMAT) {
            properties.push(Property::PayloadFormatIndicator(1));
        }
        if self.has(Self::USER_PROPERTY) {
            properties.push(Property::UserProperty("about", &kind));
        }
        if self.has(Self::TWO_USER_PROPERTIES) {
            properties.push(Property::UserProperty("order", "second"));
            properties.push(Property::UserProperty("order", &kind));
        }
    }

    /// Whether a message that wears this has just these properties; those that belong to a delivery are not looked at.
    pub(crate) fn is_intact(self, message: usize, seen: &Properties<'_>) -> bool {
        let mut expected = PropertiesBuf::new();
        self.put_on(message, &mut expected);
        let expected = expected.as_properties();
        expected.content_type() == seen.content_type()
            && expected.response_topic() == seen.response_topic()
            && expected.correlation_data() == seen.correlation_data()
            && expected.payload_format_indicator() == seen.payload_format_indicator()
            && expected.user_properties().eq(seen.user_properties())
    }
}

impl fmt::Display for Dress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            "Content Type",
            "Response Topic",
            "Correlation Data",
            "Payload Format Indicator",
            "a User Property",
            "two User Properties",
        ];
        let worn = (0..).zip(names).filter(|(bit, _)| self.has(1 << bit)).map(|(_, name)| name);
        f.write_str(&worn.collect::<Vec<_>>().join(", "))
    }
}
