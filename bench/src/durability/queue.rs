//! A long queue: one client publishes, the one who subscribed is away, and takes everything when it is back.

use super::publish::{Crowd, message};
use crate::Trouble;
use crate::kill::broker::Durable;
use crate::kill::client::Event;
use std::time::Instant;

/// What came of it, in the order of the table.
pub(super) fn run(broker: &mut Durable, messages: u64) -> Result<Vec<(&'static str, f64)>, Trouble> {
    let mut crowd = Crowd::new()?;
    let away = crowd.join(broker, "away")?;
    crowd.subscribe(away)?;
    crowd.clients[away].close();
    let publisher = crowd.join(broker, "publisher")?;
    let idle = broker.figure("status", "VmHWM:")?;
    let begin = Instant::now();
    let (mut sent, mut done) = (0, 0);
    while done < messages {
        while sent < messages && sent - done < WINDOW {
            crowd.clients[publisher].publish(message(publisher, sent));
            sent += 1;
        }
        crowd.clients[publisher].flush();
        done += crowd.turn()?.iter().filter(|(_, event)| matches!(event, Event::Done(_))).count() as u64;
    }
    let queued = begin.elapsed().as_secs_f64();
    let full = broker.figure("status", "VmHWM:")?;
    let bytes = broker.bytes();
    let begin = Instant::now();
    if !crowd.connect(broker, away)? {
        return Err(Trouble::new("the session is gone"));
    }
    let mut next = 0;
    while next < messages {
        for (_, event) in crowd.turn()? {
            match event {
                Event::Message { payload, .. } => {
                    let number = payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                    if number != Some(next) {
                        return Err(Trouble::new(format!("message {next} was expected, {number:?} came")));
                    }
                    next += 1;
                }
                Event::Closed => return Err(Trouble::new(format!("closed after {next} messages"))),
                _ => {}
            }
        }
    }
    let drained = begin.elapsed().as_secs_f64();
    let peak = broker.figure("status", "VmHWM:")?;
    Ok(vec![
        ("queued per second", messages as f64 / queued),
        ("drained per second", messages as f64 / drained),
        ("peak memory before, MiB", idle as f64 / 1024.0),
        ("peak memory when queued, MiB", full as f64 / 1024.0),
        ("peak memory when drained, MiB", peak as f64 / 1024.0),
        ("MiB on disk when queued", bytes as f64 / f64::from(1 << 20)),
    ])
}

/// Messages of the publisher that are not acknowledged.
const WINDOW: u64 = 200;
