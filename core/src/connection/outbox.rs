//! What waits to be written to one connection. Small packets are copied into one buffer; large payloads are shared.

use crate::message::Message;
use crate::redact;
use crate::saved::{Malformed, Reader, Saved, Writer};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

/// Output of one connection, in order.
///
/// An empty outbox owns no buffer: buffers are taken from and given back to a pool of the machine.
#[derive(Default)]
pub struct Outbox {
    /// Sealed segments before `tail`; only connections that get large payloads have any.
    #[allow(clippy::box_collection)]
    sealed: Option<Box<VecDeque<Segment>>>,
    tail: Vec<u8>,
    /// Bytes of the first segment (or of `tail`) that were written already.
    head: usize,
    len: usize,
}

impl fmt::Debug for Outbox {
    // Payloads never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("len", &self.len).finish_non_exhaustive()
    }
}

enum Segment {
    Copied(Vec<u8>),
    /// The payload of a message.
    Shared(Message),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Shared(message) => message.payload(),
        }
    }
}

/// Buffers to take from and give back to.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    buffers: Vec<Vec<u8>>,
    /// Their capacities together.
    bytes: usize,
}

impl Pool {
    fn take(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    fn give(&mut self, mut buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        if (1..=POOLED_BYTES).contains(&bytes)
            && self.bytes + bytes <= POOL_BYTES
            && self.buffers.len() < POOLED_BUFFERS
        {
            buffer.clear();
            self.bytes += bytes;
            self.buffers.push(buffer);
        }
    }
}

impl Outbox {
    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lets `write` append packets.
    #[inline]
    pub(crate) fn append<R>(&mut self, pool: &mut Pool, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        if self.tail.capacity() == 0 {
            self.tail = pool.take();
        }
        let before = self.tail.len();
        let result = write(&mut self.tail);
        self.len += self.tail.len() - before;
        result
    }

    /// Appends the payload of a message without copying it.
    pub(crate) fn share(&mut self, message: Message) {
        self.len += message.payload().len();
        let sealed = self.sealed.get_or_insert_default();
        if !self.tail.is_empty() {
            sealed.push_back(Segment::Copied(core::mem::take(&mut self.tail)));
        }
        sealed.push_back(Segment::Shared(message));
    }

    /// What waits, as slices in order.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let sealed = self.sealed.iter().flat_map(|segments| segments.iter().map(Segment::bytes));
        sealed
            .chain(core::iter::once(&self.tail[..]))
            .enumerate()
            .map(|(i, bytes)| if i == 0 { &bytes[self.head..] } else { bytes })
            .filter(|bytes| !bytes.is_empty())
    }

    /// `count` bytes were written.
    pub(crate) fn written(&mut self, pool: &mut Pool, count: usize) {
        debug_assert!(count <= self.len, "more was written than there was");
        self.len = self.len.saturating_sub(count);
        self.head += count;
        if let Some(segments) = &mut self.sealed {
            while let Some(first) = segments.front() {
                let length = first.bytes().len();
                if self.head < length {
                    return;
                }
                self.head -= length;
                if let Some(Segment::Copied(buffer)) = segments.pop_front() {
                    pool.give(buffer);
                }
            }
            self.sealed = None;
        }
        if self.len == 0 {
            self.head = 0;
            pool.give(core::mem::take(&mut self.tail));
        } else if self.head >= COMPACT_BYTES && self.head >= self.tail.len() / 2 {
            self.tail.drain(..self.head);
            self.head = 0;
        }
    }

    /// Replaces what was copied: nobody else may read it. Messages were when they were read.
    pub(crate) fn redact(&mut self) {
        for segment in self.sealed.iter_mut().flat_map(|segments| segments.iter_mut()) {
            if let Segment::Copied(bytes) = segment {
                redact::output(bytes);
            }
        }
        redact::output(&mut self.tail);
    }

    /// Drops everything that waits.
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        let len = self.len;
        self.written(pool, len);
    }
}

/// What was written of the first segment is left out.
impl Saved for Outbox {
    fn save(&self, to: &mut Writer<'_>) {
        let Self { sealed, tail, head, len: _ } = self;
        let mut written = *head;
        to.number(sealed.as_ref().map_or(0, |segments| segments.len() as u64));
        for segment in sealed.iter().flat_map(|segments| segments.iter()) {
            match segment {
                Segment::Copied(bytes) => {
                    to.byte(0);
                    to.bytes(&bytes[written..]);
                }
                Segment::Shared(message) => {
                    to.byte(1);
                    to.number(written as u64);
                    message.save(to);
                }
            }
            written = 0;
        }
        to.bytes(&tail[written..]);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (mut segments, mut head, mut len) = (VecDeque::new(), 0, 0usize);
        for first in (0..from.count()?).map(|index| index == 0) {
            let segment = if bool::load(from)? {
                let written = usize::load(from)?;
                let message = Message::load(from)?;
                // Only the first can be begun, none be at its end.
                from.ensure(written < message.payload().len() && (first || written == 0))?;
                head += written;
                Segment::Shared(message)
            } else {
                Segment::Copied(from.bytes()?.to_vec())
            };
            let length = segment.bytes().len();
            from.ensure(length > 0)?;
            len += length;
            segments.push_back(segment);
        }
        let tail = from.bytes()?.to_vec();
        let sealed = (!segments.is_empty()).then(|| Box::new(segments));
        Ok(Self { sealed, len: len - head + tail.len(), tail, head })
    }
}

/// What a burst needed at once is used again: small buffers for many connections, or large ones for a few.
const POOLED_BUFFERS: usize = 8 * 1024;
const POOLED_BYTES: usize = 256 * 1024;
const POOL_BYTES: usize = 16 * 1024 * 1024;
/// Written bytes are cut off a half-written buffer only when there are many: the rest has to move.
const COMPACT_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::QoS;

    #[test]
    fn bytes_leave_in_order_whatever_is_written_at_a_time() {
        for step in [1, 2, 3, 7, 1_000] {
            let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
            let mut expected = Vec::new();
            let mut got = Vec::new();
            for round in 0..50u8 {
                outbox.append(&mut pool, |out| out.extend_from_slice(&[round; 5]));
                expected.extend_from_slice(&[round; 5]);
                if round % 7 == 3 {
                    let payload = [round, 1, 2, 3];
                    outbox.share(Message::new("t", &payload, QoS::AtMostOnce, false).unwrap());
                    expected.extend_from_slice(&payload);
                }
                let chunk: Vec<u8> = outbox.chunks().flatten().copied().take(step).collect();
                outbox.written(&mut pool, chunk.len());
                got.extend(chunk);
            }
            got.extend(outbox.chunks().flatten());
            assert_eq!(
                outbox.len(),
                expected.len() - got.len() + outbox.chunks().map(<[u8]>::len).sum::<usize>()
            );
            outbox.clear(&mut pool);
            assert!(outbox.is_empty() && outbox.chunks().next().is_none());
            assert_eq!(got, expected, "{step} bytes at a time");
        }
    }

    #[test]
    fn an_empty_outbox_owns_no_buffer_and_the_pool_is_bounded() {
        let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
        assert!(outbox.is_empty());
        outbox.append(&mut pool, |out| out.extend_from_slice(&[1; 100]));
        assert!(!outbox.is_empty() && outbox.len() == 100);
        outbox.written(&mut pool, 99);
        assert!(!outbox.is_empty() && pool.buffers.is_empty());
        outbox.written(&mut pool, 1);
        assert!(outbox.is_empty() && outbox.tail.capacity() == 0);
        assert_eq!(pool.buffers.len(), 1);
        outbox.append(&mut pool, |out| out.push(2));
        assert!(pool.buffers.is_empty() && outbox.tail.capacity() >= 100, "the buffer is used again");
        outbox.clear(&mut pool);
        for length in [POOLED_BYTES, POOLED_BYTES + 1, 0] {
            pool = Pool::default();
            pool.give(Vec::with_capacity(length));
            assert_eq!(pool.buffers.len(), usize::from(length == POOLED_BYTES), "{length} bytes");
        }
        pool = Pool::default();
        pool.give(Vec::with_capacity(32 * 1024));
        assert_eq!(pool.buffers.len(), 1, "what a burst needed is used again");
        pool = Pool::default();
        (0..POOLED_BUFFERS + 10).for_each(|_| pool.give(Vec::with_capacity(1)));
        assert_eq!(pool.buffers.len(), POOLED_BUFFERS);
    }

    #[test]
    fn what_was_written_is_cut_off_a_buffer_that_is_never_empty() {
        let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
        outbox.append(&mut pool, |out| out.push(0));
        for round in 0..1_000u32 {
            outbox.append(&mut pool, |out| out.extend_from_slice(&[round as u8; 1_000]));
            outbox.written(&mut pool, 1_000);
        }
        assert_eq!(outbox.len(), 1);
        assert!(outbox.tail.capacity() < 4 * COMPACT_BYTES, "{}", outbox.tail.capacity());
        assert_eq!(outbox.chunks().flatten().copied().collect::<Vec<_>>(), [231]);
    }

    #[test]
    fn a_shared_payload_is_let_go_when_it_is_written() {
        let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
        outbox.append(&mut pool, |out| out.push(1));
        outbox.share(Message::new("t", &[2; 10], QoS::AtMostOnce, false).unwrap());
        outbox.written(&mut pool, 10);
        assert!(outbox.sealed.is_some());
        outbox.written(&mut pool, 1);
        assert!(outbox.is_empty() && outbox.sealed.is_none());
    }

    #[test]
    fn what_was_written_is_cut_off_only_when_that_moves_little() {
        for (waiting, written, cut) in [
            // Not worth it: the buffer is small.
            (15_000, 10_000, false),
            (COMPACT_BYTES, COMPACT_BYTES - 1, false),
            (3 * COMPACT_BYTES, COMPACT_BYTES, false),
            (2 * COMPACT_BYTES, COMPACT_BYTES, true),
            (3 * COMPACT_BYTES, 2 * COMPACT_BYTES, true),
        ] {
            let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
            outbox.append(&mut pool, |out| out.resize(waiting, 7));
            outbox.written(&mut pool, written);
            assert_eq!(outbox.head == 0, cut, "{written} of {waiting}");
            assert_eq!(outbox.len(), waiting - written);
        }
    }
}
