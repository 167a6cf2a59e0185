//! The middleware `OutboundManager`.

mod send;
mod window;

use super::{Flow, Hooks, Middleware};
use crate::broker::{
    Action, Cx, Delivery, Fate, Forward, Identifiers, Inspection, Queued, Receiver, Record, Reply, Source,
    ToSession, Traced, What, encode_publish, publish_len, seen_below,
};
use crate::config::Config;
use crate::connection::{Connection, Phase};
use crate::hash::HashMap;
use crate::id::{ConnectionId, LogSeq, SessionId, Table};
use crate::message::{Message, Publication};
use crate::packet::{Ack, PacketId, PacketType, QoS, ReasonCode, Version};
use crate::saved::saved_part;
use crate::session::Session;
use alloc::boxed::Box;
use alloc::vec::Vec;
use send::{Below, Image, InHand, PURPOSE, write_plain};
use window::{InFlight, Progress, Window};

/// Messages going out: who gets them now, who later; QoS 1 and 2 from the sender's side.
///
/// * **listens**: forward, deliver, PUBACK, PUBREC, PUBCOMP, room, session opened, session ended, restore, closed
/// * **emits**: PUBLISH, PUBREL, store offline, look up offline
/// * **owns**: in-flight window and Packet Identifiers of each session, Topic Aliases towards each client
///
/// Clients of a listener with a mount point are sent topics without it, and nothing from outside it.
///
/// A slow client costs its own bounded outbox and queue, and nothing else: beyond the outbox's limit QoS 0 is dropped
/// and counted, QoS 1 and 2 wait in the session's queue.
#[derive(Debug, Default)]
pub struct OutboundManager {
    windows: Table<SessionId, Box<Window>>,
    aliases: Table<ConnectionId, HashMap<Box<str>, u16>>,
    image: Image,
    below: Below,
}

impl Middleware for OutboundManager {
    fn name(&self) -> &'static str {
        "OutboundManager"
    }

    saved_part! { windows, aliases; image, below; PURPOSE }

    fn inspect(&self, session: SessionId, found: &mut Inspection) {
        found.in_flight = self.windows.get(session).map(|window| window.inspect()).unwrap_or_default();
    }

    fn shortens(&self) -> Hooks {
        Hooks::FORWARD
    }

    fn wants(&self) -> Hooks {
        Hooks::FORWARD
            | Hooks::PUBACK
            | Hooks::PUBREC
            | Hooks::PUBCOMP
            | Hooks::ROOM
            | Hooks::SESSION_OPENED
            | Hooks::SESSION_ENDED
            | Hooks::DELIVER
            | Hooks::RESTORE
            | Hooks::CLOSED
    }

    fn puback(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &Ack<'_>) -> Flow {
        self.progress(cx, from, packet.packet_id, QoS::AtLeastOnce, Progress::Sent);
        Flow::Done
    }

    fn pubrec(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &Ack<'_>) -> Flow {
        let Some(session) = cx.session_of(from) else { return Flow::Done };
        let packet_id = packet.packet_id;
        let window = self.windows.get_mut(session);
        let reason = match window.and_then(|window| Some((window.state(packet_id)?, window))) {
            // A refused message is done with [MQTT-4.3.3-4].
            Some(((QoS::ExactlyOnce, was), _)) if packet.reason.is_error() => {
                self.progress(cx, from, packet_id, QoS::ExactlyOnce, was);
                return Flow::Done;
            }
            Some(((QoS::ExactlyOnce, was), window)) => {
                window.release(packet_id);
                if was != Progress::Released {
                    // PUBREL waits for it: a PUBLISH after that would be a new message for the client.
                    cx.journal(session, |client_id| Record::Received { client_id, packet_id });
                }
                ReasonCode::Success
            }
            _ if packet.reason.is_error() => return Flow::Done,
            _ if cx.connection(from).is_some_and(|c| c.version == Version::V5) => {
                ReasonCode::PacketIdentifierNotFound
            }
            _ => ReasonCode::Success,
        };
        cx.emit(pubrel(from, packet_id, reason));
        Flow::Done
    }

    fn pubcomp(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &Ack<'_>) -> Flow {
        self.progress(cx, from, packet.packet_id, QoS::ExactlyOnce, Progress::Released);
        Flow::Done
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        match action {
            Action::Forward(forward) if forward.held && has_expired(cx, forward) => return Flow::Done,
            Action::Forward(forward) => return self.forward(cx, forward),
            Action::Room { session } => {
                self.pump(cx, *session);
                return Flow::Done;
            }
            Action::SessionOpened { session, present: true, .. } => self.resume(cx, *session),
            Action::SessionEnded { session } => drop(self.windows.remove(*session)),
            Action::Deliver { session, packet_id } => self.deliver(cx, *session, *packet_id),
            Action::Restore { session: Some(session), record } => self.restore(*session, record),
            _ => {}
        }
        Flow::Next
    }

    fn deliver(&mut self, cx: &mut Cx<'_>, receiver: &mut Receiver, many: bool, first: bool) {
        let Some(publication) = cx.current else { return };
        if first {
            self.forget_images();
        }
        self.forward_to(cx, &InHand { publication, what: &What::Current, many }, receiver, false);
    }

    fn closed(&mut self, _: &mut Cx<'_>, id: ConnectionId) {
        self.aliases.remove(id);
    }

    fn records(&self, cx: &Cx<'_>, session: Option<SessionId>, each: &mut dyn FnMut(Record)) {
        let Some((session, state)) = session.and_then(|id| Some((id, cx.session(id)?))) else { return };
        if let (true, Some(window)) = (state.stored, self.windows.get(session)) {
            window.flights().map(|flight| flight.record(state.client_id.clone())).for_each(each);
        }
    }
}

impl OutboundManager {
    /// Delivers to the receivers that are here; those that are not stay in the action.
    fn forward(&mut self, cx: &mut Cx<'_>, forward: &mut Forward) -> Flow {
        let mut receivers = core::mem::take(&mut forward.receivers);
        let kept;
        let publication = match (&forward.what, cx.current) {
            (What::Current, Some(publication)) => publication,
            (What::Current, None) => return Flow::Done,
            (What::Kept(message), _) => {
                kept = message.publication();
                &kept
            }
        };
        let hand = &InHand { publication, what: &forward.what, many: receivers.len() > 1 };
        let (mut elsewhere, mut later) = (Vec::new(), Vec::new());
        let durable_first = !forward.held && is_durable_first(cx, publication);
        if hand.many {
            self.forget_images();
        }
        for receiver in &mut receivers {
            let Some(session) = cx.state.sessions.get(receiver.session) else { continue };
            if durable_first && is_held_back(session, receiver) {
                later.push(receiver.take());
                continue;
            }
            if session.program {
                elsewhere.push(receiver.take());
                continue;
            }
            self.forward_to(cx, hand, receiver, durable_first);
        }
        cx.recycle(receivers);
        if !later.is_empty() {
            hold_back(cx, &forward.what, later);
        }
        if elsewhere.is_empty() {
            return Flow::Done;
        }
        forward.receivers = elsewhere;
        Flow::Next
    }

    /// Delivers to the client of a session, or keeps the message for it.
    #[inline]
    fn forward_to(
        &mut self,
        cx: &mut Cx<'_>,
        hand: &InHand<'_>,
        receiver: &mut Receiver,
        durable_first: bool,
    ) {
        let Some(session) = cx.state.sessions.get(receiver.session) else { return };
        let connection = session.connection.and_then(|id| Some((id, cx.state.connections.get(id)?)));
        match connection.filter(|(_, connection)| connection.phase == Phase::Connected) {
            Some((id, connection)) if receiver.qos == QoS::AtMostOnce => {
                if takes_once(cx.config(), connection, session.queued, receiver.source) {
                    let mounted = connection.mounted;
                    self.send_seen(cx, id, mounted, hand, receiver, None);
                } else {
                    not_sent_once(cx, true, hand.publication.topic, hand.what, receiver);
                }
            }
            Some((id, connection)) => {
                self.forward_counted(cx, (id, connection.mounted), hand, receiver, durable_first)
            }
            None if receiver.qos == QoS::AtMostOnce => {
                not_sent_once(cx, false, hand.publication.topic, hand.what, receiver);
            }
            None => {
                // Its CONNACK waits for the disk: the session has its client, which cannot be sent anything yet.
                let opening = connection.is_some_and(|(_, state)| state.phase == Phase::Connecting);
                if opening || session.expiry > 0 || receiver.source != Source::Relay {
                    queue(cx, hand.what, receiver.take());
                } else {
                    cx.fate(receiver.session, hand.publication.topic, Fate::Ending);
                }
            }
        }
    }

    /// QoS 1 and 2 to a client that is connected: now, if its window has room.
    #[inline]
    fn forward_counted(
        &mut self,
        cx: &mut Cx<'_>,
        (id, mounted): (ConnectionId, bool),
        hand: &InHand<'_>,
        receiver: &mut Receiver,
        durable_first: bool,
    ) {
        let (Some(session), Some(connection)) =
            (cx.state.sessions.get(receiver.session), cx.state.connections.get(id))
        else {
            return;
        };
        let (stored, plain) = (session.stored, connection.is_plain());
        let window = self.windows.get_or_insert_with(receiver.session, Box::default);
        let may = session.queued == 0 && window.unsent == 0 && room_of(cx, connection, window) > 0;
        if !may && receiver.source == Source::Relay {
            want_room(cx, id);
            return queue(cx, hand.what, receiver.take());
        }
        let Some(packet_id) = window.next_id() else { return };
        if stored {
            let gated = receiver.qos == QoS::ExactlyOnce || durable_first;
            return self.send_stored(cx, id, mounted, hand, receiver.take(), packet_id, gated);
        }
        if plain && hand.is_small() {
            if let Some(message) = cx.keep(hand.what) {
                write_plain(cx, id, &mut self.image, hand, receiver, Some(packet_id));
                let identifiers = core::mem::take(&mut receiver.identifiers);
                window.push(InFlight { identifiers, ..InFlight::new(packet_id, message, receiver) });
            }
            return;
        }
        if self.send_seen(cx, id, mounted, hand, receiver, Some(packet_id))
            && let Some(message) = cx.keep(hand.what)
        {
            self.track(InFlight::new(packet_id, message, receiver), receiver);
        }
    }

    /// A message for a session that is stored: as it is in flight, so it is recorded. With QoS 2 it is sent only then: after
    /// a crash it would be sent with another Packet Identifier, as a new message [MQTT-4.3.3-2].
    #[inline(never)]
    #[allow(clippy::too_many_arguments)] // the parts of one delivery, of which callers have different ones
    fn send_stored(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnectionId,
        mounted: bool,
        hand: &InHand<'_>,
        mut receiver: Receiver,
        packet_id: PacketId,
        gated: bool,
    ) {
        let session = receiver.session;
        let (publication, what) = (hand.publication, hand.what);
        if let Err(fate) = fits(cx, id, publication, &receiver, packet_id) {
            drop_unsent(cx, session, publication.topic, fate);
            if receiver.source == Source::Queue {
                cx.journal(session, |client_id| Record::Dropped { client_id });
            }
            return;
        }
        let Some(message) = cx.keep(what) else { return };
        let seq = journal_flight(cx, &message, &receiver, packet_id);
        let mut flight = InFlight::new(packet_id, message, &receiver);
        match seq {
            Some(seq) if gated && !cx.is_committed(seq) => {
                flight.progress = Progress::Gated;
                cx.fate(session, publication.topic, Fate::Gated { packet_id });
                cx.when_committed(seq, session, Action::Deliver { session, packet_id });
            }
            _ => {
                let hand = &InHand { many: false, ..*hand };
                self.send_seen(cx, id, mounted, hand, &receiver, Some(packet_id));
            }
        }
        self.track(flight, &mut receiver);
    }

    /// The record of a message in flight is durable: it is sent, if its client is still there. Else it will be when the
    /// session is resumed.
    fn deliver(&mut self, cx: &mut Cx<'_>, session: SessionId, packet_id: PacketId) {
        let Some(id) = cx.session(session).and_then(|state| state.connection) else { return };
        let connection = cx.connection(id).filter(|connection| connection.phase == Phase::Connected);
        let Some(mounted) = connection.map(|connection| connection.mounted) else { return };
        let flight = self.windows.get_mut(session).and_then(|window| window.take_gated(packet_id));
        let Some((message, qos, retain, identifiers)) = flight else { return };
        let receiver = Receiver { session, qos, retain, source: Source::Relay, identifiers };
        let what = What::Kept(message.clone());
        let hand = &InHand { publication: &message.publication(), what: &what, many: false };
        self.send_seen(cx, id, mounted, hand, &receiver, Some(packet_id));
    }

    /// Takes up what a record says that an earlier machine had in flight: as if its client had just left.
    fn restore(&mut self, session: SessionId, record: &Record) {
        match record {
            Record::InFlight { packet_id, message, qos, retain, identifiers, .. } => {
                let source = Source::Relay;
                let receiver =
                    Receiver { session, qos: *qos, retain: *retain, source, identifiers: Identifiers::None };
                let flight = InFlight {
                    identifiers: identifiers.clone(),
                    ..InFlight::new(*packet_id, message.clone(), &receiver)
                };
                self.windows.get_or_insert_with(session, Box::default).restore(flight);
            }
            Record::Received { packet_id, .. } => {
                self.windows.get_or_insert_with(session, Box::default).restore_released(*packet_id);
            }
            Record::Acknowledged { packet_id, .. } => {
                if let Some(window) = self.windows.get_mut(session) {
                    window.end(*packet_id);
                }
            }
            _ => {}
        }
    }

    fn track(&mut self, mut flight: InFlight, receiver: &mut Receiver) {
        flight.identifiers = core::mem::take(&mut receiver.identifiers);
        if let Some(window) = self.windows.get_mut(receiver.session) {
            window.push(flight);
        }
    }

    /// A message got one step further, or is done.
    fn progress(&mut self, cx: &mut Cx<'_>, from: ConnectionId, id: PacketId, qos: QoS, was: Progress) {
        let Some(session) = cx.session_of(from) else { return };
        let Some(window) = self.windows.get_mut(session) else { return };
        if !window.remove(id, qos, was) {
            return;
        }
        let unsent = window.unsent > 0;
        cx.journal(session, |client_id| Record::Acknowledged { client_id, packet_id: id });
        cx.trace(|| Traced::Acknowledged { session, packet_id: id });
        if unsent || cx.session(session).is_some_and(|state| state.queued > 0 || state.paging) {
            self.pump(cx, session);
        }
    }

    /// Fills the window again: first with what was in flight before, then from the queue.
    fn pump(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let Some(state) = cx.session(session) else { return };
        let (Some(id), waits) = (state.connection, state.queued > 0 || state.paging) else { return };
        // Who only gets QoS 0 has none, and needs none.
        let none = Window::default();
        let window = self.windows.get(session).map_or(&none, |window| window);
        if window.unsent > 0 {
            return self.resend(cx, session, id);
        }
        if !waits {
            return;
        }
        if cx.connection(id).is_some_and(|connection| full(cx, connection)) {
            return want_room(cx, id);
        }
        let room = room(cx, id, window);
        if room > 0 {
            cx.emit(Action::LookupOffline { session, most: room });
        }
    }

    /// What was not acknowledged on the last connection is sent again, in its order and with its identifiers
    /// [MQTT-4.4.0-1].
    fn resume(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let Some(id) = cx.session(session).and_then(|session| session.connection) else { return };
        if let Some(window) = self.windows.get_mut(session) {
            window.rewind();
            for packet_id in window.released() {
                cx.emit(pubrel(id, packet_id, ReasonCode::Success));
            }
        }
        self.pump(cx, session);
    }

    fn resend(&mut self, cx: &mut Cx<'_>, session: SessionId, id: ConnectionId) {
        let Some(connection) = cx.connection(id) else { return };
        let (version, packet_size_max) = (connection.version, connection.packet_size_max);
        let (config, listener) = (cx.state.config.clone(), connection.peer.listener);
        let mount_point = if connection.mounted { &*config.listener(listener).mount_point } else { "" };
        let most = usize::from(limit(cx, connection));
        let wall = cx.now().wall;
        let Some(window) = self.windows.get_mut(session) else { return };
        while window.unsent > 0 && window.len() - usize::from(window.unsent) < most {
            if cx.connection(id).is_some_and(|connection| full(cx, connection)) {
                return want_room(cx, id);
            }
            let Some(flight) = window.next_unsent() else { return };
            let (packet_id, qos) = (flight.packet_id, flight.qos);
            let Some(message) = &flight.message else { return };
            let delivery = Delivery {
                version,
                qos,
                retain: flight.retain,
                // [MQTT-3.3.1-1]
                dup: true,
                packet_id: Some(packet_id),
                identifiers: flight.identifiers.as_slice(),
                alias: None,
            };
            let publication = match mount_point {
                "" => Ok(message.publication()),
                mount_point => seen_below(mount_point, &message.publication(), &mut self.below.properties),
            };
            // [MQTT-3.1.2-25]
            let fits = |seen: &Publication<'_>| publish_len(seen, &delivery) <= packet_size_max as usize;
            let publication =
                publication.and_then(|seen| if fits(&seen) { Ok(seen) } else { Err(Fate::TooLarge) });
            let publication = match publication {
                Ok(publication) => publication,
                Err(fate) => {
                    drop_unsent(cx, session, message.topic(), fate);
                    window.remove(packet_id, qos, Progress::Sent);
                    cx.journal(session, |client_id| Record::Acknowledged { client_id, packet_id });
                    continue;
                }
            };
            cx.state.write(id, |out| {
                encode_publish(out, &publication, &delivery, wall);
                out.extend_from_slice(publication.payload);
            });
            cx.stats().publishes_sent += 1;
            let sent = Fate::Sent { qos, packet_id: Some(packet_id), again: true };
            cx.fate(session, message.topic(), sent);
        }
        if window.unsent == 0 {
            self.pump(cx, session);
        }
    }
}

/// Whether a client can be sent a message: it is below its mount point, and not larger than it accepts.
fn fits(
    cx: &Cx<'_>,
    id: ConnectionId,
    publication: &Publication<'_>,
    receiver: &Receiver,
    packet_id: PacketId,
) -> Result<(), Fate> {
    let Some(connection) = cx.connection(id) else { return Err(Fate::TooLarge) };
    let delivery = Delivery {
        version: connection.version,
        qos: receiver.qos,
        retain: receiver.retain,
        dup: false,
        packet_id: Some(packet_id),
        identifiers: receiver.identifiers.as_slice(),
        alias: None,
    };
    let most = connection.packet_size_max;
    let fits = |publication: &Publication<'_>| {
        let fits = most == u32::MAX || publish_len(publication, &delivery) <= most as usize;
        if fits { Ok(()) } else { Err(Fate::TooLarge) }
    };
    if !connection.mounted {
        return fits(publication);
    }
    let mount_point = &cx.config().listener(connection.peer.listener).mount_point;
    fits(&seen_below(mount_point, publication, &mut Vec::new())?)
}

/// A message is not sent to a session that should get it, because its client cannot know it.
fn drop_unsent(cx: &mut Cx<'_>, session: SessionId, topic: &str, fate: Fate) {
    match fate {
        Fate::OutsideMount => cx.stats().dropped_outside_mount += 1,
        _ => cx.stats().dropped_too_large += 1,
    }
    cx.fate(session, topic, fate);
}

/// Records that a message is in flight: with its relay, as the head of the queue, or as the next retained one.
fn journal_flight(
    cx: &mut Cx<'_>,
    message: &Message,
    receiver: &Receiver,
    packet_id: PacketId,
) -> Option<LogSeq> {
    let Receiver { session, qos, retain, ref identifiers, source } = *receiver;
    match source {
        Source::Relay => {
            let to = ToSession { session, qos, retain, identifiers, packet_id: Some(packet_id) };
            cx.journal_delivery(message, &to)
        }
        Source::Queue => cx.journal(session, |client_id| Record::Sent { client_id, packet_id }),
        Source::Retained => cx.journal(session, |client_id| {
            let (message, identifiers, paged) = (message.clone(), identifiers.clone(), true);
            Record::InFlight { client_id, packet_id, message, qos, retain, identifiers, paged }
        }),
    }
}

/// Keeps a message for later.
#[inline(never)]
fn queue(cx: &mut Cx<'_>, what: &What, receiver: Receiver) {
    let Some(message) = cx.keep(what) else { return };
    let Receiver { session, qos, retain, identifiers, source } = receiver;
    let queued = Queued { message, qos, retain, identifiers, source };
    cx.emit(Action::StoreOffline { session, queued });
}

fn want_room(cx: &mut Cx<'_>, id: ConnectionId) {
    if let Some(connection) = cx.connection_mut(id) {
        connection.wants_room = true;
    }
}

fn pubrel(to: ConnectionId, packet_id: PacketId, reason: ReasonCode) -> Action {
    Action::Reply(Reply { to, packet: PacketType::Pubrel, packet_id, reason, codes: Box::default() })
}

/// Messages a client takes at once [MQTT-3.3.4-9].
fn limit(cx: &Cx<'_>, connection: &Connection) -> u16 {
    connection.receive_maximum.min(cx.config().in_flight_max)
}

/// Whether nothing more should be written before the client has taken what there is.
fn full(cx: &Cx<'_>, connection: &Connection) -> bool {
    is_full(cx.config(), connection)
}

fn is_full(config: &Config, connection: &Connection) -> bool {
    connection.outbox_bytes() >= config.outbox_bytes_max as usize
}

fn room(cx: &Cx<'_>, id: ConnectionId, window: &Window) -> u32 {
    cx.connection(id).map_or(0, |connection| room_of(cx, connection, window))
}

fn room_of(cx: &Cx<'_>, connection: &Connection, window: &Window) -> u32 {
    if full(cx, connection) {
        return 0;
    }
    u32::from(limit(cx, connection)).saturating_sub(window.len() as u32)
}

/// Whether a QoS 0 message can be written to a client that is connected.
#[inline]
pub(crate) fn takes_once(config: &Config, connection: &Connection, queued: u32, source: Source) -> bool {
    (queued == 0 || !behind_queue(config, source))
        && (source != Source::Relay || !is_full(config, connection))
}

/// A QoS 0 message cannot be written now.
#[cold]
fn not_sent_once(cx: &mut Cx<'_>, connected: bool, topic: &str, what: &What, receiver: &mut Receiver) {
    let Some(session) = cx.session(receiver.session) else { return };
    let (queued, lasts) = (session.queued > 0, session.expiry > 0);
    if connected && queued && behind_queue(cx.config(), receiver.source)
        || !connected && lasts && cx.config().queue_qos0
    {
        return queue(cx, what, receiver.take());
    }
    let (counter, fate) = match connected {
        true => (&mut cx.stats().dropped_slow, Fate::Slow),
        false => (&mut cx.stats().dropped_offline, Fate::Offline),
    };
    *counter += 1;
    cx.fate(receiver.session, topic, fate);
}

/// Whether nobody may see a message before it is durable. One with QoS 2 is when it comes this far.
fn is_durable_first(cx: &Cx<'_>, publication: &Publication<'_>) -> bool {
    cx.config().deliver_after_commit && publication.qos == QoS::AtLeastOnce && cx.durable()
}

/// Whether a message that was held back expired while it waited for the disk [MQTT-3.3.2-5].
fn has_expired(cx: &mut Cx<'_>, forward: &Forward) -> bool {
    let wall = cx.now().wall;
    let expired = cx.publication(&forward.what).is_some_and(|publication| publication.expired(wall));
    if expired {
        cx.stats().dropped_expired += forward.receivers.len() as u64;
    }
    expired
}

/// Whether a delivery has no record of its own that it could wait for.
fn is_held_back(session: &Session, receiver: &Receiver) -> bool {
    receiver.source == Source::Relay && (receiver.qos == QoS::AtMostOnce || !session.stored)
}

#[cold]
fn hold_back(cx: &mut Cx<'_>, what: &What, receivers: Vec<Receiver>) {
    if !receivers.is_empty()
        && let Some(message) = cx.keep(what)
    {
        // Behind what is still to be recorded of it.
        cx.emit(Action::HoldBack(Forward::new(What::Kept(message), receivers)));
    }
}

/// Whether a QoS 0 message has to wait behind those that were queued while its client was away: they came before it
/// [MQTT-4.6.0-6]. However short its session lasts by now.
fn behind_queue(config: &Config, source: Source) -> bool {
    config.queue_qos0 && source == Source::Relay
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;
    use crate::middleware::{Stack, tests::Watched};
    use crate::packet::{Connect, Property};
    use crate::testing::{Bench, connect, properties};

    #[test]
    fn aliases_and_what_is_in_flight_are_forgotten_with_their_connection_and_session() {
        let watched = Watched::new(OutboundManager::default());
        let stack = Stack::standard().replace("OutboundManager", watched.clone()).unwrap();
        let mut bench = Bench::with(crate::Config::default(), stack);
        let (aliases, none) = (properties(&[Property::TopicAliasMaximum(5)]), connect(Version::V5, "bob"));
        let alice = bench.connect_with(&Connect { properties: aliases, ..connect(Version::V5, "alice") }).0;
        let bob = bench.connect_with(&none).0;
        // The first two there are.
        let sessions = [0, 1].map(|index| SessionId::new(index, 0));
        for id in [alice, bob] {
            bench.subscribe(id, "t", QoS::AtLeastOnce);
        }
        bench.publish(bob, "t", "m", QoS::AtLeastOnce);
        assert!(watched.part().aliases.get(alice).is_some_and(|known| known.contains_key("t")));
        assert!(watched.part().aliases.get(bob).is_none(), "who takes no alias costs no table");
        assert!(sessions.iter().all(|session| watched.part().windows.get(*session).is_some()));
        bench.cut(alice);
        bench.cut(bob);
        assert!(watched.part().aliases.get(alice).is_none());
        assert!(sessions.iter().all(|session| watched.part().windows.get(*session).is_none()));
    }
}
