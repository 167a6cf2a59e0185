use super::*;
use crate::packet::Property;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = Box<str>> {
    "[a-z/ä]{1,9}".prop_map(Into::into)
}

fn message() -> impl Strategy<Value = Message> {
    let expires = prop::option::of(any::<u64>().prop_map(|at| Wall(at >> 1)));
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    (text(), payload, 0u8..3, any::<bool>(), expires, prop::option::of(text())).prop_map(
        |(topic, payload, qos, retain, expires, content_type)| {
            let properties: Vec<_> = content_type.iter().map(|text| Property::ContentType(text)).collect();
            let qos = QoS::from_bits(qos).unwrap();
            Message::with_properties(&topic, &payload, qos, retain, &properties, expires).unwrap()
        },
    )
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1u16..).prop_map(|number| PacketId::new(number).unwrap())
}

fn qos() -> impl Strategy<Value = QoS> {
    prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

/// That of what may be in flight.
fn qos_above_0() -> impl Strategy<Value = QoS> {
    prop::sample::select(vec![QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn identifiers() -> impl Strategy<Value = Identifiers> {
    prop::collection::vec(1u32..=268_435_455, 0..4).prop_map(|numbers| {
        let mut identifiers = Identifiers::None;
        numbers.into_iter().filter_map(NonZeroU32::new).for_each(|number| identifiers.push(number));
        identifiers
    })
}

fn relayed() -> impl Strategy<Value = Relayed> {
    let settled = prop_oneof![
        Just(Settled::Nothing),
        (text(), packet_id()).prop_map(|(client_id, packet_id)| Settled::Inbound { client_id, packet_id }),
        text().prop_map(|client_id| Settled::Will { client_id }),
    ];
    let retained = prop::sample::select(vec![Effect::None, Effect::Set, Effect::Removed]);
    let recipient = (text(), qos_above_0(), any::<bool>(), identifiers(), prop::option::of(packet_id()))
        .prop_map(|(client_id, qos, retain, identifiers, packet_id)| Recipient {
            client_id,
            qos,
            retain,
            identifiers,
            packet_id,
        });
    (message(), settled, retained, prop::collection::vec(recipient, 0..4)).prop_map(
        |(message, settled, retained, recipients)| Relayed { message, settled, retained, recipients },
    )
}

fn of_session() -> impl Strategy<Value = Record> {
    let left = prop::option::of(any::<u32>().prop_map(|at| Wall(u64::from(at))));
    prop_oneof![
        (text(), any::<u32>(), left).prop_map(|(client_id, expiry, left)| Record::Session {
            client_id,
            expiry,
            left
        }),
        text().prop_map(|client_id| Record::SessionEnded { client_id }),
        (text(), text(), any::<u8>(), any::<u32>()).prop_map(|(client_id, filter, options, identifier)| {
            Record::Subscription { client_id, filter, options, identifier }
        }),
        (text(), text()).prop_map(|(client_id, filter)| Record::Unsubscription { client_id, filter }),
        (text(), text(), any::<u8>(), any::<u32>(), prop::option::of(text())).prop_map(
            |(client_id, filter, options, identifier, after)| Record::Page {
                client_id,
                filter,
                options,
                identifier,
                after
            }
        ),
        (text(), text()).prop_map(|(client_id, filter)| Record::PageEnded { client_id, filter }),
        (text(), message(), prop::option::of(any::<u32>()), any::<u32>()).prop_map(
            |(client_id, message, expiry_s, delay_s)| Record::Will { client_id, message, expiry_s, delay_s }
        ),
        text().prop_map(|client_id| Record::WillGone { client_id }),
    ]
}

fn of_delivery() -> impl Strategy<Value = Record> {
    prop_oneof![
        (text(), packet_id(), prop::option::of(message()))
            .prop_map(|(client_id, packet_id, message)| Record::Inbound { client_id, packet_id, message }),
        (text(), message(), qos(), any::<bool>(), identifiers()).prop_map(
            |(client_id, message, qos, retain, identifiers)| {
                Record::Queued { client_id, message, qos, retain, identifiers }
            }
        ),
        (text(), packet_id(), message(), qos_above_0(), any::<(bool, bool)>(), identifiers()).prop_map(
            |(client_id, packet_id, message, qos, (retain, paged), identifiers)| {
                Record::InFlight { client_id, packet_id, message, qos, retain, identifiers, paged }
            }
        ),
        text().prop_map(|client_id| Record::Dropped { client_id }),
        (text(), packet_id(), 0..4).prop_map(|(client_id, packet_id, kind)| match kind {
            0 => Record::InboundGone { client_id, packet_id },
            1 => Record::Sent { client_id, packet_id },
            2 => Record::Received { client_id, packet_id },
            _ => Record::Acknowledged { client_id, packet_id },
        }),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        of_session(),
        of_delivery(),
        message().prop_map(Record::Retained),
        relayed().prop_map(Record::Relayed),
    ]
}

proptest! {
    #[test]
    fn a_record_gives_back_what_was_put_in(record in record()) {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        prop_assert_eq!(Record::decode(&bytes), Ok(record));
        for length in 0..bytes.len() {
            prop_assert!(Record::decode(&bytes[..length]).is_err(), "{} of {} bytes", length, bytes.len());
        }
        bytes.push(0);
        prop_assert_eq!(Record::decode(&bytes), Err(BadRecord { expected: "the end" }));
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..60), tag in 0u8..20) {
        drop(Record::decode(&bytes));
        bytes.splice(0..0, [VERSION, tag]);
        if let Ok(record) = Record::decode(&bytes) {
            let mut again = Vec::new();
            record.encode(&mut again);
            prop_assert_eq!(Record::decode(&again), Ok(record));
        }
    }

    #[test]
    fn a_damaged_record_is_a_record_or_an_error(record in record(), at in any::<usize>(), byte in any::<u8>()) {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        let at = at % bytes.len();
        bytes[at] = byte;
        drop(Record::decode(&bytes));
    }
}

#[test]
fn what_a_later_version_wrote_is_not_guessed() {
    let mut bytes = Vec::new();
    Record::WillGone { client_id: "a".into() }.encode(&mut bytes);
    bytes[0] = 2;
    assert_eq!(Record::decode(&bytes), Err(BadRecord { expected: "version 1" }));
    assert!(Record::decode(&[VERSION, 99, 0]).is_err());
}

#[test]
fn nothing_of_qos_0_is_in_flight() {
    // It would be sent with DUP and a Packet Identifier [MQTT-3.3.1-2] [MQTT-2.2.1-2].
    let message = Message::new("t", b"m", QoS::AtMostOnce, false).unwrap();
    let (client_id, qos, retain, identifiers) = ("a".into(), QoS::AtMostOnce, false, Identifiers::None);
    let packet_id = PacketId::MIN;
    let recipient = Recipient { client_id, qos, retain, identifiers, packet_id: Some(packet_id) };
    let (client_id, settled, identifiers) = ("a".into(), Settled::Nothing, Identifiers::None);
    let (kept, retained, recipients) = (message.clone(), Effect::None, vec![recipient]);
    for record in [
        Record::Relayed(Relayed { message: kept, settled, retained, recipients }),
        Record::InFlight { client_id, packet_id, message, qos, retain, identifiers, paged: false },
    ] {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        assert_eq!(Record::decode(&bytes), Err(NO_FLIGHT), "{record:?}");
    }
}

#[test]
fn the_bytes_of_a_record_are_these() {
    // A log outlives the program that wrote it.
    let message = Message::new("t", b"m", QoS::AtLeastOnce, false).unwrap();
    let recipient = Recipient {
        client_id: "b".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        identifiers: Identifiers::None,
        packet_id: PacketId::new(7),
    };
    let settled = Settled::Nothing;
    let relayed = Relayed { message, settled, retained: Effect::Set, recipients: [recipient].into() };
    let mut bytes = Vec::new();
    Record::Relayed(relayed).encode(&mut bytes);
    assert_eq!(bytes, *b"\x01\x0c\x01\x00\x01t\x00\x01m\x04\x01\x01b\x09\x00\x07");
}
