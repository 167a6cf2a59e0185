//! What the fuzz targets do: one function for each, from bytes to a panic if something that must hold does not.
//!
//! It is a library on stable Rust, so that the corpora are replayed with the other tests (`tests/corpus.rs`); the crate
//! `fuzz/` puts each function into libFuzzer. How inputs are written is described in `fuzz/README.md`.

mod broker;
mod client_bytes;
mod decode;
mod link;
mod log;
mod observer;
mod packets;
mod round_trip;
mod script;
mod simulation;
mod topics;
mod world;

pub use broker::broker;
pub use client_bytes::client_bytes;
pub use decode::decode;
pub use link::link;
pub use log::log;
pub use round_trip::{round_trip, what_is_built};
pub use simulation::world;
pub use topics::topics;

/// The function of a target.
pub type Target = fn(&[u8]);

/// All targets by name: `fuzz/fuzz_targets/NAME.rs` runs it, `fuzz/corpus/NAME/` is its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("broker", broker),
    ("client_bytes", client_bytes),
    ("decode", decode),
    ("link", link),
    ("log", log),
    ("round_trip", round_trip),
    ("topics", topics),
    ("world", world),
];
