//! Messages: who publishes them, and whether what comes out is what somebody subscribed to.

use super::{
    Broken, Check, Flight, Lagging, Model, Phase, Promise, Publication, Sent, Seq, Sub, TOLERANCE, broken,
    matches,
};
use crate::model::acks::Expected;
use culex_core::packet::{Packet, PacketId, PacketType, PropertiesBuf, Property, Publish, QoS, Version};
use std::num::NonZeroU32;

/// What names a message, at the beginning of its payload.
#[must_use]
pub fn name(payload: &[u8]) -> Option<usize> {
    std::str::from_utf8(payload.get(..NAME_BYTES)?).ok()?.parse().ok()
}

/// The payload of a message: its name and so many bytes more.
#[must_use]
pub fn payload(message: usize, padding: usize) -> Vec<u8> {
    let mut payload = format!("{message:0NAME_BYTES$}").into_bytes();
    payload.resize(NAME_BYTES + padding, b'-');
    payload
}

const NAME_BYTES: usize = 6;

/// What a PUBLISH of the broker is to its session.
enum Outgoing {
    New,
    Repeated,
}

/// The subscriptions that may ask for a PUBLISH.
struct Asking {
    /// Those that may be in force for the message, whatever its QoS and flags.
    in_force: Vec<Sub>,
    /// Those that may ask for just this, as it is published.
    live: Vec<Sub>,
    /// Those that may ask for just this, because it is retained.
    stored: Vec<Sub>,
    /// How many could ask for it because it is retained, whatever its QoS.
    storable: usize,
    /// RETAIN is missing.
    unflagged: bool,
}

/// A PUBLISH of the broker, as far as the checks look at it.
struct Seen<'a> {
    topic: &'a str,
    qos: QoS,
    retain: bool,
    dup: bool,
    packet_id: u16,
    identifiers: Vec<u32>,
}

impl Model {
    pub(crate) fn publish_in(&mut self, seq: Seq, link: usize, publish: &Publish<'_>) {
        let Some(index) = self.life_of(link) else { return };
        let message = name(&publish.payload);
        let topic = self.topic_in(link, publish);
        let packet_id = publish.packet_id.map_or(0, std::num::NonZero::get);
        let mistake = publish.qos == QoS::ExactlyOnce && self.is_mistake(index, packet_id, message);
        if mistake && self.is_surely_held(index, packet_id) && !publish.dup {
            // It counts as a repetition of the message that has the Packet Identifier [MQTT-4.3.3-10].
            let packet = PacketType::Pubrec;
            return self.expect(link, Expected::Ack { packet, packet_id, message: None, write: None });
        }
        let crash = self.lives[index].last_crash;
        let mut known = false;
        let mut crashed = false;
        if publish.qos == QoS::ExactlyOnce {
            match self.lives[index].inbound.get(&packet_id) {
                Some((same, since)) if *same == message => (known, crashed) = (true, *since < crash),
                // It may count as a repetition, or not.
                Some(_) => (known, crashed) = (true, true),
                None => {}
            }
            if !known || crashed {
                self.lives[index].inbound.insert(packet_id, (message, seq));
            }
        }
        if let Some(publication) = message.and_then(|message| self.publications.get_mut(message)) {
            publication.arrivals += 1;
            publication.refused = false;
            publication.start_at = self.now;
        }
        let mut write = None;
        if !known || crashed {
            if publish.retain {
                let at = self.write_topic(topic, message, seq);
                self.writes[at].repeated = known;
                // Who was given up, for a takeover for instance, and whose socket cannot be told, is no longer heard.
                let heard = self.links.get(&link).is_some_and(|state| state.may_close.is_none());
                if publish.qos == QoS::AtMostOnce && !self.rules.asks && heard {
                    self.will_be_known(Lagging::Write(at));
                }
                write = Some(at);
            }
            self.received_message(seq, Some(index), message, publish.qos);
        }
        let packet = match publish.qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => PacketType::Puback,
            QoS::ExactlyOnce => PacketType::Pubrec,
        };
        self.expect(link, Expected::Ack { packet, packet_id, message, write });
    }

    /// The topic of a client's PUBLISH, behind its alias.
    fn topic_in(&mut self, link: usize, publish: &Publish<'_>) -> String {
        let topic = publish.topic.to_string();
        let Some(state) = self.links.get_mut(&link) else { return topic };
        match publish.properties.topic_alias() {
            Some(alias) if topic.is_empty() => state.own_aliases.get(&alias).cloned().unwrap_or_default(),
            Some(alias) => {
                state.own_aliases.insert(alias, topic.clone());
                topic
            }
            None => topic,
        }
    }

    /// A client's mistake: a Packet Identifier between PUBLISH and PUBREL has another message. Of both nobody knows whether
    /// the broker took them, unless it is sure.
    fn is_mistake(&mut self, index: usize, packet_id: u16, message: Option<usize>) -> bool {
        let Some((first, _)) = self.lives[index].inbound.get(&packet_id).copied() else { return false };
        if first == message {
            return false;
        }
        if !self.is_surely_held(index, packet_id) {
            for message in [first, message].into_iter().flatten() {
                if let Some(publication) = self.publications.get_mut(message) {
                    publication.mistaken = true;
                }
            }
        }
        true
    }

    /// Whether the broker has accepted a message with this Packet Identifier, and nothing happened since that it may have
    /// forgotten it over.
    fn is_surely_held(&self, index: usize, packet_id: u16) -> bool {
        let life = &self.lives[index];
        let sure = life.sure && !self.rules.asks && !self.failed;
        sure && life.inbound.get(&packet_id).is_some_and(|(_, since)| *since >= life.last_crash)
    }

    fn received_message(&mut self, seq: Seq, life: Option<usize>, message: Option<usize>, qos: QoS) {
        let (now, asks) = (self.now, self.rules.asks);
        let connected: Vec<usize> = self.lives.iter().filter_map(|life| life.link).collect();
        let Some(publication) = message.and_then(|message| self.publications.get_mut(message)) else {
            return;
        };
        publication.start.get_or_insert(seq);
        publication.start_at = now;
        // In another session nobody knows its Packet Identifier: there it is a new message.
        if qos != QoS::ExactlyOnce || publication.receipts == 0 || publication.received_by != life {
            publication.receipts += 1;
        }
        publication.received_by = life;
        if let (QoS::AtMostOnce, false, Some(message)) = (qos, asks, message) {
            publication.links = connected;
            self.will_be_known(Lagging::Message(message));
        }
    }

    /// The program around the broker published a message; `taken`: the broker did not refuse it.
    pub fn program_published(&mut self, now: u64, message: usize, taken: bool) {
        let seq = self.step(now);
        if !taken {
            return;
        }
        self.received_message(seq, None, Some(message), QoS::AtMostOnce);
        self.will_be_known(Lagging::Message(message));
        if self.publications[message].retain {
            let write = self.write(message, seq);
            self.will_be_known(Lagging::Write(write));
        }
    }

    /// Nobody is told when something was done: at once where there is one machine, else when all have heard of it.
    fn will_be_known(&mut self, what: Lagging) {
        self.lagging.push_back((self.now + self.rules.lag_us, what));
        self.all_know();
    }

    /// What all machines have heard of by now.
    pub(crate) fn all_know(&mut self) {
        while let Some((due, what)) = self.lagging.front().copied()
            && due <= self.now
        {
            self.lagging.pop_front();
            match what {
                Lagging::Message(message) => self.publications[message].end = Some(self.seq),
                Lagging::Write(write) => drop(self.writes[write].sure.get_or_insert(self.seq)),
            }
        }
    }

    pub(crate) fn received(&mut self, link: usize, packet_id: u16) {
        let Some(index) = self.life_of(link) else { return };
        let full = self.links.get(&link).is_some_and(|state| state.full);
        if let Some(flight) = self.lives[index].in_flight.get_mut(&packet_id)
            && flight.phase == Phase::Sent
            && flight.qos == QoS::ExactlyOnce
        {
            flight.phase = Phase::Received;
            flight.before_crash |= full;
        }
    }

    pub(crate) fn released(&mut self, link: usize, packet_id: u16) {
        if let Some(index) = self.life_of(link) {
            self.lives[index].inbound.remove(&packet_id);
        }
        let (message, write) = (None, None);
        self.expect(link, Expected::Ack { packet: PacketType::Pubcomp, packet_id, message, write });
    }

    pub(crate) fn finished(&mut self, link: usize, packet_id: u16, qos: QoS) {
        let Some(index) = self.life_of(link) else { return };
        let full = self.links.get(&link).is_some_and(|state| state.full);
        let in_flight = &mut self.lives[index].in_flight;
        match in_flight.get_mut(&packet_id) {
            Some(flight) if flight.qos == qos && full => {
                (flight.perhaps_over, flight.link) = (true, usize::MAX);
            }
            Some(flight) if flight.qos == qos => drop(in_flight.remove(&packet_id)),
            _ => {}
        }
    }

    pub(crate) fn pubrel_out(&mut self, link: usize, packet_id: u16) -> Check {
        self.seen.insert(Promise::ReleaseOnce);
        let Some(index) = self.life_of(link) else {
            return broken(Promise::WellFormed, "PUBREL before CONNACK");
        };
        if self.is_anybodys_guess(link, index) {
            return Ok(());
        }
        let life = &mut self.lives[index];
        let crashed = life.crashes > 0;
        match life.in_flight.get_mut(&packet_id) {
            Some(flight) if flight.phase != Phase::Sent => {
                flight.phase = Phase::Released;
                flight.link = link;
                Ok(())
            }
            // Its PUBCOMP may have been lost with the broker, or with a connection while the broker was down.
            None if crashed => Ok(()),
            _ => broken(Promise::ReleaseOnce, format!("PUBREL #{packet_id} for what was not received")),
        }
    }

    pub(crate) fn publish_out(&mut self, seq: Seq, link: usize, publish: &Publish<'_>) -> Check {
        let Some(index) = self.life_of(link) else {
            return broken(Promise::WellFormed, "PUBLISH before CONNACK");
        };
        let topic = self.topic(link, publish)?;
        if self.is_anybodys_guess(link, index) || self.lives[index].link != Some(link) {
            // Or it was written before the session was taken over, and comes out only now.
            return Ok(());
        }
        let seen = Seen {
            topic: &topic,
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.packet_id.map_or(0, std::num::NonZero::get),
            identifiers: publish.properties.subscription_identifiers().map(std::num::NonZero::get).collect(),
        };
        let message = name(&publish.payload);
        self.intact_out(link, message, publish)?;
        if let Outgoing::Repeated = self.flight_out(link, index, message, &seen)? {
            return Ok(());
        }
        match message {
            Some(message) if message < self.publications.len() => {
                self.content_out(seq, index, message, &seen)
            }
            // It can only be known by its topic: an empty payload.
            _ => Ok(()),
        }
    }

    /// What arrives is what was published, but for what belongs to the delivery.
    fn intact_out(&mut self, link: usize, message: Option<usize>, publish: &Publish<'_>) -> Check {
        let Some(message) = message else { return Ok(()) };
        let Some(publication) = self.publications.get(message) else { return Ok(()) };
        self.seen.insert(Promise::Unchanged);
        if *publish.payload != *payload(message, publication.padding) {
            let what = format!("message {message}: {} bytes of payload came out", publish.payload.len());
            return broken(Promise::Unchanged, what);
        }
        if self.links.get(&link).is_none_or(|state| state.version != Version::V5) {
            return Ok(());
        }
        if !publication.dress.is_intact(message, &publish.properties) {
            let Publication { dress, .. } = publication;
            let what = format!(
                "message {message} was published with {dress}, and sent with {:?}",
                publish.properties
            );
            return broken(Promise::Unchanged, what);
        }
        // [MQTT-3.3.2-6]: what is left of it.
        let interval = publish.properties.message_expiry_interval();
        if interval.is_some() != (publication.expiry_s > 0) || interval.unwrap_or(0) > publication.expiry_s {
            let what = format!(
                "message {message} expires after {} s, is sent as {interval:?}",
                publication.expiry_s
            );
            return broken(Promise::Expiry, what);
        }
        Ok(())
    }

    /// Whether a client accepts a message in a packet of its own size, with its topic and whatever identifiers.
    pub(crate) fn fits(&self, index: usize, message: usize) -> bool {
        let life = &self.lives[index];
        let Some(most) = self.packet_bytes_max.get(&life.client) else { return true };
        let publication = &self.publications[message];
        let mut properties = PropertiesBuf::new();
        if publication.expiry_s > 0 {
            properties.push(Property::MessageExpiryInterval(publication.expiry_s));
        }
        let identifiers = life.subs.iter().filter_map(|sub| NonZeroU32::new(sub.identifier));
        for identifier in identifiers {
            properties.push(Property::SubscriptionIdentifier(identifier));
        }
        publication.dress.put_on(message, &mut properties);
        let publish = Publish {
            dup: false,
            qos: publication.qos,
            retain: publication.retain,
            topic: publication.topic.as_str().into(),
            packet_id: (publication.qos > QoS::AtMostOnce).then_some(PacketId::MIN),
            properties: properties.as_properties(),
            payload: payload(message, publication.padding).into(),
        };
        let mut bytes = Vec::new();
        Packet::Publish(publish).encode(Version::V5, &mut bytes).is_ok() && bytes.len() <= *most
    }

    /// A CONNACK of 3.1 cannot say whether this is the old session or a new one.
    fn is_anybodys_guess(&self, link: usize, index: usize) -> bool {
        let version = self.links.get(&link).map_or(Version::V5, |state| state.version);
        version == Version::V31 && !self.lives[index].sure
    }

    fn topic(&mut self, link: usize, publish: &Publish<'_>) -> Result<String, Broken> {
        let Some(state) = self.links.get_mut(&link) else { return Ok(publish.topic.to_string()) };
        match publish.properties.topic_alias() {
            Some(alias) if publish.topic.is_empty() => state.aliases.get(&alias).cloned().ok_or(Broken {
                promise: Promise::WellFormed,
                what: format!("topic alias {alias} stands for nothing"),
            }),
            Some(alias) => {
                state.aliases.insert(alias, publish.topic.to_string());
                Ok(publish.topic.to_string())
            }
            None => Ok(publish.topic.to_string()),
        }
    }

    /// Packet Identifiers and DUP.
    fn flight_out(
        &mut self,
        link: usize,
        index: usize,
        message: Option<usize>,
        seen: &Seen<'_>,
    ) -> Result<Outgoing, Broken> {
        let id = seen.packet_id;
        if seen.qos == QoS::AtMostOnce {
            return Ok(Outgoing::New);
        }
        self.seen.insert(Promise::Window);
        let life = &mut self.lives[index];
        let flight = Flight {
            message,
            qos: seen.qos,
            phase: Phase::Sent,
            link,
            before_crash: false,
            perhaps_over: false,
        };
        match life.in_flight.get_mut(&id) {
            Some(known) if known.perhaps_over => {
                let same = known.message == message && known.qos == seen.qos;
                *known = flight;
                if same && seen.dup {
                    return Ok(Outgoing::Repeated);
                }
            }
            Some(known) if known.message == message && known.qos == seen.qos => {
                if known.phase == Phase::Released || known.phase == Phase::Received && !known.before_crash {
                    return broken(Promise::ReleaseOnce, format!("PUBLISH #{id} again after its PUBREC"));
                }
                if known.link == link {
                    return broken(Promise::NoUnmarkedRepetition, format!("#{id} twice on one connection"));
                }
                if !seen.dup && !known.before_crash {
                    return broken(
                        Promise::NoUnmarkedRepetition,
                        format!("#{id} was sent before, without DUP"),
                    );
                }
                known.link = link;
                known.phase = Phase::Sent;
                self.window(link, index)?;
                return Ok(Outgoing::Repeated);
            }
            Some(known) if known.perhaps_over || known.before_crash && known.qos == QoS::AtLeastOnce => {
                *known = flight;
            }
            Some(known) => {
                let what = format!("#{id} is in use for message {:?}, not {message:?}", known.message);
                return broken(Promise::Window, what);
            }
            None if seen.dup && life.links == 1 && life.crashes == 0 => {
                return broken(
                    Promise::NoUnmarkedRepetition,
                    format!("#{id} with DUP, but it was never sent"),
                );
            }
            None => {
                life.in_flight.insert(id, flight);
            }
        }
        self.window(link, index)?;
        Ok(Outgoing::New)
    }

    fn window(&self, link: usize, index: usize) -> Check {
        let maximum = self.links.get(&link).map_or(u16::MAX, |state| state.receive_maximum);
        let maximum = maximum.min(self.rules.in_flight_max);
        let here = self.lives[index].in_flight.values().filter(|flight| flight.link == link).count();
        if here > usize::from(maximum) {
            return broken(Promise::Window, format!("{here} messages in flight, allowed are {maximum}"));
        }
        Ok(())
    }

    fn content_out(&mut self, seq: Seq, index: usize, message: usize, seen: &Seen<'_>) -> Check {
        self.seen.insert(Promise::OnlyWhatWasSubscribed);
        if self.publications[message].is_will && self.perhaps_given_up(message) {
            self.may_be_published(message, seq);
        }
        let client = self.lives[index].client;
        let what = format!("message {message} on {} at {:?} to client {client}", seen.topic, seen.qos);
        let start = self.was_published(index, message, seen, &what)?;
        let asking = self.asking(seq, index, message, seen, start);
        if asking.live.is_empty() && asking.stored.is_empty() || asking.unflagged {
            let subs = &self.lives[index].subs;
            let retain = seen.retain;
            let what = format!("{what} (retain {retain}): no subscription asks for it. {subs:?}");
            return broken(Promise::OnlyWhatWasSubscribed, what);
        }
        let once = self.rules.overlapping_once;
        let merged = if once && !asking.live.is_empty() { &asking.in_force } else { &asking.live };
        identifiers_out(merged, &asking.stored, seen, &what)?;
        // Once for all that match. But where a message came for a member of a group that had left, another is chosen, and a
        // subscription of that one's own may have been served before.
        let again = self.rules.lag_us > 0 && asking.in_force.iter().any(|sub| sub.share.is_some());
        let most = if once { 1 + usize::from(again) } else { usize::MAX };
        let live = asking.in_force.len().min(most);
        self.count_out(index, message, seen, live, asking.storable, &what)?;
        if let [Sub { share: Some(group), filter, .. }] = &asking.live[..]
            && asking.stored.is_empty()
        {
            self.group_out(message, &format!("{group}/{filter}"), &what)?;
        }
        if !seen.retain {
            let shared = asking.live.iter().any(|sub| sub.share.is_some());
            self.order_out(index, message, seen, shared, &what)?;
        }
        Ok(())
    }

    /// Since when a message may be sent, if it may.
    fn was_published(
        &mut self,
        index: usize,
        message: usize,
        seen: &Seen<'_>,
        what: &str,
    ) -> Result<Seq, Broken> {
        use Promise::{Expiry, OnlyWhatWasSubscribed, Refusal, Will};
        let publication = &self.publications[message];
        let Some(start) = publication.start else {
            return match publication.is_will {
                true => broken(Will, format!("{what}: this will is not owed")),
                false => broken(OnlyWhatWasSubscribed, format!("{what}: nobody published it")),
            };
        };
        if publication.refused {
            return broken(Refusal, format!("{what}: it was refused"));
        }
        if publication.topic != seen.topic {
            let what = format!("{what}: it was published to {}", publication.topic);
            return broken(OnlyWhatWasSubscribed, what);
        }
        let expires = publication.start_at + u64::from(publication.expiry_s) * 1_000_000;
        let slow = self.links.values().any(|state| state.life == Some(index) && state.clogged);
        // What may be sent only when it is on the disk was begun when that was asked for.
        let gated = seen.qos == QoS::ExactlyOnce || self.rules.after_commit && seen.qos == QoS::AtLeastOnce;
        let disk = if gated { self.rules.sync_us } else { 0 };
        // What was on its way when a connection ended, or the broker, may have arrived: it is repeated.
        // When a will was published, or what may wait for an answer, nobody knows before it surely was.
        let known = !publication.is_will && !self.rules.asks || publication.end.is_some();
        if publication.expiry_s > 0 {
            self.seen.insert(Expiry);
        }
        if publication.expiry_s > 0 && known && !seen.dup && self.now > expires + TOLERANCE + disk && !slow {
            return broken(Expiry, format!("{what}: it expired {} us ago", self.now - expires));
        }
        Ok(start)
    }

    /// The subscriptions of a session that may ask for what is sent.
    fn asking(&self, seq: Seq, index: usize, message: usize, seen: &Seen<'_>, start: Seq) -> Asking {
        let publication = &self.publications[message];
        let qos = publication.qos;
        // Live: what was in force while it was published; a message published again may match until now.
        let until = if publication.receipts > 1 { seq } else { publication.end.unwrap_or(seq) };
        let own = publication.publisher == Some(self.lives[index].client);
        let once = self.rules.overlapping_once;
        let matching = || self.lives[index].subs.iter().filter(|sub| matches(&sub.filter, seen.topic));
        let in_force: Vec<Sub> =
            matching().filter(|sub| sub.may(start, until) && !(sub.no_local && own)).cloned().collect();
        // One delivery for several subscriptions has the flags of all.
        let flagged = once && in_force.iter().any(|sub| sub.retain_as_published);
        let flag = |sub: &&Sub| publication.retain && (sub.retain_as_published || flagged);
        let asked = |sub: &&Sub| sub.qos.min(qos) == seen.qos;
        let live: Vec<Sub> =
            in_force.iter().filter(asked).filter(|sub| !seen.retain || flag(sub)).cloned().collect();
        let as_published = !live.is_empty() && live.iter().all(|sub| sub.retain_as_published);
        let storable: Vec<&Sub> = matching()
            .filter(|sub| sub.share.is_none() && sub.retain_handling != 2)
            .filter(|sub| !(sub.retain_handling == 1 && sub.existed))
            .filter(|sub| self.possible(seen.topic, sub.from.may, seq).contains(&Some(message)))
            .collect();
        let stored = storable.iter().copied().filter(asked).filter(|_| seen.retain).cloned().collect();
        Asking {
            unflagged: !seen.retain && publication.retain && !once && as_published,
            storable: storable.len(),
            in_force,
            live,
            stored,
        }
    }

    /// The connection whose will this is may have been given up, for a full queue, for silence, for nonsense: that comes out only when
    /// its last packet is written.
    fn perhaps_given_up(&self, message: usize) -> bool {
        let publisher = self.publications[message].publisher;
        let silent = |state: &super::LinkState| state.clogged && (state.slept(self.now) || state.must_close);
        self.dropped
            || self.failed
            || self
                .links
                .values()
                .any(|state| Some(state.client) == publisher && !state.gone && silent(state))
    }

    /// How often one message may go to one session as a new one.
    fn count_out(
        &mut self,
        index: usize,
        message: usize,
        seen: &Seen<'_>,
        live: usize,
        stored: usize,
        what: &str,
    ) -> Check {
        self.seen.insert(Promise::NoUnmarkedRepetition);
        let (live, stored) = (live as u32, stored as u32);
        let life = &mut self.lives[index];
        let receipts = self.publications[message].receipts;
        let live = live * receipts;
        let sent = life.sent.entry(message).or_default();
        if seen.retain {
            sent.retained += 1;
        } else {
            sent.live += 1;
        }
        // At QoS 1 it may have been sent, but neither acknowledged nor on the disk when the broker was killed: whatever asks for
        // it now, at whatever QoS, is on top of that. At QoS 0 it may have been sent before its relay was on the disk: it is not
        // sent so again, but who asks for more since an UNSUBSCRIBE was lost gets it.
        match seen.qos {
            QoS::AtMostOnce => sent.at_most_once += 1,
            QoS::AtLeastOnce => sent.at_least_once += 1,
            QoS::ExactlyOnce => {}
        }
        let unsure = if seen.qos == QoS::AtMostOnce { 0 } else { sent.at_most_once };
        let lost = life.crashes * (sent.at_least_once + unsure).min(live + stored);
        sent.allowed = sent.allowed.max(live + stored + lost);
        let total = sent.live + sent.retained;
        if total > sent.allowed {
            let what = format!("{what} was sent {total} times, allowed are {}", sent.allowed);
            return broken(Promise::NoUnmarkedRepetition, what);
        }
        Ok(())
    }

    fn group_out(&mut self, message: usize, group: &str, what: &str) -> Check {
        self.seen.insert(Promise::OnePerGroup);
        let times = 1 + self.crashes.len() as u32;
        let publication = &mut self.publications[message];
        let count = publication.shared.entry(group.into()).or_default();
        *count += 1;
        if *count > publication.receipts * times {
            return broken(Promise::OnePerGroup, format!("{what} went to {count} members of {group}"));
        }
        Ok(())
    }

    fn order_out(
        &mut self,
        index: usize,
        message: usize,
        seen: &Seen<'_>,
        shared: bool,
        what: &str,
    ) -> Check {
        let publication = &self.publications[message];
        // What was published again may have gone to another member of a group the first time; what was refused before,
        // and the refusal lost, may be accepted later.
        // After a crash a group's members may get what others had before.
        let crashed = shared && self.lives[index].crashes > 0;
        // Of several machines one may choose a member at another that is about to leave: then another is chosen, later.
        let chosen_again = shared && self.rules.lag_us > 0;
        let doubtful = crashed
            || chosen_again
            || publication.receipts > 1
            || self.rules.asks && publication.arrivals > 1;
        if publication.is_will || publication.retain || doubtful {
            return Ok(());
        }
        self.seen.insert(Promise::Order);
        let key = (publication.publisher, seen.topic.to_owned(), publication.qos, seen.qos);
        let life = &mut self.lives[index];
        let first = life.sent.get(&message).is_none_or(|sent| sent.live + sent.retained <= 1);
        let last = life.order.entry(key).or_insert(message);
        if first && message < *last {
            return broken(Promise::Order, format!("{what} comes behind message {last}"));
        }
        *last = message.max(*last);
        Ok(())
    }

    /// The program behind a client got a message.
    ///
    /// # Errors
    /// If it got it too often.
    pub fn delivered(&mut self, link: usize, payload: &[u8], qos: QoS, retain: bool) -> Check {
        let (Some(index), Some(message)) = (self.life_of(link), name(payload)) else { return Ok(()) };
        if self.is_anybodys_guess(link, index) {
            return Ok(());
        }
        let life = &mut self.lives[index];
        let sent: &mut Sent = life.sent.entry(message).or_default();
        sent.app += 1;
        sent.app_retained += u32::from(retain);
        if qos == QoS::ExactlyOnce {
            self.seen.insert(Promise::ExactlyOnce);
            sent.app_exactly_once += 1;
            // 0: it was written before the session was taken over, and nobody looked.
            if sent.allowed > 0 && sent.app_exactly_once > sent.allowed {
                let (client, count) = (life.client, sent.app_exactly_once);
                let what = format!("client {client} got message {message} {count} times at QoS 2");
                return broken(Promise::ExactlyOnce, what);
            }
        }
        Ok(())
    }

    /// The socket of a connection took no more output: what comes out may have been written long ago.
    pub fn clogged(&mut self, link: usize) {
        if let Some(state) = self.links.get_mut(&link) {
            (state.clogged, state.full) = (true, true);
        }
    }

    /// The socket of a connection has room again.
    pub fn has_room(&mut self, link: usize) {
        if let Some(state) = self.links.get_mut(&link) {
            state.full = false;
        }
    }
}

fn identifiers_out(live: &[Sub], stored: &[Sub], seen: &Seen<'_>, what: &str) -> Check {
    let known = |identifier: u32| live.iter().chain(stored).any(|sub| sub.identifier == identifier);
    if let Some(identifier) = seen.identifiers.iter().find(|identifier| !known(**identifier)) {
        let what = format!("{what}: no subscription has the identifier {identifier}");
        return broken(Promise::OnlyWhatWasSubscribed, what);
    }
    let mut both = live.iter().chain(stored);
    if seen.identifiers.is_empty()
        && let Some(first) = both.next()
        && first.identifier != 0
        && both.all(|sub| sub.identifier != 0)
    {
        return broken(Promise::OnlyWhatWasSubscribed, format!("{what}: its identifier is missing"));
    }
    Ok(())
}
