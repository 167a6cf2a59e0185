//! From files to what the library for TLS wants. Every mistake is one line that names the file and what was expected.

use super::certificate::{next_update, validity};
use super::{
    CertificatePair, ClientCertificates, Demand, Pem, TLS_SESSIONS_MAX, Time, TlsError, TlsSettings,
    TlsVersion,
};
use crate::Carries;
use culex_core::Wall;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, ParsedCertificate, ResolvesServerCert, ServerSessionMemoryCache, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig, client, version};
use std::borrow::Cow;
use std::sync::Arc;

/// What was read.
#[derive(Debug)]
pub(super) struct Loaded {
    mqtt: Arc<ServerConfig>,
    websocket: Arc<ServerConfig>,
    pub(super) warnings: Vec<Box<str>>,
    pub(super) expires: Option<Wall>,
}

impl Loaded {
    pub(super) fn new(settings: &TlsSettings, time: &Time, now: Wall) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut dates = Dates { now, warnings: Vec::new(), expires: None };
        let keys = settings.certificates.iter().map(|pair| key(pair, &provider, &mut dates));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(TlsError::new("expected at least one certificate for TLS, found none"));
        }
        let versions: &[_] = match settings.version_min {
            TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12],
            TlsVersion::V1_3 => &[&version::TLS13],
        };
        let verifier = match &settings.clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(clients) => verifier(clients, &provider, &mut dates)?,
        };
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(time.clone()))
            .with_protocol_versions(versions)
            .map_err(|error| TlsError::new(format!("cannot speak TLS: {error}")))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Keys(keys)));
        // A new one with every reload: who resumes is not asked for a certificate again, which may be revoked by now.
        config.session_storage = ServerSessionMemoryCache::new(TLS_SESSIONS_MAX);
        // Who comes back brings one and gets the next one.
        config.send_tls13_tickets = 1;
        config.alpn_protocols = vec![b"mqtt".to_vec()];
        let mut websocket = config.clone();
        websocket.alpn_protocols = vec![b"http/1.1".to_vec()];
        let Dates { warnings, expires, .. } = dates;
        Ok(Self { mqtt: Arc::new(config), websocket: Arc::new(websocket), warnings, expires })
    }

    pub(super) fn config(&self, carries: Carries) -> Arc<ServerConfig> {
        match carries {
            Carries::Mqtt => self.mqtt.clone(),
            Carries::WebSocket => self.websocket.clone(),
        }
    }
}

/// What the dates in certificates come to.
struct Dates {
    now: Wall,
    warnings: Vec<Box<str>>,
    /// When the first of the broker's own certificates expires.
    expires: Option<Wall>,
}

impl Dates {
    /// Looks at the dates of a certificate, the first one of its file being number 1.
    fn look(&mut self, pem: &Pem, number: usize, der: &[u8], is_own: bool) {
        let Some((from, to)) = validity(der) else { return };
        if to < self.now {
            self.warnings.push(format!("{pem}: certificate {number} has expired").into());
        }
        if self.now < from {
            self.warnings.push(format!("{pem}: certificate {number} is not valid yet").into());
        }
        if is_own {
            self.expires = Some(self.expires.map_or(to, |expires| expires.min(to)));
        }
    }
}

fn key(
    pair: &CertificatePair,
    provider: &CryptoProvider,
    dates: &mut Dates,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let CertificatePair { chain: chain_pem, key: key_pem } = pair;
    let chain = all::<CertificateDer<'static>>(chain_pem, "certificates")?;
    for (number, certificate) in (1..).zip(&chain) {
        unless_parsed(chain_pem, number, certificate)?;
        dates.look(chain_pem, number, certificate, true);
    }
    let text = read(key_pem)?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        TlsError::new(format!(
            "{key_pem}: expected a private key in PEM, not encrypted, found {}",
            found(&error)
        ))
    })?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::new(format!(
            "{key_pem}: expected the key of the certificate in {chain_pem}, found another"
        )),
        _ => TlsError::new(format!("{key_pem}: expected a key for ECDSA, Ed25519 or RSA, found none")),
    })?;
    Ok(Arc::new(certified))
}

fn unless_parsed(pem: &Pem, number: usize, certificate: &CertificateDer<'_>) -> Result<(), TlsError> {
    match ParsedCertificate::try_from(certificate) {
        Ok(_) => Ok(()),
        Err(_) => Err(TlsError::new(format!(
            "{pem}: expected X.509 certificates, but number {number} cannot be parsed"
        ))),
    }
}

fn verifier(
    clients: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
    dates: &mut Dates,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let pem = &clients.authorities;
    let mut roots = RootCertStore::empty();
    for (number, certificate) in
        (1..).zip(all::<CertificateDer<'static>>(pem, "certificates of authorities")?)
    {
        dates.look(pem, number, &certificate, false);
        roots.add(certificate).map_err(|_| {
            TlsError::new(format!(
                "{pem}: expected certificates of authorities, but number {number} cannot be parsed"
            ))
        })?;
    }
    let roots = Arc::new(roots);
    let builder = || WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let mut revoked = Vec::new();
    for pem in &clients.revoked {
        let lists = all::<CertificateRevocationListDer<'static>>(pem, "lists of revoked certificates")?;
        if lists.iter().any(|list| next_update(list).is_some_and(|next| next < dates.now)) {
            dates.warnings.push(format!("{pem}: a list of revoked certificates is out of date").into());
        }
        if builder().with_crls(lists.iter().cloned()).build().is_err() {
            return Err(TlsError::new(format!(
                "{pem}: expected lists of revoked certificates that can be parsed"
            )));
        }
        revoked.extend(lists);
    }
    // Intermediate authorities that are revoked belong out of the bundle; of each that signs clients a list is wanted.
    let builder = builder().with_crls(revoked).only_check_end_entity_revocation();
    let builder = match clients.demand {
        Demand::Required => builder,
        Demand::Optional => builder.allow_unauthenticated(),
    };
    builder
        .build()
        .map_err(|error| TlsError::new(format!("{pem}: expected certificates of authorities: {error}")))
}

/// All there is of a kind, at least one.
fn all<T: PemObject>(pem: &Pem, what: &str) -> Result<Vec<T>, TlsError> {
    let text = read(pem)?;
    let all = T::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(TlsError::new(format!("{pem}: expected {what} in PEM, found none"))),
        Err(error) => Err(TlsError::new(format!("{pem}: expected {what} in PEM, found {}", found(&error)))),
    }
}

fn read(pem: &Pem) -> Result<Cow<'_, [u8]>, TlsError> {
    match pem {
        Pem::Text { text, .. } => Ok(Cow::Borrowed(text)),
        Pem::File(path) => std::fs::read(path)
            .map(Cow::Owned)
            .map_err(|error| TlsError::new(format!("{pem}: cannot be read: {error}"))),
    }
}

fn found(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "none",
        pem::Error::MissingSectionEnd { .. } => "a part without its end",
        pem::Error::Base64Decode(_) => "text that is not base64",
        _ => "something else",
    }
}

/// The broker's certificates.
#[derive(Debug)]
struct Keys(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Keys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let suits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let is_for = |key: &&Arc<CertifiedKey>| {
            let certificate = key.cert.first().and_then(|first| ParsedCertificate::try_from(first).ok());
            name.as_ref()
                .zip(certificate)
                .is_some_and(|(name, certificate)| client::verify_server_name(&certificate, name).is_ok())
        };
        let mut keys = self.0.iter().filter(suits);
        self.0.iter().filter(suits).find(is_for).or_else(|| keys.next()).cloned()
    }
}
