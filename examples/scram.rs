//! SCRAM-SHA-256: clients prove that they know a password without sending it, and the broker proves that it knows them.
//! A hand-made client comes in, authenticates again, and tries a wrong password; the example checks what it gets.
//!
//! ```sh
//! cargo run -p culex-examples --example scram
//! ```
#![allow(clippy::print_stdout)]

use culex_auth::{METHOD, Scram, ScramClient, ScramPolicy, ScramSecret, ScramUsers, os_entropy};
use culex_core::middleware::Authentication;
use culex_core::packet::{Auth, Connect, Framed, Packet, PacketType, Property, ReasonCode, Version, frame};
use culex_core::testing::{connect, properties};
use culex_core::{Query, Stack};
use culex_tokio::Broker;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let mut scram = Scram::new(users()?, os_entropy);
    // A step costs a few hashes: it can be answered here, on the machine's own thread.
    let broker = Broker::builder()
        .listen("mqtt://127.0.0.1:0")
        .chain(chain)
        .on_ask(move |query, responder| {
            if let Query::Authenticate(who) = &query {
                responder.complete(scram.step(who));
            }
        })
        .bind()?;
    let (address, handle) = (broker.local_addrs()[0], broker.handle());
    let running = std::thread::spawn(move || broker.run_blocking());

    let mut alice = Client::open(address)?;
    let (packet, reason) = alice.exchange("wonderland", |properties| {
        Packet::Connect(Connect { properties, ..connect(Version::V5, "alice's client") })
    })?;
    assert_eq!((packet, reason), (PacketType::Connack, ReasonCode::Success));
    println!("alice came in, and knows that this is her broker");

    let again = |properties| Packet::Auth(Auth { reason: ReasonCode::ReAuthenticate, properties });
    assert_eq!(alice.exchange("wonderland", again)?, (PacketType::Auth, ReasonCode::Success));
    println!("alice authenticated again");
    assert_eq!(alice.exchange("looking-glass", again)?, (PacketType::Disconnect, ReasonCode::NotAuthorized));
    println!("alice forgot her password, and was disconnected");

    let mut guest = Client::open(address)?;
    guest.send(&Packet::Connect(connect(Version::V5, "guest")))?;
    assert_eq!(guest.receive()?, (PacketType::Connack, ReasonCode::NotAuthorized, Vec::new()));
    println!("who does not use the method stays out");

    handle.shutdown();
    running.join().map_err(|_| "the broker panicked")??;
    Ok(())
}

/// In a program: read from where they are kept, in their text form.
fn users() -> Result<ScramUsers, Box<dyn Error>> {
    let mut salt = [0; 16];
    os_entropy(&mut salt)?;
    let kept = ScramSecret::new("wonderland", &salt, 4096)?.to_string();
    Ok([("alice".into(), kept.parse()?)].into_iter().collect())
}

fn chain() -> Stack {
    Stack::standard()
        .replace("Authentication", Authentication::new(ScramPolicy::only()))
        .expect("the standard chain has one")
}

/// A client that can authenticate, and nothing else.
struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

type Properties = culex_core::packet::Properties<'static>;

impl Client {
    fn open(address: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// One exchange, begun by this packet: which packet ended it, and its reason. Success has been verified.
    fn exchange(
        &mut self,
        password: &str,
        begin: impl Fn(Properties) -> Packet<'static>,
    ) -> Result<(PacketType, ReasonCode), Box<dyn Error>> {
        let mut scram = ScramClient::new("alice", password, os_entropy)?;
        self.send(&begin(says(&scram.first())))?;
        let (packet, reason, challenge) = self.receive()?;
        assert_eq!((packet, reason), (PacketType::Auth, ReasonCode::ContinueAuthentication));
        let last = scram.answer(&challenge)?;
        self.send(&Packet::Auth(Auth { reason, properties: says(&last) }))?;
        let (packet, reason, proof) = self.receive()?;
        if reason == ReasonCode::Success {
            scram.verify(&proof)?;
        }
        Ok((packet, reason))
    }

    fn send(&mut self, packet: &Packet<'_>) -> Result<(), Box<dyn Error>> {
        let mut bytes = Vec::new();
        packet.encode(Version::V5, &mut bytes)?;
        Ok(self.stream.write_all(&bytes)?)
    }

    /// What comes next, its reason, and its Authentication Data.
    fn receive(&mut self) -> Result<(PacketType, ReasonCode, Vec<u8>), Box<dyn Error>> {
        loop {
            if let Framed::Whole { frame, length } = frame(&self.received, u32::MAX)? {
                let packet = Packet::decode(&frame, Version::V5)?;
                let (reason, properties) = match &packet {
                    Packet::Connack(connack) => (connack.reason, &connack.properties),
                    Packet::Auth(auth) => (auth.reason, &auth.properties),
                    Packet::Disconnect(disconnect) => (disconnect.reason, &disconnect.properties),
                    other => return Err(format!("did not expect {other:?}").into()),
                };
                let data = properties.authentication_data().unwrap_or_default().to_vec();
                let got = (packet.packet_type(), reason, data);
                self.received.drain(..length);
                return Ok(got);
            }
            let mut buffer = [0; 1024];
            match self.stream.read(&mut buffer)? {
                0 => return Err("the connection was closed".into()),
                length => self.received.extend_from_slice(&buffer[..length]),
            }
        }
    }
}

fn says(data: &str) -> Properties {
    properties(&[Property::AuthenticationMethod(METHOD), Property::AuthenticationData(data.as_bytes())])
}
