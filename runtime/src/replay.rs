//! Doing again what was recorded, with a machine and without sockets.

use crate::recorder::{END, FORMAT, MAGIC, SEGMENT, VERSION, digest_of, tag};
use culex_core::broker::Traced;
use culex_core::saved::{Malformed, Reader, Saved, Writer, digest};
use culex_core::{Action, BadSnapshot, Broker, ConnectionId, Input, Now, ShardId, Stack};
use std::fmt;

/// A recording as it was written by a [`Recorder`](crate::Recorder).
#[derive(Debug, Clone)]
pub struct Recording<'a> {
    pub(crate) segments: Vec<Segment<'a>>,
}

#[derive(Clone, Copy)]
pub(crate) struct Segment<'a> {
    /// The number of inputs before it.
    pub(crate) first: u64,
    pub(crate) snapshot: &'a [u8],
    pub(crate) events: &'a [u8],
}

impl fmt::Debug for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("first", &self.first).finish_non_exhaustive()
    }
}

/// Why a recording cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadRecording {
    /// The bytes are none.
    Unknown,
    /// Another version of the program made it: only that can read it.
    Version(String),
    /// It ends too early: so many whole segments are there.
    Truncated {
        /// Segments that could be read.
        segments: usize,
    },
    /// The bytes of a segment, counted from 1, are not those that were written.
    Damaged {
        /// Which.
        segment: usize,
    },
    /// Nothing happened while it was made.
    Empty,
    /// The machine cannot be made from the snapshot of a segment, counted from 1.
    Snapshot {
        /// Which.
        segment: usize,
        /// Why.
        error: BadSnapshot,
    },
    /// What stands behind so many inputs makes no sense.
    Malformed {
        /// Inputs that could be read.
        input: u64,
    },
}

impl fmt::Display for BadRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not a recording"),
            Self::Version(version) => write!(f, "recorded by version {version}, this is {VERSION}"),
            Self::Truncated { segments } => {
                write!(f, "truncated: it ends in the middle of segment {}", segments + 1)
            }
            Self::Damaged { segment } => {
                write!(f, "damaged: the bytes of segment {segment} are not those that were recorded")
            }
            Self::Empty => f.write_str("empty: nothing happened while it was recorded"),
            Self::Snapshot { segment, error } => write!(f, "the snapshot of segment {segment}: {error}"),
            Self::Malformed { input } => {
                write!(f, "not written by a recorder: what follows input {input} makes no sense")
            }
        }
    }
}

impl std::error::Error for BadRecording {}

impl<'a> Recording<'a> {
    /// Looks a recording over: all of it is there, and as it was written.
    ///
    /// # Errors
    /// It is not.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadRecording> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(BadRecording::Unknown)?;
        let mut from = Reader::new(rest);
        let version = from.number().and_then(|format| Ok((format, from.bytes()?)));
        let (format, version) = version.map_err(|_| BadRecording::Truncated { segments: 0 })?;
        if format != FORMAT || version != VERSION.as_bytes() {
            return Err(BadRecording::Version(String::from_utf8_lossy(version).into_owned()));
        }
        let mut rest = from.rest();
        let mut segments = Vec::new();
        loop {
            let truncated = BadRecording::Truncated { segments: segments.len() };
            let damaged = BadRecording::Damaged { segment: segments.len() + 1 };
            match rest.split_first() {
                Some((&END, [])) if segments.is_empty() => return Err(BadRecording::Empty),
                Some((&END, [])) => return Ok(Self { segments }),
                Some((&SEGMENT, behind)) => {
                    let (body, behind) = section(behind).ok_or(truncated)?.ok_or(damaged.clone())?;
                    segments.push(Segment::parse(body).map_err(|_| damaged)?);
                    rest = behind;
                }
                Some(_) => return Err(damaged),
                None => return Err(truncated),
            }
        }
    }

    /// How many segments it has.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Begins to do it again. `stack` makes a chain like that of the machine that was recorded; if that was one of several,
    /// [without](Self::chain) what it has for that.
    ///
    /// # Errors
    /// The machine cannot be made.
    pub fn replay(&self, stack: impl FnOnce() -> Stack) -> Result<Replay<'a>, BadRecording> {
        let Some((&first, rest)) = self.segments.split_first() else { return Err(BadRecording::Empty) };
        let broker = self.machine(stack())?;
        Ok(Replay {
            broker,
            rest: rest.to_vec(),
            segment: 1,
            events: first.events,
            began: None,
            now: Now::default(),
            inputs: first.first,
        })
    }

    /// The machine as it was when the recording begins.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn machine(&self, stack: Stack) -> Result<Broker, BadRecording> {
        let Some(first) = self.segments.first() else { return Err(BadRecording::Empty) };
        Broker::from_snapshot(None, self.chain(stack)?, first.snapshot)
            .map_err(|error| BadRecording::Snapshot { segment: 1, error })
    }

    /// A chain, with what it needs if the machine that was recorded was one of several.
    ///
    /// # Errors
    /// The recording does not say.
    pub fn chain(&self, stack: Stack) -> Result<Stack, BadRecording> {
        match Broker::shards_of_snapshot(self.snapshot()) {
            Ok(Some(shards)) => Ok(stack.shard(shards)),
            Ok(None) => Ok(stack),
            Err(error) => Err(BadRecording::Snapshot { segment: 1, error }),
        }
    }

    /// The snapshot it begins with.
    #[must_use]
    pub fn snapshot(&self) -> &'a [u8] {
        self.segments.first().map_or(&[], |segment| segment.snapshot)
    }
}

/// A body and what stands behind it; nothing inside: its digest differs; nothing at all: it is not all there.
fn section(bytes: &[u8]) -> Option<Option<(&[u8], &[u8])>> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (expected, rest) = rest.split_first_chunk::<8>()?;
    let (body, behind) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((digest(body) == u64::from_le_bytes(*expected)).then_some((body, behind)))
}

impl<'a> Segment<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let (first, snapshot) = (from.number()?, from.bytes()?);
        Ok(Self { first, snapshot, events: from.rest() })
    }
}

/// Does a recording again, step by step, and compares.
#[derive(Debug)]
pub struct Replay<'a> {
    broker: Broker,
    /// Segments that come later.
    rest: Vec<Segment<'a>>,
    segment: usize,
    events: &'a [u8],
    began: Option<Now>,
    now: Now,
    inputs: u64,
}

/// One thing that was done again.
#[derive(Debug, Clone)]
pub struct Step {
    /// How many inputs there were up to here, this one included.
    pub input: u64,
    /// When.
    pub now: Now,
    /// What.
    pub did: Did,
}

/// See [`Step`].
#[derive(Debug, Clone)]
pub enum Did {
    /// The machine was given an input. An accepted connection got this id.
    Input(Input, Option<ConnectionId>),
    /// A connection's output was written, as far as its socket took it.
    Written {
        /// Whose.
        id: ConnectionId,
        /// What.
        bytes: Vec<u8>,
        /// How much stayed behind.
        left: usize,
    },
    /// Actions were taken.
    Taken(Vec<Action>),
    /// What another shard is to be told was taken.
    Told {
        /// Which.
        to: ShardId,
        /// What.
        bytes: Vec<u8>,
    },
    /// There was no more output.
    Drained,
    /// A new segment began; the machine is in the state that its snapshot says.
    Segment,
}

/// The machine did not do what it had done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// After so many inputs.
    pub input: u64,
    /// When.
    pub now: Now,
    /// On which connection.
    pub connection: Option<ConnectionId>,
    /// What is not the same.
    pub what: &'static str,
}

/// Why a step was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// The recording cannot be read on.
    Bad(BadRecording),
    /// The machine did something else.
    Different(Difference),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after input {}: {}", self.input, self.what)?;
        match self.connection {
            Some(id) => write!(f, " ({id:?})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(bad) => bad.fmt(f),
            Self::Different(difference) => difference.fmt(f),
        }
    }
}

impl std::error::Error for Stuck {}

impl Replay<'_> {
    /// The machine, as it is now.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Begins to trace what becomes of messages.
    pub fn trace(&mut self) {
        self.broker.trace(true);
    }

    /// The next thing that became of a message.
    #[must_use]
    pub fn poll_traced(&mut self) -> Option<Traced> {
        self.broker.poll_traced()
    }

    /// When the recording begins, once the first step was done.
    #[must_use]
    pub fn began(&self) -> Option<Now> {
        self.began
    }

    /// The time of the last step.
    #[must_use]
    pub fn now(&self) -> Now {
        self.now
    }

    /// How many inputs there were so far, those before the recording included.
    #[must_use]
    pub fn inputs(&self) -> u64 {
        self.inputs
    }

    /// When the next step is to be done, as far as that is known before it is.
    #[must_use]
    pub fn next_time(&self) -> Option<Now> {
        let mut from = Reader::new(self.events);
        match from.byte() {
            Ok(tag::TIME) => Now::load(&mut from).ok(),
            Ok(_) => Some(self.now),
            Err(_) => None,
        }
    }

    /// Does the next step; none: that was all.
    ///
    /// # Errors
    /// At the first difference, or where the recording makes no sense. There is no step after that.
    pub fn step(&mut self) -> Result<Option<Step>, Stuck> {
        while !self.events.is_empty() {
            let mut from = Reader::new(self.events);
            let event = Event::load(&mut from).map_err(|_| self.malformed())?;
            self.events = from.rest();
            if let Event::Time(now) = event {
                self.now = now;
                self.began.get_or_insert(now);
                continue;
            }
            let did = self.perform(event)?;
            return Ok(Some(Step { input: self.inputs, now: self.now, did }));
        }
        self.next_segment()
    }

    /// The input that the next step gives to the machine, if it gives it one.
    pub(crate) fn next_input(&self) -> Option<Input> {
        let mut from = Reader::new(self.events);
        loop {
            match Event::load(&mut from) {
                Ok(Event::Time(_)) => {}
                Ok(Event::Input(input)) => return Some(input),
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Whether no step is left.
    pub(crate) fn is_over(&self) -> bool {
        self.events.is_empty() && self.rest.is_empty()
    }

    fn malformed(&self) -> Stuck {
        Stuck::Bad(BadRecording::Malformed { input: self.inputs })
    }

    fn different(&self, connection: Option<ConnectionId>, what: &'static str) -> Stuck {
        let (input, now) = (self.inputs, self.now);
        Stuck::Different(Difference { input, now, connection, what })
    }

    fn perform(&mut self, event: Event) -> Result<Did, Stuck> {
        self.inputs += u64::from(event.is_input());
        let expected = event.digest();
        let mut same = true;
        let did = event.perform(&mut self.broker, self.now, |digest| same = digest == expected);
        match did.map_err(|Otherwise(connection, what)| self.different(connection, what))? {
            did if same => Ok(did),
            Did::Written { id, .. } => {
                Err(self.different(Some(id), "the bytes of the output are not the same"))
            }
            Did::Told { .. } => Err(self.different(None, "another shard is told something else")),
            _ => Err(self.different(None, "the actions are not the same")),
        }
    }

    /// Goes on with the next segment: the machine must be in its state already.
    fn next_segment(&mut self) -> Result<Option<Step>, Stuck> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let Segment { first, snapshot, events } = self.rest.remove(0);
        self.segment += 1;
        self.events = events;
        let mut state = Vec::new();
        self.broker.snapshot(&mut state);
        if first != self.inputs || state != snapshot {
            return Err(self.different(None, "the state is not that of the snapshot of the next segment"));
        }
        Ok(Some(Step { input: self.inputs, now: self.now, did: Did::Segment }))
    }
}

/// What a recording says that happened.
pub(crate) enum Event {
    Time(Now),
    Input(Input),
    Written { id: ConnectionId, count: usize, digest: u64 },
    Taken { count: u64, digest: u64 },
    Told { to: ShardId, length: usize, digest: u64 },
    Drained,
}

/// A machine cannot do what an event says: on which connection, and why.
pub(crate) struct Otherwise(pub(crate) Option<ConnectionId>, pub(crate) &'static str);

impl Event {
    pub(crate) fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match from.byte()? {
            tag::TIME => Self::Time(Now::load(from)?),
            tag::INPUT => Self::Input(Input::load(from)?),
            tag::WRITTEN => {
                let (id, (count, digest)) = Saved::load(from)?;
                Self::Written { id, count, digest }
            }
            tag::TAKEN => {
                let (count, digest) = Saved::load(from)?;
                Self::Taken { count, digest }
            }
            tag::TOLD => {
                let (to, (length, digest)) = Saved::load(from)?;
                Self::Told { to, length, digest }
            }
            tag::DRAINED => Self::Drained,
            _ => return Err(from.malformed()),
        })
    }

    /// Whether the machine counts it as an input.
    pub(crate) fn is_input(&self) -> bool {
        matches!(self, Self::Input(_) | Self::Written { .. })
    }

    fn digest(&self) -> u64 {
        match self {
            Self::Written { digest, .. } | Self::Taken { digest, .. } | Self::Told { digest, .. } => *digest,
            Self::Time(_) | Self::Input(_) | Self::Drained => 0,
        }
    }

    /// Lets a machine do it. `digested` hears the digest of output before the machine hears that it is gone.
    pub(crate) fn perform(
        self,
        broker: &mut Broker,
        now: Now,
        digested: impl FnOnce(u64),
    ) -> Result<Did, Otherwise> {
        match self {
            Self::Input(Input::Accept(peer)) => {
                let accepted = broker.accept(now, peer.clone()).ok();
                Ok(Did::Input(Input::Accept(peer), accepted))
            }
            Self::Input(input) => {
                broker.apply(now, input.clone());
                Ok(Did::Input(input, None))
            }
            Self::Written { id, count, .. } => written(broker, id, count, digested),
            Self::Taken { count, .. } => {
                let (mut actions, mut bytes) = (Vec::new(), Vec::new());
                for _ in 0..count {
                    let Some(action) = broker.poll_action() else {
                        return Err(Otherwise(None, "fewer actions were taken than then"));
                    };
                    action.save(&mut Writer::new(&mut bytes));
                    actions.push(action);
                }
                digested(digest(&bytes));
                Ok(Did::Taken(actions))
            }
            Self::Told { to, length, .. } => {
                let bytes = broker.take_for_shard(to).filter(|bytes| bytes.len() == length);
                let Some(bytes) = bytes else {
                    return Err(Otherwise(None, "another shard is told more or less than then"));
                };
                digested(digest(&bytes));
                Ok(Did::Told { to, bytes })
            }
            Self::Time(_) | Self::Drained => match broker.poll_transmit().map(|transmit| transmit.id()) {
                Some(id) => Err(Otherwise(Some(id), "there is output where there was none")),
                None => Ok(Did::Drained),
            },
        }
    }
}

fn written(
    broker: &mut Broker,
    id: ConnectionId,
    count: usize,
    digested: impl FnOnce(u64),
) -> Result<Did, Otherwise> {
    let Some(transmit) = broker.poll_transmit() else {
        return Err(Otherwise(Some(id), "there is no output where there was some"));
    };
    if transmit.id() != id {
        return Err(Otherwise(Some(id), "another connection has output first"));
    }
    let length = transmit.len();
    if length < count {
        return Err(Otherwise(Some(id), "there is less output than was written then"));
    }
    let mut bytes = Vec::new();
    digested(digest_of(transmit.chunks(), count, &mut bytes));
    transmit.written(count);
    Ok(Did::Written { id, bytes, left: length - count })
}
