//! A machine with clients that do what the standard asks of them.

use crate::measured;
use culex_core::{Action, Broker, Config, ConnectionId, Now, Seed, Stack};
use std::collections::HashMap;
use std::sync::Arc;

/// 3.1.1 or 5.0, as CONNECT says it.
pub(crate) type Level = u8;

pub(crate) struct World {
    broker: Broker,
    now: Now,
    clients: HashMap<ConnectionId, Client>,
    output: Vec<u8>,
    /// PUBLISH packets that clients were sent.
    pub(crate) delivered: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Client {
    level: Level,
    /// It answers what it is sent.
    answers: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = Now::default();
        // Without a store: the standard chain keeps everything in memory.
        let broker = Broker::new(Arc::new(Config::default()), Stack::standard(), Seed(42), now);
        Self { broker, now, clients: HashMap::new(), output: Vec::new(), delivered: 0 }
    }

    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    /// A client that connects; `lasts`: its session outlives its connection.
    pub(crate) fn connect(&mut self, name: &str, level: Level, answers: bool, lasts: bool) -> ConnectionId {
        let Some(id) = measured::accept(&mut self.broker, self.now) else {
            unreachable!("the machine takes a client")
        };
        self.clients.insert(id, Client { level, answers });
        self.receive(id, &connect(name, level, lasts));
        id
    }

    /// The connection is gone.
    pub(crate) fn cut(&mut self, id: ConnectionId) {
        measured::disconnected(&mut self.broker, self.now, id);
        self.clients.remove(&id);
    }

    pub(crate) fn receive(&mut self, id: ConnectionId, bytes: &[u8]) {
        measured::receive(&mut self.broker, self.now, id, bytes);
    }

    /// Takes what the machine has to say until it says nothing more; clients answer.
    pub(crate) fn settle(&mut self) {
        let mut answers = Vec::new();
        loop {
            let mut done = Vec::new();
            while let Some(action) = measured::action(&mut self.broker) {
                if let Action::Close { id, .. } = action {
                    done.push(id);
                }
            }
            while let Some(transmit) = measured::transmit(&mut self.broker) {
                let id = transmit.id();
                self.output.clear();
                transmit.chunks().for_each(|chunk| self.output.extend_from_slice(chunk));
                measured::written(transmit);
                let client = self.clients.get(&id).copied().unwrap_or_default();
                let mut answer = Vec::new();
                self.delivered += read(&self.output, client.level, &mut answer);
                if client.answers && !answer.is_empty() {
                    answers.push((id, answer));
                }
            }
            for id in &done {
                self.cut(*id);
            }
            if done.is_empty() && answers.is_empty() {
                return;
            }
            for (id, answer) in answers.drain(..) {
                self.receive(id, &answer);
            }
        }
    }
}

/// Appends what a client answers to what it was sent; returns how many messages that were.
fn read(mut bytes: &[u8], level: Level, answer: &mut Vec<u8>) -> u64 {
    let mut messages = 0;
    while let [first, rest @ ..] = bytes {
        let (mut length, mut width) = (0, 0);
        while let Some(byte) = rest.get(width) {
            length |= usize::from(byte & 0x7F) << (7 * width);
            width += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (body, behind) = rest[width..].split_at(length);
        bytes = behind;
        let id = |at: usize| [body[at], body[at + 1]];
        match first >> 4 {
            3 => {
                messages += 1;
                let topic = usize::from(u16::from_be_bytes(id(0)));
                match first >> 1 & 3 {
                    1 => answer.extend([&[0x40, 2][..], &id(2 + topic)].concat()),
                    2 => answer.extend([&[0x50, 2][..], &id(2 + topic)].concat()),
                    _ => {}
                }
            }
            5 => answer.extend([&[0x62, 2][..], &id(0)].concat()),
            6 => answer.extend([&[0x70, 2][..], &id(0)].concat()),
            _ => {}
        }
    }
    debug_assert!(level > 0 || messages == 0, "a client that nobody knows gets messages");
    messages
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    while length > 0x7F {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(body);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn connect(name: &str, level: Level, lasts: bool) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend([level, if lasts { 0 } else { 2 }, 0, 0]);
    if level == 5 {
        // Session Expiry Interval: an hour.
        body.extend(if lasts { &[5, 0x11, 0, 0, 0x0E, 0x10][..] } else { &[0][..] });
    }
    body.extend(text(name));
    packet(0x10, &body)
}

pub(crate) fn subscribe(filter: &str, level: Level, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend((level == 5).then_some(0));
    body.extend(text(filter));
    body.push(qos);
    packet(0x82, &body)
}

pub(crate) fn unsubscribe(filter: &str, level: Level) -> Vec<u8> {
    let mut body = vec![0, 2];
    body.extend((level == 5).then_some(0));
    body.extend(text(filter));
    packet(0xA2, &body)
}

/// A PUBLISH with `id`, if its QoS has one.
pub(crate) fn publish(topic: &str, level: Level, qos: u8, retain: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend((level == 5).then_some(0));
    body.extend(payload);
    packet(0x30 | qos << 1 | u8::from(retain), &body)
}
