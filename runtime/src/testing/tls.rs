//! The broker's side of TLS for the suite, and a client that trusts it.

use culex_core::Wall;
use culex_link::{CertificatePair, Pem, Tls, TlsSettings};
use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::sync::{Arc, LazyLock};

/// A certificate for the host `broker`, made once.
static MADE: LazyLock<(Tls, Arc<ClientConfig>)> = LazyLock::new(|| {
    let issued = rcgen::generate_simple_self_signed(["broker".to_owned()]).unwrap();
    let pem = |text: String| Pem::text("broker.pem", text.as_bytes());
    let (chain, key) = (pem(issued.cert.pem()), pem(issued.signing_key.serialize_pem()));
    let settings =
        TlsSettings { certificates: vec![CertificatePair { chain, key }], ..TlsSettings::default() };
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Tls::new(settings, Wall(0)).unwrap(), Arc::new(config))
});

pub(crate) fn broker() -> Tls {
    MADE.0.clone()
}

/// A client by TLS, its handshake not begun.
#[derive(Debug)]
pub struct Secured(Box<StreamOwned<ClientConnection, TcpStream>>);

impl Secured {
    pub(super) fn new(stream: TcpStream) -> Self {
        let client = ClientConnection::new(MADE.1.clone(), "broker".try_into().unwrap()).unwrap();
        Self(Box::new(StreamOwned::new(client, stream)))
    }
}

impl Read for Secured {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self.0.read(buffer) {
            // Closed without a goodbye.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }
    }
}

impl Write for Secured {
    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        let count = self.0.write(buffer)?;
        self.0.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}
