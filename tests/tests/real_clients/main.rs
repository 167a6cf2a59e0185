//! The program `culex` against what others wrote: mosquitto_pub and mosquitto_sub, paho-mqtt, MQTT.js in Node and in a
//! browser, and HAProxy in front.
//!
//! The long checks are the scripts in `tests/clients`; run by hand they work against any broker. A client that is not
//! installed is skipped by name, or fails the test when `CULEX_REQUIRE_CLIENTS=1`; a browser is skipped even then. The
//! program is `$CULEX_BIN`, else the newest `culex` of the target directory, else it is built.
#![allow(clippy::unwrap_used)] // as in tests

mod browser;
mod certificates;
mod client;
mod directory;
mod mosquitto;
mod program;
mod proxy;
mod scripts;
mod tls;
