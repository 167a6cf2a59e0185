//! What is known of a session: the facts that several middlewares share. Everything else a session has (window, queue,
//! will, identifiers) is owned by the middleware whose business it is.

use crate::id::ConnectionId;
use crate::packet::Version;
use crate::time::Wall;
use alloc::boxed::Box;

/// One session: what MQTT keeps per Client Identifier.
///
/// Set by SessionManager, but for `queued`, `outside`, `subscriptions` and `paging`, which the backend keeps true.
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
    /// How many of those only the store has.
    pub outside: u32,
    /// Its subscriptions.
    pub subscriptions: u32,
    /// Retained messages wait to be sent to it.
    pub paging: bool,
    /// The log knows of it: what happens to it is recorded. Only in a durable chain, and not if the session ends with its
    /// connection.
    pub stored: bool,
    /// When it lost its connection; `None`: it is attached to one, or was when an earlier machine ended.
    pub left: Option<Wall>,
    /// It is a subscription of the embedding program: its deliveries leave the machine as actions.
    pub program: bool,
}

impl Session {
    /// Milliseconds from `now` until an interval is over that began when the session lost its connection, even if that
    /// was before a restart. A clock that was set back does not make it longer.
    #[must_use]
    pub fn remaining_ms(&self, interval_s: u32, now: Wall) -> u64 {
        let interval_ms = u64::from(interval_s) * 1_000;
        let gone_ms = self.left.map_or(0, |left| now.0.saturating_sub(left.0));
        interval_ms.saturating_sub(gone_ms)
    }

    /// Whether it ends now unless it is attached to a connection.
    pub(crate) fn over(&self, now: Wall) -> bool {
        self.expiry != u32::MAX && self.remaining_ms(self.expiry, now) == 0
    }
}
