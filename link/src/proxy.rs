//! The PROXY protocol, versions 1 and 2 (haproxy's `proxy-protocol.txt`): a header by which a proxy says for whom it
//! connects. It stands once, in front of everything else.
//!
//! A header that is missing or wrong ends the connection, as the specification demands: whoever gets by without one
//! could claim any address in it.

use crate::{Failure, Layer, Learnt, Progress, identity};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A connection that begins with a header of the PROXY protocol.
#[derive(Debug, Default)]
pub struct Proxy {
    /// The header as far as it came.
    head: Vec<u8>,
    phase: Phase,
    learnt: Option<Learnt>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Header,
    /// The header is over: bytes pass.
    Open,
    /// It was none.
    Failed,
}

impl Proxy {
    /// A new connection. That its peer may say for whom it connects is to be checked before.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Layer for Proxy {
    fn receive(&mut self, wire: &[u8], plain: &mut Vec<u8>) -> Progress {
        match self.phase {
            Phase::Header => {}
            Phase::Open => {
                plain.extend_from_slice(wire);
                return Progress::Open;
            }
            Phase::Failed => return Progress::Open,
        }
        let (head, rest) = wire.split_at(wire.len().min(PROXY_BYTES_MAX - self.head.len()));
        self.head.extend_from_slice(head);
        match parse(&self.head) {
            Ok(None) => Progress::Open,
            Ok(Some((used, learnt))) => {
                self.phase = Phase::Open;
                self.learnt = Some(learnt).filter(|learnt| *learnt != Learnt::default());
                plain.extend_from_slice(&self.head[used..]);
                plain.extend_from_slice(rest);
                self.head = Vec::new();
                Progress::Open
            }
            Err(reason) => {
                self.phase = Phase::Failed;
                self.head = Vec::new();
                Progress::Failed(Failure::new("PROXY protocol", reason))
            }
        }
    }

    fn speaks(&self) -> bool {
        false
    }

    fn send(&mut self, plain: &[IoSlice<'_>], wire: &mut Vec<u8>) {
        if self.phase != Phase::Failed {
            plain.iter().for_each(|slice| wire.extend_from_slice(slice));
        }
    }

    fn close(&mut self, _wire: &mut Vec<u8>) {}

    fn learnt(&mut self) -> Option<Learnt> {
        self.learnt.take()
    }

    fn is_shaking_hands(&self) -> bool {
        self.phase == Phase::Header
    }

    fn is_done(&self) -> bool {
        self.phase == Phase::Open && self.learnt.is_none()
    }
}

/// A header at the start of `head`: how long it is, and what it says; `None`: it is not complete. Everything is judged
/// as soon as it is there and in the order in which it stands, so that splitting the bytes changes nothing.
fn parse(head: &[u8]) -> Result<Option<(usize, Learnt)>, &'static str> {
    if begins(head, V2_SIGNATURE) {
        return version_2(head);
    }
    if begins(head, V1_SIGNATURE) {
        return version_1(head);
    }
    Err("expected a header, found something else")
}

/// Whether this is the start of `signature`, or begins with it.
fn begins(head: &[u8], signature: &[u8]) -> bool {
    head.iter().zip(signature).all(|(found, expected)| found == expected)
}

/// `PROXY TCP4 SOURCE DESTINATION PORT PORT`, as text.
fn version_1(head: &[u8]) -> Result<Option<(usize, Learnt)>, &'static str> {
    let Some(end) = head.iter().take(V1_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return if head.len() < V1_BYTES_MAX {
            Ok(None)
        } else {
            Err("expected a line of at most 107 bytes")
        };
    };
    let wrong = "expected PROXY TCP4, TCP6 or UNKNOWN with addresses and ports";
    let line = head[..end].strip_suffix(b"\r").ok_or("expected a line that ends with CR LF")?;
    let words = std::str::from_utf8(line).map_err(|_| wrong)?.strip_prefix("PROXY ").ok_or(wrong)?;
    let mut words = words.split(' ');
    let address = match words.next() {
        // What stands behind it is to be ignored.
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => {
            let mut host = || {
                let word = words.next()?;
                match family {
                    "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
                    _ => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
                }
            };
            let (source, destination) = (host().ok_or(wrong)?, host());
            let mut port = || words.next().and_then(port);
            let (source_port, destination_port) = (port().ok_or(wrong)?, port());
            if destination.is_none() || destination_port.is_none() || words.next().is_some() {
                return Err(wrong);
            }
            Some(SocketAddr::new(source, source_port))
        }
        _ => return Err(wrong),
    };
    Ok(Some((end + 1, Learnt { address, identity: None })))
}

/// A decimal number without sign or leading zeros.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    plain.then(|| word.parse().ok()).flatten()
}

/// Signature, version and command, family and protocol, length; then addresses and TLVs.
fn version_2(head: &[u8]) -> Result<Option<(usize, Learnt)>, &'static str> {
    let local = match head.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err("expected version 2 and the command LOCAL or PROXY"),
    };
    let (family, addresses) = match head.get(13) {
        None => return Ok(None),
        // [2.2] With LOCAL the rest is to be ignored.
        Some(_) if local => (Family::Unspecified, 0),
        Some(0x00) => (Family::Unspecified, 0),
        Some(0x11) => (Family::Inet, 12),
        Some(0x21) => (Family::Inet6, 36),
        Some(0x31) => (Family::Unix, 216),
        Some(_) => return Err("expected a stream of TCP/IPv4, TCP/IPv6 or a Unix socket"),
    };
    let Some(length) = head.get(14..16) else { return Ok(None) };
    let length = V2_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length > PROXY_BYTES_MAX {
        return Err("expected a header of at most 4096 bytes");
    }
    if length < V2_BYTES + addresses {
        return Err("expected a header that has room for its addresses");
    }
    let Some(header) = head.get(..length) else { return Ok(None) };
    if local {
        return Ok(Some((length, Learnt::default())));
    }
    let body = &header[V2_BYTES..];
    let address = match family {
        Family::Inet => source::<4>(body, 8),
        Family::Inet6 => source::<16>(body, 32),
        Family::Unix | Family::Unspecified => None,
    };
    let identity = values(header, V2_BYTES + addresses)?;
    Ok(Some((length, Learnt { address, identity })))
}

#[derive(Debug, Clone, Copy)]
enum Family {
    Unspecified,
    Inet,
    Inet6,
    Unix,
}

/// The address at the start of `body`, with its port behind both addresses.
fn source<const N: usize>(body: &[u8], port: usize) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let address: [u8; N] = *body.first_chunk()?;
    let port = body.get(port..port + 2)?;
    Some(SocketAddr::new(address.into(), u16::from_be_bytes([port[0], port[1]])))
}

/// Looks through the type-length-values from `start` on: checks the checksum, and gives the identity of a client that
/// proved it to the proxy. All others are skipped.
fn values(header: &[u8], start: usize) -> Result<Option<Box<str>>, &'static str> {
    let (mut at, mut checked, mut name) = (start, false, None);
    while at < header.len() {
        let (kind, value, next) = value(header, at).ok_or(TRUNCATED)?;
        match kind {
            TYPE_CRC32C => {
                let claimed =
                    value.try_into().map(u32::from_be_bytes).map_err(|_| "expected a checksum of 4 bytes")?;
                if checked || crc32c(header, next - 4..next) != claimed {
                    return Err("expected one checksum, and that of the header");
                }
                checked = true;
            }
            TYPE_SSL if name.is_some() => return Err("expected what it knows of TLS once"),
            TYPE_SSL => name = Some(common_name(value)?),
            _ => {}
        }
        at = next;
    }
    Ok(name.flatten())
}

/// Type, value, and where the next one begins.
fn value(bytes: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let [kind, high, low] = *bytes.get(at..)?.first_chunk()?;
    let start = at + 3;
    let end = start + usize::from(u16::from_be_bytes([high, low]));
    Some((kind, bytes.get(start..end)?, end))
}

/// The name in a client's certificate that the proxy verified; `None`: there was no certificate.
fn common_name(ssl: &[u8]) -> Result<Option<Box<str>>, &'static str> {
    let (fixed, inner) = ssl.split_first_chunk::<5>().ok_or(TRUNCATED)?;
    let &[client, verify @ ..] = fixed;
    let certified = client & CLIENT_CERTIFICATE != 0 && verify == [0; 4];
    let (mut at, mut name) = (0, None);
    while at < inner.len() {
        let (kind, value, next) = value(inner, at).ok_or(TRUNCATED)?;
        if kind == SUBTYPE_SSL_CN && certified {
            let found = identity(value).ok_or("expected a common name of 1 to 256 bytes of text")?;
            if name.replace(found).is_some() {
                return Err("expected one common name");
            }
        }
        at = next;
    }
    Ok(name)
}

/// CRC-32C of bytes, those of `hole` taken for 0.
fn crc32c(bytes: &[u8], hole: std::ops::Range<usize>) -> u32 {
    let mut crc = u32::MAX;
    for (index, byte) in bytes.iter().enumerate() {
        crc ^= if hole.contains(&index) { 0 } else { u32::from(*byte) };
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    !crc
}

const V1_SIGNATURE: &[u8] = b"PROXY ";
/// A line with CR and LF.
const V1_BYTES_MAX: usize = 107;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What stands in front of the addresses.
const V2_BYTES: usize = 16;
/// Bytes of a header; longer ones are refused.
pub const PROXY_BYTES_MAX: usize = 4 * 1024;
const TYPE_CRC32C: u8 = 0x03;
const TYPE_SSL: u8 = 0x20;
const SUBTYPE_SSL_CN: u8 = 0x22;
/// The client had a certificate on this connection, or on one of the same TLS session.
const CLIENT_CERTIFICATE: u8 = 0x02 | 0x04;
const TRUNCATED: &str = "expected a value that is as long as it says";
