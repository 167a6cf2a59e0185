//! The Culex MQTT broker on tokio.
//!
//! ```
//! use culex_core::{Message, packet::QoS};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = culex_tokio::Broker::builder().listen("mqtt://127.0.0.1:0").bind()?;
//! println!("listening on {}", broker.local_addrs()[0]);
//! let handle = broker.handle();
//! let running = std::thread::spawn(move || broker.run_blocking());
//!
//! let mut subscription = handle.subscribe("greetings/#")?;
//! handle.publish(Message::new("greetings/all", b"hello", QoS::AtMostOnce, false)?)?;
//! assert_eq!(subscription.recv().map(|message| message.payload().to_vec()), Some(b"hello".to_vec()));
//!
//! handle.shutdown();
//! running.join().unwrap()?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Bound::run_blocking`] makes a single-threaded runtime of its own, which is the fastest. [`Bound::run`] runs on the
//! runtime it is called from, for programs that have one. With [`Builder::shards`](Builder) several threads share the work.
#![forbid(unsafe_code)]

mod poller;
mod socket;

pub use crate::socket::stream;
pub use culex_runtime::{
    ConnectError, Handle, ListenUrl, ListenUrlError, Listener, Pipe, Rejected, Responder, Stream,
    SubscribeError, Subscription, Transport,
};

use crate::poller::Poller;
use crate::socket::Connection;
use culex_core::Peer;
use culex_runtime::{AcceptErrors, Adapter, Driver, Prepared, Shard, Sockets, Turn};
use mio::Registry;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;
use tokio::runtime::LocalOptions;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::{sleep_until, timeout};

/// The broker on tokio: see [`Broker::builder`].
#[derive(Debug)]
pub struct Broker;

/// Collects the settings of a broker.
pub type Builder = culex_runtime::Builder<Broker>;

impl Broker {
    /// Begins with the default settings and no listener.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Adapter for Broker {
    type Bound = Bound;
}

/// A broker that listens; its connections wait until it runs.
#[must_use = "it does nothing until it runs"]
#[derive(Debug)]
pub struct Bound(Prepared);

impl From<Prepared> for Bound {
    fn from(prepared: Prepared) -> Self {
        Self(prepared)
    }
}

impl Bound {
    /// The URLs of the listeners, in the order they were asked for, with the addresses and ports that were bound.
    #[must_use]
    pub fn urls(&self) -> &[ListenUrl] {
        self.0.urls()
    }

    /// The addresses of the listeners of TCP, in the order they were asked for, with the ports the system chose.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        self.0.local_addrs()
    }

    /// A handle to the broker; it works before the broker runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.0.handle()
    }

    /// Serves on this thread until [`Handle::shutdown`], and on one thread more, with a runtime of its own, for each further
    /// shard. Dropping the future closes every connection.
    ///
    /// # Errors
    /// A listener cannot be used, or a thread cannot be started.
    ///
    /// # Panics
    /// Outside a tokio runtime that has I/O and time enabled.
    pub async fn run(self) -> io::Result<()> {
        let (driver, sockets, others) = self.0.start(serve_alone)?;
        LocalSet::new().run_until(serve(driver, sockets)).await?;
        // They stop together.
        others.join()
    }

    /// Serves on this thread, with a tokio runtime of its own, until [`Handle::shutdown`], and likewise on one thread more
    /// for each further shard.
    ///
    /// # Errors
    /// The runtime cannot be made, a listener cannot be used, or a thread cannot be started.
    ///
    /// # Panics
    /// On a thread that is inside a tokio runtime.
    pub fn run_blocking(self) -> io::Result<()> {
        let (driver, sockets, others) = self.0.start(serve_alone)?;
        serve_alone(driver, sockets)?;
        others.join()
    }
}

/// Serves a shard with a runtime of its own.
fn serve_alone(driver: Driver, sockets: Sockets) -> io::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_io().enable_time().build_local(LocalOptions::default())?;
    runtime.block_on(serve(driver, sockets))
}

/// Every task it spawns ends with the runtime or set it is called in.
async fn serve(driver: Driver, sockets: Sockets) -> io::Result<()> {
    let poller = Poller::new()?;
    let shard = Shard::new(driver, poller.registry()?);
    for (index, socket) in sockets {
        let listener = socket::Listener::new(socket)?;
        spawn_local(accept(shard.clone(), poller.registry()?, listener, index));
    }
    // A task like the others: so it takes its turn behind every connection that is ready.
    spawn_local(turns(shard, poller)).await.map_err(io::Error::other)?
}

async fn turns(shard: Shard<Connection>, mut poller: Poller) -> io::Result<()> {
    let mut armed: Option<Instant> = None;
    let mut sleep = pin!(sleep_until(Instant::now().into()));
    let streams = Rc::new(());
    loop {
        poll_fn(|cx| {
            shard.poll_woken(cx);
            if let Poll::Ready(Err(error)) = poller.poll(cx, &shard) {
                return Poll::Ready(Err(error));
            }
            match shard.poll_begun(cx) {
                Poll::Pending if armed.is_some() => sleep.as_mut().poll(cx).map(Ok),
                begun => begun.map(Ok),
            }
        })
        .await?;
        while let Some(connection) = shard.accept_given() {
            let counted = streams.clone();
            spawn_local(async move {
                connection.await;
                drop(counted);
            });
        }
        if Rc::strong_count(&streams) > 1 {
            // Everything that is ready is read before anything is written.
            yield_now().await;
        }
        let Turn::Wait(deadline) = shard.turn() else { return Ok(()) };
        // A later deadline is looked at when the earlier one has passed: re-arming costs more than waking.
        let passed = armed.is_some_and(|armed| armed <= Instant::now());
        if passed || deadline.is_some_and(|deadline| armed.is_none_or(|armed| deadline < armed)) {
            armed = deadline;
            if let Some(deadline) = deadline {
                sleep.as_mut().reset(deadline.into());
            }
        }
    }
}

async fn accept(shard: Shard<Connection>, registry: Registry, listener: socket::Listener, index: u16) {
    let mut errors = AcceptErrors::default();
    // tokio's budget for a task makes sure that a flood of connections does not keep the others waiting.
    loop {
        let seen = shard.closed();
        let Some(accepted) = shard.until_stopping(listener.accept()).await else { return };
        match accepted {
            Ok((socket, address)) => {
                errors.succeeded();
                let peer = Peer { address, listener: index, identity: None };
                shard.take(peer, |id| socket.register(&registry, id));
            }
            Err(error) if errors.failed(&error) => {
                let _ = timeout(AcceptErrors::PAUSE, poll_fn(|cx| shard.poll_closed(cx, seen))).await;
            }
            Err(_) => {}
        }
    }
}
