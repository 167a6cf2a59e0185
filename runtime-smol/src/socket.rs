//! async-io's socket as a shard sees it.

use async_io::Async;
use culex_runtime::Socket;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::task::{Context, Poll, ready};

#[derive(Debug)]
pub(crate) struct Stream {
    socket: Async<TcpStream>,
    /// There was nothing more to read: wait before the next try.
    drained: bool,
}

impl Stream {
    pub(crate) fn new(socket: Async<TcpStream>) -> Self {
        // A client that just connected has seldom sent anything yet.
        Self { socket, drained: true }
    }
}

impl Socket for Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.drained {
                ready!(self.socket.poll_readable(cx))?;
                self.drained = false;
            }
            match self.socket.get_ref().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.drained = true,
                result => {
                    // After a short read there is nothing more: no need to ask the socket.
                    self.drained = result.as_ref().is_ok_and(|&count| count > 0 && count < buffer.len());
                    return Poll::Ready(result);
                }
            }
        }
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.get_ref().write_vectored(slices)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_writable(cx)
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.socket.get_ref().shutdown(Shutdown::Write)
    }
}
