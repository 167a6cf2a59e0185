//! A machine made of arbitrary records, as a damaged or a foreign log may hold them, and clients that go on with it.
//!
//! The first byte chooses the machine as for `broker`; the second how many records follow. A record is a byte: 255 and it
//! is given as bytes, with their count in front; any other, modulo 18, which one, and its fields. What is left of the
//! input is what clients do, written as for `client_bytes`.

use crate::client_bytes::{CLIENT_IDS, Clients, FILTERS, TOPICS};
use crate::script::Script;
use crate::world::{DURABLE, World};
use culex_core::broker::{Effect, Identifiers, Recipient, Relayed, Settled};
use culex_core::packet::{PacketId, QoS, SubscriptionOptions};
use culex_core::{Message, Record, Wall};
use std::num::NonZeroU32;

/// Target `log`: see the table in `fuzz/README.md`.
///
/// # Panics
/// If something that must hold does not.
pub fn log(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let kind = script.byte() | DURABLE;
    let count = script.byte();
    let records: Vec<Record> = (0..count).filter_map(|_| record(&mut script)).collect();
    let mut world = World::new(kind);
    let whole = world.restore(&records);
    if whole {
        world.is_what_its_records_say();
    }
    let mut clients = Clients::new(world, kind);
    clients.run(&mut script);
    if whole {
        clients.world.everybody_leaves();
        clients.world.nobody_waits();
        clients.world.is_what_its_records_say();
    }
    clients.world.end();
}

/// A record as bytes carry it.
fn record(script: &mut Script<'_>) -> Option<Record> {
    let tag = script.next()?;
    if tag == 255 {
        let record = Record::decode(script.short()).ok()?;
        assert_eq!(again(&record), record, "what was read is written as it was");
        return Some(record);
    }
    let record = build(tag % 18, script);
    assert_eq!(again(&record), record, "what was written is read as it was");
    Some(record)
}

fn again(record: &Record) -> Record {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    Record::decode(&bytes).expect("what was encoded can be decoded")
}

fn client_id(script: &mut Script<'_>) -> Box<str> {
    // Nobody has the empty one: the machine gives it a name.
    script.pick(&CLIENT_IDS[..3]).into()
}

fn packet_id(script: &mut Script<'_>) -> PacketId {
    let number = match script.byte() {
        high @ 240.. => u16::from(high) << 8 | 0xFF,
        low => low.into(),
    };
    PacketId::new(number).unwrap_or(PacketId::MIN)
}

fn qos(script: &mut Script<'_>) -> QoS {
    script.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

/// That of a message in flight.
fn qos_above_0(script: &mut Script<'_>) -> QoS {
    script.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce])
}

/// Around the time at which the machine starts, or far from it.
fn wall(script: &mut Script<'_>) -> Option<Wall> {
    let now = 1_700_000_000_000_u64;
    match script.byte() {
        0..128 => None,
        at @ 128..250 => Some(Wall(now - 3_000 + u64::from(at - 128) * 100)),
        250..253 => Some(Wall(u64::MAX - 1)),
        253.. => Some(Wall(0)),
    }
}

/// One of few intervals in seconds.
fn seconds(script: &mut Script<'_>) -> u32 {
    script.pick(&[0, 1, 10, 3_600, u32::MAX - 1, u32::MAX])
}

fn message(script: &mut Script<'_>) -> Message {
    let (topic, qos, flags) = (script.pick(&TOPICS), qos(script), script.byte());
    let payload: &[u8] = if flags & 2 == 0 { script.short() } else { b"payload" };
    let message = Message::new(topic, payload, qos, flags & 1 != 0).expect("its topic is one");
    message.with_expiry(wall(script))
}

fn identifiers(script: &mut Script<'_>) -> Identifiers {
    let mut identifiers = Identifiers::None;
    for _ in 0..script.byte() % 3 {
        identifiers.push(NonZeroU32::new(script.byte().into()).unwrap_or(NonZeroU32::MIN));
    }
    identifiers
}

/// A filter that is one: others are refused when a record is read.
fn filter(script: &mut Script<'_>) -> Box<str> {
    script.pick(&FILTERS[..9]).into()
}

fn build(tag: u8, script: &mut Script<'_>) -> Record {
    let client_id = client_id(script);
    match tag {
        0 => Record::Session { client_id, expiry: seconds(script), left: wall(script) },
        1 => Record::SessionEnded { client_id },
        2 => Record::Subscription {
            client_id,
            filter: filter(script),
            options: match script.byte() {
                any @ 128.. => any,
                qos => SubscriptionOptions::new(QoS::from_bits(qos % 3).unwrap_or_default()).to_byte(),
            },
            identifier: u32::from(script.byte() % 3),
        },
        3 => Record::Unsubscription { client_id, filter: filter(script) },
        4 => {
            let after = (script.byte() & 1 != 0).then(|| script.pick(&TOPICS).into());
            let (filter, options, identifier) = (filter(script), script.byte(), u32::from(script.byte() % 3));
            Record::Page { client_id, filter, options, identifier, after }
        }
        5 => Record::PageEnded { client_id, filter: filter(script) },
        6 => Record::Retained(message(script)),
        7 => {
            let expiry_s = (script.byte() & 1 != 0).then(|| seconds(script));
            Record::Will { client_id, message: message(script), expiry_s, delay_s: seconds(script) }
        }
        8 => Record::WillGone { client_id },
        9 => {
            let message = (script.byte() & 1 == 0).then(|| message(script));
            Record::Inbound { client_id, packet_id: packet_id(script), message }
        }
        _ => build_delivery(tag, client_id, script),
    }
}

fn build_delivery(tag: u8, client_id: Box<str>, script: &mut Script<'_>) -> Record {
    match tag {
        10 => Record::InboundGone { client_id, packet_id: packet_id(script) },
        11 => Record::Relayed(relayed(client_id, script)),
        12 => {
            let (message, qos, identifiers) = (message(script), qos(script), identifiers(script));
            Record::Queued { client_id, message, qos, retain: script.byte() & 1 != 0, identifiers }
        }
        13 => Record::Dropped { client_id },
        14 => Record::Sent { client_id, packet_id: packet_id(script) },
        15 => {
            let (message, qos, identifiers) = (message(script), qos_above_0(script), identifiers(script));
            let (packet_id, flags) = (packet_id(script), script.byte());
            let (retain, paged) = (flags & 1 != 0, flags & 2 != 0);
            Record::InFlight { client_id, packet_id, message, qos, retain, identifiers, paged }
        }
        16 => Record::Received { client_id, packet_id: packet_id(script) },
        _ => Record::Acknowledged { client_id, packet_id: packet_id(script) },
    }
}

fn relayed(client: Box<str>, script: &mut Script<'_>) -> Relayed {
    let message = message(script);
    let settled = match script.byte() % 3 {
        0 => Settled::Nothing,
        1 => Settled::Inbound { client_id: client, packet_id: packet_id(script) },
        _ => Settled::Will { client_id: client },
    };
    let retained = script.pick(&[Effect::None, Effect::Set, Effect::Removed]);
    let recipient = |script: &mut Script<'_>| Recipient {
        client_id: client_id(script),
        qos: qos_above_0(script),
        retain: script.byte() & 1 != 0,
        identifiers: identifiers(script),
        packet_id: (script.byte() & 1 != 0).then(|| packet_id(script)),
    };
    let recipients = (0..script.byte() % 4).map(|_| recipient(script)).collect();
    Relayed { message, settled, retained, recipients }
}
