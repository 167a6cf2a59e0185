//! Every statement of the MQTT standards as a scenario, told to any broker.
//!
//! The scenarios are text, one story each, named by the statements that they prove; how they are written stands in
//! `tests/conformance/README.md`. They are part of this crate: a program that links it needs no files.
//!
//! ```
//! use culex_conformance::{Options, run};
//!
//! let options = Options { clause: Some("MQTT-3.12.4-*".into()), ..Options::default() };
//! let report = run(&options)?;
//! assert!(report.failures().next().is_none(), "{}", report.table());
//! # Ok::<(), culex_conformance::RunError>(())
//! ```

#![forbid(unsafe_code)]

mod engine;
mod fields;
mod parse;
mod report;
mod run;
mod scenario;
pub mod statements;
pub mod target;
mod value;
mod wire;

pub use engine::Failure;
pub use parse::parse;
pub use report::{Report, Row, Verdict};
pub use run::{Options, RunError, built_in, run, run_on};
pub use scenario::{Scenario, version_name, version_of};
pub use target::Trust;
