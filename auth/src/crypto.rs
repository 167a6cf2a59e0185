//! The functions of RFC 5802, section 2.2, with SHA-256.

use alloc::string::String;
use base64ct::{Base64, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A key, a signature, a proof: all have the length of the hash.
pub(crate) type Key = [u8; 32];

/// `HMAC(key, parts)`.
pub(crate) fn hmac(key: &Key, parts: &[&[u8]]) -> Key {
    // RFC 2104 fills a shorter key with zeros up to the block of the hash; a whole block cannot have a wrong length.
    let mut block = Zeroizing::new([0; 64]);
    block[..key.len()].copy_from_slice(key);
    let mut hmac = Hmac::<Sha256>::new((&*block).into());
    parts.iter().for_each(|part| hmac.update(part));
    hmac.finalize().into_bytes().into()
}

/// `H(key)`.
pub(crate) fn hash(key: &Key) -> Key {
    Sha256::digest(key).into()
}

/// `a XOR b`.
pub(crate) fn xor(a: &Key, b: &Key) -> Key {
    core::array::from_fn(|i| a[i] ^ b[i])
}

/// ClientKey and ServerKey of a password; takes as long as there are iterations.
pub(crate) fn derive(password: &str, salt: &[u8], iterations: u32) -> (Zeroizing<Key>, Zeroizing<Key>) {
    let mut salted = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, &mut *salted);
    let derived = |what: &[u8]| Zeroizing::new(hmac(&salted, &[what]));
    (derived(b"Client Key"), derived(b"Server Key"))
}

/// Base64 with padding, as all of SCRAM writes bytes.
pub(crate) fn base64(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}

/// The key that this base64 says.
pub(crate) fn unbase64(text: &str) -> Option<Key> {
    let mut key = [0; 32];
    let length = Base64::decode(text, &mut key).ok()?.len();
    (length == key.len()).then_some(key)
}
