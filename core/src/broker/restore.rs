//! Making a machine's state anew from what an earlier one stored.

use super::{Action, Broker, Record};
use alloc::boxed::Box;
use core::fmt;

/// How much was restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Records that were read.
    pub records: u64,
    /// Sessions that exist now.
    pub sessions: usize,
}

/// Why records cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreError {
    /// Connections were accepted already: what they were told would no longer be true.
    Late,
    /// A record belongs to a session that no record before it made.
    UnknownSession {
        /// Its Client Identifier.
        client_id: Box<str>,
        /// Which record: the first is 1.
        record: u64,
    },
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("records are restored before the first connection is accepted"),
            Self::UnknownSession { client_id, record } => {
                write!(f, "record {record} belongs to a session that no earlier record made: {client_id:?}")
            }
        }
    }
}

impl core::error::Error for RestoreError {}

impl Broker {
    /// Makes the state that a sequence of records describes, before the first [`accept`](Self::accept): sessions are
    /// routable before anybody can connect. Any prefix of a log gives the state at that prefix.
    ///
    /// # Errors
    /// At the first record that makes no sense; what came before it is restored.
    pub fn restore(&mut self, records: impl IntoIterator<Item = Record>) -> Result<Restored, RestoreError> {
        if self.state.stats.connections_accepted > 0 {
            return Err(RestoreError::Late);
        }
        let mut restored = Restored::default();
        self.state.restoring = true;
        let mut outcome = Ok(());
        for record in records {
            restored.records += 1;
            self.state.work.push(Action::Restore(Box::new(record)));
            self.run(None);
            if let Some(client_id) = self.state.unknown.take() {
                outcome = Err(RestoreError::UnknownSession { client_id, record: restored.records });
                break;
            }
        }
        self.state.restoring = false;
        restored.sessions = self.state.sessions.len();
        outcome.map(|()| restored)
    }
}
