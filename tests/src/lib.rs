//! A world for brokers to prove themselves in: virtual time, a network that loses and delays, a disk that forgets, clients
//! with habits good and bad, and a [`model`] that knows what MQTT promises and watches.
//!
//! ```
//! use culex_simulation::{Script, simulate};
//!
//! let script = Script::draw(7, None);
//! let outcome = simulate(&script, None);
//! assert_eq!(outcome.broken, None);
//! // The same seed tells the same story, byte for byte.
//! assert_eq!(simulate(&script, None).digest, outcome.digest);
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`script`] | who takes part and what is done when, drawn from a seed |
//! | [`world`] | clock, network, disk, program: the adapter of the simulation |
//! | [`client`] | a client that speaks MQTT as the standard asks for |
//! | [`model`] | the reference: what MQTT promises, and the checks |
//! | [`runs`] | many seeds on several threads, and the story of one |
//! | [`mod@shrink`] | makes a failing script small |
//! | [`trace`] | what happened, to be read |
//! | [`html`] | the same, drawn |
//! | [`random`] | where chance comes from |

pub mod client;
pub mod html;
pub mod model;
mod net;
pub mod random;
pub mod runs;
pub mod script;
pub mod shrink;
pub mod trace;
mod words;
pub mod world;

pub use model::{Broken, Promise};
pub use script::{Profile, Script};
pub use shrink::shrink;
pub use trace::Trace;
pub use world::{Outcome, simulate, simulate_with_snapshots};
