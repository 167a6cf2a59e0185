//! What the machine knows of one client, as plain data: for operators and for replays.

use super::{Broker, Peer, Queued};
use crate::connection::{Connection, Phase};
use crate::id::{ConnectionId, SessionId};
use crate::message::Message;
use crate::packet::{PacketId, QoS, SubscriptionOptions, Version};
use crate::session::Session;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// A client's session, and its connection if it has one. See [`Broker::inspect`].
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The session.
    pub session: SessionId,
    /// Its Client Identifier.
    pub client_id: Box<str>,
    /// The protocol version of its last connection.
    pub version: Version,
    /// Its Session Expiry Interval in seconds; `u32::MAX`: never.
    pub expiry_s: u32,
    /// The connection it is attached to.
    pub connection: Option<Attached>,
    /// Its subscriptions, in the order of their filters.
    pub subscriptions: Vec<Subscribed>,
    /// What waits in its queue, the oldest first, as far as it is in memory.
    pub queue: Vec<Queued>,
    /// How many messages come behind that, which only the store has.
    pub queue_outside: usize,
    /// Bytes in its queue, as its limit counts them.
    pub queue_bytes: u64,
    /// The Topic Filters whose retained messages are still being sent to it.
    pub retained_pages: Vec<Box<str>>,
    /// What was sent to it, or will be at once when it is back, and is not acknowledged.
    pub in_flight: Vec<Flight>,
    /// The Packet Identifiers of its own QoS 2 messages between PUBLISH and PUBREL.
    pub incoming: Vec<PacketId>,
    /// Its will.
    pub will: Option<Message>,
}

/// The connection of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The connection.
    pub id: ConnectionId,
    /// Where it comes from.
    pub peer: Peer,
    /// Where it is in its life.
    pub phase: Phase,
    /// The name it is known by.
    pub user_name: Option<Box<str>>,
    /// The Keep Alive that counts, in seconds.
    pub keep_alive_s: u16,
    /// The client's Receive Maximum.
    pub receive_maximum: u16,
    /// Bytes of the largest packet the client accepts.
    pub packet_size_max: u32,
    /// Bytes that wait to be written to it.
    pub outbox_bytes: usize,
    /// Whether its socket takes no more for now.
    pub blocked: bool,
    /// Whether we do not read it for now.
    pub paused: bool,
    /// Packets of its own that wait for answers.
    pub parked: usize,
}

/// A subscription of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// The Topic Filter, with `$share/…/` if it is shared.
    pub filter: Box<str>,
    /// QoS, No Local, Retain As Published, Retain Handling.
    pub options: SubscriptionOptions,
    /// The Subscription Identifier.
    pub identifier: Option<NonZeroU32>,
}

/// A message in flight to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// Its Packet Identifier.
    pub packet_id: PacketId,
    /// The QoS of the delivery.
    pub qos: QoS,
    /// How far it is.
    pub stage: Stage,
    /// The message; gone once it is the client's.
    pub message: Option<Message>,
}

/// How far a message in flight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It was not sent on this connection yet.
    Unsent,
    /// It is sent as soon as it is durable that it has this Packet Identifier.
    Gated,
    /// PUBLISH was sent.
    Sent,
    /// PUBREC came, PUBREL was sent: PUBCOMP is awaited.
    Released,
}

impl Broker {
    /// What the machine and its middlewares know of a client; none if it has no session. Looks at every session to find
    /// it, and copies its queue: for people, not for every message.
    #[must_use]
    pub fn inspect(&self, client_id: &str) -> Option<Inspection> {
        let its = |session: &Session| !session.program && *session.client_id == *client_id;
        let (id, session) = self.state.sessions.iter().find(|(_, session)| its(session))?;
        let attached = |id| {
            let connection = self.state.connections.get(id)?;
            Some(Attached {
                id,
                peer: connection.peer.clone(),
                phase: connection.phase,
                user_name: connection.user_name.clone(),
                keep_alive_s: connection.keep_alive_s,
                receive_maximum: connection.receive_maximum,
                packet_size_max: connection.packet_size_max,
                outbox_bytes: connection.outbox_bytes(),
                blocked: connection.blocked,
                paused: connection.paused(),
                parked: connection.parked.as_ref().map_or(0, |parked| parked.len()),
            })
        };
        let mut found = Inspection {
            session: id,
            client_id: session.client_id.clone(),
            version: session.version,
            expiry_s: session.expiry,
            connection: session.connection.and_then(attached),
            subscriptions: Vec::new(),
            queue: Vec::new(),
            queue_outside: 0,
            queue_bytes: 0,
            retained_pages: Vec::new(),
            in_flight: Vec::new(),
            incoming: self.state.held.get(id).cloned().unwrap_or_default(),
            will: None,
        };
        self.stack.parts().for_each(|part| part.inspect(id, &mut found));
        Some(found)
    }

    /// A connection that is not gone.
    #[must_use]
    pub fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.state.connections.get(id)
    }

    /// All connections that are not gone.
    pub fn connection_ids(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.state.connections.ids()
    }

    /// A session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.state.sessions.get(id)
    }
}
