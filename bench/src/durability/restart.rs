//! A broker starts with many sessions.

use super::{Plan, Target};
use crate::Trouble;
use crate::kill::broker::{Durable, ROOMY};
use crate::kill::client::Event;
use crate::stores::cell;
use culex_core::hash::Seed;
use culex_core::packet::QoS;
use culex_core::store::{Batch, Durability, Image, Store};
use culex_core::{Message, Record, Wall};
use culex_store_sqlite::{Options, SqliteStore};
use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Adds what it found to the report.
pub(super) fn run(
    plan: &Plan,
    target: &Target,
    sessions: u64,
    rounds: usize,
    report: &mut String,
) -> Result<(), Trouble> {
    let directory = plan.directory.join("restart");
    let mut broker = Durable::new(target.program.clone(), &target.kind, directory, ROOMY)?;
    let data = broker.directory.join("data");
    let begin = Instant::now();
    fill(&data, sessions)?;
    let made = begin.elapsed().as_secs_f64();
    let (mut times, mut rss, mut peak, mut refused) = (vec![], vec![], vec![], 0_u64);
    for round in 0..rounds {
        let begin = Instant::now();
        broker.spawn()?;
        // A connection that is taken is served: who it was is known, with what waits for it.
        while TcpStream::connect(broker.address).is_err() {
            refused += 1;
            if broker.died() || begin.elapsed() > Duration::from_secs(600) {
                return Err(Trouble::new(format!("the broker does not start: {}", broker.said())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        times.push(begin.elapsed().as_secs_f64());
        rss.push(broker.figure("status", "VmRSS:")? as f64 / 1024.0);
        peak.push(broker.figure("status", "VmHWM:")? as f64 / 1024.0);
        look(&broker, sessions - 1 - round as u64)?;
        // The first time it was closed, then it is killed.
        broker.kill()?;
    }
    let mebibytes = broker.bytes() >> 20;
    let _ = writeln!(
        report,
        "{sessions} sessions with {EACH} subscriptions and {EACH} messages of 64 bytes each, {mebibytes} MiB on disk \
         (made in {made:.0} s):\n\n| | |\n|---|---:|\n| start until it listens, closed before: s | {:.2} |\n\
         | the same, killed before: s | {} |\n| memory then, MiB | {} |\n| peak memory until then, MiB | {} |\n\
         | connections refused until then | {refused} |\n",
        times.first().copied().unwrap_or_default(),
        cell(times.get(1..).unwrap_or_default()),
        cell(&rss),
        cell(&peak),
    );
    Ok(())
}

/// Writes what such a broker would have left.
fn fill(directory: &Path, sessions: u64) -> Result<(), Trouble> {
    let told = |error: &dyn std::fmt::Display| Trouble::new(error.to_string());
    let mut store = SqliteStore::open(directory, &Options::default())?;
    // As a broker does at its start.
    let mut image = Image::open(&store, Seed(1), &mut |_| true).map_err(|error| told(&error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let mut batch = Batch::default();
    Image::initialize(&mut batch);
    for session in 0..sessions {
        let client_id: Box<str> = name(session).into();
        let mut apply = |record: &Record| image.apply(record, &mut batch).map_err(|error| told(&error));
        let left = Some(Wall(now));
        apply(&Record::Session { client_id: client_id.clone(), expiry: u32::MAX, left })?;
        for number in 0..EACH {
            let filter = format!("site/{session}/{number}").into();
            let client_id = client_id.clone();
            apply(&Record::Subscription { client_id, filter, options: 1, identifier: 0 })?;
        }
        for number in 0..EACH {
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize(64, b'x');
            let topic = format!("site/{session}/{number}");
            let message = Message::new(&topic, &payload, QoS::AtLeastOnce, false)
                .map_err(|misuse| Trouble::new(format!("{misuse:?}")))?;
            apply(&Record::Queued {
                client_id: client_id.clone(),
                message,
                qos: QoS::AtLeastOnce,
                retain: false,
                identifiers: Default::default(),
            })?;
        }
        if batch.bytes() > 8 << 20 {
            store.commit(&batch, Durability::Os)?;
            batch.reset();
        }
    }
    Ok(store.commit(&batch, Durability::Disk)?)
}

/// A client comes back and gets what waits for it, and what comes now.
fn look(broker: &Durable, session: u64) -> Result<(), Trouble> {
    let mut crowd = super::publish::Crowd::new()?;
    let mut publisher = super::publish::message(0, EACH);
    publisher.topic = format!("site/{session}/0");
    let by = crowd.join(broker, "somebody")?;
    crowd.clients[by].publish(publisher);
    crowd.clients[by].flush();
    let (back, present) = crowd.come(broker, &name(session))?;
    if !present {
        return Err(Trouble::new("a session that was in the store is not known"));
    }
    let mut next = 0;
    while next <= EACH {
        for (client, event) in crowd.turn()? {
            if let Event::Message { payload, .. } = event
                && client == back
            {
                let number = payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                if number != Some(next) {
                    return Err(Trouble::new(format!("message {next} was expected, {number:?} came")));
                }
                next += 1;
            }
        }
    }
    Ok(())
}

fn name(session: u64) -> String {
    format!("device-{session:08}")
}

const EACH: u64 = 10;
