//! What a broker sent, as named fields that patterns can be held against.

use crate::value::{Atom, Pattern, Value, Variables, number};
use crate::wire::{self, Kind, Names};
use culex_core::packet::{Ack, Frame, Packet, Properties, Version};
use std::fmt::Write as _;

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    Number(u64),
    Bytes(Vec<u8>),
}

/// A packet that was received.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) name: &'static str,
    fields: Vec<(String, Got)>,
    bytes: Vec<u8>,
    version: Version,
}

impl Received {
    /// Decodes a packet that a server may send.
    pub(crate) fn decode(frame: &Frame<'_>, bytes: &[u8], version: Version) -> Result<Self, String> {
        // Whom it cannot understand, a broker may refuse in the words of 3.1.1.
        let version = match frame {
            Frame { first: 0x20, body: [0, 1..=5] } => Version::V311,
            _ => version,
        };
        let packet =
            Packet::decode(frame, version).map_err(|violation| format!("{violation}: {}", dump(bytes)))?;
        let mut fields = Vec::new();
        let name = collect(&packet, version, frame, &mut fields);
        Ok(Self { name, fields, bytes: bytes.to_vec(), version })
    }

    /// The number of a field that is there once.
    pub(crate) fn number(&self, field: &str) -> Option<u64> {
        self.fields.iter().find_map(|(name, got)| match got {
            Got::Number(number) if name == field => Some(*number),
            _ => None,
        })
    }

    /// All numbers of a field.
    pub(crate) fn numbers(&self, field: &str) -> impl Iterator<Item = u64> {
        self.fields.iter().filter_map(move |(name, got)| match got {
            Got::Number(number) if name == field => Some(*number),
            _ => None,
        })
    }

    /// Whether the packet ends its connection.
    pub(crate) fn ends(&self) -> bool {
        match self.name {
            "DISCONNECT" => true,
            "CONNACK" => self.number("reason") != Some(0),
            _ => false,
        }
    }

    /// Holds the packet against what is expected; captures variables.
    pub(crate) fn matches(
        &self,
        name: &str,
        fields: &[(String, Pattern)],
        names: &Names,
        variables: &mut Variables,
    ) -> Result<bool, String> {
        if self.name != name {
            return Ok(false);
        }
        let mut seen: Vec<&str> = Vec::new();
        for (field, pattern) in fields {
            if !wire::exists(name, field, self.version) {
                continue;
            }
            let nth = seen.iter().filter(|other| *other == field).count();
            seen.push(field);
            if !self.field_matches(field, nth, pattern, names, variables)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn field_matches(
        &self,
        field: &str,
        nth: usize,
        pattern: &Pattern,
        names: &Names,
        variables: &mut Variables,
    ) -> Result<bool, String> {
        let mut got: Vec<Option<Got>> = match field {
            "size" => vec![Some(Got::Number(self.bytes.len() as u64))],
            "bytes" => vec![Some(Got::Bytes(self.bytes.clone()))],
            "users" => vec![self.users()],
            "prop" => vec![self.fields.iter().any(|(name, _)| is_property(name)).then_some(Got::Number(1))],
            _ => self
                .fields
                .iter()
                .filter(|(name, _)| name == field)
                .map(|(_, got)| Some(got.clone()))
                .collect(),
        };
        if field.starts_with("user.") {
            got = got.into_iter().skip(nth).take(1).collect();
        }
        if got.is_empty() {
            got.push(None);
        }
        if got.len() != pattern.0.len() {
            return Ok(false);
        }
        // [MQTT-3.3.4-4]: the order of Subscription Identifiers is not significant.
        if field == "prop.subscription_identifier" {
            return each_once(
                &got,
                pattern,
                &|got, atom, variables| is(got, atom, field, names, variables),
                variables,
            );
        }
        for (got, atoms) in got.iter().zip(&pattern.0) {
            let mut any = false;
            for atom in atoms {
                any = any || is(got.as_ref(), atom, field, names, variables)?;
            }
            if !any {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// All User Properties in one text: `name=value name=value`.
    fn users(&self) -> Option<Got> {
        let mut text = Vec::new();
        for (name, got) in &self.fields {
            if let (Some(key), Got::Bytes(value)) = (name.strip_prefix("user."), got) {
                if !text.is_empty() {
                    text.push(b' ');
                }
                text.extend([key.as_bytes(), b"=", value].concat());
            }
        }
        (!text.is_empty()).then_some(Got::Bytes(text))
    }

    /// The packet for a reader: name, fields, bytes.
    pub(crate) fn describe(&self) -> String {
        let mut text = self.name.to_owned();
        for (name, got) in &self.fields {
            let _ = match got {
                Got::Number(number) if name == "reason" => write!(text, " {name}=0x{number:02X}"),
                Got::Number(number) => write!(text, " {name}={number}"),
                Got::Bytes(bytes) => write!(text, " {name}={}", quoted(bytes)),
            };
        }
        let _ = write!(text, " ({})", dump(&self.bytes));
        text
    }
}

fn is_property(name: &str) -> bool {
    name.starts_with("prop.") || name.starts_with("user.")
}

type Check<'c> = dyn Fn(Option<&Got>, &Atom, &mut Variables) -> Result<bool, String> + 'c;

/// Whether every value is expected by a pattern of its own.
fn each_once(
    got: &[Option<Got>],
    pattern: &Pattern,
    check: &Check<'_>,
    variables: &mut Variables,
) -> Result<bool, String> {
    let mut open: Vec<_> = pattern.0.iter().collect();
    for got in got {
        let mut found = None;
        for (i, atoms) in open.iter().enumerate() {
            for atom in *atoms {
                if found.is_none() && check(got.as_ref(), atom, variables)? {
                    found = Some(i);
                }
            }
        }
        let Some(i) = found else { return Ok(false) };
        open.remove(i);
    }
    Ok(true)
}

/// Whether one value is as one alternative wants it.
fn is(
    got: Option<&Got>,
    atom: &Atom,
    field: &str,
    names: &Names,
    variables: &mut Variables,
) -> Result<bool, String> {
    let Some(got) = got else { return Ok(*atom == Atom::Absent) };
    Ok(match atom {
        Atom::Absent => false,
        Atom::Any => true,
        Atom::Range(low, high) => matches!(got, Got::Number(number) if (*low..=*high).contains(number)),
        Atom::Not(value) => !equals(got, value, field, names, variables)?,
        Atom::Is(Value::Variable(name)) if !variables.contains_key(name) => {
            let bytes = match got {
                Got::Number(number) => number.to_string().into_bytes(),
                Got::Bytes(bytes) => bytes.clone(),
            };
            variables.insert(name.clone(), bytes);
            true
        }
        Atom::Is(value) => equals(got, value, field, names, variables)?,
    })
}

fn equals(
    got: &Got,
    value: &Value,
    field: &str,
    names: &Names,
    variables: &Variables,
) -> Result<bool, String> {
    let wanted = if field == "topic" { names.topic(value, variables)? } else { value.bytes(variables)? };
    Ok(match got {
        Got::Bytes(bytes) => *bytes == wanted,
        Got::Number(n) => number(&String::from_utf8_lossy(&wanted)) == Some(*n),
    })
}

/// Puts the fields of a packet into a list; returns its name.
fn collect(
    packet: &Packet<'_>,
    version: Version,
    frame: &Frame<'_>,
    fields: &mut Vec<(String, Got)>,
) -> &'static str {
    let mut number = |name: &str, value: u64| fields.push((name.to_owned(), Got::Number(value)));
    let ack = |name: &'static str, ack: &Ack<'_>, fields: &mut Vec<(String, Got)>| {
        fields.push(("id".into(), Got::Number(ack.packet_id.get().into())));
        fields.push(("reason".into(), Got::Number(ack.reason as u64)));
        properties(&ack.properties, fields);
        name
    };
    match packet {
        Packet::Connack(connack) => {
            number("session_present", connack.session_present.into());
            // 3.x says Connect Return Codes.
            let code = if version == Version::V5 { connack.reason as u8 } else { frame.body[1] };
            number("reason", code.into());
            properties(&connack.properties, fields);
            "CONNACK"
        }
        Packet::Publish(publish) => {
            number("qos", publish.qos as u64);
            number("dup", publish.dup.into());
            number("retain", publish.retain.into());
            if let Some(id) = publish.packet_id {
                number("id", id.get().into());
            }
            fields.push(("topic".into(), Got::Bytes(publish.topic.as_bytes().to_vec())));
            fields.push(("payload".into(), Got::Bytes(publish.payload.to_vec())));
            properties(&publish.properties, fields);
            "PUBLISH"
        }
        Packet::Puback(packet) => ack("PUBACK", packet, fields),
        Packet::Pubrec(packet) => ack("PUBREC", packet, fields),
        Packet::Pubrel(packet) => ack("PUBREL", packet, fields),
        Packet::Pubcomp(packet) => ack("PUBCOMP", packet, fields),
        Packet::Suback(suback) => {
            number("id", suback.packet_id.get().into());
            suback.reasons.iter().for_each(|reason| number("reason", (*reason).into()));
            properties(&suback.properties, fields);
            "SUBACK"
        }
        Packet::Unsuback(unsuback) => {
            number("id", unsuback.packet_id.get().into());
            unsuback.reasons.iter().for_each(|reason| number("reason", (*reason).into()));
            properties(&unsuback.properties, fields);
            "UNSUBACK"
        }
        Packet::Pingresp => "PINGRESP",
        Packet::Disconnect(packet) => {
            number("reason", packet.reason as u64);
            properties(&packet.properties, fields);
            "DISCONNECT"
        }
        Packet::Auth(packet) => {
            number("reason", packet.reason as u64);
            properties(&packet.properties, fields);
            "AUTH"
        }
        Packet::Connect(_) => "CONNECT",
        Packet::Subscribe(_) => "SUBSCRIBE",
        Packet::Unsubscribe(_) => "UNSUBSCRIBE",
        Packet::Pingreq => "PINGREQ",
    }
}

/// Reads properties; they were checked when the packet was decoded.
fn properties(properties: &Properties<'_>, fields: &mut Vec<(String, Got)>) {
    let mut rest = properties.raw();
    while let Some((&id, after)) = rest.split_first() {
        let Some((name, _, kind)) = wire::PROPERTIES.iter().find(|row| row.1 == id) else { return };
        rest = after;
        let Some(got) = read(*kind, &mut rest) else { return };
        match (kind, got) {
            (Kind::Pair, Got::Bytes(key)) => {
                let Some(value) = read(Kind::Text, &mut rest) else { return };
                fields.push((format!("user.{}", String::from_utf8_lossy(&key)), value));
            }
            (_, got) => fields.push((format!("prop.{name}"), got)),
        }
    }
}

/// Reads a value; of a pair its first half.
fn read(kind: Kind, rest: &mut &[u8]) -> Option<Got> {
    let mut take = |count: usize| {
        let (head, tail) = rest.split_at_checked(count)?;
        *rest = tail;
        Some(head)
    };
    let big = |bytes: &[u8]| bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    Some(match kind {
        Kind::Byte => Got::Number(big(take(1)?)),
        Kind::Two => Got::Number(big(take(2)?)),
        Kind::Four => Got::Number(big(take(4)?)),
        Kind::Variable => {
            let mut value = 0;
            for shift in [0, 7, 14, 21] {
                let byte = take(1)?[0];
                value |= u64::from(byte & 0x7F) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            Got::Number(value)
        }
        Kind::Text | Kind::Pair => {
            let length = big(take(2)?);
            Got::Bytes(take(usize::try_from(length).ok()?)?.to_vec())
        }
    })
}

fn quoted(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    let more = if bytes.len() > SHOWN { format!("… {} bytes", bytes.len()) } else { String::new() };
    format!("{text:?}{more}")
}

/// Bytes in hexadecimal, the first of them if they are many.
pub(crate) fn dump(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    let mut text = String::new();
    for byte in bytes.iter().take(SHOWN) {
        let _ = write!(text, "{}{byte:02x}", if text.is_empty() { "" } else { " " });
    }
    if bytes.len() > SHOWN {
        let _ = write!(text, " … {} bytes", bytes.len());
    }
    text
}
