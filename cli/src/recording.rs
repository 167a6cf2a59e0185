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

/// A recorder and the directory for its recordings.
#[derive(Debug, Clone)]
pub(crate) struct Recordings {
    directory: Arc<Path>,
    recorder: Recorder,
}

impl Recordings {
    /// Makes the directory if there is none, and has a recording written into it should the program panic.
    pub(crate) fn start(directory: &Path, bytes_max: usize) -> Result<Self, Problem> {
        let failure = |error: io::Error| {
            Problem::failure(format!("cannot record into {}: {}", directory.display(), words(&error)))
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failure)?;
        let recordings = Self { directory: directory.into(), recorder: Recorder::new(bytes_max) };
        // Better now than when there is something to write.
        let probe = directory.join(format!(".{}.probe", std::process::id()));
        create(&probe).map_err(failure)?;
        fs::remove_file(&probe).map_err(failure)?;
        recordings.write_at_panic();
        Ok(recordings)
    }

    pub(crate) fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Writes what is recorded. It is there at once or not at all.
    pub(crate) fn write(&self, reason: &str) {
        match self.try_write(reason) {
            Ok(path) => tracing::info!("recording written: {}", path.display()),
            Err(error) => {
                tracing::error!(
                    "cannot write a recording into {}: {}",
                    self.directory.display(),
                    words(&error)
                );
            }
        }
    }

    fn try_write(&self, reason: &str) -> io::Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let name = format!("culex-{now}-{reason}.recording");
        let (path, part) = (self.directory.join(&name), self.directory.join(format!(".{name}.part")));
        let mut file = BufWriter::new(create(&part)?);
        let written = self.recorder.write_to(&mut file).and_then(|()| file.flush());
        let done = written.and_then(|()| file.get_ref().sync_all()).and_then(|()| fs::rename(&part, &path));
        if done.is_err() {
            // A full disk is better off without it.
            let _ = fs::remove_file(&part);
        }
        done.map(|()| path)
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

/// A new file for nobody else's eyes: it will hold passwords.
pub(crate) fn create(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
