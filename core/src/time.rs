//! Time is an input: the caller samples its clocks once per turn and passes them in.

use core::ops::Add;

/// Monotonic time in nanoseconds since an arbitrary start; never goes back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// The time `ms` milliseconds after this one, saturating at the end of time.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Nanoseconds from `earlier` to this time; 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<core::time::Duration> for Mono {
    type Output = Mono;
    fn add(self, rhs: core::time::Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Wall-clock time in milliseconds since the Unix epoch: only for what must survive a restart
/// (message and session expiry). It may jump.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub u64);

impl Wall {
    /// The time `seconds` later, saturating at the end of time.
    #[must_use]
    pub const fn plus_seconds(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(seconds as u64 * 1000))
    }
}

/// Both clocks, sampled together once per turn.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For timers and timeouts.
    pub mono: Mono,
    /// For expiry that survives a restart.
    pub wall: Wall,
}

impl Now {
    /// Both clocks `ms` milliseconds later: for tests and simulations.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self { mono: self.mono.plus_ms(ms), wall: Wall(self.wall.0.saturating_add(ms)) }
    }
}
