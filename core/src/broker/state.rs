//! All state of a machine that does not belong to one middleware.

use crate::broker::timers::{Owner, TimerId, Timers};
use crate::broker::{Action, Notice, Parked, Peer, Receiver, Stats, Traced};
use crate::config::Config;
use crate::connection::{Connection, Phase};
use crate::hash::{Random, Seed};
use crate::id::{ConnectionId, LogSeq, SessionId, ShardId, Slots, Ticket};
use crate::message::Message;
use crate::packet::{Packet, PacketId, PropertiesBuf, Property, ReasonCode};
use crate::saved::saved;
use crate::session::Session;
use crate::time::{Now, Wall};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A question that waits for its answer.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) connection: ConnectionId,
    pub(crate) part: u8,
    pub(crate) timer: TimerId,
    /// The outside was asked. If not, other shards were.
    pub(crate) outside: bool,
}

saved! { struct Question { connection, part, timer, outside } }

pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) seed: Seed,
    pub(crate) now: Now,
    pub(crate) connections: Slots<ConnectionId, Connection>,
    /// How many connections each listener has that settings are made for.
    pub(crate) per_listener: Vec<u32>,
    pub(crate) sessions: Slots<SessionId, Session>,
    pub(crate) stats: Stats,
    pub(crate) random: Random,
    pub(crate) timers: Timers,
    /// Lingering closes: the machine's own timers.
    pub(crate) linger: crate::id::Table<ConnectionId, TimerId>,

    // The work queue.
    pub(crate) work: Vec<Action>,
    pub(crate) deferred: VecDeque<Action>,
    pub(crate) running: bool,

    // The event that is being processed.
    pub(crate) from: Option<ConnectionId>,
    pub(crate) arrived: Wall,
    pub(crate) kept: Option<Message>,
    pub(crate) asked: Option<Ticket>,
    pub(crate) verdicts: Vec<(u16, ReasonCode)>,
    pub(crate) matched: bool,

    /// The Packet Identifiers of QoS 2 messages that were accepted and not released, sorted: InboundManager's. A session
    /// that uses no QoS 2 has none.
    pub(crate) held: crate::id::Table<SessionId, Vec<PacketId>>,

    // Questions, gates.
    pub(crate) tickets: Slots<Ticket, Question>,
    pub(crate) assigned: LogSeq,
    pub(crate) committed: LogSeq,
    pub(crate) store_failed: bool,
    /// The first position that will never be durable.
    pub(crate) failed_from: LogSeq,
    pub(crate) gates: BTreeMap<(LogSeq, u64), (Option<ConnectionId>, Action)>,
    pub(crate) gate_order: u64,
    /// A relay whose gate opened is being performed: the place of its acknowledgement.
    pub(crate) opening: Option<u64>,

    // Outputs.
    pub(crate) out: VecDeque<Action>,
    pub(crate) notices: VecDeque<Notice>,
    pub(crate) notices_dropped: u64,
    pub(crate) dirty: VecDeque<ConnectionId>,
    pub(crate) stalled: BTreeSet<ConnectionId>,
    /// Bytes in an outbox above which its connection is not read.
    pub(crate) full: usize,
    pub(crate) pool: crate::connection::Pool,
    pub(crate) receivers: Vec<Vec<Receiver>>,
    pub(crate) shutting_down: bool,
    /// Records of an earlier machine are being applied: they are stored already.
    pub(crate) restoring: bool,
    /// The chain keeps a log.
    pub(crate) durable: bool,
    /// By Client Identifier: the record that its session or will is over, while that is not durable.
    pub(crate) endings: BTreeMap<Box<str>, LogSeq>,
    /// Where in `out` the record of the relay that is being performed is.
    pub(crate) relay_record: Option<usize>,
    /// The Client Identifier of a record that no session belongs to.
    pub(crate) unknown: Option<Box<str>>,
    /// Connections the adapter reported as gone whose last packets still wait for an answer.
    pub(crate) departed: usize,
    /// The other machines of the broker, where there are several.
    pub(crate) siblings: Option<Box<crate::broker::Siblings>>,
    /// Where the connection whose CONNECT was just read belongs.
    pub(crate) moving: Option<ShardId>,
    /// What happens to messages, while somebody wants to know.
    pub(crate) trace: Option<VecDeque<Traced>>,
}

/// The part number of the machine itself among the timers.
pub(crate) const MACHINE: u8 = u8::MAX;
/// Acknowledgements may go this far beyond `outbox_bytes_max` before the connection is no longer read.
const REPLIES_BYTES: usize = 256 * 1024;
/// The most bytes an adapter may give at once.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// What belongs to all outboxes.
pub(crate) struct Outlets<'a> {
    pub(crate) pool: &'a mut crate::connection::Pool,
    pub(crate) dirty: &'a mut VecDeque<ConnectionId>,
    pub(crate) stalled: &'a mut BTreeSet<ConnectionId>,
    pub(crate) full: usize,
}

impl Outlets<'_> {
    /// See [`State::write`].
    #[inline(always)]
    pub(crate) fn write(&mut self, id: ConnectionId, to: &mut Connection, write: impl FnOnce(&mut Vec<u8>)) {
        if to.is_over() {
            return;
        }
        to.outbox.append(self.pool, write);
        if !to.dirty {
            to.dirty = true;
            self.dirty.push_back(id);
        }
        // It gets `Credit` when the peer has taken enough.
        if to.outbox.len() > self.full && !to.stalled {
            to.stalled = true;
            self.stalled.insert(id);
        }
    }
}

impl State {
    pub(crate) fn new(config: Arc<Config>, seed: Seed, now: Now) -> Self {
        let full = config.outbox_bytes_max as usize + REPLIES_BYTES;
        let per_listener = config.listeners.iter().map(|_| 0).collect();
        Self {
            config,
            seed,
            now,
            connections: Slots::default(),
            per_listener,
            sessions: Slots::default(),
            stats: Stats::default(),
            random: Random::new(seed),
            timers: Timers::default(),
            linger: crate::id::Table::default(),
            work: Vec::new(),
            deferred: VecDeque::new(),
            running: false,
            from: None,
            arrived: now.wall,
            kept: None,
            asked: None,
            verdicts: Vec::new(),
            matched: false,
            held: crate::id::Table::default(),
            tickets: Slots::default(),
            assigned: LogSeq(0),
            committed: LogSeq(0),
            store_failed: false,
            failed_from: LogSeq(u64::MAX),
            gates: BTreeMap::new(),
            gate_order: 0,
            opening: None,
            out: VecDeque::new(),
            notices: VecDeque::new(),
            notices_dropped: 0,
            dirty: VecDeque::new(),
            stalled: BTreeSet::new(),
            full,
            pool: crate::connection::Pool::default(),
            receivers: Vec::new(),
            shutting_down: false,
            restoring: false,
            durable: false,
            endings: BTreeMap::new(),
            relay_record: None,
            unknown: None,
            departed: 0,
            siblings: None,
            moving: None,
            trace: None,
        }
    }

    /// Whether a listener has as many connections as it may.
    pub(crate) fn is_listener_full(&self, listener: u16) -> bool {
        let most = self.config.listener(listener).connections_max;
        most > 0 && self.per_listener.get(usize::from(listener)).is_some_and(|count| *count >= most)
    }

    /// Takes up a connection.
    pub(crate) fn add_connection(&mut self, peer: Peer) -> ConnectionId {
        if let Some(count) = self.per_listener.get_mut(usize::from(peer.listener)) {
            *count += 1;
        }
        let mut connection = Connection::new(peer);
        connection.peer.forget_empty();
        connection.set_up(&self.config);
        self.connections.insert(connection)
    }

    /// Forgets a connection.
    pub(crate) fn remove_connection(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.remove(id)?;
        if let Some(count) = self.per_listener.get_mut(usize::from(connection.peer.listener)) {
            *count -= 1;
        }
        Some(connection)
    }

    /// Appends to the outbox of a connection that is not over, and remembers to offer it.
    #[inline]
    pub(crate) fn write(&mut self, id: ConnectionId, write: impl FnOnce(&mut Vec<u8>)) {
        let Self { connections, pool, dirty, stalled, full, .. } = self;
        if let Some(connection) = connections.get_mut(id) {
            Outlets { pool, dirty, stalled, full: *full }.write(id, connection, write);
        }
    }

    /// Appends the payload of a message behind its header, without copying it.
    pub(crate) fn share(&mut self, id: ConnectionId, message: Message) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.is_over()
        {
            connection.outbox.share(message);
            if connection.outbox.len() > self.full && !connection.stalled {
                connection.stalled = true;
                self.stalled.insert(id);
            }
        }
    }

    /// Sends a packet. False: it is larger than the client accepts, and was not sent [MQTT-3.1.2-24].
    pub(crate) fn send(&mut self, id: ConnectionId, packet: &Packet<'_>) -> bool {
        let Some(connection) = self.connections.get(id) else { return true };
        let (version, most) = (connection.version, connection.packet_size_max as usize);
        let mut fits = true;
        self.write(id, |out| {
            let before = out.len();
            fits = packet.encode(version, out).is_ok() && out.len() - before <= most;
            if !fits {
                out.truncate(before);
            }
        });
        fits
    }

    /// The properties of the packet that ends a connection, if there is anything to say.
    pub(crate) fn farewell(&self, id: ConnectionId) -> PropertiesBuf {
        let mut properties = PropertiesBuf::default();
        let farewell = self.connections.get(id).and_then(|connection| connection.farewell.as_deref());
        if let Some(farewell) = farewell {
            if let Some(reference) = &farewell.server_reference {
                properties.push(Property::ServerReference(reference));
            }
            if let Some(reason) = &farewell.reason_string {
                properties.push(Property::ReasonString(reason));
            }
        }
        properties
    }

    /// How many bytes could be worked off now.
    pub(crate) fn read_credit(&self, id: ConnectionId) -> usize {
        self.connections.get(id).map_or(READ_BYTES, |connection| self.read_credit_of(connection))
    }

    /// The phase of a connection whose next packet could be worked off now: it is not over, and nothing holds it up.
    #[inline]
    pub(crate) fn takes_packets(&self, id: ConnectionId) -> Option<Phase> {
        let connection = self.connections.get(id)?;
        (!connection.is_over() && self.read_credit_of(connection) > 0).then_some(connection.phase)
    }

    #[inline]
    fn read_credit_of(&self, connection: &Connection) -> usize {
        let waits = match (connection.phase, &connection.parked) {
            (Phase::Connecting, Some(parked)) => parked.front().is_none_or(|front| !front.waits_for_client()),
            (Phase::Connecting, None) => true,
            (Phase::Connected, Some(parked)) => parked.len() >= self.config.parked_max as usize,
            _ => false,
        };
        let full = connection.outbox.len() > self.full;
        let backlog = self.config.actions_max as usize;
        let behind = self.siblings.as_ref().is_some_and(|siblings| siblings.is_behind(backlog));
        if waits || full || behind || self.out.len() > backlog || self.gates.len() > backlog {
            return 0;
        }
        READ_BYTES
    }

    /// Withdraws a question: nobody waits for its answer any more.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) {
        if let Some(question) = self.tickets.remove(ticket) {
            self.timers.cancel(question.timer);
            if question.outside {
                self.out.push_back(Action::Forget { ticket });
            }
        }
    }

    /// Withdraws the questions of all events that wait on a connection.
    pub(crate) fn drop_parked(&mut self, id: ConnectionId) {
        let parked = self.connections.get_mut(id).and_then(|connection| connection.parked.take());
        for Parked { ticket, .. } in parked.into_iter().flat_map(|parked| *parked) {
            if let Some(ticket) = ticket {
                self.withdraw(ticket);
            }
        }
    }

    pub(crate) fn arm_ms(&mut self, ms: u32, part: u8, owner: Owner) -> TimerId {
        self.timers.arm(self.now.mono.plus_ms(u64::from(ms)), part, owner)
    }

    /// The number of something that may have to wait, in the order in which such things came.
    pub(crate) fn next_order(&mut self) -> u64 {
        self.gate_order += 1;
        self.gate_order
    }

    /// Holds an action until everything up to `through` is durable; if that cannot be, its connection ends.
    pub(crate) fn gate(&mut self, through: LogSeq, order: u64, action: Action) {
        if through >= self.failed_from {
            let lost = self.from.map(|id| Action::CloseClient { id, reason: ReasonCode::UnspecifiedError });
            return self.work.extend(lost);
        }
        self.gates.insert((through, order), (self.from, action));
    }

    /// Keeps the place of an acknowledgement among those of its connection.
    pub(crate) fn keep_place(&mut self, to: ConnectionId, order: u64) {
        if let Some(connection) = self.connections.get_mut(to) {
            connection.waiting.get_or_insert_default().push_back((order, None));
        }
    }
}
