//! The machine alone at work, for whoever counts its instructions or its allocations: cases with a unit each (a message, a
//! delivery, a packet), done in bursts. Two runs with different numbers of bursts differ by what the units cost, and by
//! nothing else.

mod cases;
pub mod measured;
mod world;

pub use cases::{CASES, Case};

/// The case of this name.
#[must_use]
pub fn case(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}
