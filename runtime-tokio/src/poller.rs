//! Sockets that share one registration with tokio.
//!
//! A registration of tokio's and a task cost more memory than all that a broker keeps of an idle client. So the sockets
//! are watched by a poll of their own, which tokio watches, and the task that ends the turns reads those that are ready.

use crate::socket::Connection;
use culex_core::ConnectionId;
use culex_core::id::Id;
use culex_runtime::{Shard, Socket};
use mio::event::{Event, Source};
use mio::{Events, Interest, Poll, Registry, Token};
use rustix::net::{Shutdown, shutdown};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::task::{self, Context, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// Finds out which sockets are ready.
pub(crate) struct Poller {
    poll: AsyncFd<Poll>,
    events: Events,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let poll = watch(Poll::new()?)?;
        Ok(Self { poll, events: Events::with_capacity(EVENTS_MAX) })
    }

    /// Where sockets are registered.
    pub(crate) fn registry(&self) -> io::Result<Registry> {
        self.poll.get_ref().registry().try_clone()
    }

    /// Reads every socket that is ready; wakes the task when others are.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shard: &Shard<Connection>,
    ) -> task::Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.poll.poll_read_ready_mut(cx))?;
            match guard.get_inner_mut().poll(&mut self.events, Some(Duration::ZERO)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            let mut count = 0;
            for event in &self.events {
                count += 1;
                shard.ready(cx, event.token().0 as u32, |socket| socket.note(event));
            }
            if count == EVENTS_MAX {
                // There may be more: after this turn.
                cx.waker().wake_by_ref();
                return task::Poll::Pending;
            }
            guard.clear_ready();
        }
    }
}

/// Lets tokio tell when something can be read.
// What takes its place is unsafe: a type may lie about its descriptor. Those of mio do not.
#[expect(deprecated)]
pub(crate) fn watch<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, tokio::io::Interest::READABLE)
}

/// A socket that a [`Poller`] watches, and what is known of it.
#[derive(Debug)]
pub(crate) struct Polled<S> {
    socket: S,
    readable: bool,
    writable: bool,
    /// The peer writes nothing more, or nothing works any more: it is read to its end.
    ended: bool,
}

impl<S: Source> Polled<S> {
    pub(crate) fn new(registry: &Registry, id: ConnectionId, mut socket: S) -> io::Result<Self> {
        registry.register(
            &mut socket,
            Token(id.index() as usize),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        Ok(Self { socket, readable: false, writable: true, ended: false })
    }

    /// The socket, as it was before.
    pub(crate) fn forget(mut self, registry: &Registry) -> io::Result<S> {
        registry.deregister(&mut self.socket)?;
        Ok(self.socket)
    }
}

impl<S> Polled<S> {
    pub(crate) fn note(&mut self, event: &Event) {
        let ended = event.is_read_closed() || event.is_error();
        self.ended |= ended;
        self.readable |= event.is_readable() || ended;
        self.writable |= event.is_writable() || event.is_write_closed();
    }
}

impl<S: AsFd + Read + Write> Socket for Polled<S> {
    fn poll_read(&mut self, _: &mut Context<'_>, buffer: &mut [u8]) -> task::Poll<io::Result<usize>> {
        if !self.readable {
            return task::Poll::Pending;
        }
        match self.socket.read(buffer) {
            Ok(count) => {
                // After a short read there is nothing more until the poll says so: one system call less.
                self.readable = count == buffer.len() || self.ended;
                task::Poll::Ready(Ok(count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                task::Poll::Pending
            }
            Err(error) => task::Poll::Ready(Err(error)),
        }
    }

    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.socket.write_vectored(slices);
        if matches!(&written, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            self.writable = false;
        }
        written
    }

    fn poll_writable(&mut self, _: &mut Context<'_>) -> task::Poll<io::Result<()>> {
        if self.writable { task::Poll::Ready(Ok(())) } else { task::Poll::Pending }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(shutdown(&self.socket, Shutdown::Write)?)
    }
}

/// How many sockets are read before something is written.
const EVENTS_MAX: usize = 1024;
