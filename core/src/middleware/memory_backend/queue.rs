//! The queue of a session. Where a store has the messages too, only its head is in memory: the rest is read back when the client
//! takes it.

use super::{Allowance, MemoryBackend, dropped};
use crate::broker::{
    Action, Cx, Fate, Fetch, Fetched, Forward, Inspection, Queued, Receiver, Record, Source, ToSession, What,
};
use crate::config::Overflow;
use crate::id::SessionId;
use crate::packet::{QoS, ReasonCode};
use crate::saved::saved;
use alloc::boxed::Box;
use alloc::collections::VecDeque;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The oldest ones.
    messages: VecDeque<Queued>,
    /// The bytes of each message behind them, which only the store has.
    outside: VecDeque<u32>,
    /// While the oldest of those are being read: how many of them were dropped since that was asked for.
    fetching: Option<u32>,
    /// Of all.
    bytes: u64,
    outside_bytes: u64,
}

saved! {
    struct Queue {
        messages, outside, fetching;
        outside_bytes = VecDeque::iter(&outside).map(|bytes| u64::from(*bytes)).sum(),
        bytes = VecDeque::iter(&messages).map(cost).sum::<u64>() + outside_bytes
    }
}

impl Queue {
    fn len(&self) -> usize {
        self.messages.len() + self.outside.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn inspect(&self, found: &mut Inspection) {
        found.queue = self.messages.iter().cloned().collect();
        found.queue_outside = self.outside.len();
        found.queue_bytes = self.bytes;
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = &Queued> {
        self.messages.iter()
    }

    pub(super) fn push_here(&mut self, queued: Queued) {
        self.bytes += cost(&queued);
        self.messages.push_back(queued);
    }

    fn push_outside(&mut self, size: u64) {
        self.bytes += size;
        self.outside_bytes += size;
        // No message is as long.
        self.outside.push_back(u32::try_from(size).unwrap_or(u32::MAX));
    }

    pub(super) fn pop_here(&mut self) -> Option<Queued> {
        let queued = self.messages.pop_front()?;
        self.bytes -= cost(&queued);
        Some(queued)
    }

    fn pop_outside(&mut self) -> Option<u32> {
        let size = self.outside.pop_front()?;
        self.bytes -= u64::from(size);
        self.outside_bytes -= u64::from(size);
        Some(size)
    }

    /// The oldest message is gone, though only the store has it.
    pub(super) fn drop_outside(&mut self) -> bool {
        let dropped = self.pop_outside().is_some();
        if let (true, Some(gone)) = (dropped, &mut self.fetching) {
            *gone += 1;
        }
        dropped
    }

    /// Whether one more message of so many bytes is left to the store.
    pub(super) fn leaves_outside(&self, cx: &Cx<'_>, size: u64) -> bool {
        let config = cx.config();
        let here = self.bytes - self.outside_bytes;
        !self.outside.is_empty()
            || self.messages.len() >= config.queue_memory_messages_max as usize
            || here + size > config.queue_memory_bytes_max
    }

    /// Takes up a message that an earlier machine had.
    pub(super) fn restore(&mut self, cx: &Cx<'_>, queued: Queued) {
        let size = cost(&queued);
        if queued.qos > QoS::AtMostOnce && self.leaves_outside(cx, size) {
            self.push_outside(size);
        } else {
            self.push_here(queued);
        }
    }
}

impl MemoryBackend {
    pub(super) fn push(&mut self, cx: &mut Cx<'_>, session: SessionId, queued: Queued) {
        if queued.source == Source::Queue && queued.qos > QoS::AtMostOnce {
            // For the log it never left, but its place is behind the others from now on.
            dropped(cx, session, queued.qos);
        }
        let queue = self.queues.get_or_insert_with(session, Box::default);
        let size = cost(&queued);
        let outside = queue.leaves_outside(cx, size) && cx.durable();
        let outside = outside && cx.session(session).is_some_and(|state| state.stored);
        // What the store does not have cannot wait behind what only the store has.
        let stays_behind = queued.qos == QoS::AtMostOnce && !queue.outside.is_empty();
        if stays_behind || !make_room(cx, session, queue, size) {
            if stays_behind {
                cx.stats().dropped_queue_full += 1;
            }
            note_length(cx, session, queue);
            return cx.fate(session, queued.message.topic(), Fate::QueueFull);
        }
        cx.stats().queued += 1;
        let Queued { qos, retain, ref identifiers, .. } = queued;
        cx.journal_delivery(
            &queued.message,
            &ToSession { session, qos, retain, identifiers, packet_id: None },
        );
        let length = queue.len() as u32 + 1;
        cx.fate(session, queued.message.topic(), Fate::Queued { length });
        if outside && qos > QoS::AtMostOnce {
            queue.push_outside(size);
        } else {
            queue.push_here(queued);
        }
        note_length(cx, session, queue);
    }

    /// Returns whether something that could be sent stays in the queue.
    pub(super) fn pop_queue(
        &mut self,
        cx: &mut Cx<'_>,
        session: SessionId,
        allowance: &mut Allowance,
    ) -> bool {
        let Some(queue) = self.queues.get_mut(session) else { return false };
        let wall = cx.now().wall;
        while !allowance.spent()
            && let Some(queued) = queue.pop_here()
        {
            if queued.message.expired(wall) {
                // [MQTT-3.3.2-5]
                cx.stats().dropped_expired += 1;
                cx.fate(session, queued.message.topic(), Fate::Expired);
                dropped(cx, session, queued.qos);
                continue;
            }
            let Queued { message, qos, retain, identifiers, .. } = queued;
            allowance.take(&message);
            let receiver = Receiver { session, qos, retain, source: Source::Queue, identifiers };
            cx.emit(Action::Forward(Forward::new(What::Kept(message), alloc::vec![receiver])));
        }
        note_length(cx, session, queue);
        let more = !queue.messages.is_empty();
        if queue.is_empty() {
            self.queues.remove(session);
        }
        more
    }

    /// Asks for more of what only the store has, before the client has taken the rest. Returns whether it has to wait
    /// for that.
    pub(super) fn refill(&mut self, cx: &mut Cx<'_>, session: SessionId) -> bool {
        let Some(queue) = self.queues.get_mut(session) else { return false };
        let most = cx.config().queue_memory_messages_max;
        if !queue.outside.is_empty() && queue.messages.len() <= most as usize / 2 && queue.fetching.is_none()
        {
            queue.fetching = Some(0);
            let stored = queue.messages.iter().filter(|queued| queued.qos > QoS::AtMostOnce);
            let (skip, messages_max) = (stored.count() as u32, most - queue.messages.len() as u32);
            let bytes_max = cx.config().queue_memory_bytes_max;
            if let Some(client_id) = cx.session(session).map(|state| state.client_id.clone()) {
                let messages_max = messages_max.max(1);
                // Behind the records of what was just sent.
                let fetch = Fetch { session, client_id, skip, messages_max, bytes_max };
                cx.emit(Action::Fetch(Box::new(fetch)));
            }
        }
        queue.messages.is_empty() && !queue.outside.is_empty()
    }

    /// What was asked for is there. If nothing is, the store has not what it should have: the client is told to go, and
    /// may ask again when it is back.
    pub(super) fn fetched(&mut self, cx: &mut Cx<'_>, fetched: &mut Fetched) {
        let session = fetched.session;
        let Some(queue) = self.queues.get_mut(session) else { return };
        let Some(gone) = queue.fetching.take() else { return };
        let asked_for = !queue.outside.is_empty();
        let mut taken = 0;
        for record in fetched.queued.drain(..).skip(gone as usize) {
            let Record::Queued { message, qos, retain, identifiers, .. } = record else { continue };
            if queue.pop_outside().is_none() {
                break;
            }
            queue.push_here(Queued { message, qos, retain, identifiers, source: Source::Relay });
            taken += 1;
        }
        note_length(cx, session, queue);
        if taken > 0 || gone > 0 {
            cx.emit(Action::Room { session });
        } else if asked_for && let Some(id) = cx.session(session).and_then(|state| state.connection) {
            cx.emit(Action::CloseClient { id, reason: ReasonCode::UnspecifiedError });
        }
    }
}

/// Drops from a queue what its limits want gone for one more message of `size` bytes. False: it is that message.
fn make_room(cx: &mut Cx<'_>, session: SessionId, queue: &mut Queue, size: u64) -> bool {
    let (most, bytes_max) = (cx.config().queue_messages_max as usize, cx.config().queue_bytes_max);
    let wall = cx.now().wall;
    while queue.len() >= most || queue.bytes + size > bytes_max {
        // [MQTT-3.3.2-5]: it costs no other its place.
        let expired = queue.messages.front().is_some_and(|oldest| oldest.message.expired(wall));
        let counter = cx.stats();
        *(if expired { &mut counter.dropped_expired } else { &mut counter.dropped_queue_full }) += 1;
        let makes_room = match cx.config().queue_overflow {
            _ if expired => true,
            // What does not even fit into an empty queue costs nobody else his place.
            Overflow::DropOldest => size <= bytes_max,
            Overflow::DropNewest => false,
            Overflow::Disconnect => {
                if let Some(id) = cx.session(session).and_then(|session| session.connection) {
                    // When all receivers have the message: its record is one.
                    cx.emit_last(Action::CloseClient { id, reason: ReasonCode::QuotaExceeded });
                }
                false
            }
        };
        if !makes_room {
            return false;
        }
        if let Some(oldest) = queue.pop_here() {
            cx.fate(session, oldest.message.topic(), Fate::Displaced);
            dropped(cx, session, oldest.qos);
        } else if queue.drop_outside() {
            dropped(cx, session, QoS::AtLeastOnce);
        } else {
            return false;
        }
    }
    true
}

pub(super) fn note_length(cx: &mut Cx<'_>, session: SessionId, queue: &Queue) {
    if let Some(session) = cx.session_mut(session) {
        (session.queued, session.outside) = (queue.len() as u32, queue.outside.len() as u32);
    }
}

/// Bytes a queued message costs: its share of a message is not known, so it counts whole.
fn cost(queued: &Queued) -> u64 {
    (queued.message.size() + size_of::<Queued>()) as u64
}
