//! The part of the suite that is about WebSocket itself.

use super::{Adapter, At, Client, Over, Place, Run, Running, builder, start};
use crate::{Builder, Responder};
use culex_core::middleware::Authentication;
use culex_core::{Answer, Config, Stack};
use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

/// A CONNECT whose will is `ok` to `will`.
const WITH_A_WILL: &[u8] = b"\x10\x17\x00\x04MQTT\x04\x06\x00\x3c\x00\x01c\x00\x04will\x00\x02ok";

fn serve<A: Adapter<Bound: Send + 'static>>(run: Run<A>) -> Running {
    start(run, Over::WebSocket, builder::<A>())
}

/// What a broker answers to bytes until it closes the connection.
fn answer(place: Place, bytes: &[u8]) -> String {
    let mut stream = place.open();
    stream.write_all(bytes).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// [MQTT-6.0.0-1]: the client is told why, in MQTT's words and in those of WebSocket, and others go on.
pub fn a_text_frame_ends_the_connection<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let broker = serve::<A>(run);
    let mut other = Client::connect(broker.place, "other");
    let mut client = Client::open(broker.place);
    client.send(&Client::connect_packet(5, "chatty"));
    assert_eq!(client.packet().unwrap()[0], 0x20);
    client.websocket().send(Message::text("hello")).unwrap();
    assert_eq!(client.packet().unwrap(), [0xE0, 1, 0x82], "DISCONNECT, Protocol Error");
    let Ok(Message::Close(Some(frame))) = client.websocket().read() else { panic!("expected a close frame") };
    assert_eq!(frame.code, CloseCode::Unsupported);
    assert!(client.packet().is_none());
    other.ping();
    broker.stop();
}

/// A client may say goodbye by WebSocket alone: what it sent before counts, its will is published.
pub fn a_goodbye_is_answered_and_the_will_published<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let broker = serve::<A>(run);
    let mut watcher = Client::connect(broker.place, "watcher");
    watcher.subscribe("will");
    watcher.subscribe("last");
    let mut client = Client::open(broker.place);
    client.send(WITH_A_WILL);
    assert_eq!(client.packet().unwrap(), [0x20, 2, 0, 0]);
    client.publish("last", b"word");
    client.websocket().close(None).unwrap();
    assert!(matches!(client.websocket().read(), Ok(Message::Close(None))));
    assert!(client.packet().is_none());
    assert_eq!(watcher.message(), ("last".into(), b"word".to_vec()));
    assert_eq!(watcher.message(), ("will".into(), b"ok".to_vec()));
    broker.stop();
}

/// A goodbye that comes while the machine waits for an answer does not undo the CONNECT before it.
pub fn a_goodbye_waits_for_what_came_before<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let chain = || Stack::standard().replace("Authentication", Authentication::ask()).unwrap();
    let (asked, questions) = channel::<Responder>();
    let builder = builder::<A>().chain(chain).on_ask(move |_, responder| asked.send(responder).unwrap());
    let broker = start(run, Over::WebSocket, builder);
    let mut watcher = Client::open(broker.place);
    watcher.send(&Client::connect_packet(4, "watcher"));
    questions.recv().unwrap().complete(Answer::Allow);
    assert_eq!(watcher.packet().unwrap(), [0x20, 2, 0, 0]);
    watcher.subscribe("will");
    let mut client = Client::open(broker.place);
    // In one write, so that the end is there before the answer.
    let socket = client.websocket();
    socket.write(Message::binary(WITH_A_WILL)).unwrap();
    socket.close(None).unwrap();
    let question = questions.recv().unwrap();
    watcher.ping();
    question.complete(Answer::Allow);
    assert_eq!(watcher.message(), ("will".into(), b"ok".to_vec()));
    broker.stop();
}

/// Control frames come between the frames of large messages, which are not torn.
pub fn a_ping_is_answered_while_much_is_sent<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let broker = serve::<A>(run);
    let mut client = Client::connect(broker.place, "client");
    client.subscribe("t");
    let payload: Vec<u8> = (0..1_000_000).map(|n| (n % 251) as u8).collect();
    client.publish("t", &payload);
    client.websocket().send(Message::Ping(b"there?".to_vec().into())).unwrap();
    let (mut data, mut answered) = (Vec::new(), false);
    while data.len() < payload.len() || !answered {
        match client.websocket().read().unwrap() {
            Message::Pong(payload) => answered = payload == b"there?"[..],
            Message::Binary(bytes) => data.extend_from_slice(&bytes),
            other => panic!("unexpected: {other}"),
        }
    }
    assert!(data.ends_with(&payload));
    client.ping();
    broker.stop();
}

/// Who asks for something else gets an answer of HTTP, and the end of the connection.
pub fn another_path_is_refused_by_http<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let broker = serve::<A>(run);
    let answered = answer(broker.place, b"GET /index.html HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answered.starts_with("HTTP/1.1 404 "), "{answered}");
    let answered = answer(broker.place, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a\r\n\r\n");
    assert!(answered.starts_with("HTTP/1.1 400 "), "{answered}");
    broker.stop();
}

/// The time to connect counts from the first byte, not from the end of the handshake.
pub fn a_handshake_must_be_over_in_time<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let config = Config { connect_timeout_ms: 300, linger_ms: 50, ..Config::default() };
    let broker = start(run, Over::WebSocket, builder::<A>().config(config));
    let began = Instant::now();
    assert_eq!(answer(broker.place, b"GET /mqtt HTTP/1.1\r\nHost: x\r\nSlow: "), "");
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    // After the handshake the time goes on.
    let mut client = Client::open(broker.place);
    assert!(client.packet().is_none());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    broker.stop();
}

/// One broker has listeners of both kinds, and messages go from one to the other.
pub fn tcp_is_served_beside_websocket<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let builder =
        Builder::<A>::default().shutdown_ms(100).listen("mqtt://127.0.0.1:0").listen("ws://127.0.0.1:0");
    let prepared = builder.prepare().unwrap();
    let (addresses, handle) = (prepared.local_addrs().to_vec(), prepared.handle());
    let bound = A::Bound::from(prepared);
    let thread = std::thread::spawn(move || run(bound));
    let mut by_tcp = Client::connect(addresses[0], "by tcp");
    let mut by_websocket =
        Client::connect(Place { at: At::Tcp(addresses[1]), websocket: true }, "by websocket");
    by_tcp.subscribe("a");
    by_websocket.subscribe("b");
    by_tcp.publish("b", b"to the browser");
    by_websocket.publish("a", b"from the browser");
    assert_eq!(by_tcp.message(), ("a".into(), b"from the browser".to_vec()));
    assert_eq!(by_websocket.message(), ("b".into(), b"to the browser".to_vec()));
    handle.shutdown();
    thread.join().unwrap().unwrap();
}
