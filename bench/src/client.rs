//! A client of MQTT 3.1.1, as little as the load needs.

use crate::Trouble;
use crate::stream::{Place, Stream};
use std::sync::Arc;

pub(crate) struct Client {
    pub(crate) stream: Stream,
    /// Bytes of packets, of which so many were taken.
    plain: Vec<u8>,
    taken: usize,
}

/// What a broker says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A message: its number, and its Packet Identifier at QoS 1.
    Publish(u64, Option<[u8; 2]>),
    Puback,
    Connack,
    Suback,
}

impl Client {
    /// Connects and waits for CONNACK.
    pub(crate) fn connect(
        place: &Place,
        tls: &Arc<rustls::ClientConfig>,
        name: &str,
    ) -> Result<Self, Trouble> {
        let mut client = Self { stream: Stream::open(place, tls)?, plain: Vec::new(), taken: 0 };
        let mut connect = vec![0x10, (12 + name.len()) as u8, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0];
        connect.push(name.len() as u8);
        connect.extend_from_slice(name.as_bytes());
        client.stream.put(&connect);
        client.expect(&Heard::Connack)?;
        Ok(client)
    }

    /// Subscribes and waits for SUBACK.
    pub(crate) fn subscribe(&mut self, topic: &str, qos: u8) -> Result<(), Trouble> {
        let mut subscribe = vec![0x82, (5 + topic.len()) as u8, 0, 1, 0, topic.len() as u8];
        subscribe.extend_from_slice(topic.as_bytes());
        subscribe.push(qos);
        self.stream.put(&subscribe);
        self.expect(&Heard::Suback)
    }

    pub(crate) fn disconnect(mut self) -> Result<(), Trouble> {
        self.stream.put(&[0xE0, 0]);
        self.stream.flush()?;
        Ok(())
    }

    fn expect(&mut self, wanted: &Heard) -> Result<(), Trouble> {
        self.stream.flush()?;
        let mut buffer = [0; 4096];
        loop {
            match self.heard()? {
                Some(heard) if heard == *wanted => return Ok(()),
                Some(heard) => return Err(Trouble::new(format!("expected {wanted:?}, got {heard:?}"))),
                None => self.fill(&mut buffer)?,
            }
        }
    }

    /// Reads once.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Trouble> {
        self.plain.drain(..self.taken);
        self.taken = 0;
        self.stream.fill(buffer, &mut self.plain)
    }

    /// The next packet that is complete.
    pub(crate) fn heard(&mut self) -> Result<Option<Heard>, Trouble> {
        let bytes = &self.plain[self.taken..];
        let (length, body) = match bytes {
            [_, length @ 0..128, body @ ..] => (usize::from(*length), body),
            [_, low, high @ 0..128, body @ ..] => (usize::from(low & 127) | usize::from(*high) << 7, body),
            _ if bytes.len() < 3 => return Ok(None),
            _ => return Err(Trouble::new("a packet is longer than any that was sent")),
        };
        let Some(body) = body.get(..length) else { return Ok(None) };
        let heard = parse(bytes[0], body).ok_or_else(|| Trouble::new("a packet that nobody expected"))?;
        self.taken += 2 + usize::from(length > 127) + length;
        Ok(Some(heard))
    }
}

fn parse(first: u8, body: &[u8]) -> Option<Heard> {
    Some(match (first, body) {
        (0x20, [_, 0]) => Heard::Connack,
        (0x40, [_, _]) => Heard::Puback,
        (0x90, [_, _, 0..=2]) => Heard::Suback,
        (0x30 | 0x32, [high, low, rest @ ..]) => {
            let (_, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
            let (id, payload) = match first {
                0x30 => (None, rest),
                _ => (Some(*rest.first_chunk()?), rest.get(2..)?),
            };
            Heard::Publish(u64::from_be_bytes(*payload.first_chunk()?), id)
        }
        _ => return None,
    })
}

/// A PUBLISH whose payload of [`PAYLOAD_BYTES`] begins with its number.
pub(crate) fn publish(topic: &str, qos: u8, number: u64, packet: &mut Vec<u8>) {
    packet.clear();
    let id_bytes = 2 * usize::from(qos > 0);
    packet.extend_from_slice(&[0x30 | qos << 1, (2 + topic.len() + id_bytes + PAYLOAD_BYTES) as u8]);
    packet.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    packet.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        packet.extend_from_slice(&(number as u16 % 1000 + 1).to_be_bytes());
    }
    packet.extend_from_slice(&number.to_be_bytes());
    packet.resize(packet.len() + PAYLOAD_BYTES - 8, b'x');
}

pub(crate) const PAYLOAD_BYTES: usize = 64;
