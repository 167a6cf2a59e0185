//! Publishers at QoS 1, each of which sends its next message when the last was acknowledged.

use crate::Trouble;
use crate::kill::broker::Durable;
use crate::kill::client::{Client, Event, Outgoing, Token};
use culex_core::packet::{QoS, Version};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use std::time::{Duration, Instant};

/// What came of a case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Bytes that the broker had written to the disk, per message.
    pub(super) written: f64,
}

/// A message of the benchmark.
pub(super) fn message(stream: usize, number: u64) -> Outgoing {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(PAYLOAD_BYTES, b'x');
    let (topic, qos) = ("bench".to_owned(), QoS::AtLeastOnce);
    Outgoing { token: Token { stream, number }, topic, payload, qos, retain: false, expiry_s: None }
}

/// Two sessions get everything: one whose client is away, and unless it is `away_only` one whose client is there.
pub(super) fn run(
    broker: &mut Durable,
    publishers: usize,
    away_only: bool,
    time: Duration,
) -> Result<Outcome, Trouble> {
    let mut crowd = Crowd::new()?;
    let away = crowd.join(broker, "away")?;
    crowd.subscribe(away)?;
    crowd.clients[away].disconnect();
    crowd.wait(|event| matches!(event, Event::Closed))?;
    if !away_only {
        let there = crowd.join(broker, "there")?;
        crowd.subscribe(there)?;
    }
    let first = crowd.clients.len();
    for publisher in 0..publishers {
        crowd.join(broker, &format!("publisher-{publisher}"))?;
    }
    // Warm.
    crowd.publish(first, time / 4)?;
    let before = broker.figure("io", "write_bytes:")?;
    let begin = Instant::now();
    let mut took = crowd.publish(first, time)?;
    let (seconds, messages) = (begin.elapsed().as_secs_f64(), took.len() as f64);
    let written = (broker.figure("io", "write_bytes:")? - before) as f64 / messages;
    took.sort_by(f64::total_cmp);
    let at = |part: f64| took.get(((messages - 1.0) * part) as usize).copied().unwrap_or(f64::NAN);
    Ok(Outcome { per_second: messages / seconds, p50_ms: at(0.5), p99_ms: at(0.99), written })
}

/// Clients, all on this thread.
pub(super) struct Crowd {
    pub(super) clients: Vec<Client>,
    epoll: rustix::fd::OwnedFd,
    buffer: Box<[u8]>,
    ready: Vec<epoll::Event>,
    events: Vec<Event>,
    happened: Vec<(usize, Event)>,
}

impl Crowd {
    pub(super) fn new() -> Result<Self, Trouble> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let buffer = vec![0; 256 * 1024].into();
        let (ready, events, happened) = (Vec::with_capacity(1024), Vec::new(), Vec::new());
        Ok(Self { clients: Vec::new(), epoll, buffer, ready, events, happened })
    }

    /// A client connects; gives its number.
    pub(super) fn join(&mut self, broker: &Durable, name: &str) -> Result<usize, Trouble> {
        self.come(broker, name).map(|(client, _)| client)
    }

    /// The same, and whether there was a session.
    pub(super) fn come(&mut self, broker: &Durable, name: &str) -> Result<(usize, bool), Trouble> {
        self.clients.push(Client::new(name, Version::V5));
        let client = self.clients.len() - 1;
        let present = self.connect(broker, client)?;
        Ok((client, present))
    }

    /// Also says whether there was a session.
    pub(super) fn connect(&mut self, broker: &Durable, client: usize) -> Result<bool, Trouble> {
        self.clients[client].connect(broker.address)?;
        if let Some(socket) = self.clients[client].socket() {
            let data = epoll::EventData::new_u64(client as u64);
            epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN)?;
        }
        let (_, event) = self.wait(|event| matches!(event, Event::Connected { .. }))?;
        Ok(matches!(event, Event::Connected { present: true }))
    }

    pub(super) fn subscribe(&mut self, client: usize) -> Result<(), Trouble> {
        self.clients[client].subscribe(&[("bench", QoS::AtLeastOnce)]);
        self.clients[client].flush();
        self.wait(|event| matches!(event, Event::Subscribed)).map(drop)
    }

    /// Waits for this to happen, whatever else does.
    fn wait(&mut self, is_it: impl Fn(&Event) -> bool) -> Result<(usize, Event), Trouble> {
        loop {
            let mut happened = self.turn()?;
            if let Some(at) = happened.iter().position(|(_, event)| is_it(event)) {
                let found = happened.remove(at);
                // What came behind it is for who asks next.
                self.happened = happened.split_off(at);
                return Ok(found);
            }
        }
    }

    /// Waits until something happens, and says what.
    pub(super) fn turn(&mut self) -> Result<Vec<(usize, Event)>, Trouble> {
        if !self.happened.is_empty() {
            return Ok(std::mem::take(&mut self.happened));
        }
        epoll::wait(&self.epoll, spare_capacity(&mut self.ready), Some(&PATIENCE))?;
        if self.ready.is_empty() {
            return Err(Trouble::new("nothing comes any more"));
        }
        for event in self.ready.drain(..) {
            let client = event.data.u64() as usize;
            self.clients[client].read(&mut self.buffer, &mut self.events)?;
            self.happened.extend(self.events.drain(..).map(|event| (client, event)));
        }
        Ok(std::mem::take(&mut self.happened))
    }

    /// All clients from `first` on publish for so long; gives how many milliseconds each message took.
    fn publish(&mut self, first: usize, time: Duration) -> Result<Vec<f64>, Trouble> {
        let (begin, mut took) = (Instant::now(), Vec::new());
        let mut since = vec![begin; self.clients.len()];
        let mut open = self.clients.len() - first;
        for client in first..self.clients.len() {
            self.clients[client].publish(message(client, 0));
            self.clients[client].flush();
        }
        while open > 0 {
            for (client, event) in self.turn()? {
                match event {
                    Event::Done(token) => {
                        let now = Instant::now();
                        took.push((now - since[client]).as_secs_f64() * 1e3);
                        if now - begin < time {
                            since[client] = now;
                            self.clients[client].publish(message(client, token.number + 1));
                            self.clients[client].flush();
                        } else {
                            open -= 1;
                        }
                    }
                    Event::Closed => return Err(Trouble::new("the broker closed a connection")),
                    _ => {}
                }
            }
        }
        Ok(took)
    }
}

const PAYLOAD_BYTES: usize = 64;
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
