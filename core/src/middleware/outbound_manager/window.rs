//! The in-flight window of one session: outgoing QoS 1 and 2 messages that were not acknowledged, in their order.

use crate::broker::{Flight, Identifiers, Receiver, Record, Stage};
use crate::message::Message;
use crate::packet::{PacketId, QoS};
use crate::saved::{Malformed, Reader, Saved, Writer, saved};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// How far a message in flight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It belongs to the window, but was not sent on this connection yet.
    Unsent,
    /// It is sent as soon as its record is durable: until then the client cannot know it.
    Gated,
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
    enum Progress { 0 Unsent, 1 Gated, 2 Sent, 3 Released, }
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
        from.ensure(flights.len() <= usize::from(u16::MAX))?;
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

impl InFlight {
    pub(super) fn record(&self, client_id: Box<str>) -> Record {
        let packet_id = self.packet_id;
        let Some(message) = self.message.clone() else {
            return Record::Received { client_id, packet_id };
        };
        let (qos, retain, identifiers, paged) = (self.qos, self.retain, self.identifiers.clone(), false);
        Record::InFlight { client_id, packet_id, message, qos, retain, identifiers, paged }
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
                Progress::Gated => Stage::Gated,
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
        let front = self.flights.front()?.packet_id;
        if front == packet_id {
            return Some(0);
        }
        let front = front.get();
        let guess = usize::from(distance(front, packet_id.get())).min(self.flights.len() - 1);
        // Whatever was taken out only moved it forward.
        let near = (0..=guess).rev().find(|&index| self.flights[index].packet_id == packet_id);
        near.or_else(|| {
            (guess + 1..self.flights.len()).find(|&index| self.flights[index].packet_id == packet_id)
        })
    }

    /// The QoS of a message in flight that its client can know, and how far it is.
    pub(super) fn state(&self, packet_id: PacketId) -> Option<(QoS, Progress)> {
        let flight = &self.flights[self.position(packet_id)?];
        (flight.progress != Progress::Gated).then_some((flight.qos, flight.progress))
    }

    /// All messages in flight, in their order.
    pub(super) fn flights(&self) -> impl Iterator<Item = &InFlight> {
        self.flights.iter()
    }

    /// A message that waited for its record; it counts as sent from now on.
    pub(super) fn take_gated(&mut self, packet_id: PacketId) -> Option<(Message, QoS, bool, Identifiers)> {
        let index = self.position(packet_id)?;
        let flight = &mut self.flights[index];
        let message = flight.message.clone().filter(|_| flight.progress == Progress::Gated)?;
        flight.progress = Progress::Sent;
        Some((message, flight.qos, flight.retain, flight.identifiers.clone()))
    }

    /// Puts back what an earlier machine had in flight.
    pub(super) fn restore(&mut self, flight: InFlight) {
        self.end(flight.packet_id);
        self.last = flight.packet_id.get();
        // Nothing is known of the order of the numbers.
        self.lapped = true;
        self.flights.push_back(flight);
    }

    /// Puts back that a message is the client's.
    pub(super) fn restore_released(&mut self, packet_id: PacketId) {
        if self.position(packet_id).is_some() {
            return self.release(packet_id);
        }
        self.restore(InFlight {
            packet_id,
            progress: Progress::Released,
            qos: QoS::ExactlyOnce,
            retain: false,
            message: None,
            identifiers: Identifiers::None,
        });
    }

    /// Takes out a message, however far it is.
    pub(super) fn end(&mut self, packet_id: PacketId) {
        if let Some(index) = self.position(packet_id) {
            let flight = self.flights.remove(index);
            self.unsent -= u16::from(flight.is_some_and(|flight| flight.progress == Progress::Unsent));
        }
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
        if index == 0 {
            self.flights.pop_front();
        } else {
            self.flights.remove(index);
        }
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
    use proptest::prelude::*;
    use proptest::sample::Index;
    use std::vec::Vec;

    fn flight(packet_id: PacketId, qos: QoS) -> InFlight {
        let receiver = Receiver {
            session: SessionId::new(0, 0),
            qos,
            retain: false,
            source: crate::broker::Source::Relay,
            identifiers: Identifiers::None,
        };
        let message = Message::new("t", b"", qos, false).unwrap();
        InFlight::new(packet_id, message, &receiver)
    }

    fn fly(window: &mut Window) -> PacketId {
        let packet_id = window.next_id().unwrap();
        window.push(flight(packet_id, QoS::AtLeastOnce));
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
    fn identifiers_of_an_earlier_machine_are_not_given_twice() {
        // [MQTT-2.2.1-4]: in whatever order they were.
        let mut window = Window::default();
        let numbers = [5, 65_000, 3, 7];
        for number in numbers {
            let mut earlier = Window { last: number - 1, ..Window::default() };
            fly(&mut earlier);
            window.restore(earlier.flights.pop_back().unwrap());
        }
        window.restore_released(PacketId::new(9).unwrap());
        for _ in 0..70_000 {
            let packet_id = fly(&mut window);
            assert!(!numbers.contains(&packet_id.get()) && packet_id.get() != 9);
            assert!(land(&mut window, packet_id));
        }
        numbers.iter().for_each(|number| window.end(PacketId::new(*number).unwrap()));
        assert_eq!(window.state(PacketId::new(9).unwrap()), Some((QoS::ExactlyOnce, Progress::Released)));
        assert_eq!(window.len(), 1);
    }

    #[test]
    fn a_message_that_ends_before_it_is_sent_again_leaves_nothing_to_send() {
        let mut window = Window::default();
        let (first, second) = (fly(&mut window), fly(&mut window));
        window.rewind();
        window.end(first);
        assert_eq!((window.len(), window.unsent), (1, 1));
        assert_eq!(window.next_unsent().map(|flight| flight.packet_id), Some(second));
        window.end(second);
        assert_eq!((window.len(), window.unsent), (0, 0));
    }

    #[test]
    fn a_window_that_was_saved_knows_what_is_left_to_send() {
        let mut window = Window::default();
        let sent = [(); 5].map(|()| fly(&mut window));
        window.rewind();
        assert_eq!(window.next_unsent().map(|flight| flight.packet_id), Some(sent[0]));
        let mut bytes = Vec::new();
        window.save(&mut Writer::new(&mut bytes));
        let mut again = Window::load(&mut Reader::new(&bytes)).unwrap();
        assert_eq!((again.len(), again.unsent), (5, 4));
        assert_eq!(again.next_unsent().map(|flight| flight.packet_id), Some(sent[1]));
        assert_eq!(again.next_id(), window.next_id());
    }

    #[test]
    fn a_large_window_gives_its_memory_back_when_it_is_empty() {
        for (places, kept) in [(KEPT_PLACES, true), (KEPT_PLACES + 1, false)] {
            let mut window = Window { flights: VecDeque::with_capacity(places), ..Window::default() };
            assert_eq!(window.flights.capacity(), places);
            let (first, last) = (fly(&mut window), fly(&mut window));
            assert!(land(&mut window, first));
            assert_eq!(window.flights.capacity(), places, "not empty yet");
            assert!(land(&mut window, last));
            assert_eq!(window.flights.capacity() == places, kept);
        }
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

    /// What can happen to a window.
    #[derive(Debug, Clone)]
    enum Op {
        Send(QoS),
        /// So many identifiers are given to messages that are then not tracked.
        Skip(u16),
        /// The client acknowledges one of those in flight.
        Release(Index),
        Remove(Index, QoS, Progress),
        /// It acknowledges what it never got.
        Stray(u16),
        Rewind,
        Resend,
    }

    fn op() -> impl Strategy<Value = Op> {
        let qos = || prop::sample::select(vec![QoS::AtLeastOnce, QoS::ExactlyOnce]);
        let progress = prop::sample::select(vec![Progress::Unsent, Progress::Sent, Progress::Released]);
        prop_oneof![
            200 => qos().prop_map(Op::Send),
            // All the way round, about: past those that are stuck.
            1 => (65_500u16..).prop_map(Op::Skip),
            30 => (0u16..40).prop_map(Op::Skip),
            60 => any::<Index>().prop_map(Op::Release),
            150 => (any::<Index>(), qos(), progress).prop_map(|(at, qos, was)| Op::Remove(at, qos, was)),
            20 => any::<u16>().prop_map(Op::Stray),
            20 => Just(Op::Rewind),
            80 => Just(Op::Resend),
        ]
    }

    type Model = Vec<(u16, QoS, Progress)>;

    /// The next number of the circle that nobody in flight has.
    fn next_free(model: &Model, mut last: u16) -> u16 {
        loop {
            last = if last == u16::MAX { 1 } else { last + 1 };
            if model.iter().all(|(id, ..)| *id != last) {
                return last;
            }
        }
    }

    fn check(window: &Window, model: &Model) -> Result<(), TestCaseError> {
        let count = |progress| model.iter().filter(|(.., was)| *was == progress).count();
        prop_assert_eq!(window.len(), model.len());
        prop_assert_eq!(usize::from(window.unsent), count(Progress::Unsent));
        for (id, qos, progress) in model {
            prop_assert_eq!(window.state(PacketId::new(*id).unwrap()), Some((*qos, *progress)));
        }
        let released = model.iter().filter(|(.., was)| *was == Progress::Released).map(|(id, ..)| *id);
        prop_assert!(window.released().map(PacketId::get).eq(released), "in another order");
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

        #[test]
        fn the_window_is_a_list(ops in prop::collection::vec(op(), 1..150)) {
            let mut window = Window::default();
            let mut model = Model::new();
            let mut last = 0;
            for op in ops {
                match op {
                    Op::Send(qos) => {
                        // [MQTT-2.2.1-4]
                        last = next_free(&model, last);
                        let packet_id = window.next_id().unwrap();
                        prop_assert_eq!(packet_id.get(), last);
                        window.push(flight(packet_id, qos));
                        model.push((last, qos, Progress::Sent));
                    }
                    Op::Skip(count) => {
                        for _ in 0..count {
                            last = next_free(&model, last);
                            prop_assert_eq!(window.next_id().map(PacketId::get), Some(last));
                        }
                    }
                    Op::Release(at) if !model.is_empty() => {
                        let at = at.index(model.len());
                        window.release(PacketId::new(model[at].0).unwrap());
                        model[at].2 = Progress::Released;
                    }
                    Op::Remove(at, qos, was) if !model.is_empty() => {
                        let at = at.index(model.len());
                        let (id, ..) = model[at];
                        let fits = model[at] == (id, qos, was);
                        prop_assert_eq!(window.remove(PacketId::new(id).unwrap(), qos, was), fits);
                        if fits {
                            model.remove(at);
                        }
                    }
                    Op::Stray(id) if model.iter().all(|(used, ..)| *used != id) => {
                        let Some(id) = PacketId::new(id) else { continue };
                        window.release(id);
                        prop_assert_eq!(window.state(id), None);
                        prop_assert!(!window.remove(id, QoS::AtLeastOnce, Progress::Sent));
                    }
                    Op::Rewind => {
                        window.rewind();
                        for (.., progress) in &mut model {
                            if *progress != Progress::Released {
                                *progress = Progress::Unsent;
                            }
                        }
                    }
                    Op::Resend => {
                        // [MQTT-4.6.0-1]: in the order in which they were sent first.
                        let first = model.iter_mut().find(|(.., was)| *was == Progress::Unsent);
                        let expected = first.map(|(id, _, progress)| {
                            *progress = Progress::Sent;
                            *id
                        });
                        let again = window.next_unsent();
                        prop_assert!(again.is_none_or(|flight| flight.message.is_some()));
                        prop_assert_eq!(again.map(|flight| flight.packet_id.get()), expected);
                    }
                    Op::Release(_) | Op::Remove(..) | Op::Stray(_) => {}
                }
                check(&window, &model)?;
            }
        }
    }
}
