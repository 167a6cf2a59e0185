//! The work queue: an action walks the chain, with all that follows from it, before the next one.

use super::{Action, Broker, Cx, Forward, Relay, Reply, What};
use crate::connection::Phase;
use crate::error::{Clause, Violation};
use crate::id::{ConnectionId, LogSeq, SessionId};
use crate::message::Publication;
use crate::middleware::{Flow, Hooks};
use crate::packet::{Ack, Packet, PacketType, Properties, ReasonCode, Suback, Unsuback, Version, reason_for};
use alloc::boxed::Box;
use alloc::vec::Vec;

impl Broker {
    /// Works off what was emitted. `current` is the publication of the packet that is being processed.
    ///
    /// What is emitted lies on top of the work stack in the order it was emitted; before the next step it is turned
    /// round, so that the first is performed first and what follows from it before the second.
    pub(super) fn run(&mut self, current: Option<&Publication<'_>>) {
        if core::mem::replace(&mut self.state.running, true) {
            // The step that is being performed emitted something: its turn comes after that step.
            return;
        }
        self.turn_round(0);
        loop {
            let Some(mut action) = self.state.work.pop() else {
                match self.state.deferred.pop_front() {
                    Some(action) => self.state.work.push(action),
                    None => break,
                }
                continue;
            };
            let mut mark = self.state.work.len();
            if matches!(action, Action::Reply(_)) && !self.stack.sees_replies() {
                if let Action::Reply(reply) = action {
                    self.reply(reply);
                }
                self.turn_round(mark);
                continue;
            }
            if self.gated(&action) {
                self.hold(action, current);
                continue;
            }
            let ack = match &action {
                Action::Relay(relay) => relay.ack,
                _ => None,
            };
            if let Some(ack) = ack {
                // Below what the relay emits: performed when all of it is done.
                self.state.work.push(Action::Reply(Reply::of(ack)));
                mark += 1;
                self.state.matched = false;
            }
            let handled = match &action {
                Action::Relay(relay) if self.relay_shortly(relay, current) => true,
                _ => self.walk_action(&mut action, current),
            };
            if let (Some(_), Some(Action::Reply(reply)), false) =
                (ack, self.state.work.get_mut(mark.wrapping_sub(1)), self.state.matched)
            {
                // Known at once while there is one shard; 3.x sends no reason.
                reply.reason = ReasonCode::NoMatchingSubscribers;
            }
            match action {
                _ if handled => {}
                Action::Reply(reply) => self.reply(reply),
                action => self.bottom(action, current),
            }
            self.turn_round(mark);
        }
        self.state.running = false;
    }

    #[inline]
    fn turn_round(&mut self, mark: usize) {
        // Mostly there is one or none.
        if self.state.work.len() > mark + 1 {
            self.state.work[mark..].reverse();
        }
    }

    /// Whether an action must not happen before everything stored so far for its connection is durable.
    fn gated(&self, action: &Action) -> bool {
        let waits = match action {
            Action::Relay(relay) => relay.gated,
            Action::SessionOpened { .. } => true,
            _ => false,
        };
        waits && self.stored_through() > self.state.committed
    }

    fn stored_through(&self) -> LogSeq {
        let connection = self.state.from.and_then(|from| self.state.connections.get(from));
        connection.map_or(LogSeq(0), |connection| connection.stored)
    }

    /// Keeps an action until its gate opens.
    #[inline(never)]
    fn hold(&mut self, mut action: Action, current: Option<&Publication<'_>>) {
        let through = self.stored_through();
        let order = self.state.next_order();
        if let Action::Relay(relay) = &mut action {
            relay.gated = false;
            if let Some(ack) = relay.ack {
                self.state.keep_place(ack.to, order);
            }
            if matches!(relay.what, What::Current) {
                match self.keep(current) {
                    Some(kept) => relay.what = kept,
                    None => return,
                }
            }
        }
        self.state.gate(through, order, action);
    }

    /// Whether somebody handled it.
    #[inline]
    fn walk_action(&mut self, action: &mut Action, current: Option<&Publication<'_>>) -> bool {
        let hook = Hooks::of_action(action);
        let mut retained = is_retained(action, current);
        let mut place = self.stack.listeners(if retained { Hooks::RETAINED_INDEX } else { hook });
        while let Some(part) = self.stack.next(&mut place) {
            let mut cx = Cx { state: &mut self.state, current, part };
            match self.stack.part(part).action(&mut cx, action) {
                // It may have put another message in the place of this one.
                Flow::Next if !retained && is_retained(action, current) => {
                    retained = true;
                    place = self.stack.listeners_behind(Hooks::RETAINED_INDEX, part);
                }
                Flow::Next => {}
                Flow::Done | Flow::Suspend => return true,
                Flow::Refuse(reason) => {
                    self.refuse_action(action, reason);
                    return true;
                }
                Flow::Violation(violation) => {
                    if let Some(id) = self.state.from {
                        self.violate(id, violation);
                    }
                    return true;
                }
            }
        }
        false
    }

    /// A refused action is answered only where somebody waits: the session a CONNECT asked for.
    #[cold]
    fn refuse_action(&mut self, action: &Action, reason: ReasonCode) {
        self.state.stats.refused += 1;
        if let Action::OpenSession(open) = action {
            self.refuse_connect(open.connection, reason);
        }
    }

    /// What no middleware handled: the machine performs it, or it leaves.
    #[inline(never)]
    fn bottom(&mut self, action: Action, current: Option<&Publication<'_>>) {
        match action {
            Action::Reply(reply) => self.reply(reply),
            Action::CloseClient { id, reason } => self.close(id, Some(reason), false),
            Action::SessionEnded { session } => {
                if let Some(ended) = self.state.sessions.remove(session) {
                    self.state.stats.sessions_ended += 1;
                    if let Some(connection) =
                        ended.connection.and_then(|id| self.state.connections.get_mut(id))
                    {
                        connection.session = None;
                    }
                }
            }
            Action::WantRoom { session } => self.want_room(session),
            Action::HoldBack(forward) => self.hold_back(forward),
            // Announcements: everybody has heard them.
            Action::SessionAttached { .. }
            | Action::SessionOpened { .. }
            | Action::CleanDisconnect { .. }
            | Action::UncleanDisconnect { .. }
            | Action::TopicSubscribed(_)
            | Action::TopicUnsubscribed(_)
            | Action::Room { .. }
            | Action::RetainedSent { .. }
            | Action::Dropped { .. }
            | Action::Fetched(_)
            | Action::Deliver { .. }
            | Action::Restore { .. }
            | Action::SessionRestored { .. } => {}
            Action::Relay(relay @ Relay { what: What::Current, .. }) => {
                if let Some(what) = self.keep(current) {
                    self.state.out.push_back(Action::Relay(Relay { what, ..relay }));
                }
            }
            Action::Forward(Forward { what: What::Current, receivers, held }) => {
                if let Some(what) = self.keep(current) {
                    self.state.out.push_back(Action::Forward(Forward { what, receivers, held }));
                }
            }
            other => self.state.out.push_back(other),
        }
    }

    /// Everything, not only the record of the message: so whatever is held back leaves in its order.
    fn hold_back(&mut self, forward: Forward) {
        let action = Action::Forward(Forward { held: true, ..forward });
        if self.state.assigned <= self.state.committed {
            return self.state.work.push(action);
        }
        let (through, order) = (self.state.assigned, self.state.next_order());
        self.state.gate(through, order, action);
    }

    fn want_room(&mut self, session: SessionId) {
        let Some(state) = self.state.sessions.get(session) else { return };
        if state.program {
            // What it gets leaves as actions: there is no outbox to wait for.
            self.state.deferred.push_back(Action::Room { session });
            return;
        }
        let id = state.connection;
        let Some(connection) = id.and_then(|id| self.state.connections.get_mut(id)) else { return };
        if connection.outbox.is_empty() {
            self.state.deferred.push_back(Action::Room { session });
        } else {
            connection.wants_room = true;
        }
    }

    fn keep(&mut self, current: Option<&Publication<'_>>) -> Option<What> {
        Cx { state: &mut self.state, current, part: 0 }.keep(&What::Current).map(What::Kept)
    }

    /// Writes an acknowledgement, or holds it until everything stored for its connection is durable and those before it
    /// are written: they leave in the order of what they answer.
    pub(super) fn reply(&mut self, reply: Reply) {
        let kept = self.state.opening.take();
        let Some(connection) = self.state.connections.get_mut(reply.to) else { return };
        let through = connection.stored;
        let gated = through > self.state.committed;
        if !gated && connection.waiting.is_none() {
            return self.write_reply(&reply);
        }
        let counts = u16::from(reply.packet == PacketType::Puback);
        connection.gated = connection.gated.saturating_add(counts);
        let order = kept.unwrap_or_else(|| {
            let order = self.state.next_order();
            self.state.keep_place(reply.to, order);
            order
        });
        if gated {
            self.state.from = Some(reply.to);
            self.state.gate(through, order, Action::Reply(reply));
        } else {
            self.release(reply.to, order, Some(reply));
        }
    }

    /// Nothing holds an acknowledgement up any more but those before it; `None`: there is none after all.
    fn release(&mut self, to: ConnectionId, order: u64, reply: Option<Reply>) {
        let Some(connection) = self.state.connections.get_mut(to) else { return };
        let Some(waiting) = &mut connection.waiting else { return };
        if let Ok(at) = waiting.binary_search_by_key(&order, |(order, _)| *order) {
            match reply {
                Some(reply) => waiting[at].1 = Some(reply),
                None => drop(waiting.remove(at)),
            }
        }
        while let Some(connection) = self.state.connections.get_mut(to)
            && let Some(waiting) = &mut connection.waiting
        {
            match waiting.front_mut() {
                Some((_, ready)) => {
                    let Some(reply) = ready.take() else { return };
                    waiting.pop_front();
                    let counted = u16::from(reply.packet == PacketType::Puback);
                    connection.gated = connection.gated.saturating_sub(counted);
                    self.write_reply(&reply);
                }
                None => connection.waiting = None,
            }
        }
    }

    fn write_reply(&mut self, reply: &Reply) {
        let Some(connection) = self.state.connections.get(reply.to) else { return };
        let (to, packet_id) = (reply.to, reply.packet_id);
        if let Some(bytes) = Ack::bytes(reply.packet, packet_id, reply.reason, connection.version)
            && connection.packet_size_max as usize >= bytes.len()
        {
            return self.state.write(to, |out| out.extend_from_slice(&bytes));
        }
        let reason = reason_for(reply.packet, reply.reason);
        let ack = Ack { packet_id, reason, properties: Properties::EMPTY };
        let fits = match reply.packet {
            PacketType::Puback => self.state.send(to, &Packet::Puback(ack)),
            PacketType::Pubrec => self.state.send(to, &Packet::Pubrec(ack)),
            PacketType::Pubrel => self.state.send(to, &Packet::Pubrel(ack)),
            PacketType::Pubcomp => self.state.send(to, &Packet::Pubcomp(ack)),
            kind => {
                // 3.x knows one failure code [MQTT-3.9.3-2 of 3.1.1].
                let old = connection.version != Version::V5;
                let code = |code: &ReasonCode| match old && code.is_error() {
                    true => 0x80,
                    false => reason_for(kind, *code) as u8,
                };
                let reasons: Vec<u8> = reply.codes.iter().map(code).collect();
                let (reasons, properties) = (&reasons[..], Properties::EMPTY);
                if kind == PacketType::Suback {
                    self.state.send(to, &Packet::Suback(Suback { packet_id, properties, reasons }))
                } else {
                    self.state.send(to, &Packet::Unsuback(Unsuback { packet_id, properties, reasons }))
                }
            }
        };
        if !fits {
            // It accepts no packet as large as the answer to what it sent.
            self.close(to, Some(ReasonCode::PacketTooLarge), false);
        }
    }

    /// A gate opened: performs what waited behind it.
    pub(super) fn opened(&mut self, order: u64, from: Option<ConnectionId>, action: Action) {
        self.state.from = from;
        if let Action::SessionOpened { session, connection, .. } = action
            && self.state.connections.get(connection).is_none_or(|state| state.session != Some(session))
        {
            // It left while it waited.
            return;
        }
        if let Action::Reply(reply) = action {
            self.release(reply.to, order, Some(reply));
        } else {
            self.state.opening = matches!(action, Action::Relay(Relay { ack: Some(_), .. })).then_some(order);
            self.state.work.push(action);
            self.run(None);
            if let (Some(order), Some(from)) = (self.state.opening.take(), from) {
                self.release(from, order, None);
            }
        }
        // What is released may be more than its client accepts, which ends the connection.
        self.run(None);
    }

    /// A peer broke a rule: it is told, counted and disconnected [MQTT-4.13.1-1].
    #[cold]
    pub(super) fn violate(&mut self, id: ConnectionId, violation: Violation) {
        let Some(connection) = self.state.connections.get(id) else { return };
        let (phase, peer) = (connection.phase, connection.peer.clone());
        if matches!(phase, Phase::Closing | Phase::Closed) {
            return;
        }
        self.state.stats.violations += 1;
        let telling = self.state.config.reason_strings;
        if let (true, Some(connection)) = (telling, self.state.connections.get_mut(id)) {
            let farewell = connection.farewell.get_or_insert_default();
            farewell.reason_string.get_or_insert_with(|| violation.clause.0.into());
        }
        let notice = super::Notice::Violated { connection: id, peer, violation };
        self.state.work.push(Action::Notice(Box::new(notice)));
        match phase {
            Phase::Connecting => self.refuse_connect(id, violation.reason),
            Phase::Connected => self.close(id, Some(violation.reason), false),
            // Who has not sent a CONNECT yet is told nothing.
            _ => self.close(id, None, false),
        }
        self.run(None);
    }

    /// Reads all connections again that were held up, if nothing holds them up any more.
    pub(super) fn unstall_all(&mut self) {
        for id in core::mem::take(&mut self.state.stalled) {
            self.unstall(id);
        }
    }
}

/// Whether an action is the relay of a message that was published with RETAIN.
#[inline]
fn is_retained(action: &Action, current: Option<&Publication<'_>>) -> bool {
    match action {
        Action::Relay(Relay { what: What::Current, .. }) => {
            current.is_some_and(|publication| publication.retain)
        }
        Action::Relay(Relay { what: What::Kept(message), .. }) => message.retain(),
        _ => false,
    }
}

/// The clause of a packet that came where no middleware handles its kind.
pub(super) const UNHANDLED: Violation =
    Violation { clause: Clause("MQTT-4.13.1-1"), reason: ReasonCode::ImplementationSpecificError };
