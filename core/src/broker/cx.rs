//! What a middleware may do while it handles something.

use crate::broker::state::{Question, State};
use crate::broker::timers::{Owner, TimerId};
use crate::broker::{Action, Notice, Query, Receiver, Record, Stats, What};
use crate::config::Config;
use crate::connection::Connection;
use crate::hash::{Random, Seed};
use crate::id::{ConnectionId, LogSeq, SessionId, Ticket};
use crate::message::{Message, Publication};
use crate::middleware::Flow;
use crate::packet::{Packet, Publish, QoS, ReasonCode};
use crate::session::Session;
use crate::time::{Mono, Now};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// The machine as a middleware sees it. There is no way to call another middleware: emit an action.
pub struct Cx<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) current: Option<&'a Publication<'a>>,
    pub(crate) part: u8,
}

impl fmt::Debug for Cx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx").field("now", &self.state.now).field("part", &self.part).finish_non_exhaustive()
    }
}

impl<'a> Cx<'a> {
    /// The time of this input.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Now {
        self.state.now
    }

    /// The settings.
    #[inline]
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.state.config
    }

    /// The machine's seed, for hash tables of a middleware's own.
    #[must_use]
    pub fn seed(&self) -> Seed {
        self.state.seed
    }

    /// The machine's random numbers.
    pub fn random(&mut self) -> &mut Random {
        &mut self.state.random
    }

    /// The counters.
    #[inline]
    pub fn stats(&mut self) -> &mut Stats {
        &mut self.state.stats
    }

    /// A connection that is not gone.
    #[inline]
    #[must_use]
    pub fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.state.connections.get(id)
    }

    /// A connection that is not gone, to set facts.
    #[inline]
    pub fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.state.connections.get_mut(id)
    }

    /// A session.
    #[inline]
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.state.sessions.get(id)
    }

    /// A session, to set facts.
    #[inline]
    pub fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.state.sessions.get_mut(id)
    }

    /// The session a connection is attached to.
    #[inline]
    #[must_use]
    pub fn session_of(&self, id: ConnectionId) -> Option<SessionId> {
        self.state.connections.get(id)?.session
    }

    /// Puts an action on the work queue: it is performed, with all that follows from it, before the next action that
    /// was emitted after it.
    #[inline]
    pub fn emit(&mut self, action: Action) {
        self.state.work.push(action);
    }

    /// Puts an action behind everything else this input leads to.
    pub fn emit_last(&mut self, action: Action) {
        self.state.deferred.push_back(action);
    }

    /// Ends a connection; the client is told why if its version can.
    pub fn close_client(&mut self, id: ConnectionId, reason: ReasonCode) {
        self.emit(Action::CloseClient { id, reason });
    }

    /// Asks the outside. Return what this returns: the packet waits, and [`Middleware::answer`] decides about it. If
    /// no answer comes in time it is refused.
    ///
    /// [`Middleware::answer`]: crate::middleware::Middleware::answer
    pub fn ask(&mut self, from: ConnectionId, query: Query) -> Flow {
        let ticket = self.ticket(from, true);
        self.state.out.push_back(Action::Ask { ticket, query: Box::new(query) });
        Flow::Suspend
    }

    /// Makes the packet wait, as [`ask`](Self::ask) does, for other shards instead of the outside.
    pub(crate) fn wait_for_shards(&mut self, from: ConnectionId) -> Ticket {
        self.ticket(from, false)
    }

    fn ticket(&mut self, connection: ConnectionId, outside: bool) -> Ticket {
        let part = self.part;
        let ms = self.state.config.ask_timeout_ms;
        let timers = &mut self.state.timers;
        let at = self.state.now.mono.plus_ms(u64::from(ms));
        let ticket = self.state.tickets.insert_with(|ticket| Question {
            connection,
            part,
            timer: timers.arm(at, crate::broker::state::MACHINE, Owner::Ticket(ticket)),
            outside,
        });
        if let Some(earlier) = self.state.asked.replace(ticket) {
            self.state.withdraw(earlier);
        }
        ticket
    }

    /// Arms a timer: [`Middleware::timer`] is called with `owner`, once.
    ///
    /// [`Middleware::timer`]: crate::middleware::Middleware::timer
    pub fn arm(&mut self, at: Mono, owner: Owner) -> TimerId {
        self.state.timers.arm(at, self.part, owner)
    }

    /// Disarms a timer that has not fired.
    pub fn cancel(&mut self, timer: TimerId) {
        self.state.timers.cancel(timer);
    }

    /// Sends a packet at once. Acknowledgements that may have to wait are [`Action::Reply`]. False: it is larger than
    /// the client accepts, and was not sent.
    pub fn send(&mut self, id: ConnectionId, packet: &Packet<'_>) -> bool {
        self.state.send(id, packet)
    }

    /// Names the server to which a connection that is about to be refused or closed should go instead. Refuse or close
    /// it with [`ReasonCode::UseAnotherServer`] or [`ReasonCode::ServerMoved`].
    pub fn redirect(&mut self, id: ConnectionId, server_reference: &str) {
        if let Some(connection) = self.state.connections.get_mut(id) {
            let farewell = connection.farewell.get_or_insert_default();
            farewell.server_reference = Some(server_reference.into());
        }
    }

    /// The message of a relay or forward, borrowed; `None` only if it was kept for nobody.
    #[must_use]
    pub fn publication<'b>(&self, what: &'b What) -> Option<Publication<'b>>
    where
        'a: 'b,
    {
        match what {
            What::Current => self.current.copied(),
            What::Kept(message) => Some(message.publication()),
        }
    }

    /// Whether the message of a relay or forward was published with RETAIN.
    #[inline]
    pub(crate) fn is_retained(&self, what: &What) -> bool {
        match what {
            What::Current => self.current.is_some_and(|publication| publication.retain),
            What::Kept(message) => message.retain(),
        }
    }

    /// The message of a relay or forward, kept: made at most once per input packet.
    pub fn keep(&mut self, what: &What) -> Option<Message> {
        match (what, &self.state.kept) {
            (What::Kept(message), _) | (What::Current, Some(message)) => Some(message.clone()),
            (What::Current, None) => {
                let message = Message::keep(self.current?);
                self.state.kept = Some(message.clone());
                Some(message)
            }
        }
    }

    /// Stores a record: it leaves the machine, and acknowledgements of the connection whose packet is being processed
    /// wait until it is durable. While records of an earlier machine are restored nothing is stored again.
    pub fn store(&mut self, record: Record) -> LogSeq {
        if self.state.restoring {
            return self.state.assigned;
        }
        self.state.assigned.0 += 1;
        let seq = self.state.assigned;
        if let Some(connection) = self.state.from.and_then(|from| self.state.connections.get_mut(from)) {
            connection.stored = seq;
        }
        self.state.out.push_back(Action::Store { seq, record: Box::new(record) });
        seq
    }

    /// Says of the message that is being relayed that somebody gets it.
    #[inline]
    pub fn matched(&mut self) {
        self.state.matched = true;
    }

    /// Whether this message repeats one that was accepted already: a policy is not asked again, for its answer could no
    /// longer be heeded.
    #[must_use]
    pub fn accepted_before(&self, from: ConnectionId, publish: &Publish<'_>) -> bool {
        let held = || self.state.held.get(self.session_of(from)?);
        publish.dup
            && publish.qos == QoS::ExactlyOnce
            && publish.packet_id.is_some_and(|id| held().is_some_and(|held| held.binary_search(&id).is_ok()))
    }

    /// Whether storing failed: what must be durable is refused from now on.
    #[inline]
    #[must_use]
    pub fn store_failed(&self) -> bool {
        self.state.store_failed
    }

    /// Refuses one Topic Filter of the SUBSCRIBE that is being processed.
    pub fn refuse_filter(&mut self, index: usize, reason: ReasonCode) {
        self.state.verdicts.push((index as u16, reason));
    }

    /// Whether a middleware refused a Topic Filter of the SUBSCRIBE that is being processed.
    #[must_use]
    pub fn filter_refused(&self, index: usize) -> Option<ReasonCode> {
        self.state.verdicts.iter().find(|(i, _)| *i as usize == index).map(|(_, reason)| *reason)
    }

    /// Tells the embedding program something.
    pub fn notice(&mut self, notice: Notice) {
        self.emit(Action::Notice(Box::new(notice)));
    }

    /// An empty list of receivers, reused.
    #[inline]
    #[must_use]
    pub fn receivers(&mut self) -> Vec<Receiver> {
        self.state.receivers.pop().unwrap_or_default()
    }

    /// Gives a list of receivers back.
    #[inline]
    pub fn recycle(&mut self, mut receivers: Vec<Receiver>) {
        if self.state.receivers.len() < 8 && receivers.capacity() <= 65_536 {
            receivers.clear();
            self.state.receivers.push(receivers);
        }
    }
}
