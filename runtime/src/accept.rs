//! What a failed `accept` means: go on at once, or wait because it would fail again at once.

use std::io::{Error, ErrorKind};
use std::time::Duration;

/// Judges the errors of one listener and logs each spell of them once.
#[derive(Debug, Default)]
pub struct AcceptErrors {
    failing: bool,
}

impl AcceptErrors {
    /// How long to wait, unless a connection closes earlier, before the next `accept`.
    pub const PAUSE: Duration = Duration::from_millis(100);

    /// A connection was accepted.
    pub fn succeeded(&mut self) {
        self.failing = false;
    }

    /// Whether to wait before the next `accept`. Only an error that took a connection from the queue is safe to
    /// follow by another `accept`; the others (no file descriptor left, no memory) would repeat without end.
    #[must_use]
    pub fn failed(&mut self, error: &Error) -> bool {
        if matches!(
            error.kind(),
            ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionReset
                | ErrorKind::Interrupted
                | ErrorKind::PermissionDenied
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::NetworkDown
        ) {
            return false;
        }
        if !self.failing {
            self.failing = true;
            tracing::warn!(%error, "cannot accept connections; trying again as others close");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_that_would_repeat_asks_for_a_pause() {
        let mut errors = AcceptErrors::default();
        assert!(!errors.failed(&ErrorKind::ConnectionAborted.into()));
        assert!(errors.failed(&rustix::io::Errno::MFILE.into()));
        assert!(errors.failed(&rustix::io::Errno::NFILE.into()));
    }
}
