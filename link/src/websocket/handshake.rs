//! The HTTP/1.1 request that becomes a WebSocket (RFC 6455, 4.2).

use super::{WebSocketSettings, forwarded};
use crate::Failure;
use httparse::{Request, Status};
use std::net::SocketAddr;
use tungstenite::handshake::derive_accept_key;

/// A request that is being received.
#[derive(Debug)]
pub(super) struct Handshake {
    settings: WebSocketSettings,
    /// Where the request comes from, as far as it is known without it.
    pub(super) peer: Option<SocketAddr>,
    head: Vec<u8>,
    forwarded_for: Option<SocketAddr>,
}

/// What to say to a request, and whether the connection goes on.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Box<[u8]>,
    pub(super) verdict: Result<(), Failure>,
}

impl Handshake {
    pub(super) fn new(settings: WebSocketSettings) -> Self {
        Self { settings, peer: None, head: Vec::new(), forwarded_for: None }
    }

    /// For whom a trusted peer sends the request.
    pub(super) fn forwarded_for(&self) -> Option<SocketAddr> {
        self.forwarded_for
    }

    /// Takes bytes; once the request is complete: how many of them belong to it, and the answer.
    pub(super) fn receive(&mut self, wire: &[u8]) -> Option<(usize, Answer)> {
        let before = self.head.len();
        let more = wire.len().min(HANDSHAKE_BYTES_MAX - before);
        self.head.extend_from_slice(&wire[..more]);
        // The end may lie across the border to what came before.
        let from = before.saturating_sub(END.len() - 1);
        let end = self.head[from..].windows(END.len()).position(|window| window == END);
        match end {
            Some(end) => {
                let end = from + end + END.len();
                self.head.truncate(end);
                Some((end - before, self.answer()))
            }
            None if self.head.len() == HANDSHAKE_BYTES_MAX => Some((more, TOO_LARGE.into())),
            None => None,
        }
    }

    fn answer(&mut self) -> Answer {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = Request::new(&mut headers);
        match request.parse(&self.head) {
            Ok(Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return TOO_LARGE.into(),
            Ok(Status::Partial) | Err(_) => return bad("this is not an HTTP request"),
        }
        let is_trusted = match self.peer {
            Some(peer) => self.settings.forwarded.contains(peer.ip()),
            // Who may open a Unix socket is a matter of its permissions.
            None => !self.settings.forwarded.is_empty(),
        };
        if is_trusted {
            self.forwarded_for = forwarded::source(|name| values(&request, name), &self.settings.forwarded);
        }
        match check(&request, &self.settings) {
            Ok((accept, protocol)) => Answer {
                response: format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
                )
                .into_bytes()
                .into(),
                verdict: Ok(()),
            },
            Err(refusal) => refusal.into(),
        }
    }
}

/// Looks a request over; gives the value of Sec-WebSocket-Accept and the subprotocol.
fn check(request: &Request<'_, '_>, settings: &WebSocketSettings) -> Result<(String, &'static str), Refusal> {
    if request.method != Some("GET") {
        return Err(Refusal::new("405 Method Not Allowed", "the method is GET").with("Allow: GET\r\n"));
    }
    if place(request.path.unwrap_or_default()) != &*settings.path {
        return Err(Refusal::new("404 Not Found", "there is nothing here: MQTT has another path"));
    }
    if !lists(request, "Upgrade", "websocket") || !lists(request, "Connection", "upgrade") {
        return Err(Refusal::new("426 Upgrade Required", "this is for WebSocket")
            .with("Upgrade: websocket\r\nConnection: Upgrade\r\n"));
    }
    let bad = |why| Err(Refusal::new("400 Bad Request", why));
    let Some(host) = only(request, "Host").filter(|_| request.version == Some(1)) else {
        return bad("expected HTTP/1.1 and the header Host");
    };
    let mut origins = values(request, "Origin");
    if origins.next().is_some_and(|origin| origins.next().is_some() || !settings.origins.admit(origin, host))
    {
        return Err(Refusal::new("403 Forbidden", "pages of this origin may not connect"));
    }
    if only(request, "Sec-WebSocket-Version") != Some(b"13") {
        return Err(Refusal::new("400 Bad Request", "expected Sec-WebSocket-Version: 13")
            .with("Sec-WebSocket-Version: 13\r\n"));
    }
    let Some(key) = only(request, "Sec-WebSocket-Key").filter(|key| is_key(key)) else {
        return bad("expected one Sec-WebSocket-Key of 16 bytes in base64");
    };
    // [MQTT-6.0.0-3], [MQTT-6.0.0-4]: the names of subprotocols are case-sensitive. 3.1 had its own in practice.
    let Some(protocol) = ["mqtt", "mqttv3.1"].into_iter().find(|name| offers(request, name)) else {
        return bad("expected mqtt in Sec-WebSocket-Protocol");
    };
    Ok((derive_accept_key(key), protocol))
}

/// The path of a request's target, which may be a whole URL (RFC 9112, 3.2.2), without its query.
fn place(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |start| &rest[start..]),
        _ => target,
    };
    path.split('?').next().unwrap_or_default()
}

fn values<'r>(request: &'r Request<'_, '_>, name: &'static str) -> impl DoubleEndedIterator<Item = &'r [u8]> {
    request
        .headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value.trim_ascii())
}

/// The value of a header that stands there once.
fn only<'r>(request: &'r Request<'_, '_>, name: &'static str) -> Option<&'r [u8]> {
    let mut values = values(request, name);
    values.next().filter(|_| values.next().is_none())
}

fn words<'r>(request: &'r Request<'_, '_>, name: &'static str) -> impl Iterator<Item = &'r [u8]> {
    values(request, name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn lists(request: &Request<'_, '_>, name: &'static str, word: &str) -> bool {
    words(request, name).any(|found| found.eq_ignore_ascii_case(word.as_bytes()))
}

fn offers(request: &Request<'_, '_>, protocol: &str) -> bool {
    words(request, "Sec-WebSocket-Protocol").any(|found| found == protocol.as_bytes())
}

/// Whether this is 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(base64)
}

/// An answer that ends the connection.
struct Refusal {
    status: &'static str,
    headers: &'static str,
    why: &'static str,
}

impl Refusal {
    const fn new(status: &'static str, why: &'static str) -> Self {
        Self { status, headers: "", why }
    }

    const fn with(mut self, headers: &'static str) -> Self {
        self.headers = headers;
        self
    }
}

impl From<Refusal> for Answer {
    fn from(Refusal { status, headers, why }: Refusal) -> Self {
        let response = format!(
            "HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\n\r\n{why}\n",
            why.len() + 1
        );
        Self { response: response.into_bytes().into(), verdict: Err(Failure::new("WebSocket", why)) }
    }
}

fn bad(why: &'static str) -> Answer {
    Refusal::new("400 Bad Request", why).into()
}

const TOO_LARGE: Refusal = Refusal::new("431 Request Header Fields Too Large", "the request is too large");
const END: &[u8; 4] = b"\r\n\r\n";
/// Bytes of the request that opens a connection; longer ones are refused.
pub const HANDSHAKE_BYTES_MAX: usize = 8 * 1024;
/// Its header fields.
const HEADERS_MAX: usize = 64;
