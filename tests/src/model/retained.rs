//! Retained messages: what is there is what was written last.

use super::{Broken, Check, Lagging, Model, Promise, Seq, broken};

/// A write of a topic's retained message.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) topic: String,
    /// What; `None`: it is removed.
    pub(crate) message: Option<usize>,
    pub(crate) may: Seq,
    pub(crate) sure: Option<Seq>,
    /// It happened before this, if at all.
    pub(crate) closed: Option<Seq>,
    pub(crate) refused: bool,
    /// It may be a repetition of one that was remembered over a crash.
    pub(crate) repeated: bool,
    /// It was acknowledged, so it survives a crash.
    pub(crate) acknowledged: bool,
}

impl Model {
    pub(crate) fn write(&mut self, message: usize, seq: Seq) -> usize {
        let topic = self.publications[message].topic.clone();
        self.write_topic(topic, Some(message), seq)
    }

    pub(crate) fn write_topic(&mut self, topic: String, message: Option<usize>, seq: Seq) -> usize {
        let (sure, closed) = (None, None);
        self.writes.push(Write {
            topic,
            message,
            may: seq,
            sure,
            closed,
            refused: false,
            repeated: false,
            acknowledged: false,
        });
        self.writes.len() - 1
    }

    pub(crate) fn write_is_sure(&mut self, message: usize, seq: Seq, sure: bool) {
        let writes = self.writes.iter_mut().enumerate();
        for (at, write) in writes.filter(|(_, write)| sure && write.message == Some(message)) {
            if self.rules.lag_us > 0 {
                self.lagging.push_back((self.now + self.rules.lag_us, Lagging::Write(at)));
            } else {
                write.sure.get_or_insert(seq);
            }
        }
    }

    /// What was not acknowledged may be lost.
    pub(crate) fn writes_crashed(&mut self, seq: Seq) {
        let (durable, durable_until) = (self.rules.durable, self.durable_until);
        for write in &mut self.writes {
            // What was accepted and not passed on may be passed on when the broker is back.
            if write.sure.is_none() {
                if !durable {
                    write.closed.get_or_insert(seq);
                }
            } else if !durable || !write.acknowledged && write.may > durable_until {
                write.sure = None;
                write.closed = Some(seq);
            }
        }
    }

    /// What came in before the last crash has happened by now, if it ever does.
    pub(crate) fn writes_durable(&mut self) {
        let (seq, Some(crash)) = (self.seq, self.crashes.last().copied()) else { return };
        for write in self.writes.iter_mut().filter(|write| write.may < crash && write.sure.is_none()) {
            // A will may still be waiting.
            if write.message.is_none_or(|message| !self.publications[message].is_will) {
                write.closed.get_or_insert(seq);
            }
        }
    }

    /// What may be retained for a topic at some moment from `a` to `b`; `None`: nothing.
    pub(crate) fn possible(&self, topic: &str, a: Seq, b: Seq) -> Vec<Option<usize>> {
        let writes: Vec<&Write> = self
            .writes
            .iter()
            .filter(|write| write.topic == topic && write.may <= b && !write.refused)
            .collect();
        // A write is out of question if another one surely came after it and before `a`.
        let superseded = |write: &Write| {
            let latest = write.sure.or(write.closed).unwrap_or(Seq::MAX);
            writes.iter().any(|later| {
                later.may > write.may && later.may > latest && later.sure.is_some_and(|sure| sure <= a)
            })
        };
        let mut values: Vec<Option<usize>> =
            writes.iter().filter(|write| !superseded(write)).map(|write| write.message).collect();
        if !writes.iter().any(|write| write.sure.is_some_and(|sure| sure <= a)) {
            values.push(None);
        }
        let expires =
            |value: &Option<usize>| value.is_some_and(|message| self.publications[message].expiry_s > 0);
        if values.iter().any(expires) {
            values.push(None);
        }
        values
    }

    /// What a newcomer finds retained, topic by topic, when nothing moves any more.
    ///
    /// # Errors
    /// If that cannot be.
    pub fn finds(&mut self, topics: &[&str], found: &[(String, Option<usize>)]) -> Check {
        self.seen.insert(Promise::RetainedIsLastWrite);
        for topic in topics {
            let values: Vec<Option<usize>> =
                found.iter().filter(|(name, _)| name == topic).map(|(_, message)| *message).collect();
            let value = match values[..] {
                [] => None,
                [message] => message,
                _ => {
                    return broken(
                        Promise::RetainedIsLastWrite,
                        format!("{topic} has several retained messages"),
                    );
                }
            };
            let possible = self.possible(topic, self.seq, self.seq);
            if !possible.contains(&value) {
                return Err(Broken {
                    promise: Promise::RetainedIsLastWrite,
                    what: format!("{topic} retains {value:?}, expected one of {possible:?}"),
                });
            }
        }
        Ok(())
    }
}
