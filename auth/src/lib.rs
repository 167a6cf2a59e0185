//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as enhanced authentication of MQTT 5.0: a client proves that it knows its
//! password without sending it, and the server proves that it knows the client. What the server keeps is no password
//! either.
//!
//! [`ScramPolicy`] tells the Authentication middleware that the method is known; each step of an exchange is then a
//! question, which [`Scram::step`] answers at once: it costs a few hashes, however many iterations a secret has.
//!
//! ```
//! use culex_auth::{METHOD, Scram, ScramClient, ScramPolicy, ScramSecret, ScramUsers, os_entropy};
//! use culex_core::middleware::Authentication;
//! use culex_core::packet::{Auth, Connect, Packet, Property, ReasonCode, Version};
//! use culex_core::testing::{Bench, connect, decode, properties};
//! use culex_core::{Answer, Config, Query, Stack};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Once per user, where it may take its time; what is kept is its text form.
//! let mut salt = [0; 16];
//! os_entropy(&mut salt)?;
//! let line = ScramSecret::new("wonderland", &salt, 4096)?.to_string();
//! assert!(line.starts_with("SCRAM-SHA-256$4096:"));
//!
//! // The server.
//! let users: ScramUsers = [("alice".into(), line.parse()?)].into_iter().collect();
//! let mut scram = Scram::new(users, os_entropy);
//! let chain = || Stack::standard().replace("Authentication", Authentication::new(ScramPolicy::only()));
//! let mut on_ask = |query: &Query| match query {
//!     Query::Authenticate(who) => scram.step(who),
//!     _ => Answer::Deny(ReasonCode::NotAuthorized),
//! };
//!
//! // A client sends CONNECT with the method and its first message.
//! let mut client = ScramClient::new("alice", "wonderland", os_entropy)?;
//! let says = |data: String| {
//!     properties(&[Property::AuthenticationMethod(METHOD), Property::AuthenticationData(data.as_bytes())])
//! };
//! let mut bench = Bench::with(Config::default(), chain()?);
//! let alice = bench.try_connect(&Connect { properties: says(client.first()), ..connect(Version::V5, "a") });
//!
//! // It is challenged by an AUTH, and answers by another.
//! bench.answer(on_ask(&bench.asks[0].1));
//! let output = bench.output(alice);
//! let [Packet::Auth(challenge)] = &decode(&output, Version::V5)[..] else { panic!() };
//! let last = client.answer(challenge.properties.authentication_data().unwrap_or_default())?;
//! let (reason, properties) = (ReasonCode::ContinueAuthentication, says(last));
//! bench.send(alice, &Packet::Auth(Auth { reason, properties }));
//!
//! // It is let in, and sees that this is its server.
//! bench.answer(on_ask(&bench.asks[0].1));
//! let output = bench.output(alice);
//! let [Packet::Connack(connack)] = &decode(&output, Version::V5)[..] else { panic!() };
//! assert_eq!(connack.reason, ReasonCode::Success);
//! client.verify(connack.properties.authentication_data().unwrap_or_default())?;
//! # Ok(())
//! # }
//! ```
//!
//! With a runtime the question comes to `on_ask`:
//! `|query, responder| if let Query::Authenticate(who) = &query { responder.complete(scram.step(who)) }`.
//!
//! # What it does and does not do
//!
//! * **Names and passwords are taken as they are**, as UTF-8. SASLprep leaves printable ASCII alone, so there is nothing
//!   to do for it; whoever wants other names or passwords to match however they were typed prepares them before
//!   [`ScramSecret::new`] and [`ScramUsers::insert`], as the clients do.
//! * **Nobody learns which users exist.** An unknown name is asked for the same proof, with a made-up salt that is the
//!   same each time, and refused with the same reason; see [`ScramUsers`] and [`Scram::with_decoy_key`].
//! * **No channel binding**: `n` and `y` are accepted, `p=` is refused. Against somebody in the middle use TLS.
//! * **One identity per client**: an authorization identity (`a=`) has to be the name itself, and so has the User Name
//!   of CONNECT if there is one. So a client that authenticates again stays who it is.
//! * **Bounded**: exchanges that were not finished are kept up to [`EXCHANGES_MAX`], then the oldest goes; messages are
//!   limited to [`FIRST_BYTES_MAX`] and [`FINAL_BYTES_MAX`].
//! * Every refusal is Not authorized (0x87), which CONNACK and DISCONNECT both may carry.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod client;
mod crypto;
mod entropy;
mod exchanges;
mod message;
mod policy;
mod scram;
mod secret;
mod users;

#[cfg(test)]
mod tests;

pub use client::{ClientError, ScramClient};
pub use entropy::NoEntropy;
#[cfg(feature = "std")]
pub use entropy::os_entropy;
pub use policy::ScramPolicy;
pub use scram::Scram;
pub use secret::{ScramSecret, SecretError};
pub use users::ScramUsers;

/// The Authentication Method.
pub const METHOD: &str = "SCRAM-SHA-256";

/// The fewest iterations that RFC 7677 lets a server announce.
pub const ITERATIONS_MIN: u32 = 4096;

/// The most iterations; they cost the client some seconds.
pub const ITERATIONS_MAX: u32 = 10_000_000;

/// The longest salt in bytes.
pub const SALT_BYTES_MAX: usize = 64;

/// The longest first message of a client in bytes.
pub const FIRST_BYTES_MAX: usize = 512;

/// The longest final message of a client in bytes.
pub const FINAL_BYTES_MAX: usize = 1024;

/// How many exchanges may be unfinished at once, unless set otherwise. Each takes at most some 3 KiB.
pub const EXCHANGES_MAX: usize = 1024;

// What a client has to repeat of the first message fits in the final one: the header in base64, the nonces, the proof.
const _: () = assert!(FINAL_BYTES_MAX >= FIRST_BYTES_MAX.div_ceil(3) * 4 + 256);
