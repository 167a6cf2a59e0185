//! How the program talks to a running broker.

use crate::commands::{Commands, Control};
use crate::{Pipe, Snapshot, StoreFailed, Stream, Subscription};
use culex_core::packet::ReasonCode;
use culex_core::topic::Filter;
use culex_core::{Answer, Clause, Message, Peer, Restored, Ticket};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Talks to a running broker from any thread; cheap to clone. Dropping every handle leaves the broker running.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Of the first shard, which is the program's.
    commands: Arc<Commands>,
    all: Arc<[Arc<Commands>]>,
    restored: Option<Restored>,
}

impl Handle {
    /// The listener of connections that [`connect`](Self::connect) makes: none of the builder's has this number.
    pub const LISTENER: u16 = u16::MAX;

    pub(crate) fn new(all: Arc<[Arc<Commands>]>, restored: Option<Restored>) -> Self {
        Self { commands: all[0].clone(), all, restored }
    }

    /// What the broker's store held when it was opened; `None`: the broker has none.
    #[must_use]
    pub fn restored(&self) -> Option<Restored> {
        self.restored
    }

    /// Publishes a message; never blocks.
    ///
    /// # Errors
    /// The message back, when too many wait already or the broker stopped.
    pub fn publish(&self, message: Message) -> Result<(), Rejected> {
        self.commands.publish(message).map_err(Rejected)
    }

    /// Subscribes to a Topic Filter. What is published through this handle afterwards is received.
    ///
    /// # Errors
    /// The filter is not well-formed, or the broker cannot take it.
    pub fn subscribe(&self, filter: &str) -> Result<Subscription, SubscribeError> {
        Filter::parse(filter).map_err(SubscribeError::Filter)?;
        let key = self.commands.next_key();
        let (subscription, subscriber) = Subscription::new(key, self.commands.clone());
        if self.commands.control(Control::Subscribe { key, filter: filter.into(), subscriber }) {
            return Ok(subscription);
        }
        Err(if self.commands.stopped() { SubscribeError::Stopped } else { SubscribeError::Full })
    }

    /// Connects a client inside the program: what is written to the result is MQTT for the broker, what is read from it is
    /// the broker's.
    ///
    /// # Errors
    /// Too many streams wait to be served, or the broker stopped.
    pub fn connect(&self) -> Result<Pipe, ConnectError> {
        let (ours, theirs) = Pipe::pair();
        self.accept(theirs, Peer { listener: Self::LISTENER, ..Peer::default() })?;
        Ok(ours)
    }

    /// Serves a stream that the program has: as if the listener `peer.listener` (they are numbered in the order in which
    /// the builder got them) had accepted it, so with its layers; a number without a listener means MQTT without layers.
    /// What `peer` says of the other side is believed.
    ///
    /// # Errors
    /// Too many streams wait to be served, or the broker stopped: the stream is closed.
    pub fn accept(&self, stream: impl Into<Stream>, peer: Peer) -> Result<(), ConnectError> {
        self.commands.give(stream.into(), peer)
    }

    /// Whether all shards of the broker answer in this time: that they are no further in a turn than they should be. Blocks the
    /// thread until then. Without an answer it stopped, does not run yet, or something in one of its threads blocks.
    #[must_use]
    pub fn is_alive(&self, within: Duration) -> bool {
        let (alive, answer) = sync_channel(self.all.len());
        let asked = self.all.iter().all(|commands| commands.control(Control::Ping(alive.clone())));
        let until = Instant::now() + within;
        let answered = || answer.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok();
        asked && self.all.iter().all(|_| answered())
    }

    /// The entries of the broker's store at one moment from now on, to be read while the broker goes on. Blocks the thread until it
    /// is there: as long as what waits to be committed before it.
    ///
    /// # Errors
    /// The broker has no store, its store failed, or it stopped.
    pub fn snapshot(&self) -> Result<Snapshot, StoreFailed> {
        let (to, snapshot) = sync_channel(1);
        if !self.commands.control(Control::Snapshot(to)) {
            return Err(StoreFailed::new("the broker stopped"));
        }
        snapshot.recv().unwrap_or_else(|_| Err(StoreFailed::new("the store failed, or the broker stopped")))
    }

    /// Sends DISCONNECT to every client and stops the broker: `run` returns once the connections are closed, or after
    /// the time the builder was given. Asking again changes nothing.
    pub fn shutdown(&self) {
        self.all.iter().for_each(|commands| commands.shutdown());
    }
}

/// The broker did not take a message: here it is again.
#[derive(Debug, Clone)]
pub struct Rejected(pub Message);

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the broker cannot take the message for {} now", self.0.topic())
    }
}

impl std::error::Error for Rejected {}

/// Why a stream of the program is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// Too many streams wait to be served.
    Full,
    /// The broker stopped.
    Stopped,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "too many streams wait to be served",
            Self::Stopped => "the broker stopped",
        })
    }
}

impl std::error::Error for ConnectError {}

/// Why a subscription of the program was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The Topic Filter breaks this rule.
    Filter(Clause),
    /// Too many subscriptions wait to be made.
    Full,
    /// The broker stopped.
    Stopped,
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(clause) => write!(f, "not a topic filter [{clause}]"),
            Self::Full => f.write_str("too many subscriptions wait to be made"),
            Self::Stopped => f.write_str("the broker stopped"),
        }
    }
}

impl std::error::Error for SubscribeError {}

/// Answers one question of the machine, from any thread, at any time. Dropped without an answer it says no: a
/// forgotten question lets nobody in.
#[must_use = "dropping it refuses"]
#[derive(Debug)]
pub struct Responder {
    ticket: Ticket,
    commands: Option<Arc<Commands>>,
}

impl Responder {
    pub(crate) fn new(ticket: Ticket, commands: Arc<Commands>) -> Self {
        Self { ticket, commands: Some(commands) }
    }

    /// Gives the answer. It counts only if the machine still waits for it.
    pub fn complete(mut self, answer: Answer) {
        self.send(answer);
    }

    fn send(&mut self, answer: Answer) {
        if let Some(commands) = self.commands.take() {
            commands.control(Control::Complete { ticket: self.ticket, answer });
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.send(Answer::Deny(ReasonCode::NotAuthorized));
    }
}
