//! What a log adds up to.

use super::Batch;
use super::entry::{self, Body, DeliveryEntry, FlightEntry, Kind, SessionEntry};
use crate::broker::{Effect, Identifiers, Record, RecordWriter as Writer, Relayed, Settled};
use crate::hash::{HashMap, Seed};
use crate::message::Message;
use crate::packet::{PacketId, QoS};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::fmt;

/// Turns records into changes of entries. It remembers where things are, and no message: some 300 bytes per session, 32 per message
/// in flight, and as much per delivery of a message that several sessions have in their queues.
///
/// Records go in as the machine stored them, none left out; the batch may be committed after any of them.
pub struct Image {
    pub(super) clients: HashMap<Box<str>, Client>,
    /// The highest number of a session, and of a message with an entry of its own.
    pub(super) sessions: u64,
    pub(super) messages: u64,
    /// How many deliveries have a message with an entry of its own.
    pub(super) shared: HashMap<u64, u32>,
}

/// Where the things of one session are.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) number: u64,
    pub(super) queue: Queue,
    pub(super) flights: BTreeMap<PacketId, Flight>,
    /// How many messages were sent.
    pub(super) sent: u64,
    pub(super) pages: VecDeque<Page>,
    /// The last count of a page, and of what came in at QoS 2.
    pub(super) counted: u64,
    pub(super) held: BTreeMap<PacketId, u64>,
    pub(super) owed: VecDeque<(PacketId, u64)>,
    /// Deliveries whose message has an entry of its own.
    pub(super) shared: BTreeMap<u64, u64>,
}

/// The counts of the deliveries that are in the queue: from `head` to before `tail`, without the holes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) head: u64,
    pub(super) tail: u64,
    pub(super) len: u64,
    /// Deliveries that were in flight from the beginning, while others were in the queue.
    pub(super) holes: BTreeSet<u64>,
}

#[derive(Debug)]
pub(super) struct Flight {
    /// None: the message is the client's.
    pub(super) delivery: Option<u64>,
    /// How many were sent before it.
    pub(super) sent: u64,
    /// It has an entry of its own.
    pub(super) entry: bool,
}

#[derive(Debug)]
pub(super) struct Page {
    pub(super) count: u64,
    pub(super) filter: Box<str>,
    pub(super) options: u8,
    pub(super) identifier: u32,
}

/// A record belongs to a session that no record before it made: the records are not those of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownSession {
    /// Its Client Identifier.
    pub client_id: Box<str>,
}

impl fmt::Display for UnknownSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a record belongs to a session that no earlier record made: {:?}", self.client_id)
    }
}

impl core::error::Error for UnknownSession {}

/// What the records of one delivery say.
struct ToClient<'a> {
    client_id: &'a str,
    qos: QoS,
    retain: bool,
    identifiers: &'a Identifiers,
    packet_id: Option<PacketId>,
}

impl Image {
    /// The image of a store that is empty. `seed`: clients choose the names of their sessions.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self {
            clients: HashMap::with_hasher(seed.hasher(CLIENTS)),
            sessions: 0,
            messages: 0,
            shared: HashMap::with_hasher(seed.hasher(SHARED)),
        }
    }

    /// Sessions that are stored.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.clients.len()
    }

    /// Adds the changes that a record makes to a batch.
    ///
    /// # Errors
    /// If the record belongs to a session that is not there; nothing is changed.
    pub fn apply(&mut self, record: &Record, batch: &mut Batch) -> Result<(), UnknownSession> {
        match record {
            Record::Session { client_id, expiry, left } => {
                let number = self.number_of(client_id);
                let value = SessionEntry { number, expiry: *expiry, left: *left }.write();
                put(batch, entry::named(entry::SESSION, client_id), value);
            }
            Record::SessionEnded { client_id } => self.end(client_id, batch)?,
            Record::Retained(message) => retain(message, batch),
            Record::Will { client_id, message, expiry_s, delay_s } => {
                let mut value = Vec::new();
                let mut to = Writer(&mut value);
                to.option(expiry_s.map(u64::from));
                to.number(u64::from(*delay_s));
                to.message(message);
                put(batch, entry::named(entry::WILL, client_id), value);
            }
            Record::WillGone { client_id } => batch.remove(entry::named(entry::WILL, client_id)),
            Record::Relayed(relayed) => self.relayed(relayed, batch)?,
            Record::Queued { client_id, message, qos, retain, identifiers } => {
                let (qos, retain) = (*qos, *retain);
                let to = ToClient { client_id, qos, retain, identifiers, packet_id: None };
                self.deliver(&to, Body::Here(message.clone()), batch)?;
            }
            Record::InFlight { client_id, packet_id, message, qos, retain, identifiers, paged } => {
                let (qos, retain, packet_id) = (*qos, *retain, Some(*packet_id));
                let to = ToClient { client_id, qos, retain, identifiers, packet_id };
                self.deliver(&to, Body::Here(message.clone()), batch)?;
                if *paged {
                    self.client(client_id)?.page_went_on(message.topic(), batch);
                }
            }
            Record::Dropped { client_id } => {
                let client = self.client(client_id)?;
                if let Some(delivery) = client.queue.pop() {
                    let shared = client.remove(delivery, batch);
                    self.unshare(shared, batch);
                }
            }
            Record::Received { client_id, packet_id } => {
                let shared = self.client(client_id)?.received(*packet_id, batch);
                self.unshare(shared, batch);
            }
            Record::Acknowledged { client_id, packet_id } => {
                let shared = self.client(client_id)?.land(*packet_id, batch);
                self.unshare(shared, batch);
            }
            Record::Sent { client_id, packet_id } => {
                let shared = self.client(client_id)?.take_off(*packet_id, batch);
                self.unshare(shared, batch);
            }
            _ => self.client_keeps(record, batch)?,
        }
        Ok(())
    }

    /// The records that concern a session and no message on its way out.
    fn client_keeps(&mut self, record: &Record, batch: &mut Batch) -> Result<(), UnknownSession> {
        let Some(client_id) = record.client_id() else { return Ok(()) };
        let client = self.client(client_id)?;
        let number = client.number;
        match record {
            Record::Subscription { filter, options, identifier, .. } => {
                let mut value = Vec::with_capacity(6);
                let mut to = Writer(&mut value);
                to.0.push(*options);
                to.number(u64::from(*identifier));
                put(batch, entry::subscription(number, filter), value);
            }
            Record::Unsubscription { filter, .. } => {
                batch.remove(entry::subscription(number, filter));
                client.pages.retain(|page| {
                    let stays = page.filter != *filter;
                    if !stays {
                        batch.remove(entry::of_session(number, Kind::Page, page.count));
                    }
                    stays
                });
            }
            Record::Page { filter, options, identifier, after, .. } => {
                client.counted += 1;
                let (count, options, identifier) = (client.counted, *options, *identifier);
                let page = Page { count, filter: filter.clone(), options, identifier };
                put_new(
                    batch,
                    entry::of_session(number, Kind::Page, count),
                    page.write(after.as_deref().unwrap_or_default()),
                );
                client.pages.push_back(page);
            }
            Record::PageEnded { filter, .. } => {
                if let Some(first) = client.pages.iter().position(|page| page.filter == *filter)
                    && let Some(page) = client.pages.remove(first)
                {
                    batch.remove(entry::of_session(number, Kind::Page, page.count));
                }
            }
            Record::Inbound { packet_id, message, .. } => {
                client.hold(*packet_id, batch);
                if let Some(message) = message {
                    client.owe(*packet_id, message, batch);
                }
            }
            Record::InboundGone { packet_id, .. } => {
                if let Some(count) = client.held.remove(packet_id) {
                    batch.remove(entry::of_session(number, Kind::Held, count));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn relayed(&mut self, relayed: &Relayed, batch: &mut Batch) -> Result<(), UnknownSession> {
        let Relayed { message, settled, retained, recipients } = relayed;
        if let Some(stranger) = recipients.iter().find(|to| !self.clients.contains_key(&to.client_id)) {
            return Err(UnknownSession { client_id: stranger.client_id.clone() });
        }
        match settled {
            Settled::Nothing => {}
            Settled::Inbound { client_id, packet_id } => {
                // Its session may have ended.
                if let Some(client) = self.clients.get_mut(client_id) {
                    client.settle(*packet_id, batch);
                }
            }
            Settled::Will { client_id } => batch.remove(entry::named(entry::WILL, client_id)),
        }
        match retained {
            Effect::None => {}
            Effect::Set => retain(message, batch),
            Effect::Removed => batch.remove(entry::named(entry::RETAINED, message.topic())),
        }
        let body = if recipients.len() > 1 && message.size() > SHARED_BYTES_MIN {
            self.messages += 1;
            put_new(batch, entry::numbered(entry::MESSAGE, self.messages), entry::write_message(message));
            self.shared.insert(self.messages, 0);
            Body::Shared(self.messages)
        } else {
            Body::Here(message.clone())
        };
        for to in recipients {
            let (qos, retain, identifiers, packet_id) = (to.qos, to.retain, &to.identifiers, to.packet_id);
            let to = ToClient { client_id: &to.client_id, qos, retain, identifiers, packet_id };
            self.deliver(&to, body.clone(), batch)?;
        }
        Ok(())
    }

    fn deliver(&mut self, to: &ToClient<'_>, body: Body, batch: &mut Batch) -> Result<(), UnknownSession> {
        let client = self.client(to.client_id)?;
        // A Packet Identifier that is given anew ends what had it.
        let ended = to.packet_id.and_then(|packet_id| client.land(packet_id, batch));
        let shared = match body {
            Body::Shared(number) => Some(number),
            Body::Here(_) => None,
        };
        let delivery = client.queue.push(to.packet_id.is_none());
        let mut flight = None;
        if let Some(packet_id) = to.packet_id {
            client.sent += 1;
            flight = Some((packet_id, client.sent));
            let sent = client.sent;
            client.flights.insert(packet_id, Flight { delivery: Some(delivery), sent, entry: false });
        }
        if let Some(number) = shared {
            client.shared.insert(delivery, number);
        }
        let (qos, retain, identifiers) = (to.qos, to.retain, to.identifiers.clone());
        let value = DeliveryEntry { qos, retain, identifiers, flight, body }.write();
        put_new(batch, entry::of_session(client.number, Kind::Delivery, delivery), value);
        if let Some(count) = shared.and_then(|number| self.shared.get_mut(&number)) {
            *count += 1;
        }
        self.unshare(ended, batch);
        Ok(())
    }

    /// A session has this number, now if not before.
    fn number_of(&mut self, client_id: &str) -> u64 {
        if let Some(client) = self.clients.get(client_id) {
            return client.number;
        }
        self.sessions += 1;
        self.clients.insert(client_id.into(), Client { number: self.sessions, ..Client::default() });
        self.sessions
    }

    fn client(&mut self, client_id: &str) -> Result<&mut Client, UnknownSession> {
        self.clients.get_mut(client_id).ok_or_else(|| UnknownSession { client_id: client_id.into() })
    }

    fn end(&mut self, client_id: &str, batch: &mut Batch) -> Result<(), UnknownSession> {
        let Some(client) = self.clients.remove(client_id) else {
            return Err(UnknownSession { client_id: client_id.into() });
        };
        batch.remove(entry::named(entry::SESSION, client_id));
        // What is left of a will then was never owed.
        batch.remove(entry::named(entry::WILL, client_id));
        entry::clear_session(batch, client.number);
        client.shared.values().for_each(|number| self.unshare(Some(*number), batch));
        Ok(())
    }

    /// One delivery less has a message with an entry of its own.
    fn unshare(&mut self, number: Option<u64>, batch: &mut Batch) {
        let Some(number) = number else { return };
        if let Some(count) = self.shared.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                self.shared.remove(&number);
                batch.remove(entry::numbered(entry::MESSAGE, number));
            }
        }
    }
}

impl Client {
    /// Removes the entry of a delivery; returns the message that it shared.
    fn remove(&mut self, delivery: u64, batch: &mut Batch) -> Option<u64> {
        batch.remove(entry::of_session(self.number, Kind::Delivery, delivery));
        self.shared.remove(&delivery)
    }

    /// The head of the queue is in flight; returns what was shared by the message that had its Packet Identifier.
    fn take_off(&mut self, packet_id: PacketId, batch: &mut Batch) -> Option<u64> {
        let delivery = self.queue.pop()?;
        let ended = self.land(packet_id, batch);
        self.sent += 1;
        let (sent, delivery) = (self.sent, Some(delivery));
        put_new(
            batch,
            entry::of_session(self.number, Kind::Flight, sent),
            FlightEntry { packet_id, delivery }.write(),
        );
        self.flights.insert(packet_id, Flight { delivery, sent, entry: true });
        ended
    }

    /// A message is done.
    fn land(&mut self, packet_id: PacketId, batch: &mut Batch) -> Option<u64> {
        let flight = self.flights.remove(&packet_id)?;
        if flight.entry {
            batch.remove(entry::of_session(self.number, Kind::Flight, flight.sent));
        }
        flight.delivery.and_then(|delivery| self.remove(delivery, batch))
    }

    /// A message is the client's: its place among the others in flight stays.
    fn received(&mut self, packet_id: PacketId, batch: &mut Batch) -> Option<u64> {
        let known = self.flights.get(&packet_id).map(|flight| (flight.delivery, flight.sent, flight.entry));
        let (delivery, sent, entry) = known.unwrap_or((None, self.sent + 1, false));
        self.sent = self.sent.max(sent);
        let (key, value) = (
            entry::of_session(self.number, Kind::Flight, sent),
            FlightEntry { packet_id, delivery: None }.write(),
        );
        if entry {
            put(batch, key, value)
        } else {
            put_new(batch, key, value)
        }
        self.flights.insert(packet_id, Flight { delivery: None, sent, entry: true });
        delivery.and_then(|delivery| self.remove(delivery, batch))
    }

    fn hold(&mut self, packet_id: PacketId, batch: &mut Batch) {
        if self.held.contains_key(&packet_id) {
            return;
        }
        self.counted += 1;
        let mut value = Vec::with_capacity(3);
        Writer(&mut value).number(u64::from(packet_id.get()));
        put_new(batch, entry::of_session(self.number, Kind::Held, self.counted), value);
        self.held.insert(packet_id, self.counted);
    }

    fn owe(&mut self, packet_id: PacketId, message: &Message, batch: &mut Batch) {
        self.counted += 1;
        let mut value = Vec::with_capacity(message.size() + 16);
        let mut to = Writer(&mut value);
        to.number(u64::from(packet_id.get()));
        to.message(message);
        put_new(batch, entry::of_session(self.number, Kind::Owed, self.counted), value);
        self.owed.push_back((packet_id, self.counted));
    }

    /// A message that came in was relayed: the first one with this Packet Identifier.
    fn settle(&mut self, packet_id: PacketId, batch: &mut Batch) {
        if let Some(first) = self.owed.iter().position(|(owed, _)| *owed == packet_id)
            && let Some((_, count)) = self.owed.remove(first)
        {
            batch.remove(entry::of_session(self.number, Kind::Owed, count));
        }
    }

    /// The first page was sent up to a topic.
    fn page_went_on(&mut self, topic: &str, batch: &mut Batch) {
        if let Some(page) = self.pages.front() {
            put(batch, entry::of_session(self.number, Kind::Page, page.count), page.write(topic));
        }
    }
}

impl Queue {
    /// The count of a delivery that comes behind all others: of the queue, or past it.
    fn push(&mut self, queued: bool) -> u64 {
        let delivery = self.tail;
        self.tail += 1;
        match (queued, self.len) {
            (true, _) => self.len += 1,
            (false, 0) => self.head = self.tail,
            (false, _) => drop(self.holes.insert(delivery)),
        }
        delivery
    }

    /// A store has this delivery, behind all it said of before; what is missing between them was done long ago.
    pub(super) fn found(&mut self, delivery: u64, queued: bool) {
        if self.len == 0 {
            self.head = if queued { delivery } else { delivery + 1 };
        } else {
            self.holes.extend(self.tail..delivery);
            if !queued {
                self.holes.insert(delivery);
            }
        }
        self.tail = delivery + 1;
        self.len += u64::from(queued);
    }

    /// The count of the first one, which leaves the queue.
    fn pop(&mut self) -> Option<u64> {
        self.len = self.len.checked_sub(1)?;
        let delivery = self.head;
        self.head += 1;
        while self.holes.remove(&self.head) {
            self.head += 1;
        }
        Some(delivery)
    }
}

impl Page {
    fn write(&self, after: &str) -> Vec<u8> {
        let mut value = Vec::new();
        let mut to = Writer(&mut value);
        to.text(&self.filter);
        to.0.push(self.options);
        to.number(u64::from(self.identifier));
        // No topic is empty.
        to.text(after);
        value
    }
}

fn put(batch: &mut Batch, key: Vec<u8>, value: Vec<u8>) {
    let value = entry::sealed(&key, value);
    batch.put(key, value);
}

fn put_new(batch: &mut Batch, key: Vec<u8>, value: Vec<u8>) {
    let value = entry::sealed(&key, value);
    batch.put_new(key, value);
}

fn retain(message: &Message, batch: &mut Batch) {
    let key = entry::named(entry::RETAINED, message.topic());
    if message.payload().is_empty() {
        batch.remove(key)
    } else {
        put(batch, key, entry::write_message(message))
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("sessions", &self.clients.len()).finish_non_exhaustive()
    }
}

const CLIENTS: u64 = 0x0C11_E275;
const SHARED: u64 = 0x5AA2_ED00;
/// From here on a message that several sessions get has an entry of its own: below it that would cost more than copies.
const SHARED_BYTES_MIN: usize = 256;
