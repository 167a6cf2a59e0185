//! CONNECT (section 3.1).

use super::properties::context;
use super::reader::Reader;
use super::writer::{Encode, Sink};
use super::{Frame, PacketType, Properties, QoS, ReasonCode, Version, utf8};
use crate::error::{Misuse, Violation};
use alloc::vec::Vec;
use core::fmt;

/// Connection request.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that this packet is written in and that the client wants to talk.
    pub version: Version,
    /// Whether to discard an existing session; Clean Session in 3.x.
    pub clean_start: bool,
    /// The longest silence of the client in seconds, 0 for any.
    pub keep_alive: u16,
    /// The Client Identifier, of any length.
    pub client_id: &'a str,
    /// The properties; empty in 3.x.
    pub properties: Properties<'a>,
    /// The message that the server publishes if the client goes without a word.
    pub will: Option<Will<'a>>,
    /// The User Name.
    pub user_name: Option<&'a str>,
    /// The Password; in 3.x only together with a User Name.
    pub password: Option<&'a [u8]>,
    /// Whether the highest bit of the Protocol Level was set, as bridges of other brokers do in 3.x.
    pub bridge: bool,
}

impl fmt::Debug for Connect<'_> {
    // Passwords, authentication data and payloads never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("client_id", &self.client_id)
            .field("user_name", &self.user_name)
            .field("password", &self.password.map(|_| "***"))
            .field("will_topic", &self.will.as_ref().map(|will| will.topic))
            .finish_non_exhaustive()
    }
}

/// A Will Message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will<'a> {
    /// The Topic Name.
    pub topic: &'a str,
    /// The Application Message.
    pub payload: &'a [u8],
    /// The QoS to publish it with.
    pub qos: QoS,
    /// Whether to publish it as a retained message.
    pub retain: bool,
    /// The will's own properties; empty in 3.x.
    pub properties: Properties<'a>,
}

const RESERVED: u8 = 0x01;
const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_QOS: u8 = 0b11 << WILL_QOS_SHIFT;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// The bit of the Protocol Level by which bridges make themselves known.
const BRIDGE: u8 = 0x80;

impl<'a> Connect<'a> {
    /// Decodes the packet; the version is its own, not the parameter.
    ///
    /// # Errors
    /// The peer broke a rule of the standard that this packet alone shows. A protocol that is not MQTT 3.1, 3.1.1
    /// or 5.0 is [`ReasonCode::UnsupportedProtocolVersion`].
    pub fn decode(frame: &Frame<'a>, _version: Version) -> Result<Self, Violation> {
        // [MQTT-2.1.3-1]
        frame.expect_flags(0, "MQTT-2.1.3-1")?;
        let mut reader = Reader::new(frame.body);
        let (version, bridge) = protocol(&mut reader)?;
        let flags = reader.u8()?;
        check_flags(flags, version)?;
        let keep_alive = reader.u16()?;
        let properties = reader.properties(version, context::CONNECT)?;
        // [MQTT-3.1.3-1], [MQTT-3.1.3-3], [MQTT-3.1.3-4]
        let client_id = reader.text()?;
        // [MQTT-3.1.2-9]
        let will = if flags & WILL == 0 { None } else { Some(Will::decode(&mut reader, flags, version)?) };
        // [MQTT-3.1.2-17], [MQTT-3.1.3-12]
        let user_name = if has(flags, USER_NAME, version, reader) { Some(reader.text()?) } else { None };
        // [MQTT-3.1.2-19]
        let password = if has(flags, PASSWORD, version, reader) { Some(reader.binary()?) } else { None };
        // [MQTT-3.1.2-16], [MQTT-3.1.2-18]
        reader.finish()?;
        let clean_start = flags & CLEAN_START != 0;
        Ok(Self {
            version,
            clean_start,
            keep_alive,
            client_id,
            properties,
            will,
            user_name,
            password,
            bridge,
        })
    }

    /// Appends the packet to `out`, in the version that the packet names, not the parameter. A Password that 3.x
    /// does not allow, as there is no User Name, is left out.
    ///
    /// # Errors
    /// [`Misuse::TooLarge`] if the packet or one of its fields is longer than MQTT can say; nothing is appended.
    pub fn encode(&self, _version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.append(self.version, out)
    }

    fn sent_password(&self) -> Option<&'a [u8]> {
        self.password.filter(|_| self.version == Version::V5 || self.user_name.is_some())
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.clean_start {
            flags |= CLEAN_START;
        }
        if let Some(will) = &self.will {
            flags |= WILL | (will.qos as u8) << WILL_QOS_SHIFT;
            if will.retain {
                flags |= WILL_RETAIN;
            }
        }
        if self.user_name.is_some() {
            flags |= USER_NAME;
        }
        if self.sent_password().is_some() {
            flags |= PASSWORD;
        }
        flags
    }
}

impl<'a> Will<'a> {
    fn decode(reader: &mut Reader<'a>, flags: u8, version: Version) -> Result<Self, Violation> {
        // [MQTT-3.1.2-12]
        let qos = QoS::from_bits((flags & WILL_QOS) >> WILL_QOS_SHIFT)
            .ok_or(Violation::malformed("MQTT-3.1.2-12"))?;
        let properties = reader.properties(version, context::WILL)?;
        // [MQTT-3.1.3-11], [MQTT-4.7.0-1]
        let topic = utf8::topic_name(reader.binary()?, "MQTT-4.7.0-1")?;
        if topic.is_empty() {
            // [MQTT-4.7.3-1]
            return Err(Violation::malformed("MQTT-4.7.3-1"));
        }
        let payload = reader.binary()?;
        Ok(Self { topic, payload, qos, retain: flags & WILL_RETAIN != 0, properties })
    }
}

/// Reads Protocol Name and Protocol Level.
fn protocol(reader: &mut Reader<'_>) -> Result<(Version, bool), Violation> {
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        // [MQTT-3.1.2-1]
        return Err(Violation::with("MQTT-3.1.2-1", ReasonCode::UnsupportedProtocolVersion));
    }
    let level = reader.u8()?;
    let bridge = level & BRIDGE != 0;
    match (name, level & !BRIDGE) {
        (b"MQIsdp", 3) => Ok((Version::V31, bridge)),
        (b"MQTT", 4) => Ok((Version::V311, bridge)),
        (b"MQTT", 5) if !bridge => Ok((Version::V5, false)),
        // [MQTT-3.1.2-2]
        _ => Err(Violation::with("MQTT-3.1.2-2", ReasonCode::UnsupportedProtocolVersion)),
    }
}

/// Checks the Connect Flags against each other. 3.1 says that what it does not use is disregarded.
fn check_flags(flags: u8, version: Version) -> Result<(), Violation> {
    if version != Version::V31 {
        // [MQTT-3.1.2-3]
        if flags & RESERVED != 0 {
            return Err(Violation::malformed("MQTT-3.1.2-3"));
        }
        if flags & WILL == 0 {
            // [MQTT-3.1.2-11]
            if flags & WILL_QOS != 0 {
                return Err(Violation::malformed("MQTT-3.1.2-11"));
            }
            // [MQTT-3.1.2-13]
            if flags & WILL_RETAIN != 0 {
                return Err(Violation::malformed("MQTT-3.1.2-13"));
            }
        }
    }
    if version != Version::V5 && flags & (USER_NAME | PASSWORD) == PASSWORD {
        // Statement 3.1.2-22 of MQTT 3.1.1, lifted in 5.0.
        return Err(Violation::malformed("MQTT311-3.1.2-22"));
    }
    Ok(())
}

/// Whether a field is there. In 3.1 the Remaining Length takes precedence over the flags.
fn has(flags: u8, flag: u8, version: Version, reader: Reader<'_>) -> bool {
    flags & flag != 0 && !(version == Version::V31 && reader.is_empty())
}

impl Encode for Connect<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Connect.first_byte(0)
    }

    fn body(&self, version: Version, sink: &mut impl Sink) {
        sink.text(if version == Version::V31 { "MQIsdp" } else { "MQTT" });
        let bridge = if self.bridge && version != Version::V5 { BRIDGE } else { 0 };
        sink.u8(version as u8 | bridge);
        sink.u8(self.flags());
        sink.u16(self.keep_alive);
        sink.properties(&self.properties, version);
        sink.text(self.client_id);
        if let Some(will) = &self.will {
            sink.properties(&will.properties, version);
            sink.text(will.topic);
            sink.binary(will.payload);
        }
        if let Some(user_name) = self.user_name {
            sink.text(user_name);
        }
        if let Some(password) = self.sent_password() {
            sink.binary(password);
        }
    }
}

/// The version a CONNECT names, whatever is wrong with the rest of it.
pub(crate) fn version_of(frame: &Frame<'_>) -> Option<Version> {
    let (&length, rest) = frame.body.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(u16::from_be_bytes(length).into())?;
    match (name, rest.first()? & 0x7F) {
        (b"MQIsdp", 3) => Some(Version::V31),
        (b"MQTT", 4) => Some(Version::V311),
        (b"MQTT", 5) => Some(Version::V5),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::packet::tests::{assert_violation, assert_wire, decode};

    /// A CONNECT of these fields, with the right Remaining Length.
    fn bytes(fields: &[&[u8]]) -> Vec<u8> {
        let body = fields.concat();
        [&[0x10, body.len() as u8], &*body].concat()
    }

    const V31: &[u8] = b"\0\x06MQIsdp\x03";
    const V311: &[u8] = b"\0\x04MQTT\x04";
    const V5: &[u8] = b"\0\x04MQTT\x05";
    const ID: &[u8] = b"\0\x02id";

    fn plain(version: Version) -> Connect<'static> {
        Connect {
            version,
            clean_start: false,
            keep_alive: 60,
            client_id: "id",
            properties: Properties::EMPTY,
            will: None,
            user_name: None,
            password: None,
            bridge: false,
        }
    }

    #[test]
    fn the_three_versions_name_themselves() {
        for (version, name) in [(Version::V31, V31), (Version::V311, V311)] {
            let packet = Packet::Connect(plain(version));
            assert_wire(&packet, version, &bytes(&[name, &[0, 0, 60], ID]));
            // The parameter is ignored.
            assert_wire(&packet, Version::V5, &bytes(&[name, &[0, 0, 60], ID]));
        }
        assert_wire(&Packet::Connect(plain(Version::V5)), Version::V5, &bytes(&[V5, &[0, 0, 60, 0], ID]));
    }

    #[test]
    fn every_field_has_its_place() {
        // [MQTT-3.1.3-1]
        let mut connect = plain(Version::V5);
        connect.clean_start = true;
        connect.properties = Properties::trusted(b"\x21\0\x05");
        connect.will = Some(Will {
            topic: "w",
            payload: b"\0!",
            qos: QoS::ExactlyOnce,
            retain: true,
            properties: Properties::trusted(b"\x18\0\0\0\x07"),
        });
        connect.user_name = Some("u");
        connect.password = Some(b"\xFF");
        let fields: [&[u8]; 7] = [
            V5,
            b"\xF6\0\x3C",
            b"\x03\x21\0\x05",
            ID,
            b"\x05\x18\0\0\0\x07\0\x01w\0\x02\0!",
            b"\0\x01u",
            b"\0\x01\xFF",
        ];
        assert_wire(&Packet::Connect(connect), Version::V5, &bytes(&fields));
    }

    #[test]
    fn a_bridge_is_recognised_in_version_3_only() {
        let mut connect = plain(Version::V311);
        connect.bridge = true;
        let level = b"\0\x04MQTT\x84";
        assert_wire(&Packet::Connect(connect), Version::V311, &bytes(&[level, &[0, 0, 60], ID]));
        let v5 = bytes(&[b"\0\x04MQTT\x85", &[0, 0, 60, 0], ID]);
        let unsupported = Violation::with("MQTT-3.1.2-2", ReasonCode::UnsupportedProtocolVersion);
        assert_violation(&v5, Version::V5, unsupported);
    }

    #[test]
    fn an_unknown_protocol_is_unsupported_before_anything_else_is_read() {
        // [MQTT-3.1.2-1]
        let name = Violation::with("MQTT-3.1.2-1", ReasonCode::UnsupportedProtocolVersion);
        assert_violation(&bytes(&[b"\0\x04mqtt\x04"]), Version::V5, name);
        // [MQTT-3.1.2-2]
        let level = Violation::with("MQTT-3.1.2-2", ReasonCode::UnsupportedProtocolVersion);
        for protocol in [&b"\0\x04MQTT\x06"[..], b"\0\x04MQTT\x03", b"\0\x06MQIsdp\x04", b"\0\x04MQTT\0"] {
            assert_violation(&bytes(&[protocol]), Version::V5, level);
        }
    }

    #[test]
    fn connect_flags_that_contradict_each_other_are_malformed() {
        for (flags, clause) in [
            (0x01, "MQTT-3.1.2-3"),
            (0x08, "MQTT-3.1.2-11"),
            (0x20, "MQTT-3.1.2-13"),
            (0x1C, "MQTT-3.1.2-12"),
        ] {
            let fields = [V5, &[flags, 0, 60, 0], ID, b"\0\0\x01w\0\0"];
            assert_violation(&bytes(&fields), Version::V5, Violation::malformed(clause));
        }
        let mut bytes = bytes(&[V311, &[0, 0, 60], ID]);
        bytes[0] = 0x11;
        assert_violation(&bytes, Version::V311, Violation::malformed("MQTT-2.1.3-1"));
    }

    #[test]
    fn a_password_without_a_user_name_is_new_in_version_5() {
        let violation = Violation::malformed("MQTT311-3.1.2-22");
        assert_violation(&bytes(&[V311, &[0x40, 0, 60], ID, b"\0\x01p"]), Version::V311, violation);
        let mut connect = plain(Version::V5);
        connect.password = Some(b"p");
        let v5 = bytes(&[V5, &[0x40, 0, 60, 0], ID, b"\0\x01p"]);
        assert_wire(&Packet::Connect(connect.clone()), Version::V5, &v5);
        connect.version = Version::V311;
        let mut out = Vec::new();
        connect.encode(Version::V311, &mut out).unwrap();
        assert_eq!(out, bytes(&[V311, &[0, 0, 60], ID]));
    }

    #[test]
    fn fields_and_flags_agree() {
        let truncated = Violation::malformed("MQTT-2.1.4");
        for (flags, rest) in [
            (0x00, &b"\0\x01u"[..]), // [MQTT-3.1.2-16]
            (0x80, b""),             // [MQTT-3.1.2-17]
            (0x80, b"\0\x01u\0\0"),  // [MQTT-3.1.2-18]
            (0xC0, b"\0\x01u"),      // [MQTT-3.1.2-19]
            (0x04, b""),             // [MQTT-3.1.2-9]
        ] {
            assert_violation(&bytes(&[V311, &[flags, 0, 60], ID, rest]), Version::V311, truncated);
        }
        assert_violation(&bytes(&[V311, &[0, 0, 60]]), Version::V311, truncated); // [MQTT-3.1.3-3]
    }

    #[test]
    fn version_3_1_disregards_what_it_does_not_use() {
        // Reserved bit, Will QoS and Will Retain without a will, and a user name and password that did not fit.
        let bytes = bytes(&[V31, &[0xF9, 0, 60], ID]);
        assert_eq!(decode(&bytes, Version::V31), Ok(Packet::Connect(plain(Version::V31))));
    }

    #[test]
    fn the_texts_of_a_connect_are_checked() {
        let cases: [(u8, &[u8], &[u8], &str); 6] = [
            (0, b"\0\x01\xFF", b"", "MQTT-1.5.4-1"),       // [MQTT-3.1.3-4]
            (0, b"\0\x01\0", b"", "MQTT-1.5.4-2"),         // [MQTT-1.5.4-2]
            (0x80, ID, b"\0\x01\xC0", "MQTT-1.5.4-1"),     // [MQTT-3.1.3-12]
            (0x04, ID, b"\0\x01\x80\0\0", "MQTT-1.5.4-1"), // [MQTT-3.1.3-11]
            (0x04, ID, b"\0\x03a/#\0\0", "MQTT-4.7.0-1"),  // [MQTT-4.7.0-1]
            (0x04, ID, b"\0\0\0\0", "MQTT-4.7.3-1"),       // [MQTT-4.7.3-1]
        ];
        for (flags, id, rest, clause) in cases {
            let bytes = bytes(&[V311, &[flags, 0, 60], id, rest]);
            assert_violation(&bytes, Version::V311, Violation::malformed(clause));
        }
    }

    #[test]
    fn properties_belong_to_the_packet_or_to_the_will() {
        let misplaced = Violation::malformed("MQTT-2.2.2.2");
        let will_delay = b"\x05\x18\0\0\0\x07";
        assert_violation(&bytes(&[V5, &[0, 0, 60], will_delay, ID]), Version::V5, misplaced);
        let fields = [V5, &[4, 0, 60, 0], ID, b"\x03\x21\0\x05\0\x01w\0\0"];
        assert_violation(&bytes(&fields), Version::V5, misplaced);
    }

    #[test]
    fn an_empty_client_identifier_is_for_the_server_to_judge() {
        let bytes = bytes(&[V311, &[0, 0, 60], b"\0\0"]);
        let Ok(Packet::Connect(connect)) = decode(&bytes, Version::V311) else { panic!("refused") };
        assert_eq!(connect.client_id, "");
    }
}
