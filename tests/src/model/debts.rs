//! What is owed when nothing moves any more.

use super::acks::Expected;
use super::{Check, Micros, Model, Promise, Publication, broken, matches};
use culex_core::packet::QoS;
use std::collections::BTreeSet;

/// How much longer than Keep Alive allows a client may have been silent and still be connected: the broker may not have
/// read it for a while, and waits a little for it to close.
const SILENCE: Micros = 20_000_000;

impl Model {
    /// Everybody who still has a session is back, on one of these connections, and everything that was on its way has
    /// arrived.
    ///
    /// # Errors
    /// If something is still owed.
    pub fn settles(&mut self, calm: bool, alive: &BTreeSet<usize>) -> Check {
        for (link, state) in &self.links {
            if state.must_close && !state.gone {
                return broken(Promise::Close, format!("connection {link} must end and is still open"));
            }
            // [MQTT-3.1.2-22]
            let patience = u64::from(state.keep_alive_s) * 1_500_000 + SILENCE;
            if state.keep_alive_s > 0 && !state.gone && self.now > state.heard_at + patience {
                return broken(Promise::Close, format!("connection {link} is silent and still open"));
            }
        }
        for index in 0..self.lives.len() {
            let attached = self.lives[index].link.is_some_and(|link| alive.contains(&link));
            if self.lives[index].ended || !self.lives[index].sure || !attached {
                continue;
            }
            let flights = &self.lives[index].in_flight;
            if let Some((packet_id, flight)) =
                flights.iter().find(|(_, flight)| !flight.before_crash && !flight.perhaps_over)
            {
                let client = self.lives[index].client;
                let what = format!("client {client}: #{packet_id} is still in flight: {flight:?}");
                return broken(Promise::AcknowledgedIsDelivered, what);
            }
            for message in 0..self.publications.len() {
                self.is_delivered(index, message, calm)?;
            }
            self.retained_is_delivered(index)?;
        }
        for (link, state) in &self.links {
            let unanswered = state.expected.iter().find(|expected| !matches!(expected, Expected::Pingresp));
            if alive.contains(link)
                && let Some(unanswered) = unanswered
            {
                let what = format!("connection {link} still waits for {unanswered:?}");
                return broken(Promise::AcknowledgementsInOrder, what);
            }
        }
        Ok(())
    }

    fn is_delivered(&mut self, index: usize, message: usize, calm: bool) -> Check {
        let life = &self.lives[index];
        let publication = &self.publications[message];
        let (Some(start), Some(end)) = (publication.start, publication.end) else { return Ok(()) };
        if start < life.born || publication.refused || publication.expiry_s > 0 || publication.mistaken {
            return Ok(());
        }
        let own = publication.publisher == Some(life.client);
        let wanted = life.subs.iter().any(|sub| {
            sub.share.is_none()
                && sub.sure(start, end)
                && matches(&sub.filter, &publication.topic)
                && !(sub.no_local && own)
                && (sub.qos.min(publication.qos) > QoS::AtMostOnce || calm && self.stayed(index, publication))
        });
        if !wanted || life.sent.get(&message).is_some_and(|sent| sent.app > 0) {
            let promise = self.owed_by(message);
            self.seen.extend(wanted.then_some(promise));
            return Ok(());
        }
        // What is too large for its client is dropped as if it had been sent [MQTT-3.1.2-25].
        if !self.fits(index, message)
            || self.dropped
            || self.failed && !publication.is_will && publication.publisher.is_none()
        {
            return Ok(());
        }
        let promise = self.owed_by(message);
        let what = format!("client {} never got message {message}: {publication:?}", life.client);
        broken(promise, what)
    }

    /// Why a message is owed.
    fn owed_by(&self, message: usize) -> Promise {
        let publication = &self.publications[message];
        if publication.is_will {
            Promise::Will
        } else if publication.qos == QoS::AtMostOnce {
            Promise::CalmIsComplete
        } else {
            Promise::AcknowledgedIsDelivered
        }
    }

    /// The connection that was there when a message came is still there.
    fn stayed(&self, index: usize, publication: &Publication) -> bool {
        let life = &self.lives[index];
        life.links == 1 && life.link.is_some_and(|link| publication.links.contains(&link))
    }

    /// What was retained when a session subscribed, and still is, has arrived.
    fn retained_is_delivered(&mut self, index: usize) -> Check {
        let life = &self.lives[index];
        for sub in &life.subs {
            let Some(from) = sub.from.sure else { continue };
            let wants = sub.share.is_none() && sub.retain_handling == 0 && sub.sure(from, self.seq);
            if !wants || life.last_crash > sub.from.may || self.dropped {
                continue;
            }
            let mut topics: Vec<&str> = self.writes.iter().map(|write| write.topic.as_str()).collect();
            topics.sort_unstable();
            topics.dedup();
            for topic in topics {
                let possible = self.possible(topic, sub.from.may, self.seq);
                let [Some(message)] = possible[..] else { continue };
                let qos = self.publications[message].qos.min(sub.qos);
                if qos == QoS::AtMostOnce || !matches(&sub.filter, topic) || !self.fits(index, message) {
                    continue;
                }
                self.seen.insert(Promise::RetainedIsLastWrite);
                if life.sent.get(&message).is_none_or(|sent| sent.app_retained == 0) {
                    let what = format!(
                        "client {} subscribed to {} and never got the retained message {message}",
                        life.client, sub.filter
                    );
                    return broken(Promise::RetainedIsLastWrite, what);
                }
            }
        }
        Ok(())
    }
}
