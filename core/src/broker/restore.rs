//! Making a machine's state anew from what an earlier one stored.

use super::{Action, Broker, Record};
use crate::id::{LogSeq, SessionId};
use alloc::boxed::Box;
use alloc::vec::Vec;
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
    /// routable before anybody can connect. Any prefix of a log that includes what was reported
    /// [`committed`](Self::committed) will do.
    ///
    /// Then goes on from there, as after a crash: every client is gone, sessions whose time ran out meanwhile end, wills
    /// that are owed are published, messages that were accepted and not yet relayed are. What comes of that is stored
    /// anew, so drain [`poll_action`](Self::poll_action) as after any input.
    ///
    /// The records have the positions from 1 on, the next one that is stored gets the position behind them. If
    /// they are not a whole log, as what [`records`](Self::records) made is not, use
    /// [`restore_through`](Self::restore_through).
    ///
    /// # Errors
    /// At the first record that makes no sense; what came before it is restored, and nothing goes on.
    pub fn restore(&mut self, records: impl IntoIterator<Item = Record>) -> Result<Restored, RestoreError> {
        self.restore_all(records, None)
    }

    /// Like [`restore`](Self::restore), where `through` is the position of the last record: it counts as committed, and
    /// the next record that is stored gets the position behind it.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn restore_through(
        &mut self,
        through: LogSeq,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Restored, RestoreError> {
        self.restore_all(records, Some(through))
    }

    fn restore_all(
        &mut self,
        records: impl IntoIterator<Item = Record>,
        through: Option<LogSeq>,
    ) -> Result<Restored, RestoreError> {
        let mut restored = self.apply_records(records)?;
        let through = through.unwrap_or(LogSeq(restored.records));
        self.state.assigned = through;
        self.state.committed = through;
        self.go_on();
        restored.sessions = self.state.sessions.len();
        Ok(restored)
    }

    /// The first half of [`restore`](Self::restore): the state at the end of the records, in which clients are still
    /// thought to be connected. To look at with [`records`](Self::records), not to go on with.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    #[cfg(any(test, feature = "testing"))]
    pub fn replay(&mut self, records: impl IntoIterator<Item = Record>) -> Result<Restored, RestoreError> {
        self.apply_records(records)
    }

    fn apply_records(&mut self, records: impl IntoIterator<Item = Record>) -> Result<Restored, RestoreError> {
        if self.state.stats.connections_accepted > 0 {
            return Err(RestoreError::Late);
        }
        let mut restored = Restored::default();
        self.state.restoring = true;
        let mut outcome = Ok(());
        for record in records {
            restored.records += 1;
            self.state.work.push(Action::Restore { session: None, record: Box::new(record) });
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

    /// Goes on with the sessions that were restored. First those that end, so that nothing is queued for them.
    fn go_on(&mut self) {
        let wall = self.state.now.wall;
        let sessions = self.state.sessions.iter().filter(|(_, session)| !session.program);
        let mut sessions: Vec<(bool, SessionId)> =
            sessions.map(|(id, session)| (!session.over(wall), id)).collect();
        sessions.sort_by_key(|(goes_on, _)| *goes_on);
        for (_, session) in sessions {
            self.state.work.push(Action::SessionRestored { session });
            self.run(None);
        }
    }
}
