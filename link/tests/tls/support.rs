//! Authorities, certificates, and a client of rustls that talks to a layer in memory.

use culex_core::Wall;
use culex_link::{
    Buffers, CertificateIdentity, CertificatePair, ClientCertificates, Demand, Layers, Learnt, Link, Pem,
    Progress, Tls, TlsSettings,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use std::io::{BufRead, IoSlice, Write};
use std::sync::Arc;
use std::time::Duration;

/// 2026-01-01, in milliseconds: the day of the tests.
pub(crate) const TODAY: Wall = Wall(1_767_225_600_000);
/// Where clients come from.
pub(crate) const ADDRESS: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);
pub(crate) const DAY_MS: u64 = 86_400_000;

/// Who signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Certified {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = params(name, 2030);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate that `change` had its way with.
    pub(crate) fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Certified {
        let mut params = params(name, 2027);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Certified { chain: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }

    /// One for a host.
    pub(crate) fn host(&self, name: &str) -> Certified {
        self.sign(name, |params| {
            params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().unwrap())]
        })
    }

    /// A list of revoked serial numbers.
    pub(crate) fn revoked(&self, serials: &[u64], next_update: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2025, 6, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(next_update, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A certificate from 2025 to the beginning of a year.
fn params(name: &str, until: i32) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params
}

pub(crate) fn pair(name: &str, certified: &Certified) -> CertificatePair {
    CertificatePair {
        chain: Pem::text(format!("{name}.crt"), certified.chain.as_bytes()),
        key: Pem::text(format!("{name}.key"), certified.key.as_bytes()),
    }
}

/// A broker with one certificate.
pub(crate) fn settings(certified: &Certified) -> TlsSettings {
    TlsSettings { certificates: vec![pair("broker", certified)], ..TlsSettings::default() }
}

/// What it asks of clients.
pub(crate) fn clients(authority: &Authority) -> ClientCertificates {
    ClientCertificates {
        authorities: Pem::text("clients.crt", authority.pem().as_bytes()),
        demand: Demand::Required,
        revoked: Vec::new(),
        identity: CertificateIdentity::CommonName,
    }
}

pub(crate) fn tls(settings: TlsSettings) -> Tls {
    Tls::new(settings, TODAY).unwrap()
}

#[derive(Debug)]
struct Today;

impl TimeProvider for Today {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(TODAY.0)))
    }
}

/// A client that trusts `authority` and shows a certificate, if it has one.
pub(crate) fn config(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    certified: Option<&Certified>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(Today))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match certified {
        None => config.with_no_client_auth(),
        Some(Certified { chain, key }) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
            config
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                .unwrap()
        }
    }
}

/// A client and the broker's layers, with what came of them.
pub(crate) struct Wire {
    pub(crate) client: ClientConnection,
    pub(crate) link: Link,
    pub(crate) buffers: Buffers,
    /// What the broker read.
    pub(crate) plain: Vec<u8>,
    pub(crate) end: Progress,
    pub(crate) learnt: Option<Learnt>,
    /// What went wrong for the client.
    pub(crate) error: Option<rustls::Error>,
    /// In how many bytes the broker's side gets what the client sends.
    pub(crate) chunk: usize,
}

impl Wire {
    pub(crate) fn new(config: ClientConfig, host: &str, tls: &Tls) -> Self {
        let layers = Layers { tls: Some(tls.clone()), ..Layers::default() };
        let client = ClientConnection::new(Arc::new(config), host.to_owned().try_into().unwrap()).unwrap();
        Self {
            client,
            link: layers.link(Some(ADDRESS.into())).unwrap(),
            buffers: Buffers::default(),
            plain: Vec::new(),
            end: Progress::Open,
            learnt: None,
            error: None,
            chunk: usize::MAX,
        }
    }

    /// Bytes of the client's side.
    pub(crate) fn broker_gets(&mut self, wire: &[u8]) {
        for chunk in wire.chunks(self.chunk.min(wire.len().max(1))) {
            let progress = self.link.receive(chunk, &mut self.buffers, &mut self.plain);
            if self.end == Progress::Open {
                self.end = progress;
            }
            if let Some(learnt) = self.link.learnt() {
                assert!(self.learnt.replace(learnt).is_none(), "it told twice");
            }
        }
    }

    pub(crate) fn client_gets(&mut self, mut wire: &[u8]) {
        while !wire.is_empty() {
            if self.client.read_tls(&mut wire).unwrap() == 0 {
                return;
            }
            if let Err(error) = self.client.process_new_packets() {
                self.error.get_or_insert(error);
                return;
            }
        }
    }

    /// Lets both talk until nobody has anything to say.
    pub(crate) fn talk(&mut self) {
        loop {
            let mut wire = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut wire).unwrap();
            }
            let mut said = Vec::new();
            self.broker_gets(&wire);
            if matches!(self.end, Progress::Failed(_)) {
                self.link.close(&mut self.buffers, &mut said);
            } else if self.link.speaks() {
                self.link.send(&[], &mut self.buffers, &mut said);
            }
            self.client_gets(&said);
            if said.is_empty() && (wire.is_empty() || !self.client.wants_write()) {
                return;
            }
        }
    }

    /// The client sends this.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(16_000) {
            self.client.writer().write_all(part).unwrap();
            self.talk();
        }
    }

    /// The broker sends this; gives all the client could read.
    pub(crate) fn answer(&mut self, slices: &[&[u8]]) -> Vec<u8> {
        let slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut wire = Vec::new();
        self.link.send(&slices, &mut self.buffers, &mut wire);
        let mut heard = Vec::new();
        for part in wire.chunks(4_096) {
            self.client_gets(part);
            heard.extend(self.heard());
        }
        heard
    }

    pub(crate) fn heard(&mut self) -> Vec<u8> {
        let (mut heard, mut reader) = (Vec::new(), self.client.reader());
        while let Ok(chunk @ [_, ..]) = reader.fill_buf() {
            heard.extend_from_slice(chunk);
            let count = chunk.len();
            reader.consume(count);
        }
        heard
    }

    pub(crate) fn failure(&self) -> String {
        match self.end {
            Progress::Failed(failure) => failure.to_string(),
            end => format!("{end:?}"),
        }
    }

    pub(crate) fn identity(&self) -> Option<&str> {
        self.learnt.as_ref()?.identity.as_deref()
    }
}
