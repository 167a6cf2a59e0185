//! The network: two streams of bytes per connection, cut anywhere, late, and bounded.

use crate::random::Random;
use culex_core::{ConnectionId, Disconnect};
use std::collections::VecDeque;

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Pipe {
    chunks: VecDeque<(u64, Vec<u8>)>,
    last: u64,
    /// Bytes on the way.
    pub(crate) bytes: usize,
    /// The writer closed it, which arrives then.
    pub(crate) fin: Option<u64>,
    random: Random,
    latency: u64,
    /// How often it was written to at one moment.
    written: (u64, u64),
}

impl Pipe {
    pub(crate) fn new(random: Random, latency_ms: u64) -> Self {
        Self {
            chunks: VecDeque::new(),
            last: 0,
            bytes: 0,
            fin: None,
            random,
            latency: latency_ms * 1_000,
            written: (0, 0),
        }
    }

    /// The chance of one write: it follows from the time, not from what was written before.
    fn chance(&mut self, now: u64) -> Random {
        let (last, count) = self.written;
        self.written = (now, if last == now { count + 1 } else { 0 });
        self.random.fork(now).fork(self.written.1)
    }

    fn due(&mut self, now: u64, random: &mut Random) -> u64 {
        self.last = self.last.max(now + random.below(self.latency + 1));
        self.last
    }

    /// Sends bytes, in one piece or in several; returns when the pieces arrive.
    pub(crate) fn write(&mut self, now: u64, mut bytes: &[u8]) -> Vec<u64> {
        let mut arrivals = Vec::new();
        let mut random = self.chance(now);
        let in_pieces = random.percent(30);
        while !bytes.is_empty() {
            let most = if in_pieces { random.between(1, 12) as usize } else { bytes.len() };
            let (piece, rest) = bytes.split_at(most.min(bytes.len()));
            let due = self.due(now, &mut random);
            self.bytes += piece.len();
            self.chunks.push_back((due, piece.to_vec()));
            arrivals.push(due);
            bytes = rest;
        }
        arrivals
    }

    /// The writer closes; returns when the reader learns of it.
    pub(crate) fn close(&mut self, now: u64) -> u64 {
        let mut random = self.chance(now);
        let due = self.due(now, &mut random);
        *self.fin.get_or_insert(due)
    }

    /// At most so many of the bytes that have arrived.
    pub(crate) fn read(&mut self, now: u64, most: usize) -> Option<Vec<u8>> {
        let (due, chunk) = self.chunks.front_mut()?;
        if *due > now || most == 0 {
            return None;
        }
        let taken = if chunk.len() <= most {
            self.chunks.pop_front()?.1
        } else {
            let rest = chunk.split_off(most);
            std::mem::replace(chunk, rest)
        };
        self.bytes -= taken.len();
        Some(taken)
    }

    /// When the oldest of what was not read yet arrived, or will.
    pub(crate) fn waits_since(&self) -> Option<u64> {
        self.chunks.front().map(|(due, _)| *due)
    }

    /// Everything was read and the writer has closed.
    pub(crate) fn ended(&self, now: u64) -> bool {
        self.chunks.is_empty() && self.fin.is_some_and(|fin| fin <= now)
    }

    /// From now on everything arrives at once.
    pub(crate) fn hurry(&mut self) {
        self.latency = 0;
    }

    /// What is on its way is lost.
    pub(crate) fn lose(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: usize,
    /// The shard that has it.
    pub(crate) shard: usize,
    /// What the broker calls it; `None`: the broker is not or no longer concerned.
    pub(crate) id: Option<ConnectionId>,
    /// It is on its way from one shard to another.
    pub(crate) moving: bool,
    /// It was lost there.
    pub(crate) lost: Option<Disconnect>,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    /// Bytes of a packet that is not whole yet, at three places: going in, coming out, arriving.
    pub(crate) going_in: Vec<u8>,
    pub(crate) coming_out: Vec<u8>,
    pub(crate) arriving: Vec<u8>,
    pub(crate) client_open: bool,
    /// The broker's last write did not fit.
    pub(crate) full: bool,
    pub(crate) nonsense: bool,
    pub(crate) closing: bool,
}

/// Takes the first whole packet off some bytes: its length, or an error if they cannot become one.
pub(crate) fn frame_length(bytes: &[u8]) -> Result<Option<usize>, ()> {
    match culex_core::packet::frame(bytes, u32::MAX) {
        Ok(culex_core::packet::Framed::Whole { length, .. }) => Ok(Some(length)),
        Ok(culex_core::packet::Framed::Partial { .. }) => Ok(None),
        Err(_) => Err(()),
    }
}
