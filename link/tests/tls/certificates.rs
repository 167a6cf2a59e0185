//! Whose certificates are taken, and what an operator is told about files.

use crate::support::{
    ADDRESS, Authority, Certified, DAY_MS, TODAY, Wire, clients, config, pair, settings, tls,
};
use culex_core::Wall;
use culex_link::{CertificateIdentity, ClientCertificates, Demand, Pem, Tls, TlsSettings};
use rcgen::{DnType, SanType, date_time_ymd};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a";

/// A broker that asks clients for certificates.
struct World {
    authority: Authority,
    settings: TlsSettings,
}

impl World {
    fn new(change: impl FnOnce(&mut ClientCertificates)) -> Self {
        let authority = Authority::new("authority");
        let mut settings = settings(&authority.host("broker"));
        let mut asked = clients(&authority);
        change(&mut asked);
        settings.clients = Some(asked);
        Self { authority, settings }
    }

    fn connect(&self, certified: Option<&Certified>) -> Wire {
        let mut wire =
            Wire::new(config(&self.authority, &[&TLS13], certified), "broker", &tls(self.settings.clone()));
        wire.talk();
        wire
    }

    /// The client is refused: what the operator reads, and the alert that the client gets, by both versions.
    #[track_caller]
    fn refuses(&self, certified: Option<&Certified>, reason: &str, alert: &str) {
        for version in [&TLS12, &TLS13] {
            let config = config(&self.authority, &[version], certified);
            let mut wire = Wire::new(config, "broker", &tls(self.settings.clone()));
            wire.talk();
            // With TLS 1.3 the client may speak before it hears that it is refused.
            assert!(wire.plain.is_empty() && wire.learnt.is_none());
            assert_eq!(wire.failure(), format!("TLS: {reason}"));
            let error = wire.error.unwrap().to_string();
            assert!(error.contains(alert), "{error}");
        }
    }
}

#[test]
fn a_clients_certificate_says_who_it_is() {
    let world = World::new(|_| {});
    let device = world.authority.sign("device-7", |_| {});
    for version in [&TLS12, &TLS13] {
        let config = config(&world.authority, &[version], Some(&device));
        let mut wire = Wire::new(config, "broker", &tls(world.settings.clone()));
        wire.talk();
        assert_eq!(wire.identity(), Some("device-7"));
        assert_eq!(wire.learnt.as_ref().unwrap().address, Some(ADDRESS.into()), "and where its socket is");
        wire.say(CONNECT);
        assert_eq!(wire.plain, CONNECT);
    }
}

#[test]
fn who_must_have_a_certificate_and_has_none_is_refused_and_who_may_is_let_in() {
    let world = World::new(|_| {});
    let config = config(&world.authority, &[&TLS13], None);
    let mut wire = Wire::new(config, "broker", &tls(world.settings.clone()));
    wire.talk();
    assert_eq!(wire.failure(), "TLS: expected a certificate of the client, found none");
    assert!(wire.error.unwrap().to_string().contains("CertificateRequired"));

    let world = World::new(|clients| clients.demand = Demand::Optional);
    let mut wire = world.connect(None);
    wire.say(CONNECT);
    assert_eq!((wire.identity(), &wire.plain[..]), (None, CONNECT));
    let stranger = Authority::new("stranger").sign("device-7", |_| {});
    world.refuses(
        Some(&stranger),
        "the client's certificate is refused (it comes from an unknown authority)",
        "UnknownCA",
    );
}

#[test]
fn a_certificate_that_expired_or_was_revoked_or_is_for_something_else_is_refused() {
    let world = World::new(|_| {});
    let expired = world.authority.sign("device-7", |params| params.not_after = date_time_ymd(2025, 12, 31));
    world.refuses(
        Some(&expired),
        "the client's certificate is refused (it has expired)",
        "CertificateExpired",
    );
    let early = world.authority.sign("device-7", |params| params.not_before = date_time_ymd(2026, 1, 2));
    world.refuses(Some(&early), "the client's certificate is refused (it is not valid yet)", "");
    let server = world.authority.sign("device-7", |params| drop(params.extended_key_usages.remove(0)));
    world.refuses(Some(&server), "the client's certificate is refused (it is not for clients)", "");
}

#[test]
fn a_revoked_certificate_is_refused_and_who_is_not_in_the_list_is_not() {
    let mut world = World::new(|_| {});
    let numbered =
        |serial: u64| world.authority.sign("device-7", |params| params.serial_number = Some(serial.into()));
    let (good, revoked) = (numbered(7), numbered(8));
    let list = Pem::text("revoked.crl", world.authority.revoked(&[8], 2027).as_bytes());
    world.settings.clients.as_mut().unwrap().revoked.push(list);
    assert_eq!(world.connect(Some(&good)).identity(), Some("device-7"));
    world.refuses(
        Some(&revoked),
        "the client's certificate is refused (it was revoked)",
        "CertificateRevoked",
    );
    // A list of somebody else does not say.
    let other = Pem::text("other.crl", Authority::new("other").revoked(&[], 2027).as_bytes());
    world.settings.clients.as_mut().unwrap().revoked = vec![other];
    world.refuses(
        Some(&good),
        "the client's certificate is refused (no list tells whether it was revoked)",
        "",
    );
}

#[test]
fn a_certificate_is_looked_at_in_three_ways() {
    let identity = |kind, change: fn(&mut rcgen::CertificateParams)| {
        let world = World::new(|clients| clients.identity = kind);
        let wire = world.connect(Some(&world.authority.sign("device-7", change)));
        wire.identity().map_or_else(|| Err(wire.failure()), |identity| Ok(identity.to_owned()))
    };
    let common = CertificateIdentity::CommonName;
    assert_eq!(identity(common, |_| {}), Ok("device-7".into()));
    let none = "TLS: the client's certificate is refused (it does not have one common name)";
    assert_eq!(
        identity(common, |params| {
            params.distinguished_name.remove(DnType::CommonName);
        }),
        Err(none.into())
    );
    assert_eq!(
        identity(common, |params| params.distinguished_name.push(DnType::CommonName, "a\0b")),
        Err(none.into())
    );

    let alternative = CertificateIdentity::AlternativeName;
    let names = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names = vec![
            SanType::IpAddress([10, 0, 0, 1].into()),
            SanType::URI("urn:device:7".try_into().unwrap()),
            SanType::DnsName("seven.example".try_into().unwrap()),
        ];
    };
    assert_eq!(identity(alternative, names), Ok("urn:device:7".into()));
    let none = "TLS: the client's certificate is refused (it has no alternative name)";
    assert_eq!(identity(alternative, |_| {}), Err(none.into()));

    let fingerprint = identity(CertificateIdentity::Fingerprint, |_| {}).unwrap();
    assert!(
        fingerprint.len() == 64 && fingerprint.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    );
}

/// Who resumes is not asked for its certificate again.
#[test]
fn a_session_is_not_resumed_by_who_has_expired_meanwhile() {
    let world = World::new(|_| {});
    let device = world.authority.sign("device-7", |params| params.not_after = date_time_ymd(2026, 1, 3));
    for version in [&TLS12, &TLS13] {
        let tls = tls(world.settings.clone());
        let config = config(&world.authority, &[version], Some(&device));
        let connect = |days: u64| {
            tls.set_time(Wall(TODAY.0 + days * DAY_MS));
            let mut wire = Wire::new(config.clone(), "broker", &tls);
            wire.talk();
            if wire.end == culex_link::Progress::Open {
                wire.say(CONNECT);
                wire.answer(&[b"\x20\x02\0\0"]);
            }
            wire
        };
        assert_eq!(connect(0).client.handshake_kind(), Some(HandshakeKind::Full));
        let resumed = connect(0);
        assert_eq!(resumed.client.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(resumed.identity(), Some("device-7"));
        let late = connect(3);
        assert_eq!(late.failure(), "TLS: the client's certificate is refused (it has expired)");
        assert!(late.plain.is_empty() && late.learnt.is_none());
    }
}

#[test]
fn a_mistake_is_told_in_one_line_that_names_the_file() {
    let authority = Authority::new("authority");
    let good = authority.host("broker");
    let other = authority.host("broker");
    let error = |settings: TlsSettings| Tls::new(settings, TODAY).unwrap_err().to_string();
    let with =
        |chain: &str, key: &str| error(settings(&Certified { chain: chain.to_owned(), key: key.to_owned() }));
    assert_eq!(error(TlsSettings::default()), "expected at least one certificate for TLS, found none");
    assert_eq!(with("", &good.key), "broker.crt: expected certificates in PEM, found none");
    assert_eq!(with(&good.key, &good.key), "broker.crt: expected certificates in PEM, found none");
    let cut = &good.chain[..good.chain.len() / 2];
    assert_eq!(
        with(cut, &good.key),
        "broker.crt: expected certificates in PEM, found a part without its end"
    );
    let begin = "-----BEGIN CERTIFICATE-----\n";
    let end = "-----END CERTIFICATE-----\n";
    assert_eq!(
        with(&format!("{begin}!{end}"), &good.key),
        "broker.crt: expected certificates in PEM, found a part without its end"
    );
    assert_eq!(
        with(&format!("{}{begin}AAAA\n{end}", good.chain), &good.key),
        "broker.crt: expected X.509 certificates, but number 2 cannot be parsed"
    );
    assert_eq!(
        with(&good.chain, &good.chain),
        "broker.key: expected a private key in PEM, not encrypted, found none"
    );
    assert_eq!(
        with(&good.chain, &other.key),
        "broker.key: expected the key of the certificate in broker.crt, found another"
    );
    let mut missing = settings(&good);
    missing.certificates[0].chain = "/nowhere/broker.crt".into();
    assert_eq!(error(missing), "/nowhere/broker.crt: cannot be read: No such file or directory (os error 2)");

    let asked = |change: fn(&mut ClientCertificates)| {
        let mut settings = settings(&good);
        let mut clients = clients(&authority);
        change(&mut clients);
        settings.clients = Some(clients);
        error(settings)
    };
    assert_eq!(
        asked(|clients| clients.authorities = Pem::text("clients.crt", *b"")),
        "clients.crt: expected certificates of authorities in PEM, found none"
    );
    assert_eq!(
        asked(|clients| clients.revoked.push(Pem::text("revoked.crl", *b"nothing"))),
        "revoked.crl: expected lists of revoked certificates in PEM, found none"
    );
    assert_eq!(
        asked(|clients| {
            let list = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
            clients.revoked.push(Pem::text("revoked.crl", list.as_bytes()));
        }),
        "revoked.crl: expected lists of revoked certificates that can be parsed"
    );
}

#[test]
fn what_will_be_or_is_out_of_date_is_a_warning() {
    let authority = Authority::new("authority");
    let expired = authority.sign("broker", |params| params.not_after = date_time_ymd(2025, 12, 31));
    let later = authority.sign("broker", |params| params.not_before = date_time_ymd(2026, 1, 2));
    let mut all = settings(&authority.host("broker"));
    assert!(tls(all.clone()).warnings().is_empty());
    // 2027-01-01
    assert_eq!(tls(all.clone()).expires(), Some(Wall(1_798_761_600_000)));
    all.certificates.extend([pair("expired", &expired), pair("later", &later)]);
    let mut asked = clients(&authority);
    asked.revoked.push(Pem::text("revoked.crl", authority.revoked(&[], 2026).as_bytes()));
    all.clients = Some(asked);
    let tls = Tls::new(all, Wall(TODAY.0 + 1)).unwrap();
    let warnings: Vec<String> = tls.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "expired.crt: certificate 1 has expired",
            "later.crt: certificate 1 is not valid yet",
            "revoked.crl: a list of revoked certificates is out of date"
        ]
    );
    // 2025-12-31
    assert_eq!(tls.expires(), Some(Wall(1_767_139_200_000)));
}

#[test]
fn keys_are_not_shown() {
    let certified = Authority::new("authority").host("broker");
    let shown = format!("{:?}", tls(settings(&certified)));
    let line = certified.key.lines().nth(1).unwrap();
    assert!(shown.contains("broker.key") && !shown.contains(line));
}
