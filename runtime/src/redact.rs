//! A recording for strangers: what was recorded without what was in it of payloads, passwords and the like.
//!
//! The recording is done again twice. The first time tells what every connection sent in all, for input is split
//! anywhere and what stands for a payload depends on the whole of it. The second time a machine that was made from the
//! redacted snapshot is given the redacted inputs, and what it says is the new recording. It has to do what the first one
//! did: the same output in length, the same actions in kind.

use crate::recorder::{begin_segment, tag, write_segments};
use crate::replay::{BadRecording, Did, Difference, Event, Otherwise, Recording, Replay, Segment, Stuck};
use culex_core::connection::Phase;
use culex_core::packet::Version;
use culex_core::redact::{Hash, Redaction};
use culex_core::saved::{Reader, Saved, Writer, digest};
use culex_core::{Broker, ConnectionId, Input, Now, ShardId, Stack};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// See [`Recording::redact`].
#[derive(Debug, Clone)]
pub struct Redacted {
    /// The recording, as [`Recording::parse`] reads it.
    pub bytes: Vec<u8>,
    /// Whether it ends with an input that makes the machine panic, as the other one does.
    pub panics: bool,
}

impl Recording<'_> {
    /// The same recording with [text of the same length](culex_core::redact) in the place of payloads, passwords and
    /// the like. It was done again when it is returned. `stack` makes a chain like that of the machine that was recorded.
    ///
    /// # Errors
    /// The recording cannot be done again; or the machine does something else without what was replaced, as with a
    /// middleware of the program that looks at it.
    pub fn redact(&self, stack: impl Fn() -> Stack, hash: &Hash<'_>) -> Result<Redacted, Stuck> {
        let mut first = First::new(self.replay(&stack)?);
        first.run()?;
        let First { mut streams, shapes, panics, .. } = first;
        let mut redaction = Redaction::new(hash);
        for (id, stream) in &mut streams.0 {
            stream.redact(&redaction);
            redaction.set_unread(*id, stream.take(stream.unread).to_vec());
        }
        let broker = Broker::from_snapshot_redacted(self.chain(stack())?, self.snapshot(), &redaction)
            .map_err(|error| BadRecording::Snapshot { segment: 1, error })?;
        let mut second = Second::new(broker, streams, shapes);
        let mut segments = Vec::new();
        for segment in &self.segments {
            segments.push(second.segment(segment, &redaction)?);
        }
        let mut bytes = Vec::new();
        let written = write_segments(&mut bytes, segments.iter().map(|segment| &segment[..]));
        debug_assert!(written.is_ok(), "a vector takes everything");
        let again = Recording::parse(&bytes)?;
        First::new(again.replay(&stack)?).run()?;
        Ok(Redacted { bytes, panics })
    }
}

impl From<BadRecording> for Stuck {
    fn from(bad: BadRecording) -> Self {
        Self::Bad(bad)
    }
}

/// All that a connection sent, from the start of a packet on.
struct Stream {
    version: Version,
    packet_size_max: u32,
    bytes: Vec<u8>,
    /// How many of them were in the snapshot.
    unread: usize,
    /// From where on the machine did not look at them.
    over: Option<usize>,
    /// How many were taken again.
    taken: usize,
}

impl Stream {
    fn new(broker: &Broker, id: ConnectionId) -> Self {
        let connection = broker.connection(id);
        let listener = connection.map_or(0, |connection| connection.peer.listener);
        let bytes = connection.map_or_else(Vec::new, |connection| connection.unread().to_vec());
        Self {
            version: connection.map_or(Version::V311, |connection| connection.version),
            packet_size_max: broker.config().packet_size_max_of(listener),
            unread: bytes.len(),
            over: if reads(broker, id) { None } else { Some(0) },
            taken: 0,
            bytes,
        }
    }

    fn redact(&mut self, redaction: &Redaction<'_>) {
        let over = self.over.unwrap_or(self.bytes.len());
        let (read, not_read) = self.bytes.split_at_mut(over);
        redaction.stream(read, self.version, self.packet_size_max);
        not_read.fill(b'x');
    }

    /// The next bytes.
    fn take(&mut self, count: usize) -> &[u8] {
        let start = self.taken;
        self.taken = self.bytes.len().min(start + count);
        &self.bytes[start..self.taken]
    }
}

/// Whether the machine looks at what a connection sends.
fn reads(broker: &Broker, id: ConnectionId) -> bool {
    let connection = broker.connection(id);
    connection.is_some_and(|connection| !matches!(connection.phase, Phase::Closing | Phase::Closed))
}

struct Streams(HashMap<ConnectionId, Stream>);

impl Streams {
    /// Bytes come in; the machine is about to see them.
    fn push(&mut self, broker: &Broker, id: ConnectionId, bytes: &[u8]) {
        let stream = self.0.entry(id).or_insert_with(|| Stream::new(broker, id));
        if !reads(broker, id) {
            stream.over.get_or_insert(stream.bytes.len());
        }
        stream.bytes.extend_from_slice(bytes);
    }
}

/// The recording is done again as it is.
struct First<'a> {
    replay: Replay<'a>,
    streams: Streams,
    /// What each step looks like from outside.
    shapes: Vec<u64>,
    panics: bool,
}

impl<'a> First<'a> {
    fn new(replay: Replay<'a>) -> Self {
        let broker = replay.broker();
        let streams = broker.connection_ids().map(|id| (id, Stream::new(broker, id))).collect();
        Self { replay, streams: Streams(streams), shapes: Vec::new(), panics: false }
    }

    fn run(&mut self) -> Result<(), Stuck> {
        loop {
            if let Some(Input::Receive { id, bytes }) = self.replay.next_input() {
                self.streams.push(self.replay.broker(), id, &bytes);
            }
            let replay = &mut self.replay;
            let Ok(step) = catch_unwind(AssertUnwindSafe(|| replay.step())) else {
                self.panics = true;
                if self.replay.is_over() {
                    return Ok(());
                }
                // It did not then.
                let (input, now) = (self.replay.inputs(), self.replay.now());
                let what = "the machine panics";
                return Err(Stuck::Different(Difference { input, now, connection: None, what }));
            };
            let Some(step) = step? else { return Ok(()) };
            if !matches!(step.did, Did::Segment) {
                self.shapes.push(shape(&step.did));
            }
        }
    }
}

/// What must be the same whatever payloads say: whose output it was and how much, which actions there were.
fn shape(did: &Did) -> u64 {
    let mut bytes = Vec::new();
    match did {
        Did::Input(_, accepted) => accepted.save(&mut Writer::new(&mut bytes)),
        Did::Written { id, bytes: written, left } => {
            (*id, (written.len(), *left)).save(&mut Writer::new(&mut bytes));
        }
        Did::Taken(actions) => {
            for action in actions {
                // Its kind comes first.
                let at = bytes.len();
                action.save(&mut Writer::new(&mut bytes));
                bytes.truncate(at + 1);
            }
        }
        Did::Told { to, bytes: told } => (*to, told.len()).save(&mut Writer::new(&mut bytes)),
        Did::Drained | Did::Segment => {}
    }
    digest(&bytes)
}

/// Output that is recorded when it is known what it is now.
enum Output {
    None,
    Written(ConnectionId, usize),
    Taken(u64),
    Told(ShardId, usize),
}

impl Output {
    fn of(event: &Event) -> Self {
        match event {
            Event::Written { id, count, .. } => Self::Written(*id, *count),
            Event::Taken { count, .. } => Self::Taken(*count),
            Event::Told { to, length, .. } => Self::Told(*to, *length),
            _ => Self::None,
        }
    }

    fn record(&self, digest: u64, recorded: &mut Vec<u8>) {
        match *self {
            Self::None => {}
            Self::Written(id, count) => {
                recorded.push(tag::WRITTEN);
                (id, (count, digest)).save(&mut Writer::new(recorded));
            }
            Self::Taken(count) => {
                recorded.push(tag::TAKEN);
                (count, digest).save(&mut Writer::new(recorded));
            }
            Self::Told(to, length) => {
                recorded.push(tag::TOLD);
                (to, (length, digest)).save(&mut Writer::new(recorded));
            }
        }
    }
}

/// The machine that is given what was redacted, and its recording.
struct Second {
    broker: Broker,
    streams: Streams,
    shapes: std::vec::IntoIter<u64>,
    now: Now,
    inputs: u64,
}

impl Second {
    fn new(broker: Broker, streams: Streams, shapes: Vec<u64>) -> Self {
        let shapes = shapes.into_iter();
        Self { broker, streams, shapes, now: Now::default(), inputs: 0 }
    }

    fn different(&self, connection: Option<ConnectionId>) -> Stuck {
        let (input, now) = (self.inputs, self.now);
        let what = "the machine does something else without what was replaced";
        Stuck::Different(Difference { input, now, connection, what })
    }

    /// Does a segment again; what is recorded now.
    fn segment(&mut self, segment: &Segment<'_>, redaction: &Redaction<'_>) -> Result<Vec<u8>, Stuck> {
        self.inputs = segment.first;
        let (mut state, mut recorded) = (Vec::new(), Vec::new());
        self.broker.snapshot(&mut state);
        if state.len() != segment.snapshot.len() {
            return Err(self.different(None));
        }
        begin_segment(&mut recorded, segment.first, &state);
        let mut from = Reader::redacting(segment.events, redaction);
        while !from.rest().is_empty() {
            let event = Event::load(&mut from).map_err(|_| BadRecording::Malformed { input: self.inputs })?;
            self.event(event, &mut recorded)?;
        }
        Ok(recorded)
    }

    fn event(&mut self, mut event: Event, recorded: &mut Vec<u8>) -> Result<(), Stuck> {
        self.inputs += u64::from(event.is_input());
        match &mut event {
            Event::Time(now) => {
                self.now = *now;
                recorded.push(tag::TIME);
                now.save(&mut Writer::new(recorded));
                return Ok(());
            }
            Event::Input(input) => {
                if let Input::Receive { id, bytes } = input {
                    let stream = self.streams.0.get_mut(id);
                    let redacted = stream.map_or(&[][..], |stream| stream.take(bytes.len()));
                    *bytes = redacted.to_vec().into();
                }
                // Noted before the machine sees it: it may panic.
                recorded.push(tag::INPUT);
                input.encode(recorded);
            }
            Event::Written { .. } | Event::Taken { .. } | Event::Told { .. } => {}
            Event::Drained => recorded.push(tag::DRAINED),
        }
        let output = Output::of(&event);
        let digested = |digest: u64| output.record(digest, recorded);
        let (broker, now) = (&mut self.broker, self.now);
        let Ok(did) = catch_unwind(AssertUnwindSafe(|| event.perform(broker, now, digested))) else {
            // The other one must have done so, too: then it has no step left.
            return if self.shapes.next().is_none() { Ok(()) } else { Err(self.different(None)) };
        };
        let did = did.map_err(|Otherwise(connection, _)| self.different(connection))?;
        let same = self.shapes.next() == Some(shape(&did));
        if same { Ok(()) } else { Err(self.different(None)) }
    }
}
