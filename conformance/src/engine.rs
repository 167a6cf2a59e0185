//! Tells a scenario to a broker and listens to what it answers.

use crate::fields::{Received, dump};
use crate::scenario::{Action, Expected, Scenario, Send, Step, version_of};
use crate::target::{Broker, Leave, Read};
use crate::value::{Value, Variables};
use crate::wire::{Fields, Names};
use culex_core::packet::{Framed, Version, frame};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Where a broker left the story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The file of the scenario.
    pub file: String,
    /// The line of the step.
    pub line: usize,
    /// What the step expected, as it is written.
    pub expected: String,
    /// What came instead.
    pub got: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}\n  expected {}\n  got      {}", self.file, self.line, self.expected, self.got)
    }
}

/// Tells a scenario for one version. With `first_only` a step is satisfied by its first alternative only.
pub(crate) fn tell(
    scenario: &Scenario,
    version: Version,
    broker: &mut dyn Broker,
    tag: String,
    first_only: bool,
) -> Result<(), Failure> {
    let mut engine = Engine {
        broker,
        version,
        first_only,
        names: Names { tag },
        variables: Variables::new(),
        connections: BTreeMap::new(),
        leftovers: BTreeSet::new(),
    };
    let failure = |step: &Step, got| Failure {
        file: scenario.file.clone(),
        line: step.line,
        expected: step.text.clone(),
        got,
    };
    let mut result = Ok(());
    for step in scenario.steps.iter().filter(|step| step.tells(version)) {
        result = engine.step(&step.action).map_err(|got| failure(step, got));
        if result.is_err() {
            break;
        }
    }
    if let (Ok(()), Some(last)) = (&result, scenario.steps.last()) {
        result = engine.end().map_err(|got| Failure {
            expected: "the end of the scenario: nothing else was sent".into(),
            ..failure(last, got)
        });
    }
    for connection in engine.connections.values().filter(|connection| !connection.closed) {
        engine.broker.leave(connection.handle, Leave::Cut);
    }
    if !engine.broker.virtual_time() {
        engine.clear();
    }
    result
}

struct Engine<'b> {
    broker: &'b mut dyn Broker,
    version: Version,
    first_only: bool,
    names: Names,
    variables: Variables,
    connections: BTreeMap<String, Connection>,
    /// What a connection each says to clear a session or retained message that the scenario may leave.
    leftovers: BTreeSet<Vec<u8>>,
}

struct Connection {
    handle: usize,
    version: Version,
    buffer: Vec<u8>,
    /// To be sent together with the next packet.
    held: Vec<u8>,
    /// CONNACK with success has come.
    accepted: bool,
    /// It has ended, and the scenario knows.
    closed: bool,
    /// It has ended by an alternative: the steps of the other one do not apply.
    over: bool,
}

enum Event {
    Packet(Received),
    Close,
    Nothing,
}

impl Event {
    fn describe(&self) -> String {
        match self {
            Self::Packet(packet) => packet.describe(),
            Self::Close => "the end of the connection".into(),
            Self::Nothing => "nothing".into(),
        }
    }
}

/// What is left of an alternative.
struct Candidate<'s> {
    left: Vec<&'s Expected>,
    variables: Variables,
    /// Its place among the alternatives.
    place: usize,
}

impl Engine<'_> {
    fn step(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Wait(time) => self.broker.pass(*time),
            Action::Fence(None) => self.fence_all()?,
            Action::Open(name, offers) => self.open(name, offers)?,
            Action::Connect(name, fields) => self.connect(name, fields)?,
            Action::Fence(Some(name))
            | Action::Subscribe(name, _)
            | Action::Publish(name, _)
            | Action::Disconnect(name, _)
            | Action::Cut(name)
            | Action::Quiet { of: name, .. }
            | Action::Expect { from: name, .. } => {
                if !self.connection(name)?.over {
                    self.step_of_open(name, action)?;
                }
            }
            Action::Send { to, what, hold } => {
                let connects = matches!(what, Send::Packet { name, .. } if name == "CONNECT");
                match self.connections.get(to) {
                    None => self.open(to, &mqtt())?,
                    Some(connection) if connection.closed && connects => self.open(to, &mqtt())?,
                    Some(connection) if connection.closed && !connection.over => {
                        return Err(format!("{to} has ended"));
                    }
                    Some(_) => {}
                }
                if !self.connection(to)?.over {
                    self.send(to, what, *hold)?;
                }
            }
        }
        Ok(())
    }

    fn step_of_open(&mut self, name: &str, action: &Action) -> Result<(), String> {
        match action {
            Action::Fence(_) => {
                self.broker.settle();
                self.ping(name)?;
                self.pong(name)
            }
            Action::Subscribe(_, fields) => self.subscribe(name, fields),
            Action::Publish(_, fields) => self.publish(name, fields),
            Action::Disconnect(_, fields) => {
                self.packet(name, "DISCONNECT", fields, false)?;
                self.leave(name, Leave::Peace)
            }
            Action::Cut(_) => self.leave(name, Leave::Cut),
            Action::Quiet { time, .. } => match self.next(name, *time)? {
                Event::Nothing => Ok(()),
                event => Err(event.describe()),
            },
            Action::Expect { alternatives, within, .. } => {
                let within = within.unwrap_or(self.broker.patience());
                self.expect(name, alternatives, within)
            }
            _ => Ok(()),
        }
    }

    fn connection(&mut self, name: &str) -> Result<&mut Connection, String> {
        self.connections.get_mut(name).ok_or_else(|| format!("{name} was not opened"))
    }

    fn open(&mut self, name: &str, offers: &[String]) -> Result<(), String> {
        if self.connections.get(name).is_some_and(|connection| !connection.closed) {
            return Err(format!("{name} is still open: end it first, or take another name"));
        }
        let connection = Connection {
            handle: self.broker.open(offers)?,
            version: self.version,
            buffer: Vec::new(),
            held: Vec::new(),
            accepted: false,
            closed: false,
            over: false,
        };
        self.connections.insert(name.to_owned(), connection);
        Ok(())
    }

    fn send(&mut self, name: &str, what: &Send, hold: bool) -> Result<(), String> {
        match what {
            Send::Hex(bytes) => self.bytes(name, bytes, 0, hold),
            Send::Frame(frame) => {
                let handle = self.connection(name)?.handle;
                self.broker.write_frame(handle, frame);
                Ok(())
            }
            Send::Packet { name: packet, fields } => self.packet(name, packet, fields, hold),
        }
    }

    fn packet(
        &mut self,
        name: &str,
        packet: &str,
        fields: &[(String, Value)],
        hold: bool,
    ) -> Result<(), String> {
        if let Some((_, value)) = fields.iter().find(|(field, _)| field == "version") {
            let word = String::from_utf8_lossy(&value.bytes(&self.variables)?).into_owned();
            self.connection(name)?.version = version_of(&word).ok_or("version: expected 3.1, 3.1.1 or 5")?;
        }
        let version = self.connection(name)?.version;
        let fields =
            Fields { fields, variables: &self.variables, names: &self.names, version, connection: name };
        let bytes = fields.encode(packet)?;
        if let Some(packets) = fields.clearing(packet) {
            self.leftovers.insert(packets);
        }
        let split = fields.number("split", 0)?;
        self.bytes(name, &bytes, usize::try_from(split).unwrap_or(0), hold)
    }

    /// Sends bytes behind those that were held back; with `split` in two parts.
    fn bytes(&mut self, name: &str, bytes: &[u8], split: usize, hold: bool) -> Result<(), String> {
        let connection = self.connection(name)?;
        let handle = connection.handle;
        let start = connection.held.len();
        connection.held.extend_from_slice(bytes);
        if hold {
            return Ok(());
        }
        let all = std::mem::take(&mut connection.held);
        let (first, second) = all.split_at((start + split).min(all.len()));
        if split > 0 {
            self.broker.write(handle, first);
            self.broker.settle();
            self.broker.write(handle, second);
        } else {
            self.broker.write(handle, &all);
        }
        Ok(())
    }

    /// The next thing that happens on a connection.
    fn next(&mut self, name: &str, within: Duration) -> Result<Event, String> {
        loop {
            let connection = self.connections.get_mut(name).ok_or("no connection")?;
            if connection.closed {
                return Ok(Event::Close);
            }
            match frame(&connection.buffer, u32::MAX) {
                Ok(Framed::Whole { frame, length }) => {
                    let bytes = &connection.buffer[..length];
                    let packet = Received::decode(&frame, bytes, connection.version)?;
                    connection.accepted |= packet.name == "CONNACK" && !packet.ends();
                    connection.buffer.drain(..length);
                    return Ok(Event::Packet(packet));
                }
                Ok(Framed::Partial { .. }) => {}
                Err(violation) => return Err(format!("{violation}: {}", dump(&connection.buffer))),
            }
            match self.broker.read(connection.handle, within) {
                Read::Bytes(bytes) => connection.buffer.extend(bytes),
                Read::Wrong(wrong) => return Err(wrong),
                Read::Closed if connection.buffer.is_empty() => return Ok(Event::Close),
                Read::Nothing if connection.buffer.is_empty() => return Ok(Event::Nothing),
                Read::Closed => {
                    return Err(format!("a close inside of a packet: {}", dump(&connection.buffer)));
                }
                Read::Nothing => return Err(format!("a part of a packet: {}", dump(&connection.buffer))),
            }
        }
    }

    fn expect(&mut self, name: &str, sets: &[Vec<Expected>], within: Duration) -> Result<(), String> {
        let connection = self.connection(name)?;
        let v5 = connection.version == Version::V5;
        let closed = connection.closed;
        // 3.x has no DISCONNECT from the server and no AUTH: what needs them cannot happen.
        let exists = |expected: &Expected| match expected {
            Expected::Packet { name, .. } => v5 || !matches!(name.as_str(), "DISCONNECT" | "AUTH"),
            Expected::Close => true,
        };
        let possible = sets.iter().filter(|set| set.iter().all(exists));
        let mut candidates: Vec<Candidate<'_>> = possible
            .take(if self.first_only { 1 } else { usize::MAX })
            .enumerate()
            .map(|(place, set)| Candidate {
                left: set.iter().collect(),
                variables: self.variables.clone(),
                place,
            })
            .collect();
        if candidates.is_empty() {
            return Ok(());
        }
        let choice = candidates.len() > 1;
        if closed && candidates.iter().any(|candidate| matches!(candidate.left[..], [Expected::Close])) {
            return Ok(());
        }
        loop {
            let event = self.next(name, within)?;
            let mut kept = Vec::new();
            for mut candidate in candidates {
                if self.consume(&mut candidate, &event)? {
                    kept.push(candidate);
                }
            }
            candidates = kept;
            if candidates.is_empty() {
                return Err(event.describe());
            }
            if let Some(i) = candidates.iter().position(|candidate| candidate.left.is_empty()) {
                let done = candidates.swap_remove(i);
                self.variables = done.variables;
                return self.ended(name, &event, choice && done.place > 0);
            }
        }
    }

    /// Takes what happened off what is left of an alternative; says whether it was in there.
    fn consume(&self, candidate: &mut Candidate<'_>, event: &Event) -> Result<bool, String> {
        for (i, expected) in candidate.left.iter().enumerate() {
            let mut variables = candidate.variables.clone();
            let matches = match (expected, event) {
                (Expected::Close, Event::Close) => true,
                (Expected::Packet { name, fields }, Event::Packet(packet)) => {
                    packet.matches(name, fields, &self.names, &mut variables)?
                }
                _ => false,
            };
            if matches {
                candidate.left.remove(i);
                candidate.variables = variables;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// After DISCONNECT, or a CONNACK that refuses, the broker must close: [MQTT-3.14.4-2], [MQTT-3.2.2-7].
    fn ended(&mut self, name: &str, event: &Event, over: bool) -> Result<(), String> {
        let ends = match event {
            Event::Packet(packet) if packet.ends() => {
                let patience = self.broker.patience();
                match self.next(name, patience)? {
                    Event::Close => true,
                    event => {
                        return Err(format!("{}, expected a close after {}", event.describe(), packet.name));
                    }
                }
            }
            Event::Close => true,
            _ => false,
        };
        if ends {
            let connection = self.connection(name)?;
            connection.closed = true;
            connection.over = over;
            let handle = connection.handle;
            self.broker.leave(handle, Leave::Cut);
        }
        Ok(())
    }

    fn connect(&mut self, name: &str, fields: &[(String, Value)]) -> Result<(), String> {
        self.open(name, &mqtt())?;
        self.packet(name, "CONNECT", fields, false)?;
        let patience = self.broker.patience();
        match self.next(name, patience)? {
            Event::Packet(packet) if packet.name == "CONNACK" && !packet.ends() => Ok(()),
            event => Err(event.describe()),
        }
    }

    fn subscribe(&mut self, name: &str, fields: &[(String, Value)]) -> Result<(), String> {
        self.packet(name, "SUBSCRIBE", fields, false)?;
        let patience = self.broker.patience();
        match self.next(name, patience)? {
            Event::Packet(packet)
                if packet.name == "SUBACK" && packet.numbers("reason").all(|reason| reason < 0x80) =>
            {
                Ok(())
            }
            event => Err(event.describe()),
        }
    }

    fn publish(&mut self, name: &str, fields: &[(String, Value)]) -> Result<(), String> {
        self.packet(name, "PUBLISH", fields, false)?;
        let number = |field: &str, default: u64| {
            let value = fields.iter().find(|(name, _)| name == field).map(|(_, value)| value);
            value.map_or(Ok(default), |value| value.number(&self.variables))
        };
        let (qos, id) = (number("qos", 0)?, number("id", 1)?);
        match qos {
            0 => Ok(()),
            1 => self.answer(name, "PUBACK", id),
            _ => {
                self.answer(name, "PUBREC", id)?;
                let id_field = [("id".to_owned(), Value::Text(id.to_string().into()))];
                self.packet(name, "PUBREL", &id_field, false)?;
                self.answer(name, "PUBCOMP", id)
            }
        }
    }

    /// An acknowledgement that does not refuse must come next.
    fn answer(&mut self, name: &str, packet: &str, id: u64) -> Result<(), String> {
        let patience = self.broker.patience();
        match self.next(name, patience)? {
            Event::Packet(got)
                if got.name == packet
                    && got.number("id") == Some(id)
                    && got.number("reason") < Some(0x80) =>
            {
                Ok(())
            }
            event => Err(format!("{}, expected {packet} id={id}", event.describe())),
        }
    }

    fn leave(&mut self, name: &str, how: Leave) -> Result<(), String> {
        let connection = self.connection(name)?;
        let handle = connection.handle;
        connection.closed = true;
        self.broker.leave(handle, how);
        Ok(())
    }

    fn ping(&mut self, name: &str) -> Result<(), String> {
        if !self.connection(name)?.accepted {
            return Err(format!("{name} is not connected: there can be no fence"));
        }
        self.bytes(name, &[0xC0, 0], 0, false)
    }

    fn pong(&mut self, name: &str) -> Result<(), String> {
        let patience = self.broker.patience();
        match self.next(name, patience)? {
            Event::Packet(packet) if packet.name == "PINGRESP" => Ok(()),
            event => Err(format!("on {name}: {}", event.describe())),
        }
    }

    fn fence_all(&mut self) -> Result<(), String> {
        self.broker.settle();
        let live = |(_, connection): &(&String, &Connection)| connection.accepted && !connection.closed;
        let names: Vec<String> = self.connections.iter().filter(live).map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.ping(name)?;
        }
        names.iter().try_for_each(|name| self.pong(name))
    }

    /// Ends sessions and removes retained messages that the scenario may have left.
    fn clear(&mut self) {
        for packets in std::mem::take(&mut self.leftovers) {
            let Ok(handle) = self.broker.open(&mqtt()) else { return };
            self.broker.write(handle, &packets);
            self.broker.leave(handle, Leave::Peace);
        }
    }

    /// Nothing else was sent: shown by a PINGREQ, or by silence where none is allowed.
    fn end(&mut self) -> Result<(), String> {
        self.fence_all()?;
        let mute = |(_, connection): &(&String, &Connection)| !connection.accepted && !connection.closed;
        let names: Vec<String> = self.connections.iter().filter(mute).map(|(name, _)| name.clone()).collect();
        for name in names {
            if let event @ Event::Packet(_) = self.next(&name, Duration::ZERO)? {
                return Err(format!("on {name}: {}", event.describe()));
            }
        }
        Ok(())
    }
}

/// What a client offers by WebSocket unless the scenario says otherwise [MQTT-6.0.0-3].
fn mqtt() -> [String; 1] {
    ["mqtt".into()]
}
