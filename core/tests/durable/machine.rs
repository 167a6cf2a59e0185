//! A durable machine that can crash.

use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, ConnectionId, LogSeq, Message, Notice, Origin, Record, Stack};

const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

/// A durable machine and the log it leaves.
pub(crate) struct Machine {
    pub(crate) bench: Bench,
    config: Config,
    /// What machines before this one left.
    before: Vec<Record>,
    pub(crate) committed: usize,
}

impl std::ops::Deref for Machine {
    type Target = Bench;
    fn deref(&self) -> &Bench {
        &self.bench
    }
}

impl std::ops::DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Bench {
        &mut self.bench
    }
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let bench = Bench::with(config.clone(), Stack::durable());
        Self { bench, config, before: Vec::new(), committed: 0 }
    }

    pub(crate) fn log(&self) -> Vec<Record> {
        self.before
            .iter()
            .cloned()
            .chain(self.bench.stores.iter().map(|(_, record)| record.clone()))
            .collect()
    }

    pub(crate) fn stored(&self) -> usize {
        self.before.len() + self.bench.stores.len()
    }

    /// Everything is durable, and what comes of that.
    pub(crate) fn commit(&mut self) {
        while self.committed < self.stored() {
            self.commit_to(self.stored());
        }
    }

    pub(crate) fn commit_to(&mut self, through: usize) {
        self.committed = through;
        self.bench.broker.committed(self.bench.now, LogSeq(through as u64));
        self.bench.drain();
    }

    /// The machine that is made of the first `left` records, `ms` later.
    pub(crate) fn crash_at(&self, left: usize, ms: u64) -> Machine {
        assert!(left >= self.committed, "what is committed stays");
        let bench = Bench::at(self.config.clone(), Stack::durable(), self.bench.now.plus_ms(ms));
        let log = self.log().into_iter().take(left).collect();
        Machine { bench, config: self.config.clone(), before: Vec::new(), committed: 0 }.restored(log)
    }

    /// The machine that is made of all records, with other settings.
    pub(crate) fn crash_into(&self, config: Config) -> Machine {
        let (bench, before) = (Bench::with(config.clone(), Stack::durable()), Vec::new());
        Machine { bench, config, before, committed: 0 }.restored(self.log())
    }

    fn restored(mut self, log: Vec<Record>) -> Machine {
        self.bench.broker.restore(log.iter().cloned()).unwrap();
        self.bench.drain();
        self.committed = log.len();
        self.before = log;
        self
    }

    /// Crashes when everything is durable.
    pub(crate) fn crash_after(mut self, ms: u64) -> Machine {
        self.commit();
        self.crash_at(self.stored(), ms)
    }

    /// The embedding program publishes with a QoS.
    pub(crate) fn broker_publish_as(&mut self, topic: &str, qos: QoS) {
        let message = Message::new(topic, b"m", qos, false).unwrap();
        self.bench.broker.publish(self.bench.now, message, Origin::Program).unwrap();
        self.bench.drain();
    }

    /// The retained message of a topic.
    pub(crate) fn retained(&mut self, topic: &str) -> String {
        let id = self.bench.connect(Version::V311, "reader");
        self.bench.subscribe(id, topic, QoS::AtMostOnce);
        let got = self.bench.messages(id);
        let prefix = format!("{topic}: ");
        got.first().map_or("none".into(), |got| got.trim_start_matches(&prefix).into())
    }

    /// The embedding program publishes.
    pub(crate) fn broker_publish(&mut self, topic: &str, n: usize) {
        let message = Message::new(topic, n.to_string().as_bytes(), Q1, false).unwrap();
        self.bench.broker.publish(self.bench.now, message, Origin::Program).unwrap();
        self.bench.drain();
    }

    /// The machines after a crash at every position that is possible now.
    pub(crate) fn crashes(&self) -> impl Iterator<Item = Machine> + '_ {
        (self.committed..=self.stored()).map(|left| self.crash_at(left, 1))
    }

    /// A client connects; whether it is told that it had a session. What it gets then is still to be taken.
    pub(crate) fn come(&mut self, connect: &Connect<'_>) -> (ConnectionId, bool) {
        let id = self.bench.try_connect(connect);
        self.commit();
        let told = self.bench.notices.iter().rev().find_map(|notice| match notice {
            Notice::Connected { connection, session_present, .. } if *connection == id => {
                Some(*session_present)
            }
            _ => None,
        });
        (id, told.expect("CONNACK with success"))
    }

    /// A client that subscribed, all durable.
    pub(crate) fn subscriber(&mut self, client_id: &str, filter: &str, qos: QoS) -> ConnectionId {
        let (id, _) = self.come(&lasting(client_id));
        self.bench.subscribe_all(id, &[(filter, SubscriptionOptions::new(qos))]);
        self.commit();
        assert_eq!(self.bench.lines(id).last().unwrap(), &format!("SUBACK [{:02X}] #777", qos as u8));
        id
    }

    /// The messages that wait for a client whose session lasts.
    pub(crate) fn waiting(&mut self, client_id: &str) -> Vec<String> {
        let (id, present) = self.come(&lasting(client_id));
        assert!(present, "{client_id} has a session");
        self.everything(id)
    }

    /// Everything a client gets that answers everything, while everything becomes durable.
    pub(crate) fn everything(&mut self, id: ConnectionId) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            let before = (messages.len(), self.stored());
            messages.extend(self.bench.handshake(id));
            self.commit();
            messages.extend(self.bench.handshake(id));
            if before == (messages.len(), self.stored()) && self.committed == self.stored() {
                return messages;
            }
        }
    }
}

/// A CONNECT of a client whose session lasts for ever.
pub(crate) fn lasting(client_id: &str) -> Connect<'_> {
    expiring(client_id, u32::MAX)
}

pub(crate) fn expiring(client_id: &str, seconds: u32) -> Connect<'_> {
    let properties = properties(&[Property::SessionExpiryInterval(seconds)]);
    Connect { clean_start: false, properties, ..connect(Version::V5, client_id) }
}

pub(crate) fn mortal(client_id: &str, expiry_s: u32, delay_s: u32) -> Connect<'_> {
    let properties = properties(&[Property::WillDelayInterval(delay_s)]);
    Connect {
        will: Some(Will { qos: Q2, properties, ..will("will", b"gone") }),
        ..expiring(client_id, expiry_s)
    }
}

/// Whether it was told that it is connected, and nothing else.
pub(crate) fn welcomed(machine: &mut Machine, id: ConnectionId) -> bool {
    let lines = machine.lines(id);
    lines.len() == 1 && lines[0].starts_with("CONNACK 00 [")
}

pub(crate) fn acknowledged(machine: &mut Machine, id: ConnectionId, packet: &str) -> bool {
    machine.lines(id).iter().any(|line| line.starts_with(packet))
}
