//! The flight recorder: what happened to the machine lately, so that it can be done again.
//!
//! A recording is a header and segments, one after the other in time. A segment is a snapshot of the machine and every
//! event from there on: inputs as they were given, and of outputs when they were taken and a digest of what they were.
//! That is all a machine depends on, so [`Replay`](crate::Replay) gives the same bytes again, or says where it does not.
//!
//! Nothing here touches a file: who records decides when to [write](Recorder::write_to) and where. The ring belongs to
//! all threads, for the one that panics must be able to save it: an event is noted before the machine sees it.

use culex_core::saved::{Saved, Writer, digest};
use culex_core::{Action, Broker, ConnectionId, Input, Now, ShardId};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keeps the newest events of one broker. Cloning shares it. Give one to
/// [`Builder::record`](crate::Builder::record).
///
/// Memory: `bytes_max`, or two segments if these are larger. A segment is as long as a quarter of `bytes_max` or as its
/// snapshot, whichever is more: so taking snapshots never costs more than noting events.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<Ring>>);

impl fmt::Debug for Recorder {
    // What it holds are passwords and payloads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

struct Ring {
    bytes_max: usize,
    /// Segments that are over, the oldest first; at least one is kept.
    closed: VecDeque<Arc<Vec<u8>>>,
    /// The segment that is being written; empty before the first input.
    current: Vec<u8>,
    /// Where its events begin.
    events_at: usize,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new(Self::BYTES_MAX)
    }
}

impl Recorder {
    /// How much is kept unless somebody says otherwise.
    pub const BYTES_MAX: usize = 64 * 1024 * 1024;

    /// An empty recorder that keeps about so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let (closed, current) = (VecDeque::new(), Vec::new());
        Self(Arc::new(Mutex::new(Ring { bytes_max, closed, current, events_at: 0 })))
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes()
    }

    /// Writes what it holds, and goes on recording. Works from any thread, in a panic hook as well.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write_to(&self, to: impl Write) -> io::Result<()> {
        // The machine waits only while this is copied, not while it is written.
        let (closed, current) = {
            let ring = self.lock();
            (ring.closed.clone(), ring.current.clone())
        };
        let segments = closed.iter().map(|segment| &segment[..]).chain([&current[..]]);
        write_segments(to, segments.filter(|segment| !segment.is_empty()))
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // No code that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a recording of these segments.
pub(crate) fn write_segments<'s>(
    mut to: impl Write,
    segments: impl Iterator<Item = &'s [u8]>,
) -> io::Result<()> {
    let mut header = MAGIC.to_vec();
    Writer::new(&mut header).number(FORMAT);
    Writer::new(&mut header).bytes(VERSION.as_bytes());
    to.write_all(&header)?;
    for segment in segments {
        to.write_all(&[SEGMENT])?;
        to.write_all(&(segment.len() as u64).to_le_bytes())?;
        to.write_all(&digest(segment).to_le_bytes())?;
        to.write_all(segment)?;
    }
    to.write_all(&[END])?;
    to.flush()
}

/// Begins a segment: so many inputs were before it, and this is the state.
pub(crate) fn begin_segment(segment: &mut Vec<u8>, first: u64, snapshot: &[u8]) {
    let mut to = Writer::new(segment);
    to.number(first);
    to.bytes(snapshot);
}

impl Ring {
    fn bytes(&self) -> usize {
        self.closed.iter().map(|segment| segment.len()).sum::<usize>() + self.current.len()
    }

    /// Whether it is time for a new segment.
    fn is_full(&self) -> bool {
        let events = self.current.len() - self.events_at;
        self.current.is_empty() || events >= self.events_at.max(self.bytes_max / SEGMENTS)
    }

    /// Begins a segment.
    fn begin(&mut self, snapshot: &[u8], first: u64) {
        let over = std::mem::take(&mut self.current);
        if !over.is_empty() {
            self.closed.push_back(Arc::new(over));
        }
        begin_segment(&mut self.current, first, snapshot);
        self.events_at = self.current.len();
        // There must be room for what it will become.
        let room = self.bytes_max / SEGMENTS;
        while self.closed.len() > 1 && self.bytes() + room > self.bytes_max {
            self.closed.pop_front();
        }
    }
}

/// The machine's end of a recorder.
pub(crate) struct Tape {
    recorder: Recorder,
    /// The time that was noted last.
    now: Option<Now>,
    /// How many inputs there were.
    inputs: u64,
    /// Actions that were taken since the last event, and their bytes.
    taken: u64,
    actions: Vec<u8>,
    /// An event that is being put together.
    event: Vec<u8>,
    /// Nothing happened since all output was taken.
    idle: bool,
}

impl Tape {
    pub(crate) fn new(recorder: Recorder) -> Self {
        let (actions, event) = (Vec::new(), Vec::new());
        Self { recorder, now: None, inputs: 0, taken: 0, actions, event, idle: false }
    }

    /// The machine is about to see an input; without a time, one that does not depend on it.
    pub(crate) fn input(&mut self, broker: &Broker, now: Option<Now>, input: &Input) {
        self.flush_actions();
        if now.is_some() && now != self.now {
            self.time(broker, now);
        }
        self.inputs += 1;
        self.event.push(tag::INPUT);
        input.encode(&mut self.event);
        self.append();
    }

    /// So many bytes of a connection's output have left; the machine is about to hear of it.
    pub(crate) fn written(&mut self, id: ConnectionId, count: usize, digest: u64) {
        self.flush_actions();
        self.inputs += 1;
        self.event.push(tag::WRITTEN);
        (id, (count, digest)).save(&mut Writer::new(&mut self.event));
        self.append();
    }

    /// An action was taken.
    pub(crate) fn taken(&mut self, action: &Action) {
        self.taken += 1;
        action.save(&mut Writer::new(&mut self.actions));
    }

    /// What another shard is to be told was taken.
    pub(crate) fn told(&mut self, to: ShardId, bytes: &[u8]) {
        self.flush_actions();
        self.event.push(tag::TOLD);
        (to, (bytes.len(), digest(bytes))).save(&mut Writer::new(&mut self.event));
        self.append();
    }

    /// There was no more output to take.
    pub(crate) fn drained(&mut self) {
        self.flush_actions();
        if !self.idle {
            self.event.push(tag::DRAINED);
            self.append();
            self.idle = true;
        }
    }

    fn flush_actions(&mut self) {
        if self.taken > 0 {
            self.event.push(tag::TAKEN);
            (self.taken, digest(&self.actions)).save(&mut Writer::new(&mut self.event));
            self.taken = 0;
            self.actions.clear();
            self.append();
        }
    }

    /// A new time: the place for a new segment, too.
    fn time(&mut self, broker: &Broker, now: Option<Now>) {
        if self.recorder.lock().is_full() {
            let mut snapshot = Vec::new();
            broker.snapshot(&mut snapshot);
            self.recorder.lock().begin(&snapshot, self.inputs);
        }
        self.now = now;
        self.event.push(tag::TIME);
        now.unwrap_or_default().save(&mut Writer::new(&mut self.event));
        self.append();
    }

    fn append(&mut self) {
        let mut ring = self.recorder.lock();
        // What was before the first snapshot is in it.
        if !ring.current.is_empty() {
            ring.current.extend_from_slice(&self.event);
        }
        drop(ring);
        self.event.clear();
        self.idle = false;
    }
}

/// A digest of the first `count` bytes, however they are cut into chunks.
pub(crate) fn digest_of<'c>(
    chunks: impl Iterator<Item = &'c [u8]>,
    count: usize,
    scratch: &mut Vec<u8>,
) -> u64 {
    scratch.clear();
    for chunk in chunks {
        let most = count - scratch.len();
        scratch.extend_from_slice(&chunk[..chunk.len().min(most)]);
        if scratch.len() == count {
            break;
        }
    }
    digest(scratch)
}

/// What events begin with.
pub(crate) mod tag {
    pub(crate) const TIME: u8 = 0;
    pub(crate) const INPUT: u8 = 1;
    pub(crate) const WRITTEN: u8 = 2;
    pub(crate) const TAKEN: u8 = 3;
    pub(crate) const DRAINED: u8 = 4;
    pub(crate) const TOLD: u8 = 5;
}

pub(crate) const MAGIC: &[u8] = b"culex recording\n";
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Rises when segments or events are written in another way.
pub(crate) const FORMAT: u64 = 3;
/// What a segment begins with, and what stands behind the last.
pub(crate) const SEGMENT: u8 = b'S';
pub(crate) const END: u8 = b'E';
/// A segment has at least this share of the ring.
const SEGMENTS: usize = 4;
