//! Output: the outboxes of dirty connections, one at a time.

use super::{Action, Broker};
use crate::connection::Phase;
use crate::id::ConnectionId;

/// The outbox of one connection, offered for one vectored write. Say what became of it by
/// [`written`](Self::written); otherwise it is offered again.
#[derive(Debug)]
#[must_use]
pub struct Transmit<'a> {
    broker: &'a mut Broker,
    id: ConnectionId,
}

impl Transmit<'_> {
    /// Whose output it is.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The bytes, in order.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.broker
            .state
            .connections
            .get(self.id)
            .into_iter()
            .flat_map(|connection| connection.outbox.chunks())
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.broker.state.connections.get(self.id).map_or(0, |connection| connection.outbox.len())
    }

    /// Whether there are none: never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `count` bytes were written. If that is not all of them the socket is full: the connection is not offered again
    /// before [`Broker::writable`].
    pub fn written(self, count: usize) {
        self.broker.written(self.id, count);
    }
}

impl Broker {
    /// The next connection with output that its socket can take.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        while let Some(&id) = self.state.dirty.front() {
            match self.state.connections.get_mut(id) {
                Some(connection)
                    if connection.departed.is_none()
                        && !connection.blocked
                        && !connection.outbox.is_empty() =>
                {
                    return Some(Transmit { broker: self, id });
                }
                Some(connection) => connection.dirty = false,
                None => {}
            }
            self.state.dirty.pop_front();
        }
        None
    }

    /// A full socket has room again.
    pub fn writable(&mut self, id: ConnectionId) {
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        connection.blocked = false;
        if !connection.dirty && !connection.outbox.is_empty() {
            connection.dirty = true;
            self.state.dirty.push_back(id);
        }
    }

    /// See [`Transmit::written`].
    pub(super) fn written(&mut self, id: ConnectionId, count: usize) {
        if self.state.dirty.front() == Some(&id) {
            self.state.dirty.pop_front();
        }
        let low = self.state.config.outbox_bytes_max as usize / 2;
        let Some(connection) = self.state.connections.get_mut(id) else { return };
        let count = count.min(connection.outbox.len());
        connection.dirty = false;
        connection.outbox.written(&mut self.state.pool, count);
        connection.blocked = !connection.outbox.is_empty();
        self.state.stats.bytes_sent += count as u64;
        let wants_room = connection.wants_room && connection.outbox.len() <= low;
        let closing = connection.phase == Phase::Closing;
        let stalled = connection.stalled;
        if let (true, Some(session)) = (wants_room, connection.session) {
            connection.wants_room = false;
            self.state.from = Some(id);
            self.state.work.push(Action::Room { session });
            self.run(None);
        }
        if closing {
            self.finish_if_flushed(id);
        }
        if stalled {
            self.unstall(id);
        }
    }
}
