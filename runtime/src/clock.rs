//! The clocks of a shard: the machine has none.

use culex_core::{Mono, Now, Wall};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Samples both clocks; monotonic time counts from when the clock was made.
#[derive(Clone)]
pub struct Clock {
    start: Instant,
    /// Tells the time of day instead of the system.
    wall: Option<Arc<dyn Fn() -> Wall + Send + Sync>>,
}

impl Clock {
    /// A clock that starts now. `wall` tells the time of day; `None`: the system does.
    #[must_use]
    pub fn start(wall: Option<Arc<dyn Fn() -> Wall + Send + Sync>>) -> Self {
        Self { start: Instant::now(), wall }
    }

    /// Both clocks. A wall clock before 1970 reads 1970.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = match &self.wall {
            None => {
                let passed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Wall(saturate(passed.as_millis()))
            }
            Some(wall) => wall(),
        };
        Now { mono: Mono(saturate(self.start.elapsed().as_nanos())), wall }
    }

    /// The instant of a monotonic time; `None`: further away than this platform can say.
    #[must_use]
    pub fn instant(&self, mono: Mono) -> Option<Instant> {
        self.start.checked_add(Duration::from_nanos(mono.0))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("start", &self.start).finish_non_exhaustive()
    }
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
