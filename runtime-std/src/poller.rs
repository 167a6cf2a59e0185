//! The thread that waits for new connections and for full sockets.

use crate::connection::Link;
use crate::shard::Event;
use culex_core::ConnectionId;
use culex_runtime::{AcceptErrors, ListenSocket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// How the shard and the readers talk to the thread.
#[derive(Debug)]
pub(crate) struct Poller {
    wake: UnixStream,
    orders: Mutex<Orders>,
    /// Accepting waits for a file descriptor.
    paused: AtomicBool,
}

#[derive(Debug, Default)]
struct Orders {
    full: Vec<(ConnectionId, Arc<Link>)>,
    refuse: bool,
    stop: bool,
}

impl Poller {
    /// Starts the thread.
    pub(crate) fn spawn(
        listeners: Vec<(u16, ListenSocket)>,
        events: SyncSender<Event>,
    ) -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let poller = Arc::new(Self { wake, orders: Mutex::default(), paused: AtomicBool::new(false) });
        let waiting = Waiting {
            poller: poller.clone(),
            woken,
            listeners,
            full: Vec::new(),
            pause: None,
            errors: <_>::default(),
            events,
        };
        let thread = thread::Builder::new().name("culex-poll".into()).spawn(move || waiting.run())?;
        Ok((poller, thread))
    }

    /// Report when this connection can be written again.
    pub(crate) fn watch(&self, id: ConnectionId, link: Arc<Link>) {
        self.orders().full.push((id, link));
        self.wake();
    }

    /// A file descriptor may be free.
    pub(crate) fn freed(&self) {
        if self.paused.swap(false, Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Close the listeners.
    pub(crate) fn refuse(&self) {
        self.orders().refuse = true;
        self.wake();
    }

    /// End the thread.
    pub(crate) fn stop(&self) {
        self.orders().stop = true;
        self.wake();
    }

    fn wake(&self) {
        // Fails when it is full: then the thread will wake up anyway.
        let _ = (&self.wake).write(&[0]);
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's own state.
struct Waiting {
    poller: Arc<Poller>,
    woken: UnixStream,
    listeners: Vec<(u16, ListenSocket)>,
    full: Vec<(ConnectionId, Arc<Link>)>,
    pause: Option<Instant>,
    errors: AcceptErrors,
    events: SyncSender<Event>,
}

impl Waiting {
    fn run(mut self) {
        while self.wait().is_some() {}
    }

    /// Waits once and does what came; `None`: stop.
    fn wait(&mut self) -> Option<()> {
        if self
            .pause
            .is_some_and(|until| until <= Instant::now() || !self.poller.paused.load(Ordering::Relaxed))
        {
            self.pause = None;
        }
        let accepting = if self.pause.is_some() { &[] } else { &self.listeners[..] };
        let mut fds = Vec::with_capacity(1 + accepting.len() + self.full.len());
        fds.push(PollFd::new(&self.woken, PollFlags::IN));
        fds.extend(accepting.iter().map(|(_, listener)| PollFd::new(listener, PollFlags::IN)));
        let sockets = self.full.iter().filter_map(|(_, link)| link.socket());
        fds.extend(sockets.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::OUT)));
        let timeout = self.pause.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        if poll(&mut fds, timeout.as_ref()).is_err() {
            // Interrupted, or no memory for a moment.
            return Some(());
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (listeners, full) = ready[1..].split_at(accepting.len());
        let mut ready = full.iter();
        for (id, _) in self.full.extract_if(.., |_| ready.next() == Some(&true)) {
            self.events.send(Event::Writable(id)).ok()?;
        }
        for (position, _) in listeners.iter().enumerate().filter(|(_, ready)| **ready) {
            self.accept(position)?;
        }
        self.obey()
    }

    fn obey(&mut self) -> Option<()> {
        while matches!((&self.woken).read(&mut [0; 64]), Ok(64)) {}
        let mut orders = self.poller.orders();
        self.full.append(&mut orders.full);
        if orders.refuse {
            self.listeners.clear();
        }
        if orders.stop { None } else { Some(()) }
    }

    fn accept(&mut self, position: usize) -> Option<()> {
        let (listener, socket) = &self.listeners[position];
        for _ in 0..ACCEPT_BATCH {
            match socket.accept() {
                Ok((stream, address)) => {
                    self.errors.succeeded();
                    let socket = OwnedFd::from(stream);
                    // Its reader waits in the system.
                    if ioctl_fionbio(&socket, false).is_ok() {
                        self.events.send(Event::Accepted { socket, address, listener: *listener }).ok()?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(error) if self.errors.failed(&error) => {
                    self.poller.paused.store(true, Ordering::Relaxed);
                    self.pause = Some(Instant::now() + AcceptErrors::PAUSE);
                    return Some(());
                }
                Err(_) => {}
            }
        }
        Some(())
    }
}

/// Connections accepted before full sockets are looked at again.
const ACCEPT_BATCH: usize = 64;
