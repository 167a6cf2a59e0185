//! Records: what a durable machine lets leave, and what another is made of after a crash.
//!
//! Every record is one whole step: whatever prefix of a log is left, the state it describes keeps every promise that was
//! made while no more than that prefix was durable. That is why a message is in one record with all that comes of it
//! ([`Relayed`]), and never in one record per receiver.

mod codec;

pub use codec::BadRecord;
pub(crate) use codec::{Reader, Writer};

use crate::broker::Identifiers;
use crate::message::Message;
use crate::packet::{PacketId, QoS};
use crate::time::Wall;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// One step of the durable state. In the order of the log they make the state at any prefix of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record {
    /// A session exists: it was attached to a connection, or has lost it.
    Session {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// Its Session Expiry Interval in seconds, `u32::MAX`: never. Sessions with 0 are not stored.
        expiry: u32,
        /// When it lost its connection; `None`: it is attached to one.
        left: Option<Wall>,
    },
    /// A session ended, with all it had but for its will.
    SessionEnded {
        /// Its Client Identifier.
        client_id: Box<str>,
    },
    /// A session subscribed, or changed a subscription.
    Subscription {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Topic Filter as the client sent it, `$share/…/` included.
        filter: Box<str>,
        /// The Subscription Options.
        options: u8,
        /// The Subscription Identifier, 0: none.
        identifier: u32,
    },
    /// A session unsubscribed.
    Unsubscription {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Topic Filter as the client sent it.
        filter: Box<str>,
    },
    /// Retained messages wait to be sent for a subscription: all behind a topic. They are sent first come, first served.
    Page {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Topic Filter of the subscription.
        filter: Box<str>,
        /// What the subscription said, as in [`Record::Subscription`]: it may have been replaced since.
        options: u8,
        /// Its Subscription Identifier; 0: none.
        identifier: u32,
        /// The topic of the last one that was sent.
        after: Option<Box<str>>,
    },
    /// All retained messages for a subscription were sent, or are no longer wanted. Of several pages of its filter, the
    /// first one ends.
    PageEnded {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Topic Filter of the subscription.
        filter: Box<str>,
    },
    /// The retained message of its topic; an empty payload removes it.
    Retained(Message),
    /// A client left a will. Its session need not be stored: then it exists for the will only.
    Will {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The message.
        message: Message,
        /// Its Message Expiry Interval in seconds, which begins when it is published.
        expiry_s: Option<u32>,
        /// The Will Delay Interval in seconds.
        delay_s: u32,
    },
    /// A will is no longer owed.
    WillGone {
        /// Its Client Identifier.
        client_id: Box<str>,
    },
    /// A QoS 2 message was accepted: its Packet Identifier is in use until [`Record::InboundGone`].
    Inbound {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Packet Identifier.
        packet_id: PacketId,
        /// The message, until it was relayed.
        message: Option<Message>,
    },
    /// PUBREL came for a QoS 2 message.
    InboundGone {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Packet Identifier.
        packet_id: PacketId,
    },
    /// A message was relayed.
    Relayed(Relayed),
    /// A message was appended to a session's queue.
    Queued {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The message.
        message: Message,
        /// The QoS of the delivery.
        qos: QoS,
        /// RETAIN flag of the delivery.
        retain: bool,
        /// The Subscription Identifiers of the delivery.
        identifiers: Identifiers,
    },
    /// The head of a session's queue is gone: it was dropped or has expired.
    Dropped {
        /// Its Client Identifier.
        client_id: Box<str>,
    },
    /// The head of a session's queue is in flight.
    Sent {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Packet Identifier it got.
        packet_id: PacketId,
    },
    /// A message is in flight that did not come from the queue.
    InFlight {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Packet Identifier it got.
        packet_id: PacketId,
        /// The message.
        message: Message,
        /// The QoS of the delivery.
        qos: QoS,
        /// RETAIN flag of the delivery.
        retain: bool,
        /// The Subscription Identifiers of the delivery.
        identifiers: Identifiers,
        /// It is the next retained message of the session's first [`Record::Page`].
        paged: bool,
    },
    /// PUBREC came: PUBLISH will not be sent again, PUBREL will.
    Received {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Packet Identifier.
        packet_id: PacketId,
    },
    /// PUBACK, PUBCOMP or a PUBREC with an error came: the message is done.
    Acknowledged {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Packet Identifier.
        packet_id: PacketId,
    },
}

/// See [`Record::Relayed`]: the message and everything durable that came of it, in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// The message.
    pub message: Message,
    /// What this relay settled.
    pub settled: Settled,
    /// What became of the retained message of its topic.
    pub retained: Effect,
    /// The stored sessions that got it with QoS 1 or 2.
    pub recipients: Vec<Recipient>,
}

/// What a relay settled: what would otherwise lead to the same relay once more after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Settled {
    /// Nothing: its publisher may send it again.
    #[default]
    Nothing,
    /// The message of a [`Record::Inbound`].
    Inbound {
        /// The Client Identifier.
        client_id: Box<str>,
        /// The Packet Identifier.
        packet_id: PacketId,
    },
    /// The will of a client.
    Will {
        /// The Client Identifier.
        client_id: Box<str>,
    },
}

/// See [`Relayed::retained`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// It is this message now.
    Set,
    /// There is none any more.
    Removed,
}

/// See [`Relayed::recipients`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Its Client Identifier.
    pub client_id: Box<str>,
    /// The QoS of the delivery.
    pub qos: QoS,
    /// RETAIN flag of the delivery.
    pub retain: bool,
    /// The Subscription Identifiers of the delivery.
    pub identifiers: Identifiers,
    /// The Packet Identifier, if it is in flight; if not, it is in the queue.
    pub packet_id: Option<PacketId>,
}

impl Record {
    /// Whose record it is, if it is one session's.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        match self {
            Self::Session { client_id, .. }
            | Self::SessionEnded { client_id }
            | Self::Subscription { client_id, .. }
            | Self::Unsubscription { client_id, .. }
            | Self::Page { client_id, .. }
            | Self::PageEnded { client_id, .. }
            | Self::Will { client_id, .. }
            | Self::WillGone { client_id }
            | Self::Inbound { client_id, .. }
            | Self::InboundGone { client_id, .. }
            | Self::Queued { client_id, .. }
            | Self::Dropped { client_id }
            | Self::Sent { client_id, .. }
            | Self::InFlight { client_id, .. }
            | Self::Received { client_id, .. }
            | Self::Acknowledged { client_id, .. } => Some(client_id),
            Self::Retained(_) | Self::Relayed(_) => None,
        }
    }
}
