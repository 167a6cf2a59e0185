//! A machine that is replaced by its own snapshot, again and again, in the middle of everything: nobody notices.

use culex_simulation::{Script, simulate, simulate_with_snapshots};

#[test]
fn a_simulation_goes_on_from_snapshots_as_if_nothing_had_happened() {
    for seed in 0..60 {
        let script = Script::draw(seed, None);
        let outcome = simulate(&script, None);
        for every in [1, 13] {
            let with_snapshots = simulate_with_snapshots(&script, every);
            assert_eq!(with_snapshots, outcome, "seed {seed} ({}), every {every} events", script.profile);
        }
    }
}
