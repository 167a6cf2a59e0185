//! What holds for any bytes, and beside tungstenite's own client and server.

#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_link::{Layer, Progress, WebSocket};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{ClientRequestBuilder, Error, HandshakeError, Message};

/// A stream in memory, seen from the peer of the layer.
#[derive(Debug, Default)]
struct Pipe {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.incoming.len());
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.incoming.drain(..count).zip(buffer).for_each(|(byte, place)| *place = byte);
        Ok(count)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A layer and tungstenite's client, after their handshake.
fn connected() -> (WebSocket, tungstenite::WebSocket<Pipe>) {
    let mut layer = WebSocket::new("/mqtt".into());
    let request =
        ClientRequestBuilder::new("ws://broker:8083/mqtt".parse().unwrap()).with_sub_protocol("mqtt");
    let started = ClientHandshake::start(
        Pipe::default(),
        tungstenite::client::IntoClientRequest::into_client_request(request).unwrap(),
        None,
    );
    let Err(HandshakeError::Interrupted(mut waiting)) = started.unwrap().handshake() else {
        panic!("no request")
    };
    let pipe = waiting.get_mut().get_mut();
    assert_eq!(layer.receive(&std::mem::take(&mut pipe.outgoing), &mut Vec::new()), Progress::Open);
    layer.send(&[], &mut pipe.incoming);
    let (client, response) = waiting.handshake().unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");
    (layer, client)
}

/// All that a layer makes of some bytes: data, the first progress that is not `Open`, and what it says.
fn outcome(wire: &[u8], mut cuts: Vec<usize>) -> (Vec<u8>, Progress, Vec<u8>) {
    let (mut layer, mut plain, mut said) = (WebSocket::new("/".into()), Vec::new(), Vec::new());
    cuts.iter_mut().for_each(|cut| *cut %= wire.len() + 1);
    cuts.extend([0, wire.len()]);
    cuts.sort_unstable();
    let mut end = Progress::Open;
    for cut in cuts.windows(2) {
        let progress = layer.receive(&wire[cut[0]..cut[1]], &mut plain);
        assert!(end == Progress::Open || progress == Progress::Open, "it ended twice");
        if end == Progress::Open {
            end = progress;
        }
    }
    layer.close(&mut said);
    (plain, end, said)
}

/// Frames of a client: mostly right.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => Just(0x82_u8), 3 => Just(0x02), 3 => Just(0x00), 3 => Just(0x80), 2 => Just(0x89), 1 => Just(0x8A),
        1 => Just(0x88), 1 => Just(0x81), 1 => any::<u8>()
    ];
    let payload = prop_oneof![8 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 120..130), 1 => vec(any::<u8>(), 65_530..65_540)];
    (first, payload, any::<[u8; 4]>(), prop::bool::weighted(0.97)).prop_map(
        |(first, payload, mask, masked)| {
            let mut frame = vec![first];
            let bit = if masked { 0x80 } else { 0 };
            match payload.len() {
                length @ ..126 => frame.push(bit | length as u8),
                length @ ..65_536 => {
                    frame.push(bit | 126);
                    frame.extend((length as u16).to_be_bytes());
                }
                length => {
                    frame.push(bit | 127);
                    frame.extend((length as u64).to_be_bytes());
                }
            }
            let mask = if masked { mask } else { [0; 4] };
            if masked {
                frame.extend(mask);
            }
            frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
            frame
        },
    )
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// What tungstenite's server makes of frames: the data of whole messages, and whether and how it ended.
fn by_tungstenite(wire: &[u8]) -> (Vec<u8>, Option<Progress>) {
    let pipe = Pipe { incoming: wire.to_vec(), outgoing: Vec::new() };
    let config = WebSocketConfig::default().max_frame_size(Some(1 << 20));
    let mut server = tungstenite::WebSocket::from_raw_socket(pipe, Role::Server, Some(config));
    let mut data = Vec::new();
    loop {
        match server.read() {
            Ok(Message::Binary(payload)) => data.extend_from_slice(&payload),
            Ok(Message::Close(_)) => return (data, Some(Progress::Closed)),
            Ok(_) => {}
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                return (data, Some(Progress::Open));
            }
            // It waits for the whole of a frame before it says that it must not be there.
            Err(_) => return (data, None),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn splitting_changes_nothing(frames in vec(frame(), 0..8), cuts in vec(any::<usize>(), 0..12)) {
        let wire = [REQUEST, &frames.concat()].concat();
        prop_assert_eq!(outcome(&wire, Vec::new()), outcome(&wire, cuts));
    }

    #[test]
    fn any_request_is_answered_alike_however_it_is_split(
        garbage in vec(any::<u8>(), 0..10), at in any::<usize>(), cuts in vec(any::<usize>(), 0..8)
    ) {
        let at = at % REQUEST.len();
        let wire = [&REQUEST[..at], &garbage, &REQUEST[at..]].concat();
        prop_assert_eq!(outcome(&wire, Vec::new()), outcome(&wire, cuts));
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..2_000), upgraded in any::<bool>()) {
        let wire = if upgraded { [REQUEST, &bytes].concat() } else { bytes };
        let (plain, _, _) = outcome(&wire, Vec::new());
        prop_assert!(plain.len() <= wire.len(), "nothing comes from nothing");
    }

    #[test]
    fn tungstenite_as_the_client_understands_and_is_understood(
        up in vec(vec(any::<u8>(), 0..70_000), 0..4), down in vec(vec(any::<u8>(), 1..70_000), 0..4)
    ) {
        let (mut layer, mut client) = connected();
        let (mut plain, mut got) = (Vec::new(), Vec::new());
        for message in &up {
            client.send(Message::binary(message.clone())).unwrap();
        }
        prop_assert_eq!(layer.receive(&std::mem::take(&mut client.get_mut().outgoing), &mut plain), Progress::Open);
        prop_assert_eq!(plain, up.concat());
        for message in &down {
            let (front, back) = message.split_at(message.len() / 2);
            layer.send(&[IoSlice::new(front), IoSlice::new(back)], &mut client.get_mut().incoming);
        }
        while let Ok(Message::Binary(payload)) = client.read() {
            got.push(payload.to_vec());
        }
        prop_assert_eq!(got, down);

        client.close(None).unwrap();
        let goodbye = std::mem::take(&mut client.get_mut().outgoing);
        prop_assert_eq!(layer.receive(&goodbye, &mut Vec::new()), Progress::Closed);
        layer.close(&mut client.get_mut().incoming);
        prop_assert!(matches!(client.read(), Ok(Message::Close(None))));
    }

    #[test]
    fn tungstenite_as_the_server_agrees(frames in vec(frame(), 0..8)) {
        let frames = frames.concat();
        let (data, theirs) = by_tungstenite(&frames);
        let (plain, ours, _) = outcome(&[REQUEST, &frames].concat(), Vec::new());
        // Ours gives the fragments of a message as they come, theirs when all are there. Behind text ours reads nothing.
        let text = matches!(ours, Progress::Violated(violation) if violation.clause.0 == "MQTT-6.0.0-1");
        prop_assert!(text || plain.starts_with(&data));
        match (theirs, ours) {
            // Ours refuses text; theirs takes it, and may find other mistakes behind it.
            (_, Progress::Violated(violation)) if violation.clause.0 == "MQTT-6.0.0-1" => {}
            (Some(theirs), ours) => prop_assert_eq!(theirs, ours),
            (None, ours) => prop_assert!(matches!(ours, Progress::Violated(_)), "{ours:?}"),
        }
    }
}
