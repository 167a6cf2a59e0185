//! The durable machine: what was acknowledged is true after a crash, wherever in the log it comes.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // in a test, a panic is the report

mod failures;
mod held;
mod machine;
mod messages;
mod paging;
mod queues;
mod sessions;
mod store;
mod wills_and_retained;
