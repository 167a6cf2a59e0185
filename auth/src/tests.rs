//! What can only be seen from inside: the messages themselves, with nonces that were not drawn.

use crate::message::{ClientFinal, ClientFirst, ServerFirst};
use crate::{METHOD, NoEntropy, Scram, ScramClient, ScramSecret, ScramUsers};
use base64ct::{Base64, Encoding};
use culex_core::id::Id;
use culex_core::packet::{ReasonCode, Version};
use culex_core::{Answer, ConnectionId, Credentials, Peer};

const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn who() -> Credentials {
    Credentials {
        connection: ConnectionId::new(0, 0),
        peer: Peer::default(),
        version: Version::V5,
        client_id: "c".into(),
        user_name: None,
        password: None,
        method: Some(METHOD.into()),
        data: None,
    }
}

fn server() -> Scram {
    let salt = Base64::decode_vec("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
    let secret = ScramSecret::new("pencil", &salt, 4096).expect("a secret");
    Scram::new([("user".into(), secret)].into_iter().collect(), |_: &mut [u8]| Err(NoEntropy))
        .with_decoy_key([7; 32])
}

#[test]
fn the_server_says_what_rfc_7677_says() {
    let mut server = server();
    let (exchange, challenge) =
        server.challenge(&who(), CLIENT_FIRST.as_bytes(), SERVER_NONCE).expect("a challenge");
    assert_eq!(challenge, SERVER_FIRST);
    let answer = server.finish(exchange, CLIENT_FINAL.as_bytes());
    assert_eq!(answer, Ok(Answer::AllowWith { user_name: Some("user".into()), data: SERVER_FINAL.into() }));
}

#[test]
fn the_client_says_what_rfc_7677_says() {
    let mut client = ScramClient::with_nonce("user", "pencil", "rOprNGfwEbeRWgbNEkqO".into());
    assert_eq!(client.first(), CLIENT_FIRST);
    assert_eq!(client.answer(SERVER_FIRST.as_bytes()).as_deref(), Ok(CLIENT_FINAL));
    assert_eq!(client.verify(SERVER_FINAL.as_bytes()), Ok(()));
}

#[test]
fn every_changed_bit_of_a_final_message_is_refused() {
    let mut server = server();
    for bit in 0..CLIENT_FINAL.len() * 8 {
        let (exchange, _) =
            server.challenge(&who(), CLIENT_FIRST.as_bytes(), SERVER_NONCE).expect("a challenge");
        let mut changed = CLIENT_FINAL.as_bytes().to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(server.finish(exchange, &changed), Err(ReasonCode::NotAuthorized), "{bit}");
    }
}

#[test]
fn a_first_message_says_who_and_with_what_nonce() {
    let first = ClientFirst::parse(b"y,a=a=2Cb=3D,n=a=2Cb=3D,r=x!,e=?").expect("well-formed");
    assert_eq!((first.header, first.bare), ("y,a=a=2Cb=3D,", "n=a=2Cb=3D,r=x!,e=?"));
    assert_eq!((first.acts_as.as_deref(), &*first.name, first.nonce), (Some("a,b="), "a,b=", "x!"));
}

#[test]
fn what_is_no_first_message_is_nothing() {
    for message in [
        "",
        "n",
        "n,",
        "n,,",
        "n,,n=u",
        "n,,n=,r=x",
        "n,,n=u,r=",
        "n,,r=x,n=u",
        "n,n=u,r=x",
        "n,b=u,n=u,r=x",
        "n,a=,n=u,r=x",
        "x,,n=u,r=x",
        "p=tls-unique,,n=u,r=x",
        "n,,m=x,n=u,r=x",
        "n,,n=u,r=x,m=x",
        "n,,n=u,r=x,",
        "n,,n=u,r=x,1=x",
        "n,,n=u,r=x,e=",
        "n,,n=u=,r=x",
        "n,,n=u=2c,r=x",
        "n,,n=u=2D,r=x",
        "n,,n=u,r=x y",
        "n,,n=u,r=\u{e9}",
        "n,,n=u\0,r=x",
        " n,,n=u,r=x",
    ] {
        assert_eq!(ClientFirst::parse(message.as_bytes()), None, "{message:?}");
    }
    assert_eq!(ClientFirst::parse(b"n,,n=\xff,r=x"), None);
}

#[test]
fn what_is_no_final_message_is_nothing() {
    let proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    assert!(ClientFinal::parse(format!("c=biws,r=x,e=?,p={proof}").as_bytes()).is_some());
    for message in [
        String::new(),
        format!("p={proof}"),
        format!("c=biws,p={proof}"),
        format!("r=x,c=biws,p={proof}"),
        format!("c=biws,r=,p={proof}"),
        format!("c=biws,r=x,m=x,p={proof}"),
        format!("c=biws,r=x,,p={proof}"),
        format!("c=biws,r=x,p={proof},"),
        format!("c=biws,r=x,p={proof} "),
        format!("c=biws,r=x,p={}", &proof[1..]),
        "c=biws,r=x,p=".into(),
        "c=biws,r=x,p=AAAA".into(),
        "c=biws,r=x".into(),
    ] {
        assert_eq!(ClientFinal::parse(message.as_bytes()), None, "{message:?}");
    }
}

#[test]
fn what_is_no_challenge_is_not_answered() {
    assert!(ServerFirst::parse("r=x,s=AAAA,i=4096,e=?").is_some());
    for message in [
        "",
        "r=x",
        "r=x,s=AAAA",
        "r=x,i=4096,s=AAAA",
        "r=x,s=A,i=4096",
        "r=x,s=AAAA,i=",
        "r=x,s=AAAA,i=+4096",
        "r=x,s=AAAA,i=04096",
        "r=x,s=AAAA,i=-1",
        "r=x,s=AAAA,i=4294967296",
        "m=x,r=x,s=AAAA,i=4096",
        "e=other-error",
    ] {
        assert_eq!(ServerFirst::parse(message), None, "{message:?}");
    }
}

#[test]
fn who_does_not_exist_has_the_same_salt_each_time_and_looks_like_a_user() {
    let (key, other) = ([1; 32], [2; 32]);
    let mut users = ScramUsers::new();
    users.insert("u", ScramSecret::new("p", &[1; 40], 5000).expect("a secret"));
    users.insert("v", ScramSecret::new("p", &[1; 16], 4096).expect("a secret"));
    let salt = |key, name| users.decoy(key, name).salt.clone();
    assert_eq!((salt(&key, "x").len(), users.decoy(&key, "x").iterations), (40, 5000));
    assert_eq!(salt(&key, "x"), salt(&key, "x"));
    assert_ne!(salt(&key, "x"), salt(&key, "y"));
    assert_ne!(salt(&key, "x"), salt(&other, "x"));
}
