//! Properties (section 2.2.2): one type for all packets and wills.
//!
//! They are checked once, when they are decoded, and kept as the bytes they came in. Reading one later is a walk
//! over those bytes; a set that is empty, as in 3.x and mostly in 5.0, costs one comparison.

use super::reader::Reader;
use super::writer::{Sink, Size};
use super::{QoS, utf8};
use crate::error::{Clause, Violation};
use crate::packet::ReasonCode;
use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;
use core::num::{NonZeroU16, NonZeroU32};

/// Where a property may stand: a set of packet types, or the properties of a will.
pub(super) mod context {
    use crate::packet::PacketType;

    pub(crate) const WILL: u16 = 1;
    pub(crate) const CONNECT: u16 = 1 << PacketType::Connect as u16;
    pub(crate) const CONNACK: u16 = 1 << PacketType::Connack as u16;
    pub(crate) const PUBLISH: u16 = 1 << PacketType::Publish as u16;
    pub(crate) const PUBACK: u16 = 1 << PacketType::Puback as u16;
    pub(crate) const PUBREC: u16 = 1 << PacketType::Pubrec as u16;
    pub(crate) const PUBREL: u16 = 1 << PacketType::Pubrel as u16;
    pub(crate) const PUBCOMP: u16 = 1 << PacketType::Pubcomp as u16;
    pub(crate) const SUBSCRIBE: u16 = 1 << PacketType::Subscribe as u16;
    pub(crate) const SUBACK: u16 = 1 << PacketType::Suback as u16;
    pub(crate) const UNSUBSCRIBE: u16 = 1 << PacketType::Unsubscribe as u16;
    pub(crate) const UNSUBACK: u16 = 1 << PacketType::Unsuback as u16;
    pub(crate) const DISCONNECT: u16 = 1 << PacketType::Disconnect as u16;
    pub(crate) const AUTH: u16 = 1 << PacketType::Auth as u16;

    /// The publish acknowledgements.
    pub(super) const ACK: u16 = PUBACK | PUBREC | PUBREL | PUBCOMP;
    /// Everything that may carry a User Property: all but PINGREQ and PINGRESP.
    pub(super) const ANY: u16 = WILL
        | CONNECT
        | PUBLISH
        | SUBSCRIBE
        | UNSUBSCRIBE
        | CONNACK
        | ACK
        | SUBACK
        | UNSUBACK
        | DISCONNECT
        | AUTH;
}

/// The properties of one packet or will, without the Property Length: as decoded, hence valid there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    raw: Cow<'a, [u8]>,
}

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Properties<'static> = Properties { raw: Cow::Borrowed(&[]) };

    /// Reads Property Length and properties, and checks that they may stand in `context`.
    #[inline]
    pub(super) fn decode(reader: &mut Reader<'a>, context: u16) -> Result<Self, Violation> {
        let length = reader.varint()?;
        if length == 0 {
            return Ok(Self::EMPTY);
        }
        let raw = reader.take(length as usize)?;
        check(raw, context)?;
        Ok(Self { raw: Cow::Borrowed(raw) })
    }

    /// Properties from bytes that were those of other properties. Bytes that were not give some wrong set, no
    /// panic.
    #[must_use]
    pub(crate) const fn trusted(raw: &'a [u8]) -> Self {
        Self { raw: Cow::Borrowed(raw) }
    }

    /// Whether these bytes are properties, whatever packet they belong to.
    pub(crate) fn well_formed(raw: &[u8]) -> bool {
        let mut rest = Reader::new(raw);
        while !rest.is_empty() {
            if Property::read(&mut rest).is_err() {
                return false;
            }
        }
        true
    }

    /// Properties that own what the buffer collected.
    #[must_use]
    pub fn from_buf(buf: PropertiesBuf) -> Properties<'static> {
        Properties { raw: Cow::Owned(buf.0) }
    }

    /// The encoded properties, without the Property Length.
    #[inline]
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The properties in their order.
    #[inline]
    #[must_use]
    pub fn iter(&self) -> PropertyIter<'_> {
        PropertyIter(Reader::new(&self.raw))
    }

    /// Makes them independent of the receive buffer.
    #[must_use]
    pub fn into_owned(self) -> Properties<'static> {
        Properties { raw: Cow::Owned(self.raw.into_owned()) }
    }

    /// A copy that is independent of the receive buffer.
    #[must_use]
    pub fn to_owned(&self) -> Properties<'static> {
        Properties { raw: Cow::Owned(self.raw.to_vec()) }
    }

    /// Appends the properties that `keep` wants, byte for byte and in their order.
    pub fn encode_where(&self, mut keep: impl FnMut(PropertyId) -> bool, out: &mut Vec<u8>) {
        let mut rest = Reader::new(&self.raw);
        while let Some((id, value)) = next_raw(&mut rest) {
            if keep(id) {
                out.push(id as u8);
                out.extend_from_slice(value);
            }
        }
    }

    /// All Subscription Identifiers: a server sends one for each subscription that matched.
    pub fn subscription_identifiers(&self) -> impl Iterator<Item = NonZeroU32> + Clone + '_ {
        self.values(PropertyId::SubscriptionIdentifier)
    }

    /// Whether there is a Subscription Identifier: a client must not send one [MQTT-3.3.4-6].
    #[must_use]
    pub fn has_subscription_identifier(&self) -> bool {
        self.subscription_identifier().is_some()
    }

    /// All User Properties in their order: names, which may repeat, and values.
    pub fn user_properties(&self) -> impl Iterator<Item = (&str, &str)> + Clone + '_ {
        self.values(PropertyId::UserProperty)
    }

    /// The values of the properties with this id.
    #[inline]
    fn values<'p, T: Value<'p>>(&'p self, wanted: PropertyId) -> impl Iterator<Item = T> + Clone + 'p {
        let mut rest = Reader::new(&self.raw);
        core::iter::from_fn(move || {
            while let Some((id, value)) = next_raw(&mut rest) {
                if id == wanted {
                    return T::read(&mut Reader::new(value)).ok();
                }
            }
            None
        })
    }
}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'p> IntoIterator for &'p Properties<'_> {
    type Item = Property<'p>;
    type IntoIter = PropertyIter<'p>;
    fn into_iter(self) -> PropertyIter<'p> {
        self.iter()
    }
}

/// Iterates over [`Properties`].
#[derive(Debug, Clone)]
pub struct PropertyIter<'p>(Reader<'p>);

impl<'p> Iterator for PropertyIter<'p> {
    type Item = Property<'p>;

    #[inline]
    fn next(&mut self) -> Option<Property<'p>> {
        if self.0.is_empty() {
            return None;
        }
        // Checked when they were decoded or pushed: there is no error to report.
        Property::read(&mut self.0).ok()
    }
}

/// Collects properties to send.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PropertiesBuf(Vec<u8>);

impl PropertiesBuf {
    /// Nothing collected.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one, see [`Property::encode`]. In which packets it may stand is for the caller to know.
    pub fn push(&mut self, property: Property<'_>) -> &mut Self {
        property.encode(&mut self.0);
        self
    }

    /// What has been collected, borrowed.
    #[inline]
    #[must_use]
    pub fn as_properties(&self) -> Properties<'_> {
        Properties { raw: Cow::Borrowed(&self.0) }
    }
}

/// Checks all properties of a packet or will.
fn check(raw: &[u8], context: u16) -> Result<(), Violation> {
    let mut rest = Reader::new(raw);
    let mut seen = 0u64;
    while !rest.is_empty() {
        let property = Property::read(&mut rest)?;
        let id = property.id();
        if id.contexts() & context == 0 {
            // Not valid for its packet type: malformed by section 2.2.2.2.
            return Err(Violation::malformed(WRONG_ID));
        }
        if seen & id.bit() != 0 && !id.repeats(context) {
            return Err(Violation::protocol(id.clause().0));
        }
        seen |= id.bit();
        property.check()?;
    }
    let authentication = PropertyId::AuthenticationMethod.bit() | PropertyId::AuthenticationData.bit();
    if seen & authentication == PropertyId::AuthenticationData.bit() {
        // Authentication Data without Authentication Method.
        return Err(Violation::protocol("MQTT-3.1.2.11.10"));
    }
    Ok(())
}

const WRONG_ID: &str = "MQTT-2.2.2.2";

/// Splits off the next property and does not look at its value.
#[inline]
fn next_raw<'a>(rest: &mut Reader<'a>) -> Option<(PropertyId, &'a [u8])> {
    let id = PropertyId::from_u8(rest.u8().ok()?)?;
    let value = rest.rest();
    id.skip(rest).ok()?;
    let length = value.len() - rest.rest().len();
    Some((id, &value[..length]))
}

/// The type of a property's value.
trait Value<'a>: Copy {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation>;
    fn write(self, sink: &mut impl Sink);

    fn skip(reader: &mut Reader<'_>) -> Result<(), Violation>;

    /// Whether it can be encoded; lengths are the sink's business.
    fn is_valid(self) -> bool {
        true
    }
}

macro_rules! fixed_size {
    ($($type:ty: $size:literal, $method:ident;)*) => {$(
        impl<'a> Value<'a> for $type {
            #[inline]
            fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
                reader.$method()
            }
            #[inline]
            fn write(self, sink: &mut impl Sink) {
                sink.$method(self);
            }
            #[inline]
            fn skip(reader: &mut Reader<'_>) -> Result<(), Violation> {
                reader.take($size).map(|_| ())
            }
        }
    )*};
}

fixed_size! {
    u8: 1, u8;
    u16: 2, u16;
    u32: 4, u32;
}

/// A value out of range. [`Property::read`] puts the clause of the property in its place.
const OUT_OF_RANGE: Violation = Violation::protocol("MQTT-2.2.2.2");

impl<'a> Value<'a> for bool {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(OUT_OF_RANGE),
        }
    }
    #[inline]
    fn write(self, sink: &mut impl Sink) {
        sink.u8(u8::from(self));
    }
    #[inline]
    fn skip(reader: &mut Reader<'_>) -> Result<(), Violation> {
        u8::skip(reader)
    }
}

impl<'a> Value<'a> for QoS {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        QoS::from_bits(reader.u8()?).filter(|qos| *qos != QoS::ExactlyOnce).ok_or(OUT_OF_RANGE)
    }
    fn write(self, sink: &mut impl Sink) {
        sink.u8(self as u8);
    }
    fn skip(reader: &mut Reader<'_>) -> Result<(), Violation> {
        u8::skip(reader)
    }
    fn is_valid(self) -> bool {
        self != QoS::ExactlyOnce
    }
}

impl<'a> Value<'a> for NonZeroU16 {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        NonZeroU16::new(reader.u16()?).ok_or(OUT_OF_RANGE)
    }
    #[inline]
    fn write(self, sink: &mut impl Sink) {
        sink.u16(self.get());
    }
    #[inline]
    fn skip(reader: &mut Reader<'_>) -> Result<(), Violation> {
        u16::skip(reader)
    }
}

/// A Variable Byte Integer: only Subscription Identifiers are.
impl<'a> Value<'a> for NonZeroU32 {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        NonZeroU32::new(reader.varint()?).ok_or(OUT_OF_RANGE)
    }
    #[inline]
    fn write(self, sink: &mut impl Sink) {
        sink.varint(self.get());
    }
    #[inline]
    fn skip(reader: &mut Reader<'_>) -> Result<(), Violation> {
        reader.varint().map(|_| ())
    }
    fn is_valid(self) -> bool {
        self.get() <= super::header::VARINT_MAX
    }
}

impl<'a> Value<'a> for &'a [u8] {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        reader.binary()
    }
    #[inline]
    fn write(self, sink: &mut impl Sink) {
        sink.binary(self);
    }
    #[inline]
    fn skip(reader: &mut Reader<'_>) -> Result<(), Violation> {
        reader.binary().map(|_| ())
    }
}

impl<'a> Value<'a> for &'a str {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        reader.text()
    }
    #[inline]
    fn write(self, sink: &mut impl Sink) {
        sink.text(self);
    }
    #[inline]
    fn skip(reader: &mut Reader<'_>) -> Result<(), Violation> {
        reader.binary().map(|_| ())
    }
    fn is_valid(self) -> bool {
        !utf8::has_null(self)
    }
}

/// A UTF-8 String Pair [MQTT-1.5.7-1].
impl<'a> Value<'a> for (&'a str, &'a str) {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        Ok((reader.text()?, reader.text()?))
    }
    #[inline]
    fn write(self, sink: &mut impl Sink) {
        sink.text(self.0);
        sink.text(self.1);
    }
    #[inline]
    fn skip(reader: &mut Reader<'_>) -> Result<(), Violation> {
        <&str>::skip(reader)?;
        <&str>::skip(reader)
    }
    fn is_valid(self) -> bool {
        self.0.is_valid() && self.1.is_valid()
    }
}

macro_rules! properties {
    ($($(#[$doc:meta])* $name:ident($type:ty) = $id:literal, $accessor:ident, $clause:literal, $contexts:expr;)*) => {
        /// The id of a property.
        #[repr(u8)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PropertyId {
            $($(#[$doc])* $name = $id,)*
            /// A name and a value whose meaning is not MQTT's.
            UserProperty = 0x26,
        }

        impl PropertyId {
            /// The property of a byte, if MQTT 5.0 knows it.
            #[inline]
            #[must_use]
            pub const fn from_u8(id: u8) -> Option<Self> {
                match id {
                    $($id => Some(Self::$name),)*
                    0x26 => Some(Self::UserProperty),
                    _ => None,
                }
            }

            /// The section of the standard that says which values there are, and that it stands only once.
            #[must_use]
            pub const fn clause(self) -> Clause {
                Clause(match self {
                    $(Self::$name => $clause,)*
                    Self::UserProperty => "MQTT-3.1.2.11.8",
                })
            }

            pub(super) const fn contexts(self) -> u16 {
                match self {
                    $(Self::$name => $contexts,)*
                    Self::UserProperty => context::ANY,
                }
            }

            #[inline]
            fn skip<'a>(self, reader: &mut Reader<'a>) -> Result<(), Violation> {
                match self {
                    $(Self::$name => <$type>::skip(reader),)*
                    Self::UserProperty => <(&str, &str)>::skip(reader),
                }
            }
        }

        /// One property with its value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Property<'a> {
            $($(#[$doc])* $name($type),)*
            /// A name and a value whose meaning is not MQTT's.
            UserProperty(&'a str, &'a str),
        }

        impl<'a> Property<'a> {
            /// Its id.
            #[inline]
            #[must_use]
            pub const fn id(&self) -> PropertyId {
                match self {
                    $(Self::$name(_) => PropertyId::$name,)*
                    Self::UserProperty(..) => PropertyId::UserProperty,
                }
            }

            fn read_value(id: PropertyId, reader: &mut Reader<'a>) -> Result<Self, Violation> {
                Ok(match id {
                    $(PropertyId::$name => Self::$name(Value::read(reader)?),)*
                    PropertyId::UserProperty => {
                        let (name, value) = Value::read(reader)?;
                        Self::UserProperty(name, value)
                    }
                })
            }

            fn write(&self, sink: &mut impl Sink) {
                sink.u8(self.id() as u8);
                match *self {
                    $(Self::$name(value) => value.write(sink),)*
                    Self::UserProperty(name, value) => (name, value).write(sink),
                }
            }

            fn is_valid(&self) -> bool {
                match *self {
                    $(Self::$name(value) => value.is_valid(),)*
                    Self::UserProperty(name, value) => (name, value).is_valid(),
                }
            }
        }

        // 'a is spelled out because the types in the table name it.
        #[allow(clippy::needless_lifetimes)]
        impl Properties<'_> {
            $($(#[$doc])*
            #[inline]
            #[must_use]
            pub fn $accessor<'a>(&'a self) -> Option<$type> {
                self.values(PropertyId::$name).next()
            })*
        }
    };
}

properties! {
    /// 1 if the payload is text in UTF-8, 0 if it is unspecified bytes.
    PayloadFormatIndicator(u8) = 0x01, payload_format_indicator, "MQTT-3.3.2.3.2", context::PUBLISH | context::WILL;
    /// Lifetime of the message in seconds.
    MessageExpiryInterval(u32) = 0x02, message_expiry_interval, "MQTT-3.3.2.3.3", context::PUBLISH | context::WILL;
    /// What the payload is, in words that publisher and subscribers agree on.
    ContentType(&'a str) = 0x03, content_type, "MQTT-3.3.2.3.9", context::PUBLISH | context::WILL;
    /// Topic Name for a response message.
    ResponseTopic(&'a str) = 0x08, response_topic, "MQTT-3.3.2.3.5", context::PUBLISH | context::WILL;
    /// Tells the requester which request a response is for.
    CorrelationData(&'a [u8]) = 0x09, correlation_data, "MQTT-3.3.2.3.6", context::PUBLISH | context::WILL;
    /// The number by which a client knows a subscription; the first one in a PUBLISH, which may have several.
    SubscriptionIdentifier(NonZeroU32) = 0x0B, subscription_identifier, "MQTT-3.8.2.1.2",
        context::PUBLISH | context::SUBSCRIBE;
    /// How many seconds the session outlives the connection; `u32::MAX` is for ever.
    SessionExpiryInterval(u32) = 0x11, session_expiry_interval, "MQTT-3.1.2.11.2",
        context::CONNECT | context::CONNACK | context::DISCONNECT;
    /// The Client Identifier that the server chose for a client that sent none.
    AssignedClientIdentifier(&'a str) = 0x12, assigned_client_identifier, "MQTT-3.2.2.3.7", context::CONNACK;
    /// The Keep Alive in seconds that the server wants instead of the client's.
    ServerKeepAlive(u16) = 0x13, server_keep_alive, "MQTT-3.2.2.3.14", context::CONNACK;
    /// Name of the method of enhanced authentication.
    AuthenticationMethod(&'a str) = 0x15, authentication_method, "MQTT-3.1.2.11.9",
        context::CONNECT | context::CONNACK | context::AUTH;
    /// What the authentication method says to the peer.
    AuthenticationData(&'a [u8]) = 0x16, authentication_data, "MQTT-3.1.2.11.10",
        context::CONNECT | context::CONNACK | context::AUTH;
    /// Whether the server may send a Reason String or User Properties in any packet.
    RequestProblemInformation(bool) = 0x17, request_problem_information, "MQTT-3.1.2.11.7", context::CONNECT;
    /// How many seconds the will is held back.
    WillDelayInterval(u32) = 0x18, will_delay_interval, "MQTT-3.1.3.2.2", context::WILL;
    /// Whether the client asks for Response Information.
    RequestResponseInformation(bool) = 0x19, request_response_information, "MQTT-3.1.2.11.6", context::CONNECT;
    /// What the client may build Response Topics from.
    ResponseInformation(&'a str) = 0x1A, response_information, "MQTT-3.2.2.3.15", context::CONNACK;
    /// Another server to use.
    ServerReference(&'a str) = 0x1C, server_reference, "MQTT-3.2.2.3.16", context::CONNACK | context::DISCONNECT;
    /// The reason in words, for diagnostics.
    ReasonString(&'a str) = 0x1F, reason_string, "MQTT-3.2.2.3.9",
        context::CONNACK | context::ACK | context::SUBACK | context::UNSUBACK | context::DISCONNECT | context::AUTH;
    /// How many QoS 1 and QoS 2 messages the sender of this is willing to process concurrently.
    ReceiveMaximum(NonZeroU16) = 0x21, receive_maximum, "MQTT-3.1.2.11.3", context::CONNECT | context::CONNACK;
    /// The highest Topic Alias that the sender of this accepts.
    TopicAliasMaximum(u16) = 0x22, topic_alias_maximum, "MQTT-3.1.2.11.5", context::CONNECT | context::CONNACK;
    /// The number that stands for the Topic Name, not 0.
    TopicAlias(u16) = 0x23, topic_alias, "MQTT-3.3.2.3.4", context::PUBLISH;
    /// The highest QoS that the server supports, if not 2.
    MaximumQoS(QoS) = 0x24, maximum_qos, "MQTT-3.2.2.3.4", context::CONNACK;
    /// Whether the server supports retained messages.
    RetainAvailable(bool) = 0x25, retain_available, "MQTT-3.2.2.3.5", context::CONNACK;
    /// The longest packet in bytes that the sender of this accepts, not 0.
    MaximumPacketSize(u32) = 0x27, maximum_packet_size, "MQTT-3.1.2.11.4", context::CONNECT | context::CONNACK;
    /// Whether the server supports wildcard subscriptions.
    WildcardSubscriptionAvailable(bool) = 0x28, wildcard_subscription_available, "MQTT-3.2.2.3.11", context::CONNACK;
    /// Whether the server supports Subscription Identifiers.
    SubscriptionIdentifierAvailable(bool) = 0x29, subscription_identifier_available, "MQTT-3.2.2.3.12",
        context::CONNACK;
    /// Whether the server supports Shared Subscriptions.
    SharedSubscriptionAvailable(bool) = 0x2A, shared_subscription_available, "MQTT-3.2.2.3.13", context::CONNACK;
}

impl PropertyId {
    const fn bit(self) -> u64 {
        1 << self as u8
    }

    pub(super) const fn repeats(self, context: u16) -> bool {
        match self {
            Self::UserProperty => true,
            Self::SubscriptionIdentifier => context == context::PUBLISH,
            _ => false,
        }
    }
}

impl<'a> Property<'a> {
    /// Reads one property; ranges that the type of the value does not know are left to [`Self::check`].
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        // The id is a Variable Byte Integer, but all known ones have one byte.
        let id = PropertyId::from_u8(reader.u8()?).ok_or(Violation::malformed(WRONG_ID))?;
        Self::read_value(id, reader)
            .map_err(|e| if e == OUT_OF_RANGE { Violation::protocol(id.clause().0) } else { e })
    }

    fn check(&self) -> Result<(), Violation> {
        match *self {
            Self::PayloadFormatIndicator(2..) | Self::MaximumPacketSize(0) => {
                Err(Violation::protocol(self.id().clause().0))
            }
            // [MQTT-3.3.2-8]
            Self::TopicAlias(0) => Err(Violation::with("MQTT-3.3.2-8", ReasonCode::TopicAliasInvalid)),
            // [MQTT-4.7.3-1]
            Self::ResponseTopic("") => Err(Violation::malformed("MQTT-4.7.3-1")),
            // [MQTT-3.3.2-14]
            Self::ResponseTopic(topic) if utf8::has_wildcard(topic) => {
                Err(Violation::malformed("MQTT-3.3.2-14"))
            }
            _ => Ok(()),
        }
    }

    /// Whether MQTT has a place for the value: no text or data over 65,535 bytes, no U+0000, no number out of
    /// range, no Maximum QoS of 2 (to leave it out says that).
    #[must_use]
    pub fn is_encodable(&self) -> bool {
        let mut size = Size::default();
        self.write(&mut size);
        size.fits() && self.is_valid() && self.check().is_ok()
    }

    /// Appends the property. One that is not [encodable](Self::is_encodable) is left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if self.is_encodable() {
            self.write(out);
        }
    }
}

#[cfg(test)]
mod tests;
