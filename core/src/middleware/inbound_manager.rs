//! The middleware `InboundManager`.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Action, Cx, Inspection, Relay, RelayAck, Reply, What};
use crate::error::Violation;
use crate::id::{ConnectionId, SessionId, Table};
use crate::packet::{Ack, PacketId, PacketType, Publish, QoS, ReasonCode, Version};
use crate::saved::saved_part;
use crate::topic::is_topic_name;
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Messages coming in: QoS 1 and 2 from the receiver's side.
///
/// * **listens**: PUBLISH, PUBREL, session ended
/// * **emits**: relay, PUBACK, PUBREC, PUBCOMP (gated), store inbound
/// * **owns**: the Packet Identifiers of QoS 2 messages between PUBLISH and PUBREL
#[derive(Debug, Default)]
pub struct InboundManager {
    /// Sorted; a session that uses no QoS 2 owns nothing.
    held: Table<SessionId, Vec<PacketId>>,
}

impl Middleware for InboundManager {
    fn name(&self) -> &'static str {
        "InboundManager"
    }

    saved_part! { held; }

    fn inspect(&self, session: SessionId, found: &mut Inspection) {
        found.incoming = self.held.get(session).cloned().unwrap_or_default();
    }

    fn wants(&self) -> Hooks {
        Hooks::PUBLISH | Hooks::PUBREL | Hooks::SESSION_ENDED
    }

    fn publish(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Publish<'_>) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        let (version, publisher, gated) = (connection.version, connection.session, connection.gated);
        cx.stats().publishes_received += 1;
        if let Some(flow) = check(cx, version, packet) {
            return flow;
        }
        let mut relay = Relay { what: What::Current, publisher, ack: None, gated: false };
        let Some(session) = publisher else {
            // Only where the part is missing that lets nobody publish before CONNECT.
            return Flow::Violation(Violation::protocol("MQTT-3.1.0-1"));
        };
        let Some(packet_id) = packet.packet_id else {
            cx.emit(Action::Relay(relay));
            return Flow::Done;
        };
        if cx.store_failed() {
            // What cannot be made durable is not taken. 3.x has no word for that but the end.
            if version != Version::V5 {
                cx.close_client(from, ReasonCode::ImplementationSpecificError);
                return Flow::Done;
            }
            return Flow::Refuse(ReasonCode::ImplementationSpecificError);
        }
        let (answer, unanswered) = if packet.qos == QoS::ExactlyOnce {
            let held = self.held.get_or_insert_with(session, Vec::new);
            match held.binary_search(&packet_id) {
                // Known: the PUBREC got lost, the message did not [MQTT-4.3.3-10].
                Ok(_) => {
                    cx.emit(ack(from, PacketType::Pubrec, packet_id, ReasonCode::Success));
                    return Flow::Done;
                }
                Err(at) => {
                    let unanswered = held.len() + usize::from(gated);
                    if !exceeded(cx, version, unanswered) {
                        held.insert(at, packet_id);
                    }
                    (PacketType::Pubrec, unanswered)
                }
            }
        } else {
            let held = self.held.get(session).map_or(0, Vec::len);
            (PacketType::Puback, held + usize::from(gated))
        };
        if exceeded(cx, version, unanswered) {
            return Flow::Violation(Violation::with("MQTT-3.3.4-7", ReasonCode::ReceiveMaximumExceeded));
        }
        relay.ack = Some(RelayAck { to: from, packet: answer, packet_id });
        if packet.qos == QoS::ExactlyOnce {
            // Passed on only once it is certain that a repetition will be recognized.
            cx.emit(Action::StoreInbound { session, packet_id, held: true });
            relay.gated = true;
        }
        cx.emit(Action::Relay(relay));
        Flow::Done
    }

    fn pubrel(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &Ack<'_>) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        let (version, session) = (connection.version, connection.session);
        let Some(session) = session else { return Flow::Done };
        let held = self.held.get_mut(session);
        let known = held.and_then(|held| {
            let at = held.binary_search(&packet.packet_id).ok()?;
            Some(held.remove(at))
        });
        let reason = match known {
            Some(packet_id) => {
                cx.emit(Action::StoreInbound { session, packet_id, held: false });
                ReasonCode::Success
            }
            // Answered all the same: the PUBCOMP may have got lost [MQTT-4.3.3-11].
            None if version == Version::V5 => ReasonCode::PacketIdentifierNotFound,
            None => ReasonCode::Success,
        };
        cx.emit(ack(from, PacketType::Pubcomp, packet.packet_id, reason));
        Flow::Done
    }

    fn action(&mut self, _: &mut Cx<'_>, action: &mut Action) -> Flow {
        if let Action::SessionEnded { session } = action {
            self.held.remove(*session);
        }
        Flow::Next
    }
}

/// Whether one more unacknowledged message is more than was announced; 3.x clients were announced nothing.
fn exceeded(cx: &Cx<'_>, version: Version, unanswered: usize) -> bool {
    version == Version::V5 && unanswered >= usize::from(cx.config().receive_maximum)
}

fn ack(to: ConnectionId, packet: PacketType, packet_id: PacketId, reason: ReasonCode) -> Action {
    Action::Reply(Reply { to, packet, packet_id, reason, codes: Box::default() })
}

/// What a PUBLISH must be beyond its bytes; `None`: it is.
fn check(cx: &Cx<'_>, version: Version, packet: &mut Publish<'_>) -> Option<Flow> {
    let config = cx.config();
    let v5 = version == Version::V5;
    if packet.topic.is_empty() {
        // Without a Topic Alias, or it would have been resolved.
        return Some(Flow::Violation(Violation::protocol("MQTT-3.3.2-8")));
    }
    if matches!(packet.topic, Cow::Owned(_)) && !is_topic_name(&packet.topic) {
        // What a middleware wrote was not checked when the packet was decoded.
        return Some(Flow::Refuse(ReasonCode::TopicNameInvalid));
    }
    if v5 && !packet.properties.is_empty() && packet.properties.has_subscription_identifier() {
        return Some(Flow::Violation(Violation::protocol("MQTT-3.3.4-6")));
    }
    if packet.qos as u8 > config.qos_max {
        let violation = Violation::with("MQTT-3.2.2-11", ReasonCode::QosNotSupported);
        return Some(if v5 { Flow::Violation(violation) } else { Flow::Refuse(violation.reason) });
    }
    if config.payload_format_check
        && packet.properties.payload_format_indicator() == Some(1)
        && core::str::from_utf8(&packet.payload).is_err()
    {
        return Some(Flow::Refuse(ReasonCode::PayloadFormatInvalid));
    }
    if packet.retain && !config.retain_available {
        if v5 {
            return Some(Flow::Violation(Violation::with("MQTT-3.2.2-14", ReasonCode::RetainNotSupported)));
        }
        packet.retain = false;
    }
    if packet.topic.len() > usize::from(config.topic_levels_max)
        && crate::topic::filter::levels(&packet.topic) > usize::from(config.topic_levels_max)
    {
        return Some(Flow::Refuse(ReasonCode::TopicNameInvalid));
    }
    None
}
