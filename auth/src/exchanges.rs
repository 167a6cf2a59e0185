//! Exchanges that are going on: so many at most, the oldest goes. A connection that closes says nothing here, so that is
//! also how what it left behind goes.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use culex_core::ConnectionId;

/// What has been said; the client has to prove next.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Who the client says it is.
    pub(crate) name: Box<str>,
    /// The GS2 header in base64, which the client has to repeat.
    pub(crate) binding: Box<str>,
    /// Both nonces, which the client has to repeat.
    pub(crate) nonce: Box<str>,
    /// The client's first message without the header, a comma, the server's first message.
    pub(crate) said: String,
}

/// At most one exchange per connection.
#[derive(Debug)]
pub(crate) struct Exchanges {
    max: usize,
    next: u64,
    /// In the order they began.
    ages: BTreeMap<u64, ConnectionId>,
    open: BTreeMap<ConnectionId, (u64, Exchange)>,
}

impl Exchanges {
    pub(crate) fn new(max: usize) -> Self {
        Self { max: max.max(1), next: 0, ages: BTreeMap::new(), open: BTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Keeps an exchange; it replaces that of the same connection, or where there is no room the oldest.
    pub(crate) fn insert(&mut self, id: ConnectionId, exchange: Exchange) {
        self.remove(id);
        while self.open.len() >= self.max {
            let Some((_, oldest)) = self.ages.pop_first() else { break };
            self.open.remove(&oldest);
        }
        self.next += 1;
        self.ages.insert(self.next, id);
        self.open.insert(id, (self.next, exchange));
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Exchange> {
        let (age, exchange) = self.open.remove(&id)?;
        self.ages.remove(&age);
        Some(exchange)
    }
}
