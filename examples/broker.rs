//! A broker in twenty lines, on tokio. It tells who comes and goes, and stops with Ctrl-C.
//!
//! ```sh
//! cargo run -p culex-examples --example broker
//! mosquitto_sub -t 'kitchen/#' -v
//! mosquitto_pub -t kitchen/temperature -m 21.5
//! ```
#![allow(clippy::print_stdout)]

use culex_tokio::Broker;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let broker = Broker::builder()
        .listen("mqtt://127.0.0.1:1883")
        .on_notice(|notice| println!("{notice:?}"))
        .bind()?;
    println!("listening on {}", broker.local_addrs()[0]);

    let handle = broker.handle();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            handle.shutdown();
        }
    });
    broker.run().await
}
