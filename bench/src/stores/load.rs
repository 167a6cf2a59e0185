//! What a broker asks of its store: queues that grow at one end and shrink at the other.

use super::engine::{Engine, Opened};
use crate::Trouble;
use culex_core::hash::{Random, Seed};
use culex_core::store::{Batch, Durability};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// The tag of queues, and the one behind it.
const QUEUE: u8 = b'q';
const SESSIONS: u64 = 1000;

/// The queues of a broker: keys are a tag, the number of the session and the number of the message.
pub(crate) struct Queues {
    random: Random,
    next: u64,
    value: [u8; 200],
}

impl Queues {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(Seed(seed));
        // Not compressible: what is in real payloads is nobody's business.
        let value = std::array::from_fn(|_| random.next() as u8);
        Self { random, next: 0, value }
    }

    /// The key and value of a new message for one of the sessions.
    fn message(&mut self) -> (Vec<u8>, Vec<u8>) {
        let mut key = vec![QUEUE];
        key.extend((self.random.next() % SESSIONS).to_be_bytes());
        key.extend(self.next.to_be_bytes());
        self.next += 1;
        let length = 64 + (self.random.next() % 137) as usize;
        (key, self.value[..length].to_vec())
    }

    /// Queues so many messages, in batches of 5,000.
    pub(crate) fn fill(&mut self, store: &mut dyn Opened, messages: usize) -> Result<(), Trouble> {
        let mut left = messages;
        while left > 0 {
            let mut batch = Batch::default();
            for _ in 0..left.min(5000) {
                let (key, value) = self.message();
                batch.put_new(key, value);
            }
            left -= left.min(5000);
            store.commit(&batch, Durability::Os)?;
        }
        store.commit(&Batch::default(), Durability::Disk)
    }
}

/// What came of a case.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Bytes that this process had written to the disk, per message.
    pub(crate) written: f64,
}

/// So many publishers at QoS 1, each of which sends its next message when the last was acknowledged: what they send while
/// a commit is under way is the next one. In that also the messages before are removed, as their receivers acknowledge.
pub(crate) fn publish(
    store: &mut dyn Opened,
    publishers: usize,
    durability: Durability,
    time: Duration,
) -> Result<Outcome, Trouble> {
    let mut queues = Queues::new(publishers as u64);
    let mut delivered: Vec<Vec<u8>> = Vec::new();
    let mut took = Vec::new();
    let (begin, before) = (Instant::now(), written()?);
    while begin.elapsed() < time {
        let start = Instant::now();
        let mut batch = Batch::default();
        delivered.drain(..).for_each(|key| batch.remove(key));
        for _ in 0..publishers {
            let (key, value) = queues.message();
            delivered.push(key.clone());
            batch.put_new(key, value);
        }
        store.commit(&batch, durability)?;
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let messages = (took.len() * publishers) as f64;
    let written = (written()? - before) as f64 / messages;
    took.sort_by(f64::total_cmp);
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    Ok(Outcome { per_second: messages / seconds, p50_us: at(0.5), p99_us: at(0.99), written })
}

/// One long queue: 100 are read and taken at its head and as many are put at its end, in one commit. Messages per second.
pub(crate) fn turn_over(store: &mut dyn Opened, time: Duration) -> Result<f64, Trouble> {
    const DEEP: usize = 20_000;
    let mut numbers = 0_u64;
    let mut put = |batch: &mut Batch, count: usize| {
        for _ in 0..count {
            let mut key = vec![QUEUE + 1; 9];
            key.extend(numbers.to_be_bytes());
            batch.put_new(key, vec![7; 130]);
            numbers += 1;
        }
    };
    for _ in 0..DEEP / 1000 {
        let mut batch = Batch::default();
        put(&mut batch, 1000);
        store.commit(&batch, Durability::Os)?;
    }
    let (begin, mut messages) = (Instant::now(), 0);
    while begin.elapsed() < time {
        let mut batch = Batch::default();
        let mut page = 0;
        store.scan(&[QUEUE + 1], &[QUEUE + 2], &mut |key, _| {
            batch.remove(key.to_vec());
            page += 1;
            if page == 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if page != 100 {
            return Err(Trouble::new("a queue that should be long is not"));
        }
        put(&mut batch, 100);
        store.commit(&batch, Durability::Os)?;
        messages += page;
    }
    Ok(f64::from(messages) / begin.elapsed().as_secs_f64())
}

/// What a broker does when it starts: seconds until the store is open, after it was closed and after it was killed,
/// seconds for reading everything, and bytes on the disk per message. A child fills it and ends abruptly.
pub(crate) fn restart(engine: Engine, directory: &Path, messages: usize) -> Result<[f64; 4], Trouble> {
    let mut child = std::process::Command::new(std::env::current_exe()?);
    child.args(["store-victim", "--engine", engine.name(), "--fill", &messages.to_string(), "--directory"]);
    child.arg(directory).stdout(std::process::Stdio::null()).status()?;
    let mut opened = [0.0; 2];
    let mut scanned = 0.0;
    for seconds in opened.iter_mut().rev() {
        let begin = Instant::now();
        let store = engine.open(directory)?;
        *seconds = begin.elapsed().as_secs_f64();
        let (begin, mut found) = (Instant::now(), 0);
        store.scan(&[0], &[0xFF], &mut |_, _| {
            found += 1;
            ControlFlow::Continue(())
        })?;
        scanned = begin.elapsed().as_secs_f64();
        if found != messages {
            return Err(Trouble::new(format!("{}: {found} of {messages} are there", engine.name())));
        }
    }
    let size = size(directory)? as f64 / messages as f64;
    Ok([opened[0], opened[1], scanned, size])
}

/// Syncs per second of a file to which 4 KiB are appended each time: what no engine can beat.
pub(crate) fn medium(directory: &Path, time: Duration) -> Result<f64, Trouble> {
    let path = directory.join("medium");
    let mut file = File::create(&path)?;
    let (begin, mut syncs) = (Instant::now(), 0);
    while begin.elapsed() < time {
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        syncs += 1;
    }
    let seconds = begin.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(f64::from(syncs) / seconds)
}

/// Bytes that this process had written to the disk, or will have: pages it made dirty.
fn written() -> Result<u64, Trouble> {
    let text = fs::read_to_string("/proc/self/io")?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    bytes.and_then(|bytes| bytes.parse().ok()).ok_or_else(|| Trouble::new("/proc/self/io says nothing"))
}

/// The bytes that the files of a directory take on the disk.
pub(crate) fn size(directory: &Path) -> Result<u64, Trouble> {
    use std::os::unix::fs::MetadataExt as _;
    let mut size = 0;
    let mut folders = VecDeque::from([directory.to_path_buf()]);
    while let Some(folder) = folders.pop_front() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push_back(entry.path());
            } else {
                size += entry.metadata()?.blocks() * 512;
            }
        }
    }
    Ok(size)
}
