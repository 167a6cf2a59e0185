//! The middleware `SubscriptionManager`.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Action, Cx, Reply, SubscribeTopic, UnsubscribeTopic};
use crate::error::Violation;
use crate::id::{ConnectionId, SessionId};
use crate::packet::{PacketType, QoS, ReasonCode, Subscribe, SubscriptionOptions, Unsubscribe, Version};
use crate::saved::saved_part;
use crate::topic::Filter;
use crate::topic::filter::levels;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// SUBSCRIBE and UNSUBSCRIBE: a verdict per filter, one acknowledgement.
///
/// * **listens**: SUBSCRIBE, UNSUBSCRIBE, topic unsubscribed, unsubscribed
/// * **emits**: subscribe topic, unsubscribe topic, unsubscribed, SUBACK, UNSUBACK (gated)
/// * **owns**: the reason codes of the UNSUBSCRIBE in hand; the subscriptions are the backend's
#[derive(Debug, Default)]
pub struct SubscriptionManager {
    codes: Vec<ReasonCode>,
    /// How many filters it has.
    filters: usize,
}

impl Middleware for SubscriptionManager {
    fn name(&self) -> &'static str {
        "SubscriptionManager"
    }

    // Both belong to the UNSUBSCRIBE in hand.
    saved_part! { ; codes, filters }

    fn wants(&self) -> Hooks {
        Hooks::SUBSCRIBE | Hooks::UNSUBSCRIBE | Hooks::TOPIC_UNSUBSCRIBED | Hooks::UNSUBSCRIBED
    }

    fn subscribe(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Subscribe<'_>) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        let (version, Some(session)) = (connection.version, connection.session) else { return Flow::Done };
        let identifier = packet.properties.subscription_identifiers().next();
        let mut filters = Vec::with_capacity(packet.filters.len());
        for (text, options) in packet.filters.iter() {
            match Filter::parse(text) {
                Ok(filter) => filters.push((filter, options)),
                Err(clause) => {
                    return Flow::Violation(Violation { clause, reason: ReasonCode::MalformedPacket });
                }
            }
        }
        if identifier.is_some() && !cx.config().subscription_identifiers_available {
            let reason = ReasonCode::SubscriptionIdentifiersNotSupported;
            return Flow::Violation(Violation::with("MQTT-3.2.2.3.12", reason));
        }
        let mut codes = Vec::with_capacity(filters.len());
        let mut room = room(cx, session);
        for (index, (filter, options)) in filters.into_iter().enumerate() {
            let full = (room == 0).then_some(ReasonCode::QuotaExceeded);
            let reason = cx.filter_refused(index).or_else(|| refused(cx, &filter, version)).or(full);
            if let Some(reason) = reason {
                cx.stats().refused += 1;
                // The SUBACK of 3.1 knows no failure: it grants what it does not keep.
                codes.push(if version == Version::V31 { ReasonCode::granted(options.qos) } else { reason });
                continue;
            }
            let most = QoS::from_bits(cx.config().qos_max).unwrap_or(QoS::ExactlyOnce);
            let options = SubscriptionOptions { qos: options.qos.min(most), ..options };
            codes.push(ReasonCode::granted(options.qos));
            room -= 1;
            cx.emit(Action::SubscribeTopic(Box::new(SubscribeTopic {
                session,
                filter: filter.filter.into(),
                share: filter.share.map(Into::into),
                options,
                identifier,
            })));
        }
        // [MQTT-3.8.4-1], [MQTT-3.8.4-6]: one SUBACK with a code for each filter, in their order.
        cx.emit(Action::Reply(Reply {
            to: from,
            packet: PacketType::Suback,
            packet_id: packet.packet_id,
            reason: ReasonCode::Success,
            codes: codes.into(),
        }));
        Flow::Done
    }

    fn unsubscribe(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Unsubscribe<'_>) -> Flow {
        let Some(session) = cx.session_of(from) else { return Flow::Done };
        let mut filters = Vec::with_capacity(packet.filters.len());
        for text in packet.filters.iter() {
            match Filter::parse(text) {
                Ok(filter) => filters.push(UnsubscribeTopic {
                    session,
                    filter: filter.filter.into(),
                    share: filter.share.map(Into::into),
                }),
                Err(clause) => {
                    return Flow::Violation(Violation { clause, reason: ReasonCode::MalformedPacket });
                }
            }
        }
        self.codes.clear();
        self.filters = filters.len();
        for topic in filters {
            cx.emit(Action::UnsubscribeTopic(Box::new(topic)));
        }
        cx.emit(Action::Unsubscribed { to: from, packet_id: packet.packet_id });
        Flow::Done
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        match *action {
            // The backend says of each filter whether it was there [MQTT-3.11.3-2].
            Action::TopicUnsubscribed(ref topic) => self.codes.push(match topic.existed {
                true => ReasonCode::Success,
                false => ReasonCode::NoSubscriptionExisted,
            }),
            // [MQTT-3.10.4-4], [MQTT-3.10.4-6]: one UNSUBACK for all filters.
            Action::Unsubscribed { to, packet_id } => {
                // Without a backend in the chain nobody knows: there is a code for each filter all the same.
                self.codes.resize(self.filters, ReasonCode::NoSubscriptionExisted);
                let codes = core::mem::take(&mut self.codes).into();
                let reason = ReasonCode::Success;
                cx.emit(Action::Reply(Reply { to, packet: PacketType::Unsuback, packet_id, reason, codes }));
                return Flow::Done;
            }
            _ => {}
        }
        Flow::Next
    }
}

/// How many more subscriptions a session may have. One that replaces another counts as well: whether it does is
/// known only to the backend.
fn room(cx: &Cx<'_>, session: SessionId) -> u32 {
    let has = cx.session(session).map_or(0, |session| session.subscriptions);
    cx.config().subscriptions_max.saturating_sub(has)
}

/// Why a well-formed filter cannot be subscribed to here.
fn refused(cx: &Cx<'_>, filter: &Filter<'_>, version: Version) -> Option<ReasonCode> {
    let config = cx.config();
    let reason = if filter.wildcard && !config.wildcard_subscription_available {
        ReasonCode::WildcardSubscriptionsNotSupported
    } else if filter.share.is_some() && !config.shared_subscription_available {
        ReasonCode::SharedSubscriptionsNotSupported
    } else if levels(filter.filter) > usize::from(config.topic_levels_max) {
        ReasonCode::TopicFilterInvalid
    } else {
        return None;
    };
    Some(if version == Version::V5 { reason } else { ReasonCode::UnspecifiedError })
}
