//! The certificates of the listeners that speak TLS: read at the start and at SIGHUP, looked at every day.

use crate::listener::ListenerSettings;
use crate::problem::Problem;
use culex_core::Wall;
use culex_runtime::{ListenUrl, Tls};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The TLS of each listener, by its number; `None` for those that do without.
#[derive(Debug, Clone, Default)]
pub(crate) struct Certificates(Arc<[(ListenUrl, Option<Tls>)]>);

impl Certificates {
    /// Reads all files.
    ///
    /// # Errors
    /// All mistakes in them, a line each.
    pub(crate) fn load(listeners: &[ListenerSettings]) -> Result<Self, Problem> {
        let (mut loaded, mut mistakes) = (Vec::new(), Vec::new());
        for listener in listeners {
            match listener.load(now()) {
                Ok(tls) => loaded.push((listener.url.clone(), tls)),
                Err(line) => mistakes.push(line),
            }
        }
        if mistakes.is_empty() { Ok(Self(loaded.into())) } else { Err(Problem::mistakes(mistakes)) }
    }

    /// The TLS of a listener.
    pub(crate) fn of(&self, listener: usize) -> Option<Tls> {
        self.0.get(listener)?.1.clone()
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, tls)| tls.is_none())
    }

    /// Reads all files anew: new connections get what they say. A listener whose files are wrong stays as it is.
    pub(crate) fn reload(&self) {
        for (url, tls) in self.0.iter() {
            let Some(tls) = tls else { continue };
            match tls.reload(now()) {
                Ok(()) => tracing::info!("{url}: the certificates were read anew"),
                Err(error) => tracing::error!("{url}: the certificates stay as they were: {error}"),
            }
        }
        self.warn();
    }

    /// Looks at the certificates now and once a day.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn watch(&self) -> io::Result<()> {
        self.warn();
        if self.is_empty() {
            return Ok(());
        }
        let certificates = self.clone();
        let watch = move || {
            loop {
                thread::sleep(DAY);
                certificates.warn();
            }
        };
        thread::Builder::new().name("certificates".to_owned()).spawn(watch).map(drop)
    }

    fn warn(&self) {
        for (url, tls) in self.0.iter() {
            let Some(tls) = tls else { continue };
            tls.warnings().iter().for_each(|warning| tracing::warn!("{url}: {warning}"));
            if let Some(days) = tls.expires().and_then(|expires| days_left(now(), expires))
                && days <= WARN_DAYS
            {
                tracing::warn!("{url}: a certificate expires in {days} days");
            }
        }
    }
}

/// Whole days until then; `None`: it is past, which is told as a warning of its own.
fn days_left(now: Wall, expires: Wall) -> Option<u64> {
    expires.0.checked_sub(now.0).map(|ms| ms / DAY.as_millis() as u64)
}

fn now() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How many days before the end of a certificate it is warned of: as Let's Encrypt renews.
const WARN_DAYS: u64 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_end_with_the_certificate() {
        let day = DAY.as_millis() as u64;
        assert_eq!(days_left(Wall(5), Wall(5 + 3 * day)), Some(3));
        assert_eq!(days_left(Wall(6), Wall(5 + 3 * day)), Some(2));
        assert_eq!(days_left(Wall(5), Wall(5)), Some(0));
        assert_eq!(days_left(Wall(6), Wall(5)), None);
    }
}
