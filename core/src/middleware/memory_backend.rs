//! The backend that keeps everything in memory, and finds receivers.
//!
//! * **listens**: relay, subscribe and unsubscribe topic, store and look up retained, store and look up offline, store
//!   session, store inbound, room, session opened, session ended
//! * **emits**: forward (message, receivers), topic subscribed and unsubscribed, close (queue overflow)
//! * **owns**: the subscription index, the retained messages, the queue of each session and its limits
//!
//! It handles every *store*: nothing falls through to a log. A durable backend does the same and lets a record leave.

use super::{Flow, Hooks, Middleware};
use crate::broker::{
    Action, Cx, Forward, Identifiers, Queued, Receiver, Relay, SubscribeTopic, TopicSubscribed, TopicUnsubscribed,
    What,
};
use crate::config::Overflow;
use crate::hash::Seed;
use crate::id::{Id, SessionId, Table};
use crate::message::Message;
use crate::packet::{ReasonCode, SubscriptionOptions};
use crate::topic::{Retained, SubscriptionIndex};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// See the [module](self).
#[derive(Debug)]
pub struct MemoryBackend {
    index: SubscriptionIndex,
    retained: Retained,
    queues: Table<SessionId, Queue>,
    pages: Table<SessionId, VecDeque<Page>>,
    /// Per place of a session: the relay that touched it last and its position among the receivers.
    stamps: Vec<(u32, u32)>,
    relay: u32,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Queued>,
    bytes: u64,
}

/// Retained messages that are being sent for a subscription, as fast as its client takes them.
#[derive(Debug)]
struct Page {
    filter: Box<str>,
    options: SubscriptionOptions,
    identifiers: Identifiers,
    after: Option<Box<str>>,
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self {
            // Made anew with the machine's seed when it is installed.
            index: SubscriptionIndex::new(Seed(0)),
            retained: Retained::new(),
            queues: Table::default(),
            pages: Table::default(),
            stamps: Vec::new(),
            relay: 0,
        }
    }
}

impl Middleware for MemoryBackend {
    fn name(&self) -> &'static str {
        "MemoryBackend"
    }

    fn wants(&self) -> Hooks {
        Hooks::RELAY
            | Hooks::SUBSCRIBE_TOPIC
            | Hooks::UNSUBSCRIBE_TOPIC
            | Hooks::STORE_RETAINED
            | Hooks::LOOKUP_RETAINED
            | Hooks::STORE_OFFLINE
            | Hooks::LOOKUP_OFFLINE
            | Hooks::STORE_SESSION
            | Hooks::STORE_INBOUND
            | Hooks::ROOM
            | Hooks::SESSION_OPENED
            | Hooks::SESSION_ENDED
    }

    fn install(&mut self, cx: &mut Cx<'_>) {
        self.index = SubscriptionIndex::new(cx.seed());
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        match action {
            Action::Relay(relay) => self.relay(cx, relay),
            Action::SubscribeTopic(topic) => self.subscribe(cx, topic),
            Action::UnsubscribeTopic(topic) => {
                let existed = self.index.unsubscribe(&topic.filter, topic.share.as_deref(), topic.session);
                let topic = (**topic).clone();
                cx.emit(Action::TopicUnsubscribed(Box::new(TopicUnsubscribed { topic, existed })));
            }
            Action::StoreRetained(message) => self.store_retained(cx, message),
            Action::LookupRetained(topic) => {
                let page = Page {
                    filter: topic.filter.clone(),
                    options: topic.options,
                    identifiers: topic.identifier.into(),
                    after: None,
                };
                let pages = self.pages.get_or_insert_with(topic.session, VecDeque::new);
                // A new subscription to the same filter starts over.
                pages.retain(|earlier| earlier.filter != page.filter);
                pages.push_back(page);
                self.send_pages(cx, topic.session);
            }
            Action::StoreOffline { session, queued } => self.push(cx, *session, queued.clone()),
            Action::LookupOffline { session, most } => self.pop(cx, *session, *most),
            Action::Room { session } => {
                self.send_pages(cx, *session);
                return Flow::Next;
            }
            Action::SessionOpened { session, .. } => {
                if self.pages.get(*session).is_some() {
                    cx.emit_last(Action::Room { session: *session });
                }
                return Flow::Next;
            }
            Action::SessionEnded { session } => {
                self.index.remove_session(*session);
                self.queues.remove(*session);
                self.pages.remove(*session);
                return Flow::Next;
            }
            Action::StoreSession { .. } | Action::StoreInbound { .. } => {}
            _ => return Flow::Next,
        }
        Flow::Done
    }
}

impl MemoryBackend {
    /// Finds who gets a message.
    fn relay(&mut self, cx: &mut Cx<'_>, relay: &Relay) {
        let mut receivers = cx.receivers();
        let Some(publication) = cx.publication(&relay.what) else { return };
        self.relay = self.relay.wrapping_add(1);
        if self.relay == 0 {
            self.stamps.clear();
            self.relay = 1;
        }
        let (stamps, this) = (&mut self.stamps, self.relay);
        let (sessions, once) = (&cx.state.sessions, cx.state.config.overlapping_once);
        let connected = |session| sessions.get(session).is_some_and(|session| session.connection.is_some());
        self.index.matches(
            publication.topic,
            |subscription| {
                let (session, options) = (subscription.session, subscription.options);
                // [MQTT-3.8.3-3]
                if options.no_local && relay.publisher == Some(session) {
                    return;
                }
                let qos = options.qos.min(publication.qos);
                // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
                let retain = publication.retain && options.retain_as_published;
                let place = session.index() as usize;
                if place >= stamps.len() {
                    stamps.resize(place + 1, (0, 0));
                }
                let (last, position) = stamps[place];
                if once && last == this {
                    // [MQTT-3.3.4-2]: the highest QoS, [MQTT-3.3.4-3]: all identifiers.
                    let receiver: &mut Receiver = &mut receivers[position as usize];
                    receiver.qos = receiver.qos.max(qos);
                    receiver.retain |= retain;
                    if let Some(identifier) = subscription.identifier {
                        receiver.identifiers.push(identifier);
                    }
                    return;
                }
                stamps[place] = (this, receivers.len() as u32);
                let identifiers = subscription.identifier.into();
                receivers.push(Receiver { session, qos, retain, paged: false, identifiers });
            },
            |member| connected(member.session),
        );
        if receivers.is_empty() {
            cx.recycle(receivers);
        } else {
            cx.matched();
            cx.emit(Action::Forward(Forward { what: relay.what.clone(), receivers }));
        }
    }

    fn subscribe(&mut self, cx: &mut Cx<'_>, topic: &SubscribeTopic) {
        let share = topic.share.as_deref();
        let existed = self.index.subscribe(&topic.filter, share, topic.session, topic.options, topic.identifier);
        cx.emit(Action::TopicSubscribed(Box::new(TopicSubscribed { topic: topic.clone(), existed })));
    }

    fn store_retained(&mut self, cx: &mut Cx<'_>, message: &Message) {
        if message.payload().is_empty() {
            // [MQTT-3.3.1-6], [MQTT-3.3.1-7]
            self.retained.remove(message.topic());
            return;
        }
        let config = cx.config();
        let replaces = self.retained.get(message.topic()).map_or(0, Message::size);
        let messages = self.retained.len() + usize::from(replaces == 0);
        let bytes = self.retained.bytes() + message.size() - replaces;
        if messages > config.retained_messages_max as usize || bytes as u64 > config.retained_bytes_max {
            cx.stats().dropped_retained_full += 1;
            return;
        }
        self.retained.set(message.clone());
    }

    /// Sends retained messages until the client has enough for now.
    fn send_pages(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let Some(pages) = self.pages.get_mut(session) else { return };
        let wall = cx.now().wall;
        let mut sent = 0;
        while let Some(page) = pages.front_mut() {
            let (options, identifiers) = (page.options, &page.identifiers);
            let mut expired = 0;
            let after = self.retained.page(&page.filter, page.after.as_deref(), SCAN_MESSAGES, |message| {
                if message.expired(wall) {
                    expired += 1;
                    return true;
                }
                let qos = options.qos.min(message.qos());
                let identifiers = identifiers.clone();
                // [MQTT-3.3.1-8]: RETAIN says that it is not new.
                let receiver = Receiver { session, qos, retain: true, paged: false, identifiers };
                let what = What::Kept(message.clone());
                cx.emit(Action::Forward(Forward { what, receivers: alloc::vec![receiver] }));
                sent += 1;
                sent < PAGE_MESSAGES
            });
            cx.stats().dropped_expired += expired;
            page.after = after;
            if page.after.is_none() {
                pages.pop_front();
            }
            if sent >= PAGE_MESSAGES {
                break;
            }
        }
        if pages.is_empty() {
            self.pages.remove(session);
        } else {
            // Go on when what was sent has left.
            cx.emit_last(Action::WantRoom { session });
        }
    }

    fn push(&mut self, cx: &mut Cx<'_>, session: SessionId, queued: Queued) {
        let queue = self.queues.get_or_insert_with(session, Queue::default);
        let size = cost(&queued);
        let (most, bytes_max) = (cx.config().queue_messages_max as usize, cx.config().queue_bytes_max);
        while queue.messages.len() >= most || queue.bytes + size > bytes_max {
            cx.stats().dropped_queue_full += 1;
            let oldest = match cx.config().queue_overflow {
                Overflow::DropOldest => queue.messages.pop_front(),
                Overflow::DropNewest => None,
                Overflow::Disconnect => {
                    if let Some(id) = cx.session(session).and_then(|session| session.connection) {
                        cx.close_client(id, ReasonCode::QuotaExceeded);
                    }
                    None
                }
            };
            match oldest {
                Some(oldest) => queue.bytes -= cost(&oldest),
                None => return,
            }
        }
        cx.stats().queued += 1;
        queue.bytes += size;
        queue.messages.push_back(queued);
        note_length(cx, session, queue);
    }

    fn pop(&mut self, cx: &mut Cx<'_>, session: SessionId, most: u32) {
        let Some(queue) = self.queues.get_mut(session) else { return };
        let wall = cx.now().wall;
        let mut taken = 0;
        while taken < most
            && let Some(queued) = queue.messages.pop_front()
        {
            queue.bytes -= cost(&queued);
            if queued.message.expired(wall) {
                // [MQTT-3.3.2-5]
                cx.stats().dropped_expired += 1;
                continue;
            }
            taken += 1;
            let Queued { message, qos, retain, identifiers } = queued;
            let receiver = Receiver { session, qos, retain, paged: true, identifiers };
            cx.emit(Action::Forward(Forward { what: What::Kept(message), receivers: alloc::vec![receiver] }));
        }
        note_length(cx, session, queue);
        let more = !queue.messages.is_empty();
        if !more {
            self.queues.remove(session);
        }
        if more || self.pages.get(session).is_some() {
            cx.emit_last(Action::WantRoom { session });
        }
    }
}

fn note_length(cx: &mut Cx<'_>, session: SessionId, queue: &Queue) {
    if let Some(session) = cx.session_mut(session) {
        session.queued = queue.messages.len() as u32;
    }
}

/// Bytes a queued message costs: its share of a message is not known, so it counts whole.
fn cost(queued: &Queued) -> u64 {
    (queued.message.size() + size_of::<Queued>()) as u64
}

/// Retained messages sent at once, before the client has to take them.
const PAGE_MESSAGES: usize = 128;
/// Topics looked at in one go.
const SCAN_MESSAGES: usize = 4_096;

