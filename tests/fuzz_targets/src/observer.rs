//! What a client must be able to rely on, whatever it sends: read from the bytes in both directions.

use culex_core::packet::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One connection, seen from the client's side.
#[derive(Default)]
pub(crate) struct Observer {
    /// What it sent that is not yet a whole packet.
    begun: Vec<u8>,
    /// What it sent was no longer packets.
    garbled: bool,
    /// What it was sent that is not yet a whole packet.
    output: Vec<u8>,
    /// What its CONNECT asked for.
    wishes: Option<Wishes>,
    connacks: usize,
    /// The server said DISCONNECT, or refused.
    over: bool,
    pings: usize,
    /// The answers it may get, by packet type and Packet Identifier: how many Topic Filters each is for, else 0.
    owed: BTreeMap<(PacketType, PacketId), VecDeque<usize>>,
    /// Topic Aliases that the server has given a meaning.
    aliases: BTreeSet<u16>,
    /// Everything before was read when it sent something: only then Packet Identifiers can be told apart.
    pub(crate) orderly: bool,
    /// Messages of the server that it has not acknowledged; true: it said PUBREC.
    pub(crate) in_flight: BTreeMap<PacketId, (QoS, bool)>,
}

struct Wishes {
    version: Version,
    receive_maximum: usize,
    packet_size_max: usize,
    alias_max: u16,
}

impl Observer {
    /// What was chosen in its CONNECT.
    pub(crate) fn version(&self) -> Option<Version> {
        self.wishes.as_ref().map(|wishes| wishes.version)
    }

    /// Reads along what the client sends.
    pub(crate) fn sends(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
        let begun = std::mem::take(&mut self.begun);
        let mut rest = &begun[..];
        while !self.garbled {
            match frame(rest, u32::MAX) {
                Ok(Framed::Whole { frame, length }) => {
                    let version = self.version().unwrap_or(Version::V5);
                    match Packet::decode(&frame, version) {
                        Ok(packet) => self.said(&packet),
                        Err(_) => self.garbled = true,
                    }
                    rest = &rest[length..];
                }
                Ok(Framed::Partial { .. }) => break,
                Err(_) => self.garbled = true,
            }
        }
        self.begun = rest.to_vec();
    }

    fn said(&mut self, packet: &Packet<'_>) {
        let mut owe = |packet_type, id, filters| {
            self.owed.entry((packet_type, id)).or_default().push_back(filters);
        };
        match packet {
            Packet::Connect(connect) if self.wishes.is_none() => {
                let properties = &connect.properties;
                self.wishes = Some(Wishes {
                    version: connect.version,
                    receive_maximum: properties.receive_maximum().map_or(65_535, |most| most.get().into()),
                    packet_size_max: properties.maximum_packet_size().unwrap_or(u32::MAX) as usize,
                    alias_max: properties.topic_alias_maximum().unwrap_or(0),
                });
            }
            Packet::Publish(publish) => match (publish.qos, publish.packet_id) {
                (QoS::AtLeastOnce, Some(id)) => owe(PacketType::Puback, id, 0),
                (QoS::ExactlyOnce, Some(id)) => owe(PacketType::Pubrec, id, 0),
                _ => {}
            },
            Packet::Pubrel(ack) => owe(PacketType::Pubcomp, ack.packet_id, 0),
            Packet::Subscribe(packet) => owe(PacketType::Suback, packet.packet_id, packet.filters.len()),
            Packet::Unsubscribe(packet) => owe(PacketType::Unsuback, packet.packet_id, packet.filters.len()),
            Packet::Pingreq => self.pings += 1,
            Packet::Puback(ack) => {
                if let Some((QoS::AtLeastOnce, _)) = self.in_flight.get(&ack.packet_id) {
                    self.in_flight.remove(&ack.packet_id);
                }
            }
            Packet::Pubrec(ack) => match self.in_flight.get_mut(&ack.packet_id) {
                Some((QoS::ExactlyOnce, _)) if ack.reason.is_error() => {
                    self.in_flight.remove(&ack.packet_id);
                }
                Some((QoS::ExactlyOnce, released)) => *released = true,
                _ => {}
            },
            Packet::Pubcomp(ack) => {
                if let Some((QoS::ExactlyOnce, true)) = self.in_flight.get(&ack.packet_id) {
                    self.in_flight.remove(&ack.packet_id);
                }
            }
            _ => {}
        }
    }

    /// Reads `count` bytes of what the client is offered.
    pub(crate) fn reads<'a>(&mut self, chunks: impl Iterator<Item = &'a [u8]>, count: usize) {
        let end = self.output.len() + count;
        chunks.for_each(|chunk| self.output.extend_from_slice(chunk));
        self.output.truncate(end);
        let output = std::mem::take(&mut self.output);
        let mut rest = &output[..];
        loop {
            match frame(rest, u32::MAX) {
                Ok(Framed::Whole { frame, length }) => {
                    self.read(&frame, length);
                    rest = &rest[length..];
                }
                Ok(Framed::Partial { .. }) => break,
                Err(violation) => panic!("sent to a client: {violation}: {rest:02X?}"),
            }
        }
        self.output = rest.to_vec();
    }

    /// Every packet it is sent must be one of its version. Whoever never said a version that we know may be refused in
    /// the words of an older one.
    fn read(&mut self, frame: &Frame<'_>, length: usize) {
        let versions = match self.version() {
            Some(version) => [version; 2],
            None => [Version::V5, Version::V311],
        };
        let packet = versions.iter().find_map(|version| Packet::decode(frame, *version).ok());
        let packet = packet.unwrap_or_else(|| panic!("sent in {versions:?}: {frame:02X?}"));
        assert!(!self.over, "sent after the end: {packet:?}");
        let most = self.wishes.as_ref().map_or(usize::MAX, |wishes| wishes.packet_size_max);
        assert!(length <= most, "[MQTT-3.1.2-24] {length} bytes for one who takes {most}");
        let before = matches!(packet, Packet::Connack(_) | Packet::Auth(_) | Packet::Disconnect(_));
        assert!(before || self.connacks == 1, "[MQTT-3.2.0-1] before CONNACK: {packet:?}");
        let refused = match &packet {
            Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubcomp(ack) => {
                self.answered(packet.packet_type(), ack.packet_id).is_none()
            }
            Packet::Suback(suback) => {
                self.answered(PacketType::Suback, suback.packet_id) != Some(suback.reasons.len())
            }
            Packet::Unsuback(unsuback) => {
                let filters = self.answered(PacketType::Unsuback, unsuback.packet_id);
                let said = self.version() == Some(Version::V5);
                filters.is_none() || (said && filters != Some(unsuback.reasons.len()))
            }
            Packet::Pingresp => self.pings.checked_sub(1).map(|left| self.pings = left).is_none(),
            Packet::Connack(connack) => {
                self.connacks += 1;
                self.over = connack.reason.is_error();
                self.connacks > 1
            }
            Packet::Disconnect(_) => {
                self.over = true;
                self.version().is_some_and(|version| version != Version::V5)
            }
            Packet::Publish(publish) => self.published(publish),
            // Not acknowledged in a way the client could know of.
            Packet::Pubrel(_) | Packet::Auth(_) => false,
            _ => true,
        };
        assert!(!refused, "nobody waits for {packet:?}");
    }

    /// Takes the oldest request with this answer.
    fn answered(&mut self, packet_type: PacketType, id: PacketId) -> Option<usize> {
        self.owed.get_mut(&(packet_type, id))?.pop_front()
    }

    /// Returns whether the message must not be.
    fn published(&mut self, publish: &Publish<'_>) -> bool {
        let Some(wishes) = &self.wishes else { return true };
        if let Some(alias) = publish.properties.topic_alias() {
            assert!(alias <= wishes.alias_max, "[MQTT-3.1.2-26] {publish:?}");
            let known = !self.aliases.insert(alias);
            assert!(known || !publish.topic.is_empty(), "an alias without meaning: {publish:?}");
        }
        if let (Some(id), true) = (publish.packet_id, self.orderly) {
            let old = self.in_flight.insert(id, (publish.qos, false));
            assert_eq!(old, None, "[MQTT-2.2.1-4] in use: {publish:?}");
            let most = wishes.receive_maximum;
            assert!(self.in_flight.len() <= most, "[MQTT-3.3.4-9] more than {most}: {publish:?}");
        }
        false
    }
}
