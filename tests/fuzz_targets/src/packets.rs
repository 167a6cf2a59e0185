//! Packets of every type and version, built field by field. What may stand where is written here once more, from the
//! tables of the standard (2-4 and 2-6): core's own tables are what is tested.

use crate::script::Script;
use culex_core::packet::*;
use std::borrow::Cow;
use std::num::{NonZeroU16, NonZeroU32};

/// The longest text or data that has a length.
const LENGTH_MAX: usize = 65_535;

/// What stands in for long texts.
static FILL: [u8; LENGTH_MAX + 1] = [b'x'; LENGTH_MAX + 1];

/// Lengths at which something changes: in the length of a field, and in that of the Remaining Length.
const LENGTHS: [usize; 8] = [127, 128, 129, 16_383, 16_384, 32_768, LENGTH_MAX, LENGTH_MAX + 1];

/// A text, now and then a long one.
fn text<'a>(script: &mut Script<'a>) -> &'a str {
    let mut ahead = *script;
    if ahead.byte() != u8::MAX {
        return script.text();
    }
    *script = ahead;
    std::str::from_utf8(long(script)).unwrap_or_default()
}

/// Data, now and then long.
fn data<'a>(script: &mut Script<'a>) -> &'a [u8] {
    let mut ahead = *script;
    if ahead.byte() != u8::MAX {
        return script.short();
    }
    *script = ahead;
    long(script)
}

/// Around one of the lengths: what else is in the packet counts, too.
fn long(script: &mut Script<'_>) -> &'static [u8] {
    &FILL[..script.pick(&LENGTHS) - usize::from(script.byte() % 16)]
}

/// A Topic Name: the text up to its first wildcard, not empty.
fn topic<'a>(script: &mut Script<'a>) -> &'a str {
    match before_wildcard(text(script)) {
        "" => "t",
        topic => topic,
    }
}

fn before_wildcard(text: &str) -> &str {
    text.split(['#', '+']).next().unwrap_or_default()
}

fn qos(script: &mut Script<'_>) -> QoS {
    script.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

/// Builds a packet of any type and hands it on; true: a field is longer than MQTT can say.
pub(crate) fn with_packet<R>(
    script: &mut Script<'_>,
    version: Version,
    check: impl FnOnce(&Packet<'_>, bool) -> R,
) -> R {
    let packet_type = PacketType::from_bits(script.byte() % 15 + 1).unwrap_or(PacketType::Pingreq);
    match packet_type {
        PacketType::Auth if version != Version::V5 => check(&Packet::Pingresp, false),
        PacketType::Connect => connect(script, version, check),
        PacketType::Publish => publish(script, version, check),
        PacketType::Subscribe | PacketType::Unsubscribe => request(packet_type, script, version, check),
        PacketType::Suback | PacketType::Unsuback => response(packet_type, script, version, check),
        PacketType::Pingreq => check(&Packet::Pingreq, false),
        PacketType::Pingresp => check(&Packet::Pingresp, false),
        _ => check(&outcome(packet_type, script, version), false),
    }
}

fn connect<R>(script: &mut Script<'_>, version: Version, check: impl FnOnce(&Packet<'_>, bool) -> R) -> R {
    let flags = script.byte();
    let keep_alive = script.u16();
    let client_id = text(script);
    let properties = properties(script, allowed(PacketType::Connect), version);
    let will = (flags & 1 != 0).then(|| Will {
        topic: topic(script),
        payload: data(script),
        qos: qos(script),
        retain: flags & 2 != 0,
        properties: self::properties(script, WILL, version),
    });
    let user_name = (flags & 4 != 0).then(|| text(script));
    // [MQTT-3.1.2-22] of 3.1.1
    let password = (flags & 8 != 0 && (version == Version::V5 || user_name.is_some())).then(|| data(script));
    let lengths = [client_id.len(), user_name.map_or(0, str::len), password.map_or(0, <[u8]>::len)];
    let of_will = will.as_ref().map_or([0; 2], |will| [will.topic.len(), will.payload.len()]);
    let too_large = lengths.iter().chain(&of_will).any(|length| *length > LENGTH_MAX);
    let connect = Connect {
        version,
        clean_start: flags & 16 != 0,
        keep_alive,
        client_id,
        properties,
        will,
        user_name,
        password,
        bridge: flags & 32 != 0 && version != Version::V5,
    };
    check(&Packet::Connect(connect), too_large)
}

fn publish<R>(script: &mut Script<'_>, version: Version, check: impl FnOnce(&Packet<'_>, bool) -> R) -> R {
    let flags = script.byte();
    let qos = qos(script);
    let topic = before_wildcard(text(script));
    let packet_id = (qos != QoS::AtMostOnce).then(|| packet_id(script));
    let properties = properties(script, allowed(PacketType::Publish), version);
    // [MQTT-3.3.2-1]: only an alias can stand for the topic.
    let topic = if topic.is_empty() && properties.topic_alias().is_none() { "t" } else { topic };
    let publish = Publish {
        dup: flags & 1 != 0 && qos != QoS::AtMostOnce,
        qos,
        retain: flags & 2 != 0,
        topic: Cow::Borrowed(topic),
        packet_id,
        properties,
        payload: Cow::Borrowed(data(script)),
    };
    check(&Packet::Publish(publish), topic.len() > LENGTH_MAX)
}

fn packet_id(script: &mut Script<'_>) -> PacketId {
    PacketId::new(script.u16()).unwrap_or(PacketId::MAX)
}

/// SUBSCRIBE and UNSUBSCRIBE.
fn request<R>(
    packet_type: PacketType,
    script: &mut Script<'_>,
    version: Version,
    check: impl FnOnce(&Packet<'_>, bool) -> R,
) -> R {
    let packet_id = packet_id(script);
    let properties = properties(script, allowed(packet_type), version);
    let mut subscribe = SubscribeFiltersBuf::new();
    let mut unsubscribe = UnsubscribeFiltersBuf::new();
    for _ in 0..=script.byte() % 8 {
        let filter = text(script);
        let options = SubscriptionOptions::from_byte(script.byte(), version).unwrap_or_default();
        let sendable = (1..=LENGTH_MAX).contains(&filter.len());
        // [MQTT-3.8.3-4]
        let local = options.no_local && filter.starts_with("$share/");
        assert_eq!(subscribe.push(filter, options).is_ok(), sendable && !local, "{filter:.20}");
        assert_eq!(unsubscribe.push(filter).is_ok(), sendable, "{filter:.20}");
    }
    if subscribe.as_filters().is_empty() {
        subscribe.push("f", SubscriptionOptions::default()).expect("a filter");
    }
    if unsubscribe.as_filters().is_empty() {
        unsubscribe.push("f").expect("a filter");
    }
    let packet = if packet_type == PacketType::Subscribe {
        Packet::Subscribe(Subscribe { packet_id, properties, filters: subscribe.as_filters() })
    } else {
        Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters: unsubscribe.as_filters() })
    };
    check(&packet, false)
}

/// SUBACK and UNSUBACK.
fn response<R>(
    packet_type: PacketType,
    script: &mut Script<'_>,
    version: Version,
    check: impl FnOnce(&Packet<'_>, bool) -> R,
) -> R {
    let packet_id = packet_id(script);
    let properties = properties(script, allowed(packet_type), version);
    let suback = packet_type == PacketType::Suback;
    let count = if suback || version == Version::V5 { script.byte() % 9 + 1 } else { 0 };
    let reasons: Vec<u8> = (0..count).map(|_| script.pick(reasons(packet_type, version))).collect();
    let reasons = &*reasons;
    let packet = if suback {
        Packet::Suback(Suback { packet_id, properties, reasons })
    } else {
        Packet::Unsuback(Unsuback { packet_id, properties, reasons })
    };
    check(&packet, false)
}

/// The packets of a reason and properties.
fn outcome(packet_type: PacketType, script: &mut Script<'_>, version: Version) -> Packet<'static> {
    let packet_id = packet_id(script);
    let reason = script.pick(reasons(packet_type, version));
    let properties = properties(script, allowed(packet_type), version);
    let reason = match version {
        Version::V5 => ReasonCode::from_u8(reason),
        _ if packet_type == PacketType::Connack => ReasonCode::from_connack_v3(reason),
        _ => Some(ReasonCode::Success),
    };
    let reason = reason.expect("the table holds reason codes");
    let ack = Ack { packet_id, reason, properties: properties.clone() };
    match packet_type {
        PacketType::Puback => Packet::Puback(ack),
        PacketType::Pubrec => Packet::Pubrec(ack),
        PacketType::Pubrel => Packet::Pubrel(ack),
        PacketType::Pubcomp => Packet::Pubcomp(ack),
        PacketType::Disconnect => Packet::Disconnect(Disconnect { reason, properties }),
        PacketType::Auth => Packet::Auth(Auth { reason, properties }),
        _ => {
            let may = reason == ReasonCode::Success && version != Version::V31;
            let session_present = may && script.byte() & 1 != 0;
            Packet::Connack(Connack { session_present, reason, properties })
        }
    }
}

/// The reason codes of a packet: table 2-6; in 3.x return codes.
fn reasons(packet_type: PacketType, version: Version) -> &'static [u8] {
    if version != Version::V5 {
        return match packet_type {
            PacketType::Connack => &[0, 1, 2, 3, 4, 5],
            PacketType::Suback => &[0, 1, 2, 0x80],
            _ => &[0],
        };
    }
    match packet_type {
        PacketType::Connack => &[
            0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
            0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
        PacketType::Puback | PacketType::Pubrec => &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        PacketType::Pubrel | PacketType::Pubcomp => &[0, 0x92],
        PacketType::Suback => &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2],
        PacketType::Unsuback => &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
        PacketType::Auth => &[0, 0x18, 0x19],
        _ => &[
            0, 4, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
            0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ],
    }
}

use PropertyId as P;

/// The properties of a will: table 2-4.
const WILL: &[P] = &[
    P::PayloadFormatIndicator,
    P::MessageExpiryInterval,
    P::ContentType,
    P::ResponseTopic,
    P::CorrelationData,
    P::WillDelayInterval,
    P::UserProperty,
];

/// The properties of a packet: table 2-4.
fn allowed(packet_type: PacketType) -> &'static [P] {
    match packet_type {
        PacketType::Connect => &[
            P::SessionExpiryInterval,
            P::AuthenticationMethod,
            P::AuthenticationData,
            P::RequestProblemInformation,
            P::RequestResponseInformation,
            P::ReceiveMaximum,
            P::TopicAliasMaximum,
            P::UserProperty,
            P::MaximumPacketSize,
        ],
        PacketType::Connack => &[
            P::SessionExpiryInterval,
            P::AssignedClientIdentifier,
            P::ServerKeepAlive,
            P::AuthenticationMethod,
            P::AuthenticationData,
            P::ResponseInformation,
            P::ServerReference,
            P::ReasonString,
            P::ReceiveMaximum,
            P::TopicAliasMaximum,
            P::MaximumQoS,
            P::RetainAvailable,
            P::UserProperty,
            P::MaximumPacketSize,
            P::WildcardSubscriptionAvailable,
            P::SubscriptionIdentifierAvailable,
            P::SharedSubscriptionAvailable,
        ],
        PacketType::Publish => &[
            P::PayloadFormatIndicator,
            P::MessageExpiryInterval,
            P::ContentType,
            P::ResponseTopic,
            P::CorrelationData,
            P::SubscriptionIdentifier,
            P::TopicAlias,
            P::UserProperty,
        ],
        PacketType::Subscribe => &[P::SubscriptionIdentifier, P::UserProperty],
        PacketType::Unsubscribe => &[P::UserProperty],
        PacketType::Disconnect => {
            &[P::SessionExpiryInterval, P::ServerReference, P::ReasonString, P::UserProperty]
        }
        PacketType::Auth => {
            &[P::AuthenticationMethod, P::AuthenticationData, P::ReasonString, P::UserProperty]
        }
        _ => &[P::ReasonString, P::UserProperty],
    }
}

/// Properties in any order, as many as the script wants.
fn properties(script: &mut Script<'_>, allowed: &'static [P], version: Version) -> Properties<'static> {
    if version != Version::V5 {
        return Properties::EMPTY;
    }
    let mut buf = PropertiesBuf::new();
    let mut list: Vec<Property<'_>> = Vec::new();
    for _ in 0..script.byte() % 32 {
        let id = script.pick(allowed);
        let property = property(id, script);
        let published = allowed.contains(&P::TopicAlias);
        let repeats = id == P::UserProperty || (id == P::SubscriptionIdentifier && published);
        assert_eq!(property.is_encodable(), sayable(&property), "{property:?}");
        if sayable(&property) && (repeats || list.iter().all(|other| other.id() != id)) {
            list.push(property);
        }
    }
    let has = |id| list.iter().any(|property| property.id() == id);
    // Behind its data is as good as before it.
    if has(P::AuthenticationData) && !has(P::AuthenticationMethod) {
        list.push(Property::AuthenticationMethod("m"));
    }
    for property in &list {
        buf.push(*property);
    }
    assert!(buf.as_properties().iter().eq(list.iter().copied()), "{list:?}");
    Properties::from_buf(buf)
}

/// Whether MQTT has a place for the value.
fn sayable(property: &Property<'_>) -> bool {
    match *property {
        Property::PayloadFormatIndicator(value) => value <= 1,
        Property::MaximumQoS(qos) => qos != QoS::ExactlyOnce,
        Property::TopicAlias(alias) => alias != 0,
        Property::MaximumPacketSize(size) => size != 0,
        Property::SubscriptionIdentifier(identifier) => identifier.get() < 1 << 28,
        Property::ResponseTopic(topic) => {
            (1..=LENGTH_MAX).contains(&topic.len()) && !topic.contains(['#', '+'])
        }
        Property::ContentType(text)
        | Property::AssignedClientIdentifier(text)
        | Property::AuthenticationMethod(text)
        | Property::ResponseInformation(text)
        | Property::ServerReference(text)
        | Property::ReasonString(text) => text.len() <= LENGTH_MAX,
        Property::CorrelationData(data) | Property::AuthenticationData(data) => data.len() <= LENGTH_MAX,
        Property::UserProperty(name, value) => name.len() <= LENGTH_MAX && value.len() <= LENGTH_MAX,
        _ => true,
    }
}

/// A property with any value of its type.
fn property<'a>(id: P, script: &mut Script<'a>) -> Property<'a> {
    let flag = |script: &mut Script<'_>| script.byte() & 1 != 0;
    match id {
        P::PayloadFormatIndicator => Property::PayloadFormatIndicator(script.byte() % 4),
        P::MessageExpiryInterval => Property::MessageExpiryInterval(script.u32()),
        P::ContentType => Property::ContentType(text(script)),
        P::ResponseTopic => Property::ResponseTopic(text(script)),
        P::CorrelationData => Property::CorrelationData(data(script)),
        P::SubscriptionIdentifier => {
            let identifier = script.u32() >> (script.byte() % 32);
            Property::SubscriptionIdentifier(NonZeroU32::new(identifier).unwrap_or(NonZeroU32::MAX))
        }
        P::SessionExpiryInterval => Property::SessionExpiryInterval(script.u32()),
        P::AssignedClientIdentifier => Property::AssignedClientIdentifier(text(script)),
        P::ServerKeepAlive => Property::ServerKeepAlive(script.u16()),
        P::AuthenticationMethod => Property::AuthenticationMethod(text(script)),
        P::AuthenticationData => Property::AuthenticationData(data(script)),
        P::RequestProblemInformation => Property::RequestProblemInformation(flag(script)),
        P::WillDelayInterval => Property::WillDelayInterval(script.u32()),
        P::RequestResponseInformation => Property::RequestResponseInformation(flag(script)),
        P::ResponseInformation => Property::ResponseInformation(text(script)),
        P::ServerReference => Property::ServerReference(text(script)),
        P::ReasonString => Property::ReasonString(text(script)),
        P::ReceiveMaximum => {
            Property::ReceiveMaximum(NonZeroU16::new(script.u16()).unwrap_or(NonZeroU16::MAX))
        }
        P::TopicAliasMaximum => Property::TopicAliasMaximum(script.u16()),
        P::TopicAlias => Property::TopicAlias(script.u16()),
        P::MaximumQoS => Property::MaximumQoS(qos(script)),
        P::RetainAvailable => Property::RetainAvailable(flag(script)),
        P::UserProperty => Property::UserProperty(text(script), text(script)),
        P::MaximumPacketSize => Property::MaximumPacketSize(script.u32()),
        P::WildcardSubscriptionAvailable => Property::WildcardSubscriptionAvailable(flag(script)),
        P::SubscriptionIdentifierAvailable => Property::SubscriptionIdentifierAvailable(flag(script)),
        P::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(flag(script)),
    }
}
