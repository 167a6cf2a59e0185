//! What a server keeps instead of a password.

use crate::crypto::{self, Key, base64, unbase64};
use crate::{ITERATIONS_MAX, ITERATIONS_MIN, METHOD, SALT_BYTES_MAX};
use alloc::boxed::Box;
use base64ct::{Base64, Encoding};
use core::fmt;
use core::str::FromStr;
use zeroize::Zeroize;

/// What a server keeps instead of a password: it can check a proof, but not make one.
///
/// Its text form is `SCRAM-SHA-256$iterations:salt$stored_key:server_key`, the last three in base64. It is no password,
/// but whoever has it can try passwords on it, and play the server: keep it as one keeps password hashes.
#[derive(Clone)]
pub struct ScramSecret {
    pub(crate) salt: Box<[u8]>,
    pub(crate) iterations: u32,
    pub(crate) stored_key: Key,
    pub(crate) server_key: Key,
}

impl ScramSecret {
    /// The secret of a password. It takes as long as there are iterations, so not on the machine's thread.
    ///
    /// The salt is random, 16 bytes for instance, and never used twice. Choose as many iterations as the slowest client
    /// can bear, and the same for all users.
    ///
    /// # Errors
    /// The password or the salt is empty, or the salt or the number of iterations is beyond its limits.
    pub fn new(password: &str, salt: &[u8], iterations: u32) -> Result<Self, SecretError> {
        if password.is_empty() {
            return Err(SecretError::Password);
        }
        check(salt, iterations)?;
        let (client_key, server_key) = crypto::derive(password, salt, iterations);
        let stored_key = crypto::hash(&client_key);
        Ok(Self { salt: salt.into(), iterations, stored_key, server_key: *server_key })
    }

    /// The salt.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// How often the password is hashed.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        self.iterations
    }
}

pub(crate) fn check(salt: &[u8], iterations: u32) -> Result<(), SecretError> {
    if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
        return Err(SecretError::Salt);
    }
    if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
        return Err(SecretError::Iterations);
    }
    Ok(())
}

impl fmt::Display for ScramSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored, server) = (base64(&self.salt), base64(&self.stored_key), base64(&self.server_key));
        write!(f, "{METHOD}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl FromStr for ScramSecret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let mut parts = text.split('$');
        let (Some(METHOD), Some(cost), Some(keys), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SecretError::Form);
        };
        let (iterations, salt) = cost.split_once(':').ok_or(SecretError::Form)?;
        let (stored, server) = keys.split_once(':').ok_or(SecretError::Form)?;
        let iterations = iterations.parse().map_err(|_| SecretError::Iterations)?;
        let salt = Base64::decode_vec(salt).map_err(|_| SecretError::Salt)?;
        check(&salt, iterations)?;
        let key = |text| unbase64(text).ok_or(SecretError::Form);
        Ok(Self { salt: salt.into(), iterations, stored_key: key(stored)?, server_key: key(server)? })
    }
}

impl fmt::Debug for ScramSecret {
    // Secrets never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramSecret").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl Drop for ScramSecret {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

/// Why there is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretError {
    /// The password is empty.
    Password,
    /// The salt is empty, longer than [`SALT_BYTES_MAX`], or no base64.
    Salt,
    /// The iterations are no number from [`ITERATIONS_MIN`] to [`ITERATIONS_MAX`].
    Iterations,
    /// The text is not of the form it has to be.
    Form,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password => f.write_str("the password is empty"),
            Self::Salt => write!(f, "expected a salt of 1 to {SALT_BYTES_MAX} bytes"),
            Self::Iterations => write!(f, "expected {ITERATIONS_MIN} to {ITERATIONS_MAX} iterations"),
            Self::Form => write!(f, "expected {METHOD}$iterations:salt$stored_key:server_key"),
        }
    }
}

impl core::error::Error for SecretError {}
