//! Messages in bursts: every publisher writes some at once, and the next ones when all of these have arrived (and were
//! acknowledged). So how many messages the broker finds in one read is said by the case and hardly by who is faster.

use crate::Trouble;
use crate::client::{Client, Heard, publish};
use crate::stream::Place;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who sends how much to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    /// Publishers, each with subscribers of its own.
    pub(crate) groups: usize,
    pub(crate) subscribers: usize,
    pub(crate) qos: u8,
    /// Messages in flight per group.
    pub(crate) burst: u64,
}

/// The clients of a case, all on one thread.
pub(crate) struct Load {
    case: Case,
    clients: Vec<Client>,
    groups: Vec<Group>,
    /// How many messages each client received; for publishers how many acknowledgements.
    received: Vec<u64>,
    epoll: OwnedFd,
    /// Clients that have something to write, at most once each.
    dirty: Vec<usize>,
    is_dirty: Vec<bool>,
    buffer: Box<[u8]>,
    packet: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Group {
    topic: String,
    sent: u64,
    /// Messages and acknowledgements on their way.
    open: u64,
}

impl Load {
    /// Connects and subscribes.
    pub(crate) fn connect(
        case: Case,
        place: &Place,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, Trouble> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (mut clients, mut groups) = (Vec::new(), Vec::new());
        for group in 0..case.groups {
            let topic = format!("bench/{group}");
            clients.push(Client::connect(place, tls, &format!("p{group}"))?);
            for subscriber in 0..case.subscribers {
                let mut client = Client::connect(place, tls, &format!("s{group}-{subscriber}"))?;
                client.subscribe(&topic, case.qos)?;
                clients.push(client);
            }
            groups.push(Group { topic, sent: 0, open: 0 });
        }
        for (index, client) in clients.iter().enumerate() {
            client.stream.unblock()?;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &client.stream, data, epoll::EventFlags::IN)?;
        }
        let count = clients.len();
        let (received, is_dirty) = (vec![0; count], vec![false; count]);
        let buffer = vec![0; READ_BYTES].into();
        Ok(Self { case, clients, groups, received, epoll, dirty: vec![], is_dirty, buffer, packet: vec![] })
    }

    /// Sends for so long, waits for all that is on its way, and says how many messages arrived.
    pub(crate) fn run(&mut self, time: Duration) -> Result<u64, Trouble> {
        let delivered = |load: &Self| load.groups.iter().map(|group| group.sent).sum::<u64>();
        let (before, until) = (delivered(self), Instant::now() + time);
        (0..self.groups.len()).for_each(|group| self.burst(group));
        let mut events = Vec::with_capacity(self.clients.len());
        while self.groups.iter().any(|group| group.open > 0) {
            self.flush()?;
            // With a full socket look again soon: it happens hardly ever.
            let wait = if self.dirty.is_empty() { PATIENCE } else { SOON };
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait))?;
            if events.is_empty() && self.dirty.is_empty() {
                return Err(Trouble::new("messages were lost: nothing comes any more"));
            }
            let sending = Instant::now() < until;
            for event in events.drain(..) {
                self.read(event.data.u64() as usize, sending)?;
            }
        }
        self.flush()?;
        Ok((delivered(self) - before) * self.case.subscribers as u64)
    }

    fn burst(&mut self, group: usize) {
        let Case { subscribers, qos, burst, .. } = self.case;
        let publisher = group * (1 + subscribers);
        let group = &mut self.groups[group];
        for _ in 0..burst {
            publish(&group.topic, qos, group.sent, &mut self.packet);
            self.clients[publisher].stream.put(&self.packet);
            group.sent += 1;
        }
        group.open = burst * (subscribers as u64 + u64::from(qos > 0));
        self.touch(publisher);
    }

    fn read(&mut self, client: usize, sending: bool) -> Result<(), Trouble> {
        let group = client / (1 + self.case.subscribers);
        self.clients[client].fill(&mut self.buffer)?;
        while let Some(heard) = self.clients[client].heard()? {
            match heard {
                Heard::Publish(number, id) if number == self.received[client] => {
                    if let Some([high, low]) = id {
                        self.clients[client].stream.put(&[0x40, 2, high, low]);
                        self.touch(client);
                    }
                }
                Heard::Puback => {}
                heard => {
                    let expected = self.received[client];
                    return Err(Trouble::new(format!("expected message {expected}, got {heard:?}")));
                }
            }
            self.received[client] += 1;
            self.groups[group].open -= 1;
        }
        if self.groups[group].open == 0 && sending {
            self.burst(group);
        }
        Ok(())
    }

    fn touch(&mut self, client: usize) {
        if !std::mem::replace(&mut self.is_dirty[client], true) {
            self.dirty.push(client);
        }
    }

    fn flush(&mut self) -> Result<(), Trouble> {
        let mut full = Vec::new();
        for client in self.dirty.drain(..) {
            match self.clients[client].stream.flush()? {
                true => self.is_dirty[client] = false,
                false => full.push(client),
            }
        }
        self.dirty = full;
        Ok(())
    }
}

const READ_BYTES: usize = 256 * 1024;
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
