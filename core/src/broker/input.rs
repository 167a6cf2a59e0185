//! Every input as a value: what is recorded, replayed and fuzzed.

use super::Record;
use super::said::redact;
use crate::broker::{Answer, Origin};
use crate::error::Violation;
use crate::id::{ConnectionId, LogSeq, SessionId, ShardId, Ticket};
use crate::message::Message;
use crate::saved::{Malformed, Reader, Saved, Writer};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use core::net::SocketAddr;

/// Everything that can happen to the machine. Any input may follow any other.
///
/// It holds what was received, passwords included, and so does its `Debug` output: keep it where they may be kept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Input {
    /// A connection was accepted.
    Accept(Peer),
    /// Bytes came in.
    Receive {
        /// The connection.
        id: ConnectionId,
        /// The bytes.
        bytes: Bytes,
    },
    /// The layers below MQTT learnt who a peer is. Nothing happens once its CONNECT was received.
    Identified {
        /// The connection.
        id: ConnectionId,
        /// What is known now: its address and identity count, not its listener.
        peer: Peer,
    },
    /// The layer below MQTT found that the peer broke a rule.
    Violated {
        /// The connection.
        id: ConnectionId,
        /// The rule.
        violation: Violation,
    },
    /// So many bytes of a connection's outbox were written.
    Written {
        /// The connection.
        id: ConnectionId,
        /// How many; fewer than were offered: the socket is full until `Writable`.
        count: usize,
    },
    /// A full socket has room again.
    Writable(ConnectionId),
    /// A connection is gone. Exactly once per accepted connection.
    Disconnected {
        /// The connection.
        id: ConnectionId,
        /// Why.
        cause: Disconnect,
    },
    /// Time passed.
    Tick,
    /// The answer to a question.
    Complete {
        /// Names the question.
        ticket: Ticket,
        /// The answer.
        answer: Answer,
    },
    /// Every record up to this position is durable.
    Committed(LogSeq),
    /// Records from this position on will never be durable.
    CommitFailed(LogSeq),
    /// Messages of a queue were read back from the store.
    Fetched {
        /// Whose queue.
        session: SessionId,
        /// What was read, as [`Record::Queued`]; nothing: it could not be.
        queued: Vec<Record>,
    },
    /// Another shard said something.
    FromShard {
        /// Who.
        from: ShardId,
        /// What, as it gave it.
        message: ShardMessage,
    },
    /// The embedding program publishes.
    Publish {
        /// The message.
        message: Message,
        /// On whose behalf.
        origin: Origin,
    },
    /// The embedding program subscribes.
    Subscribe(Box<str>),
    /// The embedding program no longer wants a subscription.
    Unsubscribe(SessionId),
    /// Say goodbye to every client.
    Shutdown,
}

/// What one shard says to another, as [`Broker::take_for_shard`](crate::Broker::take_for_shard) gives it.
#[derive(Clone, PartialEq, Eq)]
pub struct ShardMessage(pub Bytes);

impl fmt::Debug for ShardMessage {
    // Payloads never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardMessage").field("bytes", &self.0.len()).finish()
    }
}

impl Saved for ShardMessage {
    fn save(&self, to: &mut Writer<'_>) {
        to.bytes(&self.0);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut bytes = from.bytes()?.to_vec();
        if let Some(redaction) = from.redaction() {
            redact(&mut bytes, redaction);
        }
        Ok(Self(bytes.into()))
    }
}

impl Input {
    /// Appends it, for [`decode`](Self::decode) of the same version of the program.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.save(&mut Writer::new(out));
    }

    /// Reads an input from the start of some bytes, and says what comes behind it. Nothing about the bytes is relied on.
    ///
    /// # Errors
    /// They do not begin with an input.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let mut from = Reader::new(bytes);
        let input = Self::load(&mut from)?;
        Ok((input, from.rest()))
    }
}

/// Where a connection comes from, and who the transport says that is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The peer's address; `None`: in-process or without one.
    pub address: Option<SocketAddr>,
    /// Which of the program's listeners took it.
    pub listener: u16,
    /// Who the transport says the peer is, from a client certificate for instance; `None`: it says nothing.
    pub identity: Option<Box<str>>,
}

impl Peer {
    /// Nobody is called nothing.
    pub(crate) fn forget_empty(&mut self) {
        self.identity = self.identity.take().filter(|identity| !identity.is_empty());
    }
}

/// Why a connection is gone, as far as the adapter knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnect {
    /// The peer closed it.
    Eof,
    /// The transport failed.
    Error,
    /// The adapter closed it because the machine asked.
    Closed,
}

/// `accept` refused a connection: close it without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There are as many connections as allowed.
    Full,
    /// The machine is shutting down.
    ShuttingDown,
    /// A middleware does not want this peer.
    Peer,
}
