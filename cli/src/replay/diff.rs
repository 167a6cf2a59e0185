//! The same inputs for a second machine with other settings.
//!
//! Its clients are those of the recording: they send what they sent and take as much output as they took, whatever they
//! get instead. So what is told is what the broker would have done, not what they would have answered.

use super::describe;
use crate::file;
use crate::problem::Problem;
use crate::settings::Settings;
use culex_core::id::Id;
use culex_core::packet::{Framed, Packet, Version, frame};
use culex_core::{Action, BadSnapshot, Broker, Close, ConnectionId, Disconnect, Input, Now, Stack, Stats};
use culex_runtime::{Did, Recording, Step};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// The second machine, and what clients get from both.
pub(super) struct Other {
    name: String,
    broker: Broker,
    /// The counters both began with.
    began: Stats,
    /// Its connections by those of the recording, and the other way round.
    ids: HashMap<ConnectionId, ConnectionId>,
    stand_for: HashMap<ConnectionId, ConnectionId>,
    /// How many more bytes a socket takes until it has room again; those that are not here take all.
    full: HashMap<ConnectionId, usize>,
    recorded: HashMap<ConnectionId, Output>,
    outputs: HashMap<ConnectionId, Output>,
    /// Per connection of the recording: its client, packets, and how often they came as recorded and with the other
    /// settings.
    clients: HashMap<ConnectionId, Client>,
}

#[derive(Default)]
struct Client {
    name: String,
    /// Whether that is its Client Identifier.
    known: bool,
    packets: BTreeMap<String, [u64; 2]>,
}

/// Output of a connection that is no whole packet yet.
#[derive(Default)]
struct Output(Vec<u8>);

impl Other {
    pub(super) fn new(recording: &Recording<'_>, path: &Path) -> Result<Self, Problem> {
        let (mut settings, mut mistakes) = (Settings::default(), Vec::new());
        settings.apply_file(&file::read(path).map_err(Problem::mistakes)?, &mut mistakes);
        if mistakes.is_empty() {
            mistakes = settings.check();
        }
        if !mistakes.is_empty() {
            return Err(Problem::mistakes(mistakes));
        }
        let config = Arc::new(settings.whole_config());
        let snapshot = recording.snapshot();
        let made = |stack: Stack| {
            let stack = match Broker::shards_of_snapshot(snapshot)? {
                Some(shards) => stack.shard(shards),
                None => stack,
            };
            Broker::from_snapshot(Some(config.clone()), stack, snapshot)
        };
        let broker = match made(Stack::standard()) {
            Err(BadSnapshot::Stack(_)) => made(Stack::durable()),
            made => made,
        };
        let broker = broker.map_err(|error| Problem::failure(error.to_string()))?;
        Ok(Self {
            name: path.display().to_string(),
            began: *broker.stats(),
            ids: HashMap::new(),
            stand_for: HashMap::new(),
            full: HashMap::new(),
            recorded: HashMap::new(),
            outputs: HashMap::new(),
            clients: HashMap::new(),
            broker,
        })
    }

    /// The recorded machine did a step.
    pub(super) fn step(&mut self, recorded: &Broker, step: &Step) {
        match &step.did {
            Did::Input(input, accepted) => self.input(step.now, input, *accepted),
            Did::Written { id, bytes, left } => {
                if *left > 0 {
                    self.full.insert(self.id(*id), bytes.len());
                }
                let version = describe::version(recorded, *id);
                let packets = self.recorded.entry(*id).or_default().take(bytes, version);
                self.count(recorded, *id, packets, 0);
            }
            Did::Drained => self.drain(recorded, step.now),
            // Nobody hears it: what others answered then is heard as it was.
            Did::Told { to, .. } => drop(self.broker.take_for_shard(*to)),
            Did::Taken(_) | Did::Segment => {}
        }
    }

    /// The connection that stands for one of the recording. Those of the snapshot are the same.
    fn id(&self, id: ConnectionId) -> ConnectionId {
        self.ids.get(&id).copied().unwrap_or(id)
    }

    fn input(&mut self, now: Now, input: &Input, accepted: Option<ConnectionId>) {
        // It has timers of its own.
        if self.broker.deadline().is_some_and(|deadline| deadline <= now.mono) {
            self.broker.tick(now);
        }
        let mut input = input.clone();
        match &mut input {
            Input::Accept(peer) => {
                // An id that no connection has.
                let nobody = ConnectionId::new(u32::MAX, u32::MAX);
                match (accepted, self.broker.accept(now, peer.clone())) {
                    (Some(id), own) => {
                        let own = own.unwrap_or(nobody);
                        self.ids.insert(id, own);
                        self.stand_for.insert(own, id);
                    }
                    (None, Ok(own)) => self.broker.disconnected(now, own, Disconnect::Error),
                    (None, Err(_)) => {}
                }
                return;
            }
            Input::Identified { id, .. }
            | Input::Receive { id, .. }
            | Input::Violated { id, .. }
            | Input::Disconnected { id, .. } => *id = self.id(*id),
            Input::Writable(id) => {
                *id = self.id(*id);
                self.full.remove(id);
            }
            _ => {}
        }
        self.broker.apply(now, input);
    }

    fn drain(&mut self, recorded: &Broker, now: Now) {
        loop {
            while let Some(action) = self.broker.poll_action() {
                if let Action::Close { id, how: Close::Drop } = action {
                    self.broker.disconnected(now, id, Disconnect::Closed);
                }
            }
            let Some(id) = self.broker.poll_transmit().map(|transmit| transmit.id()) else { return };
            let version = describe::version(&self.broker, id);
            let Some(transmit) = self.broker.poll_transmit() else { return };
            let count = match self.full.get_mut(&id) {
                Some(most) => {
                    let count = transmit.len().min(*most);
                    *most -= count;
                    count
                }
                None => transmit.len(),
            };
            let bytes: Vec<u8> = transmit.chunks().flatten().copied().take(count).collect();
            transmit.written(count);
            let packets = self.outputs.entry(id).or_default().take(&bytes, version);
            let stands_for = self.stand_for.get(&id).copied().unwrap_or(id);
            self.count(recorded, stands_for, packets, 1);
        }
    }

    fn count(&mut self, recorded: &Broker, id: ConnectionId, packets: Vec<String>, whose: usize) {
        let Client { name, known, packets: all } = self.clients.entry(id).or_default();
        if !*known {
            (*name, *known) = describe::client(recorded, id);
        }
        for packet in packets {
            all.entry(packet).or_default()[whose] += 1;
        }
    }

    /// What is not the same.
    pub(super) fn tell(&self, recorded: &Broker) -> String {
        let mut clients: BTreeMap<(&str, &str), [u64; 2]> = BTreeMap::new();
        for Client { name, packets, .. } in self.clients.values() {
            for (packet, [then, now]) in packets {
                let sum = clients.entry((name, packet)).or_default();
                *sum = [sum[0] + then, sum[1] + now];
            }
        }
        let mut text = String::new();
        for ((client, packet), [then, now]) in clients {
            if then != now {
                let name = &self.name;
                let _ = writeln!(text, "{client}: {packet}: {then} times as recorded, {now} with {name}");
            }
        }
        let counters = self.began.iter().zip(recorded.stats().iter()).zip(self.broker.stats().iter());
        for (((name, began), (_, then)), (_, now)) in counters {
            if then != now {
                let (then, now) = (then - began, now - began);
                let _ = writeln!(text, "{name}: {then} as recorded, {now} with {}", self.name);
            }
        }
        if text.is_empty() {
            let _ = writeln!(text, "nothing is different with {}", self.name);
        }
        text
    }
}

impl Output {
    /// The packets that are whole with these bytes.
    fn take(&mut self, bytes: &[u8], version: Version) -> Vec<String> {
        let mut packets = Vec::new();
        self.0.extend_from_slice(bytes);
        let mut used = 0;
        while let Ok(Framed::Whole { frame, length }) = frame(&self.0[used..], u32::MAX) {
            packets.push(match Packet::decode(&frame, version) {
                Ok(packet) => describe::packet(&packet, version),
                // The recording began in the middle of a packet.
                Err(_) => format!("{length} bytes that are no packet"),
            });
            used += length;
        }
        self.0.drain(..used);
        packets
    }
}
