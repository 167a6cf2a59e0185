// A program with a broker in it. Which runtime carries it is said in one place: by what `culex` is.

use culex_core::Message;
use culex_core::packet::QoS;
use std::error::Error;
use std::io::{Read, Write};
use std::thread;

/// Starts a broker, lets a client inside the program and the program itself exchange a message, and stops.
pub(crate) fn program() -> Result<(), Box<dyn Error>> {
    let broker = culex::Broker::builder().listen("mqtt://127.0.0.1:0").shutdown_ms(1000).bind()?;
    let handle: culex::Handle = broker.handle();
    let running = thread::spawn(move || broker.run_blocking());

    let mut client: culex::Pipe = handle.connect()?;
    client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a")?; // CONNECT
    client.write_all(b"\x82\x09\x00\x01\x00\x04lamp\x00")?; // SUBSCRIBE
    let mut answers = [0; 9];
    client.read_exact(&mut answers)?;
    assert_eq!(answers, *b"\x20\x02\x00\x00\x90\x03\x00\x01\x00", "CONNACK and SUBACK");

    handle.publish(Message::new("lamp", b"on", QoS::AtMostOnce, false)?)?;
    let mut publish = [0; 10];
    client.read_exact(&mut publish)?;
    assert_eq!(publish, *b"\x30\x08\x00\x04lampon");

    drop(client);
    handle.shutdown();
    running.join().map_err(|_| "the broker panicked")??;
    Ok(())
}
