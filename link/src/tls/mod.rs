//! TLS 1.2 and 1.3 (RFC 5246, RFC 8446), the side of the server, by rustls with ring.
//!
//! It is the one layer that draws random numbers: what it carries can be replayed, its bytes on the wire cannot.

mod certificate;
mod failure;
mod load;
mod settings;

pub use settings::{
    CertificateIdentity, CertificatePair, ClientCertificates, Demand, Pem, TlsSettings, TlsVersion,
};

use crate::{Carries, Failure, Layer, Learnt, Progress};
use certificate::{owner, validity};
use culex_core::Wall;
use failure::failure;
use load::Loaded;
use rustls::pki_types::UnixTime;
use rustls::server::ServerConnection;
use rustls::time_provider::TimeProvider;
use rustls::{HandshakeKind, ServerConfig};
use std::fmt;
use std::io::{self, BufRead as _, ErrorKind, IoSlice, Read, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The broker's side of TLS: certificates, whom it trusts, and the sessions it remembers. Cheap to clone; all clones are
/// one. It reads files only when it is made and in [`reload`](Self::reload), and no clock.
///
/// Sessions are resumed from a bounded memory ([`TLS_SESSIONS_MAX`]) and not from tickets: those need a secret that is
/// renewed by a clock, and what they remember cannot be forgotten.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: TlsSettings,
    time: Time,
    loaded: RwLock<Arc<Loaded>>,
}

impl Tls {
    /// Reads what the settings name. `now` is the time of day, as in [`set_time`](Self::set_time).
    ///
    /// # Errors
    /// One line that names the file and what was expected in it. A certificate that has expired is a
    /// [warning](Self::warnings) and no error: a broker that served yesterday starts today.
    pub fn new(settings: TlsSettings, now: Wall) -> Result<Self, TlsError> {
        let time = Time::default();
        time.set(now);
        let loaded = RwLock::new(Arc::new(Loaded::new(&settings, &time, now)?));
        Ok(Self(Arc::new(Shared { settings, time, loaded })))
    }

    /// Reads all files anew. New connections get what they say, those that are open go on. Sessions from before are not
    /// resumed: their clients' certificates may be revoked by now.
    ///
    /// # Errors
    /// As [`new`](Self::new); then everything stays as it was.
    pub fn reload(&self, now: Wall) -> Result<(), TlsError> {
        self.0.time.set(now);
        let loaded = Arc::new(Loaded::new(&self.0.settings, &self.0.time, now)?);
        *self.0.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    /// What an operator should know of the files: certificates that have expired or are not valid yet, lists of revoked
    /// certificates that are out of date. A line each that names the file, as of the last reading.
    #[must_use]
    pub fn warnings(&self) -> Vec<Box<str>> {
        self.loaded().warnings.clone()
    }

    /// When the first of the broker's own certificates expires.
    #[must_use]
    pub fn expires(&self) -> Option<Wall> {
        self.loaded().expires
    }

    /// What time it is: by that the certificates of clients are judged. To be told before each step of a handshake.
    pub fn set_time(&self, now: Wall) {
        self.0.time.set(now);
    }

    /// The layer of a new connection.
    #[must_use]
    pub fn accept(&self, carries: Carries) -> Box<dyn Layer> {
        let identity = self.0.settings.clients.as_ref().map(|clients| clients.identity);
        Box::new(TlsLayer::new(self.loaded().config(carries), identity, self.0.time.clone()))
    }

    fn loaded(&self) -> Arc<Loaded> {
        self.0.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What an operator has to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError(Box<str>);

impl TlsError {
    fn new(line: impl Into<Box<str>>) -> Self {
        Self(line.into())
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

/// The time of day as it was told last, in milliseconds since 1970.
#[derive(Debug, Clone, Default)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn set(&self, now: Wall) {
        self.0.store(now.0, Ordering::Relaxed);
    }

    fn now(&self) -> Wall {
        Wall(self.0.load(Ordering::Relaxed))
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.now().0)))
    }
}

/// A connection by TLS.
#[derive(Debug)]
struct TlsLayer {
    /// `None` once everything was said.
    connection: Option<ServerConnection>,
    /// What of the client's certificate says who it is, if it is asked for one.
    identity: Option<CertificateIdentity>,
    time: Time,
    phase: Phase,
    learnt: Option<Learnt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// So many bytes of the handshake came.
    Handshake(usize),
    Open,
    /// The client said goodbye.
    Closing,
    /// Nobody reads what is sent, but for the alert.
    Failed,
}

impl TlsLayer {
    fn new(config: Arc<ServerConfig>, identity: Option<CertificateIdentity>, time: Time) -> Self {
        let mut connection = ServerConnection::new(config).ok();
        if let Some(connection) = &mut connection {
            connection.set_buffer_limit(Some(BUFFER_BYTES_MAX));
        }
        Self { connection, identity, time, phase: Phase::Handshake(0), learnt: None }
    }

    /// Takes the front of `wire` away and appends what it carried.
    fn read(&mut self, wire: &mut &[u8], plain: &mut Vec<u8>) -> Result<Progress, Failure> {
        let Some(connection) = &mut self.connection else {
            return Err(Failure::new("TLS", "it cannot begin"));
        };
        let room = match self.phase {
            Phase::Handshake(before) => TLS_HANDSHAKE_BYTES_MAX - before,
            _ => usize::MAX,
        };
        let offered = wire.len().min(room);
        let used = match connection.read_tls(&mut &wire[..offered]) {
            Ok(used @ 1..) => used,
            Ok(0) | Err(_) => return Err(Failure::new("TLS", "a record is longer than one can be")),
        };
        *wire = &wire[used..];
        let state = connection.process_new_packets();
        if let Phase::Handshake(before) = self.phase {
            if !connection.is_handshaking() {
                self.phase = Phase::Open;
                self.learnt = who(connection, self.identity, &self.time)?;
            } else if before + used == TLS_HANDSHAKE_BYTES_MAX && state.is_ok() {
                return Err(Failure::new("TLS", "expected a shorter handshake"));
            } else {
                self.phase = Phase::Handshake(before + used);
            }
        }
        // Also what came before an error.
        let mut reader = connection.reader();
        while let Ok(chunk @ [_, ..]) = reader.fill_buf() {
            plain.extend_from_slice(chunk);
            let count = chunk.len();
            reader.consume(count);
        }
        match state {
            Ok(state) if state.peer_has_closed() => Ok(Progress::Closed),
            Ok(_) => Ok(Progress::Open),
            Err(error) => Err(failure(&error)),
        }
    }
}

/// Who the client is, by its certificate.
fn who(
    connection: &ServerConnection,
    identity: Option<CertificateIdentity>,
    time: &Time,
) -> Result<Option<Learnt>, Failure> {
    let Some((kind, certificate)) = identity.zip(connection.peer_certificates().and_then(<[_]>::first))
    else {
        return Ok(None);
    };
    // The certificate is that of the session that is resumed, and was looked at when that began.
    if connection.handshake_kind() == Some(HandshakeKind::Resumed)
        && validity(certificate).is_none_or(|(_, to)| to < time.now())
    {
        return Err(Failure::new("TLS", "the client's certificate is refused").about("it has expired"));
    }
    match owner(certificate, kind) {
        Some(identity) => Ok(Some(Learnt { address: None, identity: Some(identity) })),
        None => Err(Failure::new("TLS", "the client's certificate is refused").about(match kind {
            CertificateIdentity::CommonName => "it does not have one common name",
            CertificateIdentity::AlternativeName => "it has no alternative name",
            CertificateIdentity::Fingerprint => "",
        })),
    }
}

/// Appends all that waits to be written. Writing into a `Vec` cannot fail.
fn flush(connection: &mut ServerConnection, wire: &mut Vec<u8>) {
    while connection.wants_write() && connection.write_tls(wire).is_ok() {}
}

/// A stream of which nothing can be read now.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Layer for TlsLayer {
    fn receive(&mut self, mut wire: &[u8], plain: &mut Vec<u8>) -> Progress {
        if !matches!(self.phase, Phase::Handshake(_) | Phase::Open) {
            return Progress::Open;
        }
        while !wire.is_empty() {
            match self.read(&mut wire, plain) {
                Ok(Progress::Open) => {}
                Ok(progress) => {
                    self.phase = Phase::Closing;
                    return progress;
                }
                Err(failure) => {
                    self.phase = Phase::Failed;
                    return Progress::Failed(failure);
                }
            }
        }
        if let Some(connection) = &mut self.connection {
            // The buffer for incomplete records shrinks when it is read into, to 4 KiB if nothing is in it.
            let _ = connection.read_tls(&mut Nothing);
        }
        Progress::Open
    }

    fn speaks(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.wants_write())
    }

    fn send(&mut self, plain: &[IoSlice<'_>], wire: &mut Vec<u8>) {
        let Some(connection) = &mut self.connection else { return };
        flush(connection, wire);
        if self.phase != Phase::Failed && !plain.is_empty() {
            let mut slices = plain.to_vec();
            let mut rest = &mut slices[..];
            // Before the handshake is over only so much is taken; but then nobody has anything to say.
            while let Ok(count @ 1..) = connection.writer().write_vectored(rest) {
                flush(connection, wire);
                IoSlice::advance_slices(&mut rest, count);
            }
        }
    }

    fn close(&mut self, wire: &mut Vec<u8>) {
        if let Some(connection) = &mut self.connection {
            // Nothing, if an alert was sent that ends the connection.
            connection.send_close_notify();
            flush(connection, wire);
        }
        self.connection = None;
        if matches!(self.phase, Phase::Handshake(_) | Phase::Open) {
            self.phase = Phase::Closing;
        }
    }

    fn learnt(&mut self) -> Option<Learnt> {
        self.learnt.take()
    }

    fn is_shaking_hands(&self) -> bool {
        matches!(self.phase, Phase::Handshake(_))
    }
}

/// Bytes of a client before its handshake is over; who sends more is refused. One with a chain of certificates has some
/// thousand.
pub const TLS_HANDSHAKE_BYTES_MAX: usize = 32 * 1024;
/// Sessions that can be resumed, of all connections together: a few hundred bytes each, and the client's certificates.
pub const TLS_SESSIONS_MAX: usize = 4096;
/// What the library keeps at most of what is to be sent, in either form; we leave nothing there.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
