//! async-io's sockets and the streams of its world as a shard sees them.

use async_io::Async;
use culex_core::ConnectionId;
use culex_runtime::{AsyncStream, Movable, Socket, Stream};
use futures_lite::{AsyncRead, AsyncWrite};
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A stream with the traits of `futures` for [`Handle::accept`](crate::Handle::accept), TLS or what else the program put
/// into it included.
pub fn stream(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Stream {
    Stream::of_async(Own(Box::pin(stream)))
}

#[derive(Debug)]
pub(crate) enum Connection {
    /// Of TCP or a Unix socket: the same calls.
    Socket {
        socket: Async<OwnedFd>,
        /// There was nothing more to read: wait before the next try.
        drained: bool,
    },
    Own(Stream),
}

impl Connection {
    pub(crate) fn new(socket: Async<OwnedFd>) -> Self {
        // A client that just connected has seldom sent anything yet.
        Self::Socket { socket, drained: true }
    }
}

impl From<Stream> for Connection {
    fn from(stream: Stream) -> Self {
        Self::Own(stream)
    }
}

/// A connection without a reactor.
pub(crate) enum Loose {
    Socket(OwnedFd),
    Own(Stream),
}

impl Movable for Connection {
    type Loose = Loose;
    type Reactor = ();

    fn loosen(self, (): &()) -> io::Result<Loose> {
        Ok(match self {
            Self::Socket { socket, .. } => Loose::Socket(socket.into_inner()?),
            Self::Own(stream) => Loose::Own(stream),
        })
    }

    fn fasten(loose: Loose, (): &(), _: ConnectionId) -> io::Result<(Self, bool)> {
        let socket = match loose {
            Loose::Socket(socket) => Self::new(Async::new_nonblocking(socket)?),
            Loose::Own(stream) => Self::Own(stream),
        };
        Ok((socket, false))
    }
}

impl Socket for Connection {
    fn poll_output(&mut self, cx: &mut Context<'_>) {
        if let Self::Own(stream) = self {
            stream.poll_output(cx);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let (socket, drained) = match self {
            Self::Socket { socket, drained } => (socket, drained),
            Self::Own(stream) => return stream.poll_read(cx, buffer),
        };
        loop {
            if *drained {
                ready!(socket.poll_readable(cx))?;
                *drained = false;
            }
            let result = recv(socket.get_ref(), &mut *buffer, RecvFlags::empty());
            match result.map(|(count, _)| count).map_err(io::Error::from) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => *drained = true,
                result => {
                    // After a short read there is nothing more: no need to ask the socket.
                    *drained = result.as_ref().is_ok_and(|&count| count > 0 && count < buffer.len());
                    return Poll::Ready(result);
                }
            }
        }
    }

    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Socket { socket, .. } => Ok(rustix::io::writev(socket.get_ref(), slices)?),
            Self::Own(stream) => stream.try_write_vectored(slices),
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Socket { socket, .. } => socket.poll_writable(cx),
            Self::Own(stream) => stream.poll_writable(cx),
        }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Self::Socket { socket, .. } => Ok(shutdown(socket.get_ref(), Shutdown::Write)?),
            Self::Own(stream) => stream.shutdown_write(),
        }
    }
}

/// Any stream that speaks the traits of `futures`.
struct Own<S>(Pin<Box<S>>);

impl<S: AsyncRead + AsyncWrite + Send + 'static> AsyncStream for Own<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_read(cx, buffer)
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(cx, slices)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_close(cx)
    }
}
