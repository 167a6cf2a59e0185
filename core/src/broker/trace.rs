//! What becomes of messages, step by step, for who asks why a client got one or did not. Off, it costs a comparison per
//! delivery.

use super::{Broker, Cx};
use crate::id::{ConnectionId, SessionId};
use crate::packet::{PacketId, QoS, ReasonCode};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// One thing that happened to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Traced {
    /// A PUBLISH was refused: by authorization, or because of a limit.
    Refused {
        /// Who sent it.
        from: ConnectionId,
        /// Its Topic Name.
        topic: Box<str>,
        /// Why.
        reason: ReasonCode,
    },
    /// A message entered the broker, and these sessions are to get it.
    Relayed {
        /// Its Topic Name.
        topic: Box<str>,
        /// The QoS it was published with.
        qos: QoS,
        /// Bytes of its payload.
        payload_bytes: usize,
        /// Who published it.
        publisher: Option<SessionId>,
        /// Who gets it. Of a shared group only the member whose turn it is.
        receivers: Vec<SessionId>,
    },
    /// A message that was accepted expired before it could be passed on: it waited for an answer or for the disk.
    Expired {
        /// Its Topic Name.
        topic: Box<str>,
        /// Who published it.
        publisher: Option<SessionId>,
    },
    /// A session got it, or did not.
    Delivery {
        /// The session.
        session: SessionId,
        /// The Topic Name.
        topic: Box<str>,
        /// What became of it.
        fate: Fate,
    },
    /// A client has taken a message that was in flight to it.
    Acknowledged {
        /// The session.
        session: SessionId,
        /// The Packet Identifier it had.
        packet_id: PacketId,
    },
}

/// What became of a message for one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Written to its connection.
    Sent {
        /// The QoS of the delivery.
        qos: QoS,
        /// Its Packet Identifier, if the QoS has one.
        packet_id: Option<PacketId>,
        /// Whether it was sent on an earlier connection already.
        again: bool,
    },
    /// In flight, but sent only when it is durable that it has this Packet Identifier.
    Gated {
        /// Its Packet Identifier.
        packet_id: PacketId,
    },
    /// Appended to its queue, which is now so long.
    Queued {
        /// Messages in the queue.
        length: u32,
    },
    /// Dropped: QoS 0, and more waits to be written to its connection than `outbox_bytes_max`.
    Slow,
    /// Dropped: QoS 0, and it is not connected.
    Offline,
    /// Dropped: it is not connected, and its session ends with that.
    Ending,
    /// Dropped: larger than the client accepts.
    TooLarge,
    /// Dropped: its topic is outside the mount point of the client's listener.
    OutsideMount,
    /// Dropped: its queue is as long as `queue_messages_max` or `queue_bytes_max` allow.
    QueueFull,
    /// Dropped from the head of its full queue, for a newer one.
    Displaced,
    /// Dropped: it expired before it could be sent.
    Expired,
}

impl Broker {
    /// Begins or ends tracing: every step of every message is kept until it is [taken](Self::poll_traced), so take them.
    /// It changes nothing else, and is no part of a snapshot.
    pub fn trace(&mut self, on: bool) {
        self.state.trace = on.then(Default::default);
    }

    /// The next thing that happened to a message, the oldest first.
    #[must_use]
    pub fn poll_traced(&mut self) -> Option<Traced> {
        self.state.trace.as_mut()?.pop_front()
    }
}

impl Cx<'_> {
    /// Notes what happens to a message, if somebody wants to know.
    #[inline]
    pub fn trace(&mut self, what: impl FnOnce() -> Traced) {
        if let Some(trace) = &mut self.state.trace {
            trace.push_back(what());
        }
    }

    /// The same for what became of it for one session.
    #[inline]
    pub(crate) fn fate(&mut self, session: SessionId, topic: &str, fate: Fate) {
        self.trace(|| Traced::Delivery { session, topic: topic.into(), fate });
    }
}
