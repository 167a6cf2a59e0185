//! The flight recorder: a broker under load is recorded, and its recording is done again.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

mod common;

use common::{Serving, culex, file, run};
use culex_core::packet::*;
use rustix::process::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

const RUNTIMES: [&str; 3] = ["tokio", "smol", "std"];

/// An MQTT 5.0 client that answers what it gets.
struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
    /// Messages it got.
    got: usize,
}

fn publish<'a>(topic: &'a str, payload: &'a [u8], number: u16) -> Packet<'a> {
    let qos = QoS::from_bits((number % 3) as u8).unwrap();
    let packet_id = PacketId::new(number).filter(|_| qos != QoS::AtMostOnce);
    let (topic, payload) = (topic.into(), payload.into());
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: number.is_multiple_of(7),
        topic,
        packet_id,
        properties: Properties::EMPTY,
        payload,
    })
}

impl Client {
    fn connect(address: SocketAddr, client_id: &str, expiry: u32) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut client = Self { stream, unread: Vec::new(), got: 0 };
        let mut properties = PropertiesBuf::new();
        properties.push(Property::SessionExpiryInterval(expiry));
        properties.push(Property::TopicAliasMaximum(4));
        client.send(&Packet::Connect(Connect {
            version: Version::V5,
            clean_start: false,
            keep_alive: 60,
            client_id,
            properties: properties.as_properties(),
            will: None,
            user_name: Some("somebody"),
            password: Some(b"secret"),
            bridge: false,
        }));
        client
    }

    fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(Version::V5, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    fn subscribe(&mut self, filter: &str) {
        let mut filters = SubscribeFiltersBuf::new();
        filters.push(filter, SubscriptionOptions::new(QoS::ExactlyOnce)).unwrap();
        let (packet_id, filters) = (PacketId::MIN, filters.as_filters());
        self.send(&Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
    }

    /// Says DISCONNECT and waits until the broker has heard it.
    fn leave(mut self) {
        let (reason, properties) = (ReasonCode::Success, Properties::EMPTY);
        self.send(&Packet::Disconnect(Disconnect { reason, properties }));
        self.stream.read_to_end(&mut self.unread).unwrap();
    }

    /// Reads and answers until PINGRESP.
    fn settle(&mut self) {
        self.send(&Packet::Pingreq);
        let mut buffer = vec![0; 65_536];
        loop {
            let mut answers = Vec::new();
            let (mut used, mut done) = (0, false);
            while let Ok(Framed::Whole { frame, length }) = frame(&self.unread[used..], u32::MAX) {
                used += length;
                let answer = match Packet::decode(&frame, Version::V5).unwrap() {
                    Packet::Publish(publish) => {
                        self.got += 1;
                        let ack = publish.packet_id.map(Ack::success);
                        ack.map(|ack| match publish.qos {
                            QoS::ExactlyOnce => Packet::Pubrec(ack),
                            _ => Packet::Puback(ack),
                        })
                    }
                    Packet::Pubrec(ack) => Some(Packet::Pubrel(Ack::success(ack.packet_id))),
                    Packet::Pubrel(ack) => Some(Packet::Pubcomp(Ack::success(ack.packet_id))),
                    Packet::Pingresp => {
                        done = true;
                        None
                    }
                    _ => None,
                };
                if let Some(answer) = answer {
                    answer.encode(Version::V5, &mut answers).unwrap();
                }
            }
            self.unread.drain(..used);
            self.stream.write_all(&answers).unwrap();
            if done {
                return;
            }
            let count = match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                count => count.unwrap(),
            };
            assert!(count > 0, "the broker closed");
            self.unread.extend_from_slice(&buffer[..count]);
        }
    }
}

/// A few hundred messages: clients that talk to each other, one that is slow, one that breaks off and comes back.
fn load(address: SocketAddr) {
    let mut slow = Client::connect(address, "slow", 0);
    slow.subscribe("large/#");
    let talk = |name: &'static str| {
        move || {
            let mut client = Client::connect(address, name, 100);
            client.subscribe("t/#");
            client.subscribe("$share/g/s/#");
            client.settle();
            for number in 1..=60 {
                let topic = format!("{}/{}", if number % 5 == 0 { "s" } else { "t" }, number % 4);
                client.send(&publish(&topic, format!("{name} {number}").as_bytes(), number));
                if number % 10 == 0 {
                    client.settle();
                }
            }
            if name == "d" {
                drop(client);
                client = Client::connect(address, name, 100);
            }
            client.settle();
            client.got
        }
    };
    let threads = ["a", "b", "c", "d"].map(|name| thread::spawn(talk(name)));
    let mut large = Client::connect(address, "large", 0);
    for number in 1..=60 {
        large.send(&publish("large/x", &vec![number as u8; 200_000], number));
        large.settle();
    }
    let got: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(got > 200, "{got} messages");
    slow.settle();
    assert!(slow.got > 20, "{}", slow.got);
}

/// An empty directory; `name` must be unique among all tests.
fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    path
}

/// The recording of this kind in a directory, once it is there.
fn recording(directory: &Path, reason: &str) -> PathBuf {
    let since = Instant::now();
    let end = format!("-{reason}.recording");
    loop {
        let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        if let Some(path) = files.into_iter().find(|path| path.to_str().unwrap().ends_with(&end)) {
            return path;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "there is no recording");
        thread::yield_now();
    }
}

fn record(runtime: &str, name: &str, bytes_max: &str) -> (Serving, PathBuf) {
    record_shards("1", runtime, name, bytes_max)
}

fn record_shards(shards: &str, runtime: &str, name: &str, bytes_max: &str) -> (Serving, PathBuf) {
    let directory = directory(name);
    let listen = "mqtt://127.0.0.1:0";
    let mut command = culex(&["--listen", listen, "--runtime", runtime, "--shards", shards, "--record"]);
    command.arg(&directory).env("CULEX_RECORD_BYTES_MAX", bytes_max).env("CULEX_LOG", "warn");
    (Serving::start(&mut command), directory)
}

fn replay(path: &Path, more: &[&str]) -> common::Outcome {
    run(culex(&["replay"]).arg(path).args(more))
}

#[test]
fn a_broker_under_load_does_the_same_again_on_each_runtime() {
    for runtime in RUNTIMES {
        for bytes_max in ["67108864", "200000"] {
            let (broker, directory) = record(runtime, &format!("load-{runtime}-{bytes_max}"), bytes_max);
            load(broker.addresses()[0]);
            broker.signal(Signal::TERM);
            assert_eq!(broker.end(), Some(0));
            let path = recording(&directory, "end");
            let outcome = replay(&path, &[]);
            assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{runtime}: {}", outcome.out);
            assert!(outcome.out.contains("the same again"), "{}", outcome.out);
            let one = outcome.out.contains("segments: 1\n");
            assert_eq!(one, bytes_max == "67108864", "{}", outcome.out);
            // Who reads it reads passwords.
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }
}

fn has(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// Each shard has a recording of its own, with what came from the others and what went to them.
#[test]
fn each_of_several_shards_does_the_same_again_and_can_be_given_away() {
    for runtime in RUNTIMES {
        for bytes_max in ["67108864", "400000"] {
            let name = format!("shards-{runtime}-{bytes_max}");
            let (broker, directory) = record_shards("3", runtime, &name, bytes_max);
            let address = broker.addresses()[0];
            load(address);
            let mut readers = ["e", "f", "g", "h", "i"].map(|name| Client::connect(address, name, 100));
            for reader in &mut readers {
                reader.subscribe("u");
                reader.settle();
            }
            let mut teller = Client::connect(address, "teller", 0);
            for number in 1..=9 {
                teller.send(&publish("u", format!("topsecret {number}").as_bytes(), number));
            }
            teller.settle();
            readers.iter_mut().for_each(Client::settle);
            broker.signal(Signal::TERM);
            assert_eq!(broker.end(), Some(0));
            let mut told = 0;
            for shard in 0..3 {
                let path = recording(&directory.join(format!("shard-{shard}")), "end");
                let outcome = replay(&path, &[]);
                assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{runtime}: {}", outcome.out);
                told += usize::from(has(&fs::read(&path).unwrap(), b"topsecret"));
                let out = path.with_extension("redacted");
                let outcome = redact(&path, &out);
                assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{runtime}");
                assert!(!has(&fs::read(&out).unwrap(), b"secret"), "{runtime}: shard {shard}");
            }
            assert!(told > 1, "{runtime}: the message did not come to other shards");
        }
    }
}

/// A short recording: alice is subscribed and gone, bob has published.
fn short(name: &str) -> PathBuf {
    let (broker, directory) = record("tokio", name, "67108864");
    let address = broker.addresses()[0];
    let mut alice = Client::connect(address, "alice", 100);
    alice.subscribe("a/#");
    alice.settle();
    alice.leave();
    let mut bob = Client::connect(address, "bob", 0);
    for number in 1..=9 {
        bob.send(&publish("a/b", b"payload", number));
    }
    // What a client has read is noted a moment later, before the next input at the latest.
    bob.settle();
    bob.settle();
    broker.signal(Signal::USR1);
    let path = recording(&directory, "signal");
    // It goes on.
    bob.settle();
    path
}

#[test]
fn a_signal_writes_what_was_recorded_so_far_and_a_client_can_be_looked_at() {
    let path = short("inspect");
    let outcome = replay(&path, &["--inspect", "client=alice"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
    for line in [
        "client \"alice\" at ",
        "  session: V5, expires after 100 s\n",
        "  connection: none\n",
        "  subscription: a/# (QoS 2)\n",
        "  queue: 6 messages, ",
        "    next: a/b (QoS 1, 7 bytes)\n",
    ] {
        assert!(outcome.out.contains(line), "{line:?} is not in\n{}", outcome.out);
    }
    let outcome = replay(&path, &["--inspect", "client=nobody"]);
    assert!(outcome.out.ends_with("client \"nobody\" has no session at that time\n"), "{}", outcome.out);
    let outcome = replay(&path, &["--inspect", "client=alice", "--until", "0"]);
    assert!(outcome.out.contains(" 1 new connections, 0.000 s from "), "{}", outcome.out);
}

#[test]
fn other_settings_and_what_clients_get_then() {
    let path = short("diff");
    let config = file("diff.toml", "retain_available = false\nqueue_messages_max = 2\n");
    let outcome = replay(&path, &["--diff", config.to_str().unwrap()]);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
    let name = config.display();
    for line in [
        format!("dropped_queue_full: 0 as recorded, 2 with {name}\n"),
        // [MQTT-3.2.2-14]: bob retains one of them.
        format!("client \"bob\": DISCONNECT: Retain not supported: 0 times as recorded, 1 with {name}\n"),
        format!("client \"bob\": PUBACK 7: Success: 1 times as recorded, 0 with {name}\n"),
    ] {
        assert!(outcome.out.contains(&line), "{line:?} is not in\n{}", outcome.out);
    }
    let same = file("same.toml", "");
    let outcome = replay(&path, &["--diff", same.to_str().unwrap()]);
    assert!(
        outcome.out.ends_with(&format!("nothing is different with {}\n", same.display())),
        "{}",
        outcome.out
    );
}

#[test]
fn why_a_client_got_a_message_or_did_not_is_told() {
    let (broker, directory) = record("tokio", "explain", "67108864");
    let address = broker.addresses()[0];
    let mut alice = Client::connect(address, "alice", 100);
    alice.subscribe("a/+");
    alice.settle();
    let mut bob = Client::connect(address, "bob", 0);
    let mut say = |topic: &str, number| {
        bob.send(&publish(topic, b"payload", number));
        bob.settle();
    };
    say("a/b", 1);
    say("b", 4);
    // She answers.
    alice.settle();
    alice.settle();
    alice.leave();
    say("a/b", 3);
    say("a/b", 7);
    let mut alice = Client::connect(address, "alice", 100);
    alice.settle();
    alice.settle();
    broker.signal(Signal::TERM);
    assert_eq!(broker.end(), Some(0));
    let path = recording(&directory, "end");
    let told = |client: &str, topic: &str| {
        let mut command = culex(&["explain", "--client", client, "--message", topic]);
        let outcome = run(command.arg(&path));
        assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
        let line = |line: &str| line.split_once(" s  ").map_or(line, |(_, rest)| rest).to_owned();
        outcome.out.lines().map(line).collect::<Vec<_>>()
    };
    assert_eq!(
        told("alice", "a/b"),
        [
            "client \"bob\" published it (QoS 1, 7 bytes): \"alice\" is to get it by a/+",
            "  sent (QoS 1, packet 1)",
            "  acknowledged (packet 1)",
            "client \"bob\" published it (QoS 0, 7 bytes): \"alice\" is to get it by a/+",
            "  dropped: it is not connected, and QoS 0 is not queued",
            "client \"bob\" published it (QoS 1, 7 bytes): \"alice\" is to get it by a/+",
            "  queued, as number 1: it could not be sent at once",
            "  sent (QoS 1, packet 2)",
            "  acknowledged (packet 2)",
            "3 messages were published on a/b; 2 were sent to client \"alice\"",
        ]
    );
    assert_eq!(
        told("alice", "b"),
        [
            "client \"bob\" published it (QoS 1, 7 bytes): \"alice\" has no filter that matches; its filters: a/+",
            "1 messages were published on b; 0 were sent to client \"alice\"",
        ]
    );
    assert_eq!(
        told("carol", "b")[0],
        "client \"bob\" published it (QoS 1, 7 bytes): \"carol\" has no session, so nothing is kept for it"
    );
}

#[test]
fn what_is_not_as_it_was_recorded_is_noticed() {
    let path = short("tampered");
    let bytes = fs::read(&path).unwrap();
    let tampered = path.with_extension("tampered");
    let name = tampered.display();
    let told = |bytes: &[u8]| {
        fs::write(&tampered, bytes).unwrap();
        let outcome = replay(&tampered, &[]);
        (outcome.code, outcome.err)
    };
    let expected = |line: &str| (Some(1), format!("{name}: {line}\n"));
    assert_eq!(told(b"nonsense"), expected("not a recording"));
    assert_eq!(told(&bytes[..bytes.len() / 2]), expected("truncated: it ends in the middle of segment 1"));
    assert_eq!(told(&bytes[..bytes.len() - 1]), expected("truncated: it ends in the middle of segment 2"));
    let at = bytes.windows(7).position(|seven| seven == b"payload").unwrap();
    let mut changed = bytes.clone();
    changed[at] = b'P';
    assert_eq!(told(&changed), expected("damaged: the bytes of segment 1 are not those that were recorded"));
    // Somebody who knows how makes it look whole: the broker then says something else than it said.
    let topic = bytes.windows(3).position(|three| three == b"a/b").unwrap();
    let mut changed = bytes.clone();
    changed[topic..topic + 3].copy_from_slice(b"x/y");
    let head = bytes.iter().position(|byte| *byte == b'S').unwrap();
    let body = head + 17..changed.len() - 1;
    let digest = culex_core::saved::digest(&changed[body]).to_le_bytes();
    changed[head + 9..head + 17].copy_from_slice(&digest);
    let (code, err) = told(&changed);
    assert_eq!(code, Some(1));
    assert!(err.contains(", client \"bob\": ") && err.contains("not the same"), "{err}");
}

#[test]
fn what_cannot_be_recorded_into_is_told_at_the_start() {
    let blocked = file("no-directory", "");
    let outcome = run(culex(&["--record"]).arg(&blocked));
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.err.starts_with(&format!("cannot record into {}: ", blocked.display())),
        "{}",
        outcome.err
    );
    let outcome = run(culex(&["replay"]).arg(directory("nothing-here")));
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.err.ends_with("no such file or directory\n"), "{}", outcome.err);
}

/// alice is subscribed and gone, bob says what nobody else may read.
fn secret(name: &str) -> PathBuf {
    let (broker, directory) = record("std", name, "67108864");
    let address = broker.addresses()[0];
    let mut alice = Client::connect(address, "alice", 100);
    alice.subscribe("a/#");
    alice.settle();
    alice.leave();
    let mut bob = Client::connect(address, "bob", 0);
    for number in 1..=9 {
        bob.send(&publish("a/b", format!("topsecret {number}").as_bytes(), number));
    }
    bob.settle();
    bob.settle();
    broker.signal(Signal::TERM);
    assert_eq!(broker.end(), Some(0));
    recording(&directory, "end")
}

fn redact(file: &Path, out: &Path) -> common::Outcome {
    run(culex(&["redact"]).args([file, out]))
}

#[test]
fn a_recording_without_payloads_and_passwords_tells_the_same_as_before() {
    let path = secret("redact");
    let out = path.with_extension("redacted");
    let outcome = redact(&path, &out);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
    let first = format!("{}: it replays as {} does\n", out.display(), path.display());
    assert!(outcome.out.starts_with(&first), "{}", outcome.out);
    let [before, after] = [&path, &out].map(|path| fs::read(path).unwrap());
    for (what, kept) in [
        (&b"topsecret"[..], false),
        (b"secret", false),
        (b"a/b", true),
        (b"alice", true),
        (b"somebody", true),
    ] {
        assert!(has(&before, what));
        assert_eq!(has(&after, what), kept, "{}", String::from_utf8_lossy(what));
    }
    let told = |path: &Path, arguments: &[&str]| {
        let outcome = run(culex(arguments).arg(path));
        assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
        outcome.out.replace(path.to_str().unwrap(), "FILE")
    };
    for arguments in [
        &["replay"][..],
        &["replay", "--inspect", "client=alice"],
        &["explain", "--message", "a/b", "--client", "alice"],
    ] {
        assert_eq!(told(&out, arguments), told(&path, arguments));
    }
    assert!(told(&out, &["replay", "--inspect", "client=alice"]).contains("queue: 6 messages"));
    // The key is another one each time.
    let again = path.with_extension("again");
    assert_eq!(redact(&path, &again).code, Some(0));
    assert_ne!(fs::read(&again).unwrap(), after);
    // Whether topics may be read is not for us to say.
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_cannot_be_redacted_is_told_in_a_line_and_nothing_is_written() {
    let path = secret("redact-not");
    let bytes = fs::read(&path).unwrap();
    let out = path.with_extension("redacted");
    let other = path.with_extension("other");
    for (bytes, told) in [
        (&b"nonsense"[..], "not a recording"),
        (&bytes[..bytes.len() - 1], "truncated: it ends in the middle of segment 2"),
    ] {
        fs::write(&other, bytes).unwrap();
        let outcome = redact(&other, &out);
        assert_eq!((outcome.code, outcome.err), (Some(1), format!("{}: {told}\n", other.display())));
        assert!(!out.exists());
    }
    // Not over another file, nor over itself.
    let outcome = redact(&path, &path);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.err.starts_with(&format!("cannot write {}: ", path.display())), "{}", outcome.err);
    assert_eq!(outcome.err.lines().count(), 1);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let nowhere = path.with_extension("nowhere").join("out");
    let outcome = redact(&path, &nowhere);
    let told = format!("cannot write {}: no such file or directory\n", nowhere.display());
    assert_eq!((outcome.code, outcome.err), (Some(1), told));
}
