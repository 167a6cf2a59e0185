//! What an operator says about TLS.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What an operator says about TLS; [`Tls`](super::Tls) is made of it.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// The broker's certificates, at least one. A client that names the host it wants (SNI) gets the first one for that
    /// host, any other the first; of those only what goes with the signatures that the client knows.
    pub certificates: Vec<CertificatePair>,
    /// Whether clients are asked for certificates; `None`: they are not.
    pub clients: Option<ClientCertificates>,
    /// The lowest version that is spoken.
    pub version_min: TlsVersion,
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct CertificatePair {
    /// The certificate, then those that lead to a root.
    pub chain: Pem,
    /// Its private key, not encrypted: PKCS #8, PKCS #1 or SEC1.
    pub key: Pem,
}

/// What is asked of the certificates of clients.
#[derive(Debug, Clone)]
pub struct ClientCertificates {
    /// The authorities that clients' certificates must come from: at least one certificate.
    pub authorities: Pem,
    /// Whether a client without certificate is let in.
    pub demand: Demand,
    /// Lists of revoked certificates. If there are any, each authority that signs clients needs one: a client of which it
    /// is not known whether its certificate was revoked is refused.
    pub revoked: Vec<Pem>,
    /// What of a certificate says who the client is.
    pub identity: CertificateIdentity,
}

/// Whether clients need a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Demand {
    /// One that is shown must be valid.
    Optional,
    /// Nobody gets in without.
    #[default]
    Required,
}

/// What of a certificate says who the client is. A client whose certificate does not say it is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CertificateIdentity {
    /// The Common Name of the subject, of which there must be one.
    #[default]
    CommonName,
    /// The first subject alternative name that is a DNS name, an e-mail address or a URI.
    AlternativeName,
    /// The SHA-256 of the whole certificate, in lower case hexadecimal.
    Fingerprint,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2
    #[default]
    V1_2,
    /// 1.3
    V1_3,
}

/// PEM, in a file that is read anew by [`Tls::reload`](super::Tls::reload), or at hand.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// The name of a file.
    File(PathBuf),
    /// The text itself.
    Text {
        /// What it is called in errors.
        name: Arc<str>,
        /// It may hold a key: it is not shown.
        text: Arc<[u8]>,
    },
}

impl Pem {
    /// PEM that is at hand, and what it is called in errors.
    pub fn text(name: impl Into<Arc<str>>, text: impl Into<Arc<[u8]>>) -> Self {
        Self::Text { name: name.into(), text: text.into() }
    }
}

impl<P: AsRef<Path>> From<P> for Pem {
    fn from(path: P) -> Self {
        Self::File(path.as_ref().into())
    }
}

/// The name.
impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Text { name, .. } => name.fmt(f),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({:?})", self.to_string())
    }
}
