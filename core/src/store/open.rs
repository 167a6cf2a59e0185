//! From entries back to records.

use super::entry::{self, Body, DeliveryEntry, FlightEntry, Kind, SessionEntry};
use super::image::{Client, Flight, Page};
use super::{Image, Scan};
use crate::broker::{BadRecord, Record, RecordReader};
use crate::hash::Seed;
use crate::message::Message;
use crate::packet::{PacketId, QoS};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;

/// Why a store cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError<E> {
    /// The engine says why.
    Store(E),
    /// It was written by a version of the program that this one does not know.
    Format {
        /// What it says of itself.
        found: Vec<u8>,
    },
    /// An entry is not what it has to be: it was damaged, or others that belong to it are missing.
    Entry {
        /// Its key.
        key: Vec<u8>,
        /// What was expected.
        expected: &'static str,
    },
    /// Who gets the records does not want more of them.
    Stopped,
}

impl<E: fmt::Display> fmt::Display for OpenError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Format { found } => {
                write!(
                    f,
                    "the store is of another format: expected \"culex 1\", found \"{}\"",
                    found.escape_ascii()
                )
            }
            Self::Entry { key, expected } => {
                write!(f, "entry \"{}\" is damaged: expected {expected}", key.escape_ascii())
            }
            Self::Stopped => f.write_str("its records are not wanted"),
        }
    }
}

impl<E: fmt::Display + fmt::Debug> core::error::Error for OpenError<E> {}

/// Where records go; `false`: no more of them.
type Out<'a> = &'a mut dyn FnMut(Record) -> bool;

/// Hears of a damaged entry, and what was expected; `false`: that is the end.
type Damaged<'a> = &'a mut dyn FnMut(&[u8], &'static str) -> bool;

impl Image {
    /// The image of what a store holds, and its state as records, for [`Broker::restore`](crate::Broker::restore): each
    /// is given to `each` as it is read; `false` stops. An empty store gives none, and [`Image::initialize`] makes it one.
    ///
    /// Memory: messages in flight of one session at a time, and every message that several deliveries share, once.
    ///
    /// # Errors
    /// At the first entry that cannot be read or makes no sense. Nothing is skipped.
    pub fn open<S: Scan>(
        store: &S,
        seed: Seed,
        each: &mut dyn FnMut(Record) -> bool,
    ) -> Result<Self, OpenError<S::Error>> {
        let mut damaged = None;
        let opened = Self::read(store, seed, each, &mut |key, expected| {
            damaged = Some(OpenError::Entry { key: key.to_vec(), expected });
            false
        });
        damaged.map_or(opened, Err)
    }

    /// Reads a store as [`open`](Self::open) does and goes on behind what is damaged: `damaged` gets the key of each such entry,
    /// and what was expected. What belongs to a damaged entry may be told as well.
    ///
    /// # Errors
    /// If the store as a whole cannot be read.
    pub fn check<S: Scan>(
        store: &S,
        seed: Seed,
        damaged: &mut dyn FnMut(&[u8], &'static str),
    ) -> Result<(), OpenError<S::Error>> {
        let each = &mut |_| true;
        Self::read(store, seed, each, &mut |key, expected| {
            damaged(key, expected);
            true
        })
        .map(drop)
    }

    fn read<S: Scan>(
        store: &S,
        seed: Seed,
        each: Out<'_>,
        damaged: Damaged<'_>,
    ) -> Result<Self, OpenError<S::Error>> {
        check_format(store)?;
        let mut opening =
            Opening { image: Self::new(seed), sessions: BTreeMap::new(), messages: BTreeMap::new() };
        opening.sessions(store, damaged)?;
        opening.messages(store, damaged)?;
        opening.deliveries(store, each, damaged)?;
        opening.wills_and_retained(store, each, damaged)?;
        Ok(opening.image)
    }

    /// The messages at the head of a session's queue, as [`Record::Queued`]: behind the first `skip`, `messages_max` at most, and no
    /// more once they have `bytes_max` bytes. Everything that was applied must be in the store.
    ///
    /// # Errors
    /// At the first entry that cannot be read or makes no sense.
    pub fn queued<S: Scan>(
        &self,
        store: &S,
        client_id: &str,
        skip: u32,
        messages_max: u32,
        bytes_max: u64,
    ) -> Result<Vec<Record>, OpenError<S::Error>> {
        let Some(client) = self.clients.get(client_id) else { return Ok(Vec::new()) };
        let (mut skip, mut bytes, mut found) = (skip, 0, Vec::new());
        let from = entry::of_session(client.number, Kind::Delivery, client.queue.head);
        let to = entry::of_session(client.number, Kind::Delivery, client.queue.tail);
        read(store, &from, &to, &mut |key, value| {
            let (_, _, rest) = entry::parse_of_session(key)?;
            if client.queue.holes.contains(&entry::count(rest)?) {
                return Ok(true);
            }
            if skip > 0 {
                skip -= 1;
                return Ok(true);
            }
            let delivery = DeliveryEntry::read(value)?;
            if let Body::Here(message) = &delivery.body {
                bytes += message.size() as u64;
            }
            found.push(delivery);
            Ok(found.len() < messages_max as usize && bytes < bytes_max)
        })?;
        let (mut queued, mut bytes) = (Vec::new(), 0);
        for DeliveryEntry { qos, retain, identifiers, body, .. } in found {
            let message = match body {
                Body::Here(message) => message,
                Body::Shared(number) => shared_message(store, number)?,
            };
            bytes += message.size() as u64;
            queued.push(Record::Queued { client_id: client_id.into(), message, qos, retain, identifiers });
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(queued)
    }

    /// What a store says of itself: how to read its entries.
    pub const FORMAT: &str = match core::str::from_utf8(entry::VERSION) {
        Ok(version) => version,
        Err(_) => panic!("the version is text"),
    };

    /// What makes an empty store one of this format.
    pub fn initialize(batch: &mut super::Batch) {
        batch.put(entry::FORMAT.to_vec(), entry::VERSION.to_vec());
    }
}

/// Reads a message with an entry of its own.
fn shared_message<S: Scan>(store: &S, number: u64) -> Result<Message, OpenError<S::Error>> {
    let mut found = None;
    let (from, to) = (entry::numbered(entry::MESSAGE, number), entry::numbered(entry::MESSAGE, number + 1));
    read(store, &from, &to, &mut |_, value| {
        found = Some(entry::read_message(value)?);
        Ok(false)
    })?;
    found.ok_or(OpenError::Entry { key: from, expected: "a message that exists" })
}

struct Opening {
    image: Image,
    /// By their numbers.
    sessions: BTreeMap<u64, (Box<str>, SessionEntry)>,
    messages: BTreeMap<u64, Message>,
}

/// One session while its entries come.
struct Reading {
    number: u64,
    client_id: Box<str>,
    client: Client,
    /// The messages in flight, by their order.
    flights: BTreeMap<u64, Record>,
    /// Deliveries that flights of their own are about.
    flying: BTreeMap<u64, (PacketId, u64)>,
    owed: Vec<(PacketId, Message)>,
}

impl Opening {
    fn sessions<S: Scan>(&mut self, store: &S, damaged: Damaged<'_>) -> Result<(), OpenError<S::Error>> {
        scan(store, &[entry::SESSION], &[entry::SESSION + 1], damaged, &mut |key, value| {
            let client_id = text(&key[1..])?.into();
            let entry = SessionEntry::read(value)?;
            self.image.sessions = self.image.sessions.max(entry.number);
            match self.sessions.insert(entry.number, (client_id, entry)) {
                None => Ok(true),
                Some(_) => Err(BadRecord { expected: "a session with a number of its own" }),
            }
        })
    }

    fn messages<S: Scan>(&mut self, store: &S, damaged: Damaged<'_>) -> Result<(), OpenError<S::Error>> {
        scan(store, &[entry::MESSAGE], &[entry::MESSAGE + 1], damaged, &mut |key, value| {
            let number = entry::count(&key[1..])?;
            self.image.messages = self.image.messages.max(number);
            self.image.shared.insert(number, 0);
            self.messages.insert(number, entry::read_message(value)?);
            Ok(true)
        })
    }

    /// All that sessions have, in the order of their numbers.
    fn deliveries<S: Scan>(
        &mut self,
        store: &S,
        each: Out<'_>,
        damaged: Damaged<'_>,
    ) -> Result<(), OpenError<S::Error>> {
        let mut stopped = false;
        let mut reading: Option<Reading> = None;
        let mut waiting = core::mem::take(&mut self.sessions).into_iter().peekable();
        scan(store, &[entry::OF_SESSION], &[entry::OF_SESSION + 1], damaged, &mut |key, value| {
            let (number, kind, rest) = entry::parse_of_session(key)?;
            // Sessions in between have nothing.
            while let Some((next, (client_id, entry))) = waiting.next_if(|(next, _)| *next <= number) {
                let finished = reading.replace(Reading::new(next, client_id));
                if !self.finish(finished, each) || !session_record(reading.as_ref(), &entry, each) {
                    stopped = true;
                    return Ok(false);
                }
            }
            let Some(reading) = reading.as_mut().filter(|reading| reading.number == number) else {
                return Err(BadRecord { expected: "an entry of a session that exists" });
            };
            stopped = !self.entry(reading, kind, rest, value, each)?;
            Ok(!stopped)
        })?;
        stopped = stopped || !self.finish(reading.take(), each);
        for (number, (client_id, entry)) in waiting {
            let reading = Some(Reading::new(number, client_id));
            stopped =
                stopped || !session_record(reading.as_ref(), &entry, each) || !self.finish(reading, each);
        }
        if stopped { Err(OpenError::Stopped) } else { Ok(()) }
    }

    fn entry(
        &mut self,
        reading: &mut Reading,
        kind: Kind,
        rest: &[u8],
        value: &[u8],
        each: Out<'_>,
    ) -> Result<bool, BadRecord> {
        let client_id = reading.client_id.clone();
        match kind {
            Kind::Subscription => {
                let filter = text(rest)?;
                let (options, identifier) = entry::whole(value, |from| Ok((from.byte()?, from.u32()?)))?;
                crate::topic::Filter::parse(filter).map_err(|_| BadRecord { expected: "a Topic Filter" })?;
                return Ok(each(Record::Subscription {
                    client_id,
                    filter: filter.into(),
                    options,
                    identifier,
                }));
            }
            Kind::Page => return reading.page(entry::count(rest)?, value, each),
            Kind::Held => {
                let packet_id = entry::whole(value, RecordReader::packet_id)?;
                reading.client.held.insert(packet_id, entry::count(rest)?);
                reading.client.counted = reading.client.counted.max(entry::count(rest)?);
            }
            Kind::Owed => {
                let (packet_id, message) =
                    entry::whole(value, |from| Ok((from.packet_id()?, from.message()?)))?;
                reading.client.owed.push_back((packet_id, entry::count(rest)?));
                reading.client.counted = reading.client.counted.max(entry::count(rest)?);
                reading.owed.push((packet_id, message));
            }
            Kind::Flight => reading.flight(entry::count(rest)?, FlightEntry::read(value)?),
            Kind::Delivery => {
                let entry = DeliveryEntry::read(value)?;
                return self.delivery(reading, entry::count(rest)?, entry, each);
            }
        }
        Ok(true)
    }

    fn delivery(
        &mut self,
        reading: &mut Reading,
        count: u64,
        entry: DeliveryEntry,
        each: Out<'_>,
    ) -> Result<bool, BadRecord> {
        let DeliveryEntry { qos, retain, identifiers, flight, body } = entry;
        let message = match body {
            Body::Here(message) => message,
            Body::Shared(number) => {
                let uses = self.image.shared.entry(number).or_default();
                *uses += 1;
                reading.client.shared.insert(count, number);
                let shared = self.messages.get(&number);
                shared.ok_or(BadRecord { expected: "a message that exists" })?.clone()
            }
        };
        let client_id = reading.client_id.clone();
        let flying = reading.flying.remove(&count);
        reading.client.queue.found(count, flight.is_none() && flying.is_none());
        let Some((packet_id, sent)) = flight.or(flying) else {
            return Ok(each(Record::Queued { client_id, message, qos, retain, identifiers }));
        };
        if qos == QoS::AtMostOnce {
            return Err(BadRecord { expected: "a QoS above 0" });
        }
        let client = &mut reading.client;
        client.sent = client.sent.max(sent);
        let flight = Flight { delivery: Some(count), sent, entry: flying.is_some() };
        if client.flights.insert(packet_id, flight).is_some() {
            return Err(BadRecord { expected: "a Packet Identifier that is not in use" });
        }
        let paged = false;
        let record = Record::InFlight { client_id, packet_id, message, qos, retain, identifiers, paged };
        reading.flights.insert(sent, record);
        Ok(true)
    }

    /// All entries of a session were read.
    fn finish(&mut self, reading: Option<Reading>, each: Out<'_>) -> bool {
        let Some(Reading { client_id, client, flights, owed, .. }) = reading else { return true };
        let held = client.held.keys().filter(|packet_id| owed.iter().all(|(owed, _)| owed != *packet_id));
        let records = held.map(|packet_id| Record::Inbound {
            client_id: client_id.clone(),
            packet_id: *packet_id,
            message: None,
        });
        let mut more = records.into_iter().all(&mut *each);
        for (packet_id, message) in owed {
            let (client_id, message) = (client_id.clone(), Some(message));
            more = more && each(Record::Inbound { client_id: client_id.clone(), packet_id, message });
            if !client.held.contains_key(&packet_id) {
                more = more && each(Record::InboundGone { client_id, packet_id });
            }
        }
        more = more && flights.into_values().all(each);
        self.image.clients.insert(client_id, client);
        more
    }

    fn wills_and_retained<S: Scan>(
        &mut self,
        store: &S,
        each: Out<'_>,
        damaged: Damaged<'_>,
    ) -> Result<(), OpenError<S::Error>> {
        let mut stopped = false;
        scan(store, &[entry::WILL], &[entry::RETAINED + 1], damaged, &mut |key, value| {
            let name = text(&key[1..])?;
            let record = if key[0] == entry::WILL {
                entry::whole(value, |from| {
                    let narrow =
                        |value| u32::try_from(value).map_err(|_| BadRecord { expected: "an interval" });
                    let expiry_s = from.option()?.map(narrow).transpose()?;
                    let (delay_s, message) = (from.u32()?, from.message()?);
                    Ok(Record::Will { client_id: name.into(), message, expiry_s, delay_s })
                })?
            } else {
                let message = entry::read_message(value)?;
                if message.topic() != name {
                    return Err(BadRecord { expected: "a message of this topic" });
                }
                Record::Retained(message)
            };
            stopped = !each(record);
            Ok(!stopped)
        })?;
        if stopped { Err(OpenError::Stopped) } else { Ok(()) }
    }
}

impl Reading {
    fn new(number: u64, client_id: Box<str>) -> Self {
        let client = Client { number, ..Client::default() };
        let (flights, flying, owed) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { number, client_id, client, flights, flying, owed }
    }

    fn page(&mut self, count: u64, value: &[u8], each: Out<'_>) -> Result<bool, BadRecord> {
        let (filter, options, identifier, after) =
            entry::whole(value, |from| Ok((from.filter()?, from.byte()?, from.u32()?, from.text()?)))?;
        self.client.counted = self.client.counted.max(count);
        self.client.pages.push_back(Page { count, filter: filter.clone(), options, identifier });
        let after = (!after.is_empty()).then(|| after.into());
        let client_id = self.client_id.clone();
        Ok(each(Record::Page { client_id, filter, options, identifier, after }))
    }

    /// A message that is the client's, or a delivery that comes later and says what it is.
    fn flight(&mut self, sent: u64, entry: FlightEntry) {
        let packet_id = entry.packet_id;
        self.client.sent = self.client.sent.max(sent);
        match entry.delivery {
            Some(delivery) => drop(self.flying.insert(delivery, (packet_id, sent))),
            None => {
                self.client.flights.insert(packet_id, Flight { delivery: None, sent, entry: true });
                let client_id = self.client_id.clone();
                self.flights.insert(sent, Record::Received { client_id, packet_id });
            }
        }
    }
}

fn session_record(reading: Option<&Reading>, entry: &SessionEntry, each: Out<'_>) -> bool {
    reading.is_none_or(|reading| {
        let (client_id, expiry, left) = (reading.client_id.clone(), entry.expiry, entry.left);
        each(Record::Session { client_id, expiry, left })
    })
}

fn check_format<S: Scan>(store: &S) -> Result<(), OpenError<S::Error>> {
    let mut found: Option<Vec<u8>> = None;
    store
        .scan(&[0], &[0xFF], &mut |key, value| {
            // The first entry, if there is one, says what the others are.
            found = Some(if key == entry::FORMAT { value.to_vec() } else { Vec::new() });
            ControlFlow::Break(())
        })
        .map_err(OpenError::Store)?;
    match found {
        Some(found) if found != entry::VERSION => Err(OpenError::Format { found }),
        _ => Ok(()),
    }
}

/// Reads an entry; `false`: no more of them.
type Read<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool, BadRecord>;

/// Scans, and says which entries are damaged.
fn scan<S: Scan>(
    store: &S,
    from: &[u8],
    to: &[u8],
    damaged: Damaged<'_>,
    each: Read<'_>,
) -> Result<(), OpenError<S::Error>> {
    let mut stopped = false;
    store
        .scan(
            from,
            to,
            &mut |key, value| match entry::unsealed(key, value).and_then(|value| each(key, value)) {
                Ok(true) => ControlFlow::Continue(()),
                Ok(false) => ControlFlow::Break(()),
                Err(BadRecord { expected }) if damaged(key, expected) => ControlFlow::Continue(()),
                Err(_) => {
                    stopped = true;
                    ControlFlow::Break(())
                }
            },
        )
        .map_err(OpenError::Store)?;
    if stopped { Err(OpenError::Stopped) } else { Ok(()) }
}

/// Scans up to the first entry that is damaged.
fn read<S: Scan>(store: &S, from: &[u8], to: &[u8], each: Read<'_>) -> Result<(), OpenError<S::Error>> {
    let mut damage = None;
    let note = &mut |key: &[u8], expected| {
        damage = Some(OpenError::Entry { key: key.to_vec(), expected });
        false
    };
    let scanned = scan(store, from, to, note, each);
    damage.map_or(scanned, Err)
}

fn text(bytes: &[u8]) -> Result<&str, BadRecord> {
    core::str::from_utf8(bytes).map_err(|_| BadRecord { expected: "UTF-8" })
}
