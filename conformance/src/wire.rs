//! Bytes of the packets that a scenario sends. This is an encoder of its own: it says also what must not be said,
//! as a Packet Identifier of 0, QoS 3, or a property where it does not belong.

use crate::value::{Value, Variables};
use culex_core::packet::{PacketType, Version};

/// The type of a property's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Byte,
    Two,
    Four,
    Variable,
    Text,
    Pair,
}

impl Kind {
    pub(crate) const fn numeric(self) -> bool {
        !matches!(self, Self::Text | Self::Pair)
    }
}

/// The properties: their name in scenarios, identifier and type.
pub(crate) const PROPERTIES: [(&str, u8, Kind); 27] = [
    ("payload_format", 0x01, Kind::Byte),
    ("message_expiry", 0x02, Kind::Four),
    ("content_type", 0x03, Kind::Text),
    ("response_topic", 0x08, Kind::Text),
    ("correlation_data", 0x09, Kind::Text),
    ("subscription_identifier", 0x0B, Kind::Variable),
    ("session_expiry", 0x11, Kind::Four),
    ("assigned_client_identifier", 0x12, Kind::Text),
    ("server_keep_alive", 0x13, Kind::Two),
    ("authentication_method", 0x15, Kind::Text),
    ("authentication_data", 0x16, Kind::Text),
    ("request_problem_information", 0x17, Kind::Byte),
    ("will_delay", 0x18, Kind::Four),
    ("request_response_information", 0x19, Kind::Byte),
    ("response_information", 0x1A, Kind::Text),
    ("server_reference", 0x1C, Kind::Text),
    ("reason_string", 0x1F, Kind::Text),
    ("receive_maximum", 0x21, Kind::Two),
    ("topic_alias_maximum", 0x22, Kind::Two),
    ("topic_alias", 0x23, Kind::Two),
    ("maximum_qos", 0x24, Kind::Byte),
    ("retain_available", 0x25, Kind::Byte),
    ("user", 0x26, Kind::Pair),
    ("maximum_packet_size", 0x27, Kind::Four),
    ("wildcard_subscription_available", 0x28, Kind::Byte),
    ("subscription_identifiers_available", 0x29, Kind::Byte),
    ("shared_subscription_available", 0x2A, Kind::Byte),
];

const COMMON: &[&str] = &["flags", "split", "extra"];
const CONNECT: &[&str] = &[
    "version",
    "client",
    "clean",
    "keepalive",
    "username",
    "password",
    "protocol",
    "level",
    "connect_flags",
    "will.topic",
    "will.payload",
    "will.qos",
    "will.retain",
];

/// The packets that can be sent by name: type, fixed flags, fields.
const SENT: [(&str, PacketType, u8, &[&str]); 11] = [
    ("CONNECT", PacketType::Connect, 0, CONNECT),
    ("PUBLISH", PacketType::Publish, 0, &["topic", "payload", "qos", "dup", "retain", "id"]),
    ("PUBACK", PacketType::Puback, 0, &["id", "reason"]),
    ("PUBREC", PacketType::Pubrec, 0, &["id", "reason"]),
    ("PUBREL", PacketType::Pubrel, 2, &["id", "reason"]),
    ("PUBCOMP", PacketType::Pubcomp, 0, &["id", "reason"]),
    ("SUBSCRIBE", PacketType::Subscribe, 2, &["id", "filter", "qos", "nl", "rap", "rh", "options"]),
    ("UNSUBSCRIBE", PacketType::Unsubscribe, 2, &["id", "filter"]),
    ("PINGREQ", PacketType::Pingreq, 0, &[]),
    ("DISCONNECT", PacketType::Disconnect, 0, &["reason"]),
    ("AUTH", PacketType::Auth, 0, &["reason"]),
];

/// The packets that can be expected: their fields and whether these are numbers.
const RECEIVED: [(&str, &[(&str, bool)]); 11] = [
    ("CONNACK", &[("session_present", true), ("reason", true)]),
    (
        "PUBLISH",
        &[("topic", false), ("payload", false), ("qos", true), ("dup", true), ("retain", true), ("id", true)],
    ),
    ("PUBACK", &[("id", true), ("reason", true)]),
    ("PUBREC", &[("id", true), ("reason", true)]),
    ("PUBREL", &[("id", true), ("reason", true)]),
    ("PUBCOMP", &[("id", true), ("reason", true)]),
    ("SUBACK", &[("id", true), ("reason", true)]),
    ("UNSUBACK", &[("id", true), ("reason", true)]),
    ("PINGRESP", &[]),
    ("DISCONNECT", &[("reason", true)]),
    ("AUTH", &[("reason", true)]),
];

pub(crate) fn property(name: &str) -> Option<(u8, Kind)> {
    PROPERTIES.iter().find(|row| row.0 == name && row.2 != Kind::Pair).map(|row| (row.1, row.2))
}

/// Whether a packet of this name can be sent.
pub(crate) fn check_sent_packet(packet: &str) -> Result<&'static [&'static str], String> {
    let row = SENT.iter().find(|row| row.0 == packet);
    row.map(|row| row.3).ok_or_else(|| format!("{packet}: expected a packet that clients send, or `hex …`"))
}

/// Whether a packet of this name can be expected.
pub(crate) fn check_received_packet(packet: &str) -> Result<&'static [(&'static str, bool)], String> {
    let row = RECEIVED.iter().find(|row| row.0 == packet);
    row.map(|row| row.1).ok_or_else(|| format!("{packet}: expected a packet that servers send, or CLOSE"))
}

/// Whether a packet of this name can be sent with this field.
pub(crate) fn check_sent_field(packet: &str, field: &str) -> Result<(), String> {
    let fields = check_sent_packet(packet)?;
    let bare = field.strip_prefix("will.").filter(|_| packet == "CONNECT").unwrap_or(field);
    if let Some(name) = bare.strip_prefix("prop.") {
        let known = property(name).is_some() || name.starts_with("0x");
        return if known { Ok(()) } else { Err(format!("{name}: no such property")) };
    }
    let known =
        bare.starts_with("user.") || bare == "props" || fields.contains(&field) || COMMON.contains(&field);
    if known { Ok(()) } else { Err(format!("{field}: {packet} has no such field")) }
}

/// Whether a packet of this name can be expected with this field, and whether that is a number.
pub(crate) fn check_received_field(packet: &str, field: &str) -> Result<bool, String> {
    let fields = check_received_packet(packet)?;
    if let Some(name) = field.strip_prefix("prop.") {
        return property(name).map(|row| row.1.numeric()).ok_or_else(|| format!("{name}: no such property"));
    }
    match field {
        "size" => Ok(true),
        "bytes" | "users" | "prop" => Ok(false),
        field if field.starts_with("user.") => Ok(false),
        _ => {
            let known = fields.iter().find(|row| row.0 == field).map(|row| row.1);
            known.ok_or_else(|| format!("{field}: {packet} has no such field"))
        }
    }
}

/// Whether a received field exists in a version; if not, it is not looked at.
pub(crate) fn exists(packet: &str, field: &str, version: Version) -> bool {
    match version {
        Version::V5 => true,
        _ if field.starts_with("prop") || field.starts_with("user") => false,
        Version::V31 if field == "session_present" => false,
        _ => field != "reason" || matches!(packet, "CONNACK" | "SUBACK"),
    }
}

/// Makes topics and Client Identifiers of one run differ from those of every other.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) tag: String,
}

impl Names {
    /// A Topic Name or Topic Filter as it is sent.
    pub(crate) fn topic(&self, value: &Value, variables: &Variables) -> Result<Vec<u8>, String> {
        let bytes = value.bytes(variables)?;
        let prefix = format!("{}/", self.tag).into_bytes();
        Ok(match value {
            Value::Literal(_) => self.in_literal(&bytes),
            Value::Variable(_) => bytes,
            Value::Size(size) if *size > prefix.len() => {
                let mut sized = prefix;
                sized.resize(*size, b'x');
                sized
            }
            Value::Size(_) => bytes,
            Value::Text(_) if bytes.is_empty() => bytes,
            Value::Text(_) if bytes.starts_with(b"$") => {
                let shared =
                    bytes.strip_prefix(b"$share/").and_then(|rest| rest.iter().position(|b| *b == b'/'));
                let Some(at) = shared.map(|at| at + b"$share/".len() + 1) else { return Ok(bytes) };
                match at < bytes.len() {
                    true => [&bytes[..at], &prefix, &bytes[at..]].concat(),
                    false => bytes,
                }
            }
            Value::Text(_) => [prefix, bytes].concat(),
        })
    }

    /// `{run}` in a literal topic stands for what is unique.
    fn in_literal(&self, bytes: &[u8]) -> Vec<u8> {
        const PLACE: &[u8] = b"{run}";
        match bytes.windows(PLACE.len()).position(|window| window == PLACE) {
            Some(at) => [&bytes[..at], self.tag.as_bytes(), &bytes[at + PLACE.len()..]].concat(),
            None => bytes.to_vec(),
        }
    }

    /// A Client Identifier as it is sent.
    pub(crate) fn client(&self, value: &Value, variables: &Variables) -> Result<Vec<u8>, String> {
        let mut bytes = value.bytes(variables)?;
        match value {
            Value::Text(_) if !bytes.is_empty() => bytes.extend(self.tag.as_bytes()),
            Value::Size(size) if *size >= self.tag.len() => {
                bytes[..self.tag.len()].copy_from_slice(self.tag.as_bytes())
            }
            _ => {}
        }
        Ok(bytes)
    }
}

/// The fields of a packet to send.
pub(crate) struct Fields<'s> {
    pub(crate) fields: &'s [(String, Value)],
    pub(crate) variables: &'s Variables,
    pub(crate) names: &'s Names,
    /// The version of the connection.
    pub(crate) version: Version,
    /// The name of the connection: the default Client Identifier.
    pub(crate) connection: &'s str,
}

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        self.get(name).map_or(Ok(default), |value| value.number(self.variables))
    }

    fn byte(&self, name: &str, default: u8) -> Result<u8, String> {
        let number = self.number(name, default.into())?;
        u8::try_from(number).map_err(|_| format!("{name}={number}: expected a byte"))
    }

    fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        self.get(name).map(|value| value.bytes(self.variables)).transpose()
    }

    /// The packet, as one client of this version would send it.
    pub(crate) fn encode(&self, packet: &str) -> Result<Vec<u8>, String> {
        let Some((_, packet_type, flags, _)) = SENT.iter().find(|row| row.0 == packet) else {
            return Err(format!("{packet}: cannot be sent by name"));
        };
        let mut flags = *flags;
        let mut body = Vec::new();
        match packet_type {
            PacketType::Connect => self.connect(&mut body)?,
            PacketType::Publish => flags = self.publish(&mut body)?,
            PacketType::Subscribe | PacketType::Unsubscribe => {
                body.extend(self.id()?);
                self.properties("", &mut body)?;
                self.filters(*packet_type == PacketType::Subscribe, &mut body)?;
            }
            PacketType::Pingreq => {}
            PacketType::Disconnect | PacketType::Auth => self.outcome(&mut body)?,
            _ => {
                body.extend(self.id()?);
                self.outcome(&mut body)?;
            }
        }
        body.extend(self.bytes("extra")?.unwrap_or_default());
        let flags = self.byte("flags", flags)?;
        let mut bytes = vec![(*packet_type as u8) << 4 | flags & 0x0F];
        varint(body.len() as u64, &mut bytes);
        bytes.extend(body);
        Ok(bytes)
    }

    /// What clears a session or retained message that this packet may leave: packets of a connection of their own.
    pub(crate) fn clearing(&self, packet: &str) -> Option<Vec<u8>> {
        let said = |name: &str| self.number(name, 0).is_ok_and(|number| number != 0);
        let plain = Fields { fields: &[], connection: self.connection, ..*self };
        let mut packets;
        if packet == "CONNECT" && (self.get("clean").is_some() || said("prop.session_expiry")) {
            let client: Vec<_> = self.fields.iter().filter(|(name, _)| name == "client").cloned().collect();
            packets = Fields { fields: &client, ..plain }.encode("CONNECT").ok()?;
        } else if packet == "PUBLISH" && said("retain") {
            let nameless = [("client".to_owned(), Value::Text(b"clear".into()))];
            packets = Fields { fields: &nameless, ..plain }.encode("CONNECT").ok()?;
            let empty = |(name, value): &(String, Value)| match name.as_str() {
                "topic" | "retain" => Some((name.clone(), value.clone())),
                _ => None,
            };
            let mut fields: Vec<_> = self.fields.iter().filter_map(empty).collect();
            fields.push(("payload".to_owned(), Value::Text(Vec::new())));
            packets.extend(Fields { fields: &fields, ..plain }.encode("PUBLISH").ok()?);
        } else {
            return None;
        }
        packets.extend(plain.encode("DISCONNECT").ok()?);
        Some(packets)
    }

    fn id(&self) -> Result<[u8; 2], String> {
        let id = self.number("id", 1)?;
        u16::try_from(id).map(u16::to_be_bytes).map_err(|_| format!("id={id}: expected 0 to 65535"))
    }

    fn connect(&self, body: &mut Vec<u8>) -> Result<(), String> {
        let protocol = if self.version == Version::V31 { "MQIsdp" } else { "MQTT" };
        string(&self.bytes("protocol")?.unwrap_or_else(|| protocol.into()), body)?;
        body.push(self.byte("level", self.version as u8)?);
        let (username, password) = (self.bytes("username")?, self.bytes("password")?);
        let will = self.fields.iter().any(|(name, _)| name.starts_with("will."));
        let flags = u8::from(username.is_some()) << 7
            | u8::from(password.is_some()) << 6
            | self.byte("will.retain", 0)? << 5
            | self.byte("will.qos", 0)? << 3
            | u8::from(will) << 2
            | self.byte("clean", 1)? << 1;
        body.push(self.byte("connect_flags", flags)?);
        let keep_alive = self.number("keepalive", 60)?;
        let keep_alive =
            u16::try_from(keep_alive).map_err(|_| format!("keepalive={keep_alive}: too long"))?;
        body.extend(keep_alive.to_be_bytes());
        self.properties("", body)?;
        let default = Value::Text(self.connection.into());
        string(&self.names.client(self.get("client").unwrap_or(&default), self.variables)?, body)?;
        if will {
            self.properties("will.", body)?;
            let topic = self.get("will.topic").cloned().unwrap_or(Value::Text(b"will".into()));
            string(&self.names.topic(&topic, self.variables)?, body)?;
            string(&self.bytes("will.payload")?.unwrap_or_else(|| b"gone".into()), body)?;
        }
        for text in [username, password].into_iter().flatten() {
            string(&text, body)?;
        }
        Ok(())
    }

    /// Writes the body; returns the flags of the fixed header.
    fn publish(&self, body: &mut Vec<u8>) -> Result<u8, String> {
        let default = Value::Text(b"t".into());
        string(&self.names.topic(self.get("topic").unwrap_or(&default), self.variables)?, body)?;
        let qos = self.byte("qos", 0)?;
        if qos > 0 || self.get("id").is_some() {
            body.extend(self.id()?);
        }
        self.properties("", body)?;
        body.extend(self.bytes("payload")?.unwrap_or_else(|| b"hello".into()));
        Ok(self.byte("dup", 0)? << 3 | qos << 1 | self.byte("retain", 0)?)
    }

    /// Each `filter=` and the options that follow it.
    fn filters(&self, with_options: bool, body: &mut Vec<u8>) -> Result<(), String> {
        let starts = self.fields.iter().enumerate().filter(|(_, (name, _))| name == "filter");
        for (i, (_, filter)) in starts {
            string(&self.names.topic(filter, self.variables)?, body)?;
            if !with_options {
                continue;
            }
            let rest = &self.fields[i + 1..];
            let end = rest.iter().position(|(name, _)| name == "filter").unwrap_or(rest.len());
            let options = Fields { fields: &rest[..end], ..*self };
            let qos = options.byte("qos", 0)?;
            let more =
                options.byte("nl", 0)? << 2 | options.byte("rap", 0)? << 3 | options.byte("rh", 0)? << 4;
            let byte = if self.version == Version::V5 { qos | more } else { qos };
            body.push(options.byte("options", byte)?);
        }
        Ok(())
    }

    /// Reason Code and properties of an acknowledgement, as short as MQTT 5.0 allows.
    fn outcome(&self, body: &mut Vec<u8>) -> Result<(), String> {
        if self.version != Version::V5 {
            return Ok(());
        }
        let mut properties = Vec::new();
        self.properties("", &mut properties)?;
        let properties =
            if properties == [0] && self.get("props").is_none() { Vec::new() } else { properties };
        if self.get("reason").is_some() || !properties.is_empty() {
            body.push(self.byte("reason", 0)?);
            body.extend(properties);
        }
        Ok(())
    }

    /// Property Length and properties, in the order in which they stand.
    fn properties(&self, prefix: &str, body: &mut Vec<u8>) -> Result<(), String> {
        if self.version != Version::V5 {
            return Ok(());
        }
        let mut all = Vec::new();
        for (name, value) in self.fields {
            let Some(name) = name.strip_prefix(prefix) else { continue };
            if name == "props" {
                all.extend(value.bytes(self.variables)?);
            } else if let Some(key) = name.strip_prefix("user.") {
                all.push(0x26);
                let key = Value::parse(key)?.bytes(self.variables)?;
                string(&key, &mut all)?;
                string(&value.bytes(self.variables)?, &mut all)?;
            } else if let Some(name) = name.strip_prefix("prop.") {
                self.one_property(name, value, &mut all)?;
            }
        }
        varint(all.len() as u64, body);
        body.extend(all);
        Ok(())
    }

    fn one_property(&self, name: &str, value: &Value, all: &mut Vec<u8>) -> Result<(), String> {
        let Some((id, kind)) = property(name) else {
            let id = crate::value::number(name).and_then(|id| u8::try_from(id).ok());
            all.push(id.ok_or_else(|| format!("{name}: not a property"))?);
            all.extend(value.bytes(self.variables)?);
            return Ok(());
        };
        all.push(id);
        // Raw bytes may say what the type of the property cannot.
        if let Value::Literal(bytes) = value
            && kind.numeric()
        {
            all.extend(bytes);
            return Ok(());
        }
        if kind == Kind::Text {
            return string(&value.bytes(self.variables)?, all);
        }
        let number = value.number(self.variables)?;
        let big = number.to_be_bytes();
        match kind {
            Kind::Byte => all.extend(&big[7..]),
            Kind::Two => all.extend(&big[6..]),
            Kind::Four => all.extend(&big[4..]),
            _ => varint(number, all),
        }
        Ok(())
    }
}

/// Appends a length of two bytes and the bytes.
fn string(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let length =
        u16::try_from(bytes.len()).map_err(|_| format!("{} bytes do not fit into a string", bytes.len()))?;
    out.extend(length.to_be_bytes());
    out.extend(bytes);
    Ok(())
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        out.push(byte | u8::from(value > 0) << 7);
        if value == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culex_core::packet::{Framed, Packet, frame};

    fn encode(packet: &str, version: Version, fields: &[(&str, &str)]) -> Vec<u8> {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), Value::parse(value).unwrap())).collect();
        let (variables, names) = (Variables::new(), Names { tag: "run".into() });
        Fields { fields: &fields, variables: &variables, names: &names, version, connection: "a" }
            .encode(packet)
            .unwrap()
    }

    #[test]
    fn defaults_are_valid_packets_in_every_version() {
        for version in [Version::V31, Version::V311, Version::V5] {
            for (name, packet_type, _, _) in SENT {
                if packet_type == PacketType::Auth {
                    continue;
                }
                let filter = ("filter", "t");
                let fields: &[_] = if name.ends_with("SUBSCRIBE") { &[filter] } else { &[] };
                let bytes = encode(name, version, fields);
                let Ok(Framed::Whole { frame, length }) = frame(&bytes, u32::MAX) else { panic!("{name}") };
                assert_eq!(length, bytes.len());
                assert_eq!(Packet::decode(&frame, version).unwrap().packet_type(), packet_type);
            }
        }
    }

    #[test]
    fn what_is_forbidden_can_be_said() {
        let publish = [("topic", "literal(t)"), ("qos", "3"), ("id", "0"), ("payload", "p")];
        assert_eq!(encode("PUBLISH", Version::V311, &publish), b"\x36\x06\0\x01t\0\0p");
        let twice = [("prop.receive_maximum", "1"), ("prop.receive_maximum", "2"), ("prop.0x7f", "hex(00)")];
        let connect = encode("CONNECT", Version::V5, &twice);
        assert!(connect.windows(9).any(|part| part == b"\x08\x21\0\x01\x21\0\x02\x7F\0"), "{connect:02x?}");
    }

    #[test]
    fn topics_and_clients_are_made_unique_where_that_is_wanted() {
        let (names, none) = (Names { tag: "run".into() }, Variables::new());
        let topic = |token: &str| {
            String::from_utf8(names.topic(&Value::parse(token).unwrap(), &none).unwrap()).unwrap()
        };
        assert_eq!(topic("a/#"), "run/a/#");
        assert_eq!(topic("$share/g/a"), "$share/g/run/a");
        assert_eq!(topic("$SYS/x"), "$SYS/x");
        assert_eq!(topic("literal(+/{run})"), "+/run");
        assert_eq!(topic("size(6)"), "run/xx");
        assert_eq!(topic("\"\""), "");
        assert_eq!(names.client(&Value::Text(b"a".into()), &none).unwrap(), b"arun");
    }
}
