//! The middleware `LastWill`.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Action, Cx, Inspection, Owner, Record, Relay, Settled, TimerId};
use crate::error::Violation;
use crate::id::{ConnectionId, SessionId, Table};
use crate::message::{Message, Publication};
use crate::packet::{Connect, PropertyId, QoS, ReasonCode, Version};
use crate::saved::{saved, saved_part};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Wills: kept from CONNECT on, published when they are owed.
///
/// * **listens**: CONNECT, session attached, session opened, clean and unclean disconnect, session ended, restore, session
///   restored, closed, timer
/// * **emits**: relay (the will)
/// * **owns**: the will of each session, and its delay
#[derive(Debug, Default)]
pub struct LastWill {
    /// Between CONNECT and CONNACK.
    offered: BTreeMap<ConnectionId, Will>,
    wills: Table<SessionId, Will>,
    delayed: Table<SessionId, TimerId>,
}

#[derive(Debug)]
struct Will {
    message: Message,
    /// Seconds; begins when the will is published.
    expiry_s: Option<u32>,
    delay_s: u32,
    /// Its client was told that it is connected: from then on the will can be owed.
    promised: bool,
}

saved! { struct Will { message, expiry_s, delay_s, promised } }

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
            | Hooks::SESSION_ATTACHED
            | Hooks::SESSION_OPENED
            | Hooks::CLEAN_DISCONNECT
            | Hooks::UNCLEAN_DISCONNECT
            | Hooks::SESSION_ENDED
            | Hooks::RESTORE
            | Hooks::SESSION_RESTORED
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
        self.offered.insert(from, Will { message, expiry_s, delay_s, promised: false });
        Flow::Next
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        match *action {
            Action::SessionAttached { session, connection } => self.attached(cx, session, connection),
            Action::SessionOpened { session, .. } => {
                if let Some(will) = self.wills.get_mut(session) {
                    will.promised = true;
                }
            }
            // [MQTT-3.1.2-10]: a normal DISCONNECT discards it.
            Action::CleanDisconnect { session, reason: ReasonCode::Success } => self.discard(cx, session),
            Action::CleanDisconnect { session, .. } | Action::UncleanDisconnect { session } => {
                if self.wills.get(session).is_some_and(|will| will.promised) {
                    self.owed(cx, session);
                } else {
                    self.discard(cx, session);
                }
            }
            // [MQTT-3.1.3-9]: when the session ends, whatever delay is left.
            Action::SessionEnded { session } => self.publish(cx, session),
            Action::SessionRestored { session } => self.owed(cx, session),
            Action::Restore { session: Some(session), ref record } => self.restore(cx, session, record),
            _ => {}
        }
        Flow::Next
    }

    fn closed(&mut self, _: &mut Cx<'_>, id: ConnectionId) {
        self.offered.remove(&id);
    }

    fn timer(&mut self, cx: &mut Cx<'_>, owner: Owner) {
        if let Owner::Session(session) = owner {
            self.delayed.remove(session);
            self.publish(cx, session);
        }
    }

    fn records(&self, cx: &Cx<'_>, session: Option<SessionId>, each: &mut dyn FnMut(Record)) {
        let Some(session) = session else { return };
        if let (Some(will), Some(state)) = (self.wills.get(session), cx.session(session)) {
            each(will.record(state.client_id.clone()));
        }
    }
}

impl LastWill {
    /// A new connection: what an earlier one left behind is not sent [MQTT-3.1.3-9]. The will is stored before CONNACK,
    /// also of a session that is not.
    fn attached(&mut self, cx: &mut Cx<'_>, session: SessionId, connection: ConnectionId) {
        let earlier = self.forget(cx, session);
        let Some(will) = self.offered.remove(&connection) else {
            if earlier.is_some() {
                cx.journal_client(session, |client_id| Record::WillGone { client_id });
            }
            return;
        };
        cx.journal_client(session, |client_id| will.record(client_id));
        self.wills.insert(session, will);
    }

    fn owed(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let Some(will) = self.wills.get(session) else { return };
        // [MQTT-3.1.2-8], [MQTT-3.1.3-9]
        let left_ms = match cx.session(session) {
            Some(state) => state.remaining_ms(will.delay_s, cx.now().wall),
            None => 0,
        };
        if left_ms == 0 {
            return self.publish(cx, session);
        }
        let at = cx.now().mono.plus_ms(left_ms);
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

    fn discard(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        if self.forget(cx, session).is_some() {
            cx.journal_client(session, |client_id| Record::WillGone { client_id });
        }
    }

    fn publish(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let Some(will) = self.forget(cx, session) else { return };
        let message = match will.expiry_s {
            Some(seconds) => will.message.with_expiry(Some(cx.now().wall.plus_seconds(seconds))),
            None => will.message,
        };
        if cx.durable() {
            // In one step with all that comes of it, or a crash between them would lose it or publish it twice.
            if let Some(client_id) = cx.session(session).map(|state| state.client_id.clone()) {
                cx.journal_settled(&message, Settled::Will { client_id });
            }
        }
        cx.emit(Action::Relay(Relay::of(message, Some(session))));
    }

    fn restore(&mut self, cx: &mut Cx<'_>, session: SessionId, record: &Record) {
        match record {
            Record::Will { message, expiry_s, delay_s, .. } => {
                let (message, expiry_s, delay_s) = (message.clone(), *expiry_s, *delay_s);
                self.wills.insert(session, Will { message, expiry_s, delay_s, promised: true });
            }
            Record::WillGone { .. } => self.gone(cx, session),
            Record::Relayed(relayed) if matches!(relayed.settled, Settled::Will { .. }) => {
                self.gone(cx, session);
            }
            // It was published or discarded before; what is left was never owed.
            Record::SessionEnded { .. } => drop(self.forget(cx, session)),
            _ => {}
        }
    }

    /// A session that is not stored was there for its will only.
    fn gone(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        self.forget(cx, session);
        if cx.session(session).is_some_and(|state| !state.stored) {
            cx.emit(Action::SessionEnded { session });
        }
    }
}

impl Will {
    fn record(&self, client_id: Box<str>) -> Record {
        let (message, expiry_s, delay_s) = (self.message.clone(), self.expiry_s, self.delay_s);
        Record::Will { client_id, message, expiry_s, delay_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::{Authentication, Decision, Stack, tests::Watched};
    use crate::testing::{Bench, connect, will};

    #[test]
    fn a_will_that_was_only_offered_is_forgotten_with_its_connection() {
        let watched = Watched::new(LastWill::default());
        // In front of who asks, it keeps what a stranger offers.
        let stack = Stack::standard()
            .replace("LastWill", Authentication::new(|_: &_| Decision::Ask))
            .and_then(|stack| stack.replace("Authentication", watched.clone()))
            .unwrap();
        let mut bench = Bench::with(crate::Config::default(), stack);
        let packet = Connect { will: Some(will("t", b"m")), ..connect(Version::V5, "alice") };
        let alice = bench.try_connect(&packet);
        assert!(watched.part().offered.contains_key(&alice));
        bench.cut(alice);
        assert!(!watched.part().offered.contains_key(&alice));
    }
}
