//! Questions the machine asks the outside, what the embedding program is told, and what is stored.

use crate::broker::Peer;
use crate::id::{ConnectionId, SessionId};
use crate::message::Message;
use crate::packet::{QoS, ReasonCode, Version};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

/// A question; its answer comes back through `complete`. Without an answer in time it counts as refused.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Query {
    /// May this client connect?
    Authenticate(Credentials),
    /// May this client do that?
    Authorize {
        /// Who asks.
        client_id: Box<str>,
        /// The User Name of its CONNECT.
        user_name: Option<Box<str>>,
        /// What it wants to do.
        access: Access,
    },
    /// A question of a custom middleware.
    Custom(Bytes),
}

/// What a CONNECT says about who sends it.
#[derive(Clone)]
pub struct Credentials {
    /// The connection: the steps of one exchange of enhanced authentication have the same.
    pub connection: ConnectionId,
    /// Where the connection comes from.
    pub peer: Peer,
    /// The protocol version.
    pub version: Version,
    /// The Client Identifier as sent; may be empty.
    pub client_id: Box<str>,
    /// The User Name.
    pub user_name: Option<Box<str>>,
    /// The Password.
    pub password: Option<Bytes>,
    /// The Authentication Method of enhanced authentication.
    pub method: Option<Box<str>>,
    /// The Authentication Data of this step.
    pub data: Option<Bytes>,
}

impl fmt::Debug for Credentials {
    // Secrets never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("peer", &self.peer)
            .field("client_id", &self.client_id)
            .field("user_name", &self.user_name)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// What a client wants to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Publish to a topic.
    Publish {
        /// The Topic Name.
        topic: Box<str>,
        /// Its QoS.
        qos: QoS,
        /// Its RETAIN flag.
        retain: bool,
    },
    /// Subscribe; one verdict per filter.
    Subscribe {
        /// The Topic Filters as sent, with the Maximum QoS asked for.
        filters: Vec<(Box<str>, QoS)>,
    },
    /// Leave a Will.
    Will {
        /// The Will Topic.
        topic: Box<str>,
        /// Its QoS.
        qos: QoS,
        /// Its RETAIN flag.
        retain: bool,
    },
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Yes.
    Allow,
    /// Yes, and this is the client's name from now on (User Name of the connection).
    AllowAs(Box<str>),
    /// Yes, enhanced authentication succeeded: the client gets this last Authentication Data, and is known by this
    /// name if there is one.
    AllowWith {
        /// Its name from now on.
        user_name: Option<Box<str>>,
        /// What proves to the client that the server knows its secret too.
        data: Bytes,
    },
    /// No; an MQTT 5.0 client is told this reason.
    Deny(ReasonCode),
    /// No, but another server would serve it: this Server Reference.
    Redirect {
        /// Where.
        server_reference: Box<str>,
        /// For good (0x9D) or for now (0x9C).
        moved: bool,
    },
    /// Per Topic Filter of a SUBSCRIBE: `None` allows it.
    PerFilter(Vec<Option<ReasonCode>>),
    /// Enhanced authentication goes on: send AUTH with this data.
    Continue(Bytes),
    /// The answer to [`Query::Custom`].
    Custom(Bytes),
}

/// What the PacketEmitter tells the embedding program.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Notice {
    /// A client is connected.
    Connected {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// Its connection.
        connection: ConnectionId,
        /// Whether a session was resumed.
        session_present: bool,
    },
    /// A client is no longer connected.
    Disconnected {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// Whether it said DISCONNECT.
        clean: bool,
    },
    /// A session ended.
    SessionEnded {
        /// Its Client Identifier.
        client_id: Box<str>,
    },
    /// A client subscribed.
    Subscribed {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Topic Filter without `$share/…/`.
        filter: Box<str>,
        /// The QoS granted.
        qos: QoS,
    },
    /// A client unsubscribed.
    Unsubscribed {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The Topic Filter without `$share/…/`.
        filter: Box<str>,
    },
    /// A message was published.
    Published {
        /// By whom; `None`: by the program or as a will.
        client_id: Option<Box<str>>,
        /// The message.
        message: Message,
    },
    /// A peer broke a rule and was told so.
    Violated {
        /// Its connection.
        connection: ConnectionId,
        /// Its address and listener.
        peer: Peer,
        /// The rule and the reason code.
        violation: crate::error::Violation,
    },
    /// So many notices were dropped because nobody polled.
    Dropped(u64),
}

/// Who published a message that came without a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The embedding program.
    Program,
    /// A session, for instance by its will.
    Session(SessionId),
}
