//! The codec against an independent one, `mqtt-protocol-core`: both must read the same fields from the same bytes
//! and write the same bytes for the same fields.
//!
//! The standard leaves two freedoms: properties may come in any order (both keep the order they are given), and
//! reason code and properties of an acknowledgement, DISCONNECT and AUTH may be written even if they could be left
//! out (we leave them out, the other side writes what it was given). MQTT 3.1 is not known to the other side.

#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::packet::{
    Ack, Auth, Connack, Connect, Disconnect, Framed, Packet, PacketId, PacketType, Properties, PropertiesBuf,
    Property, PropertyId, Publish, QoS, ReasonCode, Suback, Subscribe, SubscribeFiltersBuf,
    SubscriptionOptions, Unsuback, Unsubscribe, UnsubscribeFiltersBuf, Version, Will, frame,
};
use mqtt_protocol_core::mqtt::packet as theirs;
use mqtt_protocol_core::mqtt::packet::prelude::PropertyValueAccess;
use mqtt_protocol_core::mqtt::result_code::{self as code, MqttError};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::num::{NonZeroU16, NonZeroU32};
use theirs::{v3_1_1, v5_0};

/// What the other side made of the body of a packet: its bytes when written again, and how many it has read.
type Reading = Result<(Vec<u8>, usize), MqttError>;

/// Lets the other side read a packet that we have read as `ours`, and compares.
fn read_by_them(bytes: &[u8], ours: &Packet<'_>, version: Version) -> Reading {
    let Ok(Framed::Whole { frame, .. }) = frame(bytes, u32::MAX) else { panic!("not whole") };
    match version {
        Version::V5 => v5(frame.flags(), frame.body, ours),
        _ => v311(frame.flags(), frame.body, ours),
    }
}

/// Compares the fields that PUBLISH, SUBSCRIBE and UNSUBSCRIBE have in both versions.
macro_rules! common {
    ($version:ident, $flags:ident, $body:ident, $ours:ident, $($properties:ident)?) => {
        match $ours {
            Packet::Publish(ours) => {
                let (their, read) = $version::Publish::parse($flags, $body.into())?;
                assert_eq!(their.topic_name(), ours.topic);
                assert_eq!(their.packet_id(), ours.packet_id.map(PacketId::get));
                assert_eq!((their.qos() as u8, their.dup(), their.retain()), (ours.qos as u8, ours.dup, ours.retain));
                assert_eq!(their.payload().as_slice(), &*ours.payload);
                $(assert_properties(their.$properties(), &ours.properties);)?
                Ok((their.to_continuous_buffer(), read))
            }
            Packet::Subscribe(ours) => {
                let (their, read) = $version::Subscribe::parse($body)?;
                assert_eq!(their.packet_id(), ours.packet_id.get());
                let entries = their.entries().iter().map(|e| (e.topic_filter(), e.sub_opts().to_buffer()[0]));
                assert!(entries.eq(ours.filters.iter().map(|(filter, options)| (filter, options.to_byte()))));
                $(assert_properties(their.$properties(), &ours.properties);)?
                Ok((their.to_continuous_buffer(), read))
            }
            Packet::Unsubscribe(ours) => {
                let (their, read) = $version::Unsubscribe::parse($body)?;
                assert_eq!(their.packet_id(), ours.packet_id.get());
                assert!(their.entries().iter().map(|entry| entry.as_str()).eq(ours.filters));
                $(assert_properties(their.$properties(), &ours.properties);)?
                Ok((their.to_continuous_buffer(), read))
            }
            Packet::Connect(ours) => {
                let (their, read) = $version::Connect::parse($body)?;
                assert_eq!(their.protocol_version(), ours.version as u8);
                assert_eq!((their.clean_start(), their.keep_alive()), (ours.clean_start, ours.keep_alive));
                assert_eq!((their.client_id(), their.user_name()), (ours.client_id, ours.user_name));
                assert_eq!(their.password(), ours.password);
                assert_eq!(their.will_topic(), ours.will.as_ref().map(|will| will.topic));
                assert_eq!(their.will_payload(), ours.will.as_ref().map(|will| will.payload));
                if let Some(will) = &ours.will {
                    assert_eq!((their.will_qos() as u8, their.will_retain()), (will.qos as u8, will.retain));
                    $(let _ = their.$properties(); assert_properties(their.will_props(), &will.properties);)?
                }
                $(assert_properties(their.$properties(), &ours.properties);)?
                Ok((their.to_continuous_buffer(), read))
            }
            Packet::Pingreq => {
                let (their, read) = $version::Pingreq::parse($body)?;
                Ok((their.to_continuous_buffer(), read))
            }
            Packet::Pingresp => {
                let (their, read) = $version::Pingresp::parse($body)?;
                Ok((their.to_continuous_buffer(), read))
            }
            other => unreachable!("{other:?}"),
        }
    };
}

/// Compares a packet of Packet Identifier, reason and properties, all but the first optional.
macro_rules! outcome {
    ($version:ident::$name:ident, $body:ident, $ours:ident $(, $packet_id:ident)?) => {{
        let (their, read) = $version::$name::parse($body)?;
        $(assert_eq!(their.$packet_id(), $ours.packet_id.get());)?
        assert_eq!(their.reason_code().map_or(0, |reason| reason as u8), $ours.reason as u8);
        let none = theirs::Properties::new();
        assert_properties(their.props().as_ref().unwrap_or(&none), &$ours.properties);
        Ok((their.to_continuous_buffer(), read))
    }};
}

fn v5(flags: u8, body: &[u8], ours: &Packet<'_>) -> Reading {
    match ours {
        Packet::Connack(ours) => {
            let (their, read) = v5_0::Connack::parse(body)?;
            assert_eq!(
                (their.session_present(), their.reason_code() as u8),
                (ours.session_present, ours.reason as u8)
            );
            assert_properties(their.props(), &ours.properties);
            Ok((their.to_continuous_buffer(), read))
        }
        Packet::Puback(ours) => outcome!(v5_0::Puback, body, ours, packet_id),
        Packet::Pubrec(ours) => outcome!(v5_0::Pubrec, body, ours, packet_id),
        Packet::Pubrel(ours) => outcome!(v5_0::Pubrel, body, ours, packet_id),
        Packet::Pubcomp(ours) => outcome!(v5_0::Pubcomp, body, ours, packet_id),
        Packet::Disconnect(ours) => outcome!(v5_0::Disconnect, body, ours),
        Packet::Auth(ours) => outcome!(v5_0::Auth, body, ours),
        Packet::Suback(ours) => {
            let (their, read) = v5_0::Suback::parse(body)?;
            assert_eq!(their.packet_id(), ours.packet_id.get());
            assert!(their.reason_codes().iter().map(|&reason| reason as u8).eq(ours.reasons.iter().copied()));
            assert_properties(their.props(), &ours.properties);
            Ok((their.to_continuous_buffer(), read))
        }
        Packet::Unsuback(ours) => {
            let (their, read) = v5_0::Unsuback::parse(body)?;
            assert_eq!(their.packet_id(), ours.packet_id.get());
            assert!(their.reason_codes().iter().map(|&reason| reason as u8).eq(ours.reasons.iter().copied()));
            assert_properties(their.props(), &ours.properties);
            Ok((their.to_continuous_buffer(), read))
        }
        ours => common!(v5_0, flags, body, ours, props),
    }
}

fn v311(flags: u8, body: &[u8], ours: &Packet<'_>) -> Reading {
    macro_rules! only_packet_id {
        ($name:ident, $ours:ident) => {{
            let (their, read) = v3_1_1::$name::parse(body)?;
            assert_eq!(their.packet_id(), $ours.packet_id.get());
            Ok((their.to_continuous_buffer(), read))
        }};
    }
    match ours {
        Packet::Connack(ours) => {
            let (their, read) = v3_1_1::Connack::parse(body)?;
            assert_eq!(their.session_present(), ours.session_present);
            assert_eq!(their.return_code() as u8, ours.reason.connack_v3());
            Ok((their.to_continuous_buffer(), read))
        }
        Packet::Puback(ours) => only_packet_id!(Puback, ours),
        Packet::Pubrec(ours) => only_packet_id!(Pubrec, ours),
        Packet::Pubrel(ours) => only_packet_id!(Pubrel, ours),
        Packet::Pubcomp(ours) => only_packet_id!(Pubcomp, ours),
        Packet::Unsuback(ours) => only_packet_id!(Unsuback, ours),
        Packet::Suback(ours) => {
            let (their, read) = v3_1_1::Suback::parse(body)?;
            assert_eq!(their.packet_id(), ours.packet_id.get());
            assert!(their.return_codes().iter().map(|&code| code as u8).eq(ours.reasons.iter().copied()));
            Ok((their.to_continuous_buffer(), read))
        }
        Packet::Disconnect(_) => {
            let (their, read) = v3_1_1::Disconnect::parse(body)?;
            Ok((their.to_continuous_buffer(), read))
        }
        ours => common!(v3_1_1, flags, body, ours,),
    }
}

fn assert_properties(their: &theirs::Properties, ours: &Properties<'_>) {
    assert_eq!(their.len(), ours.iter().count());
    for (their, ours) in their.iter().zip(ours) {
        assert_eq!(their.id().as_u8(), ours.id() as u8);
        use Property as P;
        match ours {
            P::PayloadFormatIndicator(value) => assert_eq!(their.as_u8(), Some(value)),
            P::MaximumQoS(value) => assert_eq!(their.as_u8(), Some(value as u8)),
            P::RequestProblemInformation(value)
            | P::RequestResponseInformation(value)
            | P::RetainAvailable(value)
            | P::WildcardSubscriptionAvailable(value)
            | P::SubscriptionIdentifierAvailable(value)
            | P::SharedSubscriptionAvailable(value) => assert_eq!(their.as_u8(), Some(u8::from(value))),
            P::ReceiveMaximum(value) => assert_eq!(their.as_u16(), Some(value.get())),
            P::ServerKeepAlive(value) | P::TopicAliasMaximum(value) | P::TopicAlias(value) => {
                assert_eq!(their.as_u16(), Some(value));
            }
            P::SubscriptionIdentifier(value) => assert_eq!(their.as_u32(), Some(value.get())),
            P::MessageExpiryInterval(value)
            | P::SessionExpiryInterval(value)
            | P::WillDelayInterval(value)
            | P::MaximumPacketSize(value) => assert_eq!(their.as_u32(), Some(value)),
            P::CorrelationData(value) | P::AuthenticationData(value) => {
                assert_eq!(their.as_bytes(), Some(value))
            }
            P::ContentType(value)
            | P::ResponseTopic(value)
            | P::AssignedClientIdentifier(value)
            | P::AuthenticationMethod(value)
            | P::ResponseInformation(value)
            | P::ServerReference(value)
            | P::ReasonString(value) => assert_eq!(their.as_str(), Some(value)),
            P::UserProperty(name, value) => assert_eq!(their.as_key_value(), Some((name, value))),
        }
    }
}

/// Decodes the one packet in the bytes.
fn decode(bytes: &[u8], version: Version) -> Packet<'_> {
    let Ok(Framed::Whole { frame, length }) = frame(bytes, u32::MAX) else { panic!("not whole: {bytes:x?}") };
    assert_eq!(length, bytes.len());
    Packet::decode(&frame, version).unwrap_or_else(|violation| panic!("{violation}: {bytes:x?}"))
}

fn encode(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(version, &mut out).unwrap();
    out
}

/// What a packet is generated from.
#[derive(Debug, Clone)]
struct Parts {
    packet_id: PacketId,
    texts: [String; 3],
    data: [Option<Vec<u8>>; 2],
    flags: [bool; 4],
    qos: QoS,
    number: u16,
    reason: usize,
    properties: Vec<(usize, u32, String, String)>,
    filters: Vec<(String, u8)>,
}

impl Parts {
    /// The properties that may stand together in this packet; `None` is a will.
    fn properties(&self, packet_type: Option<PacketType>, version: Version) -> Properties<'static> {
        let mut buf = PropertiesBuf::new();
        if version != Version::V5 {
            return Properties::EMPTY;
        }
        if packet_type == Some(PacketType::Auth) {
            buf.push(Property::AuthenticationMethod(&self.texts[0]));
        }
        let allowed = allowed_properties(packet_type);
        for (choice, number, text, other) in &self.properties {
            let id = allowed[choice % allowed.len()];
            let repeats = id == PropertyId::UserProperty
                || (id == PropertyId::SubscriptionIdentifier && packet_type == Some(PacketType::Publish));
            let seen = |id| buf.as_properties().iter().any(|property| property.id() == id);
            let orphan = id == PropertyId::AuthenticationData && !seen(PropertyId::AuthenticationMethod);
            if (repeats || !seen(id)) && !orphan {
                buf.push(property(id, *number, text, other));
            }
        }
        Properties::from_buf(buf)
    }

    fn reason(&self, packet_type: PacketType, version: Version) -> ReasonCode {
        if version != Version::V5 {
            return ReasonCode::Success;
        }
        let allowed: &[u8] = match packet_type {
            PacketType::Connack => &[
                0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95,
                0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
            ],
            PacketType::Puback | PacketType::Pubrec => {
                &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
            }
            PacketType::Pubrel | PacketType::Pubcomp => &[0x00, 0x92],
            PacketType::Disconnect => &[
                0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94,
                0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
            ],
            PacketType::Auth => &[0x00, 0x18, 0x19],
            _ => &[0x00],
        };
        ReasonCode::from_u8(allowed[self.reason % allowed.len()]).unwrap()
    }

    fn ack(&self, packet_type: PacketType, version: Version) -> Ack<'static> {
        let properties = self.properties(Some(packet_type), version);
        Ack { packet_id: self.packet_id, reason: self.reason(packet_type, version), properties }
    }

    fn connect(&self, version: Version) -> Connect<'_> {
        let [client_id, payload, user_name] = &self.texts;
        let user_name = self.data[0].is_some().then_some(&**user_name);
        let password = self.data[1].as_deref().filter(|_| user_name.is_some());
        Connect {
            version,
            clean_start: self.flags[0],
            keep_alive: self.number,
            client_id,
            properties: self.properties(Some(PacketType::Connect), version),
            will: self.flags[1].then(|| Will {
                topic: "will/topic",
                payload: payload.as_bytes(),
                qos: self.qos,
                retain: self.flags[2],
                properties: self.properties(None, version),
            }),
            user_name,
            password,
            bridge: false,
        }
    }

    fn publish(&self, version: Version) -> Publish<'_> {
        Publish {
            dup: self.flags[0] && self.qos != QoS::AtMostOnce,
            qos: self.qos,
            retain: self.flags[1],
            topic: format!("t/{}", self.texts[0].replace(['#', '+'], "*")).into(),
            packet_id: (self.qos != QoS::AtMostOnce).then_some(self.packet_id),
            properties: self.properties(Some(PacketType::Publish), version),
            payload: self.data[0].as_deref().unwrap_or_default().into(),
        }
    }

    /// Our encoding of a packet of this type.
    fn encoded(&self, packet_type: PacketType, version: Version) -> Vec<u8> {
        let packet_id = self.packet_id;
        let reason = self.reason(packet_type, version);
        let properties = self.properties(Some(packet_type), version);
        let mut subscribe = SubscribeFiltersBuf::new();
        let mut unsubscribe = UnsubscribeFiltersBuf::new();
        for (filter, options) in &self.filters {
            let options = SubscriptionOptions::from_byte(*options, version).unwrap_or_default();
            subscribe.push(filter, options).unwrap();
            unsubscribe.push(filter).unwrap();
        }
        let packet = match packet_type {
            PacketType::Connect => Packet::Connect(self.connect(version)),
            PacketType::Connack => {
                let session_present = self.flags[0] && reason == ReasonCode::Success;
                Packet::Connack(Connack { session_present, reason, properties })
            }
            PacketType::Publish => Packet::Publish(self.publish(version)),
            PacketType::Puback => Packet::Puback(self.ack(packet_type, version)),
            PacketType::Pubrec => Packet::Pubrec(self.ack(packet_type, version)),
            PacketType::Pubrel => Packet::Pubrel(self.ack(packet_type, version)),
            PacketType::Pubcomp => Packet::Pubcomp(self.ack(packet_type, version)),
            PacketType::Subscribe => {
                Packet::Subscribe(Subscribe { packet_id, properties, filters: subscribe.as_filters() })
            }
            PacketType::Suback => Packet::Suback(Suback { packet_id, properties, reasons: &[2, 0, 0x80, 1] }),
            PacketType::Unsubscribe => {
                Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters: unsubscribe.as_filters() })
            }
            PacketType::Unsuback => {
                Packet::Unsuback(Unsuback { packet_id, properties, reasons: &[0, 0x11, 0x87] })
            }
            PacketType::Pingreq => Packet::Pingreq,
            PacketType::Pingresp => Packet::Pingresp,
            PacketType::Disconnect => Packet::Disconnect(Disconnect { reason, properties }),
            PacketType::Auth => Packet::Auth(Auth { reason, properties }),
        };
        encode(&packet, version)
    }
}

/// Table 2-4 of the standard.
fn allowed_properties(packet_type: Option<PacketType>) -> &'static [PropertyId] {
    use PropertyId::*;
    match packet_type {
        None => &[
            PayloadFormatIndicator,
            MessageExpiryInterval,
            ContentType,
            ResponseTopic,
            CorrelationData,
            WillDelayInterval,
            UserProperty,
        ],
        Some(PacketType::Publish) => &[
            PayloadFormatIndicator,
            MessageExpiryInterval,
            ContentType,
            ResponseTopic,
            CorrelationData,
            SubscriptionIdentifier,
            TopicAlias,
            UserProperty,
        ],
        Some(PacketType::Connect) => &[
            SessionExpiryInterval,
            AuthenticationMethod,
            AuthenticationData,
            RequestProblemInformation,
            RequestResponseInformation,
            ReceiveMaximum,
            TopicAliasMaximum,
            MaximumPacketSize,
            UserProperty,
        ],
        Some(PacketType::Connack) => &[
            SessionExpiryInterval,
            AssignedClientIdentifier,
            ServerKeepAlive,
            AuthenticationMethod,
            AuthenticationData,
            ResponseInformation,
            ServerReference,
            ReasonString,
            ReceiveMaximum,
            TopicAliasMaximum,
            MaximumQoS,
            RetainAvailable,
            UserProperty,
            MaximumPacketSize,
            WildcardSubscriptionAvailable,
            SubscriptionIdentifierAvailable,
            SharedSubscriptionAvailable,
        ],
        Some(PacketType::Subscribe) => &[SubscriptionIdentifier, UserProperty],
        Some(PacketType::Unsubscribe) => &[UserProperty],
        Some(PacketType::Disconnect) => &[SessionExpiryInterval, ServerReference, ReasonString, UserProperty],
        Some(PacketType::Auth) => &[AuthenticationData, ReasonString, UserProperty],
        _ => &[ReasonString, UserProperty],
    }
}

fn property<'a>(id: PropertyId, number: u32, text: &'a str, other: &'a str) -> Property<'a> {
    use PropertyId as Id;
    let (short, flag) = (number as u16, number & 1 == 1);
    let identifier = NonZeroU32::new(number >> 4).unwrap_or(NonZeroU32::MIN);
    match id {
        Id::PayloadFormatIndicator => Property::PayloadFormatIndicator(u8::from(flag)),
        Id::MessageExpiryInterval => Property::MessageExpiryInterval(number),
        Id::ContentType => Property::ContentType(text),
        Id::ResponseTopic => Property::ResponseTopic("response/topic"),
        Id::CorrelationData => Property::CorrelationData(text.as_bytes()),
        Id::SubscriptionIdentifier => Property::SubscriptionIdentifier(identifier),
        Id::SessionExpiryInterval => Property::SessionExpiryInterval(number),
        Id::AssignedClientIdentifier => Property::AssignedClientIdentifier(text),
        Id::ServerKeepAlive => Property::ServerKeepAlive(short),
        Id::AuthenticationMethod => Property::AuthenticationMethod(text),
        Id::AuthenticationData => Property::AuthenticationData(other.as_bytes()),
        Id::RequestProblemInformation => Property::RequestProblemInformation(flag),
        Id::WillDelayInterval => Property::WillDelayInterval(number),
        Id::RequestResponseInformation => Property::RequestResponseInformation(flag),
        Id::ResponseInformation => Property::ResponseInformation(text),
        Id::ServerReference => Property::ServerReference(text),
        Id::ReasonString => Property::ReasonString(text),
        Id::ReceiveMaximum => Property::ReceiveMaximum(NonZeroU16::new(short).unwrap_or(NonZeroU16::MIN)),
        Id::TopicAliasMaximum => Property::TopicAliasMaximum(short),
        Id::TopicAlias => Property::TopicAlias(short.max(1)),
        Id::MaximumQoS => Property::MaximumQoS(if flag { QoS::AtLeastOnce } else { QoS::AtMostOnce }),
        Id::RetainAvailable => Property::RetainAvailable(flag),
        Id::UserProperty => Property::UserProperty(text, other),
        Id::MaximumPacketSize => Property::MaximumPacketSize(number.max(1)),
        Id::WildcardSubscriptionAvailable => Property::WildcardSubscriptionAvailable(flag),
        Id::SubscriptionIdentifierAvailable => Property::SubscriptionIdentifierAvailable(flag),
        Id::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(flag),
    }
}

fn text() -> impl Strategy<Value = String> {
    // [MQTT-1.5.4-2]
    vec(any::<char>(), 0..40).prop_map(|text| text.into_iter().filter(|c| *c != '\0').collect())
}

fn parts() -> impl Strategy<Value = Parts> {
    let qos = prop::sample::select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..]);
    let data = [option::of(vec(any::<u8>(), 0..300)), option::of(vec(any::<u8>(), 0..20))];
    let properties = vec((any::<usize>(), any::<u32>(), text(), text()), 0..20);
    let filters = vec((text().prop_map(|text| format!("f/{text}")), any::<u8>()), 1..5);
    (any::<(PacketId, [bool; 4], u16, usize)>(), [text(), text(), text()], data, qos, properties, filters)
        .prop_map(|((packet_id, flags, number, reason), texts, data, qos, properties, filters)| Parts {
            packet_id,
            texts,
            data,
            flags,
            qos,
            number,
            reason,
            properties,
            filters,
        })
}

fn version_and_type() -> impl Strategy<Value = (Version, PacketType)> {
    let all = [(Version::V311, 14), (Version::V5, 15)].into_iter();
    let all = all.flat_map(|(v, last)| (1..=last).filter_map(move |t| Some((v, PacketType::from_bits(t)?))));
    prop::sample::select(all.collect::<Vec<_>>())
}

fn settings() -> ProptestConfig {
    ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn what_we_write_they_read_and_write_the_same((version, packet_type) in version_and_type(), parts in parts()) {
        let bytes = parts.encoded(packet_type, version);
        let ours = decode(&bytes, version);
        let (written, _) = read_by_them(&bytes, &ours, version).unwrap();
        assert_eq!(written, bytes);
    }

    #[test]
    fn what_they_write_we_read_and_write_the_same((version, packet_type) in version_and_type(), parts in parts()) {
        let written = match version {
            Version::V5 => parts.written_by_their_v5(packet_type),
            _ => parts.written_by_their_v311(packet_type),
        };
        let Some(bytes) = written.unwrap() else { return Ok(()) };
        let ours = decode(&bytes, version);
        assert_eq!(encode(&ours, version), bytes);
        read_by_them(&bytes, &ours, version).unwrap();
        // Both sides mean the same parts.
        assert_eq!(bytes, parts.encoded(packet_type, version));
    }

    #[test]
    fn what_we_accept_after_a_byte_changed_they_read_the_same(
        (version, packet_type) in version_and_type(),
        parts in parts(),
        at: usize,
        xor in 1u8..,
    ) {
        let mut bytes = parts.encoded(packet_type, version);
        let at = at % bytes.len();
        bytes[at] ^= xor;
        let Ok(Framed::Whole { frame, length }) = frame(&bytes, u32::MAX) else { return Ok(()) };
        let Ok(ours) = Packet::decode(&frame, version) else { return Ok(()) };
        let bytes = &bytes[..length];
        match read_by_them(bytes, &ours, version) {
            Ok((written, _)) => if encode(&ours, version) == bytes {
                assert_eq!(written, bytes);
            },
            Err(error) => assert!(is_stricter(&ours, version), "{error:?} {ours:?} {bytes:x?}"),
        }
    }
}

/// Whether the other side refuses the packet for a rule that our codec leaves to the machine, or that is not there.
fn is_stricter(ours: &Packet<'_>, version: Version) -> bool {
    match ours {
        // It wants the version that it was asked to parse, and in 5.0 too a User Name for every Password.
        Packet::Connect(connect) => {
            connect.version != version
                || connect.bridge
                || (connect.password.is_some() && connect.user_name.is_none())
        }
        // The machine compares the method with that of the CONNECT anyway.
        Packet::Auth(auth) => auth.properties.authentication_method().is_none(),
        // Table 2-6 lists 0x8C for DISCONNECT, table 3-10 does not.
        Packet::Disconnect(disconnect) => disconnect.reason == ReasonCode::BadAuthenticationMethod,
        _ => false,
    }
}

/// Builds PUBLISH, CONNECT, SUBSCRIBE and UNSUBSCRIBE, whose builders are alike in both versions.
macro_rules! build {
    ($version:ident, $parts:ident, $packet_type:ident, $options:expr $(, $props:ident, $will_props:ident)?) => {{
        let packet_id = $parts.packet_id.get();
        match $packet_type {
            PacketType::Publish => {
                let ours = $parts.publish(Version::V311);
                let mut their = $version::Publish::builder()
                    .topic_name(&*ours.topic)?
                    .qos(their_qos(ours.qos))
                    .retain(ours.retain)
                    .dup(ours.dup)
                    .payload(&*ours.payload);
                if ours.qos != QoS::AtMostOnce {
                    their = their.packet_id(packet_id);
                }
                $(their = their.$props($parts.their_properties(Some($packet_type))?);)?
                their.build()?.to_continuous_buffer()
            }
            PacketType::Connect => {
                let ours = $parts.connect(Version::V311);
                let mut their = $version::Connect::builder()
                    .client_id(ours.client_id)?
                    .clean_start(ours.clean_start)
                    .keep_alive(ours.keep_alive);
                if let Some(will) = ours.will {
                    their = their.will_message(will.topic, will.payload.to_vec(), their_qos(will.qos), will.retain)?;
                    $(their = their.$will_props($parts.their_properties(None)?);)?
                }
                if let Some(user_name) = ours.user_name {
                    their = their.user_name(user_name)?;
                }
                if let Some(password) = ours.password {
                    their = their.password(password.to_vec())?;
                }
                $(their = their.$props($parts.their_properties(Some($packet_type))?);)?
                their.build()?.to_continuous_buffer()
            }
            PacketType::Subscribe => {
                let entries = $parts.filters.iter().map(|(filter, options)| {
                    let valid = SubscriptionOptions::from_byte(*options, $options).is_ok();
                    let options = theirs::SubOpts::from_u8(if valid { *options } else { 0 })?;
                    theirs::SubEntry::new(&**filter, options)
                });
                let entries = entries.collect::<Result<Vec<_>, MqttError>>()?;
                let their = $version::Subscribe::builder().packet_id(packet_id).entries(entries);
                $(let their = their.$props($parts.their_properties(Some($packet_type))?);)?
                their.build()?.to_continuous_buffer()
            }
            PacketType::Unsubscribe => {
                let filters = $parts.filters.iter().map(|(filter, _)| &**filter);
                let their = $version::Unsubscribe::builder().packet_id(packet_id).entries(filters)?;
                $(let their = their.$props($parts.their_properties(Some($packet_type))?);)?
                their.build()?.to_continuous_buffer()
            }
            PacketType::Pingreq => $version::Pingreq::builder().build()?.to_continuous_buffer(),
            PacketType::Pingresp => $version::Pingresp::builder().build()?.to_continuous_buffer(),
            _ => return Ok(None),
        }
    }};
}

/// Builds a packet of reason and properties, both left out if they can be.
macro_rules! build_outcome {
    ($name:ident, $code:ident, $parts:ident, $packet_type:ident, $their:expr) => {{
        let mut their = $their;
        let reason = $parts.reason($packet_type, Version::V5);
        let properties = $parts.their_properties(Some($packet_type))?;
        if reason != ReasonCode::Success || !properties.is_empty() {
            their = their.reason_code(code::$code::try_from(reason as u8).unwrap());
        }
        if !properties.is_empty() {
            their = their.props(properties);
        }
        their.build()?.to_continuous_buffer()
    }};
}

fn their_qos(qos: QoS) -> theirs::Qos {
    theirs::Qos::try_from(qos as u8).unwrap()
}

impl Parts {
    /// What the other side makes of the parts; nothing for packets that it cannot build of them.
    fn written_by_their_v5(&self, packet_type: PacketType) -> Result<Option<Vec<u8>>, MqttError> {
        let id = self.packet_id.get();
        Ok(Some(match packet_type {
            PacketType::Connack => {
                let reason = self.reason(packet_type, Version::V5);
                v5_0::Connack::builder()
                    .session_present(self.flags[0] && reason == ReasonCode::Success)
                    .reason_code(code::ConnectReasonCode::try_from(reason as u8).unwrap())
                    .props(self.their_properties(Some(packet_type))?)
                    .build()?
                    .to_continuous_buffer()
            }
            PacketType::Puback => {
                let their = v5_0::Puback::builder().packet_id(id);
                build_outcome!(Puback, PubackReasonCode, self, packet_type, their)
            }
            PacketType::Pubrec => {
                let their = v5_0::Pubrec::builder().packet_id(id);
                build_outcome!(Pubrec, PubrecReasonCode, self, packet_type, their)
            }
            PacketType::Pubrel => {
                let their = v5_0::Pubrel::builder().packet_id(id);
                build_outcome!(Pubrel, PubrelReasonCode, self, packet_type, their)
            }
            PacketType::Pubcomp => {
                let their = v5_0::Pubcomp::builder().packet_id(id);
                build_outcome!(Pubcomp, PubcompReasonCode, self, packet_type, their)
            }
            PacketType::Disconnect => {
                let their = v5_0::Disconnect::builder();
                build_outcome!(Disconnect, DisconnectReasonCode, self, packet_type, their)
            }
            PacketType::Auth => {
                build_outcome!(Auth, AuthReasonCode, self, packet_type, v5_0::Auth::builder())
            }
            PacketType::Suback => {
                use code::SubackReasonCode::*;
                v5_0::Suback::builder()
                    .packet_id(id)
                    .reason_codes(vec![GrantedQos2, GrantedQos0, UnspecifiedError, GrantedQos1])
                    .props(self.their_properties(Some(packet_type))?)
                    .build()?
                    .to_continuous_buffer()
            }
            PacketType::Unsuback => {
                use code::UnsubackReasonCode::*;
                v5_0::Unsuback::builder()
                    .packet_id(id)
                    .reason_codes(vec![Success, NoSubscriptionExisted, NotAuthorized])
                    .props(self.their_properties(Some(packet_type))?)
                    .build()?
                    .to_continuous_buffer()
            }
            _ => build!(v5_0, self, packet_type, Version::V5, props, will_props),
        }))
    }

    fn written_by_their_v311(&self, packet_type: PacketType) -> Result<Option<Vec<u8>>, MqttError> {
        let id = self.packet_id.get();
        Ok(Some(match packet_type {
            PacketType::Connack => v3_1_1::Connack::builder()
                .session_present(self.flags[0])
                .return_code(code::ConnectReturnCode::Accepted)
                .build()?
                .to_continuous_buffer(),
            PacketType::Puback => v3_1_1::Puback::builder().packet_id(id).build()?.to_continuous_buffer(),
            PacketType::Pubrec => v3_1_1::Pubrec::builder().packet_id(id).build()?.to_continuous_buffer(),
            PacketType::Pubrel => v3_1_1::Pubrel::builder().packet_id(id).build()?.to_continuous_buffer(),
            PacketType::Pubcomp => v3_1_1::Pubcomp::builder().packet_id(id).build()?.to_continuous_buffer(),
            PacketType::Unsuback => v3_1_1::Unsuback::builder().packet_id(id).build()?.to_continuous_buffer(),
            PacketType::Disconnect => v3_1_1::Disconnect::builder().build()?.to_continuous_buffer(),
            PacketType::Suback => {
                use code::SubackReturnCode::*;
                let codes = vec![SuccessMaximumQos2, SuccessMaximumQos0, Failure, SuccessMaximumQos1];
                v3_1_1::Suback::builder().packet_id(id).return_codes(codes).build()?.to_continuous_buffer()
            }
            _ => build!(v3_1_1, self, packet_type, Version::V311),
        }))
    }

    fn their_properties(&self, packet_type: Option<PacketType>) -> Result<theirs::Properties, MqttError> {
        self.properties(packet_type, Version::V5).iter().map(their_property).collect()
    }
}

fn their_property(ours: Property<'_>) -> Result<theirs::Property, MqttError> {
    use Property as P;
    Ok(match ours {
        P::PayloadFormatIndicator(0) => {
            theirs::PayloadFormatIndicator::new(theirs::PayloadFormat::Binary)?.into()
        }
        P::PayloadFormatIndicator(_) => {
            theirs::PayloadFormatIndicator::new(theirs::PayloadFormat::String)?.into()
        }
        P::MessageExpiryInterval(value) => theirs::MessageExpiryInterval::new(value)?.into(),
        P::ContentType(value) => theirs::ContentType::new(value)?.into(),
        P::ResponseTopic(value) => theirs::ResponseTopic::new(value)?.into(),
        P::CorrelationData(value) => theirs::CorrelationData::new(value.to_vec())?.into(),
        P::SubscriptionIdentifier(value) => theirs::SubscriptionIdentifier::new(value.get())?.into(),
        P::SessionExpiryInterval(value) => theirs::SessionExpiryInterval::new(value)?.into(),
        P::AssignedClientIdentifier(value) => theirs::AssignedClientIdentifier::new(value)?.into(),
        P::ServerKeepAlive(value) => theirs::ServerKeepAlive::new(value)?.into(),
        P::AuthenticationMethod(value) => theirs::AuthenticationMethod::new(value)?.into(),
        P::AuthenticationData(value) => theirs::AuthenticationData::new(value.to_vec())?.into(),
        P::RequestProblemInformation(value) => theirs::RequestProblemInformation::new(value.into())?.into(),
        P::WillDelayInterval(value) => theirs::WillDelayInterval::new(value)?.into(),
        P::RequestResponseInformation(value) => theirs::RequestResponseInformation::new(value.into())?.into(),
        P::ResponseInformation(value) => theirs::ResponseInformation::new(value)?.into(),
        P::ServerReference(value) => theirs::ServerReference::new(value)?.into(),
        P::ReasonString(value) => theirs::ReasonString::new(value)?.into(),
        P::ReceiveMaximum(value) => theirs::ReceiveMaximum::new(value.get())?.into(),
        P::TopicAliasMaximum(value) => theirs::TopicAliasMaximum::new(value)?.into(),
        P::TopicAlias(value) => theirs::TopicAlias::new(value)?.into(),
        P::MaximumQoS(value) => theirs::MaximumQos::new(value as u8)?.into(),
        P::RetainAvailable(value) => theirs::RetainAvailable::new(value.into())?.into(),
        P::UserProperty(name, value) => theirs::UserProperty::new(name, value)?.into(),
        P::MaximumPacketSize(value) => theirs::MaximumPacketSize::new(value)?.into(),
        P::WildcardSubscriptionAvailable(value) => {
            theirs::WildcardSubscriptionAvailable::new(value.into())?.into()
        }
        P::SubscriptionIdentifierAvailable(value) => {
            theirs::SubscriptionIdentifierAvailable::new(value.into())?.into()
        }
        P::SharedSubscriptionAvailable(value) => {
            theirs::SharedSubscriptionAvailable::new(value.into())?.into()
        }
    })
}
