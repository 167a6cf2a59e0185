//! Runs the scenarios against the machine or against a broker:
//! `cargo run -p culex-conformance --example score [-- mqtt://host:port | ws://host:port/path] [CLAUSE]`.

use culex_conformance::{Options, RunError, run};
use std::io::Write as _;
use std::time::Duration;

fn main() -> Result<(), RunError> {
    let mut options = Options { longest: Duration::from_secs(10), ..Options::default() };
    for argument in std::env::args().skip(1) {
        match argument.contains("://") {
            true => options.url = Some(argument),
            false => options.clause = Some(argument),
        }
    }
    let report = run(&options)?;
    let _ = write!(std::io::stdout(), "{}", report.table());
    Ok(())
}
