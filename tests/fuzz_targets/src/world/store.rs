//! What a durable machine stores: when it becomes durable, and what another machine is made of it.

use super::{DURABLE, OUTPUTS_MAX, World, machine};
use culex_core::{LogSeq, Record, RestoreError};

impl World {
    pub(crate) const fn is_durable(&self) -> bool {
        self.kind & DURABLE != 0
    }

    /// So many records more are durable.
    pub(crate) fn commit(&mut self, count: u8) {
        if self.is_durable() && !self.failed {
            self.committed = self.log.len().min(self.committed + usize::from(count));
            self.broker.committed(self.now, LogSeq(self.committed as u64));
        }
    }

    /// No record will be durable any more.
    pub(crate) fn commit_failed(&mut self) {
        self.failed = true;
        self.broker.commit_failed(self.now, LogSeq(self.committed as u64 + 1));
    }

    /// The outside answers: the disk, or whoever was asked if there is no disk.
    pub(crate) fn comes_back(&mut self, what: u8) {
        match what {
            _ if !self.is_durable() || !self.tickets.is_empty() => self.answer(what),
            255 => self.commit_failed(),
            count => self.commit(count),
        }
    }

    /// Does everything the machine wants, and all that follows when it is durable.
    pub(super) fn settle(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            self.drain();
            if !self.is_durable() || self.failed || self.committed == self.log.len() {
                return;
            }
            self.commit(u8::MAX);
        }
        panic!("records without end");
    }

    /// Before anybody connects. False: the records make no sense, which is said of the right one.
    pub(crate) fn restore(&mut self, records: &[Record]) -> bool {
        self.restored = true;
        let outcome = self.broker.restore(records.iter().cloned());
        let count = match &outcome {
            Ok(restored) => restored.records,
            Err(RestoreError::UnknownSession { client_id, record }) => {
                let named = usize::try_from(*record - 1).ok().and_then(|at| records.get(at));
                assert!(concerns(named.expect("one that was given"), client_id), "{outcome:?}");
                // Where the log ends is not known: the machine counts from where it was.
                0
            }
            Err(RestoreError::Late) => panic!("nobody was accepted"),
        };
        self.log.extend(records.iter().take(count as usize).cloned());
        self.committed = self.log.len();
        self.settle();
        outcome.is_ok()
    }

    /// The outside answers everything: with its last packets a connection that is gone keeps its session until then.
    pub(crate) fn nobody_waits(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            if self.tickets.is_empty() {
                return;
            }
            self.answer(0);
            self.settle();
        }
        panic!("questions without end");
    }

    /// A machine made of the records that this one can be replaced by can be replaced by the same.
    pub(crate) fn is_what_its_records_say(&mut self) {
        let records = self.broker.records();
        let mut again = machine(self.kind, self.now);
        again.restore(records.iter().cloned()).expect("what a machine says of itself makes sense");
        assert_eq!(canonical(again.records()), canonical(records), "restored from these records");
    }

    /// What was stored from the beginning on describes the machine as it is.
    pub(super) fn is_what_its_log_says(&mut self) {
        let mut again = machine(self.kind, self.now);
        again.replay(self.log.iter().cloned()).expect("a log makes sense");
        assert_eq!(
            canonical(again.records()),
            canonical(self.broker.records()),
            "replayed from {:#?}",
            self.log
        );
    }
}

fn concerns(record: &Record, client_id: &str) -> bool {
    match record {
        Record::Relayed(relayed) => relayed.recipients.iter().any(|to| &*to.client_id == client_id),
        other => other.client_id() == Some(client_id),
    }
}

/// Where a page goes on is a hint of the machine: after a restart it may go on earlier, at what was recorded as sent.
fn canonical(records: Vec<Record>) -> Vec<Record> {
    let same = |record| match record {
        Record::Page { client_id, filter, options, identifier, .. } => {
            Record::Page { client_id, filter, options, identifier, after: None }
        }
        other => other,
    };
    records.into_iter().map(same).collect()
}
