//! One network connection: facts that several middlewares share, its buffers, its phase.

mod aliases;
mod outbox;
mod phase;

pub(crate) use aliases::Aliases;
pub use outbox::Outbox;
pub(crate) use outbox::Pool;
pub use phase::{Phase, Verdict, verdict};

use crate::broker::{Disconnect, Parked, Peer, Reply};
use crate::config::Config;
use crate::id::{ConnectionId, LogSeq, SessionId};
use crate::packet::{ReasonCode, Version};
use crate::redact::Redaction;
use crate::saved::saved;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

/// What is known of one network connection.
///
/// Each fact names the middleware that sets it; everybody may read.
pub struct Connection {
    /// Where it comes from, and who the transport says it is. Set by `accept` and `identified`.
    pub peer: Peer,
    /// Its place in the life of a connection. Moved by Connection, SessionManager and the machine.
    pub phase: Phase,
    /// The protocol version of its CONNECT; 3.1.1 before.
    pub version: Version,
    /// Its session, once CONNECT was accepted. Set by SessionManager.
    pub session: Option<SessionId>,
    /// The User Name it is known by. Set by Authentication.
    pub user_name: Option<Box<str>>,
    /// The largest packet the client accepts. Set by Connection.
    pub packet_size_max: u32,
    /// Incoming QoS 1 and 2 messages the client may have in flight to us; its own limit. Set by Connection.
    pub receive_maximum: u16,
    /// Topic Aliases the client accepts. Set by Connection.
    pub topic_alias_maximum: u16,
    /// The Keep Alive that counts, in seconds. Set by KeepAlive.
    pub keep_alive_s: u16,
    /// Whether the client was told a Keep Alive other than its own. Set by KeepAlive.
    pub keep_alive_lowered: bool,
    /// Whether its Client Identifier is that of the transport, and its client is told: it sent none. Set by the machine.
    pub(crate) named: bool,
    /// Whether what its client says and hears is below the mount point of its listener. Follows from the settings.
    pub(crate) mounted: bool,
    /// Whether its listener takes smaller packets than others. Follows from the settings.
    pub(crate) limited: bool,
    /// Whether Reason Strings and User Properties may be sent with any packet (Request Problem Information).
    pub problem_information: bool,
    /// What its last packet tells an MQTT 5.0 client besides the reason code. Set by whoever ends it.
    pub farewell: Option<Box<Farewell>>,
    /// What CONNACK tells the client besides success. Set by Authentication.
    pub authentication_data: Option<Box<Bytes>>,
    /// Whether the client asked for Response Information. Set by Connection.
    pub response_information: bool,
    /// The session's queue or a retained page waits for room in this outbox: announce it.
    pub wants_room: bool,
    /// The reason code of the client's DISCONNECT.
    pub(crate) clean_reason: ReasonCode,
    /// The adapter reported it gone.
    pub(crate) departed: Option<Disconnect>,
    pub(crate) dirty: bool,
    pub(crate) blocked: bool,
    /// It is not read until [`Action::Credit`](crate::Action::Credit).
    pub(crate) stalled: bool,
    /// PUBACKs that wait for their gate: with the QoS 2 identifiers in use, what counts against Receive Maximum.
    pub(crate) gated: u16,
    /// The last record stored on behalf of this connection: its acknowledgements wait for it.
    pub(crate) stored: LogSeq,
    /// The acknowledgements that wait for their gate, or behind one that does, in the order of what they answer. Its
    /// place is kept from the moment the order is known.
    // Most connections never have one, and an idle connection should cost a pointer.
    #[allow(clippy::box_collection)]
    pub(crate) waiting: Option<Box<VecDeque<Place>>>,
    pub(crate) inbox: Vec<u8>,
    pub(crate) aliases: Aliases,
    pub(crate) outbox: Outbox,
    // Most connections never have one, and an idle connection should cost a pointer.
    #[allow(clippy::box_collection)]
    pub(crate) parked: Option<Box<VecDeque<Parked>>>,
}

saved! {
    struct Connection {
        peer, phase, version, session, user_name, packet_size_max, receive_maximum, topic_alias_maximum,
        keep_alive_s, keep_alive_lowered, problem_information, farewell, authentication_data,
        response_information, wants_room, clean_reason, departed, dirty, blocked, stalled, gated, stored, waiting,
        inbox, aliases, outbox, parked, named;
        mounted = false, limited = false
    }
}

impl fmt::Debug for Connection {
    // Its buffers may hold passwords and payloads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("phase", &self.phase)
            .field("version", &self.version)
            .field("session", &self.session)
            .field("user_name", &self.user_name)
            .field("outbox_bytes", &self.outbox.len())
            .finish_non_exhaustive()
    }
}

/// The place of an acknowledgement: its number, and what is ready to be written there.
pub(crate) type Place = (u64, Option<Reply>);

/// What the CONNACK or DISCONNECT that ends a connection says besides its reason code.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// Reason String: for people who look for the cause.
    pub reason_string: Option<Box<str>>,
    /// Server Reference: where to go instead.
    pub server_reference: Option<Box<str>>,
}

impl Connection {
    pub(crate) fn new(peer: Peer) -> Self {
        Self {
            peer,
            phase: Phase::Opened,
            version: Version::V311,
            session: None,
            user_name: None,
            packet_size_max: u32::MAX,
            receive_maximum: u16::MAX,
            topic_alias_maximum: 0,
            keep_alive_s: 0,
            keep_alive_lowered: false,
            named: false,
            mounted: false,
            limited: false,
            problem_information: true,
            farewell: None,
            authentication_data: None,
            response_information: false,
            wants_room: false,
            clean_reason: ReasonCode::Success,
            departed: None,
            dirty: false,
            blocked: false,
            stalled: false,
            gated: 0,
            stored: LogSeq(0),
            waiting: None,
            inbox: Vec::new(),
            aliases: Aliases::default(),
            outbox: Outbox::default(),
            parked: None,
        }
    }

    /// Takes up what follows from the settings of its listener.
    pub(crate) fn set_up(&mut self, config: &Config) {
        self.mounted = !config.listener(self.peer.listener).mount_point.is_empty();
        self.limited = self.packet_limit_by(config) < config.packet_size_max;
    }

    fn packet_limit_by(&self, config: &Config) -> u32 {
        config.packet_size_max_of(self.peer.listener)
    }

    /// Bytes of the largest packet it may send.
    #[inline]
    pub(crate) fn packet_limit(&self, config: &Config) -> u32 {
        if self.limited { self.packet_limit_by(config) } else { config.packet_size_max }
    }

    /// Whether its client gets messages as they are, whatever their size.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.packet_size_max == u32::MAX && self.topic_alias_maximum == 0 && !self.mounted
    }

    /// Whether it is over, but for its last packets.
    #[inline]
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Closing | Phase::Closed)
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn outbox_bytes(&self) -> usize {
        self.outbox.len()
    }

    /// Whether an exchange of enhanced authentication is going on.
    #[must_use]
    pub fn authenticates(&self) -> bool {
        self.parked.as_ref().is_some_and(|parked| parked.iter().any(Parked::is_exchange))
    }

    /// Whether the next step of an exchange is the client's.
    #[must_use]
    pub fn waits_for_auth(&self) -> bool {
        self.parked.as_ref().is_some_and(|parked| parked.iter().any(Parked::waits_for_client))
    }

    /// What it sent and what was not worked off: the beginning of a packet, or more if it is held up.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.inbox
    }

    /// Replaces what nobody else may read, once everything was read from a snapshot.
    pub(crate) fn redact(&mut self, id: ConnectionId, redaction: &Redaction<'_>) {
        redaction.unread(id, &mut self.inbox);
        let version = self.version;
        for parked in self.parked.iter_mut().flat_map(|parked| parked.iter_mut()) {
            parked.redact(redaction, version);
        }
        self.outbox.redact();
    }

    /// Whether we, not the client, hold up its packets.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.stalled
    }
}
