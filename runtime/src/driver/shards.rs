//! A driver that is one of several: what it hears, what it tells, and the connections that come and go.

use super::{Driver, Effect};
use crate::siblings::{Arrival, Siblings};
use culex_core::broker::{Moved, ShardMessage};
use culex_core::connection::{Connection, Phase};
use culex_core::{ConnectionId, Input, Now, Refused, ShardId};

impl Driver {
    pub(crate) fn siblings(&mut self, siblings: Option<Siblings>) {
        self.siblings = siblings.map(Box::new);
    }

    /// The socket of a connection that [leaves](Effect::HandOver), or what its shard needs to make it again. `S` is the same
    /// for all shards.
    pub fn hand_over<S: Send + 'static>(&mut self, id: ConnectionId, socket: S) {
        if let Some(siblings) = &mut self.siblings {
            siblings.hand_over(id, Box::new(socket));
        }
    }

    /// A connection that another shard handed over, with its socket: take it [up](Self::arrive).
    #[must_use]
    pub fn take_moved<S: 'static>(&mut self) -> Option<(S, Arrival)> {
        let siblings = self.siblings.as_mut()?;
        loop {
            let (socket, arrival) = siblings.take_moved()?;
            match socket.downcast() {
                Ok(socket) => return Some((*socket, arrival)),
                // All shards of a broker are of one runtime.
                Err(_) => siblings.release(arrival.moved.peer.listener),
            }
        }
    }

    /// A connection that another shard handed over is here: when it has its place, [`unpack`](Self::unpack) what it has
    /// with it.
    ///
    /// # Errors
    /// The machine does not want it: close it without a word.
    pub fn arrive(&mut self, arrival: &Arrival) -> Result<ConnectionId, Refused> {
        self.take_up(arrival.moved.peer.clone())
    }

    /// What came in over there is received here.
    pub fn unpack(&mut self, id: ConnectionId, arrival: Arrival) {
        let Arrival { moved, line } = arrival;
        let now = self.now();
        let violation = line.and_then(|line| self.links.arrive(id, line));
        let received = moved.received;
        self.note(Some(now), || Input::Receive { id, bytes: received.clone().into() });
        self.broker.receive(now, id, &received);
        if let Some(violation) = violation {
            self.note(Some(now), || Input::Violated { id, violation });
            self.broker.violated(now, id, violation);
        }
        if self.links.has_left(id) && self.broker.read_credit(id) > 0 {
            self.links.leave(id);
        }
    }

    /// Whether the machine gave a connection away; its socket is still here.
    #[inline]
    pub(super) fn is_leaving(&self, id: ConnectionId) -> bool {
        self.siblings.is_some() && self.broker.connection(id).is_none()
    }

    /// Whether the first packet of a connection is still to come: only then it may go to another shard.
    #[must_use]
    pub fn may_leave(&self, id: ConnectionId) -> bool {
        let opened = |connection: &Connection| connection.phase == Phase::Opened;
        self.siblings.is_some() && self.broker.connection(id).is_none_or(opened)
    }

    /// The machine gave a connection away.
    pub(super) fn leaves(&mut self, id: ConnectionId, to: ShardId, moved: Box<Moved>) -> Effect {
        let line = self.links.leaves(id);
        if let Some(siblings) = &mut self.siblings {
            siblings.leaves(id, to, Arrival { moved, line });
        }
        Effect::HandOver { id }
    }

    /// A connection is gone: it is counted no longer. Says whether the machine had given it away.
    pub(super) fn released(&mut self, id: ConnectionId) -> bool {
        let Some(siblings) = &mut self.siblings else { return false };
        match self.broker.connection(id) {
            Some(connection) => {
                siblings.release(connection.peer.listener);
                false
            }
            None => {
                // If the machine did not say so yet, it is asked for its socket later, and there is none.
                siblings.forget(id);
                true
            }
        }
    }

    /// Hears what other shards said, but not much more than is read from a connection in a turn: the rest in the next one.
    pub(super) fn hear(&mut self, now: Now) {
        let Some(siblings) = &mut self.siblings else { return };
        // Before it is looked at: what comes behind that is news again.
        self.inbox.0.take_mail_news();
        let mut heard = 0;
        while heard < HEARD_BYTES
            && let Some((from, bytes)) = siblings.hear()
        {
            heard += bytes.len();
            if let Some(tape) = &mut self.tape {
                let input = Input::FromShard { from, message: ShardMessage(bytes.clone().into()) };
                tape.input(&self.broker, Some(now), &input);
            }
            self.broker.from_shard(now, from, &bytes);
        }
        siblings.look_for_room();
        if siblings.has_mail() {
            self.inbox.0.mail_news();
        }
    }

    /// Tells the others what the machine has for them; `false`: nothing.
    pub(super) fn tell(&mut self) -> bool {
        let Some(siblings) = &mut self.siblings else { return false };
        let mut told = false;
        for to in siblings.open() {
            let Some(bytes) = self.broker.take_for_shard(to) else { continue };
            if let Some(tape) = &mut self.tape {
                tape.told(to, &bytes);
            }
            siblings.tell(to, bytes);
            told = true;
        }
        told
    }

    /// Whether all shards were shut down and have nothing to do any more.
    pub(super) fn all_have_ended(&mut self) -> bool {
        self.siblings.as_mut().is_none_or(|siblings| siblings.has_ended())
    }
}

/// What is heard of other shards in a turn; one piece may go beyond it.
const HEARD_BYTES: usize = 256 * 1024;
