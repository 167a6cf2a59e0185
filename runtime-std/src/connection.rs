//! A connection and the thread that reads it.

use crate::poller::Poller;
use crate::shard::Event;
use culex_core::{ConnectionId, Disconnect};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What the shard and the reading thread share.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) stream: TcpStream,
    window: Mutex<Window>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Window {
    /// Bytes read and not yet taken by the machine.
    unread: usize,
    closed: bool,
}

impl Link {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, window: Mutex::default(), moved: Condvar::new() }
    }

    /// The machine took so many bytes.
    pub(crate) fn taken(&self, count: usize) {
        let mut window = self.window();
        let waiting = window.unread >= WINDOW_BYTES;
        window.unread -= count;
        if waiting && window.unread < WINDOW_BYTES {
            self.moved.notify_one();
        }
    }

    /// Writes what fits, although the socket blocks for its reader.
    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(sendmsg(&self.stream, slices, &mut SendAncillaryBuffer::default(), flags)?)
    }

    /// Ends the connection and, with it, its reader.
    pub(crate) fn close(&self) {
        self.window().closed = true;
        self.moved.notify_one();
        // Fails if the peer was faster.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Counts bytes as read, then waits until there is room for more; `false`: closed.
    fn wait(&self) -> bool {
        let window = self.window();
        let full = |window: &mut Window| window.unread >= WINDOW_BYTES && !window.closed;
        !self.moved.wait_while(window, full).unwrap_or_else(PoisonError::into_inner).closed
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that reads a connection until it ends.
pub(crate) fn spawn_reader(
    id: ConnectionId,
    link: Arc<Link>,
    events: SyncSender<Event>,
    poller: Arc<Poller>,
) -> io::Result<()> {
    let thread = thread::Builder::new().name("culex-read".into()).stack_size(STACK_BYTES);
    thread.spawn(move || {
        let cause = read(id, &link, &events);
        drop(link);
        poller.freed();
        // Fails if the broker stopped.
        let _ = events.send(Event::Ended { id, cause });
    })?;
    Ok(())
}

fn read(id: ConnectionId, link: &Link, events: &SyncSender<Event>) -> Disconnect {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = match (&link.stream).read(&mut buffer) {
            Ok(0) => return Disconnect::Eof,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return Disconnect::Error,
        };
        link.window().unread += count;
        if events.send(Event::Bytes { id, bytes: buffer[..count].into() }).is_err() || !link.wait() {
            return Disconnect::Closed;
        }
    }
}

/// A reader's stack; it needs a small part of it.
const STACK_BYTES: usize = 128 * 1024;
/// A reader's buffer.
const READ_BYTES: usize = 16 * 1024;
/// With so many bytes on their way to the machine a reader pauses: it holds at most this and one buffer.
const WINDOW_BYTES: usize = 16 * 1024;
