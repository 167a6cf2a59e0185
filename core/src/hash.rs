//! Hash tables whose keys derive from the machine's seed: peers cannot predict collisions, and the same seed gives
//! the same tables.

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

/// Builds hashers from a seed.
pub type HashState = SeedableRandomState;
/// A map keyed from the seed.
pub type HashMap<K, V> = hashbrown::HashMap<K, V, HashState>;
/// A set keyed from the seed.
pub type HashSet<K> = hashbrown::HashSet<K, HashState>;

/// All randomness of a machine: mandatory, from the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The hasher that belongs to this seed; `purpose` separates tables from each other.
    #[must_use]
    pub fn hasher(self, purpose: u64) -> HashState {
        let mut rng = Random::new(self);
        HashState::with_seed(rng.next() ^ purpose, SharedSeed::from_u64(rng.next()))
    }
}

/// A small deterministic generator (SplitMix64, Steele et al. 2014) for choices that need not be secret.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator of a seed.
    #[must_use]
    pub const fn new(seed: Seed) -> Self {
        Self(seed.0)
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)] // it never ends, and nobody iterates over it
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
