//! Where to listen, as a URL.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// What carries MQTT, and where: `mqtt://HOST:PORT`, `mqtts://HOST:PORT`, `ws://HOST:PORT/PATH`, `wss://HOST:PORT/PATH`
/// or `unix:PATH`.
///
/// HOST is an IPv4 address, an IPv6 address in brackets, a name, or `*` for every interface. PORT is 1883, 8883, 80 or 443
/// unless given, and 0 lets the system choose. The PATH of WebSocket is `/mqtt` unless given, and requests for any other
/// are refused. The PATH of a Unix socket is a file; `unix:///PATH` says the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenUrl {
    transport: Transport,
    address: ListenAddress,
}

/// What carries MQTT: the layers between the bytes of a socket and those of MQTT.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Transport {
    /// Whether TLS is next to the socket.
    pub tls: bool,
    /// The path of the requests of WebSocket, from `/` on; `None`: MQTT without WebSocket.
    pub websocket: Option<Arc<str>>,
}

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ListenAddress {
    /// A port of TCP.
    Tcp {
        /// The host without brackets; `*` for every interface.
        host: Box<str>,
        /// The port; 0: the system chooses.
        port: u16,
    },
    /// A Unix socket.
    Unix(Box<Path>),
    /// Nowhere: the program gives the streams.
    Program,
}

impl Transport {
    /// MQTT and nothing else.
    #[must_use]
    pub fn mqtt() -> Self {
        Self::default()
    }

    /// WebSocket with this path.
    #[must_use]
    pub fn websocket(path: impl Into<Arc<str>>) -> Self {
        Self { tls: false, websocket: Some(path.into()) }
    }

    fn scheme(&self) -> &'static str {
        match (self.tls, &self.websocket) {
            (false, None) => "mqtt",
            (true, None) => "mqtts",
            (false, Some(_)) => "ws",
            (true, Some(_)) => "wss",
        }
    }
}

impl ListenUrl {
    pub(crate) fn new(transport: Transport, address: ListenAddress) -> Self {
        Self { transport, address }
    }

    /// What carries MQTT.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Where.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// The same with the address that was bound.
    #[must_use]
    pub fn bound_to(&self, address: SocketAddr) -> Self {
        let (host, port) = (address.ip().to_string().into(), address.port());
        Self { transport: self.transport.clone(), address: ListenAddress::Tcp { host, port } }
    }

    /// The addresses of TCP the URL stands for, of which the first that works is bound; none for a Unix socket.
    ///
    /// # Errors
    /// The name cannot be resolved.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let ListenAddress::Tcp { host, port } = &self.address else { return Ok(Vec::new()) };
        if &**host == "*" {
            // A system without IPv6 still has the second one.
            return Ok(vec![(Ipv6Addr::UNSPECIFIED, *port).into(), (Ipv4Addr::UNSPECIFIED, *port).into()]);
        }
        Ok((&**host, *port).to_socket_addrs()?.collect())
    }
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.transport.scheme();
        let path = self.transport.websocket.as_deref().unwrap_or_default();
        match &self.address {
            ListenAddress::Tcp { host, port } if host.contains(':') => {
                write!(f, "{scheme}://[{host}]:{port}{path}")
            }
            ListenAddress::Tcp { host, port } => write!(f, "{scheme}://{host}:{port}{path}"),
            ListenAddress::Unix(file) if self.transport == Transport::mqtt() => {
                write!(f, "unix:{}", file.display())
            }
            ListenAddress::Unix(file) => write!(f, "unix:{} ({scheme} {path})", file.display()),
            ListenAddress::Program => write!(f, "the program ({scheme})"),
        }
    }
}

impl FromStr for ListenUrl {
    type Err = ListenUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || ListenUrlError::Expected(text.into());
        if let Some(path) = text.strip_prefix("unix:") {
            let address = ListenAddress::Unix(unix_path(path).ok_or_else(expected)?.into());
            return Ok(Self { transport: Transport::mqtt(), address });
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
        let (tls, websocket, default_port) = match scheme {
            "mqtt" => (false, false, 1883),
            "mqtts" => (true, false, 8883),
            "ws" => (false, true, 80),
            "wss" => (true, true, 443),
            _ => return Err(expected()),
        };
        let (authority, path) =
            if websocket { rest.split_at(rest.find('/').unwrap_or(rest.len())) } else { (rest, "") };
        let websocket = if websocket { Some(path_of(path).ok_or_else(expected)?) } else { None };
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
        let address = ListenAddress::Tcp { host: host.into(), port };
        Ok(Self { transport: Transport { tls, websocket }, address })
    }
}

/// The file of a Unix socket: `PATH` or `///PATH`, which would not be a host.
fn unix_path(path: &str) -> Option<&Path> {
    let path = match path.strip_prefix("//") {
        Some(absolute) => Some(absolute).filter(|path| path.starts_with('/'))?,
        None => path,
    };
    (!path.is_empty() && !path.ends_with('/') && !path.contains('\0')).then(|| Path::new(path))
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
}

impl fmt::Display for ListenUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expected(found) => write!(f, "expected {EXPECTED}, found {found:?}"),
        }
    }
}

impl std::error::Error for ListenUrlError {}

const EXPECTED: &str = "mqtt[s]://HOST:PORT, ws[s]://HOST:PORT/PATH or unix:PATH";
/// What clients try unless they are told otherwise.
const WEBSOCKET_PATH: &str = "/mqtt";

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
        assert_eq!(shown("mqtts://x"), "mqtts://x:8883");
        assert_eq!(shown("wss://x"), "wss://x:443/mqtt");
        assert_eq!(shown("unix:/run/culex.sock"), "unix:/run/culex.sock");
        assert_eq!(shown("unix:///run/culex.sock"), "unix:/run/culex.sock");
        assert_eq!(shown("unix:culex.sock"), "unix:culex.sock");
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
            "mqtts://",
            "wss://x/a b",
            "unix:",
            "unix://host/path",
            "unix:/a/",
            "unix:a\0b",
        ] {
            let error = shown(wrong);
            assert_eq!(
                error,
                format!("expected mqtt[s]://HOST:PORT, ws[s]://HOST:PORT/PATH or unix:PATH, found {wrong:?}")
            );
            assert!(wrong.parse::<ListenUrl>().is_err(), "{wrong}");
        }
    }
}
