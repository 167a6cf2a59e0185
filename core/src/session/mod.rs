//! What is known of a session: the facts that several middlewares share. Everything else a session has (window, queue,
//! will, identifiers) is owned by the middleware whose business it is.

use crate::id::ConnectionId;
use crate::packet::Version;
use alloc::boxed::Box;

/// One session: what MQTT keeps per Client Identifier.
///
/// Set by SessionManager, but for `queued`, `subscriptions` and `paging`, which the backend keeps true.
#[derive(Debug)]
pub struct Session {
    /// The Client Identifier; empty for a subscription of the embedding program.
    pub client_id: Box<str>,
    /// The connection it is attached to.
    pub connection: Option<ConnectionId>,
    /// The protocol version of its last connection.
    pub version: Version,
    /// Session Expiry Interval in seconds; 0: ends with the connection, `u32::MAX`: never.
    pub expiry: u32,
    /// Messages in its queue.
    pub queued: u32,
    /// Its subscriptions.
    pub subscriptions: u32,
    /// Retained messages wait to be sent to it.
    pub paging: bool,
    /// It is a subscription of the embedding program: its deliveries leave the machine as actions.
    pub program: bool,
}
