//! The chain: middlewares that see packets and actions, and handle, change, refuse or pass them.
//!
//! The twelve built-in ones each document three lists: what they *listen* to, what they *emit*, what they *own*.
//! A middleware never calls another one: it emits an [`Action`].

mod authentication;
mod authorize;
mod connection;
mod durable_backend;
mod inbound_manager;
mod keep_alive;
mod last_will;
mod memory_backend;
mod outbound_manager;
mod packet_emitter;
mod retain_manager;
mod session_manager;
mod shards;
mod stack;
mod subscription_manager;
#[cfg(test)]
mod tests;

pub use authentication::{Authenticate, Authentication, Decision};
pub use authorize::{Authorize, Permission, Policy, Wanted};
pub use connection::Connection;
pub use durable_backend::DurableBackend;
pub use inbound_manager::InboundManager;
pub use keep_alive::KeepAlive;
pub use last_will::LastWill;
pub use memory_backend::MemoryBackend;
pub use outbound_manager::OutboundManager;
pub(crate) use outbound_manager::takes_once;
pub use packet_emitter::{Notices, PacketEmitter};
pub use retain_manager::RetainManager;
pub use session_manager::SessionManager;
pub use shards::Shards;
pub use stack::{Stack, UnknownMiddleware};
pub use subscription_manager::SubscriptionManager;

use crate::broker::{Action, Answer, Cx, Inspection, Owner, Peer, Receiver, Record};
use crate::error::Violation;
use crate::id::{ConnectionId, SessionId};
use crate::packet::{
    Ack, Auth, Connect, Disconnect, Packet, PacketType, Publish, ReasonCode, Subscribe, Unsubscribe,
};
use crate::saved::{Malformed, Reader, Writer};
use crate::topic::Subscription;
use core::ops::BitOr;

/// What a middleware did with what it saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// Passed on, changed or not.
    Next,
    /// Handled: nobody behind sees it.
    Done,
    /// Refused by policy: the peer gets the answer that the packet has for it (CONNACK, PUBACK, SUBACK, …), or is
    /// disconnected where it has none.
    Refuse(ReasonCode),
    /// The peer broke a rule: it is told and disconnected.
    Violation(Violation),
    /// Waits for an answer; only what [`Cx::ask`] returned.
    Suspend,
}

impl From<Result<(), Violation>> for Flow {
    fn from(result: Result<(), Violation>) -> Self {
        match result {
            Ok(()) => Self::Next,
            Err(violation) => Self::Violation(violation),
        }
    }
}

/// What a middleware wants to see: what it does not want costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hooks(u64);

macro_rules! hooks {
    ($($(#[doc = $doc:literal])+ $name:ident = $bit:expr;)*) => {
        impl Hooks {
            $($(#[doc = $doc])+ pub const $name: Hooks = Hooks(1 << $bit);)*
        }
    };
}

/// Where the hooks of actions start; those of packets are numbered by packet type.
const ACTIONS: u32 = 20;

hooks! {
    /// [`Middleware::connect`]
    CONNECT = 1;
    /// [`Middleware::publish`]
    PUBLISH = 3;
    /// [`Middleware::puback`]
    PUBACK = 4;
    /// [`Middleware::pubrec`]
    PUBREC = 5;
    /// [`Middleware::pubrel`]
    PUBREL = 6;
    /// [`Middleware::pubcomp`]
    PUBCOMP = 7;
    /// [`Middleware::subscribe`]
    SUBSCRIBE = 8;
    /// [`Middleware::unsubscribe`]
    UNSUBSCRIBE = 10;
    /// [`Middleware::pingreq`]
    PINGREQ = 12;
    /// [`Middleware::disconnect`]
    DISCONNECT = 14;
    /// [`Middleware::auth`]
    AUTH = 15;
    /// [`Middleware::packet`]
    PACKET = Hooks::PACKET_INDEX;
    /// [`Middleware::accept`]
    ACCEPT = Hooks::ACCEPT_INDEX;
    /// [`Middleware::closed`]
    CLOSED = Hooks::CLOSED_INDEX;
    /// [`Action::Relay`]
    RELAY = ACTIONS;
    /// [`Action::Relay`] of a message with RETAIN only
    RELAY_RETAINED = Hooks::RETAINED_INDEX;
    /// [`Action::Forward`]
    FORWARD = ACTIONS + 1;
    /// [`Action::Reply`]
    REPLY = ACTIONS + 2;
    /// [`Action::OpenSession`]
    OPEN_SESSION = ACTIONS + 3;
    /// [`Action::SessionOpened`]
    SESSION_OPENED = ACTIONS + 4;
    /// [`Action::CleanDisconnect`]
    CLEAN_DISCONNECT = ACTIONS + 5;
    /// [`Action::UncleanDisconnect`]
    UNCLEAN_DISCONNECT = ACTIONS + 6;
    /// [`Action::SessionEnded`]
    SESSION_ENDED = ACTIONS + 7;
    /// [`Action::CloseClient`]
    CLOSE_CLIENT = ACTIONS + 8;
    /// [`Action::SubscribeTopic`]
    SUBSCRIBE_TOPIC = ACTIONS + 9;
    /// [`Action::TopicSubscribed`]
    TOPIC_SUBSCRIBED = ACTIONS + 10;
    /// [`Action::UnsubscribeTopic`]
    UNSUBSCRIBE_TOPIC = ACTIONS + 11;
    /// [`Action::StoreRetained`]
    STORE_RETAINED = ACTIONS + 12;
    /// [`Action::LookupRetained`]
    LOOKUP_RETAINED = ACTIONS + 13;
    /// [`Action::StoreOffline`]
    STORE_OFFLINE = ACTIONS + 14;
    /// [`Action::LookupOffline`]
    LOOKUP_OFFLINE = ACTIONS + 15;
    /// [`Action::StoreSession`]
    STORE_SESSION = ACTIONS + 16;
    /// [`Action::StoreInbound`]
    STORE_INBOUND = ACTIONS + 17;
    /// [`Action::Room`]
    ROOM = ACTIONS + 18;
    /// [`Action::Notice`]
    NOTICE = ACTIONS + 19;
    /// [`Action::TopicUnsubscribed`]
    TOPIC_UNSUBSCRIBED = ACTIONS + 20;
    /// [`Action::Unsubscribed`]
    UNSUBSCRIBED = ACTIONS + 21;
    /// Every other action.
    OTHER = ACTIONS + 22;
    /// [`Action::Restore`]
    RESTORE = ACTIONS + 23;
    /// [`Action::SessionRestored`]
    SESSION_RESTORED = ACTIONS + 24;
    /// [`Action::SessionAttached`]
    SESSION_ATTACHED = ACTIONS + 25;
    /// [`Action::Deliver`]
    DELIVER = ACTIONS + 26;
    /// [`Action::RetainedSent`]
    RETAINED_SENT = ACTIONS + 27;
    /// [`Action::Dropped`]
    DROPPED = ACTIONS + 28;
    /// [`Action::Fetched`]
    FETCHED = ACTIONS + 30;
    /// [`Action::Heard`]
    HEARD = ACTIONS + 31;
    /// [`Action::Interest`]
    INTEREST = ACTIONS + 32;
    /// [`Action::Agree`]
    AGREE = ACTIONS + 33;
    /// What this part does is to be durable: [`Cx::journal`] makes records, which leave as [`Action::Store`]. No
    /// method is called for it.
    STORE = Hooks::STORE_INDEX;
}

impl Hooks {
    /// Nothing.
    pub const NONE: Hooks = Hooks(0);
    pub(crate) const PACKET_INDEX: usize = 16;
    pub(crate) const ACCEPT_INDEX: usize = 17;
    pub(crate) const CLOSED_INDEX: usize = 18;
    pub(crate) const RETAINED_INDEX: usize = 19;
    /// How many hooks there are.
    pub(crate) const COUNT: usize = ACTIONS as usize + 34;
    pub(crate) const STORE_INDEX: usize = ACTIONS as usize + 29;

    pub(crate) fn has(self, bit: usize) -> bool {
        self.0 & (1 << bit) != 0
    }

    pub(crate) fn any(self, of: Hooks) -> bool {
        self.0 & of.0 != 0
    }

    #[inline]
    pub(crate) fn of_packet(packet: PacketType) -> usize {
        packet as usize
    }

    #[inline]
    pub(crate) fn of_action(action: &Action) -> usize {
        let hook = match action {
            Action::Relay(_) => Self::RELAY,
            Action::Forward(_) => Self::FORWARD,
            Action::Reply(_) => Self::REPLY,
            Action::OpenSession(_) => Self::OPEN_SESSION,
            Action::SessionOpened { .. } => Self::SESSION_OPENED,
            Action::CleanDisconnect { .. } => Self::CLEAN_DISCONNECT,
            Action::UncleanDisconnect { .. } => Self::UNCLEAN_DISCONNECT,
            Action::SessionEnded { .. } => Self::SESSION_ENDED,
            Action::CloseClient { .. } => Self::CLOSE_CLIENT,
            Action::SubscribeTopic(_) => Self::SUBSCRIBE_TOPIC,
            Action::TopicSubscribed(_) => Self::TOPIC_SUBSCRIBED,
            Action::UnsubscribeTopic(_) => Self::UNSUBSCRIBE_TOPIC,
            Action::StoreRetained(_) => Self::STORE_RETAINED,
            Action::LookupRetained(_) => Self::LOOKUP_RETAINED,
            Action::StoreOffline { .. } => Self::STORE_OFFLINE,
            Action::LookupOffline { .. } => Self::LOOKUP_OFFLINE,
            Action::StoreSession { .. } => Self::STORE_SESSION,
            Action::StoreInbound { .. } => Self::STORE_INBOUND,
            Action::Room { .. } => Self::ROOM,
            Action::Notice(_) => Self::NOTICE,
            Action::TopicUnsubscribed(_) => Self::TOPIC_UNSUBSCRIBED,
            Action::Unsubscribed { .. } => Self::UNSUBSCRIBED,
            Action::Restore { .. } => Self::RESTORE,
            Action::SessionRestored { .. } => Self::SESSION_RESTORED,
            Action::SessionAttached { .. } => Self::SESSION_ATTACHED,
            Action::Deliver { .. } => Self::DELIVER,
            Action::RetainedSent { .. } => Self::RETAINED_SENT,
            Action::Dropped { .. } => Self::DROPPED,
            Action::Fetched(_) => Self::FETCHED,
            Action::Heard { .. } => Self::HEARD,
            Action::Interest { .. } => Self::INTEREST,
            Action::Agree { .. } => Self::AGREE,
            _ => Self::OTHER,
        };
        hook.0.trailing_zeros() as usize
    }
}

impl BitOr for Hooks {
    type Output = Hooks;
    fn bitor(self, rhs: Hooks) -> Hooks {
        Hooks(self.0 | rhs.0)
    }
}

/// A part of the chain. Every hook passes on unless it is written.
///
/// `name` is how the part is found in a [`Stack`]; `wants` is asked once, when it enters one.
#[allow(unused_variables)]
pub trait Middleware: Send {
    /// Its name in the chain.
    fn name(&self) -> &'static str;

    /// The hooks to call.
    fn wants(&self) -> Hooks;

    /// The hooks at which it does nothing that would be missed when a message without RETAIN and properties takes the short
    /// way: from its relay, with QoS 0 and 1 from PUBLISH, straight to those whom [`subscribers`](Self::subscribers) names. As long
    /// as a part wants such a hook and does not say so, no message does. Of packets it is told one per input.
    fn shortens(&self) -> Hooks {
        Hooks::NONE
    }

    /// Who is subscribed to a topic, if the relay of a message leads to these and to nothing else. The topic may be no Topic
    /// Name yet: then the answer is `None`.
    fn subscribers(&mut self, topic: &[u8]) -> Option<&[Subscription]> {
        None
    }

    /// Delivers the message of the packet in hand to the client of one session, as a [`Action::Forward`] to it does. It has
    /// `many` receivers, of which this is the `first`.
    fn deliver(&mut self, cx: &mut Cx<'_>, receiver: &mut Receiver, many: bool, first: bool) {}

    /// Called once, before anything else: make what depends on settings and seed.
    fn install(&mut self, cx: &mut Cx<'_>) {}

    /// A connection comes in: [`Flow::Refuse`] closes it without a word. What the layers below MQTT learn of the peer later
    /// is known when its CONNECT comes, in [`Connection::peer`](crate::connection::Connection::peer).
    fn accept(&mut self, cx: &mut Cx<'_>, id: ConnectionId, peer: &Peer) -> Flow {
        Flow::Next
    }

    /// Any packet, before it is decoded.
    fn packet(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: PacketType) -> Flow {
        Flow::Next
    }

    /// A CONNECT packet.
    fn connect(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Connect<'_>) -> Flow {
        Flow::Next
    }

    /// A PUBLISH packet.
    fn publish(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Publish<'_>) -> Flow {
        Flow::Next
    }

    /// A PUBACK packet.
    fn puback(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &Ack<'_>) -> Flow {
        Flow::Next
    }

    /// A PUBREC packet.
    fn pubrec(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &Ack<'_>) -> Flow {
        Flow::Next
    }

    /// A PUBREL packet.
    fn pubrel(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &Ack<'_>) -> Flow {
        Flow::Next
    }

    /// A PUBCOMP packet.
    fn pubcomp(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &Ack<'_>) -> Flow {
        Flow::Next
    }

    /// A SUBSCRIBE packet.
    fn subscribe(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Subscribe<'_>) -> Flow {
        Flow::Next
    }

    /// An UNSUBSCRIBE packet.
    fn unsubscribe(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Unsubscribe<'_>) -> Flow {
        Flow::Next
    }

    /// A PINGREQ packet.
    fn pingreq(&mut self, cx: &mut Cx<'_>, from: ConnectionId) -> Flow {
        Flow::Next
    }

    /// A DISCONNECT packet. The machine closes the connection when nobody handled it.
    fn disconnect(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Disconnect<'_>) -> Flow {
        Flow::Next
    }

    /// An AUTH packet.
    fn auth(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Auth<'_>) -> Flow {
        Flow::Next
    }

    /// A connection is over, for whatever reason. Its session, if it has one, hears of it by an action.
    fn closed(&mut self, cx: &mut Cx<'_>, id: ConnectionId) {}

    /// An action.
    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        Flow::Next
    }

    /// The answer to what this part asked about a packet: decide, but leave no trace of the packet yet. Others of the
    /// connection may still wait before it.
    fn answer(
        &mut self,
        cx: &mut Cx<'_>,
        from: ConnectionId,
        packet: &mut Packet<'_>,
        answer: Answer,
    ) -> Flow {
        match answer {
            Answer::Deny(reason) => Flow::Refuse(reason),
            _ => Flow::Next,
        }
    }

    /// A timer that this part armed.
    fn timer(&mut self, cx: &mut Cx<'_>, owner: Owner) {}

    /// Describes what this part owns of a stored session, or, without one, what belongs to no session: as records that
    /// [`Action::Restore`] makes the same state of. Equal states give equal records.
    fn records(&self, cx: &Cx<'_>, session: Option<SessionId>, each: &mut dyn FnMut(Record)) {}

    /// Adds what this part knows of a session, and of the connection it is attached to, for
    /// [`Broker::inspect`](crate::Broker::inspect).
    fn inspect(&self, session: SessionId, found: &mut Inspection) {}

    /// Appends what this part keeps from one input to the next, for
    /// [`Broker::snapshot`](crate::Broker::snapshot). Who keeps nothing writes nothing.
    fn save(&self, to: &mut Writer<'_>) {}

    /// Takes over what [`save`](Self::save) of a part like this one wrote, all of it. Called on a part that was just
    /// installed. Nothing is emitted here: connections, sessions and timers are there already, as they were.
    ///
    /// # Errors
    /// The bytes are not what `save` writes.
    fn load(&mut self, cx: &mut Cx<'_>, from: &mut Reader<'_>) -> Result<(), Malformed> {
        Ok(())
    }
}

/// The topic of a PUBLISH without making it a `String` when it need not be one.
pub(crate) fn boxed(text: &str) -> alloc::boxed::Box<str> {
    alloc::boxed::Box::from(text)
}
