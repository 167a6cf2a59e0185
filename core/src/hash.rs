//! Hash tables whose keys derive from the machine's seed: peers cannot predict collisions, and the same seed gives
//! the same tables.

use crate::saved::saved;
use core::hash::{BuildHasher, Hasher};

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
    pub const fn hasher(self, purpose: u64) -> HashState {
        let mut random = Random(self.0 ^ purpose);
        HashState { start: random.next(), key: random.next() | 1, last: random.next() }
    }
}

/// Builds hashers from a seed.
///
/// The hash is a chain of folded 64 by 64 bit multiplications, as in wyhash (Wang Yi, 2019), with three secret keys:
/// whoever does not know them cannot choose a factor that makes a product vanish. It is not for secrets that must
/// outlive the process.
#[derive(Clone, Copy)]
pub struct HashState {
    start: u64,
    key: u64,
    last: u64,
}

impl core::fmt::Debug for HashState {
    // The keys stay secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HashState").finish_non_exhaustive()
    }
}

impl BuildHasher for HashState {
    type Hasher = KeyedHasher;
    #[inline]
    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher { state: self.start, keys: *self }
    }
}

/// See [`HashState`].
#[derive(Debug, Clone)]
pub struct KeyedHasher {
    state: u64,
    keys: HashState,
}

impl KeyedHasher {
    #[inline]
    fn mix(&mut self, a: u64, b: u64) {
        self.state = fold(a ^ self.keys.key, b ^ self.state);
    }
}

impl Hasher for KeyedHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let length = bytes.len();
        let mut rest = bytes;
        while let Some((chunk, behind)) = rest.split_first_chunk::<16>() {
            let (a, b) = halves(chunk);
            self.mix(a, b);
            rest = behind;
        }
        // What is left is read from both of its ends, so that every length up to 16 takes one multiplication.
        let (a, b) = if let (Some(head), Some(tail)) = (rest.first_chunk::<8>(), rest.last_chunk::<8>()) {
            (u64::from_le_bytes(*head), u64::from_le_bytes(*tail))
        } else if let (Some(head), Some(tail)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
            (u64::from(u32::from_le_bytes(*head)), u64::from(u32::from_le_bytes(*tail)))
        } else if let [first, .., last] = rest {
            (u64::from(*first) << 8 | u64::from(rest[rest.len() / 2]), u64::from(*last))
        } else {
            (rest.first().map_or(0, |byte| u64::from(*byte)), 0)
        };
        self.mix(a, b ^ (length as u64) << 56);
    }

    #[inline]
    fn write_u8(&mut self, value: u8) {
        self.state = self.state.rotate_left(8) ^ u64::from(value);
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value), 0);
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.mix(value, 0);
    }

    #[inline]
    fn finish(&self) -> u64 {
        fold(self.state, self.keys.last)
    }
}

#[inline]
fn halves(chunk: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*chunk);
    (whole as u64, (whole >> 64) as u64)
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// A small deterministic generator (SplitMix64, Steele et al. 2014) for choices that need not be secret.
#[derive(Debug, Clone)]
pub struct Random(u64);

saved! { tuple Random }

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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn similar_keys_of_every_length_spread_over_high_and_low_bits() {
        let state = Seed(1).hasher(2);
        for length in 0..40 {
            let mut low = [0u32; 256];
            let mut high = [0u32; 128];
            for n in 0..4096u32 {
                let key = format!("{}{n:04x}", "x".repeat(length));
                let hash = state.hash_one(key.as_bytes());
                low[hash as usize % 256] += 1;
                high[(hash >> 57) as usize] += 1;
            }
            assert!(low.iter().all(|&count| count < 48), "16 expected: {:?}", low.iter().max());
            assert!(high.iter().all(|&count| count < 80), "32 expected: {:?}", high.iter().max());
        }
    }

    #[test]
    fn seed_purpose_and_every_byte_count() {
        let key = b"a/topic/of/some/length/x";
        let hash = Seed(1).hasher(1).hash_one(key);
        assert_eq!(hash, Seed(1).hasher(1).hash_one(key));
        assert_ne!(hash, Seed(2).hasher(1).hash_one(key));
        assert_ne!(hash, Seed(1).hasher(2).hash_one(key));
        for length in 1..key.len() {
            for changed in 0..length {
                let mut other = *key;
                other[changed] ^= 1;
                let state = Seed(1).hasher(1);
                assert_ne!(state.hash_one(&key[..length]), state.hash_one(&other[..length]));
            }
        }
    }
}
