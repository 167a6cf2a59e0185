//! A connection without a socket: two bounded buffers in memory.

use crate::Socket;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// One end of a connection inside the program.
///
/// It reads and writes in three ways: blocking, by [`Read`] and [`Write`]; by [`poll_read`](PipeReader::poll_read) and
/// [`poll_write`](PipeWriter::poll_write) of its halves, in any async code; and with the features `tokio` and `futures` by
/// the traits of these. Each direction keeps at most [`BYTES_MAX`](Self::BYTES_MAX); who writes more waits. Dropping an
/// end is the end of the stream for the other.
#[derive(Debug)]
pub struct Pipe {
    reader: PipeReader,
    writer: PipeWriter,
}

/// The half of a [`Pipe`] that reads. Dropping it makes the other end's writes fail.
#[derive(Debug)]
pub struct PipeReader {
    way: Arc<Mutex<Way>>,
    timeout: Option<Duration>,
}

/// The half of a [`Pipe`] that writes. Dropping it is the end of the stream for the other end, after what was written.
#[derive(Debug)]
pub struct PipeWriter {
    way: Arc<Mutex<Way>>,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    bytes: VecDeque<u8>,
    /// Nothing more is written.
    ended: bool,
    /// Nothing more is read.
    deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    /// What one direction keeps at most, in bytes.
    pub const BYTES_MAX: usize = 64 * 1024;

    /// Both ends of a new connection.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let (there, back) = (Arc::<Mutex<Way>>::default(), Arc::<Mutex<Way>>::default());
        let end = |reader: &Arc<Mutex<Way>>, writer: &Arc<Mutex<Way>>| Self {
            reader: PipeReader { way: reader.clone(), timeout: None },
            writer: PipeWriter { way: writer.clone() },
        };
        (end(&back, &there), end(&there, &back))
    }

    /// Its halves, for two threads or tasks.
    #[must_use]
    pub fn split(self) -> (PipeReader, PipeWriter) {
        (self.reader, self.writer)
    }

    /// How long a blocking read waits before it fails with [`ErrorKind::TimedOut`]; `None`, as it begins: for ever.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.reader.timeout = timeout;
    }
}

impl PipeReader {
    /// Reads what there is; 0: the other end writes nothing more.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<usize> {
        let mut way = lock(&self.way);
        if way.bytes.is_empty() && !way.ended && !buffer.is_empty() {
            way.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // Reading of a queue in memory cannot fail.
        let count = way.bytes.read(buffer).unwrap_or(0);
        if way.bytes.is_empty() {
            // An idle connection keeps no buffer.
            way.bytes = VecDeque::new();
        }
        let waker = way.writer.take();
        wake(way, waker);
        Poll::Ready(count)
    }
}

impl PipeWriter {
    /// Writes what fits.
    ///
    /// # Errors
    /// [`ErrorKind::BrokenPipe`]: the other end reads nothing more, or [`end`](Self::end) was called.
    pub fn poll_write(&self, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.try_write_vectored(slices, Some(cx.waker())) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }

    /// Writes what fits; if nothing does, `waker` is woken once something may.
    fn try_write_vectored(&self, slices: &[IoSlice<'_>], waker: Option<&Waker>) -> io::Result<usize> {
        let mut way = lock(&self.way);
        if way.deaf || way.ended {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let before = way.bytes.len();
        for slice in slices {
            let room = Pipe::BYTES_MAX - way.bytes.len();
            way.bytes.extend(&slice[..slice.len().min(room)]);
        }
        let count = way.bytes.len() - before;
        if count == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            way.writer = waker.cloned().or(way.writer.take());
            return Err(ErrorKind::WouldBlock.into());
        }
        let waker = way.reader.take();
        wake(way, waker);
        Ok(count)
    }

    /// Waits until something fits or the other end is gone.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut way = lock(&self.way);
        if way.bytes.len() < Pipe::BYTES_MAX || way.deaf {
            return Poll::Ready(());
        }
        way.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Writes nothing more: the end of the stream for the other end, after what was written.
    pub fn end(&self) {
        let mut way = lock(&self.way);
        way.ended = true;
        let waker = way.reader.take();
        wake(way, waker);
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut way = lock(&self.way);
        way.deaf = true;
        way.bytes = VecDeque::new();
        let waker = way.writer.take();
        wake(way, waker);
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.end();
    }
}

impl Socket for Pipe {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.reader.poll_read(cx, buffer).map(Ok)
    }

    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.writer.try_write_vectored(slices, None)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_writable(cx).map(Ok)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.writer.end();
        Ok(())
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        block_on(self.timeout, |cx| self.poll_read(cx, buffer)).ok_or_else(|| ErrorKind::TimedOut.into())
    }
}

impl Write for PipeWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        block_on(None, |cx| self.poll_write(cx, buffer)).unwrap_or(Ok(0))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl Write for Pipe {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    // No code that can panic runs under the lock.
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Never under the lock: the waker is somebody else's code.
fn wake(way: MutexGuard<'_, Way>, waker: Option<Waker>) {
    drop(way);
    if let Some(waker) = waker {
        waker.wake();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks the thread until `poll` is ready; `None`: not in time.
fn block_on<T>(timeout: Option<Duration>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let waker = Arc::new(Unpark(thread::current())).into();
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        if let Poll::Ready(ready) = poll(&mut Context::from_waker(&waker)) {
            return Some(ready);
        }
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return None,
            Some(left) => thread::park_timeout(left),
            None => thread::park(),
        }
    }
}

#[cfg(feature = "futures")]
mod futures {
    use super::{Pipe, PipeReader, PipeWriter};
    use futures_io::{AsyncRead, AsyncWrite};
    use std::io::{self, IoSlice};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    impl AsyncRead for PipeReader {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            PipeReader::poll_read(&self, cx, buffer).map(Ok)
        }
    }

    impl AsyncWrite for PipeWriter {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
            PipeWriter::poll_write(&self, cx, buffer)
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            PipeWriter::poll_write_vectored(&self, cx, slices)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.end();
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Pipe {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            self.reader.poll_read(cx, buffer).map(Ok)
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
            self.writer.poll_write(cx, buffer)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.writer.end();
            Poll::Ready(Ok(()))
        }
    }
}

#[cfg(feature = "tokio")]
mod tokio {
    use super::{Pipe, PipeReader, PipeWriter};
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    impl AsyncRead for PipeReader {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            PipeReader::poll_read(&self, cx, buffer.initialize_unfilled()).map(|count| {
                buffer.advance(count);
                Ok(())
            })
        }
    }

    impl AsyncWrite for PipeWriter {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
            PipeWriter::poll_write(&self, cx, buffer)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.end();
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Pipe {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().reader).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
            self.writer.poll_write(cx, buffer)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.writer.end();
            Poll::Ready(Ok(()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_reads_what_the_other_wrote() {
        let (mut a, mut b) = Pipe::pair();
        a.write_all(b"there").unwrap();
        b.write_all(b"back").unwrap();
        let mut read = [0; 10];
        assert_eq!(b.read(&mut read).unwrap(), 5);
        assert_eq!(a.read(&mut read).unwrap(), 4);
        assert_eq!(&read[..5], b"backe");
    }

    #[test]
    fn who_writes_more_than_there_is_room_waits() {
        let (a, mut b) = Pipe::pair();
        let (_reader, mut writer) = a.split();
        let sent: Vec<u8> = (0..1_000_000).map(|n| (n % 251) as u8).collect();
        let writing = thread::spawn({
            let sent = sent.clone();
            move || writer.write_all(&sent)
        });
        let mut received = Vec::new();
        b.read_to_end(&mut received).unwrap();
        assert!(received == sent);
        writing.join().unwrap().unwrap();
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let (mut a, mut b) = Pipe::pair();
        let slice = vec![0; Pipe::BYTES_MAX - 1];
        assert_eq!(a.try_write_vectored(&[IoSlice::new(&slice), IoSlice::new(b"xyz")]).unwrap(), 65_536);
        assert_eq!(a.try_write_vectored(&[IoSlice::new(b"z")]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut read = vec![0; 65_536];
        b.read_exact(&mut read).unwrap();
        assert_eq!(read.last(), Some(&b'x'));
        assert_eq!(lock(&b.reader.way).bytes.capacity(), 0, "an idle pipe keeps no buffer");
        assert_eq!(a.try_write_vectored(&[IoSlice::new(b"z")]).unwrap(), 1);
    }

    #[test]
    fn dropping_an_end_is_the_end_for_the_other() {
        let (mut a, mut b) = Pipe::pair();
        a.write_all(b"last").unwrap();
        drop(a);
        let mut read = Vec::new();
        b.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"last");
        assert_eq!(b.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_writer_that_waits_is_told_that_the_reader_is_gone() {
        let (mut a, b) = Pipe::pair();
        a.write_all(&vec![0; Pipe::BYTES_MAX]).unwrap();
        let writing = thread::spawn(move || a.write(b"x").unwrap_err().kind());
        drop(b);
        assert_eq!(writing.join().unwrap(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_blocking_read_ends_in_time() {
        let (mut a, _b) = Pipe::pair();
        a.set_read_timeout(Some(Duration::from_millis(1)));
        assert_eq!(a.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
