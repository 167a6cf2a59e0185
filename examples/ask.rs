//! Authentication that takes its time: the machine asks, goes on with everybody else, and gets the answer later. What is
//! not answered, or not in time, is refused.
//!
//! ```sh
//! cargo run -p culex-examples --example ask
//! mosquitto_pub -u alice -P secret -t hello -m world
//! mosquitto_pub -u alice -P wrong -t hello -m world
//! ```
#![allow(clippy::print_stdout)]

use culex_core::middleware::Authentication;
use culex_core::packet::ReasonCode;
use culex_core::{Answer, Query, Stack};
use culex_tokio::{Broker, Responder};
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let broker = Broker::builder().listen("mqtt://127.0.0.1:1883").chain(chain).on_ask(on_ask).bind()?;
    println!("listening on {}", broker.local_addrs()[0]);
    broker.run().await
}

fn chain() -> Stack {
    Stack::standard().replace("Authentication", Authentication::ask()).expect("the standard chain has one")
}

/// Runs on the machine's own thread, so it only hands the question on.
fn on_ask(query: Query, responder: Responder) {
    tokio::spawn(async move {
        let answer = look_up(&query).await;
        println!("{query:?}: {answer:?}");
        responder.complete(answer);
    });
}

/// A database, a directory, a password hash that is meant to be slow.
async fn look_up(query: &Query) -> Answer {
    tokio::time::sleep(Duration::from_millis(300)).await;
    match query {
        Query::Authenticate(who) => match (who.user_name.as_deref(), who.password.as_deref()) {
            (Some("alice"), Some(b"secret")) => Answer::Allow,
            _ => Answer::Deny(ReasonCode::BadUserNameOrPassword),
        },
        _ => Answer::Deny(ReasonCode::NotAuthorized),
    }
}
