//! Acknowledgements: each answers what was asked, once, in the order it was asked.

use super::{Check, Model, Promise, Seq, Span, Sub, broken, share};
use culex_core::packet::{Packet, PacketType, Suback, Subscribe, Unsubscribe, Version};
use std::collections::BTreeMap;

/// What the broker still has to say on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    Pingresp,
    Ack { packet: PacketType, packet_id: u16, message: Option<usize>, write: Option<usize> },
    Suback { packet_id: u16, subs: Vec<(usize, Vec<usize>)> },
    Unsuback { packet_id: u16, asked: Seq, subs: Vec<usize> },
}

impl Expected {
    /// PUBACK, PUBREC or PUBCOMP as it came out.
    pub(crate) const fn of(packet: &Packet<'_>, packet_id: u16) -> Self {
        let packet = match packet {
            Packet::Puback(_) => PacketType::Puback,
            Packet::Pubrec(_) => PacketType::Pubrec,
            _ => PacketType::Pubcomp,
        };
        Self::Ack { packet, packet_id, message: None, write: None }
    }

    fn answers(&self, question: &Self) -> bool {
        match (self, question) {
            (Self::Pingresp, Self::Pingresp) => true,
            (Self::Ack { packet, packet_id, .. }, Self::Ack { packet: asked, packet_id: asked_id, .. }) => {
                packet == asked && packet_id == asked_id
            }
            _ => false,
        }
    }
}

impl Model {
    pub(crate) fn expect(&mut self, link: usize, expected: Expected) {
        if let Some(state) = self.links.get_mut(&link) {
            state.expected.push_back(expected);
        }
    }

    /// PINGRESP may overtake: it is never held back. Everything else waits its turn.
    fn take_expected(
        &mut self,
        link: usize,
        answers: impl Fn(&Expected) -> bool,
        what: &str,
    ) -> Result<Expected, super::Broken> {
        let Some(state) = self.links.get_mut(&link) else {
            return broken(Promise::AcknowledgementsInOrder, format!("{what} on an unknown connection"));
        };
        let at = state.expected.iter().position(&answers);
        let held_back = |expected: &Expected| !matches!(expected, Expected::Pingresp);
        match at {
            Some(at)
                if state.expected.iter().take(at).all(|earlier| !held_back(earlier))
                    || what == "PINGRESP" =>
            {
                Ok(state.expected.remove(at).unwrap_or(Expected::Pingresp))
            }
            Some(_) => {
                let first = state.expected.iter().find(|expected| held_back(expected));
                let what = format!("{what} overtakes the answer to {first:?}");
                broken(Promise::AcknowledgementsInOrder, what)
            }
            None => broken(Promise::AcknowledgementsInOrder, format!("{what} answers nothing")),
        }
    }

    pub(crate) fn ack_out(&mut self, seq: Seq, link: usize, ack: &Expected, error: bool) -> Check {
        self.seen.insert(Promise::AcknowledgementsInOrder);
        let what = match ack {
            Expected::Ack { packet, packet_id, .. } => format!("{packet:?} #{packet_id}"),
            _ => "PINGRESP".into(),
        };
        let taken = self.take_expected(link, |expected| ack.answers(expected), &what)?;
        let Expected::Ack { packet, packet_id, message, write } = taken else { return Ok(()) };
        if packet == PacketType::Pubcomp {
            return Ok(());
        }
        // Before 5.0 there is no word for "not authorized": it looks like success.
        let version = self.links.get(&link).map_or(Version::V5, |state| state.version);
        if self.rules.asks && version != Version::V5 {
            return Ok(());
        }
        if let Some(publication) = message.and_then(|message| self.publications.get_mut(message)) {
            if error {
                publication.refused |= publication.arrivals == 1;
                // From now on nobody may get it.
                self.seen.insert(Promise::Refusal);
            } else {
                publication.end.get_or_insert(seq);
                if self.rules.asks {
                    // It may have waited to be looked at, behind what was asked for.
                    publication.start_at = self.now;
                }
            }
        }
        if let Some(write) = write.and_then(|write| self.writes.get_mut(write)) {
            if error {
                write.refused = true;
            } else if write.repeated {
                write.closed.get_or_insert(seq);
            } else {
                write.sure.get_or_insert(seq);
                write.acknowledged = true;
            }
        }
        if error
            && packet == PacketType::Pubrec
            && let Some(life) = self.life_of(link)
        {
            self.lives[life].inbound.remove(&packet_id);
        }
        Ok(())
    }

    pub(crate) fn subscribe_in(&mut self, seq: Seq, link: usize, subscribe: &Subscribe<'_>) {
        let Some(index) = self.life_of(link) else { return };
        let identifier = subscribe.properties.subscription_identifiers().next().map_or(0, |id| id.get());
        let life = &mut self.lives[index];
        let mut subs = Vec::new();
        for (filter, options) in subscribe.filters.iter() {
            let (group, name) = share(filter);
            let mut replaced = Vec::new();
            let mut existed = false;
            for (at, old) in life.subs.iter_mut().enumerate() {
                let same = old.filter == name && old.share.as_deref() == group;
                if same && old.until.is_none_or(|until| until.sure.is_none()) {
                    existed |= old.sure(seq, seq);
                    old.until.get_or_insert(Span { may: seq, sure: None });
                    replaced.push(at);
                }
            }
            life.subs.push(Sub {
                filter: name.into(),
                share: group.map(Into::into),
                qos: options.qos,
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                retain_handling: options.retain_handling as u8,
                identifier,
                from: Span { may: seq, sure: None },
                existed,
                until: None,
            });
            subs.push((life.subs.len() - 1, replaced));
        }
        self.expect(link, Expected::Suback { packet_id: subscribe.packet_id.get(), subs });
    }

    pub(crate) fn suback_out(&mut self, seq: Seq, link: usize, suback: &Suback<'_>) -> Check {
        let id = suback.packet_id.get();
        let answers =
            |expected: &Expected| matches!(expected, Expected::Suback { packet_id, .. } if *packet_id == id);
        let taken = self.take_expected(link, answers, &format!("SUBACK #{id}"))?;
        let Expected::Suback { subs, .. } = taken else { return Ok(()) };
        if subs.len() != suback.reasons.len() {
            return broken(Promise::AcknowledgementsInOrder, "a SUBACK has one reason code per filter");
        }
        let version = self.links.get(&link).map_or(Version::V5, |state| state.version);
        let mute = self.rules.asks && version == Version::V31;
        let Some(index) = self.life_of(link) else { return Ok(()) };
        let pending = self.ends_asked_for(link, index);
        let life = &mut self.lives[index];
        for ((at, replaced), reason) in subs.into_iter().zip(suback.reasons) {
            let granted = *reason < 0x80;
            let asked = life.subs[at].from.may;
            if granted {
                if life.subs[at].qos as u8 != *reason {
                    return broken(Promise::OnlyWhatWasSubscribed, "another QoS was granted than asked for");
                }
                // 3.1 has no word for a refusal.
                if !mute {
                    life.subs[at].from.sure = Some(seq);
                }
            } else {
                let may = life.subs[at].from.may;
                life.subs[at].until = Some(Span { may, sure: Some(seq) });
            }
            for old in replaced {
                match &mut life.subs[old].until {
                    Some(until) if granted && !mute => until.sure = Some(seq),
                    // Unless something else ended it meanwhile.
                    until if !granted && until.is_some_and(|until| until.may == asked) => {
                        *until = pending.get(&old).map(|asked| Span { may: *asked, sure: None });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The subscriptions that what has no answer yet will end, and since when.
    fn ends_asked_for(&self, link: usize, index: usize) -> BTreeMap<usize, Seq> {
        let mut asked_for = BTreeMap::new();
        for expected in self.links.get(&link).into_iter().flat_map(|state| &state.expected) {
            match expected {
                Expected::Unsuback { asked, subs, .. } => {
                    subs.iter().for_each(|at| {
                        asked_for.entry(*at).or_insert(*asked);
                    });
                }
                Expected::Suback { subs, .. } => {
                    for (at, replaced) in subs {
                        let asked = self.lives[index].subs[*at].from.may;
                        replaced.iter().for_each(|old| {
                            asked_for.entry(*old).or_insert(asked);
                        });
                    }
                }
                _ => {}
            }
        }
        asked_for
    }

    pub(crate) fn unsubscribe_in(&mut self, seq: Seq, link: usize, unsubscribe: &Unsubscribe<'_>) {
        let Some(index) = self.life_of(link) else { return };
        let mut subs = Vec::new();
        for filter in unsubscribe.filters.iter() {
            let (group, name) = share(filter);
            for (at, old) in self.lives[index].subs.iter_mut().enumerate() {
                let same = old.filter == name && old.share.as_deref() == group;
                if same && old.until.is_none_or(|until| until.sure.is_none()) {
                    old.until.get_or_insert(Span { may: seq, sure: None });
                    subs.push(at);
                }
            }
        }
        let packet_id = unsubscribe.packet_id.get();
        self.expect(link, Expected::Unsuback { packet_id, asked: self.seq, subs });
    }

    pub(crate) fn unsuback_out(&mut self, seq: Seq, link: usize, id: u16) -> Check {
        let answers = |expected: &Expected| matches!(expected, Expected::Unsuback { packet_id, .. } if *packet_id == id);
        let taken = self.take_expected(link, answers, &format!("UNSUBACK #{id}"))?;
        let Expected::Unsuback { subs, .. } = taken else { return Ok(()) };
        let Some(index) = self.life_of(link) else { return Ok(()) };
        for at in subs {
            if let Some(until) = &mut self.lives[index].subs[at].until {
                until.sure = Some(seq);
            }
        }
        Ok(())
    }
}
