//! Packets that wait for an answer: a bounded queue per connection. Look-ups overlap, effects stay in arrival order.

use super::{Answer, Broker, Cx};
use crate::connection::Phase;
use crate::id::{ConnectionId, Ticket};
use crate::middleware::Flow;
use crate::packet::{Frame, Framed, Packet, PacketType, ReasonCode, Version, frame};
use crate::redact::Redaction;
use crate::saved::saved;
use crate::time::{Now, Wall};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// A packet that waits: for an answer, or behind another that does.
pub(crate) struct Parked {
    /// The packet.
    bytes: Box<[u8]>,
    /// What it waits for.
    pub(crate) ticket: Option<Ticket>,
    /// The part of the chain it goes on with.
    resume: u8,
    /// What comes behind it is held back from this part on.
    barrier: u8,
    /// When it came.
    arrived: Wall,
    verdict: Verdict,
    /// Filters of a SUBSCRIBE that were refused.
    refused: Box<[(u16, ReasonCode)]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It can go on when it is the first.
    Ready,
    /// The outside has to answer.
    Asked,
    /// The client has to say more (AUTH).
    Client,
    /// It will not go on.
    Stop(Flow),
}

saved! {
    struct Parked { bytes, ticket, resume, barrier, arrived, verdict, refused }
    enum Verdict { 0 Ready, 1 Asked, 2 Client, 3 Stop(flow), }
}

impl fmt::Debug for Parked {
    // It may be a CONNECT with a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl Parked {
    pub(crate) fn barrier(&self) -> u8 {
        self.barrier
    }

    pub(crate) fn waits_for_client(&self) -> bool {
        self.verdict == Verdict::Client
    }

    /// Whether it is the AUTH that began a re-authentication: nothing waits behind it.
    pub(crate) fn is_exchange(&self) -> bool {
        self.bytes.first().is_some_and(|first| first >> 4 == PacketType::Auth as u8)
    }

    /// Replaces what nobody else may read.
    pub(crate) fn redact(&mut self, redaction: &Redaction<'_>, version: Version) {
        redaction.parked(&mut self.bytes, version);
    }

    fn frame(&self) -> Option<Frame<'_>> {
        match frame(&self.bytes, u32::MAX) {
            Ok(Framed::Whole { frame, .. }) => Some(frame),
            Ok(Framed::Partial { .. }) | Err(_) => None,
        }
    }
}

impl Broker {
    /// Keeps a packet that has to wait, to go on with part `resume`, or to be refused (`stop`) in its turn. Packets
    /// that come later may not get beyond part `barrier`.
    ///
    /// It is encoded anew, so that what earlier parts changed, and the topic behind a Topic Alias, stay as they are.
    pub(super) fn park(
        &mut self,
        id: ConnectionId,
        packet: &Packet<'_>,
        (resume, barrier): (u8, u8),
        first: bool,
        stop: Option<Flow>,
    ) {
        let ticket = self.state.asked.take();
        let mut bytes = Vec::new();
        let connection = match self.state.connections.get_mut(id) {
            // Whatever was decoded can be encoded, unless a middleware made it too large.
            Some(connection) if packet.encode(connection.version, &mut bytes).is_ok() => connection,
            _ => return ticket.into_iter().for_each(|ticket| self.state.withdraw(ticket)),
        };
        let parked = Parked {
            bytes: bytes.into(),
            ticket,
            resume,
            barrier,
            arrived: self.state.arrived,
            verdict: match stop {
                Some(flow) => Verdict::Stop(flow),
                None if ticket.is_some() => Verdict::Asked,
                None => Verdict::Ready,
            },
            refused: self.state.verdicts.drain(..).collect(),
        };
        let queue = connection.parked.get_or_insert_default();
        if first {
            queue.push_front(parked);
        } else {
            queue.push_back(parked);
        }
    }

    /// The answer to a question. One that nobody waits for any more is ignored.
    pub fn complete(&mut self, now: Now, ticket: Ticket, answer: Answer) {
        self.begin(now, None);
        if let Some(question) = self.state.tickets.get(ticket) {
            self.state.timers.cancel(question.timer);
            self.answer(ticket, answer);
        }
    }

    /// Lets the part that asked decide, then performs what can go on.
    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let Some(question) = self.state.tickets.remove(ticket) else { return };
        let id = question.connection;
        self.state.from = Some(id);
        let Some(mut parked) = self.take_parked(id, ticket) else { return };
        let flow = match self.decode_parked(id, &parked) {
            Some(mut packet) => {
                self.state.verdicts.clear();
                self.state.verdicts.extend_from_slice(&parked.refused);
                let mut cx = Cx { state: &mut self.state, current: None, part: question.part };
                self.stack.part(question.part).answer(&mut cx, id, &mut packet, answer)
            }
            None => Flow::Done,
        };
        parked.refused = self.state.verdicts.drain(..).collect();
        parked.ticket = self.state.asked.take();
        parked.verdict = match flow {
            Flow::Next => Verdict::Ready,
            Flow::Suspend if parked.ticket.is_some() => Verdict::Asked,
            Flow::Suspend => Verdict::Client,
            stop => Verdict::Stop(stop),
        };
        self.put_parked(id, parked);
        self.run(None);
        self.resume(id);
        self.unstall(id);
        let done = |connection: &crate::connection::Connection| {
            connection.departed.is_some() && connection.parked.is_none()
        };
        if self.state.connections.get(id).is_some_and(done) {
            self.depart(id);
        }
    }

    /// Binds a new question to the CONNECT that waits: how AUTH goes on with it.
    pub(super) fn adopt_question(&mut self, id: ConnectionId) {
        let Some(ticket) = self.state.asked.take() else { return };
        let connection = self.state.connections.get_mut(id);
        let parked = connection.and_then(|connection| connection.parked.as_mut());
        match parked.and_then(|parked| parked.iter_mut().find(|parked| parked.waits_for_client())) {
            Some(exchange) => {
                exchange.ticket = Some(ticket);
                exchange.verdict = Verdict::Asked;
            }
            None => self.state.withdraw(ticket),
        }
    }

    fn take_parked(&mut self, id: ConnectionId, ticket: Ticket) -> Option<Parked> {
        let queue = self.state.connections.get_mut(id)?.parked.as_mut()?;
        let parked = queue.iter_mut().find(|parked| parked.ticket == Some(ticket))?;
        // Its place in the queue stays, with the ticket as its mark.
        Some(core::mem::replace(
            parked,
            Parked {
                bytes: Box::default(),
                ticket: Some(ticket),
                resume: parked.resume,
                barrier: parked.barrier,
                arrived: parked.arrived,
                verdict: Verdict::Asked,
                refused: Box::default(),
            },
        ))
    }

    fn put_parked(&mut self, id: ConnectionId, parked: Parked) {
        let queue = self.state.connections.get_mut(id).and_then(|connection| connection.parked.as_mut());
        // The mark is the one entry without bytes.
        match queue.and_then(|queue| queue.iter_mut().find(|parked| parked.bytes.is_empty())) {
            Some(mark) => *mark = parked,
            None => {
                if let Some(ticket) = parked.ticket {
                    self.state.withdraw(ticket);
                }
            }
        }
    }

    fn decode_parked<'a>(&self, id: ConnectionId, parked: &'a Parked) -> Option<Packet<'a>> {
        let version = self.state.connections.get(id)?.version;
        // It was decoded before: it is well-formed.
        Packet::decode(&parked.frame()?, version).ok()
    }

    /// Goes on with the packets at the head of the queue that wait for nothing any more.
    fn resume(&mut self, id: ConnectionId) {
        loop {
            let Some(connection) = self.state.connections.get_mut(id) else { return };
            if matches!(connection.phase, Phase::Closing | Phase::Closed) {
                return;
            }
            let Some(queue) = connection.parked.as_mut() else { break };
            let waits = |parked: &Parked| matches!(parked.verdict, Verdict::Asked | Verdict::Client);
            let next = queue.iter().position(|parked| !(parked.is_exchange() && waits(parked)));
            match next.and_then(|next| Some((next, queue.get(next)?))) {
                Some((_, parked)) if waits(parked) => return,
                Some(_) => {}
                None if queue.is_empty() => {
                    connection.parked = None;
                    break;
                }
                None => return,
            }
            let Some(parked) = next.and_then(|next| queue.remove(next)) else { break };
            if queue.is_empty() {
                connection.parked = None;
            }
            self.perform(id, &parked);
            self.state.arrived = self.state.now.wall;
        }
    }

    fn perform(&mut self, id: ConnectionId, parked: &Parked) {
        self.state.kept = None;
        self.state.from = Some(id);
        // The life of a message begins when it came, not when it was allowed.
        self.state.arrived = parked.arrived;
        let Some(mut packet) = self.decode_parked(id, parked) else { return };
        match parked.verdict {
            Verdict::Stop(Flow::Refuse(reason)) => self.refuse(id, &packet, reason),
            Verdict::Stop(Flow::Violation(violation)) => self.violate(id, violation),
            Verdict::Stop(_) => {}
            _ => {
                self.state.verdicts.clear();
                self.state.verdicts.extend_from_slice(&parked.refused);
                self.walk(id, &mut packet, parked.resume, u8::MAX, true);
            }
        }
    }
}
