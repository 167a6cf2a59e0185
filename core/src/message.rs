//! A message that outlives the packet it came in: one allocation of exactly its size, shared by all who hold it.

use crate::error::Misuse;
use crate::packet::{Properties, Property, PropertyId, QoS};
use crate::redact::Kind;
use crate::saved::{Malformed, Reader, Saved, Writer};
use crate::time::Wall;
use crate::topic::is_topic_name;
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// An Application Message, kept. Cloning shares it.
///
/// Memory: 16 bytes per handle, and once 16 bytes of counters, 16 of header, topic, properties and payload.
#[derive(Clone, PartialEq, Eq)]
pub struct Message(Arc<[u8]>);

/// An Application Message on its way through the machine, borrowed from the receive buffer or from a [`Message`].
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// The Topic Name.
    pub topic: &'a str,
    /// The properties as received. Topic Alias, which is not for the receiver, and Message Expiry Interval, which
    /// shrinks, are left out when it is encoded. (A Subscription Identifier never comes from a client.)
    pub properties: &'a [u8],
    /// Whether `properties` can be passed on as they are.
    pub plain: bool,
    /// The Application Message.
    pub payload: &'a [u8],
    /// The QoS it was published with.
    pub qos: QoS,
    /// The RETAIN flag it was published with.
    pub retain: bool,
    /// When it expires.
    pub expires: Option<Wall>,
}

impl<'a> Publication<'a> {
    /// The publication of a PUBLISH packet received at `wall`.
    #[inline]
    #[must_use]
    pub fn new(publish: &'a crate::packet::Publish<'_>, wall: Wall) -> Self {
        let properties = &publish.properties;
        let (mut plain, mut expires) = (true, None);
        if !properties.is_empty() {
            expires = properties.message_expiry_interval().map(|seconds| wall.plus_seconds(seconds));
            plain = expires.is_none() && properties.topic_alias().is_none();
        }
        Self {
            topic: &publish.topic,
            properties: properties.raw(),
            plain,
            payload: &publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expires,
        }
    }

    /// The bytes of what [`passed_on`](Self::passed_on) appends.
    pub(crate) fn passed_on_len(&self) -> usize {
        if self.plain {
            return self.properties.len();
        }
        let properties = Properties::trusted(self.properties);
        let alias = if properties.topic_alias().is_some() { 3 } else { 0 };
        let expiry = if properties.message_expiry_interval().is_some() { 5 } else { 0 };
        self.properties.len() - alias - expiry
    }

    /// Appends the properties that are passed on unchanged, in their order [MQTT-3.3.2-17].
    pub(crate) fn passed_on(&self, out: &mut Vec<u8>) {
        if self.plain {
            out.extend_from_slice(self.properties);
            return;
        }
        let keep = |id| !matches!(id, PropertyId::TopicAlias | PropertyId::MessageExpiryInterval);
        Properties::trusted(self.properties).encode_where(keep, out);
    }

    /// Whether it has expired by `now`.
    #[must_use]
    pub fn expired(&self, now: Wall) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

const HEADER: usize = 16;
/// Topic, properties and payload together: what fits into a packet.
const BYTES_MAX: usize = 268_000_000;
const RETAIN: u8 = 0b100;
const EXPIRES: u8 = 0b1000;

impl Message {
    /// A message without properties, as a program publishes it.
    ///
    /// # Errors
    /// [`Misuse::TopicName`] if `topic` is not a Topic Name; [`Misuse::TooLarge`] if it does not fit into a packet.
    pub fn new(topic: &str, payload: &[u8], qos: QoS, retain: bool) -> Result<Self, Misuse> {
        Self::with_properties(topic, payload, qos, retain, &[], None)
    }

    /// A message with properties; `expires` is when it is no longer worth delivering.
    ///
    /// # Errors
    /// As [`Message::new`].
    pub fn with_properties(
        topic: &str,
        payload: &[u8],
        qos: QoS,
        retain: bool,
        properties: &[Property<'_>],
        expires: Option<Wall>,
    ) -> Result<Self, Misuse> {
        if !is_topic_name(topic) {
            return Err(Misuse::TopicName);
        }
        let mut raw = Vec::new();
        for property in properties {
            property.encode(&mut raw);
        }
        if topic.len() + raw.len() + payload.len() > BYTES_MAX {
            return Err(Misuse::TooLarge);
        }
        let properties = &raw;
        Ok(Self::keep(&Publication { topic, properties, plain: false, payload, qos, retain, expires }))
    }

    /// Keeps a publication: the one copy and the one allocation of its life.
    #[must_use]
    pub fn keep(publication: &Publication<'_>) -> Self {
        let filtered;
        let properties = if publication.plain {
            publication.properties
        } else {
            let mut passed = Vec::new();
            publication.passed_on(&mut passed);
            filtered = passed;
            &filtered[..]
        };
        let topic = publication.topic.as_bytes();
        let length = HEADER + topic.len() + properties.len() + publication.payload.len();
        let mut shared: Arc<[u8]> = core::iter::repeat_n(0, length).collect();
        if let Some(bytes) = Arc::get_mut(&mut shared) {
            let (header, rest) = bytes.split_at_mut(HEADER);
            let mut flags = publication.qos as u8;
            if publication.retain {
                flags |= RETAIN;
            }
            if let Some(at) = publication.expires {
                flags |= EXPIRES;
                header[8..16].copy_from_slice(&at.0.to_le_bytes());
            }
            header[0] = flags;
            header[2..4].copy_from_slice(&(topic.len() as u16).to_le_bytes());
            header[4..8].copy_from_slice(&(properties.len() as u32).to_le_bytes());
            let (head, rest) = rest.split_at_mut(topic.len());
            head.copy_from_slice(topic);
            let (head, rest) = rest.split_at_mut(properties.len());
            head.copy_from_slice(properties);
            rest.copy_from_slice(publication.payload);
        }
        Self(shared)
    }

    /// The same message, expiring at another time.
    #[must_use]
    pub fn with_expiry(&self, expires: Option<Wall>) -> Self {
        Self::keep(&Publication { expires, ..self.publication() })
    }

    /// Whether this is the same message, not only an equal one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The borrowed form.
    #[must_use]
    pub fn publication(&self) -> Publication<'_> {
        Publication {
            topic: self.topic(),
            properties: &self.0[self.properties_at()..self.payload_at()],
            plain: true,
            payload: self.payload(),
            qos: self.qos(),
            retain: self.retain(),
            expires: self.expires(),
        }
    }

    fn topic_len(&self) -> usize {
        u16::from_le_bytes([self.0[2], self.0[3]]) as usize
    }

    fn properties_at(&self) -> usize {
        HEADER + self.topic_len()
    }

    fn payload_at(&self) -> usize {
        let length = u32::from_le_bytes([self.0[4], self.0[5], self.0[6], self.0[7]]);
        self.properties_at() + length as usize
    }

    /// The Topic Name.
    #[must_use]
    pub fn topic(&self) -> &str {
        // Written from a &str in `keep`.
        core::str::from_utf8(&self.0[HEADER..self.properties_at()]).unwrap_or_default()
    }

    /// The properties that go along with it.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        Properties::trusted(&self.0[self.properties_at()..self.payload_at()])
    }

    /// The Application Message.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0[self.payload_at()..]
    }

    /// The QoS it was published with.
    #[must_use]
    pub fn qos(&self) -> QoS {
        QoS::from_bits(self.0[0] & 0b11).unwrap_or_default()
    }

    /// The RETAIN flag it was published with.
    #[must_use]
    pub fn retain(&self) -> bool {
        self.0[0] & RETAIN != 0
    }

    /// When it expires.
    #[must_use]
    pub fn expires(&self) -> Option<Wall> {
        if self.0[0] & EXPIRES == 0 {
            return None;
        }
        let mut at = [0; 8];
        at.copy_from_slice(&self.0[8..16]);
        Some(Wall(u64::from_le_bytes(at)))
    }

    /// Whether it has expired by `now`.
    #[must_use]
    pub fn expired(&self, now: Wall) -> bool {
        self.expires().is_some_and(|at| at <= now)
    }

    /// Where it lies: who has the same shares it.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).cast::<u8>() as usize
    }

    /// Bytes of memory, shared by all handles.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.len() + 2 * size_of::<usize>()
    }
}

/// Whoever shares a message that was written before says its number, counted from 1.
impl Saved for Message {
    fn save(&self, to: &mut Writer<'_>) {
        if let Some(number) = to.written_before(self) {
            return to.number(number + 1);
        }
        to.number(0);
        self.qos().save(to);
        self.retain().save(to);
        self.expires().save(to);
        to.bytes(self.topic().as_bytes());
        to.bytes(self.properties().raw());
        to.bytes(self.payload());
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let number = from.number()?;
        if number > 0 {
            return from.message(number - 1).ok_or(from.malformed());
        }
        let (qos, retain, expires) = (QoS::load(from)?, bool::load(from)?, Option::load(from)?);
        let topic = core::str::from_utf8(from.bytes()?).map_err(|_| from.malformed())?;
        let mut properties = Cow::Borrowed(from.bytes()?);
        if let Some(redaction) = from.redaction() {
            redaction.properties(properties.to_mut());
        }
        let (properties, payload) = (&*properties, &*from.redacted(Kind::Payload)?);
        let fits = topic.len() + properties.len() + payload.len() <= BYTES_MAX;
        from.ensure(is_topic_name(topic) && fits)?;
        let message =
            Self::keep(&Publication { topic, properties, plain: true, payload, qos, retain, expires });
        from.note_message(&message);
        Ok(message)
    }
}

impl fmt::Debug for Message {
    // Payloads never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic())
            .field("qos", &self.qos())
            .field("retain", &self.retain())
            .field("payload_bytes", &self.payload().len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_message_gives_back_what_was_put_in() {
        let properties = [Property::ContentType("text"), Property::UserProperty("k", "v")];
        let message =
            Message::with_properties("a/b", b"payload", QoS::ExactlyOnce, true, &properties, Some(Wall(77)))
                .unwrap();
        assert_eq!((message.topic(), message.payload()), ("a/b", &b"payload"[..]));
        assert_eq!((message.qos(), message.retain()), (QoS::ExactlyOnce, true));
        assert_eq!(message.expires(), Some(Wall(77)));
        assert_eq!(message.properties().content_type(), Some("text"));
        assert!(message.expired(Wall(77)) && !message.expired(Wall(76)));
        let later = message.with_expiry(None);
        assert_eq!((later.expires(), later.payload()), (None, &b"payload"[..]));
        assert_eq!(later.properties().user_properties().next(), Some(("k", "v")));
    }

    #[test]
    fn what_is_not_a_topic_name_is_refused() {
        for topic in ["", "a/+", "#", "a\0b"] {
            assert_eq!(Message::new(topic, b"", QoS::AtMostOnce, false), Err(Misuse::TopicName));
        }
    }

    #[test]
    fn debug_output_hides_the_payload() {
        let message = Message::new("t", b"secret", QoS::AtMostOnce, false).unwrap();
        assert!(!alloc::format!("{message:?}").contains("secret"));
    }
}
