//! How connections end: by whom, in which order, and what is still written.

use super::{Action, Broker, Close, Cx, Disconnect, Owner};
use crate::broker::state::MACHINE;
use crate::connection::Phase;
use crate::id::ConnectionId;
use crate::middleware::Hooks;
use crate::packet::{
    Disconnect as DisconnectPacket, Packet, PacketType, Properties, ReasonCode, Version, reason_for,
};
use crate::time::Now;
use alloc::vec::Vec;

impl Broker {
    /// A connection is gone: its socket is closed, for whatever reason. Exactly once per accepted connection; its id
    /// is stale from now on.
    pub fn disconnected(&mut self, now: Now, id: ConnectionId, cause: Disconnect) {
        self.begin(now, Some(id));
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        if connection.departed.is_some() {
            return;
        }
        connection.departed = Some(cause);
        self.state.departed += 1;
        // Nobody is left to authenticate again.
        if let Some(parked) = &mut connection.parked {
            let gone: Vec<_> =
                parked.iter().filter(|parked| parked.is_exchange()).filter_map(|p| p.ticket).collect();
            parked.retain(|parked| !parked.is_exchange());
            if parked.is_empty() {
                connection.parked = None;
            }
            gone.into_iter().for_each(|ticket| self.state.withdraw(ticket));
        }
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        // What it said before it left still counts, DISCONNECT included: its questions have deadlines.
        let waits = connection.phase == Phase::Connected && connection.parked.is_some();
        if !waits {
            self.depart(id);
        }
    }

    /// Forgets a connection that is gone.
    pub(super) fn depart(&mut self, id: ConnectionId) {
        self.close(id, None, false);
        self.run(None);
        self.forget(id);
    }

    fn forget(&mut self, id: ConnectionId) {
        if let Some(timer) = self.state.linger.remove(id) {
            self.state.timers.cancel(timer);
        }
        if let Some(mut connection) = self.state.remove_connection(id) {
            connection.outbox.clear(&mut self.state.pool);
            self.state.departed -= 1;
        }
    }

    /// Ends a connection, once: tells the client (`reason`), detaches its session, flushes, asks the adapter to close.
    pub(super) fn close(&mut self, id: ConnectionId, reason: Option<ReasonCode>, clean: bool) {
        let Some(connection) = self.state.connections.get(id) else { return };
        let (phase, version) = (connection.phase, connection.version);
        if matches!(phase, Phase::Closing | Phase::Closed) {
            return;
        }
        // A server sends DISCONNECT only after a CONNACK with success [MQTT-3.14.0-1]; 3.x has none to send.
        if let (Some(reason), Phase::Connected, Version::V5) = (reason, phase, version) {
            let reason = reason_for(PacketType::Disconnect, reason);
            let farewell = self.state.farewell(id);
            let packet = |properties| Packet::Disconnect(DisconnectPacket { reason, properties });
            // [MQTT-3.14.2-3]: what is said besides gives way first.
            if !self.state.send(id, &packet(farewell.as_properties())) {
                self.state.send(id, &packet(Properties::EMPTY));
            }
        } else if let (Some(reason), Phase::Connecting) = (reason, phase) {
            return self.refuse_connect(id, reason);
        }
        self.state.drop_parked(id);
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        connection.phase = Phase::Closing;
        connection.inbox = Vec::new();
        // From here on it is read to see its end.
        let stalled = core::mem::take(&mut connection.stalled);
        self.state.stalled.remove(&id);
        let clean_reason = connection.clean_reason;
        if let Some(session) = connection.session.take()
            && let Some(attached) = self.state.sessions.get_mut(session)
            && attached.connection == Some(id)
        {
            attached.connection = None;
            self.state.work.push(if clean {
                Action::CleanDisconnect { session, reason: clean_reason }
            } else {
                Action::UncleanDisconnect { session }
            });
        }
        self.closed_hooks(id);
        if self.state.connections.get(id).is_some_and(|connection| connection.departed.is_some()) {
            // Its socket is closed already: nobody will report it a second time.
            return self.forget(id);
        }
        let ms = self.state.config.linger_ms;
        let timer = self.state.arm_ms(ms, MACHINE, Owner::Connection(id));
        self.state.linger.insert(id, timer);
        if stalled {
            self.state.out.push_back(Action::Credit { id });
        }
        self.finish_if_flushed(id);
    }

    pub(super) fn closed_hooks(&mut self, id: ConnectionId) {
        let mut place = self.stack.listeners(Hooks::CLOSED_INDEX);
        while let Some(part) = self.stack.next(&mut place) {
            self.stack.part(part).closed(&mut Cx { state: &mut self.state, current: None, part }, id);
        }
    }

    /// Once all is written, the adapter closes its side and waits for the peer's.
    pub(super) fn finish_if_flushed(&mut self, id: ConnectionId) {
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        if connection.phase != Phase::Closing
            || !connection.outbox.is_empty()
            || connection.departed.is_some()
        {
            return;
        }
        connection.phase = Phase::Closed;
        if let Some(timer) = self.state.linger.remove(id) {
            self.state.timers.cancel(timer);
        }
        let ms = self.state.config.linger_ms;
        let timer = self.state.arm_ms(ms, MACHINE, Owner::Connection(id));
        self.state.linger.insert(id, timer);
        self.state.out.push_back(Action::Close { id, how: Close::Finish });
    }

    /// A closing connection took too long, to take its last packets or to close its side.
    pub(super) fn linger_over(&mut self, id: ConnectionId) {
        self.state.linger.remove(id);
        if let Some(connection) = self.state.connections.get_mut(id) {
            connection.phase = Phase::Closed;
            connection.outbox.clear(&mut self.state.pool);
            self.state.out.push_back(Action::Close { id, how: Close::Drop });
        }
    }
}
