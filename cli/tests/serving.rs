//! A broker from its first line to its last.

mod common;

use common::{Serving, culex, file, run};
use rustix::process::Signal;
use std::io::{ErrorKind, Read};

const ANYWHERE: &str = "mqtt://127.0.0.1:0";
const RUNTIMES: [&str; 3] = ["tokio", "smol", "std"];

#[test]
fn without_any_setting_it_serves_on_the_loopback_port_of_mqtt() {
    let mut command = culex(&[]);
    command.env("CULEX_LOG", "off");
    // The port may be taken on the machine that runs the tests: then that is what must be said.
    if std::net::TcpListener::bind("127.0.0.1:1883").is_err() {
        let outcome = run(&mut command);
        assert_eq!(outcome.err, "cannot listen on mqtt://127.0.0.1:1883: address in use\n");
        return;
    }
    let lines = Serving::start(&mut command).lines.clone();
    assert_eq!(
        lines,
        [
            "listening on mqtt://127.0.0.1:1883 (tokio)",
            "log = off (default: info)",
            "everything is kept in memory: it is gone when the broker stops"
        ]
    );
}

#[test]
fn port_0_is_printed_as_the_port_that_was_taken() {
    for runtime in RUNTIMES {
        let broker = Serving::start(&mut culex(&[
            "serve",
            "--listen",
            ANYWHERE,
            "--listen",
            ANYWHERE,
            "--runtime",
            runtime,
        ]));
        let addresses = broker.addresses();
        assert_eq!(addresses.len(), 2);
        assert!(addresses.iter().all(|address| address.port() != 0));
        assert_ne!(addresses[0], addresses[1]);
        assert!(broker.lines[0].ends_with(&format!(" ({runtime})")), "{:?}", broker.lines);
        broker.connect();
    }
}

#[test]
fn a_listener_for_websocket_is_told_with_its_path() {
    let path = file("websocket.toml", "listen = [\"ws://127.0.0.1:0\", \"ws://127.0.0.1:0/a/b\"]\n");
    for runtime in RUNTIMES {
        let args = ["--config", path.to_str().unwrap(), "--runtime", runtime];
        let broker = Serving::start(&mut culex(&args));
        let urls: Vec<_> = broker.urls().collect();
        let expected: Vec<_> = ["mqtt", "a/b"]
            .iter()
            .zip(broker.addresses())
            .map(|(path, at)| format!("ws://{at}/{path}"))
            .collect();
        assert_eq!(urls, expected);
    }
}

#[test]
fn arguments_go_before_the_environment_and_the_environment_before_the_file() {
    let path = file(
        "precedence.toml",
        "listen = \"mqtt://127.0.0.1:1\"\nruntime = \"smol\"\nreceive_maximum = 20\nin_flight_max = 30\n",
    );
    let path = path.to_str().unwrap();
    let shown = |command: &mut std::process::Command| Serving::start(command).lines.clone();

    let mut command = culex(&["--config", path, "--listen", ANYWHERE]);
    let lines = shown(&mut command);
    assert!(lines[0].ends_with(" (smol)"), "{lines:?}");
    assert!(lines.contains(&"receive_maximum = 20 (default: 1024)".to_owned()), "{lines:?}");
    assert!(lines.contains(&"in_flight_max = 30 (default: 1024)".to_owned()), "{lines:?}");

    command.env("CULEX_RUNTIME", "std").env("CULEX_RECEIVE_MAXIMUM", "21");
    let lines = shown(&mut command);
    assert!(lines[0].ends_with(" (std)"), "{lines:?}");
    assert!(lines.contains(&"receive_maximum = 21 (default: 1024)".to_owned()), "{lines:?}");
    assert!(lines.contains(&"in_flight_max = 30 (default: 1024)".to_owned()), "{lines:?}");

    let lines = shown(command.args(["--runtime", "tokio"]));
    assert!(lines[0].ends_with(" (tokio)"), "{lines:?}");
}

#[test]
fn several_addresses_fit_into_one_variable() {
    let broker = Serving::start(culex(&[]).env("CULEX_LISTEN", format!("{ANYWHERE}, {ANYWHERE}")));
    assert_eq!(broker.addresses().len(), 2);
}

#[test]
fn listening_beyond_this_machine_works_when_asked_for() {
    let url = "mqtt://0.0.0.0:0";
    let broker = Serving::start(culex(&["--listen", url]).env("CULEX_ALLOW_ANONYMOUS_REMOTE", "true"));
    assert!(broker.addresses()[0].ip().is_unspecified());
    assert!(
        broker.lines.contains(&"allow_anonymous_remote = true (default: false)".to_owned()),
        "{:?}",
        broker.lines
    );
}

#[test]
fn a_signal_says_goodbye_and_ends_with_0() {
    for runtime in RUNTIMES {
        for signal in [Signal::TERM, Signal::INT] {
            let broker = Serving::start(&mut culex(&["--listen", ANYWHERE, "--runtime", runtime]));
            let mut client = broker.connect();
            broker.signal(signal);
            // An MQTT 3.1.1 client is told nothing: its connection closes.
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "{runtime}");
            drop(client);
            assert_eq!(broker.end(), Some(0), "{runtime}");
        }
    }
}

#[test]
fn a_second_signal_does_not_wait_for_anybody() {
    let path = file("linger.toml", "linger_ms = 4_000_000\n");
    for runtime in RUNTIMES {
        let args = ["--listen", ANYWHERE, "--runtime", runtime, "--config", path.to_str().unwrap()];
        let broker = Serving::start(&mut culex(&args));
        let mut client = broker.connect();
        broker.signal(Signal::TERM);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "{runtime}");
        // The broker waits for this client to close its side, which it does not.
        broker.signal(Signal::TERM);
        assert_eq!(broker.end(), Some(143), "{runtime}");
        let reset = client.read(&mut [0; 1]);
        assert!(matches!(&reset, Ok(0)) || reset.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    }
}
