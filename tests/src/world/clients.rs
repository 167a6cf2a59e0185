//! What the clients and the program do.

use super::{Event, World, key};
use crate::client::{Letter, Wishes};
use crate::model::{Announced, Dress, name, payload};
use crate::net::{Link, Pipe, frame_length};
use crate::script::{Op, Wish};
use crate::trace::Kind;
use crate::world::broker::decode;
use culex_core::packet::{QoS, Version};
use culex_core::{Disconnect, Message, Origin, Peer};
use std::collections::BTreeMap;

impl World<'_> {
    pub(super) fn perform(&mut self, op: &Op) {
        let kind = match op {
            Op::Cut { .. } | Op::Vanish { .. } | Op::Stall { .. } | Op::Garbage { .. } => Kind::Fault,
            Op::Partition { .. } | Op::SlowDisk { .. } | Op::FailSync | Op::Crash { .. } => Kind::Fault,
            _ => Kind::Step,
        };
        self.note(op.client(), kind, || format!("{op:?}"));
        match *op {
            Op::Connect { client, clean, expiry_s, ref will } => {
                let v5 = self.speaks_v5(client);
                let will = will.clone().map(|will| {
                    let message = self.model.announce_will(Announced {
                        publisher: Some(client),
                        topic: will.topic.into(),
                        qos: will.qos,
                        retain: will.retain,
                        expiry_s: if v5 { will.expiry_s } else { 0 },
                        ..Announced::default()
                    });
                    (will, payload(message, 0))
                });
                self.connect(client, Wishes { clean, expiry_s, will });
            }
            Op::Disconnect { client, with_will } => self.say_goodbye(client, with_will),
            Op::Cut { client } => self.cut(client),
            Op::Vanish { client } => {
                // The client is gone; its connection stays open on the broker's side, and nothing comes of it any more.
                self.clients[client].lose_connection();
            }
            Op::Stall { client, ms } => self.clients[client].stalled_until = self.now + ms * 1_000,
            Op::Subscribe { client, ref filters, identifier } => {
                if self.clients[client].connected {
                    let bytes = self.clients[client].subscribe(filters, identifier);
                    self.client_writes(client, &bytes);
                }
            }
            Op::Unsubscribe { client, filter } => {
                if self.clients[client].connected {
                    let bytes = self.clients[client].unsubscribe(filter);
                    self.client_writes(client, &bytes);
                }
            }
            Op::Publish { client, topic, qos, retain, padding, expiry_s, alias, dress, count } => {
                let dress = Dress(dress);
                let letter = Letter { retain, expiry_s, alias, dress, ..Letter::new(topic, qos) };
                for _ in 0..count {
                    self.publish(client, letter.clone(), padding);
                }
            }
            Op::Reuse { client, topic, subscribe } => self.reuse(client, topic, subscribe),
            Op::Garbage { client, kind } => self.garbage(client, kind),
            Op::ProgramPublish { topic, qos, retain } => self.program_publishes(topic, qos, retain),
            Op::Partition { ms } => self.frozen_until = self.now + ms * 1_000,
            Op::SlowDisk { ms } => self.sync_us = ms * 1_000,
            Op::FailSync => self.sync_fails = true,
            Op::Crash { down_ms } => self.kill(down_ms * 1_000),
        }
    }

    pub(super) fn connect(&mut self, client: usize, mut wishes: Wishes) {
        let unheard = |link| self.clients[client].heard_on.is_none_or(|heard| heard < link);
        if self.clients[client].tried_clean || self.model.began_on(client).is_some_and(unheard) {
            // Its session may be one that it was never told of: a prudent client begins anew.
            wishes.clean = true;
        }
        let now = self.clock();
        let address = Peer::default();
        let mut random = self.random.fork(key::CONNECTION + client as u64).fork(self.now);
        let shard = random.below(self.shards.len() as u64) as usize;
        let Some(broker) = &mut self.shards[shard].broker else { return };
        self.inputs += 1;
        let Ok(id) = broker.accept(now, address) else { return };
        let link = self.links.len();
        let plan = &self.clients[client].plan;
        self.model.opened(self.now, link, client, plan);
        self.links.push(Link {
            client,
            shard,
            id: Some(id),
            up: Pipe::new(random.fork(1), plan.latency_ms),
            down: Pipe::new(random.fork(2), plan.latency_ms),
            going_in: Vec::new(),
            coming_out: Vec::new(),
            arriving: Vec::new(),
            client_open: true,
            full: false,
            nonsense: false,
            closing: false,
            moving: false,
            lost: None,
        });
        self.by_id.insert((shard, id), link);
        let bytes = self.clients[client].connect(link, wishes);
        self.client_writes(client, &bytes);
        let keep_alive = u64::from(self.clients[client].plan.keep_alive_s);
        if keep_alive > 0 {
            self.schedule(self.now + keep_alive * 700_000, Event::Ping(link));
        }
    }

    pub(super) fn client_writes(&mut self, client: usize, bytes: &[u8]) {
        let Some(link) = self.clients[client].link else { return };
        if self.links[link].up.fin.is_none() {
            for due in self.links[link].up.write(self.now, bytes) {
                self.schedule(due, Event::Up(link));
            }
        }
    }

    fn speaks_v5(&self, client: usize) -> bool {
        self.clients[client].plan.version == Version::V5
    }

    /// Announces a letter to the model, which names it; without `padding` it has no payload and so no name.
    fn write_letter(&mut self, client: usize, letter: Letter, padding: Option<usize>) -> Letter {
        let v5 = self.speaks_v5(client);
        let expiry_s = if v5 { letter.expiry_s } else { 0 };
        let dress = if v5 { letter.dress } else { Dress::default() };
        let Some(padding) = padding else { return Letter { expiry_s, dress: Dress::default(), ..letter } };
        let message = self.model.announce(Announced {
            publisher: Some(client),
            topic: letter.topic.into(),
            qos: letter.qos,
            retain: letter.retain,
            expiry_s,
            padding,
            dress,
        });
        Letter { message: Some(message), payload: payload(message, padding), expiry_s, dress, ..letter }
    }

    fn publish(&mut self, client: usize, letter: Letter, padding: Option<usize>) {
        if self.clients[client].connected {
            let letter = self.write_letter(client, letter, padding);
            let bytes = self.clients[client].publish(letter);
            self.client_writes(client, &bytes);
        }
    }

    /// A client uses a Packet Identifier that is in flight.
    fn reuse(&mut self, client: usize, topic: &'static str, subscribe: bool) {
        if self.script.profile.asks() && !subscribe {
            // Which of two messages was allowed would be anybody's guess.
            return;
        }
        let Some(packet_id) = self.clients[client].can_reuse(subscribe) else { return };
        let bytes = if subscribe {
            let (qos, retain_handling) = (QoS::AtLeastOnce, 2);
            let wish =
                Wish { filter: topic, qos, no_local: false, retain_as_published: false, retain_handling };
            self.clients[client].subscribe_as(packet_id, &[wish], 0)
        } else {
            let letter = Letter::new(topic, QoS::ExactlyOnce);
            let letter = self.write_letter(client, letter, Some(0));
            self.clients[client].publish_as(packet_id, &letter)
        };
        self.client_writes(client, &bytes);
    }

    fn program_publishes(&mut self, topic: &str, qos: QoS, retain: bool) {
        let padding = 3;
        let announced = Announced { topic: topic.into(), qos, retain, padding, ..Announced::default() };
        let number = self.model.announce(announced);
        let Ok(message) = Message::new(topic, &payload(number, padding), qos, retain) else { return };
        let now = self.clock();
        let Some(shard) = self.turn().next() else { return };
        let Some(broker) = &mut self.shards[shard].broker else { return };
        self.inputs += 1;
        self.digest.number(number as u64);
        self.model.program_published(self.now, number, true);
        if broker.publish(now, message, Origin::Program).is_err() {
            self.model.drops();
        }
    }

    pub(super) fn say_goodbye(&mut self, client: usize, with_will: bool) {
        let Some(link) = self.clients[client].link else { return };
        if self.clients[client].connected {
            let bytes = self.clients[client].disconnect(with_will);
            self.client_writes(client, &bytes);
        }
        self.client_closes(link);
    }

    fn client_closes(&mut self, link: usize) {
        let client = self.links[link].client;
        if self.clients[client].link == Some(link) {
            self.clients[client].lose_connection();
        }
        if std::mem::take(&mut self.links[link].client_open) {
            self.links[link].down.lose();
            let due = self.links[link].up.close(self.now);
            self.schedule(due, Event::Up(link));
            self.has_room(link);
        }
    }

    /// The connection breaks: what is on the way is lost, and both sides are told.
    fn cut(&mut self, client: usize) {
        let Some(index) = self.clients[client].link else { return };
        self.clients[client].lose_connection();
        let link = &mut self.links[index];
        link.client_open = false;
        link.up.lose();
        link.down.lose();
        self.disconnected(index, Disconnect::Error);
    }

    fn garbage(&mut self, client: usize, kind: u8) {
        if self.clients[client].link.is_none() || !self.clients[client].connected {
            return;
        }
        let nonsense: &[&[u8]] = &[
            b"\x00\x00",
            b"\xF0\xFF\xFF\xFF\xFF",
            b"\x82\x02\x00\x00",
            b"\x36\x03\x00\x01a",
            b"\x30\x04\x00\x02a\xFF",
            b"\x62\x02\x00\x00",
            b"\xC1\x00",
        ];
        let bytes = nonsense[usize::from(kind) % nonsense.len()];
        self.client_writes(client, bytes);
    }

    /// Bytes of the broker arrive at a client.
    pub(super) fn goes_down(&mut self, link: usize) {
        if self.now < self.frozen_until {
            return self.schedule(self.frozen_until, Event::Down(link));
        }
        let client = self.links[link].client;
        let mine = self.clients[client].link == Some(link);
        let stalled_until = self.clients[client].stalled_until;
        if mine && self.now < stalled_until {
            return self.schedule(stalled_until, Event::Down(link));
        }
        // Nobody is left to read what comes on a connection whose client vanished.
        if !mine && self.links[link].client_open && self.links[link].id.is_some() {
            return;
        }
        while let Some(bytes) = self.links[link].down.read(self.now, usize::MAX) {
            if mine {
                self.arrives(link, &bytes);
            }
        }
        self.has_room(link);
        if self.links[link].down.ended(self.now) {
            self.client_closes(link);
        }
    }

    fn has_room(&mut self, link: usize) {
        if std::mem::take(&mut self.links[link].full)
            && let Some(id) = self.links[link].id
            && let Some(broker) = &mut self.shards[self.links[link].shard].broker
        {
            self.inputs += 1;
            self.model.has_room(link);
            broker.writable(id);
            self.drain();
        }
    }

    fn arrives(&mut self, link: usize, bytes: &[u8]) {
        let client = self.links[link].client;
        let version = self.clients[client].plan.version;
        self.links[link].arriving.extend_from_slice(bytes);
        loop {
            let begun = std::mem::take(&mut self.links[link].arriving);
            let Ok(Some(length)) = frame_length(&begun) else {
                self.links[link].arriving = begun;
                return;
            };
            let Some(packet) = decode(&begun[..length], version) else { return };
            let (reply, delivered) = self.clients[client].receive(self.now, &packet);
            if let Some(delivered) = delivered {
                if client >= self.script.clients.len() {
                    self.found.push((delivered.topic.clone(), name(&delivered.payload)));
                }
                let check = self.model.delivered(link, &delivered.payload, delivered.qos, delivered.retain);
                self.check(check);
            }
            self.client_writes(client, &reply);
            if let Some(due) = self.clients[client].wake_at() {
                self.schedule(due, Event::Think(link));
            }
            self.links[link].arriving = begun[length..].to_vec();
        }
    }

    pub(super) fn think(&mut self, link: usize) {
        let client = self.links[link].client;
        if self.clients[client].link == Some(link) {
            let acks = self.clients[client].due_acks(self.now);
            self.client_writes(client, &acks);
            if let Some(due) = self.clients[client].wake_at() {
                self.schedule(due, Event::Think(link));
            }
        }
    }

    pub(super) fn ping(&mut self, link: usize) {
        let client = self.links[link].client;
        if self.clients[client].link != Some(link) {
            return;
        }
        if self.clients[client].connected {
            let bytes = self.clients[client].ping();
            self.client_writes(client, &bytes);
        }
        let keep_alive = u64::from(self.clients[client].plan.keep_alive_s);
        self.schedule(self.now + keep_alive * 700_000, Event::Ping(link));
    }

    /// The clients that may have a session, by what they said last.
    pub(super) fn persistent(&self) -> BTreeMap<usize, Wishes> {
        let wishes = |(index, client): (usize, &crate::client::Client)| {
            let wishes = client.wishes.clone()?;
            let v5 = client.plan.version == Version::V5;
            let lasts = if v5 { wishes.expiry_s > 0 } else { !wishes.clean };
            lasts.then_some((index, Wishes { clean: false, will: None, ..wishes }))
        };
        self.clients.iter().enumerate().filter_map(wishes).collect()
    }
}
