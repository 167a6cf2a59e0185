//! Who is known.

use crate::crypto::{Key, hmac};
use crate::{ITERATIONS_MIN, ScramSecret};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// The users and their secrets.
///
/// Who does not exist appears to have as many iterations, and as long a salt, as the user that was inserted first. So give
/// all users the same: one that differs is known to exist to whoever asks for it.
#[derive(Debug, Clone, Default)]
pub struct ScramUsers {
    secrets: BTreeMap<Box<str>, ScramSecret>,
    /// Iterations and the length of the salt of who does not exist.
    shape: Option<(u32, usize)>,
}

impl ScramUsers {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a user, or gives it another secret; returns the one it had. A name that does not fit in a client's first
    /// message, with its nonce, cannot be used.
    pub fn insert(&mut self, name: impl Into<Box<str>>, secret: ScramSecret) -> Option<ScramSecret> {
        self.shape.get_or_insert((secret.iterations, secret.salt.len()));
        self.secrets.insert(name.into(), secret)
    }

    /// Removes a user. Exchanges of that name that are going on fail; connections stay.
    pub fn remove(&mut self, name: &str) -> Option<ScramSecret> {
        self.secrets.remove(name)
    }

    /// The secret of a user.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&ScramSecret> {
        self.secrets.get(name)
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.secrets.len()
    }

    /// Whether there is no user.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// What a user that does not exist appears to have: the same each time it is asked for.
    pub(crate) fn decoy(&self, key: &Key, name: &str) -> ScramSecret {
        let (iterations, salt_bytes) = self.shape.unwrap_or((ITERATIONS_MIN, 16));
        let block = |n: u8| hmac(key, &[&[n], name.as_bytes()]);
        // Two blocks are the longest salt.
        let salt: Vec<u8> = block(0).into_iter().chain(block(1)).take(salt_bytes).collect();
        ScramSecret { salt: salt.into(), iterations, stored_key: block(2), server_key: block(3) }
    }
}

const _: () = assert!(crate::SALT_BYTES_MAX <= 2 * size_of::<Key>());

impl FromIterator<(Box<str>, ScramSecret)> for ScramUsers {
    fn from_iter<I: IntoIterator<Item = (Box<str>, ScramSecret)>>(users: I) -> Self {
        let mut all = Self::new();
        users.into_iter().for_each(|(name, secret)| drop(all.insert(name, secret)));
        all
    }
}
