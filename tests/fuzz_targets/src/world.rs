//! The machine and everything around it, as an adapter would be: clients, their output, questions, time.

mod store;

use crate::observer::Observer;
use crate::script::Script;
use culex_core::config::{IdentityUse, ListenerConfig};
use culex_core::middleware::{Authentication, Authorize, Permission, Wanted};
use culex_core::packet::{QoS, ReasonCode};
use culex_core::{
    Action, Answer, Broker, Close, Config, ConnectionId, Disconnect, LogSeq, Message, Now, Origin, Peer,
    Record, Seed, SessionId, Stack, Ticket,
};
use std::sync::Arc;

/// Connections at a time.
pub(crate) const PEERS: usize = 4;
/// The bit of the first byte that says whether the machine stores what it acknowledges.
pub(crate) const DURABLE: u8 = 0x10;
/// The bit that says whether listeners differ.
const LISTENERS: u8 = 0x20;
/// More outputs of one input than any input of this size can cause.
const OUTPUTS_MAX: usize = 1_000_000;

/// One client as the adapter sees it.
struct Client {
    id: ConnectionId,
    observer: Observer,
    /// The machine wants its end to be reported.
    dropped: bool,
}

pub(crate) struct World {
    broker: Broker,
    now: Now,
    clients: [Option<Client>; PEERS],
    stale: Option<ConnectionId>,
    tickets: Vec<Ticket>,
    subscriptions: Vec<SessionId>,
    kind: u8,
    /// The records from the beginning on; how many of them are durable; and whether no more ever will be.
    log: Vec<Record>,
    committed: usize,
    failed: bool,
    /// The log began with records that no machine need have stored.
    restored: bool,
}

/// Of the listeners by which the clients come each is another.
fn listeners() -> Vec<ListenerConfig> {
    let any = ListenerConfig::default;
    vec![
        any(),
        ListenerConfig { mount_point: "a/".into(), identity: IdentityUse::UserName, ..any() },
        ListenerConfig { mount_point: "a/b/".into(), identity: IdentityUse::ClientId, ..any() },
        ListenerConfig { connections_max: 1, packet_size_max: 256, allow_anonymous: false, ..any() },
    ]
}

/// The first byte says how narrow a machine is, whether it asks, and whether it stores.
fn machine(kind: u8, now: Now) -> Broker {
    let mut config = Config { packet_size_max: 2048, ..Config::default() };
    if kind & 1 != 0 {
        config = Config {
            connections_max: 3,
            outbox_bytes_max: 2048,
            receive_maximum: 2,
            in_flight_max: 2,
            queue_messages_max: 3,
            queue_bytes_max: 512,
            topic_alias_maximum: 2,
            topic_alias_outbound_max: 2,
            retained_messages_max: 3,
            retained_bytes_max: 512,
            subscriptions_max: 3,
            topic_levels_max: 4,
            parked_max: 2,
            notices_max: 2,
            actions_max: 8,
            ..config
        };
    }
    if kind & LISTENERS != 0 {
        config.listeners = listeners();
    }
    let mut stack = if kind & DURABLE != 0 { Stack::durable() } else { Stack::standard() };
    if kind & 2 != 0 {
        stack = stack.replace("Authentication", Authentication::ask()).expect("it is in the standard stack");
    }
    if kind & 4 != 0 {
        let ask = |_: &str, _: Option<&str>, _: Wanted<'_>| Permission::Ask;
        stack = stack.replace("Authorize", Authorize::new(ask)).expect("it is in the standard stack");
    }
    assert_eq!(config.check(), Ok(()));
    Broker::new(Arc::new(config), stack, Seed(u64::from(kind)), now)
}

impl World {
    pub(crate) fn new(kind: u8) -> Self {
        let now = Now::default().plus_ms(1_700_000_000_000);
        Self {
            broker: machine(kind, now),
            now,
            clients: Default::default(),
            stale: None,
            tickets: Vec::new(),
            subscriptions: Vec::new(),
            kind,
            log: Vec::new(),
            committed: 0,
            failed: false,
            restored: false,
        }
    }

    fn id(&self, at: usize) -> Option<ConnectionId> {
        self.clients[at].as_ref().map(|client| client.id)
    }

    /// What a client that is there has seen.
    pub(crate) fn observer(&mut self, at: usize) -> Option<&mut Observer> {
        self.clients[at].as_mut().map(|client| &mut client.observer)
    }

    pub(crate) fn accept(&mut self, at: usize) {
        if self.clients[at].is_none()
            && let Ok(id) = self.broker.accept(self.now, Peer { listener: at as u16, ..Peer::default() })
        {
            if self.kind & LISTENERS != 0 && at < 3 {
                let identity = Some("abc"[at..].into());
                let peer = Peer { listener: u16::MAX, identity, ..Peer::default() };
                self.broker.identified(self.now, id, peer);
            }
            self.clients[at] = Some(Client { id, observer: Observer::default(), dropped: false });
        }
    }

    /// Never more than the machine takes, as every adapter promises.
    pub(crate) fn receive(&mut self, at: usize, mut bytes: &[u8]) {
        let Some(client) = &mut self.clients[at] else { return };
        while !bytes.is_empty() {
            let credit = self.broker.read_credit(client.id);
            if credit == 0 {
                return;
            }
            let (now, later) = bytes.split_at(bytes.len().min(credit));
            client.observer.sends(now);
            self.broker.receive(self.now, client.id, now);
            bytes = later;
        }
    }

    /// Writes to one client at most `most` bytes, to those before it everything.
    pub(crate) fn write(&mut self, at: usize, most: usize) {
        let id = self.id(at);
        for _ in 0..OUTPUTS_MAX {
            let Some(transmit) = self.broker.poll_transmit() else { return };
            let narrow = Some(transmit.id()) == id;
            let client = self.clients.iter_mut().flatten().find(|client| client.id == transmit.id());
            let client = client.expect("output only for connections that are there");
            let offered: usize = transmit.chunks().map(<[u8]>::len).sum();
            assert!(offered > 0, "a connection without output was offered");
            let count = if narrow { offered.min(most) } else { offered };
            client.observer.reads(transmit.chunks(), count);
            transmit.written(count);
            if narrow {
                return;
            }
        }
        panic!("output without end");
    }

    pub(crate) fn writable(&mut self, at: usize) {
        if let Some(id) = self.id(at) {
            self.broker.writable(id);
        }
    }

    /// Does everything the machine wants.
    pub(crate) fn drain(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            let mut idle = true;
            while let Some(action) = self.broker.poll_action() {
                idle = false;
                self.obey(action);
            }
            if let Some(at) =
                (0..PEERS).find(|at| self.clients[*at].as_ref().is_some_and(|client| client.dropped))
            {
                idle = false;
                self.disconnect(at, Disconnect::Closed);
            }
            if idle && self.broker.poll_transmit().is_none() {
                return;
            }
            self.write(PEERS - 1, usize::MAX);
        }
        panic!("actions without end");
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Ask { ticket, .. } => self.tickets.push(ticket),
            Action::Store { seq, record } => {
                self.log.push(*record);
                assert_eq!(seq, LogSeq(self.log.len() as u64), "positions without a gap");
            }
            Action::Forget { ticket } => self.tickets.retain(|open| *open != ticket),
            Action::Close { id, how: Close::Drop } => {
                if let Some(client) = self.clients.iter_mut().flatten().find(|client| client.id == id) {
                    client.dropped = true;
                }
            }
            Action::Close { how: Close::Finish, .. } | Action::Credit { .. } | Action::Notice(_) => {}
            Action::Forward(forward) => {
                assert!(forward.message().is_some(), "a message that is gone left the chain")
            }
            other => panic!("nobody handled {other:?}"),
        }
    }

    pub(crate) fn disconnect(&mut self, at: usize, cause: Disconnect) {
        if let Some(client) = self.clients[at].take() {
            self.stale = Some(client.id);
            self.broker.disconnected(self.now, client.id, cause);
        }
    }

    /// Time passes.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.tick();
    }

    fn tick(&mut self) {
        self.broker.tick(self.now);
        if let Some(deadline) = self.broker.deadline() {
            assert!(deadline > self.now.mono, "a timer that has passed is still set");
        }
    }

    /// The low half says which answer, the high half to which question.
    pub(crate) fn answer(&mut self, what: u8) {
        if self.tickets.is_empty() {
            return;
        }
        let ticket = self.tickets.swap_remove(usize::from(what >> 4) % self.tickets.len());
        let answer = match what & 7 {
            0 | 1 => Answer::Allow,
            2 => Answer::AllowAs("somebody".into()),
            3 => Answer::Deny(ReasonCode::NotAuthorized),
            4 => Answer::PerFilter(vec![None, Some(ReasonCode::NotAuthorized)]),
            5 => Answer::Continue(b"more"[..].into()),
            6 => Answer::Custom(b"what"[..].into()),
            _ => Answer::PerFilter(Vec::new()),
        };
        self.broker.complete(self.now, ticket, answer.clone());
        // The second answer to the same question is nobody's.
        self.broker.complete(self.now, ticket, answer);
    }

    /// The program publishes: flags, topic and payload come from the script.
    pub(crate) fn publish(&mut self, script: &mut Script<'_>) {
        let (flags, topic) = (script.byte(), script.text());
        let qos = QoS::from_bits(flags & 3).unwrap_or_default();
        if let Ok(message) = Message::new(topic, script.short(), qos, flags & 4 != 0) {
            let _ = self.broker.publish(self.now, message, Origin::Program);
        }
    }

    pub(crate) fn subscribe(&mut self, filter: &str) {
        if let Ok(session) = self.broker.subscribe(self.now, filter) {
            self.subscriptions.push(session);
        }
    }

    pub(crate) fn unsubscribe(&mut self) {
        if let Some(session) = self.subscriptions.pop() {
            self.broker.unsubscribe(self.now, session);
        }
    }

    pub(crate) fn shutdown(&mut self) {
        self.broker.shutdown(self.now);
    }

    /// Ids that are no longer valid find nothing.
    pub(crate) fn touch_what_is_gone(&mut self) {
        if let Some(id) = self.stale {
            self.broker.receive(self.now, id, b"\xC0\x00");
            self.broker.writable(id);
            self.broker.disconnected(self.now, id, Disconnect::Eof);
        }
    }

    pub(crate) fn everybody_leaves(&mut self) {
        (0..PEERS).for_each(|at| self.writable(at));
        self.settle();
        (0..PEERS).for_each(|at| self.disconnect(at, Disconnect::Eof));
        self.settle();
    }

    /// All clients leave, every timer passes.
    pub(crate) fn end(&mut self) {
        self.settle();
        if self.is_durable() && !self.failed && !self.restored {
            self.is_what_its_log_says();
        }
        self.everybody_leaves();
        assert_eq!(self.broker.connections(), 0);
        // Longer than the longest interval that MQTT can say.
        self.pass_ms(u64::from(u32::MAX) * 1000 + 1);
        self.settle();
        for _ in 0..1000 {
            let Some(deadline) = self.broker.deadline() else { break };
            let wait = deadline.since(self.now.mono).div_ceil(1_000_000);
            self.pass_ms(wait);
            self.settle();
        }
        // What a client retains expires by then, what a foreign log says need not.
        if !self.restored {
            assert_eq!(self.broker.deadline(), None, "timers that never end");
        }
    }
}
