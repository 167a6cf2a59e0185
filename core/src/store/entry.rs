//! Keys and values of entries. Tags never change their meaning; an entry that means something new gets a new one.
//!
//! | key | value |
//! |---|---|
//! | [`FORMAT`] | [`VERSION`] |
//! | 1, Client Identifier | a session: its number, Session Expiry Interval, when it lost its connection |
//! | 2, number of a session, 0, Topic Filter | a subscription |
//! | 2, number, 1, count | retained messages that wait to be sent for a subscription, see [`Record::Page`](crate::Record::Page) |
//! | 2, number, 2, count | a Packet Identifier between PUBLISH and PUBREL of a QoS 2 message that came in |
//! | 2, number, 3, count | such a message that was not relayed yet |
//! | 2, number, 4, count | a message in flight that came from the queue, or that is the client's since PUBREC |
//! | 2, number, 5, count | a delivery: in the queue, or in flight |
//! | 3, count | a message that several deliveries have |
//! | 4, Client Identifier | a will |
//! | 5, Topic Name | a retained message |
//!
//! Numbers in keys have 8 bytes, the highest first; in values they are LEB128. Behind every value but that of [`FORMAT`] are 4
//! bytes of a digest of key and value: not every engine notices when the disk changed something.

use super::Batch;
use crate::broker::{BadRecord, Identifiers, RecordReader as Reader, RecordWriter as Writer};
use crate::message::Message;
use crate::packet::{PacketId, QoS};
use crate::saved::digest;
use crate::time::Wall;
use alloc::vec::Vec;

/// The key of what says how to read all others.
pub(super) const FORMAT: &[u8] = &[0];
pub(super) const VERSION: &[u8] = b"culex 1";

pub(super) const SESSION: u8 = 1;
pub(super) const OF_SESSION: u8 = 2;
pub(super) const MESSAGE: u8 = 3;
pub(super) const WILL: u8 = 4;
pub(super) const RETAINED: u8 = 5;

/// A value with its digest.
pub(super) fn sealed(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let seal = seal(key, &value);
    value.extend_from_slice(&seal);
    value
}

/// A value without its digest, if it is the one it was.
pub(super) fn unsealed<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], BadRecord> {
    match sealed.split_last_chunk() {
        Some((value, found)) if *found == seal(key, value) => Ok(value),
        _ => Err(BadRecord { expected: "bytes as they were written" }),
    }
}

fn seal(key: &[u8], value: &[u8]) -> [u8; 4] {
    let digest = digest(key) ^ digest(value).rotate_left(32);
    ((digest >> 32) as u32 ^ digest as u32).to_le_bytes()
}

/// What an entry of a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Subscription,
    Page,
    Held,
    Owed,
    Flight,
    Delivery,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Subscription, Self::Page, Self::Held, Self::Owed, Self::Flight, Self::Delivery];
}

/// A key that is text behind its tag.
pub(super) fn named(tag: u8, text: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + text.len());
    key.push(tag);
    key.extend_from_slice(text.as_bytes());
    key
}

/// A key that is a number behind its tag.
pub(super) fn numbered(tag: u8, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(tag);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn of_session(session: u64, kind: Kind, count: u64) -> Vec<u8> {
    let mut key = start(session, kind);
    key.extend_from_slice(&count.to_be_bytes());
    key
}

pub(super) fn subscription(session: u64, filter: &str) -> Vec<u8> {
    let mut key = start(session, Kind::Subscription);
    key.extend_from_slice(filter.as_bytes());
    key
}

/// What all entries of one kind begin with.
pub(super) fn start(session: u64, kind: Kind) -> Vec<u8> {
    let mut key = numbered(OF_SESSION, session);
    key.push(kind as u8);
    key
}

/// Takes a key of [`of_session`] or [`subscription`] apart.
pub(super) fn parse_of_session(key: &[u8]) -> Result<(u64, Kind, &[u8]), BadRecord> {
    let bad = BadRecord { expected: "a key of a session" };
    let (number, rest) = key.get(1..).and_then(|rest| rest.split_first_chunk()).ok_or(bad)?;
    let (kind, rest) = rest.split_first().ok_or(bad)?;
    let kind = Kind::ALL.get(usize::from(*kind)).ok_or(bad)?;
    Ok((u64::from_be_bytes(*number), *kind, rest))
}

/// The count at the end of a key.
pub(super) fn count(rest: &[u8]) -> Result<u64, BadRecord> {
    rest.try_into().map(u64::from_be_bytes).map_err(|_| BadRecord { expected: "8 bytes of a number" })
}

/// A session as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionEntry {
    pub(super) number: u64,
    pub(super) expiry: u32,
    pub(super) left: Option<Wall>,
}

impl SessionEntry {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(16);
        let mut to = Writer(&mut value);
        to.number(self.number);
        to.number(u64::from(self.expiry));
        to.option(self.left.map(|at| at.0));
        value
    }

    pub(super) fn read(value: &[u8]) -> Result<Self, BadRecord> {
        whole(value, |from| {
            let (number, expiry, left) = (from.number()?, from.u32()?, from.option()?.map(Wall));
            Ok(Self { number, expiry, left })
        })
    }
}

/// Where the message of a delivery is.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Here(Message),
    /// In an entry of its own, because others have it too.
    Shared(u64),
}

/// A delivery as it is stored: in the queue or in flight.
#[derive(Debug, Clone)]
pub(super) struct DeliveryEntry {
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) identifiers: Identifiers,
    /// In flight from the beginning: its Packet Identifier, and how many were sent before it.
    pub(super) flight: Option<(PacketId, u64)>,
    pub(super) body: Body,
}

impl DeliveryEntry {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut value = Vec::new();
        if let Body::Here(message) = &self.body {
            value.reserve_exact(message.size() + 32);
        }
        let mut to = Writer(&mut value);
        to.delivery(self.qos, self.retain, self.flight.is_some(), &self.identifiers);
        if let Some((packet_id, sent)) = self.flight {
            to.number(u64::from(packet_id.get()));
            to.number(sent);
        }
        match &self.body {
            Body::Here(message) => {
                to.option(None);
                to.message(message);
            }
            Body::Shared(number) => to.option(Some(*number)),
        }
        value
    }

    pub(super) fn read(value: &[u8]) -> Result<Self, BadRecord> {
        whole(value, |from| {
            let (qos, retain, flies, identifiers) = from.delivery()?;
            if flies && qos == QoS::AtMostOnce {
                return Err(BadRecord { expected: "a QoS above 0" });
            }
            let flight = if flies { Some((from.packet_id()?, from.number()?)) } else { None };
            let body = match from.option()? {
                Some(number) => Body::Shared(number),
                None => Body::Here(from.message()?),
            };
            Ok(Self { qos, retain, identifiers, flight, body })
        })
    }
}

/// An entry of kind [`Kind::Flight`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlightEntry {
    pub(super) packet_id: PacketId,
    /// The delivery; none: PUBREC came, and the message is the client's.
    pub(super) delivery: Option<u64>,
}

impl FlightEntry {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(8);
        let mut to = Writer(&mut value);
        to.number(u64::from(self.packet_id.get()));
        to.option(self.delivery);
        value
    }

    pub(super) fn read(value: &[u8]) -> Result<Self, BadRecord> {
        whole(value, |from| Ok(Self { packet_id: from.packet_id()?, delivery: from.option()? }))
    }
}

/// A message with an entry of its own.
pub(super) fn write_message(message: &Message) -> Vec<u8> {
    let mut value = Vec::with_capacity(message.size() + 16);
    Writer(&mut value).message(message);
    value
}

pub(super) fn read_message(value: &[u8]) -> Result<Message, BadRecord> {
    whole(value, Reader::message)
}

/// Reads a value, all of it.
pub(super) fn whole<'a, T>(
    value: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, BadRecord>,
) -> Result<T, BadRecord> {
    let mut from = Reader(value);
    let read = read(&mut from)?;
    if from.0.is_empty() { Ok(read) } else { Err(BadRecord { expected: "the end" }) }
}

/// Removes all entries of a session but for the one that says that it exists.
pub(super) fn clear_session(batch: &mut Batch, session: u64) {
    batch.clear(numbered(OF_SESSION, session), numbered(OF_SESSION, session + 1));
}
