//! Authorities and what they sign. Nothing of it outlives the test.

use crate::directory::Directory;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, date_time_ymd,
};

/// Who signs certificates.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The PEM file with its own certificate.
    pub(crate) file: String,
}

/// The PEM files of a certificate and its key.
pub(crate) struct Certified {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(directory: &Directory, name: &str) -> Self {
        let mut params = params(name, FAR);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = directory.write(&format!("{name}.ca"), &issuer.pem());
        Self { issuer, file }
    }

    /// For a broker that is reached by these names and addresses.
    pub(crate) fn host(&self, directory: &Directory, names: &[&str]) -> Certified {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let named = CertificateParams::new(names.clone()).unwrap().subject_alt_names;
        self.sign(directory, &names.join("+"), |params| {
            params.subject_alt_names = named;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    /// For a client; by its number it can be revoked.
    pub(crate) fn client(&self, directory: &Directory, name: &str, serial: u64) -> Certified {
        self.sign(directory, name, |params| params.serial_number = Some(serial.into()))
    }

    /// For a client, and not good any more.
    pub(crate) fn expired(&self, directory: &Directory, name: &str) -> Certified {
        self.sign(directory, name, |params| params.not_after = date_time_ymd(BEGIN + 1, 1, 1))
    }

    fn sign(
        &self,
        directory: &Directory,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certified {
        let mut params = params(name, FAR);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // Python asks for it, since 3.13.
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Certified {
            chain: directory.write(&format!("{name}.crt"), &chain),
            key: directory.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }

    /// A list of revoked serial numbers, as PEM.
    pub(crate) fn revoked(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(BEGIN, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(BEGIN, 1, 1),
            next_update: date_time_ymd(FAR, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

impl Certified {
    /// What a listener's table says to use it.
    pub(crate) fn keys(&self) -> String {
        format!("certificate = '{}'\nkey = '{}'\n", self.chain, self.key)
    }
}

fn params(name: &str, until: i32) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(BEGIN, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params
}

/// The clock of whoever runs the tests is between these years.
const BEGIN: i32 = 2020;
const FAR: i32 = 2099;
