use super::*;
use crate::packet::PacketType;

const USER: Property<'_> = Property::UserProperty("k", "v");

fn decode(raw: &[u8], context: u16) -> Result<Properties<'_>, Violation> {
    let mut reader = Reader::new(raw);
    let properties = Properties::decode(&mut reader, context)?;
    assert!(reader.is_empty());
    Ok(properties)
}

fn with_length(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.varint(raw.len() as u32);
    out.extend_from_slice(raw);
    out
}

#[track_caller]
fn assert_violation(raw: &[u8], context: u16, violation: Violation) {
    assert_eq!(decode(&with_length(raw), context), Err(violation), "{raw:x?}");
}

fn one() -> NonZeroU16 {
    NonZeroU16::MIN
}

#[test]
fn every_property_is_read_back_by_its_accessor() {
    let id = NonZeroU32::new(0x0FFF_FFFF).unwrap();
    let mut buf = PropertiesBuf::new();
    let message = [
        Property::PayloadFormatIndicator(1),
        Property::MessageExpiryInterval(2),
        Property::ContentType("c"),
        Property::ResponseTopic("r/t"),
        Property::CorrelationData(b"\0d"),
        Property::SubscriptionIdentifier(id),
        Property::TopicAlias(6),
        USER,
    ];
    let rest = [
        Property::SessionExpiryInterval(7),
        Property::AssignedClientIdentifier("a"),
        Property::ServerKeepAlive(8),
        Property::AuthenticationMethod("m"),
        Property::AuthenticationData(b""),
        Property::RequestProblemInformation(false),
        Property::WillDelayInterval(9),
        Property::RequestResponseInformation(true),
        Property::ResponseInformation("i"),
        Property::ServerReference("s"),
        Property::ReasonString("why"),
        Property::ReceiveMaximum(one()),
        Property::TopicAliasMaximum(10),
        Property::MaximumQoS(QoS::AtLeastOnce),
        Property::RetainAvailable(true),
        Property::MaximumPacketSize(11),
        Property::WildcardSubscriptionAvailable(false),
        Property::SubscriptionIdentifierAvailable(true),
        Property::SharedSubscriptionAvailable(false),
    ];
    message.iter().chain(&rest).for_each(|property| {
        buf.push(*property);
    });
    let p = buf.as_properties();
    assert_eq!(p.iter().count(), 27);
    assert!(p.iter().eq(message.iter().chain(&rest).copied()));
    assert_eq!((p.payload_format_indicator(), p.message_expiry_interval()), (Some(1), Some(2)));
    assert_eq!((p.content_type(), p.response_topic()), (Some("c"), Some("r/t")));
    assert_eq!((p.correlation_data(), p.subscription_identifier()), (Some(&b"\0d"[..]), Some(id)));
    assert_eq!((p.topic_alias(), p.session_expiry_interval()), (Some(6), Some(7)));
    assert_eq!((p.assigned_client_identifier(), p.server_keep_alive()), (Some("a"), Some(8)));
    assert_eq!((p.authentication_method(), p.authentication_data()), (Some("m"), Some(&b""[..])));
    assert_eq!(
        (p.request_problem_information(), p.request_response_information()),
        (Some(false), Some(true))
    );
    assert_eq!((p.will_delay_interval(), p.response_information()), (Some(9), Some("i")));
    assert_eq!((p.server_reference(), p.reason_string()), (Some("s"), Some("why")));
    assert_eq!((p.receive_maximum(), p.topic_alias_maximum()), (Some(one()), Some(10)));
    assert_eq!((p.maximum_qos(), p.retain_available()), (Some(QoS::AtLeastOnce), Some(true)));
    assert_eq!((p.maximum_packet_size(), p.wildcard_subscription_available()), (Some(11), Some(false)));
    assert_eq!(p.subscription_identifier_available(), Some(true));
    assert_eq!(p.shared_subscription_available(), Some(false));
    assert!(p.user_properties().eq([("k", "v")]));
}

#[test]
fn an_empty_set_answers_nothing() {
    assert!(Properties::EMPTY.is_empty() && Properties::EMPTY.iter().next().is_none());
    assert_eq!(Properties::EMPTY.topic_alias(), None);
    assert!(!Properties::EMPTY.has_subscription_identifier());
    assert_eq!(decode(&[0], context::CONNECT), Ok(Properties::EMPTY));
}

#[test]
fn a_property_is_accepted_only_where_the_standard_puts_it() {
    // Table 2-4 of the standard, as `id: packet types`, 0 for wills.
    let table: [(u8, &[u16]); 27] = [
        (0x01, &[3, 0]),
        (0x02, &[3, 0]),
        (0x03, &[3, 0]),
        (0x08, &[3, 0]),
        (0x09, &[3, 0]),
        (0x0B, &[3, 8]),
        (0x11, &[1, 2, 14]),
        (0x12, &[2]),
        (0x13, &[2]),
        (0x15, &[1, 2, 15]),
        (0x16, &[1, 2, 15]),
        (0x17, &[1]),
        (0x18, &[0]),
        (0x19, &[1]),
        (0x1A, &[2]),
        (0x1C, &[2, 14]),
        (0x1F, &[2, 4, 5, 6, 7, 9, 11, 14, 15]),
        (0x21, &[1, 2]),
        (0x22, &[1, 2]),
        (0x23, &[3]),
        (0x24, &[2]),
        (0x25, &[2]),
        (0x26, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 15]),
        (0x27, &[1, 2]),
        (0x28, &[2]),
        (0x29, &[2]),
        (0x2A, &[2]),
    ];
    for (id, places) in table {
        let contexts = PropertyId::from_u8(id).unwrap().contexts();
        assert_eq!(contexts, places.iter().map(|place| 1 << place).sum::<u16>(), "{id:#x}");
    }
    assert_eq!((0..=u8::MAX).filter_map(PropertyId::from_u8).count(), 27);
    let misplaced = Violation::malformed("MQTT-2.2.2.2");
    assert_violation(&[0x23, 0, 1], context::CONNECT, misplaced);
    assert_violation(&[0x18, 0, 0, 0, 1], context::PUBLISH, misplaced);
    assert_violation(&[0x00], context::PUBLISH, misplaced);
    assert_violation(&[0x80 | 0x23, 0], context::PUBLISH, misplaced);
}

#[test]
fn a_second_value_is_a_protocol_error() {
    for (raw, context) in [
        (&[0x01, 0][..], context::PUBLISH),
        (&[0x23, 0, 1], context::PUBLISH),
        (&[0x11, 0, 0, 0, 1], context::DISCONNECT),
        (&[0x0B, 1], context::SUBSCRIBE),
        (&[0x1F, 0, 0], context::PUBACK),
    ] {
        let id = PropertyId::from_u8(raw[0]).unwrap();
        assert!(decode(&with_length(raw), context).is_ok());
        assert_violation(&[raw, raw].concat(), context, Violation::protocol(id.clause().0));
    }
}

#[test]
fn user_properties_and_the_subscription_identifiers_of_a_publish_repeat() {
    let raw = with_length(b"\x26\0\x01k\0\x01v\x0B\x01\x26\0\x01k\0\0\x0B\xFF\x7F");
    let properties = decode(&raw, context::PUBLISH).unwrap();
    assert!(properties.user_properties().eq([("k", "v"), ("k", "")]));
    assert!(properties.subscription_identifiers().map(NonZeroU32::get).eq([1, 16_383]));
    assert!(properties.has_subscription_identifier());
}

#[test]
fn a_value_out_of_range_is_a_protocol_error() {
    for (raw, context, clause) in [
        (&[0x01, 2][..], context::PUBLISH, "MQTT-3.3.2.3.2"),
        (&[0x0B, 0], context::SUBSCRIBE, "MQTT-3.8.2.1.2"),
        (&[0x17, 2], context::CONNECT, "MQTT-3.1.2.11.7"),
        (&[0x19, 2], context::CONNECT, "MQTT-3.1.2.11.6"),
        (&[0x21, 0, 0], context::CONNECT, "MQTT-3.1.2.11.3"),
        (&[0x24, 2], context::CONNACK, "MQTT-3.2.2.3.4"),
        (&[0x25, 2], context::CONNACK, "MQTT-3.2.2.3.5"),
        (&[0x27, 0, 0, 0, 0], context::CONNECT, "MQTT-3.1.2.11.4"),
        (&[0x28, 2], context::CONNACK, "MQTT-3.2.2.3.11"),
        (&[0x29, 2], context::CONNACK, "MQTT-3.2.2.3.12"),
        (&[0x2A, 2], context::CONNACK, "MQTT-3.2.2.3.13"),
    ] {
        assert_violation(raw, context, Violation::protocol(clause));
    }
    // [MQTT-3.3.2-8]
    let alias = Violation::with("MQTT-3.3.2-8", ReasonCode::TopicAliasInvalid);
    assert_violation(&[0x23, 0, 0], context::PUBLISH, alias);
}

#[test]
fn a_response_topic_is_a_topic_name() {
    // [MQTT-3.3.2-14], [MQTT-3.3.2-13]
    assert_violation(b"\x08\0\x03a/+", context::PUBLISH, Violation::malformed("MQTT-3.3.2-14"));
    assert_violation(b"\x08\0\x01#", context::WILL, Violation::malformed("MQTT-3.3.2-14"));
    assert_violation(b"\x08\0\0", context::PUBLISH, Violation::malformed("MQTT-4.7.3-1"));
    assert_violation(b"\x08\0\x01\xFF", context::PUBLISH, Violation::malformed("MQTT-1.5.4-1"));
}

#[test]
fn authentication_data_needs_a_method() {
    let missing = Violation::protocol("MQTT-3.1.2.11.10");
    assert_violation(b"\x16\0\x01x", context::CONNECT, missing);
    assert!(decode(&with_length(b"\x16\0\x01x\x15\0\x01m"), context::CONNECT).is_ok());
}

#[test]
fn texts_are_checked_in_all_places() {
    // [MQTT-1.5.7-1]
    assert_violation(b"\x26\0\x01\0\0\x01v", context::CONNECT, Violation::malformed("MQTT-1.5.4-2"));
    assert_violation(b"\x26\0\x01k\0\x01\xC0", context::CONNECT, Violation::malformed("MQTT-1.5.4-1"));
}

#[test]
fn a_property_length_that_does_not_fit_is_malformed() {
    let truncated = Err(Violation::malformed("MQTT-2.1.4"));
    assert_eq!(decode(&[], context::CONNECT), truncated);
    assert_eq!(decode(&[3, 0x23, 0], context::PUBLISH), truncated);
    assert_violation(&[0x23, 0], context::PUBLISH, Violation::malformed("MQTT-2.1.4"));
    assert_eq!(decode(&[0x80, 0], context::CONNECT), Err(Violation::malformed("MQTT-1.5.5-1")));
}

#[test]
fn what_mqtt_cannot_say_is_left_out() {
    let long = "x".repeat(65_536);
    let mut buf = PropertiesBuf::new();
    for property in [
        Property::ReasonString(&long),
        Property::UserProperty("k", &long),
        Property::CorrelationData(long.as_bytes()),
        Property::ContentType("a\0b"),
        Property::UserProperty("\0", "v"),
        Property::TopicAlias(0),
        Property::MaximumPacketSize(0),
        Property::PayloadFormatIndicator(2),
        Property::MaximumQoS(QoS::ExactlyOnce),
        Property::ResponseTopic("#"),
        Property::ResponseTopic(""),
        Property::SubscriptionIdentifier(NonZeroU32::new(1 << 28).unwrap()),
    ] {
        assert!(!property.is_encodable());
        buf.push(property);
    }
    assert!(buf.as_properties().is_empty());
    buf.push(Property::ReasonString(&long[1..])).push(USER);
    assert_eq!(buf.as_properties().iter().count(), 2);
}

#[test]
fn chosen_properties_are_copied_byte_for_byte() {
    let raw = with_length(b"\x23\0\x07\x26\0\x01k\0\x01v\x02\0\0\0\x09\x26\0\0\0\0");
    let properties = decode(&raw, context::PUBLISH).unwrap();
    let mut out = Vec::new();
    properties.encode_where(|id| id == PropertyId::UserProperty, &mut out);
    assert_eq!(out, b"\x26\0\x01k\0\x01v\x26\0\0\0\0");
    assert_eq!(Properties::trusted(&out).user_properties().count(), 2);
    assert_eq!(properties.to_owned().into_owned(), properties);
}

#[test]
fn bytes_that_were_no_properties_end_the_walk() {
    for raw in [&[0xFF][..], &[0x23], &[0x26, 0, 1, 0xFF, 0, 0], &[0x08, 0, 5]] {
        let properties = Properties::trusted(raw);
        assert_eq!((properties.iter().count(), properties.user_properties().count()), (0, 0));
    }
}

#[test]
fn the_context_of_a_packet_is_the_bit_of_its_type() {
    assert_eq!(context::AUTH, 1 << PacketType::Auth as u16);
    assert_eq!(context::ANY | 1 << 12 | 1 << 13, u16::MAX);
}
