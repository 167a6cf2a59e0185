//! The log as the parts of a chain see it: they say what happened to what they own, in the moment it happens.

use super::{Broker, Cx, Effect, Identifiers, Recipient, Record, Relayed, Settled};
use crate::broker::{Action, What};
use crate::id::{ConnectionId, LogSeq, SessionId};
use crate::message::Message;
use crate::packet::{PacketId, QoS};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// A delivery to a session, for its record.
#[derive(Debug)]
pub(crate) struct ToSession<'a> {
    pub(crate) session: SessionId,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) identifiers: &'a Identifiers,
    /// In flight with this; without it, it is queued.
    pub(crate) packet_id: Option<PacketId>,
}

impl Cx<'_> {
    /// Whether the chain keeps a log: whether [`journal`](Self::journal) makes records.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.state.durable && !self.state.restoring
    }

    /// Stores what happened to a session, if the chain keeps a log and the session is [stored](crate::session::Session::stored).
    /// `record` is given its Client Identifier. Like [`store`](Self::store) otherwise.
    pub fn journal(&mut self, session: SessionId, record: impl FnOnce(Box<str>) -> Record) -> Option<LogSeq> {
        if !self.durable() || !self.session(session)?.stored {
            return None;
        }
        self.journal_client(session, record)
    }

    /// The same for what is stored of any session.
    pub(crate) fn journal_client(
        &mut self,
        session: SessionId,
        record: impl FnOnce(Box<str>) -> Record,
    ) -> Option<LogSeq> {
        if !self.durable() {
            return None;
        }
        let record = record(self.session(session)?.client_id.clone());
        let over = match &record {
            Record::SessionEnded { client_id } | Record::WillGone { client_id } => Some(client_id.clone()),
            _ => None,
        };
        let seq = self.store(record);
        if let Some(client_id) = over {
            self.state.endings.insert(client_id, seq);
        }
        Some(seq)
    }

    /// The record of the relay of a message, if the chain keeps a log: one for all that comes of it, so that no crash
    /// can come between two receivers. Found by the message itself, not by what it says; it lies with the actions that
    /// have not left yet, and is complete when the input is worked off.
    fn relayed(&mut self, message: &Message) -> Option<(LogSeq, &mut Relayed)> {
        if !self.durable() {
            return None;
        }
        let is_it = |action: Option<&Action>| match action {
            Some(Action::Store { record, .. }) => {
                matches!(&**record, Record::Relayed(relayed) if relayed.message.is(message))
            }
            _ => false,
        };
        // Only the latest: records have to be in the order in which things happen to a session.
        let open = self.state.relay_record.filter(|&at| is_it(self.state.out.get(at)));
        let at = open.unwrap_or_else(|| {
            let (settled, retained) = (Settled::Nothing, Effect::None);
            let message = message.clone();
            self.store(Record::Relayed(Relayed { message, settled, retained, recipients: Vec::new() }));
            let at = self.state.out.len() - 1;
            self.state.relay_record = Some(at);
            at
        });
        match self.state.out.get_mut(at) {
            Some(Action::Store { seq, record }) => match &mut **record {
                Record::Relayed(relayed) => Some((*seq, relayed)),
                _ => None,
            },
            _ => None,
        }
    }

    /// A stored session got a message, in flight or in its queue: it is in the record of its relay.
    pub(crate) fn journal_delivery(&mut self, message: &Message, to: &ToSession<'_>) -> Option<LogSeq> {
        if to.qos == QoS::AtMostOnce || !self.durable() {
            return None;
        }
        let client_id = self.session(to.session).filter(|session| session.stored)?.client_id.clone();
        let (seq, relayed) = self.relayed(message)?;
        let (qos, retain, identifiers) = (to.qos, to.retain, to.identifiers.clone());
        let packet_id = to.packet_id;
        relayed.recipients.push(Recipient { client_id, qos, retain, identifiers, packet_id });
        Some(seq)
    }

    /// The message became, or did not become, the retained one of its topic.
    pub(crate) fn journal_retained(&mut self, message: &Message, effect: Effect) {
        if let Some((_, relayed)) = self.relayed(message) {
            relayed.retained = effect;
        }
    }

    /// The relay of the message settles something.
    pub(crate) fn journal_settled(&mut self, message: &Message, settled: Settled) {
        let over = match &settled {
            Settled::Will { client_id } => Some(client_id.clone()),
            _ => None,
        };
        let Some((seq, relayed)) = self.relayed(message) else { return };
        relayed.settled = settled;
        if let Some(client_id) = over {
            self.state.endings.insert(client_id, seq);
        }
    }

    /// Makes CONNACK wait until an earlier session or will of the client that is over is so after a crash, too: if its
    /// new session is not stored nothing else says so.
    pub(crate) fn wait_for_endings(&mut self, id: ConnectionId, client_id: &str) {
        if let (Some(over), Some(connection)) =
            (self.state.endings.get(client_id), self.state.connections.get_mut(id))
        {
            connection.stored = connection.stored.max(*over);
        }
    }

    /// The QoS 2 messages of a session that were accepted and wait to be relayed, in their order.
    pub(crate) fn gated_relays(&self, session: SessionId) -> Vec<(PacketId, Message)> {
        let relays = self.state.gates.values().filter_map(|(_, action)| match action {
            Action::Relay(relay) if relay.publisher == Some(session) => Some((relay.inbound?, &relay.what)),
            _ => None,
        });
        let kept = |(packet_id, what): (PacketId, &What)| match what {
            What::Kept(message) => Some((packet_id, message.clone())),
            What::Current => None,
        };
        relays.filter_map(kept).collect()
    }

    /// Whether everything up to this position is durable.
    #[must_use]
    pub fn is_committed(&self, seq: LogSeq) -> bool {
        seq <= self.state.committed
    }

    /// Performs an action once everything up to this position is durable. If that can never be, the connection of the
    /// session is closed instead.
    pub(crate) fn when_committed(&mut self, seq: LogSeq, session: SessionId, action: Action) {
        let connection = self.session(session).and_then(|session| session.connection);
        let from = core::mem::replace(&mut self.state.from, connection);
        let order = self.state.next_order();
        self.state.gate(seq, order, action);
        self.state.from = from;
    }
}

impl Broker {
    /// The position of the last record that was stored, durable or not.
    #[must_use]
    pub fn log_position(&self) -> LogSeq {
        self.state.assigned
    }

    /// The durable state of now, as few records: what a log can be replaced by, up to and including
    /// [`log_position`](Self::log_position), once they are durable themselves. Restoring them by
    /// [`restore_through`](Self::restore_through) gives the same state as the log they replace. The order is fixed:
    /// equal states give equal records. Messages of long queues that are not in memory are not among them
    /// ([`Action::Fetch`]).
    pub fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        let mut sessions: Vec<(Box<str>, SessionId)> = Vec::new();
        for (id, session) in self.state.sessions.iter().filter(|(_, session)| !session.program) {
            sessions.push((session.client_id.clone(), id));
        }
        sessions.sort_unstable();
        for (client_id, id) in sessions {
            if let Some(session) = self.state.sessions.get(id).filter(|session| session.stored) {
                let (expiry, left) = (session.expiry, session.left);
                records.push(Record::Session { client_id, expiry, left });
            }
            self.part_records(Some(id), &mut records);
        }
        self.part_records(None, &mut records);
        records
    }

    fn part_records(&mut self, session: Option<SessionId>, records: &mut Vec<Record>) {
        for part in 0..self.stack.len() as u8 {
            let cx = Cx { state: &mut self.state, current: None, part };
            self.stack.part(part).records(&cx, session, &mut |record| records.push(record));
        }
    }
}
