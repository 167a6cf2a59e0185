//! The machine: inputs go in, the chain works them off, actions and bytes come out.

mod action;
mod close;
mod cx;
mod input;
mod inspect;
mod journal;
mod mount;
mod park;
mod publish_image;
mod query;
mod receive;
mod record;
mod restore;
mod said;
mod short;
mod siblings;
mod snapshot;
mod state;
mod stats;
mod timers;
mod trace;
mod transmit;
mod work;

pub use action::{
    Action, Close, Fetch, Fetched, Forward, Heard, Identifiers, OpenSession, Portion, Queued, Receiver,
    Relay, RelayAck, Reply, Source, SubscribeTopic, TopicSubscribed, TopicUnsubscribed, UnsubscribeTopic,
    What,
};
pub use cx::Cx;
pub use input::{Disconnect, Input, Peer, Refused, ShardMessage};
pub use inspect::{Attached, Flight, Inspection, Stage, Subscribed};
pub(crate) use journal::ToSession;
pub(crate) use mount::seen_below;
pub(crate) use park::Parked;
pub(crate) use publish_image::{Delivery, encode_publish, publish_len};
pub use query::{Access, Answer, Credentials, Notice, Origin, Query};
pub use record::{BadRecord, Effect, Recipient, Record, Relayed, Settled};
pub(crate) use record::{Reader as RecordReader, Writer as RecordWriter};
pub use restore::{RestoreError, Restored, Restoring};
pub(crate) use said::{say_ack, say_interest, say_publish, say_sync};
pub use siblings::Moved;
pub(crate) use siblings::Siblings;
pub use snapshot::BadSnapshot;
pub use stats::Stats;
pub use timers::{Owner, TimerId};
pub use trace::{Fate, Traced};
pub use transmit::Transmit;

use crate::config::Config;
use crate::connection::Phase;
use crate::error::Misuse;
use crate::hash::Seed;
use crate::id::{ConnectionId, LogSeq, SessionId};
use crate::message::Message;
use crate::middleware::{Flow, Hooks, Stack};
use crate::packet::{ReasonCode, SubscriptionOptions, Version};
use crate::session::Session;
use crate::time::{Mono, Now};
use crate::topic::Filter;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use short::Short;
use state::{MACHINE, READ_BYTES};
pub(crate) use state::{Outlets, State};

/// All protocol and routing state of one shard: a pure state machine.
///
/// Feed it inputs, then drain [`poll_action`](Self::poll_action) and [`poll_transmit`](Self::poll_transmit). Any
/// input may follow any other, and draining late only delays. It is `Send` and not meant to be shared: give it a
/// thread of its own, never a lock.
///
/// What a peer does is never an error: it becomes a reason code and a close. Ids that are no longer valid are ignored.
pub struct Broker {
    state: State,
    stack: Stack,
    short: Short,
}

impl fmt::Debug for Broker {
    // What it holds of its clients and its seed is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("connections", &self.connections())
            .field("sessions", &self.sessions())
            .field("stack", &self.stack)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// A machine with its chain. All its random choices and hash keys derive from `seed`.
    #[must_use]
    pub fn new(config: Arc<Config>, mut stack: Stack, seed: Seed, now: Now) -> Self {
        stack.seal();
        let mut broker = Self { state: State::new(config, seed, now), stack, short: Short::default() };
        broker.state.durable = broker.stack.is_wanted(Hooks::STORE_INDEX);
        for part in 0..broker.stack.len() as u8 {
            broker.stack.part(part).install(&mut Cx { state: &mut broker.state, current: None, part });
        }
        broker.run(None);
        broker
    }

    /// Feeds one input: what the methods below do, as a value.
    pub fn apply(&mut self, now: Now, input: Input) {
        match input {
            Input::Accept(peer) => drop(self.accept(now, peer)),
            Input::Receive { id, bytes } => self.receive(now, id, &bytes),
            Input::Identified { id, peer } => self.identified(now, id, peer),
            Input::Violated { id, violation } => self.violated(now, id, violation),
            Input::Written { id, count } => self.written(id, count),
            Input::Writable(id) => self.writable(id),
            Input::Disconnected { id, cause } => self.disconnected(now, id, cause),
            Input::Tick => self.tick(now),
            Input::Complete { ticket, answer } => self.complete(now, ticket, answer),
            Input::Committed(through) => self.committed(now, through),
            Input::CommitFailed(from) => self.commit_failed(now, from),
            Input::Fetched { session, queued } => self.fetched(now, session, queued),
            Input::FromShard { from, message } => self.from_shard(now, from, &message.0),
            Input::Publish { message, origin } => drop(self.publish(now, message, origin)),
            Input::Subscribe(filter) => drop(self.subscribe(now, &filter)),
            Input::Unsubscribe(id) => self.unsubscribe(now, id),
            Input::Shutdown => self.shutdown(now),
        }
    }

    /// A connection was accepted. Report its end by [`disconnected`](Self::disconnected), exactly once.
    ///
    /// # Errors
    /// If it is not wanted: close it without a word.
    pub fn accept(&mut self, now: Now, peer: Peer) -> Result<ConnectionId, Refused> {
        self.begin(now, None);
        let full = self.state.connections.len() >= self.state.config.connections_max as usize
            || self.state.is_listener_full(peer.listener);
        let refused = if self.state.shutting_down {
            Some(Refused::ShuttingDown)
        } else if full {
            Some(Refused::Full)
        } else {
            None
        };
        if let Some(refused) = refused {
            self.state.stats.connections_refused += 1;
            return Err(refused);
        }
        let id = self.state.add_connection(peer.clone());
        self.state.from = Some(id);
        let mut place = self.stack.listeners(Hooks::ACCEPT_INDEX);
        while let Some(part) = self.stack.next(&mut place) {
            let flow = self.stack.part(part).accept(
                &mut Cx { state: &mut self.state, current: None, part },
                id,
                &peer,
            );
            if !matches!(flow, Flow::Next | Flow::Done) {
                self.closed_hooks(id);
                self.state.remove_connection(id);
                self.state.stats.connections_refused += 1;
                self.run(None);
                return Err(Refused::Peer);
            }
        }
        self.state.stats.connections_accepted += 1;
        self.run(None);
        Ok(id)
    }

    /// The layers below MQTT learnt who a peer is, between [`accept`](Self::accept) and its CONNECT: from a PROXY header,
    /// from a client certificate. Its address and identity are replaced; its listener stays what it was. Once CONNECT was
    /// received nothing changes any more, for that was judged by what was known then.
    pub fn identified(&mut self, now: Now, id: ConnectionId, peer: Peer) {
        self.begin(now, Some(id));
        if let Some(connection) = self.state.connections.get_mut(id)
            && connection.phase == Phase::Opened
        {
            connection.peer = Peer { listener: connection.peer.listener, ..peer };
            connection.peer.forget_empty();
        }
    }

    /// Time passed. Call it at [`deadline`](Self::deadline).
    pub fn tick(&mut self, now: Now) {
        self.begin(now, None);
        while let Some((part, owner)) = self.state.timers.pop(now.mono) {
            self.state.from = match owner {
                Owner::Connection(id) => Some(id),
                _ => None,
            };
            if part == MACHINE {
                self.machine_timer(owner);
            } else {
                let mut cx = Cx { state: &mut self.state, current: None, part };
                self.stack.part(part).timer(&mut cx, owner);
            }
            self.run(None);
        }
    }

    fn machine_timer(&mut self, owner: Owner) {
        match owner {
            Owner::Connection(id) => self.linger_over(id),
            Owner::Ticket(ticket) => {
                self.state.stats.asks_timed_out += 1;
                if self.state.tickets.get(ticket).is_some_and(|question| question.outside) {
                    self.state.out.push_back(Action::Forget { ticket });
                }
                self.answer(ticket, Answer::Deny(ReasonCode::NotAuthorized));
            }
            Owner::Session(_) | Owner::Part => {}
        }
    }

    /// Every record up to `through` is durable: what waited for them is sent.
    pub fn committed(&mut self, now: Now, through: LogSeq) {
        self.begin(now, None);
        self.state.committed = self.state.committed.max(through.min(self.state.assigned));
        let committed = self.state.committed;
        self.state.endings.retain(|_, seq| *seq > committed);
        while let Some(entry) = self.state.gates.first_entry() {
            let (through, order) = *entry.key();
            if through > self.state.committed {
                break;
            }
            let (from, action) = entry.remove();
            self.opened(order, from, action);
        }
        self.unstall_all();
    }

    /// Records from `from` on will never be durable, whatever this machine stores from now on: write none of it. What
    /// waited for them is never acknowledged: its connections are closed, and what must be durable is refused from now on.
    pub fn commit_failed(&mut self, now: Now, from: LogSeq) {
        self.begin(now, None);
        self.state.store_failed = true;
        self.state.failed_from = self.state.failed_from.min(from);
        let lost = self.state.gates.split_off(&(from, 0));
        for (_, (connection, _)) in lost {
            if let Some(id) = connection {
                self.close(id, Some(ReasonCode::UnspecifiedError), false);
                self.run(None);
            }
        }
        self.unstall_all();
    }

    /// Messages of a queue were read back, as [`Action::Fetch`] wanted, in their order; none: they could not be. Exactly once
    /// for each such action.
    pub fn fetched(&mut self, now: Now, session: SessionId, queued: Vec<Record>) {
        self.begin(now, None);
        self.state.work.push(Action::Fetched(Box::new(Fetched { session, queued })));
        self.run(None);
    }

    /// The embedding program publishes. Its message is subject to no policy.
    ///
    /// # Errors
    /// The message, if more actions wait for the adapter than `actions_max`.
    pub fn publish(&mut self, now: Now, message: Message, origin: Origin) -> Result<(), Message> {
        self.begin(now, None);
        if self.state.out.len() > self.state.config.actions_max as usize {
            return Err(message);
        }
        let publisher = match origin {
            Origin::Session(session) => Some(session),
            Origin::Program => None,
        };
        self.state.work.push(Action::Relay(Relay::of(message, publisher)));
        self.run(None);
        Ok(())
    }

    /// The embedding program subscribes: matching messages leave as [`Action::Forward`] with the returned id among
    /// the receivers. Shared subscriptions (`$share/…`) and retained messages work as for clients.
    ///
    /// # Errors
    /// [`Misuse::TopicFilter`] if `filter` is not one.
    pub fn subscribe(&mut self, now: Now, filter: &str) -> Result<SessionId, Misuse> {
        let parsed = Filter::parse(filter).map_err(|_| Misuse::TopicFilter)?;
        self.begin(now, None);
        let session = self.state.sessions.insert(Session {
            client_id: Box::default(),
            connection: None,
            version: Version::V5,
            expiry: u32::MAX,
            queued: 0,
            outside: 0,
            subscriptions: 0,
            paging: false,
            program: true,
            stored: false,
            left: None,
        });
        let options = SubscriptionOptions { qos: crate::packet::QoS::ExactlyOnce, ..Default::default() };
        self.state.work.push(Action::SubscribeTopic(Box::new(SubscribeTopic {
            session,
            filter: parsed.filter.into(),
            share: parsed.share.map(Into::into),
            options,
            identifier: None,
        })));
        self.run(None);
        Ok(session)
    }

    /// The embedding program no longer wants a subscription.
    pub fn unsubscribe(&mut self, now: Now, id: SessionId) {
        self.begin(now, None);
        if self.state.sessions.get(id).is_some_and(|session| session.program) {
            self.state.work.push(Action::SessionEnded { session: id });
            self.run(None);
        }
    }

    /// Says goodbye: no connection is accepted from now on, every client is told (0x8B) and closed. Their wills are
    /// published, for they did not say DISCONNECT [MQTT-3.1.2-8].
    pub fn shutdown(&mut self, now: Now) {
        self.begin(now, None);
        self.state.shutting_down = true;
        let ids: Vec<ConnectionId> = self.state.connections.ids().collect();
        for id in ids {
            self.close(id, Some(ReasonCode::ServerShuttingDown), false);
            self.run(None);
        }
    }

    /// Connections that were accepted and not yet reported as disconnected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.connections.len() - self.state.departed
    }

    /// Sessions, the program's subscriptions included.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.state.sessions.len()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.state.stats
    }

    /// The next thing to be done outside.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        // What leaves is complete.
        self.state.relay_record = None;
        if let Some(action) = self.state.out.pop_front() {
            if self.state.out.len() == self.state.config.actions_max as usize {
                self.unstall_all();
            }
            return Some(action);
        }
        if let Some(notice) = self.state.notices.pop_front() {
            return Some(Action::Notice(Box::new(notice)));
        }
        let dropped = core::mem::take(&mut self.state.notices_dropped);
        (dropped > 0).then(|| Action::Notice(Box::new(Notice::Dropped(dropped))))
    }

    /// When to [`tick`](Self::tick) next. Output is not announced here: drain it after every input.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.state.timers.next()
    }

    /// How many bytes of a connection may be given to [`receive`](Self::receive) at once. 0: do not read it until
    /// [`Action::Credit`].
    #[must_use]
    pub fn read_credit(&self, id: ConnectionId) -> usize {
        match self.state.connections.get(id) {
            Some(connection) if connection.stalled => 0,
            _ => READ_BYTES,
        }
    }

    /// Starts an event.
    fn begin(&mut self, now: Now, from: Option<ConnectionId>) {
        self.state.now = now;
        self.state.arrived = now.wall;
        self.state.from = from;
        self.state.relay_record = None;
    }
}
