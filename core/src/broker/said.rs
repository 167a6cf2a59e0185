//! What shards say to each other, as bytes: appended one after the other, read in the order in which they were said.

use super::Portion;
use crate::message::Publication;
use crate::packet::{QoS, topic_name};
use crate::redact::{FILL, Kind, Redaction, place};
use crate::time::Wall;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// One thing that a shard says to another.
#[derive(Debug, Clone)]
pub(crate) enum Said<'a> {
    /// A message for the receivers over there.
    Publish {
        publication: Publication<'a>,
        /// For whom exactly; none: for all but shared subscriptions.
        portion: Option<Box<Portion>>,
        /// An [`Ack`](Said::Ack) is wanted when everything that follows from it was done, and is durable.
        acked: bool,
    },
    /// How many members of a Shared Subscription there are at the sender; of any other Topic Filter, whether there is a
    /// subscriber.
    Interest { filter: &'a str, members: u32 },
    /// An `Ack` is wanted: so the sender knows that what it said before was heard. Its clock is at least this.
    Sync { clock: u64 },
    /// What was said with this number, counting only what wants an `Ack`, was done.
    Ack { number: u64 },
}

const PUBLISH: u8 = 0;
const INTEREST: u8 = 1;
const SYNC: u8 = 2;
const ACK: u8 = 3;

const RETAIN: u8 = 1 << 2;
const EXPIRES: u8 = 1 << 3;
const ACKED: u8 = 1 << 4;
const PLAIN: u8 = 1 << 5;
const GROUPS: u8 = 1 << 6;
const VERSION: u8 = 1 << 7;

/// Appends a message with no portion, or with one.
pub(crate) fn say_publish(
    out: &mut Vec<u8>,
    publication: &Publication<'_>,
    portion: Option<&Portion>,
    acked: bool,
) {
    let properties = publication.passed_on_len();
    let topic = publication.topic.as_bytes();
    let mut flags = publication.qos as u8;
    let mut flag = |bit, set: bool| flags |= if set { bit } else { 0 };
    flag(RETAIN, publication.retain);
    flag(EXPIRES, publication.expires.is_some());
    flag(ACKED, acked);
    flag(PLAIN, portion.is_none_or(|portion| portion.plain));
    flag(GROUPS, portion.is_some_and(|portion| !portion.groups.is_empty()));
    flag(VERSION, portion.is_some_and(|portion| portion.version.is_some()));
    out.reserve(32 + topic.len() + properties + publication.payload.len());
    // One write for what every message has.
    let mut head = [0; 12];
    head[0] = PUBLISH;
    head[1] = flags;
    head[2..4].copy_from_slice(&(topic.len() as u16).to_le_bytes());
    head[4..8].copy_from_slice(&(properties as u32).to_le_bytes());
    head[8..12].copy_from_slice(&(publication.payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    if let Some(at) = publication.expires {
        out.extend_from_slice(&at.0.to_le_bytes());
    }
    if let Some(portion) = portion {
        if let Some(version) = portion.version {
            out.extend_from_slice(&version.to_le_bytes());
        }
        if !portion.groups.is_empty() {
            out.push(portion.hops);
            out.extend_from_slice(&(portion.groups.len() as u32).to_le_bytes());
            portion.groups.iter().for_each(|group| say_text(out, group));
        }
    }
    out.extend_from_slice(topic);
    publication.passed_on(out);
    out.extend_from_slice(publication.payload);
}

/// Appends the interest in a Topic Filter, `$share/…/` included.
pub(crate) fn say_interest(out: &mut Vec<u8>, filter: &str, members: u32) {
    out.push(INTEREST);
    out.extend_from_slice(&members.to_le_bytes());
    say_text(out, filter);
}

/// Appends a question for an `Ack`.
pub(crate) fn say_sync(out: &mut Vec<u8>, clock: u64) {
    out.push(SYNC);
    out.extend_from_slice(&clock.to_le_bytes());
}

/// Appends an `Ack`.
pub(crate) fn say_ack(out: &mut Vec<u8>, number: u64) {
    out.push(ACK);
    out.extend_from_slice(&number.to_le_bytes());
}

fn say_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Replaces what only the owner of messages may read. What is said has its length and its meaning afterwards.
pub(crate) fn redact(bytes: &mut [u8], redaction: &Redaction<'_>) {
    let mut found = Vec::new();
    let mut rest = &*bytes;
    while let Some((said, behind)) = Said::decode(rest) {
        if let Said::Publish { publication, .. } = said {
            found.push((place(bytes, publication.properties), place(bytes, publication.payload)));
        }
        rest = behind;
    }
    let end = bytes.len() - rest.len();
    for (properties, payload) in found {
        if let Some(properties) = properties.and_then(|place| bytes.get_mut(place)) {
            redaction.properties(properties);
        }
        if let Some(payload) = payload.and_then(|place| bytes.get_mut(place)) {
            redaction.replace(Kind::Payload, payload);
        }
    }
    // Nobody reads what cannot be read.
    bytes[end..].fill(FILL);
}

impl<'a> Said<'a> {
    /// Reads what was said first, and says what comes behind it. Nothing about the bytes is relied on; `None`: they are not
    /// what a shard says, or at their end.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut from = Bytes(bytes);
        let said = match from.byte()? {
            PUBLISH => from.publish()?,
            INTEREST => {
                let members = from.u32()?;
                Self::Interest { members, filter: from.text()? }
            }
            SYNC => Self::Sync { clock: from.u64()? },
            ACK => Self::Ack { number: from.u64()? },
            _ => return None,
        };
        Some((said, from.0))
    }
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|byte| byte[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        core::str::from_utf8(self.take(length)?).ok()
    }

    fn publish(&mut self) -> Option<Said<'a>> {
        let &[flags, t0, t1, p0, p1, p2, p3, l0, l1, l2, l3] = self.array()?;
        let has = |bit| flags & bit != 0;
        let expires = if has(EXPIRES) { Some(Wall(self.u64()?)) } else { None };
        let version = if has(VERSION) { Some(self.u64()?) } else { None };
        let (mut hops, mut groups) = (0, Vec::new());
        if has(GROUPS) {
            hops = self.byte()?;
            for _ in 0..self.u32()? {
                groups.push(self.text()?.into());
            }
        }
        let topic = self.take(u16::from_le_bytes([t0, t1]).into())?;
        let properties = self.take(u32::from_le_bytes([p0, p1, p2, p3]) as usize)?;
        let payload = self.take(u32::from_le_bytes([l0, l1, l2, l3]) as usize)?;
        let publication = Publication {
            topic: topic_name(topic)?,
            properties,
            plain: true,
            payload,
            qos: QoS::from_bits(flags & 0b11)?,
            retain: has(RETAIN),
            expires,
        };
        let simple = has(PLAIN) && version.is_none() && groups.is_empty();
        let portion = Portion { plain: has(PLAIN), groups, hops, version, outdated: false };
        let portion = (!simple).then(|| Box::new(portion));
        Some(Said::Publish { publication, portion, acked: has(ACKED) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::packet::Property;
    use alloc::vec;

    fn said() -> Vec<u8> {
        let mut out = Vec::new();
        let properties = [Property::ContentType("text")];
        let message =
            Message::with_properties("a/b", b"payload", QoS::ExactlyOnce, true, &properties, Some(Wall(77)));
        let message = message.unwrap();
        say_publish(&mut out, &message.publication(), None, true);
        let groups = vec!["$share/g/a/+".into(), "$share/h/#".into()];
        let portion = Portion { plain: false, groups, hops: 3, version: Some(9), outdated: false };
        say_publish(&mut out, &message.publication(), Some(&portion), false);
        say_interest(&mut out, "$share/g/a/+", 4);
        say_sync(&mut out, 12);
        say_ack(&mut out, u64::MAX);
        out
    }

    #[test]
    fn what_is_said_is_heard() {
        let bytes = said();
        let (Said::Publish { publication, portion: None, acked: true }, rest) = Said::decode(&bytes).unwrap()
        else {
            panic!("the first is a message for everybody")
        };
        assert_eq!((publication.topic, publication.payload), ("a/b", &b"payload"[..]));
        assert_eq!((publication.qos, publication.retain), (QoS::ExactlyOnce, true));
        assert_eq!((publication.expires, publication.properties.len()), (Some(Wall(77)), 7));
        let (Said::Publish { portion: Some(portion), acked: false, .. }, rest) = Said::decode(rest).unwrap()
        else {
            panic!("the second has a portion")
        };
        assert_eq!((portion.plain, portion.hops, portion.version), (false, 3, Some(9)));
        assert_eq!(portion.groups, ["$share/g/a/+".into(), "$share/h/#".into()]);
        let (said, rest) = Said::decode(rest).unwrap();
        assert!(matches!(said, Said::Interest { filter: "$share/g/a/+", members: 4 }));
        let (said, rest) = Said::decode(rest).unwrap();
        assert!(matches!(said, Said::Sync { clock: 12 }));
        let (said, rest) = Said::decode(rest).unwrap();
        assert!(matches!(said, Said::Ack { number: u64::MAX }));
        assert!(rest.is_empty() && Said::decode(rest).is_none());
    }

    #[test]
    fn what_is_redacted_says_the_same_without_payloads_and_user_properties() {
        let mut out = said();
        let properties = [Property::UserProperty("key", "value"), Property::ContentType("text")];
        let message =
            Message::with_properties("topic", b"secret", QoS::AtMostOnce, false, &properties, None).unwrap();
        say_publish(&mut out, &message.publication(), None, false);
        let whole = out.len();
        out.extend_from_slice(b"what no shard says: secret");
        let before = out.clone();
        redact(&mut out, &Redaction::new(&|kind, bytes| [kind as u8 + bytes.len() as u8; 32]));
        let find = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        for gone in [&b"payload"[..], b"secret", b"value"] {
            assert!(find(&before, gone) && !find(&out, gone), "{gone:?}");
        }
        for kept in [&b"a/b"[..], b"topic", b"key", b"text", b"$share/g/a/+"] {
            assert!(find(&out, kept), "{kept:?}");
        }
        let (mut rest, mut same, mut count) = (&out[..], &before[..], 0);
        while let Some((one, behind)) = Said::decode(rest) {
            let (other, other_behind) = Said::decode(same).unwrap();
            if let (Said::Publish { publication: one, .. }, Said::Publish { publication: other, .. }) =
                (&one, &other)
            {
                assert_eq!((one.topic, one.payload.len()), (other.topic, other.payload.len()));
            }
            assert_eq!(behind.len(), other_behind.len());
            (rest, same, count) = (behind, other_behind, count + 1);
        }
        assert_eq!((count, rest.len()), (6, out.len() - whole));
    }

    #[test]
    fn bytes_that_no_shard_says_are_not_read() {
        let bytes = said();
        for end in 0..bytes.len() {
            let mut rest = &bytes[..end];
            while let Some((_, behind)) = Said::decode(rest) {
                assert!(behind.len() < rest.len());
                rest = behind;
            }
        }
        assert!(Said::decode(&[4]).is_none());
        assert!(Said::decode(&[INTEREST, 1, 0, 0, 0, 255, 255, 255, 255]).is_none());
        let claims = [&[PUBLISH, GROUPS][..], &[0; 10], &[0], &[255; 4]].concat();
        assert!(Said::decode(&claims).is_none(), "what a count claims is not allocated");
    }
}
