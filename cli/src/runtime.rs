//! The broker on each of the runtimes: bind, say so, run until it is shut down.

use crate::data::Data;
use crate::settings::{Runtime, Settings};
use culex_core::store::Durability;
use culex_core::{Notice, Seed};
use culex_runtime::{Handle, ListenUrl, Listener, Recorder};
use std::io;

/// Runs a broker until it is shut down, durable if there is a store, and records its shards if there are recorders. `started` is
/// called when all listeners are bound, with their URLs.
///
/// # Errors
/// A listener that cannot be bound is told in one line that names it; the rest as the store or the operating system tells it.
pub(crate) fn run(
    settings: &Settings,
    listeners: Vec<Listener>,
    seed: Seed,
    store: Option<(Data, Durability)>,
    recorders: Vec<Recorder>,
    started: impl FnOnce(&[ListenUrl], Handle) -> io::Result<()>,
) -> io::Result<()> {
    // The runtimes have the same methods, but no type in common.
    macro_rules! run_on {
        ($runtime:ident) => {{
            let builder =
                $runtime::Broker::builder().config(settings.config.clone()).seed(seed).on_notice(tell);
            let builder = builder.shards(settings.shards());
            let builder = match store {
                Some((store, durability)) => builder.store(store, durability),
                None => builder,
            };
            let builder = recorders.into_iter().fold(builder, |builder, recorder| builder.record(recorder));
            let bound =
                listeners.into_iter().fold(builder, |builder, listener| builder.listener(listener)).bind()?;
            started(bound.urls(), bound.handle())?;
            bound.run_blocking()
        }};
    }
    match settings.runtime {
        Runtime::Tokio => run_on!(culex_tokio),
        Runtime::Smol => run_on!(culex_smol),
        Runtime::Std => run_on!(culex_std),
    }
}

/// Logs what the broker notices. Client Identifiers come from strangers: they are quoted, so that none of them can
/// write a line of its own.
fn tell(notice: Notice) {
    match notice {
        Notice::Connected { client_id, session_present, .. } => {
            tracing::debug!(?client_id, session_present, "connected");
        }
        Notice::Disconnected { client_id, clean } => tracing::debug!(?client_id, clean, "disconnected"),
        Notice::Violated { peer, violation, .. } => match peer.address {
            Some(address) => tracing::info!("{address} broke a rule: {violation}"),
            None => tracing::info!("a peer broke a rule: {violation}"),
        },
        Notice::Dropped(count) => {
            tracing::warn!("{count} notices were lost: the log is slower than the clients")
        }
        _ => {}
    }
}
