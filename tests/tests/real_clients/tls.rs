//! Who gets in by TLS, as mosquitto's clients (OpenSSL) and an operator see it.

use crate::certificates::{Authority, Certified};
use crate::client::{self, has};
use crate::directory::Directory;
use crate::mosquitto::Visitor;
use crate::program::{Listening, Program};
use rustix::process::Signal;

/// Authorities for the broker and for its clients, and files to write to.
struct World {
    directory: Directory,
    brokers: Authority,
    devices: Authority,
}

impl World {
    fn new() -> Self {
        let directory = Directory::new();
        let brokers = Authority::new(&directory, "brokers");
        let devices = Authority::new(&directory, "devices");
        Self { directory, brokers, devices }
    }

    /// A listener with a certificate of its own.
    fn listening(&self, keys: &str) -> Listening {
        let certified = self.brokers.host(&self.directory, &["127.0.0.1"]);
        Listening::new("mqtts://127.0.0.1:0", certified.keys() + keys)
    }

    /// One that asks for certificates of clients: `required` or `optional`.
    fn asking(&self, demand: &str, keys: &str) -> Listening {
        let authorities = &self.devices.file;
        self.listening(&format!(
            "client_certificate = '{demand}'\nclient_authorities = '{authorities}'\n{keys}"
        ))
    }

    fn device(&self, name: &str, serial: u64) -> Certified {
        self.devices.client(&self.directory, name, serial)
    }

    /// One that speaks no later version. mosquitto's own option sets the lowest; the highest is a matter of OpenSSL.
    fn by_tls_1_2(&self, visitor: Visitor) -> Visitor {
        let settings = "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = versions\n\
                        [versions]\nMaxProtocol = TLSv1.2\n";
        visitor.variable("OPENSSL_CONF", &self.directory.write("openssl.cnf", settings))
    }

    fn visitor(&self, program: &Program, listener: usize) -> Visitor {
        Visitor::to(&program.port(listener)).trusting(&self.brokers)
    }
}

#[test]
fn who_has_no_good_certificate_is_refused_and_the_log_says_why() {
    if !has(client::mosquitto()) {
        return;
    }
    let world = World::new();
    let list = world.directory.write("revoked", &world.devices.revoked(&[13]));
    let mut program =
        Program::start("tokio", &[world.asking("required", &format!("client_revoked = '{list}'"))]);
    let visitor = world.visitor(&program, 0);
    let good = visitor.clone().showing(&world.device("good", 7));
    good.publish("t", "hello").unwrap();
    world.by_tls_1_2(good).publish("t", "hello").unwrap();

    let plain = Visitor::to(&program.port(0));
    let mut refused = |visitor: Visitor, reason: &str| {
        // By TLS 1.3 the client may have sent CONNECT before it hears that it is refused, by TLS 1.2 it has not.
        for visitor in [visitor.clone(), world.by_tls_1_2(visitor)] {
            assert!(visitor.publish("t", "hello").is_err());
            let line = program.logs("a connection failed below MQTT");
            assert!(line.contains("127.0.0.1:") && line.contains(reason), "{line}");
        }
    };
    refused(visitor.clone(), "expected a certificate of the client, found none");
    let strangers = Authority::new(&world.directory, "strangers");
    let stranger = strangers.client(&world.directory, "stranger", 7);
    refused(visitor.clone().showing(&stranger), "it comes from an unknown authority");
    let expired = world.devices.expired(&world.directory, "expired");
    refused(visitor.clone().showing(&expired), "it has expired");
    refused(visitor.clone().showing(&world.device("revoked", 13)), "it was revoked");
    refused(plain, "expected TLS, found something else");
}

#[test]
fn who_trusts_another_authority_does_not_talk_to_the_broker() {
    if !has(client::mosquitto()) {
        return;
    }
    let world = World::new();
    let mut program = Program::start("tokio", &[world.listening("")]);
    world.visitor(&program, 0).publish("t", "hello").unwrap();
    let distrusting = Visitor::to(&program.port(0)).trusting(&world.devices);
    assert!(distrusting.publish("t", "hello").is_err());
    program.logs("the client gave up");
}

#[test]
fn a_certificate_names_the_client_identifier() {
    if !has(client::mosquitto()) {
        return;
    }
    let world = World::new();
    let mut program = Program::start("tokio", &[world.asking("required", "identity = 'client-id'")]);
    let visitor = world.visitor(&program, 0).showing(&world.device("device-7", 7));
    visitor.clone().with(&["-i", "device-7"]).publish("t", "hello").unwrap();
    program.logs("connected client_id=\"device-7\"");
    let refused = visitor.with(&["-i", "device-8"]).publish("t", "hello").unwrap_err();
    assert!(refused.contains("identifier rejected"), "{refused}");
}

#[test]
fn who_shows_a_certificate_is_not_anonymous() {
    if !has(client::mosquitto()) {
        return;
    }
    let world = World::new();
    let keys = "identity = 'user-name'\nallow_anonymous = false";
    let program = Program::start("tokio", &[world.asking("optional", keys)]);
    let visitor = world.visitor(&program, 0);
    let refused = visitor.publish("t", "hello").unwrap_err();
    assert!(refused.contains("not authorised"), "{refused}");
    visitor.showing(&world.device("device-7", 7)).publish("t", "hello").unwrap();
}

#[test]
fn a_new_list_of_revoked_certificates_counts_from_sighup_and_ends_no_connection() {
    if !has(client::mosquitto()) {
        return;
    }
    let world = World::new();
    let list = world.directory.write("revoked", &world.devices.revoked(&[]));
    let mut program =
        Program::start("tokio", &[world.asking("required", &format!("client_revoked = '{list}'"))]);
    let visitor = world.visitor(&program, 0);
    let first = visitor.clone().showing(&world.device("device-7", 7));
    let second = visitor.showing(&world.device("device-8", 8));
    let mut open = first.subscribe("t");

    world.directory.write("revoked", &world.devices.revoked(&[7]));
    first.publish("t", "not read yet").unwrap();
    open.wait_for("payload not read yet");
    program.running.signal(Signal::HUP);
    program.logs("the certificates were read anew");
    assert!(first.publish("t", "revoked").is_err());
    program.logs("it was revoked");
    second.publish("t", "still there").unwrap();
    open.wait_for("payload still there");

    // A list that cannot be read changes nothing: nobody comes back, and nobody is kept out.
    world.directory.write("revoked", "-----BEGIN X509 CRL-----\nbroken\n-----END X509 CRL-----\n");
    program.running.signal(Signal::HUP);
    let line = program.logs("the certificates stay as they were");
    assert!(line.contains(&list), "{line}");
    assert!(first.publish("t", "revoked").is_err());
    program.logs("it was revoked");
    second.publish("t", "as before").unwrap();
    open.wait_for("payload as before");
}

#[test]
fn a_new_certificate_counts_from_sighup() {
    if !has(client::mosquitto()) {
        return;
    }
    let world = World::new();
    let mut program = Program::start("tokio", &[world.listening("")]);
    let old = world.visitor(&program, 0);
    let new = Visitor::to(&program.port(0)).trusting(&world.devices);
    assert!(old.publish("t", "hello").is_ok() && new.publish("t", "hello").is_err());
    // Of the same name, so that it takes the place of the old one.
    world.devices.host(&world.directory, &["127.0.0.1"]);
    program.running.signal(Signal::HUP);
    program.logs("the certificates were read anew");
    assert!(new.publish("t", "hello").is_ok() && old.publish("t", "hello").is_err());
}

#[test]
fn who_names_a_host_gets_its_certificate() {
    if !has(client::mosquitto()) {
        return;
    }
    let world = World::new();
    // Clients say the names of hosts, not addresses, and here the authorities tell which certificate they got.
    let one = world.brokers.host(&world.directory, &["127.0.0.1", "broker.example"]);
    let other = world.devices.host(&world.directory, &["localhost"]);
    let keys =
        format!("certificate = ['{}', '{}']\nkey = ['{}', '{}']", one.chain, other.chain, one.key, other.key);
    let program = Program::start("tokio", &[Listening::new("mqtts://127.0.0.1:0", keys)]);
    let visitor = |host: &str, trusted: &Authority| {
        Visitor::default().with(&["-h", host, "-p", &program.port(0)]).trusting(trusted)
    };
    visitor("127.0.0.1", &world.brokers).publish("t", "hello").unwrap();
    visitor("localhost", &world.devices).publish("t", "hello").unwrap();
    assert!(visitor("127.0.0.1", &world.devices).publish("t", "hello").is_err());
    assert!(visitor("localhost", &world.brokers).publish("t", "hello").is_err());
}

#[test]
fn who_speaks_tls_1_2_at_most_is_refused_where_1_3_is_the_least() {
    if !has(client::mosquitto()) {
        return;
    }
    let world = World::new();
    let mut program =
        Program::start("tokio", &[world.listening(""), world.listening("tls_version_min = '1.3'")]);
    let old = |listener| world.by_tls_1_2(world.visitor(&program, listener));
    old(0).publish("t", "hello").unwrap();
    world.visitor(&program, 1).publish("t", "hello").unwrap();
    assert!(old(1).publish("t", "hello").is_err());
    program.logs("no version, cipher or key exchange in common with the client");
}
