//! What a listener makes of what its clients say and hear: who they are by their identity, and the mount point, a prefix
//! of every topic.
//!
//! Packets are rewritten as they come, behind the resolution of Topic Aliases and before the chain, so all of the chain sees
//! the topics that the broker stores; and as they go, by OutboundManager. It is no part of the chain: what is refused or
//! stored in between must not depend on where in the chain it stands.

use super::{Broker, Fate};
use crate::config::IdentityUse;
use crate::error::Violation;
use crate::id::ConnectionId;
use crate::message::Publication;
use crate::middleware::Flow;
use crate::packet::{
    Connect, Packet, Properties, PropertiesBuf, Property, PropertyId, Publish, ReasonCode, Subscribe,
    SubscribeFiltersBuf, Unsubscribe, UnsubscribeFiltersBuf, Version, Will,
};
use crate::topic::Filter;
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Broker {
    /// Takes a CONNECT down the chain, as its listener understands it.
    pub(super) fn connect_by_listener(&mut self, id: ConnectionId, connect: &mut Connect<'_>, limit: u8) {
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        let config = self.state.config.clone();
        let listener = config.listener(connection.peer.listener);
        let mut connect = connect.clone();
        let identity = connection.peer.identity.clone().filter(|identity| is_text(identity));
        match (listener.identity, &identity) {
            (IdentityUse::UserName, Some(identity)) => connect.user_name = Some(identity),
            (IdentityUse::ClientId, Some(identity)) if connect.may_be_named() => {
                connect.client_id = identity;
                connection.named = true;
            }
            _ => {}
        }
        if self.moves(id, connect.client_id) {
            return;
        }
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        let below;
        if connection.mounted
            && let Some(will) = &connect.will
        {
            below = Below(&listener.mount_point);
            let topic = below.topic(will.topic);
            let properties = below.properties(&will.properties);
            let (Ok(topic), Ok(properties)) = (topic, properties) else {
                self.make_answerable(id, connect.version);
                return self.refuse_connect(id, ReasonCode::TopicNameInvalid);
            };
            let will = Will { topic: &topic, properties, ..will.clone() };
            let connect = Connect { will: Some(will), ..connect };
            return self.walk(id, &mut Packet::Connect(connect), 0, limit, false);
        }
        self.walk(id, &mut Packet::Connect(connect), 0, limit, false);
    }

    /// Takes a packet of a client that is below a mount point down the chain.
    pub(super) fn walk_below(&mut self, id: ConnectionId, packet: &Packet<'_>, limit: u8) {
        let Some(connection) = self.state.connections.get(id) else { return };
        let (config, version) = (self.state.config.clone(), connection.version);
        let below = Below(&config.listener(connection.peer.listener).mount_point);
        let most = config.packet_size_max as usize;
        let (mut subscribed, mut unsubscribed) = (SubscribeFiltersBuf::new(), UnsubscribeFiltersBuf::new());
        let rewritten = match packet {
            Packet::Publish(publish) => below.publish(publish).map(Packet::Publish),
            Packet::Subscribe(subscribe) => below.subscribe(subscribe, &mut subscribed, most).map(|()| {
                Packet::Subscribe(Subscribe { filters: subscribed.as_filters(), ..subscribe.clone() })
            }),
            Packet::Unsubscribe(unsubscribe) => {
                below.unsubscribe(unsubscribe, &mut unsubscribed, most).map(|()| {
                    let filters = unsubscribed.as_filters();
                    Packet::Unsubscribe(Unsubscribe { filters, ..unsubscribe.clone() })
                })
            }
            other => Ok(other.clone()),
        };
        match rewritten {
            Ok(mut packet) => self.walk(id, &mut packet, 0, limit, false),
            // UNSUBACK of 3.x cannot say no.
            Err(reason) if matches!(packet, Packet::Unsubscribe(_)) && version != Version::V5 => {
                self.violate(id, Violation::with("MQTT-4.7.3-3", reason));
            }
            // Acknowledgements leave in the order of what they answer.
            Err(reason) if limit != u8::MAX => {
                self.park(id, packet, (limit, limit), false, Some(Flow::Refuse(reason)));
            }
            Err(reason) => self.refuse(id, packet, reason),
        }
    }
}

impl Connect<'_> {
    /// Whether the broker may choose the Client Identifier [MQTT-3.1.3-6] [MQTT-3.1.3-8 of 3.1.1].
    pub(crate) fn may_be_named(&self) -> bool {
        let version = self.version == Version::V5 || self.version == Version::V311 && self.clean_start;
        self.client_id.is_empty() && version
    }
}

/// The prefix of a mount point.
#[derive(Clone, Copy)]
struct Below<'a>(&'a str);

impl Below<'_> {
    /// A Topic Name, or a Topic Filter without `$share/…/`, as the broker knows it: `x` is `m/x`. What begins with `$` is
    /// `$m/$x`, so that no filter of a client that begins with a wildcard matches it [MQTT-4.7.2-1].
    fn join(self, topic: &str) -> Option<String> {
        let hidden = if topic.starts_with('$') { "$" } else { "" };
        let length = hidden.len() + self.0.len() + topic.len();
        (length <= TOPIC_BYTES_MAX).then(|| [hidden, self.0, topic].concat())
    }

    fn topic(self, topic: &str) -> Result<String, ReasonCode> {
        self.join(topic).ok_or(ReasonCode::TopicNameInvalid)
    }

    /// The properties of a message; its Response Topic is below the mount point too.
    fn properties<'p>(self, properties: &Properties<'p>) -> Result<Properties<'p>, ReasonCode> {
        let Some(response) = properties.response_topic() else { return Ok(properties.clone()) };
        let response = self.topic(response)?;
        let mut all = PropertiesBuf::new();
        for property in properties {
            all.push(match property {
                Property::ResponseTopic(_) => Property::ResponseTopic(&response),
                other => other,
            });
        }
        Ok(Properties::from_buf(all))
    }

    fn publish<'p>(self, publish: &Publish<'p>) -> Result<Publish<'p>, ReasonCode> {
        if publish.topic.is_empty() {
            // InboundManager says what is wrong.
            return Ok(publish.clone());
        }
        let topic = Cow::Owned(self.topic(&publish.topic)?);
        Ok(Publish { topic, properties: self.properties(&publish.properties)?, ..publish.clone() })
    }

    /// A Topic Filter as the broker knows it: of a Shared Subscription, the ShareName stays in front.
    fn filter(self, text: &str) -> Result<String, ReasonCode> {
        // SubscriptionManager says what is wrong.
        let Ok(Filter { filter, .. }) = Filter::parse(text) else { return Ok(text.into()) };
        let share = &text[..text.len() - filter.len()];
        let filter = self.join(filter).map(|filter| format!("{share}{filter}"));
        filter.filter(|filter| filter.len() <= TOPIC_BYTES_MAX).ok_or(ReasonCode::TopicFilterInvalid)
    }

    /// Many short filters must not make a packet that is larger than packets may be.
    fn room(self, filters: usize, most: usize) -> Result<(), ReasonCode> {
        if filters.saturating_mul(self.0.len()) > most { Err(ReasonCode::QuotaExceeded) } else { Ok(()) }
    }

    fn subscribe(
        self,
        subscribe: &Subscribe<'_>,
        into: &mut SubscribeFiltersBuf,
        most: usize,
    ) -> Result<(), ReasonCode> {
        self.room(subscribe.filters.len(), most)?;
        for (filter, options) in subscribe.filters {
            into.push(&self.filter(filter)?, options).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        }
        Ok(())
    }

    fn unsubscribe(
        self,
        unsubscribe: &Unsubscribe<'_>,
        into: &mut UnsubscribeFiltersBuf,
        most: usize,
    ) -> Result<(), ReasonCode> {
        self.room(unsubscribe.filters.len(), most)?;
        for filter in unsubscribe.filters {
            into.push(&self.filter(filter)?).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        }
        Ok(())
    }
}

/// A message as clients below a mount point know it. A Response Topic that is outside is left out: they could not publish
/// to it. `buffer` holds properties that are changed.
///
/// # Errors
/// They cannot know it: its topic is outside.
pub(crate) fn seen_below<'p>(
    mount_point: &str,
    publication: &Publication<'p>,
    buffer: &'p mut Vec<u8>,
) -> Result<Publication<'p>, Fate> {
    let topic = topic_below(mount_point, publication.topic).ok_or(Fate::OutsideMount)?;
    let all = Properties::trusted(publication.properties);
    let Some(response) = all.response_topic() else { return Ok(Publication { topic, ..*publication }) };
    buffer.clear();
    all.encode_where(|id| id != PropertyId::ResponseTopic, buffer);
    if let Some(response) = topic_below(mount_point, response) {
        Property::ResponseTopic(response).encode(buffer);
    }
    Ok(Publication { topic, properties: buffer, ..*publication })
}

/// A Topic Name as clients below a mount point know it, if they can: what `Below::join` was given.
fn topic_below<'t>(mount_point: &str, topic: &'t str) -> Option<&'t str> {
    let rest = topic.strip_prefix('$');
    let below = rest.unwrap_or(topic).strip_prefix(mount_point)?;
    (!below.is_empty() && below.starts_with('$') == rest.is_some()).then_some(below)
}

/// Whether a text can be a UTF-8 Encoded String [MQTT-1.5.4-2].
fn is_text(text: &str) -> bool {
    text.len() <= TOPIC_BYTES_MAX && !text.contains('\0')
}

/// The longest UTF-8 Encoded String in bytes, so the longest Topic Name or Topic Filter [MQTT-4.7.3-3].
const TOPIC_BYTES_MAX: usize = u16::MAX as usize;
