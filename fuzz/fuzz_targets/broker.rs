//! Arbitrary sequences of inputs for the machine. Whatever comes in, in whatever order: nothing panics, output always
//! drains, what is sent can be read by the client, and when all connections are gone the machine has let go of them.
//!
//! How a sequence is written is described in `fuzz/README.md`.
#![no_main]

use culex_core::middleware::{Authentication, Authorize, Permission, Wanted};
use culex_core::packet::{Connect, Framed, Packet, QoS, ReasonCode, Version, frame};
use culex_core::{
    Action, Answer, Broker, Close, Config, ConnectionId, Disconnect, Message, Now, Origin, Peer, Seed,
    SessionId, Stack, Ticket,
};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

/// Connections at a time.
const PEERS: usize = 4;
/// More outputs of one input than any input of this size can cause.
const OUTPUTS_MAX: usize = 1_000_000;

fuzz_target!(|bytes: &[u8]| {
    let mut world = World::new(bytes.first().copied().unwrap_or(0));
    let mut script = Script(bytes.get(1..).unwrap_or_default());
    while let Some(op) = script.byte() {
        world.perform(op & 0x0F, usize::from(op >> 4) % PEERS, &mut script);
    }
    world.end();
});

/// The rest of the input.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// So many bytes, or those that are left.
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// Bytes with their count in front.
    fn short(&mut self) -> &'a [u8] {
        let count = self.byte().unwrap_or(0);
        self.take(count.into())
    }

    fn text(&mut self) -> &'a str {
        std::str::from_utf8(self.short()).unwrap_or("t")
    }
}

/// One client as the adapter sees it.
struct Client {
    id: ConnectionId,
    /// What it sent until its CONNECT was whole; then its version.
    version: Result<Version, Vec<u8>>,
    /// What it was sent and has not been looked at.
    output: Vec<u8>,
    /// The machine wants its end to be reported.
    dropped: bool,
}

/// The machine and everything around it.
struct World {
    broker: Broker,
    now: Now,
    clients: [Option<Client>; PEERS],
    stale: Option<ConnectionId>,
    tickets: Vec<Ticket>,
    subscriptions: Vec<SessionId>,
}

impl World {
    /// The first byte says how narrow the machine is, and whether it asks.
    fn new(kind: u8) -> Self {
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
        let mut stack = Stack::standard();
        if kind & 2 != 0 {
            stack =
                stack.replace("Authentication", Authentication::ask()).expect("it is in the standard stack");
        }
        if kind & 4 != 0 {
            let ask = |_: &str, _: Option<&str>, _: Wanted<'_>| Permission::Ask;
            stack = stack.replace("Authorize", Authorize::new(ask)).expect("it is in the standard stack");
        }
        let now = Now::default().plus_ms(1_700_000_000_000);
        assert_eq!(config.check(), Ok(()));
        Self {
            broker: Broker::new(Arc::new(config), stack, Seed(u64::from(kind)), now),
            now,
            clients: Default::default(),
            stale: None,
            tickets: Vec::new(),
            subscriptions: Vec::new(),
        }
    }

    fn perform(&mut self, op: u8, at: usize, script: &mut Script<'_>) {
        match op {
            0 => self.accept(at),
            1 => self.receive(at, script.short()),
            2 => {
                let count = usize::from(script.byte().unwrap_or(0)) * 16;
                self.receive(at, script.take(count));
            }
            3 => self.drain(),
            4 => self.write(at, usize::from(script.byte().unwrap_or(0))),
            5 => {
                if let Some(id) = self.id(at) {
                    self.broker.writable(id);
                }
            }
            6 => {
                let broken = script.byte().unwrap_or(0) & 1 != 0;
                self.disconnect(at, if broken { Disconnect::Error } else { Disconnect::Eof });
            }
            7 => self.pass(script.byte().unwrap_or(0)),
            8 => self.answer(script.byte().unwrap_or(0)),
            9 => {
                let (flags, topic) = (script.byte().unwrap_or(0), script.text());
                let qos = QoS::from_bits(flags & 3).unwrap_or_default();
                if let Ok(message) = Message::new(topic, script.short(), qos, flags & 4 != 0) {
                    let _ = self.broker.publish(self.now, message, Origin::Program);
                }
            }
            10 => {
                if let Ok(session) = self.broker.subscribe(self.now, script.text()) {
                    self.subscriptions.push(session);
                }
            }
            11 => {
                if let Some(session) = self.subscriptions.pop() {
                    self.broker.unsubscribe(self.now, session);
                }
            }
            12 => self.touch_what_is_gone(),
            13 => self.broker.shutdown(self.now),
            _ => self.drain(),
        }
    }

    fn id(&self, at: usize) -> Option<ConnectionId> {
        self.clients[at].as_ref().map(|client| client.id)
    }

    fn accept(&mut self, at: usize) {
        if self.clients[at].is_none()
            && let Ok(id) = self.broker.accept(self.now, Peer { address: None, listener: at as u16 })
        {
            self.clients[at] =
                Some(Client { id, version: Err(Vec::new()), output: Vec::new(), dropped: false });
        }
    }

    /// Never more than the machine takes, as every adapter promises.
    fn receive(&mut self, at: usize, mut bytes: &[u8]) {
        let Some(client) = &mut self.clients[at] else { return };
        while !bytes.is_empty() {
            let credit = self.broker.read_credit(client.id);
            if credit == 0 {
                return;
            }
            let (now, later) = bytes.split_at(bytes.len().min(credit));
            client.sends(now);
            self.broker.receive(self.now, client.id, now);
            bytes = later;
        }
    }

    /// Writes to one client at most `most` bytes, to those before it everything.
    fn write(&mut self, at: usize, most: usize) {
        let id = self.id(at);
        for _ in 0..OUTPUTS_MAX {
            let Some(transmit) = self.broker.poll_transmit() else { return };
            let narrow = Some(transmit.id()) == id;
            let client = self.clients.iter_mut().flatten().find(|client| client.id == transmit.id());
            let client = client.expect("output only for connections that are there");
            let before = client.output.len();
            let offered: usize = transmit.chunks().map(<[u8]>::len).sum();
            assert!(offered > 0, "a connection without output was offered");
            transmit.chunks().for_each(|chunk| client.output.extend_from_slice(chunk));
            let count = if narrow { offered.min(most) } else { offered };
            client.output.truncate(before + count);
            transmit.written(count);
            client.reads();
            if narrow {
                return;
            }
        }
        panic!("output without end");
    }

    /// Does everything the machine wants.
    fn drain(&mut self) {
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

    fn disconnect(&mut self, at: usize, cause: Disconnect) {
        if let Some(client) = self.clients[at].take() {
            self.stale = Some(client.id);
            self.broker.disconnected(self.now, client.id, cause);
        }
    }

    /// Time passes: a little, or to the next deadline.
    fn pass(&mut self, how: u8) {
        self.now = self.now.plus_ms(1 << (how % 24));
        self.tick();
    }

    fn tick(&mut self) {
        self.broker.tick(self.now);
        if let Some(deadline) = self.broker.deadline() {
            assert!(deadline > self.now.mono, "a timer that has passed is still set");
        }
    }

    fn answer(&mut self, what: u8) {
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

    /// Ids that are no longer valid find nothing.
    fn touch_what_is_gone(&mut self) {
        if let Some(id) = self.stale {
            self.broker.receive(self.now, id, b"\xC0\x00");
            self.broker.writable(id);
            self.broker.disconnected(self.now, id, Disconnect::Eof);
        }
    }

    /// All clients leave, every timer passes.
    fn end(&mut self) {
        for at in 0..PEERS {
            if let Some(id) = self.id(at) {
                self.broker.writable(id);
            }
        }
        self.drain();
        (0..PEERS).for_each(|at| self.disconnect(at, Disconnect::Eof));
        self.drain();
        assert_eq!(self.broker.connections(), 0);
        // Longer than the longest interval that MQTT can say.
        self.now = self.now.plus_ms(u64::from(u32::MAX) * 1000 + 1);
        self.tick();
        self.drain();
        for _ in 0..1000 {
            let Some(deadline) = self.broker.deadline() else { break };
            let wait = deadline.since(self.now.mono).div_ceil(1_000_000);
            self.now = self.now.plus_ms(wait);
            self.tick();
            self.drain();
        }
        assert_eq!(self.broker.deadline(), None, "timers that never end");
    }
}

impl Client {
    /// Remembers which version its CONNECT asks for.
    fn sends(&mut self, bytes: &[u8]) {
        let Err(begun) = &mut self.version else { return };
        begun.extend_from_slice(bytes);
        if let Ok(Framed::Whole { frame, .. }) = frame(begun, u32::MAX)
            && let Ok(connect) = Connect::decode(&frame, Version::V5)
        {
            self.version = Ok(connect.version);
        }
    }

    /// Every packet it is sent must be one of its version. Whoever never said a version that we know may be refused in
    /// the words of an older one.
    fn reads(&mut self) {
        let versions: &[Version] = match &self.version {
            Ok(version) => std::slice::from_ref(version),
            Err(_) => &[Version::V5, Version::V311],
        };
        loop {
            match frame(&self.output, u32::MAX) {
                Ok(Framed::Whole { frame, length }) => {
                    let read = |version: &Version| Packet::decode(&frame, *version).is_ok();
                    assert!(
                        versions.iter().any(read),
                        "sent in {versions:?}: {:02X?}",
                        &self.output[..length]
                    );
                    self.output.drain(..length);
                }
                Ok(Framed::Partial { .. }) => return,
                Err(violation) => panic!("sent to a client: {violation}: {:02X?}", self.output),
            }
        }
    }
}
