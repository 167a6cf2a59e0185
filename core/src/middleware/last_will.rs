//! The middleware `LastWill`.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Action, Cx, Inspection, Owner, Relay, TimerId};
use crate::error::Violation;
use crate::id::{ConnectionId, SessionId, Table};
use crate::message::{Message, Publication};
use crate::packet::{Connect, PropertyId, QoS, ReasonCode, Version};
use crate::saved::{saved, saved_part};
use alloc::vec::Vec;

/// Wills: kept from CONNECT on, published when they are owed.
///
/// * **listens**: CONNECT, session opened, clean and unclean disconnect, session ended, closed, timer
/// * **emits**: relay (the will)
/// * **owns**: the will of each session, and its delay
#[derive(Debug, Default)]
pub struct LastWill {
    /// Between CONNECT and CONNACK.
    offered: Table<ConnectionId, Will>,
    wills: Table<SessionId, Will>,
    delayed: Table<SessionId, TimerId>,
}

#[derive(Debug)]
struct Will {
    message: Message,
    /// Seconds; begins when the will is published.
    expiry_s: Option<u32>,
    delay_s: u32,
}

saved! { struct Will { message, expiry_s, delay_s } }

impl Middleware for LastWill {
    fn name(&self) -> &'static str {
        "LastWill"
    }

    saved_part! { offered, wills, delayed; }

    fn inspect(&self, session: SessionId, found: &mut Inspection) {
        found.will = self.wills.get(session).map(|will| will.message.clone());
    }

    fn wants(&self) -> Hooks {
        Hooks::CONNECT
            | Hooks::SESSION_OPENED
            | Hooks::CLEAN_DISCONNECT
            | Hooks::UNCLEAN_DISCONNECT
            | Hooks::SESSION_ENDED
            | Hooks::CLOSED
    }

    fn connect(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Connect<'_>) -> Flow {
        let Some(will) = &packet.will else { return Flow::Next };
        let config = cx.config();
        if packet.version == Version::V5 {
            // [MQTT-3.2.2-12], [MQTT-3.2.2-13]
            if will.qos as u8 > config.qos_max {
                return Flow::Violation(Violation::with("MQTT-3.2.2-12", ReasonCode::QosNotSupported));
            }
            if will.retain && !config.retain_available {
                return Flow::Violation(Violation::with("MQTT-3.2.2-13", ReasonCode::RetainNotSupported));
            }
        }
        let qos = will.qos.min(QoS::from_bits(config.qos_max).unwrap_or(QoS::ExactlyOnce));
        let mut properties = Vec::new();
        let keep = |id| !matches!(id, PropertyId::WillDelayInterval | PropertyId::MessageExpiryInterval);
        will.properties.encode_where(keep, &mut properties);
        let message = Message::keep(&Publication {
            topic: will.topic,
            properties: &properties,
            plain: true,
            payload: will.payload,
            qos,
            retain: will.retain && config.retain_available,
            expires: None,
        });
        let expiry_s = will.properties.message_expiry_interval();
        let delay_s = will.properties.will_delay_interval().unwrap_or(0);
        self.offered.insert(from, Will { message, expiry_s, delay_s });
        Flow::Next
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        match *action {
            Action::SessionOpened { session, connection, .. } => {
                // Back before the delay was over: it is not sent [MQTT-3.1.3-9].
                self.forget(cx, session);
                if let Some(will) = self.offered.remove(connection) {
                    self.wills.insert(session, will);
                }
            }
            // [MQTT-3.1.2-10]: a normal DISCONNECT discards it.
            Action::CleanDisconnect { session, reason: ReasonCode::Success } => {
                drop(self.forget(cx, session))
            }
            Action::CleanDisconnect { session, .. } | Action::UncleanDisconnect { session } => {
                self.owed(cx, session);
            }
            // [MQTT-3.1.3-9]: when the session ends, whatever delay is left.
            Action::SessionEnded { session } => self.publish(cx, session),
            _ => {}
        }
        Flow::Next
    }

    fn closed(&mut self, _: &mut Cx<'_>, id: ConnectionId) {
        self.offered.remove(id);
    }

    fn timer(&mut self, cx: &mut Cx<'_>, owner: Owner) {
        if let Owner::Session(session) = owner {
            self.delayed.remove(session);
            self.publish(cx, session);
        }
    }
}

impl LastWill {
    fn owed(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let Some(will) = self.wills.get(session) else { return };
        if will.delay_s == 0 {
            // [MQTT-3.1.2-8]
            return self.publish(cx, session);
        }
        let at = cx.now().mono.plus_ms(u64::from(will.delay_s) * 1_000);
        let timer = cx.arm(at, Owner::Session(session));
        if let Some(earlier) = self.delayed.insert(session, timer) {
            cx.cancel(earlier);
        }
    }

    fn forget(&mut self, cx: &mut Cx<'_>, session: SessionId) -> Option<Will> {
        if let Some(timer) = self.delayed.remove(session) {
            cx.cancel(timer);
        }
        self.wills.remove(session)
    }

    fn publish(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let Some(will) = self.forget(cx, session) else { return };
        let message = match will.expiry_s {
            Some(seconds) => will.message.with_expiry(Some(cx.now().wall.plus_seconds(seconds))),
            None => will.message,
        };
        cx.emit(Action::Relay(Relay::of(message, Some(session))));
    }
}
