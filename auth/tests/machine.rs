//! Whole exchanges on a machine: what clients see of them.
#![allow(clippy::unwrap_used)]

use culex_auth::{METHOD, NoEntropy, Scram, ScramClient, ScramPolicy, ScramSecret};
use culex_core::middleware::{Authentication, Decision};
use culex_core::packet::{Auth, Connect, Packet, Properties, Property, QoS, ReasonCode, Version};
use culex_core::testing::{Bench, connect, decode, properties};
use culex_core::{Config, ConnectionId, Credentials, Query, Stack};

fn counting() -> impl FnMut(&mut [u8]) -> Result<(), NoEntropy> + Send {
    let mut n = 0u8;
    move |buffer| {
        buffer.fill_with(|| {
            n = n.wrapping_add(1);
            n
        });
        Ok(())
    }
}

struct World {
    bench: Bench,
    scram: Scram,
}

impl World {
    fn new(policy: ScramPolicy) -> Self {
        let secret = |password| ScramSecret::new(password, b"salt", 4096).unwrap();
        let users = [("alice".into(), secret("wonderland")), ("bob".into(), secret("builder"))];
        let chain = Stack::standard().replace("Authentication", Authentication::new(policy)).unwrap();
        Self {
            bench: Bench::with(Config::default(), chain),
            scram: Scram::new(users.into_iter().collect(), counting()),
        }
    }

    /// Answers everything that was asked.
    fn answer(&mut self) {
        while let Some((_, query)) = self.bench.asks.first() {
            let Query::Authenticate(who) = query else { panic!("{query:?}") };
            let answer = self.scram.step(who);
            self.bench.answer(answer);
        }
    }

    fn connect(&mut self, data: Option<&str>) -> ConnectionId {
        let properties = says(METHOD, data);
        let id = self.bench.try_connect(&Connect { properties, ..connect(Version::V5, "c") });
        self.answer();
        id
    }

    fn auth(&mut self, id: ConnectionId, reason: ReasonCode, data: &str) {
        self.bench.send(id, &Packet::Auth(Auth { reason, properties: says(METHOD, Some(data)) }));
        self.answer();
    }

    /// The one packet a client got: what it is, its reason, its Authentication Data.
    fn got(&mut self, id: ConnectionId) -> (&'static str, ReasonCode, Vec<u8>) {
        let output = self.bench.output(id);
        let [packet] = &decode(&output, Version::V5)[..] else { panic!("{output:02x?}") };
        let (name, reason, properties) = match packet {
            Packet::Connack(connack) => ("CONNACK", connack.reason, &connack.properties),
            Packet::Auth(auth) => ("AUTH", auth.reason, &auth.properties),
            Packet::Disconnect(disconnect) => ("DISCONNECT", disconnect.reason, &disconnect.properties),
            other => panic!("{other:?}"),
        };
        if !reason.is_error() {
            // [MQTT-4.12.0-5]
            assert_eq!(properties.authentication_method(), Some(METHOD));
        }
        (name, reason, properties.authentication_data().unwrap_or_default().to_vec())
    }

    /// Goes on from the challenge, which has been sent.
    fn prove(&mut self, id: ConnectionId, client: &mut ScramClient) {
        let (name, reason, challenge) = self.got(id);
        assert_eq!((name, reason), ("AUTH", ReasonCode::ContinueAuthentication));
        let last = client.answer(&challenge).unwrap();
        self.auth(id, ReasonCode::ContinueAuthentication, &last);
    }

    fn come_in(&mut self, name: &str, password: &str) -> ConnectionId {
        let mut client = client(name, password);
        let id = self.connect(Some(&client.first()));
        self.prove(id, &mut client);
        let (name, reason, proof) = self.got(id);
        // [MQTT-4.12.0-4]
        assert_eq!((name, reason), ("CONNACK", ReasonCode::Success));
        client.verify(&proof).unwrap();
        id
    }
}

fn says(method: &str, data: Option<&str>) -> Properties<'static> {
    let mut list = vec![Property::AuthenticationMethod(method)];
    list.extend(data.map(|data| Property::AuthenticationData(data.as_bytes())));
    properties(&list)
}

fn client(name: &str, password: &str) -> ScramClient {
    ScramClient::new(name, password, counting()).unwrap()
}

#[test]
fn a_client_comes_in_and_is_known_by_its_name() {
    let mut world = World::new(ScramPolicy::only());
    let alice = world.come_in("alice", "wonderland");
    world.bench.subscribe(alice, "t", QoS::AtMostOnce);
    world.bench.publish(alice, "t", "hello", QoS::AtMostOnce);
    assert_eq!(world.bench.messages(alice), ["t: hello"]);
}

#[test]
fn a_client_without_data_is_challenged_to_begin() {
    let mut world = World::new(ScramPolicy::only());
    let alice = world.connect(None);
    assert_eq!(world.got(alice), ("AUTH", ReasonCode::ContinueAuthentication, vec![]));
    let mut client = client("alice", "wonderland");
    world.auth(alice, ReasonCode::ContinueAuthentication, &client.first());
    world.prove(alice, &mut client);
    let (name, reason, proof) = world.got(alice);
    assert_eq!((name, reason), ("CONNACK", ReasonCode::Success));
    client.verify(&proof).unwrap();
}

#[test]
fn a_stranger_and_a_wrong_password_get_the_same_connack() {
    for (name, password) in [("alice", "guess"), ("nobody", "guess")] {
        let mut world = World::new(ScramPolicy::only());
        let mut client = client(name, password);
        let id = world.connect(Some(&client.first()));
        world.prove(id, &mut client);
        assert_eq!(world.got(id), ("CONNACK", ReasonCode::NotAuthorized, vec![]));
        assert!(world.bench.closed(id));
    }
}

#[test]
fn a_client_authenticates_again() {
    // [MQTT-4.12.1-1]
    let mut world = World::new(ScramPolicy::only());
    let alice = world.come_in("alice", "wonderland");
    let mut client = client("alice", "wonderland");
    world.auth(alice, ReasonCode::ReAuthenticate, &client.first());
    world.prove(alice, &mut client);
    let (name, reason, proof) = world.got(alice);
    assert_eq!((name, reason), ("AUTH", ReasonCode::Success));
    client.verify(&proof).unwrap();
    assert!(!world.bench.closed(alice));
}

#[test]
fn a_client_that_fails_to_authenticate_again_is_disconnected() {
    // [MQTT-4.12.1-2]
    let mut world = World::new(ScramPolicy::only());
    let alice = world.come_in("alice", "wonderland");
    let mut client = client("alice", "guess");
    world.auth(alice, ReasonCode::ReAuthenticate, &client.first());
    world.prove(alice, &mut client);
    assert_eq!(world.got(alice), ("DISCONNECT", ReasonCode::NotAuthorized, vec![]));
}

#[test]
fn a_client_cannot_become_somebody_else() {
    let mut world = World::new(ScramPolicy::only());
    let alice = world.come_in("alice", "wonderland");
    world.auth(alice, ReasonCode::ReAuthenticate, &client("bob", "builder").first());
    assert_eq!(world.got(alice), ("DISCONNECT", ReasonCode::NotAuthorized, vec![]));
}

#[test]
fn who_comes_without_a_method_stays_out_or_is_for_another_policy() {
    let others = |who: &Credentials| match who.user_name.as_deref() {
        Some("guest") => Decision::Allow,
        _ => Decision::Deny(ReasonCode::BadUserNameOrPassword),
    };
    for (policy, user_name, line) in [
        (ScramPolicy::only(), Some("guest"), "CONNACK 87"),
        (ScramPolicy::or(others), Some("guest"), "CONNACK 00"),
        (ScramPolicy::or(others), None, "CONNACK 86"),
    ] {
        let mut world = World::new(policy);
        let id = world.bench.try_connect(&Connect { user_name, ..connect(Version::V5, "c") });
        assert!(world.bench.lines(id)[0].starts_with(line));
        assert!(world.bench.asks.is_empty());
    }
}

#[test]
fn a_method_that_is_not_known_is_refused() {
    // [MQTT-4.12.0-1]
    let mut world = World::new(ScramPolicy::or(|_: &Credentials| Decision::Allow));
    let properties = says("SCRAM-SHA-1", None);
    let id = world.bench.try_connect(&Connect { properties, ..connect(Version::V5, "c") });
    assert_eq!(world.got(id), ("CONNACK", ReasonCode::BadAuthenticationMethod, vec![]));
}
