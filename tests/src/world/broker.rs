//! The adapter of the simulation: what every runtime does, with faults.

use super::shard::{Shard, Work};
use super::{Event, Question, World, key};
use crate::model::{Broken, Promise};
use crate::net::frame_length;
use crate::random::Digest;
use crate::trace::Kind;
use culex_core::packet::{Frame, Packet, ReasonCode, Version};
use culex_core::{Action, Answer, Close, ConnectionId, Disconnect, Query, Ticket};

impl World<'_> {
    /// Bytes of a client arrive.
    pub(super) fn goes_up(&mut self, link: usize) {
        if self.now < self.frozen_until {
            return self.schedule(self.frozen_until, Event::Up(link));
        }
        loop {
            let Some(id) = self.links[link].id else { return };
            let shard = self.links[link].shard;
            let Some(broker) = &self.shards[shard].broker else { return };
            let credit = broker.read_credit(id);
            let Some(bytes) = self.links[link].up.read(self.now, credit) else { break };
            self.sees_going_in(link, &bytes);
            self.digest.bytes(&bytes);
            self.inputs += 1;
            let now = self.clock();
            if let Some(broker) = &mut self.shards[shard].broker {
                broker.receive(now, id, &bytes);
            }
            self.drain();
        }
        if self.links[link].up.ended(self.now) {
            self.disconnected(link, Disconnect::Eof);
        }
    }

    fn sees_going_in(&mut self, link: usize, bytes: &[u8]) {
        if self.links[link].nonsense {
            return;
        }
        let version = self.clients[self.links[link].client].plan.version;
        self.links[link].going_in.extend_from_slice(bytes);
        loop {
            let begun = std::mem::take(&mut self.links[link].going_in);
            let (length, packet) = match frame_length(&begun) {
                Ok(None) => {
                    self.links[link].going_in = begun;
                    return;
                }
                Ok(Some(length)) => (length, decode(&begun[..length], version)),
                Err(()) => (begun.len(), None),
            };
            let client = self.links[link].client;
            match packet {
                Some(packet) => {
                    self.note(Some(client), Kind::In, || short(&packet));
                    self.model.goes_in(self.now, link, &packet);
                }
                None => {
                    self.note(Some(client), Kind::In, || "nonsense".into());
                    self.links[link].nonsense = true;
                    self.model.nonsense(link);
                    return;
                }
            }
            self.links[link].going_in = begun[length..].to_vec();
        }
    }

    pub(super) fn disconnected(&mut self, link: usize, cause: Disconnect) {
        if self.links[link].moving {
            self.links[link].lost.get_or_insert(cause);
            return;
        }
        let shard = self.links[link].shard;
        let Some(id) = self.links[link].id.take() else { return };
        self.by_id.remove(&(shard, id));
        self.model.gone(self.now, link);
        self.digest.number(0xD15C);
        self.inputs += 1;
        let now = self.clock();
        if let Some(broker) = &mut self.shards[shard].broker {
            broker.disconnected(now, id, cause);
        }
        self.drain();
        let due = self.links[link].down.close(self.now);
        self.schedule(due, Event::Down(link));
    }

    pub(super) fn tick(&mut self, shard: usize) {
        if self.now < self.shards[shard].tick_at {
            return;
        }
        self.shards[shard].tick_at = u64::MAX;
        let now = self.clock();
        self.inputs += 1;
        if let Some(broker) = &mut self.shards[shard].broker {
            broker.tick(now);
        }
    }

    /// Everything the broker wants done is done, everything it wrote is sent.
    pub(super) fn drain(&mut self) {
        for shard in self.turn() {
            self.drain_shard(shard);
        }
    }

    fn drain_shard(&mut self, shard: usize) {
        for _ in 0..100_000 {
            if self.broken.is_some() {
                return;
            }
            let Some(broker) = &mut self.shards[shard].broker else { return };
            if let Some(action) = broker.poll_action() {
                self.obey(shard, action);
            } else if !self.transmit(shard) && !self.takes_along(shard) {
                return self.after_turn(shard);
            }
        }
        self.breaks(Broken { promise: Promise::Bounded, what: "output without end".into() });
    }

    fn after_turn(&mut self, shard: usize) {
        self.look_for_drops(shard);
        let Shard { broker: Some(broker), most, .. } = &mut self.shards[shard] else { return };
        most.look(broker);
        if let Some(deadline) = broker.deadline() {
            // A runtime may be a little late.
            let late = self.random.fork(key::TICK).fork(deadline.0).below(5_000);
            let at = deadline.0.div_ceil(1_000).max(self.now) + if self.settling { 0 } else { late };
            if at < self.shards[shard].tick_at {
                self.shards[shard].tick_at = at;
                self.schedule(at, Event::Tick(shard));
            }
        }
    }

    fn look_for_drops(&mut self, shard: usize) {
        let Some(broker) = &self.shards[shard].broker else { return };
        let stats = broker.stats();
        let dropped = stats.dropped_queue_full + stats.dropped_retained_full;
        if dropped + stats.dropped_slow > 0 {
            self.model.drops();
        }
    }

    fn obey(&mut self, shard: usize, action: Action) {
        match action {
            Action::Close { id, how } => self.close(shard, id, how),
            Action::Store { seq, record } => {
                self.note(None, Kind::Note, || format!("store {}: {record:?}", seq.0));
                self.disk_works(shard, Work::Store(seq, *record));
            }
            Action::Fetch(fetch) => {
                self.note(None, Kind::Note, || format!("read back {fetch:?}"));
                self.disk_works(shard, Work::Fetch(*fetch));
            }
            Action::Ask { ticket, query } => self.asked(shard, ticket, &query),
            Action::Forget { ticket } => {
                let before = self.tickets.len();
                self.tickets.retain(|_, open| (open.shard, open.ticket) != (shard, ticket));
                if self.tickets.len() == before {
                    let what = format!("{ticket:?} was withdrawn, but it was answered or never asked");
                    self.breaks(Broken { promise: Promise::TicketsResolved, what });
                }
            }
            Action::Credit { id } => {
                if let Some(link) = self.by_id.get(&(shard, id)).copied() {
                    self.schedule(self.now, Event::Up(link));
                }
            }
            Action::HandOver { id, shard: to, moved } => self.hands_over(shard, id, to, moved),
            Action::Notice(_) | Action::Forward(_) => {}
            other => self.breaks(Broken {
                promise: Promise::WellFormed,
                what: format!("nobody outside can perform {other:?}"),
            }),
        }
    }

    fn disk_works(&mut self, shard: usize, work: Work) {
        if self.shards[shard].disk.failed {
            return self.is_not_read(shard, &work);
        }
        let disk = &mut self.shards[shard].disk;
        disk.pending.push_back(work);
        let (life, quiet) = (disk.life, disk.is_quiet());
        if quiet {
            disk.busy = true;
            self.schedule(self.now, Event::Sync(shard, life));
        }
    }

    /// What a disk that failed is asked for.
    fn is_not_read(&mut self, shard: usize, work: &Work) {
        let now = self.clock();
        if let (Work::Fetch(fetch), Some(broker)) = (work, &mut self.shards[shard].broker) {
            broker.fetched(now, fetch.session, Vec::new());
        }
    }

    fn close(&mut self, shard: usize, id: ConnectionId, how: Close) {
        let Some(link) = self.by_id.get(&(shard, id)).copied() else { return };
        self.digest.number(0xC105E);
        self.look_for_drops(shard);
        let client = self.links[link].client;
        if !self.links[link].closing {
            self.links[link].closing = true;
            self.note(Some(client), Kind::Note, || format!("the broker closes the connection ({how:?})"));
            let timeout = u64::from(self.config.connect_timeout_ms) * 1_000;
            let check = self.model.closes(self.now, link, timeout);
            self.check(check);
        }
        match how {
            Close::Finish => {
                let due = self.links[link].down.close(self.now);
                self.schedule(due, Event::Down(link));
            }
            Close::Drop => self.disconnected(link, Disconnect::Closed),
        }
    }

    /// Sends what one connection has to say. False: nobody has.
    fn transmit(&mut self, shard: usize) -> bool {
        self.look_for_drops(shard);
        let Some(transmit) = self.shards[shard].broker.as_mut().and_then(culex_core::Broker::poll_transmit)
        else {
            return false;
        };
        let id = transmit.id();
        let offered = transmit.len();
        let Some(link) = self.by_id.get(&(shard, id)).copied() else {
            transmit.written(offered);
            return true;
        };
        let room = self.clients[self.links[link].client].plan.socket_bytes;
        let room = room.saturating_sub(self.links[link].down.bytes);
        // Only what it takes: a socket that takes single bytes is offered much, often.
        let mut bytes = Vec::with_capacity(room.min(offered));
        for chunk in transmit.chunks() {
            bytes.extend_from_slice(&chunk[..chunk.len().min(room - bytes.len())]);
        }
        transmit.written(bytes.len());
        self.digest.number(link as u64);
        self.digest.bytes(&bytes);
        // Acknowledgements may go beyond the limit, by as much as one packet.
        let limit = (self.config.outbox_bytes_max + 2 * self.config.packet_size_max + 4_096) as usize;
        if offered > limit {
            let what = format!("{offered} bytes wait to be written, the limit is {limit}");
            self.breaks(Broken { promise: Promise::Bounded, what });
        }
        if bytes.len() < offered {
            self.links[link].full = true;
            self.model.clogged(link);
        }
        self.sees_coming_out(link, &bytes);
        for due in self.links[link].down.write(self.now, &bytes) {
            self.schedule(due, Event::Down(link));
        }
        true
    }

    fn sees_coming_out(&mut self, link: usize, bytes: &[u8]) {
        let client = self.links[link].client;
        let version = self.clients[client].plan.version;
        self.links[link].coming_out.extend_from_slice(bytes);
        loop {
            let begun = std::mem::take(&mut self.links[link].coming_out);
            let Ok(Some(length)) = frame_length(&begun) else {
                self.links[link].coming_out = begun;
                return;
            };
            let Some(packet) = decode(&begun[..length], version) else {
                let what = format!("client {client} was sent {:02X?}", &begun[..length]);
                return self.breaks(Broken { promise: Promise::WellFormed, what });
            };
            self.note(Some(client), Kind::Out, || short(&packet));
            // [MQTT-3.1.2-24]
            let most = self.clients[client].plan.packet_bytes_max as usize;
            if version == Version::V5 && most > 0 && length > most {
                let what = format!("client {client} accepts {most} bytes and was sent {length}");
                return self.breaks(Broken { promise: Promise::WellFormed, what });
            }
            let check = self.model.comes_out(self.now, link, &packet);
            self.check(check);
            self.links[link].coming_out = begun[length..].to_vec();
        }
    }

    fn asked(&mut self, shard: usize, ticket: Ticket, query: &Query) {
        self.asked += 1;
        let mut random = self.chance_of(query);
        let connecting = matches!(query, Query::Authenticate(_));
        let dice = random.below(100);
        let allow = self.settling || dice < if connecting { 90 } else { 75 };
        let answer = if allow { Answer::Allow } else { Answer::Deny(ReasonCode::NotAuthorized) };
        let number = self.asked;
        self.tickets.insert(number, Question { shard, ticket, answer, asked_at: self.now });
        let never = !self.settling && dice >= 96;
        if !never {
            let wait = if self.settling || random.percent(30) { 0 } else { random.below(300_000) };
            self.schedule(self.now + wait, Event::Answer(number));
        }
    }

    /// What becomes of a question follows from who asks, and when; several at once are counted.
    fn chance_of(&mut self, query: &Query) -> crate::random::Random {
        let mut who = Digest::default();
        match query {
            Query::Authenticate(credentials) => who.bytes(credentials.client_id.as_bytes()),
            Query::Authorize { client_id, .. } => who.bytes(client_id.as_bytes()),
            _ => {}
        }
        let (last, count) = self.asked_at_once;
        self.asked_at_once = (self.now, if last == self.now { count + 1 } else { 0 });
        self.random.fork(key::QUESTION ^ who.0).fork(self.now).fork(self.asked_at_once.1)
    }

    pub(super) fn answer(&mut self, number: u64) {
        let Some(Question { shard, ticket, answer, .. }) = self.tickets.remove(&number) else { return };
        let now = self.clock();
        self.inputs += 1;
        if let Some(broker) = &mut self.shards[shard].broker {
            self.model.tested(Promise::TicketsResolved);
            broker.complete(now, ticket, answer);
        }
    }

    pub(super) fn sync(&mut self, shard: usize, life: u64) {
        let disk = &mut self.shards[shard].disk;
        if life == disk.life {
            disk.begin();
            self.schedule(self.now + self.sync_us, Event::Synced(shard, life));
        }
    }

    pub(super) fn synced(&mut self, shard: usize, life: u64) {
        let now = self.clock();
        let Shard { broker: Some(broker), disk, .. } = &mut self.shards[shard] else { return };
        if life != disk.life {
            return;
        }
        self.inputs += 1;
        let seqs = || {
            disk.writing.iter().filter_map(|work| match work {
                Work::Store(seq, _) => Some(*seq),
                Work::Fetch(_) => None,
            })
        };
        let (first, last) = (seqs().next(), seqs().next_back());
        if let (Some(first), true) = (first, std::mem::take(&mut self.sync_fails)) {
            // Some of it may be there after all; of what comes behind it nothing will be.
            disk.failed = true;
            let unread = std::mem::take(&mut disk.pending);
            broker.commit_failed(now, first);
            unread.iter().for_each(|work| self.is_not_read(shard, work));
            self.model.store_failed();
            self.note(None, Kind::Fault, || "the sync failed".into());
            return self.schedule(self.now + 1_000_000, Event::Kill(100_000));
        }
        let writing = std::mem::take(&mut disk.writing);
        if let Err(what) = disk.write(&writing) {
            return self.breaks(Broken { promise: Promise::Restored, what });
        }
        if let Some(last) = last {
            broker.committed(now, last);
        }
        if let Some(Work::Fetch(fetch)) = writing.last() {
            match disk.fetch(fetch) {
                Ok(queued) => broker.fetched(now, fetch.session, queued),
                Err(what) => return self.breaks(Broken { promise: Promise::Restored, what }),
            }
        }
        disk.busy = !disk.pending.is_empty();
        if disk.busy {
            self.schedule(self.now, Event::Sync(shard, life));
        } else if self.shards.iter().all(|shard| shard.disk.is_quiet()) {
            self.model.all_durable();
        }
    }

    /// The broker dies, all of its shards. Of what was not synced any prefix is on the disk.
    pub(super) fn kill(&mut self, down_us: u64) {
        if self.shards.iter().all(|shard| shard.broker.is_none()) {
            return;
        }
        self.model.crashed(self.now);
        self.note(None, Kind::Fault, || "the broker is killed".into());
        let mut random = self.random.fork(key::CRASH).fork(self.now);
        for shard in 0..self.shards.len() {
            self.shards[shard].dies();
            let disk = &mut self.shards[shard].disk;
            let unsynced: Vec<_> = disk.writing.drain(..).chain(disk.pending.drain(..)).collect();
            let kept = random.below(unsynced.len() as u64 + 1) as usize;
            if let Err(what) = disk.write(&unsynced[..kept]) {
                self.breaks(Broken { promise: Promise::Restored, what });
            }
        }
        self.sync_fails = false;
        self.tickets.clear();
        self.by_id.clear();
        for link in 0..self.links.len() {
            let moved = std::mem::take(&mut self.links[link].moving);
            if self.links[link].id.take().is_some() || moved {
                let due = self.links[link].down.close(self.now);
                self.schedule(due, Event::Down(link));
            }
        }
        self.schedule(self.now + down_us, Event::Start);
    }

    pub(super) fn restart(&mut self) {
        if self.shards.iter().all(|shard| shard.broker.is_none()) {
            self.note(None, Kind::Note, || "the broker is back".into());
            self.model.restarted(self.now);
            self.start();
        }
    }
}

/// A packet, if these bytes are one of this version.
pub(super) fn decode(bytes: &[u8], version: Version) -> Option<Packet<'_>> {
    match culex_core::packet::frame(bytes, u32::MAX).ok()? {
        culex_core::packet::Framed::Whole { frame, .. } => {
            let frame: Frame<'_> = frame;
            Packet::decode(&frame, version).ok()
        }
        culex_core::packet::Framed::Partial { .. } => None,
    }
}

/// A packet in one short line.
pub(super) fn short(packet: &Packet<'_>) -> String {
    let name = |payload: &[u8]| String::from_utf8_lossy(&payload[..payload.len().min(6)]).into_owned();
    match packet {
        Packet::Connect(connect) => {
            let will =
                connect.will.as_ref().map(|will| format!(" will {} to {}", name(will.payload), will.topic));
            let clean = if connect.clean_start { " clean" } else { "" };
            format!("CONNECT{clean}{}", will.unwrap_or_default())
        }
        Packet::Connack(connack) => {
            let present = if connack.session_present { ", session present" } else { "" };
            format!("CONNACK {:?}{present}", connack.reason)
        }
        Packet::Publish(publish) => {
            let id = publish.packet_id.map(|id| format!(" #{id}")).unwrap_or_default();
            let (dup, retain) =
                (if publish.dup { " dup" } else { "" }, if publish.retain { " retain" } else { "" });
            let (qos, topic) = (publish.qos as u8, &publish.topic);
            format!("PUBLISH q{qos}{id}{dup}{retain} {topic}: {}", name(&publish.payload))
        }
        Packet::Puback(ack) => format!("PUBACK #{} {:?}", ack.packet_id, ack.reason),
        Packet::Pubrec(ack) => format!("PUBREC #{} {:?}", ack.packet_id, ack.reason),
        Packet::Pubrel(ack) => format!("PUBREL #{}", ack.packet_id),
        Packet::Pubcomp(ack) => format!("PUBCOMP #{}", ack.packet_id),
        Packet::Subscribe(subscribe) => {
            let filters: Vec<String> = subscribe
                .filters
                .iter()
                .map(|(filter, options)| format!("{filter} q{}", options.qos as u8))
                .collect();
            format!("SUBSCRIBE #{} {}", subscribe.packet_id, filters.join(", "))
        }
        Packet::Suback(suback) => format!("SUBACK #{} {:02X?}", suback.packet_id, suback.reasons),
        Packet::Unsubscribe(unsubscribe) => {
            let filters: Vec<&str> = unsubscribe.filters.iter().collect();
            format!("UNSUBSCRIBE #{} {}", unsubscribe.packet_id, filters.join(", "))
        }
        Packet::Unsuback(unsuback) => format!("UNSUBACK #{}", unsuback.packet_id),
        Packet::Disconnect(disconnect) => format!("DISCONNECT {:?}", disconnect.reason),
        Packet::Pingreq => "PINGREQ".into(),
        Packet::Pingresp => "PINGRESP".into(),
        other => format!("{other:?}"),
    }
}
