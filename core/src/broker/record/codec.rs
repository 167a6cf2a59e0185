//! Records as bytes: a version, a tag, the fields. Numbers are LEB128, texts and messages carry their length.
//!
//! There is no checksum and no length around a record: that is the business of whoever keeps them.

use super::{Effect, Recipient, Record, Relayed, Settled};
use crate::broker::Identifiers;
use crate::message::{Message, Publication};
use crate::packet::{PacketId, Properties, QoS};
use crate::time::Wall;
use crate::topic::is_topic_name;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU32;

/// Bytes that are no record, or one of a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRecord {
    /// What was expected.
    pub expected: &'static str,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a record: expected {}", self.expected)
    }
}

impl core::error::Error for BadRecord {}

const VERSION: u8 = 1;

// Tags never change their meaning; a record that means something new gets a new one.
const SESSION: u8 = 1;
const SESSION_ENDED: u8 = 2;
const SUBSCRIPTION: u8 = 3;
const UNSUBSCRIPTION: u8 = 4;
const PAGE: u8 = 5;
const PAGE_ENDED: u8 = 6;
const RETAINED: u8 = 7;
const WILL: u8 = 8;
const WILL_GONE: u8 = 9;
const INBOUND: u8 = 10;
const INBOUND_GONE: u8 = 11;
const RELAYED: u8 = 12;
const QUEUED: u8 = 13;
const DROPPED: u8 = 14;
const SENT: u8 = 15;
const IN_FLIGHT: u8 = 16;
const RECEIVED: u8 = 17;
const ACKNOWLEDGED: u8 = 18;

impl Record {
    /// Appends the record as bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut to = Writer(out);
        to.0.push(VERSION);
        match self {
            Self::Session { client_id, expiry, left } => {
                to.named(SESSION, client_id);
                to.number(u64::from(*expiry));
                to.option(left.map(|at| at.0));
            }
            Self::SessionEnded { client_id } => to.named(SESSION_ENDED, client_id),
            Self::Subscription { client_id, filter, options, identifier } => {
                to.named(SUBSCRIPTION, client_id);
                to.text(filter);
                to.0.push(*options);
                to.number(u64::from(*identifier));
            }
            Self::Unsubscription { client_id, filter } => {
                to.named(UNSUBSCRIPTION, client_id);
                to.text(filter);
            }
            Self::Page { client_id, filter, options, identifier, after } => {
                to.named(PAGE, client_id);
                to.text(filter);
                to.0.push(*options);
                to.number(u64::from(*identifier));
                // No topic is empty.
                to.text(after.as_deref().unwrap_or_default());
            }
            Self::PageEnded { client_id, filter } => {
                to.named(PAGE_ENDED, client_id);
                to.text(filter);
            }
            Self::Retained(message) => {
                to.0.push(RETAINED);
                to.message(message);
            }
            Self::Will { client_id, message, expiry_s, delay_s } => {
                to.named(WILL, client_id);
                to.message(message);
                to.option(expiry_s.map(u64::from));
                to.number(u64::from(*delay_s));
            }
            Self::WillGone { client_id } => to.named(WILL_GONE, client_id),
            Self::Relayed(relayed) => to.relayed(relayed),
            _ => self.encode_delivery(&mut to),
        }
    }

    /// The records of messages on their way in and out.
    fn encode_delivery(&self, to: &mut Writer<'_>) {
        match self {
            Self::Inbound { client_id, packet_id, message } => {
                to.identified(INBOUND, client_id, *packet_id);
                to.0.push(u8::from(message.is_some()));
                message.iter().for_each(|message| to.message(message));
            }
            Self::Queued { client_id, message, qos, retain, identifiers } => {
                to.named(QUEUED, client_id);
                to.delivery(*qos, *retain, false, identifiers);
                to.message(message);
            }
            Self::InFlight { client_id, packet_id, message, qos, retain, identifiers, paged } => {
                to.identified(IN_FLIGHT, client_id, *packet_id);
                to.delivery(*qos, *retain, *paged, identifiers);
                to.message(message);
            }
            Self::Dropped { client_id } => to.named(DROPPED, client_id),
            Self::InboundGone { client_id, packet_id } => to.identified(INBOUND_GONE, client_id, *packet_id),
            Self::Sent { client_id, packet_id } => to.identified(SENT, client_id, *packet_id),
            Self::Received { client_id, packet_id } => to.identified(RECEIVED, client_id, *packet_id),
            Self::Acknowledged { client_id, packet_id } => to.identified(ACKNOWLEDGED, client_id, *packet_id),
            _ => {}
        }
    }

    /// Reads a record that fills `bytes`.
    ///
    /// # Errors
    /// If they are not what [`encode`](Self::encode) makes: they were damaged, or written by a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let mut from = Reader(bytes);
        if from.byte()? != VERSION {
            return Err(BadRecord { expected: "version 1" });
        }
        let tag = from.byte()?;
        let record = match tag {
            RETAINED => Self::Retained(from.message()?),
            RELAYED => Self::Relayed(from.relayed()?),
            _ => {
                let client_id = from.text()?.into();
                from.of_client(tag, client_id)?
            }
        };
        if from.0.is_empty() { Ok(record) } else { Err(BadRecord { expected: "the end" }) }
    }
}

/// Writes the fields of records, and of what is stored.
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// One more than the number, so that 0 is none.
    pub(crate) fn option(&mut self, value: Option<u64>) {
        self.number(value.map_or(0, |value| value.saturating_add(1)));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn named(&mut self, tag: u8, client_id: &str) {
        self.0.push(tag);
        self.text(client_id);
    }

    fn identified(&mut self, tag: u8, client_id: &str, packet_id: PacketId) {
        self.named(tag, client_id);
        self.number(u64::from(packet_id.get()));
    }

    pub(crate) fn delivery(&mut self, qos: QoS, retain: bool, flag: bool, identifiers: &Identifiers) {
        self.0.push(qos as u8 | u8::from(retain) << 2 | u8::from(flag) << 3);
        let identifiers = identifiers.as_slice();
        self.number(identifiers.len() as u64);
        identifiers.iter().for_each(|identifier| self.number(u64::from(identifier.get())));
    }

    pub(crate) fn message(&mut self, message: &Message) {
        self.0.push(message.qos() as u8 | u8::from(message.retain()) << 2);
        // A deadline, not an interval: time goes on while the machine is down.
        self.option(message.expires().map(|at| at.0));
        self.text(message.topic());
        self.bytes(message.properties().raw());
        self.bytes(message.payload());
    }

    fn relayed(&mut self, relayed: &Relayed) {
        self.0.push(RELAYED);
        self.message(&relayed.message);
        let settled = match relayed.settled {
            Settled::Nothing => 0,
            Settled::Inbound { .. } => 1,
            Settled::Will { .. } => 2,
        };
        self.0.push(settled | (relayed.retained as u8) << 2);
        match &relayed.settled {
            Settled::Nothing => {}
            Settled::Inbound { client_id, packet_id } => {
                self.text(client_id);
                self.number(u64::from(packet_id.get()));
            }
            Settled::Will { client_id } => self.text(client_id),
        }
        self.number(relayed.recipients.len() as u64);
        for recipient in &relayed.recipients {
            self.text(&recipient.client_id);
            let flies = recipient.packet_id.is_some();
            self.delivery(recipient.qos, recipient.retain, flies, &recipient.identifiers);
            recipient.packet_id.iter().for_each(|packet_id| self.number(u64::from(packet_id.get())));
        }
    }
}

/// Reads the fields of records, and of what is stored.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn byte(&mut self) -> Result<u8, BadRecord> {
        let (first, rest) = self.0.split_first().ok_or(BadRecord { expected: "a byte" })?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn number(&mut self) -> Result<u64, BadRecord> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BadRecord { expected: "a number of 64 bits" })
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BadRecord> {
        u32::try_from(self.number()?).map_err(|_| BadRecord { expected: "a number of 32 bits" })
    }

    pub(crate) fn option(&mut self) -> Result<Option<u64>, BadRecord> {
        Ok(self.number()?.checked_sub(1))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], BadRecord> {
        let length = usize::try_from(self.number()?).map_err(|_| BadRecord { expected: "a length" })?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(BadRecord { expected: "more bytes" })?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, BadRecord> {
        core::str::from_utf8(self.bytes()?).map_err(|_| BadRecord { expected: "UTF-8" })
    }

    pub(crate) fn filter(&mut self) -> Result<Box<str>, BadRecord> {
        let text = self.text()?;
        let bad = |_| BadRecord { expected: "a Topic Filter" };
        crate::topic::Filter::parse(text).map(|_| text.into()).map_err(bad)
    }

    pub(crate) fn packet_id(&mut self) -> Result<PacketId, BadRecord> {
        let number = u16::try_from(self.number()?).ok();
        number.and_then(PacketId::new).ok_or(BadRecord { expected: "a Packet Identifier" })
    }

    fn qos(byte: u8) -> Result<QoS, BadRecord> {
        QoS::from_bits(byte & 0b11).ok_or(BadRecord { expected: "a QoS" })
    }

    pub(crate) fn delivery(&mut self) -> Result<(QoS, bool, bool, Identifiers), BadRecord> {
        let byte = self.byte()?;
        if byte > 0b1111 {
            return Err(BadRecord { expected: "the flags of a delivery" });
        }
        let mut identifiers = Identifiers::None;
        for _ in 0..self.number()? {
            let identifier = NonZeroU32::new(self.u32()?);
            identifiers.push(identifier.ok_or(BadRecord { expected: "a Subscription Identifier" })?);
        }
        Ok((Self::qos(byte)?, byte & 0b100 != 0, byte & 0b1000 != 0, identifiers))
    }

    /// The identifier of a delivery, which one of QoS 0 has not: it would be sent again with DUP [MQTT-3.3.1-2].
    fn flight(&mut self, qos: QoS) -> Result<PacketId, BadRecord> {
        match qos {
            QoS::AtMostOnce => Err(NO_FLIGHT),
            _ => self.packet_id(),
        }
    }

    pub(crate) fn message(&mut self) -> Result<Message, BadRecord> {
        let flags = self.byte()?;
        if flags > 0b111 {
            return Err(BadRecord { expected: "the flags of a message" });
        }
        let expires = self.option()?.map(Wall);
        let (topic, properties, payload) = (self.text()?, self.bytes()?, self.bytes()?);
        if !is_topic_name(topic) {
            return Err(BadRecord { expected: "a Topic Name" });
        }
        if !Properties::well_formed(properties) {
            return Err(BadRecord { expected: "properties" });
        }
        if topic.len() + properties.len() + payload.len() > MESSAGE_BYTES_MAX {
            return Err(BadRecord { expected: "a message that fits into a packet" });
        }
        let (qos, retain) = (Self::qos(flags)?, flags & 0b100 != 0);
        Ok(Message::keep(&Publication { topic, properties, plain: true, payload, qos, retain, expires }))
    }

    fn relayed(&mut self) -> Result<Relayed, BadRecord> {
        let message = self.message()?;
        let flags = self.byte()?;
        let settled = match flags & 0b11 {
            0 => Settled::Nothing,
            1 => Settled::Inbound { client_id: self.text()?.into(), packet_id: self.packet_id()? },
            2 => Settled::Will { client_id: self.text()?.into() },
            _ => return Err(BadRecord { expected: "what was settled" }),
        };
        let retained = match flags >> 2 {
            0 => Effect::None,
            1 => Effect::Set,
            2 => Effect::Removed,
            _ => return Err(BadRecord { expected: "what was retained" }),
        };
        let mut recipients = Vec::new();
        for _ in 0..self.number()? {
            let client_id = self.text()?.into();
            let (qos, retain, flies, identifiers) = self.delivery()?;
            let packet_id = if flies { Some(self.flight(qos)?) } else { None };
            recipients.push(Recipient { client_id, qos, retain, identifiers, packet_id });
        }
        Ok(Relayed { message, settled, retained, recipients })
    }

    fn of_client(&mut self, tag: u8, client_id: Box<str>) -> Result<Record, BadRecord> {
        Ok(match tag {
            SESSION => {
                let (expiry, left) = (self.u32()?, self.option()?.map(Wall));
                Record::Session { client_id, expiry, left }
            }
            SESSION_ENDED => Record::SessionEnded { client_id },
            SUBSCRIPTION => {
                let (filter, options, identifier) = (self.filter()?, self.byte()?, self.u32()?);
                Record::Subscription { client_id, filter, options, identifier }
            }
            UNSUBSCRIPTION => Record::Unsubscription { client_id, filter: self.filter()? },
            PAGE => {
                let (filter, options, identifier) = (self.filter()?, self.byte()?, self.u32()?);
                let after = self.text()?;
                let after = (!after.is_empty()).then(|| after.into());
                Record::Page { client_id, filter, options, identifier, after }
            }
            PAGE_ENDED => Record::PageEnded { client_id, filter: self.filter()? },
            WILL => {
                let (message, expiry, delay_s) = (self.message()?, self.option()?, self.u32()?);
                let narrow = |value| u32::try_from(value).map_err(|_| BadRecord { expected: "an interval" });
                Record::Will { client_id, message, expiry_s: expiry.map(narrow).transpose()?, delay_s }
            }
            WILL_GONE => Record::WillGone { client_id },
            INBOUND => {
                let packet_id = self.packet_id()?;
                let message = match self.byte()? {
                    0 => None,
                    1 => Some(self.message()?),
                    _ => return Err(BadRecord { expected: "a message or none" }),
                };
                Record::Inbound { client_id, packet_id, message }
            }
            INBOUND_GONE => Record::InboundGone { client_id, packet_id: self.packet_id()? },
            QUEUED => {
                let ((qos, retain, _, identifiers), message) = (self.delivery()?, self.message()?);
                Record::Queued { client_id, message, qos, retain, identifiers }
            }
            DROPPED => Record::Dropped { client_id },
            SENT => Record::Sent { client_id, packet_id: self.packet_id()? },
            IN_FLIGHT => {
                let packet_id = self.packet_id()?;
                let ((qos, retain, paged, identifiers), message) = (self.delivery()?, self.message()?);
                if qos == QoS::AtMostOnce {
                    return Err(NO_FLIGHT);
                }
                Record::InFlight { client_id, packet_id, message, qos, retain, identifiers, paged }
            }
            RECEIVED => Record::Received { client_id, packet_id: self.packet_id()? },
            ACKNOWLEDGED => Record::Acknowledged { client_id, packet_id: self.packet_id()? },
            _ => return Err(BadRecord { expected: "a tag that this version knows" }),
        })
    }
}

/// A delivery of QoS 0 is never in flight.
const NO_FLIGHT: BadRecord = BadRecord { expected: "a QoS above 0" };
/// What a packet can hold beside its other fields.
const MESSAGE_BYTES_MAX: usize = 268_435_455;

#[cfg(test)]
mod tests;
