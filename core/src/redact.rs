//! Snapshots and inputs without what only their owners may read: payloads, passwords and the like give way to text of
//! the same length, and the machine does the same with it.
//!
//! What the machine does depends on lengths, on whether a payload is empty, on whether it is UTF-8 where that is checked,
//! and on nothing else of what is replaced. So all of that stays: equal bytes get equal text, empty ones stay empty, a
//! payload that is not UTF-8 is not UTF-8 afterwards. Topics, Client Identifiers, User Names and everything else that says
//! what happened stay as they are.
//!
//! Where bytes are read they are replaced: a [`Message`](crate::Message) and [`Bytes`](bytes::Bytes) by
//! [`Reader`](crate::saved::Reader), so a part of the chain that keeps such has nothing to do. What a connection sent is
//! bytes that are split anywhere, so it needs all of them: [`Redaction::stream`].

use crate::error::Violation;
use crate::id::ConnectionId;
use crate::packet::{Framed, Packet, PacketType, Properties, Property, Version, frame, version_of};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// What bytes are. Those of different kinds have nothing to do with each other, also where they are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An Application Message, a Will Message.
    Payload,
    /// A Password, Authentication Data, what is asked and answered outside.
    Secret,
    /// Correlation Data, the value of a User Property.
    Property,
}

/// A number for bytes. Bytes are replaced by what it says, so nobody may be able to try which bytes it says that of: its
/// key is thrown away.
pub type Hash<'a> = dyn Fn(Kind, &[u8]) -> [u8; 32] + 'a;

/// What is put in the place of bytes.
pub struct Redaction<'a> {
    hash: &'a Hash<'a>,
    /// What stands for the bytes that connections had sent and that were not worked off.
    unread: BTreeMap<ConnectionId, Vec<u8>>,
}

impl fmt::Debug for Redaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redaction").field("unread", &self.unread.len()).finish_non_exhaustive()
    }
}

impl<'a> Redaction<'a> {
    /// Replaces bytes by what a hash says of them.
    #[must_use]
    pub fn new(hash: &'a Hash<'a>) -> Self {
        Self { hash, unread: BTreeMap::new() }
    }

    /// Says what stands for the [unread bytes](crate::connection::Connection::unread) of a connection, in a snapshot: the
    /// rest of their packet comes later, and what stands for a payload depends on all of it.
    pub fn set_unread(&mut self, id: ConnectionId, bytes: Vec<u8>) {
        self.unread.insert(id, bytes);
    }

    /// Puts text in the place of bytes.
    pub fn replace(&self, kind: Kind, bytes: &mut [u8]) {
        let hash = (self.hash)(kind, bytes);
        let text = hash.map(|byte| LETTERS[usize::from(byte & 0x3F)]);
        let well_formed = kind != Kind::Payload || core::str::from_utf8(bytes).is_ok();
        for chunk in bytes.chunks_mut(text.len()) {
            chunk.copy_from_slice(&text[..chunk.len()]);
        }
        if let (false, Some(first)) = (well_formed, bytes.first_mut()) {
            // What continues a character, and there is none: not UTF-8, whatever follows. A Payload Format Indicator may
            // say that it is.
            *first = 0x80 | hash[0] & 0x3F;
        }
    }

    /// Replaces what must be replaced in all that a connection sends, from the start of a packet on. `version` is that of
    /// its CONNECT, 3.1.1 before; `packet_size_max` the length of the largest packet that it may send.
    ///
    /// Of a packet that breaks a rule only what breaks it is kept; nothing of what comes behind is, and of a packet that
    /// is not complete only how long it is.
    pub fn stream(&self, mut bytes: &mut [u8], mut version: Version, packet_size_max: u32) {
        loop {
            let Ok(Framed::Whole { frame, length }) = frame(bytes, packet_size_max) else {
                let header = header_len(bytes);
                return bytes[header..].fill(FILL);
            };
            let header = length - frame.body.len();
            let (packet, behind) = bytes.split_at_mut(length);
            match self.packet(packet, version) {
                Some(own) => version = own,
                None => {
                    keep_what_is_wrong(packet, header, version);
                    return behind.fill(FILL);
                }
            }
            bytes = behind;
        }
    }

    /// Replaces what must be replaced in a packet; says in which version the next one is written. None: it cannot be read,
    /// and was left as it is.
    fn packet(&self, bytes: &mut [u8], version: Version) -> Option<Version> {
        let Ok(Framed::Whole { frame, .. }) = frame(bytes, u32::MAX) else { return None };
        let packet = Packet::decode(&frame, version).ok()?;
        let mut found = Vec::new();
        let mut find = |kind: Kind, part: &[u8]| found.extend(place(bytes, part).map(|place| (kind, place)));
        let next = match &packet {
            Packet::Connect(connect) => connect.version,
            _ => version,
        };
        for properties in properties_of(&packet).into_iter().flatten() {
            secrets_of(properties, &mut find);
        }
        match &packet {
            Packet::Publish(publish) => find(Kind::Payload, &publish.payload),
            Packet::Connect(connect) => {
                connect.password.into_iter().for_each(|password| find(Kind::Secret, password));
                connect.will.iter().for_each(|will| find(Kind::Payload, will.payload));
            }
            _ => {}
        }
        for (kind, place) in found {
            self.replace(kind, &mut bytes[place]);
        }
        Some(next)
    }

    /// The same for a packet that waits for something.
    pub(crate) fn parked(&self, bytes: &mut [u8], version: Version) {
        if self.packet(bytes, version).is_none() {
            bytes.fill(FILL);
        }
    }

    /// The same for the properties of a message.
    pub(crate) fn properties(&self, raw: &mut [u8]) {
        let mut found = Vec::new();
        let mut find = |kind: Kind, part: &[u8]| found.extend(place(raw, part).map(|place| (kind, place)));
        secrets_of(&Properties::trusted(raw), &mut find);
        for (kind, place) in found {
            self.replace(kind, &mut raw[place]);
        }
    }

    /// The same for what a connection sent and what was not worked off.
    pub(crate) fn unread(&self, id: ConnectionId, bytes: &mut [u8]) {
        match self.unread.get(&id) {
            Some(other) if other.len() == bytes.len() => bytes.copy_from_slice(other),
            _ => bytes.fill(FILL),
        }
    }
}

/// Replaces output that was not written yet. Where its first packet began nobody knows, for a part of it may have been
/// written: so nothing of it is kept. What stands there can be read as packets of two bytes, none of which is one of
/// MQTT: whoever reads on finds the next packet.
pub(crate) fn output(bytes: &mut [u8]) {
    let odd = bytes.len() % 2 == 1;
    bytes.fill(0);
    if let (true, [_, length, _, ..]) = (odd, bytes) {
        *length = 1;
    }
}

/// What must be replaced in properties.
fn secrets_of(properties: &Properties<'_>, find: &mut impl FnMut(Kind, &[u8])) {
    for property in properties {
        match property {
            Property::AuthenticationData(data) => find(Kind::Secret, data),
            Property::CorrelationData(data) => find(Kind::Property, data),
            Property::UserProperty(_, value) => find(Kind::Property, value.as_bytes()),
            _ => {}
        }
    }
}

fn properties_of<'p, 'a>(packet: &'p Packet<'a>) -> [Option<&'p Properties<'a>>; 2] {
    let will = match packet {
        Packet::Connect(connect) => connect.will.as_ref().map(|will| &will.properties),
        _ => None,
    };
    let own = match packet {
        Packet::Connect(packet) => &packet.properties,
        Packet::Connack(packet) => &packet.properties,
        Packet::Publish(packet) => &packet.properties,
        Packet::Puback(packet)
        | Packet::Pubrec(packet)
        | Packet::Pubrel(packet)
        | Packet::Pubcomp(packet) => &packet.properties,
        Packet::Subscribe(packet) => &packet.properties,
        Packet::Suback(packet) => &packet.properties,
        Packet::Unsubscribe(packet) => &packet.properties,
        Packet::Unsuback(packet) => &packet.properties,
        Packet::Disconnect(packet) => &packet.properties,
        Packet::Auth(packet) => &packet.properties,
        Packet::Pingreq | Packet::Pingresp => return [None, None],
    };
    [Some(own), will]
}

/// Where in `bytes` a part of them is. Decoding borrows, so it is.
pub(crate) fn place(bytes: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
    let place = start..start.checked_add(part.len())?;
    bytes.get(place.clone()).is_some().then_some(place)
}

/// How many bytes say the type and length of a packet, as far as they are there.
fn header_len(bytes: &[u8]) -> usize {
    let remaining = bytes.get(1..).unwrap_or_default().iter().take(4);
    let more = remaining.clone().take_while(|byte| **byte & 0x80 != 0).count();
    bytes.len().min(1) + remaining.len().min(more + 1)
}

/// What the machine makes of a packet that it cannot read.
fn outcome(bytes: &[u8], version: Version) -> Option<(Violation, Option<Version>)> {
    let Ok(Framed::Whole { frame, .. }) = frame(bytes, u32::MAX) else { return None };
    let violation = Packet::decode(&frame, version).err()?;
    // A CONNECT is answered in the version it names, whatever is wrong with it.
    let answered = if frame.packet_type() == Ok(PacketType::Connect) { version_of(&frame) } else { None };
    Some((violation, answered))
}

/// Blanks a packet that breaks a rule, except for what is needed to break it: larger and smaller parts are tried.
fn keep_what_is_wrong(packet: &mut [u8], header: usize, version: Version) {
    let wanted = outcome(packet, version);
    let mut parts = alloc::vec![header..packet.len()];
    // Who sends a hundred thousand properties before the mistake is not worth waiting for.
    let mut tries = TRIES_MIN + WORK_BYTES / packet.len();
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        if tries == 0 {
            return blank_somehow(&mut packet[..], header, version, wanted);
        }
        tries -= 1;
        let kept = packet[part.clone()].to_vec();
        packet[part.clone()].fill(FILL);
        if outcome(packet, version) == wanted {
            continue;
        }
        packet[part.clone()].copy_from_slice(&kept);
        if part.len() > 1 {
            let middle = part.start + part.len() / 2;
            parts.extend([part.start..middle, middle..part.end]);
        }
    }
}

/// Blanks all of a packet so that it breaks a rule for which the peer is told the same.
fn blank_somehow(
    packet: &mut [u8],
    header: usize,
    version: Version,
    wanted: Option<(Violation, Option<Version>)>,
) {
    let reason =
        |outcome: Option<(Violation, Option<Version>)>| outcome.map(|(violation, _)| violation.reason);
    for filler in [FILL, 0, 0xFF] {
        packet[header..].fill(filler);
        if reason(outcome(packet, version)) == reason(wanted) {
            return;
        }
    }
}

/// What hashes are written with: each letter says six bits.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// What stands for bytes of which nothing is kept: text, so that it breaks no rule of its own where there is text.
pub(crate) const FILL: u8 = b'x';
/// How often a packet that breaks a rule is read to find out why: so often, and until so many bytes were read.
const TRIES_MIN: usize = 64;
const WORK_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
