//! Makes a failing script small.

use crate::{Outcome, Script, simulate};

/// The smallest script found that breaks the same promise as `script`; at most `tries` simulations.
#[must_use]
pub fn shrink(script: &Script, tries: usize) -> (Script, Outcome) {
    let outcome = simulate(script, None);
    let Some(promise) = outcome.broken.as_ref().map(|(_, broken)| broken.promise) else {
        return (script.clone(), outcome);
    };
    shrink_while(script, outcome, tries, |script| {
        let outcome = simulate(script, None);
        outcome.broken.as_ref().is_some_and(|(_, broken)| broken.promise == promise).then_some(outcome)
    })
}

/// The smallest script found that still `fails`, by taking out steps (Zeller's ddmin) until none can be spared; with what
/// `fails` said of it, which is `found` for `script` itself. Asks at most `tries` times.
#[must_use]
pub fn shrink_while<T>(
    script: &Script,
    found: T,
    tries: usize,
    mut fails: impl FnMut(&Script) -> Option<T>,
) -> (Script, T) {
    let mut best = script.clone();
    let mut outcome = found;
    let mut left = tries;
    let mut chunk = best.steps.len().div_ceil(2);
    while chunk > 0 && left > 0 {
        let mut at = 0;
        let mut smaller = false;
        while at < best.steps.len() && left > 0 {
            let mut candidate = best.clone();
            candidate.steps.drain(at..(at + chunk).min(candidate.steps.len()));
            left -= 1;
            if let Some(tried) = fails(&candidate) {
                (best, outcome, smaller) = (candidate, tried, true);
            } else {
                at += chunk;
            }
        }
        if !smaller || chunk > best.steps.len() {
            chunk /= 2;
        }
    }
    (best, outcome)
}
