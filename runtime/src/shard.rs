//! A driver with its connections, for runtimes whose sockets report readiness to a task.
//!
//! One task per connection only reads; its future is an id and a pointer. All read into one buffer. One more task ends
//! the turns: it is woken once, lets every connection that is ready be read first, then writes what all of them left
//! for each peer. Writing in the reading task instead costs a third more where many publish to one.
//!
//! A runtime that learns which sockets are ready without a task for each has no such tasks for them: it
//! [`take`](Shard::take)s the connections and calls [`ready`](Shard::ready).

use crate::{Driver, Effect, Stream, Turn, Written};
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

/// One machine and its connections, shared by the tasks of one thread.
#[derive(Debug)]
pub struct Shard<S>(Rc<RefCell<Inner<S>>>);

struct Inner<S> {
    driver: Driver,
    connections: Table<ConnectionId, Connection<S>>,
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

impl<S> Clone for Shard<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Socket> Shard<S> {
    /// A shard without connections.
    #[must_use]
    pub fn new(driver: Driver) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            driver,
            connections: Table::default(),
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
        let inner = &mut *self.0.borrow_mut();
        inner.begin();
        let id = inner.driver.accept(peer).ok()?;
        inner.connections.insert(id, Connection::new(socket, false));
        let shard = self.clone();
        Some(poll_fn(move |cx| shard.poll_connection(cx, id)))
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
            Ok(socket) => drop(inner.connections.insert(id, Connection::new(socket, true))),
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

    /// Takes the next stream that the program gave and returns the task that reads it, as [`accept`](Self::accept) does.
    #[must_use]
    pub fn accept_given(&self) -> Option<impl Future<Output = ()> + use<S>>
    where
        S: From<Stream>,
    {
        loop {
            let (stream, peer) = self.0.borrow_mut().driver.take_given()?;
            if let Some(connection) = self.accept(stream.into(), peer) {
                return Some(connection);
            }
        }
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

impl<S> Inner<S> {
    /// Wakes the task of a listener up when a connection closes or the broker says goodbye.
    fn remember(&mut self, cx: &Context<'_>) {
        if !self.acceptors.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.acceptors.push(cx.waker().clone());
        }
    }
}

impl<S> Inner<S> {
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

impl<S: Socket> Inner<S> {
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

impl<S> fmt::Debug for Inner<S> {
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
