//! The Culex MQTT broker on smol.
//!
//! ```
//! use culex_core::{Message, packet::QoS};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = culex_smol::Broker::builder().listen("mqtt://127.0.0.1:0").bind()?;
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
//! [`Bound::run_blocking`] drives the sockets on its own thread, which is the fastest. [`Bound::run`] is a future for
//! `smol::block_on` and other executors that run it on one thread. With [`Builder::shards`](Builder) several threads share
//! the work; they still share one reactor, for smol has no more of them.
#![forbid(unsafe_code)]

mod socket;

pub use crate::socket::stream;
pub use culex_runtime::{
    ConnectError, Handle, ListenUrl, ListenUrlError, Listener, Pipe, Rejected, Responder, Stream,
    SubscribeError, Subscription, Transport,
};

use crate::socket::Connection;
use async_io::{Async, Timer};
use culex_core::Peer;
use culex_runtime::{AcceptErrors, Adapter, Driver, ListenSocket, Prepared, Shard, Sockets, Turn};
use futures_lite::future::{or, yield_now};
use smol::LocalExecutor;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

/// The broker on smol: see [`Broker::builder`].
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

    /// Serves on this thread until [`Handle::shutdown`], and on one thread more for each further shard. Dropping the future
    /// closes every connection.
    ///
    /// # Errors
    /// A listener cannot be used, or a thread cannot be started.
    pub async fn run(self) -> io::Result<()> {
        let (driver, sockets, others) = self.0.start(serve_alone)?;
        serve(driver, sockets).await?;
        // They stop together.
        others.join()
    }

    /// Serves on this thread, which also waits for the sockets, until [`Handle::shutdown`], and likewise on one thread more
    /// for each further shard.
    ///
    /// # Errors
    /// A listener cannot be used, or a thread cannot be started.
    pub fn run_blocking(self) -> io::Result<()> {
        async_io::block_on(self.run())
    }
}

/// Serves a shard on a thread that also waits for the sockets.
fn serve_alone(driver: Driver, sockets: Sockets) -> io::Result<()> {
    async_io::block_on(serve(driver, sockets))
}

async fn serve(driver: Driver, sockets: Sockets) -> io::Result<()> {
    let shard = Shard::new(driver, ());
    let connections = LocalExecutor::new();
    let acceptors = LocalExecutor::new();
    for (index, socket) in sockets {
        let listener = Async::new_nonblocking(socket)?;
        acceptors.spawn(accept(shard.clone(), listener, index, &connections)).detach();
    }
    connections.run(acceptors.run(turns(shard, &connections))).await;
    Ok(())
}

async fn turns(shard: Shard<Connection>, connections: &LocalExecutor<'_>) {
    let mut armed: Option<Instant> = None;
    let mut sleep = Timer::never();
    loop {
        poll_fn(|cx| match shard.poll_begun(cx) {
            Poll::Pending if armed.is_some() => Pin::new(&mut sleep).poll(cx).map(drop),
            begun => begun,
        })
        .await;
        if let Some(connection) = shard.accept_given() {
            connections.spawn(connection).detach();
            while let Some(connection) = shard.accept_given() {
                connections.spawn(connection).detach();
            }
            // So that they are read in this turn.
            yield_now().await;
        }
        // Whoever was ready has been read: this future gets its turn when the queue of connections ran empty.
        let Turn::Wait(deadline) = shard.turn() else { return };
        // A later deadline is looked at when the earlier one has passed: re-arming costs more than waking.
        let passed = armed.is_some_and(|armed| armed <= Instant::now());
        if passed || deadline.is_some_and(|deadline| armed.is_none_or(|armed| deadline < armed)) {
            armed = deadline;
            if let Some(deadline) = deadline {
                sleep.set_at(deadline);
            }
        }
    }
}

async fn accept(
    shard: Shard<Connection>,
    listener: Async<ListenSocket>,
    index: u16,
    connections: &LocalExecutor<'_>,
) {
    let mut errors = AcceptErrors::default();
    let mut batch = 0_usize;
    loop {
        let seen = shard.closed();
        let accept = listener.read_with(ListenSocket::accept);
        let Some(accepted) = shard.until_stopping(accept).await else { return };
        match accepted {
            Ok((stream, address)) => {
                errors.succeeded();
                match Async::new_nonblocking(stream.into()) {
                    Ok(socket) => {
                        let peer = Peer { address, listener: index, identity: None };
                        if let Some(connection) = shard.accept(Connection::new(socket), peer) {
                            connections.spawn(connection).detach();
                        }
                    }
                    Err(error) => tracing::warn!(%error, "cannot wait for a connection: it is closed"),
                }
            }
            Err(error) if errors.failed(&error) => {
                let pause = async {
                    Timer::after(AcceptErrors::PAUSE).await;
                };
                or(poll_fn(|cx| shard.poll_closed(cx, seen)), pause).await;
            }
            Err(_) => {}
        }
        // A flood of connections must not keep the others waiting.
        batch += 1;
        if batch.is_multiple_of(ACCEPT_BATCH) {
            yield_now().await;
        }
    }
}

/// Connections accepted before the others get a turn.
const ACCEPT_BATCH: usize = 64;
