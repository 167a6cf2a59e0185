//! A broker that is started twice on the same directory: what was kept the first time is there the second time.
//!
//! ```sh
//! cargo run -p culex-examples --example durable -- /tmp/culex-durable
//! ```

#![allow(clippy::print_stdout)]

use culex_core::Message;
use culex_core::packet::QoS;
use culex_core::store::Durability;
use culex_std::Broker;
use culex_store_sqlite::{Options, SqliteStore};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = given.unwrap_or_else(|| std::env::temp_dir().join("culex-durable"));

    for life in ["first", "second"] {
        // Any engine that implements `Store` will do. It is restored before anybody can connect.
        let store = SqliteStore::open(&directory, &Options::default())?;
        let broker = Broker::builder().store(store, Durability::Disk).bind()?;
        let handle = broker.handle();
        let running = std::thread::spawn(|| broker.run());

        if life == "first" {
            handle.publish(Message::new("kitchen/lamp", b"on", QoS::AtLeastOnce, true)?)?;
        } else {
            let mut lamp = handle.subscribe("kitchen/lamp")?;
            let message = lamp.recv().ok_or("the broker stopped")?;
            assert_eq!(message.payload(), b"on");
            println!("kitchen/lamp is still on, says {}", directory.display());
        }

        // It ends when everything is on the disk.
        handle.shutdown();
        running.join().map_err(|_| "the broker panicked")??;
    }
    Ok(())
}
