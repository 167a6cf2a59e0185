//! The middleware `MemoryBackend`.

mod queue;
mod restore;

use super::{Flow, Hooks, Middleware};
use crate::broker::{
    Action, Cx, Effect, Forward, Identifiers, Inspection, Owner, Queued, Receiver, Record, Relay, Settled,
    Source, SubscribeTopic, Subscribed, TopicSubscribed, TopicUnsubscribed, Traced, UnsubscribeTopic, What,
};
use crate::connection::Phase;
use crate::hash::Seed;
use crate::id::{Id, SessionId, Table};
use crate::message::{Message, Publication};
use crate::packet::{PacketId, QoS, SubscriptionOptions, Version};
use crate::saved::{Malformed, Reader, Saved, Writer, saved};
use crate::topic::filter::is_filter;
use crate::topic::{Filter, Retained, Subscription, SubscriptionIndex};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::vec::Vec;
use core::num::NonZeroU32;
use queue::Queue;

/// The backend that keeps everything in memory, and finds receivers.
///
/// * **listens**: relay, subscribe and unsubscribe topic, store and look up retained, store and look up offline, store
///   session, store inbound, retained sent, session ended, restore, timer
/// * **emits**: forward (message, receivers), topic subscribed and unsubscribed, close (queue overflow)
/// * **owns**: the subscription index, the retained messages, the queue of each session and its limits
///
/// It handles every *store*: nothing falls through to a log. Its durable twin is [`DurableBackend`](super::DurableBackend);
/// what is journalled here is for that.
#[derive(Debug)]
pub struct MemoryBackend {
    index: SubscriptionIndex,
    retained: Retained,
    queues: Table<SessionId, Box<Queue>>,
    /// Few have any at a time.
    pages: BTreeMap<SessionId, VecDeque<Page>>,
    /// Per place of a session: the relay that touched it last and its position among the receivers.
    stamps: Vec<(u32, u32)>,
    relay: u32,
    /// Where the sweep for expired retained messages goes on; none: it is not under way.
    sweep: Option<Option<Box<str>>>,
}

/// Retained messages that are being sent for a subscription, as fast as its client takes them.
#[derive(Debug)]
struct Page {
    filter: Box<str>,
    options: SubscriptionOptions,
    identifiers: Identifiers,
    after: Option<Box<str>>,
    /// It was begun before a restart: what may have been sent at QoS 0 then is not sent again.
    restored: bool,
}

saved! {
    struct Page { filter, options, identifiers, after, restored }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self {
            // Made anew with the machine's seed when it is installed.
            index: SubscriptionIndex::new(Seed(0)),
            retained: Retained::new(),
            queues: Table::default(),
            pages: BTreeMap::new(),
            stamps: Vec::new(),
            relay: 0,
            sweep: None,
        }
    }
}

impl Middleware for MemoryBackend {
    fn name(&self) -> &'static str {
        "MemoryBackend"
    }

    fn inspect(&self, session: SessionId, found: &mut Inspection) {
        let subscribed = |(share, filter, options, identifier)| Subscribed {
            filter: with_share(share, filter),
            options,
            identifier,
        };
        found.subscriptions = self.index.filters(session).map(subscribed).collect();
        found.subscriptions.sort_by(|a, b| a.filter.cmp(&b.filter));
        if let Some(queue) = self.queues.get(session) {
            queue.inspect(found);
        }
        let pages = self.pages.get(&session).into_iter().flatten();
        found.retained_pages = pages.map(|page| page.filter.clone()).collect();
    }

    fn save(&self, to: &mut Writer<'_>) {
        let Self { index, retained, queues, pages, stamps: _, relay: _, sweep } = self;
        index.save(to);
        retained.save(to);
        queues.save(to);
        pages.save(to);
        sweep.save(to);
    }

    fn load(&mut self, cx: &mut Cx<'_>, from: &mut Reader<'_>) -> Result<(), Malformed> {
        let session = |session| cx.session(session).is_some();
        self.index = SubscriptionIndex::load(cx.seed(), from, session)?;
        self.retained = Saved::load(from)?;
        self.queues = Saved::load(from)?;
        self.pages = Saved::load(from)?;
        self.sweep = Saved::load(from)?;
        let well_formed = |page: &Page| is_filter(&page.filter);
        from.ensure(self.pages.values().flatten().all(well_formed))
    }

    fn shortens(&self) -> Hooks {
        Hooks::RELAY
    }

    fn subscribers(&mut self, topic: &[u8]) -> Option<&[Subscription]> {
        self.index.only_list(topic)
    }

    fn wants(&self) -> Hooks {
        Hooks::RELAY
            | Hooks::SUBSCRIBE_TOPIC
            | Hooks::UNSUBSCRIBE_TOPIC
            | Hooks::STORE_RETAINED
            | Hooks::LOOKUP_RETAINED
            | Hooks::STORE_OFFLINE
            | Hooks::LOOKUP_OFFLINE
            | Hooks::FETCHED
            | Hooks::STORE_SESSION
            | Hooks::STORE_INBOUND
            | Hooks::DROPPED
            | Hooks::RETAINED_SENT
            | Hooks::SESSION_ENDED
            | Hooks::RESTORE
    }

    fn install(&mut self, cx: &mut Cx<'_>) {
        self.index = SubscriptionIndex::new(cx.seed());
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        match action {
            Action::Relay(relay) => self.relay(cx, relay),
            Action::SubscribeTopic(topic) => self.subscribe(cx, topic),
            Action::UnsubscribeTopic(topic) => self.unsubscribe(cx, topic),
            Action::StoreRetained(message) => self.store_retained(cx, message),
            Action::LookupRetained(topic) => self.open_page(cx, topic),
            Action::StoreOffline { session, queued } => self.push(cx, *session, queued.clone()),
            Action::LookupOffline { session, most } => self.pop(cx, *session, *most),
            Action::Fetched(fetched) => self.fetched(cx, fetched),
            Action::SessionEnded { session } => {
                self.end_subscriptions(cx, *session);
                self.queues.remove(*session);
                self.pages.remove(session);
                return Flow::Next;
            }
            Action::StoreSession { session } => store_session(cx, *session),
            Action::StoreInbound { session, packet_id, held } => {
                store_inbound(cx, *session, *packet_id, *held);
            }
            Action::Dropped { session } => {
                cx.journal(*session, |client_id| Record::Dropped { client_id });
            }
            Action::RetainedSent { session, filter } => {
                let filter = filter.clone();
                cx.journal(*session, |client_id| Record::PageEnded { client_id, filter });
            }
            Action::Restore { session: Some(session), record } => {
                self.restore(cx, *session, record);
                return Flow::Next;
            }
            _ => return Flow::Next,
        }
        Flow::Done
    }

    fn timer(&mut self, cx: &mut Cx<'_>, _: Owner) {
        self.sweep(cx);
    }

    fn records(&self, cx: &Cx<'_>, session: Option<SessionId>, each: &mut dyn FnMut(Record)) {
        match session {
            Some(session) if cx.session(session).is_some_and(|state| state.stored) => {
                self.session_records(cx, session, each);
            }
            Some(_) => {}
            None => {
                self.retained.all().filter(|message| !message.expired(cx.now().wall)).for_each(|message| {
                    each(Record::Retained(message.clone()));
                })
            }
        }
    }
}

impl MemoryBackend {
    /// Gives back the memory of expired retained messages, some topics at a time, while there may be any.
    fn sweep(&mut self, cx: &mut Cx<'_>) {
        let Some(after) = self.sweep.take() else { return };
        let after = self.retained.expire(cx.now().wall, after.as_deref(), SCAN_MESSAGES, |message| {
            // Or a log would keep it for ever.
            if cx.durable() {
                let nothing = Message::keep(&Publication { payload: &[], ..message.publication() });
                cx.store(Record::Retained(nothing));
            }
        });
        if after.is_some() || self.retained.expiring() > 0 {
            let ms = if after.is_some() { SWEEP_STEP_MS } else { SWEEP_MS };
            self.sweep = Some(after);
            cx.arm(cx.now().mono.plus_ms(ms), Owner::Part);
        }
    }

    /// Finds who gets a message.
    fn relay(&mut self, cx: &mut Cx<'_>, relay: &Relay) {
        if relay.inbound.is_some() {
            settle(cx, relay);
        }
        let kept;
        let publication = match (&relay.what, cx.current) {
            (What::Current, Some(publication)) => publication,
            (What::Current, None) => return,
            (What::Kept(message), _) => {
                kept = message.publication();
                &kept
            }
        };
        if publication.expired(cx.now().wall) {
            // While it waited for an answer or for the disk [MQTT-3.3.2-5].
            cx.stats().dropped_expired += 1;
            cx.trace(|| Traced::Expired { topic: publication.topic.into(), publisher: relay.publisher });
            return;
        }
        let mut receivers = cx.receivers();
        self.find(cx, relay, publication, &mut receivers);
        cx.trace(|| Traced::Relayed {
            topic: publication.topic.into(),
            qos: publication.qos,
            payload_bytes: publication.payload.len(),
            publisher: relay.publisher,
            receivers: receivers.iter().map(|receiver| receiver.session).collect(),
        });
        if receivers.is_empty() {
            cx.recycle(receivers);
        } else {
            cx.matched();
            cx.emit(Action::Forward(Forward::new(relay.what.clone(), receivers)));
        }
    }

    fn find(
        &mut self,
        cx: &Cx<'_>,
        relay: &Relay,
        publication: &Publication<'_>,
        receivers: &mut Vec<Receiver>,
    ) {
        // Accepted by an earlier machine, which may have passed it on before it died: then at most once is over.
        let again = relay.inbound.is_some() && relay.ack.is_none();
        let receiver = |subscription: &Subscription| {
            let Subscription { session, options, identifier } = *subscription;
            let qos = options.qos.min(publication.qos);
            if !subscription.hears(relay.publisher) || again && qos == QoS::AtMostOnce {
                return None;
            }
            // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
            let retain = publication.retain && options.retain_as_published;
            Some(Receiver { session, qos, retain, source: Source::Relay, identifiers: identifier.into() })
        };
        if relay.portion.is_none()
            && self.index.is_exact()
            && let Some(subscriptions) = self.index.only_list(publication.topic.as_bytes())
        {
            // On one list nobody is twice.
            return receivers.extend(subscriptions.iter().filter_map(receiver));
        }
        self.relay = self.relay.wrapping_add(1);
        if self.relay == 0 {
            self.stamps.clear();
            self.relay = 1;
        }
        let from_here = relay.shard.is_none();
        let groups = relay.portion.as_ref().map_or(&[][..], |portion| &portion.groups);
        // Of another shard's message nobody gets anything by a group that was not chosen for it over there, of one from
        // here by a group for which another shard was chosen.
        let shared = |filter: &str, share: &str| {
            from_here && !groups.iter().any(|group| split_share(group) == Some((share, filter)))
        };
        let (stamps, this) = (&mut self.stamps, self.relay);
        let (sessions, once) = (&cx.state.sessions, cx.state.config.overlapping_once);
        let connected = |member: &Subscription| {
            let session = sessions.get(member.session);
            session.is_some_and(|session| session.connection.is_some() || session.program)
        };
        let mut each = |subscription: Subscription| {
            let Some(new) = receiver(&subscription) else { return };
            let place = new.session.index() as usize;
            if place >= stamps.len() {
                stamps.resize(place + 1, (0, 0));
            }
            let (last, position) = stamps[place];
            if once && last == this {
                // [MQTT-3.3.4-2]: the highest QoS, [MQTT-3.3.4-3]: all identifiers.
                let known: &mut Receiver = &mut receivers[position as usize];
                known.qos = known.qos.max(new.qos);
                known.retain |= new.retain;
                if let Some(identifier) = subscription.identifier {
                    known.identifiers.push(identifier);
                }
                return;
            }
            stamps[place] = (this, receivers.len() as u32);
            receivers.push(new);
        };
        if relay.portion.as_ref().is_none_or(|portion| from_here || portion.plain) {
            self.index.matches_where(publication.topic, &mut each, connected, shared);
        }
        for (share, filter) in groups.iter().filter(|_| !from_here).filter_map(|group| split_share(group)) {
            self.index.choose(filter, share, connected).map(&mut each);
        }
    }

    fn subscribe(&mut self, cx: &mut Cx<'_>, topic: &SubscribeTopic) {
        let share = topic.share.as_deref();
        let existed =
            self.index.subscribe(&topic.filter, share, topic.session, topic.options, topic.identifier);
        self.note_subscriptions(cx, topic.session);
        self.interest(cx, share, &topic.filter);
        let (options, identifier) = topic.to_record();
        cx.journal(topic.session, |client_id| {
            let filter = with_share(share, &topic.filter);
            Record::Subscription { client_id, filter, options, identifier }
        });
        cx.emit(Action::TopicSubscribed(Box::new(TopicSubscribed { topic: topic.clone(), existed })));
    }

    fn unsubscribe(&mut self, cx: &mut Cx<'_>, topic: &UnsubscribeTopic) {
        let (session, share) = (topic.session, topic.share.as_deref());
        let existed = self.remove(cx, session, share, &topic.filter);
        cx.journal(session, |client_id| {
            let filter = with_share(share, &topic.filter);
            Record::Unsubscription { client_id, filter }
        });
        let topic = topic.clone();
        cx.emit(Action::TopicUnsubscribed(Box::new(TopicUnsubscribed { topic, existed })));
    }

    fn remove(&mut self, cx: &mut Cx<'_>, session: SessionId, share: Option<&str>, filter: &str) -> bool {
        let existed = self.index.unsubscribe(filter, share, session);
        if share.is_none() {
            self.end_page(cx, session, filter);
        }
        self.note_subscriptions(cx, session);
        self.interest(cx, share, filter);
        existed
    }

    /// Where there are several shards, the others have to know who wants what.
    fn interest(&self, cx: &mut Cx<'_>, share: Option<&str>, filter: &str) {
        if cx.state.siblings.is_some() {
            let members = self.index.members(filter, share) as u32;
            cx.emit(Action::Interest { filter: with_share(share, filter), members });
        }
    }

    /// A session is over, with all its subscriptions.
    fn end_subscriptions(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let several = cx.state.siblings.is_some();
        let filters: Vec<_> = match several {
            true => {
                self.index.filters(session).map(|(share, filter, ..)| with_share(share, filter)).collect()
            }
            false => Vec::new(),
        };
        self.index.remove_session(session);
        for filter in filters {
            let (share, plain) = split_share(&filter).map_or((None, &*filter), |(s, f)| (Some(s), f));
            self.interest(cx, share, plain);
        }
    }

    fn note_subscriptions(&self, cx: &mut Cx<'_>, session: SessionId) {
        if let Some(state) = cx.session_mut(session) {
            state.subscriptions = self.index.count(session) as u32;
        }
    }

    fn store_retained(&mut self, cx: &mut Cx<'_>, message: &Message) {
        if message.payload().is_empty() {
            // [MQTT-3.3.1-6], [MQTT-3.3.1-7]. Recorded even if there was none: its removal may not be durable yet.
            self.retained.remove(message.topic());
            return cx.journal_retained(message, Effect::Removed);
        }
        let config = cx.config();
        let replaces = self.retained.get(message.topic()).map_or(0, Message::size);
        let messages = self.retained.len() + usize::from(replaces == 0);
        let bytes = self.retained.bytes() + message.size() - replaces;
        let full =
            messages > config.retained_messages_max as usize || bytes as u64 > config.retained_bytes_max;
        // What a log says was kept.
        if full && !cx.state.restoring {
            cx.stats().dropped_retained_full += 1;
            // The retained message of a topic is the last one [MQTT-3.3.1-5]: no older one pretends to be.
            self.retained.remove(message.topic());
            return cx.journal_retained(message, Effect::Removed);
        }
        self.retained.set(message.clone());
        cx.journal_retained(message, Effect::Set);
        if message.expires().is_some() && self.sweep.is_none() {
            self.sweep = Some(None);
            cx.arm(cx.now().mono.plus_ms(SWEEP_MS), Owner::Part);
        }
    }

    /// Begins to send retained messages for a subscription.
    fn open_page(&mut self, cx: &mut Cx<'_>, topic: &SubscribeTopic) {
        let session = topic.session;
        // A new subscription to the same filter starts over. Its page is in the log already, behind the one that ends.
        for _ in 0..self.end_page(cx, session, &topic.filter) {
            cx.journal(session, |client_id| Record::PageEnded { client_id, filter: topic.filter.clone() });
        }
        let identifiers = topic.identifier.into();
        let filter = topic.filter.clone();
        let page = Page { filter, options: topic.options, identifiers, after: None, restored: false };
        self.pages.entry(session).or_default().push_back(page);
        let Some(state) = cx.session_mut(session) else { return };
        state.paging = true;
        if state.program {
            // It takes whatever there is.
            self.send_pages(cx, session, &mut Allowance { messages: u32::MAX, bytes: usize::MAX });
        } else {
            cx.emit(Action::Room { session });
        }
    }

    /// Returns how many of those that ended are in the log: more than one only after a restart.
    fn end_page(&mut self, cx: &mut Cx<'_>, session: SessionId, filter: &str) -> usize {
        let Some(pages) = self.pages.get_mut(&session) else { return 0 };
        let mut recorded = 0;
        pages.retain(|page| {
            let ends = *page.filter == *filter;
            recorded += usize::from(ends && page.options.qos > QoS::AtMostOnce);
            !ends
        });
        if pages.is_empty() {
            self.no_pages(cx, session);
        }
        recorded
    }

    fn no_pages(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        self.pages.remove(&session);
        if let Some(state) = cx.session_mut(session) {
            state.paging = false;
        }
    }

    /// Sends retained messages until the client has enough for now: they pass no queue, so no limit of a queue cuts
    /// them off.
    fn send_pages(&mut self, cx: &mut Cx<'_>, session: SessionId, allowance: &mut Allowance) {
        let Some(pages) = self.pages.get_mut(&session) else { return };
        let wall = cx.now().wall;
        while !allowance.spent()
            && let Some(page) = pages.front_mut()
        {
            let (options, identifiers, restored) = (page.options, &page.identifiers, page.restored);
            let mut expired = 0;
            page.after = self.retained.page(&page.filter, page.after.as_deref(), SCAN_MESSAGES, |message| {
                if message.expired(wall) {
                    expired += 1;
                    return true;
                }
                let qos = options.qos.min(message.qos());
                if restored && qos == QoS::AtMostOnce {
                    return true;
                }
                let identifiers = identifiers.clone();
                // [MQTT-3.3.1-8]: RETAIN says that it is not new.
                let source = Source::Retained;
                let receiver = Receiver { session, qos, retain: true, source, identifiers };
                let what = What::Kept(message.clone());
                cx.emit(Action::Forward(Forward::new(what, alloc::vec![receiver])));
                allowance.take(message);
                !allowance.spent()
            });
            cx.stats().dropped_expired += expired;
            if page.after.is_none()
                && let Some(page) = pages.pop_front()
                && page.options.qos > QoS::AtMostOnce
                && cx.durable()
            {
                // Behind the last of them.
                cx.emit(Action::RetainedSent { session, filter: page.filter });
            }
        }
        if pages.is_empty() {
            self.no_pages(cx, session);
        }
    }

    /// Sends what a session's client can take: from its queue, then what is retained.
    fn pop(&mut self, cx: &mut Cx<'_>, session: SessionId, most: u32) {
        let Some(id) = cx.session(session).and_then(|session| session.connection) else { return };
        // Before its CONNACK it is sent nothing: what left the queue would come back at its end.
        let open = cx.connection(id).filter(|connection| connection.phase == Phase::Connected);
        let Some(waiting) = open.map(|connection| connection.outbox_bytes()) else { return };
        let bytes = (cx.config().outbox_bytes_max as usize).saturating_sub(waiting);
        let mut allowance = Allowance { messages: most, bytes };
        let more = self.pop_queue(cx, session, &mut allowance);
        if self.refill(cx, session) {
            // What is retained comes behind what is read.
            return;
        }
        self.send_pages(cx, session, &mut allowance);
        if more || self.pages.contains_key(&session) {
            // Go on when what was sent has left.
            cx.emit_last(Action::WantRoom { session });
        }
    }
}

fn store_session(cx: &mut Cx<'_>, session: SessionId) {
    let Some((expiry, left)) = cx.session(session).map(|state| (state.expiry, state.left)) else { return };
    cx.journal(session, |client_id| Record::Session { client_id, expiry, left });
}

/// A QoS 2 message is stored when it is accepted: who is told that a repetition would be recognized may forget it.
fn store_inbound(cx: &mut Cx<'_>, session: SessionId, packet_id: PacketId, held: bool) {
    if !cx.durable() {
        return;
    }
    let message = if held { cx.keep(&What::Current) } else { None };
    cx.journal(session, |client_id| match held {
        true => Record::Inbound { client_id, packet_id, message },
        false => Record::InboundGone { client_id, packet_id },
    });
}

/// The relay of an accepted message settles it, in one step with what comes of it.
fn settle(cx: &mut Cx<'_>, relay: &Relay) {
    let (Some(packet_id), Some(session), true) = (relay.inbound, relay.publisher, cx.durable()) else {
        return;
    };
    let state = cx.session(session).filter(|state| state.stored);
    let Some(client_id) = state.map(|state| state.client_id.clone()) else { return };
    if let Some(message) = cx.keep(&relay.what) {
        cx.journal_settled(&message, Settled::Inbound { client_id, packet_id });
    }
}

/// The head of a queue is gone: recorded in its turn, behind those before it that are being sent.
fn dropped(cx: &mut Cx<'_>, session: SessionId, qos: QoS) {
    if cx.durable() && qos > QoS::AtMostOnce {
        cx.emit(Action::Dropped { session });
    }
}

/// A Topic Filter as its client sent it.
/// The ShareName and the Topic Filter of `$share/…/…`.
pub(super) fn split_share(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix("$share/")?.split_once('/')
}

fn with_share(share: Option<&str>, filter: &str) -> Box<str> {
    match share {
        Some(share) => format!("$share/{share}/{filter}").into(),
        None => filter.into(),
    }
}

/// How much a client can take now.
struct Allowance {
    messages: u32,
    bytes: usize,
}

impl Allowance {
    fn spent(&self) -> bool {
        self.messages == 0 || self.bytes == 0
    }

    fn take(&mut self, message: &Message) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(message.size());
    }
}

/// Topics looked at in one go.
const SCAN_MESSAGES: usize = 4_096;
/// From one sweep of the retained messages to the next, and between its steps.
const SWEEP_MS: u64 = 60_000;
const SWEEP_STEP_MS: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::{Stack, tests::Watched};
    use crate::testing::Bench;
    use crate::time::Now;
    use alloc::format;
    use alloc::sync::Arc;

    #[test]
    fn the_keys_of_the_index_derive_from_the_seed_of_the_machine() {
        // Or a peer could choose filters that collide.
        let [known, other, again] = [0, 1, 1].map(|seed| {
            let watched = Watched::new(MemoryBackend::default());
            let stack = Stack::standard().replace("MemoryBackend", watched.clone()).unwrap();
            let mut bench = Bench::with(crate::Config::default(), Stack::standard());
            let now: Now = bench.now;
            bench.broker = crate::Broker::new(Arc::new(crate::Config::default()), stack, Seed(seed), now);
            let alice = bench.connect(Version::V5, "alice");
            for n in 0..100 {
                bench.subscribe(alice, &format!("t/{n}"), QoS::AtMostOnce);
            }
            // The order of a table tells its keys.
            format!("{:?}", watched.part().index)
        });
        assert_eq!(other, again);
        assert_ne!(known, other);
    }

    #[test]
    fn when_the_number_of_a_relay_starts_over_every_receiver_still_gets_its_message_once() {
        // [MQTT-3.3.4-2]: the number tells who has it already.
        let watched = Watched::new(MemoryBackend::default());
        let stack = Stack::standard().replace("MemoryBackend", watched.clone()).unwrap();
        let mut bench = Bench::with(crate::Config::default(), stack);
        let alice = bench.connect(Version::V5, "alice");
        for filter in ["t", "+"] {
            bench.subscribe(alice, filter, QoS::AtMostOnce);
        }
        bench.publish(alice, "t", "1", QoS::AtMostOnce);
        watched.part().relay = u32::MAX - 1;
        for payload in ["2", "3", "4"] {
            bench.publish(alice, "t", payload, QoS::AtMostOnce);
        }
        assert_eq!(bench.messages(alice), ["t: 1", "t: 2", "t: 3", "t: 4"]);
        assert_eq!(watched.part().relay, 2);
    }
}
