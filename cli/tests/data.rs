//! What has to survive: `culex serve --data` and `culex store`.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

mod common;

use common::{Outcome, Serving, culex, file, run};
use culex_core::packet::*;
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const RUNTIMES: [&str; 3] = ["tokio", "smol", "std"];

/// A directory that is not there; `name` must be unique among all tests.
fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    path
}

fn serve(data: &Path, args: &[&str]) -> Command {
    let mut command = culex(&["serve", "--listen", "mqtt://127.0.0.1:0"]);
    command.args(["--data", data.to_str().unwrap()]).args(args).env("CULEX_LOG", "off");
    command
}

fn store(word: &str, data: &Path) -> Outcome {
    run(&mut culex(&["store", word, data.to_str().unwrap()]))
}

/// An MQTT 3.1.1 client whose session outlives it.
struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    /// Also says whether there was a session.
    fn connect(broker: &Serving, client_id: &str) -> (Self, bool) {
        let stream = TcpStream::connect(broker.addresses()[0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut client = Self { stream, unread: Vec::new() };
        client.send(&Packet::Connect(Connect {
            version: Version::V311,
            clean_start: false,
            keep_alive: 0,
            client_id,
            properties: Properties::EMPTY,
            will: None,
            user_name: Some("somebody"),
            password: Some(b"a secret"),
            bridge: false,
        }));
        let connack = client.packet();
        assert_eq!((connack[0], connack[3]), (0x20, 0), "CONNACK, accepted");
        (client, connack[2] == 1)
    }

    fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(Version::V311, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// The bytes of the next packet.
    fn packet(&mut self) -> Vec<u8> {
        self.try_packet().expect("the broker closed the connection")
    }

    fn try_packet(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Ok(Framed::Whole { length, .. }) = frame(&self.unread, u32::MAX) {
                return Some(self.unread.drain(..length).collect());
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).unwrap_or(0);
            self.unread.extend_from_slice(&buffer[..count]);
            if count == 0 {
                return None;
            }
        }
    }

    fn subscribe(&mut self, filter: &str) {
        let mut filters = SubscribeFiltersBuf::new();
        filters.push(filter, SubscriptionOptions::new(QoS::AtLeastOnce)).unwrap();
        let (packet_id, filters) = (PacketId::MIN, filters.as_filters());
        self.send(&Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
        assert_eq!(self.packet()[0], 0x90, "SUBACK");
    }

    /// Publishes at QoS 1 and waits for PUBACK.
    fn publish(&mut self, topic: &str, payload: &str, retain: bool) {
        assert_eq!(self.try_publish(topic, payload, retain).unwrap(), [0x40, 2, 0, 1]);
    }

    /// Publishes at QoS 1 and gives the answer.
    fn try_publish(&mut self, topic: &str, payload: &str, retain: bool) -> Option<Vec<u8>> {
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain,
            topic: topic.into(),
            packet_id: Some(PacketId::MIN),
            properties: Properties::EMPTY,
            payload: payload.as_bytes().into(),
        }));
        self.try_packet()
    }
}

/// A session that is offline, a message for it, and a retained one.
fn fill(broker: &Serving) {
    let (mut subscriber, present) = Client::connect(broker, "subscriber");
    assert!(!present);
    subscriber.subscribe("news/#");
    drop(subscriber);
    let (mut publisher, _) = Client::connect(broker, "publisher");
    publisher.publish("news/today", "it rains", false);
    publisher.publish("kept", "for ever", true);
}

fn expect_news(broker: &Serving) {
    let (mut subscriber, present) = Client::connect(broker, "subscriber");
    assert!(present);
    let publish = subscriber.packet();
    assert!(publish[0] >> 4 == 3 && publish.ends_with(b"it rains"), "{publish:?}");
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    for runtime in RUNTIMES {
        let data = directory(&format!("kill-{runtime}"));
        let broker = Serving::start(&mut serve(&data, &["--runtime", runtime]));
        let begins = format!("restored from {}: 0 sessions, 0 records", data.display());
        assert!(broker.lines.contains(&begins), "{:?}", broker.lines);
        let last = "what is acknowledged survives a power cut (durability = disk)";
        assert_eq!(broker.lines.last().unwrap(), last);
        fill(&broker);
        broker.signal(Signal::KILL);
        assert_eq!(broker.end(), None);
        let broker = Serving::start(&mut serve(&data, &["--runtime", runtime]));
        expect_news(&broker);
        broker.signal(Signal::TERM);
        assert_eq!(broker.end(), Some(0));
    }
}

#[test]
fn one_directory_is_for_one_broker() {
    let data = directory("locked");
    let _broker = Serving::start(&mut serve(&data, &[]));
    let line = format!("the store in {} is in use by another broker\n", data.display());
    let refused = Outcome { code: Some(1), out: String::new(), err: line };
    assert_eq!(run(&mut serve(&data, &[])), refused);
    assert_eq!(store("info", &data), refused);
}

#[test]
fn what_cannot_be_opened_is_told_in_one_line_that_names_it() {
    let no_directory = file("no_directory", "");
    let foreign = directory("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("culex.sqlite"), "something else").unwrap();
    for data in [no_directory.join("below"), foreign] {
        let Outcome { code, out, err } = run(&mut serve(&data, &[]));
        assert_eq!((code, out.as_str(), err.lines().count()), (Some(1), "", 1), "{err}");
        assert!(err.contains(data.to_str().unwrap()), "{err}");
    }
    let nothing = directory("nothing");
    let line = format!("there is no store in {}\n", nothing.display());
    assert_eq!(store("info", &nothing), Outcome { code: Some(1), out: String::new(), err: line });
    assert!(!nothing.exists(), "looking makes nothing");
}

#[test]
fn settings_of_durability_that_contradict_each_other_are_mistakes() {
    let mut command = serve(Path::new("x"), &[]);
    let Outcome { code, err, .. } = run(command.env("CULEX_DURABILITY", "none"));
    assert_eq!(
        (code, err.as_str()),
        (Some(2), "CULEX_DURABILITY: none contradicts data: expected os or disk\n")
    );
    let mut command = culex(&["serve"]);
    let Outcome { code, err, .. } = run(command.env("CULEX_BACKUP_DIR", "x"));
    let line = "CULEX_BACKUP_DIR: there is nothing to back up without data\n";
    assert_eq!((code, err.as_str()), (Some(2), line));
}

#[test]
fn a_store_can_be_looked_at_compacted_and_copied() {
    let data = directory("looked-at");
    let broker = Serving::start(&mut serve(&data, &[]));
    fill(&broker);
    broker.signal(Signal::TERM);
    assert_eq!(broker.end(), Some(0));

    let Outcome { code, out, err } = store("info", &data);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for line in
        ["sessions       2", "subscriptions  1", "retained       1, ", "format         culex 1, SQLite"]
    {
        assert!(out.contains(line), "{out}");
    }
    let ok = Outcome { code: Some(0), out: format!("{}: ok\n", data.display()), err: String::new() };
    assert_eq!(store("check", &data), ok);
    assert_eq!(store("compact", &data).code, Some(0));

    let dump = store("dump", &data);
    assert_eq!((dump.code, dump.err.as_str()), (Some(0), ""));
    assert!(dump.out.lines().all(|line| line.starts_with("{\"record\":\"") && line.ends_with('}')));
    assert!(dump.out.contains(r#""topic":"news/today","qos":1,"retain":false,"payload":"it rains""#));
    assert!(!dump.out.contains("secret"));

    let copy = directory("copied");
    let args = ["store", "backup", data.to_str().unwrap(), copy.to_str().unwrap()];
    assert_eq!(run(&mut culex(&args)).code, Some(0));
    assert_eq!(store("dump", &copy).out, dump.out);
    let line = format!("cannot write {}: it exists\n", copy.display());
    assert_eq!(run(&mut culex(&args)), Outcome { code: Some(1), out: String::new(), err: line });
    expect_news(&Serving::start(&mut serve(&copy, &[])));
}

#[test]
fn damaged_entries_are_all_told_and_nothing_is_served() {
    use culex_core::store::{Batch, Durability, Store};
    let data = directory("damaged");
    let mut batch = Batch::default();
    batch.put(vec![0], b"culex 1".to_vec());
    batch.put(b"\x01client".to_vec(), b"".to_vec());
    batch.put(b"\x05topic".to_vec(), b"?".to_vec());
    let mut made = culex_store_sqlite::SqliteStore::open(&data, &Default::default()).unwrap();
    made.commit(&batch, Durability::Disk).unwrap();
    drop(made);
    let Outcome { code, out, err } = store("check", &data);
    assert_eq!((code, out.as_str(), err.lines().count()), (Some(1), "", 2), "{err}");
    let begins = format!("{}: entry \"\\x01client\" is damaged: expected ", data.display());
    assert!(err.starts_with(&begins), "{err}");
    let Outcome { code, out, err } = run(&mut serve(&data, &[]));
    assert_eq!((code, out.as_str(), err.lines().count()), (Some(1), "", 1), "{err}");
    assert!(err.starts_with(&begins), "{err}");
}

#[test]
fn a_broker_that_runs_is_backed_up_at_a_signal() {
    let (data, backups) = (directory("backed-up"), directory("backups"));
    let mut command = serve(&data, &[]);
    let broker = Serving::start(command.env("CULEX_BACKUP_DIR", &backups));
    fill(&broker);
    broker.signal(Signal::USR2);
    let began = Instant::now();
    // It is there as a whole or not at all.
    let backup = loop {
        let there = fs::read_dir(&backups).unwrap().map(|entry| entry.unwrap().path());
        if let Some(backup) = there.into_iter().find(|path| path.extension().is_none()) {
            break backup;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "no backup");
        std::thread::yield_now();
    };
    let (mut late, _) = Client::connect(&broker, "late");
    late.publish("news/late", "the broker goes on", false);
    let ok = Outcome { code: Some(0), out: format!("{}: ok\n", backup.display()), err: String::new() };
    assert_eq!(store("check", &backup), ok);
    assert!(!store("dump", &backup).out.contains("goes on"));
    expect_news(&Serving::start(&mut serve(&backup, &[])));
}

/// No file may grow beyond 16 MiB.
#[test]
fn a_full_disk_ends_the_promises_and_not_what_was_promised() {
    let (data, log) = (directory("full"), file("full.log", ""));
    let (shell, program) = ("trap '' XFSZ; ulimit -f 16384; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_culex"));
    let arguments = serve(&data, &["--log", "error"]);
    let mut command = Command::new("bash");
    command.args(["-c", shell, program]).args(arguments.get_args()).stderr(fs::File::create(&log).unwrap());
    for (name, _) in arguments.get_envs() {
        command.env_remove(name);
    }
    let broker = Serving::start(&mut command);
    fill(&broker);
    let (mut publisher, _) = Client::connect(&broker, "floods");
    let payload = "x".repeat(200_000);
    let mut kept = 0;
    while publisher.try_publish(&format!("kept/{kept}"), &payload, true).is_some() {
        kept += 1;
        assert!(kept < 1000, "there should be no room for so much");
    }
    assert!(kept > 10, "{kept} messages");
    // What needs no disk goes on.
    broker.connect();
    broker.signal(Signal::TERM);
    assert_eq!(broker.end(), Some(0));
    let log = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    let said = format!("the store in {} failed", data.display());
    assert!(lines[0].contains(&said) && lines[0].contains("until the broker is started anew"), "{log}");

    let broker = Serving::start(&mut serve(&data, &[]));
    expect_news(&broker);
    broker.signal(Signal::TERM);
    broker.end();
    let retained = store("dump", &data).out;
    assert!((0..kept).all(|n| retained.contains(&format!("\"kept/{n}\""))), "of {kept} some are missing");
}

#[test]
fn a_recording_of_a_durable_broker_is_done_again() {
    let (data, records) = (directory("recorded"), directory("recordings"));
    for _ in 0..2 {
        let broker = Serving::start(&mut serve(&data, &["--record", records.to_str().unwrap()]));
        let (mut client, _) = Client::connect(&broker, "client");
        client.publish("kept", "for ever", true);
        broker.signal(Signal::TERM);
        assert_eq!(broker.end(), Some(0));
    }
    let mut count = 0;
    for recording in fs::read_dir(&records).unwrap() {
        count += 1;
        let outcome = run(&mut culex(&["replay", recording.unwrap().path().to_str().unwrap()]));
        assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
    }
    assert_eq!(count, 2);
}
