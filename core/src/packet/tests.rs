//! What all packets have in common: any packet survives the round trip, and no bytes make the decoder panic.

use super::properties::context;
use super::*;
use alloc::borrow::Cow;
use core::num::{NonZeroU16, NonZeroU32};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(super) const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
pub(super) const ID: PacketId = PacketId::new(0x0A0B).unwrap();

/// Frames the one packet in the bytes and decodes it.
pub(super) fn decode(bytes: &[u8], version: Version) -> Result<Packet<'_>, Violation> {
    let Framed::Whole { frame, length } = frame(bytes, u32::MAX)? else {
        panic!("not a whole packet: {bytes:x?}");
    };
    assert_eq!(length, bytes.len(), "the remaining length does not fit: {bytes:x?}");
    Packet::decode(&frame, version)
}

/// Encodes into an outbox that already holds something.
pub(super) fn encode(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = b"outbox".to_vec();
    packet.encode(version, &mut out).unwrap();
    out.split_off(6)
}

/// A packet is these bytes, and the bytes are this packet.
#[track_caller]
pub(super) fn assert_wire(packet: &Packet<'_>, version: Version, bytes: &[u8]) {
    assert_eq!(encode(packet, version), bytes, "{packet:?}");
    assert_eq!(decode(bytes, version).as_ref(), Ok(packet));
}

/// The bytes are refused for this reason.
#[track_caller]
pub(super) fn assert_violation(bytes: &[u8], version: Version, violation: Violation) {
    assert_eq!(decode(bytes, version), Err(violation), "{version:?} {bytes:x?}");
}

/// The owned form of a packet: what a strategy can generate.
#[derive(Debug, Clone)]
struct Parts {
    packet_type: PacketType,
    packet_id: PacketId,
    texts: [String; 3],
    data: [Option<Vec<u8>>; 2],
    flags: [bool; 4],
    qos: QoS,
    keep_alive: u16,
    reason: usize,
    reasons: Vec<u8>,
    properties: Vec<Prop>,
    will_properties: Vec<Prop>,
    filters: Vec<(String, u8)>,
}

impl Parts {
    fn connect(&self, version: Version) -> Connect<'_> {
        let [client_id, payload, user_name] = &self.texts;
        let user_name = self.data[0].is_some().then_some(&**user_name);
        let password = self.data[1].as_deref();
        Connect {
            version,
            clean_start: self.flags[0],
            keep_alive: self.keep_alive,
            client_id,
            properties: properties(&self.properties, context::CONNECT, version),
            will: self.flags[1].then(|| Will {
                topic: "will/topic",
                payload: payload.as_bytes(),
                qos: self.qos,
                retain: self.flags[2],
                properties: properties(&self.will_properties, context::WILL, version),
            }),
            user_name,
            password: password.filter(|_| version == Version::V5 || user_name.is_some()),
            bridge: self.flags[3] && version != Version::V5,
        }
    }

    fn publish(&self, version: Version) -> Publish<'_> {
        Publish {
            dup: self.flags[0] && self.qos != QoS::AtMostOnce,
            qos: self.qos,
            retain: self.flags[1],
            topic: Cow::Owned(format!("t/{}", self.texts[0].replace(['#', '+'], "*"))),
            packet_id: (self.qos != QoS::AtMostOnce).then_some(self.packet_id),
            properties: properties(&self.properties, context::PUBLISH, version),
            payload: Cow::Borrowed(self.data[0].as_deref().unwrap_or_default()),
        }
    }
}

/// A property by its id and material for any value.
#[derive(Debug, Clone)]
struct Prop(PropertyId, u32, String, String);

impl Prop {
    fn property(&self) -> Property<'_> {
        use PropertyId as Id;
        let (number, text) = (self.1, &*self.2);
        let (short, flag) = (number as u16, number & 1 == 1);
        match self.0 {
            Id::PayloadFormatIndicator => Property::PayloadFormatIndicator(u8::from(flag)),
            Id::MessageExpiryInterval => Property::MessageExpiryInterval(number),
            Id::ContentType => Property::ContentType(text),
            Id::ResponseTopic => Property::ResponseTopic("response/topic"),
            Id::CorrelationData => Property::CorrelationData(text.as_bytes()),
            Id::SubscriptionIdentifier => Property::SubscriptionIdentifier(
                NonZeroU32::new(number & header::VARINT_MAX).unwrap_or(NonZeroU32::MIN),
            ),
            Id::SessionExpiryInterval => Property::SessionExpiryInterval(number),
            Id::AssignedClientIdentifier => Property::AssignedClientIdentifier(text),
            Id::ServerKeepAlive => Property::ServerKeepAlive(short),
            Id::AuthenticationMethod => Property::AuthenticationMethod(text),
            Id::AuthenticationData => Property::AuthenticationData(text.as_bytes()),
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
            Id::UserProperty => Property::UserProperty(text, &self.3),
            Id::MaximumPacketSize => Property::MaximumPacketSize(number.max(1)),
            Id::WildcardSubscriptionAvailable => Property::WildcardSubscriptionAvailable(flag),
            Id::SubscriptionIdentifierAvailable => Property::SubscriptionIdentifierAvailable(flag),
            Id::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(flag),
        }
    }
}

/// Those of the properties that may stand together in the context.
fn properties(props: &[Prop], context: u16, version: Version) -> Properties<'static> {
    let mut buf = PropertiesBuf::new();
    if version != Version::V5 {
        return Properties::EMPTY;
    }
    for prop in props {
        let id = prop.0;
        let seen = |id| buf.as_properties().iter().any(|p| p.id() == id);
        let repeated = !id.repeats(context) && seen(id);
        let orphan = id == PropertyId::AuthenticationData && !seen(PropertyId::AuthenticationMethod);
        if id.contexts() & context != 0 && !repeated && !orphan {
            buf.push(prop.property());
        }
    }
    Properties::from_buf(buf)
}

/// The reason codes that a packet may carry, found by asking its decoder.
fn allowed(packet_type: PacketType, version: Version) -> Vec<ReasonCode> {
    match (packet_type, version) {
        (_, Version::V5) => {}
        (PacketType::Connack, _) => return (0..=5).filter_map(ReasonCode::from_connack_v3).collect(),
        _ => return vec![ReasonCode::Success],
    }
    let first = packet_type.first_byte(if packet_type == PacketType::Pubrel { 0b0010 } else { 0 });
    let fits = |reason: &ReasonCode| {
        let body: &[u8] = match packet_type {
            PacketType::Connack => &[0, *reason as u8, 0],
            PacketType::Disconnect | PacketType::Auth => &[*reason as u8, 0],
            _ => &[0, 1, *reason as u8, 0],
        };
        Packet::decode(&Frame { first, body }, version).is_ok()
    };
    (0..=u8::MAX).filter_map(ReasonCode::from_u8).filter(fits).collect()
}

/// Builds a packet of the parts and hands it on.
fn with_packet(parts: &Parts, version: Version, check: impl FnOnce(&Packet<'_>)) {
    let packet_id = parts.packet_id;
    let props = |context| properties(&parts.properties, context, version);
    let reason = || {
        let allowed = allowed(parts.packet_type, version);
        allowed[parts.reason % allowed.len()]
    };
    let ack = |context| Ack { packet_id, reason: reason(), properties: props(context) };
    let mut subscribe = SubscribeFiltersBuf::new();
    let mut unsubscribe = UnsubscribeFiltersBuf::new();
    for (filter, options) in &parts.filters {
        let options = if version == Version::V5 { *options } else { options & 0b11 };
        let options = SubscriptionOptions::from_byte(options, version).unwrap_or_default();
        subscribe.push(filter, options).unwrap();
        unsubscribe.push(filter).unwrap();
    }
    check(&match parts.packet_type {
        PacketType::Connect => Packet::Connect(parts.connect(version)),
        PacketType::Connack => {
            let reason = reason();
            let session_present = parts.flags[0] && reason == ReasonCode::Success && version != Version::V31;
            Packet::Connack(Connack { session_present, reason, properties: props(context::CONNACK) })
        }
        PacketType::Publish => Packet::Publish(parts.publish(version)),
        PacketType::Puback => Packet::Puback(ack(context::PUBACK)),
        PacketType::Pubrec => Packet::Pubrec(ack(context::PUBREC)),
        PacketType::Pubrel => Packet::Pubrel(ack(context::PUBREL)),
        PacketType::Pubcomp => Packet::Pubcomp(ack(context::PUBCOMP)),
        PacketType::Subscribe => Packet::Subscribe(Subscribe {
            packet_id,
            properties: props(context::SUBSCRIBE),
            filters: subscribe.as_filters(),
        }),
        PacketType::Suback => {
            let (properties, reasons) = (props(context::SUBACK), &*parts.reasons);
            Packet::Suback(Suback { packet_id, properties, reasons })
        }
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties: props(context::UNSUBSCRIBE),
            filters: unsubscribe.as_filters(),
        }),
        PacketType::Unsuback => {
            let reasons = if version == Version::V5 { &[0, 0x11, 0x80, 0x87][..] } else { &[] };
            Packet::Unsuback(Unsuback { packet_id, properties: props(context::UNSUBACK), reasons })
        }
        PacketType::Pingreq => Packet::Pingreq,
        PacketType::Pingresp => Packet::Pingresp,
        PacketType::Disconnect => {
            Packet::Disconnect(Disconnect { reason: reason(), properties: props(context::DISCONNECT) })
        }
        PacketType::Auth => Packet::Auth(Auth { reason: reason(), properties: props(context::AUTH) }),
    });
}

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(&VERSIONS[..])
}

fn text() -> impl Strategy<Value = String> {
    // [MQTT-1.5.4-2]
    vec(any::<char>(), 0..40).prop_map(|text| text.into_iter().filter(|c| *c != '\0').collect())
}

fn props() -> impl Strategy<Value = Vec<Prop>> {
    let id = prop::sample::select((0..=0x2A).filter_map(PropertyId::from_u8).collect::<Vec<_>>());
    vec((id, any::<u32>(), text(), text()).prop_map(|(id, n, a, b)| Prop(id, n, a, b)), 0..30)
}

/// Every property there is, those that may repeat twice, in any order.
fn every_property() -> impl Strategy<Value = Vec<Prop>> {
    let twice = [PropertyId::UserProperty];
    let ids: Vec<_> = (0..=0x2A).filter_map(PropertyId::from_u8).chain(twice).collect();
    let count = ids.len();
    (Just(ids).prop_shuffle(), vec((any::<u32>(), text(), text()), count)).prop_map(|(ids, values)| {
        ids.into_iter().zip(values).map(|(id, (number, one, other))| Prop(id, number, one, other)).collect()
    })
}

/// Every property, with the values of these parts.
fn every(parts: &Parts) -> Vec<Prop> {
    let [one, other, _] = &parts.texts;
    let ids = (0..=0x2A).rev().filter_map(PropertyId::from_u8);
    ids.map(|id| Prop(id, parts.keep_alive.into(), one.clone(), other.clone())).collect()
}

/// Those that may stand in a context.
fn of_context(props: &[Prop], context: u16) -> PropertiesBuf {
    let mut buf = PropertiesBuf::new();
    for prop in props.iter().filter(|prop| prop.0.contexts() & context != 0) {
        buf.push(prop.property());
    }
    buf
}

fn properties_mut<'p, 'a>(packet: &'p mut Packet<'a>) -> Option<&'p mut Properties<'a>> {
    Some(match packet {
        Packet::Connect(packet) => &mut packet.properties,
        Packet::Connack(packet) => &mut packet.properties,
        Packet::Publish(packet) => &mut packet.properties,
        Packet::Puback(packet) | Packet::Pubrec(packet) => &mut packet.properties,
        Packet::Pubrel(packet) | Packet::Pubcomp(packet) => &mut packet.properties,
        Packet::Subscribe(packet) => &mut packet.properties,
        Packet::Suback(packet) => &mut packet.properties,
        Packet::Unsubscribe(packet) => &mut packet.properties,
        Packet::Unsuback(packet) => &mut packet.properties,
        Packet::Disconnect(packet) => &mut packet.properties,
        Packet::Auth(packet) => &mut packet.properties,
        Packet::Pingreq | Packet::Pingresp => return None,
    })
}

fn parts() -> impl Strategy<Value = Parts> {
    let qos = prop::sample::select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..]);
    let filter = text().prop_map(|text| format!("f/{text}"));
    let reasons = vec(prop::sample::select(&[0u8, 1, 2, 0x80][..]), 1..10);
    (
        (1u8..=15, any::<PacketId>(), [text(), text(), text()], any::<[bool; 4]>(), qos),
        (
            [option::of(vec(any::<u8>(), 0..300)), option::of(vec(any::<u8>(), 0..20))],
            any::<u16>(),
            any::<usize>(),
        ),
        (reasons, props(), props(), vec((filter, any::<u8>()), 1..5)),
    )
        .prop_map(|((packet_type, packet_id, texts, flags, qos), (data, keep_alive, reason), lists)| {
            let packet_type = PacketType::from_bits(packet_type).unwrap();
            let (reasons, properties, will_properties, filters) = lists;
            Parts {
                packet_type,
                packet_id,
                texts,
                data,
                flags,
                qos,
                keep_alive,
                reason,
                reasons,
                properties,
                will_properties,
                filters,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_packet_survives_the_round_trip(parts in parts(), version in version()) {
        if version == Version::V5 || parts.packet_type != PacketType::Auth {
            with_packet(&parts, version, |packet| {
                let bytes = encode(packet, version);
                assert_eq!(decode(&bytes, version).as_ref(), Ok(packet));
                assert_eq!(packet.packet_type(), parts.packet_type);
            });
        }
    }

    #[test]
    fn every_packet_with_every_property_in_any_order_survives(parts in parts(), all in every_property()) {
        for packet_type in (1..=15).filter_map(PacketType::from_bits) {
            // Authentication Data may stand before the method that it belongs to.
            let all = Properties::from_buf(of_context(&all, 1 << packet_type as u16));
            let mut written = false;
            let parts = Parts { packet_type, flags: [true; 4], ..parts.clone() };
            with_packet(&parts, Version::V5, |packet| {
                let mut packet = packet.clone();
                let Some(properties) = properties_mut(&mut packet) else { return };
                *properties = all.clone();
                if let Packet::Connect(connect) = &mut packet
                    && let Some(will) = &mut connect.will
                {
                    will.properties = Properties::from_buf(of_context(&every(&parts), context::WILL));
                }
                let bytes = encode(&packet, Version::V5);
                assert_eq!(decode(&bytes, Version::V5).as_ref(), Ok(&packet));
                written = true;
            });
            let ping = matches!(packet_type, PacketType::Pingreq | PacketType::Pingresp);
            prop_assert!(written || ping, "{:?} has properties", packet_type);
        }
    }

    #[test]
    fn any_packet_cut_short_or_prolonged_never_panics(parts in parts(), version in version(), cut: u8, tail: u8) {
        with_packet(&parts, version, |packet| {
            let mut bytes = Vec::new();
            packet.encode(version, &mut bytes).unwrap();
            let Ok(Framed::Whole { frame, .. }) = frame(&bytes, u32::MAX) else { panic!("not whole") };
            let short = &frame.body[..frame.body.len() * usize::from(cut) / 256];
            let _ = Packet::decode(&Frame { body: short, ..frame }, version);
            let long = [frame.body, &[tail]].concat();
            let _ = Packet::decode(&Frame { body: &long, ..frame }, version);
        });
    }

    #[test]
    fn any_packet_with_one_byte_changed_never_panics(parts in parts(), version in version(), at: usize, xor: u8) {
        with_packet(&parts, version, |packet| {
            let mut bytes = encode(packet, version);
            let at = at % bytes.len();
            bytes[at] ^= xor;
            if let Ok(Framed::Whole { frame, .. }) = frame(&bytes, u32::MAX) {
                survives(&frame);
            }
        });
    }

    #[test]
    fn any_bytes_never_panic(first: u8, body in vec(any::<u8>(), 0..200)) {
        survives(&Frame { first, body: &body });
        let _ = frame(&body, u32::MAX);
    }

    #[test]
    fn any_frame_split_anywhere_is_the_same(parts in parts(), version in version()) {
        with_packet(&parts, version, |packet| {
            let bytes = encode(packet, version);
            for split in 0..bytes.len() {
                let Ok(Framed::Partial { needed }) = frame(&bytes[..split], u32::MAX) else {
                    panic!("whole or refused at {split}");
                };
                assert!(split < needed && needed <= bytes.len());
            }
        });
    }
}

/// Whatever decodes can be read to its end, and encodes to something that decodes to the same.
fn survives(frame: &Frame<'_>) {
    for version in VERSIONS {
        let Ok(packet) = Packet::decode(frame, version) else { continue };
        let _ = format!("{packet:?}");
        let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
        let bytes = encode(&packet, version);
        assert_eq!(decode(&bytes, version), Ok(packet), "{frame:x?}");
    }
}

#[test]
fn a_packet_that_is_too_large_leaves_no_trace() {
    let mut out = b"outbox".to_vec();
    let long = "x".repeat(65_536);
    let mut publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Cow::Borrowed(&long),
        packet_id: None,
        properties: Properties::EMPTY,
        payload: Cow::Borrowed(b""),
    };
    assert_eq!(publish.encode(Version::V5, &mut out), Err(Misuse::TooLarge));
    publish.topic = Cow::Borrowed("t");
    publish.payload = Cow::Owned(vec![0; header::VARINT_MAX as usize - 3]);
    assert_eq!(publish.encode(Version::V5, &mut out), Err(Misuse::TooLarge));
    assert_eq!(out, b"outbox");
    publish.encode(Version::V311, &mut out).unwrap();
    assert_eq!(out.len(), 6 + 5 + header::VARINT_MAX as usize);
}

#[test]
fn a_reason_that_a_packet_cannot_carry_becomes_an_unspecified_error() {
    // Sections 3.4.2.1, 3.5.2.1, 3.9.3, 3.11.3 and 3.14.2.1
    use PacketType::{Disconnect, Puback, Pubrec, Suback, Unsuback};
    for packet in [Puback, Pubrec, Suback, Unsuback, Disconnect] {
        let foreign = super::reason_for(packet, ReasonCode::BadUserNameOrPassword);
        assert_eq!(foreign, ReasonCode::UnspecifiedError, "{packet:?}");
        assert_eq!(
            super::reason_for(packet, ReasonCode::NotAuthorized),
            ReasonCode::NotAuthorized,
            "{packet:?}"
        );
    }
}
