//! A connection and the thread that reads it.

use crate::poller::Poller;
use crate::shard::Event;
use culex_core::{ConnectionId, Disconnect};
use culex_runtime::{Socket, Stream};
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown, sendmsg, shutdown};
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// What the shard and the reading thread share.
#[derive(Debug)]
pub(crate) struct Link {
    wire: Wire,
    window: Mutex<Window>,
    moved: Condvar,
}

/// What carries the bytes.
#[derive(Debug)]
pub(crate) enum Wire {
    /// A socket of TCP or a Unix socket, which blocks for its reader.
    Socket(OwnedFd),
    /// A stream of the program. `None`: it is closed.
    Own(Mutex<Option<Stream>>),
}

#[derive(Debug, Default)]
struct Window {
    /// Bytes read and not yet taken by the machine.
    unread: usize,
    closed: bool,
    /// The connection may go to another shard: the reader waits for each piece to be taken.
    stepping: bool,
    /// It has gone to another shard: from now on the reader reports here.
    route: Option<Route>,
    /// The reader of a stream of the program, while it waits.
    reader: Option<Waker>,
}

/// Where a reader reports what it reads.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) id: ConnectionId,
    pub(crate) events: SyncSender<Event>,
    pub(crate) poller: Arc<Poller>,
}

impl Link {
    /// While it is `stepping` the reader waits for each piece to be taken.
    pub(crate) fn new(wire: Wire, stepping: bool) -> Self {
        let window = Window { stepping, ..Window::default() };
        Self { wire, window: Mutex::new(window), moved: Condvar::new() }
    }

    /// The connection stays where it is: the reader need not wait for each piece any more.
    pub(crate) fn stays(&self) {
        self.window().stepping = false;
        self.moved.notify_one();
    }

    /// The connection is at another shard. Its reader waits.
    pub(crate) fn moves(&self, route: Route) {
        self.window().route = Some(route);
    }

    /// The socket, for who waits until it has room; `None`: ask [`poll_writable`](Self::poll_writable).
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.wire {
            Wire::Socket(socket) => Some(socket.as_fd()),
            Wire::Own(_) => None,
        }
    }

    /// The machine took so many bytes.
    pub(crate) fn taken(&self, count: usize) {
        let mut window = self.window();
        let waiting = window.is_full();
        window.unread -= count;
        if waiting && !window.is_full() {
            self.moved.notify_one();
        }
    }

    /// Writes what fits, although the socket blocks for its reader.
    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.wire {
            Wire::Socket(socket) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                Ok(sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), flags)?)
            }
            Wire::Own(stream) => match &mut *lock(stream) {
                Some(stream) => stream.try_write_vectored(slices),
                None => Err(ErrorKind::NotConnected.into()),
            },
        }
    }

    /// Whether a stream of the program has room; if not, `waker` is woken once there is.
    pub(crate) fn poll_writable(&self, waker: &Waker) -> bool {
        let Wire::Own(stream) = &self.wire else { return true };
        let Some(stream) = &mut *lock(stream) else { return true };
        // What is broken is written to as well: that tells it.
        stream.poll_writable(&mut Context::from_waker(waker)).is_ready()
    }

    /// Tells the peer that nothing more will be written.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match &self.wire {
            Wire::Socket(socket) => Ok(shutdown(socket, Shutdown::Write)?),
            Wire::Own(stream) => lock(stream).as_mut().map_or(Ok(()), Stream::shutdown_write),
        }
    }

    /// Ends the connection and, with it, its reader.
    pub(crate) fn close(&self) {
        let mut window = self.window();
        window.closed = true;
        let reader = window.reader.take();
        drop(window);
        self.moved.notify_one();
        match &self.wire {
            // Fails if the peer was faster.
            Wire::Socket(socket) => drop(shutdown(socket, Shutdown::Both)),
            Wire::Own(stream) => {
                let stream = lock(stream).take();
                drop(stream);
            }
        }
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Reads, blocking, into an empty buffer; 0: the peer closed, or the connection was.
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match &self.wire {
            Wire::Socket(socket) => Ok(rustix::io::read(socket, rustix::buffer::spare_capacity(buffer))?),
            Wire::Own(stream) => {
                buffer.resize(READ_BYTES, 0);
                let waker = thread_waker();
                loop {
                    self.window().reader = Some(waker.clone());
                    let cx = &mut Context::from_waker(&waker);
                    match &mut *lock(stream) {
                        None => return Ok(0),
                        Some(stream) => {
                            stream.poll_output(cx);
                            if let Poll::Ready(result) = stream.poll_read(cx, buffer) {
                                return result;
                            }
                        }
                    }
                    thread::park();
                }
            }
        }
    }

    /// Waits until there is room for more, and says where to report it if that has changed; `None`: closed.
    fn wait(&self) -> Option<Option<Route>> {
        let window = self.window();
        let full = |window: &mut Window| window.is_full() && !window.closed;
        let mut window = self.moved.wait_while(window, full).unwrap_or_else(PoisonError::into_inner);
        if window.closed { None } else { Some(window.route.take()) }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        lock(&self.window)
    }
}

impl Window {
    fn is_full(&self) -> bool {
        self.unread >= if self.stepping { 1 } else { WINDOW_BYTES }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes up this thread.
fn thread_waker() -> Waker {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    Arc::new(Unpark(thread::current())).into()
}

/// Starts the thread that reads a connection until it ends.
pub(crate) fn spawn_reader(route: Route, link: Arc<Link>) -> io::Result<()> {
    let thread = thread::Builder::new().name("culex-read".into()).stack_size(STACK_BYTES);
    thread.spawn(move || {
        let mut route = route;
        let cause = read(&mut route, &link);
        drop(link);
        let Route { id, events, poller } = route;
        poller.freed();
        // Fails if the broker stopped.
        let _ = events.send(Event::Ended { id, cause });
    })?;
    Ok(())
}

fn read(route: &mut Route, link: &Link) -> Disconnect {
    // Not filled with zeros: what a connection never reads into costs it no memory.
    let mut buffer = Vec::with_capacity(READ_BYTES);
    loop {
        buffer.clear();
        let count = match link.read(&mut buffer) {
            Ok(0) => return Disconnect::Eof,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return Disconnect::Error,
        };
        link.window().unread += count;
        if route.events.send(Event::Bytes { id: route.id, bytes: buffer[..count].into() }).is_err() {
            return Disconnect::Closed;
        }
        match link.wait() {
            None => return Disconnect::Closed,
            Some(None) => {}
            Some(Some(other)) => *route = other,
        }
    }
}

/// A reader's stack; it needs a small part of it.
const STACK_BYTES: usize = 128 * 1024;
/// A reader's buffer.
const READ_BYTES: usize = 16 * 1024;
/// With so many bytes on their way to the machine a reader pauses: it holds at most this and one buffer.
const WINDOW_BYTES: usize = 16 * 1024;
