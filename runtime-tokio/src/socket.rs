//! tokio's sockets and streams as a shard sees them.

use culex_runtime::{AsyncStream, ListenSocket, Movable, Socket, SocketFile, Stream};
use rustix::net::{Shutdown, shutdown};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A stream of tokio's for [`Handle::accept`](crate::Handle::accept), TLS or what else the program put into it included.
pub fn stream(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Stream {
    Stream::of_async(Own(Box::pin(stream)))
}

#[derive(Debug)]
pub(crate) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
    Own(Stream),
}

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// With its file, which goes with it.
    Unix(UnixListener, #[expect(dead_code)] Option<SocketFile>),
}

impl Listener {
    pub(crate) fn new(socket: ListenSocket) -> io::Result<Self> {
        Ok(match socket {
            ListenSocket::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            ListenSocket::Unix(listener, file) => Self::Unix(UnixListener::from_std(listener)?, file),
        })
    }

    pub(crate) async fn accept(&self) -> io::Result<(Connection, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Without it small packets would wait for acknowledgements; without success it is merely slow.
                let _ = stream.set_nodelay(true);
                Ok((Connection::Tcp(stream), Some(address)))
            }
            Self::Unix(listener, _) => Ok((Connection::Unix(listener.accept().await?.0), None)),
        }
    }
}

impl From<Stream> for Connection {
    fn from(stream: Stream) -> Self {
        Self::Own(stream)
    }
}

/// A connection without a reactor.
pub(crate) enum Loose {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Own(Stream),
}

impl Movable for Connection {
    type Loose = Loose;

    fn loosen(self) -> io::Result<Loose> {
        Ok(match self {
            Self::Tcp(stream) => Loose::Tcp(stream.into_std()?),
            Self::Unix(stream) => Loose::Unix(stream.into_std()?),
            Self::Own(stream) => Loose::Own(stream),
        })
    }

    fn fasten(loose: Loose) -> io::Result<Self> {
        Ok(match loose {
            Loose::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream)?),
            Loose::Unix(stream) => Self::Unix(UnixStream::from_std(stream)?),
            Loose::Own(stream) => Self::Own(stream),
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
        // Unlike `try_read` this knows that after a short read there is nothing more: one system call less.
        let mut read = ReadBuf::new(buffer);
        match self {
            Self::Tcp(stream) => ready!(Pin::new(stream).poll_read(cx, &mut read))?,
            Self::Unix(stream) => ready!(Pin::new(stream).poll_read(cx, &mut read))?,
            Self::Own(stream) => return stream.poll_read(cx, buffer),
        }
        Poll::Ready(Ok(read.filled().len()))
    }

    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
            Self::Own(stream) => stream.try_write_vectored(slices),
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
            Self::Own(stream) => stream.poll_writable(cx),
        }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => Ok(shutdown(stream, Shutdown::Write)?),
            Self::Unix(stream) => Ok(shutdown(stream, Shutdown::Write)?),
            Self::Own(stream) => stream.shutdown_write(),
        }
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
