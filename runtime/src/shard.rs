//! A driver with its connections, for runtimes whose sockets report readiness to a task.
//!
//! One task per connection only reads; its future is an id and a pointer. All read into one buffer. One more task ends
//! the turns: it is woken once, lets every connection that is ready be read first, then writes what all of them left
//! for each peer. Writing in the reading task instead costs a third more where many publish to one.
//!
//! A runtime that learns which sockets are ready without a task for each has no such tasks for them: it
//! [`take`](Shard::take)s the connections and calls [`ready`](Shard::ready).

use crate::{Arrival, Driver, Effect, Stream, Turn, Written};
use culex_core::id::Table;
use culex_core::{Close, ConnectionId, Disconnect, Peer};
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A stream socket that never blocks.
pub trait Socket {
    /// Moves on what the socket keeps of what it took, if it keeps something; `cx` is the task of the connection, to be
    /// woken when it can go on.
    fn poll_output(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }

    /// Reads up to `buffer.len()` bytes; 0: the peer closed. `Pending`: the task is woken when there is more.
    ///
    /// # Errors
    /// The connection is broken.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes what fits.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`]: nothing fits. Any other: the connection is broken.
    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Whether there may be room to write. `Pending`: the task is woken when there is.
    ///
    /// # Errors
    /// The connection is broken.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Tells the peer that nothing more will be written.
    ///
    /// # Errors
    /// The connection is broken.
    fn shutdown_write(&mut self) -> io::Result<()>;
}

/// A socket of a runtime that has several shards: it can go from one to another.
pub trait Movable: Socket + From<Stream> + Sized {
    /// What goes: it belongs to no thread and is waited for by nobody.
    type Loose: Send + 'static;
    /// What a thread waits with, if a socket has to be told.
    type Reactor;

    /// Takes it away from the reactor of this thread.
    ///
    /// # Errors
    /// The connection is broken.
    fn loosen(self, reactor: &Self::Reactor) -> io::Result<Self::Loose>;

    /// Gives it to the reactor of this thread; `true`: it needs no task, see [`Shard::ready`].
    ///
    /// # Errors
    /// The connection cannot be waited for.
    fn fasten(loose: Self::Loose, reactor: &Self::Reactor, id: ConnectionId) -> io::Result<(Self, bool)>;
}

/// What the program gives is bound to no reactor of ours.
impl Movable for Stream {
    type Loose = Self;
    type Reactor = ();

    fn loosen(self, (): &()) -> io::Result<Self> {
        Ok(self)
    }

    fn fasten(loose: Self, (): &(), _: ConnectionId) -> io::Result<(Self, bool)> {
        Ok((loose, false))
    }
}

/// One machine and its connections, shared by the tasks of one thread.
#[derive(Debug)]
pub struct Shard<S: Movable>(Rc<RefCell<Inner<S>>>);

struct Inner<S: Movable> {
    driver: Driver,
    reactor: S::Reactor,
    connections: Table<ConnectionId, Connection<S>>,
    /// Those that the machine gave away, and whose place another one has already.
    leaving: Vec<(ConnectionId, Connection<S>)>,
    buffer: Box<[u8]>,
    /// Whether a turn has begun and is to be ended.
    begun: bool,
    turn: Option<Waker>,
    /// Connections without a task that are to be polled.
    woken: Vec<ConnectionId>,
    /// How many connections were closed so far.
    closed: u64,
    acceptors: Vec<Waker>,
}

struct Connection<S> {
    socket: S,
    task: Option<Waker>,
    /// It has no task and will have none.
    taskless: bool,
    /// The machine said goodbye: wait for the peer to close.
    finishing: bool,
    /// The socket was full.
    full: bool,
}

impl<S> Connection<S> {
    fn new(socket: S, taskless: bool) -> Self {
        Self { socket, task: None, taskless, finishing: false, full: false }
    }
}

impl<S: Movable> Clone for Shard<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Movable> Shard<S> {
    /// A shard without connections.
    #[must_use]
    pub fn new(driver: Driver, reactor: S::Reactor) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            driver,
            reactor,
            connections: Table::default(),
            leaving: Vec::new(),
            buffer: vec![0; READ_BYTES].into(),
            begun: false,
            turn: None,
            woken: Vec::new(),
            closed: 0,
            acceptors: Vec::new(),
        })))
    }

    /// Takes a connection over and returns the task that reads it, to be run on this thread until it ends; `None`: the
    /// machine does not want the connection, it is closed. Dropping the task early loses no data, only reading stops.
    #[must_use]
    pub fn accept(&self, socket: S, peer: Peer) -> Option<impl Future<Output = ()> + use<S>> {
        self.admit(socket, peer).map(|id| self.task(id))
    }

    fn admit(&self, socket: S, peer: Peer) -> Option<ConnectionId> {
        let inner = &mut *self.0.borrow_mut();
        inner.begin();
        let id = inner.driver.accept(peer).ok()?;
        inner.insert(id, Connection::new(socket, false));
        Some(id)
    }

    /// The task that reads a connection.
    fn task(&self, id: ConnectionId) -> impl Future<Output = ()> + use<S> {
        let shard = self.clone();
        poll_fn(move |cx| shard.poll_connection(cx, id))
    }

    fn poll_connection(&self, cx: &mut Context<'_>, id: ConnectionId) -> Poll<()> {
        // Whatever panics, the machine or its chain: it is known which connection it was about, and the others go on.
        catch_unwind(AssertUnwindSafe(|| self.0.borrow_mut().poll_connection(cx, id))).unwrap_or_else(|_| {
            tracing::error!(?id, "a panic: the connection that it was about is closed");
            self.0.borrow_mut().ended(id, Disconnect::Error)
        })
    }

    /// Takes a connection over that has no task: the caller makes its socket, and says from then on when it is
    /// [`ready`](Self::ready). If the machine does not want it, or its socket cannot be made, it is closed.
    pub fn take(&self, peer: Peer, make: impl FnOnce(ConnectionId) -> io::Result<S>) {
        let inner = &mut *self.0.borrow_mut();
        inner.begin();
        let Ok(id) = inner.driver.accept(peer) else { return };
        match make(id) {
            Ok(socket) => inner.insert(id, Connection::new(socket, true)),
            Err(_) => inner.driver.disconnected(id, Disconnect::Error),
        }
    }

    /// The socket of a connection without a task may be ready: the one at this place, [`index`](culex_core::id::Id::index) of its id, as
    /// `note` tells it. In the task that ends the turns.
    pub fn ready(&self, cx: &mut Context<'_>, place: u32, note: impl FnOnce(&mut S)) {
        let id = self.0.borrow_mut().note(place, note);
        if let Some(id) = id {
            let _ = self.poll_connection(cx, id);
        }
    }

    /// Polls the connections without a task that have something to go on with. In the task that ends the turns, before
    /// [`poll_begun`](Self::poll_begun).
    pub fn poll_woken(&self, cx: &mut Context<'_>) {
        let woken = self.0.borrow_mut().take_woken();
        for id in woken {
            let _ = self.poll_connection(cx, id);
        }
    }

    /// Takes the next stream that the program gave, or the next connection that another shard handed over, and returns the
    /// task that reads it, as [`accept`](Self::accept) does. Those that need none are taken on the way.
    #[must_use]
    pub fn accept_given(&self) -> Option<impl Future<Output = ()> + use<S>> {
        loop {
            let moved = self.0.borrow_mut().driver.take_moved();
            if let Some((loose, arrival)) = moved {
                match self.arrive(loose, arrival) {
                    Some(id) => return Some(self.task(id)),
                    None => continue,
                }
            }
            let (stream, peer) = self.0.borrow_mut().driver.take_given()?;
            if let Some(id) = self.admit(stream.into(), peer) {
                return Some(self.task(id));
            }
        }
    }

    /// A connection comes from another shard. Returned if it needs a task.
    fn arrive(&self, loose: S::Loose, arrival: Arrival) -> Option<ConnectionId> {
        let inner = &mut *self.0.borrow_mut();
        inner.begin();
        let id = inner.driver.arrive(&arrival).ok()?;
        let taskless = match S::fasten(loose, &inner.reactor, id) {
            Ok((socket, taskless)) => {
                inner.insert(id, Connection::new(socket, taskless));
                taskless
            }
            Err(error) => {
                tracing::warn!(%error, "cannot wait for a connection: it is closed");
                inner.driver.disconnected(id, Disconnect::Error);
                return None;
            }
        };
        // As with what is read.
        if catch_unwind(AssertUnwindSafe(|| inner.driver.unpack(id, arrival))).is_err() {
            tracing::error!(?id, "a panic: the connection that it was about is closed");
            inner.end(id, Disconnect::Error);
        }
        (!taskless).then_some(id)
    }

    /// Waits for a turn to begin or a command of the program. Then let all other tasks that are ready run once, and call
    /// [`turn`](Self::turn).
    pub fn poll_begun(&self, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.0.borrow_mut();
        // Always ask: it leaves the waker for commands that come later.
        let commands = inner.driver.commands().ready(cx.waker());
        if inner.begun || commands {
            return Poll::Ready(());
        }
        set_waker(&mut inner.turn, cx);
        Poll::Pending
    }

    /// Ends a turn: lets the machine work, does what it wants, and writes.
    #[must_use]
    pub fn turn(&self) -> Turn {
        let inner = &mut *self.0.borrow_mut();
        inner.begun = true;
        let was_stopping = inner.driver.is_stopping();
        inner.driver.work();
        if inner.driver.is_stopping() && !was_stopping {
            inner.acceptors.drain(..).for_each(Waker::wake);
        }
        loop {
            while let Some(effect) = inner.driver.poll_effect() {
                inner.perform(effect);
            }
            if !inner.write() {
                break;
            }
        }
        inner.begun = false;
        inner.driver.end_turn()
    }

    /// Whether the broker says goodbye: stop accepting.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.borrow().driver.is_stopping()
    }

    /// Waits for `future` unless the broker says goodbye first; `None`: it did.
    pub async fn until_stopping<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.is_stopping() {
                return Poll::Ready(None);
            }
            self.0.borrow_mut().remember(cx);
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// How many connections were closed so far, for [`poll_closed`](Self::poll_closed).
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.0.borrow().closed
    }

    /// Waits until more connections than `seen` were closed.
    pub fn poll_closed(&self, cx: &mut Context<'_>, seen: u64) -> Poll<()> {
        let inner = &mut *self.0.borrow_mut();
        if inner.closed != seen {
            return Poll::Ready(());
        }
        inner.remember(cx);
        Poll::Pending
    }
}

impl<S: Movable> Inner<S> {
    /// Wakes the task of a listener up when a connection closes or the broker says goodbye.
    fn remember(&mut self, cx: &Context<'_>) {
        if !self.acceptors.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.acceptors.push(cx.waker().clone());
        }
    }
}

impl<S: Movable> Inner<S> {
    fn note(&mut self, place: u32, note: impl FnOnce(&mut S)) -> Option<ConnectionId> {
        let id = self.connections.id_at(place)?;
        let connection = self.connections.get_mut(id).filter(|connection| connection.taskless)?;
        note(&mut connection.socket);
        Some(id)
    }

    fn take_woken(&mut self) -> Vec<ConnectionId> {
        // Who would be woken to end the turn is awake.
        self.turn = None;
        mem::take(&mut self.woken)
    }

    /// Polls a connection soon.
    fn wake(&mut self, id: ConnectionId) {
        match self.connections.get(id) {
            Some(connection) if connection.taskless => self.woken.push(id),
            Some(Connection { task: Some(task), .. }) => task.wake_by_ref(),
            _ => {}
        }
    }
}

impl<S: Movable> Inner<S> {
    fn insert(&mut self, id: ConnectionId, connection: Connection<S>) {
        self.leaving.extend(self.connections.take_older(id));
        self.connections.insert(id, connection);
    }

    fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            if let Some(waker) = &self.turn {
                waker.wake_by_ref();
            }
        }
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>, id: ConnectionId) -> Poll<()> {
        let Some(connection) = self.connections.get_mut(id) else { return Poll::Ready(()) };
        let taskless = connection.taskless;
        if !taskless {
            set_waker(&mut connection.task, cx);
        }
        connection.socket.poll_output(cx);
        if connection.full {
            match connection.socket.poll_writable(cx) {
                Poll::Ready(Ok(())) => {
                    connection.full = false;
                    self.driver.writable(id);
                    self.begin();
                }
                Poll::Ready(Err(_)) => return self.ended(id, Disconnect::Error),
                Poll::Pending => {}
            }
        }
        loop {
            let Some(connection) = self.connections.get_mut(id) else { return Poll::Ready(()) };
            let wanted =
                if connection.finishing { READ_BYTES } else { self.driver.read_credit(id).min(READ_BYTES) };
            if wanted == 0 {
                return Poll::Pending;
            }
            let count = match connection.socket.poll_read(cx, &mut self.buffer[..wanted]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) if connection.finishing => return self.ended(id, Disconnect::Closed),
                Poll::Ready(Ok(0)) => return self.ended(id, Disconnect::Eof),
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::Interrupted => continue,
                Poll::Ready(Err(_)) => return self.ended(id, Disconnect::Error),
            };
            if !connection.finishing {
                self.driver.receive(id, &self.buffer[..count]);
            }
            self.begin();
            if count == wanted {
                // There may be much more: the others first.
                if taskless {
                    self.woken.push(id);
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn ended(&mut self, id: ConnectionId, cause: Disconnect) -> Poll<()> {
        self.end(id, cause);
        Poll::Ready(())
    }

    fn end(&mut self, id: ConnectionId, cause: Disconnect) {
        let Some(connection) = self.connections.remove(id) else { return };
        // Closed before the machine hears of it: whatever it does about it, the descriptor is free.
        drop(connection.socket);
        if let Some(task) = connection.task {
            task.wake();
        }
        self.driver.disconnected(id, cause);
        self.closed += 1;
        self.acceptors.drain(..).for_each(Waker::wake);
        self.begin();
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Close { id, how: Close::Drop } => self.end(id, Disconnect::Closed),
            Effect::Close { id, how: Close::Finish } => {
                let Some(connection) = self.connections.get_mut(id) else { return };
                connection.finishing = true;
                if connection.socket.shutdown_write().is_err() {
                    return self.end(id, Disconnect::Closed);
                }
                self.wake(id);
            }
            Effect::Credit { id } => self.wake(id),
            Effect::HandOver { id } => self.hand_over(id),
        }
    }

    fn hand_over(&mut self, id: ConnectionId) {
        let connection = self.connections.remove(id).or_else(|| {
            let place = self.leaving.iter().position(|(older, _)| *older == id)?;
            Some(self.leaving.swap_remove(place).1)
        });
        let loose = connection.and_then(|connection| {
            // It ends.
            connection.task.iter().for_each(Waker::wake_by_ref);
            connection.socket.loosen(&self.reactor).ok()
        });
        match loose {
            Some(loose) => self.driver.hand_over(id, loose),
            None => self.driver.disconnected(id, Disconnect::Closed),
        }
    }

    /// Writes once for each connection with output; `false`: there was none.
    fn write(&mut self) -> bool {
        let mut any = false;
        while let Some((id, written)) =
            self.driver.poll_write(|id, slices| match self.connections.get_mut(id) {
                Some(connection) => connection.socket.try_write_vectored(slices),
                None => Err(ErrorKind::NotConnected.into()),
            })
        {
            any = true;
            match (written, self.connections.get_mut(id)) {
                (Written::Full, Some(connection)) => {
                    connection.full = true;
                    self.wake(id);
                }
                (Written::Broken, _) => self.end(id, Disconnect::Error),
                _ => {}
            }
        }
        any
    }
}

impl<S: Movable> fmt::Debug for Inner<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("driver", &self.driver).finish_non_exhaustive()
    }
}

fn set_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

/// The read buffer of a shard. With 16 KiB a message costs a fifth more.
const READ_BYTES: usize = 256 * 1024;
