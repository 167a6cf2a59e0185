//! The clocks of a shard: the machine has none.

use culex_core::{Mono, Now, Wall};
use std::time::{Duration, Instant, SystemTime};

/// Samples both clocks; monotonic time counts from when the clock was made.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Both clocks. A wall clock before 1970 reads 1970.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mono = self.start.elapsed();
        Now { mono: Mono(saturate(mono.as_nanos())), wall: Wall(saturate(wall.as_millis())) }
    }

    /// The instant of a monotonic time; `None`: further away than this platform can say.
    #[must_use]
    pub fn instant(&self, mono: Mono) -> Option<Instant> {
        self.start.checked_add(Duration::from_nanos(mono.0))
    }
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
