//! The server's side of the exchange.

use crate::crypto::{Key, base64, hash, hmac, xor};
use crate::entropy::{Entropy, NoEntropy};
use crate::exchanges::{Exchange, Exchanges};
use crate::message::{ClientFinal, ClientFirst};
use crate::{EXCHANGES_MAX, FINAL_BYTES_MAX, FIRST_BYTES_MAX, METHOD, ScramUsers};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use bytes::Bytes;
use core::fmt;
use culex_core::packet::ReasonCode;
use culex_core::{Answer, Credentials};
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, Zeroizing};

/// The server's side of SCRAM-SHA-256: answers the questions of one machine.
///
/// One machine, because exchanges are told apart by their [`ConnectionId`](culex_core::ConnectionId).
pub struct Scram {
    users: ScramUsers,
    entropy: Entropy,
    exchanges: Exchanges,
    /// What made-up salts are made from; drawn when first needed.
    decoy_key: Option<Key>,
}

impl Scram {
    /// For these users. `entropy` fills a buffer with bytes that nobody can guess:
    /// [`os_entropy`](crate::os_entropy) does.
    #[must_use]
    pub fn new(
        users: ScramUsers,
        entropy: impl FnMut(&mut [u8]) -> Result<(), NoEntropy> + Send + 'static,
    ) -> Self {
        Self { users, entropy: Box::new(entropy), exchanges: Exchanges::new(EXCHANGES_MAX), decoy_key: None }
    }

    /// Keeps at most so many unfinished exchanges (at least one) instead of [`EXCHANGES_MAX`].
    ///
    /// Choose it no smaller than the number of connections that may be authenticating at once: whoever opens more
    /// pushes out others, who then fail and have to connect anew.
    #[must_use]
    pub fn with_exchanges_max(mut self, exchanges_max: usize) -> Self {
        self.exchanges = Exchanges::new(exchanges_max);
        self
    }

    /// Makes the salts of users that do not exist from this key, which has to stay secret.
    ///
    /// Without it the key is random and a restart changes those salts, but not those of users: whoever compares knows
    /// which are made up.
    #[must_use]
    pub fn with_decoy_key(mut self, key: [u8; 32]) -> Self {
        self.decoy_key = Some(key);
        self
    }

    /// The users.
    #[must_use]
    pub fn users(&self) -> &ScramUsers {
        &self.users
    }

    /// The users, to change; connections stay.
    pub fn users_mut(&mut self) -> &mut ScramUsers {
        &mut self.users
    }

    /// How many exchanges are unfinished, including those of connections that are gone.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.exchanges.len()
    }

    /// Answers one step. A first message begins anew, whatever came before it on this connection; whatever does not
    /// belong there ends the exchange.
    pub fn step(&mut self, who: &Credentials) -> Answer {
        if who.method.as_deref() != Some(METHOD) {
            return Answer::Deny(ReasonCode::BadAuthenticationMethod);
        }
        let exchange = self.exchanges.remove(who.connection);
        let answer = match (who.data.as_deref().unwrap_or_default(), exchange) {
            // The client speaks first; one that did not yet gets an empty challenge (RFC 4422, section 5, item 2b).
            (b"", _) => return Answer::Continue(Bytes::new()),
            (data @ [b'c', b'=', ..], Some(exchange)) => self.finish(exchange, data),
            (data, _) => self.begin(who, data),
        };
        answer.unwrap_or_else(Answer::Deny)
    }

    fn begin(&mut self, who: &Credentials, data: &[u8]) -> Result<Answer, ReasonCode> {
        // Base64, for a nonce must be printable and without a comma.
        let mut random = [0; NONCE_BYTES];
        self.draw(&mut random)?;
        let (exchange, challenge) = self.challenge(who, data, &base64(&random))?;
        self.exchanges.insert(who.connection, exchange);
        Ok(Answer::Continue(challenge.into()))
    }

    /// The server's first message, and what has to be remembered of it.
    pub(crate) fn challenge(
        &mut self,
        who: &Credentials,
        data: &[u8],
        server_nonce: &str,
    ) -> Result<(Exchange, String), ReasonCode> {
        let first = within(data, FIRST_BYTES_MAX).and_then(ClientFirst::parse).ok_or(REFUSED)?;
        let other = |said: &str| said != first.name;
        if first.acts_as.as_deref().is_some_and(other) || who.user_name.as_deref().is_some_and(other) {
            return Err(REFUSED);
        }
        // Made up for everybody, so that it takes everybody as long.
        let key = self.decoy_key()?;
        let decoy = self.users.decoy(&key, &first.name);
        let secret = self.users.get(&first.name).unwrap_or(&decoy);
        let nonce = format!("{}{server_nonce}", first.nonce);
        let challenge = format!("r={nonce},s={},i={}", base64(&secret.salt), secret.iterations);
        let exchange = Exchange {
            name: first.name.as_ref().into(),
            binding: base64(first.header.as_bytes()).into(),
            nonce: nonce.into(),
            said: format!("{},{challenge}", first.bare),
        };
        Ok((exchange, challenge))
    }

    /// Checks the proof, and proves in turn.
    pub(crate) fn finish(&mut self, exchange: Exchange, data: &[u8]) -> Result<Answer, ReasonCode> {
        let last = within(data, FINAL_BYTES_MAX).and_then(ClientFinal::parse).ok_or(REFUSED)?;
        if last.binding != &*exchange.binding || last.nonce != &*exchange.nonce {
            return Err(REFUSED);
        }
        let key = self.decoy_key()?;
        let decoy = self.users.decoy(&key, &exchange.name);
        // Looked up again: who was removed meanwhile is unknown, and of a new password this is no proof.
        let known = self.users.get(&exchange.name);
        let secret = known.unwrap_or(&decoy);
        let message: [&[u8]; 3] = [exchange.said.as_bytes(), b",", last.bare.as_bytes()];
        let client_key = Zeroizing::new(xor(&last.proof, &hmac(&secret.stored_key, &message)));
        let proven = hash(&client_key).ct_eq(&secret.stored_key);
        // No proof will do for who does not exist.
        if !bool::from(proven & Choice::from(u8::from(known.is_some()))) {
            return Err(REFUSED);
        }
        let data = format!("v={}", base64(&hmac(&secret.server_key, &message)));
        Ok(Answer::AllowWith { user_name: Some(exchange.name), data: data.into() })
    }

    fn decoy_key(&mut self) -> Result<Zeroizing<Key>, ReasonCode> {
        let key = match self.decoy_key {
            Some(key) => key,
            None => {
                let mut key = [0; 32];
                self.draw(&mut key)?;
                *self.decoy_key.insert(key)
            }
        };
        Ok(Zeroizing::new(key))
    }

    fn draw(&mut self, buffer: &mut [u8]) -> Result<(), ReasonCode> {
        (self.entropy)(buffer).map_err(|NoEntropy| ReasonCode::UnspecifiedError)
    }
}

impl Drop for Scram {
    fn drop(&mut self) {
        self.decoy_key.zeroize();
    }
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scram")
            .field("users", &self.users.len())
            .field("unfinished", &self.exchanges.len())
            .finish_non_exhaustive()
    }
}

fn within(data: &[u8], bytes_max: usize) -> Option<&[u8]> {
    (data.len() <= bytes_max).then_some(data)
}

/// All that anybody learns of why it failed.
const REFUSED: ReasonCode = ReasonCode::NotAuthorized;

/// The entropy of the server's nonce: a multiple of 3, for base64 without padding.
const NONCE_BYTES: usize = 18;
