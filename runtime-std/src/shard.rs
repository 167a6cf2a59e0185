//! The thread that owns the machine.

use crate::connection::{Link, Route, Wire, spawn_reader};
use crate::poller::Poller;
use culex_core::id::Table;
use culex_core::{Close, ConnectionId, Disconnect, Peer};
use culex_runtime::{Arrival, Driver, Effect, Sockets, Turn, Written};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Instant;

/// What the other threads report.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client connected.
    Accepted { socket: OwnedFd, address: Option<SocketAddr>, listener: u16 },
    /// A client sent something.
    Bytes { id: ConnectionId, bytes: Box<[u8]> },
    /// Nothing more comes from a client.
    Ended { id: ConnectionId, cause: Disconnect },
    /// A full socket has room again.
    Writable(ConnectionId),
    /// The program wants something.
    Command,
}

/// Serves a shard until the program shuts the broker down.
pub(crate) fn run(driver: Driver, listeners: Sockets) -> io::Result<()> {
    let (sender, events) = sync_channel(EVENTS_MAX);
    let (poller, thread) = Poller::spawn(listeners, sender.clone())?;
    let waker = Arc::new(Sender(sender.clone())).into();
    let shard = Shard {
        driver,
        connections: Table::default(),
        leaving: Vec::new(),
        refusing: false,
        sender,
        poller: poller.clone(),
        waker,
        full: Vec::new(),
    };
    shard.run(&events);
    // First, so that the poller does not wait for room.
    drop(events);
    poller.stop();
    thread.join().map_err(|_| io::Error::other("the poller panicked"))
}

struct Shard {
    driver: Driver,
    connections: Table<ConnectionId, Connection>,
    /// Those that the machine gave away, and whose place another one has already.
    leaving: Vec<(ConnectionId, Connection)>,
    refusing: bool,
    sender: SyncSender<Event>,
    poller: Arc<Poller>,
    waker: Waker,
    /// Streams of the program that were full.
    full: Vec<ConnectionId>,
}

struct Connection {
    link: Arc<Link>,
    /// What was read and the machine could not take yet.
    held: VecDeque<Box<[u8]>>,
    /// It may still go to another shard.
    stepping: bool,
    /// What the machine took and the reader does not know of, because the connection may be about to go.
    owed: usize,
    /// The reader ended; the machine hears of it after what is held.
    ended: Option<Disconnect>,
    /// The machine said goodbye: wait for the peer to close.
    finishing: bool,
}

impl Connection {
    /// Lets the reader know what was taken, unless the connection may still go to another shard with it; `false`: then
    /// there is nothing to be done before it has gone, or is to be read again.
    fn settle(&mut self, id: ConnectionId, driver: &Driver) -> bool {
        if self.stepping {
            let may_leave = !self.finishing && driver.may_leave(id);
            if may_leave && driver.read_credit(id) == 0 {
                return false;
            }
            if !may_leave {
                self.stepping = false;
                self.link.stays();
            }
        }
        self.link.taken(std::mem::take(&mut self.owed));
        true
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl Shard {
    fn run(mut self, events: &Receiver<Event>) {
        let mut deadline = None;
        loop {
            if let Some(event) = self.wait(events, deadline) {
                self.take(event);
                // Everything that is there is read before anything is written; with an end, so that it is written.
                for event in events.try_iter().take(EVENTS_MAX) {
                    self.take(event);
                }
            }
            match self.turn() {
                Turn::Wait(next) => deadline = next,
                Turn::Stop => return,
            }
        }
    }

    fn wait(&self, events: &Receiver<Event>, deadline: Option<Instant>) -> Option<Event> {
        if self.driver.commands().ready(&self.waker) {
            return events.try_recv().ok();
        }
        let Some(deadline) = deadline else { return events.recv().ok() };
        events.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// Whatever panics, the machine or its chain: it is known which connection it was about, and the others go on.
    fn take(&mut self, event: Event) {
        let id = match &event {
            Event::Bytes { id, .. } | Event::Ended { id, .. } => Some(*id),
            _ => None,
        };
        match (catch_unwind(AssertUnwindSafe(|| self.input(event))), id) {
            (Ok(()), _) => {}
            (Err(_), Some(id)) => {
                tracing::error!(?id, "a panic: the connection that it was about is closed");
                self.end(id, Disconnect::Error);
            }
            (Err(payload), None) => resume_unwind(payload),
        }
    }

    fn input(&mut self, event: Event) {
        match event {
            Event::Accepted { socket, address, listener } => {
                self.accept(Wire::Socket(socket), Peer { address, listener, identity: None });
            }
            Event::Bytes { id, bytes } => {
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.held.push_back(bytes);
                    self.feed(id);
                }
            }
            Event::Ended { id, cause } => {
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.ended = Some(cause);
                    self.feed(id);
                }
            }
            Event::Writable(id) => self.driver.writable(id),
            Event::Command => {}
        }
    }

    fn accept(&mut self, wire: Wire, peer: Peer) {
        let Ok(id) = self.driver.accept(peer) else { return };
        let stepping = self.driver.may_leave(id);
        let link = Arc::new(Link::new(wire, stepping));
        if let Err(error) = spawn_reader(self.route(id), link.clone()) {
            tracing::warn!(%error, "cannot start a thread for a connection");
            return self.driver.disconnected(id, Disconnect::Error);
        }
        let connection =
            Connection { link, held: VecDeque::new(), stepping, owed: 0, ended: None, finishing: false };
        self.insert(id, connection);
    }

    fn insert(&mut self, id: ConnectionId, connection: Connection) {
        self.leaving.extend(self.connections.take_older(id));
        self.connections.insert(id, connection);
    }

    fn route(&self, id: ConnectionId) -> Route {
        Route { id, events: self.sender.clone(), poller: self.poller.clone() }
    }

    /// A connection comes from another shard, with its reader, which waits.
    fn arrive(&mut self, connection: Connection, arrival: Arrival) {
        let Ok(id) = self.driver.arrive(&arrival) else { return };
        connection.link.moves(self.route(id));
        self.insert(id, connection);
        let unpack = || {
            self.driver.unpack(id, arrival);
            self.feed(id);
        };
        // As with what is read.
        if catch_unwind(AssertUnwindSafe(unpack)).is_err() {
            tracing::error!(?id, "a panic: the connection that it was about is closed");
            self.end(id, Disconnect::Error);
        }
    }

    fn hand_over(&mut self, id: ConnectionId) {
        let connection = self.connections.remove(id).or_else(|| {
            let place = self.leaving.iter().position(|(older, _)| *older == id)?;
            Some(self.leaving.swap_remove(place).1)
        });
        match connection {
            Some(connection) => self.driver.hand_over(id, connection),
            None => self.driver.disconnected(id, Disconnect::Closed),
        }
    }

    /// Gives the machine as much of what is held as it takes.
    fn feed(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.owed > 0 && !connection.settle(id, &self.driver) {
            return;
        }
        while let Some(bytes) = connection.held.pop_front() {
            let credit = if connection.finishing { usize::MAX } else { self.driver.read_credit(id) };
            let (now, later) = bytes.split_at(credit.min(bytes.len()));
            if !connection.finishing && !now.is_empty() {
                self.driver.receive(id, now);
            }
            connection.owed = now.len();
            let settled = connection.settle(id, &self.driver);
            if !later.is_empty() {
                connection.held.push_front(later.into());
            }
            if now.is_empty() || !settled {
                return;
            }
        }
        match connection.ended {
            Some(_) if connection.finishing => self.end(id, Disconnect::Closed),
            Some(cause) => self.end(id, cause),
            None => {}
        }
    }

    fn end(&mut self, id: ConnectionId, cause: Disconnect) {
        let Some(connection) = self.connections.remove(id) else { return };
        drop(connection);
        self.poller.freed();
        self.driver.disconnected(id, cause);
    }

    fn turn(&mut self) -> Turn {
        while let Some((connection, arrival)) = self.driver.take_moved() {
            self.arrive(connection, arrival);
        }
        while let Some((stream, peer)) = self.driver.take_given() {
            self.accept(Wire::Own(Mutex::new(Some(stream))), peer);
        }
        self.offer();
        self.driver.work();
        if self.driver.is_stopping() && !self.refusing {
            self.refusing = true;
            self.poller.refuse();
        }
        loop {
            while let Some(effect) = self.driver.poll_effect() {
                self.perform(effect);
            }
            if !self.write() {
                return self.driver.end_turn();
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Close { id, how: Close::Drop } => self.end(id, Disconnect::Closed),
            Effect::Close { id, how: Close::Finish } => {
                let Some(connection) = self.connections.get_mut(id) else { return };
                connection.finishing = true;
                if connection.link.shutdown_write().is_err() {
                    return self.end(id, Disconnect::Closed);
                }
                self.feed(id);
            }
            Effect::Credit { id } => self.feed(id),
            Effect::HandOver { id } => self.hand_over(id),
        }
    }

    /// Looks which full streams of the program have room again.
    fn offer(&mut self) {
        let Self { full, connections, driver, waker, .. } = self;
        full.retain(|id| {
            let has_room = connections.get(*id).is_none_or(|connection| connection.link.poll_writable(waker));
            if has_room {
                driver.writable(*id);
            }
            !has_room
        });
    }

    /// Writes once for each connection with output; `false`: there was none.
    fn write(&mut self) -> bool {
        let mut any = false;
        while let Some((id, written)) = self.driver.poll_write(|id, slices| match self.connections.get(id) {
            Some(connection) => connection.link.try_write_vectored(slices),
            None => Err(ErrorKind::NotConnected.into()),
        }) {
            any = true;
            match (written, self.connections.get(id)) {
                (Written::Full, Some(connection)) if connection.link.socket().is_some() => {
                    self.poller.watch(id, connection.link.clone());
                }
                // It is looked at in the next turn; whether there is one at once, its waker says.
                (Written::Full, Some(connection)) => {
                    self.full.push(id);
                    if connection.link.poll_writable(&self.waker) {
                        self.waker.wake_by_ref();
                    }
                }
                (Written::Broken, _) => self.end(id, Disconnect::Error),
                _ => {}
            }
        }
        any
    }
}

/// Wakes the shard up for commands of the program.
struct Sender(SyncSender<Event>);

impl Wake for Sender {
    fn wake(self: Arc<Self>) {
        // Fails when the queue is full: then the shard is awake and looks for commands anyway.
        let _ = self.0.try_send(Event::Command);
    }
}

/// Events that wait for the shard; who reports more waits.
const EVENTS_MAX: usize = 1024;
