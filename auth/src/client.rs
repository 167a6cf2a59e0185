//! The client's side of the exchange: for tests, bridges, and clients in Rust.

use crate::crypto::{self, Key, base64, hash, hmac, unbase64, xor};
use crate::message::{ServerFirst, escape};
use crate::{NoEntropy, secret};
use alloc::format;
use alloc::string::String;
use core::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The client's side of one exchange.
pub struct ScramClient {
    password: Zeroizing<String>,
    nonce: String,
    /// `client-first-message-bare`.
    bare: String,
    /// What the server has to say in the end.
    expected: Option<Key>,
}

impl ScramClient {
    /// Begins an exchange.
    ///
    /// # Errors
    /// There is no entropy for the nonce.
    pub fn new(
        name: &str,
        password: &str,
        mut entropy: impl FnMut(&mut [u8]) -> Result<(), NoEntropy>,
    ) -> Result<Self, NoEntropy> {
        let mut random = [0; 18];
        entropy(&mut random)?;
        Ok(Self::with_nonce(name, password, base64(&random)))
    }

    pub(crate) fn with_nonce(name: &str, password: &str, nonce: String) -> Self {
        let bare = format!("n={},r={nonce}", escape(name));
        Self { password: Zeroizing::new(password.into()), nonce, bare, expected: None }
    }

    /// The first message, for CONNECT or for the AUTH that begins a re-authentication.
    #[must_use]
    pub fn first(&self) -> String {
        format!("{HEADER}{}", self.bare)
    }

    /// The final message, for the next AUTH. It takes as long as the server wants iterations.
    ///
    /// # Errors
    /// This is no first message of a server, or not an answer to this client.
    pub fn answer(&mut self, challenge: &[u8]) -> Result<String, ClientError> {
        let challenge = core::str::from_utf8(challenge).map_err(|_| ClientError::Challenge)?;
        let first = ServerFirst::parse(challenge).ok_or(ClientError::Challenge)?;
        let added = first.nonce.strip_prefix(&*self.nonce).is_some_and(|added| !added.is_empty());
        if !added || secret::check(&first.salt, first.iterations).is_err() {
            return Err(ClientError::Challenge);
        }
        let (client_key, server_key) = crypto::derive(&self.password, &first.salt, first.iterations);
        let bare = format!("c={},r={}", base64(HEADER.as_bytes()), first.nonce);
        let message = format!("{},{challenge},{bare}", self.bare);
        let signature = hmac(&hash(&client_key), &[message.as_bytes()]);
        self.expected = Some(hmac(&server_key, &[message.as_bytes()]));
        Ok(format!("{bare},p={}", base64(&xor(&client_key, &signature))))
    }

    /// Checks the Authentication Data of CONNACK, or of the AUTH that ends a re-authentication.
    ///
    /// # Errors
    /// The server did not prove that it knows this client's secret: do not talk to it.
    pub fn verify(self, proof: &[u8]) -> Result<(), ClientError> {
        let said = core::str::from_utf8(proof).ok().and_then(|text| unbase64(text.strip_prefix("v=")?));
        match (said, self.expected) {
            (Some(said), Some(expected)) if bool::from(said.ct_eq(&expected)) => Ok(()),
            _ => Err(ClientError::Proof),
        }
    }
}

impl fmt::Debug for ScramClient {
    // Secrets never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramClient").finish_non_exhaustive()
    }
}

/// Why a client should not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientError {
    /// What came is no challenge, or not for this client, or asks for too few or too many iterations.
    Challenge,
    /// The server does not know the secret of this client.
    Proof,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Challenge => "the server's challenge cannot be answered",
            Self::Proof => "the server did not prove who it is",
        })
    }
}

impl core::error::Error for ClientError {}

/// `gs2-header`: no channel binding, nobody else to act as.
const HEADER: &str = "n,,";
