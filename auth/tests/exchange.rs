//! Exchanges as a program sees them: steps of a [`Scram`], with a client on the other side.
#![allow(clippy::unwrap_used)]

use culex_auth::{
    ClientError, FIRST_BYTES_MAX, METHOD, NoEntropy, Scram, ScramClient, ScramSecret, ScramUsers, SecretError,
};
use culex_core::id::Id;
use culex_core::packet::{ReasonCode, Version};
use culex_core::{Answer, ConnectionId, Credentials, Peer};
use proptest::prelude::*;

/// Entropy that is none, but never repeats.
fn counting() -> impl FnMut(&mut [u8]) -> Result<(), NoEntropy> + Send {
    let mut n = 0u8;
    move |buffer| {
        buffer.fill_with(|| {
            n = n.wrapping_mul(5).wrapping_add(17);
            n
        });
        Ok(())
    }
}

fn users() -> ScramUsers {
    let secret = |password, salt| ScramSecret::new(password, &[salt; 16], 4096).unwrap();
    [("alice".into(), secret("wonderland", 1)), ("b,o=b".into(), secret("builder", 2))].into_iter().collect()
}

fn server() -> Scram {
    Scram::new(users(), counting())
}

fn client(name: &str, password: &str) -> ScramClient {
    ScramClient::new(name, password, counting()).unwrap()
}

fn on(connection: u32, data: impl Into<Vec<u8>>) -> Credentials {
    Credentials {
        connection: ConnectionId::new(connection, 0),
        peer: Peer::default(),
        version: Version::V5,
        client_id: "c".into(),
        user_name: None,
        password: None,
        method: Some(METHOD.into()),
        data: Some(data.into().into()),
    }
}

fn challenge(server: &mut Scram, who: &Credentials) -> Vec<u8> {
    match server.step(who) {
        Answer::Continue(data) => data.into(),
        other => panic!("{other:?}"),
    }
}

const REFUSED: Answer = Answer::Deny(ReasonCode::NotAuthorized);

#[test]
fn who_knows_the_password_comes_in_and_sees_that_the_server_knows_it_too() {
    let mut server = server();
    for (name, password) in [("alice", "wonderland"), ("b,o=b", "builder")] {
        let mut client = client(name, password);
        let last = client.answer(&challenge(&mut server, &on(1, client.first()))).unwrap();
        let Answer::AllowWith { user_name, data } = server.step(&on(1, last)) else { panic!() };
        assert_eq!(user_name.as_deref(), Some(name));
        assert_eq!(client.verify(&data), Ok(()));
    }
    assert_eq!(server.unfinished(), 0);
}

#[test]
fn who_does_not_know_the_password_stays_out() {
    let mut server = server();
    let mut client = client("alice", "Wonderland");
    let last = client.answer(&challenge(&mut server, &on(1, client.first()))).unwrap();
    assert_eq!(server.step(&on(1, last)), REFUSED);
    assert_eq!(server.unfinished(), 0);
}

#[test]
fn who_does_not_exist_cannot_be_told_from_who_does() {
    let mut server = server();
    let mut seen = Vec::new();
    for name in ["alice", "nobody", "nobody"] {
        let mut client = client(name, "guess");
        let said = challenge(&mut server, &on(1, client.first()));
        let last = client.answer(&said).unwrap();
        assert_eq!(server.step(&on(1, last)), REFUSED);
        let said = String::from_utf8(said).unwrap();
        let (nonce, rest) = said.split_once(',').unwrap();
        let (salt, iterations) = rest.split_once(',').unwrap();
        seen.push((nonce.len(), salt.len(), iterations.to_owned(), salt.to_owned()));
    }
    let shape = |seen: &(usize, usize, String, String)| (seen.0, seen.1, seen.2.clone());
    assert_eq!(shape(&seen[0]), shape(&seen[1]));
    assert_eq!(seen[1].3, seen[2].3, "the same salt each time");
    assert_ne!(seen[0].3, seen[1].3);
}

#[test]
fn the_salt_of_who_does_not_exist_outlives_a_restart_if_the_key_does() {
    let salt = |server: Scram| {
        let mut server = server;
        let said = challenge(&mut server, &on(1, client("nobody", "x").first()));
        String::from_utf8(said).unwrap().split(',').nth(1).unwrap().to_owned()
    };
    let key = [9; 32];
    assert_eq!(salt(server().with_decoy_key(key)), salt(server().with_decoy_key(key)));
    assert_ne!(salt(server().with_decoy_key(key)), salt(server()));
}

#[test]
fn a_nonce_that_was_changed_is_refused() {
    let mut server = server();
    for end in [",p=", "AA,p="] {
        let mut client = client("alice", "wonderland");
        let said = challenge(&mut server, &on(1, client.first()));
        let last = client.answer(&said).unwrap().replacen(",p=", end, 1);
        assert_eq!(server.step(&on(1, last)) == REFUSED, end != ",p=");
    }
}

#[test]
fn a_channel_binding_other_than_that_of_the_first_message_is_refused() {
    let mut server = server();
    for (binding, refused) in [("c=biws,", false), ("c=eSws,", true), ("c=,", true), ("c=biws====,", true)] {
        let mut client = client("alice", "wonderland");
        let last = client.answer(&challenge(&mut server, &on(1, client.first()))).unwrap();
        let last = last.replacen("c=biws,", binding, 1);
        assert_eq!(server.step(&on(1, last)) == REFUSED, refused, "{binding}");
    }
    let wants_binding = "p=tls-exporter,,n=alice,r=x";
    assert_eq!(server.step(&on(1, wants_binding)), REFUSED);
}

#[test]
fn what_was_overheard_is_worth_nothing_later() {
    let mut server = server();
    let mut client = client("alice", "wonderland");
    let first = client.first();
    let last = client.answer(&challenge(&mut server, &on(1, first.clone()))).unwrap();
    assert!(matches!(server.step(&on(1, last.clone())), Answer::AllowWith { .. }));
    // Again, after a challenge of another connection's, and on its own.
    assert_eq!(server.step(&on(1, last.clone())), REFUSED);
    challenge(&mut server, &on(2, first));
    assert_eq!(server.step(&on(2, last.clone())), REFUSED);
    assert_eq!(server.step(&on(3, last)), REFUSED);
}

#[test]
fn who_says_nothing_first_is_asked_to() {
    let mut server = server();
    for data in [None, Some(b"".as_slice().into())] {
        let who = Credentials { data, ..on(1, "") };
        assert_eq!(server.step(&who), Answer::Continue(Default::default()));
    }
    assert_eq!(server.unfinished(), 0);
    let mut client = client("alice", "wonderland");
    let last = client.answer(&challenge(&mut server, &on(1, client.first()))).unwrap();
    assert!(matches!(server.step(&on(1, last)), Answer::AllowWith { .. }));
}

#[test]
fn a_first_message_begins_anew() {
    let mut server = server();
    challenge(&mut server, &on(1, client("nobody", "x").first()));
    let mut client = client("alice", "wonderland");
    let last = client.answer(&challenge(&mut server, &on(1, client.first()))).unwrap();
    assert_eq!(server.unfinished(), 1);
    assert!(matches!(server.step(&on(1, last)), Answer::AllowWith { .. }));
}

#[test]
fn the_oldest_unfinished_exchange_makes_room() {
    let mut server = server().with_exchanges_max(2);
    let mut clients: Vec<_> = (0..3).map(|_| client("alice", "wonderland")).collect();
    let mut finals = Vec::new();
    for (id, client) in (0..).zip(&mut clients) {
        finals.push(client.answer(&challenge(&mut server, &on(id, client.first()))).unwrap());
        assert!(server.unfinished() <= 2);
    }
    let came_in: Vec<_> = (0..).zip(finals).map(|(id, last)| server.step(&on(id, last)) != REFUSED).collect();
    assert_eq!(came_in, [false, true, true]);
}

#[test]
fn a_client_is_who_it_says_it_is_everywhere() {
    let mut server = server();
    for (user_name, header, comes_in) in [
        (None, "n,,", true),
        (Some("alice"), "y,,", true),
        (None, "n,a=alice,", true),
        (Some("bob"), "n,,", false),
        (None, "n,a=bob,", false),
    ] {
        let first = format!("{header}n=alice,r=x");
        let who = Credentials { user_name: user_name.map(Into::into), ..on(1, first) };
        assert_eq!(matches!(server.step(&who), Answer::Continue(_)), comes_in, "{user_name:?} {header}");
    }
}

#[test]
fn a_user_that_is_removed_or_gets_another_password_cannot_finish() {
    for change in [
        |users: &mut ScramUsers| users.remove("alice"),
        |users: &mut ScramUsers| users.insert("alice", ScramSecret::new("mirror", &[1; 16], 4096).unwrap()),
    ] {
        let mut server = server();
        let mut client = client("alice", "wonderland");
        let last = client.answer(&challenge(&mut server, &on(1, client.first()))).unwrap();
        assert!(change(server.users_mut()).is_some());
        assert_eq!(server.step(&on(1, last)), REFUSED);
    }
}

#[test]
fn without_entropy_nobody_comes_in() {
    let mut server = Scram::new(users(), |_: &mut [u8]| Err(NoEntropy));
    let first = client("alice", "wonderland").first();
    assert_eq!(server.step(&on(1, first)), Answer::Deny(ReasonCode::UnspecifiedError));
    assert_eq!(ScramClient::new("alice", "x", |_: &mut [u8]| Err(NoEntropy)).err(), Some(NoEntropy));
}

#[test]
fn a_message_that_is_too_long_and_a_method_that_is_another_are_refused() {
    let mut server = server();
    let first = |length: usize| format!("n,,n=alice,r={}", "x".repeat(length - "n,,n=alice,r=".len()));
    assert_eq!(server.step(&on(1, first(FIRST_BYTES_MAX + 1))), REFUSED);
    assert!(matches!(server.step(&on(1, first(FIRST_BYTES_MAX))), Answer::Continue(_)));
    for method in [None, Some("SCRAM-SHA-1".into())] {
        let who = Credentials { method, ..on(1, first(100)) };
        assert_eq!(server.step(&who), Answer::Deny(ReasonCode::BadAuthenticationMethod));
    }
}

#[test]
fn a_client_does_not_go_on_with_a_server_that_is_not_its_own() {
    let mut server = server();
    let mut right = client("alice", "wonderland");
    let last = right.answer(&challenge(&mut server, &on(1, right.first()))).unwrap();
    let Answer::AllowWith { data, .. } = server.step(&on(1, last)) else { panic!() };
    // It has not been challenged: nothing can be proven to it.
    assert_eq!(client("alice", "wonderland").verify(&data), Err(ClientError::Proof));
    let mut deceived = client("alice", "wonderland");
    for said in ["r=other,s=AAAA,i=4096", "e=unknown-user", "", "r=,s=AAAA,i=4096"] {
        assert_eq!(deceived.answer(said.as_bytes()), Err(ClientError::Challenge), "{said}");
    }
    let nonce = deceived.first().split_once("r=").unwrap().1.to_owned();
    for (added, iterations) in [("", 4096), ("x", 1), ("x", u32::MAX)] {
        let said = format!("r={nonce}{added},s=AAAA,i={iterations}");
        assert_eq!(deceived.answer(said.as_bytes()), Err(ClientError::Challenge), "{said}");
    }
    assert!(deceived.answer(format!("r={nonce}x,s=AAAA,i=4096").as_bytes()).is_ok());
    assert_eq!(deceived.verify(&data), Err(ClientError::Proof));
}

#[test]
fn a_secret_survives_its_text_form_and_is_not_shown_by_debug() {
    let secret = ScramSecret::new("pencil", b"salt", 4096).unwrap();
    let text = secret.to_string();
    let again: ScramSecret = text.parse().unwrap();
    assert_eq!((again.to_string(), again.salt(), again.iterations()), (text.clone(), secret.salt(), 4096));
    let shown = format!("{again:?} {:?} {:?}", users(), client("alice", "wonderland"));
    assert!(!shown.contains(&text[24..]) && !shown.contains("wonderland"), "{shown}");
}

#[test]
fn a_secret_beyond_its_limits_is_none() {
    let new = |password, salt: &[u8], iterations| ScramSecret::new(password, salt, iterations).err();
    assert_eq!(new("", b"salt", 4096), Some(SecretError::Password));
    assert_eq!(new("p", b"", 4096), Some(SecretError::Salt));
    assert_eq!(new("p", &[0; 65], 4096), Some(SecretError::Salt));
    assert_eq!(new("p", b"salt", 4095), Some(SecretError::Iterations));
    assert_eq!(new("p", b"salt", 10_000_001), Some(SecretError::Iterations));
    let text = ScramSecret::new("p", b"salt", 4096).unwrap().to_string();
    for (from, to, why) in [
        ("SCRAM-SHA-256", "SCRAM-SHA-1", SecretError::Form),
        ("$4096", "$", SecretError::Iterations),
        ("$4096", "$4095", SecretError::Iterations),
        (":c2FsdA==", "", SecretError::Form),
        ("c2FsdA==", "c2FsdA", SecretError::Salt),
        ("c2FsdA==", "", SecretError::Salt),
        ("c2FsdA==$", "c2FsdA==$AAAA", SecretError::Form),
        ("c2FsdA==$", "c2FsdA==$$", SecretError::Form),
        ("c2FsdA==$", "c2FsdA==:", SecretError::Form),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        assert_eq!(changed.parse::<ScramSecret>().err(), Some(why), "{changed}");
    }
}

/// Bytes that come close to messages.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "n,",
        "y,",
        "p=",
        ",",
        "=",
        "a=alice",
        "n=alice",
        "n=",
        "r=",
        "c=",
        "c=biws",
        "m=",
        "=2C",
        "=3D",
        "s=",
        "i=4096",
        "AAAA",
        "x",
        "\0",
        "é",
        "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    ]);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..1200),
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes()),
    ]
}

proptest! {
    #[test]
    fn whatever_is_said_nobody_comes_in_without_the_password(
        steps in prop::collection::vec((0u32..4, messages()), 1..20),
    ) {
        let mut server = server_once().with_exchanges_max(3);
        for (id, data) in steps {
            let answer = server.step(&on(id, data));
            prop_assert!(matches!(answer, Answer::Continue(_)) || answer == REFUSED, "{answer:?}");
            prop_assert!(server.unfinished() <= 3);
        }
    }

    #[test]
    fn whatever_a_server_says_a_client_bears_it(said in messages()) {
        let mut client = client("alice", "wonderland");
        prop_assert_eq!(client.answer(&said), Err(ClientError::Challenge));
        prop_assert_eq!(client.verify(&said), Err(ClientError::Proof));
    }

    #[test]
    fn whatever_a_text_is_it_is_a_secret_or_not(text in "(SCRAM-SHA-256)?[$:=A-Za-z0-9é]{0,60}") {
        let _ = text.parse::<ScramSecret>();
    }

    #[test]
    fn a_name_of_any_characters_comes_through(name in "[^\0]{1,40}") {
        let mut server = server_once();
        let said = server.step(&on(1, client(&name, "x").first()));
        prop_assert!(matches!(said, Answer::Continue(_)), "{said:?}");
    }
}

/// A server whose user's secret is read, for making one takes its time.
fn server_once() -> Scram {
    let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==\
                $WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    Scram::new([("alice".into(), text.parse().unwrap())].into_iter().collect(), counting())
}
