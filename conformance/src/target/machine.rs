//! The machine in this process, with time that passes when it is told to.

use super::websocket::WebSocket as ClientEnd;
use super::{Broker, Leave, Read, Target};
use culex_core::config::ListenerConfig;
use culex_core::middleware::{Authenticate, Authentication, Decision};
use culex_core::packet::ReasonCode;
use culex_core::{
    Action, Answer, Broker as Machine, Close, Config, ConnectionId, Credentials, Disconnect, Mono, Now, Peer,
    Query, Seed, Stack, time::Wall,
};
use culex_link::{Layer, Progress, WebSocket};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

/// Gives every scenario a machine of its own.
///
/// Beside the settings of the machine a scenario may need:
/// `users = name:password …` (others are refused), and `method = NAME`: enhanced authentication of that name, which
/// sends the challenge `more` for every data but `done`, accepts `done` and refuses `wrong`.
#[derive(Debug, Clone, Copy, Default)]
pub struct InProcess {
    /// All connections are by WebSocket, not only those of scenarios about it.
    pub websocket: bool,
    /// All clients are below the mount point `m/`.
    pub mounted: bool,
}

impl Target for InProcess {
    fn broker(&self, needs: &[(String, String)], websocket: bool) -> Result<Box<dyn Broker>, String> {
        let mut config = Config::default();
        let mut door = Door::default();
        for (key, value) in needs {
            match key.as_str() {
                "users" => door.users.extend(value.split_whitespace().map(str::to_owned)),
                "method" => door.method = Some(value.clone()),
                _ => config.set(key, value).map_err(|error| format!("{key} = {value}: {error}"))?,
            }
        }
        if self.mounted {
            config.listeners = vec![ListenerConfig { mount_point: "m/".into(), ..ListenerConfig::default() }];
        }
        config.check().map_err(|error| error.to_string())?;
        let stack = match door.users.is_empty() && door.method.is_none() {
            true => Stack::standard(),
            false => Stack::standard()
                .replace("Authentication", Authentication::new(door))
                .map_err(|error| error.to_string())?,
        };
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) };
        let machine = Machine::new(Arc::new(config), stack, Seed(1), now);
        let websocket = websocket || self.websocket;
        Ok(Box::new(InMachine { machine, now, websocket, peers: Vec::new() }))
    }

    fn name(&self) -> String {
        let websocket = if self.websocket { ", by WebSocket" } else { "" };
        let mounted = if self.mounted { ", below a mount point" } else { "" };
        format!("in process{websocket}{mounted}")
    }

    fn parallel(&self) -> usize {
        2
    }
}

/// Who may come in.
#[derive(Debug, Default)]
struct Door {
    users: Vec<String>,
    method: Option<String>,
}

impl Authenticate for Door {
    fn authenticate(&mut self, who: &Credentials) -> Decision {
        if who.method.is_some() {
            return Decision::Ask;
        }
        let name = who.user_name.as_deref().unwrap_or_default();
        let password = String::from_utf8_lossy(who.password.as_deref().unwrap_or_default());
        match self.users.is_empty() || self.users.contains(&format!("{name}:{password}")) {
            true => Decision::Allow,
            false => Decision::Deny(ReasonCode::BadUserNameOrPassword),
        }
    }

    fn method(&self, name: &str) -> bool {
        self.method.as_deref() == Some(name)
    }
}

/// See [`InProcess`].
fn answer(query: &Query) -> Answer {
    let Query::Authenticate(who) = query else { return Answer::Allow };
    match who.data.as_deref() {
        Some(b"done") => Answer::Allow,
        Some(b"wrong") => Answer::Deny(ReasonCode::NotAuthorized),
        _ => Answer::Continue(b"more".to_vec().into()),
    }
}

#[derive(Debug)]
struct InMachine {
    machine: Machine,
    now: Now,
    websocket: bool,
    peers: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    id: ConnectionId,
    /// Written by the client, not yet taken by the machine.
    inbox: Vec<u8>,
    /// Written by the machine, not yet read by the client.
    outbox: Vec<u8>,
    closed: bool,
    websocket: Option<Box<Ends>>,
    /// What the broker did wrong below MQTT.
    wrong: Option<String>,
}

/// Both ends of a WebSocket.
#[derive(Debug)]
struct Ends {
    client: ClientEnd,
    layer: WebSocket,
    /// The client said goodbye.
    left: bool,
}

impl Client {
    /// The machine wrote this.
    fn hear(&mut self, chunks: &[&[u8]], last: bool) {
        let Some(ends) = &mut self.websocket else {
            return chunks.iter().for_each(|chunk| self.outbox.extend_from_slice(chunk));
        };
        let slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let mut wire = Vec::new();
        ends.layer.send(&slices, &mut wire);
        if last {
            ends.layer.close(&mut wire);
        }
        if let Err(wrong) = ends.client.receive(&wire, &mut self.outbox) {
            self.wrong = Some(wrong);
        }
        self.inbox.extend(ends.client.take_wire());
    }
}

impl InMachine {
    /// Does what the machine wants done, until it wants nothing.
    fn drain(&mut self) {
        loop {
            while let Some(action) = self.machine.poll_action() {
                match action {
                    Action::Close { id, how } => self.close(id, how),
                    Action::Ask { ticket, query } => self.machine.complete(self.now, ticket, answer(&query)),
                    _ => {}
                }
            }
            if let Some(transmit) = self.machine.poll_transmit() {
                let id = transmit.id();
                let count = transmit.len();
                if let Some(client) = self.peers.iter_mut().find(|client| client.id == id) {
                    client.hear(&transmit.chunks().collect::<Vec<_>>(), false);
                }
                transmit.written(count);
            } else if !self.feed() && !self.let_go() {
                return;
            }
        }
    }

    fn close(&mut self, id: ConnectionId, how: Close) {
        let Some(client) = self.peers.iter_mut().find(|client| client.id == id && !client.closed) else {
            return;
        };
        if how == Close::Finish {
            client.hear(&[], true);
        }
        client.closed = true;
        let cause = if how == Close::Finish { Disconnect::Eof } else { Disconnect::Closed };
        self.machine.disconnected(self.now, id, cause);
    }

    /// Ends a connection whose client said goodbye by WebSocket, once all it sent before was taken.
    fn let_go(&mut self) -> bool {
        let gone = |client: &&mut Client| {
            !client.closed
                && client.websocket.as_ref().is_some_and(|ends| ends.left)
                && self.machine.read_credit(client.id) > 0
        };
        let Some(client) = self.peers.iter_mut().find(gone) else { return false };
        client.hear(&[], true);
        client.closed = true;
        self.machine.disconnected(self.now, client.id, Disconnect::Eof);
        true
    }

    /// Gives the machine what it has credit for; says whether it took something.
    fn feed(&mut self) -> bool {
        let waiting = |client: &&mut Client| {
            !client.closed && !client.inbox.is_empty() && self.machine.read_credit(client.id) > 0
        };
        let Some(client) = self.peers.iter_mut().find(waiting) else { return false };
        let count = client.inbox.len().min(self.machine.read_credit(client.id));
        let bytes: Vec<u8> = client.inbox.drain(..count).collect();
        let id = client.id;
        let Some(ends) = &mut client.websocket else {
            self.machine.receive(self.now, id, &bytes);
            return true;
        };
        let mut plain = Vec::new();
        let progress = ends.layer.receive(&bytes, &mut plain);
        ends.left |= progress == Progress::Closed;
        if ends.layer.speaks() {
            client.hear(&[], false);
        }
        self.machine.receive(self.now, id, &plain);
        match progress {
            Progress::Open | Progress::Closed => {}
            Progress::Violated(violation) => self.machine.violated(self.now, id, violation),
            Progress::Failed(_) => {
                client.hear(&[], true);
                client.closed = true;
                self.machine.disconnected(self.now, id, Disconnect::Error);
            }
        }
        true
    }

    /// Goes to the next deadline, not beyond `end`; says whether there is time left.
    fn step(&mut self, end: Mono) -> bool {
        let at = self.machine.deadline().filter(|at| *at < end);
        let ms = at.unwrap_or(end).since(self.now.mono).div_ceil(1_000_000);
        self.now = self.now.plus_ms(ms);
        self.machine.tick(self.now);
        self.drain();
        self.now.mono < end
    }
}

impl Broker for InMachine {
    fn open(&mut self, offers: &[String]) -> Result<usize, String> {
        let websocket = match self.websocket {
            false => None,
            true => {
                let client = ClientEnd::new("ws://in.process/mqtt", offers)?;
                Some(Box::new(Ends { client, layer: WebSocket::new("/mqtt".into()), left: false }))
            }
        };
        let id = self.machine.accept(self.now, Peer::default()).map_err(|refused| format!("{refused:?}"))?;
        let mut client =
            Client { id, inbox: Vec::new(), outbox: Vec::new(), closed: false, websocket, wrong: None };
        if let Some(ends) = &mut client.websocket {
            client.inbox = ends.client.take_wire();
        }
        self.peers.push(client);
        self.drain();
        let client = self.peers.last_mut().ok_or("no client")?;
        match &client.websocket {
            Some(ends) if !ends.client.is_open() => {
                Err(client.wrong.take().unwrap_or_else(|| "no answer to the request for a WebSocket".into()))
            }
            _ => Ok(self.peers.len() - 1),
        }
    }

    fn write(&mut self, connection: usize, bytes: &[u8]) {
        let client = &mut self.peers[connection];
        match &mut client.websocket {
            None => client.inbox.extend_from_slice(bytes),
            Some(ends) => {
                ends.client.send(bytes);
                client.inbox.extend(ends.client.take_wire());
            }
        }
        self.drain();
    }

    fn write_frame(&mut self, connection: usize, frame: &[u8]) {
        self.peers[connection].inbox.extend_from_slice(frame);
        self.drain();
    }

    fn read(&mut self, connection: usize, within: Duration) -> Read {
        let end = self.now.mono + within;
        loop {
            let client = &mut self.peers[connection];
            if let Some(wrong) = client.wrong.take() {
                return Read::Wrong(wrong);
            }
            if !client.outbox.is_empty() {
                return Read::Bytes(std::mem::take(&mut client.outbox));
            }
            if client.closed {
                return Read::Closed;
            }
            if self.now.mono >= end {
                return Read::Nothing;
            }
            self.step(end);
        }
    }

    fn leave(&mut self, connection: usize, how: Leave) {
        let client = &mut self.peers[connection];
        if !client.closed {
            client.closed = true;
            let cause = if how == Leave::Peace { Disconnect::Eof } else { Disconnect::Error };
            self.machine.disconnected(self.now, client.id, cause);
        }
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while self.step(end) {}
    }

    fn settle(&mut self) {}

    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    fn virtual_time(&self) -> bool {
        true
    }
}
