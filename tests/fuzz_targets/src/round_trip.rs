//! Packets of every type and version, built field by field: what is written is read as the same, and written again as
//! the same bytes.

use crate::packets::with_packet;
use crate::script::Script;
use culex_core::packet::{Frame, Framed, Packet, PacketType, Version, frame};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// Target `round_trip`: see the table in `fuzz/README.md`.
///
/// # Panics
/// If something that must hold does not.
pub fn round_trip(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let version = script.pick(&VERSIONS);
    let written = with_packet(&mut script, version, |packet, too_large| {
        for other in VERSIONS {
            translated(packet, version, other, too_large);
        }
        write(packet, version, too_large)
    });
    if let Some(written) = written {
        damaged(&written, version, &mut script);
    }
}

/// The packet that an input of [`round_trip`] builds.
///
/// # Panics
/// If core and the tables here disagree about what may stand in it.
#[must_use]
pub fn what_is_built(bytes: &[u8]) -> (Version, PacketType) {
    let mut script = Script::new(bytes);
    let version = script.pick(&VERSIONS);
    (version, with_packet(&mut script, version, |packet, _| packet.packet_type()))
}

/// Writes a packet behind what is in an outbox already, and reads it.
fn write(packet: &Packet<'_>, version: Version, too_large: bool) -> Option<Vec<u8>> {
    let mut outbox = b"outbox".to_vec();
    let result = packet.encode(version, &mut outbox);
    assert!(outbox.starts_with(b"outbox"), "what was there was changed");
    assert_eq!(result.is_err(), too_large, "{result:?}");
    let written = outbox.split_off(6);
    if too_large {
        assert_eq!(written, b"", "something was left of {packet:?}");
        return None;
    }
    assert_eq!(announced(&written), written.len(), "{packet:?}");
    let read = read(&written, version);
    assert_eq!(&read, packet, "{version:?}");
    let mut again = Vec::new();
    read.encode(version, &mut again).expect("what was read can be written");
    assert_eq!(again, written, "{packet:?}");
    Some(written)
}

/// Length of the packet by its fixed header, which is as short as it can be [MQTT-1.5.5-1].
fn announced(bytes: &[u8]) -> usize {
    let width = 1 + bytes[1..].iter().take_while(|byte| **byte >= 0x80).count();
    let remaining =
        bytes[1..=width].iter().rev().fold(0, |value, byte| value * 128 + usize::from(byte & 0x7F));
    assert!(width == 1 || remaining >= 1 << (7 * (width - 1)), "{remaining} in {width} bytes");
    1 + width + remaining
}

fn read(bytes: &[u8], version: Version) -> Packet<'_> {
    match frame(bytes, u32::MAX) {
        Ok(Framed::Whole { frame, length }) if length == bytes.len() => match Packet::decode(&frame, version)
        {
            Ok(packet) => packet,
            Err(violation) => panic!("written, and refused by {violation}: {bytes:02X?}"),
        },
        other => panic!("{other:?}: {bytes:02X?}"),
    }
}

/// Writes a packet in another version: what that one cannot say is left out, and what is left is a packet.
fn translated(packet: &Packet<'_>, from: Version, to: Version, too_large: bool) {
    let impossible = match packet {
        Packet::Auth(_) => to != Version::V5,
        // Its topic is an alias, which 3.x has not.
        Packet::Publish(publish) => to != Version::V5 && publish.topic.is_empty(),
        // 3.x has no reasons to give.
        Packet::Unsuback(unsuback) => to == Version::V5 && unsuback.reasons.is_empty(),
        // Its version is its own.
        Packet::Connect(_) => true,
        _ => false,
    };
    if impossible || too_large || from == to {
        return;
    }
    let mut written = Vec::new();
    packet.encode(to, &mut written).expect("it is not longer in another version");
    let read = read(&written, to);
    assert_eq!(read.packet_type(), packet.packet_type());
    let mut again = Vec::new();
    read.encode(to, &mut again).expect("what was read can be written");
    assert_eq!(again, written, "{packet:?} in {to:?}");
    match (packet, &read) {
        (Packet::Publish(one), Packet::Publish(other)) => {
            let facts = |publish: &culex_core::packet::Publish<'_>| {
                (publish.dup, publish.qos, publish.retain, publish.packet_id)
            };
            assert_eq!(facts(one), facts(other));
            assert_eq!((&one.topic, &one.payload), (&other.topic, &other.payload));
        }
        (Packet::Subscribe(one), Packet::Subscribe(other)) => {
            let what =
                |(filter, options): (_, culex_core::packet::SubscriptionOptions)| (filter, options.qos);
            assert!(one.filters.iter().map(what).eq(other.filters.iter().map(what)));
        }
        (Packet::Unsubscribe(one), Packet::Unsubscribe(other)) => assert_eq!(one.filters, other.filters),
        // A failure stays a failure.
        (Packet::Suback(one), Packet::Suback(other)) => {
            let failed = |reasons: &[u8]| reasons.iter().map(|reason| *reason >= 0x80).collect::<Vec<_>>();
            assert_eq!(failed(one.reasons), failed(other.reasons));
        }
        (Packet::Connack(one), Packet::Connack(other)) => {
            assert_eq!(one.reason.is_error(), other.reason.is_error());
        }
        _ => {}
    }
}

/// The same bytes cut short are not yet a packet; with a body cut short, or a byte changed, they are refused or
/// understood as something else.
fn damaged(written: &[u8], version: Version, script: &mut Script<'_>) {
    let cut = usize::from(script.u16()) % written.len();
    match frame(&written[..cut], u32::MAX) {
        Ok(Framed::Partial { needed }) => assert!(cut < needed && needed <= written.len()),
        other => panic!("{other:?} at {cut} of {written:02X?}"),
    }
    let mut bytes = written.to_vec();
    let at = usize::from(script.u16()) % bytes.len();
    bytes[at] ^= script.byte();
    crate::decode(&bytes);
    if let Ok(Framed::Whole { frame, .. }) = frame(written, u32::MAX) {
        let body = &frame.body[..cut.min(frame.body.len())];
        let _ = Packet::decode(&Frame { first: frame.first, body }, version);
    }
}
