//! Sessions: when they begin and end, and whether Session Present says so.

use super::{Check, Connecting, Life, LinkState, Micros, Model, Promise, Seq, TOLERANCE, WillState, broken};
use crate::script::Plan;
use culex_core::packet::{Connack, Connect, Disconnect, QoS, ReasonCode, Version};
use std::collections::{BTreeMap, VecDeque};

/// Whether a session is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Yes,
    No,
    Perhaps,
}

impl Model {
    pub(crate) fn life_of(&self, link: usize) -> Option<usize> {
        self.links.get(&link).and_then(|state| state.life)
    }

    /// A connection was accepted.
    pub fn opened(&mut self, now: Micros, link: usize, client: usize, plan: &Plan) {
        self.step(now);
        let v5 = plan.version == Version::V5;
        if v5 && plan.packet_bytes_max > 0 {
            self.packet_bytes_max.insert(client, plan.packet_bytes_max as usize);
        }
        self.links.insert(
            link,
            LinkState {
                client,
                version: plan.version,
                receive_maximum: if v5 { plan.receive_maximum } else { u16::MAX },
                keep_alive_s: plan.keep_alive_s,
                connect: None,
                life: None,
                expected: VecDeque::new(),
                aliases: BTreeMap::new(),
                own_aliases: BTreeMap::new(),
                heard_at: now,
                opened_at: now,
                may_close: None,
                must_close: false,
                said_goodbye: false,
                closing: false,
                clogged: false,
                full: false,
                gone: false,
            },
        );
    }

    pub(crate) fn connect_in(&mut self, link: usize, connect: &Connect<'_>) {
        let (seq, now) = (self.seq, self.now);
        let will = connect.will.as_ref().and_then(|will| {
            let message = super::deliveries::name(will.payload)?;
            let delay_s = will.properties.will_delay_interval().unwrap_or(0);
            Some(WillState { message, delay_s, due: None })
        });
        let Some(state) = self.links.get_mut(&link) else { return };
        if state.connect.is_some() {
            // A second CONNECT is a Protocol Error [MQTT-3.1.0-2].
            state.must_close = true;
            return;
        }
        let expiry_s = match connect.version {
            Version::V5 => connect.properties.session_expiry_interval().unwrap_or(0),
            _ if connect.clean_start => 0,
            _ => u32::MAX,
        };
        let clean = connect.clean_start;
        state.connect = Some(Connecting { clean, expiry_s, start: seq, at: now, will, acknowledged: false });
        let client = state.client;
        if let Some(index) = self.current.get(&client)
            && let Some(will) = &self.lives[*index].will
        {
            // When this is accepted the session ends, whatever delay is left, or its connection does.
            let waits = will.delay_s.min(self.lives[*index].expiry_s) > 0;
            let (message, due) = (will.message, will.due.is_some());
            if clean || !due && !waits {
                self.may_be_published(message, seq);
            }
        }
        let rivals = self.links.iter().filter(|(other, state)| **other != link && state.client == client);
        let connecting =
            rivals.filter(|(_, state)| !state.gone).filter_map(|(_, state)| state.connect.as_ref());
        let unknown = connecting.filter(|rival| !rival.acknowledged).filter_map(|rival| rival.will.as_ref());
        let wills: Vec<usize> = unknown.map(|will| will.message).collect();
        for will in wills {
            // It may have been let in, and lost its session to this one, before its CONNACK came out.
            self.may_be_published(will, seq);
        }
        // Whichever of them is let in last takes the session over from the others: the one whose answer comes last, or who is
        // handed over last.
        let rivals = self.links.values().filter(|state| state.client == client && !state.gone).count();
        let asks = self.rules.asks || self.rules.lag_us > 0;
        for (other, state) in &mut self.links {
            if rivals > 1 && state.client == client && !state.gone && (asks || *other != link) {
                state.may_close = Some("takeover");
            }
        }
    }

    /// On which connection the session of a client began.
    #[must_use]
    pub fn began_on(&self, client: usize) -> Option<usize> {
        self.current.get(&client).map(|index| self.lives[*index].first_link)
    }

    fn there(&self, client: usize, connecting: &Connecting) -> There {
        let rivals = self.links.values().filter(|state| state.client == client && !state.gone);
        let mut unknown =
            rivals.filter_map(|state| state.connect.as_ref()).filter(|rival| !rival.acknowledged);
        if unknown.any(|rival| rival.start < connecting.start) {
            // Another CONNECT came before, and what became of it has not come out.
            return There::Perhaps;
        }
        let Some(life) = self.current.get(&client).map(|index| &self.lives[*index]) else { return There::No };
        if life.ended {
            return There::No;
        }
        if !life.sure || !life.begun {
            return There::Perhaps;
        }
        let Some((from, to)) = life.left else {
            // Still connected: whether a session that ends with its connection survives a takeover is left open.
            return if life.expiry_s == 0 { There::Perhaps } else { There::Yes };
        };
        if life.expiry_s == u32::MAX {
            return There::Yes;
        }
        if life.expiry_s == 0 && self.rules.asks {
            return There::Perhaps;
        }
        let expiry = u64::from(life.expiry_s) * 1_000_000;
        if self.now < from + expiry {
            There::Yes
        } else if connecting.at > to + expiry + TOLERANCE {
            There::No
        } else {
            There::Perhaps
        }
    }

    pub(crate) fn connack_out(&mut self, seq: Seq, link: usize, connack: &Connack<'_>) -> Check {
        let Some(state) = self.links.get_mut(&link) else { return Ok(()) };
        let (client, version) = (state.client, state.version);
        let Some(connecting) = state.connect.as_mut().filter(|connecting| !connecting.acknowledged) else {
            if connack.reason.is_error() {
                state.may_close = Some("refused");
                return Ok(());
            }
            return broken(Promise::WellFormed, "a CONNACK without a CONNECT");
        };
        connecting.acknowledged = true;
        let connecting = connecting.clone();
        if connack.reason.is_error() {
            let taken_over = state.may_close == Some("takeover");
            state.may_close = Some("refused");
            state.must_close = true;
            if !self.rules.asks && !self.failed && !taken_over {
                return broken(Promise::Close, format!("CONNECT was refused with {:?}", connack.reason));
            }
            if self.rules.durable {
                // It was refused after it had its effect, which may be on the disk.
                self.doubt(client, &connecting);
            }
            return Ok(());
        }
        self.seen.insert(Promise::SessionPresent);
        let there = self.there(client, &connecting);
        let mut present = connack.session_present;
        let mut sure = true;
        if version == Version::V31 {
            present = !connecting.clean && there != There::No;
            sure = connecting.clean || there != There::Perhaps;
        } else if present && (connecting.clean || there == There::No) {
            let why = if connecting.clean { "a clean start was asked for" } else { "there is none" };
            return broken(
                Promise::SessionPresent,
                format!("client {client} was told of a session, but {why}"),
            );
        } else if !present && !connecting.clean && there == There::Yes {
            return broken(
                Promise::SessionPresent,
                format!("client {client} was told that its session is gone"),
            );
        }
        let old = self.current.get(&client).and_then(|index| self.lives[*index].link);
        if let Some(old) = old.filter(|old| *old != link) {
            // Taken over; that it is closed comes out when its last packet is written.
            self.leave(old, true);
            if let Some(state) = self.links.get_mut(&old) {
                // What still comes in there is not looked at; it must be closed [MQTT-3.1.4-3].
                state.closing = true;
                state.must_close = true;
            }
            self.lives[self.current[&client]].ended = false;
        }
        if present && let Some(index) = self.current.get(&client).copied() {
            self.resume(index, link, &connecting, sure);
        } else {
            if there == There::Perhaps
                && let Some(index) = self.current.get(&client).copied()
            {
                // Another CONNECT may have taken the session up before it ended, and its will with it.
                self.lives[index].sure = false;
            }
            self.begin(seq, client, link, &connecting, sure);
        }
        Ok(())
    }

    fn resume(&mut self, index: usize, link: usize, connecting: &Connecting, sure: bool) {
        self.will_replaced(index);
        let life = &mut self.lives[index];
        life.link = Some(link);
        life.links += 1;
        life.left = None;
        life.expiry_s = connecting.expiry_s;
        life.will = connecting.will.clone();
        life.begun = true;
        life.ended = false;
        life.sure &= sure;
        if !life.sure {
            // It may be another session than the one the model knows.
            life.in_flight.values_mut().for_each(|flight| flight.perhaps_over = true);
        }
        if let Some(state) = self.links.get_mut(&link) {
            state.life = Some(index);
        }
    }

    fn begin(&mut self, seq: Seq, client: usize, link: usize, connecting: &Connecting, sure: bool) {
        if let Some(old) = self.current.get(&client).copied() {
            self.end(old);
        }
        self.lives.push(Life {
            client,
            begun: true,
            born: connecting.start,
            sure,
            expiry_s: connecting.expiry_s,
            ended: false,
            link: Some(link),
            left: None,
            subs: Vec::new(),
            in_flight: BTreeMap::new(),
            inbound: BTreeMap::new(),
            will: connecting.will.clone(),
            sent: BTreeMap::new(),
            order: BTreeMap::new(),
            links: 1,
            first_link: link,
            crashes: 0,
            last_crash: 0,
        });
        let index = self.lives.len() - 1;
        debug_assert!(seq >= connecting.start);
        self.current.insert(client, index);
        if let Some(state) = self.links.get_mut(&link) {
            state.life = Some(index);
        }
    }

    /// A session ends: its will, if it is owed and waits, is published now.
    pub(crate) fn end(&mut self, index: usize) {
        if !self.lives[index].ended {
            self.lives[index].ended = true;
            self.hasten_will(index);
        }
    }

    pub(crate) fn disconnect_in(&mut self, link: usize, disconnect: &Disconnect<'_>) {
        let Some(state) = self.links.get_mut(&link) else { return };
        state.said_goodbye = true;
        state.may_close = Some("DISCONNECT");
        let with_will = disconnect.reason != ReasonCode::Success;
        self.leave(link, with_will);
    }

    /// The machine wants a connection closed.
    ///
    /// # Errors
    /// If there is no reason for it.
    pub fn closes(&mut self, now: Micros, link: usize, timeout: Micros) -> Check {
        self.step(now);
        self.seen.insert(Promise::Close);
        let failed = self.failed || self.dropped;
        let Some(state) = self.links.get_mut(&link) else { return Ok(()) };
        state.closing = true;
        let slept = state.slept(now);
        let connecting = state.connect.as_ref().is_none_or(|connecting| !connecting.acknowledged);
        // A refusal that its socket cannot take is never seen.
        let refused = self.rules.asks && connecting && state.connect.is_some();
        let timed_out = connecting && now.saturating_sub(state.opened_at) + 1_000 >= timeout || refused;
        if !state.gone && state.may_close.is_none() && !state.must_close && !slept && !timed_out && !failed {
            let client = state.client;
            return broken(
                Promise::Close,
                format!("the connection of client {client} was closed for no reason"),
            );
        }
        self.leave(link, true);
        self.perhaps_ignored();
        Ok(())
    }

    /// What came in after a connection was given up, in the same go, was not looked at.
    fn perhaps_ignored(&mut self) {
        let (turn, seq) = (self.turn, self.seq);
        let at_once = |write: &&mut super::retained::Write| write.sure.is_some() && !write.acknowledged;
        for write in self.writes.iter_mut().filter(|write| write.may > turn).filter(at_once) {
            write.sure = None;
            write.closed = Some(seq);
        }
        let unanswered = |publication: &&mut super::Publication| publication.qos == QoS::AtMostOnce;
        for publication in self.publications.iter_mut().filter(unanswered) {
            publication.end = publication.end.filter(|end| *end <= turn);
        }
    }

    /// The machine was told that a connection is gone.
    pub fn gone(&mut self, now: Micros, link: usize) {
        self.step(now);
        self.leave(link, true);
        let Some(state) = self.links.get_mut(&link) else { return };
        state.gone = true;
        let unanswered = state.connect.as_ref().filter(|connecting| !connecting.acknowledged).cloned();
        if let Some(connecting) = unanswered {
            let client = state.client;
            self.doubt(client, &connecting);
        }
    }

    /// A CONNECT went in, and nobody knows what came of it.
    pub(crate) fn doubt(&mut self, client: usize, connecting: &Connecting) {
        if let Some(will) = &connecting.will {
            self.may_be_published(will.message, connecting.start);
        }
        let there = self.there(client, connecting);
        if let Some(index) = self.current.get(&client).copied() {
            if there != There::Yes {
                // It may be a new session, of which its client was never told.
                self.lives[index].first_link = usize::MAX;
            }
            self.lives[index].sure = false;
            self.lives[index].ended = false;
            if let Some(will) = self.lives[index].will.take() {
                self.may_be_published(will.message, connecting.start);
            }
            return;
        }
        let seq = self.seq;
        self.begin(seq, client, usize::MAX, connecting, false);
        let index = self.lives.len() - 1;
        let life = &mut self.lives[index];
        (life.begun, life.link, life.left, life.will) = (false, None, Some((self.now, self.now)), None);
    }

    /// A connection ends: in peace, or owing its will.
    fn leave(&mut self, link: usize, with_will: bool) {
        let now = self.now;
        // While a socket is full it cannot be seen that the broker has given the connection up.
        let clogged = self.links.get(&link).is_some_and(|state| state.clogged);
        let since = if clogged { now.saturating_sub(self.rules.linger_us) } else { now };
        let Some(index) = self.life_of(link) else { return };
        if self.lives[index].link != Some(link) {
            return;
        }
        let client = self.lives[index].client;
        let rivals = self
            .links
            .iter()
            .filter(|(other, state)| **other != link && state.client == client && !state.gone);
        let connecting: Vec<&Connecting> = rivals
            .filter_map(|(_, state)| state.connect.as_ref())
            .filter(|connecting| !connecting.acknowledged)
            .collect();
        let taken_over = !connecting.is_empty();
        let made_anew = connecting.iter().any(|connecting| connecting.clean);
        let asks = self.rules.asks;
        let life = &mut self.lives[index];
        life.link = None;
        life.left = Some((since, now));
        let ends = life.expiry_s == 0;
        if with_will {
            self.will_owed(index, since, now);
            if made_anew && let Some(will) = &self.lives[index].will {
                // The session ends, whatever delay is left.
                self.may_be_published(will.message, self.seq);
            }
        } else {
            self.will_dropped(index);
        }
        if ends && taken_over {
            self.lives[index].sure = false;
            self.hasten_will(index);
        } else if ends && !asks {
            self.end(index);
        }
    }

    /// The broker is killed.
    pub fn crashed(&mut self, now: Micros) {
        let seq = self.step(now);
        self.down = true;
        self.crashes.push(seq);
        let links: Vec<usize> =
            self.links.iter().filter(|(_, state)| !state.gone).map(|(link, _)| *link).collect();
        for link in links {
            let Some(state) = self.links.get_mut(&link) else { continue };
            state.gone = true;
            let client = state.client;
            let unanswered = state.connect.as_ref().filter(|connecting| !connecting.acknowledged).cloned();
            if let Some(connecting) = unanswered {
                self.doubt(client, &connecting);
            }
        }
        let durable_until = self.durable_until;
        for publication in &mut self.publications {
            // Nobody was promised anything of these: they may be lost with what was not on the disk.
            let unpromised = publication.is_will || publication.publisher.is_none();
            if unpromised
                && publication.start.is_some()
                && publication.end.is_none_or(|end| end > durable_until)
            {
                publication.end = None;
                publication.receipts += 1;
            }
        }
        let undone = std::mem::take(&mut self.undone);
        for (message, at) in undone {
            if at > durable_until {
                self.may_be_published(message, seq);
            }
        }
        self.writes_crashed(seq);
        for index in 0..self.lives.len() {
            self.life_crashed(index, seq);
        }
    }

    fn life_crashed(&mut self, index: usize, seq: Seq) {
        let (durable, now) = (self.rules.durable, self.now);
        let life = &mut self.lives[index];
        life.crashes += 1;
        life.last_crash = seq;
        if life.ended && !life.sure {
            return;
        }
        if !durable {
            life.ended = true;
            life.will = None;
            return;
        }
        if life.link.is_some() {
            life.left = Some((now, Micros::MAX / 2));
        } else if let Some((from, _)) = life.left {
            // That it had left may not be on the disk: then it counts as connected until now.
            life.left = Some((from, Micros::MAX / 2));
        }
        for flight in life.in_flight.values_mut() {
            flight.before_crash = true;
        }
    }

    /// The broker is back.
    pub fn restarted(&mut self, now: Micros) {
        self.step(now);
        self.down = false;
        for index in 0..self.lives.len() {
            let life = &mut self.lives[index];
            if life.ended {
                continue;
            }
            if let Some((from, to)) = life.left
                && to > now
            {
                life.left = Some((from, now));
                let (expiry, attached) = (life.expiry_s, life.link.take().is_some());
                if attached {
                    self.will_owed(index, now, now);
                } else {
                    self.will_postponed(index, now);
                }
                if expiry == 0 && self.lives[index].sure {
                    self.end(index);
                }
            }
        }
    }
}
