//! What happens inside the machine, as values: an action walks the chain until a middleware handles it. What nobody
//! handled leaves through `poll_action`.

use crate::broker::{Moved, Notice, Query, Record};
use crate::id::{ConnectionId, LogSeq, SessionId, ShardId, Ticket};
use crate::message::Message;
use crate::packet::{PacketId, PacketType, QoS, ReasonCode, SubscriptionOptions};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// One thing to be done. The first part stays inside a standard chain, the second leaves it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Action {
    /// A message entered the broker: find its receivers (the ancestor's *relayMessage*).
    Relay(Relay),
    /// A message and its receivers (*forwardMessage*). Receivers that are not here fall through.
    Forward(Forward),
    /// An acknowledgement for a peer, written when this action is performed: gate it by performing it later.
    Reply(Reply),
    /// A CONNECT was accepted: load or make its session, answer CONNACK.
    OpenSession(Box<OpenSession>),
    /// A session is attached to a connection: SessionManager, the first to hear of it, writes CONNACK.
    SessionOpened {
        /// The session.
        session: SessionId,
        /// Its connection.
        connection: ConnectionId,
        /// Whether there was state to resume (Session Present).
        present: bool,
    },
    /// The client said DISCONNECT (*cleanDisconnect*).
    CleanDisconnect {
        /// The session that lost its connection.
        session: SessionId,
        /// The reason code the client gave.
        reason: ReasonCode,
    },
    /// The connection ended without DISCONNECT (*uncleanDisconnect*).
    UncleanDisconnect {
        /// The session that lost its connection.
        session: SessionId,
    },
    /// A session ended: every middleware forgets what it keeps for it (*clearSubscriptions*,
    /// *clearOfflineMessages*). The id is stale afterwards.
    SessionEnded {
        /// The session.
        session: SessionId,
    },
    /// Ends a connection with a reason (*closeClient*).
    CloseClient {
        /// The connection.
        id: ConnectionId,
        /// What an MQTT 5.0 client is told.
        reason: ReasonCode,
    },
    /// Adds or replaces a subscription (*subscribeTopic*, *storeSubscription*).
    SubscribeTopic(Box<SubscribeTopic>),
    /// A subscription was added or replaced.
    TopicSubscribed(Box<TopicSubscribed>),
    /// Removes a subscription (*unsubscribeTopic*, *removeSubscription*).
    UnsubscribeTopic(Box<UnsubscribeTopic>),
    /// A subscription was removed, or had not been there.
    TopicUnsubscribed(Box<TopicUnsubscribed>),
    /// All filters of an UNSUBSCRIBE were worked off: it can be answered.
    Unsubscribed {
        /// The connection that waits.
        to: ConnectionId,
        /// The identifier of the UNSUBSCRIBE.
        packet_id: PacketId,
    },
    /// Replaces or, with an empty payload, removes the retained message of a topic (*storeRetainedMessage*).
    StoreRetained(Message),
    /// Sends the retained messages that match a new subscription (*lookupRetainedMessages*).
    LookupRetained(Box<SubscribeTopic>),
    /// Appends a message to the queue of a session that cannot take it now (*storeOfflineMessage*).
    StoreOffline {
        /// The session.
        session: SessionId,
        /// The message, with the options of its delivery.
        queued: Queued,
    },
    /// Sends up to `most` messages from the head of a session's queue (*lookupOfflineMessages*).
    LookupOffline {
        /// The session.
        session: SessionId,
        /// How many the session can take.
        most: u32,
    },
    /// Keeps that a session exists and how long it outlives its connection.
    StoreSession {
        /// The session.
        session: SessionId,
    },
    /// Remembers or forgets the Packet Identifier of an incoming QoS 2 message.
    StoreInbound {
        /// The session.
        session: SessionId,
        /// The identifier.
        packet_id: PacketId,
        /// Whether it is in use from now on.
        held: bool,
    },
    /// A session can take messages again: its queue is empty and its outbox has room.
    Room {
        /// The session.
        session: SessionId,
    },

    /// Announce [`Action::Room`] when the client has taken what waits for it.
    WantRoom {
        /// The session.
        session: SessionId,
    },

    /// A session got a connection, which is not answered yet: CONNACK waits until what comes of this is durable.
    SessionAttached {
        /// The session.
        session: SessionId,
        /// Its connection.
        connection: ConnectionId,
    },
    /// The head of a session's queue is gone, and was not sent.
    Dropped {
        /// The session.
        session: SessionId,
    },
    /// All retained messages for a subscription were sent.
    RetainedSent {
        /// The session.
        session: SessionId,
        /// The Topic Filter of the subscription.
        filter: Box<str>,
    },
    /// A message is forwarded when everything that was stored so far is durable.
    HoldBack(Forward),
    /// A message in flight may be sent: its record is durable.
    Deliver {
        /// The session.
        session: SessionId,
        /// The Packet Identifier of the message.
        packet_id: PacketId,
    },
    /// Messages of a queue were read back from the store.
    Fetched(Box<Fetched>),
    /// Applies a record of an earlier machine: whoever owns what it is about takes it up.
    Restore {
        /// Whose record it is: SessionManager finds out, and sends it round again.
        session: Option<SessionId>,
        /// The record.
        record: Box<Record>,
    },
    /// All records of an earlier machine were applied: this session goes on, without a connection.
    SessionRestored {
        /// The session.
        session: SessionId,
    },

    /// Make `record` durable, then report `committed(seq)`.
    Store {
        /// Its position in the log.
        seq: LogSeq,
        /// What to keep.
        record: Box<Record>,
    },
    /// Read messages of a queue back from the store, then report [`Broker::fetched`](super::Broker::fetched).
    Fetch(Box<Fetch>),
    /// Find the answer and give it to `complete`.
    Ask {
        /// Names the question.
        ticket: Ticket,
        /// The question.
        query: Box<Query>,
    },
    /// Nobody waits for this answer any more.
    Forget {
        /// Names the question.
        ticket: Ticket,
    },
    /// End a connection.
    Close {
        /// The connection.
        id: ConnectionId,
        /// How.
        how: Close,
    },
    /// `read_credit` of a connection rose from 0: read again.
    Credit {
        /// The connection.
        id: ConnectionId,
    },
    /// Move a connection to another shard, socket and layers below MQTT: [`accept`](super::Broker::accept) it there, and give it
    /// what was received. Here its id is stale, and its end is not reported.
    HandOver {
        /// The connection.
        id: ConnectionId,
        /// Where it belongs.
        shard: ShardId,
        /// What goes along.
        moved: Box<Moved>,
    },
    /// Another shard said something, messages apart: those are relays.
    Heard {
        /// Who.
        from: ShardId,
        /// What.
        heard: Heard,
    },
    /// The members of a Shared Subscription, or the subscribers of another Topic Filter, are more or fewer than before. Only
    /// where there are several shards.
    Interest {
        /// The Topic Filter with `$share/…/`.
        filter: Box<str>,
        /// How many there are here.
        members: u32,
    },
    /// What another shard said was done: it is told so.
    Agree {
        /// Whom.
        to: ShardId,
        /// The number of what it said.
        number: u64,
    },
    /// Something the embedding program wanted to know.
    Notice(Box<Notice>),
}

// An action is moved several times on its way: keep it within one cache line.
const _: () = assert!(core::mem::size_of::<Action>() <= 64);

/// Which messages of a queue are wanted: what [`Image::queued`](crate::store::Image::queued) gives once every record that left before
/// was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Whose queue.
    pub session: SessionId,
    /// Its Client Identifier.
    pub client_id: Box<str>,
    /// So many messages at the head of the queue are in memory already.
    pub skip: u32,
    /// How many to read at most.
    pub messages_max: u32,
    /// Bytes of topics, properties and payloads, after which to stop. One message at least.
    pub bytes_max: u64,
}

/// See [`Action::Fetched`].
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Whose queue.
    pub session: SessionId,
    /// What was read, as [`Record::Queued`], in its order; nothing: it could not be.
    pub queued: Vec<Record>,
}

/// How the adapter ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// All output was written: shut down the writing side, go on reading (the machine discards it) until the peer
    /// closes, then report `disconnected`. So the last packet arrives instead of a reset.
    Finish,
    /// Close at once and report `disconnected`.
    Drop,
}

/// The message of a relay or forward.
#[derive(Debug, Clone)]
pub enum What {
    /// The PUBLISH that is being processed, still in the receive buffer.
    Current,
    /// A message that was kept.
    Kept(Message),
}

/// See [`Action::Relay`].
#[derive(Debug, Clone)]
pub struct Relay {
    /// The message.
    pub what: What,
    /// The session that published it, for No Local.
    pub publisher: Option<SessionId>,
    /// The acknowledgement its publisher gets when everything the relay led to was done (and is durable).
    pub ack: Option<RelayAck>,
    /// Pass it on only when everything stored so far for its connection is durable.
    pub gated: bool,
    /// The Packet Identifier its publisher gave a QoS 2 message.
    pub inbound: Option<PacketId>,
    /// The shard it was published at, if that is another one.
    pub shard: Option<ShardId>,
    /// Which of the receivers it is for. None: all of them; from another shard, all but those of Shared Subscriptions.
    pub portion: Option<Box<Portion>>,
}

/// Which of the receivers at one shard a message is for, where several have some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Portion {
    /// For those that are not in a Shared Subscription.
    pub plain: bool,
    /// Shared Subscriptions, as `$share/…/…`. Of a message from another shard: only a member of each of these gets it. Of one
    /// from here: no member of these does, because another shard chooses one.
    pub groups: Vec<Box<str>>,
    /// How often it was passed on, because a Shared Subscription had no member any more where it came.
    pub hops: u8,
    /// When it was published, if it has RETAIN: the retained message of a topic is the one with the highest version.
    pub version: Option<u64>,
    /// A message with a higher version is known.
    pub outdated: bool,
}

/// See [`Action::Heard`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A message was relayed that its shard wants acknowledged when the records up to here are durable.
    Relayed {
        /// The last record.
        through: LogSeq,
    },
    /// How many members of a Shared Subscription there are over there; of any other Topic Filter, whether there is a
    /// subscriber.
    Interest {
        /// The Topic Filter with `$share/…/`.
        filter: Box<str>,
        /// How many.
        members: u32,
    },
    /// The other shard wants to know whether what it said before was heard.
    Sync {
        /// The latest version of a retained message that it knows of.
        clock: u64,
    },
    /// What was said over there was done.
    Ack {
        /// Its number.
        number: u64,
    },
}

impl Relay {
    /// The relay of a message that nobody waits for.
    #[must_use]
    pub fn of(message: Message, publisher: Option<SessionId>) -> Self {
        let what = What::Kept(message);
        Self { what, publisher, ack: None, gated: false, inbound: None, shard: None, portion: None }
    }
}

/// See [`Relay::ack`].
#[derive(Debug, Clone, Copy)]
pub struct RelayAck {
    /// The connection that waits for it.
    pub to: ConnectionId,
    /// PUBACK or PUBREC.
    pub packet: PacketType,
    /// The identifier of the PUBLISH.
    pub packet_id: PacketId,
}

/// See [`Action::Forward`].
#[derive(Debug, Clone)]
pub struct Forward {
    /// The message; always [`What::Kept`] when the action left the chain.
    pub what: What,
    /// Who gets it.
    pub receivers: Vec<Receiver>,
    /// It was held back until it was durable.
    pub held: bool,
}

impl Forward {
    /// A message on its way to its receivers.
    #[must_use]
    pub const fn new(what: What, receivers: Vec<Receiver>) -> Self {
        Self { what, receivers, held: false }
    }

    /// The message, if it was kept: always so when the action left the chain.
    #[must_use]
    pub fn message(&self) -> Option<&Message> {
        match &self.what {
            What::Current => None,
            What::Kept(message) => Some(message),
        }
    }
}

/// One delivery: to whom and how.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// The receiving session.
    pub session: SessionId,
    /// The QoS of the delivery.
    pub qos: QoS,
    /// RETAIN flag of the delivery.
    pub retain: bool,
    /// Where the message comes from.
    pub source: Source,
    /// The Subscription Identifiers to send along.
    pub identifiers: Identifiers,
}

impl Receiver {
    /// This receiver; what is left here has no Subscription Identifiers.
    pub(crate) fn take(&mut self) -> Self {
        let Self { session, qos, retain, source, identifiers } = self;
        let identifiers = core::mem::take(identifiers);
        Self { session: *session, qos: *qos, retain: *retain, source: *source, identifiers }
    }
}

/// Where the message of a delivery comes from.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It was just relayed: it queues behind what waits for the session already.
    #[default]
    Relay,
    /// The session's queue.
    Queue,
    /// The retained messages for a new subscription.
    Retained,
}

/// Subscription Identifiers of one delivery: mostly none or one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Identifiers {
    /// No subscription that matched has one.
    #[default]
    None,
    /// One.
    One(NonZeroU32),
    /// Several overlapping subscriptions have one.
    Many(Box<Vec<NonZeroU32>>),
}

impl Identifiers {
    /// The identifiers in the order they were added.
    #[must_use]
    pub fn as_slice(&self) -> &[NonZeroU32] {
        match self {
            Self::None => &[],
            Self::One(one) => core::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// Adds one.
    pub fn push(&mut self, identifier: NonZeroU32) {
        *self = match core::mem::take(self) {
            Self::None => Self::One(identifier),
            Self::One(one) => Self::Many(Box::new(alloc::vec![one, identifier])),
            Self::Many(mut many) => {
                many.push(identifier);
                Self::Many(many)
            }
        };
    }
}

impl From<Option<NonZeroU32>> for Identifiers {
    fn from(one: Option<NonZeroU32>) -> Self {
        one.map_or(Self::None, Self::One)
    }
}

/// A message in a session's queue.
#[derive(Debug, Clone)]
pub struct Queued {
    /// The message.
    pub message: Message,
    /// The QoS of the delivery.
    pub qos: QoS,
    /// RETAIN flag of the delivery.
    pub retain: bool,
    /// Subscription Identifiers of the delivery.
    pub identifiers: Identifiers,
    /// Where the message comes from: from the queue, if a delivery could not be made after all.
    pub source: Source,
}

/// See [`Action::Reply`].
#[derive(Debug, Clone)]
pub struct Reply {
    /// The connection that waits for it.
    pub to: ConnectionId,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK or UNSUBACK.
    pub packet: PacketType,
    /// The identifier it answers.
    pub packet_id: PacketId,
    /// The reason code of PUBACK to PUBCOMP.
    pub reason: ReasonCode,
    /// The reason codes of SUBACK and UNSUBACK, one per filter.
    pub codes: Box<[ReasonCode]>,
}

/// See [`Action::OpenSession`].
#[derive(Debug, Clone)]
pub struct OpenSession {
    /// The connection that sent CONNECT.
    pub connection: ConnectionId,
    /// Clean Start.
    pub clean_start: bool,
    /// Session Expiry Interval in seconds; `u32::MAX`: never.
    pub expiry: u32,
    /// The Client Identifier; empty: assign one.
    pub client_id: Box<str>,
}

/// See [`Action::SubscribeTopic`].
#[derive(Debug, Clone)]
pub struct SubscribeTopic {
    /// The subscribing session.
    pub session: SessionId,
    /// The Topic Filter without `$share/…/`.
    pub filter: Box<str>,
    /// The ShareName of a shared subscription.
    pub share: Option<Box<str>>,
    /// QoS, No Local, Retain As Published, Retain Handling.
    pub options: SubscriptionOptions,
    /// The Subscription Identifier.
    pub identifier: Option<NonZeroU32>,
}

impl SubscribeTopic {
    /// Options and Subscription Identifier as records hold them.
    pub(crate) fn to_record(&self) -> (u8, u32) {
        (self.options.to_byte(), self.identifier.map_or(0, NonZeroU32::get))
    }
}

/// See [`Action::TopicSubscribed`].
#[derive(Debug, Clone)]
pub struct TopicSubscribed {
    /// What was subscribed.
    pub topic: SubscribeTopic,
    /// Whether the subscription existed before and was replaced.
    pub existed: bool,
}

/// See [`Action::UnsubscribeTopic`].
#[derive(Debug, Clone)]
pub struct UnsubscribeTopic {
    /// The session.
    pub session: SessionId,
    /// The Topic Filter without `$share/…/`.
    pub filter: Box<str>,
    /// The ShareName of a shared subscription.
    pub share: Option<Box<str>>,
}

/// See [`Action::TopicUnsubscribed`].
#[derive(Debug, Clone)]
pub struct TopicUnsubscribed {
    /// What was unsubscribed.
    pub topic: UnsubscribeTopic,
    /// Whether the subscription had existed.
    pub existed: bool,
}

impl Reply {
    /// The acknowledgement of a relay, with success.
    #[must_use]
    pub fn of(ack: RelayAck) -> Self {
        let RelayAck { to, packet, packet_id } = ack;
        Self { to, packet, packet_id, reason: ReasonCode::Success, codes: Box::default() }
    }
}
