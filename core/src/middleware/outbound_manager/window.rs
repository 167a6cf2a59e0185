//! The in-flight window of one session: outgoing QoS 1 and 2 messages that were not acknowledged, in their order.

use crate::broker::{Flight, Identifiers, Receiver, Stage};
use crate::message::Message;
use crate::packet::{PacketId, QoS};
use crate::saved::{Malformed, Reader, Saved, Writer, saved};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// How far a message in flight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It belongs to the window, but was not sent on this connection yet.
    Unsent,
    /// PUBLISH was sent.
    Sent,
    /// PUBREC came: PUBREL was sent, PUBCOMP is awaited.
    Released,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) packet_id: PacketId,
    pub(super) progress: Progress,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Gone once it is released.
    pub(super) message: Option<Message>,
    pub(super) identifiers: Identifiers,
}

saved! {
    enum Progress { 0 Unsent, 1 Sent, 2 Released, }
    struct InFlight { packet_id, progress, qos, retain, message, identifiers }
}

/// How many wait to be sent follows from the rest.
impl Saved for Window {
    fn save(&self, to: &mut Writer<'_>) {
        let Self { flights, last, lapped, unsent: _ } = self;
        flights.save(to);
        last.save(to);
        lapped.save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let flights = VecDeque::<InFlight>::load(from)?;
        from.expect(flights.len() <= usize::from(u16::MAX))?;
        let unsent = flights.iter().filter(|flight| flight.progress == Progress::Unsent).count() as u16;
        Ok(Self { flights, last: Saved::load(from)?, lapped: Saved::load(from)?, unsent })
    }
}

impl InFlight {
    pub(super) fn new(packet_id: PacketId, message: Message, receiver: &Receiver) -> Self {
        Self {
            packet_id,
            progress: Progress::Sent,
            qos: receiver.qos,
            retain: receiver.retain,
            message: Some(message),
            identifiers: Identifiers::None,
        }
    }
}

/// Identifiers are handed out in ascending order, so the window is sorted by them (around the end of their range),
/// and an acknowledgement finds its message near the place their distance tells.
#[derive(Debug, Default)]
pub(super) struct Window {
    flights: VecDeque<InFlight>,
    last: u16,
    /// The numbers are no longer sorted: any may be in use.
    lapped: bool,
    /// How many wait to be sent on this connection.
    pub(super) unsent: u16,
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    pub(super) fn inspect(&self) -> Vec<Flight> {
        let flight = |flight: &InFlight| Flight {
            packet_id: flight.packet_id,
            qos: flight.qos,
            stage: match flight.progress {
                Progress::Unsent => Stage::Unsent,
                Progress::Sent => Stage::Sent,
                Progress::Released => Stage::Released,
            },
            message: flight.message.clone(),
        };
        self.flights.iter().map(flight).collect()
    }

    /// An identifier that is not in use [MQTT-2.2.1-4]; none if all are.
    pub(super) fn next_id(&mut self) -> Option<PacketId> {
        if self.flights.len() >= usize::from(u16::MAX) {
            return None;
        }
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            let packet_id = PacketId::new(self.last)?;
            match self.flights.front() {
                None => self.lapped = false,
                // The numbers went all the way round, past messages that are stuck.
                Some(front) => self.lapped |= front.packet_id == packet_id,
            }
            if !self.lapped || self.position(packet_id).is_none() {
                return Some(packet_id);
            }
        }
    }

    pub(super) fn push(&mut self, flight: InFlight) {
        self.flights.push_back(flight);
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        let front = self.flights.front()?.packet_id.get();
        let guess = usize::from(distance(front, packet_id.get())).min(self.flights.len() - 1);
        // Whatever was taken out only moved it forward.
        let near = (0..=guess).rev().find(|&index| self.flights[index].packet_id == packet_id);
        near.or_else(|| {
            (guess + 1..self.flights.len()).find(|&index| self.flights[index].packet_id == packet_id)
        })
    }

    /// The QoS of a message in flight, and how far it is.
    pub(super) fn state(&self, packet_id: PacketId) -> Option<(QoS, Progress)> {
        let flight = &self.flights[self.position(packet_id)?];
        Some((flight.qos, flight.progress))
    }

    /// PUBREC came: from here on the message is the client's, and only its identifier is still in use.
    pub(super) fn release(&mut self, packet_id: PacketId) {
        let Some(index) = self.position(packet_id) else { return };
        let flight = &mut self.flights[index];
        // A client may know a message from an earlier connection that was not yet sent again on this one.
        self.unsent -= u16::from(flight.progress == Progress::Unsent);
        flight.progress = Progress::Released;
        flight.message = None;
    }

    /// Takes out a message that is done; false if there is none of that kind.
    pub(super) fn remove(&mut self, packet_id: PacketId, qos: QoS, was: Progress) -> bool {
        let Some(index) = self.position(packet_id) else { return false };
        if self.flights[index].qos != qos || self.flights[index].progress != was {
            return false;
        }
        self.flights.remove(index);
        // A refusal may come before the message was sent again on this connection [MQTT-4.4.0-2].
        self.unsent -= u16::from(was == Progress::Unsent);
        if self.flights.is_empty() && self.flights.capacity() > KEPT_PLACES {
            self.flights = VecDeque::new();
        }
        true
    }

    /// A new connection: everything that is not released has to be sent again.
    pub(super) fn rewind(&mut self) {
        self.unsent = 0;
        for flight in &mut self.flights {
            if flight.progress != Progress::Released {
                flight.progress = Progress::Unsent;
                self.unsent += 1;
            }
        }
    }

    pub(super) fn released(&self) -> impl Iterator<Item = PacketId> + '_ {
        let released = self.flights.iter().filter(|flight| flight.progress == Progress::Released);
        released.map(|flight| flight.packet_id)
    }

    /// The first message that has to be sent again; it counts as sent from now on.
    pub(super) fn next_unsent(&mut self) -> Option<&InFlight> {
        let index = self.flights.iter().position(|flight| flight.progress == Progress::Unsent)?;
        self.flights[index].progress = Progress::Sent;
        self.unsent -= 1;
        Some(&self.flights[index])
    }
}

/// From one identifier on to another, counting 1 to 65,535 in a circle.
fn distance(from: u16, to: u16) -> u16 {
    if to >= from { to - from } else { u16::MAX - from + to }
}

/// Larger empty windows give their memory back.
const KEPT_PLACES: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Id, SessionId};

    fn fly(window: &mut Window) -> PacketId {
        let packet_id = window.next_id().unwrap();
        let receiver = Receiver {
            session: SessionId::new(0, 0),
            qos: QoS::AtLeastOnce,
            retain: false,
            paged: false,
            identifiers: Identifiers::None,
        };
        let message = Message::new("t", b"", QoS::AtLeastOnce, false).unwrap();
        window.push(InFlight::new(packet_id, message, &receiver));
        packet_id
    }

    fn land(window: &mut Window, packet_id: PacketId) -> bool {
        window.remove(packet_id, QoS::AtLeastOnce, Progress::Sent)
    }

    #[test]
    fn an_identifier_is_not_given_twice_while_a_message_is_stuck() {
        // [MQTT-2.2.1-4]
        let mut window = Window::default();
        let stuck = fly(&mut window);
        let other = fly(&mut window);
        for _ in 0..200_000 {
            let packet_id = fly(&mut window);
            assert!(packet_id != stuck && packet_id != other);
            assert!(land(&mut window, packet_id));
        }
        assert!(land(&mut window, other) && land(&mut window, stuck));
        assert!(!land(&mut window, stuck));
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn a_message_refused_before_it_is_sent_again_leaves_nothing_to_send() {
        // [MQTT-4.4.0-2]
        let mut window = Window::default();
        let (first, second) = (fly(&mut window), fly(&mut window));
        window.rewind();
        assert!(window.remove(first, QoS::AtLeastOnce, Progress::Unsent));
        assert_eq!(window.next_unsent().map(|flight| flight.packet_id), Some(second));
        assert_eq!((window.len(), window.unsent), (1, 0));
    }

    #[test]
    fn acknowledgements_out_of_order_find_their_messages() {
        let mut window = Window::default();
        let mut flying = VecDeque::new();
        for round in 0..100_000usize {
            flying.push_back(fly(&mut window));
            if flying.len() > 50 {
                let packet_id = flying.remove(round * 7 % flying.len()).unwrap();
                assert!(land(&mut window, packet_id));
            }
            assert_eq!(window.len(), flying.len());
        }
    }
}
