//! Makes a failing script small.

use crate::{Outcome, Script, simulate};

/// The smallest script found that breaks the same promise as `script`, by taking out steps (Zeller's ddmin) until none can
/// be spared; at most `tries` simulations.
#[must_use]
pub fn shrink(script: &Script, tries: usize) -> (Script, Outcome) {
    let mut best = script.clone();
    let mut outcome = simulate(&best, None);
    let Some(promise) = outcome.broken.as_ref().map(|(_, broken)| broken.promise) else {
        return (best, outcome);
    };
    let mut left = tries;
    let mut chunk = best.steps.len().div_ceil(2);
    while chunk > 0 && left > 0 {
        let mut at = 0;
        let mut smaller = false;
        while at < best.steps.len() && left > 0 {
            let mut candidate = best.clone();
            candidate.steps.drain(at..(at + chunk).min(candidate.steps.len()));
            left -= 1;
            let tried = simulate(&candidate, None);
            if tried.broken.as_ref().is_some_and(|(_, broken)| broken.promise == promise) {
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
