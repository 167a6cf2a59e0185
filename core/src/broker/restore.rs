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
    /// Of a queue that is longer than `queue_memory_messages_max` the machine keeps the head, and asks for the rest
    /// ([`Action::Fetch`]): a log that lets queues grow and shrink beyond that wants to become an
    /// [`Image`](crate::store::Image) first.
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
        let mut restoring = self.restoring()?;
        records.into_iter().try_for_each(|record| restoring.record(record))?;
        let through = through.unwrap_or(LogSeq(restoring.records));
        Ok(restoring.finish(through))
    }

    /// The same record by record, for whoever reads them one by one and does not want to have them all at once.
    ///
    /// # Errors
    /// [`RestoreError::Late`].
    pub fn restoring(&mut self) -> Result<Restoring<'_>, RestoreError> {
        if self.state.stats.connections_accepted > 0 {
            return Err(RestoreError::Late);
        }
        self.state.restoring = true;
        Ok(Restoring { broker: self, records: 0 })
    }

    /// The first half of [`restore`](Self::restore): the state at the end of the records, in which clients are still
    /// thought to be connected. To look at with [`records`](Self::records), not to go on with.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    #[cfg(any(test, feature = "testing"))]
    pub fn replay(&mut self, records: impl IntoIterator<Item = Record>) -> Result<Restored, RestoreError> {
        let mut restoring = self.restoring()?;
        records.into_iter().try_for_each(|record| restoring.record(record))?;
        Ok(Restored { records: restoring.records, sessions: restoring.broker.state.sessions.len() })
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

/// A machine that is being restored, see [`Broker::restoring`]. Dropped without [`finish`](Self::finish) it leaves what was
/// restored so far, and nothing goes on.
#[must_use = "nothing goes on until it is finished"]
#[derive(Debug)]
pub struct Restoring<'b> {
    broker: &'b mut Broker,
    records: u64,
}

impl Restoring<'_> {
    /// Restores what the next record says.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn record(&mut self, record: Record) -> Result<(), RestoreError> {
        self.records += 1;
        self.broker.state.work.push(Action::Restore { session: None, record: Box::new(record) });
        self.broker.run(None);
        match self.broker.state.unknown.take() {
            Some(client_id) => Err(RestoreError::UnknownSession { client_id, record: self.records }),
            None => Ok(()),
        }
    }

    /// That was all: goes on from there. `through` counts as committed, and the next record that is stored gets the position
    /// behind it.
    pub fn finish(self, through: LogSeq) -> Restored {
        let broker = &mut *self.broker;
        broker.state.restoring = false;
        broker.state.assigned = through;
        broker.state.committed = through;
        broker.go_on();
        Restored { records: self.records, sessions: broker.state.sessions.len() }
    }
}

impl Drop for Restoring<'_> {
    fn drop(&mut self) {
        self.broker.state.restoring = false;
    }
}
