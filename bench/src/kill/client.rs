//! A client that does what the standard asks of one whose session outlives its connections: what was not acknowledged is
//! sent again, with the same Packet Identifiers and in the same order; what came at QoS 2 is known until its PUBREL.

use crate::Trouble;
use culex_core::packet::*;
use rustix::event::{PollFd, PollFlags};
use std::collections::{BTreeSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// What happened to a client, in the order in which it did.
#[derive(Debug)]
pub(crate) enum Event {
    Connected {
        present: bool,
    },
    /// What its program gets: not again what is known at QoS 2.
    Message {
        topic: String,
        payload: Vec<u8>,
    },
    /// The broker answers for it: PUBACK, or PUBREC.
    Acknowledged(Token),
    /// PUBACK, or PUBCOMP.
    Done(Token),
    Subscribed,
    Unsubscribed,
    Pong,
    Closed,
}

/// Which message of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) stream: usize,
    pub(crate) number: u64,
}

/// A message to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) token: Token,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) expiry_s: Option<u32>,
}

struct Sent {
    id: PacketId,
    message: Outgoing,
    /// PUBREC came: only PUBREL is sent again.
    received: bool,
}

pub(crate) struct Client {
    pub(crate) name: String,
    version: Version,
    pub(crate) expiry_s: u32,
    pub(crate) will: Option<(String, Vec<u8>)>,
    /// It keeps no session.
    pub(crate) fleeting: bool,
    socket: Option<TcpStream>,
    /// CONNACK came.
    pub(crate) ready: bool,
    unread: Vec<u8>,
    unsent: Vec<u8>,
    last: u16,
    sent: VecDeque<Sent>,
    held: BTreeSet<PacketId>,
}

impl Client {
    pub(crate) fn new(name: &str, version: Version) -> Self {
        Self {
            name: name.to_owned(),
            version,
            expiry_s: u32::MAX,
            will: None,
            fleeting: false,
            socket: None,
            ready: false,
            unread: Vec::new(),
            unsent: Vec::new(),
            last: 0,
            sent: VecDeque::new(),
            held: BTreeSet::new(),
        }
    }

    /// Sends CONNECT; the answer is an event.
    pub(crate) fn connect(&mut self, address: SocketAddr) -> Result<(), Trouble> {
        self.close();
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        self.socket = Some(socket);
        let (mut properties, mut bytes) = (PropertiesBuf::default(), Vec::new());
        if self.version == Version::V5 && !self.fleeting {
            properties.push(Property::SessionExpiryInterval(self.expiry_s));
        }
        let will = self.will.as_ref().map(|(topic, payload)| Will {
            topic,
            payload,
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties::EMPTY,
        });
        let connect = Connect {
            version: self.version,
            clean_start: self.fleeting,
            keep_alive: 0,
            client_id: &self.name,
            properties: properties.as_properties(),
            will,
            user_name: None,
            password: None,
            bridge: false,
        };
        connect.encode(self.version, &mut bytes).map_err(|misuse| Trouble::new(format!("{misuse:?}")))?;
        self.unsent = bytes;
        self.flush();
        Ok(())
    }

    /// Closes the connection without a word.
    pub(crate) fn close(&mut self) {
        self.socket = None;
        self.ready = false;
        self.unread.clear();
        self.unsent.clear();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Messages that were not acknowledged to the end.
    pub(crate) fn in_flight(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        self.socket.as_ref()
    }

    /// What to wait for.
    pub(crate) fn poll(&self) -> Option<PollFd<'_>> {
        let out = if self.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        self.socket.as_ref().map(|socket| PollFd::new(socket, PollFlags::IN | out))
    }

    pub(crate) fn publish(&mut self, message: Outgoing) {
        // There are far fewer messages in flight than identifiers.
        let id = loop {
            self.last = self.last % IDS + 1;
            let id = PacketId::new(self.last).unwrap_or(PacketId::MIN);
            if self.sent.iter().all(|sent| sent.id != id) {
                break id;
            }
        };
        let sent = Sent { id, message, received: false };
        self.put(&sent.publish(false));
        self.sent.push_back(sent);
    }

    pub(crate) fn subscribe(&mut self, filters: &[(&str, QoS)]) {
        let mut buf = SubscribeFiltersBuf::new();
        for (filter, qos) in filters {
            // All filters of the script are well-formed.
            let _ = buf.push(filter, SubscriptionOptions::new(*qos));
        }
        let (packet_id, filters) = (PacketId::MAX, buf.as_filters());
        self.put(&Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str) {
        let mut buf = UnsubscribeFiltersBuf::new();
        let _ = buf.push(filter);
        let (packet_id, filters) = (PacketId::MAX, buf.as_filters());
        self.put(&Packet::Unsubscribe(Unsubscribe { packet_id, properties: Properties::EMPTY, filters }));
    }

    pub(crate) fn ping(&mut self) {
        self.put(&Packet::Pingreq);
    }

    /// Says goodbye; the broker closes.
    pub(crate) fn disconnect(&mut self) {
        let reason = ReasonCode::Success;
        self.put(&Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY }));
        self.ready = false;
        self.flush();
    }

    fn put(&mut self, packet: &Packet<'_>) {
        // What the script says can be encoded in every version.
        let _ = packet.encode(self.version, &mut self.unsent);
    }

    /// Writes what the socket takes.
    pub(crate) fn flush(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        // A connection that broke is noticed where it is read, after all that came before.
        if let Ok(count) = socket.write(&self.unsent) {
            self.unsent.drain(..count);
        }
    }

    /// Reads at most this much and says what happened.
    pub(crate) fn read(&mut self, buffer: &mut [u8], events: &mut Vec<Event>) -> Result<(), Trouble> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let end = match socket.read(buffer) {
            Ok(0) => true,
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                false
            }
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        let unread = std::mem::take(&mut self.unread);
        let mut taken = 0;
        while let Ok(Framed::Whole { frame, length }) = frame(&unread[taken..], u32::MAX) {
            let packet = Packet::decode(&frame, self.version)
                .map_err(|violation| Trouble::new(format!("{}: {violation:?}", self.name)))?;
            taken += length;
            self.handle(&packet, events)?;
        }
        self.unread = unread;
        self.unread.drain(..taken);
        self.flush();
        if end {
            self.close();
            events.push(Event::Closed);
        }
        Ok(())
    }

    fn handle(&mut self, packet: &Packet<'_>, events: &mut Vec<Event>) -> Result<(), Trouble> {
        match packet {
            Packet::Connack(connack) if connack.reason == ReasonCode::Success => {
                self.ready = true;
                self.resume(connack.session_present);
                events.push(Event::Connected { present: connack.session_present });
            }
            Packet::Publish(publish) => self.receive(publish, events),
            Packet::Puback(ack) | Packet::Pubcomp(ack) => {
                if let Some(at) = self.sent.iter().position(|sent| sent.id == ack.packet_id)
                    && let Some(sent) = self.sent.remove(at)
                {
                    if !sent.received {
                        events.push(Event::Acknowledged(sent.message.token));
                    }
                    events.push(Event::Done(sent.message.token));
                }
            }
            Packet::Pubrec(ack) => {
                if let Some(sent) = self.sent.iter_mut().find(|sent| sent.id == ack.packet_id)
                    && !std::mem::replace(&mut sent.received, true)
                {
                    events.push(Event::Acknowledged(sent.message.token));
                }
                self.put(&Packet::Pubrel(answer(ack.packet_id)));
            }
            Packet::Pubrel(ack) => {
                self.held.remove(&ack.packet_id);
                self.put(&Packet::Pubcomp(answer(ack.packet_id)));
            }
            Packet::Suback(_) => events.push(Event::Subscribed),
            Packet::Unsuback(_) => events.push(Event::Unsubscribed),
            Packet::Pingresp => events.push(Event::Pong),
            other => return Err(Trouble::new(format!("{}: nobody expected {other:?}", self.name))),
        }
        Ok(())
    }

    fn receive(&mut self, publish: &Publish<'_>, events: &mut Vec<Event>) {
        let known = match publish.packet_id {
            None => false,
            Some(id) if publish.qos == QoS::ExactlyOnce => {
                self.put(&Packet::Pubrec(answer(id)));
                !self.held.insert(id)
            }
            Some(id) => {
                self.put(&Packet::Puback(answer(id)));
                false
            }
        };
        if !known {
            let (topic, payload) = (publish.topic.to_string(), publish.payload.to_vec());
            events.push(Event::Message { topic, payload });
        }
    }

    /// The session goes on, or a new one begins: then what was not acknowledged is sent as if for the first time.
    fn resume(&mut self, present: bool) {
        if !present {
            self.held.clear();
            self.sent.retain(|sent| !sent.received);
        }
        let sent = std::mem::take(&mut self.sent);
        for sent in &sent {
            if sent.received {
                self.put(&Packet::Pubrel(answer(sent.id)));
            } else {
                self.put(&sent.publish(present));
            }
        }
        self.sent = sent;
    }
}

impl Sent {
    fn publish(&self, dup: bool) -> Packet<'_> {
        let message = &self.message;
        let mut properties = PropertiesBuf::default();
        if let Some(seconds) = message.expiry_s {
            properties.push(Property::MessageExpiryInterval(seconds));
        }
        Packet::Publish(Publish {
            dup,
            qos: message.qos,
            retain: message.retain,
            topic: message.topic.as_str().into(),
            packet_id: Some(self.id),
            properties: Properties::from_buf(properties),
            payload: message.payload.as_slice().into(),
        })
    }
}

fn answer(packet_id: PacketId) -> Ack<'static> {
    Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }
}

/// Packet Identifiers for messages are 1 to this; subscriptions have one beyond.
const IDS: u16 = 1000;
