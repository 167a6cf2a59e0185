//! What went wrong in TLS, in words for the log.

use crate::Failure;
use rustls::{CertificateError, Error};

/// In the words of an operator; the client is told by an alert.
pub(super) fn failure(error: &Error) -> Failure {
    let (reason, detail) = match error {
        Error::AlertReceived(alert) => ("the client gave up", alert.as_str().unwrap_or("an unknown alert")),
        Error::InvalidMessage(_) => ("expected TLS, found something else", ""),
        Error::NoCertificatesPresented => ("expected a certificate of the client, found none", ""),
        Error::InvalidCertificate(error) => ("the client's certificate is refused", certificate(error)),
        Error::NoApplicationProtocol => {
            ("the client's application protocols (ALPN) are not the listener's", "")
        }
        Error::PeerIncompatible(_) => ("no version, cipher or key exchange in common with the client", ""),
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => ("the client broke the protocol", ""),
        Error::PeerSentOversizedRecord => ("a record is longer than one can be", ""),
        Error::DecryptError => ("a record was damaged on its way", ""),
        _ => ("it failed", ""),
    };
    Failure::new("TLS", reason).about(detail)
}

fn certificate(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet",
        CertificateError::Revoked => "it was revoked",
        CertificateError::UnknownIssuer => "it comes from an unknown authority",
        CertificateError::UnknownRevocationStatus => "no list tells whether it was revoked",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for clients"
        }
        CertificateError::BadSignature => "its signature is wrong",
        CertificateError::BadEncoding => "it cannot be parsed",
        _ => "",
    }
}
