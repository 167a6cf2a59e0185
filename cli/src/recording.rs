//! `--record DIR`: where the flight recorder's recordings go, and when: at a panic, at SIGUSR1, at the end.

use crate::problem::{Problem, words};
use culex_runtime::Recorder;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A recorder for each shard, and the directory for its recordings: that which was asked for, or with several shards one
/// in there for each.
#[derive(Debug, Clone)]
pub(crate) struct Recordings(Arc<[(PathBuf, Recorder)]>);

impl Recordings {
    /// Makes the directories if there are none, and has recordings written into them should the program panic. Of
    /// `bytes_max` each shard has its part.
    pub(crate) fn start(directory: &Path, bytes_max: usize, shards: usize) -> Result<Self, Problem> {
        let place = |shard| match shards {
            1 => directory.to_owned(),
            _ => directory.join(format!("shard-{shard}")),
        };
        let recorders = (0..shards).map(|shard| (place(shard), Recorder::new(bytes_max / shards)));
        let recordings = Self(recorders.collect());
        let failure = |error: io::Error| {
            Problem::failure(format!("cannot record into {}: {}", directory.display(), words(&error)))
        };
        for (directory, _) in &*recordings.0 {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failure)?;
            // Better now than when there is something to write.
            let probe = directory.join(format!(".{}.probe", std::process::id()));
            create(&probe).map_err(failure)?;
            fs::remove_file(&probe).map_err(failure)?;
        }
        recordings.write_at_panic();
        Ok(recordings)
    }

    pub(crate) fn recorders(&self) -> Vec<Recorder> {
        self.0.iter().map(|(_, recorder)| recorder.clone()).collect()
    }

    /// Writes what is recorded. Each file is there at once or not at all.
    pub(crate) fn write(&self, reason: &str) {
        for (directory, recorder) in &*self.0 {
            match write(directory, recorder, reason) {
                Ok(path) => tracing::info!("recording written: {}", path.display()),
                Err(error) => {
                    let (directory, error) = (directory.display(), words(&error));
                    tracing::error!("cannot write a recording into {directory}: {error}");
                }
            }
        }
    }

    fn write_at_panic(&self) {
        let (recordings, told) = (self.clone(), std::panic::take_hook());
        let written = AtomicBool::new(false);
        std::panic::set_hook(Box::new(move |panic| {
            told(panic);
            // The first is the cause.
            if !written.swap(true, Ordering::Relaxed) {
                recordings.write("panic");
            }
        }));
    }
}

fn write(directory: &Path, recorder: &Recorder, reason: &str) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let name = format!("culex-{now}-{reason}.recording");
    let (path, part) = (directory.join(&name), directory.join(format!(".{name}.part")));
    let mut file = BufWriter::new(create(&part)?);
    let written = recorder.write_to(&mut file).and_then(|()| file.flush());
    let done = written.and_then(|()| file.get_ref().sync_all()).and_then(|()| fs::rename(&part, &path));
    if done.is_err() {
        // A full disk is better off without it.
        let _ = fs::remove_file(&part);
    }
    done.map(|()| path)
}

/// A new file for nobody else's eyes: it will hold passwords.
pub(crate) fn create(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
