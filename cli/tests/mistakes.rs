//! Every mistake of an operator is one line on standard error, and an exit code.

mod common;

use common::{Outcome, culex, file, run};
use std::net::TcpListener;

#[track_caller]
fn fails(outcome: Outcome, code: i32, lines: &[&str]) {
    assert_eq!(outcome, Outcome { code: Some(code), out: String::new(), err: lines.join("\n") + "\n" });
}

#[test]
fn every_wrong_line_of_a_file_is_reported_with_its_number() {
    let path = file(
        "wrong_lines.toml",
        "# a comment\n\
         recieve_maximum = 7\n\
         receive_maximum = 70_000\n\
         retain_available = \"perhaps\"\n\
         runtime = \"async\"\n\
         listen = [1883]\n\
         log = \"inof\"\n\
         allow_anonymous_remote = 1\n\
         connect_timeout_ms = 0.5\n\
         [tls]\n\
         certificate = \"x\"\n",
    );
    let path = path.to_str().unwrap();
    let level = "off, error, warn, info, debug, trace or a filter such as info,culex_tokio=debug";
    let expected = [
        format!("{path}:2: recieve_maximum: unknown key, did you mean receive_maximum?"),
        format!("{path}:3: receive_maximum: expected a whole number from 0 to 65535, found 70000"),
        format!("{path}:4: retain_available: expected true or false, found \"perhaps\""),
        format!("{path}:5: runtime: expected tokio, smol or std, found \"async\""),
        format!(
            "{path}:6: listen: expected mqtt://HOST:PORT, ws://HOST:PORT/PATH, unix:PATH or an array of them, found an array that is not of strings"
        ),
        format!("{path}:7: log: expected {level}, found \"inof\""),
        format!("{path}:8: allow_anonymous_remote: expected true or false, found 1"),
        format!(
            "{path}:9: connect_timeout_ms: expected a whole number from 0 to 4294967295, found a number with a fraction"
        ),
        format!("{path}:10: tls: unknown key, `culex settings` prints all of them"),
    ];
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    fails(run(&mut culex(&["check-config", path])), 2, &expected);
    fails(run(&mut culex(&["serve", "--config", path])), 2, &expected);
}

#[test]
fn settings_that_contradict_each_other_are_reported_where_they_stand() {
    let path = file("contradictions.toml", "receive_maximum = 0\n\nin_flight_max = 0\n");
    let path = path.to_str().unwrap();
    let first = format!("{path}:1: receive_maximum: expected 1 to 65535, found 0");
    let second = format!("{path}:3: in_flight_max: expected 1 to 65535, found 0");
    fails(run(&mut culex(&["check-config", path])), 2, &[&first, &second]);

    let path = file("contradicted_default.toml", "packet_size_max = 100_000_000\n");
    let outcome = run(&mut culex(&["check-config", path.to_str().unwrap()]));
    assert_eq!((outcome.code, outcome.err.lines().count()), (Some(2), 1), "{outcome:?}");
    assert!(
        outcome.err.starts_with(&format!("{}: outbox_bytes_max: expected ", path.display())),
        "{outcome:?}"
    );
}

#[test]
fn every_wrong_line_of_a_listener_is_reported_with_its_number() {
    let path = file(
        "wrong_listeners.toml",
        "[[listener]]\n\
         permissions = 660\n\
         [[listener]]\n\
         url = \"mqtt://127.0.0.1:0\"\n\
         mount_pint = \"a/\"\n\
         permissions = \"rw-rw----\"\n\
         proxies = [\"10.0.0.0/33\"]\n\
         origins = \"shop.example\"\n\
         identity = \"root\"\n\
         forwarders = 1.5\n\
         connections_max = [\"1\"]\n\
         [[listener]]\n\
         url = 1883\n\
         [[listener]]\n\
         url = \"mqtt://127.0.0.1:0\"\n\
         mount_point = \"a\"\n\
         permissions = \"0600\"\n\
         origins = \"*\"\n",
    );
    let path = path.to_str().unwrap();
    let bits = "expected the permission bits of a file as text, \"0660\" for instance, found";
    let expected = [
        "1: listener: expected a url, found none".to_owned(),
        format!("2: permissions: {bits} 660"),
        "5: mount_pint: unknown key of a listener, did you mean mount_point?".to_owned(),
        format!("6: permissions: {bits} \"rw-rw----\""),
        "7: proxies: expected at most 32 bits behind the slash, found \"10.0.0.0/33\"".to_owned(),
        "8: origins: expected *, same or origins such as https://shop.example, found \"shop.example\""
            .to_owned(),
        "9: identity: expected ignore, user-name or client-id, found \"root\"".to_owned(),
        "10: forwarders: expected a text or an array of texts, found a number with a fraction".to_owned(),
        "11: connections_max: expected a whole number from 0 to 4294967295, found an array".to_owned(),
        "13: url: expected mqtt[s]://HOST:PORT, ws[s]://HOST:PORT/PATH or unix:PATH, found \"1883\""
            .to_owned(),
        "17: permissions: only for a Unix socket, and mqtt://127.0.0.1:0 is none".to_owned(),
        "18: origins: only for WebSocket, and mqtt://127.0.0.1:0 is none".to_owned(),
        "16: mount_point: expected / at its end".to_owned(),
    ];
    let expected: Vec<_> = expected.iter().map(|line| format!("{path}:{line}")).collect();
    fails(
        run(&mut culex(&["check-config", path])),
        2,
        &expected.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

#[test]
fn a_file_that_is_no_toml_is_reported_with_its_line() {
    let path = file("no_toml.toml", "log = \"info\"\nrun time = \"std\"\n");
    let outcome = run(&mut culex(&["check-config", path.to_str().unwrap()]));
    assert_eq!(outcome.code, Some(2));
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    assert!(outcome.err.starts_with(&format!("{}:2: not valid TOML: ", path.display())), "{}", outcome.err);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    fails(
        run(&mut culex(&["--config", "no/such/file.toml"])),
        2,
        &["cannot read no/such/file.toml: no such file or directory"],
    );
}

#[test]
fn a_wrong_variable_is_named() {
    fails(
        run(culex(&[]).env("CULEX_RECEIVE_MAXIMUM", "many").env("CULEX_LISTN", "x")),
        2,
        &[
            "CULEX_LISTN: unknown setting, did you mean CULEX_LISTEN?",
            "CULEX_RECEIVE_MAXIMUM: expected a whole number from 0 to 65535, found \"many\"",
        ],
    );
}

#[test]
fn variables_of_the_test_suite_are_not_settings() {
    let mut command = culex(&["--runtime", "none"]);
    command.env("CULEX_REQUIRE_CLIENTS", "1").env("CULEX_BIN", "x");
    fails(run(&mut command), 2, &["--runtime: expected tokio, smol or std, found \"none\""]);
}

#[test]
fn a_wrong_argument_is_one_line() {
    fails(
        run(&mut culex(&["--lisen", "x"])),
        2,
        &["culex: unexpected argument '--lisen' found; tip: a similar argument exists: '--listen'"],
    );
    fails(
        run(&mut culex(&["check-config"])),
        2,
        &["culex: the following required arguments were not provided: <FILE>"],
    );
}

#[test]
fn a_wrong_address_says_what_was_expected() {
    for address in [
        "1883",
        "http://127.0.0.1:1883",
        "mqtt://127.0.0.1:99999",
        "mqtts://",
        "ws://:8083",
        "ws://127.0.0.1:8083/a b",
        "wss://",
    ] {
        let outcome = run(&mut culex(&["--listen", address]));
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert_eq!(outcome.err.lines().count(), 1, "{outcome:?}");
        assert!(
            outcome.err.starts_with(
                "--listen: expected mqtt[s]://HOST:PORT, ws[s]://HOST:PORT/PATH or unix:PATH, found "
            ),
            "{outcome:?}"
        );
        assert!(outcome.err.contains(address), "{outcome:?}");
    }
}

#[test]
fn tls_without_a_certificate_says_where_to_give_one() {
    for (text, url) in [("mqtts://x", "mqtts://x:8883"), ("wss://x", "wss://x:443/mqtt")] {
        let line = format!(
            "--listen: {url}: TLS needs a certificate: give it a [[listener]] table in the configuration file"
        );
        fails(run(&mut culex(&["--listen", text])), 2, &[&line]);
    }
}

#[test]
fn who_needs_a_certificate_may_come_from_anywhere() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["x".into()]).unwrap().self_signed(&key).unwrap().pem();
    let certificate = file("remote_certificate.pem", &certificate).display().to_string();
    let key = file("remote_key.pem", &key.serialize_pem()).display().to_string();
    let table = |demand: &str| {
        let files = format!(
            "certificate = \"{certificate}\"\nkey = \"{key}\"\nclient_authorities = \"{certificate}\""
        );
        let text =
            format!("[[listener]]\nurl = \"mqtts://*:0\"\n{files}\nclient_certificate = \"{demand}\"\n");
        file("remote.toml", &text).display().to_string()
    };
    let path = table("required");
    assert_eq!(run(&mut culex(&["check-config", &path])).out, format!("{path}: ok\n"));
    let path = table("optional");
    let outcome = run(&mut culex(&["check-config", &path]));
    assert!(outcome.err.starts_with(&format!("{path}:2: url: refusing mqtts://*:0: ")), "{outcome:?}");
}

#[test]
fn what_is_wrong_with_certificates_is_told_before_anything_listens() {
    let key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let certificate =
        rcgen::CertificateParams::new(vec!["x".into()]).unwrap().self_signed(&key).unwrap().pem();
    let write = |name: &str, text: &str| file(name, text).display().to_string();
    let certificate = write("mistakes_certificate.pem", &certificate);
    let (key, other) = (write("mistakes_key.pem", &key.serialize_pem()), write("mistakes_other.pem", &other));
    let url = "url = \"mqtts://127.0.0.1:0\"";
    let pair = format!("{url}\ncertificate = \"{certificate}\"\nkey = \"{key}\"");
    for (table, mistake) in [
        (url.to_owned(), "2: certificate: TLS needs one".to_owned()),
        (
            format!("{url}\ncertificate = [\"a\", \"b\"]\nkey = \"c\""),
            "4: key: expected one for each certificate, found 1 for 2".to_owned(),
        ),
        (
            format!("{url}\ncertificate = \"/nowhere.pem\"\nkey = \"{key}\""),
            "3: certificate: /nowhere.pem: cannot be read: No such file or directory (os error 2)".to_owned(),
        ),
        (
            format!("{url}\ncertificate = \"{certificate}\"\nkey = \"{other}\""),
            format!(
                "3: certificate: {other}: expected the key of the certificate in {certificate}, found another"
            ),
        ),
        (
            format!("{pair}\nclient_certificate = \"required\""),
            "2: client_authorities: expected a file, because clients show certificates".to_owned(),
        ),
        (
            format!("{pair}\nclient_certificate = \"always\""),
            "5: client_certificate: expected none or optional or required, found \"always\"".to_owned(),
        ),
        (
            format!("{pair}\nclient_authorities = \"{key}\"\nclient_certificate = \"optional\""),
            format!("3: certificate: {key}: expected certificates of authorities in PEM, found none"),
        ),
        (
            format!("{pair}\nclient_revoked = \"{key}\""),
            "5: client_revoked: only with client_certificate optional or required".to_owned(),
        ),
        (
            format!("url = \"mqtt://127.0.0.1:0\"\ncertificate = \"{certificate}\"\nkey = \"{key}\""),
            "3: certificate: only for TLS, and mqtt://127.0.0.1:0 is none".to_owned(),
        ),
    ] {
        let path = file("mistakes_tls.toml", &format!("[[listener]]\n{table}\n"));
        let path = path.to_str().unwrap();
        fails(run(&mut culex(&["check-config", path])), 2, &[&format!("{path}:{mistake}")]);
    }
    let path = file("mistakes_none.toml", &format!("[[listener]]\n{pair}\n"));
    let path = path.to_str().unwrap();
    assert_eq!(run(&mut culex(&["check-config", path])).out, format!("{path}: ok\n"));
}

#[test]
fn several_shards_and_data_contradict_each_other() {
    let path = file("shards.toml", "data = \"nowhere\"\nshards = 3\n");
    let path = path.to_str().unwrap();
    let mistake = "expected 1, because what data keeps is kept by one shard, found 3";
    fails(run(&mut culex(&["check-config", path])), 2, &[&format!("{path}:2: shards: {mistake}")]);
    let mut command = culex(&["serve", "--data", "nowhere", "--shards", "3"]);
    fails(run(&mut command), 2, &[&format!("--shards: {mistake}")]);
    fails(
        run(culex(&["serve", "--data", "nowhere"]).env("CULEX_SHARDS", "3")),
        2,
        &[&format!("CULEX_SHARDS: {mistake}")],
    );
    for wrong in ["0", "65", "many", "-1"] {
        let line = format!("--shards: expected auto or 1 to 64, found {wrong:?}");
        fails(run(&mut culex(&["serve", &format!("--shards={wrong}")])), 2, &[&line]);
    }
}

#[test]
fn a_busy_port_is_named_on_every_runtime() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", taken.local_addr().unwrap());
    for runtime in ["tokio", "smol", "std"] {
        let by_websocket = format!("{}/mqtt", url.replace("mqtt", "ws"));
        for url in [&url, &by_websocket] {
            let mut command =
                culex(&["--listen", "mqtt://127.0.0.1:0", "--listen", url, "--runtime", runtime]);
            fails(run(&mut command), 1, &[&format!("cannot listen on {url}: address in use")]);
        }
    }
}

#[test]
fn listening_beyond_this_machine_must_be_asked_for() {
    for host in ["0.0.0.0", "[::]"] {
        let urls = [format!("mqtt://{host}:0"), format!("ws://{host}:0/mqtt")];
        let refused = "whoever reaches it could read and write every topic, because there are no passwords yet; set \
                       allow_anonymous_remote = true if that is what you want";
        for url in &urls {
            fails(run(&mut culex(&["--listen", url])), 2, &[&format!("--listen: refusing {url}: {refused}")]);
        }
    }
}
