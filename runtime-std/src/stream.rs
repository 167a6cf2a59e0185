//! Streams of the program that block, as a shard sees them: two threads and a pipe.

use culex_runtime::{Pipe, PipeReader, Socket, Stream};
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll};
use std::thread;

/// A blocking stream for [`Handle::accept`](crate::Handle::accept): a [`TcpStream`], a [`UnixStream`], or any pair of a
/// reader and a writer.
///
/// It gets two threads, which end with the connection. That which reads a pair ends only when its read returns, and that
/// which writes when its write does: give sockets whose peer may stop reading a time limit for writing.
///
/// # Errors
/// The stream cannot be cloned, or a thread cannot be started.
pub fn stream(stream: impl Duplex) -> io::Result<Stream> {
    let Halves { mut reader, writer, interrupt } = stream.halves()?;
    let (near, far) = Pipe::pair();
    let (from_broker, mut to_broker) = near.split();
    let thread = |name: &str| thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
    // Each ends when what it copies from or to is gone; nobody is left who could be told why.
    thread("culex-own-read").spawn(move || io::copy(&mut reader, &mut to_broker))?;
    thread("culex-own-write").spawn(move || copy_out(from_broker, writer))?;
    Ok(Stream::new(Pumped { pipe: far, interrupt: Some(interrupt) }))
}

/// A stream that blocks and is read and written at the same time.
pub trait Duplex {
    /// Takes it apart.
    ///
    /// # Errors
    /// It cannot be cloned.
    fn halves(self) -> io::Result<Halves>;
}

/// What a [`Duplex`] is made of.
pub struct Halves {
    /// Reads it.
    pub reader: Box<dyn Read + Send>,
    /// Writes it. Dropping it tells the peer that nothing more will be written.
    pub writer: Box<dyn Write + Send>,
    /// Makes a read that blocks return, if that can be done. What was written is still sent.
    pub interrupt: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Halves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Halves").finish_non_exhaustive()
    }
}

impl<R: Read + Send + 'static, W: Write + Send + 'static> Duplex for (R, W) {
    fn halves(self) -> io::Result<Halves> {
        Ok(Halves { reader: Box::new(self.0), writer: Box::new(self.1), interrupt: Box::new(|| ()) })
    }
}

impl Duplex for TcpStream {
    fn halves(self) -> io::Result<Halves> {
        let (reader, writer) = (self.try_clone()?, self.try_clone()?);
        // Fails if the peer was faster.
        let end = |how| move |socket: &Self| drop(socket.shutdown(how));
        let writer = Ending { writer, end: end(Shutdown::Write) };
        let interrupt = move || end(Shutdown::Read)(&self);
        Ok(Halves { reader: Box::new(reader), writer: Box::new(writer), interrupt: Box::new(interrupt) })
    }
}

impl Duplex for UnixStream {
    fn halves(self) -> io::Result<Halves> {
        let (reader, writer) = (self.try_clone()?, self.try_clone()?);
        // Fails if the peer was faster.
        let end = |how| move |socket: &Self| drop(socket.shutdown(how));
        let writer = Ending { writer, end: end(Shutdown::Write) };
        let interrupt = move || end(Shutdown::Read)(&self);
        Ok(Halves { reader: Box::new(reader), writer: Box::new(writer), interrupt: Box::new(interrupt) })
    }
}

/// A writer that ends its direction.
struct Ending<W, F: Fn(&W)> {
    writer: W,
    end: F,
}

impl<W: Write, F: Fn(&W)> Write for Ending<W, F> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl<W, F: Fn(&W)> Drop for Ending<W, F> {
    fn drop(&mut self) {
        (self.end)(&self.writer);
    }
}

fn copy_out(mut from: PipeReader, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count])?,
        }
        to.flush()?;
    }
}

/// The broker's end of a pipe whose other end is copied.
struct Pumped {
    pipe: Pipe,
    interrupt: Option<Box<dyn FnOnce() + Send>>,
}

impl Drop for Pumped {
    fn drop(&mut self) {
        if let Some(interrupt) = self.interrupt.take() {
            interrupt();
        }
    }
}

impl Socket for Pumped {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Socket::poll_read(&mut self.pipe, cx, buffer)
    }

    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.pipe.try_write_vectored(slices)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe.poll_writable(cx)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.pipe.shutdown_write()
    }
}

/// The stack of a thread that copies.
const STACK_BYTES: usize = 128 * 1024;
/// What is copied at once towards the peer.
const COPY_BYTES: usize = 16 * 1024;
