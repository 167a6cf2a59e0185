//! The machine does what the scenarios say: all of it, and where they leave a choice the first.

use culex_conformance::target::InProcess;
use culex_conformance::{Options, built_in, run, run_on};
use std::collections::BTreeSet;
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

/// A mount point changes nothing for those below it, as long as no topic is longer than MQTT can say with it.
#[test]
fn the_machine_passes_every_scenario_below_a_mount_point() {
    let target = InProcess { websocket: false, mounted: true };
    let options = Options { first_only: true, ..Options::default() };
    let report = run_on(&target, &built_in().unwrap(), &options);
    let failures: BTreeSet<&str> = report.failures().map(|(row, ..)| &*row.title).collect();
    assert_eq!(failures, BTreeSet::from(EXCEPTIONS), "{}", report.table());
    let (passed, _, skipped) = report.score(None);
    assert!(passed > 0 && skipped == 0, "{}", report.table());
}

/// What must be different below a mount point, for both limits are those of the topic with its prefix:
/// `topic_levels_max` in the first, the standard's 65,535 bytes in the second.
const EXCEPTIONS: [&str; 2] = [
    "a 3.x client whose message is refused is acknowledged or closed, and it goes nowhere",
    "topics may have up to 65,535 bytes",
];
