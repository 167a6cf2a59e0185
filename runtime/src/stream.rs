//! Streams that the program gives to a running broker.

use crate::{Pipe, Socket};
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A connection of any kind, for [`Handle::accept`](crate::Handle::accept): a [`Pipe`], what the runtime's own `stream`
/// makes of a stream of its world, or any [`Socket`].
pub struct Stream(Box<dyn Socket + Send>);

impl Stream {
    /// A socket that the program implements.
    #[must_use]
    pub fn new(socket: impl Socket + Send + 'static) -> Self {
        Self(Box::new(socket))
    }

    /// A stream whose tasks wait for it.
    #[must_use]
    pub fn of_async(stream: impl AsyncStream) -> Self {
        Self::new(Waiting { stream, gate: Arc::default(), output: Output::Idle })
    }
}

impl From<Pipe> for Stream {
    fn from(pipe: Pipe) -> Self {
        Self::new(pipe)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// It is the program's code: when it panics, that breaks its own connection and nothing else.
impl Socket for Stream {
    fn poll_output(&mut self, cx: &mut Context<'_>) {
        let call = || {
            self.0.poll_output(cx);
            Ok(())
        };
        if guarded(call).is_err() {
            // The next use finds it broken.
            self.0 = Box::new(Broken);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match guarded(|| Ok(self.0.poll_read(cx, buffer))) {
            // What it says is used as an index.
            Ok(Poll::Ready(Ok(count))) if count > buffer.len() => {
                Poll::Ready(Err(ErrorKind::InvalidData.into()))
            }
            Ok(poll) => poll,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered = slices.iter().map(|slice| slice.len()).sum();
        match guarded(|| self.0.try_write_vectored(slices))? {
            count if count > offered => Err(ErrorKind::InvalidData.into()),
            count => Ok(count),
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        guarded(|| Ok(self.0.poll_writable(cx))).unwrap_or_else(|error| Poll::Ready(Err(error)))
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        guarded(|| self.0.shutdown_write())
    }
}

/// It is dropped where the machine runs.
impl Drop for Stream {
    fn drop(&mut self) {
        let stream = std::mem::replace(&mut self.0, Box::new(Broken));
        let _ = guarded(|| {
            drop(stream);
            Ok(())
        });
    }
}

fn guarded<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        tracing::error!("a stream of the program panicked: its connection is closed");
        Err(io::Error::other("the stream panicked"))
    })
}

/// What is left of a stream that panicked.
struct Broken;

impl Socket for Broken {
    fn poll_read(&mut self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(ErrorKind::BrokenPipe.into()))
    }

    fn try_write_vectored(&mut self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(ErrorKind::BrokenPipe.into())
    }

    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(ErrorKind::BrokenPipe.into()))
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Err(ErrorKind::BrokenPipe.into())
    }
}

/// What the `AsyncRead` and `AsyncWrite` of every world have in common.
pub trait AsyncStream: Send + 'static {
    /// Reads; 0: the peer closed.
    ///
    /// # Errors
    /// The stream is broken.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes what fits.
    ///
    /// # Errors
    /// The stream is broken.
    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Sends what it keeps on.
    ///
    /// # Errors
    /// The stream is broken.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Tells the peer that nothing more will be written.
    ///
    /// # Errors
    /// The stream is broken.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A stream that says only to a task whether it takes something: it waits with a waker of its own, so that what is
/// awaited is known.
struct Waiting<S> {
    stream: S,
    gate: Arc<Gate>,
    output: Output,
}

/// What a stream still has to do with what it took.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Idle,
    Flush,
    Close,
    Failed,
}

/// The places of [`Gate::tasks`].
const READS: usize = 0;
const WRITES: usize = 1;

/// Notes that the stream woke up who writes.
#[derive(Default)]
struct Gate {
    open: AtomicBool,
    /// Who reads and who writes: in most runtimes the same task.
    tasks: Mutex<[Option<Waker>; 2]>,
}

impl Gate {
    fn set(&self, who: usize, cx: &Context<'_>) {
        let task = &mut self.tasks.lock().unwrap_or_else(PoisonError::into_inner)[who];
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.open.store(true, Ordering::Release);
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tasks.into_iter().flatten().for_each(Waker::wake);
    }
}

impl<S: AsyncStream> Waiting<S> {
    /// Flushes or closes, as far as that goes at once.
    fn proceed(&mut self) {
        let waker = Waker::from(self.gate.clone());
        let cx = &mut Context::from_waker(&waker);
        let done = match self.output {
            Output::Idle | Output::Failed => return,
            Output::Flush => self.stream.poll_flush(cx),
            Output::Close => self.stream.poll_close(cx),
        };
        match done {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.output = Output::Idle,
            Poll::Ready(Err(_)) => self.output = Output::Failed,
        }
    }
}

impl<S: AsyncStream> Socket for Waiting<S> {
    fn poll_output(&mut self, cx: &mut Context<'_>) {
        self.gate.set(READS, cx);
        self.proceed();
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.output == Output::Failed {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        self.stream.poll_read(cx, buffer)
    }

    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.output == Output::Failed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        self.proceed();
        if self.output == Output::Flush {
            return Err(ErrorKind::WouldBlock.into());
        }
        let waker = Waker::from(self.gate.clone());
        // Before it is asked: it may say so from another thread at once.
        self.gate.open.store(false, Ordering::Release);
        match self.stream.poll_write_vectored(&mut Context::from_waker(&waker), slices) {
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
            Poll::Ready(Ok(0)) => Err(ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(count)) => {
                self.output = Output::Flush;
                self.proceed();
                // A part was taken: the rest is to be offered at once, only then does it say when it has room.
                self.gate.open.store(true, Ordering::Release);
                Ok(count)
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gate.set(WRITES, cx);
        self.proceed();
        match self.output {
            Output::Failed => Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
            Output::Flush => Poll::Pending,
            _ if self.gate.open.load(Ordering::Acquire) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.output = Output::Close;
        self.proceed();
        if self.output == Output::Failed { Err(ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}
