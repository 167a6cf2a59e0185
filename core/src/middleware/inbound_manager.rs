//! The middleware `InboundManager`.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Action, Cx, Record, Relay, RelayAck, Reply, Settled, What};
use crate::config::Config;
use crate::error::Violation;
use crate::id::{ConnectionId, SessionId, Table};
use crate::message::Message;
use crate::packet::{Ack, PacketId, PacketType, Publish, QoS, ReasonCode, Version};
use crate::saved::saved_part;
use crate::topic::is_topic_name;
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Messages coming in: QoS 1 and 2 from the receiver's side.
///
/// * **listens**: PUBLISH, PUBREL, store inbound, session ended, restore, session restored
/// * **emits**: relay, PUBACK, PUBREC, PUBCOMP (gated), store inbound
/// * **owns**: the Packet Identifiers of QoS 2 messages between PUBLISH and PUBREL; they lie with the machine, so that
///   Authorize can tell a repetition of what was accepted (`Cx::accepted_before`)
#[derive(Debug, Default)]
pub struct InboundManager {
    /// After a restart: messages that were accepted but not relayed, in their order.
    owed: Table<SessionId, Vec<(PacketId, Message)>>,
}

impl Middleware for InboundManager {
    fn name(&self) -> &'static str {
        "InboundManager"
    }

    saved_part! { owed; }

    fn shortens(&self) -> Hooks {
        Hooks::PUBLISH
    }

    fn wants(&self) -> Hooks {
        Hooks::PUBLISH
            | Hooks::PUBREL
            | Hooks::STORE_INBOUND
            | Hooks::SESSION_ENDED
            | Hooks::RESTORE
            | Hooks::SESSION_RESTORED
    }

    fn publish(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Publish<'_>) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        let (version, publisher, gated) = (connection.version, connection.session, connection.gated);
        cx.stats().publishes_received += 1;
        if let Some(flow) = check(cx, version, packet) {
            return flow;
        }
        let mut relay = Relay {
            what: What::Current,
            publisher,
            ack: None,
            gated: false,
            inbound: None,
            shard: None,
            portion: None,
        };
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
            let held = cx.state.held.get_or_insert_with(session, Vec::new);
            match held.binary_search(&packet_id) {
                // Known: the PUBREC got lost, the message did not [MQTT-4.3.3-10].
                Ok(_) => {
                    cx.emit(ack(from, PacketType::Pubrec, packet_id, ReasonCode::Success));
                    return Flow::Done;
                }
                Err(at) => {
                    let unanswered = held.len() + usize::from(gated);
                    if !exceeded(&cx.state.config, version, unanswered) {
                        held.insert(at, packet_id);
                    }
                    (PacketType::Pubrec, unanswered)
                }
            }
        } else {
            let held = cx.state.held.get(session).map_or(0, Vec::len);
            (PacketType::Puback, held + usize::from(gated))
        };
        if exceeded(&cx.state.config, version, unanswered) {
            return Flow::Violation(Violation::with("MQTT-3.3.4-7", ReasonCode::ReceiveMaximumExceeded));
        }
        relay.ack = Some(RelayAck { to: from, packet: answer, packet_id });
        if packet.qos == QoS::ExactlyOnce {
            // Passed on only once it is certain that a repetition will be recognized.
            cx.emit(Action::StoreInbound { session, packet_id, held: true });
            relay.gated = true;
            relay.inbound = Some(packet_id);
        }
        cx.emit(Action::Relay(relay));
        Flow::Done
    }

    fn pubrel(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &Ack<'_>) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        let (version, session) = (connection.version, connection.session);
        let Some(session) = session else { return Flow::Done };
        let packet_id = packet.packet_id;
        let known = cx.state.held.get(session).is_some_and(|held| held.binary_search(&packet_id).is_ok());
        // Answered all the same: the PUBCOMP may have got lost [MQTT-4.3.3-11].
        let reason = match known || version != Version::V5 {
            true => ReasonCode::Success,
            false => ReasonCode::PacketIdentifierNotFound,
        };
        if known {
            cx.emit(Action::StoreInbound { session, packet_id, held: false });
        }
        cx.emit(ack(from, PacketType::Pubcomp, packet_id, reason));
        Flow::Done
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        match action {
            Action::SessionEnded { session } => {
                cx.state.held.remove(*session);
                self.owed.remove(*session);
            }
            Action::StoreInbound { session, packet_id, held: false } => {
                // Also where an earlier part refused a repetition of what was accepted: for its client the identifier is
                // free, and what has it next is a new message.
                let held = cx.state.held.get_mut(*session);
                let known = held.and_then(|held| Some((held.binary_search(packet_id).ok()?, held)));
                let Some((at, held)) = known else { return Flow::Done };
                held.remove(at);
            }
            Action::SessionRestored { session } => self.relay_owed(cx, *session),
            Action::Restore { session: Some(session), record } => self.restore(cx, *session, record),
            _ => {}
        }
        Flow::Next
    }

    fn records(&self, cx: &Cx<'_>, session: Option<SessionId>, each: &mut dyn FnMut(Record)) {
        let Some((session, state)) = session.and_then(|id| Some((id, cx.session(id)?))) else { return };
        if !state.stored {
            return;
        }
        let client_id = &state.client_id;
        let held = cx.state.held.get(session).map_or(&[][..], Vec::as_slice);
        // Who never sent QoS 2 has none.
        let gated = cx.state.held.get(session).map(|_| cx.gated_relays(session));
        let mut waiting = gated.unwrap_or_default();
        waiting.extend(self.owed.get(session).into_iter().flatten().cloned());
        for (packet_id, message) in &waiting {
            let (client_id, message) = (client_id.clone(), Some(message.clone()));
            each(Record::Inbound { client_id, packet_id: *packet_id, message });
            if held.binary_search(packet_id).is_err() {
                let client_id = state.client_id.clone();
                each(Record::InboundGone { client_id, packet_id: *packet_id });
            }
        }
        for packet_id in held.iter().filter(|held| waiting.iter().all(|(packet_id, _)| packet_id != *held)) {
            let client_id = client_id.clone();
            each(Record::Inbound { client_id, packet_id: *packet_id, message: None });
        }
    }
}

impl InboundManager {
    /// What was accepted is relayed, though nobody waits for an answer any more: its client will ask again.
    fn relay_owed(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        for (packet_id, message) in self.owed.remove(session).into_iter().flatten() {
            let relay = Relay::of(message, Some(session));
            cx.emit(Action::Relay(Relay { inbound: Some(packet_id), ..relay }));
        }
    }

    fn restore(&mut self, cx: &mut Cx<'_>, session: SessionId, record: &Record) {
        match record {
            Record::Inbound { packet_id, message, .. } => {
                let held = cx.state.held.get_or_insert_with(session, Vec::new);
                if let Err(at) = held.binary_search(packet_id) {
                    held.insert(at, *packet_id);
                }
                if let Some(message) = message {
                    self.owed.get_or_insert_with(session, Vec::new).push((*packet_id, message.clone()));
                }
            }
            Record::InboundGone { packet_id, .. } => {
                if let Some(held) = cx.state.held.get_mut(session)
                    && let Ok(at) = held.binary_search(packet_id)
                {
                    held.remove(at);
                }
            }
            Record::Relayed(relayed) => {
                if let (Settled::Inbound { packet_id, .. }, Some(owed)) =
                    (&relayed.settled, self.owed.get_mut(session))
                    && let Some(at) = owed.iter().position(|(owed, _)| owed == packet_id)
                {
                    owed.remove(at);
                }
            }
            _ => {}
        }
    }
}

/// Whether one more unacknowledged message is more than was announced; 3.x clients were announced nothing.
fn exceeded(config: &Config, version: Version, unanswered: usize) -> bool {
    version == Version::V5 && unanswered >= usize::from(config.receive_maximum)
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
    // As many slashes make one level more; shorter topics need no counting.
    if packet.topic.len() >= usize::from(config.topic_levels_max)
        && crate::topic::filter::levels(&packet.topic) > usize::from(config.topic_levels_max)
    {
        return Some(Flow::Refuse(ReasonCode::TopicNameInvalid));
    }
    None
}
