//! The machine does what the scenarios say: all of it, and where they leave a choice the first.

use culex_conformance::{Options, run};
use std::time::Duration;

#[test]
fn the_machine_passes_every_scenario() {
    let report = run(&Options { first_only: true, ..Options::default() }).unwrap();
    let failures: Vec<String> = report
        .failures()
        .map(|(row, version, failure)| {
            format!("{} (MQTT {})\n{failure}", row.title, culex_conformance::version_name(version))
        })
        .collect();
    assert!(failures.is_empty(), "{}\n{} failed", failures.join("\n\n"), failures.len());
    let (passed, _, skipped) = report.score(None);
    assert!(passed > 0 && skipped == 0, "{}", report.table());
    assert!(report.took < Duration::from_secs(5), "it took {:?}", report.took);
}

/// The same through the layer of the runtimes: WebSocket changes nothing above it.
#[test]
fn the_machine_passes_every_scenario_by_websocket() {
    let report = run(&Options { first_only: true, websocket: true, ..Options::default() }).unwrap();
    assert!(report.failures().next().is_none(), "{}", report.table());
    let (passed, _, skipped) = report.score(None);
    assert!(passed > 0 && skipped == 0, "{}", report.table());
}
