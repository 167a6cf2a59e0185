//! tokio's sockets and streams as a shard sees them.

use crate::poller::{Polled, watch};
use culex_core::ConnectionId;
use culex_runtime::{AsyncStream, ListenSocket, Movable, Socket, SocketFile, Stream};
use mio::Registry;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// A stream of tokio's for [`Handle::accept`](crate::Handle::accept), TLS or what else the program put into it included.
pub fn stream(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Stream {
    Stream::of_async(Own(Box::pin(stream)))
}

#[derive(Debug)]
pub(crate) enum Connection {
    Tcp(Polled<TcpStream>),
    Unix(Polled<UnixStream>),
    Own(Stream),
}

impl Connection {
    /// The poll has news of it.
    pub(crate) fn note(&mut self, event: &Event) {
        match self {
            Self::Tcp(socket) => socket.note(event),
            Self::Unix(socket) => socket.note(event),
            Self::Own(_) => {}
        }
    }

    fn socket(&mut self) -> &mut dyn Socket {
        match self {
            Self::Tcp(socket) => socket,
            Self::Unix(socket) => socket,
            Self::Own(stream) => stream,
        }
    }
}

/// A connection that was accepted and is not watched yet.
pub(crate) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Accepted {
    pub(crate) fn register(self, registry: &Registry, id: ConnectionId) -> io::Result<Connection> {
        Ok(match self {
            Self::Tcp(stream) => Connection::Tcp(Polled::new(registry, id, stream)?),
            Self::Unix(stream) => Connection::Unix(Polled::new(registry, id, stream)?),
        })
    }
}

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(AsyncFd<TcpListener>),
    /// With its file, which goes with it.
    Unix(AsyncFd<UnixListener>, #[expect(dead_code)] Option<SocketFile>),
}

impl Listener {
    pub(crate) fn new(socket: ListenSocket) -> io::Result<Self> {
        Ok(match socket {
            ListenSocket::Tcp(listener) => Self::Tcp(watch(TcpListener::from_std(listener))?),
            ListenSocket::Unix(listener, file) => Self::Unix(watch(UnixListener::from_std(listener))?, file),
        })
    }

    pub(crate) async fn accept(&self) -> io::Result<(Accepted, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let accept = |listener: &TcpListener| listener.accept();
                let (stream, address) = listener.async_io(Interest::READABLE, accept).await?;
                if !ListenSocket::GIVES_NODELAY {
                    let _ = stream.set_nodelay(true);
                }
                Ok((Accepted::Tcp(stream), Some(address)))
            }
            Self::Unix(listener, _) => {
                let accept = |listener: &UnixListener| listener.accept();
                Ok((Accepted::Unix(listener.async_io(Interest::READABLE, accept).await?.0), None))
            }
        }
    }
}

impl From<Stream> for Connection {
    fn from(stream: Stream) -> Self {
        Self::Own(stream)
    }
}

/// A connection that no poll watches.
pub(crate) enum Loose {
    Tcp(TcpStream),
    Unix(UnixStream),
    Own(Stream),
}

impl Movable for Connection {
    type Loose = Loose;
    type Reactor = Registry;

    fn loosen(self, registry: &Registry) -> io::Result<Loose> {
        Ok(match self {
            Self::Tcp(socket) => Loose::Tcp(socket.forget(registry)?),
            Self::Unix(socket) => Loose::Unix(socket.forget(registry)?),
            Self::Own(stream) => Loose::Own(stream),
        })
    }

    fn fasten(loose: Loose, registry: &Registry, id: ConnectionId) -> io::Result<(Self, bool)> {
        Ok(match loose {
            Loose::Tcp(stream) => (Accepted::Tcp(stream).register(registry, id)?, true),
            Loose::Unix(stream) => (Accepted::Unix(stream).register(registry, id)?, true),
            Loose::Own(stream) => (Self::Own(stream), false),
        })
    }
}

impl Socket for Connection {
    fn poll_output(&mut self, cx: &mut Context<'_>) {
        if let Self::Own(stream) = self {
            stream.poll_output(cx);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => socket.poll_read(cx, buffer),
            socket => socket.socket().poll_read(cx, buffer),
        }
    }

    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write_vectored(slices),
            socket => socket.socket().try_write_vectored(slices),
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_writable(cx)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.socket().shutdown_write()
    }
}

/// Any stream that speaks tokio's traits.
struct Own<S>(Pin<Box<S>>);

impl<S: AsyncRead + AsyncWrite + Send + 'static> AsyncStream for Own<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(self.0.as_mut().poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
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
        self.0.as_mut().poll_shutdown(cx)
    }
}
