//! Connections that no listener accepted: a client inside the program, and a stream that the program opened itself. On
//! tokio; the other runtimes have the same names.
//!
//! ```sh
//! cargo run -p culex-examples --example own_streams
//! ```

use culex_core::Peer;
use culex_tokio::{Broker, Handle, Listener, Transport, stream};
use std::error::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a";
const CONNACK: [u8; 4] = *b"\x20\x02\x00\x00";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // No socket at all. Listener 0 gives its streams WebSocket, what no listener is named for is plain MQTT.
    let listener = Listener::program(Transport::websocket("/mqtt"));
    let broker = Broker::builder().listener(listener).shutdown_ms(1000).bind()?;
    let handle = broker.handle();
    let clients = async {
        let result = clients(&handle).await;
        handle.shutdown();
        result
    };
    let (served, clients) = tokio::join!(broker.run(), clients);
    served?;
    clients
}

async fn clients(handle: &Handle) -> Result<(), Box<dyn Error>> {
    // Both ends in this program: the broker's is served without a socket and without a copy by the system.
    connect(handle.connect()?).await?;

    // Anything that reads and writes: a duplex here, in earnest a serial line, a tunnel, TLS of the program's own.
    let (ours, theirs) = duplex(1024);
    handle.accept(stream(theirs), Peer { listener: Handle::LISTENER, ..Peer::default() })?;
    connect(ours).await?;

    let (mut ours, theirs) = duplex(1024);
    handle.accept(stream(theirs), Peer { listener: 0, ..Peer::default() })?;
    ours.write_all(b"GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut answer = String::new();
    ours.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 404 "), "this one speaks WebSocket");
    Ok(())
}

async fn connect(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Box<dyn Error>> {
    stream.write_all(CONNECT).await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await?;
    assert_eq!(connack, CONNACK);
    Ok(())
}
