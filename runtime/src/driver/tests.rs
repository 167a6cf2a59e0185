//! Layers whose handshakes cost much, in the turns of a driver.

use super::*;
use crate::links::STEPS_PER_TURN;
use culex_core::{Config, Seed, Stack, Wall};
use culex_link::{
    CertificateIdentity, CertificatePair, ClientCertificates, Demand, Layers, Pem, Tls, TlsSettings,
};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::sync::Arc;

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a";

/// A driver whose listener 0 is TLS and listener 1 is not, and what a client trusts.
fn driver(handshakes_max: usize) -> (Driver, Arc<ClientConfig>) {
    let clock = Clock::start(None);
    let issued = rcgen::generate_simple_self_signed(["broker".to_owned()]).unwrap();
    let pair = CertificatePair {
        chain: Pem::text("chain", issued.cert.pem().as_bytes()),
        key: Pem::text("key", issued.signing_key.serialize_pem().as_bytes()),
    };
    let settings = TlsSettings { certificates: vec![pair], ..TlsSettings::default() };
    let tls = Tls::new(settings, clock.now().wall).unwrap();
    let layers = vec![Layers { tls: Some(tls), ..Layers::default() }, Layers::default()];
    let driver = driver_with(layers, handshakes_max, clock);
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (driver, Arc::new(config))
}

fn driver_with(layers: Vec<Layers>, handshakes_max: usize, clock: Clock) -> Driver {
    let broker = Broker::new(Arc::new(Config::default()), Stack::standard(), Seed(1), clock.now());
    let links = Links::new(layers, handshakes_max);
    let (ask, notice): (OnAsk, OnNotice) = (Box::new(|_, _| {}), Box::new(|_| {}));
    Driver::new(broker, links, clock, Inbox::default(), ask, notice, Duration::ZERO)
}

fn client(config: &Arc<ClientConfig>) -> (ClientConnection, Vec<u8>) {
    let mut client = ClientConnection::new(config.clone(), "broker".try_into().unwrap()).unwrap();
    let hello = said(&mut client);
    (client, hello)
}

fn said(client: &mut ClientConnection) -> Vec<u8> {
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    wire
}

/// What was written to whom.
type Writes = Vec<(ConnectionId, Vec<u8>)>;

/// The rest of a turn: what was written to whom, what is to be done, and what comes next.
fn turn(driver: &mut Driver) -> (Writes, Vec<Effect>, Turn) {
    let (mut written, mut effects) = (Vec::new(), Vec::new());
    driver.work();
    loop {
        effects.extend(std::iter::from_fn(|| driver.poll_effect()));
        let mut write = |id, slices: &[IoSlice<'_>]| {
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let count = bytes.len();
            written.push((id, bytes));
            Ok(count)
        };
        if driver.poll_write(&mut write).is_none() {
            return (written, effects, driver.end_turn());
        }
    }
}

fn peer(listener: u16) -> Peer {
    Peer { listener, ..Peer::default() }
}

#[test]
fn a_flood_of_handshakes_is_served_some_in_a_turn_while_others_are_served_at_once() {
    let (mut driver, config) = driver(1000);
    let (_, hello) = client(&config);
    let ids: Vec<_> = (0..STEPS_PER_TURN * 5 / 2).map(|_| driver.accept(peer(0)).unwrap()).collect();
    for id in &ids {
        assert_eq!(driver.read_credit(*id), 4096);
        driver.receive(*id, &hello);
    }
    // They wait for their turn and are not read.
    assert!(ids[STEPS_PER_TURN..].iter().all(|id| driver.read_credit(*id) == 0));
    let plain = driver.accept(peer(1)).unwrap();
    driver.receive(plain, CONNECT);
    let (written, effects, next) = turn(&mut driver);
    let heard: Vec<_> = written.iter().map(|(id, _)| *id).collect();
    assert_eq!(heard, [&ids[..STEPS_PER_TURN], &[plain]].concat());
    assert!(effects.is_empty());
    assert!(matches!(next, Turn::Wait(Some(at)) if at <= Instant::now()), "the others wait");

    // Who comes now comes behind those who wait.
    let late = driver.accept(peer(0)).unwrap();
    driver.receive(late, &hello);
    let mut served = Vec::new();
    for _ in 0..2 {
        let (written, effects, _) = turn(&mut driver);
        assert!(written.len() <= STEPS_PER_TURN);
        let credits: Vec<_> = written.iter().map(|(id, _)| Effect::Credit { id: *id }).collect();
        assert_eq!(effects, credits);
        served.extend(written.iter().map(|(id, _)| *id));
    }
    assert_eq!(served, [&ids[STEPS_PER_TURN..], &[late]].concat());
    assert!(ids.iter().all(|id| driver.read_credit(*id) == 4096));
    let (_, _, next) = turn(&mut driver);
    assert!(!matches!(next, Turn::Wait(Some(at)) if at <= Instant::now()), "nobody waits");
}

#[test]
fn only_so_many_handshakes_are_under_way_and_an_open_connection_is_none() {
    let (mut driver, config) = driver(1);
    let (mut client, hello) = client(&config);
    let id = driver.accept(peer(0)).unwrap();
    assert_eq!(driver.accept(peer(0)), Err(Refused::Full));
    assert!(driver.accept(peer(1)).is_ok(), "without TLS there is no handshake");
    driver.receive(id, &hello);
    let (written, _, _) = turn(&mut driver);
    client.read_tls(&mut &written[0].1[..]).unwrap();
    client.process_new_packets().unwrap();
    io::Write::write_all(&mut client.writer(), CONNECT).unwrap();
    driver.receive(id, &said(&mut client));
    assert!(driver.read_credit(id) > 4096);
    let (written, _, _) = turn(&mut driver);
    for (_, bytes) in &written {
        client.read_tls(&mut &bytes[..]).unwrap();
    }
    client.process_new_packets().unwrap();
    let mut connack = [0; 4];
    io::Read::read_exact(&mut client.reader(), &mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    // There is room for one more, until that is gone.
    let second = driver.accept(peer(0)).unwrap();
    assert_eq!(driver.accept(peer(0)), Err(Refused::Full));
    driver.disconnected(second, Disconnect::Eof);
    assert!(driver.accept(peer(0)).is_ok());
}

/// By the PROXY header where it is, by its certificate who it is.
#[test]
fn the_machine_knows_what_the_layers_learnt_before_it_gets_connect() {
    let clock = Clock::start(None);
    let issued = rcgen::generate_simple_self_signed(["broker".to_owned()]).unwrap();
    let pem = |text: String| Pem::text("pem", text.as_bytes());
    let (chain, key) = (pem(issued.cert.pem()), pem(issued.signing_key.serialize_pem()));
    let clients = ClientCertificates {
        authorities: chain.clone(),
        demand: Demand::Required,
        revoked: Vec::new(),
        identity: CertificateIdentity::AlternativeName,
    };
    let settings = TlsSettings {
        certificates: vec![CertificatePair { chain, key }],
        clients: Some(clients),
        ..TlsSettings::default()
    };
    // Long before the certificates were made: the driver has to say what time it is.
    let tls = Some(Tls::new(settings, Wall(0)).unwrap());
    let layers = vec![Layers { proxy: Some("10.0.0.1".parse().unwrap()), tls, ..Layers::default() }];
    let mut driver = driver_with(layers, 10, clock);
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![issued.cert.der().clone()],
            PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let (mut client, hello) = client(&Arc::new(config));
    let id = driver.accept(Peer { address: Some(([10, 0, 0, 1], 999).into()), ..peer(0) }).unwrap();
    driver.receive(id, b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 8883\r\n");
    driver.receive(id, &hello);
    let (written, _, _) = turn(&mut driver);
    client.read_tls(&mut &written[0].1[..]).unwrap();
    client.process_new_packets().unwrap();
    io::Write::write_all(&mut client.writer(), CONNECT).unwrap();
    driver.receive(id, &said(&mut client));
    let peer = driver.broker.inspect("a").unwrap().connection.unwrap().peer;
    assert_eq!(peer.address, Some(([192, 0, 2, 1], 4711).into()));
    assert_eq!(peer.identity.as_deref(), Some("broker"));
}

#[test]
fn who_speaks_mqtt_to_tls_hears_an_alert_and_is_dropped_and_the_machine_hears_of_it() {
    let (mut driver, _) = driver(10);
    let id = driver.accept(peer(0)).unwrap();
    driver.receive(id, CONNECT);
    let (written, effects, _) = turn(&mut driver);
    assert!(matches!(&written[..], [(to, alert)] if *to == id && alert.starts_with(&[21, 3])));
    assert_eq!(effects, [Effect::Close { id, how: Close::Drop }]);
    driver.disconnected(id, Disconnect::Closed);
    assert_eq!(driver.broker.connections(), 0);
}

#[test]
fn who_speaks_tls_to_mqtt_breaks_a_rule_of_mqtt() {
    let (mut driver, config) = driver(10);
    let id = driver.accept(peer(1)).unwrap();
    driver.receive(id, &client(&config).1);
    let (written, effects, _) = turn(&mut driver);
    assert!(written.is_empty());
    assert!(matches!(effects[..], [Effect::Close { .. }]));
}

/// Also if its last step had to wait.
#[test]
fn what_a_client_sent_before_it_closed_counts() {
    let (mut driver, config) = driver(1000);
    let id = driver.accept(peer(0)).unwrap();
    let (mut client, hello) = client(&config);
    driver.receive(id, &hello);
    let (written, _, _) = turn(&mut driver);
    client.read_tls(&mut &written[0].1[..]).unwrap();
    client.process_new_packets().unwrap();
    io::Write::write_all(&mut client.writer(), CONNECT).unwrap();
    for _ in 0..STEPS_PER_TURN {
        let other = driver.accept(peer(0)).unwrap();
        driver.receive(other, &hello);
    }
    driver.receive(id, &said(&mut client));
    assert_eq!((driver.read_credit(id), driver.broker.stats().bytes_received), (0, 0));
    driver.disconnected(id, Disconnect::Eof);
    assert_eq!(driver.broker.stats().bytes_received, CONNECT.len() as u64);
}
