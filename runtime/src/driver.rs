//! The machine with its clock, and everything it asks for that needs no socket.

use crate::builder::{OnAsk, OnNotice};
use crate::commands::{Commands, Control, Inbox, Subscriber};
use crate::links::{Carried, Links, write_once};
use crate::recorder::{Tape, digest_of};
use crate::siblings::Siblings;
use crate::writer::Writer;
use crate::{Clock, Recorder, Responder, StoreFailed, Stream};
use culex_core::{
    Action, Broker, Close, ConnectionId, Disconnect, Forward, Input, Mono, Now, Origin, Peer, Refused,
    SessionId,
};
use culex_link::{Learnt, Progress};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

mod shards;
#[cfg(test)]
mod tests;

/// One machine, its clock and its program.
///
/// A **turn** is: inputs ([`accept`](Self::accept), [`receive`](Self::receive), [`writable`](Self::writable),
/// [`disconnected`](Self::disconnected)) in any number, then [`work`](Self::work), then
/// [`poll_effect`](Self::poll_effect) and [`poll_write`](Self::poll_write) until both are empty, then
/// [`end_turn`](Self::end_turn). The clocks are sampled once per turn. After an input a turn must come to its end soon.
pub struct Driver {
    broker: Broker,
    links: Links,
    clock: Clock,
    /// Both clocks in this turn; `None` between turns.
    now: Option<Now>,
    inbox: Inbox,
    subscribers: HashMap<SessionId, Subscriber>,
    subscriptions: HashMap<u64, SessionId>,
    on_ask: OnAsk,
    on_notice: OnNotice,
    shutdown: Duration,
    /// How many of the program's messages are still to be published in this turn.
    to_publish: usize,
    /// Since a shutdown: when to stop in any case.
    stop_at: Option<Mono>,
    /// Keeps what the machine wants stored, if somebody gave a store.
    writer: Option<Writer>,
    /// The other shards, if there are any.
    siblings: Option<Box<Siblings>>,
    /// Notes everything that the machine is given and gives; nearly always nobody wants that.
    tape: Option<Box<Tape>>,
    /// Bytes that are being digested for the tape.
    scratch: Vec<u8>,
}

/// What the machine wants done to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// End this connection.
    Close {
        /// The connection.
        id: ConnectionId,
        /// How.
        how: Close,
    },
    /// Read from this connection again.
    Credit {
        /// The connection.
        id: ConnectionId,
    },
    /// Read no longer from this connection, and [hand](Driver::hand_over) its socket over to the shard where it belongs.
    HandOver {
        /// The connection.
        id: ConnectionId,
    },
}

/// How a write went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Everything that was offered.
    All,
    /// Not everything: call [`Driver::writable`] when there is room again.
    Full,
    /// The connection is broken: close it.
    Broken,
}

/// What comes after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The next turn when there is an input, or at this time.
    Wait(Option<Instant>),
    /// No further turn: the broker was shut down.
    Stop,
}

impl Driver {
    pub(crate) fn new(
        broker: Broker,
        links: Links,
        clock: Clock,
        inbox: Inbox,
        on_ask: OnAsk,
        on_notice: OnNotice,
        shutdown: Duration,
    ) -> Self {
        let (subscribers, subscriptions) = (HashMap::new(), HashMap::new());
        Self {
            broker,
            links,
            clock,
            now: None,
            inbox,
            subscribers,
            subscriptions,
            on_ask,
            on_notice,
            shutdown,
            to_publish: 0,
            stop_at: None,
            writer: None,
            siblings: None,
            tape: None,
            scratch: Vec::new(),
        }
    }

    pub(crate) fn record(&mut self, recorder: Option<Recorder>) {
        self.tape = recorder.map(|recorder| Box::new(Tape::new(recorder)));
    }

    pub(crate) fn store(&mut self, writer: Option<Writer>) {
        self.writer = writer;
    }

    /// Notes an input before the machine sees it: it may be the one that makes it panic.
    #[inline]
    fn note(&mut self, now: Option<Now>, input: impl FnOnce() -> Input) {
        if let Some(tape) = &mut self.tape {
            tape.input(&self.broker, now, &input());
        }
    }

    /// What the program asks for: [`work`](Self::work) takes it, the runtime has to wake up for it.
    #[must_use]
    pub fn commands(&self) -> &Commands {
        &self.inbox.0
    }

    /// A connection was accepted.
    ///
    /// # Errors
    /// The machine does not want it: close it without a word.
    pub fn accept(&mut self, peer: Peer) -> Result<ConnectionId, Refused> {
        self.links.admit(&peer)?;
        if let Some(siblings) = &self.siblings {
            siblings.admit(peer.listener)?;
        }
        let id = self.take_up(peer.clone())?;
        self.links.accept(id, &peer);
        Ok(id)
    }

    /// Bytes came in: at most [`read_credit`](Self::read_credit) of them.
    #[inline]
    pub fn receive(&mut self, id: ConnectionId, bytes: &[u8]) {
        let now = self.now();
        if self.links.has(id) {
            if !self.links.put_off(id, bytes) {
                self.receive_by_link(now, id, bytes);
            }
            return;
        }
        self.note(Some(now), || Input::Receive { id, bytes: bytes.to_vec().into() });
        self.broker.receive(now, id, bytes);
    }

    /// A layer gives no more bytes than it gets, and at most one record of TLS that was incomplete before: the machine
    /// takes that beyond its credit.
    fn receive_by_link(&mut self, now: Now, id: ConnectionId, bytes: &[u8]) {
        let Carried { learnt, plain, progress } = self.links.receive(now.wall, id, bytes);
        if let Some(Learnt { address, identity }) = learnt {
            let peer = Peer { address, identity, ..Peer::default() };
            if let Some(tape) = &mut self.tape {
                tape.input(&self.broker, Some(now), &Input::Identified { id, peer: peer.clone() });
            }
            self.broker.identified(now, id, peer);
        }
        if !plain.is_empty() {
            if let Some(tape) = &mut self.tape {
                let bytes = plain.to_vec().into();
                tape.input(&self.broker, Some(now), &Input::Receive { id, bytes });
            }
            self.broker.receive(now, id, plain);
        }
        match progress {
            Progress::Open => {}
            Progress::Violated(violation) if self.is_leaving(id) => self.links.violated(id, violation),
            Progress::Violated(violation) => {
                self.note(Some(now), || Input::Violated { id, violation });
                self.broker.violated(now, id, violation);
            }
            Progress::Failed(failure) => {
                let address = self.links.address(id);
                tracing::info!(?address, %failure, "a connection failed below MQTT");
                self.links.fail(id);
            }
            // As with the end of a TCP stream, the machine first takes all that came before it.
            Progress::Closed if self.broker.read_credit(id) > 0 => self.links.leave(id),
            Progress::Closed => {}
        }
    }

    /// A full socket has room again.
    pub fn writable(&mut self, id: ConnectionId) {
        self.links.writable(id);
        self.note(None, || Input::Writable(id));
        self.broker.writable(id);
    }

    /// A connection is closed: exactly once for each that was accepted.
    pub fn disconnected(&mut self, id: ConnectionId, cause: Disconnect) {
        let now = self.now();
        if cause == Disconnect::Eof
            && let Some(bytes) = self.links.take_put_off(id)
        {
            self.receive_by_link(now, id, &bytes);
        }
        let cause = match (self.links.remove(id), cause) {
            (Some(known), Disconnect::Closed) => known,
            _ => cause,
        };
        if !self.released(id) {
            self.note(Some(now), || Input::Disconnected { id, cause });
            self.broker.disconnected(now, id, cause);
        }
    }

    fn take_up(&mut self, peer: Peer) -> Result<ConnectionId, Refused> {
        let now = self.now();
        self.note(Some(now), || Input::Accept(peer.clone()));
        let listener = peer.listener;
        let accepted = self.broker.accept(now, peer);
        if let (Err(_), Some(siblings)) = (&accepted, &self.siblings) {
            siblings.release(listener);
        }
        accepted
    }

    /// A stream that the program gave: [`accept`](Self::accept) it.
    #[must_use]
    pub fn take_given(&mut self) -> Option<(Stream, Peer)> {
        self.inbox.0.take_given()
    }

    /// How many bytes the machine takes from a connection; 0: none until [`Effect::Credit`].
    #[inline]
    #[must_use]
    pub fn read_credit(&self, id: ConnectionId) -> usize {
        if self.is_leaving(id) {
            return 0;
        }
        self.broker.read_credit(id).min(self.links.read_credit(id))
    }

    /// Whether the broker says goodbye: accept nothing any more.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop_at.is_some()
    }

    /// Does what the program and the clock want.
    pub fn work(&mut self) {
        let now = self.now();
        while let Some((id, bytes)) = self.links.poll_put_off() {
            self.receive_by_link(now, id, &bytes);
        }
        // Whatever other shards said before somebody asked for the end is heard before it.
        let shutdown = self.inbox.0.take_shutdown();
        self.store_news(now);
        self.control(now);
        // Behind the program's subscriptions: who is told that they are known here relies on it.
        self.hear(now);
        // Only what waits now: a program that publishes without end must not keep the sockets waiting.
        self.to_publish = self.inbox.0.published();
        self.publish(now);
        if shutdown && self.stop_at.is_none() {
            self.stop_at = Some(now.mono + self.shutdown);
            self.note(Some(now), || Input::Shutdown);
            self.broker.shutdown(now);
        }
        if self.broker.deadline().is_some_and(|deadline| deadline <= now.mono) {
            self.note(Some(now), || Input::Tick);
            self.broker.tick(now);
        }
    }

    /// The next thing to do to a socket; everything else the machine asks for is done on the way.
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        loop {
            if let Some(effect) = self.links.poll_effect() {
                return Some(effect);
            }
            if self.writer.as_ref().is_some_and(|writer| !writer.has_room()) {
                // What the machine still wants stays there: it reads less until there is room, and then there will be news.
                self.flush();
                return None;
            }
            let Some(action) = self.broker.poll_action() else {
                // The machine may have refused the program's messages because of what it still had to tell.
                let now = self.now();
                if self.publish(now) || self.tell() {
                    continue;
                }
                self.flush();
                return None;
            };
            if let Some(tape) = &mut self.tape {
                tape.taken(&action);
            }
            match action {
                Action::Close { id, how: Close::Finish } if self.links.finish(id) => {}
                Action::Credit { id } if self.links.has_left(id) => self.links.leave(id),
                Action::Close { id, how } => return Some(Effect::Close { id, how }),
                Action::Credit { id } => return Some(Effect::Credit { id }),
                Action::Ask { ticket, query } => {
                    (self.on_ask)(*query, Responder::new(ticket, self.inbox.0.clone()))
                }
                Action::Notice(notice) => (self.on_notice)(*notice),
                Action::Forward(forward) => self.deliver(&forward),
                Action::Store { seq, record } => match &mut self.writer {
                    Some(writer) => writer.store(seq, record),
                    None => misfit(&Action::Store { seq, record }),
                },
                Action::Fetch(fetch) => match &mut self.writer {
                    Some(writer) => writer.fetch(fetch),
                    None => misfit(&Action::Fetch(fetch)),
                },
                Action::HandOver { id, shard, moved } => return Some(self.leaves(id, shard, moved)),
                // A late answer is ignored by the machine itself, so `Forget` needs nothing.
                _ => {}
            }
        }
    }

    /// Lets `write` write once for the next connection with output, and says for which and how it went. `write` gives an
    /// error of the kind [`WouldBlock`](io::ErrorKind::WouldBlock) when the socket is full.
    pub fn poll_write(
        &mut self,
        mut write: impl FnMut(ConnectionId, &[IoSlice<'_>]) -> io::Result<usize>,
    ) -> Option<(ConnectionId, Written)> {
        loop {
            if let Some(id) = self.links.poll_dirty() {
                return Some((id, self.links.write(id, &[], &mut write)));
            }
            let Some(transmit) = self.broker.poll_transmit() else {
                if let Some(tape) = &mut self.tape {
                    tape.drained();
                }
                return None;
            };
            let id = transmit.id();
            // The machine waits for `writable` of a link that is full as well.
            let full = self.links.is_full(id);
            let linked = self.links.has(id);
            let mut room = match (full, linked) {
                (true, _) => 0,
                (false, true) => LINK_WRITE_BYTES,
                (false, false) => usize::MAX,
            };
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let (mut used, mut offered) = (0, 0);
            for (slice, chunk) in slices.iter_mut().zip(transmit.chunks()) {
                let chunk = &chunk[..chunk.len().min(room)];
                if chunk.is_empty() {
                    break;
                }
                *slice = IoSlice::new(chunk);
                offered += chunk.len();
                room -= chunk.len();
                used += 1;
            }
            let (count, written) = match linked {
                _ if full => (0, Written::Full),
                // What the link takes is written, for the machine: the link keeps what the socket does not take.
                true => (offered, self.links.write(id, &slices[..used], &mut write)),
                false => write_once(offered, || write(id, &slices[..used])),
            };
            if let Some(tape) = &mut self.tape {
                tape.written(id, count, digest_of(transmit.chunks(), count, &mut self.scratch));
            }
            let more = count < transmit.len();
            transmit.written(count);
            if full {
                continue;
            }
            if more && (linked || written == Written::All) {
                // There is more than one write can take: the socket is not full.
                self.note(None, || Input::Writable(id));
                self.broker.writable(id);
            }
            return Some((id, written));
        }
    }

    /// Ends the turn.
    #[must_use]
    pub fn end_turn(&mut self) -> Turn {
        let now = self.now();
        self.now = None;
        if self.siblings.as_ref().is_some_and(|siblings| siblings.is_aborted()) {
            return Turn::Stop;
        }
        let mut next = self.broker.deadline();
        if self.links.end_turn() {
            next = Some(now.mono);
        }
        if let Some(stop_at) = self.stop_at {
            let late = stop_at <= now.mono;
            if late || (self.broker.connections() == 0 && !self.is_storing() && self.all_have_ended()) {
                self.give_up_storing();
                return Turn::Stop;
            }
            next = Some(earlier(next, stop_at));
        }
        if self.inbox.0.is_held() {
            next = Some(earlier(next, now.mono.plus_ms(OVERLOAD_RETRY_MS)));
        }
        Turn::Wait(next.and_then(|mono| self.clock.instant(mono)))
    }

    fn now(&mut self) -> Now {
        *self.now.get_or_insert_with(|| self.clock.now())
    }

    /// What was stored meanwhile is acknowledged in this turn.
    fn store_news(&mut self, now: Now) {
        let Some(writer) = &mut self.writer else { return };
        if !self.inbox.0.take_store_news() {
            return;
        }
        let news = writer.news();
        if let Some(through) = news.committed {
            self.note(Some(now), || Input::Committed(through));
            self.broker.committed(now, through);
        }
        if let Some(from) = news.failed {
            self.note(Some(now), || Input::CommitFailed(from));
            self.broker.commit_failed(now, from);
        }
    }

    fn flush(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.flush();
        }
    }

    /// Whether something that the machine wants stored is not durable yet.
    pub(crate) fn is_storing(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.is_behind(self.broker.log_position()))
    }

    /// Nobody waits any longer for what is not durable yet.
    fn give_up_storing(&mut self) {
        if self.is_storing() {
            tracing::warn!(
                "the time to stop is over before everything was stored; none of the rest was acknowledged"
            );
            if let Some(writer) = &mut self.writer {
                writer.give_up();
            }
        }
    }

    fn control(&mut self, now: Now) {
        for command in self.inbox.0.take_control() {
            match command {
                Control::Subscribe { key, filter, subscriber } => {
                    self.note(Some(now), || Input::Subscribe(filter.clone()));
                    match self.broker.subscribe(now, &filter) {
                        Ok(session) => {
                            self.subscribers.insert(session, subscriber);
                            self.subscriptions.insert(key, session);
                        }
                        // The subscription ends at once because its sender is dropped.
                        Err(misuse) => {
                            tracing::warn!(%filter, %misuse, "the program's subscription was refused");
                        }
                    }
                }
                Control::Unsubscribe { key } => {
                    if let Some(session) = self.subscriptions.remove(&key) {
                        self.subscribers.remove(&session);
                        self.note(Some(now), || Input::Unsubscribe(session));
                        self.broker.unsubscribe(now, session);
                    }
                }
                // Who asked may have gone.
                Control::Ping(alive) => drop(alive.try_send(())),
                Control::Fetched { session, queued } => {
                    self.note(Some(now), || Input::Fetched { session, queued: queued.clone() });
                    self.broker.fetched(now, session, queued);
                }
                Control::Snapshot(to) => match &mut self.writer {
                    Some(writer) => writer.snapshot(to),
                    None => drop(to.try_send(Err(StoreFailed::new("the broker has no store")))),
                },
                Control::Complete { ticket, answer } => {
                    self.note(Some(now), || Input::Complete { ticket, answer: answer.clone() });
                    self.broker.complete(now, ticket, answer);
                }
            }
        }
    }

    /// Publishes for the program; `false`: nothing was taken.
    fn publish(&mut self, now: Now) -> bool {
        let before = self.to_publish;
        while self.to_publish > 0 {
            let Some(message) = self.inbox.0.take_published() else { break };
            let origin = Origin::Program;
            self.note(Some(now), || Input::Publish { message: message.clone(), origin });
            if let Err(message) = self.broker.publish(now, message, origin) {
                self.inbox.0.hold(message);
                break;
            }
            self.to_publish -= 1;
        }
        self.to_publish < before
    }

    fn deliver(&self, forward: &Forward) {
        let Some(message) = forward.message() else { return };
        for receiver in &forward.receivers {
            if let Some(subscriber) = self.subscribers.get(&receiver.session) {
                subscriber.deliver(message.clone());
            }
        }
    }
}

fn misfit(action: &Action) {
    tracing::error!(?action, "nobody is here to do this: the chain does not fit the runtime");
}

fn earlier(next: Option<Mono>, other: Mono) -> Mono {
    next.map_or(other, |next| next.min(other))
}

/// When a message of the program that the machine could not take is offered again, if nothing happens before.
const OVERLOAD_RETRY_MS: u64 = 10;
/// What a link gets to send at once: it keeps at most this, in its form, while the socket is full.
const LINK_WRITE_BYTES: usize = 64 * 1024;
/// Chunks per vectored write.
const SLICES_MAX: usize = 64;

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("connections", &self.broker.connections()).finish_non_exhaustive()
    }
}
