//! Where to listen, as a URL.

use rustix::net::listen;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;
use std::sync::Arc;

/// `mqtt://HOST:PORT`, or `ws://HOST:PORT/PATH` for WebSocket. HOST is an IPv4 address, an IPv6 address in brackets, a
/// name, or `*` for every interface; PORT is 1883, for WebSocket 80, unless given, and 0 lets the system choose; PATH is
/// `/mqtt` unless given, and requests for any other are refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenUrl {
    transport: Transport,
    host: Box<str>,
    port: u16,
}

/// What carries MQTT.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Nothing but TCP.
    Tcp,
    /// WebSocket.
    WebSocket {
        /// The path of its requests, from `/` on.
        path: Arc<str>,
    },
}

impl ListenUrl {
    /// What carries MQTT.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The same with the address that was bound.
    #[must_use]
    pub fn bound_to(&self, address: SocketAddr) -> Self {
        let (transport, host) = (self.transport.clone(), address.ip().to_string().into());
        Self { transport, host, port: address.port() }
    }

    /// The host without brackets; `*` for every interface.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0: the system chooses.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The addresses the URL stands for; [`bind`](Self::bind) takes the first that works.
    ///
    /// # Errors
    /// The name cannot be resolved.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if &*self.host == "*" {
            // A system without IPv6 still has the second one.
            return Ok(vec![
                (Ipv6Addr::UNSPECIFIED, self.port).into(),
                (Ipv4Addr::UNSPECIFIED, self.port).into(),
            ]);
        }
        Ok((&*self.host, self.port).to_socket_addrs()?.collect())
    }

    /// Listens without blocking, with a backlog for a whole fleet that reconnects at once.
    ///
    /// # Errors
    /// `cannot listen on URL: WHY`, of the kind of the cause.
    pub fn bind(&self) -> io::Result<TcpListener> {
        self.try_bind().map_err(|error| {
            let why = match error.kind() {
                kind @ (ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable | ErrorKind::PermissionDenied) => {
                    kind.to_string()
                }
                _ => error.to_string(),
            };
            io::Error::new(error.kind(), format!("cannot listen on {self}: {why}"))
        })
    }

    fn try_bind(&self) -> io::Result<TcpListener> {
        let listener = TcpListener::bind(&self.resolve()?[..])?;
        // The standard library's backlog differs between platforms: set it again.
        listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path) = match &self.transport {
            Transport::Tcp => ("mqtt", ""),
            Transport::WebSocket { path } => ("ws", &**path),
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}{path}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}{path}", self.host, self.port)
        }
    }
}

impl FromStr for ListenUrl {
    type Err = ListenUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || ListenUrlError::Expected(text.into());
        let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
        let (transport, authority, default_port) = match scheme {
            "mqtt" => (Transport::Tcp, rest, MQTT_PORT),
            "ws" => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let path = path_of(path).ok_or_else(expected)?;
                (Transport::WebSocket { path }, authority, HTTP_PORT)
            }
            "mqtts" | "wss" | "unix" => return Err(ListenUrlError::Unsupported(scheme.into())),
            _ => return Err(expected()),
        };
        let (host, port) = split_port(authority).ok_or_else(expected)?;
        if host.is_empty()
            || host.contains(['/', '@', '?', '#', '[', ']'])
            || host.contains(char::is_whitespace)
        {
            return Err(expected());
        }
        let port = match port {
            // `u16::from_str` would take a sign.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| expected())?
            }
            Some(_) => return Err(expected()),
            None => default_port,
        };
        Ok(Self { transport, host: host.into(), port })
    }
}

/// A path as it stands in a request, or the default.
fn path_of(path: &str) -> Option<Arc<str>> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    match path {
        "" => Some(WEBSOCKET_PATH.into()),
        _ => path.bytes().all(fits).then(|| path.into()),
    }
}

fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None if rest.is_empty() => Some((host, None)),
            None => None,
        };
    }
    match authority.split_once(':') {
        // More than one colon is an IPv6 address without brackets.
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
        None => Some((authority, None)),
    }
}

/// What is wrong with a listen URL, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenUrlError {
    /// This is no listen URL.
    Expected(Box<str>),
    /// This scheme is known but cannot be served yet.
    Unsupported(Box<str>),
}

impl fmt::Display for ListenUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expected(found) => write!(f, "expected {EXPECTED}, found {found:?}"),
            Self::Unsupported(scheme) => {
                write!(f, "expected {EXPECTED}, found {scheme}://, which is not supported by this build yet")
            }
        }
    }
}

impl std::error::Error for ListenUrlError {}

const EXPECTED: &str = "mqtt://HOST:PORT or ws://HOST:PORT/PATH";
const MQTT_PORT: u16 = 1883;
const HTTP_PORT: u16 = 80;
/// What clients try unless they are told otherwise.
const WEBSOCKET_PATH: &str = "/mqtt";
/// Connections that wait to be accepted; the system may cap it.
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<ListenUrl>().map_or_else(|e| e.to_string(), |url| url.to_string())
    }

    #[test]
    fn a_url_is_shown_as_it_is_understood() {
        assert_eq!(shown("mqtt://127.0.0.1"), "mqtt://127.0.0.1:1883");
        assert_eq!(shown("mqtt://broker.example:0"), "mqtt://broker.example:0");
        assert_eq!(shown("mqtt://[::1]:1884"), "mqtt://[::1]:1884");
        assert_eq!(shown("mqtt://[::1]"), "mqtt://[::1]:1883");
        assert_eq!(shown("mqtt://*:1883"), "mqtt://*:1883");
        assert_eq!(shown("ws://127.0.0.1"), "ws://127.0.0.1:80/mqtt");
        assert_eq!(shown("ws://[::1]:8083/"), "ws://[::1]:8083/");
        assert_eq!(shown("ws://broker.example:0/a/b"), "ws://broker.example:0/a/b");
        let url: ListenUrl = "ws://*:0/x".parse().unwrap();
        assert_eq!(url.bound_to(([127, 0, 0, 1], 7).into()).to_string(), "ws://127.0.0.1:7/x");
    }

    #[test]
    fn an_error_says_what_was_expected() {
        for wrong in [
            "",
            "127.0.0.1:1883",
            "http://x",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://x:",
            "mqtt://x:65536",
            "mqtt://x:+1",
            "mqtt://::1",
            "mqtt://[::1",
            "mqtt://[x]:1",
            "mqtt://x/y",
            "mqtt://u@x",
            "ws://",
            "ws:///mqtt",
            "ws://x/a?b",
            "ws://x/a b",
            "ws://x?a",
        ] {
            let error = shown(wrong);
            assert_eq!(error, format!("expected mqtt://HOST:PORT or ws://HOST:PORT/PATH, found {wrong:?}"));
            assert!(wrong.parse::<ListenUrl>().is_err(), "{wrong}");
        }
        for scheme in ["mqtts", "wss", "unix"] {
            assert!(shown(&format!("{scheme}://x")).ends_with("is not supported by this build yet"));
        }
    }

    #[test]
    fn a_busy_port_is_told_in_one_line() {
        let first = "mqtt://127.0.0.1:0".parse::<ListenUrl>().unwrap().bind().unwrap();
        let url = format!("mqtt://{}", first.local_addr().unwrap());
        let error = url.parse::<ListenUrl>().unwrap().bind().unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {url}: address in use"));
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
}
