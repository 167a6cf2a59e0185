//! The messages of RFC 5802, section 7: borrowed from what was received, and `None` for whatever is not well-formed.

use crate::crypto::{Key, unbase64};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use base64ct::{Base64, Encoding};

/// `client-first-message`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst<'a> {
    /// `gs2-header`: what comes before `bare`.
    pub(crate) header: &'a str,
    /// Whom the client wants to act as, if it says so.
    pub(crate) acts_as: Option<Cow<'a, str>>,
    pub(crate) name: Cow<'a, str>,
    pub(crate) nonce: &'a str,
    /// `client-first-message-bare`: what is signed.
    pub(crate) bare: &'a str,
}

impl<'a> ClientFirst<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Option<Self> {
        let text = text(message)?;
        // `n`: no channel binding; `y`: the client thinks that the server has none, and is right. `p=` wants it.
        let rest = text.strip_prefix("n,").or_else(|| text.strip_prefix("y,"))?;
        let (acts_as, bare) = rest.split_once(',')?;
        let acts_as = match acts_as {
            "" => None,
            named => Some(unescape(named.strip_prefix("a=")?)?),
        };
        let header = &text[..text.len() - bare.len()];
        // An `m=` before the name would be an extension that must be understood.
        let (name, rest) = bare.strip_prefix("n=")?.split_once(',')?;
        let (nonce, more) = nonce(rest)?;
        extensions(more)?;
        Some(Self { header, acts_as, name: unescape(name)?, nonce, bare })
    }
}

/// `client-final-message`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFinal<'a> {
    /// The GS2 header in base64.
    pub(crate) binding: &'a str,
    pub(crate) nonce: &'a str,
    pub(crate) proof: Key,
    /// `client-final-message-without-proof`: what is signed.
    pub(crate) bare: &'a str,
}

impl<'a> ClientFinal<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Option<Self> {
        let (bare, proof) = text(message)?.rsplit_once(",p=")?;
        let (binding, rest) = bare.strip_prefix("c=")?.split_once(',')?;
        let (nonce, more) = nonce(rest)?;
        extensions(more)?;
        Some(Self { binding, nonce, proof: unbase64(proof)?, bare })
    }
}

/// `server-first-message`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServerFirst<'a> {
    pub(crate) nonce: &'a str,
    pub(crate) salt: Vec<u8>,
    pub(crate) iterations: u32,
}

impl<'a> ServerFirst<'a> {
    pub(crate) fn parse(message: &'a str) -> Option<Self> {
        let (nonce, more) = nonce(text(message.as_bytes())?)?;
        let mut parts = more?.splitn(3, ',');
        let salt = Base64::decode_vec(parts.next()?.strip_prefix("s=")?).ok()?;
        let iterations = parts.next()?.strip_prefix("i=")?;
        if iterations.starts_with(['0', '+']) {
            return None;
        }
        extensions(parts.next())?;
        Some(Self { nonce, salt, iterations: iterations.parse().ok()? })
    }
}

/// UTF-8 without NUL.
fn text(message: &[u8]) -> Option<&str> {
    core::str::from_utf8(message).ok().filter(|text| !text.contains('\0'))
}

/// `"r=" nonce`, and what comes behind the comma if there is one.
fn nonce(text: &str) -> Option<(&str, Option<&str>)> {
    let rest = text.strip_prefix("r=")?;
    let (nonce, more) = match rest.split_once(',') {
        Some((nonce, more)) => (nonce, Some(more)),
        None => (rest, None),
    };
    (!nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_graphic())).then_some((nonce, more))
}

/// Extensions nobody knows are passed over, unless one has to be understood.
fn extensions(text: Option<&str>) -> Option<()> {
    let well_formed = |extension: &str| matches!(extension.as_bytes(), [name, b'=', _, ..] if name.is_ascii_alphabetic() && *name != b'm');
    text.is_none_or(|text| text.split(',').all(well_formed)).then_some(())
}

/// `saslname`: a comma is written `=2C` and an equals sign `=3D`; there are no others.
fn unescape(name: &str) -> Option<Cow<'_, str>> {
    if name.is_empty() {
        return None;
    }
    let mut parts = name.split('=');
    let first = parts.next()?;
    if first.len() == name.len() {
        return Some(Cow::Borrowed(name));
    }
    let mut unescaped = String::from(first);
    for part in parts {
        let (character, rest) = match part.strip_prefix("2C") {
            Some(rest) => (',', rest),
            None => ('=', part.strip_prefix("3D")?),
        };
        unescaped.push(character);
        unescaped.push_str(rest);
    }
    Some(Cow::Owned(unescaped))
}

/// The reverse of [`unescape`].
pub(crate) fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}
