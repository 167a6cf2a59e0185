//! What is read in a certificate beside what the library for TLS checks: dates and names.

use super::CertificateIdentity;
use crate::identity;
use culex_core::Wall;
use ring::digest::{SHA256, digest};
use std::fmt::Write as _;
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Tag, Tagged as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::time::Time;

/// From when to when a certificate is valid; `None`: it is written in an odd way.
pub(super) fn validity(der: &[u8]) -> Option<(Wall, Wall)> {
    let certificate = Certificate::from_der(der).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some((wall(&validity.not_before), wall(&validity.not_after)))
}

/// When the next list of revoked certificates was to be there; `None`: the list does not say.
pub(super) fn next_update(der: &[u8]) -> Option<Wall> {
    CertificateList::<Rfc5280>::from_der(der).ok()?.tbs_cert_list.next_update.as_ref().map(wall)
}

/// Who a certificate says its owner is; `None`: it does not say, or twice.
pub(super) fn owner(der: &[u8], kind: CertificateIdentity) -> Option<Box<str>> {
    match kind {
        CertificateIdentity::CommonName => common_name(&Certificate::from_der(der).ok()?),
        CertificateIdentity::AlternativeName => alternative_name(&Certificate::from_der(der).ok()?),
        CertificateIdentity::Fingerprint => Some(fingerprint(der)),
    }
}

fn common_name(certificate: &Certificate) -> Option<Box<str>> {
    let mut names =
        certificate.tbs_certificate().subject().iter().filter(|attribute| attribute.oid == COMMON_NAME);
    let name = &names.next().filter(|_| names.next().is_none())?.value;
    // The other kinds of text are not bytes of UTF-8.
    matches!(name.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String)
        .then(|| identity(name.value()))
        .flatten()
}

fn alternative_name(certificate: &Certificate) -> Option<Box<str>> {
    let (_, names) = certificate.tbs_certificate().get_extension::<SubjectAltName>().ok()??;
    names.0.iter().find_map(|name| match name {
        GeneralName::DnsName(name)
        | GeneralName::Rfc822Name(name)
        | GeneralName::UniformResourceIdentifier(name) => Some(identity(name.as_bytes())),
        _ => None,
    })?
}

fn fingerprint(der: &[u8]) -> Box<str> {
    let mut text = String::with_capacity(64);
    for byte in digest(&SHA256, der).as_ref() {
        // Writing into a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}

fn wall(time: &Time) -> Wall {
    Wall(u64::try_from(time.to_unix_duration().as_millis()).unwrap_or(u64::MAX))
}

/// id-at-commonName
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
