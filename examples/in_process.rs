//! A broker inside a program that publishes and subscribes itself, here without any socket. On std: no async.
//!
//! ```sh
//! cargo run -p culex-examples --example in_process
//! ```

use culex_core::Message;
use culex_core::packet::QoS;
use culex_std::Broker;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // With `.listen("mqtt://127.0.0.1:1883")` clients would see and send the same messages.
    let broker = Broker::builder().bind()?;
    let handle = broker.handle();
    let running = std::thread::spawn(|| broker.run());

    let mut readings = handle.subscribe("kitchen/+")?;
    handle.publish(Message::new("kitchen/temperature", b"21.5", QoS::AtLeastOnce, false)?)?;
    handle.publish(Message::new("cellar/temperature", b"12.0", QoS::AtLeastOnce, false)?)?;
    handle.publish(Message::new("kitchen/humidity", b"40", QoS::AtLeastOnce, false)?)?;

    for (topic, payload) in [("kitchen/temperature", "21.5"), ("kitchen/humidity", "40")] {
        let message = readings.recv().ok_or("the broker stopped")?;
        assert_eq!((message.topic(), message.payload()), (topic, payload.as_bytes()));
    }

    handle.shutdown();
    running.join().map_err(|_| "the broker panicked")??;
    Ok(())
}
